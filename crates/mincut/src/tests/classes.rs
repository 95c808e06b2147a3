//! What the ways of merging nodes promise, against all cuts one by one, or flows where those are many: no cut below the bound
//! separates two nodes of a class.

use super::families::{Random, SHAPES, Shape, WEIGHTS, Weights, graph};
use crate::contract::contract;
use crate::csr::Csr;
use crate::dense::{Matrix, Number};
use crate::exact::Heap;
use crate::flow::Flow;
use crate::grow::Grow;
use crate::hub::Hub;
use crate::queue::Buckets;
use crate::regroup::Regroup;
use crate::scan::{Order, VISITED, scan, scan_keeping};
use crate::solve::{Interrupted, Scratch, certify};
use crate::trail::Trail;
use std::collections::BTreeMap;

/// A random graph of up to ten nodes with whole capacities, some 0 as a graph that changes may have.
fn small(seed: u64, shape: Shape, weights: Weights, random: &mut Random) -> Csr {
    *random = Random(seed);
    let nodes = 2 + random.below(9);
    let edges = graph(shape, weights, nodes, random);
    Csr::from_edges(nodes, &edges, |capacity| Some((capacity.min(1e6) * 8.0) as u64))
}

fn class(order: &Order, node: u32) -> u32 {
    order.class[node as usize] & !VISITED
}

/// The classes are intervals of an order of all nodes, and every cut that splits one is worth the bound.
fn check(graph: &Csr, order: &Order, bound: u64, context: &str) {
    check_order(graph, order, context);
    check_cuts(graph, |node| class(order, node), bound, context);
}

/// The classes are intervals of an order of all nodes.
fn check_order(graph: &Csr, order: &Order, context: &str) {
    let nodes = graph.nodes() as u32;
    let mut all: Vec<u32> = (0..order.classes()).flat_map(|class| order.members(class).to_vec()).collect();
    for number in 0..order.classes() {
        assert!(!order.members(number).is_empty(), "an empty class: {context}");
        for &node in order.members(number) {
            assert_eq!(class(order, node) as usize, number, "{context}");
            assert!(order.class[node as usize] & VISITED != 0, "{context}");
        }
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..nodes), "not every node once: {context}");
}

/// What crosses the side, a bit a node.
fn value_of(graph: &Csr, side: u32) -> u64 {
    let on = |node: u32| side >> node & 1;
    (0..graph.nodes() as u32)
        .flat_map(|node| graph.row(node as usize).map(move |arc| (node, arc)))
        .filter(|&(node, (target, _))| on(node) > on(target))
        .map(|(_, (_, weight))| weight)
        .sum()
}

/// Every cut that splits a class is worth the bound.
fn check_cuts(graph: &Csr, class: impl Fn(u32) -> u32, bound: u64, context: &str) {
    let nodes = graph.nodes() as u32;
    for side in 1..1u32 << (nodes - 1) {
        let value = value_of(graph, side);
        if value < bound {
            let of = |on: u32| (0..nodes).filter(move |node| side >> node & 1 == on);
            let splits = of(1).any(|a| of(0).any(|b| class(a) == class(b)));
            assert!(!splits, "a cut of {value} below {bound} splits a class: {context}");
        }
    }
}

/// Like [`check`] for graphs with too many cuts: between the members of a class flows of the bound.
fn check_by_flows(graph: &mut Csr, order: &Order, bound: u64, flow: &mut Flow, context: &str) {
    check_order(graph, order, context);
    for number in 0..order.classes() {
        for pair in order.members(number).windows(2) {
            let mut arcs = usize::MAX;
            let (held, _) = flow.run(graph, (pair[0], pair[1]), bound, &mut arcs, |_| false);
            assert!(held.value() >= bound, "{} below {bound} between {pair:?}: {context}", held.value());
        }
    }
}

/// Arcs between classes, summed.
fn quotient(graph: &Csr, class: impl Fn(u32) -> u32) -> BTreeMap<(u32, u32), u64> {
    let mut sums = BTreeMap::new();
    for node in 0..graph.nodes() as u32 {
        for (target, weight) in graph.row(node as usize) {
            let (from, to) = (class(node), class(target));
            if from != to {
                *sums.entry((from, to)).or_insert(0) += weight;
            }
        }
    }
    sums
}

fn bound_for(graph: &Csr, random: &mut Random) -> u64 {
    let (_, least) = graph.lightest().unwrap();
    1 + (least as f64 * (0.2 + 0.8 * random.unit())) as u64
}

