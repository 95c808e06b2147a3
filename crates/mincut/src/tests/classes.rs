//! What the two ways of merging nodes promise, against all cuts one by one: no cut below the bound separates two nodes of a
//! class.

use super::families::{Random, SHAPES, Shape, WEIGHTS, Weights, graph};
use crate::csr::Csr;
use crate::grow::Grow;
use crate::queue::Buckets;
use crate::regroup::Regroup;
use crate::scan::{Order, VISITED, scan};
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
    let nodes = graph.nodes() as u32;
    let mut all: Vec<u32> = (0..order.classes()).flat_map(|class| order.members(class).to_vec()).collect();
    for number in 0..order.classes() {
        assert!(!order.members(number).is_empty(), "an empty class: {context}");
        for &node in order.members(number) {
            assert_eq!(class(order, node) as usize, number, "{context}");
        }
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..nodes), "not every node once: {context}");
    for side in 1..1u32 << (nodes - 1) {
        let on = |node: u32| side >> node & 1;
        let value: u64 = (0..nodes)
            .flat_map(|node| graph.row(node as usize).map(move |arc| (node, arc)))
            .filter(|&(node, (target, _))| on(node) > on(target))
            .map(|(_, (_, weight))| weight)
            .sum();
        let splits =
            (0..order.classes()).any(|class| order.members(class).windows(2).any(|w| on(w[0]) != on(w[1])));
        assert!(value >= bound || !splits, "a cut of {value} below {bound} splits a class: {context}");
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
