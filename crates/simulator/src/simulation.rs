//! A run of a scenario: tick by tick, the same each time.

use healing::integrity::IntegrityState;

use crate::checks::{self, Watch};
use crate::coverage::Coverage;
use crate::hazards;
use crate::healer;
use crate::scenario::{Mode, Scenario};
use crate::stage::Stage;
use crate::steps;
use crate::worker;
use crate::world::Work;

/// Seconds between two looks of a human once the disturbances are over.
const LOOK_S: u64 = 4 * 3600;

/// What became of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// What was broken: check and detail, in order.
    pub violations: Vec<(&'static str, String)>,
    /// What was met.
    pub coverage: Coverage,
    /// Work spent.
    pub work: Work,
    /// Actions that began.
    pub actions: u64,
    /// The lines of the trace, when one was wanted.
    pub trace: Vec<String>,
}

/// Runs a scenario to its end, or to its first violation. A panic is one: with its seed, to be replayed and made shorter.
pub fn run(scenario: &Scenario) -> Run {
    std::panic::catch_unwind(|| run_with(scenario, false)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of no text");
        Run {
            violations: vec![("panicked", text.to_owned())],
            coverage: Coverage::default(),
            work: Work::default(),
            actions: 0,
            trace: vec![],
        }
    })
}

/// The same; `trace`: with a line for each event.
pub fn run_with(scenario: &Scenario, trace: bool) -> Run {
    let mut stage = Stage::new(scenario);
    stage.trace = trace.then(Vec::new);
    let mut watch = Watch::default();
    let mut schedule = hazards::Schedule::new(scenario);
    let tick_ms = scenario.tick_s as i64 * 1000;
    let mut calmed = scenario.mode != Mode::Liveness;
    // Actions of the storm that are still under way.
    let mut of_storm: Vec<i64> = vec![];
    for tick in 0..scenario.length_s / scenario.tick_s {
        stage.world.advance(tick_ms);
        let second = tick * scenario.tick_s;
        schedule.strike(&mut stage, second);
        if !calmed && second >= scenario.calm_s() {
            calmed = true;
            calm(&mut stage);
            of_storm = in_flight(&stage);
        }
        // What the storm struck may fail after it: a human looks after that too.
        if !of_storm.is_empty() && in_flight(&stage).iter().all(|id| !of_storm.contains(id)) {
            of_storm.clear();
            for number in 0..stage.world.collections.len() {
                if stage.store.arms[number].iter().any(|arm| arm.breaker_open) {
                    stage.close_breakers(number);
                }
            }
        }
        // Remedies that failed in the storm go as far as approval: a human looks now and then.
        if scenario.mode == Mode::Liveness && calmed && second.is_multiple_of(LOOK_S) {
            hazards::approve(&mut stage);
        }
        turn(&mut stage);
        checks::tick(&mut stage, &mut watch, scenario);
        if !stage.violations.is_empty() {
            break;
        }
    }
    if stage.violations.is_empty() {
        checks::at_end(&mut stage, scenario);
    }
    let actions = stage.coverage.begun.values().sum();
    Run {
        violations: stage.violations,
        coverage: stage.coverage,
        work: stage.world.work,
        actions,
        trace: stage.trace.unwrap_or_default(),
    }
}

/// What runs on the server does so for a tick.
pub(crate) fn turn(stage: &mut Stage) {
    worker::run_all(stage);
    steps::pause_maintenance::holders_let_go(stage);
    healer::round(stage);
}

fn in_flight(stage: &Stage) -> Vec<i64> {
    let runs = |id: &i64| stage.store.actions[id].status.is_in_flight();
    stage.store.open.iter().copied().filter(runs).collect()
}

/// Disturbances are over, and a human has looked after what asked for one.
fn calm(stage: &mut Stage) {
    stage.armed.clear();
    stage.armed_drops.clear();
    stage.armed_aborts.clear();
    for number in 0..stage.world.collections.len() {
        stage.close_breakers(number);
        if stage.store.records[number].is_some_and(|record| record.state != IntegrityState::Normal) {
            stage.say(|| format!("calm: collection {number} is still weak"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hazards::Event;

    #[test]
    fn a_panic_is_a_violation_with_its_text() {
        let mut scenario = Scenario::generate(3, 3600);
        let hazard = "nothing_like_it".to_owned();
        scenario.events = vec![Event { at_s: 0, hazard, collection: 0, part: 0, magnitude: 0.0, lasts_s: 0 }];
        let violations = run(&scenario).violations;
        assert!(
            matches!(&violations[..], [("panicked", text)] if text.contains("nothing_like_it")),
            "{violations:?}"
        );
    }
}
