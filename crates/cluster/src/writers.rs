//! Sessions that write as fast as they are let, and the ledger of what was acknowledged to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::{Cluster, ClusterError};

/// One session's next statement on a table: gets the session and a number that no other statement has, and says how many
/// rows it wrote.
pub type Statement = fn(&mut Client, i64) -> Result<u64, postgres::Error>;

/// Inserts one row into `docs (id, part, embedding)`, part 0 to 7.
///
/// # Errors
/// With the server's reason.
pub fn insert_one(client: &mut Client, number: i64) -> Result<u64, postgres::Error> {
    let id = number as i32;
    client.execute("INSERT INTO docs VALUES ($1, $1 % 8, ARRAY[$1, 2, 3]::real[]::vector)", &[&id])
}

/// Writers until they are stopped.
pub struct Writers {
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicU64>,
    ledger: Arc<Mutex<BTreeMap<i64, u64>>>,
    slowest_us: Arc<AtomicU64>,
    errors: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts so many sessions in the database `app`. Each writes without pause, or so many statements a second all
    /// together where a rate is given.
    ///
    /// # Errors
    /// When they cannot connect.
    pub fn start(
        cluster: &Cluster,
        sessions: u32,
        a_second: Option<f64>,
        first: i64,
        statement: Statement,
    ) -> Result<Self, ClusterError> {
        let mut writers = Self {
            stop: Arc::default(),
            rows: Arc::default(),
            ledger: Arc::default(),
            slowest_us: Arc::default(),
            errors: Arc::default(),
            threads: vec![],
        };
        let next = Arc::new(AtomicI64::new(first));
        for _ in 0..sessions {
            let mut client = cluster.connect("app")?;
            let (stop, rows, ledger) = (writers.stop.clone(), writers.rows.clone(), writers.ledger.clone());
            let (slowest_us, errors, next) =
                (writers.slowest_us.clone(), writers.errors.clone(), next.clone());
            let pause = a_second.map(|rate| Duration::from_secs_f64(f64::from(sessions) / rate));
            writers.threads.push(std::thread::spawn(move || {
                let mut due = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let begun = Instant::now();
                    match statement(&mut client, number) {
                        Ok(written) => {
                            rows.fetch_add(written, Ordering::Relaxed);
                            ledger.lock().expect("no writer panics").insert(number, written);
                        }
                        Err(error) => {
                            let gone = error.is_closed();
                            errors.lock().expect("no writer panics").push(error.to_string());
                            if gone {
                                return;
                            }
                        }
                    }
                    let took_us = begun.elapsed().as_micros() as u64;
                    slowest_us.fetch_max(took_us, Ordering::Relaxed);
                    if let Some(pause) = pause {
                        due = (due + pause).max(Instant::now() - pause);
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                }
            }));
        }
        Ok(writers)
    }

    /// Rows acknowledged so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// The longest statement so far.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_us.load(Ordering::Relaxed))
    }

    /// Errors so far.
    ///
    /// # Panics
    /// When a writer panicked.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().expect("no writer panics").clone()
    }

    /// Stops them and returns the numbers of the statements that were acknowledged, with their rows.
    ///
    /// # Panics
    /// When a writer panicked.
    pub fn stop(mut self) -> BTreeMap<i64, u64> {
        self.halt();
        std::mem::take(&mut *self.ledger.lock().expect("no writer panics"))
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.halt();
    }
}
