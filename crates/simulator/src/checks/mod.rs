//! What must hold: looked at every tick, at every effect, at the beginning and the end of every action.
//!
//! Limits that a wall clock decides are held against true time too: only what both clocks call too early is a
//! violation, so that a jump of the clock is no excuse and no accusation.

mod leases;
mod permission;
#[cfg(test)]
mod reached;
#[cfg(test)]
mod tests;
pub mod undone;
pub mod well;

use healing::classify::{Problem, ProblemClass};
use healing::engine::{Reason, Request};
use healing::lifecycle::{Lesson, Status};
use healing::plan::{Plan, Step};
use healing::recovery::RecoveryCommand;
use healing::snapshot::{Oid, Snapshot, UnixMs};

pub use self::permission::{builds, permitted, starts};
use crate::baselines::is_fine;
use crate::curable;
use crate::defects::Defect;
use crate::scenario::{Mode, Scenario};
use crate::stage::Stage;
use crate::store::{Action, Condition};
use crate::two_phase;
use crate::worker::Turn;
use crate::world::index::{Index, Maker};
use crate::world::observe;
use crate::world::{EPOCH_MS, TRIAL_PREFIX, trial_name};

/// Beside its own time limits an action may take this long, in seconds in which nothing hinders it.
const SLACK_S: f64 = 3600.0;
/// Successful automatic actions that one fault may cause.
const ACTIONS_PER_FAULT: u32 = 3;
/// Faults that are cured by moving rows, a twentieth of them at a time (`max_move_share`), and how many more repairs each
/// may take for it.
const DOSED: [&str; 3] = ["cold_rows_pile", "partition_hot", "server_crowded"];
const DOSES: u32 = 6;
/// Times in a day that a remedy may do something that is taken back since it was no gain, with no fault in between.
const FUTILE_MAX: usize = 2;
/// λ in truth below which a collection counts as not cured: the boundary of stress, less what the confidence interval of
/// a panel may hide.
const CURED: f64 = 0.65;
/// Calm that is surely enough to cure everything: longer than the longest wait that the core knows.
const CALM_S: u64 = 30 * 3600;
/// How often it is looked whether a collection is still weak, milliseconds.
const LOOK_MS: i64 = 1_800_000;
/// Seconds after which a running healer has stopped what is under way where healing is switched off.
const OFF_S: u64 = 20;
/// Memory that a throttle which holds may have grown by, percent: what its verification lets pass, and the time since then.
const MEMORY_NOISE_PCT: f64 = 2.5;

/// Names of all checks.
pub const ALL: &[&str] = &[
    "acts_on_stale",
    "assessed",
    "attempts",
    "audit",
    "backoff",
    "breaker",
    "consent",
    "content",
    "cooldown",
    "crash_loop",
    "credited",
    "disabled",
    "drops_foreign",
    "empty",
    "rows_elsewhere",
    "ends",
    "false_heal",
    "flapping",
    "futile",
    "impact",
    "in_doubt",
    "intent_first",
    "lease_ends",
    "learned",
    "leftover",
    "lifecycle",
    "limits",
    "liveness",
    "maintenance_paused",
    "one_outcome",
    "panicked",
    "paused",
    "server_limit",
    "single_flight",
    "standby",
    "stop_ignored",
    "undone",
    "unfinished",
    "unwell",
    "window",
    "worse",
];

/// What the watch remembers between ticks.
#[derive(Debug, Default)]
pub struct Watch {
    /// Facts of each collection at which it was last found at rest and in order.
    rested: Vec<u64>,
    /// Unhindered seconds of each action in flight.
    ages: std::collections::BTreeMap<i64, f64>,
    /// Facts of each collection when it was last looked at after the calm, and since when it was weak then, true time.
    looked: Vec<(u64, Option<UnixMs>)>,
    /// Seconds for which healing has been off for each action that goes on, while the healer ran.
    off: std::collections::BTreeMap<i64, u64>,
    /// Seconds for which a running healer has held maintenance of a collection back after the end of the lease.
    late: std::collections::BTreeMap<usize, u64>,
}

