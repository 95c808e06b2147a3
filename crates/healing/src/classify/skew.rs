//! Lists of an ivfflat index that do not fit its rows, or of which too few are searched.

use super::{ProblemClass, find_index, structure};
use crate::config::Config;
use crate::graph::{Cause, EdgeKind, NodeKey};
use crate::integrity::{Component, WitnessEdge};
use crate::snapshot::{Index, Snapshot};

/// The spec's pattern: more centroid nodes than this are a skew.
const CENTROID_NODES_OVER: usize = 5;

/// More than five centroid nodes in the witness, or all that the index has.
pub(super) fn fits(component: &Component, snapshot: &Snapshot) -> bool {
    let mut centroids: Vec<&NodeKey> = component
        .witness
        .iter()
        .flat_map(|edge| [&edge.from, &edge.to])
        .filter(|key| matches!(key, NodeKey::Centroid { .. }))
        .collect();
    centroids.sort();
    centroids.dedup();
    let index = component.nodes.iter().find_map(|key| match key {
        NodeKey::Centroid { .. } => find_index(snapshot, key),
        _ => None,
    });
    let groups = index.and_then(|index| index.ivf.known()).map_or(1, |ivf| ivf.groups.len());
    centroids.len() > CENTROID_NODES_OVER
        || index.is_some() && groups <= CENTROID_NODES_OVER && !centroids.is_empty()
}

pub(super) fn class(
    component: &Component,
    worst: &WitnessEdge,
    snapshot: &Snapshot,
    config: &Config,
) -> Option<ProblemClass> {
    if !matches!(worst.kind, EdgeKind::RoutingLink | EdgeKind::CentroidLink) {
        return None;
    }
    let index = [&worst.to, &worst.from].into_iter().find_map(|key| find_index(snapshot, key))?;
    let groups: Vec<u32> = component
        .nodes
        .iter()
        .filter_map(|key| match key {
            NodeKey::Centroid { group, .. } => Some(*group),
            _ => None,
        })
        .collect();
    Some(centroid_skew_of(index, worst.condition.cause?, &groups, config))
}

/// The class for an ivfflat index; an empty list of groups stands for all.
pub(crate) fn centroid_skew_of(index: &Index, cause: Cause, groups: &[u32], config: &Config) -> ProblemClass {
    let ivf = index.ivf.known();
    let mut centroid_ids: Vec<u32> = ivf
        .map(|ivf| {
            (0u32..)
                .zip(&ivf.groups)
                .filter(|(number, _)| groups.is_empty() || groups.contains(number))
                .flat_map(|(_, group)| group.lists.iter().copied())
                .collect()
        })
        .unwrap_or_default();
    centroid_ids.sort_unstable();
    ProblemClass::CentroidSkew {
        index_id: index.oid,
        index: index.name.clone(),
        centroid_ids,
        skew_factor: ivf.map(|ivf| ivf.skew_factor),
        skew_noise: ivf.map(|ivf| ivf.skew_noise),
        distance_ratio: ivf.and_then(|ivf| ivf.distance_ratio.known().copied()),
        work_ratio: ivf.and_then(|ivf| ivf.work_ratio.known().copied()),
        recall: index.recall.known().map(|point| point.recall),
        objective: config.recall_objective,
        cause,
        structure: structure(index, config),
    }
}
