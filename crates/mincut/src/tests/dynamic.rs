//! Streams of changes against solving from scratch after each.

use super::families::{Random, SHAPES, Shape, WEIGHTS, Weights, graph};
use super::{Edges, crossing};
use crate::{DynamicCut, Graph, GraphError};

/// The value must be that of a fresh solve, and the side must be worth it.
fn agree(dynamic: &mut DynamicCut, context: &dyn Fn() -> String) {
    dynamic.check(context);
    let edges = dynamic.edges().to_vec();
    let expected = Graph::from_edges(dynamic.nodes(), &edges).unwrap().minimum_cut().unwrap().value;
    let cut = dynamic.minimum_cut().unwrap();
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.max(b);
    assert!(near(cut.value, expected), "{} instead of {expected}: {}", cut.value, context());
    let worth = crossing(&edges, &cut.side);
    assert!(near(worth, expected), "the side is worth {worth}, not {expected}: {}", context());
    let small = 2 * cut.side_len();
    assert!(
        small < cut.side.len() || small == cut.side.len() && !cut.side[0],
        "the larger side: {}",
        context()
    );
    dynamic.check(context);
    dynamic.check_maintained(context);
}

/// Single changes and bunches of them, of every size, on every family.
#[test]
fn random_streams_on_every_family() {
    for seed in 0..6 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let mut random = Random(seed);
                let nodes = 2 + random.below(40);
                let edges = graph(shape, weights, nodes, &mut random);
                if edges.is_empty() {
                    continue;
                }
                let mut dynamic = DynamicCut::new(nodes, &edges).unwrap();
                for step in 0..60 {
                    for _ in 0..1 + random.below(3) * random.below(3) {
                        let edge = random.below(edges.len());
                        let capacity = match random.below(8) {
                            0 => 0.0,
                            1 => edges[edge].2 * 2.0,
                            2 => edges[edge].2 * random.unit(),
                            3 => edges[edge].2,
                            _ => weights.draw(&mut random),
                        };
                        dynamic.set_capacity(edge, capacity).unwrap();
                    }
                    agree(&mut dynamic, &|| format!("seed {seed} {shape:?} {weights:?} step {step}"));
                }
            }
        }
    }
}

/// Small enough for all that is kept to be compared with all cuts, before and after every question.
#[test]
fn what_is_kept_holds_on_small_graphs() {
    let mut questions = 0;
    for seed in 0..4 {
        for shape in SHAPES {
            for weights in [Weights::Unit, Weights::Small, Weights::Real, Weights::Huge] {
                let mut random = Random(seed);
                let nodes = 4 + random.below(6);
                let edges = graph(shape, weights, nodes, &mut random);
                let mut dynamic = DynamicCut::new(nodes, &edges).unwrap();
                for step in 0..60 {
                    let context = || format!("seed {seed} {shape:?} {weights:?} step {step}");
                    for _ in 0..1 + random.below(3) * random.below(4) {
                        let edge = random.below(edges.len());
                        let now = dynamic.edges()[edge].2;
                        let capacity = match random.below(10) {
                            0 => 0.0,
                            1 => now * 2.0,
                            2..6 => now * (0.8 + 0.2 * random.unit()),
                            6 | 7 => now * random.unit(),
                            _ => weights.draw(&mut random),
                        };
                        dynamic.set_capacity(edge, capacity).unwrap();
                        dynamic.check(&context);
                    }
                    agree(&mut dynamic, &context);
                    questions += 1;
                }
            }
        }
    }
    assert_eq!(questions, 4 * 13 * 4 * 60);
}

/// A larger graph, whose partitions matter, over a long stream.
#[test]
fn a_long_stream_on_a_larger_graph() {
    for (seed, shape) in [(1, Shape::Groups), (2, Shape::Sparse), (3, Shape::Hubs), (4, Shape::Ring)] {
        let mut random = Random(seed);
        let nodes = 250;
        let mut edges = graph(shape, Weights::Real, nodes, &mut random);
        edges.extend((0..nodes as u32).map(|u| (u, (u + 1) % nodes as u32, 0.3)));
        let mut dynamic = DynamicCut::new(nodes, &edges).unwrap();
        for step in 0..1500 {
            let edge = random.below(edges.len());
            dynamic.set_capacity(edge, 0.05 + random.unit()).unwrap();
            agree(&mut dynamic, &|| format!("{shape:?} step {step}"));
        }
    }
}

