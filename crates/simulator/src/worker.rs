//! The worker of one action, as the extension's `background::action`: a queue of operations, between any two of which
//! it may die.

use std::collections::VecDeque;
use std::rc::Rc;

use healing::lifecycle::{Lesson, Status};
use healing::plan::{self, Part, Step};
use healing::recovery::{self, Gone, RecoveryCommand, StopReason, patience_s};
use healing::remedies;
use healing::verification::{Outcome, Verification, verify};

use crate::checks;
use crate::defects::Defect;
use crate::stage::Stage;
use crate::steps;
use crate::store::{Action, Planned, Unfinished};
use crate::world::observe::{self, Kind};

/// Times that an undo is tried before its action ends and a human must look, with a growing pause between.
const UNDO_TRIES: u32 = 6;
/// The window is extended this often while a measurement is missing.
const WINDOWS_MAX: u32 = 3;

/// What an operation works on.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The action.
    pub action: i64,
    /// Its collection.
    pub collection: usize,
    /// The step's position in the plan.
    pub step_no: u32,
    /// The step.
    pub step: Step,
    /// The inverse that is run, when it is one.
    pub command: Option<Rc<RecoveryCommand>>,
    /// How often it was tried before.
    pub tries: u32,
}

/// How an operation went.
#[derive(Debug)]
pub enum Then {
    /// Done; the next one begins after so many milliseconds.
    Next(i64),
    /// To be tried again after so many milliseconds.
    Again(i64),
    /// The same goes on under this name after so many milliseconds.
    As(&'static str, i64),
    /// It was no gain: a comparison was lost, no effort finds enough.
    Lost(String),
    /// There was nothing to do.
    Noop(String),
    /// Circumstances were in the way for longer than patience lasts.
    PutOff(String),
    /// The process is killed: out of memory.
    Killed,
}

impl Then {
    /// What needs a quiet moment was tried so often: again after a while, or put off.
    pub fn patiently(tries: u32, why: &str) -> Then {
        match patience_s(tries) {
            Some(seconds) => Then::Again(seconds as i64 * 1000),
            None => Then::PutOff(why.to_owned()),
        }
    }
}

/// An operation of a step: short, with nothing durable in the middle of it.
pub type Run = fn(&mut Stage, &Turn) -> Result<Then, String>;

/// An operation with what it works on.
#[derive(Debug, Clone)]
pub struct Op {
    /// Its name, `step.phase`.
    pub name: &'static str,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Lock,
    Begin,
    Step(Run, Turn),
    ToVerifying,
    Measure,
    Keep(Box<Verification>),
    Settle,
    Finish,
}

/// What the worker is about.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Steps,
    /// Undoing because it failed or was not verified.
    Undo {
        error: String,
        lesson: Lesson,
        verification: Option<Box<Verification>>,
    },
    /// Undoing what is not complete, since a part failed or the worker died; what is complete goes on.
    Retreat {
        error: String,
        lesson: Lesson,
    },
    /// Undoing after a crash or a stop.
    Recover {
        gone: Gone,
        crashed: bool,
    },
    /// Undoing what an ended action has left.
    Late,
    /// The verdict to keep is recorded: dropping the losers.
    Tidy {
        resolving: bool,
    },
    End {
        status: Status,
        lesson: Lesson,
        note: String,
        verification: Option<Box<Verification>>,
    },
}

/// A process.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its number.
    pub pid: i32,
    /// Its action.
    pub action: i64,
    /// It has taken the action's advisory lock.
    pub holds_lock: bool,
    /// When it was started, in truth.
    pub born_real: i64,
    /// The same by the wall clock.
    pub born_wall: i64,
    ready_at: i64,
    waits_until_wall: Option<i64>,
    queue: VecDeque<Op>,
    phase: Phase,
    tries: u32,
    windows: u32,
    /// Panels of the verification that were cancelled in a row.
    cancelled: u32,
    /// Why a part of the plan is not part of it any more.
    without: Option<(String, Lesson)>,
    /// The action ends with something still to be undone.
    leaves_rest: bool,
    /// There was nothing to do.
    noop: bool,
}

fn simple(name: &'static str, what: What) -> Op {
    Op { name, what }
}

/// An operation of a step.
pub fn op(name: &'static str, run: Run, turn: &Turn) -> Op {
    Op { name, what: What::Step(run, turn.clone()) }
}

