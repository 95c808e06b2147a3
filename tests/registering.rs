//! Registering a table: what is accepted, and what is refused with an ERROR that says what to do.

use cluster::wait_for;
use tests::{PATIENCE, refused, start};

#[test]
fn tables_are_registered_and_forgotten() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE plain (id int, e vector(3));
             CREATE TABLE parted (id int, e halfvec(3)) PARTITION BY LIST (id);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
             CREATE TABLE two (id int, a vector(3), b bit(8))",
        )
        .unwrap();
    client
        .batch_execute(
            "SELECT ruvector_collection_register('plain', 'plain');
             SELECT ruvector_collection_register('parted', 'parted', settings => '{\"panel_queries\": 32}');
             SELECT ruvector_collection_register('two', 'two', \"column\" => 'b')",
        )
        .unwrap();
    let columns =
        client.query("SELECT name, column_name FROM ruvector.collections ORDER BY name", &[]).unwrap();
    let columns: Vec<(&str, &str)> = columns.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(columns, [("parted", "e"), ("plain", "e"), ("two", "b")]);

    client.query_one("SELECT ruvector_collection_unregister('plain')", &[]).unwrap();
    assert_eq!(refused(&mut client, "SELECT ruvector_collection_unregister('plain')").0, "42704");
    client.query_one("SELECT ruvector_collection_register('again', 'plain')", &[]).unwrap();
}

#[test]
fn what_cannot_be_watched_is_refused_with_a_hint() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE none (id int);
             CREATE TABLE two (id int, a vector(3), b vector(3));
             CREATE TABLE good (id int, e vector(3));
             CREATE VIEW seen AS SELECT * FROM good;
             CREATE TABLE parted (id int, e vector(3)) PARTITION BY LIST (id);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
             SELECT ruvector_collection_register('good', 'good');
             SELECT ruvector_collection_register('parted', 'parted')",
        )
        .unwrap();
    for (arguments, sqlstate, hint) in [
        ("'n', 'none'", "42703", "vector, halfvec"),
        ("'t', 'two'", "42702", "\"column\" => 'a'"),
        ("'t', 'two', 'c'", "42703", "a, b"),
        ("'v', 'seen'", "42809", "Views"),
        ("'', 'two', 'a'", "22023", "name"),
        ("'good', 'two', 'a'", "42710", "another name"),
        ("'twice', 'good'", "42710", "unregister"),
        ("'leaf', 'parted_1'", "42710", "unregister"),
        ("'t', 'two', 'a', '{\"panel_querys\": 1}'", "22023", "panel_queries"),
        ("'t', 'two', 'a', '{\"recall_objective\": 7}'", "22023", "1"),
    ] {
        let (code, said) = refused(&mut client, &format!("SELECT ruvector_collection_register({arguments})"));
        assert_eq!(code, sqlstate, "{arguments}: {said}");
        assert!(said.contains(hint), "{arguments}: the hint does not mention {hint}: {said}");
    }
    let registered: i64 = client.query_one("SELECT count(*) FROM ruvector.collections", &[]).unwrap().get(0);
    assert_eq!(registered, 2, "a refused registration left something behind");
}

#[test]
fn collections_that_come_to_overlap_are_not_acted_on() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE root (id int, e vector(3)) PARTITION BY RANGE (id);
             CREATE TABLE part (id int, e vector(3));
             SELECT ruvector_collection_register('root', 'root'), ruvector_collection_register('part', 'part');
             ALTER TABLE root ATTACH PARTITION part FOR VALUES FROM (0) TO (9)",
        )
        .unwrap();
    for (collection, other) in [("root", "part"), ("part", "root")] {
        wait_for("the overlap to be said", PATIENCE, || {
            let query =
                "SELECT 1 FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id
                          WHERE c.name = $1 AND i.note LIKE '%table tree as collection \"' || $2 || '\"%'";
            client.query_opt(query, &[&collection, &other]).unwrap()
        })
        .unwrap();
    }
    // Of one alone all is well again.
    client.batch_execute("SELECT ruvector_collection_unregister('part')").unwrap();
    wait_for("a look without a fault", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.integrity WHERE note IS NULL", &[]).unwrap()
    })
    .unwrap();
}

