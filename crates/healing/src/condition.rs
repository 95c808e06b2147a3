//! How well a node is, from the readings of a snapshot: the worst of its metrics, with its interval and cause.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::health::{self, Curve};
use crate::snapshot::{
    Horizon, Index, IvfHealth, Job, Memory, Method, Partition, Reading, Replica, Server, Slots,
};

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
    /// The partition takes far more load than the others of its server.
    Load,
    /// Sessions wait for locks on the partition.
    Waits,
    /// The server has hardly any connections left.
    Connections,
    /// The server does not answer.
    Unreachable,
    /// The replica is behind.
    Lag,
    /// The replica has vanished.
    Gone,
    /// A piece of maintenance waits.
    Blocked,
    /// An old snapshot keeps dead rows from being removed.
    Horizon,
    /// All workers of autovacuum are busy and tables wait for one.
    Slots,
    /// Memory runs out.
    Memory,
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
            Cause::Load => "load",
            Cause::Waits => "waits",
            Cause::Connections => "connections",
            Cause::Unreachable => "unreachable",
            Cause::Lag => "lag",
            Cause::Gone => "gone",
            Cause::Blocked => "blocked",
            Cause::Horizon => "horizon",
            Cause::Slots => "slots",
            Cause::Memory => "memory",
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
    fn of(config: &Config, curve: &Curve, cause: Cause, value: f64, worse: f64, better: f64) -> Self {
        let at = |value| curve.at_with(&config.health_curves, value);
        let health = at(value);
        Self {
            health,
            low: at(worse).min(health),
            high: at(better).max(health),
            cause: (health < 1.0).then_some(cause),
            metric: Some(curve.metric.to_owned()),
            value: Some(value),
            unread: vec![],
        }
    }

    /// One metric that is read as it is.
    fn exactly(config: &Config, curve: &Curve, cause: Cause, value: f64) -> Self {
        Self::of(config, curve, cause, value, value, value)
    }

    /// One metric that was read or not.
    fn read(config: &Config, curve: &Curve, cause: Cause, reading: &Reading<f64>) -> Self {
        match reading {
            Reading::Known(value) => Self::exactly(config, curve, cause, *value),
            Reading::Unknown(reason) => Self::unread(curve.metric, reason),
        }
    }

    pub(crate) fn unread(metric: &str, reason: &str) -> Self {
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
        Ok(pct) => Condition::exactly(config, &health::FRAGMENTATION, Cause::Bloat, pct),
        Err(reason) => Condition::unread(health::FRAGMENTATION.metric, &reason),
    };
    // Unread dead entries need no interval: their bytes are in the fragmentation.
    if let Reading::Known(share) = index.dead_share {
        let pct = 100.0 * share;
        let dead = Condition::exactly(config, &health::DEAD, Cause::Dead, pct);
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
            Condition::of(config, &health::RECALL_SHORTFALL, Cause::Recall, proven, worse, proven)
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
        Ok(excess) => Condition::exactly(config, &health::DRIFT_EXCESS, Cause::Drift, excess),
        Err(reason) => Condition::unread(health::DRIFT_EXCESS.metric, &reason),
    };
    let bad = drift.value.is_some_and(|excess| excess > health::DRIFT_EXCESS.threshold);
    let whole = whole.worse(drift);
    // Uneven lists are no fault in themselves; where the lists are bad, the longest are the worst of them.
    let skew = |skew_factor: f64| match skew_excess(skew_factor, ivf) {
        Ok(excess) if bad => Condition::exactly(config, &health::SKEW_EXCESS, Cause::Skew, excess),
        _ => Condition::healthy(),
    };
    ivf.groups.iter().map(|group| whole.clone().worse(skew(group.skew_factor))).collect()
}