impl Worker {
    /// A worker that begins at this moment.
    pub fn new(pid: i32, action: i64, begins: i64, wall: i64) -> Self {
        Self {
            pid,
            action,
            holds_lock: false,
            born_real: begins,
            born_wall: wall,
            ready_at: begins,
            waits_until_wall: None,
            queue: VecDeque::from([simple("worker.lock", What::Lock)]),
            phase: Phase::Steps,
            tries: 0,
            windows: 0,
            cancelled: 0,
            without: None,
            leaves_rest: false,
            noop: false,
        }
    }

    /// Name of the operation that is next.
    pub fn at(&self) -> &'static str {
        self.queue.front().map_or("worker.end", |op| op.name)
    }
}

/// Runs every worker up to the world's present moment.
pub fn run_all(stage: &mut Stage) {
    if stage.workers.is_empty() {
        return;
    }
    let end = stage.world.now;
    let pids: Vec<i32> = stage.workers.iter().map(|worker| worker.pid).collect();
    for pid in pids {
        while stage.world.is_up() {
            let Some(at) = stage.workers.iter().position(|worker| worker.pid == pid) else { break };
            let offset = stage.world.clock_offset;
            let worker = &mut stage.workers[at];
            if let Some(wall) = worker.waits_until_wall {
                if wall - offset > end {
                    break;
                }
                worker.ready_at = worker.ready_at.max(wall - offset);
                worker.waits_until_wall = None;
            }
            if worker.ready_at > end {
                break;
            }
            let mut worker = stage.workers.remove(at);
            stage.world.now = worker.ready_at;
            let lives = worker.turn(stage);
            stage.world.now = end;
            let (busy, action) = (worker.holds_lock, worker.action);
            if lives {
                stage.workers.insert(at.min(stage.workers.len()), worker);
            }
            if busy {
                strike_drops(stage, action);
                strike_aborts(stage, action);
                strike_armed(stage, pid);
            }
        }
    }
}

/// A human who drops what an action is at.
fn strike_drops(stage: &mut Stage, action: i64) {
    for after in &mut stage.armed_drops {
        *after = after.saturating_sub(1);
    }
    let Some(at) = stage.armed_drops.iter().position(|after| *after == 0) else { return };
    stage.armed_drops.remove(at);
    let action = stage.store.action(action);
    let (number, planned) = (action.collection, Rc::clone(action.planned()));
    let Some(of) = planned.plan.steps.first().and_then(Step::target) else { return };
    let bears = stage.world.collections[number].bearing_its_name(of).filter(|index| index.valid);
    if let Some(oid) = bears.map(|index| index.oid) {
        stage.drop_by_hand(number, oid);
    }
}

/// A human who aborts an action at work.
fn strike_aborts(stage: &mut Stage, action: i64) {
    for after in &mut stage.armed_aborts {
        *after = after.saturating_sub(1);
    }
    let Some(at) = stage.armed_aborts.iter().position(|after| *after == 0) else { return };
    stage.armed_aborts.remove(at);
    let now = stage.moment();
    let action = stage.store.action(action);
    if action.status.is_in_flight() && !action.keep && action.stop_reason.is_none() {
        (action.stop_reason, action.stop_asked) = (Some(StopReason::Abort), Some(now));
    }
}

/// A crash whose moment has come.
fn strike_armed(stage: &mut Stage, pid: i32) {
    for armed in &mut stage.armed {
        armed.after = armed.after.saturating_sub(1);
    }
    if let Some(at) = stage.armed.iter().position(|armed| armed.after == 0) {
        let armed = stage.armed.remove(at);
        if armed.server {
            stage.crash_server(20_000);
        } else {
            stage.kill_worker(pid);
        }
    }
}

