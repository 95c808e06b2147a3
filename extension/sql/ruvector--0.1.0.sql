-- ruvector: keeps pgvector collections healthy.
--
-- Reading order: roles, tables (what is known), functions (what a person calls).
-- The functions live in the extension's schema, everything they read or write in schema "ruvector".

\echo Use "CREATE EXTENSION ruvector CASCADE" to load this file. \quit

DO $$
DECLARE
    found text := (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector');
BEGIN
    IF pg_catalog.string_to_array(found, '.')::int[] < ARRAY[0, 8, 0] THEN
        RAISE EXCEPTION 'ruvector needs pgvector 0.8.0 or newer, found %', found
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Install a newer pgvector and run ALTER EXTENSION vector UPDATE.';
    END IF;
END
$$;

-- Roles -----------------------------------------------------------------------------------------------------------
-- They belong to the whole server, so another database may have made them already; they stay after DROP EXTENSION.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'ruvector_monitor') THEN
        CREATE ROLE ruvector_monitor NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'ruvector_operator') THEN
        CREATE ROLE ruvector_operator NOLOGIN;
    END IF;
    IF NOT pg_catalog.pg_has_role('ruvector_operator', 'ruvector_monitor', 'MEMBER') THEN
        GRANT ruvector_monitor TO ruvector_operator;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;  -- two databases at once
END
$$;

CREATE SCHEMA ruvector;
GRANT USAGE ON SCHEMA ruvector TO ruvector_monitor;

-- Tables ----------------------------------------------------------------------------------------------------------

-- Settings of the server as changed by ruvector_healing_configure(); defaults live in code.
CREATE TABLE ruvector.settings (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    settings    jsonb NOT NULL DEFAULT '{}',
    version     integer NOT NULL DEFAULT 1,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    changed_by  text NOT NULL DEFAULT session_user
);
INSERT INTO ruvector.settings DEFAULT VALUES;

CREATE TABLE ruvector.collections (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL UNIQUE CHECK (name <> '' AND length(name) <= 63),
    relation      regclass NOT NULL UNIQUE,
    column_number smallint NOT NULL,
    column_name   text NOT NULL,
    settings      jsonb NOT NULL DEFAULT '{}',
    registered_at timestamptz NOT NULL DEFAULT now(),
    registered_by text NOT NULL DEFAULT session_user
);

-- The last observation of each collection and what follows from it: one row, rewritten at every sample.
CREATE TABLE ruvector.integrity (
    collection_id integer PRIMARY KEY REFERENCES ruvector.collections ON DELETE CASCADE,
    samples       bigint NOT NULL DEFAULT 0,
    sampled_at    timestamptz,
    snapshot      jsonb,
    record        jsonb,            -- state machine: state, since, candidate, streak
    state         text NOT NULL DEFAULT 'unknown' CHECK (state IN ('unknown', 'normal', 'stress', 'critical')),
    lambda_cut    double precision, -- NULL when it is not known; "explanation" says why
    lambda_low    double precision, -- if every unread metric were at its worst
    lambda_high   double precision,
    witness       jsonb,            -- edges of the minimum cut
    problems      jsonb,            -- weak components classified, weakest first
    explanation   text,
    remedy        jsonb,            -- the plan that fits; this version only shows it
    note          text              -- why the last sample failed, NULL when it did not
);

CREATE TABLE ruvector.integrity_events (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    happened_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_state    text NOT NULL,
    to_state      text NOT NULL,
    lambda_cut    double precision NOT NULL,
    explanation   text
);
CREATE INDEX ON ruvector.integrity_events (collection_id, happened_at);

-- Slow measurements (structure, recall panel) kept between samples and over restarts.
CREATE TABLE ruvector.readings (
    index_id      oid NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('panel', 'structure')),
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    relfilenode   oid NOT NULL,
    measured_at   timestamptz NOT NULL,
    changes       bigint NOT NULL,   -- rows inserted + updated + deleted in the table when it was measured
    seed          bigint NOT NULL,
    reading       jsonb NOT NULL,
    PRIMARY KEY (index_id, kind)
);