/// An adversary strengthens what the present cut leans on, so that the minimum moves all the time, and now and then
/// weakens something else.
#[test]
fn a_stream_that_moves_the_minimum() {
    let mut random = Random(5);
    let nodes = 120;
    let mut edges = graph(Shape::Sparse, Weights::Real, nodes, &mut random);
    edges.extend((0..nodes as u32).map(|u| (u, (u + 1) % nodes as u32, 0.3)));
    let mut dynamic = DynamicCut::new(nodes, &edges).unwrap();
    let mut moves = 0;
    let mut last = Vec::new();
    for step in 0..1500 {
        let side = dynamic.minimum_cut().unwrap().side.clone();
        moves += usize::from(side != last);
        let now: Edges = dynamic.edges().to_vec();
        let crosses: Vec<usize> =
            (0..now.len()).filter(|&edge| side[now[edge].0 as usize] != side[now[edge].1 as usize]).collect();
        last = side;
        let edge = if random.below(2) == 0 && !crosses.is_empty() {
            crosses[random.below(crosses.len())]
        } else {
            random.below(now.len())
        };
        let factor = if crosses.contains(&edge) { 1.5 } else { 0.5 };
        dynamic.set_capacity(edge, (now[edge].2 * factor).clamp(0.01, 10.0)).unwrap();
        agree(&mut dynamic, &|| format!("step {step}"));
    }
    assert!(moves > 150, "the minimum moved {moves} times only: no test of that");
}

/// Many losses in a row, more than are kept for later, and then gains that need to know what they did.
#[test]
fn losses_before_gains() {
    for seed in 0..2 {
        let mut random = Random(100 + seed);
        let nodes = 150;
        let mut edges = graph(Shape::Sparse, Weights::Real, nodes, &mut random);
        edges.extend(graph(Shape::Sparse, Weights::Real, nodes, &mut random));
        edges.extend((0..nodes as u32).map(|u| (u, (u + 1) % nodes as u32, 1.0)));
        let mut dynamic = DynamicCut::new(nodes, &edges).unwrap();
        for round in 0..6 {
            for step in 0..[3, 30, 400][round % 3] {
                let edge = random.below(edges.len());
                let capacity = dynamic.edges()[edge].2;
                dynamic.set_capacity(edge, capacity * (0.8 + 0.2 * random.unit())).unwrap();
                agree(&mut dynamic, &|| format!("seed {seed} round {round} loss {step}"));
            }
            for step in 0..40 {
                let side = dynamic.minimum_cut().unwrap().side.clone();
                let witness = dynamic.minimum_cut().unwrap().clone().witness(dynamic.edges());
                let edge = witness[random.below(witness.len())];
                let capacity = dynamic.edges()[edge].2;
                dynamic.set_capacity(edge, capacity + random.unit()).unwrap();
                agree(&mut dynamic, &|| format!("seed {seed} round {round} gain {step} {side:?}"));
            }
        }
    }
}

/// Capacities that outgrow the units and the clamp chosen at first.
#[test]
fn capacities_may_grow_without_limit_and_shrink_again() {
    let edges: Edges = (0..20u32).map(|u| (u, (u + 1) % 20, 1.0)).collect();
    let mut dynamic = DynamicCut::new(20, &edges).unwrap();
    for factor in [1.0, 1e3, 1e9, 1e15, 1e100, 1e-100, 1e300, 1.0] {
        for edge in 0..20 {
            dynamic.set_capacity(edge, factor * (1.0 + edge as f64)).unwrap();
            agree(&mut dynamic, &|| format!("factor {factor} edge {edge}"));
        }
    }
}

