//! The maximum-adjacency scan of a graph whose classes are taken for nodes without being contracted.
//!
//! A graph whose nodes have hardly more capacity than the bound (a nearly regular one) loses a few nodes a scan and keeps
//! its arcs. To write it anew each time costs as much as the scan, and two more copies of the graph.

use crate::csr::Csr;
use crate::queue::Buckets;
use crate::scan::{Keys, Order, VISITED};
use crate::solve::Interrupted;

/// Classes between two calls of the interrupt callback.
const CLASSES_BETWEEN_INTERRUPTS: usize = 4096;

/// Working memory of such scans.
#[derive(Debug, Default)]
pub(crate) struct Regroup {
    /// Key of each class while it waits, then its new class.
    keys: Vec<u32>,
    /// Classes as they were visited.
    visited: Vec<u32>,
    /// The new order's nodes and starts, while they are made.
    nodes: Vec<u32>,
    starts: Vec<u32>,
    /// Value of the smallest cut around a class, and its nodes.
    pub(crate) least: u64,
    pub(crate) side: Vec<u32>,
}

impl Regroup {
    /// Merges classes of `order` that no cut below `bound` separates, and finds the class with the least capacity around
    /// it, of those there were before.
    pub(crate) fn scan(
        &mut self,
        graph: &Csr,
        bound: u64,
        key_bits: u32,
        order: &mut Order,
        buckets: &mut Buckets,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<(), Interrupted> {
        let classes = order.classes();
        let Keys { shift, threshold, pool_max } = Keys::new(bound, key_bits, classes);
        buckets.reset(threshold);
        self.keys.clear();
        self.keys.resize(classes, 0);
        self.visited.clear();
        self.visited.resize(classes, 0);
        self.starts.clear();
        self.least = u64::MAX;
        let (mut head, mut len, mut unseen, mut lightest) = (0, 0, 0, 0);
        let mut reached = None;
        while len < classes {
            let fresh = match buckets.pop_valid(&self.keys) {
                Some(class) => class,
                None => {
                    if len > 0 {
                        reached = reached.or(Some(len));
                    }
                    while self.keys[unseen] & VISITED != 0 {
                        unseen += 1;
                    }
                    unseen as u32
                }
            };
            let new = VISITED | self.starts.len() as u32;
            self.starts.push(len as u32);
            self.keys[fresh as usize] = new;
            self.visited[len] = fresh;
            len += 1;
            while head < len {
                let class = self.visited[head];
                head += 1;
                let mut around = 0;
                for &node in order.members(class as usize) {
                    for (target, weight) in graph.row(node as usize) {
                        let other = order.class[target as usize] & !VISITED;
                        around += if other == class { 0 } else { weight };
                        let slot = &mut self.keys[other as usize];
                        let key = *slot;
                        if key < threshold {
                            let grown = u64::from(key) + (weight >> shift);
                            if grown >= u64::from(threshold) {
                                *slot = new;
                                self.visited[len] = other;
                                len += 1;
                            } else if grown as u32 != key {
                                *slot = grown as u32;
                                buckets.push(other, grown as u32);
                            }
                        }
                    }
                }
                if around < self.least {
                    (self.least, lightest) = (around, class);
                }
                if buckets.pool_len() > pool_max {
                    buckets.refill(threshold, &self.keys);
                }
                if head % CLASSES_BETWEEN_INTERRUPTS == 0 && interrupt() {
                    return Err(Interrupted);
                }
            }
        }
        self.side.clear();
        self.side.extend_from_slice(order.members(lightest as usize));
        self.merge(order, reached);
        Ok(())
    }

    /// Writes the new classes to the order: its intervals in the order in which they were visited.
    fn merge(&mut self, order: &mut Order, reached: Option<usize>) {
        self.nodes.clear();
        order.reached = order.class.len();
        let (mut new, classes) = (0, self.starts.len());
        for (at, &class) in self.visited.iter().enumerate() {
            if reached == Some(at) {
                order.reached = self.nodes.len();
            }
            if self.starts.get(new) == Some(&(at as u32)) {
                self.starts[new] = self.nodes.len() as u32;
                new += 1;
            }
            self.nodes.extend_from_slice(order.members(class as usize));
        }
        debug_assert_eq!(new, classes);
        self.starts.push(self.nodes.len() as u32);
        for class in &mut order.class {
            *class = self.keys[(*class & !VISITED) as usize];
        }
        std::mem::swap(&mut order.nodes, &mut self.nodes);
        std::mem::swap(&mut order.starts, &mut self.starts);
    }
}
