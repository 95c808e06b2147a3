//! From a weak component to the problem: the spec's patterns, thresholds and order, held against the evidence. One file a class.

mod contention;
mod fragmentation;
mod hotspot;
mod lag;
mod memory;
mod skew;
mod structure;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::graph::{Cause, EdgeKind, NodeKey};
use crate::integrity::{Assessment, Component, WitnessEdge};
use crate::plan::Part;
use crate::snapshot::{Index, Oid, Snapshot};

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

pub(crate) use fragmentation::index_fragmentation_of;
pub(crate) use skew::centroid_skew_of;
pub use structure::{Structure, structure};

/// The spec's problem classes, OIDs beside names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ProblemClass {
    /// Hot partition overloaded.
    HotspotCongestion {
        /// OIDs of the hot partitions.
        partition_ids: Vec<Oid>,
        /// Their names.
        partitions: Vec<String>,
        /// Load of the hottest ÷ mean of the others of its server, or of the server's partitions ÷ those of others.
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
        /// Mean distance to the nearest centre ÷ that of fresh lists; None when not read.
        #[serde(default)]
        distance_ratio: Option<f64>,
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
        /// Greatest replay lag, seconds; an idle primary reads 0; None where it could not be read.
        lag_seconds: Option<f64>,
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
    /// Whether a weaker component of this class is treated together with one of that class.
    fn takes_in(&self, other: &ProblemClass) -> bool {
        let is_bloat = |class: &ProblemClass| {
            matches!(class, ProblemClass::IndexFragmentation { cause: Cause::Bloat | Cause::Dead, .. })
        };
        is_bloat(self) && is_bloat(other)
            || self.as_str() == other.as_str()
                && matches!(
                    self,
                    ProblemClass::HotspotCongestion { .. }
                        | ProblemClass::ReplicationLag { .. }
                        | ProblemClass::MaintenanceContention { .. }
                )
    }

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
    /// The part of the problem that the indexes of these parts are; all of it when none of them is in its component.
    #[must_use]
    pub fn only(&self, parts: &[Part]) -> Problem {
        let mut part = self.clone();
        part.component.nodes.retain(|node| {
            node.index().is_some_and(|(partition, index)| {
                parts.iter().filter_map(Part::index).any(|of| of.table == partition && of.name == index)
            })
        });
        if part.component.nodes.is_empty() { self.clone() } else { part }
    }

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

/// Classifies every weak component, weakest first. Components that one remedy treats together become one problem, the
/// worst first in its fields: indexes that are bloated or full of dead entries, hot partitions, replicas that are
/// behind, jobs that wait.
pub fn diagnose(assessment: &Assessment, snapshot: &Snapshot, config: &Config) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for component in &assessment.components {
        let problem = classify(component, snapshot, config);
        match problems.iter_mut().find(|before| before.class.takes_in(&problem.class)) {
            Some(before) => merge(before, problem),
            None => problems.push(problem),
        }
    }
    problems
}

fn merge(into: &mut Problem, other: Problem) {
    match (&mut into.class, other.class) {
        (
            ProblemClass::IndexFragmentation { index_ids: ids, indexes: names, .. },
            ProblemClass::IndexFragmentation { index_ids: more_ids, indexes: more, .. },
        )
        | (
            ProblemClass::HotspotCongestion { partition_ids: ids, partitions: names, .. },
            ProblemClass::HotspotCongestion { partition_ids: more_ids, partitions: more, .. },
        ) => {
            ids.extend(more_ids);
            names.extend(more);
        }
        (
            ProblemClass::ReplicationLag { replica_ids, replicas, lag_seconds },
            ProblemClass::ReplicationLag { replica_ids: ids, replicas: names, lag_seconds: lag },
        ) => {
            replica_ids.extend(ids);
            replicas.extend(names);
            *lag_seconds = match (*lag_seconds, lag) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
        }
        // Of contention each component says the same of the whole queue.
        _ => {}
    }
    into.component.nodes.extend(other.component.nodes);
    into.component.witness.extend(other.component.witness);
    into.evidence.extend(other.evidence);
}

