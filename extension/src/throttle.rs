//! Throttles in shared memory: which relations belong to which collection, how fast each may be written, and how many rows
//! were written how.
//!
//! A cache of `ruvector.leases` but for its end: every throttle carries its own, on a clock that nobody sets, so that it is
//! over in time whatever becomes of the healer, the extension or the tables. The hooks that charge and wait are in
//! [`crate::hooks`]; no lock guard is held across a call that can raise.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};

use healing::lease::LeaseKind;
use healing::throttle::{self, Admission, InForce, Kind, Percentages, Rates, Reserved, Targets, Written};
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};
use serde::{Deserialize, Serialize};

use crate::collect::{self, Collection};
use crate::error::Error;
use crate::transaction::look_again;
use crate::{leases, shared};

/// Collections of the whole server that can be throttled, 64 KiB.
const SLOTS_MAX: usize = 256;
/// Tables of all of them, partitioned ones and partitions; 192 KiB.
const RELATIONS_MAX: usize = 16_384;
/// Counters of changes: of two databases that share one each may read its tables once more than it has to.
const COUNTERS: usize = 64;

/// One kind of writing of one collection.
struct Bucket {
    /// Nanoseconds that a row has; 0 where this kind is not throttled.
    row_ns: AtomicI64,
    /// When the next row may be written, nanoseconds of [`now_ns`].
    next_ns: AtomicI64,
    /// Rows written: bulk rows always, others only under a throttle.
    rows: AtomicI64,
    /// `rows` when the throttle began.
    rows_before: AtomicI64,
    /// Statements that waited, and how long together.
    waits: AtomicI64,
    waited_ns: AtomicI64,
    /// Statements that were rejected.
    rejected: AtomicI64,
    /// Debt that was given up.
    forgiven_ns: AtomicI64,
}

impl Bucket {
    const fn new() -> Bucket {
        Bucket {
            row_ns: AtomicI64::new(0),
            next_ns: AtomicI64::new(0),
            rows: AtomicI64::new(0),
            rows_before: AtomicI64::new(0),
            waits: AtomicI64::new(0),
            waited_ns: AtomicI64::new(0),
            rejected: AtomicI64::new(0),
            forgiven_ns: AtomicI64::new(0),
        }
    }

    fn charge(&self, now_ns: i64, ns: i64) -> Admission {
        let mut next_ns = self.next_ns.load(Relaxed);
        loop {
            let admission = throttle::charge(next_ns, now_ns, ns);
            match self.next_ns.compare_exchange_weak(next_ns, admission.next_ns, Relaxed, Relaxed) {
                Ok(_) => {
                    self.forgiven_ns.fetch_add(admission.forgiven_ns.max(0), Relaxed);
                    return admission;
                }
                Err(changed) => next_ns = changed,
            }
        }
    }

    fn begin(&self, now_ns: i64, target: Option<f64>) {
        self.row_ns.store(throttle::row_ns(target), Relaxed);
        self.next_ns.store(now_ns, Relaxed);
        self.rows_before.store(self.rows.load(Relaxed), Relaxed);
        for counter in [&self.waits, &self.waited_ns, &self.rejected, &self.forgiven_ns] {
            counter.store(0, Relaxed);
        }
    }
}

/// A collection.
struct Slot {
    /// OID of its database, 0 for a free slot.
    database: u32,
    collection: i32,
    /// The lease in force, 0 for none, and the second in which it ends by itself and began, both of [`now_ns`].
    lease: i64,
    until_ns: i64,
    since_ns: i64,
    reject: bool,
    buckets: [Bucket; 2],
    /// Rows updated by `ON CONFLICT` and MERGE.
    upserted: AtomicI64,
}

impl Slot {
    const fn free() -> Slot {
        Slot {
            database: 0,
            collection: 0,
            lease: 0,
            until_ns: 0,
            since_ns: 0,
            reject: false,
            buckets: [const { Bucket::new() }; 2],
            upserted: AtomicI64::new(0),
        }
    }

    fn bucket(&self, kind: Kind) -> &Bucket {
        &self.buckets[kind as usize]
    }
}

/// A table of a collection.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Relation {
    database: u32,
    relation: u32,
    slot: u16,
    /// It holds rows itself.
    leaf: bool,
}

struct Throttles {
    slots: [Slot; SLOTS_MAX],
    /// Sorted, the first `used` of them.
    relations: [Relation; RELATIONS_MAX],
    used: usize,
    /// How often what is in force was changed, by database: what was read of the tables before such a change is old.
    changes: [u32; COUNTERS],
}