/// All capacities grow between two questions, in a graph dense enough for their sum to leave the range of the units.
#[test]
fn the_sum_of_the_capacities_may_outgrow_the_units() {
    let nodes = 256u32;
    let edges: Edges = (0..nodes).flat_map(|u| (0..u).map(move |v| (u, v, 1.0))).collect();
    let mut dynamic = DynamicCut::new(nodes as usize, &edges).unwrap();
    agree(&mut dynamic, &|| "before".to_string());
    for edge in 0..edges.len() {
        dynamic.set_capacity(edge, 1e6 + edge as f64).unwrap();
    }
    agree(&mut dynamic, &|| "all grown".to_string());
    for edge in 0..edges.len() {
        dynamic.set_capacity(edge, 1.0 + edge as f64).unwrap();
    }
    agree(&mut dynamic, &|| "all shrunk".to_string());
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut dynamic = DynamicCut::new(2, &[(0, 1, 1.0)]).unwrap();
    assert_eq!(dynamic.set_capacity(1, 1.0), Err(GraphError::EdgeOutOfRange { edge: 1, edges: 1 }));
    assert_eq!(dynamic.set_capacity(0, f64::NAN), Err(GraphError::NonFinite { edge: 0 }));
    assert_eq!(dynamic.set_capacity(0, -1.0), Err(GraphError::Negative { edge: 0, capacity: -1.0 }));
    assert_eq!(dynamic.minimum_cut().unwrap().value, 1.0);
}

/// A sum of capacities beyond all numbers is refused, and nothing has changed.
#[test]
fn a_change_that_overflows_changes_nothing() {
    let (most, part) = (f64::MAX, f64::MAX / 8.0);
    let edges = [(0, 1, part), (1, 2, part), (2, 0, part), (1, 1, 1.0)];
    let mut dynamic = DynamicCut::new(3, &edges).unwrap();
    assert_eq!(dynamic.minimum_cut().unwrap().value, 2.0 * part);
    // The cut around node 2 is worth no more, so one may be as large as a number can be.
    dynamic.set_capacity(0, most).unwrap();
    let before = dynamic.minimum_cut().unwrap().clone();
    assert_eq!((before.value, before.side.as_slice()), (2.0 * part, [false, false, true].as_slice()));
    assert_eq!(dynamic.set_capacity(1, most), Err(GraphError::CapacityOverflow));
    assert_eq!(dynamic.edges(), [(0, 1, most), (1, 2, part), (2, 0, part), (1, 1, 1.0)]);
    assert_eq!(dynamic.minimum_cut(), Some(&before));
    // A loop never crosses, whatever it is worth.
    dynamic.set_capacity(3, f64::MAX).unwrap();
    assert_eq!(dynamic.edges()[3].2, f64::MAX);
    agree(&mut dynamic, &|| "after".to_string());
    assert_eq!(dynamic.nodes(), 3);
}

/// Losses in groups that hold together much better than the whole: none asks for a search, and what they look at is little.
#[test]
fn most_losses_cost_a_comparison() {
    let mut random = Random(9);
    let (groups, size) = (12u32, 20u32);
    let mut edges: Edges = Vec::new();
    for group in 0..groups {
        let node = |nth: u32| group * size + nth;
        edges.extend(
            (0..size).flat_map(|u| (0..u).map(move |v| (u, v))).map(|(u, v)| (node(u), node(v), 1.0)),
        );
        edges.extend((0..4).map(|nth| (node(nth), (node(nth) + size) % (groups * size), 0.5)));
    }
    let nodes = groups * size;
    let mut dynamic = DynamicCut::new(nodes as usize, &edges).unwrap();
    agree(&mut dynamic, &|| "before".to_string());
    let (mut losses, mut searches, mut looked, mut without) = (0, 0, 0, 0);
    for step in 0..4000 {
        let side = &dynamic.minimum_cut().unwrap().side;
        let edge = random.below(edges.len());
        let (u, v, capacity) = edges[edge];
        if u / size != v / size || side[u as usize] != side[v as usize] {
            continue;
        }
        let now = capacity * (0.9 + 0.1 * random.unit());
        losses += usize::from(now < dynamic.edges()[edge].2);
        dynamic.set_capacity(edge, now).unwrap();
        searches += usize::from(dynamic.is_unsettled());
        without += usize::from(!dynamic.is_certified());
        looked += dynamic.arcs_looked_at();
        if step % 100 == 0 {
            agree(&mut dynamic, &|| format!("step {step}"));
        }
    }
    assert_eq!(dynamic.rebuilds(), 1, "no other partition was needed");
    assert!(
        losses > 2000 && searches + without == 0,
        "{losses} losses, {searches} searches, {without} without"
    );
    assert!(looked < 40 * losses, "{looked} arcs for {losses} losses");
}

