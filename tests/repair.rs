//! Each remedy on its fault, and what must not be lost by it.

use cluster::dataset::{Column, Embeddings};
use cluster::{Cluster, wait_for};
use postgres::Client;
use std::time::Duration;
use tests::{PATIENCE, load_docs, refused, said, start};

const HEALING: Duration = Duration::from_secs(120);
/// Quick, and nothing happens but what is asked for.
const BY_HAND: &str = r#"{"mode": "observe", "verify_window_seconds": 1, "min_healing_interval_seconds": 0}"#;

fn quick(client: &mut Client) {
    client.batch_execute("SELECT ruvector_healing_configure('{\"verify_window_seconds\": 1}')").unwrap();
}

/// A build that is cancelled while it waits for a writer.
fn leave_invalid(cluster: &Cluster, client: &mut Client, statement: &'static str) {
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let mut builder = cluster.connect("app").unwrap();
    let cancel = builder.cancel_token();
    let build = std::thread::spawn(move || builder.batch_execute(statement));
    wait_for("the build to wait for the writer", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    cancel.cancel_query(postgres::NoTls).unwrap();
    build.join().unwrap().unwrap_err();
    writer.batch_execute("ROLLBACK").unwrap();
}

/// An index `docs_i`, and `docs_i2` like it that is not valid.
fn beside_its_like(cluster: &Cluster, client: &mut Client) {
    client.batch_execute("CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops)").unwrap();
    let again = "CREATE INDEX CONCURRENTLY docs_i2 ON docs USING hnsw (embedding vector_cosine_ops)";
    leave_invalid(cluster, client, again);
}

/// The outcome of the first action that a collection saw.
fn outcome(client: &mut Client) -> (String, String, String) {
    wait_for("an outcome", HEALING, || {
        let query = "SELECT strategy, status, story FROM ruvector_healing_history() ORDER BY id LIMIT 1";
        client.query_opt(query, &[]).unwrap()
    })
    .map(|row| (row.get(0), row.get(1), row.get(2)))
    .unwrap_or_else(|error| {
        let why: Vec<Option<String>> = client
            .query("SELECT concat_ws(': ', state, why_not) FROM ruvector_healing_status()", &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        panic!("{error}: {why:?}")
    })
}

fn execute(client: &mut Client, strategy: &str) -> (i64, String) {
    let query = "SELECT action_id FROM ruvector_healing_execute('docs', $1)";
    let action: i64 = client.query_one(query, &[&strategy]).unwrap().get(0);
    let row = client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap();
    (action, row.get(0))
}

fn indexes(client: &mut Client) -> Vec<(String, bool)> {
    client
        .query(
            "SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index WHERE indrelid = 'docs'::regclass
                AND NOT indisprimary ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

#[test]
fn an_invalid_index_is_built_again_as_it_was_defined() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    quick(&mut client);
    leave_invalid(
        &cluster,
        &mut client,
        "CREATE INDEX CONCURRENTLY docs_i ON docs USING hnsw ((embedding::halfvec(384)) halfvec_l2_ops)
           WITH (m = 8, ef_construction = 40) WHERE id % 2 = 0",
    );
    let defined = indexes(&mut client);
    assert!(!defined[0].1);
    client.batch_execute("ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    let (strategy, status, story) = outcome(&mut client);
    assert_eq!((strategy.as_str(), status.as_str()), ("repair_invalid_index", "succeeded"), "{story}");
    assert_eq!(indexes(&mut client), [(defined[0].0.clone(), true)], "defined as before, and valid");
}

#[test]
fn an_invalid_index_beside_its_like_is_dropped() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    quick(&mut client);
    beside_its_like(&cluster, &mut client);
    let sound = indexes(&mut client).into_iter().find(|(_, valid)| *valid).unwrap();
    client.batch_execute("ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    let (strategy, status, story) = outcome(&mut client);
    assert_eq!((strategy.as_str(), status.as_str()), ("repair_invalid_index", "succeeded"), "{story}");
    assert_eq!(indexes(&mut client), [sound]);
}

/// What is dropped as surplus must still be when a human has approved it.
#[test]
fn an_invalid_index_whose_like_was_dropped_meanwhile_is_kept() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    quick(&mut client);
    beside_its_like(&cluster, &mut client);
    client
        .batch_execute(
            r#"ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "approve"}')"#,
        )
        .unwrap();
    let action: i64 = wait_for("a plan that waits for a human", HEALING, || {
        let query = "SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval' AND strategy = 'repair_invalid_index'";
        client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
    })
    .unwrap();
    // Before the healer looks again; another one is like it, and was made otherwise.
    client
        .batch_execute(&format!(
            "BEGIN; DROP INDEX docs_i; CREATE INDEX docs_o ON docs USING hnsw (embedding vector_cosine_ops) WITH (m = 24);
             SELECT ruvector_healing_approve({action}); COMMIT"
        ))
        .unwrap();
    let row = client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap();
    assert_ne!(row.get::<_, &str>(0), "succeeded", "{}", said(&mut client));
    let kept = "SELECT count(*) FROM pg_class WHERE relname = 'docs_i2'";
    assert_eq!(client.query_one(kept, &[]).unwrap().get::<_, i64>(0), 1, "{}", said(&mut client));
}

#[test]
fn an_invalid_index_with_other_options_is_not_taken_for_a_surplus_one() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    quick(&mut client);
    client
        .batch_execute("CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops) WITH (m = 8)")
        .unwrap();
    leave_invalid(
        &cluster,
        &mut client,
        "CREATE INDEX CONCURRENTLY docs_i2 ON docs USING hnsw (embedding vector_cosine_ops) WITH (m = 24)",
    );
    let wanted: Vec<(String, bool)> =
        indexes(&mut client).into_iter().map(|(definition, _)| (definition, true)).collect();
    client.batch_execute("ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    let (strategy, status, story) = outcome(&mut client);
    assert_eq!((strategy.as_str(), status.as_str()), ("repair_invalid_index", "succeeded"), "{story}");
    assert_eq!(indexes(&mut client), wanted, "both, as they were defined");
}

#[test]
fn an_index_with_most_rows_deleted_is_built_anew_and_smaller() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 4_000);
    quick(&mut client);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops);
             DELETE FROM docs WHERE id >= 800; ANALYZE docs",
        )
        .unwrap();
    let bytes = "SELECT pg_relation_size('docs_i')";
    let before: i64 = client.query_one(bytes, &[]).unwrap().get(0);
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    let (strategy, status, story) = outcome(&mut client);
    assert_eq!((strategy.as_str(), status.as_str()), ("compact_indexes", "succeeded"), "{story}");
    let after: i64 = client.query_one(bytes, &[]).unwrap().get(0);
    assert!(after < before / 3, "{before} -> {after}");
}

