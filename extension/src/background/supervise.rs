//! The healer's care for the workers of its database: starts one for each action that has none, stops those whose
//! time is over, whom a human wants stopped or who stand in a session's way, and lets plans expire that nobody approved.

use std::collections::HashMap;

use healing::classify::Problem;
use healing::engine::{self, Begin, BeginInput, Planned, Request, begin};
use healing::lifecycle::Status;
use healing::plan::Plan;
use healing::recovery::{STARTS_MAX, Start, given_up, start};
use healing::snapshot::{Snapshot, UnixMs};
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::action::{LOCK_CLASS, LOCK_KIND};
use super::process::{Child, ChildState};
use super::{arms, decide, reserve};
use crate::audit::{self, Happened};
use crate::collect::Collection;
use crate::error::Error;
use crate::journal::Ending;
use crate::transaction::transaction;
use crate::{collect, journal, kept, shared};

/// How long a session may wait for a lock that a worker holds, seconds.
const WAIT_MAX_S: f64 = 1.0;

/// What was decided for an approved action, and what has been seen since.
#[derive(Deserialize)]
struct Waiting {
    problem: Problem,
    plan: Plan,
    request: Request,
    snapshot: Snapshot,
    since: UnixMs,
}

/// Whether an action that was approved may begin now; and why a rollback has no way any more. One of which a worker died before
/// it began is still counted among those that run: not against itself.
fn may_begin(action: &InFlight, collection: &Collection) -> Result<(Begin, Option<String>), Error> {
    let id = action.id;
    let waiting: Option<Waiting> = collect::documents(
        "SELECT jsonb_build_object('problem', a.problem, 'plan', a.plan, 'request', a.request, 'snapshot', i.snapshot,
                'since', (extract(epoch FROM coalesce(a.approved_at, a.decided_at)) * 1000)::bigint)
           FROM ruvector.actions a JOIN ruvector.integrity i ON i.collection_id = a.collection_id WHERE a.id = $1",
        &[id.into()],
    )?
    .pop();
    let Some(Waiting { problem, plan, request, snapshot, since }) = waiting else {
        return Err(Error::refused("it was not decided"));
    };
    let config = collection.config()?;
    let gone = match &request {
        Request::Rollback { of } => decide::way_back_is_gone(*of, &plan, &snapshot, &config)?,
        _ => None,
    };
    let (mut impact, mut builds) = shared::running();
    if action.starts > 0 {
        impact = (impact - f64::from(action.impact)).max(0.0);
        builds = builds.saturating_sub(u32::from(action.builds));
    }
    let begins = begin(&BeginInput {
        config: &config,
        snapshot: &snapshot,
        planned: &Planned { problem, plan },
        request: &request,
        arms: &arms::of(collection.id)?,
        in_flight: engine::InFlight {
            this_table: journal::unfinished(collection.id)?,
            server: shared::workers(),
            impact,
            builds,
        },
        since,
        now: collect::now_ms(),
    });
    Ok((begins, gone))
}

/// Ends an action that no worker could bring to its end.
fn give_up(action: &InFlight) -> Result<(), Error> {
    let why = format!("{STARTS_MAX} workers ended without an end of it; the server's log says why");
    if action.status == Status::Approved {
        return journal::give_up(action.id, Status::Aborted, &why);
    }
    // What no worker could read is not readable here either.
    let stored = journal::load(action.id).ok().flatten();
    let known = stored.zip(collect::collection(action.collection)?);
    let Some((stored, collection)) = known else {
        return Ok(Spi::run_with_args(
            // Once it was to exchange names, the user's own index may be hidden: nothing else acts on the table then.
            "UPDATE ruvector.actions a
                SET status = 'failed', ended_at = clock_timestamp(), error = $2, retry_at = clock_timestamp() + interval '1 day',
                    unfinished = EXISTS (SELECT FROM ruvector.action_steps s
                                          WHERE s.action_id = a.id AND s.step ->> 'kind' = 'swap_index') WHERE id = $1",
            &[action.id.into(), why.as_str().into()],
        )?);
    };
    let (status, lesson) = given_up(&stored.plan, &journal::entries(action.id)?, stored.keep);
    journal::end(
        &stored,
        &Ending {
            status,
            lesson,
            verification: stored.verification.as_ref(),
            error: Some(&why),
            final_lambda: None,
            story: &why,
            system_metrics: journal::system_metrics(&stored.before, None),
        },
    )?;
    // Taking something back is no attempt of a remedy.
    if stored.takes_back.is_some() {
        return Ok(());
    }
    arms::record(collection.id, &stored.plan.strategy, lesson, collect::now_ms(), &collection.config()?)
}

