//! From a weak component to the problem: the spec's patterns, thresholds and order, held against the evidence.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::graph::{Cause, EdgeKind, NodeKey, fragmentation_pct, skew_excess};
use crate::health::{DEAD, FRAGMENTATION, GOOD_SKEW_EXCESS_MAX, GOOD_WORK_RATIO_MAX};
use crate::integrity::{Assessment, Component, WitnessEdge};
use crate::snapshot::{Index, Method, Oid, Snapshot};

/// The spec's class names, in the order of its enum.
pub const CLASS_NAMES: &[&str] = &[
    "HotspotCongestion",
    "CentroidSkew",
    "ReplicationLag",
    "MaintenanceContention",
    "IndexFragmentation",
    "MemoryPressure",
    "Unknown",
];

/// The spec's pattern: more partition links than this are a hotspot.
const PARTITION_LINKS_OVER: usize = 3;
/// The spec's pattern: more centroid nodes than this are a skew.
const CENTROID_NODES_OVER: usize = 5;

/// What the structure of an index says about a low recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// Every structural metric was read and is above the threshold of its class: rebuilding would not help.
    Good,
    /// A structural metric is at or beyond its threshold.
    Bad,
    /// A structural metric was not read and none is bad.
    Unknown,
}

/// The spec's problem classes, OIDs beside names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ProblemClass {
    /// Hot partition overloaded.
    HotspotCongestion {
        /// OIDs of the hot partitions.
        partition_ids: Vec<Oid>,
        /// Their names.
        partitions: Vec<String>,
        /// Load of the hottest ÷ mean of the others.
        load_ratio: f64,
    },
    /// The lists of an ivfflat index do not fit its rows, or too few of them are searched.
    CentroidSkew {
        /// OID of the index.
        index_id: Oid,
        /// Its name.
        index: String,
        /// Numbers of the lists on the weak side.
        centroid_ids: Vec<u32>,
        /// Largest ÷ mean list length in the sample; None when not read.
        skew_factor: Option<f64>,
        /// 99 % bound of that figure by sampling noise alone.
        skew_noise: Option<f64>,
        /// Rows that a search must look at ÷ those of fresh lists.
        work_ratio: Option<f64>,
        /// Recall@k at the present search effort.
        recall: Option<f64>,
        /// The collection's objective for it.
        objective: f64,
        /// Why the edges are weak.
        cause: Cause,
        /// Whether the lists themselves are at fault.
        structure: Structure,
    },
    /// A replica is behind.
    ReplicationLag {
        /// Numbers that we keep for them.
        replica_ids: Vec<i64>,
        /// Their application names.
        replicas: Vec<String>,
        /// Greatest replay lag, seconds; an idle primary reads 0.
        lag_seconds: f64,
    },
    /// Maintenance jobs are in each other's way.
    MaintenanceContention {
        /// Their types.
        job_types: Vec<String>,
        /// Jobs that wait.
        queue_depth: u32,
    },
    /// An index is invalid, larger than its rows need, full of dead entries, or (hnsw) finds too little.
    IndexFragmentation {
        /// OIDs of the indexes, most fragmented first.
        index_ids: Vec<Oid>,
        /// Their names.
        indexes: Vec<String>,
        /// 100 × (1 − bytes of a clean build ÷ bytes now) of the worst; an invalid index counts as 100.
        fragmentation_pct: f64,
        /// Why the edge is weak.
        cause: Cause,
        /// Recall@k at the present search effort, of the worst.
        recall: Option<f64>,
        /// The collection's objective for it.
        objective: f64,
        /// Whether the index's structure is at fault.
        structure: Structure,
    },
    /// Memory runs out.
    MemoryPressure {
        /// Percent of the limit in use.
        current_usage_pct: f64,
        /// Names and bytes, largest first.
        largest_consumers: Vec<(String, u64)>,
    },
    /// Needs a human.
    Unknown {
        /// The witness in words, with what the pattern and what the evidence says.
        witness_summary: String,
    },
}

