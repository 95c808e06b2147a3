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

use std::time::{Duration, Instant};

use healing::classify::Problem;
use healing::config::Config;
use healing::explain;
use healing::integrity::component_lambda;
use healing::lifecycle::{Lesson, Status};
use healing::plan::{self, Part, Plan, Step};
use healing::recovery::{self, RecoveryCommand, StopReason, patience_s};
use healing::remedies::{self, Remedy};
use healing::rollback;
use healing::snapshot::{Snapshot, UnixMs};
use healing::verification::{LambdaChange, Outcome, Verification, verify};
use pgrx::prelude::*;

use super::{arms, learning, process};
use crate::collect::{self, Kind, load};
use crate::error::Error;
use crate::execute::{self, Context, Went};
use crate::journal::{self, Action, Ending};
use crate::owner::owner_of;
use crate::shared;
use crate::transaction::transaction;

/// First key of the advisory locks that living workers hold; the second is the action's number.
pub(super) const LOCK_CLASS: u32 = 0x7275_7665;
/// Kind of these locks. Those that SQL can take are of kind 1 (one key) and 2 (two keys): nobody else can hold ours.
pub(super) const LOCK_KIND: i16 = 3;
/// The window is extended this often while a measurement is missing.
const WINDOWS_MAX: u32 = 3;
/// How often the healer's next sample is looked for, and how long beyond two intervals.
const SAMPLE_LOOK: Duration = Duration::from_millis(250);
const SAMPLE_PATIENCE: Duration = Duration::from_secs(10);

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
                journal::begin_from_what_is_seen_now(id)?;
                journal::set_deadline(id, action.plan.timeout_s)
            })?;
            let Some(begun) = transaction(|| journal::load(id))? else { return Ok(()) };
            action = begun;
            match action.takes_back {
                Some(of) if action.plan.steps.is_empty() => undo_former(&context, &mut action, of),
                _ => carry_out(&context, &mut action),
            }
        }
        Status::Executing | Status::Verifying => match action.takes_back {
            // What takes back what was done is gone on with, not taken back itself.
            Some(of) if action.plan.steps.is_empty() => undo_former(&context, &mut action, of),
            _ => recover(&context, &mut action),
        },
        _ if action.unfinished => return late(&context, &action),
        _ => return Ok(()),
    };
    finish(&context, &action, &came_out)
}

/// Carries out the inverses of an earlier action's own journal: it is what a human wants taken back. Repeated after a
/// crash; each inverse does only what is still needed.
fn undo_former(context: &Context<'_>, action: &mut Action, of: i64) -> CameOut {
    let failed = |error: String, lesson| CameOut {
        status: Status::Failed,
        lesson,
        verification: None,
        error: Some(error),
    };
    if let Some(StopReason::Abort) = action.stop_reason {
        return CameOut {
            status: Status::Aborted,
            ..failed("stopped by a human".to_owned(), Lesson::Nothing)
        };
    }
    let former = match transaction(|| journal::load(of)) {
        // It may have waited for a human for a day.
        Ok(Some(former)) if former.status != Status::Succeeded => {
            return failed(format!("action {of} is {} by now", former.status.as_str()), Lesson::Postponed);
        }
        Ok(Some(former)) => former,
        Ok(None) => return failed(format!("action {of} is not there"), Lesson::Postponed),
        Err(error) => return failed(error.to_string(), error.lesson()),
    };
    let back = Context { action_id: of, ..*context };
    let undone = commands(&back, &former, |_, entries| {
        recovery::give_back(entries).map_err(|error| Error::refused(error.to_string()))
    });
    if let Err(error) = undone {
        return failed(format!("action {of} could not be taken back: {error}"), error.lesson());
    }
    let advanced = transaction(|| match action.status {
        Status::Executing => journal::advance(action.id, Status::Executing, Status::Verifying),
        _ => Ok(()),
    });
    if let Err(error) = advanced {
        return failed(error.to_string(), error.lesson());
    }
    action.status = Status::Verifying;
    CameOut { status: Status::Succeeded, lesson: Lesson::Nothing, verification: None, error: None }
}

