//! What a throttle holds, and what the hooks cost without one: `make bench-throttle`. Results: README.md beside this file.
//!
//! `held`: 1, 8 and 32 clients of pgbench that insert single rows, and as many that COPY 500 rows a statement, at half of
//! their usual rate, and eight at what is left of it in a critical state: rows a second over 30 s against the target, and
//! how long a statement takes.
//! `cost`: two servers, one without the extension and one with it preloaded, created and a collection registered, in turn:
//! processor time of statements through the executor, and single-row inserts.

use std::time::{Duration, Instant};

use cluster::{Cluster, Version, wait_for};
use postgres::Client;

const HELD_S: u32 = 30;
/// Time that the usual rate is measured for; a lease's baseline is the mean of what was seen.
const USUAL_S: u32 = 20;
const PAIRS: u32 = 24;
/// Inserts of one round.
const INSERTS: u32 = 10_000;
/// Statements of one round in a session.
const STATEMENTS: u32 = 100_000;

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|argument| argument == name);
    if wants("held") {
        held();
    }
    if wants("cost") {
        cost();
    }
}

fn start(preload: bool) -> (Cluster, Client) {
    let cluster = Cluster::builder(Version::V18)
        .preload(preload)
        .database("app")
        .setting("autovacuum", "off")
        .setting("max_wal_size", "8GB")
        .setting("checkpoint_timeout", "1h")
        .start()
        .expect("a cluster");
    let mut client = cluster.connect("app").expect("a connection");
    client
        .batch_execute("CREATE EXTENSION vector; CREATE TABLE docs (id int, embedding vector(3)); CREATE TABLE one (id int); INSERT INTO one VALUES (1)")
        .expect("tables");
    if preload {
        client
            .batch_execute(
                r#"CREATE EXTENSION ruvector;
                   SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
            )
            .expect("the extension");
    }
    (cluster, client)
}

/// Transactions a second of pgbench with this script, and how long one takes, ms.
fn pgbench(cluster: &Cluster, clients: u32, seconds: u32, script: &str) -> (f64, f64) {
    let file = std::env::temp_dir().join(format!("ruvector-bench-{}.sql", std::process::id()));
    std::fs::write(&file, script).expect("a script");
    let threads = clients.min(2).to_string();
    let output = cluster
        .client_command("pgbench", "app")
        .args([
            "-n",
            "-M",
            "prepared",
            "-c",
            &clients.to_string(),
            "-j",
            &threads,
            "-T",
            &seconds.to_string(),
            "-f",
        ])
        .arg(&file)
        .output()
        .expect("pgbench");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |before: &str| -> f64 {
        let number = said.lines().find_map(|line| line.strip_prefix(before)?.split(' ').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr)))
    };
    (number("tps = "), number("latency average = "))
}

const INSERT: &str = "INSERT INTO docs VALUES (1, '[1,2,3]');\n";
const COPY_ROWS: u32 = 500;

fn held() {
    println!(
        "kind         clients  taken off  usual rows/s  target  achieved  off by  waits unreachable  ms a statement"
    );
    for (kind, clients, percent) in [
        ("insert", 1, 50),
        ("insert", 8, 50),
        ("insert", 32, 50),
        ("bulk_insert", 1, 50),
        ("bulk_insert", 8, 50),
        ("bulk_insert", 32, 50),
        ("insert", 8, 90),
        ("bulk_insert", 8, 95),
    ] {
        let (cluster, mut client) = start(true);
        let every_second = r#"SELECT ruvector_healing_configure('{"sample_interval_seconds": 1}')"#;
        client.batch_execute(every_second).expect("a setting");
        let rows = cluster.data_directory().join("rows.txt");
        let (script, per_statement) = if kind == "insert" {
            (INSERT.to_owned(), 1.0)
        } else {
            let text = format!(
                "COPY (SELECT i, '[1,2,3]' FROM generate_series(1, {COPY_ROWS}) i) TO '{}'",
                rows.display()
            );
            client.batch_execute(&text).expect("a file");
            (format!("COPY docs FROM '{}';\n", rows.display()), f64::from(COPY_ROWS))
        };
        let (usual, usual_ms) = pgbench(&cluster, clients, USUAL_S, &script);
        client
            .batch_execute(&format!(
                "SELECT ruvector_throttle_set('docs', {percent}, {percent}, '10 minutes')"
            ))
            .expect("a throttle");
        let mut look = || client.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).expect("throttles");
        wait_for("the throttle", Duration::from_secs(30), &mut look).expect("a throttle");
        let (achieved, throttled_ms) = pgbench(&cluster, clients, HELD_S, &script);
        let (usual, achieved) = (usual * per_statement, achieved * per_statement);
        let row = client
            .query_one(
                "SELECT (target_rate ->> $1)::float8, waits, NOT held FROM ruvector_throttles()",
                &[&kind],
            )
            .expect("the throttle");
        let (target, waits, unreachable): (f64, i64, bool) = (row.get(0), row.get(1), row.get(2));
        println!(
            "{kind:<12} {clients:>7} {percent:>8} % {usual:>13.0} {target:>7.0} {achieved:>9.0} {:>+6.1} % {waits:>6} {unreachable:<11}  {usual_ms:.2} → {throttled_ms:.2}",
            100.0 * (achieved / target - 1.0)
        );
    }
}

