//! After a crash, or when an action is given up: what is left to do, as data.
//!
//! Before the verdict to keep is recorded everything done or intended is undone, last first; after it everything
//! that is left is finished. What the executor must keep to, since only it sees the catalog:
//!
//! - A command does what the catalog says is still needed, and nothing when it is done already.
//! - After each command it journals `Undone` or `Done` for the step. It stops at the first command that fails, and
//!   resolves again later: while a swap is not undone, the *old* index bears the trial's name.
//! - `DropTrial` never drops the index whose OID is `of.oid`, `DropLoser` never another, and only while the index that was built is
//!   valid, or one like it bears `of.name`.
//! - An intent's details hold what its inverse needs (former effort, definition, OID and LSN at that moment).
//!
//! A plan may have several parts ([`Part`]). A part that is complete (carried out, its comparison won) does not go
//! down with a later one: [`retreat`] undoes the others, and what is complete is verified and kept by itself.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lifecycle::{Lesson, Status};
use crate::plan::{IndexRef, Part, Plan, Step};
use crate::snapshot::UnixMs;
use crate::verdict::Verdict;

/// How far a step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Committed before its effect; the effect may or may not have happened.
    Intent,
    /// Its effect is complete.
    Done,
    /// Its inverse is complete.
    Undone,
    /// It failed and left nothing behind.
    Failed,
}

/// One row of the journal: the latest state of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Position of the step in the plan, from 0.
    pub step_no: u32,
    /// The step.
    pub step: Step,
    /// How far it came.
    pub state: StepState,
    /// What the executor noted: OIDs made, former effort, definition dropped.
    pub details: Value,
}

/// What the executor is to do; each is done only as far as the catalog says that it is still needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum RecoveryCommand {
    /// Drop the trial index of `of`, valid or not, if there is one.
    DropTrial {
        /// Step that it undoes.
        step_no: u32,
        /// The index to be replaced.
        of: IndexRef,
    },
    /// Give the names back as [`swap_back`] says.
    SwapBack {
        /// Step that it undoes.
        step_no: u32,
        /// The index that had been replaced.
        of: IndexRef,
        /// Details of the step's journal entry.
        details: Value,
    },
    /// Set the effort noted in `details` again.
    RestoreEffort {
        /// Step that it undoes.
        step_no: u32,
        /// The index.
        of: IndexRef,
        /// Details of the step's journal entry.
        details: Value,
    },
    /// Build the index again from its journaled definition, unless it is still there.
    RebuildDropped {
        /// Step that it undoes.
        step_no: u32,
        /// The dropped index.
        of: IndexRef,
        /// Details of the step's journal entry.
        details: Value,
    },
    /// Drop what an interrupted `REINDEX CONCURRENTLY` of `of` left (`_ccnew`, `_ccold`), if newer than the intent.
    DropReindexLeftover {
        /// Step that it cleans up after.
        step_no: u32,
        /// The index.
        of: IndexRef,
        /// Details of the step's journal entry.
        details: Value,
    },
    /// Drop the loser of the swap if it is still there: the verdict is recorded.
    DropLoser {
        /// Step that it finishes.
        step_no: u32,
        /// The index that was replaced.
        of: IndexRef,
    },
    /// Put back what a step that concerns no index has changed, as `details` note it.
    Revert {
        /// Step that it undoes.
        step_no: u32,
        /// The step.
        step: Box<Step>,
        /// Details of the step's journal entries, the later ones in place of the earlier.
        details: Value,
    },
}

/// Why an action cannot be undone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotUndo {
    /// The index it replaced is dropped.
    #[error("the former {index} is dropped: there is nothing to go back to")]
    LoserDropped {
        /// Name of the index.
        index: String,
    },
    /// An index was rebuilt in place.
    #[error("{index} was rebuilt in place, which has no inverse")]
    RebuiltInPlace {
        /// Name of the index.
        index: String,
    },
}

/// What is left to do after a crash, in order. `keep_recorded`: the verdict to keep the result is committed. Executing
/// a part of it, journaling that, and resolving again gives the rest.
///
/// A surplus invalid index that was being dropped is left as it is found: gone is what was wanted, and one that is
/// still there is as invalid as before. (Its definition is for [`undo`].)
pub fn resolve(plan: &Plan, entries: &[JournalEntry], keep_recorded: bool) -> Vec<RecoveryCommand> {
    if keep_recorded {
        return finish(plan, entries);
    }
    let mut commands = inverses(entries);
    commands.retain(|command| !matches!(command, RecoveryCommand::RebuildDropped { .. }));
    commands
}

