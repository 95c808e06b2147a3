//! The solver: scan, contract, repeat.

use crate::contract::contract;
use crate::csr::Csr;
use crate::dense::Matrix;
use crate::exact::Heap;
use crate::grow::Grow;
use crate::hub::Hub;

use crate::queue::Buckets;
use crate::regroup::Regroup;
use crate::scan::{Order, VISITED, scan};
use crate::trail::Trail;
use crate::{Cut, Graph};
use std::fmt;

/// A matrix this small is always allowed.
const MATRIX_BYTES_MIN: usize = 1 << 16;

/// A round of certification that merges less than this part of the nodes achieves little.
const PROGRESS_PART: usize = 32;
/// A quotient of at most this part of the nodes is small.
const QUOTIENT_PART: usize = 16;
/// A margin of less than this part of the lower bound is lost in the rounding of the keys.
const MARGIN_PART_MAX: u64 = 256;

/// The caller's interrupt callback returned `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the minimum cut was interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Working memory that one solve leaves for the next. Holds no result.
#[derive(Debug, Default)]
pub struct Scratch {
    order: Order,
    buckets: Buckets,
    exact: Heap,
    grow: Grow,
    hub: Hub,
    regroup: Regroup,
    single: Matrix<f32>,
    wide: Matrix<i64>,
    placed: Vec<u32>,
    front: Csr,
    back: Csr,
    pub(crate) trail: Trail,
}

impl Scratch {
    /// What a scan needs, and an array for counting.
    pub(crate) fn for_scans(&mut self) -> (&mut Order, &mut Buckets, &mut Vec<u32>) {
        (&mut self.order, &mut self.buckets, &mut self.placed)
    }

    /// An array for counting that is free between solves.
    pub(crate) fn counts(&mut self) -> &mut Vec<u32> {
        &mut self.placed
    }

    /// Empty working memory; it grows on first use.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Where the solver changes its ways. Any values give the same minimum; tests use others to reach every path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// Resolution of the keys of a sparse scan.
    pub(crate) key_bits: u32,
    /// A graph becomes a matrix when it has at most this many cells an arc. A sweep handles about thirty cells in the
    /// time a sparse scan needs for one arc.
    pub(crate) cells_per_arc: usize,
    /// Bytes of a matrix an edge of the caller's graph, so that memory stays proportional to the input.
    pub(crate) matrix_bytes_per_edge: usize,
    /// Nodes on which the triangle tests are tried before sets are grown everywhere.
    pub(crate) samples: usize,
    /// Arcs from which on a graph is too large for a core's own caches, so that reading it in order pays.
    pub(crate) stream_arcs: usize,
    /// Arcs that grown sets leave are kept, to be the contracted graph, while they are at most this part of all: a graph
    /// that keeps more of them is contracted in the ordinary way, so that memory stays bounded.
    pub(crate) leaving_part: usize,
}

impl Tuning {
    pub(crate) const DEFAULT: Self = Self {
        key_bits: 12,
        cells_per_arc: 20,
        matrix_bytes_per_edge: 40,
        samples: 16,
        stream_arcs: 1 << 19,
        leaving_part: 8,
    };
}

impl Graph {
    /// The minimum cut, or `None` when the graph has fewer than two nodes.
    pub fn minimum_cut(&self) -> Option<Cut> {
        self.minimum_cut_with(&mut Scratch::new(), &mut || false).unwrap_or(None)
    }

