//! DROP EXTENSION gives back what leases hold: what does not end with shared memory or a process (jobs of pg_cron) is put
//! back in the same transaction. So does what takes the extension along: dropping pgvector or PL/pgSQL, DROP SCHEMA of the schema
//! that pgvector or the extension is in, DROP OWNED of the owner of any of these. Whoever gives the command needs no right to do
//! so: it is put back as the owner of what puts it back. If the command is refused after all, its transaction takes this back too.
//! What cannot be put back is named, and keeps nobody from dropping what is theirs; moves to another server that are not at their
//! end do: their rows would be lost.

use std::ffi::{CStr, CString, c_char};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::transaction::subtransaction;
use crate::{background, owner};

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

pub(super) fn init() {
    // SAFETY: in the postmaster, before any session exists.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

/// Without pgrx's guard: an ERROR of the command passes the hook as it is.
mod raw {
    use pgrx::pg_sys::*;

    unsafe extern "C-unwind" {
        pub(super) fn standard_ProcessUtility(
            statement: *mut PlannedStmt,
            query: *const std::ffi::c_char,
            read_only_tree: bool,
            context: ProcessUtilityContext::Type,
            params: ParamListInfo,
            environment: *mut QueryEnvironment,
            destination: *mut DestReceiver,
            completion: *mut QueryCompletion,
        );
    }
}

#[allow(clippy::too_many_arguments)] // the signature is PostgreSQL's
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    if !(*statement).utilityStmt.is_null() {
        give_back_before((*statement).utilityStmt);
    }
    match PREVIOUS {
        Some(previous) => {
            previous(statement, query, read_only_tree, context, params, environment, destination, completion);
        }
        None => raw::standard_ProcessUtility(
            statement,
            query,
            read_only_tree,
            context,
            params,
            environment,
            destination,
            completion,
        ),
    }
}

/// A schema that takes the extension along, and the owners of what is in it and of itself.
struct Home {
    schema: CString,
    owners: [pg_sys::Oid; 2],
}

/// Where the extension and pgvector are; none where the extension is not in this database.
fn ours() -> Vec<Home> {
    // SAFETY: in a transaction, as every utility command that drops something.
    let there = unsafe { pg_sys::get_extension_oid(c"ruvector".as_ptr(), true) } != pg_sys::InvalidOid;
    if !there {
        return vec![];
    }
    // In the session of whoever drops it, whose search_path may hold anything: nothing of it is looked up.
    let query = "SELECT n.nspname::pg_catalog.text, e.extowner, n.nspowner
           FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
          WHERE e.extname OPERATOR(pg_catalog.=) 'ruvector'::pg_catalog.name OR e.extname OPERATOR(pg_catalog.=) 'vector'::pg_catalog.name";
    let found = Spi::connect(|client| {
        let mut found = vec![];
        for row in client.select(query, None, &[])? {
            let owners = (row.get::<pg_sys::Oid>(2)?, row.get::<pg_sys::Oid>(3)?);
            if let (Some(schema), (Some(of_it), Some(of_schema))) = (row.get::<String>(1)?, owners) {
                let owners = [of_it, of_schema];
                found.extend(CString::new(schema).ok().map(|schema| Home { schema, owners }));
            }
        }
        Ok::<_, pgrx::spi::Error>(found)
    });
    found.unwrap_or_default()
}

/// Whose function of ours this is, by its name. None where there is no such: the first version has fewer, and another extension may
/// bear our name.
fn owner_of(function: &str) -> Option<pg_sys::Oid> {
    // By its name alone: who may not use its schema has to find it too.
    Spi::get_one_with_args::<pg_sys::Oid>(
        "SELECT p.proowner
           FROM pg_catalog.pg_proc p
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
           JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) p.oid
                AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
                AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\"
           JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
          WHERE e.extname OPERATOR(pg_catalog.=) 'ruvector'::pg_catalog.name
            AND n.nspname OPERATOR(pg_catalog.=) 'ruvector'::pg_catalog.name
            AND p.proname::pg_catalog.text OPERATOR(pg_catalog.=) $1",
        &[function.into()],
    )
    .ok()
    .flatten()
}

