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
        if arguments.collection.is_none() {
            let own = session
                .rows(
                    "SELECT c.name, p.until FROM ruvector.healing_pauses p
                       JOIN ruvector.collections c ON c.id = p.collection_id
                      WHERE p.until > clock_timestamp() ORDER BY c.name",
                    &[],
                )
                .await
                .unwrap_or_default();
            for pause in &own {
                let (name, until) = (output::text(pause, "name"), output::text(pause, "until"));
                output::line(&format!("{name} has a pause of its own until {until}"));
            }
        }
    }
    Ok(())
}
