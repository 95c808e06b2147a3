//! DROP EXTENSION gives back what leases hold: what does not end with shared memory or a process (jobs of pg_cron) is put
//! back in the same transaction. An extension that goes with its schema or owner (CASCADE) does not pass here.

use std::ffi::{CStr, c_char};

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
    if drops_us((*statement).utilityStmt) {
        give_back();
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

unsafe fn drops_us(statement: *mut pg_sys::Node) -> bool {
    if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_DropStmt {
        return false;
    }
    let drop = statement.cast::<pg_sys::DropStmt>();
    let names = (*drop).objects;
    (*drop).removeType == pg_sys::ObjectType::OBJECT_EXTENSION
        && !names.is_null()
        && (0..(*names).length).any(|at| {
            let name = (*(*names).elements.add(at as usize)).ptr_value.cast::<pg_sys::String>();
            CStr::from_ptr((*name).sval) == c"ruvector"
        })
}

#[pg_guard]
unsafe extern "C-unwind" fn give_back() {
    // Only where DROP EXTENSION itself will not be refused.
    let ours = pg_sys::get_extension_oid(c"ruvector".as_ptr(), true) != pg_sys::InvalidOid;
    if !ours || !pg_sys::superuser() || pg_sys::RecoveryInProgress() {
        return;
    }
    if let Err(error) = Spi::run("SELECT ruvector._release_all()") {
        pgrx::warning!("ruvector: what its leases hold was not given back: {error}");
    }
    background::wake_healer_at_commit();
}
