//! Holding maintenance back under a lease: a job of pg_cron made inactive until the healer lets go of it, autovacuum kept away by
//! a process that ends by itself; what is under way cancelled or waited for.

use healing::lease::{Lease, LeaseKind, over};
use healing::plan::Step;
use healing::recovery::{RecoveryCommand, StepState};
use serde_json::json;

use super::swap_index::lock_times_out;
use super::{SHORT_MS, effect, note};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};
use crate::world::maintenance::Hold;

/// How often it is looked whether something has ended, milliseconds.
const LOOK_MS: i64 = 1000;

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    match &turn.step {
        Step::PauseJob { .. } => {
            vec![op("pause_job.intent", intent, turn), op("pause_job.done", pause_job, turn)]
        }
        Step::PauseAutovacuum { .. } => vec![
            op("pause_autovacuum.intent", intent, turn),
            op("pause_autovacuum.done", pause_autovacuum, turn),
        ],
        _ => vec![
            op("drain_maintenance.intent", intent, turn),
            op("drain_maintenance.cancel", cancel, turn),
            op("drain_maintenance.wait", wait, turn),
        ],
    }
}

pub(super) fn inverse(turn: &Turn) -> Vec<Op> {
    match &turn.step {
        Step::PauseJob { .. } => vec![op("undo.pause_job", undo, turn)],
        _ => vec![op("undo.pause_autovacuum", undo, turn)],
    }
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    if let Step::PauseJob { jobid, command, .. } = &turn.step {
        let job = stage.world.maintenance.jobs.iter().find(|job| job.jobid == *jobid);
        if job.is_some_and(|job| job.command != *command) {
            return Err(format!("job {jobid} was changed since the plan was made"));
        }
    }
    note(stage, turn, StepState::Intent, json!({}));
    Ok(Then::Next(SHORT_MS))
}

fn hold(stage: &Stage, turn: &Turn, lease_s: i64) -> Hold {
    let begins = stage.world.wall();
    Hold { action: turn.action, begins, until: begins + lease_s * 1000, set: stage.world.now, lease_s }
}

fn pause_job(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::PauseJob { jobid, lease_s, .. } = &turn.step else { return Err("no job".to_owned()) };
    let hold = hold(stage, turn, *lease_s);
    let number = turn.collection;
    let jobs = &mut stage.world.maintenance.jobs;
    // Gone or inactive by now: what was wanted.
    if let Some(job) = jobs.iter_mut().find(|job| job.jobid == *jobid && job.active) {
        (job.active, job.held) = (false, Some(hold));
        effect(stage, turn, "pause a job");
        stage.world.collections[number].touch();
    }
    note(stage, turn, StepState::Done, json!({}));
    Ok(Then::Next(SHORT_MS))
}

fn pause_autovacuum(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::PauseAutovacuum { lease_s } = &turn.step else { return Err("no autovacuum".to_owned()) };
    if lock_times_out(stage) {
        return Ok(Then::PutOff("somebody else wants the table's lock".to_owned()));
    }
    effect(stage, turn, "keep autovacuum away");
    let hold = hold(stage, turn, *lease_s);
    stage.world.keep_autovacuum_away(turn.collection, hold);
    note(stage, turn, StepState::Done, json!({}));
    Ok(Then::Next(LOOK_MS))
}

fn cancel(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::DrainMaintenance { cancel, .. } = &turn.step else { return Err("nothing to drain".to_owned()) };
    if !cancel.is_empty() {
        effect(stage, turn, "cancel");
        cancel.iter().for_each(|id| stage.world.maintenance.cancel(id));
        stage.world.collections[turn.collection].touch();
    }
    Ok(Then::Next(SHORT_MS))
}

fn wait(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::DrainMaintenance { wait_for, cancel, wait_s } = &turn.step else {
        return Err("nothing to drain".to_owned());
    };
    let under_way = stage.world.maintenance.ids(turn.collection);
    let left: Vec<&String> = wait_for.iter().chain(cancel).filter(|id| under_way.contains(id)).collect();
    if !left.is_empty() && i64::from(turn.tries) * LOOK_MS < wait_s * 1000 {
        return Ok(Then::Again(LOOK_MS));
    }
    note(stage, turn, StepState::Done, json!({ "left": left }));
    Ok(Then::Next(SHORT_MS))
}

fn undo(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Some(RecoveryCommand::Revert { step, .. }) = turn.command.as_deref() else {
        return Err("nothing was held back".to_owned());
    };
    effect(stage, turn, "let go");
    let maintenance = &mut stage.world.maintenance;
    match step.as_ref() {
        Step::PauseJob { jobid, .. } => {
            for job in maintenance.jobs.iter_mut().filter(|job| job.jobid == *jobid) {
                // An intent may never have come about.
                job.active |= job.held.take().is_some();
            }
        }
        _ => {
            maintenance.away.remove(&turn.collection);
        }
    }
    stage.world.collections[turn.collection].touch();
    note(stage, turn, StepState::Undone, json!({}));
    Ok(Then::Next(SHORT_MS))
}

/// Whether the core says that a hold is over.
fn is_over(stage: &Stage, number: usize, kind: LeaseKind, hold: &Hold) -> bool {
    let lease = Lease {
        id: hold.action,
        kind,
        subject: number.to_string(),
        begins: hold.begins,
        ends: hold.until,
        collection_is_there: true,
        enabled: stage.world.collections[number].config.enabled,
        action: stage.store.actions.get(&hold.action).map(|action| action.status),
    };
    over(&lease, stage.world.wall()).is_some()
}

/// The healer lets go of jobs: they run again.
pub fn end_leases(stage: &mut Stage) {
    if stage.has(Defect::JobStaysPaused) {
        return;
    }
    let held = stage.world.maintenance.jobs.iter().enumerate();
    let held = held.filter_map(|(at, job)| Some((at, job.collection, job.held?)));
    let over: Vec<(usize, usize)> = held
        .filter(|(_, number, hold)| is_over(stage, *number, LeaseKind::CronJob, hold))
        .map(|(at, number, _)| (at, number))
        .collect();
    for (at, number) in over {
        let job = &mut stage.world.maintenance.jobs[at];
        (job.active, job.held) = (true, None);
        stage.world.collections[number].touch();
    }
}

/// The processes that keep autovacuum away end by themselves, with or without a healer.
pub fn holders_let_go(stage: &mut Stage) {
    if stage.world.maintenance.away.is_empty() || !stage.world.is_up() {
        return;
    }
    let away = stage.world.maintenance.away.iter();
    let over: Vec<usize> = away
        .filter(|(number, hold)| is_over(stage, **number, LeaseKind::Autovacuum, hold))
        .map(|(number, _)| *number)
        .collect();
    for number in over {
        stage.world.maintenance.away.remove(&number);
        stage.world.collections[number].touch();
    }
}
