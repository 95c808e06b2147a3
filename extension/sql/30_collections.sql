-- A collection comes from ruvector_collection_register() or from a restored dump, whose table may number its columns
-- otherwise: the name decides.
CREATE FUNCTION ruvector._number_column() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT a.attnum INTO NEW.column_number FROM pg_attribute a
     WHERE a.attrelid = NEW.relation AND a.attname = NEW.column_name AND NOT a.attisdropped;
    -- One that fits no table here must not keep the others from being restored.
    IF NEW.relation::oid = 0 THEN
        RAISE WARNING 'collection "%" is left out: its table is not there', NEW.name
            USING HINT = 'Register it again once the table is there: ruvector_collection_register().';
        RETURN NULL;
    END IF;
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
    IF NOT pg_has_role(ruvector._caller(), owner, 'USAGE') THEN
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
    PERFORM ruvector._audit('registered', NULL, name,
        format('SELECT ruvector_collection_register(%L, %L, %L, %L)', name, relation, chosen.attname, settings),
        format('SELECT ruvector_collection_unregister(%L)', name));
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
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = entry.relation AND NOT pg_has_role(ruvector._caller(), c.relowner, 'USAGE')) THEN
        RAISE EXCEPTION 'permission denied: % does not belong to %', entry.relation, session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owner, or a member of that role, may do this.';
    END IF;
END
$$;

-- An ERROR unless the caller is the owner of the database, a member of that role, or a superuser: what concerns all
-- collections is not for the owner of one.
CREATE FUNCTION ruvector._check_database_owner() RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_database d WHERE d.datname = current_database() AND NOT pg_has_role(ruvector._caller(), d.datdba, 'USAGE')) THEN
        RAISE EXCEPTION 'permission denied: this concerns all collections of database "%"', current_database()
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'The owner of the database, a member of that role or a superuser may do this; for one collection, name it.';
    END IF;
END
$$;

-- An ERROR while moves of a collection (NULL: of any) to or from another server are not at their end. What that server has prepared
-- of ours would stay prepared, and rows that are decided here would be nowhere: nobody looks after a collection that is not registered.
-- By the name that was noted, else as gid_prefix() names it; what is decided here is committed there, and anything else rolled back.
CREATE FUNCTION ruvector._no_open_batches(collection integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    open  bigint;
    names text;
    there text;
    copy  boolean;
BEGIN
    IF collection IS NULL THEN
        -- Batches that are about to begin wait, for ever where the extension goes; those of a transaction's own snapshot would not do.
        IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
            RAISE EXCEPTION 'whether moves between servers are at their end cannot be told in a % transaction', current_setting('transaction_isolation')
                USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed'', then try again.';
        END IF;
        LOCK TABLE ruvector.server_batches IN SHARE MODE;
    END IF;
    SELECT count(*), bool_or(c.identity <> ruvector._identity()), string_agg(DISTINCT format('"%s"', coalesce(c.name, b.collection_id::text)), ', '),
           string_agg(format('%s PREPARED %L on %s', CASE b.state WHEN 'decided' THEN 'COMMIT' ELSE 'ROLLBACK' END,
                             coalesce(b.gid, format('ruvector_%s_%s_%s', (SELECT c.system_identifier FROM pg_control_system() c),
                                    (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()), b.id)),
                             coalesce(quote_ident(s.srvname), 'its server')), ', ' ORDER BY b.id) FILTER (WHERE b.state <> 'in_doubt')
      INTO open, copy, names, there
      FROM ruvector.server_batches b
      LEFT JOIN ruvector.collections c ON c.id = b.collection_id
      LEFT JOIN pg_foreign_table f ON f.ftrelid = b.leaf
      LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
     WHERE b.collection_id = coalesce(collection, b.collection_id) AND b.state NOT IN ('done', 'rolled_back');
    IF open > 0 THEN
        RAISE EXCEPTION 'moves of collection % to or from another server are not at their end', names USING ERRCODE = 'object_in_use',
            DETAIL = format('%s rows of ruvector.server_batches are open.', open),
            HINT = CASE WHEN copy THEN 'This may be a copy of the server that began them (ruvector_identity_confirm()): then leave the other server alone, '
                                    || 'and a superuser deletes them from ruvector.server_batches here.'
            ELSE 'They are brought to it as soon as that server answers (ruvector_servers() says why it does not). '
                || coalesce(format('By hand, what is decided is to be committed there, and anything else rolled back: %s. ', there), '')
                || 'After that, where it never will answer, or where one is in_doubt and you have looked after its keys, a superuser deletes them from ruvector.server_batches.' END;
    END IF;
END
$$;

CREATE FUNCTION ruvector._unregister(name text) RETURNS boolean
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
    -- Nobody puts right what is left on a collection that is not registered. Of a table that was dropped nothing is.
    SELECT a.id INTO running FROM ruvector.actions a
     WHERE a.collection_id = entry.id AND a.unfinished AND EXISTS (SELECT FROM pg_class c WHERE c.oid = entry.relation);
    IF running IS NOT NULL THEN
        RAISE EXCEPTION 'action % on collection "%" has left something that is still to be put right', running, name
            USING ERRCODE = 'object_in_use',
                  HINT = format('SELECT ruvector_healing_reset(%L) has it tried at once; ruvector_healing_explain(%s) says what it is.', name, running);
    END IF;
    PERFORM ruvector._no_open_batches(entry.id);
    UPDATE ruvector.actions a SET status = 'aborted', ended_at = clock_timestamp(), detail = 'the collection was unregistered'
     WHERE a.collection_id = entry.id AND a.status IN ('proposed', 'awaiting_approval');
    DELETE FROM ruvector.collections c WHERE c.id = entry.id;
    PERFORM ruvector._audit('unregistered', NULL, name, format('SELECT ruvector_collection_unregister(%L)', name),
        format('SELECT ruvector_collection_register(%L, %L, %L, %L)', name, entry.relation, entry.column_name, entry.settings));
    PERFORM ruvector._wake();
    RETURN true;
END
$$;

-- Forgets a collection; the table and its indexes stay as they are. Returns whether there was one.
CREATE FUNCTION ruvector_collection_unregister(name text) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT ruvector._unregister(name);
END;
