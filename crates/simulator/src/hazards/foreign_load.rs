//! `foreign_load`: other work loads the server: all takes longer, readings are noisier.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct ForeignLoad;

impl Hazard for ForeignLoad {
    fn name(&self) -> &'static str {
        "foreign_load"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.world.weather.load = 3.0 * event.magnitude;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.load = 0.0;
    }
}
