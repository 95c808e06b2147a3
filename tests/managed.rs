//! Managed collections: made in one call, writable with the library and without it, routed by weights.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::ledger::{Manner, Writers};
use tests::{PATIENCE, refused, said, start, version};

/// Rows by partition.
fn spread(client: &mut Client, table: &str) -> BTreeMap<i32, i64> {
    client
        .query(format!("SELECT partition_id, count(*) FROM {table} GROUP BY 1").as_str(), &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

fn insert(client: &mut Client, table: &str, rows: u32) {
    let statement =
        format!("INSERT INTO {table} (embedding) SELECT '[1,2,3]' FROM generate_series(1, {rows})");
    client.batch_execute(&statement).unwrap();
}

#[test]
fn one_call_makes_a_collection_that_is_watched() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; GRANT ruvector_operator TO app; GRANT CREATE ON SCHEMA public TO app",
        )
        .unwrap();
    client.batch_execute("SET SESSION AUTHORIZATION app").unwrap();
    let id: i32 = client
        .query_one(
            "SELECT ruvector_collection_create('docs', 3, 4, cold_when => 'created_at < now() - interval ''1 day''',
                                               cold_options => 'fillfactor = 90')",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(id > 0);
    insert(&mut client, "docs", 400);
    let spread = spread(&mut client, "docs");
    assert_eq!(spread.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4], "{spread:?}");
    let owned: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_class WHERE relowner = 'app'::regrole AND relname IN
             ('docs', 'docs_1', 'docs_4', 'docs_cold', 'docs_1_hnsw', 'docs_cold_hnsw', 'docs_pkey')",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(owned, 7);
    let attached: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relname LIKE 'docs%hnsw'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(attached, 0, "an attached index could be neither swapped nor dropped");
    let options: Vec<String> =
        client.query_one("SELECT reloptions FROM pg_class WHERE relname = 'docs_cold'", &[]).unwrap().get(0);
    assert_eq!(options, ["fillfactor=90"]);
    wait_for("the first sample", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE samples > 0 AND lambda_cut IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

#[test]
fn bad_requests_are_refused_with_a_hint() {
    let (_cluster, mut client) = start();
    client.batch_execute("SELECT ruvector_collection_create('docs', 3, 2)").unwrap();
    for (call, state) in [
        ("ruvector_collection_create('docs', 3, 2)", "42710"),
        ("ruvector_collection_create('', 3)", "22023"),
        ("ruvector_collection_create(repeat('x', 41), 3)", "22023"),
        ("ruvector_collection_create('a', 0)", "22023"),
        ("ruvector_collection_create('a', 3, 65)", "22023"),
        ("ruvector_collection_create('a', 2001)", "54000"),
        ("ruvector_collection_create('a', 3, id_type => 'text')", "22023"),
        ("ruvector_collection_create('a', 3, distance => 'manhattan')", "22023"),
        ("ruvector_collection_create('a', 3, cold_when => 'no such column')", "22023"),
        ("ruvector_collection_create('a', 3, cold_when => 'true); DROP TABLE docs; SELECT (1')", "22023"),
        (
            "ruvector_collection_create('a', 3, cold_when => 'true', cold_options => 'x; DROP TABLE docs')",
            "22023",
        ),
        ("ruvector_routing_set('docs', 9, 1)", "42704"),
        ("ruvector_routing_set('docs', 1, -1)", "22023"),
        ("ruvector_routing_set('pg_class', 1, 1)", "42809"),
    ] {
        let (found, hint) = refused(&mut client, &format!("SELECT {call}"));
        assert_eq!(found, state, "{call}");
        assert!(!hint.is_empty(), "{call}");
    }
    let tables: i64 =
        client.query_one("SELECT count(*) FROM pg_class WHERE relname = 'a'", &[]).unwrap().get(0);
    assert_eq!(tables, 0, "nothing half-done");
    client
        .batch_execute("CREATE ROLE other; GRANT ruvector_operator TO other; SET SESSION AUTHORIZATION other")
        .unwrap();
    assert_eq!(refused(&mut client, "SELECT ruvector_routing_set('docs', 1, 0)").0, "42501");
}

#[test]
fn weights_say_where_new_rows_go_and_never_is_everything_sent_to_one() {
    let (_cluster, mut client) = start();
    client.batch_execute("SELECT ruvector_collection_create('docs', 3, 4, cold_when => 'false')").unwrap();
    let set = |client: &mut Client, weights: [f64; 5]| {
        for (partition, weight) in (0i32..).zip(weights) {
            client.execute("SELECT ruvector_routing_set('docs', $1, $2)", &[&partition, &weight]).unwrap();
        }
        client.batch_execute("TRUNCATE docs").unwrap();
    };
    // Once with the table alone, once with shared memory: what the healer knows is no matter of the first.
    for shared in [false, true] {
        let route = |client: &mut Client, rows: i64| -> BTreeMap<i32, i64> {
            let function =
                if shared { "ruvector._route_shared('docs')" } else { "ruvector._route_listed('docs')" };
            let query = format!(
                "SELECT r, count(*) FROM (SELECT {function} AS r FROM generate_series(1, $1::bigint) OFFSET 0) s GROUP BY 1"
            );
            client
                .query(query.as_str(), &[&rows])
                .unwrap()
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect()
        };
        let settled = |client: &mut Client, expected: &dyn Fn(&BTreeMap<i32, i64>) -> bool| {
            wait_for("the weights to be known", PATIENCE, || {
                let filled: bool = client
                    .query_one("SELECT ruvector._route_shared('docs') IS NOT NULL", &[])
                    .unwrap()
                    .get(0);
                if !filled {
                    return None;
                }
                let spread = route(client, 4000);
                expected(&spread).then_some(spread)
            })
            .unwrap()
        };
        set(&mut client, [0.0, 1.0, 3.0, 0.0, 0.0]);
        settled(&mut client, &|spread| {
            spread.len() == 2 && (850..1150).contains(&spread[&1]) && (2850..3150).contains(&spread[&2])
        });
        set(&mut client, [0.0; 5]);
        settled(&mut client, &|spread| {
            spread.len() == 4 && spread.values().all(|rows| (850..1150).contains(rows))
        });
        // A weight of the cold partition is none.
        set(&mut client, [5.0, 0.0, 0.0, 0.0, 0.0]);
        settled(&mut client, &|spread| spread.len() == 4 && !spread.contains_key(&0));
    }
}

#[test]
fn a_weight_under_a_lease_ends_by_itself() {
    let (_cluster, mut client) = start();
    client.batch_execute("SELECT ruvector_collection_create('docs', 3, 2)").unwrap();
    client
        .batch_execute(
            "UPDATE ruvector.routing SET (weight, weight_after, lease_until) = (0, 1, clock_timestamp() + interval '1 s')
              WHERE partition_id = 1",
        )
        .unwrap();
    let both: bool = client
        .query_one(
            "SELECT count(DISTINCT ruvector._route_listed('docs')) = 2 FROM generate_series(1, 100)",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(!both);
    client.batch_execute("SELECT pg_sleep(1.1)").unwrap();
    // The view that everybody reads, whether or not the healer has come by.
    let share: f64 =
        client.query_one("SELECT share FROM ruvector.shares WHERE partition_id = 1", &[]).unwrap().get(0);
    assert_eq!(share, 0.5);
    wait_for("the healer to note it", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.routing WHERE partition_id = 1 AND weight = 1 AND lease_until IS NULL", &[]).unwrap()
    })
    .unwrap();
}

#[test]
fn without_the_library_the_table_is_written_as_before() {
    let cluster = Cluster::builder(version()).database("app").start().unwrap();
    let mut client = cluster.connect("app").unwrap();
    client.batch_execute("CREATE EXTENSION ruvector CASCADE; CREATE ROLE app LOGIN").unwrap();
    client.batch_execute("SELECT ruvector_collection_create('docs', 3, 4, tenant => 'tenant')").unwrap();
    client.batch_execute("GRANT SELECT, INSERT ON docs TO app").unwrap();
    let mut app = cluster.connect_as("app", "app").unwrap();
    let rows = |client: &mut Client| {
        client
            .batch_execute(
                "INSERT INTO docs (tenant, embedding) SELECT 'a', '[1,2,3]' FROM generate_series(1, 100)",
            )
            .unwrap();
    };
    rows(&mut app);
    assert_eq!(spread(&mut client, "docs").len(), 4);
    // What a library that is gone looks like: no function of it can be called.
    client
        .batch_execute("UPDATE pg_proc SET probin = '$libdir/gone' WHERE probin = '$libdir/ruvector'")
        .unwrap();
    let mut app = cluster.connect_as("app", "app").unwrap();
    assert_eq!(refused(&mut client, "SELECT ruvector._not_ready()").0, "58P01");
    rows(&mut app);
    // Routing that was lost (a table restored without it) leaves the table writable too.
    client.batch_execute("DELETE FROM ruvector.managed").unwrap();
    rows(&mut app);
    assert_eq!(spread(&mut client, "docs").values().sum::<i64>(), 300);
}

#[test]
fn a_tenants_rows_stay_together() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 4, tenant => 'tenant', id_type => 'uuid')",
        )
        .unwrap();
    for tenant in 0..20 {
        client
            .batch_execute(&format!(
                "SET ruvector.tenant = 't{tenant}';
                 INSERT INTO docs (embedding) SELECT '[1,2,3]' FROM generate_series(1, 10);
                 INSERT INTO docs (tenant, embedding, partition_id) VALUES ('t{tenant}', '[1,2,3]', ruvector_route_tenant('docs', 't{tenant}'))"
            ))
            .unwrap();
    }
    let row = client
        .query_one(
            "SELECT count(DISTINCT tenant), count(DISTINCT (tenant, partition_id)), count(DISTINCT partition_id), count(*) FROM docs",
            &[],
        )
        .unwrap();
    let count = |at| row.get::<_, i64>(at);
    assert_eq!((count(0), count(1), count(3)), (20, 20, 220));
    assert!(count(2) > 1, "not all in one");
}

