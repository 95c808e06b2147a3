//! The maximum flow between two nodes, up to a bound and a limit of work.
//!
//! An edge that loses capacity takes down only the cuts between its own ends. How far, the flow between the two tells,
//! and the cut that stops it is the smallest of them. Ford and Fulkerson (1956) with shortest paths, each found by two
//! searches that meet: in a graph that is no chain they see few nodes, and where a small side is cut off, the search
//! from there ends at once.

use crate::csr::Csr;

/// Working memory of the flows.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// For every node, the number of the search that last saw it and from which end.
    seen: Vec<u32>,
    /// The node from which it was seen.
    from: Vec<u32>,
    search: u32,
    queues: [Vec<u32>; 2],
    /// Arcs whose residual capacity differs from the capacity, by how much they were lowered, oldest first.
    pushed: Vec<(u32, u64)>,
    /// Nodes at such an arc carry the number of the flow.
    touched: Vec<u32>,
    flows: u32,
}

/// What a flow showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Every cut between the two is worth at least this: the bound, or what was reached when the limit stopped it.
    AtLeast(u64),
    /// The smallest cut between the two is worth this. Its nodes on the side of one of the two: [`Flow::side`].
    Exactly(u64),
}

impl Held {
    pub(crate) fn value(self) -> u64 {
        match self {
            Self::AtLeast(value) | Self::Exactly(value) => value,
        }
    }
}

/// A search that has found a path goes on to so many times the work, for other paths that do not need one of their own.
const MORE_WORK: usize = 3;
/// Paths that turn out to be full after which it ends.
const BLOCKED_MAX: usize = 2;
/// Numbers of searches have room for the end beside them.
const SEARCHES_MAX: u32 = u32::MAX / 2 - 1;

impl Flow {
    /// Sends up to `bound` from `source` to another node, `sink`, looking at about `arcs_max` arcs at most. The rows of
    /// `graph` are sorted; its weights are used to work on, and are as before when this returns. `arcs_max` is lowered
    /// by what was looked at.
    ///
    /// Beside what was found, returns a lower bound, at most `bound`, on the value of all cuts between the two but those
    /// around a single one for which `alone` holds and those that are the sum of such a cut and one not between the
    /// two.
    pub(crate) fn run(
        &mut self,
        graph: &mut Csr,
        (source, sink): (u32, u32),
        bound: u64,
        arcs_max: &mut usize,
        alone: impl Fn(u32) -> bool,
    ) -> (Held, u64) {
        self.prepare(graph.nodes());
        let held = self.send(graph, source, sink, bound, arcs_max);
        let mut others = held.value();
        if let (Held::Exactly(sent), &[end]) = (held, self.side())
            && alone(end)
        {
            // Any other cut with this end on one side has one of its neighbours there as well: where it has none, it
            // falls into the cut around the end and another. So each neighbour must be able to send or take the rest.
            others = bound;
            let pushed = self.pushed.len();
            for arc in graph.range(end as usize) {
                let near = graph.targets[arc];
                if near == source || near == sink || others <= sent {
                    continue;
                }
                let (from, to) = if end == source { (near, sink) } else { (source, near) };
                let more = self.send(graph, from, to, others - sent, arcs_max);
                others = sent + more.value();
                self.take_back(graph, pushed);
            }
            self.queues[0].clear();
            self.queues[0].push(end);
        }
        self.take_back(graph, 0);
        (held, others)
    }

    /// Brings the numbers of searches and flows near their end.
    #[cfg(test)]
    pub(crate) fn age(&mut self) {
        self.seen.fill(0);
        self.touched.fill(0);
        (self.search, self.flows) = (SEARCHES_MAX - 1, u32::MAX - 1);
    }

    fn prepare(&mut self, nodes: usize) {
        if self.seen.len() != nodes || self.flows == u32::MAX {
            self.touched.clear();
            self.touched.resize(nodes, 0);
            self.flows = 0;
            self.seen.clear();
            self.from.resize(nodes, 0);
        }
        self.flows += 1;
    }

    /// Like [`Flow::run`], without a bound for others. Where the flow reaches the bound, tells what of every edge it needs,
    /// by both of its arcs.
    pub(crate) fn run_telling(
        &mut self,
        graph: &mut Csr,
        ends: (u32, u32),
        bound: u64,
        arcs_max: &mut usize,
        mut tell: impl FnMut([usize; 2], u64),
    ) -> Held {
        self.prepare(graph.nodes());
        let held = self.send(graph, ends.0, ends.1, bound, arcs_max);
        if held.value() >= bound {
            // Arcs were pushed in pairs, some more than once.
            let arcs = |pair: &[(u32, u64)]| [pair[0].0 as usize, pair[1].0 as usize];
            let residual = |arcs: [usize; 2]| arcs.map(|arc| graph.weights[arc]);
            let left: Vec<_> =
                self.pushed.chunks_exact(2).map(|pair| (arcs(pair), residual(arcs(pair)))).collect();
            self.take_back(graph, 0);
            for (arcs, left) in left {
                let through = |end: usize| graph.weights[arcs[end]].saturating_sub(left[end]);
                tell(arcs, through(0).max(through(1)));
            }
        }
        self.take_back(graph, 0);
        held
    }

