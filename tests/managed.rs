//! Managed collections: made in one call, writable with the library and without it, routed by weights.

use std::collections::BTreeMap;
use std::process::Stdio;

use cluster::{Cluster, Signal, wait_for};
use postgres::Client;
use tests::{PATIENCE, insert, refused, said, start, version};

/// Rows by partition.
fn spread(client: &mut Client, table: &str) -> BTreeMap<i32, i64> {
    client
        .query(format!("SELECT partition_id, count(*) FROM {table} GROUP BY 1").as_str(), &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
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
        ("ruvector_collection_create('a', 3, cold_when => 'true) OR (true')", "22023"),
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

/// Shares of all partitions follow from each weight.
#[test]
fn of_two_who_set_weights_at_once_the_second_waits_for_the_first() {
    let (cluster, mut client) = start();
    client.batch_execute("SELECT ruvector_collection_create('docs', 3, 4, index_method => 'none')").unwrap();
    // Weights as they were: no share changes by them.
    let mut first = cluster.connect("app").unwrap();
    first.batch_execute("BEGIN; SELECT ruvector_routing_set('docs', 1, 1)").unwrap();
    let mut second = cluster.connect("app").unwrap();
    let both = std::thread::spawn(move || {
        second.batch_execute(
            "BEGIN; SELECT ruvector_routing_set('docs', 2, 1); SELECT ruvector_routing_set('docs', 2, 5); COMMIT",
        )
    });
    wait_for("the second to wait", PATIENCE, || {
        let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'BEGIN; SELECT ruvector_routing_set%'";
        client.query_opt(waits, &[]).unwrap()
    })
    .unwrap();
    first.batch_execute("SELECT ruvector_routing_set('docs', 1, 5); COMMIT").unwrap();
    both.join().unwrap().unwrap();
    let query =
        "SELECT array_agg(round(12 * share::numeric)::integer ORDER BY partition_id) FROM ruvector_routing()";
    let shares: Vec<i32> = client.query_one(query, &[]).unwrap().get(0);
    assert_eq!(shares, [5, 5, 1, 1]);
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

/// A healer that hangs has shares in shared memory that are of before.
#[test]
fn a_weight_under_a_lease_ends_though_the_healer_hangs() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 2);
             UPDATE ruvector.routing SET (weight, weight_after, lease_until) = (0, 1, clock_timestamp() + interval '4 s')
              WHERE partition_id = 1",
        )
        .unwrap();
    let shared = |client: &mut Client| -> Vec<Option<i32>> {
        let query = "SELECT DISTINCT ruvector._route_shared('docs') FROM generate_series(1, 100) ORDER BY 1";
        client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    wait_for("the weight in shared memory", PATIENCE, || (shared(&mut client) == [Some(2)]).then_some(()))
        .unwrap();
    let healer =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND datname = 'app'";
    let healer: i32 = client.query_one(healer, &[]).unwrap().get(0);
    cluster.kill(healer, Signal::STOP).unwrap();
    client.batch_execute("SELECT pg_sleep(4.1)").unwrap();
    let known = shared(&mut client);
    insert(&mut client, "docs", 100);
    let there = spread(&mut client, "docs");
    cluster.kill(healer, Signal::CONT).unwrap();
    assert_eq!(known, [None], "the table says where");
    assert_eq!(there.len(), 2, "{there:?}");
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
fn rows_whose_tenant_is_null_are_spread_by_the_weights() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 4, tenant => 'tenant', index_method => 'none');
             ALTER TABLE docs ALTER tenant DROP NOT NULL;
             INSERT INTO docs (tenant, embedding, partition_id)
             SELECT NULL, '[1,2,3]', ruvector_route_tenant('docs', NULL) FROM generate_series(1, 400);
             CREATE TABLE papers (id bigint PRIMARY KEY, owner text, embedding vector(3));
             INSERT INTO papers SELECT i, CASE WHEN i > 400 THEN 'a' END, '[1,2,3]' FROM generate_series(1, 500) i",
        )
        .unwrap();
    client
        .batch_execute(
            "CALL ruvector_collection_adopt('papers', partitions => 4, tenant => 'owner', index_method => 'none')",
        )
        .unwrap();
    for rows in ["docs", "papers WHERE owner IS NULL"] {
        let spread = spread(&mut client, rows);
        assert_eq!(spread.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4], "{rows}: {spread:?}");
        assert_eq!(spread.values().sum::<i64>(), 400, "{rows}");
    }
    assert_eq!(spread(&mut client, "papers WHERE owner = 'a'").len(), 1);
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
             DELETE FROM docs WHERE id > 90",
        )
        .unwrap();
    let row = client
        .query_one("SELECT (SELECT count(*) FROM docs NATURAL JOIN docs_key), (SELECT count(*) FROM docs_key), (SELECT count(*) FROM notes)", &[])
        .unwrap();
    let count = |at| row.get::<_, i64>(at);
    assert_eq!(
        (count(0), count(1), count(2)),
        (90, 90, 90),
        "a move is no delete: the notes of rows that moved are there"
    );
    // An id is unique across partitions.
    for partition in 1..=4 {
        let again =
            format!("INSERT INTO docs (id, embedding, partition_id) VALUES (1, '[1,2,3]', {partition})");
        assert_eq!(refused(&mut client, &again).0, "23505");
    }
    // Nothing refers to it any more: ids change as they like.
    client.batch_execute("DROP TABLE notes; UPDATE docs SET id = id + 1000 WHERE id > 80").unwrap();
    assert_eq!(keyed(&mut client), (90, 90));
    client
        .batch_execute("UPDATE docs SET id = 5000, partition_id = 1 + partition_id % 4 WHERE id = 1")
        .unwrap();
    assert_eq!(keyed(&mut client), (90, 90));
    client.batch_execute("TRUNCATE docs").unwrap();
    assert_eq!(keyed(&mut client), (0, 0));
}