#[test]
fn grown_sets_hold_together_and_leave_their_quotient() {
    let (mut grow, mut order, mut out) = (Grow::default(), Order::default(), Csr::default());
    let (mut merged, mut left, mut too_many) = (0, 0, 0);
    let mut random = Random(0);
    for seed in 0..40 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let graph = small(seed, shape, weights, &mut random);
                let bound = bound_for(&graph, &mut random);
                let context = format!("seed {seed} {shape:?} {weights:?} bound {bound}");
                // Asking first must leave no trace.
                grow.promises(&graph, bound, 1);
                let leaving_max = graph.arcs() / [1, 1, 8][random.below(3)];
                grow.run(&graph, bound, leaving_max, &mut order, &mut || false).unwrap();
                check(&graph, &order, bound, &context);
                merged += graph.nodes() - order.classes();
                if !grow.contract(&graph, &order, &mut Vec::new(), &mut out) {
                    too_many += 1;
                    continue;
                }
                left += out.arcs();
                let expected = quotient(&graph, |node| class(&order, node));
                assert_eq!(quotient(&out, |node| node), expected, "{context}");
                assert_eq!(out.arcs(), expected.len(), "an arc twice: {context}");
                for node in 0..out.nodes() {
                    let degree: u64 = out.row(node).map(|(_, weight)| weight).sum();
                    assert_eq!(out.degrees[node], degree, "{context}");
                }
            }
        }
    }
    assert!(merged > 3000 && left > 1000 && too_many > 100, "{merged} {left} {too_many}");
}

/// An interrupt may come in the middle; the next growth must not notice.
#[test]
fn an_interrupted_growth_leaves_no_trace() {
    let edges: super::Edges = (0..10_000u32).map(|u| (u, (u + 1) % 10_000, 1.0)).collect();
    let graph = Csr::from_edges(10_000, &edges, |_| Some(1));
    let (mut grow, mut order) = (Grow::default(), Order::default());
    let mut calls = 0;
    let stopped = grow.run(&graph, 1, 0, &mut order, &mut || {
        calls += 1;
        calls == 2
    });
    assert!(stopped.is_err());
    // No two hold together by more than their edge.
    grow.run(&graph, 3, 0, &mut order, &mut || false).unwrap();
    assert_eq!(order.classes(), 10_000);
    grow.run(&graph, 1, 0, &mut order, &mut || false).unwrap();
    assert_eq!(order.classes(), 1);
}

#[test]
fn regrouped_classes_hold_together() {
    let (mut regroup, mut order, mut buckets) = (Regroup::default(), Order::default(), Buckets::default());
    let (mut merged, mut apart) = (0, 0);
    let mut random = Random(0);
    for seed in 0..40 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let graph = small(seed, shape, weights, &mut random);
                let bound = bound_for(&graph, &mut random);
                let key_bits = 2 + random.below(11) as u32;
                let context = format!("seed {seed} {shape:?} {weights:?} bound {bound}");
                scan(&graph, bound, key_bits, 0, &mut order, &mut buckets, &mut || false).unwrap();
                for _ in 0..3 {
                    let before = order.classes();
                    let around = quotient(&graph, |node| class(&order, node));
                    let value = |class: usize| -> u64 {
                        around.iter().filter(|((from, _), _)| *from as usize == class).map(|(_, w)| w).sum()
                    };
                    let least = (0..before).map(value).min().unwrap();
                    let old: Vec<Vec<u32>> = (0..before).map(|class| order.members(class).to_vec()).collect();
                    regroup.scan(&graph, bound, key_bits, &mut order, &mut buckets, &mut || false).unwrap();
                    check(&graph, &order, bound, &context);
                    assert!(order.classes() <= before);
                    merged += before - order.classes();
                    assert_eq!(regroup.least, least, "{context}");
                    let found = old.iter().position(|members| *members == regroup.side).unwrap();
                    assert_eq!(value(found), least, "{context}");
                    // What was reached before the scan began anew is a union of classes.
                    if order.reached < graph.nodes() {
                        apart += 1;
                        assert!(order.starts.contains(&(order.reached as u32)), "{context}");
                    }
                }
            }
        }
    }
    assert!(merged > 300 && apart > 100, "{merged} {apart}");
}

/// What was reached before a scan began anew hangs on the rest by less than a key can tell.
fn check_reached(graph: &Csr, order: &Order, least_key: u64, context: &str) {
    let reached = &order.nodes[..order.reached];
    assert!(!reached.is_empty(), "{context}");
    if order.reached < graph.nodes() {
        assert!(order.starts.contains(&(order.reached as u32)), "{context}");
        let inside = |node: u32| reached.contains(&node);
        let arcs = reached.iter().flat_map(|&node| graph.row(node as usize)).filter(|arc| !inside(arc.0));
        assert!(arcs.into_iter().all(|(_, weight)| weight < least_key), "{context}");
    }
}

