//! Where new rows of managed collections go: the shares of `ruvector.routing` in shared memory, for `ruvector_route()`.
//!
//! A cache only. Without it (not loaded yet, full, the library not preloaded) the SQL function reads the table.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};
use serde::Deserialize;

use crate::error::Error;
use crate::{collect, kept, settings, shared};

/// Managed collections of the whole server that are kept; further ones are routed by the table. 64 × 600 bytes.
const ROUTES_MAX: usize = 64;
/// Partitions of one collection; `ruvector_collection_create()` makes no more, the cold one apart.
const PARTITIONS_MAX: usize = 64;
/// Longest name, a PostgreSQL identifier's.
const NAME_BYTES_MAX: usize = 63;

#[derive(Clone, Copy)]
struct Route {
    /// OID of the database, 0 for a free entry.
    database: u32,
    name_bytes: u8,
    name: [u8; NAME_BYTES_MAX],
    /// It has a tenant column: sessions with a tenant are routed by the table.
    by_tenant: bool,
    partitions: u8,
    /// When the first of its weights that hold under a lease ends, as PostgreSQL counts time; from then on the table says where,
    /// also where the healer cannot come by.
    until: i64,
    /// Upper end of each partition's part of the numbers from 0 to 2³²−1, ascending, and its number.
    ends: [(u32, i32); PARTITIONS_MAX],
}

impl Route {
    const FREE: Route = Route {
        database: 0,
        name_bytes: 0,
        name: [0; NAME_BYTES_MAX],
        by_tenant: false,
        partitions: 0,
        until: i64::MAX,
        ends: [(0, 0); PARTITIONS_MAX],
    };

    fn is(&self, database: u32, name: &str) -> bool {
        self.database == database && self.name[..self.name_bytes as usize] == *name.as_bytes()
    }

    /// None where it does not fit, or has no share at all.
    fn of(database: u32, row: &Row) -> Option<Route> {
        let whole: f64 = row.shares.iter().map(|(_, share)| share).sum();
        if row.route.len() > NAME_BYTES_MAX
            || row.shares.len() > PARTITIONS_MAX
            || whole.is_nan()
            || whole <= 0.0
        {
            return None;
        }
        let until = row.until.unwrap_or(i64::MAX);
        let mut route = Route { database, by_tenant: row.by_tenant, until, ..Route::FREE };
        route.name_bytes = row.route.len() as u8;
        route.name[..row.route.len()].copy_from_slice(row.route.as_bytes());
        let mut sum = 0.0;
        for (end, (partition, share)) in route.ends.iter_mut().zip(&row.shares) {
            sum += share / whole;
            // A conversion to an integer saturates.
            *end = ((sum * f64::from(u32::MAX)) as u32, *partition);
        }
        route.partitions = row.shares.len() as u8;
        // What rounding leaves belongs to the last one.
        route.ends[row.shares.len() - 1].0 = u32::MAX;
        Some(route)
    }

    fn partition(&self, point: u32) -> Option<i32> {
        // SAFETY: reads the clock.
        if self.until != i64::MAX && unsafe { pg_sys::GetCurrentTimestamp() } >= self.until {
            return None;
        }
        self.ends[..self.partitions as usize]
            .iter()
            .find(|(end, _)| point <= *end)
            .map(|(_, partition)| *partition)
    }
}

#[derive(Clone, Copy)]
struct Routes([Route; ROUTES_MAX]);

impl Default for Routes {
    fn default() -> Self {
        Routes([Route::FREE; ROUTES_MAX])
    }
}

// SAFETY: plain old data without pointers, copied as a whole.
unsafe impl PGRXSharedMemory for Routes {}

static ROUTES: PgLwLock<Routes> = unsafe { PgLwLock::new(c"ruvector_routes") };
/// Entries in use: 0 lets `ruvector_route()` go to the table after one relaxed load.
static ROUTE_COUNT: PgAtomic<AtomicU32> = unsafe { PgAtomic::new(c"ruvector_route_count") };

pub(crate) fn init() {
    pg_shmem_init!(ROUTES);
    pg_shmem_init!(ROUTE_COUNT);
}

