//! From-scratch solves.

use super::families::{Random, SHAPES, WEIGHTS, graph};
use super::reference::{brute_force, stoer_wagner};
use super::{Edges, check};
use crate::csr::Csr;
use crate::solve::certify;
use crate::{Graph, Interrupted, Scratch};

/// Every graph of up to five nodes with capacities 0, 1 and 2, and every one of six nodes with 0 and 1.
#[test]
fn every_small_graph() {
    let mut scratch = Scratch::new();
    for (nodes, weights) in [(2, 3u32), (3, 3), (4, 3), (5, 3), (6, 2)] {
        let pairs: Vec<(u32, u32)> = (0..nodes).flat_map(|u| (0..u).map(move |v| (u, v))).collect();
        for number in 0..weights.pow(pairs.len() as u32) {
            let digit = |place: usize| number / weights.pow(place as u32) % weights;
            let edges: Edges =
                pairs.iter().enumerate().map(|(place, &(u, v))| (u, v, f64::from(digit(place)))).collect();
            check(nodes as usize, &edges, brute_force(nodes as usize, &edges), &mut scratch);
        }
    }
}

/// Some 27,000 graphs of thirteen shapes and seven kinds of capacities.
#[test]
fn random_graphs_of_every_family() {
    let mut scratch = Scratch::new();
    for seed in 0..300 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let mut random = Random(seed);
                let nodes = 2 + random.below(24);
                let edges = graph(shape, weights, nodes, &mut random);
                check(nodes, &edges, stoer_wagner(nodes, &edges), &mut scratch);
            }
        }
    }
}

/// Fewer, larger graphs: several rounds of contraction, rows of more than one block.
#[test]
fn larger_random_graphs() {
    let mut scratch = Scratch::new();
    for seed in 0..3 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let mut random = Random(1000 + seed);
                let nodes = 60 + random.below(120);
                let edges = graph(shape, weights, nodes, &mut random);
                check(nodes, &edges, stoer_wagner(nodes, &edges), &mut scratch);
            }
        }
    }
}

#[test]
fn fewer_than_two_nodes_have_no_cut() {
    for nodes in [0, 1] {
        assert!(Graph::from_edges(nodes, &[]).unwrap().minimum_cut().is_none());
    }
}

#[test]
fn the_same_graph_gives_the_same_cut_whatever_was_solved_before() {
    let mut random = Random(7);
    let mut scratch = Scratch::new();
    for shape in SHAPES {
        let edges = graph(shape, super::families::Weights::Unit, 40, &mut random);
        let graph = Graph::from_edges(40, &edges).unwrap();
        let fresh = graph.minimum_cut();
        assert_eq!(graph.minimum_cut_with(&mut scratch, &mut || false), Ok(fresh));
    }
}

/// A graph in which every node `u` is joined to `u + 1`, …, `u + reach`, around a circle.
fn circulant(nodes: u32, reach: u32, mut capacity: impl FnMut() -> f64) -> Edges {
    let pairs = (0..nodes).flat_map(|u| (1..=reach).map(move |step| (u, (u + step) % nodes)));
    pairs.map(|(u, v)| (u, v, capacity())).collect()
}

/// A hub with `rim` nodes around it, each of which holds to it by its spoke and two triangles.
fn wheel(rim: u32) -> Edges {
    (1..=rim).flat_map(|u| [(0, u, 2.0), (u, u % rim + 1, 1.0)]).collect()
}

/// A ring of groups of sixteen, each node joined to all of its group.
fn ring_of_groups(groups: u32) -> Edges {
    let inside =
        |group: u32| (0..16).flat_map(move |v| (0..v).map(move |u| (16 * group + u, 16 * group + v, 1.0)));
    let all = (0..groups)
        .flat_map(|group| inside(group).chain([(16 * group, (16 * group + 16) % (16 * groups), 1.0)]));
    all.collect()
}

