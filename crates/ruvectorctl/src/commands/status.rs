//! `status`: the server and each collection at a glance.

use serde_json::{Value, json};

use crate::Call;
use crate::connection::Session;
use crate::failure::Failure;
use crate::output::{self, Columns};

/// Show the server, each collection, what is being done and what waits for you.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

const SERVER: &str = "
    SELECT s.enabled, s.mode, s.last_healing, s.total_healings_24h, s.success_rate, s.active_remediations, s.cooldown_until,
           s.lambda_cut, s.pending_approvals, s.why_not, current_database() AS database,
           current_setting('server_version') AS server_version, e.extversion AS version
      FROM ruvector_healing_status() s, pg_extension e WHERE s.collection IS NULL AND e.extname = 'ruvector'";

const COLLECTIONS: &str = "
    SELECT s.collection, s.state, s.lambda_cut, i.lambda_low, i.lambda_high, i.since, i.sampled_at,
           extract(epoch FROM clock_timestamp() - i.since)::float8 AS since_s,
           extract(epoch FROM clock_timestamp() - i.sampled_at)::float8 AS sampled_s,
           s.mode, s.enabled, s.last_healing, s.total_healings_24h, s.success_rate, s.active_remediations,
           s.cooldown_until, s.pending_approvals, s.why_not, i.explanation, i.problems, i.note
      FROM ruvector_healing_status() s JOIN ruvector_integrity_status() i ON i.collection = s.collection
     ORDER BY i.lambda_cut NULLS LAST, s.collection";

const WAITING: &str = "
    SELECT a.id AS action_id, a.collection_name AS collection, a.strategy, a.approval, a.plan ->> 'reason' AS reason,
           (a.plan ->> 'impact')::float8 AS impact, (a.plan ->> 'reversible')::boolean AS reversible,
           (a.plan ->> 'estimated_s')::float8 AS estimated_s, a.decided_at
      FROM ruvector.actions a WHERE a.status = 'awaiting_approval' ORDER BY a.id";

/// The settings in force for a collection; readable for ruvector_monitor, as ruvector_healing_configure() is not.
pub(crate) const SETTINGS: &str = "
    SELECT ruvector._effective_settings(coalesce((SELECT s.settings FROM ruvector.settings s), '{}'), c.settings) AS s
      FROM ruvector.collections c WHERE c.name = $1";

/// The whole of it as one document.
pub(crate) async fn document(session: &Session) -> Result<Value, Failure> {
    Ok(json!({
        "server": session.row(SERVER, &[]).await?,
        "collections": session.rows(COLLECTIONS, &[]).await?,
        "waiting": session.rows(WAITING, &[]).await?,
    }))
}

pub(crate) async fn run(call: &Call, _: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let document = document(&session).await?;
    if call.json {
        output::json(&document);
        return Ok(());
    }
    let server = &document["server"];
    output::line(&format!(
        "ruvector {} in database {} on PostgreSQL {}: healing is {}, mode {}; {} in 24 hours",
        output::text(server, "version"),
        output::text(server, "database"),
        output::text(server, "server_version"),
        if server["enabled"] == true { "on" } else { "off" },
        output::text(server, "mode"),
        output::count(server, "total_healings_24h", "healing"),
    ));
    if let Some(share) = Some(output::percent(server, "success_rate")).filter(|share| !share.is_empty()) {
        output::line(&format!("{share} of all attempts were verified."));
    }
    if let Some(why) = server["why_not"].as_str() {
        output::line(&format!("Nothing is healed: {why}."));
    }
    let collections = document["collections"].as_array().cloned().unwrap_or_default();
    if collections.is_empty() {
        output::line("No collection is registered. `ruvectorctl discover` shows the tables that could be.");
        return Ok(());
    }
    let mut table = Columns::new(&["collection", "state", ">λ", ">for", ">sampled", "mode", "now"]);
    for row in &collections {
        table.row([
            output::text(row, "collection"),
            output::text(row, "state"),
            output::number(row, "lambda_cut", 2),
            output::seconds(row, "since_s"),
            row["sampled_s"]
                .as_f64()
                .map_or_else(|| "never".into(), |age| format!("{} ago", output::duration(age))),
            output::text(row, "mode"),
            doing(row),
        ]);
    }
    table.print();
    for row in document["waiting"].as_array().into_iter().flatten() {
        output::line(&format!(
            "Action {id} waits for you: {} on {}: {}. ruvectorctl approve {id}",
            output::text(row, "strategy"),
            output::text(row, "collection"),
            output::text(row, "reason").trim_end_matches('.'),
            id = output::text(row, "action_id"),
        ));
    }
    Ok(())
}

/// What is done to a collection, else why nothing is.
pub(crate) fn doing(row: &Value) -> String {
    match row["active_remediations"].get(0) {
        Some(action) => format!(
            "action {} {}: {} {}",
            output::text(action, "action_id"),
            output::text(action, "status"),
            output::text(action, "strategy"),
            output::text(action, "progress")
        ),
        None => output::text(row, "why_not"),
    }
}
