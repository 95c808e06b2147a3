//! One moment of a recording: what was known by then, and what is decided from it.

use std::collections::BTreeMap;

use super::Recorded;
use super::report::Outcome;
use crate::config::Config;
use crate::engine::{self, Arm, Attempt, Decision, DecisionInput, InFlight, Reason, Request};
use crate::integrity::{StateRecord, assess};
use crate::learning::{
    Context, Effect, Learned, OutcomeRecord, Period, Posterior, Rung, WINDOW_MS, Weight, posteriors, weights,
};
use crate::lifecycle::{Lesson, Status};
use crate::remedies;
use crate::snapshot::{Snapshot, UnixMs};

/// All that a recording says of what was learned, and when.
pub(super) struct Lessons<'a> {
    outcomes: Vec<&'a OutcomeRecord>,
    periods: Vec<(UnixMs, &'a Period)>,
    /// Collection, time, strategy and where it went.
    moves: Vec<(i32, UnixMs, &'a Rung)>,
    /// What was believed last, and from which rows.
    believed: Option<(Extent, Vec<Posterior>)>,
}

/// Which rows were known at a moment. A row comes with its time and some leave with theirs, so the numbers say which.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// Outcomes that had come.
    outcomes: usize,
    /// Judgements of a human that had come.
    judgements: usize,
    /// Periods that had come.
    periods: usize,
    /// Periods that had left the window.
    left: usize,
}

/// What was known of the remedies at a moment.
#[derive(Default)]
pub(super) struct Known {
    pub(super) learned: Learned,
    pub(super) weights: Vec<Weight>,
}

impl<'a> Lessons<'a> {
    pub(super) fn of(rows: &'a [Recorded]) -> Self {
        let (mut outcomes, mut periods, mut moves) = (vec![], vec![], vec![]);
        for row in rows {
            match row {
                Recorded::Outcome { outcome } => outcomes.push(outcome.as_ref()),
                Recorded::Period { at, period } => periods.push((*at, period)),
                Recorded::Move { collection_id, rung } => moves.push((*collection_id, rung.since, rung)),
                Recorded::Snapshot { .. } | Recorded::Lambda { .. } | Recorded::Action { .. } => {}
            }
        }
        moves.sort_by_key(|(_, at, _)| *at);
        Self { outcomes, periods, moves, believed: None }
    }

    /// What was known at `now`, with the seed of the choices of that time.
    pub(super) fn by(&mut self, collection: i32, now: UnixMs) -> Known {
        let outcomes: Vec<OutcomeRecord> =
            self.outcomes.iter().filter_map(|outcome| outcome_by(outcome, now)).collect();
        let left = |at: UnixMs| at <= now - WINDOW_MS;
        let extent = Extent {
            outcomes: outcomes.len(),
            judgements: outcomes.iter().filter(|outcome| outcome.feedback.is_some()).count(),
            periods: self.periods.iter().filter(|(at, _)| *at <= now).count(),
            left: self.periods.iter().filter(|(at, _)| left(*at)).count(),
        };
        if self.believed.as_ref().is_none_or(|(of, _)| *of != extent) {
            let periods: Vec<Period> = self
                .periods
                .iter()
                .filter(|(at, _)| *at <= now && !left(*at))
                .map(|(_, period)| (*period).clone())
                .collect();
            self.believed = Some((extent, posteriors(&outcomes, &periods)));
        }
        let mut rungs = BTreeMap::new();
        for (_, _, rung) in self.moves.iter().filter(|(of, at, _)| *of == collection && *at <= now) {
            rungs.insert(rung.strategy.as_str(), (*rung).clone());
        }
        let last = outcomes.iter().map(|outcome| outcome.id).max().unwrap_or(0);
        let names: Vec<&str> = remedies::ALL.iter().map(|remedy| remedy.name()).collect();
        Known {
            weights: weights(&names, &outcomes, &[], now),
            learned: Learned {
                seed: Learned::seed(collection, last),
                posteriors: self.believed.as_ref().map(|(_, all)| all.clone()).unwrap_or_default(),
                rungs: rungs.into_values().collect(),
            },
        }
    }
}

