//! Tables for faults to happen in.

use std::sync::OnceLock;

use postgres::Client;

use super::sql;
use crate::ClusterError;
use crate::dataset::{Column, Embeddings};

/// Creates `name (id, part, embedding)` with so many list partitions `name_0`, `name_1` … of so many rows each, and an
/// hnsw index on each.
///
/// # Errors
/// With the server's reason.
pub fn partitioned(client: &mut Client, name: &str, partitions: u32, rows: u32) -> Result<(), ClusterError> {
    let mut script = format!(
        "CREATE TABLE {name} (id int, part int, embedding vector(3)) PARTITION BY LIST (part);
         SELECT setseed(0.5);"
    );
    for part in 0..partitions {
        script.push_str(&format!(
            "CREATE TABLE {name}_{part} PARTITION OF {name} FOR VALUES IN ({part});
             INSERT INTO {name} SELECT i, {part}, ARRAY[random(), random(), random()]::vector FROM generate_series(1, {rows}) i;
             CREATE INDEX {name}_{part}_hnsw ON {name}_{part} USING hnsw (embedding vector_l2_ops);"
        ));
    }
    script.push_str(&format!("ANALYZE {name}"));
    client.batch_execute(&script).map_err(ClusterError::sql(format!("cannot create {name}")))
}

/// Partitions of [`mixed`].
pub const PARTITIONS: u32 = 8;
/// Rows of each.
pub const ROWS: u32 = 1500;
/// Lists of each of its ivfflat indexes.
pub const LISTS: u32 = 16;

/// Dimensions of the rows: the first ones of the data set's.
const DIMS: usize = 128;

/// The table that holds the data set for [`mixed`] and for faults that bring new rows.
pub(super) const STORE: &str = "fault_rows";

/// Creates `name (id, part, embedding vector(128))` with eight list partitions `name_0` … of 1,500 real rows each, and
/// `name_<n>_index` on each: hnsw on the even ones, ivfflat with [`LISTS`] lists on the odd ones, for cosine distance.
/// They hang together with no partitioned index, so that each may be replaced by itself. The ids come from a default, which
/// a partition has too: an identity column it knows only since PostgreSQL 17.
///
/// # Errors
/// With the server's reason, or when the data set is absent.
pub fn mixed(client: &mut Client, name: &str, seed: u64) -> Result<(), ClusterError> {
    store(client)?;
    let mut script = format!(
        "CREATE TABLE {name} (id bigserial, part int, embedding vector({DIMS}))
             PARTITION BY LIST (part);"
    );
    for part in 0..PARTITIONS {
        let table = format!("{name}_{part}");
        let index = if part % 2 == 0 {
            "hnsw (embedding vector_cosine_ops) WITH (m = 8, ef_construction = 32)".to_owned()
        } else {
            format!("ivfflat (embedding vector_cosine_ops) WITH (lists = {LISTS})")
        };
        script.push_str(&format!(
            "CREATE TABLE {table} PARTITION OF {name} FOR VALUES IN ({part});
             INSERT INTO {name} (part, embedding)
                 SELECT {part}, embedding FROM {STORE} ORDER BY md5(id || '{seed}.{part}') LIMIT {ROWS};
             CREATE INDEX {table}_index ON {table} USING {index};"
        ));
    }
    sql(client, &script)?;
    // The visibility map and the statistics are then as autovacuum would leave them.
    sql(client, &format!("VACUUM ANALYZE {name}"))
}

/// Loads the data set once a database.
fn store(client: &mut Client) -> Result<(), ClusterError> {
    static DATA: OnceLock<Embeddings> = OnceLock::new();
    let failed = |error: &dyn std::error::Error| ClusterError::Dataset { reason: error.to_string() };
    let there = client
        .query_opt("SELECT FROM pg_class WHERE oid = to_regclass($1)", &[&STORE])
        .map_err(ClusterError::sql("cannot look for the data set".to_owned()))?;
    if there.is_some() {
        return Ok(());
    }
    let data = match DATA.get() {
        Some(data) => data,
        None => {
            let loaded = Embeddings::load().map_err(|error| failed(&error))?;
            DATA.get_or_init(|| loaded)
        }
    };
    let columns = [Column::Id("id"), Column::Head("embedding", DIMS)];
    sql(client, &format!("CREATE TABLE {STORE} (id int, embedding vector({DIMS}))"))?;
    data.load_into(client, STORE, &columns, 0..data.rows()).map_err(|error| failed(&error))?;
    sql(client, &format!("ANALYZE {STORE}"))
}
