//! `observations_late`: the healer stalls between a sample and its decision.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct ObservationsLate;

impl Hazard for ObservationsLate {
    fn name(&self) -> &'static str {
        "observations_late"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.world.weather.late = 0.02 + 0.3 * event.magnitude;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.late = 0.0;
    }
}