impl Worker {
    /// One operation; false when the process ends.
    fn turn(&mut self, stage: &mut Stage) -> bool {
        let Some(Op { name, what }) = self.queue.pop_front() else { return false };
        match what {
            What::Lock => {
                if stage.holder(self.action).is_some() {
                    return false;
                }
                self.holds_lock = true;
                self.ready_at += 100;
                let errors = stage.world.weather.worker_errors;
                if errors > 0.0 && stage.world.random.chance(errors) {
                    let id = self.action;
                    stage.say(|| format!("the worker of action {id} errs"));
                    return false;
                }
                return self.plan_work(stage);
            }
            What::Begin => {
                let at = stage.moment();
                if let Err(error) = stage.store.advance(self.action, Status::Executing, at) {
                    stage.violated("lifecycle", error);
                    return false;
                }
                self.begin_from_what_is_seen_now(stage);
                let before = checks::undone::before(stage, &stage.store.actions[&self.action]);
                let action = stage.store.action(self.action);
                action.before = Some(before);
                action.deadline = Some(at.wall + (action.planned().plan.timeout_s * 1000.0) as i64);
                stage.coverage.began(&action.planned().plan.strategy);
            }
            What::Step(_, turn) if self.enough_is_done(stage, &turn) => {
                let begun: Vec<Part> =
                    stage.store.action(self.action).entries.iter().map(|entry| entry.step.part()).collect();
                self.queue.retain(|op| match &op.what {
                    What::Step(_, turn) => turn.command.is_some() || begun.contains(&turn.step.part()),
                    _ => true,
                });
                let why = "half of its time is over: the others wait for the next action".to_owned();
                self.without.get_or_insert((why, Lesson::Helped));
            }
            What::Step(run, mut turn) => match run(stage, &turn) {
                Ok(Then::Next(ms)) => self.ready_at += ms.max(1),
                Ok(Then::Again(ms)) => {
                    self.ready_at += ms.max(1);
                    turn.tries += 1;
                    self.queue.push_front(Op { name, what: What::Step(run, turn) });
                }
                Ok(Then::As(name, ms)) => {
                    self.ready_at += ms.max(1);
                    turn.tries = 0;
                    self.queue.push_front(Op { name, what: What::Step(run, turn) });
                }
                Ok(Then::Lost(reason)) => {
                    self.lost(stage, &turn, format!("the comparison was lost: {reason}"), Lesson::NoGain);
                }
                Ok(Then::Noop(why)) => self.lost(stage, &turn, why, Lesson::Nothing),
                Ok(Then::PutOff(why)) => self.failed(stage, why, Lesson::Postponed),
                Ok(Then::Killed) => {
                    let id = self.action;
                    stage.coverage.out_of_memory += 1;
                    stage.out_of_memory(id);
                    return false;
                }
                // Before its intent a step has done nothing: the world is not as planned.
                Err(error) if name.ends_with(".intent") => self.failed(stage, error, Lesson::Postponed),
                Err(error) => self.failed(stage, error, Lesson::Fault),
            },
            What::ToVerifying => self.begin_verifying(stage),
            What::Measure => self.measure(stage),
            What::Keep(verification) => self.keep(stage, *verification),
            What::Settle => self.settle(stage),
            What::Finish => {
                self.finish(stage);
                return false;
            }
        }
        true
    }

    /// Whether this begins a further part of the plan and half of its time is over.
    fn enough_is_done(&self, stage: &mut Stage, turn: &Turn) -> bool {
        let action = stage.store.action(self.action);
        let plan = &action.planned().plan;
        let begins = self.phase == Phase::Steps
            && turn.command.is_none()
            && !turn.step.is_after_verification()
            && matches!(turn.step.part(), Part::Index(_))
            && action.entries.iter().all(|entry| entry.step.part() != turn.step.part());
        let complete = recovery::complete(plan, &action.entries);
        // λ is not asked for: without a lower target than the normal boundary what is planned is below it.
        let elapsed_s = (self.ready_at - self.born_real) as f64 / 1000.0;
        begins
            && !complete.is_empty()
            // Indexes that are rebuilt for the sake of moved rows are not one gain each.
            && !complete.contains(&Part::Whole)
            && plan::enough(elapsed_s, plan.timeout_s, None, 1.0).is_some()
    }

