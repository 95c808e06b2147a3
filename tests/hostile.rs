//! What an owner can do to the healer by what is run for an index: nothing that lasts.

use std::time::Duration;

use cluster::wait_for;
use tests::{PATIENCE, said, start};

#[test]
fn a_predicate_that_never_ends_keeps_the_healer_a_minute_and_is_named() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE FUNCTION endless(i int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
               BEGIN
                   IF current_setting('application_name') LIKE 'ruvector%' THEN PERFORM pg_sleep(3600); END IF;
                   RETURN true;
               END $$;
               CREATE TABLE trap (id int, embedding vector(3));
               INSERT INTO trap SELECT i, array[i, 1, 2]::real[]::vector FROM generate_series(1, 100) i;
               CREATE INDEX trap_i ON trap USING hnsw (embedding vector_l2_ops) WHERE endless(id);
               CREATE TABLE docs AS SELECT id, embedding FROM trap;
               CREATE INDEX docs_i ON docs USING hnsw (embedding vector_l2_ops);
               ANALYZE trap; ANALYZE docs;
               SELECT ruvector_collection_register('trap', 'trap', settings => '{"sample_interval_seconds": 3600}')"#,
        )
        .unwrap();
    wait_for("the healer to be caught", PATIENCE, || {
        let query =
            "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND wait_event = 'PgSleep'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    wait_for("the other collection to be measured", Duration::from_secs(200), || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE collection = 'docs' AND lambda_cut IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let note: Option<String> = client
        .query_one(
            "SELECT i.note FROM ruvector.integrity i JOIN ruvector.collections c ON c.id = i.collection_id
              WHERE c.name = 'trap'",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(note.as_deref().is_some_and(|note| note.contains("timeout")), "{note:?}");
}

/// What an owner without any privilege puts in the healer's way, so that something of it is run by a superuser's process.
/// Each leaves a row in `mallory.ran`: who ran it, and what came of what it tried.
const TRAPS: &str = r#"
CREATE ROLE mallory LOGIN IN ROLE ruvector_operator;
CREATE SCHEMA mallory AUTHORIZATION mallory;
GRANT CREATE ON SCHEMA public TO mallory;
GRANT CREATE ON DATABASE app TO mallory;
ALTER ROLE mallory SET search_path = mallory, public, ext;
SET ROLE mallory; SET search_path = mallory, public, ext;

CREATE TABLE mallory.ran (attack text, of text, as_user text, outcome text);
CREATE TABLE mallory.bait (id int);
CREATE FUNCTION mallory.late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO mallory.ran VALUES ('deferred trigger', 'bait', current_user, 'ran');
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mallory.bait DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION mallory.late();

-- Everything that would make a superuser of her, or let something of hers run later as one.
CREATE FUNCTION mallory.attempt(trap text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    attack text;
BEGIN
    IF current_setting('application_name') NOT LIKE 'ruvector%' THEN RETURN; END IF;
    FOREACH attack IN ARRAY ARRAY[
        'ALTER ROLE mallory SUPERUSER',
        'RESET ROLE',
        'SET ROLE NONE',
        'SET SESSION AUTHORIZATION DEFAULT',
        'SELECT set_config(''role'', ''none'', false)',
        'SELECT set_config(''session_preload_libraries'', ''mine'', false)',
        'SET search_path = mallory',
        'CREATE TEMP TABLE pg_class (oid oid)',
        'INSERT INTO mallory.bait VALUES (1)',
        'COPY mallory.bait TO PROGRAM ''true''',
        'SELECT pg_read_file(''postgresql.conf'')',
        'DELETE FROM ruvector.audit_log',
        'UPDATE ruvector.actions SET keep = true'
    ] LOOP
        BEGIN
            EXECUTE attack;
            INSERT INTO mallory.ran VALUES (attack, trap, current_user, 'done');
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO mallory.ran VALUES (attack, trap, current_user, SQLSTATE);
        END;
    END LOOP;
END $$;
-- Immutable, as an index wants it, and lying about it.
CREATE FUNCTION mallory.in_expression(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM mallory.attempt('index expression'); RETURN v; END $$;
CREATE FUNCTION mallory.in_predicate(i int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM mallory.attempt('index predicate'); RETURN true; END $$;
CREATE FUNCTION mallory.in_policy() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM mallory.attempt('policy'); RETURN true; END $$;
CREATE FUNCTION mallory.in_default() RETURNS int LANGUAGE plpgsql AS $$
BEGIN PERFORM mallory.attempt('default'); RETURN 1; END $$;
CREATE FUNCTION mallory.in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM mallory.attempt('trigger'); RETURN NEW; END $$;
CREATE FUNCTION mallory.in_operator(vector, vector) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM mallory.attempt('operator'); RETURN 0; END $$;
-- Names that an unqualified call would find first.
CREATE OPERATOR mallory.<=> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = mallory.in_operator);
CREATE OPERATOR public.<=> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = mallory.in_operator);
CREATE FUNCTION mallory.in_call(name) RETURNS text LANGUAGE plpgsql AS $$
BEGIN PERFORM mallory.attempt('function of a catalog''s name'); RETURN $1::text; END $$;
CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS 'SELECT mallory.in_call($1)';
CREATE FUNCTION mallory.quote_ident(name) RETURNS text LANGUAGE sql AS 'SELECT mallory.in_call($1)';
CREATE TABLE mallory.pg_index (indexrelid oid, indrelid oid, indisvalid boolean DEFAULT false);
-- Where there is no pg_cron anybody may bear its name.
CREATE SCHEMA cron;
CREATE FUNCTION cron.in_view() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN PERFORM mallory.attempt('view called cron.job'); RETURN 1; END $$;
CREATE VIEW cron.job AS SELECT jobid, '* * * * *'::text AS schedule, 'VACUUM'::text AS command, current_database()::text AS database,
    'mallory'::text AS username, true AS active, 'x'::text AS jobname FROM cron.in_view() AS jobid;
CREATE VIEW cron.job_run_details AS SELECT jobid, 1::bigint AS runid, 1 AS job_pid, 'running'::text AS status FROM cron.in_view() AS jobid;
CREATE FUNCTION cron.alter_job(jobid bigint, active boolean) RETURNS void LANGUAGE sql AS 'SELECT cron.in_view()';
"#;

/// The traps that were sprung: each ran as Mallory, and none of what it tried was done.
fn sprung(client: &mut postgres::Client) -> std::collections::BTreeSet<String> {
    let query = "SELECT of, attack, as_user, outcome, count(*) FROM mallory.ran GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4";
    let mut through = std::collections::BTreeSet::new();
    eprintln!("{:<30} {:<55} {:<10} {:<12} tries", "through", "attempt", "as", "outcome");
    for row in client.query(query, &[]).unwrap() {
        let (of, attack, user, outcome): (String, String, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        eprintln!("{of:<30} {attack:<55} {user:<10} {outcome:<12} {}", row.get::<_, i64>(4));
        assert_eq!(user, "mallory", "{of} ran as another: {attack}");
        let harmless = ["SET search_path = mallory", "RESET ROLE"];
        assert!(outcome != "done" || harmless.contains(&attack.as_str()), "{of}: {attack} was done");
        through.insert(of);
    }
    through
}

#[test]
fn nothing_of_a_hostile_owner_runs_as_anybody_else() {
    let (cluster, mut client) = start();
    // The extension's operators are elsewhere, or hers could not bear their names.
    client
        .batch_execute(
            "CREATE SCHEMA ext; GRANT USAGE ON SCHEMA ext TO PUBLIC; ALTER EXTENSION vector SET SCHEMA ext",
        )
        .unwrap();
    client.batch_execute(TRAPS).unwrap();
    client
        .batch_execute(
            r#"CREATE TABLE mallory."docs""; ALTER ROLE mallory SUPERUSER; --" (id int, e vector(8), d int DEFAULT mallory.in_default());
               CREATE TABLE mallory.guarded (id int, e vector(8));
               INSERT INTO mallory."docs""; ALTER ROLE mallory SUPERUSER; --" (id, e)
                   SELECT i, (SELECT array_agg(sin(i * j)) FROM generate_series(1, 8) j)::vector FROM generate_series(1, 3000) i;
               INSERT INTO mallory.guarded SELECT id, e FROM mallory."docs""; ALTER ROLE mallory SUPERUSER; --";
               CREATE INDEX "i'; ALTER ROLE mallory SUPERUSER; --" ON mallory."docs""; ALTER ROLE mallory SUPERUSER; --"
                   USING hnsw ((mallory.in_expression(e)::vector(8)) ext.vector_l2_ops) WHERE mallory.in_predicate(id);
               COMMENT ON INDEX mallory."i'; ALTER ROLE mallory SUPERUSER; --" IS 'x''; ALTER ROLE mallory SUPERUSER; --';
               CREATE INDEX guarded_i ON mallory.guarded USING hnsw (e ext.vector_cosine_ops);
               CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON mallory."docs""; ALTER ROLE mallory SUPERUSER; --"
                   FOR EACH ROW EXECUTE FUNCTION mallory.in_trigger();
               ALTER TABLE mallory.guarded ENABLE ROW LEVEL SECURITY;
               CREATE POLICY p ON mallory.guarded USING (mallory.in_policy());
               DELETE FROM mallory.guarded WHERE id > 600"#,
        )
        .unwrap();
    client.batch_execute("RESET ROLE; RESET search_path").unwrap();
    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    // Her own row trigger would keep her from deleting: it returns NEW, which is null then.
    mallory
        .batch_execute(
            r#"ALTER TABLE "docs""; ALTER ROLE mallory SUPERUSER; --" DISABLE TRIGGER t;
               DELETE FROM "docs""; ALTER ROLE mallory SUPERUSER; --" WHERE id > 600;
               ALTER TABLE "docs""; ALTER ROLE mallory SUPERUSER; --" ENABLE ALWAYS TRIGGER t;
               ANALYZE"#,
        )
        .unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"verify_window_seconds": 1, "panel_queries": 16}')"#,
        )
        .unwrap();
    mallory
        .batch_execute(
            r#"SELECT public.ruvector_collection_register('x''; ALTER ROLE mallory SUPERUSER; --', '"docs""; ALTER ROLE mallory SUPERUSER; --"',
                      settings => '{"mode": "observe"}');
               SELECT public.ruvector_collection_register('guarded', 'guarded', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    for collection in ["x'; ALTER ROLE mallory SUPERUSER; --", "guarded"] {
        wait_for("an observation", PATIENCE, || {
            let query = "SELECT 1 FROM public.ruvector_integrity_status() WHERE collection = $1 AND lambda_cut IS NOT NULL";
            client.query_opt(query, &[&collection]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}: {}", tests::said(&mut client)));
        let action: i64 = mallory
            .query_one(
                "SELECT action_id FROM public.ruvector_healing_execute($1, 'compact_indexes')",
                &[&collection],
            )
            .unwrap()
            .get(0);
        let query = format!("CALL public.ruvector_healing_wait({action}, '2 minutes')");
        let status: String = client.query_one(&query, &[]).unwrap().get(0);
        eprintln!("{collection}: compact_indexes {status}");
    }
    let through = sprung(&mut client);
    // The traps that indexes hold were really sprung; those of tables were not, since user tables are never written.
    let sprung: Vec<&str> = through.iter().map(String::as_str).collect();
    assert_eq!(sprung, ["index expression", "index predicate"]);
    let row = client
        .query_one(
            "SELECT (SELECT string_agg(rolname::text, ' ' ORDER BY rolname) FROM pg_roles WHERE rolsuper),
                    (SELECT count(*) FROM mallory.bait), current_user::text",
            &[],
        )
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), row.get::<_, &str>(2), "one superuser, as before");
    assert_eq!(row.get::<_, i64>(1), 0);

    // What is not hers to call or to write.
    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    for statement in [
        "INSERT INTO ruvector.actions (collection_id, collection_name, relation, request) VALUES (1, 'x', 0, '{}')",
        "UPDATE ruvector.actions SET status = 'approved'",
        "INSERT INTO ruvector.audit_pending (event, actor, details) VALUES ('x', 'y', '{}')",
        "SELECT ruvector._audit('forged')",
        "SELECT ruvector._stop_at_commit(1)",
        "SELECT ruvector._end_throttle_at_commit(1)",
        "SELECT ruvector._propose(c, '{}') FROM ruvector.collections c",
        "UPDATE ruvector.settings SET settings = '{}'",
        "DELETE FROM ruvector.healing_arms",
        "ALTER TABLE ruvector.audit_log DISABLE TRIGGER ALL",
    ] {
        assert_eq!(tests::refused(&mut mallory, statement).0, "42501", "{statement}");
    }
    // No vector of hers, or of anybody, is in the server's log.
    let log = cluster.log();
    assert!(!log.contains("[0.8414") && !log.contains("0.84147"), "a vector is in the log");
}

/// Functions that run with the rights of the extension's owner, change something, and may be called by those who look
/// (`ruvector_monitor`) or act (`ruvector_operator`) although no user means them, each with a call on somebody else's table.
/// None: it only reads, or forgets what is not there any more.
const INNER: &[(&str, Option<&str>)] = &[
    ("ruvector._action(bigint)", None),
    ("ruvector._action_status(bigint)", None),
    (
        "ruvector._add_place(regclass,integer,regclass,double precision)",
        Some("ruvector._add_place('bob.shared', 9, 'bob.shared_1', 1)"),
    ),
    (
        "ruvector._adoption_came_to(regclass,text,text,bigint)",
        Some("ruvector._adoption_came_to('bob.plain', 'indexing', '999999', 0)"),
    ),
    ("ruvector._check_route(text)", None),
    ("ruvector._forget_managed(regclass)", Some("ruvector._forget_managed('bob.shared')")),
    ("ruvector._give_back_routing(regclass)", Some("ruvector._give_back_routing('bob.shared')")),
    ("ruvector._lock_adoption(regclass)", Some("ruvector._lock_adoption('bob.plain')")),
    (
        "ruvector._manage(regclass,text,name,regclass,text)",
        Some("ruvector._manage('bob.plain', 'mine', NULL, NULL, NULL)"),
    ),
    ("ruvector._next_place(regclass)", Some("ruvector._next_place('bob.shared')")),
    ("ruvector._note_adoption(regclass,jsonb)", Some("ruvector._note_adoption('bob.plain', NULL)")),
    ("ruvector._set_cold_when(regclass,text)", Some("ruvector._set_cold_when('bob.shared', 'true')")),
];

/// What an operator may call, on somebody else's table.
const VERBS: &[&str] = &[
    "SELECT ruvector_collection_cold_when('bob.shared', 'true')",
    "SELECT ruvector_routing_set('bob.shared', 1, 0)",
    "SELECT ruvector_collection_attach('bob.shared', 'elsewhere', 'x')",
    "SELECT ruvector_collection_register('mine', 'bob.plain')",
    "SELECT ruvector_collection_unregister('shared')",
    "SELECT ruvector_collection_release('shared')",
    "CALL ruvector_collection_adopt('bob.plain', name => 'mine', index_method => 'none')",
    "SELECT ruvector_collection_adopt_abort('bob.plain')",
    "SELECT ruvector_healing_execute('shared', 'evict_cold_data')",
    "SELECT ruvector_healing_trigger('shared')",
    "SELECT ruvector_healing_rollback('shared')",
    "SELECT ruvector_healing_reset('shared')",
    "SELECT ruvector_healing_pause(now() + interval '1 hour', 'shared')",
    r#"SELECT ruvector_healing_configure('{"enabled": false}', 'shared')"#,
    "SELECT ruvector_throttle_set('shared', 100)",
    r#"SELECT ruvector_healing_configure('{"enabled": false}')"#,
    "SELECT ruvector_healing_pause(now() + interval '1 hour')",
    "SELECT ruvector_healing_resume()",
    "SELECT ruvector_identity_confirm()",
    "SELECT ruvector_audit_rotate_key()",
    "SELECT ruvector_healing_approve(1)",
    "SELECT ruvector_healing_reject(1)",
    "SELECT ruvector_healing_abort(1)",
    "SELECT ruvector_healing_autonomy('shared', 'evict_cold_data', 'auto')",
    "SELECT ruvector_healing_feedback(1, 1)",
    "SELECT ruvector_lease_release(1)",
    "SELECT ruvector_search_effort_set('bob.shared_i', 50)",
];

/// What is known of collections, without what changes by itself.
const KNOWN: &str = "SELECT concat_ws(E'\n', (SELECT jsonb_agg(a)::text FROM ruvector.adoptions a), (SELECT jsonb_agg(m)::text FROM ruvector.managed m),
    (SELECT jsonb_agg(r ORDER BY r)::text FROM ruvector.routing r), (SELECT jsonb_agg(to_jsonb(c) - 'identity')::text FROM ruvector.collections c),
    (SELECT jsonb_agg(s)::text FROM ruvector.settings s),
    (SELECT count(*) FROM ruvector.actions), (SELECT count(*) FROM ruvector.leases), (SELECT count(*) FROM ruvector.healing_pauses))";

/// Two operators, Bob with a collection and an adoption under way, and Mallory. Returns Bob's session.
fn bob_and_mallory(cluster: &cluster::Cluster, client: &mut postgres::Client) -> postgres::Client {
    client
        .batch_execute(
            "CREATE ROLE bob LOGIN IN ROLE ruvector_operator; CREATE SCHEMA bob AUTHORIZATION bob; GRANT USAGE ON SCHEMA bob TO PUBLIC;
             CREATE ROLE mallory LOGIN IN ROLE ruvector_operator, ruvector_monitor; GRANT CREATE ON DATABASE app TO mallory;
             CREATE EXTENSION postgres_fdw; CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw",
        )
        .unwrap();
    let mut bob = cluster.connect_as("bob", "app").unwrap();
    bob.batch_execute(
        "SELECT ruvector_collection_create('shared', 3, 2, schema => 'bob', index_method => 'none', cold_when => 'id < 0');
         CREATE TABLE bob.plain (id bigint PRIMARY KEY, embedding vector(3));
         INSERT INTO bob.plain SELECT i, ARRAY[i, 1, 2]::vector FROM generate_series(1, 100) i",
    )
    .unwrap();
    bob.batch_execute(
        "SELECT ruvector._begin_adoption('bob.plain', 'plain', 2, NULL, NULL, 'none', 'cosine', '{}');
         CREATE INDEX shared_i ON bob.shared_1 USING hnsw (embedding vector_l2_ops)",
    )
    .unwrap();
    // An action, an outcome and a lease of his.
    bob.batch_execute("SELECT ruvector_healing_trigger('shared')").unwrap();
    client
        .batch_execute(
            "INSERT INTO ruvector.healing_outcomes (id, collection_id, action_id, problem_class, problem_details, strategy_name, started_at,
                                                    success, initial_lambda, status, story)
             SELECT 1, collection_id, 1, 'HotspotCongestion', '{}', 'evict_cold_data', now(), true, 1, 'succeeded', 'none'
               FROM ruvector.actions WHERE id = 1;
             INSERT INTO ruvector.leases (id, collection_id, kind, subject, effect, restore, begins_at, ends_at, ended_at, ended_because)
             OVERRIDING SYSTEM VALUE
             SELECT 1, collection_id, 'drain', 'x', '{}', '{}', now() - interval '1 hour', now() + interval '1 hour', now(), 'released' FROM ruvector.actions WHERE id = 1",
        )
        .unwrap();
    bob
}

/// What Mallory may not say.
fn not_hers() -> impl Iterator<Item = String> {
    let calls = INNER.iter().filter_map(|(_, call)| *call).map(|call| format!("SELECT {call}"));
    calls.chain(VERBS.iter().map(|verb| (*verb).to_owned()))
}

#[test]
fn what_runs_with_the_owners_rights_touches_nobody_elses_table() {
    let (cluster, mut client) = start();
    let mut bob = bob_and_mallory(&cluster, &mut client);
    let before: String = client.query_one(KNOWN, &[]).unwrap().get(0);
    let inner: Vec<String> = client
        .query(
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
               JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ruvector'
              WHERE p.prosecdef AND p.provolatile = 'v' AND p.proname LIKE '\\_%' AND has_function_privilege('ruvector_operator', p.oid, 'EXECUTE')
              ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let thought_of: Vec<&str> = INNER.iter().map(|(function, _)| *function).collect();
    assert_eq!(inner, thought_of, "a new one: who may call it, with whose table?");

    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    for statement in not_hers() {
        let (code, _) = tests::refused(&mut mallory, &statement);
        eprintln!("{code}  {statement}");
        assert!(["42501", "2F003"].contains(&code.as_str()), "{statement}: {code}");
    }
    // She cannot have somebody's table taken for what was made for her own.
    mallory
        .batch_execute(
            "CREATE SCHEMA mallory; CREATE TABLE mallory.docs (id bigint PRIMARY KEY, embedding vector(3))",
        )
        .unwrap();
    for forged in ["'name', 'docs'", "'name', 'docs', 'index_method', 'hnsw (x); --'"] {
        let forge = format!(
            "SELECT ruvector._note_adoption('mallory.docs', jsonb_build_object('target', 'bob.shared'::regclass::oid::bigint,
                 'changes', 'bob.plain'::regclass::oid::bigint, 'key_column', 'id', 'vector_column', 'embedding', 'partitions', 2,
                 'distance', 'l2', 'index_method', 'hnsw', {forged}))"
        );
        let (code, _) = tests::refused(&mut mallory, &forge);
        assert!(["42501", "22023"].contains(&code.as_str()), "{forged}: {code}");
    }
    mallory.batch_execute("SELECT ruvector._check_route('free')").unwrap();
    let after: String = client.query_one(KNOWN, &[]).unwrap().get(0);
    assert_eq!(before, after);
    bob.batch_execute("CALL ruvector_collection_adopt('bob.plain')").unwrap();
    assert_eq!(bob.query_one("SELECT count(*) FROM bob.plain", &[]).unwrap().get::<_, i64>(0), 100);
}

