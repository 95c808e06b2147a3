//! Remedies: what treats which problem, as pure plans. One file each, and one sorted list.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::classify::{Problem, ProblemClass, find_index};
use crate::config::Config;
use crate::graph::{Cause, ContractedGraph, Held, NodeKey};
use crate::integrity::{Component, IntegrityError, component_lambda};
use crate::plan::{IndexRef, Plan, Step};
use crate::snapshot::{Index, Method, Oid, Reading, Snapshot};
use crate::verdict::Verdict;

mod compact_indexes;
mod rebuild_centroids;
mod repair_invalid_index;
mod tune_search_effort;

#[cfg(test)]
mod tests;

/// Every remedy, sorted by name.
pub const ALL: &[&dyn Remedy] = &[
    &compact_indexes::CompactIndexes,
    &rebuild_centroids::RebuildCentroids,
    &repair_invalid_index::RepairInvalidIndex,
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

    /// Expected seconds on these targets, verification apart.
    fn expected_s(&self, targets: &[&Index]) -> f64;

    /// Parameters that a manual request may give beside the common ones.
    fn parameters(&self) -> &'static [&'static str] {
        &["indexes"]
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

/// Why a remedy makes no plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum NotApplicable {
    /// Nothing would change: the outcome is a no-op.
    #[error("there is nothing to do: {detail}")]
    NothingToDo {
        /// Why.
        detail: String,
    },
    /// It does not treat this problem.
    #[error("it does not treat {class}: {detail}")]
    NotTreated {
        /// Class name of the problem.
        class: String,
        /// Why.
        detail: String,
    },
    /// No index to act on.
    #[error("there is no target: {detail}")]
    NoTarget {
        /// Why.
        detail: String,
    },
    /// Too little free disk.
    #[error("it needs {needed_bytes} bytes of disk, {allowed_bytes} of {free_bytes} free bytes may be used")]
    DiskHeadroom {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes that the plan may use.
        allowed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The index is being built.
    #[error("{index} is being built")]
    IndexBuilding {
        /// Its name.
        index: String,
    },
    /// It would take longer than is allowed.
    #[error("it would take about {estimated_s:.0} s, {allowed_s:.0} s are allowed")]
    TooLong {
        /// Estimate, seconds.
        estimated_s: f64,
        /// Limit, seconds.
        allowed_s: f64,
    },
    /// A reading that the plan needs is missing.
    #[error("a measurement is missing: {detail}")]
    MeasurementMissing {
        /// Which, and why.
        detail: String,
    },
    /// `manage_search_effort` is off.
    #[error("the search effort is not ours to set (manage_search_effort is off)")]
    EffortNotManaged,
}

/// What a plan must keep to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Free bytes of disk; None: not known, then nothing is planned that needs disk.
    pub disk_free_bytes: Option<u64>,
    /// Share of it that one plan may use, 0–1.
    pub max_disk_share: f64,
    /// λ at which a plan of several parts may stop.
    pub target_lambda: f64,
    /// Whether the search effort may be set.
    pub manage_search_effort: bool,
    /// Recall@k to be met.
    pub objective: f64,
    /// Longest build of one index, seconds; None: twice the estimate.
    pub max_build_s: Option<f64>,
    /// Parameters of a manual request.
    pub params: Params,
}

impl Limits {
    /// The limits of a collection.
    pub fn new(config: &Config, snapshot: &Snapshot, params: Params) -> Self {
        Self {
            disk_free_bytes: snapshot.disk_free_bytes.known().copied(),
            max_disk_share: config.max_disk_share,
            target_lambda: config.target_lambda(),
            manage_search_effort: config.manage_search_effort,
            objective: config.recall_objective,
            max_build_s: config.max_build_seconds.map(|seconds| seconds as f64),
            params,
        }
    }

