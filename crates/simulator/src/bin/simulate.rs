//! Runs many seeds of the virtual world, replays one, or hunts a planted defect.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use simulator::coverage::Coverage;
use simulator::defects::Defect;
use simulator::regression::Regression;
use simulator::report;
use simulator::scenario::{DAY_S, Mode, Scenario};
use simulator::shrink::shrink;
use simulator::simulation::{run, run_with};

/// Seeds with a violation after which a run ends.
const FAILURES_MAX: usize = 5;
/// From so many seeds on everything should have been met.
const LONG_RUN: u64 = 2000;

#[derive(Parser)]
#[command(about = "The healer's core in a virtual world")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs seeds.
    Run {
        /// How many.
        #[arg(long, env = "SEEDS", default_value_t = 1000)]
        seeds: u64,
        /// From which on.
        #[arg(long, env = "FIRST_SEED", default_value_t = 0)]
        first_seed: u64,
        /// Simulated days of each.
        #[arg(long, default_value_t = 7)]
        days: u64,
        /// So many times as much happens.
        #[arg(long, default_value_t = 1.0)]
        harshness: f64,
        /// All in this mode; else each seed has its own.
        #[arg(long)]
        mode: Option<ModeName>,
        /// Threads; else one a core.
        #[arg(long, env = "JOBS")]
        jobs: Option<usize>,
        /// No seed begins later than so many minutes from the start.
        #[arg(long, env = "MINUTES", default_value_t = 60)]
        minutes: u64,
    },
    /// Replays a seed or a file, with a line for each event.
    Replay {
        /// The seed.
        #[arg(long, conflicts_with = "file")]
        seed: Option<u64>,
        /// A regression scenario.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Simulated days.
        #[arg(long, default_value_t = 7)]
        days: u64,
        /// So many times as much happens.
        #[arg(long, default_value_t = 1.0)]
        harshness: f64,
        /// The mode; else the seed's own.
        #[arg(long)]
        mode: Option<ModeName>,
    },
    /// Finds a seed with which a defect is caught, and prints it as a regression scenario.
    Hunt {
        /// The defect, as scenarios name it.
        defect: String,
        /// The check that is to find it.
        #[arg(long)]
        expect: Option<String>,
        /// What to write under "why".
        #[arg(long, default_value = "")]
        why: String,
        /// Seeds to try.
        #[arg(long, default_value_t = 3000)]
        seeds: u64,
        /// Simulated days of each.
        #[arg(long, default_value_t = 2)]
        days: u64,
    },
    /// Compares the healer with the baselines in the same worlds, as a table and a page.
    Report {
        /// How many weeks with faults, and as many without.
        #[arg(long, env = "SEEDS", default_value_t = 200)]
        seeds: u64,
        /// From which seed on.
        #[arg(long, env = "FIRST_SEED", default_value_t = 0)]
        first_seed: u64,
        /// Where the page goes.
        #[arg(long, default_value = "sim-report.html")]
        out: PathBuf,
        /// Threads; else one a core.
        #[arg(long, env = "JOBS")]
        jobs: Option<usize>,
    },
    /// How fast a world of 100 partitions runs.
    Speed,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    Safety,
    Liveness,
    Healthy,
}

impl ModeName {
    fn mode(self) -> Mode {
        match self {
            ModeName::Safety => Mode::Safety,
            ModeName::Liveness => Mode::Liveness,
            ModeName::Healthy => Mode::Healthy,
        }
    }
}