#[test]
fn cold_rows_have_a_tablespace_of_their_own() {
    let (_cluster, mut client) = start();
    for statement in [
        "SET allow_in_place_tablespaces = on",
        "CREATE TABLESPACE slow_disk LOCATION ''",
        "SELECT ruvector_collection_create('docs', 3, 2, cold_when => 'created_at < now() - interval ''1 year''',
                cold_tablespace => 'slow_disk', cold_options => 'fillfactor = 90')",
        "INSERT INTO docs (embedding, partition_id) VALUES ('[1,2,3]', 0)",
    ] {
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let places: Vec<(String, Option<String>)> = client
        .query(
            "SELECT c.relname::text, t.spcname::text FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
              WHERE c.relname IN ('docs_1', 'docs_2', 'docs_cold') ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let of = |name: &str, space: Option<&str>| (name.to_owned(), space.map(str::to_owned));
    assert_eq!(places, [of("docs_1", None), of("docs_2", None), of("docs_cold", Some("slow_disk"))]);
    let (state, _) = refused(
        &mut client,
        "SELECT ruvector_collection_create('notes', 3, 2, cold_when => 'false', cold_tablespace => 'nowhere')",
    );
    assert_eq!(state, "42704");
}

#[test]
fn a_key_table_follows_every_statement() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 4, key_table => true);
             CREATE TABLE notes (doc bigint REFERENCES docs_key ON DELETE CASCADE);
             INSERT INTO docs (id, embedding) SELECT i, '[1,2,3]' FROM generate_series(1, 100) i;
             INSERT INTO notes SELECT id FROM docs;
             UPDATE docs SET partition_id = 1 + partition_id % 4;
             DELETE FROM docs WHERE id > 90;
             UPDATE docs SET id = id + 1000 WHERE id > 80",
        )
        .unwrap();
    let row = client
        .query_one("SELECT (SELECT count(*) FROM docs NATURAL JOIN docs_key), (SELECT count(*) FROM docs_key), (SELECT count(*) FROM notes)", &[])
        .unwrap();
    let count = |at| row.get::<_, i64>(at);
    assert_eq!(
        (count(0), count(1), count(2)),
        (90, 90, 80),
        "a move is no delete: the notes of rows that moved are there"
    );
    // An id is unique across partitions.
    for partition in 1..=4 {
        let again =
            format!("INSERT INTO docs (id, embedding, partition_id) VALUES (1, '[1,2,3]', {partition})");
        assert_eq!(refused(&mut client, &again).0, "23505");
    }
    client.batch_execute("TRUNCATE docs").unwrap();
    let left = "SELECT (SELECT count(*) FROM docs_key) + (SELECT count(*) FROM notes)";
    assert_eq!(client.query_one(left, &[]).unwrap().get::<_, i64>(0), 0);
}

