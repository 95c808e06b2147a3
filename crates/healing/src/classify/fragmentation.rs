//! Indexes that are invalid, larger than their rows need, full of dead entries, or (hnsw) find too little.

use super::{ProblemClass, Structure, count, find_index, structure};
use crate::config::Config;
use crate::graph::{Cause, EdgeKind, fragmentation_pct};
use crate::integrity::{Component, WitnessEdge};
use crate::snapshot::{Index, Snapshot};

/// An index link in the witness.
pub(super) fn fits(component: &Component, _snapshot: &Snapshot) -> bool {
    count(component, EdgeKind::IndexLink) > 0
}

pub(super) fn class(
    _component: &Component,
    worst: &WitnessEdge,
    snapshot: &Snapshot,
    config: &Config,
) -> Option<ProblemClass> {
    if worst.kind != EdgeKind::IndexLink {
        return None;
    }
    let index = [&worst.to, &worst.from].into_iter().find_map(|key| find_index(snapshot, key))?;
    Some(index_fragmentation_of(&[index], worst.condition.cause?, config))
}

/// The class for these indexes, the worst first.
pub(crate) fn index_fragmentation_of(indexes: &[&Index], cause: Cause, config: &Config) -> ProblemClass {
    let worst = indexes.first();
    ProblemClass::IndexFragmentation {
        index_ids: indexes.iter().map(|index| index.oid).collect(),
        indexes: indexes.iter().map(|index| index.name.clone()).collect(),
        fragmentation_pct: match (cause, worst) {
            (Cause::Invalid, _) => 100.0,
            (_, Some(index)) => fragmentation_pct(index).unwrap_or(0.0),
            (_, None) => 0.0,
        },
        cause,
        recall: worst.and_then(|index| index.recall.known()).map(|point| point.recall),
        objective: config.recall_objective,
        structure: worst.map_or(Structure::Unknown, |index| structure(index, config)),
    }
}
