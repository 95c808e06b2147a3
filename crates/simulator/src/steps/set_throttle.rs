//! Holding back writers: a share off the usual rate, under a lease after which it is over by itself.

use healing::plan::Step;
use healing::recovery::{RecoveryCommand, StepState};
use serde_json::json;

use super::{SHORT_MS, effect, note};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};
use crate::world::strain::Throttle;

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![op("set_throttle.intent", intent, turn), op("set_throttle.done", done, turn)]
}

pub(super) fn inverse(turn: &Turn) -> Vec<Op> {
    vec![op("undo.set_throttle", undo, turn)]
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let former = stage.world.collections[turn.collection].ingest.throttle;
    let former = serde_json::to_value(former).map_err(|error| error.to_string())?;
    note(stage, turn, StepState::Intent, json!({ "former": former }));
    Ok(Then::Next(SHORT_MS))
}

fn done(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::SetThrottle { percentages, baseline, lease_s } = &turn.step else {
        return Err("no throttle".to_owned());
    };
    effect(stage, turn, "throttle");
    let (wall, real) = (stage.world.wall(), stage.world.now);
    let until = if stage.has(Defect::ThrottleStays) { i64::MAX } else { wall + lease_s * 1000 };
    let (percentages, baseline) = (*percentages, *baseline);
    let collection = &mut stage.world.collections[turn.collection];
    collection.ingest.throttle =
        Some(Throttle { percentages, baseline, begins: wall, until, set: real, lease_s: *lease_s });
    collection.touch();
    note(stage, turn, StepState::Done, json!({}));
    Ok(Then::Next(SHORT_MS))
}

fn undo(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Some(RecoveryCommand::Revert { details, .. }) = turn.command.as_deref() else {
        return Err("no throttle to put back".to_owned());
    };
    let former: Option<Throttle> =
        details.get("former").and_then(|former| serde_json::from_value(former.clone()).ok()).flatten();
    effect(stage, turn, "throttle back");
    let wall = stage.world.wall();
    let forgets = stage.has(Defect::SettingsNotPutBack);
    let collection = &mut stage.world.collections[turn.collection];
    // One that would be over by now is not brought back.
    if !forgets {
        collection.ingest.throttle = former.filter(|former| former.until > wall);
    }
    collection.touch();
    note(stage, turn, StepState::Undone, json!({}));
    Ok(Then::Next(SHORT_MS))
}
