//! Writers that keep a ledger of every acknowledged write, to hold a table's content against.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster::Cluster;
use postgres::Client;
use postgres::error::SqlState;

/// How a writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Each statement by itself, through the root.
    ReadCommitted,
    /// Three statements in a REPEATABLE READ transaction, through the root.
    RepeatableRead,
}

/// One write that may or may not have happened: the connection was lost over it.
type Doubt = Option<(i64, Option<i64>)>;

/// What a writer's rows must be: id and version.
#[derive(Default)]
struct Book {
    rows: BTreeMap<i64, i64>,
    doubt: Doubt,
}

/// What writers met with.
#[derive(Debug, Clone, Default)]
pub struct Met {
    /// Acknowledged statements.
    pub writes: u64,
    /// Errors by SQLSTATE, lost connections apart.
    pub errors: BTreeMap<String, u64>,
    /// Statements that changed no row although the ledger has it.
    pub missed: u64,
    /// Connections lost.
    pub lost: u64,
    /// Duration of each statement, milliseconds.
    pub took_ms: Vec<f64>,
    /// Time over which they wrote.
    pub seconds: f64,
}

impl Met {
    /// The 95th percentile of how long a statement took, milliseconds.
    pub fn p95_ms(&self) -> f64 {
        let mut took = self.took_ms.clone();
        took.sort_by(f64::total_cmp);
        took.get(took.len() * 95 / 100).copied().unwrap_or(f64::NAN)
    }
}

/// Writers at work on `table (id, embedding, metadata)`.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Book, Met)>>,
    began: Instant,
}

impl Writers {
    /// Starts so many writers in the database `app`, each with ids of its own from `first_id`, resting so long between two
    /// statements. They connect again when the server comes back.
    ///
    /// # Panics
    /// When the first connection fails.
    pub fn start(
        cluster: &Cluster,
        table: &str,
        first_id: i64,
        writers: u32,
        pause: Duration,
        manner: Manner,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for writer in 0..writers {
            let uri = cluster.uri("app");
            let client = connect(&uri).expect("a connection");
            let (stop, table) = (stop.clone(), table.to_owned());
            let ids = first_id + i64::from(writer) * 1_000_000;
            threads.push(std::thread::spawn(move || write(&uri, client, &table, ids, pause, manner, &stop)));
        }
        Self { stop, threads, began: Instant::now() }
    }

    /// Stops them and holds the table's content against the ledgers.
    ///
    /// # Panics
    /// With the first difference.
    pub fn stop_and_compare(self, client: &mut Client, table: &str) -> Met {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Met { seconds: self.began.elapsed().as_secs_f64(), ..Met::default() };
        for thread in self.threads {
            let (book, met) = thread.join().expect("a writer panicked");
            compare(client, table, &book);
            all.writes += met.writes;
            all.missed += met.missed;
            all.lost += met.lost;
            all.took_ms.extend(met.took_ms);
            for (state, count) in met.errors {
                *all.errors.entry(state).or_default() += count;
            }
        }
        all
    }
}

fn connect(uri: &str) -> Option<Client> {
    Client::connect(uri, postgres::NoTls).ok()
}

fn compare(client: &mut Client, table: &str, book: &Book) {
    let (Some(first), Some(last)) = (book.rows.keys().next(), book.rows.keys().next_back()) else { return };
    let (first, last) = (first / 1_000_000 * 1_000_000, (last / 1_000_000 + 1) * 1_000_000 - 1);
    let query = format!("SELECT id, (metadata ->> 'v')::bigint FROM {table} WHERE id BETWEEN $1 AND $2");
    let mut found: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in client.query(query.as_str(), &[&first, &last]).expect("the table") {
        found.entry(row.get(0)).or_default().push(row.get(1));
    }
    for (id, versions) in &found {
        assert_eq!(versions.len(), 1, "row {id} is there {} times", versions.len());
    }
    let mut expected = book.rows.clone();
    if let Some((id, version)) = book.doubt {
        // Either is right: take what is there.
        let there = found.get(&id).map(|versions| versions[0]);
        assert!(there == version || there == expected.get(&id).copied(), "row {id}: {there:?}");
        expected.remove(&id);
        expected.extend(there.map(|version| (id, version)));
    }
    let found: BTreeMap<i64, i64> = found.into_iter().map(|(id, versions)| (id, versions[0])).collect();
    let missing: Vec<_> = expected.iter().filter(|(id, _)| !found.contains_key(id)).take(5).collect();
    let surplus: Vec<_> = found.iter().filter(|(id, _)| !expected.contains_key(id)).take(5).collect();
    let other: Vec<_> =
        expected.iter().filter(|(id, v)| found.get(id).is_some_and(|f| f != *v)).take(5).collect();
    assert!(
        missing.is_empty() && surplus.is_empty() && other.is_empty(),
        "missing {missing:?}, surplus {surplus:?}, of another version {other:?}"
    );
}

