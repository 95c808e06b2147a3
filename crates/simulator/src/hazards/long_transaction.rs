//! `long_transaction`: a foreign transaction lasts: concurrent builds and drops wait for it.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct LongTransaction;

impl Hazard for LongTransaction {
    fn name(&self) -> &'static str {
        "long_transaction"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(300.0, 14_000.0) as u64
    }

    fn begin(&self, stage: &mut Stage, _event: &Event) {
        stage.world.weather.long_transactions += 1;
    }

    fn end(&self, stage: &mut Stage, _event: &Event) {
        let count = &mut stage.world.weather.long_transactions;
        *count = count.saturating_sub(1);
    }
}
