//! What a human says: reject, pause and resume, take back, explain, release; and who may.

use std::time::{Duration, Instant};

use cluster::dataset::Column;
use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, load_docs, recall_of_sessions, refused, said, start};

const UNTRAINED: &str =
    "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)";

/// A collection with an untrained index, registered with these settings, in a weak state.
fn spoiled(client: &mut Client, settings: &str) -> cluster::dataset::Embeddings {
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
    data
}

fn wait(client: &mut Client, action: i64) -> String {
    client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap().get(0)
}

fn execute(client: &mut Client, strategy: &str) -> i64 {
    let query = "SELECT action_id FROM ruvector_healing_execute('docs', $1)";
    client.query_one(query, &[&strategy]).unwrap().get(0)
}

fn awaiting(client: &mut Client) -> i64 {
    wait_for("a plan", PATIENCE, || {
        client.query_opt("SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval'", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(client)))
    .get(0)
}

fn text(client: &mut Client, query: &str) -> String {
    client.query_one(query, &[]).unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

fn reasons(client: &mut Client) -> Vec<String> {
    let query = "SELECT reason FROM ruvector_healing_why_not('docs')";
    client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_plan_is_rejected_explained_and_not_proposed_again_at_once() {
    let (_cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "approve", "min_healing_interval_seconds": 0}"#);
    let action = awaiting(&mut client);
    assert_eq!(reasons(&mut client), ["awaiting_approval"]);
    let shown =
        client.query("SELECT runs, strategy, explanation FROM ruvector_healing_plan('docs')", &[]).unwrap();
    assert_eq!(shown[0].get::<_, &str>(0), "after_approval");
    assert_eq!(shown[0].get::<_, &str>(1), "rebuild_centroids");
    assert!(shown[0].get::<_, &str>(2).contains("lists"));
    let reject = format!("SELECT ruvector_healing_reject({action}, 'not before the release')");
    assert!(client.query_one(&reject, &[]).unwrap().get::<_, bool>(0));
    assert!(!client.query_one(&reject, &[]).unwrap().get::<_, bool>(0), "nothing waits any more");
    let told = text(&mut client, &format!("SELECT ruvector_healing_explain({action})"));
    for words in ["Asked for by ruvector", "Found: ", "Planned: ", "not given", "not before the release"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    wait_for("the strategy to wait", PATIENCE, || {
        reasons(&mut client).contains(&"arm_backoff".to_owned()).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?} {}", reasons(&mut client), said(&mut client)));
    let proposed: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(proposed, 1, "{}", said(&mut client));
    // A human who has thought better of it.
    client.batch_execute("SELECT ruvector_healing_reset('docs')").unwrap();
    assert!(awaiting(&mut client) > action);
}

#[test]
fn healing_is_paused_until_a_moment_or_a_word() {
    let (_cluster, mut client) = start();
    client
        .batch_execute("SELECT ruvector_healing_pause(now() + interval '1 hour', reason => 'release')")
        .unwrap();
    spoiled(&mut client, "{}");
    wait_for("the reason", PATIENCE, || reasons(&mut client).contains(&"paused".to_owned()).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", reasons(&mut client)));
    let (state, hint) = refused(&mut client, "SELECT ruvector_healing_trigger('docs')");
    assert_eq!(state, "55000");
    assert!(hint.contains("ruvector_healing_resume"), "{hint}");
    let enabled = "SELECT bool_or(enabled) FROM ruvector_healing_status()";
    assert!(!client.query_one(enabled, &[]).unwrap().get::<_, bool>(0), "a pause is a lease on enabled");
    for (until, state) in
        [("now() - interval '1 second'", "22023"), ("'infinity'", "22023"), ("NULL", "22023")]
    {
        assert_eq!(refused(&mut client, &format!("SELECT ruvector_healing_pause({until})")).0, state);
    }
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 0);
    // One of the collection takes its place, and ends by itself.
    client
        .batch_execute(
            "SELECT ruvector_healing_pause(now() + interval '3 seconds', 'docs'); SELECT ruvector_healing_resume()",
        )
        .unwrap();
    wait_for("healing", Duration::from_secs(120), || {
        client.query_opt("SELECT 1 FROM ruvector.healing_outcomes WHERE success", &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let after: bool = client
        .query_one(
            "SELECT min(a.requested_at) > (SELECT until FROM ruvector.healing_pauses) FROM ruvector.actions a",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(after);
    assert!(!client.query_one("SELECT ruvector_healing_resume('docs')", &[]).unwrap().get::<_, bool>(0));
}

#[test]
fn a_rebuild_is_taken_back_and_the_former_definition_is_there_again() {
    let (cluster, mut client) = start();
    let data = spoiled(&mut client, r#"{"mode": "observe", "min_healing_interval_seconds": 0}"#);
    assert_eq!(refused(&mut client, "SELECT ruvector_healing_rollback('docs')").0, "55000");
    let before = recall_of_sessions(&cluster, &data, 11_000..11_050);
    let action = execute(&mut client, "rebuild_centroids");
    assert_eq!(wait(&mut client, action), "succeeded", "{}", said(&mut client));
    let healed = recall_of_sessions(&cluster, &data, 11_000..11_050);
    assert!(healed.recall > before.recall + 0.2, "{before:?} {healed:?}");
    let oid = text(&mut client, "SELECT 'docs_i'::regclass::oid::text");

    let back: i64 = client.query_one("SELECT ruvector_healing_rollback('docs')", &[]).unwrap().get(0);
    assert_eq!(wait(&mut client, back), "succeeded", "{}", said(&mut client));
    let defined = text(
        &mut client,
        "SELECT string_agg(pg_get_indexdef(indexrelid), ';') FROM pg_index
                                      WHERE indrelid = 'docs'::regclass AND NOT indisprimary",
    );
    assert!(
        defined.contains("docs_i ") && defined.contains("lists='100'") && !defined.contains(';'),
        "{defined}"
    );
    assert_ne!(text(&mut client, "SELECT 'docs_i'::regclass::oid::text"), oid);
    let efforts: i64 = client.query_one("SELECT count(*) FROM ruvector.search_effort", &[]).unwrap().get(0);
    assert_eq!(efforts, 0, "the former index had none of its own");
    let statuses = text(&mut client, "SELECT string_agg(status, ' ' ORDER BY id) FROM ruvector.actions");
    assert_eq!(statuses, "rolled_back succeeded");
    // There is nothing else to take back.
    let (state, hint) = refused(&mut client, "SELECT ruvector_healing_rollback('docs')");
    assert_eq!(state, "55000");
    assert!(hint.contains("ruvector_healing_history"), "{hint}");
    // That it was taken back counts: the strategy is not tried on this part again at once, another is.
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"mode": "auto"}', 'docs')"#).unwrap();
    let next: i64 = wait_for("the next action", PATIENCE, || {
        client.query_opt("SELECT id FROM ruvector.actions WHERE id > $1", &[&back]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {:?} {}", reasons(&mut client), said(&mut client)))
    .get(0);
    let strategy = text(&mut client, &format!("SELECT strategy FROM ruvector.actions WHERE id = {next}"));
    assert_eq!(strategy, "tune_search_effort", "{}", said(&mut client));
}

#[test]
fn a_search_effort_is_taken_back_unless_somebody_has_set_another() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 6_000);
    client
        .batch_execute(
            r#"CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 80); ANALYZE docs;
               SELECT ruvector_healing_configure('{"verify_window_seconds": 1, "min_healing_interval_seconds": 0, "mode": "observe"}');
               SELECT ruvector_collection_register('docs', 'docs')"#,
        )
        .unwrap();
    wait_for("a weak state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut < 0.7", &[]).unwrap()
    })
    .unwrap();
    let effort = "SELECT (SELECT effort FROM ruvector.search_effort)::text";
    let tuned = execute(&mut client, "tune_search_effort");
    assert_eq!(wait(&mut client, tuned), "succeeded", "{}", said(&mut client));
    assert_ne!(text(&mut client, effort), "");
    let back: i64 = client.query_one("SELECT ruvector_healing_rollback('docs')", &[]).unwrap().get(0);
    assert_eq!(wait(&mut client, back), "succeeded", "{}", said(&mut client));
    assert_eq!(text(&mut client, effort), "", "none was managed before");

    let again = execute(&mut client, "tune_search_effort");
    assert_eq!(wait(&mut client, again), "succeeded", "{}", said(&mut client));
    // What waits for a human is held against the world again when it is approved.
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"require_approval_strategies": ["tune_search_effort"]}', 'docs')"#,
        )
        .unwrap();
    let late: i64 = client.query_one("SELECT ruvector_healing_rollback('docs')", &[]).unwrap().get(0);
    assert_eq!(awaiting(&mut client), late);
    client.batch_execute("SELECT ruvector_search_effort_set('docs_i', 77)").unwrap();
    wait_for("the other effort in the healer's eyes", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE snapshot #>> '{indexes,0,effort}' = '77'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    client.execute("SELECT ruvector_healing_approve($1)", &[&late]).unwrap();
    assert_eq!(wait(&mut client, late), "expired", "{}", said(&mut client));
    let detail = text(&mut client, &format!("SELECT detail FROM ruvector.actions WHERE id = {late}"));
    assert!(detail.contains("search effort is 77 by now"), "{detail}");

    let back: i64 = client.query_one("SELECT ruvector_healing_rollback('docs')", &[]).unwrap().get(0);
    assert_eq!(wait(&mut client, back), "refused");
    let detail = text(&mut client, &format!("SELECT detail FROM ruvector.actions WHERE id = {back}"));
    assert!(detail.contains("search effort is 77 by now"), "{detail}");
    assert_eq!(text(&mut client, effort), "77", "what somebody set since is theirs");
}

#[test]
fn an_abort_stops_a_build_within_a_second_though_the_healer_is_busy() {
    let (cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "observe"}"#);
    let mut writer = cluster.connect("app").unwrap();
    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let action = execute(&mut client, "rebuild_centroids");
    let building = "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
    let worker: i32 =
        wait_for("the build", PATIENCE, || client.query_opt(building, &[]).unwrap()).unwrap().get(0);
    // The healer hears nothing.
    let healer: i32 = client
        .query_one("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector healer'", &[])
        .unwrap()
        .get(0);
    cluster.kill(healer, cluster::Signal::STOP).unwrap();
    // A caller that thinks better of it has stopped nothing.
    client.batch_execute(&format!("BEGIN; SELECT ruvector_healing_abort({action}); ROLLBACK")).unwrap();
    assert!(client.query_opt(building, &[]).unwrap().is_some());
    let asked = Instant::now();
    client.execute("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    wait_for("the worker's end", PATIENCE, || {
        let query = "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
        client.query_opt(query, &[&worker]).unwrap()
    })
    .unwrap();
    eprintln!("the worker had stopped {:?} after the abort", asked.elapsed());
    writer.batch_execute("ROLLBACK").unwrap();
    cluster.kill(healer, cluster::Signal::CONT).unwrap();
    assert_eq!(wait(&mut client, action), "aborted", "{}", said(&mut client));
    let indexes: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass AND NOT indisprimary",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(indexes, 1);
}

#[test]
fn who_asks_may_have_to_be_another_than_who_approves() {
    let (cluster, mut client) = start();
    spoiled(
        &mut client,
        r#"{"mode": "observe", "approver_differs": true, "require_approval_strategies": ["rebuild_centroids"]}"#,
    );
    client.batch_execute("CREATE ROLE asks LOGIN SUPERUSER; CREATE ROLE approves LOGIN SUPERUSER").unwrap();
    let mut asks = cluster.connect_as("asks", "app").unwrap();
    let action = execute(&mut asks, "rebuild_centroids");
    awaiting(&mut client);
    let approve = format!("SELECT ruvector_healing_approve({action})");
    let (state, hint) = refused(&mut asks, &approve);
    assert_eq!(state, "42501");
    assert!(hint.contains("approver_differs"), "{hint}");
    let mut approves = cluster.connect_as("approves", "app").unwrap();
    assert!(approves.query_one(&approve, &[]).unwrap().get::<_, bool>(0));
    assert_eq!(wait(&mut client, action), "succeeded", "{}", said(&mut client));
    let told = text(&mut client, &format!("SELECT ruvector_healing_explain({action})"));
    for words in ["Asked for by asks", "given by approves", "CREATE INDEX CONCURRENTLY", "Verified: yes"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn a_collection_is_handed_back_as_an_ordinary_table() {
    let (cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            r#"CREATE INDEX docs_i ON docs USING hnsw (embedding vector_cosine_ops); ANALYZE docs;
               SELECT ruvector_collection_register('docs', 'docs'); SELECT ruvector_search_effort_set('docs_i', 90);
               SELECT ruvector_healing_pause(now() + interval '1 hour', 'docs')"#,
        )
        .unwrap();
    let handed: serde_json::Value =
        client.query_one("SELECT ruvector_collection_release('docs')", &[]).unwrap().get(0);
    assert_eq!(handed["table"], "public.docs");
    assert_eq!(handed["search_efforts_given_back"][0]["effort"], 90);
    assert_eq!(handed["left_for_you"], serde_json::json!([]));
    for table in ["collections", "search_effort", "integrity", "healing_pauses"] {
        let left: i64 =
            client.query_one(&format!("SELECT count(*) FROM ruvector.{table}"), &[]).unwrap().get(0);
        assert_eq!(left, 0, "{table}");
    }
    client.batch_execute("INSERT INTO docs SELECT -1, embedding FROM docs LIMIT 1").unwrap();
    wait_for("its effort to be gone", PATIENCE, || {
        let mut session = cluster.connect("app").unwrap();
        session
            .batch_execute(
                "SELECT id FROM docs ORDER BY embedding <=> (SELECT embedding FROM docs LIMIT 1) LIMIT 1",
            )
            .unwrap();
        (text(&mut session, "SHOW hnsw.ef_search") == "40").then_some(())
    })
    .unwrap();
}

#[test]
fn a_rollback_waits_for_a_human_where_what_it_takes_back_would_and_reaches_behind_what_has_no_way_back() {
    let (_cluster, mut client) = start();
    spoiled(&mut client, r#"{"mode": "observe", "min_healing_interval_seconds": 0}"#);
    let action = execute(&mut client, "rebuild_centroids");
    assert_eq!(wait(&mut client, action), "succeeded", "{}", said(&mut client));
    // A later action, which is then noted as one that has no way back, as a rebuild in place of an attached index is.
    client
        .batch_execute(
            "CREATE INDEX docs_j ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docs_j'::regclass",
        )
        .unwrap();
    wait_for("the invalid index in the healer's eyes", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector_index_health() WHERE index_name::text LIKE '%docs_j' AND NOT valid";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", said(&mut client)));
    let dropped = execute(&mut client, "repair_invalid_index");
    let status = wait(&mut client, dropped);
    assert_eq!(status, "succeeded", "{}", said(&mut client));
    client
        .execute(
            "UPDATE ruvector.actions SET plan = jsonb_set(plan, '{reversible}', 'false') WHERE id = $1",
            &[&dropped],
        )
        .unwrap();

    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"require_approval_strategies": ["rebuild_centroids"]}', 'docs')"#,
        )
        .unwrap();
    let back: i64 = client.query_one("SELECT ruvector_healing_rollback('docs')", &[]).unwrap().get(0);
    assert_eq!(awaiting(&mut client), back);
    let of = format!("SELECT request ->> 'of' FROM ruvector.actions WHERE id = {back}");
    assert_eq!(text(&mut client, &of), action.to_string());
    let why = format!("SELECT approval FROM ruvector.actions WHERE id = {back}");
    assert_eq!(text(&mut client, &why), "strategy");
    client.execute("SELECT ruvector_healing_approve($1)", &[&back]).unwrap();
    assert_eq!(wait(&mut client, back), "succeeded", "{}", said(&mut client));
    let (state, hint) = refused(&mut client, "SELECT ruvector_healing_rollback('docs')");
    assert_eq!(state, "55000");
    assert!(hint.contains(&format!("ruvector_healing_explain({dropped})")), "{hint}");
    // No status follows another that may not, whoever writes it.
    for (id, status) in [(back, "approved"), (action, "succeeded"), (dropped, "verifying")] {
        let moved = format!("UPDATE ruvector.actions SET status = '{status}' WHERE id = {id}");
        assert_eq!(refused(&mut client, &moved).0, "55000", "{moved}");
    }
}
