//! Partitions on other servers: what is seen of them, and that a server which is gone or hangs stops nothing here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cluster::{Signal, StopMode, wait_for};
use postgres::Client;
use tests::shards::Two;
use tests::{PATIENCE, refused, said};

/// A server must not have answered for half a minute to count as critical; a restart takes a while.
const GONE: Duration = Duration::from_secs(120);

struct Seen {
    answers: Option<bool>,
    error: Option<String>,
    connections_pct: Option<f64>,
    live_rows: Option<f64>,
    bytes: Option<i64>,
    blocks: Option<f64>,
}

fn seen(client: &mut Client) -> Option<Seen> {
    let query =
        "SELECT answers, error, connections_pct, live_rows, bytes, blocks_per_second FROM ruvector_servers()
                  WHERE collection = 'docs' AND server = 'east' AND partitions = '{public.docs_3}'";
    client.query_opt(query, &[]).unwrap().map(|row| Seen {
        answers: row.get(0),
        error: row.get(1),
        connections_pct: row.get(2),
        live_rows: row.get(3),
        bytes: row.get(4),
        blocks: row.get(5),
    })
}

fn lambda(client: &mut Client) -> (Option<f64>, Option<f64>, String, i64) {
    let query = "SELECT lambda_cut, lambda_low, explanation, samples FROM ruvector_integrity_status()";
    let row = client.query_one(query, &[]).unwrap();
    (row.get(0), row.get(1), row.get::<_, Option<String>>(2).unwrap_or_default(), row.get(3))
}

