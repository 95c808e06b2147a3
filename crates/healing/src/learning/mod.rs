//! Learning from outcomes: what is recorded of each action changes which remedy is tried first, and how far a remedy
//! may go by itself.
//!
//! ```text
//! outcomes ─┬─ weights, report        the spec's formula, what the effectiveness report shows
//!           ├─ posteriors ─┐
//! no-action periods ─ credit┴─ select  Thompson sampling within a step of the ladder, or the highest weight
//!           └─ autonomy               observe → approve → auto, lowered by failures, raised by evidence
//! ```
//!
//! All of it is a function of recorded rows, the time and a seed: the same rows give the same weights, posteriors and
//! choices after a restart, after a crash and in every session. What an action is allowed to do, backoff and breaker are
//! the engine's; this reads them nowhere and overrides none.

use serde::{Deserialize, Serialize};

use crate::classify::{Problem, ProblemClass};
use crate::lifecycle::{Lesson, Status};
use crate::snapshot::{Method, Snapshot, UnixMs};

pub use autonomy::{ENOUGH, Evidence, Move, Rung, STRIKES_MAX, effective};
pub use change::{CHANGE, DECAY};
pub use credit::{Natural, Period, Watch, cleared_within, control_until, is_control, watch};
pub use posterior::{Effect, Posterior, posteriors};
pub use prediction::{Prediction, Scored};
pub use report::{Report, StrategyReport, report};
pub use select::{Candidate, Choice, ImpactStep, SHARPNESS, ScoredArm, Selection, choose, is_insufficient};
pub use treats::treats;
pub use weights::{WINDOW_MS, Weight, weights};

mod autonomy;
mod beta;
mod change;
mod credit;
mod posterior;
mod prediction;
mod report;
mod select;
mod treats;
mod weights;

/// Where a remedy is tried: posteriors, no-action periods and choices are kept apart by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Context {
    /// Class name of the problem.
    pub problem_class: String,
    /// `ivfflat`, `hnsw`, or `none` where the problem is not one of indexes.
    pub index_kind: String,
}

impl Context {
    /// The context of a problem.
    pub fn of(problem: &Problem, snapshot: &Snapshot) -> Self {
        let oid = match &problem.class {
            ProblemClass::CentroidSkew { index_id, .. } => Some(*index_id),
            ProblemClass::IndexFragmentation { index_ids, .. } => index_ids.first().copied(),
            _ => None,
        };
        let index = oid.and_then(|oid| snapshot.indexes.iter().find(|index| index.oid == oid));
        let index_kind = match index.map(|index| index.method) {
            Some(Method::Ivfflat) => "ivfflat",
            Some(Method::Hnsw) => "hnsw",
            None => "none",
        };
        Self { problem_class: problem.class.as_str().to_owned(), index_kind: index_kind.to_owned() }
    }
}

/// One finished action, as `ruvector.healing_outcomes` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// Its number.
    pub id: i64,
    /// The collection.
    pub collection_id: i32,
    /// The remedy.
    pub strategy: String,
    /// Where it was tried.
    #[serde(flatten)]
    pub context: Context,
    /// When it began.
    pub started_at: UnixMs,
    /// When it ended.
    pub completed_at: UnixMs,
    /// How it ended.
    pub status: Status,
    /// What its end says of the remedy.
    pub lesson: Lesson,
    /// Whether it was carried out and kept.
    pub success: bool,
    /// Whether it was verified by the remedy's own predicate; None: not measured.
    pub verified: Option<bool>,
    /// 100 × (λ after ÷ λ before − 1) of the component; None: not measured.
    pub improvement_pct: Option<f64>,
    /// Seconds from the problem's detection until the collection was normal again; None: not yet, or not known.
    #[serde(default)]
    pub recovery_s: Option<f64>,
    /// A human's judgement, 0 (of no use) to 1 (helped); None: none was given.
    #[serde(default)]
    pub feedback: Option<f64>,
    /// When that judgement was given; None: none was, or it is not known when.
    #[serde(default)]
    pub feedback_at: Option<UnixMs>,
}

impl OutcomeRecord {
    /// The spec's success: carried out, and verified.
    pub fn is_verified_success(&self) -> bool {
        self.success && self.verified == Some(true)
    }

    /// How far the remedy succeeded, 0–1; None when the end says nothing of it (stopped, put off). A human's judgement
    /// counts before the measurement.
    pub fn trial(&self) -> Option<f64> {
        if let Some(score) = self.feedback.filter(|score| score.is_finite()) {
            return Some(score.clamp(0.0, 1.0));
        }
        match self.lesson {
            Lesson::Helped => Some(f64::from(u8::from(self.is_verified_success()))),
            // One that was kept in part succeeded in what was kept; a success that a human took back did not.
            Lesson::NoGain | Lesson::Fault | Lesson::UndoFailed => {
                Some(if self.is_verified_success() { 0.5 } else { 0.0 })
            }
            Lesson::Postponed | Lesson::Nothing => None,
        }
    }

