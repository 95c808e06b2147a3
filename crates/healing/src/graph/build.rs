//! From a snapshot to the graph.

use std::collections::BTreeMap;

use super::{ContractedGraph, Edge, EdgeKind, Held, Node, NodeKey};
use crate::condition::{
    Condition, centroid_conditions, headroom_condition, horizon_condition, index_condition, job_condition,
    load_condition, memory_condition, replica_condition, slots_condition,
};
use crate::config::Config;
use crate::load;
use crate::snapshot::{CentroidGroup, Index, Method, Oid, Reading, Snapshot};

/// Siblings that a partition or a centroid group is linked to at most: the k of DESIGN §4.
const SIBLINGS_MAX: usize = 6;

/// Edges by which a piece of maintenance hangs on what it works on.
const DEPENDENCIES: u32 = 3;

/// The graph with every node, or, with `fold`, without the indexes and lists that are well.
pub(super) fn graph(snapshot: &Snapshot, config: &Config, held: Held<'_>, fold: bool) -> ContractedGraph {
    let mut builder = Builder { graph: ContractedGraph { nodes: vec![], edges: vec![] }, config, held, fold };
    let core = builder.node(NodeKey::Core, "core".to_owned(), Condition::healthy());
    let places = builder.partitions(snapshot, core);
    for index in &snapshot.indexes {
        // An index whose table is not part of the snapshot is not part of the collection.
        if let Some(&partition) = places.get(&index.partition) {
            builder.index(index, partition);
        }
    }
    builder.replicas(snapshot, core);
    builder.maintenance(snapshot, core, &places);
    if let Some(memory) = &snapshot.memory {
        let condition = memory_condition(memory, config);
        builder.hang(EdgeKind::ResourceLink, core, NodeKey::Memory, NodeKey::Memory.label(), condition, 1);
    }
    builder.graph
}

struct Builder<'a> {
    graph: ContractedGraph,
    config: &'a Config,
    held: Held<'a>,
    fold: bool,
}

