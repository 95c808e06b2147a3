//! A dump keeps what people decided (settings, collections), not what was measured; it restores without an error.

use std::process::Stdio;

use cluster::wait_for;
use tests::{PATIENCE, start};

#[test]
fn settings_and_collections_survive_and_are_watched_again() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE TABLE docs (gone int, id int PRIMARY KEY, former vector(3));
               ALTER TABLE docs DROP COLUMN gone;
               INSERT INTO docs SELECT i, array[i, 1, 2]::real[]::vector FROM generate_series(1, 500) i;
               CREATE INDEX docs_i ON docs USING hnsw (former vector_l2_ops);
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"panel_queries": 16}');
               ALTER TABLE docs RENAME COLUMN former TO embedding;
               CREATE TABLE gone (embedding vector(3));
               SELECT ruvector_collection_register('gone', 'gone');
               SELECT ruvector_healing_autonomy('docs', 'rebuild_centroids', 'observe');
               SELECT ruvector_healing_autonomy('docs', 'compact_indexes', 'auto');
               SELECT ruvector_healing_autonomy('gone', 'compact_indexes', 'observe');
               DROP TABLE gone;
               SELECT ruvector_healing_configure('{"recall_objective": 0.9}')"#,
        )
        .unwrap();
    let named = "SELECT 1 FROM ruvector.collections WHERE name = 'docs' AND column_name = 'embedding'";
    wait_for("the column's new name", PATIENCE, || client.query_opt(named, &[]).unwrap()).unwrap();
    wait_for("the signatures", PATIENCE, || {
        let query = "SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.audit_pending)";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let signed: i64 = client.query_one("SELECT max(seq) FROM ruvector.audit_log", &[]).unwrap().get(0);
    client.batch_execute("CREATE DATABASE restored").unwrap();

    let mut dump = cluster.client_command("pg_dump", "app").stdout(Stdio::piped()).spawn().unwrap();
    let restore = cluster
        .client_command("psql", "restored")
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"])
        .stdin(dump.stdout.take().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let restored = restore.wait_with_output().unwrap();
    assert!(dump.wait().unwrap().success());
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));

    let mut client = cluster.connect("restored").unwrap();
    let row = client
        .query_one(
            "SELECT name, relation::text, column_name, settings::text, column_number,
                    ruvector_healing_configure(collection => 'docs') ->> 'recall_objective'
               FROM ruvector.collections",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("docs", "docs"));
    assert_eq!(row.get::<_, &str>(2), "embedding");
    assert_eq!(row.get::<_, &str>(3), r#"{"panel_queries": 16}"#);
    assert_eq!(row.get::<_, i16>(4), 2, "the restored table numbers its columns anew");
    assert_eq!(row.get::<_, &str>(5), "0.9");
    // What may not act by itself may not in the copy.
    let ladder = "SELECT string_agg(concat_ws(' ', c.name, a.strategy, a.level), ', ')
                    FROM ruvector.healing_autonomy a LEFT JOIN ruvector.collections c ON c.id = a.collection_id";
    assert_eq!(client.query_one(ladder, &[]).unwrap().get::<_, &str>(0), "docs rebuild_centroids observe");
    wait_for("a sample", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL AND collection = 'docs'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    // The copy knows that it is one, and that the log it took along is whole.
    let changed = "SELECT snapshot #>> '{around,identity_changed}' FROM ruvector.integrity";
    let changed: Option<String> = client.query_one(changed, &[]).unwrap().get(0);
    assert!(changed.as_deref().is_some_and(|changed| changed.contains("another database")), "{changed:?}");
    let row = client.query_one("SELECT whole, sound_rows, fault FROM ruvector_audit_verify()", &[]).unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, i64>(1) >= signed, "{:?}", row.get::<_, Option<String>>(2));
    let versions: i64 =
        client.query_one("SELECT count(*) FROM ruvector.settings_history", &[]).unwrap().get(0);
    assert_eq!(versions, 2);
    // The next collection gets a number of its own.
    client
        .batch_execute("CREATE TABLE more (e vector(3)); SELECT ruvector_collection_register('more', 'more')")
        .unwrap();
}

#[test]
fn a_dump_without_a_table_restores_the_other_collections() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE SCHEMA s;
             CREATE TABLE s.left_out (embedding vector(3)); CREATE TABLE docs (embedding vector(3));
             SELECT ruvector_collection_register('left out', 's.left_out');
             SELECT ruvector_collection_register('docs', 'docs');
             SELECT ruvector_healing_autonomy('left out', 'compact_indexes', 'observe');
             SELECT ruvector_healing_autonomy('docs', 'compact_indexes', 'approve')",
        )
        .unwrap();
    client.batch_execute("CREATE DATABASE restored").unwrap();
    let mut dump = cluster
        .client_command("pg_dump", "app")
        .arg("--exclude-table=s.left_out")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let restore = cluster
        .client_command("psql", "restored")
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"])
        .stdin(dump.stdout.take().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let restored = restore.wait_with_output().unwrap();
    assert!(dump.wait().unwrap().success());
    let said = String::from_utf8_lossy(&restored.stderr);
    assert!(restored.status.success(), "{said}");
    assert!(said.contains("collection \"left out\" is left out: its table is not there"), "{said}");
    let mut client = cluster.connect("restored").unwrap();
    let query = "SELECT string_agg(name || ' ' || relation, ', ') FROM ruvector.collections";
    assert_eq!(client.query_one(query, &[]).unwrap().get::<_, &str>(0), "docs docs");
    let query = "SELECT string_agg(level, ', ') FROM ruvector.healing_autonomy";
    assert_eq!(client.query_one(query, &[]).unwrap().get::<_, &str>(0), "approve");
    wait_for("a sample", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE sampled_at IS NOT NULL", &[])
            .unwrap()
    })
    .unwrap();
}
