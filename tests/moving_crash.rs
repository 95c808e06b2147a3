//! The worker dies in every phase of a rebalance, a drain and an eviction, by an orderly end or by SIGKILL, while an
//! application writes: afterwards every acknowledged write is there once, and every row that the action had moved is where it
//! was, or where it was verified to be better; so are the weight of a drained partition and the indexes of an emptied one.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::faults::Readers;
use cluster::{Cluster, Signal, wait_for};
use postgres::Client;
use tests::ledger::{Manner, Writers};
use tests::{said, start};

/// Restart of a server, recovery, moving back.
const PATIENCE: Duration = Duration::from_secs(240);
/// Writes that must be acknowledged a second.
const RATE_MIN: f64 = 200.0;

/// Which remedy dies, and on what fault.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Remedy {
    Rebalance,
    Drain,
    Evict,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// It waits for the first lock, which a writer's open transaction holds.
    WaitingForTheLock,
    /// Rows are updated, the journal is not written.
    InABatch,
    /// Some batches are committed.
    BetweenBatches,
    /// λ is measured after a move.
    LookingAtLambda,
    /// The index of a partition that cold rows have left is built anew.
    Building,
    /// The fresh index of such a partition is to take the name of the former one.
    Swapping,
    /// All is verified, and a former index is to go.
    Dropping,
    /// A human has asked for a stop, and some batches are moved back.
    MovingBack,
    /// All is moved, and measured.
    Verifying,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    /// `pg_terminate_backend` of the worker.
    Terminate,
    /// SIGKILL of the worker, after which PostgreSQL restarts every process.
    Kill,
    /// SIGKILL of the postmaster and a start by hand.
    Postmaster,
}

use Phase::*;

