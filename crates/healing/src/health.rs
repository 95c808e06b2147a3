//! Health curves: how much of an edge's capacity a metric leaves, as named piecewise-linear functions.
//!
//! Each curve meets 0.7, the boundary of stress, at its problem class's own threshold (a test says so).

use std::collections::BTreeMap;

use serde::Serialize;

/// A piecewise-linear function from a metric to health, 0–1. Outside its points it is constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Curve {
    /// Its name.
    pub name: &'static str,
    /// What the metric is, with its unit.
    pub metric: &'static str,
    /// Points (metric, health), ascending in the metric.
    pub points: &'static [(f64, f64)],
    /// The value of the metric at which the class counts: where health is 0.7.
    pub threshold: f64,
}

/// 100 × (1 − bytes of a clean build ÷ bytes now). The spec's threshold is 30 %.
pub const FRAGMENTATION: Curve = Curve {
    name: "fragmentation",
    metric: "fragmentation_pct",
    points: &[(10.0, 1.0), (30.0, 0.7), (60.0, 0.4), (100.0, 0.0)],
    threshold: 30.0,
};

/// Percent of the index's entries whose row is dead.
pub const DEAD: Curve = Curve {
    name: "dead",
    metric: "dead_pct",
    points: &[(10.0, 1.0), (30.0, 0.7), (60.0, 0.4), (100.0, 0.0)],
    threshold: 30.0,
};

/// (recall + half its confidence interval) ÷ objective, as a shortfall 1 − that: 0 at the objective.
pub const RECALL_SHORTFALL: Curve = Curve {
    name: "recall_shortfall",
    metric: "recall_shortfall",
    points: &[(0.0, 1.0), (0.1, 0.7), (0.4, 0.4), (1.0, 0.0)],
    threshold: 0.1,
};

/// Largest ÷ mean list length, divided by what sampling noise and a fresh k-means show. It weakens only lists that are
/// bad by [`DRIFT_EXCESS`]: alone it does not tell good ones from bad ones (decision 0005: good ones reach 2.3).
pub const SKEW_EXCESS: Curve = Curve {
    name: "skew_excess",
    metric: "skew_excess",
    points: &[(1.0, 1.0), (2.0, 0.7), (4.0, 0.4), (10.0, 0.1), (20.0, 0.0)],
    threshold: 2.0,
};

/// Mean distance of rows to their nearest centre, against a fresh k-means, above which lists are bad, if the work
/// ratio is too great as well. Measured: see [`crate::ivf`].
pub const DISTANCE_RATIO_MAX: f64 = 1.05;

/// Rows that a search must look at, against a fresh k-means, above which lists are bad, if the distance ratio is too
/// great as well.
pub const WORK_RATIO_MAX: f64 = 1.10;

/// How far lists are beyond both limits: 0 as good as new, 1 at the nearer limit. Lists are bad where it is above 1.
pub fn drift_excess(distance_ratio: f64, work_ratio: f64) -> f64 {
    let distance = (distance_ratio - 1.0) / (DISTANCE_RATIO_MAX - 1.0);
    let work = (work_ratio - 1.0) / (WORK_RATIO_MAX - 1.0);
    distance.min(work).max(0.0)
}

/// The excess of lists that no longer fit: bad at 1; at 4 (distance 1.2 and work 1.4 times those of fresh lists)
/// critical; at 20 (twice the distance, three times the work) nothing is left.
pub const DRIFT_EXCESS: Curve = Curve {
    name: "drift_excess",
    metric: "drift_excess",
    points: &[(0.5, 1.0), (1.0, 0.7), (4.0, 0.4), (20.0, 0.0)],
    threshold: 1.0,
};

/// Health of an index that is not valid: searches cannot use it at all.
pub const INVALID: f64 = 0.0;

/// Health of an invalid index beside a valid equal one: it costs writes and disk, but no search misses it. In the
/// range of stress, never critical.
pub const INVALID_SURPLUS: f64 = 0.5;

