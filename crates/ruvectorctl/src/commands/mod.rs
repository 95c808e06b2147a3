//! One file a subcommand.

pub(crate) mod abort;
pub(crate) mod action;
pub(crate) mod approve;
pub(crate) mod discover;
pub(crate) mod doctor;
pub(crate) mod execute;
pub(crate) mod explain;
pub(crate) mod history;
pub(crate) mod man;
pub(crate) mod metrics;
pub(crate) mod replay;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod trigger;
pub(crate) mod watch;
#[cfg(feature = "workshop")]
pub(crate) mod workshop;
