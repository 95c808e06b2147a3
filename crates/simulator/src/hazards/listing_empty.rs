//! `listing_empty`: the list of a collection's partitions comes back empty, which says nothing of them.

use super::{Event, Hazard, Kind, Stage};
use crate::random::Random;

/// See the module.
pub(super) struct ListingEmpty;

impl Hazard for ListingEmpty {
    fn name(&self) -> &'static str {
        "listing_empty"
    }

    fn kind(&self) -> Kind {
        Kind::Weather
    }

    fn lasts_s(&self, random: &mut Random) -> u64 {
        random.between(300.0, 7_200.0) as u64
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        stage.world.collections[collection].unlisted = true;
        stage.world.collections[collection].touch();
    }

    fn end(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        stage.world.collections[collection].unlisted = false;
        stage.world.collections[collection].touch();
    }
}
