//! The healer of the database, as the extension's `background::{healer, decide, supervise}`: samples in turns, decides
//! by the core, starts and stops workers.

use std::borrow::Cow;
use std::rc::Rc;

use healing::classify::diagnose;
use healing::config::{Config, Mode};
use healing::engine::{self, Arm, Begin, BeginInput, Decision, DecisionInput, InFlight, Reason, Request};
use healing::integrity::{IntegrityState, StateRecord};
use healing::learning::Context;
use healing::lifecycle::Status;
use healing::recovery::{self, Gone, Start, StopReason};
use healing::snapshot::{Reading, Snapshot, UnixMs};

use crate::checks;
use crate::defects::Defect;
use crate::stage::Stage;
use crate::store::{Basis, Observed, Planned, Refused, Unfinished};
use crate::two_phase;
use crate::world::World;
use crate::world::observe::{self, Kind};

/// The healer's memory: lost when it dies.
#[derive(Debug, Clone)]
pub struct Healer {
    /// When each collection is to be sampled again, wall clock.
    next_sample: Vec<Option<UnixMs>>,
    /// Not running before this, true time.
    dead_until: i64,
    /// Stalls between a sample and its decision until then.
    stalled: Option<(usize, i64)>,
    samples: u64,
}

impl Healer {
    /// A healer that just started.
    pub fn new(collections: usize) -> Self {
        Self { next_sample: vec![None; collections], dead_until: 0, stalled: None, samples: 0 }
    }

    /// Whether it is at work at this moment: not dead, not in the middle of a sample.
    pub fn is_running(&self, world: &World) -> bool {
        world.is_up() && world.now >= self.dead_until && self.stalled.is_none()
    }

    /// It dies and runs again from this moment on.
    pub fn die(&mut self, until: i64) {
        *self = Self { dead_until: until.max(self.dead_until), ..Self::new(self.next_sample.len()) };
    }
}

/// One round.
pub fn round(stage: &mut Stage) {
    if !stage.world.is_up() || stage.world.now < stage.healer.dead_until {
        return;
    }
    if let Some((collection, until)) = stage.healer.stalled {
        if stage.world.now < until {
            return;
        }
        stage.healer.stalled = None;
        decide(stage, collection);
    }
    crate::steps::pause_maintenance::end_leases(stage);
    supervise(stage);
    drop_losers(stage);
    finish_unfinished(stage);
    for collection in 0..stage.world.collections.len() {
        let wall = stage.world.wall();
        let interval_ms = stage.world.collections[collection].config.sample_interval_seconds * 1000;
        let asked = !stage.store.open.is_empty()
            && stage.store.open_of(collection).any(|action| action.status == Status::Proposed);
        let next = stage.healer.next_sample[collection];
        if !(asked || next.is_none_or(|next| !(wall..wall + interval_ms).contains(&next) || next == wall)) {
            continue;
        }
        stage.healer.next_sample[collection] = Some(wall + interval_ms);
        // A server that does not answer is asked again.
        let _ = two_phase::settle(stage, collection, true);
        if !sample(stage, collection) {
            continue;
        }
        if stage.world.weather.late > 0.0 && stage.world.noise.chance(stage.world.weather.late) {
            let stall_ms = (stage.world.noise.between(20.0, 400.0) * 1000.0) as i64;
            stage.healer.stalled = Some((collection, stage.world.now + stall_ms));
            return;
        }
        decide(stage, collection);
    }
    supervise(stage);
}