/// Rows of `docs` that are in the key table with their partition, and all that is there.
fn keyed(client: &mut Client) -> (i64, i64) {
    let query = "SELECT (SELECT count(*) FROM docs NATURAL JOIN docs_key), (SELECT count(*) FROM docs_key)";
    let row = client.query_one(query, &[]).unwrap();
    (row.get(0), row.get(1))
}

/// A hundred rows, of which neighbours are in different partitions, and notes of each with a foreign key of this kind.
fn noted(client: &mut Client, action: &str) {
    client
        .batch_execute(&format!(
            "SELECT ruvector_collection_create('docs', 3, 4, index_method => 'none', key_table => true);
             CREATE TABLE notes (doc bigint REFERENCES docs_key {action});
             INSERT INTO docs (id, embedding, partition_id) SELECT i, '[1,2,3]', 1 + i % 4 FROM generate_series(1, 100) i;
             INSERT INTO notes SELECT id FROM docs"
        ))
        .unwrap();
}

/// Notes that there are, and the sum of the ids to which they refer.
fn notes(client: &mut Client) -> (i64, i64) {
    let row = client.query_one("SELECT count(*), coalesce(sum(doc), 0)::bigint FROM notes", &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn what_refers_to_the_key_of_a_row_follows_it_or_refuses_its_change() {
    let (_cluster, mut client) = start();
    noted(&mut client, "ON DELETE CASCADE ON UPDATE CASCADE");
    client
        .batch_execute(
            "UPDATE docs SET id = 1005 WHERE id = 5;
             UPDATE docs SET id = 1006, partition_id = 1 + partition_id % 4 WHERE id = 6",
        )
        .unwrap();
    assert_eq!(notes(&mut client), (100, 5050 + 2000), "they follow");
    assert_eq!(keyed(&mut client), (100, 100));
    client
        .batch_execute(
            "ALTER TABLE notes DROP CONSTRAINT notes_doc_fkey, ADD FOREIGN KEY (doc) REFERENCES docs_key ON DELETE CASCADE",
        )
        .unwrap();
    assert_eq!(refused(&mut client, "UPDATE docs SET id = 1007 WHERE id = 7").0, "23503");
    assert_eq!(notes(&mut client), (100, 5050 + 2000));
    assert_eq!(keyed(&mut client), (100, 100));
    // What nothing refers to is free.
    client.batch_execute("DELETE FROM notes WHERE doc = 7; UPDATE docs SET id = 1007 WHERE id = 7").unwrap();
    assert_eq!(keyed(&mut client), (100, 100));
    client.batch_execute("DELETE FROM docs WHERE id = 8").unwrap();
    assert_eq!(notes(&mut client), (98, 5050 + 2000 - 7 - 8), "a delete is one");
}

#[test]
fn ids_of_several_rows_that_are_referred_to_do_not_change_at_once() {
    let (_cluster, mut client) = start();
    noted(&mut client, "ON DELETE CASCADE ON UPDATE CASCADE");
    // The second leaves one id without a row and one that is new, as if only that row had changed.
    for many in [
        "UPDATE docs SET id = id + 1000 WHERE id > 80",
        "UPDATE docs SET id = id + 1 WHERE id > 97",
        "UPDATE docs SET id = CASE id WHEN 5 THEN 1005 ELSE id END WHERE id < 10",
    ] {
        let (state, hint) = refused(&mut client, many);
        assert_eq!(state, "0A000", "{many}");
        assert!(hint.contains("one row's id at a time"), "{hint}");
        assert_eq!(notes(&mut client), (100, 5050), "{many}");
        assert_eq!(keyed(&mut client), (100, 100), "{many}");
    }
    // Two rows with one id, in different partitions.
    assert_eq!(refused(&mut client, "UPDATE docs SET id = 5 WHERE id IN (5, 6)").0, "23505");
    assert_eq!(refused(&mut client, "UPDATE docs SET id = 7 WHERE id = 5").0, "23505");
    assert_eq!((notes(&mut client), keyed(&mut client)), ((100, 5050), (100, 100)));
    client.batch_execute("CREATE TABLE unreferred AS TABLE notes; DROP TABLE notes").unwrap();
    assert_eq!(
        refused(&mut client, "UPDATE docs SET id = 5 + (id - 5) / 2 * 3 WHERE id IN (5, 6, 7)").0,
        "23505"
    );
    client.batch_execute("ALTER TABLE unreferred RENAME TO notes").unwrap();
    assert_eq!(keyed(&mut client), (100, 100));
    // Statements that change several rows and no id are as they were, moves among them.
    client
        .batch_execute(
            "UPDATE docs SET embedding = '[3,2,1]'; UPDATE docs SET partition_id = 1 + partition_id % 4 WHERE id < 50",
        )
        .unwrap();
    assert_eq!(notes(&mut client), (100, 5050));
    assert_eq!(keyed(&mut client), (100, 100));
}

#[test]
fn a_table_whose_keys_are_referred_to_is_truncated_with_what_refers_to_it() {
    let (_cluster, mut client) = start();
    noted(&mut client, "ON DELETE CASCADE");
    let (state, hint) = refused(&mut client, "TRUNCATE docs");
    assert_eq!(state, "0A000");
    assert!(hint.contains("public.notes"), "{hint}");
    assert_eq!(notes(&mut client), (100, 5050));
    assert_eq!(keyed(&mut client), (100, 100));
    client.batch_execute("TRUNCATE docs, notes").unwrap();
    assert_eq!((notes(&mut client), keyed(&mut client)), ((0, 0), (0, 0)));
    insert(&mut client, "docs", 10);
    client.batch_execute("TRUNCATE docs").unwrap();
    assert_eq!(keyed(&mut client), (0, 0), "nothing refers to a row of it");
}

/// What of its owner's is in the way of moving rows, as a sample sees it that is taken from now on.
fn noticed(client: &mut Client) -> Option<String> {
    in_the_way(client, "noticed")
}

/// The same, or (`fixed`) why its rows stay where they are whatever the settings say.
fn in_the_way(client: &mut Client, what: &str) -> Option<String> {
    let query = "SELECT i.snapshot #>> ARRAY['managed', $2] FROM ruvector.integrity i WHERE i.samples > $1";
    let samples: i64 =
        client.query_one("SELECT max(samples)::bigint FROM ruvector.integrity", &[]).unwrap().get(0);
    wait_for("another sample", PATIENCE, || client.query_opt(query, &[&(samples + 1), &what]).unwrap())
        .unwrap_or_else(|error| panic!("{error}\n{}", said(client)))
        .get(0)
}

/// What a publisher sends names the partition that a row has there.
#[test]
fn what_a_subscription_writes_to_keeps_its_rows_where_they_are() {
    let cluster = Cluster::builder(version())
        .preload(true)
        .database("app")
        .database("source")
        .setting("wal_level", "logical")
        .start()
        .unwrap();
    let (mut client, mut source) = (cluster.connect("app").unwrap(), cluster.connect("source").unwrap());
    client
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE; SELECT ruvector_healing_configure('{"sample_interval_seconds": 1}');
               SELECT ruvector_collection_create('docs', 3, 2, index_method => 'none')"#,
        )
        .unwrap();
    wait_for("a sample", PATIENCE, || client.query_opt("SELECT 1 FROM ruvector.integrity", &[]).unwrap())
        .unwrap();
    assert_eq!(in_the_way(&mut client, "fixed"), None);
    source
        .batch_execute(
            "CREATE TABLE docs (id bigint, partition_id int, PRIMARY KEY (id, partition_id)); CREATE PUBLICATION feeding FOR TABLE docs",
        )
        .unwrap();
    source.batch_execute("SELECT pg_create_logical_replication_slot('feeding', 'pgoutput')").unwrap();
    let subscribe = format!(
        "CREATE SUBSCRIPTION feeding CONNECTION 'host={} port={} dbname=source user=postgres' PUBLICATION feeding
             WITH (create_slot = false, slot_name = 'feeding')",
        cluster.socket_directory().display(),
        cluster.port()
    );
    client.batch_execute(&subscribe).unwrap();
    let why = in_the_way(&mut client, "fixed");
    assert!(why.as_ref().is_some_and(|why| why.contains("the subscription feeding")), "{why:?}");
    client.batch_execute("ALTER SUBSCRIPTION feeding DISABLE").unwrap();
    client.batch_execute("ALTER SUBSCRIPTION feeding SET (slot_name = NONE)").unwrap();
    client.batch_execute("DROP SUBSCRIPTION feeding").unwrap();
    assert_eq!(in_the_way(&mut client, "fixed"), None);
}

/// To a subscriber a row that moves is a delete and an insert.
#[test]
fn publications_of_only_one_of_insert_and_delete_are_in_the_way_of_moves() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 2, index_method => 'none'); CREATE TABLE others (id int PRIMARY KEY)",
        )
        .unwrap();
    for (of, in_the_way) in [
        ("TABLE docs", false),
        ("TABLE docs WITH (publish = 'insert', publish_via_partition_root)", true),
        ("TABLE docs WITH (publish = 'update, delete')", true),
        ("TABLE docs_1 WITH (publish = 'insert, update')", true),
        ("ALL TABLES WITH (publish = 'insert')", true),
        ("TABLES IN SCHEMA public WITH (publish = 'insert')", true),
        ("TABLE others WITH (publish = 'insert')", false),
    ] {
        client.batch_execute(&format!("CREATE PUBLICATION feed FOR {of}")).unwrap();
        let why = noticed(&mut client);
        assert_eq!(why.as_ref().is_some_and(|why| why.contains("feed")), in_the_way, "{of}: {why:?}");
        client.batch_execute("DROP PUBLICATION feed").unwrap();
    }
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