impl Default for Throttles {
    fn default() -> Self {
        Throttles {
            slots: [const { Slot::free() }; SLOTS_MAX],
            relations: [Relation::default(); RELATIONS_MAX],
            used: 0,
            changes: [0; COUNTERS],
        }
    }
}

impl Throttles {
    fn changes(&self, database: u32) -> u32 {
        self.changes[database as usize % COUNTERS]
    }

    fn changed(&mut self, database: u32) {
        let counter = &mut self.changes[database as usize % COUNTERS];
        *counter = counter.wrapping_add(1);
    }

    /// Lets the hooks know whether anything is throttled.
    fn count_active(&self) {
        let active = self.slots.iter().filter(|slot| slot.lease != 0).count();
        ACTIVE.get().store(active as u32, Relaxed);
    }
}

// SAFETY: plain data and atomics without pointers.
unsafe impl PGRXSharedMemory for Throttles {}

static THROTTLES: PgLwLock<Throttles> = unsafe { PgLwLock::new(c"ruvector_throttles") };
/// Throttles on the whole server, those included that are over by now; 0 lets the hooks return after one relaxed load.
static ACTIVE: PgAtomic<AtomicU32> = unsafe { PgAtomic::new(c"ruvector_throttle_count") };

pub(crate) fn init() {
    pg_shmem_init!(THROTTLES);
    pg_shmem_init!(ACTIVE);
}

/// Whether anything on the server may be throttled.
#[inline]
pub(crate) fn any() -> bool {
    ACTIVE.get().load(Relaxed) > 0
}

/// Nanoseconds of a clock that all processes share and nobody sets.
pub(crate) fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// A collection as a backend has found it. Its place may be another's by the next call: each looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    slot: u16,
    database: u32,
    pub(crate) collection: i32,
}

impl Place {
    fn of<'a>(&self, throttles: &'a Throttles) -> Option<&'a Slot> {
        let slot = throttles.slots.get(usize::from(self.slot))?;
        (slot.database == self.database && slot.collection == self.collection).then_some(slot)
    }

    fn throttled<'a>(&self, throttles: &'a Throttles, now_ns: i64) -> Option<&'a Slot> {
        self.of(throttles).filter(|slot| slot.lease != 0 && now_ns < slot.until_ns)
    }
}

/// The collection that a table of this database belongs to.
pub(crate) fn place_of(relation: u32) -> Option<Place> {
    let database = database();
    let throttles = THROTTLES.share();
    let all = &throttles.relations[..throttles.used];
    let at =
        all.binary_search_by_key(&(database, relation), |entry| (entry.database, entry.relation)).ok()?;
    let slot = all[at].slot;
    let collection =
        throttles.slots.get(usize::from(slot)).filter(|slot| slot.database == database)?.collection;
    Some(Place { slot, database, collection })
}

/// The tables of a collection that hold rows.
pub(crate) fn leaves_of(place: Place) -> Vec<u32> {
    let throttles = THROTTLES.share();
    throttles.relations[..throttles.used]
        .iter()
        .filter(|entry| entry.slot == place.slot && entry.leaf && entry.database == place.database)
        .map(|entry| entry.relation)
        .collect()
}

/// What a statement hears that wants to write.
pub(crate) struct Told {
    pub(crate) at_ns: i64,
    pub(crate) reserved: Reserved,
    pub(crate) now_ns: i64,
    /// Since when the throttle is in force that it was reserved under, as [`since_ns`].
    pub(crate) since_ns: i64,
    /// Instead of waiting for longer than it may it is rejected.
    pub(crate) reject: bool,
}

/// Reserves so many rows; None where this kind of writing is not throttled.
pub(crate) fn reserve(place: Place, kind: Kind, rows: i64) -> Option<Told> {
    let now_ns = now_ns();
    let throttles = THROTTLES.share();
    let slot = place.throttled(&throttles, now_ns)?;
    let bucket = slot.bucket(kind);
    let row_ns = bucket.row_ns.load(Relaxed);
    if row_ns == 0 {
        return None;
    }
    let admission = bucket.charge(now_ns, row_ns.saturating_mul(rows));
    let reserved = Reserved { rows, charged_ns: admission.charged_ns() };
    let since_ns = slot.since_ns;
    Some(Told { at_ns: admission.at_ns, reserved, now_ns, since_ns, reject: slot.reject })
}

