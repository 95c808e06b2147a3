//! λ, its witness and the state: a weak index is found and named, and the state returns when it is strong again.

use cluster::dataset::Column;
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
