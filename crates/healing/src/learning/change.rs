//! How much each outcome of a context still says of it.
//!
//! The world changes: rows grow, an index is built otherwise, a disk is replaced. An outcome from before the last change says
//! nothing of today. When that was is not known; Bayesian online change-point detection (Adams and MacKay, 2007) gives each
//! possible time a probability, by how well the outcomes since then and those before explain each other. An outcome counts by
//! the probability that no change came after it, and, because not every change is a sudden one, [`DECAY`] times as much with
//! every later outcome of the context.
//!
//! A plain decay must forget quickly at all times so that it forgets quickly enough when something happens. This forgets
//! slowly while the outcomes agree, and at once when they do not.

/// What an outcome's say is multiplied by with each later one in its context: half of it after 69. Chosen, with
/// [`CHANGE`], on streams as those of `benches/README.md`; from 0.985 to 0.995 it makes little difference.
pub const DECAY: f64 = 0.99;
/// A priori probability that the context changed between two outcomes. From 0.005 to 0.02 it makes little difference.
pub const CHANGE: f64 = 0.01;
/// Times of the last change that are followed; the least probable of more is given up.
const TIMES_MAX: usize = 64;

/// A time at which the context may have changed last.
struct Since {
    /// The first outcome after it.
    first: usize,
    /// How probable it is.
    probability: f64,
    /// Decayed successes and failures of each remedy since then.
    counts: Vec<(f64, f64)>,
}

