//! From the workspace's root:
//! `cargo run --release --target-dir target --manifest-path crates/mincut/benches/peers/Cargo.toml -- [--quick] [--yardstick-only] [--seconds N]`
//!
//! `--quick` leaves the large graphs out, `--yardstick-only` all peers but LEMON; either draws nothing. A solver is stopped
//! after twice `--seconds` on a graph.
//!
//! Two parts alone: `-- stream` runs the streams of changes, `-- graphs DIRECTORY` writes the graphs as files for the
//! example `cut`.
//!
//! Makes the graphs, runs every solver on each in a process of its own and under a time limit, checks that all find
//! the same value, prints tables and draws a picture of scaling.

mod families;
mod meter;
mod peers;
mod plot;
mod stream;

use families::Instance;
use peers::{Answer, Bench, Outcome, PEERS, YARDSTICK};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static METER: meter::Meter = meter::Meter;

/// A peer is stopped after this, per graph, unless the command line says otherwise.
const SECONDS_DEFAULT: f64 = 30.0;
/// Runs of a solver on a graph; the median counts. Slow ones stop at the time limit.
const RUNS: usize = 15;
/// Ours and LEMON's are short, and easily disturbed.
const RUNS_OF_THE_FIRST: usize = 60;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["peer", name, file, runs, seconds] => peers::run_here(name, Path::new(file), runs, seconds),
        ["stream"] => {
            stream::run();
            Ok(())
        }
        ["graphs", directory] => instances(false).into_iter().try_for_each(|make| {
            let instance = make();
            let file = instance.file_in(Path::new(directory));
            write(&instance, &file).map_err(|error| format!("{}: {error}", file.display()))
        }),
        _ => compare(&words),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn instances(quick: bool) -> Vec<fn() -> Instance> {
    let mut all: Vec<fn() -> Instance> = vec![
        || families::monitor(100, 10),
        || families::monitor(300, 11),
        || families::monitor(1000, 12),
        || families::monitor(3000, 13),
        || families::monitor(5000, 14),
        || families::communities(1000, 1),
        || families::communities(10_000, 2),
        || families::gnm(10_000, 80_000, 5),
        || families::clique(1000, 8),
    ];
    if !quick {
        let large: [fn() -> Instance; 5] = [
            || families::gnm(3000, 1_000_000, 9),
            || families::communities(100_000, 3),
            || families::gnm(100_000, 800_000, 6),
            || families::power_law(100_000, 7),
            || families::communities(1_000_000, 4),
        ];
        all.extend(large);
    }
    all
}

fn compare(words: &[&str]) -> Result<(), String> {
    let quick = words.contains(&"--quick");
    let yardstick_only = words.contains(&"--yardstick-only");
    let seconds = match words.iter().position(|&word| word == "--seconds") {
        Some(at) => words.get(at + 1).and_then(|text| text.parse().ok()).ok_or("--seconds needs a number")?,
        None => SECONDS_DEFAULT,
    };
    let bench = Bench::prepare(seconds)?;
    let mut rows = Vec::new();
    let mut wrong = 0;
    for make in instances(quick) {
        let instance = make();
        let file = instance.file_in(&bench.directory);
        write(&instance, &file).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut row = Row { name: instance.name.clone(), edges: instance.edges.len(), answers: Vec::new() };
        let work = instance.nodes as f64 * instance.edges.len() as f64;
        drop(instance);
        for (number, peer) in PEERS.iter().enumerate() {
            if number > YARDSTICK && yardstick_only {
                row.answers.push(Outcome::Skipped);
                continue;
            }
            let runs = if number <= YARDSTICK { RUNS_OF_THE_FIRST } else { RUNS };
            let outcome = bench.run(number, &file, work, runs);
            eprintln!("{:24} {:20} {outcome}", row.name, peer.name);
            row.answers.push(outcome);
        }
        wrong += row.disagreements();
        let _ = std::fs::remove_file(&file);
        rows.push(row);
    }
    table(&rows);
    println!();
    stream::run();
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scaling.svg");
    if !quick && !yardstick_only {
        plot::draw(&rows, &picture).map_err(|error| format!("{}: {error}", picture.display()))?;
    }
    if wrong > 0 { Err(format!("{wrong} answers differ from ours or could not be compared")) } else { Ok(()) }
}

/// One graph and what every solver made of it.
pub struct Row {
    pub name: String,
    pub edges: usize,
    pub answers: Vec<Outcome>,
}

impl Row {
    pub fn answer(&self, peer: usize) -> Option<&Answer> {
        match &self.answers[peer] {
            Outcome::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    /// Peers whose value is another than ours. Fixed-point rounding differs by far less than this.
    fn disagreements(&self) -> usize {
        let Some(ours) = self.answer(0).map(|answer| answer.value) else {
            return 1;
        };
        let mut wrong = 0;
        for (peer, outcome) in self.answers.iter().enumerate() {
            if let Outcome::Answer(answer) = outcome
                && (answer.value - ours).abs() > 1e-7 * ours.max(answer.value)
            {
                println!("{}: {} says {} and we say {ours}", self.name, PEERS[peer].name, answer.value);
                wrong += usize::from(!PEERS[peer].may_be_wrong);
            }
        }
        wrong
    }
}

fn table(rows: &[Row]) {
    print!(
        "| graph | m | arc pass ms | lambda_cut ms | × pass, median (best) | bytes an edge | two at once "
    );
    for peer in &PEERS[1..] {
        print!("| {} ", peer.name);
    }
    println!("| ours ÷ LEMON, median (best) |");
    println!("|{}", "---|".repeat(7 + PEERS.len()));
    for row in rows {
        let Some(ours) = row.answer(0) else {
            println!("| {} | {} | failed |", row.name, row.edges);
            continue;
        };
        let extra = |at: usize| ours.extra.get(at).copied().unwrap_or(f64::NAN);
        let (best, pass, pass_best) = (extra(0), extra(1), extra(2));
        print!(
            "| {} | {} | {pass:.3} | {:.3} | {:.1} ({:.1}) | {:.0} | {:.2} × ",
            row.name,
            row.edges,
            ours.milliseconds,
            ours.milliseconds / pass,
            best / pass_best,
            extra(3),
            extra(4)
        );
        for peer in 1..PEERS.len() {
            match &row.answers[peer] {
                Outcome::Answer(answer) => print!("| {:.3} ", answer.milliseconds),
                other => print!("| {other} "),
            }
        }
        match row.answer(1) {
            Some(lemon) => println!(
                "| {:.4} ({:.4}) |",
                ours.milliseconds / lemon.milliseconds,
                best / lemon.extra.first().copied().unwrap_or(f64::NAN)
            ),
            None => println!("| – |"),
        }
    }
}

fn write(instance: &Instance, path: &Path) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    writeln!(file, "{} {}", instance.nodes, instance.edges.len())?;
    for (u, v, weight) in &instance.edges {
        writeln!(file, "{u} {v} {weight}")?;
    }
    file.flush()
}
