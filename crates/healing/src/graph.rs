//! The contracted graph: the collection's operational parts and how firmly each hangs on.
//!
//! Capacities are `weight × health`. The weights are such that a healthy graph's minimum cut is exactly 1 in every
//! topology: each part hangs on by a total of 1, and so does each group of parts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use crate::condition::{Cause, Condition, drift_excess, fragmentation_pct, skew_excess};
use crate::condition::{centroid_conditions, index_condition};
use crate::config::Config;
use crate::snapshot::{CentroidGroup, Index, Method, Oid, Snapshot};

/// Siblings that a partition or a centroid group is linked to at most: the k of DESIGN §4.
const SIBLINGS_MAX: usize = 6;

/// Above this many nodes the healthy index and centroid nodes are folded into their partition: the cost of an
/// exact cut stays bounded. Folding healthy parts changes no λ below 1.
pub const NODES_MAX: usize = 1000;

/// The identity of a node. It survives the swap of an index, whose OID changes under the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NodeKey {
    /// The entry for queries and writes.
    Core,
    /// A leaf table.
    Partition {
        /// Its OID.
        oid: Oid,
    },
    /// A group of neighbouring lists of an ivfflat index.
    Centroid {
        /// OID of the leaf table.
        partition: Oid,
        /// Schema-qualified, quoted name of the index.
        index: String,
        /// Number of the group, from 0.
        group: u32,
    },
    /// A vector index.
    Index {
        /// OID of the leaf table.
        partition: Oid,
        /// Schema-qualified, quoted name.
        index: String,
    },
}

impl NodeKey {
    /// The type's name in SQL and JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            NodeKey::Core => "core",
            NodeKey::Partition { .. } => "partition",
            NodeKey::Centroid { .. } => "centroid",
            NodeKey::Index { .. } => "index",
        }
    }

    /// The node in words, partitions by OID.
    pub fn label(&self) -> String {
        match self {
            NodeKey::Core => "core".to_owned(),
            NodeKey::Partition { oid } => format!("partition {oid}"),
            NodeKey::Centroid { index, group, .. } => format!("centroid group {group} of {index}"),
            NodeKey::Index { index, .. } => format!("index {index}"),
        }
    }

    /// Whether one repair concerns both: all centroid groups of one index are repaired together.
    pub fn same_unit(&self, other: &NodeKey) -> bool {
        match (self, other) {
            (
                NodeKey::Centroid { partition: p, index: i, .. },
                NodeKey::Centroid { partition: q, index: j, .. },
            ) => p == q && i == j,
            (a, b) => a == b,
        }
    }
}

/// What an edge stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeKind {
    /// Core to partition, partition to centroid group.
    RoutingLink,
    /// Partition to partition of one server.
    PartitionLink,
    /// Centroid group to its siblings.
    CentroidLink,
    /// Partition to index.
    IndexLink,
}

impl EdgeKind {
    /// The spec's name of the type.
    pub fn as_str(self) -> &'static str {
        match self {
            EdgeKind::RoutingLink => "routing_link",
            EdgeKind::PartitionLink => "partition_link",
            EdgeKind::CentroidLink => "centroid_link",
            EdgeKind::IndexLink => "index_link",
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its identity.
    pub key: NodeKey,
    /// Its name for a human.
    pub name: String,
    /// How well it is.
    pub condition: Condition,
}

/// One edge with all that explains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// What it stands for.
    pub kind: EdgeKind,
    /// Position of the first end in the graph's nodes.
    pub a: u32,
    /// Position of the second end.
    pub b: u32,
    /// Capacity when healthy.
    pub weight: f64,
    /// The condition that weakens it (the worse end's).
    pub condition: Condition,
}

impl Edge {
    /// `weight × health`.
    pub fn capacity(&self) -> f64 {
        self.weight * self.condition.health
    }
}

/// Which nodes' own metrics are held healthy when the graph is made.
#[derive(Debug, Clone, Copy)]
pub enum Held<'a> {
    /// None: the graph as observed.
    Nothing,
    /// These nodes, and those that are repaired together with them.
    These(&'a BTreeSet<NodeKey>),
    /// All but these and those that are repaired together with them.
    AllBut(&'a BTreeSet<NodeKey>),
}

impl Held<'_> {
    fn holds(self, key: &NodeKey) -> bool {
        match self {
            Held::Nothing => false,
            Held::These(keys) => keys.iter().any(|other| key.same_unit(other)),
            Held::AllBut(keys) => !keys.iter().any(|other| key.same_unit(other)),
        }
    }
}

/// The contracted graph of one snapshot. Node 0 is the core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContractedGraph {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The edges.
    pub edges: Vec<Edge>,
}