/// Every way gives the same minimum: that a graph is still solved in the one that is fast for it, only this shows.
#[test]
fn each_kind_of_graph_is_solved_in_the_way_made_for_it() {
    let ways = |nodes: usize, edges: &Edges| {
        let mut scratch = Scratch::new();
        Graph::from_edges(nodes, edges).unwrap().minimum_cut_with(&mut scratch, &mut || false).unwrap();
        scratch.ways()
    };
    let mut random = Random(3);
    let mut near = || 1.0 + 1e-12 * random.unit();
    assert_eq!(ways(200, &circulant(200, 99, || 1.0)), ["single"], "dense");
    assert_eq!(ways(200, &circulant(200, 70, &mut near)), ["single", "wide"], "dense, nothing but rounding");
    assert_eq!(ways(20, &circulant(20, 1, || 1.0)), ["single"], "small");
    // So is what is left of the others in the end.
    let cycle = circulant(2000, 1, || 1.0);
    assert_eq!(ways(2000, &cycle), ["single", "scan", "regroup"], "a cycle");
    let cycle = circulant(2000, 1, &mut near);
    assert_eq!(ways(2000, &cycle), ["single", "wide", "exact", "scan"], "a cycle, nothing but rounding");
    assert_eq!(ways(2001, &wheel(2000)), ["hub"], "a hub");
    assert_eq!(ways(3200, &ring_of_groups(200)), ["single", "grow", "scan", "regroup"], "groups");
}

/// The same for what changes are measured against, and how the bound is chosen.
#[test]
fn each_kind_of_graph_is_certified_in_the_way_made_for_it() {
    let certified = |nodes: usize, edges: &Edges, bounds: (u64, u64), rounds: usize| {
        let graph = Csr::from_edges(nodes, edges, |c| Some(c as u64));
        let (mut scratch, mut class, mut quotient) = (Scratch::new(), Vec::new(), Csr::default());
        let bound =
            certify(&graph, bounds, rounds, &mut scratch, &mut class, &mut quotient, &mut || false).unwrap();
        (scratch.ways(), bound, quotient.nodes())
    };
    let groups = ring_of_groups(200);
    // A quotient of a sixteenth is small: nothing is gained by a lower bound.
    assert_eq!(certified(3200, &groups, (2, 15), 24), (vec!["grow", "scan"], 15, 200));
    assert_eq!(certified(2001, &wheel(2000), (2, 4), 24), (vec!["hub", "scan", "regroup"], 4, 1));
    // Nothing holds together by more than two edges: the excess is halved until nothing of it is left, and a scan at that
    // bound, which finds little as well, is the last.
    assert_eq!(certified(2000, &circulant(2000, 1, || 1.0), (2, 64), 24), (vec!["scan", "regroup"], 2, 1999));
}

/// Forty bytes an edge and a little for small graphs, and two matrices no more than one.
#[test]
fn matrices_are_bounded_by_the_edges() {
    let mut scratch = Scratch::new();
    let mut random = Random(3);
    let mut bytes = |nodes: u32, edges: &Edges| {
        let graph = Graph::from_edges(nodes as usize, edges).unwrap();
        graph.minimum_cut_with(&mut scratch, &mut || false).unwrap();
        let bytes = scratch.matrix_bytes();
        // Rows are padded.
        let padded = (1 << 16) + 40 * graph.edges() + 64 * 8 * nodes as usize;
        assert!(bytes[0] + bytes[1] <= padded, "{bytes:?} for {nodes} nodes and {} edges", graph.edges());
        bytes
    };
    // Nothing but rounding is in the way of the first; where it is not given back, both are too much.
    let half = circulant(256, 62, || 1.0 + 1e-12 * random.unit());
    assert_eq!(bytes(256, &half), [0, 256 * 256 * 8]);
    assert_eq!(bytes(160, &circulant(160, 79, || 1.0))[1], 0);
}

/// Arcs that leave grown sets are kept while they are an eighth of all.
#[test]
fn what_leaves_grown_sets_is_bounded_by_the_arcs() {
    let mut random = Random(3);
    for (between, kept) in [(5, true), (60, false)] {
        let inside = (0..2000u32).flat_map(|u| (u / 10 * 10..u).map(move |v| (u, v, 4.0)));
        let mut edges: Edges = inside.collect();
        // Node 0 has no more than its group: the bound is as much as holds that together.
        edges.extend((0..100 * between).map(|_| {
            let mut node = || 1 + random.below(1999) as u32;
            (node(), node(), 1.0)
        }));
        let graph = Graph::from_edges(2000, &edges).unwrap();
        let mut scratch = Scratch::new();
        graph.minimum_cut_with(&mut scratch, &mut || false).unwrap();
        let check = |scratch: &Scratch| {
            let ((leaving, complete), arcs) = (scratch.leaving(), graph.csr.arcs());
            assert_eq!(complete, kept, "{leaving} of {arcs}");
            assert!(leaving > 0 && leaving <= arcs / 8, "{leaving} of {arcs}");
        };
        check(&scratch);
        let (mut scratch, mut class, mut quotient) = (Scratch::new(), Vec::new(), Csr::default());
        let (_, least) = graph.csr.lightest().unwrap();
        certify(&graph.csr, (least, least), 1, &mut scratch, &mut class, &mut quotient, &mut || false)
            .unwrap();
        check(&scratch);
    }
}

