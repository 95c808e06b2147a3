//! A table that exists becomes a managed collection: copied while it is written to, exchanged in a moment, or given up.

use std::time::Duration;

use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::ledger::{Manner, Writers};
use tests::rewriters::Rewriters;
use tests::{PATIENCE, insert, refused, start};

#[test]
fn a_table_is_adopted_while_it_is_written_to_and_after_an_interruption() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(3) NOT NULL, metadata jsonb DEFAULT '{}');
             CREATE ROLE app; GRANT SELECT, INSERT ON docs TO app;
             INSERT INTO docs SELECT i, '[1,2,3]', '{}' FROM generate_series(1, 20000) i",
        )
        .unwrap();
    let writers =
        Writers::start(&cluster, "docs", 1_000_000_000, 3, Duration::from_millis(5), Manner::ReadCommitted);
    // It is interrupted once in the copy.
    let mut first = cluster.connect("app").unwrap();
    let pid: i32 = first.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let thread = std::thread::spawn(move || {
        first.batch_execute("CALL ruvector_collection_adopt('docs', partitions => 4, batch => 50)")
    });
    wait_for("some batches", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.adoptions WHERE rows_copied > 500", &[]).unwrap()
    })
    .unwrap();
    client.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    thread.join().unwrap().unwrap_err();
    let copied: i64 = client.query_one("SELECT rows_copied FROM ruvector.adoptions", &[]).unwrap().get(0);
    assert!((500..20_000).contains(&copied), "{copied}");
    assert_eq!(refused(&mut client, "TRUNCATE docs").0, "55006");
    client.batch_execute("CALL ruvector_collection_adopt('docs', batch => 5000)").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let met = writers.stop_and_compare(&mut client, "docs");
    assert!(met.errors.is_empty() && met.missed == 0 && met.writes > 50, "{met:?}");
    let row = client
        .query_one(
            "SELECT count(*), count(DISTINCT id), count(DISTINCT partition_id) FROM docs WHERE id <= 20000",
            &[],
        )
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (20_000i64, 20_000i64, 4i64));
    let kept: i64 = client
        .query_one(
            "SELECT count(*) FROM docs_before_adoption b JOIN docs d USING (id, embedding) WHERE id <= 20000",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(kept, 20_000);
    let granted: bool =
        client.query_one("SELECT has_table_privilege('app', 'docs', 'INSERT')", &[]).unwrap().get(0);
    assert!(granted);
    let indexes: i64 =
        client.query_one("SELECT count(*) FROM pg_class WHERE relname LIKE 'docs%hnsw'", &[]).unwrap().get(0);
    assert_eq!(indexes, 4);
    let left: i64 = client.query_one("SELECT count(*) FROM ruvector.adoptions", &[]).unwrap().get(0);
    assert_eq!(left, 0);
}

/// There is always something that was changed since the last step. Without an ANN index, so that it is copied faster than it is changed.
#[test]
fn a_table_that_is_always_written_to_is_adopted_all_the_same() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(3) NOT NULL, metadata jsonb DEFAULT '{}');
             INSERT INTO docs SELECT i, '[1,2,3]', '{}' FROM generate_series(1, 5000) i",
        )
        .unwrap();
    let ids: Vec<i64> = (1..=5000).collect();
    let writers = Rewriters::start(&cluster, "docs", &ids, 4);
    client.batch_execute("SET statement_timeout = '60s'").unwrap();
    client
        .batch_execute("CALL ruvector_collection_adopt('docs', partitions => 4, index_method => 'none')")
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let met = writers.stop_and_compare(&mut client, "docs");
    assert!(
        met.errors.is_empty() && met.missed == 0 && met.writes > 100,
        "{:?}, {} missed",
        met.errors,
        met.missed
    );
    let rows = client.query_one("SELECT count(*), count(DISTINCT id) FROM docs", &[]).unwrap();
    assert_eq!((rows.get(0), rows.get(1)), (5000i64, 5000i64));
}