/// One sample; false when it failed, and then nothing is decided.
fn sample(stage: &mut Stage, collection: usize) -> bool {
    if stage.world.weather.lost > 0.0 && stage.world.noise.chance(stage.world.weather.lost) {
        return false;
    }
    // While an action changes the collection its worker measures.
    if stage.store.in_flight(collection) == 0 {
        for kind in [Kind::Structure, Kind::Panel] {
            let now = (stage.world.wall(), stage.world.epoch);
            let as_built = stage.has(Defect::StructureNotReadAgain);
            let here = &stage.world.collections[collection];
            let mut oldest: Option<(UnixMs, (usize, usize))> = None;
            for (t, table) in here.tables.iter().enumerate() {
                for (i, index) in table.indexes.iter().enumerate() {
                    let at = kind.taken_at(index);
                    if oldest.is_none_or(|(before, _)| at < before)
                        && index.valid
                        && !index.name.starts_with(crate::world::TRIAL_PREFIX)
                        && kind.is_due(table, index, &here.config, now, as_built)
                    {
                        oldest = Some((at, (t, i)));
                    }
                }
            }
            if let Some((_, place)) = oldest
                && observe::take(&mut stage.world, collection, place, kind).is_none()
            {
                return false;
            }
        }
    }
    store(stage, collection);
    if stage.world.weather.doubled > 0.0 && stage.world.noise.chance(stage.world.weather.doubled) {
        advance(stage, collection);
    }
    true
}

/// Stores an observation and advances the state.
fn store(stage: &mut Stage, number: usize) {
    stage.healer.samples += 1;
    let (version, facts) = (stage.world.collections[number].version, stage.world.collections[number].facts);
    let (wall, real) = (stage.world.wall(), stage.world.now);
    let in_recovery = stage.world.weather.in_recovery;
    match &mut stage.store.observed[number] {
        Some(observed) if observed.version == version => {
            observed.snapshot.taken_at = wall;
            observed.snapshot.in_recovery = in_recovery;
            observed.assessment.taken_at = wall;
            observed.real = real;
            if observed.quiet && !in_recovery {
                return;
            }
            let free = stage.world.disk_free();
            observed.snapshot.disk_free_bytes = healing::snapshot::Reading::Known(free);
        }
        // Only readings have moved since.
        Some(observed) if observed.facts == facts => {
            let same = observe::refresh(&stage.world, number, &mut observed.snapshot);
            observed.snapshot.taken_at = wall;
            observed.snapshot.in_recovery = in_recovery;
            observed.snapshot.disk_free_bytes = healing::snapshot::Reading::Known(stage.world.disk_free());
            let config = &stage.world.collections[number].config;
            if same {
                observe::judge_again(&observed.assessment, &observed.snapshot, config, stage.healer.samples);
            } else {
                observed.assessment = observe::judge(&observed.snapshot, config, stage.healer.samples);
                observed.present = None;
            }
            observed.assessment.taken_at = wall;
            (observed.version, observed.real) = (version, real);
        }
        _ => {
            let mut snapshot = observe::snapshot(&stage.world, number);
            misread(stage, number, &mut snapshot);
            let assessment =
                observe::judge(&snapshot, &stage.world.collections[number].config, stage.healer.samples);
            stage.store.observed[number] =
                Some(Observed { snapshot, assessment, version, facts, real, present: None, quiet: false });
        }
    }
    // Whatever is read, it can be assessed.
    let unknown =
        stage.store.observed[number].as_ref().and_then(|seen| seen.assessment.lambda_unknown.clone());
    if let Some(why) = unknown.filter(|why| why.starts_with(observe::ERRED)) {
        stage.violated("assessed", format!("collection {number}: {why}"));
    }
    advance(stage, number);
}

/// What a collector that errs makes of a snapshot.
fn misread(stage: &Stage, number: usize, snapshot: &mut Snapshot) {
    if stage.world.collections[number].unlisted && !stage.has(Defect::EmptyListingTrusted) {
        snapshot.partitions.clear();
    }
    for index in &mut snapshot.indexes {
        if let (Reading::Known(bytes), true) = (&mut index.bytes, stage.has(Defect::SizesDoubled)) {
            *bytes *= 2;
        }
    }
}

