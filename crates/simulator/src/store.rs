//! What is durable: the extension's tables (actions, their journal, arms, outcomes, integrity). A crash takes nothing
//! of it.

use std::collections::BTreeMap;
use std::rc::Rc;

use healing::classify::Problem;
use healing::config::Config;
use healing::engine::{Arm, Attempt, Reason, Request};
use healing::integrity::{Assessment, StateRecord};
use healing::learning::Context;
use healing::lifecycle::{Lesson, Status};
use healing::plan::{IndexRef, Plan, Step};
use healing::recovery::{Gone, JournalEntry, StepState, StopReason, retry_at};
use healing::snapshot::{Snapshot, UnixMs};
use healing::verification::Verification;
use serde_json::Value;

use crate::audit::Audit;
use crate::checks::undone::Before;
use crate::learning::Learning;
use crate::two_phase::ServerBatch;

/// Earlier actions that a decision looks at, milliseconds.
const HISTORY_MS: i64 = 30 * 24 * 3_600_000;

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the server's clock.
    pub wall: UnixMs,
    /// In truth.
    pub real: UnixMs,
}

/// A row of `ruvector.actions`.
#[derive(Debug, Clone)]
pub struct Action {
    /// Its number.
    pub id: i64,
    /// The collection.
    pub collection: usize,
    /// Where it stands.
    pub status: Status,
    /// Who asked.
    pub request: Request,
    /// The problem, its plan and what it was made from.
    pub planned: Option<Rc<Planned>>,
    /// Nothing was wrong in truth with what the plan is about, when it was made.
    pub needless: bool,
    /// A human did approve.
    pub approved: bool,
    /// The verdict to keep is recorded.
    pub keep: bool,
    /// What was measured.
    pub verification: Option<Verification>,
    /// Why its worker is to stop.
    pub stop_reason: Option<StopReason>,
    /// When that was asked.
    pub stop_asked: Option<Moment>,
    /// When it was decided.
    pub decided: Option<Moment>,
    /// When a human approved it.
    pub approved_at: Option<Moment>,
    /// When its worker began.
    pub started: Option<Moment>,
    /// How things were when it began.
    pub before: Option<Before>,
    /// When it ended.
    pub ended: Option<Moment>,
    /// The healer stops the worker then (wall clock).
    pub deadline: Option<UnixMs>,
    /// The journal.
    pub entries: Vec<JournalEntry>,
    /// Why it ended so.
    pub note: String,
    /// Outcomes written for it.
    pub outcomes: u32,
    /// What its end says of the remedy.
    pub lesson: Option<Lesson>,
    /// Workers that were started for it.
    pub starts: u32,
    /// When the last one was.
    pub last_start: Option<Moment>,
    /// Why the one before is gone.
    pub gone: Gone,
    /// The server crashed while it had a worker.
    pub crashed: bool,
}

/// What a decision to act consists of.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The problem.
    pub problem: Problem,
    /// The plan.
    pub plan: Plan,
    /// The observation that it was made from.
    pub before: Snapshot,
    /// When that was taken, in truth.
    pub observed: UnixMs,
    /// No partition could be seen when it was decided.
    pub unlisted: bool,
    /// When what it rests on was measured, in truth: an old reading, or the moment of the decision.
    pub panel: UnixMs,
    /// The indexes that the plan names in truth, when it was made.
    pub true_before: Vec<Condition>,
}

/// An index in truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// It can be searched.
    pub valid: bool,
    /// Its size.
    pub bytes: u64,
    /// The search effort that is set for it.
    pub effort: u32,
    /// What searches find.
    pub recall: f64,
    /// What one costs, buffers.
    pub blocks: f64,
    /// How far it is from a fresh build.
    pub wear: f64,
}

impl Condition {
    /// Whether this is better than `before` in anything.
    pub fn is_better(&self, before: &Condition) -> bool {
        self.valid && !before.valid
            || (self.bytes as f64) < 0.97 * before.bytes as f64
            || self.recall > before.recall + 0.005
            // A panel may take too small a rise for enough, which its next reading mends; the rise is no drift.
            || (self.effort > before.effort && self.recall > before.recall)
            || self.wear < before.wear - 0.005
    }

    /// Whether searches clearly find less than `before`, and less than the objective; find nothing any more; or cost clearly
    /// more and find no more.
    pub fn is_worse(&self, before: &Condition, objective: f64) -> bool {
        let less = self.recall < before.recall.min(objective) - RECALL_LOST;
        let dearer = self.blocks > DEARER * before.blocks && self.recall <= before.recall;
        before.valid && (!self.valid || less || dearer)
    }
}

impl Action {
    /// The plan.
    ///
    /// # Panics
    /// When the action was not decided.
    pub fn planned(&self) -> &Rc<Planned> {
        match &self.planned {
            Some(planned) => planned,
            None => panic!("action {} has no plan", self.id),
        }
    }

