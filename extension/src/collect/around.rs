//! What a plan's beginning depends on beside the collection: what the server does for others, its clock, its identity.

use std::cell::Cell;

use healing::snapshot::{Activity, Around, Reading};
use serde::Deserialize;

use super::{documents, now_ms};
use crate::error::Error;
use crate::identity;

thread_local! {
    /// WAL position of the look before and when that was, milliseconds.
    static WRITTEN: Cell<Option<(f64, i64)>> = const { Cell::new(None) };
}

/// Shortest time over which WAL is counted, milliseconds.
const SPAN_MIN_MS: i64 = 500;

/// Kinds of processes that are no background worker, of PostgreSQL 15 to 18: what else a session view shows takes one of
/// `max_worker_processes`. A worker that is not attached to any database is not in that view.
const STATE: &str = "
SELECT jsonb_build_object(
    'active', count(*) FILTER (WHERE s.backend_type = 'client backend' AND s.state = 'active' AND s.pid <> pg_backend_pid()),
    'free', greatest(current_setting('max_worker_processes')::integer - count(*) FILTER (WHERE s.backend_type NOT IN (
        'client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer', 'walwriter',
        'walsender', 'walreceiver', 'walsummarizer', 'startup', 'archiver', 'logger', 'io worker', 'slotsync worker',
        'standalone backend')), 0),
    'written', CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 END,
    'utc_offset_s', extract(timezone FROM now())::integer)
  FROM pg_stat_activity s";

#[derive(Deserialize)]
struct State {
    active: u32,
    free: u32,
    written: Option<f64>,
    utc_offset_s: i32,
}

/// Must run in a transaction.
pub(crate) fn around(collection: i32) -> Result<Around, Error> {
    let State { active, free, written, utc_offset_s } = documents(STATE, &[])?
        .pop()
        .ok_or_else(|| Error::refused("the server's activity could not be read"))?;
    // Respects the processors and the quota that a control group leaves.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let activity = Activity {
        active_sessions: active,
        cores,
        wal_bytes_per_s: written.and_then(wal_rate),
        free_workers: free,
    };
    Ok(Around {
        activity: Some(Reading::Known(activity)),
        utc_offset_s: Some(utc_offset_s),
        identity_changed: identity::changed(collection)?,
    })
}

/// Bytes a second since the look before; None at the first.
fn wal_rate(written: f64) -> Option<f64> {
    let now = now_ms();
    let before = WRITTEN.get();
    let span = before.map(|(position, at)| (written - position, now - at));
    // Several collections are looked at one after the other: each sees the rate since the round before.
    match span {
        Some((bytes, ms)) if ms >= SPAN_MIN_MS || bytes < 0.0 => {
            WRITTEN.set(Some((written, now)));
            RATE.set((bytes >= 0.0).then(|| bytes * 1000.0 / ms as f64));
        }
        Some(_) => {}
        None => WRITTEN.set(Some((written, now))),
    }
    RATE.get()
}

thread_local! {
    static RATE: Cell<Option<f64>> = const { Cell::new(None) };
}