fn advance(stage: &mut Stage, number: usize) {
    let Some(observed) = &mut stage.store.observed[number] else { return };
    let record = stage.store.records[number].unwrap_or_else(|| StateRecord::new(observed.snapshot.taken_at));
    let config = &stage.world.collections[number].config;
    let (next, transition) = record.advance(observed.assessment.lambda, observed.snapshot.taken_at, config);
    // The same sample again would leave everything as it is.
    observed.quiet = next == record
        && next.state == IntegrityState::Normal
        && observed.assessment.components.is_empty()
        && !observed.snapshot.in_recovery
        && stage.store.reasons[number] == Some(Reason::StateNormal);
    if observed.assessment.lambda.is_some() {
        let normal = next.state == IntegrityState::Normal;
        if normal {
            observed.present = Some(vec![]);
        } else if observed.present.as_ref().is_none_or(Vec::is_empty) {
            let problems = diagnose(&observed.assessment, &observed.snapshot, config);
            let mut present: Vec<Context> =
                problems.iter().map(|problem| Context::of(problem, &observed.snapshot)).collect();
            present.sort();
            present.dedup();
            observed.present = Some(present);
        }
        let (wall, present) = (observed.snapshot.taken_at, observed.present.take().unwrap_or_default());
        let busy = stage.store.in_flight(number) > 0;
        let config = &stage.world.collections[number].config;
        stage.store.learning.observe(number, &next, &present, busy, config, wall);
        if let Some(observed) = &mut stage.store.observed[number] {
            observed.present = Some(present);
        }
    }
    let Some(observed) = &stage.store.observed[number] else { return };
    stage.store.records[number] = Some(next);
    if let Some(change) = transition {
        let lambda = observed.assessment.lambda;
        stage.say(|| format!("collection {number}: {} at {lambda:?}", change.to.as_str()));
    }
}

/// Decides about everything that is asked for on a collection, and then by itself.
fn decide(stage: &mut Stage, collection: usize) {
    let Some(observed) = &stage.store.observed[collection] else { return };
    let asked: Vec<i64> = if stage.store.open.is_empty() {
        vec![]
    } else {
        stage.store.open_of(collection).filter(|a| a.status == Status::Proposed).map(|a| a.id).collect()
    };
    if observed.quiet && asked.is_empty() && stage.store.in_flight(collection) == 0 {
        return;
    }
    for id in asked {
        let request = stage.store.action(id).request.clone();
        match ask(stage, collection, &request) {
            Decision::Act { planned, approval, .. } => {
                accept(stage, id, collection, *planned, approval.is_some())
            }
            Decision::Refuse { reason, detail, .. } => {
                stage.coverage.reason(reason);
                let nothing = matches!(reason, Reason::NothingToDo | Reason::StateNormal);
                let status = if nothing { Status::Noop } else { Status::Refused };
                let at = stage.moment();
                stage.store.action(id).note = detail;
                finish_undecided(stage, id, status, at);
            }
        }
    }
    // A plan that waits for a human says all there is to say: the core would be asked for the display alone.
    let waiting = stage.store.open_of(collection).filter(|action| action.status == Status::AwaitingApproval);
    let waiting: Vec<i64> = waiting.map(|action| action.id).collect();
    let mut waits = false;
    for id in waiting {
        if has_cleared(stage, id) {
            stage.say(|| format!("action {id} waits for nothing any more"));
            stage.coverage.cleared += 1;
            let at = stage.moment();
            finish_undecided(stage, id, Status::Expired, at);
        } else {
            waits = true;
        }
    }
    if waits {
        return;
    }
    let Some(basis) = basis(stage, collection) else { return };
    let wall = stage.world.wall();
    let fresh = stage.store.observed[collection].as_ref().is_some_and(|o| o.snapshot.taken_at == wall);
    // The core is pure: as long as all that it looks at is the same, so is its answer.
    let known = stage.store.refused[collection];
    if fresh && known.is_some_and(|refused| refused.basis == basis && wall < refused.until) {
        return;
    }
    let decision = ask(stage, collection, &Request::Automatic);
    stage.store.refused[collection] = None;
    match decision {
        Decision::Act { planned, approval, .. } => {
            let id = stage.store.propose(collection, Request::Automatic);
            accept(stage, id, collection, *planned, approval.is_some());
            stage.store.reasons[collection] = None;
        }
        Decision::Refuse { reason, detail, until, rejected, .. } => {
            stage.coverage.reason(reason);
            if fresh {
                let window_ms = stage.world.collections[collection].config.attempt_window_seconds * 1000;
                // A success counts as tried for a window, what moved rows gained is believed for a day.
                let tried = stage.store.history(collection, wall).into_iter().flat_map(|a| {
                    [a.started_at + window_ms, a.ended_at.unwrap_or(a.started_at) + 24 * 3_600_000]
                });
                let ends = until.into_iter().chain(rejected.iter().filter_map(|r| r.until)).chain(tried);
                let until = ends.filter(|end| *end > wall).min().unwrap_or(UnixMs::MAX);
                stage.store.refused[collection] = Some(Refused { basis, until });
            }
            if stage.store.reasons[collection] != Some(reason) {
                stage.say(|| format!("collection {collection}: {} ({detail})", reason.as_str()));
            }
            stage.store.reasons[collection] = Some(reason);
        }
    }
}

