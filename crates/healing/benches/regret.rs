//! How many heals are lost to trying the wrong remedy: what the healer does against the spec's rule, a greedy one and
//! textbook discounted Thompson sampling. `make bench` runs it; README.md beside this has the numbers.
//!
//! `cargo bench -p healing --bench regret [-- --seeds 100 --first-seed 0 --svg FILE]`

use std::fmt::Write as _;

use healing::learning::{
    Candidate, Context, Learned, OutcomeRecord, Period, Selection, Weight, choose, posteriors, weights,
};
use healing::lifecycle::{Lesson, Status};
use rand_distr::{Beta, Distribution};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// Heals of one stream.
const HEALS: usize = 500;
/// The heal at which the rates are drawn anew.
const CHANGE: usize = 250;
/// Least and greatest rate of a remedy.
const RATES: (f64, f64) = (0.1, 0.9);
/// Share of faults that clear by themselves.
const ALONE: f64 = 0.2;
/// An outcome is known after 1 to this many further heals.
const DELAY_MAX: usize = 10;
/// Improvement that a success shows, percent.
const IMPROVEMENT_PCT: f64 = 40.0;
/// Curve points drawn.
const EVERY: usize = 10;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn unit(random: &mut Pcg64) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn generator(seed: u64, stream: u64) -> Pcg64 {
    let mut bytes = [0u8; 32];
    for (chunk, value) in bytes.chunks_mut(8).zip([seed, stream, !seed, seed.rotate_left(17)]) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    Pcg64::from_seed(bytes)
}

/// One stream of faults: the same for every rule.
struct Stream {
    rates: [Vec<f64>; 2],
    /// Of each heal: whether it clears alone, what a remedy must exceed, and when the outcome is known.
    heals: Vec<(bool, f64, usize)>,
}

impl Stream {
    fn new(seed: u64) -> Self {
        let mut random = generator(seed, 1);
        let arms = 3 + (unit(&mut random) * 3.0) as usize;
        let mut draw =
            || (0..arms).map(|_| RATES.0 + (RATES.1 - RATES.0) * unit(&mut random)).collect::<Vec<f64>>();
        let rates = [draw(), draw()];
        let heals = (0..HEALS)
            .map(|_| {
                let alone = unit(&mut random) < ALONE;
                (alone, unit(&mut random), 1 + (unit(&mut random) * DELAY_MAX as f64) as usize)
            })
            .collect();
        Self { rates, heals }
    }

    fn at(&self, heal: usize) -> &[f64] {
        &self.rates[usize::from(heal >= CHANGE)]
    }
}

/// A rule that chooses remedies.
trait Rule {
    fn choose(&mut self, heal: usize) -> usize;
    fn learn(&mut self, heal: usize, arm: usize, success: bool);
}

/// Regret after each heal: the best rate less the chosen one, summed.
fn regret(stream: &Stream, rule: &mut dyn Rule) -> Vec<f64> {
    let mut pending: Vec<(usize, usize, bool)> = Vec::new();
    let mut sum = 0.0;
    (0..HEALS)
        .map(|heal| {
            pending.sort_unstable();
            while let Some(&(known, arm, success)) = pending.first().filter(|p| p.0 <= heal) {
                pending.remove(0);
                rule.learn(known, arm, success);
            }
            let arm = rule.choose(heal);
            let rates = stream.at(heal);
            sum += rates.iter().copied().fold(0.0, f64::max) - rates[arm];
            let (alone, needed, delay) = stream.heals[heal];
            pending.push((heal + delay, arm, alone || needed < rates[arm]));
            sum
        })
        .collect()
}

/// What the healer does: the crate's own posteriors and choice over rows as the outcomes table has them.
struct Healer {
    selection: Selection,
    /// Time between two heals, milliseconds.
    pace_ms: i64,
    arms: usize,
    rows: Vec<OutcomeRecord>,
    weights: Vec<Weight>,
    learned: Learned,
}

