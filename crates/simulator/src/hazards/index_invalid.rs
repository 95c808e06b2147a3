//! `index_invalid`: a needed index is left not valid: searches scan the table.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct IndexInvalid;

impl Hazard for IndexInvalid {
    fn name(&self) -> &'static str {
        "index_invalid"
    }

    fn kind(&self) -> Kind {
        Kind::Fault
    }

    fn remedies(&self) -> &'static [&'static str] {
        &["repair_invalid_index"]
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let Some((collection, (t, i))) = stage.target(event, |index| index.valid) else { return };
        let collection_ref = &mut stage.world.collections[collection];
        let (table, name) = (collection_ref.tables[t].oid, collection_ref.tables[t].indexes[i].name.clone());
        collection_ref.tables[t].indexes[i].valid = false;
        for wanted in collection_ref.ledger.iter_mut().filter(|w| w.table == table && w.name == name) {
            wanted.valid = false;
        }
        stage.fault(collection, self.name());
    }
}
