//! `locks_contended`: locks are not to be had in time.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct LocksContended;

impl Hazard for LocksContended {
    fn name(&self) -> &'static str {
        "locks_contended"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.world.weather.locked = 0.2 + 0.75 * event.magnitude;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.locked = 0.0;
    }
}
