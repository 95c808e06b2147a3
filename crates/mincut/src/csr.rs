//! Compressed sparse rows: the one shape in which the solver reads a graph, be it the caller's or a contracted one.

use crate::prefetch::prefetch;

/// A symmetric weighted graph; every edge is two arcs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Csr {
    /// `offsets[v]..offsets[v + 1]` are the arcs of node `v`.
    pub(crate) offsets: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    pub(crate) weights: Vec<u64>,
    /// Weighted degree of each node: the value of the cut around it.
    pub(crate) degrees: Vec<u64>,
}

impl Csr {
    pub(crate) fn nodes(&self) -> usize {
        self.degrees.len()
    }

    pub(crate) fn arcs(&self) -> usize {
        self.targets.len()
    }

    pub(crate) fn range(&self, node: usize) -> std::ops::Range<usize> {
        self.offsets[node] as usize..self.offsets[node + 1] as usize
    }

    /// Neighbours and weights of a node.
    #[inline]
    pub(crate) fn row(&self, node: usize) -> impl Iterator<Item = (u32, u64)> + '_ {
        let range = self.range(node);
        self.targets[range.clone()].iter().copied().zip(self.weights[range].iter().copied())
    }

    /// Asks for the place of a node's row.
    #[inline]
    pub(crate) fn prefetch_offset(&self, node: u32) {
        prefetch(&self.offsets, node as usize);
    }

    /// Asks for the first arcs of a node's row, as many as a node of the graphs this is made for has: two cache lines of
    /// neighbours, three of weights.
    #[inline]
    pub(crate) fn prefetch_row(&self, node: u32) {
        let start = self.offsets[node as usize] as usize;
        prefetch(&self.targets, start);
        prefetch(&self.targets, start + 12);
        prefetch(&self.weights, start);
        prefetch(&self.weights, start + 8);
        prefetch(&self.weights, start + 16);
    }

    /// The node with the smallest weighted degree, and that degree.
    pub(crate) fn lightest(&self) -> Option<(usize, u64)> {
        // In two steps: the first compiles to vector instructions.
        let least = self.degrees.iter().copied().fold(u64::MAX, u64::min);
        self.degrees.iter().position(|&degree| degree == least).map(|node| (node, least))
    }

    /// Makes the graph of an edge list: loops dropped, parallel edges summed, and edges for which `units` is `None`
    /// left out.
    pub(crate) fn from_edges(
        nodes: usize,
        edges: &[(u32, u32, f64)],
        units: impl Fn(f64) -> Option<u64>,
    ) -> Self {
        let mut offsets = vec![0u32; nodes + 1];
        for &(u, v, capacity) in edges {
            if u != v && units(capacity).is_some() {
                offsets[u as usize] += 1;
                offsets[v as usize] += 1;
            }
        }
        // The fill below advances each start to its end, and the shift takes that back.
        let mut sum = 0u32;
        for offset in &mut offsets {
            (sum, *offset) = (sum + *offset, sum);
        }
        let mut targets = vec![0u32; sum as usize];
        let mut weights = vec![0u64; sum as usize];
        for &(u, v, capacity) in edges {
            if u == v {
                continue;
            }
            if let Some(units) = units(capacity) {
                for (from, to) in [(u, v), (v, u)] {
                    let at = &mut offsets[from as usize];
                    targets[*at as usize] = to;
                    weights[*at as usize] = units;
                    *at += 1;
                }
            }
        }
        offsets.copy_within(0..nodes, 1);
        offsets[0] = 0;
        let mut graph = Self { offsets, targets, weights, degrees: vec![0; nodes] };
        graph.merge_parallel(&mut Vec::new());
        graph.targets.shrink_to_fit();
        graph.weights.shrink_to_fit();
        graph.sum_degrees();
        graph
    }

    /// Sorts each row by neighbour, as [`Csr::change`] needs it.
    pub(crate) fn sort_rows(&mut self) {
        let mut row: Vec<(u32, u64)> = Vec::new();
        for node in 0..self.nodes() {
            row.clear();
            row.extend(self.row(node));
            row.sort_unstable();
            let start = self.offsets[node] as usize;
            for (at, &(target, weight)) in row.iter().enumerate() {
                self.targets[start + at] = target;
                self.weights[start + at] = weight;
            }
        }
    }

    /// Position of the arc between two nodes of a graph with sorted rows.
    pub(crate) fn arc(&self, from: u32, to: u32) -> Option<usize> {
        let range = self.range(from as usize);
        self.targets[range.clone()].binary_search(&to).ok().map(|at| range.start + at)
    }

    /// Changes the weight of an edge of a graph with sorted rows, and the degrees of its ends; returns what it was.
    pub(crate) fn change(&mut self, u: u32, v: u32, weight: impl Fn(u64) -> u64) -> u64 {
        let mut before = 0;
        for (from, to) in [(u, v), (v, u)] {
            let Some(arc) = self.arc(from, to) else {
                debug_assert!(false, "no edge between {u} and {v}");
                return before;
            };
            let slot = &mut self.weights[arc];
            let (old, new) = (*slot, weight(*slot));
            *slot = new;
            let degree = &mut self.degrees[from as usize];
            *degree = *degree - old + new;
            before = old;
        }
        before
    }

    pub(crate) fn clear(&mut self) {
        self.offsets.clear();
        self.targets.clear();
        self.weights.clear();
        self.degrees.clear();
    }

    /// Sums parallel arcs in place, keeping the order of first appearance. `written` is working memory.
    pub(crate) fn merge_parallel(&mut self, written: &mut Vec<u32>) {
        // Where node `t` was last written; a position before the current node's start means "not yet here".
        written.clear();
        written.resize(self.nodes(), u32::MAX);
        let mut out = 0u32;
        let mut begin = 0u32;
        for node in 0..self.nodes() {
            let end = self.offsets[node + 1];
            let start = out;
            for arc in begin..end {
                let target = self.targets[arc as usize];
                let units = self.weights[arc as usize];
                let at = written[target as usize];
                if at != u32::MAX && at >= start {
                    self.weights[at as usize] += units;
                } else {
                    written[target as usize] = out;
                    self.targets[out as usize] = target;
                    self.weights[out as usize] = units;
                    out += 1;
                }
            }
            begin = end;
            self.offsets[node + 1] = out;
        }
        self.targets.truncate(out as usize);
        self.weights.truncate(out as usize);
    }

    /// Divides all weights by their greatest common divisor and returns it. Graphs whose capacities are multiples of
    /// one number then have small weights, for which the solver's coarse keys are exact.
    pub(crate) fn divide_by_common_divisor(&mut self) -> u64 {
        let mut divisor = 0u64;
        for &weight in &self.weights {
            let (mut a, mut b) = (weight, divisor);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            divisor = a;
            if divisor == 1 {
                return 1;
            }
        }
        if divisor == 0 {
            return 1;
        }
        for weight in &mut self.weights {
            *weight /= divisor;
        }
        divisor
    }

    pub(crate) fn sum_degrees(&mut self) {
        self.degrees.resize(self.offsets.len() - 1, 0);
        for node in 0..self.nodes() {
            self.degrees[node] = self.weights[self.range(node)].iter().sum();
        }
    }
}
