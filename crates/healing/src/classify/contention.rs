//! Maintenance that waits: for a lock, for a worker, or for somebody's old snapshot.

use super::{ProblemClass, count};
use crate::config::Config;
use crate::graph::{Cause, EdgeKind, NodeKey};
use crate::integrity::{Component, WitnessEdge};
use crate::snapshot::{Reading, Snapshot};

/// The spec's pattern: more dependency edges than this are contention.
const DEPENDENCIES_OVER: usize = 2;

/// More than two dependency edges in the witness, or the link to the workers of autovacuum.
pub(super) fn fits(component: &Component, _snapshot: &Snapshot) -> bool {
    count(component, EdgeKind::Dependency) > DEPENDENCIES_OVER || component.nodes.contains(&NodeKey::Slots)
}

pub(super) fn class(
    component: &Component,
    worst: &WitnessEdge,
    snapshot: &Snapshot,
    _config: &Config,
) -> Option<ProblemClass> {
    let jobs = match &snapshot.jobs {
        Some(Reading::Known(jobs)) => jobs.as_slice(),
        _ => &[],
    };
    // What is in the way comes first, then all else that waits.
    let own = match worst.condition.cause? {
        Cause::Blocked => None,
        Cause::Horizon => Some("cleanup of dead rows".to_owned()),
        Cause::Slots => Some("autovacuum".to_owned()),
        _ => return None,
    };
    let is_weak = |id: &str| component.nodes.contains(&NodeKey::Job { id: id.to_owned() });
    let weak = jobs.iter().filter(|job| is_weak(&job.id));
    let waiting = jobs.iter().filter(|job| job.waits_s.is_some());
    let mut job_types: Vec<String> = Vec::new();
    for kind in own.into_iter().chain(weak.chain(waiting.clone()).map(|job| job.kind.clone())) {
        if !job_types.contains(&kind) {
            job_types.push(kind);
        }
    }
    let unserved = match &snapshot.slots {
        Some(Reading::Known(slots)) if slots.busy >= slots.total => slots.waiting,
        _ => 0,
    };
    let queue_depth = waiting.count() as u32 + unserved;
    Some(ProblemClass::MaintenanceContention { job_types, queue_depth })
}
