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

-- Settings of the server as changed by ruvector_healing_configure(); defaults live in code. No row until the first change:
-- a restored dump brings its own.
CREATE TABLE ruvector.settings (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    settings    jsonb NOT NULL DEFAULT '{}',
    version     integer NOT NULL DEFAULT 1,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    changed_by  text NOT NULL DEFAULT session_user
);

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
    usual         jsonb,            -- what is learned of its load: healing::load::Usual
    record        jsonb,            -- state machine: state, since, candidate, streak
    state         text NOT NULL DEFAULT 'unknown' CHECK (state IN ('unknown', 'normal', 'stress', 'critical')),
    lambda_cut    double precision, -- NULL when it is not known; "explanation" says why
    lambda_low    double precision, -- if every unread metric were at its worst
    lambda_high   double precision,
    witness       jsonb,            -- edges of the minimum cut
    problems      jsonb,            -- weak components classified, weakest first
    explanation   text,
    remedy        jsonb,            -- the plan that fits, or why there is none
    decision      jsonb,            -- what the engine last decided: reason, detail, until, strategy
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

-- Every sample's λ and the classes of its problems, for history_days.
CREATE TABLE ruvector.integrity_history (
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    sampled_at    timestamptz NOT NULL,
    state         text NOT NULL,
    lambda_cut    double precision,
    lambda_low    double precision,
    lambda_high   double precision,
    problems      text[] NOT NULL,
    PRIMARY KEY (collection_id, sampled_at)
);

-- Slow measurements (structure, recall panel) kept between samples and over restarts.
CREATE TABLE ruvector.readings (
    index_id      oid NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('panel', 'structure')),
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    relfilenode   oid NOT NULL,
    measured_at   timestamptz NOT NULL,
    took_s        double precision NOT NULL,
    changes       bigint NOT NULL,   -- rows inserted + updated + deleted in the table when it was measured
    seed          bigint NOT NULL,
    reading       jsonb NOT NULL,
    PRIMARY KEY (index_id, kind)
);

-- Streaming replicas of this server that have been seen, by the number that problems name them with. One that vanishes is
-- missed until replica_forget_seconds have passed and its slot is gone.
CREATE TABLE ruvector.replicas (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application_name text NOT NULL,
    slot_name        text NOT NULL,    -- empty when it has none
    first_seen       timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen        timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (application_name, slot_name)
);

-- The search effort that sessions get for an index unless they set their own.
CREATE TABLE ruvector.search_effort (
    index_id      oid PRIMARY KEY,
    table_id      oid NOT NULL,      -- with the name: REINDEX CONCURRENTLY puts an index of another OID in its place
    index_name    name NOT NULL,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    setting       text NOT NULL CHECK (setting IN ('ivfflat.probes', 'hnsw.ef_search')),
    effort        integer NOT NULL CHECK (effort > 0),
    set_by        text NOT NULL DEFAULT session_user,
    set_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What was asked for or decided, and how it went: queue and record in one. Statuses and the moves between them:
-- healing::lifecycle. The healer decides, one worker an action carries it out.
CREATE TABLE ruvector.actions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id   integer NOT NULL,   -- stays when the collection is unregistered
    collection_name text NOT NULL,
    relation        oid NOT NULL,
    status          text NOT NULL DEFAULT 'proposed' CHECK (status IN ('proposed', 'awaiting_approval', 'approved',
                        'executing', 'verifying', 'succeeded', 'rolled_back', 'rollback_failed', 'failed', 'aborted',
                        'expired', 'noop', 'refused')),
    request         jsonb NOT NULL,     -- {"kind": "automatic" | "trigger" | "execute", "strategy", "params"}
    requested_by    text NOT NULL DEFAULT session_user,
    requested_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_at      timestamptz,
    reason          text,               -- of healing::engine::Reason, when it was refused
    detail          text,               -- the same with figures, or what stands in the way
    approval        text,               -- why a human must approve first, NULL when none must
    approved_by     text,
    approved_at     timestamptz,
    strategy        text,
    problem_class   text,
    problem         jsonb,
    plan            jsonb,
    rejected        jsonb,              -- alternatives not taken, each with its reason
    before          jsonb,              -- the snapshot that the plan was made from
    initial_lambda  double precision,
    started_at      timestamptz,
    starts          integer NOT NULL DEFAULT 0,      -- workers that it had
    last_start      timestamptz,
    crashed         boolean NOT NULL DEFAULT false,  -- the server crashed while it had a worker
    unfinished      boolean NOT NULL DEFAULT false,  -- it has ended, and left something that is still to be undone or dropped
    retries         integer NOT NULL DEFAULT 0,      -- times that this was tried since
    retry_at        timestamptz,                     -- and when it is next
    resumed         boolean NOT NULL DEFAULT false,  -- a worker went on with what another left complete
    deadline        timestamptz,        -- the healer stops the worker then
    progress        text,
    verification    jsonb,
    keep            boolean NOT NULL DEFAULT false,  -- the verdict to keep: before it recovery undoes, after it it finishes
    stop_reason     text CHECK (stop_reason IN ('abort', 'timeout', 'yield')),
    stop_asked_by   text,
    stop_asked_at   timestamptz,
    ended_at        timestamptz,
    lesson          text,               -- what its end says of the strategy: healing::lifecycle::Lesson
    error           text
);
CREATE INDEX ON ruvector.actions (collection_id, requested_at);
-- Single flight: one action at a time changes a collection.
CREATE INDEX actions_unfinished ON ruvector.actions (collection_id) WHERE unfinished;
CREATE UNIQUE INDEX actions_in_flight ON ruvector.actions (collection_id)
    WHERE status IN ('approved', 'executing', 'verifying');

