//! What the catalogs and statistics views say: cheap enough for every sample.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use healing::clean_size;
use healing::config::Config;
use healing::hnsw::{Density, EF_CONSTRUCTION_DEFAULT, M_DEFAULT};
use healing::leftover::is_named_after;
use healing::load::Usual;
use healing::snapshot::{Built, Index, Method, Oid, Partition, Reading, Replacement, Snapshot};
use pgrx::prelude::*;
use serde::Deserialize;

use super::readings::Last;
use super::{
    around, ingestion, load, maintenance, managed, memory, replication, server, servers, tables, wal,
};
use crate::error::Error;
use crate::hooks::TRIAL_PREFIX;
use crate::kept;
pub(crate) use crate::kept::documents;
use crate::owner::{as_role, owner_of, set_local};
use crate::transaction::transaction;
use crate::{leases, settings, shared};

/// A registered collection whose table still exists.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Collection {
    pub(crate) id: i32,
    pub(crate) name: String,
    /// OID of the table, a root when it is partitioned.
    pub(crate) relation: u32,
    pub(crate) column_number: i16,
    pub(crate) settings: serde_json::Value,
    pub(crate) server_settings: serde_json::Value,
    /// Whether the table is still there.
    pub(crate) exists: bool,
    /// Until when healing is paused, on the server or for this collection.
    pub(crate) paused_until: Option<i64>,
}

/// One vector index as the catalogs describe it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct IndexRow {
    pub(crate) oid: Oid,
    pub(crate) relfilenode: Oid,
    pub(crate) name: String,
    pub(crate) relation_name: String,
    pub(crate) table: Oid,
    pub(crate) table_name: String,
    /// Blocks of the table.
    pub(crate) table_blocks: i64,
    /// Inserted + updated + deleted rows of the table since its statistics began.
    pub(crate) changes: i64,
    pub(crate) method: Method,
    pub(crate) valid: bool,
    pub(crate) building: bool,
    /// Somebody has begun to drop it, and may have been interrupted.
    pub(crate) dropping: bool,
    pub(crate) attached: bool,
    pub(crate) equal_valid: Option<Oid>,
    pub(crate) bytes: u64,
    /// Live rows that it covers, from a block sample.
    #[serde(default)]
    pub(crate) rows: f64,
    /// Whether there may be many more, of a transaction that has not ended.
    #[serde(default)]
    pub(crate) rows_in_flight: bool,
    /// Dead rows that autovacuum does not yet think worth a run: their entries are no waste of the index.
    pub(crate) dead_rows_due: f64,
    /// Dead rows of the table, all of them.
    pub(crate) dead_rows: f64,
    /// Its size right after its build, if that was seen of this very file.
    pub(crate) built: Option<Built>,
    pub(crate) lists: Option<u32>,
    /// `m` and `ef_construction` where they are set.
    pub(crate) m: Option<u32>,
    pub(crate) ef_construction: Option<u32>,
    /// Mean bytes of a value where the type does not say them (sparsevec), of a sample; None where it says or there is none.
    #[serde(default)]
    pub(crate) mean_value_bytes: Option<f64>,
    /// Expression of the index's key, as SQL on the table.
    pub(crate) key: String,
    pub(crate) key_type: String,
    /// The predicate of a partial index, as SQL.
    pub(crate) predicate: Option<String>,
    /// Schema-qualified distance operator, as `OPERATOR(schema.name)`.
    pub(crate) operator: String,
    /// The recall panel's last reading, if it was made on this very file.
    pub(crate) panel: Option<Reading<healing::snapshot::RecallPoint>>,
    pub(crate) panel_last: Option<Last>,
    /// The last inspection of its structure, if it was made on this very file.
    pub(crate) structure: Option<Reading<healing::snapshot::IvfHealth>>,
    pub(crate) structure_last: Option<Last>,
}

/// One jsonb document a registered collection. `$1` its number, or NULL for all.
const COLLECTIONS: &str = "
SELECT jsonb_build_object('id', c.id, 'name', c.name, 'relation', c.relation::oid::bigint,
       'column_number', c.column_number, 'settings', c.settings, 'server_settings', ruvector._server_settings(),
       'exists', EXISTS (SELECT FROM pg_class r WHERE r.oid = c.relation),
       'paused_until', (SELECT (extract(epoch FROM max(p.until)) * 1000)::bigint FROM ruvector.healing_pauses p
                         WHERE coalesce(p.collection_id, c.id) = c.id))
  FROM ruvector.collections c
 WHERE $1 IS NULL OR c.id = $1 ORDER BY c.id";