    /// What is to be done, from where the action stands.
    fn plan_work(&mut self, stage: &mut Stage) -> bool {
        let uncounted = stage.has(Defect::DeathUncounted);
        let action = stage.store.action(self.action);
        match action.status {
            Status::Approved => {
                self.queue.push_back(simple("worker.begin", What::Begin));
                let turns = turns(action, |step| !step.is_after_verification());
                self.queue.extend(turns.iter().flat_map(steps::expand));
                self.queue.push_back(simple("worker.to_verifying", What::ToVerifying));
            }
            Status::Executing | Status::Verifying if action.keep => {
                self.phase = Phase::Tidy { resolving: true };
                self.queue.push_back(simple("worker.settle", What::Settle));
            }
            Status::Executing | Status::Verifying => {
                let (gone, crashed) = match action.gone {
                    Gone::Death if uncounted => (Gone::Restart, false),
                    gone => (gone, action.crashed && !uncounted),
                };
                let complete = recovery::complete(&action.planned().plan, &action.entries);
                // Once: what is being verified may be what kills the worker.
                self.phase = if gone.keeps_complete_parts() && action.starts == 2 && !complete.is_empty() {
                    let (_, lesson, why) = gone.ending(crashed);
                    Phase::Retreat { error: why.to_owned(), lesson }
                } else {
                    Phase::Recover { gone, crashed }
                };
                self.queue.push_back(simple("worker.settle", What::Settle));
            }
            _ => {
                let left = stage.store.unfinished.iter().any(|left| left.action == self.action);
                self.phase = Phase::Late;
                self.queue.push_back(simple("worker.settle", What::Settle));
                return left;
            }
        }
        true
    }

    fn begin_verifying(&mut self, stage: &mut Stage) {
        let at = stage.moment();
        // One that goes on after a crash may have got here before.
        if stage.store.action(self.action).status == Status::Executing
            && !stage.has(Defect::VerifyingSkipped)
            && let Err(error) = stage.store.advance(self.action, Status::Verifying, at)
        {
            stage.violated("lifecycle", error);
        }
        let number = stage.store.action(self.action).collection;
        let window_s = stage.world.collections[number].config.verify_window_seconds as f64;
        let action = stage.store.action(self.action);
        let seconds = f64::from(WINDOWS_MAX) * window_s + action.planned().plan.timeout_s;
        action.deadline = Some(at.wall + (seconds * 1000.0) as i64);
        self.window(stage);
    }

    fn window(&mut self, stage: &Stage) {
        let number = stage.store.actions[&self.action].collection;
        let window_ms = stage.world.collections[number].config.verify_window_seconds * 1000;
        self.windows += 1;
        self.waits_until_wall = Some(stage.world.wall() + window_ms);
        self.queue.push_back(simple("worker.measure", What::Measure));
    }

    /// What it is judged against is what was there when it began, not when it was planned.
    fn begin_from_what_is_seen_now(&self, stage: &mut Stage) {
        let action = &stage.store.actions[&self.action];
        let (number, planned) = (action.collection, Rc::clone(action.planned()));
        let Some(observed) = &stage.store.observed[number] else { return };
        if observed.assessment.lambda.is_none() || observed.snapshot.taken_at <= planned.before.taken_at {
            return;
        }
        let before = observed.snapshot.clone();
        stage.store.action(self.action).planned = Some(Rc::new(Planned { before, ..(*planned).clone() }));
    }

