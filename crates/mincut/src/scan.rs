//! The maximum-adjacency scan of a sparse graph, and the classes it certifies.
//!
//! Nagamochi, Ono and Ibaraki (1994): visit the nodes so that the next one is always the one most strongly attached
//! to those visited before. When a node's attachment (its *key*) reaches a bound, no cut below the bound separates
//! it from the visited node that made it reach the bound.
//!
//! Two consequences make the scan cheap. Keys need not be told apart above the bound (Henzinger, Noe, Schulz and
//! Strash 2018), so nodes that have reached it form a plain queue. And a node popped while such nodes wait is always
//! one of them; the node that carried it over the bound was popped after the last node below the bound. The classes
//! are therefore *intervals* of the order: a new one begins exactly where a node is popped below the bound. No
//! union-find, and no test of edges one by one.
//!
//! Real weights are shifted down to small keys, so that buckets replace a heap. The scan then is an exact scan of
//! the graph with weights rounded down; attachments there are lower bounds of the true ones, so what is contracted
//! is never wrong. What rounding misses is left to the next scan, or to [`crate::exact`].

use crate::csr::Csr;
use crate::queue::Buckets;
use crate::solve::Interrupted;

/// Keys with this bit hold the class of a visited node.
pub(crate) const VISITED: u32 = 1 << 31;

/// Nodes between two calls of the interrupt callback.
const NODES_BETWEEN_INTERRUPTS: usize = 4096;

/// How many nodes before its visit a node's row is asked for; its place in half of that. Without, a scan of a million
/// edges waits for memory half of its time (measured: 15.9 against 10.0 ms on G(100,000, 800,000)).
const AHEAD: usize = 16;

/// The order of one scan and its classes.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// During a scan the key of each node; after it its class, with [`VISITED`] set.
    pub(crate) class: Vec<u32>,
    /// The nodes as they were visited: classes are intervals.
    pub(crate) nodes: Vec<u32>,
    /// Where each class begins in `nodes`, and the end.
    pub(crate) starts: Vec<u32>,
    /// After a scan of a graph that fell apart (or seemed to, by rounding): how many nodes were visited until then.
    pub(crate) reached: usize,
}

impl Order {
    pub(crate) fn classes(&self) -> usize {
        self.starts.len() - 1
    }

    pub(crate) fn members(&self, class: usize) -> &[u32] {
        &self.nodes[self.starts[class] as usize..self.starts[class + 1] as usize]
    }

    /// Given the class of every node, and in `starts` the number of members of every class, fills in the rest.
    pub(crate) fn sort(&mut self) {
        let mut sum = 0;
        for start in &mut self.starts {
            (sum, *start) = (sum + *start, sum);
        }
        let classes = self.starts.len();
        self.starts.push(sum);
        // The starts serve as places to write to, so each advances to the next; the shift takes that back.
        for (node, class) in self.class.iter().enumerate() {
            let at = &mut self.starts[(class & !VISITED) as usize];
            self.nodes[*at as usize] = node as u32;
            *at += 1;
        }
        self.starts.copy_within(0..classes, 1);
        self.starts[0] = 0;
    }

    pub(crate) fn reset(&mut self, nodes: usize) {
        self.class.clear();
        self.class.resize(nodes, 0);
        self.nodes.clear();
        self.nodes.resize(nodes, 0);
        self.starts.clear();
        self.reached = nodes;
    }
}

/// How weights become keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys {
    /// Bits that a weight loses.
    pub(crate) shift: u32,
    /// The key that means the bound.
    pub(crate) threshold: u32,
    /// Entries that went stale are swept out once they outnumber the nodes: memory stays proportional to the nodes.
    pub(crate) pool_max: usize,
}

impl Keys {
    pub(crate) fn new(bound: u64, key_bits: u32, nodes: usize) -> Self {
        let shift = (u64::BITS - bound.leading_zeros()).saturating_sub(key_bits);
        // Rounded up, as weights are rounded down. The quotient is at most 2^key_bits.
        let threshold = ((bound + (1 << shift) - 1) >> shift) as u32;
        Self { shift, threshold, pool_max: 2 * nodes + 1024 }
    }
}

/// Scans `graph` from `first`; two nodes get one class only if no cut below `bound` separates them.
/// `key_bits` is the resolution of the keys, at most [`crate::queue::KEY_BITS_MAX`].
pub(crate) fn scan(
    graph: &Csr,
    bound: u64,
    key_bits: u32,
    first: u32,
    order: &mut Order,
    buckets: &mut Buckets,
    interrupt: &mut dyn FnMut() -> bool,
) -> Result<(), Interrupted> {
    scan_keeping(graph, bound, key_bits, first, order, buckets, interrupt, &mut |_, _| {})
}

/// [`scan`], which tells what of an arc raised a key up to the bound: all of it, at most so much of it, or nothing (not
/// told).
#[inline]
#[allow(clippy::too_many_arguments, reason = "those of a scan, and one")]
pub(crate) fn scan_keeping(
    graph: &Csr,
    bound: u64,
    key_bits: u32,
    first: u32,
    order: &mut Order,
    buckets: &mut Buckets,
    interrupt: &mut dyn FnMut() -> bool,
    keep: &mut impl FnMut(usize, u64),
) -> Result<(), Interrupted> {
    let nodes = graph.nodes();
    let Keys { shift, threshold, pool_max } = Keys::new(bound, key_bits, nodes);
    order.reset(nodes);
    buckets.reset(threshold);
    let (mut head, mut len, mut unseen) = (0, 0, 0);
    let mut next = Some(first);
    while len < nodes {
        let fresh = match next.take() {
            Some(node) => node,
            None => match buckets.pop_valid(&order.class) {
                Some(node) => node,
                None => {
                    order.reached = order.reached.min(len);
                    while order.class[unseen] & VISITED != 0 {
                        unseen += 1;
                    }
                    unseen as u32
                }
            },
        };
        let class = VISITED | order.starts.len() as u32;
        order.starts.push(len as u32);
        order.class[fresh as usize] = class;
        order.nodes[len] = fresh;
        len += 1;
        while head < len {
            let node = order.nodes[head] as usize;
            head += 1;
            if len > head + AHEAD {
                graph.prefetch_offset(order.nodes[head + AHEAD]);
            }
            if len > head + AHEAD / 2 {
                graph.prefetch_row(order.nodes[head + AHEAD / 2]);
            }
            let range = graph.range(node);
            let row = graph.targets[range.clone()].iter().zip(&graph.weights[range.clone()]);
            for ((&target, &weight), arc) in row.zip(range) {
                let slot = &mut order.class[target as usize];
                let key = *slot;
                if key < threshold {
                    let grown = u64::from(key) + (weight >> shift);
                    if grown >= u64::from(threshold) {
                        keep(arc, weight.min(u64::from(threshold - key) << shift));
                        *slot = class;
                        order.nodes[len] = target;
                        len += 1;
                    } else {
                        keep(arc, weight);
                        if grown as u32 != key {
                            *slot = grown as u32;
                            buckets.push(target, grown as u32);
                        }
                    }
                }
            }
            if buckets.pool_len() > pool_max {
                buckets.refill(threshold, &order.class);
            }
            if head % NODES_BETWEEN_INTERRUPTS == 0 && interrupt() {
                return Err(Interrupted);
            }
        }
    }
    order.starts.push(nodes as u32);
    Ok(())
}
