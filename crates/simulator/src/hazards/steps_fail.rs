//! `steps_fail`: statements of the workers fail.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct StepsFail;

impl Hazard for StepsFail {
    fn name(&self) -> &'static str {
        "steps_fail"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.world.weather.failing = 0.1 + 0.6 * event.magnitude;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.failing = 0.0;
    }
}