impl Remedy {
    fn strategy(self) -> &'static str {
        match self {
            Remedy::Rebalance => "rebalance_partitions",
            Remedy::Drain => "drain_hot_partition",
            Remedy::Evict => "evict_cold_data",
        }
    }

    /// A collection that has the fault, and who makes it: those who read, or who takes the memory.
    fn fault(self, cluster: &Cluster, client: &mut Client) -> (Option<Readers>, Option<Client>) {
        let settings = r#"{"max_move_share": 0.5, "verify_window_seconds": 5, "mode": "observe", "move_lock_ms": 400,
                           "drain_lease_seconds": 10, "panel_queries": 8}"#;
        client.execute("SELECT ruvector_healing_configure($1::text::jsonb)", &[&settings]).unwrap();
        let (made, class) = match self {
            Remedy::Evict => (
                r#"SELECT ruvector_healing_configure('{"memory_limit_mib": 64}');
                   SELECT ruvector_collection_create('docs', 3, 2, distance => 'l2', cold_when => 'metadata @> ''{"old": true}''',
                                                     cold_options => 'autovacuum_enabled = off');
                   SELECT setseed(0.5);
                   INSERT INTO docs (embedding, metadata, partition_id)
                   SELECT ARRAY[random(), random(), random()]::vector, jsonb_build_object('old', i % 3 = 0), 1 + i % 2
                     FROM generate_series(1, 6000) i"#,
                "MemoryPressure",
            ),
            _ => (
                "SELECT ruvector_collection_create('docs', 3, 8, index_method => 'none');
                 INSERT INTO docs (embedding, metadata, partition_id)
                 SELECT '[1,2,3]', '{}', 1 + i % 8 FROM generate_series(1, 16000) i",
                "HotspotCongestion",
            ),
        };
        client.batch_execute(made).unwrap();
        client.batch_execute("ANALYZE docs").unwrap();
        let tables = (1..=8).map(|part| (format!("docs_{part}"), if part == 6 { 48 } else { 8 }));
        let hoarder = (self == Remedy::Evict).then(|| {
            let mut hoarder = cluster.connect("app").unwrap();
            // Held in memory after its transaction, which a concurrent build would wait for.
            let hoard = "SET work_mem = '1GB';
                         DECLARE hoard CURSOR WITH HOLD FOR SELECT i, repeat('x', 100) FROM generate_series(1, 1000000) i";
            hoarder.batch_execute(hoard).unwrap();
            hoarder
        });
        let readers = (self != Remedy::Evict).then(|| Readers::start(cluster, tables.collect()).unwrap());
        wait_for("the fault", PATIENCE, || {
            let query =
                "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%' || $1 || '%'";
            client.query_opt(query, &[&class]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
        if self == Remedy::Evict {
            wait_for("cold rows that are counted, and a recall of every index", PATIENCE, || {
                let query = "SELECT 1 FROM ruvector.integrity
                              WHERE (snapshot #>> '{managed,places,1,cold_rows,known}')::float8 > 500
                                AND (SELECT count(*) FROM ruvector.readings WHERE kind = 'panel' AND reading ? 'known') >= 2";
                client.query_opt(query, &[]).unwrap()
            })
            .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
        }
        (readers, hoarder)
    }
}

impl Phase {
    fn hold(self, cluster: &Cluster) -> Option<Client> {
        let statement = match self {
            WaitingForTheLock => "DELETE FROM docs WHERE id = -1",
            InABatch => "LOCK TABLE ruvector.moved_rows IN SHARE MODE",
            // Their own locks, and no snapshot that a build would wait for.
            Swapping => "COMMENT ON INDEX docs_1_hnsw IS 'mine'; COMMENT ON INDEX docs_2_hnsw IS 'mine'",
            Dropping => "LOCK TABLE docs_1, docs_2 IN ACCESS SHARE MODE",
            _ => return None,
        };
        let mut holder = cluster.connect("app").unwrap();
        holder.batch_execute(&format!("BEGIN; {statement}")).unwrap();
        Some(holder)
    }

    fn reached(self) -> &'static str {
        match self {
            WaitingForTheLock => {
                "SELECT 1 FROM ruvector.action_steps WHERE step ->> 'kind' = 'move_rows' AND state = 'intent'"
            }
            InABatch => {
                "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE a.backend_type = 'ruvector action' AND NOT l.granted AND l.relation = 'ruvector.moved_rows'::regclass"
            }
            BetweenBatches | MovingBack => "SELECT 1 FROM ruvector.moved_rows HAVING count(*) > 3",
            Building => {
                "SELECT 1 FROM ruvector.action_steps WHERE step ->> 'kind' = 'build_index' AND state = 'intent'"
            }
            Swapping => {
                "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE a.backend_type = 'ruvector action' AND NOT l.granted
                    AND l.relation IN ('docs_1_hnsw'::regclass, 'docs_2_hnsw'::regclass)"
            }
            Dropping => {
                "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector action'
                    AND query LIKE 'DROP INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
            }
            LookingAtLambda => "SELECT 1 FROM ruvector.actions WHERE progress LIKE 'moved % rows in 1 of %'",
            Verifying => "SELECT 1 FROM ruvector.actions WHERE status = 'verifying'",
        }
    }
}

fn worker(client: &mut Client) -> Option<i32> {
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector action'";
    client.query_opt(query, &[]).ok().flatten().map(|row| row.get(0))
}

/// Where each row of before the writers is.
fn placed(client: &mut Client) -> Vec<(i64, i32)> {
    let query = "SELECT id, partition_id FROM docs WHERE id <= 16000 ORDER BY id";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Valid indexes of the collection, and those that are not.
fn indexes(client: &mut Client) -> Vec<(String, bool)> {
    let query = "SELECT i.relname::text, x.indisvalid FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                  WHERE x.indrelid IN (SELECT relid FROM pg_partition_tree('docs')) ORDER BY 1";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The share of new rows that each partition gets.
fn weights(client: &mut Client) -> Vec<(i32, f64)> {
    let query = "SELECT partition_id, weight FROM ruvector_routing() ORDER BY 1";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn dies(remedy: Remedy, phase: Phase, victim: Victim) {
    let (cluster, mut client) = start();
    let _who = remedy.fault(&cluster, &mut client);
    let (before, built, weighed) = (placed(&mut client), indexes(&mut client), weights(&mut client));
    let held = phase.hold(&cluster);
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', $1)", &[&remedy.strategy()])
        .unwrap()
        .get(0);
    if phase == WaitingForTheLock || phase == InABatch {
        // The healer samples the table, which waits for nothing here.
        assert!(held.is_some());
    }
    let writers =
        Writers::start(&cluster, "docs", 1_000_000_000, 5, Duration::from_millis(5), Manner::ReadCommitted);
    wait_for(format!("{phase:?}"), PATIENCE, || client.query_opt(phase.reached(), &[]).unwrap())
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let mut held = held;
    if phase == MovingBack {
        client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
        held = InABatch.hold(&cluster);
        wait_for("a batch that is being moved back", PATIENCE, || {
            let undoing = format!(
                "{} AND EXISTS (SELECT FROM ruvector.actions WHERE progress LIKE 'undo%')",
                InABatch.reached()
            );
            client.query_opt(undoing.as_str(), &[]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    }
    let pid = worker(&mut client);
    match victim {
        Victim::Terminate => {
            let ended = "SELECT pg_terminate_backend($1)";
            assert!(client.query_one(ended, &[&pid.expect("a worker")]).unwrap().get::<_, bool>(0));
        }
        Victim::Kill => {
            let pid = pid.expect("a worker");
            cluster.kill(pid, Signal::KILL).unwrap();
            // Every session ends then, this one too; before that the server may still be taken for ready.
            wait_for("the crash", PATIENCE, || client.simple_query("SELECT 1").err()).unwrap();
        }
        Victim::Postmaster => {
            cluster.kill_postmaster().unwrap();
            cluster.restart().unwrap();
        }
    }
    drop(held);
    cluster.wait_ready(PATIENCE).unwrap();
    let mut client = wait_for("a connection", PATIENCE, || cluster.connect("app").ok()).unwrap();
    let status: String = wait_for("the end of the action", PATIENCE, || {
        let query =
            "SELECT status FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL AND NOT unfinished";
        client.query_opt(query, &[&action]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let met = writers.stop_and_compare(&mut client, "docs");
    assert!(met.errors.is_empty() && met.missed == 0, "{remedy:?} {phase:?} {victim:?}: {met:?}");
    // Over all of it: the death, the restart, and what the test itself held.
    let rate = met.writes as f64 / met.seconds;
    assert!(rate >= RATE_MIN, "{remedy:?} {phase:?} {victim:?}: {rate:.0} writes a second");
    let after = placed(&mut client);
    let left: i64 = client
        .query_one("SELECT count(*) FROM ruvector.moved_rows WHERE undone_at IS NULL", &[])
        .unwrap()
        .get(0);
    let story = format!("{remedy:?} {phase:?} {victim:?}: {status}");
    if status == "succeeded" {
        // Each row is there once, and where the journal says that it went.
        let mut expected: BTreeMap<i64, i32> = before.iter().copied().collect();
        let journal = "SELECT k::bigint, m.to_id FROM ruvector.moved_rows m, unnest(m.keys) k WHERE m.undone_at IS NULL ORDER BY m.id";
        for row in client.query(journal, &[]).unwrap() {
            // Those of the writers come and go.
            expected.entry(row.get(0)).and_modify(|part| *part = row.get(1));
        }
        let expected: Vec<(i64, i32)> = expected.into_iter().collect();
        assert!(left > 0 && after == expected, "{story}, and rows are not where they went");
    } else {
        assert_eq!(left, 0, "{story}");
        assert!(after == before, "{story}, and rows are not where they were");
    }
    // A weight under a lease ends with it, at what the plan leaves the partition or, taken back, at what it had.
    let now = wait_for("the end of the leases", PATIENCE, || {
        let under_lease = "SELECT 1 FROM ruvector_routing() WHERE weight_after IS NOT NULL";
        client.query_opt(under_lease, &[]).unwrap().is_none().then(|| weights(&mut client))
    })
    .unwrap_or_else(|error| panic!("{story}: {error}\n{}", said(&mut client)));
    if status == "succeeded" && remedy == Remedy::Drain {
        let less: Vec<_> = now.iter().filter(|(part, weight)| *part != 6 || *weight == 1.0).collect();
        assert!(less.len() == 7 && now.iter().all(|(_, weight)| *weight > 0.05), "{story}: {now:?}");
    } else {
        assert_eq!(now, weighed, "{story}");
    }
    wait_for("the indexes that there were, and none else", PATIENCE, || {
        (indexes(&mut client) == built).then_some(())
    })
    .unwrap_or_else(|error| panic!("{story}: {error}: {:?}", indexes(&mut client)));
    eprintln!("{story}, {} writes, {rate:.0} a second, {} connections lost", met.writes, met.lost);
}

#[test]
fn killed_while_it_waits_for_the_lock() {
    dies(Remedy::Rebalance, WaitingForTheLock, Victim::Terminate);
    dies(Remedy::Rebalance, WaitingForTheLock, Victim::Kill);
}

#[test]
fn killed_in_a_batch() {
    dies(Remedy::Rebalance, InABatch, Victim::Terminate);
    dies(Remedy::Rebalance, InABatch, Victim::Kill);
}

#[test]
fn killed_between_batches() {
    dies(Remedy::Rebalance, BetweenBatches, Victim::Terminate);
    dies(Remedy::Rebalance, BetweenBatches, Victim::Kill);
    dies(Remedy::Rebalance, BetweenBatches, Victim::Postmaster);
}

#[test]
fn killed_while_lambda_is_measured() {
    dies(Remedy::Rebalance, LookingAtLambda, Victim::Terminate);
    dies(Remedy::Rebalance, LookingAtLambda, Victim::Kill);
}

#[test]
fn killed_while_rows_move_back() {
    dies(Remedy::Rebalance, MovingBack, Victim::Terminate);
    dies(Remedy::Rebalance, MovingBack, Victim::Kill);
}

#[test]
fn killed_while_it_verifies() {
    dies(Remedy::Rebalance, Verifying, Victim::Terminate);
    dies(Remedy::Rebalance, Verifying, Victim::Kill);
}

#[test]
fn a_drain_is_killed_in_every_phase() {
    for phase in [WaitingForTheLock, InABatch, BetweenBatches, MovingBack, Verifying] {
        dies(Remedy::Drain, phase, Victim::Kill);
    }
    dies(Remedy::Drain, InABatch, Victim::Terminate);
}

#[test]
fn an_eviction_is_killed_in_every_phase() {
    for phase in [InABatch, Building, MovingBack, Verifying] {
        dies(Remedy::Evict, phase, Victim::Kill);
    }
    dies(Remedy::Evict, Building, Victim::Terminate);
}

#[test]
fn an_eviction_is_killed_while_it_replaces_the_indexes() {
    for phase in [Swapping, Dropping] {
        dies(Remedy::Evict, phase, Victim::Kill);
        dies(Remedy::Evict, phase, Victim::Terminate);
    }
    dies(Remedy::Evict, Swapping, Victim::Postmaster);
}