/// Jobs that nobody makes active again once the extension is gone.
const LEFT: &str = "SELECT string_agg(format('%s (%s)', l.subject, l.effect ->> 'name'), ', ' ORDER BY l.id)
                      FROM ruvector.leases l
                     WHERE l.kind = 'cron_job' AND l.ended_at IS NULL AND (l.restore ->> 'active')::boolean";

/// Whether a list of names has this one.
unsafe fn has(names: *mut pg_sys::List, wanted: &CStr) -> bool {
    !names.is_null()
        && (0..(*names).length).any(|at| {
            let name = (*(*names).elements.add(at as usize)).ptr_value.cast::<pg_sys::String>();
            CStr::from_ptr((*name).sval) == wanted
        })
}

unsafe fn drops_us(statement: *mut pg_sys::Node) -> bool {
    match (*statement).type_ {
        pg_sys::NodeTag::T_DropStmt => {
            let drop = statement.cast::<pg_sys::DropStmt>();
            let cascades = (*drop).behavior == pg_sys::DropBehavior::DROP_CASCADE;
            match (*drop).removeType {
                pg_sys::ObjectType::OBJECT_EXTENSION => {
                    let takes_along =
                        || [c"vector", c"plpgsql"].iter().any(|name| has((*drop).objects, name));
                    (has((*drop).objects, c"ruvector") || cascades && takes_along()) && !ours().is_empty()
                }
                pg_sys::ObjectType::OBJECT_SCHEMA => {
                    cascades && ours().iter().any(|home| has((*drop).objects, &home.schema))
                }
                _ => false,
            }
        }
        pg_sys::NodeTag::T_DropOwnedStmt => {
            let roles = (*statement.cast::<pg_sys::DropOwnedStmt>()).roles;
            let owners: Vec<pg_sys::Oid> = ours().into_iter().flat_map(|home| home.owners).collect();
            !roles.is_null()
                && (0..(*roles).length).any(|at| {
                    let role = (*(*roles).elements.add(at as usize)).ptr_value.cast::<pg_sys::RoleSpec>();
                    // One that is not there is the command's to refuse.
                    owners.contains(&pg_sys::get_rolespec_oid(role, true))
                })
        }
        _ => false,
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn give_back_before(statement: *mut pg_sys::Node) {
    // Where nothing can be dropped nothing is given back.
    if !matches!((*statement).type_, pg_sys::NodeTag::T_DropStmt | pg_sys::NodeTag::T_DropOwnedStmt)
        || pg_sys::RecoveryInProgress()
        || pg_sys::XactReadOnly
        || !drops_us(statement)
    {
        return;
    }
    // Rows would be nowhere without what is noted of them.
    if let Some(owner) = owner_of("_no_open_batches")
        && let Err(error) = owner::restricted(owner, || Spi::run("SELECT ruvector._no_open_batches(NULL)"))
    {
        pgrx::error!("ruvector: whether rows are on their way to another server could not be read: {error}");
    }
    background::wake_healer_at_commit();
    let Some(giver) = owner_of("_release_all") else { return };
    let release = "SELECT ruvector._release_all()";
    let released = subtransaction(|| Ok(owner::restricted(giver, || Spi::run(release))?));
    let Err(error) = released else { return };
    // What else leases hold ends with the extension.
    match subtransaction(|| Ok(owner::restricted(giver, || Spi::get_one::<String>(LEFT))?)) {
        Ok(None) => {}
        Ok(Some(jobs)) => ErrorReport::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("ruvector: jobs of pg_cron that were paused stay inactive, {jobs}: {error}"),
            pgrx::function_name!(),
        )
        .set_hint("SELECT cron.alter_job(<number>, active := true) makes one active again.".to_owned())
        .report(PgLogLevel::WARNING),
        Err(_) => {
            pgrx::warning!("ruvector: what its leases hold was not given back: {error}");
        }
    }
}
