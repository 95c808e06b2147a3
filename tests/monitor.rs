//! What a person asks the monitor: the graph, the history, a look now, recall, and why, in plain words.

use cluster::faults::{Readers, partitioned};
use cluster::wait_for;
use postgres::fallible_iterator::FallibleIterator;
use tests::{PATIENCE, load_docs, refused, said, start};

/// Any memory in use is too much.
const FULL: &str =
    r#"SELECT ruvector_healing_configure('{"health_curves": {"memory": [[0.1, 1], [0.2, 0.7], [100, 0]]}}')"#;
const FREE: &str =
    r#"SELECT ruvector_healing_configure('{"health_curves": {"memory": [[99.8, 1], [100, 0]]}}')"#;

/// Two partitions in memory pressure.
fn pressed(client: &mut postgres::Client) {
    partitioned(client, "docs", 2, 2000).unwrap();
    client.batch_execute(FULL).unwrap();
    client
        .batch_execute(
            "SELECT ruvector_collection_register('docs', 'docs', settings => '{\"mode\": \"observe\"}')",
        )
        .unwrap();
    wait_for("the pressure to be seen", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE state IN ('stress', 'critical')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
}

#[test]
fn the_graph_shows_every_part_and_the_cut() {
    let (_cluster, mut client) = start();
    pressed(&mut client);
    let count = |client: &mut postgres::Client, condition: &str| -> i64 {
        let query = format!("SELECT count(*) FROM ruvector_integrity_graph('docs') WHERE {condition}");
        client.query_one(query.as_str(), &[]).unwrap().get(0)
    };
    for (kind, number) in [("core", 1), ("partition", 2), ("index", 2), ("slots", 1), ("memory", 1)] {
        assert_eq!(count(&mut client, &format!("element = 'node' AND type = '{kind}'")), number, "{kind}");
    }
    assert_eq!(count(&mut client, "element = 'edge' AND type = 'partition_link'"), 1);
    assert_eq!(
        count(&mut client, "element = 'edge' AND in_witness AND type = 'resource_link' AND cause = 'memory'"),
        1
    );
    assert_eq!(count(&mut client, "in_witness"), 1);
    assert_eq!(count(&mut client, "element = 'edge' AND abs(capacity - weight * health) > 1e-9"), 0);
    let lambda: f64 = client
        .query_one("SELECT sum(capacity) - (SELECT lambda_cut FROM ruvector_integrity_status()) FROM ruvector_integrity_graph('docs') WHERE in_witness", &[])
        .unwrap()
        .get(0);
    assert!(lambda.abs() < 1e-6, "the witness sums to λ, they differ by {lambda}");
}

#[test]
fn an_explanation_names_the_part_the_metric_since_when_and_what_would_be_healthy() {
    let (_cluster, mut client) = start();
    pressed(&mut client);
    let text: String = client.query_one("SELECT ruvector_integrity_explain('docs')", &[]).unwrap().get(0);
    for part in [
        "Collection docs: ",
        "1. MemoryPressure, λ = ",
        ", since 2",
        "of the memory is in use, most by ",
        "1 resource_link to memory: memory_pct = ",
        "Healthy again when memory_pct is 0.17 or less.",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let error = refused(&mut client, "SELECT ruvector_integrity_explain('nothing')");
    assert_eq!(error.0, "42704");
}

#[test]
fn history_tells_when_it_was_weak_and_listeners_hear_of_changes() {
    let (cluster, mut client) = start();
    let mut listener = cluster.connect("app").unwrap();
    listener.batch_execute("LISTEN ruvector_integrity").unwrap();
    pressed(&mut client);
    client.batch_execute(FREE).unwrap();
    wait_for("the normal state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE state = 'normal'", &[]).unwrap()
    })
    .unwrap();
    let row = client
        .query_one(
            "SELECT count(*) FILTER (WHERE problems = '{MemoryPressure}' AND lambda_cut < 0.7), bool_or(state <> 'normal'),
                    count(*) - (SELECT samples FROM ruvector_integrity_status()) FROM ruvector_integrity_history('docs')",
            &[],
        )
        .unwrap();
    assert!(row.get::<_, i64>(0) >= 3 && row.get::<_, bool>(1));
    assert!(row.get::<_, i64>(2).abs() <= 1, "a row a sample");
    let heard: Vec<serde_json::Value> = listener
        .notifications()
        .timeout_iter(PATIENCE)
        .take(2)
        .map(|news| Ok(serde_json::from_str(news.payload()).unwrap()))
        .collect()
        .unwrap();
    assert_eq!(heard[0]["problems"], serde_json::json!(["MemoryPressure"]));
    assert_eq!((&heard[0]["collection"], &heard[0]["from"]), (&"docs".into(), &"normal".into()));
    assert!(heard[0]["lambda_cut"].as_f64() < Some(0.7));
}

