//! An application at work on a table `docs (id, embedding)`: readers and writers that check every result.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::Client;

use crate::dataset::Embeddings;
use crate::{Cluster, ClusterError};

/// Rest of a reader between two searches, and of a writer between two rows: an application at work, no benchmark.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(75)];

/// What the application did so far.
#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
}

/// Readers and writers until they are stopped.
pub struct Application {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
}

/// How the application fared.
#[derive(Debug, Clone, Copy)]
pub struct Fared {
    /// Searches whose results were checked.
    pub reads: u64,
    /// Inserts, updates and deletes that were checked.
    pub writes: u64,
    /// Errors of the server, and results that were not as they must be.
    pub errors: u64,
}

impl Application {
    /// Starts one reader and one writer in the database `app`. Rows with the number `first_id` and above are the
    /// writer's own.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn start(
        cluster: &Cluster,
        data: &Arc<Embeddings>,
        first_id: usize,
    ) -> Result<Application, ClusterError> {
        let mut application = Application { stop: Arc::default(), counters: Arc::default(), threads: vec![] };
        for (work, pause) in [read as Work, write as Work].into_iter().zip(PAUSES) {
            let mut client = cluster.connect("app")?;
            let (stop, counters, data) =
                (application.stop.clone(), application.counters.clone(), data.clone());
            application.threads.push(std::thread::spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = work(&mut client, &data, first_id, round, &counters) {
                        eprintln!("the application got an error: {error}");
                        counters.errors.fetch_add(1, Ordering::Relaxed);
                    }
                    round += 1;
                    std::thread::sleep(pause);
                }
            }));
        }
        Ok(application)
    }

    /// How it fared so far.
    pub fn so_far(&self) -> Fared {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { reads, writes, errors } = &*self.counters;
        Fared { reads: count(reads), writes: count(writes), errors: count(errors) }
    }

    /// Stops it and returns how it fared.
    ///
    /// # Panics
    /// When one of its threads panicked.
    pub fn stop(mut self) -> Fared {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread of the application panicked");
        }
        self.so_far()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

type Work = fn(&mut Client, &Embeddings, usize, usize, &Counters) -> Result<(), String>;

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// A search: rows in the order of their distance, none twice. How many come back depends on the lists that are looked
/// at: a bad index gives fewer than ten.
fn read(
    client: &mut Client,
    data: &Embeddings,
    first_id: usize,
    round: usize,
    counters: &Counters,
) -> Result<(), String> {
    let query = data.literal(round * 37 % first_id);
    let search = format!(
        "SELECT id, embedding <=> '{query}' AS distance FROM docs ORDER BY embedding <=> '{query}' LIMIT 10"
    );
    let rows = client.query(search.as_str(), &[]).map_err(|error| error.to_string())?;
    ensure(!rows.is_empty(), || "a search found nothing".to_owned())?;
    let distances: Vec<f64> = rows.iter().map(|row| row.get(1)).collect();
    // The index orders by its own arithmetic, which rounds otherwise.
    let ordered = distances.windows(2).all(|pair| pair[0] <= pair[1] + 1e-6);
    ensure(ordered, || format!("the rows are not in order: {distances:?}"))?;
    let mut ids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure(ids.len() == rows.len(), || format!("a row came twice: {ids:?}"))?;
    counters.reads.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// A row is inserted, changed, and deleted as it was written: each must concern one row.
fn write(
    client: &mut Client,
    data: &Embeddings,
    first_id: usize,
    round: usize,
    counters: &Counters,
) -> Result<(), String> {
    let id = first_id + round;
    let (first, second) = (data.literal(round % first_id), data.literal((round + 1) % first_id));
    let statements = [
        format!("INSERT INTO docs VALUES ({id}, '{first}')"),
        format!("UPDATE docs SET embedding = '{second}' WHERE id = {id}"),
        format!("DELETE FROM docs WHERE id = {id} AND embedding = '{second}'"),
    ];
    for statement in statements {
        let rows = client.execute(statement.as_str(), &[]).map_err(|error| error.to_string())?;
        ensure(rows == 1, || format!("{rows} rows instead of one: {}", &statement[..40]))?;
        counters.writes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
