-- Whose rights count ------------------------------------------------------------------------------------------------------

-- True. An ERROR in code that PostgreSQL runs security-restricted, such as a function of an index while a superuser or the
-- healer analyses or rebuilds it: session_user is the superuser there, but it is the table's owner who speaks.
CREATE FUNCTION ruvector._speaks_for_itself() RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'speaks_for_itself_wrapper';

-- Who calls.
CREATE FUNCTION ruvector._caller() RETURNS name
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN ruvector._speaks_for_itself() THEN session_user END;
END;

-- Runs a statement as the owner of a table, security-restricted; the caller must be allowed to SET ROLE to it. Returns the first
-- column of its first row. Whatever the owner has put on the table (triggers, functions of checks, domains and indexes) runs
-- with the owner's rights, also when a superuser calls.
CREATE FUNCTION ruvector._as_owner(relation regclass, statement text) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'as_owner_wrapper';
