//! A thousand short worlds without a violation, and the same run twice is the same run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use simulator::scenario::Scenario;
use simulator::simulation::{run, run_with};

/// Simulated seconds of each.
const LENGTH_S: u64 = 86_400;

#[test]
fn a_thousand_short_seeds_break_nothing() {
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let actions = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= 1000 {
                        return;
                    }
                    let result = run(&Scenario::generate(seed, LENGTH_S));
                    actions.fetch_add(result.actions, Ordering::Relaxed);
                    if let Some(violation) = result.violations.into_iter().next() {
                        failures.lock().unwrap().push((seed, violation));
                    }
                }
            });
        }
    });
    assert_eq!(failures.into_inner().unwrap(), []);
    // A world in which nothing is healed proves nothing.
    let actions = actions.into_inner();
    assert!(actions > 1000, "{actions} actions");
}

#[test]
fn a_seed_replays_exactly() {
    let mut replayed = 0;
    for seed in 0..100 {
        let scenario = Scenario::generate(seed, 2 * 86_400);
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
