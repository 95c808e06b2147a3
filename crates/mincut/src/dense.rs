//! The scan and the contraction of a dense graph, as a matrix.
//!
//! On a dense graph the next node of a maximum-adjacency order is found fastest without any queue: add the visited
//! node's row to all keys and take the maximum, both in one sweep that compiles to vector instructions. Keys of
//! visited nodes are so low that no addition brings them back, so the sweep needs no tests.
//!
//! Classes are intervals of the order, as in [`crate::scan`]: a node whose key is at or above the bound when it is
//! visited joins the class of the one before it.

use crate::csr::Csr;
use crate::scan::{Order, VISITED};
use crate::solve::Interrupted;
use crate::trail::Trail;

/// Keys a sweep reduces to one maximum; rows are padded to a multiple of it.
const BLOCK: usize = 64;
/// Independent maxima inside a block, so that they need not wait for each other.
const LANES: usize = 8;
/// A single-precision number holds whole numbers up to 2^24; the bound is kept below half of that.
const SINGLE_BITS: u32 = 23;
/// Rows that are tested before all are.
const HUB_SAMPLES: usize = 16;
/// Rows between two calls of the interrupt callback.
const ROWS_BETWEEN_INTERRUPTS: usize = 1024;

/// What a matrix is made of. Weights are whole numbers in either.
pub(crate) trait Number:
    Copy + PartialOrd + std::ops::Add<Output = Self> + std::ops::AddAssign
{
    const ZERO: Self;
    /// The key of a visited node, and of padding.
    const GONE: Self;
    /// Bits of the largest bound.
    const BITS: u32;
    fn new(units: u64) -> Self;
}

/// Twice as many in a vector register, all of which have maximum and addition of it; the bound is rounded to 23 bits.
/// Sums above 2^24 are rounded, and still above every bound.
impl Number for f32 {
    const ZERO: Self = 0.0;
    const GONE: Self = f32::NEG_INFINITY;
    const BITS: u32 = SINGLE_BITS;

    fn new(units: u64) -> Self {
        // At most 2^23: exact.
        units as f32
    }
}

/// Exact: sums of capacities are below 2^62, so that a visited node's key stays negative.
impl Number for i64 {
    const ZERO: Self = 0;
    const GONE: Self = i64::MIN;
    const BITS: u32 = u64::BITS;

    fn new(units: u64) -> Self {
        units as i64
    }
}

/// Working memory of the dense scan.
#[derive(Debug, Default)]
pub(crate) struct Matrix<N> {
    cells: Vec<N>,
    keys: Vec<N>,
    /// Maximum of each block of keys.
    tops: Vec<N>,
    /// One row before its columns are contracted.
    sum: Vec<N>,
    /// The row that holds each node of the graph.
    row_of: Vec<u32>,
    /// Rows as they were visited, and where classes begin.
    visited: Vec<u32>,
    starts: Vec<u32>,
    /// The row of the contracted matrix that each row goes to.
    renamed: Vec<u32>,
    /// Its members, by first row.
    by_first: Vec<(u32, u32)>,
    /// Columns that keep their order in the contracted matrix: from, to, how many.
    runs: Vec<(u32, u32, u32)>,
    /// Columns that are added to an earlier one.
    merged: Vec<(u32, u32)>,
}

impl<N: Number> Matrix<N> {
    /// Scans and contracts until nothing more is certified, and leaves in `order` the classes of the graph's nodes.
    /// Cuts found on the way that are smaller than the trail's best are recorded there.
    pub(crate) fn run(
        &mut self,
        graph: &Csr,
        trail: &mut Trail,
        order: &mut Order,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<(), Interrupted> {
        let nodes = graph.nodes();
        let shift = (u64::BITS - trail.value().leading_zeros()).saturating_sub(N::BITS);
        let threshold = |bound: u64| bound.div_ceil(1 << shift);
        self.fill(graph, shift, threshold(trail.value()));
        self.row_of.clear();
        self.row_of.extend(0..nodes as u32);
        let mut rows = nodes;
        // The smallest degree that turned out, by the true weights, to be no improvement.
        let mut refuted = None;
        // The row that has swallowed most in the last round, if it promises to swallow more.
        let mut hub = None;
        while rows > 2 {
            let bound = N::new(threshold(trail.value()));
            let around = hub.take().filter(|&hub| self.hub_promises(rows, hub, bound));
            match around {
                Some(_) if interrupt() => return Err(Interrupted),
                Some(hub) => self.gather_hub(rows, hub, bound),
                None => self.scan(rows, bound, interrupt)?,
            }
            let classes = self.starts.len();
            if classes == rows {
                if around.is_some() {
                    continue;
                }
                break;
            }
            let largest = self.largest(rows);
            let lightest = self.contract(rows);
            if around.is_none() || 2 * classes < rows {
                hub = Some(self.renamed[largest] as usize);
            }
            rows = classes;
            for row in &mut self.row_of {
                *row = self.renamed[*row as usize];
            }
            if rows > 1 {
                let (row, degree) = lightest;
                if degree < bound && refuted.is_none_or(|least| degree < least) {
                    refuted = Some(degree);
                    self.offer(graph, row, trail);
                    if trail.value() == 0 {
                        break;
                    }
                }
            }
        }
        self.give(rows, order);
        Ok(())
    }

    /// Gives the cells back if they are more: two matrices together must not be more than one may be.
    pub(crate) fn keep_within(&mut self, bytes_max: usize) {
        if self.cells.capacity() * size_of::<N>() > bytes_max {
            self.cells = Vec::new();
        }
    }

    /// Memory of the cells.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.cells.capacity() * size_of::<N>()
    }

