//! `rollback`: takes back the last successful action on a collection.

use super::action::{self, Waiting};
use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Take back the last successful action on a collection, as far as that is possible now.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collection.
    collection: String,
    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let asked = session.row("SELECT ruvector_healing_rollback($1) AS id", &[&arguments.collection]).await?;
    let id = asked["id"].as_i64().unwrap_or_default();
    if !call.json {
        output::line(&format!("action {id}"));
    }
    action::report(call, &session, id, &arguments.waiting, &["succeeded"]).await
}
