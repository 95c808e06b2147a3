//! The healer's care for the workers of its database: starts one for each action that has none, stops those whose
//! time is over, whom a human wants stopped or who stand in a session's way, and lets plans expire that nobody approved.

use std::collections::HashMap;

use healing::config::Config;
use healing::lifecycle::Status;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;

use super::action::{LOCK_CLASS, LOCK_KIND};
use super::process::{Child, ChildState};
use crate::error::Error;
use crate::transaction::transaction;
use crate::{collect, journal, shared};

/// How long a session may wait for a lock that a worker holds, seconds.
const WAIT_MAX_S: f64 = 1.0;

/// Actions that may run at a time on this server.
fn max_concurrent() -> Result<usize, Error> {
    let server = transaction(|| {
        Ok(Spi::get_one::<pgrx::JsonB>("SELECT ruvector._server_settings()")?.map(|JsonB(value)| value))
    })?;
    let config = Config::layered(&server.unwrap_or_default(), &serde_json::json!({}))
        .map_err(|error| Error::refused(error.to_string()))?;
    Ok(config.max_concurrent_actions as usize)
}

/// The workers that this healer started.
#[derive(Default)]
pub(super) struct Workers(HashMap<i64, Child>);

#[derive(Deserialize)]
struct InFlight {
    id: i64,
    status: Status,
    /// Process that holds the action's lock.
    pid: Option<i32>,
    overdue: bool,
    /// A human wants it stopped and its worker was not told yet.
    stop_wanted: bool,
    /// It was asked to stop before.
    stopping: bool,
    keep: bool,
    /// A session waits for a lock that its worker holds: for longer than it should, or while the worker waits for that
    /// session (a deadlock, or soon one).
    in_the_way: bool,
}

impl Workers {
    /// Looks after all actions of this database.
    pub(super) fn supervise(&mut self) -> Result<(), Error> {
        let in_flight: Vec<InFlight> = transaction(|| {
            expire()?;
            collect::documents(
                "SELECT jsonb_build_object('id', a.id, 'status', a.status, 'pid', l.pid, 'keep', a.keep,
                        'overdue', coalesce(clock_timestamp() > a.deadline, false),
                        'stopping', a.stop_reason IS NOT NULL,
                        'in_the_way', EXISTS (SELECT FROM pg_locks other JOIN pg_stat_activity s ON s.pid = other.pid
                                               WHERE NOT other.granted AND other.locktype = 'relation' AND other.pid <> l.pid
                                                 AND s.backend_type <> 'autovacuum worker'
                                                 AND l.pid = ANY (pg_blocking_pids(other.pid))
                                                 AND (other.waitstart < clock_timestamp() - make_interval(secs => $2)
                                                      OR other.pid = ANY (pg_blocking_pids(l.pid)))),
                        'stop_wanted', a.stop_reason IS NOT NULL AND l.pid IS NOT NULL
                                       AND EXISTS (SELECT FROM pg_stat_activity s
                                                    WHERE s.pid = l.pid AND s.backend_start < a.stop_asked_at))
                   FROM ruvector.actions a
                   LEFT JOIN pg_locks l ON l.locktype = 'advisory' AND l.granted AND l.classid = $1 AND l.objid::bigint = a.id
                        AND l.objsubid = $3 AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                  WHERE a.status IN ('approved', 'executing', 'verifying') ORDER BY a.id",
                &[pg_sys::Oid::from(LOCK_CLASS).into(), WAIT_MAX_S.into(), LOCK_KIND.into()],
            )
        })?;
        self.0.retain(|id, child| {
            child.state() != ChildState::Ended && in_flight.iter().any(|action| action.id == *id)
        });
        // SAFETY: no preconditions.
        shared::set_actions_in_flight(unsafe { pg_sys::MyDatabaseId }.to_u32(), in_flight.len() as u32);
        for action in &in_flight {
            self.look_after(action)?;
        }
        Ok(())
    }

    fn look_after(&mut self, action: &InFlight) -> Result<(), Error> {
        let id = action.id;
        if let Some(pid) = action.pid {
            // PostgreSQL ends whichever of two deadlocked sessions looks last, after `deadlock_timeout`; it must not be
            // the user's.
            let reason = if action.in_the_way {
                Some("yield")
            } else if action.overdue {
                Some("timeout")
            } else {
                None
            };
            if let (Some(reason), false, false) = (reason, action.stopping, action.keep) {
                transaction(|| {
                    Ok(Spi::run_with_args(
                        "UPDATE ruvector.actions SET stop_reason = $2, stop_asked_at = clock_timestamp()
                          WHERE id = $1 AND NOT keep",
                        &[id.into(), reason.into()],
                    )?)
                })?;
                return terminate(pid);
            }
            if action.stop_wanted && !action.keep {
                return terminate(pid);
            }
            return Ok(());
        }
        if self.0.contains_key(&id) {
            // Started, and its lock not yet taken.
            return Ok(());
        }
        if action.status == Status::Approved && action.stopping {
            return transaction(|| journal::give_up(id, "aborted before it began"));
        }
        // What a human approved also waits for its turn on this server.
        if action.status == Status::Approved && shared::workers() >= max_concurrent()? {
            return Ok(());
        }
        // SAFETY: no preconditions.
        let database = unsafe { pg_sys::MyDatabaseId };
        match Child::start("ruvector action", "ruvector_action_main", database, &id.to_string()) {
            Some(child) => {
                self.0.insert(id, child);
            }
            None => pgrx::warning!(
                "ruvector: no free background worker for action {id}, trying again; raise max_worker_processes"
            ),
        }
        Ok(())
    }
}

/// Ends plans that nobody approved in time, and requests that waited as long for another action.
fn expire() -> Result<(), Error> {
    Ok(Spi::run(
        "UPDATE ruvector.actions a
            SET status = 'expired', ended_at = clock_timestamp(),
                detail = CASE a.status WHEN 'proposed' THEN detail ELSE 'nobody approved it in time' END
           FROM ruvector.collections c
          WHERE a.status IN ('proposed', 'awaiting_approval') AND c.id = a.collection_id
            AND coalesce(a.decided_at, a.requested_at) + make_interval(secs =>
                    (ruvector._effective_settings(ruvector._server_settings(), c.settings) ->> 'approval_timeout_seconds')::float8)
                < clock_timestamp()",
    )?)
}

fn terminate(pid: i32) -> Result<(), Error> {
    transaction(|| Ok(Spi::run_with_args("SELECT pg_terminate_backend($1)", &[pid.into()])?))
}
