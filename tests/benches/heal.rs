//! What a rebuild by the healer costs against a bare `CREATE INDEX CONCURRENTLY` of the same index on the same table, in
//! interleaved pairs, while an application searches, in a session a processor, at half of what the server can do beside a build. See the
//! README beside it.
//!
//! `cargo bench -p tests --bench heal -- [ROWS:DIMENSIONS:PAIRS[:twins] …]`; without arguments 12000:384:12. Of twins, two tables of
//! the same rows, the healer builds the index of one while a session builds that of the other: whatever the machine does, it
//! does to both. Nobody searches then, and nothing is compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use cluster::dataset::Embeddings;
use cluster::{Cluster, wait_for};
use postgres::Client;

/// Longest wait for one thing: a build of a million rows on a busy machine.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Lists of the index that is at fault, and the rows that it is trained on before the others come: two a list.
const LISTS: usize = 200;
const TRAINED_ON: usize = 400;
/// Time over which the application's greatest rate is measured.
const CAPACITY_TIME: Duration = Duration::from_secs(5);
/// Searches begin so long before a build.
const BEFORE: Duration = Duration::from_secs(2);
/// How often a build is looked at, and with every so manieth look asked whether it is done.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_A_QUESTION: u32 = 20;

fn main() {
    // Cargo adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let runs = if arguments.is_empty() { vec!["12000:384:12".to_owned()] } else { arguments };
    for run in runs {
        let (numbers, twins) = run.strip_suffix(":twins").map_or((run.as_str(), false), |run| (run, true));
        let parts: Vec<usize> = numbers.split(':').filter_map(|word| word.parse().ok()).collect();
        let [rows, dims, pairs] = parts[..] else {
            eprintln!("ROWS:DIMENSIONS:PAIRS[:twins] was expected, not {run}");
            std::process::exit(2);
        };
        let stage = Stage::prepare(rows, dims);
        if twins { stage.compare_twins(pairs) } else { stage.compare(pairs) }
    }
}

/// What one build took.
#[derive(Clone, Copy)]
struct Build {
    wall_s: f64,
    /// Processor time of the process that built: what others do on the machine is not in it.
    cpu_s: f64,
    /// The application's p95 meanwhile.
    p95_ms: f64,
}

struct Pair {
    bare: Build,
    healer: Build,
    comparison_s: f64,
}

/// A server whose healer is to build an index anew.
struct Stage {
    cluster: Cluster,
    client: Client,
    data: Arc<Embeddings>,
    rows: usize,
    dims: usize,
    /// Lists of the planned index.
    lists: i32,
}

