//! Steps that hold something back: throttles, paused jobs, autovacuum kept away, maintenance drained. Each is a lease whose
//! row commits together with its journal row.

use std::time::{Duration, Instant};

use healing::lease::{LeaseKind, Over};
use healing::plan::Step;
use healing::recovery::StepState;
use healing::remedies::must_go_on;
use healing::throttle::{Percentages, Rates};
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Went};
use crate::background::{self, process};
use crate::collect::Collection;
use crate::error::Error;
use crate::transaction::transaction;
use crate::{collect, journal, leases, throttle};

/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait for the process that keeps autovacuum away: an autovacuum that holds the table is cancelled after
/// `deadlock_timeout`.
const HOLDER_PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn set_throttle(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    percentages: Percentages,
    baseline: Rates,
    lease_s: i64,
) -> Result<Went, Error> {
    // Both previous shares are read before anything is set.
    let previous = context.intend(step_no, step, || {
        let previous =
            throttle::in_force(context.collection)?.map_or(Percentages::NONE, |present| present.percentages);
        Ok((previous, json!({ "previous": previous })))
    })?;
    transaction(|| {
        let effect = serde_json::to_value(throttle::Effect { percentages, baseline })?;
        let lease = leases::begin(
            context.collection.id,
            Some(context.action_id),
            LeaseKind::Throttle,
            &context.collection.id.to_string(),
            effect,
            serde_json::to_value(previous)?,
            lease_s,
        )?;
        context.note(step_no, step, StepState::Done, leased(lease, None)?)
    })?;
    transaction(throttle::load)?;
    Ok(Went::Done)
}

/// What a step of this file would run.
pub(super) fn sql(step: &Step, collection: &Collection) -> Option<String> {
    let lease = |kind: LeaseKind, seconds: i64| {
        format!(
            "INSERT INTO ruvector.leases (collection_id, kind, ends_at) VALUES ({}, '{}', clock_timestamp() + interval '{seconds} s')",
            collection.id,
            kind.as_str()
        )
    };
    match step {
        Step::SetThrottle { lease_s, .. } => Some(lease(LeaseKind::Throttle, *lease_s)),
        Step::PauseJob { jobid, lease_s, .. } => Some(format!(
            "{}; SELECT cron.alter_job({jobid}, active := false)",
            lease(LeaseKind::CronJob, *lease_s)
        )),
        Step::PauseAutovacuum { lease_s } => Some(format!(
            "{} /* and SHARE UPDATE EXCLUSIVE on its tables by a process of its own */",
            lease(LeaseKind::Autovacuum, *lease_s)
        )),
        Step::DrainMaintenance { cancel, .. } if !cancel.is_empty() => {
            Some(format!("SELECT pg_cancel_backend($1) /* of {} */", cancel.join(", ")))
        }
        _ => None,
    }
}

/// What the journal says of a step that holds something back: its lease, and the SQL that made it (with that of its effect
/// and of the way back, where that is not the lease alone).
fn leased(lease: i64, effect: Option<(String, String)>) -> Result<Value, Error> {
    let end = leases::end_sql(lease, Over::Released);
    let begin = leases::begin_sql(lease)?;
    let (sql, inverse) = match effect {
        Some((effect, back)) => (format!("{begin}; {effect}"), format!("{back}; {end}")),
        None => (begin, end),
    };
    Ok(json!({ "lease": lease, (journal::SQL): sql, (journal::INVERSE): inverse }))
}

/// A job as it is.
#[derive(Deserialize)]
struct Job {
    active: bool,
    command: String,
    name: String,
}

fn job(jobid: i64) -> Result<Option<Job>, Error> {
    if Spi::get_one::<bool>("SELECT ruvector._has_cron()")? != Some(true) {
        return Ok(None);
    }
    let query = "SELECT jsonb_build_object('active', j.active, 'command', j.command,
                        'name', coalesce(j.jobname, left(j.command, 40))) FROM cron.job j WHERE j.jobid = $1";
    Ok(collect::documents(query, &[jobid.into()])?.pop())
}

pub(super) fn pause_job(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    jobid: i64,
    command: &str,
    lease_s: i64,
) -> Result<Went, Error> {
    // The job, or what the step notes where there is nothing to pause.
    let look = || -> Result<Result<Job, Value>, Error> {
        // Gone or inactive by now: what was wanted.
        let Some(job) = job(jobid)? else { return Ok(Err(json!({}))) };
        if job.command != command {
            return Err(Error::refused(format!("job {jobid} was changed since the plan was made")));
        }
        if !job.active {
            return Ok(Err(json!({})));
        }
        // Its user may have changed, or the table's owner, or what the user means by a name.
        let scheduled = collect::scheduled(context.collection)?.unwrap_or_default();
        let Some(own) = scheduled.iter().find(|one| one.jobid == jobid) else {
            return Err(Error::refused(format!("job {jobid} is not the collection's to pause any more")));
        };
        // It may have begun since.
        Ok(match must_go_on(own, &collect::jobs(context.collection)?) {
            Some(why) => Err(json!({ "left": why })),
            None => Ok(job),
        })
    };
    context.intend(step_no, step, || look().map(|_| ((), json!({}))))?;
    transaction(|| {
        let job = match look()? {
            Ok(job) => job,
            Err(details) => return context.note(step_no, step, StepState::Done, details),
        };
        Spi::run_with_args("SELECT cron.alter_job($1, active := false)", &[jobid.into()])?;
        let lease = leases::begin(
            context.collection.id,
            Some(context.action_id),
            LeaseKind::CronJob,
            &jobid.to_string(),
            json!({ "active": false, "name": job.name }),
            leases::job_before(jobid)?,
            lease_s,
        )?;
        let call = |active: bool| format!("SELECT cron.alter_job({jobid}, active := {active})");
        context.note(step_no, step, StepState::Done, leased(lease, Some((call(false), call(true))))?)
    })?;
    Ok(Went::Done)
}