fn scenario(seed: u64, days: u64, mode: Option<ModeName>, harshness: f64) -> Scenario {
    Scenario::generate_harsh(seed, days * DAY_S, mode.map(ModeName::mode), harshness)
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run { seeds, first_seed, days, harshness, mode, jobs, minutes } => {
            Ok(run_seeds(&Seeds { seeds, first: first_seed, days, harshness, mode, minutes }, threads(jobs)))
        }
        Command::Replay { seed, file, days, harshness, mode } => {
            let scenario = match (seed, file) {
                (_, Some(file)) => {
                    Regression::read(&file).with_context(|| file.display().to_string())?.scenario
                }
                (seed, None) => scenario(seed.context("--seed or --file")?, days, mode, harshness),
            };
            let run = run_with(&scenario, true);
            for line in &run.trace {
                println!("{line}");
            }
            println!("{} violations, {} actions", run.violations.len(), run.actions);
            Ok(if run.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Hunt { defect, expect, why, seeds, days } => {
            hunt(&defect, expect.as_deref(), why, seeds, days)
        }
        Command::Report { seeds, first_seed, out, jobs } => {
            let rows = compare(seeds, first_seed, threads(jobs));
            print!("{}", report::table(&rows));
            std::fs::write(&out, report::page(&rows, seeds, first_seed, COMMIT))
                .with_context(|| out.display().to_string())?;
            println!("{seeds} weeks compared; {}", out.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Speed => {
            speed();
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A quarter of a run is spent on small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The commit that this was built from, for the line that says how to replay.
const COMMIT: &str = env!("BUILT_FROM");

fn threads(jobs: Option<usize>) -> usize {
    jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// A bar on a terminal, a line for each tenth elsewhere.
struct Progress(ProgressBar);

impl Progress {
    fn new(seeds: u64) -> Self {
        let bar = ProgressBar::new(seeds);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {elapsed} of {duration}")
        {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn step(&self) {
        self.0.inc(1);
        let (done, all) = (self.0.position(), self.0.length().unwrap_or(0));
        if self.0.is_hidden() && all >= 10 && done.is_multiple_of(all / 10) {
            eprintln!("{done} of {all} seeds");
        }
    }
}

/// What `run` runs.
struct Seeds {
    seeds: u64,
    first: u64,
    days: u64,
    harshness: f64,
    mode: Option<ModeName>,
    minutes: u64,
}

fn run_seeds(asked: &Seeds, jobs: usize) -> ExitCode {
    let Seeds { seeds, first, days, harshness, mode, minutes } = *asked;
    let began = Instant::now();
    let bar = Progress::new(seeds);
    let next = AtomicU64::new(0);
    let failures: Mutex<Vec<(u64, &'static str, String)>> = Mutex::new(vec![]);
    let total: Mutex<(Coverage, u64, u64)> = Mutex::new((Coverage::default(), 0, 0));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= seeds || began.elapsed().as_secs() >= minutes * 60 {
                        break;
                    }
                    let seed = first + at;
                    let result = run(&scenario(seed, days, mode, harshness));
                    if let Ok(mut total) = total.lock() {
                        total.0.add(&result.coverage);
                        total.1 += result.actions;
                        total.2 += 1;
                    }
                    if let Some((check, detail)) = result.violations.into_iter().next()
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push((seed, check, detail));
                        if failures.len() >= FAILURES_MAX {
                            next.store(seeds, Ordering::Relaxed);
                        }
                    }
                    bar.step();
                }
            });
        }
    });
    bar.0.finish_and_clear();
    let (coverage, actions, done) = total.into_inner().unwrap_or_default();
    let mut failures = failures.into_inner().unwrap_or_default();
    // Not as threads happened to come.
    failures.sort();
    for (name, count) in coverage.table() {
        println!("{count:>10}  {name}");
    }
    for (seed, check, detail) in &failures {
        println!("seed {seed}: {check}: {detail}");
    }
    if let Some((seed, check, _)) = failures.first() {
        println!("shrinking seed {seed} ({check}) …");
        if let Some((short, detail)) = shrink(&scenario(*seed, days, mode, harshness)) {
            let regression = Regression { why: detail, expect: (*check).to_owned(), scenario: short };
            match serde_json::to_string_pretty(&regression) {
                Ok(text) => println!("{text}"),
                Err(error) => println!("it cannot be printed: {error}"),
            }
        }
        let mode = mode
            .and_then(|mode| mode.to_possible_value())
            .map_or(String::new(), |mode| format!(" --mode {}", mode.get_name()));
        let harsh = if harshness == 1.0 { String::new() } else { format!(" --harshness {harshness}") };
        println!("replay: simulate replay --seed {seed} --days {days}{mode}{harsh}, commit {COMMIT}");
    }
    let missing = coverage.missing();
    let long = done >= LONG_RUN && mode.is_none();
    if !missing.is_empty() {
        println!("never met: {}", missing.join("; "));
    }
    let unfinished = failures.is_empty() && done < seeds;
    if unfinished {
        println!("{done} of {seeds} seeds in {minutes} minutes: the others were not run");
    }
    let simulated_days = done * days;
    println!(
        "{done} seeds from {first}, {simulated_days} simulated days, {actions} actions, {} violations, {} of {} things met, {:.0} s, commit {COMMIT}",
        failures.len(),
        coverage.table().len() - missing.len(),
        coverage.table().len(),
        began.elapsed().as_secs_f64(),
    );
    if failures.is_empty() && !unfinished && (!long || missing.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn compare(seeds: u64, first: u64, jobs: usize) -> Vec<report::Row> {
    let bar = Progress::new(seeds);
    let next = AtomicU64::new(0);
    // Sums of floating-point numbers depend on their order: by seed, and added at the end.
    let found: Mutex<Vec<(u64, Vec<report::Row>)>> = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= seeds {
                        break;
                    }
                    let rows = report::rows_of(first + at);
                    if let Ok(mut found) = found.lock() {
                        found.push((at, rows));
                    }
                    bar.step();
                }
            });
        }
    });
    bar.0.finish_and_clear();
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by_key(|(at, _)| *at);
    let mut total = vec![];
    for (_, rows) in found {
        report::add(&mut total, rows);
    }
    total
}

