//! `lists_misfit`: the lists of an ivfflat index were trained on few rows, most rows came later.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct ListsMisfit;

impl Hazard for ListsMisfit {
    fn name(&self) -> &'static str {
        "lists_misfit"
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
        table.changes += table.rows as i64;
        table.indexes[i].shape.misfit = 0.35 + 0.5 * event.magnitude;
        stage.fault(collection, self.name());
    }
}
