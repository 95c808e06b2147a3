//! `operator_approves`: a human approves what waits, in time or late.

use super::{Event, Hazard, Kind, Stage};
use crate::checks;
use crate::defects::Defect;
use crate::healer::begin;
use healing::engine::Begin;
use healing::lifecycle::Status;

/// See the module.
pub(super) struct OperatorApproves;

impl Hazard for OperatorApproves {
    fn name(&self) -> &'static str {
        "operator_approves"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn begin(&self, stage: &mut Stage, _event: &Event) {
        approve(stage);
    }
}

/// A human approves all that waits, as far as the core lets them.
pub fn approve(stage: &mut Stage) {
    let waiting: Vec<i64> = stage
        .store
        .open
        .iter()
        .copied()
        .filter(|id| stage.store.actions[id].status == Status::AwaitingApproval)
        .collect();
    for id in waiting {
        let at = stage.moment();
        let action = &stage.store.actions[&id];
        let number = action.collection;
        // The unique index on open actions.
        if stage.store.in_flight(number) > 0 {
            continue;
        }
        if !stage.has(Defect::ApprovalSkipsGates) {
            match begin(stage, id) {
                Begin::Now => {}
                Begin::Wait { .. } => continue,
                Begin::Never { status, .. } => {
                    if let Err(error) = stage.store.advance(id, status, at) {
                        stage.violated("lifecycle", error);
                    }
                    stage.coverage.ended("none", status);
                    continue;
                }
            }
        }
        if let Err(error) = stage.store.advance(id, Status::Approved, at) {
            stage.violated("lifecycle", error);
        }
        let action = stage.store.action(id);
        (action.approved, action.approved_at) = (true, Some(at));
        checks::permitted(stage, id);
    }
}
