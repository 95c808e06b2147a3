//! The solvers: how each is prepared, started, limited and read.

use crate::meter;
use lambda_cut::{Graph, Scratch};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One solver.
pub struct Peer {
    pub name: &'static str,
    kind: Kind,
    /// Its answers are shown but do not fail the comparison.
    pub may_be_wrong: bool,
}

enum Kind {
    /// In this program, in another process.
    Here,
    /// A C++ program of this directory, by its file's name.
    Compiled(&'static str),
    /// A Python package.
    Python,
}

pub const PEERS: [Peer; 7] = [
    Peer { name: "lambda_cut", kind: Kind::Here, may_be_wrong: false },
    Peer { name: "LEMON", kind: Kind::Compiled("lemon"), may_be_wrong: false },
    Peer { name: "Boost", kind: Kind::Compiled("boost"), may_be_wrong: false },
    Peer { name: "igraph", kind: Kind::Python, may_be_wrong: false },
    Peer { name: "rustworkx-core", kind: Kind::Here, may_be_wrong: false },
    Peer { name: "networkx", kind: Kind::Python, may_be_wrong: false },
    Peer { name: "ruvector-mincut", kind: Kind::Here, may_be_wrong: true },
];

/// Our number in [`PEERS`] is 0, and this is that of the peer we compare ourselves with.
pub const YARDSTICK: usize = 1;
/// Our own runs are stopped after this.
const OURS_SECONDS_MAX: u16 = 300;

/// What a solver printed.
pub struct Answer {
    pub value: f64,
    pub milliseconds: f64,
    /// The best time in milliseconds (ours and LEMON); ours only: the arc pass in milliseconds, median and best, bytes an
    /// edge, what two solves side by side gain.
    pub extra: Vec<f64>,
}

pub enum Outcome {
    Answer(Answer),
    /// Stopped after so many seconds.
    TooLong(f64),
    /// A smaller graph was too much already.
    Skipped,
    Missing(String),
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => write!(f, "{} in {:.3} ms", answer.value, answer.milliseconds),
            Self::TooLong(seconds) => write!(f, "> {seconds:.0} s"),
            Self::Skipped => write!(f, "not tried"),
            Self::Missing(what) => write!(f, "missing: {what}"),
            Self::Failed => write!(f, "failed"),
        }
    }
}

/// The peers, ready to run.
pub struct Bench {
    pub directory: PathBuf,
    seconds: f64,
    /// Why a peer cannot run.
    missing: [Option<String>; PEERS.len()],
    /// The least nodes × edges that was too much for a peer.
    too_much: Mutex<[f64; PEERS.len()]>,
}

impl Bench {
    /// Compiles and installs what is not there yet.
    pub fn prepare(seconds: f64) -> Result<Self, String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../build/bench");
        std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let mut missing = [const { None }; PEERS.len()];
        let mut asked = false;
        for (peer, missing) in PEERS.iter().zip(&mut missing) {
            let Kind::Compiled(stem) = peer.kind else { continue };
            if !compile(stem, &directory) && !asked {
                asked = true;
                install(&["g++", "liblemon-dev", "libboost-graph-dev"]);
            }
            if asked && !compile(stem, &directory) {
                *missing = Some("g++ with liblemon-dev and libboost-graph-dev".to_string());
            }
        }
        if !python(&directory) {
            install(&["python3", "python3-venv"]);
            if !python(&directory) {
                for (peer, missing) in PEERS.iter().zip(&mut missing) {
                    if matches!(peer.kind, Kind::Python) {
                        *missing = Some("python3-venv with igraph and networkx".to_string());
                    }
                }
            }
        }
        Ok(Self { directory, seconds, missing, too_much: Mutex::new([f64::INFINITY; PEERS.len()]) })
    }

    /// Runs a solver on a file; `work` is nodes × edges, by which all but the fastest grow.
    pub fn run(&self, peer: usize, file: &Path, work: f64, runs: usize) -> Outcome {
        if let Some(what) = &self.missing[peer] {
            return Outcome::Missing(what.clone());
        }
        let mut too_much = self.too_much.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // The first two do not grow by nodes × edges: what was too much says nothing about the next graph.
        if peer > YARDSTICK && work > too_much[peer] {
            return Outcome::Skipped;
        }
        let mut command = match PEERS[peer].kind {
            Kind::Here => {
                let Ok(program) = std::env::current_exe() else { return Outcome::Failed };
                let mut command = Command::new(program);
                command.args(["peer", PEERS[peer].name]);
                command
            }
            Kind::Compiled(stem) => Command::new(self.directory.join(stem)),
            Kind::Python => {
                let mut command = Command::new(self.directory.join("python/bin/python"));
                command.arg(foreign("python_peer.py")).arg(PEERS[peer].name);
                command
            }
        };
        command.arg(file).arg(runs.to_string()).arg(self.seconds.to_string());
        // Twice: reading the file and building are not what is limited. Ours does much beside solving, to be measured.
        let limit = if peer == 0 { f64::from(OURS_SECONDS_MAX) } else { 2.0 * self.seconds };
        match limited(&mut command, limit) {
            Some(Ok(text)) => match parse(&text) {
                Some(answer) => {
                    if answer.milliseconds > self.seconds * 1e3 {
                        too_much[peer] = work;
                    }
                    Outcome::Answer(answer)
                }
                None => Outcome::Failed,
            },
            Some(Err(())) => Outcome::Failed,
            None => {
                too_much[peer] = work;
                Outcome::TooLong(2.0 * self.seconds)
            }
        }
    }
}

