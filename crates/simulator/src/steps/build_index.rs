//! A trial index beside the old one.

use healing::plan::Step;
use healing::recovery::StepState;
use serde_json::json;

use super::{SHORT_MS, effect, may_fail, note, target, wait_for_long_transactions};
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};
use crate::world::index::{Index, Maker};
use crate::world::trial_name;

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![
        op("build_index.intent", intent, turn),
        op("build_index.start", start, turn),
        op("build_index.finish", finish, turn),
        op("build_index.done", done, turn),
    ]
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    if let Some(wait) = wait_for_long_transactions(stage, turn) {
        return Ok(wait);
    }
    let collection = &mut stage.world.collections[turn.collection];
    if let Some(leftover) = collection.trial(target(turn)?).map(|index| index.oid) {
        collection.remove(leftover);
    }
    collection.as_planned(target(turn)?)?;
    note(stage, turn, StepState::Intent, json!({}));
    Ok(Then::Next(SHORT_MS))
}

fn start(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::BuildIndex { of, options, .. } = &turn.step else { return Err("no build".to_owned()) };
    let oid = stage.world.oid();
    let collection = &stage.world.collections[turn.collection];
    let old = collection.itself(of).ok_or("the index is gone")?;
    let mut trial = Index::begun(
        oid,
        trial_name(of),
        old.method,
        options.lists.or(old.lists),
        old.value_bytes,
        Maker::Action(turn.action),
    );
    let rows = collection.tables.iter().find(|table| table.oid == of.table).map_or(0.0, |table| table.rows);
    let bytes = trial.clean_bytes(rows);
    if stage.world.disk_free() < bytes {
        return Err("could not extend: no space left on device".to_owned());
    }
    let killed = stage.world.weather.memory_bytes < bytes;
    effect(stage, turn, "create");
    trial.bytes = bytes;
    let collection = &mut stage.world.collections[turn.collection];
    if let Some(table) = collection.table(of.table) {
        table.indexes.push(trial);
    }
    collection.touch();
    if killed {
        stage.world.build_ms(bytes / 2);
        return Ok(Then::Killed);
    }
    let ms = stage.world.build_ms(bytes) + stage.world.transactions_ms();
    Ok(Then::Next(ms))
}

fn finish(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    if stage.world.weather.long_transactions > 0 {
        return Ok(Then::Again(10_000));
    }
    let failed = may_fail(stage);
    let misfit = stage.world.random.between(0.0, 0.02);
    let of = target(turn)?;
    let collection = &mut stage.world.collections[turn.collection];
    let trial = collection.trial(of).map(|index| index.oid).ok_or("the new index is not there")?;
    if let Some(table) = collection.table(of.table) {
        let rows = table.rows;
        for index in table.indexes.iter_mut().filter(|index| index.oid == trial) {
            if failed.is_ok() { index.finish(rows, misfit) } else { index.building = false }
        }
    }
    collection.touch();
    failed.map(|()| Then::Next(SHORT_MS))
}

fn done(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let trial =
        stage.world.collections[turn.collection].trial(target(turn)?).map(|index| (index.oid, index.valid));
    match trial {
        None => Err("the new index is not there".to_owned()),
        Some((_, false)) => Err("the new index is not valid".to_owned()),
        Some((oid, true)) => {
            note(stage, turn, StepState::Done, json!({ "built": oid }));
            Ok(Then::Next(SHORT_MS))
        }
    }
}
