//! `rows_deleted`: most rows of a table are deleted: its indexes keep their size.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// Tables smaller than this lose no more rows.
const ROWS_MIN: f64 = 3000.0;

/// See the module.
pub(super) struct RowsDeleted;

impl Hazard for RowsDeleted {
    fn name(&self) -> &'static str {
        "rows_deleted"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        if random.chance(0.3) { random.between(600.0, 20_000.0) as u64 } else { 0 }
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["compact_indexes"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, _))) = stage.target(event, |index| index.valid) else { return };
        let table = &mut stage.world.collections[collection].tables[t];
        // The lists of a few rows cannot be judged: no collector would.
        if table.rows < ROWS_MIN {
            return;
        }
        let deleted = table.rows * (0.5 + 0.3 * event.magnitude);
        table.change(0.0, deleted);
        table.maintain();
        stage.fault(collection, self.name());
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        // They are loaded again.
        let Some((collection, (t, _))) = stage.target(event, |index| index.valid) else { return };
        let table = &mut stage.world.collections[collection].tables[t];
        table.change(table.rows * 1.5, 0.0);
        table.maintain();
        stage.world.collections[collection].struck(stage.world.now);
    }
}