    /// Measures the action's indexes anew and asks the core whether it helped.
    fn measure(&mut self, stage: &mut Stage) {
        let (number, planned) = {
            let action = stage.store.action(self.action);
            (action.collection, Rc::clone(action.planned()))
        };
        let entries = stage.store.action(self.action).entries.clone();
        let parts = recovery::complete(&planned.plan, &entries);
        let plan = planned.plan.only(&parts);
        let verdicts = recovery::verdicts(&plan, &entries);
        let names: Vec<&str> =
            plan.steps.iter().filter_map(Step::target).map(|of| of.name.as_str()).collect();
        let now = (stage.world.wall(), stage.world.epoch);
        let as_built = stage.has(Defect::StructureNotReadAgain);
        let collection = &stage.world.collections[number];
        let mut due = Vec::new();
        for (t, table) in collection.tables.iter().enumerate() {
            for (i, index) in table.indexes.iter().enumerate() {
                if index.valid && names.contains(&index.qualified().as_str()) {
                    due.push(((t, i), Kind::Panel));
                    if Kind::Structure.is_due(table, index, &collection.config, now, as_built) {
                        due.push(((t, i), Kind::Structure));
                    }
                }
            }
        }
        for (place, kind) in due {
            if observe::take(&mut stage.world, number, place, kind).is_none() {
                // The others are not due again by then.
                match patience_s(self.cancelled) {
                    Some(seconds) => {
                        self.cancelled += 1;
                        self.ready_at += seconds as i64 * 1000;
                        self.queue.push_front(simple("worker.measure", What::Measure));
                    }
                    None => self.failed(stage, "a measurement failed".to_owned(), Lesson::Postponed),
                }
                return;
            }
            self.ready_at += 500;
        }
        let after = observe::snapshot(&stage.world, number);
        let Some(remedy) = remedies::find(&planned.plan.strategy) else {
            let error = format!("there is no strategy {}", planned.plan.strategy);
            self.failed(stage, error, Lesson::Fault);
            return;
        };
        let whole = plan.steps.len() == planned.plan.steps.len();
        let problem = if whole { planned.problem.clone() } else { planned.problem.only(&parts) };
        let outcome = Outcome {
            problem: &problem,
            plan: &plan,
            before: &planned.before,
            after: &after,
            verdicts: &verdicts,
            entries: &entries,
            config: &stage.world.collections[number].config,
        };
        let mut verification = match verify(remedy, &outcome) {
            Ok(verification) => verification,
            Err(error) => {
                self.failed(stage, error.to_string(), Lesson::Fault);
                return;
            }
        };
        if [Defect::CreditedNoop, Defect::NoComparison, Defect::EffortNotCarried]
            .iter()
            .any(|of| stage.has(*of))
        {
            verification.verified = true;
            verification.complete = true;
        }
        if !verification.complete && self.windows < WINDOWS_MAX {
            self.window(stage);
        } else if verification.verified {
            self.queue.push_back(simple("worker.keep", What::Keep(Box::new(verification))));
        } else {
            let left_out =
                self.without.as_ref().map_or_else(String::new, |(why, _)| format!("; left out: {why}"));
            let error = format!("not verified: {}{left_out}", verification.reason);
            let lesson =
                Lesson::unverified(verification.complete, self.without.as_ref().map(|(_, lesson)| *lesson));
            self.give_up(error, lesson, Some(Box::new(verification)));
        }
    }

    /// Records the verdict to keep. A wish to stop that was accepted before comes first.
    fn keep(&mut self, stage: &mut Stage, verification: Verification) {
        let as_built = stage.has(Defect::KeepIgnoresAbort);
        let action = stage.store.action(self.action);
        if action.stop_reason.is_some() && !as_built {
            self.give_up("asked to stop".to_owned(), Lesson::Nothing, Some(Box::new(verification)));
            return;
        }
        action.keep = true;
        action.verification = Some(verification);
        self.phase = Phase::Tidy { resolving: false };
        let kept = recovery::complete(&action.planned().plan, &action.entries);
        let mut turns = turns(action, Step::is_after_verification);
        turns.retain(|turn| kept.contains(&turn.step.part()));
        self.queue.extend(turns.iter().flat_map(steps::expand));
        self.queue.push_back(simple("worker.settle", What::Settle));
    }

    /// What runs now failed.
    fn failed(&mut self, stage: &mut Stage, error: String, lesson: Lesson) {
        let action = self.action;
        stage.say(|| format!("action {action}: {error}"));
        match &mut self.phase {
            Phase::Steps => self.retreat(stage, error, lesson),
            Phase::Tidy { resolving: resolving @ false } => {
                *resolving = true;
                self.queue = VecDeque::from([simple("worker.settle", What::Settle)]);
            }
            _ => {
                self.tries += 1;
                if self.tries == UNDO_TRIES {
                    if self.phase == Phase::Late {
                        // The healer tries it again.
                        self.queue.clear();
                        return;
                    }
                    if matches!(self.phase, Phase::Tidy { .. }) {
                        if !stage.has(Defect::LoserForgotten) {
                            self.remember_losers(stage);
                        }
                    } else {
                        self.leaves_rest = true;
                    }
                    self.undo_failed(error);
                } else {
                    self.ready_at += 1000 << self.tries;
                    self.queue = VecDeque::from([simple("worker.settle", What::Settle)]);
                }
            }
        }
    }

    /// The action ends; what it could not drop is dropped by the healer later. (An early extension forgot it.)
    fn remember_losers(&self, stage: &mut Stage) {
        let action = stage.store.action(self.action);
        let (number, planned) = (action.collection, Rc::clone(action.planned()));
        let left = recovery::resolve(&planned.plan, &action.entries, true);
        stage.store.losers.extend(left.into_iter().filter_map(|command| match command {
            RecoveryCommand::DropLoser { of, .. } => Some((number, of)),
            _ => None,
        }));
    }

