//! Minimum cut of a graph in a text file: `cargo run --release --example cut -- FILE [runs]`.
//!
//! The file holds `n m` on its first line and then one edge `u v weight` a line, nodes counted from 0. Prints one
//! line; the times are medians over the runs.

use lambda_cut::{Graph, Scratch};
use std::time::Instant;

fn main() {
    if let Err(message) = run() {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: cut FILE [runs]")?;
    let runs: usize = match arguments.next() {
        Some(text) => text.parse().ok().filter(|&runs| runs > 0).ok_or("runs: a whole number above 0")?,
        None => 1,
    };
    let (nodes, edges) = read(&path)?;
    let mut build_ms = Vec::with_capacity(runs);
    let mut solve_ms = Vec::with_capacity(runs);
    let mut scratch = Scratch::new();
    let mut found = None;
    for _ in 0..runs {
        let start = Instant::now();
        let graph = Graph::from_edges(nodes, &edges).map_err(|error| format!("{path}: {error}"))?;
        build_ms.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        found = graph.minimum_cut_with(&mut scratch, &mut || false).map_err(|error| error.to_string())?;
        solve_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let cut = found.ok_or("fewer than two nodes: no cut")?;
    println!(
        "value={} witness_edges={} smaller_side={} build_ms={:.3} solve_ms={:.3}",
        cut.value,
        cut.witness(&edges).len(),
        cut.side_len(),
        median(&mut build_ms),
        median(&mut solve_ms),
    );
    Ok(())
}

type EdgeList = Vec<(u32, u32, f64)>;

fn read(path: &str) -> Result<(usize, EdgeList), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let wrong = |number: usize, want: &str| format!("{path}:{}: expected `{want}`", number + 1);
    let (number, first) = lines.next().ok_or_else(|| wrong(0, "n m"))?;
    let mut head = first.split_whitespace().map(str::parse::<usize>);
    let (Some(Ok(nodes)), Some(Ok(count)), None) = (head.next(), head.next(), head.next()) else {
        return Err(wrong(number, "n m"));
    };
    let mut edges = Vec::new();
    for (number, line) in lines {
        let mut words = line.split_whitespace();
        let mut edge = || {
            let u = words.next()?.parse().ok()?;
            let v = words.next()?.parse().ok()?;
            let weight = words.next()?.parse().ok()?;
            words.next().is_none().then_some((u, v, weight))
        };
        edges.push(edge().ok_or_else(|| wrong(number, "u v weight"))?);
    }
    if edges.len() == count {
        Ok((nodes, edges))
    } else {
        Err(format!("{path}: {count} edges announced, {} found", edges.len()))
    }
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
