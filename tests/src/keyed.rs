//! Readers that look rows up by their keys, wherever they are: the load follows the rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster::Cluster;

/// Look-ups of one statement; there are ten statements a second.
const LOOKUPS: usize = 1300;
/// Time between two statements.
const ROUND: Duration = Duration::from_millis(100);

/// One session that looks up rows of a managed collection with a key table, until it is dropped.
pub struct KeyedReaders {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KeyedReaders {
    /// Rows that are in partition `hot` of `table` now are asked for `ratio` times as often as those of each other partition.
    ///
    /// # Panics
    /// When it cannot connect, or the table has no key table.
    pub fn start(cluster: &Cluster, table: &str, hot: i32, ratio: usize) -> Self {
        let mut client = cluster.connect("app").expect("a connection");
        client
            .batch_execute("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET jit = off")
            .expect("settings");
        let of = |client: &mut postgres::Client, condition: &str, rows: usize| -> Vec<String> {
            let query = format!(
                "SELECT id::text FROM {table}_key WHERE partition_id {condition} {hot} ORDER BY random() LIMIT {rows}"
            );
            client.query(query.as_str(), &[]).expect("keys").iter().map(|row| row.get(0)).collect()
        };
        let partitions: i64 = client
            .query_one(format!("SELECT count(DISTINCT partition_id) FROM {table}_key").as_str(), &[])
            .expect("partitions")
            .get(0);
        let others = partitions as usize - 1;
        let share = LOOKUPS / (ratio + others);
        let mut keys = of(&mut client, "=", share * ratio);
        keys.extend(of(&mut client, "<>", share * others));
        let kind: String = client
            .query_one(format!("SELECT pg_typeof(id)::text FROM {table}_key LIMIT 1").as_str(), &[])
            .expect("rows")
            .get(0);
        let lookup = format!(
            "SELECT count(d.embedding) FROM {table}_key k JOIN {table} d ON d.id = k.id AND d.partition_id = k.partition_id
              WHERE k.id = ANY (($1::text[])::{kind}[])"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                // The server may be stopped as part of a test.
                if client.query_one(lookup.as_str(), &[&keys]).is_err() {
                    return;
                }
                next += ROUND;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                next = next.max(Instant::now() - ROUND);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl KeyedReaders {
    /// Whether it goes on: it ends at its first error.
    pub fn runs(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for KeyedReaders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