#[test]
fn what_cannot_be_adopted_says_why_and_what_was_begun_can_be_given_up() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(3));
             CREATE VIEW shown AS SELECT * FROM docs;
             CREATE TABLE keyless (embedding vector(3));
             CREATE TABLE referred (id bigint PRIMARY KEY, embedding vector(3)); CREATE TABLE refers (id bigint REFERENCES referred);
             CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, embedding vector(3));
             INSERT INTO plain (embedding) SELECT '[1,2,3]' FROM generate_series(1, 10)",
        )
        .unwrap();
    for table in ["docs", "keyless", "referred"] {
        let (state, hint) = refused(&mut client, &format!("CALL ruvector_collection_adopt('{table}')"));
        assert_eq!(state, "0A000", "{table}");
        assert!(!hint.is_empty());
    }
    // Before anything of it is committed.
    let (state, hint) = refused(&mut client, "CALL ruvector_collection_adopt('plain', tenant => 'nobody')");
    assert!(state == "42703" && hint.contains("tenant"), "{state} {hint}");
    let begin = "SELECT ruvector._begin_adoption('plain', NULL, 2, NULL, NULL, 'hnsw', 'l2', '{}')";
    client.batch_execute(begin).unwrap();
    let given_up: bool =
        client.query_one("SELECT ruvector_collection_adopt_abort('plain')", &[]).unwrap().get(0);
    assert!(given_up);
    let left: i64 = client
        .query_one("SELECT count(*) FROM pg_class WHERE relname LIKE 'plain%' AND relkind IN ('r', 'p')", &[])
        .unwrap()
        .get(0);
    assert_eq!(left, 1, "only the table itself");
    client
        .batch_execute("CALL ruvector_collection_adopt('plain', partitions => 2, distance => 'l2')")
        .unwrap();
    let next: i64 = client
        .query_one("INSERT INTO plain (embedding) VALUES ('[1,2,3]') RETURNING id", &[])
        .unwrap()
        .get(0);
    assert_eq!(next, 11, "numbers go on where they were");
}

#[test]
fn what_would_go_on_with_the_former_table_is_named() {
    let (_cluster, mut client) = start();
    // An adoption that was begun looks again at each step, and what was made for it is not in its way.
    client
        .batch_execute(
            "CREATE TABLE docs (id bigint PRIMARY KEY CHECK (id > 0), embedding vector(3)); CREATE TABLE notes (doc bigint);
             INSERT INTO docs SELECT i, '[1,2,3]' FROM generate_series(1, 10) i;
             SELECT ruvector._begin_adoption('docs', NULL, 2, NULL, NULL, 'none', 'l2', '{}')",
        )
        .unwrap();
    for (made, named, dropped) in [
        (
            "CREATE FUNCTION newest() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT max(id) FROM docs; END",
            "newest()",
            "DROP FUNCTION newest",
        ),
        (
            "CREATE PROCEDURE clear() LANGUAGE sql BEGIN ATOMIC DELETE FROM docs; END",
            "clear()",
            "DROP PROCEDURE clear",
        ),
        (
            "CREATE FUNCTION title(docs) RETURNS text LANGUAGE sql AS 'SELECT ''none''::text'",
            "title(",
            "DROP FUNCTION title",
        ),
        ("ALTER TABLE notes ADD whole docs[]", "whole", "ALTER TABLE notes DROP whole"),
        (
            "CREATE POLICY of_docs ON notes USING (doc IN (SELECT id FROM docs))",
            "of_docs",
            "DROP POLICY of_docs ON notes",
        ),
        ("CREATE POLICY of_its_own ON docs USING (true)", "row security", "DROP POLICY of_its_own ON docs"),
    ] {
        client.batch_execute(made).unwrap();
        let error = client.batch_execute("CALL ruvector_collection_adopt('docs')").expect_err(made);
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "0A000", "{made}: {error}");
        assert!(error.message().contains(named) && error.hint().is_some(), "{made}: {error}");
        client.batch_execute(dropped).unwrap();
    }
    client.batch_execute("CALL ruvector_collection_adopt('docs')").unwrap();
    let rows: i64 = client.query_one("SELECT count(*) FROM docs", &[]).unwrap().get(0);
    assert_eq!(rows, 10);
}

