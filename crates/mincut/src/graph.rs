//! The compressed graph and its fixed-point capacities.

use crate::csr::Csr;
use crate::hub::root;
use std::fmt;

#[cfg(test)]
#[path = "tests/graph.rs"]
mod tests;

/// The sum of all capacities, in units, stays below `2^TOTAL_BITS_MAX` (before rounding each edge to a unit), so no
/// sum of capacities in the crate can overflow a `u64`.
const TOTAL_BITS_MAX: i32 = 60;

/// Above this ratio of the heaviest (clamped) edge to the lightest, the resolution is worth a closer bound on the
/// minimum cut.
const SPREAD_MAX: f64 = 4096.0;

/// Arcs (two an edge) and nodes together are counted in a `u32`.
const NODES_MAX: usize = 1 << 30;
const EDGES_MAX: usize = 1 << 30;

/// An undirected graph with capacities, compressed (CSR) and immutable.
///
/// Capacities are held as whole *units* of [`Graph::resolution`]: a power of two chosen once from the input so that
/// the sum of all capacities is between 2⁵⁹ and 2⁶⁰, then multiplied by the capacities' common divisor. Every comparison the solver makes is then exact integer
/// arithmetic, and the same input gives the same cut on every machine. The rounding happens here and nowhere else:
/// a capacity is off by at most half a unit, that is 2⁻⁶⁰ of the graph's total; whole numbers whose sum is below
/// 2⁶⁰ are exact, and so are floating-point numbers of similar size. A positive capacity is at least one unit: a
/// connected graph never reads as one that has fallen apart.
///
/// Capacities far above any possible minimum cut (an idiom for "never cut here") would spoil the resolution of the
/// others. They are therefore clamped to a power of two at least twice an upper bound on the minimum cut (the smallest
/// weighted degree; where the capacities differ widely, also the cut at the lightest edge of a maximum spanning tree).
///
/// Memory: 24 bytes an edge and 12 bytes a node.
#[derive(Debug, Clone)]
pub struct Graph {
    pub(crate) csr: Csr,
    /// What one unit is worth.
    resolution: f64,
}

/// Why an edge list is no graph.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum GraphError {
    /// A capacity is infinite or not a number.
    NonFinite {
        /// Index of the edge in the caller's list.
        edge: usize,
    },
    /// A capacity is below zero.
    Negative {
        /// Index of the edge in the caller's list.
        edge: usize,
        /// The capacity found.
        capacity: f64,
    },
    /// An edge names a node that the graph does not have.
    NodeOutOfRange {
        /// Index of the edge in the caller's list.
        edge: usize,
        /// The node named.
        node: u32,
        /// Number of nodes of the graph.
        nodes: usize,
    },
    /// A change names an edge that the graph does not have.
    EdgeOutOfRange {
        /// The edge named.
        edge: usize,
        /// Number of edges of the graph.
        edges: usize,
    },
    /// The capacities' sum is beyond the range of the numbers they are kept in.
    CapacityOverflow,
    /// More than 2³⁰ nodes or 2³⁰ edges.
    TooLarge,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NonFinite { edge } => write!(f, "edge {edge}: the capacity is not a finite number"),
            Self::Negative { edge, capacity } => {
                write!(f, "edge {edge}: the capacity {capacity} is negative")
            }
            Self::NodeOutOfRange { edge, node, nodes } => {
                write!(f, "edge {edge}: node {node} does not exist in a graph of {nodes} nodes")
            }
            Self::EdgeOutOfRange { edge, edges } => {
                write!(f, "edge {edge} does not exist in a graph of {edges} edges")
            }
            Self::CapacityOverflow => write!(f, "the sum of the capacities is out of range"),
            Self::TooLarge => write!(f, "more than 2^30 nodes or 2^30 edges"),
        }
    }
}

impl std::error::Error for GraphError {}

impl Graph {
    /// Builds the graph of `nodes` nodes, numbered from 0, from its edges `(u, v, capacity)`.
    ///
    /// Parallel edges are summed; loops and edges of capacity zero are dropped.
    ///
    /// # Errors
    /// [`GraphError`] names the first edge that is refused.
    pub fn from_edges(nodes: usize, edges: &[(u32, u32, f64)]) -> Result<Self, GraphError> {
        let scale = scale_for(nodes, edges, TOTAL_BITS_MAX)?;
        let units = |capacity: f64| if capacity > 0.0 { Some(scale.units(capacity)) } else { None };
        let mut csr = Csr::from_edges(nodes, edges, units);
        let divisor = csr.divide_by_common_divisor();
        csr.sum_degrees();
        // Nearest double: the divisor may have more than 53 bits.
        Ok(Self { csr, resolution: divisor as f64 * power_of_two(-scale.exponent) })
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.csr.nodes()
    }

    /// Number of edges that are kept: parallel ones summed, loops and zeros dropped.
    pub fn edges(&self) -> usize {
        self.csr.arcs() / 2
    }

    /// What one unit is worth: capacities are whole multiples of it.
    pub fn resolution(&self) -> f64 {
        self.resolution
    }

    /// Converts units to the caller's measure.
    pub(crate) fn capacity(&self, units: u64) -> f64 {
        units as f64 * self.resolution
    }
}