impl ContractedGraph {
    /// Builds the graph. An empty snapshot gives the core alone.
    pub fn build(snapshot: &Snapshot, config: &Config, held: Held<'_>) -> Self {
        let graph = Self::build_with(snapshot, config, held, false);
        if graph.nodes.len() > NODES_MAX { Self::build_with(snapshot, config, held, true) } else { graph }
    }

    /// The edges as the solver takes them, with the capacity that `health` picks from a condition.
    pub fn capacities(&self, health: impl Fn(&Condition) -> f64) -> Vec<(u32, u32, f64)> {
        self.edges.iter().map(|edge| (edge.a, edge.b, edge.weight * health(&edge.condition))).collect()
    }

    /// Whether any metric at all was read.
    pub fn is_measured(&self) -> bool {
        self.nodes.iter().any(|node| node.condition.is_measured())
    }

    fn build_with(snapshot: &Snapshot, config: &Config, held: Held<'_>, fold: bool) -> Self {
        let mut builder = Builder { graph: Self { nodes: vec![], edges: vec![] }, held, fold };
        let core = builder.node(NodeKey::Core, "core".to_owned(), Condition::healthy());
        let partitions = snapshot.partitions.len() as f64;
        let mut places: BTreeMap<Oid, u32> = BTreeMap::new();
        for partition in &snapshot.partitions {
            let key = NodeKey::Partition { oid: partition.oid };
            let node = builder.node(key, partition.name.clone(), Condition::healthy());
            places.insert(partition.oid, node);
            builder.edge(EdgeKind::RoutingLink, core, node, 1.0 / partitions);
        }
        let ring: Vec<u32> = snapshot.partitions.iter().filter_map(|p| places.get(&p.oid).copied()).collect();
        builder.ring(EdgeKind::PartitionLink, &ring);
        for index in &snapshot.indexes {
            // An index whose table is not part of the snapshot is not part of the collection.
            if let Some(&partition) = places.get(&index.partition) {
                builder.index(index, partition, config);
            }
        }
        builder.graph
    }
}

struct Builder<'a> {
    graph: ContractedGraph,
    held: Held<'a>,
    fold: bool,
}

impl Builder<'_> {
    fn node(&mut self, key: NodeKey, name: String, condition: Condition) -> u32 {
        let condition = if self.held.holds(&key) { Condition::healthy() } else { condition };
        // The node cap keeps the count far below 2^32.
        let place = self.graph.nodes.len() as u32;
        self.graph.nodes.push(Node { key, name, condition });
        place
    }

    /// An edge, weakened by the worse end.
    fn edge(&mut self, kind: EdgeKind, a: u32, b: u32, weight: f64) {
        let of = |place: u32| self.graph.nodes[place as usize].condition.clone();
        let condition = of(a).worse(of(b));
        self.graph.edges.push(Edge { kind, a, b, weight, condition });
    }

    /// Links siblings by a circulant of degree k = min(6, n − 1), each with weight (1 − 1/n) / k. Up to seven nodes
    /// that is the complete graph; above, the neighbours one to three places away: every node then has the same
    /// degree, and every group of nodes is cut at 1 or more.
    fn ring(&mut self, kind: EdgeKind, nodes: &[u32]) {
        let n = nodes.len();
        let k = SIBLINGS_MAX.min(n.saturating_sub(1));
        if k == 0 {
            return;
        }
        let weight = (1.0 - 1.0 / n as f64) / k as f64;
        for i in 0..n {
            for j in i + 1..n {
                let apart = (j - i).min(n - (j - i));
                if apart <= SIBLINGS_MAX / 2 {
                    self.edge(kind, nodes[i], nodes[j], weight);
                }
            }
        }
    }

    fn index(&mut self, index: &Index, partition: u32, config: &Config) {
        let key = NodeKey::Index { partition: index.partition, index: index.name.clone() };
        let condition = index_condition(index, config);
        if !(self.fold && (condition.health >= 1.0 || self.held.holds(&key))) {
            let node = self.node(key, index.name.clone(), condition);
            self.edge(EdgeKind::IndexLink, partition, node, 1.0);
        }
        if index.method != Method::Ivfflat || !index.valid || index.building {
            return;
        }
        let conditions = centroid_conditions(index, config);
        let key =
            |group: u32| NodeKey::Centroid { partition: index.partition, index: index.name.clone(), group };
        if self.fold && (conditions.iter().all(|c| c.health >= 1.0) || self.held.holds(&key(0))) {
            return;
        }
        let groups = conditions.len() as f64;
        let order = index.ivf.known().map_or_else(|| vec![0], |ivf| chain(&ivf.groups));
        let mut nodes = vec![0; conditions.len()];
        for ((group, condition), node) in (0u32..).zip(conditions).zip(&mut nodes) {
            let name = format!("centroid group {group} of {}", index.name);
            *node = self.node(key(group), name, condition);
            self.edge(EdgeKind::RoutingLink, partition, *node, 1.0 / groups);
        }
        let ring: Vec<u32> =
            order.into_iter().filter_map(|group| nodes.get(group as usize).copied()).collect();
        self.ring(EdgeKind::CentroidLink, &ring);
    }
}

