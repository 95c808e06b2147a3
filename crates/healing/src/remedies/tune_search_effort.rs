//! `tune_search_effort`: an index of which searches look at too little.
//!
//! Symptom: recall below the objective. Evidence: the recall panel, with list or graph structure as good as new, or not
//! known: then a rebuild cannot be ruled out, but this is cheap and can be undone, so it comes first; if the objective is
//! not met after it, or cannot be, the rebuild's turn comes. With a bad structure it is no treatment: it would pay for
//! bad lists at every search.
//! Action: find the least `ivfflat.probes` or `hnsw.ef_search` above the present one that meets the objective on the
//! panel and set it for that index. Never: it lowers an effort, builds anything, or changes a setting of a session or
//! database. Undone by restoring the former effort.

use serde_json::Value;

use super::{
    Limits, NotApplicable, Outcome, Params, Remedy, cause, index_ref, manual_targets, same_index, targets,
};
use crate::classify::{Problem, ProblemClass, Structure, centroid_skew_of, index_fragmentation_of};
use crate::config::Config;
use crate::graph::Cause;
use crate::plan::{Plan, Step};
use crate::recovery::StepState;
use crate::snapshot::{Index, Method, Reading, RecallPoint, Snapshot};
use crate::verdict;

/// pgvector's greatest `hnsw.ef_search`.
const EF_SEARCH_MAX: u32 = 1000;
/// Estimate: about a dozen runs of the panel, seconds.
const TUNE_S: f64 = 60.0;

/// See the module.
pub(super) struct TuneSearchEffort;

/// What is known of the index's structure.
fn shape(problem: &Problem) -> &'static str {
    match &problem.class {
        ProblemClass::CentroidSkew { structure, .. } | ProblemClass::IndexFragmentation { structure, .. } => {
            match structure {
                Structure::Good => "has a structure as good as a fresh one's",
                Structure::Bad => "would be better for a rebuild",
                Structure::Unknown => "has a structure that is not known",
            }
        }
        _ => "has a structure that is not known",
    }
}

impl Remedy for TuneSearchEffort {
    fn name(&self) -> &'static str {
        "tune_search_effort"
    }

    fn treats(&self, problem: &Problem) -> bool {
        match &problem.class {
            ProblemClass::CentroidSkew { cause, structure, .. }
            | ProblemClass::IndexFragmentation { cause, structure, .. } => {
                *cause == Cause::Recall && *structure != Structure::Bad
            }
            _ => false,
        }
    }

    fn impact(&self) -> f64 {
        0.1
    }

    fn reversible(&self) -> bool {
        true
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        if cause(problem) != Some(Cause::Recall) {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: "it raises recall".to_owned(),
            });
        }
        if !limits.config.manage_search_effort {
            return Err(NotApplicable::EffortNotManaged);
        }
        let targets = targets(problem, snapshot, limits)?;
        let index = targets[0];
        if index.building || !index.valid {
            return Err(NotApplicable::NoTarget { detail: format!("{} cannot be searched now", index.name) });
        }
        let point = match &index.recall {
            Reading::Known(point) => point,
            Reading::Unknown(reason) => {
                return Err(NotApplicable::MeasurementMissing {
                    detail: format!("recall of {}: {reason}", index.name),
                });
            }
        };
        if point.recall >= limits.config.recall_objective {
            return Err(NotApplicable::NothingToDo { detail: format!("{} meets the objective", index.name) });
        }
        let max = match index.method {
            Method::Ivfflat => index.lists.unwrap_or(u32::MAX),
            Method::Hnsw => EF_SEARCH_MAX,
        };
        if index.effort >= max {
            return Err(NotApplicable::NothingToDo {
                detail: format!(
                    "{} of {} is at its greatest already ({max})",
                    index.method.effort_setting(),
                    index.name
                ),
            });
        }
        let estimated_s = TUNE_S;
        limits.check_duration(estimated_s)?;
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible: true,
            reason: format!(
                "{} {}, and searches at {} = {} find {:.3} of the true neighbours; a greater effort is to find {:.3}.",
                index.name,
                shape(problem),
                index.method.effort_setting(),
                index.effort,
                point.recall,
                limits.config.recall_objective
            ),
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes: 0,
            steps: vec![Step::TuneSearchEffort {
                of: index_ref(index),
                objective: limits.config.recall_objective,
            }],
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
        let fits = |method: Method| move |index: &Index| index.valid && index.method == method;
        let mut found =
            manual_targets(snapshot, config, params, true, fits(Method::Ivfflat)).unwrap_or_default();
        found.extend(manual_targets(snapshot, config, params, false, fits(Method::Hnsw)).unwrap_or_default());
        found.sort_by(|a, b| a.1.lambda.total_cmp(&b.1.lambda).then_with(|| a.0.name.cmp(&b.0.name)));
        let Some((index, component)) = found.into_iter().next() else {
            return Err(NotApplicable::NoTarget { detail: "the collection has no such index".to_owned() });
        };
        let class = match index.method {
            Method::Ivfflat => centroid_skew_of(index, Cause::Recall, &[], config),
            Method::Hnsw => index_fragmentation_of(&[index], Cause::Recall, config),
        };
        Ok(Problem { class, component, evidence: vec!["asked for by hand".to_owned()] })
    }

    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        for step in &outcome.plan.steps {
            let Step::TuneSearchEffort { of, objective } = step else { continue };
            let index =
                same_index(outcome.after, of).ok_or_else(|| format!("{} is not there any more", of.name))?;
            let Reading::Known(point) = &index.recall else {
                return Err(format!("recall of {} was not measured again", of.name));
            };
            // The panel that the effort was found with is several times as large. One draw of the routine panel alone would take
            // back one good effort in twenty and more, since what was found lies at the objective.
            let found: Option<RecallPoint> = outcome
                .entries
                .iter()
                .filter(|entry| entry.state == StepState::Done && entry.step == *step)
                .find_map(|entry| serde_json::from_value(entry.details["point"].clone()).ok());
            let known = match found {
                Some(found) if found.effort <= point.effort => verdict::pooled(&found, point),
                // Searches use less than that: what they find is all that counts.
                _ => *point,
            };
            if known.recall + known.recall_ci < *objective {
                return Err(format!(
                    "recall of {} is {:.3} at {} {}, {objective:.3} is the objective",
                    of.name,
                    point.recall,
                    of.method.effort_setting(),
                    point.effort
                ));
            }
        }
        Ok(())
    }
}
