//! An index gone bad is found, repaired beside the old one, verified and kept, with nobody touching it.

use cluster::dataset::Column;
use cluster::wait_for;
use std::time::Duration;
use tests::{load_docs, recall_of_sessions, start};

/// The whole story takes its dwell, a build, two comparisons and the verify window.
const HEALING: Duration = Duration::from_secs(180);

#[test]
fn an_untrained_index_is_rebuilt_and_sessions_find_more_for_less() {
    let (cluster, mut client) = start();
    let data = load_docs(&mut client, 200);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
             COMMENT ON INDEX docs_i IS 'of the application';
             SELECT ruvector_healing_configure('{\"verify_window_seconds\": 3}')",
        )
        .unwrap();
    // The last rows stay out: they are queries that the healer never saw.
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 200..11_400).unwrap();
    client.batch_execute("ANALYZE docs").unwrap();
    let unseen = 11_400..11_600;
    let before = recall_of_sessions(&cluster, &data, unseen.clone());
    let old_oid: u32 = client.query_one("SELECT 'docs_i'::regclass::oid", &[]).unwrap().get(0);
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();

    let row = wait_for("an outcome", HEALING, || {
        let query =
            "SELECT strategy, status, success, verified, story, improvement_pct, initial_lambda, final_lambda
                       FROM ruvector_healing_history() WHERE strategy = 'rebuild_centroids'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| {
        let log = cluster.log();
        panic!("{error}\n{}", log.lines().rev().take(40).collect::<Vec<_>>().join("\n"))
    });
    let story: &str = row.get("story");
    assert_eq!(row.get::<_, &str>("status"), "succeeded", "{story}");
    assert!(row.get::<_, bool>("success") && row.get::<_, bool>("verified"), "{story}");
    for part in
        ["Found: CentroidSkew", "Planned: rebuild_centroids", "Compared: The new index is kept", "Verified:"]
    {
        assert!(story.contains(part), "{part} is missing in: {story}");
    }
    let (lambda_before, lambda_after): (f32, f32) = (row.get("initial_lambda"), row.get("final_lambda"));
    assert!(lambda_before < 0.7 && lambda_after >= 0.8, "λ {lambda_before} -> {lambda_after}");

    let after = recall_of_sessions(&cluster, &data, unseen);
    assert!(before.recall < 0.5 && after.recall >= 0.9, "{before:?} -> {after:?}");

    let index = client
        .query_one(
            "SELECT 'docs_i'::regclass::oid, obj_description('docs_i'::regclass), pg_get_indexdef('docs_i'::regclass),
                    (SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass AND NOT indisprimary)",
            &[],
        )
        .unwrap();
    assert_ne!(index.get::<_, u32>(0), old_oid, "it is another index");
    assert_eq!(index.get::<_, Option<&str>>(1), Some("of the application"));
    assert_eq!(index.get::<_, i64>(3), 1, "the former one is dropped");
    wait_for("the normal state", tests::PATIENCE, || {
        let state: String =
            client.query_one("SELECT state FROM ruvector_integrity_status()", &[]).unwrap().get(0);
        (state == "normal").then_some(())
    })
    .unwrap();
}