/// How capacities become units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    exponent: i32,
    /// Capacities above this are clamped to it.
    clamp: f64,
}

impl Scale {
    /// Whole units of a capacity; none of a positive capacity would be lost to rounding.
    pub(crate) fn units(self, capacity: f64) -> u64 {
        if capacity > 0.0 { self.scaled(capacity.min(self.clamp)).max(1) } else { 0 }
    }

    /// Capacities from this on may have been clamped.
    pub(crate) fn clamped_units(self) -> u64 {
        self.scaled(self.clamp)
    }

    pub(crate) fn capacity(self, units: u64) -> f64 {
        units as f64 * power_of_two(-self.exponent)
    }

    fn scaled(self, capacity: f64) -> u64 {
        // Without a fraction after `round`, and not negative; what is beyond a `u64` becomes its maximum.
        (capacity * power_of_two(self.exponent)).round() as u64
    }
}

/// Checks every edge and chooses the resolution: the capacities sum to less than `2^total_bits` units.
pub(crate) fn scale_for(
    nodes: usize,
    edges: &[(u32, u32, f64)],
    total_bits: i32,
) -> Result<Scale, GraphError> {
    if nodes > NODES_MAX || edges.len() > EDGES_MAX {
        return Err(GraphError::TooLarge);
    }
    let mut degrees = vec![0f64; nodes];
    for (edge, &(u, v, capacity)) in edges.iter().enumerate() {
        if !capacity.is_finite() {
            return Err(GraphError::NonFinite { edge });
        }
        if capacity < 0.0 {
            return Err(GraphError::Negative { edge, capacity });
        }
        for node in [u, v] {
            if node as usize >= nodes {
                return Err(GraphError::NodeOutOfRange { edge, node, nodes });
            }
        }
        if u != v {
            degrees[u as usize] += capacity;
            degrees[v as usize] += capacity;
        }
    }
    let mut clamp = clamp_above(degrees.into_iter().fold(f64::INFINITY, f64::min));
    let total =
        |clamp: f64| -> f64 { edges.iter().filter(|(u, v, _)| u != v).map(|&(_, _, c)| c.min(clamp)).sum() };
    let least = edges
        .iter()
        .filter(|(u, v, c)| u != v && *c > 0.0)
        .fold(f64::INFINITY, |least, edge| least.min(edge.2));
    // Sorting the edges costs more than the rest of the construction; only such a spread needs it.
    let most = edges.iter().filter(|(u, v, _)| u != v).fold(0.0f64, |most, edge| most.max(edge.2.min(clamp)));
    if least < f64::INFINITY && most / SPREAD_MAX > least {
        clamp = clamp.min(clamp_above(bottleneck_cut(nodes, edges)));
    }
    let total = total(clamp);
    if !total.is_finite() {
        return Err(GraphError::CapacityOverflow);
    }
    let exponent = if total > 0.0 { total_bits - exponent_above(total) } else { 0 };
    // Beyond these a power of two is no normal number; capacities so small are rounded to the unit 2^-1000.
    Ok(Scale { exponent: exponent.clamp(-1000, 1000), clamp })
}

/// Twice a bound on the minimum cut, rounded up to a power of two: above the bound even after the rounding of the sums
/// it comes from. A graph without a positive bound keeps its capacities, as does one for which no number is so large.
fn clamp_above(bound: f64) -> f64 {
    let twice = 2.0 * bound;
    if bound > 0.0 && twice < power_of_two(1023) { power_of_two(exponent_above(twice)) } else { f64::MAX }
}

/// The value of the cut that the lightest edge of a maximum spanning forest makes. All edges across it are at most
/// that light, and every cut has one at least as heavy: the value is above the minimum by at most the number of edges.
/// There must be a node.
fn bottleneck_cut(nodes: usize, edges: &[(u32, u32, f64)]) -> f64 {
    let mut by_capacity: Vec<u32> = (0..edges.len() as u32).collect();
    by_capacity.sort_by(|&a, &b| edges[b as usize].2.total_cmp(&edges[a as usize].2));
    let mut parent: Vec<u32> = (0..nodes as u32).collect();
    let mut components = nodes;
    for &edge in &by_capacity {
        let (u, v, _) = edges[edge as usize];
        let (u, v) = (root(&mut parent, u), root(&mut parent, v));
        if u != v {
            if components == 2 {
                break;
            }
            components -= 1;
            parent[u as usize] = v;
        }
    }
    // Two components are left, or more if the graph is not connected: then the cut is worth nothing.
    let side = root(&mut parent, 0);
    edges
        .iter()
        .filter(|&&(u, v, _)| (root(&mut parent, u) == side) != (root(&mut parent, v) == side))
        .map(|edge| edge.2)
        .sum()
}

/// The least `e` with `x < 2^e`, for a positive normal `x`; for a subnormal one an `e` that is not too small.
fn exponent_above(x: f64) -> i32 {
    let biased = ((x.to_bits() >> 52) & 0x7ff) as i32;
    biased - 1022
}

/// `2^e` for `e` in −1022..=1023.
fn power_of_two(e: i32) -> f64 {
    f64::from_bits(((e.clamp(-1022, 1023) + 1023) as u64) << 52)
}
