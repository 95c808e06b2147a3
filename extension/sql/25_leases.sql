-- Leases ------------------------------------------------------------------------------------------------------------

-- Whatever holds something back (writers, jobs, autovacuum, a partition) ends by itself: each has an end and what was
-- before. The healer ends what is over and puts the rest into force, at every start and every sample.
CREATE TABLE ruvector.leases (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL,    -- stays when the collection is unregistered: then the lease ends
    action_id     bigint,              -- NULL: a human's; of another server's where the lease came with a dump
    kind          text NOT NULL CHECK (kind IN ('throttle', 'cron_job', 'autovacuum', 'drain')),
    subject       text NOT NULL,       -- which of these; of two on one thing the later counts, and the earlier after it
    effect        jsonb NOT NULL,      -- what is in force; once it has ended, left: why a job of pg_cron stays inactive
    restore       jsonb NOT NULL,      -- what was before
    begun_by      text NOT NULL DEFAULT session_user,
    begins_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    ends_at       timestamptz NOT NULL,
    ended_at      timestamptz,
    ended_because text CHECK (ended_because IN ('expired', 'clock_set_back', 'action_ended', 'collection_gone', 'released',
                                                'gave_way', 'switched_off')),
    CHECK (ends_at > begins_at),
    CHECK ((ended_at IS NULL) = (ended_because IS NULL))
);
CREATE INDEX leases_open ON ruvector.leases (collection_id) WHERE ended_at IS NULL;
-- A dump that is made while a job of pg_cron is paused has that job inactive: where it is restored the lease ends in time too,
-- and the job is active again.
SELECT pg_catalog.pg_extension_config_dump('ruvector.leases', 'WHERE kind = ''cron_job'' AND ended_at IS NULL');
SELECT pg_catalog.pg_extension_config_dump('ruvector.leases_id_seq', '');

-- The throttles in force as shared memory has them.
CREATE FUNCTION ruvector._throttles() RETURNS jsonb
    LANGUAGE c AS 'MODULE_PATHNAME', 'throttles_wrapper';

-- What is held back now, since when, until when and what comes after.
CREATE FUNCTION ruvector_leases(
    OUT lease_id bigint, OUT collection text, OUT kind text, OUT subject text, OUT effect jsonb, OUT restore jsonb,
    OUT begins_at timestamptz, OUT ends_at timestamptz, OUT begun_by text, OUT action_id bigint
) RETURNS SETOF record
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.id, c.name, l.kind, l.subject, l.effect, l.restore, l.begins_at, l.ends_at, l.begun_by, l.action_id
      FROM ruvector.leases l LEFT JOIN ruvector.collections c ON c.id = l.collection_id
     WHERE l.ended_at IS NULL ORDER BY l.id
$$;

-- Throttles in force: targets and what gets through in rows a second, NULL for a kind that is left alone; seconds that
-- writers are behind, have waited together, and that were given up because waiting could not make up for them. held: whether
-- writers keep to it; why_not: why they do not.
CREATE FUNCTION ruvector_throttles(
    OUT collection text, OUT throttle_pct integer, OUT bulk_throttle_pct integer, OUT baseline_rate jsonb,
    OUT target_rate jsonb, OUT achieved_rate jsonb, OUT written jsonb, OUT over_s double precision, OUT held boolean,
    OUT waits bigint, OUT waited_s double precision, OUT rejected bigint, OUT debt_s double precision,
    OUT forgiven_s double precision, OUT left_s double precision, OUT lease_id bigint, OUT why_not text
) RETURNS SETOF record
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.name, (t ->> 'throttle_pct')::integer, (t ->> 'bulk_throttle_pct')::integer, t -> 'baseline', t -> 'targets',
           t -> 'achieved', t -> 'written', (t ->> 'over_s')::float8, (t ->> 'held')::boolean, (t ->> 'waits')::bigint,
           (t ->> 'waited_s')::float8, (t ->> 'rejected')::bigint, (t ->> 'debt_s')::float8, (t ->> 'forgiven_s')::float8,
           (t ->> 'left_s')::float8, (t ->> 'lease')::bigint, t ->> 'why_not'
      FROM jsonb_array_elements(ruvector._throttles()) t JOIN ruvector.collections c ON c.id = (t ->> 'collection')::integer
     ORDER BY c.name
$$;

