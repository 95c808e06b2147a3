GRANT SELECT ON ALL TABLES IN SCHEMA ruvector TO ruvector_monitor;

-- PUBLIC gets nothing that acts and nothing that shows.
DO $$
DECLARE
    f record;
    acting constant text[] := ARRAY[
        'ruvector_collection_register',
        'ruvector_collection_unregister',
        'ruvector_healing_abort',
        'ruvector_healing_approve',
        'ruvector_healing_configure',
        'ruvector_healing_execute',
        'ruvector_healing_reset',
        'ruvector_healing_trigger',
        'ruvector_search_effort_set'
    ];
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS signature, p.proname, p.prokind
               FROM pg_catalog.pg_proc p
               JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
               JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'ruvector'
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC',
            CASE f.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, f.signature);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON %s %s TO %I',
            CASE f.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, f.signature,
            CASE WHEN f.proname = ANY (acting) THEN 'ruvector_operator'
                 WHEN f.proname IN ('_wake', '_propose', '_sample', '_number_column', '_begin_watching', '_server_settings') THEN current_user
                 ELSE 'ruvector_monitor' END);
    END LOOP;
END
$$;

-- Starts the healer of this database once the installation commits.
SELECT ruvector._wake();
