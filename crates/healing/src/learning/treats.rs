//! Which problem classes a remedy treats: asked of the remedy itself with a problem of each kind.

use crate::classify::{CLASS_NAMES, Problem, ProblemClass, Structure};
use crate::graph::Cause;
use crate::integrity::Component;
use crate::remedies::Remedy;

const CAUSES: [Cause; 6] =
    [Cause::Invalid, Cause::Bloat, Cause::Dead, Cause::Recall, Cause::Skew, Cause::Drift];
const STRUCTURES: [Structure; 3] = [Structure::Good, Structure::Bad, Structure::Unknown];

/// Class names of the problems that a remedy treats in some form, in the spec's order.
pub fn treats(remedy: &dyn Remedy) -> Vec<&'static str> {
    let mut classes = vec![
        ProblemClass::HotspotCongestion {
            partition_ids: vec![1],
            partitions: vec!["a".to_owned()],
            load_ratio: 9.0,
        },
        ProblemClass::ReplicationLag {
            replica_ids: vec![1],
            replicas: vec!["a".to_owned()],
            lag_seconds: Some(99.0),
        },
        ProblemClass::MaintenanceContention { job_types: vec!["autovacuum".to_owned()], queue_depth: 9 },
        ProblemClass::MemoryPressure { current_usage_pct: 99.0, largest_consumers: vec![] },
        ProblemClass::Unknown { witness_summary: String::new() },
    ];
    for cause in CAUSES {
        for structure in STRUCTURES {
            classes.push(ProblemClass::CentroidSkew {
                index_id: 1,
                index: "a".to_owned(),
                centroid_ids: vec![0],
                skew_factor: Some(9.0),
                skew_noise: Some(2.0),
                distance_ratio: Some(2.0),
                work_ratio: Some(9.0),
                recall: Some(0.1),
                objective: 0.95,
                cause,
                structure,
            });
            classes.push(ProblemClass::IndexFragmentation {
                index_ids: vec![1],
                indexes: vec!["a".to_owned()],
                fragmentation_pct: 99.0,
                cause,
                recall: Some(0.1),
                objective: 0.95,
                structure,
            });
        }
    }
    let component = Component { lambda: 0.1, nodes: vec![], witness: vec![] };
    let treated: Vec<&str> = classes
        .into_iter()
        .map(|class| Problem { class, component: component.clone(), evidence: vec![] })
        .filter(|problem| remedy.treats(problem))
        .map(|problem| problem.class.as_str())
        .collect();
    CLASS_NAMES.iter().copied().filter(|name| treated.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remedies::{ALL, find};

    #[test]
    fn every_remedy_treats_something_and_none_the_unknown() {
        for remedy in ALL {
            let classes = treats(*remedy);
            assert!(!classes.is_empty() && !classes.contains(&"Unknown"), "{}: {classes:?}", remedy.name());
        }
        assert_eq!(treats(find("rebuild_centroids").unwrap()), ["CentroidSkew"]);
        assert_eq!(treats(find("tune_search_effort").unwrap()), ["CentroidSkew", "IndexFragmentation"]);
    }
}