-- The search effort that sessions get for an index unless they set their own.
CREATE TABLE ruvector.search_effort (
    index_id      oid PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    setting       text NOT NULL CHECK (setting IN ('ivfflat.probes', 'hnsw.ef_search')),
    effort        integer NOT NULL CHECK (effort > 0),
    set_by        text NOT NULL DEFAULT session_user,
    set_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT SELECT ON ALL TABLES IN SCHEMA ruvector TO ruvector_monitor;

-- What pg_dump keeps: policy, not runtime state.
SELECT pg_catalog.pg_extension_config_dump('ruvector.settings', '');

-- Functions ---------------------------------------------------------------------------------------------------------

-- Wakes this database's healer when the calling transaction commits; nothing happens if it rolls back.
CREATE FUNCTION ruvector._wake() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'wake_wrapper';
REVOKE ALL ON FUNCTION ruvector._wake() FROM PUBLIC;

-- NULL when the library is preloaded and of this version, else what is missing.
CREATE FUNCTION ruvector._not_ready() RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'not_ready_wrapper';

CREATE FUNCTION ruvector._effective_settings(server jsonb, collection jsonb) RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'effective_settings_wrapper';

-- The layer with the patch applied; an ERROR with a hint for an unknown key, a wrong type or a value out of range.
CREATE FUNCTION ruvector._patched_settings(layer jsonb, patch jsonb) RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'patched_settings_wrapper';

CREATE FUNCTION ruvector._collection(collection text) RETURNS ruvector.collections
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.collections;
BEGIN
    SELECT * INTO entry FROM ruvector.collections c WHERE c.name = collection;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no collection "%"', collection
            USING ERRCODE = 'undefined_object',
                  HINT = coalesce('Registered: ' || (SELECT string_agg(quote_ident(c.name), ', ' ORDER BY c.name)
                                                       FROM ruvector.collections c) || '.',
                                  'None is registered yet: SELECT ruvector_collection_register(''name'', ''table'').');
    END IF;
    RETURN entry;
END
$$;

-- Registers a table as a collection, which the healer then measures. Returns its number.
-- "column" is needed only when the table has several vector columns.
CREATE FUNCTION ruvector_collection_register(
    name text, relation regclass, "column" text DEFAULT NULL, settings jsonb DEFAULT '{}'
) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing    text := ruvector._not_ready();
    candidates name[];
    kind       "char";
    owner      oid;
    persistence "char";
    chosen     pg_attribute;
    new_id     integer;
    clash      text;
BEGIN
    IF name IS NULL OR name = '' OR length(name) > 63 THEN
        RAISE EXCEPTION 'a collection needs a name of 1 to 63 characters'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Often the table''s own name is a good one.';
    END IF;
    SELECT c.relkind, c.relowner, c.relpersistence INTO kind, owner, persistence FROM pg_class c WHERE c.oid = relation;
    IF kind IS NULL THEN
        RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table',
            HINT = 'Name the table, with its schema if it is not in the search_path.';
    END IF;
    IF kind NOT IN ('r', 'p') OR persistence = 't' THEN
        RAISE EXCEPTION '% is not an ordinary or partitioned table', relation
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Views, foreign tables, materialized views and temporary tables cannot be watched.';
    END IF;
    IF NOT pg_has_role(session_user, owner, 'USAGE') THEN
        RAISE EXCEPTION 'permission denied: % belongs to %', relation, owner::regrole
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Its owner, or a member of that role, must register it.';
    END IF;

    SELECT array_agg(a.attname ORDER BY a.attnum) INTO candidates
      FROM pg_attribute a
      JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
       AND (t.typname = 'bit' AND t.typnamespace = 'pg_catalog'::regnamespace
            OR EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                        WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                          AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'vector'
                          AND t.typname IN ('vector', 'halfvec', 'sparsevec')));
    IF candidates IS NULL THEN
        RAISE EXCEPTION '% has no vector column', relation USING ERRCODE = 'undefined_column',
            HINT = 'A collection needs a column of type vector, halfvec, sparsevec or bit.';
    END IF;
    IF "column" IS NULL AND cardinality(candidates) > 1 THEN
        RAISE EXCEPTION '% has % vector columns', relation, cardinality(candidates)
            USING ERRCODE = 'ambiguous_column',
                  HINT = format('Name one of them: ruvector_collection_register(%L, %L, "column" => %L). There are: %s.',
                                name, relation, candidates[1], array_to_string(candidates, ', '));
    END IF;
    IF "column" IS NOT NULL AND NOT "column" = ANY (candidates) THEN
        RAISE EXCEPTION '% has no vector column "%"', relation, "column" USING ERRCODE = 'undefined_column',
            HINT = format('Its vector columns: %s.', array_to_string(candidates, ', '));
    END IF;
    SELECT * INTO chosen FROM pg_attribute a
     WHERE a.attrelid = relation AND a.attname = coalesce("column", candidates[1]);

    -- One table tree, one collection: a partition and its root share locks.
    SELECT c.name INTO clash FROM ruvector.collections c
     WHERE c.relation IN (SELECT r.relid FROM pg_partition_ancestors(ruvector_collection_register.relation) r)
        OR c.relation = ruvector_collection_register.relation
        OR c.relation IN (SELECT r.relid FROM pg_partition_tree(ruvector_collection_register.relation) r);
    IF clash IS NOT NULL THEN
        RAISE EXCEPTION '% is already part of collection "%"', relation, clash USING ERRCODE = 'duplicate_object',
            HINT = format('SELECT ruvector_collection_unregister(%L) first.', clash);
    END IF;
    IF EXISTS (SELECT FROM ruvector.collections c WHERE c.name = ruvector_collection_register.name) THEN
        RAISE EXCEPTION 'there is already a collection "%"', name USING ERRCODE = 'duplicate_object',
            HINT = 'Choose another name.';
    END IF;

    INSERT INTO ruvector.collections (name, relation, column_number, column_name, settings)
    VALUES (name, relation, chosen.attnum, chosen.attname,
            ruvector._patched_settings('{}', coalesce(ruvector_collection_register.settings, '{}')))
    RETURNING id INTO new_id;
    INSERT INTO ruvector.integrity (collection_id) VALUES (new_id);
    IF missing IS NOT NULL THEN
        RAISE WARNING 'collection "%" is registered but nothing watches it: %', name, missing
            USING HINT = 'Add ruvector to shared_preload_libraries and restart the server.';
    END IF;
    PERFORM ruvector._wake();
    RETURN new_id;
