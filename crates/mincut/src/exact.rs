//! The scan with full keys and a heap: slower, but it always finds something to contract.

use crate::csr::Csr;
use crate::scan::{Order, VISITED};
use crate::solve::Interrupted;
use std::collections::BinaryHeap;

/// Nodes between two calls of the interrupt callback.
const NODES_BETWEEN_INTERRUPTS: usize = 1024;

/// Working memory of the exact scan.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    keys: Vec<u64>,
    heap: BinaryHeap<(u64, u32)>,
}

impl Heap {
    /// Like [`crate::scan::scan`], with nothing rounded. The last node visited has its whole weighted degree as key, and
    /// no bound is above that: the last two nodes at least share a class.
    pub(crate) fn scan(
        &mut self,
        graph: &Csr,
        bound: u64,
        order: &mut Order,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<(), Interrupted> {
        let nodes = graph.nodes();
        order.reset(nodes);
        self.keys.clear();
        self.keys.resize(nodes, 0);
        self.heap.clear();
        let (mut head, mut len, mut unseen) = (0, 0, 0);
        while len < nodes {
            let fresh = loop {
                match self.heap.pop() {
                    Some((key, node))
                        if key == self.keys[node as usize] && order.class[node as usize] == 0 =>
                    {
                        break node;
                    }
                    Some(_) => {}
                    None => {
                        if len > 0 {
                            order.reached = order.reached.min(len);
                        }
                        while order.class[unseen] != 0 {
                            unseen += 1;
                        }
                        break unseen as u32;
                    }
                }
            };
            let class = VISITED | order.starts.len() as u32;
            order.starts.push(len as u32);
            order.class[fresh as usize] = class;
            order.nodes[len] = fresh;
            len += 1;
            while head < len {
                let node = order.nodes[head] as usize;
                head += 1;
                for (target, weight) in graph.row(node) {
                    if order.class[target as usize] != 0 {
                        continue;
                    }
                    let key = &mut self.keys[target as usize];
                    *key += weight;
                    if *key >= bound {
                        order.class[target as usize] = class;
                        order.nodes[len] = target;
                        len += 1;
                    } else {
                        self.heap.push((*key, target));
                    }
                }
                if head % NODES_BETWEEN_INTERRUPTS == 0 && interrupt() {
                    return Err(Interrupted);
                }
            }
        }
        order.starts.push(nodes as u32);
        Ok(())
    }
}

#[cfg(test)]
impl Heap {
    pub(crate) fn was_used(&self) -> bool {
        !self.keys.is_empty()
    }
}
