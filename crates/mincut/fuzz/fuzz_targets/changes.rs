//! Streams of changes to graphs of up to 80 nodes: after each the value is that of a solve from scratch, the side is worth
//! it, and what is kept for the next change is true.
#![no_main]

mod bytes;

use bytes::{Bytes, near, worth};
use lambda_cut::{DynamicCut, Graph};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let nodes = 2 + usize::from(bytes.byte()) % 79;
    let mut edges = bytes.graph(nodes);
    edges.push(bytes.edge(nodes));
    let mut dynamic = DynamicCut::new(nodes, &edges).expect("valid");
    while !bytes.0.is_empty() {
        // Several changes between two questions, now and then.
        let kind = bytes.byte();
        for _ in 0..1 + kind / 64 {
            let edge = (usize::from(bytes.byte()) << 8 | usize::from(bytes.byte())) % edges.len();
            // Any capacity, or one near to what it was, which certificates and partitions are for.
            let capacity = match kind % 4 {
                0 => bytes.capacity(),
                _ => dynamic.edges()[edge].2 * (0.75 + f64::from(bytes.byte()) / 768.0),
            };
            // A product may leave the range of numbers.
            let _ = dynamic.set_capacity(edge, capacity);
            dynamic.check(&|| format!("{nodes} {:?}", dynamic.edges()));
        }
        let now = dynamic.edges().to_vec();
        let expected = Graph::from_edges(nodes, &now).expect("valid").minimum_cut().expect("two nodes").value;
        let cut = dynamic.minimum_cut().expect("two nodes");
        assert!(near(cut.value, expected), "{} instead of {expected}: {nodes} {now:?}", cut.value);
        assert!(near(worth(&now, &cut.side), expected), "the side: {nodes} {now:?}");
        dynamic.check(&|| format!("{nodes} {now:?}"));
    }
});