#[test]
fn the_key_tables_triggers_are_ours_also_when_the_table_is_renamed() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 4, key_table => true); ALTER TABLE docs RENAME TO papers;
             INSERT INTO papers (embedding) SELECT '[1,2,3]' FROM generate_series(1, 100)",
        )
        .unwrap();
    let noticed = |client: &mut Client| -> Option<String> {
        let query = "SELECT i.snapshot #>> '{managed,noticed}'
                       FROM ruvector.integrity i WHERE i.samples > $1";
        let samples: i64 =
            client.query_one("SELECT max(samples)::bigint FROM ruvector.integrity", &[]).unwrap().get(0);
        wait_for("another sample", PATIENCE, || client.query_opt(query, &[&(samples + 1)]).unwrap())
            .unwrap_or_else(|error| panic!("{error}\n{}", said(client)))
            .get(0)
    };
    wait_for("a sample", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.integrity WHERE samples > 0", &[]).unwrap()
    })
    .unwrap();
    assert_eq!(noticed(&mut client), None);
    client
        .batch_execute(
            "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER theirs AFTER UPDATE ON papers FOR EACH ROW EXECUTE FUNCTION watch()",
        )
        .unwrap();
    assert!(noticed(&mut client).is_some_and(|why| why.contains("theirs")));
}

