//! `collection`: which tables are watched, and managed collections whose rows can be moved.

use serde_json::{Value, json};

use super::action::object;
use crate::Call;
use crate::connection::Session;
use crate::failure::Failure;
use crate::output::{self, Columns};

mod adopt;

/// Register tables, make managed collections, and say where their new rows go.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Have a table watched and healed; it is consent. --settings '{"mode": "observe"}' only looks.
    Register {
        /// Name of the collection.
        name: String,
        /// Table, as psql would find it: docs, or schema.docs.
        table: String,
        /// Vector column, where the table has several.
        #[arg(long)]
        column: Option<String>,
        /// Settings, a JSON object.
        #[arg(long, default_value = "{}", value_name = "JSON", value_parser = object)]
        settings: Value,
    },
    /// Forget a collection; the table stays as it is.
    Unregister {
        /// Collection.
        name: String,
    },
    /// Make an empty managed collection: a partitioned table whose rows can be moved.
    Create(Create),
    Adopt(adopt::Arguments),
    /// Show how far adoptions came that are under way or were interrupted.
    Adoptions,
    /// Give up an adoption before its end; the table is as it was.
    AdoptAbort {
        /// The table that was to be adopted.
        table: String,
    },
    /// Say which rows belong into the cold partition of a managed collection.
    ColdWhen {
        /// Table of the collection.
        table: String,
        /// SQL condition over its columns; none: no row is cold.
        condition: Option<String>,
    },
    /// Show where the rows of managed collections lie and where new ones go.
    Routing,
    /// Change the share of new rows that a partition gets.
    Weight {
        /// Table of the collection.
        table: String,
        /// Partition, as `routing` numbers them.
        #[arg(allow_negative_numbers = true)]
        partition: i32,
        /// 0 or more, in proportion to the other weights; 0 sends no new rows there.
        #[arg(allow_negative_numbers = true)]
        weight: f64,
    },
}

#[derive(clap::Args)]
struct Create {
    /// Name of table and collection.
    name: String,
    /// Dimensions of its vectors.
    dimensions: i32,
    /// Ordinary partitions, 1 to 64.
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// Schema of the table; by default where the role's new tables go.
    #[arg(long)]
    schema: Option<String>,
    /// Index of each partition: hnsw, ivfflat, none.
    #[arg(long, default_value = "hnsw", value_name = "METHOD")]
    index_method: String,
    /// cosine, l2, ip.
    #[arg(long, default_value = "cosine")]
    distance: String,
    /// bigint, an identity, or uuid.
    #[arg(long, default_value = "bigint", value_name = "TYPE")]
    id_type: String,
    /// vector or halfvec.
    #[arg(long, default_value = "vector", value_name = "TYPE")]
    vector_type: String,
    /// Name of a text column by which rows are kept together.
    #[arg(long, value_name = "COLUMN")]
    tenant: Option<String>,
    /// SQL condition for rows that belong into a cold partition.
    #[arg(long, value_name = "CONDITION")]
    cold_when: Option<String>,
    /// Also make a table of keys, so that foreign keys can refer to its rows.
    #[arg(long)]
    key_table: bool,
    /// Settings, a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON", value_parser = object)]
    settings: Value,
}

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let session = call.place.open().await?;
    match arguments.what {
        What::Register { name, table, column, settings } => {
            let relation = session.relation(&table).await?;
            let row = session
                .row(
                    "SELECT ruvector_collection_register($1, $2::oid::regclass, $3, $4::jsonb) AS id",
                    &[&name, &relation, &column, &settings],
                )
                .await?;
            said(call, json!({ "collection": name, "id": row["id"] }), &format!("{name} is registered"));
        }
        What::Unregister { name } => {
            let row = session.row("SELECT ruvector_collection_unregister($1) AS was", &[&name]).await?;
            if row["was"] != true {
                return Err(Failure::not_well(format!("there is no collection \"{name}\"")));
            }
            said(call, json!({ "collection": name, "unregistered": true }), &format!("{name} is forgotten"));
        }
        What::Create(create) => return made(call, &session, create).await,
        What::Adopt(adoption) => return adopt::run(call, &session, adoption).await,
        What::Adoptions => return adopt::list(call, &session).await,
        What::AdoptAbort { table } => {
            let relation = session.relation(&table).await?;
            let row = session
                .row("SELECT ruvector_collection_adopt_abort($1::oid::regclass) AS was", &[&relation])
                .await?;
            if row["was"] != true {
                return Err(Failure::not_well(format!("no adoption of {table} is under way")));
            }
            said(call, json!({ "table": table, "given_up": true }), &format!("{table} is as it was"));
        }
        What::ColdWhen { table, condition } => {
            let relation = session.relation(&table).await?;
            session
                .row(
                    "SELECT ruvector_collection_cold_when($1::oid::regclass, $2)::text AS done",
                    &[&relation, &condition],
                )
                .await?;
            let text = match &condition {
                Some(condition) => format!("rows of {table} are cold when {condition}"),
                None => format!("no row of {table} is cold"),
            };
            said(call, json!({ "table": table, "cold_when": condition }), &text);
        }
        What::Routing => return routing(call, &session).await,
        What::Weight { table, partition, weight } => {
            let relation = session.relation(&table).await?;
            let row = session
                .row(
                    "SELECT ruvector_routing_set($1::oid::regclass, $2, $3) AS former",
                    &[&relation, &partition, &weight],
                )
                .await?;
            let document = json!({ "table": table, "partition_id": partition, "weight": weight, "former": row["former"] });
            let former = output::text(&row, "former");
            said(
                call,
                document,
                &format!("partition {partition} of {table} has weight {weight}, {former} before"),
            );
        }
    }
    Ok(())
}

