//! `reindex_interrupted`: somebody's `REINDEX CONCURRENTLY` was killed: a `_ccnew` index that is not valid.

use super::{Event, Hazard, Kind, Stage};
use crate::world::index::{Index, Maker};

/// See the module.
pub(super) struct ReindexInterrupted;

impl Hazard for ReindexInterrupted {
    fn name(&self) -> &'static str {
        "reindex_interrupted"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["repair_invalid_index"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, i))) = stage.target(event, |index| index.valid) else { return };
        let oid = stage.world.oid();
        let table = &mut stage.world.collections[collection].tables[t];
        let like = &table.indexes[i];
        let name = format!("{}_ccnew", like.name);
        if table.indexes.iter().any(|index| index.name == name) {
            return;
        }
        let mut copy = Index::begun(oid, name, like.method, like.lists, like.value_bytes, Maker::User);
        copy.building = false;
        copy.bytes = like.bytes / 2;
        let name = copy.name.clone();
        table.indexes.push(copy);
        stage.world.collections[collection].surplus.push(name);
        stage.fault(collection, self.name());
    }
}
