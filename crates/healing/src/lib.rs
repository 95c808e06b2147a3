//! The pure core of the healer.
//!
//! ```text
//! Snapshot -> graph -> integrity (λ, witness, components) -> state -> classify -> remedies -> engine::decide
//!          -> plan -> (the executor) -> verdict -> verification -> history
//! ```
//!
//! Nothing here reads a clock, a file, a server or a random source: the time is an argument (`now`, milliseconds
//! since the Unix epoch), randomness is a seed, and a decision is returned as data. The PostgreSQL extension and
//! the simulator run the same code.
//!
//! What this crate never does: it holds no user vectors beyond a call, renders no SQL, and keeps no state between
//! calls.

pub mod audit;
pub mod build_memory;
pub mod classify;
pub mod clean_size;
pub mod command;
pub mod condition;
pub mod config;
mod dose;
pub mod engine;
pub mod explain;
#[cfg(test)]
mod fixtures;
pub mod graph;
pub mod health;
pub mod hnsw;
pub mod integrity;
pub mod ivf;
pub mod kmeans;
mod lag;
pub mod learning;
pub mod lease;
pub mod leftover;
pub mod lifecycle;
pub mod limits;
pub mod load;
pub mod moves;
pub mod params;
pub mod placement;
pub mod plan;
pub mod recovery;
pub mod remedies;
pub mod replay;
pub mod rollback;
pub mod scaling;
pub mod snapshot;
pub mod throttle;
pub mod verdict;
pub mod verification;
pub mod window;
