//! Whatever holds something back is gone in time, whoever was killed meanwhile.

use std::time::Duration;

use cluster::faults::partitioned;
use cluster::writers::{Writers, insert_one};
use cluster::{Signal, wait_for};
use postgres::Client;
use tests::{PATIENCE, said, start};

const LONG: Duration = Duration::from_secs(120);

fn throttled(client: &mut Client) -> bool {
    client.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).unwrap().is_some()
}

/// Waits until a manual throttle of this collection is in force and being verified.
fn verifying(client: &mut Client) -> i64 {
    wait_for("the usual rate", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE snapshot #> '{ingestion,baseline,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let params = r#"{"throttle_pct": 50, "lease_seconds": 25}"#;
    let action: i64 = client
        .query_one(
            "SELECT action_id FROM ruvector_healing_execute('docs', 'throttle_ingestion', $1::text::jsonb)",
            &[&params],
        )
        .unwrap()
        .get(0);
    wait_for("the action to verify", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'verifying'", &[&action])
            .unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    assert!(throttled(client));
    action
}

fn watched(client: &mut Client) {
    partitioned(client, "docs", 8, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe", "verify_window_seconds": 15}')"#,
        )
        .unwrap();
}

#[test]
fn an_action_that_is_aborted_gives_back_what_was_before_and_loses_no_row() {
    let (cluster, mut client) = start();
    watched(&mut client);
    let writers = Writers::start(&cluster, 4, Some(400.0), 1_000_000, insert_one).unwrap();
    let action = verifying(&mut client);
    client.query_one("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    wait_for("the abort", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'aborted'", &[&action])
            .unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    wait_for("no throttle", PATIENCE, || (!throttled(&mut client)).then_some(())).unwrap();
    let open: i64 = client.query_one("SELECT count(*) FROM ruvector_leases()", &[]).unwrap().get(0);
    assert_eq!(open, 0);
    let because: String = client.query_one("SELECT ended_because FROM ruvector.leases", &[]).unwrap().get(0);
    assert_eq!(because, "released");
    assert_eq!(writers.errors(), Vec::<String>::new());
    let ledger = writers.stop();
    let kept: i64 =
        client.query_one("SELECT count(DISTINCT id) FROM docs WHERE id >= 1000000", &[]).unwrap().get(0);
    assert_eq!(kept, ledger.len() as i64, "content and ledger");
}

#[test]
fn nothing_is_held_back_for_longer_though_everything_is_killed() {
    let (cluster, mut client) = start();
    watched(&mut client);
    {
        let _writers = Writers::start(&cluster, 2, Some(300.0), 1_000_000, insert_one).unwrap();
        verifying(&mut client);
        for process in cluster.processes() {
            let _ = cluster.kill(process.pid, Signal::KILL);
        }
    }
    cluster.restart().unwrap();
    let mut client = cluster.connect("app").unwrap();
    // The worker is dead: the action is undone by the next, and its lease with it, in any case at its own end.
    wait_for("the end of every lease", LONG, || {
        let open: i64 = client.query_one("SELECT count(*) FROM ruvector_leases()", &[]).unwrap().get(0);
        (open == 0 && !throttled(&mut client)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    // In one of the healer's rounds after that.
    let late: f64 = client
        .query_one("SELECT max(extract(epoch FROM ended_at - ends_at))::float8 FROM ruvector.leases", &[])
        .unwrap()
        .get(0);
    assert!(late < 30.0, "{late} s after its end");
    client.batch_execute("INSERT INTO docs VALUES (1, 1, '[1,2,3]')").unwrap();
}
