//! What an action needs before it may run, held against the world and the settings: not against what the core says.

use healing::config::{Config, Mode as HealingMode};
use healing::engine::Request;
use healing::integrity::IntegrityState;
use healing::lifecycle::Lesson;
use healing::plan::{Plan, Step};
use healing::snapshot::{Oid, UnixMs};

use crate::stage::Stage;
use crate::store::{Action, Moment};

/// Slack of a sum of impacts, and of rows that are counted as numbers with fractions.
const IMPACT_SLACK: f64 = 1e-6;
const ROWS_SLACK: f64 = 1.0;
/// Share of the bytes of a fresh index, rows of this moment, that building it surely takes.
const BUILT_AT_LEAST: f64 = 0.9;
/// By how much a plan that a human approved may exceed what may be moved by then.
const ROWS_GROWN: f64 = 1.1;

/// An action may run from now on: every limit holds.
pub fn permitted(stage: &mut Stage, id: i64) {
    let at = stage.moment();
    let action = stage.store.actions[&id].clone();
    let planned = action.planned().clone();
    let config = stage.world.collections[action.collection].config.clone();
    if !config.enabled {
        stage.violated("disabled", format!("action {id} may run while healing is switched off"));
    }
    let others = stage.store.all_in_flight();
    if i64::from(others) > stage.max_concurrent {
        stage.violated(
            "server_limit",
            format!("{others} actions are in flight, action {id} the last of them"),
        );
    }
    limits(stage, id, &config);
    if planned.before.in_recovery {
        stage.violated("standby", format!("action {id} rests on an observation of a standby"));
    }
    if planned.unlisted || planned.before.partitions.is_empty() {
        stage.violated("empty", format!("action {id} was decided when no partition could be seen"));
    }
    let age_s = action.decided.map_or(0, |decided| (decided.real - planned.observed) / 1000);
    if age_s > config.max_snapshot_age_seconds && stage.jumped_at < planned.observed {
        stage.violated("acts_on_stale", format!("action {id} rests on an observation that is {age_s} s old"));
    }
    if action.request != Request::Automatic {
        return;
    }
    if !action.approved {
        consent(stage, id, &config);
    }
    let failures = Failures::of(stage, &action);
    if failures.open_breaker(&config) {
        stage.violated("breaker", format!("action {id} may run although its remedy failed too often"));
    }
    if action.approved {
        return;
    }
    if let Some(seconds) = failures.waits(&config, at) {
        stage.violated(
            "backoff",
            format!("action {id} comes {seconds} s before its remedy may be tried again"),
        );
    }
    let (cooldown_ms, window_ms) =
        (config.min_healing_interval_seconds * 1000, config.attempt_window_seconds * 1000);
    let mut attempts = 0;
    let mut too_soon = None;
    for other in stage.store.by_collection[action.collection].iter().rev().take(50) {
        let other = &stage.store.actions[other];
        if other.id == id || !other.status.counts_as_attempt() || other.planned.is_none() {
            continue;
        }
        if let Some(ended) = other.ended
            && at.real - ended.real < cooldown_ms
            && at.wall - ended.wall < cooldown_ms
        {
            too_soon = Some((other.id, (at.real - ended.real) / 1000));
        }
        if other.started.is_some_and(|s| at.real - s.real < window_ms && at.wall - s.wall < window_ms) {
            attempts += 1;
        }
    }
    if let Some((other, seconds)) = too_soon {
        stage.violated("cooldown", format!("action {id} comes {seconds} s after the end of action {other}"));
    }
    if attempts >= config.max_attempts_per_window {
        stage.violated("attempts", format!("action {id} comes after {attempts} others in the window"));
    }
}

/// Failures in a row of an action's remedy on its collection, counted anew from how its actions ended.
struct Failures {
    count: u32,
    last: Option<Moment>,
    undo_failed: bool,
}

