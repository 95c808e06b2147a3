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
    /// What was believed after so many outcomes and periods, the last that was asked for.
    believed: Option<((usize, usize), Vec<Posterior>)>,
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
            self.outcomes.iter().filter(|o| o.completed_at <= now).map(|o| (*o).clone()).collect();
        let periods: Vec<Period> = self
            .periods
            .iter()
            .filter(|(at, _)| *at <= now && *at > now - WINDOW_MS)
            .map(|(_, period)| (*period).clone())
            .collect();
        let size = (outcomes.len(), periods.len());
        if self.believed.as_ref().is_none_or(|(known, _)| *known != size) {
            self.believed = Some((size, posteriors(&outcomes, &periods)));
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
        in_flight: InFlight { this_table: running, server: running, ..InFlight::default() },
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