/// Whether a plan that waits for a human waits for nothing any more: only where the whole collection is normal.
fn has_cleared(stage: &Stage, id: i64) -> bool {
    let action = &stage.store.actions[&id];
    let number = action.collection;
    let is_normal = stage.store.records[number].is_some_and(|record| record.state == IntegrityState::Normal);
    let Some(observed) = stage.store.observed[number].as_ref().filter(|_| is_normal) else { return false };
    let planned = action.planned();
    let planned = engine::Planned { problem: planned.problem.clone(), plan: planned.plan.clone() };
    let config = &stage.world.collections[number].config;
    engine::has_cleared(&planned, &action.request, &observed.snapshot, config)
}

/// What a decision rests on, beside the time.
fn basis(stage: &Stage, collection: usize) -> Option<Basis> {
    Some(Basis {
        version: stage.world.collections[collection].version,
        stamp: stage.store.stamp,
        record: stage.store.records[collection]?,
        disk_free: stage.world.disk_free(),
        clock_offset: stage.world.clock_offset,
        in_recovery: stage.world.weather.in_recovery,
    })
}

fn finish_undecided(stage: &mut Stage, id: i64, status: Status, at: crate::store::Moment) {
    if let Err(error) = stage.store.advance(id, status, at) {
        stage.violated("lifecycle", error);
    }
    stage.coverage.ended("none", status);
}

fn ask(stage: &Stage, collection: usize, request: &Request) -> Decision {
    let wall = stage.world.wall();
    let config = &told(stage, collection);
    let (Some(observed), Some(record)) =
        (&stage.store.observed[collection], &stage.store.records[collection])
    else {
        return Decision::Refuse {
            reason: Reason::LambdaUnknown,
            detail: "not observed yet".to_owned(),
            until: None,
            planned: None,
            rejected: vec![],
        };
    };
    let mut history =
        if stage.has(Defect::NoCooldown) { vec![] } else { stage.store.history(collection, wall) };
    for attempt in history.iter_mut().filter(|_| stage.has(Defect::GainsForgotten)) {
        (attempt.rows_moved, attempt.lambda_placed, attempt.lesson) = (None, None, None);
    }
    let mut snapshot = Cow::Borrowed(&observed.snapshot);
    if stage.has(Defect::StandbyIgnored) && snapshot.in_recovery {
        snapshot.to_mut().in_recovery = false;
    }
    if stage.has(Defect::MaintenancePauseIgnored) && snapshot.maintenance_paused {
        snapshot.to_mut().maintenance_paused = false;
    }
    let arms = arms(stage, collection);
    let in_flight = if stage.has(Defect::NoSingleFlight) || stage.has(Defect::LimitsIgnored) {
        InFlight::default()
    } else {
        in_flight(stage, collection, None)
    };
    engine::decide(&DecisionInput {
        config,
        state: record,
        assessment: &observed.assessment,
        snapshot: &snapshot,
        history: &history,
        arms: &arms,
        learned: &stage.store.learning.learned(collection),
        in_flight,
        now: if stage.has(Defect::StaleSnapshot) { observed.snapshot.taken_at } else { wall },
        request,
    })
}

