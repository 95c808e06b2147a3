//! Maintenance on the collection's tables, and sessions that wait for locks on them.

use std::collections::HashMap;

use healing::command::is_one_statement;
use healing::snapshot::{Job, Oid, Scheduled};
use pgrx::prelude::*;
use serde::Deserialize;

use super::{Collection, documents, tables};
use crate::error::Error;
use crate::kept;

/// Maintenance that runs on or waits for one of the collection's tables; a build of an index that waits for old
/// transactions waits too. `$1` the collection's tables, partitioned ones included, `$2` its root.
const JOBS: &str = r"
WITH tables AS (SELECT unnest($1) AS oid),
     -- Long values are in a table of their own, by which a vacuum is seen while it works there.
     heaps AS (SELECT t.oid AS relation, t.oid AS table_id FROM tables t
               UNION ALL SELECT c.reltoastrelid, c.oid FROM pg_class c JOIN tables t ON t.oid = c.oid WHERE c.reltoastrelid <> 0),
     relations AS (SELECT h.relation, h.table_id FROM heaps h
                   UNION ALL SELECT x.indexrelid, h.table_id FROM pg_index x JOIN heaps h ON h.relation = x.indrelid),
     here AS (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()),
     working AS (SELECT v.pid, v.relid FROM pg_stat_progress_vacuum v JOIN here ON here.oid = v.datid
                 UNION SELECT a.pid, a.relid FROM pg_stat_progress_analyze a JOIN here ON here.oid = a.datid
                 UNION SELECT b.pid, b.relid FROM pg_stat_progress_create_index b JOIN here ON here.oid = b.datid
                 UNION SELECT c.pid, c.relid FROM pg_stat_progress_cluster c JOIN here ON here.oid = c.datid),
     queued AS (SELECT l.pid, r.table_id AS relid FROM pg_locks l JOIN here ON here.oid = l.database
                  JOIN relations r ON r.relation = l.relation
                 WHERE l.locktype = 'relation' AND NOT l.granted
                   AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock')),
     jobs AS (SELECT j.pid, min(j.relid::bigint) AS relid
                FROM (SELECT w.pid, r.table_id AS relid FROM working w JOIN relations r ON r.relation = w.relid
                      UNION SELECT q.pid, q.relid FROM queued q) j GROUP BY j.pid)
SELECT jsonb_build_object(
    'id', concat_ws(' ', k.kind, s.pid), 'kind', k.kind,
    'partition', CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = j.relid::oid AND c.relkind = 'r') THEN j.relid END,
    'waits_s', w.waits_s,
    'waits_for', CASE WHEN w.waits_s IS NOT NULL THEN (
        SELECT string_agg(concat_ws(' ', b.backend_type, b.pid, 'of', b.usename,
                          '(' || nullif(concat_ws(', ', nullif(b.application_name, ''), b.state), '') || ')'), ', ')
          FROM unnest(pg_blocking_pids(s.pid)) p JOIN pg_stat_activity b ON b.pid = p) END,
    -- `pg_signal_backend` (signalfuncs.c), asked for the owner. Autovacuum's workers are nobody's.
    'may_cancel', s.usesysid IS NULL OR o.rolsuper
                  OR coalesce(NOT u.rolsuper AND (pg_has_role(o.oid, u.oid, 'USAGE') OR pg_has_role(o.oid, 'pg_signal_backend'::name, 'USAGE')), false))
  FROM jobs j
  JOIN pg_stat_activity s ON s.pid = j.pid
  JOIN pg_class root ON root.oid = $2
  JOIN pg_roles o ON o.oid = root.relowner
  LEFT JOIN pg_roles u ON u.oid = s.usesysid
 CROSS JOIN LATERAL (SELECT CASE
        WHEN s.backend_type = 'autovacuum worker' AND s.query LIKE '%(to prevent wraparound)' THEN 'wraparound_vacuum'
        WHEN s.backend_type = 'autovacuum worker' THEN 'autovacuum'
        WHEN s.query ~* '^\s*(vacuum|analyze|reindex|cluster)\M' THEN lower(substring(s.query FROM '^\s*(\w+)'))
        WHEN s.query ~* '^\s*create\s+(unique\s+)?index\M' THEN 'create_index'
        WHEN s.application_name LIKE 'ruvector%' THEN 'healing'
        WHEN EXISTS (SELECT FROM working w WHERE w.pid = s.pid) THEN 'maintenance' END AS kind) k
  LEFT JOIN LATERAL (SELECT extract(epoch FROM clock_timestamp() - min(l.waitstart))::float8 AS waits_s
                       FROM pg_locks l WHERE l.pid = s.pid AND NOT l.granted HAVING count(l.waitstart) > 0) w ON true
 WHERE k.kind IS NOT NULL
 ORDER BY s.pid";

