//! `maintenance_collides`: a vacuum of a table takes hours, and a user's ANALYZE waits for it.

use super::{Event, Hazard, Kind, Stage};

/// Seconds that the vacuum lasts.
const LASTS_S: (f64, f64) = (1200.0, 28_000.0);

/// See the module.
pub(super) struct MaintenanceCollides;

impl Hazard for MaintenanceCollides {
    fn name(&self) -> &'static str {
        "maintenance_collides"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["pause_maintenance"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let hot: Vec<_> = {
            let tables = stage.world.collections[number].tables.iter();
            tables.filter(|table| table.is_here()).map(|table| table.oid).collect()
        };
        let table = hot[event.part % hot.len()];
        let lasts_s = LASTS_S.0 + (LASTS_S.1 - LASTS_S.0) * event.magnitude;
        stage.world.collide(number, table, (lasts_s * 1000.0) as i64, event.part.is_multiple_of(2));
        stage.fault(number, self.name());
    }
}
