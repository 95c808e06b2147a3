//! `index_dropped_by_hand`: a human drops an index that is not wanted any more.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct IndexDroppedByHand;

impl Hazard for IndexDroppedByHand {
    fn name(&self) -> &'static str {
        "index_dropped_by_hand"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, i))) = stage.target(event, |index| index.valid) else { return };
        if event.magnitude < 0.7 {
            return;
        }
        if event.magnitude > 0.85 {
            // The one that is being worked at, in the middle of it.
            stage.armed_drops.push(1 + event.at_s as u32 % 12);
            return;
        }
        let oid = stage.world.collections[collection].tables[t].indexes[i].oid;
        stage.drop_by_hand(collection, oid);
    }
}
