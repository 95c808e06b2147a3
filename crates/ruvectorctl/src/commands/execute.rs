//! `execute`: runs one strategy, or shows its plan.

use serde_json::Value;

use super::action::{self, Waiting};
use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Run one strategy on a collection, verified and journaled like an automatic one; --dry-run shows the plan only.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collection.
    collection: String,
    /// Strategy; a wrong name is answered with the list.
    strategy: String,
    /// Parameters of the strategy, a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON", value_parser = action::object)]
    params: Value,
    /// Only show what it would do.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(call: &Call, mut arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    if arguments.dry_run {
        arguments.params["dry_run"] = true.into();
    }
    let answer = session
        .row(
            "SELECT * FROM ruvector_healing_execute($1, $2, $3::jsonb)",
            &[&arguments.collection, &arguments.strategy, &arguments.params],
        )
        .await?;
    if let Some(id) = answer["action_id"].as_i64() {
        if !call.json {
            output::line(&format!("action {id}"));
        }
        return action::report(call, &session, id, &arguments.waiting, &["succeeded", "noop"]).await;
    }
    if call.json {
        output::json(&answer["plan"]);
    } else {
        output::line(&output::text(&answer["plan"], "explanation"));
    }
    Ok(())
}
