//! Builds that were seen: bytes and rows of an index right after its build are the yardstick for its size later on.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use healing::clean_size::BUILD_ROWS_MIN;
use healing::snapshot::Oid;

use super::{Collection, IndexRow, tables};
use crate::error::Error;
use crate::kept;

/// A collection at the sample before.
struct Seen {
    /// Its leaf tables: the index of a table that has only now come may be old.
    tables: HashSet<Oid>,
    /// Greatest file number of its indexes. A former index that comes back has a smaller one than that which it replaces.
    newest: Oid,
}

thread_local! {
    static SEEN: RefCell<HashMap<i32, Seen>> = RefCell::default();
}

/// Keeps the size of indexes that were built since the sample before. Must run in a transaction.
pub(crate) fn note(collection: &Collection, rows: &[IndexRow]) -> Result<(), Error> {
    let tables: HashSet<Oid> =
        tables::of(collection)?.leaves().into_iter().map(|table| table.to_u32()).collect();
    // A build under way already has its file: it counts at the sample after its end.
    let built = rows.iter().filter(|row| row.valid && !row.building).map(|row| row.relfilenode);
    let newest = built.max().unwrap_or(0);
    let before = SEEN.with_borrow_mut(|seen| seen.insert(collection.id, Seen { tables, newest }));
    let Some(before) = before else { return Ok(()) };
    for row in rows {
        let is_new = row.valid
            && !row.building
            && row.built.is_none()
            && row.relfilenode > before.newest
            && before.tables.contains(&row.table);
        if is_new && !row.rows_in_flight && row.rows >= BUILD_ROWS_MIN {
            kept::change(
                "INSERT INTO ruvector.index_builds AS b (index_id, relfilenode, collection_id, bytes, rows)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (index_id) DO UPDATE SET (relfilenode, collection_id, bytes, rows, seen_at)
                     = (EXCLUDED.relfilenode, EXCLUDED.collection_id, EXCLUDED.bytes, EXCLUDED.rows, EXCLUDED.seen_at)",
                &[
                    pgrx::pg_sys::Oid::from(row.oid).into(),
                    pgrx::pg_sys::Oid::from(row.relfilenode).into(),
                    collection.id.into(),
                    (row.bytes as i64).into(),
                    row.rows.into(),
                ],
            )?;
        }
    }
    Ok(())
}
