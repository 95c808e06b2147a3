//! Building, exchanging and dropping indexes.

use std::ffi::CString;

use healing::ivf::{BUILD_MEMORY_BYTES, kmeans_bytes};
use healing::plan::IndexRef;
use healing::snapshot::{Method, Oid};
use pgrx::prelude::*;
use serde_json::{Value, json};

use super::lookup::{self, Found};
use super::toplevel;
use crate::background::process;
use crate::collect;
use crate::error::Error;
use crate::transaction::{look_again, transaction};

/// The definition as `CREATE INDEX` with tablespace and options (`pg_get_indexdef_string`). Must run in a transaction.
pub(super) fn definition(index: Oid) -> Result<String, Error> {
    // SAFETY: raises when there is no such index; the result is a palloc'ed string.
    let text = unsafe {
        let text = pg_sys::pg_get_indexdef_string(index.into());
        std::ffi::CStr::from_ptr(text).to_str().map(str::to_owned)
    };
    text.map_err(|_| Error::refused("the index's definition is not UTF-8"))
}

/// Creates an index concurrently from a definition, under another name and with other `lists` if they are given.
pub(super) fn create(definition: &str, name: Option<&str>, lists: Option<u32>) -> Result<(), Error> {
    let name = name.map(CString::new).transpose().map_err(|_| Error::refused("a name with a zero byte"))?;
    // The action's own time limit ends it.
    toplevel::run(definition, 0, |statement| {
        // SAFETY: a parse tree in the caller's context; what is added is allocated beside it.
        unsafe {
            if (*statement).type_ != pg_sys::NodeTag::T_IndexStmt {
                return Err(Error::refused("the definition is no CREATE INDEX"));
            }
            let index = statement.cast::<pg_sys::IndexStmt>();
            (*index).concurrent = true;
            if let Some(name) = &name {
                (*index).idxname = pg_sys::pstrdup(name.as_ptr());
            }
            if let Some(lists) = lists {
                let value = pg_sys::makeInteger(lists as i32).cast::<pg_sys::Node>();
                let mut options = pgrx::PgList::<pg_sys::DefElem>::from_pg((*index).options);
                let present = options
                    .iter_ptr()
                    .find(|option| std::ffi::CStr::from_ptr((**option).defname) == c"lists");
                match present {
                    Some(option) => (*option).arg = value,
                    None => options.push(pg_sys::makeDefElem(pg_sys::pstrdup(c"lists".as_ptr()), value, -1)),
                }
                (*index).options = options.into_pg();
            }
        }
        Ok(())
    })
}

