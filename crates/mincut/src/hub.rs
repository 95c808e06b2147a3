//! The triangle test of [`crate::grow`] around a hub.

use crate::csr::Csr;
use crate::scan::{Order, VISITED};

/// A hub is joined to at least this part of the nodes.
const HUB_PART: usize = 8;

/// Working memory of the tests.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    parent: Vec<u32>,
    /// A node joined to many, and the capacity from each node to it.
    hub: usize,
    near_hub: Vec<u64>,
}

impl Hub {
    /// Whether there is a hub, a node that a good part of the others is joined to, and most of a few of those hold to it.
    ///
    /// What is left of a graph without structure is of that kind: one node that has swallowed the others, and some
    /// whose degree is barely above the bound.
    pub(crate) fn promises(&mut self, graph: &Csr, bound: u64, samples: usize) -> bool {
        let nodes = graph.nodes();
        let Some(hub) = (0..nodes).max_by_key(|&node| graph.range(node).len()) else { return false };
        let arcs = graph.range(hub);
        if samples == 0 || arcs.len() <= 2 * samples || arcs.len() * HUB_PART < nodes {
            return false;
        }
        self.hub = hub;
        self.near_hub.clear();
        self.near_hub.resize(nodes, 0);
        for (target, weight) in graph.row(hub) {
            self.near_hub[target as usize] = weight;
        }
        let step = arcs.len() / samples;
        let held = arcs.step_by(step).take(samples).filter(|&arc| {
            graph.weights[arc] < bound && self.holds_to_hub(graph, graph.targets[arc] as usize, bound)
        });
        2 * held.count() > samples
    }

    /// Leaves in `order` the classes of nodes that no cut below `bound` separates, as far as the tests around the hub that
    /// was found last see.
    pub(crate) fn run(&mut self, graph: &Csr, bound: u64, order: &mut Order) {
        let nodes = graph.nodes();
        self.parent.clear();
        self.parent.extend(0..nodes as u32);
        for arc in graph.range(self.hub) {
            let node = graph.targets[arc];
            if self.holds_to_hub(graph, node as usize, bound) {
                let (a, b) = (root(&mut self.parent, self.hub as u32), node);
                self.parent[a.max(b) as usize] = a.min(b);
            }
        }
        self.give(order);
    }

    fn holds_to_hub(&self, graph: &Csr, node: usize, bound: u64) -> bool {
        let around: u64 =
            graph.row(node).map(|(target, weight)| weight.min(self.near_hub[target as usize])).sum();
        self.near_hub[node] + around >= bound
    }

    /// Writes the sets as intervals of an order.
    fn give(&mut self, order: &mut Order) {
        let nodes = self.parent.len();
        order.reset(nodes);
        // Roots are the least of their set: they come first and are numbered first.
        for node in 0..nodes {
            let root = root(&mut self.parent, node as u32) as usize;
            if root == node {
                order.class[node] = VISITED | order.starts.len() as u32;
                order.starts.push(0);
            } else {
                order.class[node] = order.class[root];
            }
            order.starts[(order.class[node] & !VISITED) as usize] += 1;
        }
        order.sort();
    }
}

/// The representative of a set, halving the path to it.
pub(crate) fn root(parent: &mut [u32], mut node: u32) -> u32 {
    while parent[node as usize] != node {
        let above = parent[parent[node as usize] as usize];
        parent[node as usize] = above;
        node = above;
    }
    node
}

#[cfg(test)]
impl Hub {
    pub(crate) fn was_used(&self) -> bool {
        !self.parent.is_empty()
    }
}
