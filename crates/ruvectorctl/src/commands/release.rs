//! `release`: hands a table back as an ordinary one, also where the library cannot be loaded any more.

use serde_json::json;

use crate::Call;
use crate::failure::Failure;
use crate::output;

/// Hand a collection back as an ordinary table; --print only prints what would have to be done by hand, for a server
/// without the library.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collection.
    #[arg(required_unless_present = "print")]
    collection: Option<String>,
    /// Change nothing; print SQL, from the catalogs alone.
    #[arg(long, conflicts_with = "collection")]
    print: bool,
}

/// What may be left of us in the catalogs: indexes that were on trial. Which of them is the user's own under the name of a
/// loser, only the journal knows; so the definition is shown, and nothing is said to be safe.
const LEFT: &str = "
    SELECT format('%I.%I', n.nspname, i.relname) AS index, x.indrelid::regclass::text AS table, x.indisvalid AS valid,
           pg_catalog.pg_get_indexdef(x.indexrelid) AS definition,
           EXISTS (SELECT FROM pg_catalog.pg_index o JOIN pg_catalog.pg_class j ON j.oid = o.indexrelid
                    WHERE o.indrelid = x.indrelid AND o.indexrelid <> x.indexrelid AND o.indisvalid
                      AND o.indkey::text = x.indkey::text AND o.indclass::text = x.indclass::text
                      AND o.indexprs::text IS NOT DISTINCT FROM x.indexprs::text
                      AND o.indpred::text IS NOT DISTINCT FROM x.indpred::text
                      AND j.relam = i.relam AND j.relname !~ '^_ruvector_trial_') AS has_like
      FROM pg_catalog.pg_index x
      JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
     WHERE i.relname ~ '^_ruvector_trial_'
     ORDER BY 1";

/// Tables whose default calls us: DROP EXTENSION is refused while there are any.
const ROUTED: &str = "
    SELECT d.adrelid::regclass::text AS table, a.attname::text AS column
      FROM pg_catalog.pg_attrdef d
      JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
      JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
     WHERE pg_catalog.pg_get_expr(d.adbin, d.adrelid) ~ '\\mruvector_route(_tenant)?\\(' AND NOT c.relispartition
     ORDER BY 1";

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let Some(name) = arguments.collection else {
        return print(call).await;
    };
    let session = call.place.open().await?;
    let row = session.row("SELECT ruvector_collection_release($1) AS released", &[&name]).await?;
    let released = &row["released"];
    if call.json {
        output::json(released);
        return Ok(());
    }
    output::line(&format!("{} is an ordinary table again", output::text(released, "table")));
    if released["routing_given_back"] == true {
        output::line("new rows are spread by a default of plain SQL from now on");
    }
    for effort in released["search_efforts_given_back"].as_array().into_iter().flatten() {
        output::line(&format!(
            "index {} had {} = {}: set it yourself if searches should keep it",
            output::text(effort, "index"),
            output::text(effort, "setting"),
            output::text(effort, "effort")
        ));
    }
    for statement in released["left_for_you"].as_array().into_iter().flatten() {
        output::line(&format!("left for you: {};", statement.as_str().unwrap_or_default()));
    }
    Ok(())
}

async fn print(call: &Call) -> Result<(), Failure> {
    let session = call.place.connect().await?;
    let left = session.rows(LEFT, &[]).await?;
    let routed = session.rows(ROUTED, &[]).await?;
    if call.json {
        output::json(&json!({ "trial_indexes": left, "routed_by_us": routed }));
        return Ok(());
    }
    for row in &left {
        let index = output::text(row, "index");
        output::line(&format!(
            "-- {index} on {}: {}",
            output::text(row, "table"),
            output::text(row, "definition")
        ));
        output::line(&match row["has_like"] == true {
            true => format!(
                "DROP INDEX CONCURRENTLY {index};  -- a valid one like it is there under another name"
            ),
            false => format!(
                "-- none like it is there: keep it and give it a name, ALTER INDEX {index} RENAME TO …;"
            ),
        });
    }
    for row in &routed {
        let (table, column) = (output::text(row, "table"), output::text(row, "column"));
        output::line(&format!(
            "-- {table} asks ruvector where a new row goes; give {column} a default of your own, for instance a fixed partition's number"
        ));
        output::line(&format!("ALTER TABLE {table} ALTER {column} SET DEFAULT …;"));
    }
    if left.is_empty() && routed.is_empty() {
        output::line("-- Nothing of ruvector is left in the tables of this database.");
    }
    output::line("-- Then: DROP EXTENSION ruvector; and take it out of shared_preload_libraries.");
    Ok(())
}
