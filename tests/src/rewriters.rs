//! Sessions that change rows which were there before, again and again: whatever is done to a row, one of them is at it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster::Cluster;
use postgres::Client;
use postgres::error::SqlState;

/// Of so many writes one takes the row away and brings it again, in one transaction; and one holds its row for a moment.
const REPLACED: u64 = 7;
const HELD: u64 = 5;
/// For how long.
const MOMENT: Duration = Duration::from_millis(2);
/// Time from one write to the next of all of them, at least: what they do beside others is the same on a fast machine.
const PACE: Duration = Duration::from_millis(1);

/// What they met with.
#[derive(Debug, Clone, Default)]
pub struct Met {
    /// Acknowledged writes.
    pub writes: u64,
    /// Errors by SQLSTATE, lost connections apart.
    pub errors: BTreeMap<String, u64>,
    /// Statements that changed no row although it is there.
    pub missed: u64,
    /// Connections lost.
    pub lost: u64,
    /// Duration of each write but for the moment that it held, milliseconds.
    pub took_ms: Vec<f64>,
    /// Time over which they wrote.
    pub seconds: f64,
    /// Of that, time in which the server was away, the mean of the sessions.
    pub away_s: f64,
    /// The last acknowledged version of each row.
    versions: BTreeMap<i64, i64>,
    /// Versions that may have come to be after that: their writes were answered by an error.
    doubts: BTreeMap<i64, Vec<i64>>,
}

impl Met {
    /// Acknowledged writes a second of the time in which there was a server.
    pub fn rate(&self) -> f64 {
        self.writes as f64 / (self.seconds - self.away_s).max(1e-3)
    }

    /// The 95th percentile of how long a write took, milliseconds.
    pub fn p95_ms(&self) -> f64 {
        let mut took = self.took_ms.clone();
        took.sort_by(f64::total_cmp);
        took.get(took.len() * 95 / 100).copied().unwrap_or(f64::NAN)
    }
}

/// Sessions at work on `table (id, embedding, metadata)`.
pub struct Rewriters {
    stop: Arc<AtomicBool>,
    /// How often one failed with 40001 so far.
    failures: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Met>>,
    began: Instant,
}

impl Rewriters {
    /// Starts so many sessions in the database `app`, in READ COMMITTED and through the root; each has its share of these rows
    /// for itself. They connect again when the server comes back.
    ///
    /// # Panics
    /// When one does not connect.
    pub fn start(cluster: &Cluster, table: &str, ids: &[i64], sessions: usize) -> Self {
        Self::start_to(cluster, table, ids, sessions, true)
    }

    /// The same, but none takes a row away and brings it again: from one server to another that is no single transaction.
    ///
    /// # Panics
    /// When one does not connect.
    pub fn start_in_place(cluster: &Cluster, table: &str, ids: &[i64], sessions: usize) -> Self {
        Self::start_to(cluster, table, ids, sessions, false)
    }

    fn start_to(cluster: &Cluster, table: &str, ids: &[i64], sessions: usize, replace: bool) -> Self {
        let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for session in 0..sessions {
            let share: Vec<i64> = ids.iter().copied().skip(session).step_by(sessions).collect();
            let rewriter = Rewriter {
                uri: cluster.uri("app"),
                client: cluster.connect("app").expect("a connection"),
                table: table.to_owned(),
                replace,
                pace: PACE * sessions as u32,
                stop: stop.clone(),
                failures: failures.clone(),
            };
            threads.push(std::thread::spawn(move || rewriter.rewrite(share)));
        }
        Self { stop, failures, threads, began: Instant::now() }
    }

    /// How often one could not serialize so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Waits until they have been at it for so long: of a few seconds a rate says little.
    pub fn for_at_least(&self, time: Duration) {
        std::thread::sleep(time.saturating_sub(self.began.elapsed()));
    }