pub(super) fn pause_autovacuum(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    lease_s: i64,
) -> Result<Went, Error> {
    context.intend(step_no, step, || Ok(((), json!({}))))?;
    let lease = transaction(|| {
        let lease = leases::begin(
            context.collection.id,
            Some(context.action_id),
            LeaseKind::Autovacuum,
            &context.collection.id.to_string(),
            json!({ "lock": "SHARE UPDATE EXCLUSIVE" }),
            json!({}),
            lease_s,
        )?;
        background::wake_healer_at_commit();
        Ok(lease)
    })?;
    // The healer starts the process that holds the lock: it outlives this one.
    let until = Instant::now() + HOLDER_PATIENCE;
    loop {
        if transaction(|| leases::is_held(lease))? {
            transaction(|| context.note(step_no, step, StepState::Done, leased(lease, None)?))?;
            return Ok(Went::Done);
        }
        let ended = transaction(|| Ok(leases::all()?.iter().all(|row| row.lease.id != lease)))?;
        if ended || Instant::now() >= until {
            return Err(Error::refused(
                "autovacuum could not be kept away: somebody else wants the table's lock",
            ));
        }
        process::pause(LOOK);
    }
}

pub(super) fn drain(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    wait_for: &[String],
    cancel: &[String],
    wait_s: i64,
) -> Result<Went, Error> {
    context.intend(step_no, step, || Ok(((), json!({}))))?;
    // Each with whether the table's owner may cancel it.
    let under_way = |named: &[String]| -> Result<Vec<(String, bool)>, Error> {
        let jobs = transaction(|| collect::jobs(context.collection))?;
        let found = jobs.into_iter().map(|job| (job.id, job.may_cancel));
        Ok(found.filter(|(id, _)| named.contains(id)).collect())
    };
    let ids = |found: Vec<(String, bool)>| found.into_iter().map(|(id, _)| id).collect::<Vec<String>>();
    // By its id, which names kind and process: what has that process by now is looked at first.
    let (ours, others): (Vec<_>, Vec<_>) =
        under_way(cancel)?.into_iter().partition(|(_, may_cancel)| *may_cancel);
    let (cancelled, others) = (ids(ours), ids(others));
    for id in &cancelled {
        if let Some(pid) = id.rsplit(' ').next().and_then(|pid| pid.parse::<i32>().ok()) {
            transaction(|| Ok(Spi::run_with_args("SELECT pg_cancel_backend($1)", &[pid.into()])?))?;
        }
    }
    let all: Vec<String> = wait_for.iter().chain(cancel).cloned().collect();
    let until = Instant::now() + Duration::from_secs(wait_s.unsigned_abs());
    let left = loop {
        let left = ids(under_way(&all)?);
        if left.is_empty() || Instant::now() >= until {
            break left;
        }
        process::pause(LOOK);
    };
    let calls: Vec<String> = cancelled
        .iter()
        .filter_map(|id| Some(format!("SELECT pg_cancel_backend({})", id.rsplit(' ').next()?)))
        .collect();
    let mut details = json!({ "cancelled": cancelled, "not_cancelled": others, "left": left });
    if !calls.is_empty() {
        details[journal::SQL] = json!(calls.join("; "));
    }
    context.done(step_no, step, details)?;
    Ok(Went::Done)
}

/// Puts back what a step of this file holds. Must be repeatable.
pub(super) fn revert(
    context: &Context<'_>,
    step: &Step,
    note: impl FnOnce(Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let (kind, subject) = match step {
        Step::SetThrottle { .. } => (LeaseKind::Throttle, context.collection.id.to_string()),
        Step::PauseJob { jobid, .. } => (LeaseKind::CronJob, jobid.to_string()),
        Step::PauseAutovacuum { .. } => (LeaseKind::Autovacuum, context.collection.id.to_string()),
        other => {
            return Err(Error::refused(format!(
                "there is nothing to put back: {}",
                healing::explain::step(other)
            )));
        }
    };
    transaction(|| {
        let ended = leases::release(context.action_id, kind, &subject)?;
        let sql: Vec<String> = ended.into_iter().map(|id| leases::end_sql(id, Over::Released)).collect();
        note(if sql.is_empty() { json!({}) } else { json!({ (journal::SQL): sql.join("; ") }) })
    })?;
    transaction(throttle::load)
}
