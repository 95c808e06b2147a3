//! The minimum cut of a graph whose capacities change.
//!
//! Between two samples of a monitor a few capacities change, and most changes cannot move the minimum cut. What is
//! kept to see that:
//!
//! - the cut, and what its side is worth now: an upper bound. A crossing edge that loses capacity takes the minimum
//!   down with it, by just as much; an edge that gains and does not cross changes nothing.
//! - a partition: no cut below its floor separates two nodes of a class. All smaller cuts are therefore cuts of the
//!   quotient, a graph of few nodes that is kept up to date and solved in place of the whole.
//! - a [`Certificate`] of the floor: what of every capacity it rests on. Most losses are of capacity that nothing rests on,
//!   and most others can be made up for nearby.
//!
//! Why the floor stays true: after `(u, v)` loses `d`, only cuts that separate `u` from `v` are smaller, each by `d`. If the
//! certificate withstands that, every cut that splits a class is still worth the floor; one that splits none is a cut of
//! the quotient, whose arcs around the two classes tell what it is worth at least. Where that does not suffice, a flow from `u` to
//! `v` ([`crate::flow`]) finds the smallest cut between the two, worth `b`: if the minimum moved, that is the new one, and a
//! floor above `b` sinks to `b`, and never by more than `d`.

use crate::certificate::Certificate;
use crate::csr::Csr;
use crate::flow::{Flow, Held};
use crate::graph::{Scale, scale_for};
use crate::solve::{Scratch, Tuning, certify, solve};
use crate::{Cut, GraphError, Interrupted};

#[cfg(any(test, fuzzing))]
#[path = "tests/invariants.rs"]
mod invariants;

/// By how much the floor may exceed the minimum, in parts of the minimum, at most all of it. The
/// larger, the rarer a rebuild and the larger the quotient. Every rebuild begins with twice what the last one ended with.
const MARGIN_PARTS: u64 = 1024;
/// Flows between two queries look at no more than this many times all arcs: whoever changes everything is better served
/// by one rebuild.
const FLOW_PASSES_MAX: usize = 1;
/// Losses without a certificate after which it is made anew.
const LOSSES_WITHOUT_MAX: usize = 16;
/// The certified floor exceeds the minimum by at most this part of it: the higher, the more of the capacities it rests on.
const CERTIFIED_PART: u64 = 8;
/// Losses kept for when the floor is needed. More would take longer to look at than a rebuild.
const PENDING_MAX: usize = 256;
/// Rounds of contraction for the partition.
const ROUNDS_MAX: usize = 24;
/// No floor is above this: no cut is, and so no sum overflows.
const FLOOR_MAX: u64 = 1 << 61;
/// The total of all capacities, in units, when the units are chosen; it may grow to [`FLOOR_MAX`] before they are chosen
/// anew.
const TOTAL_BITS: i32 = 56;
/// A minimum below this, in units, makes one look whether finer units can be had: a crossing edge may be off by half a
/// unit.
const WORTH_MIN: u64 = 1 << 32;

