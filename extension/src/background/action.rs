//! The worker of one action: carries out its plan, verifies, keeps or undoes, and writes the outcome.
//!
//! ```text
//! approved ─ steps ─ verify over the window ─ keep recorded ─ drop the losers ─ succeeded
//!              │              │
//!              └── undo ──────┴─ rolled_back | failed | aborted | rollback_failed
//! ```
//!
//! A session-level advisory lock on the action's number says that its worker lives. When a worker dies, by whatever
//! means, the healer starts another, which finds the action executing or verifying and recovers it.

use std::time::Duration;

use healing::explain;
use healing::lifecycle::{Lesson, Status};
use healing::plan::Step;
use healing::recovery::{self, RecoveryCommand, StepState, StopReason};
use healing::remedies;
use healing::snapshot::{Snapshot, UnixMs};
use healing::verification::{Outcome, Verification, verify};
use pgrx::prelude::*;

use super::{arms, process};
use crate::collect::{self, Kind};
use crate::error::Error;
use crate::execute::{self, Context, Went};
use crate::journal::{self, Action, Ending};
use crate::shared;
use crate::transaction::transaction;

/// First key of the advisory locks that living workers hold; the second is the action's number.
pub(super) const LOCK_CLASS: u32 = 0x7275_7665;
/// Kind of these locks. Those that SQL can take are of kind 1 (one key) and 2 (two keys): nobody else can hold ours.
pub(super) const LOCK_KIND: i16 = 3;
/// Times that an undo is tried before a human must look, with a growing pause between.
const UNDO_TRIES: u32 = 6;
/// The window is extended this often while a measurement is missing.
const WINDOWS_MAX: u32 = 3;

pub(super) fn run(database: pg_sys::Oid, id: i64) {
    process::start(Some(database), c"ruvector action");
    match transaction(|| Ok(lock(id))) {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            pgrx::warning!("ruvector: action {id}: {error}");
            return;
        }
    }
    shared::worker_begins(database.to_u32());
    if let Err(error) = work(id) {
        // The action stays as it is; the healer starts another worker for it.
        pgrx::warning!("ruvector: action {id}: {error}");
        process::sleep(Duration::from_secs(1));
    }
}

/// Takes the action's lock until this process ends.
fn lock(id: i64) -> bool {
    // SAFETY: a complete tag; a session-level lock needs no transaction to outlive.
    let result = unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.to_u32(),
            locktag_field2: LOCK_CLASS,
            locktag_field3: id as u32,
            locktag_field4: LOCK_KIND as u16,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        };
        pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, true, true)
    };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// How the work on an action came out.
struct CameOut {
    status: Status,
    lesson: Lesson,
    verification: Option<Verification>,
    error: Option<String>,
}

fn work(id: i64) -> Result<(), Error> {
    transaction(|| journal::worker_begins(id))?;
    let Some(mut action) = transaction(|| journal::load(id))? else { return Ok(()) };
    let Some(collection) = transaction(|| collect::collection(action.collection_id))? else {
        return Err(Error::refused("its collection is not registered any more"));
    };
    let config = collection.config()?;
    let context = Context { action_id: id, collection: &collection, config: &config };
    let came_out = match action.status {
        Status::Approved => {
            transaction(|| {
                journal::advance(id, Status::Approved, Status::Executing)?;
                journal::set_deadline(id, action.plan.timeout_s)
            })?;
            action.status = Status::Executing;
            carry_out(&context, &mut action)
        }
        Status::Executing | Status::Verifying => recover(&context, &mut action),
        _ => return Ok(()),
    };
    finish(&context, &action, &came_out)
}

/// The straight way.
fn carry_out(context: &Context<'_>, action: &mut Action) -> CameOut {
    match steps_and_verification(context, action) {
        Ok(verification) if verification.verified => {
            action.keep = true;
            action.verification = Some(verification);
            tidy_up(context, action)
        }
        Ok(verification) => {
            let error = format!("not verified: {}", verification.reason);
            // A reading that did not come in all windows says nothing of the remedy.
            let lesson = if verification.complete { Lesson::NoGain } else { Lesson::Postponed };
            undo(context, action, Some(verification), lesson, error)
        }
        Err(Stopped::Lost(reason)) => undo(context, action, None, Lesson::NoGain, reason),
        Err(Stopped::Failed(error)) => undo(context, action, None, error.lesson(), error.to_string()),
    }
}

enum Stopped {
    /// It was no gain: the new index is not better, or no search effort finds enough.
    Lost(String),
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Failed(error)
    }
}

fn is_after_verification(step: &Step) -> bool {
    matches!(step, Step::DropLoser { .. })
}