/// The inverse of a whole action that no crash interrupted: because it was not verified, or a human wants it undone.
///
/// # Errors
/// [`CannotUndo`] when one of its steps has no inverse any more; then nothing of it is to be undone.
pub fn undo(entries: &[JournalEntry]) -> Result<Vec<RecoveryCommand>, CannotUndo> {
    for entry in step_numbers(entries).into_iter().filter_map(|step_no| latest(entries, step_no)) {
        match (&entry.step, entry.state) {
            // An intended drop may have happened.
            (Step::DropLoser { of }, StepState::Done | StepState::Intent) => {
                return Err(CannotUndo::LoserDropped { index: of.name.clone() });
            }
            (Step::ReindexConcurrently { of, .. }, StepState::Done) => {
                return Err(CannotUndo::RebuiltInPlace { index: of.name.clone() });
            }
            _ => {}
        }
    }
    Ok(inverses(entries))
}

/// The inverse of an action that succeeded, as [`crate::rollback`] plans it. Where it concerns more than indexes, those of which
/// the former one is gone stay: they were built for the sake of the rest.
///
/// # Errors
/// [`CannotUndo`] when it concerns indexes alone, and one of them has no inverse any more.
pub fn give_back(entries: &[JournalEntry]) -> Result<Vec<RecoveryCommand>, CannotUndo> {
    let rest: Vec<JournalEntry> =
        entries.iter().filter(|entry| !stays(entries, &entry.step.part())).cloned().collect();
    undo(&rest)
}

/// Whether an index stays as an action that succeeded has left it when the rest of that is taken back: where rows were moved
/// too, and it was exchanged, rebuilt in place or dropped for their sake.
pub(crate) fn stays(entries: &[JournalEntry], part: &Part) -> bool {
    let replaced = |entry: &JournalEntry| {
        matches!(
            (&entry.step, entry.state),
            (Step::SwapIndex { .. } | Step::ReindexConcurrently { .. }, StepState::Done)
                | (Step::DropLoser { .. } | Step::DropInvalid { .. }, StepState::Intent | StepState::Done)
        )
    };
    part.index().is_some()
        && entries.iter().any(|entry| entry.step.part() == Part::Whole)
        && entries.iter().any(|entry| entry.step.part() == *part && replaced(entry))
}

/// What is left of a plan whose rest is given up.
#[derive(Debug, Clone, PartialEq)]
pub struct Retreat {
    /// The inverses of all that is not complete, last first.
    pub commands: Vec<RecoveryCommand>,
    /// The parts that are complete: to be verified and kept by themselves.
    pub complete: Vec<Part>,
}

