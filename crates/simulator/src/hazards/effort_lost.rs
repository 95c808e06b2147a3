//! `effort_lost`: the search effort of an index falls back to the server's default: searches find too little.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct EffortLost;

impl Hazard for EffortLost {
    fn name(&self) -> &'static str {
        "effort_lost"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        if random.chance(0.3) { random.between(600.0, 20_000.0) as u64 } else { 0 }
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["tune_search_effort"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, i))) = stage.target(event, |index| index.valid) else { return };
        let index = &mut stage.world.collections[collection].tables[t].indexes[i];
        (index.effort, index.panel) = (None, None);
        stage.fault(collection, self.name());
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        // Somebody sets it again.
        let Some((collection, (t, i))) = stage.target(event, |index| index.valid) else { return };
        let index = &mut stage.world.collections[collection].tables[t].indexes[i];
        index.effort = index.least_effort(0.97).or(index.effort);
        index.panel = None;
        stage.world.collections[collection].struck(stage.world.now);
    }
}
