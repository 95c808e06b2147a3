//! What is believed of each remedy in each context: a beta posterior of its observed success, decayed so that a changed
//! world is noticed, and from it the effect that is the remedy's own.
//!
//! Observed success is Beta(2 m + S, 2 (1 − m) + F): S and F are successes and failures of the remedy in the context, each
//! counting by the probability that the context has not changed since, and less with every later outcome of any remedy there
//! ([`counting`]). The prior, worth two outcomes, is shared: m is the remedy's rate in other contexts, one half where there is none.
//!
//! The effect p is the share of problems that the remedy clears and that would not have cleared alone. A success is
//! observed with probability s + (1 − s) p, where s is what clears by itself in the time that the action took. A priori the
//! remedy does nothing with probability one half (otherwise p is uniform), so that one which does nothing is found out:
//! its credit, the median, goes to 0 however many problems clear by themselves. s is known no better than the periods without
//! an action tell: the likelihood is averaged over its uncertainty.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::change::counting;
use super::{Context, Natural, OutcomeRecord, Period, cleared_within};

/// Outcomes that the shared prior is worth.
const PRIOR_OUTCOMES: f64 = 2.0;
/// The prior is never surer than this of success or failure.
const PRIOR_MEAN: (f64, f64) = (0.1, 0.9);
/// A priori probability that a remedy does nothing.
const DOES_NOTHING: f64 = 0.5;
/// Points on which the effect's posterior is computed.
const GRID: usize = 200;
/// More of this share never clears by itself as far as the effect is concerned: nothing could be told from it.
const NATURAL_MAX: f64 = 0.99;
/// Outcomes of a context that are looked at: what is older counts less than 0.99^500 < 0.7 %.
const OUTCOMES_MAX: usize = 500;
/// Points of a standard normal distribution, each standing for a ninth of it, at which the share that clears by itself is
/// taken: it is itself an estimate.
const NATURAL_POINTS: [f64; 9] =
    [-1.593_219, -0.967_422, -0.589_456, -0.282_216, 0.0, 0.282_216, 0.589_456, 0.967_422, 1.593_219];
/// The effect's interval leaves this out at either end.
const TAIL: f64 = 0.05;

/// The effect that is a remedy's own, 0–1, with its 90 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Expected.
    pub mean: f64,
    /// Median: what is credited. It is exactly 0 as long as the remedy more likely does nothing (the thresholding rule of
    /// Johnstone and Silverman, 2004).
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What is believed of a remedy in a context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Posterior {
    /// Where.
    #[serde(flatten)]
    pub context: Context,
    /// The remedy.
    pub strategy: String,
    /// Outcomes that said something, undecayed.
    pub tries: u32,
    /// Successes, each by what it still counts.
    pub successes: f64,
    /// Failures, each by what it still counts.
    pub failures: f64,
    /// Mean of the shared prior.
    pub prior_mean: f64,
    /// What clears by itself in the time that the last such action took; None when no period was watched.
    pub natural: Option<Natural>,
    /// The remedy's own effect.
    pub effect: Effect,
}

impl Posterior {
    /// α of the observed success.
    pub fn alpha(&self) -> f64 {
        PRIOR_OUTCOMES * self.prior_mean + self.successes
    }

    /// β of the observed success.
    pub fn beta(&self) -> f64 {
        PRIOR_OUTCOMES * (1.0 - self.prior_mean) + self.failures
    }

    /// Mean of the observed success.
    pub fn mean(&self) -> f64 {
        self.alpha() / (self.alpha() + self.beta())
    }

    /// The remedy's own part of an observed success rate: what does not clear by itself.
    pub fn own_part(&self, observed: f64) -> f64 {
        let natural = self.natural.map_or(0.0, |natural| natural.rate.clamp(0.0, NATURAL_MAX));
        ((observed - natural) / (1.0 - natural)).max(0.0)
    }

    /// What is believed of a remedy that was never tried in this context.
    pub(super) fn untried(all: &[Posterior], context: &Context, strategy: &str) -> Self {
        let elsewhere = all.iter().filter(|p| p.strategy == strategy && p.context != *context);
        let (successes, failures) = elsewhere.fold((0.0, 0.0), |(s, f), p| (s + p.successes, f + p.failures));
        let natural = all.iter().find(|p| p.context == *context).and_then(|p| p.natural);
        Self {
            context: context.clone(),
            strategy: strategy.to_owned(),
            tries: 0,
            successes: 0.0,
            failures: 0.0,
            prior_mean: shared_mean(successes, failures),
            natural,
            effect: *UNTRIED,
        }
    }
}