/// An outcome as it was known at `now`, without a judgement that came later; None: it had not come.
fn outcome_by(outcome: &OutcomeRecord, now: UnixMs) -> Option<OutcomeRecord> {
    if outcome.completed_at > now {
        return None;
    }
    let judged = outcome.feedback_at.is_some_and(|at| at <= now);
    Some(OutcomeRecord { feedback: outcome.feedback.filter(|_| judged), ..outcome.clone() })
}

/// An attempt as it was known at `now`; None: it had not begun.
pub(super) fn as_of(attempt: &Attempt, now: UnixMs) -> Option<Attempt> {
    if attempt.started_at > now {
        return None;
    }
    let mut known = attempt.clone();
    if known.ended_at.is_none_or(|ended| ended > now) {
        known.ended_at = None;
        known.lesson = None;
        known.lambda_after = None;
        known.status = Status::Executing;
    }
    Some(known)
}

/// What is decided about a snapshot.
pub(super) struct Decided {
    pub(super) outcome: Outcome,
    pub(super) propensity: Option<f64>,
    pub(super) expected: Option<Effect>,
    /// The action that would begin.
    pub(super) attempt: Option<Attempt>,
}

pub(super) fn decided(
    snapshot: &Snapshot,
    config: &Config,
    state: &StateRecord,
    history: &[Attempt],
    known: &Known,
    now: UnixMs,
) -> Decided {
    let Ok(assessment) = assess(snapshot, config) else {
        let outcome = Outcome::Refuse(Reason::LambdaUnknown.as_str().to_owned());
        return Decided { outcome, propensity: None, expected: None, attempt: None };
    };
    let running = history.iter().filter(|attempt| attempt.ended_at.is_none()).count() as u32;
    let decision = engine::decide(&DecisionInput {
        config,
        state,
        assessment: &assessment,
        snapshot,
        history,
        arms: &arms(history, known, config),
        learned: &known.learned,
        in_flight: InFlight { this_table: running, ..InFlight::default() },
        now,
        request: &Request::Automatic,
    });
    match decision {
        Decision::Refuse { reason, .. } => Decided {
            outcome: Outcome::Refuse(reason.as_str().to_owned()),
            propensity: None,
            expected: None,
            attempt: None,
        },
        Decision::Act { planned, approval, choice, .. } => {
            let strategy = planned.plan.strategy.clone();
            let belief = known.learned.posterior(&Context::of(&planned.problem, snapshot), &strategy);
            let propensity = choice
                .and_then(|c| c.arms.iter().find(|arm| arm.strategy == strategy).map(|arm| arm.propensity));
            if approval.is_some() {
                let outcome = Outcome::Ask(strategy);
                return Decided { outcome, propensity, expected: Some(belief.effect), attempt: None };
            }
            let took_ms = ((planned.plan.estimated_s + config.verify_window_seconds as f64) * 1000.0) as i64;
            Decided {
                outcome: Outcome::Act(strategy.clone()),
                propensity,
                expected: Some(belief.effect),
                attempt: Some(Attempt {
                    started_at: now,
                    ended_at: Some(now.saturating_add(took_ms)),
                    status: Status::Aborted,
                    strategy,
                    problem_class: planned.problem.class.as_str().to_owned(),
                    lesson: Some(Lesson::Nothing),
                    lambda_planned: Some(planned.problem.component.lambda),
                    lambda_before: None,
                    lambda_after: None,
                    lambda_placed: None,
                    rows_moved: None,
                    nodes: planned.problem.component.nodes,
                }),
            }
        }
    }
}