/// The settings as the core is told of them.
fn told(stage: &Stage, number: usize) -> Config {
    let mut config = stage.world.collections[number].config.clone();
    if stage.has(Defect::ConsentIgnored) {
        config.mode = Mode::Auto;
        config.require_approval_strategies.clear();
        config.require_approval_irreversible = false;
    }
    if stage.has(Defect::ImpactIgnored) {
        (config.max_auto_heal_impact, config.max_stress_impact) = (1.0, 1.0);
    }
    if stage.has(Defect::AttemptsUncounted) {
        config.max_attempts_per_window = i64::MAX;
    }
    if stage.has(Defect::PauseIgnored) {
        config.paused_until = None;
    }
    if stage.has(Defect::WindowIgnored) {
        config.maintenance_windows.clear();
    }
    if stage.has(Defect::LimitsIgnored) {
        config.max_moves *= 10;
        config.max_move_share = (10.0 * config.max_move_share).min(1.0);
        config.max_disk_share = 0.9;
    }
    config
}

/// What is known of the remedies, as the core is told of it.
fn arms(stage: &Stage, number: usize) -> Vec<Arm> {
    let mut arms = stage.store.arms[number].clone();
    for arm in &mut arms {
        arm.breaker_open &= !stage.has(Defect::BreakerIgnored);
        arm.backoff_until = arm.backoff_until.filter(|_| !stage.has(Defect::BackoffIgnored));
    }
    arms
}

/// What runs on the server, beside an action.
fn in_flight(stage: &Stage, collection: usize, beside: Option<i64>) -> InFlight {
    let runs = |id: &&i64| stage.store.actions[id].status.is_in_flight();
    let itself = u32::from(beside.is_some_and(|id| runs(&&id)));
    let others = stage.store.open.iter().filter(runs).filter(|id| Some(**id) != beside);
    let plans = || others.clone().map(|id| &stage.store.actions[id].planned().plan);
    InFlight {
        this_table: stage.store.in_flight(collection) - itself,
        server: stage.store.all_in_flight() - itself,
        impact: plans().map(|plan| plan.impact).sum(),
        builds: plans().filter(|plan| checks::builds(plan)).count() as u32,
    }
}

/// Writes the plan to the action, which may run now or once a human has approved.
fn accept(stage: &mut Stage, id: i64, collection: usize, planned: engine::Planned, needs_approval: bool) {
    let at = stage.moment();
    let Some(observed) = &stage.store.observed[collection] else { return };
    let (snapshot, observed_at) = (observed.snapshot.clone(), observed.real);
    // What was seen before may be of a time when it could.
    let unlisted = stage.world.collections[collection].unlisted
        && observed.version == stage.world.collections[collection].version;
    let true_before = checks::conditions(stage, collection, &planned.problem, &planned.plan);
    stage.say(|| {
        let engine::Planned { plan, problem } = &planned;
        format!(
            "collection {collection}: action {id} {} for {} ({:.2}): {} steps",
            plan.strategy,
            problem.class.as_str(),
            problem.component.lambda,
            plan.steps.len()
        )
    });
    let panel = checks::panel_of(stage, collection, &planned.plan).unwrap_or(at.real);
    let needless = checks::is_needless(stage, collection, &planned.problem, &planned.plan);
    if needless && !stage.store.actions[&id].by_hand() {
        stage.false_heals += 1;
    }
    let action = stage.store.action(id);
    action.needless = needless;
    action.decided = Some(at);
    action.planned = Some(Rc::new(Planned {
        problem: planned.problem,
        plan: planned.plan,
        before: snapshot,
        observed: observed_at,
        unlisted,
        panel,
        true_before,
    }));
    let status = if needs_approval { Status::AwaitingApproval } else { Status::Approved };
    if let Err(error) = stage.store.advance(id, status, at) {
        stage.violated("lifecycle", error);
    }
    if status == Status::Approved {
        checks::permitted(stage, id);
    }
}

