//! The managed search efforts: rows of `ruvector.search_effort`, copied into shared memory for the executor hook. The healer
//! does that; on a standby, where no process of ours runs, the sessions that search do it themselves.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::error::Error;
use crate::{collect, kept, shared};

/// How often a session on a standby looks for what the primary has set.
const LOOK_EVERY: Duration = Duration::from_secs(10);

thread_local! {
    /// When this session last did.
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

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

/// The greatest value that this setting has for a role or a database by ALTER ROLE or ALTER DATABASE; 0 without one.
pub(crate) fn greatest_default(setting: &str) -> Result<u32, Error> {
    let query = "SELECT max(split_part(c, '=', 2)::integer)
                   FROM pg_db_role_setting s, unnest(s.setconfig) c
                  WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
                    AND split_part(c, '=', 1) = $1 AND split_part(c, '=', 2) ~ '^[0-9]{1,9}$'";
    Ok(Spi::get_one_with_args::<i32>(query, &[setting.into()])?.map_or(0, |value| value.max(0) as u32))
}

/// Stores the effort of an index, or forgets it. Takes effect with the next [`load`] after the commit.
///
/// # Errors
/// Where it could not take effect, for lack of room.
pub(crate) fn store(collection: i32, index: u32, setting: &str, effort: Option<i32>) -> Result<(), Error> {
    let index = pg_sys::Oid::from(index);
    Spi::run_with_args("DELETE FROM ruvector.search_effort WHERE index_id = $1", &[index.into()])?;
    if let Some(effort) = effort {
        let stored: i64 = Spi::get_one("SELECT count(*) FROM ruvector.search_effort")?.unwrap_or(0);
        // SAFETY: no preconditions.
        if !shared::efforts_fit(unsafe { pg_sys::MyDatabaseId }.to_u32(), stored as usize + 1) {
            return Err(Error::refused("shared memory has no room for another managed search effort"));
        }
        Spi::run_with_args(
            "INSERT INTO ruvector.search_effort (index_id, table_id, index_name, collection_id, setting, effort, set_by)
             SELECT $1, x.indrelid, i.relname, $2, $3, $4, 'ruvector'
               FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indexrelid = $1",
            &[index.into(), collection.into(), setting.into(), effort.into()],
        )?;
    }
    Ok(())
}

/// PostgreSQL's own function without pgrx's guard, which would cost every statement more than the look: it raises nothing.
mod raw {
    unsafe extern "C-unwind" {
        pub(super) fn RecoveryInProgress() -> bool;
    }
}

/// Whether this server is a standby. Where it is none, a look at a variable of this process.
#[inline]
pub(crate) fn on_standby() -> bool {
    // SAFETY: no preconditions.
    unsafe { raw::RecoveryInProgress() }
}

/// On a standby: copies what the primary has set into shared memory, every [`LOOK_EVERY`] at most.
pub(crate) fn follow_primary() {
    if !on_standby() || LOOKED.get().is_some_and(|at| at.elapsed() < LOOK_EVERY) {
        return;
    }
    LOOKED.set(Some(Instant::now()));
    // SAFETY: within a query, so in a transaction.
    if let Some(efforts) = unsafe { replayed() } {
        // SAFETY: no preconditions.
        shared::update_efforts(unsafe { pg_sys::MyDatabaseId }.to_u32(), &efforts);
    }
}

/// The rows of the table as they are now, read as a catalog is: with nobody's rights, and without a query within the query. None
/// where somebody changes the table just now; nothing where it is not the extension's.
unsafe fn replayed() -> Option<Vec<(u32, i32)>> {
    let extension = pg_sys::get_extension_oid(c"ruvector".as_ptr(), true);
    let schema = pg_sys::get_namespace_oid(c"ruvector".as_ptr(), true);
    if extension == pg_sys::InvalidOid || schema == pg_sys::InvalidOid {
        return Some(vec![]);
    }
    let table = pg_sys::get_relname_relid(c"search_effort".as_ptr(), schema);
    if table == pg_sys::InvalidOid
        || pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table) != extension
    {
        return Some(vec![]);
    }
    let lock = pg_sys::AccessShareLock as i32;
    if !pg_sys::ConditionalLockRelationOid(table, lock) {
        return None;
    }
    let relation = pg_sys::try_table_open(table, pg_sys::NoLock as i32);
    if relation.is_null() {
        pg_sys::UnlockRelationOid(table, lock);
        return None;
    }
    let found = rows(relation, table);
    pg_sys::table_close(relation, lock);
    Some(found)
}

/// Index and effort of each row.
unsafe fn rows(relation: pg_sys::Relation, table: pg_sys::Oid) -> Vec<(u32, i32)> {
    let column = |name: &std::ffi::CStr, kind: pg_sys::Oid| {
        let number = pg_sys::get_attnum(table, name.as_ptr());
        (number > 0 && pg_sys::get_atttype(table, number) == kind).then_some(number as usize - 1)
    };
    let columns = (column(c"index_id", pg_sys::OIDOID), column(c"effort", pg_sys::INT4OID));
    let (Some(index), Some(effort)) = columns else { return vec![] };
    if (*(*relation).rd_rel).relam != pg_sys::HEAP_TABLE_AM_OID {
        return vec![];
    }
    let shape = (*relation).rd_att;
    let mut values = vec![pg_sys::Datum::null(); (*shape).natts as usize];
    let mut nulls = vec![false; values.len()];
    let mut found = vec![];
    let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
    loop {
        let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
        if tuple.is_null() {
            break;
        }
        pg_sys::heap_deform_tuple(tuple, shape, values.as_mut_ptr(), nulls.as_mut_ptr());
        if !nulls[index] && !nulls[effort] {
            found.push((values[index].value() as u32, values[effort].value() as i32));
        }
    }
    if let Some(end) = (*(*relation).rd_tableam).scan_end {
        end(scan);
    }
    found
}
