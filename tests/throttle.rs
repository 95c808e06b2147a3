//! Backpressure on writers: who is charged, who waits, what ends it.

use std::io::Write as _;
use std::time::{Duration, Instant};

use cluster::faults::{Running, partitioned};
use cluster::writers::{Writers, insert_one};
use cluster::{Cluster, Signal, wait_for};
use postgres::Client;
use tests::{PATIENCE, refused, said, start, version};

/// `docs`, eight partitions, watched and left alone.
fn watched(client: &mut Client) {
    partitioned(client, "docs", 8, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
}

/// Waits until a usual rate is known while somebody writes: rows a second by kind.
fn usual(client: &mut Client) -> (f64, f64) {
    wait_for("the usual rate", PATIENCE, || {
        let query = "SELECT (snapshot #>> '{ingestion,baseline,known,insert}')::float8,
                            (snapshot #>> '{ingestion,baseline,known,bulk_insert}')::float8
                       FROM ruvector.integrity
                      WHERE snapshot ->> 'collection' = 'docs' AND snapshot #> '{ingestion,baseline,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap().map(|row| (row.get(0), row.get(1)))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)))
}

/// Sets a throttle and waits until it is in force; returns the lease's number.
fn throttle(client: &mut Client, pct: i32, lease: &str) -> i64 {
    let id: i64 = client
        .query_one("SELECT ruvector_throttle_set('docs', $1, lease => $2::text::interval)", &[&pct, &lease])
        .unwrap()
        .get(0);
    wait_for("the throttle", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_throttles() WHERE lease_id = $1", &[&id]).unwrap()
    })
    .unwrap();
    id
}

fn written(client: &mut Client) -> (i64, i64) {
    let query = "SELECT (written ->> 'insert')::bigint, (written ->> 'bulk_insert')::bigint FROM ruvector_throttles()";
    let row = client.query_one(query, &[]).unwrap();
    (row.get(0), row.get(1))
}

/// A writer for as long as it takes to know the usual rate.
fn with_a_usual_rate(cluster: &Cluster, client: &mut Client) -> (f64, f64) {
    let _writers = Writers::start(cluster, 2, Some(500.0), 1_000_000, insert_one).unwrap();
    // It may have been known before, of a table that nobody wrote to.
    wait_for("a usual rate of something", PATIENCE, || Some(usual(client)).filter(|usual| usual.0 > 0.0))
        .unwrap()
}

#[test]
fn every_way_of_writing_is_charged_by_the_rows_that_it_wrote() {
    let (cluster, mut client) = start();
    watched(&mut client);
    client
        .batch_execute(
            "CREATE TABLE keyed (id int PRIMARY KEY, embedding vector(3));
             SELECT ruvector_collection_register('keyed', 'keyed', settings => '{\"mode\": \"observe\"}');
             CREATE FUNCTION add_docs(how_many int) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN FOR i IN 1..how_many LOOP INSERT INTO docs VALUES (i, 1, '[1,2,3]'); END LOOP; END $$;
             CREATE TABLE plain (id int); CREATE TABLE archive (id int);
             CREATE FUNCTION also() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO docs VALUES (NEW.id, 2, '[1,2,3]'); RETURN NULL; END $$;
             CREATE TRIGGER also AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION also();",
        )
        .unwrap();
    with_a_usual_rate(&cluster, &mut client);
    throttle(&mut client, 1, "10 minutes");
    let ways: &[(&str, (i64, i64))] = &[
        ("INSERT INTO docs VALUES (1, 1, '[1,2,3]')", (1, 0)),
        ("INSERT INTO docs SELECT i, i % 8, '[1,2,3]' FROM generate_series(1, 100) i", (100, 0)),
        ("INSERT INTO docs SELECT i, i % 8, '[1,2,3]' FROM generate_series(1, 101) i", (0, 101)),
        ("INSERT INTO docs_3 VALUES (1, 3, '[1,2,3]'), (2, 3, '[1,2,3]')", (2, 0)),
        ("SELECT add_docs(7)", (7, 0)),
        ("DO $$ BEGIN PERFORM add_docs(2); END $$", (2, 0)),
        ("INSERT INTO plain VALUES (1), (2), (3)", (3, 0)),
        ("WITH added AS (INSERT INTO docs VALUES (1, 1, '[1,2,3]'), (2, 2, '[1,2,3]') RETURNING id) SELECT * FROM added", (2, 0)),
        ("WITH added AS (INSERT INTO docs SELECT i, 1, '[1,2,3]' FROM generate_series(1, 150) i RETURNING id) SELECT count(*) FROM added", (0, 150)),
        ("PREPARE one(int) AS INSERT INTO docs VALUES ($1, $1 % 8, '[1,2,3]'); EXECUTE one(3); EXECUTE one(4); DEALLOCATE one", (2, 0)),
        ("MERGE INTO docs d USING (VALUES (-1), (-2)) v (id) ON d.id = v.id
            WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1, '[1,2,3]')", (2, 0)),
        ("MERGE INTO docs d USING (VALUES (-1), (-3)) v (id) ON d.id = v.id WHEN MATCHED THEN UPDATE SET embedding = '[3,2,1]'
            WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1, '[1,2,3]')", (2, 0)),
        ("BEGIN; INSERT INTO docs VALUES (1, 1, '[1,2,3]'); SAVEPOINT a; INSERT INTO docs VALUES (2, 1, '[1,2,3]'); ROLLBACK TO a; ROLLBACK", (2, 0)),
        // More than are charged at a time.
        ("INSERT INTO docs SELECT i, i % 8, '[1,2,3]' FROM generate_series(1, 2050) i", (0, 2050)),
        ("MERGE INTO docs d USING (SELECT -i AS id FROM generate_series(100, 3000) i) v ON d.id = v.id
            WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1, '[1,2,3]')", (0, 2901)),
        ("WITH changed AS (UPDATE docs SET embedding = '[2,2,1]' WHERE id < 50 RETURNING id) INSERT INTO docs VALUES (1, 1, '[1,2,3]')", (1, 0)),
        // What is no ingestion.
        ("WITH gone AS (DELETE FROM docs WHERE id = 6 RETURNING id) INSERT INTO archive SELECT id FROM gone", (0, 0)),
        ("WITH noted AS (INSERT INTO archive VALUES (1) RETURNING id) UPDATE docs SET embedding = '[1,1,1]' WHERE id = 7", (0, 0)),
        ("WITH changed AS (UPDATE docs SET embedding = '[2,2,2]' RETURNING id) SELECT count(*) FROM changed", (0, 0)),
        ("UPDATE docs SET embedding = '[1,1,1]' WHERE id = 5", (0, 0)),
        ("DELETE FROM docs WHERE id = 5", (0, 0)),
        ("INSERT INTO docs SELECT 1, 1, '[1,2,3]' WHERE false", (0, 0)),
        ("EXPLAIN INSERT INTO docs VALUES (1, 1, '[1,2,3]')", (0, 0)),
        ("EXPLAIN (ANALYZE) INSERT INTO docs VALUES (1, 1, '[1,2,3]')", (1, 0)),
        ("SET ruvector.throttle_exempt = on; INSERT INTO docs VALUES (1, 1, '[1,2,3]'); RESET ruvector.throttle_exempt", (0, 0)),
    ];
    let mut before = written(&mut client);
    for (statement, expected) in ways {
        client.batch_execute(statement).unwrap();
        let now = written(&mut client);
        assert_eq!((now.0 - before.0, now.1 - before.1), *expected, "{statement}");
        before = now;
    }
    // Rows of a statement that fails half-way have been written too.
    client
        .batch_execute("INSERT INTO docs SELECT i, 1, CASE WHEN i < 7 THEN '[1,2,3]' ELSE '[1]' END::text::vector FROM generate_series(1, 9) i")
        .unwrap_err();
    let now = written(&mut client);
    assert_eq!((now.0 - before.0, now.1 - before.1), (6, 0), "an ERROR in the seventh row");
    let rows = "9\t1\t[1,2,3]\n".repeat(20);
    let mut copy = client.copy_in("COPY docs FROM STDIN").unwrap();
    copy.write_all(rows.as_bytes()).unwrap();
    copy.finish().unwrap();
    before = now;
    let now = written(&mut client);
    assert_eq!((now.0 - before.0, now.1 - before.1), (0, 20), "COPY");
}

#[test]
fn upserts_are_ingestion_also_for_the_usual_rate() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, embedding vector(3));
             INSERT INTO docs SELECT i, '[1,2,3]' FROM generate_series(0, 99) i;
             SELECT ruvector_collection_register('docs', 'docs', settings => '{\"mode\": \"observe\"}')",
        )
        .unwrap();
    let upsert: cluster::writers::Statement = |client, number| {
        let id = (number % 100) as i32;
        client.execute(
            "INSERT INTO docs VALUES ($1, '[1,2,3]') ON CONFLICT (id) DO UPDATE SET embedding = '[3,2,1]'",
            &[&id],
        )
    };
    {
        let _writers = Writers::start(&cluster, 2, Some(200.0), 0, upsert).unwrap();
        let (insert, bulk) = usual(&mut client);
        assert!(insert > 20.0 && bulk == 0.0, "{insert} {bulk}");
    }
    throttle(&mut client, 1, "10 minutes");
    let before = written(&mut client);
    client
        .batch_execute(
            "INSERT INTO docs VALUES (1, '[1,2,3]'), (1000, '[1,2,3]') ON CONFLICT (id) DO UPDATE SET embedding = '[0,0,1]';
             INSERT INTO docs VALUES (1, '[1,2,3]') ON CONFLICT DO NOTHING;
             UPDATE docs SET embedding = '[1,1,1]'",
        )
        .unwrap();
    assert_eq!(written(&mut client), (before.0 + 2, before.1));
}