/// PostgreSQL runs functions of an index as the table's owner, but the session is the superuser's.
#[test]
fn what_an_index_runs_in_a_superusers_session_acts_on_no_collection() {
    let (cluster, mut client) = start();
    let _bob = bob_and_mallory(&cluster, &mut client);
    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    mallory
        .batch_execute(
            r#"CREATE SCHEMA mallory;
               CREATE TABLE mallory.tries (statement text);
               CREATE TABLE mallory.ran (statement text, as_user text, outcome text);
               CREATE FUNCTION mallory.try_all() RETURNS void LANGUAGE plpgsql SET search_path = public AS $$
               DECLARE
                   one text;
               BEGIN
                   IF session_user = current_user THEN RETURN; END IF;
                   FOR one IN SELECT statement FROM mallory.tries LOOP
                       BEGIN
                           EXECUTE one;
                           INSERT INTO mallory.ran VALUES (one, current_user, 'done');
                       EXCEPTION WHEN OTHERS THEN
                           INSERT INTO mallory.ran VALUES (one, current_user, SQLSTATE);
                       END;
                   END LOOP;
               END $$;
               CREATE FUNCTION mallory.in_index(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
               BEGIN PERFORM mallory.try_all(); RETURN i; END $$;
               CREATE TABLE mallory.trap (id int);
               INSERT INTO mallory.trap VALUES (1);
               CREATE INDEX trap_i ON mallory.trap (mallory.in_index(id))"#,
        )
        .unwrap();
    let own = ["SELECT ruvector_collection_register('own', 'mallory.own')"];
    mallory.batch_execute("CREATE TABLE mallory.own (id int, embedding vector(3))").unwrap();
    let statements: Vec<String> = not_hers().chain(own.map(str::to_owned)).collect();
    for statement in &statements {
        mallory.execute("INSERT INTO mallory.tries VALUES ($1)", &[statement]).unwrap();
    }
    let before: String = client.query_one(KNOWN, &[]).unwrap().get(0);
    client.batch_execute("ANALYZE mallory.trap; REINDEX TABLE mallory.trap").unwrap();
    let after: String = client.query_one(KNOWN, &[]).unwrap().get(0);
    for row in client.query("SELECT DISTINCT outcome, statement, as_user FROM mallory.ran", &[]).unwrap() {
        let (outcome, statement, user): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        eprintln!("{outcome}  {statement}");
        assert_eq!(user, "mallory");
        assert!(["42501", "2F003"].contains(&outcome.as_str()), "{statement}: {outcome}");
    }
    let tried: i64 =
        client.query_one("SELECT count(DISTINCT statement) FROM mallory.ran", &[]).unwrap().get(0);
    assert_eq!(tried as usize, statements.len());
    assert_eq!(before, after);
}

#[test]
fn what_an_owner_puts_in_the_way_of_an_adoption_runs_as_the_owner() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE SCHEMA ext; GRANT USAGE ON SCHEMA ext TO PUBLIC; ALTER EXTENSION vector SET SCHEMA ext",
        )
        .unwrap();
    client.batch_execute(TRAPS).unwrap();
    client
        .batch_execute(
            "CREATE FUNCTION mallory.in_check(text, i bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN PERFORM mallory.attempt($1); RETURN true; END $$;
             CREATE DOMAIN mallory.key AS bigint CHECK (mallory.in_check('domain of the key', VALUE));
             CREATE TABLE mallory.docs (id mallory.key PRIMARY KEY, embedding vector(3), CHECK (mallory.in_check('check', id)));
             CREATE FUNCTION mallory.in_other_expression(i bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN PERFORM mallory.attempt('ordinary index'); RETURN i; END $$;
             CREATE INDEX ON mallory.docs (mallory.in_other_expression(id));
             CREATE FUNCTION mallory.on_adopting() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM mallory.attempt('trigger on ' || TG_TABLE_NAME); RETURN coalesce(NEW, OLD); END $$;
             INSERT INTO mallory.docs SELECT i, ARRAY[i, 1, 2]::vector FROM generate_series(1, 50) i;
             RESET ROLE; RESET search_path; SET application_name = 'ruvector, as the traps know it';
             SELECT ruvector._begin_adoption('mallory.docs', NULL, 2, NULL, NULL, 'hnsw', 'l2', '{}')",
        )
        .unwrap();
    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    mallory
        .batch_execute(
            "UPDATE mallory.docs SET embedding = '[1,1,1]' WHERE id <= 10;
             CREATE TRIGGER t BEFORE INSERT OR DELETE ON mallory.docs_adopting FOR EACH ROW EXECUTE FUNCTION mallory.on_adopting();
             CREATE TRIGGER t BEFORE DELETE ON mallory.docs_changes FOR EACH ROW EXECUTE FUNCTION mallory.on_adopting();
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mallory.docs_adopting DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION mallory.late()",
        )
        .unwrap();
    let call = "CALL public.ruvector_collection_adopt('mallory.docs', batch => 20)";
    // Names by which what is copied of an index would say something else.
    mallory
        .batch_execute(
            "ALTER TABLE mallory.docs ADD a int, ADD \"x\n; ALTER ROLE mallory SUPERUSER; --\" int;
             CREATE UNIQUE INDEX late ON mallory.docs (\"x\n; ALTER ROLE mallory SUPERUSER; --\");
             ALTER TABLE mallory.docs RENAME TO \"docs(a)--\"",
        )
        .unwrap();
    let renamed = r#"CALL public.ruvector_collection_adopt('mallory."docs(a)--"', batch => 20)"#;
    assert_eq!(tests::refused(&mut client, renamed).0, "0A000");
    mallory.batch_execute("DROP INDEX mallory.late").unwrap();
    assert_eq!(tests::refused(&mut client, renamed).0, "55000");
    mallory
        .batch_execute(
            "ALTER TABLE mallory.\"docs(a)--\" RENAME TO docs;
             ALTER TABLE mallory.docs DROP a, DROP \"x\n; ALTER ROLE mallory SUPERUSER; --\"",
        )
        .unwrap();
    // It would run at the end of the transaction, when the rights are the superuser's again.
    assert_eq!(tests::refused(&mut client, call).0, "42501");
    mallory.batch_execute("DROP TRIGGER late ON mallory.docs_adopting").unwrap();
    client.batch_execute(call).unwrap();
    let through = sprung(&mut client);
    let sprung: Vec<&str> = through.iter().map(String::as_str).collect();
    for trap in
        ["check", "domain of the key", "ordinary index", "trigger on docs_changes", "trigger on docs_1"]
    {
        assert!(sprung.contains(&trap), "{trap} was not sprung: {sprung:?}");
    }
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM pg_roles WHERE rolsuper), (SELECT count(*) FROM mallory.bait),
                    (SELECT count(*) FROM mallory.docs WHERE embedding::text = '[1,1,1]')",
            &[],
        )
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (1i64, 0i64, 10i64));
}

