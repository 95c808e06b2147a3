//! The minimum cut of a graph whose capacities change.
//!
//! Between two samples of a monitor a few capacities change, and most changes cannot move the minimum cut. What is
//! kept to see that:
//!
//! - the cut, and what its side is worth now: an upper bound. A crossing edge that loses capacity takes the minimum
//!   down with it, by just as much; an edge that gains and does not cross changes nothing.
//! - a *coarse* partition: no cut below its floor separates two nodes of a class. All smaller cuts are therefore cuts
//!   of the quotient, a graph of few nodes that is kept up to date and solved in place of the whole.
//! - a *fine* partition, the same with a higher floor and no quotient. It shows, in time proportional to a degree,
//!   that an edge which loses capacity still has its ends held together, so that neither the minimum nor the coarse
//!   floor need move.
//!
//! Why floors stay true: after `(u, v)` loses `d`, only cuts that separate `u` from `v` are smaller, each by `d`. If all
//! of those are still worth `b`, a floor below `b` stands; otherwise it sinks to `b`, and never by more than `d`. And `b` is
//! found so: a cut between `u` and a class that `v` belongs to either splits the class, and then costs the class's floor,
//! or cuts every edge from `u` into the class. Where that does not suffice, a flow from `u` to `v` ([`crate::flow`]) finds
//! `b`, and when the minimum did move, the new one.

use crate::csr::Csr;
use crate::flow::{Flow, Held};
use crate::graph::{Scale, scale_for};
use crate::solve::{Scratch, Tuning, certify, solve};
use crate::{Cut, GraphError, Interrupted};

/// By how much the floor of the coarse partition may exceed the minimum, in parts of the minimum, at most all of it. The
/// larger, the rarer a rebuild and the larger the quotient. Every rebuild begins with twice what the last one ended with.
const MARGIN_PARTS: u64 = 1024;
/// Flows between two queries look at no more than this many times all arcs: whoever changes everything is better served
/// by one rebuild.
const FLOW_PASSES_MAX: usize = 1;
/// Floor of the fine partition.
const FINE_FACTOR: u64 = 6;
/// Losses kept for when the coarse floor is needed. More would take longer to look at than a rebuild.
const PENDING_MAX: usize = 256;
/// Rounds of contraction for the coarse partition; for the fine one a single scan must do.
const COARSE_ROUNDS_MAX: usize = 24;
/// No floor is above this: no cut is, and so no sum overflows.
const FLOOR_MAX: u64 = 1 << 61;
/// The total of all capacities, in units, when the units are chosen; it may grow to [`FLOOR_MAX`] before they are chosen
/// anew.
const TOTAL_BITS: i32 = 56;
/// A minimum below this, in units, makes one look whether finer units can be had: a crossing edge may be off by half a
/// unit.
const WORTH_MIN: u64 = 1 << 32;
/// Arcs looked at to show that two nodes hold together.
const ARCS_LOOKED_AT_MAX: usize = 512;

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
/// The cut is exact after every change, at a resolution of 2⁻⁵⁶ of the total capacity (chosen when the graph is made, and
/// again when the capacities have outgrown it). Which of several minimum cuts is named may depend on the changes made before;
/// the same changes give the same cut. Memory, with a copy of the edge list:
/// 50 to 97 bytes an edge as measured, most where no part of the graph holds together much better than the whole.
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
    fine: Partition,
    /// The classes of the coarse partition, with sorted rows.
    quotient: Csr,
    scratch: Scratch,
    flow: Flow,
    /// Arcs that flows may still look at before the next query.
    flow_arcs: usize,
    /// Losses `(u, v, units)` that the coarse floor does not know of yet: cuts below it that split a class separate one
    /// of these pairs.
    pending: Vec<(u32, u32, u64)>,
    /// What the coarse floor is at least, whatever the pending losses did.
    sure: u64,
    /// The coarse floor exceeds the minimum by so many of its [`MARGIN_PARTS`].
    margin: u64,
    /// The minimum when the fine partition was last made and held little together; 0 when it was not so.
    fine_useless_at: u64,
}

/// No cut below the floor separates two nodes of a class.
#[derive(Debug, Default)]
struct Partition {
    class: Vec<u32>,
    floor: u64,
    /// The class with most nodes. (The fine partition only.)
    largest: u32,
    /// Nodes that are a class of their own. (The coarse partition only.)
    single: Vec<bool>,
}