#[test]
fn scans_certify_what_holds_together() {
    let (mut order, mut buckets, mut exact) = (Order::default(), Buckets::default(), Heap::default());
    let (mut merged, mut apart) = (0, 0);
    let mut random = Random(0);
    for seed in 0..30 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let graph = small(seed, shape, weights, &mut random);
                let bound = bound_for(&graph, &mut random);
                let key_bits = 2 + random.below(11) as u32;
                let first = random.below(graph.nodes()) as u32;
                let context = format!("seed {seed} {shape:?} {weights:?} bound {bound}");
                scan(&graph, bound, key_bits, first, &mut order, &mut buckets, &mut || false).unwrap();
                check(&graph, &order, bound, &context);
                assert_eq!(order.nodes[0], first);
                let step = 1 << (u64::BITS - bound.leading_zeros()).saturating_sub(key_bits);
                check_reached(&graph, &order, step, &context);
                merged += graph.nodes() - order.classes();
                // With nothing rounded as much is certified, and something always is: the last node has its whole degree.
                exact.scan(&graph, bound, &mut order, &mut || false).unwrap();
                check(&graph, &order, bound, &context);
                check_reached(&graph, &order, 1, &context);
                let (_, least) = graph.lightest().unwrap();
                assert!(order.classes() < graph.nodes() || least == 0, "nothing certified: {context}");
                apart += usize::from(order.reached < graph.nodes());
            }
        }
    }
    assert!(merged > 5000 && apart > 100, "{merged} {apart}");
}

/// What is told of the arcs to a node that comes later is, together, what they carry, and the bound where they carry more.
#[test]
fn a_scan_tells_what_raised_the_keys_up_to_the_bound() {
    let (mut order, mut buckets) = (Order::default(), Buckets::default());
    let (mut full, mut part) = (0, 0);
    let mut random = Random(0);
    for seed in 0..30 {
        for shape in SHAPES {
            for weights in [Weights::Unit, Weights::Small, Weights::Real, Weights::Thirds] {
                let graph = small(seed, shape, weights, &mut random);
                // All bits of such a bound are in the keys.
                let bound = 1 + random.next() % 60;
                let mut told = vec![0; graph.nodes()];
                let mut keep = |arc: usize, amount: u64| {
                    assert!(amount <= graph.weights[arc]);
                    told[graph.targets[arc] as usize] += amount;
                };
                scan_keeping(&graph, bound, 12, 0, &mut order, &mut buckets, &mut || false, &mut keep)
                    .unwrap();
                for (at, &node) in order.nodes.iter().enumerate() {
                    let before = |other: u32| order.nodes[..at].contains(&other);
                    let carried: u64 =
                        graph.row(node as usize).filter(|arc| before(arc.0)).map(|arc| arc.1).sum();
                    assert_eq!(
                        told[node as usize],
                        carried.min(bound),
                        "seed {seed} {shape:?} {weights:?} {bound}"
                    );
                    full += usize::from(carried > bound);
                    part += usize::from(carried < bound);
                }
            }
        }
    }
    assert!(full > 1000 && part > 1000, "{full} {part}");
}

#[test]
fn what_holds_to_a_hub_holds_together() {
    let (mut order, mut hub) = (Order::default(), Hub::default());
    let (mut merged, mut promising) = (0, 0);
    let mut random = Random(0);
    for seed in 0..40 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let graph = small(seed, shape, weights, &mut random);
                let bound = bound_for(&graph, &mut random);
                let context = format!("seed {seed} {shape:?} {weights:?} bound {bound}");
                if hub.promises(&graph, bound, 1) {
                    promising += 1;
                    hub.run(&graph, bound, &mut order);
                    check(&graph, &order, bound, &context);
                    // What was promised is kept.
                    assert!(order.classes() < graph.nodes(), "{context}");
                    merged += graph.nodes() - order.classes();
                }
            }
        }
    }
    assert!(merged > 1000 && promising > 300, "{merged} {promising}");
}

/// A wheel with spokes of 2 and a rim of 1, and a path of `tail` nodes that hangs on it.
fn wheel(rim: u32, tail: u32) -> Csr {
    let mut edges: super::Edges =
        (1..=rim).flat_map(|node| [(0, node, 2.0), (node, node % rim + 1, 1.0)]).collect();
    edges.extend((rim..rim + tail).map(|node| (node, node + 1, 1.0)));
    Csr::from_edges((1 + rim + tail) as usize, &edges, |c| Some(c as u64))
}

