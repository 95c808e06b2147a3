//! Who switches healing off has it off: what is under way is undone, what is held back is let go, and the log says so.

use cluster::faults::partitioned;
use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, load_docs, said, start};

fn text(client: &mut Client, query: &str) -> String {
    client.query_one(query, &[]).unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

/// Waits until an action has come so far.
fn comes_to(client: &mut Client, action: i64, status: &str) {
    wait_for(format!("the action to be {status}"), PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = $2";
        client.query_opt(query, &[&action, &status]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
}

/// A compaction that has exchanged the names and is being verified for a long time.
fn verifying(client: &mut Client) -> i64 {
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'compact_indexes')", &[])
        .unwrap()
        .get(0);
    comes_to(client, action, "verifying");
    action
}

#[test]
fn what_is_under_way_is_stopped_and_undone() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            r#"CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops); DELETE FROM docs WHERE id >= 200; ANALYZE docs;
               SELECT ruvector_healing_configure('{"verify_window_seconds": 600}');
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    wait_for("a weak state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let oid = "SELECT 'docs_i'::regclass::oid::text";
    let former = text(&mut client, oid);
    let indexes =
        "SELECT count(*)::text FROM pg_index WHERE indrelid = 'docs'::regclass AND NOT indisprimary";
    let switches = [
        (
            r#"SELECT ruvector_healing_configure('{"enabled": false}')"#,
            r#"SELECT ruvector_healing_configure('{"enabled": true}')"#,
        ),
        (
            r#"SELECT ruvector_healing_configure('{"enabled": false}', 'docs')"#,
            r#"SELECT ruvector_healing_configure('{"enabled": true}', 'docs')"#,
        ),
        ("ALTER SYSTEM SET ruvector.enabled = off", "ALTER SYSTEM SET ruvector.enabled = on"),
    ];
    for (off, on) in switches {
        let action = verifying(&mut client);
        assert_ne!(text(&mut client, oid), former, "the new index bears the name");
        client.batch_execute(off).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        comes_to(&mut client, action, "aborted");
        assert_eq!(text(&mut client, oid), former, "{off}: the former index bears its name again");
        assert_eq!(text(&mut client, indexes), "1", "{off}");
        let row = client
            .query_one("SELECT stop_asked_by, lesson FROM ruvector.actions WHERE id = $1", &[&action])
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (Some("ruvector"), Some("nothing")), "{off}");
        client.batch_execute(on).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        wait_for("the switch to be seen", PATIENCE, || {
            client
                .query_opt(
                    "SELECT 1 FROM ruvector_healing_status() WHERE collection = 'docs' AND enabled",
                    &[],
                )
                .unwrap()
        })
        .unwrap();
    }
    wait_for("the signatures", PATIENCE, || {
        client.query_opt("SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.audit_pending)", &[]).unwrap()
    })
    .unwrap();
    let signed = "SELECT count(*)::text FROM ruvector.audit_log
                   WHERE event = 'aborted' AND actor = 'ruvector' AND details ->> 'why' = 'healing was switched off'";
    assert_eq!(text(&mut client, signed), "3");
}

#[test]
fn what_is_held_back_is_let_go() {
    let (cluster, mut client) = start();
    partitioned(&mut client, "docs", 1, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    wait_for("its usual rate", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE snapshot #> '{ingestion,baseline,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let throttled =
        |client: &mut Client| client.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).unwrap();
    client.query_one("SELECT ruvector_throttle_set('docs', 100, lease => '1 hour')", &[]).unwrap();
    wait_for("the throttle", PATIENCE, || throttled(&mut client)).unwrap();
    client.batch_execute("ALTER SYSTEM SET ruvector.enabled = off").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_for("the end of the throttle", PATIENCE, || throttled(&mut client).is_none().then_some(())).unwrap();
    // Writers are let go at once; that it is over is noted in the healer's next round.
    wait_for("the end of the lease", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.leases WHERE ended_because = 'switched_off'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    // A new session writes as if there had never been one.
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("SET statement_timeout = '5s'").unwrap();
    for number in 0..50 {
        writer.execute("INSERT INTO docs_0 VALUES ($1, 0, '[1,2,3]')", &[&(5000 + number)]).unwrap();
    }
    wait_for("the signature", PATIENCE, || {
        let query = "SELECT statement, details ->> 'why' FROM ruvector.audit_log WHERE event = 'lease_ended'";
        client.query_opt(query, &[]).unwrap().filter(|row| {
            row.get::<_, &str>(0).starts_with("UPDATE ruvector.leases")
                && row.get::<_, &str>(1) == "switched_off"
        })
    })
    .unwrap();
}
