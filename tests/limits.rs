//! Limits that hold the healer back on a real server, each with its reason; and the history of settings.

use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, load_docs, said, start};

/// A collection whose index is mostly of deleted rows: it would be compacted.
fn bloated(client: &mut Client, name: &str) {
    client
        .batch_execute(&format!(
            "CREATE TABLE IF NOT EXISTS {name} AS TABLE docs; CREATE INDEX ON {name} USING hnsw (embedding vector_cosine_ops);
             DELETE FROM {name} WHERE id >= 200; ANALYZE {name}; SELECT ruvector_collection_register('{name}', '{name}')"
        ))
        .unwrap();
}

fn reason(client: &mut Client) -> (String, String) {
    let query =
        "SELECT coalesce(reason, ''), coalesce(detail, '') FROM ruvector_healing_why_not('docs') LIMIT 1";
    client.query_opt(query, &[]).unwrap().map_or_else(Default::default, |row| (row.get(0), row.get(1)))
}

fn held_back(client: &mut Client, expected: &str, words: &str) {
    wait_for(format!("{expected} {words}"), PATIENCE, || {
        let (reason, detail) = reason(client);
        (reason == expected && detail.contains(words)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?} {}", reason(client), said(client)));
}

fn configure(client: &mut Client, settings: &str) {
    client.query_one(&format!("SELECT ruvector_healing_configure('{settings}')"), &[]).unwrap();
}

#[test]
fn the_healer_waits_for_a_window_and_a_quiet_server_and_then_heals() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    // A window that begins in two hours, by the server's own clock.
    client.batch_execute("ALTER SYSTEM SET timezone = 'Asia/Kathmandu'").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    let window = |client: &mut Client, from: &str, to: &str| {
        let query = format!(
            r#"SELECT ruvector_healing_configure(jsonb_build_object('verify_window_seconds', 1, 'maintenance_windows',
                 jsonb_build_array(jsonb_build_object('from', to_char(now() AT TIME ZONE 'Asia/Kathmandu' + interval '{from}', 'HH24:MI'),
                                                      'to', to_char(now() AT TIME ZONE 'Asia/Kathmandu' + interval '{to}', 'HH24:MI')))))"#
        );
        client.query_one(query.as_str(), &[]).unwrap();
    };
    window(&mut client, "2 hours", "3 hours");
    bloated(&mut client, "docs");
    held_back(&mut client, "outside_window", "begins in 1");
    window(&mut client, "-1 hour", "1 hour");
    // Now it is the time, and somebody holds an old snapshot.
    configure(&mut client, r#"{"quiet_oldest_snapshot_seconds": 0}"#);
    let mut holder = cluster.connect("app").unwrap();
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM docs").unwrap();
    held_back(&mut client, "not_quiet", "quiet_oldest_snapshot_seconds");
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 0);
    configure(&mut client, r#"{"quiet_oldest_snapshot_seconds": 900, "quiet_free_workers": 1000}"#);
    held_back(&mut client, "not_quiet", "quiet_free_workers");
    holder.batch_execute("COMMIT").unwrap();
    configure(&mut client, r#"{"quiet_free_workers": 1}"#);
    wait_for("healing", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.healing_outcomes WHERE success", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {:?} {}", reason(&mut client), said(&mut client)));
}