/// What each of these outcomes of one context still counts, 0–1. They are in the order of time: the number of the remedy,
/// and how far it succeeded, 0–1.
pub(super) fn counting(outcomes: &[(usize, f64)]) -> Vec<f64> {
    let remedies = outcomes.iter().map(|(remedy, _)| remedy + 1).max().unwrap_or(0);
    let fresh = |first, probability| Since { first, probability, counts: vec![(0.0, 0.0); remedies] };
    let mut times = vec![fresh(0, 1.0)];
    for (at, (remedy, success)) in outcomes.iter().enumerate() {
        for since in &mut times {
            let (successes, failures) = since.counts[*remedy];
            // A uniform prior: what is known of the remedy elsewhere is no evidence of a change here.
            let expected = (1.0 + successes) / (2.0 + successes + failures);
            since.probability *= success * expected + (1.0 - success) * (1.0 - expected);
            for (s, f) in &mut since.counts {
                *s *= DECAY;
                *f *= DECAY;
            }
            since.counts[*remedy].0 += success;
            since.counts[*remedy].1 += 1.0 - success;
        }
        let all: f64 = times.iter().map(|since| since.probability).sum();
        for since in &mut times {
            since.probability *= (1.0 - CHANGE) / all;
        }
        if times.len() == TIMES_MAX {
            let least =
                (0..times.len()).min_by(|a, b| times[*a].probability.total_cmp(&times[*b].probability));
            let given_up = least.map(|least| times.remove(least).probability).unwrap_or_default();
            for since in &mut times {
                since.probability *= (1.0 - CHANGE) / (1.0 - CHANGE - given_up);
            }
        }
        times.push(fresh(at + 1, CHANGE));
    }
    let mut decayed = 1.0;
    let mut weights = vec![0.0; outcomes.len()];
    for (at, weight) in weights.iter_mut().enumerate().rev() {
        let none_after: f64 =
            times.iter().filter(|since| since.first <= at).map(|since| since.probability).sum();
        *weight = decayed * none_after.min(1.0);
        decayed *= DECAY;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        assert_eq!(counting(&[]), Vec::<f64>::new());
        assert!((counting(&[(0, 1.0)])[0] - 0.99).abs() < 1e-12, "it may have changed since");
        // A success, then a failure. That nothing changed: 0.99 × ⅓; a change between them: 0.01 × ½.
        let two = counting(&[(0, 1.0), (0, 0.0)]);
        let stayed = 0.33 / (0.33 + 0.005);
        assert!((two[1] - 0.99).abs() < 1e-12);
        assert!((two[0] - 0.99 * 0.99 * stayed).abs() < 1e-12);
        // Of another remedy a first failure is no surprise: 0.99 × ½ against 0.01 × ½.
        let other = counting(&[(0, 1.0), (1, 0.0)]);
        assert!((other[0] - 0.99 * 0.99 * 0.99).abs() < 1e-12);
        // Half a success explains nothing: ½ whatever was expected.
        assert!((counting(&[(0, 1.0), (0, 0.5)])[0] - 0.99f64.powi(3)).abs() < 1e-12);
    }

    /// The same from its definition: of each time of the last change its prior and the likelihood of what came after it, an
    /// outcome between two changes being explained by those of its remedy since the first of them, decayed.
    fn from_the_definition(outcomes: &[(usize, f64)]) -> Vec<f64> {
        let n = outcomes.len();
        let explained = |first: usize, until: usize| -> f64 {
            (first..until)
                .map(|at| {
                    let (remedy, success) = outcomes[at];
                    let mut counts = (1.0, 1.0);
                    for (before, (other, s)) in outcomes.iter().enumerate().take(at).skip(first) {
                        if *other == remedy {
                            let decayed = DECAY.powi((at - before - 1) as i32);
                            counts.0 += decayed * s;
                            counts.1 += decayed * (1.0 - s);
                        }
                    }
                    let expected = counts.0 / (counts.0 + counts.1);
                    success * expected + (1.0 - success) * (1.0 - expected)
                })
                .product()
        };
        // Evidence of all before a change: of what came since the change before that, summed over when it was.
        let mut evidence = vec![1.0];
        let prior = |first: usize, until: usize| {
            let change = if first == 0 { 1.0 } else { CHANGE };
            change * (1.0 - CHANGE).powi((until - first) as i32 - 1)
        };
        for until in 1..=n {
            let all = (0..until).map(|first| evidence[first] * prior(first, until) * explained(first, until));
            evidence.push(all.sum::<f64>());
        }
        let last: Vec<f64> = (0..n)
            .map(|first| evidence[first] * prior(first, n + 1) * explained(first, n))
            .chain([evidence[n] * CHANGE])
            .collect();
        let total: f64 = last.iter().sum();
        (0..n).map(|at| DECAY.powi((n - 1 - at) as i32) * last[..=at].iter().sum::<f64>() / total).collect()
    }

    #[test]
    fn what_suddenly_fails_forgets_its_successes_and_what_goes_on_does_not() {
        let mut outcomes = vec![(0, 1.0); 60];
        let steady = counting(&outcomes);
        assert!(steady[30] > 0.7 && steady[59] > 0.98, "{steady:?}");
        outcomes.extend([(0, 0.0); 5]);
        let turned = counting(&outcomes);
        assert!(turned[50] < 0.05, "five failures after sixty successes: {}", turned[50]);
        assert!(turned[60] > 0.9, "{}", turned[60]);
        // Now and then a failure is no change.
        let mixed: Vec<(usize, f64)> = (0..60).map(|at| (0, f64::from(u8::from(at % 5 != 0)))).collect();
        assert!(counting(&mixed)[50] > 0.8, "{:?}", counting(&mixed));
    }

    #[test]
    fn of_more_times_than_are_followed_the_least_probable_are_given_up_and_the_others_share_what_they_had() {
        // Half a success explains nothing, so that each time is as probable as it was beforehand: nothing changed after the
        // outcome that is `n` from the end with probability 0.99^n.
        let weights = counting(&[(0, 0.5); 200]);
        assert!((weights[199] - (1.0 - CHANGE)).abs() < 1e-12, "all are one together: {}", weights[199]);
        for n in 1..40 {
            let exact = (1.0 - CHANGE).powi(n) * DECAY.powi(n - 1);
            let weight = weights[200 - n as usize];
            assert!((weight - exact).abs() < 0.05 && weight <= exact + 1e-12, "{n}: {weight} and {exact}");
        }
        // What is far more probable than the rest is not given up: ten successes, and then nothing else.
        let steady = counting(&[(0, 1.0); 300]);
        assert!(steady[200] / DECAY.powi(99) > 0.9, "{}", steady[200]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn they_are_what_the_definition_says(
            outcomes in prop::collection::vec((0usize..3, prop_oneof![Just(0.0), Just(1.0), 0.0f64..=1.0]), 1..40),
        ) {
            for (weight, exact) in counting(&outcomes).into_iter().zip(from_the_definition(&outcomes)) {
                prop_assert!((weight - exact).abs() < 1e-9, "{weight} and {exact}");
            }
        }

        #[test]
        fn weights_are_shares_and_later_outcomes_count_no_less(
            outcomes in prop::collection::vec((0usize..5, 0.0f64..=1.0), 1..200),
        ) {
            let weights = counting(&outcomes);
            prop_assert_eq!(weights.len(), outcomes.len());
            prop_assert!(weights.iter().all(|weight| (0.0..=1.0).contains(weight)));
            prop_assert!(weights.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
            prop_assert!((weights[outcomes.len() - 1] - (1.0 - CHANGE)).abs() < 1e-9);
        }
    }
}
