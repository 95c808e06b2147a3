//! What weighs on the server beside its indexes: load that some rows of a table draw, ingestion with the WAL and the memory
//! that it takes, replicas that replay that WAL.
//!
//! All of it moves by rates from tick to tick and draws nothing at random, so a world without strain runs as if this were
//! not there. Readings that move are seen anew only when they have moved by [`SEEN_SHARE`]: a sample of a thing that
//! creeps costs an assessment.

use healing::lease::{self, Lease, LeaseKind};
use healing::throttle::{Baseline, InForce, Ingestion, Kind, Percentages, Rates, Targets};
use serde::{Deserialize, Serialize};

use healing::snapshot::{Load, Memory, Reading, Replica as Seen, UnixMs};

use super::{Collection, Table, WeightLease, World};

/// Buffers a second that a table at rest is asked for: above the floor below which no partition is hot.
const REST_BLOCKS: f64 = 800.0;
/// Bytes of WAL a second that a server at rest writes.
const REST_WAL: f64 = 200e3;
/// Bytes of WAL of one row that is loaded, its index entries among them.
const ROW_WAL: f64 = 2000.0;
/// Bytes of WAL a second that a healthy replica replays.
pub const REPLAY: f64 = 30e6;
/// Percent of memory that a server at rest uses.
const REST_MEMORY: f64 = 45.0;
/// Percent of the memory that a collection would take if all of its rows were cold and lay among the others.
const COLD_MEMORY_PCT: f64 = 80.0;
/// Seconds in which memory comes near to what ingestion asks for.
const MEMORY_S: f64 = 300.0;
/// Memory of the server, bytes.
const MEMORY_BYTES: u64 = 16 << 30;
/// Read replicas of a server at rest, and the share of the load that they take off as their number doubles.
const READERS: u32 = 2;
const READ_SHARE: f64 = 0.8;
/// Milliseconds until a new replica is ready.
const READY_MS: i64 = 60_000;
/// Seconds over which the usual rate of writing is taken.
const USUAL_S: f64 = 300.0;
/// A reading is seen anew when it has moved by this share of itself.
const SEEN_SHARE: f64 = 0.05;

/// A streaming replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// Its number.
    pub id: i64,
    /// Bytes of WAL that it replays a second.
    pub replays: f64,
    /// Bytes of WAL that it has not replayed.
    pub behind: f64,
    /// Since when it is not connected, true time.
    pub gone_since: Option<UnixMs>,
    seen: f64,
}

impl Replica {
    /// A replica that is up to date.
    pub fn new(id: i64) -> Self {
        Self { id, replays: REPLAY, behind: 0.0, gone_since: None, seen: 0.0 }
    }
}

/// A bulk load into a collection, as long as it lasts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ingest {
    /// Rows a second that are brought.
    pub rows: f64,
    /// Percent of the server's memory that their sessions would take in the end.
    pub memory_pct: f64,
    /// Rows a second that were written in the last minutes.
    pub usual: f64,
    /// Writers are held back.
    pub throttle: Option<Throttle>,
    seen: f64,
}

/// Whether what holds under a lease by the wall clock is over, as `healing::lease` says it: also where the clock was set back
/// by more than the lease could last.
fn is_over(begins: UnixMs, until: UnixMs, wall: UnixMs) -> bool {
    let lease = Lease {
        id: 0,
        kind: LeaseKind::Throttle,
        subject: String::new(),
        begins,
        ends: until,
        collection_is_there: true,
        enabled: true,
        action: None,
    };
    lease::over(&lease, wall).is_some()
}

/// Writers of a collection are held back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Throttle {
    /// What is taken off.
    pub percentages: Percentages,
    /// The usual rate that it is taken off.
    pub baseline: Rates,
    /// When it began, wall clock.
    pub begins: UnixMs,
    /// When it is over by itself, wall clock.
    pub until: UnixMs,
    /// When it was set, true time.
    pub set: UnixMs,
    /// For how long, seconds.
    pub lease_s: i64,
}

impl Ingest {
    /// Rows a second that are let through.
    pub fn written(&self) -> f64 {
        let target = self.throttle.and_then(|t| t.percentages.target(Kind::BulkInsert, &t.baseline));
        target.map_or(self.rows, |target| self.rows.min(target))
    }

    /// Percent of memory that those who are let through take in the end.
    fn memory(&self) -> f64 {
        if self.rows > 0.0 { self.memory_pct * self.written() / self.rows } else { 0.0 }
    }

    /// Time goes on; whether that is to be seen.
    fn pass(&mut self, seconds: f64, wall: UnixMs) -> bool {
        let written = self.written();
        self.usual += (written - self.usual) * (seconds / USUAL_S).min(1.0);
        if (self.usual - written).abs() < SEEN_SHARE * written.max(1.0) {
            self.usual = written;
        }
        let over = self.throttle.is_some_and(|throttle| is_over(throttle.begins, throttle.until, wall));
        if over {
            self.throttle = None;
        }
        over || moved(self.usual, &mut self.seen)
    }

