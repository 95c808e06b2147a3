//! Moving rows of a managed collection: batches, each one transaction with its note in the journal; after each move λ of the
//! component has its say.

use healing::integrity::component_lambda;
use healing::moves::{Next, Watch};
use healing::plan::{Move, Step};
use healing::recovery::StepState;
use healing::snapshot::Oid;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::swap_index::lock_times_out;
use super::{SHORT_MS, effect, may_fail, note};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::two_phase;
use crate::worker::{Op, Then, Turn, op};
use crate::world::{Portion, observe};

/// The operations of a batch that goes to the other server, or comes from there, and the one that follows.
const FORTH: [&str; 4] = ["move_rows.prepare", "move_rows.decide", "move_rows.commit", "move_rows.batch"];
const BACK: [&str; 4] =
    ["undo.move_rows.prepare", "undo.move_rows.decide", "undo.move_rows.commit", "undo.move_rows"];
/// Rows of one batch.
const BATCH: u64 = 500;

/// One batch, as its transaction noted it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Batch {
    number: usize,
    of_move: usize,
    from: Oid,
    to: Oid,
    portion: Portion,
}

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![
        op("move_rows.intent", intent, turn),
        op("move_rows.batch", batch, turn),
        op("move_rows.done", done, turn),
    ]
}

pub(super) fn inverse(turn: &Turn) -> Vec<Op> {
    vec![op("undo.move_rows", undo, turn)]
}

fn moves(turn: &Turn) -> Result<(&[Move], Option<Watch>), String> {
    match &turn.step {
        Step::MoveRows { moves, lambda, flat, .. } => {
            Ok((moves, lambda.map(|lambda| Watch::new(lambda, *flat))))
        }
        _ => Err("no moving of rows".to_owned()),
    }
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let collection = &stage.world.collections[turn.collection];
    let known = |oid: Oid| collection.tables.iter().any(|table| table.oid == oid);
    if !moves(turn)?.0.iter().all(|one| known(one.from.oid) && known(one.to.oid)) {
        return Err("a partition is gone since the plan was made".to_owned());
    }
    two_phase::settle(stage, turn.collection, false)?;
    note(stage, turn, StepState::Intent, json!({}));
    Ok(Then::Next(SHORT_MS))
}

/// Whether a partition is on the other server.
fn is_far(stage: &Stage, turn: &Turn, oid: Oid) -> bool {
    stage.world.collections[turn.collection].tables.iter().any(|table| table.oid == oid && table.far)
}

/// The batches that are noted and not undone, oldest first.
fn standing(stage: &Stage, turn: &Turn) -> Vec<Batch> {
    let entries =
        stage.store.actions[&turn.action].entries.iter().filter(|entry| entry.step_no == turn.step_no);
    let mut all: Vec<Batch> = Vec::new();
    for details in entries.map(|entry| &entry.details) {
        all.extend(
            details.get("batch").and_then(|batch| serde_json::from_value::<Batch>(batch.clone()).ok()),
        );
        if let Some(undone) = details.get("undone_batch").and_then(serde_json::Value::as_u64) {
            all.retain(|batch| batch.number as u64 != undone);
        }
    }
    all
}

/// What became of the moves before, by λ after each: how many are over, and what follows.
fn watched(stage: &Stage, turn: &Turn, mut watch: Option<Watch>) -> (usize, Next) {
    let mut next = Next::GoOn;
    let mut over = 0;
    for entry in
        stage.store.actions[&turn.action].entries.iter().filter(|entry| entry.step_no == turn.step_no)
    {
        if let Some(after) = entry.details.get("lambda_after") {
            over += 1;
            if let Some(watch) = &mut watch {
                next = watch.after(after.as_f64());
            }
        }
    }
    (over, next)
}