    /// Checks that this much disk may be used.
    fn check_disk(&self, needed_bytes: u64) -> Result<(), NotApplicable> {
        let free_bytes = self.disk_free_bytes.ok_or_else(|| NotApplicable::MeasurementMissing {
            detail: "the free disk space is not known".to_owned(),
        })?;
        // A share of at most 0.9: the product fits.
        let allowed_bytes = (free_bytes as f64 * self.max_disk_share) as u64;
        if needed_bytes > allowed_bytes {
            return Err(NotApplicable::DiskHeadroom { needed_bytes, allowed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Seconds that all steps together may be estimated at: a manual `max_duration_s`, or none.
    fn check_duration(&self, estimated_s: f64) -> Result<(), NotApplicable> {
        match self.params.max_duration_s {
            Some(allowed_s) if estimated_s > allowed_s => {
                Err(NotApplicable::TooLong { estimated_s, allowed_s })
            }
            _ => Ok(()),
        }
    }

    /// The hard limit for an estimate: twice it, or what the settings or the request say, if less.
    fn timeout_s(&self, estimated_s: f64, builds: usize) -> f64 {
        let by_build = self.max_build_s.map(|seconds| seconds * builds.max(1) as f64);
        [Some(2.0 * estimated_s), by_build, self.params.max_duration_s]
            .into_iter()
            .flatten()
            .fold(f64::INFINITY, f64::min)
    }
}

/// Parameters of a manual request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Params {
    /// Only show the plan.
    pub dry_run: bool,
    /// Longest duration of all steps together, seconds.
    pub max_duration_s: Option<f64>,
    /// Indexes to act on, by schema-qualified or bare name; None: those of the problem.
    pub indexes: Option<Vec<String>>,
}

/// Why parameters were refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParamError {
    /// They are no JSON object.
    #[error("the parameters of a strategy are a JSON object")]
    NotAnObject,
    /// No such parameter.
    #[error("strategy \"{strategy}\" takes no parameter \"{key}\"")]
    UnknownKey {
        /// The strategy.
        strategy: String,
        /// The parameter.
        key: String,
    },
    /// A value of the wrong type or range.
    #[error("parameter \"{key}\" takes {valid}, not {found}")]
    Invalid {
        /// The parameter.
        key: String,
        /// What it takes.
        valid: &'static str,
        /// The value given.
        found: String,
    },
}

impl ParamError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownKey { key, .. } if key == "batch_size" => {
                "pgvector builds an index in one go: there is no batch size to set. Leave the parameter out."
                    .to_owned()
            }
            Self::UnknownKey { strategy, .. } => {
                let own = find(strategy).map_or(&[][..], |remedy| remedy.parameters());
                format!(
                    "Valid: {}.",
                    COMMON_PARAMETERS.iter().chain(own).copied().collect::<Vec<_>>().join(", ")
                )
            }
            Self::NotAnObject => "Pass for instance {\"dry_run\": true}.".to_owned(),
            Self::Invalid { valid, .. } => format!("Pass {valid}."),
        }
    }
}

/// Parameters that every strategy takes.
const COMMON_PARAMETERS: &[&str] = &["dry_run", "max_duration_seconds"];

impl Params {
    /// Reads and checks the parameters of a strategy; null stands for none.
    ///
    /// # Errors
    /// [`ParamError`] names the first that is refused.
    pub fn parse(strategy: &str, value: &Value) -> Result<Params, ParamError> {
        let mut params = Params::default();
        if value.is_null() {
            return Ok(params);
        }
        let object = value.as_object().ok_or(ParamError::NotAnObject)?;
        let own = find(strategy).map_or(&[][..], |remedy| remedy.parameters());
        for (key, value) in object {
            let invalid = |valid: &'static str| ParamError::Invalid {
                key: key.clone(),
                valid,
                found: value.to_string(),
            };
            if !COMMON_PARAMETERS.iter().chain(own).any(|known| known == key) {
                return Err(ParamError::UnknownKey { strategy: strategy.to_owned(), key: key.clone() });
            }
            match key.as_str() {
                "dry_run" => params.dry_run = value.as_bool().ok_or_else(|| invalid("true or false"))?,
                "max_duration_seconds" => {
                    let seconds = value.as_f64().filter(|s| (1.0..=604_800.0).contains(s));
                    params.max_duration_s =
                        Some(seconds.ok_or_else(|| invalid("a number from 1 to 604800"))?);
                }
                _ => {
                    let names: Option<Vec<String>> = value.as_array().and_then(|list| {
                        list.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
                    });
                    let names = names.filter(|names| !names.is_empty());
                    params.indexes = Some(names.ok_or_else(|| invalid("a list of index names"))?);
                }
            }
        }
        Ok(params)
    }

    /// Whether an index is among those named, or none is named.
    pub fn names(&self, index: &Index) -> bool {
        let bare = |name: &str| name.rsplit('.').next().unwrap_or(name).trim_matches('"').to_owned();
        self.indexes
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| *name == index.name || *name == bare(&index.name)))
    }

    /// Whether the problem has an index that is named, or none is named.
    pub(crate) fn concerns(&self, problem: &Problem) -> bool {
        let bare = |name: &str| name.rsplit('.').next().unwrap_or(name).trim_matches('"').to_owned();
        let Some(names) = &self.indexes else { return true };
        problem.component.nodes.iter().any(|key| match key {
            NodeKey::Index { index, .. } | NodeKey::Centroid { index, .. } => {
                names.iter().any(|name| name == index || *name == bare(index))
            }
            NodeKey::Core | NodeKey::Partition { .. } => false,
        })
    }
}