/// The registered collections of this database.
pub(crate) fn collections() -> Result<Vec<Collection>, Error> {
    // A column may be renamed; a dump is to name it as it is.
    kept::change(
        "UPDATE ruvector.collections c SET column_name = a.attname FROM pg_attribute a
          WHERE a.attrelid = c.relation AND a.attnum = c.column_number AND NOT a.attisdropped AND a.attname <> c.column_name",
        &[],
    )?;
    documents(COLLECTIONS, &[None::<i32>.into()])
}

/// Why nothing is done about a collection whose table is above or below another's. Registering refuses it, attaching a partition
/// cannot be refused.
pub(crate) fn overlaps(collection: &Collection) -> Result<Option<String>, Error> {
    let query = "SELECT (SELECT c.name FROM ruvector.collections c
                          WHERE c.id <> $1
                            AND (c.relation IN (SELECT a.relid FROM pg_partition_ancestors($2) a)
                                 OR $2 IN (SELECT a.relid FROM pg_partition_ancestors(c.relation) a))
                          ORDER BY c.name LIMIT 1)";
    let other: Option<String> =
        kept::one(query, &[collection.id.into(), pg_sys::Oid::from(collection.relation).into()])?;
    Ok(other.map(|other| {
        format!(
            "by an ATTACH PARTITION it is part of the same table tree as collection \"{other}\", and one of the two must be \
             unregistered: SELECT ruvector_collection_unregister"
        )
    }))
}

/// The collection of this number, if it is still registered.
pub(crate) fn collection(id: i32) -> Result<Option<Collection>, Error> {
    Ok(documents(COLLECTIONS, &[id.into()])?.pop())
}

impl Collection {
    /// The settings in force.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        Config::layered(&self.server_settings, &self.settings)
            .map(|config| Config {
                enabled: config.enabled && settings::enabled(),
                paused_until: self.paused_until,
                ..config
            })
            .map_err(|error| Error::refused(error.to_string()))
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    // SAFETY: no preconditions.
    let since_2000_us = unsafe { pg_sys::GetCurrentTimestamp() };
    // PostgreSQL counts from 2000-01-01.
    since_2000_us / 1000 + 946_684_800_000
}

/// The vector indexes on the collection's column, trial indexes left out.
pub(crate) fn indexes(collection: &Collection) -> Result<Vec<IndexRow>, Error> {
    let mut rows: Vec<IndexRow> = documents(
        &INDEXES,
        &[
            pg_sys::Oid::from(collection.relation).into(),
            collection.column_number.into(),
            format!("{}%", TRIAL_PREFIX.replace('_', "\\_")).into(),
            tables::of(collection)?.leaves().into(),
        ],
    )?;
    forget_counts();
    let writing = writing(collection)?;
    for row in &mut rows {
        if fixed_bytes(&row.key_type).is_err() {
            row.mean_value_bytes = mean_value_bytes(row)?;
        }
        forget_other_effort(row);
        let writing = writing.contains(&row.table);
        let extent = Extent { blocks: row.table_blocks, changes: row.changes };
        (row.rows, row.rows_in_flight) = rows_and_in_flight(
            row.table,
            &row.table_name,
            extent,
            row.predicate.as_deref(),
            COUNT_AGE_MAX_MS,
            writing,
        )?;
    }
    Ok(rows)
}

/// A reading of the panel says nothing of an effort at which it was not taken: it is to be taken again at once. Somebody may
/// have set the effort while it was measured, or in the server's own settings.
fn forget_other_effort(row: &mut IndexRow) {
    let Some(Reading::Known(point)) = &row.panel else { return };
    let (measured, now) = (point.effort, effort(row) as u32);
    if measured != now {
        let reason = format!("measured at a search effort of {measured}, not yet at {now}");
        (row.panel, row.panel_last) = (Some(Reading::unknown(reason)), None);
    }
}

/// The leaf tables of a collection to which somebody writes in a transaction that has lasted for more than a second. `$1`
/// those tables.
const WRITING: &str = "
SELECT DISTINCT to_jsonb(l.relation::bigint) FROM pg_locks l JOIN pg_stat_activity s ON s.pid = l.pid
 WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
   AND s.xact_start < clock_timestamp() - interval '1 second'
   AND l.relation = ANY ($1)";

fn writing(collection: &Collection) -> Result<HashSet<Oid>, Error> {
    Ok(documents(WRITING, &[tables::of(collection)?.leaves().into()])?.into_iter().collect())
}

