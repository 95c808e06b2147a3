//! `operator_executes`: a human names a strategy.

use super::{Event, Hazard, Kind, Stage, strategies};
use healing::engine::Request;
use serde_json::Value;

/// See the module.
pub(super) struct OperatorExecutes;

impl Hazard for OperatorExecutes {
    fn name(&self) -> &'static str {
        "operator_executes"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        let known = strategies();
        let strategy = known[event.part % known.len()].to_owned();
        stage.store.propose(collection, Request::Execute { strategy, params: Value::Null });
    }
}
