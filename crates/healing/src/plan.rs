//! Plans: what a remedy would do, as data. The executor knows how to do and undo each kind of step.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::snapshot::{Method, Oid};
use crate::throttle::{Percentages, Rates};

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

/// Why a plan of several parts stops before its next part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Enough {
    /// Half of its time is over: what is begun now may not come to its end.
    Time {
        /// Seconds since it began.
        elapsed_s: f64,
        /// Its hard limit, seconds.
        timeout_s: f64,
    },
    /// What is done has brought the component above `target_lambda`.
    Lambda {
        /// λ of the component.
        lambda: f64,
        /// `target_lambda`.
        target: f64,
    },
}

impl std::fmt::Display for Enough {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Enough::Time { elapsed_s, timeout_s } => {
                write!(f, "{elapsed_s:.0} s of {timeout_s:.0} s are over")
            }
            Enough::Lambda { lambda, target } => {
                write!(f, "λ is {lambda:.2} by now, and {target:.2} is enough")
            }
        }
    }
}

/// Whether a plan with that limit of time goes on with a further part (the spec: not when half of its time is over, nor
/// when λ is above the target). `lambda` of the component now, by what was measured anew; None where that is not known.
pub fn enough(elapsed_s: f64, timeout_s: f64, lambda: Option<f64>, target: f64) -> Option<Enough> {
    if elapsed_s > timeout_s / 2.0 {
        return Some(Enough::Time { elapsed_s, timeout_s });
    }
    lambda.filter(|lambda| *lambda > target).map(|lambda| Enough::Lambda { lambda, target })
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
    /// Keeping autovacuum away, which gives way to whoever wants the tables: what else was done counts without it.
    Autovacuum,
    /// All other steps that concern no index: they only make sense together.
    Whole,
}

impl Part {
    /// The index, of a part that is one's.
    pub fn index(&self) -> Option<&IndexRef> {
        match self {
            Part::Index(of) => Some(of),
            Part::Autovacuum | Part::Whole => None,
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
        /// Options of the new index that differ from the old one's.
        #[serde(default)]
        options: BuildOptions,
        /// Longest build, seconds; then it is cancelled and what it left is dropped.
        #[serde(default)]
        limit_s: Option<f64>,
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
    /// Rebuild in place where blue/green is impossible. No inverse. A trial index that was built and compared before is
    /// dropped first: it has said what it had to; the search effort that the comparison found is set afterwards.
    ReindexConcurrently {
        /// The index.
        of: IndexRef,
        /// Options set first that differ from the present ones.
        #[serde(default)]
        options: BuildOptions,
        /// Longest build, seconds; then it is cancelled and what it left is dropped.
        #[serde(default)]
        limit_s: Option<f64>,
    },
    /// Find and set the least search effort that meets the recall objective on the panel.
    /// Inverse: restore the former effort.
    TuneSearchEffort {
        /// The index.
        of: IndexRef,
        /// Recall@k to be met.
        objective: f64,
    },
    /// Set how large a part of the new rows a partition of a managed collection gets. Inverse: the former weight.
    SetRoutingWeight {
        /// The partition.
        of: PlaceRef,
        /// Weight until the lease ends, or for good.
        weight: f64,
        /// Seconds after which another weight holds by itself, and which; None: for good.
        lease: Option<WeightLease>,
    },
    /// Move rows between partitions of a managed collection, one move after the other, each in batches that keep writers
    /// waiting for a moment only. Inverse: the same rows back, the last batch first.
    MoveRows {
        /// The moves.
        moves: Vec<Move>,
        /// What λ of the component was; after each move it is measured again (see [`crate::moves::Watch`]). None: the moves
        /// are not expected to show in λ.
        lambda: Option<f64>,
        /// Moves at the beginning by which λ is not expected to rise, although it will by those after them: a partition's load
        /// weakens its links only, so that of one with far too much λ says nothing until enough has left.
        #[serde(default)]
        flat: u32,
        /// Pause after each batch ÷ time for which it held the lock.
        pause_ratio: f64,
    },
    /// Ask the orchestrator for half as many read replicas more, rounded up, and wait until they are ready.
    /// Inverse: the former number.
    ScaleReplicas {
        /// What to scale, as `scale_target` names it.
        target: String,
        /// Most replicas to ask for.
        max_replicas: i64,
        /// Longest wait for them, seconds.
        ready_timeout_s: i64,
    },
    /// Take a share off the usual rate of the collection's writers, under a lease. Inverse: end the lease, by which what
    /// was before counts again; both previous shares are read first and noted.
    SetThrottle {
        /// What is taken off.
        percentages: Percentages,
        /// The usual rate that it is taken off.
        baseline: Rates,
        /// Seconds after which it ends by itself.
        lease_s: i64,
    },
    /// Make a job of pg_cron inactive, under a lease. Inverse: make it active again, if it still is the same job.
    PauseJob {
        /// Its number in `cron.job`.
        jobid: i64,
        /// Its command when it was planned; one that was changed is another job.
        command: String,
        /// Seconds after which it is made active again.
        lease_s: i64,
    },
    /// Keep autovacuum away from the collection's tables by a lock that gives way to everybody, under a lease. PostgreSQL
    /// cancels an autovacuum that holds them. Inverse: let go of the lock.
    PauseAutovacuum {
        /// Seconds after which autovacuum may come again.
        lease_s: i64,
    },
    /// Cancel some maintenance and wait for other to end. What is cancelled comes again by itself: no inverse is needed.
    DrainMaintenance {
        /// Jobs to wait for, by their ids; those that are left after the time go on.
        wait_for: Vec<String>,
        /// Jobs to cancel.
        cancel: Vec<String>,
        /// Longest wait, seconds.
        wait_s: i64,
    },
}

/// A partition of a managed collection at planning time; a step looks again whether it is that one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaceRef {
    /// OID of the leaf.
    pub oid: Oid,
    /// Its `partition_id`.
    pub number: i32,
    /// Schema-qualified, quoted name.
    pub name: String,
}

/// A weight that ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WeightLease {
    /// Seconds until then.
    pub seconds: i64,
    /// Weight from then on.
    pub after: f64,
}