/// A deterministic sequence of writes on rows of its own: inserts, changes, deletes.
fn write(
    uri: &str,
    mut client: Client,
    table: &str,
    first_id: i64,
    pause: Duration,
    manner: Manner,
    stop: &AtomicBool,
) -> (Book, Met) {
    let (mut book, mut met) = (Book::default(), Met::default());
    let mut seed = first_id as u64 | 1;
    let mut next_id = first_id;
    let mut version = 0i64;
    while !stop.load(Ordering::Relaxed) {
        if client.is_closed() {
            match connect(uri) {
                Some(again) => client = again,
                None => {
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            }
            settle_doubt(&mut client, table, &mut book);
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = seed >> 33;
        version += 1;
        let known = if book.rows.is_empty() {
            None
        } else {
            book.rows.keys().nth(draw as usize % book.rows.len()).copied()
        };
        let (statement, id, after) = match (draw % 10, known) {
            (0..=3, _) | (_, None) => {
                next_id += 1;
                let vector = format!("[{},{},{}]", 1 + draw % 7, 1 + draw % 11, 1 + draw % 13);
                let insert = format!(
                    "INSERT INTO {table} (id, embedding, metadata) VALUES ({next_id}, '{vector}', '{{\"v\": {version}}}')"
                );
                (insert, next_id, Some(version))
            }
            (4..=7, Some(id)) => {
                let update = format!("UPDATE {table} SET metadata = '{{\"v\": {version}}}' WHERE id = {id}");
                (update, id, Some(version))
            }
            (_, Some(id)) => (format!("DELETE FROM {table} WHERE id = {id}"), id, None),
        };
        let began = Instant::now();
        let result = match manner {
            Manner::ReadCommitted => client.execute(statement.as_str(), &[]),
            Manner::RepeatableRead => in_transaction(&mut client, &statement),
        };
        met.took_ms.push(began.elapsed().as_secs_f64() * 1000.0);
        match result {
            Ok(1) => {
                met.writes += 1;
                match after {
                    Some(version) => book.rows.insert(id, version),
                    None => book.rows.remove(&id),
                };
            }
            Ok(_) => met.missed += 1,
            Err(error) => match error.code() {
                Some(state) if *state != SqlState::ADMIN_SHUTDOWN && *state != SqlState::CRASH_SHUTDOWN => {
                    *met.errors.entry(state.code().to_owned()).or_default() += 1;
                }
                _ => {
                    met.lost += 1;
                    book.doubt = Some((id, after));
                }
            },
        }
        std::thread::sleep(pause);
    }
    if book.doubt.is_some()
        && let Some(mut again) = (0..200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            connect(uri)
        })
    {
        settle_doubt(&mut again, table, &mut book);
    }
    (book, met)
}

/// Looks whether the write over which the connection was lost has happened.
fn settle_doubt(client: &mut Client, table: &str, book: &mut Book) {
    let Some((id, after)) = book.doubt else { return };
    let query = format!("SELECT (metadata ->> 'v')::bigint FROM {table} WHERE id = $1");
    let Ok(found) = client.query_opt(query.as_str(), &[&id]) else { return };
    let there: Option<i64> = found.map(|row| row.get(0));
    assert!(
        there == after || there == book.rows.get(&id).copied(),
        "row {id} is {there:?} after a lost connection; it was {:?}, to become {after:?}",
        book.rows.get(&id)
    );
    book.rows.remove(&id);
    book.rows.extend(there.map(|version| (id, version)));
    book.doubt = None;
}

fn in_transaction(client: &mut Client, statement: &str) -> Result<u64, postgres::Error> {
    let mut transaction =
        client.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start()?;
    // The snapshot is taken, time goes by, then it writes. No row is read: one of the table would always be of the first
    // partition, and make that one the hot one.
    transaction.query_one("SELECT count(*) FROM pg_class", &[])?;
    std::thread::sleep(Duration::from_millis(5));
    let rows = transaction.execute(statement, &[])?;
    transaction.commit()?;
    Ok(rows)
}
