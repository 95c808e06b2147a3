//! Streams of changes: after each the value is that of a solve from scratch, and the side is worth it.
#![no_main]

mod bytes;

use bytes::{Bytes, Edges, near, worth};
use lambda_cut::{DynamicCut, Graph};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let nodes = 2 + usize::from(bytes.byte()) % 30;
    let count = 1 + usize::from(bytes.byte()) % 100;
    let edges: Edges = (0..count).map(|_| bytes.edge(nodes)).collect();
    let mut dynamic = DynamicCut::new(nodes, &edges).expect("valid");
    while !bytes.0.is_empty() {
        // Several changes between two questions, now and then.
        for _ in 0..1 + bytes.byte() / 64 {
            let edge = usize::from(bytes.byte()) % count;
            let capacity = bytes.capacity();
            dynamic.set_capacity(edge, capacity).expect("valid");
        }
        let now = dynamic.edges().to_vec();
        let expected = Graph::from_edges(nodes, &now).expect("valid").minimum_cut().expect("two nodes").value;
        let cut = dynamic.minimum_cut().expect("two nodes");
        assert!(near(cut.value, expected), "{} instead of {expected}: {nodes} {now:?}", cut.value);
        assert!(near(worth(&now, &cut.side), expected), "the side: {nodes} {now:?}");
    }
});
