//! An application at work while the healer repairs: readers and writers that check every result.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use cluster::Cluster;
use cluster::dataset::Embeddings;
use postgres::Client;

/// Rest of a reader between two searches, and of a writer between two rows: an application at work, no benchmark.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(75)];

/// What the application did so far.
#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
}

/// Readers and writers on `docs` until they are stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
}

/// How the application fared.
pub(super) struct Fared {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) errors: u64,
}

impl Load {
    /// Starts one reader and one writer. `first_id` and above are the writer's own rows.
    pub(super) fn start(cluster: &Cluster, data: &Arc<Embeddings>, first_id: usize) -> Result<Load> {
        let mut load = Load { stop: Arc::default(), counters: Arc::default(), threads: vec![] };
        for (kind, pause) in [read as Work, write as Work].into_iter().zip(PAUSES) {
            let mut client = cluster.connect("app")?;
            let (stop, counters, data) = (load.stop.clone(), load.counters.clone(), data.clone());
            load.threads.push(std::thread::spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = kind(&mut client, &data, first_id, round, &counters) {
                        eprintln!("the application got an error: {error:#}");
                        counters.errors.fetch_add(1, Ordering::Relaxed);
                    }
                    round += 1;
                    std::thread::sleep(pause);
                }
            }));
        }
        Ok(load)
    }

    /// Stops them and returns how they fared.
    pub(super) fn stop(mut self) -> Result<Fared> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a thread of the application panicked"))?;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { reads, writes, errors } = &*self.counters;
        Ok(Fared { reads: count(reads), writes: count(writes), errors: count(errors) })
    }

    /// Reads and writes so far.
    pub(super) fn done(&self) -> (u64, u64) {
        (self.counters.reads.load(Ordering::Relaxed), self.counters.writes.load(Ordering::Relaxed))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

type Work = fn(&mut Client, &Embeddings, usize, usize, &Counters) -> Result<()>;

/// A search: ten rows in the order of their distance, each as near as the row itself says.
fn read(
    client: &mut Client,
    data: &Embeddings,
    first_id: usize,
    round: usize,
    counters: &Counters,
) -> Result<()> {
    let query = data.literal(round * 37 % first_id);
    let rows = client.query(
        &format!(
            "SELECT id, embedding <=> '{query}' AS distance FROM docs ORDER BY embedding <=> '{query}' LIMIT 10"
        ),
        &[],
    )?;
    // How many come back depends on the lists that are looked at: a bad index gives fewer.
    ensure!(!rows.is_empty(), "a search found nothing");
    let distances: Vec<f64> = rows.iter().map(|row| row.get(1)).collect();
    // The index orders by its own arithmetic, which rounds otherwise.
    ensure!(distances.windows(2).all(|pair| pair[0] <= pair[1] + 1e-6), "the rows are not in order: {distances:?}");
    let mut ids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == rows.len(), "a row came twice: {ids:?}");
    counters.reads.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// A row is inserted, changed, found again as it was written, and deleted: each must concern one row.
fn write(
    client: &mut Client,
    data: &Embeddings,
    first_id: usize,
    round: usize,
    counters: &Counters,
) -> Result<()> {
    let id = i32::try_from(first_id + round).context("too many rows")?;
    let (first, second) = (data.literal(round % first_id), data.literal((round + 1) % first_id));
    let statements = [
        format!("INSERT INTO docs VALUES ({id}, '{first}')"),
        format!("UPDATE docs SET embedding = '{second}' WHERE id = {id}"),
        format!("DELETE FROM docs WHERE id = {id} AND embedding = '{second}'"),
    ];
    for statement in statements {
        let rows = client.execute(statement.as_str(), &[])?;
        ensure!(rows == 1, "{rows} rows instead of one: {}", statement.chars().take(60).collect::<String>());
        counters.writes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