impl ProblemClass {
    /// The spec's name.
    pub fn as_str(&self) -> &'static str {
        match self {
            ProblemClass::HotspotCongestion { .. } => "HotspotCongestion",
            ProblemClass::CentroidSkew { .. } => "CentroidSkew",
            ProblemClass::ReplicationLag { .. } => "ReplicationLag",
            ProblemClass::MaintenanceContention { .. } => "MaintenanceContention",
            ProblemClass::IndexFragmentation { .. } => "IndexFragmentation",
            ProblemClass::MemoryPressure { .. } => "MemoryPressure",
            ProblemClass::Unknown { .. } => "Unknown",
        }
    }
}

/// A classified component with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What it is.
    pub class: ProblemClass,
    /// Where it is, and how weak.
    pub component: Component,
    /// The readings that say so, each in words.
    pub evidence: Vec<String>,
}

impl Problem {
    /// What `problem_details` holds: the class's fields, λ of the component, and the evidence.
    pub fn details(&self) -> Value {
        // Externally tagged: one key, the class, with the fields below it.
        let mut fields = match serde_json::to_value(&self.class) {
            Ok(Value::Object(tagged)) => match tagged.into_iter().next() {
                Some((_, Value::Object(fields))) => fields,
                _ => serde_json::Map::new(),
            },
            _ => serde_json::Map::new(),
        };
        if let ProblemClass::CentroidSkew { structure, .. }
        | ProblemClass::IndexFragmentation { structure, .. } = self.class
        {
            fields.insert("structure_good".to_owned(), json!(structure == Structure::Good));
        }
        fields.insert("lambda".to_owned(), json!(self.component.lambda));
        fields.insert("evidence".to_owned(), json!(self.evidence));
        Value::Object(fields)
    }
}

/// Classifies every weak component, weakest first. Indexes that are all bloated or full of dead entries become one
/// problem, most fragmented first, since one remedy treats them in that order.
pub fn diagnose(assessment: &Assessment, snapshot: &Snapshot, config: &Config) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for component in &assessment.components {
        let problem = classify(component, snapshot, config);
        match problems.iter_mut().find(|before| is_bloat(before) && is_bloat(&problem)) {
            Some(before) => merge_bloat(before, problem),
            None => problems.push(problem),
        }
    }
    problems
}

fn is_bloat(problem: &Problem) -> bool {
    matches!(problem.class, ProblemClass::IndexFragmentation { cause: Cause::Bloat | Cause::Dead, .. })
}

fn merge_bloat(into: &mut Problem, other: Problem) {
    if let (
        ProblemClass::IndexFragmentation { index_ids, indexes, .. },
        ProblemClass::IndexFragmentation { index_ids: more_ids, indexes: more, .. },
    ) = (&mut into.class, other.class)
    {
        index_ids.extend(more_ids);
        indexes.extend(more);
        into.component.nodes.extend(other.component.nodes);
        into.component.witness.extend(other.component.witness);
        into.evidence.extend(other.evidence);
    }
}

/// Classifies one component.
pub fn classify(component: &Component, snapshot: &Snapshot, config: &Config) -> Problem {
    let evidence = evidence(&component.witness);
    let pattern = pattern(component, snapshot);
    let class = match (pattern, worst(&component.witness)) {
        (Some("CentroidSkew"), Some(edge)) if edge.kind != EdgeKind::IndexLink => {
            centroid_skew(component, edge, snapshot, config)
        }
        (Some("IndexFragmentation"), Some(edge)) if edge.kind == EdgeKind::IndexLink => {
            index_fragmentation(edge, snapshot, config)
        }
        _ => None,
    };
    let class = class.unwrap_or_else(|| ProblemClass::Unknown {
        witness_summary: format!(
            "{}; the pattern of the edges says {}; the readings on them say {}",
            summary(&component.witness),
            pattern.unwrap_or("nothing"),
            worst(&component.witness)
                .and_then(|edge| edge.condition.cause)
                .map_or_else(|| "nothing".to_owned(), |cause| format!("\"{}\"", cause.as_str())),
        ),
    });
    Problem { class, component: component.clone(), evidence }
}

