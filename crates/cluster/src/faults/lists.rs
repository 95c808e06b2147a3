//! Lists of ivfflat indexes that do not fit the rows. Tables are as those of [`super::mixed`]: `(part, embedding)`.

use std::time::{Duration, Instant};

use postgres::Client;

use super::tables::STORE;
use super::{report, sql};
use crate::ClusterError;

/// Adds near copies of one row, until the list that takes them is `skew` times as long as the mean of all lists.
///
/// # Errors
/// With the server's reason.
pub fn pile_up(
    client: &mut Client,
    table: &str,
    lists: u32,
    skew: f64,
    seed: u64,
) -> Result<(), ClusterError> {
    // n rows evenly in L lists, x more in one: (n / L + x) / ((n + x) / L) = s, so x = n (s − 1) / (L − s).
    let share = (skew - 1.0) / (f64::from(lists) - skew);
    let script = format!(
        "SELECT setseed({});
         CREATE TEMP TABLE arriving AS
         WITH pole AS (SELECT part, embedding FROM {table} ORDER BY md5(ctid::text || '{seed}') LIMIT 1)
         SELECT p.part, p.embedding + (SELECT array_agg((random() - 0.5) * 0.1 + 0 * (d + i)) FROM generate_series(1, vector_dims(p.embedding)) d)::vector AS embedding
           FROM pole p, generate_series(1, (SELECT round(count(*) * {share}) FROM {table})::int) i",
        (seed % 1000) as f64 / 1000.0
    );
    sql(client, &script)?;
    arrive(client, table)
}

/// Empties the table, builds its index on so much of the rows (a nightly TRUNCATE and reload builds it on nothing), and
/// puts the rows back.
///
/// # Errors
/// With the server's reason.
pub fn reload(client: &mut Client, table: &str, index: &str, seen: f64) -> Result<(), ClusterError> {
    let columns = "(part, embedding)";
    sql(
        client,
        &format!(
            "CREATE TEMP TABLE kept AS SELECT part, embedding, row_number() OVER () AS at, count(*) OVER () AS rows FROM {table};
             TRUNCATE {table};
             INSERT INTO {table} {columns} SELECT part, embedding FROM kept WHERE at <= {seen} * rows;
             {}
             INSERT INTO {table} {columns} SELECT part, embedding FROM kept WHERE at > {seen} * rows;
             DROP TABLE kept",
            if seen > 0.0 { format!("REINDEX INDEX {index};") } else { String::new() }
        ),
    )?;
    report(client)
}

/// Adds rows as another model would embed them, until they are this share of the table: those of the data set with their
/// dimensions in another order.
///
/// # Errors
/// With the server's reason.
pub fn drift(client: &mut Client, table: &str, share: f64) -> Result<(), ClusterError> {
    sql(
        client,
        &format!(
            "CREATE TEMP TABLE arriving AS
             SELECT (SELECT min(part) FROM {table}) AS part,
                    subvector(s.embedding, 65, 64) || subvector(s.embedding, 1, 64) AS embedding
               FROM {STORE} s ORDER BY md5(s.id || '{table}')
              LIMIT (SELECT round(count(*) * {} ) FROM {table})",
            share / (1.0 - share)
        ),
    )?;
    arrive(client, table)
}

/// Rows of one batch, ten of which arrive a second: some thousand buffers a second, which is no load to speak of.
const BATCH: usize = 60;

/// Inserts prepared rows as they would come in: a burst would be a load of its own.
fn arrive(client: &mut Client, table: &str) -> Result<(), ClusterError> {
    let failed = || ClusterError::sql(format!("rows could not be added to {table}"));
    let count: i64 = client.query_one("SELECT count(*) FROM arriving", &[]).map_err(failed())?.get(0);
    sql(
        client,
        "CREATE TEMP SEQUENCE arrival; ALTER TABLE arriving ADD at bigint DEFAULT nextval('arrival')",
    )?;
    let insert = format!(
        "INSERT INTO {table} (part, embedding) SELECT part, embedding FROM arriving WHERE at > $1 AND at <= $2"
    );
    let insert = client.prepare(&insert).map_err(failed())?;
    let mut next = Instant::now();
    for from in (0..count).step_by(BATCH) {
        client.execute(&insert, &[&from, &(from + BATCH as i64)]).map_err(failed())?;
        next += Duration::from_millis(100);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    report(client)?;
    sql(client, "DROP TABLE arriving; DROP SEQUENCE arrival")
}
