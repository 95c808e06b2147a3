//! λ, its witness and the state: a weak index is found and named, and the state returns when it is strong again.

use cluster::dataset::Column;
use cluster::faults::partitioned;
use cluster::wait_for;
use tests::{PATIENCE, load_docs, start};

#[test]
fn low_recall_weakens_the_collection_until_it_is_cured() {
    let (_cluster, mut client) = start();
    let data = load_docs(&mut client, 200);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)",
        )
        .unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 200..6_000).unwrap();
    client.batch_execute("ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs', settings => '{\"mode\": \"observe\"}')").unwrap();

    let status =
        "SELECT state, lambda_cut, problems -> 0 ->> 'class', samples FROM ruvector_integrity_status()";
    let weak = wait_for("a weak state", PATIENCE, || {
        let row = client.query_one(status, &[]).unwrap();
        ["stress", "critical"].contains(&row.get::<_, &str>(0)).then_some(row)
    })
    .unwrap();
    let lambda: f64 = weak.get(1);
    assert!(lambda < 0.7, "λ = {lambda}");
    assert_eq!(weak.get::<_, &str>(2), "CentroidSkew");
    assert!(weak.get::<_, i64>(3) >= 3, "the state may change only after dwell_samples samples");

    let witness = client
        .query("SELECT edge_type, capacity, cause FROM ruvector_integrity_witness('docs')", &[])
        .unwrap();
    let sum: f64 = witness.iter().map(|row| row.get::<_, f64>(1)).sum();
    let now: f64 = client.query_one(status, &[]).unwrap().get(1);
    assert!((sum - now).abs() < 1e-6, "λ = {now}, its witness sums to {sum}");
    assert!(witness.iter().all(|row| row.get::<_, Option<&str>>(2) == Some("recall")), "the cause is recall");

    client.batch_execute("REINDEX INDEX docs_i; SELECT ruvector_search_effort_set('docs_i', 60)").unwrap();
    wait_for("the normal state", PATIENCE, || {
        let row = client.query_one(status, &[]).unwrap();
        (row.get::<_, &str>(0) == "normal" && row.get::<_, f64>(1) > 0.8).then_some(())
    })
    .unwrap();
    let events: Vec<String> = client
        .query("SELECT to_state FROM ruvector.integrity_events ORDER BY id", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(events.last().map(String::as_str), Some("normal"), "{events:?}");
    assert!(events.len() >= 2, "{events:?}");
}

#[test]
fn an_invalid_index_is_named() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, e vector(3));
             INSERT INTO t SELECT i, ARRAY[i, i % 7, 1]::vector FROM generate_series(1, 500) i;
             ANALYZE t; SELECT ruvector_collection_register('t', 't', settings => '{\"mode\": \"observe\"}')",
        )
        .unwrap();
    // A writer that does not end holds the build between its phases, and there it is cancelled.
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (0, '[1,2,3]')").unwrap();
    let mut builder = cluster.connect("app").unwrap();
    let cancel = builder.cancel_token();
    let build = std::thread::spawn(move || {
        builder.batch_execute("CREATE INDEX CONCURRENTLY broken ON t USING hnsw (e vector_l2_ops)")
    });
    wait_for("the build to wait for the writer", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap().map(|_| ())
    })
    .unwrap();
    cancel.cancel_query(postgres::NoTls).unwrap();
    build.join().unwrap().unwrap_err();
    writer.batch_execute("ROLLBACK").unwrap();

    let (lambda, class, strategy): (f64, String, String) = wait_for("the invalid index to be named", PATIENCE, || {
        let query = "SELECT lambda_cut, problems -> 0 ->> 'class', remedy ->> 'strategy' FROM ruvector_integrity_status()
                      WHERE state = 'critical' AND remedy ? 'strategy'";
        client.query_opt(query, &[]).unwrap().map(|row| (row.get(0), row.get(1), row.get(2)))
    })
    .unwrap();
    assert!(lambda < 0.01, "λ = {lambda}");
    assert_eq!((class.as_str(), strategy.as_str()), ("IndexFragmentation", "repair_invalid_index"));
}

/// What a look now says of the collection `docs`, below `snapshot`.
fn snapshot(client: &mut postgres::Client) -> serde_json::Value {
    let query = "SELECT snapshot FROM ruvector_integrity_sample('docs')";
    client.query_one(query, &[]).unwrap().get(0)
}

#[test]
fn shared_buffers_are_named_by_relation_where_pg_buffercache_is_there() {
    let (_cluster, mut client) = start();
    partitioned(&mut client, "docs", 2, 3000).unwrap();
    client.execute("SELECT ruvector_collection_register('docs', 'docs')", &[]).unwrap();
    let without = snapshot(&mut client);
    assert_eq!(
        without["memory"]["known"]["buffers"]["unknown"],
        "the extension pg_buffercache is not in this database"
    );
    client.batch_execute("CREATE SCHEMA tools; CREATE EXTENSION pg_buffercache SCHEMA tools").unwrap();
    let with = snapshot(&mut client);
    let memory = &with["memory"]["known"];
    let buffers = memory["buffers"]["known"].as_array().unwrap();
    assert!(buffers.iter().any(|one| one[0].as_str().unwrap().starts_with("public.docs_")), "{buffers:?}");
    let bytes: Vec<u64> = buffers.iter().map(|one| one[1].as_u64().unwrap()).collect();
    assert!(bytes.is_sorted_by(|a, b| a >= b) && bytes[0] >= 8192, "{bytes:?}");
}