/// The parts of the plan that are complete: every step before the verdict done, every comparison won.
pub fn complete(plan: &Plan, entries: &[JournalEntry]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for part in plan.steps.iter().map(Step::part) {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.retain(|part| {
        (0u32..)
            .zip(&plan.steps)
            .filter(|(_, step)| step.part() == *part && !step.is_after_verification())
            .all(|(step_no, step)| {
                let done = latest(entries, step_no).is_some_and(|entry| entry.state == StepState::Done);
                let won = || notes(entries, step_no)["verdict"]["keep"] == Value::Bool(true);
                done && (!matches!(step, Step::CompareIndexes { .. }) || won())
            })
    });
    parts
}

/// The verdicts of the comparisons of these steps, as noted.
pub fn verdicts(plan: &Plan, entries: &[JournalEntry]) -> Vec<Verdict> {
    let own = |entry: &&JournalEntry| plan.steps.contains(&entry.step);
    let noted = entries.iter().filter(own).filter_map(|entry| entry.details.get("verdict"));
    noted.filter_map(|verdict| serde_json::from_value(verdict.clone()).ok()).collect()
}

/// What to take back when a part of the plan failed, or the worker died over it; the complete parts stay.
pub fn retreat(plan: &Plan, entries: &[JournalEntry]) -> Retreat {
    let complete = complete(plan, entries);
    let rest: Vec<JournalEntry> =
        entries.iter().filter(|entry| !complete.contains(&entry.step.part())).cloned().collect();
    Retreat { commands: inverses(&rest), complete }
}

/// The inverse of one part: its comparison was lost, the others go on.
pub fn undo_part(entries: &[JournalEntry], part: &Part) -> Vec<RecoveryCommand> {
    let own: Vec<JournalEntry> = entries.iter().filter(|entry| entry.step.part() == *part).cloned().collect();
    inverses(&own)
}

/// The inverse of an action that was not verified: like [`undo`], but an index that was rebuilt in place stays. It is
/// valid, and as good as a build can make it; that it was no gain is an end without an undo, not a failed one.
///
/// # Errors
/// [`CannotUndo`] when a loser is dropped.
pub fn take_back(entries: &[JournalEntry]) -> Result<Vec<RecoveryCommand>, CannotUndo> {
    match undo(entries) {
        Err(CannotUndo::RebuiltInPlace { .. }) => {
            let others: Vec<JournalEntry> = entries
                .iter()
                .filter(|entry| !matches!(entry.step, Step::ReindexConcurrently { .. }))
                .cloned()
                .collect();
            undo(&others)?;
            Ok(inverses(entries))
        }
        result => result,
    }
}

/// Whether anything that users could have noticed, or a comparison, came about that is taken back: then that is a
/// rollback. A rebuild in place stays as it is, and what was compared before it is no more than a reason for it.
pub fn took_effect(entries: &[JournalEntry]) -> bool {
    let done = |entry: &&JournalEntry| entry.state == StepState::Done;
    let stays = |part: &Part| {
        entries
            .iter()
            .filter(done)
            .any(|entry| matches!(entry.step, Step::ReindexConcurrently { .. }) && entry.step.part() == *part)
    };
    let silent =
        |step: &Step| step.is_silent() || matches!(step, Step::CompareIndexes { .. }) && stays(&step.part());
    entries.iter().filter(done).any(|entry| !silent(&entry.step))
}

/// What undoing a swap finds in the catalog, and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapBack {
    /// The old index is gone, or does not bear the trial's name: nothing is left to give back.
    Nothing,
    /// Exchange the names of the old index and of the new one that the intent noted, whatever that is called by now.
    Exchange,
    /// Rename the old index to its own name: the journal does not say which the new one was, and the name is free.
    OwnName,
    /// Rename the old index to a free name beside its own (`_former`), so that all see it, and say so: a human has
    /// dropped or replaced the new one. What was asked for by name stays done: the name is theirs, free or taken (a
    /// script that drops, loads and creates goes on). But the statement meant one index and met another, and of two
    /// mistakes this is the smaller: an index too many costs a DROP, one too few a build and all searches until then.
    FormerName,
}

/// How a swap is undone. `old_is_hidden`: the old index is there under the trial's name. `new_is_there`: the new one,
/// by the OID that the intent noted; None: it noted none. `name_is_taken`: an index of the table bears the name.
pub fn swap_back(old_is_hidden: bool, new_is_there: Option<bool>, name_is_taken: bool) -> SwapBack {
    match (old_is_hidden, new_is_there) {
        (false, _) => SwapBack::Nothing,
        (true, Some(true)) => SwapBack::Exchange,
        (true, None) if !name_is_taken => SwapBack::OwnName,
        (true, _) => SwapBack::FormerName,
    }
}

/// Why the healer stopped a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A human asked for it.
    Abort,
    /// Its time was over.
    Timeout,
    /// A session waited for its lock.
    Yield,
}

/// Why an action has no worker any more although it is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gone {
    /// A human asked for it to stop.
    Abort,
    /// Its time was over.
    Timeout,
    /// A session waited for its lock.
    Yield,
    /// The server was shut down or restarted in order.
    Restart,
    /// It died of anything else: killed, out of memory, a crash of the server. Whose fault that was cannot be told, so it
    /// counts against the remedy: a build that always runs out of memory must not take the server down for ever.
    Death,
}

impl Gone {
    /// From why the healer stopped it, if it did, and what became of the server since it had its first worker.
    pub fn of(stopped: Option<StopReason>, crashed: bool, restarted: bool) -> Gone {
        match stopped {
            Some(StopReason::Abort) => Gone::Abort,
            Some(StopReason::Timeout) => Gone::Timeout,
            Some(StopReason::Yield) => Gone::Yield,
            None if restarted && !crashed => Gone::Restart,
            None => Gone::Death,
        }
    }