    /// The minimum cut, with working memory that is reused and a callback that may stop the search by returning
    /// `true`.
    ///
    /// # Errors
    /// [`Interrupted`] when the callback returned `true`; the scratch memory can be used again.
    pub fn minimum_cut_with(
        &self,
        scratch: &mut Scratch,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Cut>, Interrupted> {
        if self.nodes() < 2 {
            return Ok(None);
        }
        solve(&self.csr, Tuning::DEFAULT, scratch, interrupt)?;
        let trail = &scratch.trail;
        Ok(Some(Cut::new(self.capacity(trail.value()), trail.value(), trail.side())))
    }
}

/// Leaves the minimum cut of `graph`, which has two nodes or more, in the scratch's trail.
pub(crate) fn solve(
    graph: &Csr,
    tuning: Tuning,
    scratch: &mut Scratch,
    interrupt: &mut dyn FnMut() -> bool,
) -> Result<(), Interrupted> {
    let Scratch { order, buckets, exact, grow, hub, regroup, single, wide, placed, front, back, trail } =
        scratch;
    let matrix_bytes_max = MATRIX_BYTES_MIN + graph.arcs() / 2 * tuning.matrix_bytes_per_edge;
    trail.reset(graph.nodes());
    // The caller's graph first, then what it was contracted to.
    let mut current = graph;
    let mut next = Next::Any;
    loop {
        let nodes = current.nodes();
        if nodes > 1
            && let Some((node, degree)) = current.lightest()
        {
            trail.found(degree, &[node as u32]);
        }
        if nodes <= 2 || trail.value() == 0 {
            return Ok(());
        }
        let cells = nodes.saturating_mul(nodes);
        let dense = cells <= tuning.cells_per_arc * current.arcs();
        let room = |bytes: usize| dense && cells.saturating_mul(bytes) <= matrix_bytes_max;
        let mut after = Next::Any;
        let mut grown = false;
        if next == Next::Exact {
            if room(size_of::<i64>()) {
                single.keep_within(matrix_bytes_max - cells * size_of::<i64>());
                wide.run(current, trail, order, interrupt)?;
            } else {
                exact.scan(current, trail.value(), order, interrupt)?;
            }
        } else if room(size_of::<f32>()) {
            wide.keep_within(matrix_bytes_max - cells * size_of::<f32>());
            single.run(current, trail, order, interrupt)?;
        } else if next == Next::Any && grow.promises(current, trail.value(), tuning.samples) {
            let leaving_max = current.arcs() / tuning.leaving_part;
            grow.run(current, trail.value(), leaving_max, order, interrupt)?;
            grown = true;
            after = Next::Scan;
        } else if next == Next::Any && hub.promises(current, trail.value(), tuning.samples) {
            hub.run(current, trail.value(), order);
            if 2 * order.classes() > nodes {
                after = Next::Scan;
            }
        } else {
            scan(current, trail.value(), tuning.key_bits, 0, order, buckets, interrupt)?;
            let mut before = nodes;
            while 2 * order.classes() > nodes && order.classes() < before && order.reached == nodes {
                before = order.classes();
                regroup.scan(current, trail.value(), tuning.key_bits, order, buckets, interrupt)?;
                trail.found(regroup.least, &regroup.side);
            }
        }
        if interrupt() {
            return Err(Interrupted);
        }
        if order.reached < nodes {
            // Nothing of what was left was attached to what was reached (or so little that it was rounded away).
            let reached = &order.nodes[..order.reached];
            trail.found(cut_value(current, order), reached);
        }
        if trail.value() == 0 {
            return Ok(());
        }
        if order.classes() == nodes {
            // Rounded keys certified nothing; the exact scan does. Local tests that failed are followed by a scan.
            next = if after == Next::Any { Next::Exact } else { after };
            continue;
        }
        next = after;
        if !(grown && grow.contract(current, order, placed, back)) {
            contract(current, order, tuning.stream_arcs, placed, back);
        }
        trail.contracted(&order.class, order.classes());
        std::mem::swap(front, back);
        current = front;
    }
}

/// Leaves in `class` a partition of the nodes such that no cut below the bound (above 0) separates two of one class, and
/// in `quotient` the graph of the classes. Returns the bound: the upper one if so the quotient becomes small, else one
/// that is lowered towards the lower one whenever a round certifies little.
pub(crate) fn certify(
    graph: &Csr,
    (lower, upper): (u64, u64),
    rounds_max: usize,
    scratch: &mut Scratch,
    class: &mut Vec<u32>,
    quotient: &mut Csr,
    interrupt: &mut dyn FnMut() -> bool,
) -> Result<u64, Interrupted> {
    let Scratch { order, buckets, grow, hub, regroup, placed, front, back, .. } = scratch;
    let mut bound = upper;
    let tuning = Tuning::DEFAULT;
    class.clear();
    class.extend(0..graph.nodes() as u32);
    let mut current = graph;
    // Local tests that achieved little are followed by a scan, and a scan that did by one that takes classes for nodes.
    let mut scan_next = false;
    let mut grouped = false;
    for round in 0..rounds_max {
        let nodes = if grouped { order.classes() } else { current.nodes() };
        let grown = !grouped && !scan_next && grow.promises(current, bound, tuning.samples);
        let tested = grown || (!grouped && !scan_next && hub.promises(current, bound, tuning.samples));
        if grown {
            grow.run(current, bound, current.arcs() / tuning.leaving_part, order, interrupt)?;
        } else if tested {
            hub.run(current, bound, order);
        } else if grouped {
            regroup.scan(current, bound, tuning.key_bits, order, buckets, interrupt)?;
        } else {
            scan(current, bound, tuning.key_bits, 0, order, buckets, interrupt)?;
        }
        if interrupt() {
            return Err(Interrupted);
        }
        scan_next = tested && 2 * order.classes() > nodes;
        let classes = order.classes();
        let stalled = !tested && classes > nodes - nodes / PROGRESS_PART;
        let small = classes <= graph.nodes() / QUOTIENT_PART || bound - lower <= lower / MARGIN_PART_MAX;
        let last = round + 1 == rounds_max || (stalled && small);
        grouped = !last && !tested && 2 * classes > current.nodes();
        if !grouped {
            for class in class.iter_mut() {
                *class = order.class[*class as usize] & !VISITED;
            }
            if !(grown && grow.contract(current, order, placed, back)) {
                contract(current, order, tuning.stream_arcs, placed, back);
            }
            std::mem::swap(front, back);
            current = front;
        }
        if last {
            break;
        }
        if stalled {
            bound = lower + (bound - lower) / 2;
        }
    }
    // What is next solved in these is the quotient, which may be much smaller than what it was made from.
    *quotient = std::mem::take(front);
    *back = Csr::default();
    Ok(bound)
}

/// What the next round may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Any,
    /// No local tests: they have just been made and achieved little.
    Scan,
    /// Full keys: rounded ones have just failed.
    Exact,
}

