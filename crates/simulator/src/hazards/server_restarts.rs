//! `server_restarts`: the server is restarted in order: sessions end, nothing is lost.

use super::{Event, Hazard, Kind, Stage};

/// See the module.
pub(super) struct ServerRestarts;

impl Hazard for ServerRestarts {
    fn name(&self) -> &'static str {
        "server_restarts"
    }

    fn kind(&self) -> Kind {
        Kind::Crash
    }

    fn begin(&self, stage: &mut Stage, event: &Event) {
        stage.restart_server(3000 + (event.magnitude * 30_000.0) as i64);
    }
}
