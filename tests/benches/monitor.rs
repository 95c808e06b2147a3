//! What looking costs: a sample of a collection of 1000 partitions and of an idle one of eight, the healer's CPU at the
//! default interval, and the recall panel on a million rows of 128 dimensions (the data set's, jittered).
//!
//! `make bench-monitor` runs it; `ONLY` (eight, wide, panel) chooses parts, `BENCH_ROWS` (1000000) the rows of the panel,
//! `RUVECTOR_TEST_PG` the PostgreSQL.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cluster::dataset::Embeddings;
use cluster::faults::partitioned;
use cluster::{Cluster, wait_for};
use postgres::Client;

/// Long: a million rows take minutes.
const PATIENCE: Duration = Duration::from_secs(1800);
const DIMS: usize = 128;
/// What `collect/readings.rs` allows one index.
const TIME_SHARE_MAX: f64 = 1.0 / 30.0;
/// The default of `sample_interval_seconds`.
const INTERVAL_S: f64 = 10.0;

fn main() -> ExitCode {
    let version = tests::version();
    let cluster = Cluster::builder(version)
        .preload(true)
        .database("app")
        .setting("shared_buffers", "256MB")
        .setting("maintenance_work_mem", "1GB")
        .setting("max_wal_size", "4GB")
        .start()
        .expect("a cluster");
    let mut client = cluster.connect("app").expect("a connection");
    client.batch_execute("CREATE EXTENSION ruvector CASCADE").expect("the extension");
    println!("PostgreSQL {version}");
    println!("| what | measured | asked for |\n|---|--:|--:|");
    let mut missed = vec![];
    let only = std::env::var("ONLY").unwrap_or_default();
    let is_wanted = |part: &str| only.is_empty() || only.split(',').any(|name| name == part);
    if is_wanted("eight") {
        partitioned(&mut client, "eight", 8, 2000).expect("a table");
        samples(&cluster, &mut client, "eight", 30, 10.0, None, &mut missed);
    }
    if is_wanted("wide") {
        wide(&mut client, 1000);
        samples(&cluster, &mut client, "wide", 30, 200.0, Some(32.0), &mut missed);
    }
    if is_wanted("panel") {
        panel(&cluster, &mut client, &mut missed);
    }
    for reason in &missed {
        println!("not reached: {reason}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// So many partitions with an index and twenty rows each.
fn wide(client: &mut Client, partitions: u32) {
    client
        .batch_execute("CREATE TABLE wide (id int, part int, embedding vector(3)) PARTITION BY LIST (part)")
        .expect("a table");
    for part in 0..partitions {
        let script = format!(
            "CREATE TABLE wide_{part} PARTITION OF wide FOR VALUES IN ({part});
             INSERT INTO wide_{part} SELECT i, {part}, ARRAY[random(), random(), random()]::vector FROM generate_series(1, 20) i;
             CREATE INDEX ON wide_{part} USING hnsw (embedding vector_l2_ops)"
        );
        client.batch_execute(&script).expect("a partition");
    }
    client.batch_execute("ANALYZE wide").expect("analyzed");
}

/// Samples of one collection: how long one takes in a session, and what the healer takes for one.
fn samples(
    cluster: &Cluster,
    client: &mut Client,
    table: &str,
    count: usize,
    ms: f64,
    mib: Option<f64>,
    missed: &mut Vec<String>,
) {
    let healer = healer(client);
    std::thread::sleep(Duration::from_secs(2));
    let before = resident(healer);
    // Panels and lists are measured one a sample and are not what is measured here.
    let settings = r#"{"mode": "observe", "sample_interval_seconds": 1, "panel_interval_seconds": 604800}"#;
    let register = "SELECT ruvector_collection_register($1, $1::text::regclass, settings => $2::text::jsonb)";
    client.execute(register, &[&table, &settings]).expect("registered");
    let mut warm = cluster.connect("app").expect("a connection");
    let look = format!("SELECT 1 FROM ruvector_integrity_sample('{table}')");
    let mut times = vec![];
    for _ in 0..count {
        let began = Instant::now();
        warm.simple_query(&look).expect("a sample");
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("| a look at `{table}` in a session, median | {median:.1} ms | {ms:.0} ms |");
    if median > ms {
        missed.push(format!("a look at {table} takes {median:.1} ms"));
    }
    let taken = |client: &mut Client| -> i64 {
        let query = "SELECT samples FROM ruvector_integrity_status() WHERE collection = $1";
        client.query_opt(query, &[&table]).expect("the status").map_or(0, |row| row.get(0))
    };
    wait_for("the first samples", PATIENCE, || (taken(client) > 3).then_some(())).expect("samples");
    let peak = Peak::watch(healer);
    let (first, cpu, began) = (taken(client), cpu_s(healer), Instant::now());
    wait_for("more samples", PATIENCE, || (taken(client) >= first + count as i64).then_some(()))
        .expect("samples");
    let samples = (taken(client) - first) as f64;
    let cpu_ms = (cpu_s(healer) - cpu) / samples * 1000.0;
    let peak = peak.end();
    println!("| healer's CPU for a sample of `{table}` | {cpu_ms:.1} ms | |");
    println!(
        "| its share of a core at the default interval | {:.3} % | {} |",
        cpu_ms / 10.0 / INTERVAL_S,
        if mib.is_none() { "0.2 %" } else { "" }
    );
    let grown = peak.saturating_sub(before) as f64 / f64::from(1 << 20);
    println!(
        "| healer's own memory, above what it had before `{table}` | {grown:.1} MiB | {} |",
        mib.map_or(String::new(), |mib| format!("{mib:.0} MiB"))
    );
    if mib.is_none() && cpu_ms / 10.0 / INTERVAL_S > 0.2 {
        missed.push(format!("samples of {table} take {cpu_ms:.1} ms each"));
    }
    if mib.is_some_and(|mib| grown > mib) {
        missed.push(format!("{table} takes {grown:.1} MiB"));
    }
    eprintln!("{samples} samples in {:.0} s", began.elapsed().as_secs_f64());
    client.execute("SELECT ruvector_collection_unregister($1)", &[&table]).expect("unregistered");
}

/// The recall panel on many rows, as the healer runs it.
fn panel(cluster: &Cluster, client: &mut Client, missed: &mut Vec<String>) {
    let rows: usize =
        std::env::var("BENCH_ROWS").map_or(1_000_000, |text| text.parse().expect("BENCH_ROWS is a number"));
    let began = Instant::now();
    client.batch_execute(&format!("CREATE TABLE big (embedding vector({DIMS}))")).expect("a table");
    load(client, rows);
    for statement in [
        "SET max_parallel_maintenance_workers = 2",
        "VACUUM ANALYZE big",
        "CREATE INDEX big_ivf ON big USING ivfflat (embedding vector_cosine_ops) WITH (lists = 300)",
    ] {
        client.batch_execute(statement).expect("an index");
    }
    eprintln!("{rows} rows and their index took {:.0} s", began.elapsed().as_secs_f64());
    let healer = healer(client);
    let settings =
        r#"{"mode": "observe", "sample_interval_seconds": 10, "structure_interval_seconds": 86400}"#;
    let (cpu, began) = (cpu_s(healer), Instant::now());
    client
        .execute(
            "SELECT ruvector_collection_register('big', 'big', settings => $1::text::jsonb)",
            &[&settings],
        )
        .expect("registered");
    let row = wait_for("a measured recall", PATIENCE, || {
        let query = "SELECT r.recall, r.recall_low, r.recall_high, r.queries, r.method, d.took_s
                       FROM ruvector_recall('big') r, ruvector.readings d WHERE d.kind = 'panel' AND r.measured_at IS NOT NULL";
        client.query_opt(query, &[]).expect("the recall")
    })
    .expect("a panel");
    let Ok(recall) = row.try_get::<_, f64>(0) else { panic!("recall was not measured") };
    let (low, high, queries, method, took_s): (f64, f64, i32, String, f64) =
        (row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
    println!("| panel on {rows} rows | recall {recall:.3} ({low:.3}–{high:.3}), {queries} queries | |");
    println!("| | {method} | |");
    let spent = cpu_s(healer) - cpu;
    println!(
        "| the healer's CPU for it, with the sample and one inspection | {spent:.1} s in {:.0} s | |",
        began.elapsed().as_secs_f64()
    );
    // It is repeated when its interval is over and it took no more than its share of the time since.
    let every = (took_s / TIME_SHARE_MAX).max(300.0);
    println!(
        "| the panel takes | {took_s:.1} s every {every:.0} s: {:.2} % of a core | 2 % |",
        100.0 * took_s / every
    );
    if took_s / every > 0.02 {
        missed.push(format!("the panel takes {took_s:.1} s every {every:.0} s"));
    }
    let began = Instant::now();
    let pid = healer;
    client
        .batch_execute(
            "UPDATE ruvector.readings SET measured_at = '-infinity', took_s = 0 WHERE kind = 'panel'",
        )
        .expect("made due");
    wait_for("the panel to be under way", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND state IS DISTINCT FROM 'idle' AND wait_event IS NULL";
        client.query_opt(query, &[&pid]).expect("the activity")
    })
    .expect("it is measured again");
    std::thread::sleep(Duration::from_millis(500));
    let asked = Instant::now();
    client.execute("SELECT pg_terminate_backend($1)", &[&pid]).expect("terminated");
    wait_for("its end", PATIENCE, || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()))
        .expect("ended");
    println!("| interrupted within | {:.0} ms | |", asked.elapsed().as_secs_f64() * 1000.0);
    eprintln!("interrupting took {:.0} s with waiting", began.elapsed().as_secs_f64());
    let _ = cluster;
}

/// Copies rows of the data set, each a little off its original.
fn load(client: &mut Client, rows: usize) {
    let data = Embeddings::load().expect("the data set");
    let mut random = fastrand::Rng::with_seed(1);
    let mut writer = std::io::BufWriter::with_capacity(
        1 << 20,
        client.copy_in("COPY big FROM STDIN (FORMAT binary)").expect("a copy"),
    );
    let mut send = |bytes: &[u8]| writer.write_all(bytes).expect("rows are taken");
    send(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for row in 0..rows {
        let original = data.row(row % data.rows());
        let mut bytes = Vec::with_capacity(10 + 4 * DIMS);
        bytes.extend(1i16.to_be_bytes());
        bytes.extend((4 + 4 * DIMS as i32).to_be_bytes());
        bytes.extend((DIMS as u16).to_be_bytes());
        bytes.extend([0, 0]);
        for value in &original[..DIMS] {
            bytes.extend((value + (random.f32() - 0.5) * 0.05).to_be_bytes());
        }
        send(&bytes);
    }
    send(&(-1i16).to_be_bytes());
    writer
        .into_inner()
        .map_err(|error| error.to_string())
        .expect("rows are taken")
        .finish()
        .expect("rows are taken");
}

fn healer(client: &mut Client) -> i32 {
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND datname = 'app'";
    wait_for("the healer", PATIENCE, || client.query_opt(query, &[]).expect("the activity"))
        .expect("a healer")
        .get(0)
}

fn cpu_s(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    // Fields 14 and 15 of proc(5), in ticks of a hundredth of a second.
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) as f64 / 100.0
}

/// Memory of a process that it shares with nobody, bytes.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().strip_suffix("kB").and_then(|kb| kb.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Watches the most memory that a process takes.
struct Peak {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Peak {
    fn watch(pid: i32) -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, seen) = (stop.clone(), most.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                seen.fetch_max(resident(pid), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, most, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it watches");
        self.most.load(Ordering::Relaxed)
    }
}