#[test]
fn writers_are_held_to_the_target_and_lose_nothing() {
    let (cluster, mut client) = start();
    watched(&mut client);
    let writers = Writers::start(&cluster, 8, None, 1_000_000, insert_one).unwrap();
    let (insert, _) = usual(&mut client);
    throttle(&mut client, 50, "10 minutes");
    if tests::version() == cluster::Version::V18 {
        wait_for("a session that is seen waiting", PATIENCE, || {
            let query = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'RuvectorThrottle' LIMIT 1";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap();
    }
    wait_for("fifteen seconds under the throttle", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_throttles() WHERE over_s > 15", &[]).unwrap()
    })
    .unwrap();
    let row = client
        .query_one(
            "SELECT held, waits, (target_rate ->> 'insert')::float8, (achieved_rate ->> 'insert')::float8,
                    (baseline_rate ->> 'insert')::float8, debt_s, forgiven_s FROM ruvector_throttles()",
            &[],
        )
        .unwrap();
    let (held, waits): (bool, i64) = (row.get(0), row.get(1));
    let (target, achieved, baseline): (f64, f64, f64) = (row.get(2), row.get(3), row.get(4));
    eprintln!("usual {insert:.0}, target {target:.0}, achieved {achieved:.0} rows/s, {waits} waits");
    assert!((target - baseline / 2.0).abs() < 1e-6, "half of {baseline} is {target}");
    assert!(held && achieved <= target * 1.05 && waits > 0, "{achieved} of {target}, {waits} waits");
    assert!(achieved > target * 0.2, "it is no stop: {achieved} of {target}");
    assert_eq!((row.get::<_, f64>(6), writers.errors()), (0.0, vec![]));
    let slowest = writers.slowest();
    let ledger = writers.stop();
    let kept: i64 = client.query_one("SELECT count(*) FROM docs WHERE id >= 1000000", &[]).unwrap().get(0);
    assert_eq!(kept, ledger.len() as i64, "what was acknowledged is there, once");
    eprintln!("slowest statement {slowest:?}");
}

#[test]
fn too_many_writers_for_waiting_are_said_to_be_and_rejected_where_wanted() {
    let (cluster, mut client) = start();
    watched(&mut client);
    {
        let _slow = Writers::start(&cluster, 1, Some(20.0), 1_000_000, insert_one).unwrap();
        usual(&mut client);
    }
    throttle(&mut client, 95, "10 minutes");
    {
        // Eight that wait 200 ms each are forty a second, and one a second is wanted.
        let _many = Writers::start(&cluster, 8, None, 2_000_000, insert_one).unwrap();
        wait_for("the throttle to say that it does not hold", PATIENCE, || {
            client
                .query_opt("SELECT 1 FROM ruvector_throttles() WHERE NOT held AND debt_s > 30", &[])
                .unwrap()
        })
        .unwrap();
    }
    // COPY waits for seconds, but not with locks of its transaction.
    let waited = "SELECT waited_s::float8, debt_s::float8 FROM ruvector_throttles()";
    let mut waited = || -> (f64, f64) {
        let row = client.query_one(waited, &[]).unwrap();
        (row.get(0), row.get(1))
    };
    let bulk = "INSERT INTO docs SELECT i, 1, '[1,2,3]' FROM generate_series(1, 200) i";
    cluster.connect("app").unwrap().batch_execute(bulk).unwrap();
    let before = waited();
    assert!(before.1 > 15.0, "{before:?}");
    let mut copier = cluster.connect("app").unwrap();
    copier.batch_execute("BEGIN; SELECT FROM docs LIMIT 1; COPY docs FROM '/dev/null'; COMMIT").unwrap();
    let after = waited();
    assert!(after.0 > before.0 && after.0 < before.0 + 1.0, "{before:?} {after:?}");
    let reject = r#"SELECT ruvector_healing_configure('{"throttle_reject": true}', 'docs')"#;
    client.batch_execute(reject).unwrap();
    let (state, hint) = wait_for("a rejection", PATIENCE, || {
        let error = client.batch_execute("INSERT INTO docs VALUES (1, 1, '[1,2,3]')").err()?;
        let report = error.as_db_error()?;
        Some((report.code().code().to_owned(), report.hint().unwrap_or_default().to_owned()))
    })
    .unwrap();
    assert_eq!(state, "53400");
    assert!(hint.contains("ruvector_throttles()"), "{hint}");
    let rejected: i64 = client.query_one("SELECT rejected FROM ruvector_throttles()", &[]).unwrap().get(0);
    assert!(rejected > 0);
    // What a transaction has begun it may finish.
    let begun = "BEGIN; CREATE TABLE other (id int); INSERT INTO docs VALUES (2, 1, '[1,2,3]'); COMMIT";
    client.batch_execute(begun).unwrap();
    client.query_one("SELECT count(*) FROM docs", &[]).expect("readers are nobody's concern");
}

#[test]
fn a_role_may_be_exempt_and_nobody_waits_longer_than_a_fifth_of_a_second() {
    let (cluster, mut client) = start();
    watched(&mut client);
    {
        let _slow = Writers::start(&cluster, 1, Some(20.0), 1_000_000, insert_one).unwrap();
        usual(&mut client);
    }
    client
        .batch_execute(
            "CREATE ROLE loader LOGIN; CREATE ROLE web LOGIN; GRANT ALL ON docs TO loader, web;
             ALTER ROLE loader SET ruvector.throttle_exempt = on",
        )
        .unwrap();
    let waits = |client: &mut Client| -> (i64, f64) {
        let row = client.query_one("SELECT waits, waited_s FROM ruvector_throttles()", &[]).unwrap();
        (row.get(0), row.get(1))
    };
    throttle(&mut client, 95, "10 minutes");
    // A minute's worth of debt: whoever waits for all of it would wait for long.
    client.batch_execute("INSERT INTO docs SELECT 1, 1, '[1,2,3]' FROM generate_series(1, 100)").unwrap();
    let before = (waits(&mut client), written(&mut client));
    let add = "INSERT INTO docs VALUES (2, 2, '[1,2,3]')";
    let mut loader = cluster.connect_as("loader", "app").unwrap();
    for _ in 0..20 {
        loader.batch_execute(add).unwrap();
    }
    let now = (waits(&mut client), written(&mut client));
    assert_eq!(now, before, "who is exempt neither waits nor is charged");
    let mut web = cluster.connect_as("web", "app").unwrap();
    let denied = web.batch_execute("SET ruvector.throttle_exempt = on").expect_err("it is not for everyone");
    assert_eq!(denied.code().map(|code| code.code()), Some("42501"));
    for _ in 0..10 {
        web.batch_execute(add).unwrap();
    }
    let after = waits(&mut client);
    assert_eq!(after.0 - before.0.0, 10, "each of them");
    let mean_s = (after.1 - before.0.1) / 10.0;
    // Not less than a fifth of a second; a busy machine makes it more.
    assert!((0.19..1.0).contains(&mean_s), "they waited {mean_s:.3} s each, with a minute's debt");
}

#[test]
fn a_copy_that_is_under_way_is_seen_before_its_end() {
    is_seen_before_its_end(
        "COPY docs FROM PROGRAM 'while :; do yes \"7000000\t1\t[1,2,3]\" | head -n 1000; sleep 0.1; done'",
    );
}

#[test]
fn an_insert_that_is_under_way_is_seen_before_its_end() {
    is_seen_before_its_end(
        "INSERT INTO docs SELECT 7000000, CASE WHEN i % 1000 = 0 AND pg_sleep(0.1) IS NULL THEN 2 ELSE 1 END, '[1,2,3]'
                            FROM generate_series(1, 3000000) i",
    );
}

/// An import that is under way when the throttle comes: nothing can hold it.
fn is_seen_before_its_end(import: &str) {
    let (cluster, mut client) = start();
    watched(&mut client);
    with_a_usual_rate(&cluster, &mut client);
    let size = "SELECT pg_relation_size('docs_1')";
    let before: i64 = client.query_one(size, &[]).unwrap().get(0);
    let import = Running::start(&cluster, import).unwrap();
    wait_for("rows of the import", PATIENCE, || {
        (client.query_one(size, &[]).unwrap().get::<_, i64>(0) > before + 200_000).then_some(())
    })
    .unwrap();
    throttle(&mut client, 50, "10 minutes");
    let said = wait_for("the import to be seen", PATIENCE, || {
        let query = "SELECT why_not, (achieved_rate ->> 'bulk_insert')::float8, (target_rate ->> 'bulk_insert')::float8
                       FROM ruvector_throttles()
                      WHERE NOT held AND over_s > 3
                        AND (achieved_rate ->> 'bulk_insert')::float8 > 2 * (target_rate ->> 'bulk_insert')::float8";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let (why, achieved, target): (&str, f64, f64) = (said.get(0), said.get(1), said.get(2));
    assert!(why.starts_with("bulk_insert goes on at"), "{why}");
    // A thousand rows in a tenth of a second and a bit: not what it wrote before the throttle.
    assert!(achieved < 20_000.0, "{achieved} rows/s where {target} were wanted");
    drop(import);
    let held = "SELECT 1 FROM ruvector_throttles() WHERE held AND why_not IS NULL";
    wait_for("nobody to be above it", PATIENCE, || client.query_opt(held, &[]).unwrap()).unwrap();
}

/// A throttle that is renewed, or made stronger, has not seen what was written under the one before.
#[test]
fn of_a_copy_that_outlasts_its_throttle_the_next_one_has_its_own_share() {
    const ROWS: usize = 20_000;
    let (cluster, mut client) = start();
    watched(&mut client);
    with_a_usual_rate(&cluster, &mut client);
    throttle(&mut client, 1, "10 minutes");
    let mut copier = cluster.connect("app").unwrap();
    let asked = Instant::now();
    let mut copy = copier.copy_in("COPY docs FROM STDIN").unwrap();
    let begun = Instant::now();
    copy.write_all("9\t1\t[1,2,3]\n".repeat(ROWS).as_bytes()).unwrap();
    copy.flush().unwrap();
    wait_for("some seconds under the first", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY docs%' AND query_start < clock_timestamp() - interval '5 seconds'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let renewed = Instant::now();
    throttle(&mut client, 2, "10 minutes");
    let in_force = Instant::now();
    wait_for("some seconds under the second", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_throttles() WHERE over_s > 2", &[]).unwrap()
    })
    .unwrap();
    let ends = Instant::now();
    assert_eq!(copy.finish().unwrap(), ROWS as u64);
    let ended = Instant::now();
    let rows = |under: Duration, of: Duration| ROWS as f64 * under.as_secs_f64() / of.as_secs_f64();
    // However long each of these moments took.
    let least = rows(ends - in_force, ends - asked) - 1.0;
    let most = rows(ended - renewed, ended - begun) + 1.0;
    let (_, bulk) = written(&mut client);
    assert!((least..=most).contains(&(bulk as f64)), "{bulk} rows, {least:.0} to {most:.0}");
}

#[test]
fn who_may_not_write_takes_nobodys_turn() {
    let (cluster, mut client) = start();
    watched(&mut client);
    with_a_usual_rate(&cluster, &mut client);
    client
        .batch_execute(
            r#"CREATE VIEW all_docs AS SELECT * FROM docs;
               CREATE ROLE mallory LOGIN; GRANT SELECT ON docs, all_docs TO mallory;
               CREATE ROLE web LOGIN; GRANT INSERT ON all_docs TO web;
               SELECT ruvector_healing_configure('{"throttle_reject": true}', 'docs')"#,
        )
        .unwrap();
    throttle(&mut client, 95, "10 minutes");
    let insert = |into: &str, rows: u32| {
        format!("INSERT INTO {into} SELECT i, 1, '[1,2,3]' FROM generate_series(1, {rows}) i")
    };
    let statements = [
        insert("docs", 100),
        insert("docs", 1_000_000),
        insert("docs_1", 1_000_000),
        insert("all_docs", 1_000_000),
        format!("WITH added AS ({} RETURNING id) SELECT count(*) FROM added", insert("docs", 1_000_000)),
        "MERGE INTO docs d USING generate_series(1, 100000) v (id) ON d.id = v.id
            WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1, '[1,2,3]')"
            .to_owned(),
        "COPY docs FROM STDIN".to_owned(),
    ];
    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    let mut reader = cluster.connect("app").unwrap();
    mallory.batch_execute("BEGIN").unwrap();
    reader.batch_execute("BEGIN READ ONLY").unwrap();
    for statement in &statements {
        for (session, code) in [(&mut mallory, "42501"), (&mut reader, "25006")] {
            // What such a statement reserved would be given back with the end of its transaction only.
            session.batch_execute("SAVEPOINT a").unwrap();
            assert_eq!(refused(session, statement).0, code, "{statement}");
            session.batch_execute("ROLLBACK TO a").unwrap();
        }
    }
    let row = client.query_one("SELECT debt_s, waits, rejected FROM ruvector_throttles()", &[]).unwrap();
    assert_eq!((row.get::<_, f64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (0.0, 0, 0));
    // Nobody is rejected for it; and who may write through a view is charged.
    let before = written(&mut client);
    client.batch_execute(&insert("docs", 101)).unwrap();
    let mut web = cluster.connect_as("web", "app").unwrap();
    web.batch_execute("INSERT INTO all_docs VALUES (1, 1, '[1,2,3]')").unwrap();
    let after = written(&mut client);
    assert_eq!((after.0 - before.0, after.1 - before.1), (1, 101));
}

/// What a table had counted before it became a partition was not written to the collection.
#[test]
fn a_partition_that_is_attached_brings_no_rows_into_the_usual_rate() {
    let (cluster, mut client) = start();
    watched(&mut client);
    let before = with_a_usual_rate(&cluster, &mut client);
    client
        .batch_execute(
            "CREATE TABLE loaded (LIKE docs); INSERT INTO loaded SELECT i, 99, '[1,2,3]' FROM generate_series(1, 200000) i",
        )
        .unwrap();
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    client.batch_execute("ALTER TABLE docs ATTACH PARTITION loaded FOR VALUES IN (99)").unwrap();
    let samples = |client: &mut Client| -> i64 {
        client.query_one("SELECT max(samples) FROM ruvector_integrity_status()", &[]).unwrap().get(0)
    };
    let first = samples(&mut client);
    wait_for("more samples", PATIENCE, || (samples(&mut client) > first + 3).then_some(())).unwrap();
    let after = usual(&mut client);
    assert!(after.0 > 0.0 && after.0 + after.1 <= before.0 + before.1 + 1.0, "{before:?} {after:?}");
    // What is written to it from then on is.
    let mut session = cluster.connect("app").unwrap();
    session
        .batch_execute("INSERT INTO loaded SELECT i, 99, '[1,2,3]' FROM generate_series(1, 100000) i")
        .unwrap();
    wait_for("rows that are counted", PATIENCE, || {
        Some(usual(&mut client)).filter(|usual| usual.0 + usual.1 > 10.0 * (before.0 + before.1))
    })
    .unwrap();
}

#[test]
fn upserts_are_counted_by_the_partitions_that_they_write_to() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, part int, embedding vector(3), PRIMARY KEY (id, part)) PARTITION BY LIST (part);
             CREATE TABLE docs_0 PARTITION OF docs FOR VALUES IN (0);
             CREATE TABLE docs_1 PARTITION OF docs FOR VALUES IN (1);
             CREATE TABLE docs_2 PARTITION OF docs FOR VALUES IN (2);
             INSERT INTO docs SELECT i, i % 3, '[1,2,3]' FROM generate_series(0, 299) i",
        )
        .unwrap();
    // These are no part of it.
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    let register =
        r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#;
    client.batch_execute(register).unwrap();
    assert_eq!(usual(&mut client), (0.0, 0.0));
    let mut session = cluster.connect("app").unwrap();
    let upsert = |from: i32, to: i32| {
        format!(
            "INSERT INTO docs SELECT i, i % 3, '[1,2,3]' FROM generate_series({from}, {to}) i
             ON CONFLICT (id, part) DO UPDATE SET embedding = '[3,2,1]'"
        )
    };
    // Rows that are there, new ones, both; one at a time as well; by MERGE.
    for (from, to) in [(0, 49), (1000, 1049), (30, 39), (1045, 1054), (7, 7), (2000, 2000)] {
        session.batch_execute(&upsert(from, to)).unwrap();
    }
    let merge = "MERGE INTO docs d USING generate_series(290, 309) v (id) ON d.id = v.id AND d.part = v.id % 3
                  WHEN MATCHED THEN UPDATE SET embedding = '[3,2,1]' WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.id % 3, '[1,2,3]')";
    session.batch_execute(merge).unwrap();
    // The same again when what was counted before has been reported.
    for _ in 0..2 {
        session.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
        session.batch_execute(&upsert(0, 49)).unwrap();
    }
    // What it deletes is no ingestion.
    let merge = "MERGE INTO docs d USING generate_series(1000, 1009) v (id) ON d.id = v.id AND d.part = v.id % 3
                  WHEN MATCHED AND v.id < 1008 THEN DELETE WHEN MATCHED THEN UPDATE SET embedding = '[3,2,1]'";
    session.batch_execute(merge).unwrap();
    // After a statement that was noted, in its transaction.
    let noted =
        "WITH a AS (INSERT INTO docs VALUES (3000, 0, '[1,2,3]') RETURNING id) SELECT count(*) FROM a";
    session.batch_execute(&format!("BEGIN; {noted}; {}; COMMIT", upsert(5, 9))).unwrap();
    // Of bulk all rows are bulk.
    session.batch_execute(&upsert(250, 449)).unwrap();
    drop(session);
    let counted = |client: &mut Client| -> (f64, f64) {
        let query = "SELECT round(((b ->> 'insert')::float8 * (b ->> 'over_s')::float8)::numeric, 1)::float8,
                            round(((b ->> 'bulk_insert')::float8 * (b ->> 'over_s')::float8)::numeric, 1)::float8
                       FROM ruvector.integrity, jsonb_extract_path(snapshot, 'ingestion', 'baseline', 'known') b";
        client.query_one(query, &[]).map(|row| (row.get(0), row.get(1))).unwrap()
    };
    let wanted = (f64::from(50 + 50 + 10 + 10 + 1 + 1 + 20 + 100 + 2 + 6), 200.0);
    wait_for("all rows to be counted, once each", PATIENCE, || {
        (counted(&mut client) == wanted).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?} of {wanted:?}", counted(&mut client)));
}

