-- Managed collections -------------------------------------------------------------------------------------------------
-- A managed collection is an ordinary table, LIST-partitioned by an integer "partition_id" that ruvector_route() fills, so
-- that moving a row is an UPDATE of routing, never of what the user wrote. It belongs to whoever created it, and stays
-- writable without the library.

CREATE TABLE ruvector.managed (
    relation      regclass PRIMARY KEY,
    route         text NOT NULL UNIQUE CHECK (length(route) BETWEEN 1 AND 63),  -- its name in the column's default
    tenant_column name,
    key_table     regclass,           -- <name>_key, or NULL
    cold_when     text,               -- SQL condition on its columns: what belongs into the cold partition
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text NOT NULL DEFAULT session_user
);

-- Where new rows go. Weights are set by people and by the healer; shares are what follows from them.
CREATE TABLE ruvector.routing (
    route        text NOT NULL REFERENCES ruvector.managed (route) ON UPDATE CASCADE ON DELETE CASCADE,
    partition_id integer NOT NULL,
    leaf         regclass NOT NULL,
    weight       double precision NOT NULL DEFAULT 1 CHECK (weight >= 0 AND weight <= 1000000),
    cold         boolean NOT NULL DEFAULT false,
    elsewhere    boolean NOT NULL DEFAULT false,   -- on another server
    attached     boolean NOT NULL DEFAULT true,    -- false: dropped or detached by hand, no row can go there
    share        double precision NOT NULL DEFAULT 0,
    -- A weight under a lease ends by itself: who reads the shares after lease_until takes those that hold then.
    lease_until  timestamptz,
    weight_after double precision CHECK (weight_after >= 0 AND weight_after <= 1000000),
    share_after  double precision NOT NULL DEFAULT 0,
    set_by       bigint,             -- the action that set the weight, NULL: a person
    CHECK ((lease_until IS NULL) = (weight_after IS NULL)),
    PRIMARY KEY (route, partition_id)
);

-- The shares that hold now, ended leases counted as ended whether or not anybody has noted that yet.
CREATE VIEW ruvector.shares AS
SELECT r.route, r.partition_id,
       CASE WHEN bool_or(r.lease_until <= statement_timestamp()) OVER (PARTITION BY r.route) THEN r.share_after ELSE r.share END AS share
  FROM ruvector.routing r;

-- Tenants that do not live where their name alone would put them.
CREATE TABLE ruvector.tenant_homes (
    route        text NOT NULL REFERENCES ruvector.managed (route) ON UPDATE CASCADE ON DELETE CASCADE,
    tenant       text NOT NULL,
    partition_id integer NOT NULL,
    PRIMARY KEY (route, tenant)
);

