//! The effectiveness report: one row a strategy and one over all.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::weights::{UNTRIED, Weight, improvement, recent};
use super::{OutcomeRecord, Posterior};
use crate::lifecycle::Status;
use crate::snapshot::UnixMs;

/// The last outcomes that a row shows.
const LAST: usize = 10;
/// Probability with which the interval of the average improvement contains it.
const CONFIDENCE: f64 = 0.95;

/// How one strategy did in the last 30 days.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StrategyReport {
    /// The strategy; None: all of them together.
    pub strategy: Option<String>,
    /// The spec's weight; None for all together.
    pub weight: Option<f64>,
    /// Outcomes.
    pub attempts: u64,
    /// Verified successes.
    pub verified: u64,
    /// Outcomes that were undone, the undoings that failed included.
    pub rolled_back: u64,
    /// Verified ÷ attempts; None without attempts.
    pub success_rate: Option<f64>,
    /// Average improvement as a ratio, what was not measured counting 0; None without attempts.
    pub avg_improvement: Option<f64>,
    /// Lower end of its 95 % interval (Student's t); None below two attempts.
    pub improvement_low: Option<f64>,
    /// Upper end.
    pub improvement_high: Option<f64>,
    /// Average seconds from detection until the collection was normal again, over verified successes of which it is
    /// known; None when of none.
    pub avg_recovery_s: Option<f64>,
    /// Share of such problems that would have cleared by themselves meanwhile, the mean over its contexts by tries; None
    /// when no period without an action was watched.
    pub spontaneous_rate: Option<f64>,
    /// What is credited to the remedy itself, 0–1: the share of problems that it clears and that would not have cleared
    /// alone (the median of what is believed), the mean over its contexts by tries. None when it was not tried.
    pub credited: Option<f64>,
    /// Numbers of the last ten outcomes, the latest first.
    pub last_outcomes: Vec<i64>,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One row a strategy, in the order asked for.
    pub strategies: Vec<StrategyReport>,
    /// All strategies together.
    pub total: StrategyReport,
}

/// Makes the report at `now`.
pub fn report(
    strategies: &[&str],
    outcomes: &[OutcomeRecord],
    weights: &[Weight],
    posteriors: &[Posterior],
    now: UnixMs,
) -> Report {
    let rows = strategies.iter().map(|name| {
        let own = recent(outcomes, name, now);
        let weight = weights.iter().find(|weight| weight.strategy == *name).map_or(UNTRIED, |w| w.weight);
        let beliefs: Vec<&Posterior> = posteriors.iter().filter(|p| p.strategy == *name).collect();
        StrategyReport {
            strategy: Some((*name).to_owned()),
            weight: Some(weight),
            spontaneous_rate: by_tries(&beliefs, |p| p.natural.map(|natural| natural.rate)),
            credited: by_tries(&beliefs, |p| Some(p.effect.median)),
            ..summary(&own)
        }
    });
    let rows: Vec<StrategyReport> = rows.collect();
    let all: Vec<&OutcomeRecord> = strategies.iter().flat_map(|name| recent(outcomes, name, now)).collect();
    Report { strategies: rows, total: summary(&all) }
}

/// The mean over contexts, weighted with the tries in each.
fn by_tries(beliefs: &[&Posterior], value: impl Fn(&Posterior) -> Option<f64>) -> Option<f64> {
    let known: Vec<(f64, f64)> =
        beliefs.iter().filter_map(|p| Some((f64::from(p.tries), value(p)?))).collect();
    let tries: f64 = known.iter().map(|(tries, _)| tries).sum();
    (tries > 0.0).then(|| known.iter().map(|(tries, value)| tries * value).sum::<f64>() / tries)
}

