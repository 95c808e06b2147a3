//! What a human asks for: plans, triggers, approvals, aborts, and clear answers.

use cluster::dataset::Column;
use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, SLOW, load_docs, refused, said, start};

const UNTRAINED: &str =
    "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)";

/// A collection with an untrained index, registered with these settings.
fn spoiled(client: &mut Client, settings: &str) {
    let data = load_docs(client, 200);
    client.batch_execute(UNTRAINED).unwrap();
    data.load_into(client, "docs", &Column::ID_AND_EMBEDDING, 200..11_000).unwrap();
    client
        .batch_execute(&format!(
            "ANALYZE docs; SELECT ruvector_healing_configure('{{\"verify_window_seconds\": 1}}');
             SELECT ruvector_collection_register('docs', 'docs', settings => '{settings}')"
        ))
        .unwrap();
    wait_for("a weak state", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE state IN ('stress', 'critical')", &[])
            .unwrap()
    })
    .unwrap();
}

fn wait(client: &mut Client, action: i64) -> String {
    client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap().get(0)
}

fn why_not(client: &mut Client) -> String {
    let query = "SELECT coalesce(why_not, '') FROM ruvector_healing_status() WHERE collection = 'docs'";
    client.query_one(query, &[]).unwrap().get(0)
}

#[test]
fn in_observe_mode_nothing_happens_but_a_human_can_execute() {
    let (_cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "observe"}"#);
    wait_for("the reason", PATIENCE, || why_not(&mut client).contains("The mode is observe").then_some(()))
        .unwrap();
    let actions = "SELECT count(*) FROM ruvector.actions";
    assert_eq!(client.query_one(actions, &[]).unwrap().get::<_, i64>(0), 0);

    let dry = client
        .query_one(
            "SELECT action_id, plan ->> 'explanation', plan #>> '{plan,strategy}'
               FROM ruvector_healing_execute('docs', 'rebuild_centroids', '{\"dry_run\": true}')",
            &[],
        )
        .unwrap();
    assert_eq!(dry.get::<_, Option<i64>>(0), None);
    assert!(dry.get::<_, &str>(1).contains("lists = "), "{}", dry.get::<_, &str>(1));
    assert_eq!(dry.get::<_, &str>(2), "rebuild_centroids");
    let printed: serde_json::Value = client
        .query_one(
            "SELECT plan FROM ruvector_healing_execute('docs', 'rebuild_centroids', '{\"dry_run\": true}')",
            &[],
        )
        .unwrap()
        .get(0);
    let first = &printed["steps"][0];
    assert!(
        first["sql"]
            .as_str()
            .is_some_and(|sql| sql.starts_with("CREATE INDEX CONCURRENTLY docs_i ON public.docs")),
        "{first}"
    );
    assert!(first["locks"].as_str().is_some_and(|locks| locks.contains("writers go on")), "{first}");
    // Counted in a block sample.
    assert!(printed["rows"].as_f64().is_some_and(|rows| (10_500.0..11_500.0).contains(&rows)), "{printed}");
    assert!(printed["disk_bytes"].as_i64().is_some_and(|bytes| bytes > 0), "{printed}");
    assert!(printed["lambda_expected"].as_f64() > printed["lambda_now"].as_f64(), "{printed}");
    assert_eq!(client.query_one(actions, &[]).unwrap().get::<_, i64>(0), 0, "a dry run leaves nothing");

    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    assert_eq!(wait(&mut client, action), "succeeded");
    let row = client
        .query_one(
            "SELECT enabled, last_healing IS NOT NULL, total_healings_24h, success_rate, active_remediations::text,
                    cooldown_until > now()
               FROM ruvector_healing_status() WHERE collection IS NULL",
            &[],
        )
        .unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(1));
    assert_eq!((row.get::<_, i64>(2), row.get::<_, f64>(3), row.get::<_, &str>(4)), (1, 1.0, "[]"));
    assert_eq!(row.get::<_, Option<bool>>(5), Some(true));
    let cooling = "SELECT cooldown_until > now() FROM ruvector_healing_status() WHERE collection = 'docs'";
    assert_eq!(client.query_one(cooling, &[]).unwrap().get::<_, Option<bool>>(0), Some(true));
}