#[test]
fn a_hub_is_joined_to_many_that_hold_to_it() {
    let mut hub = Hub::default();
    let mut order = Order::default();
    // Every node of the rim holds to the hub by its spoke and two triangles.
    assert!(hub.promises(&wheel(40, 0), 4, 16));
    hub.run(&wheel(40, 0), 4, &mut order);
    assert_eq!(order.classes(), 1);
    assert!(!hub.promises(&wheel(40, 0), 5, 16), "nothing holds by more");
    assert!(!hub.promises(&wheel(40, 0), 2, 16), "the spokes alone, which a scan sees as well");
    assert!(!hub.promises(&wheel(40, 0), 4, 0), "switched off");
    // Too few neighbours for so many samples, and too few of all nodes.
    assert!(!hub.promises(&wheel(32, 0), 4, 16) && hub.promises(&wheel(33, 0), 4, 16));
    assert!(hub.promises(&wheel(40, 40 * 8 - 41), 4, 16) && !hub.promises(&wheel(40, 40 * 8 - 40), 4, 16));
    // Nodes of the tail do not hold to it.
    let graph = wheel(40, 100);
    assert!(hub.promises(&graph, 4, 16));
    hub.run(&graph, 4, &mut order);
    check_order(&graph, &order, "");
    assert_eq!(order.classes(), 101);
    assert_eq!(order.members(class(&order, 0) as usize), (0..=40).collect::<Vec<_>>());
}

/// Runs a matrix and checks what it leaves: classes that no cut below the best one splits, and that cut's value.
fn run_matrix<N: Number>(
    graph: &mut Csr,
    matrix: &mut Matrix<N>,
    trail: &mut Trail,
    order: &mut Order,
    check: &mut dyn FnMut(&mut Csr, &Order, u64),
) {
    trail.reset(graph.nodes());
    let (node, degree) = graph.lightest().unwrap();
    trail.found(degree, &[node as u32]);
    matrix.run(graph, trail, order, &mut || false).unwrap();
    let side = trail.side();
    let value: u64 = (0..graph.nodes())
        .filter(|&node| side[node])
        .flat_map(|node| graph.row(node))
        .filter(|&(target, _)| !side[target as usize])
        .map(|(_, weight)| weight)
        .sum();
    assert_eq!(trail.value(), value);
    assert!(side.contains(&true) && side.contains(&false));
    check(graph, order, trail.value());
}

#[test]
fn a_matrix_certifies_what_holds_together() {
    let (mut order, mut trail) = (Order::default(), Trail::default());
    let (mut single, mut wide) = (Matrix::<f32>::default(), Matrix::<i64>::default());
    let (mut merged, mut found) = (0, 0);
    let mut random = Random(0);
    for seed in 0..30 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let mut graph = small(seed, shape, weights, &mut random);
                if seed % 2 == 1 {
                    // Capacities that single precision cannot hold.
                    for node in 0..graph.nodes() {
                        for arc in graph.range(node) {
                            let ends = node as u64 + u64::from(graph.targets[arc]);
                            graph.weights[arc] = graph.weights[arc] * ((1 << 33) + 12345) + ends % 3;
                        }
                    }
                    graph.sum_degrees();
                }
                let (_, least) = graph.lightest().unwrap();
                if least == 0 {
                    continue;
                }
                let context = format!("seed {seed} {shape:?} {weights:?}");
                let mut check = |graph: &mut Csr, order: &Order, bound: u64| {
                    check(graph, order, bound, &context);
                    merged += graph.nodes() - order.classes();
                    found += usize::from(bound < least);
                };
                run_matrix(&mut graph, &mut single, &mut trail, &mut order, &mut check);
                // Sums are exact: it goes on until two classes are left, or the graph was seen to fall apart.
                run_matrix(&mut graph, &mut wide, &mut trail, &mut order, &mut check);
                assert!(order.classes() <= 2 || trail.value() == 0, "{context}");
            }
        }
    }
    assert!(merged > 10_000 && found > 200, "{merged} {found}");
}

