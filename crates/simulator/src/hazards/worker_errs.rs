//! `worker_errs`: a worker errs as soon as it has begun, each time or most times: a table of ours is locked or damaged.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct WorkerErrs;

impl Hazard for WorkerErrs {
    fn name(&self) -> &'static str {
        "worker_errs"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(60.0, 10_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.world.weather.worker_errors = 0.6 + 0.5 * event.magnitude;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.worker_errors = 0.0;
    }
}
