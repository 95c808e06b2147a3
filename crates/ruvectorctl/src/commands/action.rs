//! What the subcommands about one action share: waiting for its end and saying how it went.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Call;
use crate::connection::Session;
use crate::failure::Failure;
use crate::output;

/// Time between two looks at a running action.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whether and how long to wait.
#[derive(clap::Args)]
pub(crate) struct Waiting {
    /// Wait until the action has ended; the exit code says whether it succeeded.
    #[arg(long)]
    wait: bool,
    /// Longest wait, in seconds.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS", requires = "wait")]
    timeout: u64,
}

const ACTION: &str = "
    SELECT a.id AS action_id, a.collection_name AS collection, a.strategy, a.status, a.progress, a.detail, a.error, o.story,
           a.status IN ('proposed', 'awaiting_approval', 'approved', 'executing', 'verifying') AS under_way
      FROM ruvector.actions a LEFT JOIN ruvector.healing_outcomes o ON o.action_id = a.id WHERE a.id = $1";

/// The action under way on a collection, with how far it is.
pub(crate) const UNDER_WAY: &str = "
    SELECT a.id AS action_id, a.strategy, a.status, a.progress, (a.plan ->> 'estimated_s')::float8 AS estimated_s,
           extract(epoch FROM clock_timestamp() - a.started_at)::float8 AS elapsed_s,
           jsonb_array_length(a.plan -> 'steps') AS steps,
           (SELECT count(DISTINCT s.step_no) FROM ruvector.action_steps s WHERE s.action_id = a.id AND s.state = 'done') AS done
      FROM ruvector.actions a
     WHERE a.collection_name = $1 AND a.status IN ('approved', 'executing', 'verifying')";

/// The action as it stands.
pub(crate) async fn look(session: &Session, id: i64) -> Result<Value, Failure> {
    session.row(ACTION, &[&id]).await
}

/// Reports an action that was just asked for or approved, after its end if that is to be waited for. What counts as a good
/// end is given; without waiting every state is good.
pub(crate) async fn report(
    call: &Call,
    session: &Session,
    id: i64,
    waiting: &Waiting,
    good: &[&str],
) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(waiting.timeout);
    let mut action = look(session, id).await?;
    let mut shown = String::new();
    while waiting.wait && action["under_way"] == true && Instant::now() < until {
        // One that waits for a human ends by another hand; say so, once.
        let now =
            format!("action {id} {}: {}", output::text(&action, "status"), output::text(&action, "progress"));
        if !call.json && now != shown {
            eprintln!("{}", now.trim_end_matches([':', ' ']));
            shown = now;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        action = look(session, id).await?;
    }
    let status = output::text(&action, "status");
    if call.json {
        output::json(&action);
    } else if let Some(story) = action["story"].as_str() {
        output::line(story);
    } else {
        let detail = [output::text(&action, "error"), output::text(&action, "detail")].join(" ");
        output::line(format!("action {id} {status}: {}", detail.trim()).trim_end_matches([':', ' ']));
    }
    if waiting.wait && !good.contains(&status.as_str()) {
        let text = if action["under_way"] == true { "is still" } else { "ended as" };
        return Err(Failure::not_well(format!("action {id} {text} {status}")));
    }
    Ok(())
}

/// There was nothing to do to an action: says how it stands.
pub(crate) async fn nothing(session: &Session, id: i64, what: &str) -> Failure {
    let status = look(session, id).await.map(|action| output::text(&action, "status")).unwrap_or_default();
    Failure::not_well(format!("{what}: action {id} is {status}"))
}

/// A JSON object given on the command line.
pub(crate) fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("give a JSON object, such as {\"max_moves\": 100}".into()),
        Err(error) => Err(error.to_string()),
    }
}