/// Since when the throttle in force for a collection is, nanoseconds of [`now_ns`]; 0 without one. No two have the same.
pub(crate) fn since_ns(place: Place) -> i64 {
    if !any() {
        return 0;
    }
    let now_ns = now_ns();
    place.throttled(&THROTTLES.share(), now_ns).map_or(0, |slot| slot.since_ns)
}

/// Whether the throttle that a statement waits for is over.
pub(crate) fn is_over(place: Place) -> bool {
    let now_ns = now_ns();
    place.throttled(&THROTTLES.share(), now_ns).is_none()
}

/// Notes that a statement waited.
pub(crate) fn waited(place: Place, kind: Kind, ns: i64) {
    if let Some(slot) = place.of(&THROTTLES.share()) {
        slot.bucket(kind).waits.fetch_add(1, Relaxed);
        slot.bucket(kind).waited_ns.fetch_add(ns, Relaxed);
    }
}

/// Takes back a reservation of a statement that is rejected.
pub(crate) fn rejected(place: Place, kind: Kind, reserved: Reserved) {
    let now_ns = now_ns();
    if let Some(slot) = place.of(&THROTTLES.share()) {
        slot.bucket(kind).charge(now_ns, -reserved.charged_ns);
        slot.bucket(kind).rejected.fetch_add(1, Relaxed);
    }
}

/// Share of what a statement has written that fell under the throttle in force, as far as its time tells; 1 without one.
/// `took_ns` is how long it has run until now.
pub(crate) fn share_under(place: Place, took_ns: i64) -> f64 {
    let now_ns = now_ns();
    let throttles = THROTTLES.share();
    let Some(slot) = place.throttled(&throttles, now_ns) else { return 1.0 };
    throttle::share_since(slot.since_ns, now_ns.saturating_sub(took_ns), now_ns)
}

/// Charges what was written, less what was reserved for it, and counts it. `upserted` of the rows were updated.
pub(crate) fn charge(place: Place, kind: Kind, rows: i64, upserted: i64, reserved: Option<(Kind, Reserved)>) {
    let now_ns = now_ns();
    let throttles = THROTTLES.share();
    let Some(slot) = place.of(&throttles) else { return };
    slot.upserted.fetch_add(upserted, Relaxed);
    let throttled = slot.lease != 0 && now_ns < slot.until_ns;
    // Without a throttle only bulk is counted, as the rest is the difference to all rows.
    if throttled || kind == Kind::BulkInsert {
        slot.bucket(kind).rows.fetch_add(rows, Relaxed);
    }
    if !throttled {
        return;
    }
    for bucket in Kind::ALL {
        let row_ns = slot.bucket(bucket).row_ns.load(Relaxed);
        let written = if bucket == kind { rows } else { 0 };
        let reserved = reserved.filter(|(of, _)| *of == bucket).map(|(_, reserved)| reserved);
        let owed_ns = throttle::owed_ns(row_ns, written, reserved);
        if owed_ns != 0 && row_ns != 0 {
            slot.bucket(bucket).charge(now_ns, owed_ns);
        }
    }
}

/// Rows of a collection that were updated by upserts, and that were written in bulk, since the server's start.
pub(crate) fn counted(collection: i32) -> Option<(i64, i64)> {
    let throttles = THROTTLES.share();
    let slot = slot_of(&throttles, collection)?;
    Some((slot.upserted.load(Relaxed), slot.bucket(Kind::BulkInsert).rows.load(Relaxed)))
}

fn slot_of(throttles: &Throttles, collection: i32) -> Option<&Slot> {
    let database = database();
    throttles.slots.iter().find(|slot| slot.database == database && slot.collection == collection)
}

fn database() -> u32 {
    // SAFETY: no preconditions.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// What a lease of kind `throttle` has in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Effect {
    #[serde(flatten)]
    pub(crate) percentages: Percentages,
    /// The usual rate that the shares are taken off.
    pub(crate) baseline: Rates,
}

/// What shared memory says of a throttle: for status and verification.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Live {
    pub(crate) collection: i32,
    pub(crate) lease: i64,
    pub(crate) over_s: f64,
    pub(crate) left_s: f64,
    pub(crate) debt_s: f64,
    pub(crate) achieved: Rates,
    /// Rows charged since it began, by kind.
    pub(crate) written: HashMap<&'static str, i64>,
    pub(crate) waits: i64,
    pub(crate) waited_s: f64,
    pub(crate) rejected: i64,
    pub(crate) forgiven_s: f64,
}

