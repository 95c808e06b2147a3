-- Builds of vector indexes that the healer has seen: what a clean index of so many rows takes is known from then on.
-- OIDs and files mean nothing in a dump.
CREATE TABLE ruvector.index_builds (
    index_id      oid PRIMARY KEY,
    relfilenode   oid NOT NULL,       -- of another file it says nothing
    collection_id integer NOT NULL REFERENCES ruvector.collections ON DELETE CASCADE,
    bytes         bigint NOT NULL,
    rows          double precision NOT NULL,
    bytes_per_row double precision GENERATED ALWAYS AS (bytes / nullif(rows, 0)) STORED,
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

