//! Chaos: round after round a fault is made, its remedy begins, and at some moment something strikes: processes die, tables
//! go, people interfere, while writers write. After each round no acknowledged write is lost, nothing half-done or held back is
//! left, and the audit log is whole. The tables at the end say how often each pair was met; recovery times follow.
//!
//! `chaos [--rounds N] [--seed N] [--pg 18|15] [--only FAULT,…] [--peace FILE] [--without journal|lease|single-flight]`: with `--peace` nobody
//! strikes, and what users feel before and after each remedy goes into the file (`make cures`); the last shows that the suite finds a healer that lacks it. Single flight is switched off by a build with the feature `without_single_flight`
//! (`make chaos WITHOUT=single-flight`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, Version};

mod deck;
mod fault;
mod ledger;
mod moment;
mod orchestrator;
mod peace;
mod round;
mod strike;

use deck::{Card, Deck};
use fault::{FAULTS, Fault};
use moment::MOMENTS;
use orchestrator::Orchestrator;
use round::{Place, play};
use strike::{STRIKES, Strike};

/// What a healer can be made to lack.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Without {
    Journal,
    Lease,
    SingleFlight,
}

/// Share of rounds with a fault that the healer treats by itself in which it does, and is not asked to.
const UNASKED_SHARE: f64 = 0.5;
/// Rounds after which no cell of the tables may be empty.
const LONG_RUN: u64 = 200;

struct Options {
    rounds: u64,
    seed: u64,
    version: Version,
    only: Vec<Fault>,
    without: Option<Without>,
    peace: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        rounds: 20,
        seed: 1,
        version: Version::from_major(18).ok_or("no 18")?,
        only: FAULTS.to_vec(),
        without: None,
        peace: None,
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
            "--only" => {
                options.only = value.split(',').map(named).collect::<Result<_, _>>()?;
            }
            "--peace" => options.peace = Some(PathBuf::from(value)),
            "--without" => {
                options.without = Some(match value.as_str() {
                    "journal" => Without::Journal,
                    "lease" => Without::Lease,
                    "single-flight" => Without::SingleFlight,
                    _ => return Err(format!("{value}: journal, lease or single-flight")),
                });
            }
            _ => return Err(format!("{name} {value}: not known")),
        }
    }
    Ok(options)
}

fn named(name: &str) -> Result<Fault, String> {
    let of = |fault: &Fault| format!("{fault:?}").eq_ignore_ascii_case(name) || fault.remedy() == name;
    FAULTS.into_iter().find(of).ok_or_else(|| format!("{name}: one of {FAULTS:?} or of their remedies"))
}

fn start(options: &Options, outside: &Orchestrator) -> Result<Arc<Cluster>, String> {
    let cluster = Cluster::builder(options.version)
        .preload(true)
        .database("app")
        .setting("max_worker_processes", 16)
        .setting("ruvector.scale_command", outside.program().display())
        .start()
        .map_err(|error| error.to_string())?;
    let mut client = cluster.connect("app").map_err(|error| error.to_string())?;
    // Time is compressed where only intervals count. What is checked here is not whether the server is quiet.
    client
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE;
               SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "min_healing_interval_seconds": 0,
                   "dwell_samples": 1, "panel_queries": 32, "structure_interval_seconds": 2, "panel_interval_seconds": 5,
                   "max_replicas": 3, "quiet_active_sessions_per_core": null, "max_attempts_per_window": 100}')"#,
        )
        .map_err(round::text)?;
    let lacking = match options.without {
        None => "",
        Some(Without::Journal) => {
            "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER forget BEFORE INSERT ON ruvector.action_steps FOR EACH ROW
                 WHEN (NEW.state = 'intent') EXECUTE FUNCTION forget()"
        }
        // What is held back is held back for good.
        Some(Without::Lease) => {
            "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 NEW.ends_at := NEW.begins_at + interval '1 year'; RETURN NEW; END $$;
             CREATE TRIGGER forget BEFORE INSERT ON ruvector.leases FOR EACH ROW EXECUTE FUNCTION forget()"
        }
        Some(Without::SingleFlight) => {
            r#"DROP INDEX ruvector.actions_in_flight;
               SELECT ruvector_healing_configure('{"max_concurrent_actions": 16, "max_total_impact": 64}')"#
        }
    };
    client.batch_execute(lacking).map_err(round::text)?;
    Ok(Arc::new(cluster))
}

