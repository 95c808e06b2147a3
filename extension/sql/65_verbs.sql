-- What a human says of plans, actions and healing as a whole ----------------------------------------------------------

-- Asks the worker of an action to end once the calling transaction has committed; nothing happens if it rolls back.
CREATE FUNCTION ruvector._stop_at_commit(pid integer) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'stop_at_commit_wrapper';

-- What the engine would do on a collection now: {"automatic": decision, "trigger": decision} of healing::engine.
CREATE FUNCTION ruvector._decisions(collection_id integer) RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'decisions_wrapper';

-- What a reason means, in one sentence.
CREATE FUNCTION ruvector._reason(name text) RETURNS text
    LANGUAGE c STRICT IMMUTABLE AS 'MODULE_PATHNAME', 'reason_wrapper';

-- An action in words, from its row and its journal.
CREATE FUNCTION ruvector._explain_action(document jsonb) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'explain_action_wrapper';

-- Until when healing is paused, on the server (NULL) or on a collection, whose server may be; NULL when it is not.
CREATE FUNCTION ruvector._paused_until(id integer) RETURNS timestamptz
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT max(p.until) FROM ruvector.healing_pauses p
     WHERE (p.collection_id IS NULL OR p.collection_id = id) AND p.until > clock_timestamp();
END;

-- Whether healing is switched on for a collection. Settings that cannot be read are no consent, and no error: leases of the
-- others must end. True for a collection that is not there: what is held back for it ends for that.
CREATE FUNCTION ruvector._healing_is_on(id integer) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ruvector._enabled()
       AND coalesce((SELECT (ruvector._effective_settings(ruvector._server_settings(), c.settings) ->> 'enabled')::boolean
                       FROM ruvector.collections c WHERE c.id = _healing_is_on.id), true);
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
$$;

