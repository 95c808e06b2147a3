//! `throttle_ingestion` by itself: a replica that replays slowly falls behind under an import and is let catch up; a partition
//! that is hot because it is written to cools.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cluster::faults::{Readers, partitioned};
use cluster::writers::{Statement, Writers};
use cluster::{Cluster, Signal, wait_for};
use postgres::Client;
use tests::{said, start_with, version};

const LONG: Duration = Duration::from_secs(180);

/// Lets the standby replay so many bytes a second and no more, until dropped.
struct SlowReplay {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How often its budget is looked at.
const TICK: Duration = Duration::from_millis(20);
/// What it may save up, seconds.
const SAVED_S: f64 = 0.5;

impl SlowReplay {
    fn start(standby: Arc<Cluster>, bytes_a_second: f64) -> Self {
        let mut client = standby.connect("app").unwrap();
        let startup: i32 = client
            .query_one("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'", &[])
            .unwrap()
            .get(0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let replayed = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::float8";
            let mut budget = 0.0;
            let mut last: Option<(Instant, f64)> = None;
            while !stopped.load(Ordering::Relaxed) {
                let Ok(row) = client.query_one(replayed, &[]) else { break };
                let (now, position) = (Instant::now(), row.get::<_, f64>(0));
                if let Some((then, before)) = last {
                    budget += bytes_a_second * (now - then).as_secs_f64() - (position - before);
                    budget = f64::min(budget, bytes_a_second * SAVED_S);
                }
                last = Some((now, position));
                let _ = standby.kill(startup, if budget > 0.0 { Signal::CONT } else { Signal::STOP });
                std::thread::sleep(TICK);
            }
            let _ = standby.kill(startup, Signal::CONT);
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for SlowReplay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lag_bytes(client: &mut Client) -> f64 {
    let query = "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::float8 FROM pg_stat_replication";
    client.query_one(query, &[]).unwrap().get(0)
}

/// Twenty rows a statement, of 1 kB each: an import.
const IMPORT: Statement = |client, number| {
    let id = number as i32;
    client.execute(
        "INSERT INTO docs (id, part, embedding, payload) SELECT $1::int, i % 8, ARRAY[$1::int, i, 3]::real[]::vector, repeat(md5(($1::int + i)::text), 32)
           FROM generate_series(1, 20) i",
        &[&id],
    )
};

#[test]
fn an_import_that_a_replica_cannot_follow_is_slowed_until_it_can() {
    let cluster = Cluster::builder(version())
        .preload(true)
        .database("app")
        .setting("autovacuum", "off")
        // What the first touch of each page costs after a checkpoint is not what the import costs.
        .setting("full_page_writes", "off")
        .setting("max_wal_size", "4GB")
        .start()
        .unwrap();
    let mut client = cluster.connect("app").unwrap();
    client.batch_execute("CREATE EXTENSION ruvector CASCADE").unwrap();
    partitioned(&mut client, "docs", 8, 100).unwrap();
    client.batch_execute("ALTER TABLE docs ADD payload text").unwrap();
    let standby =
        Arc::new(Cluster::builder(version()).standby_of(&cluster, "follower", true).start().unwrap());
    let import = Writers::start(&cluster, 4, Some(40.0), 1_000_000, IMPORT).unwrap();
    // It replays two thirds of what the import writes: half of that it can follow.
    let position = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8";
    let (began, from): (Instant, f64) = (Instant::now(), client.query_one(position, &[]).unwrap().get(0));
    std::thread::sleep(Duration::from_secs(10));
    let to: f64 = client.query_one(position, &[]).unwrap().get(0);
    let wal = (to - from) / began.elapsed().as_secs_f64();
    assert_eq!(import.errors(), Vec::<String>::new());
    eprintln!("the import writes {wal:.0} bytes of WAL a second");
    let mib = wal / 1_048_576.0;
    let _slow = SlowReplay::start(standby, 0.65 * wal);
    client
        .batch_execute(&format!(
            r#"SELECT ruvector_healing_configure('{{"sample_interval_seconds": 1, "verify_window_seconds": 20, "throttle_lease_seconds": 60,
                   "min_healing_interval_seconds": 5, "backoff_base_seconds": 5,
                   "health_curves": {{"lag_bytes": [[{}, 1], [{}, 0.7], [{}, 0.1]], "lag_seconds": [[600, 1], [1200, 0.7], [2400, 0]]}}}}');
               SELECT ruvector_collection_register('docs', 'docs')"#,
            mib * 2.0,
            mib * 5.0,
            mib * 500.0
        ))
        .unwrap();
    let action: i64 = wait_for("the throttle by itself", LONG, || {
        let query = "SELECT id FROM ruvector.actions WHERE strategy = 'throttle_ingestion' AND status IN ('verifying', 'succeeded')";
        client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let worst = lag_bytes(&mut client);
    wait_for("the verdict", LONG, || {
        client
            .query_opt("SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'succeeded'", &[&action])
            .unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let row = client
        .query_one(
            "SELECT strategy_params, problem_class, story, (SELECT a.before #>> '{replicas,known,0,lag_bytes,known}' FROM ruvector.actions a WHERE a.id = action_id)
               FROM ruvector.healing_outcomes WHERE action_id = $1",
            &[&action],
        )
        .unwrap();
    let params: serde_json::Value = row.get(0);
    assert_eq!(row.get::<_, String>(1), "ReplicationLag");
    let pct = params["throttle_pct"].as_i64().unwrap();
    assert!(pct == 50 || pct == 90, "{params}");
    assert_eq!(params["bulk_throttle_pct"].as_i64().unwrap(), if pct == 50 { 60 } else { 95 });
    assert!(params["baseline_rate"]["insert"].as_f64().unwrap() > 0.0, "{params}");
    wait_for("the replica to catch up while the import goes on", LONG, || {
        let now = lag_bytes(&mut client);
        (now < worst / 2.0).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    eprintln!(
        "WAL {wal:.0} B/s; {}: lag when planned {} B, when set {worst:.0} B, now {:.0} B; slowest statement {:?}\n{}",
        params,
        row.get::<_, String>(3),
        lag_bytes(&mut client),
        import.slowest(),
        row.get::<_, String>(2)
    );
    assert_eq!(import.errors(), Vec::<String>::new());
    let written: u64 = import.stop().values().sum();
    let kept: i64 = client.query_one("SELECT count(*) FROM docs WHERE id >= 1000000", &[]).unwrap().get(0);
    assert_eq!(kept, written as i64, "content and ledger");
}

/// The outcome of a throttle that the healer set by itself, once it is verified: its parameters and the problem's class.
fn throttled(client: &mut Client) -> (serde_json::Value, String) {
    let row = wait_for("a verified throttle", LONG, || {
        let query = "SELECT strategy_params, problem_class, story FROM ruvector.healing_outcomes
                      WHERE strategy_name = 'throttle_ingestion' AND verified";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    eprintln!("{}", row.get::<_, String>(2));
    (row.get(0), row.get(1))
}

/// A row into partition 5.
const INTO_ONE: Statement = |client, number| {
    let id = number as i32;
    client.execute(
        "INSERT INTO docs SELECT $1::int, 5, ARRAY[random(), random(), random()]::real[]::vector",
        &[&id],
    )
};

#[test]
fn a_partition_that_is_hot_by_what_is_written_cools() {
    let cluster = Cluster::builder(version())
        .preload(true)
        .database("app")
        .setting("autovacuum", "off")
        .start()
        .unwrap();
    let mut client = cluster.connect("app").unwrap();
    client.batch_execute("CREATE EXTENSION ruvector CASCADE").unwrap();
    partitioned(&mut client, "docs", 8, 2000).unwrap();
    let _readers = Readers::hot(&cluster, "docs", 8, 5, 1).unwrap();
    // One session: a tenth of what it writes can be reached by waits of 200 ms.
    let import = Writers::start(&cluster, 1, Some(60.0), 1_000_000, INTO_ONE).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "verify_window_seconds": 10,
                   "min_healing_interval_seconds": 5, "backoff_base_seconds": 5}');
               SELECT ruvector_collection_register('docs', 'docs')"#,
        )
        .unwrap();
    let (params, class) = throttled(&mut client);
    assert_eq!(class, "HotspotCongestion");
    let ratio = |client: &mut Client, snapshot: &str| -> f64 {
        let query = format!(
            "SELECT (p #>> '{{load,known,blocks}}')::float8 / (SELECT avg((o #>> '{{load,known,blocks}}')::float8)
                      FROM jsonb_array_elements(s -> 'partitions') o WHERE o ->> 'oid' <> p ->> 'oid')
               FROM ({snapshot}) a (s), jsonb_array_elements(s -> 'partitions') p WHERE p ->> 'name' = 'public.docs_5'"
        );
        client.query_one(query.as_str(), &[]).unwrap().get(0)
    };
    let planned =
        "SELECT before FROM ruvector.actions WHERE strategy = 'throttle_ingestion' ORDER BY id LIMIT 1";
    let before = ratio(&mut client, planned);
    let after = ratio(&mut client, "SELECT snapshot FROM ruvector.integrity");
    eprintln!(
        "{params}: docs_5 took {before:.1} times the load of the others, {after:.1} under the throttle"
    );
    assert!(before > 2.0 && after < before / 2.0, "{before} -> {after}");
    assert_eq!(import.errors(), Vec::<String>::new());
    let written: u64 = import.stop().values().sum();
    let kept: i64 = client.query_one("SELECT count(*) FROM docs WHERE id >= 1000000", &[]).unwrap().get(0);
    assert_eq!(kept, written as i64, "content and ledger");
}

/// Bytes of a value whose memory goes back to the system with it: malloc maps what is larger than 32 MiB by itself (mallopt(3)).
const LARGE: usize = 33 << 20;

/// A bulk load of one row, which takes about three times [`LARGE`] bytes of the session until COPY is done with it. In the
/// binary format, in which that takes the least time of the processor.
const LOAD: Statement = |client, number| {
    static VALUE: LazyLock<Vec<u8>> = LazyLock::new(|| vec![b'a'; LARGE]);
    let field = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let mut copy = client.copy_in("COPY docs (id, embedding, body) FROM STDIN (FORMAT binary)")?;
    let parts: [&[u8]; 7] = [
        b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0",
        &3u16.to_be_bytes(),
        &field(&(number as i32).to_be_bytes()),
        // A vector of one dimension, 0.0.
        &field(&[0, 1, 0, 0, 0, 0, 0, 0]),
        &(LARGE as u32).to_be_bytes(),
        &VALUE,
        &(-1i16).to_be_bytes(),
    ];
    parts.iter().try_for_each(|part| copy.write_all(part)).expect("the server reads");
    copy.finish()
};

/// MiB in use at each of the next ten samples.
fn memory(client: &mut Client) -> Vec<f64> {
    let query =
        "SELECT sampled_at::text, (m ->> 'used_pct')::float8 / 100 * (m ->> 'limit_bytes')::float8 / 1048576
                   FROM ruvector.integrity, jsonb_extract_path(snapshot, 'memory', 'known') m";
    let mut last: String = client.query_one(query, &[]).unwrap().get(0);
    let mut next = || {
        wait_for("the next sample", LONG, || {
            let row = client.query_one(query, &[]).unwrap();
            let at: String = row.get(0);
            (at != last).then(|| {
                last = at;
                row.get(1)
            })
        })
        .unwrap()
    };
    (0..10).map(|_| next()).collect()
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

#[test]
fn memory_that_bulk_loads_take_comes_down_under_a_throttle() {
    const LOADERS: u32 = 5;
    const AMPLE_MIB: u32 = 8192;
    // Little shared memory, which only grows.
    let (cluster, mut client) = start_with(|builder| builder.setting("shared_buffers", "16MB"));
    client
        .batch_execute(&format!(
            r#"CREATE TABLE docs (id int, embedding vector(1), body text);
               -- What is kept need not be compressed. Whoever holds the lock sees all loads at their largest.
               CREATE FUNCTION shorten() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
                   PERFORM pg_advisory_xact_lock_shared(1); NEW.body := left(NEW.body, 100); RETURN NEW; END';
               CREATE TRIGGER shorten BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION shorten();
               SELECT ruvector_healing_configure('{{"mode": "observe", "verify_window_seconds": 12, "memory_limit_mib": {AMPLE_MIB}}}');
               SELECT ruvector_collection_register('docs', 'docs')"#
        ))
        .unwrap();
    let loads = Writers::start(&cluster, LOADERS, None, 1, LOAD).unwrap();
    wait_for("the usual rate", LONG, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE (snapshot #>> '{ingestion,baseline,known,bulk_insert}')::float8 > 0";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    // What the loads take is all that there may be.
    let mut before = memory(&mut client);
    let limit_mib = mean(&before);
    let limit = format!(r#"SELECT ruvector_healing_configure('{{"memory_limit_mib": {limit_mib:.0}}}')"#);
    client.batch_execute(&limit).unwrap();
    wait_for("memory to be short", LONG, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%MemoryPressure%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    before.extend(memory(&mut client));
    // One sample says little of loads that come and go: the one that the throttle is set by sees all of them.
    let mut gate = cluster.connect("app").unwrap();
    gate.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)").unwrap();
    wait_for("all loads at their largest", LONG, || {
        let query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted HAVING count(*) = $1";
        client.query_opt(query, &[&i64::from(LOADERS)]).unwrap()
    })
    .unwrap();
    let query = r#"SELECT action_id FROM ruvector_healing_execute('docs', 'throttle_ingestion', '{"throttle_pct": 90, "bulk_throttle_pct": 95}')"#;
    let action: i64 = client.query_one(query, &[]).unwrap().get(0);
    wait_for("the throttle", LONG, || client.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).unwrap())
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    gate.batch_execute("COMMIT").unwrap();
    let status: String = wait_for("the verdict", LONG, || {
        let query = "SELECT status FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(status, "succeeded", "{}", said(&mut client));
    let (after, rows) = (memory(&mut client), loads.rows());
    let row = client
        .query_one(
            "SELECT o.strategy_params, o.problem_class, o.story, t.achieved_rate
               FROM ruvector.healing_outcomes o, ruvector_throttles() t WHERE o.action_id = $1",
            &[&action],
        )
        .unwrap();
    eprintln!(
        "limit {limit_mib:.0} MiB; before {before:.0?} MiB, after {after:.0?} MiB; {rows} rows, slowest {:?}\n{} {}\n{}",
        loads.slowest(),
        row.get::<_, serde_json::Value>(0),
        row.get::<_, serde_json::Value>(3),
        row.get::<_, String>(2)
    );
    assert_eq!(row.get::<_, &str>(1), "MemoryPressure");
    let (before, after) = (mean(&before), mean(&after));
    assert!(after < 0.7 * before, "{before:.0} -> {after:.0} MiB");
    wait_for("the loads to go on", LONG, || (loads.rows() > rows + 3).then_some(())).unwrap();
    assert_eq!(loads.errors(), Vec::<String>::new());
    let written: u64 = loads.stop().values().sum();
    let kept: i64 = client.query_one("SELECT count(*) FROM docs", &[]).unwrap().get(0);
    assert_eq!(kept, written as i64, "content and ledger");
}