impl Stage {
    fn prepare(rows: usize, dims: usize) -> Self {
        let cluster = Cluster::builder(tests::version())
            .preload(true)
            .database("app")
            // The same for both builds, and enough for k-means.
            .setting("maintenance_work_mem", if rows > 100_000 { "1GB" } else { "256MB" })
            // Each build is one process, whose processor time can be read.
            .setting("max_parallel_maintenance_workers", "0")
            .setting("shared_buffers", "1GB")
            .setting("max_wal_size", "8GB")
            .start()
            .expect("a cluster");
        let mut client = cluster.connect("app").expect("a connection");
        let data = Arc::new(Embeddings::load().expect("the data set"));
        let began = Instant::now();
        load(&mut client, &data, rows, dims);
        eprintln!("{rows} rows of {dims} dimensions loaded, {:.0} s", began.elapsed().as_secs_f64());
        client
            .batch_execute(
                r#"SELECT ruvector_healing_configure('{"mode": "observe", "sample_interval_seconds": 5, "verify_window_seconds": 30,
                   "min_healing_interval_seconds": 0, "panel_interval_seconds": 604800}');
                   SELECT ruvector_collection_register('docs', 'docs')"#,
            )
            .expect("a collection");
        let lists = planned_lists(&mut client);
        eprintln!("{lists} lists are planned");
        Stage { cluster, client, data, rows, dims, lists }
    }

    /// In turns, while an application searches.
    fn compare(mut self, pairs: usize) {
        let before = figures(&mut self.client);
        let pace = capacity(&self.cluster, &self.data, self.dims).mul_f64(2.0 / beside_a_build());
        eprintln!("each of {} sessions searches every {:.1} ms", sessions(), pace.as_secs_f64() * 1e3);
        let mut measured = Vec::new();
        for number in 1..=pairs {
            // Which comes first changes: what the machine does meanwhile is nobody's fault.
            let (bare, (healer, comparison_s));
            if number % 2 == 0 {
                bare = self.build_bare(pace);
                (healer, comparison_s) = self.build_by_healer(pace);
            } else {
                (healer, comparison_s) = self.build_by_healer(pace);
                bare = self.build_bare(pace);
            }
            eprintln!("pair {number}: bare {bare}, healer {healer}, comparison {comparison_s:.1} s");
            measured.push(Pair { bare, healer, comparison_s });
        }
        report(&self, &measured);
        // And the whole of it, kept.
        let action = execute(&mut self.client);
        assert_eq!(ended(&mut self.client, action), "succeeded", "{}", tests::said(&mut self.client));
        std::thread::sleep(Duration::from_secs(10));
        println!("before: {before}\nafter:  {}", figures(&mut self.client));
        let story = "SELECT story FROM ruvector_healing_history() WHERE status = 'succeeded' ORDER BY id DESC LIMIT 1";
        if let Ok(Some(row)) = self.client.query_opt(story, &[]) {
            println!("\n{}", row.get::<_, &str>(0));
        }
    }

    /// At the same time.
    fn compare_twins(mut self, pairs: usize) {
        for statement in ["CREATE TABLE twin AS SELECT * FROM docs", "VACUUM ANALYZE twin"] {
            self.client.batch_execute(statement).expect("another table");
        }
        let mut measured = Vec::new();
        for number in 1..=pairs {
            let action = execute(&mut self.client);
            wait_for_step(&mut self.client, action, "build_index", "intent");
            let bare = BareBuild::start(&self.cluster, "twin", self.lists);
            let healer = self.follow_healer(action, None);
            let bare = bare.ended(None);
            self.abort(action);
            self.clean();
            eprintln!("pair {number}: bare {bare}, healer {healer}");
            measured.push(Pair { bare, healer, comparison_s: f64::NAN });
        }
        report(&self, &measured);
    }

    /// `CREATE INDEX CONCURRENTLY` by a session.
    fn build_bare(&mut self, pace: Duration) -> Build {
        let searches = Searches::start(&self.cluster, &self.data, self.dims, pace);
        std::thread::sleep(BEFORE);
        let build = BareBuild::start(&self.cluster, "docs", self.lists).ended(Some(searches));
        self.clean();
        build
    }

    /// The healer's build, and the seconds of the comparison; then it is undone.
    fn build_by_healer(&mut self, pace: Duration) -> (Build, f64) {
        let searches = Searches::start(&self.cluster, &self.data, self.dims, pace);
        std::thread::sleep(BEFORE);
        let action = execute(&mut self.client);
        let build = self.follow_healer(action, Some(searches));
        wait_for_step(&mut self.client, action, "swap_index", "done");
        let (from, to) = times(&mut self.client, action, "compare_indexes");
        self.abort(action);
        (build, to.duration_since(from).unwrap_or_default().as_secs_f64())
    }

    /// The healer's build, to its end.
    fn follow_healer(&mut self, action: i64, searches: Option<Searches>) -> Build {
        let client = &mut self.client;
        let pid: i32 = wait_for("the worker", PATIENCE, || {
            let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector action'";
            client.query_opt(query, &[]).expect("the processes").map(|row| row.get(0))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", tests::said(client)));
        let cpu = Cpu::follow(pid, || reached(client, action, "build_index", "done"));
        let (from, to) = times(client, action, "build_index");
        cpu.build(from, to, searches)
    }

    fn abort(&mut self, action: i64) {
        self.client.query_one("SELECT ruvector_healing_abort($1)", &[&action]).expect("an abort");
        assert_eq!(ended(&mut self.client, action), "aborted", "{}", tests::said(&mut self.client));
    }

    fn clean(&mut self) {
        // Each by itself: several statements at once are one transaction.
        for statement in ["DROP INDEX CONCURRENTLY IF EXISTS bare", "CHECKPOINT"] {
            self.client.batch_execute(statement).expect("a drop");
        }
    }
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} s ({:.1} of processor, p95 {:.1} ms)", self.wall_s, self.cpu_s, self.p95_ms)
    }
}

