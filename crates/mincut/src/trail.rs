//! The best cut so far, and the way back from a contracted graph to the caller's.

use crate::scan::VISITED;

#[cfg(test)]
#[path = "tests/trail.rs"]
mod tests;

/// The smallest cut seen, kept as nodes of the graph of its time, and the contractions made since the beginning.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// For every contraction, the class of each node of the graph before it.
    maps: Vec<u32>,
    /// Where each contraction's map begins, and the end of the last.
    levels: Vec<usize>,
    /// Nodes of the present graph.
    nodes: usize,
    value: u64,
    /// Contractions made when the best cut was found, and nodes of the graph then.
    level: usize,
    level_nodes: usize,
    side: Vec<u32>,
}

impl Trail {
    /// Starts anew with a graph of `nodes` nodes.
    pub(crate) fn reset(&mut self, nodes: usize) {
        self.maps.clear();
        self.levels.clear();
        self.levels.push(0);
        self.side.clear();
        self.nodes = nodes;
        self.value = u64::MAX;
        self.level = 0;
        self.level_nodes = nodes;
    }

    /// Value of the best cut; `u64::MAX` before the first.
    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    /// Offers the cut around `side`, nodes of the present graph.
    pub(crate) fn found(&mut self, value: u64, side: &[u32]) {
        if value < self.value {
            self.value = value;
            self.level = self.levels.len() - 1;
            self.level_nodes = self.nodes;
            self.side.clear();
            self.side.extend_from_slice(side);
        }
    }

    /// Records that node `v` of the present graph becomes node `classes[v]` of the next.
    pub(crate) fn contracted(&mut self, classes: &[u32], count: usize) {
        self.maps.extend(classes.iter().map(|class| class & !VISITED));
        self.levels.push(self.maps.len());
        self.nodes = count;
        // A graph that shrinks slowly must not fill the memory: fold everything into one map once it has grown to
        // a few times the first.
        let first = self.levels[1];
        if self.maps.len() > 4 * first {
            let side = self.side();
            self.side.clear();
            self.side.extend((0u32..).zip(&side).filter(|&(_, &on)| on).map(|(node, _)| node));
            for node in 0..first {
                let mut class = node as u32;
                for level in 0..self.levels.len() - 1 {
                    class = self.maps[self.levels[level] + class as usize];
                }
                // Nodes are numbered from 0 in every map: later ones of this loop do not read this entry.
                self.maps[node] = class;
            }
            self.maps.truncate(first);
            self.levels.truncate(2);
            self.level = 0;
            self.level_nodes = first;
        }
    }

    /// The best cut's side in the caller's graph.
    pub(crate) fn side(&self) -> Vec<bool> {
        let mut on = vec![false; self.level_nodes];
        for &node in &self.side {
            on[node as usize] = true;
        }
        for level in (0..self.level).rev() {
            let map = &self.maps[self.levels[level]..self.levels[level + 1]];
            on = map.iter().map(|&class| on[class as usize]).collect();
        }
        on
    }
}