/// Whoever may connect may have types, functions and operators in a temporary schema, and put that before the catalog.
#[test]
fn a_callers_own_types_run_in_no_function_with_the_owners_rights() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE ROLE mallory LOGIN; CREATE TABLE ran (as_user text); GRANT INSERT ON ran TO PUBLIC;
             SELECT ruvector_collection_create('docs', 3, 2, tenant => 'customer')",
        )
        .unwrap();
    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    mallory
        .batch_execute(
            "CREATE FUNCTION pg_temp.note(anyelement) RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN true; END $$;
             CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.note(VALUE));
             CREATE DOMAIN pg_temp.int4 AS pg_catalog.int4 CHECK (pg_temp.note(VALUE));
             CREATE DOMAIN pg_temp.float8 AS pg_catalog.float8 CHECK (pg_temp.note(VALUE));
             CREATE DOMAIN pg_temp.regclass AS pg_catalog.regclass CHECK (pg_temp.note(VALUE))",
        )
        .unwrap();
    for path in ["pg_temp, pg_catalog, public", "pg_temp, public, pg_catalog"] {
        for tenant in ["", "a"] {
            mallory
                .batch_execute(&format!(
                    "SET search_path = {path}; SET ruvector.tenant = '{tenant}';
                     SELECT public.ruvector_route('nothing', 1), public.ruvector_route('docs', 2);
                     SELECT public.ruvector_route_tenant('docs', 'a'), public.ruvector_route_tenant('nothing', 'a')"
                ))
                .unwrap();
        }
    }
    let ran: i64 =
        client.query_one("SELECT count(*) FROM ran WHERE as_user <> 'mallory'", &[]).unwrap().get(0);
    assert_eq!(ran, 0, "something of hers ran as another");
    // These two are called for each row and have no path of their own; all else that runs with its owner's rights has.
    let bare: Vec<String> = client
        .query(
            "SELECT p.proname::text FROM pg_proc p
               JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
               JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ruvector'
              WHERE p.prosecdef AND NOT coalesce(p.proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}' ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(bare, ["ruvector_route", "ruvector_route_tenant"]);
}

