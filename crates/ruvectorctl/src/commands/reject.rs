//! `reject`: refuses a plan that waits for a human.

use super::action;
use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Refuse a plan that waits for you; its strategy then waits on this part as after a plan that was no gain.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Number of the action, as `status` shows it.
    action: i64,
    /// Why; it is kept with the action.
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let id = arguments.action;
    let waited =
        session.row("SELECT ruvector_healing_reject($1, $2) AS waited", &[&id, &arguments.reason]).await?;
    if waited["waited"] != true {
        return Err(action::nothing(&session, id, "nothing waits for approval").await);
    }
    let action = action::look(&session, id).await?;
    if call.json {
        output::json(&action);
    } else {
        output::line(&format!("action {id}: {}", output::text(&action, "detail")));
    }
    Ok(())
}
