//! Rows between two servers by two-phase commit, as the extension's `execute::rows::{far, settle}`: an intent here, prepared
//! there, decided here together with the rows, committed there. Whoever dies in between, what is decided is committed and
//! anything else rolled back.

use healing::snapshot::Oid;

use crate::defects::Defect;
use crate::stage::Stage;
use crate::store::Moment;
use crate::worker::Then;
use crate::world::Portion;
use crate::world::far::Prepared;

/// Milliseconds of one step over the network, and age from which the healer looks after what nobody goes on with.
const STEP_MS: i64 = 30;
const ORPHAN_MS: i64 = 15_000;

/// How far a batch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Noted here before anything is done.
    Intent,
    /// Committed here: it will be committed there.
    Decided,
    /// Committed there too.
    Done,
    /// It will be rolled back.
    GivenUp,
}

/// A batch of rows between this server and the other: a row of `ruvector.server_batches`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerBatch {
    /// Its number.
    pub id: i64,
    /// Its action.
    pub action: i64,
    /// The collection.
    pub collection: usize,
    /// How far it came.
    pub state: State,
    /// The partition here and there.
    pub tables: (Oid, Oid),
    /// Rows come back, by an undo.
    pub back: bool,
    /// The rows.
    pub portion: Portion,
    noted: Moment,
}

impl ServerBatch {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Intent | State::Decided)
    }
}

/// Rows of a collection that are decided and prepared, and not committed there: in neither place, or, negative, in both.
pub fn in_doubt(stage: &Stage, number: usize) -> f64 {
    let is_prepared =
        |batch: &ServerBatch| stage.world.far.prepared.iter().any(|prepared| prepared.batch == batch.id);
    let of = |batch: &&ServerBatch| {
        batch.collection == number && batch.state == State::Decided && is_prepared(batch)
    };
    let rows = |batch: &ServerBatch| if batch.back { -batch.portion.rows } else { batch.portion.rows };
    stage.store.batches.iter().filter(of).map(rows).sum()
}

/// The batch that an action has open.
pub fn open(stage: &Stage, action: i64) -> Option<&ServerBatch> {
    stage.store.batches.iter().rev().find(|batch| batch.action == action && batch.is_open())
}

/// Notes an intent.
pub fn intend(stage: &mut Stage, action: i64, tables: (Oid, Oid), back: bool, portion: Portion) {
    let noted = stage.moment();
    let collection = stage.store.actions[&action].collection;
    stage.store.last_batch += 1;
    let id = stage.store.last_batch;
    // Those that are over are of no use any more.
    let prepared = &stage.world.far.prepared;
    stage
        .store
        .batches
        .retain(|batch| batch.is_open() || prepared.iter().any(|prepared| prepared.batch == batch.id));
    stage.store.batches.push(ServerBatch {
        id,
        action,
        collection,
        state: State::Intent,
        tables,
        back,
        portion,
        noted,
    });
}

/// The next step of an open batch. `decide`: what is noted in the journal, in one transaction with the decision. The names of
/// the operations that follow: prepare, decide, commit, and the next batch.
///
/// # Errors
/// The other server does not answer.
pub fn go_on(
    stage: &mut Stage,
    id: i64,
    names: [&'static str; 4],
    decide: impl FnOnce(&mut Stage),
) -> Result<Then, String> {
    let [_, decide_name, commit_name, next] = names;
    let Some(batch) = stage.store.batches.iter().find(|batch| batch.id == id).cloned() else {
        return Err(format!("batch {id} is gone"));
    };
    let prepared = stage.world.far.prepared.iter().find(|prepared| prepared.batch == id).copied();
    match (batch.state, prepared) {
        (State::Intent, None) => {
            stage.world.far.answers()?;
            stage.world.far.prepared.push(Prepared {
                batch: id,
                collection: batch.collection,
                table: batch.tables.1,
                portion: batch.portion,
                comes: !batch.back,
                idle_s: 0,
            });
            Ok(Then::As(decide_name, STEP_MS))
        }
        (State::Intent, Some(_)) => {
            let sign = if batch.back { 1.0 } else { -1.0 };
            stage.world.collections[batch.collection].add(batch.tables.0, batch.portion, sign);
            decide(stage);
            set(stage, id, State::Decided);
            Ok(Then::As(commit_name, STEP_MS))
        }
        (State::Decided, Some(prepared)) => {
            stage.world.far.answers()?;
            stage.world.commit_there(prepared);
            Ok(Then::As(commit_name, STEP_MS))
        }
        (State::Decided, None) => {
            set(stage, id, State::Done);
            Ok(Then::As(next, (batch.portion.rows * 2.0 * stage.world.slowness()) as i64))
        }
        // The healer has brought it to its end.
        (State::Done, _) => Ok(Then::As(next, STEP_MS)),
        (State::GivenUp, _) => Err(format!("batch {id} was given up meanwhile")),
    }
}

fn set(stage: &mut Stage, id: i64, state: State) {
    let noted = stage.moment();
    if let Some(batch) = stage.store.batches.iter_mut().find(|batch| batch.id == id) {
        (batch.state, batch.noted) = (state, noted);
    }
}

/// Brings what is open of a collection to its end; `orphans`: only what nobody goes on with.
///
/// # Errors
/// The other server does not answer.
pub fn settle(stage: &mut Stage, number: usize, orphans: bool) -> Result<(), String> {
    if stage.has(Defect::PreparedForgotten) {
        return Ok(());
    }
    let wall = stage.world.wall();
    let due = |batch: &&ServerBatch| {
        let age = wall - batch.noted.wall;
        batch.collection == number && batch.is_open() && (!orphans || !(0..=ORPHAN_MS).contains(&age))
    };
    let open: Vec<i64> = stage.store.batches.iter().filter(due).map(|batch| batch.id).collect();
    let prepared: Vec<Prepared> = {
        let all = stage.world.far.prepared.iter();
        all.filter(|prepared| prepared.collection == number).copied().collect()
    };
    if open.is_empty() && prepared.is_empty() {
        return Ok(());
    }
    stage.world.far.answers()?;
    let state = |stage: &Stage, id: i64| {
        stage.store.batches.iter().find(|batch| batch.id == id).map(|batch| batch.state)
    };
    // From here on none of them can be decided any more.
    for id in &open {
        if state(stage, *id) == Some(State::Intent) {
            set(stage, *id, State::GivenUp);
        }
    }
    let lost = stage.has(Defect::DecidedRolledBack);
    for one in prepared {
        match state(stage, one.batch) {
            Some(State::Decided | State::Done) if !lost => stage.world.commit_there(one),
            Some(State::Intent) => {}
            _ => stage.world.far.prepared.retain(|other| other.batch != one.batch),
        }
    }
    for id in open {
        if state(stage, id) == Some(State::Decided) {
            set(stage, id, State::Done);
        }
    }
    Ok(())
}