fn context() -> Context {
    Context { problem_class: "HotspotCongestion".to_owned(), index_kind: "none".to_owned() }
}

fn row(id: i64, strategy: &str, at: i64, success: bool) -> OutcomeRecord {
    OutcomeRecord {
        id,
        collection_id: 1,
        strategy: strategy.to_owned(),
        context: context(),
        started_at: at - 10_000,
        completed_at: at,
        status: if success { Status::Succeeded } else { Status::RolledBack },
        lesson: if success { Lesson::Helped } else { Lesson::NoGain },
        success,
        verified: Some(success),
        improvement_pct: success.then_some(IMPROVEMENT_PCT),
        recovery_s: None,
        feedback: None,
        feedback_at: None,
    }
}

impl Healer {
    fn new(selection: Selection, heals_a_day: i64, arms: usize, seed: u64) -> Self {
        let learned = Learned { seed: seed << 20, ..Learned::default() };
        Self { selection, pace_ms: 86_400_000 / heals_a_day, arms, rows: vec![], weights: vec![], learned }
    }
}

impl Rule for Healer {
    fn choose(&mut self, heal: usize) -> usize {
        // 100 days in, so that a window of 30 days does not begin before the epoch.
        let now = 8_640_000_000 + heal as i64 * self.pace_ms;
        let names = &NAMES[..self.arms];
        match self.selection {
            Selection::Greedy => self.weights = weights(names, &self.rows, &self.weights, now),
            Selection::Thompson => self.learned.posteriors = posteriors(&self.rows, &[]),
        }
        // The healer's seed changes with each outcome; here several heals may lie between two.
        self.learned.seed += 1;
        let candidates: Vec<Candidate> = names
            .iter()
            .map(|name| Candidate {
                strategy: (*name).to_owned(),
                impact: 0.3,
                estimated_s: 60.0,
                bytes: 0,
                weight: self.weights.iter().find(|w| w.strategy == *name).map_or(1.0, |w| w.weight),
            })
            .collect();
        let choice = choose(self.selection, &context(), &candidates, &self.learned);
        NAMES.iter().position(|name| *name == choice.arms[0].strategy).unwrap_or(0)
    }

    fn learn(&mut self, heal: usize, arm: usize, success: bool) {
        let at = 8_640_000_000 + heal as i64 * self.pace_ms;
        self.rows.push(row(self.rows.len() as i64, NAMES[arm], at, success));
    }
}

/// Textbook discounted Thompson sampling (Raj and Kalyani, 2017), uniform priors.
struct Discounted {
    decay: f64,
    counts: Vec<(f64, f64)>,
    random: Pcg64,
}

impl Rule for Discounted {
    fn choose(&mut self, _heal: usize) -> usize {
        let drawn: Vec<f64> = self
            .counts
            .iter()
            .map(|(s, f)| Beta::new(1.0 + s, 1.0 + f).map_or(0.5, |beta| beta.sample(&mut self.random)))
            .collect();
        (0..drawn.len()).max_by(|a, b| drawn[*a].total_cmp(&drawn[*b])).unwrap_or(0)
    }

    fn learn(&mut self, _heal: usize, arm: usize, success: bool) {
        for (s, f) in &mut self.counts {
            *s *= self.decay;
            *f *= self.decay;
        }
        let (s, f) = &mut self.counts[arm];
        if success { *s += 1.0 } else { *f += 1.0 }
    }
}

/// The highest rate so far, untried ones first, equals at random.
struct Greedy {
    counts: Vec<(f64, f64)>,
    random: Pcg64,
}

impl Rule for Greedy {
    fn choose(&mut self, _heal: usize) -> usize {
        let rates: Vec<f64> = self.counts.iter().map(|(s, n)| if *n > 0.0 { s / n } else { 1.0 }).collect();
        let best = rates.iter().copied().fold(0.0, f64::max);
        let equal: Vec<usize> = (0..rates.len()).filter(|at| rates[*at] == best).collect();
        equal[((unit(&mut self.random) * equal.len() as f64) as usize).min(equal.len() - 1)]
    }