    /// The action ends; what it could not undo is tried again by the healer.
    fn remember_rest(&self, stage: &mut Stage) {
        let wall = stage.world.wall();
        let collection = stage.store.action(self.action).collection;
        let left = Unfinished { action: self.action, collection, tries: 0, last: Some(wall) };
        stage.store.unfinished.push(left);
    }

    fn give_up(&mut self, error: String, lesson: Lesson, verification: Option<Box<Verification>>) {
        self.phase = Phase::Undo { error, lesson, verification };
        self.queue = VecDeque::from([simple("worker.settle", What::Settle)]);
    }

    /// A part failed: what is complete goes on without it. In the verification all that is left is complete.
    fn retreat(&mut self, stage: &mut Stage, error: String, lesson: Lesson) {
        let action = stage.store.action(self.action);
        let parts = recovery::complete(&action.planned().plan, &action.entries);
        if parts.is_empty() || action.status == Status::Verifying {
            self.give_up(error, lesson, None);
        } else {
            self.phase = Phase::Retreat { error, lesson };
            self.queue = VecDeque::from([simple("worker.settle", What::Settle)]);
        }
    }

    /// A part was no gain, or there was nothing to do: it is taken back, the other parts go on.
    fn lost(&mut self, stage: &mut Stage, turn: &Turn, error: String, lesson: Lesson) {
        let part = turn.step.part();
        let action = stage.store.action(self.action);
        let planned = Rc::clone(action.planned());
        let others = planned.plan.steps.iter().any(|step| step.part() != part);
        if !others {
            self.noop = lesson == Lesson::Nothing;
            self.give_up(error, lesson, None);
            return;
        }
        let back: Vec<Op> = recovery::undo_part(&action.entries, &part)
            .into_iter()
            .filter_map(|command| turn_of(self.action, action.collection, &planned.plan.steps, command))
            .flat_map(|turn| steps::expand_inverse(&turn))
            .collect();
        self.queue.retain(|op| match &op.what {
            What::Step(_, turn) => turn.step.part() != part,
            _ => true,
        });
        for op in back.into_iter().rev() {
            self.queue.push_front(op);
        }
        self.without = Some((error, lesson));
    }

    fn undo_failed(&mut self, error: String) {
        let bad = |why: &str, verification| Phase::End {
            status: Status::RollbackFailed,
            lesson: Lesson::UndoFailed,
            note: format!("{why}; undoing it failed: {error}"),
            verification,
        };
        self.phase = match std::mem::replace(&mut self.phase, Phase::Steps) {
            Phase::Undo { error: first, verification, .. } => bad(&first, verification),
            Phase::Retreat { error: first, .. } => bad(&first, None),
            Phase::Recover { gone, crashed } => bad(gone.ending(crashed).2, None),
            // What fails while tidying up does not take the success back.
            _ => self.success(format!("the former index could not be dropped: {error}")),
        };
        self.queue = VecDeque::from([simple("worker.finish", What::Finish)]);
    }

    /// The end of an action that is kept, with or without a part.
    fn success(&mut self, note: String) -> Phase {
        let (note, lesson) = match self.without.take() {
            Some((why, lesson)) => (format!("a part is left out: {why} {note}"), lesson),
            None => (note, Lesson::Helped),
        };
        Phase::End { status: Status::Succeeded, lesson, note, verification: None }
    }

