//! Figures, a text with the confusion matrix, and a page with λ over time of every fault.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use cluster::Version;
use cluster::faults::{Fault, Level};

use crate::record::{Records, Run, Sample};
use crate::{BEYOND_DWELL, DWELL};

const CLASSES: [&str; 7] = [
    "HotspotCongestion",
    "CentroidSkew",
    "ReplicationLag",
    "MaintenanceContention",
    "IndexFragmentation",
    "MemoryPressure",
    "Unknown",
];

/// Faults in the order of the gallery, two at once the last.
fn names() -> impl Iterator<Item = &'static str> {
    Fault::ALL.into_iter().map(Fault::name).chain(["two_faults"])
}

fn of<'a>(records: &'a Records, fault: &'a str, level: &'a str) -> impl Iterator<Item = &'a Run> + Clone {
    records.runs.iter().filter(move |run| run.fault == fault && run.level == level)
}

/// 95 % interval of a share by Wilson's score, percent.
fn wilson(hits: usize, count: usize) -> (f64, f64) {
    if count == 0 {
        return (0.0, 100.0);
    }
    let (n, p, z) = (count as f64, hits as f64 / count as f64, 1.96_f64);
    let middle = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 100.0 / (1.0 + z * z / n);
    ((scale * (middle - half)).max(0.0), (scale * (middle + half)).min(100.0))
}

/// What the gallery asks for and was not reached.
pub(crate) fn missed(records: &Records) -> Vec<String> {
    let mut missed = vec![];
    for fault in names() {
        let severe: Vec<&Run> = of(records, fault, "severe").collect();
        for run in &severe {
            if !run.is_right() || run.delay > Some(DWELL + BEYOND_DWELL) {
                missed.push(format!(
                    "severe {}, seed {}: delay {:?}, named {:?}",
                    run.what, run.seed, run.delay, run.named
                ));
            }
        }
    }
    let mild: Vec<&Run> = records.runs.iter().filter(|run| run.level == "mild").collect();
    let right = mild.iter().filter(|run| run.is_right()).count();
    if (right as f64) < 0.95 * mild.len() as f64 {
        missed.push(format!("{right} of {} mild faults are found and named", mild.len()));
    }
    for run in records.runs.iter().filter(|run| !run.quiet_before) {
        missed.push(format!("a false alarm before {} {}, seed {}", run.level, run.what, run.seed));
    }
    for quiet in records.quiet.iter().filter(|quiet| !quiet.alarms.is_empty()) {
        missed.push(format!(
            "a false alarm on {}, seed {}: {}",
            quiet.what,
            quiet.seed,
            quiet.alarms.join(", ")
        ));
    }
    missed
}

