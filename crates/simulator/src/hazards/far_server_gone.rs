//! `far_server_gone`: the other server that holds partitions does not answer for a while.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct FarServerGone;

impl Hazard for FarServerGone {
    fn name(&self) -> &'static str {
        "far_server_gone"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(5.0, 10_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, _event: &Event) {
        let now = stage.world.now;
        stage.world.far.gone_since.get_or_insert(now);
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        stage.world.far.gone_since = None;
    }
}
