//! Local certificates: an edge whose ends cannot be separated below the bound by what lies around it alone.
//!
//! Padberg and Rinaldi (1990): between `u` and `v` there are the edge itself and a path over every common neighbour
//! `t`, none sharing an edge with another. If their capacities sum to the bound, no smaller cut separates the two.
//! A maximum-adjacency scan certifies little in a tightly knit group whose connectivity is barely above the bound;
//! this test takes such groups apart from within.

use crate::csr::Csr;
use crate::scan::{Order, VISITED};

/// Nodes with more arcs are left to the scans, so that the pass stays linear.
const ARCS_MAX: usize = 64;

/// Working memory of the tests.
#[derive(Debug, Default)]
pub(crate) struct Local {
    parent: Vec<u32>,
    /// The neighbours of the node under test and the capacity to each, by the low bits of their number.
    near: Vec<u64>,
}

impl Local {
    /// Whether most of a few nodes, evenly spread, have a neighbour that the triangles (not the edge alone, which a
    /// scan sees as well) certify.
    pub(crate) fn promises(&mut self, graph: &Csr, bound: u64, samples: usize) -> bool {
        let nodes = graph.nodes();
        if samples == 0 || nodes < samples {
            return false;
        }
        self.near.clear();
        self.near.resize(nodes, 0);
        let mut held = 0;
        for sample in 0..samples {
            let node = sample * (nodes / samples);
            self.enter(graph, node);
            let plain = graph.row(node).any(|(_, weight)| weight >= bound);
            let arcs = graph.range(node).len();
            held += usize::from(
                !plain
                    && arcs <= ARCS_MAX
                    && graph
                        .row(node)
                        .any(|(target, weight)| self.holds(graph, target as usize, weight, bound)),
            );
            self.leave(graph, node);
        }
        2 * held > samples
    }

    fn enter(&mut self, graph: &Csr, node: usize) {
        for (target, weight) in graph.row(node) {
            self.near[target as usize] = weight;
        }
    }

    fn leave(&mut self, graph: &Csr, node: usize) {
        for (target, _) in graph.row(node) {
            self.near[target as usize] = 0;
        }
    }

    /// Leaves in `order` the classes of nodes that no cut below `bound` separates, as far as the tests see.
    pub(crate) fn run(&mut self, graph: &Csr, bound: u64, order: &mut Order) {
        let nodes = graph.nodes();
        self.parent.clear();
        self.parent.extend(0..nodes as u32);
        self.near.clear();
        self.near.resize(nodes, 0);
        for node in 0..nodes {
            if graph.range(node).len() > ARCS_MAX {
                continue;
            }
            self.enter(graph, node);
            for (target, weight) in graph.row(node) {
                // Each edge once; one partner a node is enough for a pass.
                if target as usize > node && self.holds(graph, target as usize, weight, bound) {
                    let (a, b) = (root(&mut self.parent, node as u32), root(&mut self.parent, target));
                    self.parent[a.max(b) as usize] = a.min(b);
                    break;
                }
            }
            self.leave(graph, node);
        }
        self.give(order);
    }

    fn holds(&self, graph: &Csr, node: usize, weight: u64, bound: u64) -> bool {
        if weight >= bound {
            return true;
        }
        if graph.range(node).len() > ARCS_MAX {
            return false;
        }
        let around = |(target, weight): (u32, u64)| weight.min(self.near[target as usize]);
        weight + graph.row(node).map(around).sum::<u64>() >= bound
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
