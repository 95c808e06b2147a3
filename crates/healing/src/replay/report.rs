//! What a replay found, and how sure it is, as data and in plain words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::integrity::IntegrityState;
use crate::learning::Effect;
use crate::snapshot::UnixMs;

/// What was decided at a moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing, for this reason.
    Refuse(String),
    /// A plan that waits for a human.
    Ask(String),
    /// A plan was begun.
    Act(String),
}

impl Outcome {
    fn in_words(&self) -> String {
        match self {
            Outcome::Refuse(reason) => format!("nothing ({reason})"),
            Outcome::Ask(strategy) => format!("ask for {strategy}"),
            Outcome::Act(strategy) => format!("act: {strategy}"),
        }
    }

    pub(super) fn acts(&self) -> Option<&str> {
        match self {
            Outcome::Act(strategy) => Some(strategy),
            _ => None,
        }
    }
}

/// A moment from which on the two settings decide differently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// When.
    pub at: UnixMs,
    /// The collection.
    pub collection: String,
    /// λ under the recorded settings.
    pub lambda: Option<f64>,
    /// State under the recorded settings.
    pub state: IntegrityState,
    /// State under the others.
    pub other_state: IntegrityState,
    /// What the recorded settings decide.
    pub recorded: Outcome,
    /// What the others decide.
    pub other: Outcome,
    /// False after another action would have been taken: the recording shows a world without it.
    pub certain: bool,
    /// Probability with which the sampling chooses the other's remedy; None when nothing was chosen among.
    pub propensity: Option<f64>,
    /// What the other's action would have done, as far as was learned by then: own effect and its 90 % interval.
    pub expected: Option<Effect>,
}

impl Difference {
    /// Whether another seed may choose another remedy.
    fn is_sampled(&self) -> bool {
        self.propensity.is_some_and(|propensity| propensity < 1.0)
    }
}

/// What one setting comes to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Actions begun, by strategy.
    pub actions: BTreeMap<String, u64>,
    /// Plans that asked, by strategy.
    pub asked: BTreeMap<String, u64>,
    /// Snapshots at which nothing was done, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Seconds in each state.
    pub seconds: BTreeMap<String, f64>,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Time of the first row used.
    pub from: Option<UnixMs>,
    /// Time of the last.
    pub until: Option<UnixMs>,
    /// Snapshots replayed.
    pub snapshots: u64,
    /// Samples of which only λ was recorded and could be used.
    pub samples: u64,
    /// Gaps in the recording.
    pub gaps: u64,
    /// Snapshots at which the recorded settings, replayed, decide as was recorded.
    pub reproduced: u64,
    /// The recorded settings.
    pub recorded: Tally,
    /// The others.
    pub other: Tally,
    /// Where they differ, in the order of time.
    pub differences: Vec<Difference>,
    /// Differences beyond those listed.
    pub more_differences: u64,
    /// What limits how far this can be believed, one sentence each.
    pub caveats: Vec<String>,
}

/// What was met on the way that the reader must know of.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) lambda_differs: bool,
    pub(super) conjecture: bool,
}

impl Seen {
    pub(super) fn caveats(&self, replay: &Replay) -> Vec<String> {
        let mut all = Vec::new();
        if replay.snapshots == 0 {
            all.push("Nothing was recorded in this time.".to_owned());
            return all;
        }
        let share = 100.0 * replay.reproduced as f64 / replay.snapshots as f64;
        if replay.reproduced < replay.snapshots {
            all.push(format!(
                "Replaying the recorded settings gives the recorded decision at {share:.0} % of the snapshots: differences of the other {:.0} % may come from what is not recorded (breakers closed by a human, what went on beside).",
                100.0 - share
            ));
        }
        if self.conjecture {
            all.push(
                "Where another action would have been taken, all until both settings are normal again is conjecture: the recording shows a world without it.".to_owned(),
            );
        }
        if replay.differences.iter().any(|difference| difference.expected.is_some()) {
            all.push(
                "What an action would have done is not known; the expected effect is what was learned from outcomes by then.".to_owned(),
            );
        }
        if self.lambda_differs {
            all.push(
                "The settings change λ itself: between snapshots it is not known, so that states may turn later than they would have.".to_owned(),
            );
        }
        if replay.differences.iter().any(|difference| difference.is_sampled()) {
            all.push("Remedies are chosen by sampling: another seed may choose another one, with the propensity shown.".to_owned());
        }
        if replay.gaps > 0 {
            all.push(format!("The recording has {} gaps.", replay.gaps));
        }
        all
    }
}

