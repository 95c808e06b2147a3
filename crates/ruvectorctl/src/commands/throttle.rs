//! `throttle`: slows writers of a collection for a while, and shows what gets through.

use serde_json::json;

use crate::Call;
use crate::failure::Failure;
use crate::output::{self, Columns};

/// Slow the writers of a collection for a while, or show who is slowed. `lease release` ends it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Take a share off the usual rate of a collection's writers. It ends by itself.
    Set {
        /// Collection.
        collection: String,
        /// Percent to take off, 0 to 100.
        percent: i32,
        /// The same for COPY and other bulk writes; by default ten more.
        #[arg(long, value_name = "PERCENT")]
        bulk: Option<i32>,
        /// For how long, as PostgreSQL reads an interval, such as "10 minutes"; by default throttle_lease_seconds.
        #[arg(long = "for", value_name = "INTERVAL", allow_hyphen_values = true)]
        duration: Option<String>,
    },
    /// Show the throttles in force, with target and what gets through.
    List,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    match arguments.what {
        What::Set { collection, percent, bulk, duration } => {
            let row = session
                .row(
                    "SELECT ruvector_throttle_set($1, $2, $3, $4::text::interval) AS lease",
                    &[&collection, &percent, &bulk, &duration],
                )
                .await?;
            let until = "SELECT l.ends_at FROM ruvector_leases() l WHERE l.lease_id = $1";
            let lease = row["lease"].as_i64().unwrap_or_default();
            let ends = session.row(until, &[&lease]).await?;
            if call.json {
                output::json(
                    &json!({ "collection": collection, "lease_id": lease, "ends_at": ends["ends_at"] }),
                );
            } else {
                output::line(&format!(
                    "writers of {collection} have {percent} % taken off until {}; lease {lease}",
                    output::text(&ends, "ends_at")
                ));
            }
        }
        What::List => {
            let rows = session.rows("SELECT * FROM ruvector_throttles()", &[]).await?;
            if call.json {
                output::json(&rows.into());
                return Ok(());
            }
            if rows.is_empty() {
                output::line("Nobody is slowed.");
                return Ok(());
            }
            let mut table = Columns::new(&[
                "collection",
                ">off",
                ">bulk off",
                "usual rows/s",
                "target",
                "gets through",
                ">waits",
                ">waited",
                ">left",
                ">lease",
            ]);
            for row in &rows {
                let percent = |field: &str| format!("{} %", output::text(row, field));
                table.row([
                    output::text(row, "collection"),
                    percent("throttle_pct"),
                    percent("bulk_throttle_pct"),
                    output::text(row, "baseline_rate"),
                    output::text(row, "target_rate"),
                    output::text(row, "achieved_rate"),
                    output::text(row, "waits"),
                    output::seconds(row, "waited_s"),
                    output::seconds(row, "left_s"),
                    output::text(row, "lease_id"),
                ]);
            }
            table.print();
        }
    }
    Ok(())
}
