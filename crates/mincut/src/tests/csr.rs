//! The compressed rows.

use super::families::{Random, SHAPES, Weights, graph};
use crate::csr::Csr;

fn rows(graph: &Csr) -> Vec<Vec<(u32, u64)>> {
    (0..graph.nodes()).map(|node| graph.row(node).collect()).collect()
}

#[test]
fn loops_are_dropped_and_parallel_edges_summed_in_the_order_in_which_they_come() {
    let edges = [
        (0, 2, 1.0),
        (1, 0, 2.0),
        (2, 2, 5.0),
        (1, 2, 4.0),
        (0, 1, 8.0),
        (0, 3, 0.0),
        (2, 0, 16.0),
        (0, 1, 32.0),
    ];
    let graph = Csr::from_edges(4, &edges, |c| (c > 0.0).then_some(c as u64));
    assert_eq!(rows(&graph), [vec![(2, 17), (1, 42)], vec![(0, 42), (2, 4)], vec![(0, 17), (1, 4)], vec![]]);
    assert_eq!(graph.offsets, [0, 2, 4, 6, 6]);
    assert_eq!(graph.degrees, [59, 46, 21, 0]);
    assert_eq!((graph.nodes(), graph.arcs()), (4, 6));
    assert_eq!(graph.lightest(), Some((3, 0)));
    // Zeros that are kept are edges.
    let graph = Csr::from_edges(4, &edges, |c| Some(c as u64));
    assert_eq!(graph.row(3).collect::<Vec<_>>(), [(0, 0)]);
    assert_eq!(Csr::from_edges(0, &[], |_| None).lightest(), None);
}

#[test]
fn arcs_of_sorted_rows_are_found_and_changed() {
    let mut random = Random(6);
    for shape in SHAPES {
        let nodes = 2 + random.below(30);
        let edges = graph(shape, Weights::Small, nodes, &mut random);
        let mut graph = Csr::from_edges(nodes, &edges, |c| Some(c as u64));
        let before: Vec<_> = rows(&graph);
        graph.sort_rows();
        for (node, mut row) in before.into_iter().enumerate() {
            row.sort_unstable();
            assert_eq!(graph.row(node).collect::<Vec<_>>(), row);
        }
        for _ in 0..100 {
            let (u, v) = (random.below(nodes) as u32, random.below(nodes) as u32);
            let of =
                |graph: &Csr, u: u32, v: u32| graph.row(u as usize).find(|arc| arc.0 == v).map(|arc| arc.1);
            let before = of(&graph, u, v);
            assert_eq!(
                graph.arc(u, v).map(|arc| (graph.targets[arc], graph.weights[arc])),
                before.map(|w| (v, w))
            );
            let Some(before) = before else { continue };
            let now = random.below(9) as u64;
            assert_eq!(graph.change(u, v, |weight| weight + now - before.min(now)), before);
            let now = before + now - before.min(now);
            assert_eq!((of(&graph, u, v), of(&graph, v, u)), (Some(now), Some(now)));
        }
        for node in 0..nodes {
            assert_eq!(graph.degrees[node], graph.row(node).map(|arc| arc.1).sum());
        }
    }
}

#[test]
fn weights_are_divided_by_what_they_share() {
    for (weights, divisor) in [
        (vec![6, 10, 4], 2),
        (vec![0, 12, 18], 6),
        (vec![0, 0], 1),
        (vec![], 1),
        (vec![5, 7], 1),
        (vec![1 << 59], 1 << 59),
    ] {
        let mut graph = Csr { weights: weights.clone(), ..Csr::default() };
        assert_eq!(graph.divide_by_common_divisor(), divisor, "{weights:?}");
        let expected: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
        assert_eq!(graph.weights, expected);
    }
}
