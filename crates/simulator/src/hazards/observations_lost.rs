//! `observations_lost`: samples fail.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct ObservationsLost;

impl Hazard for ObservationsLost {
    fn name(&self) -> &'static str {
        "observations_lost"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.world.weather.lost = 0.2 + 0.7 * event.magnitude;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.lost = 0.0;
    }
}
