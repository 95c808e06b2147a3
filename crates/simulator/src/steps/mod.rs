//! What a plan's steps do to the virtual server, as the extension's `execute`: look whether the world is as planned,
//! commit the intent, act, commit that it is done; one file a kind of step. Inverses do what the catalog says is still
//! needed.

use healing::plan::{IndexRef, Step};
use healing::recovery::StepState;
use healing::snapshot::Oid;
use serde_json::Value;

use crate::checks;
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn};

mod build_index;
mod compare_indexes;
mod drop_index;
mod inverse;
pub mod measure;
mod move_rows;
pub mod pause_maintenance;
mod reindex;
mod scale_replicas;
mod set_routing_weight;
mod set_throttle;
mod swap_index;
mod tune_search_effort;

/// Milliseconds of a short transaction.
const SHORT_MS: i64 = 20;

/// The operations of a step.
pub fn expand(turn: &Turn) -> Vec<Op> {
    match &turn.step {
        Step::BuildIndex { .. } => build_index::operations(turn),
        Step::CompareIndexes { .. } => compare_indexes::operations(turn),
        Step::SwapIndex { .. } => swap_index::operations(turn),
        Step::DropLoser { .. } | Step::DropInvalid { .. } => drop_index::operations(turn),
        Step::ReindexConcurrently { .. } => reindex::operations(turn),
        Step::TuneSearchEffort { .. } => tune_search_effort::operations(turn),
        Step::MoveRows { .. } => move_rows::operations(turn),
        Step::SetRoutingWeight { .. } => set_routing_weight::operations(turn),
        Step::ScaleReplicas { .. } => scale_replicas::operations(turn),
        Step::SetThrottle { .. } => set_throttle::operations(turn),
        Step::PauseJob { .. } | Step::PauseAutovacuum { .. } | Step::DrainMaintenance { .. } => {
            pause_maintenance::operations(turn)
        }
    }
}

/// The operations of an inverse.
pub fn expand_inverse(turn: &Turn) -> Vec<Op> {
    inverse::operations(turn)
}

/// Every operation of steps and inverses: a crash must have been met before each (see `coverage`).
pub const OPERATIONS: &[&str] = &[
    "build_index.intent",
    "build_index.start",
    "build_index.finish",
    "build_index.done",
    "compare_indexes.intent",
    "compare_indexes.measure",
    "swap_index.intent",
    "swap_index.exchange",
    "drop_index.intent",
    "drop_index.start",
    "drop_index.finish",
    "drop_index.done",
    "reindex.intent",
    "reindex.drop_shadow",
    "reindex.start",
    "reindex.finish",
    "reindex.done",
    "tune_search_effort.measure",
    "tune_search_effort.intent",
    "tune_search_effort.done",
    "move_rows.intent",
    "move_rows.batch",
    "move_rows.prepare",
    "move_rows.decide",
    "move_rows.commit",
    "move_rows.done",
    "set_routing_weight.intent",
    "set_routing_weight.done",
    "set_throttle.intent",
    "set_throttle.done",
    "pause_job.intent",
    "pause_job.done",
    "pause_autovacuum.intent",
    "pause_autovacuum.done",
    "drain_maintenance.intent",
    "drain_maintenance.cancel",
    "drain_maintenance.wait",
    "scale_replicas.intent",
    "scale_replicas.set",
    "scale_replicas.wait",
    "worker.begin",
    "worker.to_verifying",
    "worker.measure",
    "worker.keep",
    "worker.settle",
    "worker.finish",
    "undo.drop_trial",
    "undo.swap_back",
    "undo.restore_effort",
    "undo.rebuild_dropped",
    "undo.drop_leftover",
    "undo.move_rows",
    "undo.move_rows.prepare",
    "undo.move_rows.decide",
    "undo.move_rows.commit",
    "undo.set_routing_weight",
    "undo.set_throttle",
    "undo.pause_job",
    "undo.pause_autovacuum",
    "undo.scale_replicas",
    "finish.drop_loser",
];

/// Appends to the journal.
fn note(stage: &mut Stage, turn: &Turn, state: StepState, details: Value) {
    if state == StepState::Intent && stage.has(Defect::NoJournal) {
        return;
    }
    stage.store.action(turn.action).note_step(turn.step_no, &turn.step, state, details);
    let wall = stage.world.wall();
    stage.store.log("step", turn.action, wall, &format!("{state:?}"));
}

/// An effect on the catalog is about to come about.
fn effect(stage: &mut Stage, turn: &Turn, what: &str) {
    checks::effect(stage, turn, what);
}

/// Before a build or a drop: it would wait for every transaction that is older, and hold its locks and its place as long.
/// So it is not begun while a long one is under way.
fn wait_for_long_transactions(stage: &Stage, turn: &Turn) -> Option<Then> {
    let long = stage.world.weather.long_transactions > 0;
    long.then(|| Then::patiently(turn.tries, "a long transaction is under way"))
}

/// A statement that fails now and then, and surely without disk.
fn may_fail(stage: &mut Stage) -> Result<(), String> {
    if stage.world.disk_free() == 0 {
        return Err("could not extend: no space left on device".to_owned());
    }
    let failing = stage.world.weather.failing;
    if failing > 0.0 && stage.world.random.chance(failing) {
        return Err("canceling statement due to a fault".to_owned());
    }
    Ok(())
}

/// Drops an index concurrently: first it is no longer valid, then other transactions are waited for, then it is gone.
fn begin_drop(stage: &mut Stage, turn: &Turn, oid: Oid) -> i64 {
    effect(stage, turn, "drop");
    checks::drops(stage, turn, oid);
    let collection = &mut stage.world.collections[turn.collection];
    if let Some(index) = collection.index(oid) {
        index.valid = false;
    }
    collection.touch();
    stage.world.transactions_ms()
}

/// The second half. Waits while a foreign transaction lasts.
fn end_drop(stage: &mut Stage, turn: &Turn, oid: Option<Oid>) -> Result<Then, String> {
    if stage.world.weather.long_transactions > 0 {
        return Ok(Then::Again(10_000));
    }
    if let Some(oid) = oid {
        may_fail(stage)?;
        stage.world.collections[turn.collection].remove(oid);
    }
    Ok(Then::Next(SHORT_MS))
}

/// The index that a step of an index concerns.
fn target(turn: &Turn) -> Result<&IndexRef, String> {
    turn.step.target().ok_or_else(|| "the step concerns no index".to_owned())
}
