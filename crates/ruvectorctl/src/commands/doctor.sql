-- What `doctor` judges, from catalogs and statistics views alone: each NULL is something this role may not see.
SELECT current_database() AS database, current_setting('server_version') AS server_version,
       current_setting('server_version_num')::int AS server_version_num, pg_is_in_recovery() AS standby,
       (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user) AS superuser, quote_ident(session_user) AS role,
       (SELECT s.setting FROM pg_settings s WHERE s.name = 'shared_preload_libraries') AS preload,
       (SELECT s.setting FROM pg_settings s WHERE s.name = 'ruvector.enabled') AS enabled,
       current_setting('track_counts') AS track_counts, current_setting('autovacuum') AS autovacuum,
       (SELECT a.default_version FROM pg_available_extensions a WHERE a.name = 'ruvector') AS available,
       (SELECT a.comment FROM pg_available_extensions a WHERE a.name = 'ruvector') AS comment,
       (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'ruvector') AS installed,
       EXISTS (SELECT FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
                  AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass
                -- Not by to_regclass(): it is an ERROR for who may not use the schema.
                JOIN pg_class c ON c.oid = d.objid AND c.relname = 'healing_outcomes'
                JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'ruvector'
                WHERE e.extname = 'ruvector') AS ours,
       (SELECT n.nspowner::regrole::text FROM pg_namespace n WHERE n.nspname = 'ruvector') AS schema_owner,
       (SELECT a.default_version FROM pg_available_extensions a WHERE a.name = 'vector') AS vector_available,
       (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'vector') AS vector,
       current_setting('max_worker_processes')::int AS slots,
       -- Of others' sessions a role without pg_read_all_stats sees no kind.
       CASE WHEN pg_has_role(session_user, 'pg_read_all_stats', 'USAGE') THEN
           (SELECT count(*) FROM pg_stat_activity a
             WHERE a.backend_type NOT IN ('client backend', 'autovacuum launcher', 'autovacuum worker', 'checkpointer',
                       'background writer', 'walwriter', 'walsender', 'walreceiver', 'walsummarizer', 'archiver', 'startup',
                       'io worker', 'slotsync worker')) END AS slots_used,
       CASE WHEN pg_has_role(session_user, 'pg_read_all_stats', 'USAGE') THEN
           EXISTS (SELECT FROM pg_stat_activity a WHERE a.backend_type = 'ruvector launcher') END AS launcher,
       CASE WHEN pg_has_role(session_user, 'pg_read_all_stats', 'USAGE') THEN
           EXISTS (SELECT FROM pg_stat_activity a WHERE a.backend_type LIKE 'ruvector healer%'
                                                    AND a.datname = current_database()) END AS healer,
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'ruvector_monitor'
                AND pg_has_role(session_user, r.oid, 'USAGE')) AS may_read,
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'ruvector_operator'
                AND pg_has_role(session_user, r.oid, 'USAGE')) AS may_act
