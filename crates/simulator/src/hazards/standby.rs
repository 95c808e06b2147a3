//! `standby`: observations say that the server is in recovery.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct Standby;

impl Hazard for Standby {
    fn name(&self) -> &'static str {
        "standby"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(60.0, 6000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.in_recovery = true;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.in_recovery = false;
    }
}