/// Must run in a transaction.
pub(crate) fn jobs(collection: &Collection) -> Result<Vec<Job>, Error> {
    documents(JOBS, &[tables::of(collection)?.all().into(), pg_sys::Oid::from(collection.relation).into()])
}

/// Jobs of pg_cron in this database that maintain one of the collection's tables or indexes, its schema, or all tables. `$1` the
/// collection's tables, `$2` its root, whose owner must have the rights of the job's user, and for what is more than a table those
/// of the schema's or the database's owner. A name is one that stands by itself, with the right schema: `VACUUM docs_archive` and
/// `VACUUM other.docs` are none of `docs`. Without a schema it must be this relation that the job's user means by it. Of a command
/// comments, options and lists of columns are left out, and what is not quoted is lower case, as PostgreSQL reads it.
const SCHEDULED: &str = r#"
WITH here AS (SELECT d.oid, d.datdba FROM pg_database d WHERE d.datname = current_database()),
     keeper AS (SELECT c.relowner AS owner, pg_has_role(c.relowner, d.datdba, 'USAGE') AS of_database, pg_has_role(c.relowner, s.nspowner, 'USAGE') AS of_schema
                  FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace, here d
                 WHERE c.oid = $2),
     own AS (SELECT c.relname::text AS relname, c.relnamespace AS home, s.nspname::text AS nspname, current_database()::text AS datname
               FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
              WHERE c.oid = ANY ($1) OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = ANY ($1))),
     -- How each may be written; nothing in a name means anything to the pattern.
     written AS (SELECT relname, home,
                        (SELECT array_agg(CASE WHEN name ~ '^[a-z_][a-z0-9_$]*$' THEN format('(?:%s|"%s")', escaped, escaped)
                                               ELSE format('"%s"', escaped) END ORDER BY at)
                           FROM unnest(ARRAY[datname, nspname, relname]) WITH ORDINALITY AS n(name, at),
                                LATERAL (SELECT regexp_replace(name, '(\W)', '\\\1', 'g') AS escaped) e) AS names
                   FROM own),
     named AS (SELECT format('(?:^|[\s,])(?:%s\.)?%s\.%s(?:$|[\s,;])', names[1], names[2], names[3]) AS pattern, false AS whole,
                      NULL::text AS bare, NULL::oid AS home FROM written
               UNION SELECT format('(?:^|[\s,])%s(?:$|[\s,;])', names[3]), false, relname, home FROM written
               UNION SELECT format('^\s*reindex\s+schema\s+(?:concurrently\s+)?%s(?:$|[\s;])', names[2]), true, NULL, NULL
                       FROM written, keeper k WHERE k.of_schema),
     jobs AS (SELECT j.*, u.oid AS runner, u.rolname::text AS runner_name,
                     (SELECT string_agg(CASE WHEN n % 2 = 1 THEN lower(part) ELSE '"' || part || '"' END, '' ORDER BY n)
                        FROM regexp_split_to_table(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
                                 j.command, '/\*.*?\*/', ' ', 'g'), '--[^\n]*', ' ', 'g'), '\([^)]*\)', ' ', 'g'), '\s*\.\s*', '.', 'g'), '"')
                             WITH ORDINALITY AS s(part, n)) AS said
                FROM keeper k, cron.job j JOIN pg_roles u ON u.rolname = j.username
               WHERE j.database = current_database() AND pg_has_role(k.owner, u.oid, 'USAGE')),
     -- The server's own search_path; not known where this process has another one by its role.
     server AS (SELECT g.reset_val AS path FROM pg_settings g
                 WHERE g.name = 'search_path'
                   AND NOT EXISTS (SELECT FROM here, pg_roles r JOIN pg_db_role_setting s ON s.setrole = r.oid, unnest(s.setconfig) v (setting)
                                    WHERE r.rolname = session_user AND s.setdatabase IN (0, here.oid) AND starts_with(v.setting, 'search_path='))),
     -- Where the session of a job looks for a name: the first setting counts (`process_settings`, postinit.c), and of its schemas
     -- those that the user may use.
     paths AS (SELECT DISTINCT j.runner, 'pg_catalog'::regnamespace::oid AS home, 0::bigint AS at FROM jobs j
               UNION ALL
               SELECT u.runner, s.oid, w.at
                 FROM (SELECT DISTINCT runner, runner_name FROM jobs) u
                CROSS JOIN LATERAL (SELECT coalesce(
                           (SELECT substr(v.setting, length('search_path=') + 1)
                              FROM here, pg_db_role_setting s, unnest(s.setconfig) v (setting)
                             WHERE s.setrole IN (0, u.runner) AND s.setdatabase IN (0, here.oid) AND starts_with(v.setting, 'search_path=')
                             ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1),
                           (SELECT path FROM server)) AS path) p
                CROSS JOIN LATERAL regexp_matches(p.path, '"((?:[^"]|"")*)"|([^\s,"]+)', 'g') WITH ORDINALITY AS w(word, at)
                CROSS JOIN LATERAL (SELECT coalesce(replace(w.word[1], '""', '"'), lower(w.word[2])) AS name) n
                 JOIN pg_namespace s ON s.nspname = CASE n.name WHEN '$user' THEN u.runner_name ELSE n.name END
                WHERE has_schema_privilege(u.runner, s.oid, 'USAGE'))