    /// Appends to the journal.
    pub fn note_step(&mut self, step_no: u32, step: &Step, state: StepState, details: Value) {
        self.entries.push(JournalEntry { step_no, step: step.clone(), state, details });
    }

    /// Whether a human asked for it.
    pub fn by_hand(&self) -> bool {
        self.request != Request::Automatic
    }
}

/// Recall that a comparison may lose by its noise: here the efforts of a panel err apart, and of forty the luckiest is taken.
const RECALL_LOST: f64 = 0.06;
/// So many times the buffers of a search are clearly more.
const DEARER: f64 = 1.3;

/// What the healer last saw of a collection: a row of `ruvector.integrity`.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The observation.
    pub snapshot: Snapshot,
    /// What it says.
    pub assessment: Assessment,
    /// The collection's version that it shows.
    pub version: u64,
    /// The collection's facts that it shows.
    pub facts: u64,
    /// When it was taken, in truth.
    pub real: UnixMs,
    /// The problems that it shows, once they were asked for.
    pub present: Option<Vec<Context>>,
    /// A further sample of the same version changes nothing: state normal, nothing weak.
    pub quiet: bool,
}

/// Rows that the moves of an action took along before it was verified.
fn moved(entries: &[JournalEntry]) -> Option<u64> {
    let done = entries.iter().filter(|entry| entry.state == StepState::Done);
    done.filter_map(|entry| entry.details.get("moved")?.as_u64()).reduce(|a, b| a + b)
}

/// The tables.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// Actions by number.
    pub actions: BTreeMap<i64, Action>,
    /// Actions that are not over.
    pub open: Vec<i64>,
    /// State of each collection.
    pub records: Vec<Option<StateRecord>>,
    /// Last observation of each.
    pub observed: Vec<Option<Observed>>,
    /// Last reason of each for not acting.
    pub reasons: Vec<Option<Reason>>,
    /// Arms of each.
    pub arms: Vec<Vec<Arm>>,
    /// Actions of each, oldest first.
    pub by_collection: Vec<Vec<i64>>,
    /// Last refusal of each, with all that it rests on and until when it holds.
    pub refused: Vec<Option<Refused>>,
    /// Losers of successes that could not be dropped in time: to be dropped later.
    pub losers: Vec<(usize, IndexRef)>,
    /// Ended actions with something left to be undone.
    pub unfinished: Vec<Unfinished>,
    /// The signed log of all of it.
    pub audit: Audit,
    /// What is learned of it.
    pub learning: Learning,
    /// Batches of rows between this server and the other.
    pub batches: Vec<ServerBatch>,
    /// Number of the last of them.
    pub last_batch: i64,
    /// Counts changes of actions and arms.
    pub stamp: u64,
    last_id: i64,
}

/// An ended action of which something is left to be undone: nothing else acts on the table before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// The action.
    pub action: i64,
    /// Its collection.
    pub collection: usize,
    /// How often that was tried since it ended.
    pub tries: u32,
    /// When it was last tried, or ended, by the wall clock; None: a human wants it tried now.
    pub last: Option<UnixMs>,
}

impl Unfinished {
    /// Whether it is to be tried now.
    pub fn is_due(&self, wall: UnixMs) -> bool {
        // A clock that went back makes nobody wait.
        self.last.is_none_or(|last| wall < last || wall >= retry_at(self.tries, last))
    }
}

/// A refusal is the same as long as this is the same, and the time has not come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Basis {
    /// The collection's version.
    pub version: u64,
    /// Actions and arms.
    pub stamp: u64,
    /// The state.
    pub record: StateRecord,
    /// Free disk.
    pub disk_free: u64,
    /// The server's clock.
    pub clock_offset: i64,
    /// The observation says that the server is in recovery.
    pub in_recovery: bool,
}

/// A refusal to act.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refused {
    /// What it rests on.
    pub basis: Basis,
    /// Not before this moment (wall clock) can the core say anything else.
    pub until: UnixMs,
}

impl Store {
    /// Empty tables for so many collections.
    pub fn new(collections: usize) -> Self {
        Self {
            records: vec![None; collections],
            observed: vec![None; collections],
            reasons: vec![None; collections],
            arms: vec![vec![]; collections],
            by_collection: vec![vec![]; collections],
            refused: vec![None; collections],
            learning: Learning::new(collections),
            ..Self::default()
        }
    }

    /// A new row of `ruvector.actions`.
    pub fn propose(&mut self, collection: usize, request: Request) -> i64 {
        self.last_id += 1;
        self.stamp += 1;
        let id = self.last_id;
        self.actions.insert(
            id,
            Action {
                id,
                collection,
                status: Status::Proposed,
                request,
                planned: None,
                before: None,
                needless: false,
                approved: false,
                keep: false,
                verification: None,
                stop_reason: None,
                stop_asked: None,
                decided: None,
                approved_at: None,
                started: None,
                ended: None,
                deadline: None,
                entries: vec![],
                note: String::new(),
                outcomes: 0,
                lesson: None,
                starts: 0,
                last_start: None,
                gone: Gone::Death,
                crashed: false,
            },
        );
        self.open.push(id);
        self.by_collection[collection].push(id);
        id
    }

