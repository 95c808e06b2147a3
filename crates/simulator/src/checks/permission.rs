//! What an action needs before it may run, held against the world and the settings: not against what the core says.

use healing::config::{Config, Mode as HealingMode};
use healing::engine::Request;
use healing::integrity::IntegrityState;
use healing::plan::{Plan, Step};
use healing::snapshot::UnixMs;

use crate::defects::Defect;
use crate::stage::Stage;

/// Slack of a sum of impacts, and of rows that are counted as numbers with fractions.
const IMPACT_SLACK: f64 = 1e-6;
const ROWS_SLACK: f64 = 1.0;
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
    if action.request != Request::Automatic {
        return;
    }
    if planned.before.in_recovery {
        stage.violated("standby", format!("action {id} rests on an observation of a standby"));
    }
    if !action.approved {
        consent(stage, id, &config);
    }
    let arms = stage.store.arms[action.collection].iter();
    let arm = arms.clone().find(|arm| arm.strategy == planned.plan.strategy);
    let closed = arm.is_some_and(|arm| arm.breaker_open);
    let until = arm.and_then(|arm| arm.backoff_until).filter(|until| *until > at.wall);
    if closed {
        stage.violated("breaker", format!("action {id} may run although its remedy failed too often"));
    }
    if let (Some(until), false) = (until, action.approved) {
        stage.violated(
            "backoff",
            format!("action {id} comes {} s before its remedy may be tried again", (until - at.wall) / 1000),
        );
    }
    let (Some(decided), false) = (action.decided, action.approved) else { return };
    let age_s = (decided.real - planned.observed) / 1000;
    if age_s > config.max_snapshot_age_seconds && stage.jumped_at < planned.observed {
        stage.violated("acts_on_stale", format!("action {id} rests on an observation that is {age_s} s old"));
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
    let (impact, allowed) = (plan.impact, config.max_auto_heal_impact);
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
    if plan.disk_bytes as f64 > room {
        found.push(format!("needs {} bytes of disk, of {room:.0}", plan.disk_bytes));
    }
    let others =
        stage.store.open.iter().filter(|other| **other != id).map(|other| &stage.store.actions[other]);
    let others: Vec<&Plan> =
        others.filter(|other| other.status.is_in_flight()).map(|other| &other.planned().plan).collect();
    let impact: f64 = others.iter().map(|plan| plan.impact).sum();
    if !others.is_empty() && impact + plan.impact > config.max_total_impact + IMPACT_SLACK {
        found.push(format!("has impact {} beside {impact}", plan.impact));
    }
    if builds(plan) && others.iter().any(|other| builds(other)) {
        found.push("builds an index beside another that does".to_owned());
    }
    for why in found {
        stage.violated("limits", format!("action {id} {why}"));
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
    let mut arms = stage.store.arms[action.collection].iter();
    let closed = arms.any(|arm| arm.strategy == action.planned().plan.strategy && arm.breaker_open);
    let paused = config.paused_until.is_some_and(|until| until > wall);
    let plan = &action.planned().plan;
    let helps =
        matches!(plan.strategy.as_str(), "throttle_ingestion" | "pause_maintenance" | "scale_replicas");
    let waits = !action.by_hand() && !helps && plan.impact >= config.window_impact;
    let outside = waits && !config.maintenance_windows.is_empty() && !in_window(config, wall);
    if closed && !action.by_hand() {
        stage.violated("breaker", format!("action {id} begins although its remedy failed too often"));
    }
    if paused {
        stage.violated("paused", format!("action {id} begins while healing is paused"));
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

/// A worker begins its action: what is switched off is stopped in the healer's next round, and was not approved.
pub fn begins(stage: &mut Stage, id: i64) {
    let number = stage.store.actions[&id].collection;
    if !stage.world.collections[number].config.enabled && stage.has(Defect::ApprovalSkipsGates) {
        stage.violated("disabled", format!("action {id} begins while healing is switched off"));
    }
}
