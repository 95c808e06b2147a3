//! A replica that is behind, or gone.

use super::{ProblemClass, count};
use crate::config::Config;
use crate::graph::{EdgeKind, NodeKey};
use crate::integrity::{Component, WitnessEdge};
use crate::snapshot::{Reading, Replica, Snapshot};

/// A replication edge in the witness.
pub(super) fn fits(component: &Component, _snapshot: &Snapshot) -> bool {
    count(component, EdgeKind::Replication) > 0
}

pub(super) fn class(
    component: &Component,
    worst: &WitnessEdge,
    snapshot: &Snapshot,
    _config: &Config,
) -> Option<ProblemClass> {
    if worst.kind != EdgeKind::Replication {
        return None;
    }
    let Some(Reading::Known(replicas)) = &snapshot.replicas else { return None };
    let is_weak = |id| component.nodes.contains(&NodeKey::Replica { id });
    let weak: Vec<&Replica> = replicas.iter().filter(|replica| is_weak(replica.id)).collect();
    // One that is gone has replayed nothing since.
    let lag = |replica: &Replica| replica.gone_s.or_else(|| replica.lag_seconds.known().copied());
    Some(ProblemClass::ReplicationLag {
        replica_ids: weak.iter().map(|replica| replica.id).collect(),
        replicas: weak.iter().map(|replica| replica.name.clone()).collect(),
        lag_seconds: weak.iter().filter_map(|replica| lag(replica)).reduce(f64::max),
    })
}
