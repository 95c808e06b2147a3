//! `strategies`: what each does, how far it goes by itself, and what was learned of it.

use serde_json::{Value, json};

use crate::Call;
use crate::failure::Failure;
use crate::output::{self, Columns};

/// List the strategies: what each treats, how far it goes by itself, how effective it was, why it would not act now.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only for this collection.
    collection: Option<String>,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let strategies =
        session.rows("SELECT * FROM ruvector_healing_strategies($1)", &[&arguments.collection]).await?;
    let effectiveness = session
        .rows(
            "SELECT e.*, extract(epoch FROM e.avg_time_to_recovery)::float8 AS recovery_s FROM ruvector_healing_effectiveness() e",
            &[],
        )
        .await?;
    if call.json {
        output::json(&json!({ "strategies": strategies, "effectiveness": effectiveness }));
        return Ok(());
    }
    let mut table = Columns::new(&[
        "collection",
        "strategy",
        "treats",
        ">impact",
        "undone",
        "mode",
        ">weight",
        "not now because",
    ]);
    for row in &strategies {
        let treats: Vec<&str> =
            row["treats"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        table.row([
            output::text(row, "collection_name"),
            output::text(row, "strategy"),
            treats.join(", "),
            output::number(row, "impact", 2),
            output::text(row, "reversible"),
            output::text(row, "mode"),
            output::number(row, "weight", 2),
            output::text(row, "why_not"),
        ]);
    }
    table.print();
    output::line("\nLast 30 days:");
    let mut table = Columns::new(&[
        "strategy",
        ">attempts",
        ">verified",
        ">undone",
        ">success",
        ">improvement",
        ">credited",
        ">recovery",
    ]);
    for row in &effectiveness {
        let name = output::text(row, "strategy");
        table.row([
            if name.is_empty() { "all".into() } else { name },
            output::text(row, "attempts"),
            output::text(row, "verified"),
            output::text(row, "rolled_back"),
            output::percent(row, "success_rate"),
            output::percent(row, "avg_improvement"),
            output::percent(row, "credited"),
            output::seconds(row, "recovery_s"),
        ]);
    }
    table.print();
    Ok(())
}