/// The throttles of this database that are in force at this moment.
pub(crate) fn live() -> Vec<Live> {
    let (now_ns, database) = (now_ns(), database());
    let throttles = THROTTLES.share();
    let in_force = |slot: &&Slot| slot.database == database && slot.lease != 0 && now_ns < slot.until_ns;
    let seconds = |ns: i64| ns as f64 / 1e9;
    let live = |slot: &Slot| {
        let over_s = seconds(now_ns - slot.since_ns);
        let rows = |kind| slot.bucket(kind).rows.load(Relaxed) - slot.bucket(kind).rows_before.load(Relaxed);
        let rate = |kind| rows(kind) as f64 / over_s.max(1e-3);
        let sum =
            |of: fn(&Bucket) -> &AtomicI64| slot.buckets.iter().map(|b| of(b).load(Relaxed)).sum::<i64>();
        let debt_ns = slot.buckets.iter().map(|b| b.next_ns.load(Relaxed) - now_ns).max().unwrap_or(0);
        Live {
            collection: slot.collection,
            lease: slot.lease,
            over_s,
            left_s: seconds(slot.until_ns - now_ns),
            debt_s: seconds(debt_ns.max(0)),
            achieved: Rates { insert: rate(Kind::Insert), bulk_insert: rate(Kind::BulkInsert) },
            written: Kind::ALL.into_iter().map(|kind| (kind.as_str(), rows(kind))).collect(),
            waits: sum(|b| &b.waits),
            waited_s: seconds(sum(|b| &b.waited_ns)),
            rejected: sum(|b| &b.rejected),
            forgiven_s: seconds(sum(|b| &b.forgiven_ns)),
        }
    };
    throttles.slots.iter().filter(in_force).map(live).collect()
}

/// The throttle of a collection as the tables and shared memory have it.
pub(crate) fn in_force(collection: &Collection) -> Result<Option<InForce>, Error> {
    let leases = leases::all()?;
    let now = collect::now_ms();
    let lease =
        healing::lease::in_force(&leases.iter().map(|row| row.lease.clone()).collect::<Vec<_>>(), now)
            .iter()
            .find(|lease| lease.kind == LeaseKind::Throttle && lease.subject == collection.id.to_string())
            .map(|lease| lease.id);
    let Some(row) = leases.into_iter().find(|row| Some(row.lease.id) == lease) else { return Ok(None) };
    let Effect { percentages, baseline } = serde_json::from_value(row.effect)?;
    let live = live().into_iter().find(|live| live.collection == collection.id && live.lease == row.lease.id);
    let Some(live) = live else { return Ok(None) };
    let mut achieved = live.achieved;
    achieved.bulk_insert += copied(collection, live.over_s)? / live.over_s.max(1e-3);
    Ok(Some(InForce {
        percentages,
        baseline,
        targets: Targets::new(&percentages, &baseline),
        achieved,
        over_s: live.over_s,
        debt_s: live.debt_s,
        until: row.lease.ends,
    }))
}

/// Rows that COPY has written under the throttle and that are not charged yet: it tells them as it goes. One that began before
/// the throttle wrote evenly, for all that is known. Exempt roles are left out, as far as their settings say so.
fn copied(collection: &Collection, over_s: f64) -> Result<f64, Error> {
    #[derive(Deserialize)]
    struct Copy {
        rows: f64,
        since_s: f64,
    }
    let under_way: Vec<Copy> = collect::documents(
        "SELECT jsonb_build_object('rows', p.tuples_processed, 'since_s', extract(epoch FROM clock_timestamp() - s.query_start))
           FROM pg_stat_progress_copy p
           JOIN pg_database d ON d.oid = p.datid AND d.datname = current_database()
           JOIN pg_stat_activity s ON s.pid = p.pid AND s.query_start IS NOT NULL
          WHERE p.relid = ANY ($1) AND p.command = 'COPY FROM' AND s.backend_type NOT LIKE 'logical replication%'
            AND NOT EXISTS (SELECT FROM pg_db_role_setting r, unnest(r.setconfig) c
                             WHERE r.setrole = s.usesysid AND r.setdatabase IN (0, p.datid)
                               AND split_part(c, '=', 1) = 'ruvector.throttle_exempt' AND split_part(c, '=', 2)::boolean)",
        &[collect::tables::of(collection)?.all().into()],
    )?;
    Ok(under_way.iter().map(|copy| copy.rows * (over_s / copy.since_s.max(1e-3)).clamp(0.0, 1.0)).sum())
}