fn numbered(action: &Action) -> impl Iterator<Item = (u32, &Step)> {
    (0u32..).zip(&action.plan.steps)
}

fn steps_and_verification(context: &Context<'_>, action: &mut Action) -> Result<Verification, Stopped> {
    for (step_no, step) in numbered(action).filter(|(_, step)| !is_after_verification(step)) {
        if let Went::Lost(reason) = execute::perform(context, step_no, step)? {
            return Err(Stopped::Lost(reason));
        }
    }
    let window_s = context.config.verify_window_seconds as f64;
    transaction(|| {
        journal::advance(action.id, Status::Executing, Status::Verifying)?;
        journal::progress(action.id, "measure whether it helped")?;
        // Measuring itself takes time too.
        journal::set_deadline(action.id, f64::from(WINDOWS_MAX) * window_s + action.plan.timeout_s)
    })?;
    action.status = Status::Verifying;
    let mut windows = 0;
    loop {
        process::pause(Duration::from_secs_f64(window_s));
        windows += 1;
        let verification = measure(context, action)?;
        if verification.complete || windows == WINDOWS_MAX {
            if verification.verified {
                transaction(|| journal::keep(action.id, &verification))?;
            }
            return Ok(verification);
        }
    }
}

/// Measures the action's indexes anew and asks the core whether it helped.
fn measure(context: &Context<'_>, action: &Action) -> Result<Verification, Error> {
    let after = observe(context, action)?;
    let verdicts = transaction(|| Ok(journal::verdicts(&journal::entries(action.id)?)))?;
    let remedy = remedies::find(&action.plan.strategy)
        .ok_or_else(|| Error::refused(format!("there is no strategy {}", action.plan.strategy)))?;
    verify(
        remedy,
        &Outcome {
            problem: &action.problem,
            plan: &action.plan,
            before: &action.before,
            after: &after,
            verdicts: &verdicts,
            config: context.config,
        },
    )
    .map_err(|error| Error::refused(error.to_string()))
}

/// A snapshot with fresh readings of the indexes that the plan names.
fn observe(context: &Context<'_>, action: &Action) -> Result<Snapshot, Error> {
    let Context { collection, config, .. } = *context;
    let names: Vec<&str> = action.plan.steps.iter().map(|step| step.target().name.as_str()).collect();
    for row in transaction(|| collect::indexes(collection))? {
        if row.valid && names.contains(&row.name.as_str()) {
            collect::take(Kind::Panel, collection, &row, config)?;
            if Kind::Structure.is_due(&row, config) {
                collect::take(Kind::Structure, collection, &row, config)?;
            }
        }
    }
    transaction(|| collect::snapshot(collection, &collect::indexes(collection)?, collect::now_ms()))
}

/// The losers are dropped; what fails there does not take the success back.
fn tidy_up(context: &Context<'_>, action: &Action) -> CameOut {
    let mut error = None;
    for (step_no, step) in numbered(action).filter(|(_, step)| is_after_verification(step)) {
        if let Err(failed) = execute::perform(context, step_no, step) {
            error = Some(failed.to_string());
            break;
        }
    }
    if error.is_some() {
        error =
            commands(context, action, |action, entries| Ok(recovery::resolve(&action.plan, entries, true)))
                .err()
                .map(|error| format!("it helped, but the former index could not be dropped: {error}"));
    }
    CameOut {
        status: Status::Succeeded,
        lesson: Lesson::Helped,
        verification: action.verification.clone(),
        error,
    }
}

/// Takes back whatever was done or begun.
fn undo(
    context: &Context<'_>,
    action: &Action,
    verification: Option<Verification>,
    lesson: Lesson,
    error: String,
) -> CameOut {
    let took_effect = transaction(|| took_effect(action.id)).unwrap_or(true);
    let undone = commands(context, action, |_, entries| {
        let mut left = recovery::take_back(entries).map_err(|error| Error::refused(error.to_string()))?;
        // An invalid index that was surplus is not missed.
        left.retain(|command| !matches!(command, RecoveryCommand::RebuildDropped { .. }));
        Ok(left)
    });
    match undone {
        Ok(()) => {
            let status = if took_effect { Status::RolledBack } else { Status::Failed };
            CameOut { status, lesson, verification, error: Some(error) }
        }
        Err(failed) => CameOut {
            status: Status::RollbackFailed,
            lesson: Lesson::UndoFailed,
            verification,
            error: Some(format!("{error}; undoing it failed: {failed}")),
        },
    }
}

