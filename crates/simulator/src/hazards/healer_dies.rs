//! `healer_dies`: the healer dies and is started again.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct HealerDies;

impl Hazard for HealerDies {
    fn name(&self) -> &'static str {
        "healer_dies"
    }

    fn kind(&self) -> Kind {
        Kind::Crash
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let until = stage.world.now + 3000 + (event.magnitude * 60_000.0) as i64;
        stage.healer.die(until);
    }
}
