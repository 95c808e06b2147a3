//! Which remedy of a step of the ladder is tried first.
//!
//! Small problems get small fixes: the steps come in the order of their impact, and a choice is only made among the
//! remedies of one step ([`ImpactStep`]), of which only those whose plans can be undone are experimented with.
//!
//! Thompson sampling: each remedy's success is drawn from its posterior, what clears by itself is taken off, its cost too,
//! and the greatest goes first. The posterior that is drawn from has [`SHARPNESS`] times the counts, so about that part of the
//! variance (Chapelle and Li, 2011, "posterior reshaping"), which spends fewer heals on finding out; decay sees to it that
//! none is given up for ever.

use serde::{Deserialize, Serialize};

use super::beta::{draw, generator};
use super::{Context, Learned, Posterior};
use crate::kmeans::mix;

/// By what the counts of the posterior are multiplied before drawing. Chosen on the stream of `benches/README.md`.
pub const SHARPNESS: f64 = 8.0;
/// Draws from which a propensity is estimated: its standard error is at most 0.8 %.
const PROPENSITY_DRAWS: u32 = 4096;
/// Utility lost by an impact of 1: two remedies of one step differ by at most a fifth of it.
const COST_IMPACT: f64 = 0.1;
/// Utility lost by a plan that takes very long; half of it at [`COST_HALF_S`].
const COST_TIME: f64 = 0.05;
/// Estimated seconds that cost half of [`COST_TIME`].
const COST_HALF_S: f64 = 600.0;
/// Utility lost by a plan that writes very much; half of it at [`COST_HALF_BYTES`].
const COST_WAL: f64 = 0.05;
/// Bytes of disk, and so about of WAL, that cost half of [`COST_WAL`].
const COST_HALF_BYTES: f64 = 1_073_741_824.0;
/// A remedy whose own effect is below this with probability 0.95 was verified to be insufficient: it comes after the
/// next step of the ladder.
const INSUFFICIENT: f64 = 0.25;

/// How a remedy is chosen among those of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// By Thompson sampling.
    Thompson,
    /// The highest weight wins: the spec's rule.
    Greedy,
}

/// A step of the ladder. The spec calls 0.1 and 0.2 low, 0.3 and 0.4 medium, 0.5 higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImpactStep {
    /// Up to 0.25.
    Low,
    /// Up to 0.45.
    Medium,
    /// More.
    High,
}

impl ImpactStep {
    /// The step of an impact.
    pub fn of(impact: f64) -> Self {
        if impact <= 0.25 {
            ImpactStep::Low
        } else if impact <= 0.45 {
            ImpactStep::Medium
        } else {
            ImpactStep::High
        }
    }
}

/// A remedy with a plan, as the choice sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The remedy.
    pub strategy: String,
    /// Disruption, 0–1.
    pub impact: f64,
    /// Estimated seconds.
    pub estimated_s: f64,
    /// Bytes that it writes.
    pub bytes: u64,
    /// The spec's weight.
    pub weight: f64,
}

impl Candidate {
    /// What it costs, in the unit of its effect: a share of problems cleared.
    fn cost(&self) -> f64 {
        let half = |value: f64, at: f64| {
            let value = if value.is_finite() { value.max(0.0) } else { f64::MAX };
            value / (value + at)
        };
        COST_IMPACT * self.impact.clamp(0.0, 1.0)
            + COST_TIME * half(self.estimated_s, COST_HALF_S)
            + COST_WAL * half(self.bytes as f64, COST_HALF_BYTES)
    }
}

/// One remedy in a choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredArm {
    /// The remedy.
    pub strategy: String,
    /// α of its observed success.
    pub alpha: f64,
    /// β of its observed success.
    pub beta: f64,
    /// Its expected own effect.
    pub effect: f64,
    /// What it costs, in the same unit.
    pub cost: f64,
    /// Its weight.
    pub weight: f64,
    /// What decided: the drawn effect less the cost, or the weight.
    pub score: f64,
    /// Probability with which it goes first.
    pub propensity: f64,
}

/// A choice among the remedies of a step, best first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// How it was made.
    pub selection: Selection,
    /// Where.
    #[serde(flatten)]
    pub context: Context,
    /// The seed that repeats it.
    pub seed: u64,
    /// The remedies, best first.
    pub arms: Vec<ScoredArm>,
    /// Remedies of the problem that come later because of what is known of them, each with why.
    #[serde(default)]
    pub passed_over: Vec<String>,
}

