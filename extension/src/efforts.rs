//! The managed search efforts: rows of `ruvector.search_effort`, copied into shared memory for the executor hook.

use pgrx::prelude::*;

use crate::error::Error;
use crate::{collect, kept, shared};

/// Copies the efforts of this database into shared memory.
pub(crate) fn load() -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Row {
        index: u32,
        effort: i32,
    }
    follow()?;
    let rows: Vec<Row> = collect::documents(
        "SELECT jsonb_build_object('index', e.index_id::bigint, 'effort', e.effort)
           FROM ruvector.search_effort e JOIN pg_class i ON i.oid = e.index_id",
        &[],
    )?;
    let efforts: Vec<(u32, i32)> = rows.iter().map(|row| (row.index, row.effort)).collect();
    // SAFETY: no preconditions.
    let left_out = shared::set_efforts(unsafe { pg_sys::MyDatabaseId }.to_u32(), &efforts);
    if left_out > 0 {
        pgrx::warning!("ruvector: {left_out} managed search efforts do not fit into shared memory");
    }
    Ok(())
}

/// An effort is meant for the index of a name. `REINDEX CONCURRENTLY` puts another in its place, and the former, if it is
/// still there, is not valid any more.
fn follow() -> Result<(), Error> {
    kept::change(
        "UPDATE ruvector.search_effort e SET index_id = i.oid
           FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_am m ON m.oid = i.relam
          WHERE x.indrelid = e.table_id AND i.relname = e.index_name AND x.indisvalid
            AND split_part(e.setting, '.', 1) = m.amname
            AND NOT EXISTS (SELECT FROM pg_index o WHERE o.indexrelid = e.index_id AND o.indisvalid)
            AND NOT EXISTS (SELECT FROM ruvector.search_effort f WHERE f.index_id = i.oid)",
        &[],
    )?;
    kept::change(
        "UPDATE ruvector.search_effort e SET index_name = i.relname
           FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid
          WHERE i.oid = e.index_id AND x.indisvalid AND i.relname <> e.index_name",
        &[],
    )
}

/// The managed effort of an index as stored.
pub(crate) fn stored(index: u32) -> Result<Option<i32>, Error> {
    let query = "SELECT (SELECT e.effort FROM ruvector.search_effort e WHERE e.index_id = $1)";
    Ok(Spi::get_one_with_args(query, &[pg_sys::Oid::from(index).into()])?)
}

/// Stores the effort of an index, or forgets it. Takes effect with the next [`load`] after the commit.
pub(crate) fn store(collection: i32, index: u32, setting: &str, effort: Option<i32>) -> Result<(), Error> {
    let index = pg_sys::Oid::from(index);
    Spi::run_with_args("DELETE FROM ruvector.search_effort WHERE index_id = $1", &[index.into()])?;
    if let Some(effort) = effort {
        Spi::run_with_args(
            "INSERT INTO ruvector.search_effort (index_id, table_id, index_name, collection_id, setting, effort, set_by)
             SELECT $1, x.indrelid, i.relname, $2, $3, $4, 'ruvector'
               FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indexrelid = $1",
            &[index.into(), collection.into(), setting.into(), effort.into()],
        )?;
    }
    Ok(())
}
