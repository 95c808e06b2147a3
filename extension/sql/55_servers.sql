-- Partitions on other servers ------------------------------------------------------------------------------------------
-- Foreign tables of postgres_fdw are partitions of a managed collection like others: searches through the root look into
-- them, and the healer looks at them over a connection of its own, by the user mapping of the collection's owner.

-- The next free number of a partition, and the collection's route. Whoever sets weights is waited for here, before the table's
-- lock, behind which everybody waits.
CREATE FUNCTION ruvector._next_place(relation regclass) RETURNS TABLE (route text, number integer)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    route := (ruvector._managed(relation)).route;
    PERFORM FROM ruvector.managed m WHERE m.route = _next_place.route FOR NO KEY UPDATE;
    SELECT 1 + max(r.partition_id) INTO number FROM ruvector.routing r WHERE r.route = _next_place.route;
    -- As many as shared memory keeps of one collection.
    IF (SELECT count(*) FROM ruvector.routing r WHERE r.route = _next_place.route AND r.attached) >= 64 THEN
        RAISE EXCEPTION 'a managed collection has 64 partitions at most' USING ERRCODE = 'program_limit_exceeded',
            HINT = 'Move rows out of one and drop it first.';
    END IF;
    RETURN NEXT;
END
$$;

CREATE FUNCTION ruvector._add_place(relation regclass, number integer, leaf regclass, weight double precision) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO ruvector.routing (route, partition_id, leaf, elsewhere, weight)
    SELECT (ruvector._managed(relation)).route, number, c.oid, c.relkind = 'f', _add_place.weight
      FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = relation
     WHERE c.oid = leaf;
    PERFORM ruvector._audit('attached', NULL, (ruvector._managed(relation)).route, NULL, NULL,
        jsonb_build_object('relation', relation, 'partition_id', number, 'leaf', leaf, 'weight', weight));
    PERFORM ruvector._wake();
END
$$;

-- Reads the columns of a foreign table as the collection's owner, whose user mapping the healer takes too: an ERROR where the
-- server, the table or a column is not there, or may not be read.
CREATE FUNCTION ruvector._ask_far_table(relation regclass, leaf text, server name, columns text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner name := (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = relation);
BEGIN
    EXECUTE format('ALTER FOREIGN TABLE %s OWNER TO %I', leaf, owner);
    -- One row is asked for: of none nothing is sent.
    PERFORM ruvector._as_owner(relation, format('SELECT row(%s)::text FROM %s LIMIT 1', columns, leaf));
EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION 'server "%" gives no such rows as those of %', server, relation USING ERRCODE = SQLSTATE, DETAIL = SQLERRM,
        HINT = format('The table must be there with the columns %s, and role %I must reach it by a user mapping of its own.', columns, owner);
END
$$;

-- Adds a partition that is a table of another PostgreSQL server, which postgres_fdw knows; returns its number. The table must
-- be there, with the collection's columns and a primary key, and so must the foreign server and a user mapping for the
-- collection's owner. New rows go there by "weight", against the weights of the others. A root with foreign partitions can
-- have no unique index (PostgreSQL refuses it): the first call takes the primary key from the root and gives one to each
-- partition here, which locks the collection until those are built.
CREATE FUNCTION ruvector_collection_attach(
    relation regclass, server name, "table" text, schema text DEFAULT 'public', weight double precision DEFAULT 0
) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place  record;
    home   text;
    bare   text;
    leaf   text;
    keys   text;
    one    regclass;
    unique_ text;
    columns text;
    typed  text;
BEGIN
    SELECT * INTO place FROM ruvector._next_place(relation);
    SELECT n.nspname, c.relname INTO home, bare FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    IF weight IS NULL OR NOT weight BETWEEN 0 AND 1000000 THEN
        RAISE EXCEPTION 'a weight is 0 to 1000000' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Only its proportion to the other weights counts; 0 sends no new rows there.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw JOIN pg_proc h ON h.oid = w.fdwhandler
                    WHERE s.srvname = server AND h.probin = '$libdir/postgres_fdw') THEN
        RAISE EXCEPTION 'there is no server "%" of postgres_fdw', server USING ERRCODE = 'undefined_object',
            HINT = 'CREATE EXTENSION postgres_fdw; CREATE SERVER … FOREIGN DATA WRAPPER postgres_fdw; CREATE USER MAPPING for the table''s owner.';
    END IF;
    IF EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid IN (SELECT p.relid FROM pg_partition_tree(relation) p)) THEN
        RAISE EXCEPTION 'foreign keys refer to %', relation USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'A table with partitions on other servers can have no unique index, which they need.';
    END IF;
    IF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = relation AND (g.tgoldtable IS NOT NULL OR g.tgnewtable IS NOT NULL)) THEN
        RAISE EXCEPTION '% has triggers that see all rows of a statement: %', relation,
            (SELECT string_agg(g.tgname, ', ') FROM pg_trigger g WHERE g.tgrelid = relation AND (g.tgoldtable IS NOT NULL OR g.tgnewtable IS NOT NULL))
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'PostgreSQL refuses a write that reaches a foreign partition under such a trigger; those of a key table are among them.';
    END IF;
    SELECT string_agg(i.indexrelid::regclass::text, ', ') INTO unique_
      FROM pg_index i WHERE i.indrelid = relation AND i.indisunique AND NOT i.indisprimary;
    IF unique_ IS NOT NULL THEN
        RAISE EXCEPTION '% has unique indexes: %', relation, unique_ USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'PostgreSQL allows none on a table with foreign partitions; give each partition its own instead.';
    END IF;
    leaf := format('%I.%I', home, bare || '_' || place.number);
    -- It is asked before the collection is locked: that server may be slow.
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
           string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
      INTO columns, typed FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
    EXECUTE format('CREATE FOREIGN TABLE %s (%s) SERVER %I OPTIONS (schema_name %L, table_name %L)', leaf, typed, server, schema, "table");
    PERFORM ruvector._ask_far_table(relation, leaf, server, columns);
    EXECUTE format('DROP FOREIGN TABLE %s', leaf);
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY array_position(i.indkey::int2[], a.attnum)) INTO keys
      FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
     WHERE i.indrelid = relation AND i.indisprimary;
    PERFORM ruvector._lock_soon(relation, 'ACCESS EXCLUSIVE', 'SELECT ruvector_collection_attach()', whole => keys IS NOT NULL);
    IF keys IS NOT NULL THEN
        EXECUTE (SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', relation, k.conname) FROM pg_constraint k
                  WHERE k.conrelid = relation AND k.contype = 'p');
        FOR one IN SELECT p.relid FROM pg_partition_tree(relation) p JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'r' LOOP
            EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (%s)', one, keys);
        END LOOP;
    END IF;
    EXECUTE format('CREATE FOREIGN TABLE %s PARTITION OF %s FOR VALUES IN (%s) SERVER %I OPTIONS (schema_name %L, table_name %L)',
        leaf, relation, place.number, server, schema, "table");
    EXECUTE format('ALTER FOREIGN TABLE %s OWNER TO %I', leaf, (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = relation));
    PERFORM ruvector._add_place(relation, place.number, leaf::regclass, weight);
    RETURN place.number;