/// What is believed of the effect before anything was tried.
static UNTRIED: LazyLock<Effect> = LazyLock::new(|| effect(&[]));

fn shared_mean(successes: f64, failures: f64) -> f64 {
    ((successes + 1.0) / (successes + failures + 2.0)).clamp(PRIOR_MEAN.0, PRIOR_MEAN.1)
}

/// One outcome as the effect sees it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// What it still counts, 0–1.
    weight: f64,
    /// How far it succeeded, 0–1.
    success: f64,
    /// What clears by itself in the time that it took, 0–1.
    natural: f64,
    /// The standard error of that.
    uncertainty: f64,
}

/// What is believed of every remedy in every context in which it was tried. The order of the rows does not matter.
pub fn posteriors(outcomes: &[OutcomeRecord], periods: &[Period]) -> Vec<Posterior> {
    let mut told: Vec<(&OutcomeRecord, f64)> =
        outcomes.iter().filter_map(|o| Some((o, o.trial()?))).collect();
    told.sort_by_key(|(o, _)| std::cmp::Reverse((o.completed_at, o.id)));
    let mut contexts: Vec<&Context> = told.iter().map(|(o, _)| &o.context).collect();
    contexts.sort();
    contexts.dedup();
    let mut found: Vec<(Posterior, Vec<Seen>)> = Vec::new();
    for context in contexts {
        let latest: Vec<&(&OutcomeRecord, f64)> =
            told.iter().filter(|(o, _)| o.context == *context).take(OUTCOMES_MAX).collect();
        let mut names: Vec<&str> = latest.iter().map(|(o, _)| o.strategy.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let in_time: Vec<(usize, f64)> = latest
            .iter()
            .rev()
            .filter_map(|(o, success)| Some((names.binary_search(&o.strategy.as_str()).ok()?, *success)))
            .collect();
        let weights = counting(&in_time);
        for ((outcome, success), weight) in latest.into_iter().zip(weights.into_iter().rev()) {
            let natural = cleared_within(periods, context, outcome.duration_s());
            let at = found.iter().position(|(p, _)| p.context == *context && p.strategy == outcome.strategy);
            let at = at.unwrap_or_else(|| {
                let untried = Posterior { natural, ..Posterior::untried(&[], context, &outcome.strategy) };
                found.push((untried, vec![]));
                found.len() - 1
            });
            let (posterior, seen) = &mut found[at];
            posterior.tries += 1;
            posterior.successes += weight * success;
            posterior.failures += weight * (1.0 - success);
            let (natural, uncertainty) = natural.map_or((0.0, 0.0), |natural| {
                (natural.rate, (natural.rate * (1.0 - natural.rate) / f64::from(natural.periods + 1)).sqrt())
            });
            seen.push(Seen { weight, success: *success, natural, uncertainty });
        }
    }
    let all: Vec<Posterior> = found.iter().map(|(posterior, _)| posterior.clone()).collect();
    let mut done: Vec<Posterior> = found
        .into_iter()
        .map(|(posterior, seen)| Posterior {
            prior_mean: Posterior::untried(&all, &posterior.context, &posterior.strategy).prior_mean,
            effect: effect(&seen),
            ..posterior
        })
        .collect();
    done.sort_by(|a, b| (&a.context, &a.strategy).cmp(&(&b.context, &b.strategy)));
    done
}

/// The posterior of the effect: a point at 0 and [`GRID`] points between 0 and 1.
fn effect(seen: &[Seen]) -> Effect {
    // A success of 0 times a logarithm of 0 is nothing.
    let term = |share: f64, probability: f64| if share > 0.0 { share * probability.ln() } else { 0.0 };
    let certain = seen.iter().all(|one| one.uncertainty == 0.0);
    let at_natural = if certain { &NATURAL_POINTS[4..5] } else { &NATURAL_POINTS[..] };
    let likelihood = |p: f64| -> f64 {
        let logs = at_natural.iter().map(|z| {
            let each = seen.iter().map(|one| {
                let natural = (one.natural + z * one.uncertainty).clamp(0.0, NATURAL_MAX);
                let cleared = natural + (1.0 - natural) * p;
                one.weight * (term(one.success, cleared) + term(1.0 - one.success, 1.0 - cleared))
            });
            each.sum()
        });
        log_mean(&logs.collect::<Vec<f64>>())
    };
    let slab = (1.0 - DOES_NOTHING) / GRID as f64;
    let points: Vec<(f64, f64)> = std::iter::once((0.0, DOES_NOTHING.ln() + likelihood(0.0)))
        .chain((0..GRID).map(|i| {
            let p = (i as f64 + 0.5) / GRID as f64;
            (p, slab.ln() + likelihood(p))
        }))
        .collect();
    let greatest = points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let masses: Vec<(f64, f64)> = points.iter().map(|(p, log)| (*p, (log - greatest).exp())).collect();
    let total: f64 = masses.iter().map(|point| point.1).sum();
    let mean = masses.iter().map(|(p, mass)| p * mass).sum::<f64>() / total;
    let at = |share: f64| {
        let mut sum = 0.0;
        masses
            .iter()
            .find(|(_, mass)| {
                sum += mass / total;
                sum >= share
            })
            .map_or(1.0, |point| point.0)
    };
    Effect { mean, median: at(0.5), low: at(TAIL), high: at(1.0 - TAIL) }
}

/// The logarithm of the mean of what these are the logarithms of.
fn log_mean(logs: &[f64]) -> f64 {
    let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if greatest == f64::NEG_INFINITY {
        return greatest;
    }
    greatest + (logs.iter().map(|log| (log - greatest).exp()).sum::<f64>() / logs.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{context, outcome};
    use super::*;
    use crate::learning::beta::generator;
    use crate::learning::change::DECAY;
    use crate::lifecycle::Lesson;
    use proptest::prelude::*;
    use rand_pcg::rand_core::Rng;

    fn one(outcomes: &[OutcomeRecord], periods: &[Period]) -> Posterior {
        let found = posteriors(outcomes, periods);
        found.into_iter().find(|p| p.strategy == "a").unwrap()
    }

    #[test]
    fn counts_are_sums_of_what_each_still_says() {
        // Success, failure, success of a, then a failure of b.
        let rows = [
            outcome("a", 1, true, None),
            outcome("a", 2, false, None),
            outcome("a", 3, true, None),
            outcome("b", 4, false, None),
        ];
        let a = one(&rows, &[]);
        assert_eq!(a.tries, 3);
        let says = counting(&[(0, 1.0), (0, 0.0), (0, 1.0), (1, 0.0)]);
        assert!((a.successes - (says[0] + says[2])).abs() < 1e-12);
        assert!((a.failures - says[1]).abs() < 1e-12);
        assert_eq!(a.prior_mean, 0.5);
        assert!((a.alpha() - (1.0 + a.successes)).abs() < 1e-12);
        // What says nothing is nothing, and decays nothing.
        let mut stopped = rows.to_vec();
        stopped.push(OutcomeRecord { lesson: Lesson::Nothing, ..outcome("a", 9, false, None) });
        assert_eq!(one(&stopped, &[]), a);
    }

    #[test]
    fn the_prior_is_shared_between_contexts() {
        let elsewhere = Context { problem_class: "MemoryPressure".to_owned(), ..context() };
        let mut rows: Vec<OutcomeRecord> = (0..8).map(|at| outcome("a", at, true, None)).collect();
        for row in &mut rows {
            row.context = elsewhere.clone();
        }
        rows.push(outcome("a", 100, false, None));
        let a = one(&rows, &[]);
        assert_eq!(a.context, context());
        let s: f64 = counting(&[(0, 1.0); 8]).iter().sum();
        assert!((a.prior_mean - ((s + 1.0) / (s + 2.0)).clamp(0.1, 0.9)).abs() < 1e-12);
        let all = posteriors(&rows, &[]);
        let third = Context { problem_class: "ReplicationLag".to_owned(), ..context() };
        let untried = Posterior::untried(&all, &third, "a");
        let f = counting(&[(0, 0.0)])[0];
        assert!((untried.mean() - (s + 1.0) / (s + f + 2.0)).abs() < 1e-12);
        assert_eq!(Posterior::untried(&all, &third, "b").mean(), 0.5);
    }

    #[test]
    fn the_effect_by_hand() {
        // Nothing tried: half a point at 0, half uniform.
        assert!((effect(&[]).mean - 0.25).abs() < 1e-9);
        let seen = |success: f64, natural: f64| Seen { weight: 1.0, success, natural, uncertainty: 0.0 };
        // One success where nothing clears alone: it does something, with density 2p: mean 2/3.
        assert!((effect(&[seen(1.0, 0.0)]).mean - 2.0 / 3.0).abs() < 1e-4);
        assert!(effect(&[seen(1.0, 0.0)]).low > 0.1);
        // One failure: likelihood 1 at 0, mean of 1 − p over the slab ½; ½ ∫ p (1 − p) = 1/12; ÷ ¾.
        assert!((effect(&[seen(0.0, 0.0)]).mean - 1.0 / 9.0).abs() < 1e-4);
        // A success where half clears alone: ½ at 0, over the slab ∫ (1 + p) / 2 = ¾, ∫ p (1 + p) / 2 = 5/12.
        assert!((effect(&[seen(1.0, 0.5)]).mean - (5.0 / 24.0) / (1.0 / 4.0 + 3.0 / 8.0)).abs() < 1e-4);
        // What is untried is at 0 with probability one half: nine tenths of the rest lie below the upper end.
        let untried = effect(&[]);
        assert!((untried.median, untried.low) == (0.0, 0.0) && (untried.high - 0.9).abs() < 0.01);
        // Two successes where one half clears alone, with the standard error 0.2. With q = 1 − p, and v the variance of the
        // nine points × 0.04: 1 − q + c q², c = ¼ + v; at 0 it is c, over the slab ½ + c/3, and times p 1/3 + c/12.
        let v = 0.04 * NATURAL_POINTS.iter().map(|z| z * z).sum::<f64>() / 9.0;
        let unsure = [Seen { uncertainty: 0.2, ..seen(1.0, 0.5) }; 2];
        let c = 0.25 + v;
        assert!((effect(&unsure).mean - (1.0 / 3.0 + c / 12.0) / (c + 0.5 + c / 3.0)).abs() < 1e-4);
        // What counts half is the root of its likelihood: over the slab ∫ √p = 2/3, ∫ p √p = 2/5.
        let half = effect(&[Seen { weight: 0.5, ..seen(1.0, 0.0) }]);
        assert!((half.mean - (2.0 / 5.0) / (2.0 / 3.0)).abs() < 1e-3, "{half:?}");
        // A quarter of a success: p^¼ (1 − p)^¾, nothing at 0: the mean of Beta(1.25, 1.75).
        assert!((effect(&[seen(0.25, 0.0)]).mean - 1.25 / 3.0).abs() < 1e-3);
        // However many there are, the likelihood stays a number.
        assert!((effect(&vec![seen(0.5, 0.0); 4000]).mean - 0.5).abs() < 1e-3);
        assert!((log_mean(&[0.0, 3f64.ln()]) - 2f64.ln()).abs() < 1e-12);
        assert_eq!(log_mean(&[f64::NEG_INFINITY; 2]), f64::NEG_INFINITY);
        // Four failures in a row bring the upper end below a quarter; three do not.
        assert!(effect(&[seen(0.0, 0.0); 4]).high < 0.25 && effect(&[seen(0.0, 0.0); 3]).high > 0.25);
    }

    #[test]
    fn what_clears_alone_is_matched_to_how_long_each_action_took_and_taken_off() {
        let period = |seconds, cleared| Period { context: context(), seconds, cleared, randomised: false };
        // Within 10 s one of three cleared, within 30 s another; one is added that never does.
        let periods = [period(5.0, true), period(20.0, true), period(60.0, false)];
        let short = outcome("a", 100_000, true, None);
        let long = OutcomeRecord { started_at: 170_000, ..outcome("a", 200_000, false, None) };
        let a = one(&[short.clone(), long.clone()], &periods);
        assert_eq!(a.natural.map(|natural| natural.periods), Some(3));
        assert!((a.natural.unwrap().rate - 0.5).abs() < 1e-12, "of the latest");
        let says = counting(&[(0, 1.0), (0, 0.0)]);
        let seen = |weight, success, rate: f64| Seen {
            weight,
            success,
            natural: rate,
            uncertainty: (rate * (1.0 - rate) / 4.0).sqrt(),
        };
        let expected = effect(&[seen(says[1], 0.0, 0.5), seen(says[0], 1.0, 0.25)]);
        assert!((a.effect.mean - expected.mean).abs() < 1e-9, "{:?} and {expected:?}", a.effect);
        // Of an observed success rate what clears alone is not the remedy's.
        assert!((a.own_part(0.75) - 0.5).abs() < 1e-12);
        assert_eq!((a.own_part(0.4), a.own_part(1.0)), (0.0, 1.0));
        let unwatched = one(&[short, long], &[]);
        assert_eq!((unwatched.natural, unwatched.own_part(0.4)), (None, 0.4));
        // One that was never tried here is met with what is known of the context.
        let other = Posterior::untried(std::slice::from_ref(&a), &context(), "b");
        assert_eq!((other.natural, other.tries, other.effect), (a.natural, 0, effect(&[])));
    }

    /// The number of the plan of the bench: 60 % clear alone, the remedy does nothing.
    #[test]
    fn a_remedy_that_does_nothing_is_found_out_within_thirty_tries() {
        let mut below = 0;
        let mut sum = 0.0;
        for seed in 0..100 {
            let mut random = generator(seed);
            let mut cleared_alone = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 <= 0.6;
            // Forty periods without an action, each watched for 20 s; actions take 10 s.
            let periods: Vec<Period> = (0..40)
                .map(|_| {
                    let cleared = cleared_alone();
                    Period {
                        context: context(),
                        seconds: if cleared { 5.0 } else { 20.0 },
                        cleared,
                        randomised: true,
                    }
                })
                .collect();
            let rows: Vec<OutcomeRecord> =
                (0..30).map(|at| outcome("a", at, cleared_alone(), Some(40.0))).collect();
            let effect = one(&rows, &periods).effect.median;
            sum += effect;
            below += u32::from(effect < 0.1);
        }
        assert!(sum / 100.0 < 0.1 && below >= 80, "mean {}, {below} of 100 below 0.1", sum / 100.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn beliefs_are_probabilities_and_order_does_not_matter(
            rows in prop::collection::vec((0usize..3, any::<bool>(), 0i64..1000), 1..60),
            periods in prop::collection::vec((0.0f64..60.0, any::<bool>()), 0..20),
        ) {
            let names = ["a", "b", "c"];
            let mut rows: Vec<OutcomeRecord> = (0i64..)
                .zip(&rows)
                .map(|(id, (arm, ok, at))| OutcomeRecord { id, ..outcome(names[*arm], *at, *ok, None) })
                .collect();
            let periods: Vec<Period> = periods
                .iter()
                .map(|(seconds, cleared)| Period { context: context(), seconds: *seconds, cleared: *cleared, randomised: false })
                .collect();
            let found = posteriors(&rows, &periods);
            for p in &found {
                let Effect { mean, median, low, high } = p.effect;
                prop_assert!(low <= median && median <= high);
                prop_assert!(0.0 <= low && low <= high && high <= 1.0 && (0.0..=1.0).contains(&mean));
                prop_assert!(p.alpha() > 0.0 && p.beta() > 0.0);
                prop_assert!((0.0..=1.0).contains(&p.own_part(p.mean())));
                // No more than a decaying series can hold.
                prop_assert!(p.successes + p.failures <= 1.0 / (1.0 - DECAY));
            }
            rows.reverse();
            prop_assert_eq!(posteriors(&rows, &periods), found);
        }

        #[test]
        fn the_more_clears_alone_the_less_is_credited(natural in 0.0f64..0.9, more in 0.0f64..0.09, n in 1usize..20) {
            let seen = |natural| vec![Seen { weight: 1.0, success: 1.0, natural, uncertainty: 0.1 }; n];
            prop_assert!(effect(&seen(natural + more)).mean <= effect(&seen(natural)).mean + 1e-9);
        }
    }
}
