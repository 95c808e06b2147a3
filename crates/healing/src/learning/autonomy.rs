//! How far a remedy may go by itself on a collection: observe → approve → auto.
//!
//! A human sets the mode; this ladder only lowers a remedy below it, after failures, and lets it rise back by evidence:
//!
//! | move | when |
//! |---|---|
//! | one step down | [`STRIKES_MAX`] strikes in a row: two faults, the second [`SAME_CAUSE_MS`] after the first or later, or four times no gain |
//! | down to observe | it could not be undone |
//! | observe → approve | its predictions came true, or it succeeded by hand: lower bound at least [`ENOUGH`] |
//! | approve → auto | it succeeded, with a human's approval or by hand: lower bound at least [`ENOUGH`] |
//!
//! The lower bound is what the success rate since the last move exceeds with probability 0.9, a uniform prior given: three
//! of three, or five of six. In observe nothing is carried out, so what is scored is the prediction that the problem will
//! not clear by itself within the time that the plan would take: a plan for a problem that clears alone was not needed.

use serde::{Deserialize, Serialize};

use super::beta::quantile;
use crate::config::Mode;
use crate::lifecycle::Lesson;
use crate::snapshot::UnixMs;

/// Strikes in a row that lower a remedy by a step.
pub const STRIKES_MAX: u32 = 4;
/// Strikes of an action that failed.
const FAULT_STRIKES: u32 = 2;
/// Strikes of one that was carried out and was no gain: its machinery works, and the next part may want it.
const NO_GAIN_STRIKES: u32 = 1;
/// Faults within this time of the last that counted are laid to the same cause (a full disk, a machine short of memory, a
/// server that crashes), milliseconds. How often it may fail in a row whatever the cause is the breaker's business.
const SAME_CAUSE_MS: i64 = 6 * 3_600_000;
/// The lower bound from which a remedy rises: more often right than wrong.
pub const ENOUGH: f64 = 0.5;
/// The success rate lies below its lower bound with this probability.
const DOUBT: f64 = 0.1;

/// Where a remedy stands on a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// The remedy.
    pub strategy: String,
    /// The farthest that it goes by itself.
    pub level: Mode,
    /// Since when.
    pub since: UnixMs,
    /// Strikes since the last success.
    pub strikes: u32,
    /// What spoke for it since the last move: successes, or in observe predictions that came true.
    pub right: u32,
    /// What spoke against it.
    pub wrong: u32,
    /// When a fault last counted as a strike.
    #[serde(default)]
    pub struck_at: Option<UnixMs>,
}

/// Something that speaks for or against a remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// An action of it ended.
    Ended(Lesson),
    /// In observe: the problem did (or did not) last as long as its plan would have taken.
    Predicted {
        /// It lasted: the plan was needed.
        needed: bool,
    },
}

/// A move on the ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Before.
    pub from: Mode,
    /// After.
    pub to: Mode,
    /// Why, in one sentence.
    pub reason: String,
}

fn height(mode: Mode) -> u8 {
    match mode {
        Mode::Observe => 0,
        Mode::Approve => 1,
        Mode::Auto => 2,
    }
}

fn down(mode: Mode) -> Mode {
    if mode == Mode::Auto { Mode::Approve } else { Mode::Observe }
}

fn up(mode: Mode) -> Mode {
    if mode == Mode::Observe { Mode::Approve } else { Mode::Auto }
}

/// How far a remedy goes: the lower of what a human has set and where it stands.
pub fn effective(human: Mode, rung: Option<&Rung>) -> Mode {
    rung.map(|rung| rung.level).filter(|level| height(*level) < height(human)).unwrap_or(human)
}

impl Rung {
    /// The top of the ladder, where every remedy begins: only what a human has set holds it back.
    pub fn top(strategy: impl Into<String>, now: UnixMs) -> Self {
        Self {
            strategy: strategy.into(),
            level: Mode::Auto,
            since: now,
            strikes: 0,
            right: 0,
            wrong: 0,
            struck_at: None,
        }
    }

    /// Put there by a human: what spoke for or against it before counts no more.
    #[must_use]
    pub fn set(&self, level: Mode, now: UnixMs) -> Self {
        Self { level, ..Self::top(self.strategy.clone(), now) }
    }

    /// What its success rate since the last move exceeds with probability 0.9.
    pub fn lower_bound(&self) -> f64 {
        quantile(1.0 + f64::from(self.right), 1.0 + f64::from(self.wrong), DOUBT)
    }

