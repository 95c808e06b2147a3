//! Graphs of up to 80 nodes with groups, stars and paths: on every way through the solver, whatever it chooses by itself, the
//! value is that of Stoer and Wagner's algorithm.
#![no_main]

mod bytes;
#[allow(dead_code, reason = "no graph here is small enough to look at all cuts")]
#[path = "../../src/tests/reference.rs"]
mod reference;

use bytes::{Bytes, Edges, near, worth};
use lambda_cut::{Graph, Scratch, fuzzing::solve_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let ways: [[u8; 6]; 2] = std::array::from_fn(|_| std::array::from_fn(|_| bytes.byte()));
    let nodes = 2 + usize::from(bytes.byte()) % 79;
    let edges: Edges = bytes.graph(nodes);
    let graph = Graph::from_edges(nodes, &edges).expect("valid");
    let expected = reference::stoer_wagner(nodes, &edges);
    let mut scratch = Scratch::new();
    for way in ways {
        let cut = solve_with(&graph, way, &mut scratch);
        assert!(near(cut.value, expected), "{} instead of {expected}: {way:?} {nodes} {edges:?}", cut.value);
        assert!(near(worth(&edges, &cut.side), expected), "the side: {way:?} {nodes} {edges:?}");
        assert!(cut.side.contains(&true) && cut.side.contains(&false));
    }
});
