//! In which order the remedies of a problem are looked at.
//!
//! The least impact comes first, step by step ([`ImpactStep`]). Within a step, what was learned chooses among the remedies
//! that may act now and whose plans can be undone. After all steps come those that were verified not to be enough: tried
//! here within the window with the problem still standing, insufficient in this context, or lowered on the autonomy ladder.

use super::{Candidate, DecisionInput, Rejected, tried};
use crate::classify::Problem;
use crate::config::Mode;
use crate::learning::{self, Context, ImpactStep, Selection, choose, effective, is_insufficient};

/// How far a remedy goes by itself on this collection.
pub(super) fn mode(input: &DecisionInput<'_>, strategy: &str) -> Mode {
    let rung = input.learned.rung(strategy).filter(|_| input.config.autonomy_ladder);
    effective(input.config.mode, rung)
}

/// Whether it only plans although the collection's mode would let it act.
pub(super) fn is_lowered_to_observe(input: &DecisionInput<'_>, strategy: &str) -> bool {
    input.config.mode != Mode::Observe && mode(input, strategy) == Mode::Observe
}

fn weight(input: &DecisionInput<'_>, strategy: &str) -> f64 {
    let arm = input.arms.iter().find(|arm| arm.strategy == strategy);
    arm.map(|arm| arm.weight).filter(|weight| weight.is_finite()).unwrap_or(1.0)
}

/// What comes before all that is learned, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    tried: bool,
    insufficient: bool,
    lowered: bool,
    step: ImpactStep,
    /// What may not act now is looked at before what may: the decision then says why it did not.
    may_act: bool,
    irreversible: bool,
}

impl Rank {
    /// Why a remedy comes after all steps of those of which nothing of the kind is known.
    fn why_later(&self, strategy: &str) -> Option<String> {
        let why = [
            (self.tried, "succeeded here a short while ago, and the problem is still there"),
            (self.insufficient, "proved insufficient in such cases"),
            (self.lowered, "failed on this collection and may not act by itself"),
        ];
        let known: Vec<&str> = why.iter().filter(|(is, _)| *is).map(|(_, words)| *words).collect();
        (!known.is_empty()).then(|| format!("{strategy} comes later: it {}", known.join(", ")))
    }
}

/// Orders the alternatives for one problem, best first, and notes at those that may act how they were chosen.
pub(super) fn order(
    found: &mut Vec<Result<Candidate, Rejected>>,
    problem: &Problem,
    input: &DecisionInput<'_>,
) {
    let context = Context::of(problem, input.snapshot);
    let learns = input.config.learning_enabled;
    let mut planned: Vec<(Rank, Candidate)> = Vec::new();
    let mut refused: Vec<Rejected> = Vec::new();
    for alternative in found.drain(..) {
        match alternative {
            Ok(candidate) => {
                let plan = &candidate.0.plan;
                let rank = Rank {
                    tried: tried(plan, problem, input),
                    insufficient: learns
                        && is_insufficient(&input.learned.posterior(&context, &plan.strategy)),
                    lowered: mode(input, &plan.strategy) != input.config.mode,
                    step: ImpactStep::of(plan.impact),
                    may_act: candidate.check(input, false).is_none(),
                    irreversible: !plan.reversible,
                };
                planned.push((rank, candidate));
            }
            Err(rejected) => refused.push(rejected),
        }
    }
    planned.sort_by(|(a, one), (b, other)| {
        let (one, other) = (&one.0.plan, &other.0.plan);
        a.cmp(b)
            .then_with(|| one.impact.total_cmp(&other.impact))
            .then_with(|| weight(input, &other.strategy).total_cmp(&weight(input, &one.strategy)))
            .then_with(|| one.strategy.cmp(&other.strategy))
    });
    let passed_over: Vec<String> =
        planned.iter().filter_map(|(rank, candidate)| rank.why_later(&candidate.0.plan.strategy)).collect();
    for group in planned.chunk_by_mut(|a, b| a.0 == b.0) {
        if group[0].0.may_act {
            // What cannot be undone is not experimented with.
            let selection =
                if learns && !group[0].0.irreversible { input.config.selection } else { Selection::Greedy };
            choose_among(group, selection, &context, &passed_over, input);
        }
    }
    refused.sort_by(|a, b| a.strategy.cmp(&b.strategy));
    found.extend(planned.into_iter().map(|(_, candidate)| Ok(candidate)));
    found.extend(refused.into_iter().map(Err));
}

