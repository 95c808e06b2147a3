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
               AND ruvector._not_ready() IS NULL AND ruvector._paused_until(NULL) IS NULL,
           (SELECT max(last_healing) FROM counted), (SELECT coalesce(sum(healings_24h), 0)::bigint FROM counted),
           (SELECT sum(verified) / nullif(sum(all_outcomes), 0)::double precision FROM counted),
           (SELECT coalesce(jsonb_agg(x ORDER BY x -> 'action_id'), '[]') FROM moving m, jsonb_array_elements(m.active) x),
           (SELECT max(p.cooldown_until) FROM per_collection p),
           NULL::text, ruvector._effective_settings(s.settings, '{}') ->> 'mode', NULL::text,
           (SELECT min(p.lambda_cut) FROM per_collection p), (SELECT coalesce(sum(pending), 0)::bigint FROM moving),
           CASE WHEN ruvector._not_ready() IS NOT NULL THEN ruvector._not_ready()
                WHEN NOT ruvector._enabled() THEN 'ruvector.enabled is off'
                ELSE 'paused until ' || ruvector._paused_until(NULL) END
      FROM (SELECT ruvector._server_settings() AS settings) s
    UNION ALL
    (SELECT (p.config ->> 'enabled')::boolean AND ruvector._enabled() AND ruvector._not_ready() IS NULL
               AND ruvector._paused_until(p.id) IS NULL,
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
