//! `healing_paused`: a human pauses healing until a moment; it goes on by itself.

use super::{Event, Hazard, Kind, Stage};

/// Seconds of the longest pause.
const LONGEST_S: f64 = 20_000.0;

/// See the module.
pub(super) struct HealingPaused;

impl Hazard for HealingPaused {
    fn name(&self) -> &'static str {
        "healing_paused"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let number = stage.collection(event);
        let until = stage.world.wall() + 60_000 + (event.magnitude * LONGEST_S * 1000.0) as i64;
        let collection = &mut stage.world.collections[number];
        collection.config.paused_until = Some(until);
        collection.touch();
    }
}
