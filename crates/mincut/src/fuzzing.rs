//! For the fuzzer alone: the ways through the solver that its choices leave to graphs larger than a fuzzer makes.

use crate::solve::{Tuning, solve};
use crate::{Cut, Graph, Scratch};

/// The minimum cut of a graph of two nodes or more, with choices made by six bytes.
pub fn solve_with(graph: &Graph, choices: [u8; 6], scratch: &mut Scratch) -> Cut {
    let of = |nth: usize, among: &[usize]| among[usize::from(choices[nth]) % among.len()];
    let tuning = Tuning {
        key_bits: 2 + u32::from(choices[0]) % 17,
        cells_per_arc: of(1, &[0, 20, 1 << 20]),
        matrix_bytes_per_edge: of(2, &[0, 40, 1 << 20]),
        samples: of(3, &[0, 1, 4, 16]),
        stream_arcs: of(4, &[0, 1 << 19]),
        leaving_part: of(5, &[1, 8]),
    };
    let stopped = solve(&graph.csr, tuning, scratch, &mut || false);
    assert!(stopped.is_ok(), "nobody interrupts");
    let units = scratch.trail.value();
    Cut::new(graph.capacity(units), units, scratch.trail.side())
}