/// A worker of an action.
enum Started {
    /// One of its own.
    Own(Child),
    /// The one in reserve.
    Reserve,
}

impl Started {
    fn has_ended(&self, id: i64) -> bool {
        match self {
            Started::Own(child) => child.state() == ChildState::Ended,
            Started::Reserve => !reserve::has(database(), id),
        }
    }
}

/// The workers that this healer started.
#[derive(Default)]
pub(super) struct Workers {
    children: HashMap<i64, Started>,
    /// It was said that no worker is free.
    said_busy: bool,
    any: bool,
}

#[derive(Deserialize)]
struct InFlight {
    id: i64,
    collection: i32,
    status: Status,
    /// Workers that it had, and when the last one was started.
    starts: u32,
    last_start: Option<UnixMs>,
    /// Process that holds the action's lock.
    pid: Option<i32>,
    overdue: bool,
    /// It has ended and left something, which was tried so often and is due again.
    unfinished: bool,
    retries: u32,
    retry_due: bool,
    /// Its plan's disruption, and whether it builds an index.
    impact: f32,
    builds: bool,
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
    /// Whether any action of this database is under way.
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// Looks after all actions of this database.
    pub(super) fn supervise(&mut self) -> Result<(), Error> {
        // A human's transaction that holds one of them must not keep the others from being looked after.
        let own = [
            ("plans that expire", transaction(expire)),
            ("the off switch", transaction(stop_what_is_switched_off)),
        ];
        for (what, result) in own {
            if let Err(error) = result {
                pgrx::warning!("ruvector: {what}: {error}");
            }
        }
        let in_flight: Vec<InFlight> = transaction(|| {
            collect::documents(
                "SELECT jsonb_build_object('id', a.id, 'collection', a.collection_id, 'status', a.status, 'pid', l.pid,
                        'keep', a.keep, 'starts', a.starts, 'impact', coalesce((a.plan ->> 'impact')::float8, 0),
                        'builds', EXISTS (SELECT FROM jsonb_array_elements(a.plan -> 'steps') b
                                           WHERE b ->> 'kind' IN ('build_index', 'reindex_concurrently')),
                        'last_start', (extract(epoch FROM a.last_start) * 1000)::bigint,
                        'overdue', coalesce(clock_timestamp() > greatest(a.deadline,
                               -- Each worker has the plan's time, also one that recovers.
                               w.backend_start + make_interval(secs => (a.plan ->> 'timeout_s')::float8)), false),
                        'stopping', a.stop_reason IS NOT NULL,
                        'unfinished', a.unfinished, 'retries', a.retries,
                        'retry_due', coalesce(clock_timestamp() > a.retry_at, false) AND NOT EXISTS (SELECT FROM ruvector.actions o
                               WHERE o.collection_id = a.collection_id AND o.status IN ('executing', 'verifying')),
                        -- Who waits for a relation that the worker has or wants: pg_blocking_pids is not cheap. Or, building or
                        -- dropping an index elsewhere, for its snapshot; two workers of ours do not send each other away.
                        'in_the_way', EXISTS (SELECT FROM pg_locks other JOIN pg_stat_activity s ON s.pid = other.pid
                                               WHERE NOT other.granted AND other.pid <> l.pid
                                                 -- It passes over what is locked, and comes again; but against wraparound it waits.
                                                 AND (s.backend_type <> 'autovacuum worker' OR s.query LIKE '%(to prevent wraparound)')
                                                 AND (other.locktype = 'relation'
                                                      AND EXISTS (SELECT FROM pg_locks mine WHERE mine.pid = l.pid AND mine.locktype = 'relation'
                                                                     AND (mine.database, mine.relation) = (other.database, other.relation))
                                                      OR other.locktype = 'virtualxid' AND s.backend_type <> 'ruvector action')
                                                 AND l.pid = ANY (pg_blocking_pids(other.pid))
                                                 AND (other.waitstart < clock_timestamp() - make_interval(secs => $2)
                                                      OR other.pid = ANY (pg_blocking_pids(l.pid)))),
                        'stop_wanted', a.stop_reason IS NOT NULL AND l.pid IS NOT NULL
                                       AND EXISTS (SELECT FROM pg_stat_activity s
                                                    WHERE s.pid = l.pid AND s.backend_start < a.stop_asked_at))
                   FROM ruvector.actions a
                   LEFT JOIN pg_locks l ON l.locktype = 'advisory' AND l.granted AND l.classid = $1 AND l.objid::bigint = a.id
                        AND l.objsubid = $3 AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                   LEFT JOIN pg_stat_activity w ON w.pid = l.pid
                  WHERE a.status IN ('approved', 'executing', 'verifying') OR a.unfinished ORDER BY a.id",
                &[pg_sys::Oid::from(LOCK_CLASS).into(), WAIT_MAX_S.into(), LOCK_KIND.into()],
            )
        })?;
        self.children
            .retain(|id, child| !child.has_ended(*id) && in_flight.iter().any(|action| action.id == *id));
        self.any = in_flight.iter().any(|action| !action.unfinished || action.pid.is_some());
        transaction(decide::count_in_flight)?;
        let starting =
            in_flight.iter().filter(|a| a.pid.is_none() && self.children.contains_key(&a.id)).count();
        shared::set_starting(database(), starting as u32);
        for action in &in_flight {
            // One that cannot be looked after is no reason to leave the others alone.
            if let Err(error) = self.look_after(action) {
                pgrx::warning!("ruvector: action {}: {error}", action.id);
            }
        }
        Ok(())
    }

    fn look_after(&mut self, action: &InFlight) -> Result<(), Error> {
        let id = action.id;
        if let Some(pid) = action.pid {
            if action.stop_wanted && !action.keep {
                return terminate(pid);
            }
            // What undoes, or drops what is left, tries again after a pause.
            if action.keep || action.stopping || action.unfinished {
                return match (action.overdue, action.in_the_way) {
                    (true, _) => terminate(pid),
                    (false, true) => cancel(pid),
                    (false, false) => Ok(()),
                };
            }
            // PostgreSQL ends whichever of two deadlocked sessions looks last, after `deadlock_timeout`; it must not be
            // the user's.
            let reason = if action.in_the_way {
                Some("yield")
            } else if action.overdue {
                Some("timeout")
            } else {
                None
            };
            if let Some(reason) = reason {
                transaction(|| {
                    Ok(Spi::run_with_args(
                        "UPDATE ruvector.actions SET stop_reason = $2, stop_asked_at = clock_timestamp()
                          WHERE id = $1 AND NOT keep",
                        &[id.into(), reason.into()],
                    )?)
                })?;
                return terminate(pid);
            }
            return Ok(());
        }
        if self.children.contains_key(&id) {
            // Started, and its lock not yet taken.
            return Ok(());
        }
        if action.unfinished {
            return self.retry(action);
        }
        if action.status == Status::Approved && action.stopping {
            return transaction(|| journal::give_up(id, Status::Aborted, "aborted before it began"));
        }
        match start(action.starts, action.last_start, collect::now_ms()) {
            Start::Now => {}
            Start::NotBefore { .. } => return Ok(()),
            Start::GiveUp => {
                pgrx::warning!("ruvector: action {id} is given up after {} workers", action.starts);
                return transaction(|| give_up(action));
            }
        }
        let workers = shared::workers();
        if action.status == Status::Approved
            && let Some(collection) = transaction(|| collect::collection(action.collection))?
        {
            if let Some(why) = transaction(|| collect::overlaps(&collection))? {
                return transaction(|| journal::give_up(id, Status::Expired, &why));
            }
            match transaction(|| may_begin(action, &collection)) {
                Ok((Begin::Now, None)) => {}
                Ok((Begin::Now, Some(why))) => {
                    return transaction(|| journal::give_up(id, Status::Expired, &why));
                }
                Ok((Begin::Wait { .. }, _)) => return Ok(()),
                Ok((Begin::Never { status, reason }, _)) => {
                    return transaction(|| journal::give_up(id, status, reason.explain()));
                }
                // An extension of another version wrote it.
                Err(Error::Stored(error)) => {
                    let why = format!("its plan cannot be read: {error}");
                    return transaction(|| journal::give_up(id, Status::Aborted, &why));
                }
                Err(error) => return Err(error),
            }
        }
        // Two that were found to have room, one after the other or in two databases, have room for one.
        if action.status == Status::Approved
            && !shared::reserve_worker(database(), workers, action.impact, u32::from(action.builds))
        {
            return Ok(());
        }
        if self.start(id) {
            transaction(|| journal::started(id))?;
        }
        Ok(())
    }

    /// Has what an ended action left put right, when that is due.
    fn retry(&mut self, action: &InFlight) -> Result<(), Error> {
        if action.retry_due && self.start(action.id) {
            transaction(|| journal::retried(action.id, action.retries))?;
        }
        Ok(())
    }

    /// Starts a worker for an action; false when none is free.
    fn start(&mut self, id: i64) -> bool {
        let child =
            Child::start("ruvector action", "ruvector_action_main", database().into(), &id.to_string())
                .map(Started::Own)
                .or_else(|| reserve::ask(database(), id).then_some(Started::Reserve));
        if child.is_none() && !self.said_busy {
            pgrx::warning!(
                "ruvector: no free background worker for action {id}, trying again; raise max_worker_processes"
            );
        }
        self.said_busy = child.is_none();
        child.map(|child| self.children.insert(id, child)).is_some()
    }
}

