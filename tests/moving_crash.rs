//! The worker dies in every phase of a rebalance, by an orderly end or by SIGKILL, while an application writes: afterwards
//! every acknowledged write is there once, and every row that the action had moved is where it was, or where it was verified
//! to be better.

use std::time::Duration;

use cluster::faults::Readers;
use cluster::{Cluster, Signal, wait_for};
use postgres::Client;
use tests::ledger::{Manner, Writers};
use tests::{said, start};

/// Restart of a server, recovery, moving back.
const PATIENCE: Duration = Duration::from_secs(240);

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

impl Phase {
    fn hold(self, cluster: &Cluster) -> Option<Client> {
        let statement = match self {
            WaitingForTheLock => "DELETE FROM docs WHERE id = -1",
            InABatch => "LOCK TABLE ruvector.moved_rows IN SHARE MODE",
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

fn dies(phase: Phase, victim: Victim) {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"max_move_share": 0.3, "verify_window_seconds": 5, "mode": "observe",
                                                   "move_lock_ms": 400}');
               SELECT ruvector_collection_create('docs', 3, 8, index_method => 'none');
               INSERT INTO docs (embedding, metadata, partition_id)
               SELECT '[1,2,3]', '{}', 1 + i % 8 FROM generate_series(1, 16000) i;
               ANALYZE docs"#,
        )
        .unwrap();
    let before = placed(&mut client);
    let tables = (1..=8).map(|part| (format!("docs_{part}"), if part == 6 { 48 } else { 8 }));
    let _hot = Readers::start(&cluster, tables.collect()).unwrap();
    wait_for("a hot partition", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%HotspotCongestion%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let held = phase.hold(&cluster);
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebalance_partitions')", &[])
        .unwrap()
        .get(0);
    if phase == WaitingForTheLock || phase == InABatch {
        // The healer samples the table, which waits for nothing here.
        assert!(held.is_some());
    }
    let writers =
        Writers::start(&cluster, "docs", 1_000_000_000, 4, Duration::from_millis(10), Manner::ReadCommitted);
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
    match (victim, pid) {
        (Victim::Terminate, Some(pid)) => {
            client.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
        }
        (Victim::Kill, Some(pid)) => cluster.kill(pid, Signal::KILL).unwrap(),
        (Victim::Postmaster, _) => {
            cluster.kill_postmaster().unwrap();
            cluster.restart().unwrap();
        }
        // It has just ended by itself: what follows must hold all the same.
        (_, None) => {}
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
    assert!(met.errors.is_empty() && met.missed == 0, "{phase:?} {victim:?}: {met:?}");
    let after = placed(&mut client);
    let left: i64 = client
        .query_one("SELECT count(*) FROM ruvector.moved_rows WHERE undone_at IS NULL", &[])
        .unwrap()
        .get(0);
    if status == "succeeded" {
        assert!(left > 0 && after.len() == before.len(), "{phase:?} {victim:?}");
    } else {
        assert_eq!(left, 0, "{phase:?} {victim:?}: {status}");
        assert!(after == before, "{phase:?} {victim:?}: {status}, and rows are not where they were");
    }
    eprintln!("{phase:?} {victim:?}: {status}, {} writes, {} connections lost", met.writes, met.lost);
}

#[test]
fn killed_while_it_waits_for_the_lock() {
    dies(WaitingForTheLock, Victim::Terminate);
    dies(WaitingForTheLock, Victim::Kill);
}

#[test]
fn killed_in_a_batch() {
    dies(InABatch, Victim::Terminate);
    dies(InABatch, Victim::Kill);
}

#[test]
fn killed_between_batches() {
    dies(BetweenBatches, Victim::Terminate);
    dies(BetweenBatches, Victim::Kill);
    dies(BetweenBatches, Victim::Postmaster);
}

#[test]
fn killed_while_lambda_is_measured() {
    dies(LookingAtLambda, Victim::Terminate);
    dies(LookingAtLambda, Victim::Kill);
}

#[test]
fn killed_while_rows_move_back() {
    dies(MovingBack, Victim::Terminate);
    dies(MovingBack, Victim::Kill);
}

#[test]
fn killed_while_it_verifies() {
    dies(Verifying, Victim::Terminate);
    dies(Verifying, Victim::Kill);
}
