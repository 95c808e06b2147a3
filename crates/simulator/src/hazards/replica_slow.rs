//! `replica_slow`: a standby replays less than is written (a slow disk, a long query in its way), and falls behind.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;
use crate::world::strain::REPLAY;

/// See the module.
pub(super) struct ReplicaSlow;

impl Hazard for ReplicaSlow {
    fn name(&self) -> &'static str {
        "replica_slow"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(60.0, 7200.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let replicas = &mut stage.world.strain.replicas;
        let count = replicas.len().max(1);
        if let Some(replica) = replicas.get_mut(event.part % count) {
            // From nothing at all to a little less than a server at rest writes.
            replica.replays = 150e3 * event.magnitude;
        }
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        let replicas = &mut stage.world.strain.replicas;
        let count = replicas.len().max(1);
        if let Some(replica) = replicas.get_mut(event.part % count) {
            replica.replays = REPLAY;
        }
    }
}