fn summary(outcomes: &[&OutcomeRecord]) -> StrategyReport {
    let attempts = outcomes.len();
    let n = attempts as f64;
    let verified = outcomes.iter().filter(|o| o.is_verified_success()).count();
    let rolled_back =
        outcomes.iter().filter(|o| matches!(o.status, Status::RolledBack | Status::RollbackFailed)).count();
    let average = (attempts > 0).then(|| outcomes.iter().map(|o| improvement(o)).sum::<f64>() / n);
    let half_width = average.and_then(|average| {
        // Of a single attempt there is no such distribution.
        let squares: f64 = outcomes.iter().map(|o| (improvement(o) - average).powi(2)).sum();
        let t = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(f64::midpoint(1.0, CONFIDENCE));
        Some(t * (squares / (n - 1.0) / n).sqrt())
    });
    let recoveries: Vec<f64> = outcomes
        .iter()
        .filter(|o| o.is_verified_success())
        .filter_map(|o| o.recovery_s.filter(|s| s.is_finite()))
        .collect();
    let mut latest: Vec<&&OutcomeRecord> = outcomes.iter().collect();
    latest.sort_by_key(|o| std::cmp::Reverse((o.completed_at, o.id)));
    StrategyReport {
        strategy: None,
        weight: None,
        attempts: attempts as u64,
        verified: verified as u64,
        rolled_back: rolled_back as u64,
        success_rate: (attempts > 0).then(|| verified as f64 / n),
        avg_improvement: average,
        improvement_low: average.zip(half_width).map(|(average, half)| average - half),
        improvement_high: average.zip(half_width).map(|(average, half)| average + half),
        avg_recovery_s: (!recoveries.is_empty())
            .then(|| recoveries.iter().sum::<f64>() / recoveries.len() as f64),
        spontaneous_rate: None,
        credited: None,
        last_outcomes: latest.iter().take(LAST).map(|o| o.id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::outcome;
    use super::super::weights;
    use super::*;

    const NOW: UnixMs = 100 * 86_400_000;

    #[test]
    fn rows_and_total_by_hand() {
        let mut outcomes = vec![
            outcome("a", NOW - 3, true, Some(10.0)),
            outcome("a", NOW - 2, true, Some(30.0)),
            outcome("a", NOW - 1, false, Some(20.0)),
            outcome("b", NOW - 5, true, None),
        ];
        outcomes[0].recovery_s = Some(60.0);
        outcomes[1].recovery_s = Some(120.0);
        outcomes[2].recovery_s = Some(7000.0);
        let weights = weights(&["a", "b", "c"], &outcomes, &[], NOW);
        let report = report(&["a", "b", "c"], &outcomes, &weights, &[], NOW);
        let [a, b, c] = &report.strategies[..] else { panic!() };
        assert_eq!((a.strategy.as_deref(), report.total.strategy.as_deref()), (Some("a"), None));
        assert_eq!((a.attempts, a.verified, a.rolled_back), (3, 2, 1));
        assert_eq!(a.last_outcomes, [NOW - 1, NOW - 2, NOW - 3]);
        assert!((a.success_rate.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert!((a.avg_improvement.unwrap() - 0.2).abs() < 1e-12);
        // s = 0.1, t(0.975; 2) = 4.302653: half width 4.302653 × 0.1 / √3 = 0.248414.
        assert!((a.improvement_low.unwrap() - (0.2 - 0.248_414)).abs() < 1e-5);
        assert!((a.improvement_high.unwrap() - (0.2 + 0.248_414)).abs() < 1e-5);
        assert_eq!(a.avg_recovery_s, Some(90.0), "of what was verified");
        assert!((a.weight.unwrap() - 2.0 / 3.0 * 1.2).abs() < 1e-12);
        assert_eq!((b.attempts, b.avg_improvement, b.improvement_low), (1, Some(0.0), None));
        assert_eq!((c.attempts, c.success_rate, c.weight), (0, None, Some(1.0)));
        assert_eq!((c.avg_improvement, c.improvement_low, c.improvement_high), (None, None, None));
        assert_eq!((report.total.attempts, report.total.verified), (4, 3));
        assert_eq!(report.total.success_rate, Some(0.75));
        assert_eq!(report.total.weight, None);
    }

    #[test]
    fn what_is_believed_is_the_mean_over_contexts_by_tries() {
        use super::super::{Context, Effect, Natural};
        let belief = |kind: &str, tries, natural: Option<f64>, median| Posterior {
            context: Context { problem_class: "CentroidSkew".to_owned(), index_kind: kind.to_owned() },
            strategy: "a".to_owned(),
            tries,
            successes: 0.0,
            failures: 0.0,
            prior_mean: 0.5,
            natural: natural.map(|rate| Natural { rate, periods: 1 }),
            effect: Effect { mean: 0.9, median, low: 0.0, high: 1.0 },
        };
        let beliefs = [
            belief("ivfflat", 3, Some(0.2), 0.4),
            belief("hnsw", 1, Some(0.6), 0.8),
            belief("none", 0, Some(1.0), 1.0),
        ];
        let row = |beliefs: &[Posterior]| report(&["a"], &[], &[], beliefs, NOW).strategies.remove(0);
        let a = row(&beliefs);
        assert!((a.spontaneous_rate.unwrap() - 0.3).abs() < 1e-12);
        assert!((a.credited.unwrap() - 0.5).abs() < 1e-12);
        let unwatched = row(&[belief("ivfflat", 3, None, 0.4)]);
        assert_eq!(
            (unwatched.spontaneous_rate, unwatched.credited.map(|c| (c * 10.0).round())),
            (None, Some(4.0))
        );
        assert_eq!((row(&[]).spontaneous_rate, row(&[]).credited), (None, None));
        let other = Posterior { strategy: "b".to_owned(), ..belief("ivfflat", 3, Some(0.2), 0.4) };
        assert_eq!(row(&[other]).credited, None);
    }

    #[test]
    fn ten_are_the_last() {
        let outcomes: Vec<OutcomeRecord> = (0..25).map(|at| outcome("a", NOW - at, true, None)).collect();
        let report = report(&["a"], &outcomes, &[], &[], NOW);
        assert_eq!(report.total.last_outcomes, (0..10).map(|at| NOW - at).collect::<Vec<_>>());
    }
}