/// Blocks of a table that are read to count its rows; of a smaller table, all. The relative error of a sample of so
/// many blocks is about 2 % where rows are spread evenly.
const COUNTED_BLOCKS: f64 = 2000.0;

/// Share of a table's rows that may have changed since they were counted, by the statistics views, before they are
/// counted again.
const RECOUNTED_SHARE: f64 = 0.01;
/// They are counted again after this long in any case.
const COUNT_AGE_MAX_MS: i64 = 3_600_000;
/// The same where `track_counts` is off, so that nobody counts what changes, and of rows that meet a condition which may
/// depend on the time.
const BLIND_AGE_MAX_MS: i64 = 60_000;

/// Tables that are counted in one transaction.
const COUNTED_AT_ONCE: usize = 16;

/// A count that this process made, or took over.
struct Count {
    rows: f64,
    blocks: i64,
    /// None: as many as there are at the next look, if it has as many blocks then.
    changes: Option<i64>,
    at: i64,
    /// Blocks of the table when nobody had been writing to it for long.
    settled_blocks: Option<i64>,
}

/// How much of a table may have been added since such a time, while somebody has been writing to it for long: of more,
/// nobody can tell what belongs to rows that are not there yet.
const IN_FLIGHT_SHARE: f64 = 0.05;

thread_local! {
    /// By table and predicate.
    static COUNTS: RefCell<HashMap<(Oid, Option<String>), Count>> = RefCell::default();
}

/// What tells whether a table has changed.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Extent {
    blocks: i64,
    /// Rows inserted + updated + deleted since its statistics began.
    changes: i64,
}

/// Rows of a table (that meet a predicate): as last counted by this process, or anew when it has changed since.
pub(crate) fn live_rows(table: Oid, name: &str, predicate: Option<&str>) -> Result<f64, Error> {
    let extent = documents(
        "SELECT jsonb_build_object('blocks', pg_relation_size($1) / current_setting('block_size')::bigint, 'changes',
                pg_stat_get_tuples_inserted($1) + pg_stat_get_tuples_updated($1) + pg_stat_get_tuples_deleted($1))",
        &[pg_sys::Oid::from(table).into()],
    )?
    .pop()
    .ok_or_else(|| Error::refused("the table is gone"))?;
    let age_max_ms = if predicate.is_some() { BLIND_AGE_MAX_MS } else { COUNT_AGE_MAX_MS };
    rows_and_in_flight(table, name, extent, predicate, age_max_ms, false).map(|(rows, _)| rows)
}

/// Rows of a table (that meet a predicate): as last counted by this process, or anew when it has changed since; and
/// whether a transaction that is `writing` may have added many more.
fn rows_and_in_flight(
    table: Oid,
    name: &str,
    now: Extent,
    predicate: Option<&str>,
    age_max_ms: i64,
    writing: bool,
) -> Result<(f64, bool), Error> {
    let key = (table, predicate.map(str::to_owned));
    let settled_blocks = if writing {
        COUNTS.with_borrow(|counts| counts.get(&key)?.settled_blocks)
    } else {
        Some(now.blocks)
    };
    // Of a table seen for the first time nobody knows how large it was.
    let in_flight = writing
        && settled_blocks
            .is_none_or(|settled| (now.blocks - settled) as f64 > IN_FLIGHT_SHARE * now.blocks as f64);
    // SAFETY: a plain C global, the setting `track_counts`.
    let age_max_ms = if unsafe { pg_sys::pgstat_track_counts } { age_max_ms } else { BLIND_AGE_MAX_MS };
    let known = COUNTS.with_borrow_mut(|counts| {
        let count = counts.get_mut(&key)?;
        count.settled_blocks = settled_blocks;
        let before = *count.changes.get_or_insert(now.changes);
        let changes = now.changes.checked_sub(before).filter(|changes| *changes >= 0)?;
        let same = now.blocks == count.blocks
            && changes as f64 <= RECOUNTED_SHARE * count.rows
            && (0..age_max_ms).contains(&(now_ms() - count.at));
        same.then_some(count.rows)
    });
    if let Some(rows) = known {
        return Ok((rows, in_flight));
    }
    let rows = count_rows(table, name, predicate, now.blocks)?;
    let count = Count { rows, blocks: now.blocks, changes: Some(now.changes), at: now_ms(), settled_blocks };
    COUNTS.with_borrow_mut(|counts| {
        counts.insert(key, count);
    });
    Ok((rows, in_flight))
}