/// A part of the plan that is taken back while the others go on.
struct LeftOut {
    why: String,
    lesson: Lesson,
}

/// The straight way.
fn carry_out(context: &Context<'_>, action: &mut Action) -> CameOut {
    match steps(context, action) {
        Ok(without) => conclude(context, action, without),
        Err(error) => go_on(context, action, error.to_string(), error.lesson()),
    }
}

fn numbered(action: &Action) -> impl Iterator<Item = (u32, &Step)> {
    (0u32..).zip(&action.plan.steps)
}

/// The steps before the verification. A part that was no gain is taken back at once, and the others go on, unless what is
/// done is enough.
fn steps(context: &Context<'_>, action: &Action) -> Result<Option<LeftOut>, Error> {
    let began = Instant::now();
    let mut done: Vec<Part> = Vec::new();
    let mut lost: Vec<Part> = Vec::new();
    let mut without = None;
    for (step_no, step) in numbered(action).filter(|(_, step)| !step.is_after_verification()) {
        let part = step.part();
        if lost.contains(&part) {
            continue;
        }
        if !done.contains(&part) {
            // Indexes that are rebuilt for the sake of moved rows are not one gain each.
            if let (Part::Index(of), false) = (&part, done.is_empty() || done.contains(&Part::Whole))
                && let Some(why) = enough_is_done(context, action, &done, began)
            {
                let why = format!("{} and what comes after it wait for the next action: {why}", of.name);
                without.get_or_insert(LeftOut { why, lesson: Lesson::Helped });
                break;
            }
            done.push(part.clone());
        }
        let (why, lesson) = match execute::perform(context, step_no, step)? {
            Went::Done => continue,
            Went::Lost(why) => (why, Lesson::NoGain),
            Went::Noop(why) => (why, Lesson::Nothing),
        };
        commands(context, action, |_, entries| Ok(recovery::undo_part(entries, &part)))?;
        done.retain(|other| *other != part);
        lost.push(part);
        without = Some(LeftOut { why, lesson });
    }
    Ok(without)
}

/// Why no further part is begun after these, if none is.
fn enough_is_done(
    context: &Context<'_>,
    action: &Action,
    done: &[Part],
    began: Instant,
) -> Option<plan::Enough> {
    let timeout_s = action.plan.timeout_s;
    let target = context.config.target_lambda();
    let by_time = plan::enough(began.elapsed().as_secs_f64(), timeout_s, None, target);
    if by_time.is_some() {
        return by_time;
    }
    // What could not be measured anew is no reason to stop.
    let lambda = observe(context, done)
        .ok()
        .and_then(|now| component_lambda(&now, &action.problem.component.nodes, context.config).ok())
        .flatten();
    plan::enough(began.elapsed().as_secs_f64(), timeout_s, lambda, target)
}

/// A part failed, or the worker died over it: what is complete is verified and kept without the rest, which is taken back.
fn go_on(context: &Context<'_>, action: &mut Action, why: String, lesson: Lesson) -> CameOut {
    let complete = match complete(action) {
        Ok(complete) if !complete.is_empty() => complete,
        _ => return undo(context, action, None, lesson, why),
    };
    let taken_back =
        commands(context, action, |action, entries| Ok(recovery::retreat(&action.plan, entries).commands));
    if let Err(failed) = taken_back {
        return CameOut {
            status: Status::RollbackFailed,
            lesson: failed.undo_lesson(lesson),
            verification: None,
            error: Some(format!("{why}; undoing it failed: {failed}")),
        };
    }
    let whole = action.plan.only(&complete).steps.len() == action.plan.steps.len();
    conclude(context, action, (!whole).then_some(LeftOut { why, lesson }))
}

