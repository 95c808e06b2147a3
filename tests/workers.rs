//! Launcher and healers: one a database with the extension, back after every death, in nobody's way.

use cluster::{Cluster, Signal, wait_for};
use postgres::Client;
use tests::{PATIENCE, said, start, start_with, version};

fn healer(client: &mut Client, database: &str) -> Option<i32> {
    let query = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'ruvector healer'";
    client.query_opt(query, &[&database]).unwrap().map(|row| row.get(0))
}

#[test]
fn only_databases_with_the_extension_have_a_healer() {
    let (_cluster, mut client) = start();
    let first = wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
    assert_eq!(healer(&mut client, "postgres"), None);

    client.query_one("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_for("another healer", PATIENCE, || healer(&mut client, "app").filter(|pid| *pid != first)).unwrap();

    client.batch_execute("DROP EXTENSION ruvector").unwrap();
    wait_for("the healer's end", PATIENCE, || healer(&mut client, "app").is_none().then_some(())).unwrap();
    client.batch_execute("CREATE EXTENSION ruvector").unwrap();
    wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
}

#[test]
fn a_killed_healer_restarts_the_server_and_is_back() {
    let (cluster, mut client) = start();
    let pid = wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
    cluster.kill(pid, Signal::KILL).unwrap();
    // Connections fail while the server restarts; the new healer is the sign that it has.
    wait_for("another healer", PATIENCE, || {
        let query =
            "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND backend_type = 'ruvector healer'";
        let row = cluster.connect("app").ok()?.query_opt(query, &[]).ok()??;
        Some(row.get::<_, i32>(0)).filter(|new| *new != pid)
    })
    .unwrap();
}

#[test]
fn a_healer_steps_aside_for_commands_that_need_an_empty_database() {
    let (cluster, client) = start();
    drop(client);
    let mut client = cluster.connect("postgres").unwrap();
    wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
    client.batch_execute("CREATE DATABASE copy TEMPLATE app").unwrap();
    wait_for("the copy's healer or the original's", PATIENCE, || healer(&mut client, "app")).unwrap();
    client.batch_execute("ALTER DATABASE app RENAME TO renamed").unwrap();
    wait_for("the healer", PATIENCE, || healer(&mut client, "renamed")).unwrap();
    client.batch_execute("DROP DATABASE renamed").unwrap();
}

/// Others have all of `max_worker_processes` that the server's own two, the healer and the worker in reserve leave.
#[test]
fn where_no_background_worker_is_free_the_one_in_reserve_acts() {
    let (_cluster, mut client) = start_with(|builder| builder.setting("max_worker_processes", 4));
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "observe", "sample_interval_seconds": 1, "verify_window_seconds": 1,
                                                   "min_healing_interval_seconds": 0, "lock_timeout_ms": 60000}');
               CREATE TABLE docs (id int PRIMARY KEY, embedding vector(3));
               INSERT INTO docs SELECT i, ARRAY[sin(i), cos(i), sin(3 * i)]::vector FROM generate_series(1, 2000) i;
               CREATE INDEX docs_i ON docs USING hnsw (embedding vector_l2_ops);
               DELETE FROM docs WHERE id > 500; ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')"#,
        )
        .unwrap();
    wait_for("a weak state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let act = |client: &mut Client, strike: bool| -> (i32, String) {
        let query = "SELECT action_id FROM ruvector_healing_execute('docs', 'compact_indexes')";
        let action: i64 = client.query_one(query, &[]).unwrap().get(0);
        let pid = wait_for("a worker", PATIENCE, || {
            let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector action'";
            client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
        })
        .unwrap_or_else(|error| panic!("{error}: {}", said(client)));
        if strike {
            client.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
        }
        let status =
            client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap();
        (pid, status.get(0))
    };
    // It is used again, also for what it has left itself.
    let (first, status) = act(&mut client, true);
    assert_ne!(status, "executing", "{}", said(&mut client));
    client.batch_execute("SELECT ruvector_healing_reset('docs')").unwrap();
    wait_for("nothing to be left", PATIENCE, || {
        client
            .query_opt("SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.actions WHERE unfinished)", &[])
            .unwrap()
    })
    .unwrap();
    let (second, status) = act(&mut client, false);
    // Where the first was killed before it had begun, another has healed it: a new index is no smaller then.
    assert!(status == "succeeded" || status == "rolled_back", "{status}: {}", said(&mut client));
    assert_ne!(first, second);
    let query = "SELECT EXISTS (SELECT FROM ruvector.actions WHERE status = 'succeeded')";
    assert!(client.query_one(query, &[]).unwrap().get::<_, bool>(0), "{}", said(&mut client));
}

#[test]
fn a_server_without_a_free_background_worker_goes_on_without_a_healer() {
    let builder = Cluster::builder(version()).preload(true).database("app");
    let cluster = builder.setting("max_worker_processes", 3).start().unwrap();
    let mut client = cluster.connect("app").unwrap();
    client.batch_execute("CREATE EXTENSION ruvector CASCADE").unwrap();
    wait_for("the launcher to say so", PATIENCE, || {
        cluster.log().contains("no free background worker").then_some(())
    })
    .unwrap();
    // It once ended the server.
    client.batch_execute("SELECT ruvector._wake(); SELECT pg_sleep(1)").unwrap();
    assert_eq!(healer(&mut client, "app"), None);
    assert!(!cluster.log().contains("terminated by signal"), "{}", cluster.log());
}

/// A table whose owner's predicate keeps whoever of us asks for it for ten minutes.
const ENDLESS: &str = "
    CREATE FUNCTION endless(i int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF current_setting('application_name') LIKE 'ruvector%' THEN PERFORM pg_sleep(600); END IF;
        RETURN true;
    END $$;
    CREATE TABLE trap (id int, embedding vector(3));
    INSERT INTO trap SELECT i, array[i, 1, 2]::real[]::vector FROM generate_series(1, 100) i;
    CREATE INDEX trap_i ON trap USING hnsw (embedding vector_l2_ops) WHERE endless(id);
    ANALYZE trap";

#[test]
fn a_busy_healer_steps_aside_too() {
    let (cluster, mut client) = start();
    client.batch_execute(ENDLESS).unwrap();
    client.batch_execute("SELECT ruvector_collection_register('trap', 'trap')").unwrap();
    wait_for("the healer to be caught", PATIENCE, || {
        let query =
            "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND wait_event = 'PgSleep'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    drop(client);
    cluster.connect("postgres").unwrap().batch_execute("DROP DATABASE app").unwrap();
}

#[test]
fn what_the_healer_changes_is_known_to_autovacuum() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE TABLE docs (embedding vector(3)); CREATE INDEX ON docs USING hnsw (embedding vector_l2_ops);
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"sample_interval_seconds": 1}')"#,
        )
        .unwrap();
    let pid = wait_for("the healer", PATIENCE, || healer(&mut client, "app")).unwrap();
    wait_for("its changes in the statistics", PATIENCE, || {
        let query = "SELECT n_tup_upd FROM pg_stat_all_tables WHERE relid = 'ruvector.integrity'::regclass";
        (client.query_one(query, &[]).unwrap().get::<_, i64>(0) >= 3).then_some(())
    })
    .unwrap();
    assert_eq!(healer(&mut client, "app"), Some(pid), "not only at its end");
}
