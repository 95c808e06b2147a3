//! Contraction of the classes of an order into a smaller graph.

use crate::csr::Csr;
use crate::scan::{Order, VISITED};

/// Writes to `out` the graph whose nodes are the classes of `order`; weights between two classes are summed.
///
/// The members of a class lie together in the order, so one pass over their arcs with an array of "where did I put
/// this neighbour" suffices. The class itself takes the first place of its row while the row is made: arcs inside
/// need no test of their own, and their sum is what the class's weighted degree loses.
pub(crate) fn contract(graph: &Csr, order: &Order, placed: &mut Vec<u32>, out: &mut Csr) {
    let classes = order.classes();
    out.clear();
    placed.clear();
    placed.resize(classes, u32::MAX);
    out.offsets.reserve_exact(classes + 1);
    out.degrees.reserve_exact(classes);
    out.offsets.push(0);
    // Places are counted over all rows, the classes' own included, so that no row's entries look like another's.
    let mut base = 0u32;
    for class in 0..classes {
        let members = order.members(class);
        let arcs: usize = members.iter().map(|&node| graph.range(node as usize).len()).sum();
        let start = out.targets.len();
        reserve(out, arcs + 1, graph.arcs());
        // Overwritten below: room for the row, so that the inner loop writes without growing anything.
        out.targets.resize(start + arcs + 1, 0);
        out.weights.resize(start + arcs + 1, 0);
        let row_targets = &mut out.targets[start..];
        let row_weights = &mut out.weights[start..];
        placed[class] = base;
        row_weights[0] = 0;
        let mut len = 1usize;
        let mut degree = 0;
        for &node in members {
            degree += graph.degrees[node as usize];
            let range = graph.range(node as usize);
            for (&target, &weight) in graph.targets[range.clone()].iter().zip(&graph.weights[range]) {
                let other = order.class[target as usize] & !VISITED;
                let at = placed[other as usize].wrapping_sub(base) as usize;
                if at < len {
                    row_weights[at] += weight;
                } else {
                    placed[other as usize] = base + len as u32;
                    row_targets[len] = other;
                    row_weights[len] = weight;
                    len += 1;
                }
            }
        }
        out.degrees.push(degree - row_weights[0]);
        base += len as u32;
        // The class's own place goes to the last of the row.
        len -= 1;
        row_targets[0] = row_targets[len];
        row_weights[0] = row_weights[len];
        let end = start + len;
        out.targets.truncate(end);
        out.weights.truncate(end);
        out.offsets.push(end as u32);
    }
}

/// Grows the arc arrays by half, but never far beyond what the source has: the rows written so far have at most as
/// many arcs as their members had.
fn reserve(out: &mut Csr, more: usize, arcs_max: usize) {
    let need = out.targets.len() + more;
    if need > out.targets.capacity() {
        let target = (need + need / 2).min(arcs_max + 1).max(need);
        out.targets.reserve_exact(target - out.targets.len());
        out.weights.reserve_exact(target - out.weights.len());
    }
}
