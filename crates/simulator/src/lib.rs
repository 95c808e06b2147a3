//! The healer's pure core (crate `healing`) in a virtual world, driven through faults and held to its promises.

pub mod random;