#[test]
fn a_matrix_that_is_too_large_to_keep_is_given_back() {
    let (mut trail, mut order) = (Trail::default(), Order::default());
    let mut matrix = Matrix::<f32>::default();
    let mut kept = |bytes_max: Option<usize>| {
        trail.reset(100);
        trail.found(99, &[0]);
        matrix.run(&complete(100), &mut trail, &mut order, &mut || false).unwrap();
        matrix.keep_within(bytes_max.unwrap_or(usize::MAX));
        matrix.bytes()
    };
    let bytes = kept(None);
    assert_eq!((bytes, kept(Some(bytes)), kept(Some(bytes - 1))), (100 * 128 * 4, bytes, 0));
}

/// Sizes at which rows take more than one block, avalanches happen and sets are large.
#[test]
fn larger_classes_hold_together() {
    let (mut order, mut out, mut buckets) = (Order::default(), Csr::default(), Buckets::default());
    let (mut grow, mut regroup, mut hub) = (Grow::default(), Regroup::default(), Hub::default());
    let (mut exact, mut trail, mut flow) = (Heap::default(), Trail::default(), Flow::default());
    let (mut single, mut wide) = (Matrix::<f32>::default(), Matrix::<i64>::default());
    let mut merged = [0; 6];
    for (seed, nodes) in [(1, 24), (2, 70), (3, 135)] {
        for shape in SHAPES {
            for weights in [Weights::Unit, Weights::Real, Weights::Huge] {
                let mut random = Random(seed);
                let edges = graph(shape, weights, nodes, &mut random);
                let graph = &mut Csr::from_edges(nodes, &edges, |c| Some((c.min(1e6) * 8.0) as u64));
                graph.sort_rows();
                let bound = bound_for(graph, &mut random);
                let context = format!("seed {seed} {shape:?} {weights:?} bound {bound}");
                scan(graph, bound, 12, 0, &mut order, &mut buckets, &mut || false).unwrap();
                check_by_flows(graph, &order, bound, &mut flow, &context);
                merged[0] += nodes - order.classes();
                regroup.scan(graph, bound, 12, &mut order, &mut buckets, &mut || false).unwrap();
                check_by_flows(graph, &order, bound, &mut flow, &context);
                exact.scan(graph, bound, &mut order, &mut || false).unwrap();
                check_by_flows(graph, &order, bound, &mut flow, &context);
                merged[1] += nodes - order.classes();
                grow.run(graph, bound, graph.arcs(), &mut order, &mut || false).unwrap();
                check_by_flows(graph, &order, bound, &mut flow, &context);
                merged[2] += nodes - order.classes();
                if grow.contract(graph, &order, &mut Vec::new(), &mut out) {
                    let expected = quotient(graph, |node| class(&order, node));
                    assert_eq!(quotient(&out, |node| node), expected, "{context}");
                }
                if hub.promises(graph, bound, 8) {
                    hub.run(graph, bound, &mut order);
                    check_by_flows(graph, &order, bound, &mut flow, &context);
                    merged[3] += nodes - order.classes();
                }
                if graph.lightest().is_some_and(|(_, least)| least > 0) {
                    let mut check = |graph: &mut Csr, order: &Order, bound: u64| {
                        check_by_flows(graph, order, bound, &mut flow, &context);
                        merged[4] += nodes - order.classes();
                    };
                    run_matrix(graph, &mut single, &mut trail, &mut order, &mut check);
                    run_matrix(graph, &mut wide, &mut trail, &mut order, &mut check);
                    merged[5] += 1;
                }
            }
        }
    }
    assert!(merged.iter().zip([3000, 3000, 2000, 100, 5000, 60]).all(|(&n, least)| n > least), "{merged:?}");
}

/// A seed that stays alone is not done with: a set that is grown later may take it.
#[test]
fn a_seed_that_stays_alone_may_join_later() {
    // The first node holds to no other by itself, but to a path that holds together.
    let mut edges: super::Edges = (2..=8).map(|node| (node - 1, node, 10.0)).collect();
    edges.extend([1, 3, 5, 7].map(|node| (0, node, 1.0)));
    let graph = Csr::from_edges(9, &edges, |c| Some(c as u64));
    let (mut grow, mut order) = (Grow::default(), Order::default());
    grow.run(&graph, 4, 0, &mut order, &mut || false).unwrap();
    check(&graph, &order, 4, "");
    assert_eq!(order.classes(), 1);
}

