//! Trial indexes are invisible to planning.
//!
//! A trial index is one named `_ruvector_trial_<oid>`: the name is the only state, so nothing can be lost in a crash,
//! and it holds on a standby too. To measure one of several indexes, this backend can also hide all the others.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::prelude::*;

/// Prefix of the name of an index that takes no part in planning; the rest is the OID of the index it may replace.
pub(crate) const TRIAL_PREFIX: &str = "_ruvector_trial_";

static mut PREVIOUS: pg_sys::get_relation_info_hook_type = None;

thread_local! {
    /// While set, the only index with an ordering operator that this backend's planner sees.
    static ONLY: Cell<Option<u32>> = const { Cell::new(None) };
}

pub(super) fn init() {
    // SAFETY: in the postmaster, before any session exists.
    unsafe {
        PREVIOUS = pg_sys::get_relation_info_hook;
        pg_sys::get_relation_info_hook = Some(on_relation_info);
    }
}

/// Plans inside `work` see `index` (even a trial one) and no other vector index. Without preload there is no hook, and
/// the planner sees them all.
pub(crate) fn with_only_index<T>(index: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<u32>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ONLY.set(self.0);
        }
    }
    let _restore = Restore(ONLY.replace(Some(index.to_u32())));
    work()
}

unsafe extern "C-unwind" fn on_relation_info(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    inhparent: bool,
    rel: *mut pg_sys::RelOptInfo,
) {
    if let Some(previous) = PREVIOUS {
        previous(root, relation, inhparent, rel);
    }
    hide(rel);
}

#[pg_guard]
unsafe extern "C-unwind" fn hide(rel: *mut pg_sys::RelOptInfo) {
    let list = (*rel).indexlist;
    if list.is_null() {
        return;
    }
    let only = ONLY.get();
    // Backwards, so that deleting does not move what is still to come.
    for at in (0..(*list).length).rev() {
        let info = (*(*list).elements.add(at as usize)).ptr_value.cast::<pg_sys::IndexOptInfo>();
        // ivfflat and hnsw answer ORDER BY only: a cheap way past every btree.
        if !(*info).amcanorderbyop {
            continue;
        }
        let hidden = match only {
            Some(only) => (*info).indexoid.to_u32() != only,
            None => is_trial((*info).indexoid),
        };
        if hidden {
            (*rel).indexlist = pg_sys::list_delete_nth_cell((*rel).indexlist, at);
        }
    }
}

unsafe fn is_trial(index: pg_sys::Oid) -> bool {
    let name = pg_sys::get_rel_name(index);
    if name.is_null() {
        return false;
    }
    let trial = CStr::from_ptr(name).to_bytes().starts_with(TRIAL_PREFIX.as_bytes());
    pg_sys::pfree(name.cast());
    trial
}
