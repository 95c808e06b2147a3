//! Building, exchanging and dropping indexes.

use std::ffi::{CStr, CString};

use healing::build_memory::{BUILD_MARGIN, build_memory};
use healing::hnsw::graph_bytes;
use healing::ivf::kmeans_bytes;
use healing::plan::{BuildOptions, IndexRef};
use healing::snapshot::{Method, Oid};
use pgrx::prelude::*;
use serde_json::{Value, json};

use super::lookup::{self, Found};
use super::toplevel;
use crate::background::process;
use crate::collect;
use crate::error::Error;
use crate::owner::{as_role, owner_of, within};
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

/// Creates an index concurrently from a definition, under another name and with other options if they are given.
pub(super) fn create(definition: &str, name: Option<&str>, changed: BuildOptions) -> Result<(), Error> {
    let name = name.map(CString::new).transpose().map_err(|_| Error::refused("a name with a zero byte"))?;
    let source = CString::new(definition).map_err(|_| Error::refused("a definition with a zero byte"))?;
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
            for (option, value) in changed.set() {
                let name = CString::new(option).unwrap_or_default();
                let value = pg_sys::makeInteger(value as i32).cast::<pg_sys::Node>();
                let mut options = pgrx::PgList::<pg_sys::DefElem>::from_pg((*index).options);
                let present = options
                    .iter_ptr()
                    .find(|option| std::ffi::CStr::from_ptr((**option).defname) == name.as_c_str());
                match present {
                    Some(option) => (*option).arg = value,
                    None => options.push(pg_sys::makeDefElem(pg_sys::pstrdup(name.as_ptr()), value, -1)),
                }
                (*index).options = options.into_pg();
            }
            analyzed_as_owner(index, &source)
        }
    })
}

/// Analyzes a CREATE INDEX as the table's owner. PostgreSQL does so before it switches to the owner, as whoever gives the command;
/// a constant of the definition may be of a type whose checks are the owner's code, and run by being read.
///
/// # Safety
/// In a transaction, with a tree that it may change.
unsafe fn analyzed_as_owner(index: *mut pg_sys::IndexStmt, source: &CStr) -> Result<(), Error> {
    let lock = pg_sys::ShareUpdateExclusiveLock as i32;
    let table = pg_sys::RangeVarGetRelidExtended((*index).relation, lock, 0, None, std::ptr::null_mut());
    // What is run here needs a snapshot, which the command has later than this.
    pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    let owner = owner_of(table).ok_or_else(|| Error::refused("the table is gone"))?;
    // It marks the tree, and is not done again (`transformIndexStmt`, utility.c).
    as_role(owner, || {
        // An ERROR becomes a panic, as with PostgreSQL's functions that have a binding.
        pg_sys::ffi::pg_guard_ffi_boundary(|| raw::transformIndexStmt(table, index, source.as_ptr()))
    });
    pg_sys::PopActiveSnapshot();
    Ok(())
}

mod raw {
    use pgrx::pg_sys::{IndexStmt, Oid};

    unsafe extern "C-unwind" {
        /// parse_utilcmd.h; no binding is made of that header.
        pub(super) fn transformIndexStmt(
            table: Oid,
            statement: *mut IndexStmt,
            source: *const std::ffi::c_char,
        ) -> *mut IndexStmt;
    }
}

/// What a build works on, for the memory that it needs.
pub(super) struct Work {
    pub(super) method: Method,
    /// `lists` of an ivfflat, `m` of an hnsw index that is built.
    pub(super) lists: u32,
    pub(super) m: u32,
    /// Rows that the index covers.
    pub(super) rows: f64,
    /// Bytes of one value as stored.
    pub(super) value_bytes: f64,
}

