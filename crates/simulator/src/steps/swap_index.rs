//! Exchanging the names of old and trial index, with the effort that the comparison found.

use healing::plan::{IndexRef, Step};
use healing::recovery::StepState;
use healing::verdict::Verdict;
use serde_json::json;

use super::{SHORT_MS, effect, note, target};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![op("swap_index.intent", intent, turn), op("swap_index.exchange", exchange, turn)]
}

/// The effort that sessions are to get with the new index.
pub(super) fn effort_for(stage: &mut Stage, turn: &Turn, of: &IndexRef) -> Option<u32> {
    let collection = &stage.world.collections[turn.collection];
    if !collection.config.manage_search_effort {
        // Not ours to change: the new index gets what sessions have with the old one, at which both were compared.
        return collection.itself(of).and_then(|old| old.effort);
    }
    let entries = &stage.store.action(turn.action).entries;
    let compared = entries.iter().rev().find(|entry| {
        matches!(&entry.step, Step::CompareIndexes { of: compared, .. } if compared.oid == of.oid)
            && entry.state == StepState::Done
    })?;
    let verdict: Verdict = serde_json::from_value(compared.details.get("verdict")?.clone()).ok()?;
    verdict.effort.or(verdict.new_at_objective.map(|point| point.effort))
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let of = target(turn)?;
    let collection = &stage.world.collections[turn.collection];
    collection.as_planned(of)?;
    let trial = collection.trial(of).map(|trial| trial.oid).ok_or("the new index is not there any more")?;
    let effort = effort_for(stage, turn, of).filter(|_| !stage.has(Defect::EffortNotCarried));
    if let (Some(effort), Some(trial)) = (effort, stage.world.collections[turn.collection].index(trial)) {
        trial.effort = Some(effort);
    }
    note(stage, turn, StepState::Intent, json!({ "trial": trial, "effort": effort }));
    Ok(Then::Next(SHORT_MS))
}

fn exchange(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let of = target(turn)?;
    let timeout_ms = stage.world.collections[turn.collection].config.lock_timeout_ms;
    if lock_times_out(stage) {
        return Ok(match Then::patiently(turn.tries, "canceling statement due to lock timeout") {
            Then::Again(ms) => Then::Again(timeout_ms + ms),
            then => then,
        });
    }
    let collection = &stage.world.collections[turn.collection];
    let old = match collection.as_planned(of) {
        Ok(old) => old.oid,
        Err(changed) => return Ok(Then::PutOff(changed)),
    };
    let trial = collection.trial(of).ok_or("the new index is not there any more")?;
    if !trial.valid {
        return Err("the new index is not valid any more".to_owned());
    }
    let trial = trial.oid;
    effect(stage, turn, "swap");
    stage.world.collections[turn.collection].exchange_names(trial, old);
    // One transaction with its effect.
    note(stage, turn, StepState::Done, json!({}));
    Ok(Then::Next(SHORT_MS))
}

/// Whether this attempt at the locks of a table times out.
pub(super) fn lock_times_out(stage: &mut Stage) -> bool {
    let locked = stage.world.weather.locked;
    locked > 0.0 && stage.world.random.chance(locked)
}
