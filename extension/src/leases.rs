//! Leases: rows of `ruvector.leases`, ended when the core says so and put into force again after every start.
//!
//! What each kind holds back: `throttle` writers (shared memory, which carries the end itself), `cron_job` a job of pg_cron
//! (its `active`, put back here), `autovacuum` a collection's tables (session-level locks of a process of its own, gone with
//! it), `drain` a partition.

use std::cell::{Cell, RefCell};

use healing::lease::{self, Lease, LeaseKind, Over};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::audit::{self, Happened};
use crate::error::Error;
use crate::transaction::transaction;
use crate::{collect, kept, shared, throttle};

/// A lease that nobody has ended.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) lease: Lease,
    pub(crate) collection: i32,
    /// What is in force.
    pub(crate) effect: Value,
    /// What was before.
    pub(crate) restore: Value,
}

/// Every lease that nobody has ended. Must run in a transaction.
pub(crate) fn all() -> Result<Vec<Row>, Error> {
    collect::documents(
        "SELECT jsonb_build_object('id', l.id, 'kind', l.kind, 'subject', l.subject, 'collection', l.collection_id,
                'begins', (extract(epoch FROM l.begins_at) * 1000)::bigint,
                'ends', (extract(epoch FROM l.ends_at) * 1000)::bigint,
                'collection_is_there', EXISTS (SELECT FROM ruvector.collections c JOIN pg_class t ON t.oid = c.relation
                                                WHERE c.id = l.collection_id),
                'enabled', ruvector._healing_is_on(l.collection_id),
                'action', (SELECT a.status FROM ruvector.actions a WHERE a.id = l.action_id),
                'effect', l.effect, 'restore', l.restore)
           FROM ruvector.leases l WHERE l.ended_at IS NULL ORDER BY l.id",
        &[],
    )
}

/// Whether a collection's maintenance is paused at this moment. Must run in a transaction.
pub(crate) fn maintenance_is_paused(collection: i32) -> Result<bool, Error> {
    let found: Option<bool> = kept::one(
        "SELECT EXISTS (SELECT FROM ruvector.leases l WHERE l.collection_id = $1 AND l.ended_at IS NULL
                           AND l.kind IN ('cron_job', 'autovacuum') AND l.ends_at > clock_timestamp())",
        &[collection.into()],
    )?;
    Ok(found == Some(true))
}

/// Notes a lease. Its effect follows the commit: [`throttle::load`], a job, a lock.
pub(crate) fn begin(
    collection: i32,
    action: Option<i64>,
    kind: LeaseKind,
    subject: &str,
    effect: Value,
    restore: Value,
    seconds: i64,
) -> Result<i64, Error> {
    let seconds = seconds.clamp(1, lease::LEASE_MAX_S) as f64;
    Spi::get_one_with_args(
        "INSERT INTO ruvector.leases (collection_id, action_id, kind, subject, effect, restore, ends_at)
         VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(secs => $7)) RETURNING id",
        &[
            collection.into(),
            action.into(),
            kind.as_str().into(),
            subject.into(),
            JsonB(effect).into(),
            JsonB(restore).into(),
            seconds.into(),
        ],
    )?
    .ok_or_else(|| Error::refused("no lease was made"))
}

/// Ends a lease: what was before is put back, and both commit together. Must run in a transaction; a throttle is over with
/// the next [`throttle::load`].
pub(crate) fn end(row: &Row, why: Over) -> Result<(), Error> {
    let Lease { id, kind, subject, .. } = &row.lease;
    let left = if *kind == LeaseKind::CronJob { put_job_back(&row.restore)? } else { None };
    let ended: Option<i64> = Spi::get_one_with_args(
        "WITH ended AS (UPDATE ruvector.leases SET ended_at = clock_timestamp(), ended_because = $2,
                               effect = effect || jsonb_strip_nulls(jsonb_build_object('left', $3))
                         WHERE id = $1 AND ended_at IS NULL RETURNING id)
         SELECT (SELECT e.id FROM ended e)",
        &[(*id).into(), why.as_str().into(), left.as_deref().into()],
    )?;
    if ended.is_none() {
        return Ok(());
    }
    if let Some(left) = &left {
        pgrx::log!("ruvector: lease {id} is over, and job {subject} of pg_cron stays inactive: {left}");
    }
    let (action, collection): (Option<i64>, Option<String>) = Spi::get_two_with_args(
        "SELECT l.action_id, c.name FROM ruvector.leases l LEFT JOIN ruvector.collections c ON c.id = l.collection_id WHERE l.id = $1",
        &[(*id).into()],
    )?;
    audit::note(&Happened {
        event: "lease_ended",
        action_id: action,
        collection: collection.as_deref(),
        statement: Some(&end_sql(*id, why)),
        inverse: None,
        details: match left {
            Some(left) => {
                json!({ "lease": id, "kind": kind, "subject": subject, "why": why, "left": left })
            }
            None => {
                json!({ "lease": id, "kind": kind, "subject": subject, "why": why, "restored": row.restore })
            }
        },
    })
}

