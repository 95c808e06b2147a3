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
