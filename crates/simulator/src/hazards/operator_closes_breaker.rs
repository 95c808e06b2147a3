//! `operator_closes_breaker`: a human looks after a collection: breakers are closed, what could not be undone is tried again.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct OperatorClosesBreaker;

impl Hazard for OperatorClosesBreaker {
    fn name(&self) -> &'static str {
        "operator_closes_breaker"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let collection = stage.collection(event);
        stage.close_breakers(collection);
    }
}