/// The SQL that made a lease.
pub(crate) fn begin_sql(id: i64) -> Result<String, Error> {
    let sql: Option<String> = Spi::get_one_with_args(
        "SELECT format('INSERT INTO ruvector.leases (collection_id, action_id, kind, subject, effect, restore, ends_at) \
                        VALUES (%s, %L, %L, %L, %L, %L, %L)', l.collection_id, l.action_id, l.kind, l.subject, l.effect, l.restore,
                       l.ends_at)
           FROM ruvector.leases l WHERE l.id = $1",
        &[id.into()],
    )?;
    sql.ok_or_else(|| Error::refused(format!("lease {id} is not there")))
}

/// The SQL that ends a lease: what is in force by it follows the table.
pub(crate) fn end_sql(id: i64, why: Over) -> String {
    format!(
        "UPDATE ruvector.leases SET ended_at = clock_timestamp(), ended_because = '{}' WHERE id = {id} AND ended_at IS NULL",
        why.as_str()
    )
}

/// Ends what an action holds of this kind and subject: the undoing of a step. Which leases that were.
pub(crate) fn release(action: i64, kind: LeaseKind, subject: &str) -> Result<Vec<i64>, Error> {
    let held: Vec<i64> = collect::documents(
        "SELECT to_jsonb(l.id) FROM ruvector.leases l
          WHERE l.action_id = $1 AND l.kind = $2 AND l.subject = $3 AND l.ended_at IS NULL ORDER BY l.id DESC",
        &[action.into(), kind.as_str().into(), subject.into()],
    )?;
    held.iter().try_for_each(|id| end_one(*id, Over::Released))?;
    Ok(held)
}

/// A lease that nobody has ended.
pub(crate) fn open(id: i64) -> Result<Option<Row>, Error> {
    Ok(all()?.into_iter().find(|row| row.lease.id == id))
}

/// Ends one, if nobody has.
pub(crate) fn end_one(id: i64, why: Over) -> Result<(), Error> {
    open(id)?.map_or(Ok(()), |row| end(&row, why))
}

/// Notes in the lease that this process holds its lock.
pub(crate) fn note_held(id: i64) -> Result<(), Error> {
    // SAFETY: own process id.
    let pid = unsafe { pg_sys::MyProcPid };
    Ok(Spi::run_with_args(
        "UPDATE ruvector.leases SET effect = effect || jsonb_build_object('pid', $2) WHERE id = $1",
        &[id.into(), pid.into()],
    )?)
}

/// Whether the process that holds a lease's lock lives.
pub(crate) fn is_held(id: i64) -> Result<bool, Error> {
    let query = "SELECT EXISTS (SELECT FROM ruvector.leases l JOIN pg_stat_activity a ON a.pid = (l.effect ->> 'pid')::integer
                                 WHERE l.id = $1 AND l.ended_at IS NULL AND a.backend_type = 'ruvector lease'
                                   AND a.backend_start > l.begins_at)";
    Ok(Spi::get_one_with_args(query, &[id.into()])? == Some(true))
}

/// A job that this transaction has paused, as it was: with what shows later whether it was written since (`xmin`, of a row of that
/// file), whether more of it is different than whether it is active (`row`), and whether anything was scheduled (`numbers`).
const JOB_BEFORE: &str = "
SELECT jsonb_build_object('jobid', j.jobid, 'active', true, 'command', j.command, 'made_in', ruvector._here(),
       'xmin', j.xmin::text, 'file', pg_relation_filenode('cron.job')::text,
       'row', hashtextextended((to_jsonb(j) - 'active')::text, 0)::text, 'numbers', (SELECT s.last_value FROM cron.jobid_seq s))
  FROM cron.job j WHERE j.jobid = $1";

/// What the lease of a job keeps of it. Must run in the transaction that has made it inactive.
pub(crate) fn job_before(jobid: i64) -> Result<Value, Error> {
    let before: Option<Value> = collect::documents(JOB_BEFORE, &[jobid.into()])?.pop();
    before.ok_or_else(|| Error::refused(format!("job {jobid} is not there any more")))
}

/// The part of it by which the job is made active again.
#[derive(Deserialize)]
struct JobBefore {
    jobid: i64,
    active: bool,
    command: String,
    made_in: Option<String>,
}

