-- Whose rights count ------------------------------------------------------------------------------------------------------

-- Who calls. An ERROR in code that PostgreSQL runs security-restricted, such as a function of an index while a superuser or
-- the healer analyses or rebuilds it: session_user is the superuser there, but it is the table's owner who speaks.
CREATE FUNCTION ruvector._caller() RETURNS text
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'caller_wrapper';

-- Runs a statement as the owner of a table, security-restricted; the caller must have that role's rights. Returns the first
-- column of its first row. Whatever the owner has put on the table (triggers, functions of checks, domains and indexes) runs
-- with the owner's rights, also when a superuser calls.
CREATE FUNCTION ruvector._as_owner(relation regclass, statement text) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'as_owner_wrapper';