#[test]
fn a_database_that_is_dropped_leaves_its_room_to_others() {
    let (cluster, mut client) = start();
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other").unwrap();
    // As many collections as there is room for on the server.
    other
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE;
               SELECT ruvector_healing_configure('{"mode": "observe", "sample_interval_seconds": 60}');
               DO $$ BEGIN FOR i IN 1..256 LOOP
                   EXECUTE format('CREATE TABLE t%s (embedding vector(3))', i);
                   PERFORM ruvector_collection_register('t' || i, ('t' || i)::regclass);
               END LOOP; END $$"#,
        )
        .unwrap();
    wait_for("the healer there to have seen them", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity HAVING count(*) = 256";
        other.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    watched(&mut client);
    let baseline = |client: &mut Client| -> Option<String> {
        let query = "SELECT snapshot #>> '{ingestion,baseline,unknown}' FROM ruvector.integrity";
        client.query_opt(query, &[]).unwrap().and_then(|row| row.get(0))
    };
    wait_for("no room", PATIENCE, || {
        baseline(&mut client).filter(|why| why == "its tables are not in shared memory")
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", baseline(&mut client)));
    drop(other);
    client.batch_execute("DROP DATABASE other").unwrap();
    wait_for("room", PATIENCE, || baseline(&mut client).is_none().then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", baseline(&mut client)));
}

#[test]
fn nothing_is_built_while_writers_are_held_back() {
    let (_cluster, mut client) = start();
    tests::load_docs(&mut client, 1_000);
    client
        .batch_execute(
            r#"CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops); DELETE FROM docs WHERE id >= 200; ANALYZE docs;
               SELECT ruvector_healing_configure('{"mode": "observe", "verify_window_seconds": 1}');
               SELECT ruvector_collection_register('docs', 'docs')"#,
        )
        .unwrap();
    wait_for("a plan", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE decision ->> 'reason' = 'observe_mode'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    // That nobody writes is known only after some seconds.
    usual(&mut client);
    let stop = throttle(&mut client, 100, "10 minutes");
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"mode": "auto"}')"#).unwrap();
    wait_for("the reason", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_healing_why_not('docs')
                      WHERE reason = 'not_applicable' AND detail LIKE '%writers are throttled%' LIMIT 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 0);
    client.query_one("SELECT ruvector_lease_release($1)", &[&stop]).unwrap();
    wait_for("the rebuild", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.actions WHERE strategy = 'compact_indexes' AND status = 'succeeded'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
}

#[test]
fn what_a_subscription_brings_is_not_throttled() {
    let cluster = Cluster::builder(version())
        .preload(true)
        .database("app")
        .database("source")
        .setting("wal_level", "logical")
        .start()
        .unwrap();
    let (mut client, mut source) = (cluster.connect("app").unwrap(), cluster.connect("source").unwrap());
    client
        .batch_execute(r#"CREATE EXTENSION ruvector CASCADE; SELECT ruvector_healing_configure('{"sample_interval_seconds": 1}')"#)
        .unwrap();
    watched(&mut client);
    with_a_usual_rate(&cluster, &mut client);
    client
        .batch_execute(r#"SELECT ruvector_healing_configure('{"throttle_reject": true}', 'docs')"#)
        .unwrap();
    throttle(&mut client, 100, "10 minutes");
    wait_for("a rejection", PATIENCE, || {
        client.batch_execute("INSERT INTO docs VALUES (1, 1, '[1,2,3]')").err()
    })
    .unwrap();

    // What arrives writes by itself, and by a trigger, whose statement passes where those of sessions wait.
    source
        .batch_execute(
            "CREATE TABLE arrivals (id int PRIMARY KEY); INSERT INTO arrivals SELECT generate_series(1, 500);
             CREATE PUBLICATION arriving FOR TABLE arrivals",
        )
        .unwrap();
    source.batch_execute("SELECT pg_create_logical_replication_slot('arriving', 'pgoutput')").unwrap();
    let subscribe = format!(
        "CREATE TABLE arrivals (id int PRIMARY KEY);
         CREATE FUNCTION arrived() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO public.docs SELECT 9000000 + NEW.id, 1, '[1,2,3]'::public.vector; RETURN NEW; END$$;
         CREATE TRIGGER arrived AFTER INSERT ON arrivals FOR EACH ROW EXECUTE FUNCTION arrived();
         ALTER TABLE arrivals ENABLE ALWAYS TRIGGER arrived;
         CREATE SUBSCRIPTION arriving CONNECTION 'host={} port={} dbname=source user=postgres' PUBLICATION arriving
             WITH (create_slot = false, slot_name = 'arriving')",
        cluster.socket_directory().display(),
        cluster.port()
    );
    client.batch_execute(&subscribe).unwrap();
    let arrived = |client: &mut Client, wanted: i64| {
        wait_for(format!("{wanted} rows"), PATIENCE, || {
            let query = "SELECT count(*) FROM docs WHERE id > 9000000";
            (client.query_one(query, &[]).unwrap().get::<_, i64>(0) == wanted).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    };
    arrived(&mut client, 500);
    source.batch_execute("INSERT INTO arrivals SELECT generate_series(501, 2500)").unwrap();
    arrived(&mut client, 2_500);
    let error = wait_for("sessions to be stopped all the same", PATIENCE, || {
        client.batch_execute("INSERT INTO docs VALUES (2, 1, '[1,2,3]')").err()
    })
    .unwrap();
    assert_eq!(error.code().map(|code| code.code()), Some("53400"));
}

#[test]
fn a_transaction_that_has_written_does_not_wait_and_a_waiting_one_can_be_cancelled() {
    let (cluster, mut client) = start();
    watched(&mut client);
    {
        let _slow = Writers::start(&cluster, 1, Some(20.0), 1_000_000, insert_one).unwrap();
        usual(&mut client);
    }
    throttle(&mut client, 95, "10 minutes");
    // A hundred seconds' worth of either kind.
    for rows in [100, 101] {
        client
            .batch_execute(&format!(
                "INSERT INTO docs SELECT 1, 1, '[1,2,3]' FROM generate_series(1, {rows})"
            ))
            .unwrap();
    }
    let waits = |client: &mut Client| -> i64 {
        client.query_one("SELECT waits FROM ruvector_throttles()", &[]).unwrap().get(0)
    };
    let before = waits(&mut client);
    client
        .batch_execute(
            "BEGIN; INSERT INTO docs VALUES (1, 1, '[1,2,3]'); INSERT INTO docs VALUES (2, 1, '[1,2,3]');
             INSERT INTO docs VALUES (3, 1, '[1,2,3]'); COMMIT",
        )
        .unwrap();
    assert_eq!(waits(&mut client), before + 1, "the first only: the others hold rows");
    // COPY waits for longer, and for a cancel.
    let copy = Running::start(&cluster, "COPY docs FROM PROGRAM 'printf \"1\\t1\\t[1,2,3]\\n\"'").unwrap();
    wait_for("the COPY to wait without a lock", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_activity a WHERE query LIKE 'COPY docs%' AND wait_event_type = 'Extension'
                        AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.relation = 'docs'::regclass)";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    drop(copy);
    let rows: i64 = client.query_one("SELECT count(*) FROM docs WHERE id = 1", &[]).unwrap().get(0);
    assert_eq!(rows, 8 + 100 + 101 + 1, "the cancelled COPY wrote nothing");
}

fn pid_of(client: &mut Client, kind: &str) -> Option<i32> {
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = $1";
    client.query_opt(query, &[&kind]).unwrap().map(|row| row.get(0))
}

#[test]
fn a_throttle_ends_in_time_though_its_healer_is_not_there_to_end_it() {
    let (cluster, mut client) = start();
    watched(&mut client);
    with_a_usual_rate(&cluster, &mut client);
    throttle(&mut client, 50, "5 seconds");
    let healer = pid_of(&mut client, "ruvector healer").unwrap();
    cluster.kill(healer, Signal::STOP).unwrap();
    wait_for("the throttle's own end", PATIENCE, || {
        let gone = client.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).unwrap().is_none();
        gone.then_some(())
    })
    .unwrap();
    let open: i64 = client.query_one("SELECT count(*) FROM ruvector_leases()", &[]).unwrap().get(0);
    assert_eq!(open, 1, "nobody has ended the lease in the table");
    cluster.kill(healer, Signal::CONT).unwrap();
    wait_for("the lease's end", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.leases WHERE ended_because = 'expired'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

#[test]
fn a_released_throttle_is_over_with_the_commit_though_the_healer_is_busy() {
    let (cluster, mut client) = start();
    watched(&mut client);
    with_a_usual_rate(&cluster, &mut client);
    client
        .batch_execute(r#"SELECT ruvector_healing_configure('{"throttle_reject": true}', 'docs')"#)
        .unwrap();
    let lease = throttle(&mut client, 100, "10 minutes");
    let add = "INSERT INTO docs VALUES (1, 1, '[1,2,3]')";
    // One row owes a minute.
    let rejected = |client: &mut Client| {
        let error = wait_for("a rejection", PATIENCE, || client.batch_execute(add).err()).unwrap();
        assert_eq!(error.code().map(|code| code.code()), Some("53400"));
    };
    rejected(&mut client);
    // The healer hears nothing.
    let healer = pid_of(&mut client, "ruvector healer").unwrap();
    cluster.kill(healer, Signal::STOP).unwrap();
    // Who thinks better of it has ended nothing.
    let release = format!("SELECT ruvector_lease_release({lease})");
    for kept in [
        format!("BEGIN; {release}; ROLLBACK"),
        format!("BEGIN; SAVEPOINT a; {release}; ROLLBACK TO a; COMMIT"),
    ] {
        client.batch_execute(&kept).unwrap();
        rejected(&mut client);
    }
    client.batch_execute(&format!("BEGIN; SAVEPOINT a; {release}; RELEASE a; COMMIT")).unwrap();
    for _ in 0..3 {
        client.batch_execute(add).expect("it is over");
    }
    cluster.kill(healer, Signal::CONT).unwrap();
    let samples = "SELECT max(samples) FROM ruvector_integrity_status()";
    let seen: i64 = client.query_one(samples, &[]).unwrap().get(0);
    wait_for("the healer to have looked", PATIENCE, || {
        client.batch_execute(add).expect("it stays over");
        (client.query_one(samples, &[]).unwrap().get::<_, i64>(0) > seen + 1).then_some(())
    })
    .unwrap();
}

#[test]
fn a_throttle_survives_a_crash_and_ends_when_it_should() {
    let (cluster, mut client) = start();
    watched(&mut client);
    with_a_usual_rate(&cluster, &mut client);
    let id = throttle(&mut client, 50, "30 seconds");
    let ends: std::time::SystemTime =
        client.query_one("SELECT ends_at FROM ruvector_leases()", &[]).unwrap().get(0);
    let healer = pid_of(&mut client, "ruvector healer").unwrap();
    cluster.kill(healer, Signal::KILL).unwrap();
    let mut client = wait_for("the throttle after the crash", PATIENCE, || {
        let mut client = cluster.connect("app").ok()?;
        let query = "SELECT 1 FROM ruvector_throttles() t, pg_stat_activity a
                      WHERE t.lease_id = $1 AND a.backend_type = 'ruvector healer' AND a.pid <> $2";
        client.query_opt(query, &[&id, &healer]).ok()??;
        Some(client)
    })
    .unwrap();
    let row = client
        .query_one(
            "SELECT t.left_s, extract(epoch FROM l.ends_at - clock_timestamp())::float8, l.ends_at
               FROM ruvector_throttles() t JOIN ruvector_leases() l USING (lease_id)",
            &[],
        )
        .unwrap();
    let (left, due): (f64, f64) = (row.get(0), row.get(1));
    assert!((left - due).abs() < 1.0, "the crash has not made it longer: {left} s, and {due} s by the lease");
    assert_eq!(row.get::<_, std::time::SystemTime>(2), ends);
    wait_for("its end", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.leases WHERE ended_because = 'expired'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    assert!(std::time::SystemTime::now() >= ends - Duration::from_secs(1));
    assert!(client.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).unwrap().is_none());
}

#[test]
fn the_throttle_before_comes_back_and_dropping_the_extension_ends_all() {
    let (cluster, mut client) = start();
    watched(&mut client);
    // Of a table that nobody writes a share is refused; a stop is not.
    client
        .batch_execute(
            r#"CREATE TABLE idle (id int, embedding vector(3));
               CREATE TABLE above (id int, embedding vector(3)) PARTITION BY RANGE (id);
               CREATE TABLE part PARTITION OF above FOR VALUES FROM (0) TO (10);
               SELECT ruvector_collection_register(name, name::regclass, settings => '{"mode": "observe"}')
                 FROM unnest('{idle, part}'::text[]) name"#,
        )
        .unwrap();
    // What is written through the table above it would not be held.
    wait_for("a partition to be refused", PATIENCE, || {
        let error = client.batch_execute("SELECT ruvector_throttle_set('part', 100)").unwrap_err();
        error.as_db_error()?.message().contains("it is a partition of public.above").then_some(())
    })
    .unwrap();
    wait_for("a usual rate of nothing", PATIENCE, || {
        let (state, hint) = refused(&mut client, "SELECT ruvector_throttle_set('idle', 20)");
        assert_eq!(state, "55000");
        hint.contains("holds up all writers").then_some(())
    })
    .unwrap();
    let stop: i64 = client.query_one("SELECT ruvector_throttle_set('idle', 100)", &[]).unwrap().get(0);
    client.query_one("SELECT ruvector_lease_release($1)", &[&stop]).unwrap();
    client
        .batch_execute(
            "SELECT ruvector_collection_unregister('idle'), ruvector_collection_unregister('part')",
        )
        .unwrap();
    with_a_usual_rate(&cluster, &mut client);
    let first = throttle(&mut client, 20, "10 minutes");
    let second = throttle(&mut client, 90, "10 minutes");
    let shares = |client: &mut Client| -> Option<(i32, i32)> {
        let query = "SELECT throttle_pct, bulk_throttle_pct FROM ruvector_throttles()";
        client.query_opt(query, &[]).unwrap().map(|row| (row.get(0), row.get(1)))
    };
    assert_eq!(shares(&mut client), Some((90, 95)));
    let before: serde_json::Value = client
        .query_one("SELECT restore FROM ruvector_leases() WHERE lease_id = $1", &[&second])
        .unwrap()
        .get(0);
    assert_eq!(before, serde_json::json!({"throttle_pct": 20, "bulk_throttle_pct": 30}));
    let same: bool = client
        .query_one("SELECT count(DISTINCT effect -> 'baseline') = 1 FROM ruvector_leases()", &[])
        .unwrap()
        .get(0);
    assert!(same, "the second takes its share of the same usual rate, not of the throttled one");
    client.query_one("SELECT ruvector_lease_release($1)", &[&second]).unwrap();
    wait_for("the first again", PATIENCE, || (shares(&mut client) == Some((20, 30))).then_some(())).unwrap();
    client.query_one("SELECT ruvector_lease_release($1)", &[&first]).unwrap();
    wait_for("no throttle", PATIENCE, || shares(&mut client).is_none().then_some(())).unwrap();
    let again: bool = client.query_one("SELECT ruvector_lease_release($1)", &[&first]).unwrap().get(0);
    assert!(!again);
    assert_eq!(refused(&mut client, "SELECT ruvector_lease_release(4711)").0, "42704");
    assert_eq!(refused(&mut client, "SELECT ruvector_throttle_set('docs', 101)").0, "22023");
    assert_eq!(
        refused(&mut client, "SELECT ruvector_throttle_set('docs', 50, lease => '2 days')").0,
        "22023"
    );

    throttle(&mut client, 90, "10 minutes");
    client.batch_execute("DROP EXTENSION ruvector; CREATE EXTENSION ruvector").unwrap();
    wait_for("nothing to be left", PATIENCE, || shares(&mut client).is_none().then_some(())).unwrap();
    client.batch_execute("INSERT INTO docs VALUES (1, 1, '[1,2,3]')").unwrap();
}
