//! `replica_gone`: a standby is cut off for a while.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct ReplicaGone;

impl Hazard for ReplicaGone {
    fn name(&self) -> &'static str {
        "replica_gone"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(5.0, 3600.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let now = stage.world.now;
        let replicas = &mut stage.world.strain.replicas;
        let count = replicas.len().max(1);
        if let Some(replica) = replicas.get_mut(event.part % count) {
            replica.gone_since.get_or_insert(now);
        }
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        let replicas = &mut stage.world.strain.replicas;
        let count = replicas.len().max(1);
        if let Some(replica) = replicas.get_mut(event.part % count) {
            replica.gone_since = None;
        }
    }
}