/// What a drain leaves behind: its action is at its end, its lease is not.
#[test]
fn a_table_handed_back_within_a_lease_on_a_weight_fills_every_partition() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 2, index_method => 'none');
             UPDATE ruvector.routing SET (weight, weight_after, lease_until) = (0, 0.5, clock_timestamp() + interval '15 minutes')
              WHERE partition_id = 1",
        )
        .unwrap();
    insert(&mut client, "docs", 100);
    assert_eq!(spread(&mut client, "docs").len(), 1, "it is drained");
    client.batch_execute("SELECT ruvector_collection_release('docs'); TRUNCATE docs").unwrap();
    insert(&mut client, "docs", 2000);
    let spread = spread(&mut client, "docs");
    assert_eq!(spread.keys().copied().collect::<Vec<_>>(), [1, 2], "{spread:?}");
    // A third: half of the other's weight.
    assert!((550..800).contains(&spread[&1]), "{spread:?}");
}

#[test]
fn a_table_handed_back_spreads_new_rows_by_its_weights() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 4, index_method => 'none', cold_when => 'false');
             SELECT ruvector_collection_create('papers', 3, 3, index_method => 'none');
             SELECT ruvector_routing_set('docs', 2, 9), ruvector_routing_set('docs', 3, 0), ruvector_routing_set('docs', 4, 2);
             SELECT ruvector_routing_set('papers', 1, 0), ruvector_routing_set('papers', 3, 0);
             SELECT ruvector_collection_release('docs'), ruvector_collection_release('papers')",
        )
        .unwrap();
    client.batch_execute("DROP EXTENSION ruvector").unwrap();
    insert(&mut client, "docs", 2400);
    let docs = spread(&mut client, "docs");
    assert_eq!(docs.keys().copied().collect::<Vec<_>>(), [1, 2, 4], "{docs:?}");
    // 1 : 9 : 2, and standard deviations of 14, 21 and 18.
    let near = |rows: i64, expected: i64| (rows - expected).abs() < 120;
    assert!(near(docs[&1], 200) && near(docs[&2], 1800) && near(docs[&4], 400), "{docs:?}");
    insert(&mut client, "papers", 50);
    assert_eq!(spread(&mut client, "papers"), BTreeMap::from([(2, 50)]));
}

