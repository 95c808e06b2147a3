-- Tables ----------------------------------------------------------------------------------------------------------

-- Settings of the server as changed by ruvector_healing_configure(); defaults live in code. No row until the first change:
-- a restored dump brings its own.
CREATE TABLE ruvector.settings (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    settings    jsonb NOT NULL DEFAULT '{}',
    version     integer NOT NULL DEFAULT 1,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    changed_by  text NOT NULL DEFAULT session_user
);

-- The OID of a table, written as its name, like regclass. But a name that is not there is read as none: a dump that leaves
-- the table out is to restore all the other collections.
CREATE TYPE ruvector.relation;
CREATE FUNCTION ruvector._relation_in(cstring) RETURNS ruvector.relation
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'relation_in_wrapper';
CREATE FUNCTION ruvector._relation_out(ruvector.relation) RETURNS cstring
    LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'regclassout';
CREATE TYPE ruvector.relation (
    INPUT = ruvector._relation_in, OUTPUT = ruvector._relation_out,
    INTERNALLENGTH = 4, PASSEDBYVALUE, ALIGNMENT = int4
);
CREATE CAST (ruvector.relation AS oid) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (ruvector.relation AS regclass) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (regclass AS ruvector.relation) WITHOUT FUNCTION AS ASSIGNMENT;

CREATE TABLE ruvector.collections (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL UNIQUE CHECK (name <> '' AND length(name) <= 63),
    relation      ruvector.relation NOT NULL UNIQUE,
    column_number smallint NOT NULL,
    column_name   text NOT NULL,
    settings      jsonb NOT NULL DEFAULT '{}',
    registered_at timestamptz NOT NULL DEFAULT now(),
    registered_by text NOT NULL DEFAULT session_user
);

-- The last observation of each collection and what follows from it: one row, rewritten at every sample.
CREATE TABLE ruvector.integrity (
    collection_id integer PRIMARY KEY REFERENCES ruvector.collections ON DELETE CASCADE,
    samples       bigint NOT NULL DEFAULT 0,
    sampled_at    timestamptz,
    snapshot      jsonb,
    usual         jsonb,            -- what is learned of its load: healing::load::Usual
    record        jsonb,            -- state machine: state, since, candidate, streak
    state         text NOT NULL DEFAULT 'unknown' CHECK (state IN ('unknown', 'normal', 'stress', 'critical')),
    lambda_cut    double precision, -- NULL when it is not known; "explanation" says why
    lambda_low    double precision, -- if every unread metric were at its worst
    lambda_high   double precision,
    witness       jsonb,            -- edges of the minimum cut
    problems      jsonb,            -- weak components classified, weakest first
    explanation   text,
    remedy        jsonb,            -- the plan that fits, or why there is none
    decision      jsonb,            -- what the engine last decided: reason, detail, until, strategy
    note          text              -- why the last sample failed, NULL when it did not
);

CREATE TABLE ruvector.integrity_events (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    happened_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_state    text NOT NULL,
    to_state      text NOT NULL,
    lambda_cut    double precision NOT NULL,
    explanation   text
);
CREATE INDEX ON ruvector.integrity_events (collection_id, happened_at);

-- Every sample's λ and the classes of its problems, for history_days.
CREATE TABLE ruvector.integrity_history (
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    sampled_at    timestamptz NOT NULL,
    state         text NOT NULL,
    lambda_cut    double precision,
    lambda_low    double precision,
    lambda_high   double precision,
    problems      text[] NOT NULL,
    PRIMARY KEY (collection_id, sampled_at)
);

-- Slow measurements (structure, recall panel) kept between samples and over restarts.
CREATE TABLE ruvector.readings (
    index_id      oid NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('panel', 'structure')),
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    relfilenode   oid NOT NULL,
    measured_at   timestamptz NOT NULL,
    took_s        double precision NOT NULL,
    changes       bigint NOT NULL,   -- rows inserted + updated + deleted in the table when it was measured
    seed          bigint NOT NULL,
    reading       jsonb NOT NULL,
    PRIMARY KEY (index_id, kind)
);

-- Streaming replicas of this server that have been seen, by the number that problems name them with. One that vanishes is
-- missed until replica_forget_seconds have passed and its slot is gone.
CREATE TABLE ruvector.replicas (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application_name text NOT NULL,
    slot_name        text NOT NULL,    -- empty when it has none
    first_seen       timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen        timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (application_name, slot_name)
);

