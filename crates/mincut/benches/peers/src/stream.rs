//! Streams of changes on a graph of 10,000 nodes and 80,000 edges, against solving from scratch.

use crate::families::{Instance, Random, communities, gnm};
use crate::meter;
use lambda_cut::{DynamicCut, Graph, Scratch};
use std::time::Instant;

const CHANGES: usize = 10_000;
/// Every so many changes the answer is compared with one from scratch.
const CHECK_EVERY: usize = 25;

pub fn run() {
    println!(
        "| stream of {CHANGES} changes | minimum moved | mean µs | cannot change it: median µs (how many) \
         | did not change it: median µs (how many) | from scratch µs | with building µs | mean ÷ scratch \
         | bytes an edge at the end: solve | DynamicCut |"
    );
    println!("|{}", "---|".repeat(10));
    for instance in [gnm(10_000, 80_000, 5), communities(10_000, 2)] {
        one(&instance, "mixed", |random, edges, _| {
            let edge = random.below(edges.len());
            (edge, random.weight())
        });
        // Strengthens what the cut leans on, half of the time, and weakens anything else to a tenth.
        one(&instance, "adversarial", |random, edges, crossing| {
            if random.below(2) == 0 && !crossing.is_empty() {
                let edge = crossing[random.below(crossing.len())];
                (edge, (edges[edge].2 * 4.0).min(4.0))
            } else {
                (random.below(edges.len()), 0.1 * random.weight())
            }
        });
    }
}

fn one(
    instance: &Instance,
    kind: &str,
    mut change: impl FnMut(&mut Random, &[(u32, u32, f64)], &[usize]) -> (usize, f64),
) {
    let mut random = Random::new(99);
    let Ok(mut dynamic) = DynamicCut::new(instance.nodes, &instance.edges) else { return };
    let mut side = dynamic.minimum_cut().map(|cut| cut.side.clone()).unwrap_or_default();
    let mut value = dynamic.minimum_cut().map_or(0.0, |cut| cut.value);
    let mut crossing = witness(&side, dynamic.edges());
    let mut scratch = Scratch::new();
    let (mut times, mut solves, mut builds) = (Vec::new(), Vec::new(), Vec::new());
    // By what the change is, the cut cannot move; and it could have, but did not.
    let (mut certain, mut unchanged) = (Vec::new(), Vec::new());
    let mut moved = 0;
    for step in 0..CHANGES {
        let (edge, capacity) = change(&mut random, dynamic.edges(), &crossing);
        let (u, v, before) = dynamic.edges()[edge];
        let crosses = side[u as usize] != side[v as usize];
        let cannot = if crosses { capacity <= before } else { capacity >= before };
        let start = Instant::now();
        let accepted = dynamic.set_capacity(edge, capacity);
        let now = dynamic.minimum_cut().map_or(f64::NAN, |cut| cut.value);
        let time = start.elapsed().as_secs_f64() * 1e6;
        assert!(accepted.is_ok());
        times.push(time);
        let same_side = dynamic.minimum_cut().is_some_and(|cut| cut.side == side);
        if !same_side {
            moved += 1;
            side = dynamic.minimum_cut().map(|cut| cut.side.clone()).unwrap_or_default();
            crossing = witness(&side, dynamic.edges());
        }
        if cannot {
            certain.push(time);
        } else if same_side && now == value {
            unchanged.push(time);
        }
        value = now;
        if step % CHECK_EVERY == 0 {
            let start = Instant::now();
            let Ok(graph) = Graph::from_edges(instance.nodes, dynamic.edges()) else { return };
            builds.push(start.elapsed().as_secs_f64() * 1e6);
            let start = Instant::now();
            let cut = graph.minimum_cut_with(&mut scratch, &mut || false);
            solves.push(start.elapsed().as_secs_f64() * 1e6);
            let expected = cut.ok().flatten().map_or(f64::NAN, |cut| cut.value);
            assert!(
                (expected - value).abs() <= 1e-9 * expected,
                "step {step}: {value} instead of {expected}"
            );
        }
    }
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    let solve = solves.iter().sum::<f64>() / solves.len() as f64;
    let build = builds.iter().sum::<f64>() / builds.len() as f64;
    println!(
        "| {} {kind} | {moved} | {mean:.1} | {:.2} ({}) | {:.2} ({}) | {solve:.0} | {:.0} | {:.3} | {:.0} | {:.0} |",
        instance.name,
        median(&mut certain),
        certain.len(),
        median(&mut unchanged),
        unchanged.len(),
        solve + build,
        mean / solve,
        bytes(dynamic.edges(), |edges| {
            let graph = Graph::from_edges(instance.nodes, edges);
            let _ = graph.map(|graph| graph.minimum_cut());
        }),
        bytes(dynamic.edges(), |edges| {
            let graph = DynamicCut::new(instance.nodes, edges);
            let _ = graph.map(|mut graph| graph.minimum_cut().map(|cut| cut.units));
        }),
    );
}

/// The most bytes an edge that were allocated at once.
fn bytes(edges: &[(u32, u32, f64)], work: impl Fn(&[(u32, u32, f64)])) -> f64 {
    let before = meter::start();
    work(edges);
    (meter::peak() - before) as f64 / edges.len() as f64
}

fn witness(side: &[bool], edges: &[(u32, u32, f64)]) -> Vec<usize> {
    (0..edges.len()).filter(|&edge| side[edges[edge].0 as usize] != side[edges[edge].1 as usize]).collect()
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
