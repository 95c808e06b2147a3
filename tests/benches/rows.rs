//! What moving rows costs: rows a second against a bare UPDATE under the same protocol, writers' p95, and COPY into a
//! managed collection against one with an explicit key. `make bench-rows`; `ONLY` (moving, copying) chooses a part, `PAIRS` (8) how
//! often rows are moved either way. Figures go to README.md and docs/decisions/0007-managed-collections.md.

use std::time::{Duration, Instant};

use cluster::faults::Readers;
use cluster::{Cluster, wait_for};
use healing::moves::Pace;
use postgres::Client;
use tests::ledger::{Manner, Met, Writers};
use tests::{said, start};

const PATIENCE: Duration = Duration::from_secs(600);
const ROUNDS: usize = 5;
/// Rows of each of the four partitions before any is moved.
const ROWS: i64 = 10_000;
/// Rows that are moved at once, in nine moves.
const MOVED: i64 = 2100;

fn main() {
    // Cargo asks for the list of tests of everything that it builds.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|one| one == part);
    if wanted("moving") {
        moving(std::env::var("PAIRS").ok().and_then(|pairs| pairs.parse().ok()).unwrap_or(8));
    }
    if wanted("copying") {
        for dimensions in [3, 384] {
            copying(dimensions);
        }
    }
}

/// One batch of a move: its rows, and when they were moved, in seconds.
struct Batch {
    to: i32,
    move_no: i32,
    rows: usize,
    at: f64,
}

/// What moving came to.
struct Run {
    batches: Vec<Batch>,
    /// Time under the lock, milliseconds, and the longest of one batch.
    locked_ms: f64,
    longest_ms: f64,
    /// Rows that λ had taken back again: their time is in that under the lock.
    taken_back: f64,
}

impl Run {
    /// Rows a second, from the first batch to the last of each move: what is between two moves does not count. The pause after
    /// the last batch of a move is not in it, the one after the first is, of either.
    fn rows_per_s(&self) -> f64 {
        let (mut rows, mut seconds) = (0, 0.0);
        for pair in self.batches.windows(2).filter(|pair| pair[0].move_no == pair[1].move_no) {
            rows += pair[1].rows;
            seconds += pair[1].at - pair[0].at;
        }
        rows as f64 / seconds
    }

    /// Share of the time that the locks and pauses as long explain: what is lost elsewhere is missing in it. Unlike the rows a
    /// second it says the same on a machine that other work makes slower.
    fn share(&self) -> f64 {
        self.rows_per_s() * 2.0 * self.locked_ms / self.rows() as f64 / 1000.0
    }

    fn rows(&self) -> usize {
        self.batches.iter().map(|batch| batch.rows).sum()
    }

    /// The moves: where to, and how many rows.
    fn moves(&self) -> Vec<(i32, usize)> {
        let of = |batches: &[Batch]| (batches[0].to, batches.iter().map(|batch| batch.rows).sum());
        self.batches.chunk_by(|one, next| one.move_no == next.move_no).map(of).collect()
    }

    fn said(&self) -> String {
        format!(
            "{:.0} rows/s, {:.3} of what locks and pauses allow ({} rows in {} batches, {:.2} ms of lock a batch, {:.3} a row, longest {:.1})",
            self.rows_per_s(),
            self.share(),
            self.rows(),
            self.batches.len(),
            self.locked_ms / self.batches.len() as f64,
            self.locked_ms / self.rows() as f64,
            self.longest_ms
        )
    }
}