/// Load of a partition ÷ mean load of the others on its server, divided by what that usually is.
pub const LOAD_RATIO: Curve = Curve {
    name: "load_ratio",
    metric: "load_ratio",
    points: &[(1.25, 1.0), (1.75, 0.7), (4.0, 0.4), (10.0, 0.1), (20.0, 0.0)],
    threshold: 1.75,
};

/// Sessions that have waited for a lock on the partition for longer than a second.
pub const WAITING: Curve = Curve {
    name: "waiting",
    metric: "waiting_sessions",
    points: &[(1.0, 1.0), (3.0, 0.7), (10.0, 0.4), (50.0, 0.0)],
    threshold: 3.0,
};

/// Percent of the connections open to ordinary users that are taken.
pub const CONNECTIONS: Curve = Curve {
    name: "connections",
    metric: "connections_pct",
    points: &[(75.0, 1.0), (90.0, 0.7), (97.0, 0.4), (100.0, 0.0)],
    threshold: 90.0,
};

/// Age of the newest commit that a replica has not replayed, seconds.
pub const LAG_SECONDS: Curve = Curve {
    name: "lag_seconds",
    metric: "lag_seconds",
    points: &[(1.0, 1.0), (5.0, 0.7), (30.0, 0.4), (300.0, 0.0)],
    threshold: 5.0,
};

/// WAL that a replica has not replayed, MiB: behind by a bulk load is no fault as long as it gets on, so this begins
/// late.
pub const LAG_BYTES: Curve = Curve {
    name: "lag_bytes",
    metric: "lag_mib",
    points: &[(256.0, 1.0), (1024.0, 0.7), (4096.0, 0.4), (16_384.0, 0.0)],
    threshold: 1024.0,
};

/// Seconds since a replica was last connected; a restart takes about ten.
pub const REPLICA_GONE: Curve = Curve {
    name: "replica_gone",
    metric: "gone_seconds",
    points: &[(10.0, 1.0), (30.0, 0.7), (120.0, 0.4), (600.0, 0.0)],
    threshold: 30.0,
};

/// Seconds for which another server that holds partitions has not answered; every search through the root fails then, so
/// this begins as early as one lost answer can be told from a server that is gone.
pub const SERVER_GONE: Curve = Curve {
    name: "server_gone",
    metric: "unreachable_seconds",
    points: &[(5.0, 1.0), (15.0, 0.7), (30.0, 0.4), (60.0, 0.0)],
    threshold: 15.0,
};

/// Seconds for which a piece of maintenance has been waiting for a lock or for an old transaction.
pub const JOB_WAIT: Curve = Curve {
    name: "job_wait",
    metric: "waits_seconds",
    points: &[(15.0, 1.0), (60.0, 0.7), (600.0, 0.4), (7200.0, 0.0)],
    threshold: 60.0,
};

/// Seconds for which the oldest snapshot has been held.
pub const HELD_HORIZON: Curve = Curve {
    name: "held_horizon",
    metric: "held_seconds",
    points: &[(600.0, 1.0), (3600.0, 0.7), (21_600.0, 0.4), (172_800.0, 0.0)],
    threshold: 3600.0,
};

/// While all workers of autovacuum are busy: tables that wait for one ÷ workers. Otherwise 0.
pub const SLOTS_QUEUE: Curve = Curve {
    name: "slots_queue",
    metric: "waiting_per_worker",
    points: &[(0.0, 1.0), (1.0, 0.7), (4.0, 0.4), (20.0, 0.0)],
    threshold: 1.0,
};

/// Percent of the memory limit in use. The spec's threshold is 85 %.
pub const MEMORY: Curve = Curve {
    name: "memory",
    metric: "memory_pct",
    points: &[(70.0, 1.0), (85.0, 0.7), (95.0, 0.4), (100.0, 0.0)],
    threshold: 85.0,
};

