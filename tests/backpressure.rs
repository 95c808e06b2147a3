//! `throttle_ingestion` by itself: a replica that replays slowly falls behind under an import and is let catch up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster::faults::partitioned;
use cluster::writers::{Statement, Writers};
use cluster::{Cluster, Signal, wait_for};
use postgres::Client;
use tests::{said, version};

const LONG: Duration = Duration::from_secs(180);

/// Lets the standby's replay run a tenth of the time, until dropped.
struct SlowReplay {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SlowReplay {
    fn start(standby: Arc<Cluster>) -> Self {
        let pid: i32 = standby
            .connect("app")
            .unwrap()
            .query_one("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'", &[])
            .unwrap()
            .get(0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = standby.kill(pid, Signal::CONT);
                std::thread::sleep(Duration::from_millis(20));
                let _ = standby.kill(pid, Signal::STOP);
                std::thread::sleep(Duration::from_millis(180));
            }
            let _ = standby.kill(pid, Signal::CONT);
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
        "INSERT INTO docs (id, part, embedding, payload) SELECT $1, i % 8, ARRAY[$1, i, 3]::real[]::vector, repeat(md5(($1 + i)::text), 32)
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
        .setting("max_wal_size", "4GB")
        .start()
        .unwrap();
    let mut client = cluster.connect("app").unwrap();
    client.batch_execute("CREATE EXTENSION ruvector CASCADE").unwrap();
    partitioned(&mut client, "docs", 8, 100).unwrap();
    client.batch_execute("ALTER TABLE docs ADD payload text").unwrap();
    let standby =
        Arc::new(Cluster::builder(version()).standby_of(&cluster, "follower", true).start().unwrap());
    let _slow = SlowReplay::start(standby);
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "verify_window_seconds": 10, "throttle_lease_seconds": 60,
                   "health_curves": {"lag_bytes": [[10000000, 1], [40000000, 0.7], [200000000, 0.2]], "lag_seconds": [[5, 1], [600, 0.7], [1200, 0]]}}');
               SELECT ruvector_collection_register('docs', 'docs')"#,
        )
        .unwrap();
    let import = Writers::start(&cluster, 4, None, 1_000_000, IMPORT).unwrap();
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
        "{}: lag when planned {} B, when set {worst:.0} B, now {:.0} B; slowest statement {:?}\n{}",
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
