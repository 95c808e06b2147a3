-- ruvector 0.1.0 to 0.2.0: what changed in tables that 0.1.0 had, and functions whose shape changed. All functions, and the
-- tables that are new, follow from the parts of the install script (toolchain/extension adds them below).

\echo Use "ALTER EXTENSION ruvector UPDATE" to load this file. \quit

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
ALTER TABLE ruvector.collections ALTER COLUMN relation TYPE ruvector.relation USING relation::ruvector.relation;

ALTER TABLE ruvector.healing_outcomes
    ADD CHECK (feedback_score BETWEEN 0 AND 1),
    ADD COLUMN index_kind text NOT NULL DEFAULT 'none',   -- of the problem's index: ivfflat, hnsw; none: it has none
    ADD COLUMN feedback_comment text,
    ADD COLUMN feedback_by text,
    ADD COLUMN feedback_at timestamptz;
