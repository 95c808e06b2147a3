//! The worker of an action, the healer or the whole server dies in every phase of a rebuild: afterwards no invalid or
//! surplus index stays, the outcome is recorded, and the next try succeeds.
//!
//! Phases are held by locks and open transactions and seen in progress views, locks and the journal; nothing here
//! sleeps and hopes.

use cluster::dataset::Column;
use cluster::{Cluster, Signal, StopMode, wait_for};
use postgres::Client;
use std::time::Duration;
use tests::{load_docs, said, start};

/// Restart of a server, recovery, a second rebuild with its verification.
const PATIENCE: Duration = Duration::from_secs(120);
const ROWS: usize = 11_400;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    AfterIntent,
    BeforeCreate,
    WaitingForWriters,
    Building,
    Validating,
    BetweenBuildAndComparison,
    InTheSwap,
    BetweenSwapAndDrop,
    Dropping,
    BeforeTheOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    /// `pg_terminate_backend` of the worker.
    Terminate,
    /// SIGKILL of the worker, after which PostgreSQL restarts every process.
    Kill,
    /// SIGKILL of the healer: the same, with the worker among the others.
    Healer,
    /// SIGKILL of the postmaster and a start by hand.
    Postmaster,
    /// A human asks for a stop, and the worker is killed before it heard of it.
    KillAfterAbort,
    /// None: the server is stopped and started in order.
    Restart,
}

use Phase::*;

impl Phase {
    /// Transactions that hold the action in this phase, opened before it begins.
    fn hold(self, cluster: &Cluster) -> Vec<Client> {
        let statement = match self {
            // The worker stops before its intent; the test then locks what it reads after it.
            AfterIntent => "LOCK TABLE ruvector.action_steps IN SHARE MODE",
            BeforeCreate => "LOCK TABLE docs IN SHARE UPDATE EXCLUSIVE MODE",
            WaitingForWriters | BetweenBuildAndComparison => "DELETE FROM docs WHERE id = 0",
            // A snapshot that the last wait of the build waits for.
            Validating => {
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ruvector.settings"
            }
            InTheSwap => "COMMENT ON INDEX docs_i IS 'mine'",
            Dropping => "LOCK TABLE docs IN ACCESS SHARE MODE",
            BeforeTheOutcome => "LOCK TABLE ruvector.healing_outcomes IN SHARE MODE",
            Building | BetweenSwapAndDrop => return vec![],
        };
        let mut holder = cluster.connect("app").unwrap();
        holder.batch_execute(&format!("BEGIN; {statement}")).unwrap();
        vec![holder]
    }

    /// A query that finds a row once the action is in this phase.
    fn reached(self) -> String {
        let waits = |relation: &str| {
            format!(
                "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE a.backend_type = 'ruvector action' AND NOT l.granted AND l.relation = '{relation}'::regclass"
            )
        };
        let building = |phase: &str| {
            format!(
                "SELECT 1 FROM pg_stat_progress_create_index p JOIN pg_stat_activity a USING (pid)
                  WHERE a.backend_type = 'ruvector action' AND p.phase LIKE '{phase}'"
            )
        };
        match self {
            AfterIntent => format!(
                "{} AND EXISTS (SELECT FROM ruvector.action_steps WHERE step ->> 'kind' = 'build_index' AND state = 'intent')",
                waits("ruvector.readings")
            ),
            BeforeCreate => waits("docs"),
            WaitingForWriters | BetweenBuildAndComparison => building("waiting for writers before build"),
            Building => building("building index%"),
            Validating => building("waiting for old snapshots"),
            InTheSwap => waits("docs_i"),
            BetweenSwapAndDrop => "SELECT 1 FROM ruvector.actions WHERE status = 'verifying'".into(),
            Dropping => "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector action'
                            AND query LIKE 'DROP INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
                .into(),
            BeforeTheOutcome => waits("ruvector.healing_outcomes"),
        }
    }

    /// Whether all steps before the verdict were done by then: the next worker verifies it, or finishes what was kept.
    fn is_complete(self) -> bool {
        matches!(self, BetweenSwapAndDrop | Dropping | BeforeTheOutcome)
    }
}