/// Whoever comes to a table meanwhile waits behind the lock that is asked for.
#[test]
fn a_lock_that_is_not_to_be_had_soon_is_asked_for_another_time() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(3));
             INSERT INTO docs SELECT i, '[1,2,3]' FROM generate_series(1, 10) i",
        )
        .unwrap();
    client.batch_execute("SET statement_timeout = '30s'").unwrap();
    let known = "SELECT concat_ws(' ', (SELECT count(*) FROM pg_class WHERE relname LIKE 'docs%' AND relkind IN ('r', 'p')),
                        (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass), (SELECT count(*) FROM ruvector.managed),
                        (SELECT count(*) FROM ruvector.adoptions))";
    let mut writer = cluster.connect("app").unwrap();
    for (at, (call, before)) in [
        ("CALL ruvector_collection_adopt('docs', partitions => 2, index_method => 'none')", "SELECT 1"),
        (
            "SELECT ruvector_collection_adopt_abort('docs')",
            "SELECT ruvector._begin_adoption('docs', NULL, 2, NULL, NULL, 'none', 'l2', '{}')",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        client.batch_execute(before).unwrap();
        writer.batch_execute(&format!("BEGIN; INSERT INTO docs VALUES ({}, '[1,2,3]')", 11 + at)).unwrap();
        let was: String = client.query_one(known, &[]).unwrap().get(0);
        let (state, hint) = refused(&mut client, call);
        assert_eq!(state, "55P03", "{call}");
        assert!(hint.contains("() again"), "{hint}");
        let is: String = client.query_one(known, &[]).unwrap().get(0);
        assert_eq!(is, was, "{call}: nothing half-done");
        writer.batch_execute("COMMIT").unwrap();
    }
    let given_up: bool =
        client.query_one("SELECT ruvector_collection_adopt_abort('docs')", &[]).unwrap().get(0);
    assert!(given_up);
    client
        .batch_execute("CALL ruvector_collection_adopt('docs', partitions => 2, index_method => 'none')")
        .unwrap();
    let rows: i64 = client.query_one("SELECT count(*) FROM docs", &[]).unwrap().get(0);
    assert_eq!(rows, 12);
}

/// CALLs an adoption of `docs` in a session of its own.
fn adoption(cluster: &Cluster, isolation: &str) -> std::thread::JoinHandle<Result<(), postgres::Error>> {
    let mut session = cluster.connect("app").unwrap();
    session.batch_execute(&format!("SET default_transaction_isolation = '{isolation}'")).unwrap();
    std::thread::spawn(move || {
        session
            .batch_execute("CALL ruvector_collection_adopt('docs', partitions => 2, index_method => 'none')")
    })
}

#[test]
fn a_writer_that_the_exchange_waits_for_is_not_lost() {
    for isolation in ["repeatable read", "serializable", "read committed"] {
        let (cluster, mut client) = start();
        client
            .batch_execute(
                "CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(3));
                 INSERT INTO docs SELECT i, '[1,2,3]' FROM generate_series(1, 10) i;
                 SELECT ruvector._begin_adoption('docs', NULL, 2, NULL, NULL, 'none', 'l2', '{}')",
            )
            .unwrap();
        let mut writer = cluster.connect("app").unwrap();
        writer.batch_execute("BEGIN; INSERT INTO docs VALUES (11, '[1,2,3]')").unwrap();
        let adopted = adoption(&cluster, isolation);
        wait_for("the adoption to be refused or to wait for the writer", PATIENCE, || {
            let waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'docs'::regclass AND mode = 'AccessExclusiveLock'";
            (adopted.is_finished() || client.query_opt(waits, &[]).unwrap().is_some()).then_some(())
        })
        .unwrap();
        writer.batch_execute("COMMIT").unwrap();
        let outcome = adopted.join().unwrap();
        let written: i64 = client.query_one("SELECT count(*) FROM docs WHERE id = 11", &[]).unwrap().get(0);
        assert_eq!(written, 1, "{isolation}: {outcome:?}");
        match outcome {
            Ok(()) => assert_eq!(isolation, "read committed"),
            Err(error) => {
                let error = error.as_db_error().unwrap();
                assert_eq!(error.code().code(), "25001", "{isolation}: {error}");
                assert!(error.hint().is_some_and(|hint| hint.contains("read committed")), "{error}");
            }
        }
    }
}

#[test]
fn a_table_with_a_uuid_key_is_adopted() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), embedding vector(3));
             INSERT INTO docs (embedding) SELECT '[1,2,3]' FROM generate_series(1, 1000)",
        )
        .unwrap();
    client.batch_execute("CALL ruvector_collection_adopt('docs', partitions => 4, batch => 70)").unwrap();
    let row = client
        .query_one("SELECT count(*), count(DISTINCT d.id), count(b.id) FROM docs d JOIN docs_before_adoption b USING (id)", &[])
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (1000i64, 1000i64, 1000i64));
    insert(&mut client, "docs", 1);
}

