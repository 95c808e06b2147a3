//! `lease`: whatever is held back for a while, and its end.

use serde_json::json;

use crate::Call;
use crate::failure::Failure;
use crate::output::{self, Columns};

/// Show whatever is held back for a while, throttles and pauses of maintenance, or end one now.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show the leases in force and what comes back after each.
    List,
    /// End a lease now; what was before comes back.
    Release {
        /// Number of the lease.
        lease: i64,
    },
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    match arguments.what {
        What::Release { lease } => {
            let row = session.row("SELECT ruvector_lease_release($1) AS was", &[&lease]).await?;
            if row["was"] != true {
                return Err(Failure::not_well(format!("lease {lease} has ended already")));
            }
            if call.json {
                output::json(&json!({ "lease_id": lease, "released": true }));
            } else {
                output::line(&format!("lease {lease} has ended"));
            }
        }
        What::List => {
            let rows = session.rows("SELECT * FROM ruvector_leases()", &[]).await?;
            if call.json {
                output::json(&rows.into());
                return Ok(());
            }
            if rows.is_empty() {
                output::line("Nothing is held back.");
                return Ok(());
            }
            let mut table =
                Columns::new(&[">lease", "collection", "kind", "subject", "effect", "until", "then", "by"]);
            for row in &rows {
                table.row([
                    output::text(row, "lease_id"),
                    output::text(row, "collection"),
                    output::text(row, "kind"),
                    output::text(row, "subject"),
                    output::text(row, "effect"),
                    output::text(row, "ends_at"),
                    output::text(row, "restore"),
                    output::text(row, "begun_by"),
                ]);
            }
            table.print();
        }
    }
    Ok(())
}
