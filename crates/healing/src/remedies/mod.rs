//! Remedies: what treats which problem, as pure plans. One file each, and one sorted list.

pub use self::pause_maintenance::must_go_on;
pub use crate::limits::{Limits, NotApplicable};
pub use crate::params::{ParamError, Parameter, Params};
pub use crate::verification::{Outcome, Verification, verify};

use crate::classify::{Problem, ProblemClass};
use crate::config::Config;
use crate::graph::{Cause, ContractedGraph, Held, NodeKey};
use crate::hnsw::{EF_CONSTRUCTION_DEFAULT, M_DEFAULT};
use crate::integrity::{Component, assess, component_lambda};
use crate::params::INDEXES;
use crate::plan::{BuildOptions, Criterion, IndexRef, Plan, Step};
use crate::snapshot::{Index, Method, Oid, Reading, Replacement, Snapshot};
pub(crate) use crate::verification::{comparisons_won, replaced, same_index};

mod compact_indexes;
mod drain_hot_partition;
mod evict_cold_data;
mod pause_maintenance;
mod rebalance_partitions;
mod rebuild_centroids;
mod repair_invalid_index;
mod scale_replicas;
mod throttle_ingestion;
mod tune_search_effort;

#[cfg(test)]
mod tests;

/// Every remedy, sorted by name.
pub const ALL: &[&dyn Remedy] = &[
    &compact_indexes::CompactIndexes,
    &drain_hot_partition::DrainHotPartition,
    &evict_cold_data::EvictColdData,
    &pause_maintenance::PauseMaintenance,
    &rebalance_partitions::RebalancePartitions,
    &rebuild_centroids::RebuildCentroids,
    &repair_invalid_index::RepairInvalidIndex,
    &scale_replicas::ScaleReplicas,
    &throttle_ingestion::ThrottleIngestion,
    &tune_search_effort::TuneSearchEffort,
];

/// The remedy of that name.
pub fn find(name: &str) -> Option<&'static dyn Remedy> {
    ALL.iter().copied().find(|remedy| remedy.name() == name)
}

/// Knows which problems it treats and plans for them. It changes nothing and asks nothing.
pub trait Remedy: Sync {
    /// Its name in settings, tables and metrics.
    fn name(&self) -> &'static str;

    /// Whether it is a treatment of this problem at all.
    fn treats(&self, problem: &Problem) -> bool;

    /// Its greatest disruption, 0–1; a plan may have less.
    fn impact(&self) -> f64;

    /// Whether its plans can be undone as a rule; a plan may differ and says so.
    fn reversible(&self) -> bool;

    /// Whether its plans load the server: then they wait for a quiet one and for a maintenance window. One that takes
    /// load away does not.
    fn adds_load(&self) -> bool {
        true
    }

    /// Parameters that a manual request may give beside the common ones.
    fn parameters(&self) -> &'static [Parameter] {
        &[INDEXES]
    }

    /// Whether it holds a problem in check without curing it: then its own predicate decides, and λ of the part must
    /// only be not worse. Nothing that is held back shows in λ within a window.
    fn preventive(&self) -> bool {
        false
    }

    /// Whether what its predicate judges by says anything by itself: it was read before and after, and there was something to hold in
    /// check. Asked of one that is preventive where λ is 0 both times: nothing can be worse than that.
    fn evident(&self, _outcome: &Outcome<'_>) -> bool {
        true
    }

    /// Seconds over which its effect is measured before it counts.
    fn window_s(&self, config: &Config) -> f64 {
        config.verify_window_seconds as f64
    }

    /// The plan for this problem.
    ///
    /// # Errors
    /// Why there is none.
    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable>;

    /// The problem that a manual request means when nothing that it treats is weak now.
    ///
    /// # Errors
    /// Why there is no target.
    fn manual_problem(
        &self,
        snapshot: &Snapshot,
        config: &Config,
        params: &Params,
    ) -> Result<Problem, NotApplicable>;

    /// Whether what it set out to do has come about, apart from λ.
    ///
    /// # Errors
    /// What is missing, in words.
    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String>;
}

/// Bytes of a clean index that one second of building makes on slow hardware: ivfflat, k-means included. Measured
/// builds are 5 to 50 times as fast; an estimate that is too long costs nothing, one that is too short a rollback.
const IVFFLAT_BYTES_PER_S: f64 = 1_048_576.0;
/// Rows that one second of building an hnsw index inserts on slow hardware, its graph being larger than memory.
const HNSW_ROWS_PER_S: f64 = 250.0;
/// Least estimate of a build: waits for old transactions and the comparison take time too, seconds.
const BUILD_FLOOR_S: f64 = 60.0;