#[test]
fn in_approve_mode_a_plan_waits_for_a_human() {
    let (_cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "approve"}"#);
    let action: i64 = wait_for("a plan", PATIENCE, || {
        client.query_opt("SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval'", &[]).unwrap()
    })
    .unwrap()
    .get(0);
    let pending =
        "SELECT pending_approvals, why_not FROM ruvector_healing_status() WHERE collection = 'docs'";
    let row = client.query_one(pending, &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    assert!(row.get::<_, Option<&str>>(1).is_some_and(|why| !why.is_empty()));
    let approve = format!("SELECT ruvector_healing_approve({action})");
    client.batch_execute("SELECT ruvector_healing_configure('{\"enabled\": false}', 'docs')").unwrap();
    assert_eq!(refused(&mut client, &approve).0, "55000", "what is switched off does not run");
    client.batch_execute("SELECT ruvector_healing_configure('{\"enabled\": true}', 'docs')").unwrap();
    assert!(client.query_one(&approve, &[]).unwrap().get::<_, bool>(0));
    assert_eq!(wait(&mut client, action), "succeeded");
    assert!(!client.query_one(&approve, &[]).unwrap().get::<_, bool>(0), "nothing waits any more");
}

#[test]
fn a_running_action_is_aborted_and_undone() {
    let (cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "observe"}"#);
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    wait_for("the build to wait for the writer", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let under_way: String = client
        .query_one(
            "SELECT active_remediations #>> '{0,strategy}' FROM ruvector_healing_status() WHERE collection IS NULL",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(under_way, "rebuild_centroids");
    // A second request waits for the first.
    let second: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'tune_search_effort')", &[])
        .unwrap()
        .get(0);
    wait_for("the second to wait", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'proposed' AND detail LIKE 'waits: %'";
        client.query_opt(query, &[&second]).unwrap()
    })
    .unwrap();
    let (state, hint) = refused(&mut client, "SELECT ruvector_collection_unregister('docs')");
    assert_eq!(state, "55006");
    assert!(hint.contains("ruvector_healing_abort"), "{hint}");
    let abort = format!("SELECT ruvector_healing_abort({action})");
    assert!(client.query_one(&abort, &[]).unwrap().get::<_, bool>(0));
    // The new worker drops the half-built index, for which it too waits for the writer.
    wait_for("the half-built index to be given up", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'ruvector action' AND query LIKE 'DROP INDEX%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    writer.batch_execute("ROLLBACK").unwrap();
    assert_eq!(wait(&mut client, action), "aborted");
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass), o.success, o.error_message
               FROM ruvector.healing_outcomes o WHERE o.action_id = $1",
            &[&action],
        )
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (2, false));
    assert_eq!(row.get::<_, Option<&str>>(2), Some("stopped by a human"));
    assert!(!client.query_one(&abort, &[]).unwrap().get::<_, bool>(0), "there is nothing to stop any more");
    assert_eq!(wait(&mut client, second), "succeeded", "then the second has its turn");
}

