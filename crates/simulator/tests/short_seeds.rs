//! A thousand short worlds without a violation, and the same run twice is the same run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use simulator::scenario::{Mode, Scenario};
use simulator::simulation::{run, run_with};

const DAY_S: u64 = 86_400;

#[test]
fn a_thousand_short_seeds_break_nothing() {
    // A world in which nothing is healed proves nothing.
    let actions = nothing_breaks((0..1000).map(|seed| Scenario::generate(seed, DAY_S)).collect());
    assert!(actions > 1000, "{actions} actions");
}

/// A day is too short to ask whether what can be cured is: after the calm that takes thirty hours.
#[test]
fn what_strikes_in_a_day_and_a_half_is_cured_by_the_third() {
    let seeds = 10_000..10_024;
    let actions =
        nothing_breaks(seeds.map(|seed| Scenario::generate_as(seed, 3 * DAY_S, Mode::Liveness)).collect());
    assert!(actions > 100, "{actions} actions");
}

/// Runs them all; how many actions there were.
fn nothing_breaks(scenarios: Vec<Scenario>) -> u64 {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let actions = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    let result = run(scenario);
                    actions.fetch_add(result.actions, Ordering::Relaxed);
                    if let Some(violation) = result.violations.into_iter().next() {
                        failures.lock().expect("no thread panics").push((scenario.seed, violation));
                    }
                }
            });
        }
    });
    assert_eq!(failures.into_inner().expect("no thread panics"), []);
    actions.into_inner()
}

#[test]
fn a_seed_replays_exactly() {
    let mut replayed = 0;
    for seed in 0..100 {
        let scenario = Scenario::generate(seed, 2 * DAY_S);
        let first = run_with(&scenario, true);
        // A world in which little happens replays by itself.
        if first.actions < 5 || first.trace.len() < 50 {
            continue;
        }
        let second = run_with(&scenario, true);
        assert_eq!(first.trace, second.trace);
        assert_eq!(first.work, second.work);
        assert_eq!(first.coverage, second.coverage);
        let text = serde_json::to_string(&scenario).unwrap();
        let read: Scenario = serde_json::from_str(&text).unwrap();
        assert_eq!(run_with(&read, true).trace, first.trace, "a scenario survives its file");
        replayed += 1;
        if replayed == 3 {
            return;
        }
    }
    panic!("of 100 worlds {replayed} were eventful");
}