#[test]
fn ordinary_indexes_are_adopted_and_unique_ones_refused() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE TABLE docs (id bigint PRIMARY KEY, "Title" text, metadata jsonb, embedding vector(3));
               CREATE UNIQUE INDEX docs_title ON docs ("Title");
               CREATE INDEX "docs by metadata" ON docs USING gin (metadata jsonb_path_ops) WITH (fastupdate = off);
               CREATE INDEX docs_lower ON docs (lower("Title") DESC NULLS LAST) INCLUDE (id) WHERE metadata IS NOT NULL;
               CREATE INDEX docs_ann ON docs USING hnsw (embedding vector_l2_ops);
               INSERT INTO docs SELECT i, 't' || i, '{}', ARRAY[i, 1, 2]::vector FROM generate_series(1, 100) i"#,
        )
        .unwrap();
    let call = "CALL ruvector_collection_adopt('docs', partitions => 2, distance => 'l2', batch => 30)";
    let (state, hint) = refused(&mut client, call);
    assert_eq!(state, "0A000");
    assert!(hint.contains("docs_title"), "{hint}");
    client.batch_execute("DROP INDEX docs_title").unwrap();
    let definitions = |client: &mut Client, table: &str| -> Vec<String> {
        let query = format!(
            "SELECT replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
              WHERE indrelid = '{table}'::regclass AND NOT indisprimary AND indisvalid AND relname NOT LIKE '%ann' ORDER BY relname"
        );
        client.query(query.as_str(), &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let before = definitions(&mut client, "docs");
    assert_eq!(before.len(), 2);
    // One more is made, and one dropped, when the others are there already.
    client
        .batch_execute(
            "CREATE INDEX dropped ON docs (id, metadata);
             SELECT ruvector._begin_adoption('docs', NULL, 2, NULL, NULL, 'hnsw', 'l2', '{}')",
        )
        .unwrap();
    while client.query_one("SELECT ruvector._adopt_step('docs', 30)", &[]).unwrap().get::<_, &str>(0)
        != "catching up"
    {}
    client.batch_execute("DROP INDEX dropped; CREATE INDEX later ON docs (id DESC)").unwrap();
    client.batch_execute(call).unwrap();
    let after = definitions(&mut client, "docs");
    assert_eq!(after.len(), 3, "{after:?}");
    assert_eq!(after[..2], before);
    assert!(after[2].ends_with("(id DESC)"), "{after:?}");
    let leaves: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_index WHERE indrelid IN ('docs_1'::regclass, 'docs_2'::regclass) AND indisvalid",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(leaves, 10, "on each the key, the three and the ANN index");
    let left: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_class WHERE relname LIKE '%adopting\\_%' AND relkind IN ('i', 'I')",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(left, 1, "the key's alone has the name of then");
}

#[test]
fn an_adopted_table_stays_its_owners() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE ROLE keeper LOGIN; CREATE ROLE member LOGIN IN ROLE keeper, ruvector_operator; CREATE ROLE member_of_none;
             CREATE SCHEMA shop AUTHORIZATION keeper",
        )
        .unwrap();
    let mut keeper = cluster.connect_as("keeper", "app").unwrap();
    for (adopter, table) in [("postgres", "shop.one"), ("member", "shop.two")] {
        keeper
            .batch_execute(&format!(
                "CREATE TABLE {table} (id serial PRIMARY KEY, at bigint GENERATED ALWAYS AS IDENTITY, embedding vector(3));
                 CREATE INDEX ON {table} (at); GRANT SELECT ON {table} TO PUBLIC; GRANT UPDATE (at) ON {table} TO member_of_none;
                 ALTER TABLE {table} SET (fillfactor = 80, autovacuum_enabled = on); COMMENT ON TABLE {table} IS 'of the shop';
                 CREATE STATISTICS {table}_stats ON id, at FROM {table};
                 INSERT INTO {table} (embedding) SELECT '[1,2,3]' FROM generate_series(1, 100)"
            ))
            .unwrap();
        let mut session = cluster.connect_as(adopter, "app").unwrap();
        let call =
            format!("SELECT ruvector._begin_adoption('{table}', NULL, 2, NULL, NULL, 'hnsw', 'l2', '{{}}')");
        session.batch_execute(&call).unwrap();
        // What they write meanwhile is noted with their own rights.
        insert(&mut keeper, table, 5);
        session
            .batch_execute(&format!(
                "CALL ruvector_collection_adopt('{table}', distance => 'l2', batch => 30)"
            ))
            .unwrap_or_else(|error| panic!("{adopter}: {error}"));
        insert(&mut keeper, table, 10);
        let row = keeper
            .query_one(
                &format!("SELECT count(*), count(DISTINCT id), max(id), count(DISTINCT at) FROM {table}"),
                &[],
            )
            .unwrap();
        let found = (row.get(0), row.get(1), row.get(2), row.get(3));
        assert_eq!(found, (115i64, 115i64, 115i32, 115i64), "{adopter}");
    }
    let others: Vec<String> = client
        .query(
            "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'shop'::regnamespace AND c.relowner <> 'keeper'::regrole",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(others, [""; 0]);
    let kept: String = client
        .query_one(
            "SELECT concat_ws(' ', obj_description('shop.two'::regclass), has_column_privilege('member_of_none', 'shop.two', 'at', 'UPDATE'),
                    has_table_privilege('member_of_none', 'shop.two', 'UPDATE'),
                    (SELECT string_agg(array_to_string(c.reloptions, ','), ' ') FROM pg_class c WHERE c.oid IN ('shop.two_1'::regclass, 'shop.two_2'::regclass)),
                    (SELECT count(*) FROM pg_statistic_ext s WHERE s.stxrelid = 'shop.two'::regclass))",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(
        kept,
        "of the shop t f fillfactor=80,autovacuum_enabled=on fillfactor=80,autovacuum_enabled=on 1"
    );
    keeper.batch_execute("DROP TABLE shop.one_before_adoption, shop.two_before_adoption").unwrap();
    insert(&mut keeper, "shop.one", 1);
    // Who makes tables there must be able to give them to their owner.
    client
        .batch_execute("CREATE TABLE plain (id bigint PRIMARY KEY, embedding vector(3)); ALTER TABLE plain OWNER TO keeper")
        .unwrap();
    let mut member = cluster.connect_as("member", "app").unwrap();
    client.batch_execute("GRANT CREATE ON SCHEMA public TO member").unwrap();
    let (state, hint) =
        refused(&mut member, "CALL ruvector_collection_adopt('plain', index_method => 'none')");
    assert_eq!(state, "42501");
    assert!(hint.contains("CREATE"), "{hint}");
}

