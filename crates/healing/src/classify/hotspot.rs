//! Partitions, or a server's partitions together, that take far more load than the others.

use super::{ProblemClass, count};
use crate::config::Config;
use crate::graph::{Cause, EdgeKind, NodeKey};
use crate::health::LOAD_RATIO;
use crate::integrity::{Component, WitnessEdge};
use crate::load;
use crate::snapshot::{Oid, Partition, Snapshot};

/// The spec's pattern: more partition links than this are a hotspot.
const PARTITION_LINKS_OVER: usize = 3;

/// More than three partition links in the witness, or all that a partition of so few can have; or a server that hangs
/// on by the routing links of all its partitions while another server has partitions too.
pub(super) fn fits(component: &Component, snapshot: &Snapshot) -> bool {
    let links = count(component, EdgeKind::PartitionLink);
    let weak = partitions(component, snapshot);
    let Some(server) = weak.first().map(|partition| &partition.server) else { return false };
    let members = snapshot.partitions.iter().filter(|partition| partition.server == *server).count();
    // With P partitions each has P − 1 links at most.
    let small = members <= PARTITION_LINKS_OVER + 1;
    let whole_server = weak.len() == members && members < snapshot.partitions.len();
    links > PARTITION_LINKS_OVER || small && links > 0 || whole_server
}

pub(super) fn class(
    component: &Component,
    worst: &WitnessEdge,
    snapshot: &Snapshot,
    config: &Config,
) -> Option<ProblemClass> {
    let mut hot = partitions(component, snapshot);
    let ratios = load::ratios(snapshot, config);
    let ratio = |partition: &Partition| ratios.get(&partition.oid)?.as_ref().ok().copied();
    let load_ratio = if worst.condition.cause == Some(Cause::Load) {
        hot.iter().filter_map(|partition| ratio(partition)).reduce(f64::max)
    } else {
        // The limits of a server are near: its partitions are hot only if they have more to do than others.
        let oids: Vec<Oid> = hot.iter().map(|partition| partition.oid).collect();
        load::group_ratio(snapshot, &oids, config).filter(|ratio| *ratio >= LOAD_RATIO.threshold)
    }?;
    hot.sort_by(|a, b| ratio(b).unwrap_or(0.0).total_cmp(&ratio(a).unwrap_or(0.0)).then(a.oid.cmp(&b.oid)));
    Some(ProblemClass::HotspotCongestion {
        partition_ids: hot.iter().map(|partition| partition.oid).collect(),
        partitions: hot.iter().map(|partition| partition.name.clone()).collect(),
        load_ratio,
    })
}

/// The partitions on the weak side.
fn partitions<'a>(component: &Component, snapshot: &'a Snapshot) -> Vec<&'a Partition> {
    let is_weak = |oid| component.nodes.contains(&NodeKey::Partition { oid });
    snapshot.partitions.iter().filter(|partition| is_weak(partition.oid)).collect()
}
