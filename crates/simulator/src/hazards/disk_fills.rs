//! `disk_fills`: foreign files fill the disk, up to the last byte.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct DiskFills;

impl Hazard for DiskFills {
    fn name(&self) -> &'static str {
        "disk_fills"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let free = stage.world.disk_free() as f64;
        stage.world.weather.foreign_bytes += (free * (0.5 + 0.55 * event.magnitude).min(1.0)) as u64;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.foreign_bytes = 0;
    }
}
