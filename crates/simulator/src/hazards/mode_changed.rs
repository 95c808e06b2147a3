//! `mode_changed`: a human changes the mode, and back later, or how far one remedy goes by itself.

use super::{Event, Hazard, Kind, Stage, strategies};
use crate::random::Random;
use healing::config::Mode;

/// From this magnitude on it is one remedy's autonomy that is lowered.
const ONE_REMEDY: f64 = 0.87;

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
        if event.magnitude > ONE_REMEDY {
            // Of one remedy alone (ruvector_healing_autonomy); what raises it again is its evidence, or a human.
            let known = strategies();
            let wall = stage.world.wall();
            stage.store.learning.lower(collection, known[event.part % known.len()], wall);
            stage.store.stamp += 1;
            return;
        }
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
