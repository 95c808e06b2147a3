//! `cold_rows_pile`: rows that nobody asks for any more pile up in a managed collection and take the memory of the others.

use super::{Event, Hazard, Kind, Stage};

/// Partitions with fewer rows are not worth it.
const ROWS_MIN: f64 = 3000.0;

/// See the module.
pub(super) struct ColdRowsPile;

impl Hazard for ColdRowsPile {
    fn name(&self) -> &'static str {
        "cold_rows_pile"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["evict_cold_data"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let collection = &mut stage.world.collections[number];
        // What may not be built beside the old one cannot become smaller.
        let attached = collection.indexes().any(|(_, index)| index.attached);
        let large = |table: &crate::world::Table| table.cold || table.rows >= ROWS_MIN;
        if !collection.managed || attached || !collection.tables.iter().all(large) {
            return;
        }
        for table in collection.tables.iter_mut().filter(|table| table.is_here()) {
            table.cold_rows = table.rows * (0.45 + 0.12 * event.magnitude);
        }
        stage.fault(number, self.name());
    }
}