fn batch(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let (moves, watch) = moves(turn)?;
    if let Some(id) = two_phase::open(stage, turn.action).map(|open| open.id) {
        return far_batch(stage, turn, id);
    }
    let (over, next) = watched(stage, turn, watch);
    let standing = standing(stage, turn);
    if next == Next::UndoThisAndStop {
        return match standing.last().filter(|batch| batch.of_move + 1 == over).copied() {
            Some(last) => put_back(stage, turn, last, FORTH),
            None => Ok(Then::Next(SHORT_MS)),
        };
    }
    let Some(one) = moves.get(over).filter(|_| next == Next::GoOn) else { return Ok(Then::Next(SHORT_MS)) };
    let moved: f64 =
        standing.iter().filter(|batch| batch.of_move == over).map(|batch| batch.portion.rows).sum();
    let left = one.rows as f64 - moved;
    let source =
        stage.world.collections[turn.collection].table(one.from.oid).ok_or("the partition is gone")?;
    let there = if one.cold { source.cold_rows } else { source.rows };
    if left < 1.0 || there < 1.0 {
        // A move is over: λ has its say.
        let nodes = &stage.store.actions[&turn.action].planned().problem.component.nodes;
        let snapshot = observe::snapshot(&stage.world, turn.collection);
        let config = &stage.world.collections[turn.collection].config;
        let after = component_lambda(&snapshot, nodes, config).map_err(|error| error.to_string())?;
        note(stage, turn, StepState::Intent, json!({ "lambda_after": after }));
        return Ok(Then::Again(5000));
    }
    may_fail(stage)?;
    if lock_times_out(stage) {
        // The action's own time bounds this.
        return Ok(Then::Again(stage.world.collections[turn.collection].config.lock_timeout_ms + 5000));
    }
    effect(stage, turn, "move");
    let rows = left.min(there).min(BATCH as f64);
    let (from, to) = (one.from.oid, one.to.oid);
    let portion = stage.world.collections[turn.collection].portion(from, rows, one.cold);
    if is_far(stage, turn, to) {
        two_phase::intend(stage, turn.action, (from, to), false, portion);
        return Ok(Then::As(FORTH[0], SHORT_MS));
    }
    stage.world.collections[turn.collection].move_rows(from, to, portion);
    let number = stage.store.actions[&turn.action].entries.len();
    note(
        stage,
        turn,
        StepState::Intent,
        json!({ "batch": Batch { number, of_move: over, from, to, portion } }),
    );
    Ok(Then::Again((rows * 2.0 * stage.world.slowness()) as i64))
}

/// The next step of a batch that goes to the other server.
fn far_batch(stage: &mut Stage, turn: &Turn, id: i64) -> Result<Then, String> {
    let (_, watch) = moves(turn)?;
    let of_move = watched(stage, turn, watch).0;
    two_phase::go_on(stage, id, FORTH, |stage| {
        let Some(open) = two_phase::open(stage, turn.action).cloned() else { return };
        if open.back {
            return come_back(stage, turn);
        }
        let number = stage.store.actions[&turn.action].entries.len();
        let (from, to) = open.tables;
        let batch = Batch { number, of_move, from, to, portion: open.portion };
        effect(stage, turn, "move");
        note(stage, turn, StepState::Intent, json!({ "batch": batch }));
    })
}

fn done(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let moved: f64 = standing(stage, turn).iter().map(|batch| batch.portion.rows).sum();
    note(stage, turn, StepState::Done, json!({ "moved": moved as u64 }));
    Ok(Then::Next(SHORT_MS))
}

/// The rows of a batch go back, whatever else has come and gone where they are.
fn put_back(stage: &mut Stage, turn: &Turn, batch: Batch, names: [&'static str; 4]) -> Result<Then, String> {
    if is_far(stage, turn, batch.to) {
        two_phase::intend(stage, turn.action, (batch.from, batch.to), true, batch.portion);
        return Ok(Then::As(names[0], SHORT_MS));
    }
    effect(stage, turn, "move back");
    stage.world.collections[turn.collection].move_rows(batch.to, batch.from, batch.portion);
    note(stage, turn, StepState::Intent, json!({ "undone_batch": batch.number }));
    Ok(Then::Again((batch.portion.rows * 2.0 * stage.world.slowness()) as i64))
}

/// The newest batch that stands has come back: noted with the decision.
fn come_back(stage: &mut Stage, turn: &Turn) {
    effect(stage, turn, "move back");
    if let Some(last) = standing(stage, turn).last().copied() {
        note(stage, turn, StepState::Intent, json!({ "undone_batch": last.number }));
    }
}

fn undo(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    if let Some(id) = two_phase::open(stage, turn.action).filter(|open| open.back).map(|open| open.id) {
        return two_phase::go_on(stage, id, BACK, |stage| come_back(stage, turn));
    }
    // What a worker left on the other server comes first: only then is it known what went there.
    two_phase::settle(stage, turn.collection, false)?;
    let standing = standing(stage, turn);
    let forgets = stage.has(Defect::BatchForgotten) && standing.len() == 1;
    let Some(last) = standing.last().filter(|_| !forgets).copied() else {
        note(stage, turn, StepState::Undone, json!({}));
        return Ok(Then::Next(SHORT_MS));
    };
    if lock_times_out(stage) {
        return Ok(Then::Again(5000));
    }
    put_back(stage, turn, last, BACK)
}
