//! What others do on the same tables meanwhile is theirs: their reindex, their index of the same name, their locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster::dataset::Column;
use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::{PATIENCE, SLOW, load_docs, said, start, start_with};

const BY_HAND: &str = r#"{"mode": "observe", "verify_window_seconds": 1, "min_healing_interval_seconds": 0}"#;

fn registered(client: &mut Client, rows: usize, index: &str, settings: &str) {
    load_docs(client, rows);
    client
        .batch_execute(&format!(
            "{index}; ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs', settings => '{settings}')"
        ))
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

fn execute(client: &mut Client, strategy: &str) -> i64 {
    let query = "SELECT action_id FROM ruvector_healing_execute('docs', $1)";
    client.query_one(query, &[&strategy]).unwrap().get(0)
}

fn wait(client: &mut Client, action: i64) -> String {
    client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap().get(0)
}

/// A session whose transaction has written to `docs` and stays open: concurrent builds wait for it.
fn writer(cluster: &Cluster) -> Client {
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    writer
}

fn wait_for_a_build_that_waits(client: &mut Client) {
    wait_for("the build to wait for the writer", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for %'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

fn names(client: &mut Client) -> Vec<String> {
    let query = "SELECT c.relname::text FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
                  WHERE x.indrelid = 'docs'::regclass AND NOT x.indisprimary ORDER BY 1";
    client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn samples(client: &mut Client) -> i64 {
    client.query_one("SELECT samples FROM ruvector_integrity_status()", &[]).unwrap().get(0)
}

#[test]
fn a_reindex_of_the_whole_table_under_way_is_not_taken_for_an_abandoned_one() {
    let (cluster, mut client) = start();
    registered(
        &mut client,
        1_000,
        "CREATE INDEX docs_a ON docs USING hnsw (embedding vector_cosine_ops);
         CREATE INDEX docs_b ON docs USING hnsw (embedding vector_l2_ops)",
        r#"{"verify_window_seconds": 1, "dwell_samples": 2}"#,
    );
    let mut writer = writer(&cluster);
    let mut reindexer = cluster.connect("app").unwrap();
    let reindex = std::thread::spawn(move || reindexer.batch_execute("REINDEX TABLE CONCURRENTLY docs"));
    // Its indexes (one of them for the primary key) are there, all invalid, and the progress view shows one of them.
    wait_for("the new indexes", PATIENCE, || {
        (names(&mut client).iter().filter(|name| name.contains("_ccnew")).count() == 3).then_some(())
    })
    .unwrap();
    wait_for_a_build_that_waits(&mut client);
    let building: bool =
        client.query_one("SELECT count(*) = 1 FROM pg_stat_progress_create_index", &[]).unwrap().get(0);
    assert!(building);
    let first = samples(&mut client);
    wait_for("six samples", PATIENCE, || (samples(&mut client) >= first + 6).then_some(())).unwrap();
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 0, "{}", said(&mut client));
    let building: i64 =
        client.query_one("SELECT count(*) FROM ruvector_index_health() WHERE building", &[]).unwrap().get(0);
    assert_eq!(building, 2);
    writer.batch_execute("ROLLBACK").unwrap();
    reindex.join().unwrap().unwrap();
    assert_eq!(names(&mut client), ["docs_a", "docs_b"]);
}

#[test]
fn an_index_that_somebody_made_under_the_name_is_not_touched_by_the_undo() {
    let (_cluster, mut client) = start();
    registered(
        &mut client,
        6_000,
        "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 20)",
        r#"{"mode": "observe", "verify_window_seconds": 600, "min_healing_interval_seconds": 0}"#,
    );
    let action = execute(&mut client, "rebuild_centroids");
    wait_for("the verification", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'verifying'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client
        .batch_execute(
            "DROP INDEX docs_i; CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops) WITH (m = 4)",
        )
        .unwrap();
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    assert_eq!(wait(&mut client, action), "aborted", "{}", said(&mut client));
    let defined: Vec<String> = client
        .query(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'docs'::regclass AND NOT indisprimary
              ORDER BY indexrelid::regclass::text",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(names(&mut client), ["docs_i", "docs_i_former"]);
    assert!(defined[0].contains("hnsw") && defined[0].contains("m='4'"), "{defined:?}");
    assert!(defined[1].contains("ivfflat"), "{defined:?}");
}

/// PostgreSQL would cut a name of more than 63 bytes to one that is taken.
#[test]
fn a_former_index_whose_name_is_as_long_as_it_may_be_gets_a_free_one() {
    let (_cluster, mut client) = start();
    // Three bytes a character: 18 of them leave room for the ending.
    let name = "索".repeat(21);
    let taken = format!("{}_former", "索".repeat(18));
    registered(
        &mut client,
        6_000,
        &format!(
            "CREATE INDEX \"{name}\" ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 20);
             CREATE INDEX \"{taken}\" ON docs (id)"
        ),
        r#"{"mode": "observe", "verify_window_seconds": 600, "min_healing_interval_seconds": 0}"#,
    );
    let action = execute(&mut client, "rebuild_centroids");
    wait_for("the verification", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'verifying'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client
        .batch_execute(&format!(
            "DROP INDEX \"{name}\"; CREATE INDEX \"{name}\" ON docs USING hnsw (embedding vector_cosine_ops) WITH (m = 4)"
        ))
        .unwrap();
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    assert_eq!(wait(&mut client, action), "aborted", "{}", said(&mut client));
    assert_eq!(names(&mut client), [taken.clone(), format!("{taken}1"), name]);
}

#[test]
fn a_session_waits_for_a_build_no_longer_than_a_moment() {
    let (cluster, mut client) = start();
    registered(
        &mut client,
        1_000,
        "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10)",
        BY_HAND,
    );
    let mut writer = writer(&cluster);
    let action = execute(&mut client, "rebuild_centroids");
    wait_for_a_build_that_waits(&mut client);
    // A lock that only the build stands in the way of. The writer is another session.
    let mut other = cluster.connect("app").unwrap();
    let waits = std::thread::spawn(move || {
        other.batch_execute("BEGIN; LOCK TABLE docs IN SHARE UPDATE EXCLUSIVE MODE; COMMIT")
    });
    wait_for("the action to give way", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND stop_reason = 'yield'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap();
    waits.join().unwrap().unwrap();
    writer.batch_execute("ROLLBACK").unwrap();
    assert_eq!(wait(&mut client, action), "aborted");
    assert_eq!(names(&mut client), ["docs_i"]);
}

/// Whoever builds an index concurrently waits for all older snapshots of the database, which a build of ours over an expression has.
#[test]
fn who_builds_an_index_elsewhere_waits_for_a_build_no_longer_than_a_moment() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 500);
    client
        .batch_execute(&format!(
            "{SLOW};
             CREATE INDEX docs_i ON docs USING hnsw ((slow(embedding)::vector(384)) vector_l2_ops); ANALYZE docs;
             CREATE TABLE other (id int);
             SELECT ruvector_collection_register('docs', 'docs', settings => '{BY_HAND}')"
        ))
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    // Only what begins from now on is slow: the worker.
    client
        .batch_execute(
            "ALTER DATABASE app SET app.nap = '0.1';
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docs_i'::regclass;
             SELECT ruvector_healing_configure('{}')",
        )
        .unwrap();
    let action = execute(&mut client, "repair_invalid_index");
    wait_for("the build", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'building index%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let mut other = cluster.connect("app").unwrap();
    other.batch_execute("CREATE INDEX CONCURRENTLY other_i ON other (id) WHERE id > 0").unwrap();
    let stopped = "SELECT stop_reason FROM ruvector.actions WHERE id = $1";
    let reason: Option<String> = client.query_one(stopped, &[&action]).unwrap().get(0);
    assert_eq!(reason.as_deref(), Some("yield"), "{}", said(&mut client));
    assert_eq!(wait(&mut client, action), "aborted");
    assert_eq!(names(&mut client), ["docs_i"]);
}

#[test]
fn a_search_effort_that_somebody_sets_while_it_is_measured_stays() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 300);
    client
        .batch_execute(&format!(
            "{SLOW}; SELECT ruvector_healing_configure('{{\"panel_queries\": 8}}');
             CREATE INDEX docs_i ON docs USING ivfflat ((slow(embedding)::vector(384)) vector_cosine_ops) WITH (lists = 30);
             ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs', settings => '{BY_HAND}')"
        ))
        .unwrap();
    wait_for("a reading", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_index_health('docs') WHERE recall < 0.9";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client.batch_execute("ALTER DATABASE app SET app.nap = '0.0001'").unwrap();
    let action = execute(&mut client, "tune_search_effort");
    wait_for("the measurement", PATIENCE, || {
        let query = "SELECT 1 FROM pg_locks l JOIN pg_stat_activity s USING (pid)
                      WHERE l.relation = 'docs'::regclass AND s.backend_type = 'ruvector action'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client.batch_execute("SELECT ruvector_search_effort_set('docs_i', 2)").unwrap();
    let ended = wait(&mut client, action);
    assert!(["failed", "rolled_back"].contains(&ended.as_str()), "{ended}: {}", said(&mut client));
    let effort = "SELECT effort FROM ruvector.search_effort";
    assert_eq!(client.query_one(effort, &[]).unwrap().get::<_, i32>(0), 2);
    let why = "SELECT error FROM ruvector.actions WHERE id = $1";
    let why: Option<String> = client.query_one(why, &[&action]).unwrap().get(0);
    assert!(why.as_deref().is_some_and(|why| why.contains("somebody has set the search effort")), "{why:?}");
}

/// Other autovacuum passes over a table that is locked; this one waits.
#[test]
fn a_vacuum_against_wraparound_waits_for_a_build_no_longer_than_a_moment() {
    let (cluster, mut client) = start_with(|builder| {
        builder.setting("autovacuum_freeze_max_age", 100_000).setting("autovacuum_naptime", 1)
    });
    registered(
        &mut client,
        1_000,
        "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10)",
        BY_HAND,
    );
    client
        .batch_execute(
            "ALTER TABLE docs SET (autovacuum_enabled = off);
             CREATE PROCEDURE grow_old(transactions int) LANGUAGE plpgsql AS 'BEGIN
                 FOR i IN 1 .. transactions LOOP PERFORM txid_current(); COMMIT; END LOOP; END';
             SET synchronous_commit = off",
        )
        .unwrap();
    client.batch_execute("CALL grow_old(95000)").unwrap();
    let mut writer = writer(&cluster);
    let action = execute(&mut client, "rebuild_centroids");
    wait_for_a_build_that_waits(&mut client);
    client.batch_execute("CALL grow_old(10000)").unwrap();
    wait_for("the action to give way", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND stop_reason = 'yield'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    writer.batch_execute("ROLLBACK").unwrap();
    assert_eq!(wait(&mut client, action), "aborted");
    assert_eq!(names(&mut client), ["docs_i"]);
    wait_for("the vacuum", PATIENCE, || {
        let query = "SELECT 1 FROM pg_class WHERE oid = 'docs'::regclass AND age(relfrozenxid) < 100000";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

#[test]
fn an_extension_dropped_in_the_middle_leaves_the_table_and_its_index() {
    let (cluster, mut client) = start();
    registered(
        &mut client,
        1_000,
        "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10)",
        BY_HAND,
    );
    let mut writer = writer(&cluster);
    execute(&mut client, "rebuild_centroids");
    wait_for_a_build_that_waits(&mut client);
    client.batch_execute("DROP EXTENSION ruvector").unwrap();
    writer.batch_execute("ROLLBACK").unwrap();
    wait_for("the worker's end", PATIENCE, || {
        let query = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'ruvector action')";
        client.query_one(query, &[]).unwrap().get::<_, bool>(0).then_some(())
    })
    .unwrap();
    let sound: bool = client
        .query_one("SELECT indisvalid FROM pg_index WHERE indexrelid = 'docs_i'::regclass", &[])
        .unwrap()
        .get(0);
    assert!(sound);
    // Installed again, it takes away what the former one left.
    client.batch_execute("CREATE EXTENSION ruvector").unwrap();
    client.batch_execute("SELECT ruvector_healing_configure('{\"sample_interval_seconds\": 1}')").unwrap();
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    wait_for("the trial's end", PATIENCE, || (names(&mut client) == ["docs_i"]).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", names(&mut client)));
}

#[test]
fn names_that_need_quotes_and_tablespaces_are_kept() {
    let (_cluster, mut client) = start();
    let data = cluster::dataset::Embeddings::load().unwrap();
    client.batch_execute("SET allow_in_place_tablespaces = on").unwrap();
    client.batch_execute("CREATE TABLESPACE elsewhere LOCATION ''").unwrap();
    client
        .batch_execute(
            r#"CREATE SCHEMA "my.schema";
               CREATE TABLE "my.schema"."The ""Docs""" ("Id" int PRIMARY KEY, "Emb.1" vector(384))"#,
        )
        .unwrap();
    client.batch_execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(384))").unwrap();
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 0..4_000).unwrap();
    client
        .batch_execute(
            r#"INSERT INTO "my.schema"."The ""Docs""" SELECT * FROM docs WHERE id < 200;
               CREATE INDEX "An ""odd"".index" ON "my.schema"."The ""Docs""" USING ivfflat ("Emb.1" vector_cosine_ops)
                      WITH (lists = 100) TABLESPACE elsewhere;
               COMMENT ON INDEX "my.schema"."An ""odd"".index" IS 'kept';
               INSERT INTO "my.schema"."The ""Docs""" SELECT * FROM docs WHERE id >= 200;
               DROP TABLE docs;
               SELECT ruvector_collection_register('The "Docs"', '"my.schema"."The ""Docs"""',
                      settings => '{"mode": "observe", "verify_window_seconds": 1}')"#,
        )
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let action: i64 = client
        .query_one(
            r#"SELECT action_id FROM ruvector_healing_execute('The "Docs"', 'rebuild_centroids',
                      '{"indexes": ["An \"odd\".index"]}')"#,
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(wait(&mut client, action), "succeeded", "{}", said(&mut client));
    let row = client
        .query_one(
            r#"SELECT c.relname::text, t.spcname::text, obj_description(c.oid, 'pg_class'), c.reloptions::text, x.indisvalid
                 FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_tablespace t ON t.oid = c.reltablespace
                WHERE x.indrelid = '"my.schema"."The ""Docs"""'::regclass"#,
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (r#"An "odd".index"#, "elsewhere"));
    assert_eq!(row.get::<_, Option<&str>>(2), Some("kept"));
    assert!(row.get::<_, &str>(3) != "{lists=100}" && row.get::<_, bool>(4), "{}", row.get::<_, &str>(3));
}

/// An action whose new index is in place and that is being verified, for long.
fn verifying(client: &mut Client) -> i64 {
    registered(
        client,
        6_000,
        "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 20)",
        r#"{"mode": "approve", "verify_window_seconds": 600, "min_healing_interval_seconds": 0, "sample_interval_seconds": 1}"#,
    );
    let action = execute(client, "rebuild_centroids");
    wait_for("the verification", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'verifying'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(client)));
    action
}

fn oid(client: &mut Client, index: &str) -> u32 {
    client.query_one("SELECT to_regclass($1)::oid", &[&index]).unwrap().get(0)
}

#[test]
fn a_reindex_of_the_table_in_the_verification_does_not_cost_the_former_index() {
    let (_cluster, mut client) = start();
    let action = verifying(&mut client);
    client.batch_execute("REINDEX TABLE CONCURRENTLY docs").unwrap();
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    assert_eq!(wait(&mut client, action), "aborted", "{}", said(&mut client));
    // None is hidden, none is gone: which of the two is the better one is the human's to say.
    assert_eq!(names(&mut client), ["docs_i", "docs_i_former"], "{}", said(&mut client));
}

#[test]
fn a_former_index_that_could_not_be_given_back_stays_until_it_is() {
    let (_cluster, mut client) = start();
    let action = verifying(&mut client);
    let new = oid(&mut client, "docs_i");
    let hidden: Vec<String> = names(&mut client).into_iter().filter(|name| name != "docs_i").collect();
    let former = oid(&mut client, &hidden[0]);
    // As if six workers had died over it.
    client
        .batch_execute(
            "UPDATE ruvector.actions SET starts = 6, last_start = now() - interval '1 hour' WHERE status = 'verifying';
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ruvector action'",
        )
        .unwrap();
    assert_eq!(wait(&mut client, action), "rollback_failed", "{}", said(&mut client));
    let before = samples(&mut client);
    wait_for("more samples", PATIENCE, || (samples(&mut client) > before + 2).then_some(())).unwrap();
    assert_eq!(names(&mut client).len(), 2, "nothing is swept: {}", said(&mut client));
    let asked = execute(&mut client, "rebuild_centroids");
    wait_for("an answer", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND detail LIKE 'waits:%'";
        client.query_opt(query, &[&asked]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client.execute("SELECT ruvector_healing_abort($1)", &[&asked]).unwrap();
    client.batch_execute("SELECT ruvector_healing_reset('docs')").unwrap();
    wait_for("what was left to be put right", PATIENCE, || {
        (names(&mut client) == ["docs_i"] && oid(&mut client, "docs_i") == former).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {} {:?} {new}", said(&mut client), names(&mut client)));
    wait_for("a note of it", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.actions WHERE id = $1 AND NOT unfinished AND detail LIKE '%put right%'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap();
}

/// A drop waits for who uses the table when it begins, not for a moment in which nobody does.
#[test]
fn an_index_is_dropped_though_there_is_always_a_query_on_the_table() {
    let (cluster, mut client) = start();
    let action = verifying(&mut client);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|number| {
            let (mut reader, stop) = (cluster.connect("app").unwrap(), stop.clone());
            std::thread::spawn(move || {
                // Each takes longer than our locks are waited for, and the other has begun before it ends.
                let query = format!(
                    "SELECT pg_sleep({}) FROM (SELECT 1 FROM docs LIMIT 1) d",
                    if number == 0 { 1.5 } else { 1.9 }
                );
                while !stop.load(Ordering::Relaxed) {
                    reader.batch_execute(&query).unwrap();
                }
            })
        })
        .collect();
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    let status = wait(&mut client, action);
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(status, "aborted", "{}", said(&mut client));
    assert_eq!(names(&mut client), ["docs_i"], "{}", said(&mut client));
}

/// What was built is known by what it is, not by what it is called by now.
#[test]
fn a_new_index_that_is_renamed_before_the_former_one_is_dropped_is_the_new_one_still() {
    let (cluster, mut client) = start();
    registered(
        &mut client,
        6_000,
        "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 20)",
        BY_HAND,
    );
    let action = execute(&mut client, "rebuild_centroids");
    wait_for("the verification", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'verifying'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let mut writer = writer(&cluster);
    wait_for("a drop that waits", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector action' AND query LIKE 'DROP INDEX%' AND wait_event_type = 'Lock'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client
        .batch_execute(
            "ALTER INDEX docs_i RENAME TO docs_better;
             SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ruvector action'",
        )
        .unwrap();
    writer.batch_execute("ROLLBACK").unwrap();
    wait_for("the end of the former one", PATIENCE, || (names(&mut client) == ["docs_better"]).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {} {:?}", said(&mut client), names(&mut client)));
    assert_eq!(wait(&mut client, action), "succeeded", "{}", said(&mut client));
}

#[test]
fn a_worker_that_is_cancelled_while_it_waits_goes_on() {
    let (_cluster, mut client) = start();
    let action = verifying(&mut client);
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector action'";
    let pid = wait_for("the worker to rest", PATIENCE, || {
        let rests = format!("{query} AND state = 'idle' AND wait_event = 'Extension'");
        client.query_opt(rests.as_str(), &[]).unwrap().map(|row| row.get::<_, i32>(0))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client.execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    let before = samples(&mut client);
    wait_for("more samples", PATIENCE, || (samples(&mut client) > before + 2).then_some(())).unwrap();
    assert_eq!(client.query_one(query, &[]).unwrap().get::<_, i32>(0), pid, "the same process");
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    assert_eq!(wait(&mut client, action), "aborted");
}

#[test]
fn an_index_is_not_built_on_a_table_that_took_the_name_meanwhile() {
    let (cluster, mut client) = start();
    registered(
        &mut client,
        1_000,
        "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10)",
        BY_HAND,
    );
    // The worker waits for the table, and gets it under another name.
    let mut human = cluster.connect("app").unwrap();
    human.batch_execute("BEGIN; LOCK TABLE docs IN SHARE UPDATE EXCLUSIVE MODE").unwrap();
    let action = execute(&mut client, "rebuild_centroids");
    wait_for("the worker to wait for the table", PATIENCE, || {
        let query = "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                      WHERE a.backend_type = 'ruvector action' AND NOT l.granted AND l.relation = 'docs'::regclass";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    human
        .batch_execute("ALTER TABLE docs RENAME TO docs_old; CREATE TABLE docs (LIKE docs_old); COMMIT")
        .unwrap();
    assert_eq!(wait(&mut client, action), "failed", "{}", said(&mut client));
    assert!(names(&mut client).is_empty(), "{:?}", names(&mut client));
    let query = "SELECT count(*) FROM pg_index WHERE indrelid = 'docs_old'::regclass AND NOT indisprimary";
    assert_eq!(client.query_one(query, &[]).unwrap().get::<_, i64>(0), 1);
}

#[test]
fn a_table_that_somebody_has_locked_keeps_the_healer_from_nothing_else() {
    let (cluster, mut client) = start();
    registered(
        &mut client,
        1_000,
        "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10)",
        BY_HAND,
    );
    client
        .batch_execute(
            r#"CREATE TABLE other (embedding vector(3)); CREATE INDEX ON other USING hnsw (embedding vector_l2_ops);
               SELECT ruvector_collection_register('other', 'other', settings => '{"sample_interval_seconds": 1}')"#,
        )
        .unwrap();
    let mut writer = writer(&cluster);
    let action = execute(&mut client, "rebuild_centroids");
    wait_for_a_build_that_waits(&mut client);
    let mut human = cluster.connect("app").unwrap();
    human.batch_execute("BEGIN; LOCK TABLE other IN ACCESS EXCLUSIVE MODE").unwrap();
    wait_for("the healer to say that it is busy", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id
                      WHERE c.name = 'other' AND i.note LIKE '%lock timeout%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    wait_for("the worker to be stopped", PATIENCE, || {
        let query = "SELECT NOT EXISTS (SELECT FROM pg_stat_progress_create_index)";
        client.query_one(query, &[]).unwrap().get::<_, bool>(0).then_some(())
    })
    .unwrap();
    writer.batch_execute("ROLLBACK").unwrap();
    assert_eq!(wait(&mut client, action), "aborted");
    assert_eq!(names(&mut client), ["docs_i"]);
}

#[test]
fn a_database_is_dropped_though_autovacuum_is_kept_away_there() {
    let (cluster, mut client) = start();
    client.batch_execute("CREATE DATABASE doomed").unwrap();
    let mut there = cluster.connect("doomed").unwrap();
    there
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE; SELECT ruvector_healing_configure('{"sample_interval_seconds": 1}');
               CREATE TABLE docs (id int, e vector(3)); INSERT INTO docs VALUES (1, '[1,2,3]');
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}');
               INSERT INTO ruvector.leases (collection_id, kind, subject, effect, restore, ends_at)
               SELECT id, 'autovacuum', id::text, '{}', '{}', clock_timestamp() + interval '1 hour' FROM ruvector.collections"#,
        )
        .unwrap();
    let holders =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ruvector lease' AND datname = 'doomed'";
    wait_for("the lock to be held", PATIENCE, || {
        (client.query_one(holders, &[]).unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .unwrap();
    drop(there);
    // First it is a template: the copy needs no session in it either, and the lease goes on after it.
    client.batch_execute("CREATE DATABASE copy TEMPLATE doomed").unwrap();
    wait_for("the lock to be held again", std::time::Duration::from_secs(120), || {
        (client.query_one(holders, &[]).unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .unwrap();
    client.batch_execute("DROP DATABASE doomed").unwrap();
    assert_eq!(client.query_one(holders, &[]).unwrap().get::<_, i64>(0), 0);
}

#[test]
fn ours_look_for_deadlocks_sooner_than_a_session_and_wait_for_no_lock_as_long() {
    let (cluster, mut client) = start();
    // What an owner's function sees of the processes that run it.
    client
        .batch_execute(
            r#"CREATE TABLE seen (name text, deadlock text, lock text);
               CREATE FUNCTION note() RETURNS void LANGUAGE plpgsql AS $$
               BEGIN
                   INSERT INTO public.seen VALUES (current_setting('application_name'), current_setting('deadlock_timeout'),
                                                   current_setting('lock_timeout'));
               EXCEPTION WHEN OTHERS THEN NULL;
               END $$;
               CREATE FUNCTION peek(i int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
               BEGIN
                   IF current_setting('application_name') LIKE 'ruvector%' AND i = 7 THEN PERFORM public.note(); END IF;
                   RETURN true;
               END $$"#,
        )
        .unwrap();
    registered(
        &mut client,
        1_000,
        "CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops) WHERE peek(id)",
        BY_HAND,
    );
    client.batch_execute("DELETE FROM docs WHERE id >= 200; ANALYZE docs").unwrap();
    wait_for("a weak state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let action = execute(&mut client, "compact_indexes");
    assert_eq!(wait(&mut client, action), "succeeded", "{}", said(&mut client));
    let rows = client.query("SELECT DISTINCT name, deadlock, lock FROM seen", &[]).unwrap();
    let seen: Vec<(&str, &str, &str)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert!(seen.iter().any(|(name, ..)| *name == "ruvector action"), "{seen:?}");
    for (name, deadlock, lock) in &seen {
        assert_eq!(*deadlock, "100ms", "{name}: a tenth of what sessions have");
        assert!(["0", "500ms", "800ms"].contains(lock), "{name}: {lock}");
    }
    // So it is when the server is told another time while a worker waits.
    client
        .batch_execute("INSERT INTO docs SELECT id + 1000, embedding FROM docs; DELETE FROM docs WHERE id >= 50; ANALYZE docs; TRUNCATE seen")
        .unwrap();
    let mut human = cluster.connect("app").unwrap();
    human.batch_execute("BEGIN; LOCK TABLE docs IN SHARE UPDATE EXCLUSIVE MODE").unwrap();
    let action = execute(&mut client, "compact_indexes");
    wait_for("the worker to wait for the table", PATIENCE, || {
        let query = "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                      WHERE a.backend_type = 'ruvector action' AND NOT l.granted AND l.relation = 'docs'::regclass";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client.batch_execute("ALTER SYSTEM SET deadlock_timeout = '3s'").unwrap();
    client.batch_execute("CREATE TABLE told AS SELECT clock_timestamp() AS at, pg_reload_conf()").unwrap();
    wait_for("the worker to ask for the lock anew", PATIENCE, || {
        let query = "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid), told
                      WHERE a.backend_type = 'ruvector action' AND l.relation = 'docs'::regclass AND l.waitstart > told.at";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    human.batch_execute("COMMIT").unwrap();
    let status = wait(&mut client, action);
    let query = "SELECT DISTINCT deadlock FROM seen WHERE name = 'ruvector action'";
    let seen: Vec<String> = client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(seen.contains(&"300ms".to_owned()), "{seen:?}: {status}: {}", said(&mut client));
}