/// A session that builds an index, and what it has taken of the processor.
struct BareBuild {
    from: SystemTime,
    session: JoinHandle<SystemTime>,
    cpu: JoinHandle<Cpu>,
}

impl BareBuild {
    fn start(cluster: &Cluster, table: &str, lists: i32) -> Self {
        let mut session = cluster.connect("app").expect("a connection");
        let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).expect("its process").get(0);
        let statement = format!(
            "CREATE INDEX CONCURRENTLY bare ON {table} USING ivfflat (embedding vector_cosine_ops) WITH (lists = {lists})"
        );
        let from = SystemTime::now();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = done.clone();
        let session = std::thread::spawn(move || {
            session.batch_execute(&statement).expect("a build");
            let to = SystemTime::now();
            is_done.store(true, Ordering::Relaxed);
            // Its process is there as long as it is looked at.
            std::thread::sleep(LOOK * (LOOKS_A_QUESTION + 2));
            to
        });
        let cpu = std::thread::spawn(move || Cpu::follow(pid, || done.load(Ordering::Relaxed)));
        BareBuild { from, session, cpu }
    }

    fn ended(self, searches: Option<Searches>) -> Build {
        let cpu = self.cpu.join().expect("its figures");
        cpu.build(self.from, self.session.join().expect("a build"), searches)
    }
}

/// Processor time that a process has taken so far, by time.
struct Cpu(Vec<(SystemTime, f64)>);

impl Cpu {
    /// Follows a process until something is the case. Both builds are looked at in this way and in no other: where the processors
    /// are all in use, whoever asks the server something is part of what is measured.
    fn follow(pid: i32, mut until: impl FnMut() -> bool) -> Self {
        let mut seen = Vec::new();
        for look in 1.. {
            seen.push((SystemTime::now(), cpu_s(pid)));
            if look % LOOKS_A_QUESTION == 0 && until() {
                break;
            }
            std::thread::sleep(LOOK);
        }
        Cpu(seen)
    }

    fn at(&self, time: SystemTime) -> f64 {
        let seen = self.0.iter().take_while(|(at, cpu)| *at <= time && cpu.is_finite()).last();
        seen.or(self.0.first()).map_or(f64::NAN, |(_, cpu)| *cpu)
    }

    /// What a build between these times took; the searches end with it.
    fn build(&self, from: SystemTime, to: SystemTime, searches: Option<Searches>) -> Build {
        let mut done = searches.map(Searches::stop).unwrap_or_default();
        done.retain(|search| search.due >= from && search.due + search.took <= to);
        Build {
            wall_s: to.duration_since(from).unwrap_or_default().as_secs_f64(),
            cpu_s: self.at(to) - self.at(from),
            p95_ms: p95_ms(done),
        }
    }
}

/// A table whose index was built on the first rows.
fn load(client: &mut Client, data: &Embeddings, rows: usize, dims: usize) {
    client
        .batch_execute(&format!(
            "CREATE EXTENSION ruvector CASCADE; CREATE TABLE docs (id int PRIMARY KEY, embedding vector({dims}))"
        ))
        .expect("a table");
    data.load_jittered(client, "docs", dims, 0..TRAINED_ON).expect("rows");
    client
        .batch_execute(&format!(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = {LISTS})"
        ))
        .expect("an index");
    data.load_jittered(client, "docs", dims, TRAINED_ON..rows).expect("rows");
    client.batch_execute("VACUUM ANALYZE docs").expect("statistics");
}

