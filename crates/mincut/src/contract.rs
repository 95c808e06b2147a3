//! Contraction of the classes of an order into a smaller graph.

use crate::csr::Csr;
use crate::scan::{Order, VISITED};

/// A class with more arcs is expected to hold most of them inside. Then a test that skips them is predicted well and
/// saves reading their weights: a fifth of the time on a random graph that falls into one class. In small classes
/// the same test is mispredicted, and costs a third more than it saves.
const ARCS_OF_LARGE_CLASS: usize = 1 << 14;

/// How many members before its turn a node's row is asked for; its place in half of that.
const AHEAD: usize = 16;

/// Writes to `out` the graph whose nodes are the classes of `order`; weights between two classes are summed.
///
/// The members of a class lie together in the order, so one pass over their arcs with an array of "where did I put
/// this neighbour" suffices; a graph of at least `stream_arcs` arcs that shrinks much is read in its own order instead.
pub(crate) fn contract(graph: &Csr, order: &Order, stream_arcs: usize, placed: &mut Vec<u32>, out: &mut Csr) {
    let classes = order.classes();
    let largest = (0..classes).max_by_key(|&class| order.members(class).len()).unwrap_or(0);
    // A class that has swallowed most of the graph need not be read: its arcs are those of the others, reversed.
    let swallowed = 2 * order.members(largest).len() > graph.nodes();
    if !swallowed && graph.arcs() >= stream_arcs && classes < graph.nodes() / 4 {
        stream(graph, order, out);
        out.merge_parallel(placed);
        return;
    }
    out.clear();
    placed.clear();
    placed.resize(classes, u32::MAX);
    out.offsets.reserve_exact(classes + 1);
    out.degrees.reserve_exact(classes);
    out.offsets.push(0);
    // Places are counted over all rows, so that no row's entries look like another's.
    let mut base = 0u32;
    for class in 0..classes {
        let start = out.targets.len();
        if swallowed && class == largest {
            out.degrees.push(0);
            out.offsets.push(start as u32);
            continue;
        }
        let members = order.members(class);
        let arcs: usize = members.iter().map(|&node| graph.range(node as usize).len()).sum();
        // Room for the row, so that the inner loop writes without growing anything.
        let room = start + 1 + arcs.min(classes);
        reserve(out, room, graph.arcs());
        out.targets.resize(room, 0);
        out.weights.resize(room, 0);
        let mut row = Row {
            placed,
            base,
            targets: &mut out.targets[start..],
            weights: &mut out.weights[start..],
            len: 0,
        };
        let degree = if arcs > ARCS_OF_LARGE_CLASS {
            row.gather_large(graph, order, class as u32)
        } else {
            row.gather(graph, order, class as u32)
        };
        let end = start + row.len;
        base = row.base;
        out.degrees.push(degree);
        out.targets.truncate(end);
        out.weights.truncate(end);
        out.offsets.push(end as u32);
    }
    if swallowed {
        mirror(out, largest);
    }
}

/// Gives the node `empty`, whose row is empty, the reverse of the arcs that lead to it.
fn mirror(out: &mut Csr, empty: usize) {
    let arcs = out.targets.len();
    out.targets.reserve_exact(out.nodes());
    out.weights.reserve_exact(out.nodes());
    for node in 0..out.nodes() {
        for at in out.range(node) {
            if out.targets[at] as usize == empty {
                let weight = out.weights[at];
                out.targets.push(node as u32);
                out.weights.push(weight);
                out.degrees[empty] += weight;
            }
        }
    }
    let found = out.targets.len() - arcs;
    let start = out.offsets[empty] as usize;
    out.targets[start..].rotate_right(found);
    out.weights[start..].rotate_right(found);
    for offset in &mut out.offsets[empty + 1..] {
        *offset += found as u32;
    }
}