/// Takes over what another process has counted, for tables that this one has not.
pub(crate) fn know_rows(last: &Snapshot) {
    COUNTS.with_borrow_mut(|counts| {
        for Partition { oid, live_rows, bytes, .. } in &last.partitions {
            let (Some(rows), Some(bytes)) = (live_rows.known(), bytes.known()) else { continue };
            let blocks = (bytes / u64::from(pg_sys::BLCKSZ)) as i64;
            counts.entry((*oid, None)).or_insert(Count {
                rows: *rows,
                blocks,
                changes: None,
                at: last.taken_at,
                settled_blocks: None,
            });
        }
    });
}

/// Forgets counts that are too old to be used, those of tables that are gone among them.
fn forget_counts() {
    let now = now_ms();
    COUNTS.with_borrow_mut(|counts| {
        counts.retain(|_, count| (0..COUNT_AGE_MAX_MS).contains(&(now - count.at)))
    });
}

/// Counts in a block sample, as the table's owner.
///
/// The statistics views will not do: an ANALYZE sets `n_live_tup`, and the counts of a load that another session (or the
/// same one, a second later) still has to report are added to it, so that a table just loaded seems twice its size.
fn count_rows(table: Oid, name: &str, predicate: Option<&str>, blocks: i64) -> Result<f64, Error> {
    let owner = owner_of(table.into()).ok_or_else(|| Error::refused("the table is gone"))?;
    let percent = (100.0 * COUNTED_BLOCKS / blocks.max(1) as f64).min(100.0);
    let sample = if percent < 100.0 { format!("TABLESAMPLE SYSTEM ({percent})") } else { String::new() };
    let condition = predicate.map_or_else(String::new, |predicate| format!("WHERE {predicate}"));
    let query = format!("SELECT count(*)::float8 FROM ONLY {name} {sample} {condition}");
    let counted = as_role(owner, || {
        set_local(c"max_parallel_workers_per_gather", c"0");
        set_local(c"enable_indexscan", c"off");
        set_local(c"enable_indexonlyscan", c"off");
        set_local(c"enable_bitmapscan", c"off");
        Spi::get_one::<f64>(&query)
    })?;
    Ok(counted.unwrap_or(0.0) * 100.0 / percent)
}

/// A leaf table as the catalogs describe it.
#[derive(Deserialize)]
struct Leaf {
    oid: Oid,
    name: String,
    bytes: u64,
    #[serde(flatten)]
    extent: Extent,
}

/// The leaf tables of the collection.
fn leaves(collection: &Collection) -> Result<Vec<Leaf>, Error> {
    documents(
        "SELECT jsonb_build_object('oid', t.oid::bigint, 'name', format('%I.%I', n.nspname, t.relname),
                'bytes', s.bytes, 'blocks', s.bytes / current_setting('block_size')::bigint,
                'changes', pg_stat_get_tuples_inserted(t.oid) + pg_stat_get_tuples_updated(t.oid)
                         + pg_stat_get_tuples_deleted(t.oid))
           FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
          -- Evaluated once a table.
          CROSS JOIN LATERAL (SELECT pg_relation_size(t.oid) AS bytes OFFSET 0) s
          WHERE t.oid = ANY ($1) AND s.bytes IS NOT NULL ORDER BY t.oid",
        &[tables::of(collection)?.leaves().into()],
    )
}

/// Counts the rows of the tables that have changed, a few a transaction: a count keeps the locks on a table and its indexes
/// to the transaction's end, and a thousand of them would take up the room for locks that the whole server shares
/// (`max_locks_per_transaction`, 64 by default). Must run outside any transaction.
pub(crate) fn count(collection: &Collection) -> Result<(), Error> {
    let (leaves, writing) = transaction(|| Ok((leaves(collection)?, writing(collection)?)))?;
    for tables in leaves.chunks(COUNTED_AT_ONCE) {
        transaction(|| {
            tables.iter().try_for_each(|Leaf { oid, name, extent, .. }| {
                rows_and_in_flight(*oid, name, *extent, None, COUNT_AGE_MAX_MS, writing.contains(oid))
                    .map(|_| ())
            })
        })?;
    }
    Ok(())
}