/// The parts of the plan that are complete.
fn complete(action: &Action) -> Result<Vec<Part>, Error> {
    Ok(recovery::complete(&action.plan, &transaction(|| journal::entries(action.id))?))
}

/// Verifies what is complete, and keeps it or takes it back.
fn conclude(context: &Context<'_>, action: &mut Action, without: Option<LeftOut>) -> CameOut {
    match (complete(action), without) {
        (Ok(complete), Some(LeftOut { why, lesson: Lesson::Nothing })) if complete.is_empty() => {
            let noop = undo(context, action, None, Lesson::Nothing, why);
            CameOut { status: if noop.status == Status::Failed { Status::Noop } else { noop.status }, ..noop }
        }
        (Ok(complete), Some(LeftOut { why, lesson })) if complete.is_empty() => {
            undo(context, action, None, lesson, why)
        }
        (Ok(complete), without) => match verified(context, action, &complete) {
            Ok(verification) if verification.verified => {
                action.keep = true;
                action.verification = Some(verification);
                tidy_up(context, action, &complete, without)
            }
            Ok(verification) => {
                let left_out =
                    without.as_ref().map_or_else(String::new, |part| format!("; left out: {}", part.why));
                let error = format!("not verified: {}{left_out}", verification.reason);
                let lesson = Lesson::unverified(verification.complete, without.map(|part| part.lesson));
                undo(context, action, Some(verification), lesson, error)
            }
            Err(error) => undo(context, action, None, error.lesson(), error.to_string()),
        },
        (Err(error), _) => undo(context, action, None, error.lesson(), error.to_string()),
    }
}

/// Measures these parts over the window until all readings are there; the verdict to keep is recorded.
fn verified(context: &Context<'_>, action: &mut Action, parts: &[Part]) -> Result<Verification, Error> {
    let window_s = match action.takes_back {
        Some(_) => context.config.verify_window_seconds as f64,
        None => remedy(action)?.window_s(context.config),
    };
    transaction(|| {
        // One that goes on after a crash may have got here before.
        if action.status == Status::Executing {
            journal::advance(action.id, Status::Executing, Status::Verifying)?;
        }
        journal::progress(action.id, "measure whether it helped")?;
        // Measuring itself takes time too.
        journal::set_deadline(action.id, f64::from(WINDOWS_MAX) * window_s + action.plan.timeout_s)
    })?;
    action.status = Status::Verifying;
    let mut windows = 0;
    loop {
        // Load is counted over the window, in which this process does nothing.
        let Context { collection, .. } = *context;
        process::report_statistics();
        transaction(|| load::begin(collection))?;
        process::pause(Duration::from_secs_f64(window_s));
        transaction(|| load::end(collection))?;
        windows += 1;
        let verification =
            execute::patiently(context.config.lock_timeout_ms, || measure(context, action, parts))?;
        if verification.complete || windows == WINDOWS_MAX {
            if verification.verified {
                transaction(|| journal::keep(action.id, &verification))?;
            }
            return Ok(verification);
        }
    }
}

/// Measures the indexes of these parts anew and asks the core whether it helped.
fn measure(context: &Context<'_>, action: &Action, parts: &[Part]) -> Result<Verification, Error> {
    let plan = action.plan.only(parts);
    let whole = plan.steps.len() == action.plan.steps.len();
    let problem = if whole { action.problem.clone() } else { action.problem.only(parts) };
    let after = observe(context, parts)?;
    if action.takes_back.is_some() {
        return given_back(&plan, &problem, &action.before, &after, context.config);
    }
    let entries = transaction(|| journal::entries(action.id))?;
    let mut verification = verify(
        remedy(action)?,
        &Outcome {
            problem: &problem,
            plan: &plan,
            before: &action.before,
            after: &after,
            verdicts: &recovery::verdicts(&plan, &entries),
            entries: &entries,
            config: context.config,
        },
    )
    .map_err(|error| Error::refused(error.to_string()))?;
    if !whole {
        // What was left out belongs to the problem all the same.
        let nodes = &action.problem.component.nodes;
        let lambda = |seen: &Snapshot| component_lambda(seen, nodes, context.config).ok().flatten();
        verification.of_problem = LambdaChange { before: lambda(&action.before), after: lambda(&after) };
    }
    Ok(verification)
}

