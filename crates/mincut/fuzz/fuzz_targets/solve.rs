//! Any graph of up to 40 nodes: the value is that of Stoer and Wagner's algorithm, and of all sides where they are few.
//! Bytes read as arbitrary numbers are refused or solved, never more.
#![no_main]

mod bytes;
#[path = "../../src/tests/reference.rs"]
mod reference;

use bytes::{Bytes, Edges, near, worth};
use lambda_cut::Graph;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    if bytes.byte() == 255 {
        anything(bytes);
        return;
    }
    let nodes = 2 + usize::from(bytes.byte()) % 39;
    let mut edges = Edges::new();
    while !bytes.0.is_empty() {
        edges.push(bytes.edge(nodes));
    }
    let cut = Graph::from_edges(nodes, &edges).expect("valid").minimum_cut().expect("two nodes");
    let expected = if nodes <= 8 {
        reference::brute_force(nodes, &edges)
    } else {
        reference::stoer_wagner(nodes, &edges)
    };
    assert!(near(cut.value, expected), "{} instead of {expected}: {nodes} {edges:?}", cut.value);
    assert!(near(worth(&edges, &cut.side), expected), "the side: {nodes} {edges:?}");
    assert!(cut.side.contains(&true) && cut.side.contains(&false));
});

fn anything(mut bytes: Bytes<'_>) {
    let nodes = usize::from(bytes.byte()) % 8;
    let mut edges = Edges::new();
    while !bytes.0.is_empty() {
        let (u, v) = (bytes.byte(), bytes.byte());
        let capacity = f64::from_le_bytes(std::array::from_fn(|_| bytes.byte()));
        edges.push((u.into(), v.into(), capacity));
    }
    let wrong = edges.iter().any(|&(u, v, c)| u.max(v) as usize >= nodes || !c.is_finite() || c < 0.0);
    match Graph::from_edges(nodes, &edges) {
        Ok(graph) => {
            assert!(!wrong);
            assert_eq!(graph.minimum_cut().is_some(), nodes >= 2);
        }
        Err(error) => assert!(wrong || error == lambda_cut::GraphError::CapacityOverflow),
    }
}