CREATE FUNCTION ruvector._healing_off(collection text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN NOT ruvector._enabled() THEN 'ruvector.enabled is off'
                WHEN NOT (ruvector._effective_settings(ruvector._server_settings(), c.settings) ->> 'enabled')::boolean
                THEN 'its setting enabled is false'
                ELSE 'it is paused until ' || ruvector._paused_until(c.id) END
      FROM ruvector._collection(collection) c;
END;

-- An ERROR while healing of the collection is switched off or paused.
CREATE FUNCTION ruvector._check_enabled(collection text) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    off text := ruvector._healing_off(collection);
BEGIN
    IF off IS NOT NULL THEN
        RAISE EXCEPTION 'healing of collection "%" is switched off: %', collection, off
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'ruvector_healing_configure(''{"enabled": true}''), ruvector_healing_resume() or ruvector.enabled switch it on.';
    END IF;
END
$$;

-- Refuses a plan that waits for a human: its strategy then waits on this part as after a plan that was no gain. Returns
-- whether it was waiting.
CREATE FUNCTION ruvector_healing_reject(action_id bigint, reason text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.actions := ruvector._action(action_id);
BEGIN
    PERFORM ruvector._check_owner(c) FROM ruvector.collections c WHERE c.id = entry.collection_id;
    UPDATE ruvector.actions a
       SET status = 'aborted', ended_at = clock_timestamp(), lesson = 'no_gain', stop_reason = 'abort',
           stop_asked_by = session_user, stop_asked_at = clock_timestamp(),
           detail = format('rejected by %s', session_user) || coalesce(': ' || ruvector_healing_reject.reason, '')
     WHERE a.id = action_id AND a.status = 'awaiting_approval';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM ruvector._audit('rejected', action_id, entry.collection_name,
        format('SELECT ruvector_healing_reject(%s, %L)', action_id, reason),
        format('SELECT ruvector_healing_reset(%L, %L)', entry.collection_name, entry.strategy));
    PERFORM ruvector._wake();
    RETURN true;
END
$$;

-- Takes back the last successful action on a collection that has a way back, as far as that is possible now, also days later;
-- it is refused with the reason where it is not. It waits for approval where what it takes back would. Returns the number of
-- the action that does it.
CREATE FUNCTION ruvector_healing_rollback(collection text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry  ruvector.collections := ruvector._collection(collection);
    last   ruvector.actions;
    moving bigint;
BEGIN
    PERFORM ruvector._check_owner(entry);
    PERFORM ruvector._check_enabled(collection);
    SELECT a.id INTO moving FROM ruvector.actions a
     WHERE a.collection_id = entry.id AND a.status IN ('approved', 'executing', 'verifying');
    IF moving IS NOT NULL THEN
        RAISE EXCEPTION 'action % on collection "%" is under way', moving, collection USING ERRCODE = 'object_in_use',
            HINT = format('SELECT ruvector_healing_abort(%s) stops it and takes it back.', moving);
    END IF;
    SELECT * INTO last FROM ruvector.actions a
     WHERE a.collection_id = entry.id AND a.status = 'succeeded' AND a.request ->> 'kind' <> 'rollback'
     ORDER BY (a.plan ->> 'reversible')::boolean DESC, a.ended_at DESC, a.id DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no action on collection "%" to take back', collection
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'SELECT * FROM ruvector_healing_history() shows what was done; failed ones were undone at once.';
    END IF;
    SELECT a.id INTO moving FROM ruvector.actions a
     WHERE a.collection_id = entry.id AND a.status IN ('proposed', 'awaiting_approval') AND a.request ->> 'kind' = 'rollback'
       AND (a.request ->> 'of')::bigint = last.id;
    IF moving IS NOT NULL THEN
        RAISE EXCEPTION 'action % takes it back already', moving USING ERRCODE = 'object_in_use',
            HINT = format('SELECT ruvector_healing_approve(%s) lets it begin, ruvector_healing_reject(%s) refuses it.', moving, moving);
    END IF;
    IF NOT (last.plan ->> 'reversible')::boolean THEN
        RAISE EXCEPTION 'no action on collection "%" has a way back: the last, %, is %, which has none', collection, last.id, last.strategy
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('SELECT ruvector_healing_explain(%s) says what it did.', last.id);
    END IF;
    RAISE NOTICE 'taking back action % of %, %', last.id, last.ended_at, last.strategy;
    RETURN ruvector._propose(entry, jsonb_build_object('kind', 'rollback', 'of', last.id));
END
$$;

-- Healing does nothing by itself or by hand until then, on the server or on one collection; measuring goes on, and so does
-- an action that is under way. It ends by itself.
CREATE FUNCTION ruvector_healing_pause(until timestamptz, collection text DEFAULT NULL, reason text DEFAULT NULL) RETURNS timestamptz
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.collections;
BEGIN
    IF until IS NULL OR until <= clock_timestamp() OR until = 'infinity' THEN
        RAISE EXCEPTION 'a pause needs an end in the future, not %', coalesce(until::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'For instance now() + interval ''2 hours''. For good: ruvector_healing_configure(''{"enabled": false}'').';
    END IF;
    IF collection IS NOT NULL THEN
        entry := ruvector._collection(collection);
        PERFORM ruvector._check_owner(entry);
    ELSE
        PERFORM ruvector._check_database_owner();
    END IF;
    INSERT INTO ruvector.healing_pauses AS p (collection_id, until, reason)
    VALUES (entry.id, ruvector_healing_pause.until, ruvector_healing_pause.reason)
    ON CONFLICT (collection_id) DO UPDATE
       SET until = EXCLUDED.until, reason = EXCLUDED.reason, paused_by = session_user, paused_at = clock_timestamp();
    PERFORM ruvector._audit('paused', NULL, collection,
        format('SELECT ruvector_healing_pause(%L, %L, %L)', until, collection, reason),
        format('SELECT ruvector_healing_resume(%L)', collection));
    PERFORM ruvector._wake();
    RETURN until;
END
$$;

-- Ends a pause of the server, or of one collection. Returns whether there was one.
CREATE FUNCTION ruvector_healing_resume(collection text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.collections;
    ended timestamptz;
BEGIN
    IF collection IS NOT NULL THEN
        entry := ruvector._collection(collection);
        PERFORM ruvector._check_owner(entry);
    ELSE
        PERFORM ruvector._check_database_owner();
    END IF;
    DELETE FROM ruvector.healing_pauses p WHERE p.collection_id IS NOT DISTINCT FROM entry.id RETURNING p.until INTO ended;
    IF coalesce(ended <= clock_timestamp(), true) THEN
        RETURN false;
    END IF;
    PERFORM ruvector._audit('resumed', NULL, collection, format('SELECT ruvector_healing_resume(%L)', collection),
        format('SELECT ruvector_healing_pause(%L, %L)', ended, collection));
    PERFORM ruvector._wake();
    RETURN true;
END
$$;

-- What the healer would do on a collection if it were asked now, best first: each strategy with its plan in words, or with
-- the reason why it would not run. "runs" of the first row: now, after_approval, not_now (the reason of the healer itself,
-- such as a cooldown) or no.
CREATE FUNCTION ruvector_healing_plan(collection text)
RETURNS TABLE (runs text, problem_class text, strategy text, explanation text, reason text, detail text, until timestamptz, plan jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH asked AS MATERIALIZED (
        SELECT ruvector._decisions(c.id) AS d FROM ruvector._collection(ruvector_healing_plan.collection) c
    ), best AS (
        SELECT 0 AS place, coalesce(d #> '{automatic,planned}', d #> '{trigger,planned}') AS planned, d -> 'automatic' AS x FROM asked
    )
    SELECT s.runs, s.problem_class, s.strategy, s.explanation, s.reason, s.detail, s.until, s.plan FROM (
        SELECT b.place, CASE WHEN b.x ->> 'decision' = 'act' AND b.x ->> 'approval' IS NULL THEN 'now'
                             WHEN b.x ->> 'decision' = 'act' THEN 'after_approval'
                             WHEN b.planned IS NOT NULL THEN 'not_now' ELSE 'no' END AS runs,
               b.planned ->> 'problem_class' AS problem_class, b.planned ->> 'strategy' AS strategy,
               b.planned ->> 'explanation' AS explanation, coalesce(b.x ->> 'reason', b.x ->> 'approval') AS reason,
               b.x ->> 'detail' AS detail, to_timestamp((b.x ->> 'until')::double precision / 1000) AS until, b.planned -> 'plan' AS plan
          FROM best b
        UNION ALL
        SELECT r.ordinality, 'no', r.value ->> 'problem_class', r.value ->> 'strategy', NULL, r.value ->> 'reason', r.value ->> 'detail',
               to_timestamp((r.value ->> 'until')::double precision / 1000), NULL
          FROM asked, jsonb_array_elements(asked.d #> '{trigger,rejected}') WITH ORDINALITY r) s
     ORDER BY s.place;
END;

-- Why a collection is not being healed: first what stands in the way of all, then each alternative that was looked at and
-- not taken, each with what the reason means and when it ends by itself. No row: it acts, or was not decided about yet.
CREATE FUNCTION ruvector_healing_why_not(collection text)
RETURNS TABLE (reason text, meaning text, detail text, until timestamptz, strategy text, problem_class text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH decided AS (
        SELECT i.decision AS d FROM ruvector._collection(ruvector_healing_why_not.collection) c
          JOIN ruvector.integrity i ON i.collection_id = c.id
    )
    SELECT s.reason, ruvector._reason(s.reason), s.detail, s.until, s.strategy, s.problem_class FROM (
        SELECT 0 AS place, d ->> 'reason' AS reason, d ->> 'detail' AS detail,
               to_timestamp((d ->> 'until')::double precision / 1000) AS until, d ->> 'strategy' AS strategy, NULL AS problem_class
          FROM decided WHERE d ->> 'reason' IS NOT NULL
        UNION ALL
        SELECT r.ordinality, r.value ->> 'reason', r.value ->> 'detail',
               to_timestamp((r.value ->> 'until')::double precision / 1000), r.value ->> 'strategy', r.value ->> 'problem_class'
          FROM decided, jsonb_array_elements(CASE jsonb_typeof(d -> 'rejected') WHEN 'array' THEN d -> 'rejected' ELSE '[]' END)
               WITH ORDINALITY r) s
     ORDER BY s.place;
END;

-- An action in words: who asked for it, what was found and planned, what was not taken and why, who approved, each step,
-- how it was verified, how it ended.
CREATE FUNCTION ruvector_healing_explain(action_id bigint) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT ruvector._explain_action(to_jsonb(a) - 'before' || jsonb_build_object(
               'steps', (SELECT jsonb_agg(jsonb_build_object('step', s.step, 'state', s.state, 'noted_at', s.noted_at,
                                'sql', s.details -> 'sql') ORDER BY s.id)
                           FROM ruvector.action_steps s WHERE s.action_id = a.id)))
      FROM ruvector._action(ruvector_healing_explain.action_id) a;
END;

-- Hands a collection back as an ordinary table: nothing of the healer stays in force, and its name is free again. A managed
-- one routes by a default of plain SQL from then on, also when it was unregistered before. What the healer has built stays as it is. Returns what was handed back, and what is left for a human, if anything.
CREATE FUNCTION ruvector_collection_release(name text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry   ruvector.collections;
    managed regclass;
    efforts jsonb;
    left_   jsonb;
BEGIN
    SELECT * INTO entry FROM ruvector.collections c WHERE c.name = ruvector_collection_release.name;
    IF NOT FOUND THEN
        -- A managed table that is not registered any more is handed back by its own name.
        SELECT min(m.relation::oid)::regclass INTO managed FROM ruvector.managed m JOIN pg_class c ON c.oid = m.relation
         WHERE m.relation = to_regclass(name) OR c.relname = name HAVING count(*) = 1;
        IF managed IS NULL THEN
            entry := ruvector._collection(name);
        END IF;
        PERFORM ruvector._give_back_routing(managed);
        RETURN jsonb_build_object('table', managed::text, 'routing_given_back', true, 'search_efforts_given_back', '[]'::jsonb,
                                  'left_for_you', '[]'::jsonb);
    END IF;
    PERFORM ruvector._check_owner(entry);
    SELECT jsonb_agg(jsonb_build_object('index', e.index_name, 'setting', e.setting, 'effort', e.effort)) INTO efforts
      FROM ruvector.search_effort e WHERE e.collection_id = entry.id;
    SELECT jsonb_agg(format('DROP INDEX CONCURRENTLY %s', x.indexrelid::regclass)) INTO left_
      FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
     WHERE i.relname LIKE '\_ruvector\_trial\_%'
       AND x.indrelid IN (SELECT entry.relation::regclass UNION SELECT p.relid FROM pg_partition_tree(entry.relation) p);
    PERFORM ruvector._unregister(name);
    RETURN jsonb_build_object('table', entry.relation::text,
                              'routing_given_back', ruvector._give_back_routing(entry.relation),
                              'search_efforts_given_back', coalesce(efforts, '[]'),
                              'left_for_you', coalesce(left_, '[]'));
END
$$;

-- Says that this is the server that was set up, after a restore, a promotion or a move: what reaches beyond it (replica
-- counts, webhooks) is allowed again for every collection.
CREATE FUNCTION ruvector_identity_confirm() RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    former  jsonb := (SELECT jsonb_object_agg(c.name, c.identity) FROM ruvector.collections c);
    present jsonb := ruvector._identity();
BEGIN
    PERFORM ruvector._check_database_owner();
    UPDATE ruvector.collections c SET identity = present WHERE c.identity <> present;
    PERFORM ruvector._audit('identity_confirmed', NULL, NULL, 'SELECT ruvector_identity_confirm()', NULL,
        jsonb_build_object('former', former, 'present', present));
    PERFORM ruvector._wake();
    RETURN present;
END
$$;
