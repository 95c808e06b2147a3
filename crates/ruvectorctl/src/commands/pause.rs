//! `pause`: nothing is healed for a while.

use serde_json::json;

use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Heal nothing for a while, on the server or one collection; measuring goes on. It ends by itself.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// For how long, as PostgreSQL reads an interval, such as "2 hours".
    #[arg(long = "for", value_name = "INTERVAL", allow_hyphen_values = true)]
    duration: String,
    /// Only this collection.
    collection: Option<String>,
    /// Why; it is kept.
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let row = session
        .row(
            "SELECT ruvector_healing_pause(clock_timestamp() + $1::text::interval, $2, $3) AS until",
            &[&arguments.duration, &arguments.collection, &arguments.reason],
        )
        .await?;
    if call.json {
        output::json(&json!({ "collection": arguments.collection, "until": row["until"] }));
    } else {
        let of = arguments.collection.as_deref().unwrap_or("the server");
        output::line(&format!("healing of {of} pauses until {}", output::text(&row, "until")));
    }
    Ok(())
}
