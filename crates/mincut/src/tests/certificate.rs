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
                if random.below(4) == 0 {
                    certificate.age();
                }
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

fn made(graph: &Csr, bound: u64) -> Certificate {
    let mut certificate = Certificate::default();
    assert!(!certificate.is_valid());
    certificate.make(graph, bound, 12, Scratch::new().for_scans(), &mut || false).unwrap();
    assert!(certificate.is_valid() && !certificate.is_worn());
    certificate
}

/// An edge of 9 between nodes 0 and 1 of which 8 are kept, and `paths` between the two with 1 to spare.
fn spare(paths: u32) -> Csr {
    let mut edges: super::Edges = vec![(0, 1, 9.0)];
    edges.extend((2..2 + paths).flat_map(|node| [(0, node, 9.0), (node, 1, 1.0)]));
    let mut graph = Csr::from_edges(2 + paths as usize, &edges, |c| Some(c as u64));
    graph.sort_rows();
    graph
}

fn lose(certificate: &mut Certificate, graph: &mut Csr, u: u32, v: u32, units: u64) -> bool {
    let before = graph.change(u, v, |weight| weight - units);
    certificate.withstands(graph, u, v, before)
}

#[test]
fn what_is_not_kept_may_go_and_the_rest_is_made_up_for_on_paths() {
    let mut graph = spare(8);
    let mut certificate = made(&graph, 8);
    let kept: Vec<u64> = (0..graph.arcs()).map(|arc| certificate.kept(&graph, arc)).collect();
    assert!(lose(&mut certificate, &mut graph, 0, 1, 1));
    assert!(
        kept.into_iter().eq((0..graph.arcs()).map(|arc| certificate.kept(&graph, arc))),
        "nothing was needed"
    );
    // Halved twice, 4 go over four paths.
    assert!(lose(&mut certificate, &mut graph, 0, 1, 4));
    // 3 more would need two halvings as well; of 5, a part of 2 is left, for which no path has room.
    assert!(lose(&mut certificate.clone(), &mut graph.clone(), 0, 1, 3));
    let mut graph = spare(8);
    let mut certificate = made(&graph, 8);
    assert!(!lose(&mut certificate, &mut graph, 0, 1, 6));
    assert!(!certificate.is_valid());
    // What is not valid withstands nothing more.
    assert!(!lose(&mut certificate, &mut graph, 0, 2, 1));
    certificate.keep_flow([0, 0], 0);
    assert!(certificate.is_valid());
    certificate.invalidate();
    assert!(!certificate.is_valid());
}

#[test]
fn a_certificate_wears_with_every_loss_that_is_made_up_for() {
    // Of sixteen nodes an eighth is two.
    let mut graph = spare(14);
    let mut certificate = made(&graph, 8);
    assert!(lose(&mut certificate, &mut graph, 0, 1, 1));
    for (mended, worn) in [(1, false), (2, false), (3, true), (4, true)] {
        assert!(lose(&mut certificate, &mut graph, 0, 1, 1));
        assert_eq!(certificate.is_worn(), worn, "{mended}");
    }
    certificate.make(&graph, 4, 12, Scratch::new().for_scans(), &mut || false).unwrap();
    assert!(!certificate.is_worn());
}

/// The way round a cycle is looked for from both ends, to a limit.
#[test]
fn a_search_for_paths_is_bounded() {
    for (nodes, found) in [(1000, true), (8000, true), (8500, false), (40_000, false)] {
        let edges: super::Edges = (0..nodes).map(|u| (u, (u + 1) % nodes, 4.0)).collect();
        let mut graph = Csr::from_edges(nodes as usize, &edges, |c| Some(c as u64));
        graph.sort_rows();
        let mut certificate = made(&graph, 1);
        assert_eq!(lose(&mut certificate, &mut graph, 0, 1, 4), found, "{nodes}");
    }
}

/// Node 0 in a clique of 200, and a chain of eleven nodes from there to the last, which is joined to node 0 as well.
pub(super) fn clique_and_chain() -> Csr {
    let mut edges: super::Edges = (0..200).flat_map(|u| (0..u).map(move |v| (u, v, 4.0))).collect();
    edges.push((0, 211, 4.0));
    edges.push((0, 200, 4.0));
    edges.extend((200..211).map(|u| (u, u + 1, 4.0)));
    let mut graph = Csr::from_edges(212, &edges, |c| Some(c as u64));
    graph.sort_rows();
    graph
}

/// The end that has done less goes on: where one is in a thicket the other finds the way.
#[test]
fn a_search_goes_on_at_the_end_that_is_cheaper() {
    for (u, v) in [(0, 211), (211, 0)] {
        let mut graph = clique_and_chain();
        let mut certificate = made(&graph, 1);
        assert!(lose(&mut certificate, &mut graph, u, v, 4));
    }
}
