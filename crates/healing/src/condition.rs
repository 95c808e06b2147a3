//! How well a node is, from the readings of a snapshot: the worst of its metrics, with its interval and cause.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::health::{self, Curve};
use crate::snapshot::{Index, IvfHealth, Method, Reading};

/// Why an edge is weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The index is not valid: no search uses it.
    Invalid,
    /// The index is larger than a clean build would be.
    Bloat,
    /// Many entries of the index lead to dead rows.
    Dead,
    /// Searches find too few of the true neighbours.
    Recall,
    /// Some lists hold far more rows than the mean.
    Skew,
    /// The lists no longer fit the rows: a search must look at more rows than with fresh lists.
    Drift,
}

impl Cause {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Invalid => "invalid",
            Cause::Bloat => "bloat",
            Cause::Dead => "dead",
            Cause::Recall => "recall",
            Cause::Skew => "skew",
            Cause::Drift => "drift",
        }
    }
}

/// How well one node is, by its worst metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// Health that the readings prove, 0–1: a metric that was not read takes nothing away here.
    pub health: f64,
    /// Health if every unread metric were at its worst and every estimate at the worse end of its interval.
    pub low: f64,
    /// Health if every estimate were at the better end of its interval.
    pub high: f64,
    /// Why it is weakened; None while health is 1.
    pub cause: Option<Cause>,
    /// Name of the worst metric; None when the node has none, or none was read.
    pub metric: Option<String>,
    /// Its value.
    pub value: Option<f64>,
    /// Metrics that were not read, each with the reason.
    pub unread: Vec<String>,
}

impl Condition {
    /// A node without metrics, or one whose metrics are held healthy.
    pub fn healthy() -> Self {
        Self { health: 1.0, low: 1.0, high: 1.0, cause: None, metric: None, value: None, unread: vec![] }
    }

    /// One metric: the value that the readings prove, and the worse and better end of its interval.
    fn of(curve: &Curve, cause: Cause, value: f64, worse: f64, better: f64) -> Self {
        let health = curve.at(value);
        Self {
            health,
            low: curve.at(worse).min(health),
            high: curve.at(better).max(health),
            cause: (health < 1.0).then_some(cause),
            metric: Some(curve.metric.to_owned()),
            value: Some(value),
            unread: vec![],
        }
    }

    fn unread(metric: &str, reason: &str) -> Self {
        Self { low: 0.0, unread: vec![format!("{metric}: {reason}")], ..Self::healthy() }
    }

    /// Whether a metric was read or expected.
    pub(crate) fn is_measured(&self) -> bool {
        self.metric.is_some()
    }

    /// The worse of both; of equals the first that has a metric.
    pub(crate) fn worse(self, other: Self) -> Self {
        let low = self.low.min(other.low);
        let high = self.high.min(other.high);
        let (mut worst, rest) =
            if other.health < self.health || !self.is_measured() && other.health <= self.health {
                (other, self)
            } else {
                (self, other)
            };
        worst.low = low;
        worst.high = high;
        worst.unread.extend(rest.unread);
        worst
    }
}

/// What weakens the `index_link`.
pub(crate) fn index_condition(index: &Index, config: &Config) -> Condition {
    if index.building {
        return Condition::healthy();
    }
    if !index.valid {
        let health = if index.equal_valid.is_some() { health::INVALID_SURPLUS } else { health::INVALID };
        return Condition {
            health,
            low: health,
            high: health,
            cause: Some(Cause::Invalid),
            metric: Some("valid".to_owned()),
            value: Some(0.0),
            unread: vec![],
        };
    }
    let mut condition = match fragmentation_pct(index) {
        Ok(pct) => Condition::of(&health::FRAGMENTATION, Cause::Bloat, pct, pct, pct),
        Err(reason) => Condition::unread(health::FRAGMENTATION.metric, &reason),
    };
    // Unread dead entries need no interval: their bytes are in the fragmentation.
    if let Reading::Known(share) = index.dead_share {
        let pct = 100.0 * share;
        let dead = Condition::of(&health::DEAD, Cause::Dead, pct, pct, pct);
        // Of equals the dead entries are named: they are the cause of the bytes.
        condition = dead.worse(condition);
    }
    if index.method == Method::Hnsw {
        condition = condition.worse(recall_condition(index, config));
    }
    condition
}

