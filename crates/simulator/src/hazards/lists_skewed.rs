//! `lists_skewed`: one region of the vectors fills: a few lists of an ivfflat index hold most rows.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct ListsSkewed;

impl Hazard for ListsSkewed {
    fn name(&self) -> &'static str {
        "lists_skewed"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["rebuild_centroids"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, i))) = stage.lists(event) else { return };
        let table = &mut stage.world.collections[collection].tables[t];
        table.changes += (table.rows * 0.4) as i64;
        table.indexes[i].shape.skew = 1.3 + 6.0 * event.magnitude;
        table.indexes[i].shape.misfit = table.indexes[i].shape.misfit.max(0.15);
        stage.fault(collection, self.name());
    }
}