/// Where most nodes around have joined, those that come late may bring many more. What is near a set takes memory for the nodes
/// there are, and the arcs of one.
#[test]
fn late_members_bring_their_neighbours() {
    let (mut grow, mut order, mut out) = (Grow::default(), Order::default(), Csr::default());
    let (joined, each) = (20, 100);
    let heart = (1..=joined).map(|node| (0, node, 5.0));
    let leaf = |node: u32, nth: u32| 1 + joined + (node - 1) * each + nth;
    let leaves = (1..=joined).flat_map(|node| (0..each).map(move |nth| (node, leaf(node, nth), 1.0)));
    let edges: super::Edges = heart.chain(leaves).collect();
    let nodes = 1 + (joined + joined * each) as usize;
    let graph = Csr::from_edges(nodes, &edges, |c| Some(c as u64));
    grow.run(&graph, 5, graph.arcs(), &mut order, &mut || false).unwrap();
    check_order(&graph, &order, "");
    assert_eq!(order.classes(), 1 + (joined * each) as usize);
    assert_eq!(order.members(class(&order, 0) as usize).len(), 1 + joined as usize);
    assert!(grow.contract(&graph, &order, &mut Vec::new(), &mut out));
    assert_eq!(quotient(&out, |node| node), quotient(&graph, |node| class(&order, node)));
    let arcs = 1 + each as usize;
    assert!((nodes..=2 * (nodes + arcs)).contains(&grow.near_len()), "{}", grow.near_len());
    // A set that is grown from one to the next.
    let path: super::Edges = (1..1000).map(|node| (node - 1, node, 1.0)).collect();
    let mut grow = Grow::default();
    grow.run(&Csr::from_edges(1000, &path, |_| Some(1)), 1, 0, &mut order, &mut || false).unwrap();
    assert_eq!(order.classes(), 1);
    assert!(grow.near_len() <= 2 * 1003, "{}", grow.near_len());
}

#[test]
fn nodes_with_many_arcs_join_by_their_key_alone() {
    let (mut grow, mut order) = (Grow::default(), Order::default());
    // Seeds have at most 64 arcs: one of 65 nodes in a complete graph has.
    for (nodes, classes) in [(60, 1), (65, 1), (66, 66)] {
        let graph = complete(nodes);
        grow.run(&graph, 20, 0, &mut order, &mut || false).unwrap();
        assert_eq!(order.classes(), classes, "{nodes}");
        assert_eq!(grow.promises(&graph, 20, 16), classes == 1);
        // An edge that a scan certifies is none of these tests' business.
        assert!(!grow.promises(&graph, 1, 16) && !grow.promises(&graph, 20, 0));
        assert!(!grow.promises(&graph, u64::from(nodes), 16), "no degree is so large");
    }
    assert!(!grow.promises(&complete(15), 4, 16) && grow.promises(&complete(16), 4, 16));
}

/// The partition that changes are measured against: of the bound that is returned, with its quotient.
#[test]
fn a_certified_partition_comes_with_its_quotient() {
    let mut scratch = Scratch::new();
    let (mut classes, mut out) = (Vec::new(), Csr::default());
    let mut merged = 0;
    let mut random = Random(0);
    for seed in 0..40 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let graph = small(seed, shape, weights, &mut random);
                let lower = bound_for(&graph, &mut random);
                let upper = lower + (lower as f64 * random.unit()) as u64;
                let rounds = 1 + random.below(6);
                let context =
                    format!("seed {seed} {shape:?} {weights:?} {lower} to {upper}, {rounds} rounds");
                let bounds = (lower, upper);
                let bound =
                    certify(&graph, bounds, rounds, &mut scratch, &mut classes, &mut out, &mut || false)
                        .unwrap();
                assert!((lower..=upper).contains(&bound), "{bound}: {context}");
                merged += graph.nodes() - out.nodes();
                let class = |node: u32| classes[node as usize];
                assert!(
                    (0..graph.nodes() as u32).all(|node| (class(node) as usize) < out.nodes()),
                    "{context}"
                );
                check_cuts(&graph, class, bound, &context);
                assert_eq!(quotient(&out, |node| node), quotient(&graph, class), "{context}");
                for node in 0..out.nodes() {
                    assert_eq!(out.degrees[node], out.row(node).map(|arc| arc.1).sum(), "{context}");
                }
            }
        }
    }
    assert!(merged > 3000, "{merged}");
    // Rounds that certify little lower the bound, which takes larger graphs.
    let (mut lowered, mut merged) = (0, 0);
    let mut flow = Flow::default();
    for seed in 0..4 {
        for shape in SHAPES {
            for weights in [Weights::Unit, Weights::Real] {
                let mut random = Random(seed);
                let nodes = 40 + random.below(60);
                let edges = graph(shape, weights, nodes, &mut random);
                let graph = &mut Csr::from_edges(nodes, &edges, |c| Some((c * 1e6) as u64));
                graph.sort_rows();
                let lower = bound_for(graph, &mut random);
                let upper = lower + (lower as f64 * 0.5 * random.unit()) as u64;
                let context = format!("seed {seed} {shape:?} {weights:?} {lower} to {upper}");
                let bounds = (lower, upper);
                let bound =
                    certify(graph, bounds, 24, &mut scratch, &mut classes, &mut out, &mut || false).unwrap();
                assert!((lower..=upper).contains(&bound), "{bound}: {context}");
                lowered += usize::from(bound < upper);
                merged += nodes - out.nodes();
                check_by_flows(graph, &order_of(&classes), bound, &mut flow, &context);
                assert_eq!(
                    quotient(&out, |node| node),
                    quotient(graph, |node| classes[node as usize]),
                    "{context}"
                );
            }
        }
    }
    assert!(lowered > 4 && merged > 5000, "{lowered} {merged}");
}

