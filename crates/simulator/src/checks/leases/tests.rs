use healing::throttle::{Percentages, Rates};

use super::super::reached::found;
use super::*;
use crate::scenario::{CollectionSpec, Scenario};
use crate::world::Portion;
use crate::world::far::Prepared;
use crate::world::strain::Throttle;

const TICK_S: u64 = 10;
/// What a check lets pass beside the time itself, milliseconds.
const GRACE_MS: i64 = 2000 * TICK_S as i64;
const LEASE_S: i64 = 600;

/// A managed collection with a job of pg_cron and a table on another server, at rest, so many milliseconds after the beginning.
fn stage() -> Stage {
    let mut scenario = Scenario::generate(2, 3600);
    scenario.collections = vec![CollectionSpec {
        partitions: 2,
        rows: 10_000.0,
        value_bytes: 520,
        ivfflat: true,
        hnsw: false,
        managed: true,
        attached: false,
        nightly_vacuum: Some(true),
        far: 1,
        settings: serde_json::json!({}),
    }];
    let mut stage = Stage::new(&scenario);
    stage.world.now += 100_000_000;
    stage
}

fn says(change: impl FnOnce(&mut Stage)) -> Vec<&'static str> {
    found(&stage(), change, |stage| leases(stage, &mut Watch::default(), TICK_S))
}

/// A throttle that was set so many milliseconds ago, and ends in so many by the wall clock.
fn throttled(stage: &mut Stage, age_ms: i64, left_ms: i64, lease_s: i64) {
    let wall = stage.world.wall();
    stage.world.collections[0].ingest.throttle = Some(Throttle {
        percentages: Percentages { throttle_pct: 50, bulk_throttle_pct: 60 },
        baseline: Rates { insert: 100.0, bulk_insert: 0.0 },
        begins: wall - age_ms,
        until: wall + left_ms,
        set: stage.world.now - age_ms,
        lease_s,
    });
}

fn hold(stage: &Stage, age_ms: i64, left_ms: i64, lease_s: i64) -> Hold {
    let wall = stage.world.wall();
    Hold { action: 1, begins: wall - age_ms, until: wall + left_ms, set: stage.world.now - age_ms, lease_s }
}

#[test]
fn a_throttle_ends_by_either_clock() {
    let lease_ms = LEASE_S * 1000;
    assert!(says(|_| ()).is_empty());
    assert!(says(|stage| throttled(stage, lease_ms + GRACE_MS, 0, LEASE_S)).is_empty());
    assert_eq!(says(|stage| throttled(stage, lease_ms + GRACE_MS + 1, 0, LEASE_S)), ["lease_ends"]);
    // By the wall clock.
    assert!(says(|stage| throttled(stage, 0, -GRACE_MS, LEASE_S)).is_empty());
    assert_eq!(says(|stage| throttled(stage, 0, -GRACE_MS - 1, LEASE_S)), ["lease_ends"]);
    // Which was set forth just now.
    let set_forth = |ago_ms: i64| {
        says(|stage| {
            throttled(stage, 0, -GRACE_MS - 1, LEASE_S);
            stage.clock_set_at = stage.world.now - ago_ms;
        })
    };
    assert!(set_forth(GRACE_MS).is_empty());
    assert_eq!(set_forth(GRACE_MS + 1), ["lease_ends"]);
    // It was set back while the throttle held: twice, no longer.
    let set_back = |age_ms: i64| {
        says(|stage| {
            throttled(stage, age_ms, 1, LEASE_S);
            stage.jumped_at = stage.world.now - age_ms;
        })
    };
    assert!(set_back(2 * lease_ms + GRACE_MS).is_empty());
    assert_eq!(set_back(2 * lease_ms + GRACE_MS + 1), ["lease_ends"]);
    assert!(says(|stage| throttled(stage, 0, 1, LEASE_MAX_S)).is_empty());
    assert_eq!(says(|stage| throttled(stage, 0, 1, LEASE_MAX_S + 1)), ["lease_ends"]);
}

#[test]
fn autovacuum_is_not_kept_away_for_longer() {
    let away = |age_ms: i64, left_ms: i64, lease_s: i64, set_ago_ms: i64, down: bool| {
        says(|stage| {
            let hold = hold(stage, age_ms, left_ms, lease_s);
            stage.world.maintenance.away.insert(0, hold);
            stage.clock_set_at = stage.world.now - set_ago_ms;
            if down {
                stage.world.down_until = stage.world.now + 1;
            }
        })
    };
    let long_ago = 100 * GRACE_MS;
    assert!(away(0, 1 - GRACE_MS, LEASE_S, long_ago, false).is_empty());
    assert_eq!(away(0, -GRACE_MS, LEASE_S, long_ago, false), ["lease_ends"]);
    let twice_ms = 2000 * LEASE_S + GRACE_MS;
    assert!(away(twice_ms, 1, LEASE_S, long_ago, false).is_empty());
    assert_eq!(away(twice_ms + 1, 1, LEASE_S, long_ago, false), ["lease_ends"]);
    assert!(away(0, 1, LEASE_MAX_S, long_ago, false).is_empty());
    assert_eq!(away(0, 1, LEASE_MAX_S + 1, long_ago, false), ["lease_ends"]);
    // The clock was just set; and of a server that is down nobody keeps anything away.
    assert!(away(0, -GRACE_MS, LEASE_S, GRACE_MS, false).is_empty());
    assert_eq!(away(0, -GRACE_MS, LEASE_S, GRACE_MS + 1, false), ["lease_ends"]);
    assert!(away(0, -GRACE_MS, LEASE_S, long_ago, true).is_empty());
}

