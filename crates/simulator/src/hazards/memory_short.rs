//! `memory_short`: other programs take the memory: a build that needs more than is left is killed, and with it the server.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct MemoryShort;

impl Hazard for MemoryShort {
    fn name(&self) -> &'static str {
        "memory_short"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(1800.0, 40_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let indexes = stage.world.collections.iter().flat_map(|collection| collection.indexes());
        let largest = indexes.map(|(table, index)| index.clean_bytes(table.rows)).max().unwrap_or(0);
        stage.world.weather.memory_bytes = (largest as f64 * (0.2 + event.magnitude)) as u64;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.memory_bytes = u64::MAX;
    }
}
