//! Many at once: two hundred sessions that ask for the same thing, five collections that fall ill together.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, load_docs, said};

/// As [`tests::start`], with room for many sessions.
fn start() -> (cluster::Cluster, Client) {
    let cluster = cluster::Cluster::builder(tests::version())
        .preload(true)
        .database("app")
        .setting("max_connections", 250)
        .start()
        .expect("a cluster");
    let mut client = cluster.connect("app").expect("a connection");
    client
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE;
               SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "verify_window_seconds": 1}')"#,
        )
        .expect("the extension");
    (cluster, client)
}

fn sick(client: &mut Client, name: &str) {
    client
        .batch_execute(&format!(
            "CREATE TABLE {name} AS TABLE docs; CREATE INDEX {name}_i ON {name} USING hnsw (embedding vector_cosine_ops);
             DELETE FROM {name} WHERE id >= 200; ANALYZE {name}"
        ))
        .unwrap();
}

#[test]
fn two_hundred_sessions_that_trigger_at_once_get_one_action() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    sick(&mut client, "ill");
    client
        .batch_execute(
            "SELECT ruvector_collection_register('ill', 'ill', settings => '{\"mode\": \"observe\"}')",
        )
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap();
    // The crowd itself is no quiet server.
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "auto", "min_healing_interval_seconds": 3600,
                                                   "quiet_active_sessions_per_core": null}', 'ill')"#,
        )
        .unwrap();
    let cluster = Arc::new(cluster);
    let gate = Arc::new(Barrier::new(200));
    let sessions: Vec<_> = (0..200)
        .map(|_| {
            let (cluster, gate) = (cluster.clone(), gate.clone());
            std::thread::spawn(move || {
                let mut session = cluster.connect("app").unwrap();
                gate.wait();
                session.query_one("SELECT ruvector_healing_trigger('ill')", &[]).unwrap().get::<_, i64>(0)
            })
        })
        .collect();
    let asked: Vec<i64> = sessions.into_iter().map(|session| session.join().unwrap()).collect();
    assert_eq!(asked.len(), 200);
    wait_for("every answer", Duration::from_secs(300), || {
        let query = "SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.actions
                      WHERE status IN ('proposed', 'approved', 'executing', 'verifying'))";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let row = client
        .query_one(
            "SELECT count(*) FILTER (WHERE started_at IS NOT NULL), count(*) FILTER (WHERE status = 'succeeded'),
                    count(*) FILTER (WHERE status IN ('noop', 'refused')), count(*) FROM ruvector.actions",
            &[],
        )
        .unwrap();
    let counts: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    assert_eq!((counts[0], counts[1], counts[1] + counts[2]), (1, 1, counts[3]), "{}", said(&mut client));
}

#[test]
fn five_collections_that_fall_ill_together_are_healed_one_after_the_other() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    let names = ["a", "b", "c", "d", "e"];
    names.iter().for_each(|name| sick(&mut client, name));
    for name in names {
        client.execute("SELECT ruvector_collection_register($1, $1::text::regclass)", &[&name]).unwrap();
    }
    let mut watcher = cluster.connect("app").unwrap();
    let mut most = 0i64;
    wait_for("all to be healed", Duration::from_secs(300), || {
        let query = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ruvector action'),
                            (SELECT count(DISTINCT collection_id) FROM ruvector.healing_outcomes WHERE success)";
        let row = watcher.query_one(query, &[]).unwrap();
        most = most.max(row.get(0));
        (row.get::<_, i64>(1) == 5).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    assert_eq!(most, 1, "never more than one worker at a time");
    let row = client
        .query_one(
            "SELECT bool_or(tstzrange(a.started_at, a.ended_at) && tstzrange(b.started_at, b.ended_at)),
                    (SELECT max(n) FROM (SELECT count(*) AS n FROM ruvector.actions WHERE started_at IS NOT NULL GROUP BY collection_id) x)
               FROM ruvector.actions a, ruvector.actions b
              WHERE a.id < b.id AND a.started_at IS NOT NULL AND b.started_at IS NOT NULL",
            &[],
        )
        .unwrap();
    assert!(!row.get::<_, bool>(0), "{}", said(&mut client));
    assert_eq!(row.get::<_, i64>(1), 1, "one attempt each");
}

#[test]
fn two_healers_that_race_for_one_place_begin_one_after_the_other() {
    let (cluster, mut client) = start();
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other").unwrap();
    other
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE;
               SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "verify_window_seconds": 1}')"#,
        )
        .unwrap();
    for one in [&mut client, &mut other] {
        load_docs(one, 1_000);
        for name in ["one", "two"] {
            sick(one, name);
        }
    }
    let cluster = Arc::new(cluster);
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watching = {
        let (cluster, over) = (Arc::clone(&cluster), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut session = cluster.connect("postgres").unwrap();
            let query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ruvector action'";
            let mut most = 0i64;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                most = most.max(session.query_one(query, &[]).unwrap().get(0));
            }
            most
        })
    };
    for one in [&mut client, &mut other] {
        one.batch_execute(
            "SELECT ruvector_collection_register(n, n::regclass) FROM unnest(ARRAY['one', 'two']) n",
        )
        .unwrap();
    }
    // Whoever starts healers is ended again and again meanwhile: one that is started beside another goes at once.
    for _ in 0..5 {
        let ended =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ruvector launcher'";
        client.query(ended, &[]).unwrap();
        wait_for("the launcher again", PATIENCE, || {
            let query = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector launcher'";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap();
    }
    for one in [&mut client, &mut other] {
        wait_for("both to be healed", std::time::Duration::from_secs(240), || {
            let query = "SELECT 1 FROM ruvector.healing_outcomes WHERE success HAVING count(DISTINCT collection_id) = 2";
            one.query_opt(query, &[]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}: {}", said(one)));
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(watching.join().unwrap(), 1, "at most one action of the server at a time");
    wait_for("one healer in each database", PATIENCE, || {
        let query =
            "SELECT array_agg(n ORDER BY n) = '{1,1}' FROM (SELECT count(*) AS n FROM pg_stat_activity
                      WHERE backend_type = 'ruvector healer' GROUP BY datname) h";
        client.query_one(query, &[]).unwrap().get::<_, Option<bool>>(0).filter(|is| *is)
    })
    .unwrap();
}
