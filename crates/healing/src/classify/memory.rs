//! Memory that runs out.

use super::ProblemClass;
use crate::config::Config;
use crate::graph::{Cause, NodeKey};
use crate::integrity::{Component, WitnessEdge};
use crate::snapshot::{Reading, Snapshot};

/// The link to memory in the witness.
pub(super) fn fits(component: &Component, _snapshot: &Snapshot) -> bool {
    component.nodes.contains(&NodeKey::Memory)
}

pub(super) fn class(
    _component: &Component,
    worst: &WitnessEdge,
    snapshot: &Snapshot,
    _config: &Config,
) -> Option<ProblemClass> {
    let Some(Reading::Known(memory)) = &snapshot.memory else { return None };
    (worst.condition.cause == Some(Cause::Memory)).then(|| ProblemClass::MemoryPressure {
        current_usage_pct: memory.used_pct,
        largest_consumers: memory.consumers.clone(),
    })
}