/// The arms as the ends of these actions leave them, with the weights of that time.
fn arms(history: &[Attempt], known: &Known, config: &Config) -> Vec<Arm> {
    let mut ended: Vec<(UnixMs, &Attempt)> =
        history.iter().filter_map(|attempt| Some((attempt.ended_at?, attempt))).collect();
    ended.sort_by_key(|(at, _)| *at);
    let weighted = known.weights.iter();
    let mut arms: Vec<Arm> =
        weighted.map(|w| Arm { weight: w.weight, ..Arm::new(w.strategy.clone()) }).collect();
    for (at, attempt) in ended {
        let known = arms.iter().position(|arm| arm.strategy == attempt.strategy).unwrap_or_else(|| {
            arms.push(Arm::new(attempt.strategy.clone()));
            arms.len() - 1
        });
        arms[known] = arms[known].after(attempt.lesson(), at, config, at as u64);
    }
    arms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use crate::learning::fixtures::{context, outcome};

    const REMEDY: &str = "compact_indexes";

    fn attempt(strategy: &str, started_at: UnixMs, ended_at: UnixMs, lesson: Lesson) -> Attempt {
        Attempt {
            started_at,
            ended_at: Some(ended_at),
            status: Status::Failed,
            strategy: strategy.to_owned(),
            problem_class: "IndexFragmentation".to_owned(),
            lesson: Some(lesson),
            lambda_planned: Some(0.1),
            lambda_before: Some(0.1),
            lambda_placed: None,
            rows_moved: None,
            lambda_after: Some(0.2),
            nodes: vec![],
        }
    }

    #[test]
    fn an_attempt_is_known_from_its_beginning_and_its_end_from_then() {
        let one = attempt(REMEDY, 10, 20, Lesson::Fault);
        assert_eq!(as_of(&one, 9), None);
        let running = Attempt {
            ended_at: None,
            status: Status::Executing,
            lesson: None,
            lambda_after: None,
            ..one.clone()
        };
        assert_eq!([10, 19].map(|now| as_of(&one, now)), [Some(running.clone()), Some(running)]);
        assert_eq!(as_of(&one, 20), Some(one));
    }

    #[test]
    fn arms_are_as_the_ends_in_the_order_of_time_leave_them() {
        let weight = |strategy: &str, weight| Weight { strategy: strategy.to_owned(), weight };
        let known =
            Known { weights: vec![weight("x", 1.5), weight(REMEDY, 0.4)], learned: Learned::default() };
        let history = [
            attempt(REMEDY, 15, 20, Lesson::Fault),
            attempt(REMEDY, 1, 10, Lesson::Helped),
            attempt(REMEDY, 3, 9, Lesson::Fault),
            attempt("former", 2, 5, Lesson::Fault),
            Attempt { ended_at: None, ..attempt("x", 7, 8, Lesson::Fault) },
        ];
        let told: Vec<(String, u32, f64)> = arms(&history, &known, &Config::default())
            .into_iter()
            .map(|arm| (arm.strategy, arm.failures, arm.weight))
            .collect();
        let expected = [("x", 0, 1.5), (REMEDY, 1, 0.4), ("former", 1, 1.0)];
        assert_eq!(
            told,
            expected.map(|(strategy, failures, weight)| (strategy.to_owned(), failures, weight))
        );
    }

    #[test]
    fn what_would_have_been_done_takes_as_long_as_its_plan_and_its_measurement() {
        use crate::fixtures::{NOW, fragment, snapshot};
        use crate::integrity::IntegrityState;
        let mut sick = snapshot(1, 0, 1);
        fragment(&mut sick.indexes[0], 80.0);
        let state = StateRecord { state: IntegrityState::Critical, ..StateRecord::new(NOW) };
        let took = |verify_window_seconds| {
            let config = Config { verify_window_seconds, ..Config::default() };
            let would = decided(&sick, &config, &state, &[], &Known::default(), NOW);
            assert_eq!((would.outcome, would.propensity), (Outcome::Act(REMEDY.to_owned()), Some(1.0)));
            let attempt = would.attempt.unwrap();
            assert_eq!(attempt.started_at, NOW);
            attempt.ended_at.unwrap() - NOW
        };
        assert_eq!(took(300) - took(10), 290_000);
        assert!(took(10) >= 10_000);
    }

    fn outcomes(all: &[OutcomeRecord]) -> Vec<Recorded> {
        all.iter().map(|one| Recorded::Outcome { outcome: Box::new(one.clone()) }).collect()
    }

    fn successes(lessons: &mut Lessons<'_>, now: UnixMs) -> f64 {
        lessons.by(1, now).learned.posterior(&context(), REMEDY).successes
    }

    #[test]
    fn a_judgement_counts_from_when_it_was_given() {
        let judged = OutcomeRecord {
            feedback: Some(0.0),
            feedback_at: Some(5000),
            ..outcome(REMEDY, 1000, true, None)
        };
        let rows = outcomes(std::slice::from_ref(&judged));
        let mut lessons = Lessons::of(&rows);
        assert_eq!(successes(&mut lessons, 999), 0.0, "not ended");
        assert!(successes(&mut lessons, 1000) > 0.9);
        assert!(successes(&mut lessons, 4999) > 0.9);
        assert_eq!(successes(&mut lessons, 5000), 0.0);
        assert!(successes(&mut lessons, 4999) > 0.9, "the next collection begins at the beginning");
        // When it was given nobody knows: it may have been later.
        let rows = outcomes(&[OutcomeRecord { feedback_at: None, ..judged }]);
        assert!(successes(&mut Lessons::of(&rows), 1_000_000) > 0.9);
    }

    #[test]
    fn a_period_that_leaves_as_another_comes_is_forgotten() {
        let period = |at, seconds, cleared| Recorded::Period {
            at,
            period: Period { context: context(), seconds, cleared, randomised: false },
        };
        let mut rows = outcomes(&[outcome(REMEDY, 50, true, None)]);
        rows.extend([period(100, 5.0, true), period(100 + WINDOW_MS, 60.0, false)]);
        let mut lessons = Lessons::of(&rows);
        let mut natural =
            |now| lessons.by(1, now).learned.posterior(&context(), REMEDY).natural.map(|n| n.rate);
        assert_eq!(natural(99), None);
        assert_eq!(natural(100), Some(0.5));
        assert_eq!(natural(99 + WINDOW_MS), Some(0.5));
        assert_eq!(natural(100 + WINDOW_MS), Some(0.0));
    }

    #[test]
    fn a_remedy_of_which_nothing_was_heard_for_long_keeps_its_last_weight() {
        let rows = outcomes(&[outcome(REMEDY, 10, true, Some(10.0)), outcome(REMEDY, 20, true, Some(50.0))]);
        let mut lessons = Lessons::of(&rows);
        let mut weight = |now| {
            let known = lessons.by(1, now);
            known.weights.into_iter().find(|weight| weight.strategy == REMEDY).unwrap().weight
        };
        assert_eq!(weight(9), 1.0);
        assert!((weight(25) - 1.3).abs() < 1e-12);
        assert!((weight(15 + WINDOW_MS) - 1.5).abs() < 1e-12);
        assert!((weight(20 + 2 * WINDOW_MS) - 1.5).abs() < 1e-12);
    }

    #[test]
    fn where_a_remedy_stood_is_by_the_last_move_on_that_collection() {
        let moved = |collection_id, since, level| Recorded::Move {
            collection_id,
            rung: Rung { level, ..Rung::top(REMEDY, since) },
        };
        let rows = [moved(1, 30, Mode::Auto), moved(1, 10, Mode::Approve), moved(2, 20, Mode::Observe)];
        let mut lessons = Lessons::of(&rows);
        let mut level = |of, now| lessons.by(of, now).learned.rung(REMEDY).map(|rung| rung.level);
        assert_eq!(
            [9, 10, 29, 30].map(|now| level(1, now)),
            [None, Some(Mode::Approve), Some(Mode::Approve), Some(Mode::Auto)]
        );
        assert_eq!([19, 20, 99].map(|now| level(2, now)), [None, Some(Mode::Observe), Some(Mode::Observe)]);
        assert_eq!(level(3, 99), None);
    }

    #[test]
    fn the_seed_is_that_of_the_last_outcome_by_then() {
        let rows = outcomes(&[outcome(REMEDY, 10, true, None), outcome(REMEDY, 20, true, None)]);
        let mut lessons = Lessons::of(&rows);
        let mut seed = |now| lessons.by(7, now).learned.seed;
        assert_eq!([9, 10, 20].map(&mut seed), [0, 10, 20].map(|last| Learned::seed(7, last)));
    }
}
