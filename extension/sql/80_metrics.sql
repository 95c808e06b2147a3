-- Metrics -----------------------------------------------------------------------------------------------------------

-- What Prometheus reads, one row a sample. Counters are counted from the tables, so they survive restarts. What is not known
-- (no outcome yet, λ NULL) is absent, not 0; a counter is there from the beginning, with 0, since increase() sees no first
-- step of a series that begins with it. Labels are bounded: registered collections, this version's strategies, fixed words;
-- of indexes the fifty with the lowest recall. Ratios are of the last 30 days, the time that learning looks back on.
CREATE FUNCTION ruvector._metrics()
RETURNS TABLE (ordinal integer, name text, type text, help text, suffix text, labels text[], value double precision)
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
    SELECT 1, 'ruvector_build_info', 'gauge', 'Version of the extension in this database.', '',
           ARRAY['version', e.extversion], 1
      FROM pg_extension e WHERE e.extname = 'ruvector'
    UNION ALL
    SELECT 2, 'ruvector_healer_ready', 'gauge', 'Whether the library is preloaded, so that collections are watched at all.', '',
           ARRAY[]::text[], s.ready::integer
      FROM server s
    UNION ALL
    SELECT 10, 'ruvector_healing_attempts_total', 'counter', 'Actions that ran and have ended.', '',
           ARRAY['collection', r.name, 'strategy', r.strategy],
           (SELECT count(*) FROM outcomes o WHERE o.id = r.id AND o.strategy_name = r.strategy)
      FROM arms r
    UNION ALL
    SELECT 11, 'ruvector_healing_success_total', 'counter', 'Actions whose effect was verified and kept.', '',
           ARRAY['collection', r.name, 'strategy', r.strategy],
           (SELECT count(*) FROM outcomes o WHERE o.id = r.id AND o.strategy_name = r.strategy AND o.good)
      FROM arms r
    UNION ALL
    SELECT 12, 'ruvector_healing_outcomes_total', 'counter', 'Actions that ran, by how they ended.', '',
           ARRAY['collection', c.name, 'status', t.status],
           (SELECT count(*) FROM outcomes o WHERE o.id = c.id AND o.status = t.status)
      FROM collections c
     CROSS JOIN unnest(ARRAY['succeeded', 'rolled_back', 'rollback_failed', 'failed', 'aborted']) t (status)
    UNION ALL
    SELECT 13, 'ruvector_healing_duration_seconds', 'summary',
           'Time that actions took: quantiles of the last 30 days, sum and count of all.', '',
           ARRAY['collection', o.name, 'strategy', o.strategy_name, 'quantile', q.q::text],
           percentile_cont(q.q) WITHIN GROUP (ORDER BY o.seconds)
      FROM outcomes o CROSS JOIN unnest(ARRAY[0.5, 0.9, 0.99]::double precision[]) q (q)
     WHERE o.recent AND o.seconds IS NOT NULL GROUP BY o.name, o.strategy_name, q.q
    UNION ALL
    SELECT 13, 'ruvector_healing_duration_seconds', 'summary', NULL, v.suffix,
           ARRAY['collection', o.name, 'strategy', o.strategy_name], v.value
      FROM (SELECT o.name, o.strategy_name, sum(o.seconds) AS total, count(*) AS times
              FROM outcomes o WHERE o.seconds IS NOT NULL GROUP BY o.name, o.strategy_name) o
     CROSS JOIN LATERAL (VALUES ('_sum', o.total), ('_count', o.times)) v (suffix, value)
    UNION ALL
    SELECT 14, 'ruvector_healing_action_duration_seconds', 'histogram', 'Time that actions took.', '_bucket',
           ARRAY['collection', o.name, 'strategy', o.strategy_name, 'le',
                 CASE b.le WHEN 'Infinity' THEN '+Inf' ELSE b.le::text END],
           count(*) FILTER (WHERE o.seconds <= b.le)
      FROM outcomes o CROSS JOIN unnest(ARRAY[1, 5, 15, 60, 300, 900, 3600, 14400, 'Infinity']::double precision[]) b (le)
     WHERE o.seconds IS NOT NULL GROUP BY o.name, o.strategy_name, b.le
    UNION ALL
    SELECT 14, 'ruvector_healing_action_duration_seconds', 'histogram', NULL, v.suffix,
           ARRAY['collection', o.name, 'strategy', o.strategy_name], v.value
      FROM (SELECT o.name, o.strategy_name, sum(o.seconds) AS total, count(*) AS times
              FROM outcomes o WHERE o.seconds IS NOT NULL GROUP BY o.name, o.strategy_name) o
     CROSS JOIN LATERAL (VALUES ('_sum', o.total), ('_count', o.times)) v (suffix, value)
    UNION ALL
    SELECT 20, 'ruvector_healing_enabled', 'gauge', 'Whether the collection is healed: its setting, ruvector.enabled, preload.',
           '', ARRAY['collection', c.name], c.enabled::integer
      FROM collections c
    UNION ALL
    SELECT 21, 'ruvector_healing_active', 'gauge', 'Actions under way.', '', ARRAY['collection', c.name],
           (SELECT count(*) FROM actions a WHERE a.id = c.id AND a.status IN ('approved', 'executing', 'verifying'))
      FROM collections c
    UNION ALL
    SELECT 22, v.name, 'gauge', v.help, '', ARRAY['collection', c.name], v.value
      FROM collections c
     CROSS JOIN LATERAL (SELECT max(a.last_end) FILTER (WHERE a.started_at IS NOT NULL)
                                + make_interval(secs => (c.config ->> 'min_healing_interval_seconds')::double precision) AS until
                           FROM actions a WHERE a.id = c.id) w
     CROSS JOIN LATERAL (VALUES
           ('ruvector_healing_cooldown', 'Whether a cooldown holds back automatic healing.',
            coalesce(w.until > now(), false)::integer::double precision),
           ('ruvector_healing_cooldown_until_timestamp_seconds', 'When the cooldown ends; absent outside one.',
            CASE WHEN w.until > now() THEN extract(epoch FROM w.until)::double precision END)) v (name, help, value)
    UNION ALL
    SELECT 24, 'ruvector_healing_pending_approvals', 'gauge', 'Plans that wait for a human.', '', ARRAY['collection', c.name],
           (SELECT count(*) FROM actions a WHERE a.id = c.id AND a.status = 'awaiting_approval')
      FROM collections c
    UNION ALL
    SELECT 25, 'ruvector_healing_unfinished', 'gauge', 'Ended actions that left something to be put right; nothing else acts until then.',
           '', ARRAY['collection', c.name], (SELECT count(*) FROM actions a WHERE a.id = c.id AND a.unfinished)
      FROM collections c
    UNION ALL
    SELECT 26, 'ruvector_healing_breaker_open', 'gauge', 'Whether a strategy was given up after failures, until a human resets it.', '',
           ARRAY['collection', r.name, 'strategy', r.strategy], coalesce(m.breaker_open, false)::integer
      FROM arms r LEFT JOIN ruvector.healing_arms m ON m.collection_id = r.id AND m.strategy = r.strategy
    UNION ALL
    SELECT 30, 'ruvector_healing_success_rate', 'gauge', 'Share of the attempts of 30 days that were verified, 0 to 1.', '',
           ARRAY['collection', o.name], avg(o.good::integer)
      FROM outcomes o WHERE o.recent GROUP BY o.name
    UNION ALL
    SELECT 31, 'ruvector_healing_avg_improvement', 'gauge',
           'Mean improvement of what was healed over 30 days, as a ratio: 0.25 is 25 % better.', '',
           ARRAY['collection', o.name], avg(o.improvement)
      FROM outcomes o WHERE o.recent GROUP BY o.name
    UNION ALL
    SELECT 32, 'ruvector_healing_time_to_recovery_seconds', 'gauge',
           'Mean time from leaving the normal state to its return, of the recoveries of 30 days.', '',
           ARRAY['collection', c.name], avg(extract(epoch FROM r.took))
      FROM recoveries r JOIN collections c ON c.id = r.collection_id
     WHERE r.to_state = 'normal' AND r.happened_at > now() - interval '30 days' GROUP BY c.name
    UNION ALL
    SELECT 40, 'ruvector_integrity_state', 'gauge', 'State: 0 normal, 1 stress, 2 critical; absent while unknown.', '',
           ARRAY['collection', c.name], CASE c.state WHEN 'normal' THEN 0 WHEN 'stress' THEN 1 WHEN 'critical' THEN 2 END
      FROM collections c
    UNION ALL
    SELECT v.ordinal, v.name, 'gauge', v.help, '', ARRAY['collection', c.name], v.value
      FROM collections c
     CROSS JOIN LATERAL (VALUES
           (41, 'ruvector_integrity_lambda', 'How firmly the weakest part hangs on: the minimum cut, 1 healthy, 0 cut off.', c.lambda_cut),
           (42, 'ruvector_integrity_lambda_low', 'The same if every unread metric were at its worst.', c.lambda_low),
           (43, 'ruvector_integrity_lambda_high', 'The same if every unread metric were at its best.', c.lambda_high),
           (44, 'ruvector_integrity_sampled_timestamp_seconds', 'When the collection was last sampled.',
            extract(epoch FROM c.sampled_at)::double precision)) v (ordinal, name, help, value)
    UNION ALL
    SELECT 45, 'ruvector_integrity_problem_lambda', 'gauge', 'Weakest part of each problem class that is there now.', '',
           ARRAY['collection', c.name, 'class', p ->> 'class'], min((p ->> 'lambda')::double precision)
      FROM collections c CROSS JOIN jsonb_array_elements(c.problems) p GROUP BY c.name, p ->> 'class'
    UNION ALL
    SELECT v.ordinal, v.name, 'gauge', v.help, '', ARRAY['collection', x.name, 'index', x.index], v.value
      FROM (SELECT c.name, x ->> 'name' AS index, (x #>> '{recall,known,recall}')::double precision AS recall,
                   (x #>> '{recall,known,blocks}')::double precision AS blocks,
                   row_number() OVER (PARTITION BY c.id ORDER BY x #>> '{recall,known,recall}', x ->> 'name') AS place
              FROM collections c CROSS JOIN jsonb_array_elements(c.snapshot -> 'indexes') x) x
     CROSS JOIN LATERAL (VALUES
           (50, 'ruvector_recall', 'Recall@k of an index by the last panel, 0 to 1.', x.recall),
           (51, 'ruvector_blocks_per_query', 'Blocks that a query of the panel touched.', x.blocks)) v (ordinal, name, help, value)
     WHERE x.place <= 50
    UNION ALL
    SELECT 52, 'ruvector_recall_objective', 'gauge', 'Recall@k that searches should reach.', '', ARRAY['collection', c.name],
           (c.config ->> 'recall_objective')::double precision
      FROM collections c;
END;

-- The metrics in Prometheus' text format (version 0.0.4).
CREATE FUNCTION ruvector_healing_metrics() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH samples AS (
        SELECT m.ordinal, m.name, m.type, m.help, m.name || m.suffix
               || coalesce('{' || (SELECT string_agg(m.labels[i] || '="'
                                          || replace(replace(replace(m.labels[i + 1], E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n') || '"',
                                          ',' ORDER BY i)
                                     FROM generate_series(1, cardinality(m.labels), 2) i) || '}', '')
               || ' ' || CASE m.value WHEN 'Infinity' THEN '+Inf' WHEN '-Infinity' THEN '-Inf' ELSE m.value::text END AS line,
               row_number() OVER (PARTITION BY m.name ORDER BY m.labels[1:4], array_position(ARRAY['_sum', '_count'], m.suffix) NULLS FIRST,
                                  CASE m.labels[5] WHEN 'quantile' THEN m.labels[6]::double precision
                                                   WHEN 'le' THEN replace(m.labels[6], '+Inf', 'Infinity')::double precision END) AS place
          FROM ruvector._metrics() m WHERE m.value IS NOT NULL
    ), families AS (
        SELECT s.ordinal, s.name, max(s.type) AS type, max(s.help) AS help, string_agg(s.line, E'\n' ORDER BY s.place) AS lines
          FROM samples s GROUP BY s.ordinal, s.name
    )
    SELECT coalesce(string_agg(format(E'# HELP %s %s\n# TYPE %s %s\n%s\n', f.name, f.help, f.name, f.type, f.lines), ''
                               ORDER BY f.ordinal, f.name), '')
      FROM families f;
END;
