-- Asking for actions ------------------------------------------------------------------------------------------------

-- No status follows another that healing::lifecycle does not let follow it, whoever writes it.
CREATE FUNCTION ruvector._may_follow(former text, next text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'may_follow_wrapper';
CREATE FUNCTION ruvector._check_lifecycle() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT ruvector._may_follow(OLD.status, NEW.status) THEN
        RAISE EXCEPTION 'action % cannot go from % to %', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'ruvector_healing_abort(), ruvector_healing_approve() and ruvector_healing_rollback() move actions on.';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER lifecycle BEFORE UPDATE OF status ON ruvector.actions FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION ruvector._check_lifecycle();

-- The strategies that this version has.
CREATE FUNCTION ruvector._strategies() RETURNS text[]
    LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'strategies_wrapper';

-- An ERROR with a hint when the strategy does not take these parameters.
CREATE FUNCTION ruvector._check_params(strategy text, params jsonb) RETURNS void
    LANGUAGE c STRICT IMMUTABLE AS 'MODULE_PATHNAME', 'check_params_wrapper';

-- The plan that a strategy would make from the healer's last observation; an ERROR when there is none.
CREATE FUNCTION ruvector._plan(server jsonb, collection jsonb, snapshot jsonb, strategy text, params jsonb) RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'plan_wrapper';

CREATE FUNCTION ruvector._propose(entry ruvector.collections, request jsonb) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text := ruvector._not_ready();
    new_id  bigint;
BEGIN
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'nothing can be healed: %', missing
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Add ruvector to shared_preload_libraries and restart the server.';
    END IF;
    PERFORM ruvector._check_owner(entry);
    PERFORM ruvector._check_enabled(entry.name);
    INSERT INTO ruvector.actions (collection_id, collection_name, relation, request)
    VALUES (entry.id, entry.name, entry.relation, request) RETURNING id INTO new_id;
    PERFORM ruvector._audit('requested', new_id, entry.name,
        CASE request ->> 'kind'
            WHEN 'trigger' THEN format('SELECT ruvector_healing_trigger(%L)', entry.name)
            WHEN 'rollback' THEN format('SELECT ruvector_healing_rollback(%L)', entry.name)
            ELSE format('SELECT ruvector_healing_execute(%L, %L, %L)', entry.name, request ->> 'strategy', request -> 'params') END,
        format('SELECT ruvector_healing_abort(%s)', new_id), request);
    PERFORM ruvector._wake();
    RETURN new_id;
END
$$;

-- Asks the healer to heal a collection now, without waiting for state, dwell and cooldown. Returns the action's number.
CREATE FUNCTION ruvector_healing_trigger(collection text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ruvector._propose(ruvector._collection(collection), '{"kind": "trigger"}');
END
$$;

-- Runs one strategy on a collection. Returns the action's number; with {"dry_run": true} only the plan.
CREATE FUNCTION ruvector_healing_execute(
    collection text, strategy text, params jsonb DEFAULT '{}', OUT action_id bigint, OUT plan jsonb
)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry    ruvector.collections := ruvector._collection(collection);
    server   jsonb;
    observed jsonb;
BEGIN
    IF strategy IS NULL OR NOT strategy = ANY (ruvector._strategies()) THEN
        RAISE EXCEPTION 'there is no strategy "%"', strategy
            USING ERRCODE = 'undefined_object',
                  HINT = format('There are: %s.', array_to_string(ruvector._strategies(), ', '));
    END IF;
    params := coalesce(params, '{}');
    PERFORM ruvector._check_params(strategy, params);
    IF (params ->> 'dry_run')::boolean THEN
        server := ruvector._server_settings();
        SELECT i.snapshot INTO observed FROM ruvector.integrity i WHERE i.collection_id = entry.id;
        IF observed IS NULL THEN
            RAISE EXCEPTION 'collection "%" was not observed yet', collection
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = coalesce(ruvector._not_ready(), 'Try again after the next sample.');
        END IF;
        plan := ruvector._plan(server, entry.settings, observed, strategy, params);
        RETURN;
    END IF;
    action_id := ruvector._propose(entry, jsonb_build_object('kind', 'execute', 'strategy', strategy, 'params', params));
END
$$;

CREATE FUNCTION ruvector._action(action_id bigint) RETURNS ruvector.actions
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.actions;
BEGIN
    SELECT * INTO entry FROM ruvector.actions a WHERE a.id = action_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no action %', action_id
            USING ERRCODE = 'undefined_object', HINT = 'SELECT id, status FROM ruvector.actions lists them.';
    END IF;
    RETURN entry;
END
$$;

-- Lets a plan that waits for a human run. Returns whether it was waiting.
CREATE FUNCTION ruvector_healing_approve(action_id bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.actions := ruvector._action(action_id);
BEGIN
    PERFORM ruvector._check_owner(c) FROM ruvector.collections c WHERE c.id = entry.collection_id;
    PERFORM ruvector._check_enabled(entry.collection_name);
    IF entry.status = 'awaiting_approval' AND entry.requested_by = ruvector._caller()
       AND (SELECT (ruvector._effective_settings(ruvector._server_settings(), c.settings) ->> 'approver_differs')::boolean
              FROM ruvector.collections c WHERE c.id = entry.collection_id) THEN
        RAISE EXCEPTION 'action % was asked for by %: another must approve it', action_id, session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'approver_differs is on for this collection.';
    END IF;
    UPDATE ruvector.actions a SET status = 'approved', approved_by = session_user, approved_at = clock_timestamp()
     WHERE a.id = action_id AND a.status = 'awaiting_approval';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM ruvector._audit('approved', action_id, entry.collection_name, format('SELECT ruvector_healing_approve(%s)', action_id),
        format('SELECT ruvector_healing_abort(%s)', action_id));
    PERFORM ruvector._wake();
    RETURN true;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'another action on collection "%" is under way', entry.collection_name
        USING ERRCODE = 'object_in_use', HINT = 'Approve again once it has ended.';
END
$$;

-- Stops an action: one that has not begun ends at once, a running one is stopped and undone. Returns whether there was
-- anything to stop; wait for the end with CALL ruvector_healing_wait().
CREATE FUNCTION ruvector_healing_abort(action_id bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry ruvector.actions := ruvector._action(action_id);
BEGIN
    PERFORM ruvector._check_owner(c) FROM ruvector.collections c WHERE c.id = entry.collection_id;
    UPDATE ruvector.actions a
       SET status = 'aborted', ended_at = clock_timestamp(), stop_reason = 'abort', stop_asked_by = session_user,
           stop_asked_at = clock_timestamp(), detail = 'aborted before it began'
     WHERE a.id = action_id AND a.status IN ('proposed', 'awaiting_approval');
    IF FOUND THEN
        PERFORM ruvector._audit('aborted', action_id, entry.collection_name, format('SELECT ruvector_healing_abort(%s)', action_id));
        RETURN true;
    END IF;
    -- Once the verdict to keep is recorded there is nothing to stop: what is left is tidying up.
    UPDATE ruvector.actions a
       SET stop_reason = 'abort', stop_asked_by = session_user, stop_asked_at = clock_timestamp()
     WHERE a.id = action_id AND a.status IN ('approved', 'executing', 'verifying') AND NOT a.keep AND a.stop_reason IS NULL;
    IF FOUND THEN
        PERFORM ruvector._audit('aborted', action_id, entry.collection_name, format('SELECT ruvector_healing_abort(%s)', action_id));
        -- Its worker is told at commit and not by the healer, which may be busy elsewhere for a while.
        PERFORM ruvector._stop_at_commit(l.pid) FROM pg_locks l
          WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1920300645 AND l.objid::bigint = action_id AND l.objsubid = 3
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
        PERFORM ruvector._wake();
        RETURN true;
    END IF;
    RETURN false;
END
$$;

-- Lets remedies run again that wait since they failed, were no gain or were put off, or that were given up after too many
-- failures: all of a collection, or one.
-- Returns how many there were.
CREATE FUNCTION ruvector_healing_reset(collection text, strategy text DEFAULT NULL) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry  ruvector.collections := ruvector._collection(collection);
    closed integer;
BEGIN
    PERFORM ruvector._check_owner(entry);
    IF NOT strategy = ANY (ruvector._strategies()) THEN
        RAISE EXCEPTION 'there is no strategy "%"', strategy
            USING ERRCODE = 'undefined_object',
                  HINT = format('There are: %s.', array_to_string(ruvector._strategies(), ', '));
    END IF;
    INSERT INTO ruvector.healing_arms AS m (collection_id, strategy, failures, breaker_open, closed_at)
    SELECT entry.id, s, 0, false, clock_timestamp()
      FROM unnest(ruvector._strategies()) s
     WHERE s = coalesce(ruvector_healing_reset.strategy, s)
       AND EXISTS (SELECT FROM ruvector.actions a
                     LEFT JOIN ruvector.healing_arms k ON k.collection_id = a.collection_id AND k.strategy = a.strategy
                    WHERE a.collection_id = entry.id AND a.strategy = s
                      AND a.lesson IN ('no_gain', 'postponed', 'fault', 'undo_failed')
                      AND a.ended_at > coalesce(k.closed_at, '-infinity'))
    ON CONFLICT ON CONSTRAINT healing_arms_pkey DO UPDATE
       SET (failures, backoff_until, breaker_open, closed_at) = (0, NULL, false, EXCLUDED.closed_at);
    GET DIAGNOSTICS closed = ROW_COUNT;
    UPDATE ruvector.actions a SET retry_at = clock_timestamp() WHERE a.collection_id = entry.id AND a.unfinished;
    PERFORM ruvector._audit('reset', NULL, collection, format('SELECT ruvector_healing_reset(%L, %L)', collection, strategy));
    PERFORM ruvector._wake();
    RETURN closed;
END
$$;

CREATE FUNCTION ruvector._action_status(action_id bigint) RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT (ruvector._action(action_id)).status $$;

-- Waits until an action has ended, at most "timeout"; "status" is how it ended or stands. Each look is a transaction of
-- its own, so that waiting holds nothing back: CALL it outside a transaction.
CREATE PROCEDURE ruvector_healing_wait(action_id bigint, timeout interval DEFAULT '1 hour', INOUT status text DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    until constant timestamptz := clock_timestamp() + timeout;
BEGIN
    LOOP
        status := ruvector._action_status(action_id);
        EXIT WHEN status NOT IN ('proposed', 'awaiting_approval', 'approved', 'executing', 'verifying')
               OR clock_timestamp() >= until;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
END
$$;
