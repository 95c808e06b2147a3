//! One consistent observation of a collection, as the collectors hand it to the core.
//!
//! Everything here is data: who reads it from a server, and when, is the business of whoever implements the
//! collectors. A value that could not be read is [`Reading::Unknown`] with its reason, never a constant.

use serde::{Deserialize, Serialize};

use crate::hnsw::Density;
use crate::throttle::Ingestion;

/// A PostgreSQL object identifier (`oid`), used as the identity of tables and indexes.
pub type Oid = u32;

/// Milliseconds since the Unix epoch; all times of the core.
pub type UnixMs = i64;

/// A measured value, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading<T> {
    /// The value was read.
    Known(T),
    /// The value could not be read; the text says why, for a human.
    Unknown(String),
}

impl<T> Reading<T> {
    /// The value, when it was read.
    pub fn known(&self) -> Option<&T> {
        match self {
            Reading::Known(value) => Some(value),
            Reading::Unknown(_) => None,
        }
    }

    /// An unknown reading with its reason.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Reading::Unknown(reason.into())
    }
}

/// What was seen of one collection at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The collection's number in `ruvector.collections`.
    pub collection_id: i32,
    /// The collection's name.
    pub collection: String,
    /// When it was taken.
    pub taken_at: UnixMs,
    /// Whether the server is a standby or in recovery; then nothing may act.
    pub in_recovery: bool,
    /// Leaf tables, the collection's own table being the only one when it is not partitioned.
    pub partitions: Vec<Partition>,
    /// Vector indexes (ivfflat, hnsw) on the collection's column, our own trial indexes left out.
    pub indexes: Vec<Index>,
    /// Free bytes on the file system of the data directory.
    pub disk_free_bytes: Reading<u64>,
    // What follows is None where nobody looks at it (an older version, a server without it): no part of the graph. What
    // was looked at and could not be read is `Some(Reading::Unknown)`: a part that is neither healthy nor sick.
    /// What is left of the limits of each server that holds partitions; this server has the empty name.
    #[serde(default)]
    pub servers: Vec<Server>,
    /// Streaming replicas of this server, those that have vanished included until they are forgotten.
    #[serde(default)]
    pub replicas: Option<Reading<Vec<Replica>>>,
    /// Maintenance that runs on or waits for the collection's tables.
    #[serde(default)]
    pub jobs: Option<Reading<Vec<Job>>>,
    /// The oldest snapshot that anybody holds: what it may see cannot be cleaned up.
    #[serde(default)]
    pub horizon: Option<Reading<Horizon>>,
    /// Autovacuum's workers.
    #[serde(default)]
    pub slots: Option<Reading<Slots>>,
    /// Memory of the machine or of the control group that the server is confined to.
    #[serde(default)]
    pub memory: Option<Reading<Memory>>,
    /// What is left for the write-ahead log; no part of the graph.
    #[serde(default)]
    pub wal: Option<Reading<Wal>>,
    /// How rows are routed to partitions, where that is ours to say (a managed collection).
    #[serde(default)]
    pub managed: Option<Managed>,
    /// What can start further read replicas; empty where nothing can, or nobody looks.
    #[serde(default)]
    pub orchestrator: Option<String>,
    /// Jobs of pg_cron that maintain the collection's tables; None where there is no pg_cron.
    #[serde(default)]
    pub scheduled: Option<Reading<Vec<Scheduled>>>,
    /// Whether its maintenance is paused under a lease: autovacuum kept away, or jobs of pg_cron made inactive.
    #[serde(default)]
    pub maintenance_paused: bool,
    /// How fast it is written, and what holds that back.
    #[serde(default)]
    pub ingestion: Option<Ingestion>,
    /// What else decides whether now is the time; no part of the graph.
    #[serde(default)]
    pub around: Around,
}

impl Snapshot {
    /// Whether a partition is for cold rows.
    pub(crate) fn is_cold(&self, partition: Oid) -> bool {
        self.managed
            .as_ref()
            .is_some_and(|managed| managed.places.iter().any(|place| place.oid == partition && place.cold))
    }
}

/// The routing of a managed collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Managed {
    /// Why its rows can never be moved; None: they can.
    pub fixed: Option<String>,
    /// What of its owner's a move would set off, be refused by or show to others by half (`move_despite_triggers`); None: nothing.
    pub noticed: Option<String>,
    /// Whether rows of one tenant are kept together.
    pub by_tenant: bool,
    /// Its partitions.
    pub places: Vec<Place>,
}