    /// Stops them.
    ///
    /// # Panics
    /// When one has panicked.
    pub fn stop(self) -> Met {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Met { seconds: self.began.elapsed().as_secs_f64(), ..Met::default() };
        let sessions = self.threads.len();
        for thread in self.threads {
            let met = thread.join().expect("no session panics");
            all.writes += met.writes;
            all.missed += met.missed;
            all.lost += met.lost;
            all.away_s += met.away_s / sessions as f64;
            all.doubts.extend(met.doubts);
            all.took_ms.extend(met.took_ms);
            all.versions.extend(met.versions);
            for (state, count) in met.errors {
                *all.errors.entry(state).or_default() += count;
            }
        }
        all
    }

    /// Stops them and holds the rows against what was acknowledged.
    ///
    /// # Panics
    /// With the first difference.
    pub fn stop_and_compare(self, client: &mut Client, table: &str) -> Met {
        let met = self.stop();
        let query = format!("SELECT id, (metadata ->> 'v')::bigint FROM {table} WHERE metadata ? 'v'");
        let there: BTreeMap<i64, i64> = client
            .query(query.as_str(), &[])
            .expect("rows")
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        for (id, version) in &met.versions {
            let (there, doubts) = (there.get(id), met.doubts.get(id));
            let came_to_be = there.is_some_and(|there| doubts.is_some_and(|doubts| doubts.contains(there)));
            assert!(
                there == Some(version) || came_to_be,
                "row {id} is {there:?}, not {version}, nor {doubts:?}"
            );
        }
        met
    }
}

/// One of the sessions.
struct Rewriter {
    uri: String,
    client: Client,
    table: String,
    replace: bool,
    pace: Duration,
    stop: Arc<AtomicBool>,
    failures: Arc<AtomicU64>,
}

impl Rewriter {
    fn rewrite(mut self, mut ids: Vec<i64>) -> Met {
        let mut met = Met::default();
        // In an order that has nothing to do with where they lie.
        ids.sort_by_key(|id| id.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64));
        let mut next = Instant::now();
        for (version, id) in (1..).zip(ids.iter().copied().cycle()) {
            let gone = Instant::now();
            while self.client.is_closed() && !self.stop.load(Ordering::Relaxed) {
                match Client::connect(&self.uri, postgres::NoTls) {
                    Ok(again) => self.client = again,
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
            met.away_s += gone.elapsed().as_secs_f64();
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let replaces = self.replace && (version as u64).is_multiple_of(REPLACED);
            let held = if (version as u64).is_multiple_of(HELD) { MOMENT } else { Duration::ZERO };
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let began = Instant::now();
            next = began + self.pace;
            match write(&mut self.client, &self.table, id, version, replaces, held) {
                Ok(1) => {
                    met.writes += 1;
                    met.versions.insert(id, version);
                    met.doubts.remove(&id);
                    met.took_ms.push(began.elapsed().saturating_sub(held).as_secs_f64() * 1000.0);
                }
                Ok(_) => met.missed += 1,
                Err(error) => {
                    met.doubts.entry(id).or_default().push(version);
                    let ended = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];
                    match error.code().filter(|code| !ended.contains(code)) {
                        Some(code) => *met.errors.entry(code.code().to_owned()).or_default() += 1,
                        None => met.lost += 1,
                    }
                    let failed = error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE);
                    self.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
                }
            }
        }
        met
    }
}

/// Writes one version of a row, in a transaction that it holds open for so long; how many rows it changed.
fn write(
    client: &mut Client,
    table: &str,
    id: i64,
    version: i64,
    replaces: bool,
    held: Duration,
) -> Result<u64, postgres::Error> {
    let mut both = client.transaction()?;
    let changed = if replaces {
        let gone = both.execute(&format!("DELETE FROM {table} WHERE id = $1"), &[&id])?;
        let insert = format!(
            "INSERT INTO {table} (id, embedding, metadata) VALUES ($1, '[1,2,3]', jsonb_build_object('v', $2::bigint))"
        );
        if gone == 1 { both.execute(&insert, &[&id, &version])? } else { gone }
    } else {
        let update =
            format!("UPDATE {table} SET metadata = jsonb_build_object('v', $2::bigint) WHERE id = $1");
        both.execute(&update, &[&id, &version])?
    };
    std::thread::sleep(held);
    both.commit()?;
    Ok(changed)
}