/// What was done, as JSON or in words.
fn said(call: &Call, document: Value, text: &str) {
    if call.json {
        output::json(&document);
    } else {
        output::line(text);
    }
}

async fn made(call: &Call, session: &Session, create: Create) -> Result<(), Failure> {
    let schema = match create.schema {
        Some(schema) => schema,
        None => session.home().await?,
    };
    let row = session
        .row(
            "SELECT ruvector_collection_create($1, $2, partitions => $3, schema => $4, id_type => $5, vector_type => $6,
                        index_method => $7, distance => $8, tenant => $9, cold_when => $10, key_table => $11,
                        settings => $12::jsonb) AS id",
            &[
                &create.name,
                &create.dimensions,
                &create.partitions,
                &schema,
                &create.id_type,
                &create.vector_type,
                &create.index_method,
                &create.distance,
                &create.tenant,
                &create.cold_when,
                &create.key_table,
                &create.settings,
            ],
        )
        .await?;
    let document = json!({ "collection": create.name, "schema": schema, "id": row["id"] });
    said(call, document, &format!("{schema}.{} is there and registered", create.name));
    Ok(())
}

async fn routing(call: &Call, session: &Session) -> Result<(), Failure> {
    let rows = session.rows("SELECT * FROM ruvector_routing()", &[]).await?;
    if call.json {
        output::json(&rows.into());
        return Ok(());
    }
    if rows.is_empty() {
        output::line(
            "No collection is managed. `ruvectorctl collection create` makes one, `adopt` makes one of a table.",
        );
        return Ok(());
    }
    let mut table =
        Columns::new(&["table", ">partition", "leaf", ">weight", ">share", ">rows", ">size", "note"]);
    for row in &rows {
        let mut notes = Vec::new();
        if row["cold"] == true {
            notes.push("cold".to_owned());
        }
        if row["elsewhere"] == true {
            notes.push("on another server".to_owned());
        }
        if !row["lease_until"].is_null() {
            notes.push(format!(
                "weight {} from {}",
                output::text(row, "weight_after"),
                output::text(row, "lease_until")
            ));
        }
        table.row([
            output::text(row, "relation"),
            output::text(row, "partition_id"),
            output::text(row, "leaf"),
            output::text(row, "weight"),
            output::percent(row, "share"),
            output::text(row, "live_rows"),
            output::bytes(row, "bytes"),
            notes.join(", "),
        ]);
    }
    table.print();
    Ok(())
}