fn parse(text: &str) -> Option<Answer> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let value = numbers.next()?.ok()?;
    let milliseconds = numbers.next()?.ok()?;
    Some(Answer { value, milliseconds, extra: numbers.filter_map(Result::ok).collect() })
}

/// Output of a command, or `None` when it was stopped.
fn limited(command: &mut Command, seconds: f64) -> Option<Result<String, ()>> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = child else { return Some(Err(())) };
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let output = child.wait_with_output().map_err(|_| ());
                let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                return Some(if status.success() { text } else { Err(()) });
            }
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

fn foreign(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign").join(name)
}

fn quietly(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn compile(stem: &str, directory: &Path) -> bool {
    let flags = ["-O3", "-DNDEBUG", "-march=native", "-w", "-o"];
    quietly(Command::new("g++").args(flags).arg(directory.join(stem)).arg(foreign(&format!("{stem}.cc"))))
}

fn python(directory: &Path) -> bool {
    let environment = directory.join("python");
    let python = environment.join("bin/python");
    let ready = || quietly(Command::new(&python).args(["-c", "import igraph, networkx"]));
    ready()
        || (quietly(Command::new("python3").args(["-m", "venv"]).arg(&environment))
            && quietly(Command::new(&python).args(["-m", "pip", "install", "igraph", "networkx"]))
            && ready())
}

/// Installs Debian packages where that is allowed; elsewhere the missing peers are named in the table.
fn install(packages: &[&str]) {
    eprintln!("installing {}", packages.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        quietly(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    if !(apt(&["update"]) && apt(&arguments)) {
        eprintln!("could not: {} must be installed by hand", packages.join(" "));
    }
}

/// A solver of this program, on a file; prints what `parse` reads.
pub fn run_here(name: &str, file: &Path, runs: &str, seconds: &str) -> Result<(), String> {
    let runs: usize = runs.parse().map_err(|_| "runs?")?;
    let seconds: f64 = seconds.parse().map_err(|_| "seconds?")?;
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let mut numbers = text.split_whitespace();
    let nodes: usize = numbers.next().and_then(|word| word.parse().ok()).ok_or("nodes?")?;
    let count: usize = numbers.next().and_then(|word| word.parse().ok()).ok_or("edges?")?;
    let mut edges = Vec::with_capacity(count);
    while let (Some(u), Some(v), Some(weight)) = (numbers.next(), numbers.next(), numbers.next()) {
        let parsed = (u.parse::<u32>(), v.parse::<u32>(), weight.parse::<f64>());
        let (Ok(u), Ok(v), Ok(weight)) = parsed else { return Err("an edge?".to_string()) };
        edges.push((u, v, weight));
    }
    drop(text);
    match name {
        "lambda_cut" => ours(nodes, &edges, runs, seconds),
        "rustworkx-core" => rustworkx(nodes, &edges, runs, seconds),
        "ruvector-mincut" => ruvector(&edges, runs, seconds),
        _ => Err(format!("no solver {name}")),
    }
}

/// Median time and last value of up to `runs` solves.
fn median<V>(runs: usize, seconds: f64, mut solve: impl FnMut() -> V) -> (V, f64) {
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        let value = std::hint::black_box(solve());
        times.push(start.elapsed().as_secs_f64() * 1e3);
        if times.len() >= runs || times.iter().sum::<f64>() > seconds * 1e3 {
            times.sort_by(f64::total_cmp);
            return (value, times[times.len() / 2]);
        }
    }
}

fn ours(nodes: usize, edges: &[(u32, u32, f64)], runs: usize, seconds: f64) -> Result<(), String> {
    let before = meter::start();
    let graph = Graph::from_edges(nodes, edges).map_err(|error| error.to_string())?;
    let mut scratch = Scratch::new();
    let first = graph.minimum_cut_with(&mut scratch, &mut || false);
    drop(first);
    let bytes = (meter::peak() - before) as f64 / edges.len() as f64;
    // In turn, so that what else the machine does disturbs both alike.
    let mut arc_pass = arc_pass(nodes, edges);
    let (mut passes, mut solves) = (Vec::new(), Vec::new());
    let mut cut = None;
    while solves.len() < runs && solves.iter().sum::<f64>() < seconds * 1e3 {
        let start = Instant::now();
        arc_pass();
        passes.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        cut = std::hint::black_box(graph.minimum_cut_with(&mut scratch, &mut || false))
            .map_err(|error| error.to_string())?;
        solves.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let cut = cut.ok_or("no cut")?;
    passes.sort_by(f64::total_cmp);
    solves.sort_by(f64::total_cmp);
    let (pass, milliseconds) = (passes[passes.len() / 2], solves[solves.len() / 2]);
    let together = 2.0 * milliseconds / side_by_side(&graph, milliseconds);
    println!("{} {milliseconds} {} {pass} {} {bytes} {together}", cut.value, solves[0], passes[0]);
    Ok(())
}

/// Median time of a solve while another thread solves the same graph. Twice the time of a lone solve divided by it is
/// what two cores can gain at most, whatever the algorithm does with them: they share memory and its caches.
fn side_by_side(graph: &Graph, milliseconds: f64) -> f64 {
    let runs = (1e3 / milliseconds).clamp(5.0, 200.0) as usize;
    let solve = || {
        let mut scratch = Scratch::new();
        let _ = graph.minimum_cut_with(&mut scratch, &mut || false);
        median(runs, 10.0, || graph.minimum_cut_with(&mut scratch, &mut || false)).1
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(solve);
        let here = solve();
        other.join().map_or(here, |there| there.max(here))
    })
}

/// The unit of measure: one `r[t] += w` over all arcs, in the layout of our own graph (32-bit neighbours, 64-bit
/// weights), nodes in order.
fn arc_pass(nodes: usize, edges: &[(u32, u32, f64)]) -> impl FnMut() {
    let mut offsets = vec![0usize; nodes + 1];
    for &(u, v, _) in edges {
        offsets[u as usize + 1] += 1;
        offsets[v as usize + 1] += 1;
    }
    for node in 0..nodes {
        offsets[node + 1] += offsets[node];
    }
    let mut at = offsets.clone();
    let mut targets = vec![0u32; 2 * edges.len()];
    let mut weights = vec![0u64; 2 * edges.len()];
    for &(u, v, weight) in edges {
        for (from, to) in [(u, v), (v, u)] {
            targets[at[from as usize]] = to;
            weights[at[from as usize]] = (weight * 1e9) as u64;
            at[from as usize] += 1;
        }
    }
    let mut keys = vec![0u64; nodes];
    move || {
        for node in 0..nodes {
            let range = offsets[node]..offsets[node + 1];
            for (&target, &weight) in targets[range.clone()].iter().zip(&weights[range]) {
                keys[target as usize] = keys[target as usize].wrapping_add(weight);
            }
        }
        std::hint::black_box(&mut keys);
    }
}

fn rustworkx(nodes: usize, edges: &[(u32, u32, f64)], runs: usize, seconds: f64) -> Result<(), String> {
    use rustworkx_core::petgraph::graph::UnGraph;
    // It wants totally ordered weights: whole multiples of 2^-40.
    let scale = (1u64 << 40) as f64;
    let mut graph = UnGraph::<(), i64>::with_capacity(nodes, edges.len());
    let index: Vec<_> = (0..nodes).map(|_| graph.add_node(())).collect();
    for &(u, v, weight) in edges {
        graph.add_edge(index[u as usize], index[v as usize], (weight * scale).round() as i64);
    }
    let (cut, milliseconds) = median(runs, seconds, || {
        rustworkx_core::connectivity::stoer_wagner_min_cut(&graph, |edge| Ok::<i64, ()>(*edge.weight()))
    });
    let (value, _) = cut.ok().flatten().ok_or("no cut")?;
    println!("{} {milliseconds}", value as f64 / scale);
    Ok(())
}

fn ruvector(edges: &[(u32, u32, f64)], runs: usize, seconds: f64) -> Result<(), String> {
    let edges: Vec<(u64, u64, f64)> =
        edges.iter().map(|&(u, v, weight)| (u.into(), v.into(), weight)).collect();
    // It solves while it builds: both are timed.
    let (value, milliseconds) = median(runs, seconds, || {
        let solver = ruvector_mincut::MinCutBuilder::new().exact().with_edges(edges.clone()).build();
        solver.map(|solver| solver.min_cut_value()).map_err(|error| error.to_string())
    });
    println!("{} {milliseconds}", value?);
    Ok(())
}