    fn learn(&mut self, _heal: usize, arm: usize, success: bool) {
        let (s, n) = &mut self.counts[arm];
        *s += f64::from(u8::from(success));
        *n += 1.0;
    }
}

/// Any of them.
struct AtRandom {
    arms: usize,
    random: Pcg64,
}

impl Rule for AtRandom {
    fn choose(&mut self, _heal: usize) -> usize {
        ((unit(&mut self.random) * self.arms as f64) as usize).min(self.arms - 1)
    }

    fn learn(&mut self, _heal: usize, _arm: usize, _success: bool) {}
}

struct Entry {
    name: String,
    colour: &'static str,
    /// Curves of regret, one a seed.
    curves: Vec<Vec<f64>>,
}

impl Entry {
    fn finals(&self) -> Vec<f64> {
        self.curves.iter().map(|curve| curve[HEALS - 1]).collect()
    }
}

/// Mean and half width of its 95 % interval.
fn mean_and_interval(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, 1.96 * (variance / n).sqrt())
}

fn make(kind: usize, stream: &Stream, seed: u64) -> Box<dyn Rule> {
    let arms = stream.rates[0].len();
    let (counts, random) = (vec![(0.0, 0.0); arms], generator(seed, 2));
    match kind {
        0 => Box::new(Healer::new(Selection::Thompson, 24, arms, seed)),
        1 => Box::new(Healer::new(Selection::Greedy, 24, arms, seed)),
        2 => Box::new(Healer::new(Selection::Greedy, 8, arms, seed)),
        3 => Box::new(Healer::new(Selection::Greedy, 3, arms, seed)),
        4 => Box::new(Greedy { counts, random }),
        5..=9 => Box::new(Discounted { decay: DECAYS[kind - 5], counts, random }),
        _ => Box::new(AtRandom { arms, random }),
    }
}

const DECAYS: [f64; 5] = [1.0, 0.995, 0.99, 0.98, 0.95];
const COLOURS: [&str; 11] = [
    "#b30000", "#1f5fa8", "#5c8fc9", "#9dbfe6", "#8a5a00", "#b5d8b7", "#2e7d32", "#6bae6e", "#8fc492",
    "#cfe6d0", "#999999",
];

fn name(kind: usize) -> String {
    match kind {
        0 => "ruvector".to_owned(),
        1 => "the spec's rule, 24 heals a day".to_owned(),
        2 => "the spec's rule, 8 a day".to_owned(),
        3 => "the spec's rule, 3 a day".to_owned(),
        4 => "greedy".to_owned(),
        5..=9 => format!("discounted Thompson, γ = {}", DECAYS[kind - 5]),
        _ => "at random".to_owned(),
    }
}

