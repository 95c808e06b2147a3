//! Standbys are passive; one that is promoted in the middle of an action puts it right, chains its own key in and reaches
//! for nothing outside until somebody says that it is the one.

use std::time::Duration;

use cluster::dataset::Column;
use cluster::{Cluster, wait_for};
use tests::{PATIENCE, load_docs, said, start, version};

#[test]
fn a_standby_is_passive_and_one_promoted_in_the_middle_finishes_the_story() {
    let (primary, mut client) = start();
    let data = load_docs(&mut client, 200);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)",
        )
        .unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 200..11_000).unwrap();
    client
        .batch_execute(
            r#"ANALYZE docs; SELECT ruvector_healing_configure('{"verify_window_seconds": 1}');
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    wait_for("a weak state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap();
    let standby = Cluster::builder(version()).standby_of(&primary, "one", false).start().unwrap();
    // As it should be: the key is not shipped.
    std::fs::remove_file(standby.data_directory().join("ruvector_audit.key")).unwrap();
    let mut there = standby.connect("app").unwrap();

    let mut writer = primary.connect("app").unwrap();
    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    wait_for("the build to wait for the writer", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    wait_for("the standby to know of it", PATIENCE, || {
        there
            .query_opt("SELECT 1 FROM ruvector.action_steps WHERE step ->> 'kind' = 'build_index'", &[])
            .unwrap()
    })
    .unwrap();
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ruvector%'";
    assert_eq!(there.query_one(ours, &[]).unwrap().get::<_, i64>(0), 0, "nothing of ours runs there");
    // It shows what the primary knows, and takes no orders.
    there.query("SELECT * FROM ruvector_healing_status()", &[]).unwrap();
    there.query("SELECT * FROM ruvector_healing_why_not('docs')", &[]).unwrap();
    there.query("SELECT * FROM ruvector_audit_verify()", &[]).unwrap();
    let refused = there.query("SELECT ruvector_healing_trigger('docs')", &[]).unwrap_err();
    assert_eq!(refused.as_db_error().map(|error| error.code().code()), Some("25006"), "read-only");

    primary.kill_postmaster().unwrap();
    there.batch_execute("SELECT pg_promote()").unwrap();
    wait_for("the outcome", Duration::from_secs(120), || {
        there.query_opt("SELECT 1 FROM ruvector.healing_outcomes WHERE action_id = $1", &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut there)));
    let indexes: Vec<(String, bool)> = there
        .query(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index
              WHERE indrelid = 'docs'::regclass AND NOT indisprimary",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(indexes, [("docs_i".to_owned(), true)]);
    let rows: i64 = there.query_one("SELECT count(*) FROM docs", &[]).unwrap().get(0);
    assert_eq!(rows, 11_000, "the writer's transaction had not been committed");

    // Its own key, that no former one vouches for.
    wait_for("the signatures", PATIENCE, || {
        let query = "SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.audit_pending)";
        there.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let row = there.query_one("SELECT whole, keys, fault FROM ruvector_audit_verify()", &[]).unwrap();
    assert!(row.get::<_, bool>(0), "{:?}", row.get::<_, Option<String>>(2));
    let keys: serde_json::Value = row.get(1);
    assert_eq!(keys.as_array().map(Vec::len), Some(2));
    assert_eq!(keys[1]["vouched"], false);

    // Another timeline: nothing beyond the server until somebody confirms.
    let changed = "SELECT snapshot #>> '{around,identity_changed}' FROM ruvector.integrity";
    wait_for("the change to be seen", PATIENCE, || {
        let found: Option<String> = there.query_one(changed, &[]).unwrap().get(0);
        found.filter(|found| found.contains("timeline"))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut there)));
    there.batch_execute("SELECT ruvector_identity_confirm()").unwrap();
    wait_for("the confirmation to be seen", PATIENCE, || {
        there.query_one(changed, &[]).unwrap().get::<_, Option<String>>(0).is_none().then_some(())
    })
    .unwrap();
}

#[test]
fn a_promoted_standby_is_known_for_another_server_before_its_first_checkpoint_has_ended() {
    let (primary, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE written (id int, filler text); ALTER TABLE written ALTER filler SET STORAGE PLAIN",
        )
        .unwrap();
    let standby = Cluster::builder(version())
        .standby_of(&primary, "one", false)
        .setting("checkpoint_timeout", "1h")
        .start()
        .unwrap();
    let mut there = standby.connect("app").unwrap();
    let timeline = "SELECT (ruvector._identity() ->> 'timeline')::int, (SELECT timeline_id FROM pg_control_checkpoint())";
    let timelines = |there: &mut postgres::Client| -> (i32, i32) {
        let row = there.query_one(timeline, &[]).unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(timelines(&mut there), (1, 1));
    // That checkpoint has thousands of blocks to write, and takes its time.
    client
        .batch_execute("INSERT INTO written SELECT i, repeat('x', 4000) FROM generate_series(1, 4000) i")
        .unwrap();
    wait_for("the rows there", PATIENCE, || {
        let count: i64 = there.query_one("SELECT count(*) FROM written", &[]).unwrap().get(0);
        (count == 4000).then_some(())
    })
    .unwrap();
    primary.kill_postmaster().unwrap();
    there.batch_execute("SELECT pg_promote()").unwrap();
    assert_eq!(timelines(&mut there), (2, 1));
}

#[test]
fn a_throttle_goes_over_a_failover_and_ends_there_by_itself() {
    let (primary, mut client) = start();
    cluster::faults::partitioned(&mut client, "docs", 1, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    let standby = Cluster::builder(version()).standby_of(&primary, "one", false).start().unwrap();
    wait_for("its usual rate", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE snapshot #> '{ingestion,baseline,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    client.query_one("SELECT ruvector_throttle_set('docs', 100, lease => '15 seconds')", &[]).unwrap();
    let mut there = standby.connect("app").unwrap();
    wait_for("the standby to know of it", PATIENCE, || {
        there.query_opt("SELECT 1 FROM ruvector.leases WHERE ended_at IS NULL", &[]).unwrap()
    })
    .unwrap();
    let throttled =
        |there: &mut postgres::Client| there.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).unwrap();
    assert!(throttled(&mut there).is_none(), "nothing is held back where nobody writes");
    primary.kill_postmaster().unwrap();
    there.batch_execute("SELECT pg_promote()").unwrap();
    wait_for("the throttle there", PATIENCE, || throttled(&mut there)).unwrap();
    wait_for("its end", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.leases WHERE ended_because = 'expired'";
        there.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    assert!(throttled(&mut there).is_none());
    there
        .batch_execute("SET statement_timeout = '5s'; INSERT INTO docs_0 VALUES (7000, 0, '[1,2,3]')")
        .unwrap();
}