/// Gives this process the memory that building needs as `maintenance_work_mem`: the server's own setting, or more where
/// the build needs more, within what is free.
///
/// # Errors
/// When k-means needs more than that: pgvector would refuse to build. An hnsw graph that does not fit is built all the
/// same, only slower.
pub(super) fn provide_memory(work: &Work) -> Result<(), Error> {
    let (set, parallel_in_posix_memory) = transaction(|| {
        Ok((
            Spi::get_one::<i64>(
                "SELECT reset_val::bigint * 1024 FROM pg_settings WHERE name = 'maintenance_work_mem'",
            )?
            .unwrap_or(0) as f64,
            Spi::get_one::<bool>(
                "SELECT current_setting('max_parallel_maintenance_workers')::integer > 0
                        AND current_setting('dynamic_shared_memory_type') = 'posix'",
            )? == Some(true),
        ))
    })?;
    let mut free = collect::memory_free_bytes().map(|bytes| bytes as f64);
    let needed = BUILD_MARGIN
        * match work.method {
            Method::Ivfflat => kmeans_bytes(work.lists, work.rows, work.value_bytes),
            Method::Hnsw => graph_bytes(work.rows, work.value_bytes, work.m),
        };
    // A parallel build of hnsw has its whole graph in shared memory, which it asks for at once (`HnswBeginParallel`).
    if work.method == Method::Hnsw && parallel_in_posix_memory {
        let shared = rustix::fs::statvfs("/dev/shm").ok();
        let left = shared.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) as f64);
        free = [free, left].into_iter().flatten().reduce(f64::min);
    }
    let given = build_memory(needed, set, free);
    if work.method == Method::Ivfflat && needed > given {
        return Err(Error::refused(format!(
            "building {} lists needs {:.0} MB of memory, and {:.0} MB may be used",
            work.lists,
            needed / MIB,
            given / MIB
        )));
    }
    let value = CString::new(format!("{:.0}", (given / 1024.0).ceil())).unwrap_or_default();
    // SAFETY: both strings live across the call, which copies them; this process builds and ends. Also where it is the server's
    // own: the build before may have had more.
    unsafe {
        pg_sys::SetConfigOption(
            c"maintenance_work_mem".as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
    Ok(())
}

const MIB: f64 = (1 << 20) as f64;

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

/// Longest wait of a drop for those who use the table by then, seconds. A shorter one would never end where there is always a
/// query that takes longer; a session that waits for us meanwhile has it cancelled.
const DROP_MAX_S: f64 = 20.0;

/// Drops an index concurrently, if it still is what it was when it was found, and what is kept of it. One that is gone
/// is no error. `look`: what else must hold, asked once nobody can change it any more. Waits for transactions that have used the
/// table, as everybody's drop does.
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
        let dropped =
            within(Some(DROP_MAX_S), || toplevel::run(&drop_statement(index), 0, toplevel::unchanged));
        dropped.map_err(|error| match error {
            Error::TooLong { limit_s, .. } => Error::lock_not_available(format!(
                "transactions use its table for longer than {limit_s:.0} s"
            )),
            other => other,
        })
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
/// When no valid index took its place: neither the one that was built, whatever it is called by now, nor one like it that somebody
/// rebuilt since.
pub(super) fn loser(of: &IndexRef, built: Option<Oid>) -> Result<Option<Found>, Error> {
    let Some(old) = lookup::hidden(of, built)? else {
        return match lookup::itself(of)? {
            None => Ok(None),
            Some(_) => Err(Error::refused(format!("{} was not replaced: it is not dropped", of.name))),
        };
    };
    let takes_its_place = |winner: &Found| winner.valid && winner.oid != old.oid && winner.table == old.table;
    let itself = built.map(lookup::by_oid).transpose()?.flatten().filter(takes_its_place);
    let replaced = match (itself, lookup::bearing_its_name(of)?.filter(takes_its_place)) {
        (Some(_), _) => true,
        (None, Some(winner)) => lookup::alike(&winner, &old)?,
        (None, None) => false,
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

/// The values of these options that an index was given, null where none was, as the journal keeps them.
pub(super) fn options_set(index: Oid, changed: BuildOptions) -> Result<Value, Error> {
    let mut set = serde_json::Map::new();
    for (option, _) in changed.set() {
        let value = Spi::get_one_with_args::<i32>(
            "SELECT (SELECT split_part(o, '=', 2)::integer FROM pg_class i, unnest(i.reloptions) o
                      WHERE i.oid = $1 AND split_part(o, '=', 1) = $2)",
            &[pg_sys::Oid::from(index).into(), option.into()],
        )?;
        set.insert(option.to_owned(), json!(value));
    }
    Ok(Value::Object(set))
}

/// Gives an index other options; they count from its next build.
pub(super) fn set_options(index: &str, options: BuildOptions) -> Result<(), Error> {
    set_options_sql(index, options).map_or(Ok(()), |sql| Ok(Spi::run(&sql)?))
}

/// The statement that gives an index other options; None where none are given.
pub(super) fn set_options_sql(index: &str, options: BuildOptions) -> Option<String> {
    let options = options.to_string();
    (!options.is_empty()).then(|| format!("ALTER INDEX {index} SET ({options})"))
}

/// Gives an index the options again that [`options_set`] noted, pgvector's own where none was given.
pub(super) fn reset_options(index: &str, former: &Value) -> Result<(), Error> {
    let noted = |option: &str| former.get(option).map(|value| value.as_u64().map(|value| value as u32));
    for option in ["lists", "m", "ef_construction"] {
        match noted(option) {
            Some(Some(value)) => Spi::run(&format!("ALTER INDEX {index} SET ({option} = {value})"))?,
            Some(None) => Spi::run(&format!("ALTER INDEX {index} RESET ({option})"))?,
            None => {}
        }
    }
    Ok(())
}

/// What the journal keeps of an index.
pub(super) fn described(index: &Found) -> Value {
    json!({ "oid": index.oid, "relfilenode": index.relfilenode, "name": index.name, "bytes": index.bytes })
}