-- Actions that have had a worker since the server's last crash: PostgreSQL empties an unlogged table after a crash and
-- keeps it over an orderly restart, which is how the two are told apart.
CREATE UNLOGGED TABLE ruvector.in_flight (
    action_id   bigint PRIMARY KEY REFERENCES ruvector.actions ON DELETE CASCADE
);

-- The journal: a step's intent is committed before its effect. The last row of a step says how far it came.
CREATE TABLE ruvector.action_steps (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action_id   bigint NOT NULL REFERENCES ruvector.actions ON DELETE CASCADE,
    step_no     integer NOT NULL,
    step        jsonb NOT NULL,
    state       text NOT NULL CHECK (state IN ('intent', 'done', 'undone', 'failed')),
    details     jsonb NOT NULL DEFAULT '{}',
    noted_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON ruvector.action_steps (action_id, id);

-- One row at the end of each action that ran; what could not be measured is NULL. improvement_pct is in percent.
CREATE TABLE ruvector.healing_outcomes (
    id              bigserial PRIMARY KEY,
    collection_id   integer NOT NULL,
    tenant_id       text,
    problem_class   text NOT NULL,
    problem_details jsonb NOT NULL,
    strategy_name   text NOT NULL,
    strategy_params jsonb,
    started_at      timestamptz NOT NULL,
    completed_at    timestamptz,
    duration_ms     integer,
    success         boolean NOT NULL,
    verified        boolean,
    actions_taken   integer,
    improvement_pct real,
    error_message   text,
    initial_lambda  real NOT NULL,
    final_lambda    real,
    witness_edges   jsonb,
    system_metrics  jsonb,
    feedback_score  real,
    created_at      timestamptz DEFAULT now(),
    action_id       bigint NOT NULL UNIQUE REFERENCES ruvector.actions,
    status          text NOT NULL,
    story           text NOT NULL
);
CREATE INDEX idx_healing_outcomes_class ON ruvector.healing_outcomes (problem_class);
CREATE INDEX idx_healing_outcomes_strategy ON ruvector.healing_outcomes (strategy_name);
CREATE INDEX idx_healing_outcomes_success ON ruvector.healing_outcomes (success, verified);

-- Why the healer acts or does not: one row whenever that changes for a collection.
CREATE TABLE ruvector.healing_decisions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    decided_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason        text,               -- NULL: it acts
    detail        text,
    until         timestamptz,        -- when the reason ends by itself
    strategy      text,
    rejected      jsonb
);
CREATE INDEX ON ruvector.healing_decisions (collection_id, id);

-- What is known of each remedy on each collection: failures in a row, and how long it waits after them.
CREATE TABLE ruvector.healing_arms (
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    strategy      text NOT NULL,
    failures      integer NOT NULL,
    backoff_until timestamptz,
    breaker_open  boolean NOT NULL,   -- closed by a human only
    closed_at     timestamptz,        -- when a human last did: what ended before says nothing any more
    PRIMARY KEY (collection_id, strategy)
);

GRANT SELECT ON ALL TABLES IN SCHEMA ruvector TO ruvector_monitor;

