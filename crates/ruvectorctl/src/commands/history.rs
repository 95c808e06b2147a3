//! `history`: what was healed, with its story.

use crate::Call;
use crate::failure::Failure;
use crate::output::{self, Columns};

/// List what was healed, the latest first; --story tells each from finding to end.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only of this collection.
    collection: Option<String>,
    /// How far back, as PostgreSQL reads an interval.
    #[arg(long, default_value = "7 days", value_name = "INTERVAL")]
    since: String,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    limit: i32,
    /// Tell the whole story of each.
    #[arg(long)]
    story: bool,
}

/// When it ended, to the second, as the session's time zone has it.
fn ended(row: &serde_json::Value) -> String {
    output::text(row, "completed_at").chars().take(19).collect::<String>().replace('T', " ")
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let rows = session
        .rows(
            // The function's own limit would count other collections' rows.
            "SELECT h.*, extract(epoch FROM h.duration)::float8 AS duration_s
               FROM ruvector_healing_history(now() - $1::text::interval, 2147483647) h
              WHERE $2::text IS NULL OR h.collection = $2
              ORDER BY h.completed_at DESC, h.id DESC LIMIT $3::int4",
            &[&arguments.since, &arguments.collection, &arguments.limit],
        )
        .await?;
    if call.json {
        output::json(&rows.into());
        return Ok(());
    }
    if rows.is_empty() {
        output::line(&format!("Nothing was healed in the last {}.", arguments.since));
        return Ok(());
    }
    if arguments.story {
        for row in &rows {
            output::line(&format!(
                "Action {}, {}, {}:\n{}\n",
                output::text(row, "action_id"),
                output::text(row, "collection"),
                ended(row),
                output::text(row, "story")
            ));
        }
        return Ok(());
    }
    let mut table = Columns::new(&[
        ">action",
        "ended",
        "collection",
        "problem",
        "strategy",
        "status",
        ">took",
        ">λ",
        "error",
    ]);
    for row in &rows {
        table.row([
            output::text(row, "action_id"),
            ended(row),
            output::text(row, "collection"),
            output::text(row, "problem_class"),
            output::text(row, "strategy"),
            output::text(row, "status"),
            output::seconds(row, "duration_s"),
            format!(
                "{} → {}",
                output::number(row, "initial_lambda", 2),
                output::number(row, "final_lambda", 2)
            ),
            output::text(row, "error_message"),
        ]);
    }
    table.print();
    Ok(())
}