/// Bytes of a clean index that one second of building makes on slow hardware: ivfflat, k-means included. Measured
/// builds are 5 to 50 times as fast; an estimate that is too long costs nothing, one that is too short a rollback.
const IVFFLAT_BYTES_PER_S: f64 = 1_048_576.0;
/// Rows that one second of building an hnsw index inserts on slow hardware, its graph being larger than memory.
const HNSW_ROWS_PER_S: f64 = 250.0;
/// Least estimate of a build: waits for old transactions and the comparison take time too, seconds.
const BUILD_FLOOR_S: f64 = 60.0;

/// Pessimistic seconds to build this index anew, with the comparison.
pub(crate) fn build_s(index: &Index) -> f64 {
    let bytes = index.clean_bytes.known().or(index.bytes.known()).copied().unwrap_or(0) as f64;
    let by_bytes = bytes / IVFFLAT_BYTES_PER_S;
    let by_rows = match index.method {
        Method::Hnsw => index.rows.known().copied().unwrap_or(0.0) / HNSW_ROWS_PER_S,
        Method::Ivfflat => 0.0,
    };
    BUILD_FLOOR_S.max(by_bytes).max(by_rows)
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
        .filter(|index| limits.params.names(index))
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
            NodeKey::Core | NodeKey::Partition { .. } => false,
        })
        .collect();
    let lambda = component_lambda(snapshot, &nodes, config)
        .map_err(|error| NotApplicable::MeasurementMissing { detail: error.to_string() })?;
    Ok(Component { lambda: lambda.unwrap_or(1.0), nodes, witness: vec![] })
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
    for index in snapshot.indexes.iter().filter(|index| fits(index) && params.names(index)) {
        found.push((index, component_of(index, snapshot, config, centroids)?));
    }
    found.sort_by(|a, b| a.1.lambda.total_cmp(&b.1.lambda).then_with(|| a.0.name.cmp(&b.0.name)));
    if found.is_empty() {
        return Err(NotApplicable::NoTarget { detail: "the collection has no such index".to_owned() });
    }
    Ok(found)
}

/// What is known when an action's steps are done.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// The problem as it was.
    pub problem: &'a Problem,
    /// The plan that ran.
    pub plan: &'a Plan,
    /// The snapshot that it was made from.
    pub before: &'a Snapshot,
    /// A snapshot taken after the last step, measured anew.
    pub after: &'a Snapshot,
    /// The comparisons that were made.
    pub verdicts: &'a [Verdict],
    /// Settings in force.
    pub config: &'a Config,
}

/// Whether an action is verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// It helped: keep it.
    pub verified: bool,
    /// False while a reading is missing that could still come: sample again while the window lasts, and count it as
    /// not verified when it ends.
    pub complete: bool,
    /// Why, in one sentence.
    pub reason: String,
    /// λ of the component before.
    pub lambda_before: Option<f64>,
    /// λ of the component after, the others held as they are.
    pub lambda_after: Option<f64>,
    /// 100 × (λ after ÷ λ before − 1), λ before counting as at least 0.01.
    pub improvement_pct: Option<f64>,
}

/// λ below this counts as this in ratios: it may be 0.
const LAMBDA_FLOOR: f64 = 0.01;
/// The spec's least improvement.
const IMPROVEMENT_MIN: f64 = 1.1;
/// Share of λ that may be lost to noise where λ was normal before.
const NOT_WORSE: f64 = 0.9;

