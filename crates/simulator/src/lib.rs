//! The healer's pure core (crate `healing`) in a virtual world, driven through faults and held to its promises.
//!
//! ```text
//! Scenario (from a seed, or a file) ─> World ─ readings ─> healer ─ the core ─> worker ─ steps ─> World
//!                                        ^                                                          │
//!                                   hazards strike                         checks look at every tick and effect
//! ```
//!
//! What is of the core is the core: nothing here assesses, decides, plans, compares, verifies or recovers. What the
//! extension does around it (collect, journal, execute, supervise) is done here again on a virtual server, in the same
//! order, so that a crash, a failure or a human may come between any two operations.
//!
//! Reading order: [`scenario`], [`simulation`], [`healer`], [`worker`], [`steps`], [`checks`]; a fault or disturbance is
//! one file of [`hazards`].

pub mod audit;
pub mod baselines;
pub mod checks;
pub mod coverage;
pub mod curable;
pub mod defects;
pub mod hazards;
pub mod healer;
pub mod learning;
pub mod random;
pub mod regression;
pub mod report;
pub mod scenario;
pub mod shrink;
pub mod simulation;
pub mod stage;
pub mod steps;
pub mod store;
pub mod two_phase;
pub mod worker;
pub mod world;