#[test]
fn an_adoption_that_somebody_interfered_with_is_refused_and_can_be_given_up() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE ROLE another; GRANT CREATE ON SCHEMA public TO another;
             CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(3), code int NOT NULL DEFAULT 0);
             INSERT INTO docs SELECT i, '[1,2,3]', i FROM generate_series(1, 100) i",
        )
        .unwrap();
    let step = "SELECT ruvector._adopt_step('docs', 30)";
    for (what, of) in [
        ("ALTER TABLE docs OWNER TO another", "another owner"),
        ("ALTER TABLE docs ADD more int DEFAULT 1", "columns"),
        ("DROP TABLE docs_2", "partitions"),
        ("ALTER TABLE docs_changes RENAME TO docs_changed", "renamed"),
        ("ALTER TABLE docs DISABLE TRIGGER USER; ALTER TABLE docs ENABLE TRIGGER USER", "unnoticed"),
        (
            "ALTER TABLE docs DISABLE TRIGGER ruvector_adoption; ALTER TABLE docs ENABLE ALWAYS TRIGGER ruvector_adoption",
            "unnoticed",
        ),
        ("DROP TRIGGER ruvector_adoption ON docs; DROP TRIGGER ruvector_adoption_whole ON docs", "unnoticed"),
        ("ALTER TABLE docs ALTER embedding TYPE vector(3) USING embedding + embedding", "rewritten"),
        ("ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (code)", "key"),
        ("ALTER TABLE docs_adopting DETACH PARTITION docs_2", "partitions"),
        ("DROP TABLE docs_changes", "dropped"),
        ("DROP TABLE docs_adopting", "dropped"),
    ] {
        client
            .batch_execute("SELECT ruvector._begin_adoption('docs', NULL, 2, NULL, NULL, 'none', 'l2', '{}')")
            .unwrap();
        client.batch_execute(step).unwrap();
        client.batch_execute(what).unwrap();
        let error = client.batch_execute(step).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "55000", "{what}: {error}");
        assert!(error.message().contains(of), "{what}: {error}");
        assert!(error.hint().unwrap().contains("ruvector_collection_adopt_abort"));
        client
            .batch_execute(
                "SELECT ruvector_collection_adopt_abort('docs'); ALTER TABLE docs OWNER TO CURRENT_USER; ALTER TABLE docs DROP COLUMN IF EXISTS more;
                 ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (id)",
            )
            .unwrap();
        let left: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_class WHERE relname LIKE 'docs%' AND relkind IN ('r', 'p')",
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(left, 1, "{what}: only the table itself");
    }
    // Who gives it up waits for who is finishing it, and then drops nothing.
    let mut finishing = cluster.connect("app").unwrap();
    client
        .batch_execute("SELECT ruvector._begin_adoption('docs', NULL, 2, NULL, NULL, 'none', 'l2', '{}')")
        .unwrap();
    finishing.batch_execute("BEGIN").unwrap();
    while finishing.query_one("SELECT ruvector._adopt_step('docs', 1000)", &[]).unwrap().get::<_, &str>(0)
        != "done"
    {}
    let mut giving_up = cluster.connect("app").unwrap();
    let oid: u32 = client.query_one("SELECT 'docs'::regclass::oid", &[]).unwrap().get(0);
    let given_up = std::thread::spawn(move || {
        let query = format!("SELECT ruvector_collection_adopt_abort({oid}::regclass)");
        giving_up.query_one(&query, &[]).unwrap().get::<_, bool>(0)
    });
    wait_for("the one who gives up to wait", PATIENCE, || {
        let waits = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT ruvector_collection_adopt_abort%' AND wait_event_type = 'Lock'";
        client.query_opt(waits, &[]).unwrap()
    })
    .unwrap();
    finishing.batch_execute("COMMIT").unwrap();
    assert!(!given_up.join().unwrap());
    let row = client.query_one("SELECT count(*), count(DISTINCT partition_id) FROM docs", &[]).unwrap();
    assert_eq!((row.get(0), row.get(1)), (100i64, 2i64));
    client
        .batch_execute(
            "SELECT ruvector_collection_release('docs'); DROP TABLE docs; ALTER TABLE docs_before_adoption RENAME TO docs",
        )
        .unwrap();
    // Triggers that are off for a session note all the same.
    client
        .batch_execute(
            "SELECT ruvector._begin_adoption('docs', NULL, 2, NULL, NULL, 'none', 'l2', '{}'); SELECT ruvector._adopt_step('docs', 1000);
             SET session_replication_role = replica; DELETE FROM docs WHERE id = 1; INSERT INTO docs VALUES (0, '[1,2,3]');
             RESET session_replication_role",
        )
        .unwrap();
    client.batch_execute("CALL ruvector_collection_adopt('docs')").unwrap();
    let rows: Vec<i64> = client
        .query("SELECT id FROM docs WHERE id < 3 ORDER BY id", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(rows, [0, 2]);
}

