//! The part of every capacity that a bound on all cuts rests on.
//!
//! Nagamochi and Ibaraki (1992): of the arcs that raise a node's key in a maximum-adjacency scan, keep only what raises it
//! up to the bound. In what is kept every cut is worth the bound, or as much as in the graph. For if a crossing arc from
//! `x` to `y` was not kept whole, then `y`'s key reached the bound when `x` was visited, and what was kept until then holds
//! the two together by the bound; and if all were kept whole, nothing is missing.
//!
//! So an edge may lose what was not kept of it, and no cut that was worth the bound is worth less than it: one comparison.
//! And when it loses more, the certificate can be mended: paths between its ends over capacity that was not kept, if kept
//! from now on, give every cut between the two what it lost.

use crate::csr::Csr;
use crate::queue::Buckets;
use crate::scan::{Order, scan_keeping};
use crate::solve::Interrupted;

/// Kept capacities are rounded up to so many bits of the bound.
const KEPT_BITS: u32 = 30;
/// Arcs that one loss may look at.
const ARCS_LOOKED_AT_MAX: usize = 1 << 14;
/// Where no path can carry a loss whole, it is halved for several, so often.
const HALVINGS_MAX: u32 = 2;
/// A certificate that was mended for this part of its nodes has grown so much that it is worth a new one.
const MENDED_PART: usize = 8;
/// Numbers of searches have room for the end beside them.
const SEARCHES_MAX: u32 = u32::MAX / 2 - 1;

/// What is kept of the capacities of a graph with sorted rows.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Certificate {
    /// Of every arc, in steps of `2^shift` units, rounded up; both arcs of an edge agree. Beyond the capacity it means all
    /// of it.
    kept: Vec<u32>,
    shift: u32,
    /// It holds for the graph as it is.
    valid: bool,
    mended: usize,
    /// For every node, the number of the search that last saw it and from which end, and the arc by which it was seen.
    seen: Vec<u32>,
    by: Vec<u32>,
    search: u32,
    queues: [Vec<u32>; 2],
}

impl Certificate {
    /// Every cut that was worth the bound when this was made, or less, is still worth as much, or the bound.
    pub(crate) fn is_valid(&self) -> bool {
        self.valid
    }

    pub(crate) fn invalidate(&mut self) {
        self.valid = false;
    }

    /// So much was added that a smaller certificate can be had.
    pub(crate) fn is_worn(&self) -> bool {
        self.mended > self.seen.len() / MENDED_PART
    }