/// A constant of an index's definition may be of a type whose check is the owner's code, and run by being read.
#[test]
fn what_a_definition_runs_by_being_read_runs_as_the_owner() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE ROLE mallory LOGIN; CREATE SCHEMA mallory AUTHORIZATION mallory; GRANT USAGE ON SCHEMA public TO mallory;
               SET ROLE mallory; SET search_path = mallory, public;
               CREATE TABLE ran (as_user text);
               CREATE FUNCTION note(v int) RETURNS boolean LANGUAGE plpgsql AS $$
               BEGIN INSERT INTO mallory.ran VALUES (current_user); RETURN true; END $$;
               CREATE DOMAIN trap AS int CHECK (mallory.note(VALUE));
               CREATE TABLE docs (id int, embedding vector(3));
               CREATE INDEX docs_i ON docs USING hnsw (embedding vector_l2_ops) WHERE ('{1}'::mallory.trap[]) IS NOT NULL;
               INSERT INTO docs SELECT i, ARRAY[sin(i), cos(i), i % 7]::vector FROM generate_series(1, 2000) i;
               DELETE FROM docs WHERE id > 400; TRUNCATE ran; RESET ROLE; RESET search_path"#,
        )
        .unwrap();
    client.batch_execute("VACUUM ANALYZE mallory.docs").unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "observe", "verify_window_seconds": 1}');
               SELECT ruvector_collection_register('docs', 'mallory.docs')"#,
        )
        .unwrap();
    wait_for("a weak state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'compact_indexes')", &[])
        .unwrap()
        .get(0);
    client.batch_execute(&format!("CALL ruvector_healing_wait({action}, '2 minutes')")).unwrap();
    let row = client
        .query_one(
            "SELECT (SELECT status FROM ruvector.actions WHERE id = $1), array_agg(DISTINCT as_user) FROM mallory.ran",
            &[&action],
        )
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "succeeded", "{}", said(&mut client));
    assert_eq!(row.get::<_, Vec<String>>(1), ["mallory"], "it was read, and as nobody else");
}

