//! `metrics`: what Prometheus would scrape, once.

use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Print the metrics once, in Prometheus' text format (for node_exporter's textfile collector, or to look at).
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) async fn run(call: &Call, _: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let row = session.row("SELECT ruvector_healing_metrics() AS text", &[]).await?;
    if call.json {
        output::json(&row["text"]);
    } else {
        output::line(output::text(&row, "text").trim_end());
    }
    Ok(())
}