    /// Writes a row of the audit log.
    pub fn log(&mut self, event: &str, action: i64, wall: UnixMs, details: &str) {
        self.audit.log(event, action, wall, details);
    }

    /// The row of this number.
    ///
    /// # Panics
    /// When there is none.
    pub fn action(&mut self, id: i64) -> &mut Action {
        match self.actions.get_mut(&id) {
            Some(action) => action,
            None => panic!("there is no action {id}"),
        }
    }

    /// Open actions of a collection.
    pub fn open_of(&self, collection: usize) -> impl Iterator<Item = &Action> {
        self.open.iter().filter_map(|id| self.actions.get(id)).filter(move |a| a.collection == collection)
    }

    /// Whether a worker may be changing a collection.
    pub fn in_flight(&self, collection: usize) -> u32 {
        let left = self.unfinished.iter().filter(|left| left.collection == collection).count();
        (self.open_of(collection).filter(|action| action.status.is_in_flight()).count() + left) as u32
    }

    /// The same on the whole server.
    pub fn all_in_flight(&self) -> u32 {
        self.open.iter().filter(|id| self.actions.get(id).is_some_and(|a| a.status.is_in_flight())).count()
            as u32
    }

    /// Moves an action; the move must be one of the table's. A row that is over leaves the open ones.
    ///
    /// # Errors
    /// The illegal move.
    pub fn advance(&mut self, id: i64, to: Status, at: Moment) -> Result<(), String> {
        self.stamp += 1;
        let action = self.action(id);
        action.status = action.status.advance(to).map_err(|error| error.to_string())?;
        if to == Status::Executing {
            action.started = Some(at);
        }
        if to.is_terminal() {
            action.ended = Some(at);
            self.open.retain(|open| *open != id);
        }
        let event = if to.is_terminal() { "ended" } else { "status" };
        self.log(event, id, at.wall, to.as_str());
        Ok(())
    }

    /// Earlier actions on a collection, as a decision sees them.
    pub fn history(&self, collection: usize, wall: UnixMs) -> Vec<Attempt> {
        self.by_collection[collection]
            .iter()
            .rev()
            .filter_map(|id| self.actions.get(id))
            .filter_map(|action| {
                let planned = action.planned.as_ref()?;
                let started_at = action.started.or(action.decided)?.wall;
                (started_at > wall - HISTORY_MS).then(|| Attempt {
                    started_at,
                    ended_at: action.ended.map(|ended| ended.wall),
                    status: action.status,
                    lesson: action.lesson,
                    lambda_planned: Some(planned.problem.component.lambda),
                    strategy: planned.plan.strategy.clone(),
                    problem_class: planned.problem.class.as_str().to_owned(),
                    lambda_before: action.verification.as_ref().and_then(|v| v.of_problem.before),
                    lambda_after: action.verification.as_ref().and_then(|v| v.of_problem.after),
                    lambda_placed: planned.plan.params.get("lambda_placed").and_then(Value::as_f64),
                    rows_moved: moved(&action.entries),
                    nodes: planned.problem.component.nodes.clone(),
                })
            })
            .collect()
    }

    /// A human has looked: open breakers are closed, and what is left to be undone is tried now. Whether there was any.
    pub fn close_breakers(&mut self, collection: usize, wall: UnixMs) -> bool {
        let mut any = self.learning.forgive(collection);
        for arm in self.arms[collection].iter_mut().filter(|arm| arm.breaker_open) {
            *arm = arm.closed(wall);
            any = true;
        }
        for left in self.unfinished.iter_mut().filter(|left| left.collection == collection) {
            (left.tries, left.last) = (0, None);
            any = true;
        }
        self.stamp += u64::from(any);
        any
    }

    /// Writes what the end of an action says of its remedy.
    pub fn record_arm(
        &mut self,
        collection: usize,
        strategy: &str,
        lesson: Lesson,
        wall: UnixMs,
        config: &Config,
    ) {
        self.stamp += 1;
        let arms = &mut self.arms[collection];
        let at = arms.iter().position(|arm| arm.strategy == strategy).unwrap_or_else(|| {
            arms.push(Arm::new(strategy));
            arms.len() - 1
        });
        arms[at] = arms[at].after(lesson, wall, config, wall as u64);
    }

    /// Forgets failures in a row of a collection's remedies (a planted defect).
    pub fn forget_failures(&mut self, collection: usize) {
        for arm in &mut self.arms[collection] {
            (arm.failures, arm.backoff_until, arm.breaker_open) = (0, None, false);
        }
    }
}
