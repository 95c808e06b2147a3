//! Dropping the loser of a comparison, or a surplus index that is not valid.

use healing::plan::Step;
use healing::recovery::StepState;
use healing::snapshot::Oid;
use serde_json::json;

use super::{SHORT_MS, begin_drop, end_drop, may_fail, note, target, wait_for_long_transactions};
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![
        op("drop_index.intent", intent, turn),
        op("drop_index.start", start, turn),
        op("drop_index.finish", finish, turn),
        op("drop_index.done", done, turn),
    ]
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    if let Some(wait) = wait_for_long_transactions(stage, turn) {
        return Ok(wait);
    }
    let collection = &stage.world.collections[turn.collection];
    match &turn.step {
        Step::DropInvalid { of } => {
            if collection.as_planned(of)?.valid {
                return Err(format!("{} is valid again", of.name));
            }
            let definition =
                collection.itself(of).map(|i| json!({ "lists": i.lists, "bytes": i.value_bytes }));
            note(stage, turn, StepState::Intent, json!({ "definition": definition }));
        }
        Step::DropLoser { of } => {
            let loser = collection.loser(of)?;
            note(stage, turn, StepState::Intent, json!({ "loser": loser }));
        }
        _ => return Err("no drop".to_owned()),
    }
    Ok(Then::Next(SHORT_MS))
}

/// The index that the intent is about, if it is still there.
fn doomed(stage: &Stage, turn: &Turn) -> Result<Option<Oid>, String> {
    let of = target(turn)?;
    Ok(stage.world.collections[turn.collection].itself(of).map(|index| index.oid))
}

fn start(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Some(oid) = doomed(stage, turn)? else { return Ok(Then::Next(SHORT_MS)) };
    may_fail(stage)?;
    Ok(Then::Next(begin_drop(stage, turn, oid)))
}

fn finish(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let doomed = doomed(stage, turn)?;
    end_drop(stage, turn, doomed)
}

fn done(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    note(stage, turn, StepState::Done, json!({}));
    Ok(Then::Next(SHORT_MS))
}
