//! After a crash: what is left to do for an action whose worker is gone.
//!
//! Before the verdict is recorded everything done or intended is undone, last first; after it everything that is
//! left is finished.

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

/// What is left to do, in order. Executing a part of it, journaling `Undone` or `Done`, and resolving again gives
/// the rest.
pub fn resolve(plan: &Plan, entries: &[JournalEntry], verdict_recorded: bool) -> Vec<RecoveryCommand> {
    if verdict_recorded { finish(plan, entries) } else { undo(entries) }
}

fn latest(entries: &[JournalEntry], step_no: u32) -> Option<&JournalEntry> {
    entries.iter().rev().find(|entry| entry.step_no == step_no)
}

fn undo(entries: &[JournalEntry]) -> Vec<RecoveryCommand> {
    let mut numbers: Vec<u32> = entries.iter().map(|entry| entry.step_no).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().rev().filter_map(|step_no| undo_step(latest(entries, step_no)?)).collect()
}

/// The inverse of a step that was done or intended.
fn undo_step(entry: &JournalEntry) -> Option<RecoveryCommand> {
    if !matches!(entry.state, StepState::Intent | StepState::Done) {
        return None;
    }
    let step_no = entry.step_no;
    let details = entry.details.clone();
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
        // A finished reindex has no inverse, a comparison no effect, and a dropped loser comes after the verdict.
        Step::ReindexConcurrently { .. } | Step::CompareIndexes { .. } | Step::DropLoser { .. } => None,
    }
}

/// The steps after the verdict that are not done.
fn finish(plan: &Plan, entries: &[JournalEntry]) -> Vec<RecoveryCommand> {
    (0u32..)
        .zip(&plan.steps)
        .filter_map(|(step_no, step)| match step {
            Step::DropLoser { of } if !matches!(latest(entries, step_no), Some(entry) if entry.state == StepState::Done) => {
                Some(RecoveryCommand::DropLoser { step_no, of: of.clone() })
            }
            _ => None,
        })
        .collect()
}
