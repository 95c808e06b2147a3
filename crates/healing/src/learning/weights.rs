//! The spec's weights: `success_rate × (1 + average improvement)` over 30 days.
//!
//! Only verified successes count as such. An improvement is a ratio (0.4 for λ up by 40 %), its average is over all
//! outcomes of the strategy, and one that was not measured counts as 0. A strategy without an outcome in the window keeps
//! its last weight, which is 1 at first: the one it had just before its latest outcome left the window. So a weight is a
//! function of outcomes and time, and does not depend on when somebody last computed it.

use serde::{Deserialize, Serialize};

use super::OutcomeRecord;
use crate::snapshot::UnixMs;

/// The spec's window: 30 days, milliseconds.
pub const WINDOW_MS: i64 = 30 * 86_400_000;
/// The spec's weight of a strategy of which nothing is known.
pub(super) const UNTRIED: f64 = 1.0;

/// A strategy's weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// The strategy.
    pub strategy: String,
    /// Its weight, 0 or more; never NaN.
    pub weight: f64,
}

/// The outcomes of a strategy that count at `now`.
pub(super) fn recent<'a>(
    outcomes: &'a [OutcomeRecord],
    strategy: &str,
    now: UnixMs,
) -> Vec<&'a OutcomeRecord> {
    outcomes.iter().filter(|o| o.strategy == strategy && o.completed_at > now - WINDOW_MS).collect()
}

/// The improvement as a ratio; what was not measured, or is no number, counts as 0.
pub(super) fn improvement(outcome: &OutcomeRecord) -> f64 {
    outcome.improvement_pct.filter(|pct| pct.is_finite()).map_or(0.0, |pct| pct / 100.0)
}