/// The figures as Markdown.
pub(crate) fn text(version: Version, records: &Records) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a String takes everything");
    line(format!("\n### PostgreSQL {version}\n"));
    line("Named first when the state changed (rows: what was done; `–`: not found):\n".to_owned());
    line(format!("| fault | level | {} | – |", CLASSES.join(" | ")));
    line(format!("|---|---|{}", "--:|".repeat(CLASSES.len() + 1)));
    for fault in names().filter(|fault| *fault != "two_faults") {
        for level in Level::ALL.map(Level::name) {
            let runs: Vec<&Run> = of(records, fault, level).collect();
            if runs.is_empty() {
                continue;
            }
            let count = |class: Option<&str>| {
                let is = |run: &&&Run| {
                    if run.delay.is_none() {
                        class.is_none()
                    } else {
                        run.named.first().map(String::as_str) == class
                    }
                };
                let count = runs.iter().filter(is).count();
                if count == 0 { String::new() } else { count.to_string() }
            };
            let cells: Vec<String> =
                CLASSES.iter().map(|class| count(Some(class))).chain([count(None)]).collect();
            line(format!("| {fault} | {level} | {} |", cells.join(" | ")));
        }
    }
    line("\nFound, under its name and with what was hit; samples from when it counted to the change of state (dwell 3):\n".to_owned());
    line(
        "| fault | level | figure | right | 95 % interval | samples: median | most | least λ, median |"
            .to_owned(),
    );
    line("|---|---|---|--:|---|--:|--:|--:|".to_owned());
    for fault in names() {
        for level in Level::ALL {
            let runs: Vec<&Run> = of(records, fault, level.name()).collect();
            if runs.is_empty() {
                continue;
            }
            let right = runs.iter().filter(|run| run.is_right()).count();
            let (low, high) = wilson(right, runs.len());
            let mut delays: Vec<usize> = runs.iter().filter_map(|run| run.delay).collect();
            delays.sort_unstable();
            let mut least: Vec<f64> = runs.iter().map(|run| least(&run.samples)).collect();
            least.sort_by(f64::total_cmp);
            let figure = Fault::ALL.into_iter().find(|known| known.name() == fault);
            line(format!(
                "| {fault} | {} | {} | {right}/{} | {low:.0}–{high:.0} % | {} | {} | {:.2} |",
                level.name(),
                figure.map_or_else(String::new, |fault| format!("{} {}", fault.figure(level), fault.unit())),
                runs.len(),
                delays.get(delays.len() / 2).map_or("–".to_owned(), usize::to_string),
                delays.last().map_or("–".to_owned(), usize::to_string),
                least[least.len() / 2],
            ));
        }
    }
    for level in Level::ALL.map(Level::name) {
        let runs: Vec<&Run> = records.runs.iter().filter(|run| run.level == level).collect();
        let right = runs.iter().filter(|run| run.is_right()).count();
        let (low, high) = wilson(right, runs.len());
        line(format!("\n{level}: {right} of {} right ({low:.1}–{high:.1} %).", runs.len()));
    }
    line("\nLook-alikes:\n\n| what | seeds | samples | alarms | least λ |\n|---|--:|--:|--:|--:|".to_owned());
    let mut quiet: BTreeMap<&str, (usize, usize, usize, f64)> = BTreeMap::new();
    for one in &records.quiet {
        let entry = quiet.entry(&one.what).or_insert((0, 0, 0, f64::INFINITY));
        let alarm = usize::from(!one.alarms.is_empty());
        *entry =
            (entry.0 + 1, entry.1 + one.samples.len(), entry.2 + alarm, entry.3.min(least(&one.samples)));
    }
    for (what, (seeds, samples, alarms, least)) in &quiet {
        let least = if least.is_finite() { format!("{least:.2}") } else { "–".to_owned() };
        line(format!("| {what} | {seeds} | {samples} | {alarms} | {least} |"));
    }
    let before = records.runs.iter().filter(|run| !run.quiet_before).count();
    line(format!("\nFalse alarms before a fault was made: {before} of {} runs.", records.runs.len()));
    line("\nCost of sampling (CPU of the healer; at a sample a second everything new is measured, panel and lists included):\n".to_owned());
    line("| server | samples | CPU ms a sample |\n|---|--:|--:|".to_owned());
    let mut costs: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    for cost in &records.costs {
        let (samples, cpu_s) = costs.entry(&cost.lane).or_default();
        *samples += cost.samples;
        *cpu_s += cost.cpu_s;
    }
    for (lane, (samples, cpu_s)) in costs {
        line(format!("| {lane} | {samples} | {:.1} |", 1000.0 * cpu_s / samples.max(1) as f64));
    }
    out
}

fn least(samples: &[Sample]) -> f64 {
    samples.iter().filter_map(|sample| sample.lambda).fold(f64::INFINITY, f64::min)
}

