-- ruvector: keeps pgvector collections healthy.
--
-- One install script, made of the files of this folder in the order of their numbers: roles, tables (what is known),
-- functions (what a person calls), privileges.
-- The functions live in the extension's schema, everything they read or write in schema "ruvector".

\echo Use "CREATE EXTENSION ruvector CASCADE" to load this file. \quit

DO $$
DECLARE
    found text := (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector');
BEGIN
    IF pg_catalog.string_to_array(found, '.')::int[] < ARRAY[0, 8, 0] THEN
        RAISE EXCEPTION 'ruvector needs pgvector 0.8.0 or newer, found %', found
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Install a newer pgvector and run ALTER EXTENSION vector UPDATE.';
    END IF;
END
$$;

-- Roles -----------------------------------------------------------------------------------------------------------
-- They belong to the whole server, so another database may have made them already; they stay after DROP EXTENSION.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'ruvector_monitor') THEN
        CREATE ROLE ruvector_monitor NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'ruvector_operator') THEN
        CREATE ROLE ruvector_operator NOLOGIN;
    END IF;
    IF NOT pg_catalog.pg_has_role('ruvector_operator', 'ruvector_monitor', 'MEMBER') THEN
        GRANT ruvector_monitor TO ruvector_operator;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;  -- two databases at once
END
$$;

CREATE SCHEMA ruvector;
GRANT USAGE ON SCHEMA ruvector TO ruvector_monitor;
