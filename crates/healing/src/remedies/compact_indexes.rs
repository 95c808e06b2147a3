//! `compact_indexes`: indexes larger than their rows need, full of dead entries, or (hnsw) finding too little.
//!
//! Symptom: the index grows, searches read more, caches hold less. Evidence: bytes against the model of a clean
//! build, share of dead entries, recall on the panel with a thin graph or a search effort that is used up. Action: build
//! each anew, most fragmented first, within the time and disk allowed, beside the old one where that is possible; where
//! searches find too little, with a denser graph (`m`, `ef_construction`). Never: it touches rows, or an index that is
//! being built. Undone by exchanging the names again; a rebuild in place cannot be undone and says so.

use serde_json::Value;

use super::{
    INDEXES, Limits, NotApplicable, Outcome, Params, Remedy, build_bytes, cause, check_comparable,
    comparisons_won, manual_targets, replaced, replacing, replacing_s, sorts, targets,
};
use crate::classify::{Problem, ProblemClass, Structure, index_fragmentation_of};
use crate::clean_size;
use crate::config::Config;
use crate::graph::{Cause, fragmentation_pct};
use crate::hnsw::Density;
use crate::plan::{BuildOptions, Criterion, Plan, Skipped};
use crate::snapshot::{Index, Reading, Snapshot};

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
            // A sound graph that finds too little wants more search effort first, which has less impact; where that is not
            // enough, or not ours to set, a denser graph.
            ProblemClass::IndexFragmentation { cause, .. } => {
                matches!(cause, Cause::Bloat | Cause::Dead | Cause::Recall)
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
        let mut options: Vec<BuildOptions> = Vec::new();
        let mut skipped = Vec::new();
        let mut first_refusal = None;
        let (mut disk_bytes, mut any_sorts, mut estimated_s) = (0u64, false, 0.0);
        for index in targets {
            let needed = fits(index)
                .and_then(|()| check_comparable(index))
                .and_then(|()| denser(index, cause, problem))
                .and_then(|density| {
                    let product = built_bytes(index, density)?;
                    let sum = disk_bytes.saturating_add(product);
                    let sorted = any_sorts || sorts(index.method);
                    limits.check_builds(sum, sorted).map(|()| (sum, sorted, density))
                });
            let needed = needed.map(|(sum, sorted, density)| {
                let options = density.map_or_else(BuildOptions::default, |density| BuildOptions {
                    m: Some(density.m),
                    ef_construction: Some(density.ef_construction),
                    lists: None,
                });
                (sum, sorted, options, replacing_s(index, options))
            });
            match needed {
                Ok((sum, sorted, built, takes_s))
                    if chosen.is_empty() || estimated_s + takes_s <= budget_s =>
                {
                    (disk_bytes, any_sorts) = (sum, sorted);
                    estimated_s += takes_s;
                    chosen.push(index);
                    options.push(built);
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
        limits.check_duration(estimated_s)?;
        let mut steps = Vec::new();
        let mut drops = Vec::new();
        let mut reversible = true;
        for (index, options) in chosen.iter().zip(&options) {
            let replacing = replacing(index, *options, criterion, limits);
            steps.extend(replacing.steps);
            drops.extend(replacing.afterwards);
            reversible &= replacing.reversible;
        }
        steps.extend(drops);
        let names: Vec<&str> = chosen.iter().map(|index| index.name.as_str()).collect();
        let reason = match cause {
            Cause::Recall => format!(
                "Searches through {} find too little; a fresh build{} restores the graph.",
                names.join(", "),
                match options.first().map(BuildOptions::to_string).filter(|options| !options.is_empty()) {
                    Some(options) => format!(" with {options}"),
                    None => String::new(),
                }
            ),
            _ => format!("{} would be much smaller when built anew from the live rows.", names.join(", ")),
        };
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible,
            reason,
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
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

/// The density of the new graph, where it is not to be as it was: where searches find too little, and not because the
/// graph is damaged.
fn denser(index: &Index, cause: Cause, problem: &Problem) -> Result<Option<Density>, NotApplicable> {
    if cause != Cause::Recall {
        return Ok(None);
    }
    let damaged = match &problem.class {
        ProblemClass::IndexFragmentation { structure, .. } => *structure != Structure::Good,
        _ => true,
    };
    match index.density {
        Some(own) if damaged && !own.is_thin() => Ok(None),
        Some(own) => own.denser().map(Some).ok_or_else(|| NotApplicable::NothingToDo {
            detail: format!("{} is sound, and as dense as pgvector allows", index.name),
        }),
        None if damaged => Ok(None),
        None => Err(NotApplicable::NothingToDo { detail: format!("{} is sound", index.name) }),
    }
}

/// Bytes that the new build needs: a denser graph is larger.
fn built_bytes(index: &Index, density: Option<Density>) -> Result<u64, NotApplicable> {
    let as_it_was = build_bytes(index)?;
    let (Some(density), Reading::Known(rows), Reading::Known(tuple)) =
        (density, &index.rows, &index.tuple_bytes)
    else {
        return Ok(as_it_was);
    };
    // An index tuple has 8 bytes before its value.
    Ok(as_it_was.max(clean_size::hnsw_bytes(*rows, (tuple - 8.0).max(0.0) as u64, density.m)))
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