-- Takes so many percent off the usual rate of a collection's writers (its mean of the last five minutes), and off those
-- that write in bulk: COPY and statements of more than 100 rows. 0 leaves a kind alone, 100 stops it as far as waiting can.
-- Returns the lease's number.
CREATE FUNCTION ruvector_throttle_set(
    collection text, throttle_pct integer, bulk_throttle_pct integer DEFAULT NULL, lease interval DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry   ruvector.collections := ruvector._collection(collection);
    missing text := ruvector._not_ready();
    bulk    integer := coalesce(bulk_throttle_pct, least(throttle_pct + 10, greatest(95, throttle_pct)));
    span    interval := coalesce(lease, make_interval(secs => (ruvector._effective_settings(ruvector._server_settings(),
                                 entry.settings) ->> 'throttle_lease_seconds')::float8));
    seen    jsonb;
    present jsonb;
    new_id  bigint;
BEGIN
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'nothing can be throttled: %', missing USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Add ruvector to shared_preload_libraries and restart the server.';
    END IF;
    PERFORM ruvector._check_owner(entry);
    PERFORM ruvector._check_enabled(collection);
    IF NOT (throttle_pct BETWEEN 0 AND 100 AND bulk BETWEEN 0 AND 100) OR throttle_pct IS NULL THEN
        RAISE EXCEPTION 'a throttle takes 0 to 100 percent off' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'For instance ruvector_throttle_set(''docs'', 50): half of what is usual.';
    END IF;
    IF NOT span BETWEEN interval '1 second' AND interval '1 day' THEN
        RAISE EXCEPTION 'a lease lasts 1 second to 1 day' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Who wants more renews it.';
    END IF;
    SELECT i.snapshot -> 'ingestion' INTO seen FROM ruvector.integrity i WHERE i.collection_id = entry.id;
    -- Under a throttle what is written is not what is usual.
    SELECT l.effect INTO present FROM ruvector.leases l
     WHERE l.collection_id = entry.id AND l.kind = 'throttle' AND l.ended_at IS NULL AND l.ends_at > clock_timestamp()
     ORDER BY l.id DESC LIMIT 1;
    IF present IS NULL AND seen #> '{baseline,known}' IS NULL THEN
        RAISE EXCEPTION 'the usual rate of "%" is not known: %', collection,
            coalesce(seen #>> '{baseline,unknown}', 'it was not observed yet')
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'It is counted from the first samples after the start of the server or the registration.';
    END IF;
    -- A share of nothing would be next to a stop for whoever begins to write.
    IF present IS NULL AND least(throttle_pct, bulk) < 100
       AND (seen #>> '{baseline,known,insert}')::double precision + (seen #>> '{baseline,known,bulk_insert}')::double precision = 0
    THEN
        RAISE EXCEPTION 'nothing was written to "%" lately: there is no usual rate to take a share of', collection
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'A throttle of 100 holds up all writers as far as waiting can; a share can be taken once somebody has written for some seconds.';
    END IF;
    INSERT INTO ruvector.leases (collection_id, kind, subject, effect, restore, ends_at)
    VALUES (entry.id, 'throttle', entry.id::text,
            jsonb_build_object('throttle_pct', throttle_pct, 'bulk_throttle_pct', bulk, 'baseline', coalesce(present -> 'baseline',
                jsonb_build_object('insert', seen #> '{baseline,known,insert}', 'bulk_insert', seen #> '{baseline,known,bulk_insert}'))),
            jsonb_build_object('throttle_pct', coalesce((present ->> 'throttle_pct')::integer, 0),
                               'bulk_throttle_pct', coalesce((present ->> 'bulk_throttle_pct')::integer, 0)),
            clock_timestamp() + span)
    RETURNING id INTO new_id;
    PERFORM ruvector._audit('throttled', NULL, collection,
        format('SELECT ruvector_throttle_set(%L, %s, %s, %L)', collection, throttle_pct, bulk, span),
        format('SELECT ruvector_lease_release(%s)', new_id));
    PERFORM ruvector._wake();
    RETURN new_id;
END
$$;

-- Ends a lease now: with the commit a throttle is over and a job active again, and a throttle that was in force before counts again
-- seconds later. Returns whether it was still in force.
CREATE FUNCTION ruvector_lease_release(lease_id bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held    ruvector.leases;
    left_so text;
BEGIN
    SELECT * INTO held FROM ruvector.leases l WHERE l.id = lease_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no lease %', lease_id USING ERRCODE = 'undefined_object',
            HINT = 'SELECT lease_id, kind, subject FROM ruvector_leases() lists those in force.';
    END IF;
    PERFORM ruvector._check_owner(c) FROM ruvector.collections c WHERE c.id = held.collection_id;
    IF held.ended_at IS NOT NULL THEN
        RETURN false;
    END IF;
    left_so := ruvector._put_back(held);
    held.effect := held.effect || jsonb_strip_nulls(jsonb_build_object('left', left_so));
    UPDATE ruvector.leases l SET ended_at = clock_timestamp(), ended_because = 'released', effect = held.effect WHERE l.id = lease_id;
    PERFORM ruvector._audit('lease_released', NULL, (SELECT c.name FROM ruvector.collections c WHERE c.id = held.collection_id),
        format('SELECT ruvector_lease_release(%s)', lease_id), NULL, jsonb_build_object('kind', held.kind, 'effect', held.effect));
    PERFORM ruvector._wake();
    RETURN true;
END
$$;

-- Whether pg_cron is in this database. What is only called as its table is (anybody who may create a schema can make it) would
-- be asked with the healer's rights.
CREATE FUNCTION ruvector._has_cron() RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM pg_extension e
                     JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
                                     AND d.classid = 'pg_class'::regclass
                    WHERE e.extname = 'pg_cron' AND d.objid = to_regclass('cron.job'));
END;

-- This database of this server: elsewhere a job of the same number may be another.
CREATE FUNCTION ruvector._here() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s %s', s.system_identifier, d.oid) FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()
$$;

-- Why a job of pg_cron that is inactive stays so although its lease is over: somebody has made it inactive since it was paused.
-- Its row was written (`xmin`), but not with the whole table (`file`), nothing in it is different (`row`), and it was not scheduled
-- anew, for which a number is drawn in vain: those that were drawn since (`numbers`) are all of jobs that are there. NULL: nobody
-- is known to have. Only where it was paused: elsewhere `xmin` says nothing.
CREATE FUNCTION ruvector._left_inactive(restore jsonb) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    decided boolean;
BEGIN
    IF restore ->> 'made_in' IS DISTINCT FROM ruvector._here() THEN
        RETURN NULL;
    END IF;
    EXECUTE 'SELECT j.xmin::text <> $1 ->> ''xmin'' AND pg_relation_filenode(''cron.job'')::text = $1 ->> ''file''
                    AND hashtextextended((to_jsonb(j) - ''active'')::text, 0)::text = $1 ->> ''row''
                    AND (SELECT s.last_value FROM cron.jobid_seq s) - ($1 ->> ''numbers'')::bigint
                        = (SELECT count(*) FROM cron.job n WHERE n.jobid > ($1 ->> ''numbers'')::bigint)
               FROM cron.job j WHERE j.jobid = ($1 ->> ''jobid'')::bigint AND NOT j.active FOR UPDATE OF j'
       INTO decided USING restore;
    RETURN CASE WHEN decided THEN 'it was made inactive again after it had been paused' END;
END
$$;

-- Ends the throttle of a lease in shared memory once the calling transaction has committed; nothing happens if it rolls back.
CREATE FUNCTION ruvector._end_throttle_at_commit(lease_id bigint) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'end_throttle_at_commit_wrapper';

-- What does not end by itself, or only when the healer comes to it: a throttle is ended, and a job of pg_cron made active again, unless
-- somebody has removed it or wants it inactive. Returns why it is left as it is.
CREATE FUNCTION ruvector._put_back(held ruvector.leases) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    left_so text;
BEGIN
    IF held.kind = 'throttle' THEN
        PERFORM ruvector._end_throttle_at_commit(held.id);
    END IF;
    IF held.kind = 'cron_job' AND (held.restore ->> 'active')::boolean AND ruvector._has_cron() THEN
        left_so := ruvector._left_inactive(held.restore);
        IF left_so IS NOT NULL THEN
            RAISE NOTICE 'job % of pg_cron stays inactive: %', held.subject, left_so;
            RETURN left_so;
        END IF;
        EXECUTE 'SELECT cron.alter_job(j.jobid, active := true) FROM cron.job j WHERE j.jobid = $1 AND NOT j.active AND ($2 = $3 OR j.command = $4)'
          USING (held.restore ->> 'jobid')::bigint, held.restore ->> 'made_in', ruvector._here(), held.restore ->> 'command';
    END IF;
    RETURN NULL;
END
$$;

-- Ends all of this database, before the extension goes.
CREATE FUNCTION ruvector._release_all() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM ruvector._put_back(l) FROM ruvector.leases l WHERE l.ended_at IS NULL;
    UPDATE ruvector.leases l SET ended_at = clock_timestamp(), ended_because = 'released' WHERE l.ended_at IS NULL;
END
$$;
