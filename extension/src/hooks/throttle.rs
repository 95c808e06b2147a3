//! Backpressure: a statement that writes to a throttled collection waits before it has locked or written anything, and is
//! charged what it has written.
//!
//! ExecutorStart of a statement that can insert reserves what it is expected to write, and waits for its turn: only while
//! its transaction has no number yet (it has written nothing and holds no row), and at most [`WAIT_MAX_NS`] a transaction,
//! because the table is locked (ROW EXCLUSIVE) since the statement was parsed. One that may not write, and will be refused for that,
//! does neither. What is not waited for stays as debt of the bucket. COPY is a utility command: it waits before its lock, so that
//! outside a transaction block it may for longer. ExecutorEnd, the end of COPY and that of the transaction charge what the
//! relations' own counters say was written, by whatever way: through a function, the partition root, a modifying CTE, or an ERROR
//! half-way. Of what goes on while one throttle follows another each is charged the share that its time tells.
//!
//! Without any throttle on the server ExecutorStart costs one relaxed load. Bulk statements and upserts are counted always,
//! because no counter of PostgreSQL tells them from the rest and the usual rate of each kind is wanted; of an upsert only the
//! partitions are looked at that it has opened, and MERGE counts its rows itself. An INSERT in a CTE, which does not say how many
//! rows it has written, is counted by all partitions of its collection, before and after. What writes many rows is charged as it
//! goes ([`under_way`](super::under_way)).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, Ordering};

use healing::throttle::{BULK_ROWS, Kind, Reserved, share_since};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::under_way;
use crate::settings;
use crate::throttle::{self, Place};

/// Longest wait of a transaction other than for COPY, nanoseconds: a DDL that wants the table waits as long.
const WAIT_MAX_NS: i64 = 200_000_000;
/// Longest wait of a COPY that is a transaction of its own, which holds no lock then, nanoseconds.
const COPY_WAIT_MAX_NS: i64 = 10_000_000_000;
/// Share of a session's own time limits that a wait may take.
const TIME_LIMIT_SHARE: i64 = 4;
/// How often a waiting COPY looks whether the throttle is over, nanoseconds.
const LOOK_NS: i64 = 200_000_000;
/// Shorter waits are slept, as a latch waits whole milliseconds; nanoseconds.
const SLEEP_NS: i64 = 2_000_000;
/// Rows that are reserved at most for one statement: an estimate is no promise.
const RESERVE_MAX: i64 = 100_000;
/// Tables whose counters a session remembers.
const LOOKED_MAX: usize = 4096;
/// Collections whose last statement's size a session remembers.
const REMEMBERED_MAX: usize = 64;

static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_END: pg_sys::ExecutorEnd_hook_type = None;
static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;

