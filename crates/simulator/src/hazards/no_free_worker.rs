//! `no_free_worker`: all background workers are taken but the one that the extension keeps in reserve.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct NoFreeWorker;

impl Hazard for NoFreeWorker {
    fn name(&self) -> &'static str {
        "no_free_worker"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.no_workers = true;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.no_workers = false;
    }
}