#[test]
fn what_an_action_has_left_keeps_a_collection_registered() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, e vector(3)); SELECT ruvector_collection_register('docs', 'docs');
             INSERT INTO ruvector.actions (collection_id, collection_name, relation, request, status, unfinished, ended_at)
             SELECT id, name, relation, '{\"kind\": \"trigger\"}', 'rollback_failed', true, now() FROM ruvector.collections",
        )
        .unwrap();
    for verb in ["unregister", "release"] {
        let (state, hint) = refused(&mut client, &format!("SELECT ruvector_collection_{verb}('docs')"));
        assert_eq!(state, "55006", "{verb}");
        assert!(hint.contains("ruvector_healing_reset('docs')"), "{hint}");
    }
    // Of a table that is gone there is nothing to put right.
    client.batch_execute("DROP TABLE docs; SELECT ruvector_collection_unregister('docs')").unwrap();
}

#[test]
fn only_the_owner_among_operators_registers() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE ROLE owner LOGIN; CREATE ROLE other LOGIN; CREATE ROLE nobody_special LOGIN;
             GRANT ruvector_operator TO owner, other; GRANT CREATE ON SCHEMA public TO owner;
             SET ROLE owner; CREATE TABLE mine (id int, e vector(3)); RESET ROLE",
        )
        .unwrap();
    let register = "SELECT ruvector_collection_register('mine', 'mine')";
    for role in ["other", "nobody_special"] {
        let mut session = cluster.connect_as(role, "app").unwrap();
        assert_eq!(refused(&mut session, register).0, "42501", "{role}");
    }
    cluster.connect_as("owner", "app").unwrap().batch_execute(register).unwrap();
    let mut other = cluster.connect_as("other", "app").unwrap();
    for statement in [
        r#"SELECT ruvector_healing_configure('{"mode": "observe"}', 'mine')"#,
        "SELECT ruvector_healing_reset('mine')",
        "SELECT ruvector_collection_unregister('mine')",
        // What concerns all collections is the database's owner's.
        r#"SELECT ruvector_healing_configure('{"max_auto_heal_impact": 1.0}')"#,
        "SELECT ruvector_healing_pause(now() + interval '1 hour')",
        "SELECT ruvector_healing_resume()",
        "SELECT ruvector_audit_rotate_key()",
        "SELECT ruvector_identity_confirm()",
    ] {
        assert_eq!(refused(&mut other, statement).0, "42501", "{statement}");
    }
    other.query_one("SELECT ruvector_healing_configure(collection => 'mine')", &[]).unwrap();
    client
        .batch_execute("CREATE ROLE dba LOGIN IN ROLE ruvector_operator; ALTER DATABASE app OWNER TO dba")
        .unwrap();
    let mut dba = cluster.connect_as("dba", "app").unwrap();
    dba.batch_execute(r#"SELECT ruvector_healing_configure('{"mode": "observe"}')"#).unwrap();
}

#[test]
fn settings_are_checked_and_returned_effective() {
    let (_cluster, mut client) = start();
    let mut effective = |patch: &str, key: &str| -> String {
        let query = format!("SELECT ruvector_healing_configure('{patch}') ->> '{key}'");
        client.query_one(query.as_str(), &[]).unwrap().get(0)
    };
    assert_eq!(effective("{}", "min_healing_interval_seconds"), "300");
    assert_eq!(effective(r#"{"min_healing_interval_seconds": 60}"#, "min_healing_interval_seconds"), "60");
    assert_eq!(effective(r#"{"max_attempts_per_hour": 5}"#, "max_attempts_per_window"), "5");
    assert_eq!(effective("{}", "max_attempts_per_window"), "5", "it must be kept");
    let (code, hint) = refused(&mut client, r#"SELECT ruvector_healing_configure('{"enabeld": false}')"#);
    assert_eq!(code, "22023");
    assert!(hint.contains("enabled"), "{hint}");

    // What belongs to the server cannot be set for one collection, in whatever way; nothing of it stays.
    client.batch_execute("CREATE TABLE docs (id int, e vector(3))").unwrap();
    let of_the_server = r#"{"max_concurrent_actions": 2}"#;
    let register =
        format!("SELECT ruvector_collection_register('docs', 'docs', settings => '{of_the_server}')");
    assert_eq!(refused(&mut client, &register).0, "22023");
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    let configure = format!("SELECT ruvector_healing_configure('{of_the_server}', 'docs')");
    assert_eq!(refused(&mut client, &configure).0, "22023");
    client.query("SELECT * FROM ruvector_healing_status()", &[]).unwrap();
}