    /// What the collectors read of it.
    pub(super) fn seen(&self) -> Ingestion {
        let rates = |bulk_insert| Rates { insert: 0.0, bulk_insert };
        let in_force = |throttle: Throttle| InForce {
            percentages: throttle.percentages,
            baseline: throttle.baseline,
            targets: Targets::new(&throttle.percentages, &throttle.baseline),
            achieved: rates(self.written()),
            over_s: USUAL_S,
            debt_s: 0.0,
            until: throttle.until,
        };
        Ingestion {
            baseline: Reading::Known(Baseline { rates: rates(self.usual), over_s: USUAL_S }),
            throttle: self.throttle.map(in_force),
        }
    }
}

/// What weighs on the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Strain {
    /// Streaming replicas.
    pub replicas: Vec<Replica>,
    /// Percent of the memory in use.
    pub memory_pct: f64,
    /// Read replicas behind a balancer, which answer a part of the reads.
    pub readers: u32,
    /// How many were asked for, and when they will be ready, true time.
    asked: Option<(u32, UnixMs)>,
    memory_seen: f64,
}

impl Strain {
    /// A server with so many replicas, at rest.
    pub fn new(replicas: u32) -> Self {
        Self {
            replicas: (1..=i64::from(replicas)).map(Replica::new).collect(),
            memory_pct: REST_MEMORY,
            readers: READERS,
            asked: None,
            memory_seen: REST_MEMORY,
        }
    }
}

impl Strain {
    /// Read replicas that were asked for last.
    pub fn wanted(&self) -> u32 {
        self.asked.map_or(self.readers, |(readers, _)| readers)
    }
}

/// Share of the reads that servers other than read replicas answer.
fn reads_left(readers: u32) -> f64 {
    f64::from(READERS) / f64::from(readers.max(1))
}

/// Share of all load that is left to them.
fn share_left(readers: u32) -> f64 {
    1.0 - READ_SHARE + READ_SHARE * reads_left(readers)
}

/// Whether a value has moved enough to be seen anew; then it is.
pub(super) fn moved(value: f64, seen: &mut f64) -> bool {
    let moved = (value - *seen).abs() > SEEN_SHARE * seen.abs().max(1.0);
    if moved {
        *seen = value;
    }
    moved
}

impl World {
    /// Bytes of WAL a second that are written now.
    pub fn wal(&self) -> f64 {
        REST_WAL
            + self.maintenance.wal()
            + ROW_WAL * self.collections.iter().map(|collection| collection.ingest.written()).sum::<f64>()
    }

    /// The memory that is taken in the end, at once.
    pub fn settle_memory(&mut self) {
        let wanted = REST_MEMORY + self.collections.iter().map(Collection::memory_pct).sum::<f64>();
        self.strain.memory_pct = wanted.min(99.0);
        self.strain.memory_seen = self.strain.memory_pct;
    }

    /// Strain moves on.
    pub(super) fn strain(&mut self, ms: i64) {
        let seconds = ms as f64 / 1000.0;
        let (wal, now) = (self.wal(), self.now);
        let Self { strain, collections, weather, .. } = self;
        let mut all = false;
        for replica in &mut strain.replicas {
            let replays = if replica.gone_since.is_some() { 0.0 } else { replica.replays };
            replica.behind = (replica.behind + (wal - replays) * seconds).max(0.0);
            let reading = replica.gone_since.map_or(replica.behind, |since| (now - since) as f64);
            all |= moved(reading, &mut replica.seen);
        }
        let wanted = REST_MEMORY + collections.iter().map(Collection::memory_pct).sum::<f64>();
        strain.memory_pct += (wanted.min(99.0) - strain.memory_pct) * (seconds / MEMORY_S).min(1.0);
        all |= moved(strain.memory_pct, &mut strain.memory_seen);
        if all {
            collections.iter_mut().for_each(Collection::touch);
        }
        // What an orchestrator in trouble was asked for before does not come about either.
        let comes = |(_, ready): &(u32, UnixMs)| *ready <= now && !weather.orchestrator_fails;
        if let Some((readers, _)) = strain.asked.filter(comes) {
            (strain.readers, strain.asked) = (readers, None);
            collections.iter_mut().for_each(Collection::touch);
        }
        let wall = now + self.clock_offset;
        for collection in collections.iter_mut() {
            let ingest = &mut collection.ingest;
            if (ingest.rows > 0.0 || ingest.usual > 0.0 || ingest.throttle.is_some())
                && ingest.pass(seconds, wall)
            {
                collection.touch();
            }
        }
        for collection in collections.iter_mut().filter(|collection| collection.managed) {
            let mut weighed = false;
            for table in &mut collection.tables {
                let ended = table.weight_lease.filter(|lease| is_over(lease.begins, lease.until, wall));
                if let Some(WeightLease { after, .. }) = ended {
                    (table.weight, table.weight_lease) = (after, None);
                    weighed = true;
                }
            }
            if weighed {
                collection.touch();
            }
        }
    }

