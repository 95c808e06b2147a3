//! What a certificate promises, against all cuts one by one: in what is kept every cut is worth the bound, or as much as when
//! it was made.

use super::families::{Random, SHAPES, WEIGHTS, graph};
use crate::certificate::Certificate;
use crate::csr::Csr;
use crate::flow::Flow;
use crate::solve::Scratch;

/// The value of every cut, with arcs worth what `weight` says.
fn cuts(graph: &Csr, weight: impl Fn(usize) -> u64) -> Vec<u64> {
    let nodes = graph.nodes();
    (1..1u32 << (nodes - 1))
        .map(|side| {
            let on = |node: usize| side >> node & 1;
            (0..nodes)
                .flat_map(|node| graph.range(node).map(move |arc| (node, arc)))
                .filter(|&(node, arc)| on(node) > on(graph.targets[arc] as usize))
                .map(|(_, arc)| weight(arc))
                .sum()
        })
        .collect()
}

#[test]
fn what_is_kept_holds_every_cut() {
    let mut scratch = Scratch::new();
    let (mut certificate, mut flow) = (Certificate::default(), Flow::default());
    let (mut spared, mut mended, mut flows, mut refused) = (0, 0, 0, 0);
    for seed in 0..30 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let mut random = Random(seed);
                let nodes = 3 + random.below(6);
                let edges = graph(shape, weights, nodes, &mut random);
                // Beyond the bits that are kept as well.
                let steps = [8.0, 1e12][random.below(2)];
                let mut graph = Csr::from_edges(nodes, &edges, |c| Some((c.min(1e4) * steps) as u64));
                graph.sort_rows();
                let Some((_, least)) = graph.lightest().filter(|_| graph.arcs() > 0) else { continue };
                let bound = 1 + (least as f64 * (0.2 + random.unit())) as u64;
                let bits = 2 + random.below(11) as u32;
                certificate.make(&graph, bound, bits, scratch.for_scans(), &mut || false).unwrap();
                let promised: Vec<u64> = cuts(&graph, |arc| graph.weights[arc])
                    .into_iter()
                    .map(|value| value.min(bound))
                    .collect();
                for step in 0..8 {
                    let context = format!("seed {seed} {shape:?} {weights:?} bound {bound} step {step}");
                    let kept = cuts(&graph, |arc| certificate.kept(&graph, arc));
                    let short = kept.iter().zip(&promised).filter(|(kept, promised)| kept < promised);
                    assert_eq!(short.count(), 0, "{context}");
                    let node = random.below(nodes);
                    let Some(arc) = graph.range(node).next() else { continue };
                    let (u, v) = (node as u32, graph.targets[arc]);
                    let before = graph.weights[arc];
                    let now = (before as f64 * random.unit()) as u64;
                    spared += usize::from(before > now && certificate.kept(&graph, arc) <= now);
                    let needed = certificate.kept(&graph, arc) > now;
                    graph.change(u, v, |_| now);
                    if certificate.withstands(&graph, u, v, before) {
                        mended += usize::from(needed);
                        continue;
                    }
                    // Only a flow can tell, and where it cannot reach the bound nothing holds.
                    let mut arcs_max = usize::MAX;
                    let keep = |arcs, through| certificate.keep_flow(arcs, through);
                    let held = flow.run_telling(&mut graph, (u, v), bound, &mut arcs_max, keep);
                    assert_eq!(certificate.is_valid(), held.value() >= bound, "{context}");
                    if !certificate.is_valid() {
                        refused += 1;
                        break;
                    }
                    flows += 1;
                }
            }
        }
    }
    let seen = [spared, mended, flows, refused];
    assert!(seen.into_iter().all(|times| times > 100), "{seen:?}");
}
