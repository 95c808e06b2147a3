//! What the server and the clock must allow before a plan that adds load may begin: quiet, a maintenance window, room in
//! the budget of impact. Asked for a decision and again before its worker starts.

use super::{InFlight, Planned, Reason};
use crate::config::Config;
use crate::plan::{Plan, Step};
use crate::remedies::{self, Remedy};
use crate::rollback;
use crate::snapshot::{Activity, Oid, Reading, Snapshot, UnixMs};
use crate::window::{self, Place, Window};

/// A gate that is closed: the reason, the figures, and when it opens by itself if that is known.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Closed {
    pub(super) reason: Reason,
    pub(super) detail: String,
    pub(super) until: Option<UnixMs>,
}

impl Closed {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), until: None }
    }
}

/// Slack of a sum of impacts: 0.1 + 0.2 is a little more than 0.3.
const EPSILON: f64 = 1e-9;
const MIB: f64 = 1_048_576.0;

fn remedy(plan: &Plan) -> Option<&'static dyn Remedy> {
    remedies::find(&plan.strategy)
}

/// Whether the plan builds an index.
pub(super) fn builds(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::BuildIndex { .. } | Step::ReindexConcurrently { .. }))
}

/// Whether steps reach beyond this server, which a copy of it must not: to an orchestrator, or to another server's rows.
pub(crate) fn reaches_beyond(steps: &[Step], snapshot: &Snapshot) -> bool {
    let elsewhere = |oid: Oid| {
        let places = snapshot.managed.iter().flat_map(|managed| &managed.places);
        places.into_iter().any(|place| place.oid == oid && place.elsewhere)
    };
    steps.iter().any(|step| match step {
        Step::ScaleReplicas { .. } => true,
        Step::MoveRows { moves, .. } => {
            moves.iter().any(|one| elsewhere(one.from.oid) || elsewhere(one.to.oid))
        }
        _ => false,
    })
}

/// What holds for every plan, a human's too: its place beside the others on the server, and the server's identity.
pub(super) fn room(
    plan: &Plan,
    config: &Config,
    snapshot: &Snapshot,
    in_flight: &InFlight,
) -> Option<Closed> {
    // Taking back what reached beyond the server reaches as far.
    let reaches_beyond = || reaches_beyond(&plan.steps, snapshot) || rollback::takes_back_from_beyond(plan);
    if let Some(change) = snapshot.around.identity_changed.as_ref().filter(|_| reaches_beyond()) {
        return Some(Closed::new(Reason::IdentityChanged, change.clone()));
    }
    if builds(plan) && in_flight.builds > 0 {
        return Some(Closed::new(
            Reason::ServerBusy,
            "an index is being built on this server; one at a time",
        ));
    }
    let others = in_flight.impact;
    if in_flight.server > 0 && others + plan.impact > config.max_total_impact + EPSILON {
        return Some(Closed::new(
            Reason::ImpactBudget,
            format!(
                "impact {:.2} beside {others:.2} of the actions under way is above max_total_impact {:.2}",
                plan.impact, config.max_total_impact
            ),
        ));
    }
    if let Some(Reading::Known(Activity { free_workers, .. })) = &snapshot.around.activity
        && f64::from(*free_workers) < config.quiet_free_workers as f64
    {
        return Some(not_quiet(format!(
            "{free_workers} of max_worker_processes are free, quiet_free_workers asks for {}",
            config.quiet_free_workers
        )));
    }
    None
}

fn not_quiet(detail: String) -> Closed {
    Closed::new(Reason::NotQuiet, detail)
}

/// What holds for a plan that adds load and that no human named: the server is quiet enough, and the time is right.
pub(super) fn quiet(planned: &Planned, config: &Config, snapshot: &Snapshot, now: UnixMs) -> Option<Closed> {
    let plan = &planned.plan;
    // What takes load away must not wait until there is none.
    if !remedy(plan).is_none_or(Remedy::adds_load) {
        return None;
    }
    load(config, snapshot).map(not_quiet).or_else(|| in_window(plan, config, snapshot, now))
}

/// The first thing that is not quiet.
fn load(config: &Config, snapshot: &Snapshot) -> Option<String> {
    let above = |name: &str, value: f64, limit: Option<f64>, key: &str, unit: &str| {
        limit
            .filter(|limit| value > *limit)
            .map(|limit| format!("{name} is {value:.1} {unit}, {key} is {limit}"))
    };
    if let Some(Reading::Known(replicas)) = &snapshot.replicas {
        // One that is gone is a problem of its own; what is built here does not put it further behind than it is.
        for replica in replicas.iter().filter(|replica| replica.gone_s.is_none()) {
            if let Some(lag) = replica.lag_seconds.known() {
                let name = format!("replay lag of {}", replica.name);
                let found =
                    above(&name, *lag, config.quiet_replica_lag_seconds, "quiet_replica_lag_seconds", "s");
                if found.is_some() {
                    return found;
                }
            }
        }
    }
    if let Some(Reading::Known(horizon)) = &snapshot.horizon {
        let limit = config.quiet_oldest_snapshot_seconds;
        let found =
            above("the oldest snapshot's age", horizon.held_s, limit, "quiet_oldest_snapshot_seconds", "s");
        if let Some(found) = found {
            return Some(match &horizon.holder {
                Some(holder) => format!("{found}: {holder}"),
                None => found,
            });
        }
    }
    match &snapshot.around.activity {
        None => None,
        Some(Reading::Unknown(why)) => Some(format!("the server's activity could not be read: {why}")),
        Some(Reading::Known(activity)) => {
            let cores = f64::from(activity.cores.max(1));
            let per_core = f64::from(activity.active_sessions) / cores;
            above(
                "the number of active sessions",
                per_core,
                config.quiet_active_sessions_per_core,
                "quiet_active_sessions_per_core",
                "a core",
            )
            .or_else(|| {
                let wal = activity.wal_bytes_per_s? / MIB;
                let limit = config.quiet_wal_mib_per_second;
                above("WAL written", wal, limit, "quiet_wal_mib_per_second", "MiB/s")
            })
        }
    }
}

/// Whether the maintenance windows are open, and long enough for the plan.
fn in_window(plan: &Plan, config: &Config, snapshot: &Snapshot, now: UnixMs) -> Option<Closed> {
    if plan.impact < config.window_impact {
        return None;
    }
    // Where the server has set windows, a collection's own must be open too.
    let both = [&config.server_windows, &config.maintenance_windows];
    both.into_iter().find_map(|windows| in_one(windows, plan, config, snapshot, now))
}

fn in_one(
    windows: &[Window],
    plan: &Plan,
    config: &Config,
    snapshot: &Snapshot,
    now: UnixMs,
) -> Option<Closed> {
    let offset_s = snapshot.around.utc_offset_s.unwrap_or(0);
    let closed = |detail: String, until| Closed { reason: Reason::OutsideWindow, detail, until };
    match window::place(windows, now, offset_s)? {
        Place::Outside { next } => {
            let minutes = (next - now + 59_999) / 60_000;
            Some(closed(format!("the next maintenance window begins in {minutes} min"), Some(next)))
        }
        Place::Within { until } => {
            // Building, then measuring the effect.
            let needs_s = plan.estimated_s + config.verify_window_seconds as f64;
            let left_s = (until - now) as f64 / 1000.0;
            (needs_s > left_s).then(|| {
                let detail = format!(
                    "it would take about {needs_s:.0} s, the maintenance window ends in {left_s:.0} s"
                );
                closed(detail, None)
            })
        }
    }
}
