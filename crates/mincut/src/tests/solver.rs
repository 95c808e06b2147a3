//! From-scratch solves.

use super::families::{Random, SHAPES, WEIGHTS, graph};
use super::reference::{brute_force, stoer_wagner};
use super::{Edges, check};
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
