//! `lists_drift`: new rows lie elsewhere: the lists of an ivfflat index fit less by the hour.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct ListsDrift;

impl Hazard for ListsDrift {
    fn name(&self) -> &'static str {
        "lists_drift"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        if random.chance(0.3) { random.between(600.0, 20_000.0) as u64 } else { 0 }
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["rebuild_centroids"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, i))) = stage.lists(event) else { return };
        let index = &mut stage.world.collections[collection].tables[t].indexes[i];
        index.shape.misfit_per_hour = 0.01 + 0.09 * event.magnitude;
        stage.fault(collection, self.name());
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        // The foreign rows are gone again, and with them the misfit.
        let collection = stage.collection(event);
        for table in &mut stage.world.collections[collection].tables {
            for index in table.indexes.iter_mut().filter(|index| index.shape.misfit_per_hour > 0.0) {
                (index.shape.misfit, index.shape.misfit_per_hour) = (0.01, 0.0);
                table.changes += (table.rows * 0.2) as i64;
            }
        }
        stage.world.collections[collection].struck(stage.world.now);
    }
}