/// A graph with fixed edges and changing capacities, and its minimum cut.
///
/// ```
/// use lambda_cut::DynamicCut;
///
/// let edges = [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0), (2, 3, 1.0), (3, 0, 1.0)];
/// let mut graph = DynamicCut::new(4, &edges)?;
/// assert_eq!(graph.minimum_cut().unwrap().value, 2.0);
/// graph.set_capacity(3, 0.25)?;
/// let cut = graph.minimum_cut().unwrap();
/// assert_eq!((cut.value, cut.side.as_slice()), (1.25, [false, false, false, true].as_slice()));
/// # Ok::<(), lambda_cut::GraphError>(())
/// ```
///
/// The cut is exact after every change, at a resolution of 2⁻⁵⁵ to 2⁻⁵⁶ of the total capacity (chosen when the graph is
/// made, and again when the capacities have outgrown it). Which of several minimum cuts is named may depend on the changes made before;
/// the same changes give the same cut. Memory, with a copy of the edge list:
/// 57 to 100 bytes an edge as measured, most where no part of the graph holds together much better than the whole.
#[derive(Debug)]
pub struct DynamicCut {
    nodes: usize,
    /// As the caller has set them.
    edges: Vec<(u32, u32, f64)>,
    scale: Scale,
    /// With sorted rows, parallel edges merged, and edges of capacity zero kept.
    graph: Csr,
    /// Sum of all capacities in units.
    total: u64,
    /// The minimum when the units were last found to suit.
    worth_checked: u64,
    /// The present cut; its value is up to date, whether or not it is still the minimum.
    cut: Option<Cut>,
    /// The cut is the minimum.
    exact: bool,
    coarse: Partition,
    /// The classes of the partition, with sorted rows.
    quotient: Csr,
    /// Of the floor: while it is valid, every cut that splits a class is worth the floor in what is kept, and no loss is
    /// pending.
    certificate: Certificate,
    /// Losses since it was valid.
    losses_without: usize,
    scratch: Scratch,
    flow: Flow,
    /// Arcs that flows may still look at before the next query.
    flow_arcs: usize,
    /// Losses `(u, v, units)` that the floor does not know of yet: cuts below it that split a class separate one
    /// of these pairs.
    pending: Vec<(u32, u32, u64)>,
    /// What the floor is at least, whatever the pending losses did.
    sure: u64,
    /// The floor exceeds the minimum by so many of its [`MARGIN_PARTS`] when the partition is made.
    margin: u64,
    /// Partitions made.
    #[cfg(test)]
    rebuilds: usize,
}

/// No cut below the floor separates two nodes of a class.
#[derive(Debug, Default)]
struct Partition {
    class: Vec<u32>,
    floor: u64,
    /// The class with most nodes.
    largest: u32,
    /// Nodes that are a class of their own.
    single: Vec<bool>,
}

impl Partition {
    /// The edge `(u, v)` has lost `loss`, and all cuts between its ends are still worth `held`.
    fn sink(&mut self, loss: u64, held: u64) {
        self.floor = sunk(self.floor, loss, held);
    }

    /// Finds the largest class and those of one node.
    fn count(&mut self, counts: &mut Vec<u32>) {
        counts.clear();
        counts.resize(self.class.len(), 0);
        for &class in &self.class {
            counts[class as usize] += 1;
        }
        let largest = (0u32..).zip(counts.iter().copied()).max_by_key(|&(_, count)| count);
        self.largest = largest.map_or(0, |(class, _)| class);
        self.single.clear();
        self.single.extend(self.class.iter().map(|&class| counts[class as usize] == 1));
    }
}

/// What is left of a floor when the edge between two nodes has lost `loss`, and all cuts between them are still worth
/// `held`.
fn sunk(floor: u64, loss: u64, held: u64) -> u64 {
    floor.min(held.max(floor.saturating_sub(loss)))
}

