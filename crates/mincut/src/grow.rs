//! Sets that are grown from a node outwards, and the graph that is left when each is one node.
//!
//! Padberg and Rinaldi (1990): between `u` and `v` there are the edge itself and a path over every common neighbour `t`,
//! none sharing an edge with another. If their capacities sum to the bound, no smaller cut separates the two, and they
//! may be taken for one node. Here `u` is the set grown so far. Its *keys*, the capacity from it to every node around, make
//! either test one pass over a node's own arcs: a node whose key reaches the bound joins at once, any other when key and
//! triangles do.
//!
//! A maximum-adjacency scan certifies little in a tightly knit group whose connectivity is barely above the bound; this
//! takes such groups whole, and reads each arc about once. When a set is complete, the keys around it are the arcs of its
//! node in the contracted graph.

use crate::csr::Csr;
use crate::scan::{Order, VISITED};
use crate::solve::Interrupted;

/// Nodes with more arcs are no seeds and not tested (they may still join by their key), so that the pass stays linear.
const ARCS_MAX: usize = 64;
/// Arcs summed up between two looks at the sum: most tests hold long before the end of the row.
const STEP: usize = 8;
/// Failed tests in a row after which a set is complete: where these fail, others would.
const PATIENCE: usize = 4;
/// A node that hardly hangs on the set is not worth a test: it must hold by as many of these parts of the bound as the set
/// has nodes, at most half of them.
const ATTACHMENT_PARTS: i64 = 32;
/// When so many members wait for their arcs to be added, most nodes around have joined.
const AVALANCHE: usize = 14;
/// Seeds, or members of one set, between two calls of the interrupt callback.
const NODES_BETWEEN_INTERRUPTS: usize = 4096;

/// Working memory of the growth.
#[derive(Debug, Default)]
pub(crate) struct Grow {
    /// Capacity from the present set to each node outside; [`MEMBER`] or more for its members, below 0 for those of sets
    /// that are complete. All 0 between two calls.
    keys: Vec<i64>,
    /// Nodes whose key was raised, as they were met. With edges of no capacity one may be named twice.
    near: Vec<u32>,
    /// Class of a set, a node outside and the capacity between, told once for two sets.
    leaving: Vec<(u32, u32, u64)>,
    /// Whether all of those were kept.
    complete: bool,
    /// Nodes that belong to no set.
    singles: Vec<u32>,
}

/// Added to the key of a member: above every capacity (they sum to less than 2^62), and still so far from overflow that all
/// arcs of the node may be added.
const MEMBER: i64 = 1 << 62;
/// Key of a member of a complete set: below 0 even when all arcs of the node are added.
const TAKEN: i64 = i64::MIN;

impl Grow {
    /// Whether most of a few nodes, evenly spread, have a neighbour that the triangles (not the edge alone, which a
    /// scan sees as well) certify.
    pub(crate) fn promises(&mut self, graph: &Csr, bound: u64, samples: usize) -> bool {
        let nodes = graph.nodes();
        if samples == 0 || nodes < samples {
            return false;
        }
        self.make_room(nodes);
        let mut held = 0;
        for node in (0..samples).map(|sample| sample * (nodes / samples)) {
            if graph.range(node).len() > ARCS_MAX || graph.row(node).any(|(_, weight)| weight >= bound) {
                continue;
            }
            for (target, weight) in graph.row(node) {
                self.keys[target as usize] = weight as i64;
            }
            self.keys[node] = MEMBER;
            let holds = |target: u32| self.holds(graph, target, bound as i64);
            held += usize::from(graph.row(node).any(|(target, _)| holds(target)));
            for (target, _) in graph.row(node) {
                self.keys[target as usize] = 0;
            }
            self.keys[node] = 0;
        }
        2 * held > samples
    }

    fn make_room(&mut self, nodes: usize) {
        if self.keys.len() < nodes {
            self.keys.resize(nodes, 0);
        }
    }

