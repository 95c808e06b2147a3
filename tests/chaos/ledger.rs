//! Writers that keep a ledger of what the server has acknowledged, and the comparison of a table with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster::Cluster;
use postgres::Client;

/// Rows with these numbers and above are the writers' own.
pub(crate) const FIRST_ID: i64 = 1_000_000;
/// Rest of a writer between two statements.
const PAUSE: Duration = Duration::from_millis(8);
/// Rest before it connects again to a server that is not there.
const RECONNECT: Duration = Duration::from_millis(100);

/// What is known of one row: the content that was acknowledged, or several that it may have.
type Possible = Vec<Option<String>>;

#[derive(Default)]
struct Ledger {
    rows: HashMap<i64, Possible>,
    acknowledged: u64,
    errors: Vec<String>,
    /// Acknowledged before the present phase, and how long each statement of it took.
    before: u64,
    latencies: Vec<Duration>,
}

/// Writers on one table until they are stopped.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    /// The table is being taken away or emptied: errors that say so, and rows that are not met, are expected.
    table_goes: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
    threads: Vec<JoinHandle<()>>,
}

/// The vector that a row is given: so many dimensions, from its number and its version.
fn value(id: i64, version: u32) -> String {
    // Multiplied by primes: noise in the unit cube, as the other rows are.
    let part = |j: i64| (id * 7919 + i64::from(version) * 104_729 + j * 131 * (id % 89 + 1)) % 997;
    let parts: Vec<String> = (0..8).map(|j| format!("{:.3}", part(j) as f64 / 997.0)).collect();
    format!("[{}]", parts.join(","))
}

impl Writers {
    /// Starts so many in the database `app` on `table (id bigint, embedding vector(8))`.
    pub(crate) fn start(cluster: &Arc<Cluster>, table: &str, writers: i64) -> Self {
        Self::start_at(cluster, table, writers, FIRST_ID)
    }

    /// The same with numbers from `first` on.
    pub(crate) fn start_at(cluster: &Arc<Cluster>, table: &str, writers: i64, first: i64) -> Self {
        let this = Self {
            stop: Arc::default(),
            table_goes: Arc::default(),
            ledger: Arc::default(),
            threads: vec![],
        };
        let threads = (0..writers)
            .map(|writer| {
                let (cluster, table) = (cluster.clone(), table.to_owned());
                let (stop, goes, ledger) = (this.stop.clone(), this.table_goes.clone(), this.ledger.clone());
                let first = first + writer * 100_000_000;
                std::thread::spawn(move || write(&cluster, &table, first, &stop, &goes, &ledger))
            })
            .collect();
        Self { threads, ..this }
    }

    /// From now on the table may be gone, or empty.
    pub(crate) fn table_goes(&self) {
        self.table_goes.store(true, Ordering::Relaxed);
    }

    /// Statements that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.ledger.lock().expect("no writer panics").acknowledged
    }

    /// Begins a new phase: how many statements of the last one were acknowledged, and how long each took.
    pub(crate) fn phase(&self) -> (u64, Vec<Duration>) {
        let mut ledger = self.ledger.lock().expect("no writer panics");
        let count = ledger.acknowledged - ledger.before;
        ledger.before = ledger.acknowledged;
        (count, std::mem::take(&mut ledger.latencies))
    }

    /// Stops them; what they wrote, and every error that was not the loss of a connection.
    pub(crate) fn stop(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a writer panicked");
        }
        let ledger = std::mem::take(&mut *self.ledger.lock().expect("no writer is left"));
        Written { rows: ledger.rows, acknowledged: ledger.acknowledged, errors: ledger.errors }
    }
}

