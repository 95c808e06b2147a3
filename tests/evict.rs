//! Memory runs out while cold rows lie among the others: they go to the cold partition, are still found, and the indexes of
//! what is left become smaller.

use std::time::Duration;

use cluster::{Cluster, wait_for};
use postgres::Client;
use serde_json::Value;
use tests::{said, start, start_with};

/// Panels of six indexes, moves, two builds with their comparisons, the window.
const PATIENCE: Duration = Duration::from_secs(300);

fn count(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap_or_else(|error| panic!("{query}: {error}")).get(0)
}

/// A managed collection a half of which is cold, seen so, and somebody who takes more memory than there is, all the time: that
/// it rises meanwhile proves nothing.
fn with_cold_rows(cluster: &Cluster, client: &mut Client) -> Client {
    // Of somebody's functions of that name, whose argument fits better, none is called.
    client
        .batch_execute(
            "CREATE SCHEMA tools; CREATE EXTENSION pg_buffercache SCHEMA tools;
             CREATE TABLE overloaded (as_user text); GRANT INSERT ON overloaded TO PUBLIC;
             CREATE ROLE mallory; GRANT USAGE, CREATE ON SCHEMA tools TO mallory; SET ROLE mallory;
             CREATE FUNCTION tools.pg_buffercache_evict_relation(oid, OUT buffers_evicted int, OUT buffers_flushed int,
                 OUT buffers_skipped int) LANGUAGE sql AS
                 $$ INSERT INTO public.overloaded VALUES (current_user); SELECT 0, 0, 0 $$;
             RESET ROLE",
        )
        .unwrap();
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
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    wait_for("cold rows that are counted, and a recall of every index", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity
                      WHERE (snapshot #>> '{managed,places,1,cold_rows,known}')::float8 > 1000
                        AND (SELECT count(*) FROM ruvector.readings WHERE kind = 'panel' AND reading ? 'known') >= 2";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    hoarder
}

/// Has the cold rows evicted; which action did it.
fn evict(client: &mut Client) -> i64 {
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'evict_cold_data')", &[])
        .unwrap()
        .get(0);
    let status: String = wait_for("the end of the action", PATIENCE, || {
        let query = "SELECT status FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    assert_eq!(status, "succeeded", "{}", said(client));
    action
}

#[test]
fn cold_rows_leave_and_are_still_found() {
    let (cluster, mut client) = start();
    let _hoarder = with_cold_rows(&cluster, &mut client);
    let bytes = "SELECT (pg_relation_size('docs_1_hnsw') + pg_relation_size('docs_2_hnsw'))::bigint";
    let (rows, before) = (count(&mut client, "SELECT count(*) FROM docs"), count(&mut client, bytes));
    let action = evict(&mut client);
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
    assert_eq!(count(&mut client, "SELECT count(*) FROM overloaded"), 0);
    eprintln!(
        "{released:?} buffers were released of a cold partition of {pages} pages; {rows} rows, indexes {before} -> {after} bytes"
    );
    let consumers = "SELECT array_agg((c ->> 1)::bigint ORDER BY n) FROM ruvector.healing_outcomes,
                            jsonb_array_elements(strategy_params -> 'largest_consumers') WITH ORDINALITY e (c, n)";
    let bytes: Vec<i64> = client.query_one(consumers, &[]).unwrap().get(0);
    assert!(
        bytes.len() > 1 && bytes.is_sorted_by(|a, b| a >= b),
        "who takes the memory, largest first: {bytes:?}"
    );
}

/// Of the buffers that searches touch, the share that was in shared buffers; none was searched for before.
fn found_in_memory(client: &mut Client, tables: &str, seed: f64) -> f64 {
    let (mut hits, mut reads) = (0, 0);
    client.batch_execute(&format!("SET enable_seqscan = off; SELECT setseed({seed})")).unwrap();
    let wanted: Vec<String> = client
        .query("SELECT ARRAY[random(), random(), random()]::vector::text FROM generate_series(1, 600)", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    for (number, embedding) in wanted.iter().enumerate() {
        let plan: Value = client
            .query_one(
                &format!(
                    "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
                     SELECT id FROM docs WHERE {tables} ORDER BY embedding <-> '{embedding}' LIMIT 10"
                ),
                &[],
            )
            .unwrap()
            .get(0);
        let of = |name: &str| plan[0]["Plan"][name].as_u64().unwrap();
        // The first warm it up.
        if number >= 200 {
            hits += of("Shared Hit Blocks");
            reads += of("Shared Read Blocks");
        }
    }
    hits as f64 / (hits + reads) as f64
}

#[test]
fn what_searches_of_hot_rows_touch_is_found_in_memory_no_less() {
    // Less than the indexes and the rows of the hot partitions take.
    let (cluster, mut client) = start_with(|builder| builder.setting("shared_buffers", "1536kB"));
    let _hoarder = with_cold_rows(&cluster, &mut client);
    let (hot, all) = ("partition_id IN (1, 2)", "true");
    let mut session = cluster.connect("app").unwrap();
    let before = (found_in_memory(&mut session, hot, 0.1), found_in_memory(&mut session, all, 0.2));
    evict(&mut client);
    let after = (found_in_memory(&mut session, hot, 0.3), found_in_memory(&mut session, all, 0.4));
    eprintln!(
        "in memory, of what searches touch: of hot rows {:.3}, then {:.3}; of all rows {:.3}, then {:.3}",
        before.0, after.0, before.1, after.1
    );
    assert!(before.0 < 0.98, "{before:?}: where all is in memory nothing is shown");
    assert!(after.0 > before.0 + 0.05 && after.1 > before.1 - 0.02, "{before:?}, then {after:?}");
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