/// Every curve.
pub const CURVES: &[Curve] = &[
    CONNECTIONS,
    DEAD,
    DRIFT_EXCESS,
    FRAGMENTATION,
    HELD_HORIZON,
    JOB_WAIT,
    LAG_BYTES,
    LAG_SECONDS,
    LOAD_RATIO,
    MEMORY,
    RECALL_SHORTFALL,
    REPLICA_GONE,
    SERVER_GONE,
    SKEW_EXCESS,
    SLOTS_QUEUE,
    WAITING,
];

/// Points that a site has set in place of some curves' own (setting `health_curves`), by the curve's name.
pub type CurveSettings = BTreeMap<String, Vec<(f64, f64)>>;

impl Curve {
    /// The curve of that name.
    pub fn find(name: &str) -> Option<&'static Curve> {
        CURVES.iter().find(|curve| curve.name == name)
    }

    /// Health at a value of the metric, by the curve's own points; a value that is not a number counts as the worst.
    pub fn at(&self, value: f64) -> f64 {
        interpolate(self.points, value)
    }

    /// The greatest value of the metric at which health is this at least, as the site has set the curve.
    pub fn value_at(&self, settings: &CurveSettings, health: f64) -> Option<f64> {
        let points = settings.get(self.name).map_or(self.points, Vec::as_slice);
        points.windows(2).rev().find(|pair| pair[0].1 >= health).map(|pair| {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            if y1 >= health { x1 } else { x0 + (x1 - x0) * (y0 - health) / (y0 - y1) }
        })
    }

    /// The curve of this metric.
    pub fn of_metric(metric: &str) -> Option<&'static Curve> {
        CURVES.iter().find(|curve| curve.metric == metric)
    }

    /// Health at a value of the metric as the site has set it.
    pub fn at_with(&self, settings: &CurveSettings, value: f64) -> f64 {
        settings.get(self.name).map_or_else(|| self.at(value), |points| interpolate(points, value))
    }
}

/// What is wrong with points that a site would set, None when nothing is: at least two, ascending in the metric,
/// descending in health, from 1 at the best to less than `stress_lambda` at the worst.
pub fn fault(points: &[(f64, f64)], stress_lambda: f64) -> Option<String> {
    if points.iter().any(|(x, y)| !x.is_finite() || !(0.0..=1.0).contains(y)) {
        return Some("each point is a finite value and a health from 0 to 1".to_owned());
    }
    if points.len() < 2 || points.windows(2).any(|pair| pair[0].0 >= pair[1].0 || pair[0].1 < pair[1].1) {
        return Some("at least two points, values ascending, health not rising".to_owned());
    }
    let (best, worst) = (points[0].1, points[points.len() - 1].1);
    if best < 1.0 || worst >= stress_lambda {
        return Some(format!("health begins at 1 and ends below stress_lambda ({stress_lambda})"));
    }
    None
}

