//! The pure core of the healer.
