//! `repair_invalid_index`: an index left invalid by a concurrent build that was killed.
//!
//! Symptom: searches do not use it, writes pay for it. Evidence: `pg_index.indisvalid`, and no build of it under way.
//! Action: drop it where a valid equal one exists or a killed `REINDEX CONCURRENTLY` left it; else build the same
//! definition beside it, exchange the names, drop the invalid one. Never: it drops an invalid index that has no
//! valid equal, before its replacement is valid. Undone by exchanging the names again; of a dropped one the
//! definition is in the journal, but nobody misses it and nothing builds it again.

use serde_json::Value;

use super::{
    Limits, NotApplicable, Outcome, Params, Remedy, build_bytes, cause, comparisons_won, index_ref,
    manual_targets, replaced, replacing, replacing_s, sorts, targets,
};
use crate::classify::{Problem, ProblemClass, index_fragmentation_of};
use crate::config::Config;
use crate::graph::Cause;
use crate::plan::{BuildOptions, Criterion, Plan, Step};
use crate::snapshot::{Index, Replacement, Snapshot};

/// Impact of dropping a surplus index.
const DROP_IMPACT: f64 = 0.2;
/// Estimate of a concurrent drop: it waits for running transactions, seconds.
const DROP_S: f64 = 60.0;

/// See the module.
pub(super) struct RepairInvalidIndex;

/// One that is part of a partitioned index can only be rebuilt: that would be dropped with it.
fn is_surplus(index: &Index) -> bool {
    (index.equal_valid.is_some() || index.reindex_leftover) && index.replacement == Replacement::BlueGreen
}

impl Remedy for RepairInvalidIndex {
    fn name(&self) -> &'static str {
        "repair_invalid_index"
    }

    fn treats(&self, problem: &Problem) -> bool {
        matches!(problem.class, ProblemClass::IndexFragmentation { cause: Cause::Invalid, .. })
    }

    fn impact(&self) -> f64 {
        0.5
    }

    fn reversible(&self) -> bool {
        true
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        if cause(problem) != Some(Cause::Invalid) {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: "it repairs invalid indexes".to_owned(),
            });
        }
        let targets = targets(problem, snapshot, limits)?;
        let index = targets[0];
        if index.valid {
            return Err(NotApplicable::NothingToDo { detail: format!("{} is valid again", index.name) });
        }
        if index.building {
            return Err(NotApplicable::IndexBuilding { index: index.name.clone() });
        }
        let estimated_s =
            if is_surplus(index) { DROP_S } else { replacing_s(index, BuildOptions::default()) };
        limits.check_duration(estimated_s)?;
        let (steps, impact, reversible, disk_bytes, reason) = if is_surplus(index) {
            let why = if index.equal_valid.is_some() {
                "a valid index with the same definition exists"
            } else {
                "an interrupted reindex left it behind"
            };
            let reason = format!(
                "{} is invalid and surplus ({why}); dropping it spares every write its cost.",
                index.name
            );
            (vec![Step::DropInvalid { of: index_ref(index) }], DROP_IMPACT, true, 0, reason)
        } else {
            let disk_bytes = build_bytes(index)?;
            limits.check_builds(disk_bytes, sorts(index.method))?;
            let reason = format!(
                "{} is invalid, so no search uses it; it is built again as it was defined.",
                index.name
            );
            let mut replacing = replacing(index, BuildOptions::default(), Criterion::Valid, limits);
            replacing.steps.extend(replacing.afterwards);
            (replacing.steps, self.impact(), replacing.reversible, disk_bytes, reason)
        };
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact,
            reversible,
            reason,
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes,
            steps,
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
        let mut found = manual_targets(snapshot, config, params, false, |index| !index.valid)?;
        let (index, component) = found.swap_remove(0);
        let class = index_fragmentation_of(&[index], Cause::Invalid, config);
        Ok(Problem { class, component, evidence: vec!["asked for by hand".to_owned()] })
    }

    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        let mut dropped = false;
        for step in &outcome.plan.steps {
            if let Step::DropInvalid { of } = step {
                dropped = true;
                if outcome.after.indexes.iter().any(|index| index.oid == of.oid) {
                    return Err(format!("the surplus index {} is still there", of.name));
                }
            }
        }
        if dropped {
            return Ok(());
        }
        replaced(outcome)?;
        comparisons_won(outcome)
    }
}