END
$$;

-- The other servers that hold partitions of collections, as the healer last saw them. "answers" is NULL, as the figures are,
-- where it could not look; "error" says why, and for how long the server has not answered.
CREATE FUNCTION ruvector_servers()
RETURNS TABLE (collection text, server text, partitions text[], answers boolean, silent_seconds double precision, error text,
               connections_pct double precision, live_rows double precision, bytes bigint, blocks_per_second double precision,
               sampled_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.name, s ->> 'name', p.names,
           CASE WHEN s ->> 'unreachable_s' IS NOT NULL THEN false WHEN s ->> 'error' IS NULL THEN true END,
           (s ->> 'unreachable_s')::double precision,
           coalesce(s ->> 'error', s #>> '{connections_pct,unknown}'),
           (s #>> '{connections_pct,known}')::double precision, p.live_rows, p.bytes, p.blocks, i.sampled_at
      FROM ruvector.collections c
      JOIN ruvector.integrity i ON i.collection_id = c.id
     CROSS JOIN jsonb_array_elements(i.snapshot -> 'servers') s
     CROSS JOIN LATERAL (
         SELECT array_agg(x ->> 'name' ORDER BY x ->> 'name') AS names,
                CASE WHEN bool_and(x #> '{live_rows,known}' IS NOT NULL) THEN sum((x #>> '{live_rows,known}')::double precision) END AS live_rows,
                CASE WHEN bool_and(x #> '{bytes,known}' IS NOT NULL) THEN sum((x #>> '{bytes,known}')::bigint)::bigint END AS bytes,
                CASE WHEN bool_and(x #> '{load,known}' IS NOT NULL) THEN sum((x #>> '{load,known,blocks}')::double precision) END AS blocks
           FROM jsonb_array_elements(i.snapshot -> 'partitions') x WHERE x ->> 'server' = s ->> 'name') p
     WHERE s ->> 'name' <> ''
     ORDER BY c.name, s ->> 'name';
END;

-- Batches of rows that an action moves to another server, or back, by two-phase commit: what is noted here decides. "intent" is
-- committed before anything is done there; "decided" with the change here, from when on the other server is told to commit until it
-- has; "done" afterwards. What is "given_up" is rolled back there, and "rolled_back" once it is. "in_doubt": decided here, and the other server neither
-- holds it prepared nor has the rows as it should; that is for a human. Its prepared transaction is called
-- "gid", which is ruvector_<system identifier>_<database>_<id> as they were then.
CREATE TABLE ruvector.server_batches (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL,
    action_id     bigint NOT NULL,
    leaf          oid NOT NULL,        -- the foreign table
    keys          text[] NOT NULL,
    fetched       boolean NOT NULL DEFAULT false,    -- the rows come back from there
    state         text NOT NULL DEFAULT 'intent'
                  CHECK (state IN ('intent', 'decided', 'done', 'given_up', 'rolled_back', 'in_doubt')),
    noted_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    gid           text                 -- NULL: as it would be called now
);
CREATE INDEX ON ruvector.server_batches (collection_id) WHERE state NOT IN ('done', 'rolled_back');