/// Copies the tables of all collections of this database, and the throttles in force, into shared memory. Must run in a
/// transaction of `transaction`.
pub(crate) fn load() -> Result<(), Error> {
    let database = database();
    loop {
        // What is committed now is seen, and whoever changes something from now on is noticed.
        let seen = THROTTLES.share().changes(database);
        look_again();
        let collections = tables()?;
        let wanted = wanted()?;
        if let Some(left_out) = fill(database, &collections, &wanted, Some(seen)) {
            if left_out > 0 {
                pgrx::warning!(
                    "ruvector: {left_out} collections do not fit into shared memory and cannot be throttled"
                );
            }
            return Ok(());
        }
    }
}

/// A collection and its tables, each with whether it holds rows itself.
type Tables = (i32, Vec<(u32, bool)>);

/// The tables of all collections of this database.
fn tables() -> Result<Vec<Tables>, Error> {
    collect::documents(
        // As in `collect::tables`: no partition is locked.
        "WITH RECURSIVE tree AS (
             SELECT c.id, c.relation::oid AS oid FROM ruvector.collections c
             UNION ALL
             SELECT tree.id, h.inhrelid FROM tree JOIN pg_inherits h ON h.inhparent = tree.oid
               JOIN pg_class p ON p.oid = h.inhrelid
              WHERE p.relispartition AND NOT h.inhdetachpending)
         SELECT jsonb_build_array(tree.id, coalesce(
                    jsonb_agg(jsonb_build_array(t.oid::bigint, t.relkind = 'r')) FILTER (WHERE t.oid IS NOT NULL), '[]'))
           FROM tree LEFT JOIN pg_class t ON t.oid = tree.oid
          GROUP BY tree.id ORDER BY tree.id",
        &[],
    )
}

/// The throttles of this database that its tables have in force, by collection.
fn wanted() -> Result<HashMap<i32, Wanted>, Error> {
    let leases = leases::all()?;
    let now = collect::now_ms();
    let plain: Vec<_> = leases.iter().map(|row| row.lease.clone()).collect();
    let mut wanted = HashMap::new();
    for lease in healing::lease::in_force(&plain, now) {
        let Some(row) = leases.iter().find(|row| row.lease.id == lease.id) else { continue };
        if lease.kind != LeaseKind::Throttle {
            continue;
        }
        let Effect { percentages, baseline } = serde_json::from_value(row.effect.clone())?;
        wanted.insert(
            row.collection,
            Wanted {
                lease: lease.id,
                left_ns: (lease.ends - now).saturating_mul(1_000_000),
                targets: Targets::new(&percentages, &baseline),
                reject: collect::collection(row.collection)?
                    .map(|collection| collection.config())
                    .transpose()?
                    .is_some_and(|config| config.throttle_reject),
            },
        );
    }
    Ok(wanted)
}

struct Wanted {
    lease: i64,
    left_ns: i64,
    targets: Targets,
    reject: bool,
}

/// Forgets everything of this database.
pub(crate) fn clear() {
    forget(database());
}

/// Forgets everything of a database.
pub(crate) fn forget(database: u32) {
    fill(database, &[], &HashMap::new(), None);
}