/// Moves by the worker and by hand, in turns, on the same table: no difference between them but who does it. The rows come
/// back each time.
fn moving(times: usize) {
    let (cluster, mut client) = start();
    client
        .batch_execute(&format!(
            r#"SELECT ruvector_healing_configure('{{"max_move_share": 0.2, "verify_window_seconds": 2, "mode": "observe",
                                                    "min_healing_interval_seconds": 0}}');
               SELECT ruvector_collection_create('docs', 3, 4, distance => 'l2');
               ALTER TABLE docs_1 SET (autovacuum_enabled = off); ALTER TABLE docs_2 SET (autovacuum_enabled = off);
               ALTER TABLE docs_3 SET (autovacuum_enabled = off); ALTER TABLE docs_4 SET (autovacuum_enabled = off);
               SELECT setseed(0.5);
               INSERT INTO docs (id, embedding, metadata, partition_id)
               SELECT i, (SELECT array_agg(random()) FROM generate_series(1, 3) WHERE i > 0)::vector, '{{}}', 1 + i % 4
                 FROM generate_series(1, {}) i;
               ANALYZE docs"#,
            4 * ROWS
        ))
        .expect("a collection");
    let tables = (1..=4).map(|part| (format!("docs_{part}"), if part == 2 { 60 } else { 6 }));
    let _hot = Readers::start(&cluster, tables.collect()).expect("readers");
    let mut first = 0;
    let mut beside = |client: &mut Client, run: &mut dyn FnMut(&mut Client) -> Run| {
        first += 500_000_000;
        let writers =
            Writers::start(&cluster, "docs", first, 2, Duration::from_millis(8), Manner::ReadCommitted);
        let run = run(client);
        let met = writers.stop_and_compare(client, "docs");
        assert!(met.errors.is_empty() && met.missed == 0, "{:?}, {} missed", met.errors, met.missed);
        put_back(client);
        (run, met)
    };
    // What the worker moves, the bare UPDATE moves after it.
    let mut moves = beside(&mut client, &mut by_worker).0.moves();
    println!("moves (partition, rows): {moves:?}");
    let mut both: Vec<(Run, Run)> = Vec::new();
    let mut p95: Vec<(f64, f64)> = Vec::new();
    let rate = |met: &Met| met.writes as f64 / met.seconds;
    for pair in 0..times {
        // In turns who is first.
        let mut bare = None;
        if pair % 2 == 1 {
            bare = Some(beside(&mut client, &mut |_| by_hand(&cluster, &moves)).0);
        }
        let (ours, met) = beside(&mut client, &mut by_worker);
        p95.push((met.p95_ms(), rate(&met)));
        moves = ours.moves();
        let bare = bare.unwrap_or_else(|| beside(&mut client, &mut |_| by_hand(&cluster, &moves)).0);
        println!("worker: {}\n  bare: {}", ours.said(), bare.said());
        both.push((ours, bare));
    }
    println!("rows/s, worker ÷ bare UPDATE: {}", ratio(&pairs(&both, Run::rows_per_s)));
    // Where λ had rows taken back, their time under the lock is not known apart.
    both.retain(|(ours, _)| ours.taken_back == 0.0);
    println!(
        "share of the time in locks and pauses, worker ÷ bare UPDATE, {} pairs: {}",
        both.len(),
        ratio(&pairs(&both, Run::share))
    );
    println!("writers beside the worker, p95 ms and writes/s: {p95:.1?}");
}

fn pairs(both: &[(Run, Run)], of: fn(&Run) -> f64) -> Vec<(f64, f64)> {
    both.iter().map(|(ours, bare)| (of(ours), of(bare))).collect()
}

/// Everything is where it was, and as if it had never been elsewhere.
fn put_back(client: &mut Client) {
    let back = format!(
        "UPDATE docs SET partition_id = 2 WHERE partition_id <> 2 AND id % 4 = 1 AND id <= {}",
        4 * ROWS
    );
    client.execute(back.as_str(), &[]).expect("rows back");
    client.batch_execute("VACUUM ANALYZE docs_1, docs_2, docs_3, docs_4").expect("a vacuum");
}

