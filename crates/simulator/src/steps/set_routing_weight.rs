//! Setting a partition's weight for new rows, for good or under a lease after which another holds by itself.

use healing::plan::Step;
use healing::recovery::{RecoveryCommand, StepState};
use serde_json::json;

use super::{SHORT_MS, effect, note};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};
use crate::world::WeightLease;

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![op("set_routing_weight.intent", intent, turn), op("set_routing_weight.done", done, turn)]
}

pub(super) fn inverse(turn: &Turn) -> Vec<Op> {
    vec![op("undo.set_routing_weight", undo, turn)]
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::SetRoutingWeight { of, .. } = &turn.step else { return Err("no weight".to_owned()) };
    let table = stage.world.collections[turn.collection].table(of.oid).ok_or("the partition is gone")?;
    let former = json!({ "former": [table.weight, table.weight_lease] });
    note(stage, turn, StepState::Intent, former);
    Ok(Then::Next(SHORT_MS))
}

fn done(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::SetRoutingWeight { of, weight, lease } = &turn.step else { return Err("no weight".to_owned()) };
    effect(stage, turn, "weight");
    let wall = stage.world.wall();
    let collection = &mut stage.world.collections[turn.collection];
    let table = collection.table(of.oid).ok_or("the partition is gone")?;
    table.weight = *weight;
    table.weight_lease = lease.map(|lease| WeightLease {
        begins: wall,
        until: wall + lease.seconds * 1000,
        seconds: lease.seconds,
        after: lease.after,
    });
    collection.touch();
    note(stage, turn, StepState::Done, json!({}));
    Ok(Then::Next(SHORT_MS))
}

fn undo(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::SetRoutingWeight { of, .. } = &turn.step else { return Err("no weight".to_owned()) };
    let Some(RecoveryCommand::Revert { details, .. }) = turn.command.as_deref() else {
        return Err("no weight to put back".to_owned());
    };
    let former: Option<(f64, Option<WeightLease>)> =
        details.get("former").and_then(|former| serde_json::from_value(former.clone()).ok());
    if let Some((weight, lease)) = former.filter(|_| !stage.has(Defect::SettingsNotPutBack)) {
        effect(stage, turn, "weight back");
        let collection = &mut stage.world.collections[turn.collection];
        if let Some(table) = collection.table(of.oid) {
            (table.weight, table.weight_lease) = (weight, lease);
        }
        collection.touch();
    }
    note(stage, turn, StepState::Undone, json!({}));
    Ok(Then::Next(SHORT_MS))
}