/// A remedy that does nothing where 60 % of faults clear alone: credit after so many tries, one a seed.
fn does_nothing(seed: u64, tries: usize, watched: usize) -> f64 {
    let mut random = generator(seed, 3);
    let periods: Vec<Period> = (0..watched)
        .map(|_| {
            let cleared = unit(&mut random) < 0.6;
            let seconds = if cleared { 10.0 * unit(&mut random) } else { 20.0 };
            Period { context: context(), seconds, cleared, randomised: true }
        })
        .collect();
    let rows: Vec<OutcomeRecord> =
        (0..tries as i64).map(|at| row(at, "a", at, unit(&mut random) < 0.6)).collect();
    posteriors(&rows, &periods)[0].effect.median
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let seeds: u64 = value("--seeds").and_then(|text| text.parse().ok()).filter(|n| *n > 1).unwrap_or(100);
    let first: u64 = value("--first-seed").and_then(|text| text.parse().ok()).unwrap_or(0);
    let kinds: Vec<usize> = (0..COLOURS.len()).collect();
    let run = |kind: usize| Entry {
        name: name(kind),
        colour: COLOURS[kind],
        curves: (first..first + seeds)
            .map(|seed| {
                let stream = Stream::new(seed);
                regret(&stream, make(kind, &stream, seed).as_mut())
            })
            .collect(),
    };
    // The healer's own takes as long as all the others together.
    let entries: Vec<Entry> = std::thread::scope(|scope| {
        let others = scope.spawn(|| kinds[1..].iter().map(|kind| run(*kind)).collect::<Vec<Entry>>());
        let first = run(0);
        let others = others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        std::iter::once(first).chain(others).collect()
    });

    println!("| rule | regret, heals | ruvector's share of it |\n|---|---|---|");
    let own = mean_and_interval(&entries[0].finals()).0;
    for entry in &entries {
        let (mean, half) = mean_and_interval(&entry.finals());
        println!("| {} | {mean:.1} ± {half:.1} | {:.2} |", entry.name, own / mean);
    }
    let ours = &entries[0].finals();
    let mean = mean_and_interval(ours).0;
    let best = entries[5..10]
        .iter()
        .min_by(|a, b| mean_and_interval(&a.finals()).0.total_cmp(&mean_and_interval(&b.finals()).0));
    let mut missed = Vec::new();
    let mut target = |what: &str, other: &Entry, share: f64| {
        let differences: Vec<f64> =
            ours.iter().zip(other.finals()).map(|(ours, theirs)| ours - share * theirs).collect();
        let (difference, half) = mean_and_interval(&differences);
        let reached = mean <= share * mean_and_interval(&other.finals()).0;
        println!(
            "{what} ({}): {difference:+.1} ± {half:.1} heals, {}",
            other.name,
            if reached { "reached" } else { "MISSED" }
        );
        if !reached {
            missed.push(what.to_owned());
        }
    };
    println!();
    target("at most half of greedy's", &entries[4], 0.5);
    for spec in &entries[1..4] {
        target("at most half of the spec's rule", spec, 0.5);
    }
    if let Some(best) = best {
        target("no worse than textbook discounted Thompson sampling, best decay", best, 1.0);
    }

    println!(
        "\n| tries of a remedy that does nothing, 60 % clear alone | credit | streams below 0.1 |\n|---|---|---|"
    );
    let mut credit_at_30 = 1.0;
    for tries in [5, 10, 20, 30, 60] {
        let credits: Vec<f64> = (first..first + seeds).map(|seed| does_nothing(seed, tries, 40)).collect();
        let (mean, half) = mean_and_interval(&credits);
        let below = credits.iter().filter(|credit| **credit < 0.1).count();
        println!("| {tries} | {mean:.3} ± {half:.3} | {below} of {seeds} |");
        if tries == 30 {
            credit_at_30 = mean;
        }
    }
    if credit_at_30 >= 0.1 {
        missed.push("a remedy that does nothing below 0.1 within 30 tries".to_owned());
    }
    if let Some(file) = value("--svg") {
        std::fs::write(file, drawn(&entries))?;
    }
    if seeds >= 100 && !missed.is_empty() {
        eprintln!("missed: {}", missed.join("; "));
        std::process::exit(1);
    }
    Ok(())
}

/// Heal, mean regret, half width of its interval.
type Point = (usize, f64, f64);

