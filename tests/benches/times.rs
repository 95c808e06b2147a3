//! How long users wait for the healer, with its default settings: an index that becomes invalid, one of twelve thousand rows
//! whose lists no longer fit, and an abort. `make bench-times` runs it; `ROUNDS` (10) of each, each on a server of its own.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use cluster::dataset::Column;
use cluster::faults::space::leave_invalid;
use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::load_docs;

const PATIENCE: Duration = Duration::from_secs(600);
/// Servers at a time: they wait more than they work.
const LANES: usize = 3;

/// What is timed, in seconds from the fault.
#[derive(Default)]
struct Times {
    /// Samples that saw the fault, up to the one that changed the state.
    samples: Vec<f64>,
    detected: Vec<f64>,
    repaired: Vec<f64>,
    verified: Vec<f64>,
}

fn main() -> ExitCode {
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10);
    println!("PostgreSQL {}, default settings, {rounds} rounds of each, seconds", tests::version());
    println!("| what | p50 | p95 | most | asked for |\n|---|--:|--:|--:|--:|");
    let mut missed = vec![];
    let invalid = lanes(rounds, invalid);
    let lists = lanes(rounds, lists);
    for (name, times, limit) in
        [("invalid index", &invalid, 60.0), ("12,000 rows, lists that do not fit", &lists, 120.0)]
    {
        line(&format!("{name}: samples until its state changes"), &times.samples, Some(5.0), &mut missed);
        line(&format!("{name}: state changed"), &times.detected, None, &mut missed);
        line(&format!("{name}: repaired, searches use it"), &times.repaired, Some(limit), &mut missed);
        line(&format!("{name}: verified and recorded"), &times.verified, None, &mut missed);
    }
    let aborts: Vec<f64> = (0..rounds).map(|_| abort()).collect();
    line("abort of a build: its worker has stopped", &aborts, Some(1.0), &mut missed);
    for reason in &missed {
        println!("not reached: {reason}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Rounds on servers of their own, a few at a time.
fn lanes(rounds: usize, round: fn(&mut Times)) -> Times {
    let mut all = Times::default();
    std::thread::scope(|scope| {
        let lane = |lane: usize| {
            scope.spawn(move || {
                let mut times = Times::default();
                for _ in (lane..rounds).step_by(LANES) {
                    round(&mut times);
                }
                times
            })
        };
        for lane in (0..LANES).map(lane).collect::<Vec<_>>() {
            let times = lane.join().expect("a lane");
            all.samples.extend(times.samples);
            all.detected.extend(times.detected);
            all.repaired.extend(times.repaired);
            all.verified.extend(times.verified);
        }
    });
    all
}

fn line(what: &str, seconds: &[f64], limit: Option<f64>, missed: &mut Vec<String>) {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1];
    let asked = limit.map_or_else(String::new, |limit| limit.to_string());
    println!("| {what} | {:.2} | {:.2} | {:.2} | {asked} |", at(0.5), at(0.95), at(1.0));
    if let Some(limit) = limit.filter(|limit| at(0.95) > *limit) {
        missed.push(format!("{what}: p95 {:.2}, asked for {limit}", at(0.95)));
    }
}

/// A server with all settings as they come.
fn server() -> (Cluster, Client) {
    let builder = Cluster::builder(tests::version()).preload(true).database("app");
    let cluster = builder.start().expect("a cluster");
    let mut client = cluster.connect("app").expect("a connection");
    client.batch_execute("CREATE EXTENSION ruvector CASCADE").expect("the extension");
    (cluster, client)
}

fn register(client: &mut Client) {
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").expect("a collection");
    wait_for("a healthy sample", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE state = 'normal' AND lambda_cut > 0.9";
        client.query_opt(query, &[]).expect("the status")
    })
    .expect("a healthy sample");
}

fn clock(client: &mut Client) -> String {
    client.query_one("SELECT clock_timestamp()::text", &[]).expect("the clock").get(0)
}