    /// Sends more, up to `bound`, along arcs with residual capacity.
    fn send(&mut self, graph: &mut Csr, source: u32, sink: u32, bound: u64, arcs_max: &mut usize) -> Held {
        let mut sent = 0;
        while sent < bound {
            match self.search(graph, source, sink, bound - sent, arcs_max) {
                Search::Sent(more) => sent += more,
                Search::CutOff => return Held::Exactly(sent),
                Search::Stopped => return Held::AtLeast(sent),
            }
        }
        Held::AtLeast(bound)
    }

    /// Undoes all but the first `keep` changes of residual capacities.
    fn take_back(&mut self, graph: &mut Csr, keep: usize) {
        for (arc, amount) in self.pushed.drain(keep..).rev() {
            let weight = &mut graph.weights[arc as usize];
            *weight = weight.wrapping_add(amount);
        }
    }

    /// After [`Held::Exactly`], the nodes on one side of the cut.
    pub(crate) fn side(&self) -> &[u32] {
        // The search that saw all it can reach has put its queue here.
        &self.queues[0]
    }

    /// Looks for paths from `source` to `sink` along arcs with residual capacity and sends up to `wanted` over them: over the
    /// first that is found, and over those that some more work finds, which so do not need a search of their own.
    fn search(
        &mut self,
        graph: &mut Csr,
        source: u32,
        sink: u32,
        wanted: u64,
        arcs_max: &mut usize,
    ) -> Search {
        if self.search == SEARCHES_MAX || self.seen.is_empty() {
            self.seen.clear();
            self.seen.resize(graph.nodes(), 0);
            self.search = 0;
        }
        self.search += 1;
        let marks = [2 * self.search, 2 * self.search + 1];
        for (end, node) in [source, sink].into_iter().enumerate() {
            self.queues[end].clear();
            self.queues[end].push(node);
            self.seen[node as usize] = marks[end];
            self.from[node as usize] = node;
        }
        let mut heads = [0, 0];
        let mut work = [0, 0];
        let (mut sent, mut enough, mut blocked) = (0, usize::MAX, 0);
        'search: while work[0] + work[1] < enough {
            // The end that has done less goes on.
            let end = usize::from(work[1] < work[0]);
            let Some(&node) = self.queues[end].get(heads[end]) else {
                if sent > 0 {
                    break;
                }
                self.queues.swap(0, end);
                *arcs_max = arcs_max.saturating_sub(work[0] + work[1]);
                return Search::CutOff;
            };
            heads[end] += 1;
            for arc in graph.range(node as usize) {
                work[end] += 1;
                let target = graph.targets[arc];
                let mark = self.seen[target as usize];
                if mark == marks[end] {
                    continue;
                }
                // The second search goes against the flow. The two directions differ only where something was pushed.
                let touched = |node: u32| self.touched[node as usize] == self.flows;
                let residual = if end == 1 && touched(node) && touched(target) {
                    graph.arc(target, node).map_or(0, |arc| graph.weights[arc])
                } else {
                    graph.weights[arc]
                };
                if residual == 0 {
                    continue;
                }
                if mark == marks[1 - end] {
                    if sent == 0 {
                        enough = MORE_WORK * (work[0] + work[1]);
                    }
                    // The first path has room; on a later one an arc may be full by now.
                    let (a, b) = if end == 0 { (node, target) } else { (target, node) };
                    let more = self.augment(graph, a, b, wanted - sent);
                    sent += more;
                    blocked += usize::from(more == 0);
                    if sent == wanted || blocked == BLOCKED_MAX {
                        break 'search;
                    }
                    continue;
                }
                self.seen[target as usize] = marks[end];
                self.from[target as usize] = node;
                self.queues[end].push(target);
            }
            if work[0] + work[1] > *arcs_max && sent == 0 {
                *arcs_max = 0;
                return Search::Stopped;
            }
        }
        *arcs_max = arcs_max.saturating_sub(work[0] + work[1]);
        Search::Sent(sent)
    }

    /// Sends what the path over the arc from `a` to `b` can take, at most `wanted`.
    fn augment(&mut self, graph: &mut Csr, a: u32, b: u32, wanted: u64) -> u64 {
        // The path's arcs, as pairs of positions: along the flow and against it.
        let mut path: Vec<(usize, usize)> = Vec::new();
        let mut step = |x: u32, y: u32, touched: &mut [u32]| {
            touched[x as usize] = self.flows;
            touched[y as usize] = self.flows;
            if let (Some(along), Some(against)) = (graph.arc(x, y), graph.arc(y, x)) {
                path.push((along, against));
            }
        };
        step(a, b, &mut self.touched);
        let mut node = a;
        while self.from[node as usize] != node {
            let before = self.from[node as usize];
            step(before, node, &mut self.touched);
            node = before;
        }
        let mut node = b;
        while self.from[node as usize] != node {
            let after = self.from[node as usize];
            step(node, after, &mut self.touched);
            node = after;
        }
        let amount = path.iter().fold(wanted, |least, &(along, _)| least.min(graph.weights[along]));
        if amount == 0 {
            return 0;
        }
        for (along, against) in path {
            graph.weights[along] -= amount;
            graph.weights[against] += amount;
            self.pushed.push((along as u32, amount));
            self.pushed.push((against as u32, amount.wrapping_neg()));
        }
        amount
    }
}

/// How a search ended.
enum Search {
    /// The searches met, and so much was sent.
    Sent(u64),
    CutOff,
    Stopped,
}

#[cfg(test)]
impl Flow {
    /// Numbers of the last search and flow.
    pub(crate) fn numbers(&self) -> (u32, u32) {
        (self.search, self.flows)
    }
}
