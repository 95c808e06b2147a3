//! Flows between two nodes against all cuts between them, one by one.

use super::families::{Random, SHAPES, WEIGHTS, graph};
use crate::csr::Csr;
use crate::flow::{Flow, Held};

/// The values of all cuts with `u` on the one side (bit set) and `v` on the other, with the side.
fn cuts_between(graph: &Csr, u: u32, v: u32) -> Vec<(u64, u32)> {
    let nodes = graph.nodes() as u32;
    let between = (0..1u32 << nodes).filter(|side| side >> u & 1 == 1 && side >> v & 1 == 0);
    let value = |side: u32| {
        (0..nodes)
            .filter(|node| side >> node & 1 == 1)
            .flat_map(|node| graph.row(node as usize))
            .filter(|&(target, _)| side >> target & 1 == 0)
            .map(|(_, weight)| weight)
            .sum()
    };
    between.map(|side| (value(side), side)).collect()
}

fn same(a: &Csr, b: &Csr) -> bool {
    (&a.offsets, &a.targets, &a.weights, &a.degrees) == (&b.offsets, &b.targets, &b.weights, &b.degrees)
}

#[test]
fn flows_find_the_smallest_cut_between_two_nodes() {
    let mut flow = Flow::default();
    let (mut exact, mut bounded, mut excepted, mut tight) = (0, 0, 0, 0);
    for seed in 0..12 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let mut random = Random(seed);
                let nodes = 2 + random.below(7);
                let edges = graph(shape, weights, nodes, &mut random);
                let unit = if edges.iter().any(|edge| edge.2 > 1e9) { 1.0 } else { 1e3 };
                let mut graph = Csr::from_edges(nodes, &edges, |c| Some((c * unit) as u64));
                graph.sort_rows();
                let before = graph.clone();
                let u = random.below(nodes) as u32;
                let v = (u + 1 + random.below(nodes - 1) as u32) % nodes as u32;
                let cuts = cuts_between(&graph, u, v);
                let least = cuts.iter().map(|cut| cut.0).min().unwrap();
                let context = format!("seed {seed} {shape:?} {weights:?} {u} {v}");
                let bound = 1 + (least as f64 * 2.0 * random.unit()) as u64;
                let alone = random.next();
                let lonely = |node: u32| alone >> node & 1 == 1;
                if random.below(4) == 0 {
                    flow.age();
                }
                let (held, others) = flow.run(&mut graph, (u, v), bound, &mut 1_000_000, lonely);
                assert!(same(&graph, &before), "the weights have changed: {context}");
                if bound <= least {
                    assert_eq!(held, Held::AtLeast(bound), "{context}");
                    bounded += 1;
                } else {
                    assert_eq!(held, Held::Exactly(least), "{context}");
                    let side = flow.side().iter().fold(0u32, |side, node| side | 1 << node);
                    let side = if side >> u & 1 == 1 { side } else { !side & ((1 << nodes) - 1) };
                    assert!(cuts.contains(&(least, side)), "the side is not worth {least}: {context}");
                    exact += 1;
                }
                // What must be worth `others`: a cut none of whose ends stands alone, or falls off without loss.
                for &(value, side) in &cuts {
                    let outside = !side & ((1 << nodes) - 1);
                    let falls_off = |end: u32, side: u32| {
                        lonely(end)
                            && graph.row(end as usize).all(|(t, weight)| weight == 0 || side >> t & 1 == 0)
                    };
                    let excused = falls_off(u, side) || falls_off(v, outside);
                    assert!(value >= others || excused, "{value} below {others}: {context}");
                    excepted += usize::from(value < others);
                }
                assert!(others <= bound.max(held.value()));
                // Nor is it less than it need be: where an end stands alone, the cuts that keep a neighbour of it beside it.
                if let (Held::Exactly(_), &[end]) = (held, flow.side())
                    && lonely(end)
                {
                    let company = |side: u32| {
                        let side = if side >> end & 1 == 1 { side } else { !side };
                        graph.row(end as usize).any(|(t, _)| t != u && t != v && side >> t & 1 == 1)
                    };
                    let rest = cuts.iter().filter(|cut| company(cut.1)).map(|cut| cut.0);
                    assert_eq!(others, rest.min().unwrap_or(bound).min(bound), "{context}");
                    tight += usize::from(others > least && others < bound);
                } else {
                    assert_eq!(others, held.value(), "{context}");
                }
            }
        }
    }
    assert!(
        exact > 200 && bounded > 200 && excepted > 100 && tight > 10,
        "{exact} {bounded} {excepted} {tight}"
    );
}