fn planned_lists(client: &mut Client) -> i32 {
    wait_for("a plan", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE decision ->> 'reason' = 'observe_mode'";
        client.query_opt(query, &[]).expect("the state")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", tests::said(client)));
    let query = r#"SELECT (plan #>> '{plan,steps,0,options,lists}')::integer
                     FROM ruvector_healing_execute('docs', 'rebuild_centroids', '{"dry_run": true}')"#;
    client.query_one(query, &[]).expect("a plan").get(0)
}

/// Recall and blocks per query as the healer measures them, λ.
fn figures(client: &mut Client) -> String {
    let query = "SELECT format('recall@10 %s, %s blocks a query, λ %s', round(h.recall::numeric, 3),
                        round(h.blocks_per_query::numeric), round(s.lambda_cut::numeric, 2))
                   FROM ruvector_index_health('docs') h, ruvector_integrity_status() s";
    client.query_one(query, &[]).map_or_else(|error| error.to_string(), |row| row.get(0))
}

/// Time that one search takes each of the application's sessions when they do nothing else.
fn capacity(cluster: &Cluster, data: &Arc<Embeddings>, dims: usize) -> Duration {
    let searches = Searches::start(cluster, data, dims, Duration::ZERO);
    std::thread::sleep(CAPACITY_TIME);
    let latencies = searches.stop();
    CAPACITY_TIME.mul_f64(sessions() as f64).div_f64(latencies.len().max(1) as f64)
}

/// The share of the processors that one process which builds leaves. Where searches took half of all of them on a machine of two,
/// nothing would be left: how long they wait is then the length of a queue that grows, whoever builds.
fn beside_a_build() -> f64 {
    match sessions() {
        1 => 1.0,
        processors => (processors - 1) as f64 / processors as f64,
    }
}

/// Sessions of the application: a processor each.
fn sessions() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn execute(client: &mut Client) -> i64 {
    let query = "SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')";
    client.query_one(query, &[]).expect("an action").get(0)
}

fn ended(client: &mut Client, action: i64) -> String {
    let wait = format!("CALL ruvector_healing_wait({action}, '1 hour')");
    client.query_one(wait.as_str(), &[]).expect("an end").get(0)
}

/// When a step began and when it was done.
fn times(client: &mut Client, action: i64, kind: &str) -> (SystemTime, SystemTime) {
    let query = "SELECT a.noted_at, b.noted_at FROM ruvector.action_steps a JOIN ruvector.action_steps b USING (action_id, step_no)
                  WHERE action_id = $1 AND a.state = 'intent' AND b.state = 'done' AND a.step ->> 'kind' = $2";
    let row = client.query_one(query, &[&action, &kind]).expect("a step");
    (row.get(0), row.get(1))
}

/// Processor time that a process has taken (proc(5): fields 14 and 15, in hundredths of a second).
fn cpu_s(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |field: usize| fields.get(field - 3).and_then(|word| word.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(14) + ticks(15)) / 100.0
}

fn wait_for_step(client: &mut Client, action: i64, kind: &str, state: &str) {
    wait_for(kind, PATIENCE, || reached(client, action, kind, state).then_some(()))
        .unwrap_or_else(|error| panic!("{error}\n{}", tests::said(client)));
}

/// Whether the action has come to this state of a step.
///
/// # Panics
/// When it has ended before.
fn reached(client: &mut Client, action: i64, kind: &str, state: &str) -> bool {
    let query = "SELECT EXISTS (SELECT FROM ruvector.action_steps WHERE action_id = $1 AND step ->> 'kind' = $2 AND state = $3),
                        EXISTS (SELECT FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL)";
    let row = client.query_one(query, &[&action, &kind, &state]).expect("the journal");
    let (reached, ended): (bool, bool) = (row.get(0), row.get(1));
    assert!(reached || !ended, "{}", tests::said(client));
    reached
}

