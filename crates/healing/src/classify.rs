//! From a weak component to the problem: the spec's patterns, thresholds and order, held against the evidence.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::graph::{Cause, EdgeKind, NodeKey, drift_excess, fragmentation_pct};
use crate::health::{DEAD, DRIFT_EXCESS, FRAGMENTATION};
use crate::integrity::{Assessment, Component, WitnessEdge};
use crate::plan::IndexRef;
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
    /// The part of the problem that these indexes are; all of it when none of them is in its component.
    #[must_use]
    pub fn only(&self, indexes: &[IndexRef]) -> Problem {
        let mut part = self.clone();
        part.component.nodes.retain(|node| match node {
            NodeKey::Index { partition, index } | NodeKey::Centroid { partition, index, .. } => {
                indexes.iter().any(|of| of.table == *partition && of.name == *index)
            }
            NodeKey::Core | NodeKey::Partition { .. } => false,
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
        distance_ratio: ivf.and_then(|ivf| ivf.distance_ratio.known().copied()),
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
            let excess = index.ivf.known().and_then(|ivf| drift_excess(ivf).ok());
            vec![excess.map(|excess| excess <= DRIFT_EXCESS.threshold)]
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
        let (node, name) = if matches!(edge.to, NodeKey::Core | NodeKey::Partition { .. }) {
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
    for kind in [EdgeKind::RoutingLink, EdgeKind::PartitionLink, EdgeKind::CentroidLink, EdgeKind::IndexLink]
    {
        let edges: Vec<&WitnessEdge> = witness.iter().filter(|edge| edge.kind == kind).collect();
        if let Some(first) = edges.first() {
            parts.push(format!("{} {} (to {})", edges.len(), kind.as_str(), first.to_name));
        }
    }
    if parts.is_empty() { "no edge".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{drift, fragment, ivf, recall, snapshot};
    use crate::graph::Condition;
    use crate::integrity::assess;
    use crate::snapshot::Reading;

    fn problems(snapshot: &Snapshot) -> Vec<Problem> {
        let config = Config::default();
        diagnose(&assess(snapshot, &config).unwrap(), snapshot, &config)
    }

    fn only(snapshot: &Snapshot) -> Problem {
        let mut problems = problems(snapshot);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[test]
    fn the_names_are_those_of_the_spec() {
        let classes = [
            ProblemClass::HotspotCongestion { partition_ids: vec![], partitions: vec![], load_ratio: 0.0 },
            centroid_skew_of(&crate::fixtures::ivfflat(1, 1, 1), Cause::Skew, &[], &Config::default()),
            ProblemClass::ReplicationLag { replica_ids: vec![], replicas: vec![], lag_seconds: 0.0 },
            ProblemClass::MaintenanceContention { job_types: vec![], queue_depth: 0 },
            index_fragmentation_of(&[], Cause::Bloat, &Config::default()),
            ProblemClass::MemoryPressure { current_usage_pct: 0.0, largest_consumers: vec![] },
            ProblemClass::Unknown { witness_summary: String::new() },
        ];
        assert_eq!(classes.iter().map(ProblemClass::as_str).collect::<Vec<_>>(), CLASS_NAMES);
    }

    #[test]
    fn a_skewed_list_is_centroid_skew_for_every_number_of_groups() {
        for groups in 1..=16 {
            let mut sick = snapshot(2, groups, 1);
            ivf(&mut sick.indexes[0]).groups[0].skew_factor = 8.0;
            ivf(&mut sick.indexes[0]).skew_factor = 8.0;
            assert_eq!(problems(&sick), [], "uneven lists that are as good as new are no problem");
            drift(&mut sick.indexes[0], 1.2);
            let problem = only(&sick);
            let ProblemClass::CentroidSkew { index_id, skew_factor, cause, structure, centroid_ids, .. } =
                &problem.class
            else {
                panic!("{groups} groups: {:?}", problem.class);
            };
            assert_eq!((*index_id, *skew_factor), (10_000, Some(8.0)));
            assert_eq!((*cause, *structure), (Cause::Skew, Structure::Bad));
            if groups > 2 {
                assert_eq!(*centroid_ids, (0..10).collect::<Vec<_>>(), "{groups} groups");
            }
        }
    }

    #[test]
    fn low_recall_of_ivfflat_says_whether_the_lists_are_at_fault() {
        let mut sick = snapshot(1, 16, 0);
        sick.indexes[0].recall = Reading::Known(recall(1, 0.5));
        let structure_of = |snapshot: &Snapshot| match only(snapshot).class {
            ProblemClass::CentroidSkew { structure, cause: Cause::Recall, .. } => structure,
            other => panic!("{other:?}"),
        };
        assert_eq!(structure_of(&sick), Structure::Good);
        let mut drifted = sick.clone();
        drift(&mut drifted.indexes[0], 1.01);
        assert_eq!(structure_of(&drifted), Structure::Bad);
        // Either alone is no proof.
        let mut one = drifted.clone();
        ivf(&mut one.indexes[0]).work_ratio = Reading::Known(1.1);
        assert_eq!(structure_of(&one), Structure::Good);
        let mut other = drifted.clone();
        ivf(&mut other.indexes[0]).distance_ratio = Reading::Known(1.05);
        assert_eq!(structure_of(&other), Structure::Good);
        let mut skewed = sick.clone();
        ivf(&mut skewed.indexes[0]).skew_factor = 30.0;
        assert_eq!(structure_of(&skewed), Structure::Good, "skew alone");
        for unread in [0, 1] {
            let mut blind = drifted.clone();
            let structure = ivf(&mut blind.indexes[0]);
            *[&mut structure.work_ratio, &mut structure.distance_ratio][unread] =
                Reading::unknown("too many lists");
            assert_eq!(structure_of(&blind), Structure::Unknown);
        }
        assert_eq!(only(&sick).details()["structure_good"], true);
        assert_eq!(only(&drifted).details()["structure_good"], false);
    }

    #[test]
    fn an_index_link_is_classed_by_its_cause() {
        let check = |change: &dyn Fn(&mut Index), cause: Cause, pct: f64| {
            let mut sick = snapshot(3, 0, 1);
            change(&mut sick.indexes[1]);
            let problem = only(&sick);
            let ProblemClass::IndexFragmentation { index_ids, cause: found, fragmentation_pct, .. } =
                &problem.class
            else {
                panic!("{:?}", problem.class);
            };
            assert_eq!((index_ids.as_slice(), *found), (&[20_010][..], cause));
            assert!((fragmentation_pct - pct).abs() < 1e-4, "{fragmentation_pct}");
        };
        check(&|i| fragment(i, 40.0), Cause::Bloat, 40.0);
        check(&|i| i.dead_share = Reading::Known(0.5), Cause::Dead, 0.0);
        check(&|i| i.valid = false, Cause::Invalid, 100.0);
        check(&|i| i.recall = Reading::Known(recall(40, 0.5)), Cause::Recall, 0.0);
    }

    #[test]
    fn bloated_indexes_are_one_problem_and_an_invalid_one_is_another() {
        let mut sick = snapshot(3, 0, 1);
        fragment(&mut sick.indexes[0], 50.0);
        fragment(&mut sick.indexes[1], 80.0);
        sick.indexes[2].valid = false;
        let problems = problems(&sick);
        assert_eq!(problems.len(), 2);
        assert!(matches!(problems[0].class, ProblemClass::IndexFragmentation { cause: Cause::Invalid, .. }));
        let ProblemClass::IndexFragmentation { index_ids, fragmentation_pct, .. } = &problems[1].class else {
            panic!("{:?}", problems[1].class);
        };
        assert_eq!(*index_ids, [20_010, 20_000], "most fragmented first");
        assert!((fragmentation_pct - 80.0).abs() < 1e-4);
        assert_eq!(problems[1].component.nodes.len(), 2);
        // 80 %: a third of the way from 0.4 at 60 % is 0.2.
        assert!((problems[1].component.lambda - 0.2).abs() < 1e-6);
    }

    #[test]
    fn a_pattern_that_the_readings_do_not_bear_out_is_unknown_with_both() {
        // Partition links are weak, but no load was read that would say why.
        let mut sick = snapshot(8, 0, 1);
        fragment(&mut sick.indexes[0], 80.0);
        let config = Config::default();
        let mut component = assess(&sick, &config).unwrap().components.remove(0);
        let template = component.witness[0].clone();
        for _ in 0..4 {
            component.witness.push(WitnessEdge {
                kind: EdgeKind::PartitionLink,
                condition: Condition::healthy(),
                ..template.clone()
            });
        }
        let problem = classify(&component, &sick, &config);
        let ProblemClass::Unknown { witness_summary } = &problem.class else { panic!("{:?}", problem.class) };
        assert!(witness_summary.contains("HotspotCongestion") && witness_summary.contains("\"bloat\""));
    }

    #[test]
    fn nothing_in_the_witness_is_unknown() {
        let component = Component { lambda: 0.1, nodes: vec![], witness: vec![] };
        let problem = classify(&component, &snapshot(1, 0, 0), &Config::default());
        assert_eq!(problem.class.as_str(), "Unknown");
    }

    #[test]
    fn details_have_the_specs_fields_beside_the_readable_ones() {
        let mut sick = snapshot(1, 0, 1);
        fragment(&mut sick.indexes[0], 50.0);
        let details = only(&sick).details();
        assert_eq!(details["index_ids"], json!([20_000]));
        assert_eq!(details["indexes"], json!(["public.docs_1000_hnsw_0"]));
        assert_eq!(details["cause"], "bloat");
        assert!((details["fragmentation_pct"].as_f64().unwrap() - 50.0).abs() < 1e-4);
        assert!(details["evidence"][0].as_str().unwrap().contains("fragmentation_pct = 50.000 (bloat)"));
    }
}