    fn stride(rows: usize) -> usize {
        rows.next_multiple_of(BLOCK)
    }

    fn fill(&mut self, graph: &Csr, shift: u32, cap: u64) {
        let nodes = graph.nodes();
        let stride = Self::stride(nodes);
        self.cells.clear();
        self.cells.resize(nodes * stride, N::ZERO);
        for (node, row) in self.cells.chunks_exact_mut(stride).enumerate() {
            for (target, weight) in graph.row(node) {
                row[target as usize] = N::new((weight >> shift).min(cap));
            }
        }
    }

    /// One maximum-adjacency order of the rows; fills `visited` and `starts`.
    fn scan(
        &mut self,
        rows: usize,
        bound: N,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<(), Interrupted> {
        let stride = Self::stride(rows);
        self.keys.clear();
        self.keys.resize(rows, N::ZERO);
        self.keys.resize(stride, N::GONE);
        self.tops.clear();
        self.tops.resize(stride / BLOCK, N::GONE);
        self.visited.clear();
        self.starts.clear();
        let (mut row, mut key) = (0, N::ZERO);
        for at in 0..rows {
            if at == 0 || key < bound {
                self.starts.push(at as u32);
            }
            self.visited.push(row as u32);
            self.keys[row] = N::GONE;
            sweep(&mut self.keys, &self.cells[row * stride..(row + 1) * stride], &mut self.tops);
            (row, key) = top(&self.keys, &self.tops);
            if at % ROWS_BETWEEN_INTERRUPTS == ROWS_BETWEEN_INTERRUPTS - 1 && interrupt() {
                return Err(Interrupted);
            }
        }
        if interrupt() { Err(Interrupted) } else { Ok(()) }
    }

    /// Whether most of a few rows hold to the hub.
    fn hub_promises(&self, rows: usize, hub: usize, bound: N) -> bool {
        let samples = HUB_SAMPLES.min(rows);
        let held = (0..samples).filter(|sample| self.holds(rows, sample * rows / samples, hub, bound));
        2 * held.count() > samples
    }

    /// Puts all rows that hold to the hub into its class, and every other into its own.
    fn gather_hub(&mut self, rows: usize, hub: usize, bound: N) {
        self.visited.clear();
        self.starts.clear();
        self.starts.push(0);
        self.visited.push(hub as u32);
        // Those that do not hold come last.
        self.renamed.clear();
        for row in (0..rows).filter(|&row| row != hub) {
            if self.holds(rows, row, hub, bound) {
                self.visited.push(row as u32);
            } else {
                self.renamed.push(row as u32);
            }
        }
        for &row in &self.renamed {
            self.starts.push(self.visited.len() as u32);
            self.visited.push(row);
        }
    }

    /// The test of [`crate::hub`] for a row and the hub.
    fn holds(&self, rows: usize, row: usize, hub: usize, bound: N) -> bool {
        let stride = Self::stride(rows);
        let cells = |row: usize| self.cells[row * stride..(row + 1) * stride].chunks_exact(LANES);
        let mut lanes = [N::ZERO; LANES];
        for (cells, hub) in cells(row).zip(cells(hub)) {
            for lane in 0..LANES {
                lanes[lane] += if cells[lane] < hub[lane] { cells[lane] } else { hub[lane] };
            }
        }
        lanes[0] += self.cells[row * stride + hub];
        lanes.into_iter().fold(N::ZERO, |a, b| a + b) >= bound
    }

    /// A row of the largest class of the last round.
    fn largest(&self, rows: usize) -> usize {
        let ends = self.starts[1..].iter().copied().chain([rows as u32]);
        let largest = self.starts.iter().zip(ends).max_by_key(|&(&start, end)| end - start);
        largest.map_or(0, |(&start, _)| self.visited[start as usize] as usize)
    }

    /// Contracts the classes of the last scan, in place, and returns the row with the least degree.
    fn contract(&mut self, rows: usize) -> (usize, N) {
        let classes = self.starts.len();
        let (old, new) = (Self::stride(rows), Self::stride(classes));
        self.rename(rows);
        self.sum.clear();
        self.sum.resize(old, N::ZERO);
        let mut lightest = (0, None);
        for class in 0..classes {
            // A class's first row is not above its own number, nor is any row of a later class: what is overwritten
            // has been read.
            let start = self.by_first[class].1 as usize;
            let end = self.starts.get(start + 1).map_or(rows, |&end| end as usize);
            let members = &self.visited[self.starts[start] as usize..end];
            for (nth, &member) in members.iter().enumerate() {
                let row = &self.cells[member as usize * old..(member as usize + 1) * old];
                if nth == 0 {
                    self.sum.copy_from_slice(row);
                } else {
                    for (sum, &cell) in self.sum.iter_mut().zip(row) {
                        *sum += cell;
                    }
                }
            }
            let out = &mut self.cells[class * new..(class + 1) * new];
            for &(from, to, len) in &self.runs {
                let (from, to, len) = (from as usize, to as usize, len as usize);
                out[to..to + len].copy_from_slice(&self.sum[from..from + len]);
            }
            out[classes..].fill(N::ZERO);
            for &(from, to) in &self.merged {
                out[to as usize] += self.sum[from as usize];
            }
            out[class] = N::ZERO;
            let degree = total(out);
            if lightest.1.is_none_or(|least| degree < least) {
                lightest = (class, Some(degree));
            }
        }
        (lightest.0, lightest.1.unwrap_or(N::ZERO))
    }

    /// Numbers the classes by their first row, so that most columns keep their order.
    fn rename(&mut self, rows: usize) {
        self.by_first.clear();
        self.renamed.clear();
        self.renamed.resize(rows, 0);
        for (class, &start) in self.starts.iter().enumerate() {
            let end = self.starts.get(class + 1).map_or(rows, |&end| end as usize);
            let members = &self.visited[start as usize..end];
            self.by_first.push((members.iter().copied().min().unwrap_or(0), class as u32));
        }
        self.by_first.sort_unstable();
        for (number, &(_, class)) in self.by_first.iter().enumerate() {
            let end = self.starts.get(class as usize + 1).map_or(rows, |&end| end as usize);
            for &member in &self.visited[self.starts[class as usize] as usize..end] {
                self.renamed[member as usize] = number as u32;
            }
        }
        self.runs.clear();
        self.merged.clear();
        for (row, &number) in self.renamed.iter().enumerate() {
            if self.by_first[number as usize].0 as usize != row {
                self.merged.push((row as u32, number));
                continue;
            }
            match self.runs.last_mut() {
                Some((from, _, len)) if (*from + *len) as usize == row => *len += 1,
                _ => self.runs.push((row as u32, number, 1)),
            }
        }
    }

    /// Records the cut around a row if, by the true weights, it is smaller than the best.
    fn offer(&self, graph: &Csr, row: usize, trail: &mut Trail) {
        let on = |node: u32| self.row_of[node as usize] as usize == row;
        let side: Vec<u32> = (0..graph.nodes() as u32).filter(|&node| on(node)).collect();
        let value = side
            .iter()
            .flat_map(|&node| graph.row(node as usize))
            .filter(|&(target, _)| !on(target))
            .map(|(_, weight)| weight)
            .sum();
        trail.found(value, &side);
    }

    /// Writes the classes as intervals of an order.
    fn give(&self, rows: usize, order: &mut Order) {
        order.reset(self.row_of.len());
        order.starts.resize(rows, 0);
        for (class, &row) in order.class.iter_mut().zip(&self.row_of) {
            *class = VISITED | row;
            order.starts[row as usize] += 1;
        }
        order.sort();
    }
}

/// Adds a row to the keys and keeps the maximum of each block.
fn sweep<N: Number>(keys: &mut [N], row: &[N], tops: &mut [N]) {
    for ((keys, row), top) in keys.chunks_exact_mut(BLOCK).zip(row.chunks_exact(BLOCK)).zip(tops) {
        let mut lanes = [N::GONE; LANES];
        for (keys, row) in keys.chunks_exact_mut(LANES).zip(row.chunks_exact(LANES)) {
            for lane in 0..LANES {
                let key = keys[lane] + row[lane];
                keys[lane] = key;
                lanes[lane] = if key > lanes[lane] { key } else { lanes[lane] };
            }
        }
        *top = lanes.into_iter().fold(N::GONE, |a, b| if b > a { b } else { a });
    }
}

/// The first row with the highest key.
fn top<N: Number>(keys: &[N], tops: &[N]) -> (usize, N) {
    let mut best = 0;
    for (block, top) in tops.iter().enumerate() {
        if *top > tops[best] {
            best = block;
        }
    }
    let key = tops[best];
    let inside = keys[best * BLOCK..(best + 1) * BLOCK].iter().position(|&other| other >= key).unwrap_or(0);
    (best * BLOCK + inside, key)
}

fn total<N: Number>(row: &[N]) -> N {
    let mut lanes = [N::ZERO; LANES];
    for cells in row.chunks_exact(LANES) {
        for lane in 0..LANES {
            lanes[lane] += cells[lane];
        }
    }
    lanes.into_iter().fold(N::ZERO, |a, b| a + b)
}

#[cfg(test)]
#[path = "tests/dense.rs"]
mod tests;
