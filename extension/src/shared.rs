//! Shared memory: which database has a healer, and the search effort of each managed index.
//!
//! A cache only: what must survive lives in tables, and the healer fills this again after every start. No lock guard
//! is held across a call that can raise.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};

/// Databases with a healer at the same time; more are refused with a log line. 64 × 80 bytes.
pub(crate) const HEALERS_MAX: usize = 64;
/// Workers of one database that are known by their process ids.
const WORKERS_MAX: usize = 8;
/// The same of those that hold the locks of leases.
const HOLDERS_MAX: usize = 4;
/// Indexes with a managed search effort on the whole server; 96 KiB.
const EFFORTS_MAX: usize = 8192;

#[derive(Clone, Copy, Default)]
pub(crate) struct HealerSlot {
    /// OID of the database, 0 for a free slot.
    pub(crate) database: u32,
    /// Process id while a healer runs, else 0.
    pub(crate) pid: i32,
    /// A start is wanted.
    pub(crate) wanted: bool,
    /// Actions of this database that are approved, executing or verifying.
    pub(crate) actions: u32,
    /// Workers of this database that were asked for and are not among `workers` yet.
    pub(crate) starting: u32,
    /// Sum of the impacts of its actions that have a worker.
    pub(crate) impact: f32,
    /// Those of them that build an index.
    pub(crate) builds: u32,
    /// Process ids of the workers of this database, 0 for none; those beyond are not known here.
    pub(crate) workers: [i32; WORKERS_MAX],
    /// Process ids of those that hold the locks of its leases, 0 for none.
    pub(crate) holders: [i32; HOLDERS_MAX],
    /// No start before this, in PostgreSQL microseconds: somebody needs the database to have no sessions.
    pub(crate) aside_until: i64,
}

#[derive(Clone, Copy)]
pub(crate) struct Healers {
    pub(crate) slots: [HealerSlot; HEALERS_MAX],
}

impl Default for Healers {
    fn default() -> Self {
        Healers { slots: [HealerSlot::default(); HEALERS_MAX] }
    }
}

// SAFETY: plain old data without pointers, copied as a whole.
unsafe impl PGRXSharedMemory for Healers {}

impl Healers {
    /// The slot of a database, taking a free one if it has none.
    pub(crate) fn slot(&mut self, database: u32) -> Option<&mut HealerSlot> {
        let at = (self.slots.iter().position(|s| s.database == database))
            .or_else(|| self.slots.iter().position(|s| s.database == 0))?;
        let slot = &mut self.slots[at];
        if slot.database != database {
            *slot = HealerSlot { database, ..HealerSlot::default() };
        }
        Some(slot)
    }
}

#[derive(Clone, Copy, Default)]
struct Effort {
    database: u32,
    index: u32,
    effort: i32,
}

#[derive(Clone, Copy)]
pub(crate) struct Efforts {
    entries: [Effort; EFFORTS_MAX],
    used: usize,
}

impl Default for Efforts {
    fn default() -> Self {
        Efforts { entries: [Effort::default(); EFFORTS_MAX], used: 0 }
    }
}

// SAFETY: plain old data without pointers, copied as a whole.
unsafe impl PGRXSharedMemory for Efforts {}

/// Actions in flight on the whole server.
pub(crate) fn actions_in_flight() -> u32 {
    HEALERS.share().slots.iter().map(|slot| slot.actions).sum()
}

/// Sets the actions in flight of a database to what its tables say, with the impact and the builds of those that have a
/// worker.
pub(crate) fn set_actions_in_flight(database: u32, actions: u32, impact: f32, builds: u32) {
    if let Some(slot) = HEALERS.exclusive().slot(database) {
        (slot.actions, slot.impact, slot.builds) = (actions, impact, builds);
    }
}

/// Impact and builds of all actions of the server that have a worker.
pub(crate) fn running() -> (f64, u32) {
    let healers = HEALERS.share();
    let impact = healers.slots.iter().map(|slot| f64::from(slot.impact)).sum();
    (impact, healers.slots.iter().map(|slot| slot.builds).sum())
}