/// Waits until the fault that was there at `began` is found, repaired and verified.
fn follow(client: &mut Client, began: &str, repaired: &str, times: &mut Times) {
    let started = Instant::now();
    let until = |client: &mut Client, what: &str, query: &str| {
        wait_for(what, PATIENCE, || client.query_opt(query, &[]).expect("a query"))
            .unwrap_or_else(|error| panic!("{error}\n{}", tests::said(client)));
        started.elapsed().as_secs_f64()
    };
    let state = format!(
        "SELECT 1 FROM ruvector.integrity_events WHERE happened_at > '{began}' AND to_state <> 'normal'"
    );
    times.detected.push(until(client, "another state", &state));
    let weak = format!(
        "SELECT count(*) FROM ruvector.integrity_history h WHERE lambda_cut < 0.7 AND sampled_at > '{began}'
            AND sampled_at <= (SELECT min(happened_at) FROM ruvector.integrity_events WHERE happened_at > '{began}')"
    );
    times.samples.push(client.query_one(&weak, &[]).expect("samples").get::<_, i64>(0) as f64);
    times.repaired.push(until(client, "the repair", repaired));
    let verified = "SELECT 1 FROM ruvector.healing_outcomes WHERE verified";
    times.verified.push(until(client, "an outcome", verified));
    // What had to be tried again says why.
    for row in
        client.query("SELECT story FROM ruvector.healing_outcomes WHERE NOT verified", &[]).expect("outcomes")
    {
        eprintln!("not verified: {}", row.get::<_, String>(0));
    }
}

/// Of a table with one index that is left invalid by a killed build.
fn invalid(times: &mut Times) {
    let (cluster, mut client) = server();
    load_docs(&mut client, 4000);
    client
        .batch_execute("CREATE INDEX docs_old ON docs USING hnsw (embedding vector_cosine_ops); ANALYZE docs")
        .expect("an index");
    register(&mut client);
    leave_invalid(&cluster, &mut client, "docs", "docs_old", "docs_i").expect("an invalid index");
    client.batch_execute("DROP INDEX docs_old").expect("the fault");
    let began = clock(&mut client);
    let valid = "SELECT 1 FROM pg_index WHERE indrelid = 'docs'::regclass AND NOT indisprimary AND indisvalid
                    AND indexrelid = to_regclass('docs_i')";
    follow(&mut client, &began, valid, times);
}

/// Of twelve thousand rows whose index was trained on four hundred.
fn lists(times: &mut Times) {
    let (_cluster, mut client) = server();
    let data = load_docs(&mut client, 400);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100); ANALYZE docs",
        )
        .expect("an index");
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").expect("a collection");
    wait_for("a sample", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE samples > 0", &[])
            .expect("the status")
    })
    .expect("a sample");
    data.load_into(&mut client, "docs", &Column::ID_AND_EMBEDDING, 400..12_000).expect("rows");
    client.batch_execute("ANALYZE docs").expect("statistics");
    let began = clock(&mut client);
    // By other lists, or at first by a greater search effort: either way searches find their neighbours again.
    follow(
        &mut client,
        &began,
        "SELECT 1 FROM ruvector.actions WHERE status IN ('verifying', 'succeeded')",
        times,
    );
}

/// Seconds from the call of an abort until the worker of a rebuild has stopped, so that nothing is built any more.
fn abort() -> f64 {
    let (_cluster, mut client) = server();
    load_docs(&mut client, 12_000);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100); ANALYZE docs",
        )
        .expect("an index");
    register(&mut client);
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .expect("an action")
        .get(0);
    let at_work = "SELECT 1 FROM pg_stat_progress_create_index";
    wait_for("a build", PATIENCE, || client.query_opt(at_work, &[]).expect("progress")).expect("a build");
    let called = Instant::now();
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).expect("an abort");
    wait_for("the end of the build", PATIENCE, || {
        client.query_opt(at_work, &[]).expect("progress").is_none().then_some(())
    })
    .expect("its end");
    called.elapsed().as_secs_f64()
}
