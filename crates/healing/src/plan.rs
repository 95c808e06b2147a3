//! Plans: what a remedy would do, as data. The executor knows how to do and undo each kind of step.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::snapshot::{Method, Oid};

/// An ordered list of steps against one problem of one collection. A dry run is a printed plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the remedy that made it.
    pub strategy: String,
    /// Disruption, 0–1, at most `max_auto_heal_impact` to run without a human.
    pub impact: f64,
    /// Whether all of it can be undone.
    pub reversible: bool,
    /// Why this is expected to help, in one sentence for a human.
    pub reason: String,
    /// Estimated duration in seconds, verification apart.
    pub estimated_s: f64,
    /// Hard limit in seconds (the spec's 2 × the estimate, by size); the worker is cancelled then.
    pub timeout_s: f64,
    /// Disk that the steps need beside what is used now, bytes.
    pub disk_bytes: u64,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Targets left out of this plan and why.
    pub skipped: Vec<Skipped>,
    /// The figures that the steps were chosen by, for `strategy_params` of the outcome; null when there are none.
    #[serde(default)]
    pub params: Value,
}

impl Plan {
    /// The plan with the steps of these parts only.
    #[must_use]
    pub fn only(&self, parts: &[Part]) -> Plan {
        let mut some = self.clone();
        some.steps.retain(|step| parts.contains(&step.part()));
        some
    }
}

/// A target that the plan leaves alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// Name of the target.
    pub target: String,
    /// Why.
    pub reason: String,
}

/// The identity of an index at planning time; a step re-checks it before it acts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexRef {
    /// OID.
    pub oid: Oid,
    /// Relfilenode seen when planned.
    pub relfilenode: Oid,
    /// Schema-qualified, quoted name.
    pub name: String,
    /// Leaf table.
    pub table: Oid,
    /// Access method.
    pub method: Method,
}

/// What of a plan is complete, kept or taken back together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The steps of one index: another index's do not depend on them.
    Index(IndexRef),
    /// All steps that concern no index: they only make sense together.
    Whole,
}

impl Part {
    /// The index, of a part that is one's.
    pub fn index(&self) -> Option<&IndexRef> {
        match self {
            Part::Index(of) => Some(of),
            Part::Whole => None,
        }
    }
}

/// One typed step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Step {
    /// Build a trial index beside `of`, hidden from planning, with the same definition but these options.
    /// Inverse: drop the trial index.
    BuildIndex {
        /// The index to be replaced.
        of: IndexRef,
        /// New `lists` (ivfflat), or None to keep the options.
        lists: Option<u32>,
    },
    /// Measure old and trial index on the same panel and stop the plan when the trial is not better.
    /// Changes nothing.
    CompareIndexes {
        /// The index to be replaced.
        of: IndexRef,
        /// What must hold.
        criterion: Criterion,
    },
    /// Exchange the names of `of` and its trial index, and set the search effort that the comparison found, in
    /// one transaction. Inverse: exchange them again and restore the effort.
    SwapIndex {
        /// The index to be replaced.
        of: IndexRef,
    },
    /// Drop an index concurrently: the loser of a comparison (`DropLoser`) once the action is verified.
    /// It has no inverse, and comes after verification.
    DropLoser {
        /// The index that was replaced.
        of: IndexRef,
    },
    /// Drop an invalid, surplus index concurrently. Its definition is journaled first. Inverse: build it again.
    DropInvalid {
        /// The surplus index.
        of: IndexRef,
    },
    /// Rebuild in place where blue/green is impossible. No inverse.
    ReindexConcurrently {
        /// The index.
        of: IndexRef,
        /// New `lists` (ivfflat) set first, or None.
        lists: Option<u32>,
    },
    /// Find and set the least search effort that meets the recall objective on the panel.
    /// Inverse: restore the former effort.
    TuneSearchEffort {
        /// The index.
        of: IndexRef,
        /// Recall@k to be met.
        objective: f64,
    },
}

impl Step {
    /// The part of the plan that the step belongs to.
    pub fn part(&self) -> Part {
        self.target().map_or(Part::Whole, |of| Part::Index(of.clone()))
    }

    /// Whether the step waits for the verdict to keep what the others did.
    pub fn is_after_verification(&self) -> bool {
        matches!(self, Step::DropLoser { .. })
    }

    /// Whether undoing the step, once done, changes nothing that users could have noticed: a new index was hidden, one
    /// that was rebuilt in place stays, and an invalid one that was surplus is not missed.
    pub fn is_silent(&self) -> bool {
        matches!(self, Step::BuildIndex { .. } | Step::ReindexConcurrently { .. } | Step::DropInvalid { .. })
    }

    /// The index that the step concerns, if it concerns one.
    pub fn target(&self) -> Option<&IndexRef> {
        match self {
            Step::BuildIndex { of, .. }
            | Step::CompareIndexes { of, .. }
            | Step::SwapIndex { of }
            | Step::DropLoser { of }
            | Step::DropInvalid { of }
            | Step::ReindexConcurrently { of, .. }
            | Step::TuneSearchEffort { of, .. } => Some(of),
        }
    }
}

/// What a comparison of an old and a new index must show for the new one to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// Better recall against work (see [`crate::verdict`]).
    RecallAgainstWork,
    /// Smaller, and recall against work not worse.
    Smaller,
    /// The old one is invalid: the new one must be valid and answer the panel at all.
    Valid,
}