#[test]
fn a_part_that_fails_is_left_out_and_the_others_are_kept() {
    let (cluster, mut client) = start();
    let data = Embeddings::load().unwrap();
    client
        .batch_execute(
            "CREATE TABLE docs (id int NOT NULL, embedding vector(384)) PARTITION BY RANGE (id);
             CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (2000);
             CREATE TABLE docs_2 PARTITION OF docs FOR VALUES FROM (2000) TO (4000)",
        )
        .unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 0..4_000).unwrap();
    client
        .batch_execute(&format!(
            "CREATE INDEX docs_1_i ON docs_1 USING hnsw (embedding vector_cosine_ops);
             CREATE INDEX docs_2_i ON docs_2 USING hnsw (embedding vector_cosine_ops);
             DELETE FROM docs WHERE id BETWEEN 300 AND 1999 OR id >= 2800; ANALYZE docs;
             SELECT ruvector_collection_register('docs', 'docs', settings => '{BY_HAND}');
             SELECT ruvector_healing_configure('{{\"lock_timeout_ms\": 500}}', 'docs')"
        ))
        .unwrap();
    wait_for("a plan", HEALING, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE decision ->> 'reason' = 'observe_mode'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let before: Vec<(u32, i64)> = sizes(&mut client);
    // It lets all go on but the second build; then it drops the index that this build is to replace.
    let mut human = cluster.connect("app").unwrap();
    human.batch_execute("BEGIN; LOCK TABLE docs_2 IN SHARE UPDATE EXCLUSIVE MODE").unwrap();
    let query = "SELECT action_id FROM ruvector_healing_execute('docs', 'compact_indexes')";
    let action: i64 = client.query_one(query, &[]).unwrap().get(0);
    wait_for("the second build", HEALING, || {
        let query = "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                      WHERE a.backend_type = 'ruvector action' AND NOT l.granted AND l.relation = 'docs_2'::regclass";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    human.batch_execute("DROP INDEX docs_2_i; COMMIT").unwrap();
    let row = client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "succeeded", "{}", said(&mut client));
    let query = "SELECT o.story, a.lesson FROM ruvector.healing_outcomes o JOIN ruvector.actions a ON a.id = o.action_id
                  WHERE a.id = $1";
    let row = client.query_one(query, &[&action]).unwrap();
    let story: String = row.get(0);
    assert!(story.contains("a part is left out"), "{story}");
    assert_eq!(row.get::<_, &str>(1), "postponed", "{story}");
    let after = sizes(&mut client);
    assert_eq!(after.len(), 1, "what a human dropped stays dropped, and no trial is left: {story}");
    assert!(after[0].0 != before[0].0 && after[0].1 < before[0].1 / 2, "{before:?} -> {after:?}: {story}");
}

/// OID and bytes of every hnsw index, by name.
fn sizes(client: &mut Client) -> Vec<(u32, i64)> {
    let query = "SELECT c.oid, pg_relation_size(c.oid) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
                  WHERE a.amname = 'hnsw' ORDER BY c.relname";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn a_good_index_with_too_little_search_effort_is_tuned_not_rebuilt() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 6_000);
    quick(&mut client);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 200);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    let oid = "SELECT 'docs_i'::regclass::oid";
    let before: u32 = client.query_one(oid, &[]).unwrap().get(0);
    let (strategy, status, story) = outcome(&mut client);
    assert_eq!((strategy.as_str(), status.as_str()), ("tune_search_effort", "succeeded"), "{story}");
    assert_eq!(client.query_one(oid, &[]).unwrap().get::<_, u32>(0), before);
    let effort: i32 = client.query_one("SELECT effort FROM ruvector.search_effort", &[]).unwrap().get(0);
    assert!(effort > 1, "{effort}");
}

