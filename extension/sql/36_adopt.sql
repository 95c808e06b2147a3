-- Adopting a table ------------------------------------------------------------------------------------------------------
-- A table becomes a managed collection by a copy in batches, each of them committed: it can be interrupted and goes on when
-- called again. What is written meanwhile is noted by a trigger, by key, and copied after.

CREATE TABLE ruvector.adoptions (
    source       regclass PRIMARY KEY,
    target       regclass NOT NULL,
    name         text NOT NULL,        -- of the collection
    changes      regclass NOT NULL,    -- keys that were written to since it began
    noting       oid NOT NULL,         -- the function that notes them
    as_begun     text NOT NULL,        -- file, columns, key and triggers of the source, as they were
    key_column   name NOT NULL,
    vector_column name NOT NULL,
    tenant_column name,
    partitions   integer NOT NULL,
    index_method text NOT NULL,
    distance     text NOT NULL,
    settings     jsonb NOT NULL,
    state        text NOT NULL DEFAULT 'copying' CHECK (state IN ('copying', 'indexing', 'catching up')),
    copied_to    text,                 -- greatest key copied so far
    rows_copied  bigint NOT NULL DEFAULT 0,
    rows_total   bigint,               -- planner's estimate when it began, NULL where there was none
    began_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    noted_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- An ERROR that says why a table cannot be adopted, if it cannot.
CREATE FUNCTION ruvector._check_adoptable(source regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry   pg_class;
    why     text;
    unique_ text;
    keeping text;
BEGIN
    SELECT * INTO entry FROM pg_class c WHERE c.oid = source;
    IF NOT pg_has_role(ruvector._caller(), entry.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'permission denied: % does not belong to %', source, session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owner, or a member of that role, may adopt it.';
    END IF;
    why := CASE
        WHEN entry.relkind <> 'r' OR entry.relispartition OR entry.relpersistence <> 'p'
            OR EXISTS (SELECT FROM pg_inherits i WHERE source IN (i.inhrelid, i.inhparent))
            THEN 'it is not an ordinary, stand-alone table'
        WHEN (SELECT cardinality(k.conkey) FROM pg_constraint k WHERE k.conrelid = source AND k.contype = 'p') IS DISTINCT FROM 1
            THEN 'it has no primary key of one column'
        WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = source AND a.attname = 'partition_id' AND NOT a.attisdropped)
            THEN 'it has a column partition_id'
        WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = source AND a.attgenerated <> '' AND NOT a.attisdropped)
            THEN 'it has generated columns'
        WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND source IN (k.conrelid, k.confrelid))
            THEN 'foreign keys refer to it or from it'
        WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = source AND k.contype IN ('u', 'x'))
            THEN 'it has unique or exclusion constraints beside its primary key, which cannot hold across partitions'
        WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = source AND NOT t.tgisinternal AND t.tgname NOT IN ('ruvector_adoption', 'ruvector_adoption_whole'))
            THEN 'it has triggers'
        WHEN entry.relrowsecurity OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = source) THEN 'it has row security, or policies for it'
        WHEN EXISTS (SELECT FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
                      WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = source)
            THEN 'views depend on it, which would go on showing the former table'
        -- Not pg_publication_tables, which looks into every published table.
        WHEN EXISTS (SELECT FROM pg_publication_rel p WHERE p.prrelid = source) OR EXISTS (SELECT FROM pg_publication p WHERE p.puballtables)
            OR EXISTS (SELECT FROM pg_publication_namespace p WHERE p.pnnspid = entry.relnamespace) THEN 'it is published'
        WHEN EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srrelid = source) THEN 'a subscription writes to it'
    END;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION '% cannot be adopted: %', source, why USING ERRCODE = 'feature_not_supported',
            HINT = CASE WHEN why = 'it has no primary key of one column' THEN 'Give it a primary key of one column first.'
                        ELSE 'Remove that first, or make a new collection with ruvector_collection_create() and fill it yourself.' END;
    END IF;
    -- No constraint belongs to what CREATE UNIQUE INDEX makes.
    SELECT string_agg(x.indexrelid::regclass::text, ', ') INTO unique_
      FROM pg_index x WHERE x.indrelid = source AND x.indisunique AND NOT x.indisprimary;
    IF unique_ IS NOT NULL THEN
        RAISE EXCEPTION '% cannot be adopted: it has unique indexes beside its primary key, which cannot hold across partitions', source
            USING ERRCODE = 'feature_not_supported',
                  HINT = format('If nothing relies on what they keep unique, DROP INDEX %s first; else make a new collection with ruvector_collection_create() and fill it yourself.', unique_);
    END IF;
    -- What was parsed when it was made (BEGIN ATOMIC, a policy) keeps the table's OID, or its row type's, not its name. Parts of the
    -- table itself do not count; a trigger of another one depends on it as its own do. The same with the sequence of an identity.
    SELECT string_agg(DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), ', ') INTO keeping
      FROM (VALUES ('pg_class'::regclass::oid, source::oid), ('pg_type'::regclass::oid, entry.reltype),
                   ('pg_type'::regclass::oid, (SELECT t.typarray FROM pg_type t WHERE t.oid = entry.reltype))
            UNION ALL
            SELECT s.classid, s.objid FROM pg_depend s
             WHERE s.classid = 'pg_class'::regclass AND s.refclassid = 'pg_class'::regclass AND s.refobjid = source AND s.refobjsubid > 0
               AND s.deptype = 'i') o (class, object)
      JOIN pg_depend d ON d.refclassid = o.class AND d.refobjid = o.object
     WHERE (d.deptype = 'n' OR d.classid = 'pg_trigger'::regclass)
       AND NOT EXISTS (SELECT FROM pg_constraint k WHERE d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.conrelid = source)
       AND NOT EXISTS (SELECT FROM pg_trigger t WHERE d.classid = 'pg_trigger'::regclass AND t.oid = d.objid AND t.tgrelid = source);
    IF keeping IS NOT NULL THEN
        RAISE EXCEPTION '% cannot be adopted: what refers to it would go on with the former table: %', source, keeping
            USING ERRCODE = 'feature_not_supported', HINT = 'Drop that first, and make it anew once the table is a collection.';
    END IF;