/// Pessimistic seconds to build this index anew with these options, with the comparison.
pub(crate) fn build_s(index: &Index, options: BuildOptions) -> f64 {
    let bytes = index.clean_bytes.known().or(index.bytes.known()).copied().unwrap_or(0) as f64;
    let by_bytes = bytes / IVFFLAT_BYTES_PER_S;
    let by_rows = match index.method {
        Method::Hnsw => {
            let own = index.density;
            let m = options.m.or(own.map(|own| own.m)).unwrap_or(M_DEFAULT);
            let candidates = options
                .ef_construction
                .or(own.map(|own| own.ef_construction))
                .unwrap_or(EF_CONSTRUCTION_DEFAULT);
            // 8.8 s with (32, 256) for 3.1 s with (16, 64): see `hnsw`.
            let usual = f64::from(M_DEFAULT) * f64::from(EF_CONSTRUCTION_DEFAULT);
            let denser = (f64::from(m) * f64::from(candidates) / usual).sqrt().max(1.0);
            denser * index.rows.known().copied().unwrap_or(0.0) / HNSW_ROWS_PER_S
        }
        Method::Ivfflat => 0.0,
    };
    BUILD_FLOOR_S.max(by_bytes).max(by_rows)
}

/// Pessimistic seconds of all builds that replacing this index takes, with the comparison: two where a shadow is built
/// first.
pub(crate) fn replacing_s(index: &Index, options: BuildOptions) -> f64 {
    match index.replacement {
        Replacement::ReindexOnly(_) if index.valid => 2.0 * build_s(index, options),
        _ => build_s(index, options),
    }
}

/// How an index is replaced by a fresh build of it.
pub(crate) struct Replacing {
    /// Up to the verification.
    pub(crate) steps: Vec<Step>,
    /// After it.
    pub(crate) afterwards: Option<Step>,
    /// Whether the old index can be brought back.
    pub(crate) reversible: bool,
}

/// The steps that replace an index by a fresh build with these options, if that wins the comparison. Beside it, where that
/// is possible. Where the index is part of a partitioned one, the comparison is made with a shadow of it that is not, and
/// the index itself is rebuilt in place afterwards; nothing is lost by a rebuild of an invalid one, so it needs no shadow.
pub(crate) fn replacing(
    index: &Index,
    options: BuildOptions,
    criterion: Criterion,
    limits: &Limits,
) -> Replacing {
    let of = index_ref(index);
    let limit_s = limits.build_limit_s(build_s(index, options));
    let build = Step::BuildIndex { of: of.clone(), options, limit_s };
    let compare = Step::CompareIndexes { of: of.clone(), criterion };
    match &index.replacement {
        Replacement::BlueGreen => Replacing {
            steps: vec![build, compare, Step::SwapIndex { of: of.clone() }],
            afterwards: Some(Step::DropLoser { of }),
            reversible: true,
        },
        Replacement::ReindexOnly(_) => {
            let reindex = Step::ReindexConcurrently { of, options, limit_s };
            Replacing {
                steps: if index.valid { vec![build, compare, reindex] } else { vec![reindex] },
                afterwards: None,
                reversible: false,
            }
        }
    }
}

/// Bytes that a new build of this index needs: its clean size, or the present one where that is not known.
pub(crate) fn build_bytes(index: &Index) -> Result<u64, NotApplicable> {
    match (&index.clean_bytes, &index.bytes) {
        (Reading::Known(clean), _) => Ok(*clean),
        (_, Reading::Known(bytes)) if index.valid => Ok(*bytes),
        (Reading::Unknown(reason), _) => {
            Err(NotApplicable::MeasurementMissing { detail: format!("size of {}: {reason}", index.name) })
        }
    }
}

/// Whether a build of such an index sorts in temporary files: ivfflat all vectors by list (pgvector's `ivfbuild.c`), in memory
/// only what `maintenance_work_mem` holds; hnsw sorts nothing.
pub(crate) fn sorts(method: Method) -> bool {
    method == Method::Ivfflat
}

/// Whether an old and a new build of this index could be compared: what is too large to measure now will be too large
/// then, and a build that cannot be kept is not begun.
pub(crate) fn check_comparable(index: &Index) -> Result<(), NotApplicable> {
    match &index.recall {
        Reading::Unknown(reason) => Err(NotApplicable::MeasurementMissing {
            detail: format!("recall of {}, so a new build could not be compared: {reason}", index.name),
        }),
        Reading::Known(_) => Ok(()),
    }
}