/// Whether this process is a worker of ours.
pub(crate) fn is_worker(pid: i32) -> bool {
    pid != 0 && HEALERS.share().slots.iter().any(|slot| slot.workers.contains(&pid))
}

/// Counts one more action of a database.
pub(crate) fn action_begins(database: u32) {
    if let Some(slot) = HEALERS.exclusive().slot(database) {
        slot.actions += 1;
    }
}

/// Notes this process as a worker of a database until it ends.
pub(crate) fn worker_begins(database: u32) {
    // SAFETY: own process id, own exit callback.
    let pid = unsafe { pg_sys::MyProcPid };
    if let Some(slot) = HEALERS.exclusive().slot(database)
        && let Some(free) = slot.workers.iter_mut().find(|worker| **worker == 0)
    {
        *free = pid;
        slot.starting = slot.starting.saturating_sub(1);
    }
    unsafe { pg_sys::before_shmem_exit(Some(worker_ends), pg_sys::Datum::null()) }
}

/// Notes this process as one that holds the lock of a lease, until it ends. False where so many do already that another could
/// not be told to step aside.
pub(crate) fn holder_begins(database: u32) -> bool {
    // SAFETY: own process id, own exit callback.
    let pid = unsafe { pg_sys::MyProcPid };
    // SAFETY: no preconditions.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let noted = HEALERS.exclusive().slot(database).is_some_and(|slot| {
        // Somebody needs the database to have no sessions.
        let free = slot.holders.iter_mut().find(|holder| **holder == 0).filter(|_| slot.aside_until <= now);
        free.map(|free| *free = pid).is_some()
    });
    unsafe { pg_sys::before_shmem_exit(Some(worker_ends), pg_sys::Datum::null()) }
    noted
}

/// Whether one more process may hold the lock of a lease in a database now.
pub(crate) fn has_room_for_holder(database: u32) -> bool {
    HEALERS.exclusive().slot(database).is_some_and(|slot| slot.holders.contains(&0))
}

impl HealerSlot {
    /// Every process of ours in this database but the healer.
    pub(crate) fn helpers(&self) -> impl Iterator<Item = i32> + '_ {
        self.workers.iter().chain(&self.holders).copied().filter(|pid| *pid != 0)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn worker_ends(_code: i32, _argument: pg_sys::Datum) {
    let pid = pg_sys::MyProcPid;
    let mut healers = HEALERS.exclusive();
    let own = healers.slots.iter_mut().flat_map(|slot| slot.workers.iter_mut().chain(&mut slot.holders));
    own.filter(|helper| **helper == pid).for_each(|helper| *helper = 0);
}

/// Workers that run or are about to on the whole server.
pub(crate) fn workers() -> u32 {
    count_workers(&HEALERS.share())
}

fn count_workers(healers: &Healers) -> u32 {
    let of = |slot: &HealerSlot| slot.workers.iter().filter(|worker| **worker != 0).count() as u32;
    healers.slots.iter().map(|slot| of(slot) + slot.starting).sum()
}

/// Sets how many workers of a database were asked for and do not run yet.
pub(crate) fn set_starting(database: u32, starting: u32) {
    if let Some(slot) = HEALERS.exclusive().slot(database) {
        slot.starting = starting;
    }
}

/// Counts one more worker of a database as about to run, with its impact and build, if there are still as many on the
/// server as when it was found that there is room for it.
pub(crate) fn reserve_worker(database: u32, found: u32, impact: f32, builds: u32) -> bool {
    let mut healers = HEALERS.exclusive();
    if count_workers(&healers) > found {
        return false;
    }
    let Some(slot) = healers.slot(database) else { return false };
    slot.starting += 1;
    slot.impact += impact;
    slot.builds += builds;
    true
}

/// Frees the slots of databases that have no healer, want none and need not be kept away from, and those of databases
/// that are not there any more.
pub(crate) fn free_slots(databases: &[u32]) {
    // SAFETY: no preconditions.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    for slot in &mut HEALERS.exclusive().slots {
        let idle = slot.pid == 0 && slot.helpers().next().is_none() && slot.aside_until < now;
        if idle && (!slot.wanted || !databases.contains(&slot.database)) {
            *slot = HealerSlot::default();
        }
    }
}