#[test]
fn statements_that_name_the_tenant_work_on_a_table_handed_back() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 4, tenant => 'tenant', index_method => 'none')",
        )
        .unwrap();
    let write = "INSERT INTO docs (tenant, embedding, partition_id)
                 SELECT 't' || i % 20, '[1,2,3]', ruvector_route_tenant('docs', 't' || i % 20, 4) FROM generate_series(1, 100) i";
    client.batch_execute(write).unwrap();
    let before = spread(&mut client, "docs");
    client.batch_execute("SELECT ruvector_collection_release('docs')").unwrap();
    client.batch_execute(write).unwrap();
    // The weights were equal: each tenant is where it was.
    let after = spread(&mut client, "docs");
    assert!(before.len() > 1, "{before:?}");
    assert_eq!(after, before.iter().map(|(id, rows)| (*id, 2 * rows)).collect::<BTreeMap<_, _>>());
    // Without a number of partitions nobody guesses.
    let (state, _) = refused(
        &mut client,
        "INSERT INTO docs (tenant, embedding, partition_id) VALUES ('new', '[1,2,3]', ruvector_route_tenant('docs', 'new'))",
    );
    assert_eq!(state, "23514");
    // Rows of no tenant are spread.
    let places: Vec<i32> = client
        .query_one(
            "SELECT array_agg(DISTINCT r ORDER BY r)
               FROM (SELECT ruvector_route_tenant('docs', NULL, 4) AS r FROM generate_series(1, 200) OFFSET 0) s",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(places, [1, 2, 3, 4]);
}

