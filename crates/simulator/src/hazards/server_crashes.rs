//! `server_crashes`: the server crashes, at once or a few operations from now.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct ServerCrashes;

impl Hazard for ServerCrashes {
    fn name(&self) -> &'static str {
        "server_crashes"
    }

    fn kind(&self) -> Kind {
        Kind::Crash
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        if event.part.is_multiple_of(2) {
            stage.crash_server(5000 + (event.magnitude * 60_000.0) as i64);
        } else {
            stage
                .armed
                .push(crate::stage::Armed { after: 1 + (event.magnitude * 30.0) as u32, server: true });
        }
    }
}