#[test]
fn a_look_now_sees_what_the_last_sample_has_not_and_stores_nothing() {
    let (_cluster, mut client) = start();
    partitioned(&mut client, "docs", 2, 2000).unwrap();
    client
        .batch_execute(
            "SELECT ruvector_healing_configure('{\"sample_interval_seconds\": 3600}');
             SELECT ruvector_collection_register('docs', 'docs', settings => '{\"mode\": \"observe\"}')",
        )
        .unwrap();
    wait_for("the first sample", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE samples > 0", &[]).unwrap()
    })
    .unwrap();
    let look =
        "SELECT lambda_cut, problems #>> '{0,class}', explanation FROM ruvector_integrity_sample('docs')";
    let before = client.query_one(look, &[]).unwrap();
    assert_eq!(before.get::<_, Option<&str>>(1), None, "{}", before.get::<_, &str>(2));
    client.batch_execute(FULL).unwrap();
    let now = client.query_one(look, &[]).unwrap();
    assert!(now.get::<_, f64>(0) < 0.7);
    assert_eq!(now.get::<_, Option<&str>>(1), Some("MemoryPressure"));
    let samples: i64 =
        client.query_one("SELECT samples FROM ruvector_integrity_status()", &[]).unwrap().get(0);
    let stored: i64 =
        client.query_one("SELECT count(*) FROM ruvector.integrity_history", &[]).unwrap().get(0);
    assert_eq!(samples, stored);
}

#[test]
fn recall_is_told_with_its_interval_method_and_time() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            "CREATE INDEX docs_h ON docs USING hnsw (embedding vector_cosine_ops);
             CREATE TABLE tiny (e vector(3)); INSERT INTO tiny VALUES ('[1,2,3]');
             CREATE INDEX tiny_h ON tiny USING hnsw (e vector_l2_ops);
             SELECT ruvector_collection_register('docs', 'docs'), ruvector_collection_register('tiny', 'tiny')",
        )
        .unwrap();
    let row = wait_for("a measured recall", PATIENCE, || {
        let query =
            "SELECT recall, recall_low, recall_high, k, queries, method, measured_at IS NOT NULL, objective
                       FROM ruvector_recall('docs') WHERE recall IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let (recall, low, high): (f64, f64, f64) = (row.get(0), row.get(1), row.get(2));
    assert!(low <= recall && recall <= high && (0.5..=1.0).contains(&recall));
    assert_eq!((row.get::<_, i32>(3), row.get::<_, i32>(4), row.get::<_, f64>(7)), (10, 64, 0.95));
    assert!(row.get::<_, &str>(5).contains("exact scan") && row.get::<_, bool>(6));
    let missing = wait_for("the reason for none", PATIENCE, || {
        let query = "SELECT missing FROM ruvector_recall('tiny') WHERE recall IS NULL AND missing LIKE '%too few rows%'";
        client.query_opt(query, &[]).unwrap().map(|row| row.get::<_, String>(0))
    });
    missing.unwrap();
}

#[test]
fn old_samples_are_forgotten() {
    let (_cluster, mut client) = start();
    partitioned(&mut client, "docs", 1, 500).unwrap();
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    client
        .batch_execute(
            "INSERT INTO ruvector.integrity_history (collection_id, sampled_at, state, problems)
             SELECT id, now() - age, 'normal', '{}' FROM ruvector.collections, unnest(ARRAY['15 days', '13 days']::interval[]) age",
        )
        .unwrap();
    // The healer forgets when it starts, and then once an hour.
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ruvector healer'",
        )
        .unwrap();
    wait_for("the old sample to be gone", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity_history HAVING count(*) FILTER (WHERE sampled_at < now() - interval '12 days') = 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

/// The room for locks is shared by the whole server: a look at a collection of thousands of partitions must not fill it.
#[test]
fn looking_locks_no_partition() {
    let (cluster, mut client) = tests::start();
    partitioned(&mut client, "docs", 40, 20).expect("a table");
    client.execute("SELECT ruvector_collection_register('docs', 'docs')", &[]).expect("registered");
    wait_for("a sample", PATIENCE, || {
        let query = "SELECT samples FROM ruvector_integrity_status() WHERE samples > 1";
        client.query_opt(query, &[]).expect("the status")
    })
    .expect("a sample");
    let mut session = cluster.connect("app").expect("a connection");
    let mut open = session.transaction().expect("a transaction");
    open.execute("SELECT ruvector_integrity_sample('docs')", &[]).expect("a look");
    let locks: i64 = open
        .query_one(
            "SELECT count(*) FROM pg_locks l JOIN pg_class t ON t.oid = l.relation
              WHERE l.pid = pg_backend_pid() AND t.relname LIKE 'docs\\_%'",
            &[],
        )
        .expect("the locks")
        .get(0);
    assert_eq!(locks, 0);
}

/// Until the postmaster has noted its process, `pg_stat_activity` shows a worker that has begun without a type.
#[test]
fn a_worker_that_has_just_begun_spoils_no_look() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE TABLE docs (id int PRIMARY KEY, embedding vector(3));
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}');
               CREATE TABLE report AS SELECT i, i AS embedding FROM generate_series(1, 100) i;
               ALTER DATABASE app SET parallel_setup_cost = 0; ALTER DATABASE app SET parallel_tuple_cost = 0;
               ALTER DATABASE app SET min_parallel_table_scan_size = 0"#,
        )
        .unwrap();
    // Two workers each, one query after the other.
    let _reports = [(); 3].map(|()| Readers::start(&cluster, vec![("report".into(), 50)]).unwrap());
    for look in 1..=300 {
        if let Err(error) = client.query("SELECT explanation FROM ruvector_integrity_sample('docs')", &[]) {
            panic!("look {look}: {error:?}");
        }
    }
}
