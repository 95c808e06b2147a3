//! `compact_indexes`: indexes larger than their rows need, full of dead entries, or (hnsw) finding too little.
//!
//! Symptom: the index grows, searches read more, caches hold less. Evidence: bytes against the model of a clean
//! build, share of dead entries. Action: build each anew, most fragmented first, within the time and disk allowed,
//! beside the old one where that is possible. Never: it touches rows, or an index that is being built. Undone by
//! exchanging the names again; a rebuild in place cannot be undone and says so.

use serde_json::Value;

use super::{
    INDEXES, Limits, NotApplicable, Outcome, Params, Remedy, build_bytes, build_s, cause, check_comparable,
    comparisons_won, index_ref, manual_targets, replaced, targets,
};
use crate::classify::{Problem, ProblemClass, Structure, index_fragmentation_of};
use crate::config::Config;
use crate::graph::{Cause, fragmentation_pct};
use crate::plan::{Criterion, Plan, Skipped, Step};
use crate::snapshot::{Index, Replacement, Snapshot};

/// Seconds of building that one plan takes on; further indexes wait for the next action.
const BUDGET_S: f64 = 1800.0;

/// See the module.
pub(super) struct CompactIndexes;

impl Remedy for CompactIndexes {
    fn name(&self) -> &'static str {
        "compact_indexes"
    }

    fn treats(&self, problem: &Problem) -> bool {
        match &problem.class {
            ProblemClass::IndexFragmentation { cause, structure, .. } => match cause {
                Cause::Bloat | Cause::Dead => true,
                Cause::Recall => *structure != Structure::Good,
                _ => false,
            },
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
        let Some(cause) = cause(problem).filter(|cause| *cause != Cause::Invalid) else {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: "it rebuilds valid indexes".to_owned(),
            });
        };
        let mut targets = targets(problem, snapshot, limits)?;
        targets.sort_by(|a, b| {
            let pct = |index: &Index| fragmentation_pct(index).unwrap_or(0.0);
            pct(b).total_cmp(&pct(a)).then_with(|| a.name.cmp(&b.name))
        });
        let criterion =
            if cause == Cause::Recall { Criterion::RecallAgainstWork } else { Criterion::Smaller };
        let budget_s = limits.params.max_duration_s().unwrap_or(BUDGET_S);
        let mut chosen: Vec<&Index> = Vec::new();
        let mut skipped = Vec::new();
        let mut first_refusal = None;
        let mut disk_bytes = 0u64;
        for index in targets {
            let needed = fits(index)
                .and_then(|()| check_comparable(index))
                .and_then(|()| build_bytes(index))
                .and_then(|bytes| {
                    let sum = disk_bytes.saturating_add(bytes);
                    limits.check_disk(sum).map(|()| sum)
                });
            let too_long = !chosen.is_empty() && expected_s(&chosen) + build_s(index) > budget_s;
            match needed {
                Ok(sum) if !too_long => {
                    disk_bytes = sum;
                    chosen.push(index);
                }
                Ok(_) => skipped.push(Skipped {
                    target: index.name.clone(),
                    reason: "left for the next action: the time of this one is used up".to_owned(),
                }),
                Err(why) => {
                    skipped.push(Skipped { target: index.name.clone(), reason: why.to_string() });
                    first_refusal.get_or_insert(why);
                }
            }
        }
        if chosen.is_empty() {
            return Err(first_refusal.unwrap_or_else(|| NotApplicable::NoTarget {
                detail: "no index can be rebuilt".to_owned(),
            }));
        }
        let estimated_s = expected_s(&chosen);
        limits.check_duration(estimated_s)?;
        let mut steps = Vec::new();
        let mut drops = Vec::new();
        let mut reversible = true;
        for index in &chosen {
            let of = index_ref(index);
            match &index.replacement {
                Replacement::BlueGreen => {
                    steps.push(Step::BuildIndex { of: of.clone(), lists: None });
                    steps.push(Step::CompareIndexes { of: of.clone(), criterion });
                    steps.push(Step::SwapIndex { of: of.clone() });
                    drops.push(Step::DropLoser { of });
                }
                Replacement::ReindexOnly(_) => {
                    reversible = false;
                    steps.push(Step::ReindexConcurrently { of, lists: None });
                }
            }
        }
        steps.extend(drops);
        let names: Vec<&str> = chosen.iter().map(|index| index.name.as_str()).collect();
        let reason = match cause {
            Cause::Recall => format!(
                "Searches through {} find too little; a fresh build restores the graph.",
                names.join(", ")
            ),
            _ => format!("{} would be much smaller when built anew from the live rows.", names.join(", ")),
        };
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible,
            reason,
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s, chosen.len()),
            disk_bytes,
            steps,
            skipped,
            params: Value::Null,
        })
    }

    fn manual_problem(
        &self,
        snapshot: &Snapshot,
        config: &Config,
        params: &Params,
    ) -> Result<Problem, NotApplicable> {
        let mut found = manual_targets(snapshot, config, params, false, |index| index.valid)?;
        if params.names(INDEXES.name).is_none() {
            found.truncate(1);
        }
        let indexes: Vec<&Index> = found.iter().map(|(index, _)| *index).collect();
        let class = index_fragmentation_of(&indexes, Cause::Bloat, config);
        let mut component = found.swap_remove(0).1;
        for (_, other) in found {
            component.lambda = component.lambda.min(other.lambda);
            component.nodes.extend(other.nodes);
        }
        Ok(Problem { class, component, evidence: vec!["asked for by hand".to_owned()] })
    }

    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        replaced(outcome)?;
        comparisons_won(outcome)
    }
}

fn fits(index: &Index) -> Result<(), NotApplicable> {
    if index.building {
        return Err(NotApplicable::IndexBuilding { index: index.name.clone() });
    }
    if !index.valid {
        return Err(NotApplicable::NoTarget { detail: format!("{} is not valid", index.name) });
    }
    if index.rows.known().is_some_and(|rows| *rows < 1.0) && index.bytes.known().is_none() {
        return Err(NotApplicable::NothingToDo { detail: format!("{} covers no row", index.name) });
    }
    Ok(())
}

/// Expected seconds for all of them, verification apart.
fn expected_s(indexes: &[&Index]) -> f64 {
    indexes.iter().map(|index| build_s(index)).sum()
}
