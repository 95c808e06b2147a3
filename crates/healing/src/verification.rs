//! Whether an action helped: measured again, never taken from the remedy's own word.

use serde::{Deserialize, Serialize};

use crate::classify::{Problem, find_index};
use crate::config::Config;
use crate::graph::{ContractedGraph, Held, NodeKey};
use crate::health::DRIFT_EXCESS;
use crate::integrity::{IntegrityError, component_lambda};
use crate::plan::{IndexRef, Plan, Step};
use crate::recovery::JournalEntry;
use crate::remedies::Remedy;
use crate::snapshot::{Index, Snapshot};
use crate::verdict::Verdict;

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
    /// The journal of its steps, with what each noted.
    pub entries: &'a [JournalEntry],
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
    /// λ of what the plan treated before: the problem's nodes, or those that the plan names of them.
    pub lambda_before: Option<f64>,
    /// λ of the same after, the others held as they are.
    pub lambda_after: Option<f64>,
    /// λ of the whole problem before and after: what one action is held against another by.
    #[serde(default)]
    pub of_problem: LambdaChange,
    /// 100 × (λ after ÷ λ before − 1), λ before counting as at least 0.01.
    pub improvement_pct: Option<f64>,
}

/// λ before and after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LambdaChange {
    /// Before, None: not known.
    pub before: Option<f64>,
    /// After.
    pub after: Option<f64>,
}

/// λ below this counts as this in ratios: it may be 0.
const LAMBDA_FLOOR: f64 = 0.01;
/// The spec's least improvement.
const IMPROVEMENT_MIN: f64 = 1.1;
/// Share of λ that may be lost to noise where λ was normal before.
const NOT_WORSE: f64 = 0.9;

/// λ that a part must come to, having been at `then`: 10 % more, or normal; not worse, where it was normal.
pub fn asked(then: f64, config: &Config) -> f64 {
    let normal = config.normal_lambda();
    if then >= normal { NOT_WORSE * then } else { (IMPROVEMENT_MIN * then.max(LAMBDA_FLOOR)).min(normal) }
}

/// Whether an action helped: the remedy's own predicate, and λ of the component at least 10 % better or normal
/// (not worse, where it was normal before, or where the remedy is preventive; where it is 0 before and after that says nothing,
/// and a preventive remedy must have something else to show). A reading that was there before and is missing now proves nothing.
///
/// # Errors
/// [`IntegrityError`] when a reading is no number.
pub fn verify(remedy: &dyn Remedy, outcome: &Outcome<'_>) -> Result<Verification, IntegrityError> {
    let Outcome { problem, before, after, config, .. } = *outcome;
    let nodes = &treated(problem, outcome.plan);
    let lambda_before = component_lambda(before, nodes, config)?;
    let mut lambda_after = component_lambda(after, nodes, config)?;
    let achieved = remedy.achieved(outcome);
    let dropped = outcome.plan.steps.iter().all(|step| matches!(step, Step::DropInvalid { .. }));
    if lambda_after.is_none() && (dropped || remedy.preventive()) && achieved.is_ok() {
        // The weak part was surplus, or a job that has ended, and is gone: nothing hangs loosely any more.
        lambda_after = Some(1.0);
    }
    let whole = &problem.component.nodes;
    let of_problem = if nodes == whole {
        LambdaChange { before: lambda_before, after: lambda_after }
    } else {
        LambdaChange {
            before: component_lambda(before, whole, config)?,
            after: component_lambda(after, whole, config)?,
        }
    };
    let improvement_pct = lambda_before
        .zip(lambda_after)
        .map(|(before, after)| 100.0 * (after.max(LAMBDA_FLOOR) / before.max(LAMBDA_FLOOR) - 1.0));
    let result = |verified, complete, reason: String| {
        Ok(Verification {
            verified,
            complete,
            reason,
            lambda_before,
            lambda_after,
            of_problem,
            improvement_pct,
        })
    };
    if let Err(missing) = achieved {
        return result(false, true, missing);
    }
    // New lists can be too many for the yardstick that the old ones were held against. It will not come later either;
    // the comparison that was won says more: it has searched both indexes.
    let compared = !outcome.verdicts.is_empty();
    let lost = lost_readings(before, after, nodes, config)
        .into_iter()
        .find(|metric| !(compared && metric == DRIFT_EXCESS.metric));
    if let Some(metric) = lost {
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
        Some(then) if remedy.preventive() && then.max(now) < LAMBDA_FLOOR && !remedy.evident(outcome) => {
            let why = "λ of the part is 0 as before, and nothing that was read shows that it helped";
            result(false, true, why.to_owned())
        }
        Some(then) if then >= config.normal_lambda() || remedy.preventive() => {
            let kept = now >= NOT_WORSE * then;
            let word = if kept { "not worse" } else { "worse" };
            result(kept, true, format!("λ of the part went from {then:.3} to {now:.3}, {word}"))
        }
        Some(then) => {
            let enough = now >= asked(then, config);
            let word = match (now >= config.normal_lambda(), enough) {
                (true, _) => "normal again",
                (false, true) => "better",
                (false, false) => "not 10 % better",
            };
            result(enough, true, format!("λ of the part went from {then:.3} to {now:.3}: {word}"))
        }
    }
}

/// The nodes of the problem that the plan is for: of indexes those that it names. What it leaves for the next action (for
/// want of time or disk, or since what was done was enough) may be weaker than what it has repaired, and says nothing of it.
fn treated(problem: &Problem, plan: &Plan) -> Vec<NodeKey> {
    let is_named = |key: &NodeKey| {
        key.index().is_none_or(|(partition, index)| {
            let named = plan.steps.iter().filter_map(Step::target);
            named.into_iter().any(|of| of.table == partition && of.name == index)
        })
    };
    let nodes = &problem.component.nodes;
    // What names no index (rows that move, a weight) is for all of them.
    if plan.steps.iter().all(|step| step.target().is_none()) {
        return nodes.clone();
    }
    let named: Vec<NodeKey> = nodes.iter().filter(|key| is_named(key)).cloned().collect();
    if named.is_empty() { nodes.clone() } else { named }
}

/// The metrics of the nodes that were read before and are not read now.
fn lost_readings(before: &Snapshot, after: &Snapshot, nodes: &[NodeKey], config: &Config) -> Vec<String> {
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
    unread(after).into_iter().filter(|metric| !was_unread.contains(metric)).collect()
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