/// What the catalogs say of the collection now, with the slow readings as they were last measured.
pub(crate) fn snapshot(
    collection: &Collection,
    rows: &[IndexRow],
    config: &Config,
    now: i64,
) -> Result<Snapshot, Error> {
    let found = leaves(collection)?;
    let usual: Usual = documents(
        "SELECT i.usual FROM ruvector.integrity i WHERE i.collection_id = $1 AND i.usual IS NOT NULL",
        &[collection.id.into()],
    )?
    .pop()
    .unwrap_or_default();
    let waiting = maintenance::waiting(collection)?;
    let counted: HashMap<Oid, f64> =
        rows.iter().filter(|row| row.predicate.is_none()).map(|row| (row.table, row.rows)).collect();
    let mut partitions = Vec::with_capacity(found.len());
    for Leaf { oid, name, bytes, extent } in found {
        let live_rows = match counted.get(&oid) {
            Some(rows) => *rows,
            None => rows_and_in_flight(oid, &name, extent, None, COUNT_AGE_MAX_MS, false)?.0,
        };
        partitions.push(Partition {
            oid,
            name,
            live_rows: Reading::Known(live_rows),
            bytes: Reading::Known(bytes),
            server: String::new(),
            load: load::of(oid),
            usual_ratio: usual.ratio(oid),
            waiting: Some(Reading::Known(waiting.get(&oid).copied().unwrap_or(0.0))),
        });
    }
    let (elsewhere, others) = servers::seen(collection, &usual)?;
    partitions.extend(elsewhere);
    // SAFETY: no preconditions.
    let in_recovery = unsafe { pg_sys::RecoveryInProgress() };
    let state = server::state(collection)?;
    Ok(Snapshot {
        collection_id: collection.id,
        collection: collection.name.clone(),
        taken_at: now,
        in_recovery,
        partitions,
        indexes: rows.iter().map(|row| index(row, rows)).collect(),
        disk_free_bytes: disk_free(rows)?,
        servers: [state.server()].into_iter().chain(others).collect(),
        // A standby has its own to feed, of which it knows nothing that could be acted on.
        replicas: if in_recovery {
            None
        } else {
            Some(Reading::Known(replication::replicas(config.replica_forget_seconds)?))
        },
        jobs: Some(Reading::Known(maintenance::jobs(collection)?)),
        horizon: Some(Reading::Known(state.horizon)),
        slots: Some(Reading::Known(state.slots)),
        memory: Some(memory::usage(config)?),
        wal: Some(wal::headroom()?),
        scheduled: maintenance::scheduled(collection)?.map(Reading::Known),
        maintenance_paused: leases::maintenance_is_paused(collection.id)?,
        ingestion: ingestion::seen(collection)?,
        managed: managed::managed(collection)?,
        orchestrator: settings::scale_command(),
        around: around::around(collection.id)?,
    })
}

/// Header of an index tuple (`IndexTupleData`).
const TUPLE_HEADER: f64 = 8.0;
/// pgvector's default where the index names no `lists` (`ivfflat.h`).
pub(crate) const LISTS_DEFAULT: u32 = 100;

fn maxalign(bytes: u64) -> f64 {
    bytes.next_multiple_of(8) as f64
}

/// Bytes of one value of the index's key: from its type, or the mean of a sample where values differ in size.
pub(crate) fn value_bytes(row: &IndexRow) -> Result<u64, String> {
    fixed_bytes(&row.key_type).or_else(|why| row.mean_value_bytes.map(|mean| mean.ceil() as u64).ok_or(why))
}

/// Blocks that are read for the mean size of values.
const SIZED_BLOCKS: f64 = 200.0;

/// Mean bytes of the values of the index's key in a block sample, as the table's owner; None where no row is met.
fn mean_value_bytes(row: &IndexRow) -> Result<Option<f64>, Error> {
    let owner = owner_of(row.table.into()).ok_or_else(|| Error::refused("the table is gone"))?;
    let blocks: i64 = Spi::get_one_with_args(
        "SELECT pg_relation_size($1) / current_setting('block_size')::bigint",
        &[pg_sys::Oid::from(row.table).into()],
    )?
    .unwrap_or(0);
    let percent = (100.0 * SIZED_BLOCKS / blocks.max(1) as f64).min(100.0);
    let IndexRow { table_name, key, .. } = row;
    let condition = row.predicate.as_deref().unwrap_or("true");
    let query = format!(
        "SELECT avg(pg_column_size({key}))::float8 FROM ONLY {table_name} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)
          WHERE {condition}"
    );
    as_role(owner, || Ok(Spi::get_one::<f64>(&query)?))
}

/// Bytes of one value, from its type: `vector(384)` is 8 + 4 × 384.
fn fixed_bytes(key_type: &str) -> Result<u64, String> {
    let (name, dims) = key_type.split_once('(').unwrap_or((key_type, ""));
    let dims: u64 =
        dims.trim_end_matches(')').parse().map_err(|_| format!("{key_type} names no dimensions"))?;
    match name.rsplit('.').next().unwrap_or_default() {
        "vector" => Ok(8 + 4 * dims),
        "halfvec" => Ok(8 + 2 * dims),
        "bit" => Ok(8 + dims.div_ceil(8)),
        _ => Err(format!("values of {key_type} have no fixed size")),
    }
}