fn dies(phase: Phase, victim: Victim) {
    let (cluster, mut client) = start();
    let data = load_docs(&mut client, 200);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)",
        )
        .unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 200..ROWS).unwrap();
    let window = if phase == BetweenSwapAndDrop { 60 } else { 1 };
    client
        .batch_execute(&format!(
            r#"ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs', settings => '{{"mode": "observe",
               "lock_timeout_ms": 60000, "dwell_samples": 1, "min_healing_interval_seconds": 0,
               "verify_window_seconds": {window}}}')"#
        ))
        .unwrap();
    // The healer has measured all it wants before it is held up.
    wait_for("a plan", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE decision ->> 'reason' = 'observe_mode'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let mut held = phase.hold(&cluster);
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    if phase == AfterIntent {
        wait_for("the intent", PATIENCE, || {
            let query =
                "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'ruvector.action_steps'::regclass";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap();
        let mut readings = cluster.connect("app").unwrap();
        readings.batch_execute("BEGIN; LOCK TABLE ruvector.readings IN ACCESS EXCLUSIVE MODE").unwrap();
        held = vec![readings];
    }
    wait_for(format!("the phase {phase:?}"), PATIENCE, || client.query_opt(&phase.reached(), &[]).unwrap())
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    if phase == BetweenBuildAndComparison {
        let mut journal = cluster.connect("app").unwrap();
        journal.batch_execute("BEGIN; LOCK TABLE ruvector.action_steps IN SHARE MODE").unwrap();
        held = vec![journal];
        wait_for("the built index to be noted", PATIENCE, || {
            let query =
                "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'ruvector.action_steps'::regclass";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap();
    }
    if phase == BetweenSwapAndDrop {
        // For the worker that goes on.
        let query = r#"SELECT ruvector_healing_configure('{"verify_window_seconds": 1}', 'docs')"#;
        client.execute(query, &[]).unwrap();
    }
    let pid_of = |client: &mut Client, kind: &str| -> i32 {
        client.query_one("SELECT pid FROM pg_stat_activity WHERE backend_type = $1", &[&kind]).unwrap().get(0)
    };
    let worker = pid_of(&mut client, "ruvector action");
    let healer = pid_of(&mut client, "ruvector healer");
    match victim {
        Victim::Terminate => {
            client.execute("SELECT pg_terminate_backend($1)", &[&worker]).unwrap();
        }
        Victim::Kill => cluster.kill(worker, Signal::KILL).unwrap(),
        Victim::Healer => cluster.kill(healer, Signal::KILL).unwrap(),
        Victim::Postmaster => cluster.kill_postmaster().unwrap(),
        Victim::KillAfterAbort => {
            // So that it cannot pass the wish on.
            cluster.kill(healer, Signal::STOP).unwrap();
            client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
            cluster.kill(worker, Signal::KILL).unwrap();
        }
        Victim::Restart => cluster.stop(StopMode::Fast).unwrap(),
    }
    // It must not get on in the moment between the death of another and its own.
    wait_for("the worker's end", PATIENCE, || {
        (!std::path::Path::new(&format!("/proc/{worker}")).exists()).then_some(())
    })
    .unwrap();
    drop(held);
    let mut client = back(&cluster, victim, client, healer);

    wait_for("the outcome", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.healing_outcomes WHERE action_id = $1", &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let status: String =
        client.query_one("SELECT status FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    // A server that was stopped in order says nothing of the remedy, a death or a crash does.
    let (expected, expected_lesson) = match victim {
        _ if phase.is_complete() => ("succeeded", "helped"),
        Victim::Restart => ("aborted", "nothing"),
        Victim::KillAfterAbort => ("aborted", "fault"),
        Victim::Terminate | Victim::Kill | Victim::Healer | Victim::Postmaster => ("failed", "fault"),
    };
    assert_eq!(status, expected, "{}", said(&mut client));
    let lesson: String =
        client.query_one("SELECT lesson FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    assert_eq!(lesson, expected_lesson);
    only_one_sound_index(&mut client);

    if !phase.is_complete() {
        client
            .execute(r#"SELECT ruvector_healing_configure('{"verify_window_seconds": 1}', 'docs')"#, &[])
            .unwrap();
        let next: i64 = client
            .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
            .unwrap()
            .get(0);
        let row = client.query_one(&format!("CALL ruvector_healing_wait({next}, '2 minutes')"), &[]).unwrap();
        assert_eq!(row.get::<_, &str>(0), "succeeded", "{}", said(&mut client));
        only_one_sound_index(&mut client);
    }
}

/// A connection to the server once it is up again.
fn back(cluster: &Cluster, victim: Victim, client: Client, healer: i32) -> Client {
    match victim {
        Victim::Terminate => return client,
        Victim::Postmaster | Victim::Restart => cluster.restart().unwrap(),
        Victim::Kill | Victim::Healer | Victim::KillAfterAbort => {}
    }
    drop(client);
    // The server may still be falling: a healer that is not the former one says that it has come back.
    wait_for("the server and its healer", PATIENCE, || {
        let mut client = cluster.connect("app").ok()?;
        let query = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND pid <> $1";
        client.query_opt(query, &[&healer]).ok()?.map(|_| client)
    })
    .unwrap()
}

fn only_one_sound_index(client: &mut Client) {
    let indexes = client
        .query(
            "SELECT i.indexrelid::regclass::text, i.indisvalid, (SELECT count(*) FROM ruvector.search_effort e
                     WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = e.index_id))
               FROM pg_index i WHERE i.indrelid = 'docs'::regclass AND NOT i.indisprimary",
            &[],
        )
        .unwrap();
    let seen: Vec<(&str, bool)> = indexes.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(seen, [("docs_i", true)]);
    assert_eq!(indexes[0].get::<_, i64>(2), 0, "no effort of an index that is gone");
}

macro_rules! crashes {
    ($($name:ident: $phase:ident, $victim:ident;)+) => {
        $(#[test] fn $name() { dies(Phase::$phase, Victim::$victim); })+
    };
}

crashes! {
    terminated_after_intent: AfterIntent, Terminate;
    killed_after_intent: AfterIntent, Kill;
    terminated_before_create: BeforeCreate, Terminate;
    killed_before_create: BeforeCreate, Kill;
    terminated_waiting_for_writers: WaitingForWriters, Terminate;
    killed_waiting_for_writers: WaitingForWriters, Kill;
    terminated_building: Building, Terminate;
    killed_building: Building, Kill;
    terminated_validating: Validating, Terminate;
    killed_validating: Validating, Kill;
    terminated_between_build_and_comparison: BetweenBuildAndComparison, Terminate;
    killed_between_build_and_comparison: BetweenBuildAndComparison, Kill;
    terminated_in_the_swap: InTheSwap, Terminate;
    killed_in_the_swap: InTheSwap, Kill;
    terminated_between_swap_and_drop: BetweenSwapAndDrop, Terminate;
    killed_between_swap_and_drop: BetweenSwapAndDrop, Kill;
    terminated_dropping: Dropping, Terminate;
    killed_dropping: Dropping, Kill;
    terminated_before_the_outcome: BeforeTheOutcome, Terminate;
    killed_before_the_outcome: BeforeTheOutcome, Kill;
    healer_killed_waiting_for_writers: WaitingForWriters, Healer;
    healer_killed_in_the_swap: InTheSwap, Healer;
    healer_killed_between_swap_and_drop: BetweenSwapAndDrop, Healer;
    postmaster_killed_waiting_for_writers: WaitingForWriters, Postmaster;
    postmaster_killed_in_the_swap: InTheSwap, Postmaster;
    postmaster_killed_dropping: Dropping, Postmaster;
    killed_waiting_for_writers_after_a_wish_to_stop: WaitingForWriters, KillAfterAbort;
    server_restarted_while_building: Building, Restart;
    server_restarted_between_swap_and_drop: BetweenSwapAndDrop, Restart;
}
