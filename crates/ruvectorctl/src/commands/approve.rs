//! `approve`: lets a plan that waits for a human run.

use super::action::{self, Waiting};
use crate::Call;
use crate::failure::Failure;

/// Let a plan that waits for you run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Number of the action, as `status` shows it.
    action: i64,
    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let id = arguments.action;
    let waited = session.row("SELECT ruvector_healing_approve($1) AS waited", &[&id]).await?;
    if waited["waited"] != true {
        return Err(action::nothing(&session, id, "nothing waits for approval").await);
    }
    action::report(call, &session, id, &arguments.waiting, &["succeeded"]).await
}