#[test]
fn an_index_of_a_partition_that_is_attached_is_rebuilt_in_place() {
    let (_cluster, mut client) = start();
    let data = load_docs(&mut client, 1);
    client
        .batch_execute(
            "DROP TABLE docs;
             CREATE TABLE docs (id int, embedding vector(384)) PARTITION BY RANGE (id);
             CREATE TABLE docs_low PARTITION OF docs FOR VALUES FROM (0) TO (3000);
             CREATE TABLE docs_high PARTITION OF docs FOR VALUES FROM (3000) TO (100000);
             CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops)",
        )
        .unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 0..6_000).unwrap();
    client
        .batch_execute(&format!(
            "DELETE FROM docs WHERE id BETWEEN 500 AND 2999; ANALYZE docs_low, docs_high;
             SELECT ruvector_healing_configure('{BY_HAND}');
             SELECT ruvector_healing_configure('{{\"require_approval_irreversible\": false}}');
             SELECT ruvector_collection_register('docs', 'docs')"
        ))
        .unwrap();
    let size = "SELECT pg_relation_size('docs_low_embedding_idx')";
    let before: i64 = client.query_one(size, &[]).unwrap().get(0);
    wait_for("the problem to be seen", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap();
    let (action, status) = execute(&mut client, "compact_indexes");
    let error: Option<String> = client
        .query_one("SELECT coalesce(error, detail) FROM ruvector.actions WHERE id = $1", &[&action])
        .unwrap()
        .get(0);
    assert_eq!(status, "succeeded", "{error:?}");
    let after: i64 = client.query_one(size, &[]).unwrap().get(0);
    assert!(after < before / 2, "{before} -> {after}");
    let attached: i64 = client
        .query_one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'docs_i'::regclass", &[])
        .unwrap()
        .get(0);
    assert_eq!(attached, 2);
}

