//! `index_rebuilt_by_hand`: a human rebuilds an index, which an action may be about to replace.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct IndexRebuiltByHand;

impl Hazard for IndexRebuiltByHand {
    fn name(&self) -> &'static str {
        "index_rebuilt_by_hand"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, i))) = stage.target(event, |index| index.valid) else { return };
        let relfilenode = stage.world.oid();
        let table = &mut stage.world.collections[collection].tables[t];
        let rows = table.rows;
        let index = &mut table.indexes[i];
        index.relfilenode = relfilenode;
        index.finish(rows, 0.01);
        (index.panel, index.structure) = (None, None);
        stage.world.collections[collection].struck(stage.world.now);
    }
}
