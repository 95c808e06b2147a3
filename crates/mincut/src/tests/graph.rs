//! Capacities as whole units, and what is refused.

use super::*;
use crate::tests::families::{Random, SHAPES, WEIGHTS, Weights, graph};

#[test]
fn powers_of_two_and_the_exponents_above() {
    for e in -1022..=1023 {
        assert_eq!(power_of_two(e), 2f64.powi(e));
    }
    assert_eq!((power_of_two(-2000), power_of_two(2000)), (2f64.powi(-1022), 2f64.powi(1023)));
    for e in -1020..=1022 {
        for x in [2f64.powi(e), 2f64.powi(e) * 1.3, 2f64.powi(e).next_down()] {
            let above = exponent_above(x);
            assert!(x < 2f64.powi(above) && x >= 2f64.powi(above - 1), "{x}");
        }
    }
    assert_eq!(exponent_above(f64::MAX), 1024);
    assert!(exponent_above(1e-320) >= -1022);
}

#[test]
fn clamps_are_above_twice_the_bound() {
    for bound in [1e-300, 0.3, 1.0, 1.5, 2.0, 1e9] {
        let clamp = clamp_above(bound);
        assert!(clamp > 2.0 * bound && clamp <= 4.0 * bound, "{bound} {clamp}");
        assert_eq!(clamp, 2f64.powf(clamp.log2().round()));
    }
    // Where there is no such number, nothing is clamped.
    assert_eq!([0.0, f64::INFINITY, f64::MAX, 2f64.powi(1022)].map(clamp_above), [f64::MAX; 4]);
    assert_eq!(clamp_above(2f64.powi(1022).next_down()), 2f64.powi(1023));
}

/// The sum of all capacities fills the range, and each is off by no more than half a unit (or what it was clamped to).
#[test]
fn units_fill_the_range_and_are_off_by_half_of_one() {
    for seed in 0..5 {
        for shape in SHAPES {
            for weights in WEIGHTS {
                let mut random = Random(seed);
                let nodes = 2 + random.below(20);
                let edges = graph(shape, weights, nodes, &mut random);
                let context = format!("seed {seed} {shape:?} {weights:?}");
                let positive = edges.iter().filter(|(u, v, c)| u != v && *c > 0.0).count();
                for bits in [TOTAL_BITS_MAX, 56] {
                    let scale = scale_for(nodes, &edges, bits).unwrap();
                    let proper = edges.iter().filter(|(u, v, _)| u != v);
                    let total: u64 = proper.clone().map(|edge| scale.units(edge.2)).sum();
                    if positive > 0 {
                        // Each edge may have been rounded, and the sum in floating point.
                        let slack = 256 * positive as u64;
                        assert!(total < (1 << bits) + slack && total + slack >= 1 << (bits - 1), "{context}");
                    }
                    if positive > 0 {
                        assert_eq!(scale.clamped_units(), scale.units(f64::MAX), "{context}");
                    }
                    for &(_, _, capacity) in proper {
                        let units = scale.units(capacity);
                        assert_eq!(units > 0, capacity > 0.0);
                        let exact = capacity.min(scale.clamp) * 2f64.powi(scale.exponent);
                        let off = (units as f64 - exact).abs();
                        assert!(off <= 0.5 || units == 1 && exact < 1.0, "{context}: {units} for {exact}");
                        let back = scale.capacity(units);
                        assert!(
                            (back - capacity.min(scale.clamp)).abs() <= scale.capacity(1),
                            "{context}: {back} for {capacity}"
                        );
                    }
                }
            }
        }
    }
}

/// What no cut can pay is clamped, so that it does not cost the others their digits.
#[test]
fn heavy_edges_do_not_cost_the_light_ones_their_digits() {
    // The least degree is 2: clamped to more than 4, a power of two.
    let graph = Graph::from_edges(3, &[(0, 1, 1.0), (1, 2, 1e30), (2, 0, 1.0)]).unwrap();
    let mut weights = graph.csr.weights.clone();
    weights.sort_unstable();
    assert_eq!((weights, graph.resolution()), (vec![1, 1, 1, 1, 8, 8], 1.0));
    // Here no node shows how small the minimum is; the lightest edge of a maximum spanning tree does.
    let heavy = 1e12;
    let mut edges: Vec<(u32, u32, f64)> =
        [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)].map(|(u, v)| (u, v, heavy)).to_vec();
    edges.extend([(2, 3, 1.1e-3), (0, 4, 2.3e-3), (1, 3, 4.7e-3), (3, 1, 0.0), (5, 5, 1e40)]);
    for shift in 0..6 {
        let moved: Vec<_> = edges.iter().map(|&(u, v, c)| ((u + shift) % 6, (v + shift) % 6, c)).collect();
        let cut = Graph::from_edges(6, &moved).unwrap().minimum_cut().unwrap();
        assert!((cut.value - 8.1e-3).abs() < 1e-17, "{}", cut.value);
        // With a part that hangs on nothing there is no such bound, and no need of one.
        let cut = Graph::from_edges(7, &moved).unwrap().minimum_cut().unwrap();
        assert_eq!((cut.value, cut.side_len()), (0.0, 1));
    }
    assert_eq!(bottleneck_cut(6, &edges), 1.1e-3 + 2.3e-3 + 4.7e-3);
    assert_eq!(bottleneck_cut(8, &edges), 0.0);
}

