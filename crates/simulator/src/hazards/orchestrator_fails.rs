//! `orchestrator_fails`: whoever starts replicas answers with errors.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct OrchestratorFails;

impl Hazard for OrchestratorFails {
    fn name(&self) -> &'static str {
        "orchestrator_fails"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(60.0, 20_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.orchestrator_fails = true;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.orchestrator_fails = false;
    }
}
