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
/// Places for the neighbours of the node under test: few collide, and all stay in the first-level cache.
const PLACES: usize = 512;
/// Arcs summed up between two looks at the sum: most tests hold long before the end of the row.
const STEP: usize = 8;
/// Failed tests after which a node gives up: where these fail, others would.
const PATIENCE: usize = 4;

/// A hub is joined to at least this part of the nodes.
const HUB_PART: usize = 8;

/// Working memory of the tests.
#[derive(Debug, Default)]
pub(crate) struct Local {
    parent: Vec<u32>,
    near: Near,
    /// A node joined to many, and the capacity from each node to it.
    hub: usize,
    near_hub: Vec<u64>,
    /// Nodes that need no test of their own any more.
    taken: Vec<bool>,
}

/// The neighbours of the node under test and the capacity to each, by the low bits of their number. Of two that fall on
/// one place the later stays: the other is no longer seen as a neighbour, and the test is weaker, never wrong. So small
/// an array stays in the first-level cache.
#[derive(Debug)]
struct Near {
    node: [u32; PLACES],
    weight: [u64; PLACES],
}

impl Default for Near {
    fn default() -> Self {
        Self { node: [u32::MAX; PLACES], weight: [0; PLACES] }
    }
}

impl Local {
    /// Whether most of a few nodes, evenly spread, have a neighbour that the triangles (not the edge alone, which a
    /// scan sees as well) certify.
    pub(crate) fn promises(&mut self, graph: &Csr, bound: u64, samples: usize) -> bool {
        let nodes = graph.nodes();
        if samples == 0 || nodes < samples {
            return false;
        }
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

    /// Whether there is a hub, a node that a good part of the others is joined to, and most of a few of those hold to it.
    ///
    /// What is left of a graph without structure is of that kind: one node that has swallowed the others, and some
    /// whose degree is barely above the bound.
    pub(crate) fn hub_promises(&mut self, graph: &Csr, bound: u64, samples: usize) -> bool {
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

    /// Like [`Local::run`], for the edges at the hub that was found last.
    pub(crate) fn run_hub(&mut self, graph: &Csr, bound: u64, order: &mut Order) {
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

    fn enter(&mut self, graph: &Csr, node: usize) {
        for (target, weight) in graph.row(node) {
            let place = target as usize % PLACES;
            self.near.node[place] = target;
            self.near.weight[place] = weight;
        }
    }

    fn leave(&mut self, graph: &Csr, node: usize) {
        for (target, _) in graph.row(node) {
            self.near.node[target as usize % PLACES] = u32::MAX;
        }
    }

    /// Leaves in `order` the classes of nodes that no cut below `bound` separates, as far as the tests see.
    pub(crate) fn run(&mut self, graph: &Csr, bound: u64, order: &mut Order) {
        let nodes = graph.nodes();
        self.parent.clear();
        self.parent.extend(0..nodes as u32);
        // A node and all its neighbours that hold to it make a set, and of the neighbours that others took before one is
        // enough to join the sets: one test a node, and few nodes whose neighbours must be written down.
        self.taken.clear();
        self.taken.resize(nodes, false);
        for node in 0..nodes {
            if self.taken[node] || graph.range(node).len() > ARCS_MAX {
                continue;
            }
            self.taken[node] = true;
            for (target, _) in graph.row(node) {
                graph.prefetch_offset(target);
            }
            self.enter(graph, node);
            for (target, _) in graph.row(node) {
                if !self.taken[target as usize] {
                    graph.prefetch_row(target);
                }
            }
            let mut set = root(&mut self.parent, node as u32);
            let mut joined = false;
            let mut patience = PATIENCE;
            for (target, weight) in graph.row(node) {
                let taken = self.taken[target as usize];
                if taken && joined {
                    continue;
                }
                let other = root(&mut self.parent, target);
                if other == set {
                    continue;
                }
                if !self.holds(graph, target as usize, weight, bound) {
                    patience -= 1;
                    if patience == 0 {
                        break;
                    }
                } else {
                    let (low, high) = (set.min(other), set.max(other));
                    self.parent[high as usize] = low;
                    set = low;
                    joined |= taken;
                    self.taken[target as usize] = true;
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
        let range = graph.range(node);
        let mut sum = weight;
        // In steps: most tests hold long before the end of the row.
        for (targets, weights) in
            graph.targets[range.clone()].chunks(STEP).zip(graph.weights[range].chunks(STEP))
        {
            for (&target, &weight) in targets.iter().zip(weights) {
                let place = target as usize % PLACES;
                let seen = u64::from(self.near.node[place] == target).wrapping_neg();
                sum += weight.min(self.near.weight[place] & seen);
            }
            if sum >= bound {
                return true;
            }
        }
        false
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
