//! `discover`: the tables that could be registered, from the catalogs alone: the extension need not be there.

use serde_json::{Value, json};

use crate::Call;
use crate::failure::Failure;
use crate::output::{self, Columns};

/// Find vector tables and indexes, their health, and what registering them would do; needs no extension.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

const TABLES: &str = include_str!("discover.sql");

/// What the extension knows of them already, where this role may read it.
const REGISTERED: &str = "
    SELECT c.name, c.relation::oid::int8 AS oid, i.state, i.lambda_cut,
           (SELECT jsonb_agg(h) FROM ruvector_index_health(c.name) h) AS health
      FROM ruvector.collections c JOIN ruvector.integrity i ON i.collection_id = c.id";

pub(crate) async fn run(call: &Call, _: Arguments) -> Result<(), Failure> {
    let session = call.place.connect().await?;
    let database = session.row("SELECT current_database() AS name, (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector", &[]).await?;
    let mut tables = session.rows(TABLES, &[]).await?;
    let registered = registered(call).await;
    for table in &mut tables {
        let found = registered.iter().find(|entry| entry["oid"] == table["oid"]);
        table["findings"] = findings(table).into();
        table["collection"] = found.map_or(Value::Null, |entry| entry["name"].clone());
        table["state"] = found.map_or(Value::Null, |entry| entry["state"].clone());
        table["health"] = found.map_or(Value::Null, |entry| entry["health"].clone());
    }
    if call.json {
        output::json(
            &json!({ "database": database["name"], "pgvector": database["vector"], "tables": tables }),
        );
        return Ok(());
    }
    if database["vector"].is_null() {
        output::line(&format!(
            "Database {} has no extension vector, so no vector tables.",
            output::text(&database, "name")
        ));
        return Ok(());
    }
    if tables.is_empty() {
        output::line(&format!(
            "Database {} has no table with a vector column.",
            output::text(&database, "name")
        ));
        return Ok(());
    }
    for table in &tables {
        print(table);
    }
    Ok(())
}

/// Empty where the extension is not there or not readable: that is what `discover` is for.
async fn registered(call: &Call) -> Vec<Value> {
    match call.place.open().await {
        Ok(session) => session.rows(REGISTERED, &[]).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// What the catalogs show to be wrong. Recall, lists and bloat need the extension.
fn findings(table: &Value) -> Vec<String> {
    let indexes = table["indexes"].as_array().cloned().unwrap_or_default();
    let mut findings: Vec<String> = indexes
        .iter()
        .filter(|index| index["valid"] == false && index["building"] == false)
        .map(|index| {
            format!(
                "index {} is invalid: it is written to, and no search uses it",
                output::text(index, "name")
            )
        })
        .collect();
    if indexes.is_empty() {
        findings.push("no vector index: every search reads the whole table".into());
    }
    if table["rows"].is_null() {
        findings.push("never analysed: its rows are not known".into());
    }
    findings
}

fn print(table: &Value) {
    let columns: Vec<String> = table["columns"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(table["types"].as_array().into_iter().flatten())
        .map(|(name, kind)| {
            format!("{} {}", name.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default())
        })
        .collect();
    let partitions = match table["partitions"].as_i64() {
        Some(count) if table["kind"] == "partitioned table" => format!(" of {count} partitions"),
        _ => String::new(),
    };
    output::line(&format!(
        "{}: {}{partitions}, {}; {} rows, {}",
        output::text(table, "table"),
        output::text(table, "kind"),
        columns.join(", "),
        table["rows"].as_f64().map_or_else(|| "?".into(), |rows| format!("about {rows:.0}")),
        output::bytes(table, "bytes"),
    ));
    let mut indexes = Columns::new(&["  index", "method", "options", ">size", "valid"]);
    for index in table["indexes"].as_array().into_iter().flatten() {
        let options: Vec<&str> =
            index["options"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        indexes.row([
            format!("  {}", output::text(index, "name")),
            output::text(index, "method"),
            options.join(", "),
            output::bytes(index, "bytes"),
            if index["building"] == true { "being built".into() } else { output::text(index, "valid") },
        ]);
    }
    indexes.print();
    for finding in table["findings"].as_array().into_iter().flatten() {
        output::line(&format!("  - {}", finding.as_str().unwrap_or_default()));
    }
    if let Some(name) = table["collection"].as_str() {
        output::line(&format!("  registered as {name}, state {}", output::text(table, "state")));
    } else if let Some(obstacle) = table["obstacle"].as_str() {
        output::line(&format!("  cannot be registered by you: {obstacle}"));
    } else {
        let statement = output::text(table, "register");
        // The statement is one call: its last parenthesis is the call's.
        let call = statement.strip_suffix(')').unwrap_or(&statement);
        output::line(&format!(
            "  to have it watched only: {call}, settings => '{{\"mode\": \"observe\"}}');"
        ));
        output::line(&format!("  to have it watched and healed: {statement};"));
    }
    output::line("");
}