/// A job that is still there and still paused gets its `active` again, also where it was given another command meanwhile: who
/// schedules a job anew under its name leaves it as inactive as it was. No other job ever gets its number there; where a dump
/// was restored another may have it, so that the command counts. One that somebody has made inactive since is left so: why, in words.
fn put_job_back(before: &Value) -> Result<Option<String>, Error> {
    let JobBefore { jobid, active, command, made_in } = serde_json::from_value(before.clone())?;
    if !active || Spi::get_one::<bool>("SELECT ruvector._has_cron()")? != Some(true) {
        return Ok(None);
    }
    let left: Option<String> =
        Spi::get_one_with_args("SELECT ruvector._left_inactive($1)", &[JsonB(before.clone()).into()])?;
    if left.is_some() {
        return Ok(left);
    }
    Spi::run_with_args(
        "SELECT cron.alter_job(j.jobid, active := true) FROM cron.job j
          WHERE j.jobid = $1 AND NOT j.active AND ($2 = ruvector._here() OR j.command = $3)",
        &[jobid.into(), made_in.into(), command.into()],
    )?;
    Ok(None)
}

/// Jobs that are paused: those whose lease is over by its time, all with `$1`. The tables may be another version's: these columns
/// leases have always had.
const PAUSED_JOBS: &str =
    "SELECT jsonb_build_object('id', l.id, 'kind', l.kind, 'subject', l.subject, 'collection', l.collection_id,
            'begins', (extract(epoch FROM l.begins_at) * 1000)::bigint,
            'ends', (extract(epoch FROM l.ends_at) * 1000)::bigint,
            'collection_is_there', true, 'enabled', true, 'action', NULL, 'effect', l.effect, 'restore', l.restore)
       FROM ruvector.leases l
      WHERE l.kind = 'cron_job' AND l.ended_at IS NULL AND ($1 OR l.ends_at <= clock_timestamp()) ORDER BY l.id DESC";

/// Ends the leases of jobs where nothing of the collections is looked after: those whose time is over, or all of them for any
/// other reason. Leases of other kinds end without us. Returns whether each of these was ended.
pub(crate) fn end_jobs(why: Over) -> Result<bool, Error> {
    // The first version had no leases.
    let there: Option<bool> =
        transaction(|| kept::one("SELECT to_regclass('ruvector.leases') IS NOT NULL", &[]))?;
    if there != Some(true) {
        return Ok(true);
    }
    let rows: Vec<Row> = transaction(|| collect::documents(PAUSED_JOBS, &[(why != Over::Expired).into()]))?;
    let ended: Vec<bool> = rows.iter().map(|row| end_or_say_why(row, why)).collect();
    Ok(ended.iter().all(|ended| *ended))
}

/// Ends a lease in a transaction of its own; whether it was ended.
fn end_or_say_why(row: &Row, why: Over) -> bool {
    let ended = transaction(|| end(row, why));
    if let Err(error) = &ended {
        let Lease { id, kind, .. } = &row.lease;
        pgrx::warning!("ruvector: lease {id} ({}) cannot be ended yet: {error}", kind.as_str());
    }
    ended.is_ok()
}

/// Ends the leases that are over and puts the others into force: at every start and every round of the healer. One that
/// cannot be ended is tried again in the next.
pub(crate) fn reconcile() -> Result<(), Error> {
    let rows = transaction(all)?;
    let plain: Vec<Lease> = rows.iter().map(|row| row.lease.clone()).collect();
    for (id, why) in lease::due(&plain, collect::now_ms()) {
        if let Some(row) = rows.iter().find(|row| row.lease.id == id) {
            end_or_say_why(row, why);
        }
    }
    transaction(throttle::load)
}

thread_local! {
    /// Leases on writers that the present transaction has ended, each with the subtransaction that did.
    static ENDED: RefCell<Vec<(i64, pg_sys::SubTransactionId)>> = const { RefCell::new(Vec::new()) };
    static CALLBACKS_SET: Cell<bool> = const { Cell::new(false) };
}

/// Ends a throttle once the present transaction has committed: the healer, which may be busy, is not waited for.
#[pg_extern(sql = false)]
fn end_throttle_at_commit(lease: i64) {
    if !shared::preloaded() {
        return;
    }
    // SAFETY: in a transaction.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    ENDED.with_borrow_mut(|ended| ended.push((lease, subtransaction)));
    if !CALLBACKS_SET.replace(true) {
        // SAFETY: registered once a process, the functions live as long as the library.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            ENDED.take().into_iter().for_each(|(lease, _)| throttle::end(lease));
        }
        // What is prepared is left to the healer.
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => drop(ENDED.take()),
        _ => {}
    }
}

/// What was ended in a part of the transaction that is rolled back was not.
#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    ENDED.with_borrow_mut(|ended| match event {
        SUBXACT_EVENT_ABORT_SUB => ended.retain(|(_, subtransaction)| *subtransaction != own),
        SUBXACT_EVENT_COMMIT_SUB => {
            for (_, subtransaction) in ended.iter_mut().filter(|(_, subtransaction)| *subtransaction == own) {
                *subtransaction = parent;
            }
        }
        _ => {}
    });
}
