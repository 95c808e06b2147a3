//! Search effort as a property of an index.
//!
//! pgvector reads `ivfflat.probes` and `hnsw.ef_search` when a scan begins, which happens inside ExecutorRun. While a
//! plan runs that scans an index with a managed effort, the setting has that value, unless the session (or the
//! statement's own function) has set it. Cached plans are covered, because the plan is looked at, not the planning.

use std::ffi::CString;

use pgrx::prelude::*;

use crate::{efforts, shared};

static mut PREVIOUS: pg_sys::ExecutorRun_hook_type = None;

#[derive(Default)]
struct Wanted {
    probes: Option<i32>,
    ef_search: Option<i32>,
}

pub(super) fn init() {
    // SAFETY: in the postmaster, before any session exists.
    unsafe {
        PREVIOUS = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(on_executor_run);
    }
}

/// PostgreSQL's own functions without pgrx's guard: an ERROR of the statement passes the hook as it is, at no cost.
/// The frames it jumps over hold nothing that would need to be dropped.
mod raw {
    use pgrx::pg_sys::{QueryDesc, ScanDirection};

    unsafe extern "C-unwind" {
        #[cfg(feature = "pg18")]
        pub(super) fn standard_ExecutorRun(query: *mut QueryDesc, direction: ScanDirection::Type, count: u64);
        #[cfg(not(feature = "pg18"))]
        pub(super) fn standard_ExecutorRun(
            query: *mut QueryDesc,
            direction: ScanDirection::Type,
            count: u64,
            once: bool,
        );
        pub(super) fn AtEOXact_GUC(commit: bool, nest: std::ffi::c_int);
    }
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn on_executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    let nest = if shared::any_effort() || efforts::on_standby() { prepare(query) } else { 0 };
    match PREVIOUS {
        Some(previous) => previous(query, direction, count),
        None => raw::standard_ExecutorRun(query, direction, count),
    }
    finish(nest);
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn on_executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    let nest = if shared::any_effort() || efforts::on_standby() { prepare(query) } else { 0 };
    match PREVIOUS {
        Some(previous) => previous(query, direction, count, once),
        None => raw::standard_ExecutorRun(query, direction, count, once),
    }
    finish(nest);
}

/// Sets what the scans of the plan want. Returns the GUC nest level to end afterwards, 0 when nothing was set. If the
/// statement raises, the end of the (sub)transaction ends the level.
#[pg_guard]
unsafe extern "C-unwind" fn prepare(query: *mut pg_sys::QueryDesc) -> i32 {
    let mut wanted = Wanted::default();
    collect((*query).planstate, &mut wanted);
    let probes = wanted.probes.filter(|_| !session_has_set(c"ivfflat.probes"));
    let ef_search = wanted.ef_search.filter(|_| !session_has_set(c"hnsw.ef_search"));
    if probes.is_none() && ef_search.is_none() {
        return 0;
    }
    let nest = pg_sys::NewGUCNestLevel();
    set(c"ivfflat.probes", probes);
    set(c"hnsw.ef_search", ef_search);
    nest
}

unsafe fn finish(nest: i32) {
    if nest > 0 {
        // As a function with settings of its own ends (`fmgr_security_definer`): what is saved is put back, what the
        // statement itself set for its session or transaction stays.
        raw::AtEOXact_GUC(true, nest);
    }
}

/// The source that tells our values from a session's own: PostgreSQL never uses it for a value (`guc.h`).
const OURS: pg_sys::GucSource::Type = pg_sys::GucSource::PGC_S_INTERACTIVE;

fn set(name: &std::ffi::CStr, value: Option<i32>) {
    let Some(value) = value.and_then(|value| CString::new(value.to_string()).ok()) else { return };
    // SAFETY: both strings live across the call, which copies them.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            OURS,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Finds the index scans with an ordering below a plan node.
#[pg_guard]
unsafe extern "C-unwind" fn visit(state: *mut pg_sys::PlanState, wanted: *mut std::ffi::c_void) -> bool {
    collect(state, &mut *wanted.cast::<Wanted>());
    false
}

unsafe fn collect(state: *mut pg_sys::PlanState, wanted: &mut Wanted) {
    if state.is_null() {
        return;
    }
    if (*state).type_ == pg_sys::NodeTag::T_IndexScanState {
        let scan = (*state).plan.cast::<pg_sys::IndexScan>();
        let is_search = !(*scan).indexorderby.is_null();
        if is_search {
            efforts::follow_primary();
        }
        if is_search
            && let Some(effort) = shared::effort_of(pg_sys::MyDatabaseId.to_u32(), (*scan).indexid.to_u32())
        {
            let index = (*state.cast::<pg_sys::IndexScanState>()).iss_RelationDesc;
            let is_ivfflat = !index.is_null() && relation_is_ivfflat(index);
            let slot = if is_ivfflat { &mut wanted.probes } else { &mut wanted.ef_search };
            *slot = Some(slot.map_or(effort, |other| other.max(effort)));
        }
    }
    pg_sys::planstate_tree_walker(state, Some(visit), std::ptr::from_mut(wanted).cast());
}

/// By name: the OID of an extension's access method differs from database to database.
unsafe fn relation_is_ivfflat(index: pg_sys::Relation) -> bool {
    let name = pg_sys::get_am_name((*(*index).rd_rel).relam);
    if name.is_null() {
        return false;
    }
    let ivfflat = std::ffi::CStr::from_ptr(name).to_bytes() == b"ivfflat";
    pg_sys::pfree(name.cast());
    ivfflat
}

/// Whether this session, not a configuration file, role or database default, chose the value.
unsafe fn session_has_set(name: &std::ffi::CStr) -> bool {
    let record = find(name);
    !record.is_null() && (*record).source >= pg_sys::GucSource::PGC_S_CLIENT && (*record).source != OURS
}

#[cfg(not(feature = "pg15"))]
unsafe fn find(name: &std::ffi::CStr) -> *mut pg_sys::config_generic {
    pg_sys::find_option(name.as_ptr(), false, true, 0)
}

/// PostgreSQL 15 does not export `find_option`: look the name up in the table of variables, once a backend. An index of
/// the method is open by now, so pgvector is loaded and its variables stay where they are.
#[cfg(feature = "pg15")]
unsafe fn find(name: &std::ffi::CStr) -> *mut pg_sys::config_generic {
    use std::sync::atomic::{AtomicPtr, Ordering};
    static FOUND: [AtomicPtr<pg_sys::config_generic>; 2] =
        [const { AtomicPtr::new(std::ptr::null_mut()) }; 2];
    for known in &FOUND {
        let record = known.load(Ordering::Relaxed);
        if !record.is_null() && std::ffi::CStr::from_ptr((*record).name) == name {
            return record;
        }
    }
    let all = pg_sys::get_guc_variables();
    for at in 0..pg_sys::GetNumConfigOptions() {
        let record = *all.add(at as usize);
        if std::ffi::CStr::from_ptr((*record).name) == name {
            if let Some(free) = FOUND.iter().find(|known| known.load(Ordering::Relaxed).is_null()) {
                free.store(record, Ordering::Relaxed);
            }
            return record;
        }
    }
    std::ptr::null_mut()
}
