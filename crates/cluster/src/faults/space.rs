//! Indexes that are larger than they need be, or of no use.

use std::time::Duration;

use postgres::Client;

use super::{OpenTransaction, Running, report, sql};
use crate::{Cluster, ClusterError, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

/// Deletes this share of the rows, drawn at random, and vacuums: the entries go, the pages stay.
///
/// # Errors
/// With the server's reason.
pub fn hollow_out(client: &mut Client, table: &str, share: f64, seed: u64) -> Result<(), ClusterError> {
    sql(
        client,
        &format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} ORDER BY md5(ctid::text || '{seed}')
                LIMIT (SELECT round(count(*) * {share}) FROM {table})))"
        ),
    )?;
    // Counted after the vacuum, the rows would seem dead for ever.
    report(client)?;
    sql(client, &format!("VACUUM {table}"))
}

/// Builds an index like that one concurrently and kills the build: it stays behind, invalid.
///
/// # Errors
/// With the server's reason.
pub fn leave_invalid(
    cluster: &Cluster,
    client: &mut Client,
    table: &str,
    like: &str,
    name: &str,
) -> Result<(), ClusterError> {
    let definition: String = client
        .query_one("SELECT pg_get_indexdef($1::text::regclass)", &[&like])
        .map_err(ClusterError::sql(format!("cannot read the definition of {like}")))?
        .get(0);
    let (_, from) = definition.split_once(" ON ").unwrap_or_default();
    // The build waits for this one, so that it is killed in its first phase.
    let writer =
        OpenTransaction::after(cluster, "writer", &format!("LOCK TABLE {table} IN ROW EXCLUSIVE MODE"))?;
    let build = Running::start(cluster, &format!("CREATE INDEX CONCURRENTLY {name} ON {from}"))?;
    wait_for("an index that is being built", PATIENCE, || {
        let query = "SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid";
        client.query_opt(query, &[&name]).ok().flatten()
    })?;
    drop(build);
    drop(writer);
    Ok(())
}