fn choose_among(
    group: &mut [(Rank, Candidate)],
    selection: Selection,
    context: &Context,
    passed_over: &[String],
    input: &DecisionInput<'_>,
) {
    let arms: Vec<learning::Candidate> = group
        .iter()
        .map(|(_, Candidate(planned, _))| learning::Candidate {
            strategy: planned.plan.strategy.clone(),
            impact: planned.plan.impact,
            estimated_s: planned.plan.estimated_s,
            bytes: planned.plan.disk_bytes,
            weight: weight(input, &planned.plan.strategy),
        })
        .collect();
    let mut choice = choose(selection, context, &arms, input.learned);
    choice.passed_over = passed_over.to_vec();
    group.sort_by_key(|(_, candidate)| {
        choice.arms.iter().position(|arm| arm.strategy == candidate.0.plan.strategy)
    });
    for (_, candidate) in group {
        candidate.1 = Some(Box::new(choice.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arm, InFlight, Planned, Request};
    use super::*;
    use crate::config::Config;
    use crate::fixtures::{NOW, fragment, snapshot};
    use crate::integrity::{IntegrityState, StateRecord, assess};
    use crate::learning::{Learned, OutcomeRecord, posteriors};
    use crate::lifecycle::{Lesson, Status};
    use crate::plan::Plan;

    fn planned(
        strategy: &str,
        impact: f64,
        reversible: bool,
        problem: &Problem,
    ) -> Result<Candidate, Rejected> {
        let plan = Plan {
            strategy: strategy.to_owned(),
            impact,
            reversible,
            reason: String::new(),
            estimated_s: 10.0,
            timeout_s: 20.0,
            disk_bytes: 0,
            steps: vec![],
            skipped: vec![],
            params: serde_json::Value::Null,
        };
        Ok(Candidate(Planned { problem: problem.clone(), plan }, None))
    }

    /// The order of `rebalance` (0.3), `throttle` (0.4), `scale` (0.2) and `irreversible` (0.3), given outcomes.
    fn ordered(outcomes: &[(&str, bool)], config: &Config, arms: &[Arm], seed: u64) -> Vec<String> {
        let mut sick = snapshot(1, 0, 1);
        fragment(&mut sick.indexes[0], 70.0);
        let assessment = assess(&sick, config).unwrap();
        let problem = crate::classify::diagnose(&assessment, &sick, config).remove(0);
        let rows: Vec<OutcomeRecord> = (0i64..)
            .zip(outcomes)
            .map(|(at, (strategy, ok))| OutcomeRecord {
                id: at,
                collection_id: 1,
                strategy: (*strategy).to_owned(),
                context: Context::of(&problem, &sick),
                started_at: at,
                completed_at: at + 1,
                status: if *ok { Status::Succeeded } else { Status::RolledBack },
                lesson: if *ok { Lesson::Helped } else { Lesson::NoGain },
                success: *ok,
                verified: Some(*ok),
                improvement_pct: None,
                recovery_s: None,
                feedback: None,
                feedback_at: None,
            })
            .collect();
        let learned = Learned { seed, posteriors: posteriors(&rows, &[]), rungs: vec![] };
        let state = StateRecord { state: IntegrityState::Critical, ..StateRecord::new(NOW) };
        let input = DecisionInput {
            config,
            state: &state,
            assessment: &assessment,
            snapshot: &sick,
            history: &[],
            arms,
            learned: &learned,
            in_flight: InFlight::default(),
            now: NOW,
            request: &Request::Automatic,
        };
        let mut found = vec![
            planned("throttle", 0.4, true, &problem),
            planned("irreversible", 0.3, false, &problem),
            planned("rebalance", 0.3, true, &problem),
            planned("scale", 0.2, true, &problem),
        ];
        order(&mut found, &problem, &input);
        found.into_iter().map(|c| c.unwrap_or_else(|_| panic!()).0.plan.strategy).collect()
    }

    #[test]
    fn steps_come_in_order_and_within_one_what_was_learned_decides() {
        let config = Config::default();
        let many = |strategy, ok| vec![(strategy, ok); 20];
        // In turns: what turns all at once would be a changed world, in which nothing is known of the other any more.
        let better = |one, other| [(one, true), (other, false), (one, true), (other, true)].repeat(10);
        let outcomes = better("throttle", "rebalance");
        for seed in 0..20 {
            let order = ordered(&outcomes, &config, &[], seed);
            assert_eq!(order, ["scale", "throttle", "rebalance", "irreversible"], "seed {seed}");
        }
        let outcomes = better("rebalance", "throttle");
        assert_eq!(ordered(&outcomes, &config, &[], 1), ["scale", "rebalance", "throttle", "irreversible"]);
        // What cannot be undone is not tried because of its good luck elsewhere.
        let outcomes = [many("irreversible", true), many("throttle", true)].concat();
        let first_two = (0..20).map(|seed| ordered(&outcomes, &config, &[], seed)[3].clone());
        assert!(first_two.into_iter().all(|last| last == "irreversible"));
        // With nothing known both are tried.
        let first: Vec<String> = (0..40).map(|seed| ordered(&[], &config, &[], seed)[1].clone()).collect();
        assert!(first.iter().any(|name| name == "throttle") && first.iter().any(|name| name == "rebalance"));
    }

    #[test]
    fn greedy_takes_the_highest_weight_and_so_does_learning_switched_off() {
        let greedy = Config { selection: Selection::Greedy, ..Config::default() };
        let arms =
            [Arm { weight: 0.9, ..Arm::new("rebalance") }, Arm { weight: 1.3, ..Arm::new("throttle") }];
        for seed in 0..10 {
            assert_eq!(ordered(&[], &greedy, &arms, seed)[1], "throttle");
            assert_eq!(ordered(&[], &greedy, &[], seed)[1], "rebalance", "of equals the least impact");
            let off = Config { learning_enabled: false, ..Config::default() };
            assert_eq!(ordered(&[], &off, &arms, seed)[1], "throttle");
        }
    }

    #[test]
    fn what_may_not_act_is_looked_at_first_and_not_chosen_among() {
        let blocked = [Arm { breaker_open: true, ..Arm::new("throttle") }];
        for seed in 0..10 {
            let order = ordered(&[], &Config::default(), &blocked, seed);
            assert_eq!(order, ["scale", "throttle", "rebalance", "irreversible"]);
        }
    }
}