/// Whether an action helped: the remedy's own predicate, and λ of the component at least 10 % better or normal
/// (not worse, where it was normal before). A reading that was there before and is missing now proves nothing.
///
/// # Errors
/// [`IntegrityError`] when a reading is no number.
pub fn verify(remedy: &dyn Remedy, outcome: &Outcome<'_>) -> Result<Verification, IntegrityError> {
    let Outcome { problem, before, after, config, .. } = *outcome;
    let nodes = &problem.component.nodes;
    let lambda_before = component_lambda(before, nodes, config)?;
    let mut lambda_after = component_lambda(after, nodes, config)?;
    let achieved = remedy.achieved(outcome);
    let dropped = outcome.plan.steps.iter().all(|step| matches!(step, Step::DropInvalid { .. }));
    if lambda_after.is_none() && dropped && achieved.is_ok() {
        // The weak part was surplus and is gone: nothing hangs loosely any more.
        lambda_after = Some(1.0);
    }
    let improvement_pct = lambda_before
        .zip(lambda_after)
        .map(|(before, after)| 100.0 * (after.max(LAMBDA_FLOOR) / before.max(LAMBDA_FLOOR) - 1.0));
    let result = |verified, complete, reason: String| {
        Ok(Verification { verified, complete, reason, lambda_before, lambda_after, improvement_pct })
    };
    if let Err(missing) = achieved {
        return result(false, true, missing);
    }
    if let Some(metric) = lost_reading(before, after, nodes, config) {
        return result(false, false, format!("not yet measured again: {metric}"));
    }
    let Some(now) = lambda_after else {
        return result(false, true, "the repaired part is not there any more".to_owned());
    };
    match lambda_before {
        None => result(
            true,
            true,
            "what the remedy set out to do has come about; λ was not known before".to_owned(),
        ),
        Some(then) if then >= config.normal_lambda() => {
            let kept = now >= NOT_WORSE * then;
            let word = if kept { "not worse" } else { "worse" };
            result(kept, true, format!("λ of the part went from {then:.3} to {now:.3}, {word}"))
        }
        Some(then) => {
            let normal = now >= config.normal_lambda();
            let better = now >= IMPROVEMENT_MIN * then.max(LAMBDA_FLOOR);
            let word = if normal {
                "normal again"
            } else if better {
                "better"
            } else {
                "not 10 % better"
            };
            result(normal || better, true, format!("λ of the part went from {then:.3} to {now:.3}: {word}"))
        }
    }
}

/// A metric of the nodes that was read before and is not read now.
fn lost_reading(before: &Snapshot, after: &Snapshot, nodes: &[NodeKey], config: &Config) -> Option<String> {
    let unread = |snapshot: &Snapshot| -> Vec<String> {
        let graph = ContractedGraph::build(snapshot, config, Held::Nothing);
        let mut found: Vec<String> = graph
            .nodes
            .iter()
            .filter(|node| nodes.iter().any(|key| key.same_unit(&node.key)))
            .flat_map(|node| node.condition.unread.iter())
            .map(|text| text.split(':').next().unwrap_or(text).to_owned())
            .collect();
        found.sort();
        found.dedup();
        found
    };
    let was_unread = unread(before);
    unread(after).into_iter().find(|metric| !was_unread.contains(metric))
}

/// The index of the same table and name in another snapshot.
pub(crate) fn same_index<'a>(snapshot: &'a Snapshot, index: &IndexRef) -> Option<&'a Index> {
    find_index(snapshot, &NodeKey::Index { partition: index.table, index: index.name.clone() })
}

/// The indexes that the plan's swaps and in-place rebuilds concern are there, valid, and not the old ones.
pub(crate) fn replaced(outcome: &Outcome<'_>) -> Result<(), String> {
    let mut any = false;
    for step in &outcome.plan.steps {
        let (of, in_place) = match step {
            Step::SwapIndex { of } => (of, false),
            Step::ReindexConcurrently { of, .. } => (of, true),
            _ => continue,
        };
        any = true;
        let Some(index) = same_index(outcome.after, of) else {
            return Err(format!("{} is not there any more", of.name));
        };
        if !index.valid {
            return Err(format!("{} is not valid", of.name));
        }
        if !in_place && index.oid == of.oid || index.relfilenode == of.relfilenode {
            return Err(format!("{} is still the old index", of.name));
        }
    }
    if any { Ok(()) } else { Err("nothing was replaced".to_owned()) }
}

/// Every comparison of the plan was made and won.
pub(crate) fn comparisons_won(outcome: &Outcome<'_>) -> Result<(), String> {
    let planned =
        outcome.plan.steps.iter().filter(|step| matches!(step, Step::CompareIndexes { .. })).count();
    if outcome.verdicts.len() < planned {
        return Err(format!("{} of {planned} comparisons were made", outcome.verdicts.len()));
    }
    match outcome.verdicts.iter().find(|verdict| !verdict.keep) {
        Some(lost) => Err(format!("the comparison was lost: {}", lost.reason)),
        None => Ok(()),
    }
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