#[test]
fn a_partition_is_not_drained_for_longer() {
    let drained = |left_ms: i64, seconds: i64, set_ago_ms: i64| {
        says(|stage| {
            let wall = stage.world.wall();
            let lease = WeightLease { begins: wall, until: wall + left_ms, seconds, after: 0.5 };
            stage.world.collections[0].tables[1].weight_lease = Some(lease);
            stage.clock_set_at = stage.world.now - set_ago_ms;
        })
    };
    let long_ago = 100 * GRACE_MS;
    assert!(drained(-GRACE_MS, LEASE_S, long_ago).is_empty());
    assert_eq!(drained(-GRACE_MS - 1, LEASE_S, long_ago), ["lease_ends"]);
    assert!(drained(-GRACE_MS - 1, LEASE_S, GRACE_MS).is_empty());
    assert_eq!(drained(-GRACE_MS - 1, LEASE_S, GRACE_MS + 1), ["lease_ends"]);
    // One that the clock has made longer than it was meant.
    assert!(drained(LEASE_S * 1000 + GRACE_MS, LEASE_S, long_ago).is_empty());
    assert_eq!(drained(LEASE_S * 1000 + GRACE_MS + 1, LEASE_S, long_ago), ["lease_ends"]);
    assert!(drained(LEASE_S * 1000 + GRACE_MS + 1, LEASE_S, GRACE_MS).is_empty());
    assert_eq!(drained(LEASE_S * 1000 + GRACE_MS + 1, LEASE_S, GRACE_MS + 1), ["lease_ends"]);
    assert!(drained(1, LEASE_MAX_S, long_ago).is_empty());
    assert_eq!(drained(1, LEASE_MAX_S + 1, long_ago), ["lease_ends"]);
}

#[test]
fn a_job_is_let_go_by_a_healer_that_runs_and_left_as_its_owner_wants_it() {
    // Looks so many times while its lease is over, or not.
    let looks = |count: u64, left_ms: i64, runs: bool| {
        let change = |stage: &mut Stage| {
            let hold = hold(stage, 0, left_ms, LEASE_S);
            (stage.world.maintenance.jobs[0].held, stage.world.maintenance.jobs[0].active) =
                (Some(hold), false);
            if !runs {
                stage.world.down_until = stage.world.now + 1;
            }
        };
        found(&stage(), change, |stage| {
            let mut watch = Watch::default();
            (0..count).for_each(|_| leases(stage, &mut watch, TICK_S));
        })
    };
    let most = LET_GO_S / TICK_S;
    assert!(looks(most, 0, true).is_empty());
    assert_eq!(looks(most + 1, 0, true), ["lease_ends"]);
    assert!(looks(most + 1, 1, true).is_empty());
    assert!(looks(most + 1, 0, false).is_empty());
    let idle = |stage: &mut Stage| stage.world.maintenance.jobs[0].active = false;
    assert_eq!(says(idle), ["lease_ends"]);
    // Time is counted anew once it was let go.
    let twice = |stage: &mut Stage| {
        let mut watch = Watch::default();
        for _ in 0..2 {
            let hold = hold(stage, 0, 0, LEASE_S);
            stage.world.maintenance.jobs[0].held = Some(hold);
            (0..most).for_each(|_| leases(stage, &mut watch, TICK_S));
            stage.world.maintenance.jobs[0].held = None;
            leases(stage, &mut watch, TICK_S);
        }
    };
    assert!(found(&stage(), |_| (), twice).is_empty());
}

#[test]
fn what_is_prepared_elsewhere_comes_to_its_end() {
    let looks = |count: u64, gone: bool, runs: bool| {
        let change = |stage: &mut Stage| {
            let table = stage.world.collections[0].tables.last().expect("a table").oid;
            let portion = Portion { rows: 10.0, ..Portion::default() };
            let prepared = Prepared { batch: 1, collection: 0, table, portion, comes: true, idle_s: 0 };
            stage.world.far.prepared.push(prepared);
            stage.world.far.gone_since = gone.then_some(stage.world.now);
            if !runs {
                stage.world.down_until = stage.world.now + 1;
            }
        };
        found(&stage(), change, |stage| (0..count).for_each(|_| prepared(stage, TICK_S)))
    };
    let most = LET_GO_S / TICK_S;
    assert!(looks(most, false, true).is_empty());
    assert_eq!(looks(most + 1, false, true), ["in_doubt"]);
    assert!(looks(most + 1, true, true).is_empty());
    assert!(looks(most + 1, false, false).is_empty());
}