fn database() -> u32 {
    // SAFETY: no preconditions.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// Ends plans that nobody approved in time, and requests that waited as long for another action.
fn expire() -> Result<(), Error> {
    const DUE: &str = "SELECT to_jsonb(a.id)
           FROM ruvector.actions a JOIN ruvector.collections c ON c.id = a.collection_id
          WHERE a.status IN ('proposed', 'awaiting_approval')
            AND coalesce(a.decided_at, a.requested_at) + make_interval(secs =>
                    (ruvector._effective_settings(ruvector._server_settings(), c.settings) ->> 'approval_timeout_seconds')::float8)
                < clock_timestamp() FOR UPDATE OF a SKIP LOCKED";
    let due: Vec<i64> = kept::changed(DUE, &[])?;
    due.into_iter().try_for_each(|id| decide::end_waiting(id, "nobody approved it in time"))
}

/// What runs where healing was switched off is stopped, as by a human; it is undone. An action that takes an earlier one back
/// by its journal goes on: halfway is no place to stop.
fn stop_what_is_switched_off() -> Result<(), Error> {
    const STOP: &str = "UPDATE ruvector.actions a
            SET stop_reason = 'abort', stop_asked_by = 'ruvector', stop_asked_at = clock_timestamp(),
                detail = 'healing was switched off'
          WHERE a.id IN (SELECT o.id FROM ruvector.actions o
                          WHERE o.status IN ('executing', 'verifying') AND NOT o.keep AND o.stop_reason IS NULL
                            AND NOT (o.request ->> 'kind' = 'rollback' AND o.plan -> 'steps' = '[]')
                            AND NOT ruvector._healing_is_on(o.collection_id) FOR UPDATE SKIP LOCKED)
          RETURNING to_jsonb(a.id)";
    let stopped: Vec<i64> = kept::changed(STOP, &[])?;
    stopped.into_iter().try_for_each(|id| {
        audit::note(&Happened {
            event: "aborted",
            action_id: Some(id),
            statement: Some(&format!("SELECT ruvector_healing_abort({id})")),
            details: json!({ "why": "healing was switched off" }),
            ..Happened::default()
        })
    })
}

fn terminate(pid: i32) -> Result<(), Error> {
    transaction(|| Ok(Spi::run_with_args("SELECT pg_terminate_backend($1)", &[pid.into()])?))
}

/// Ends what the worker does at this moment, not the worker.
fn cancel(pid: i32) -> Result<(), Error> {
    transaction(|| Ok(Spi::run_with_args("SELECT pg_cancel_backend($1)", &[pid.into()])?))
}
