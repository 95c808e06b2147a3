//! `resume`: ends a pause.

use serde_json::json;

use crate::Call;
use crate::failure::Failure;
use crate::output;

/// End a pause of the server, or of one collection.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this collection.
    collection: Option<String>,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let row = session.row("SELECT ruvector_healing_resume($1) AS paused", &[&arguments.collection]).await?;
    if row["paused"] != true {
        return Err(Failure::not_well("there was no pause"));
    }
    if call.json {
        output::json(&json!({ "collection": arguments.collection, "resumed": true }));
    } else {
        output::line("healing goes on");
    }
    Ok(())
}
