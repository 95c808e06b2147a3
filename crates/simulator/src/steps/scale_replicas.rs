//! Asking an orchestrator for more read replicas, and waiting until they are ready.

use healing::plan::Step;
use healing::recovery::{RecoveryCommand, StepState};
use healing::scaling::new_count;
use serde_json::{Value, json};

use super::{SHORT_MS, effect, note};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};

/// Milliseconds between two looks at the orchestrator.
const LOOK_MS: i64 = 5000;

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![
        op("scale_replicas.intent", intent, turn),
        op("scale_replicas.set", set, turn),
        op("scale_replicas.wait", wait, turn),
    ]
}

pub(super) fn inverse(turn: &Turn) -> Vec<Op> {
    vec![op("undo.scale_replicas", undo, turn)]
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::ScaleReplicas { max_replicas, .. } = &turn.step else { return Err("no scaling".to_owned()) };
    let now = stage.world.strain.readers;
    let Some(wanted) = new_count(i64::from(now), *max_replicas).and_then(|count| u32::try_from(count).ok())
    else {
        return Ok(Then::Noop(format!("{now} replicas are as many as are allowed")));
    };
    note(stage, turn, StepState::Intent, json!({ "previous_replicas": now, "new_replicas": wanted }));
    Ok(Then::Next(SHORT_MS))
}

/// What the intent noted.
fn noted(stage: &Stage, turn: &Turn, name: &str) -> Option<u32> {
    let entries = &stage.store.actions[&turn.action].entries;
    let found = entries.iter().rev().filter(|entry| entry.step_no == turn.step_no);
    found.filter_map(|entry| entry.details.get(name)?.as_u64()).next().map(|n| n as u32)
}

fn set(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let wanted = noted(stage, turn, "new_replicas").ok_or("no number was noted")?;
    if stage.world.weather.orchestrator_fails {
        return Err("the orchestrator answers 503".to_owned());
    }
    effect(stage, turn, "scale");
    stage.world.scale(wanted);
    Ok(Then::Next(SHORT_MS))
}

fn wait(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::ScaleReplicas { ready_timeout_s, .. } = &turn.step else { return Err("no scaling".to_owned()) };
    let wanted = noted(stage, turn, "new_replicas").ok_or("no number was noted")?;
    if stage.world.strain.readers >= wanted {
        note(stage, turn, StepState::Done, json!({ "ready": true }));
        return Ok(Then::Next(SHORT_MS));
    }
    if i64::from(turn.tries) * LOOK_MS > ready_timeout_s * 1000 {
        return Err(format!("{wanted} replicas are not ready after {ready_timeout_s} s"));
    }
    Ok(Then::Again(LOOK_MS))
}

fn undo(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Some(RecoveryCommand::Revert { details, .. }) = turn.command.as_deref() else {
        return Err("no scaling to put back".to_owned());
    };
    if stage.world.weather.orchestrator_fails {
        return Err("the orchestrator answers 503".to_owned());
    }
    let former = details.get("previous_replicas").and_then(Value::as_u64);
    if let Some(former) = former.filter(|_| !stage.has(Defect::SettingsNotPutBack)) {
        effect(stage, turn, "scale back");
        stage.world.scale(former as u32);
    }
    note(stage, turn, StepState::Undone, json!({}));
    Ok(Then::Next(SHORT_MS))
}
