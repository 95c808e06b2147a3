//! What moving rows costs: rows a second against a bare UPDATE under the same protocol, writers' p95, and COPY into a
//! managed collection against one with an explicit key. `make bench-rows`; figures go to
//! docs/decisions/0007-managed-collections.md.

use std::time::{Duration, Instant};

use cluster::faults::Readers;
use cluster::{Cluster, wait_for};
use healing::moves::Pace;
use postgres::Client;
use tests::ledger::{Manner, Writers};
use tests::{said, start};

const PATIENCE: Duration = Duration::from_secs(600);
const ROUNDS: usize = 5;

fn main() {
    // Cargo asks for the list of tests of everything that it builds.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    moving();
    for dimensions in [3, 384] {
        copying(dimensions);
    }
}

/// Moves by the worker and by hand, in turns, on the same table: no difference between them but who does it.
fn moving() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"max_move_share": 0.2, "verify_window_seconds": 2, "mode": "observe",
                                                    "min_healing_interval_seconds": 0}');
               SELECT ruvector_collection_create('docs', 3, 4, distance => 'l2');
               SELECT setseed(0.5);
               INSERT INTO docs (embedding, metadata, partition_id)
               SELECT (SELECT array_agg(random()) FROM generate_series(1, 3) WHERE i > 0)::vector, '{}', 1 + i % 4
                 FROM generate_series(1, 16000) i;
               ANALYZE docs"#,
        )
        .expect("a collection");
    let tables = (1..=4).map(|part| (format!("docs_{part}"), if part == 2 { 60 } else { 6 }));
    let _hot = Readers::start(&cluster, tables.collect()).expect("readers");
    wait_for("a hot partition", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%HotspotCongestion%'";
        client.query_opt(query, &[]).expect("a status")
    })
    .expect("a hot partition");
    let (mut ours, mut bare, mut p95) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = 1_000_000_000 * (round as i64 + 1);
        let writers =
            Writers::start(&cluster, "docs", first, 2, Duration::from_millis(8), Manner::ReadCommitted);
        ours.push(by_worker(&mut client));
        let met = writers.stop_and_compare(&mut client, "docs");
        assert!(met.errors.is_empty() && met.missed == 0, "{:?}, {} missed", met.errors, met.missed);
        p95.push((met.p95_ms(), met.writes as f64 / met.seconds));
        let writers = Writers::start(
            &cluster,
            "docs",
            first + 500_000_000,
            2,
            Duration::from_millis(8),
            Manner::ReadCommitted,
        );
        bare.push(by_hand(&cluster));
        writers.stop_and_compare(&mut client, "docs");
    }
    println!(
        "rows/s moved by the worker {ours:.0?}, by a bare UPDATE {bare:.0?}: ratio of the medians {:.2}",
        median(&ours) / median(&bare)
    );
    println!("writers beside the worker, p95 ms and writes/s: {p95:.1?}");
}

/// 600 rows by an action; rows a second from the first batch to the last of each move.
fn by_worker(client: &mut Client) -> f64 {
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebalance_partitions', '{\"max_moves\": 600}')", &[])
        .expect("an action")
        .get(0);
    wait_for("its end", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).expect("a status")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    // The rows of the first batch of a move came before the clock began.
    client
        .query_one(
            "SELECT (sum(rows) / sum(seconds))::float8 FROM (
                 SELECT sum(cardinality(keys)) - min(cardinality(keys)) FILTER (WHERE first) AS rows,
                        extract(epoch FROM max(moved_at) - min(moved_at)) AS seconds
                   FROM (SELECT *, id = min(id) OVER (PARTITION BY move_no) AS first FROM ruvector.moved_rows WHERE action_id = $1) b
                  GROUP BY move_no) m",
            &[&action],
        )
        .expect("figures")
        .get(0)
}

/// The same protocol from a session: lock, UPDATE, commit, rest as long.
fn by_hand(cluster: &Cluster) -> f64 {
    let mut client = cluster.connect("app").expect("a connection");
    let keys: Vec<i64> = client
        .query("SELECT id FROM docs_2 TABLESAMPLE SYSTEM (60) LIMIT 600", &[])
        .expect("keys")
        .iter()
        .map(|row| row.get(0))
        .collect();
    let mut pace = Pace::new(25);
    let (mut left, mut counted, mut began) = (keys.as_slice(), 0, None);
    while !left.is_empty() {
        let (now, rest) = left.split_at((pace.rows() as usize).min(left.len()));
        let mut transaction = client.transaction().expect("a transaction");
        transaction.batch_execute("LOCK TABLE docs IN EXCLUSIVE MODE").expect("a lock");
        let since = Instant::now();
        transaction
            .execute("UPDATE docs SET partition_id = 1 WHERE partition_id = 2 AND id = ANY ($1)", &[&now])
            .expect("an update");
        transaction.commit().expect("a commit");
        let held = since.elapsed();
        pace.learn(now.len() as u64, held.as_secs_f64() * 1000.0);
        match began {
            None => began = Some(Instant::now()),
            Some(_) => counted += now.len(),
        }
        left = rest;
        if !left.is_empty() {
            std::thread::sleep(held);
        }
    }
    counted as f64 / began.map_or(f64::NAN, |began| began.elapsed().as_secs_f64())
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