    /// How an action ends whose worker is gone so, once it is undone: its status, what that says of the remedy, and why
    /// in words. `crashed`: the server crashed while it had a worker; a wish to stop does not excuse that.
    pub fn ending(self, crashed: bool) -> (Status, Lesson, &'static str) {
        let (status, lesson, why) = self.ending_without_crash();
        (status, if crashed { Lesson::Fault } else { lesson }, why)
    }

    fn ending_without_crash(self) -> (Status, Lesson, &'static str) {
        match self {
            Gone::Abort => (Status::Aborted, Lesson::Nothing, "stopped by a human"),
            Gone::Timeout => (Status::Failed, Lesson::Fault, "stopped after its time limit"),
            Gone::Yield => {
                (Status::Aborted, Lesson::Postponed, "gave way to a session that waited for its lock")
            }
            Gone::Restart => (Status::Aborted, Lesson::Nothing, "the server was restarted"),
            Gone::Death => (Status::Failed, Lesson::Fault, "its worker died"),
        }
    }

    /// Whether the parts that are complete are to be verified and kept: nobody wanted them undone.
    pub fn keeps_complete_parts(self) -> bool {
        matches!(self, Gone::Restart | Gone::Death)
    }
}

/// Workers that one action gets. The second recovers it; each further one is for a recovery that died too, or could not
/// even read the journal. Six tries with a growing pause span a minute: what lasts longer is not for a worker to mend.
pub const STARTS_MAX: u32 = 6;
/// Pause before the first restart, milliseconds; each further one is twice as long.
const RESTART_PAUSE_MS: i64 = 2000;

/// Whether an action without a worker gets one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "start", rename_all = "snake_case")]
pub enum Start {
    /// At once.
    Now,
    /// Not before this moment.
    NotBefore {
        /// The moment.
        at: UnixMs,
    },
    /// Not any more: the action ends as [`given_up`] says.
    GiveUp,
}

/// Whether to start a worker for an action that had so many, the last one at `last`.
pub fn start(starts: u32, last: Option<UnixMs>, now: UnixMs) -> Start {
    let Some(last) = last.filter(|_| starts > 0) else { return Start::Now };
    if starts >= STARTS_MAX {
        return Start::GiveUp;
    }
    // At most 2 s x 2^4.
    let at = last.saturating_add(RESTART_PAUSE_MS << (starts - 1));
    // A clock that went back makes nobody wait longer than the pause itself.
    if now >= at || now < last { Start::Now } else { Start::NotBefore { at } }
}

/// How an action ends that no worker could bring to its end. What [`resolve`] still has to do stays to be done: see
/// [`retry_at`].
pub fn given_up(plan: &Plan, entries: &[JournalEntry], keep_recorded: bool) -> (Status, Lesson) {
    if keep_recorded {
        (Status::Succeeded, Lesson::Helped)
    } else if resolve(plan, entries, false).is_empty() {
        (Status::Failed, Lesson::Fault)
    } else {
        (Status::RollbackFailed, Lesson::UndoFailed)
    }
}

/// First pause between two tries of a recovery that the action could not wait for, and the longest, milliseconds.
const RETRY_MS: (i64, i64) = (600_000, 24 * 3_600_000);

/// When the recovery of an action that has ended is tried again: `tries` were made, the last one, or the action's end,
/// at `last`. Nothing else acts on the table until it is through, and a human who closes the breaker has it tried at once.
pub fn retry_at(tries: u32, last: UnixMs) -> UnixMs {
    let pause = RETRY_MS.0.saturating_mul(1 << tries.min(16)).min(RETRY_MS.1);
    last.saturating_add(pause)
}

/// Times that a lock or a panel is asked for before the action is put off.
pub const PATIENCE_TRIES: u32 = 8;

/// Seconds to wait before the next try of what needs a quiet moment (a lock, a panel that was cancelled), after so many
/// tries; None: put the action off. A build is thrown away then, so the waits grow to a minute: three in all.
pub fn patience_s(tries: u32) -> Option<u64> {
    (tries < PATIENCE_TRIES).then(|| 1u64 << tries.min(6)).map(|seconds| seconds.min(60))
}