/// What weakens a partition's `routing_link`: limits that are absolute, its own and its server's.
pub(crate) fn headroom_condition(
    partition: &Partition,
    server: Option<&Server>,
    config: &Config,
) -> Condition {
    let waits = partition
        .waiting
        .as_ref()
        .map(|waiting| Condition::read(config, &health::WAITING, Cause::Waits, waiting));
    let connections = server.map(|server| {
        Condition::read(config, &health::CONNECTIONS, Cause::Connections, &server.connections_pct)
    });
    let unreachable = server
        .and_then(|server| server.unreachable_s)
        .map(|seconds| Condition::exactly(config, &health::SERVER_GONE, Cause::Unreachable, seconds));
    [waits, connections, unreachable].into_iter().flatten().fold(Condition::healthy(), Condition::worse)
}

/// What weakens a partition's `partition_link`s: its load against the others' of its server, one of so many. The
/// links carry `1 − 1/n` of what holds the partition, so that they are weakened by more than the curve says: the
/// partition as a whole then hangs on by just that, as far as it hangs on by its links.
pub(crate) fn load_condition(
    ratio: &Result<f64, String>,
    usual: Option<f64>,
    partitions: usize,
    config: &Config,
) -> Condition {
    let ratio = match ratio {
        Ok(ratio) => ratio / usual.unwrap_or(1.0).max(1.0),
        Err(reason) => return Condition::unread(health::LOAD_RATIO.metric, reason),
    };
    let mut condition = Condition::exactly(config, &health::LOAD_RATIO, Cause::Load, ratio);
    let routed = 1.0 / partitions.max(2) as f64;
    let of_links = |health: f64| ((health - routed) / (1.0 - routed)).max(0.0);
    condition.health = of_links(condition.health);
    condition.low = of_links(condition.low);
    condition.high = of_links(condition.high);
    condition
}

/// What weakens `replication`.
pub(crate) fn replica_condition(replica: &Replica, config: &Config) -> Condition {
    if let Some(gone_s) = replica.gone_s {
        return Condition::exactly(config, &health::REPLICA_GONE, Cause::Gone, gone_s);
    }
    let seconds = Condition::read(config, &health::LAG_SECONDS, Cause::Lag, &replica.lag_seconds);
    let mib = match &replica.lag_bytes {
        Reading::Known(bytes) => Reading::Known(bytes / f64::from(1 << 20)),
        Reading::Unknown(reason) => Reading::Unknown(reason.clone()),
    };
    seconds.worse(Condition::read(config, &health::LAG_BYTES, Cause::Lag, &mib))
}

/// What weakens a job's `dependency` edges.
pub(crate) fn job_condition(job: &Job, config: &Config) -> Condition {
    Condition::exactly(config, &health::JOB_WAIT, Cause::Blocked, job.waits_s.unwrap_or(0.0))
}

/// What weakens the `dependency` edges of the cleaning up of dead rows, whoever does it.
pub(crate) fn horizon_condition(horizon: &Reading<Horizon>, config: &Config) -> Condition {
    match horizon {
        Reading::Known(Horizon { held_s, .. }) => {
            Condition::exactly(config, &health::HELD_HORIZON, Cause::Horizon, *held_s)
        }
        Reading::Unknown(reason) => Condition::unread(health::HELD_HORIZON.metric, reason),
    }
}

/// What weakens the `resource_link` to the workers of autovacuum. Busy ones alone do not: that is what they are for.
pub(crate) fn slots_condition(slots: &Reading<Slots>, config: &Config) -> Condition {
    match slots {
        Reading::Known(Slots { busy, total, waiting }) => {
            let queue = if busy >= total { f64::from(*waiting) / f64::from((*total).max(1)) } else { 0.0 };
            Condition::exactly(config, &health::SLOTS_QUEUE, Cause::Slots, queue)
        }
        Reading::Unknown(reason) => Condition::unread(health::SLOTS_QUEUE.metric, reason),
    }
}

