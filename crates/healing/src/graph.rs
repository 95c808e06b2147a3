//! The contracted graph: the collection's operational parts and how firmly each hangs on.
//!
//! Capacities are `weight × health`. The weights are such that a healthy graph's minimum cut is exactly 1 in every
//! topology: each part hangs on by a total of 1, and so does each group of parts.

mod build;
mod contract;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use crate::condition::{Cause, Condition, drift_excess, fragmentation_pct, skew_excess};
use crate::config::Config;
use crate::snapshot::{Oid, Snapshot};

/// Above this many nodes healthy neighbours are contracted together, and sick ones stay: the cost of an exact cut
/// stays bounded.
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
    /// Neighbouring leaf tables that are well, contracted together.
    Partitions {
        /// OID of the first.
        first: Oid,
        /// How many they are.
        count: u32,
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
    /// A streaming replica.
    Replica {
        /// The number that we keep for it.
        id: i64,
    },
    /// A piece of maintenance.
    Job {
        /// Its name.
        id: String,
    },
    /// The workers of autovacuum.
    Slots,
    /// Memory.
    Memory,
}

impl NodeKey {
    /// The type's name in SQL and JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            NodeKey::Core => "core",
            NodeKey::Partition { .. } | NodeKey::Partitions { .. } => "partition",
            NodeKey::Centroid { .. } => "centroid",
            NodeKey::Index { .. } => "index",
            NodeKey::Replica { .. } => "replica",
            NodeKey::Job { .. } => "job",
            NodeKey::Slots => "slots",
            NodeKey::Memory => "memory",
        }
    }

    /// The leaf table and the name of the index that this is, or whose lists.
    pub fn index(&self) -> Option<(Oid, &str)> {
        match self {
            NodeKey::Index { partition, index } | NodeKey::Centroid { partition, index, .. } => {
                Some((*partition, index))
            }
            _ => None,
        }
    }

    /// The node in words, partitions by OID.
    pub fn label(&self) -> String {
        match self {
            NodeKey::Core => "core".to_owned(),
            NodeKey::Partition { oid } => format!("partition {oid}"),
            NodeKey::Centroid { index, group, .. } => format!("centroid group {group} of {index}"),
            NodeKey::Index { index, .. } => format!("index {index}"),
            NodeKey::Partitions { first, count } => format!("{count} partitions from {first}"),
            NodeKey::Replica { id } => format!("replica {id}"),
            NodeKey::Job { id } => id.clone(),
            NodeKey::Slots => "autovacuum workers".to_owned(),
            NodeKey::Memory => "memory".to_owned(),
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
    /// Core to replica.
    Replication,
    /// A piece of maintenance to what it works on.
    Dependency,
    /// Core to memory, core to the workers of autovacuum.
    ResourceLink,
}

impl EdgeKind {
    /// Every type.
    pub const ALL: [EdgeKind; 7] = [
        EdgeKind::RoutingLink,
        EdgeKind::PartitionLink,
        EdgeKind::CentroidLink,
        EdgeKind::IndexLink,
        EdgeKind::Replication,
        EdgeKind::Dependency,
        EdgeKind::ResourceLink,
    ];

    /// The spec's name of the type.
    pub fn as_str(self) -> &'static str {
        match self {
            EdgeKind::RoutingLink => "routing_link",
            EdgeKind::PartitionLink => "partition_link",
            EdgeKind::CentroidLink => "centroid_link",
            EdgeKind::IndexLink => "index_link",
            EdgeKind::Replication => "replication",
            EdgeKind::Dependency => "dependency",
            EdgeKind::ResourceLink => "resource_link",
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
    /// What weakens it: of edges between equals the worse end's condition.
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
    /// Whether a node is asked about by name and must stay one of its own.
    fn names(self, key: &NodeKey) -> bool {
        matches!(self, Held::AllBut(_)) && !self.holds(key)
    }

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
        let graph = build::graph(snapshot, config, held, false);
        if graph.nodes.len() <= NODES_MAX {
            return graph;
        }
        contract::to_at_most(NODES_MAX, build::graph(snapshot, config, held, true), held)
    }

    /// The edges as the solver takes them, with the capacity that `health` picks from a condition.
    pub fn capacities(&self, health: impl Fn(&Condition) -> f64) -> Vec<(u32, u32, f64)> {
        self.edges.iter().map(|edge| (edge.a, edge.b, edge.weight * health(&edge.condition))).collect()
    }

    /// Whether any metric at all was read.
    pub fn is_measured(&self) -> bool {
        self.nodes.iter().any(|node| node.condition.is_measured())
    }
}

#[cfg(test)]
mod tests;
