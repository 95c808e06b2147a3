//! `explain`: what is wrong with a collection, in plain words.

use serde_json::json;

use crate::Call;
use crate::failure::Failure;
use crate::output::{self, Columns};

/// Say what is wrong with a collection: weak parts, the metric behind each, since when, what would help.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collection.
    collection: String,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let name = &arguments.collection;
    let explanation = session.row("SELECT ruvector_integrity_explain($1) AS text", &[name]).await?;
    let witness = session.rows("SELECT * FROM ruvector_integrity_witness($1)", &[name]).await?;
    let recall = session.rows("SELECT * FROM ruvector_recall($1)", &[name]).await?;
    let decision = session
        .row(
            "SELECT s.why_not, s.cooldown_until, i.remedy
               FROM ruvector_healing_status() s JOIN ruvector_integrity_status() i ON i.collection = s.collection
              WHERE s.collection = $1",
            &[name],
        )
        .await?;
    if call.json {
        output::json(&json!({
            "collection": name, "explanation": explanation["text"], "witness": witness, "recall": recall,
            "why_not": decision["why_not"], "cooldown_until": decision["cooldown_until"], "remedy": decision["remedy"],
        }));
        return Ok(());
    }
    output::line(&output::text(&explanation, "text"));
    // The cut of a healthy collection goes through anything.
    if witness.iter().any(|edge| edge["health"].as_f64().is_some_and(|health| health < 1.0)) {
        output::line("\nThe minimum cut goes through:");
        let mut table = Columns::new(&["edge", "from", "to", ">capacity", "cause", "metric", ">value"]);
        for row in &witness {
            table.row([
                output::text(row, "edge_type"),
                output::text(row, "from_node"),
                output::text(row, "to_node"),
                output::number(row, "capacity", 3),
                output::text(row, "cause"),
                output::text(row, "metric"),
                row["value"].as_f64().map_or_else(String::new, |value| format!("{value:.3}")),
            ]);
        }
        table.print();
    }
    if !recall.is_empty() {
        output::line("\nWhat searches find:");
        let mut table =
            Columns::new(&["index", ">recall", ">objective", ">effort", ">blocks", "measured", "missing"]);
        for row in &recall {
            table.row([
                output::text(row, "index_name"),
                output::number(row, "recall", 3),
                output::number(row, "objective", 2),
                output::text(row, "search_effort"),
                output::number(row, "blocks_per_query", 0),
                output::text(row, "measured_at"),
                output::text(row, "missing"),
            ]);
        }
        table.print();
    }
    let why = output::text(&decision, "why_not");
    if !why.is_empty() {
        output::line(&format!("\nNothing is done because: {why}"));
    }
    Ok(())
}