    /// Seconds that it took.
    pub fn duration_s(&self) -> f64 {
        (self.completed_at - self.started_at).max(0) as f64 / 1000.0
    }
}

/// What was learned, as a decision reads it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Learned {
    /// Seed of the choices: it changes with each outcome, so that between two outcomes a choice stays the same.
    #[serde(default)]
    pub seed: u64,
    /// What is believed of each remedy in each context.
    #[serde(default)]
    pub posteriors: Vec<Posterior>,
    /// Where each remedy stands on the collection's autonomy ladder, those that were never lowered left out.
    #[serde(default)]
    pub rungs: Vec<Rung>,
}

impl Learned {
    /// The seed of a collection's choices after the outcome of this number: another with each outcome.
    pub fn seed(collection_id: i32, last_outcome: i64) -> u64 {
        (u64::from(collection_id as u32) << 40) ^ last_outcome as u64
    }

    /// What is believed of a remedy in a context.
    pub fn posterior(&self, context: &Context, strategy: &str) -> Posterior {
        let known = self.posteriors.iter().find(|p| p.strategy == strategy && p.context == *context);
        // One that was never tried here shares what is known of it elsewhere.
        known.cloned().unwrap_or_else(|| Posterior::untried(&self.posteriors, context, strategy))
    }

    /// Where a remedy stands, when it was ever lowered.
    pub fn rung(&self, strategy: &str) -> Option<&Rung> {
        self.rungs.iter().find(|rung| rung.strategy == strategy)
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    use super::*;

    /// An outcome of `strategy` that ended at `at` ms after 10 s: verified or rolled back.
    pub(crate) fn outcome(
        strategy: &str,
        at: UnixMs,
        verified: bool,
        improvement_pct: Option<f64>,
    ) -> OutcomeRecord {
        OutcomeRecord {
            id: at,
            collection_id: 1,
            strategy: strategy.to_owned(),
            context: context(),
            started_at: at - 10_000,
            completed_at: at,
            status: if verified { Status::Succeeded } else { Status::RolledBack },
            lesson: if verified { Lesson::Helped } else { Lesson::NoGain },
            success: verified,
            verified: Some(verified),
            improvement_pct,
            recovery_s: None,
            feedback: None,
            feedback_at: None,
        }
    }

    pub(crate) fn context() -> Context {
        Context { problem_class: "HotspotCongestion".to_owned(), index_kind: "none".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::outcome;
    use super::*;
    use crate::classify::diagnose;
    use crate::config::Config;
    use crate::fixtures::{drift, fragment, snapshot};
    use crate::integrity::{Component, assess};

    #[test]
    fn a_context_is_the_problems_class_and_the_kind_of_its_index() {
        let mut sick = snapshot(1, 4, 1);
        drift(&mut sick.indexes[0], 9.0);
        fragment(&mut sick.indexes[1], 80.0);
        let config = Config::default();
        let problems = diagnose(&assess(&sick, &config).unwrap(), &sick, &config);
        let mut found: Vec<Context> = problems.iter().map(|problem| Context::of(problem, &sick)).collect();
        found.sort();
        let context = |class: &str, kind: &str| Context {
            problem_class: class.to_owned(),
            index_kind: kind.to_owned(),
        };
        assert_eq!(found, [context("CentroidSkew", "ivfflat"), context("IndexFragmentation", "hnsw")]);
        let component = Component { lambda: 0.1, nodes: vec![], witness: vec![] };
        let class = ProblemClass::MemoryPressure { current_usage_pct: 99.0, largest_consumers: vec![] };
        let problem = Problem { class, component, evidence: vec![] };
        assert_eq!(Context::of(&problem, &sick), context("MemoryPressure", "none"));
    }

    #[test]
    fn each_collection_has_another_seed_with_each_outcome() {
        assert_eq!(Learned::seed(3, 9), (3 << 40) + 9);
        assert_eq!(Learned::seed(1, 1 << 40), 0);
        assert_ne!(Learned::seed(1, 0), Learned::seed(2, 0));
    }

    #[test]
    fn what_an_end_says_of_the_remedy() {
        let mut one = outcome("a", 0, true, None);
        assert_eq!(one.trial(), Some(1.0));
        // A preventive remedy: λ did not rise, its own predicate came true.
        one.improvement_pct = Some(0.0);
        assert_eq!(one.trial(), Some(1.0), "scored on its own predicate, not on λ");
        one.verified = None;
        assert_eq!(one.trial(), Some(0.0), "not measured is not verified");
        let mut lost = outcome("a", 0, false, None);
        assert_eq!(lost.trial(), Some(0.0));
        lost.lesson = Lesson::Postponed;
        assert_eq!(lost.trial(), None);
        lost.lesson = Lesson::Nothing;
        assert_eq!(lost.trial(), None);
        lost.feedback = Some(0.7);
        assert_eq!(lost.trial(), Some(0.7), "a human's word counts, also of what was stopped");
        lost.feedback = Some(f64::NAN);
        assert_eq!(lost.trial(), None);
        lost.feedback = Some(7.0);
        assert_eq!(lost.trial(), Some(1.0));
    }
}