/// Rows that go from one partition to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// Where they are.
    pub from: PlaceRef,
    /// Where they go.
    pub to: PlaceRef,
    /// How many at most.
    pub rows: u64,
    /// Only those that meet the collection's condition for cold rows.
    pub cold: bool,
}

impl Step {
    /// The part of the plan that the step belongs to.
    pub fn part(&self) -> Part {
        match self {
            Step::PauseAutovacuum { .. } => Part::Autovacuum,
            _ => self.target().map_or(Part::Whole, |of| Part::Index(of.clone())),
        }
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

    /// The step without the limit on its time, which goes with the rows: what it does, to what.
    #[must_use]
    pub fn without_limit(&self) -> Step {
        let mut step = self.clone();
        if let Step::BuildIndex { limit_s, .. } | Step::ReindexConcurrently { limit_s, .. } = &mut step {
            *limit_s = None;
        }
        step
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
            Step::SetRoutingWeight { .. } | Step::MoveRows { .. } | Step::ScaleReplicas { .. } => None,
            Step::SetThrottle { .. }
            | Step::PauseJob { .. }
            | Step::PauseAutovacuum { .. }
            | Step::DrainMaintenance { .. } => None,
        }
    }

    /// Rows that it moves at most; None for what moves none.
    pub fn rows_moved(&self) -> Option<u64> {
        match self {
            Step::MoveRows { moves, .. } => Some(moves.iter().map(|one| one.rows).sum()),
            _ => None,
        }
    }
}

/// Options of an index that a build changes; None keeps what its definition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BuildOptions {
    /// `lists` (ivfflat).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<u32>,
    /// `m` (hnsw): links of an entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m: Option<u32>,
    /// `ef_construction` (hnsw): candidates looked at for the links of an entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_construction: Option<u32>,
}

impl BuildOptions {
    /// Only `lists`.
    pub fn lists(lists: Option<u32>) -> Self {
        Self { lists, ..Self::default() }
    }

    /// Names and values of those that are set.
    pub fn set(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let all = [("lists", self.lists), ("m", self.m), ("ef_construction", self.ef_construction)];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

impl std::fmt::Display for BuildOptions {
    /// `lists = 100`, several joined by commas; nothing where none is set.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, (name, value)) in self.set().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{name} = {value}")?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_part_needs_half_of_the_time_and_a_part_that_is_still_weak() {
        assert_eq!(enough(60.0, 120.0, Some(0.8), 0.8), None, "at both limits it goes on");
        let time = enough(60.1, 120.0, Some(0.1), 0.8);
        assert_eq!(time, Some(Enough::Time { elapsed_s: 60.1, timeout_s: 120.0 }));
        let healed = enough(1.0, 120.0, Some(0.81), 0.8);
        assert_eq!(healed, Some(Enough::Lambda { lambda: 0.81, target: 0.8 }));
        assert_eq!(enough(1.0, 120.0, None, 0.8), None, "what is not known is no reason to stop");
        assert_eq!(time.map(|why| why.to_string()).as_deref(), Some("60 s of 120 s are over"));
    }

    #[test]
    fn options_read_as_in_a_definition_and_an_old_journal_has_none() {
        let options = BuildOptions { m: Some(24), ef_construction: Some(128), ..BuildOptions::default() };
        assert_eq!(options.to_string(), "m = 24, ef_construction = 128");
        assert_eq!(BuildOptions::default().to_string(), "");
        assert_eq!(
            serde_json::to_value(options).unwrap(),
            serde_json::json!({"m": 24, "ef_construction": 128})
        );
    }
}