    /// Leaves in `order` the classes of nodes that no cut below `bound` separates, as far as the growth sees, and keeps the
    /// arcs between them for [`Grow::contract`] while they are at most `leaving_max`.
    pub(crate) fn run(
        &mut self,
        graph: &Csr,
        bound: u64,
        leaving_max: usize,
        order: &mut Order,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<(), Interrupted> {
        let nodes = graph.nodes();
        self.make_room(nodes);
        self.leaving.clear();
        self.complete = true;
        order.reset(nodes);
        // The growth writes one place beyond what it keeps.
        order.nodes.push(0);
        let grown = self.sets(graph, bound, leaving_max, order, interrupt);
        if grown.is_err() {
            self.keys.fill(0);
        }
        let mut start = grown?;
        self.singles.clear();
        self.keys[..nodes].fill(0);
        for node in 0..nodes {
            if order.class[node] == 0 {
                order.class[node] = VISITED | order.starts.len() as u32;
                order.starts.push(start as u32);
                order.nodes[start] = node as u32;
                self.singles.push(node as u32);
                start += 1;
            }
        }
        order.nodes.truncate(nodes);
        order.starts.push(nodes as u32);
        Ok(())
    }

    /// Grows sets from all nodes, writing them to the order. Returns how many nodes belong to one.
    fn sets(
        &mut self,
        graph: &Csr,
        bound: u64,
        leaving_max: usize,
        order: &mut Order,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<usize, Interrupted> {
        let mut start = 0;
        for seed in 0..graph.nodes() {
            if seed % NODES_BETWEEN_INTERRUPTS == NODES_BETWEEN_INTERRUPTS - 1 && interrupt() {
                return Err(Interrupted);
            }
            if self.keys[seed] < 0 || graph.range(seed).len() > ARCS_MAX {
                continue;
            }
            let (end, near) = self.set(graph, bound as i64, seed, &mut order.nodes, start, interrupt)?;
            let grown = end > start + 1;
            self.complete &= self.leaving.len() + near <= leaving_max;
            for &node in &self.near[..near] {
                let key = &mut self.keys[node as usize];
                if *key < MEMBER {
                    if grown && self.complete {
                        self.leaving.push((order.starts.len() as u32, node, *key as u64));
                    }
                    *key = 0;
                }
            }
            if grown {
                for &node in &order.nodes[start..end] {
                    self.keys[node as usize] = TAKEN;
                    order.class[node as usize] = VISITED | order.starts.len() as u32;
                }
                order.starts.push(start as u32);
                start = end;
            } else {
                self.keys[seed] = 0;
            }
        }
        Ok(start)
    }

    /// Grows one set from `seed`, writing its nodes to `members` from `start` on. Returns their end and how many nodes
    /// had their key raised.
    #[inline]
    fn set(
        &mut self,
        graph: &Csr,
        bound: i64,
        seed: usize,
        members: &mut [u32],
        start: usize,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<(usize, usize), Interrupted> {
        for (target, _) in graph.row(seed) {
            graph.prefetch_offset(target);
        }
        members[start] = seed as u32;
        let (mut head, mut end) = (start, start + 1);
        // Nodes near the set: those whose place and row were asked for, those tested, all.
        let (mut placed, mut asked, mut tested, mut near) = (0, 0, 0, 0);
        let mut patience = PATIENCE;
        loop {
            let mut avalanche = false;
            while head < end {
                avalanche |= end - head >= AVALANCHE;
                head += 1;
                if (head - start).is_multiple_of(NODES_BETWEEN_INTERRUPTS) && interrupt() {
                    return Err(Interrupted);
                }
                if avalanche {
                    self.absorb_late(graph, bound, members[head - 1] as usize, members, &mut end, &mut near);
                    continue;
                }
                self.absorb(graph, bound, members[head - 1] as usize, members, &mut end, &mut near);
                for &node in &self.near[asked..placed] {
                    graph.prefetch_row(node);
                }
                asked = placed;
                for &node in &self.near[placed..near] {
                    graph.prefetch_offset(node);
                }
                placed = near;
            }
            let Some(&node) = self.near[..near].get(tested) else { break };
            tested += 1;
            let key = self.keys[node as usize];
            let size = (end - start).min(ATTACHMENT_PARTS as usize / 2) as i64;
            if key >= bound || key < bound / ATTACHMENT_PARTS * size {
                continue;
            }
            if self.holds(graph, node, bound) {
                members[end] = node;
                end += 1;
                patience = PATIENCE;
            } else {
                patience -= 1;
                if patience == 0 {
                    break;
                }
            }
        }
        Ok((end, near))
    }

    /// Like [`Grow::absorb`], for a node whose neighbours are members already, but for few: tests that are predicted well
    /// cost a third of the arithmetic.
    #[inline(never)]
    fn absorb_late(
        &mut self,
        graph: &Csr,
        bound: i64,
        node: usize,
        members: &mut [u32],
        end: &mut usize,
        near: &mut usize,
    ) {
        let range = graph.range(node);
        let room = *near + range.len() + 1;
        if self.near.len() < room {
            self.near.resize(2 * room, 0);
        }
        self.keys[node] += MEMBER;
        let weights = &graph.weights[range.clone()];
        for (nth, &target) in graph.targets[range].iter().enumerate() {
            let slot = &mut self.keys[target as usize];
            let key = *slot;
            // A key below 0 is above the bound as well.
            if (key as u64) < bound as u64 {
                *slot = key + weights[nth] as i64;
                if key == 0 {
                    self.near[*near] = target;
                    *near += 1;
                }
                if *slot >= bound {
                    members[*end] = target;
                    *end += 1;
                }
            }
        }
    }

    /// Makes a node a member and adds its arcs to the keys. Written so that it compiles without branches: where in the
    /// growth a neighbour stands cannot be predicted.
    #[inline(never)]
    fn absorb(
        &mut self,
        graph: &Csr,
        bound: i64,
        node: usize,
        members: &mut [u32],
        end: &mut usize,
        near: &mut usize,
    ) {
        let range = graph.range(node);
        let room = *near + range.len() + 1;
        if self.near.len() < room {
            self.near.resize(2 * room, 0);
        }
        let (keys, around) = (&mut self.keys[..], &mut self.near[..]);
        keys[node] += MEMBER;
        let (mut last, mut met) = (*end, *near);
        for (&target, &weight) in graph.targets[range.clone()].iter().zip(&graph.weights[range]) {
            let slot = &mut keys[target as usize];
            let key = *slot;
            let grown = key + weight as i64;
            *slot = grown;
            around[met] = target;
            met += usize::from(key == 0);
            members[last] = target;
            // A key below 0 is above the bound as well.
            last += usize::from(((key as u64) < bound as u64) & (grown as u64 >= bound as u64));
        }
        (*end, *near) = (last, met);
    }

    /// Whether the capacity to the set and triangles with it reach the bound.
    #[inline]
    fn holds(&self, graph: &Csr, node: u32, bound: i64) -> bool {
        let range = graph.range(node as usize);
        if range.len() > ARCS_MAX {
            return false;
        }
        let mut sum = 0;
        for (targets, weights) in
            graph.targets[range.clone()].chunks(STEP).zip(graph.weights[range].chunks(STEP))
        {
            for (&target, &weight) in targets.iter().zip(weights) {
                sum += self.keys[target as usize].min(weight as i64).max(0);
            }
            if sum >= bound {
                return true;
            }
        }
        false
    }

    /// Writes to `out` the graph whose nodes are the classes that [`Grow::run`] has just left in `order`; `false` and
    /// nothing when too many arcs were left for them to be kept.
    pub(crate) fn contract(&self, graph: &Csr, order: &Order, placed: &mut Vec<u32>, out: &mut Csr) -> bool {
        if !self.complete {
            return false;
        }
        let classes = order.classes();
        let class = |node: u32| (order.class[node as usize] & !VISITED) as usize;
        // The singles come last.
        let sets = classes - self.singles.len();
        out.clear();
        out.offsets.resize(classes + 1, 0);
        for &(set, node, _) in &self.leaving {
            out.offsets[set as usize] += 1;
            out.offsets[class(node)] += 1;
        }
        for &node in &self.singles {
            let singles = graph.row(node as usize).filter(|&(target, _)| class(target) >= sets);
            out.offsets[class(node)] += singles.count() as u32;
        }
        let mut sum = 0;
        for offset in &mut out.offsets {
            (sum, *offset) = (sum + *offset, sum);
        }
        out.targets.reserve_exact(sum as usize);
        out.targets.resize(sum as usize, 0);
        out.weights.reserve_exact(sum as usize);
        out.weights.resize(sum as usize, 0);
        out.degrees.resize(classes, 0);
        let mut put = |from: usize, to: usize, weight: u64| {
            let at = out.offsets[from] as usize;
            out.targets[at] = to as u32;
            out.weights[at] = weight;
            out.degrees[from] += weight;
            out.offsets[from] += 1;
        };
        for &(set, node, weight) in &self.leaving {
            put(set as usize, class(node), weight);
            put(class(node), set as usize, weight);
        }
        for &node in &self.singles {
            for (target, weight) in graph.row(node as usize) {
                if class(target) >= sets {
                    put(class(node), class(target), weight);
                }
            }
        }
        out.offsets.copy_within(0..classes, 1);
        out.offsets[0] = 0;
        out.merge_parallel(placed);
        true
    }
}

#[cfg(test)]
impl Grow {
    /// Room for the nodes near a set.
    pub(crate) fn near_len(&self) -> usize {
        self.near.len()
    }

    /// Arcs kept for the contracted graph, and whether they are all.
    pub(crate) fn leaving(&self) -> (usize, bool) {
        (self.leaving.len(), self.complete)
    }
}
