//! `mode_changed`: a human changes the mode, and back later.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;
use healing::config::Mode;

/// See the module.
pub(super) struct ModeChanged;

impl Hazard for ModeChanged {
    fn name(&self) -> &'static str {
        "mode_changed"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(600.0, 30_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        stage.world.collections[collection].config.mode =
            if event.part.is_multiple_of(2) { Mode::Observe } else { Mode::Approve };
        stage.world.collections[collection].touch();
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        let former = stage.world.collections[collection].former_mode;
        stage.world.collections[collection].config.mode = former;
        stage.world.collections[collection].touch();
    }
}