/// The weights of these strategies at `now`, from outcomes that had ended by then. `last`: those that were computed before,
/// for strategies whose outcomes are not on record any more.
pub fn weights(strategies: &[&str], outcomes: &[OutcomeRecord], last: &[Weight], now: UnixMs) -> Vec<Weight> {
    let weight = |strategy: &str| {
        let Some(latest) = outcomes.iter().filter(|o| o.strategy == strategy).map(|o| o.completed_at).max()
        else {
            let before = last.iter().find(|weight| weight.strategy == strategy).map(|weight| weight.weight);
            return before.filter(|weight| weight.is_finite()).unwrap_or(UNTRIED);
        };
        // The window of `now`, or the last one that was not empty.
        let at = now.min(latest.saturating_add(WINDOW_MS - 1));
        let recent = recent(outcomes, strategy, at);
        let n = recent.len() as f64;
        let success_rate = recent.iter().filter(|o| o.is_verified_success()).count() as f64 / n;
        let average = recent.iter().map(|o| improvement(o)).sum::<f64>() / n;
        (success_rate * (1.0 + average)).max(0.0)
    };
    strategies.iter().map(|name| Weight { strategy: (*name).to_owned(), weight: weight(name) }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::outcome;
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixMs = 100 * 86_400_000;

    fn weight_of(outcomes: &[OutcomeRecord], last: &[Weight]) -> f64 {
        weights(&["a"], outcomes, last, NOW)[0].weight
    }

    #[test]
    fn by_hand() {
        assert_eq!(WINDOW_MS, 2_592_000_000);
        // Three of four verified; improvements 0.5, 0.3, none (0), -0.2: average 0.15; 0.75 × 1.15.
        let four = [
            outcome("a", NOW - 1, true, Some(50.0)),
            outcome("a", NOW - 2, true, Some(30.0)),
            outcome("a", NOW - 3, true, None),
            outcome("a", NOW - 4, false, Some(-20.0)),
        ];
        assert!((weight_of(&four, &[]) - 0.8625).abs() < 1e-12);
        // Another strategy's outcomes change nothing.
        let mut five = four.to_vec();
        five.push(outcome("b", NOW, false, None));
        assert_eq!(weight_of(&five, &[]), weight_of(&four, &[]));
    }

    #[test]
    fn what_was_not_verified_is_no_success() {
        let mut one = outcome("a", NOW, true, Some(100.0));
        one.verified = None;
        assert_eq!(weight_of(&[one.clone()], &[]), 0.0);
        one.verified = Some(true);
        one.success = false;
        assert_eq!(weight_of(&[one], &[]), 0.0);
    }

    #[test]
    fn without_outcomes_in_thirty_days_the_last_weight_stays_and_the_first_is_one() {
        let last = [Weight { strategy: "a".to_owned(), weight: 0.4 }];
        assert_eq!(weight_of(&[], &[]), 1.0);
        assert_eq!(weight_of(&[], &last), 0.4, "its outcomes are not on record any more");
        let edge = outcome("a", NOW - WINDOW_MS, true, Some(100.0));
        let failed = outcome("a", NOW, false, None);
        assert_eq!(weight_of(&[edge.clone(), failed.clone()], &last), 0.0, "30 days old is too old");
        let inside = OutcomeRecord { completed_at: edge.completed_at + 1, ..edge.clone() };
        assert_eq!(weight_of(&[inside, failed], &last), 0.5 * 1.5);
        // Long ago: just before the latest left the window it was alone there; another of the same time was there too.
        let before = outcome("a", edge.completed_at - 1, false, None);
        assert_eq!(weight_of(&[edge.clone(), before.clone()], &last), 2.0);
        let beside = OutcomeRecord { completed_at: edge.completed_at, ..before };
        assert_eq!(weight_of(&[edge, beside], &last), 0.5 * 1.5);
        let broken = [Weight { strategy: "a".to_owned(), weight: f64::NAN }];
        assert_eq!(weight_of(&[], &broken), 1.0);
    }

    /// The same time is met often, and so is a time exactly one window away.
    fn time() -> impl Strategy<Value = UnixMs> {
        (0i64..4, 0i64..4).prop_map(|(windows, ms)| windows * WINDOW_MS + ms)
    }

    proptest! {
        #[test]
        fn who_computes_all_the_time_and_who_computes_once_come_to_the_same(
            rows in prop::collection::vec((time(), any::<bool>(), -50.0f64..100.0), 0..12),
            now in time(),
        ) {
            let outcomes: Vec<OutcomeRecord> =
                rows.iter().map(|(at, ok, pct)| outcome("a", *at, *ok, Some(*pct))).collect();
            let by = |time| outcomes.iter().filter(|o| o.completed_at <= time).cloned().collect::<Vec<_>>();
            let mut times: Vec<UnixMs> = (0..4i64).flat_map(|n| (-1..4).map(move |ms| n * WINDOW_MS + ms)).collect();
            times.retain(|time| *time <= now);
            // The spec's rule by hand: what is in the window counts, and when nothing is, what was there before stays.
            let mut by_hand = 1.0;
            let mut kept: Vec<Weight> = vec![];
            for time in times {
                let inside: Vec<OutcomeRecord> = by(time).into_iter().filter(|o| o.completed_at + WINDOW_MS > time).collect();
                if !inside.is_empty() {
                    let n = inside.len() as f64;
                    let verified = inside.iter().filter(|o| o.verified == Some(true)).count() as f64;
                    by_hand = verified / n * (1.0 + inside.iter().filter_map(|o| o.improvement_pct).sum::<f64>() / 100.0 / n);
                }
                kept = weights(&["a"], &by(time), &kept, time);
                prop_assert!((kept[0].weight - by_hand).abs() < 1e-9);
            }
            let once = weights(&["a"], &by(now), &[], now)[0].weight;
            prop_assert!((once - by_hand).abs() < 1e-9, "{once} and {by_hand}");
        }

        #[test]
        fn a_weight_is_a_number_within_its_bounds(
            rows in prop::collection::vec((any::<bool>(), prop::option::of(-99.0f64..500.0)), 1..40),
            spoiled in any::<bool>(),
        ) {
            let mut outcomes: Vec<OutcomeRecord> =
                rows.iter().map(|(ok, pct)| outcome("a", NOW, *ok, *pct)).collect();
            if spoiled {
                outcomes[0].improvement_pct = Some(f64::INFINITY);
            }
            let weight = weight_of(&outcomes, &[]);
            let greatest = outcomes.iter().map(improvement).fold(0.0, f64::max);
            prop_assert!((0.0..=1.0 + greatest + 1e-9).contains(&weight));
            // The order of rows does not matter.
            outcomes.reverse();
            prop_assert!((weight_of(&outcomes, &[]) - weight).abs() < 1e-9);
        }
    }
}
