//! DROP EXTENSION gives back what leases hold: what does not end with shared memory or a process (jobs of pg_cron) is put
//! back in the same transaction. So does what takes the extension along: dropping pgvector, DROP SCHEMA of the schema that either
//! is in, DROP OWNED of the owner of either. If the command is refused after all, its transaction takes this back too.

use std::ffi::{CStr, CString, c_char};

use pgrx::prelude::*;

use crate::background;

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

/// Where the extension and pgvector are, and whose they are; none where the extension is not in this database.
fn ours() -> Vec<(CString, pg_sys::Oid)> {
    // SAFETY: in a transaction, as every utility command that drops something.
    let there = unsafe { pg_sys::get_extension_oid(c"ruvector".as_ptr(), true) } != pg_sys::InvalidOid;
    if !there {
        return vec![];
    }
    // In the session of whoever drops it, whose search_path may hold anything: nothing of it is looked up.
    let query = "SELECT n.nspname::pg_catalog.text, e.extowner
           FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
          WHERE e.extname OPERATOR(pg_catalog.=) 'ruvector'::pg_catalog.name OR e.extname OPERATOR(pg_catalog.=) 'vector'::pg_catalog.name";
    let found = Spi::connect(|client| {
        let mut found = vec![];
        for row in client.select(query, None, &[])? {
            if let (Some(schema), Some(owner)) = (row.get::<String>(1)?, row.get::<pg_sys::Oid>(2)?) {
                found.extend(CString::new(schema).ok().map(|schema| (schema, owner)));
            }
        }
        Ok::<_, pgrx::spi::Error>(found)
    });
    found.unwrap_or_default()
}

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
                    (has((*drop).objects, c"ruvector") || cascades && has((*drop).objects, c"vector"))
                        && !ours().is_empty()
                }
                pg_sys::ObjectType::OBJECT_SCHEMA => {
                    cascades && ours().iter().any(|(schema, _)| has((*drop).objects, schema))
                }
                _ => false,
            }
        }
        pg_sys::NodeTag::T_DropOwnedStmt => {
            let roles = (*statement.cast::<pg_sys::DropOwnedStmt>()).roles;
            let owners: Vec<pg_sys::Oid> = ours().into_iter().map(|(_, owner)| owner).collect();
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
    // Only where the command itself will not be refused.
    if !matches!((*statement).type_, pg_sys::NodeTag::T_DropStmt | pg_sys::NodeTag::T_DropOwnedStmt)
        || pg_sys::RecoveryInProgress()
        || !pg_sys::superuser()
        || !drops_us(statement)
    {
        return;
    }
    if let Err(error) = Spi::run("SELECT ruvector._release_all()") {
        pgrx::warning!("ruvector: what its leases hold was not given back: {error}");
    }
    background::wake_healer_at_commit();
}
