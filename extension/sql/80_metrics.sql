-- Metrics -----------------------------------------------------------------------------------------------------------

-- Every metric, in the order in which they are rendered. Names and labels of the healing ones are the specification's.
CREATE FUNCTION ruvector._metric_families()
RETURNS TABLE (name text, type text, labels text[], help text)
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    VALUES
    ('ruvector_build_info', 'gauge', '{version}'::text[], 'Version of the extension in this database; the value is 1.'),
    ('ruvector_healer_ready', 'gauge', '{}', 'Whether the library is preloaded, so that collections are watched at all.'),
    ('ruvector_healing_attempts_total', 'counter', '{collection,strategy}', 'Actions that ran and have ended.'),
    ('ruvector_healing_success_total', 'counter', '{collection,strategy}', 'Actions whose effect was verified and kept.'),
    ('ruvector_healing_outcomes_total', 'counter', '{collection,status}', 'Actions that ran, by how they ended.'),
    ('ruvector_healing_duration_seconds', 'summary', '{collection,strategy,quantile}',
     'Time that actions took: quantiles of the last 30 days, sum and count of all.'),
    ('ruvector_healing_action_duration_seconds', 'histogram', '{collection,strategy,le}', 'Time that actions took.'),
    ('ruvector_healing_enabled', 'gauge', '{collection}',
     'Whether the collection is healed: its setting, ruvector.enabled and the preload together.'),
    ('ruvector_healing_active', 'gauge', '{collection}', 'Actions under way.'),
    ('ruvector_healing_cooldown', 'gauge', '{collection}', 'Whether a cooldown holds back automatic healing.'),
    ('ruvector_healing_cooldown_until_timestamp_seconds', 'gauge', '{collection}', 'When the cooldown ends; absent outside one.'),
    ('ruvector_healing_pending_approvals', 'gauge', '{collection}', 'Plans that wait for a human.'),
    ('ruvector_healing_unfinished', 'gauge', '{collection}',
     'Ended actions that left something to be put right; nothing else acts until then.'),
    ('ruvector_healing_breaker_open', 'gauge', '{collection,strategy}',
     'Whether a strategy was given up after failures, until a human resets it.'),
    ('ruvector_healing_success_rate', 'gauge', '{collection}', 'Share of the attempts of 30 days that were verified, 0 to 1.'),
    ('ruvector_healing_avg_improvement', 'gauge', '{collection}',
     'Mean improvement by the attempts of 30 days, as a ratio: 0.25 is 25 % better.'),
    ('ruvector_healing_time_to_recovery_seconds', 'gauge', '{collection}',
     'Mean time from leaving the normal state to its return, of the recoveries of 30 days.'),
    ('ruvector_integrity_state', 'gauge', '{collection}', 'State: 0 normal, 1 stress, 2 critical; absent while unknown.'),
    ('ruvector_integrity_lambda', 'gauge', '{collection}',
     'How firmly the weakest part hangs on: the minimum cut, 1 healthy, 0 cut off.'),
    ('ruvector_integrity_lambda_low', 'gauge', '{collection}', 'The same if every unread metric were at its worst.'),
    ('ruvector_integrity_lambda_high', 'gauge', '{collection}', 'The same if every unread metric were at its best.'),
    ('ruvector_integrity_sampled_timestamp_seconds', 'gauge', '{collection}', 'When the collection was last sampled.'),
    ('ruvector_integrity_problem_lambda', 'gauge', '{collection,class}', 'Lambda of the weakest part of each problem class there is.'),
    ('ruvector_recall', 'gauge', '{collection,index}', 'Recall@k of an index by the last panel, 0 to 1.'),
    ('ruvector_blocks_per_query', 'gauge', '{collection,index}', 'Blocks that a query of the panel touched.'),
    ('ruvector_recall_objective', 'gauge', '{collection}', 'Recall@k that searches should reach.');
END;

