//! Chaos: round after round a fault is made, its remedy begins, and at some moment something strikes: processes die, tables
//! go, people interfere, while writers write. After each round no acknowledged write is lost, nothing half-done is left,
//! and the audit log is whole. The table at the end says how often each cell was met; recovery times follow.
//!
//! `chaos [--rounds N] [--seed N] [--pg 18|15] [--without journal]`: the last shows that the suite finds a healer whose
//! journal is gone.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, Version};

mod ledger;
mod round;

use round::{FAULTS, Fault, MOMENTS, Moment, Place, STRIKES, Strike, play};

/// Every combination that can be, in an order by chance in which each comes once before any comes twice.
struct Deck {
    cards: Vec<(Fault, Moment, Strike)>,
    next: usize,
    random: Random,
}

/// SplitMix64 (Steele et al. 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Deck {
    fn new(seed: u64) -> Self {
        let mut cards = vec![];
        for fault in FAULTS {
            for moment in MOMENTS.into_iter().filter(|moment| fault.meets(*moment)) {
                cards.extend(
                    STRIKES
                        .into_iter()
                        .filter(|strike| strike.possible_at(moment))
                        .map(|strike| (fault, moment, strike)),
                );
            }
        }
        let mut deck = Self { next: cards.len(), cards, random: Random(seed) };
        deck.shuffle();
        deck
    }

    /// So that every pair of fault and moment, and of fault and strike, comes early: dealt in turns of the faults.
    fn shuffle(&mut self) {
        for at in (1..self.cards.len()).rev() {
            let other = (self.random.next() % (at as u64 + 1)) as usize;
            self.cards.swap(at, other);
        }
        let mut seen: BTreeMap<(Fault, Moment), usize> = BTreeMap::new();
        let mut keyed: Vec<(usize, (Fault, Moment, Strike))> = self
            .cards
            .iter()
            .map(|card| {
                let turn = seen.entry((card.0, card.1)).or_default();
                *turn += 1;
                (*turn, *card)
            })
            .collect();
        keyed.sort_by_key(|(turn, _)| *turn);
        self.cards = keyed.into_iter().map(|(_, card)| card).collect();
        self.next = 0;
    }

    fn deal(&mut self) -> (Fault, Moment, Strike) {
        if self.next == self.cards.len() {
            self.shuffle();
        }
        self.next += 1;
        self.cards[self.next - 1]
    }
}

struct Options {
    rounds: u64,
    seed: u64,
    version: Version,
    without_journal: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        rounds: 20,
        seed: 1,
        version: Version::from_major(18).ok_or("no 18")?,
        without_journal: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} wants a number, not {value}"));
        match name.as_str() {
            "--rounds" => options.rounds = number()?,
            "--seed" => options.seed = number()?,
            "--pg" => {
                options.version = Version::from_major(number()? as u32)
                    .ok_or(format!("there is no PostgreSQL {value} here"))?;
            }
            "--without" if value == "journal" => options.without_journal = true,
            _ => return Err(format!("{name} {value}: not known")),
        }
    }
    Ok(options)
}

fn start(options: &Options) -> Result<Arc<Cluster>, String> {
    let cluster = Cluster::builder(options.version)
        .preload(true)
        .database("app")
        .setting("max_worker_processes", 16)
        .start()
        .map_err(|error| error.to_string())?;
    let mut client = cluster.connect("app").map_err(|error| error.to_string())?;
    // Time is compressed where only intervals count.
    client
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE;
               SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "min_healing_interval_seconds": 0,
                   "dwell_samples": 1, "panel_queries": 32, "structure_interval_seconds": 2, "panel_interval_seconds": 5}')"#,
        )
        .map_err(|error| error.to_string())?;
    if options.without_journal {
        client
            .batch_execute(
                "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                 CREATE TRIGGER forget BEFORE INSERT ON ruvector.action_steps FOR EACH ROW
                     WHEN (NEW.state = 'intent') EXECUTE FUNCTION forget()",
            )
            .map_err(|error| error.to_string())?;
    }
    Ok(Arc::new(cluster))
}

fn run(options: &Options) -> Result<bool, String> {
    let cluster = start(options)?;
    let mut deck = Deck::new(options.seed);
    let mut met: BTreeMap<(Fault, Moment, Strike), u64> = BTreeMap::new();
    let mut times: BTreeMap<Strike, Vec<Duration>> = BTreeMap::new();
    let (mut acknowledged, mut failed) = (0, 0);
    let began = Instant::now();
    for number in 1..=options.rounds {
        let card = deck.deal();
        let (fault, moment, strike) = card;
        let place = Place { cluster: &cluster, number, chance: deck.random.unit() };
        let went = play(&place, fault, moment, strike);
        *met.entry(card).or_default() += 1;
        match went {
            Ok(went) => {
                println!(
                    "{number:>4} {:<10} {:<10} {:<16} {:<12} {:>5.1} s {:>5} writes{}",
                    format!("{fault:?}"),
                    format!("{moment:?}"),
                    format!("{strike:?}"),
                    went.status,
                    went.recovered.as_secs_f64(),
                    went.acknowledged,
                    if went.violations.is_empty() { "" } else { "  VIOLATED" }
                );
                went.violations.iter().for_each(|violation| println!("     {violation}"));
                acknowledged += went.acknowledged;
                times.entry(strike).or_default().push(went.recovered);
                failed += u64::from(!went.violations.is_empty());
                if !went.violations.is_empty() {
                    return finish(options, &met, &mut times, acknowledged, failed, began);
                }
            }
            Err(error) => {
                println!("{number:>4} {fault:?} {moment:?} {strike:?} FAILED: {error}");
                failed += 1;
                return finish(options, &met, &mut times, acknowledged, failed, began);
            }
        }
    }
    finish(options, &met, &mut times, acknowledged, failed, began)
}

/// Prints the table and the recovery times; whether all was well.
fn finish(
    options: &Options,
    met: &BTreeMap<(Fault, Moment, Strike), u64>,
    times: &mut BTreeMap<Strike, Vec<Duration>>,
    acknowledged: u64,
    failed: u64,
    began: Instant,
) -> Result<bool, String> {
    println!("\nRounds by remedy, moment and strike (. cannot be, 0 not met):\n");
    print!("{:<32}", "");
    STRIKES.iter().for_each(|strike| print!("{:>10.9}", format!("{strike:?}")));
    println!();
    for fault in FAULTS {
        for moment in MOMENTS.into_iter().filter(|moment| fault.meets(*moment)) {
            print!("{:<22}{:<10}", fault.remedy(), format!("{moment:?}"));
            for strike in STRIKES {
                let count = met.get(&(fault, moment, strike)).copied().unwrap_or(0);
                let cell = if strike.possible_at(moment) { count.to_string() } else { ".".to_owned() };
                print!("{cell:>10}");
            }
            println!("   {fault:?}");
        }
    }
    println!(
        "\nFrom the strike to a consistent state, seconds:\n\n{:<20}{:>8}{:>8}{:>8}",
        "", "rounds", "p50", "p95"
    );
    for (strike, times) in times.iter_mut() {
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64();
        println!("{:<20}{:>8}{:>8.1}{:>8.1}", format!("{strike:?}"), times.len(), at(0.5), at(0.95));
    }
    println!(
        "\nseed {}, {} rounds in {:.0} s, {acknowledged} acknowledged writes, {failed} rounds with violations",
        options.seed,
        met.values().sum::<u64>(),
        began.elapsed().as_secs_f64()
    );
    Ok(failed == 0)
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}
