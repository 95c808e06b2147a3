//! `abort`: stops an action; what it did is undone.

use super::action::{self, Waiting};
use crate::Call;
use crate::failure::Failure;

/// Stop an action; what it has done is undone.
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
    let stopped = session.row("SELECT ruvector_healing_abort($1) AS stopped", &[&id]).await?;
    if stopped["stopped"] != true {
        return Err(action::nothing(&session, id, "there is nothing to stop").await);
    }
    action::report(call, &session, id, &arguments.waiting, &["aborted"]).await
}