#[test]
fn a_table_in_use_is_handed_back_another_time() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "SELECT ruvector_collection_create('docs', 3, 2, index_method => 'none'); SET statement_timeout = '30s'",
        )
        .unwrap();
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; INSERT INTO docs (embedding) VALUES ('[1,2,3]')").unwrap();
    let release = "SELECT ruvector_collection_release('docs')";
    let (state, hint) = refused(&mut client, release);
    assert_eq!(state, "55P03");
    assert!(hint.contains("ruvector_collection_release() again"), "{hint}");
    let known =
        "SELECT (SELECT count(*) FROM ruvector.collections) + (SELECT count(*) FROM ruvector.managed)";
    assert_eq!(client.query_one(known, &[]).unwrap().get::<_, i64>(0), 2, "nothing half-done");
    writer.batch_execute("COMMIT").unwrap();
    client.batch_execute(release).unwrap();
    assert_eq!(client.query_one(known, &[]).unwrap().get::<_, i64>(0), 0);
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
    let commit: String = client
        .query_one(
            "SELECT format('COMMIT PREPARED ''ruvector_%s_%s_%s''', s.system_identifier, d.oid, b.id)
               FROM ruvector.server_batches b, pg_control_system() s, pg_database d WHERE d.datname = current_database()",
            &[],
        )
        .unwrap()
        .get(0);
    for statement in [
        "SELECT ruvector_collection_unregister('docs')",
        "SELECT ruvector_collection_release('docs')",
        "DROP EXTENSION ruvector CASCADE",
        "DROP EXTENSION vector CASCADE",
    ] {
        let (state, hint) = refused(&mut client, statement);
        assert_eq!(state, "55006", "{statement}");
        assert!(hint.contains("ruvector.server_batches") && hint.contains(&commit), "{hint}");
    }
    // What another transaction is about to note would not be seen.
    let (state, _) = refused(
        &mut client,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; DROP EXTENSION ruvector CASCADE",
    );
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(state, "25001");
    // In a copy it is the original's to end them.
    client
        .batch_execute("UPDATE ruvector.collections SET identity = identity || '{\"timeline\": 99}'")
        .unwrap();
    let (_, hint) = refused(&mut client, "DROP EXTENSION ruvector CASCADE");
    assert!(hint.contains("leave the other server alone") && !hint.contains("PREPARED"), "{hint}");
    client.batch_execute("SELECT ruvector_identity_confirm()").unwrap();
    // Under the name that was noted: pg_upgrade gives a server another identifier.
    client.batch_execute("UPDATE ruvector.server_batches SET gid = 'ruvector_77_88_1'").unwrap();
    let (_, hint) = refused(&mut client, "SELECT ruvector_collection_unregister('docs')");
    assert!(hint.contains("COMMIT PREPARED 'ruvector_77_88_1'") && !hint.contains(&commit), "{hint}");
    client
        .batch_execute(
            "UPDATE ruvector.server_batches SET state = 'done'; SELECT ruvector_collection_release('docs')",
        )
        .unwrap();
}
