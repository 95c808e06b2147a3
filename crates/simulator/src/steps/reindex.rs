//! Rebuilding in place: a `_ccnew` index that takes the old one's place.

use healing::plan::Step;
use healing::recovery::StepState;
use healing::snapshot::Oid;
use serde_json::json;

use super::swap_index::effort_for;
use super::{SHORT_MS, begin_drop, effect, end_drop, may_fail, note, target, wait_for_long_transactions};
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};
use crate::world::index::{Index, Maker};

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![
        op("reindex.intent", intent, turn),
        op("reindex.drop_shadow", begin_drop_shadow, turn),
        op("reindex.drop_shadow", end_drop_shadow, turn),
        op("reindex.start", start, turn),
        op("reindex.finish", finish, turn),
        op("reindex.done", done, turn),
    ]
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    if let Some(wait) = wait_for_long_transactions(stage, turn) {
        return Ok(wait);
    }
    let collection = &stage.world.collections[turn.collection];
    collection.as_planned(target(turn)?)?;
    let before: Vec<Oid> = collection.reindex_leftovers(target(turn)?);
    note(stage, turn, StepState::Intent, json!({ "leftovers_before": before }));
    Ok(Then::Next(SHORT_MS))
}

/// The trial index that a comparison was made with, if there was one.
fn shadow(stage: &Stage, turn: &Turn) -> Result<Option<Oid>, String> {
    Ok(stage.world.collections[turn.collection].trial(target(turn)?).map(|trial| trial.oid))
}

fn begin_drop_shadow(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let ms = shadow(stage, turn)?.map_or(SHORT_MS, |oid| begin_drop(stage, turn, oid));
    Ok(Then::Next(ms))
}

fn end_drop_shadow(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let oid = shadow(stage, turn)?;
    end_drop(stage, turn, oid)
}

fn start(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::ReindexConcurrently { of, options, .. } = &turn.step else {
        return Err("no reindex".to_owned());
    };
    let oid = stage.world.oid();
    let collection = &stage.world.collections[turn.collection];
    let old = collection.itself(of).ok_or("the index is gone")?;
    // ChooseRelationName: the first that is free.
    let free = |name: &String| collection.indexes().all(|(_, index)| index.name != *name);
    let names = std::iter::once(String::new()).chain((1..).map(|n| n.to_string()));
    let name = names.map(|n| format!("{}_ccnew{n}", old.name)).find(free).unwrap_or_default();
    let mut new = Index::begun(
        oid,
        name,
        old.method,
        options.lists.or(old.lists),
        old.value_bytes,
        Maker::Action(turn.action),
    );
    let rows = collection.tables.iter().find(|table| table.oid == of.table).map_or(0.0, |table| table.rows);
    new.bytes = new.clean_bytes(rows);
    let bytes = new.bytes;
    if stage.world.disk_free() < bytes {
        return Err("could not extend: no space left on device".to_owned());
    }
    effect(stage, turn, "reindex");
    let collection = &mut stage.world.collections[turn.collection];
    if let Some(table) = collection.table(of.table) {
        table.indexes.push(new);
    }
    collection.touch();
    if stage.world.weather.memory_bytes < bytes {
        stage.world.build_ms(bytes / 2);
        return Ok(Then::Killed);
    }
    Ok(Then::Next(stage.world.build_ms(bytes) + stage.world.transactions_ms()))
}

fn finish(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    if stage.world.weather.long_transactions > 0 {
        return Ok(Then::Again(10_000));
    }
    let failed = may_fail(stage);
    let misfit = stage.world.random.between(0.0, 0.02);
    let of = target(turn)?;
    let relfilenode = stage.world.oid();
    let collection = &mut stage.world.collections[turn.collection];
    let Some(table) = collection.table(of.table) else { return Err("the table is gone".to_owned()) };
    let rows = table.rows;
    let ours = |index: &Index| index.maker == Maker::Action(turn.action) && index.building;
    let at = table.indexes.iter().position(ours).ok_or("the new index is not there")?;
    if let Err(error) = failed {
        table.indexes[at].building = false;
        collection.touch();
        return Err(error);
    }
    let new = table.indexes.remove(at);
    if let Some(index) = table.indexes.iter_mut().find(|index| index.oid == of.oid) {
        index.lists = new.lists;
        index.relfilenode = relfilenode;
        index.finish(rows, misfit);
        // Readings belong to the file.
        (index.panel, index.structure) = (None, None);
    }
    collection.touch();
    Ok(Then::Next(SHORT_MS))
}

fn done(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let of = target(turn)?;
    let effort = effort_for(stage, turn, of);
    if let (Some(effort), Some(index)) = (effort, stage.world.collections[turn.collection].index(of.oid)) {
        index.effort = Some(effort);
    }
    note(stage, turn, StepState::Done, json!({}));
    Ok(Then::Next(SHORT_MS))
}
