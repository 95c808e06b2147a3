//! The solver: scan, contract, repeat.

use crate::csr::Csr;
use crate::queue::Buckets;
use crate::scan::{Order, VISITED, scan};
use crate::{Cut, Graph, contract, exact};
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
    order: Order,
    buckets: Buckets,
    exact: exact::Heap,
    placed: Vec<u32>,
    front: Csr,
    back: Csr,
    trail: Trail,
}

impl Scratch {
    /// Empty working memory; it grows on first use.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The smallest cut seen, and how to get from the present graph's nodes back to the caller's.
#[derive(Debug, Default)]
struct Trail {
    /// For every contraction made, the class of each node of the graph before it.
    maps: Vec<u32>,
    /// Where each contraction's map begins.
    levels: Vec<usize>,
    value: u64,
    /// Contractions made when the best cut was found.
    level: usize,
    /// Its nodes in the graph of that time.
    side: Vec<u32>,
}

impl Trail {
    fn reset(&mut self) {
        self.maps.clear();
        self.levels.clear();
        self.side.clear();
        self.value = u64::MAX;
        self.level = 0;
    }

    fn found(&mut self, value: u64, side: &[u32]) {
        if value < self.value {
            self.value = value;
            self.level = self.levels.len();
            self.side.clear();
            self.side.extend_from_slice(side);
        }
    }

    fn contracted(&mut self, classes: &[u32]) {
        self.levels.push(self.maps.len());
        self.maps.extend(classes.iter().map(|class| class & !VISITED));
    }

    /// The side of the best cut in the caller's graph of `nodes` nodes.
    fn side(&self, nodes: usize) -> Vec<bool> {
        let map = |level: usize| {
            let end = self.levels.get(level + 1).copied().unwrap_or(self.maps.len());
            &self.maps[self.levels[level]..end]
        };
        let size = if self.level == self.levels.len() || self.level == 0 {
            None
        } else {
            Some(map(self.level).len())
        };
        let mut on = vec![
            false;
            if self.level == 0 {
                nodes
            } else {
                size.unwrap_or(
                    1 + self.maps[self.levels[self.level - 1]..].iter().copied().max().unwrap_or(0) as usize,
                )
            }
        ];
        for &node in &self.side {
            on[node as usize] = true;
        }
        for level in (0..self.level).rev() {
            on = map(level).iter().map(|&class| on[class as usize]).collect();
        }
        on
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
        if self.nodes() < 2 {
            return Ok(None);
        }
        solve(&self.csr, scratch, interrupt)?;
        let trail = &scratch.trail;
        Ok(Some(Cut::new(self.capacity(trail.value), trail.value, trail.side(self.nodes()))))
    }
}

fn solve(graph: &Csr, scratch: &mut Scratch, interrupt: &mut dyn FnMut() -> bool) -> Result<(), Interrupted> {
    let Scratch { order, buckets, exact, placed, front, back, trail } = scratch;
    trail.reset();
    let mut first = true;
    loop {
        let current = if first { graph } else { &*front };
        let nodes = current.nodes();
        if nodes < 2 {
            return Ok(());
        }
        if let Some((node, degree)) = current.lightest() {
            trail.found(degree, &[node as u32]);
        }
        if nodes == 2 || trail.value == 0 {
            return Ok(());
        }
        let t = std::time::Instant::now();
        scan(current, trail.value, 12, 0, order, buckets, interrupt)?;
        if order.reached < nodes {
            let value = cut_value(current, &order.nodes[..order.reached], order);
            trail.found(value, &order.nodes[..order.reached]);
            if value == 0 {
                return Ok(());
            }
        }
        if order.classes() == nodes {
            exact.scan(current, trail.value, order, interrupt)?;
        }
        let t2 = std::time::Instant::now();
        contract::contract(current, order, placed, back);
        trail.contracted(&order.class);
        if std::env::var("TRACE").is_ok() {
            eprintln!(
                "n={} arcs={} bound={} classes={} scan {:?} contract {:?}",
                nodes,
                current.arcs(),
                trail.value,
                order.classes(),
                t2 - t,
                t2.elapsed()
            );
        }
        std::mem::swap(front, back);
        first = false;
    }
}

/// Value of the cut around the first `side.len()` nodes of the order.
fn cut_value(graph: &Csr, side: &[u32], order: &Order) -> u64 {
    // Classes are intervals, and a scan that fell apart began a new one there.
    let limit = VISITED | order.starts.partition_point(|&start| (start as usize) < side.len()) as u32;
    side.iter()
        .flat_map(|&node| graph.row(node as usize))
        .filter(|&(target, _)| order.class[target as usize] >= limit)
        .map(|(_, weight)| weight)
        .sum()
}