/// Mean regret against heals, with the 95 % band of the first rule.
fn drawn(entries: &[Entry]) -> String {
    const WIDTH: f64 = 820.0;
    const HEIGHT: f64 = 460.0;
    const LEFT: f64 = 60.0;
    const RIGHT: f64 = 250.0;
    const TOP: f64 = 40.0;
    const BOTTOM: f64 = 50.0;
    let shown: Vec<(&Entry, Vec<Point>)> = entries
        .iter()
        .map(|entry| {
            let points = (0..HEALS).step_by(EVERY).chain([HEALS - 1]).map(|heal| {
                let values: Vec<f64> = entry.curves.iter().map(|curve| curve[heal]).collect();
                let (mean, half) = mean_and_interval(&values);
                (heal, mean, half)
            });
            (entry, points.collect())
        })
        .collect();
    // What is tried at random leaves the picture at the top.
    let highest =
        mean_and_interval(&entries[4].finals()).0.max(mean_and_interval(&entries[1].finals()).0) * 1.1;
    let x = |heal: usize| LEFT + heal as f64 / (HEALS - 1) as f64 * (WIDTH - LEFT - RIGHT);
    let y = |regret: f64| HEIGHT - BOTTOM - (regret / highest).min(1.0) * (HEIGHT - TOP - BOTTOM);
    let mut svg = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(svg, "{text}");
    };
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
    ));
    line(format_args!(r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#));
    line(format_args!(
        r#"<text x="{LEFT}" y="22" font-size="15">Heals lost to the wrong remedy, mean of {} streams</text>"#,
        entries[0].curves.len()
    ));
    let mut tick = 0.0;
    while tick <= highest {
        let at = y(tick);
        line(format_args!(
            r##"<line x1="{LEFT}" x2="{}" y1="{at:.1}" y2="{at:.1}" stroke="#ddd"/>"##,
            WIDTH - RIGHT
        ));
        line(format_args!(r#"<text x="{}" y="{:.1}" text-anchor="end">{tick}</text>"#, LEFT - 6.0, at + 4.0));
        tick += 10.0;
    }
    for heal in [0, 100, 200, 300, 400, 499] {
        line(format_args!(
            r#"<text x="{:.1}" y="{}" text-anchor="middle">{}</text>"#,
            x(heal),
            HEIGHT - BOTTOM + 20.0,
            if heal == 499 { 500 } else { heal }
        ));
    }
    line(format_args!(
        r##"<line x1="{0:.1}" x2="{0:.1}" y1="{TOP}" y2="{1}" stroke="#888" stroke-dasharray="4 4"/>"##,
        x(CHANGE),
        HEIGHT - BOTTOM
    ));
    line(format_args!(
        r##"<text x="{:.1}" y="{}" fill="#555">rates drawn anew</text>"##,
        x(CHANGE) + 5.0,
        TOP + 10.0
    ));
    line(format_args!(
        r#"<text x="{}" y="{}" text-anchor="middle">heals</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0
    ));
    let upper = shown[0].1.iter().map(|(heal, mean, half)| format!("{:.1},{:.1}", x(*heal), y(mean + half)));
    let lower =
        shown[0].1.iter().rev().map(|(heal, mean, half)| format!("{:.1},{:.1}", x(*heal), y(mean - half)));
    let band: Vec<String> = upper.chain(lower).collect();
    line(format_args!(
        r#"<polygon points="{}" fill="{}" opacity="0.2"/>"#,
        band.join(" "),
        shown[0].0.colour
    ));
    let mut labels: Vec<(f64, usize)> = Vec::new();
    for (at, (entry, points)) in shown.iter().enumerate() {
        let path: Vec<String> =
            points.iter().map(|(heal, mean, _)| format!("{:.1},{:.1}", x(*heal), y(*mean))).collect();
        line(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="{}"/>"#,
            path.join(" "),
            entry.colour,
            if at == 0 { 3 } else { 2 }
        ));
        labels.push((y(points.last().map_or(0.0, |point| point.1)), at));
    }
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = TOP;
    for (wanted, at) in labels {
        let label = free.max(wanted + 4.0);
        free = label + 14.0;
        line(format_args!(
            r#"<text x="{:.1}" y="{label:.1}" fill="{}">{}</text>"#,
            WIDTH - RIGHT + 8.0,
            entries[at].colour,
            entries[at].name
        ));
    }
    line(format_args!("</svg>"));
    svg
}