/// The spec's rules in their order. Where the collection is too small to have that many edges or nodes, all of the
/// weak side's suffice; fragmentation needs an index link in the witness.
fn pattern(component: &Component, snapshot: &Snapshot) -> Option<&'static str> {
    let count = |kind: EdgeKind| component.witness.iter().filter(|edge| edge.kind == kind).count();
    let partition_links = count(EdgeKind::PartitionLink);
    // With P partitions each has P − 1 links at most.
    let small = snapshot.partitions.len() <= PARTITION_LINKS_OVER + 1;
    if partition_links > PARTITION_LINKS_OVER || small && partition_links > 0 {
        return Some("HotspotCongestion");
    }
    let mut centroids: Vec<&NodeKey> = component
        .witness
        .iter()
        .flat_map(|edge| [&edge.from, &edge.to])
        .filter(|key| matches!(key, NodeKey::Centroid { .. }))
        .collect();
    centroids.sort();
    centroids.dedup();
    let all = component.nodes.iter().find_map(|key| match key {
        NodeKey::Centroid { .. } => find_index(snapshot, key),
        _ => None,
    });
    let groups = all.and_then(|index| index.ivf.known()).map_or(1, |ivf| ivf.groups.len());
    if centroids.len() > CENTROID_NODES_OVER
        || all.is_some() && groups <= CENTROID_NODES_OVER && !centroids.is_empty()
    {
        return Some("CentroidSkew");
    }
    (count(EdgeKind::IndexLink) > 0).then_some("IndexFragmentation")
}

/// The edge with a cause that is weakest.
fn worst(witness: &[WitnessEdge]) -> Option<&WitnessEdge> {
    witness
        .iter()
        .filter(|edge| edge.condition.cause.is_some())
        .min_by(|a, b| a.condition.health.total_cmp(&b.condition.health))
}

/// The index that a node belongs to.
pub(crate) fn find_index<'a>(snapshot: &'a Snapshot, key: &NodeKey) -> Option<&'a Index> {
    match key {
        NodeKey::Index { partition, index } | NodeKey::Centroid { partition, index, .. } => {
            snapshot.indexes.iter().find(|i| i.partition == *partition && i.name == *index)
        }
        NodeKey::Core | NodeKey::Partition { .. } => None,
    }
}

fn centroid_skew(
    component: &Component,
    edge: &WitnessEdge,
    snapshot: &Snapshot,
    config: &Config,
) -> Option<ProblemClass> {
    let index = [&edge.to, &edge.from].into_iter().find_map(|key| find_index(snapshot, key))?;
    let groups: Vec<u32> = component
        .nodes
        .iter()
        .filter_map(|key| match key {
            NodeKey::Centroid { group, .. } => Some(*group),
            _ => None,
        })
        .collect();
    Some(centroid_skew_of(index, edge.condition.cause?, &groups, config))
}

/// The class for an ivfflat index; an empty list of groups stands for all.
pub(crate) fn centroid_skew_of(index: &Index, cause: Cause, groups: &[u32], config: &Config) -> ProblemClass {
    let ivf = index.ivf.known();
    let mut centroid_ids: Vec<u32> = ivf
        .map(|ivf| {
            (0u32..)
                .zip(&ivf.groups)
                .filter(|(number, _)| groups.is_empty() || groups.contains(number))
                .flat_map(|(_, group)| group.lists.iter().copied())
                .collect()
        })
        .unwrap_or_default();
    centroid_ids.sort_unstable();
    ProblemClass::CentroidSkew {
        index_id: index.oid,
        index: index.name.clone(),
        centroid_ids,
        skew_factor: ivf.map(|ivf| ivf.skew_factor),
        skew_noise: ivf.map(|ivf| ivf.skew_noise),
        work_ratio: ivf.and_then(|ivf| ivf.work_ratio.known().copied()),
        recall: index.recall.known().map(|point| point.recall),
        objective: config.recall_objective,
        cause,
        structure: structure(index, config),
    }
}

