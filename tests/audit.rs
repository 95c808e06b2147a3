//! The signed log: what happens is in it with its exact SQL, and no edit of it goes unseen.

use std::os::unix::fs::PermissionsExt;

use cluster::dataset::Column;
use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, load_docs, refused, said, start};

#[derive(Debug)]
struct Verified {
    whole: bool,
    sound: i64,
    first_bad: Option<i64>,
    fault: Option<String>,
    keys: serde_json::Value,
    heads: i64,
    pending: i64,
}

fn verify(client: &mut Client, head: &str) -> Verified {
    let query = format!("SELECT * FROM ruvector_audit_verify({head})");
    let row = client.query_one(query.as_str(), &[]).unwrap();
    Verified {
        whole: row.get(0),
        sound: row.get(1),
        first_bad: row.get(2),
        fault: row.get(3),
        keys: row.get(6),
        heads: row.get(7),
        pending: row.get(8),
    }
}

/// Waits until all that happened is signed.
fn signed(client: &mut Client) {
    wait_for("the signatures", PATIENCE, || {
        let query = "SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.audit_pending)";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

fn text(client: &mut Client, query: &str) -> String {
    client.query_one(query, &[]).unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

#[test]
fn what_happens_is_signed_with_its_sql_and_edits_are_pinpointed() {
    let (cluster, mut client) = start();
    let data = load_docs(&mut client, 200);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)",
        )
        .unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 200..11_000).unwrap();
    client
        .batch_execute(
            r#"ANALYZE docs;
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "approve", "verify_window_seconds": 1}')"#,
        )
        .unwrap();
    let action: i64 = wait_for("a plan", PATIENCE, || {
        client.query_opt("SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval'", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)))
    .get(0);
    client.batch_execute("CREATE ROLE alice LOGIN SUPERUSER").unwrap();
    let mut alice = cluster.connect_as("alice", "app").unwrap();
    alice.execute("SELECT ruvector_healing_approve($1)", &[&action]).unwrap();
    let status: String =
        client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap().get(0);
    assert_eq!(status, "succeeded", "{}", said(&mut client));
    signed(&mut client);

    let verified = verify(&mut client, "");
    assert!(verified.whole && verified.sound > 10 && verified.pending == 0, "{verified:?}");
    assert_eq!(verified.keys.as_array().unwrap().len(), 1);
    // Who asked, who approved, the exact SQL and what takes it back.
    let events =
        text(&mut client, "SELECT string_agg(DISTINCT event, ' ' ORDER BY event) FROM ruvector.audit_log");
    assert_eq!(events, "approved configured decided ended key registered step verified");
    let row = client
        .query_one(
            "SELECT statement, inverse, requested_by, approved_by FROM ruvector.audit_log
              WHERE action_id = $1 AND event = 'step' AND statement LIKE 'CREATE INDEX%'",
            &[&action],
        )
        .unwrap();
    let (statement, inverse): (String, String) = (row.get(0), row.get(1));
    assert!(
        statement.starts_with("CREATE INDEX CONCURRENTLY _ruvector_trial_") && statement.contains("lists="),
        "{statement}"
    );
    assert!(inverse.starts_with("DROP INDEX CONCURRENTLY public._ruvector_trial_"), "{inverse}");
    assert_eq!((row.get::<_, &str>(2), row.get::<_, &str>(3)), ("ruvector", "alice"));
    let dropped = text(
        &mut client,
        "SELECT inverse FROM ruvector.audit_log WHERE statement LIKE 'DROP INDEX CONCURRENTLY%' ORDER BY seq LIMIT 1",
    );
    assert!(dropped.starts_with("CREATE INDEX") && dropped.contains("lists='100'"), "{dropped}");
    let vectors = "SELECT count(*) FROM ruvector.audit_log l WHERE l::text ~ '\\[-?0\\.[0-9]+,-?0\\.[0-9]+'";
    assert_eq!(client.query_one(vectors, &[]).unwrap().get::<_, i64>(0), 0, "no vectors in the log");

    // Nobody changes it by accident, not even a superuser, nor as a replica.
    for statement in [
        "UPDATE ruvector.audit_log SET actor = 'nobody'",
        "DELETE FROM ruvector.audit_log WHERE seq = 3",
        "TRUNCATE ruvector.audit_log",
        "SET session_replication_role = replica; DELETE FROM ruvector.audit_log WHERE seq = 3",
    ] {
        assert_eq!(refused(&mut client, statement).0, "42501", "{statement}");
    }
    client.batch_execute("RESET session_replication_role").unwrap();

    // With the triggers taken away the log is changed, and it is seen where.
    let head = text(&mut client, "SELECT ruvector_audit_head()::text");
    let tampered = |client: &mut Client, change: &str, head: &str| {
        client
            .batch_execute(&format!("BEGIN; ALTER TABLE ruvector.audit_log DISABLE TRIGGER ALL; {change}"))
            .unwrap();
        let verified = verify(client, head);
        client.batch_execute("ROLLBACK").unwrap();
        (verified.first_bad, verified.fault.unwrap_or_default())
    };
    let (row, fault) =
        tampered(&mut client, "UPDATE ruvector.audit_log SET statement = 'x' WHERE seq = 4", "");
    assert!(row == Some(4) && fault.contains("edited"), "{row:?} {fault}");
    let (row, fault) =
        tampered(&mut client, "UPDATE ruvector.audit_log SET at = at + interval '1 us' WHERE seq = 5", "");
    assert!(row == Some(5) && fault.contains("edited"), "{row:?} {fault}");
    let (row, fault) = tampered(&mut client, "DELETE FROM ruvector.audit_log WHERE seq = 6", "");
    assert!(row == Some(7) && fault.contains("row 6 is due"), "{row:?} {fault}");
    let cut = format!("DELETE FROM ruvector.audit_log WHERE seq > {}", verified.sound - 2);
    assert_eq!(tampered(&mut client, &cut, "").0, None, "rows cut off are not seen from within");
    let (row, fault) = tampered(&mut client, &cut, &format!("'{head}'"));
    assert!(row == Some(verified.sound - 1) && fault.contains("cut off"), "{row:?} {fault}");
    assert!(verify(&mut client, &format!("'{head}'")).whole);
}