END
$$;

-- Locks a table, or is refused after two seconds, or as soon as the session gives up itself ("most"): whoever comes to the table
-- meanwhile waits behind. "whole": with its partitions. "again": what is to be called again then.
CREATE FUNCTION ruvector._lock_soon(
    relation regclass, mode text, again text, whole boolean DEFAULT true, most text DEFAULT pg_catalog.current_setting('lock_timeout')
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $$
BEGIN
    -- 0 is for ever.
    IF most::interval > interval '0' AND most::interval < interval '2 s' THEN
        PERFORM set_config('lock_timeout', most, true);
    END IF;
    EXECUTE format('LOCK TABLE %s %s IN %s MODE', CASE WHEN whole THEN '' ELSE 'ONLY' END, relation, mode);
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION '% is in use, and its lock was not to be had in time', relation USING ERRCODE = 'lock_not_available',
        HINT = format('SELECT pid FROM pg_locks WHERE relation = %s AND granted says by whom. Nothing was changed: %s again once they are done.',
                      relation::oid, again);
END
$$;

-- An ERROR in a transaction whose snapshot is older than its locks: what a writer wrote for which LOCK TABLE has waited would
-- not be seen, and be lost.
CREATE FUNCTION ruvector._check_fresh_snapshots() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- PostgreSQL treats read uncommitted the same.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a table cannot be adopted in a % transaction', current_setting('transaction_isolation')
            USING ERRCODE = 'active_sql_transaction',
                  HINT = 'SET default_transaction_isolation = ''read committed'', then CALL it again.';
    END IF;
END
$$;

-- Gives what is made for an adoption to the table's owner, whoever it is that adopts: a superuser, or a member of that role. And to
-- nobody else: default privileges are for new tables, and what is copied has its own grants.
CREATE FUNCTION ruvector._give_to_owner(source regclass, made regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = source);
    one   regclass;
    given record;
    statistics text;
BEGIN
    -- Still as who has made it, and its owner so far. With the sequences of its columns.
    FOR given IN SELECT DISTINCT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid::regclass AS relation,
                        CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee
                   FROM pg_class c
                  CROSS JOIN LATERAL aclexplode(c.relacl) x
                  WHERE x.grantee <> c.relowner
                    AND (c.oid = made OR c.oid IN (SELECT p.relid FROM pg_partition_tree(made) p)
                         OR c.relkind = 'S' AND c.oid IN (SELECT d.objid FROM pg_depend d
                                                           WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                                                             AND d.refobjid = made AND d.deptype IN ('a', 'i'))) LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s', given.kind, given.relation, given.grantee);
    END LOOP;
    FOR one IN SELECT c.oid FROM pg_class c
                WHERE c.relowner <> owner
                  AND (c.oid = made OR c.oid IN (SELECT p.relid FROM pg_partition_tree(made) p)) ORDER BY c.oid LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', one, pg_get_userbyid(owner));
    END LOOP;
    FOR statistics IN SELECT format('%I.%I', n.nspname, s.stxname) FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
                       WHERE s.stxrelid = made AND s.stxowner <> owner LOOP
        EXECUTE format('ALTER STATISTICS %s OWNER TO %I', statistics, pg_get_userbyid(owner));
    END LOOP;
END
$$;

-- Gives others on the new table, or the new sequence, what they have on the former one.
CREATE FUNCTION ruvector._adopt_grants(former regclass, fresh regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given record;
BEGIN
    FOR given IN SELECT x.privilege_type || coalesce(' (' || quote_ident(g.attname) || ')', '') AS privilege, x.is_grantable,
                        CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
                        CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee
                   FROM pg_class c
                  CROSS JOIN LATERAL (SELECT NULL::name AS attname, c.relacl AS acl
                                      UNION ALL SELECT a.attname, a.attacl FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped) g
                  CROSS JOIN LATERAL aclexplode(g.acl) x WHERE c.oid = former AND x.grantee <> c.relowner LOOP
        EXECUTE format('GRANT %s ON %s %s TO %s %s', given.privilege, given.kind, fresh, given.grantee,
            CASE WHEN given.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$$;

-- Gives a sequence of the table's owner another name. Waits for a tenth of a second only: whoever has taken a number from it may be
-- waiting for the table, which is locked by then.
CREATE FUNCTION ruvector._rename_sequence(source regclass, relation regclass, fresh_name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
AS $$
BEGIN
    PERFORM ruvector._as_owner(source, format('ALTER SEQUENCE %s RENAME TO %I', relation, fresh_name));
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION '% is in use, and its lock was not to be had in time', relation USING ERRCODE = 'lock_not_available', COLUMN = 'identity',
        HINT = format('Who has taken a number from it holds it to the end of the transaction: SELECT pid FROM pg_locks WHERE relation = %s AND granted. Nothing was changed: CALL ruvector_collection_adopt() again once they are done.',
                      relation::oid);
END
$$;

CREATE FUNCTION ruvector._begin_adoption(
    source regclass, name text, partitions integer, "column" text, tenant text, index_method text, distance text, settings jsonb
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours    text := (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                      WHERE e.extname = 'ruvector');
    home    text;
    bare    text;
    owner   name;
    rows    real;
    key     pg_attribute;
    vector  record;
    target  regclass;
    changes regclass;
    storage text;
    noting  regprocedure;
    grantee text;
BEGIN
    PERFORM ruvector._check_fresh_snapshots();
    PERFORM ruvector._check_adoptable(source);
    SELECT n.nspname, c.relname, pg_get_userbyid(c.relowner), c.reltuples INTO home, bare, owner, rows
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = source;
    IF NOT has_schema_privilege(owner, (SELECT e.extnamespace FROM pg_extension e WHERE e.extname = 'vector'), 'USAGE') THEN
        RAISE EXCEPTION '% cannot be adopted: its owner may not use the schema of pgvector', source
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Indexes are built with the owner''s rights: GRANT USAGE ON SCHEMA … TO %I.', owner);
    END IF;
    IF NOT (has_schema_privilege(owner, home, 'CREATE') AND has_schema_privilege(owner, home, 'USAGE')) THEN
        RAISE EXCEPTION '% cannot be adopted: its owner may not create tables in schema "%"', source, home
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('What is made belongs to the owner, and is filled with the owner''s rights: GRANT CREATE, USAGE ON SCHEMA %I TO %I.', home, owner);
    END IF;
    name := coalesce(name, bare);
    SELECT a.* INTO key FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = source AND a.attnum = k.conkey[1]
     WHERE k.conrelid = source AND k.contype = 'p';
    SELECT a.attname, t.typname, a.atttypmod, count(*) OVER () AS candidates INTO vector
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped AND t.typname IN ('vector', 'halfvec')
       AND a.attname = coalesce("column", a.attname) ORDER BY a.attnum LIMIT 1;
    IF vector IS NULL OR vector.candidates > 1 THEN
        RAISE EXCEPTION '% has % vector columns', source, coalesce(vector.candidates, 0) USING ERRCODE = 'ambiguous_column',
            HINT = 'Name the one that is searched: "column" => ''embedding''.';
    END IF;
    IF tenant IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = source AND a.attname = tenant AND a.attnum > 0
                                             AND NOT a.attisdropped) THEN
        RAISE EXCEPTION '% has no column "%"', source, tenant USING ERRCODE = 'undefined_column',
            HINT = '"tenant" names the column by whose values rows are kept together.';
    END IF;
    PERFORM ruvector._check_managed_arguments(bare, partitions, index_method, distance, vector.typname, greatest(vector.atttypmod, 1));
    PERFORM ruvector._check_route(name);
    EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING IDENTITY INCLUDING STORAGE INCLUDING COMPRESSION
                           INCLUDING STATISTICS INCLUDING COMMENTS,
                           partition_id integer NOT NULL DEFAULT %s.ruvector_route(%L, %s), PRIMARY KEY (%I, partition_id))
                    PARTITION BY LIST (partition_id)',
        home, bare || '_adopting', source, ours, name, partitions, key.attname);
    target := to_regclass(format('%I.%I', home, bare || '_adopting'));
    -- Also those of long values, as vectors are; a tablespace in which the owner may make tables.
    SELECT concat_ws(' ', 'WITH (' || array_to_string(c.reloptions || (SELECT array_agg('toast.' || o) FROM unnest(t.reloptions) o), ', ') || ')',
                     'TABLESPACE ' || quote_ident(s.spcname)) INTO storage
      FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
      LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace AND has_tablespace_privilege(c.relowner, s.oid, 'CREATE') WHERE c.oid = source;
    FOR i IN 1 .. partitions LOOP
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES IN (%s) %s', home, bare || '_' || i, target, i, storage);
    END LOOP;
    EXECUTE format('CREATE TABLE %I.%I (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL)', home, bare || '_changes');
    changes := to_regclass(format('%I.%I', home, bare || '_changes'));
    PERFORM ruvector._give_to_owner(source, target);
    PERFORM ruvector._give_to_owner(source, changes);
    -- The owner's own function from the first: writers need no right on the table of changes.
    PERFORM ruvector._as_owner(source, format($make$
        CREATE FUNCTION %1$s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            -- Keys are noted as they are read, whatever the writer's session says.
            SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET extra_float_digits = 3 AS $body$
        BEGIN
            IF TG_OP = 'TRUNCATE' THEN
                RAISE EXCEPTION 'the table is being made a managed collection' USING ERRCODE = 'object_in_use',
                    HINT = 'CALL ruvector_collection_adopt() again to finish it first.';
            END IF;
            IF TG_OP <> 'INSERT' THEN
                INSERT INTO %2$s (key) VALUES (OLD.%3$I::text);
            END IF;
            IF TG_OP <> 'DELETE' THEN
                INSERT INTO %2$s (key) VALUES (NEW.%3$I::text);
            END IF;
            RETURN NULL;
        END
        $body$ $make$, format('%I.%I', home, bare || '_note_change'), changes, key.attname));
    noting := to_regprocedure(format('%I.%I()', home, bare || '_note_change'));
    FOR grantee IN SELECT DISTINCT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END
                     FROM pg_proc f CROSS JOIN LATERAL aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) x
                    WHERE f.oid = noting AND x.grantee <> f.proowner LOOP
        PERFORM ruvector._as_owner(source, format('REVOKE ALL ON FUNCTION %s FROM %s', noting, grantee));
    END LOOP;
    PERFORM ruvector._manage(target, name, tenant, NULL, NULL);
    -- Waits for the writers under way: of later ones the trigger knows.
    PERFORM ruvector._lock_soon(source, 'SHARE ROW EXCLUSIVE', 'CALL ruvector_collection_adopt()');
    EXECUTE format('CREATE TRIGGER ruvector_adoption AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %I.%I()',
        source, home, bare || '_note_change');
    EXECUTE format('CREATE TRIGGER ruvector_adoption_whole BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %I.%I()',
        source, home, bare || '_note_change');
    -- Also where session_replication_role is replica.
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER ruvector_adoption, ENABLE ALWAYS TRIGGER ruvector_adoption_whole', source);
    PERFORM ruvector._note_adoption(source, jsonb_build_object('target', target::oid, 'name', name, 'changes', changes::oid,
        'noting', noting::oid, 'as_begun', ruvector._as_it_is(source),
        'key_column', key.attname, 'vector_column', vector.attname,
        'tenant_column', tenant, 'partitions', partitions, 'index_method', index_method, 'distance', distance,
        'settings', settings, 'rows_total', CASE WHEN rows >= 0 THEN rows::bigint END));
END
$$;

CREATE FUNCTION ruvector._note_adoption(source regclass, fresh jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named text;
BEGIN
    PERFORM ruvector._check_adopter(source);
    IF fresh IS NULL THEN
        SELECT a.name INTO named FROM ruvector.adoptions a WHERE a.source = _note_adoption.source;
        DELETE FROM ruvector.adoptions a WHERE a.source = _note_adoption.source;
        -- Given up, or done: then its registering follows in the log.
        PERFORM ruvector._audit('adoption_ended', NULL, named);
        RETURN;
    END IF;
    -- The caller wrote it, and whoever goes on relies on it.
    PERFORM ruvector._check_managed_arguments(
        (SELECT c.relname FROM pg_class c WHERE c.oid = _note_adoption.source), (fresh ->> 'partitions')::integer, fresh ->> 'index_method',
        fresh ->> 'distance', 'vector', 1);
    IF (SELECT count(*) FROM pg_class c JOIN pg_class s ON s.oid = _note_adoption.source AND s.relowner = c.relowner
         WHERE c.oid IN ((fresh ->> 'target')::oid, (fresh ->> 'changes')::oid)
           AND c.relnamespace = s.relnamespace AND c.relname IN (s.relname || '_adopting', s.relname || '_changes')) <> 2
       OR NOT EXISTS (SELECT FROM pg_proc f JOIN pg_class s ON s.oid = _note_adoption.source AND s.relowner = f.proowner
                       WHERE f.oid = (fresh ->> 'noting')::oid AND f.proname = s.relname || '_note_change') THEN
        RAISE EXCEPTION 'permission denied: what is made for the adoption of % belongs to its owner', source
            USING ERRCODE = 'insufficient_privilege', HINT = 'CALL ruvector_collection_adopt() makes it.';
    END IF;
    -- A table that was dropped leaves its adoption behind.
    DELETE FROM ruvector.adoptions a WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = a.source);
    PERFORM ruvector._audit('adoption_began', NULL, fresh ->> 'name',
        format('CALL ruvector_collection_adopt(%L, name => %L)', source, fresh ->> 'name'),
        format('SELECT ruvector_collection_adopt_abort(%L)', source), fresh);
    INSERT INTO ruvector.adoptions (source, target, name, changes, noting, as_begun, key_column, vector_column, tenant_column, partitions,
                                    index_method, distance, settings, rows_total)
    SELECT _note_adoption.source, (fresh ->> 'target')::oid, fresh ->> 'name', (fresh ->> 'changes')::oid, (fresh ->> 'noting')::oid, fresh ->> 'as_begun', fresh ->> 'key_column',
           fresh ->> 'vector_column', fresh ->> 'tenant_column', (fresh ->> 'partitions')::integer,
           fresh ->> 'index_method', fresh ->> 'distance', fresh -> 'settings', (fresh ->> 'rows_total')::bigint
    ON CONFLICT ON CONSTRAINT adoptions_pkey DO NOTHING;
END
$$;

CREATE FUNCTION ruvector._check_adopter(source regclass) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT coalesce(pg_has_role(ruvector._caller(), (SELECT c.relowner FROM pg_class c WHERE c.oid = source), 'USAGE'), false) THEN
        RAISE EXCEPTION 'permission denied: % does not belong to %', source, session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owner, or a member of that role, may adopt it.';
    END IF;
END
$$;

CREATE FUNCTION ruvector._adoption_came_to(source regclass, state text, copied_to text, rows bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM ruvector._check_adopter(source);
    UPDATE ruvector.adoptions a
       SET state = coalesce(_adoption_came_to.state, a.state), copied_to = coalesce(_adoption_came_to.copied_to, a.copied_to),
           rows_copied = a.rows_copied + rows, noted_at = clock_timestamp()
     WHERE a.source = _adoption_came_to.source;
END
$$;

CREATE FUNCTION ruvector._adoption(source regclass) RETURNS ruvector.adoptions
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT a FROM ruvector.adoptions a WHERE a.source = _adoption.source $$;

-- The same for one that takes a step: another who would, or would give it up, waits until the step is committed. NULL where there
-- is none any more.
CREATE FUNCTION ruvector._lock_adoption(source regclass) RETURNS ruvector.adoptions
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.adoptions;
BEGIN
    PERFORM ruvector._check_adopter(source);
    SELECT * INTO entry FROM ruvector.adoptions a WHERE a.source = _lock_adoption.source FOR UPDATE;
    RETURN entry;
END
$$;

-- Columns and checks of a table, in which a table and what it is copied to are equal.
CREATE FUNCTION ruvector._shape(relation regclass) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws(' ', (SELECT string_agg(format('%I %s %s %s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), a.attcollation, a.attnotnull,
                                                    a.attidentity, (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                                                                     WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum)), ', ' ORDER BY a.attname)
                             FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'partition_id'),
                          (SELECT string_agg(c.said, ', ' ORDER BY c.said)
                             FROM (SELECT replace(pg_get_constraintdef(k.oid), ' NOT VALID', '') AS said FROM pg_constraint k
                                    WHERE k.conrelid = relation AND k.contype = 'c') c))
$$;

-- What changes when a table is rewritten, gets other columns or another key, or when its triggers are touched: switched off and on
-- again they are no longer as they were made.
CREATE FUNCTION ruvector._as_it_is(source regclass) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws(' ', pg_relation_filenode(source),
        (SELECT string_agg(a.attnum || a.attname, ',' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = source AND NOT a.attisdropped),
        (SELECT k.conkey[1] FROM pg_constraint k WHERE k.conrelid = source AND k.contype = 'p'),
        (SELECT string_agg(concat_ws('/', t.oid, t.xmin, t.tgfoid, t.tgenabled), ',' ORDER BY t.oid) FROM pg_trigger t
          WHERE t.tgrelid = source AND t.tgname IN ('ruvector_adoption', 'ruvector_adoption_whole')))
$$;

-- An ERROR where somebody has interfered with an adoption.
CREATE FUNCTION ruvector._check_adoption(entry ruvector.adoptions) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    why text;
BEGIN
    SELECT CASE WHEN count(*) < 3 THEN 'a table that was made for it was dropped'
                WHEN count(DISTINCT c.relowner) > 1 THEN 'what was made for it belongs to another owner than the table'
                WHEN count(DISTINCT c.relnamespace) > 1 OR count(*) FILTER (WHERE c.relname NOT IN (s.relname, s.relname || '_adopting', s.relname || '_changes')) > 0
                THEN 'one of its tables was renamed'
                WHEN (SELECT count(*) FROM pg_partition_tree(entry.target) p WHERE p.isleaf) <> entry.partitions
                THEN 'partitions of the copy were attached, detached or dropped'
                WHEN ruvector._shape(entry.source) <> ruvector._shape(entry.target)
                THEN 'columns, defaults or checks were changed since'
                WHEN ruvector._as_it_is(entry.source) <> entry.as_begun
                THEN 'it was rewritten, or its key or its triggers were changed since, and writes may have gone by unnoticed' END INTO why
      FROM pg_class c JOIN pg_class s ON s.oid = entry.source WHERE c.oid IN (entry.source, entry.target, entry.changes);
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'the adoption of % cannot go on: %', entry.source, why USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('SELECT ruvector_collection_adopt_abort(%L) gives it up and leaves the table as it is; then begin anew.', entry.source);
    END IF;
END
$$;

-- Copies what was written since: keys are taken as they are now, so that it may be repeated. Returns how many there were.
CREATE FUNCTION ruvector._adopt_changes(entry ruvector.adoptions, batch integer) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
AS $$
DECLARE
    columns text := ruvector._adopted_columns(entry);
    type_   text := ruvector._adopted_key_type(entry);
    taken   jsonb;
    keys    text[];
BEGIN
    taken := ruvector._as_owner(entry.source,
        format('WITH taken AS (DELETE FROM %1$s WHERE id IN (SELECT id FROM %1$s ORDER BY id LIMIT %2$s) RETURNING key)
                SELECT jsonb_build_object(''noted'', count(*), ''keys'', jsonb_agg(DISTINCT key))::text FROM taken', entry.changes, batch));
    IF (taken ->> 'noted')::bigint = 0 THEN
        RETURN 0;
    END IF;
    SELECT array_agg(k) INTO keys FROM jsonb_array_elements_text(taken -> 'keys') k;
    PERFORM ruvector._as_owner(entry.source,
        format('DELETE FROM %s WHERE %I = ANY ((%L::text[])::%s[])', entry.target, entry.key_column, keys, type_));
    PERFORM ruvector._as_owner(entry.source,
        format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s WHERE %I = ANY ((%L::text[])::%s[])',
            entry.target, columns || ruvector._adopted_place(entry, false), columns || ruvector._adopted_place(entry, true),
            entry.source, entry.key_column, keys, type_));
    RETURN (taken ->> 'noted')::bigint;
END
$$;

CREATE FUNCTION ruvector._adopted_columns(entry ruvector.adoptions) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
      FROM pg_attribute a WHERE a.attrelid = entry.source AND a.attnum > 0 AND NOT a.attisdropped
$$;

CREATE FUNCTION ruvector._adopted_key_type(entry ruvector.adoptions) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = entry.source AND a.attname = entry.key_column
$$;

-- With a tenant column the place is named; without one it is left to the default.
CREATE FUNCTION ruvector._adopted_place(entry ruvector.adoptions, as_value boolean) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN entry.tenant_column IS NULL THEN '' WHEN NOT as_value THEN ', partition_id'
                ELSE format(', %s.ruvector_route_tenant(%L, %I::text)',
                    (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                      WHERE e.extname = 'ruvector'), entry.name, entry.tenant_column) END
$$;

-- The table's ordinary indexes, and how each is called on the new one until the names are exchanged. A key's is made with the
-- table; of those for searches each partition gets one of its own. One that is invalid serves nobody.
CREATE FUNCTION ruvector._adopted_indexes(entry ruvector.adoptions) RETURNS TABLE (former regclass, fresh_name text, definition text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.oid, f.name,
           -- The index and its table are named at the beginning; nothing where that is not so, since one of them is just being renamed.
           CASE WHEN starts_with(d.definition, d.beginning)
                THEN format('CREATE INDEX %I ON %s %s', f.name, entry.target, substr(d.definition, length(d.beginning) + 1)) END
      FROM pg_index x
      JOIN pg_class i ON i.oid = x.indexrelid
      JOIN pg_am m ON m.oid = i.relam
      JOIN pg_class c ON c.oid = x.indrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     CROSS JOIN LATERAL (SELECT format('%s_adopting_%s', c.relname, i.oid) AS name) f
     CROSS JOIN LATERAL (SELECT pg_get_indexdef(i.oid) AS definition, format('CREATE INDEX %I ON %I.%I ', i.relname, n.nspname, c.relname) AS beginning) d
     WHERE x.indrelid = entry.source AND x.indisvalid AND NOT x.indisunique AND m.amname NOT IN ('hnsw', 'ivfflat')
     ORDER BY i.oid
$$;

-- Makes one more of them, on all partitions. Returns whether there was one to make.
CREATE FUNCTION ruvector._adopt_index(entry ruvector.adoptions) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing record;
BEGIN
    SELECT a.* INTO missing FROM ruvector._adopted_indexes(entry) a
     WHERE NOT EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                        WHERE x.indrelid = entry.target AND i.relname = a.fresh_name) LIMIT 1;
    IF missing IS NULL THEN
        RETURN false;
    END IF;
    IF missing.definition IS NULL THEN
        RAISE EXCEPTION 'index % is being changed', missing.former USING ERRCODE = 'object_in_use', HINT = 'CALL it again.';
    END IF;
    PERFORM ruvector._as_owner(entry.source, missing.definition);
    RETURN true;
END
$$;

-- One step, to be committed. Returns what comes next; 'done' when nothing does.
CREATE FUNCTION ruvector._adopt_step(source regclass, batch integer, last_try boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
    SET extra_float_digits = 3 SET default_tablespace = ''
AS $$
DECLARE
    entry   ruvector.adoptions;
    columns text;
    type_   text;
    upper   text;
    rows    bigint;
    waiting bigint;
    began   timestamptz;
    leaf    record;
    vector  text;
    held    text;
BEGIN
    PERFORM ruvector._check_fresh_snapshots();
    entry := ruvector._lock_adoption(source);
    IF entry.source IS NULL THEN
        RAISE EXCEPTION 'no adoption of % is under way any more', source USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Another session has brought it to its end, or given it up: SELECT * FROM ruvector.managed shows which.';
    END IF;
    PERFORM ruvector._check_adoptable(source);
    PERFORM ruvector._check_adoption(entry);
    columns := ruvector._adopted_columns(entry);
    type_ := ruvector._adopted_key_type(entry);
    IF entry.state = 'copying' THEN
        -- Not every type that is ordered has a max(): uuid has none.
        upper := ruvector._as_owner(source,
            format('SELECT k::text FROM (SELECT %1$I AS k FROM %2$s WHERE %4$L IS NULL OR %1$I > (%4$L)::%3$s ORDER BY %1$I LIMIT %5$s) s
                     ORDER BY k DESC LIMIT 1', entry.key_column, source, type_, entry.copied_to, batch));
        IF upper IS NULL THEN
            PERFORM ruvector._adoption_came_to(source, 'indexing', NULL, 0);
            RETURN 'indexing';
        END IF;
        rows := ruvector._as_owner(source,
            format('WITH copied AS (INSERT INTO %1$s (%2$s) OVERRIDING SYSTEM VALUE SELECT %3$s FROM %4$s
                                     WHERE (%7$L IS NULL OR %5$I > (%7$L)::%6$s) AND %5$I <= (%8$L)::%6$s RETURNING 1)
                    SELECT count(*)::text FROM copied',
                entry.target, columns || ruvector._adopted_place(entry, false), columns || ruvector._adopted_place(entry, true),
                source, entry.key_column, type_, entry.copied_to, upper));
        PERFORM ruvector._adoption_came_to(source, NULL, upper, rows);
        RETURN 'copying';
    END IF;
    IF entry.state = 'indexing' THEN
        SELECT t.typname INTO vector FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = source AND a.attname = entry.vector_column;
        FOR leaf IN SELECT c.oid::regclass AS relation FROM pg_partition_tree(entry.target) p JOIN pg_class c ON c.oid = p.relid
                     WHERE p.isleaf AND NOT EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
                                                     WHERE x.indrelid = c.oid AND m.amname = entry.index_method)
                     ORDER BY c.oid LIMIT 1 LOOP
            PERFORM ruvector._as_owner(source,
                ruvector._ann_index(leaf.relation, entry.vector_column, vector, entry.index_method, entry.distance));
            IF entry.index_method <> 'none' THEN
                RETURN 'indexing';
            END IF;
        END LOOP;
        IF ruvector._adopt_index(entry) THEN
            RETURN 'indexing';
        END IF;
        PERFORM ruvector._adoption_came_to(source, 'catching up', NULL, 0);
        RETURN 'catching up';
    END IF;
    began := clock_timestamp();
    rows := ruvector._adopt_changes(entry, batch);
    -- What is left is copied under the lock if that takes half a second at the most: where somebody always writes nothing would ever be
    -- left of it. An index may have been made meanwhile.
    waiting := ruvector._as_owner(source, format('SELECT count(*)::text FROM (SELECT FROM %s LIMIT 2001) w', entry.changes));
    IF rows > 0 AND (waiting > 2000 OR waiting * extract(epoch FROM clock_timestamp() - began) / rows > 0.5)
       OR ruvector._adopt_index(entry) THEN
        RETURN 'catching up';
    END IF;
    IF last_try THEN
        PERFORM ruvector._finish_adoption(entry);
        RETURN 'done';
    END IF;
    BEGIN
        PERFORM ruvector._finish_adoption(entry);
        RETURN 'done';
    EXCEPTION WHEN lock_not_available THEN
        GET STACKED DIAGNOSTICS held = COLUMN_NAME;
        IF held <> 'identity' THEN
            RAISE;
        END IF;
        -- Nothing is locked any more: whoever holds the sequence and waited for the table goes on.
        RETURN 'sequence in use';
    END;
END
$$;

CREATE FUNCTION ruvector._finish_adoption(entry ruvector.adoptions) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $$
DECLARE
    home  text;
    bare  text;
    held  record;
    named text;
    ours  text := (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                    WHERE e.extname = 'ruvector');
BEGIN
    SELECT n.nspname, c.relname INTO home, bare FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = entry.source;
    PERFORM ruvector._check_fresh_snapshots();
    PERFORM ruvector._lock_soon(entry.source, 'ACCESS EXCLUSIVE', 'CALL ruvector_collection_adopt()');
    -- Whoever was waited for may have given it what an adopted one cannot have, or written with the triggers off.
    PERFORM ruvector._check_adoptable(entry.source);
    PERFORM ruvector._check_adoption(entry);
    -- Numbers that the former table has given out are not given out again. An identity has a new sequence, which gets name and grants of
    -- the former one too: who takes numbers by that name takes the identity's. First of all, since somebody may hold it.
    FOR held IN SELECT a.attname, a.attidentity, pg_get_serial_sequence(entry.source::text, a.attname)::regclass AS former,
                       pg_get_serial_sequence(entry.target::text, a.attname)::regclass AS fresh
                  FROM pg_attribute a WHERE a.attrelid = entry.source AND a.attnum > 0 AND NOT a.attisdropped LOOP
        IF held.attidentity <> '' AND held.former IS NOT NULL AND held.fresh IS NOT NULL THEN
            named := (SELECT s.relname FROM pg_class s WHERE s.oid = held.former);
            -- With the number of the new one: a table that is adopted again may have a sequence that was renamed so before.
            PERFORM ruvector._rename_sequence(entry.source, held.former, format('%s_former_%s', bare, held.fresh::oid));
            PERFORM ruvector._rename_sequence(entry.source, held.fresh, named);
            -- Locked since it was renamed: nobody takes another number from it.
            PERFORM ruvector._as_owner(entry.source,
                format('SELECT setval(%L, s.last_value, s.is_called)::text FROM %s s', held.fresh, held.former));
            PERFORM ruvector._adopt_grants(held.former, held.fresh);
        ELSIF held.former IS NOT NULL THEN
            EXECUTE format('ALTER SEQUENCE %s OWNED BY %s.%I', held.former, entry.target, held.attname);
        END IF;
    END LOOP;
    WHILE ruvector._adopt_changes(entry, 10000) > 0 LOOP
    END LOOP;
    WHILE ruvector._adopt_index(entry) LOOP
    END LOOP;
    PERFORM ruvector._adopt_grants(entry.source, entry.target);
    EXECUTE format('COMMENT ON TABLE %s IS %L', entry.target, obj_description(entry.source, 'pg_class'));
    EXECUTE format('DROP TRIGGER ruvector_adoption ON %s', entry.source);
    EXECUTE format('DROP TRIGGER ruvector_adoption_whole ON %s', entry.source);
    EXECUTE format('DROP FUNCTION %s', entry.noting::regprocedure);
    EXECUTE format('DROP TABLE %s', entry.changes);
    PERFORM ruvector._note_adoption(entry.source, NULL);
    -- One whose original was dropped meanwhile goes too.
    FOR held IN SELECT i.oid::regclass AS fresh FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                 WHERE x.indrelid = entry.target AND starts_with(i.relname, bare || '_adopting_')
                   AND NOT x.indisprimary AND i.relname NOT IN (SELECT a.fresh_name FROM ruvector._adopted_indexes(entry) a) LOOP
        EXECUTE format('DROP INDEX %s', held.fresh);
    END LOOP;
    FOR held IN SELECT a.former, i.relname, a.fresh_name FROM ruvector._adopted_indexes(entry) a JOIN pg_class i ON i.oid = a.former LOOP
        EXECUTE format('ALTER INDEX %s RENAME TO %I', held.former, format('%s_former_%s', bare, held.former::oid));
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', home, held.fresh_name, held.relname);
    END LOOP;
    EXECUTE format('ALTER TABLE %s RENAME TO %I', entry.source, bare || '_before_adoption');
    EXECUTE format('ALTER TABLE %s RENAME TO %I', entry.target, bare);
    EXECUTE format('SELECT %s.ruvector_collection_register($1, $2, $3, $4)', ours)
      USING entry.name, entry.target, entry.vector_column::text, entry.settings;
END
$$;

-- Makes a managed collection of a table, in committed steps; CALL it outside a transaction, and again after an interruption.
-- SELECT * FROM ruvector.adoptions shows how far it came. The former table stays as <name>_before_adoption.
CREATE PROCEDURE ruvector_collection_adopt(
    source regclass, name text DEFAULT NULL, partitions integer DEFAULT 8, "column" text DEFAULT NULL, tenant text DEFAULT NULL,
    index_method text DEFAULT 'hnsw', distance text DEFAULT 'cosine', batch integer DEFAULT 5000, settings jsonb DEFAULT '{}'
)
    LANGUAGE plpgsql
AS $$
DECLARE
    step  text;
    steps integer := 0;
    tries integer := 0;
BEGIN
    IF batch IS NULL OR batch NOT BETWEEN 1 AND 1000000 THEN
        RAISE EXCEPTION 'a batch has 1 to 1000000 rows' USING ERRCODE = 'invalid_parameter_value', HINT = 'Each is one transaction.';
    END IF;
    IF ruvector._adoption(source) IS NULL THEN
        PERFORM ruvector._begin_adoption(source, name, partitions, "column", tenant, index_method, distance, settings);
        COMMIT;
    END IF;
    LOOP
        step := ruvector._adopt_step(source, batch, tries = 20);
        EXIT WHEN step = 'done';
        COMMIT;
        tries := CASE step WHEN 'sequence in use' THEN tries + 1 ELSE 0 END;
        IF tries > 0 THEN
            PERFORM pg_catalog.pg_sleep(0.05 * pg_catalog.random());
        END IF;
        steps := CASE step WHEN 'catching up' THEN steps + 1 ELSE 0 END;
        IF steps > 0 AND steps % 50 = 0 THEN
            RAISE NOTICE 'after % steps rows of % are still changed faster than they are copied', steps, source
                USING HINT = 'It goes on. Hold writers back for a moment; or give it up, adopt with index_method => ''none'' and build the indexes afterwards.';
        END IF;
    END LOOP;
END
$$;

-- Gives an adoption up before its end: the table is as it was, and what was copied is dropped.
CREATE FUNCTION ruvector_collection_adopt_abort(source regclass) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- One who is just finishing it is waited for: then there is nothing to give up any more.
    entry ruvector.adoptions := ruvector._lock_adoption(source);
    -- Whose it was when it began.
    owner oid := coalesce((SELECT f.proowner FROM pg_proc f WHERE f.oid = entry.noting), (SELECT c.relowner FROM pg_class c WHERE c.oid = entry.changes),
                          (SELECT c.relowner FROM pg_class c WHERE c.oid = source));
    again constant text := 'SELECT ruvector_collection_adopt_abort()';
    one   regclass;
    made  oid[];
BEGIN
    IF entry.source IS NULL THEN
        RETURN false;
    END IF;
    SELECT array_agg(r.leaf::oid) INTO made FROM ruvector.routing r WHERE r.route = entry.name;
    PERFORM ruvector._lock_soon(source, 'ACCESS EXCLUSIVE', again);
    -- What is dropped below, for which nobody who comes to the table may wait long either.
    PERFORM ruvector._lock_soon(c.oid, 'ACCESS EXCLUSIVE', again) FROM pg_class c
      WHERE c.relkind IN ('r', 'p') AND (c.oid = entry.target OR c.relowner = owner AND (c.oid = entry.changes OR c.oid = ANY (made)));
    PERFORM ruvector._note_adoption(source, NULL);
    EXECUTE format('DROP TRIGGER IF EXISTS ruvector_adoption ON %s', source);
    EXECUTE format('DROP TRIGGER IF EXISTS ruvector_adoption_whole ON %s', source);
    -- Somebody may have dropped one of them by hand, detached a partition of ours or attached one of another's.
    IF EXISTS (SELECT FROM pg_proc f WHERE f.oid = entry.noting) THEN
        EXECUTE format('DROP FUNCTION %s', entry.noting::regprocedure);
    END IF;
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = entry.target) THEN
        FOR one IN SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = entry.target AND i.inhrelid <> ALL (made) LOOP
            EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', entry.target, one);
        END LOOP;
        PERFORM ruvector._forget_managed(entry.target);
        EXECUTE format('DROP TABLE %s', entry.target);
    END IF;
    FOR one IN SELECT c.oid FROM pg_class c WHERE c.relowner = owner AND (c.oid = entry.changes OR c.oid = ANY (made)) LOOP
        EXECUTE format('DROP TABLE %s', one);
    END LOOP;
    RETURN true;
END
$$;

CREATE FUNCTION ruvector._forget_managed(relation regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM ruvector._managed(relation);
    DELETE FROM ruvector.managed m WHERE m.relation = _forget_managed.relation;
END
$$;