/// Whether anything that users could notice, or a comparison, came about: then undoing it is a rollback.
fn took_effect(id: i64) -> Result<bool, Error> {
    // An index that was rebuilt in place stays as it is.
    let undone = |step: &Step| !matches!(step, Step::BuildIndex { .. } | Step::ReindexConcurrently { .. });
    Ok(journal::entries(id)?.iter().any(|entry| entry.state == StepState::Done && undone(&entry.step)))
}

/// Runs what `resolve` says is left, until nothing is.
fn commands(
    context: &Context<'_>,
    action: &Action,
    resolve: impl Fn(&Action, &[recovery::JournalEntry]) -> Result<Vec<RecoveryCommand>, Error>,
) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        let entries = transaction(|| journal::entries(action.id))?;
        let left = resolve(action, &entries)?;
        if left.is_empty() {
            return Ok(());
        }
        transaction(|| journal::progress(action.id, "undo or finish what is left"))?;
        let result =
            left.iter().try_for_each(|command| execute::recover(context, &action.plan.steps, command));
        if let Err(error) = result {
            tries += 1;
            if tries == UNDO_TRIES {
                return Err(error);
            }
            pgrx::log!("ruvector: action {}: {error}; trying again", action.id);
            process::sleep(Duration::from_secs(1 << tries));
        }
    }
}

/// The worker before this one died: finish what was verified, undo what was not.
fn recover(context: &Context<'_>, action: &mut Action) -> CameOut {
    if action.keep {
        let error =
            commands(context, action, |action, entries| Ok(recovery::resolve(&action.plan, entries, true)))
                .err()
                .map(|error| format!("it helped, but the former index could not be dropped: {error}"));
        return CameOut {
            status: Status::Succeeded,
            lesson: Lesson::Helped,
            verification: action.verification.clone(),
            error,
        };
    }
    let (status, lesson, why) = action.gone().ending(action.crashed);
    let why = match action.stop_reason {
        Some(StopReason::Timeout) => format!("{why} of {:.0} s", action.plan.timeout_s),
        _ => why.to_owned(),
    };
    let undone =
        commands(context, action, |action, entries| Ok(recovery::resolve(&action.plan, entries, false)));
    match undone {
        Ok(()) => CameOut { status, lesson, verification: None, error: Some(why) },
        Err(failed) => CameOut {
            status: Status::RollbackFailed,
            lesson: Lesson::UndoFailed,
            verification: None,
            error: Some(format!("{why}; undoing it failed: {failed}")),
        },
    }
}

/// Writes the outcome, in one transaction with the status.
fn finish(context: &Context<'_>, action: &Action, came_out: &CameOut) -> Result<(), Error> {
    let Context { collection, config, .. } = *context;
    // The table may be gone: then there is nothing to measure, and the outcome says so by NULL.
    let after = transaction(|| {
        let rows = collect::indexes(collection)?;
        collect::snapshot(collection, &rows, collect::now_ms())
    })
    .ok();
    let final_lambda = after
        .as_ref()
        .and_then(|after| healing::integrity::assess(after, config).ok())
        .and_then(|assessment| assessment.lambda);
    let now: UnixMs = collect::now_ms();
    transaction(|| {
        let story = story(action, came_out)?;
        journal::end(
            action,
            &Ending {
                status: came_out.status,
                lesson: came_out.lesson,
                verification: came_out.verification.as_ref(),
                error: came_out.error.as_deref(),
                final_lambda,
                story: &story,
                system_metrics: journal::system_metrics(&action.before, after.as_ref()),
            },
        )?;
        arms::record(action.collection_id, &action.plan.strategy, came_out.lesson, now, config)
    })?;
    super::wake_healer_at_commit();
    transaction(|| Ok(()))
}

/// The whole story in words: found, planned, done, compared, verified, ended.
fn story(action: &Action, came_out: &CameOut) -> Result<String, Error> {
    let entries = journal::entries(action.id)?;
    let mut lines = vec![
        format!("Found: {}", explain::problem(&action.problem)),
        format!("Planned: {}", explain::plan(&action.plan)),
    ];
    let steps = journal::steps_in_words(action.id)?;
    if !steps.is_empty() {
        lines.push(format!("Did: {}.", steps.join("; ")));
    }
    lines.extend(journal::verdicts(&entries).iter().map(|v| format!("Compared: {}", explain::verdict(v))));
    if let Some(verification) = &came_out.verification {
        let word = if verification.verified { "Verified" } else { "Not verified" };
        lines.push(format!("{word}: {}.", verification.reason));
    }
    let why = came_out.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    lines.push(format!("Ended: {}{why}.", came_out.status.as_str()));
    Ok(lines.join("\n"))
}
