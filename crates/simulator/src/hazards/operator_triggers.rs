//! `operator_triggers`: a human asks to heal now.

use super::{Event, Hazard, Kind, Stage};
use healing::engine::Request;

/// See the module.
pub(super) struct OperatorTriggers;

impl Hazard for OperatorTriggers {
    fn name(&self) -> &'static str {
        "operator_triggers"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        stage.store.propose(collection, Request::Trigger);
    }
}