#[test]
fn two_who_adopt_a_table_at_once_copy_each_row_once() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(3));
             INSERT INTO docs SELECT i, '[1,2,3]' FROM generate_series(1, 3000) i;
             SELECT ruvector._begin_adoption('docs', NULL, 4, NULL, NULL, 'none', 'l2', '{}')",
        )
        .unwrap();
    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut session = cluster.connect("app").unwrap();
            std::thread::spawn(move || {
                session.batch_execute("CALL ruvector_collection_adopt('docs', batch => 20)")
            })
        })
        .collect();
    let ended: Vec<_> = both.into_iter().map(|thread| thread.join().unwrap()).collect();
    let row = client.query_one("SELECT count(*), count(DISTINCT id) FROM docs", &[]).unwrap();
    assert_eq!((row.get(0), row.get(1)), (3000i64, 3000i64), "{ended:?}");
    let kind: String = client
        .query_one("SELECT relkind::text FROM pg_class WHERE oid = 'docs'::regclass", &[])
        .unwrap()
        .get(0);
    assert_eq!(kind, "p", "{ended:?}");
    assert_eq!(ended.iter().filter(|end| end.is_ok()).count(), 1, "{ended:?}");
    let error =
        ended.iter().find_map(|end| end.as_ref().err()).and_then(postgres::Error::as_db_error).unwrap();
    assert_eq!(error.code().code(), "55000", "{error}");
}