/// An order of the classes given, whatever they are.
fn order_of(classes: &[u32]) -> Order {
    let mut order = Order::default();
    order.reset(classes.len());
    order.starts.resize(classes.iter().max().map_or(0, |&last| last as usize + 1), 0);
    for (at, &class) in order.class.iter_mut().zip(classes) {
        *at = VISITED | class;
        order.starts[class as usize] += 1;
    }
    order.sort();
    order
}

fn complete(nodes: u32) -> Csr {
    let edges: super::Edges = (0..nodes).flat_map(|u| (0..u).map(move |v| (u, v, 1.0))).collect();
    Csr::from_edges(nodes as usize, &edges, |_| Some(1))
}

#[test]
fn contraction_keeps_what_lies_between_classes() {
    // Left from one to the next.
    let (mut placed, mut used) = (Vec::new(), Csr::default());
    let mut random = Random(8);
    let mut graphs: Vec<Csr> = Vec::new();
    for shape in SHAPES {
        for nodes in [3, 30, 120] {
            let edges = graph(shape, Weights::Small, nodes, &mut random);
            graphs.push(Csr::from_edges(nodes, &edges, |c| Some((c as u64).saturating_sub(1))));
        }
    }
    // A class of 90 of these has more than 2^14 arcs, and a class that has swallowed most need not be read.
    graphs.push(complete(200));
    let mut swallowed = 0;
    for graph in &graphs {
        let nodes = graph.nodes();
        for count in [2, 3, nodes / 5 + 1, nodes / 2 + 1, nodes] {
            for first_part in [0.0, 0.45, 0.8] {
                let count = count.min(nodes);
                let mut classes: Vec<u32> = (0..nodes).map(|_| random.below(count) as u32).collect();
                let largest = random.below(count) as u32;
                for class in &mut classes {
                    *class = if random.unit() < first_part { largest } else { *class };
                }
                // Every class has a member.
                for (node, class) in classes.iter_mut().enumerate().take(count) {
                    *class = node as u32;
                }
                let order = order_of(&classes);
                check_order(graph, &order, "");
                let expected = quotient(graph, |node| classes[node as usize]);
                let most = (0..count).map(|class| order.members(class).len()).max().unwrap();
                swallowed += usize::from(2 * most > nodes);
                for stream_arcs in [0, usize::MAX] {
                    let mut fresh = Csr::default();
                    contract(graph, &order, stream_arcs, &mut placed, &mut fresh);
                    // No more memory than the source has, and a node's.
                    let room = graph.arcs() + 1 + if 2 * most > nodes { count } else { 0 };
                    assert!(fresh.targets.capacity() <= room && fresh.weights.capacity() <= room);
                    contract(graph, &order, stream_arcs, &mut placed, &mut used);
                    for out in [&fresh, &used] {
                        let context = format!("{nodes} nodes, {classes:?}, {stream_arcs}");
                        assert_eq!((out.nodes(), out.arcs()), (count, expected.len()), "{context}");
                        assert_eq!(out.weights.len(), out.arcs());
                        assert_eq!(quotient(out, |node| node), expected, "{context}");
                        for node in 0..count {
                            assert_eq!(out.degrees[node], out.row(node).map(|arc| arc.1).sum(), "{context}");
                        }
                    }
                }
            }
        }
    }
    assert!(swallowed > 100, "{swallowed}");
    // The first class is large, and what it was the first to write must not be taken for the next one's.
    let classes: Vec<u32> = (0..200).map(|node| if node < 90 { 0 } else { 1 + node % 2 }).collect();
    contract(&graphs[graphs.len() - 1], &order_of(&classes), usize::MAX, &mut placed, &mut used);
    let expected = [((0, 1), 90 * 55), ((0, 2), 90 * 55), ((1, 2), 55 * 55)];
    let both = expected.iter().flat_map(|&((u, v), w)| [((u, v), w), ((v, u), w)]);
    assert_eq!(quotient(&used, |node| node), both.collect());
}

