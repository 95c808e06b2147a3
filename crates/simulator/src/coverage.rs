//! What a run has met. A thing that a long run never meets is not tested, and fails it.

use std::collections::BTreeMap;

use healing::engine::Reason;
use healing::lifecycle::{Lesson, Status};

use crate::hazards;
use crate::steps::OPERATIONS;

/// Reasons that the healer's own loop cannot meet with the present remedies, each with why.
pub const UNREACHABLE_REASONS: &[(Reason, &str)] = &[
    (Reason::InvalidRequest, "SQL refuses unknown strategies and parameters before they are stored"),
    (Reason::UnknownProblem, "every witness that the present graph can have fits a class"),
    (Reason::NoStrategy, "every class that the present graph can have has a remedy"),
    (Reason::IdentityChanged, "no server here is copied"),
    (Reason::ImpactBudget, "two plans that may run at once have together no more than the budget"),
    (Reason::NotQuiet, "the world has no foreground load that the healer sees"),
];

/// Counters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Coverage {
    /// Hazards that struck.
    pub hazards: BTreeMap<&'static str, u64>,
    /// Fault last struck before a success, and the remedy.
    pub cures: BTreeMap<(String, String), u64>,
    /// Operations before which a worker died.
    pub crashes: BTreeMap<&'static str, u64>,
    /// Reasons for not acting.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Remedies that began.
    pub begun: BTreeMap<String, u64>,
    /// Remedy and end.
    pub ends: BTreeMap<(String, &'static str), u64>,
    /// What ends taught.
    pub lessons: BTreeMap<&'static str, u64>,
    /// Actions given up since their workers erred.
    pub gave_up: u64,
    /// Recoveries that came through after their action had ended.
    pub finished_late: u64,
    /// Actions that went on without a part that failed.
    pub parts_kept: u64,
    /// Builds that ran out of memory.
    pub out_of_memory: u64,
    /// Moves of remedies on the autonomy ladder.
    pub moved: u64,
    /// Former indexes that got a name of their own.
    pub former_names: u64,
    /// Plans that waited for a human until what they were for was well again.
    pub cleared: u64,
}

impl Coverage {
    /// A hazard struck.
    pub fn struck(&mut self, name: &'static str) {
        *self.hazards.entry(name).or_default() += 1;
    }

    /// A worker died before this operation.
    pub fn crashed(&mut self, operation: &'static str) {
        *self.crashes.entry(operation).or_default() += 1;
    }

    /// The core refused.
    pub fn reason(&mut self, reason: Reason) {
        *self.reasons.entry(reason.as_str()).or_default() += 1;
    }

    /// A remedy began.
    pub fn began(&mut self, strategy: &str) {
        *self.begun.entry(strategy.to_owned()).or_default() += 1;
    }

    /// An action ended.
    pub fn ended(&mut self, strategy: &str, status: Status) {
        *self.ends.entry((strategy.to_owned(), status.as_str())).or_default() += 1;
    }

    /// A remedy succeeded on a collection that this fault struck last.
    pub fn cured(&mut self, fault: &str, strategy: &str) {
        *self.cures.entry((fault.to_owned(), strategy.to_owned())).or_default() += 1;
    }

    /// Adds another run's counters.
    pub fn add(&mut self, other: &Coverage) {
        fn sum<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            for (key, count) in from {
                *into.entry(key.clone()).or_default() += count;
            }
        }
        sum(&mut self.hazards, &other.hazards);
        sum(&mut self.cures, &other.cures);
        sum(&mut self.crashes, &other.crashes);
        sum(&mut self.reasons, &other.reasons);
        sum(&mut self.begun, &other.begun);
        sum(&mut self.ends, &other.ends);
        sum(&mut self.lessons, &other.lessons);
        self.gave_up += other.gave_up;
        self.finished_late += other.finished_late;
        self.parts_kept += other.parts_kept;
        self.out_of_memory += other.out_of_memory;
        self.moved += other.moved;
        self.former_names += other.former_names;
        self.cleared += other.cleared;
    }

    /// Everything that should be met, with how often it was: the table of the report.
    pub fn table(&self) -> Vec<(String, u64)> {
        let mut rows = Vec::new();
        for hazard in hazards::ALL {
            let count = self.hazards.get(hazard.name()).copied().unwrap_or(0);
            rows.push((format!("hazard {}", hazard.name()), count));
            for remedy in hazard.remedies() {
                let key = (hazard.name().to_owned(), (*remedy).to_owned());
                rows.push((
                    format!("{} cured by {remedy}", hazard.name()),
                    self.cures.get(&key).copied().unwrap_or(0),
                ));
            }
        }
        for operation in OPERATIONS {
            rows.push((
                format!("crash before {operation}"),
                self.crashes.get(operation).copied().unwrap_or(0),
            ));
        }
        for reason in
            Reason::ALL.iter().filter(|reason| !UNREACHABLE_REASONS.iter().any(|(r, _)| r == *reason))
        {
            rows.push((
                format!("refused: {}", reason.as_str()),
                self.reasons.get(reason.as_str()).copied().unwrap_or(0),
            ));
        }
        for status in Status::ALL.iter().filter(|status| status.is_terminal()) {
            let count =
                self.ends.iter().filter(|((_, end), _)| *end == status.as_str()).map(|(_, n)| n).sum();
            rows.push((format!("end {}", status.as_str()), count));
        }
        for lesson in Lesson::ALL.iter().filter(|lesson| **lesson != Lesson::Nothing) {
            let count = self.lessons.get(lesson.as_str()).copied().unwrap_or(0);
            rows.push((format!("lesson {}", lesson.as_str()), count));
        }
        rows.extend([
            ("given up since its workers erred".to_owned(), self.gave_up),
            ("undone after its end".to_owned(), self.finished_late),
            ("complete parts kept".to_owned(), self.parts_kept),
            ("moved on the autonomy ladder".to_owned(), self.moved),
            ("build out of memory".to_owned(), self.out_of_memory),
            ("former index under a name of its own".to_owned(), self.former_names),
            ("waited for a human until it was well".to_owned(), self.cleared),
        ]);
        for remedy in crate::hazards::strategies() {
            for status in [Status::Succeeded, Status::RolledBack, Status::Failed, Status::Aborted] {
                let key = (remedy.to_owned(), status.as_str());
                let count = self.ends.get(&key).copied().unwrap_or(0);
                rows.push((format!("{remedy} {}", status.as_str()), count));
            }
        }
        rows
    }

    /// What was never met.
    pub fn missing(&self) -> Vec<String> {
        self.table().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}