/// What keeps a key table runs with its owner's rights, on that owner's table alone.
#[test]
fn nobody_puts_the_key_tables_function_on_a_table_of_their_own() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE ROLE mallory LOGIN; CREATE ROLE writer LOGIN;
             SELECT ruvector_collection_create('docs', 3, 2, index_method => 'none', key_table => true);
             GRANT INSERT, UPDATE, DELETE, SELECT ON docs TO writer; GRANT USAGE ON SCHEMA ruvector TO writer",
        )
        .unwrap();
    let mut mallory = cluster.connect_as("mallory", "app").unwrap();
    mallory.batch_execute("CREATE TEMP TABLE t (id bigint, partition_id int)").unwrap();
    let trigger =
        "CREATE TRIGGER x AFTER TRUNCATE ON t FOR EACH STATEMENT EXECUTE FUNCTION public.docs_key_follow()";
    let denied = mallory.batch_execute(trigger).unwrap_err();
    assert_eq!(denied.code().map(|code| code.code()), Some("42501"), "{denied}");
    // Who may write to the collection needs no right on it.
    let mut writer = cluster.connect_as("writer", "app").unwrap();
    writer
        .batch_execute(
            "INSERT INTO docs (embedding) VALUES ('[1,2,3]'); UPDATE docs SET embedding = '[3,2,1]'",
        )
        .unwrap();
    let keys: i64 = client.query_one("SELECT count(*) FROM docs_key", &[]).unwrap().get(0);
    assert_eq!(keys, 1);
}