/// What a limit of work leaves is still a lower bound.
#[test]
fn a_flow_that_is_stopped_is_a_lower_bound() {
    let mut flow = Flow::default();
    let mut stopped = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let nodes = 5 + random.below(5);
        let edges = graph(SHAPES[seed as usize % SHAPES.len()], WEIGHTS[0], nodes, &mut random);
        let mut graph = Csr::from_edges(nodes, &edges, |c| Some(c as u64));
        graph.sort_rows();
        let least = cuts_between(&graph, 0, 1).iter().map(|cut| cut.0).min().unwrap();
        let mut arcs = random.below(20);
        let (held, others) = flow.run(&mut graph, (0, 1), u64::MAX, &mut arcs, |_| true);
        match held {
            Held::AtLeast(value) => {
                assert!(value <= least && others <= least);
                assert_eq!(arcs, 0);
                stopped += 1;
            }
            Held::Exactly(value) => assert_eq!(value, least),
        }
    }
    assert!(stopped > 50, "{stopped}");
}

/// What a flow looks at is counted, and where a small side is cut off, or a short way is found from one end, it is little.
#[test]
fn a_flow_looks_at_few_arcs_where_one_end_is_narrow() {
    let mut graph = super::certificate::clique_and_chain();
    let mut flow = Flow::default();
    let mut looked = |graph: &mut Csr, ends: (u32, u32), bound: u64, arcs_max: usize| {
        let mut arcs = arcs_max;
        let (held, _) = flow.run(graph, ends, bound, &mut arcs, |_| false);
        (held, arcs_max - arcs)
    };
    for ends in [(0, 211), (211, 0), (7, 205), (205, 7)] {
        // Two ways, and then nothing more from the chain's end.
        let (held, arcs) = looked(&mut graph, ends, 100, usize::MAX);
        assert_eq!(held, Held::Exactly(8), "{ends:?}");
        assert!((20..6000).contains(&arcs), "{arcs} of {} arcs between {ends:?}", graph.arcs());
        // A search that a path was found in goes on a little; then the limit counts.
        let (held, arcs) = looked(&mut graph, ends, 100, 1);
        assert!(matches!(held, Held::AtLeast(0..=8)), "{held:?}");
        assert_eq!(arcs, 1);
    }
    let edges: super::Edges = (0..20_000).map(|u| (u, (u + 1) % 20_000, 1.0)).collect();
    let mut cycle = Csr::from_edges(20_000, &edges, |_| Some(1));
    cycle.sort_rows();
    for (arcs_max, expected) in [(1000, Held::AtLeast(0)), (1_000_000, Held::Exactly(2))] {
        let (held, arcs) = looked(&mut cycle, (0, 10_000), 3, arcs_max);
        assert_eq!(held, expected);
        assert!(arcs <= 200_000, "{arcs}");
    }
    // The limit counts where there is no path as well.
    let apart = edges.iter().flat_map(|&(u, v, c)| [(u, v, c), (u + 20_000, v + 20_000, c)]);
    let mut cycles = Csr::from_edges(40_000, &apart.collect::<super::Edges>(), |_| Some(1));
    cycles.sort_rows();
    for (arcs_max, expected) in [(1000, Held::AtLeast(0)), (1_000_000, Held::Exactly(0))] {
        assert_eq!(looked(&mut cycles, (0, 20_000), 3, arcs_max).0, expected);
    }
}

/// Every arc looked at is counted once, at either end.
#[test]
fn a_flow_counts_the_arcs_it_looks_at() {
    let edges = [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0), (3, 4, 1.0)];
    let mut graph = Csr::from_edges(6, &edges, |c| Some(c as u64));
    graph.sort_rows();
    // The triangle's end looks first, then the one that has looked at less. Where both have looked at two arcs, it is the
    // triangle's turn again.
    for (ends, expected) in [((0, 5), 2), ((5, 0), 0), ((0, 3), 6), ((3, 0), 4)] {
        let mut arcs = 100;
        let (held, _) = Flow::default().run(&mut graph, ends, 9, &mut arcs, |_| false);
        assert_eq!((held, 100 - arcs), (Held::Exactly(0), expected), "{ends:?}");
    }
}

/// Marks are told apart by their numbers: nothing as long as the graph is cleared from one search or flow to the next.
#[test]
fn what_a_flow_has_marked_is_not_cleared_for_the_next() {
    let mut graph = Csr::from_edges(3, &[(0, 1, 1.0), (1, 2, 1.0)], |c| Some(c as u64));
    graph.sort_rows();
    let mut flow = Flow::default();
    for nth in 1..4 {
        // One path, and a search that finds no other.
        let (held, _) = flow.run(&mut graph, (0, 2), 9, &mut 100, |_| false);
        assert_eq!((held, flow.numbers()), (Held::Exactly(1), (2 * nth, nth)));
    }
    // The numbers are those of one graph.
    let mut graph = Csr::from_edges(4, &[(0, 1, 1.0), (1, 2, 1.0)], |c| Some(c as u64));
    graph.sort_rows();
    let (held, _) = flow.run(&mut graph, (0, 2), 9, &mut 100, |_| false);
    assert_eq!((held, flow.numbers()), (Held::Exactly(1), (2, 1)));
}
