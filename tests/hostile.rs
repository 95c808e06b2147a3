//! What an owner can do to the healer by what is run for an index: nothing that lasts.

use std::time::Duration;

use cluster::wait_for;
use tests::{PATIENCE, start};

#[test]
fn a_predicate_that_never_ends_keeps_the_healer_a_minute_and_is_named() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE FUNCTION endless(i int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
               BEGIN
                   IF current_setting('application_name') LIKE 'ruvector%' THEN PERFORM pg_sleep(3600); END IF;
                   RETURN true;
               END $$;
               CREATE TABLE trap (id int, embedding vector(3));
               INSERT INTO trap SELECT i, array[i, 1, 2]::real[]::vector FROM generate_series(1, 100) i;
               CREATE INDEX trap_i ON trap USING hnsw (embedding vector_l2_ops) WHERE endless(id);
               CREATE TABLE docs AS SELECT id, embedding FROM trap;
               CREATE INDEX docs_i ON docs USING hnsw (embedding vector_l2_ops);
               ANALYZE trap; ANALYZE docs;
               SELECT ruvector_collection_register('trap', 'trap', settings => '{"sample_interval_seconds": 3600}')"#,
        )
        .unwrap();
    wait_for("the healer to be caught", PATIENCE, || {
        let query =
            "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND wait_event = 'PgSleep'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    wait_for("the other collection to be measured", Duration::from_secs(200), || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE collection = 'docs' AND lambda_cut IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let note: Option<String> = client
        .query_one(
            "SELECT i.note FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id
              WHERE c.name = 'trap'",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(note.as_deref().is_some_and(|note| note.contains("timeout")), "{note:?}");
}