/// Sessions that search, each one search every so often, until they are stopped.
struct Searches {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Search>>>,
}

/// One search: when it was due, and how long after that it was answered.
#[derive(Clone, Copy)]
struct Search {
    due: SystemTime,
    took: Duration,
}

impl Searches {
    fn start(cluster: &Cluster, data: &Arc<Embeddings>, dims: usize, pace: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let session = |number: usize| {
            let client = cluster.connect("app").expect("a connection");
            let (stopped, data) = (stop.clone(), data.clone());
            // Out of step, as users are.
            let due = Instant::now() + pace.mul_f64(number as f64 / sessions() as f64);
            std::thread::spawn(move || search(client, &data, dims, pace, due, &stopped))
        };
        let threads = (0..sessions()).map(session).collect();
        Self { stop, threads }
    }

    /// All that they have searched.
    fn stop(self) -> Vec<Search> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("the searches")).collect()
    }
}

/// One session's searches, the first of them due at this time.
fn search(
    mut client: Client,
    data: &Embeddings,
    dims: usize,
    pace: Duration,
    mut due: Instant,
    stopped: &AtomicBool,
) -> Vec<Search> {
    let statement = client
        .prepare("SELECT id FROM docs ORDER BY embedding <=> $1::text::vector LIMIT 10")
        .expect("a statement");
    let mut done = Vec::new();
    for row in (0..data.rows()).cycle().step_by(37) {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // From when it was due: a search that waits for the one before waits too.
        let began = if pace.is_zero() { Instant::now() } else { due };
        let vector = data.jittered_literal(row, dims, 1);
        client.query(&statement, &[&vector]).expect("a search");
        let took = began.elapsed();
        done.push(Search { due: SystemTime::now() - took, took });
        due += pace;
    }
    done
}

fn p95_ms(searches: Vec<Search>) -> f64 {
    let mut latencies: Vec<Duration> = searches.into_iter().map(|search| search.took).collect();
    latencies.sort_unstable();
    let at = (latencies.len() as f64 * 0.95) as usize;
    latencies.get(at.min(latencies.len().saturating_sub(1))).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
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
    let half = T_95.get(logs.len() - 2).copied().unwrap_or(2.0) * (variance / n).sqrt();
    format!("{:.3} ({:.3}–{:.3})", mean.exp(), (mean - half).exp(), (mean + half).exp())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(stage: &Stage, pairs: &[Pair]) {
    let Stage { rows, dims, lists, .. } = stage;
    let of = |figure: fn(&Pair) -> f64| median(pairs.iter().map(figure));
    println!(
        "\n{rows} rows × {dims}, ivfflat with {lists} lists, PostgreSQL {}, {} pairs",
        tests::version().major(),
        pairs.len()
    );
    println!("| | bare | healer | ratio (95 %) |\n|---|---|---|---|");
    let row = |name: &str, figure: fn(&Build) -> f64| {
        let (bare, healer) = (
            median(pairs.iter().map(|pair| figure(&pair.bare))),
            median(pairs.iter().map(|pair| figure(&pair.healer))),
        );
        let ratio =
            ratio(&pairs.iter().map(|pair| (figure(&pair.healer), figure(&pair.bare))).collect::<Vec<_>>());
        println!("| {name} | {bare:.1} | {healer:.1} | {ratio} |");
    };
    row("build, s", |build| build.wall_s);
    row("build, s of processor", |build| build.cpu_s);
    row("application's p95 during it, ms", |build| build.p95_ms);
    println!(
        "| comparison, s | – | {:.1} | {:.2} of the build |",
        of(|pair| pair.comparison_s),
        of(|pair| pair.comparison_s / pair.healer.wall_s)
    );
}
