//! After a crash, or when an action is given up: what is left to do, as data.
//!
//! Before the verdict to keep is recorded everything done or intended is undone, last first; after it everything
//! that is left is finished. What the executor must keep to, since only it sees the catalog:
//!
//! - A command does what the catalog says is still needed, and nothing when it is done already.
//! - After each command it journals `Undone` or `Done` for the step. It stops at the first command that fails, and
//!   resolves again later: while a swap is not undone, the *old* index bears the trial's name.
//! - `DropTrial` never drops the index whose OID is `of.oid`, `DropLoser` never another, and only while a valid index
//!   bears `of.name`.
//! - An intent's details hold what its inverse needs (former effort, definition, OID and LSN at that moment).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::{IndexRef, Plan, Step};

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
    /// Exchange the names again if `of` bears the trial's name, and restore the effort noted in `details`.
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
        // A finished reindex has no inverse, a comparison no effect, and a loser is dropped after the verdict.
        Step::ReindexConcurrently { .. } | Step::CompareIndexes { .. } | Step::DropLoser { .. } => None,
    }
}

/// The steps after the verdict that are not done.
fn finish(plan: &Plan, entries: &[JournalEntry]) -> Vec<RecoveryCommand> {
    let done = |step_no| latest(entries, step_no).is_some_and(|entry| entry.state == StepState::Done);
    (0u32..)
        .zip(&plan.steps)
        .filter_map(|(step_no, step)| match step {
            Step::DropLoser { of } if !done(step_no) => {
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
            | RecoveryCommand::DropLoser { step_no, .. } => *step_no,
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