/// Nanoseconds that a session's process has had a processor, which on a busy machine is less than the time that passes.
fn processor_ns(client: &mut Client) -> f64 {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).expect("a number").get(0);
    let schedstat =
        std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("a process of this machine");
    schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
}

/// Processor time of a statement, nanoseconds, of so many through the executor, prepared by plpgsql.
fn statements(client: &mut Client, what: &str) -> f64 {
    let before = processor_ns(client);
    client
        .batch_execute(&format!("DO $$ BEGIN FOR i IN 1..{STATEMENTS} LOOP {what}; END LOOP; END $$"))
        .expect("statements");
    (processor_ns(client) - before) / f64::from(STATEMENTS)
}

/// Processor time and time that passed of a single-row insert that is a transaction of its own, nanoseconds.
fn inserts(client: &mut Client) -> (f64, f64) {
    let insert = client.prepare(INSERT).expect("a statement");
    let (before, begun) = (processor_ns(client), Instant::now());
    for _ in 0..INSERTS {
        client.execute(&insert, &[]).expect("an insert");
    }
    let count = f64::from(INSERTS);
    ((processor_ns(client) - before) / count, begun.elapsed().as_nanos() as f64 / count)
}

/// Runs one after the other, and who is first takes turns: the second has a warmer or a busier machine.
fn in_turn<T>(pair: u32, a: impl FnOnce() -> T, b: impl FnOnce() -> T) -> (T, T) {
    if pair.is_multiple_of(2) {
        let a = a();
        (a, b())
    } else {
        let b = b();
        (a(), b)
    }
}

fn show(what: &str, values: &[f64], unit: &str) {
    let (mean, half) = mean_and_half_width(values);
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    println!(
        "{what:<52} {mean:>8.4} {unit}, 95 % interval {:.4} to {:.4}, median {:.4}",
        mean - half,
        mean + half,
        sorted[sorted.len() / 2]
    );
}

fn mean_and_half_width(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // Student's t for 23 degrees of freedom, two-sided 95 %; more pairs would make it smaller.
    (mean, 2.069 * (variance / n).sqrt())
}

fn cost() {
    let (_without, mut bare) = start(false);
    let (_with, mut ours) = start(true);
    for what in
        ["PERFORM FROM one", "UPDATE one SET id = 2 WHERE id = 3", "INSERT INTO one SELECT 1 WHERE false"]
    {
        let extra: Vec<f64> = (0..PAIRS)
            .map(|pair| in_turn(pair, || statements(&mut bare, what), || statements(&mut ours, what)))
            .map(|(without, with)| with - without)
            .collect();
        show(&format!("{what}, more processor time"), &extra, "ns");
    }
    let pairs: Vec<((f64, f64), (f64, f64))> =
        (0..PAIRS).map(|pair| in_turn(pair, || inserts(&mut bare), || inserts(&mut ours))).collect();
    let by_processor: Vec<f64> = pairs.iter().map(|(without, with)| without.0 / with.0).collect();
    let by_clock: Vec<f64> = pairs.iter().map(|(without, with)| without.1 / with.1).collect();
    show("single-row inserts a processor second, with ÷ without", &by_processor, "");
    show("single-row inserts a second, with ÷ without", &by_clock, "");
}