/// Units are chosen by the edges that are kept: not by loops, nor by those without capacity. The closer bound is looked for
/// where capacities differ widely.
#[test]
fn loops_and_zeros_have_no_say_in_the_units() {
    let triangles = |heavy: f64, between: f64| {
        let edges = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)].map(|(u, v)| (u, v, heavy));
        [&edges[..], &[(2, 3, between)]].concat()
    };
    // The least degree is 2, the lightest edge of a maximum spanning tree the bridge.
    for (between, clamp) in [(0.25, 8.0), (2f64.powi(-12), 8.0), (2f64.powi(-13), 2f64.powi(-11))] {
        let kept = triangles(1.0, between);
        let scale = scale_for(6, &kept, TOTAL_BITS_MAX).unwrap();
        assert_eq!(scale.clamp, clamp, "{between}");
        for dropped in [[(0, 3, 0.0), (1, 4, 0.0)], [(5, 5, 1e40), (0, 0, 1e-40)]] {
            let all = [&kept[..], &dropped[..]].concat();
            assert_eq!(scale_for(6, &all, TOTAL_BITS_MAX), Ok(scale), "{between} {dropped:?}");
        }
    }
}

/// The bound is above the minimum by at most the number of edges, and not below it.
#[test]
fn the_bottleneck_is_a_cut() {
    for seed in 0..10 {
        for shape in SHAPES {
            let mut random = Random(seed);
            let nodes = 2 + random.below(8);
            let edges = graph(shape, Weights::Spread, nodes, &mut random);
            let least = crate::tests::reference::brute_force(nodes, &edges);
            let bound = bottleneck_cut(nodes, &edges);
            let most = least * edges.len().max(1) as f64;
            assert!(
                bound >= least * (1.0 - 1e-12) && bound <= most * (1.0 + 1e-12),
                "{least} {bound} {edges:?}"
            );
        }
    }
}

#[test]
fn whole_numbers_are_exact_and_extremes_are_representable() {
    let graph =
        Graph::from_edges(3, &[(0, 1, 6.0), (1, 2, 4.0), (1, 1, 3.0), (1, 2, 0.0), (2, 1, 2.0)]).unwrap();
    assert_eq!((graph.nodes(), graph.edges(), graph.resolution()), (3, 2, 6.0));
    assert_eq!((graph.csr.weights.as_slice(), graph.capacity(2)), ([1u64; 4].as_slice(), 12.0));
    for value in [1e300, 1.5e-280, 7.0, 2f64.powi(1022), 1.5 * 2f64.powi(1023), f64::MAX] {
        assert_eq!(Graph::from_edges(2, &[(0, 1, value)]).unwrap().minimum_cut().unwrap().value, value);
    }
    let nothing = Graph::from_edges(3, &[(0, 1, 0.0), (2, 2, 5.0)]).unwrap();
    assert_eq!((nothing.edges(), nothing.resolution()), (0, 1.0));
    // Below the smallest unit.
    let tiny = Graph::from_edges(2, &[(0, 1, 1e-320)]).unwrap().minimum_cut().unwrap();
    assert_eq!((tiny.units, tiny.value), (1, 2f64.powi(-1000)));
}

#[test]
fn what_is_no_graph_is_refused_with_the_edge_that_is_to_blame() {
    let refused = |nodes: usize, edges: &[(u32, u32, f64)]| Graph::from_edges(nodes, edges).unwrap_err();
    let of = |capacity: f64| refused(3, &[(0, 1, 1.0), (1, 2, capacity)]);
    assert!(matches!(of(f64::NAN), GraphError::NonFinite { edge: 1 }));
    assert_eq!(of(f64::INFINITY), GraphError::NonFinite { edge: 1 });
    assert_eq!(of(-0.5), GraphError::Negative { edge: 1, capacity: -0.5 });
    for edge in [(0, 3, 1.0), (3, 0, 1.0), (3, 3, 0.0)] {
        assert_eq!(refused(3, &[edge]), GraphError::NodeOutOfRange { edge: 0, node: 3, nodes: 3 });
    }
    let most = [(0, 1, f64::MAX), (1, 2, f64::MAX), (2, 0, f64::MAX)];
    assert_eq!(refused(3, &most), GraphError::CapacityOverflow);
    assert_eq!(refused(NODES_MAX + 1, &[]), GraphError::TooLarge);
    // Minus nothing is nothing.
    assert_eq!(Graph::from_edges(2, &[(0, 1, -0.0)]).unwrap().edges(), 0);
}

#[test]
fn errors_say_which_edge_and_why() {
    let texts = [
        (GraphError::NonFinite { edge: 4 }, "edge 4: the capacity is not a finite number"),
        (GraphError::Negative { edge: 4, capacity: -1.5 }, "edge 4: the capacity -1.5 is negative"),
        (
            GraphError::NodeOutOfRange { edge: 4, node: 9, nodes: 7 },
            "edge 4: node 9 does not exist in a graph of 7 nodes",
        ),
        (GraphError::EdgeOutOfRange { edge: 4, edges: 3 }, "edge 4 does not exist in a graph of 3 edges"),
        (GraphError::CapacityOverflow, "the sum of the capacities is out of range"),
        (GraphError::TooLarge, "more than 2^30 nodes or 2^30 edges"),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(crate::Interrupted.to_string(), "the minimum cut was interrupted");
}
