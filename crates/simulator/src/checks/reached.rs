//! For the tests of the checks: a stage in the middle of a run, and what a check says once something in it is changed.

use std::rc::Rc;

use crate::hazards::Schedule;
use crate::scenario::{DAY_S, Mode, Scenario};
use crate::simulation::turn;
use crate::stage::Stage;
use crate::store::{Action, Planned};

/// Seeds that are tried, and days of each.
const SEEDS: u64 = 400;
const DAYS: u64 = 3;

/// The stage of the first seed at the first tick in which an open action fits, and that action.
///
/// # Panics
/// When none does.
pub(super) fn stage_with(fits: impl Fn(&Stage, &Action) -> bool) -> (Stage, i64) {
    for seed in 0..SEEDS {
        let scenario = Scenario::generate_as(seed, DAYS * DAY_S, Mode::Safety);
        let mut stage = Stage::new(&scenario);
        let mut schedule = Schedule::new(&scenario);
        for tick in 0..scenario.length_s / scenario.tick_s {
            stage.world.advance(scenario.tick_s as i64 * 1000);
            schedule.strike(&mut stage, tick * scenario.tick_s);
            turn(&mut stage);
            let found = stage.store.open.iter().find(|id| fits(&stage, &stage.store.actions[id]));
            if let Some(id) = found.copied() {
                assert!(stage.violations.is_empty(), "{:?}", stage.violations);
                return (stage, id);
            }
        }
    }
    panic!("no action of {SEEDS} seeds fits");
}

/// What a check finds once something was changed, by the names of the checks.
pub(super) fn found(
    stage: &Stage,
    change: impl FnOnce(&mut Stage),
    look: impl FnOnce(&mut Stage),
) -> Vec<&'static str> {
    let mut stage = stage.clone();
    change(&mut stage);
    look(&mut stage);
    stage.violations.iter().map(|(check, _)| *check).collect()
}

/// What an action consists of, to be changed.
pub(super) fn planned(stage: &mut Stage, id: i64) -> &mut Planned {
    match stage.store.action(id).planned.as_mut() {
        Some(planned) => Rc::make_mut(planned),
        None => panic!("action {id} has no plan"),
    }
}
