//! Faults as production has them, made for real on a real server.
//!
//! The uniform way: [`Fault::stage`] makes a healthy table and draws from a seed what is to be hit,
//! [`Stage::make`] does the damage at a [`Level`], [`Made::undo`] mends it.
//!
//! ```no_run
//! use cluster::faults::{Fault, Level, Site};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cluster = cluster::Cluster::builder(cluster::Version::V18).database("app").start()?;
//! let mut client = cluster.connect("app")?;
//! let stage = Fault::HotPartition.stage(Site::new(&cluster), &mut client, "docs", 7)?;
//! let made = stage.make(&mut client, Level::Severe)?; // `docs_<n>` is read six times as much as the others
//! println!("{} at {} {}", stage.target(), stage.fault().figure(Level::Severe), stage.fault().unit());
//! made.undo(&mut client)?;
//! # Ok(())
//! # }
//! ```
//!
//! The parts ([`load`], [`lists`], [`space`], [`maintenance`], [`memory`], [`replicas`]) take any table, for tests that
//! bring their own. All of it happens in the database `app`, as `postgres`.

pub mod lists;
pub mod load;
pub mod maintenance;
pub mod memory;
pub mod replicas;
mod sessions;
pub mod space;
mod tables;

use std::time::{Duration, SystemTime};

use postgres::Client;

use crate::{Cluster, ClusterError};

pub use sessions::{OpenTransaction, Readers, Running, Writer};
pub use tables::{LISTS, PARTITIONS, ROWS, mixed, partitioned};

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Just beyond what is tolerable.
    Mild,
    /// Users feel it.
    Severe,
}

