//! A table of more rows than the healer measures at once: its recall is measured in many steps, in between of which everything else is
//! looked after; and its index is built anew and held against the old one.

use std::collections::HashSet;
use std::time::Duration;

use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, said, start_with};

/// A busy machine takes a while for three million rows.
const LONG: Duration = Duration::from_secs(600);
const ROWS: i64 = 3_000_000;

/// Recall@10 of an ordinary session, by searches for a hundred of the rows.
fn recall_of_sessions(client: &mut Client) -> f64 {
    let queries: Vec<(i64, String)> = client
        .query("SELECT id, e::text FROM big WHERE id % 30000 = 7", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let mut found = 0;
    for (id, vector) in &queries {
        let search = format!("SELECT id FROM big WHERE id <> {id} ORDER BY e <-> '{vector}' LIMIT 10");
        let mut ids = |setting: &str| -> HashSet<i64> {
            client.batch_execute(&format!("BEGIN; SET LOCAL {setting} = off")).unwrap();
            let ids = client.query(search.as_str(), &[]).unwrap().iter().map(|row| row.get(0)).collect();
            client.batch_execute("COMMIT").unwrap();
            ids
        };
        let truth = ids("enable_indexscan");
        found += ids("enable_seqscan").intersection(&truth).count();
    }
    found as f64 / (10 * queries.len()) as f64
}

#[test]
fn three_million_rows_are_measured_and_their_index_is_built_anew() {
    let (_cluster, mut client) = start_with(|builder| {
        builder
            .setting("shared_buffers", "512MB")
            .setting("maintenance_work_mem", "256MB")
            .setting("max_wal_size", "4GB")
    });
    client
        .batch_execute(&format!(
            "CREATE TABLE big (id bigint, e vector(3));
             INSERT INTO big SELECT i, ARRAY[random(), random(), random()] FROM generate_series(1, 400) i;
             CREATE INDEX big_i ON big USING ivfflat (e vector_l2_ops) WITH (lists = 200);
             INSERT INTO big SELECT i, ARRAY[random(), random(), random()] FROM generate_series(401, {ROWS}) i;
             ANALYZE big;
             SELECT ruvector_healing_configure('{{\"mode\": \"observe\", \"verify_window_seconds\": 1}}');
             SELECT ruvector_collection_register('big', 'big')"
        ))
        .unwrap();
    // The healer goes on with its samples while it measures.
    let (mut samples, mut greatest_load) = (HashSet::new(), 0.0f64);
    let row = wait_for("a reading", LONG, || {
        let sampled = client.query_one("SELECT max(sampled_at)::text FROM ruvector.integrity", &[]).unwrap();
        samples.extend(sampled.get::<_, Option<String>>(0));
        // What it reads is no load of users.
        let load = "SELECT max(b::float8) FROM ruvector.integrity i, jsonb_path_query(i.snapshot, '$.**.load.known.blocks') b";
        let load: Option<f64> = client.query_one(load, &[]).unwrap().get(0);
        greatest_load = greatest_load.max(load.unwrap_or(0.0));
        let query = "SELECT recall, recall_ci, queries, missing FROM ruvector_index_health('big') WHERE recall IS NOT NULL OR missing NOT LIKE '%not measured yet%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let (recall, interval): (Option<f64>, Option<f64>) = (row.get(0), row.get(1));
    let (Some(recall), Some(interval)) = (recall, interval) else {
        panic!("{:?}", row.get::<_, Option<String>>(3));
    };
    assert_eq!(row.get::<_, i32>(2), 8, "queries");
    assert!(samples.len() >= 5, "{} samples while it measured", samples.len());
    assert!(greatest_load < 100.0, "{greatest_load} blocks a second, and nobody searches");
    let known =
        "SELECT count(*) FROM ruvector.integrity i, jsonb_path_query(i.snapshot, '$.**.load.known.blocks') b";
    assert!(client.query_one(known, &[]).unwrap().get::<_, i64>(0) > 0, "its load is known");
    let seen = recall_of_sessions(&mut client);
    // Twice the interval of a few queries, and that of these hundred.
    assert!((recall - seen).abs() < 2.0 * interval + 0.1, "panel {recall} ± {interval}, sessions {seen}");

    let execute = "SELECT action_id FROM ruvector_healing_execute('big', 'rebuild_centroids')";
    let action: i64 = client.query_one(execute, &[]).unwrap().get(0);
    let wait = format!("CALL ruvector_healing_wait({action}, '20 minutes')");
    let status: String = client.query_one(wait.as_str(), &[]).unwrap().get(0);
    assert_eq!(status, "succeeded", "{}", said(&mut client));
    let verdict: String = client
        .query_one(
            "SELECT s.details::text FROM ruvector.action_steps s
              WHERE s.action_id = $1 AND s.step ->> 'kind' = 'compare_indexes' AND s.state = 'done'",
            &[&action],
        )
        .unwrap()
        .get(0);
    let effort: i32 = client.query_one("SELECT effort FROM ruvector.search_effort", &[]).unwrap().get(0);
    let after = wait_for("sessions get the effort", PATIENCE, || {
        let after = recall_of_sessions(&mut client);
        (after > 0.85).then_some(after)
    })
    .unwrap_or_else(|error| panic!("{error}: before {seen}, effort {effort}\n{verdict}"));
    println!(
        "recall of sessions {seen:.3}, panel {recall:.3} ± {interval:.3}; after {after:.3} at {effort} probes\n{verdict}"
    );
}
