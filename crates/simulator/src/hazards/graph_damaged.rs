//! `graph_damaged`: updates and deletes break the navigation of an hnsw graph; often it is bloated too.

use super::{Event, Hazard, Kind, Stage};
use healing::snapshot::Method;

/// See the module.
pub(super) struct GraphDamaged;

impl Hazard for GraphDamaged {
    fn name(&self) -> &'static str {
        "graph_damaged"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["compact_indexes", "tune_search_effort"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let fits = |index: &crate::world::index::Index| index.valid && index.method == Method::Hnsw;
        let Some((collection, (t, i))) = stage.target(event, fits) else { return };
        let room = stage.world.disk_free() / 4;
        let index = &mut stage.world.collections[collection].tables[t].indexes[i];
        index.shape.damage = 0.45 + 0.5 * event.magnitude;
        if event.part.is_multiple_of(2) {
            index.bytes += room.min((index.bytes as f64 * 0.7) as u64);
        }
        stage.fault(collection, self.name());
    }
}