impl DynamicCut {
    /// Makes the graph and finds its minimum cut on the first call of [`DynamicCut::minimum_cut`].
    ///
    /// Edges are later named by their index in `edges`. Parallel edges are added up, loops never cross.
    ///
    /// # Errors
    /// [`GraphError`] names the first edge that is refused.
    pub fn new(nodes: usize, edges: &[(u32, u32, f64)]) -> Result<Self, GraphError> {
        let scale = scale_for(nodes, edges, TOTAL_BITS)?;
        let mut graph = Self {
            nodes,
            edges: edges.to_vec(),
            scale,
            graph: Csr::default(),
            total: 0,
            worth_checked: u64::MAX,
            cut: None,
            exact: false,
            coarse: Partition::default(),
            quotient: Csr::default(),
            certificate: Certificate::default(),
            losses_without: 0,
            scratch: Scratch::new(),
            flow: Flow::default(),
            flow_arcs: 0,
            pending: Vec::new(),
            sure: 0,
            margin: MARGIN_PARTS,
            #[cfg(test)]
            rebuilds: 0,
        };
        graph.load(scale);
        Ok(graph)
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The edges with their present capacities, in the order in which they were given.
    pub fn edges(&self) -> &[(u32, u32, f64)] {
        &self.edges
    }

    /// Changes the capacity of an edge.
    ///
    /// # Errors
    /// [`GraphError`] when there is no such edge or the capacity is refused, be it as one too many for the sum of all to be a
    /// number; nothing has changed then.
    pub fn set_capacity(&mut self, edge: usize, capacity: f64) -> Result<(), GraphError> {
        let Some(&(u, v, before)) = self.edges.get(edge) else {
            return Err(GraphError::EdgeOutOfRange { edge, edges: self.edges.len() });
        };
        if !capacity.is_finite() {
            return Err(GraphError::NonFinite { edge });
        }
        if capacity < 0.0 {
            return Err(GraphError::Negative { edge, capacity });
        }
        let old = self.scale.units(before);
        let new = self.scale.units(capacity);
        // Beyond the first the sum may leave the range of floating-point numbers, which the units, clamped, do not show.
        let heavy = capacity > f64::MAX / self.edges.len() as f64;
        if u != v && (heavy || (self.total - old).saturating_add(new) >= FLOOR_MAX) {
            self.edges[edge].2 = capacity;
            let scale = scale_for(self.nodes, &self.edges, TOTAL_BITS);
            if scale.is_err() {
                self.edges[edge].2 = before;
            }
            self.load(scale?);
            return Ok(());
        }
        self.edges[edge].2 = capacity;
        if u != v && new != old {
            self.total = self.total - old + new;
            if new > old { self.gain(u, v, new - old) } else { self.lose(u, v, old - new) }
        }
        Ok(())
    }

    /// The minimum cut at present, or `None` when there are fewer than two nodes.
    pub fn minimum_cut(&mut self) -> Option<&Cut> {
        // The callback never interrupts.
        self.minimum_cut_with(&mut || false).unwrap_or(None)
    }

    /// The minimum cut at present, with a callback that may stop the search by returning `true`.
    ///
    /// # Errors
    /// [`Interrupted`] when the callback returned `true`; the next call goes on from the changes made so far.
    pub fn minimum_cut_with(
        &mut self,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> Result<Option<&Cut>, Interrupted> {
        if self.nodes < 2 {
            return Ok(None);
        }
        if !self.exact {
            self.settle(interrupt)?;
        }
        if self.outgrown() {
            self.worth_checked = self.worth();
            if let Ok(scale) = scale_for(self.nodes, &self.edges, TOTAL_BITS)
                && scale != self.scale
            {
                self.load(scale);
                self.settle(interrupt)?;
                self.worth_checked = self.worth();
            }
        }
        self.maintain(interrupt)?;
        self.flow_arcs = FLOW_PASSES_MAX * self.graph.arcs();
        Ok(self.cut.as_ref())
    }

    /// Makes the cut exact.
    fn settle(&mut self, interrupt: &mut dyn FnMut() -> bool) -> Result<(), Interrupted> {
        self.solve_quotient(interrupt)?;
        if self.exact { Ok(()) } else { self.rebuild(interrupt) }
    }

    /// The units may no longer suit. Capacities above the clamp were taken for the clamp, which is harmless only below
    /// it; and a minimum of few units is known to few digits.
    fn outgrown(&self) -> bool {
        let worth = self.worth();
        worth >= self.scale.clamped_units()
            || (worth > 0 && worth < WORTH_MIN && worth < self.worth_checked / 2)
    }

    /// Value of the present cut; above everything when there is none.
    fn worth(&self) -> u64 {
        self.cut.as_ref().map_or(u64::MAX, |cut| cut.units)
    }

    fn set_worth(&mut self, units: u64) {
        let value = self.scale.capacity(units);
        if let Some(cut) = &mut self.cut {
            cut.units = units;
            cut.value = value;
        }
    }

    fn crosses(&self, u: u32, v: u32) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.side[u as usize] != cut.side[v as usize])
    }

    /// Makes what helps to see that a loss is harmless anew, once enough losses had to do without.
    fn maintain(&mut self, interrupt: &mut dyn FnMut() -> bool) -> Result<(), Interrupted> {
        if self.worth() == 0 {
            return Ok(());
        }
        let worn = self.certificate.is_valid() && self.certificate.is_worn();
        if self.coarse.floor >= self.worth() && (worn || self.losses_without >= LOSSES_WITHOUT_MAX) {
            self.sink_pending();
            if self.coarse.floor >= self.worth() {
                self.certify_floor(interrupt)?;
            }
        }
        if self.losses_without >= PENDING_MAX {
            self.losses_without = 0;
            self.rebuild(interrupt)?;
        }
        Ok(())
    }