impl Builder<'_> {
    fn node(&mut self, key: NodeKey, name: String, condition: Condition) -> u32 {
        // Memory ends long before 2^32 nodes.
        let place = self.graph.nodes.len() as u32;
        self.graph.nodes.push(Node { key, name, condition });
        place
    }

    fn edge(&mut self, kind: EdgeKind, a: u32, b: u32, weight: f64, condition: Condition) {
        self.graph.edges.push(Edge { kind, a, b, weight, condition });
    }

    /// The condition that counts for a node.
    fn unless_held(&self, key: &NodeKey, condition: Condition) -> Condition {
        if self.held.holds(key) { Condition::healthy() } else { condition }
    }

    /// A node that hangs on one other by so many equal edges, 1 together.
    fn hang(
        &mut self,
        kind: EdgeKind,
        on: u32,
        key: NodeKey,
        name: String,
        condition: Condition,
        edges: u32,
    ) -> u32 {
        let condition = self.unless_held(&key, condition);
        let node = self.node(key, name, condition.clone());
        for _ in 0..edges {
            self.edge(kind, on, node, 1.0 / f64::from(edges), condition.clone());
        }
        node
    }

    /// Links siblings by a circulant of degree k = min(6, n − 1), each with weight (1 − 1/n) / k and the condition of
    /// its worse end. Up to seven nodes that is the complete graph; above, the neighbours one to three places away:
    /// every node then has the same degree, and every group of nodes is cut at 1 or more.
    fn ring(&mut self, kind: EdgeKind, ring: &[(u32, Condition)]) {
        let n = ring.len();
        let k = SIBLINGS_MAX.min(n.saturating_sub(1));
        if k == 0 {
            return;
        }
        let weight = (1.0 - 1.0 / n as f64) / k as f64;
        for i in 0..n {
            for step in 1..=SIBLINGS_MAX / 2 {
                let j = (i + step) % n;
                // Small rings come round to the same pair from its other end.
                let twice = 2 * step > n || 2 * step == n && j < i;
                if !twice && i != j {
                    let condition = ring[i].1.clone().worse(ring[j].1.clone());
                    self.edge(kind, ring[i].0, ring[j].0, weight, condition);
                }
            }
        }
    }

    /// Each server's partitions hang on the core by 1/P and on each other by the rest.
    fn partitions(&mut self, snapshot: &Snapshot, core: u32) -> BTreeMap<Oid, u32> {
        let ratios = load::ratios(snapshot, self.config);
        let mut members: BTreeMap<&str, usize> = BTreeMap::new();
        for partition in &snapshot.partitions {
            *members.entry(&partition.server).or_default() += 1;
        }
        let mut places = BTreeMap::new();
        let mut rings: BTreeMap<&str, Vec<(u32, Condition)>> = BTreeMap::new();
        for partition in &snapshot.partitions {
            let key = NodeKey::Partition { oid: partition.oid };
            let count = members.get(partition.server.as_str()).copied().unwrap_or(1);
            let server = snapshot.servers.iter().find(|server| server.name == partition.server);
            let absolute = self.unless_held(&key, headroom_condition(partition, server, self.config));
            let relative = ratios.get(&partition.oid).map_or_else(Condition::healthy, |ratio| {
                load_condition(ratio, partition.usual_ratio, count, self.config)
            });
            let relative = self.unless_held(&key, relative);
            let name = match partition.server.as_str() {
                "" => partition.name.clone(),
                server => format!("{} on server {server}", partition.name),
            };
            let node = self.node(key, name, absolute.clone().worse(relative.clone()));
            places.insert(partition.oid, node);
            self.edge(EdgeKind::RoutingLink, core, node, 1.0 / count as f64, absolute);
            rings.entry(&partition.server).or_default().push((node, relative));
        }
        for ring in rings.values() {
            self.ring(EdgeKind::PartitionLink, ring);
        }
        places
    }

    fn index(&mut self, index: &Index, partition: u32) {
        let key = NodeKey::Index { partition: index.partition, index: index.name.clone() };
        let condition = self.unless_held(&key, index_condition(index, self.config));
        if !self.folds(&key, condition.health) {
            self.hang(EdgeKind::IndexLink, partition, key, index.name.clone(), condition, 1);
        }
        if index.method != Method::Ivfflat || !index.valid || index.building {
            return;
        }
        let key =
            |group: u32| NodeKey::Centroid { partition: index.partition, index: index.name.clone(), group };
        // The groups of one index are held together.
        let conditions: Vec<Condition> = centroid_conditions(index, self.config)
            .into_iter()
            .map(|condition| self.unless_held(&key(0), condition))
            .collect();
        let worst = conditions.iter().map(|condition| condition.health).fold(1.0, f64::min);
        if self.folds(&key(0), worst) {
            return;
        }
        let weight = 1.0 / conditions.len() as f64;
        let order = index.ivf.known().map_or_else(|| vec![0], |ivf| chain(&ivf.groups));
        let mut nodes = Vec::with_capacity(conditions.len());
        for (group, condition) in (0u32..).zip(conditions) {
            let name = format!("centroid group {group} of {}", index.name);
            let node = self.node(key(group), name, condition.clone());
            self.edge(EdgeKind::RoutingLink, partition, node, weight, condition.clone());
            nodes.push((node, condition));
        }
        let ring: Vec<(u32, Condition)> =
            order.into_iter().filter_map(|group| nodes.get(group as usize).cloned()).collect();
        self.ring(EdgeKind::CentroidLink, &ring);
    }

    /// Whether a part that is this well is left out.
    fn folds(&self, key: &NodeKey, health: f64) -> bool {
        self.fold && health >= 1.0 && !self.held.names(key)
    }

    fn replicas(&mut self, snapshot: &Snapshot, core: u32) {
        match &snapshot.replicas {
            None => {}
            Some(Reading::Unknown(reason)) => {
                let condition = Condition::unread("lag_seconds", reason);
                let key = NodeKey::Replica { id: 0 };
                self.hang(EdgeKind::Replication, core, key, "replicas".to_owned(), condition, 1);
            }
            Some(Reading::Known(replicas)) => {
                for replica in replicas {
                    let condition = replica_condition(replica, self.config);
                    let key = NodeKey::Replica { id: replica.id };
                    self.hang(EdgeKind::Replication, core, key, replica.name.clone(), condition, 1);
                }
            }
        }
    }

    /// A piece of maintenance hangs on its table, and where it has none on the core; the workers of autovacuum hang on
    /// the core. It hangs on one node only: a job that were tied to its table and to the core would hold a sick
    /// partition up (see docs/decisions/0006).
    fn maintenance(&mut self, snapshot: &Snapshot, core: u32, places: &BTreeMap<Oid, u32>) {
        if let Some(slots) = &snapshot.slots {
            let condition = slots_condition(slots, self.config);
            self.hang(EdgeKind::ResourceLink, core, NodeKey::Slots, NodeKey::Slots.label(), condition, 1);
        }
        if let Some(horizon) = &snapshot.horizon {
            let condition = horizon_condition(horizon, self.config);
            self.job("cleanup of dead rows", core, condition);
        }
        match &snapshot.jobs {
            None => {}
            Some(Reading::Unknown(reason)) => {
                self.job("maintenance", core, Condition::unread("waits_seconds", reason));
            }
            Some(Reading::Known(jobs)) => {
                for job in jobs {
                    let on = job.partition.and_then(|oid| places.get(&oid)).copied().unwrap_or(core);
                    self.job(&job.id, on, job_condition(job, self.config));
                }
            }
        }
    }

    fn job(&mut self, id: &str, on: u32, condition: Condition) {
        let key = NodeKey::Job { id: id.to_owned() };
        if !self.folds(&key, condition.health) {
            self.hang(EdgeKind::Dependency, on, key, id.to_owned(), condition, DEPENDENCIES);
        }
    }
}

/// The groups in an order in which neighbours are near: from group 0 always to the nearest one not yet visited, and
/// to the first such where all near ones were. Linking along this chain keeps every node's degree the same; linking
/// each group to its own nearest ones would let a tight cluster of groups be cut off for less than 1.
pub(super) fn chain(groups: &[CentroidGroup]) -> Vec<u32> {
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
