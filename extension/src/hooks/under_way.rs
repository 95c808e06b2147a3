//! What an INSERT of many rows, a MERGE or an upsert has written so far: none of PostgreSQL's counters shows that to others before the
//! statement ends, which may be hours later.
//!
//! The rows come from the plan below the one that writes them. Its function is exchanged for one that counts
//! (`ExecProcNodeReal`, which the executor calls also where it takes the time), and every thousand rows have the throttle look at
//! the relations' own counters.

use std::cell::RefCell;

use healing::throttle::BULK_ROWS;
use pgrx::prelude::*;

use super::throttle::charge_so_far;
use crate::throttle::{self, Place};

/// Rows after which it is charged again.
const EVERY: u64 = 1000;
/// Statements of a transaction that are followed at most: those of subtransactions that were rolled back are among them. Others are
/// charged at their end.
const WATCHED_MAX: usize = 64;

type Fetch = unsafe extern "C-unwind" fn(*mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot;

struct Watched {
    query: *mut pg_sys::QueryDesc,
    /// Where its rows come from, and the function that fetches them.
    source: *mut pg_sys::PlanState,
    fetch: Fetch,
    rows: u64,
    places: Vec<Place>,
    upserts: bool,
}

thread_local! {
    /// Emptied at the end of every transaction; the last one is the innermost.
    static WATCHED: RefCell<Vec<Watched>> = const { RefCell::new(Vec::new()) };
}

/// Whether a statement may insert more rows than a few, as far as its plan tells; under a throttle whenever it takes them from
/// anywhere.
#[inline]
pub(super) unsafe fn may_be_long(statement: *mut pg_sys::PlannedStmt) -> bool {
    let plan = (*statement).planTree;
    if plan.is_null() || (*plan).type_ != pg_sys::NodeTag::T_ModifyTable {
        return false;
    }
    let source = (*plan).lefttree;
    !source.is_null()
        // Of VALUES, or of a constant.
        && ((*source).type_ != pg_sys::NodeTag::T_Result || !(*source).lefttree.is_null())
        && matches!(
            (*plan.cast::<pg_sys::ModifyTable>()).operation,
            pg_sys::CmdType::CMD_INSERT | pg_sys::CmdType::CMD_MERGE
        )
        && (throttle::any() || (*source).plan_rows > BULK_ROWS as f64)
}

/// Counts the rows of a statement that was started.
pub(super) unsafe fn watch(query: *mut pg_sys::QueryDesc, places: Vec<Place>, upserts: bool) {
    let state = (*query).planstate;
    if state.is_null() || (*state).type_ != pg_sys::NodeTag::T_ModifyTableState || (*state).lefttree.is_null()
    {
        return;
    }
    let source = (*state).lefttree;
    let Some(fetch) = (*source).ExecProcNodeReal else { return };
    WATCHED.with_borrow_mut(|watched| {
        // One whose statement was rolled back may have been in the same place.
        watched.retain(|one| one.source != source);
        if watched.len() < WATCHED_MAX {
            watched.push(Watched { query, source, fetch, rows: 0, places, upserts });
            (*source).ExecProcNodeReal = Some(counted);
        }
    });
}

/// Nothing here is borrowed, or to be dropped, while the plan runs: an ERROR of it passes as it is.
unsafe extern "C-unwind" fn counted(source: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    let known = WATCHED
        .with_borrow(|watched| watched.iter().rev().find(|one| one.source == source).map(|one| one.fetch));
    let Some(fetch) = known else { return lost(source) };
    let row = fetch(source);
    if !row.is_null() && (*row).tts_flags & pg_sys::TTS_FLAG_EMPTY as u16 == 0 {
        let rows = WATCHED.with_borrow_mut(|watched| {
            let one = watched.iter_mut().rev().find(|one| one.source == source)?;
            one.rows += 1;
            Some(one.rows)
        });
        if rows.is_some_and(|rows| rows % EVERY == 0) {
            charge(source);
        }
    }
    row
}

#[pg_guard]
unsafe extern "C-unwind" fn charge(source: *mut pg_sys::PlanState) {
    let known = WATCHED.with_borrow(|watched| {
        watched.iter().rev().find(|one| one.source == source).map(|one| (one.places.clone(), one.upserts))
    });
    if let Some((places, upserts)) = known {
        charge_so_far(&places, upserts);
    }
}

/// No statement goes on after the end of its transaction.
#[pg_guard]
unsafe extern "C-unwind" fn lost(_source: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    error!("ruvector: a statement went on after its transaction had ended");
}

/// Whether a statement that ends was charged as it went.
pub(super) unsafe fn ended(query: *mut pg_sys::QueryDesc) -> bool {
    WATCHED.with_borrow_mut(|watched| {
        let state = (*query).planstate;
        let source = if state.is_null() { std::ptr::null_mut() } else { (*state).lefttree };
        // Another statement may have been in the same place, and been rolled back.
        let is = |one: &Watched| one.query == query && one.source == source;
        let Some(at) = watched.iter().rposition(is) else { return false };
        watched.remove(at).rows >= EVERY
    })
}

/// Forgets them all.
pub(super) fn clear() {
    WATCHED.with_borrow_mut(Vec::clear);
}