impl Partition {
    fn together(&self, u: u32, v: u32) -> bool {
        self.floor > 0 && self.class[u as usize] == self.class[v as usize]
    }

    /// The edge `(u, v)` has lost `loss`, and all cuts between its ends are still worth `held`.
    fn sink(&mut self, loss: u64, held: u64) {
        self.floor = sunk(self.floor, loss, held);
    }

    /// Number of nodes of every class.
    fn count(&self, counts: &mut Vec<u32>) {
        counts.clear();
        counts.resize(self.class.len(), 0);
        for &class in &self.class {
            counts[class as usize] += 1;
        }
    }

    fn find_single(&mut self, counts: &mut Vec<u32>) {
        self.count(counts);
        self.single.clear();
        self.single.extend(self.class.iter().map(|&class| counts[class as usize] == 1));
    }

    /// Finds the largest class and returns its number of nodes.
    fn find_largest(&mut self, counts: &mut Vec<u32>) -> usize {
        self.count(counts);
        let largest = (0u32..).zip(counts.iter().copied()).max_by_key(|&(_, count)| count);
        self.largest = largest.map_or(0, |(class, _)| class);
        largest.map_or(0, |(_, count)| count as usize)
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
            fine: Partition::default(),
            quotient: Csr::default(),
            scratch: Scratch::new(),
            flow: Flow::default(),
            flow_arcs: 0,
            pending: Vec::new(),
            sure: 0,
            margin: MARGIN_PARTS,
            fine_useless_at: 0,
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
    /// [`GraphError`] when there is no such edge or the capacity is refused; nothing has changed then.
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
        if u != v && (self.total - old).saturating_add(new) >= FLOOR_MAX {
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
        if self.coarse.floor > 0 && self.fine.floor <= self.coarse.floor && !self.fine_is_useless() {
            self.refine(interrupt)?;
        }
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

    fn gain(&mut self, u: u32, v: u32, units: u64) {
        self.change(u, v, |weight| weight + units);
        if self.crosses(u, v) {
            self.set_worth(self.worth() + units);
            self.exact = false;
        }
    }

    fn lose(&mut self, u: u32, v: u32, units: u64) {
        self.change(u, v, |weight| weight - units);
        let crosses = self.crosses(u, v);
        // A bound on all cuts between the two.
        let mut held = self.held(u, v, units);
        // Whether the minimum moved must be known now.
        if !crosses && held < self.worth() && self.flow_arcs > 0 && self.cut.is_some() {
            let bound = self.worth();
            let (found, _) = self.flow.run(&mut self.graph, (u, v), bound, &mut self.flow_arcs, |_| false);
            held = held.max(found.value());
            if let Held::Exactly(units) = found {
                // The smallest of the cuts that lost: if the old one was the minimum, this now is.
                let mut side = vec![false; self.nodes];
                for &node in self.flow.side() {
                    side[node as usize] = true;
                }
                self.cut = Some(Cut::new(self.scale.capacity(units), units, side));
            }
        }
        // Whether the floor sinks, only when it is needed.
        if !crosses && held < self.coarse.floor {
            self.pending.push((u, v, units));
            if self.pending.len() > PENDING_MAX {
                self.pending.clear();
                self.coarse.floor = 0;
            }
        } else {
            self.coarse.sink(units, held);
        }
        self.sure = sunk(self.sure, units, held).min(self.coarse.floor);
        self.fine.sink(units, held);
        if crosses {
            // No cut lost more, so a minimum stays one.
            self.set_worth(self.worth() - units);
        } else if held < self.worth() {
            self.exact = false;
        }
    }

    /// Finds out how far the coarse floor has sunk with the losses since it was last needed.
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

    /// Writes a new weight to both graphs.
    fn change(&mut self, u: u32, v: u32, weight: impl Fn(u64) -> u64) {
        self.graph.change(u, v, &weight);
        if self.coarse.floor > 0 {
            let (a, b) = (self.coarse.class[u as usize], self.coarse.class[v as usize]);
            if a != b {
                self.quotient.change(a, b, &weight);
            }
        }
    }

    /// A lower bound on the value of every cut between `u` and `v`, whose edge has just lost `loss`.
    fn held(&self, u: u32, v: u32, loss: u64) -> u64 {
        let coarse = if self.coarse.together(u, v) { self.sure.saturating_sub(loss) } else { 0 };
        let floor = self.fine.floor.saturating_sub(loss);
        if floor == 0 {
            return coarse;
        }
        if self.fine.together(u, v) {
            return coarse.max(floor);
        }
        let class = &self.fine.class;
        let (into_v, u_into_largest) = self.into(u, class[v as usize]);
        let (into_u, v_into_largest) = self.into(v, class[u as usize]);
        coarse.max(floor.min(into_v.max(into_u).max(u_into_largest.min(v_into_largest))))
    }

    /// Capacity from a node into a class and into the largest class, or less; unlimited from its own.
    fn into(&self, node: u32, wanted: u32) -> (u64, u64) {
        let class = &self.fine.class;
        let largest = self.fine.largest;
        let (mut to_wanted, mut to_largest) = (0, 0);
        for (target, weight) in self.graph.row(node as usize).take(ARCS_LOOKED_AT_MAX) {
            let other = class[target as usize];
            to_wanted += if other == wanted { weight } else { 0 };
            to_largest += if other == largest { weight } else { 0 };
        }
        (to_wanted, if class[node as usize] == largest { u64::MAX } else { to_largest })
    }

    /// Reads all capacities anew; nothing is known afterwards but the old side.
    fn load(&mut self, scale: Scale) {
        self.scale = scale;
        self.graph = Csr::from_edges(self.nodes, &self.edges, |capacity| Some(scale.units(capacity)));
        self.graph.sort_rows();
        self.total = self.edges.iter().filter(|(u, v, _)| u != v).map(|edge| scale.units(edge.2)).sum();
        self.pending.clear();
        self.coarse.floor = 0;
        self.fine.floor = 0;
        self.exact = false;
        if let Some(cut) = &self.cut {
            let crossing =
                self.edges.iter().filter(|(u, v, _)| cut.side[*u as usize] != cut.side[*v as usize]);
            let units = crossing.map(|edge| scale.units(edge.2)).sum();
            self.set_worth(units);
        }
    }

    /// Looks for the minimum in the quotient. It is there if it is below the coarse floor.
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

    /// Makes the coarse partition anew, and the cut exact.
    fn rebuild(&mut self, interrupt: &mut dyn FnMut() -> bool) -> Result<(), Interrupted> {
        if let Some((node, units)) = self.graph.lightest()
            && units < self.worth()
        {
            let side = (0..self.nodes).map(|other| other == node).collect();
            self.cut = Some(Cut::new(self.scale.capacity(units), units, side));
        }
        // While it is being made there is no partition.
        self.pending.clear();
        self.coarse.floor = 0;
        self.fine.floor = 0;
        if self.worth() == 0 {
            self.exact = true;
            return Ok(());
        }
        let part = self.worth() / MARGIN_PARTS + 1;
        let bounds = (self.worth(), self.worth().saturating_add(part * self.margin).min(FLOOR_MAX));
        let Self { graph, scratch, coarse, quotient, .. } = self;
        let floor =
            certify(graph, bounds, COARSE_ROUNDS_MAX, scratch, &mut coarse.class, Some(quotient), interrupt)?;
        quotient.sort_rows();
        self.margin = (2 * (floor - bounds.0) / part).clamp(1, MARGIN_PARTS);
        self.coarse.find_single(self.scratch.counts());
        self.coarse.floor = floor;
        self.sure = floor;
        self.solve_quotient(interrupt)
    }

    /// Makes the fine partition anew.
    fn refine(&mut self, interrupt: &mut dyn FnMut() -> bool) -> Result<(), Interrupted> {
        let floor = self.worth().saturating_mul(FINE_FACTOR).min(FLOOR_MAX);
        self.fine.floor = 0;
        if floor <= self.coarse.floor {
            return Ok(());
        }
        certify(&self.graph, (floor, floor), 1, &mut self.scratch, &mut self.fine.class, None, interrupt)?;
        let largest = self.fine.find_largest(self.scratch.counts());
        self.fine.floor = floor;
        self.fine_useless_at = if 2 * largest < self.nodes { self.worth() } else { 0 };
        Ok(())
    }

    /// The fine partition held little together when it was last made, and the minimum has not sunk much since.
    fn fine_is_useless(&self) -> bool {
        self.worth() > self.fine_useless_at / 2 && self.fine_useless_at > 0
    }
}
