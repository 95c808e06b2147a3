//! The solver: scan, contract, repeat.

use crate::contract::contract;
use crate::csr::Csr;
use crate::dense::Matrix;
use crate::exact::Heap;
use crate::queue::Buckets;
use crate::scan::{Order, VISITED, scan};
use crate::trail::Trail;
use crate::{Cut, Graph};
use std::fmt;

/// A matrix this small is always allowed.
const MATRIX_BYTES_MIN: usize = 1 << 16;

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
    single: Matrix<f32>,
    wide: Matrix<i64>,
    placed: Vec<u32>,
    front: Csr,
    back: Csr,
    pub(crate) trail: Trail,
}

impl Scratch {
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
}

impl Tuning {
    pub(crate) const DEFAULT: Self = Self { key_bits: 12, cells_per_arc: 20, matrix_bytes_per_edge: 40 };
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
    let Scratch { order, buckets, exact, single, wide, placed, front, back, trail } = scratch;
    let matrix_bytes_max = MATRIX_BYTES_MIN + graph.arcs() / 2 * tuning.matrix_bytes_per_edge;
    trail.reset(graph.nodes());
    // The caller's graph first, then what it was contracted to.
    let mut current = graph;
    // The last scan with rounded keys found nothing: the next one is exact.
    let mut stalled = false;
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
        if stalled {
            if dense && cells.saturating_mul(8) <= matrix_bytes_max {
                wide.run(current, trail, order, interrupt)?;
            } else {
                exact.scan(current, trail.value(), order, interrupt)?;
            }
        } else if dense && cells.saturating_mul(4) <= matrix_bytes_max {
            single.run(current, trail, order, interrupt)?;
        } else {
            scan(current, trail.value(), tuning.key_bits, 0, order, buckets, interrupt)?;
        }
        if order.reached < nodes {
            // Nothing of what was left was attached to what was reached (or so little that it was rounded away).
            let reached = &order.nodes[..order.reached];
            trail.found(cut_value(current, order), reached);
        }
        if trail.value() == 0 {
            return Ok(());
        }
        stalled = order.classes() == nodes;
        if !stalled {
            contract(current, order, placed, back);
            trail.contracted(&order.class, order.classes());
            std::mem::swap(front, back);
            current = front;
        }
    }
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