/// A partition of a managed collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// OID of the leaf.
    pub oid: Oid,
    /// Its `partition_id`.
    pub number: i32,
    /// Its weight for new rows.
    pub weight: f64,
    /// It is for cold rows: no new rows go there, and nothing is moved there to balance load.
    pub cold: bool,
    /// It is on another server.
    pub elsewhere: bool,
    /// Why rows can be moved neither to another server nor back; None: they can, or it is on this one.
    #[serde(default)]
    pub refuses: Option<String>,
    /// Its rows that belong into the cold partition; None where no condition says so.
    #[serde(default)]
    pub cold_rows: Option<Reading<f64>>,
}

/// What a plan's beginning depends on beside the collection.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Around {
    /// What the server does for others; None where nobody looks.
    #[serde(default)]
    pub activity: Option<Reading<Activity>>,
    /// Seconds that the server's clock (its `TimeZone`) is ahead of UTC now; None: UTC.
    #[serde(default)]
    pub utc_offset_s: Option<i32>,
    /// Why this may be a copy of the server that was set up, where nobody has confirmed it yet; None: it is the same.
    #[serde(default)]
    pub identity_changed: Option<String>,
}

/// What the server does for others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Sessions of clients that run a statement at this moment.
    pub active_sessions: u32,
    /// Processors that the server may use.
    pub cores: u32,
    /// WAL written since the sample before, bytes a second; None at the first sample.
    pub wal_bytes_per_s: Option<f64>,
    /// Of `max_worker_processes`, those that nobody uses.
    pub free_workers: u32,
}

/// A server that holds partitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its name; empty for the one that is being observed.
    pub name: String,
    /// Percent of the connections that ordinary users may open which are open.
    pub connections_pct: Reading<f64>,
    /// Seconds for which it has not answered; None while it does, and for the one that is being observed.
    #[serde(default)]
    pub unreachable_s: Option<f64>,
    /// Why it, or something of it, could not be read; None where all was.
    #[serde(default)]
    pub error: Option<String>,
}

/// A streaming replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    /// The number that we keep for its (application name, slot).
    pub id: i64,
    /// Application name, with the slot where it has one.
    pub name: String,
    /// Bytes of WAL that are written here and not replayed there.
    pub lag_bytes: Reading<f64>,
    /// Age of the newest commit that is not replayed there, seconds; 0 where all is replayed.
    pub lag_seconds: Reading<f64>,
    /// Seconds since it was last connected; None while it is.
    pub gone_s: Option<f64>,
}

/// One piece of maintenance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Names it as long as it lives, for instance `autovacuum 4711`.
    pub id: String,
    /// Its kind: `autovacuum`, `vacuum`, `analyze`, `create_index`, `reindex`, `cluster`, `pg_cron`, `healing` …
    pub kind: String,
    /// The leaf table that it works on; None where it is none of the collection's or not known.
    pub partition: Option<Oid>,
    /// Seconds for which it has been waiting; None while it gets on.
    pub waits_s: Option<f64>,
    /// Whom or what it waits for, in words.
    pub waits_for: Option<String>,
    /// Whether the owner of the collection's table may cancel it, by PostgreSQL's own rule.
    #[serde(default)]
    pub may_cancel: bool,
}

/// A job of pg_cron that vacuums, analyzes, reindexes or clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Its number in `cron.job`.
    pub jobid: i64,
    /// Its name, or the beginning of its command.
    pub name: String,
    /// Its schedule.
    pub schedule: String,
    /// Its command.
    pub command: String,
    /// Whether it runs when it is due.
    pub active: bool,
    /// The process in which it runs now.
    pub pid: Option<i32>,
}

/// What keeps dead rows from being removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Horizon {
    /// Seconds for which the oldest snapshot has been held; 0 where nobody holds one.
    pub held_s: f64,
    /// Who holds it, in words.
    pub holder: Option<String>,
}

/// Autovacuum's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Workers at work.
    pub busy: u32,
    /// `autovacuum_max_workers`.
    pub total: u32,
    /// Tables of the collection that are due and that no worker has taken up.
    pub waiting: u32,
}

/// Memory and who takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Percent of the limit that is in use and cannot be taken back.
    pub used_pct: f64,
    /// The limit, bytes.
    pub limit_bytes: u64,
    /// What limits: `control group`, `machine` or `setting`.
    pub limited_by: String,
    /// Names and bytes, largest first; relations in shared buffers apart where `buffers` is known.
    pub consumers: Vec<(String, u64)>,
    /// Relations of this database with the most shared buffers, in bytes; None where nobody looks.
    #[serde(default)]
    pub buffers: Option<Reading<Vec<(String, u64)>>>,
}

