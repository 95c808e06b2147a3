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
        let target = &mut stage.world.collections[collection];
        let (table, index) = (target.tables[t].oid, &target.tables[t].indexes[i]);
        let (oid, name) = (index.oid, index.name.clone());
        target.ledger.retain(|wanted| !(wanted.table == table && wanted.name == name));
        target.remove(oid);
        target.struck(stage.world.now);
    }
}