#[test]
fn the_key_is_made_once_for_the_server_alone_and_rotated_with_a_voucher() {
    let (cluster, mut client) = start();
    signed(&mut client);
    let file = cluster.data_directory().join("ruvector_audit.key");
    let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let first = std::fs::read_to_string(&file).unwrap();
    cluster.restart().unwrap();
    let mut client = cluster.connect("app").unwrap();
    let configure = |client: &mut Client| {
        let query = r#"SELECT ruvector_healing_configure('{"dwell_samples": 2}')"#;
        client.query_one(query, &[]).unwrap();
    };
    configure(&mut client);
    signed(&mut client);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first, "it stays");
    client.batch_execute("SELECT ruvector_audit_rotate_key()").unwrap();
    signed(&mut client);
    assert_ne!(std::fs::read_to_string(&file).unwrap(), first);
    assert_eq!(mode(), 0o600);
    configure(&mut client);
    signed(&mut client);
    let verified = verify(&mut client, "");
    assert!(verified.whole, "{verified:?}");
    let vouched: Vec<bool> =
        verified.keys.as_array().unwrap().iter().map(|key| key["vouched"].as_bool().unwrap()).collect();
    assert_eq!(vouched, [false, true]);

    // A key that others can read signs nothing, and nothing is lost meanwhile.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    configure(&mut client);
    wait_for("the complaint", PATIENCE, || cluster.log().contains("can be read by others").then_some(()))
        .unwrap();
    assert_eq!(verify(&mut client, "").pending, 1);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    signed(&mut client);
    assert!(verify(&mut client, "").whole);

    // Another key in its place, as after a promotion: chained in, and told.
    std::fs::remove_file(&file).unwrap();
    for old in std::fs::read_dir(cluster.data_directory()).unwrap() {
        let path = old.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "old") {
            std::fs::remove_file(path).unwrap();
        }
    }
    configure(&mut client);
    signed(&mut client);
    let verified = verify(&mut client, "");
    assert!(verified.whole, "{verified:?}");
    assert_eq!(verified.keys[2]["vouched"], false);
}