-- The search effort that sessions get for an index unless they set their own.
CREATE TABLE ruvector.search_effort (
    index_id      oid PRIMARY KEY,
    table_id      oid NOT NULL,      -- with the name: REINDEX CONCURRENTLY puts an index of another OID in its place
    index_name    name NOT NULL,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    setting       text NOT NULL CHECK (setting IN ('ivfflat.probes', 'hnsw.ef_search')),
    effort        integer NOT NULL CHECK (effort > 0),
    set_by        text NOT NULL DEFAULT session_user,
    set_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What was asked for or decided, and how it went: queue and record in one. Statuses and the moves between them:
-- healing::lifecycle. The healer decides, one worker an action carries it out.
CREATE TABLE ruvector.actions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id   integer NOT NULL,   -- stays when the collection is unregistered
    collection_name text NOT NULL,
    relation        oid NOT NULL,
    status          text NOT NULL DEFAULT 'proposed' CHECK (status IN ('proposed', 'awaiting_approval', 'approved',
                        'executing', 'verifying', 'succeeded', 'rolled_back', 'rollback_failed', 'failed', 'aborted',
                        'expired', 'noop', 'refused')),
    request         jsonb NOT NULL,     -- {"kind": "automatic" | "trigger" | "execute", "strategy", "params"}
    requested_by    text NOT NULL DEFAULT session_user,
    requested_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_at      timestamptz,
    reason          text,               -- of healing::engine::Reason, when it was refused
    detail          text,               -- the same with figures, or what stands in the way
    approval        text,               -- why a human must approve first, NULL when none must
    approved_by     text,
    approved_at     timestamptz,
    strategy        text,
    problem_class   text,
    problem         jsonb,
    plan            jsonb,
    rejected        jsonb,              -- alternatives not taken, each with its reason
    before          jsonb,              -- the snapshot that it is judged against: of its plan, and once it begins of that moment
    initial_lambda  double precision,
    started_at      timestamptz,
    starts          integer NOT NULL DEFAULT 0,      -- workers that it had
    last_start      timestamptz,
    crashed         boolean NOT NULL DEFAULT false,  -- the server crashed while it had a worker
    unfinished      boolean NOT NULL DEFAULT false,  -- it has ended, and left something that is still to be undone or dropped
    retries         integer NOT NULL DEFAULT 0,      -- times that this was tried since
    retry_at        timestamptz,                     -- and when it is next
    resumed         boolean NOT NULL DEFAULT false,  -- a worker went on with what another left complete
    deadline        timestamptz,        -- the healer stops the worker then
    progress        text,
    verification    jsonb,
    keep            boolean NOT NULL DEFAULT false,  -- the verdict to keep: before it recovery undoes, after it it finishes
    stop_reason     text CHECK (stop_reason IN ('abort', 'timeout', 'yield')),
    stop_asked_by   text,
    stop_asked_at   timestamptz,
    ended_at        timestamptz,
    lesson          text,               -- what its end says of the strategy: healing::lifecycle::Lesson
    error           text
);
CREATE INDEX ON ruvector.actions (collection_id, requested_at);
-- Single flight: one action at a time changes a collection.
CREATE INDEX actions_unfinished ON ruvector.actions (collection_id) WHERE unfinished;
CREATE UNIQUE INDEX actions_in_flight ON ruvector.actions (collection_id)
    WHERE status IN ('approved', 'executing', 'verifying');

-- Actions that have had a worker since the server's last crash: PostgreSQL empties an unlogged table after a crash and
-- keeps it over an orderly restart, which is how the two are told apart.
CREATE UNLOGGED TABLE ruvector.in_flight (
    action_id   bigint PRIMARY KEY REFERENCES ruvector.actions ON DELETE CASCADE
);

-- The journal: a step's intent is committed before its effect. The last row of a step says how far it came.
CREATE TABLE ruvector.action_steps (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action_id   bigint NOT NULL REFERENCES ruvector.actions ON DELETE CASCADE,
    step_no     integer NOT NULL,
    step        jsonb NOT NULL,
    state       text NOT NULL CHECK (state IN ('intent', 'done', 'undone', 'failed')),
    details     jsonb NOT NULL DEFAULT '{}',
    noted_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON ruvector.action_steps (action_id, id);

-- One row at the end of each action that ran; what could not be measured is NULL. improvement_pct is in percent.
CREATE TABLE ruvector.healing_outcomes (
    id              bigserial PRIMARY KEY,
    collection_id   integer NOT NULL,
    tenant_id       text,
    problem_class   text NOT NULL,
    problem_details jsonb NOT NULL,
    strategy_name   text NOT NULL,
    strategy_params jsonb,
    started_at      timestamptz NOT NULL,
    completed_at    timestamptz,
    duration_ms     integer,
    success         boolean NOT NULL,
    verified        boolean,
    actions_taken   integer,
    improvement_pct real,
    error_message   text,
    initial_lambda  real NOT NULL,
    final_lambda    real,
    witness_edges   jsonb,
    system_metrics  jsonb,
    feedback_score  real CHECK (feedback_score BETWEEN 0 AND 1),
    created_at      timestamptz DEFAULT now(),
    action_id       bigint NOT NULL UNIQUE REFERENCES ruvector.actions,
    status          text NOT NULL,
    story           text NOT NULL,
    index_kind      text NOT NULL DEFAULT 'none',   -- of the problem's index: ivfflat, hnsw; none: it has none
    feedback_comment text,
    feedback_by     text,
    feedback_at     timestamptz
);
CREATE INDEX idx_healing_outcomes_class ON ruvector.healing_outcomes (problem_class);
CREATE INDEX idx_healing_outcomes_strategy ON ruvector.healing_outcomes (strategy_name);
CREATE INDEX idx_healing_outcomes_success ON ruvector.healing_outcomes (success, verified);

-- Why the healer acts or does not: one row whenever that changes for a collection.
CREATE TABLE ruvector.healing_decisions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    decided_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason        text,               -- NULL: it acts
    detail        text,
    until         timestamptz,        -- when the reason ends by itself
    strategy      text,
    rejected      jsonb
);
CREATE INDEX ON ruvector.healing_decisions (collection_id, id);

-- What is known of each remedy on each collection: failures in a row, and how long it waits after them.
CREATE TABLE ruvector.healing_arms (
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    strategy      text NOT NULL,
    failures      integer NOT NULL,
    backoff_until timestamptz,
    breaker_open  boolean NOT NULL,   -- closed by a human only
    closed_at     timestamptz,        -- when a human last did: what ended before says nothing any more
    PRIMARY KEY (collection_id, strategy)
);

-- What pg_dump keeps: policy, not runtime state.
SELECT pg_catalog.pg_extension_config_dump('ruvector.settings', '');
-- A collection whose table was dropped is not: no name could be written down for it.
SELECT pg_catalog.pg_extension_config_dump('ruvector.collections',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
SELECT pg_catalog.pg_extension_config_dump('ruvector.collections_id_seq', '');