#[derive(Deserialize)]
struct Row {
    route: String,
    by_tenant: bool,
    /// Microseconds since 2000 at which the first lease on a weight of it ends.
    until: Option<i64>,
    /// Partitions with a share, and the share.
    shares: Vec<(i32, f64)>,
}

/// Copies the routing of this database into shared memory.
pub(crate) fn load() -> Result<(), Error> {
    end_leases()?;
    let rows: Vec<Row> = collect::documents(
        "SELECT jsonb_build_object('route', m.route, 'by_tenant', m.tenant_column IS NOT NULL,
                'until', (SELECT floor(extract(epoch FROM min(l.lease_until) - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint
                            FROM ruvector.routing l WHERE l.route = m.route),
                'shares', jsonb_agg(jsonb_build_array(r.partition_id, r.share) ORDER BY r.partition_id))
           FROM ruvector.managed m JOIN ruvector.shares r ON r.route = m.route
          WHERE r.share > 0 GROUP BY m.route, m.tenant_column ORDER BY m.route",
        &[],
    )?;
    // SAFETY: no preconditions.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let routes: Vec<Route> = rows.iter().filter_map(|row| Route::of(database, row)).collect();
    replace(database, &routes);
    Ok(())
}

/// Notes the leases that have ended by themselves, but for collections whose weights somebody is setting: their turn comes.
fn end_leases() -> Result<(), Error> {
    kept::change(
        "WITH free AS MATERIALIZED (
             SELECT m.route FROM ruvector.managed m
              WHERE EXISTS (SELECT FROM ruvector.routing e WHERE e.route = m.route AND e.lease_until <= statement_timestamp())
                FOR NO KEY UPDATE SKIP LOCKED)
         UPDATE ruvector.routing r SET (weight, lease_until, weight_after) = (r.weight_after, NULL, NULL)
          WHERE r.lease_until <= statement_timestamp() AND r.route IN (SELECT f.route FROM free f)",
        &[],
    )
}

/// Forgets what is known of a database: its sessions read the table.
pub(crate) fn forget(database: u32) {
    replace(database, &[]);
}

fn replace(database: u32, routes: &[Route]) {
    let mut all = ROUTES.exclusive();
    for entry in all.0.iter_mut().filter(|entry| entry.database == database) {
        *entry = Route::FREE;
    }
    let mut fresh = routes.iter();
    for entry in all.0.iter_mut().filter(|entry| entry.database == 0) {
        match fresh.next() {
            Some(route) => *entry = *route,
            None => break,
        }
    }
    let used = all.0.iter().filter(|entry| entry.database != 0).count();
    ROUTE_COUNT.get().store(used as u32, Ordering::Relaxed);
}

thread_local! {
    /// Where this process is in its sequence of points; 0 before the first.
    static POINT: Cell<u32> = const { Cell::new(0) };
}

/// 2³² ÷ the golden ratio: steps of this size fill a circle as evenly as any sequence does, so that each partition gets its
/// share of any hundred rows and not of a million only.
const STEP: u32 = 0x9E37_79B9;

fn next_point() -> u32 {
    POINT.with(|point| {
        let mut at = point.get();
        if at == 0 {
            // Sessions begin at different points.
            // SAFETY: plain reads of this process.
            at = unsafe { pg_sys::MyProcPid as u32 ^ pg_sys::MyStartTimestamp as u32 }.wrapping_mul(STEP) | 1;
        }
        point.set(at.wrapping_add(STEP));
        at
    })
}

/// A partition for one more row, or NULL where the table must say. Raises nothing.
#[pg_extern(sql = false)]
fn route_shared(route: &str) -> Option<i32> {
    if !shared::preloaded() || ROUTE_COUNT.get().load(Ordering::Relaxed) == 0 {
        return None;
    }
    // SAFETY: no preconditions.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let by_tenant = settings::has_tenant();
    let point = next_point();
    let routes = ROUTES.share();
    let entry = routes.0.iter().find(|entry| entry.is(database, route))?;
    if entry.by_tenant && by_tenant { None } else { entry.partition(point) }
}
