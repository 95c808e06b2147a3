//! What holds under a lease, and what is prepared elsewhere, ends in time.

use std::collections::BTreeSet;

use healing::lease::LEASE_MAX_S;

use super::Watch;
use crate::stage::Stage;
use crate::world::WeightLease;
use crate::world::maintenance::Hold;

/// A running healer lets go of maintenance within so many seconds of the end of a lease, and ends what is prepared elsewhere.
pub(super) const LET_GO_S: u64 = 600;

/// What holds under a lease is over when the lease is, by at least one of both clocks.
pub(super) fn leases(stage: &mut Stage, watch: &mut Watch, tick_s: u64) {
    let (wall, now, jumped) = (stage.world.wall(), stage.world.now, stage.jumped_at);
    let clock_set = stage.clock_set_at;
    let grace_ms = 2000 * tick_s as i64;
    let late = stage.world.collections.iter().find_map(|collection| {
        let throttle = collection.ingest.throttle?;
        // However the clock is set, for no longer than twice.
        let times = if jumped < throttle.set { 1 } else { 2 };
        let over = now - throttle.set > times * throttle.lease_s * 1000 + grace_ms;
        let endless = throttle.lease_s > LEASE_MAX_S;
        // A clock that was just set forth has ended the lease at a stroke: the healer has its next round to say so.
        let late = throttle.until < wall - grace_ms && now - clock_set > grace_ms;
        (over || late || endless).then_some(collection.id)
    });
    if let Some(number) = late {
        stage.violated("lease_ends", format!("collection {number}: a throttle outlives its lease"));
    }
    // By the wall clock, or by true time: no jump of a clock holds it back for longer than twice its time.
    let is_over = |hold: &Hold, grace_ms: i64| {
        wall - grace_ms >= hold.until
            || now - hold.set > 2000 * hold.lease_s + grace_ms
            || hold.lease_s > LEASE_MAX_S
    };
    let maintenance = &stage.world.maintenance;
    // The process that keeps autovacuum away ends by itself, whatever becomes of the healer.
    let mut away = maintenance.away.iter();
    let away =
        away.find(|(_, hold)| is_over(hold, grace_ms) && stage.world.is_up() && now - clock_set > grace_ms);
    let away = away.map(|(number, _)| *number);
    let drained = stage.world.collections.iter().find(|collection| {
        let leases = collection.tables.iter().filter_map(|table| table.weight_lease);
        let wrong = |lease: &WeightLease| {
            let late = lease.until < wall - grace_ms && now - clock_set > grace_ms;
            let endless = lease.until > wall + lease.seconds * 1000 + grace_ms && now - clock_set > grace_ms;
            late || endless || lease.seconds > LEASE_MAX_S
        };
        leases.into_iter().any(|lease| wrong(&lease))
    });
    let drained = drained.map(|collection| collection.id);
    // Of jobs of pg_cron the healer lets go, in the next of its rounds.
    let held = maintenance.jobs.iter().filter_map(|job| Some((job.collection, job.held?)));
    let late: BTreeSet<usize> = held.filter(|(_, hold)| is_over(hold, 0)).map(|(number, _)| number).collect();
    let is_running = stage.healer.is_running(&stage.world);
    let idle = maintenance.jobs.iter().find(|job| job.held.is_none() && job.active != job.wanted);
    let idle = idle.map(|job| (job.collection, job.jobid));
    watch.late.retain(|number, _| late.contains(number));
    for number in late.into_iter().filter(|_| is_running) {
        let seconds = watch.late.entry(number).or_default();
        *seconds += tick_s;
        if *seconds > LET_GO_S {
            stage.violated(
                "lease_ends",
                format!("collection {number}: maintenance is held back after the lease"),
            );
        }
    }
    if let Some(number) = away {
        stage.violated("lease_ends", format!("collection {number}: autovacuum is kept away after the lease"));
    }
    if let Some(number) = drained {
        stage.violated(
            "lease_ends",
            format!("collection {number}: a partition is drained for longer than its lease"),
        );
    }
    if let Some((number, jobid)) = idle {
        stage.violated("lease_ends", format!("collection {number}: job {jobid} is not as its owner left it"));
    }
}

/// What is prepared on the other server is brought to its end while that answers and the healer runs.
pub(super) fn prepared(stage: &mut Stage, tick_s: u64) {
    if stage.world.far.prepared.is_empty() {
        return;
    }
    let could = stage.healer.is_running(&stage.world) && stage.world.far.answers().is_ok();
    let mut late = None;
    for prepared in stage.world.far.prepared.iter_mut().filter(|_| could) {
        prepared.idle_s += tick_s;
        if prepared.idle_s > LET_GO_S {
            late = Some(*prepared);
        }
    }
    if let Some(late) = late {
        let (batch, number) = (late.batch, late.collection);
        stage.violated("in_doubt", format!("collection {number}: batch {batch} stays prepared there"));
    }
}

#[cfg(test)]
mod tests;
