//! `replay`: what other settings would have done with what was recorded. The core replays; this reads the recording and
//! prints.

use std::time::{Duration, UNIX_EPOCH};

use healing::config::ConfigError;
use healing::replay::{Recorded, replay};
use serde_json::Value;

use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Run recorded snapshots through the engine with other settings and tell what it would have done differently.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// From when on: a time ("2026-01-31 12:00") or how long ago ("7 days").
    #[arg(long, default_value = "24 hours")]
    since: String,
    /// Until when; by default until now.
    #[arg(long)]
    until: Option<String>,
    /// One collection only.
    #[arg(long)]
    collection: Option<String>,
    /// The other settings, as for ruvector_healing_configure(): a JSON object, or @FILE with one. They go on top of those
    /// that were in force.
    #[arg(long, value_parser = config)]
    config: Value,
}

/// The recording, one document a row. `$1` since, `$2` until (NULL: now), `$3` collection (NULL: all); all text.
const QUERY: &str = r"
SELECT to_jsonb(r) AS recorded FROM ruvector_recorded(
    CASE WHEN $1::text ~ '^\s*\d{4}-' THEN $1::text::timestamptz ELSE now() - $1::text::interval END,
    CASE WHEN $2::text IS NULL THEN now() WHEN $2::text ~ '^\s*\d{4}-' THEN $2::text::timestamptz
         ELSE now() - $2::text::interval END,
    $3::text) r";

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { since, until, collection, config } = arguments;
    let session = call.place.open().await?;
    let rows = session.rows(QUERY, &[&since, &until, &collection]).await?;
    let recorded: Vec<String> = rows.iter().map(|row| row["recorded"].to_string()).collect();
    let report = report(&recorded, &config, call.json)
        .map_err(|error| Failure::local("the recording cannot be replayed", error))?;
    output::line(&report);
    Ok(())
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    /// The settings are not valid.
    #[error("{0}. {hint}", hint = .0.hint())]
    Config(#[from] ConfigError),
    /// A recorded row is of another version.
    #[error("a recorded row cannot be read ({0}); it was recorded by another version of ruvector")]
    Row(#[from] serde_json::Error),
}

/// Reads `--config`.
fn config(text: &str) -> Result<Value, String> {
    let json = match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?,
        None => text.to_owned(),
    };
    let value: Value = serde_json::from_str(&json).map_err(|error| format!("no JSON: {error}"))?;
    healing::config::Config::default().apply(&value).map_err(|error| format!("{error}. {}", error.hint()))?;
    Ok(value)
}

/// The report of these rows, in words or as JSON.
fn report(rows: &[String], config: &Value, json: bool) -> Result<String, ReplayError> {
    let rows: Vec<Recorded> =
        rows.iter().map(|row| serde_json::from_str(row)).collect::<Result<_, serde_json::Error>>()?;
    let replayed = replay(&rows, config)?;
    if json {
        return Ok(serde_json::to_string_pretty(&replayed)?);
    }
    let time = |at: i64| {
        // Before 1970 nothing was recorded.
        let at = UNIX_EPOCH + Duration::from_millis(at.max(0) as u64);
        humantime::format_rfc3339_seconds(at).to_string()
    };
    Ok(replayed.in_words(&time).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_before_anything_is_read() {
        assert!(config(r#"{"mode": "auto"}"#).is_ok());
        assert!(config("{").unwrap_err().starts_with("no JSON"));
        assert!(config(r#"{"enabeld": true}"#).unwrap_err().contains("Did you mean \"enabled\"?"));
        assert!(config("@/nowhere/at/all").unwrap_err().starts_with("/nowhere/at/all: "));
    }

    #[test]
    fn a_row_of_another_version_is_named() {
        let error = report(&[r#"{"kind": "riddle"}"#.to_owned()], &serde_json::json!({}), false).unwrap_err();
        assert!(error.to_string().contains("another version"), "{error}");
        let nothing = report(&[], &serde_json::json!({}), false).unwrap();
        assert_eq!(nothing.lines().last(), Some("Note: Nothing was recorded in this time."));
        assert!(report(&[], &serde_json::json!({}), true).unwrap().contains("\"snapshots\": 0"));
    }
}