/// Value of the cut around the nodes that the scan reached before it had to start anew.
fn cut_value(graph: &Csr, order: &Order) -> u64 {
    // Starting anew began a class: the classes before it are the side.
    let limit = VISITED | order.starts.partition_point(|&start| (start as usize) < order.reached) as u32;
    order.nodes[..order.reached]
        .iter()
        .flat_map(|&node| graph.row(node as usize))
        .filter(|&(target, _)| order.class[target as usize] >= limit)
        .map(|(_, weight)| weight)
        .sum()
}

/// What a solve has used of its working memory, where that was new: the ways it has taken.
#[cfg(test)]
impl Scratch {
    pub(crate) fn ways(&self) -> Vec<&'static str> {
        let ways = [
            ("single", self.single.bytes() > 0),
            ("wide", self.wide.bytes() > 0),
            ("exact", self.exact.was_used()),
            ("grow", self.grow.near_len() > 0),
            ("hub", self.hub.was_used()),
            ("scan", self.buckets.was_used()),
            ("regroup", !self.regroup.side.is_empty()),
        ];
        ways.into_iter().filter(|way| way.1).map(|way| way.0).collect()
    }

    pub(crate) fn leaving(&self) -> (usize, bool) {
        self.grow.leaving()
    }

    pub(crate) fn matrix_bytes(&self) -> [usize; 2] {
        [self.single.bytes(), self.wide.bytes()]
    }
}