/// Like [`contract`] with parallel arcs unmerged, for a graph too large for the caches that shrinks much: the members of
/// a class lie scattered, so the arcs are read as they lie in memory, twice, and only the few that leave a class are
/// moved.
fn stream(graph: &Csr, order: &Order, out: &mut Csr) {
    let classes = order.classes();
    out.clear();
    out.offsets.resize(classes + 1, 0);
    out.degrees.resize(classes, 0);
    for node in 0..graph.nodes() {
        let class = order.class[node];
        let targets = &graph.targets[graph.range(node)];
        let leaving = targets.iter().filter(|&&target| order.class[target as usize] != class).count();
        out.offsets[(class & !VISITED) as usize] += leaving as u32;
    }
    let mut sum = 0;
    for offset in &mut out.offsets {
        (sum, *offset) = (sum + *offset, sum);
    }
    out.targets.reserve_exact(sum as usize);
    out.targets.resize(sum as usize, 0);
    out.weights.reserve_exact(sum as usize);
    out.weights.resize(sum as usize, 0);
    for node in 0..graph.nodes() {
        let class = order.class[node];
        let range = graph.range(node);
        let weights = &graph.weights[range.clone()];
        for (nth, &target) in graph.targets[range].iter().enumerate() {
            let other = order.class[target as usize];
            if other != class {
                let class = (class & !VISITED) as usize;
                let at = out.offsets[class] as usize;
                out.targets[at] = other & !VISITED;
                out.weights[at] = weights[nth];
                out.degrees[class] += weights[nth];
                out.offsets[class] += 1;
            }
        }
    }
    out.offsets.copy_within(0..classes, 1);
    out.offsets[0] = 0;
}

/// A row of the new graph while it is made.
struct Row<'a> {
    placed: &'a mut [u32],
    base: u32,
    targets: &'a mut [u32],
    weights: &'a mut [u64],
    len: usize,
}

impl Row<'_> {
    #[inline]
    fn add(&mut self, other: u32, weight: u64) {
        let at = self.placed[other as usize].wrapping_sub(self.base) as usize;
        if at < self.len {
            self.weights[at] += weight;
        } else {
            self.placed[other as usize] = self.base + self.len as u32;
            self.targets[self.len] = other;
            self.weights[self.len] = weight;
            self.len += 1;
        }
    }

    /// The class itself takes the first place of its row while the row is made: arcs inside need no test of their
    /// own, and their sum is what the class's weighted degree loses.
    fn gather(&mut self, graph: &Csr, order: &Order, class: u32) -> u64 {
        self.add(class, 0);
        let mut degree = 0;
        for (nth, &node) in order.members(class as usize).iter().enumerate() {
            degree += graph.degrees[node as usize];
            let at = order.starts[class as usize] as usize + nth;
            if at + AHEAD < order.nodes.len() {
                graph.prefetch_offset(order.nodes[at + AHEAD]);
                graph.prefetch_row(order.nodes[at + AHEAD / 2]);
            }
            for (target, weight) in graph.row(node as usize) {
                self.add(order.class[target as usize] & !VISITED, weight);
            }
        }
        degree -= self.weights[0];
        // The class's place goes to the last of the row.
        self.base += self.len as u32;
        self.len -= 1;
        self.targets[0] = self.targets[self.len];
        self.weights[0] = self.weights[self.len];
        degree
    }

    fn gather_large(&mut self, graph: &Csr, order: &Order, class: u32) -> u64 {
        let mut degree = 0;
        for &node in order.members(class as usize) {
            let range = graph.range(node as usize);
            let weights = &graph.weights[range.clone()];
            for (nth, &target) in graph.targets[range].iter().enumerate() {
                let other = order.class[target as usize] & !VISITED;
                if other != class {
                    degree += weights[nth];
                    self.add(other, weights[nth]);
                }
            }
        }
        self.base += self.len as u32;
        degree
    }
}

/// Grows the arc arrays by a quarter, but never far beyond what the source has: the rows written so far have at most as
/// many arcs as their members had.
fn reserve(out: &mut Csr, need: usize, arcs_max: usize) {
    if need > out.targets.capacity() {
        let target = (need + need / 4).min(arcs_max + 1).max(need);
        out.targets.reserve_exact(target - out.targets.len());
        out.weights.reserve_exact(target - out.weights.len());
    }
}
