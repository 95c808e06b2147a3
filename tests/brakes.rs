//! What stops the healer when healing goes wrong, and what an owner cannot loosen: breaker and its reset, healing in vain, the
//! budget of impact, gentleness in stress, a server that is not quiet, limits that the server has set.

use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::{PATIENCE, SLOW, load_docs, said, start, version};

/// A collection of which so many of a thousand rows are left: its index would be compacted.
fn bloated(client: &mut Client, name: &str, left: u32, settings: &str) {
    bloated_on(client, name, "embedding", left, settings);
}

/// The same with an index of this expression.
fn bloated_on(client: &mut Client, name: &str, key: &str, left: u32, settings: &str) {
    client
        .batch_execute(&format!(
            "CREATE TABLE {name} AS TABLE docs; CREATE INDEX {name}_i ON {name} USING hnsw ({key} vector_cosine_ops);
             DELETE FROM {name} WHERE id >= {left}; ANALYZE {name};
             SELECT ruvector_collection_register('{name}', '{name}', settings => '{settings}')"
        ))
        .unwrap();
}

fn configure(client: &mut Client, settings: &str) {
    client.query_one("SELECT ruvector_healing_configure($1::text::jsonb)", &[&settings]).unwrap();
}

/// Waits until this is why nothing happens by itself.
fn held_back(client: &mut Client, expected: &str, words: &str) {
    let found = |client: &mut Client| -> Vec<(String, String)> {
        let query = "SELECT reason, coalesce(detail, '') FROM ruvector_healing_why_not('sick')";
        client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    wait_for(format!("{expected} {words}"), PATIENCE, || {
        found(client)
            .iter()
            .any(|(reason, detail)| reason == expected && detail.contains(words))
            .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?} {}", found(client), said(client)));
}

fn healed(client: &mut Client, after: i64) -> i64 {
    wait_for("an outcome that helped", PATIENCE, || {
        let query =
            "SELECT action_id FROM ruvector.healing_outcomes WHERE success AND verified AND action_id > $1";
        client.query_opt(query, &[&after]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(client)))
    .get(0)
}

const PROMPT: &str = r#"{"verify_window_seconds": 1, "min_healing_interval_seconds": 0, "backoff_base_seconds": 1,
                         "max_attempts_per_window": 100}"#;

#[test]
fn faults_in_a_row_open_the_breaker_and_a_human_closes_it() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    configure(&mut client, PROMPT);
    configure(&mut client, r#"{"breaker_failures": 2, "autonomy_ladder": false}"#);
    client.batch_execute(SLOW).unwrap();
    let slow = "(slow(embedding)::vector(384))";
    bloated_on(&mut client, "sick", slow, 200, r#"{"mode": "observe", "max_build_seconds": 1}"#);
    wait_for("a weak state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let compact = |client: &mut Client| -> i64 {
        let query = "SELECT action_id FROM ruvector_healing_execute('sick', 'compact_indexes')";
        client.query_one(query, &[]).unwrap().get(0)
    };
    let ended = |client: &mut Client, action: i64| -> (String, Option<String>) {
        let wait = format!("CALL ruvector_healing_wait({action}, '1 minute')");
        let status = client.query_one(&wait, &[]).unwrap().get(0);
        let reason = "SELECT reason FROM ruvector.actions WHERE id = $1";
        (status, client.query_one(reason, &[&action]).unwrap().get(0))
    };
    // A build takes a worker twenty seconds, and has one.
    client.batch_execute("ALTER DATABASE app SET app.nap = '0.1'").unwrap();
    for _ in 0..2 {
        let action = compact(&mut client);
        assert_eq!(ended(&mut client, action).0, "failed", "{}", said(&mut client));
    }
    client.batch_execute("ALTER DATABASE app RESET app.nap").unwrap();
    // Nothing of it runs any more, by hand or by itself.
    let refused = compact(&mut client);
    assert_eq!(ended(&mut client, refused), ("refused".to_owned(), Some("breaker_open".to_owned())));
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "auto", "max_build_seconds": null}', 'sick')"#,
        )
        .unwrap();
    held_back(&mut client, "breaker_open", "compact_indexes");
    assert_eq!(client.query_one("SELECT ruvector_healing_reset('sick')", &[]).unwrap().get::<_, i32>(0), 1);
    healed(&mut client, refused);
}

#[test]
fn a_part_that_is_weaker_after_two_actions_than_before_them_is_left_to_a_human() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    configure(&mut client, PROMPT);
    bloated(&mut client, "sick", 400, "{}");
    let first = healed(&mut client, 0);
    client.batch_execute("INSERT INTO sick SELECT * FROM docs WHERE id >= 400; DELETE FROM sick WHERE id >= 150; ANALYZE sick").unwrap();
    healed(&mut client, first);
    configure(&mut client, r#"{"mode": "observe"}"#);
    // As if both had made it worse.
    client
        .batch_execute(
            r#"UPDATE ruvector.actions SET verification = verification || '{"of_problem": {"before": 0.9, "after": 0.4}}';
               INSERT INTO sick SELECT * FROM docs WHERE id >= 150; DELETE FROM sick WHERE id >= 120; ANALYZE sick"#,
        )
        .unwrap();
    let done = |client: &mut Client| -> i64 {
        client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0)
    };
    let before = done(&mut client);
    configure(&mut client, r#"{"mode": "auto"}"#);
    held_back(&mut client, "healing_ineffective", "before the last two actions");
    assert_eq!(done(&mut client), before, "{}", said(&mut client));
}

#[test]
fn impact_has_a_budget_and_stress_is_treated_more_gently_and_the_servers_limits_bind_owners() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    configure(&mut client, PROMPT);
    configure(&mut client, r#"{"max_stress_impact": 0.4}"#);
    bloated(&mut client, "sick", 420, "{}");
    held_back(&mut client, "over_stress_impact", "max_stress_impact 0.4");
    let own = |settings: &str| format!("SELECT ruvector_healing_configure('{settings}', 'sick')");
    let effective: serde_json::Value =
        client.query_one(&own(r#"{"max_stress_impact": 1.0}"#), &[]).unwrap().get(0);
    assert_eq!(effective["max_stress_impact"], 0.4, "what the server has set binds");
    held_back(&mut client, "over_stress_impact", "max_stress_impact 0.4");
    // Where it has set none, it is the owner's business.
    configure(&mut client, r#"{"max_stress_impact": 0.5, "max_auto_heal_impact": 0.5}"#);
    let effective: serde_json::Value = client
        .query_one(&own(r#"{"max_auto_heal_impact": 0.3, "verify_window_seconds": 600}"#), &[])
        .unwrap()
        .get(0);
    assert_eq!(effective["max_auto_heal_impact"], 0.3, "stricter is always allowed");
    held_back(&mut client, "over_impact_limit", "max_auto_heal_impact 0.3");
    client.query_one(&own(r#"{"max_auto_heal_impact": 0.5}"#), &[]).unwrap();
    wait_for("a long verification", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.actions WHERE status = 'verifying'", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    // Half of the budget is taken; a search effort costs a tenth, and a half and a tenth is more than a half.
    configure(&mut client, r#"{"max_concurrent_actions": 4, "max_total_impact": 0.5}"#);
    client
        .batch_execute(
            r#"CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 30); ANALYZE docs;
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE collection = 'docs' AND lambda_cut < 0.7";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'tune_search_effort')", &[])
        .unwrap()
        .get(0);
    wait_for("the budget to be in the way", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'proposed' AND detail LIKE '%max_total_impact%'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    configure(&mut client, r#"{"max_total_impact": 1.0}"#);
    let status: String =
        client.query_one(&format!("CALL ruvector_healing_wait({action}, '1 minute')"), &[]).unwrap().get(0);
    assert_eq!(status, "succeeded", "{}", said(&mut client));
}

#[test]
fn a_busy_server_is_left_alone_until_it_is_quiet() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    let standby = Cluster::builder(version()).standby_of(&cluster, "one", false).start().unwrap();
    configure(&mut client, PROMPT);
    configure(&mut client, r#"{"quiet_active_sessions_per_core": 0}"#);
    let mut busy = cluster.connect("app").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Until the other session says so.
            busy.batch_execute("SELECT pg_advisory_lock(7); SELECT pg_sleep(600)").unwrap_err();
        });
        bloated(&mut client, "sick", 200, "{}");
        held_back(&mut client, "not_quiet", "quiet_active_sessions_per_core");
        client
            .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND granted")
            .unwrap();
    });
    configure(&mut client, r#"{"quiet_active_sessions_per_core": null, "quiet_wal_mib_per_second": 0}"#);
    wait_for("WAL that is too much", PATIENCE, || {
        client.batch_execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 100000))").unwrap();
        let query = "SELECT 1 FROM ruvector_healing_why_not('sick') WHERE reason = 'not_quiet' AND detail LIKE '%quiet_wal_mib_per_second%' LIMIT 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    // A standby that does not replay.
    let mut there = standby.connect("app").unwrap();
    there.batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    configure(&mut client, r#"{"quiet_wal_mib_per_second": null, "quiet_replica_lag_seconds": 0.5}"#);
    wait_for("a lag that is too much", PATIENCE, || {
        client.batch_execute("SELECT pg_logical_emit_message(true, 'x', 'x')").unwrap();
        let query = "SELECT 1 FROM ruvector_healing_why_not('sick') WHERE reason = 'not_quiet' AND detail LIKE '%quiet_replica_lag_seconds%' LIMIT 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 0, "{}", said(&mut client));
    there.batch_execute("SELECT pg_wal_replay_resume()").unwrap();
    healed(&mut client, 0);
}
