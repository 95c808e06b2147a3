//! `readings_fail`: panels and inspections are cancelled or give nothing.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct ReadingsFail;

impl Hazard for ReadingsFail {
    fn name(&self) -> &'static str {
        "readings_fail"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.world.weather.unread = 0.1 + 0.7 * event.magnitude;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.unread = 0.0;
    }
}