-- What pg_dump keeps: policy, not runtime state.
SELECT pg_catalog.pg_extension_config_dump('ruvector.settings', '');
-- A collection whose table was dropped is not: no name could be written down for it.
SELECT pg_catalog.pg_extension_config_dump('ruvector.collections',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
SELECT pg_catalog.pg_extension_config_dump('ruvector.collections_id_seq', '');

-- A collection comes from ruvector_collection_register() or from a restored dump, whose table may number its columns
-- otherwise: the name decides.
CREATE FUNCTION ruvector._number_column() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT a.attnum INTO NEW.column_number FROM pg_attribute a
     WHERE a.attrelid = NEW.relation AND a.attname = NEW.column_name AND NOT a.attisdropped;
    -- One that fits no table here must not keep the others from being restored.
    IF NEW.column_number IS NULL THEN
        RAISE WARNING 'collection "%" is left out: % has no column "%"', NEW.name, NEW.relation, NEW.column_name
            USING HINT = 'Register it again once the table is there: ruvector_collection_register().';
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER number_column BEFORE INSERT ON ruvector.collections
    FOR EACH ROW EXECUTE FUNCTION ruvector._number_column();

CREATE FUNCTION ruvector._begin_watching() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO ruvector.integrity (collection_id) VALUES (NEW.id);
    PERFORM ruvector._wake();
    RETURN NULL;
END
$$;
CREATE TRIGGER begin_watching AFTER INSERT ON ruvector.collections
    FOR EACH ROW EXECUTE FUNCTION ruvector._begin_watching();

CREATE FUNCTION ruvector._server_settings() RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce((SELECT s.settings FROM ruvector.settings s), '{}');
END;

-- Functions ---------------------------------------------------------------------------------------------------------

-- Wakes this database's healer when the calling transaction commits; nothing happens if it rolls back.
CREATE FUNCTION ruvector._wake() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'wake_wrapper';
REVOKE ALL ON FUNCTION ruvector._wake() FROM PUBLIC;

-- NULL when the library is preloaded and of this version, else what is missing.
CREATE FUNCTION ruvector._not_ready() RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'not_ready_wrapper';

-- The server variable ruvector.enabled: the switch that needs no SQL to be reached.
CREATE FUNCTION ruvector._enabled() RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'enabled_wrapper';

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

    settings := ruvector._patched_settings('{}', coalesce(settings, '{}'));
    PERFORM ruvector._effective_settings(ruvector._server_settings(), settings);
    INSERT INTO ruvector.collections (name, relation, column_number, column_name, settings)
    VALUES (name, relation, chosen.attnum, chosen.attname, ruvector_collection_register.settings)
    RETURNING id INTO new_id;
    IF missing IS NOT NULL THEN
        RAISE WARNING 'collection "%" is registered but nothing watches it: %', name, missing
            USING HINT = 'Add ruvector to shared_preload_libraries and restart the server.';
    END IF;
    RETURN new_id;
END
$$;

-- An ERROR unless the caller is the owner of the collection's table, or a member of that role.
CREATE FUNCTION ruvector._check_owner(entry ruvector.collections) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = entry.relation AND NOT pg_has_role(session_user, c.relowner, 'USAGE')) THEN
        RAISE EXCEPTION 'permission denied: % does not belong to %', entry.relation, session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owner, or a member of that role, may do this.';
    END IF;
END
$$;

