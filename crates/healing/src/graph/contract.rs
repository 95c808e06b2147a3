//! Contraction: runs of healthy partitions become one node each, so that an exact cut of a collection of thousands of
//! partitions stays cheap. Merging nodes removes only cuts that would separate them, so no sick part's λ falls, and a
//! part that keeps its own node keeps its own cut.

use std::collections::BTreeMap;

use super::{ContractedGraph, Edge, EdgeKind, Held, Node, NodeKey};
use crate::condition::Condition;

/// Nodes that partitions which are well may take up; the sickest ones have the rest.
const RUNS_MAX: usize = 200;

/// The graph with at most so many nodes, as long as what cannot be merged leaves room for that.
pub(super) fn to_at_most(cap: usize, graph: ContractedGraph, held: Held<'_>) -> ContractedGraph {
    if graph.nodes.len() <= cap {
        return graph;
    }
    let keep = kept(cap.saturating_sub(RUNS_MAX), &graph, held);
    let merged = keep.iter().filter(|keep| !**keep).count();
    let longest = merged.div_ceil(RUNS_MAX).max(1) as u32;
    // Where each old node goes. Partitions come in the order of the ring, so that a run is a run of neighbours, but for
    // kept ones between them.
    let mut place = vec![0; graph.nodes.len()];
    let mut nodes: Vec<Node> = Vec::new();
    let mut run: Option<usize> = None;
    for ((node, keep), place) in graph.nodes.into_iter().zip(&keep).zip(&mut place) {
        let full = run.is_some_and(|at| {
            matches!(nodes.get(at).map(|node| &node.key), Some(NodeKey::Partitions { count, .. }) if *count >= longest)
        });
        if *keep {
            *place = nodes.len() as u32;
            nodes.push(node);
        } else if let (Some(at), false) = (run, full) {
            *place = at as u32;
            join(&mut nodes[at], node.condition);
        } else {
            let first = if let NodeKey::Partition { oid } = node.key { oid } else { 0 };
            run = Some(nodes.len());
            *place = nodes.len() as u32;
            nodes.push(Node {
                key: NodeKey::Partitions { first, count: 1 },
                name: format!("1 partition, {}", node.name),
                condition: node.condition,
            });
        }
    }
    ContractedGraph { nodes, edges: edges(graph.edges, &place) }
}

fn join(run: &mut Node, condition: Condition) {
    if let NodeKey::Partitions { first, count } = run.key {
        run.key = NodeKey::Partitions { first, count: count + 1 };
        let name = run.name.split_once(", ").map_or("", |(_, name)| name).to_owned();
        run.name = format!("{} partitions, {name}", count + 1);
    }
    run.condition = run.condition.clone().worse(condition);
}

/// Which nodes stay: all that are no partitions, those that are asked about, and of the others the sickest, but one at
/// least: cut off by itself a partition that is well hangs on by 1, a run of them by more.
fn kept(cap: usize, graph: &ContractedGraph, held: Held<'_>) -> Vec<bool> {
    let may_merge = |node: &Node| matches!(node.key, NodeKey::Partition { .. }) && !held.names(&node.key);
    let mut keep: Vec<bool> = graph.nodes.iter().map(|node| !may_merge(node)).collect();
    let mut room = cap.saturating_sub(keep.iter().filter(|keep| **keep).count());
    let mut sickest: Vec<usize> = (0..graph.nodes.len()).filter(|&at| !keep[at]).collect();
    sickest.sort_by(|&a, &b| {
        graph.nodes[a].condition.health.total_cmp(&graph.nodes[b].condition.health).then(a.cmp(&b))
    });
    for (count, at) in sickest.into_iter().enumerate() {
        if room == 0 || count > 0 && graph.nodes[at].condition.health >= 1.0 {
            break;
        }
        keep[at] = true;
        room -= 1;
    }
    keep
}