/// Gives this process the memory that building needs. The setting is the server's own, or more if k-means would be
/// refused with it; never more than a share of the memory that is free.
///
/// `rows` that the index covers, `value_bytes` of one value as stored.
///
/// # Errors
/// When it needs more than there is.
pub(super) fn provide_memory(lists: u32, rows: f64, value_bytes: f64) -> Result<(), Error> {
    let set_kb = transaction(|| {
        Ok(Spi::get_one::<i64>(
            "SELECT setting::bigint FROM pg_settings WHERE name = 'maintenance_work_mem'",
        )?
        .unwrap_or(0))
    })?;
    let needed_kb =
        (BUILD_MARGIN * kmeans_bytes(lists, rows, value_bytes) / 1024.0).min(MEMORY_MAX_KB).ceil();
    if needed_kb > set_kb as f64 {
        let free_kb = crate::collect::memory_free_bytes().map(|bytes| bytes as f64 / 1024.0);
        if let Some(free_kb) = free_kb.filter(|free_kb| needed_kb > MEMORY_SHARE_MAX * free_kb) {
            return Err(Error::refused(format!(
                "building {lists} lists needs {:.0} MB of memory, and {:.0} MB are free",
                needed_kb / 1024.0,
                free_kb / 1024.0
            )));
        }
        let value = CString::new(format!("{needed_kb:.0}")).unwrap_or_default();
        // SAFETY: both strings live across the call, which copies them; this process builds and ends.
        unsafe {
            pg_sys::SetConfigOption(
                c"maintenance_work_mem".as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
    }
    Ok(())
}

/// Most that a build gets beyond the server's own setting.
const MEMORY_MAX_KB: f64 = (BUILD_MEMORY_BYTES / 1024) as f64;
/// Most that a build may take of the memory that is free.
const MEMORY_SHARE_MAX: f64 = 0.5;
/// The rows may be more by the time they are sampled.
const BUILD_MARGIN: f64 = 1.1;

/// Gives the new index what `CREATE INDEX` did not copy: comment, statistics targets, dependencies on extensions. Must
/// run in a transaction.
pub(super) fn copy_properties(from: &Found, to: &Found) -> Result<(), Error> {
    let statements: Vec<String> = collect::documents(
        "SELECT to_jsonb(s.statement) FROM (
            SELECT format('COMMENT ON INDEX %s IS %L', $2, obj_description($1, 'pg_class')) AS statement
             WHERE obj_description($1, 'pg_class') IS NOT NULL
            UNION ALL
            SELECT format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', $2, a.attnum, a.attstattarget)
              FROM pg_attribute a WHERE a.attrelid = $1 AND a.attstattarget >= 0
            UNION ALL
            SELECT format('ALTER INDEX %s DEPENDS ON EXTENSION %I', $2, e.extname)
              FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
             WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.deptype = 'x') s",
        &[pg_sys::Oid::from(from.oid).into(), to.name.as_str().into()],
    )?;
    statements.iter().try_for_each(|statement| Ok(Spi::run(statement)?))
}

/// Exchanges the names of two indexes of one table; the statements that did. Must run in a transaction: others see both or neither.
pub(super) fn exchange_names(a: &Found, b: &Found, table: Oid) -> Result<String, Error> {
    // Hidden like a trial, and free: it names both.
    let between = format!("{}{}_{}", crate::hooks::TRIAL_PREFIX, a.oid, b.oid);
    let statements = [
        rename(&a.name, &between)?,
        rename(&b.name, &a.relation_name)?,
        rename(&format!("{}.{between}", quoted(&a.schema)?), &b.relation_name)?,
    ];
    plan_anew(table);
    Ok(statements.join("; "))
}

/// Renames an index, given by its qualified name, and returns the statement. Takes no lock that readers or writers wait for.
pub(super) fn rename(index: &str, name: &str) -> Result<String, Error> {
    let statement = format!("ALTER INDEX {index} RENAME TO {}", quoted(name)?);
    Spi::run(&statement)?;
    Ok(statement)
}

/// Cached plans on the table are made again: renaming an index alone leaves them as they are.
pub(super) fn plan_anew(table: Oid) {
    // SAFETY: an ERROR when there is no such relation, which the transaction bears.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table.into()) }
}

fn quoted(name: &str) -> Result<String, Error> {
    Spi::get_one_with_args::<String>("SELECT quote_ident($1)", &[name.into()])?
        .ok_or_else(|| Error::refused("a name is missing"))
}

/// Drops an index concurrently, if it still is what it was when it was found, and what is kept of it. One that is gone
/// is no error. `look`: what else must hold, asked once nobody can change it any more.
pub(super) fn drop_concurrently(
    index: &Found,
    lock_timeout_ms: i64,
    look: impl Fn() -> Result<(), Error>,
) -> Result<(), Error> {
    let still = || {
        let Some(now) = lookup::by_oid(index.oid)? else { return Ok(false) };
        if now.name != index.name {
            return Err(Error::refused(format!("{} was renamed to {}", index.name, now.name)));
        }
        if now.valid && !index.valid {
            return Err(Error::refused(format!("{} is valid by now: it is not dropped", index.name)));
        }
        look().map(|()| true)
    };
    while_locked(&[index.table, index.oid], lock_timeout_ms, still, || {
        toplevel::run(&drop_statement(index), lock_timeout_ms, toplevel::unchanged)
    })?;
    transaction(|| forget(index.oid))
}

/// The statement that drops an index without a lock that others wait for.
pub(super) fn drop_statement(index: &Found) -> String {
    format!("DROP INDEX CONCURRENTLY {}", index.name)
}

/// Forgets what is kept of an index. Must run in a transaction.
pub(super) fn forget(index: Oid) -> Result<(), Error> {
    let oid = pg_sys::Oid::from(index);
    Spi::run_with_args("DELETE FROM ruvector.search_effort WHERE index_id = $1", &[oid.into()])?;
    Ok(Spi::run_with_args("DELETE FROM ruvector.readings WHERE index_id = $1", &[oid.into()])?)
}

/// Runs commands on relations by their names while nobody can rename, rebuild or drop them, after a look at what they are
/// then; nothing is run when that says no. Tables come before their indexes, as everybody else locks them. `work` must
/// end every transaction that it begins, by an abort if it fails.
pub(super) fn while_locked(
    relations: &[Oid],
    lock_timeout_ms: i64,
    look: impl Fn() -> Result<bool, Error>,
    work: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    // SAFETY: locks of this session, which an abort releases with all others of their kind (`ProcReleaseLocks`).
    let id = |relation: &Oid| pg_sys::LockRelId {
        relId: (*relation).into(),
        dbId: unsafe { pg_sys::MyDatabaseId },
    };
    let mode = pg_sys::ShareUpdateExclusiveLock as i32;
    let former = process::set_lock_timeout(lock_timeout_ms);
    let there = transaction(|| {
        for relation in relations {
            unsafe { pg_sys::LockRelationIdForSession(&mut id(relation), mode) }
        }
        look_again();
        look()
    });
    process::set_lock_timeout(former);
    let there = there?;
    if there {
        work()?;
    }
    for relation in relations.iter().rev() {
        unsafe { pg_sys::UnlockRelationIdForSession(&mut id(relation), mode) }
    }
    Ok(())
}

/// Locks indexes against renaming, rebuilding and dropping until the present transaction ends, which then sees them as
/// they are.
pub(super) fn lock(indexes: &[Oid]) {
    let mut sorted = indexes.to_vec();
    sorted.sort_unstable();
    for index in sorted {
        // SAFETY: a lock on an OID that is gone by now does no harm.
        unsafe { pg_sys::LockRelationOid(index.into(), pg_sys::ShareUpdateExclusiveLock as i32) }
    }
    look_again();
}

/// Parallel builds of hnsw overflow a buffer before pgvector 0.8.2 (its change log, CVE-2026-3172).
pub(super) fn avoid_parallel_hnsw_build(of: &IndexRef) -> Result<(), Error> {
    let safe = transaction(|| {
        Ok(Spi::get_one::<bool>(
            "SELECT string_to_array(substring(extversion from '^[0-9.]+'), '.')::integer[] >= ARRAY[0, 8, 2]
               FROM pg_extension WHERE extname = 'vector'",
        )?)
    })?;
    if of.method == Method::Hnsw && safe != Some(true) {
        // SAFETY: both strings are constants; this process builds and ends.
        unsafe {
            pg_sys::SetConfigOption(
                c"max_parallel_maintenance_workers".as_ptr(),
                c"0".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
    }
    Ok(())
}

/// The loser of a comparison after the swap, if it is still there. `built`: the index that was to take its place.
///
/// # Errors
/// When no valid index took its place: neither the one that was built, nor one like it that somebody rebuilt since.
pub(super) fn loser(of: &IndexRef, built: Option<Oid>) -> Result<Option<Found>, Error> {
    let Some(old) = lookup::hidden(of, built)? else {
        return match lookup::itself(of)? {
            None => Ok(None),
            Some(_) => Err(Error::refused(format!("{} was not replaced: it is not dropped", of.name))),
        };
    };
    let winner = lookup::bearing_its_name(of)?.filter(|winner| winner.valid && winner.oid != old.oid);
    let replaced = match (&winner, built) {
        (Some(winner), Some(built)) => winner.oid == built || lookup::alike(winner, &old)?,
        (Some(winner), None) => lookup::alike(winner, &old)?,
        (None, _) => false,
    };
    if replaced {
        Ok(Some(old))
    } else {
        Err(Error::refused(format!(
            "{} was not replaced by a valid index like it: it is not dropped",
            of.name
        )))
    }
}

/// The `lists` that an index was given, as the journal keeps them.
pub(super) fn lists_set(index: Oid) -> Result<Value, Error> {
    let set = Spi::get_one_with_args::<i32>(
        "SELECT (SELECT split_part(o, '=', 2)::integer FROM pg_class i, unnest(i.reloptions) o
                  WHERE i.oid = $1 AND o LIKE 'lists=%')",
        &[pg_sys::Oid::from(index).into()],
    )?;
    Ok(json!({ "set": set }))
}

/// Gives an index other `lists`, or pgvector's own number. They count from its next build.
pub(super) fn set_lists(index: &str, lists: Option<u32>) -> Result<(), Error> {
    let change = match lists {
        Some(lists) => format!("SET (lists = {lists})"),
        None => "RESET (lists)".to_owned(),
    };
    Ok(Spi::run(&format!("ALTER INDEX {index} {change}"))?)
}

/// What the journal keeps of an index.
pub(super) fn described(index: &Found) -> Value {
    json!({ "oid": index.oid, "relfilenode": index.relfilenode, "name": index.name, "bytes": index.bytes })
}
