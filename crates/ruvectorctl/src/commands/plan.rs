//! `plan`: what the healer would do now.

use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Show what the healer would do on a collection if it were asked now, and why it would not take the alternatives.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collection.
    collection: String,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    let rows = session.rows("SELECT * FROM ruvector_healing_plan($1)", &[&arguments.collection]).await?;
    if call.json {
        output::json(&rows.into());
        return Ok(());
    }
    for row in &rows {
        let why = [output::text(row, "reason"), output::text(row, "detail")];
        let why = why.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(": ");
        let text = output::text(row, "explanation");
        let strategy = output::text(row, "strategy");
        output::line(
            match (text.is_empty(), strategy.is_empty()) {
                (true, true) => format!("{}: {why}", output::text(row, "runs")),
                (true, false) => format!("{} {strategy}: {why}", output::text(row, "runs")),
                (false, _) if why.is_empty() => format!("{}: {text}", output::text(row, "runs")),
                (false, _) => format!("{}: {text} ({why})", output::text(row, "runs")),
            }
            .as_str(),
        );
    }
    Ok(())
}