/// The write-ahead log and what is left for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wal {
    /// Bytes of its files.
    pub bytes: u64,
    /// `max_wal_size`: beyond it a checkpoint is made early, and what no slot keeps is recycled.
    pub max_bytes: u64,
    /// Free bytes of the file system that holds it.
    pub disk_free_bytes: Reading<u64>,
    /// What replication slots keep of it.
    pub slots: Vec<WalSlot>,
}

/// What a replication slot keeps of the write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSlot {
    /// Its name.
    pub name: String,
    /// Whether anybody reads from it.
    pub active: bool,
    /// Bytes from what it still needs to what is written now; None where it needs nothing, or has lost it.
    pub kept_bytes: Option<u64>,
    /// Bytes that may be written until it is lost; None where nothing limits it (`max_slot_wal_keep_size` = −1).
    pub left_bytes: Option<u64>,
    /// Whether what it needs is gone, so that its reader must be set up anew.
    pub is_lost: bool,
}

impl Wal {
    /// Bytes that may still be written until something gives, and what gives: the disk, or a slot. None where the disk's
    /// room is not known.
    pub fn headroom(&self) -> Option<(u64, String)> {
        let disk = (*self.disk_free_bytes.known()?, "the disk is full".to_owned());
        let slots = self.slots.iter().filter_map(|slot| {
            Some((slot.left_bytes.filter(|_| !slot.is_lost)?, format!("slot {} is lost", slot.name)))
        });
        slots.chain([disk]).min()
    }
}

/// What was done in a table a second, over the time between two samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Buffers touched by its heap, its indexes and its TOAST table, found in shared buffers or not: the one unit in
    /// which reading and writing can be added. What our own measurements touch is not in it.
    pub blocks: f64,
    /// Rows inserted.
    pub inserted: f64,
    /// Rows updated.
    pub updated: f64,
    /// Rows deleted.
    pub deleted: f64,
    /// Scans begun, sequential and by index.
    pub scans: f64,
    /// Share of the buffers that were found in shared buffers; None where none was touched.
    pub hit_ratio: Option<f64>,
}

impl Load {
    /// So many times of everything that is done, with the same share found in shared buffers.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self {
            blocks: self.blocks * factor,
            inserted: self.inserted * factor,
            updated: self.updated * factor,
            deleted: self.deleted * factor,
            scans: self.scans * factor,
            hit_ratio: self.hit_ratio,
        }
    }
}

/// A leaf table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// Its OID.
    pub oid: Oid,
    /// Schema-qualified, quoted name.
    pub name: String,
    /// Live rows, estimated from a block sample.
    pub live_rows: Reading<f64>,
    /// Bytes of the main fork.
    pub bytes: Reading<u64>,
    /// The server that holds it; empty for the one that is being observed.
    #[serde(default)]
    pub server: String,
    /// What was done in it since the sample before; None where nobody looks.
    #[serde(default)]
    pub load: Option<Reading<Load>>,
    /// Its load against the others' as it usually is, see [`crate::load::Usual`]; None until that is known.
    #[serde(default)]
    pub usual_ratio: Option<f64>,
    /// Sessions that have waited for a lock on it or on rows of it for longer than a second.
    #[serde(default)]
    pub waiting: Option<Reading<f64>>,
}

/// The access methods of pgvector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Inverted lists (`lists`, searched with `ivfflat.probes`).
    Ivfflat,
    /// Hierarchical navigable small worlds (`m`, `ef_construction`, searched with `hnsw.ef_search`).
    Hnsw,
}

impl Method {
    /// The name in `pg_am`.
    pub fn name(self) -> &'static str {
        match self {
            Method::Ivfflat => "ivfflat",
            Method::Hnsw => "hnsw",
        }
    }

    /// The setting that says how much of the index one search looks at.
    pub fn effort_setting(self) -> &'static str {
        match self {
            Method::Ivfflat => "ivfflat.probes",
            Method::Hnsw => "hnsw.ef_search",
        }
    }

    /// pgvector's default of that setting.
    pub fn default_effort(self) -> u32 {
        match self {
            Method::Ivfflat => 1,
            Method::Hnsw => 40,
        }
    }
}

/// How an index may be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// A new index can be built beside it and swapped in by name.
    BlueGreen,
    /// Only `REINDEX … CONCURRENTLY` is possible; the text says why (for instance: attached to a partitioned index).
    ReindexOnly(String),
}

