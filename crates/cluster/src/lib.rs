//! Real PostgreSQL clusters for tests, the demo and the sandbox: started in about a second, and surely stopped.
//!
//! ```no_run
//! use cluster::{Cluster, Version};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder(Version::V18).preload(true).database("app").start()?;
//! let mut client = cluster.connect("app")?;
//! client.batch_execute("CREATE EXTENSION vector")?;
//! # Ok(())
//! # } // stopped and removed here, and also when this process is killed with SIGKILL
//! ```
//!
//! What may be relied on:
//! - A cluster of [`Builder::start`] leaves no process, no directory and no shared memory behind, however its owner
//!   ends: a watchdog process notices that end, see `src/watchdog.sh`.
//! - Nothing is signalled that is not a server process of the cluster itself.
//! - It works for root, too, whom PostgreSQL refuses: the server then runs as `nobody`.
//! - The PostgreSQL is the one that `toolchain/postgres18` or `toolchain/postgres15` has put below `build/`; the
//!   machine's own is never used.

mod account;
mod builder;
mod error;
mod installation;
mod lifecycle;
mod process;
mod repository;
mod wait;
mod watchdog;

pub mod application;
pub mod dataset;
pub mod faults;
pub mod measure;
pub mod writers;

pub use builder::Builder;
pub use error::ClusterError;
pub use installation::{Installation, Version};
pub use lifecycle::{Cluster, StopMode};
pub use process::Process;
pub use rustix::process::Signal;
pub use wait::{TimedOut, wait_for};