/// The verdict on giving an earlier definition back: it is there. λ is told, not asked.
fn given_back(
    plan: &Plan,
    problem: &Problem,
    before: &Snapshot,
    after: &Snapshot,
    config: &Config,
) -> Result<Verification, Error> {
    let lambda = |seen: &Snapshot| component_lambda(seen, &problem.component.nodes, config).ok().flatten();
    let there = rollback::given_back(plan, after);
    let (before, after) = (lambda(before), lambda(after));
    Ok(Verification {
        verified: there.is_ok(),
        complete: true,
        reason: there.err().unwrap_or_else(|| "the former definition is in place again".to_owned()),
        lambda_before: before,
        lambda_after: after,
        of_problem: LambdaChange { before, after },
        improvement_pct: None,
    })
}

fn remedy(action: &Action) -> Result<&'static dyn Remedy, Error> {
    let strategy = &action.plan.strategy;
    remedies::find(strategy).ok_or_else(|| Error::refused(format!("there is no strategy {strategy}")))
}

/// A snapshot with fresh readings of the indexes of these parts.
fn observe(context: &Context<'_>, parts: &[Part]) -> Result<Snapshot, Error> {
    let Context { collection, config, .. } = *context;
    // There is nothing to wait for then.
    if transaction(|| Ok(owner_of(collection.relation.into()).is_none()))? {
        return Err(Error::refused("the table was dropped meanwhile"));
    }
    collect::managed::count_cold(collection)?;
    collect::servers::look(collection)?;
    for row in transaction(|| collect::indexes(collection))? {
        if row.valid && parts.iter().filter_map(Part::index).any(|of| of.name == row.name) {
            collect::take(Kind::Panel, collection, &row, config)?;
            if Kind::Structure.is_due(&row, config) {
                collect::take(Kind::Structure, collection, &row, config)?;
            }
        }
    }
    if parts.iter().any(|part| part.index().is_none())
        && let Some(seen) = seen_next(context)?
    {
        return Ok(seen);
    }
    transaction(|| collect::snapshot(collection, &collect::indexes(collection)?, config, collect::now_ms()))
}

/// What the healer sees next: load and rates of writing are counted between its samples. None when it does not look.
fn seen_next(context: &Context<'_>) -> Result<Option<Snapshot>, Error> {
    let asked = collect::now_ms();
    let interval_s = context.config.sample_interval_seconds.unsigned_abs();
    let until = std::time::Instant::now() + Duration::from_secs(2 * interval_s) + SAMPLE_PATIENCE;
    loop {
        let seen: Vec<Snapshot> = transaction(|| {
            collect::documents(
                "SELECT i.snapshot FROM ruvector.integrity i
                  WHERE i.collection_id = $1 AND (i.snapshot ->> 'taken_at')::bigint > $2",
                &[context.collection.id.into(), asked.into()],
            )
        })?;
        if !seen.is_empty() || std::time::Instant::now() >= until {
            return Ok(seen.into_iter().next());
        }
        process::pause(SAMPLE_LOOK);
    }
}

/// The losers of these parts are dropped; what fails there does not take the success back.
fn tidy_up(context: &Context<'_>, action: &Action, parts: &[Part], without: Option<LeftOut>) -> CameOut {
    let proven = |step: &Step| parts.contains(&step.part());
    let mut losers = numbered(action).filter(|(_, step)| step.is_after_verification() && proven(step));
    let dropped = losers.try_for_each(|(step_no, step)| execute::perform(context, step_no, step).map(drop));
    let left = if dropped.is_err() { drop_losers(context, action) } else { None };
    let lesson = without.as_ref().map_or(Lesson::Helped, |part| part.lesson);
    let notes: Vec<String> =
        without.map(|part| format!("a part is left out: {}", part.why)).into_iter().chain(left).collect();
    CameOut {
        status: Status::Succeeded,
        lesson,
        verification: action.verification.clone(),
        error: (!notes.is_empty()).then(|| notes.join("; ")),
    }
}

