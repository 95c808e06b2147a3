-- Changes settings of the server, or of one collection, and returns the effective ones.
CREATE FUNCTION ruvector_healing_configure(settings jsonb DEFAULT '{}', collection text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    patch  jsonb := coalesce(settings, '{}');
    target ruvector.collections;
    server jsonb;
    before jsonb;
    after  jsonb;
BEGIN
    IF collection IS NULL THEN
        IF patch = '{}' THEN
            RETURN ruvector._effective_settings(ruvector._server_settings(), '{}');
        END IF;
        PERFORM ruvector._check_database_owner();
        INSERT INTO ruvector.settings DEFAULT VALUES ON CONFLICT DO NOTHING;
        SELECT s.settings INTO server FROM ruvector.settings s FOR UPDATE;
        before := ruvector._effective_settings(server, '{}');
        server := ruvector._patched_settings(server, patch);
        -- What a collection has set for itself must agree with it.
        PERFORM ruvector._effective_settings(server, c.settings) FROM ruvector.collections c;
        UPDATE ruvector.settings s
           SET settings = server, version = version + 1, changed_at = clock_timestamp(), changed_by = session_user;
        PERFORM ruvector._wake();
        after := ruvector._effective_settings(server, '{}');
        PERFORM ruvector._note_settings(NULL, patch, before, after);
        RETURN after;
    END IF;
    target := ruvector._collection(collection);
    server := ruvector._server_settings();
    IF patch = '{}' THEN
        RETURN ruvector._effective_settings(server, target.settings);
    END IF;
    PERFORM ruvector._check_owner(target);
    -- One after the other, so that each change is noted with what was before it.
    SELECT * INTO target FROM ruvector.collections c WHERE c.id = target.id FOR UPDATE;
    before := ruvector._effective_settings(server, target.settings);
    UPDATE ruvector.collections c SET settings = ruvector._patched_settings(c.settings, patch)
     WHERE c.id = target.id RETURNING * INTO target;
    PERFORM ruvector._wake();
    after := ruvector._effective_settings(server, target.settings);
    PERFORM ruvector._note_settings(target.name, patch, before, after);
    RETURN after;
END
$$;

-- A change of settings for the history and the audit log. "before" and "after" are the effective ones.
CREATE FUNCTION ruvector._note_settings(of_collection text, patch jsonb, before jsonb, after jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was jsonb := (SELECT coalesce(jsonb_object_agg(b.key, b.value), '{}') FROM jsonb_each(before) b WHERE patch ? b.key);
    is_ jsonb := (SELECT coalesce(jsonb_object_agg(a.key, a.value), '{}') FROM jsonb_each(after) a WHERE patch ? a.key);
BEGIN
    INSERT INTO ruvector.settings_history (collection, version, patch, before, after)
    SELECT of_collection, coalesce(max(h.version), 0) + 1, _note_settings.patch, was, is_
      FROM ruvector.settings_history h WHERE h.collection IS NOT DISTINCT FROM of_collection;
    PERFORM ruvector._audit('configured', NULL, of_collection, format('SELECT ruvector_healing_configure(%L, %L)', patch, of_collection),
        format('SELECT ruvector_healing_configure(%L, %L)', was, of_collection), jsonb_build_object('before', was, 'after', is_));
END
$$;

-- Sets the search effort (ivfflat.probes or hnsw.ef_search) that sessions get for one index unless they set their
-- own; NULL gives the index back to the server's setting. Returns the former managed value, or NULL.
CREATE FUNCTION ruvector_search_effort_set(index regclass, effort integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text := ruvector._not_ready();
    entry   record;
    former  integer;
    highest integer;
BEGIN
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'no search effort can be managed: %', missing
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Add ruvector to shared_preload_libraries and restart the server.';
    END IF;
    SELECT c.id, am.amname, t.relowner, t.oid AS table_id, i.relname AS index_name INTO entry
      FROM pg_index x
      JOIN pg_class i ON i.oid = x.indexrelid
      JOIN pg_class t ON t.oid = x.indrelid
      JOIN pg_am am ON am.oid = i.relam AND am.amname IN ('ivfflat', 'hnsw')
      JOIN ruvector.collections c ON c.relation = t.oid
                                  OR c.relation IN (SELECT a.relid FROM pg_partition_ancestors(t.oid) a)
     WHERE x.indexrelid = index;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% is not a vector index of a registered collection', index
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'SELECT index_name FROM ruvector_index_health() lists them.';
    END IF;
    IF NOT pg_has_role(ruvector._caller(), entry.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'permission denied: the table of % belongs to %', index, entry.relowner::regrole
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owner, or a member of that role, may set it.';
    END IF;
    highest := CASE entry.amname WHEN 'ivfflat' THEN 32768 ELSE 1000 END;  -- limits of pgvector's settings
    IF effort NOT BETWEEN 1 AND highest THEN
        RAISE EXCEPTION 'search effort % is out of range', effort USING ERRCODE = 'invalid_parameter_value',
            HINT = format('For %s it is 1 to %s.', entry.amname, highest);
    END IF;
    SELECT e.effort INTO former FROM ruvector.search_effort e WHERE e.index_id = index;
    DELETE FROM ruvector.search_effort e WHERE e.index_id = index;
    IF effort IS NOT NULL THEN
        INSERT INTO ruvector.search_effort (index_id, table_id, index_name, collection_id, setting, effort)
        VALUES (index, entry.table_id, entry.index_name, entry.id,
                CASE entry.amname WHEN 'ivfflat' THEN 'ivfflat.probes' ELSE 'hnsw.ef_search' END, effort);
    END IF;
    -- The panel is measured anew at the new effort.
    DELETE FROM ruvector.readings r WHERE r.index_id = index AND r.kind = 'panel';
    PERFORM ruvector._audit('search_effort_set', NULL, (SELECT c.name FROM ruvector.collections c WHERE c.id = entry.id),
        format('SELECT ruvector_search_effort_set(%L, %L)', index, effort),
        format('SELECT ruvector_search_effort_set(%L, %L)', index, former));
    PERFORM ruvector._wake();
    RETURN former;
END