/// A vector index and its health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Its OID.
    pub oid: Oid,
    /// `pg_class.relfilenode` when observed; a plan made from an older one is stale.
    pub relfilenode: Oid,
    /// Schema-qualified, quoted name.
    pub name: String,
    /// OID of the leaf table it belongs to.
    pub partition: Oid,
    /// Access method.
    pub method: Method,
    /// `pg_index.indisvalid and indisready`.
    pub valid: bool,
    /// A build of it is under way now (a progress row or a lock holder exists).
    pub building: bool,
    /// OID of another, valid index with the same definition, if there is one.
    pub equal_valid: Option<Oid>,
    /// Whether the name is one that an interrupted `REINDEX CONCURRENTLY` leaves (`_ccnew`, `_ccold`).
    pub reindex_leftover: bool,
    /// How it may be replaced.
    pub replacement: Replacement,
    /// Bytes now.
    pub bytes: Reading<u64>,
    /// Bytes that a clean build of the live rows would need.
    pub clean_bytes: Reading<u64>,
    /// Share of its entries whose row is dead beyond what autovacuum leaves alone, 0–1. Unknown is harmless: such entries take bytes too, so
    /// `bytes` against `clean_bytes` sees them; this only names the cause.
    pub dead_share: Reading<f64>,
    /// What it was right after its build, where that was seen.
    #[serde(default)]
    pub built: Option<Built>,
    /// Rows the index covers (all live rows, or those of its predicate).
    pub rows: Reading<f64>,
    /// Structure of an ivfflat index.
    pub ivf: Reading<IvfHealth>,
    /// Recall against work at the present search effort.
    pub recall: Reading<RecallPoint>,
    /// Search effort that sessions get for it now (managed by us, or the server's setting).
    pub effort: u32,
    /// `lists` of an ivfflat index.
    pub lists: Option<u32>,
    /// How dense the graph of an hnsw index was built; None where it is no hnsw index or nobody looked.
    #[serde(default)]
    pub density: Option<Density>,
    /// Expected bytes of one index tuple, for choosing `lists`.
    pub tuple_bytes: Reading<f64>,
}

/// An index right after its build.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// Bytes.
    pub bytes: u64,
    /// Live rows that it covered.
    pub rows: f64,
    /// When that was seen.
    pub at: UnixMs,
}

impl Built {
    /// Bytes a live row; None for an index that was built on nothing.
    pub fn bytes_per_row(&self) -> Option<f64> {
        (self.rows > 0.0).then(|| self.bytes as f64 / self.rows)
    }
}

/// Occupancy and placement of the lists of an ivfflat index, judged on a row sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IvfHealth {
    /// Number of lists.
    pub lists: u32,
    /// Rows in the sample that was assigned to the lists.
    pub sampled_rows: u32,
    /// Largest ÷ mean list length in the sample.
    pub skew_factor: f64,
    /// 99 % bound of that figure if all lists were equally likely (sampling noise alone).
    pub skew_noise: f64,
    /// The same figure of a fresh k-means with as many lists, on the same sample.
    pub skew_fresh: Reading<f64>,
    /// Mean distance of held-out rows to their nearest centre, the farthest tenth left out, ÷ that of a fresh k-means
    /// on the same sample; 1 = as good as new. Readings kept by an older version do not have it.
    #[serde(default = "IvfHealth::not_measured")]
    pub distance_ratio: Reading<f64>,
    /// Rows that a search must look at ÷ those that it must with a fresh k-means on the same sample, geometric mean over
    /// recall .80 to .95; 1 = as good as new.
    pub work_ratio: Reading<f64>,
    /// Lists grouped by nearness of their centres.
    pub groups: Vec<CentroidGroup>,
}

impl IvfHealth {
    fn not_measured() -> Reading<f64> {
        Reading::unknown("it was measured before this figure existed")
    }
}

/// A few neighbouring lists, one `centroid` node of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CentroidGroup {
    /// List numbers (0-based, in the order of the index's list pages).
    pub lists: Vec<u32>,
    /// Longest list of the group ÷ mean list length of the index.
    pub skew_factor: f64,
    /// Groups whose centres are nearest, most near first.
    pub nearest: Vec<u32>,
}

/// Recall and work of a panel of queries at one search effort.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RecallPoint {
    /// `ivfflat.probes` or `hnsw.ef_search`.
    pub effort: u32,
    /// Mean recall@k over the panel, 0–1.
    pub recall: f64,
    /// Half width of the 95 % confidence interval of `recall`.
    pub recall_ci: f64,
    /// Mean buffers touched by one query (`pgBufferUsage`, hits and reads).
    pub blocks: f64,
    /// Half width of the 95 % confidence interval of `blocks`.
    pub blocks_ci: f64,
    /// Queries in the panel.
    pub queries: u32,
}