/// Drops the losers that are still there; why not, when one could not be dropped.
fn drop_losers(context: &Context<'_>, action: &Action) -> Option<String> {
    commands(context, action, |action, entries| Ok(recovery::resolve(&action.plan, entries, true)))
        .err()
        .map(|error| format!("it helped, but the former index could not be dropped: {error}"))
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
            lesson: failed.undo_lesson(lesson),
            verification,
            error: Some(format!("{error}; undoing it failed: {failed}")),
        },
    }
}

/// Whether anything that users could notice, or a comparison, came about: then undoing it is a rollback.
fn took_effect(id: i64) -> Result<bool, Error> {
    Ok(recovery::took_effect(&journal::entries(id)?) || journal::has_moved_rows(id)?)
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
        if tries == 0 {
            transaction(|| journal::progress(action.id, "undo or finish what is left"))?;
        }
        let result =
            left.iter().try_for_each(|command| execute::recover(context, &action.plan.steps, command));
        if let Err(error) = result {
            let Some(seconds) = patience_s(tries) else { return Err(error) };
            tries += 1;
            pgrx::log!("ruvector: action {}: {error}; trying again", action.id);
            let why = format!("undo or finish what is left, which is tried again: {error}");
            transaction(|| journal::progress(action.id, &why))?;
            process::pause(Duration::from_secs(seconds));
        }
    }
}

/// The worker before this one died: what was verified is finished, what is complete is verified, the rest is undone.
fn recover(context: &Context<'_>, action: &mut Action) -> CameOut {
    if action.keep {
        return CameOut {
            status: Status::Succeeded,
            lesson: Lesson::Helped,
            verification: action.verification.clone(),
            error: drop_losers(context, action),
        };
    }
    let gone = action.gone();
    let (status, lesson, why) = gone.ending(action.crashed);
    // Once: what is being verified may be what kills the worker.
    if gone.keeps_complete_parts()
        && complete(action).is_ok_and(|complete| !complete.is_empty())
        && transaction(|| journal::resume(action.id)).unwrap_or(false)
    {
        return go_on(context, action, why.to_owned(), lesson);
    }
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
            lesson: failed.undo_lesson(lesson),
            verification: None,
            error: Some(format!("{why}; undoing it failed: {failed}")),
        },
    }
}

/// What an ended action has left is undone or dropped.
fn late(context: &Context<'_>, action: &Action) -> Result<(), Error> {
    commands(context, action, |action, entries| {
        Ok(recovery::resolve(&action.plan, entries, action.status == Status::Succeeded))
    })?;
    transaction(|| journal::finished_late(action.id))?;
    pgrx::log!("ruvector: what action {} had left is put right", action.id);
    super::wake_healer_at_commit();
    transaction(|| Ok(()))
}

/// Writes the outcome, in one transaction with the status.
fn finish(context: &Context<'_>, action: &Action, came_out: &CameOut) -> Result<(), Error> {
    let Context { collection, config, .. } = *context;
    // The table may be gone: then there is nothing to measure, and the outcome says so by NULL.
    let after = transaction(|| {
        let rows = collect::indexes(collection)?;
        collect::snapshot(collection, &rows, config, collect::now_ms())
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
        match action.takes_back {
            // That a human did not want it says nothing of the machinery.
            Some(_) => Ok(()),
            None => arms::record(action.collection_id, &action.plan.strategy, came_out.lesson, now, config),
        }
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
    if let Some(words) = learning::choice_in_words(action.id)? {
        lines.insert(1, format!("Chosen: {words}."));
    }
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