impl Choice {
    /// The choice in words.
    pub fn in_words(&self) -> String {
        let Some(first) = self.arms.first() else { return String::new() };
        let belief = |arm: &ScoredArm| format!("own effect {:.2}, weight {:.2}", arm.effect, arm.weight);
        let mut text = format!("{} ({})", first.strategy, belief(first));
        if self.arms.len() > 1 {
            let how = match self.selection {
                Selection::Thompson => {
                    format!("Thompson sampling, where it goes first with probability {:.2}", first.propensity)
                }
                Selection::Greedy => "the highest weight".to_owned(),
            };
            let others: Vec<String> =
                self.arms[1..].iter().map(|arm| format!("{} ({})", arm.strategy, belief(arm))).collect();
            text.push_str(&format!(" by {how}, before {}", others.join(", ")));
        }
        for why in &self.passed_over {
            text.push_str(&format!("; {why}"));
        }
        text
    }
}

/// Whether a remedy was verified to be insufficient in this context.
pub fn is_insufficient(posterior: &Posterior) -> bool {
    posterior.effect.high < INSUFFICIENT
}

/// Orders the remedies of one step. The same arguments give the same choice, in whatever order they come.
pub fn choose(
    selection: Selection,
    context: &Context,
    candidates: &[Candidate],
    learned: &Learned,
) -> Choice {
    let mut candidates: Vec<&Candidate> = candidates.iter().collect();
    candidates.sort_by(|a, b| a.impact.total_cmp(&b.impact).then_with(|| a.strategy.cmp(&b.strategy)));
    let name = format!("{}/{}", context.problem_class, context.index_kind);
    let seed = name.bytes().fold(mix(learned.seed), |hash, byte| mix(hash ^ u64::from(byte)));
    let beliefs: Vec<Posterior> =
        candidates.iter().map(|c| learned.posterior(context, &c.strategy)).collect();
    let mut random = generator(seed);
    let mut utilities = || -> Vec<f64> {
        let each = candidates.iter().zip(&beliefs);
        each.map(|(candidate, belief)| {
            let drawn = draw(SHARPNESS * belief.alpha(), SHARPNESS * belief.beta(), &mut random);
            belief.own_part(drawn) - candidate.cost()
        })
        .collect()
    };
    let single = candidates.len() < 2;
    let scores: Vec<f64> = match selection {
        Selection::Greedy => {
            candidates.iter().map(|c| if c.weight.is_nan() { 0.0 } else { c.weight }).collect()
        }
        Selection::Thompson => utilities(),
    };
    let first = |scores: &[f64]| {
        // Of equals the first: the least impact, then the name.
        (0..scores.len()).reduce(|best, at| if scores[at] > scores[best] { at } else { best })
    };
    let propensities: Vec<f64> = match selection {
        _ if single => vec![1.0; candidates.len()],
        Selection::Greedy => {
            let best = first(&scores);
            (0..scores.len()).map(|at| f64::from(u8::from(Some(at) == best))).collect()
        }
        Selection::Thompson => {
            let mut counts = vec![0u32; candidates.len()];
            for _ in 0..PROPENSITY_DRAWS {
                if let Some(best) = first(&utilities()) {
                    counts[best] += 1;
                }
            }
            // One more for each: what was chosen was possible.
            let all = f64::from(PROPENSITY_DRAWS) + candidates.len() as f64;
            counts.iter().map(|count| f64::from(count + 1) / all).collect()
        }
    };
    let mut arms: Vec<ScoredArm> = candidates
        .iter()
        .zip(&beliefs)
        .zip(scores.iter().zip(&propensities))
        .map(|((candidate, belief), (score, propensity))| ScoredArm {
            strategy: candidate.strategy.clone(),
            alpha: belief.alpha(),
            beta: belief.beta(),
            effect: belief.effect.mean,
            cost: candidate.cost(),
            weight: candidate.weight,
            score: *score,
            propensity: *propensity,
        })
        .collect();
    // Stable: of equals the first stays first.
    arms.sort_by(|a, b| b.score.total_cmp(&a.score));
    Choice { selection, context: context.clone(), seed, arms, passed_over: vec![] }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{context, outcome};
    use super::super::{OutcomeRecord, posteriors};
    use super::*;
    use proptest::prelude::*;

    fn candidate(strategy: &str, impact: f64, weight: f64) -> Candidate {
        Candidate { strategy: strategy.to_owned(), impact, estimated_s: 10.0, bytes: 0, weight }
    }

    fn after(rows: &[OutcomeRecord], seed: u64) -> Learned {
        Learned { seed, posteriors: posteriors(rows, &[]), rungs: vec![] }
    }

    fn names(choice: &Choice) -> Vec<&str> {
        choice.arms.iter().map(|arm| arm.strategy.as_str()).collect()
    }

    #[test]
    fn greedy_takes_the_highest_weight_then_the_least_impact_then_the_name() {
        let order = |candidates: &[Candidate]| {
            let choice = choose(Selection::Greedy, &context(), candidates, &Learned::default());
            assert_eq!(choice.arms[0].propensity, 1.0);
            names(&choice).join(" ")
        };
        let (a, b, c) = (candidate("a", 0.4, 0.8), candidate("b", 0.3, 1.0), candidate("c", 0.3, 1.0));
        assert_eq!(order(&[a.clone(), b.clone(), c.clone()]), "b c a");
        assert_eq!(order(&[c, a.clone(), b.clone()]), "b c a");
        let broken = candidate("z", 0.1, f64::NAN);
        assert_eq!(order(&[broken, a, b]), "b a z");
    }

    #[test]
    fn what_proved_better_goes_first_nearly_always_and_its_propensity_says_so() {
        let rows: Vec<OutcomeRecord> =
            (0..30).map(|at| outcome(if at % 2 == 0 { "a" } else { "b" }, at, at % 2 == 0, None)).collect();
        let arms = [candidate("a", 0.4, 1.0), candidate("b", 0.3, 1.0)];
        let first = (0..500)
            .filter(|seed| {
                names(&choose(Selection::Thompson, &context(), &arms, &after(&rows, *seed)))[0] == "a"
            })
            .count();
        let choice = choose(Selection::Thompson, &context(), &arms, &after(&rows, 1));
        assert!(first >= 495, "{first}");
        let a = choice.arms.iter().find(|arm| arm.strategy == "a").unwrap();
        assert!(a.propensity > 0.99);
        assert!((choice.arms.iter().map(|arm| arm.propensity).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_propensity_is_how_often_a_remedy_goes_first() {
        let rows = [outcome("a", 1, true, None), outcome("b", 2, false, None), outcome("b", 3, true, None)];
        let arms = [candidate("a", 0.4, 1.0), candidate("b", 0.3, 1.0), candidate("c", 0.35, 1.0)];
        let mut wins = [0u32; 3];
        let n = 3000u32;
        for seed in 0..n {
            let choice = choose(Selection::Thompson, &context(), &arms, &after(&rows, u64::from(seed)));
            wins[["a", "b", "c"].iter().position(|name| *name == choice.arms[0].strategy).unwrap()] += 1;
        }
        let choice = choose(Selection::Thompson, &context(), &arms, &after(&rows, 99));
        for (name, wins) in ["a", "b", "c"].iter().zip(wins) {
            let arm = choice.arms.iter().find(|arm| arm.strategy == *name).unwrap();
            let share = f64::from(wins) / f64::from(n);
            // Five standard errors of both.
            assert!((arm.propensity - share).abs() < 0.06, "{name}: {} and {share}", arm.propensity);
        }
    }

    #[test]
    fn what_is_drawn_less_the_cost_decides_and_the_seed_repeats_it() {
        let rows = [outcome("a", 1, true, None), outcome("b", 2, false, None), outcome("b", 3, true, None)];
        let learned = after(&rows, 99);
        let arms = [candidate("a", 0.4, 1.0), candidate("b", 0.3, 1.0)];
        let choice = choose(Selection::Thompson, &context(), &arms, &learned);
        assert_eq!(choice.seed, 9935350651790512012, "in the next version too");
        // Of the least impact is drawn first. Nothing clears alone here.
        let mut random = generator(choice.seed);
        for (name, arm) in [("b", &arms[1]), ("a", &arms[0])] {
            let belief = learned.posterior(&context(), name);
            let drawn = draw(8.0 * belief.alpha(), 8.0 * belief.beta(), &mut random);
            let scored = choice.arms.iter().find(|scored| scored.strategy == name).unwrap();
            assert!((scored.score - (drawn - arm.cost())).abs() < 1e-12, "{scored:?}, {drawn}");
            assert_eq!((scored.alpha, scored.beta), (belief.alpha(), belief.beta()));
            assert_eq!((scored.effect, scored.cost), (belief.effect.mean, arm.cost()));
        }
    }

    #[test]
    fn of_equals_the_cheaper_goes_first_more_often() {
        let dear = Candidate { estimated_s: 36_000.0, bytes: 1 << 40, ..candidate("dear", 0.45, 1.0) };
        let cheap = candidate("cheap", 0.3, 1.0);
        assert!((dear.cost() - cheap.cost()) > 0.1);
        // A tenth of the impact, and half of each twentieth at ten minutes and at a gigabyte.
        let known = Candidate { estimated_s: 600.0, bytes: 1 << 30, ..candidate("x", 0.4, 1.0) };
        assert!((known.cost() - (0.04 + 0.025 + 0.025)).abs() < 1e-12);
        let longer = Candidate { estimated_s: 1800.0, bytes: 0, ..candidate("x", 0.0, 1.0) };
        assert!((longer.cost() - 0.05 * 0.75).abs() < 1e-12);
        let rows: Vec<OutcomeRecord> =
            (0..40).map(|at| outcome(if at % 2 == 0 { "dear" } else { "cheap" }, at, true, None)).collect();
        let choice = choose(Selection::Thompson, &context(), &[dear, cheap], &after(&rows, 5));
        assert_eq!(names(&choice)[0], "cheap");
        assert!(choice.arms[0].propensity > 0.9, "{choice:?}");
        let endless = Candidate { estimated_s: f64::NAN, ..candidate("x", f64::NAN, 1.0) };
        assert!(!choose(Selection::Thompson, &context(), &[endless], &Learned::default()).arms.is_empty());
    }

    #[test]
    fn a_remedy_that_never_helped_is_insufficient_after_four_failures() {
        let failed = |n: i64| after(&(0..n).map(|at| outcome("a", at, false, None)).collect::<Vec<_>>(), 0);
        assert!(!is_insufficient(&failed(3).posterior(&context(), "a")));
        assert!(is_insufficient(&failed(4).posterior(&context(), "a")));
        assert!(!is_insufficient(&failed(4).posterior(&context(), "b")), "untried is not");
    }

    #[test]
    fn a_choice_can_be_read() {
        let arms = [candidate("a", 0.4, 0.8), candidate("b", 0.3, 1.0)];
        let choice = choose(Selection::Greedy, &context(), &arms, &Learned::default());
        assert_eq!(
            choice.in_words(),
            "b (own effect 0.25, weight 1.00) by the highest weight, before a (own effect 0.25, weight 0.80)"
        );
        let single = Choice {
            passed_over: vec!["b is lowered".to_owned()],
            ..choose(Selection::Thompson, &context(), &arms[..1], &Learned::default())
        };
        assert_eq!(single.in_words(), "a (own effect 0.25, weight 0.80); b is lowered");
        let sampled = choose(Selection::Thompson, &context(), &arms, &Learned::default()).in_words();
        assert!(sampled.contains("goes first with probability 0."), "{sampled}");
    }

    #[test]
    fn steps_are_the_specs() {
        let step = |impact| ImpactStep::of(impact);
        assert_eq!([0.0, 0.1, 0.2, 0.25].map(step), [ImpactStep::Low; 4]);
        assert_eq!([0.3, 0.35, 0.4, 0.45].map(step), [ImpactStep::Medium; 4]);
        assert_eq!([0.5, 1.0].map(step), [ImpactStep::High; 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_choice_is_a_function_of_its_arguments_not_of_their_order(
            seed: u64,
            rows in prop::collection::vec((0usize..4, any::<bool>()), 0..40),
            greedy: bool,
        ) {
            let names = ["a", "b", "c", "d"];
            let rows: Vec<OutcomeRecord> =
                (0i64..).zip(&rows).map(|(at, (arm, ok))| outcome(names[*arm], at, *ok, None)).collect();
            let mut arms: Vec<Candidate> = names.iter().map(|name| candidate(name, 0.3, 1.0)).collect();
            let selection = if greedy { Selection::Greedy } else { Selection::Thompson };
            let learned = after(&rows, seed);
            let choice = choose(selection, &context(), &arms, &learned);
            prop_assert_eq!(&choose(selection, &context(), &arms, &learned), &choice);
            arms.reverse();
            prop_assert_eq!(&choose(selection, &context(), &arms, &learned), &choice);
            prop_assert!(choice.arms[0].propensity > 0.0, "what was chosen was possible");
            prop_assert!((choice.arms.iter().map(|arm| arm.propensity).sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(choice.arms.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
    }
}