END
$$;

-- Forgets a collection; the table and its indexes stay as they are. Returns whether there was one.
CREATE FUNCTION ruvector_collection_unregister(name text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.collections := ruvector._collection(name);
BEGIN
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = entry.relation AND NOT pg_has_role(session_user, c.relowner, 'USAGE')) THEN
        RAISE EXCEPTION 'permission denied: % does not belong to %', entry.relation, session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owner, or a member of that role, may unregister it.';
    END IF;
    DELETE FROM ruvector.collections c WHERE c.id = entry.id;
    PERFORM ruvector._wake();
    RETURN true;
END
$$;

-- Changes settings of the server, or of one collection, and returns the effective ones.
CREATE FUNCTION ruvector_healing_configure(settings jsonb DEFAULT '{}', collection text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    patch  jsonb := coalesce(settings, '{}');
    target ruvector.collections;
    server jsonb;
BEGIN
    IF collection IS NULL THEN
        SELECT s.settings INTO server FROM ruvector.settings s FOR UPDATE;
        server := ruvector._patched_settings(server, patch);
        IF patch <> '{}' THEN
            UPDATE ruvector.settings s
               SET settings = server, version = version + 1, changed_at = clock_timestamp(), changed_by = session_user;
        END IF;
        PERFORM ruvector._wake();
        RETURN ruvector._effective_settings(server, '{}');
    END IF;
    target := ruvector._collection(collection);
    SELECT s.settings INTO server FROM ruvector.settings s;
    UPDATE ruvector.collections c SET settings = ruvector._patched_settings(c.settings, patch)
     WHERE c.id = target.id RETURNING * INTO target;
    PERFORM ruvector._wake();
    RETURN ruvector._effective_settings(server, target.settings);
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
    SELECT c.id, am.amname, t.relowner INTO entry
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
    IF NOT pg_has_role(session_user, entry.relowner, 'USAGE') THEN
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
        INSERT INTO ruvector.search_effort (index_id, collection_id, setting, effort)
        VALUES (index, entry.id,
                CASE entry.amname WHEN 'ivfflat' THEN 'ivfflat.probes' ELSE 'hnsw.ef_search' END, effort);
    END IF;
    -- The panel is measured anew at the new effort.
    DELETE FROM ruvector.readings r WHERE r.index_id = index AND r.kind = 'panel';
    PERFORM ruvector._wake();
    RETURN former;
END
$$;

-- Every vector index of the registered collections as last measured: is it valid, what do searches through it find,
-- and what do they cost? What could not be measured is NULL and "missing" says why.
CREATE FUNCTION ruvector_index_health(collection text DEFAULT NULL)
RETURNS TABLE (collection_name text, index_name text, method text, valid boolean, building boolean, equal_valid text,
               bytes bigint, rows double precision, search_effort integer,
               recall double precision, recall_ci double precision, blocks_per_query double precision, queries integer,
               measured_at timestamptz, sampled_at timestamptz, missing text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.name, x ->> 'name', x ->> 'method', (x ->> 'valid')::boolean, (x ->> 'building')::boolean,
           (x ->> 'equal_valid')::oid::regclass::text, (x #>> '{bytes,known}')::bigint,
           (x #>> '{rows,known}')::double precision, (x ->> 'effort')::integer,
           (x #>> '{recall,known,recall}')::double precision, (x #>> '{recall,known,recall_ci}')::double precision,
           (x #>> '{recall,known,blocks}')::double precision, (x #>> '{recall,known,queries}')::integer,
           r.measured_at, o.sampled_at,
           nullif(concat_ws('; ', o.note, 'rows: ' || (x #>> '{rows,unknown}'), 'recall: ' || (x #>> '{recall,unknown}')), '')
      FROM ruvector.collections c
      JOIN ruvector.integrity o ON o.collection_id = c.id
     CROSS JOIN jsonb_array_elements(o.snapshot -> 'indexes') x
      LEFT JOIN ruvector.readings r ON r.index_id = (x ->> 'oid')::oid AND r.kind = 'panel'
     WHERE ruvector_index_health.collection IS NULL
        OR c.id = (ruvector._collection(ruvector_index_health.collection)).id
     ORDER BY c.name, x ->> 'name';
END;

-- How firmly each collection hangs together: lambda_cut is the exact minimum cut of the graph of its parts, 1 when
-- healthy, 0 when a part is cut off; weakest first.
CREATE FUNCTION ruvector_integrity_status()
RETURNS TABLE (collection text, state text, lambda_cut double precision, lambda_low double precision,
               lambda_high double precision, since timestamptz, sampled_at timestamptz, samples bigint,
               explanation text, problems jsonb, remedy jsonb, note text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.name, i.state, i.lambda_cut, i.lambda_low, i.lambda_high,
           to_timestamp((i.record ->> 'since')::double precision / 1000), i.sampled_at, i.samples,
           i.explanation, i.problems, i.remedy, coalesce(i.note, ruvector._not_ready())
      FROM ruvector.collections c
      JOIN ruvector.integrity i ON i.collection_id = c.id
     ORDER BY i.lambda_cut NULLS LAST, c.name;
END;

-- The witness edges of the minimum cut: they name the weak part and the metric that weakened it.
CREATE FUNCTION ruvector_integrity_witness(collection text)
RETURNS TABLE (edge_type text, from_node text, to_node text, capacity double precision, weight double precision,
               health double precision, cause text, metric text, value double precision)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT e ->> 'edge_type', e ->> 'from', e ->> 'to', (e ->> 'capacity')::double precision,
           (e ->> 'weight')::double precision, (e ->> 'health')::double precision,
           e ->> 'cause', e ->> 'metric', (e ->> 'value')::double precision
      FROM ruvector._collection(ruvector_integrity_witness.collection) c
      JOIN ruvector.integrity i ON i.collection_id = c.id
     CROSS JOIN jsonb_array_elements(i.witness) e;
END;

-- PUBLIC gets nothing that acts and nothing that shows.
DO $$
DECLARE
    f record;
    acting constant text[] := ARRAY['ruvector_collection_register', 'ruvector_collection_unregister',
        'ruvector_healing_configure', 'ruvector_search_effort_set'];
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
                 WHEN f.proname = '_wake' THEN current_user
                 ELSE 'ruvector_monitor' END);
    END LOOP;
END
$$;

-- Starts the healer of this database once the installation commits.
SELECT ruvector._wake();