/// Classifies one component.
pub fn classify(component: &Component, snapshot: &Snapshot, config: &Config) -> Problem {
    let evidence = evidence(&component.witness);
    let pattern = RULES.iter().find(|rule| (rule.fits)(component, snapshot));
    let worst = worst(&component.witness);
    let class = pattern.and_then(|rule| (rule.class)(component, worst?, snapshot, config));
    let class = class.unwrap_or_else(|| ProblemClass::Unknown {
        witness_summary: format!(
            "{}; the pattern of the edges says {}; the readings on them say {}",
            summary(&component.witness),
            pattern.map_or("nothing", |rule| rule.name),
            worst
                .and_then(|edge| edge.condition.cause)
                .map_or_else(|| "nothing".to_owned(), |cause| format!("\"{}\"", cause.as_str())),
        ),
    });
    Problem { class, component: component.clone(), evidence }
}

/// How a class is told.
struct Rule {
    name: &'static str,
    /// The spec's pattern of edges and nodes. Where the collection is too small to have that many, all of the weak
    /// side's suffice.
    fits: fn(&Component, &Snapshot) -> bool,
    /// The class, from the component's weakest edge; None where the readings do not bear the pattern out.
    class: fn(&Component, &WitnessEdge, &Snapshot, &Config) -> Option<ProblemClass>,
}

/// In the spec's order, of which memory and fragmentation come last because they are read off metrics; here they need
/// their edge in the witness.
const RULES: &[Rule] = &[
    Rule { name: "HotspotCongestion", fits: hotspot::fits, class: hotspot::class },
    Rule { name: "CentroidSkew", fits: skew::fits, class: skew::class },
    Rule { name: "ReplicationLag", fits: lag::fits, class: lag::class },
    Rule { name: "MaintenanceContention", fits: contention::fits, class: contention::class },
    Rule { name: "MemoryPressure", fits: memory::fits, class: memory::class },
    Rule { name: "IndexFragmentation", fits: fragmentation::fits, class: fragmentation::class },
];

/// Edges of a type in a component's witness.
fn count(component: &Component, kind: EdgeKind) -> usize {
    component.witness.iter().filter(|edge| edge.kind == kind).count()
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
    let (partition, index) = key.index()?;
    snapshot.indexes.iter().find(|i| i.partition == partition && i.name == index)
}

/// Each reading on the witness once, worst first. Centroid groups of one index that read the same are counted.
fn evidence(witness: &[WitnessEdge]) -> Vec<String> {
    struct Line<'a> {
        health: f64,
        reading: String,
        name: &'a str,
        nodes: Vec<&'a NodeKey>,
    }
    let mut lines: Vec<Line<'_>> = Vec::new();
    for edge in witness {
        let condition = &edge.condition;
        let (Some(metric), Some(value), Some(cause)) =
            (condition.metric.as_ref(), condition.value, condition.cause)
        else {
            continue;
        };
        let is_carrier = |key: &NodeKey| {
            matches!(key, NodeKey::Core | NodeKey::Partition { .. } | NodeKey::Partitions { .. })
        };
        let (node, name) = if is_carrier(&edge.to) && !is_carrier(&edge.from) {
            (&edge.from, &edge.from_name)
        } else {
            (&edge.to, &edge.to_name)
        };
        let health = condition.health;
        let reading = format!("{metric} = {value:.3} ({}), health {health:.2}", cause.as_str());
        match lines
            .iter_mut()
            .find(|line| line.reading == reading && line.nodes.iter().any(|known| known.same_unit(node)))
        {
            Some(line) if line.nodes.contains(&node) => {}
            Some(line) => line.nodes.push(node),
            None => lines.push(Line { health, reading, name, nodes: vec![node] }),
        }
    }
    lines.sort_by(|a, b| {
        a.health.total_cmp(&b.health).then_with(|| (a.name, &a.reading).cmp(&(b.name, &b.reading)))
    });
    let text = |line: Line<'_>| match line.nodes.as_slice() {
        [NodeKey::Centroid { index, .. }, _, ..] => {
            format!("{} centroid groups of {index}: {}", line.nodes.len(), line.reading)
        }
        _ => format!("{}: {}", line.name, line.reading),
    };
    lines.into_iter().map(text).collect()
}

/// The witness by edge types, in words.
fn summary(witness: &[WitnessEdge]) -> String {
    let mut parts = Vec::new();
    for kind in EdgeKind::ALL {
        let edges: Vec<&WitnessEdge> = witness.iter().filter(|edge| edge.kind == kind).collect();
        if let Some(first) = edges.first() {
            parts.push(format!("{} {} (to {})", edges.len(), kind.as_str(), first.to_name));
        }
    }
    if parts.is_empty() { "no edge".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests;
