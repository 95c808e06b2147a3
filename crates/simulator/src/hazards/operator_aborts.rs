//! `operator_aborts`: a human stops an action, whatever it is at.

use super::{Event, Hazard, Kind, Stage};
use healing::lifecycle::Status;
use healing::recovery::StopReason;

/// See the module.
pub(super) struct OperatorAborts;

impl Hazard for OperatorAborts {
    fn name(&self) -> &'static str {
        "operator_aborts"
    }

    fn kind(&self) -> Kind {
        Kind::Operator
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        let open = stage.store.open.clone();
        let Some(&id) = open.get(event.part % open.len().max(1)) else {
            // The next one, in the middle of it.
            stage.armed_aborts.push(1 + event.at_s as u32 % 40);
            return;
        };
        let at = stage.moment();
        let action = stage.store.action(id);
        match action.status {
            Status::Proposed | Status::AwaitingApproval => {
                action.stop_reason = Some(StopReason::Abort);
                if let Err(error) = stage.store.advance(id, Status::Aborted, at) {
                    stage.violated("lifecycle", error);
                }
                stage.coverage.ended("none", Status::Aborted);
            }
            _ if !action.keep && action.stop_reason.is_none() => {
                action.stop_reason = Some(StopReason::Abort);
                action.stop_asked = Some(at);
            }
            _ => {}
        }
    }
}