/// The witness as (name of the weak end, cause).
fn witness(client: &mut Client) -> Vec<(String, Option<String>)> {
    let query = "SELECT to_node, cause FROM ruvector_integrity_witness('docs')";
    client.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn insert(client: &mut Client, rows: u32) {
    let statement = format!(
        "INSERT INTO docs (embedding, metadata) SELECT ARRAY[i, 1, 2]::vector, '{{}}' FROM generate_series(1, {rows}) i"
    );
    client.batch_execute(&statement).unwrap();
}

#[test]
fn a_partition_on_another_server_is_attached_written_searched_and_measured() {
    let mut two = Two::start(&[]);
    insert(&mut two.client, 50);
    two.attach();
    insert(&mut two.client, 600);
    let spread: BTreeMap<i32, i64> = two
        .client
        .query("SELECT partition_id, count(*) FROM docs GROUP BY 1", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(spread.values().sum::<i64>(), 650);
    assert!(spread[&3] > 100, "{spread:?}");
    let there: i64 = two.other.query_one("SELECT count(*) FROM docs_east", &[]).unwrap().get(0);
    assert_eq!(there, spread[&3]);
    let leaf_keys: i64 = two
        .client
        .query_one("SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conrelid::regclass::text IN ('docs_1', 'docs_2')", &[])
        .unwrap()
        .get(0);
    assert_eq!(leaf_keys, 2, "each partition here has the key that the root had");
    let reader = two.there.uri("app");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let load = std::thread::spawn(move || {
        let mut client = Client::connect(&reader, postgres::NoTls).unwrap();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            client.query("SELECT count(*) FROM docs_east", &[]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let found = wait_for("figures of the other server", PATIENCE, || {
        seen(&mut two.client).filter(|seen| seen.blocks.is_some_and(|blocks| blocks > 1.0))
    });
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    load.join().unwrap();
    let found = found.unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    assert_eq!((found.answers, found.error), (Some(true), None));
    assert_eq!(found.live_rows, Some(there as f64));
    let bytes: i64 = two.other.query_one("SELECT pg_relation_size('docs_east')", &[]).unwrap().get(0);
    assert_eq!(found.bytes, Some(bytes));
    assert!((0.5..50.0).contains(&found.connections_pct.unwrap()), "{:?}", found.connections_pct);
    let (lambda, ..) = lambda(&mut two.client);
    assert_eq!(lambda, Some(1.0), "{}", said(&mut two.client));
    // What a session sees for itself is what the healer last saw.
    let sampled: String = two
        .client
        .query_one("SELECT snapshot -> 'servers' ->> 1 FROM ruvector_integrity_sample('docs')", &[])
        .unwrap()
        .get(0);
    assert!(sampled.contains(r#""name": "east""#) && !sampled.contains("not looked at"), "{sampled}");
    assert!(!two.here.log().contains("sesame") && !two.there.log().contains("sesame"));
}

#[test]
fn a_load_there_that_maintenance_hides_for_more_than_a_minute_is_unknown() {
    let mut two = Two::start(&[]);
    two.attach();
    insert(&mut two.client, 300);
    let load = |client: &mut Client, what: &str| -> Option<String> {
        let query = "SELECT p -> 'load' ->> $1 FROM ruvector.integrity i, jsonb_array_elements(i.snapshot -> 'partitions') p
                      WHERE p ->> 'server' = 'east'";
        client.query_opt(query, &[&what]).unwrap()?.get(0)
    };
    wait_for("a load there", PATIENCE, || load(&mut two.client, "known"))
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    // A concurrent build that waits for an old transaction, as it may for days.
    let mut holder = two.there.connect("app").unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE docs_east IN ROW EXCLUSIVE MODE").unwrap();
    let mut builder = two.there.connect("app").unwrap();
    let build = std::thread::spawn(move || {
        builder.batch_execute("CREATE INDEX CONCURRENTLY docs_east_at ON docs_east (created_at)").unwrap();
    });
    wait_for("the build", PATIENCE, || {
        two.other.query_opt("SELECT 1 FROM pg_stat_progress_create_index", &[]).unwrap()
    })
    .unwrap();
    let began = Instant::now();
    let why = wait_for("a load that is unknown", GONE, || load(&mut two.client, "unknown"))
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    assert!(why.contains("maintenance has been at work on it for more than a minute"), "{why}");
    assert!(
        began.elapsed() > Duration::from_secs(45),
        "until then it counts as it was: {:?}",
        began.elapsed()
    );
    holder.batch_execute("COMMIT").unwrap();
    build.join().unwrap();
    wait_for("a load that is measured again", PATIENCE, || load(&mut two.client, "known"))
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
}

#[test]
fn a_server_that_is_gone_is_named_and_comes_back() {
    let mut two = Two::start(&[]);
    two.attach();
    insert(&mut two.client, 100);
    wait_for("figures of the other server", PATIENCE, || {
        seen(&mut two.client).filter(|seen| seen.live_rows.is_some())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    two.there.stop(StopMode::Immediate).unwrap();
    wait_for("a lambda that says so", GONE, || (lambda(&mut two.client).0 < Some(0.4)).then_some(()))
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    assert_eq!(
        witness(&mut two.client),
        [("public.docs_3 on server east".to_owned(), Some("unreachable".to_owned()))]
    );
    let (_, low, explanation, _) = lambda(&mut two.client);
    assert!(explanation.contains("public.docs_3 on server east") && low == Some(0.0), "{explanation}");
    let gone = seen(&mut two.client).unwrap();
    assert_eq!((gone.answers, gone.live_rows, gone.connections_pct), (Some(false), None, None));
    let error = gone.error.unwrap();
    assert!(error.contains("connection") && !error.contains("sesame"), "{error}");
    let why: String = two.client.query_one("SELECT ruvector_integrity_explain('docs')", &[]).unwrap().get(0);
    assert!(why.contains("unreachable_seconds"), "{why}");
    two.there.restart().unwrap();
    wait_for("the server again", GONE, || {
        (lambda(&mut two.client).0 == Some(1.0)
            && seen(&mut two.client).is_some_and(|seen| seen.live_rows.is_some()))
        .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    assert!(!two.here.log().contains("sesame"));
}

#[test]
fn a_server_that_hangs_stops_no_sample_and_no_end_of_the_healer() {
    let mut two = Two::start(&[]);
    two.attach();
    wait_for("figures of the other server", PATIENCE, || {
        seen(&mut two.client).filter(|seen| seen.live_rows.is_some())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    let processes: Vec<i32> = two.there.processes().iter().map(|process| process.pid).collect();
    for pid in &processes {
        // What has just ended is none to be stopped.
        let _ = two.there.kill(*pid, Signal::STOP);
    }
    wait_for("a server that does not answer", GONE, || {
        seen(&mut two.client).filter(|seen| seen.answers == Some(false))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    let before = lambda(&mut two.client).3;
    wait_for("further samples", PATIENCE, || (lambda(&mut two.client).3 > before + 5).then_some(())).unwrap();
    let error = seen(&mut two.client).unwrap().error.unwrap();
    assert!(error.contains("in time"), "{error}");
    // The healer ends at once although it may be waiting for that server.
    let healers = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector healer'";
    let pid: i32 = two.client.query_one(healers, &[]).unwrap().get(0);
    let began = Instant::now();
    two.client.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    wait_for("its end", PATIENCE, || {
        let row = two.client.query_opt("SELECT 1 FROM pg_stat_activity WHERE pid = $1", &[&pid]).unwrap();
        row.is_none().then_some(())
    })
    .unwrap();
    eprintln!("the healer ended {:?} after it was told to", began.elapsed());
    for pid in &processes {
        let _ = two.there.kill(*pid, Signal::CONT);
    }
    wait_for("the server again", GONE, || (lambda(&mut two.client).0 == Some(1.0)).then_some(()))
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
}

#[test]
fn what_may_not_be_read_there_is_unknown_with_the_reason() {
    let mut two = Two::start(&[]);
    two.other
        .batch_execute("CREATE ROLE shard LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON docs_east TO shard")
        .unwrap();
    two.client
        .batch_execute("ALTER USER MAPPING FOR postgres SERVER east OPTIONS (SET user 'shard')")
        .unwrap();
    two.attach();
    insert(&mut two.client, 100);
    let found = wait_for("what anybody may read", PATIENCE, || {
        seen(&mut two.client).filter(|seen| seen.live_rows > Some(0.0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    assert_eq!((found.answers, found.connections_pct), (Some(true), None));
    let (lambda_cut, low, explanation, _) = lambda(&mut two.client);
    assert_eq!((lambda_cut, low), (Some(1.0), Some(0.0)));
    assert!(explanation.contains("GRANT pg_read_all_stats"), "{explanation}");
    two.other.batch_execute("GRANT pg_read_all_stats TO shard").unwrap();
    wait_for("what was granted", PATIENCE, || {
        seen(&mut two.client).filter(|seen| seen.connections_pct.is_some())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    two.other.batch_execute("REVOKE SELECT ON docs_east FROM shard").unwrap();
    let found = wait_for("what was revoked", PATIENCE, || {
        seen(&mut two.client).filter(|seen| seen.live_rows.is_none())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    assert!(found.error.unwrap().contains("may not be read by the user of the mapping"));
}

#[test]
fn an_owner_who_is_no_superuser_connects_with_a_password_or_not_at_all() {
    let mut two = Two::start(&[]);
    two.attach();
    two.client
        .batch_execute(
            "CREATE ROLE keeper LOGIN; ALTER TABLE docs OWNER TO keeper;
             ALTER TABLE docs_1 OWNER TO keeper; ALTER TABLE docs_2 OWNER TO keeper; ALTER FOREIGN TABLE docs_3 OWNER TO keeper",
        )
        .unwrap();
    let mut error = |statement: &str, expected: &str| {
        two.client.batch_execute(statement).unwrap();
        wait_for(expected, PATIENCE, || {
            seen(&mut two.client).and_then(|seen| seen.error).filter(|error| error.contains(expected))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    };
    error("SELECT 1", "no user mapping");
    error("CREATE USER MAPPING FOR keeper SERVER east OPTIONS (user 'postgres')", "has no password");
    // It lets everybody in (trust): this server's own account would do that, not the owner.
    error(
        "ALTER USER MAPPING FOR keeper SERVER east OPTIONS (ADD password 'sesame')",
        "asked for no password",
    );
    two.client
        .batch_execute("ALTER USER MAPPING FOR keeper SERVER east OPTIONS (ADD password_required 'false')")
        .unwrap();
    wait_for("a connection that a superuser allows", PATIENCE, || {
        seen(&mut two.client).filter(|seen| seen.live_rows.is_some())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut two.client)));
    assert!(!two.here.log().contains("sesame"));
}

#[test]
fn what_cannot_be_attached_is_refused_with_a_hint() {
    let mut two = Two::start(&[]);
    let call = |arguments: &str| format!("SELECT ruvector_collection_attach({arguments})");
    for (arguments, state) in [
        ("'docs', 'nowhere', 'docs_east'", "42704"),
        ("'docs', 'east', 'docs_east', weight => -1", "22023"),
        ("'pg_class', 'east', 'docs_east'", "42809"),
    ] {
        let (found, hint) = refused(&mut two.client, &call(arguments));
        assert_eq!(found, state, "{arguments}");
        assert!(!hint.is_empty(), "{arguments}");
    }
    two.client
        .batch_execute("CREATE TABLE notes (id bigint, place integer, FOREIGN KEY (id, place) REFERENCES docs (id, partition_id))")
        .unwrap();
    let (found, hint) = refused(&mut two.client, &call("'docs', 'east', 'docs_east'"));
    assert!(found == "55000" && hint.contains("no unique index"), "{found} {hint}");
    let keys: i64 = two
        .client
        .query_one(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'docs'::regclass AND contype = 'p'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(keys, 1, "nothing half-done");
    // Its key table's triggers see all rows of a statement, which PostgreSQL cannot show them of a foreign partition.
    two.client
        .batch_execute(
            "SELECT ruvector_collection_create('keyed', 3, 2, index_method => 'none', key_table => true)",
        )
        .unwrap();
    let (state, hint) = refused(
        &mut two.client,
        "SELECT ruvector_collection_attach('keyed', 'east', 'docs_east', weight => 1)",
    );
    assert_eq!(state, "55000");
    assert!(hint.contains("key table"), "{hint}");
}

#[test]
fn a_collection_in_use_gets_its_partition_another_time() {
    let mut two = Two::start(&[]);
    let mut writer = two.here.connect("app").unwrap();
    writer.batch_execute("BEGIN; INSERT INTO docs (embedding) VALUES ('[1,2,3]')").unwrap();
    two.client.batch_execute("SET statement_timeout = '30s'").unwrap();
    let (state, hint) =
        refused(&mut two.client, "SELECT ruvector_collection_attach('docs', 'east', 'docs_east')");
    assert_eq!(state, "55P03");
    assert!(hint.contains("ruvector_collection_attach() again"), "{hint}");
    let known = "SELECT concat_ws(' ', (SELECT count(*) FROM ruvector.routing), (SELECT count(*) FROM pg_foreign_table),
                        (SELECT conname FROM pg_constraint WHERE conrelid = 'docs'::regclass AND contype = 'p'))";
    let after: String = two.client.query_one(known, &[]).unwrap().get(0);
    assert_eq!(after, "2 0 docs_pkey", "nothing half-done");
    writer.batch_execute("COMMIT").unwrap();
    two.client.batch_execute("RESET statement_timeout").unwrap();
    two.attach();
}

#[test]
fn what_the_other_server_does_not_have_is_not_attached() {
    let mut two = Two::start(&[]);
    two.other
        .batch_execute(
            "CREATE TABLE narrow (id bigint PRIMARY KEY, embedding vector(3), partition_id integer)",
        )
        .unwrap();
    let known = "SELECT concat_ws(' ', (SELECT count(*) FROM ruvector.routing), (SELECT count(*) FROM pg_foreign_table),
                        (SELECT conname FROM pg_constraint WHERE conrelid = 'docs'::regclass AND contype = 'p'))";
    let before: String = two.client.query_one(known, &[]).unwrap().get(0);
    for (table, state) in [("docs_esat", "42P01"), ("narrow", "42703")] {
        let call = format!("SELECT ruvector_collection_attach('docs', 'east', '{table}', weight => 1)");
        let (found, hint) = refused(&mut two.client, &call);
        assert_eq!(found, state, "{table}");
        assert!(hint.contains("id, embedding, created_at, metadata, partition_id"), "{hint}");
    }
    // It is asked with the mapping of the collection's owner, as the healer asks it.
    two.client
        .batch_execute("CREATE ROLE keeper LOGIN; ALTER TABLE docs OWNER TO keeper; ALTER TABLE docs_1 OWNER TO keeper; ALTER TABLE docs_2 OWNER TO keeper")
        .unwrap();
    let call = "SELECT ruvector_collection_attach('docs', 'east', 'docs_east')";
    assert_eq!(refused(&mut two.client, call).0, "42704");
    let after: String = two.client.query_one(known, &[]).unwrap().get(0);
    assert_eq!(before, after, "nothing half-done");
    two.client
        .batch_execute("CREATE USER MAPPING FOR keeper SERVER east OPTIONS (user 'postgres', password 'sesame', password_required 'false')")
        .unwrap();
    two.client.batch_execute(call).unwrap();
    assert!(!two.here.log().contains("sesame"));
}
