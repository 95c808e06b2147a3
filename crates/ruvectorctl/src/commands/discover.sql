-- Tables with a vector column, their indexes, and what stands in the way of registering them: from the catalogs alone.
WITH vector_types AS (
    SELECT t.oid FROM pg_catalog.pg_type t
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid AND d.deptype = 'e'
       AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
      JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'vector'
     WHERE t.typname IN ('vector', 'halfvec', 'sparsevec')
), vector_indexes AS (
    SELECT x.indexrelid, x.indrelid, x.indkey, x.indisvalid, x.indisready, i.relname, i.reloptions, m.amname
      FROM pg_catalog.pg_index x
      JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid AND i.relkind = 'i'
      JOIN pg_catalog.pg_am m ON m.oid = i.relam AND m.amname IN ('ivfflat', 'hnsw')
), tables AS (
    SELECT c.oid, c.relkind, c.relpersistence, c.relowner, n.nspname, c.relname,
           pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) AS columns,
           pg_catalog.array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) AS types
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition AND n.nspname !~ '^pg_(toast|temp)'
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'ruvector')
       AND (a.atttypid IN (SELECT oid FROM vector_types)
            -- Any table may have a bit column; one with such an index means it.
            OR a.atttypid = 'pg_catalog.bit'::pg_catalog.regtype
               AND EXISTS (SELECT FROM vector_indexes v WHERE v.indrelid = c.oid AND a.attnum = ANY (v.indkey::int2[])))
     GROUP BY c.oid, n.nspname
), parts AS (
    SELECT t.oid AS root, p.relid FROM tables t CROSS JOIN LATERAL pg_catalog.pg_partition_tree(t.oid) p WHERE p.isleaf
    UNION
    SELECT t.oid, t.oid FROM tables t WHERE t.relkind <> 'p'
)
SELECT t.oid::int8 AS oid, pg_catalog.format('%I.%I', t.nspname, t.relname) AS table, t.relname::text AS name, t.columns, t.types,
       CASE t.relkind WHEN 'p' THEN 'partitioned table' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
            ELSE 'table' END AS kind,
       t.relowner::pg_catalog.regrole::text AS owner, s.partitions, s.rows, s.bytes,
       coalesce(x.indexes, '[]') AS indexes,
       CASE WHEN t.relkind IN ('m', 'f') THEN 'only tables can be watched'
            WHEN t.relpersistence = 't' THEN 'temporary tables cannot be watched'
            WHEN NOT pg_catalog.pg_has_role(session_user, t.relowner, 'USAGE')
            THEN pg_catalog.format('its owner %s, or a member of that role, must register it', t.relowner::pg_catalog.regrole)
       END AS obstacle,
       pg_catalog.format('SELECT ruvector_collection_register(%L, %L%s)', t.relname,
                         pg_catalog.format('%I.%I', t.nspname, t.relname),
                         CASE WHEN pg_catalog.cardinality(t.columns) > 1
                              THEN pg_catalog.format(', "column" => %L', t.columns[1]) ELSE '' END) AS register
  FROM tables t
 CROSS JOIN LATERAL (
       SELECT pg_catalog.count(*) AS partitions,
              -- -1: never analysed, so nobody knows.
              CASE WHEN pg_catalog.min(k.reltuples) >= 0 THEN pg_catalog.sum(k.reltuples)::float8 END AS rows,
              pg_catalog.sum(pg_catalog.pg_table_size(k.oid))::float8 AS bytes
         FROM parts p JOIN pg_catalog.pg_class k ON k.oid = p.relid WHERE p.root = t.oid) s
 CROSS JOIN LATERAL (
       SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                  'name', v.relname, 'oid', v.indexrelid, 'method', v.amname, 'valid', v.indisvalid AND v.indisready,
                  'building', EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index b WHERE b.index_relid = v.indexrelid),
                  'options', v.reloptions, 'bytes', pg_catalog.pg_relation_size(v.indexrelid),
                  'definition', pg_catalog.pg_get_indexdef(v.indexrelid)) ORDER BY v.relname) AS indexes
         FROM parts p JOIN vector_indexes v ON v.indrelid = p.relid WHERE p.root = t.oid) x
 ORDER BY s.bytes DESC, t.nspname, t.relname