fn interpolate(points: &[(f64, f64)], value: f64) -> f64 {
    let Some(&(first_x, first_y)) = points.first() else { return 1.0 };
    if value <= first_x {
        return first_y;
    }
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        if value <= x1 {
            // Rounding may go beyond the ends: a capacity must not be negative.
            return (y0 + (y1 - y0) * (value - x0) / (x1 - x0)).clamp(y1.min(y0), y0.max(y1));
        }
    }
    points.last().map_or(0.0, |&(_, y)| y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn rounding_takes_no_health_out_of_its_bounds() {
        for curve in CURVES {
            for pair in curve.points.windows(2) {
                let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
                let mut near = x1;
                for step in 0..5000 {
                    near = near.next_down();
                    let along = x0 + (x1 - x0) * f64::from(step) / 5000.0;
                    for value in [x1, near, along] {
                        let health = curve.at(value);
                        assert!((y1..=y0).contains(&health), "{} at {value:?}: {health:?}", curve.name);
                    }
                }
            }
        }
    }

    #[test]
    fn a_curve_is_found_by_its_name_and_the_bound_of_its_end_is_no_end() {
        for curve in CURVES {
            assert_eq!(Curve::find(curve.name).map(|found| found.name), Some(curve.name));
        }
        assert!(Curve::find("nobody").is_none());
        let points = |worst: f64| [(0.0, 1.0), (1.0, worst)];
        assert!(fault(&points(0.69), 0.7).is_none());
        assert!(fault(&points(0.7), 0.7).is_some(), "it never gets below");
        assert!(fault(&[(0.0, 0.9), (1.0, 0.1)], 0.7).is_some(), "it does not begin at 1");
        assert!(fault(&[(0.0, 1.0), (1.0, 0.5), (2.0, 0.5)], 0.7).is_none(), "it may stay");
    }

    #[test]
    fn each_threshold_is_the_boundary_of_stress() {
        let stress = Config::default().stress_lambda;
        for curve in CURVES {
            assert!((curve.at(curve.threshold) - stress).abs() < 1e-12, "{}", curve.name);
        }
    }

    #[test]
    fn curves_fall_from_one_to_zero() {
        for curve in CURVES {
            for pair in curve.points.windows(2) {
                assert!(pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1, "{}", curve.name);
            }
            assert_eq!(curve.at(f64::NEG_INFINITY), 1.0, "{}", curve.name);
            assert_eq!(curve.at(f64::INFINITY), 0.0, "{}", curve.name);
            assert_eq!(curve.at(f64::NAN), 0.0, "{}", curve.name);
        }
    }

    #[test]
    fn the_value_of_a_health_is_the_curve_backwards() {
        let own = CurveSettings::new();
        for curve in CURVES {
            for health in [0.75, 0.8, 0.5, 1.0] {
                let value = curve.value_at(&own, health).unwrap();
                assert!((curve.at(value) - health).abs() < 1e-9, "{} {health}", curve.name);
                assert!(curve.at(value + 1e-6) < health, "{} {health}: the greatest", curve.name);
            }
            assert_eq!(Curve::of_metric(curve.metric).map(|found| found.name), Some(curve.name));
        }
        let set = CurveSettings::from([("memory".to_owned(), vec![(50.0, 1.0), (60.0, 0.5), (70.0, 0.0)])]);
        assert_eq!(MEMORY.value_at(&set, 0.5), Some(60.0));
        assert_eq!(MEMORY.value_at(&set, 0.75), Some(55.0));
        // One that leaves something at its worst never falls below it.
        let mild = CurveSettings::from([("memory".to_owned(), vec![(50.0, 1.0), (60.0, 0.5)])]);
        assert_eq!(MEMORY.value_at(&mild, 0.4), Some(60.0));
    }

    #[test]
    fn points_that_make_no_curve_are_refused() {
        assert_eq!(fault(&[(1.0, 1.0), (2.0, 0.5)], 0.7), None);
        for points in [
            &[(1.0, 1.0)][..],
            &[(2.0, 1.0), (1.0, 0.5)],
            &[(1.0, 0.5), (2.0, 1.0)],
            &[(1.0, 0.9), (2.0, 0.5)],
            &[(1.0, 1.0), (2.0, 0.7)],
            &[(1.0, 1.1), (2.0, 0.5)],
            &[(f64::NAN, 1.0), (2.0, 0.5)],
        ] {
            assert!(fault(points, 0.7).is_some(), "{points:?}");
        }
    }

    #[test]
    fn values_between_points_by_hand() {
        // Half way from 30 % (0.7) to 60 % (0.4).
        assert!((FRAGMENTATION.at(45.0) - 0.55).abs() < 1e-12);
        // A quarter of the way from 2 (0.7) to 4 (0.4).
        assert!((SKEW_EXCESS.at(2.5) - 0.625).abs() < 1e-12);
        // 0.6 x the objective: critical begins here.
        assert!((RECALL_SHORTFALL.at(0.4) - 0.4).abs() < 1e-12);
        assert!((DRIFT_EXCESS.at(0.75) - 0.85).abs() < 1e-12);
    }

    #[test]
    fn a_surplus_invalid_index_is_stress_and_never_critical() {
        let config = Config::default();
        assert!(INVALID_SURPLUS < config.stress_lambda && INVALID_SURPLUS >= config.critical_lambda);
        assert!(INVALID < config.critical_lambda);
    }
}