    /// Makes the certificate anew. Nothing may be pending.
    fn certify_floor(&mut self, interrupt: &mut dyn FnMut() -> bool) -> Result<(), Interrupted> {
        debug_assert!(self.pending.is_empty() && self.sure == self.coarse.floor);
        let most = self.worth().saturating_add(self.worth() / CERTIFIED_PART);
        self.coarse.floor = self.coarse.floor.min(most);
        self.sure = self.coarse.floor;
        let Self { graph, scratch, certificate, coarse, .. } = self;
        certificate.make(graph, coarse.floor, Tuning::DEFAULT.key_bits, scratch.for_scans(), interrupt)?;
        self.losses_without = 0;
        Ok(())
    }

    fn gain(&mut self, u: u32, v: u32, units: u64) {
        self.change(u, v, |weight| weight + units);
        if self.crosses(u, v) {
            self.set_worth(self.worth() + units);
            self.exact = false;
        }
    }

    fn lose(&mut self, u: u32, v: u32, units: u64) {
        let before = self.change(u, v, |weight| weight - units);
        let crosses = self.crosses(u, v);
        let was_valid = self.certificate.is_valid();
        let mut certified = self.certificate.withstands(&self.graph, u, v, before);
        let sure = self.sure;
        if !certified {
            self.sure = sure.saturating_sub(units);
        }
        // A bound on all cuts between the two.
        let mut held = self.held(u, v);
        // Whether the certificate can be mended, and whether the minimum moved, must be known now.
        let moves = !crosses && held < self.worth();
        let mend = was_valid && !certified && self.coarse.floor >= self.worth();
        if (moves || mend) && self.flow_arcs > 0 && self.cut.is_some() {
            let bound = if mend { self.coarse.floor } else { self.worth() };
            let Self { flow, graph, certificate, flow_arcs, .. } = self;
            let found = flow.run_telling(graph, (u, v), bound, flow_arcs, |arcs, through| {
                if mend {
                    certificate.keep_flow(arcs, through);
                }
            });
            held = held.max(found.value());
            certified |= mend && found.value() >= bound;
            if let Held::Exactly(units) = found
                && !crosses
                && units < self.worth()
            {
                // The smallest of the cuts that lost: if the old one was the minimum, this now is.
                let mut side = vec![false; self.nodes];
                for &node in self.flow.side() {
                    side[node as usize] = true;
                }
                self.cut = Some(Cut::new(self.scale.capacity(units), units, side));
            }
        }
        self.losses_without += usize::from(!certified);
        if certified {
            self.sure = sure;
        }
        if !certified {
            // Whether the floor sinks, only when it is needed.
            if !crosses && held < self.coarse.floor {
                self.pending.push((u, v, units));
                if self.pending.len() > PENDING_MAX {
                    self.forget_partition();
                }
            } else {
                self.coarse.sink(units, held);
            }
            self.sure = sunk(sure, units, held).min(self.coarse.floor);
        }
        if crosses {
            // No cut lost more, so a minimum stays one.
            self.set_worth(self.worth() - units);
        } else if held < self.worth() {
            self.exact = false;
        }
    }

    /// Finds out how far the floor has sunk with the losses since it was last needed.
    fn sink_pending(&mut self) {
        let Self { flow, graph, coarse, flow_arcs, pending, .. } = self;
        for (u, v, units) in pending.drain(..) {
            // All cuts between the two that may split a class.
            let alone = |node: u32| coarse.single[node as usize];
            let (_, held) = flow.run(graph, (u, v), coarse.floor, flow_arcs, alone);
            coarse.sink(units, held);
        }
        self.sure = self.coarse.floor;
    }

    /// Writes a new weight to both graphs; returns the one before.
    fn change(&mut self, u: u32, v: u32, weight: impl Fn(u64) -> u64) -> u64 {
        if self.coarse.floor > 0 {
            let (a, b) = (self.coarse.class[u as usize], self.coarse.class[v as usize]);
            if a != b {
                self.quotient.change(a, b, &weight);
            }
        }
        self.graph.change(u, v, &weight)
    }