/// What a clean build of the rows would need, by the page layout of pgvector. Dead rows up to autovacuum's threshold
/// count as rows: every table that is written to has them, and autovacuum gives their space back.
fn clean_bytes(row: &IndexRow) -> Reading<u64> {
    if row.rows_in_flight {
        return Reading::unknown(
            "a transaction that adds rows has not ended, and they cannot be counted yet",
        );
    }
    let rows = row.rows + row.dead_rows_due;
    match value_bytes(row) {
        Err(reason) => Reading::Unknown(reason),
        Ok(value) => {
            let model = |rows: f64| match row.method {
                Method::Ivfflat => {
                    let lists = row.lists.unwrap_or(LISTS_DEFAULT);
                    clean_size::ivfflat_bytes(rows, TUPLE_HEADER + maxalign(value), lists, value)
                }
                Method::Hnsw => clean_size::hnsw_bytes(rows, value, row.m.unwrap_or(M_DEFAULT)),
            };
            Reading::Known(match row.built {
                Some(built) => clean_size::after_build(model(rows), model(built.rows), built.bytes),
                None => model(rows),
            })
        }
    }
}

/// Share of the index's entries whose row is dead, beyond those that autovacuum leaves alone. Entries take room: an index
/// that was built since the rows died has no more bytes than a clean one, and none of theirs.
fn dead_share(row: &IndexRow) -> Reading<f64> {
    // SAFETY: a plain C global, the setting `track_counts`.
    if !unsafe { pg_sys::pgstat_track_counts } {
        return Reading::unknown("track_counts is off: nobody counts dead rows");
    }
    if row.predicate.is_some() {
        return Reading::unknown("dead rows are not counted by an index's predicate");
    }
    let entries = row.rows + row.dead_rows;
    let excess = (row.dead_rows - row.dead_rows_due).max(0.0);
    let share = if entries > 0.0 { excess / entries } else { 0.0 };
    Reading::Known(match clean_bytes(row) {
        Reading::Known(clean) => share.min((1.0 - clean as f64 / row.bytes.max(1) as f64).max(0.0)),
        Reading::Unknown(_) => share,
    })
}

fn index(row: &IndexRow, rows: &[IndexRow]) -> Index {
    let reindex_leftover = rows.iter().any(|other| is_left_by_a_reindex(row, other));
    Index {
        oid: row.oid,
        relfilenode: row.relfilenode,
        name: row.name.clone(),
        partition: row.table,
        method: row.method,
        valid: row.valid,
        // Nor is what somebody drops built anew.
        building: row.building || row.dropping && !reindex_leftover,
        equal_valid: row.equal_valid,
        reindex_leftover,
        replacement: match row.attached {
            true => Replacement::ReindexOnly("it is attached to a partitioned index".into()),
            false => Replacement::BlueGreen,
        },
        bytes: Reading::Known(row.bytes),
        clean_bytes: clean_bytes(row),
        dead_share: dead_share(row),
        built: row.built,
        rows: Reading::Known(row.rows),
        ivf: match (&row.structure, row.method) {
            (Some(ivf), _) => ivf.clone(),
            (None, Method::Ivfflat) => Reading::unknown("not inspected yet"),
            (None, Method::Hnsw) => Reading::unknown("hnsw has no lists"),
        },
        recall: row.panel.clone().unwrap_or_else(|| Reading::unknown("not measured yet")),
        effort: effort(row) as u32,
        lists: row.lists,
        density: (row.method == Method::Hnsw).then(|| Density {
            m: row.m.unwrap_or(M_DEFAULT),
            ef_construction: row.ef_construction.unwrap_or(EF_CONSTRUCTION_DEFAULT),
        }),
        tuple_bytes: value_bytes(row)
            .map_or_else(Reading::Unknown, |bytes| Reading::Known(TUPLE_HEADER + maxalign(bytes))),
    }
}

/// Whether an interrupted reindex of the other index left this one: it bears its name with an ending, and is like it. An
/// index that somebody called so is theirs.
fn is_left_by_a_reindex(row: &IndexRow, other: &IndexRow) -> bool {
    (row.table, row.method) == (other.table, other.method)
        && row.oid != other.oid
        && is_named_after(&row.relation_name, &other.relation_name)
        && (&row.key, &row.key_type, &row.predicate, &row.operator)
            == (&other.key, &other.key_type, &other.predicate, &other.operator)
}

