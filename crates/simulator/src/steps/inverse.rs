//! The inverses: each does only what the catalog says is still needed, and notes it.

use healing::plan::Step;
use healing::recovery::{self, RecoveryCommand, SwapBack, patience_s};
use healing::snapshot::Oid;
use serde_json::{Value, json};

use super::swap_index::lock_times_out;
use super::{SHORT_MS, begin_drop, effect, end_drop, note, target};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};
use crate::world::index::{Index, Maker};

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    let Some(command) = turn.command.as_deref() else { return vec![] };
    match command {
        RecoveryCommand::DropTrial { .. } => {
            vec![op("undo.drop_trial", start_drop, turn), op("undo.drop_trial", finish_drop, turn)]
        }
        RecoveryCommand::DropReindexLeftover { .. } => {
            vec![op("undo.drop_leftover", start_drop, turn), op("undo.drop_leftover", finish_drop, turn)]
        }
        RecoveryCommand::DropLoser { .. } => {
            vec![op("finish.drop_loser", start_drop, turn), op("finish.drop_loser", finish_drop, turn)]
        }
        RecoveryCommand::SwapBack { .. } => vec![op("undo.swap_back", swap_back, turn)],
        RecoveryCommand::RestoreEffort { .. } => vec![op("undo.restore_effort", restore_effort, turn)],
        RecoveryCommand::RebuildDropped { .. } => vec![op("undo.rebuild_dropped", rebuild, turn)],
        RecoveryCommand::Revert { step, .. } => match step.as_ref() {
            Step::MoveRows { .. } => super::move_rows::inverse(turn),
            Step::SetRoutingWeight { .. } => super::set_routing_weight::inverse(turn),
            Step::SetThrottle { .. } => super::set_throttle::inverse(turn),
            Step::ScaleReplicas { .. } => super::scale_replicas::inverse(turn),
            Step::PauseJob { .. } | Step::PauseAutovacuum { .. } => super::pause_maintenance::inverse(turn),
            _ => vec![],
        },
    }
}

/// The indexes that the command is to drop, as the catalog has them now.
fn doomed(stage: &Stage, turn: &Turn) -> Result<Vec<Oid>, String> {
    let collection = &stage.world.collections[turn.collection];
    Ok(match turn.command.as_deref() {
        Some(RecoveryCommand::DropTrial { of, .. }) => {
            collection.trial(of).map(|i| i.oid).into_iter().collect()
        }
        Some(RecoveryCommand::DropLoser { of, .. }) => collection.loser(of)?.into_iter().collect(),
        Some(RecoveryCommand::DropReindexLeftover { of, details, .. }) => {
            let before: Vec<Oid> = details
                .get("leftovers_before")
                .and_then(|list| serde_json::from_value(list.clone()).ok())
                .unwrap_or_default();
            let lost = stage.has(Defect::EmptyIsEverything);
            collection.reindex_leftovers(of).into_iter().filter(|oid| lost || !before.contains(oid)).collect()
        }
        _ => vec![],
    })
}

fn noted(stage: &mut Stage, turn: &Turn) {
    if let Some(state) = turn.command.as_deref().map(RecoveryCommand::leaves) {
        note(stage, turn, state, json!({}));
    }
}

fn start_drop(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let mut ms = SHORT_MS;
    for oid in doomed(stage, turn)? {
        ms += begin_drop(stage, turn, oid);
    }
    Ok(Then::Next(ms))
}

fn finish_drop(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    for oid in doomed(stage, turn)? {
        match end_drop(stage, turn, Some(oid))? {
            Then::Next(_) => {}
            wait => return Ok(wait),
        }
    }
    noted(stage, turn);
    Ok(Then::Next(SHORT_MS))
}

fn swap_back(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let of = target(turn)?;
    if lock_times_out(stage) {
        let timeout_ms = stage.world.collections[turn.collection].config.lock_timeout_ms;
        let pause = patience_s(turn.tries).ok_or("canceling statement due to lock timeout")?;
        return Ok(Then::Again(timeout_ms + pause as i64 * 1000));
    }
    let Some(RecoveryCommand::SwapBack { details, .. }) = turn.command.as_deref() else {
        return Err("no swap to undo".to_owned());
    };
    let trial = details.get("trial").and_then(Value::as_u64).and_then(|oid| Oid::try_from(oid).ok());
    let collection = &stage.world.collections[turn.collection];
    let old = collection.itself(of).filter(|old| old.name == crate::world::trial_name(of)).map(|old| old.oid);
    let new = trial.filter(|oid| collection.indexes().any(|(_, index)| index.oid == *oid));
    let taken = collection.bearing_its_name(of).is_some();
    let bare = of.name.trim_start_matches("public.").to_owned();
    match (recovery::swap_back(old.is_some(), trial.map(|_| new.is_some()), taken), old, new) {
        (SwapBack::Exchange, Some(old), Some(new)) => {
            effect(stage, turn, "swap back");
            stage.world.collections[turn.collection].exchange_names(old, new);
        }
        (SwapBack::OwnName, Some(old), _) => {
            effect(stage, turn, "rename");
            stage.world.collections[turn.collection].rename(old, bare);
        }
        (SwapBack::FormerName, Some(old), _) => {
            effect(stage, turn, "rename");
            stage.coverage.former_names += 1;
            stage.world.collections[turn.collection].hand_back(old, &format!("{bare}_former"));
        }
        _ => {}
    }
    noted(stage, turn);
    Ok(Then::Next(SHORT_MS))
}

fn restore_effort(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Some(RecoveryCommand::RestoreEffort { of, details, .. }) = turn.command.as_deref() else {
        return Err("no effort to restore".to_owned());
    };
    let former = details.get("former").and_then(Value::as_u64).map(|effort| effort as u32);
    let forgets = stage.has(Defect::SettingsNotPutBack);
    let collection = &mut stage.world.collections[turn.collection];
    if let Some(index) = collection.index(of.oid).filter(|_| !forgets) {
        index.effort = former;
        index.panel = None;
    }
    collection.touch();
    noted(stage, turn);
    Ok(Then::Next(SHORT_MS))
}

fn rebuild(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let of = target(turn)?;
    if stage.world.collections[turn.collection].bearing_its_name(of).is_some() {
        noted(stage, turn);
        return Ok(Then::Next(SHORT_MS));
    }
    let Some(RecoveryCommand::RebuildDropped { details, .. }) = turn.command.as_deref() else {
        return Err("nothing to rebuild".to_owned());
    };
    let definition = details.get("definition").ok_or("its definition was not noted")?;
    let lists = definition.get("lists").and_then(Value::as_u64).map(|lists| lists as u32);
    let bytes = definition.get("bytes").and_then(Value::as_u64).unwrap_or(1544);
    effect(stage, turn, "create");
    let oid = stage.world.oid();
    let name = of.name.trim_start_matches("public.").to_owned();
    let mut index = Index::begun(oid, name, of.method, lists, bytes, Maker::User);
    let collection = &mut stage.world.collections[turn.collection];
    if let Some(table) = collection.table(of.table) {
        index.finish(table.rows, 0.01);
        table.indexes.push(index);
    }
    collection.touch();
    Ok(Then::Again(1000))
}
