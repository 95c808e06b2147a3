-- What the engine keeps for those who answer for it ---------------------------------------------------------------

-- Every change of settings: version counts for the server (no collection) and for each collection by itself. Policy, like
-- the settings themselves, so a dump has it.
CREATE TABLE ruvector.settings_history (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection  text,
    version     integer NOT NULL,
    patch       jsonb NOT NULL,
    before      jsonb NOT NULL,       -- effective value of each key of the patch
    after       jsonb NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by  text NOT NULL DEFAULT session_user,
    UNIQUE NULLS NOT DISTINCT (collection, version)
);

-- Leases on "enabled": until then it is as if it were off, for the server (no collection) or for one.
CREATE TABLE ruvector.healing_pauses (
    collection_id integer UNIQUE NULLS NOT DISTINCT REFERENCES ruvector.collections ON DELETE CASCADE,
    until         timestamptz NOT NULL,
    reason        text,
    paused_by     text NOT NULL DEFAULT session_user,
    paused_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- System identifier, timeline, database and machine of this server.
CREATE FUNCTION ruvector._identity() RETURNS jsonb
    LANGUAGE c AS 'MODULE_PATHNAME', 'identity_wrapper';

-- Where a collection was registered. A dump takes it along, so that a copy elsewhere knows that it is one.
ALTER TABLE ruvector.collections ADD COLUMN identity jsonb NOT NULL DEFAULT ruvector._identity();

-- What happened and is not signed yet: written with its effect in one transaction, taken from here by the healer.
CREATE TABLE ruvector.audit_pending (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    event        text NOT NULL,
    action_id    bigint,
    collection   text,
    actor        text NOT NULL,
    requested_by text,
    approved_by  text,
    statement    text,
    inverse      text,
    details      json NOT NULL
);

-- The signed log: healing::audit says what is hashed and signed. "details" is json and not jsonb because its very text is.
CREATE TABLE ruvector.audit_log (
    seq          bigint PRIMARY KEY,
    at           timestamptz NOT NULL,
    event        text NOT NULL,
    action_id    bigint,
    collection   text,
    actor        text NOT NULL,
    requested_by text,
    approved_by  text,
    statement    text,                -- the exact SQL
    inverse      text,                -- the SQL that takes it back; NULL: nothing does
    details      json NOT NULL,
    key_id       text NOT NULL,
    previous     text NOT NULL,
    hash         text NOT NULL,
    signature    text NOT NULL
);
CREATE INDEX ON ruvector.audit_log (action_id);

CREATE FUNCTION ruvector._keep_audit_log() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only: % is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Copy what you need; SELECT * FROM ruvector_audit_verify() says whether it is whole.';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON ruvector.audit_log
    FOR EACH ROW EXECUTE FUNCTION ruvector._keep_audit_log();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON ruvector.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION ruvector._keep_audit_log();
-- Also where session_replication_role is replica.
ALTER TABLE ruvector.audit_log ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE ruvector.audit_log ENABLE ALWAYS TRIGGER append_only_whole;

SELECT pg_catalog.pg_extension_config_dump('ruvector.settings_history', '');
SELECT pg_catalog.pg_extension_config_dump('ruvector.settings_history_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ruvector.audit_log', '');

-- Writes down what is being done, to be signed.
CREATE FUNCTION ruvector._audit(
    event text, action_id bigint DEFAULT NULL, collection text DEFAULT NULL, statement text DEFAULT NULL,
    inverse text DEFAULT NULL, details jsonb DEFAULT '{}'
) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO ruvector.audit_pending (event, action_id, collection, actor, requested_by, approved_by, statement, inverse, details)
    SELECT event, action_id, collection, ruvector._caller(), a.requested_by, a.approved_by, statement, inverse, details::text::json
      FROM (SELECT) one LEFT JOIN ruvector.actions a ON a.id = action_id;
END;