/// Keys of a complete graph grow with every visit. The entries they leave behind are swept out: what a scan takes is
/// proportional to the nodes.
#[test]
fn stale_keys_do_not_fill_the_memory() {
    let graph = complete(300);
    let most = 2 * 300 + 1024 + 300;
    let (mut order, mut buckets, mut regroup) = (Order::default(), Buckets::default(), Regroup::default());
    scan(&graph, 299, 12, 0, &mut order, &mut buckets, &mut || false).unwrap();
    assert!(buckets.pool_len() <= most, "{}", buckets.pool_len());
    assert_eq!(order.classes(), 299);
    let mut order = order_of(&(0..300).collect::<Vec<_>>());
    regroup.scan(&graph, 299, 12, &mut order, &mut buckets, &mut || false).unwrap();
    assert!(buckets.pool_len() <= most, "{}", buckets.pool_len());
    assert_eq!((order.classes(), regroup.least), (299, 299));
}

/// How often the callback is asked, and that the answer counts whenever it is.
fn asked(mut run: impl FnMut(&mut dyn FnMut() -> bool) -> Result<(), Interrupted>) -> usize {
    let mut times = 0;
    run(&mut || {
        times += 1;
        false
    })
    .unwrap();
    for stop in 0..times {
        let mut calls = 0;
        let stopped = run(&mut || {
            calls += 1;
            calls > stop
        });
        assert_eq!((stopped, calls), (Err(Interrupted), stop + 1));
    }
    times
}

#[test]
fn long_steps_ask_whether_to_stop() {
    let edges: super::Edges = (0..10_000u32).map(|u| (u, (u + 1) % 10_000, 1.0)).collect();
    let cycle = Csr::from_edges(10_000, &edges, |_| Some(1));
    let (mut order, mut buckets) = (Order::default(), Buckets::default());
    assert_eq!(asked(|stop| scan(&cycle, 2, 12, 0, &mut order, &mut buckets, stop)), 2);
    let mut exact = Heap::default();
    assert_eq!(asked(|stop| exact.scan(&cycle, 2, &mut order, stop)), 9);
    let mut regroup = Regroup::default();
    let each = order_of(&(0..10_000).collect::<Vec<_>>());
    assert_eq!(
        asked(|stop| {
            let mut order = order_of(&each.nodes);
            regroup.scan(&cycle, 2, 12, &mut order, &mut buckets, stop)
        }),
        2
    );
    let mut grow = Grow::default();
    // Seeds that stay alone, and one set of all nodes.
    assert_eq!(asked(|stop| grow.run(&cycle, 3, 0, &mut order, stop)), 2);
    assert_eq!(asked(|stop| grow.run(&cycle, 1, 0, &mut order, stop)), 4);
    grow.run(&cycle, 1, 0, &mut order, &mut || false).unwrap();
    assert_eq!(order.classes(), 1);
    // A matrix: every 1024 rows and after each of its rounds.
    let edges: super::Edges = (1..1100u32).map(|u| (u, u - 1, 1.0)).collect();
    let path = Csr::from_edges(1100, &edges, |_| Some(1));
    let mut matrix = Matrix::<f32>::default();
    let mut trail = Trail::default();
    let times = asked(|stop| {
        trail.reset(1100);
        trail.found(1, &[0]);
        matrix.run(&path, &mut trail, &mut order, stop)
    });
    assert_eq!(times, 2);
    // Two rows of a complete graph make the hub that the others hold to: its round asks as well.
    let times = asked(|stop| {
        trail.reset(100);
        trail.found(99, &[0]);
        matrix.run(&complete(100), &mut trail, &mut order, stop)
    });
    assert_eq!((times, order.classes()), (2, 1));
    // On a cycle, where a scan merges one pair, hardly anything holds to the hub: no rounds are spent on it.
    let edges: super::Edges = (0..100u32).map(|u| (u, (u + 1) % 100, 1.0)).collect();
    let cycle = Csr::from_edges(100, &edges, |_| Some(1));
    let times = asked(|stop| {
        trail.reset(100);
        trail.found(2, &[0]);
        matrix.run(&cycle, &mut trail, &mut order, stop)
    });
    assert!((96..=100).contains(&times), "{times}");
}
