//! The solver.

use crate::{Cut, Graph};
use std::fmt;

/// The caller's interrupt callback returned `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the minimum cut was interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Working memory that one solve leaves for the next. Holds no result.
#[derive(Debug, Default)]
pub struct Scratch {
    matrix: Vec<u64>,
}

impl Scratch {
    /// Empty working memory; it grows on first use.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Graph {
    /// The minimum cut, or `None` when the graph has fewer than two nodes.
    pub fn minimum_cut(&self) -> Option<Cut> {
        self.minimum_cut_with(&mut Scratch::new(), &mut || false).unwrap_or(None)
    }

    /// The minimum cut, with working memory that is reused and a callback that may stop the search by returning
    /// `true`.
    ///
    /// # Errors
    /// [`Interrupted`] when the callback returned `true`; the scratch memory can be used again.
    pub fn minimum_cut_with(
        &self,
        scratch: &mut Scratch,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Cut>, Interrupted> {
        let nodes = self.nodes();
        if nodes < 2 {
            return Ok(None);
        }
        let matrix = &mut scratch.matrix;
        matrix.clear();
        matrix.resize(nodes * nodes, 0);
        for node in 0..nodes {
            for (target, units) in self.arcs(node) {
                matrix[node * nodes + target as usize] = units;
            }
        }
        // Stoer and Wagner (1997): the last node of a maximum-adjacency order is a minimum cut between it and the
        // one before it; merge the two and repeat.
        let mut members: Vec<Vec<u32>> = (0..nodes as u32).map(|node| vec![node]).collect();
        let mut alive: Vec<usize> = (0..nodes).collect();
        let mut best = (u64::MAX, Vec::new());
        while alive.len() > 1 {
            let mut key = vec![0u64; nodes];
            let mut rest = alive.clone();
            let mut order = Vec::with_capacity(alive.len());
            while !rest.is_empty() {
                if interrupt() {
                    return Err(Interrupted);
                }
                let at = (0..rest.len()).max_by_key(|&i| (key[rest[i]], std::cmp::Reverse(i))).unwrap_or(0);
                let node = rest.swap_remove(at);
                order.push(node);
                for &other in &rest {
                    key[other] += matrix[node * nodes + other];
                }
            }
            let (last, before) = (order[order.len() - 1], order[order.len() - 2]);
            if key[last] < best.0 {
                best = (key[last], members[last].clone());
            }
            let moved = std::mem::take(&mut members[last]);
            members[before].extend(moved);
            for &other in &alive {
                let units = matrix[last * nodes + other];
                matrix[before * nodes + other] += units;
                matrix[other * nodes + before] += units;
            }
            matrix[before * nodes + before] = 0;
            alive.retain(|&node| node != last);
        }
        let mut side = vec![false; nodes];
        for node in best.1 {
            side[node as usize] = true;
        }
        Ok(Some(Cut::new(self.capacity(best.0), best.0, side)))
    }
}