/// What an earlier part has written; nothing where there was none.
pub(crate) fn read(folder: &Path, version: Version) -> std::io::Result<Records> {
    match std::fs::read_to_string(folder.join(format!("gallery-{version}.json"))) {
        Ok(text) => Ok(serde_json::from_str(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Records::default()),
        Err(error) => Err(error),
    }
}

/// Writes `gallery.html`, and `gallery-<version>.md` and `.json` beside it.
pub(crate) fn write(folder: &Path, version: Version, records: &Records) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("gallery-{version}.md")), text(version, records))?;
    std::fs::write(folder.join(format!("gallery-{version}.json")), serde_json::to_string(records)?)?;
    std::fs::write(folder.join("gallery.html"), page(version, records))
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#1d2430;background:#fff}
table{border-collapse:collapse;font-size:13px;margin:1rem 0}td,th{border:1px solid #d5dae1;padding:.2rem .5rem}td{text-align:right}
td:first-child,td:nth-child(2),td:nth-child(3){text-align:left}.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(21rem,1fr));gap:1rem}
figure{margin:0;border:1px solid #d5dae1;border-radius:6px;padding:.5rem}figcaption{font-size:13px}svg{width:100%;height:auto}
.wrong{color:#b3261e}@media(prefers-color-scheme:dark){body{background:#14181f;color:#dde3ec}td,th,figure{border-color:#3a4453}}";

fn page(version: Version, records: &Records) -> String {
    let mut plots = String::new();
    for fault in names() {
        for level in Level::ALL {
            let runs: Vec<&Run> = of(records, fault, level.name()).collect();
            if runs.is_empty() {
                continue;
            }
            let right = runs.iter().filter(|run| run.is_right()).count();
            let figure = Fault::ALL.into_iter().find(|known| known.name() == fault);
            let what = figure.map_or_else(
                || "two of different classes".to_owned(),
                |fault| format!("{} {}", fault.figure(level), fault.unit()),
            );
            let class = if right == runs.len() { "" } else { " class=wrong" };
            plots.push_str(&format!(
                "<figure><figcaption><b>{fault}</b>, {}: {what}; <span{class}>{right} of {} right</span></figcaption>{}</figure>\n",
                level.name(),
                runs.len(),
                plot(&runs.iter().map(|run| run.samples.as_slice()).collect::<Vec<_>>()),
            ));
        }
    }
    let mut quiet: BTreeMap<&str, Vec<&[Sample]>> = BTreeMap::new();
    for one in &records.quiet {
        quiet.entry(&one.what).or_default().push(&one.samples);
    }
    for (what, samples) in &quiet {
        plots.push_str(&format!(
            "<figure><figcaption>look-alike <b>{what}</b></figcaption>{}</figure>\n",
            plot(samples)
        ));
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>Fault gallery</title>
<style>{STYLE}</style><h1>Fault gallery, PostgreSQL {version}</h1>
<p>Each fault was made for real on a running server. λ of every sample, one line a seed; 0 s is when the fault counts, a dot is
the change of state. Dashed: the boundaries of stress (0.7) and critical (0.4).</p><div class=plots>{plots}</div>{}</html>",
        tables(&text(version, records))
    )
}

/// Markdown's tables and paragraphs as HTML; the text is our own and has nothing to escape.
fn tables(text: &str) -> String {
    let mut html = String::new();
    let mut rows = 0;
    for line in text.lines() {
        let cells = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
        match cells {
            Some(cells) => {
                let tag = if rows == 0 { "th" } else { "td" };
                html.push_str(if rows == 0 { "<table>" } else { "" });
                let cells: String = cells.split(" | ").map(|cell| format!("<{tag}>{cell}</{tag}>")).collect();
                html.push_str(&format!("<tr>{cells}</tr>\n"));
                rows += 1;
            }
            None if line.starts_with("|--") => {}
            None => {
                html.push_str(if rows > 0 { "</table>" } else { "" });
                rows = 0;
                html.push_str(&format!("<p>{}</p>\n", line.trim_start_matches("### ")));
            }
        }
    }
    html + if rows > 0 { "</table>" } else { "" }
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 26.0;
const BOTTOM: f64 = 18.0;

fn plot(runs: &[&[Sample]]) -> String {
    let times = || runs.iter().flat_map(|samples| samples.iter().map(|sample| sample.at));
    let from = times().fold(0.0, f64::min).max(-20.0);
    let to = times().fold(1.0, f64::max);
    let x = |at: f64| LEFT + (at - from) / (to - from) * (WIDTH - LEFT - 4.0);
    let y = |lambda: f64| 4.0 + (1.0 - lambda) * (HEIGHT - BOTTOM - 4.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-size=10 fill=currentColor role=img>");
    for lambda in [0.0, 0.4, 0.7, 1.0] {
        let dash = if lambda == 0.4 || lambda == 0.7 { " stroke-dasharray=4" } else { "" };
        svg.push_str(&format!(
            "<line x1={LEFT} x2={WIDTH} y1={0:.1} y2={0:.1} stroke=currentColor opacity=.3{dash} /><text x=2 y={1:.1}>{lambda}</text>",
            y(lambda),
            y(lambda) + 3.0
        ));
    }
    svg.push_str(&format!(
        "<line x1={0:.1} x2={0:.1} y1=4 y2={1:.1} stroke=currentColor opacity=.5 /><text x={0:.1} y={2} text-anchor=middle>0 s</text>\
         <text x={3} y={2} text-anchor=end>{to:.0} s</text>",
        x(0.0),
        HEIGHT - BOTTOM,
        HEIGHT - 4.0,
        WIDTH - 2.0
    ));
    for (number, samples) in runs.iter().enumerate() {
        let hue = 210 + number * 47 % 360;
        let shown = samples.iter().filter(|sample| sample.at >= from);
        let points: Vec<String> = shown
            .clone()
            .filter_map(|sample| Some(format!("{:.1},{:.1}", x(sample.at), y(sample.lambda?.min(1.0)))))
            .collect();
        svg.push_str(&format!(
            "<polyline points=\"{}\" fill=none stroke=\"hsl({hue} 60% 50%)\" stroke-width=1.2 opacity=.8 />",
            points.join(" ")
        ));
        let changed = shown.clone().find(|sample| matches!(sample.state.as_str(), "stress" | "critical"));
        if let Some((at, lambda)) = changed.and_then(|sample| Some((sample.at, sample.lambda?))) {
            svg.push_str(&format!(
                "<circle cx={:.1} cy={:.1} r=3 fill=\"hsl({hue} 60% 50%)\" />",
                x(at),
                y(lambda)
            ));
        }
    }
    svg + "</svg>"
}