#[test]
fn key_and_heads_can_lie_outside_the_data_directory() {
    let (cluster, mut client) = start();
    let outside = cluster.socket_directory().to_owned();
    for name in ["key", "head"] {
        let set = format!("ALTER SYSTEM SET ruvector.audit_{name}_file = '{}/{name}s'", outside.display());
        client.batch_execute(&set).unwrap();
    }
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_for("the key", PATIENCE, || {
        client.query_one("SELECT ruvector_healing_configure('{\"dwell_samples\": 2}')", &[]).unwrap();
        outside.join("keys").exists().then_some(())
    })
    .unwrap();
    signed(&mut client);
    wait_for("the exported head", PATIENCE, || outside.join("heads").exists().then_some(())).unwrap();
    let heads = std::fs::read_to_string(outside.join("heads")).unwrap();
    let heads = format!("'[{}]'", heads.trim_end().replace('\n', ","));
    let verified = verify(&mut client, &heads);
    assert!(verified.whole, "{verified:?}");
    // Its own monitors see neither path.
    client.batch_execute("CREATE ROLE looker LOGIN IN ROLE ruvector_monitor").unwrap();
    let mut looker = cluster.connect_as("looker", "app").unwrap();
    assert_eq!(refused(&mut looker, "SHOW ruvector.audit_key_file").0, "42501");
    looker.query("SELECT * FROM ruvector_audit_verify()", &[]).unwrap();
    assert_eq!(refused(&mut looker, "SELECT ruvector_audit_rotate_key()").0, "42501");
    assert_eq!(refused(&mut looker, "INSERT INTO ruvector.audit_pending DEFAULT VALUES").0, "42501");
}

#[test]
fn heads_of_several_databases_in_one_file_are_told_apart() {
    let (cluster, mut client) = start();
    let heads = cluster.socket_directory().join("heads");
    client
        .batch_execute(&format!("ALTER SYSTEM SET ruvector.audit_head_file = '{}'", heads.display()))
        .unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other").unwrap();
    other.batch_execute("CREATE EXTENSION ruvector CASCADE").unwrap();
    let file = || std::fs::read_to_string(&heads).unwrap_or_default();
    let databases = || {
        let lines: Vec<serde_json::Value> =
            file().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.iter().map(|line| line["database"].as_i64().unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    wait_for("the heads of both", PATIENCE, || {
        for one in [&mut client, &mut other] {
            one.query_one("SELECT ruvector_healing_configure('{\"dwell_samples\": 2}')", &[]).unwrap();
        }
        (databases().len() == 2).then_some(())
    })
    .unwrap();
    for one in [&mut client, &mut other] {
        signed(one);
        let all = format!("'[{}]'", file().trim_end().replace('\n', ","));
        let verified = verify(one, &all);
        assert!(verified.whole, "{verified:?}");
        let lines = all.matches("\"database\"").count() as i64;
        assert!(verified.heads > 0 && verified.heads < lines, "{verified:?} of {lines}");
        // Its own head still counts among them.
        let cut = format!("DELETE FROM ruvector.audit_log WHERE seq > {}", verified.sound - 1);
        one.batch_execute(&format!("BEGIN; ALTER TABLE ruvector.audit_log DISABLE TRIGGER ALL; {cut}"))
            .unwrap();
        let missing = verify(one, &all);
        one.batch_execute("ROLLBACK").unwrap();
        assert!(!missing.whole, "{missing:?}");
    }
}

#[test]
fn what_makes_a_collection_managed_and_what_it_holds_cold_is_signed() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('shared', 3, 2, index_method => 'none');
             SELECT ruvector_collection_cold_when('shared', 'id < 10');
             CREATE TABLE plain (id bigint PRIMARY KEY, embedding vector(3)); INSERT INTO plain VALUES (1, '[1,2,3]')",
        )
        .unwrap();
    client.batch_execute("CALL ruvector_collection_adopt('plain', index_method => 'none')").unwrap();
    signed(&mut client);
    let rows = client
        .query("SELECT event, coalesce(statement, ''), coalesce(inverse, '') FROM ruvector.audit_log WHERE event <> 'key' ORDER BY seq", &[])
        .unwrap();
    let events: Vec<(&str, &str, &str)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let of = |event: &str| events.iter().filter(|one| one.0 == event).count();
    assert_eq!(
        (of("managed"), of("cold_when_set"), of("adoption_began"), of("adoption_ended")),
        (2, 1, 1, 1),
        "{events:?}"
    );
    let cold = events.iter().find(|one| one.0 == "cold_when_set").unwrap();
    assert_eq!(cold.1, "SELECT ruvector_collection_cold_when('public.shared', 'id < 10')");
    assert_eq!(cold.2, "SELECT ruvector_collection_cold_when('public.shared', NULL)");
    let began = events.iter().find(|one| one.0 == "adoption_began").unwrap();
    assert!(began.2.starts_with("SELECT ruvector_collection_adopt_abort("), "{began:?}");
}
