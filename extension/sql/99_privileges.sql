GRANT SELECT ON ALL TABLES IN SCHEMA ruvector TO ruvector_monitor;
-- Keys of rows and names of tenants are what users wrote, and for who may read their tables. Which batches are open is for all.
REVOKE SELECT ON ruvector.moved_rows, ruvector.server_batches, ruvector.tenant_homes FROM ruvector_monitor;
GRANT SELECT (id, collection_id, action_id, leaf, fetched, state, noted_at, gid) ON ruvector.server_batches TO ruvector_monitor;

-- PUBLIC gets nothing that acts and nothing that shows.
DO $$
DECLARE
    f record;
    acting constant text[] := ARRAY[
        '_add_place',
        '_adoption_came_to',
        '_check_route',
        '_forget_managed',
        '_give_back_routing',
        '_lock_adoption',
        '_manage',
        '_note_adoption',
        '_set_cold_when',
        'ruvector_audit_rotate_key',
        'ruvector_collection_adopt',
        'ruvector_collection_adopt_abort',
        'ruvector_collection_attach',
        'ruvector_collection_cold_when',
        'ruvector_collection_create',
        'ruvector_collection_register',
        'ruvector_collection_release',
        'ruvector_collection_unregister',
        'ruvector_healing_abort',
        'ruvector_healing_approve',
        'ruvector_healing_autonomy',
        'ruvector_healing_configure',
        'ruvector_healing_execute',
        'ruvector_healing_feedback',
        'ruvector_healing_pause',
        'ruvector_healing_reject',
        'ruvector_healing_reset',
        'ruvector_healing_resume',
        'ruvector_healing_rollback',
        'ruvector_healing_trigger',
        'ruvector_identity_confirm',
        'ruvector_lease_release',
        'ruvector_routing_set',
        'ruvector_search_effort_set',
        'ruvector_throttle_set'
    ];
    -- Called by others of ours, with the rights of their owner.
    internal constant text[] := ARRAY[
        '_audit',
        '_begin_watching',
        '_eligibility',
        '_end_throttle_at_commit',
        '_follow_partitions',
        '_keep_audit_log',
        '_left_inactive',
        '_no_open_batches',
        '_note_settings',
        '_notify_status',
        '_number_column',
        '_propose',
        '_put_back',
        '_release_all',
        '_route_blindly',
        '_route_listed',
        '_route_shared',
        '_route_slowly',
        '_route_tenant',
        '_sample',
        '_server_settings',
        '_share_out',
        '_skip_unregistered',
        '_stop_at_commit',
        '_unregister',
        '_wake'
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
                 WHEN f.proname = ANY (internal) THEN current_user
                 ELSE 'ruvector_monitor' END);
    END LOOP;
END
$$;

-- Whoever may insert into a managed collection needs its default.
GRANT EXECUTE ON FUNCTION ruvector_route(text, integer), ruvector_route_tenant(text, text, integer) TO PUBLIC;

-- Starts the healer of this database once the installation commits.
SELECT ruvector._wake();