fn index_fragmentation(edge: &WitnessEdge, snapshot: &Snapshot, config: &Config) -> Option<ProblemClass> {
    let index = [&edge.to, &edge.from].into_iter().find_map(|key| find_index(snapshot, key))?;
    Some(index_fragmentation_of(&[index], edge.condition.cause?, config))
}

/// The class for these indexes, the worst first.
pub(crate) fn index_fragmentation_of(indexes: &[&Index], cause: Cause, config: &Config) -> ProblemClass {
    let worst = indexes.first();
    ProblemClass::IndexFragmentation {
        index_ids: indexes.iter().map(|index| index.oid).collect(),
        indexes: indexes.iter().map(|index| index.name.clone()).collect(),
        fragmentation_pct: match (cause, worst) {
            (Cause::Invalid, _) => 100.0,
            (_, Some(index)) => fragmentation_pct(index).unwrap_or(0.0),
            (_, None) => 0.0,
        },
        cause,
        recall: worst.and_then(|index| index.recall.known()).map(|point| point.recall),
        objective: config.recall_objective,
        structure: worst.map_or(Structure::Unknown, |index| structure(index, config)),
    }
}

/// Whether the index itself is at fault, whatever its recall.
pub fn structure(index: &Index, config: &Config) -> Structure {
    if !index.valid {
        return Structure::Bad;
    }
    // Each metric: whether it is good, None where it was not read.
    let metrics: Vec<Option<bool>> = match index.method {
        // Of an ivfflat index only the lists decide how much a search finds.
        Method::Ivfflat => {
            let ivf = index.ivf.known();
            let excess = ivf.and_then(|ivf| skew_excess(ivf.skew_factor, ivf).ok());
            let ratio = ivf.and_then(|ivf| ivf.work_ratio.known());
            vec![excess.map(|x| x <= GOOD_SKEW_EXCESS_MAX), ratio.map(|x| *x <= GOOD_WORK_RATIO_MAX)]
        }
        Method::Hnsw => {
            let pct = fragmentation_pct(index).ok();
            let dead = index.dead_share.known();
            let mut metrics = vec![pct.map(|pct| FRAGMENTATION.at(pct) >= config.stress_lambda)];
            // Dead entries that were not counted are in the bytes.
            metrics.extend(dead.map(|share| Some(DEAD.at(100.0 * share) >= config.stress_lambda)));
            metrics
        }
    };
    if metrics.contains(&Some(false)) {
        Structure::Bad
    } else if metrics.contains(&None) {
        Structure::Unknown
    } else {
        Structure::Good
    }
}

/// Each reading on the witness once, worst first.
fn evidence(witness: &[WitnessEdge]) -> Vec<String> {
    let mut lines: Vec<(f64, String)> = witness
        .iter()
        .filter_map(|edge| {
            let condition = &edge.condition;
            let (metric, value) = (condition.metric.as_ref()?, condition.value?);
            let cause = condition.cause?;
            let node = if matches!(edge.to, NodeKey::Core | NodeKey::Partition { .. }) {
                &edge.from_name
            } else {
                &edge.to_name
            };
            Some((
                condition.health,
                format!("{node}: {metric} = {value:.3} ({}), health {:.2}", cause.as_str(), condition.health),
            ))
        })
        .collect();
    lines.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    lines.dedup_by(|a, b| a.1 == b.1);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// The witness by edge types, in words.
fn summary(witness: &[WitnessEdge]) -> String {
    let mut parts = Vec::new();
    for kind in [EdgeKind::RoutingLink, EdgeKind::PartitionLink, EdgeKind::CentroidLink, EdgeKind::IndexLink]
    {
        let edges: Vec<&WitnessEdge> = witness.iter().filter(|edge| edge.kind == kind).collect();
        if let Some(first) = edges.first() {
            parts.push(format!("{} {} (to {})", edges.len(), kind.as_str(), first.to_name));
        }
    }
    if parts.is_empty() { "no edge".to_owned() } else { parts.join(", ") }
}