-- Forgets a collection; the table and its indexes stay as they are. Returns whether there was one.
CREATE FUNCTION ruvector_collection_unregister(name text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.collections := ruvector._collection(name);
    running bigint;
BEGIN
    PERFORM ruvector._check_owner(entry);
    SELECT a.id INTO running FROM ruvector.actions a
     WHERE a.collection_id = entry.id AND a.status IN ('approved', 'executing', 'verifying');
    IF running IS NOT NULL THEN
        RAISE EXCEPTION 'action % on collection "%" is under way', running, name USING ERRCODE = 'object_in_use',
            HINT = format('SELECT ruvector_healing_abort(%s); CALL ruvector_healing_wait(%s); then try again.', running, running);
    END IF;
    UPDATE ruvector.actions a SET status = 'aborted', ended_at = clock_timestamp(), detail = 'the collection was unregistered'
     WHERE a.collection_id = entry.id AND a.status IN ('proposed', 'awaiting_approval');
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
        IF patch = '{}' THEN
            RETURN ruvector._effective_settings(ruvector._server_settings(), '{}');
        END IF;
        INSERT INTO ruvector.settings DEFAULT VALUES ON CONFLICT DO NOTHING;
        SELECT s.settings INTO server FROM ruvector.settings s FOR UPDATE;
        server := ruvector._patched_settings(server, patch);
        -- What a collection has set for itself must agree with it.
        PERFORM ruvector._effective_settings(server, c.settings) FROM ruvector.collections c;
        UPDATE ruvector.settings s
           SET settings = server, version = version + 1, changed_at = clock_timestamp(), changed_by = session_user;
        PERFORM ruvector._wake();
        RETURN ruvector._effective_settings(server, '{}');
    END IF;
    target := ruvector._collection(collection);
    server := ruvector._server_settings();
    IF patch = '{}' THEN
        RETURN ruvector._effective_settings(server, target.settings);
    END IF;
    PERFORM ruvector._check_owner(target);
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
        INSERT INTO ruvector.search_effort (index_id, table_id, index_name, collection_id, setting, effort)
        VALUES (index, entry.table_id, entry.index_name, entry.id,
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

-- The contracted graph as last observed: its nodes, then its edges between two of them. Of each: how well it is, by which
-- metric, what could not be read; of an edge whether it is in the minimum cut.
CREATE FUNCTION ruvector._graph(server jsonb, collection jsonb, snapshot jsonb) RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'graph_wrapper';

CREATE FUNCTION ruvector_integrity_graph(collection text)
RETURNS TABLE (element text, type text, name text, to_name text, weight double precision, capacity double precision,
               health double precision, low double precision, high double precision, cause text, metric text,
               value double precision, unread text[], in_witness boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT e ->> 'element', e ->> 'type', e ->> 'name', e ->> 'to', (e ->> 'weight')::double precision,
           (e ->> 'capacity')::double precision, (e ->> 'health')::double precision, (e ->> 'low')::double precision,
           (e ->> 'high')::double precision, e ->> 'cause', e ->> 'metric', (e ->> 'value')::double precision,
           ARRAY(SELECT jsonb_array_elements_text(e -> 'unread')), (e ->> 'in_witness')::boolean
      FROM ruvector._collection(ruvector_integrity_graph.collection) c
      JOIN ruvector.integrity i ON i.collection_id = c.id
     CROSS JOIN jsonb_array_elements(ruvector._graph(ruvector._server_settings(), c.settings, i.snapshot)) e;
END;

-- λ of each sample with the classes of its problems, the earliest first.
CREATE FUNCTION ruvector_integrity_history(collection text, since timestamptz DEFAULT now() - interval '24 hours')
RETURNS TABLE (sampled_at timestamptz, state text, lambda_cut double precision, lambda_low double precision,
               lambda_high double precision, problems text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT h.sampled_at, h.state, h.lambda_cut, h.lambda_low, h.lambda_high, h.problems
      FROM ruvector._collection(ruvector_integrity_history.collection) c
      JOIN ruvector.integrity_history h ON h.collection_id = c.id
     WHERE h.sampled_at >= since
     ORDER BY h.sampled_at;
END;

-- A look at the collection now, in the calling session: nothing is stored. Recall, lists and load are as the healer last
-- measured them.
CREATE FUNCTION ruvector._sample(id integer, last jsonb) RETURNS jsonb
    LANGUAGE c AS 'MODULE_PATHNAME', 'sample_wrapper';

CREATE FUNCTION ruvector_integrity_sample(collection text)
RETURNS TABLE (lambda_cut double precision, lambda_low double precision, lambda_high double precision, explanation text,
               problems jsonb, witness jsonb, snapshot jsonb)
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT (s ->> 'lambda_cut')::double precision, (s ->> 'lambda_low')::double precision,
           (s ->> 'lambda_high')::double precision, s ->> 'explanation', s -> 'problems', s -> 'witness', s -> 'snapshot'
      FROM ruvector._collection(ruvector_integrity_sample.collection) c
      LEFT JOIN ruvector.integrity i ON i.collection_id = c.id
     CROSS JOIN ruvector._sample(c.id, i.snapshot) s;
END;

-- What is wrong, in plain words: the weak parts, their edges, the metric and value behind each, since when, and what would
-- make them healthy.
CREATE FUNCTION ruvector._explanation(server jsonb, collection jsonb, snapshot jsonb, state text, since jsonb) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'explanation_wrapper';

CREATE FUNCTION ruvector_integrity_explain(collection text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH entry AS (
        SELECT c.id, c.settings, i.snapshot, i.state, i.sampled_at, i.note,
               to_timestamp((i.record ->> 'since')::double precision / 1000) AS since
          FROM ruvector._collection(ruvector_integrity_explain.collection) c
          JOIN ruvector.integrity i ON i.collection_id = c.id
    ), times (of, since) AS (
        SELECT 'state', e.since FROM entry e
        UNION ALL
        -- The first sample with the class after the last one without it.
        SELECT k.class, (SELECT min(h.sampled_at) FROM ruvector.integrity_history h
                          WHERE h.collection_id = e.id AND k.class = ANY (h.problems)
                            AND h.sampled_at > coalesce((SELECT max(o.sampled_at) FROM ruvector.integrity_history o
                                    WHERE o.collection_id = e.id AND NOT k.class = ANY (o.problems)), '-infinity'))
          FROM entry e
         CROSS JOIN LATERAL (SELECT DISTINCT p FROM ruvector.integrity_history h, unnest(h.problems) p
                              WHERE h.collection_id = e.id
                                AND h.sampled_at = (SELECT max(l.sampled_at) FROM ruvector.integrity_history l
                                                     WHERE l.collection_id = e.id)) k (class)
    )
    SELECT concat_ws(E'\n', 'The last sample failed: ' || e.note,
               coalesce(ruvector._explanation(ruvector._server_settings(), e.settings, e.snapshot, e.state,
                            (SELECT coalesce(jsonb_object_agg(t.of, to_char(t.since, 'YYYY-MM-DD HH24:MI:SS TZH:TZM'))
                                                 FILTER (WHERE t.since IS NOT NULL), '{}') FROM times t)),
                        coalesce(ruvector._not_ready(), 'The collection has not been sampled yet.')))
      FROM entry e;
END;

-- Is my index still good? Recall@k of each vector index by the panel that was last run, with its 95 % interval.
CREATE FUNCTION ruvector_recall(collection text)
RETURNS TABLE (index_name text, k integer, recall double precision, recall_low double precision,
               recall_high double precision, objective double precision, search_effort integer, queries integer,
               blocks_per_query double precision, method text, measured_at timestamptz, missing text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT x ->> 'name', (f.config ->> 'recall_k')::integer, p.recall, greatest(p.recall - p.ci, 0), least(p.recall + p.ci, 1),
           (f.config ->> 'recall_objective')::double precision, (x #>> '{recall,known,effort}')::integer,
           (x #>> '{recall,known,queries}')::integer, (x #>> '{recall,known,blocks}')::double precision,
           CASE WHEN p.recall IS NOT NULL
                THEN 'rows drawn from the table as queries, each left out of its own result; truth by an exact scan; mean and '
                     || '95 % interval over the queries' END,
           r.measured_at, concat_ws('; ', o.note, x #>> '{recall,unknown}')
      FROM ruvector._collection(ruvector_recall.collection) c
      JOIN ruvector.integrity o ON o.collection_id = c.id
     CROSS JOIN ruvector._effective_settings(ruvector._server_settings(), c.settings) AS f (config)
     CROSS JOIN jsonb_array_elements(o.snapshot -> 'indexes') x
     CROSS JOIN LATERAL (SELECT (x #>> '{recall,known,recall}')::double precision AS recall,
                                (x #>> '{recall,known,recall_ci}')::double precision AS ci) p
      LEFT JOIN ruvector.readings r ON r.index_id = (x ->> 'oid')::oid AND r.kind = 'panel'
     ORDER BY x ->> 'name';
END;

-- Asking for actions ------------------------------------------------------------------------------------------------

-- The strategies that this version has.
CREATE FUNCTION ruvector._strategies() RETURNS text[]
    LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'strategies_wrapper';

-- An ERROR with a hint when the strategy does not take these parameters.
CREATE FUNCTION ruvector._check_params(strategy text, params jsonb) RETURNS void
    LANGUAGE c STRICT IMMUTABLE AS 'MODULE_PATHNAME', 'check_params_wrapper';

-- The plan that a strategy would make from the healer's last observation; an ERROR when there is none.
CREATE FUNCTION ruvector._plan(server jsonb, collection jsonb, snapshot jsonb, strategy text, params jsonb) RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'plan_wrapper';

CREATE FUNCTION ruvector._propose(entry ruvector.collections, request jsonb) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text := ruvector._not_ready();
    new_id  bigint;
BEGIN
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'nothing can be healed: %', missing
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Add ruvector to shared_preload_libraries and restart the server.';
    END IF;
    PERFORM ruvector._check_owner(entry);
    INSERT INTO ruvector.actions (collection_id, collection_name, relation, request)
    VALUES (entry.id, entry.name, entry.relation, request) RETURNING id INTO new_id;
    PERFORM ruvector._wake();
    RETURN new_id;
END
$$;

-- Asks the healer to heal a collection now, without waiting for state, dwell and cooldown. Returns the action's number.
CREATE FUNCTION ruvector_healing_trigger(collection text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ruvector._propose(ruvector._collection(collection), '{"kind": "trigger"}');
END
$$;

-- Runs one strategy on a collection. Returns the action's number; with {"dry_run": true} only the plan.
CREATE FUNCTION ruvector_healing_execute(
    collection text, strategy text, params jsonb DEFAULT '{}', OUT action_id bigint, OUT plan jsonb
)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry    ruvector.collections := ruvector._collection(collection);
    server   jsonb;
    observed jsonb;
BEGIN
    IF strategy IS NULL OR NOT strategy = ANY (ruvector._strategies()) THEN
        RAISE EXCEPTION 'there is no strategy "%"', strategy
            USING ERRCODE = 'undefined_object',
                  HINT = format('There are: %s.', array_to_string(ruvector._strategies(), ', '));
    END IF;
    params := coalesce(params, '{}');
    PERFORM ruvector._check_params(strategy, params);
    IF (params ->> 'dry_run')::boolean THEN
        server := ruvector._server_settings();
        SELECT i.snapshot INTO observed FROM ruvector.integrity i WHERE i.collection_id = entry.id;
        IF observed IS NULL THEN
            RAISE EXCEPTION 'collection "%" was not observed yet', collection
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = coalesce(ruvector._not_ready(), 'Try again after the next sample.');
        END IF;
        plan := ruvector._plan(server, entry.settings, observed, strategy, params);
        RETURN;
    END IF;
    action_id := ruvector._propose(entry, jsonb_build_object('kind', 'execute', 'strategy', strategy, 'params', params));
END
$$;

CREATE FUNCTION ruvector._action(action_id bigint) RETURNS ruvector.actions
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.actions;
BEGIN
    SELECT * INTO entry FROM ruvector.actions a WHERE a.id = action_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no action %', action_id
            USING ERRCODE = 'undefined_object', HINT = 'SELECT id, status FROM ruvector.actions lists them.';
    END IF;
    RETURN entry;
END
$$;

-- Lets a plan that waits for a human run. Returns whether it was waiting.
CREATE FUNCTION ruvector_healing_approve(action_id bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.actions := ruvector._action(action_id);
BEGIN
    PERFORM ruvector._check_owner(c) FROM ruvector.collections c WHERE c.id = entry.collection_id;
    IF NOT EXISTS (SELECT FROM ruvector.collections c
                    WHERE c.id = entry.collection_id AND ruvector._enabled()
                      AND (ruvector._effective_settings(ruvector._server_settings(), c.settings) ->> 'enabled')::boolean) THEN
        RAISE EXCEPTION 'healing of collection "%" is switched off', entry.collection_name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Switch it on first: ruvector_healing_configure(''{"enabled": true}'') or ruvector.enabled.';
    END IF;
    UPDATE ruvector.actions a SET status = 'approved', approved_by = session_user, approved_at = clock_timestamp()
     WHERE a.id = action_id AND a.status = 'awaiting_approval';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM ruvector._wake();
    RETURN true;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'another action on collection "%" is under way', entry.collection_name
        USING ERRCODE = 'object_in_use', HINT = 'Approve again once it has ended.';
END
$$;

-- Stops an action: one that has not begun ends at once, a running one is stopped and undone. Returns whether there was
-- anything to stop; wait for the end with CALL ruvector_healing_wait().
CREATE FUNCTION ruvector_healing_abort(action_id bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.actions := ruvector._action(action_id);
BEGIN
    PERFORM ruvector._check_owner(c) FROM ruvector.collections c WHERE c.id = entry.collection_id;
    UPDATE ruvector.actions a
       SET status = 'aborted', ended_at = clock_timestamp(), stop_reason = 'abort', stop_asked_by = session_user,
           stop_asked_at = clock_timestamp(), detail = 'aborted before it began'
     WHERE a.id = action_id AND a.status IN ('proposed', 'awaiting_approval');
    IF FOUND THEN
        RETURN true;
    END IF;
    -- Once the verdict to keep is recorded there is nothing to stop: what is left is tidying up.
    UPDATE ruvector.actions a
       SET stop_reason = 'abort', stop_asked_by = session_user, stop_asked_at = clock_timestamp()
     WHERE a.id = action_id AND a.status IN ('approved', 'executing', 'verifying') AND NOT a.keep AND a.stop_reason IS NULL;
    IF FOUND THEN
        PERFORM ruvector._wake();
        RETURN true;
    END IF;
    RETURN false;
END
$$;

-- Lets remedies run again that wait since they failed, were no gain or were put off, or that were given up after too many
-- failures: all of a collection, or one.
-- Returns how many there were.
CREATE FUNCTION ruvector_healing_reset(collection text, strategy text DEFAULT NULL) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry  ruvector.collections := ruvector._collection(collection);
    closed integer;
BEGIN
    PERFORM ruvector._check_owner(entry);
    IF NOT strategy = ANY (ruvector._strategies()) THEN
        RAISE EXCEPTION 'there is no strategy "%"', strategy
            USING ERRCODE = 'undefined_object',
                  HINT = format('There are: %s.', array_to_string(ruvector._strategies(), ', '));
    END IF;
    INSERT INTO ruvector.healing_arms AS m (collection_id, strategy, failures, breaker_open, closed_at)
    SELECT entry.id, s, 0, false, clock_timestamp()
      FROM unnest(ruvector._strategies()) s
     WHERE s = coalesce(ruvector_healing_reset.strategy, s)
       AND EXISTS (SELECT FROM ruvector.actions a
                     LEFT JOIN ruvector.healing_arms k ON k.collection_id = a.collection_id AND k.strategy = a.strategy
                    WHERE a.collection_id = entry.id AND a.strategy = s
                      AND a.lesson IN ('no_gain', 'postponed', 'fault', 'undo_failed')
                      AND a.ended_at > coalesce(k.closed_at, '-infinity'))
    ON CONFLICT ON CONSTRAINT healing_arms_pkey DO UPDATE
       SET (failures, backoff_until, breaker_open, closed_at) = (0, NULL, false, EXCLUDED.closed_at);
    GET DIAGNOSTICS closed = ROW_COUNT;
    UPDATE ruvector.actions a SET retry_at = clock_timestamp() WHERE a.collection_id = entry.id AND a.unfinished;
    PERFORM ruvector._wake();
    RETURN closed;
END
$$;

CREATE FUNCTION ruvector._action_status(action_id bigint) RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT (ruvector._action(action_id)).status $$;

-- Waits until an action has ended, at most "timeout"; "status" is how it ended or stands. Each look is a transaction of
-- its own, so that waiting holds nothing back: CALL it outside a transaction.
CREATE PROCEDURE ruvector_healing_wait(action_id bigint, timeout interval DEFAULT '1 hour', INOUT status text DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    until constant timestamptz := clock_timestamp() + timeout;
BEGIN
    LOOP
        status := ruvector._action_status(action_id);
        EXIT WHEN status NOT IN ('proposed', 'awaiting_approval', 'approved', 'executing', 'verifying')
               OR clock_timestamp() >= until;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
END
$$;

-- How healing stands: first the server as a whole (no collection), then each collection. active_remediations lists the
-- actions under way.
CREATE FUNCTION ruvector_healing_status()
RETURNS TABLE (enabled boolean, last_healing timestamptz, total_healings_24h bigint, success_rate double precision,
               active_remediations jsonb, cooldown_until timestamptz,
               collection text, mode text, state text, lambda_cut double precision, pending_approvals bigint, why_not text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH counted AS (
        SELECT o.collection_id, max(o.completed_at) AS last_healing,
               count(*) FILTER (WHERE o.completed_at > now() - interval '24 hours') AS healings_24h,
               count(*) FILTER (WHERE o.success AND o.verified)::double precision AS verified, count(*) AS all_outcomes
          FROM ruvector.healing_outcomes o GROUP BY o.collection_id
    ), moving AS (
        SELECT a.collection_id,
               jsonb_agg(jsonb_build_object('action_id', a.id, 'collection', a.collection_name, 'strategy', a.strategy,
                                            'status', a.status, 'started_at', a.started_at, 'progress', a.progress)
                         ORDER BY a.id) FILTER (WHERE a.status IN ('approved', 'executing', 'verifying')) AS active,
               count(*) FILTER (WHERE a.status = 'awaiting_approval') AS pending,
               max(coalesce(a.ended_at, a.started_at)) FILTER (WHERE a.started_at IS NOT NULL) AS last_end
          FROM ruvector.actions a GROUP BY a.collection_id
    ), per_collection AS (
        SELECT c.id, c.name, e.config, i.state, i.lambda_cut, i.decision, i.note, m.active, m.pending,
               CASE WHEN m.last_end + e.cooldown > now() THEN m.last_end + e.cooldown END AS cooldown_until
          FROM ruvector.collections c
          JOIN ruvector.integrity i ON i.collection_id = c.id
         CROSS JOIN LATERAL (SELECT f.config,
                    make_interval(secs => (f.config ->> 'min_healing_interval_seconds')::double precision) AS cooldown
               FROM ruvector._effective_settings(ruvector._server_settings(), c.settings) AS f (config)) e
          LEFT JOIN moving m ON m.collection_id = c.id
    )
    SELECT (ruvector._effective_settings(s.settings, '{}') ->> 'enabled')::boolean AND ruvector._enabled()
               AND ruvector._not_ready() IS NULL,
           (SELECT max(last_healing) FROM counted), (SELECT coalesce(sum(healings_24h), 0)::bigint FROM counted),
           (SELECT sum(verified) / nullif(sum(all_outcomes), 0)::double precision FROM counted),
           (SELECT coalesce(jsonb_agg(x ORDER BY x -> 'action_id'), '[]') FROM moving m, jsonb_array_elements(m.active) x),
           (SELECT max(p.cooldown_until) FROM per_collection p),
           NULL::text, ruvector._effective_settings(s.settings, '{}') ->> 'mode', NULL::text,
           (SELECT min(p.lambda_cut) FROM per_collection p), (SELECT coalesce(sum(pending), 0)::bigint FROM moving),
           CASE WHEN ruvector._not_ready() IS NOT NULL THEN ruvector._not_ready()
                WHEN NOT ruvector._enabled() THEN 'ruvector.enabled is off' END
      FROM (SELECT ruvector._server_settings() AS settings) s
    UNION ALL
    (SELECT (p.config ->> 'enabled')::boolean AND ruvector._enabled() AND ruvector._not_ready() IS NULL,
           c.last_healing, coalesce(c.healings_24h, 0), c.verified / nullif(c.all_outcomes, 0),
           coalesce(p.active, '[]'), p.cooldown_until,
           p.name, p.config ->> 'mode', p.state, p.lambda_cut, coalesce(p.pending, 0),
           coalesce(ruvector._not_ready(), p.note, p.decision ->> 'detail')
      FROM per_collection p
      LEFT JOIN counted c ON c.collection_id = p.id
     ORDER BY p.name);
END;

-- What was healed, the latest first, each with its whole story in words.
CREATE FUNCTION ruvector_healing_history(since timestamptz DEFAULT now() - interval '24 hours', limit_ integer DEFAULT 20)
RETURNS TABLE (id bigint, action_id bigint, collection text, problem_class text, strategy text, status text,
               started_at timestamptz, completed_at timestamptz, duration interval, success boolean, verified boolean,
               improvement_pct real, initial_lambda real, final_lambda real, error_message text, story text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT o.id, o.action_id, a.collection_name, o.problem_class, o.strategy_name, o.status, o.started_at, o.completed_at,
           make_interval(secs => o.duration_ms / 1000.0), o.success, o.verified, o.improvement_pct, o.initial_lambda,
           o.final_lambda, o.error_message, o.story
      FROM ruvector.healing_outcomes o JOIN ruvector.actions a ON a.id = o.action_id
     WHERE o.completed_at >= since
     ORDER BY o.completed_at DESC, o.id DESC LIMIT limit_;
END;

-- PUBLIC gets nothing that acts and nothing that shows.
DO $$
DECLARE
    f record;
    acting constant text[] := ARRAY['ruvector_collection_register', 'ruvector_collection_unregister',
        'ruvector_healing_configure', 'ruvector_search_effort_set', 'ruvector_healing_trigger', 'ruvector_healing_execute',
        'ruvector_healing_approve', 'ruvector_healing_abort', 'ruvector_healing_reset'];
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