#[test]
fn what_is_left_for_the_wal_is_read_with_what_slots_keep() {
    let (_cluster, mut client) = start();
    partitioned(&mut client, "docs", 2, 200).unwrap();
    for statement in [
        "ALTER SYSTEM SET max_slot_wal_keep_size = '256MB'",
        "SELECT pg_reload_conf()",
        "SELECT pg_create_physical_replication_slot('kept', true)",
    ] {
        client.batch_execute(statement).unwrap();
    }
    client.execute("SELECT ruvector_collection_register('docs', 'docs')", &[]).unwrap();
    let wal = |client: &mut postgres::Client| snapshot(client)["wal"]["known"].clone();
    let before = wait_for("the limit of slots", PATIENCE, || {
        let wal = wal(&mut client);
        wal["slots"][0]["left_bytes"].is_u64().then_some(wal)
    })
    .unwrap();
    assert_eq!((&before["slots"][0]["name"], &before["slots"][0]["active"]), (&"kept".into(), &false.into()));
    assert!(before["disk_free_bytes"]["known"].as_u64().unwrap() > 0);
    assert_eq!(before["max_bytes"], 1_u64 << 30);
    assert!(before["bytes"].as_u64().unwrap() >= 16 << 20, "one file at least: {before}");
    client
        .batch_execute("CREATE TABLE noise AS SELECT repeat('x', 1000) FROM generate_series(1, 60000)")
        .unwrap();
    let after = wal(&mut client);
    let of = |wal: &serde_json::Value, what: &str| wal["slots"][0][what].as_u64().unwrap();
    assert!(of(&after, "kept_bytes") > of(&before, "kept_bytes") + (50 << 20), "{before} {after}");
    assert!(of(&after, "left_bytes") + (40 << 20) < of(&before, "left_bytes"), "{before} {after}");
}

#[test]
fn dead_entries_beyond_what_autovacuum_leaves_alone_are_counted() {
    let (_cluster, mut client) = start();
    partitioned(&mut client, "docs", 1, 5000).unwrap();
    client
        .batch_execute(
            "ALTER TABLE docs_0 SET (autovacuum_enabled = off);
             SELECT ruvector_collection_register('docs', 'docs', settings => '{\"mode\": \"observe\"}')",
        )
        .unwrap();
    let share =
        |client: &mut postgres::Client| snapshot(client)["indexes"][0]["dead_share"]["known"].as_f64();
    assert_eq!(share(&mut client), Some(0.0));
    client.batch_execute("DELETE FROM docs WHERE id <= 3000").unwrap();
    // Of 5,000 entries 3,000 are dead, 50 + a fifth of the rows are autovacuum's to leave.
    wait_for("the dead rows to be counted", PATIENCE, || {
        share(&mut client).filter(|share| (share - (3000.0 - 1050.0) / 5000.0).abs() < 0.03)
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", share(&mut client)));
    // The table's own options count before the server's: five hundred.
    let own =
        "ALTER TABLE docs_0 SET (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0)";
    client.batch_execute(own).unwrap();
    wait_for("the table's own options", PATIENCE, || {
        share(&mut client).filter(|share| (share - 2500.0 / 5000.0).abs() < 0.03)
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", share(&mut client)));
    wait_for("none after a vacuum", PATIENCE, || {
        client.batch_execute("VACUUM docs").unwrap();
        share(&mut client).filter(|share| *share == 0.0)
    })
    .unwrap();
}

/// Rows with equal vectors share elements of an hnsw graph: by the model of a clean build alone such an index looks small
/// for ever.
#[test]
fn the_size_after_a_build_is_the_yardstick_from_then_on() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, embedding vector(64));
             INSERT INTO docs SELECT i, (SELECT array_agg(sin((i / 10) * d)) FROM generate_series(1, 64) d)::vector
               FROM generate_series(1, 6000) i;
             SELECT ruvector_collection_register('docs', 'docs', settings =>
                 '{\"mode\": \"observe\", \"health_curves\": {\"recall_shortfall\": [[0.98, 1], [0.99, 0.7], [1, 0]]}}')",
        )
        .unwrap();
    let samples = |client: &mut postgres::Client| -> i64 {
        client.query_one("SELECT samples FROM ruvector_integrity_status()", &[]).unwrap().get(0)
    };
    wait_for("a sample", PATIENCE, || (samples(&mut client) > 1).then_some(())).unwrap();
    client.batch_execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_l2_ops)").unwrap();
    let per_row: f64 = wait_for("the build to be seen", PATIENCE, || {
        client.query_opt("SELECT bytes_per_row FROM ruvector.index_builds", &[]).unwrap()
    })
    .unwrap()
    .get(0);
    // A vector alone takes 264 bytes.
    assert!(per_row < 200.0, "{per_row}");
    client.batch_execute("DELETE FROM docs WHERE id > 2000").unwrap();
    wait_for("the bloat", PATIENCE, || {
        // While somebody reads, a vacuum leaves rows for the next one.
        client.batch_execute("VACUUM docs").unwrap();
        let query = "SELECT 1 FROM ruvector_integrity_status(), jsonb_array_elements(problems) p
                      WHERE p ->> 'class' = 'IndexFragmentation' AND p #>> '{details,cause}' = 'bloat'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", snapshot(&mut client)["indexes"]));
}
