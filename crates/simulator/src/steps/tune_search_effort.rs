//! Finding and setting the least search effort that meets the objective.

use healing::plan::Step;
use healing::recovery::StepState;
use healing::snapshot::RecallPoint;
use healing::verdict::greater_effort;
use serde_json::json;

use super::{SHORT_MS, effect, measure, note, target};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![
        op("tune_search_effort.measure", measured, turn),
        op("tune_search_effort.intent", intent, turn),
        op("tune_search_effort.done", done, turn),
    ]
}

/// The effort found, kept by the worker until it is set: measured again here, since an operation keeps nothing.
/// `Ok(Err(_))`: not now, or none.
fn least(stage: &mut Stage, turn: &Turn) -> Result<Result<RecallPoint, Then>, String> {
    let Step::TuneSearchEffort { of, objective } = &turn.step else { return Err("no tuning".to_owned()) };
    let collection = &stage.world.collections[turn.collection];
    let queries = collection.config.panel_queries as u32;
    let index = match collection.as_planned(of) {
        Ok(index) => index.clone(),
        Err(changed) => return Ok(Err(Then::PutOff(changed))),
    };
    let present = index.effort(stage.world.server_effort);
    let points = match measure::curve(&mut stage.world, &index, queries, *objective, present, present) {
        Ok(points) => points,
        Err(cancelled) => return Ok(Err(Then::patiently(turn.tries, &cancelled))),
    };
    Ok(greater_effort(&points, *objective, present).map_err(Then::Lost))
}

fn measured(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    // A world that is not as planned is no fault of the remedy.
    if let Err(changed) = stage.world.collections[turn.collection].as_planned(target(turn)?) {
        return Ok(Then::PutOff(changed));
    }
    let ms = 15_000.0 * stage.world.slowness();
    Ok(Then::Next(ms as i64))
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let former = stage.world.collections[turn.collection].as_planned(target(turn)?)?.effort;
    note(stage, turn, StepState::Intent, json!({ "former": former }));
    Ok(Then::Next(SHORT_MS))
}

fn done(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let point = match least(stage, turn)? {
        Ok(point) => point,
        Err(then) => return Ok(then),
    };
    let noop = stage.has(Defect::CreditedNoop);
    effect(stage, turn, "effort");
    let collection = &mut stage.world.collections[turn.collection];
    if let Some(index) = collection.index(target(turn)?.oid) {
        if !noop {
            index.effort = Some(point.effort);
        }
        index.panel = None;
    }
    collection.touch();
    note(stage, turn, StepState::Done, json!({ "point": point }));
    Ok(Then::Next(SHORT_MS))
}
