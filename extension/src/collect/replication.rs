//! Streaming replicas, those that have vanished included.

use std::cell::RefCell;
use std::collections::VecDeque;

use healing::snapshot::{Reading, Replica};
use serde::Deserialize;

use super::{documents, now_ms};
use crate::error::Error;
use crate::kept;

/// Looks at the WAL position that are kept: a replica that is further behind than the oldest is at least that old.
const HISTORY_MAX: usize = 20_000;

thread_local! {
    /// WAL positions of this server and when they were seen, oldest first.
    static WRITTEN: RefCell<VecDeque<(f64, i64)>> = RefCell::default();
}

#[derive(Deserialize)]
struct Row {
    id: i64,
    name: String,
    /// Bytes from the beginning of the WAL; None while the replica has not said it.
    replayed: Option<f64>,
    /// The server's own measure of the lag, which stands still while nothing is replayed.
    replay_lag_s: Option<f64>,
    gone_s: Option<f64>,
}

/// Keeps the connected replicas and forgets those that are long gone and whose slot is gone. `$1` seconds after which.
/// Base backups, receivers of WAL that replay nothing, and subscribers are no replicas. One that was connected before the
/// server started has had no chance to be since.
const KNOWN: &str = "
WITH connected AS (
    SELECT r.application_name, coalesce(s.slot_name::text, '') AS slot_name
      FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
     WHERE r.state IN ('catchup', 'streaming') AND r.replay_lsn IS NOT NULL AND s.slot_type IS DISTINCT FROM 'logical'),
     kept AS (
    INSERT INTO ruvector.replicas AS k (application_name, slot_name)
    SELECT DISTINCT c.application_name, c.slot_name FROM connected c
        ON CONFLICT (application_name, slot_name) DO UPDATE SET last_seen = clock_timestamp())
DELETE FROM ruvector.replicas k
 WHERE k.last_seen < clock_timestamp() - make_interval(secs => $1)
   AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_name = k.slot_name)
   AND NOT EXISTS (SELECT FROM connected c WHERE (c.application_name, c.slot_name) = (k.application_name, k.slot_name))";

const REPLICAS: &str = "
SELECT jsonb_build_object('id', k.id, 'name', k.application_name || coalesce(' (slot ' || nullif(k.slot_name, '') || ')', ''),
       'replayed', c.replayed, 'replay_lag_s', c.replay_lag_s,
       'gone_s', CASE WHEN c.pid IS NULL THEN
            extract(epoch FROM clock_timestamp() - greatest(k.last_seen, pg_postmaster_start_time())) END)
  FROM ruvector.replicas k
  LEFT JOIN (SELECT DISTINCT ON (r.application_name, coalesce(s.slot_name::text, ''))
                    r.application_name, coalesce(s.slot_name::text, '') AS slot_name, r.pid,
                    pg_wal_lsn_diff(r.replay_lsn, '0/0')::float8 AS replayed, extract(epoch FROM r.replay_lag)::float8 AS replay_lag_s
               FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
              WHERE r.state IN ('catchup', 'streaming') AND r.replay_lsn IS NOT NULL
                AND s.slot_type IS DISTINCT FROM 'logical'
              -- Several of the same name: the one that is furthest behind speaks for them.
              ORDER BY 1, 2, r.replay_lsn) c
    ON (c.application_name, c.slot_name) = (k.application_name, k.slot_name)
 ORDER BY k.id";

/// Must run in a transaction, on a server that is not in recovery.
pub(crate) fn replicas(forget_s: i64) -> Result<Vec<Replica>, Error> {
    kept::change(KNOWN, &[(forget_s as f64).into()])?;
    let now = now_ms();
    let written =
        kept::one::<f64>("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8", &[])?.unwrap_or(0.0);
    let rows: Vec<Row> = documents(REPLICAS, &[])?;
    let least = rows.iter().filter_map(|row| row.replayed).fold(written, f64::min);
    remember(written, least, now);
    Ok(rows.into_iter().map(|row| replica(row, written, now)).collect())
}

/// Keeps the present position, and forgets those that all have replayed but for the last.
fn remember(written: f64, replayed: f64, now: i64) {
    WRITTEN.with_borrow_mut(|history| {
        // After a clock that was set back, or a restore, the old times say nothing.
        if history.back().is_some_and(|(position, at)| *position > written || *at > now) {
            history.clear();
        }
        if history.back().is_none_or(|(position, _)| *position < written) {
            history.push_back((written, now));
        }
        while history.len() > HISTORY_MAX
            || history.front().is_some_and(|(position, _)| *position <= replayed)
        {
            history.pop_front();
        }
    });
}

/// A replica's lag in time is the age of the oldest position known here that it has not replayed. PostgreSQL's own
/// `replay_lag` is the delay of what was replayed last: it stands still where replay does, and is NULL on an idle one.
fn replica(row: Row, written: f64, now: i64) -> Replica {
    let Row { id, name, replayed, replay_lag_s, gone_s } = row;
    let unread = || Reading::unknown("it is not connected");
    let (lag_bytes, lag_seconds) = match replayed {
        None => (unread(), unread()),
        Some(replayed) => {
            let oldest = WRITTEN.with_borrow(|history| {
                history.iter().find(|(position, _)| *position > replayed).map(|(_, at)| now - at)
            });
            let behind = oldest.map_or(0.0, |ms| ms.max(0) as f64 / 1000.0);
            let lag_s = if written > replayed { behind.max(replay_lag_s.unwrap_or(0.0)) } else { 0.0 };
            (Reading::Known((written - replayed).max(0.0)), Reading::Known(lag_s))
        }
    };
    Replica { id, name, lag_bytes, lag_seconds, gone_s }
}