pub(super) fn init() {
    // SAFETY: in the postmaster, before any session exists.
    unsafe {
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(on_executor_start);
        PREVIOUS_END = pg_sys::ExecutorEnd_hook;
        pg_sys::ExecutorEnd_hook = Some(on_executor_end);
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

static OURS: AtomicBool = AtomicBool::new(false);

/// This process is a worker of ours: nothing that it writes is throttled.
pub(crate) fn exempt_this_process() {
    OURS.store(true, Ordering::Relaxed);
}

/// PostgreSQL's own functions without pgrx's guard: an ERROR of the statement passes the hook as it is, at no cost.
/// The frames it jumps over hold nothing that would need to be dropped.
mod raw {
    use pgrx::pg_sys::*;

    unsafe extern "C-unwind" {
        pub(super) fn standard_ExecutorStart(query: *mut QueryDesc, flags: std::ffi::c_int);
        pub(super) fn standard_ExecutorEnd(query: *mut QueryDesc);
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

unsafe extern "C-unwind" fn on_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    let statement = (*query).plannedstmt;
    let runs = flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 == 0;
    if (throttle::any() || (*statement).hasModifyingCTE || updates_on_conflict(statement) && is_noted())
        && inserts(statement)
        && runs
    {
        before(statement);
    }
    match PREVIOUS_START {
        Some(previous) => previous(query, flags),
        None => raw::standard_ExecutorStart(query, flags),
    }
    if runs && under_way::may_be_long(statement) {
        watch(query);
    }
}

unsafe extern "C-unwind" fn on_executor_end(query: *mut pg_sys::QueryDesc) {
    let statement = (*query).plannedstmt;
    if inserts(statement) && !(*query).estate.is_null() {
        let processed = (*(*query).estate).es_processed;
        let is_bulk = under_way::ended(query);
        if throttle::any()
            || processed > BULK_ROWS
            || (*statement).hasModifyingCTE
            || updates_on_conflict(statement)
        {
            after(query, processed, is_bulk);
        }
    }
    match PREVIOUS_END {
        Some(previous) => previous(query),
        None => raw::standard_ExecutorEnd(query),
    }
}

/// Whether any part of a statement that inserts, also in a CTE, is as asked. Parts that update or delete are no ingestion.
#[inline]
unsafe fn any_insert(
    statement: *mut pg_sys::PlannedStmt,
    mut asked: impl FnMut(*mut pg_sys::ModifyTable) -> bool,
) -> bool {
    let mut is = |plan: *mut pg_sys::Plan| {
        use pg_sys::CmdType::{CMD_INSERT, CMD_MERGE};
        if plan.is_null() || (*plan).type_ != pg_sys::NodeTag::T_ModifyTable {
            return false;
        }
        let part = plan.cast::<pg_sys::ModifyTable>();
        matches!((*part).operation, CMD_INSERT | CMD_MERGE) && asked(part)
    };
    if is((*statement).planTree) {
        return true;
    }
    let others = (*statement).subplans;
    (*statement).hasModifyingCTE
        && !others.is_null()
        && (0..(*others).length).any(|at| is((*(*others).elements.add(at as usize)).ptr_value.cast()))
}

/// Whether a statement can insert rows.
#[inline]
unsafe fn inserts(statement: *mut pg_sys::PlannedStmt) -> bool {
    use pg_sys::CmdType::{CMD_INSERT, CMD_MERGE};
    let command = (*statement).commandType;
    command == CMD_INSERT
        || command == CMD_MERGE
        || (*statement).hasModifyingCTE && any_insert(statement, |_| true)
}

/// Whether rows that it writes by inserting may be updates.
#[inline]
unsafe fn updates_on_conflict(statement: *mut pg_sys::PlannedStmt) -> bool {
    use pg_sys::CmdType::{CMD_INSERT, CMD_MERGE};
    let command = (*statement).commandType;
    command == CMD_MERGE
        || (command == CMD_INSERT || (*statement).hasModifyingCTE)
            && any_insert(statement, |part| {
                (*part).operation == CMD_MERGE
                    || (*part).onConflictAction == pg_sys::OnConflictAction::ONCONFLICT_UPDATE
            })
}

/// What a transaction has done to a collection so far.
struct Noted {
    place: Place,
    leaves: Vec<u32>,
    /// The relations' counters that have been charged.
    inserted: i64,
    updated: i64,
    /// Since when nothing more was charged, nanoseconds of [`throttle::now_ns`].
    from_ns: i64,
    /// The throttle that was in force then, as [`throttle::since_ns`].
    since_ns: i64,
    /// The statement under way may update by way of inserting: then updated rows count.
    upserts: bool,
    reserved: Option<Reservation>,
}

impl Noted {
    /// Whether all that was written is charged, if the relations' counters stand there.
    fn is_charged(&self, inserted: i64, updated: i64) -> bool {
        inserted == self.inserted && (updated == self.updated || !self.upserts)
    }
}

/// What a statement has reserved, and under which throttle: under another nothing is.
#[derive(Clone, Copy)]
struct Reservation {
    kind: Kind,
    reserved: Reserved,
    since_ns: i64,
}

thread_local! {
    /// Emptied at the end of every transaction.
    static NOTED: RefCell<Vec<Noted>> = const { RefCell::new(Vec::new()) };
    /// What the transaction has waited, nanoseconds.
    static WAITED: Cell<i64> = const { Cell::new(0) };
    static CALLBACK_SET: Cell<bool> = const { Cell::new(false) };
    /// Counters of the tables that upserts of this session have written to, as they were then.
    static LOOKED: RefCell<HashMap<u32, (i64, i64)>> = RefCell::default();
    /// Rows of this session's last statement, by collection.
    static LAST: RefCell<HashMap<i32, i64>> = RefCell::default();
}

unsafe fn is_exempt() -> bool {
    use pg_sys::BackendType::{B_BACKEND, B_BG_WORKER};
    let kind = pg_sys::MyBackendType;
    kind != B_BACKEND && kind != B_BG_WORKER
        || settings::throttle_exempt()
        // Its lease ends with the healer's next round, if there is a healer.
        || !settings::enabled()
        || OURS.load(Ordering::Relaxed)
        || pg_sys::ParallelWorkerNumber >= 0
        || kind == B_BG_WORKER && pg_sys::IsLogicalWorker()
}

#[pg_guard]
unsafe extern "C-unwind" fn before(statement: *mut pg_sys::PlannedStmt) {
    if is_exempt() {
        return;
    }
    let places = targets(statement);
    // Who may not write takes nobody's turn, and waits for none.
    if places.is_empty() || throttle::any() && !may_write(statement) {
        return;
    }
    let upserts = updates_on_conflict(statement);
    for place in places {
        note(place, upserts);
        let expected = expected_rows(statement, place);
        turn(place, Kind::of(expected as u64), expected, WAIT_MAX_NS);
    }
}

/// Whether the executor, which looks after this hook, may let a statement write at all: to all that it names (a view and the table
/// below), as the role that each is checked as. Not by the executor's own function: that calls a hook whose owner expects to have seen
/// the statement begin (pgaudit).
unsafe fn may_write(statement: *mut pg_sys::PlannedStmt) -> bool {
    let writes = (pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) as pg_sys::AclMode;
    let may = |table, checked_as, required: pg_sys::AclMode| {
        let role = if checked_as == pg_sys::InvalidOid { pg_sys::GetUserId() } else { checked_as };
        required & writes == 0 || has_any(table, role, required & writes)
    };
    #[cfg(feature = "pg15")]
    let checked = (*statement).rtable;
    #[cfg(not(feature = "pg15"))]
    let checked = (*statement).permInfos;
    let length = if checked.is_null() { 0 } else { (*checked).length };
    !pg_sys::XactReadOnly
        && (0..length).all(|at| {
            let one = (*(*checked).elements.add(at as usize)).ptr_value;
            #[cfg(feature = "pg15")]
            let one = one.cast::<pg_sys::RangeTblEntry>();
            #[cfg(not(feature = "pg15"))]
            let one = one.cast::<pg_sys::RTEPermissionInfo>();
            may((*one).relid, (*one).checkAsUser, (*one).requiredPerms)
        })
}

/// Whether a role has any of these rights, to the table or to some of its columns.
unsafe fn has_any(table: pg_sys::Oid, role: pg_sys::Oid, rights: pg_sys::AclMode) -> bool {
    let any = pg_sys::AclMaskHow::ACLMASK_ANY;
    pg_sys::pg_class_aclmask(table, role, rights, any) != 0
        || pg_sys::pg_attribute_aclcheck_all(table, role, rights, any) == pg_sys::AclResult::ACLCHECK_OK
}

#[pg_guard]
unsafe extern "C-unwind" fn after(query: *mut pg_sys::QueryDesc, processed: u64, is_bulk: bool) {
    if is_exempt() {
        return;
    }
    let statement = (*query).plannedstmt;
    let places = targets(statement);
    for place in &places {
        // Where it was not noted the throttle began meanwhile, or it is one that is only counted. A part that inserts in a CTE
        // is not what the statement says of itself.
        let says = places.len() == 1
            && ((*statement).commandType == pg_sys::CmdType::CMD_INSERT || !(*statement).hasModifyingCTE);
        let own = says.then(|| own(query, processed));
        settle(*place, own, is_bulk.then_some(Kind::BulkInsert));
        if is_bulk {
            remember(*place, processed as i64);
        }
    }
}

/// Has what a statement writes charged as it goes.
#[pg_guard]
unsafe extern "C-unwind" fn watch(query: *mut pg_sys::QueryDesc) {
    if is_exempt() {
        return;
    }
    let places = targets((*query).plannedstmt);
    if !places.is_empty() {
        set_callback();
        under_way::watch(query, places, updates_on_conflict((*query).plannedstmt));
    }
}

/// Charges what a statement that goes on has written to these collections, where a throttle is in force.
pub(super) unsafe fn charge_so_far(places: &[Place], upserts: bool) {
    if !throttle::any() {
        return;
    }
    for place in places {
        let noted = NOTED.with_borrow(|noted| noted.iter().any(|noted| noted.place == *place));
        if noted {
            settle(*place, None, Some(Kind::BulkInsert));
        }
        // What it writes from now on, where the throttle began meanwhile.
        note(*place, upserts);
    }
}

/// What a statement itself says it has written.
#[derive(Clone, Copy)]
struct Own {
    rows: i64,
    /// Of these, rows that it has updated.
    updated: i64,
}

/// Whether anything of this transaction is noted: then what upserts is told from what was written before.
fn is_noted() -> bool {
    NOTED.with_borrow(|noted| !noted.is_empty())
}

unsafe fn own(query: *mut pg_sys::QueryDesc, processed: u64) -> Own {
    let (statement, state) = ((*query).plannedstmt, (*query).planstate);
    if (*statement).commandType == pg_sys::CmdType::CMD_MERGE
        && !state.is_null()
        && (*state).type_ == pg_sys::NodeTag::T_ModifyTableState
    {
        // It counts them apart; what it has processed has deleted rows among it.
        let state = state.cast::<pg_sys::ModifyTableState>();
        let (inserted, updated) = ((*state).mt_merge_inserted as i64, (*state).mt_merge_updated as i64);
        return Own { rows: inserted + updated, updated };
    }
    let updated = if updates_on_conflict(statement) { updated_of(query, processed as i64) } else { 0 };
    Own { rows: processed as i64, updated }
}

/// How many of the rows that an upsert has processed are updates: by how the counters of the tables that it has opened have
/// grown since this session last looked at them. What it wrote to one of them in another way meanwhile falls into the same shares.
unsafe fn updated_of(query: *mut pg_sys::QueryDesc, processed: i64) -> i64 {
    let estate = (*query).estate;
    let mut grown = (0, 0);
    let mut present = (0, 0);
    for opened in [(*estate).es_opened_result_relations, (*estate).es_tuple_routing_result_relations] {
        let length = if opened.is_null() { 0 } else { (*opened).length };
        for at in 0..length {
            let relation = (*(*opened).elements.add(at as usize)).ptr_value.cast::<pg_sys::ResultRelInfo>();
            let table = (*(*relation).ri_RelationDesc).rd_id.to_u32();
            let now = written(&[table]);
            let before = LOOKED.with_borrow_mut(|looked| {
                if looked.len() >= LOOKED_MAX && !looked.contains_key(&table) {
                    looked.clear();
                }
                looked.insert(table, now)
            });
            let before = before.unwrap_or((0, 0));
            grown = (grown.0 + now.0 - before.0, grown.1 + now.1 - before.1);
            present = (present.0 + now.0, present.1 + now.1);
        }
    }
    // Counters that were reported since begin at nought again, and have grown by less than was written.
    if grown.0 < 0 || grown.1 < 0 || grown.0 + grown.1 < processed {
        grown = present;
    }
    let both = grown.0 + grown.1;
    if both > 0 { (processed as f64 * grown.1 as f64 / both as f64).round() as i64 } else { 0 }
}

/// The collections that a statement may write to.
unsafe fn targets(statement: *mut pg_sys::PlannedStmt) -> Vec<Place> {
    let mut found: Vec<Place> = Vec::new();
    let table = (*statement).rtable;
    if table.is_null() {
        return found;
    }
    any_insert(statement, |part| {
        let relations = (*part).resultRelations;
        let length = if relations.is_null() { 0 } else { (*relations).length };
        for at in 0..length {
            let number = (*(*relations).elements.add(at as usize)).int_value;
            if number < 1 || number > (*table).length {
                continue;
            }
            let entry =
                (*(*table).elements.add(number as usize - 1)).ptr_value.cast::<pg_sys::RangeTblEntry>();
            if let Some(place) = throttle::place_of((*entry).relid.to_u32())
                && !found.contains(&place)
            {
                found.push(place);
            }
        }
        false
    });
    found
}

/// Rows that a statement will write, as far as can be told: what its plan says of more than a few, else what the session's
/// last one wrote if that was bulk.
unsafe fn expected_rows(statement: *mut pg_sys::PlannedStmt, place: Place) -> i64 {
    let plan = (*statement).planTree;
    let planned = if (*plan).type_ == pg_sys::NodeTag::T_ModifyTable && !(*plan).lefttree.is_null() {
        (*(*plan).lefttree).plan_rows as i64
    } else {
        1
    };
    let last = LAST.with_borrow(|last| last.get(&place.collection).copied()).unwrap_or(1);
    let bulk = BULK_ROWS as i64;
    let expected = match (planned > bulk, last > bulk) {
        // One row is one row, whatever came before it.
        (false, _) if planned <= 1 => 1,
        (_, true) => last,
        _ => planned,
    };
    expected.clamp(1, RESERVE_MAX)
}

unsafe fn set_callback() {
    if !CALLBACK_SET.replace(true) {
        pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
    }
}

/// Notes where a collection's counters stand before anything of this transaction is charged.
unsafe fn note(place: Place, upserts: bool) {
    set_callback();
    let (from_ns, since_ns) = (throttle::now_ns(), throttle::since_ns(place));
    let known = NOTED.with_borrow(|noted| {
        let noted = noted.iter().find(|noted| noted.place == place)?;
        Some((noted.leaves.clone(), upserts && !noted.upserts, noted.since_ns != since_ns))
    });
    match known {
        Some((leaves, begins_to_upsert, is_another)) if begins_to_upsert || is_another => {
            let (inserted, updated) = written(&leaves);
            NOTED.with_borrow_mut(|noted| {
                let Some(noted) = noted.iter_mut().find(|noted| noted.place == place) else { return };
                // What is written from now on is all under the throttle that is in force by now.
                if is_another && noted.is_charged(inserted, updated) {
                    (noted.from_ns, noted.since_ns) = (from_ns, since_ns);
                }
                // What a plain UPDATE of the same transaction has written before is none of this statement's.
                if begins_to_upsert {
                    (noted.updated, noted.upserts) = (updated, true);
                }
            });
        }
        Some(_) => {}
        None => {
            let leaves = throttle::leaves_of(place);
            let (inserted, updated) = written(&leaves);
            NOTED.with_borrow_mut(|noted| {
                noted.push(Noted {
                    place,
                    leaves,
                    inserted,
                    updated,
                    from_ns,
                    since_ns,
                    upserts,
                    reserved: None,
                });
            });
        }
    }
}

/// Reserves the rows and waits for their turn, if this transaction may wait.
unsafe fn turn(place: Place, kind: Kind, rows: i64, wait_max_ns: i64) {
    // A statement within one that has reserved, a trigger for instance, is part of it.
    let since_ns = throttle::since_ns(place);
    let is_ours = |noted: &Noted| {
        noted.place == place && noted.reserved.is_some_and(|reserved| reserved.since_ns == since_ns)
    };
    if NOTED.with_borrow(|noted| noted.iter().any(is_ours)) {
        return;
    }
    let Some(told) = throttle::reserve(place, kind, rows) else { return };
    let limit_ns = wait_max_ns.min(time_limit_ns()) - WAITED.get();
    let may_wait = pg_sys::GetTopTransactionIdIfAny() == pg_sys::InvalidTransactionId;
    let owed_ns = told.at_ns - told.now_ns;
    // Whoever has written may finish: its rows are debt, and whoever begins after it is rejected for them.
    if told.reject && may_wait && owed_ns > limit_ns {
        throttle::rejected(place, kind, told.reserved);
        reject(kind, owed_ns);
    }
    NOTED.with_borrow_mut(|noted| {
        if let Some(noted) = noted.iter_mut().find(|noted| noted.place == place) {
            noted.reserved = Some(Reservation { kind, reserved: told.reserved, since_ns: told.since_ns });
        }
    });
    let wait_ns = owed_ns.min(limit_ns);
    if may_wait && wait_ns > 0 {
        let took_ns = wait(place, told.now_ns, told.now_ns + wait_ns);
        WAITED.set(WAITED.get() + took_ns);
        throttle::waited(place, kind, took_ns);
        // Who may wait has written nothing: it begins now.
        let (from_ns, since_ns) = (throttle::now_ns(), throttle::since_ns(place));
        NOTED.with_borrow_mut(|noted| {
            if let Some(noted) = noted.iter_mut().find(|noted| noted.place == place) {
                (noted.from_ns, noted.since_ns) = (from_ns, since_ns);
            }
        });
    }
}

/// The session's own time limits are for its statements, not for our waits.
unsafe fn time_limit_ns() -> i64 {
    let of = |limit_ms: i32| {
        if limit_ms > 0 { i64::from(limit_ms) * 1_000_000 / TIME_LIMIT_SHARE } else { i64::MAX }
    };
    let statement = of(pg_sys::StatementTimeout);
    #[cfg(feature = "pg18")]
    let statement = statement.min(of(pg_sys::TransactionTimeout));
    statement
}

fn reject(kind: Kind, owed_ns: i64) {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!("ruvector: {} is throttled, and writers are {:.1} s behind", kind.as_str(), owed_ns as f64 / 1e9),
        "ruvector",
    )
    .set_hint(
        "Try again later, with fewer rows or sessions. SELECT * FROM ruvector_throttles() shows the throttle; \
         throttle_reject is a setting of the collection."
            .to_owned(),
    )
    .report(PgLogLevel::ERROR);
}

/// Waits until `until_ns`, or until the throttle is over. Returns how long it took.
unsafe fn wait(place: Place, from_ns: i64, until_ns: i64) -> i64 {
    let mut look_ns = from_ns + LOOK_NS;
    loop {
        let now_ns = throttle::now_ns();
        let left_ns = until_ns - now_ns;
        if left_ns <= 0 || now_ns >= look_ns && throttle::is_over(place) {
            return now_ns - from_ns;
        }
        if left_ns < SLEEP_NS {
            pg_sys::pg_usleep((left_ns / 1000 + 1) as _);
        } else {
            let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
            // The rest is slept.
            let timeout_ms = (left_ns.min(LOOK_NS) - SLEEP_NS / 2) / 1_000_000;
            pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, timeout_ms.max(1), wait_event());
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        look_ns = if now_ns >= look_ns { now_ns + LOOK_NS } else { look_ns };
        pgrx::check_for_interrupts!();
    }
}

/// What `pg_stat_activity.wait_event` shows.
#[cfg(feature = "pg18")]
unsafe fn wait_event() -> u32 {
    thread_local! { static EVENT: Cell<u32> = const { Cell::new(0) }; }
    if EVENT.get() == 0 {
        EVENT.set(pg_sys::WaitEventExtensionNew(c"RuvectorThrottle".as_ptr()));
    }
    EVENT.get()
}

#[cfg(not(feature = "pg18"))]
unsafe fn wait_event() -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

/// Charges what was written to a collection since it was last charged. `own` is what the statement itself says it has
/// written, for where nothing was noted; `known` its kind, where that does not depend on it.
unsafe fn settle(place: Place, own: Option<Own>, known: Option<Kind>) {
    let leaves = NOTED.with_borrow(|noted| {
        noted.iter().find(|noted| noted.place == place).map(|noted| noted.leaves.clone())
    });
    let Some(leaves) = leaves else {
        if let Some(Own { rows, updated }) = own.filter(|own| own.rows > 0) {
            // A throttle that began meanwhile is owed the share of it that its time tells.
            let began = pg_sys::GetCurrentStatementStartTimestamp();
            let took_ns = (pg_sys::GetCurrentTimestamp() - began).saturating_mul(1000);
            let share = if throttle::any() { throttle::share_under(place, took_ns) } else { 1.0 };
            let kind = known.unwrap_or(Kind::of(rows as u64));
            throttle::charge(place, kind, part(rows, share), part(updated, share), None);
            remember(place, rows);
        }
        return;
    };
    let (inserted, updated) = written(&leaves);
    let (now_ns, since_ns) = (throttle::now_ns(), throttle::since_ns(place));
    let charged = NOTED.with_borrow_mut(|noted| {
        let noted = noted.iter_mut().find(|noted| noted.place == place)?;
        let upserted = if noted.upserts { (updated - noted.updated).max(0) } else { 0 };
        let mut rows = (inserted - noted.inserted).max(0) + upserted;
        if !pg_sys::pgstat_track_counts {
            rows = own.map_or(0, |own| own.rows);
        }
        // As above, where another throttle has taken the place of the one that was noted.
        let share = if since_ns == 0 || since_ns == noted.since_ns {
            1.0
        } else {
            share_since(since_ns, noted.from_ns, now_ns)
        };
        let reserved = noted.reserved.take().filter(|reserved| reserved.since_ns == since_ns);
        (noted.inserted, noted.updated, noted.upserts) = (inserted, updated, false);
        (noted.from_ns, noted.since_ns) = (now_ns, since_ns);
        Some((rows, upserted, share, reserved))
    });
    if let Some((rows, upserted, share, reserved)) = charged {
        let kind = known.unwrap_or(Kind::of(rows as u64));
        let reserved = reserved.map(|reserved| (reserved.kind, reserved.reserved));
        throttle::charge(place, kind, part(rows, share), part(upserted, share), reserved);
        remember(place, rows);
    }
}

fn part(rows: i64, share: f64) -> i64 {
    (rows as f64 * share).round() as i64
}

fn remember(place: Place, rows: i64) {
    LAST.with_borrow_mut(|last| {
        if last.len() >= REMEMBERED_MAX && !last.contains_key(&place.collection) {
            last.clear();
        }
        last.insert(place.collection, rows);
    });
}

/// Rows inserted and updated in these tables as this session has counted them and not yet reported: it reports between
/// transactions only, so that within one they only grow.
#[cfg(not(feature = "pg15"))]
unsafe fn written(leaves: &[u32]) -> (i64, i64) {
    let mut sum = (0, 0);
    for leaf in leaves {
        // A copy, with what open subtransactions have counted (pgstat_relation.c).
        let counted = pg_sys::find_tabstat_entry((*leaf).into());
        if !counted.is_null() {
            sum.0 += (*counted).counts.tuples_inserted;
            sum.1 += (*counted).counts.tuples_updated;
            pg_sys::pfree(counted.cast());
        }
    }
    sum
}

#[cfg(feature = "pg15")]
unsafe fn written(leaves: &[u32]) -> (i64, i64) {
    let mut sum = (0, 0);
    for leaf in leaves {
        // The entry itself; what open (sub)transactions have counted is kept apart.
        let counted = pg_sys::find_tabstat_entry((*leaf).into());
        if counted.is_null() {
            continue;
        }
        sum.0 += (*counted).t_counts.t_tuples_inserted;
        sum.1 += (*counted).t_counts.t_tuples_updated;
        let mut open = (*counted).trans;
        while !open.is_null() {
            sum.0 += (*open).tuples_inserted;
            sum.1 += (*open).tuples_updated;
            open = (*open).upper;
        }
    }
    sum
}

/// What was written and not charged, because a statement did not come to its end; and what was reserved in vain.
#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE};
    if !matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE | XACT_EVENT_ABORT) {
        return;
    }
    let places: Vec<(Place, Option<Kind>)> = NOTED.with_borrow(|noted| {
        let bulk =
            |noted: &Noted| noted.reserved.map(|one| one.kind).filter(|kind| *kind == Kind::BulkInsert);
        noted.iter().map(|noted| (noted.place, bulk(noted))).collect()
    });
    for (place, kind) in places {
        settle(place, None, kind);
    }
    NOTED.with_borrow_mut(Vec::clear);
    under_way::clear();
    WAITED.set(0);
    if throttle::any() && throttle::any_over() {
        throttle::sweep();
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
    let copied = copied_into((*statement).utilityStmt);
    if throttle::any() && !copied.is_null() {
        // What was locked before it in a transaction stays locked while it waits.
        let alone = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL
            && !pg_sys::IsTransactionBlock();
        before_copy(copied, if alone { COPY_WAIT_MAX_NS } else { WAIT_MAX_NS });
    }
    match PREVIOUS_UTILITY {
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
    if !copied.is_null() && !completion.is_null() {
        after_copy(copied, (*completion).nprocessed);
    }
}

/// The table that a command copies into, else null.
unsafe fn copied_into(statement: *mut pg_sys::Node) -> *mut pg_sys::RangeVar {
    if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_CopyStmt {
        return std::ptr::null_mut();
    }
    let copy = statement.cast::<pg_sys::CopyStmt>();
    if (*copy).is_from { (*copy).relation } else { std::ptr::null_mut() }
}

/// Without a lock: what COPY itself finds is another matter, and its own to check.
unsafe fn named(table: *mut pg_sys::RangeVar) -> Option<(pg_sys::Oid, Place)> {
    let found = pg_sys::RangeVarGetRelidExtended(
        table,
        pg_sys::NoLock as i32,
        pg_sys::RVROption::RVR_MISSING_OK,
        None,
        std::ptr::null_mut(),
    );
    throttle::place_of(found.to_u32()).map(|place| (found, place))
}

/// Whether COPY will let this role write to a table, or to some of its columns.
unsafe fn may_copy_into(table: pg_sys::Oid) -> bool {
    !pg_sys::XactReadOnly && has_any(table, pg_sys::GetUserId(), pg_sys::ACL_INSERT as pg_sys::AclMode)
}

#[pg_guard]
unsafe extern "C-unwind" fn before_copy(table: *mut pg_sys::RangeVar, wait_max_ns: i64) {
    if is_exempt() {
        return;
    }
    if let Some((found, place)) = named(table)
        && may_copy_into(found)
    {
        note(place, false);
        let last = LAST.with_borrow(|last| last.get(&place.collection).copied()).unwrap_or(1);
        turn(place, Kind::BulkInsert, last.clamp(1, RESERVE_MAX), wait_max_ns);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn after_copy(table: *mut pg_sys::RangeVar, processed: u64) {
    if is_exempt() {
        return;
    }
    if let Some((_, place)) = named(table) {
        settle(place, Some(Own { rows: processed as i64, updated: 0 }), Some(Kind::BulkInsert));
    }
}
