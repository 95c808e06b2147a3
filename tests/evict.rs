//! Memory runs out while cold rows lie among the others: they go to the cold partition, are still found, and the indexes of
//! what is left become smaller.

use std::time::Duration;

use cluster::wait_for;
use postgres::Client;
use tests::{said, start};

/// Panels of six indexes, moves, two builds with their comparisons, the window.
const PATIENCE: Duration = Duration::from_secs(300);

fn count(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap_or_else(|error| panic!("{query}: {error}")).get(0)
}

#[test]
fn cold_rows_leave_and_are_still_found() {
    let (cluster, mut client) = start();
    client.batch_execute("CREATE SCHEMA tools; CREATE EXTENSION pg_buffercache SCHEMA tools").unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"max_move_share": 0.5, "verify_window_seconds": 3, "mode": "observe",
                                                   "memory_limit_mib": 64, "panel_queries": 8}');
               SELECT ruvector_collection_create('docs', 3, 2, distance => 'l2',
                   cold_when => 'created_at < now() - interval ''30 days''', cold_options => 'autovacuum_enabled = off');
               SELECT setseed(0.5);
               INSERT INTO docs (embedding, partition_id, created_at, metadata)
               SELECT ARRAY[random(), random(), random()]::vector, 1 + i % 2, now() - (i % 4) * interval '20 days',
                      -- Some values that are kept apart from their rows.
                      CASE WHEN i % 40 = 3 THEN to_jsonb((SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 100) j)) END
                 FROM generate_series(1, 6000) i;
               ANALYZE docs"#,
        )
        .unwrap();
    // Somebody takes more memory than there is, all the time: that it rises meanwhile proves nothing.
    let mut hoarder = cluster.connect("app").unwrap();
    hoarder
        .batch_execute(
            // Held in memory after its transaction, which a concurrent build would wait for.
            "SET work_mem = '1GB';
             DECLARE hoard CURSOR WITH HOLD FOR SELECT i, repeat('x', 100) FROM generate_series(1, 1000000) i",
        )
        .unwrap();
    wait_for("memory that runs out", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%MemoryPressure%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    wait_for("cold rows that are counted, and a recall of every index", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity
                      WHERE (snapshot #>> '{managed,places,1,cold_rows,known}')::float8 > 1000
                        AND (SELECT count(*) FROM ruvector.readings WHERE kind = 'panel' AND reading ? 'known') >= 2";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let bytes = "SELECT (pg_relation_size('docs_1_hnsw') + pg_relation_size('docs_2_hnsw'))::bigint";
    let (rows, before) = (count(&mut client, "SELECT count(*) FROM docs"), count(&mut client, bytes));
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'evict_cold_data')", &[])
        .unwrap()
        .get(0);
    let status: String = wait_for("the end of the action", PATIENCE, || {
        let query = "SELECT status FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(status, "succeeded", "{}", said(&mut client));
    assert_eq!(
        count(&mut client, "SELECT count(*) FROM docs"),
        rows,
        "none is lost, all are found through the parent"
    );
    let cold = "created_at < now() - interval '30 days'";
    assert_eq!(count(&mut client, &format!("SELECT count(*) FROM docs_1 WHERE {cold}")), 0);
    assert_eq!(count(&mut client, &format!("SELECT count(*) FROM docs_cold WHERE NOT {cold}")), 0);
    assert!(count(&mut client, "SELECT count(*) FROM docs_cold") > 1000);
    let after = count(&mut client, bytes);
    assert!(after < before * 4 / 5, "{before} bytes of indexes, {after} now");
    // What moving had put into shared buffers is taken out, where the server can.
    let released: Option<i64> = client
        .query_one(
            "SELECT (strategy_params ->> 'buffers_released')::bigint FROM ruvector.healing_outcomes WHERE action_id = $1",
            &[&action],
        )
        .unwrap()
        .get(0);
    let pages = "WITH tables AS (SELECT unnest(ARRAY[oid, reltoastrelid]) AS oid FROM pg_class WHERE oid = 'docs_cold'::regclass),
                      files AS (SELECT oid FROM tables UNION SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM tables))
                 SELECT sum(pg_relation_size(oid))::bigint / 8192 FROM files";
    let pages = count(&mut client, pages);
    match tests::version().major() {
        18 => assert!(
            released.is_some_and(|buffers| buffers * 10 >= pages * 9),
            "{released:?} of {pages} pages"
        ),
        _ => assert_eq!(released, None),
    }
    eprintln!(
        "{released:?} buffers were released of a cold partition of {pages} pages; {rows} rows, indexes {before} -> {after} bytes"
    );
    let consumers = "SELECT jsonb_array_length(strategy_params -> 'largest_consumers')::bigint FROM ruvector.healing_outcomes";
    assert!(count(&mut client, consumers) > 0, "who takes the memory is in the outcome, largest first");
}

#[test]
fn a_condition_that_fails_is_said_and_stops_nothing_else() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 2, cold_when => 'created_at < now()');
             INSERT INTO docs (embedding) SELECT '[1,2,3]' FROM generate_series(1, 100);
             ALTER TABLE docs RENAME created_at TO made_at",
        )
        .unwrap();
    let why: String = wait_for("a sample that says so", PATIENCE, || {
        let query = "SELECT snapshot #>> '{managed,places,1,cold_rows,unknown}' FROM ruvector.integrity
                      WHERE lambda_cut IS NOT NULL AND note IS NULL AND snapshot #>> '{managed,places,1,cold_rows,unknown}' LIKE '%created_at%'";
        client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert!(why.contains("does not exist"), "{why}");
    client.batch_execute("SELECT ruvector_collection_cold_when('docs', 'made_at < now()')").unwrap();
    wait_for("the count", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE snapshot #>> '{managed,places,1,cold_rows,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
}