/// The search effort that sessions get for an index: managed, or the server's setting, or pgvector's default.
pub(crate) fn effort(row: &IndexRow) -> i32 {
    // SAFETY: no preconditions.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    shared::effort_of(database, row.oid)
        .or_else(|| {
            let query = "SELECT current_setting($1, true)::integer";
            kept::one(query, &[row.method.effort_setting().into()]).ok().flatten()
        })
        .unwrap_or(row.method.default_effort() as i32)
}

/// Free bytes of the fullest file system that a new index concerns: data directory, WAL, tablespaces of the indexes.
fn disk_free(rows: &[IndexRow]) -> Result<Reading<u64>, Error> {
    let indexes: Vec<pg_sys::Oid> = rows.iter().map(|row| row.oid.into()).collect();
    let tablespaces: Vec<String> = documents(
        "SELECT DISTINCT to_jsonb('pg_tblspc/' || i.reltablespace) FROM pg_class i
          WHERE i.oid = ANY ($1) AND i.reltablespace NOT IN (0, (SELECT oid FROM pg_tablespace WHERE spcname = 'pg_default'))",
        &[indexes.into()],
    )?;
    // A server process works in its data directory.
    let directories = [".", "pg_wal"].into_iter().chain(tablespaces.iter().map(String::as_str));
    let mut least = u64::MAX;
    for directory in directories {
        match rustix::fs::statvfs(directory) {
            Ok(disk) => least = least.min(disk.f_bavail.saturating_mul(disk.f_frsize)),
            Err(error) => return Ok(Reading::unknown(format!("statvfs of {directory}: {error}"))),
        }
    }
    Ok(Reading::Known(least))
}

/// Whether an index `x` (class `i`) is being built in another session. `CREATE INDEX CONCURRENTLY` shows its index in the
/// progress view; `REINDEX CONCURRENTLY` only one of its indexes at a time, but keeps all of them locked to its end
/// (indexcmds.c).
pub(crate) const BUILDING: &str = "
EXISTS (SELECT FROM pg_stat_progress_create_index b WHERE b.index_relid = i.oid AND b.pid <> pg_backend_pid())
OR NOT x.indisvalid AND EXISTS (SELECT FROM pg_locks l
       WHERE l.locktype = 'relation' AND l.relation = i.oid AND l.granted AND l.pid <> pg_backend_pid()
         AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
         AND l.mode IN ('ShareUpdateExclusiveLock', 'AccessExclusiveLock'))";

/// One jsonb document an index, `<BUILDING>` standing for [`BUILDING`]. `$1` table, `$2` column number, `$3` LIKE pattern of trial names, `$4` leaf tables.
static INDEXES: LazyLock<String> = LazyLock::new(|| INDEXES_TEXT.replace("<BUILDING>", BUILDING));

const INDEXES_TEXT: &str = r"
WITH distances AS MATERIALIZED (
    SELECT oc.oid AS opclass, format('OPERATOR(%I.%s)', pn.nspname, op.oprname) AS operator
      FROM pg_am am JOIN pg_opclass oc ON oc.opcmethod = am.oid
      JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
      JOIN pg_operator op ON op.oid = ao.amopopr JOIN pg_namespace pn ON pn.oid = op.oprnamespace
     WHERE am.amname IN ('ivfflat', 'hnsw') AND ao.amoppurpose = 'o' AND ao.amopstrategy = 1)