fn write(
    cluster: &Cluster,
    table: &str,
    first: i64,
    stop: &AtomicBool,
    goes: &AtomicBool,
    ledger: &Mutex<Ledger>,
) {
    let mut session: Option<Client> = None;
    let mut round = 0i64;
    while !stop.load(Ordering::Relaxed) {
        let Some(client) = session.as_mut() else {
            session = cluster.connect("app").ok();
            if session.is_none() {
                std::thread::sleep(RECONNECT);
            }
            continue;
        };
        let id = first + round / 3;
        let version = (round % 3) as u32;
        let (statement, after) = match version {
            0 => (
                format!("INSERT INTO {table} (id, embedding) VALUES ({id}, '{}')", value(id, 0)),
                Some(value(id, 0)),
            ),
            1 => (
                format!("UPDATE {table} SET embedding = '{}' WHERE id = {id}", value(id, 1)),
                Some(value(id, 1)),
            ),
            _ => (format!("DELETE FROM {table} WHERE id = {id} AND id % 2 = 0"), None),
        };
        let deletes = version == 2;
        let began = Instant::now();
        let done = client.execute(statement.as_str(), &[]);
        let took = began.elapsed();
        let mut ledger = ledger.lock().expect("no writer panics");
        let before = ledger.rows.get(&id).cloned().unwrap_or_else(|| vec![None]);
        let keeps = deletes && id % 2 != 0;
        match done {
            Ok(rows) => {
                // What was not sure before has been found out by how many rows the statement met.
                let expected =
                    if version == 0 { 1 } else { u64::from(!keeps && before.iter().any(Option::is_some)) };
                let sure = before.len() == 1;
                if version > 0 && sure && rows != expected && !goes.load(Ordering::Relaxed) {
                    ledger.errors.push(format!("{rows} rows instead of {expected}: {statement}"));
                }
                let after = match (keeps || (version == 1 && rows == 0), after) {
                    (true, _) => before,
                    (false, after) => vec![after],
                };
                ledger.rows.insert(id, after);
                ledger.acknowledged += 1;
                ledger.latencies.push(took);
            }
            Err(error)
                if error.is_closed() || error.code().is_none_or(|code| code.code().starts_with("57P")) =>
            {
                // It may have been done or not.
                let mut possible = before;
                if !keeps && !possible.contains(&after) {
                    possible.push(after);
                }
                ledger.rows.insert(id, possible);
                session = None;
            }
            // The table was dropped or renamed by the round itself.
            Err(error)
                if goes.load(Ordering::Relaxed)
                    && error.code().is_some_and(|code| code.code() == "42P01") =>
            {
                return;
            }
            Err(error) => {
                ledger.errors.push(format!("{error}: {}", error.as_db_error().map_or("", |e| e.message())))
            }
        }
        drop(ledger);
        round += 1;
        std::thread::sleep(PAUSE);
    }
}

/// What the writers wrote.
pub(crate) struct Written {
    rows: HashMap<i64, Possible>,
    pub(crate) acknowledged: u64,
    pub(crate) errors: Vec<String>,
}

impl Written {
    /// How the table differs from the ledger: nothing lost, nothing doubled, nothing that nobody wrote.
    pub(crate) fn differences(&self, client: &mut Client, table: &str) -> Vec<String> {
        let query = format!("SELECT id, embedding::text FROM {table} WHERE id >= {FIRST_ID}");
        let mut found: HashMap<i64, Vec<String>> = HashMap::new();
        // By the heap alone: an index must not be what tells.
        client.batch_execute("SET enable_indexscan = off; SET enable_bitmapscan = off").expect("settings");
        for row in client.query(query.as_str(), &[]).expect("the table") {
            found.entry(row.get(0)).or_default().push(row.get(1));
        }
        let mut differences = vec![];
        for (id, possible) in &self.rows {
            let there = found.remove(id).unwrap_or_default();
            if there.len() > 1 {
                differences.push(format!("row {id} is there {} times", there.len()));
            }
            let same = |expected: &Option<String>| match (expected, there.first()) {
                (None, None) => true,
                (Some(expected), Some(there)) => numbers(expected) == numbers(there),
                _ => false,
            };
            if !possible.iter().any(same) {
                differences.push(format!("row {id} is {there:?}, acknowledged was {possible:?}"));
            }
        }
        differences.extend(found.keys().map(|id| format!("row {id} was written by nobody")));
        differences
    }
}

/// A vector's text without regard to trailing zeros.
fn numbers(text: &str) -> Vec<f32> {
    text.trim_matches(['[', ']']).split(',').filter_map(|part| part.parse().ok()).collect()
}

/// A hash of all rows that are not the writers'.
pub(crate) fn base_content(client: &mut Client, table: &str) -> String {
    let query = format!(
        "SELECT count(*) || ' ' || coalesce(md5(string_agg(id || embedding::text, ',' ORDER BY id)), '') FROM {table} WHERE id < {FIRST_ID}"
    );
    client.query_one(query.as_str(), &[]).expect("the table").get(0)
}