    /// A lower bound on the value of every cut between `u` and `v`.
    fn held(&self, u: u32, v: u32) -> u64 {
        if self.coarse.floor == 0 {
            return 0;
        }
        let (a, b, c) = (self.coarse.class[u as usize], self.coarse.class[v as usize], self.coarse.largest);
        if a == b {
            return self.sure;
        }
        // A cut that splits no class cuts whatever is between the two, and has the largest class on either side.
        let between = |a: u32, b: u32| self.quotient.arc(a, b).map_or(0, |arc| self.quotient.weights[arc]);
        let around = if a == c || b == c { 0 } else { between(a, c).min(between(b, c)) };
        self.sure.min(between(a, b) + around)
    }

    /// Forgets what all cuts are worth at least.
    fn forget_partition(&mut self) {
        self.pending.clear();
        self.coarse.floor = 0;
        self.sure = 0;
        self.certificate.invalidate();
    }

    /// Reads all capacities anew; nothing is known afterwards but the old side.
    fn load(&mut self, scale: Scale) {
        self.scale = scale;
        self.graph = Csr::from_edges(self.nodes, &self.edges, |capacity| Some(scale.units(capacity)));
        self.graph.sort_rows();
        self.total = self.edges.iter().filter(|(u, v, _)| u != v).map(|edge| scale.units(edge.2)).sum();
        self.forget_partition();
        self.exact = false;
        if let Some(cut) = &self.cut {
            let crossing =
                self.edges.iter().filter(|(u, v, _)| cut.side[*u as usize] != cut.side[*v as usize]);
            let units = crossing.map(|edge| scale.units(edge.2)).sum();
            self.set_worth(units);
        }
    }

    /// Looks for the minimum in the quotient. It is there if it is below the floor.
    fn solve_quotient(&mut self, interrupt: &mut dyn FnMut() -> bool) -> Result<(), Interrupted> {
        self.sink_pending();
        if self.coarse.floor == 0 {
            return Ok(());
        }
        if self.quotient.nodes() > 1 {
            solve(&self.quotient, Tuning::DEFAULT, &mut self.scratch, interrupt)?;
            let units = self.scratch.trail.value();
            if units < self.worth() {
                let side = self.scratch.trail.side();
                let side = self.coarse.class.iter().map(|&class| side[class as usize]).collect();
                self.cut = Some(Cut::new(self.scale.capacity(units), units, side));
            }
        }
        self.exact = self.worth() <= self.coarse.floor;
        Ok(())
    }

    /// Makes the partition and its certificate anew, and the cut exact.
    fn rebuild(&mut self, interrupt: &mut dyn FnMut() -> bool) -> Result<(), Interrupted> {
        if let Some((node, units)) = self.graph.lightest()
            && units < self.worth()
        {
            let side = (0..self.nodes).map(|other| other == node).collect();
            self.cut = Some(Cut::new(self.scale.capacity(units), units, side));
        }
        #[cfg(test)]
        {
            self.rebuilds += 1;
        }
        // While it is being made there is no partition.
        self.forget_partition();
        if self.worth() == 0 {
            self.exact = true;
            return Ok(());
        }
        let part = self.worth() / MARGIN_PARTS + 1;
        let bounds = (self.worth(), self.worth().saturating_add(part * self.margin).min(FLOOR_MAX));
        let Self { graph, scratch, coarse, quotient, .. } = self;
        let floor = certify(graph, bounds, ROUNDS_MAX, scratch, &mut coarse.class, quotient, interrupt)?;
        quotient.sort_rows();
        self.margin = (2 * (floor - bounds.0) / part).clamp(1, MARGIN_PARTS);
        self.coarse.count(self.scratch.counts());
        self.coarse.floor = floor;
        self.sure = floor;
        self.solve_quotient(interrupt)?;
        if self.worth() == 0 {
            // Fallen apart, though no node is alone. No floor above that has a certificate.
            self.forget_partition();
            return Ok(());
        }
        self.certify_floor(interrupt)
    }
}
