//! `operator_executes`: a human names a strategy.

use super::{Event, Hazard, Kind, Stage};
use healing::engine::Request;
use healing::remedies;
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
        let strategy = remedies::ALL[event.part % remedies::ALL.len()].name().to_owned();
        stage.requests[collection] += 1;
        stage.store.propose(collection, Request::Execute { strategy, params: Value::Null });
    }
}