/// The indexes that a plan names, in truth, in its order; those that are gone left out.
pub fn conditions(stage: &Stage, collection: usize, problem: &Problem, plan: &Plan) -> Vec<Condition> {
    let mut names: Vec<&str> =
        plan.steps.iter().filter_map(Step::target).map(|of| of.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let world = &stage.world;
    names
        .iter()
        .filter_map(|name| {
            world.collections[collection].indexes().find(|(_, index)| index.qualified() == **name)
        })
        .map(|(_, index)| Condition {
            name: index.qualified(),
            valid: index.valid,
            bytes: index.bytes,
            effort: index.effort(world.server_effort),
            recall: index.recall(index.effort(world.server_effort)),
            blocks: index.blocks(index.effort(world.server_effort)),
            wear: index.shape.misfit + index.shape.skew + index.shape.damage,
        })
        .chain(strained(stage, collection, problem, plan).map(|wear| Condition {
            name: "what it is about".to_owned(),
            valid: true,
            bytes: 0,
            effort: 0,
            recall: 1.0,
            blocks: 0.0,
            wear,
        }))
        .collect()
}

/// What the steps of a plan that concern no index are about: the load of the tables that rows leave, and the reads of this server.
fn strained(stage: &Stage, collection: usize, problem: &Problem, plan: &Plan) -> Option<f64> {
    if holds_maintenance(plan) {
        let (waiting, longest_s) = stage.world.maintenance.queue(collection, stage.world.now);
        // What a replica is behind with is WAL, of which writers may write more meanwhile; else it is about what waits.
        return Some(match problem.class {
            ProblemClass::ReplicationLag { .. } => stage.world.maintenance.wal() / 1e7,
            _ => f64::from(waiting) + longest_s / 1000.0,
        });
    }
    let tables = &stage.world.collections[collection].tables;
    let is_source = |oid: Oid| {
        plan.steps.iter().any(|step| match step {
            Step::MoveRows { moves, .. } => moves.iter().any(|one| one.from.oid == oid),
            Step::SetRoutingWeight { of, .. } => of.oid == oid,
            _ => false,
        })
    };
    let sources = tables.iter().filter(|table| is_source(table.oid));
    let uneven = sources.map(|table| table.heat).fold(0.0, f64::max);
    let cold: f64 = tables.iter().filter(|table| !table.cold).map(|table| table.cold_rows).sum();
    Some(match plan.steps.iter().find(|step| step.target().is_none())? {
        Step::MoveRows { moves, .. } if moves.iter().any(|one| one.cold) => cold,
        Step::MoveRows { .. } | Step::SetRoutingWeight { .. } => uneven,
        // Less is written, or less for longer.
        Step::SetThrottle { .. } => {
            let ingest = &stage.world.collections[collection].ingest;
            let left_ms =
                ingest.throttle.map_or(0, |throttle| throttle.until.saturating_sub(stage.world.wall()));
            ingest.written() / ingest.rows.max(1.0) - (left_ms as f64 / 3_600_000.0).clamp(0.0, 1.0)
        }
        Step::ScaleReplicas { .. } => 1.0 / f64::from(stage.world.serving()),
        _ => return None,
    })
}

/// Whether a plan holds maintenance back.
fn holds_maintenance(plan: &Plan) -> bool {
    let holds = |step: &Step| {
        matches!(step, Step::PauseJob { .. } | Step::PauseAutovacuum { .. } | Step::DrainMaintenance { .. })
    };
    plan.steps.iter().any(holds)
}

/// Whether nothing is wrong in truth with any index that a plan names, or what else it is about.
pub fn is_needless(stage: &Stage, collection: usize, problem: &Problem, plan: &Plan) -> bool {
    if holds_maintenance(plan) {
        let maintenance = &stage.world.maintenance;
        let mut replicas = stage.world.strain.replicas.iter();
        let slows = maintenance.is_vacuumed(collection)
            && replicas.any(|replica| replica.gone_since.is_none() && replica.behind > 0.0);
        return maintenance.queue(collection, stage.world.now).0 == 0 && !slows;
    }
    let collection = &stage.world.collections[collection];
    if plan.steps.iter().any(|step| matches!(step, Step::SetThrottle { .. })) {
        return collection.ingest.rows == 0.0 || is_for_the_cut_off(stage, problem);
    }
    if plan.steps.iter().any(|step| step.target().is_none()) {
        return collection.tables.iter().all(|table| table.heat == 0.0 && table.cold_rows == 0.0);
    }
    let effort = stage.world.server_effort;
    collection
        .indexes()
        .filter(|(_, index)| plan.steps.iter().filter_map(Step::target).any(|of| of.oid == index.oid))
        .all(|(table, index)| {
            is_fine(table, index) && index.recall(index.effort(effort)) >= collection.config.recall_objective
        })
}

/// Whether a problem is that of replicas of which none is connected: they are behind whatever is written here.
fn is_for_the_cut_off(stage: &Stage, problem: &Problem) -> bool {
    let ProblemClass::ReplicationLag { replica_ids, .. } = &problem.class else { return false };
    let mut behind = stage.world.strain.replicas.iter().filter(|replica| replica_ids.contains(&replica.id));
    !replica_ids.is_empty() && behind.all(|replica| replica.gone_since.is_some())
}

/// When the readings were taken, in truth, that a plan without a comparison rests on: tuning and rebuilding in place.
/// Other plans measure old and new beside each other.
pub fn panel_of(stage: &Stage, collection: usize, plan: &Plan) -> Option<UnixMs> {
    let alone =
        |step: &Step| matches!(step, Step::TuneSearchEffort { .. } | Step::ReindexConcurrently { .. });
    let compared = plan.steps.iter().any(|step| matches!(step, Step::CompareIndexes { .. }));
    if compared || !plan.steps.iter().any(alone) {
        return None;
    }
    stage.world.collections[collection]
        .indexes()
        .filter(|(_, index)| plan.steps.iter().filter_map(Step::target).any(|of| of.oid == index.oid))
        .flat_map(|(_, index)| {
            let panel = index.panel.as_ref().map(|taken| taken.real);
            [panel, index.structure.as_ref().map(|taken| taken.real)]
        })
        .flatten()
        .min()
}

/// The audit chain is sound, and holds every step and one end of each action that is over.
pub fn audit(stage: &mut Stage) {
    if let Err(detail) = stage.store.audit.verify(&stage.store.actions) {
        stage.violated("audit", detail);
    }
}

/// What was learned follows from the outcomes, and each action with a plan that ran has one: none is lost over a crash, none
/// counts twice, and what counts as verified was a success.
pub fn learned(stage: &mut Stage) {
    let learning = &stage.store.learning;
    let ended = stage.store.actions.values().filter(|action| action.outcomes > 0);
    let (told, due): (Vec<i64>, Vec<i64>) =
        (learning.outcomes.iter().map(|one| one.id).collect(), ended.map(|action| action.id).collect());
    let mut sorted = told.clone();
    sorted.sort_unstable();
    let wrong = learning.outcomes.iter().find(|one| {
        let action = &stage.store.actions[&one.id];
        action.lesson != Some(one.lesson) || one.is_verified_success() && action.status != Status::Succeeded
    });
    let error = if sorted != due {
        Some(format!("outcomes of {told:?} were learned from, {due:?} ended"))
    } else if let Some(one) = wrong {
        Some(format!("action {} taught {:?}", one.id, one.lesson))
    } else {
        let again = healing::learning::posteriors(&learning.outcomes, &learning.periods);
        let same = again
            .iter()
            .map(|one| (&one.strategy, one.tries))
            .eq(learning.posteriors.iter().map(|one| (&one.strategy, one.tries)));
        (!same).then(|| "the posteriors do not follow from the outcomes".to_owned())
    };
    if let Some(error) = error {
        stage.violated("learned", error);
    }
}

/// An effect on the catalog is about to come about.
pub fn effect(stage: &mut Stage, turn: &Turn, what: &str) {
    let id = turn.action;
    let action = &stage.store.actions[&id];
    // The verdict to keep is the intent to drop the losers.
    let noted = action.entries.iter().any(|entry| entry.step_no == turn.step_no)
        || action.keep && matches!(turn.step, Step::DropLoser { .. });
    if !noted {
        stage.violated(
            "intent_first",
            format!("action {id}: {what} of step {} without an intent in the journal", turn.step_no),
        );
    }
    let others = stage.store.open_of(turn.collection);
    let other =
        others.filter(|other| other.id != id && other.status.is_in_flight()).map(|other| other.id).next();
    if let Some(other) = other {
        stage.violated("single_flight", format!("action {id}: {what} while action {other} is in flight"));
    }
}

/// An index is about to be dropped.
pub fn drops(stage: &mut Stage, turn: &Turn, oid: Oid) {
    let id = turn.action;
    let Some(of) = turn.step.target().cloned() else { return };
    let collection = &stage.world.collections[turn.collection];
    let Some(index) = collection.indexes().map(|(_, index)| index).find(|index| index.oid == oid) else {
        return;
    };
    let own = index.maker == Maker::Action(id) && (index.name.starts_with(TRIAL_PREFIX) || !index.valid);
    let surplus = matches!(turn.step, Step::DropInvalid { .. }) && oid == of.oid && !index.valid;
    let winner = collection.bearing_its_name(&of).is_some_and(|winner| winner.valid && winner.oid != oid);
    let loser = oid == of.oid && index.name == trial_name(&of) && winner;
    // Newer than our intent: whose reindex left it cannot be told, and nobody can use it.
    let leftover = match turn.command.as_deref() {
        Some(RecoveryCommand::DropReindexLeftover { details, .. }) => {
            let before: Option<Vec<Oid>> =
                details.get("leftovers_before").and_then(|list| serde_json::from_value(list.clone()).ok());
            !index.valid && !index.building && before.is_some_and(|before| !before.contains(&oid))
        }
        _ => false,
    };
    if !(own || surplus || loser || leftover) {
        let name = index.name.clone();
        stage.violated("drops_foreign", format!("action {id} drops {name}, which is not its own to drop"));
    }
}

/// An action ended.
pub fn ended(stage: &mut Stage, id: i64) {
    let action = stage.store.actions[&id].clone();
    if action.outcomes != 1 {
        stage.violated("one_outcome", format!("action {id} has {} outcomes", action.outcomes));
    }
    let struck = struck_at(stage, &action);
    let unfinished = stage.store.unfinished.iter().any(|left| left.action == id);
    if matches!(action.status, Status::RolledBack | Status::Failed | Status::Aborted) && !unfinished {
        undone::check(stage, &action);
    }
    futile(stage, id);
    let planned = action.planned();
    if action.status != Status::Succeeded {
        return;
    }
    if let (Some(asked), false) = (action.stop_asked, action.keep && stage.has(Defect::KeepIgnoresAbort)) {
        stage.violated("stop_ignored", format!("action {id} succeeded, asked to stop at {}", asked.wall));
    } else if action.stop_asked.is_some() {
        stage.violated("stop_ignored", format!("action {id} succeeded although its stop had been accepted"));
    }
    if let Some(name) = stage.struck[action.collection].last() {
        stage.coverage.cured(name, &planned.plan.strategy);
    }
    // What struck meanwhile may have undone what the action achieved; what passed by itself since the panel was taken
    // was not there any more to be cured.
    if struck >= planned.panel {
        return;
    }
    let after = conditions(stage, action.collection, &planned.problem, &planned.plan);
    let objective = stage.world.collections[action.collection].config.recall_objective;
    for before in &planned.true_before {
        let now = after.iter().find(|now| now.name == before.name);
        if let Some(now) = now.filter(|now| now.is_worse(before, objective)) {
            stage.violated("worse", format!("action {id} counts as a success: {before:?} became {now:?}"));
        }
    }
    // A human may ask for what brings nothing.
    if action.by_hand() {
        return;
    }
    // One that is gone was surplus.
    let gone = after.len() < planned.true_before.len();
    let is_better = |now: &Condition| {
        planned.true_before.iter().any(|before| before.name == now.name && now.is_better(before))
    };
    let better = after.iter().any(is_better);
    if !(gone || better || eased(stage, &planned.plan, &planned.before)) {
        let before = &planned.true_before;
        stage.violated("credited", format!("action {id} counts as a success: from {before:?} to {after:?}"));
    }
}

/// When a fault last struck what an action is about: also when an index that it names last drifted.
fn struck_at(stage: &Stage, action: &Action) -> UnixMs {
    let collection = &stage.world.collections[action.collection];
    let Some(planned) = &action.planned else { return collection.fault_at };
    let names: Vec<&str> =
        planned.plan.steps.iter().filter_map(Step::target).map(|of| of.name.as_str()).collect();
    let drifts =
        |index: &Index| index.shape.misfit_per_hour > 0.0 && names.contains(&index.qualified().as_str());
    let drifted = collection.indexes().any(|(_, index)| drifts(index));
    if drifted { collection.fault_at.max(collection.drifted_at) } else { collection.fault_at }
}

/// Whether a throttle takes less off writers than the one before it, and memory is no shorter for that.
fn eased(stage: &Stage, plan: &Plan, before: &Snapshot) -> bool {
    let taken = before.ingestion.as_ref().and_then(|ingestion| ingestion.throttle.as_ref());
    let taken = taken.map_or(0, |throttle| throttle.percentages.throttle_pct);
    let used =
        before.memory.as_ref().and_then(|memory| memory.known()).map_or(100.0, |memory| memory.used_pct);
    plan.steps.iter().any(|step| match step {
        Step::SetThrottle { percentages, .. } => percentages.throttle_pct < taken,
        _ => false,
    }) && stage.world.strain.memory_pct <= used + MEMORY_NOISE_PCT
}

/// Something was tried and taken back, since it was no gain: not again and again, on the same thing by the same remedy.
fn futile(stage: &mut Stage, id: i64) {
    let action = &stage.store.actions[&id];
    let number = action.collection;
    // What costs nothing but a moment is no harm.
    let costs =
        |plan: &Plan| builds(plan) || plan.steps.iter().any(|step| matches!(step, Step::MoveRows { .. }));
    let in_vain = |action: &Action| {
        let planned = action.planned.as_ref().filter(|planned| costs(&planned.plan));
        !action.by_hand() && action.lesson == Some(Lesson::NoGain) && planned.is_some()
    };
    if !in_vain(action) {
        return;
    }
    // Where a clock jumped, what came first is not always what the healer sees as first.
    let fault_at = struck_at(stage, action).max(stage.jumped_at);
    let since = fault_at.max(stage.world.now - 24 * 3_600_000);
    let same = |other: &Action| about(&other.planned().plan) == about(&action.planned().plan);
    let others = stage.store.by_collection[number].iter().rev().map(|other| &stage.store.actions[other]);
    let row = others
        .filter(|other| in_vain(other) && same(other))
        .filter(|other| other.decided.is_some_and(|at| at.real > since))
        .count();
    if row > FUTILE_MAX {
        let strategy = &action.planned().plan.strategy;
        let detail = format!("{strategy} was taken back as no gain {row} times, action {id} the last");
        stage.violated("futile", detail);
    }
}

/// The remedy of a plan and the indexes that it is about; rows of a collection are one thing.
fn about(plan: &Plan) -> (&str, Vec<&str>) {
    let mut names: Vec<&str> =
        plan.steps.iter().filter_map(Step::target).map(|of| of.name.as_str()).collect();
    if plan.steps.iter().any(|step| matches!(step, Step::MoveRows { .. })) {
        names.clear();
    }
    names.sort_unstable();
    names.dedup();
    (&plan.strategy, names)
}

/// After every tick.
pub fn tick(stage: &mut Stage, watch: &mut Watch, scenario: &Scenario) {
    let count = stage.world.collections.len();
    watch.rested.resize(count, 0);
    watch.looked.resize(count, (0, None));
    if !stage.store.open.is_empty() {
        in_flight(stage, watch, scenario);
    }
    leases::leases(stage, watch, scenario.tick_s);
    leases::prepared(stage, scenario.tick_s);
    for number in 0..stage.world.collections.len() {
        in_time(stage, watch, number, scenario);
        if watch.rested[number] != stage.world.collections[number].facts && stage.store.in_flight(number) == 0
        {
            watch.rested[number] = stage.world.collections[number].facts;
            at_rest(stage, number);
        }
    }
}

fn in_flight(stage: &mut Stage, watch: &mut Watch, scenario: &Scenario) {
    let calm = stage.world.is_up()
        && stage.world.weather.long_transactions == 0
        && !stage.world.weather.no_workers
        && stage.world.now > stage.jumped_at;
    for id in stage.store.open.clone() {
        false_heal(stage, id, scenario);
        let action = &stage.store.actions[&id];
        if !action.status.is_in_flight() {
            continue;
        }
        let number = action.collection;
        let off =
            !stage.world.collections[number].config.enabled && action.stop_asked.is_none() && !action.keep;
        if !off {
            watch.off.remove(&id);
        } else if stage.healer.is_running(&stage.world) {
            let seconds = watch.off.entry(id).or_default();
            *seconds += scenario.tick_s;
            if *seconds > OFF_S {
                stage.violated("disabled", format!("action {id} goes on although healing is switched off"));
            }
        }
        if stage.store.in_flight(number) > 1 {
            stage.violated("single_flight", format!("two actions are in flight on collection {number}"));
        }
        if calm {
            let limits = &stage.store.actions[&id].planned().plan;
            let window_s = stage.world.collections[number].config.verify_window_seconds as f64;
            let allowed_s = 4.0 * limits.timeout_s + 3.0 * window_s + SLACK_S;
            let age = watch.ages.entry(id).or_default();
            *age += scenario.tick_s as f64;
            if *age > allowed_s {
                *age = f64::NEG_INFINITY;
                let status = stage.store.actions[&id].status.as_str();
                stage.violated(
                    "ends",
                    format!("action {id} is {status} after {allowed_s:.0} unhindered seconds"),
                );
            }
        }
    }
    let all = stage.store.all_in_flight();
    if i64::from(all) > stage.max_concurrent {
        stage.violated("server_limit", format!("{all} actions are in flight"));
    }
}

/// Nothing is done, and no human is asked to approve it, where all is well: in a healthy world, and in any as long as no
/// fault has struck anything.
fn false_heal(stage: &mut Stage, id: i64, scenario: &Scenario) {
    let action = &stage.store.actions[&id];
    let Some(planned) = action.planned.as_ref().filter(|_| !action.by_hand()) else { return };
    let strategy = planned.plan.strategy.clone();
    // A replica that is slow while a vacuum writes: less of that is no false heal.
    let slows = holds_maintenance(&planned.plan) && !action.needless;
    let unharmed = stage.struck.iter().all(Vec::is_empty);
    if scenario.mode == Mode::Healthy && !slows {
        stage.violated("false_heal", format!("action {id} ({strategy}) in a healthy world"));
    } else if action.needless && unharmed {
        stage.violated("false_heal", format!("action {id} ({strategy}) before any fault"));
    }
}

/// No row is lost, and none is there twice, at any moment; and after the calm nothing stays weak for longer than it takes.
fn in_time(stage: &mut Stage, watch: &mut Watch, number: usize, scenario: &Scenario) {
    let facts = stage.world.collections[number].facts;
    let (looked, since) = watch.looked[number];
    if looked != facts {
        watch.looked[number].0 = facts;
        let moved = stage.world.collections[number].moved();
        let rows = moved.iter().map(|(_, moved)| moved).sum::<f64>() + two_phase::in_doubt(stage, number);
        if rows.abs() > 0.5 {
            let detail = format!("collection {number}: {rows:.0} rows more than users brought");
            stage.violated("content", detail);
        }
    }
    let calm_at = EPOCH_MS + scenario.calm_s() as i64 * 1000;
    if scenario.mode != Mode::Liveness || stage.world.now < calm_at {
        return;
    }
    // What takes thirty hours need not be looked at each time.
    if (stage.world.now - EPOCH_MS).rem_euclid(LOOK_MS) == 0 {
        let weak = observe::true_lambda(&mut stage.world, number) < CURED;
        watch.looked[number].1 = weak.then(|| since.unwrap_or(stage.world.now));
    }
    if let Some(since) = watch.looked[number].1
        && stage.world.now - since > CALM_S as i64 * 1000
        && stage.store.in_flight(number) == 0
    {
        // Once: what nobody could cure is not asked for at each tick.
        watch.looked[number].1 = Some(stage.world.now);
        cured(stage, number);
    }
}

/// Nothing acts on a collection: what must be there is there, and nothing else of ours.
fn at_rest(stage: &mut Stage, number: usize) {
    let mut found = Vec::new();
    let losers: Vec<Oid> =
        stage.store.losers.iter().filter(|(of, _)| *of == number).map(|(_, of)| of.oid).collect();
    let collection = &mut stage.world.collections[number];
    let others: Vec<String> = collection.ledger.iter().map(|wanted| wanted.name.clone()).collect();
    for wanted in &mut collection.ledger {
        let table = collection.tables.iter().find(|table| table.oid == wanted.table);
        let index = table.and_then(|table| table.indexes.iter().find(|index| index.name == wanted.name));
        match index {
            None => {
                // Of two equal indexes that were both not valid, either may be the one that is built again.
                let equal = |index: &&Index| index.valid && index.method == wanted.method;
                let taken = |index: &&Index| !others.contains(&index.name);
                match table.and_then(|table| table.indexes.iter().filter(equal).find(taken)) {
                    Some(equal) if !wanted.valid => wanted.name.clone_from(&equal.name),
                    _ => found.push(("content", format!("{} is gone", wanted.name))),
                }
            }
            Some(index) if index.method != wanted.method => {
                found.push(("content", format!("{} is of another method", wanted.name)));
            }
            Some(index) if wanted.valid && !index.valid => {
                found.push(("content", format!("{} is not valid any more", wanted.name)));
            }
            Some(index) => wanted.valid = index.valid,
        }
    }
    for (table, index) in collection.indexes() {
        let wanted = collection.ledger.iter().any(|w| w.table == table.oid && w.name == index.name);
        let ours = index.name.starts_with(TRIAL_PREFIX) || matches!(index.maker, Maker::Action(_));
        // A loser that the healer remembers; and what an interrupted reindex left of an index that a human has dropped
        // meanwhile, which is a surplus index to the healer.
        let known = losers.contains(&index.oid)
            || !index.valid
                && index
                    .name
                    .split_once("_ccnew")
                    .is_some_and(|(stem, _)| collection.ledger.iter().all(|w| w.name != stem));
        if !(wanted || known || collection.surplus.contains(&index.name)) && ours {
            let word = if index.valid { "a second valid copy" } else { "not valid" };
            found.push(("leftover", format!("{} stays behind, {word}", index.name)));
        }
    }
    for (check, detail) in found {
        stage.violated(check, format!("collection {number}: {detail}"));
    }
}

/// After the last tick.
pub fn at_end(stage: &mut Stage, scenario: &Scenario) {
    audit(stage);
    learned(stage);
    if scenario.mode == Mode::Liveness && scenario.length_s - scenario.calm_s() >= CALM_S {
        let full = stage.world.disk_free() == 0;
        for left in stage.store.unfinished.clone().iter().filter(|_| !full) {
            let (id, tries) = (left.action, left.tries);
            stage.violated("unfinished", format!("what action {id} left is not undone after {tries} tries"));
        }
        // Where a human has dropped the new one meanwhile, the former is the only one there is: it is kept, and said.
        let settled = stage.store.all_in_flight() == 0 && !full;
        for (number, of) in stage.store.losers.clone().iter().filter(|_| settled) {
            if stage.world.collections[*number].loser(of).is_err() {
                continue;
            }
            stage.violated("leftover", format!("collection {number}: the former {} is not dropped", of.name));
        }
    }
    for number in 0..stage.world.collections.len() {
        let automatic = stage.store.by_collection[number]
            .iter()
            .filter(|id| {
                let action = &stage.store.actions[id];
                action.status == Status::Succeeded && action.request == Request::Automatic
            })
            .count() as u32;
        let faults = stage.world.collections[number].faults;
        let in_doses = |name: &&&str| DOSED.contains(*name);
        let dosed = stage.struck[number].iter().filter(in_doses).count() as u32;
        // A lease is renewed in its second half as long as the flood lasts.
        let lease_s = stage.world.collections[number].config.throttle_lease_seconds as u64;
        let flooded_s: u64 = scenario
            .events
            .iter()
            .filter(|event| event.hazard == "ingestion_floods" && stage.collection(event) == number)
            .map(|event| event.lasts_s)
            .sum();
        let renewals = (2 * flooded_s / lease_s) as u32;
        if automatic > ACTIONS_PER_FAULT * faults + DOSES * dosed + renewals + 1 {
            stage
                .violated("flapping", format!("collection {number}: {automatic} repairs of {faults} faults"));
        }
        if scenario.mode == Mode::Liveness && scenario.length_s - scenario.calm_s() >= CALM_S {
            cured(stage, number);
        }
    }
}

fn cured(stage: &mut Stage, number: usize) {
    if stage.store.in_flight(number) > 0 {
        return;
    }
    // Where the disk has no room nothing can be built, and where it is full nothing dropped.
    let short = stage.store.reasons[number] == Some(Reason::DiskHeadroom);
    if stage.world.disk_free() == 0 || short && !well::has_room(&stage.world, number) {
        return;
    }
    let reason = stage.store.reasons[number].map_or("none", |reason| reason.as_str());
    let struck = stage.struck[number].join(", ");
    let ailments = well::ailments(&stage.world, number);
    if !ailments.is_empty() {
        let detail = format!(
            "collection {number}, long after the calm: {}; {reason}; struck by {struck}",
            ailments.join(", ")
        );
        stage.violated("unwell", detail);
    }
    // As many rows as may be moved at once are too few: a human must raise a limit.
    let lambda = observe::true_lambda(&mut stage.world, number);
    if lambda >= CURED || curable::lambda_without_the_incurable(&stage.world, number) >= CURED {
        return;
    }
    let weak = observe::weak_in_truth(&stage.world, number);
    stage.violated(
        "liveness",
        format!("collection {number}, long after the calm and in truth: {weak} {reason}; struck by {struck}"),
    );
}
