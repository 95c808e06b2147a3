//! `switched_off`: a human switches healing off, and on again later.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct SwitchedOff;

impl Hazard for SwitchedOff {
    fn name(&self) -> &'static str {
        "switched_off"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        stage.world.collections[collection].config.enabled = false;
        stage.world.collections[collection].touch();
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        stage.world.collections[collection].config.enabled = true;
        stage.world.collections[collection].touch();
    }
}