/// One scan sees that a graph has fallen apart; nothing is contracted for it.
#[test]
fn a_graph_that_fell_apart_takes_one_scan() {
    let halves =
        circulant(1000, 1, || 1.0).into_iter().flat_map(|(u, v, c)| [(u, v, c), (u + 1000, v + 1000, c)]);
    let graph = Graph::from_edges(2000, &halves.collect::<Edges>()).unwrap();
    let mut calls = 0;
    let cut = graph.minimum_cut_with(&mut Scratch::new(), &mut || {
        calls += 1;
        false
    });
    let cut = cut.unwrap().unwrap();
    assert_eq!((cut.units, cut.side_len(), calls), (0, 1000, 1));
}

/// An interrupt may come at any call; what was asked next must not notice.
#[test]
fn interruption_leaves_the_scratch_usable() {
    let mut random = Random(11);
    let mut scratch = Scratch::new();
    for shape in SHAPES {
        for tuning in super::TUNINGS {
            let edges = graph(shape, super::families::Weights::Real, 60, &mut random);
            let graph = Graph::from_edges(60, &edges).unwrap();
            let expected = graph.minimum_cut();
            for limit in 0..40 {
                let mut calls = 0;
                let stopped = crate::solve::solve(&graph.csr, tuning, &mut scratch, &mut || {
                    calls += 1;
                    calls > limit
                });
                if stopped.is_ok() {
                    break;
                }
                assert_eq!(stopped, Err(Interrupted));
                assert_eq!(graph.minimum_cut_with(&mut scratch, &mut || false).unwrap(), expected);
            }
        }
    }
}

/// A scan of many nodes asks the callback in between, not only at its end.
#[test]
fn a_long_scan_can_be_interrupted() {
    let edges: Edges = (0..100_000).map(|u| (u, (u + 1) % 100_000, 1.0)).collect();
    let graph = Graph::from_edges(100_000, &edges).unwrap();
    let mut calls = 0;
    let stopped = graph.minimum_cut_with(&mut Scratch::new(), &mut || {
        calls += 1;
        calls == 5
    });
    assert_eq!(stopped, Err(Interrupted));
}

#[test]
fn a_cycle_of_equal_real_capacities_contracts_without_rounding() {
    // 0.1 is no dyadic number; the capacities' common divisor makes it one unit.
    let edges: Edges = (0..1000).map(|u| (u, (u + 1) % 1000, 0.1)).collect();
    let graph = Graph::from_edges(1000, &edges).unwrap();
    let cut = graph.minimum_cut().unwrap();
    assert_eq!(cut.units, 2);
    assert!((cut.value - 0.2).abs() < 1e-15);
}

#[test]
fn a_cut_names_the_edges_that_cross_it() {
    let edges = [(0, 1, 3.0), (1, 2, 1.0), (2, 3, 3.0), (3, 0, 0.5), (0, 2, 0.0), (1, 1, 9.0), (3, 2, 1.0)];
    let cut = Graph::from_edges(4, &edges).unwrap().minimum_cut().unwrap();
    // Of two equal sides, the one without node 0.
    assert_eq!((cut.value, cut.side.as_slice()), (1.5, [false, false, true, true].as_slice()));
    assert_eq!(
        (cut.side_len(), cut.units as f64),
        (2, 1.5 / Graph::from_edges(4, &edges).unwrap().resolution())
    );
    assert_eq!(cut.witness(&edges), [1, 3, 4]);
    // Nodes that are not in the graph are on no side.
    assert_eq!(cut.witness(&[(0, 4, 1.0), (9, 2, 1.0), (3, 1, 1.0)]), [2]);
    // The smaller side, wherever node 0 is.
    let star =
        |hub: u32| -> Edges { (0..5).filter(|&u| u != hub).map(|u| (hub, u, 1.0 + f64::from(u))).collect() };
    for (hub, side) in [(4, 0), (0, 1)] {
        let cut = Graph::from_edges(5, &star(hub)).unwrap().minimum_cut().unwrap();
        assert_eq!((cut.side_len(), cut.side[side]), (1, true));
    }
}