impl Tally {
    /// Counts what was decided at one more snapshot.
    pub(super) fn count(&mut self, outcome: &Outcome) {
        let (into, name) = match outcome {
            Outcome::Refuse(reason) => (&mut self.refusals, reason),
            Outcome::Ask(strategy) => (&mut self.asked, strategy),
            Outcome::Act(strategy) => (&mut self.actions, strategy),
        };
        *into.entry(name.clone()).or_default() += 1;
    }
}

impl Replay {
    /// The report in plain words; `time` writes a moment.
    pub fn in_words(&self, time: &dyn Fn(UnixMs) -> String) -> String {
        let mut text = String::new();
        let mut line = |words: String| {
            text.push_str(&words);
            text.push('\n');
        };
        if let (Some(from), Some(until)) = (self.from, self.until) {
            line(format!(
                "Replayed {} snapshots and {} samples from {} to {}.",
                self.snapshots,
                self.samples,
                time(from),
                time(until)
            ));
        }
        for (name, tally) in [("recorded settings", &self.recorded), ("other settings", &self.other)] {
            let list = |counts: &BTreeMap<String, u64>| {
                let all: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
                if all.is_empty() { "none".to_owned() } else { all.join(", ") }
            };
            let seconds: Vec<String> =
                tally.seconds.iter().map(|(state, seconds)| format!("{state} {seconds:.0} s")).collect();
            line(format!(
                "With the {name}: actions {}; asked {}; nothing done {}; {}.",
                list(&tally.actions),
                list(&tally.asked),
                list(&tally.refusals),
                seconds.join(", ")
            ));
        }
        if self.differences.is_empty() && self.snapshots > 0 {
            line("Nothing would have been decided differently.".to_owned());
        }
        for difference in &self.differences {
            let lambda =
                difference.lambda.map_or_else(|| "not known".to_owned(), |lambda| format!("{lambda:.2}"));
            let state = if difference.state == difference.other_state {
                difference.state.as_str().to_owned()
            } else {
                format!(
                    "{}, with the other settings {}",
                    difference.state.as_str(),
                    difference.other_state.as_str()
                )
            };
            let expected = difference.expected.map_or_else(String::new, |effect| {
                format!("; expected effect {:.2} ({:.2} to {:.2})", effect.mean, effect.low, effect.high)
            });
            let propensity = difference
                .propensity
                .filter(|_| difference.is_sampled())
                .map_or_else(String::new, |propensity| format!("; chosen with probability {propensity:.2}"));
            line(format!(
                "{} {}: λ {lambda}, {state}: instead of {} it would {}{}{}{}.",
                time(difference.at),
                difference.collection,
                difference.recorded.in_words(),
                difference.other.in_words(),
                propensity,
                expected,
                if difference.certain { "" } else { " [conjecture]" }
            ));
        }
        if self.more_differences > 0 {
            line(format!("{} more differences are not listed.", self.more_differences));
        }
        for caveat in &self.caveats {
            line(format!("Note: {caveat}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference() -> Difference {
        Difference {
            at: 5,
            collection: "docs".to_owned(),
            lambda: Some(0.456),
            state: IntegrityState::Stress,
            other_state: IntegrityState::Stress,
            recorded: Outcome::Ask("drain_hot_partition".to_owned()),
            other: Outcome::Act("throttle_ingestion".to_owned()),
            certain: true,
            propensity: None,
            expected: None,
        }
    }

    fn replay(differences: Vec<Difference>) -> Replay {
        Replay {
            from: Some(1),
            until: Some(9),
            snapshots: 8,
            samples: 20,
            gaps: 0,
            reproduced: 8,
            recorded: Tally::default(),
            other: Tally::default(),
            differences,
            more_differences: 0,
            caveats: vec![],
        }
    }

    #[test]
    fn a_report_in_words() {
        let effect = Effect { mean: 0.5, median: 0.5, low: 0.25, high: 0.75 };
        let mut told = replay(vec![
            difference(),
            Difference {
                at: 7,
                lambda: None,
                other_state: IntegrityState::Critical,
                recorded: Outcome::Refuse("cooldown".to_owned()),
                certain: false,
                propensity: Some(0.75),
                expected: Some(effect),
                ..difference()
            },
            Difference { at: 8, propensity: Some(1.0), ..difference() },
        ]);
        told.recorded.count(&Outcome::Ask("drain_hot_partition".to_owned()));
        told.recorded.count(&Outcome::Refuse("cooldown".to_owned()));
        told.recorded.count(&Outcome::Refuse("cooldown".to_owned()));
        told.other.count(&Outcome::Act("throttle_ingestion".to_owned()));
        told.recorded.seconds = [("normal".to_owned(), 60.0), ("stress".to_owned(), 20.4)].into();
        told.more_differences = 3;
        told.caveats = vec!["So it is.".to_owned()];
        let expected = "\
Replayed 8 snapshots and 20 samples from t1 to t9.
With the recorded settings: actions none; asked drain_hot_partition 1; nothing done cooldown 2; normal 60 s, stress 20 s.
With the other settings: actions throttle_ingestion 1; asked none; nothing done none; .
t5 docs: λ 0.46, stress: instead of ask for drain_hot_partition it would act: throttle_ingestion.
t7 docs: λ not known, stress, with the other settings critical: instead of nothing (cooldown) it would act: throttle_ingestion; chosen with probability 0.75; expected effect 0.50 (0.25 to 0.75) [conjecture].
t8 docs: λ 0.46, stress: instead of ask for drain_hot_partition it would act: throttle_ingestion.
3 more differences are not listed.
Note: So it is.
";
        assert_eq!(told.in_words(&|at| format!("t{at}")), expected);
        let same = "Nothing would have been decided differently.";
        assert!(replay(vec![]).in_words(&|_| String::new()).contains(same));
        assert!(!told.in_words(&|_| String::new()).contains(same));
        let nothing = Replay { snapshots: 0, from: None, until: None, ..replay(vec![]) };
        let words = nothing.in_words(&|_| String::new());
        assert!(
            !words.contains(same) && !words.contains("Replayed") && !words.contains("more differences"),
            "{words}"
        );
    }

    #[test]
    fn each_caveat_is_told_when_it_holds() {
        let all = |seen: Seen, replay: &Replay| seen.caveats(replay).join(" | ");
        assert_eq!(all(Seen::default(), &replay(vec![difference()])), "");
        let some = Replay { reproduced: 6, gaps: 2, ..replay(vec![]) };
        let told = all(Seen::default(), &some);
        assert!(told.contains("at 75 % of the snapshots: differences of the other 25 %"), "{told}");
        assert!(told.contains("The recording has 2 gaps."), "{told}");
        let effect = Effect { mean: 0.5, median: 0.5, low: 0.25, high: 0.75 };
        let expected = replay(vec![difference(), Difference { expected: Some(effect), ..difference() }]);
        assert!(all(Seen::default(), &expected).starts_with("What an action would have done is not known"));
        let seen = [
            (Seen { conjecture: true, ..Seen::default() }, "Where another action would have been taken"),
            (Seen { lambda_differs: true, ..Seen::default() }, "The settings change λ itself"),
        ];
        for (seen, begins) in seen {
            let told = all(seen, &replay(vec![]));
            assert!(told.starts_with(begins) && !told.contains(" | "), "{told}");
        }
        let chosen = |propensity| replay(vec![difference(), Difference { propensity, ..difference() }]);
        assert!(all(Seen::default(), &chosen(Some(0.75))).starts_with("Remedies are chosen by sampling"));
        assert_eq!(all(Seen::default(), &chosen(Some(1.0))), "");
        let nothing = Replay { snapshots: 0, reproduced: 0, ..replay(vec![]) };
        let seen = Seen { conjecture: true, ..Seen::default() };
        assert_eq!(all(seen, &nothing), "Nothing was recorded in this time.");
    }
}
