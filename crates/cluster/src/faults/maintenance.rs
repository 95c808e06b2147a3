//! Maintenance that gets in its own way, and sessions that stand in everybody's.

use std::time::Duration;

use postgres::Client;

use super::{Made, OpenTransaction, Running, sql};
use crate::{Cluster, ClusterError, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

/// A vacuum that takes 0.4 s a page, and behind it an ANALYZE, a REINDEX CONCURRENTLY and a VACUUM, as many as `extent`
/// says.
///
/// # Errors
/// With the server's reason.
pub fn queue<'a>(
    cluster: &Cluster,
    client: &mut Client,
    table: &str,
    index: &str,
    extent: usize,
) -> Result<Made<'a>, ClusterError> {
    let slowly = "SET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 10; SET vacuum_cost_page_hit = 40;
         SET vacuum_cost_page_miss = 40; SET vacuum_cost_page_dirty = 0; SET application_name = 'long vacuum'";
    let vacuum = Running::after(cluster, slowly, &format!("VACUUM (DISABLE_PAGE_SKIPPING) {table}"))?;
    wait_for("the vacuum to begin", PATIENCE, || {
        let query = "SELECT FROM pg_stat_progress_vacuum WHERE relid = to_regclass($1)";
        client.query_opt(query, &[&table]).ok().flatten()
    })?;
    let behind = [
        format!("ANALYZE {table}"),
        format!("REINDEX INDEX CONCURRENTLY {index}"),
        format!("VACUUM {table}"),
    ];
    let behind = behind[..extent.min(behind.len())]
        .iter()
        .map(|statement| Running::start(cluster, statement))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Made::growing(move |_| {
        // Those that wait first, or they begin.
        drop(behind);
        drop(vacuum);
        Ok(())
    }))
}

/// A second index like that one is built concurrently while a transaction that has written to the table stays open.
///
/// # Errors
/// With the server's reason.
pub fn block_build<'a>(cluster: &Cluster, table: &str, like: &str) -> Result<Made<'a>, ClusterError> {
    let mut client = cluster.connect("app")?;
    let definition: String = client
        .query_one("SELECT pg_get_indexdef($1::text::regclass)", &[&like])
        .map_err(ClusterError::sql(format!("cannot read the definition of {like}")))?
        .get(0);
    let (_, from) = definition.split_once(" ON ").unwrap_or_default();
    let writer =
        OpenTransaction::after(cluster, "importer", &format!("LOCK TABLE {table} IN ROW EXCLUSIVE MODE"))?;
    let build = Running::start(cluster, &format!("CREATE INDEX CONCURRENTLY {table}_second ON {from}"))?;
    let drop_it = format!("DROP INDEX IF EXISTS {table}_second");
    Ok(Made::growing(move |client| {
        drop(build);
        drop(writer);
        sql(client, &drop_it)
    }))
}

/// A report that has read the table and has not ended its transaction.
///
/// # Errors
/// With the server's reason.
pub fn hold_snapshot<'a>(cluster: &Cluster, table: &str) -> Result<Made<'a>, ClusterError> {
    let held = OpenTransaction::after(cluster, "report", &format!("SELECT count(*) FROM {table}"))?;
    Ok(Made::growing(move |_| {
        drop(held);
        Ok(())
    }))
}

/// A migration that holds a lock on the whole table, and so many writers that wait for it. Monitors count those that
/// have waited for a second.
///
/// # Errors
/// With the server's reason.
pub fn queue_writers<'a>(cluster: &Cluster, table: &str, writers: u32) -> Result<Made<'a>, ClusterError> {
    let lock =
        OpenTransaction::after(cluster, "migration", &format!("LOCK TABLE {table} IN EXCLUSIVE MODE"))?;
    let writers = (0..writers)
        .map(|_| Running::start(cluster, &format!("DELETE FROM {table} WHERE id < 0")))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Made::growing(move |_| {
        drop(writers);
        drop(lock);
        Ok(())
    }))
}
