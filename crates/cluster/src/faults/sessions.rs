//! Sessions that read, hold or run something until they are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::{CancelToken, Client, NoTls};

use crate::{Cluster, ClusterError};

/// Time between two rounds of reading: the load of a partition is counted over a second at least.
const ROUND: Duration = Duration::from_millis(100);

/// Whole scans of a partition a round: with 2,000 rows of [`partitioned`] about 1,500 blocks a second, which is above
/// the load that counts.
const SCANS: u32 = 8;

/// Reads tables, each so many times over in every round of a tenth of a second, until it is dropped.
pub struct Readers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Readers {
    /// Starts one session in the database `app`: for each table whole scans a round.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn start(cluster: &Cluster, tables: Vec<(String, u32)>) -> Result<Self, ClusterError> {
        let mut client = cluster.connect("app")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                for (table, scans) in &tables {
                    for _ in 0..*scans {
                        // The server may be stopped as part of a test.
                        if client.simple_query(&format!("SELECT count(embedding) FROM {table}")).is_err() {
                            return;
                        }
                    }
                }
                next += ROUND;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                next = next.max(Instant::now() - ROUND);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// One of eight partitions of [`partitioned`] is read so many times as much as the others.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn hot(
        cluster: &Cluster,
        name: &str,
        partitions: u32,
        hot: u32,
        ratio: u32,
    ) -> Result<Self, ClusterError> {
        let scans = |part| SCANS * if part == hot { ratio } else { 1 };
        let tables = (0..partitions).map(|part| (format!("{name}_{part}"), scans(part)));
        Self::start(cluster, tables.collect())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A session in the database `app` with an open transaction that did one thing and then nothing more.
pub struct OpenTransaction(#[allow(dead_code, reason = "held until it is dropped")] Client);

impl OpenTransaction {
    /// Opens it under this application name: a lock, a row written, or only a snapshot held.
    ///
    /// # Errors
    /// With the server's reason.
    pub fn after(cluster: &Cluster, application: &str, statement: &str) -> Result<Self, ClusterError> {
        let mut client = cluster.connect("app")?;
        let script = format!(
            "SET application_name = '{application}'; BEGIN ISOLATION LEVEL REPEATABLE READ; {statement}"
        );
        client
            .batch_execute(&script)
            .map_err(ClusterError::sql(format!("cannot open a transaction: {statement}")))?;
        Ok(Self(client))
    }
}

/// A statement under way in a session of its own, cancelled when dropped.
pub struct Running {
    cancel: CancelToken,
    thread: Option<JoinHandle<Result<(), postgres::Error>>>,
}

impl Running {
    /// Begins it in the database `app`.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn start(cluster: &Cluster, statement: &str) -> Result<Self, ClusterError> {
        Self::after(cluster, "", statement)
    }

    /// The same after some other statements, for instance settings.
    ///
    /// # Errors
    /// When it cannot connect, or with the server's reason for those.
    pub fn after(cluster: &Cluster, before: &str, statement: &str) -> Result<Self, ClusterError> {
        let mut client = cluster.connect("app")?;
        super::sql(&mut client, before)?;
        let cancel = client.cancel_token();
        let statement = statement.to_owned();
        let thread = std::thread::spawn(move || client.batch_execute(&statement));
        Ok(Self { cancel, thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // A cancel that comes before the statement has begun is lost.
        while !thread.is_finished() {
            let _ = self.cancel.cancel_query(NoTls);
            std::thread::sleep(ROUND);
        }
        let _ = thread.join();
    }
}

/// Commits ten rows a second, until it is dropped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts one session that writes to a table of its own, `<name>_writes`.
    ///
    /// # Errors
    /// When it cannot connect or create the table.
    pub fn start(cluster: &Cluster, name: &str) -> Result<Self, ClusterError> {
        let mut client = cluster.connect("app")?;
        super::sql(&mut client, &format!("CREATE TABLE IF NOT EXISTS {name}_writes (at timestamptz)"))?;
        let insert = format!("INSERT INTO {name}_writes VALUES (now())");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) && client.batch_execute(&insert).is_ok() {
                std::thread::sleep(ROUND);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
