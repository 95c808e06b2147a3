//! Two slow solvers that share nothing with the fast one.

use super::Edges;

/// Every side, one by one.
pub(crate) fn brute_force(nodes: usize, edges: &Edges) -> f64 {
    (1..1u32 << (nodes - 1))
        .map(|side| {
            let on = |node: u32| side >> node & 1;
            edges.iter().filter(|(u, v, _)| on(*u) != on(*v)).map(|edge| edge.2).sum()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Stoer and Wagner (1997), word for word, on a matrix.
pub(crate) fn stoer_wagner(nodes: usize, edges: &Edges) -> f64 {
    let mut weight = vec![vec![0.0; nodes]; nodes];
    for &(u, v, capacity) in edges {
        if u != v {
            weight[u as usize][v as usize] += capacity;
            weight[v as usize][u as usize] += capacity;
        }
    }
    let mut alive: Vec<usize> = (0..nodes).collect();
    let mut best = f64::INFINITY;
    while alive.len() > 1 {
        let mut key = vec![0.0; nodes];
        let mut rest = alive.clone();
        let (mut before, mut last) = (0, 0);
        while !rest.is_empty() {
            let mut at = 0;
            for i in 1..rest.len() {
                if key[rest[i]] > key[rest[at]] {
                    at = i;
                }
            }
            (before, last) = (last, rest.swap_remove(at));
            for &other in &rest {
                key[other] += weight[last][other];
            }
        }
        best = best.min(key[last]);
        for &other in &alive {
            let moved = weight[last][other];
            weight[before][other] += moved;
            weight[other][before] += moved;
        }
        weight[before][before] = 0.0;
        alive.retain(|&node| node != last);
    }
    best
}