#[test]
fn a_table_handed_back_needs_nothing_of_us() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 4, key_table => true, cold_when => 'false');
             SELECT ruvector_collection_create('papers', 3, 2); SELECT ruvector_collection_unregister('papers')",
        )
        .unwrap();
    refused(&mut client, "DROP EXTENSION ruvector");
    for name in ["docs", "papers"] {
        let given: bool = client
            .query_one("SELECT (ruvector_collection_release($1) ->> 'routing_given_back')::boolean", &[&name])
            .unwrap()
            .get(0);
        assert!(given, "{name}");
    }
    assert_eq!(refused(&mut client, "SELECT ruvector_collection_release('papers')").0, "42704");
    client.batch_execute("DROP EXTENSION ruvector").unwrap();
    insert(&mut client, "papers", 50);
    insert(&mut client, "docs", 400);
    assert_eq!(spread(&mut client, "docs").keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
}

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
fn a_dump_brings_the_routing_back() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 3, cold_when => 'false', key_table => true);
             SELECT ruvector_routing_set('docs', 2, 0)",
        )
        .unwrap();
    client.batch_execute("CREATE DATABASE restored").unwrap();
    insert(&mut client, "docs", 100);
    let mut dump = cluster.client_command("pg_dump", "app").stdout(Stdio::piped()).spawn().unwrap();
    let restore = cluster
        .client_command("psql", "restored")
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"])
        .stdin(dump.stdout.take().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let restored = restore.wait_with_output().unwrap();
    assert!(dump.wait().unwrap().success());
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let mut there = cluster.connect("restored").unwrap();
    insert(&mut there, "docs", 100);
    let spread = spread(&mut there, "docs");
    assert_eq!(spread.keys().copied().collect::<Vec<_>>(), [1, 3], "{spread:?}");
    assert_eq!(spread.values().sum::<i64>(), 200);
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
fn nothing_is_routed_to_a_partition_that_was_dropped_or_detached() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 4, tenant => 'tenant', index_method => 'none');
             INSERT INTO ruvector.tenant_homes VALUES ('docs', 'a', 2), ('docs', 'b', 3)",
        )
        .unwrap();
    // Partitions that are routed to: by shared memory, by the table, as homes of two tenants.
    let routed = |client: &mut Client| -> Vec<Vec<i32>> {
        let seen = |function: &str| {
            format!(
                "(SELECT array_agg(r ORDER BY r) FROM (SELECT DISTINCT r FROM
                   (SELECT ruvector.{function}('docs') AS r FROM generate_series(1, 200) OFFSET 0) s) d)"
            )
        };
        let query = format!(
            "SELECT {}, {}, ARRAY[ruvector_route_tenant('docs', 'a'), ruvector_route_tenant('docs', 'b')]",
            seen("_route_shared"),
            seen("_route_listed")
        );
        let row = client.query_one(query.as_str(), &[]).unwrap();
        (0..3)
            .map(|at| row.get::<_, Vec<Option<i32>>>(at).into_iter().map(|id| id.unwrap_or(-1)).collect())
            .collect()
    };
    let comes_to = |client: &mut Client, expected: &[i32], homes: &dyn Fn(i32, i32) -> bool| {
        wait_for("the routing to follow", PATIENCE, || {
            let found = routed(client);
            (found[0] == expected && found[1] == expected && homes(found[2][0], found[2][1])).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {expected:?} {:?}\n{}", routed(client), said(client)));
    };
    comes_to(&mut client, &[1, 2, 3, 4], &|a, b| (a, b) == (2, 3));
    client.batch_execute("DROP TABLE docs_3").unwrap();
    comes_to(&mut client, &[1, 2, 4], &|a, b| a == 2 && b != 3);
    client.batch_execute("ALTER TABLE docs DETACH PARTITION docs_2").unwrap();
    comes_to(&mut client, &[1, 4], &|a, b| [1, 4].contains(&a) && [1, 4].contains(&b));
    insert(&mut client, "docs", 400);
    client
        .batch_execute(
            "SET ruvector.tenant = 'a'; INSERT INTO docs (embedding) VALUES ('[1,2,3]');
             SET ruvector.tenant = 'b'; INSERT INTO docs (embedding) VALUES ('[1,2,3]'); RESET ruvector.tenant",
        )
        .unwrap();
    assert_eq!(spread(&mut client, "docs").keys().copied().collect::<Vec<_>>(), [1, 4]);
    // All that have a weight are gone: the others share evenly.
    client
        .batch_execute("SELECT ruvector_routing_set('docs', 4, 0); ALTER TABLE docs DETACH PARTITION docs_1")
        .unwrap();
    comes_to(&mut client, &[4], &|a, b| (a, b) == (4, 4));
    // What is attached again, or made anew, is routed to again.
    client
        .batch_execute(
            "ALTER TABLE docs ATTACH PARTITION docs_1 FOR VALUES IN (1); ALTER TABLE docs ATTACH PARTITION docs_2 FOR VALUES IN (2);
             CREATE TABLE docs_3 PARTITION OF docs FOR VALUES IN (3); SELECT ruvector_routing_set('docs', 4, 1)",
        )
        .unwrap();
    comes_to(&mut client, &[1, 2, 3, 4], &|a, b| (a, b) == (2, 3));
    let shown: i64 = client.query_one("SELECT count(*) FROM ruvector_routing()", &[]).unwrap().get(0);
    assert_eq!(shown, 4);
    insert(&mut client, "docs", 400);
}

#[test]
fn moves_between_servers_that_are_open_keep_a_collection_registered() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 2, index_method => 'none');
             INSERT INTO ruvector.server_batches (collection_id, action_id, leaf, keys, state)
             SELECT id, 1, 0, '{}', 'decided' FROM ruvector.collections",
        )
        .unwrap();
    for verb in ["unregister", "release"] {
        let (state, hint) = refused(&mut client, &format!("SELECT ruvector_collection_{verb}('docs')"));
        assert_eq!(state, "55006", "{verb}");
        assert!(hint.contains("ruvector.server_batches"), "{hint}");
    }
    client
        .batch_execute(
            "UPDATE ruvector.server_batches SET state = 'done'; SELECT ruvector_collection_release('docs')",
        )
        .unwrap();
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
