//! Exact global minimum cut of a weighted undirected graph, with the edges that witness it.
//!
//! ```
//! use lambda_cut::Graph;
//!
//! // Two triangles joined by one weak edge.
//! let edges =
//!     [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0), (3, 4, 1.0), (4, 5, 1.0), (5, 3, 1.0), (2, 3, 0.25)];
//! let cut = Graph::from_edges(6, &edges)?.minimum_cut().expect("six nodes");
//! assert_eq!(cut.value, 0.25);
//! assert_eq!(cut.side, [false, false, false, true, true, true]);
//! assert_eq!(cut.witness(&edges), [6]);
//! # Ok::<(), lambda_cut::GraphError>(())
//! ```
// Not `forbid`, for one hint to the processor: src/prefetch.rs.
#![deny(unsafe_code)]

mod certificate;
mod contract;
mod csr;
mod cut;
mod dense;
mod dynamic;
mod exact;
mod flow;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod graph;
mod grow;
mod hub;
mod prefetch;
mod queue;
mod rank;
mod regroup;
mod scan;
mod solve;
#[cfg(test)]
mod tests;
mod trail;

pub use cut::Cut;
pub use dynamic::DynamicCut;
pub use graph::{Graph, GraphError};
pub use solve::{Interrupted, Scratch};