    /// What the collectors read of the replicas. `curable`: only those whose trouble nothing but this server's WAL makes;
    /// a slow or cut off machine is nobody's to heal here and counts for no policy.
    pub(super) fn replicas_seen(&self, curable: bool) -> Vec<Seen> {
        let wal = self.wal();
        let of = |replica: &Replica| Seen {
            id: replica.id,
            name: format!("replica{}", replica.id),
            lag_bytes: Reading::Known(replica.behind),
            lag_seconds: Reading::Known(replica.behind / wal),
            gone_s: replica.gone_since.map(|since| (self.now - since) as f64 / 1000.0),
        };
        let here = |replica: &&Replica| {
            replica.gone_since.is_none() && replica.replays >= REPLAY && wal > replica.replays
        };
        self.strain.replicas.iter().filter(|replica| !curable || here(replica)).map(of).collect()
    }

    /// Asks for so many read replicas.
    pub fn scale(&mut self, readers: u32) {
        self.strain.asked = Some((readers, self.now + READY_MS));
    }

    /// Share of the load that is not answered by new read replicas.
    pub(super) fn share_here(&self) -> f64 {
        share_left(self.serving())
    }

    /// Servers that share the reads: new ones take none where nothing sends them any.
    pub fn serving(&self) -> u32 {
        if self.balanced { self.strain.readers } else { READERS }
    }

    /// What the collectors read of the memory.
    pub(super) fn memory_seen(&self) -> Memory {
        Memory {
            used_pct: self.strain.memory_pct,
            limit_bytes: MEMORY_BYTES,
            limited_by: "machine".to_owned(),
            consumers: vec![],
            buffers: None,
        }
    }
}

impl Collection {
    /// Percent of the server's memory that it would take in the end beside what a server at rest uses.
    fn memory_pct(&self) -> f64 {
        let hot = self.tables.iter().filter(|table| table.is_here());
        let (cold, rows) =
            hot.fold((0.0, 1.0), |(cold, rows), table| (cold + table.cold_rows, rows + table.rows));
        self.ingest.memory() + COLD_MEMORY_PCT * cold / rows
    }
}

impl Table {
    /// What the collectors read of its load.
    pub(super) fn load_seen(&self, readers: u32) -> Load {
        if self.cold {
            return Load {
                blocks: 0.0,
                inserted: 0.0,
                updated: 0.0,
                deleted: 0.0,
                scans: 0.0,
                hit_ratio: None,
            };
        }
        let reads = reads_left(readers);
        let asked = self.load();
        Load {
            blocks: asked * share_left(readers),
            inserted: 0.0,
            updated: 0.0,
            deleted: 0.0,
            scans: asked / 100.0 * reads,
            hit_ratio: Some(0.99),
        }
    }

    /// Makes some of its rows draw so many times the load of a table at rest, beside its own.
    pub fn heat_up(&mut self, times: f64) {
        self.heat = REST_BLOCKS * times;
    }

    /// Buffers a second that it is asked for.
    pub fn load(&self) -> f64 {
        REST_BLOCKS + self.heat
    }

    /// What was asked of its rows beside that is over.
    pub fn cool_down(&mut self) {
        (self.heat, self.crowd) = (0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn world() -> World {
        let mut world = World::new(&Scenario::generate(2, 3600));
        world.strain = Strain::new(1);
        world
    }

    #[test]
    fn at_rest_nothing_moves_and_nobody_looks_anew() {
        let mut world = world();
        let versions: Vec<u64> = world.collections.iter().map(|c| c.version).collect();
        (0..600).for_each(|_| world.strain(10_000));
        assert_eq!(world.collections.iter().map(|c| c.version).collect::<Vec<_>>(), versions);
        assert_eq!((world.strain.replicas[0].behind, world.strain.memory_pct), (0.0, REST_MEMORY));
    }

    #[test]
    fn a_load_that_brings_more_than_is_replayed_leaves_the_replica_behind_and_half_of_it_does_not() {
        let mut world = world();
        // 40 MB/s of WAL against 30.
        world.collections[0].ingest = Ingest { rows: 20_000.0, memory_pct: 40.0, ..Ingest::default() };
        (0..6).for_each(|_| world.strain(10_000));
        let behind = world.strain.replicas[0].behind;
        assert!((behind - 60.0 * 10.2e6).abs() < 1.0, "{behind}");
        let lag = world.replicas_seen(true)[0].lag_seconds.known().copied().unwrap();
        assert!((lag - behind / 40.2e6).abs() < 1e-9);
        assert!(world.strain.memory_pct > REST_MEMORY + 5.0);
        world.collections[0].ingest.rows /= 2.0;
        (0..60).for_each(|_| world.strain(10_000));
        assert_eq!(world.strain.replicas[0].behind, 0.0);
    }
}
