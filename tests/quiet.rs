//! A healthy collection under reads, inserts, updates and deletes is left alone; the same collection gone bad is healed.

use std::sync::Arc;
use std::time::Duration;

use cluster::application::Application;
use cluster::dataset::{Column, Embeddings};
use cluster::wait_for;
use tests::{load_docs, recall_of_sessions, said, start};

/// Samples that must pass without an action; one a second.
const SAMPLES: i64 = 300;
const ROWS: usize = 11_400;

#[test]
fn three_hundred_samples_under_load_yield_no_action_and_then_a_fault_is_healed() {
    let (cluster, mut client) = start();
    load_docs(&mut client, ROWS);
    let data = Arc::new(Embeddings::load().unwrap());
    // Lists and effort as somebody who knows would choose them. All is measured far more often than by default.
    client
        .batch_execute(
            r#"CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 300);
               ANALYZE docs;
               SELECT ruvector_healing_configure('{"panel_interval_seconds": 5, "structure_interval_seconds": 5,
                                                   "verify_window_seconds": 3}');
               SELECT ruvector_collection_register('docs', 'docs');
               SELECT ruvector_search_effort_set('docs_i', 50)"#,
        )
        .unwrap();
    let application = Application::start(&cluster, &data, ROWS).unwrap();
    let samples = "SELECT samples, state, lambda_cut, note FROM ruvector_integrity_status()";
    let mut lowest = f64::INFINITY;
    wait_for("three hundred samples", Duration::from_secs(600), || {
        let row = client.query_one(samples, &[]).unwrap();
        assert_eq!(row.get::<_, Option<&str>>(3), None);
        lowest = lowest.min(row.get::<_, Option<f64>>(2).unwrap_or(f64::INFINITY));
        (row.get::<_, i64>(0) >= SAMPLES).then_some(())
    })
    .unwrap();
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 0, "lowest λ {lowest}");
    println!("{SAMPLES} samples, lowest λ {lowest:.3}, {:?}", application.so_far());
    let quiet = application.stop();
    assert_eq!(quiet.errors, 0);
    assert!(quiet.reads > 1_000 && quiet.writes > 1_000, "{quiet:?}");

    // The fault: the index is trained on 200 rows, and all others come after it.
    client.batch_execute("DROP INDEX docs_i; TRUNCATE docs").unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 0..200).unwrap();
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)",
        )
        .unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 200..ROWS).unwrap();
    client.batch_execute("ANALYZE docs").unwrap();
    let application = Application::start(&cluster, &data, ROWS).unwrap();
    let healed = wait_for("the fault to be healed", Duration::from_secs(180), || {
        let query = "SELECT strategy, success, story FROM ruvector_healing_history() ORDER BY id LIMIT 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert!(healed.get::<_, bool>(1), "{}", healed.get::<_, &str>(2));
    assert_eq!(application.stop().errors, 0);
    let found = recall_of_sessions(&cluster, &data, ROWS..ROWS + 200);
    assert!(found.recall >= 0.9, "{found:?}: {}", healed.get::<_, &str>(2));
}