/// Who has rights on what is there of a table, its owner apart: "relation role privilege".
fn others_rights(client: &mut Client, table: &str) -> Vec<String> {
    let query = format!(
        "SELECT concat_ws(' ', regexp_replace(o.name::text, '_former_[0-9]+', '_former'),
                          CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END, x.privilege_type)
           FROM (SELECT c.relname AS name, c.relowner AS owner, c.relacl AS acl FROM pg_class c WHERE c.relnamespace = 'shop'::regnamespace
                 UNION ALL SELECT f.proname, f.proowner, coalesce(f.proacl, acldefault('f', f.proowner)) FROM pg_proc f
                            WHERE f.pronamespace = 'shop'::regnamespace) o
          CROSS JOIN LATERAL aclexplode(o.acl) x WHERE o.name::text LIKE '{table}%' AND x.grantee <> o.owner"
    );
    let mut rights: Vec<String> =
        client.query(query.as_str(), &[]).unwrap().iter().map(|row| row.get(0)).collect();
    rights.sort();
    rights
}

#[test]
fn default_privileges_open_nothing_that_an_adoption_makes() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE ROLE analysts; CREATE ROLE app; CREATE ROLE keeper LOGIN IN ROLE ruvector_operator;
             CREATE SCHEMA shop AUTHORIZATION keeper; GRANT USAGE ON SCHEMA shop TO PUBLIC",
        )
        .unwrap();
    let mut keeper = cluster.connect_as("keeper", "app").unwrap();
    for table in ["one", "two"] {
        keeper
            .batch_execute(&format!(
                "CREATE TABLE shop.{table} (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, title text, embedding vector(3));
                 INSERT INTO shop.{table} (title, embedding) SELECT 'secret', '[1,2,3]' FROM generate_series(1, 100);
                 GRANT SELECT ON shop.{table} TO app; GRANT UPDATE (title) ON shop.{table} TO app;
                 GRANT USAGE ON SEQUENCE shop.{table}_id_seq TO app"
            ))
            .unwrap();
    }
    client
        .batch_execute(
            "ALTER DEFAULT PRIVILEGES FOR ROLE postgres, keeper GRANT ALL ON TABLES TO analysts;
             ALTER DEFAULT PRIVILEGES FOR ROLE postgres, keeper GRANT SELECT ON TABLES TO PUBLIC;
             ALTER DEFAULT PRIVILEGES FOR ROLE postgres, keeper GRANT ALL ON SEQUENCES TO analysts, PUBLIC;
             ALTER DEFAULT PRIVILEGES FOR ROLE postgres, keeper GRANT EXECUTE ON FUNCTIONS TO analysts",
        )
        .unwrap();
    for (adopter, table) in [("postgres", "one"), ("keeper", "two")] {
        let mut session = cluster.connect_as(adopter, "app").unwrap();
        session
            .batch_execute(&format!(
                "SELECT ruvector._begin_adoption('shop.{table}', NULL, 2, NULL, NULL, 'none', 'l2', '{{}}');
                 SELECT ruvector._adopt_step('shop.{table}', 30)"
            ))
            .unwrap_or_else(|error| panic!("{adopter}: {error}"));
        let reads = |client: &mut Client, relation: &str| -> bool {
            let query = format!("SELECT has_table_privilege('analysts', 'shop.{table}{relation}', 'SELECT')");
            client.query_one(query.as_str(), &[]).unwrap().get(0)
        };
        for made in ["_adopting", "_1", "_2", "_changes"] {
            assert!(!reads(&mut client, made), "{adopter}: {made} while it is copied");
        }
        let own = [format!("{table} app SELECT"), format!("{table}_id_seq app USAGE")];
        assert_eq!(others_rights(&mut client, table), own, "{adopter}: while it is copied");
        session
            .batch_execute(&format!("CALL ruvector_collection_adopt('shop.{table}', batch => 30)"))
            .unwrap();
        for made in ["", "_1", "_2"] {
            assert!(!reads(&mut client, made), "{adopter}: {made} once it is adopted");
        }
        let own = [
            format!("{table} app SELECT"),
            format!("{table}_before_adoption app SELECT"),
            format!("{table}_former app USAGE"),
            format!("{table}_id_seq app USAGE"),
        ];
        assert_eq!(others_rights(&mut client, table), own, "{adopter}: once it is adopted");
        let query = format!(
            "SELECT concat_ws(' ', count(*), has_column_privilege('app', 'shop.{table}', 'title', 'UPDATE'),
                    has_table_privilege('app', 'shop.{table}', 'UPDATE')) FROM shop.{table}"
        );
        let kept: String = keeper.query_one(query.as_str(), &[]).unwrap().get(0);
        assert_eq!(kept, "100 t f", "{adopter}: the table's own grants come along");
    }
}