SELECT pg_catalog.pg_extension_config_dump('ruvector.managed',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
SELECT pg_catalog.pg_extension_config_dump('ruvector.routing',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = leaf)
       AND EXISTS (SELECT FROM ruvector.managed m JOIN pg_catalog.pg_class c ON c.oid = m.relation WHERE m.route = routing.route)');
SELECT pg_catalog.pg_extension_config_dump('ruvector.tenant_homes',
    'WHERE EXISTS (SELECT FROM ruvector.managed m JOIN pg_catalog.pg_class c ON c.oid = m.relation WHERE m.route = tenant_homes.route)');

-- Notes which partitions are attached, by their numbers: one may be dropped, detached, attached again or made anew by hand. The
-- bound of one that is known is not read: that would lock it (ruleutils.c), and wait behind whoever wants to truncate it. A
-- collection that somebody else sets weights of is left to them: waiting could be a deadlock (ruvector_routing_set).
CREATE FUNCTION ruvector._follow_partitions() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH there AS (
        SELECT m.route, c.oid AS leaf, c.relkind = 'f' AS elsewhere,
               coalesce((SELECT k.partition_id FROM ruvector.routing k WHERE k.route = m.route AND k.leaf = c.oid AND k.attached),
                        substring(pg_get_expr(c.relpartbound, c.oid) FROM '^FOR VALUES IN \(''?(\d+)''?\)$')::integer) AS partition_id
          FROM ruvector.managed m
          JOIN pg_inherits i ON i.inhparent = m.relation AND NOT i.inhdetachpending
          JOIN pg_class c ON c.oid = i.inhrelid
    ), now AS (
        SELECT r.route, r.partition_id, t.leaf IS NOT NULL AS attached, coalesce(t.leaf, r.leaf) AS leaf,
               coalesce(t.elsewhere, r.elsewhere) AS elsewhere
          FROM ruvector.routing r LEFT JOIN there t ON t.route = r.route AND t.partition_id = r.partition_id
    ), changed AS (
        -- Nothing is written where nothing has changed.
        SELECT n.* FROM now n JOIN ruvector.routing r ON r.route = n.route AND r.partition_id = n.partition_id
         WHERE (r.attached, r.leaf::oid, r.elsewhere) IS DISTINCT FROM (n.attached, n.leaf::oid, n.elsewhere)
    ), free AS MATERIALIZED (
        SELECT m.route FROM ruvector.managed m WHERE m.route IN (SELECT c.route FROM changed c) FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE ruvector.routing r SET attached = c.attached, leaf = c.leaf, elsewhere = c.elsewhere
      FROM changed c
     WHERE c.route = r.route AND c.partition_id = r.partition_id AND c.route IN (SELECT f.route FROM free f);
END
$$;

-- Shares of new rows, from the weights. What is not attached has none. What is cold or on another server never gets
-- everything because the others have no weight: then the local partitions share evenly; without local ones those elsewhere
-- do; the cold ones come last.
CREATE FUNCTION ruvector._share_out() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- It updates the table itself, which comes here again.
    IF pg_trigger_depth() = 1 THEN
        PERFORM ruvector._follow_partitions();
    END IF;
    WITH ranked AS (
        SELECT r.route, r.partition_id, r.weight, coalesce(r.weight_after, r.weight) AS later, r.attached,
               CASE WHEN NOT r.attached THEN 4 WHEN r.cold THEN 3 WHEN r.elsewhere THEN 2 ELSE 1 END AS rank
          FROM ruvector.routing r
    ), judged AS (
        SELECT x.*, min(x.rank) OVER w AS best, bool_or(x.weight > 0 AND x.rank = 1) OVER w AS weighted,
               bool_or(x.later > 0 AND x.rank = 1) OVER w AS later_weighted
          FROM ranked x WINDOW w AS (PARTITION BY x.route)
    ), taken AS (
        SELECT j.route, j.partition_id,
               CASE WHEN NOT j.attached THEN 0 WHEN j.weighted THEN CASE WHEN j.rank = 3 THEN 0 ELSE j.weight END
                    ELSE (j.rank = j.best)::integer END AS part,
               CASE WHEN NOT j.attached THEN 0 WHEN j.later_weighted THEN CASE WHEN j.rank = 3 THEN 0 ELSE j.later END
                    ELSE (j.rank = j.best)::integer END AS later_part
          FROM judged j
    ), fresh AS (
        -- Of a table that was dropped no partition is left.
        SELECT t.route, t.partition_id, coalesce(t.part / nullif(sum(t.part) OVER w, 0), 0) AS now_share,
               coalesce(t.later_part / nullif(sum(t.later_part) OVER w, 0), 0) AS later_share
          FROM taken t WINDOW w AS (PARTITION BY t.route)
    ), changed AS (
        SELECT f.* FROM fresh f JOIN ruvector.routing r ON r.route = f.route AND r.partition_id = f.partition_id
         WHERE (r.share, r.share_after) IS DISTINCT FROM (f.now_share, f.later_share)
    ), free AS MATERIALIZED (
        -- As in _follow_partitions.
        SELECT m.route FROM ruvector.managed m WHERE m.route IN (SELECT c.route FROM changed c) FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE ruvector.routing r SET share = c.now_share, share_after = c.later_share
      FROM changed c
     WHERE r.route = c.route AND r.partition_id = c.partition_id AND c.route IN (SELECT f.route FROM free f);
    RETURN NULL;
END
$$;
-- For each statement, also one that changes no row: the healer's, which ends leases, makes it follow the partitions in each round.
CREATE TRIGGER share_out AFTER INSERT OR DELETE OR UPDATE OF weight, weight_after, cold, elsewhere ON ruvector.routing
    FOR EACH STATEMENT EXECUTE FUNCTION ruvector._share_out();

-- A partition for one more row from the shares in shared memory; NULL when they are not there.
CREATE FUNCTION ruvector._route_shared(route text) RETURNS integer
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'route_shared_wrapper';

-- The same from the table; NULL when the route is not known. A random number u in (0, 1] makes -ln(u)/share an exponential
-- waiting time, of which the least belongs to each partition as often as its share says.
CREATE FUNCTION ruvector._route_listed(route text) RETURNS integer
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED
BEGIN ATOMIC
    SELECT r.partition_id FROM ruvector.shares r
     WHERE r.route OPERATOR(pg_catalog.=) _route_listed.route AND r.share OPERATOR(pg_catalog.>) 0
     ORDER BY pg_catalog.ln(1 OPERATOR(pg_catalog.-) pg_catalog.random()) OPERATOR(pg_catalog./) r.share DESC LIMIT 1;
END;

-- Where a tenant's rows go: where it was moved to, if that is attached, else by weighted rendezvous hashing, which gives each
-- partition tenants by its share and moves few of them when a share changes. NULL has no hash, and gets NULL.
CREATE FUNCTION ruvector._route_tenant(route text, tenant text) RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(
        (SELECT h.partition_id FROM ruvector.tenant_homes h
           JOIN ruvector.routing a ON a.route OPERATOR(pg_catalog.=) h.route AND a.partition_id OPERATOR(pg_catalog.=) h.partition_id AND a.attached
          WHERE h.route OPERATOR(pg_catalog.=) _route_tenant.route AND h.tenant OPERATOR(pg_catalog.=) _route_tenant.tenant),
        (SELECT r.partition_id FROM ruvector.shares r
          WHERE r.route OPERATOR(pg_catalog.=) _route_tenant.route AND r.share OPERATOR(pg_catalog.>) 0 AND _route_tenant.tenant IS NOT NULL
          ORDER BY pg_catalog.ln(
                     (((pg_catalog.hashtextextended(_route_tenant.tenant COLLATE "C", r.partition_id::bigint)
                          OPERATOR(pg_catalog.&) 4503599627370495) OPERATOR(pg_catalog.+) 1)::double precision)
                       OPERATOR(pg_catalog./) 4503599627370497::double precision)
                   OPERATOR(pg_catalog./) r.share DESC LIMIT 1));
END;

-- It runs with the rights of ruvector_route's owner and the search_path of whoever calls that, whose temporary schema may have a
-- type called "text": every name in both is qualified, or a word of the grammar.
CREATE FUNCTION ruvector._route_slowly(route text, partitions integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    tenant pg_catalog.text := pg_catalog.current_setting('ruvector.tenant', true);
    chosen pg_catalog.int4;
BEGIN
    IF tenant OPERATOR(pg_catalog.<>) '' THEN
        SELECT ruvector._route_tenant(m.route, tenant) INTO chosen FROM ruvector.managed m
         WHERE m.route OPERATOR(pg_catalog.=) _route_slowly.route AND m.tenant_column IS NOT NULL;
    END IF;
    RETURN coalesce(chosen, ruvector._route_listed(route),
        1 OPERATOR(pg_catalog.+) pg_catalog.floor(pg_catalog.random()
            OPERATOR(pg_catalog.*) greatest(partitions, 1)::double precision)::integer);
END
$$;

-- The default of a managed collection's "partition_id". It never fails and is there for everybody who may insert: with the
-- library preloaded it reads shared memory, else the table; of a route that is not known (any more) it takes one of the
-- first "partitions" partitions. A session that has SET ruvector.tenant gets the tenant's partition where the collection
-- has a tenant column.
--
-- STABLE although it is not: COPY gives up inserting many rows at a time when a default is volatile. A default is
-- evaluated for each row all the same. Measured in docs/decisions/0007-managed-collections.md.
CREATE FUNCTION ruvector_route(route text, partitions integer) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
AS $$
BEGIN
    IF pg_catalog.current_setting('ruvector.library', true) IS NULL THEN
        RETURN ruvector._route_slowly(route, partitions);
    END IF;
    RETURN coalesce(ruvector._route_shared(route), ruvector._route_slowly(route, partitions));
END
$$;

-- One of the first "partitions" partitions: where _route_tenant puts this tenant if all weights are equal, anywhere if it is NULL.
CREATE FUNCTION ruvector._route_blindly(tenant text, partitions integer) RETURNS integer
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED
BEGIN ATOMIC
    SELECT p.id FROM pg_catalog.generate_series(1, _route_blindly.partitions) AS p (id)
     ORDER BY coalesce((pg_catalog.hashtextextended(_route_blindly.tenant COLLATE "C", p.id::bigint)
                           OPERATOR(pg_catalog.&) 4503599627370495)::double precision, pg_catalog.random()) DESC LIMIT 1;
END;

-- Where a tenant's rows go, for statements that name the tenant: INSERT INTO docs (tenant, embedding, partition_id)
-- VALUES ($1, $2, ruvector_route_tenant('docs', $1, 8)). Rows whose tenant is NULL are spread by the weights. Of a route that is
-- not known (any more) it takes one of the first "partitions" partitions, always the same of a tenant; NULL without that number.
CREATE FUNCTION ruvector_route_tenant(route text, tenant text, partitions integer DEFAULT NULL) RETURNS integer
    LANGUAGE sql STABLE SECURITY DEFINER PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(ruvector._route_tenant(ruvector_route_tenant.route, ruvector_route_tenant.tenant),
                    ruvector._route_listed(ruvector_route_tenant.route),
                    ruvector._route_blindly(ruvector_route_tenant.tenant, ruvector_route_tenant.partitions));
END;

-- The managed collection whose table this is; an ERROR unless it is one and belongs to the caller.
CREATE FUNCTION ruvector._managed(relation regclass) RETURNS ruvector.managed
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.managed;
BEGIN
    SELECT * INTO entry FROM ruvector.managed m WHERE m.relation = _managed.relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% is not a managed collection', relation USING ERRCODE = 'wrong_object_type',
            HINT = 'ruvector_collection_create() makes one, ruvector_collection_adopt() makes one of an existing table.';
    END IF;
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND NOT pg_has_role(ruvector._caller(), c.relowner, 'USAGE')) THEN
        RAISE EXCEPTION 'permission denied: % does not belong to %', relation, session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owner, or a member of that role, may do this.';
    END IF;
    RETURN entry;
END
$$;

-- Notes a table as managed, with its partitions. The table is made by then, by the caller and as the caller's.
CREATE FUNCTION ruvector._manage(relation regclass, route text, tenant_column name, key_table regclass, cold_when text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT pg_has_role(ruvector._caller(), (SELECT c.relowner FROM pg_class c WHERE c.oid = relation), 'USAGE') THEN
        RAISE EXCEPTION 'permission denied: % does not belong to %', relation, session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its owner, or a member of that role, may do this.';
    END IF;
    -- Where rows are routed by more than that number, finding their partition runs code of the owner's.
    IF NOT EXISTS (SELECT FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
                    WHERE p.partrelid = relation AND p.partstrat = 'l' AND p.partnatts = 1 AND p.partexprs IS NULL
                      AND a.attname = 'partition_id' AND a.atttypid = 'int4'::regtype) THEN
        RAISE EXCEPTION '% is not partitioned by LIST (partition_id)', relation USING ERRCODE = 'wrong_object_type',
            HINT = 'ruvector_collection_create() makes a table that is.';
    END IF;
    INSERT INTO ruvector.managed (relation, route, tenant_column, key_table, cold_when)
    VALUES (relation, route, tenant_column, key_table, cold_when);
    INSERT INTO ruvector.routing (route, partition_id, leaf, cold, elsewhere, weight)
    SELECT _manage.route, b.id, p.relid, b.id = 0, c.relkind = 'f', CASE WHEN b.id = 0 THEN 0 ELSE 1 END
      FROM pg_partition_tree(_manage.relation) p
      JOIN pg_class c ON c.oid = p.relid
     CROSS JOIN LATERAL (SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM '^FOR VALUES IN \(''?(\d+)''?\)$')::integer AS id) b
     WHERE p.isleaf AND b.id IS NOT NULL;
    PERFORM ruvector._audit('managed', NULL, route, NULL, NULL,
        jsonb_build_object('relation', relation, 'tenant', tenant_column, 'cold_when', cold_when));
    PERFORM ruvector._wake();
END
$$;

-- A route's name must be free before a table is made for it.
CREATE FUNCTION ruvector._check_route(route text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A table that was dropped leaves its route behind.
    DELETE FROM ruvector.managed m WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation);
    IF EXISTS (SELECT FROM ruvector.managed m WHERE m.route = _check_route.route)
       OR EXISTS (SELECT FROM ruvector.collections c WHERE c.name = _check_route.route) THEN
        RAISE EXCEPTION 'there is already a collection "%"', route USING ERRCODE = 'duplicate_object',
            HINT = 'Choose another name.';
    END IF;
END
$$;

-- Creates a managed collection and registers it: table "name" in schema "schema" (the first of the search_path that exists),
-- partitions <name>_1 … <name>_<partitions>, on each an ANN index of its own, and <name>_cold where a cold condition is
-- given. Returns the collection's number.
--
-- The caller owns everything and needs CREATE on the schema. Further columns: ALTER TABLE … ADD COLUMN.
--   id_type         bigint (identity) or uuid
--   vector_type     vector or halfvec
--   index_method    hnsw, ivfflat or none; an ivfflat index is best built once there are rows
--   distance        cosine, l2 or ip
--   tenant          name of a text column by which rows are kept together
--   cold_when       condition on the table's columns for what belongs into the cold partition, for instance
--                   created_at < now() - interval '90 days'
--   cold_tablespace, cold_options   of the cold partition, for instance 'autovacuum_enabled = off'
--   key_table       also make <name>_key (id PRIMARY KEY, partition_id): id is unique across partitions then, and foreign
--                   keys have something to refer to
CREATE FUNCTION ruvector_collection_create(
    name text, dimensions integer, partitions integer DEFAULT 8, schema text DEFAULT current_schema(), "column" text DEFAULT 'embedding',
    id_type text DEFAULT 'bigint', vector_type text DEFAULT 'vector', index_method text DEFAULT 'hnsw',
    distance text DEFAULT 'cosine', tenant text DEFAULT NULL, cold_when text DEFAULT NULL, cold_tablespace text DEFAULT NULL,
    cold_options text DEFAULT NULL, key_table boolean DEFAULT false, settings jsonb DEFAULT '{}'
) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    home   text := coalesce(schema, 'public');
    of     regclass;
    vector text := (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                     WHERE e.extname = 'vector');
BEGIN
    PERFORM ruvector._check_managed_arguments(name, partitions, index_method, distance, vector_type, dimensions);
    IF id_type IS NULL OR id_type NOT IN ('bigint', 'uuid') THEN
        RAISE EXCEPTION 'id_type is bigint or uuid' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Numbers that are given out in order, or random identifiers; both are unique across partitions.';
    END IF;
    PERFORM ruvector._check_route(name);
    EXECUTE format('CREATE TABLE %I.%I (id %s, %s %I %s.%s(%s) NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), metadata jsonb,
                           partition_id integer NOT NULL, PRIMARY KEY (id, partition_id)) PARTITION BY LIST (partition_id)',
        home, name,
        CASE id_type WHEN 'uuid' THEN 'uuid NOT NULL DEFAULT gen_random_uuid()' ELSE 'bigint GENERATED BY DEFAULT AS IDENTITY' END,
        CASE WHEN tenant IS NULL THEN '' ELSE format('%I text NOT NULL DEFAULT current_setting(''ruvector.tenant'', true),', tenant) END,
        "column", vector, vector_type, dimensions);
    of := to_regclass(format('%I.%I', home, name));
    PERFORM ruvector._make_partitions(of, partitions, cold_when IS NOT NULL, cold_tablespace, cold_options);
    PERFORM ruvector._make_ann_indexes(of, "column", vector_type, index_method, distance);
    RETURN ruvector._finish_managed(of, name, partitions, "column", tenant, cold_when, key_table, settings);
END
$$;

CREATE FUNCTION ruvector._check_managed_arguments(
    name text, partitions integer, index_method text, distance text, vector_type text, dimensions integer
) RETURNS void
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Room for the suffixes of partitions and indexes in a name of 63 bytes.
    IF name IS NULL OR name = '' OR octet_length(name) > 40 THEN
        RAISE EXCEPTION 'a managed collection needs a name of 1 to 40 bytes'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Its partitions and indexes are named after it.';
    END IF;
    IF partitions IS NULL OR partitions NOT BETWEEN 1 AND 64 THEN
        RAISE EXCEPTION 'a managed collection has 1 to 64 partitions' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Eight is a good number to begin with; a search looks into each of them.';
    END IF;
    IF index_method IS NULL OR index_method NOT IN ('hnsw', 'ivfflat', 'none') OR distance IS NULL
       OR distance NOT IN ('cosine', 'l2', 'ip') OR vector_type IS NULL OR vector_type NOT IN ('vector', 'halfvec') THEN
        RAISE EXCEPTION 'there is no such index: %, %, %', index_method, distance, vector_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'index_method is hnsw, ivfflat or none; distance cosine, l2 or ip; vector_type vector or halfvec.';
    END IF;
    IF dimensions IS NULL OR dimensions NOT BETWEEN 1 AND 16000 THEN
        RAISE EXCEPTION 'dimensions are 1 to 16000' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'As many as the model has that makes the vectors.';
    END IF;
    IF index_method <> 'none' AND dimensions > (CASE vector_type WHEN 'vector' THEN 2000 ELSE 4000 END) THEN
        RAISE EXCEPTION 'pgvector indexes no % of % dimensions', vector_type, dimensions
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'vector is indexed up to 2000 dimensions, halfvec up to 4000; index_method => ''none'' makes no index.';
    END IF;
END
$$;

CREATE FUNCTION ruvector._make_partitions(
    of regclass, partitions integer, cold boolean, cold_tablespace text, cold_options text
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    home text;
    bare text;
BEGIN
    SELECT n.nspname, c.relname INTO home, bare FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = of;
    FOR i IN 1 .. partitions LOOP
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES IN (%s)', home, bare || '_' || i, of, i);
    END LOOP;
    IF cold THEN
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES IN (0) %s %s', home, bare || '_cold', of,
            CASE WHEN cold_options IS NULL THEN '' ELSE format('WITH (%s)', ruvector._storage_options(cold_options)) END,
            CASE WHEN cold_tablespace IS NULL THEN '' ELSE format('TABLESPACE %I', cold_tablespace) END);
    END IF;
END
$$;

-- 'fillfactor = 100, autovacuum_enabled = off', quoted.
CREATE FUNCTION ruvector._storage_options(options text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one   text;
    pair  text[];
    whole text;
BEGIN
    FOREACH one IN ARRAY string_to_array(options, ',') LOOP
        pair := regexp_match(one, '^\s*([a-z_]+(?:\.[a-z_]+)?)\s*=\s*([A-Za-z0-9_.]+)\s*$');
        IF pair IS NULL THEN
            RAISE EXCEPTION 'these are no storage options: %', options USING ERRCODE = 'invalid_parameter_value',
                HINT = 'For instance: fillfactor = 100, autovacuum_enabled = off.';
        END IF;
        whole := concat_ws(', ', whole, pair[1] || ' = ' || quote_literal(pair[2]));
    END LOOP;
    RETURN whole;
END
$$;

-- The statement that builds the ANN index of a partition, NULL for none.
CREATE FUNCTION ruvector._ann_index(leaf regclass, "column" text, vector_type text, index_method text, distance text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('CREATE INDEX %I ON %s USING %I (%I %I.%I)', c.relname || '_' || index_method, leaf, index_method, "column",
                  n.nspname, vector_type || '_' || distance || '_ops')
      FROM pg_class c, pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
     WHERE c.oid = leaf AND e.extname = 'vector' AND index_method <> 'none'
$$;

-- An index on each partition, attached to none of the root: one that is attached can be neither swapped nor dropped.
CREATE FUNCTION ruvector._make_ann_indexes(of regclass, "column" text, vector_type text, index_method text, distance text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    statement text;
BEGIN
    FOR statement IN SELECT ruvector._ann_index(c.oid, "column", vector_type, index_method, distance)
                       FROM pg_partition_tree(of) p JOIN pg_class c ON c.oid = p.relid
                      WHERE p.isleaf AND c.relkind = 'r' AND index_method <> 'none' ORDER BY c.oid LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

-- The default, the key table and the registration.
CREATE FUNCTION ruvector._finish_managed(
    of regclass, name text, partitions integer, "column" text, tenant text, cold_when text, key_table boolean, settings jsonb
) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours text := (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                   WHERE e.extname = 'ruvector');
    keys regclass;
    id   integer;
BEGIN
    IF cold_when IS NOT NULL THEN
        PERFORM ruvector._check_condition(of, cold_when);
    END IF;
    EXECUTE format('ALTER TABLE %s ALTER partition_id SET DEFAULT %s.ruvector_route(%L, %s)', of, ours, name, partitions);
    IF key_table THEN
        keys := ruvector._make_key_table(of);
    END IF;
    PERFORM ruvector._manage(of, name, tenant, keys, cold_when);
    EXECUTE format('SELECT %s.ruvector_collection_register($1, $2, $3, $4)', ours) INTO id USING name, of, "column", settings;
    RETURN id;
END
$$;

-- An ERROR unless this is a condition on the table's columns. It is parsed as the caller, and later runs as the owner.
CREATE FUNCTION ruvector._check_condition(of regclass, condition text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- A cursor takes one SELECT and nothing else, and does not run it before it is asked for rows.
    rows refcursor;
BEGIN
    OPEN rows FOR EXECUTE format(E'SELECT FROM %s WHERE (%s\n)', of, condition);
    CLOSE rows;
    -- Without the brackets too: what closes them and opens others is more than a condition.
    OPEN rows FOR EXECUTE format(E'SELECT FROM %s WHERE %s\n', of, condition);
    CLOSE rows;
EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION 'this is no condition on rows of %: %', of, condition
        USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM,
              HINT = 'For instance: created_at < now() - interval ''90 days''. Names outside pg_catalog need their schema.';
END
$$;

-- <name>_key (id PRIMARY KEY, partition_id), kept by triggers on the root that see a whole statement: a row that moves is
-- an update there, not a delete and an insert. What is written directly to a partition does not reach it. The function is
-- the owner's own and needs nothing of us.
--
-- An id that changes is an update there too, so that what refers to it follows or refuses, as its foreign key says. Nothing pairs
-- the old and the new rows of a statement but their ids: one that changes several rows, and ids among them, is refused where a foreign
-- key refers to <name>_key. So is TRUNCATE, as PostgreSQL does it, unless the tables that refer to it are truncated too.
CREATE FUNCTION ruvector._make_key_table(of regclass) RETURNS regclass
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    home text;
    bare text;
    kind text := (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = of AND a.attname = 'id');
    keys text;
BEGIN
    SELECT n.nspname, c.relname INTO home, bare FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = of;
    keys := format('%I.%I', home, bare || '_key');
    EXECUTE format('CREATE TABLE %s (id %s PRIMARY KEY, partition_id integer NOT NULL)', keys, kind);
    EXECUTE format('INSERT INTO %s SELECT id, partition_id FROM %s', keys, of);
    EXECUTE format($make$
        CREATE FUNCTION %1$s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
        DECLARE
            gone      bigint;   -- ids that no row has any more
            come      bigint;   -- ids that none had before
            referring regclass;
        BEGIN
            IF TG_OP = 'INSERT' THEN
                INSERT INTO %2$s SELECT id, partition_id FROM new_rows;
            ELSIF TG_OP = 'DELETE' THEN
                DELETE FROM %2$s k USING old_rows o WHERE k.id = o.id;
            ELSIF TG_OP = 'TRUNCATE' THEN
                -- Whoever is about to refer to a key waits. A table that is truncated by the same command has no pages; its rows are
                -- not read, which would be with this function's rights.
                LOCK TABLE %2$s IN EXCLUSIVE MODE;
                FOR referring IN SELECT c.conrelid::regclass FROM pg_constraint c WHERE c.contype = 'f' AND c.confrelid = %2$L::regclass LOOP
                    IF pg_relation_size(referring) > 0 THEN
                        RAISE EXCEPTION 'cannot truncate a table whose keys are referenced in a foreign key constraint'
                            USING ERRCODE = 'feature_not_supported', DETAIL = format('Table %%s references %%s.', referring, %2$L),
                                  HINT = format('Truncate table %%s at the same time, or delete rows instead.', referring);
                    END IF;
                END LOOP;
                DELETE FROM %2$s;
            ELSE
                UPDATE %2$s k SET partition_id = n.partition_id FROM new_rows n
                 WHERE k.id = n.id AND k.partition_id <> n.partition_id;
                SELECT count(*) INTO gone FROM old_rows o WHERE NOT EXISTS (SELECT FROM new_rows n WHERE n.id = o.id);
                SELECT count(*) INTO come FROM new_rows n WHERE NOT EXISTS (SELECT FROM old_rows o WHERE o.id = n.id);
                IF gone = 0 AND come = 0 THEN
                    RETURN NULL;
                END IF;
                -- Of several that are the same now the key has one, which no deleting below tells from a row that is gone.
                IF EXISTS (SELECT FROM new_rows n GROUP BY n.id HAVING count(*) > 1) THEN
                    RAISE EXCEPTION 'the statement gives several rows the same id' USING ERRCODE = 'unique_violation',
                        DETAIL = format('%%s holds each id once.', %2$L), HINT = 'An id is unique across partitions.';
                END IF;
                IF gone > 0 AND come > 0 THEN
                    IF (SELECT count(*) FROM old_rows) = 1 THEN
                        UPDATE %2$s k SET id = n.id, partition_id = n.partition_id FROM old_rows o, new_rows n WHERE k.id = o.id;
                        IF FOUND THEN
                            RETURN NULL;
                        END IF;
                    ELSIF EXISTS (SELECT FROM pg_constraint c WHERE c.contype = 'f' AND c.confrelid = %2$L::regclass) THEN
                        RAISE EXCEPTION 'a statement that changes several rows changes ids to which a foreign key may refer'
                            USING ERRCODE = 'feature_not_supported',
                                  DETAIL = format('Nothing says which rows of %%s the references would follow.', %2$L),
                                  HINT = 'Change one row''s id at a time, in a statement that changes no other row, or drop the foreign key.';
                    END IF;
                END IF;
                DELETE FROM %2$s k USING old_rows o WHERE k.id = o.id AND NOT EXISTS (SELECT FROM new_rows n WHERE n.id = o.id);
                INSERT INTO %2$s SELECT n.id, n.partition_id FROM new_rows n
                 WHERE NOT EXISTS (SELECT FROM old_rows o WHERE o.id = n.id);
            END IF;
            RETURN NULL;
        END
        $body$ $make$, format('%I.%I', home, bare || '_key_follow'), keys);
    -- It runs with its owner's rights: nobody else is to put it on a table of their own. What writes here needs no right on it.
    EXECUTE format('REVOKE ALL ON FUNCTION %I.%I() FROM PUBLIC', home, bare || '_key_follow');
    EXECUTE format('CREATE TRIGGER key_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION %I.%I()', of, home, bare || '_key_follow');
    EXECUTE format('CREATE TRIGGER key_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION %I.%I()', of, home, bare || '_key_follow');
    EXECUTE format('CREATE TRIGGER key_truncate AFTER TRUNCATE ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION %I.%I()', of, home, bare || '_key_follow');
    EXECUTE format('CREATE TRIGGER key_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION %I.%I()', of, home, bare || '_key_follow');
    RETURN to_regclass(keys);
END
$$;

-- Sets which rows belong into the cold partition, or NULL for none.
CREATE FUNCTION ruvector_collection_cold_when(relation regclass, condition text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM ruvector._managed(relation);
    IF condition IS NOT NULL THEN
        PERFORM ruvector._check_condition(relation, condition);
    END IF;
    PERFORM ruvector._set_cold_when(relation, condition);
END
$$;

CREATE FUNCTION ruvector._set_cold_when(relation regclass, condition text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    former ruvector.managed;
BEGIN
    former := ruvector._managed(relation);
    UPDATE ruvector.managed m SET cold_when = condition WHERE m.relation = _set_cold_when.relation;
    PERFORM ruvector._audit('cold_when_set', NULL, former.route,
        format('SELECT ruvector_collection_cold_when(%L, %L)', relation, condition),
        format('SELECT ruvector_collection_cold_when(%L, %L)', relation, former.cold_when));
    PERFORM ruvector._wake();
END
$$;

-- Sets how large a part of the new rows a partition gets, against the weights of the others; 0 none. Returns the former one.
CREATE FUNCTION ruvector_routing_set(relation regclass, partition_id integer, weight double precision) RETURNS double precision
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry  ruvector.managed := ruvector._managed(relation);
    former double precision;
BEGIN
    IF weight IS NULL OR NOT weight BETWEEN 0 AND 1000000 THEN
        RAISE EXCEPTION 'a weight is 0 to 1000000' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Only its proportion to the other weights counts; 0 sends no new rows there.';
    END IF;
    -- Shares follow from all weights of a collection: two who set one each would wait for each other. NO KEY: whoever notes the home
    -- of a tenant does not wait for this.
    PERFORM FROM ruvector.managed m WHERE m.relation = entry.relation FOR NO KEY UPDATE;
    SELECT r.weight INTO former FROM ruvector.routing r
     WHERE r.route = entry.route AND r.partition_id = ruvector_routing_set.partition_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% has no partition %', relation, partition_id USING ERRCODE = 'undefined_object',
            HINT = (SELECT 'There are: ' || string_agg(r.partition_id::text, ', ' ORDER BY r.partition_id) || '.'
                      FROM ruvector.routing r WHERE r.route = entry.route);
    END IF;
    UPDATE ruvector.routing r SET (weight, lease_until, weight_after, set_by) = (ruvector_routing_set.weight, NULL, NULL, NULL)
     WHERE r.route = entry.route AND r.partition_id = ruvector_routing_set.partition_id;
    PERFORM ruvector._audit('routing_set', NULL, (SELECT c.name FROM ruvector.collections c WHERE c.relation = entry.relation),
        format('SELECT ruvector_routing_set(%L, %s, %s)', relation, partition_id, weight),
        format('SELECT ruvector_routing_set(%L, %s, %s)', relation, partition_id, former));
    PERFORM ruvector._wake();
    RETURN former;
END
$$;

-- Rows that an action has moved, one row of the journal a batch, written in the transaction that moved them: what the exact
-- reverse needs. Keys are the texts of the primary key's column beside partition_id.
CREATE TABLE ruvector.moved_rows (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action_id   bigint NOT NULL REFERENCES ruvector.actions ON DELETE CASCADE,
    step_no     integer NOT NULL,
    move_no     integer NOT NULL,
    from_id     integer NOT NULL,
    to_id       integer NOT NULL,
    keys        text[] NOT NULL,
    homes       jsonb NOT NULL DEFAULT '{}',   -- tenants that found a new home with it, and the former one or null
    moved_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    undone_at   timestamptz
);
CREATE INDEX ON ruvector.moved_rows (action_id, step_no, id);

-- How the rows of managed collections are spread, and where new ones go.
CREATE FUNCTION ruvector_routing()
RETURNS TABLE (relation regclass, partition_id integer, leaf regclass, weight double precision, share double precision,
               cold boolean, elsewhere boolean, lease_until timestamptz, weight_after double precision, live_rows bigint, bytes bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT m.relation, r.partition_id, r.leaf, r.weight, s.share, r.cold, r.elsewhere, r.lease_until, r.weight_after,
           CASE WHEN NOT r.elsewhere THEN pg_stat_get_live_tuples(r.leaf) END,
           CASE WHEN NOT r.elsewhere THEN pg_total_relation_size(r.leaf) END
      FROM ruvector.managed m
      JOIN ruvector.routing r ON r.route = m.route
      JOIN ruvector.shares s ON s.route = r.route AND s.partition_id = r.partition_id
     WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = r.leaf AND c.relispartition)
     ORDER BY m.relation::text, r.partition_id;
END;

-- Gives the "partition_id" of a managed collection a default of its own, which needs nothing of us, and forgets its routing.
-- Returns whether it was managed. What hands a table back, or removes the extension, calls this.
CREATE FUNCTION ruvector._give_back_routing(relation regclass) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry   ruvector.managed;
    choices text;   -- partitions that get new rows
    bounds  text;   -- where in 0 to 1 the part of each but the last ends
BEGIN
    SELECT * INTO entry FROM ruvector.managed m WHERE m.relation = _give_back_routing.relation;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    entry := ruvector._managed(relation);
    -- Before the table's lock, behind which everybody waits.
    PERFORM FROM ruvector.managed m WHERE m.relation = entry.relation FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A weight under a lease is at its end: nothing that would end it later is left. Shares follow, and which partitions are there.
    UPDATE ruvector.routing r SET (weight, lease_until, weight_after) = (r.weight_after, NULL, NULL)
     WHERE r.route = entry.route AND r.lease_until IS NOT NULL;
    -- Nothing of a table that was dropped.
    PERFORM ruvector._lock_soon(c.oid, 'ACCESS EXCLUSIVE', 'SELECT ruvector_collection_release()') FROM pg_class c WHERE c.oid = relation;
    WITH there AS (
        SELECT r.partition_id, r.share FROM ruvector.routing r
         WHERE r.route = entry.route AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = r.leaf AND i.inhparent = entry.relation
                                                                            AND NOT i.inhdetachpending)
    ), parts AS (
        SELECT t.partition_id, CASE WHEN max(t.share) OVER () > 0 THEN t.share ELSE 1 END AS part FROM there t
    ), summed AS (
        SELECT p.partition_id, sum(p.part) OVER (ORDER BY p.partition_id) / sum(p.part) OVER () AS upto,
               row_number() OVER (ORDER BY p.partition_id DESC) = 1 AS at_the_end
          FROM parts p WHERE p.part > 0
    )
    SELECT string_agg(s.partition_id::text, ', ' ORDER BY s.partition_id),
           string_agg(s.upto::numeric::text, ', ' ORDER BY s.partition_id) FILTER (WHERE NOT s.at_the_end)
      INTO choices, bounds FROM summed s;
    -- width_bucket() counts the bounds that are not above one random number.
    IF choices IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s ALTER partition_id SET DEFAULT %s', relation,
            CASE WHEN bounds IS NULL THEN choices
                 ELSE format('(ARRAY[%s])[1 + width_bucket(random(), ''{%s}''::double precision[])]', choices, bounds) END);
    END IF;
    DELETE FROM ruvector.managed m WHERE m.route = entry.route;
    PERFORM ruvector._audit('routing_given_back', NULL, entry.route, NULL, NULL, jsonb_build_object('relation', relation));
    PERFORM ruvector._wake();
    RETURN true;
END
$$;
