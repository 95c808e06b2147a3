//! `trigger`: asks the healer to heal a collection now.

use super::action::{self, Waiting};
use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Have a collection healed now, without waiting for state, dwell and cooldown.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collection.
    collection: String,
    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let asked = session.row("SELECT ruvector_healing_trigger($1) AS id", &[&arguments.collection]).await?;
    let id = asked["id"].as_i64().unwrap_or_default();
    if !call.json {
        output::line(&format!("action {id}"));
    }
    // Nothing to do is as good an end as any.
    action::report(call, &session, id, &arguments.waiting, &["succeeded", "noop"]).await
}