fn step_numbers(entries: &[JournalEntry]) -> Vec<u32> {
    let mut numbers: Vec<u32> = entries.iter().map(|entry| entry.step_no).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The latest entry of a step: the last one given.
fn latest(entries: &[JournalEntry], step_no: u32) -> Option<&JournalEntry> {
    entries.iter().rev().find(|entry| entry.step_no == step_no)
}

/// All that was noted of a step: a later note of the same name replaces the earlier one, other notes stay.
fn notes(entries: &[JournalEntry], step_no: u32) -> Value {
    let mut all = serde_json::Map::new();
    for entry in entries.iter().filter(|entry| entry.step_no == step_no) {
        if let Value::Object(details) = &entry.details {
            all.extend(details.clone());
        }
    }
    Value::Object(all)
}

/// The inverses of all steps that were done or intended, last first.
fn inverses(entries: &[JournalEntry]) -> Vec<RecoveryCommand> {
    let numbers = step_numbers(entries);
    numbers.into_iter().rev().filter_map(|n| inverse(latest(entries, n)?, notes(entries, n))).collect()
}

fn inverse(entry: &JournalEntry, details: Value) -> Option<RecoveryCommand> {
    if !matches!(entry.state, StepState::Intent | StepState::Done) {
        return None;
    }
    let step_no = entry.step_no;
    match &entry.step {
        Step::BuildIndex { of, .. } => Some(RecoveryCommand::DropTrial { step_no, of: of.clone() }),
        Step::SwapIndex { of } => Some(RecoveryCommand::SwapBack { step_no, of: of.clone(), details }),
        Step::TuneSearchEffort { of, .. } => {
            Some(RecoveryCommand::RestoreEffort { step_no, of: of.clone(), details })
        }
        Step::DropInvalid { of } => {
            Some(RecoveryCommand::RebuildDropped { step_no, of: of.clone(), details })
        }
        Step::ReindexConcurrently { of, .. } if entry.state == StepState::Intent => {
            Some(RecoveryCommand::DropReindexLeftover { step_no, of: of.clone(), details })
        }
        Step::SetRoutingWeight { .. } | Step::MoveRows { .. } | Step::ScaleReplicas { .. } => {
            Some(RecoveryCommand::Revert { step_no, step: Box::new(entry.step.clone()), details })
        }
        Step::SetThrottle { .. } | Step::PauseJob { .. } | Step::PauseAutovacuum { .. } => {
            Some(RecoveryCommand::Revert { step_no, step: Box::new(entry.step.clone()), details })
        }
        // What was cancelled comes again by itself.
        Step::DrainMaintenance { .. } => None,
        // A finished reindex has no inverse, a comparison no effect, and a loser is dropped after the verdict.
        Step::ReindexConcurrently { .. } | Step::CompareIndexes { .. } | Step::DropLoser { .. } => None,
    }
}

/// The steps after the verdict that are not done, of the parts that were kept.
fn finish(plan: &Plan, entries: &[JournalEntry]) -> Vec<RecoveryCommand> {
    let kept = complete(plan, entries);
    let done = |step_no| latest(entries, step_no).is_some_and(|entry| entry.state == StepState::Done);
    (0u32..)
        .zip(&plan.steps)
        .filter_map(|(step_no, step)| match step {
            Step::DropLoser { of } if !done(step_no) && kept.contains(&step.part()) => {
                Some(RecoveryCommand::DropLoser { step_no, of: of.clone() })
            }
            _ => None,
        })
        .collect()
}

impl RecoveryCommand {
    /// The step that it undoes or finishes.
    pub fn step_no(&self) -> u32 {
        match self {
            RecoveryCommand::DropTrial { step_no, .. }
            | RecoveryCommand::SwapBack { step_no, .. }
            | RecoveryCommand::RestoreEffort { step_no, .. }
            | RecoveryCommand::RebuildDropped { step_no, .. }
            | RecoveryCommand::DropReindexLeftover { step_no, .. }
            | RecoveryCommand::DropLoser { step_no, .. }
            | RecoveryCommand::Revert { step_no, .. } => *step_no,
        }
    }

    /// The state of the step to be journaled once the command is done.
    pub fn leaves(&self) -> StepState {
        match self {
            RecoveryCommand::DropLoser { .. } => StepState::Done,
            _ => StepState::Undone,
        }
    }
}

#[cfg(test)]
mod tests;