impl Failures {
    fn of(stage: &Stage, action: &Action) -> Self {
        let strategy = &action.planned().plan.strategy;
        let closed = stage.closed.get(&(action.collection, strategy.clone())).copied();
        let mut found = Self { count: 0, last: None, undo_failed: false };
        let others = stage.store.by_collection[action.collection].iter().rev();
        for other in others.map(|id| &stage.store.actions[id]) {
            let same = other.planned.as_ref().is_some_and(|planned| planned.plan.strategy == *strategy);
            let (Some(ended), true) = (other.ended, same) else { continue };
            if closed.is_some_and(|closed| ended.real <= closed) || other.lesson == Some(Lesson::Helped) {
                break;
            }
            if matches!(other.lesson, Some(Lesson::Fault | Lesson::UndoFailed)) {
                found.count += 1;
                found.last = found.last.or(Some(ended));
                found.undo_failed |= other.lesson == Some(Lesson::UndoFailed);
            }
        }
        found
    }

    fn open_breaker(&self, config: &Config) -> bool {
        self.undo_failed || i64::from(self.count) >= config.breaker_failures
    }

    /// Seconds that are left of the least time to wait, by both clocks.
    fn waits(&self, config: &Config, at: Moment) -> Option<i64> {
        let last = self.last?;
        let doubled = config.backoff_base_seconds.saturating_mul(1 << (self.count - 1).min(30));
        let wait_ms = 1000 * doubled.min(config.backoff_cap_seconds);
        let passed = (at.real - last.real).max(at.wall - last.wall);
        (passed < wait_ms).then_some((wait_ms - passed) / 1000)
    }
}

/// No human has approved it: none has to.
fn consent(stage: &mut Stage, id: i64, config: &Config) {
    let action = &stage.store.actions[&id];
    let plan = &action.planned().plan;
    let state = stage.store.records[action.collection].map(|record| record.state);
    let needs = if config.mode == HealingMode::Observe {
        Some("runs in observe mode".to_owned())
    } else if config.mode == HealingMode::Approve {
        Some("was not approved".to_owned())
    } else if config.require_approval_strategies.contains(&plan.strategy) {
        Some(format!("({}) was not approved, as that remedy must be", plan.strategy))
    } else if config.require_approval_irreversible && !plan.reversible {
        Some("cannot be taken back, and was not approved".to_owned())
    } else {
        None
    };
    let (impact, allowed) = (impact_of(plan), config.max_auto_heal_impact);
    let gently = state != Some(IntegrityState::Critical) && impact > config.max_stress_impact;
    if let Some(why) = needs {
        stage.violated("consent", format!("action {id} {why}"));
    }
    if impact > allowed || gently {
        stage.violated("impact", format!("action {id} has impact {impact} in state {state:?}"));
    }
}

/// What a plan may take: rows, disk, its share of the server's impact, and the one place for builds.
fn limits(stage: &mut Stage, id: i64, config: &Config) {
    let action = &stage.store.actions[&id];
    let plan = &action.planned().plan;
    let tables = &stage.world.collections[action.collection].tables;
    let all: f64 = tables.iter().map(|table| table.rows).sum();
    // While a human thinks it over rows come and go.
    let grown = if action.approved { ROWS_GROWN } else { 1.0 };
    let allowed = grown * (config.max_moves as f64).min(config.max_move_share * all) + ROWS_SLACK;
    let rows: f64 = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::MoveRows { moves, .. } => moves.iter().map(|one| one.rows as f64).sum(),
            _ => 0.0,
        })
        .sum();
    // Before: by now whoever else fills the disk may have filled it.
    let free = action.planned().before.disk_free_bytes.known().copied();
    let room = free.map_or(f64::INFINITY, |free| free as f64 * config.max_disk_share);
    let mut found = vec![];
    if rows > allowed {
        found.push(format!("moves {rows:.0} rows, of {allowed:.0}"));
    }
    // The largest index that is built beside its old one: by the world, not by what the plan says of itself.
    let built = plan.steps.iter().filter_map(|step| match step {
        Step::BuildIndex { of, .. } | Step::ReindexConcurrently { of, .. } => Some(of.oid),
        _ => None,
    });
    let bytes_of = |oid: Oid| {
        let (table, index) =
            stage.world.collections[action.collection].indexes().find(|(_, index)| index.oid == oid)?;
        Some(BUILT_AT_LEAST * index.clean_bytes(table.rows) as f64)
    };
    let needed = built.filter_map(bytes_of).fold(plan.disk_bytes as f64, f64::max);
    if needed > room {
        found.push(format!("needs {needed:.0} bytes of disk, of {room:.0}"));
    }
    let others =
        stage.store.open.iter().filter(|other| **other != id).map(|other| &stage.store.actions[other]);
    let others: Vec<&Plan> =
        others.filter(|other| other.status.is_in_flight()).map(|other| &other.planned().plan).collect();
    let impact: f64 = others.iter().map(|plan| impact_of(plan)).sum();
    if !others.is_empty() && impact + impact_of(plan) > config.max_total_impact + IMPACT_SLACK {
        found.push(format!("has impact {} beside {impact}", impact_of(plan)));
    }
    if builds(plan) && others.iter().any(|other| builds(other)) {
        found.push("builds an index beside another that does".to_owned());
    }
    for why in found {
        stage.violated("limits", format!("action {id} {why}"));
    }
}