#[test]
fn an_identity_goes_on_with_the_sequence_of_its_name() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE ROLE app LOGIN;
             CREATE TABLE docs (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, place serial, embedding vector(3));
             GRANT SELECT, INSERT ON docs TO app; GRANT USAGE ON SEQUENCE docs_id_seq TO app WITH GRANT OPTION;
             GRANT USAGE ON SEQUENCE docs_place_seq TO app;
             CREATE TABLE others (id bigint DEFAULT nextval('docs_id_seq'));
             INSERT INTO docs (embedding) SELECT '[1,2,3]' FROM generate_series(1, 10)",
        )
        .unwrap();
    let call = "CALL ruvector_collection_adopt('docs', partitions => 2, index_method => 'none')";
    assert_eq!(refused(&mut client, call).0, "0A000", "another table would go on with the former sequence");
    client.batch_execute("DROP TABLE others").unwrap();
    client.batch_execute(call).unwrap();
    let sequences: String = client
        .query_one(
            "SELECT concat_ws(' ', pg_get_serial_sequence('docs', 'id'), pg_get_serial_sequence('docs', 'place'),
                    regexp_replace(pg_get_serial_sequence('docs_before_adoption', 'id'), '[0-9]+', '…'))",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(sequences, "public.docs_id_seq public.docs_place_seq public.docs_former_…");
    let granted: bool = client
        .query_one("SELECT has_sequence_privilege('app', 'docs_id_seq', 'USAGE WITH GRANT OPTION')", &[])
        .unwrap()
        .get(0);
    assert!(granted);
    let mut app = cluster.connect_as("app", "app").unwrap();
    let number = |app: &mut Client, query: &str| -> i64 { app.query_one(query, &[]).unwrap().get(0) };
    let insert = "INSERT INTO docs (embedding) VALUES ('[1,2,3]') RETURNING";
    assert_eq!(number(&mut app, "SELECT nextval('docs_id_seq')"), 11);
    assert_eq!(number(&mut app, &format!("{insert} id")), 12);
    assert_eq!(number(&mut app, "SELECT nextval(pg_get_serial_sequence('docs', 'id'))"), 13);
    assert_eq!(
        number(&mut app, &format!("{insert} place::bigint")),
        12,
        "two were inserted since, ten before"
    );
    // Once more, of the former table.
    client
        .batch_execute(
            "SELECT ruvector_collection_release('docs'); ALTER TABLE docs_before_adoption ALTER place SET DEFAULT 0;
             DROP TABLE docs; ALTER TABLE docs_before_adoption RENAME TO docs",
        )
        .unwrap();
    client.batch_execute(call).unwrap();
    assert_eq!(number(&mut client, &format!("{insert} id")), 11);
}

#[test]
fn who_has_just_taken_a_number_of_an_identity_puts_the_exchange_off() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, embedding vector(3));
             INSERT INTO docs (embedding) SELECT '[1,2,3]' FROM generate_series(1, 10)",
        )
        .unwrap();
    let mut taker = cluster.connect("app").unwrap();
    taker.batch_execute("BEGIN; SELECT nextval('docs_id_seq')").unwrap();
    let call = "CALL ruvector_collection_adopt('docs', partitions => 2, index_method => 'none')";
    let (state, hint) = refused(&mut client, call);
    assert_eq!(state, "55P03");
    assert!(hint.contains("() again"), "{hint}");
    taker.batch_execute("INSERT INTO docs (id, embedding) VALUES (11, '[1,2,3]'); COMMIT").unwrap();
    client.batch_execute(call).unwrap();
    insert(&mut client, "docs", 1);
    let row = client.query_one("SELECT count(*), count(DISTINCT id), max(id) FROM docs", &[]).unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (12i64, 12i64, 12i64));
}