/// What weakens the `resource_link` to memory.
pub(crate) fn memory_condition(memory: &Reading<Memory>, config: &Config) -> Condition {
    match memory {
        Reading::Known(Memory { used_pct, .. }) => {
            Condition::exactly(config, &health::MEMORY, Cause::Memory, *used_pct)
        }
        Reading::Unknown(reason) => Condition::unread(health::MEMORY.metric, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{drift, ivf, recall, replica, snapshot};

    #[test]
    fn of_two_that_are_as_bad_the_measured_one_is_told() {
        let bare = |health| Condition { health, ..Condition::healthy() };
        let measured = |health| Condition { metric: Some("lag_seconds".to_owned()), ..bare(health) };
        assert!(bare(1.0).worse(measured(1.0)).is_measured());
        assert!(measured(1.0).worse(bare(1.0)).is_measured());
        let worst = bare(0.5).worse(measured(1.0));
        assert_eq!(
            (worst.health, worst.is_measured()),
            (0.5, false),
            "what is worse counts, measured or not"
        );
        assert_eq!(measured(1.0).worse(bare(0.5)).health, 0.5);
    }

    #[test]
    fn of_recall_only_what_is_proven_counts_and_the_worst_is_said() {
        let config = Config::default();
        let mut seen = snapshot(1, 0, 1);
        let point = crate::snapshot::RecallPoint { recall_ci: 0.1, ..recall(1, 0.75) };
        seen.indexes[0].recall = Reading::Known(point);
        let found = recall_condition(&seen.indexes[0], &config);
        let health = |recall: f64| health::RECALL_SHORTFALL.at(1.0 - recall / config.recall_objective);
        assert!((found.health - health(0.85)).abs() < 1e-12);
        assert!((found.low - health(0.65)).abs() < 1e-12);
        assert!((found.high - health(0.85)).abs() < 1e-12);
    }

    #[test]
    fn lists_that_are_as_far_as_is_allowed_are_not_bad_and_an_index_without_groups_is_one() {
        let config = Config::default();
        let mut seen = snapshot(1, 4, 0);
        for group in &mut ivf(&mut seen.indexes[0]).groups {
            group.skew_factor = 8.0;
        }
        drift(&mut seen.indexes[0], 1.2);
        let excess = drift_excess(seen.indexes[0].ivf.known().unwrap()).unwrap();
        assert!(excess > health::DRIFT_EXCESS.threshold);
        let cause = |index: &Index| centroid_conditions(index, &config)[0].cause;
        assert_eq!(cause(&seen.indexes[0]), Some(Cause::Skew));
        // The greatest drift that is no fault yet.
        let (mut low, mut high) = (1.0, 1.2);
        for _ in 0..200 {
            let middle = f64::midpoint(low, high);
            drift(&mut seen.indexes[0], middle);
            let excess = drift_excess(seen.indexes[0].ivf.known().unwrap()).unwrap();
            if excess > health::DRIFT_EXCESS.threshold { high = middle } else { low = middle }
        }
        drift(&mut seen.indexes[0], low);
        assert_ne!(cause(&seen.indexes[0]), Some(Cause::Skew));
        ivf(&mut seen.indexes[0]).groups.clear();
        assert_eq!(centroid_conditions(&seen.indexes[0], &config).len(), 1);
    }

    #[test]
    fn a_lag_in_bytes_is_read_in_mib_and_a_queue_for_each_worker() {
        let config = Config::default();
        let mut behind = replica(1);
        behind.lag_bytes = Reading::Known(10.0 * f64::from(1 << 30));
        let found = replica_condition(&behind, &config);
        assert_eq!((found.metric.as_deref(), found.value), (Some(health::LAG_BYTES.metric), Some(10_240.0)));
        let queue = |busy, waiting| {
            slots_condition(&Reading::Known(Slots { busy, total: 3, waiting }), &config).value
        };
        assert_eq!((queue(3, 6), queue(2, 6)), (Some(2.0), Some(0.0)));
    }
}
