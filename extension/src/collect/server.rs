//! What the whole server says: connections, autovacuum's workers, the oldest snapshot.

use healing::snapshot::{Horizon, Reading, Server, Slots};
use serde::Deserialize;

use super::{Collection, documents, tables};
use crate::error::Error;

/// See the module.
#[derive(Deserialize)]
pub(crate) struct State {
    connections_pct: f64,
    pub(crate) slots: Slots,
    pub(crate) horizon: Horizon,
}

impl State {
    pub(crate) fn server(&self) -> Server {
        Server {
            name: String::new(),
            connections_pct: Reading::Known(self.connections_pct),
            unreachable_s: None,
            error: None,
        }
    }
}

/// `$1` the collection's leaf tables. A snapshot that VACUUM or CREATE INDEX CONCURRENTLY holds hinders no cleaning up
/// (procarray.c, ComputeXidHorizons).
const STATE: &str = "
WITH sessions AS (SELECT * FROM pg_stat_activity),
     limits AS (SELECT current_setting('max_connections')::float8 - current_setting('superuser_reserved_connections')::float8
                     - coalesce(current_setting('reserved_connections', true)::float8, 0) AS connections),
     holders AS (
         SELECT extract(epoch FROM clock_timestamp() - s.xact_start)::float8 AS held_s,
                concat_ws(' ', 'session', s.pid, 'of', s.usename,
                          '(' || nullif(concat_ws(', ', nullif(s.application_name, ''), s.state), '') || ')') AS holder
           FROM sessions s
          WHERE (s.backend_xmin IS NOT NULL OR s.backend_xid IS NOT NULL) AND s.pid <> pg_backend_pid()
            AND s.backend_type NOT IN ('autovacuum worker', 'walsender')
            AND s.xact_start IS NOT NULL
            -- What other databases' sessions see is not here, and keeps nothing of ours.
            AND s.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
            AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = s.pid)
            AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index b WHERE b.pid = s.pid)
         UNION ALL
         SELECT extract(epoch FROM clock_timestamp() - x.prepared)::float8, format('prepared transaction %L of %s', x.gid, x.owner)
           FROM pg_prepared_xacts x WHERE x.database = current_database()),
     due AS (
         SELECT count(*) AS tables FROM pg_class t
          WHERE t.relkind = 'r'
            AND t.oid = ANY ($1)
            AND pg_stat_get_dead_tuples(t.oid) >
                coalesce((SELECT o.option_value FROM pg_options_to_table(t.reloptions) o
                           WHERE o.option_name = 'autovacuum_vacuum_threshold'),
                         current_setting('autovacuum_vacuum_threshold'))::float8
              + coalesce((SELECT o.option_value FROM pg_options_to_table(t.reloptions) o
                           WHERE o.option_name = 'autovacuum_vacuum_scale_factor'),
                         current_setting('autovacuum_vacuum_scale_factor'))::float8 * greatest(t.reltuples, 0)
            AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.relid = t.oid))
SELECT jsonb_build_object(
    'connections_pct', 100 * (SELECT count(*) FROM sessions s WHERE s.backend_type = 'client backend') / greatest(l.connections, 1),
    'slots', jsonb_build_object('busy', (SELECT count(*) FROM sessions s WHERE s.backend_type = 'autovacuum worker'),
        'total', current_setting('autovacuum_max_workers')::integer, 'waiting', (SELECT d.tables FROM due d)),
    'horizon', (SELECT jsonb_build_object('held_s', coalesce(max(h.held_s), 0),
                       'holder', (array_agg(h.holder ORDER BY h.held_s DESC))[1]) FROM holders h))
  FROM limits l";

/// Must run in a transaction.
pub(crate) fn state(collection: &Collection) -> Result<State, Error> {
    documents(STATE, &[tables::of(collection)?.leaves().into()])?
        .pop()
        .ok_or_else(|| Error::refused("the server's state could not be read"))
}