#[test]
fn fewer_than_two_nodes_have_no_cut() {
    assert!(DynamicCut::new(1, &[(0, 0, 1.0)]).unwrap().minimum_cut().is_none());
    assert!(DynamicCut::new(0, &[]).unwrap().minimum_cut().is_none());
}

#[test]
fn an_interrupted_update_is_made_up_for() {
    let mut random = Random(17);
    let edges = graph(Shape::Ring, Weights::Real, 80, &mut random);
    let mut dynamic = DynamicCut::new(80, &edges).unwrap();
    for step in 0..400 {
        dynamic.set_capacity(random.below(edges.len()), 0.05 + random.unit()).unwrap();
        let mut calls = 0;
        let limit = random.below(4);
        let _ = dynamic.minimum_cut_with(&mut || {
            calls += 1;
            calls > limit
        });
        agree(&mut dynamic, &|| format!("step {step}"));
    }
}

/// Three groups, each hanging on one edge: they come in the order of those edges, and nothing else comes.
#[test]
fn weak_components_are_ranked_and_capacities_restored() {
    let mut edges: Edges = Vec::new();
    for group in 0..4u32 {
        for (u, v) in [(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)] {
            edges.push((4 * group + u, 4 * group + v, 1.0));
        }
    }
    let links = [0.5, 0.2, 0.4];
    for (group, &capacity) in (1..4u32).zip(&links) {
        edges.push((0, 4 * group, capacity));
    }
    let mut dynamic = DynamicCut::new(16, &edges).unwrap();
    let heal = |cut: &crate::Cut, edges: &[(u32, u32, f64)]| {
        cut.witness(edges).into_iter().map(|edge| (edge, 1.0)).collect()
    };
    let found = dynamic.weak_components(0.7, 8, heal).unwrap();
    let values: Vec<f64> = found.iter().map(|cut| (cut.value * 1e6).round() / 1e6).collect();
    assert_eq!(values, [0.2, 0.4, 0.5]);
    let members = |cut: &crate::Cut| -> Vec<usize> { (0..16).filter(|&node| cut.side[node]).collect() };
    assert_eq!(members(&found[0]), [8, 9, 10, 11]);
    assert_eq!(members(&found[1]), [12, 13, 14, 15]);
    assert_eq!(members(&found[2]), [4, 5, 6, 7]);
    assert_eq!(dynamic.edges(), edges);
    agree(&mut dynamic, &|| "afterwards".to_string());
    assert_eq!(dynamic.weak_components(0.7, 2, heal).unwrap().len(), 2);
    // Up to the boundary, not at it.
    assert_eq!(dynamic.weak_components(found[1].value, 8, heal).unwrap().len(), 1);
    // A caller that heals nothing gets one component, not the same one again, in whatever words it says so.
    assert_eq!(dynamic.weak_components(0.7, 8, |_, edges| vec![(0, edges[0].2)]).unwrap().len(), 1);
    assert_eq!(dynamic.weak_components(0.7, 8, |_, _| Vec::new()).unwrap().len(), 1);
    let wrong = dynamic.weak_components(0.7, 8, |_, _| vec![(0, 3.0), (99, 1.0)]);
    assert_eq!(wrong, Err(GraphError::EdgeOutOfRange { edge: 99, edges: 27 }));
    assert_eq!(dynamic.edges(), edges);
}