impl Level {
    /// Both, the milder first.
    pub const ALL: [Self; 2] = [Self::Mild, Self::Severe];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mild => "mild",
            Self::Severe => "severe",
        }
    }
}

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// One partition of eight is read far more than the others.
    HotPartition,
    /// Rows that are all alike pile up in one list of an ivfflat index.
    SkewedLists,
    /// A table is emptied and filled again: TRUNCATE has built its ivfflat index on nothing or on little.
    UntrainedLists,
    /// Rows arrive that another model has embedded: the lists of an ivfflat index do not know where they lie.
    DriftedRows,
    /// Most of the rows under an hnsw index are deleted and vacuumed away; the index stays as large as it was.
    FragmentedHnsw,
    /// The same under an ivfflat index.
    FragmentedIvfflat,
    /// A concurrent build was killed: an invalid index beside a valid equal one (mild), or alone (severe).
    InvalidIndex,
    /// A standby on which somebody has paused replay.
    PausedReplica,
    /// A standby that replays late.
    DelayedReplica,
    /// A standby that has vanished.
    LostReplica,
    /// Maintenance that queues up behind a long vacuum.
    QueuedMaintenance,
    /// A concurrent build that waits for a transaction that is not ended.
    BlockedBuild,
    /// A snapshot that somebody holds and forgot.
    HeldSnapshot,
    /// Sessions that take nearly all memory there is.
    FullMemory,
    /// A lock on the whole table before which writers queue up: none of the classes, for a human.
    LockQueue,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 15] = [
        Self::HotPartition,
        Self::SkewedLists,
        Self::UntrainedLists,
        Self::DriftedRows,
        Self::FragmentedHnsw,
        Self::FragmentedIvfflat,
        Self::InvalidIndex,
        Self::PausedReplica,
        Self::DelayedReplica,
        Self::LostReplica,
        Self::QueuedMaintenance,
        Self::BlockedBuild,
        Self::HeldSnapshot,
        Self::FullMemory,
        Self::LockQueue,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::HotPartition => "hot_partition",
            Self::SkewedLists => "skewed_lists",
            Self::UntrainedLists => "untrained_lists",
            Self::DriftedRows => "drifted_rows",
            Self::FragmentedHnsw => "fragmented_hnsw",
            Self::FragmentedIvfflat => "fragmented_ivfflat",
            Self::InvalidIndex => "invalid_index",
            Self::PausedReplica => "paused_replica",
            Self::DelayedReplica => "delayed_replica",
            Self::LostReplica => "lost_replica",
            Self::QueuedMaintenance => "queued_maintenance",
            Self::BlockedBuild => "blocked_build",
            Self::HeldSnapshot => "held_snapshot",
            Self::FullMemory => "full_memory",
            Self::LockQueue => "lock_queue",
        }
    }

    /// The problem class that it is an instance of.
    pub fn class(self) -> &'static str {
        match self {
            Self::HotPartition => "HotspotCongestion",
            Self::SkewedLists | Self::UntrainedLists | Self::DriftedRows => "CentroidSkew",
            Self::FragmentedHnsw | Self::FragmentedIvfflat | Self::InvalidIndex => "IndexFragmentation",
            Self::PausedReplica | Self::DelayedReplica | Self::LostReplica => "ReplicationLag",
            Self::QueuedMaintenance | Self::BlockedBuild | Self::HeldSnapshot => "MaintenanceContention",
            Self::FullMemory => "MemoryPressure",
            Self::LockQueue => "Unknown",
        }
    }

    /// How much of it there is at a level, in [`unit`](Self::unit)s.
    pub fn figure(self, level: Level) -> f64 {
        let (mild, severe) = match self {
            Self::HotPartition => (2.0, 6.0),
            Self::SkewedLists => (5.0, 10.0),
            Self::UntrainedLists => (5.0, 0.0),
            Self::DriftedRows => (50.0, 80.0),
            Self::FragmentedHnsw | Self::FragmentedIvfflat => (35.0, 60.0),
            Self::InvalidIndex => (1.0, 0.0),
            Self::PausedReplica | Self::DelayedReplica => (10.0, 60.0),
            Self::LostReplica => (4.5, 15.0),
            Self::QueuedMaintenance | Self::BlockedBuild => (2.0, 15.0),
            Self::HeldSnapshot => (3.0, 15.0),
            Self::FullMemory => (87.0, 97.0),
            Self::LockQueue => (5.0, 14.0),
        };
        match level {
            Level::Mild => mild,
            Level::Severe => severe,
        }
    }

    /// What [`figure`](Self::figure) counts.
    pub fn unit(self) -> &'static str {
        match self {
            Self::HotPartition => "times the load of the others",
            Self::SkewedLists => "times the mean length of the lists",
            Self::UntrainedLists => "% of the rows seen by k-means",
            Self::DriftedRows => "% of the rows from elsewhere",
            Self::FragmentedHnsw | Self::FragmentedIvfflat => "% of the rows deleted",
            Self::InvalidIndex => "valid indexes beside it",
            Self::PausedReplica | Self::DelayedReplica => "s of lag",
            Self::LostReplica => "s gone",
            Self::QueuedMaintenance | Self::BlockedBuild => "s of waiting",
            Self::HeldSnapshot => "s held",
            Self::FullMemory => "% of the memory",
            Self::LockQueue => "sessions waiting",
        }
    }

    /// Makes a healthy table `name` for it, as [`mixed`] does, and draws what is to be hit.
    ///
    /// # Errors
    /// With the server's reason.
    pub fn stage<'a>(
        self,
        site: Site<'a>,
        client: &mut Client,
        name: &str,
        seed: u64,
    ) -> Result<Stage<'a>, ClusterError> {
        mixed(client, name, seed)?;
        self.at(site, name, seed)
    }

    /// The same on a table that [`mixed`] has made already: two faults at once have two stages on one table.
    ///
    /// # Errors
    /// [`ClusterError::NoStandby`] when it needs a standby that the site does not have.
    pub fn at<'a>(self, site: Site<'a>, name: &str, seed: u64) -> Result<Stage<'a>, ClusterError> {
        let mut random = fastrand::Rng::with_seed(seed ^ (self as u64) << 32);
        let mut part = random.u32(0..PARTITIONS);
        let mut target = String::new();
        match self {
            Self::HotPartition => target = format!("public.{name}_{part}"),
            // Of `mixed` the even partitions have an hnsw index, the odd ones an ivfflat index.
            Self::SkewedLists | Self::UntrainedLists | Self::DriftedRows | Self::FragmentedIvfflat => {
                part |= 1;
                target = format!("public.{name}_{part}_index");
            }
            Self::FragmentedHnsw => {
                part &= !1;
                target = format!("public.{name}_{part}_index");
            }
            Self::InvalidIndex => target = format!("public.{name}_{part}_again"),
            Self::PausedReplica | Self::DelayedReplica | Self::LostReplica => {
                let count = site.standbys.len() as u32;
                if count == 0 {
                    return Err(ClusterError::NoStandby);
                }
                part = random.u32(0..count);
                target.clone_from(&site.standbys[part as usize].0);
            }
            Self::QueuedMaintenance => target = "analyze".to_owned(),
            Self::BlockedBuild => target = "create_index".to_owned(),
            Self::HeldSnapshot => target = "cleanup of dead rows".to_owned(),
            Self::FullMemory => target = format!("sessions of {}", memory::APPLICATION),
            Self::LockQueue => {}
        }
        Ok(Stage { fault: self, site, name: name.to_owned(), part, target, seed: random.u64(..) })
    }
}

/// Where faults are made: a server with the database `app`, and its standbys with the names of their WAL receivers.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The primary.
    pub server: &'a Cluster,
    /// Its standbys, each with its `application_name`.
    pub standbys: &'a [(String, Cluster)],
}

impl<'a> Site<'a> {
    /// A server without standbys.
    pub fn new(server: &'a Cluster) -> Self {
        Self { server, standbys: &[] }
    }
}

/// A healthy table, and what is going to be hit.
pub struct Stage<'a> {
    fault: Fault,
    site: Site<'a>,
    name: String,
    /// Number of the partition, or of the standby.
    part: u32,
    target: String,
    seed: u64,
}

