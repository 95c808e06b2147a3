//! The healer measures what users of an index get: recall@10 and blocks per query, on its own.

use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, load_docs, start};

#[test]
fn an_index_built_too_early_shows_its_low_recall() {
    let (_cluster, mut client) = start();
    let data = load_docs(&mut client, 200);
    client
        .batch_execute("CREATE INDEX ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)")
        .unwrap();
    let columns = cluster::dataset::Column::ID_AND_EMBEDDING;
    data.load_into(&mut client, "docs", &columns, 200..6_000).unwrap();
    client
        .batch_execute(
            "ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs', settings => '{\"panel_queries\": 256}')",
        )
        .unwrap();

    let row = wait_for("a reading", PATIENCE, || {
        let query = "SELECT recall, recall_ci, blocks_per_query, queries, missing
                       FROM ruvector_index_health('docs') WHERE recall IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let (recall, interval, blocks): (f64, f64, f64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(row.get::<_, i32>(3), 256);
    assert_eq!(row.get::<_, Option<&str>>(4), None);

    // The same question put by an ordinary session, with every fifteenth row.
    let (mut hits, mut wanted) = (0, 0);
    for query in (0..6_000).step_by(15) {
        let search = format!(
            "SELECT id FROM docs WHERE id <> {query} ORDER BY embedding <=> '{}' LIMIT 10",
            data.literal(query)
        );
        let mut ids = |setting: &str| -> Vec<i32> {
            client.batch_execute(&format!("BEGIN; {setting}")).unwrap();
            let found = client.query(search.as_str(), &[]).unwrap().iter().map(|row| row.get(0)).collect();
            client.batch_execute("COMMIT").unwrap();
            found
        };
        let found = ids("SET LOCAL enable_seqscan = off");
        let truth = ids("SET LOCAL enable_indexscan = off");
        hits += truth.iter().filter(|id| found.contains(id)).count();
        wanted += truth.len();
    }
    let seen = hits as f64 / wanted as f64;
    // Twice the 95 % interval of the panel, and of these 400 queries.
    assert!((recall - seen).abs() < 2.0 * interval + 0.06, "panel {recall} ± {interval}, sessions {seen}");
    assert!(recall < 0.7, "recall {recall}");
    assert!(blocks > 5.0 && blocks < 600.0, "blocks {blocks}");
}

#[test]
fn what_cannot_be_measured_is_null_and_says_why() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE tiny (e vector(3)); INSERT INTO tiny VALUES ('[1,2,3]');
             CREATE INDEX ON tiny USING hnsw (e vector_l2_ops);
             SELECT ruvector_collection_register('tiny', 'tiny')",
        )
        .unwrap();
    let missing: String = wait_for("a sample with a reading", PATIENCE, || {
        let query = "SELECT missing FROM ruvector_index_health('tiny') WHERE recall IS NULL AND measured_at IS NOT NULL";
        client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
    })
    .unwrap();
    assert!(missing.contains("too few rows"), "{missing}");
}

#[test]
fn expression_partial_and_hnsw_indexes_are_measured_too() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 2_000);
    client
        .batch_execute(
            "CREATE INDEX h ON docs USING hnsw (embedding vector_l2_ops);
             CREATE INDEX p ON docs USING ivfflat (embedding vector_ip_ops) WITH (lists = 10) WHERE id < 1500;
             CREATE INDEX x ON docs USING hnsw ((binary_quantize(embedding)::bit(384)) bit_hamming_ops);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    let rows = wait_for("three readings", PATIENCE, || {
        let query = "SELECT index_name, recall, missing FROM ruvector_index_health('docs') ORDER BY 1";
        let rows = client.query(query, &[]).unwrap();
        rows.iter()
            .all(|row| row.get::<_, Option<f64>>(1).is_some())
            .then_some(rows)
            .filter(|rows| rows.len() == 3)
    })
    .unwrap();
    let recall = |at: usize| rows[at].get::<_, f64>(1);
    assert!(recall(0) > 0.9, "hnsw: {}", recall(0));
    assert!(recall(1) > 0.2 && recall(1) < 1.0, "partial ivfflat at one probe: {}", recall(1));
    assert!(recall(2) > 0.5, "binary quantised: {}", recall(2));
}

#[test]
fn rows_without_a_direction_do_not_count() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 2_000);
    // Under cosine distance a row of zeros is as far as NaN from everything.
    client
        .batch_execute(
            "INSERT INTO docs SELECT 100000 + i, array_fill(0::real, ARRAY[384])::vector FROM generate_series(1, 300) i;
             CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    let recall: f64 = wait_for("a reading", PATIENCE, || {
        client
            .query_opt("SELECT recall FROM ruvector_index_health('docs') WHERE recall IS NOT NULL", &[])
            .unwrap()
    })
    .unwrap()
    .get(0);
    assert!(recall > 0.95, "{recall}");
}

#[test]
fn where_row_security_is_forced_on_the_owner_nothing_is_counted() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 2_000);
    client
        .batch_execute(
            "CREATE ROLE app_owner; ALTER TABLE docs OWNER TO app_owner;
             ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
             CREATE POLICY few ON docs USING (id < 20);
             CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    let note: String = wait_for("a reason", PATIENCE, || {
        client.query_opt("SELECT note FROM ruvector_integrity_status() WHERE note IS NOT NULL", &[]).unwrap()
    })
    .unwrap()
    .get(0);
    assert!(note.contains("row-level security"), "{note}");
    let known: i64 = client
        .query_one("SELECT count(*) FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL", &[])
        .unwrap()
        .get(0);
    assert_eq!(known, 0);
}

#[test]
fn another_search_effort_is_measured_at_once() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 3_000);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 50); ANALYZE docs;
             SELECT ruvector_collection_register('docs', 'docs',
                 settings => '{\"mode\": \"observe\", \"panel_interval_seconds\": 86400}')",
        )
        .unwrap();
    let measured = |client: &mut Client, effort: i32| -> f64 {
        let query =
            "SELECT recall FROM ruvector_recall('docs') WHERE search_effort = $1 AND recall IS NOT NULL";
        wait_for("a reading", PATIENCE, || client.query_opt(query, &[&effort]).unwrap()).unwrap().get(0)
    };
    let one = measured(&mut client, 1);
    assert!(one < 0.9, "{one}");
    // The server's own setting: nobody tells us of it.
    client.batch_execute("ALTER SYSTEM SET ivfflat.probes = 50").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    assert_eq!(measured(&mut client, 50), 1.0);
}