-- One row a sample. Counters are counted from the tables, so they survive restarts. What is not known (no outcome yet, λ
-- NULL) is absent, not 0; a counter is there from the beginning, with 0, since increase() sees no first step of a series that
-- begins with it. Labels are bounded: registered collections, this version's strategies, fixed words; of indexes the fifty
-- with the lowest recall. Ratios are of the last 30 days, the time that learning looks back on.
CREATE FUNCTION ruvector._metrics()
RETURNS TABLE (name text, suffix text, labels text[], value double precision)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH server AS (
        SELECT ruvector._server_settings() AS settings, ruvector._not_ready() IS NULL AS ready, ruvector._enabled() AS enabled
    ), collections AS (
        SELECT c.id, c.name, e.config, i.state, i.lambda_cut, i.lambda_low, i.lambda_high, i.sampled_at, i.problems, i.snapshot,
               s.ready AND s.enabled AND (e.config ->> 'enabled')::boolean AS enabled
          FROM server s CROSS JOIN ruvector.collections c
          JOIN ruvector.integrity i ON i.collection_id = c.id
         CROSS JOIN LATERAL (SELECT f.config FROM ruvector._effective_settings(s.settings, c.settings) AS f (config)) e
    ), arms AS (
        SELECT c.id, c.name, s.strategy FROM collections c CROSS JOIN unnest(ruvector._strategies()) s (strategy)
    ), outcomes AS (
        -- By name: a collection that is registered anew goes on counting. A no-op is no attempt.
        SELECT c.id, c.name, o.strategy_name, o.status, o.success AND o.verified IS TRUE AS good, o.duration_ms / 1000.0 AS seconds,
               o.improvement_pct / 100.0 AS improvement, o.completed_at > now() - interval '30 days' AS recent
          FROM ruvector.healing_outcomes o
          JOIN ruvector.actions a ON a.id = o.action_id
          JOIN collections c ON c.name = a.collection_name
         WHERE o.status <> 'noop'
    ), actions AS (
        SELECT c.id, c.name, a.status, a.unfinished, coalesce(a.ended_at, a.started_at) AS last_end, a.started_at
          FROM ruvector.actions a JOIN collections c ON c.name = a.collection_name
    ), recoveries AS (
        -- From the end of "normal" to its return.
        SELECT e.collection_id, e.happened_at, e.to_state,
               e.happened_at - max(e.happened_at) FILTER (WHERE e.from_state = 'normal')
                   OVER (PARTITION BY e.collection_id ORDER BY e.id) AS took
          FROM ruvector.integrity_events e
    )
    SELECT 'ruvector_build_info', '', ARRAY['version', e.extversion], 1
      FROM pg_extension e WHERE e.extname = 'ruvector'
    UNION ALL
    SELECT 'ruvector_healer_ready', '', ARRAY[]::text[], s.ready::integer FROM server s
    UNION ALL
    SELECT v.name, '', ARRAY['collection', r.name, 'strategy', r.strategy], v.value
      FROM arms r
      LEFT JOIN ruvector.healing_arms m ON m.collection_id = r.id AND m.strategy = r.strategy
     CROSS JOIN LATERAL (SELECT count(*) AS attempts, count(*) FILTER (WHERE o.good) AS successes
                           FROM outcomes o WHERE o.id = r.id AND o.strategy_name = r.strategy) k
     CROSS JOIN LATERAL (VALUES
           ('ruvector_healing_attempts_total', k.attempts),
           ('ruvector_healing_success_total', k.successes),
           ('ruvector_healing_breaker_open', coalesce(m.breaker_open, false)::integer)) v (name, value)
    UNION ALL
    SELECT 'ruvector_healing_outcomes_total', '', ARRAY['collection', c.name, 'status', t.status],
           (SELECT count(*) FROM outcomes o WHERE o.id = c.id AND o.status = t.status)
      FROM collections c
     CROSS JOIN unnest(ARRAY['succeeded', 'rolled_back', 'rollback_failed', 'failed', 'aborted']) t (status)
    UNION ALL
    SELECT 'ruvector_healing_duration_seconds', '', ARRAY['collection', o.name, 'strategy', o.strategy_name, 'quantile', q.q::text],
           percentile_cont(q.q) WITHIN GROUP (ORDER BY o.seconds)
      FROM outcomes o CROSS JOIN unnest(ARRAY[0.5, 0.9, 0.99]::double precision[]) q (q)
     WHERE o.recent AND o.seconds IS NOT NULL GROUP BY o.name, o.strategy_name, q.q
    UNION ALL
    SELECT 'ruvector_healing_action_duration_seconds', '_bucket',
           ARRAY['collection', o.name, 'strategy', o.strategy_name, 'le', CASE b.le WHEN 'Infinity' THEN '+Inf' ELSE b.le::text END],
           count(*) FILTER (WHERE o.seconds <= b.le)
      FROM outcomes o CROSS JOIN unnest(ARRAY[1, 5, 15, 60, 300, 900, 3600, 14400, 'Infinity']::double precision[]) b (le)
     WHERE o.seconds IS NOT NULL GROUP BY o.name, o.strategy_name, b.le
    UNION ALL
    SELECT v.name, v.suffix, ARRAY['collection', o.name, 'strategy', o.strategy_name], v.value
      FROM (SELECT o.name, o.strategy_name, sum(o.seconds) AS total, count(*) AS times
              FROM outcomes o WHERE o.seconds IS NOT NULL GROUP BY o.name, o.strategy_name) o
     CROSS JOIN LATERAL (VALUES
           ('ruvector_healing_duration_seconds', '_sum', o.total), ('ruvector_healing_duration_seconds', '_count', o.times),
           ('ruvector_healing_action_duration_seconds', '_sum', o.total),
           ('ruvector_healing_action_duration_seconds', '_count', o.times)) v (name, suffix, value)
    UNION ALL
    SELECT v.name, '', ARRAY['collection', c.name], v.value
      FROM collections c
     CROSS JOIN LATERAL (
           SELECT count(*) FILTER (WHERE a.status IN ('approved', 'executing', 'verifying')) AS active,
                  count(*) FILTER (WHERE a.status = 'awaiting_approval') AS pending,
                  count(*) FILTER (WHERE a.unfinished) AS unfinished,
                  max(a.last_end) FILTER (WHERE a.started_at IS NOT NULL)
                      + make_interval(secs => (c.config ->> 'min_healing_interval_seconds')::double precision) AS cooldown_until
             FROM actions a WHERE a.id = c.id) k
     CROSS JOIN LATERAL (VALUES
           ('ruvector_healing_enabled', c.enabled::integer::double precision),
           ('ruvector_healing_active', k.active),
           ('ruvector_healing_cooldown', coalesce(k.cooldown_until > now(), false)::integer),
           ('ruvector_healing_cooldown_until_timestamp_seconds',
            CASE WHEN k.cooldown_until > now() THEN extract(epoch FROM k.cooldown_until)::double precision END),
           ('ruvector_healing_pending_approvals', k.pending),
           ('ruvector_healing_unfinished', k.unfinished),
           ('ruvector_integrity_state', CASE c.state WHEN 'normal' THEN 0 WHEN 'stress' THEN 1 WHEN 'critical' THEN 2 END),
           ('ruvector_integrity_lambda', c.lambda_cut),
           ('ruvector_integrity_lambda_low', c.lambda_low),
           ('ruvector_integrity_lambda_high', c.lambda_high),
           ('ruvector_integrity_sampled_timestamp_seconds', extract(epoch FROM c.sampled_at)::double precision),
           ('ruvector_recall_objective', (c.config ->> 'recall_objective')::double precision)) v (name, value)
    UNION ALL
    SELECT v.name, '', ARRAY['collection', k.name], v.value
      FROM (SELECT o.name, avg(o.good::integer) AS rate, avg(o.improvement) AS improvement
              FROM outcomes o WHERE o.recent GROUP BY o.name) k
     CROSS JOIN LATERAL (VALUES ('ruvector_healing_success_rate', k.rate),
                                ('ruvector_healing_avg_improvement', k.improvement)) v (name, value)
    UNION ALL
    SELECT 'ruvector_healing_time_to_recovery_seconds', '', ARRAY['collection', c.name], avg(extract(epoch FROM r.took))
      FROM recoveries r JOIN collections c ON c.id = r.collection_id
     WHERE r.to_state = 'normal' AND r.happened_at > now() - interval '30 days' GROUP BY c.name
    UNION ALL
    SELECT 'ruvector_integrity_problem_lambda', '', ARRAY['collection', c.name, 'class', p ->> 'class'],
           min((p ->> 'lambda')::double precision)
      FROM collections c CROSS JOIN jsonb_array_elements(c.problems) p GROUP BY c.name, p ->> 'class'
    UNION ALL
    SELECT v.name, '', ARRAY['collection', x.name, 'index', x.index], v.value
      FROM (SELECT c.name, x ->> 'name' AS index, (x #>> '{recall,known,recall}')::double precision AS recall,
                   (x #>> '{recall,known,blocks}')::double precision AS blocks,
                   row_number() OVER (PARTITION BY c.id ORDER BY (x #>> '{recall,known,recall}')::double precision, x ->> 'name') AS place
              FROM collections c CROSS JOIN jsonb_array_elements(c.snapshot -> 'indexes') x) x
     CROSS JOIN LATERAL (VALUES ('ruvector_recall', x.recall), ('ruvector_blocks_per_query', x.blocks)) v (name, value)
     WHERE x.place <= 50;
END;

-- The metrics in Prometheus' text format (version 0.0.4): what `ruvectorctl serve` gives at /metrics.
CREATE FUNCTION ruvector_healing_metrics() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH samples AS (
        SELECT m.name, m.name || m.suffix
               || coalesce('{' || (SELECT string_agg(m.labels[i] || '="'
                                          || replace(replace(replace(m.labels[i + 1], E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n') || '"',
                                          ',' ORDER BY i)
                                     FROM generate_series(1, cardinality(m.labels), 2) i) || '}', '')
               || ' ' || CASE m.value WHEN 'Infinity' THEN '+Inf' WHEN '-Infinity' THEN '-Inf' ELSE m.value::text END AS line,
               row_number() OVER (PARTITION BY m.name ORDER BY m.labels[1:4], array_position(ARRAY['_sum', '_count'], m.suffix) NULLS FIRST,
                                  CASE m.labels[5] WHEN 'quantile' THEN m.labels[6]::double precision
                                                   WHEN 'le' THEN replace(m.labels[6], '+Inf', 'Infinity')::double precision END) AS place
          FROM ruvector._metrics() m WHERE m.value IS NOT NULL
    ), grouped AS (
        SELECT s.name, string_agg(s.line, E'\n' ORDER BY s.place) AS lines FROM samples s GROUP BY s.name
    )
    SELECT coalesce(string_agg(format(E'# HELP %s %s\n# TYPE %s %s\n%s\n', f.name, f.help, f.name, f.type, g.lines), ''
                               ORDER BY f.ordinality), '')
      FROM ruvector._metric_families() WITH ORDINALITY f JOIN grouped g ON g.name = f.name;
END;
