//! Whether a plan that was decided some time ago may begin now: waiting for a human or for a worker takes time, and the
//! gates it once passed may have closed.

use serde::{Deserialize, Serialize};

use super::{Arm, InFlight, Planned, Reason, Request, gates, has_cleared};
use crate::config::Config;
use crate::lifecycle::Status;
use crate::limits::{PEAK_SHARE, peak_bytes};
use crate::placement;
use crate::plan::{Plan, Step};
use crate::remedies;
use crate::snapshot::{Snapshot, UnixMs};

/// A plan that could not begin for so long is given up, milliseconds: it rests on what was seen then, and holds the place of
/// others on its table and its server. What is still weak is decided anew.
const BEGIN_WITHIN_MS: i64 = 600_000;

/// What the answer rests on. Asked when a human approves, and again when the worker is to be started.
#[derive(Debug, Clone, Copy)]
pub struct BeginInput<'a> {
    /// Settings in force for the collection.
    pub config: &'a Config,
    /// The latest observation.
    pub snapshot: &'a Snapshot,
    /// The plan and its problem.
    pub planned: &'a Planned,
    /// Who asked for it.
    pub request: &'a Request,
    /// What is known of the remedies.
    pub arms: &'a [Arm],
    /// What runs now, this action left out.
    pub in_flight: InFlight,
    /// Since when it may begin: when it was decided or, where a human had to, approved (now, when that is asked).
    pub since: UnixMs,
    /// The present time.
    pub now: UnixMs,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "begin", rename_all = "snake_case")]
pub enum Begin {
    /// Yes.
    Now,
    /// Not yet: approving is refused with this reason, an approved plan stays as it is.
    Wait {
        /// What it waits for.
        reason: Reason,
    },
    /// Not any more: the action ends.
    Never {
        /// How it ends.
        status: Status,
        /// Why.
        reason: Reason,
    },
}

/// Whether the plan may begin.
pub fn begin(input: &BeginInput<'_>) -> Begin {
    let BeginInput { config, snapshot, planned, request, arms, in_flight, since, now } = *input;
    let never = |status, reason| Begin::Never { status, reason };
    let late = now.saturating_sub(since) > BEGIN_WITHIN_MS;
    let wait = |reason| if late { never(Status::Expired, reason) } else { Begin::Wait { reason } };
    if !config.enabled {
        return never(Status::Aborted, Reason::Disabled);
    }
    if config.paused_until.is_some_and(|until| until > now) {
        return wait(Reason::Paused);
    }
    if arms.iter().any(|arm| arm.strategy == planned.plan.strategy && arm.breaker_open) {
        return never(Status::Aborted, Reason::BreakerOpen);
    }
    if snapshot.in_recovery {
        return wait(Reason::InRecovery);
    }
    if snapshot.partitions.is_empty() {
        return wait(Reason::LambdaUnknown);
    }
    if in_flight.this_table > 0 {
        return wait(Reason::ActionInFlight);
    }
    if i64::from(in_flight.server) >= config.max_concurrent_actions {
        return wait(Reason::ServerBusy);
    }
    if late || now.saturating_sub(snapshot.taken_at) > config.max_snapshot_age_seconds * 1000 {
        return wait(Reason::StaleSnapshot);
    }
    if let Some(closed) = gates::room(&planned.plan, config, snapshot, &in_flight) {
        return wait(closed.reason);
    }
    // What a human named by hand was wanted whether the part is weak or not, and whatever the server does.
    if !request.by_hand()
        && let Some(closed) = gates::quiet(planned, config, snapshot, now)
    {
        return wait(closed.reason);
    }
    if has_cleared(planned, request, snapshot, config) {
        return never(Status::Expired, Reason::StateNormal);
    }
    // The rows may have become fewer while it waited for a human.
    if placement::moves_too_many(&planned.plan, snapshot, config) {
        return never(Status::Expired, Reason::StaleSnapshot);
    }
    // What waits for its turn to write holds a snapshot that a concurrent build would wait for.
    let throttled = snapshot.ingestion.as_ref().is_some_and(|ingestion| ingestion.throttle.is_some());
    if throttled && gates::builds(&planned.plan) {
        return wait(Reason::NotQuiet);
    }
    // It was paused since, by the healer or by a human, and a build is maintenance too.
    if snapshot.maintenance_paused && gates::builds(&planned.plan) && !request.by_hand() {
        return wait(Reason::MaintenancePaused);
    }
    // Shares of at most 0.9 of bytes far below 2^53.
    let plan = &planned.plan;
    let peak = if gates::builds(plan) { peak_bytes(plan.disk_bytes, sorts(plan)) } else { 0 };
    let too_much = |free: &u64| {
        plan.disk_bytes as f64 > *free as f64 * config.max_disk_share
            || peak as f64 > *free as f64 * PEAK_SHARE
    };
    if snapshot.disk_free_bytes.known().is_some_and(too_much) {
        return never(Status::Aborted, Reason::DiskHeadroom);
    }
    Begin::Now
}

fn sorts(plan: &Plan) -> bool {
    plan.steps.iter().filter_map(Step::target).any(|of| remedies::sorts(of.method))
}
