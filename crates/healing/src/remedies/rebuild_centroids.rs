//! `rebuild_centroids`: an ivfflat index whose lists no longer fit its rows.
//!
//! Symptom: recall falls or searches read ever more. Evidence: list occupancy beyond sampling noise, rows to be
//! looked at against fresh lists, recall on the panel. Action: build the same index beside it with a fitting number
//! of lists, compare recall against work, exchange the names, drop the loser after verification. Never: it drops or
//! hides the old index before the new one is verified. Undone by exchanging the names again and dropping the trial.

use serde_json::Value;

use super::{
    Limits, NotApplicable, Outcome, Params, Remedy, build_bytes, cause, check_comparable, comparisons_won,
    manual_targets, replaced, replacing, replacing_s, sorts, targets,
};
use crate::classify::{Problem, ProblemClass, Structure, centroid_skew_of};
use crate::config::Config;
use crate::graph::Cause;
use crate::ivf;
use crate::plan::{BuildOptions, Criterion, Plan};
use crate::snapshot::{Index, Method, Reading, Replacement, Snapshot};

/// See the module.
pub(super) struct RebuildCentroids;

/// Whether fresh lists would be no better by what was measured of these: then only a human asks for a rebuild.
fn lists_fit(problem: &Problem) -> bool {
    let ProblemClass::CentroidSkew { distance_ratio, work_ratio, .. } = &problem.class else { return false };
    [distance_ratio, work_ratio].iter().all(|ratio| ratio.is_some_and(|ratio| ratio <= 1.0))
}

/// Least share of the lists that the rows ask for: an index of fewer, for the memory of a bad moment, would stay for years.
const LISTS_SHARE_MIN: f64 = 0.75;

/// The number of lists for so many rows within the memory that a build gets.
fn lists(rows: f64, tuple: f64, limits: &Limits) -> Result<u32, NotApplicable> {
    let wanted = ivf::choose_lists(rows, tuple, None);
    let lists = ivf::choose_lists(rows, tuple, limits.build_memory_bytes);
    match limits.build_memory_bytes {
        Some(bytes) if f64::from(lists) < LISTS_SHARE_MIN * f64::from(wanted) => {
            Err(NotApplicable::TooLittleMemory {
                detail: format!(
                    "{wanted} lists fit the rows, and {:.0} MiB, the half of what is free, are enough to build {lists}",
                    bytes as f64 / f64::from(1 << 20)
                ),
            })
        }
        _ => Ok(lists),
    }
}

impl Remedy for RebuildCentroids {
    fn name(&self) -> &'static str {
        "rebuild_centroids"
    }

    fn treats(&self, problem: &Problem) -> bool {
        match &problem.class {
            // Low recall with good lists is a matter of search effort: fresh lists would be no better.
            ProblemClass::CentroidSkew { cause, structure, .. } => {
                *cause != Cause::Recall || *structure != Structure::Good
            }
            _ => false,
        }
    }

    fn impact(&self) -> f64 {
        0.5
    }

    fn reversible(&self) -> bool {
        true
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        if !matches!(problem.class, ProblemClass::CentroidSkew { .. }) {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: "it rebuilds the lists of ivfflat indexes".to_owned(),
            });
        }
        let targets = targets(problem, snapshot, limits)?;
        let index = targets[0];
        if index.method != Method::Ivfflat || !index.valid {
            return Err(NotApplicable::NoTarget {
                detail: format!("{} is no valid ivfflat index", index.name),
            });
        }
        if index.building {
            return Err(NotApplicable::IndexBuilding { index: index.name.clone() });
        }
        let rows = match &index.rows {
            Reading::Known(rows) => *rows,
            Reading::Unknown(reason) => {
                return Err(NotApplicable::MeasurementMissing {
                    detail: format!("rows of {}: {reason}", index.name),
                });
            }
        };
        if rows < 1.0 {
            return Err(NotApplicable::NothingToDo { detail: format!("{} covers no row", index.name) });
        }
        check_comparable(index)?;
        // Without the size of a tuple the number of lists stays as it is.
        let lists = index.tuple_bytes.known().map(|tuple| lists(rows, *tuple, limits)).transpose()?;
        let disk_bytes = build_bytes(index)?;
        limits.check_builds(disk_bytes, sorts(index.method))?;
        let options = BuildOptions::lists(lists);
        let estimated_s = replacing_s(index, options);
        limits.check_duration(estimated_s)?;
        let mut replacing = replacing(index, options, Criterion::RecallAgainstWork, limits);
        replacing.steps.extend(replacing.afterwards);
        let why = match cause(problem) {
            Some(Cause::Skew) => "some lists are far longer than the others",
            Some(Cause::Recall) => "searches find too little",
            _ if lists_fit(problem) => {
                "the lists fit the rows as well as fresh ones would, but it was asked for"
            }
            _ => "the lists no longer fit the rows",
        };
        let how = match (&index.replacement, lists) {
            (Replacement::ReindexOnly(reason), _) => {
                format!("in place, since {reason}, after a comparison with a copy of it")
            }
            (_, Some(lists)) => format!("beside the old one with lists = {lists}"),
            (_, None) => "beside the old one".to_owned(),
        };
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible: replacing.reversible,
            reason: format!("In {} {why}; a rebuild {how} trains the lists on today's rows.", index.name),
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes,
            steps: replacing.steps,
            skipped: vec![],
            params: Value::Null,
        })
    }

    fn manual_problem(
        &self,
        snapshot: &Snapshot,
        config: &Config,
        params: &Params,
    ) -> Result<Problem, NotApplicable> {
        let fits = |index: &Index| index.method == Method::Ivfflat && index.valid;
        let mut found = manual_targets(snapshot, config, params, true, fits)?;
        let (index, component) = found.swap_remove(0);
        let class = centroid_skew_of(index, Cause::Drift, &[], config);
        Ok(Problem { class, component, evidence: vec!["asked for by hand".to_owned()] })
    }

    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        replaced(outcome)?;
        comparisons_won(outcome)
    }
}
