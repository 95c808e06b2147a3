//! The process that keeps autovacuum away from a collection for the time of a lease, by a session-level lock on its tables.
//!
//! Autovacuum passes over a table that is locked; one that is under way there is cancelled by PostgreSQL when the lock is
//! asked for. Vacuum against wraparound does neither: it waits, and this lets go. The lock is gone with the process, whatever
//! ends that, and the lease's end needs nobody else.

use std::collections::HashMap;
use std::time::Duration;

use healing::lease::{LeaseKind, Over, over};
use healing::snapshot::Oid;
use pgrx::prelude::*;

use super::process::{self, Child, ChildState};
use crate::collect;
use crate::error::Error;
use crate::transaction::transaction;
use crate::{kept, leases, shared};

/// How often it is looked whether the lease is over or somebody waits: no session waits for longer.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait for the lock on one table: an autovacuum is cancelled after `deadlock_timeout`, 1 s by default.
const LOCK_TIMEOUT_MS: i64 = 5000;
/// Age of a table, as a share of `autovacuum_freeze_max_age`, above which nothing keeps autovacuum away.
const FREEZE_SHARE: f64 = 0.5;

pub(super) fn run(database: pg_sys::Oid, lease: i64) {
    process::start(Some(database), c"ruvector lease");
    if !shared::holder_begins(database.to_u32()) {
        pgrx::log!("ruvector: lease {lease} waits: too many hold a lock in this database");
        return;
    }
    process::set_lock_timeout(LOCK_TIMEOUT_MS);
    let why = match hold(lease) {
        Ok(why) => why,
        Err(error) => {
            pgrx::log!("ruvector: lease {lease} gives way: {error}");
            Some(Over::GaveWay)
        }
    };
    if let Some(why) = why
        && let Err(error) = transaction(|| leases::end_one(lease, why))
    {
        pgrx::warning!("ruvector: lease {lease}: {error}");
    }
}

/// Holds the tables until the lease is over; why it ended, where nobody has noted that yet.
fn hold(id: i64) -> Result<Option<Over>, Error> {
    let Some(row) = transaction(|| leases::open(id))? else { return Ok(None) };
    let tables = transaction(|| tables(row.collection))?;
    if transaction(|| is_old(&tables))? {
        return Ok(Some(Over::GaveWay));
    }
    if transaction(|| is_too_many(tables.len()))? {
        pgrx::log!(
            "ruvector: lease {id} gives way: {} tables are more locks than one process should hold",
            tables.len()
        );
        return Ok(Some(Over::GaveWay));
    }
    for table in &tables {
        transaction(|| {
            let mut relation = pg_sys::LockRelId {
                relId: (*table).into(),
                // SAFETY: no preconditions.
                dbId: unsafe { pg_sys::MyDatabaseId },
            };
            // SAFETY: a complete tag; a session-level lock outlives the transaction.
            unsafe {
                pg_sys::LockRelationIdForSession(&mut relation, pg_sys::ShareUpdateExclusiveLock as i32);
            }
            Ok(())
        })?;
    }
    transaction(|| leases::note_held(id))?;
    loop {
        process::pause(LOOK);
        let Some(row) = transaction(|| leases::open(id))? else { return Ok(None) };
        if let Some(why) = over(&row.lease, collect::now_ms()) {
            return Ok(Some(why));
        }
        if transaction(|| is_waited_for(&tables))? || transaction(|| is_old(&tables))? {
            return Ok(Some(Over::GaveWay));
        }
    }
}

/// The collection's tables, and then those of their long values, which autovacuum comes to by themselves: VACUUM locks them in that
/// order too.
fn tables(collection: i32) -> Result<Vec<Oid>, Error> {
    collect::documents(
        "SELECT to_jsonb(f.oid::bigint) FROM ruvector.collections c JOIN pg_class t ON t.relkind = 'r'
            AND (t.oid = c.relation OR t.oid IN (SELECT p.relid FROM pg_partition_tree(c.relation) p WHERE p.isleaf))
          CROSS JOIN LATERAL unnest(ARRAY[t.oid, t.reltoastrelid]) f (oid)
          WHERE c.id = $1 AND f.oid <> 0 ORDER BY f.oid <> t.oid, f.oid",
        &[collection.into()],
    )
}

/// Whether one process may hold so many locks: no more than a quarter of the table of locks that all sessions share.
fn is_too_many(locks: usize) -> Result<bool, Error> {
    let query = "SELECT current_setting('max_locks_per_transaction')::bigint
                      * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint) / 4";
    Ok(kept::one::<i64>(query, &[])?.is_some_and(|most| locks as i64 > most))
}

/// Whether any session waits for a lock that this process holds. Only those that wait for one of its tables are asked about:
/// `pg_blocking_pids` is not cheap.
fn is_waited_for(tables: &[Oid]) -> Result<bool, Error> {
    let query = "WITH waiting AS MATERIALIZED (
                     SELECT l.pid FROM pg_locks l
                      WHERE NOT l.granted AND l.locktype = 'relation' AND l.relation = ANY ($1)
                        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
                 SELECT EXISTS (SELECT FROM waiting w WHERE pg_backend_pid() = ANY (pg_blocking_pids(w.pid)))";
    Ok(kept::one(query, &[oids(tables).into()])? == Some(true))
}

/// As an argument of a query.
fn oids(tables: &[Oid]) -> Vec<pg_sys::Oid> {
    tables.iter().map(|table| (*table).into()).collect()
}

/// Whether a table nears the age at which it must be vacuumed against wraparound.
fn is_old(tables: &[Oid]) -> Result<bool, Error> {
    let query = "SELECT EXISTS (SELECT FROM pg_class t WHERE t.oid = ANY ($1) AND
                    (age(t.relfrozenxid) > $2 * current_setting('autovacuum_freeze_max_age')::float8
                     OR mxid_age(t.relminmxid) > $2 * current_setting('autovacuum_multixact_freeze_max_age')::float8))";
    Ok(kept::one(query, &[oids(tables).into(), FREEZE_SHARE.into()])? == Some(true))
}

/// The healer's care for these processes: one for each lease of the kind that is in force.
#[derive(Default)]
pub(super) struct Holders {
    children: HashMap<i64, Child>,
}

impl Holders {
    pub(super) fn supervise(&mut self) -> Result<(), Error> {
        let rows = transaction(leases::all)?;
        self.children.retain(|_, child| child.state() != ChildState::Ended);
        // SAFETY: no preconditions.
        let database = unsafe { pg_sys::MyDatabaseId };
        for row in rows.iter().filter(|row| row.lease.kind == LeaseKind::Autovacuum) {
            let id = row.lease.id;
            if over(&row.lease, collect::now_ms()).is_some() || self.children.contains_key(&id) {
                continue;
            }
            // It waits until another lets go, without being tried in each round.
            if !shared::has_room_for_holder(database.to_u32()) {
                continue;
            }
            // One that an earlier healer started may live.
            if transaction(|| leases::is_held(id))? {
                continue;
            }
            match Child::start("ruvector lease", "ruvector_lease_main", database, &id.to_string()) {
                Some(child) => {
                    self.children.insert(id, child);
                }
                None => pgrx::log!("ruvector: no free background worker for lease {id}, trying again"),
            }
        }
        Ok(())
    }
}