/// What each remedy is allowed to do to the server, as its document says.
fn impact_of(plan: &Plan) -> f64 {
    match plan.strategy.as_str() {
        "pause_maintenance" | "tune_search_effort" => 0.1,
        "scale_replicas" => 0.2,
        "repair_invalid_index" if !builds(plan) => 0.2,
        "rebalance_partitions" => 0.3,
        "drain_hot_partition" => 0.35,
        "throttle_ingestion" | "evict_cold_data" => 0.4,
        _ => 0.5,
    }
}

/// Whether a plan builds an index.
pub fn builds(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::BuildIndex { .. } | Step::ReindexConcurrently { .. }))
}

/// The healer starts the first worker of an action: nobody has paused healing, and what waits for a window is in one.
pub fn starts(stage: &mut Stage, id: i64) {
    let action = &stage.store.actions[&id];
    let (collection, wall) = (&stage.world.collections[action.collection], stage.world.wall());
    let config = &collection.config;
    let closed = Failures::of(stage, action).open_breaker(config);
    let off = !config.enabled;
    let paused = config.paused_until.is_some_and(|until| until > wall);
    let plan = &action.planned().plan;
    let helps =
        matches!(plan.strategy.as_str(), "throttle_ingestion" | "pause_maintenance" | "scale_replicas");
    // What was paused after the observation that it rests on is none of its fault.
    let observed = action.planned().observed;
    let held_back = builds(plan)
        && !action.by_hand()
        && stage.world.maintenance.holds(action.collection).any(|hold| hold.set < observed);
    let waits = !action.by_hand() && !helps && plan.impact >= config.window_impact;
    let outside = waits && !config.maintenance_windows.is_empty() && !in_window(config, wall);
    let by_hand = action.by_hand();
    if off {
        stage.violated("disabled", format!("action {id} begins while healing is switched off"));
    }
    if closed && !by_hand {
        stage.violated("breaker", format!("action {id} begins although its remedy failed too often"));
    }
    if paused {
        stage.violated("paused", format!("action {id} begins while healing is paused"));
    }
    if held_back {
        stage.violated("maintenance_paused", format!("action {id} builds while maintenance is paused"));
    }
    if outside {
        stage.violated("window", format!("action {id} begins outside of the maintenance windows"));
    }
}

/// Whether the time of day is in a window of each day (the only kind here), counted apart from the core.
fn in_window(config: &Config, wall: UnixMs) -> bool {
    let minute = wall.div_euclid(60_000).rem_euclid(24 * 60);
    let at = |time: &str| {
        let (hours, minutes) = time.split_once(':')?;
        Some(hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?)
    };
    config.maintenance_windows.iter().any(|window| match (at(&window.from), at(&window.to)) {
        (Some(from), Some(to)) if from < to => (from..to).contains(&minute),
        (Some(from), Some(to)) => minute >= from || minute < to,
        _ => false,
    })
}

#[cfg(test)]
mod tests;