/// Returns how many collections did not fit; None, and does nothing, if something has changed since `seen` was the counter of
/// changes: what was read of the tables may be older than that.
fn fill(
    database: u32,
    collections: &[Tables],
    wanted: &HashMap<i32, Wanted>,
    seen: Option<u32>,
) -> Option<usize> {
    let now_ns = now_ns();
    let mut left_out = 0;
    let mut guard = THROTTLES.exclusive();
    let throttles = &mut *guard;
    if seen.is_some_and(|seen| seen != throttles.changes(database)) {
        return None;
    }
    throttles.changed(database);
    for slot in throttles.slots.iter_mut().filter(|slot| slot.database == database) {
        if !collections.iter().any(|(id, _)| *id == slot.collection) {
            *slot = Slot::free();
        }
    }
    let mut kept = 0;
    for at in 0..throttles.used {
        if throttles.relations[at].database != database {
            throttles.relations[kept] = throttles.relations[at];
            kept += 1;
        }
    }
    throttles.used = kept;
    for (collection, relations) in collections {
        let known =
            throttles.slots.iter().position(|s| s.database == database && s.collection == *collection);
        let free = || throttles.slots.iter().position(|slot| slot.database == 0);
        let Some(at) = known.or_else(free).filter(|_| throttles.used + relations.len() <= RELATIONS_MAX)
        else {
            left_out += 1;
            continue;
        };
        let slot = &mut throttles.slots[at];
        (slot.database, slot.collection) = (database, *collection);
        match wanted.get(collection) {
            None => slot.lease = 0,
            Some(wanted) => {
                slot.until_ns = now_ns.saturating_add(wanted.left_ns);
                slot.reject = wanted.reject;
                if slot.lease != wanted.lease {
                    slot.lease = wanted.lease;
                    slot.since_ns = now_ns;
                    for kind in Kind::ALL {
                        slot.bucket(kind).begin(now_ns, wanted.targets.of(kind));
                    }
                }
            }
        }
        for (relation, leaf) in relations {
            throttles.relations[throttles.used] =
                Relation { database, relation: *relation, slot: at as u16, leaf: *leaf };
            throttles.used += 1;
        }
    }
    let used = throttles.used;
    throttles.relations[..used].sort_unstable();
    throttles.count_active();
    Some(left_out)
}

/// Ends the throttle of a lease of this database that has just ended, if it is in force. What was before it follows with the
/// next [`load`].
pub(crate) fn end(lease: i64) {
    let database = database();
    let mut throttles = THROTTLES.exclusive();
    // Whoever has read that lease as an open one reads again.
    throttles.changed(database);
    for slot in throttles.slots.iter_mut().filter(|slot| slot.database == database && slot.lease == lease) {
        slot.lease = 0;
    }
    throttles.count_active();
}

/// After a throttle's own end: nobody may have told shared memory (the healer is gone). The hooks get cheap again.
pub(crate) fn sweep() {
    let now_ns = now_ns();
    let mut throttles = THROTTLES.exclusive();
    for slot in throttles.slots.iter_mut().filter(|slot| slot.lease != 0 && slot.until_ns <= now_ns) {
        slot.lease = 0;
    }
    throttles.count_active();
}

/// Whether a throttle of the server is over and nobody has swept it away.
pub(crate) fn any_over() -> bool {
    let now_ns = now_ns();
    THROTTLES.share().slots.iter().any(|slot| slot.lease != 0 && slot.until_ns <= now_ns)
}

thread_local! {
    /// Rows inserted into each collection as this process has seen its tables' counters grow.
    static GROWN: RefCell<HashMap<i32, Grown>> = RefCell::default();
}

/// Each table's counter as it was last seen, and by how much they have grown since the first look, together. What a table had
/// counted before it became a partition was not written to the collection.
#[derive(Default)]
struct Grown {
    tables: HashMap<u32, i64>,
    rows: i64,
}

impl Grown {
    fn look(&mut self, now: HashMap<u32, i64>) -> i64 {
        for (table, rows) in &now {
            match self.tables.get(table) {
                Some(before) if rows >= before => self.rows += rows - before,
                // Counters begin at nought again after a reset, or a crash.
                Some(_) => self.rows += rows,
                None => {}
            }
        }
        self.tables = now;
        self.rows
    }
}

/// What was written to a collection until now, for its usual rate.
pub(crate) fn written(collection: &Collection) -> Result<Option<Written>, Error> {
    if !shared::preloaded() {
        return Ok(None);
    }
    #[derive(Deserialize)]
    struct Counted {
        table: u32,
        rows: i64,
    }
    let tables: Vec<Counted> = collect::documents(
        "SELECT jsonb_build_object('table', t.oid::bigint, 'rows', pg_stat_get_tuples_inserted(t.oid)) FROM pg_class t WHERE t.oid = ANY ($1)",
        &[collect::tables::of(collection)?.leaves().into()],
    )?;
    let now = tables.into_iter().map(|one| (one.table, one.rows)).collect();
    let inserted = GROWN.with_borrow_mut(|grown| grown.entry(collection.id).or_default().look(now));
    let counted = counted(collection.id);
    Ok(counted.map(|(upserted, bulk)| Written { at: collect::now_ms(), inserted, upserted, bulk }))
}

/// Forgets the collections that are not there any more.
pub(crate) fn retain(known: impl Fn(i32) -> bool) {
    GROWN.with_borrow_mut(|grown| grown.retain(|id, _| known(*id)));
}