/// 100 × (1 − bytes of a clean build ÷ bytes now), never below 0; or why it is not known.
///
/// # Errors
/// The reason, when a size was not read.
pub fn fragmentation_pct(index: &Index) -> Result<f64, String> {
    match (&index.bytes, &index.clean_bytes) {
        (Reading::Known(0), Reading::Known(_)) => Ok(0.0),
        (Reading::Known(bytes), Reading::Known(clean)) => {
            Ok((100.0 * (1.0 - *clean as f64 / *bytes as f64)).max(0.0))
        }
        (Reading::Unknown(reason), _) | (_, Reading::Unknown(reason)) => Err(reason.clone()),
    }
}

/// Recall against the objective. The upper end of the confidence interval is what is held against the index:
/// weaker evidence weakens nothing.
fn recall_condition(index: &Index, config: &Config) -> Condition {
    match &index.recall {
        Reading::Known(point) => {
            let shortfall = |recall: f64| 1.0 - recall.clamp(0.0, 1.0) / config.recall_objective;
            let proven = shortfall(point.recall + point.recall_ci);
            let worse = shortfall(point.recall - point.recall_ci);
            Condition::of(&health::RECALL_SHORTFALL, Cause::Recall, proven, worse, proven)
        }
        Reading::Unknown(reason) => Condition::unread(health::RECALL_SHORTFALL.metric, reason),
    }
}

/// A list's length against what sampling noise and a fresh k-means would show.
///
/// # Errors
/// The reason, when no fresh k-means was made: real rows lie in clumps, so that the best of lists are uneven, and
/// sampling noise alone is no yardstick (measured: 400 lists as good as new read 1.9 times the noise bound).
pub fn skew_excess(skew_factor: f64, ivf: &IvfHealth) -> Result<f64, String> {
    match &ivf.skew_fresh {
        Reading::Known(fresh) => Ok(skew_factor / ivf.skew_noise.max(*fresh).max(1.0)),
        Reading::Unknown(reason) => Err(reason.clone()),
    }
}

/// How far the lists are from fresh ones, see [`health::drift_excess`].
///
/// # Errors
/// The reason, when they were not held against fresh ones.
pub fn drift_excess(ivf: &IvfHealth) -> Result<f64, String> {
    match (&ivf.distance_ratio, &ivf.work_ratio) {
        (Reading::Known(distance), Reading::Known(work)) => Ok(health::drift_excess(*distance, *work)),
        (Reading::Unknown(reason), _) | (_, Reading::Unknown(reason)) => Err(reason.clone()),
    }
}

/// What weakens each centroid group, by number: the worst of the index's recall and drift, and, where the lists are
/// bad, the group's own skew.
/// An index whose lists were not read has one group.
pub(crate) fn centroid_conditions(index: &Index, config: &Config) -> Vec<Condition> {
    let whole = recall_condition(index, config);
    let ivf = match &index.ivf {
        Reading::Known(ivf) if !ivf.groups.is_empty() => ivf,
        Reading::Known(_) => return vec![whole],
        Reading::Unknown(reason) => return vec![Condition::unread("ivf", reason).worse(whole)],
    };
    let drift = match drift_excess(ivf) {
        Ok(excess) => Condition::of(&health::DRIFT_EXCESS, Cause::Drift, excess, excess, excess),
        Err(reason) => Condition::unread(health::DRIFT_EXCESS.metric, &reason),
    };
    let bad = drift.value.is_some_and(|excess| excess > health::DRIFT_EXCESS.threshold);
    let whole = whole.worse(drift);
    // Uneven lists are no fault in themselves; where the lists are bad, the longest are the worst of them.
    let skew = |skew_factor: f64| match skew_excess(skew_factor, ivf) {
        Ok(excess) if bad => Condition::of(&health::SKEW_EXCESS, Cause::Skew, excess, excess, excess),
        _ => Condition::healthy(),
    };
    ivf.groups.iter().map(|group| whole.clone().worse(skew(group.skew_factor))).collect()
}
