//! `worker_dies`: the worker of an action dies, a few operations from now.

use super::{Event, Hazard, Kind, Stage};
use crate::stage::Armed;

/// See the module.
pub(super) struct WorkerDies;

impl Hazard for WorkerDies {
    fn name(&self) -> &'static str {
        "worker_dies"
    }

    fn kind(&self) -> Kind {
        Kind::Crash
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.armed.push(Armed { after: 1 + (event.magnitude * 30.0) as u32, server: false });
    }
}