/// Drops what successes left, once a valid index bears the name. (An early extension did not:
/// [`Defect::LoserForgotten`].)
fn drop_losers(stage: &mut Stage) {
    for (number, of) in std::mem::take(&mut stage.store.losers) {
        let hindered = stage.store.in_flight(number) > 0
            || stage.world.weather.long_transactions > 0
            || stage.world.weather.failing > 0.0;
        match stage.world.collections[number].loser(&of) {
            Ok(None) => {}
            Ok(Some(oid)) if !hindered => {
                stage.say(|| format!("collection {number}: {} of an earlier success is dropped", of.name));
                stage.world.collections[number].remove(oid);
            }
            _ => stage.store.losers.push((number, of)),
        }
    }
}

/// Looks after all actions.
fn supervise(stage: &mut Stage) {
    if stage.store.open.is_empty() {
        return;
    }
    expire(stage);
    let in_flight: Vec<i64> =
        stage.store.open.iter().copied().filter(|id| stage.store.actions[id].status.is_in_flight()).collect();
    let at = stage.moment();
    for id in in_flight {
        let enabled = stage.world.collections[stage.store.actions[&id].collection].config.enabled;
        let ignored = stage.has(Defect::SwitchIgnored);
        let action = stage.store.action(id);
        // Off means off: what is under way is aborted and undone.
        if !(enabled || ignored || action.keep) && action.stop_reason.is_none() {
            (action.stop_reason, action.stop_asked) = (Some(StopReason::Abort), Some(at));
        }
        look_after(stage, id);
    }
}

fn look_after(stage: &mut Stage, id: i64) {
    let at = stage.moment();
    let holder = stage.holder(id);
    let starting = stage.workers.iter().any(|worker| worker.action == id && !worker.holds_lock);
    let action = stage.store.action(id);
    let stopping = action.stop_reason.is_some();
    if let Some(pid) = holder {
        if action.deadline.is_some_and(|deadline| at.wall > deadline) && !stopping && !action.keep {
            action.stop_reason = Some(StopReason::Timeout);
            action.stop_asked = Some(at);
            stage.say(|| format!("action {id} is over its time"));
            stage.kill_worker(pid);
            return;
        }
        let asked_at = action.stop_asked.map(|asked| asked.real);
        let keep = action.keep;
        let began = stage.workers.iter().find(|worker| worker.pid == pid).map(|worker| worker.born_real);
        if let (Some(asked), Some(began)) = (asked_at, began)
            && stopping
            && !keep
            && began < asked
        {
            stage.kill_worker(pid);
        }
        return;
    }
    if starting {
        return;
    }
    if action.status == Status::Approved && stopping {
        action.note = "aborted before it began".to_owned();
        finish_undecided(stage, id, Status::Aborted, at);
        return;
    }
    if stage.store.action(id).status == Status::Approved && !may_begin(stage, id) {
        return;
    }
    if !stage.has_worker_slot() {
        return;
    }
    let uncounted = stage.has(Defect::RestartsUncounted);
    let (crashed, restarted) = (stage.world.crashed_at, stage.world.restarted_at);
    let action = stage.store.action(id);
    let starts = if uncounted { 0 } else { action.starts };
    match recovery::start(starts, action.last_start.map(|start| start.wall), at.wall) {
        Start::NotBefore { .. } => return,
        Start::GiveUp => {
            give_up(stage, id);
            return;
        }
        Start::Now => {}
    }
    let first = action.status == Status::Approved && action.starts == 0;
    let last = action.last_start.map_or(i64::MIN, |start| start.real);
    action.crashed |= action.starts > 0 && crashed > last;
    action.gone = Gone::of(action.stop_reason, action.crashed, restarted > last);
    action.starts += 1;
    action.last_start = Some(at);
    if first {
        checks::starts(stage, id);
    }
    stage.start_worker(id);
}