#[test]
fn an_action_gives_way_before_a_session_is_its_deadlocks_victim() {
    let (cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "observe"}"#);
    let mut session = cluster.connect("app").unwrap();
    session.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    wait_for("the build to wait for the session", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    // Now the session wants a lock that the build holds. The healer sends the worker away, or it sees the deadlock itself.
    session.batch_execute("ALTER TABLE docs ADD COLUMN note text; COMMIT").unwrap();
    let status = wait(&mut client, action);
    let row =
        client.query_one("SELECT error, lesson FROM ruvector.actions WHERE id = $1", &[&action]).unwrap();
    let (error, lesson): (String, String) = (row.get(0), row.get(1));
    let gave_way = status == "aborted" && error.contains("gave way");
    let saw_it = status == "failed" && error.contains("deadlock") && lesson == "postponed";
    assert!(gave_way || saw_it, "{status}: {error} ({lesson})");
}

#[test]
fn an_action_beyond_its_time_is_stopped_and_undone() {
    let (cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "observe"}"#);
    let mut session = cluster.connect("app").unwrap();
    session.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    wait_for("the build to wait for the session", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    // Its time is over.
    let over = "UPDATE ruvector.actions SET deadline = now(), plan = jsonb_set(plan, '{timeout_s}', '1') WHERE id = $1";
    client.execute(over, &[&action]).unwrap();
    wait_for("the stop", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.actions WHERE stop_reason = 'timeout'", &[]).unwrap()
    })
    .unwrap();
    session.batch_execute("ROLLBACK").unwrap();
    assert_eq!(wait(&mut client, action), "failed");
    let row = client
        .query_one(
            "SELECT a.error, (SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass)
               FROM ruvector.actions a WHERE a.id = $1",
            &[&action],
        )
        .unwrap();
    assert!(row.get::<_, &str>(0).starts_with("stopped after its time limit"), "{}", row.get::<_, &str>(0));
    assert_eq!(row.get::<_, i64>(1), 2);
}

/// A collection whose only index is invalid, and may be built for a second.
fn invalid(client: &mut Client, index: &str) {
    load_docs(client, 300);
    client
        .batch_execute(&format!(
            "{SLOW}; CREATE INDEX docs_i ON docs USING hnsw ({index}); ANALYZE docs;
             -- Only what begins from now on is slow: the worker.
             ALTER DATABASE app SET app.nap = '0.1';
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docs_i'::regclass;
             SELECT ruvector_collection_register('docs', 'docs', settings => '{{\"max_build_seconds\": 1}}')"
        ))
        .unwrap();
}

#[test]
fn a_build_that_waits_beyond_its_time_is_cancelled_and_says_nothing_against_its_remedy() {
    let (cluster, mut client) = start();
    let mut session = cluster.connect("app").unwrap();
    invalid(&mut client, "embedding vector_l2_ops");
    session.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let action: i64 = wait_for("a build that is cancelled", PATIENCE, || {
        let query = "SELECT s.action_id FROM ruvector.action_steps s WHERE s.step ->> 'kind' = 'build_index'
                        AND s.state = 'intent' AND s.noted_at < clock_timestamp() - interval '1 second'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap()
    .get(0);
    // Dropping what the build has left waits for the session too.
    session.batch_execute("ROLLBACK").unwrap();
    assert_eq!(wait(&mut client, action), "failed");
    let row = client
        .query_one(
            "SELECT o.error_message, coalesce((SELECT max(failures) FROM ruvector.healing_arms), 0)
               FROM ruvector.healing_outcomes o WHERE o.action_id = $1",
            &[&action],
        )
        .unwrap();
    assert_eq!(
        row.get::<_, Option<&str>>(0),
        Some("the build was cancelled after its time limit of 1 s, while it waited for older transactions"),
        "{}",
        said(&mut client)
    );
    assert_eq!(row.get::<_, i32>(1), 0);
}

#[test]
fn a_build_beyond_its_time_is_cancelled_and_cleaned_up_and_its_remedy_waits() {
    let (_cluster, mut client) = start();
    invalid(&mut client, "(slow(embedding)::vector(384)) vector_l2_ops");
    let action: i64 = wait_for("an action that has ended", PATIENCE, || {
        client.query_opt("SELECT id FROM ruvector.actions WHERE ended_at IS NOT NULL", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)))
    .get(0);
    assert_eq!(wait(&mut client, action), "failed");
    let row = client
        .query_one(
            "SELECT o.error_message, (SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass),
                    (SELECT failures FROM ruvector.healing_arms)
               FROM ruvector.healing_outcomes o WHERE o.action_id = $1",
            &[&action],
        )
        .unwrap();
    assert_eq!(
        row.get::<_, Option<&str>>(0),
        Some("the build was cancelled after its time limit of 1 s"),
        "{}",
        said(&mut client)
    );
    assert_eq!((row.get::<_, i64>(1), row.get::<_, i32>(2)), (2, 1));

    // What now stands in the way: the cooldown; without it the remedy's own wait; with a smaller window its attempts.
    let mut expect = |settings: &str, reason: &str| {
        client.execute("SELECT ruvector_healing_configure($1::text::jsonb)", &[&settings]).unwrap();
        wait_for(reason, PATIENCE, || {
            let query = "SELECT 1 FROM ruvector.integrity WHERE decision ->> 'reason' = $1";
            client.query_opt(query, &[&reason]).unwrap()
        })
        .unwrap();
    };
    expect("{}", "cooldown");
    expect(r#"{"min_healing_interval_seconds": 0}"#, "arm_backoff");
    expect(r#"{"max_attempts_per_window": 1}"#, "attempts_exhausted");
    // A human lets the remedy run again.
    let reset = "SELECT ruvector_healing_reset('docs', 'repair_invalid_index')";
    let changed = |client: &mut Client| client.query_one(reset, &[]).unwrap().get::<_, i32>(0);
    assert_eq!((changed(&mut client), changed(&mut client)), (1, 0));
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 1);
}

#[test]
fn an_action_that_no_worker_can_bring_to_its_end_is_given_up() {
    let (cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "observe"}"#);
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    wait_for("the build to wait for the writer", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    // Five workers are gone, and the next one will not be able to read the plan.
    client
        .batch_execute(
            "UPDATE ruvector.actions SET plan = '{}', starts = 5, last_start = now() - interval '1 hour'
              WHERE status IN ('executing', 'verifying');
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ruvector action'",
        )
        .unwrap();
    writer.batch_execute("ROLLBACK").unwrap();
    assert_eq!(wait(&mut client, action), "failed");
    let error: String =
        client.query_one("SELECT error FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    assert!(error.contains("6 workers"), "{error}");
    // The collection is looked at and acted on as before, and what was half built is swept.
    let next: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
        .unwrap()
        .get(0);
    assert_eq!(wait(&mut client, next), "succeeded", "{}", said(&mut client));
    let indexes: i64 = client
        .query_one("SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass AND indisvalid", &[])
        .unwrap()
        .get(0);
    assert_eq!(indexes, 2);
}

#[test]
fn a_trigger_on_a_healthy_collection_is_a_noop_that_says_so() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops); ANALYZE docs;
             SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    wait_for("an observation", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut > 0.9", &[]).unwrap()
    })
    .unwrap();
    let action: i64 = client.query_one("SELECT ruvector_healing_trigger('docs')", &[]).unwrap().get(0);
    assert_eq!(wait(&mut client, action), "noop");
    let row =
        client.query_one("SELECT reason, detail FROM ruvector.actions WHERE id = $1", &[&action]).unwrap();
    assert_eq!(row.get::<_, Option<&str>>(0), Some("nothing_to_do"));
    let outcomes: i64 =
        client.query_one("SELECT count(*) FROM ruvector.healing_outcomes", &[]).unwrap().get(0);
    assert_eq!(outcomes, 0, "what did not run has no outcome");
}

#[test]
fn the_switch_of_the_server_stops_everything() {
    let (_cluster, mut client) = start();
    client.batch_execute("ALTER SYSTEM SET ruvector.enabled = off").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    spoiled(&mut client, "{}");
    wait_for("the reason", PATIENCE, || why_not(&mut client).contains("switched off").then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {} {}", why_not(&mut client), said(&mut client)));
    for statement in [
        "SELECT ruvector_healing_execute('docs', 'rebuild_centroids')",
        "SELECT ruvector_healing_trigger('docs')",
        "SELECT ruvector_healing_rollback('docs')",
    ] {
        let (state, hint) = refused(&mut client, statement);
        assert_eq!(state, "55000", "{statement}");
        assert!(hint.contains("ruvector.enabled"), "{hint}");
    }
    let asked: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(asked, 0, "what is refused leaves nothing");
    let enabled = "SELECT bool_or(enabled) FROM ruvector_healing_status()";
    assert!(!client.query_one(enabled, &[]).unwrap().get::<_, bool>(0));
}

#[test]
fn bad_requests_are_refused_with_a_hint() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 200);
    client.batch_execute("ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    for (statement, state, hint) in [
        ("SELECT ruvector_healing_trigger('nothing')", "42704", "Registered: docs."),
        ("SELECT ruvector_healing_execute('docs', 'magic')", "42704", "rebuild_centroids"),
        (
            "SELECT ruvector_healing_execute('docs', 'compact_indexes', '{\"batch_size\": 5}')",
            "22023",
            "no batch size",
        ),
        (
            "SELECT ruvector_healing_execute('docs', 'compact_indexes', '{\"indexes\": 5}')",
            "22023",
            "list of index names",
        ),
        ("SELECT ruvector_healing_approve(77)", "42704", "ruvector.actions"),
        ("SELECT ruvector_healing_abort(77)", "42704", "ruvector.actions"),
        ("CALL ruvector_healing_wait(77)", "42704", "ruvector.actions"),
    ] {
        let (found_state, found_hint) = refused(&mut client, statement);
        assert_eq!(found_state, state, "{statement}");
        assert!(found_hint.contains(hint), "{statement}: {found_hint}");
    }
    client
        .batch_execute("CREATE ROLE looker LOGIN IN ROLE ruvector_monitor; CREATE ROLE other LOGIN IN ROLE ruvector_operator")
        .unwrap();
    let mut looker = cluster.connect_as("looker", "app").unwrap();
    assert_eq!(refused(&mut looker, "SELECT ruvector_healing_trigger('docs')").0, "42501");
    looker.query("SELECT * FROM ruvector_healing_status()", &[]).unwrap();
    looker.query("SELECT * FROM ruvector_healing_history()", &[]).unwrap();
    // What users wrote is for who may read their tables.
    for written in
        ["keys FROM ruvector.moved_rows", "keys FROM ruvector.server_batches", "* FROM ruvector.tenant_homes"]
    {
        assert_eq!(refused(&mut looker, &format!("SELECT {written}")).0, "42501", "{written}");
    }
    let open = "SELECT count(*) FROM ruvector.server_batches WHERE state NOT IN ('done', 'rolled_back')";
    looker.query(open, &[]).unwrap();
    let mut other = cluster.connect_as("other", "app").unwrap();
    let (state, hint) = refused(&mut other, "SELECT ruvector_healing_trigger('docs')");
    assert_eq!(state, "42501");
    assert!(hint.contains("owner"), "{hint}");
}

#[test]
fn two_plans_approved_at_once_run_one_after_the_other() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            r#"CREATE TABLE more AS TABLE docs;
               CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops);
               CREATE INDEX ON more USING hnsw (embedding vector_cosine_ops);
               DELETE FROM docs WHERE id >= 200; DELETE FROM more WHERE id >= 200; ANALYZE docs; ANALYZE more;
               SELECT ruvector_healing_configure('{"mode": "approve", "verify_window_seconds": 2}');
               SELECT ruvector_collection_register('docs', 'docs'), ruvector_collection_register('more', 'more')"#,
        )
        .unwrap();
    wait_for("two plans", PATIENCE, || {
        let query = "SELECT count(*) FROM ruvector.actions WHERE status = 'awaiting_approval'";
        (client.query_one(query, &[]).unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client.batch_execute("SELECT ruvector_healing_approve(id) FROM ruvector.actions").unwrap();
    for action in [1, 2] {
        assert_eq!(wait(&mut client, action), "succeeded", "{}", said(&mut client));
    }
    let apart: bool = client
        .query_one(
            "SELECT NOT tstzrange(a.started_at, a.ended_at) && tstzrange(b.started_at, b.ended_at)
               FROM ruvector.actions a, ruvector.actions b WHERE (a.id, b.id) = (1, 2)",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(apart, "{}", said(&mut client));
}

#[test]
fn a_plan_that_waits_for_a_human_ends_once_what_it_is_for_is_well_again() {
    let (_cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "approve"}"#);
    let action: i64 = wait_for("a plan", PATIENCE, || {
        client.query_opt("SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval'", &[]).unwrap()
    })
    .unwrap()
    .get(0);
    // Somebody was quicker.
    client.batch_execute("REINDEX INDEX docs_i; ALTER DATABASE app SET ivfflat.probes = 30").unwrap();
    client.batch_execute("SELECT ruvector_search_effort_set('docs_i', 40)").unwrap();
    wait_for("the end of the plan", PATIENCE, || {
        let query = "SELECT detail FROM ruvector.actions WHERE id = $1 AND status = 'expired'";
        client
            .query_opt(query, &[&action])
            .unwrap()
            .filter(|row| row.get::<_, &str>(0).contains("well again"))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let signed = "SELECT 1 FROM (SELECT event, action_id FROM ruvector.audit_log UNION ALL SELECT event, action_id FROM ruvector.audit_pending) x
                   WHERE event = 'expired' AND action_id = $1";
    assert!(client.query_opt(signed, &[&action]).unwrap().is_some());
}