#[test]
fn a_plan_above_the_permitted_impact_is_not_carried_out_and_what_needs_approval_waits_for_it() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    configure(
        &mut client,
        r#"{"max_auto_heal_impact": 0.4, "require_approval": ["IndexFragmentation"], "verify_window_seconds": 1}"#,
    );
    bloated(&mut client, "docs");
    held_back(&mut client, "over_impact_limit", "max_auto_heal_impact");
    let actions = |client: &mut Client| {
        let query = "SELECT coalesce(string_agg(status, ' '), '') FROM ruvector.actions";
        client.query_one(query, &[]).unwrap().get::<_, String>(0)
    };
    assert_eq!(actions(&mut client), "");
    // The default permits it. This class is asked about.
    configure(&mut client, r#"{"max_auto_heal_impact": 0.5}"#);
    let waiting = |client: &mut Client| -> i64 {
        let query = "SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval'";
        wait_for("a plan that waits", PATIENCE, || client.query_opt(query, &[]).unwrap())
            .unwrap_or_else(|error| panic!("{error}: {:?} {}", reason(client), said(client)))
            .get(0)
    };
    let first = waiting(&mut client);
    client.query_one("SELECT ruvector_healing_reject($1)", &[&first]).unwrap();
    // And so is this strategy, whatever the class.
    configure(
        &mut client,
        r#"{"require_approval": [], "require_approval_strategies": ["compact_indexes"], "min_healing_interval_seconds": 0}"#,
    );
    client.batch_execute("SELECT ruvector_healing_reset('docs')").unwrap();
    let second = waiting(&mut client);
    assert!(second > first);
    client.query_one("SELECT ruvector_healing_reject($1)", &[&second]).unwrap();
    // When nobody has to be asked, it is done.
    configure(&mut client, r#"{"require_approval_strategies": []}"#);
    client.batch_execute("SELECT ruvector_healing_reset('docs')").unwrap();
    wait_for("healing", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.healing_outcomes WHERE success AND verified AND action_id > $1";
        client.query_opt(query, &[&second]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {:?} {}", reason(&mut client), said(&mut client)));
}

#[test]
fn two_indexes_are_not_built_at_once_though_two_actions_may_run() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    configure(&mut client, r#"{"max_concurrent_actions": 4, "verify_window_seconds": 3, "mode": "observe"}"#);
    bloated(&mut client, "more");
    client.batch_execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops); DELETE FROM docs WHERE id >= 200; ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    wait_for("two observations", PATIENCE, || {
        let query = "SELECT count(*) FROM ruvector_integrity_status() WHERE lambda_cut < 0.7";
        (client.query_one(query, &[]).unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .unwrap();
    configure(&mut client, r#"{"mode": "auto"}"#);
    wait_for("two outcomes", PATIENCE, || {
        let query = "SELECT count(*) FROM ruvector.healing_outcomes WHERE success";
        (client.query_one(query, &[]).unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let apart: bool = client
        .query_one(
            "SELECT NOT bool_or(tstzrange(a.started_at, a.ended_at) && tstzrange(b.started_at, b.ended_at))
               FROM ruvector.actions a, ruvector.actions b WHERE a.id < b.id AND a.started_at IS NOT NULL AND b.started_at IS NOT NULL",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(apart, "{}", said(&mut client));
}

#[test]
fn a_database_that_is_left_out_has_no_healer_until_it_is_named() {
    let (_cluster, mut client) = start();
    let healers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ruvector healer'";
    let count = |client: &mut Client| client.query_one(healers, &[]).unwrap().get::<_, i64>(0);
    let set = |client: &mut Client, list: &str| {
        client.batch_execute(&format!("ALTER SYSTEM SET ruvector.databases = '{list}'")).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    };
    wait_for("the healer", PATIENCE, || (count(&mut client) == 1).then_some(())).unwrap();
    set(&mut client, "other, another");
    wait_for("its end", PATIENCE, || (count(&mut client) == 0).then_some(())).unwrap();
    let said = "SELECT why_not FROM ruvector_healing_status() WHERE collection IS NULL AND NOT enabled";
    let why: String = client.query_one(said, &[]).unwrap().get(0);
    assert!(why.contains("ruvector.databases"), "{why}");
    set(&mut client, "other, app");
    wait_for("the healer again", std::time::Duration::from_secs(150), || {
        (count(&mut client) == 1).then_some(())
    })
    .unwrap();
}

#[test]
fn every_change_of_settings_is_a_version() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, e vector(3)); SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    configure(&mut client, r#"{"dwell_samples": 4}"#);
    client.query_one(r#"SELECT ruvector_healing_configure('{"dwell_samples": 5}', 'docs')"#, &[]).unwrap();
    configure(&mut client, r#"{"dwell_samples": 6, "mode": "approve"}"#);
    let history: Vec<String> = client
        .query(
            "SELECT concat_ws(' ', collection, version, before ->> 'dwell_samples', after ->> 'dwell_samples', after ->> 'mode')
               FROM ruvector.settings_history ORDER BY id",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    // The first is what the tests' own start sets.
    assert_eq!(history[1..], ["2 3 4", "docs 1 4 5", "3 4 6 approve"]);
    let inverse: String = client
        .query_one(
            "SELECT inverse FROM (SELECT at, inverse FROM ruvector.audit_pending WHERE event = 'configured'
                                  UNION ALL SELECT at, inverse FROM ruvector.audit_log WHERE event = 'configured') x
              ORDER BY at DESC LIMIT 1",
            &[],
        )
        .unwrap()
        .get(0);
    client.query_one(&inverse, &[]).unwrap();
    let settings: serde_json::Value =
        client.query_one("SELECT ruvector_healing_configure()", &[]).unwrap().get(0);
    assert_eq!((&settings["dwell_samples"], &settings["mode"]), (&4.into(), &"auto".into()));
}

#[test]
fn what_is_switched_off_for_the_server_no_collection_switches_on() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE TABLE docs (id int, e vector(3));
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"enabled": true, "approver_differs": false}')"#,
        )
        .unwrap();
    configure(&mut client, r#"{"enabled": false, "approver_differs": true}"#);
    let effective: serde_json::Value =
        client.query_one("SELECT ruvector_healing_configure(NULL, 'docs')", &[]).unwrap().get(0);
    assert_eq!((&effective["enabled"], &effective["approver_differs"]), (&false.into(), &true.into()));
    for verb in ["ruvector_healing_trigger('docs')", "ruvector_throttle_set('docs', 100)"] {
        let (code, hint) = tests::refused(&mut client, &format!("SELECT {verb}"));
        assert!(code == "55000" && hint.contains("switch it on"), "{verb}: {code} {hint}");
    }
}

#[test]
fn a_throttle_by_hand_and_its_end_are_signed_with_what_takes_them_back() {
    let (_cluster, mut client) = start();
    cluster::faults::partitioned(&mut client, "docs", 1, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}');
               SELECT ruvector_collection_create('shared', 3, 2, index_method => 'none')"#,
        )
        .unwrap();
    wait_for("its usual rate", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id
                      WHERE c.name = 'docs' AND snapshot #> '{ingestion,baseline,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let lease: i64 = client
        .query_one("SELECT ruvector_throttle_set('docs', 100, lease => '1 minute')", &[])
        .unwrap()
        .get(0);
    client.query_one("SELECT ruvector_lease_release($1)", &[&lease]).unwrap();
    client.query_one("SELECT ruvector_routing_set('shared', 1, 3)", &[]).unwrap();
    wait_for("the signatures", PATIENCE, || {
        client.query_opt("SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.audit_pending)", &[]).unwrap()
    })
    .unwrap();
    let rows = client
        .query(
            "SELECT event, statement, inverse FROM ruvector.audit_log
              WHERE event IN ('throttled', 'lease_released', 'routing_set') ORDER BY seq",
            &[],
        )
        .unwrap();
    let said: Vec<(&str, &str, Option<&str>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let release = format!("SELECT ruvector_lease_release({lease})");
    assert_eq!(said[0].0, "throttled");
    assert_eq!(said[0].2, Some(release.as_str()));
    assert_eq!((said[1].0, said[1].1), ("lease_released", release.as_str()));
    assert_eq!(
        said[2],
        (
            "routing_set",
            "SELECT ruvector_routing_set('public.shared', 1, 3)",
            Some("SELECT ruvector_routing_set('public.shared', 1, 1)")
        )
    );
}
