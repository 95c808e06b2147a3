-- Learning ----------------------------------------------------------------------------------------------------------

-- The spec's weight of each strategy. The healer computes it from the outcomes of 30 days; without one it stays.
CREATE TABLE ruvector.healing_weights (
    strategy    text PRIMARY KEY,
    weight      double precision NOT NULL CHECK (weight >= 0),
    computed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What is believed of each strategy by problem class and kind of index: healing::learning::Posterior. Computed by the healer
-- from outcomes and periods without an action.
CREATE TABLE ruvector.healing_posteriors (
    problem_class   text NOT NULL,
    index_kind      text NOT NULL,
    strategy        text NOT NULL,
    tries           integer NOT NULL,
    successes       double precision NOT NULL,   -- decayed
    failures        double precision NOT NULL,   -- decayed
    prior_mean      double precision NOT NULL,
    natural_rate    double precision,            -- clears by itself in the time of an action; NULL: never watched
    natural_periods integer,
    effect_mean     double precision NOT NULL,   -- the share that it clears and that would not have cleared alone
    effect_median   double precision NOT NULL,
    effect_low      double precision NOT NULL,   -- 90 % interval
    effect_high     double precision NOT NULL,
    computed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (problem_class, index_kind, strategy)
);

-- Periods in which a problem stood and nothing was done about it: how many clear by themselves, and when.
CREATE TABLE ruvector.no_action_periods (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL,
    problem_class text NOT NULL,
    index_kind    text NOT NULL,
    ended_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    seconds       double precision NOT NULL,
    cleared       boolean NOT NULL,              -- false: something was done about it, or watching ended
    randomised    boolean NOT NULL               -- a delay drawn at random
);
CREATE INDEX ON ruvector.no_action_periods (ended_at);

-- Such periods that are not over.
CREATE TABLE ruvector.no_action_watches (
    collection_id integer PRIMARY KEY REFERENCES ruvector.collections ON DELETE CASCADE,
    open          jsonb NOT NULL
);

-- How the strategy of each action was chosen, with the probability of that choice.
CREATE TABLE ruvector.healing_choices (
    action_id     bigint PRIMARY KEY REFERENCES ruvector.actions ON DELETE CASCADE,
    collection_id integer NOT NULL,
    chosen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    problem_class text NOT NULL,
    index_kind    text NOT NULL,
    selection     text NOT NULL CHECK (selection IN ('thompson', 'greedy')),
    seed          numeric NOT NULL,
    strategy      text NOT NULL,
    propensity    double precision NOT NULL CHECK (propensity > 0 AND propensity <= 1),
    arms          jsonb NOT NULL,                -- all that were chosen among, best first
    passed_over   jsonb NOT NULL,                -- what comes later because of what is known of it
    words         text NOT NULL
);

-- How far each strategy goes by itself on each collection. No row: it was never lowered, and a human never set it.
CREATE TABLE ruvector.healing_autonomy (
    collection_id   integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    strategy        text NOT NULL,
    level           text NOT NULL CHECK (level IN ('observe', 'approve', 'auto')),
    since           timestamptz NOT NULL,
    strikes         integer NOT NULL,            -- since the last success
    times_right     integer NOT NULL,            -- since the last move
    times_wrong     integer NOT NULL,
    struck_at       timestamptz,                 -- when a fault last counted as a strike
    PRIMARY KEY (collection_id, strategy)
);
-- A dump keeps what is held back, by a human or by failures: a copy is never less careful than what it was made from. The
-- top is where a strategy without a row is too.
SELECT pg_catalog.pg_extension_config_dump('ruvector.healing_autonomy',
    $$WHERE level <> 'auto' AND EXISTS (SELECT FROM ruvector.collections d JOIN pg_catalog.pg_class c ON c.oid = d.relation WHERE d.id = collection_id)$$);

-- Of a collection that a dump left out there is nothing to hold back.
CREATE FUNCTION ruvector._skip_unregistered() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE WHEN EXISTS (SELECT FROM ruvector.collections d WHERE d.id = NEW.collection_id) THEN NEW END;
END
$$;
CREATE TRIGGER skip_unregistered BEFORE INSERT ON ruvector.healing_autonomy
    FOR EACH ROW EXECUTE FUNCTION ruvector._skip_unregistered();

-- Every move on that ladder.
CREATE TABLE ruvector.healing_autonomy_moves (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL,
    strategy      text NOT NULL,
    moved_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_level    text NOT NULL,
    to_level      text NOT NULL,
    reason        text NOT NULL,
    moved_by      text NOT NULL DEFAULT session_user
);

-- What a strategy that only plans has predicted, held against what happened.
CREATE TABLE ruvector.healing_predictions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    strategy      text NOT NULL,
    problem_class text NOT NULL,
    index_kind    text NOT NULL,
    predicted_at  timestamptz NOT NULL,
    horizon_s     double precision NOT NULL,     -- what carrying the plan out and measuring it would take
    lasts         double precision NOT NULL,     -- predicted probability that the problem lasts that long
    succeeds      double precision NOT NULL,     -- predicted probability that the strategy would have been verified
    scored_at     timestamptz,                   -- NULL: open
    lasted        boolean,                       -- NULL where an action began meanwhile
    brier         double precision               -- (lasts - what happened)², 0 is best
);
CREATE UNIQUE INDEX healing_predictions_open ON ruvector.healing_predictions (collection_id, strategy, problem_class, index_kind)
    WHERE scored_at IS NULL;