fn hunt(defect: &str, expect: Option<&str>, why: String, seeds: u64, days: u64) -> anyhow::Result<ExitCode> {
    let defect: Defect = serde_json::from_value(serde_json::Value::String(defect.to_owned()))?;
    for seed in 0..seeds {
        let whole = scenario(seed, days, None, 1.0);
        let planted = Scenario { defects: vec![defect], ..whole.clone() };
        let found = run(&planted).violations.into_iter().next();
        let Some((check, _)) = found.filter(|(check, _)| expect.is_none_or(|expect| expect == *check)) else {
            continue;
        };
        if let Some((short, detail)) = shrink(&planted) {
            let why = if why.is_empty() { detail } else { why.clone() };
            let regression = Regression { why, expect: check.to_owned(), scenario: short };
            if regression.verify().is_err() {
                continue;
            }
            println!("{}", serde_json::to_string_pretty(&regression)?);
            return Ok(ExitCode::SUCCESS);
        }
    }
    anyhow::bail!("no seed below {seeds} finds it")
}

/// 25 collections of 4 partitions, a day of ticks of 10 s.
fn speed() {
    for (word, mode) in [("healthy", Mode::Healthy), ("sick", Mode::Safety)] {
        let mut scenario = Scenario::generate_as(1, DAY_S, mode);
        let one = simulator::scenario::CollectionSpec {
            partitions: 4,
            managed: false,
            rows: 20_000.0,
            value_bytes: 1544,
            ivfflat: true,
            hnsw: false,
            attached: false,
            nightly_vacuum: None,
            far: 0,
            settings: serde_json::json!({}),
        };
        scenario.collections = vec![one; 25];
        let began = Instant::now();
        let result = run(&scenario);
        let wall_s = began.elapsed().as_secs_f64();
        println!(
            "{word}: 100 partitions, a day of ticks of 10 s in {wall_s:.2} s: {:.0} times real time ({} actions, {} violations)",
            DAY_S as f64 / wall_s,
            result.actions,
            result.violations.len(),
        );
    }
}