/// The groups in an order in which neighbours are near: from group 0 always to the nearest one not yet visited, and
/// to the first such where all near ones were. Linking along this chain keeps every node's degree the same; linking
/// each group to its own nearest ones would let a tight cluster of groups be cut off for less than 1.
fn chain(groups: &[CentroidGroup]) -> Vec<u32> {
    let mut visited = vec![false; groups.len()];
    // At least one: an index without groups has a node for all of its lists.
    let mut order = Vec::with_capacity(groups.len().max(1));
    let mut next = Some(0);
    while let Some(at) = next {
        order.push(at as u32);
        let Some(group) = groups.get(at) else { break };
        visited[at] = true;
        let near = group.nearest.iter().map(|&g| g as usize).find(|&g| visited.get(g) == Some(&false));
        next = near.or_else(|| visited.iter().position(|seen| !seen));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{drift, fragment, ivf, recall, snapshot};
    use crate::snapshot::Reading;

    fn lambda(graph: &ContractedGraph) -> f64 {
        let edges = graph.capacities(|c| c.health);
        lambda_cut::Graph::from_edges(graph.nodes.len(), &edges).unwrap().minimum_cut().unwrap().value
    }

    fn build(snapshot: &Snapshot) -> ContractedGraph {
        ContractedGraph::build(snapshot, &Config::default(), Held::Nothing)
    }

    fn node<'a>(graph: &'a ContractedGraph, key: &NodeKey) -> &'a Node {
        graph.nodes.iter().find(|node| node.key == *key).unwrap()
    }

    #[test]
    fn healthy_is_one_in_every_topology() {
        for partitions in 1..=64 {
            for hnsw in 0..=2 {
                // Every number of groups with few partitions, a selection with many (the cost grows with both).
                let groups: Vec<u32> =
                    if partitions <= 4 { (0..=16).collect() } else { vec![0, partitions % 16 + 1] };
                for groups in groups {
                    let graph = build(&snapshot(partitions, groups, hnsw));
                    let value = lambda(&graph);
                    assert!((value - 1.0).abs() < 1e-9, "{partitions} {groups} {hnsw}: {value}");
                }
            }
        }
    }

    #[test]
    fn above_the_node_cap_healthy_parts_are_folded_and_sick_ones_stay() {
        let mut sick = snapshot(100, 16, 1);
        let graph = build(&sick);
        assert_eq!(graph.nodes.len(), 101);
        assert!((lambda(&graph) - 1.0).abs() < 1e-9);
        fragment(&mut sick.indexes[7], 45.0);
        let graph = build(&sick);
        assert_eq!(graph.nodes.len(), 102);
        assert!((lambda(&graph) - 0.55).abs() < 1e-6);
    }

    #[test]
    fn weights_by_hand() {
        // Four partitions: 1/4 to the core; complete graph, three siblings, (1 − 1/4) / 3 each. Eight groups: 1/8 to
        // the partition, six siblings, (1 − 1/8) / 6 each.
        let graph = build(&snapshot(4, 8, 1));
        let of = |kind| graph.edges.iter().filter(move |edge| edge.kind == kind);
        assert_eq!(of(EdgeKind::PartitionLink).count(), 6);
        assert!(of(EdgeKind::PartitionLink).all(|edge| (edge.weight - 0.25).abs() < 1e-12));
        assert_eq!(of(EdgeKind::CentroidLink).count(), 4 * 8 * 6 / 2);
        assert!(of(EdgeKind::CentroidLink).all(|edge| (edge.weight - 0.875 / 6.0).abs() < 1e-12));
        assert_eq!(of(EdgeKind::RoutingLink).count(), 4 + 4 * 8);
        assert_eq!(of(EdgeKind::IndexLink).count(), 4 * 2);
    }

    #[test]
    fn each_metric_weakens_its_own_node() {
        let key = NodeKey::Index { partition: 1000, index: "public.docs_1000_hnsw_0".to_owned() };
        let check = |change: &dyn Fn(&mut Index), health: f64, cause: Cause| {
            let mut sick = snapshot(1, 0, 1);
            change(&mut sick.indexes[0]);
            let graph = build(&sick);
            let condition = &node(&graph, &key).condition;
            assert!((condition.health - health).abs() < 1e-6, "{condition:?}");
            assert_eq!(condition.cause, Some(cause));
        };
        check(&|i| fragment(i, 60.0), 0.4, Cause::Bloat);
        check(&|i| i.dead_share = Reading::Known(0.45), 0.55, Cause::Dead);
        check(&|i| i.valid = false, 0.0, Cause::Invalid);
        check(&|i| (i.valid, i.equal_valid) = (false, Some(1)), 0.5, Cause::Invalid);
        // 0.75 + 0.01 is 0.8 of 0.95: shortfall 0.2, a third of the way from 0.7 to 0.4.
        check(&|i| i.recall = Reading::Known(recall(40, 0.75)), 0.6, Cause::Recall);
    }

    #[test]
    fn a_build_under_way_is_healthy() {
        let mut building = snapshot(1, 8, 0);
        building.indexes[0].valid = false;
        building.indexes[0].building = true;
        let graph = build(&building);
        assert_eq!(graph.nodes.len(), 3, "core, partition, index");
        assert!((lambda(&graph) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn an_invalid_ivfflat_index_has_no_centroids() {
        let mut invalid = snapshot(1, 8, 0);
        invalid.indexes[0].valid = false;
        assert_eq!(build(&invalid).nodes.len(), 3);
    }

    #[test]
    fn recall_drift_and_skew_of_ivfflat_are_on_its_centroids() {
        let centroid =
            |group| NodeKey::Centroid { partition: 1000, index: "public.docs_1000_ivf".to_owned(), group };
        let mut sick = snapshot(1, 16, 0);
        ivf(&mut sick.indexes[0]).groups[3].skew_factor = 8.0;
        assert!((lambda(&build(&sick)) - 1.0).abs() < 1e-9, "good lists may be uneven");
        drift(&mut sick.indexes[0], 2.5);
        let graph = build(&sick);
        let drifted = &node(&graph, &centroid(0)).condition;
        assert_eq!(drifted.cause, Some(Cause::Drift));
        assert!((drifted.health - 0.55).abs() < 1e-9);
        // 8 against the fresh 2: excess 4.
        let skewed = &node(&graph, &centroid(3)).condition;
        assert_eq!((skewed.health, skewed.cause, skewed.value), (0.4, Some(Cause::Skew), Some(4.0)));
        let index = NodeKey::Index { partition: 1000, index: "public.docs_1000_ivf".to_owned() };
        assert_eq!(node(&graph, &index).condition.health, 1.0);
        assert!((lambda(&graph) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_read_is_neither_healthy_nor_zero() {
        let mut blind = snapshot(1, 0, 1);
        blind.indexes[0].bytes = Reading::unknown("no privilege");
        blind.indexes[0].recall = Reading::Known(recall(40, 0.75));
        let graph = build(&blind);
        let condition = &graph.nodes[2].condition;
        assert!((condition.health - 0.6).abs() < 1e-6, "the recall that was read counts");
        assert_eq!(condition.low, 0.0);
        assert!((condition.high - 0.6).abs() < 1e-6);
        assert_eq!(condition.unread, ["fragmentation_pct: no privilege"]);
    }

    #[test]
    fn uneven_lists_without_a_yardstick_are_unread() {
        let mut blind = snapshot(1, 16, 0);
        let structure = ivf(&mut blind.indexes[0]);
        structure.work_ratio = Reading::unknown("too many lists");
        structure.skew_fresh = Reading::unknown("too many lists");
        structure.groups[0].skew_factor = 100.0;
        let graph = build(&blind);
        assert!((lambda(&graph) - 1.0).abs() < 1e-9);
        assert!(graph.nodes.iter().any(|node| node.condition.unread == ["drift_excess: too many lists"]));
    }

    #[test]
    fn the_chain_visits_every_group_once_by_nearness() {
        let mut sick = snapshot(1, 5, 0);
        let structure = ivf(&mut sick.indexes[0]);
        for (group, nearest) in [vec![3, 1], vec![0, 2], vec![1], vec![0, 4], vec![3]].into_iter().enumerate()
        {
            structure.groups[group].nearest = nearest;
        }
        assert_eq!(chain(&structure.groups), [0, 3, 4, 1, 2]);
        // A number that no group has does no harm.
        structure.groups[0].nearest = vec![99];
        assert_eq!(chain(&structure.groups).len(), 5);
    }

    #[test]
    fn an_empty_snapshot_is_the_core_alone() {
        assert_eq!(build(&snapshot(0, 0, 0)).nodes.len(), 1);
    }

    #[test]
    fn indexes_of_foreign_tables_are_left_out() {
        let mut foreign = snapshot(1, 0, 1);
        foreign.indexes[0].partition = 4711;
        assert_eq!(build(&foreign).nodes.len(), 2);
    }
}