/// The edges between the new nodes; parallel ones of a type are added up.
fn edges(edges: Vec<Edge>, place: &[u32]) -> Vec<Edge> {
    let mut merged: BTreeMap<(EdgeKind, u32, u32), Edge> = BTreeMap::new();
    let mut kept = Vec::new();
    for mut edge in edges {
        let (a, b) = (place[edge.a as usize], place[edge.b as usize]);
        if a == b {
            continue;
        }
        (edge.a, edge.b) = (a.min(b), a.max(b));
        // Edges that were parallel from the start are counted by the patterns.
        if edge.kind == EdgeKind::Dependency {
            kept.push(edge);
            continue;
        }
        match merged.get_mut(&(edge.kind, edge.a, edge.b)) {
            Some(into) => add(into, edge),
            None => {
                merged.insert((edge.kind, edge.a, edge.b), edge);
            }
        }
    }
    kept.extend(merged.into_values());
    kept
}

/// Adds the capacity of a parallel edge: health is the mean by weight, the cause the worse one's.
fn add(into: &mut Edge, other: Edge) {
    let weight = into.weight + other.weight;
    let mean = |of: fn(&Condition) -> f64| {
        (into.weight * of(&into.condition) + other.weight * of(&other.condition)) / weight
    };
    let (health, low, high) = (mean(|c| c.health), mean(|c| c.low), mean(|c| c.high));
    let mut condition = into.condition.clone().worse(other.condition);
    (condition.health, condition.low, condition.high) = (health, low, high);
    (into.weight, into.condition) = (weight, condition);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sick(health: f64, metric: &str) -> Condition {
        Condition {
            health,
            low: health / 2.0,
            high: health,
            metric: Some(metric.to_owned()),
            ..Condition::healthy()
        }
    }

    fn graph(healths: &[f64]) -> ContractedGraph {
        let core = Node { key: NodeKey::Core, name: "core".to_owned(), condition: Condition::healthy() };
        let partition = |(at, health): (usize, &f64)| Node {
            key: NodeKey::Partition { oid: at as u32 },
            name: format!("p{at}"),
            condition: sick(*health, "load_ratio"),
        };
        let nodes = std::iter::once(core).chain(healths.iter().enumerate().map(partition)).collect();
        ContractedGraph { nodes, edges: vec![] }
    }

    #[test]
    fn the_sickest_stay_and_of_those_that_are_well_one() {
        let kept = |cap, healths: &[f64]| kept(cap, &graph(healths), Held::Nothing);
        assert_eq!(kept(9, &[1.0, 0.5, 1.0, 0.2]), [true, false, true, false, true]);
        assert_eq!(
            kept(2, &[1.0, 0.5, 1.0, 0.2]),
            [true, false, false, false, true],
            "there is room for one"
        );
        assert_eq!(kept(9, &[1.0, 1.0]), [true, true, false]);
    }

    #[test]
    fn edges_that_become_parallel_are_added_up_and_dependencies_are_counted() {
        let edge =
            |kind, a, b, weight, health, metric| Edge { kind, a, b, weight, condition: sick(health, metric) };
        let link = EdgeKind::PartitionLink;
        let merged = edges(
            vec![
                edge(link, 0, 1, 1.0, 0.2, "worse"),
                edge(link, 2, 0, 3.0, 0.6, "better"),
                edge(link, 1, 2, 9.0, 1.0, "inside"),
                edge(EdgeKind::Dependency, 0, 1, 1.0, 1.0, "waits"),
                edge(EdgeKind::Dependency, 0, 2, 1.0, 1.0, "waits"),
            ],
            &[0, 1, 1],
        );
        let kinds: Vec<EdgeKind> = merged.iter().map(|edge| edge.kind).collect();
        assert_eq!(kinds, [EdgeKind::Dependency, EdgeKind::Dependency, link]);
        // (1 × 0.2 + 3 × 0.6) ÷ 4, and half of each at the low end.
        let sum = &merged[2];
        assert_eq!((sum.a, sum.b, sum.weight), (0, 1, 4.0));
        assert!((sum.condition.health - 0.5).abs() < 1e-12 && (sum.condition.low - 0.25).abs() < 1e-12);
        assert_eq!(sum.condition.metric.as_deref(), Some("worse"));
    }
}