SELECT jsonb_build_object(
    'oid', i.oid::bigint, 'relfilenode', i.relfilenode::bigint,
    'name', format('%I.%I', s.nspname, i.relname), 'relation_name', i.relname,
    'table', t.oid::bigint, 'table_name', format('%I.%I', n.nspname, t.relname),
    'table_blocks', coalesce(pg_relation_size(t.oid), 0) / current_setting('block_size')::bigint,
    'changes', pg_stat_get_tuples_inserted(t.oid) + pg_stat_get_tuples_updated(t.oid) + pg_stat_get_tuples_deleted(t.oid),
    'method', am.amname, 'valid', x.indisvalid AND x.indisready,
    'building', <BUILDING>,
    'dropping', NOT x.indislive,
    'attached', i.relispartition,
    'equal_valid', (SELECT min(o.indexrelid::bigint) FROM pg_index o JOIN pg_class oc ON oc.oid = o.indexrelid
                     WHERE o.indrelid = x.indrelid AND o.indexrelid <> x.indexrelid AND o.indisvalid
                       AND oc.relam = i.relam AND o.indkey = x.indkey AND o.indclass = x.indclass
                       -- Trees hold the place where they were parsed before PostgreSQL 17.
                       AND pg_get_expr(o.indexprs, o.indrelid) IS NOT DISTINCT FROM pg_get_expr(x.indexprs, x.indrelid)
                       AND pg_get_expr(o.indpred, o.indrelid) IS NOT DISTINCT FROM pg_get_expr(x.indpred, x.indrelid)
                       -- Lists are tuned by us; m and ef_construction are what somebody wanted.
                       AND ARRAY(SELECT u FROM unnest(oc.reloptions) u WHERE u NOT LIKE 'lists=%' ORDER BY u)
                         = ARRAY(SELECT u FROM unnest(i.reloptions) u WHERE u NOT LIKE 'lists=%' ORDER BY u)
                       AND oc.relname NOT LIKE $3),
    'bytes', pg_relation_size(i.oid),
    'dead_rows', pg_stat_get_dead_tuples(t.oid),
    'built', CASE WHEN b.bytes IS NOT NULL THEN jsonb_build_object('bytes', b.bytes, 'rows', b.rows,
        'at', (extract(epoch FROM b.seen_at) * 1000)::bigint) END,
    'dead_rows_due', CASE WHEN t.reltuples > 0 THEN least(pg_stat_get_dead_tuples(t.oid),
                               coalesce((SELECT o.option_value FROM pg_options_to_table(t.reloptions) o
                                          WHERE o.option_name = 'autovacuum_vacuum_threshold'),
                                        current_setting('autovacuum_vacuum_threshold'))::float8
                               + coalesce((SELECT o.option_value FROM pg_options_to_table(t.reloptions) o
                                            WHERE o.option_name = 'autovacuum_vacuum_scale_factor'),
                                          current_setting('autovacuum_vacuum_scale_factor'))::float8 * t.reltuples) ELSE 0 END,
    'lists', (SELECT split_part(o, '=', 2)::integer FROM unnest(i.reloptions) o WHERE o LIKE 'lists=%'),
    'm', (SELECT split_part(o, '=', 2)::integer FROM unnest(i.reloptions) o WHERE o LIKE 'm=%'),
    'ef_construction', (SELECT split_part(o, '=', 2)::integer FROM unnest(i.reloptions) o WHERE o LIKE 'ef_construction=%'),
    'key', pg_get_indexdef(i.oid, 1, false),
    'key_type', format_type(k.atttypid, k.atttypmod),
    'predicate', pg_get_expr(x.indpred, x.indrelid),
    'operator', (SELECT d.operator FROM distances d WHERE d.opclass = x.indclass[0]),
    'panel', p.reading, 'panel_last', CASE WHEN p.kind IS NOT NULL THEN jsonb_build_object('changes', p.changes,
        'took_s', p.took_s, 'age_s', extract(epoch FROM clock_timestamp() - p.measured_at)) END,
    'structure', q.reading, 'structure_last', CASE WHEN q.kind IS NOT NULL THEN jsonb_build_object('changes', q.changes,
        'took_s', q.took_s, 'age_s', extract(epoch FROM clock_timestamp() - q.measured_at)) END)
  FROM pg_index x
  JOIN pg_class i ON i.oid = x.indexrelid
  JOIN pg_namespace s ON s.oid = i.relnamespace
  JOIN pg_am am ON am.oid = i.relam AND am.amname IN ('ivfflat', 'hnsw')
  JOIN pg_class t ON t.oid = x.indrelid AND t.relkind = 'r'
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_attribute k ON k.attrelid = i.oid AND k.attnum = 1
  LEFT JOIN ruvector.readings p ON p.index_id = i.oid AND p.kind = 'panel' AND p.relfilenode = i.relfilenode
  LEFT JOIN ruvector.readings q ON q.index_id = i.oid AND q.kind = 'structure' AND q.relfilenode = i.relfilenode
  LEFT JOIN ruvector.index_builds b ON b.index_id = i.oid AND b.relfilenode = i.relfilenode
 WHERE t.oid = ANY ($4)
   AND i.relname NOT LIKE $3
   -- The column itself, or an expression over it. A partition may number its columns otherwise than its root.
   AND EXISTS (SELECT FROM pg_attribute c
                WHERE c.attrelid = t.oid
                  AND c.attname = (SELECT r.attname FROM pg_attribute r WHERE r.attrelid = $1 AND r.attnum = $2)
                  AND (c.attnum = x.indkey[0]
                       OR x.indkey[0] = 0 AND EXISTS (SELECT FROM pg_depend d
                               WHERE d.classid = 'pg_class'::regclass AND d.objid = i.oid
                                 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid = c.attnum)))
 ORDER BY i.oid";
