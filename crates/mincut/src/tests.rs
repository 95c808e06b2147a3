//! The solver against a solver that is too simple to be wrong, on every path through it.

mod certificate;
mod classes;
mod csr;
mod dynamic;
pub(crate) mod families;
mod flow;
mod queue;
pub(crate) mod reference;
mod solver;

use crate::Graph;
use crate::solve::{Scratch, Tuning, solve};

pub(crate) type Edges = Vec<(u32, u32, f64)>;

/// Every way through the solver: sparse and dense, keys of full and of hopeless resolution.
pub(crate) const TUNINGS: [Tuning; 6] = [
    Tuning::DEFAULT,
    Tuning {
        key_bits: 18,
        cells_per_arc: 0,
        matrix_bytes_per_edge: 0,
        samples: 0,
        stream_arcs: 1 << 19,
        leaving_part: 8,
    },
    Tuning {
        key_bits: 12,
        cells_per_arc: 0,
        matrix_bytes_per_edge: 0,
        samples: 0,
        stream_arcs: 0,
        leaving_part: 8,
    },
    Tuning {
        key_bits: 12,
        cells_per_arc: 0,
        matrix_bytes_per_edge: 0,
        samples: 1,
        stream_arcs: 1 << 19,
        leaving_part: 1,
    },
    Tuning {
        key_bits: 2,
        cells_per_arc: 0,
        matrix_bytes_per_edge: 0,
        samples: 0,
        stream_arcs: 0,
        leaving_part: 8,
    },
    Tuning {
        key_bits: 3,
        cells_per_arc: usize::MAX >> 32,
        matrix_bytes_per_edge: usize::MAX >> 32,
        samples: 0,
        stream_arcs: 0,
        leaving_part: 8,
    },
];

/// Sum of the capacities that cross a side.
pub(crate) fn crossing(edges: &Edges, side: &[bool]) -> f64 {
    edges.iter().filter(|(u, v, _)| side[*u as usize] != side[*v as usize]).map(|edge| edge.2).sum()
}

/// Solves on every path; each must give `expected` (within one part in 10¹¹, which floating-point summation needs)
/// and a side that is worth it.
pub(crate) fn check(nodes: usize, edges: &Edges, expected: f64, scratch: &mut Scratch) {
    let graph = Graph::from_edges(nodes, edges).unwrap();
    let mut units = None;
    for tuning in TUNINGS {
        solve(&graph.csr, tuning, scratch, &mut || false).unwrap();
        let value = scratch.trail.value();
        let side = scratch.trail.side();
        let context = || format!("{tuning:?} nodes {nodes} edges {edges:?}");
        assert!(*units.get_or_insert(value) == value, "paths differ: {units:?} {value} {}", context());
        assert_eq!(side.len(), nodes);
        assert!(side.contains(&true) && side.contains(&false), "an empty side: {}", context());
        let capacity = graph.capacity(value);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-11 * a.max(b);
        assert!(near(capacity, expected), "{capacity} instead of {expected}: {}", context());
        assert!(near(crossing(edges, &side), expected), "the side is not worth {expected}: {}", context());
    }
}
