//! `feedback`: a human's judgement of an outcome.

use serde_json::json;

use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Judge an outcome: 0, of no use, to 1, it helped. It counts before what was measured.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Number of the action.
    action: i64,
    /// From 0 to 1.
    score: f64,
    /// What you saw.
    #[arg(long)]
    comment: Option<String>,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let outcome = session
        .row("SELECT o.id FROM ruvector.healing_outcomes o WHERE o.action_id = $1", &[&arguments.action])
        .await?;
    let Some(id) = outcome["id"].as_i64() else {
        return Err(Failure::not_well(format!("action {} has no outcome", arguments.action)));
    };
    session
        .row(
            "SELECT ruvector_healing_feedback($1, $2, $3) AS done",
            &[&id, &arguments.score, &arguments.comment],
        )
        .await?;
    if call.json {
        output::json(&json!({ "action_id": arguments.action, "outcome_id": id, "score": arguments.score }));
    } else {
        output::line(&format!("outcome {id} of action {} is judged {}", arguments.action, arguments.score));
    }
    Ok(())
}
