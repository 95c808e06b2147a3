//! `index_bloated`: updates leave an index larger than its rows need.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct IndexBloated;

impl Hazard for IndexBloated {
    fn name(&self) -> &'static str {
        "index_bloated"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["compact_indexes"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, i))) = stage.target(event, |index| index.valid) else { return };
        let room = stage.world.disk_free() / 4;
        let index = &mut stage.world.collections[collection].tables[t].indexes[i];
        index.bytes += room.min((index.bytes as f64 * (0.6 + 2.0 * event.magnitude)) as u64);
        stage.fault(collection, self.name());
    }
}
