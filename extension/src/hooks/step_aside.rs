//! Healer and workers are sessions, and some commands need a database to have none: DROP DATABASE, CREATE DATABASE
//! (of its template), ALTER DATABASE … SET TABLESPACE and RENAME. Before one of them those of that database are asked to
//! end, and the launcher starts no healer until some seconds later. A worker that ends is as one that died: its action
//! is recovered by the next.

use std::ffi::{CStr, c_char};

use pgrx::prelude::*;

use crate::{background, shared, throttle};

/// How long the launcher keeps away, microseconds: PostgreSQL itself waits 5 s for other sessions to go
/// (`CountOtherDBBackends`).
const ASIDE_US: i64 = 15_000_000;
/// How long the command waits for the healer to be gone, in steps of 10 ms.
const WAIT_STEPS: u32 = 300;

/// How long the healer has to end by itself, in the same steps.
const PATIENT_STEPS: u32 = 50;

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
    let dropped = before((*statement).utilityStmt);
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
    // What shared memory keeps of it has no meaning any more, and room is wanted.
    if dropped != 0 {
        forget(dropped);
    }
}

/// Returns the database that is to be dropped, 0 for none.
#[pg_guard]
unsafe extern "C-unwind" fn before(statement: *mut pg_sys::Node) -> u32 {
    let Some(name) = database_to_leave(statement) else { return 0 };
    step_aside(name);
    match (*statement).type_ {
        pg_sys::NodeTag::T_DropdbStmt => pg_sys::get_database_oid(name, true).to_u32(),
        _ => 0,
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn forget(database: u32) {
    throttle::forget(database);
    shared::set_efforts(database, &[]);
}

/// The database that must have no sessions while `statement` runs.
unsafe fn database_to_leave(statement: *mut pg_sys::Node) -> Option<*const c_char> {
    if statement.is_null() {
        return None;
    }
    match (*statement).type_ {
        pg_sys::NodeTag::T_DropdbStmt => {
            Some((*statement.cast::<pg_sys::DropdbStmt>()).dbname as *const c_char)
        }
        pg_sys::NodeTag::T_RenameStmt => {
            let rename = statement.cast::<pg_sys::RenameStmt>();
            ((*rename).renameType == pg_sys::ObjectType::OBJECT_DATABASE)
                .then_some((*rename).subname as *const c_char)
        }
        pg_sys::NodeTag::T_AlterDatabaseStmt => {
            let alter = statement.cast::<pg_sys::AlterDatabaseStmt>();
            option(&raw const *(*alter).options, c"tablespace").map(|_| (*alter).dbname as *const c_char)
        }
        pg_sys::NodeTag::T_CreatedbStmt => {
            let create = statement.cast::<pg_sys::CreatedbStmt>();
            let template = option((*create).options, c"template").filter(|named| !(**named).arg.is_null());
            Some(template.map_or(c"template1".as_ptr(), |named| pg_sys::defGetString(named) as *const c_char))
        }
        _ => None,
    }
    .filter(|name| !name.is_null())
}

unsafe fn option(options: *const pg_sys::List, name: &CStr) -> Option<*mut pg_sys::DefElem> {
    if options.is_null() {
        return None;
    }
    (0..(*options).length)
        .map(|at| (*(*options).elements.add(at as usize)).ptr_value.cast::<pg_sys::DefElem>())
        .find(|element| CStr::from_ptr((**element).defname) == name)
}

unsafe fn step_aside(name: *const c_char) {
    let database = pg_sys::get_database_oid(name, true).to_u32();
    if database == 0 || database == pg_sys::MyDatabaseId.to_u32() {
        return;
    }
    // Only those who may run the command at all may send the healer away.
    let owner = pg_sys::GetUserId();
    if !pg_sys::superuser() && !owns_database(database.into(), owner) {
        return;
    }
    let (pid, helpers) = {
        let mut healers = shared::HEALERS.exclusive();
        let Some(at) = healers.slots.iter().position(|slot| slot.database == database) else { return };
        let slot = &mut healers.slots[at];
        // A database that is only copied or moved gets its healer back; one that was dropped is tried once in vain.
        slot.aside_until = pg_sys::GetCurrentTimestamp() + ASIDE_US;
        (slot.pid, slot.helpers().collect::<Vec<i32>>())
    };
    background::wake(pid);
    helpers.into_iter().for_each(background::terminate);
    let sessions = |slot: &shared::HealerSlot| slot.pid != 0 || slot.helpers().next().is_some();
    for step in 0..WAIT_STEPS {
        if step == PATIENT_STEPS {
            // It measures something.
            background::terminate(pid);
            // And whoever began just now.
            let late: Vec<i32> = {
                let healers = shared::HEALERS.share();
                let own = healers.slots.iter().filter(|slot| slot.database == database);
                own.flat_map(|slot| slot.helpers().collect::<Vec<_>>()).collect()
            };
            late.into_iter().for_each(background::terminate);
        }
        if !shared::HEALERS.share().slots.iter().any(|slot| slot.database == database && sessions(slot)) {
            return;
        }
        pgrx::check_for_interrupts!();
        pg_sys::pg_usleep(10_000);
    }
}

#[cfg(not(feature = "pg15"))]
unsafe fn owns_database(database: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, role)
}

#[cfg(feature = "pg15")]
unsafe fn owns_database(database: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    pg_sys::pg_database_ownercheck(database, role)
}