/// By an action.
fn by_worker(client: &mut Client) -> Run {
    client.execute("SELECT ruvector_healing_reset('docs', 'rebalance_partitions')", &[]).expect("a reset");
    wait_for("a hot partition", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%HotspotCongestion%docs\\_2%'";
        client.query_opt(query, &[]).expect("a status")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    let params = format!(r#"{{"max_moves": {MOVED}, "partitions": ["public.docs_2"]}}"#);
    // Asked just when another partition looks hotter, by a vacuum of ours, it is refused: then once more.
    let action: i64 = wait_for("an action that is not refused", PATIENCE, || {
        let query =
            "SELECT action_id FROM ruvector_healing_execute('docs', 'rebalance_partitions', $1::text::jsonb)";
        let action: i64 = client.query_one(query, &[&params]).expect("an action").get(0);
        let status: String = wait_for("its end", PATIENCE, || {
            let query = "SELECT status FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
            client.query_opt(query, &[&action]).expect("a status").map(|row| row.get(0))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
        (status != "refused").then_some(action)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    let batches: Vec<Batch> = client
        .query(
            "SELECT to_id, move_no, cardinality(keys)::bigint, extract(epoch FROM moved_at)::float8
               FROM ruvector.moved_rows WHERE action_id = $1 ORDER BY id",
            &[&action],
        )
        .expect("batches")
        .iter()
        .map(|row| Batch {
            to: row.get(0),
            move_no: row.get(1),
            rows: row.get::<_, i64>(2) as usize,
            at: row.get(3),
        })
        .collect();
    assert!(batches.len() > 10, "{}", said(client));
    let figures = client
        .query_one(
            "SELECT (strategy_params ->> 'locked_ms')::float8, (strategy_params ->> 'longest_lock_ms')::float8,
                    (strategy_params ->> 'rows_taken_back')::float8
               FROM ruvector.healing_outcomes WHERE action_id = $1",
            &[&action],
        )
        .expect("figures");
    Run { batches, locked_ms: figures.get(0), longest_ms: figures.get(1), taken_back: figures.get(2) }
}

/// The same moves from a session under the same protocol: keys chosen before; lock, UPDATE, commit, rest as long.
fn by_hand(cluster: &Cluster, moves: &[(i32, usize)]) -> Run {
    let mut client = cluster.connect("app").expect("a connection");
    let mut pace = Pace::new(25);
    let began = Instant::now();
    let mut run = Run { batches: vec![], locked_ms: 0.0, longest_ms: 0.0, taken_back: 0.0 };
    for (move_no, (to, rows)) in moves.iter().enumerate() {
        let sample = (200.0 * *rows as f64 / ROWS as f64).min(100.0);
        let query = format!("SELECT id FROM docs_2 TABLESAMPLE SYSTEM ({sample}) LIMIT {rows}");
        let mut keys: Vec<i64> = Vec::new();
        // A sample that takes too few is drawn again.
        while keys.len() < *rows {
            keys = client.query(query.as_str(), &[]).expect("keys").iter().map(|row| row.get(0)).collect();
        }
        let mut left = keys.as_slice();
        while !left.is_empty() {
            let (now, rest) = left.split_at((pace.rows() as usize).min(left.len()));
            let mut transaction = client.transaction().expect("a transaction");
            transaction.batch_execute("LOCK TABLE docs IN EXCLUSIVE MODE").expect("a lock");
            let since = Instant::now();
            let moved = transaction
                .execute(
                    "UPDATE docs SET partition_id = $2 WHERE partition_id = 2 AND id = ANY ($1)",
                    &[&now, to],
                )
                .expect("an update");
            let at = began.elapsed().as_secs_f64();
            transaction.commit().expect("a commit");
            let held = since.elapsed();
            let held_ms = held.as_secs_f64() * 1000.0;
            pace.learn(now.len() as u64, held_ms);
            run.batches.push(Batch { to: *to, move_no: move_no as i32, rows: moved as usize, at });
            run.locked_ms += held_ms;
            run.longest_ms = run.longest_ms.max(held_ms);
            left = rest;
            std::thread::sleep(held);
        }
    }
    run
}

/// COPY with the default and with an explicit key, in turns.
fn copying(dimensions: u32) {
    let (_cluster, mut client) = start();
    let rows = if dimensions > 100 { 20_000 } else { 300_000 };
    client
        .batch_execute(&format!(
            "SELECT ruvector_collection_create('docs', {dimensions}, 8, index_method => 'none');
             CREATE TABLE source AS SELECT i AS id, 1 + i % 8 AS part,
                 (SELECT array_agg(random()::real) FROM generate_series(1, {dimensions}) WHERE i > 0)::vector AS embedding
                 FROM generate_series(1, {rows}) i"
        ))
        .expect("a collection");
    let read = |client: &mut Client, query: &str| {
        use std::io::Read as _;
        let mut text = Vec::new();
        client.copy_out(query).expect("a copy").read_to_end(&mut text).expect("rows");
        text
    };
    let plain = read(&mut client, "COPY (SELECT id, embedding FROM source) TO STDOUT");
    let keyed = read(&mut client, "COPY (SELECT id, embedding, part FROM source) TO STDOUT");
    wait_for("the routing in shared memory", PATIENCE, || {
        client.query_opt("SELECT 1 WHERE ruvector._route_shared('docs') IS NOT NULL", &[]).expect("an answer")
    })
    .expect("a route");
    let time = |client: &mut Client, columns: &str, text: &[u8]| {
        use std::io::Write as _;
        client.batch_execute("TRUNCATE docs; CHECKPOINT").expect("an empty table");
        let since = Instant::now();
        let mut copy = client.copy_in(format!("COPY docs ({columns}) FROM STDIN").as_str()).expect("a copy");
        copy.write_all(text).expect("rows");
        copy.finish().expect("the end");
        since.elapsed().as_secs_f64()
    };
    let (mut by_default, mut by_key) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        by_key.push(time(&mut client, "id, embedding, partition_id", &keyed));
        by_default.push(time(&mut client, "id, embedding", &plain));
    }
    println!(
        "COPY of {rows} rows of {dimensions} dimensions: by default {by_default:.2?} s, by explicit key {by_key:.2?} s: \
         speed ratio of the medians {:.2}",
        median(&by_key) / median(&by_default)
    );
}

/// Student's t for a 95 % interval, by degrees of freedom from 1.
const T_95: [f64; 15] =
    [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13];

/// Geometric mean of the ratios and its 95 % interval.
fn ratio(pairs: &[(f64, f64)]) -> String {
    let logs: Vec<f64> = pairs.iter().map(|(a, b)| (a / b).ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    if logs.len() < 2 {
        return format!("{:.3} (one pair)", mean.exp());
    }
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = T_95.get(logs.len() - 2).copied().unwrap_or(2.1) * (variance / n).sqrt();
    format!("{:.3} ({:.3}–{:.3})", mean.exp(), (mean - half).exp(), (mean + half).exp())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
