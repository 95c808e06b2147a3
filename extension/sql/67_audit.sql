-- The signed audit log --------------------------------------------------------------------------------------------------

CREATE FUNCTION ruvector._audit_verify(exported jsonb) RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'audit_verify_wrapper';

-- Verifies the whole log. first_bad: the first row that was edited, inserted, removed or moved, and in which way. With a
-- head that was kept elsewhere (what ruvector_audit_head() once returned, or lines of ruvector.audit_head_file as an array)
-- it also finds rows cut off at the end, and a log made anew; heads: how many of those given are this database's and were
-- compared. pending: what happened and is not signed yet.
CREATE FUNCTION ruvector_audit_verify(head jsonb DEFAULT '[]')
RETURNS TABLE (whole boolean, sound_rows bigint, first_bad bigint, fault text, head_seq bigint, head_hash text,
               keys jsonb, heads bigint, pending bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT r.d ->> 'first_bad' IS NULL, (r.d ->> 'sound')::bigint, (r.d #>> '{first_bad,0}')::bigint, r.d #>> '{first_bad,1}',
           (r.d #>> '{head,seq}')::bigint, r.d #>> '{head,hash}', r.d -> 'keys', (r.d ->> 'heads')::bigint, (SELECT count(*) FROM ruvector.audit_pending)
      FROM (SELECT ruvector._audit_verify(CASE jsonb_typeof(head) WHEN 'array' THEN head ELSE jsonb_build_array(head) END) AS d) r;
END;

-- The last signed row, to be kept where nobody who can change this database can reach it.
CREATE FUNCTION ruvector_audit_head() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce((SELECT jsonb_build_object('seq', l.seq, 'hash', l.hash, 'key_id', l.key_id, 'at', l.at)
                       FROM ruvector.audit_log l ORDER BY l.seq DESC LIMIT 1),
                    jsonb_build_object('seq', 0, 'hash', repeat('0', 64)));
END;

-- Has the healer make a new key: the old one signs it, and is kept beside it under its id.
CREATE FUNCTION ruvector_audit_rotate_key() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM ruvector._check_database_owner();
    PERFORM ruvector._audit('key_rotation_asked', NULL, NULL, 'SELECT ruvector_audit_rotate_key()');
    PERFORM ruvector._wake();
END
$$;