#[test]
fn a_rebuild_that_is_no_better_is_taken_back() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 6_000);
    client
        .batch_execute(&format!(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 20);
             ANALYZE docs; SELECT ruvector_healing_configure('{BY_HAND}');
             SELECT ruvector_collection_register('docs', 'docs')"
        ))
        .unwrap();
    let (_, status) = execute(&mut client, "rebuild_centroids");
    assert_eq!(status, "succeeded", "20 lists are far too few");
    let before = indexes(&mut client);
    let now = |client: &mut Client| -> (u32, i32) {
        let query = "SELECT index_id, effort FROM ruvector.search_effort";
        client.query_one(query, &[]).map(|row| (row.get(0), row.get(1))).unwrap()
    };
    let was = now(&mut client);
    let (action, status) = execute(&mut client, "rebuild_centroids");
    let row = client
        .query_one(
            "SELECT o.success, o.error_message, o.story FROM ruvector.healing_outcomes o WHERE o.action_id = $1",
            &[&action],
        )
        .unwrap();
    assert_eq!(status, "rolled_back", "{}", row.get::<_, &str>(2));
    assert!(!row.get::<_, bool>(0));
    assert!(row.get::<_, &str>(1).contains("the comparison was lost"), "{}", row.get::<_, &str>(1));
    assert_eq!(indexes(&mut client), before);
    assert_eq!(now(&mut client), was);
}

#[test]
fn a_table_dropped_in_the_middle_ends_the_action_with_a_reason() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(&format!(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10);
             ANALYZE docs; SELECT ruvector_healing_configure('{BY_HAND}');
             SELECT ruvector_collection_register('docs', 'docs')"
        ))
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL", &[])
            .unwrap()
    })
    .unwrap();
    // The build needs a lock that this transaction holds, and in it the table goes.
    let mut holder = cluster.connect("app").unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE docs IN SHARE UPDATE EXCLUSIVE MODE").unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    wait_for("the build to wait", PATIENCE, || {
        let query = "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted
                        AND a.backend_type = 'ruvector action' AND l.relation = 'docs'::regclass";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    holder.batch_execute("DROP TABLE docs; COMMIT").unwrap();
    let row = client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "failed");
    let error: String =
        client.query_one("SELECT error FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    assert!(error.contains("was dropped"), "{error}");
    let outcomes: i64 =
        client.query_one("SELECT count(*) FROM ruvector.healing_outcomes", &[]).unwrap().get(0);
    assert_eq!(outcomes, 1);
}

#[test]
fn a_disk_too_full_for_a_second_index_leaves_the_first() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 12_000);
    client
        .batch_execute(&format!(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10);
             ANALYZE docs; SELECT ruvector_healing_configure('{BY_HAND}');
             SELECT ruvector_collection_register('docs', 'docs')"
        ))
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL", &[])
            .unwrap()
    })
    .unwrap();
    let before = indexes(&mut client);
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    let worker: i32 = wait_for("the build to wait for the writer", PATIENCE, || {
        let query = "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap()
    .get(0);
    // No file may grow beyond 16 MiB, a segment of WAL: the build, which needs 18, meets what it would meet on a full
    // disk, an error of write().
    cluster.limit_file_size(worker, 16 << 20).unwrap();
    writer.batch_execute("ROLLBACK").unwrap();
    let row = client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "failed");
    let error: String =
        client.query_one("SELECT error FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    assert!(error.contains("could not"), "{error}");
    assert_eq!(indexes(&mut client), before);
}

#[test]
fn a_disk_with_too_little_room_is_a_reason_not_to_begin() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(&format!(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10);
             ANALYZE docs; SELECT ruvector_healing_configure('{BY_HAND}');
             SELECT ruvector_collection_register('docs', 'docs')"
        ))
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL", &[])
            .unwrap()
    })
    .unwrap();
    // The last observation, as a full disk would make it.
    client
        .batch_execute("UPDATE ruvector.integrity SET snapshot = jsonb_set(snapshot, '{disk_free_bytes}', '{\"known\": 4096}')")
        .unwrap();
    let (state, hint) = refused(
        &mut client,
        "SELECT * FROM ruvector_healing_execute('docs', 'rebuild_centroids', '{\"dry_run\": true}')",
    );
    assert_eq!(
        (state.as_str(), hint.as_str()),
        ("55000", "The plan needs more than max_disk_share of the free disk.")
    );
}