impl<'a> Stage<'a> {
    /// What is going to happen.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// The table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the monitor has to name: a partition or an index (schema-qualified), a standby, a kind of job, the sessions
    /// that take the memory; empty where nothing in particular is hit.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The partition that is hit.
    pub fn partition(&self) -> String {
        format!("{}_{}", self.name, self.part)
    }

    /// Makes it. `client` is a session of the database `app`.
    ///
    /// # Errors
    /// With the server's reason; the damage may then be half done.
    pub fn make(&self, client: &mut Client, level: Level) -> Result<Made<'a>, ClusterError> {
        let Self { site: Site { server, .. }, name, .. } = self;
        let (partition, figure) = (self.partition(), self.fault.figure(level));
        let index = format!("{partition}_index");
        let rebuild = format!("REINDEX INDEX {index}");
        match self.fault {
            Fault::HotPartition => {
                let hot = load::Scans::start(server, &[partition], load::EVEN_RATE * (figure - 1.0))?;
                Ok(Made::now(move |_| {
                    drop(hot);
                    Ok(())
                }))
            }
            Fault::SkewedLists => {
                lists::pile_up(client, &partition, LISTS, figure, self.seed)?;
                Ok(Made::now(move |client| sql(client, &rebuild)))
            }
            Fault::UntrainedLists => {
                lists::reload(client, &partition, &index, figure / 100.0)?;
                Ok(Made::now(move |client| sql(client, &rebuild)))
            }
            Fault::DriftedRows => {
                lists::drift(client, &partition, figure / 100.0)?;
                Ok(Made::now(move |client| sql(client, &rebuild)))
            }
            Fault::FragmentedHnsw | Fault::FragmentedIvfflat => {
                space::hollow_out(client, &partition, figure / 100.0, self.seed)?;
                Ok(Made::now(move |client| sql(client, &rebuild)))
            }
            Fault::InvalidIndex => {
                let again = format!("{partition}_again");
                space::leave_invalid(server, client, &partition, &index, &again)?;
                if level == Level::Severe {
                    sql(client, &format!("DROP INDEX {index}"))?;
                }
                Ok(Made::now(move |client| sql(client, &format!("REINDEX INDEX {again}"))))
            }
            Fault::PausedReplica => replicas::pause(self.standby()?, Writer::start(server, name)?),
            Fault::DelayedReplica => replicas::delay(self.standby()?, Writer::start(server, name)?, figure),
            Fault::LostReplica => replicas::cut_off(self.standby()?),
            Fault::QueuedMaintenance => {
                let extent = if level == Level::Mild { 1 } else { 3 };
                maintenance::queue(server, client, &partition, &index, extent)
            }
            Fault::BlockedBuild => maintenance::block_build(server, &partition, &index),
            Fault::HeldSnapshot => maintenance::hold_snapshot(server, name),
            Fault::FullMemory => {
                let hoard = memory::fill(server, figure / 100.0)?;
                Ok(Made::now(move |_| {
                    drop(hoard);
                    Ok(())
                }))
            }
            Fault::LockQueue => maintenance::queue_writers(server, name, figure as u32),
        }
    }

    fn standby(&self) -> Result<&'a Cluster, ClusterError> {
        let standby = self.site.standbys.get(self.part as usize).ok_or(ClusterError::NoStandby)?;
        Ok(&standby.1)
    }
}

type Undo<'a> = Box<dyn FnOnce(&mut Client) -> Result<(), ClusterError> + Send + 'a>;

/// A fault that is there. Dropped, it ends the sessions that belong to it; what is damaged stays damaged.
pub struct Made<'a> {
    began: SystemTime,
    grows: bool,
    undo: Undo<'a>,
}

impl<'a> Made<'a> {
    /// All of it is there now.
    fn now(undo: impl FnOnce(&mut Client) -> Result<(), ClusterError> + Send + 'a) -> Self {
        Self { began: SystemTime::now(), grows: false, undo: Box::new(undo) }
    }

    /// It grows by one second a second.
    fn growing(undo: impl FnOnce(&mut Client) -> Result<(), ClusterError> + Send + 'a) -> Self {
        Self { grows: true, ..Self::now(undo) }
    }

    /// When its figure has reached a value: at once, or after so many seconds where it is the time that passes.
    pub fn reaches(&self, value: f64) -> SystemTime {
        self.began + if self.grows { Duration::from_secs_f64(value.max(0.0)) } else { Duration::ZERO }
    }

    /// Mends it. What was waiting goes on, rows that were deleted stay deleted.
    ///
    /// # Errors
    /// With the server's reason.
    pub fn undo(self, client: &mut Client) -> Result<(), ClusterError> {
        (self.undo)(client)
    }
}

/// Lets the session report its counters now, not at its next statement in a second: what was done is then in one window
/// of whoever reads them.
fn report(client: &mut Client) -> Result<(), ClusterError> {
    sql(client, "SELECT pg_stat_force_next_flush()")
}

fn sql(client: &mut Client, statements: &str) -> Result<(), ClusterError> {
    client.batch_execute(statements).map_err(ClusterError::sql(format!("failed: {statements}")))
}
