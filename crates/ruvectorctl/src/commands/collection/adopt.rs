//! `collection adopt`: a table becomes a managed collection, with its progress.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Call;
use crate::commands::action::object;
use crate::connection::Session;
use crate::failure::Failure;
use crate::output::{self, Columns};

/// Make a managed collection of a table, by a copy; run again after an interruption it goes on. The former table stays as
/// <table>_before_adoption.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Table, as psql would find it.
    table: String,
    /// Name of the collection; by default the table's.
    #[arg(long)]
    name: Option<String>,
    /// Ordinary partitions, 1 to 64.
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// Vector column, where the table has several.
    #[arg(long)]
    column: Option<String>,
    /// Text column by which rows are kept together.
    #[arg(long, value_name = "COLUMN")]
    tenant: Option<String>,
    /// Index of each partition: hnsw, ivfflat, none.
    #[arg(long, default_value = "hnsw", value_name = "METHOD")]
    index_method: String,
    /// cosine, l2, ip.
    #[arg(long, default_value = "cosine")]
    distance: String,
    /// Rows a transaction.
    #[arg(long, default_value_t = 5000, value_name = "ROWS")]
    batch: i32,
    /// Settings, a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON", value_parser = object)]
    settings: Value,
}

/// Between two looks at how far it came.
const LOOK: Duration = Duration::from_secs(2);

const ADOPTIONS: &str = "
    SELECT a.source, a.name AS collection, a.state, a.rows_copied, a.rows_total, a.began_at, a.noted_at
      FROM ruvector.adoptions a";

pub(super) async fn run(call: &Call, session: &Session, arguments: Arguments) -> Result<(), Failure> {
    let relation = session.relation(&arguments.table).await?;
    let watcher = call.place.open().await?;
    let (partitions, batch) = (arguments.partitions, arguments.batch);
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 9] = [
        &relation,
        &arguments.name,
        &partitions,
        &arguments.column,
        &arguments.tenant,
        &arguments.index_method,
        &arguments.distance,
        &batch,
        &arguments.settings,
    ];
    let copied = session.client.execute(
        "CALL ruvector_collection_adopt($1::oid::regclass, $2, $3, $4, $5, $6, $7, $8, $9)",
        &parameters,
    );
    tokio::pin!(copied);
    let mut looks = tokio::time::interval(LOOK);
    let mut before = String::new();
    loop {
        tokio::select! {
            done = &mut copied => {
                done?;
                break;
            }
            _ = looks.tick() => {
                let now = watcher.row(&format!("{ADOPTIONS} WHERE a.source = $1::oid"), &[&relation]).await?;
                let text = progress(&now);
                // A line for each step in a log; for a person, each look.
                if !now.is_null() && text != before && (stderr().is_terminal() || now["state"] != "copying" || before.is_empty()) {
                    eprintln!("{text}");
                    before = text;
                }
            }
        }
    }
    let document = json!({ "table": arguments.table, "adopted": true });
    super::said(
        call,
        document,
        &format!(
            "{0} is a managed collection; the former table is {0}_before_adoption, for you to drop",
            arguments.table
        ),
    );
    Ok(())
}

fn progress(row: &Value) -> String {
    let copied = row["rows_copied"].as_i64().unwrap_or(0);
    // The total is an estimate of the planner, made at the beginning.
    let of = match row["rows_total"].as_i64() {
        Some(total) if total > 0 => format!(" of about {total}"),
        _ => String::new(),
    };
    format!("{}: {copied} rows{of} copied", output::text(row, "state"))
}

/// Those under way or interrupted.
pub(super) async fn list(call: &Call, session: &Session) -> Result<(), Failure> {
    let rows = session.rows(&format!("{ADOPTIONS} ORDER BY a.began_at"), &[]).await?;
    if call.json {
        output::json(&rows.into());
        return Ok(());
    }
    if rows.is_empty() {
        output::line("No adoption is under way.");
        return Ok(());
    }
    let mut table = Columns::new(&["table", "collection", "progress", "began", "last step"]);
    for row in &rows {
        table.row([
            output::text(row, "source"),
            output::text(row, "collection"),
            progress(row),
            output::text(row, "began_at"),
            output::text(row, "noted_at"),
        ]);
    }
    table.print();
    Ok(())
}