pub(crate) static HEALERS: PgLwLock<Healers> = unsafe { PgLwLock::new(c"ruvector_healers") };
static EFFORTS: PgLwLock<Efforts> = unsafe { PgLwLock::new(c"ruvector_efforts") };
/// Entries in `EFFORTS`; 0 lets the executor hook return after one relaxed load.
static EFFORT_COUNT: PgAtomic<AtomicU32> = unsafe { PgAtomic::new(c"ruvector_effort_count") };
/// Process id of the launcher, 0 when it does not run.
pub(crate) static LAUNCHER_PID: PgAtomic<AtomicI32> = unsafe { PgAtomic::new(c"ruvector_launcher_pid") };

/// The worker in reserve, and what it is asked to carry out.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reserve {
    /// Its process id, 0 when it does not run.
    pub(crate) pid: i32,
    /// OID of the database that it is asked for, 0 while it waits.
    pub(crate) database: u32,
    /// The action.
    pub(crate) action: i64,
}

// SAFETY: plain old data without pointers, copied as a whole.
unsafe impl PGRXSharedMemory for Reserve {}

pub(crate) static RESERVE: PgLwLock<Reserve> = unsafe { PgLwLock::new(c"ruvector_reserve") };

/// In each process: the postmaster had this library preloaded, so the statics above are usable.
static PRELOADED: AtomicBool = AtomicBool::new(false);

pub(crate) fn preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

pub(crate) fn init() {
    pg_shmem_init!(HEALERS);
    pg_shmem_init!(EFFORTS);
    pg_shmem_init!(EFFORT_COUNT);
    pg_shmem_init!(LAUNCHER_PID);
    pg_shmem_init!(RESERVE);
    crate::throttle::init();
    PRELOADED.store(true, Ordering::Relaxed);
}

/// Whether any index of the server has a managed effort.
pub(crate) fn any_effort() -> bool {
    EFFORT_COUNT.get().load(Ordering::Relaxed) > 0
}

/// The managed effort of an index of a database.
pub(crate) fn effort_of(database: u32, index: u32) -> Option<i32> {
    if !preloaded() || !any_effort() {
        return None;
    }
    let table = EFFORTS.share();
    let all = &table.entries[..table.used];
    let at = all.binary_search_by_key(&(database, index), |entry| (entry.database, entry.index)).ok()?;
    Some(all[at].effort)
}

/// Whether so many efforts of a database fit beside those of the others.
pub(crate) fn efforts_fit(database: u32, efforts: usize) -> bool {
    let table = EFFORTS.share();
    let others = table.entries[..table.used].iter().filter(|entry| entry.database != database).count();
    others + efforts <= EFFORTS_MAX
}

/// Replaces all efforts of a database where they are not these.
pub(crate) fn update_efforts(database: u32, wanted: &[(u32, i32)]) {
    let same = {
        let table = EFFORTS.share();
        let own = table.entries[..table.used].iter().filter(|entry| entry.database == database);
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        own.map(|entry| (entry.index, entry.effort)).eq(wanted)
    };
    if !same {
        set_efforts(database, wanted);
    }
}

/// Replaces all efforts of a database. Returns how many did not fit.
pub(crate) fn set_efforts(database: u32, wanted: &[(u32, i32)]) -> usize {
    let mut table = EFFORTS.exclusive();
    let mut kept = 0;
    for at in 0..table.used {
        if table.entries[at].database != database {
            table.entries[kept] = table.entries[at];
            kept += 1;
        }
    }
    let room = EFFORTS_MAX - kept;
    for &(index, effort) in wanted.iter().take(room) {
        table.entries[kept] = Effort { database, index, effort };
        kept += 1;
    }
    table.used = kept;
    table.entries[..kept].sort_unstable_by_key(|entry| (entry.database, entry.index));
    EFFORT_COUNT.get().store(kept as u32, Ordering::Relaxed);
    wanted.len().saturating_sub(room)
}
