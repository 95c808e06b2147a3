//! From a long scenario that fails to a short one that fails in the same way.

use crate::scenario::{Mode, Scenario};
use crate::simulation::run;

/// Runs that shrinking may take: each is a whole simulation.
const RUNS_MAX: u32 = 600;

/// A shorter scenario that breaks the same check, with what it says then. None when the scenario breaks nothing.
pub fn shrink(scenario: &Scenario) -> Option<(Scenario, String)> {
    let (check, first) = run(scenario).violations.into_iter().next()?;
    let mut runs = 0;
    let mut best = (scenario.clone(), first);
    let mut attempt = |candidate: &Scenario, best: &mut (Scenario, String)| -> bool {
        runs += 1;
        if runs > RUNS_MAX {
            return false;
        }
        match run(candidate).violations.into_iter().find(|(broken, _)| *broken == check) {
            Some((_, detail)) => {
                *best = (candidate.clone(), detail);
                true
            }
            None => false,
        }
    };
    // Shorter by halves, where what fails does not lie at the end by nature.
    while best.0.length_s > 4 * best.0.tick_s {
        let mut candidate = best.0.clone();
        candidate.length_s = candidate.length_s * 3 / 4;
        // What strikes after the calm is curable in less time than the check grants.
        let end_s = if candidate.mode == Mode::Liveness { candidate.calm_s() } else { candidate.length_s };
        candidate.events.retain(|event| event.at_s < end_s);
        if !attempt(&candidate, &mut best) {
            break;
        }
    }
    // Fewer events: chunks of half of them, of a quarter, and at last one by one.
    let mut chunk = best.0.events.len().max(1);
    while chunk > 0 {
        let mut at = 0;
        while at < best.0.events.len() {
            let mut candidate = best.0.clone();
            candidate.events.drain(at..(at + chunk).min(candidate.events.len()));
            if !attempt(&candidate, &mut best) {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    // Fewer collections: the last ones; events count around, so those of the others are kept in place.
    while best.0.collections.len() > 1 {
        let mut candidate = best.0.clone();
        let count = candidate.collections.len();
        for event in &mut candidate.events {
            event.collection %= count;
        }
        candidate.collections.pop();
        candidate.events.retain(|event| event.collection < count - 1);
        if !attempt(&candidate, &mut best) {
            break;
        }
    }
    Some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defects::Defect;
    use crate::scenario::DAY_S;

    #[test]
    fn a_failure_gets_shorter_and_fails_in_the_same_way() {
        let mut scenario = (0..50)
            .map(|seed| Scenario::generate_as(seed, 2 * DAY_S, Mode::Safety))
            .map(|scenario| Scenario { defects: vec![Defect::NoJournal], ..scenario })
            .find(|scenario| !run(scenario).violations.is_empty())
            .unwrap();
        scenario.defects = vec![Defect::NoJournal];
        let (short, detail) = shrink(&scenario).unwrap();
        assert!(short.events.len() < scenario.events.len() / 4, "{} events", short.events.len());
        let again = run(&short);
        assert_eq!(again.violations.first(), Some(&("intent_first", detail)));
        let mended = Scenario { defects: vec![], ..short };
        assert_eq!(run(&mended).violations, []);
        assert!(shrink(&mended).is_none());
    }
}