/// Ends an action that no worker could bring to its end. What is left of it is tried again later.
fn give_up(stage: &mut Stage, id: i64) {
    let at = stage.moment();
    let action = stage.store.action(id);
    let planned = Rc::clone(action.planned());
    let (status, lesson) = recovery::given_up(&planned.plan, &action.entries, action.keep);
    "no worker could bring it to its end".clone_into(&mut action.note);
    action.lesson = Some(lesson);
    action.outcomes += 1;
    let number = action.collection;
    if !recovery::resolve(&planned.plan, &action.entries, action.keep).is_empty() {
        stage.store.unfinished.push(Unfinished {
            action: id,
            collection: number,
            tries: 0,
            last: Some(at.wall),
        });
    }
    stage.say(|| format!("collection {number}: action {id} {}: its workers err", status.as_str()));
    if let Err(error) = stage.store.advance(id, status, at) {
        stage.violated("lifecycle", error);
    }
    stage.learn(id, lesson, status, at);
    let Stage { store, world, .. } = stage;
    let strategy = &planned.plan.strategy;
    store.record_arm(number, strategy, lesson, at.wall, &world.collections[number].config);
    stage.coverage.ended(strategy, status);
    stage.coverage.gave_up += 1;
    checks::ended(stage, id);
}

/// Starts a worker for what ended actions have left, when its time has come.
fn finish_unfinished(stage: &mut Stage) {
    if stage.store.unfinished.is_empty() || stage.has(Defect::RestForgotten) {
        return;
    }
    let wall = stage.world.wall();
    let has_worker = |stage: &Stage, id: i64| stage.workers.iter().any(|worker| worker.action == id);
    let due = stage.store.unfinished.iter().filter(|left| left.is_due(wall)).map(|left| left.action);
    let due: Vec<i64> = due.filter(|id| !has_worker(stage, *id)).collect();
    for id in due {
        if !stage.has_worker_slot() {
            return;
        }
        for left in stage.store.unfinished.iter_mut().filter(|left| left.action == id) {
            left.tries += u32::from(left.last.is_some());
            left.last = Some(wall);
        }
        stage.start_worker(id);
    }
}

/// What the core says of beginning a plan that was decided earlier.
pub fn begin(stage: &Stage, id: i64) -> Begin {
    let action = &stage.store.actions[&id];
    let number = action.collection;
    let Some(observed) = &stage.store.observed[number] else {
        return Begin::Wait { reason: Reason::LambdaUnknown };
    };
    let planned = action.planned();
    let mut snapshot = Cow::Borrowed(&observed.snapshot);
    if stage.has(Defect::MaintenancePauseIgnored) && snapshot.maintenance_paused {
        snapshot.to_mut().maintenance_paused = false;
    }
    engine::begin(&BeginInput {
        config: &told(stage, number),
        snapshot: &snapshot,
        planned: &engine::Planned { problem: planned.problem.clone(), plan: planned.plan.clone() },
        request: &action.request,
        arms: &arms(stage, number),
        in_flight: in_flight(stage, number, Some(id)),
        since: match action.status {
            Status::AwaitingApproval => stage.world.wall(),
            _ => action.approved_at.or(action.decided).map_or(UnixMs::MIN, |at| at.wall),
        },
        now: if stage.has(Defect::StaleSnapshot) { observed.snapshot.taken_at } else { stage.world.wall() },
    })
}

/// Before a worker begins: what was decided or approved earlier must still hold. (An early extension did not ask:
/// [`Defect::ApprovalSkipsGates`].)
fn may_begin(stage: &mut Stage, id: i64) -> bool {
    if stage.has(Defect::ApprovalSkipsGates) {
        return true;
    }
    let at = stage.moment();
    match begin(stage, id) {
        Begin::Now => true,
        Begin::Wait { .. } => false,
        Begin::Never { status, reason } => {
            reason.explain().clone_into(&mut stage.store.action(id).note);
            stage.say(|| format!("action {id} does not begin: {}", reason.as_str()));
            finish_undecided(stage, id, status, at);
            false
        }
    }
}

/// Ends plans that nobody approved in time.
fn expire(stage: &mut Stage) {
    let at = stage.moment();
    let late: Vec<i64> = stage
        .store
        .open
        .iter()
        .copied()
        .filter(|id| {
            let action = &stage.store.actions[id];
            let timeout_ms =
                stage.world.collections[action.collection].config.approval_timeout_seconds * 1000;
            action.status == Status::AwaitingApproval
                && action.decided.is_some_and(|decided| decided.wall + timeout_ms < at.wall)
        })
        .collect();
    for id in late {
        finish_undecided(stage, id, Status::Expired, at);
    }
}