-- Snapshots with the settings, state and decision of that moment, for replay_days: more often while a collection is not
-- normal or its decision changes. `ruvectorctl replay` decides from them anew.
CREATE TABLE ruvector.recorded_snapshots (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    taken_at      timestamptz NOT NULL,
    settings      jsonb NOT NULL,                -- the server's and the collection's, as two patches
    record        jsonb NOT NULL,
    snapshot      jsonb NOT NULL,
    decision      jsonb NOT NULL
);
CREATE INDEX ON ruvector.recorded_snapshots (collection_id, taken_at);

-- The outcomes that learning looks at, as the core reads them, the latest first.
CREATE FUNCTION ruvector._outcomes() RETURNS SETOF jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT jsonb_build_object('id', o.id, 'collection_id', o.collection_id, 'strategy', o.strategy_name,
               'problem_class', o.problem_class, 'index_kind', o.index_kind,
               'started_at', (extract(epoch FROM o.started_at) * 1000)::bigint,
               'completed_at', (extract(epoch FROM o.completed_at) * 1000)::bigint,
               'status', o.status, 'lesson', coalesce(a.lesson, 'nothing'), 'success', o.success, 'verified', o.verified,
               'improvement_pct', nullif(o.improvement_pct, 'NaN'), 'recovery_s', extract(epoch FROM back.at - weak.since),
               'feedback', o.feedback_score, 'feedback_at', (extract(epoch FROM o.feedback_at) * 1000)::bigint)
      FROM ruvector.healing_outcomes o
      JOIN ruvector.actions a ON a.id = o.action_id
      -- From the change of state that the action answered to the first time that all was normal again.
     CROSS JOIN LATERAL (SELECT max(e.happened_at) AS since FROM ruvector.integrity_events e
                          WHERE e.collection_id = o.collection_id AND e.from_state = 'normal' AND e.happened_at <= o.started_at) weak
     CROSS JOIN LATERAL (SELECT min(e.happened_at) AS at FROM ruvector.integrity_events e
                          WHERE e.collection_id = o.collection_id AND e.to_state = 'normal' AND e.happened_at >= o.started_at) back
     WHERE o.completed_at IS NOT NULL
     ORDER BY o.completed_at DESC, o.id DESC LIMIT 5000;
END;

-- What is believed of each strategy, as the core reads it.
CREATE FUNCTION ruvector._posteriors() RETURNS SETOF jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT jsonb_build_object('problem_class', p.problem_class, 'index_kind', p.index_kind, 'strategy', p.strategy,
               'tries', p.tries, 'successes', p.successes, 'failures', p.failures, 'prior_mean', p.prior_mean,
               'natural', CASE WHEN p.natural_rate IS NOT NULL
                               THEN jsonb_build_object('rate', p.natural_rate, 'periods', p.natural_periods) END,
               'effect', jsonb_build_object('mean', p.effect_mean, 'median', p.effect_median, 'low', p.effect_low,
                                            'high', p.effect_high))
      FROM ruvector.healing_posteriors p ORDER BY p.problem_class, p.index_kind, p.strategy;
END;

-- The report of healing::learning::report from outcomes, weights and posteriors.
CREATE FUNCTION ruvector._effectiveness(outcomes jsonb, weights jsonb, posteriors jsonb) RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'effectiveness_wrapper';

-- Of every strategy what it treats and, for a collection, whether it could act now.
CREATE FUNCTION ruvector._eligibility(collection_id integer) RETURNS jsonb
    LANGUAGE c AS 'MODULE_PATHNAME', 'eligibility_wrapper';