fn run(options: &Options) -> Result<bool, String> {
    let outside = Orchestrator::new()?;
    let cluster = start(options, &outside)?;
    let mut deck = Deck::new(options.seed, |fault| options.only.contains(&fault));
    let mut tally = Tally::default();
    let began = Instant::now();
    for number in 1..=options.rounds {
        let card = deck.deal();
        let (fault, moment, strike) = card;
        // Where a writer's open transaction is what holds the action, the healer would wait for its end before it plans.
        let unasked = fault.is_treated_unasked() && !moment.holds_table() && deck.chance() < UNASKED_SHARE;
        let place = Place { cluster: &cluster, outside: &outside, number, chance: deck.chance(), unasked };
        tally.unasked += u64::from(unasked);
        let went = play(&place, fault, moment, strike);
        *tally.met.entry(card).or_default() += 1;
        let well = match went {
            Ok(went) => {
                println!(
                    "{number:>4} {:<10} {:<10} {:<16} {:<12} {:>5.1} s {:>5} writes{}{}",
                    format!("{fault:?}"),
                    format!("{moment:?}"),
                    format!("{strike:?}"),
                    went.status,
                    went.recovered.as_secs_f64(),
                    went.acknowledged,
                    if unasked { "  unasked" } else { "" },
                    if went.violations.is_empty() { "" } else { "  VIOLATED" }
                );
                went.violations.iter().for_each(|violation| println!("     {violation}"));
                tally.acknowledged += went.acknowledged;
                tally.times.entry(strike).or_default().push(went.recovered);
                went.violations.is_empty()
            }
            Err(error) => {
                println!("{number:>4} {fault:?} {moment:?} {strike:?} FAILED: {error}");
                false
            }
        };
        if !well {
            tally.failed += 1;
            break;
        }
    }
    let wanting = tally.print(options);
    println!(
        "\nseed {}, PostgreSQL {}, {} rounds ({} of what the healer does by itself) in {:.0} s, {} acknowledged writes, {} rounds with violations",
        options.seed,
        options.version.major(),
        tally.met.values().sum::<u64>(),
        tally.unasked,
        began.elapsed().as_secs_f64(),
        tally.acknowledged,
        tally.failed
    );
    wanting.iter().for_each(|what| println!("{what}"));
    Ok(tally.failed == 0 && wanting.is_empty())
}

/// What came.
#[derive(Default)]
struct Tally {
    met: BTreeMap<Card, u64>,
    times: BTreeMap<Strike, Vec<Duration>>,
    acknowledged: u64,
    /// Rounds in which the healer acted by itself.
    unasked: u64,
    failed: u64,
}

impl Tally {
    /// Prints the tables; what is wanting of a long run: cells that stayed empty, recoveries slower than promised.
    fn print(&mut self, options: &Options) -> Vec<String> {
        let mut wanting = Vec::new();
        println!("\nRounds by fault and the moment of its remedy (. cannot be, 0 not met):\n");
        let by_moment = self.table(
            options,
            &MOMENTS,
            |fault, moment| fault.meets(*moment),
            |card, moment| card.1 == *moment,
        );
        println!("\nRounds by fault and strike:\n");
        let possible = |fault: Fault, strike: &Strike| {
            MOMENTS.into_iter().any(|moment| fault.meets(moment) && strike.possible(fault, moment))
        };
        let by_strike = self.table(options, &STRIKES, possible, |card, strike| card.2 == *strike);
        if options.rounds >= LONG_RUN && by_moment + by_strike > 0 {
            wanting.push(format!("{} cells of the tables are empty", by_moment + by_strike));
        }
        println!(
            "\nFrom the strike to a consistent state, seconds:\n\n{:<20}{:>8}{:>8}{:>8}",
            "", "rounds", "p50", "p95"
        );
        for (strike, times) in &mut self.times {
            times.sort_unstable();
            let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64();
            println!("{:<20}{:>8}{:>8.1}{:>8.1}", format!("{strike:?}"), times.len(), at(0.5), at(0.95));
            if let Some(promised) = strike.promised().filter(|promised| at(0.95) > promised.as_secs_f64()) {
                let seconds = promised.as_secs();
                wanting.push(format!("{strike:?}: p95 is {:.1} s, {seconds} s are promised", at(0.95)));
            }
        }
        wanting
    }

    /// Faults down, `across` across; the number of cells that could be and stayed empty.
    fn table<T: std::fmt::Debug>(
        &self,
        options: &Options,
        across: &[T],
        can_be: impl Fn(Fault, &T) -> bool,
        is: impl Fn(&Card, &T) -> bool,
    ) -> usize {
        let mut empty = 0;
        print!("{:<33}", "");
        across.iter().for_each(|column| print!("{:>10.9}", format!("{column:?}")));
        println!();
        for fault in &options.only {
            print!("{:<11}{:<22}", format!("{fault:?}"), fault.remedy());
            for column in across {
                let met = self.met.iter().filter(|(card, _)| card.0 == *fault && is(card, column));
                let count: u64 = met.map(|(_, count)| count).sum();
                empty += usize::from(count == 0 && can_be(*fault, column));
                let cell = if can_be(*fault, column) { count.to_string() } else { ".".to_owned() };
                print!("{cell:>10}");
            }
            println!();
        }
        empty
    }
}

/// Each remedy on its fault, in peace; what users felt goes into the file.
fn in_peace(options: &Options, file: &Path) -> Result<bool, String> {
    let outside = Orchestrator::new()?;
    let cluster = start(options, &outside)?;
    let (mut all, mut well) = (vec![], true);
    for (fault, number) in options.only.iter().zip(1..) {
        let healed =
            peace::heal(&cluster, &outside, *fault, number).map_err(|error| format!("{fault:?}: {error}"))?;
        println!("{number:>4} {fault:?} {}", if healed.violations.is_empty() { "well" } else { "VIOLATED" });
        healed.violations.iter().for_each(|violation| println!("     {violation}"));
        well &= healed.violations.is_empty();
        all.push(healed);
    }
    let report = peace::report(options.version.major(), &all);
    print!("\n{report}");
    std::fs::write(file, report).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(well)
}

fn main() -> ExitCode {
    let go = |options: Options| match &options.peace {
        Some(file) => in_peace(&options, file),
        None => run(&options),
    };
    match options().and_then(go) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}