pub(crate) fn index_ref(index: &Index) -> IndexRef {
    IndexRef {
        oid: index.oid,
        relfilenode: index.relfilenode,
        name: index.name.clone(),
        table: index.partition,
        method: index.method,
    }
}

/// The indexes of the problem's class that the snapshot still has, in the problem's order.
pub(crate) fn targets<'a>(
    problem: &Problem,
    snapshot: &'a Snapshot,
    limits: &Limits,
) -> Result<Vec<&'a Index>, NotApplicable> {
    let ids: &[Oid] = match &problem.class {
        ProblemClass::CentroidSkew { index_id, .. } => std::slice::from_ref(index_id),
        ProblemClass::IndexFragmentation { index_ids, .. } => index_ids,
        other => {
            return Err(NotApplicable::NotTreated {
                class: other.as_str().to_owned(),
                detail: "it concerns no index".to_owned(),
            });
        }
    };
    let found: Vec<&Index> = ids
        .iter()
        .filter_map(|oid| snapshot.indexes.iter().find(|index| index.oid == *oid))
        .filter(|index| limits.params.include(index))
        .filter(|index| snapshot.partitions.iter().any(|partition| partition.oid == index.partition))
        .collect();
    if found.is_empty() {
        return Err(NotApplicable::NoTarget { detail: "the index is not there (any more)".to_owned() });
    }
    Ok(found)
}

/// The index's own nodes as a component, with its λ: what a manual request without a weak component concerns.
pub(crate) fn component_of(
    index: &Index,
    snapshot: &Snapshot,
    config: &Config,
    centroids: bool,
) -> Result<Component, NotApplicable> {
    let graph = ContractedGraph::build(snapshot, config, Held::Nothing);
    let nodes: Vec<NodeKey> = graph
        .nodes
        .into_iter()
        .map(|node| node.key)
        .filter(|key| match key {
            NodeKey::Centroid { partition, index: name, .. } => {
                centroids && *partition == index.partition && *name == index.name
            }
            NodeKey::Index { partition, index: name } => {
                !centroids && *partition == index.partition && *name == index.name
            }
            _ => false,
        })
        .collect();
    asked_for(snapshot, nodes, config)
}

/// The component around these nodes when a human asks for a remedy, whether it is weak or not. Where nobody looks at any of
/// them, they are no part of the graph: it is the whole collection then.
///
/// # Errors
/// [`NotApplicable::MeasurementMissing`] when λ of the collection is not known either.
pub(crate) fn asked_for(
    snapshot: &Snapshot,
    nodes: Vec<NodeKey>,
    config: &Config,
) -> Result<Component, NotApplicable> {
    let missing = |detail: String| NotApplicable::MeasurementMissing { detail };
    let own = component_lambda(snapshot, &nodes, config).map_err(|error| missing(error.to_string()))?;
    let lambda = match own {
        Some(lambda) => lambda,
        None => {
            let whole = assess(snapshot, config).map_err(|error| missing(error.to_string()))?;
            whole.lambda.ok_or_else(|| {
                missing(format!("λ of the collection: {}", whole.lambda_unknown.unwrap_or_default()))
            })?
        }
    };
    Ok(Component { lambda, nodes, witness: vec![] })
}

/// The indexes that a manual request may mean, weakest first.
pub(crate) fn manual_targets<'a>(
    snapshot: &'a Snapshot,
    config: &Config,
    params: &Params,
    centroids: bool,
    fits: impl Fn(&Index) -> bool,
) -> Result<Vec<(&'a Index, Component)>, NotApplicable> {
    let mut found = Vec::new();
    for index in snapshot.indexes.iter().filter(|index| fits(index) && params.include(index)) {
        found.push((index, component_of(index, snapshot, config, centroids)?));
    }
    found.sort_by(|a, b| a.1.lambda.total_cmp(&b.1.lambda).then_with(|| a.0.name.cmp(&b.0.name)));
    if found.is_empty() {
        return Err(NotApplicable::NoTarget { detail: "the collection has no such index".to_owned() });
    }
    Ok(found)
}

/// The cause of an index problem, whichever class it has.
pub(crate) fn cause(problem: &Problem) -> Option<Cause> {
    match &problem.class {
        ProblemClass::CentroidSkew { cause, .. } | ProblemClass::IndexFragmentation { cause, .. } => {
            Some(*cause)
        }
        _ => None,
    }
}
