//! The launcher: keeps one healer running in every database that wants one.
//!
//! It cannot see which databases have the extension, so it tries each database once (after its own start, and when
//! a new one appears); a healer that finds no extension ends and takes its wish back. `CREATE EXTENSION` and every
//! other call that matters wish again.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgrx::prelude::*;

use super::process::{self, Child, ChildState};
use crate::{settings, shared};

/// How often new databases are looked for, seconds.
const SCAN_INTERVAL_S: u64 = 60;
/// Pause before a healer that ended is started again, microseconds: a crash loop must not eat a core.
const RESTART_PAUSE_US: i64 = 3_000_000;

pub(super) fn run() {
    process::start(None, c"ruvector launcher");
    // SAFETY: own process id, own exit callback.
    unsafe {
        shared::LAUNCHER_PID.get().store(pg_sys::MyProcPid, Ordering::Relaxed);
        pg_sys::before_shmem_exit(Some(forget_launcher), pg_sys::Datum::null());
    }
    let mut seen = Vec::new();
    let mut names: HashMap<u32, String> = HashMap::new();
    let mut scanned_at = 0;
    // Databases that are left out have a healer once: it ends what was paused there before, and goes.
    let mut once: Option<Vec<u32>> = None;
    let mut children: HashMap<u32, (Child, i64)> = HashMap::new();
    loop {
        let now = now_us();
        // One that is left out by the settings is new when they name it again.
        let left_out = |database: &u32| names.get(database).is_none_or(|name| !settings::watches(name));
        if seen.iter().any(left_out) {
            seen.retain(|database| !left_out(database));
            scanned_at = 0;
        }
        if now - scanned_at >= SCAN_INTERVAL_S as i64 * 1_000_000 {
            names = databases();
            let databases: Vec<u32> = names.keys().copied().collect();
            shared::free_slots(&databases);
            let watched = |database: &u32| names.get(database).is_some_and(|name| settings::watches(name));
            for database in databases.iter().copied().filter(watched) {
                if !seen.contains(&database) {
                    seen.push(database);
                    wish(database);
                }
            }
            once.get_or_insert_with(|| {
                databases.into_iter().filter(|database| !watched(database) && has_room(*database)).collect()
            });
            scanned_at = now;
        }
        let mut next = Duration::from_secs(SCAN_INTERVAL_S);
        for database in wished(now) {
            // One made since the last scan is not known by its name yet: its healer looks itself.
            let is_left_out = names.get(&database).is_some_and(|name| !settings::watches(name));
            if is_left_out && !once.as_ref().is_some_and(|once| once.contains(&database)) {
                continue;
            }
            if let Some((child, started_at)) = children.get(&database) {
                if child.state() != ChildState::Ended {
                    continue;
                }
                let wait = started_at + RESTART_PAUSE_US - now;
                if wait > 0 {
                    next = next.min(Duration::from_micros(wait as u64));
                    continue;
                }
            }
            match Child::start(
                &format!("ruvector healer {database}"),
                "ruvector_healer_main",
                database.into(),
                "",
            ) {
                Some(child) => {
                    children.insert(database, (child, now));
                    once.iter_mut().for_each(|once| once.retain(|other| *other != database));
                    // Its end wakes us through the notification signal; look again soon in case it never starts.
                    next = next.min(Duration::from_secs(5));
                }
                None => {
                    pgrx::warning!(
                        "ruvector: no free background worker for database {database}, trying again; raise max_worker_processes"
                    );
                    next = next.min(Duration::from_secs(10));
                }
            }
        }
        children.retain(|_, (child, started_at)| {
            child.state() != ChildState::Ended || now - *started_at < RESTART_PAUSE_US
        });
        if has_aside(now) {
            next = next.min(Duration::from_secs(1));
        }
        process::sleep(next);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn forget_launcher(_code: i32, _argument: pg_sys::Datum) {
    shared::LAUNCHER_PID.get().store(0, Ordering::Relaxed);
}

fn now_us() -> i64 {
    // SAFETY: no preconditions.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

fn wish(database: u32) {
    let full = match shared::HEALERS.exclusive().slot(database) {
        Some(slot) => {
            slot.wanted = true;
            false
        }
        None => true,
    };
    if full {
        pgrx::warning!(
            "ruvector: more than {} databases, none is left to watch database {database}",
            shared::HEALERS_MAX
        );
    }
}

/// Wishes for a healer of this database, if there is a slot for it.
fn has_room(database: u32) -> bool {
    shared::HEALERS.exclusive().slot(database).map(|slot| slot.wanted = true).is_some()
}

fn wished(now: i64) -> Vec<u32> {
    let healers = shared::HEALERS.share();
    healers
        .slots
        .iter()
        .filter(|slot| slot.database != 0 && slot.wanted && slot.pid == 0 && slot.aside_until <= now)
        .map(|slot| slot.database)
        .collect()
}

fn has_aside(now: i64) -> bool {
    shared::HEALERS.share().slots.iter().any(|slot| slot.wanted && slot.aside_until > now)
}

/// OIDs and names of the databases that accept connections (the scan of autovacuum's launcher, `get_database_list`).
fn databases() -> HashMap<u32, String> {
    let mut found = HashMap::new();
    // SAFETY: a catalog scan in a transaction of its own; the shared catalogs are all this process can see.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let catalog = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(catalog, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if (*row).datallowconn {
                let name = std::ffi::CStr::from_ptr((*row).datname.data.as_ptr());
                found.insert((*row).oid.to_u32(), name.to_string_lossy().into_owned());
            }
        }
        ((*(*scan).rs_rd).rd_tableam.as_ref())
            .and_then(|am| am.scan_end)
            .into_iter()
            .for_each(|end| end(scan));
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
    }
    found
}