SELECT jsonb_build_object('jobid', j.jobid, 'name', coalesce(j.jobname, left(j.command, 40)), 'schedule', j.schedule,
       'command', j.command, 'active', j.active,
       'pid', coalesce((SELECT d.job_pid FROM cron.job_run_details d JOIN pg_stat_activity a ON a.pid = d.job_pid
                         WHERE d.jobid = j.jobid AND d.status = 'running' ORDER BY d.runid DESC LIMIT 1),
                       -- One that has only just begun, or all where `cron.log_run` is off.
                       (SELECT min(a.pid) FROM pg_stat_activity a, here
                         WHERE a.datid = here.oid AND a.usesysid = j.runner AND (a.query = j.command OR octet_length(a.query) >= 95 AND starts_with(j.command, a.query)) AND a.state = 'active'
                           AND (a.backend_type = 'pg_cron' OR a.application_name = 'pg_cron'))))
  FROM jobs j, keeper k
 WHERE j.said ~ '^\s*(?:vacuum|analyze|reindex|cluster)\M'
   AND (k.of_database AND (j.said ~ '^\s*(?:vacuum|analyze|cluster)(?:\s|full|freeze|verbose|analyze|;)*$'
                           OR j.said ~ '^\s*reindex\s+database\M')
        OR EXISTS (SELECT FROM named n WHERE j.said ~ n.pattern
                      -- There the name is none of a table.
                      AND n.whole = (j.said ~ '^\s*reindex\s+(?:database|schema|system)\M')
                      AND (n.bare IS NULL
                           OR n.home = (SELECT p.home FROM paths p JOIN pg_class c ON c.relnamespace = p.home AND c.relname = n.bare
                                         WHERE p.runner = j.runner ORDER BY p.at LIMIT 1))))
 ORDER BY j.jobid"#;

/// None where there is no pg_cron in this database. Must run in a transaction.
pub(crate) fn scheduled(collection: &Collection) -> Result<Option<Vec<Scheduled>>, Error> {
    if kept::one::<bool>("SELECT ruvector._has_cron()", &[])? != Some(true) {
        return Ok(None);
    }
    let mut found: Vec<Scheduled> = documents(
        SCHEDULED,
        &[tables::of(collection)?.all().into(), pg_sys::Oid::from(collection.relation).into()],
    )?;
    // What a job does beside is not ours to pause.
    found.retain(|job| is_one_statement(&job.command));
    Ok(Some(found))
}

/// Sessions of users that have waited longer than a second, by the leaf table that they wait for: for a lock on it, for a
/// row of it that another transaction has locked, or for a lock on the collection's root. `$1` the leaf tables, `$2` the root.
const WAITING: &str = r"
WITH here AS (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()),
     leaves AS (SELECT unnest($1) AS oid),
     waits AS (SELECT l.pid, l.relation, l.locktype FROM pg_locks l
                WHERE NOT l.granted AND l.waitstart < clock_timestamp() - interval '1 second'),
     at AS (SELECT w.pid, w.relation FROM waits w WHERE w.relation IS NOT NULL
            UNION SELECT w.pid, t.relation FROM waits w JOIN pg_locks t ON t.pid = w.pid AND t.locktype = 'tuple' AND t.granted
             WHERE w.locktype = 'transactionid')
SELECT jsonb_build_object('oid', f.oid::bigint, 'sessions', count(DISTINCT a.pid))
  FROM leaves f
  JOIN at a ON a.relation IN (f.oid, $2)
  JOIN pg_stat_activity s ON s.pid = a.pid JOIN here ON here.oid = s.datid
 WHERE s.backend_type = 'client backend' AND s.query !~* '^\s*(vacuum|analyze|reindex|cluster|create|drop|alter)\M'
 GROUP BY f.oid";

/// Must run in a transaction.
pub(crate) fn waiting(collection: &Collection) -> Result<HashMap<Oid, f64>, Error> {
    #[derive(Deserialize)]
    struct Row {
        oid: Oid,
        sessions: f64,
    }
    let rows: Vec<Row> = documents(
        WAITING,
        &[tables::of(collection)?.leaves().into(), pg_sys::Oid::from(collection.relation).into()],
    )?;
    Ok(rows.into_iter().map(|row| (row.oid, row.sessions)).collect())
}