    /// Makes it anew, for a bound above 0. `counts` is working memory.
    pub(crate) fn make(
        &mut self,
        graph: &Csr,
        bound: u64,
        key_bits: u32,
        (order, buckets, counts): (&mut Order, &mut Buckets, &mut Vec<u32>),
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<(), Interrupted> {
        self.valid = false;
        self.mended = 0;
        self.shift = (u64::BITS - bound.leading_zeros()).saturating_sub(KEPT_BITS);
        self.kept.clear();
        self.kept.reserve_exact(graph.arcs());
        self.kept.resize(graph.arcs(), 0);
        let (kept, shift) = (&mut self.kept, self.shift);
        // At most twice the bound, as keys are rounded.
        let mut keep = |arc: usize, part: u64| kept[arc] = part.div_ceil(1 << shift) as u32;
        scan_keeping(graph, bound, key_bits, 0, order, buckets, interrupt, &mut keep)?;
        // The other arc of every edge. Rows are sorted, so the arcs that lead back to a node come in the order of the rows.
        counts.clear();
        counts.extend_from_slice(&graph.offsets[..graph.nodes()]);
        for node in 0..graph.nodes() {
            for arc in graph.range(node) {
                let target = graph.targets[arc] as usize;
                let back = &mut counts[target];
                if target > node {
                    let both = self.kept[arc].max(self.kept[*back as usize]);
                    self.kept[arc] = both;
                    self.kept[*back as usize] = both;
                }
                *back += 1;
            }
        }
        self.seen.clear();
        self.seen.resize(graph.nodes(), 0);
        self.by.clear();
        self.by.resize(graph.nodes(), 0);
        self.search = 0;
        self.valid = true;
        Ok(())
    }

    /// The edge between `u` and `v` has lost capacity and had `before`. Whether the certificate holds, as it is or mended; if
    /// not, it is not valid any more.
    pub(crate) fn withstands(&mut self, graph: &Csr, u: u32, v: u32, before: u64) -> bool {
        if !self.valid {
            return false;
        }
        let (Some(along), Some(against)) = (graph.arc(u, v), graph.arc(v, u)) else { return false };
        let now = graph.weights[along];
        let lost = before.min(u64::from(self.kept[along]) << self.shift).saturating_sub(now);
        if lost > 0 {
            let left = now.div_ceil(1 << self.shift) as u32;
            self.kept[along] = left;
            self.kept[against] = left;
            self.valid = self.mend(graph, u, v, lost);
            self.mended += 1;
        }
        self.valid
    }

    /// Keeps paths between two nodes that carry `lost` together.
    fn mend(&mut self, graph: &Csr, u: u32, v: u32, lost: u64) -> bool {
        let mut wanted = lost.div_ceil(1 << self.shift) as u32;
        let (mut part, mut halvings, mut arcs) = (wanted, 0, ARCS_LOOKED_AT_MAX);
        while wanted > 0 {
            part = part.min(wanted);
            if let Some(path) = self.path(graph, u, v, part, &mut arcs) {
                self.keep_path(graph, path, part);
                wanted -= part;
            } else if halvings < HALVINGS_MAX && arcs > 0 {
                halvings += 1;
                part = part.div_ceil(2);
            } else {
                return false;
            }
        }
        true
    }

    /// It holds again, but for the cuts between two nodes that a loss was too much for; and a flow between the two, as much
    /// as the bound, needs so much of this edge, among others. To be told of all of them.
    pub(crate) fn keep_flow(&mut self, arcs: [usize; 2], through: u64) {
        for arc in arcs {
            self.kept[arc] = self.kept[arc].max(through.div_ceil(1 << self.shift) as u32);
        }
        self.valid = true;
    }

    /// Whether so much of an arc is not kept.
    fn spares(&self, graph: &Csr, arc: usize, part: u32) -> bool {
        let most = (graph.weights[arc] >> self.shift).min(u64::from(u32::MAX));
        most >= u64::from(self.kept[arc]) + u64::from(part)
    }

    /// Looks from both ends for a path with so much to spare; returns the arc in its middle, and the node that arc leaves.
    fn path(&mut self, graph: &Csr, u: u32, v: u32, part: u32, arcs: &mut usize) -> Option<(u32, usize)> {
        if self.search == SEARCHES_MAX {
            self.seen.fill(0);
            self.search = 0;
        }
        self.search += 1;
        let marks = [2 * self.search, 2 * self.search + 1];
        for (end, node) in [u, v].into_iter().enumerate() {
            self.queues[end].clear();
            self.queues[end].push(node);
            self.seen[node as usize] = marks[end];
            self.by[node as usize] = u32::MAX;
        }
        let (mut heads, mut work) = ([0, 0], [0, 0]);
        while *arcs > 0 {
            // The end that has done less goes on.
            let end = usize::from(work[1] < work[0]);
            let node = *self.queues[end].get(heads[end])?;
            heads[end] += 1;
            let range = graph.range(node as usize);
            work[end] += range.len();
            *arcs = arcs.saturating_sub(range.len());
            for arc in range {
                let target = graph.targets[arc];
                let mark = self.seen[target as usize];
                if mark == marks[end] || !self.spares(graph, arc, part) {
                    continue;
                }
                if mark == marks[1 - end] {
                    return Some((node, arc));
                }
                self.seen[target as usize] = marks[end];
                self.by[target as usize] = node;
                self.queues[end].push(target);
            }
        }
        None
    }

    /// Keeps so much more along the path that was found.
    fn keep_path(&mut self, graph: &Csr, (node, arc): (u32, usize), part: u32) {
        let Self { kept, by, .. } = self;
        let mut keep = |from: u32, to: u32| {
            for arc in [graph.arc(from, to), graph.arc(to, from)].into_iter().flatten() {
                kept[arc] += part;
            }
        };
        let target = graph.targets[arc];
        keep(node, target);
        for mut node in [node, target] {
            while by[node as usize] != u32::MAX {
                keep(by[node as usize], node);
                node = by[node as usize];
            }
        }
    }

    /// Brings the numbers of searches near their end.
    #[cfg(test)]
    pub(crate) fn age(&mut self) {
        self.seen.fill(0);
        self.search = SEARCHES_MAX - 1;
    }

    /// What is kept of an arc, at most its capacity.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn kept(&self, graph: &Csr, arc: usize) -> u64 {
        graph.weights[arc].min(u64::from(self.kept[arc]) << self.shift)
    }
}