-- How effective each strategy was in the last 30 days; the last row, without a name, is all of them together.
-- weight: success rate × (1 + average improvement). improvement: λ of the repaired part, after ÷ before − 1, what was not
-- measured counting 0, with its 95 % interval. credited: the share of problems that the strategy cleared and that would not
-- have cleared by themselves (spontaneous_rate).
CREATE FUNCTION ruvector_healing_effectiveness()
RETURNS TABLE (strategy text, weight double precision, attempts bigint, verified bigint, rolled_back bigint,
               success_rate double precision, avg_improvement double precision, improvement_low double precision,
               improvement_high double precision, avg_time_to_recovery interval, spontaneous_rate double precision,
               credited double precision, recent_outcomes jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT r ->> 'strategy', (r ->> 'weight')::double precision, (r ->> 'attempts')::bigint, (r ->> 'verified')::bigint,
           (r ->> 'rolled_back')::bigint, (r ->> 'success_rate')::double precision,
           (r ->> 'avg_improvement')::double precision, (r ->> 'improvement_low')::double precision,
           (r ->> 'improvement_high')::double precision, make_interval(secs => (r ->> 'avg_recovery_s')::double precision),
           (r ->> 'spontaneous_rate')::double precision, (r ->> 'credited')::double precision,
           (SELECT coalesce(jsonb_agg(jsonb_build_object('outcome_id', o.id, 'action_id', o.action_id, 'status', o.status,
                       'problem_class', o.problem_class, 'completed_at', o.completed_at, 'verified', o.verified,
                       'improvement_pct', o.improvement_pct, 'feedback_score', o.feedback_score) ORDER BY l.n), '[]')
              FROM jsonb_array_elements_text(r -> 'last_outcomes') WITH ORDINALITY l (id, n)
              JOIN ruvector.healing_outcomes o ON o.id = l.id::bigint)
      FROM (SELECT ruvector._effectiveness(
                       (SELECT coalesce(jsonb_agg(o), '[]') FROM ruvector._outcomes() o),
                       (SELECT coalesce(jsonb_agg(jsonb_build_object('strategy', w.strategy, 'weight', w.weight)), '[]')
                          FROM ruvector.healing_weights w),
                       (SELECT coalesce(jsonb_agg(p), '[]') FROM ruvector._posteriors() p)) AS report) made
     CROSS JOIN jsonb_array_elements(report -> 'strategies' || jsonb_build_array(report -> 'total')) WITH ORDINALITY rows (r, n)
     ORDER BY rows.n;
END;

-- Every strategy: what it treats, its greatest impact, whether its plans can be undone as a rule, how far it goes by itself
-- ("mode": what a human has set, or lower), what was learned of it, and why it would not act now (NULL: it could). One row a
-- strategy and collection; without collections one a strategy.
CREATE FUNCTION ruvector_healing_strategies(collection text DEFAULT NULL)
RETURNS TABLE (collection_name text, strategy text, treats text[], impact double precision, reversible boolean, mode text,
               weight double precision, posterior jsonb, predictions bigint, brier double precision, reason text, why_not text)
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.name, s ->> 'strategy', ARRAY(SELECT jsonb_array_elements_text(s -> 'treats')),
           (s ->> 'impact')::double precision, (s ->> 'reversible')::boolean, s ->> 'mode', coalesce(w.weight, 1),
           (SELECT coalesce(jsonb_agg(p ORDER BY p ->> 'problem_class', p ->> 'index_kind'), '[]')
              FROM ruvector._posteriors() p WHERE p ->> 'strategy' = s ->> 'strategy'),
           (SELECT count(*) FROM ruvector.healing_predictions q
             WHERE q.collection_id = c.id AND q.strategy = s ->> 'strategy' AND q.brier IS NOT NULL),
           (SELECT avg(q.brier) FROM ruvector.healing_predictions q WHERE q.collection_id = c.id AND q.strategy = s ->> 'strategy'),
           s ->> 'reason', s ->> 'detail'
      FROM (SELECT d.id, d.name FROM ruvector.collections d
             WHERE ruvector_healing_strategies.collection IS NULL
                OR d.id = (ruvector._collection(ruvector_healing_strategies.collection)).id
             UNION ALL
            SELECT NULL, NULL WHERE NOT EXISTS (SELECT FROM ruvector.collections)
                                AND (ruvector_healing_strategies.collection IS NULL
                                     OR (ruvector._collection(ruvector_healing_strategies.collection)).id IS NULL)) c
     CROSS JOIN jsonb_array_elements(ruvector._eligibility(c.id)) s
      LEFT JOIN ruvector.healing_weights w ON w.strategy = s ->> 'strategy'
     ORDER BY c.name, s ->> 'strategy';
END;

-- A human's judgement of an outcome: 0, of no use, to 1, it helped. It counts before what was measured. Giving it again
-- replaces it; NULL takes it back.
CREATE FUNCTION ruvector_healing_feedback(outcome_id bigint, score double precision, comment text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    judged ruvector.healing_outcomes;
BEGIN
    SELECT * INTO judged FROM ruvector.healing_outcomes o WHERE o.id = outcome_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no outcome %', outcome_id
            USING ERRCODE = 'undefined_object', HINT = 'SELECT id, strategy, status FROM ruvector_healing_history() lists them.';
    END IF;
    PERFORM ruvector._check_owner(c) FROM ruvector.collections c WHERE c.id = judged.collection_id;
    IF NOT score BETWEEN 0 AND 1 THEN
        RAISE EXCEPTION 'a score of % is not valid', score
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass a number from 0 (of no use) to 1 (it helped), or NULL to take it back.';
    END IF;
    IF length(comment) > 10000 THEN
        RAISE EXCEPTION 'the comment has % characters', length(comment)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'At most 10000 are kept.';
    END IF;
    PERFORM ruvector._audit('judged', judged.action_id,
        (SELECT a.collection_name FROM ruvector.actions a WHERE a.id = judged.action_id),
        format('SELECT ruvector_healing_feedback(%s, %L, %L)', outcome_id, score, comment),
        format('SELECT ruvector_healing_feedback(%s, %L, %L)', outcome_id, judged.feedback_score, judged.feedback_comment),
        jsonb_build_object('strategy', judged.strategy_name, 'before', judged.feedback_score, 'after', score));
    UPDATE ruvector.healing_outcomes o
       SET feedback_score = score, feedback_comment = comment, feedback_by = session_user, feedback_at = clock_timestamp()
     WHERE o.id = outcome_id;
    PERFORM ruvector._wake();
END
$$;

-- Puts a strategy on the autonomy ladder of a collection: observe (it plans), approve (it asks), auto (only the mode of the
-- collection holds it back). What spoke for or against it before counts no more. Returns the level that it had.
CREATE FUNCTION ruvector_healing_autonomy(collection text, strategy text, level text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry  ruvector.collections := ruvector._collection(collection);
    before text;
BEGIN
    PERFORM ruvector._check_owner(entry);
    IF strategy IS NULL OR NOT strategy = ANY (ruvector._strategies()) THEN
        RAISE EXCEPTION 'there is no strategy "%"', strategy
            USING ERRCODE = 'undefined_object',
                  HINT = format('There are: %s.', array_to_string(ruvector._strategies(), ', '));
    END IF;
    IF level IS NULL OR level NOT IN ('observe', 'approve', 'auto') THEN
        RAISE EXCEPTION 'there is no level "%"', level
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Valid: observe, approve, auto.';
    END IF;
    -- A worker that ends meanwhile must not be lost.
    LOCK TABLE ruvector.healing_autonomy IN SHARE ROW EXCLUSIVE MODE;
    SELECT a.level INTO before FROM ruvector.healing_autonomy a
     WHERE a.collection_id = entry.id AND a.strategy = ruvector_healing_autonomy.strategy;
    before := coalesce(before, 'auto');
    INSERT INTO ruvector.healing_autonomy AS a (collection_id, strategy, level, since, strikes, times_right, times_wrong)
    VALUES (entry.id, strategy, level, clock_timestamp(), 0, 0, 0)
    ON CONFLICT ON CONSTRAINT healing_autonomy_pkey DO UPDATE
       SET (level, since, strikes, times_right, times_wrong, struck_at) = (EXCLUDED.level, EXCLUDED.since, 0, 0, 0, NULL);
    INSERT INTO ruvector.healing_autonomy_moves (collection_id, strategy, from_level, to_level, reason)
    VALUES (entry.id, strategy, before, level, 'set by a human');
    PERFORM ruvector._audit('autonomy_moved', NULL, entry.name,
        format('SELECT ruvector_healing_autonomy(%L, %L, %L)', entry.name, strategy, level),
        format('SELECT ruvector_healing_autonomy(%L, %L, %L)', entry.name, strategy, before),
        jsonb_build_object('strategy', strategy, 'from', before, 'to', level, 'reason', 'set by a human'));
    PERFORM ruvector._wake();
    RETURN before;
END
$$;

-- What a replay needs of a time, in order: {"kind": "snapshot" | "lambda" | "action" | "move" | "outcome" | "period", ...}. A
-- collection, or all; what was learned (outcomes, periods without an action) is the whole server's.
CREATE FUNCTION ruvector_recorded(since timestamptz, until timestamptz DEFAULT now(), collection text DEFAULT NULL)
RETURNS SETOF jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH chosen AS (
        SELECT d.id FROM ruvector.collections d
         WHERE ruvector_recorded.collection IS NULL OR d.id = (ruvector._collection(ruvector_recorded.collection)).id
    ), rows AS (
        SELECT r.taken_at AS at, 1 AS rank, jsonb_build_object('kind', 'snapshot', 'settings', r.settings, 'record', r.record,
                   'snapshot', r.snapshot, 'decision', r.decision) AS row
          FROM ruvector.recorded_snapshots r JOIN chosen c ON c.id = r.collection_id
         WHERE r.taken_at >= since AND r.taken_at <= until
        UNION ALL
        SELECT h.sampled_at, 0, jsonb_build_object('kind', 'lambda', 'collection_id', h.collection_id,
                   'at', (extract(epoch FROM h.sampled_at) * 1000)::bigint, 'lambda', h.lambda_cut)
          FROM ruvector.integrity_history h JOIN chosen c ON c.id = h.collection_id
         WHERE h.sampled_at >= since AND h.sampled_at <= until
        UNION ALL
        SELECT coalesce(a.started_at, a.ended_at), 2, jsonb_build_object('kind', 'action', 'collection_id', a.collection_id,
                   'action_id', a.id, 'started_at', (extract(epoch FROM coalesce(a.started_at, a.ended_at)) * 1000)::bigint,
                   'ended_at', (extract(epoch FROM a.ended_at) * 1000)::bigint, 'status', a.status, 'strategy', a.strategy,
                   'problem_class', a.problem_class, 'lambda_before', coalesce(a.verification -> 'of_problem' -> 'before', a.verification -> 'lambda_before'),
                   'lambda_after', coalesce(a.verification -> 'of_problem' -> 'after', a.verification -> 'lambda_after'), 'lesson', a.lesson,
                   'lambda_planned', a.problem -> 'component' -> 'lambda', 'lambda_placed', a.plan -> 'params' -> 'lambda_placed',
                   'nodes', a.problem -> 'component' -> 'nodes',
                   'request', a.request)
                   -- As decisions see them: what a human took back is no gain.
                   || CASE WHEN a.request ->> 'kind' = 'rollback' AND a.status = 'succeeded' THEN
                          jsonb_build_object('lesson', 'no_gain', 'strategy', (SELECT o.strategy FROM ruvector.actions o
                                                                                WHERE o.id = (a.request ->> 'of')::bigint))
                      ELSE '{}' END
          FROM ruvector.actions a JOIN chosen c ON c.id = a.collection_id
         -- A plan that waits for a human holds nothing back; one that was refused does from then on.
         WHERE a.plan IS NOT NULL AND coalesce(a.started_at, a.ended_at) <= until
           AND coalesce(a.started_at, a.ended_at) > since - interval '30 days'
        UNION ALL
        SELECT m.moved_at, 3, jsonb_build_object('kind', 'move', 'collection_id', m.collection_id, 'strategy', m.strategy,
                   'level', m.to_level, 'since', (extract(epoch FROM m.moved_at) * 1000)::bigint, 'strikes', 0, 'right', 0, 'wrong', 0)
          FROM ruvector.healing_autonomy_moves m JOIN chosen c ON c.id = m.collection_id
         WHERE m.moved_at <= until
        UNION ALL
        SELECT to_timestamp((o ->> 'completed_at')::float8 / 1000), 4, jsonb_build_object('kind', 'outcome') || o
          FROM ruvector._outcomes() o
         WHERE to_timestamp((o ->> 'completed_at')::float8 / 1000) <= until
        UNION ALL
        SELECT p.ended_at, 5, jsonb_build_object('kind', 'period', 'at', (extract(epoch FROM p.ended_at) * 1000)::bigint,
                   'problem_class', p.problem_class, 'index_kind', p.index_kind, 'seconds', p.seconds,
                   'cleared', p.cleared, 'randomised', p.randomised)
          FROM ruvector.no_action_periods p
         WHERE p.ended_at <= until AND p.ended_at > since - interval '30 days'
    )
    SELECT rows.row FROM rows ORDER BY rows.at, rows.rank;
END;