    /// The remedy after one more piece of evidence, and the move, if it makes one.
    #[must_use]
    pub fn after(&self, evidence: Evidence, now: UnixMs) -> (Rung, Option<Move>) {
        let mut rung = self.clone();
        // Faults of the same bad hour of a server are no two witnesses.
        let is_same = |at: UnixMs| (at..at + SAME_CAUSE_MS).contains(&now);
        if evidence == Evidence::Ended(Lesson::Fault) && rung.struck_at.is_some_and(is_same) {
            return (rung, None);
        }
        match evidence {
            Evidence::Ended(Lesson::Helped) | Evidence::Predicted { needed: true } => {
                rung.right = rung.right.saturating_add(1);
            }
            Evidence::Ended(Lesson::NoGain | Lesson::Fault | Lesson::UndoFailed)
            | Evidence::Predicted { needed: false } => rung.wrong = rung.wrong.saturating_add(1),
            Evidence::Ended(Lesson::Postponed | Lesson::Nothing) => return (rung, None),
        }
        match evidence {
            Evidence::Ended(Lesson::Helped) => (rung.strikes, rung.struck_at) = (0, None),
            Evidence::Ended(Lesson::NoGain) => rung.strikes = rung.strikes.saturating_add(NO_GAIN_STRIKES),
            Evidence::Ended(_) => {
                rung.strikes = rung.strikes.saturating_add(FAULT_STRIKES);
                rung.struck_at = Some(now);
            }
            Evidence::Predicted { .. } => {}
        }
        let to = if evidence == Evidence::Ended(Lesson::UndoFailed) {
            Mode::Observe
        } else if rung.strikes >= STRIKES_MAX {
            down(rung.level)
        } else if rung.level != Mode::Auto && rung.lower_bound() >= ENOUGH {
            up(rung.level)
        } else {
            rung.level
        };
        if to == rung.level {
            return (rung, None);
        }
        let Rung { level: from, right, wrong, struck_at, .. } = rung;
        let reason = if evidence == Evidence::Ended(Lesson::UndoFailed) {
            "it could not be undone".to_owned()
        } else if height(to) < height(from) {
            "it failed several times in a row".to_owned()
        } else {
            format!("right {right} of {} times: above {ENOUGH} with probability 0.9", right + wrong)
        };
        // What struck it down may strike again within the same hours.
        (Rung { struck_at, ..rung.set(to, now) }, Some(Move { from, to, reason }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(mut rung: Rung, evidence: &[Evidence]) -> (Rung, Vec<(Mode, Mode)>) {
        let mut moves = vec![];
        for (turn, one) in (1..).zip(evidence) {
            let (next, moved) = rung.after(*one, turn * SAME_CAUSE_MS);
            moves.extend(moved.map(|m| (m.from, m.to)));
            rung = next;
        }
        (rung, moves)
    }

    const OK: Evidence = Evidence::Ended(Lesson::Helped);
    const BAD: Evidence = Evidence::Ended(Lesson::Fault);
    const NO_GAIN: Evidence = Evidence::Ended(Lesson::NoGain);

    #[test]
    fn two_faults_in_a_row_lower_by_a_step_and_three_successes_raise() {
        let (rung, moves) = walk(Rung::top("a", 0), &[BAD, OK, BAD, OK]);
        assert_eq!((rung.level, moves.len()), (Mode::Auto, 0), "never two in a row");
        let (rung, moves) = walk(Rung::top("a", 0), &[BAD, BAD]);
        assert_eq!(
            (rung.level, rung.since, moves),
            (Mode::Approve, 2 * SAME_CAUSE_MS, vec![(Mode::Auto, Mode::Approve)])
        );
        assert_eq!((rung.right, rung.wrong, rung.strikes), (0, 0, 0), "a new count");
        assert_eq!(walk(rung.clone(), &[OK, OK]).0.level, Mode::Approve);
        assert_eq!(walk(rung.clone(), &[OK, OK, OK]).0.level, Mode::Auto);
        // 0.1^(1/4) = 0.562.
        let two = walk(rung.clone(), &[OK, OK]).0;
        assert!((Rung { right: 3, ..two }.lower_bound() - 0.1f64.powf(0.25)).abs() < 1e-6);
        // Beta(5, 2): 0.1 quantile 0.4897; Beta(6, 2): 0.5474.
        assert_eq!(walk(rung.clone(), &[OK, BAD, OK, OK, OK]).0.level, Mode::Approve);
        assert_eq!(walk(rung.clone(), &[OK, BAD, OK, OK, OK, OK]).0.level, Mode::Auto);
        assert_eq!(walk(rung, &[BAD, BAD]).0.level, Mode::Observe);
        // Four times no gain are as much, and so is a fault with two of them.
        assert_eq!(walk(Rung::top("a", 0), &[NO_GAIN; 3]).0.level, Mode::Auto);
        assert_eq!(walk(Rung::top("a", 0), &[NO_GAIN; 4]).0.level, Mode::Approve);
        assert_eq!(walk(Rung::top("a", 0), &[NO_GAIN, BAD, NO_GAIN]).0.level, Mode::Approve);
    }

    #[test]
    fn faults_of_the_same_bad_hours_are_one_witness() {
        let (first, _) = Rung::top("a", 0).after(BAD, 1000);
        let (again, none) = first.after(BAD, 1000 + SAME_CAUSE_MS - 1);
        assert_eq!((again.strikes, again.wrong, none), (FAULT_STRIKES, 1, None));
        // From the one that counted on, not from the last.
        let (lowered, _) = again.after(BAD, 1000 + SAME_CAUSE_MS);
        assert_eq!(lowered.level, Mode::Approve);
        // The hours go on below: what was approved in them and failed alike is no witness either.
        assert_eq!(lowered.after(BAD, 2000 + SAME_CAUSE_MS), (lowered.clone(), None));
        assert_eq!(lowered.after(BAD, 1000 + 2 * SAME_CAUSE_MS).0.strikes, FAULT_STRIKES);
        let by_hand = lowered.set(Mode::Approve, 1500 + SAME_CAUSE_MS);
        assert_eq!(by_hand.after(BAD, 2000 + SAME_CAUSE_MS).0.strikes, FAULT_STRIKES, "a human begins anew");
        // A success between them ends it, and a clock that was set back does not last for ever.
        let (well, _) = first.after(OK, 2000);
        assert_eq!(well.after(BAD, 3000).0.strikes, FAULT_STRIKES);
        assert_eq!(first.after(BAD, 0).0.level, Mode::Approve);
    }

    #[test]
    fn what_could_not_be_undone_goes_to_observe_and_rises_by_predictions_one_step() {
        let (rung, moves) = walk(Rung::top("a", 0), &[Evidence::Ended(Lesson::UndoFailed)]);
        assert_eq!((rung.level, moves), (Mode::Observe, vec![(Mode::Auto, Mode::Observe)]));
        let needed = Evidence::Predicted { needed: true };
        let (rung, moves) = walk(rung, &[needed, needed, needed]);
        assert_eq!((rung.level, moves), (Mode::Approve, vec![(Mode::Observe, Mode::Approve)]));
        let lowest = Rung::top("a", 0).set(Mode::Observe, 3);
        let not = Evidence::Predicted { needed: false };
        assert_eq!(walk(lowest.clone(), &[not, not, not]).0.level, Mode::Observe);
        assert_eq!(walk(lowest, &[BAD, BAD, BAD]).1, [], "there is no lower step");
    }

    #[test]
    fn each_move_says_why() {
        let why = |rung: Rung, evidence| rung.after(evidence, 1).1.map(|moved| moved.reason);
        let top = Rung::top("a", 0);
        let could_not = Some("it could not be undone".to_owned());
        assert_eq!(why(top.clone(), Evidence::Ended(Lesson::UndoFailed)), could_not);
        let failing = Rung { strikes: 2, ..top.clone() };
        assert_eq!(why(failing, BAD), Some("it failed several times in a row".to_owned()));
        let rising = Rung { right: 4, wrong: 1, ..top.set(Mode::Approve, 0) };
        assert_eq!(why(rising, OK), Some("right 5 of 6 times: above 0.5 with probability 0.9".to_owned()));
    }

    #[test]
    fn what_says_nothing_changes_nothing() {
        let rung = Rung { strikes: 1, ..Rung::top("a", 0) };
        for lesson in [Lesson::Postponed, Lesson::Nothing] {
            assert_eq!(rung.after(Evidence::Ended(lesson), 9), (rung.clone(), None));
        }
    }

    #[test]
    fn the_ladder_only_lowers_what_a_human_has_set() {
        let at = |level| Rung::top("a", 0).set(level, 0);
        assert_eq!(effective(Mode::Auto, None), Mode::Auto);
        assert_eq!(effective(Mode::Observe, Some(&at(Mode::Auto))), Mode::Observe);
        assert_eq!(effective(Mode::Approve, Some(&at(Mode::Auto))), Mode::Approve);
        assert_eq!(effective(Mode::Auto, Some(&at(Mode::Approve))), Mode::Approve);
        assert_eq!(effective(Mode::Approve, Some(&at(Mode::Observe))), Mode::Observe);
    }

    proptest! {
        #[test]
        fn it_moves_a_step_at_a_time_and_rises_only_on_what_speaks_for_it(kinds in prop::collection::vec(0usize..6, 1..60)) {
            let all = [
                OK,
                BAD,
                NO_GAIN,
                Evidence::Ended(Lesson::Postponed),
                Evidence::Predicted { needed: true },
                Evidence::Predicted { needed: false },
            ];
            let mut rung = Rung::top("a", 0);
            for kind in kinds {
                let before = height(rung.level);
                let (next, moved) = rung.after(all[kind], 1);
                let after = height(next.level);
                prop_assert_eq!(moved.is_some(), before != after);
                prop_assert!(before.abs_diff(after) <= 1);
                if after > before {
                    prop_assert!(matches!(kind, 0 | 4));
                }
                rung = next;
            }
        }
    }
}