    /// Runs what the core says is left, until nothing is.
    fn settle(&mut self, stage: &mut Stage) {
        let in_order = stage.has(Defect::RollbackInOrder);
        let action = stage.store.action(self.action);
        let planned = Rc::clone(action.planned());
        let left = match &self.phase {
            Phase::Undo { .. } => recovery::take_back(&action.entries).map_err(|error| error.to_string()),
            Phase::Retreat { .. } => Ok(recovery::retreat(&planned.plan, &action.entries).commands),
            Phase::Late => Ok(recovery::resolve(&planned.plan, &action.entries, action.keep)),
            Phase::Tidy { .. } => Ok(recovery::resolve(&planned.plan, &action.entries, true)),
            _ => Ok(recovery::resolve(&planned.plan, &action.entries, false)),
        };
        let mut left = match left {
            Ok(left) => left,
            Err(error) => {
                self.undo_failed(error);
                return;
            }
        };
        if in_order {
            left.reverse();
        }
        if left.is_empty() {
            let effect = recovery::took_effect(&action.entries);
            if let Phase::Retreat { error, lesson } = &self.phase {
                let parts = recovery::complete(&planned.plan, &action.entries);
                let whole = planned.plan.only(&parts).steps.len() == planned.plan.steps.len();
                self.without = (!whole).then(|| (error.clone(), *lesson));
                stage.coverage.parts_kept += u64::from(!whole);
                self.phase = Phase::Steps;
                self.tries = 0;
                self.queue.push_back(simple("worker.to_verifying", What::ToVerifying));
                return;
            }
            if self.phase == Phase::Late {
                let (id, number) = (self.action, action.collection);
                stage.store.unfinished.retain(|left| left.action != id);
                stage.store.stamp += 1;
                stage.world.collections[number].touch();
                stage.coverage.finished_late += 1;
                stage.say(|| format!("collection {number}: what action {id} had left is undone"));
                return;
            }
            self.phase = match std::mem::replace(&mut self.phase, Phase::Steps) {
                Phase::Undo { error, lesson, verification } => {
                    let stopped = action.stop_reason == Some(StopReason::Abort);
                    let status = match (stopped, effect) {
                        (true, _) => Status::Aborted,
                        (false, true) => Status::RolledBack,
                        (false, false) if self.noop => Status::Noop,
                        (false, false) => Status::Failed,
                    };
                    let lesson = if stopped { Lesson::Nothing } else { lesson };
                    Phase::End { status, lesson, note: error, verification }
                }
                Phase::Recover { gone, crashed } => {
                    let (status, lesson, why) = gone.ending(crashed);
                    Phase::End { status, lesson, note: why.to_owned(), verification: None }
                }
                _ => self.success(String::new()),
            };
            self.queue.push_back(simple("worker.finish", What::Finish));
            return;
        }
        for command in left {
            let turn = turn_of(self.action, action.collection, &planned.plan.steps, command);
            self.queue.extend(turn.iter().flat_map(steps::expand_inverse));
        }
        self.queue.push_back(simple("worker.settle", What::Settle));
    }

    /// Writes the outcome, in one transaction with the status.
    fn finish(&mut self, stage: &mut Stage) {
        let Phase::End { status, lesson, note, verification } =
            std::mem::replace(&mut self.phase, Phase::Steps)
        else {
            return;
        };
        if self.leaves_rest {
            self.remember_rest(stage);
        }
        let at = stage.moment();
        let twice = stage.has(Defect::OutcomeTwice);
        let action = stage.store.action(self.action);
        if let Some(verification) = verification {
            action.verification = Some(*verification);
        }
        action.outcomes += if twice && action.starts > 1 { 2 } else { 1 };
        action.lesson = Some(lesson);
        action.note.clone_from(&note);
        let (number, planned) = (action.collection, Rc::clone(action.planned()));
        let id = self.action;
        stage.say(|| format!("collection {number}: action {id} {}: {note}", status.as_str()));
        if let Err(error) = stage.store.advance(self.action, status, at) {
            stage.violated("lifecycle", error);
        }
        stage.learn(id, lesson, status, at);
        let forgets = stage.has(Defect::FailuresForgotten);
        let Stage { store, world, .. } = stage;
        let strategy = &planned.plan.strategy;
        store.record_arm(number, strategy, lesson, at.wall, &world.collections[number].config);
        if forgets {
            store.forget_failures(number);
        }
        stage.coverage.ended(strategy, status);
        *stage.coverage.lessons.entry(lesson.as_str()).or_default() += 1;
        if lesson == Lesson::Helped {
            stage.out_of_memory.remove(&(number, strategy.clone()));
        }
        checks::ended(stage, self.action);
    }
}

fn turn_of(action: i64, collection: usize, steps: &[Step], command: RecoveryCommand) -> Option<Turn> {
    Some(Turn {
        action,
        collection,
        step_no: command.step_no(),
        step: steps.get(command.step_no() as usize)?.clone(),
        command: Some(Rc::new(command)),
        tries: 0,
    })
}

fn turns(action: &Action, wanted: impl Fn(&Step) -> bool) -> Vec<Turn> {
    (0u32..)
        .zip(&action.planned().plan.steps)
        .filter(|(_, step)| wanted(step))
        .map(|(step_no, step)| Turn {
            action: action.id,
            collection: action.collection,
            step_no,
            step: step.clone(),
            command: None,
            tries: 0,
        })
        .collect()
}
