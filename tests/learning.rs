//! Outcomes teach: weights, posteriors and credit from them, choices by what was learned, how far a remedy goes by itself,
//! a human's judgement; all of it the same after a crash.

use cluster::dataset::Column;
use cluster::{Signal, wait_for};
use healing::lifecycle::Lesson;
use postgres::Client;
use std::time::Duration;
use tests::keyed::KeyedReaders;
use tests::{PATIENCE, load_docs, refused, said, start};

/// Several actions after one another, on a busy machine.
const HEALING: Duration = Duration::from_secs(300);

/// A collection with an index built on two hundred rows, of whose lists nothing is known: they are too many to train afresh.
/// Its search effort could be raised, or it could be built anew. With fewer than 11,000 rows its pages are mostly empty, which is a
/// second problem of the same index; with more than 6,000 an attempt takes six seconds of a processor.
fn spoiled(client: &mut Client, rows: usize, settings: &str) {
    let data = load_docs(client, 200);
    client
        .batch_execute(
            // pgvector 0.8.0 wants 221 MB for so many lists.
            "SET maintenance_work_mem = '256MB';
             CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 2500)",
        )
        .unwrap();
    data.load_into(client, "docs", &Column::ID_AND_EMBEDDING, 200..rows).unwrap();
    client
        .batch_execute(&format!(
            "ANALYZE docs;
             SELECT ruvector_healing_configure('{{\"verify_window_seconds\": 1, \"min_healing_interval_seconds\": 0,
                 \"max_attempts_per_window\": 1000, \"backoff_base_seconds\": 1, \"breaker_failures\": 100}}');
             SELECT ruvector_collection_register('docs', 'docs', settings => '{settings}')"
        ))
        .unwrap();
}

/// Makes every attempt to set a search effort by itself fail.
fn break_tuning(client: &mut Client) {
    client
        .batch_execute(
            "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF EXISTS (SELECT FROM ruvector.actions WHERE status = 'executing' AND strategy = 'tune_search_effort') THEN
                     RAISE EXCEPTION 'made to fail';
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER broken BEFORE INSERT OR UPDATE ON ruvector.search_effort FOR EACH ROW EXECUTE FUNCTION broken()",
        )
        .unwrap();
}

/// The rows of the signed log of this event: who, the exact SQL, what takes it back, details. All of it is signed by then, and
/// the log is whole.
fn signed(client: &mut Client, event: &str) -> Vec<String> {
    wait_for("the signatures", PATIENCE, || {
        let query = "SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector.audit_pending)";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let verified = client.query_one("SELECT whole, fault FROM ruvector_audit_verify()", &[]).unwrap();
    assert!(verified.get::<_, bool>(0), "{:?}", verified.get::<_, Option<String>>(1));
    let query = "SELECT concat_ws(' | ', actor, statement, inverse, details) FROM ruvector.audit_log WHERE event = $1 ORDER BY seq";
    client.query(query, &[&event]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn number(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap().get(0)
}

#[test]
fn a_remedy_made_to_fail_is_abandoned_for_the_other_and_the_history_says_why() {
    let (_cluster, mut client) = start();
    break_tuning(&mut client);
    // The ladder is off so that it may go on failing, and only low impact is allowed so that nothing else is tried.
    spoiled(&mut client, 6_000, r#"{"autonomy_ladder": false, "max_auto_heal_impact": 0.4}"#);
    wait_for("four failures", HEALING, || {
        let failed = "SELECT count(*) FROM ruvector_healing_history() WHERE strategy = 'tune_search_effort' AND NOT success";
        (number(&mut client, failed) >= 4).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    client
        .batch_execute(r#"SELECT ruvector_healing_configure('{"max_auto_heal_impact": 0.5}', 'docs')"#)
        .unwrap();
    let row = wait_for("the other remedy", HEALING, || {
        let query = "SELECT o.status, o.story, o.action_id FROM ruvector_healing_history() o WHERE strategy = 'rebuild_centroids'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let (status, story, action): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(status, "succeeded", "{story}");
    assert!(story.contains("\nChosen: rebuild_centroids ("), "{story}");
    assert!(
        story.contains("tune_search_effort comes later: it proved insufficient in such cases"),
        "{story}"
    );

    let choice = client
        .query_one(
            "SELECT selection, strategy, propensity, index_kind, problem_class, passed_over::text, jsonb_array_length(arms)
               FROM ruvector.healing_choices WHERE action_id = $1",
            &[&action],
        )
        .unwrap();
    assert_eq!((choice.get::<_, &str>(0), choice.get::<_, &str>(1)), ("thompson", "rebuild_centroids"));
    assert_eq!((choice.get::<_, f64>(2), choice.get::<_, i32>(6)), (1.0, 1));
    assert_eq!((choice.get::<_, &str>(3), choice.get::<_, &str>(4)), ("ivfflat", "CentroidSkew"));
    assert!(choice.get::<_, &str>(5).contains("tune_search_effort"));
    let words: String = client.query_one("SELECT ruvector_healing_explain($1)", &[&action]).unwrap().get(0);
    assert!(words.contains("rebuild_centroids") && words.contains("done"), "{words}");
    // Why nothing was done between the failures is kept too.
    let waited = "SELECT count(*) FROM ruvector.healing_decisions WHERE reason IN ('arm_backoff', 'no_strategy', 'impact_limit') OR detail LIKE '%tune_search_effort%'";
    assert!(number(&mut client, waited) > 0, "{}", said(&mut client));
    // Outcomes are filled, of what failed and of what helped.
    let filled = |client: &mut Client, which: &str| {
        let query = format!(
            "SELECT count(*) FROM ruvector.healing_outcomes WHERE completed_at >= started_at AND duration_ms >= 0 AND initial_lambda >= 0
                AND jsonb_array_length(witness_edges) > 0 AND system_metrics <> '{{}}' AND problem_details <> '{{}}'
                AND problem_class = 'CentroidSkew' AND index_kind = 'ivfflat' AND tenant_id IS NULL AND {which}"
        );
        number(client, &query)
    };
    let failed = "strategy_name = 'tune_search_effort' AND NOT success AND verified IS NOT TRUE AND error_message LIKE '%made to fail%'
                  AND status = 'failed' AND feedback_score IS NULL AND actions_taken IS NOT NULL
                  AND strategy_params #>> '{steps,0,kind}' IS NOT NULL";
    assert!(filled(&mut client, failed) >= 4);
    let helped = "strategy_name = 'rebuild_centroids' AND success AND verified AND error_message IS NULL AND actions_taken > 0
                  AND improvement_pct > 10 AND final_lambda > initial_lambda AND strategy_params #>> '{steps,0,kind}' IS NOT NULL";
    let all = "SELECT string_agg((to_jsonb(o) - 'story' - 'system_metrics')::text, E'\\n') FROM ruvector.healing_outcomes o";
    let shown: String = client.query_one(all, &[]).unwrap().get(0);
    assert_eq!(filled(&mut client, helped), 1, "{shown}");
    let logged =
        "SELECT count(*) FROM ruvector.actions a LEFT JOIN ruvector.healing_choices c ON c.action_id = a.id
                   WHERE a.plan IS NOT NULL AND c.action_id IS NULL";
    assert_eq!(number(&mut client, logged), 0, "every choice is logged");

    // What was learned is shown, and adds up.
    let learned = wait_for("the outcome to be learned", PATIENCE, || {
        let query = "SELECT weight, attempts, verified, success_rate, credited, avg_improvement
                       FROM ruvector_healing_effectiveness() WHERE strategy = 'rebuild_centroids' AND weight > 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let (weight, improvement): (f64, f64) = (learned.get(0), learned.get(5));
    assert!((weight - (1.0 + improvement)).abs() < 1e-6, "{weight} = 1 × (1 + {improvement})");
    assert_eq!((learned.get::<_, i64>(1), learned.get::<_, i64>(2)), (1, 1));
    assert!(learned.get::<_, f64>(4) > 0.5);
    let failing = client
        .query_one(
            "SELECT weight, attempts >= 4, success_rate, credited, jsonb_array_length(recent_outcomes) >= 4
               FROM ruvector_healing_effectiveness() WHERE strategy = 'tune_search_effort'",
            &[],
        )
        .unwrap();
    assert_eq!(
        (failing.get::<_, f64>(0), failing.get::<_, f64>(2), failing.get::<_, f64>(3)),
        (0.0, 0.0, 0.0)
    );
    assert!(failing.get::<_, bool>(1) && failing.get::<_, bool>(4));
    let total = client
        .query_one(
            "SELECT t.attempts = s.attempts, t.verified = 1, t.weight IS NULL, t.avg_time_to_recovery > interval '0'
               FROM (SELECT sum(attempts)::bigint AS attempts FROM ruvector_healing_effectiveness() WHERE strategy IS NOT NULL) s,
                    ruvector_healing_effectiveness() t WHERE t.strategy IS NULL",
            &[],
        )
        .unwrap();
    assert!((0..3).all(|at| total.get::<_, bool>(at)));
    wait_for("the time to recovery", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_healing_effectiveness()
                      WHERE strategy = 'rebuild_centroids' AND avg_time_to_recovery > interval '0'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

/// Outcomes as actions leave them: three of four verified, improvements of 50, 30, none and −20 %.
const OUTCOMES: &str = "
WITH action AS (
    INSERT INTO ruvector.actions (collection_id, collection_name, relation, status, request, strategy, lesson, ended_at)
    SELECT 7777, 'gone', 0, CASE WHEN ok THEN 'succeeded' ELSE 'rolled_back' END, '{}', 'compact_indexes',
           CASE WHEN ok THEN 'helped' ELSE 'no_gain' END, now() - make_interval(mins => n)
      FROM (VALUES (1, true), (2, true), (3, true), (4, false)) x (n, ok)
    RETURNING id, status, ended_at)
INSERT INTO ruvector.healing_outcomes (collection_id, problem_class, problem_details, strategy_name, started_at, completed_at,
       success, verified, improvement_pct, initial_lambda, action_id, status, story, index_kind)
SELECT 7777, 'IndexFragmentation', '{}', 'compact_indexes', ended_at - interval '5 seconds', ended_at, status = 'succeeded',
       status = 'succeeded', (ARRAY[50, 30, NULL, -20])[row_number() OVER (ORDER BY ended_at DESC)], 0.5, id, status, 'made', 'hnsw'
  FROM action";

/// All that was learned and is shown of it.
const LEARNED: &str = "SELECT jsonb_build_object(
    'report', (SELECT jsonb_agg(e) FROM ruvector_healing_effectiveness() e),
    'weights', (SELECT jsonb_object_agg(strategy, weight) FROM ruvector.healing_weights),
    'beliefs', (SELECT jsonb_agg(p) FROM ruvector._posteriors() p),
    'ladder', (SELECT jsonb_agg(a) FROM ruvector.healing_autonomy a),
    'shown', (SELECT jsonb_agg(jsonb_build_array(s.strategy, s.weight, s.posterior, s.mode))
                FROM ruvector_healing_strategies('small') s))::text";

#[test]
fn weights_are_the_specs_and_what_is_learned_survives_a_crash() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"CREATE TABLE small (id int PRIMARY KEY, e vector(3));
               INSERT INTO small SELECT i, ARRAY[i, i % 7, 1] FROM generate_series(1, 50) i;
               SELECT ruvector_collection_register('small', 'small');
               SELECT ruvector_healing_autonomy('small', 'compact_indexes', 'observe')"#,
        )
        .unwrap();
    client.batch_execute(OUTCOMES).unwrap();
    let weight = "SELECT weight FROM ruvector_healing_effectiveness() WHERE strategy = 'compact_indexes'";
    // 3/4 × (1 + (0.5 + 0.3 + 0 − 0.2) / 4).
    wait_for("the weight", PATIENCE, || {
        let weight: f64 = client.query_one(weight, &[]).unwrap().get(0);
        ((weight - 0.75 * 1.15).abs() < 1e-6).then_some(())
    })
    .unwrap();
    let untried: f64 = client
        .query_one(
            "SELECT weight FROM ruvector_healing_effectiveness() WHERE strategy = 'rebuild_centroids'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(untried, 1.0);
    // How far each remedy goes is shown once the collection has been looked at.
    let before: String = wait_for("a first look", PATIENCE, || {
        let learned: String = client.query_one(LEARNED, &[]).unwrap().get(0);
        (!learned.contains("], null]")).then_some(learned)
    })
    .unwrap();
    for part in ["\"tries\": 4", "\"level\": \"observe\"", "\"compact_indexes\": 0.862"] {
        assert!(before.contains(part), "{part}: {before}");
    }

    let healer =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND datname = 'app'";
    let again = |cluster: &cluster::Cluster, killed: i32| {
        wait_for("the server after the crash", PATIENCE, || {
            let mut client = cluster.connect("app").ok()?;
            // Until the crash is noticed the one that was killed is still listed.
            let pid: i32 = client.query_opt(healer, &[]).ok()??.get(0);
            (pid != killed).then_some(client)
        })
        .unwrap()
    };
    let learned = |client: &mut Client| -> Option<String> { client.query_one(LEARNED, &[]).unwrap().get(0) };
    let pid: i32 = client.query_one(healer, &[]).unwrap().get(0);
    cluster.kill(pid, Signal::KILL).unwrap();
    let mut client = again(&cluster, pid);
    assert_eq!(learned(&mut client).as_ref(), Some(&before), "kill -9 of the healer");
    cluster.kill_postmaster().unwrap();
    cluster.restart().unwrap();
    client = again(&cluster, pid);
    let mut others = [cluster.connect("app").unwrap(), cluster.connect("app").unwrap()];
    for session in others.iter_mut().chain([&mut client]) {
        assert_eq!(learned(session).as_ref(), Some(&before), "kill -9 of the postmaster, in all sessions");
    }
    // The new healer computes the same figures from the same rows.
    client
        .batch_execute("DELETE FROM ruvector.healing_weights; DELETE FROM ruvector.healing_posteriors")
        .unwrap();
    assert_ne!(learned(&mut client).as_ref(), Some(&before));
    client
        .batch_execute("SELECT ruvector_healing_feedback(max(id), NULL) FROM ruvector.healing_outcomes")
        .unwrap();
    wait_for("the same figures", PATIENCE, || (learned(&mut client).as_ref() == Some(&before)).then_some(()))
        .unwrap_or_else(|error| panic!("{error}\n{before}\n{:?}", learned(&mut client)));

    // Switched off, outcomes are recorded and the weights stay.
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"learning_enabled": false}')"#).unwrap();
    client.batch_execute(OUTCOMES).unwrap();
    client.batch_execute("SELECT ruvector._wake()").unwrap();
    client.batch_execute("UPDATE ruvector.healing_weights SET weight = 0.125").unwrap();
    let rounds = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ruvector healer'";
    assert_eq!(number(&mut client, rounds), 1);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(client.query_one(weight, &[]).unwrap().get::<_, f64>(0), 0.125);
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"learning_enabled": true}')"#).unwrap();
    client
        .batch_execute("SELECT ruvector_healing_feedback(max(id), NULL) FROM ruvector.healing_outcomes")
        .unwrap();
    wait_for("the weight again", PATIENCE, || {
        let weight: f64 = client.query_one(weight, &[]).unwrap().get(0);
        (weight > 0.8).then_some(())
    })
    .unwrap();
}

/// So many more outcomes of a remedy on some other table, all of them verified successes of this improvement, or all undone.
fn outcomes(client: &mut Client, strategy: &str, count: i32, improvement_pct: Option<f64>) {
    client
        .execute(
            "WITH action AS (
                 INSERT INTO ruvector.actions (collection_id, collection_name, relation, status, request, strategy, lesson, ended_at)
                 SELECT 7777, 'gone', 0, CASE WHEN $3::float8 IS NULL THEN 'rolled_back' ELSE 'succeeded' END, '{}', $1,
                        CASE WHEN $3 IS NULL THEN 'no_gain' ELSE 'helped' END, now() - interval '1 minute'
                   FROM generate_series(1, $2)
                 RETURNING id, status, ended_at)
             INSERT INTO ruvector.healing_outcomes (collection_id, problem_class, problem_details, strategy_name, started_at,
                    completed_at, success, verified, improvement_pct, initial_lambda, action_id, status, story, index_kind)
             SELECT 7777, 'HotspotCongestion', '{}', $1, ended_at - interval '5 seconds', ended_at, $3 IS NOT NULL, $3 IS NOT NULL,
                    $3, 0.5, id, status, 'made', 'none' FROM action",
            &[&strategy, &count, &improvement_pct],
        )
        .unwrap();
}

/// Within a step of impact, which comes first: both of these move rows away from a hot partition.
#[test]
fn the_specifications_rule_takes_the_highest_weight() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "observe", "selection": "greedy", "max_move_share": 0.3}');
               SELECT ruvector_collection_create('docs', 3, 8, index_method => 'none', key_table => true);
               INSERT INTO docs (embedding, metadata, partition_id)
               SELECT ARRAY[random(), random(), random()]::vector, '{}', 1 + i % 8 FROM generate_series(1, 16000) i;
               ANALYZE docs"#,
        )
        .unwrap();
    let _hot = KeyedReaders::start(&cluster, "docs", 6, 6);
    let mut chosen = |strategy: &str| {
        wait_for(format!("{strategy} to be chosen"), PATIENCE, || {
            // The newest says what is chosen now: a choice that stays the same is not written again.
            let query =
                "SELECT 1 FROM ruvector.healing_decisions WHERE reason = 'observe_mode' AND strategy = $1
                          AND id = (SELECT max(id) FROM ruvector.healing_decisions)";
            client.query_opt(query, &[&strategy]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    };
    let mut teacher = cluster.connect("app").unwrap();
    // 1.5 against 1.0, the weight of what was never tried.
    outcomes(&mut teacher, "drain_hot_partition", 3, Some(50.0));
    chosen("drain_hot_partition");
    // 1.9 against 1.5.
    outcomes(&mut teacher, "rebalance_partitions", 4, Some(90.0));
    chosen("rebalance_partitions");
    // A quarter of its tries helped, which is a quarter of 1.225.
    outcomes(&mut teacher, "rebalance_partitions", 12, None);
    chosen("drain_hot_partition");
}

#[test]
fn a_humans_judgement_counts_and_bad_ones_are_refused() {
    let (_cluster, mut client) = start();
    client.batch_execute(OUTCOMES).unwrap();
    let successes = |client: &mut Client| -> Option<f64> {
        let query = "SELECT successes FROM ruvector.healing_posteriors WHERE strategy = 'compact_indexes'";
        client.query_opt(query, &[]).unwrap().map(|row| row.get(0))
    };
    // The oldest failed. Of the successes the last is the core's to weigh: each counts a little less than one.
    let three =
        wait_for("what is believed", PATIENCE, || successes(&mut client).filter(|s| (2.8..3.0).contains(s)))
            .unwrap();
    client
        .batch_execute(
            "SELECT ruvector_healing_feedback(id, 0, 'it only looked better') FROM ruvector.healing_outcomes
              ORDER BY completed_at DESC LIMIT 1",
        )
        .unwrap();
    wait_for("the judgement", PATIENCE, || {
        successes(&mut client).filter(|s| (1.7..2.0).contains(s) && *s < three - 0.9)
    })
    .unwrap();
    let row = client
        .query_one(
            "SELECT feedback_score, feedback_comment, feedback_by = session_user, feedback_at IS NOT NULL
               FROM ruvector.healing_outcomes WHERE feedback_at IS NOT NULL",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, f32>(0), row.get::<_, &str>(1)), (0.0, "it only looked better"));
    assert!(row.get::<_, bool>(2) && row.get::<_, bool>(3));
    // A replay knows since when it was known.
    let known = "SELECT count(*) FROM ruvector_recorded(now() - interval '1 day') r JOIN ruvector.healing_outcomes o ON o.id = (r ->> 'id')::bigint
                  WHERE r ->> 'kind' = 'outcome' AND (r ->> 'feedback_at')::bigint = (extract(epoch FROM o.feedback_at) * 1000)::bigint";
    assert_eq!(number(&mut client, known), 1);
    let signed = signed(&mut client, "judged");
    assert_eq!(signed.len(), 1);
    assert!(signed[0].contains("'it only looked better'") && signed[0].contains("NULL, NULL"), "{signed:?}");

    let check = |client: &mut Client, statement: &str, code: &str, hint: &str| {
        let (sqlstate, said) = refused(client, statement);
        assert_eq!(sqlstate, code, "{statement}");
        assert!(said.contains(hint), "{statement}: {said}");
    };
    let feedback = "SELECT ruvector_healing_feedback(min(id), {}) FROM ruvector.healing_outcomes";
    check(&mut client, "SELECT ruvector_healing_feedback(999, 1)", "42704", "ruvector_healing_history()");
    for bad in ["1.5", "-0.1", "'NaN'", "'Infinity'"] {
        check(&mut client, &feedback.replace("{}", bad), "22023", "from 0 (of no use) to 1");
    }
    check(&mut client, &feedback.replace("{}", "1, repeat('x', 10001)"), "22023", "At most 10000");
    let untouched = "SELECT count(*) FROM ruvector.healing_outcomes WHERE feedback_at IS NOT NULL";
    assert_eq!(number(&mut client, untouched), 1);
    client.batch_execute("CREATE ROLE nobody LOGIN; GRANT USAGE ON SCHEMA public TO nobody").unwrap();
    let (code, _) = refused(&mut client, "SET ROLE nobody; SELECT ruvector_healing_feedback(1, 1)");
    assert_eq!(code, "42501");
}

#[test]
fn failures_lower_how_far_a_remedy_goes_and_a_human_raises_it() {
    let (_cluster, mut client) = start();
    break_tuning(&mut client);
    spoiled(&mut client, 11_000, r#"{"mode": "observe"}"#);
    wait_for("a weak state", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE state IN ('stress', 'critical')";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    // In observe it plans, and says what it expects.
    wait_for("a prediction", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.healing_predictions WHERE strategy = 'tune_search_effort' AND scored_at IS NULL
                        AND lasts = 0.5 AND horizon_s > 1";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    for _ in 0..2 {
        let action = number(
            &mut client,
            "SELECT action_id FROM ruvector_healing_execute('docs', 'tune_search_effort')",
        );
        let ended =
            client.query_one(&format!("CALL ruvector_healing_wait({action}, '2 minutes')"), &[]).unwrap();
        assert_eq!(ended.get::<_, &str>(0), "failed", "{}", said(&mut client));
        // What fails again within hours is laid to the same cause.
        let earlier = "UPDATE ruvector.healing_autonomy SET struck_at = struck_at - interval '7 hours'";
        assert_eq!(client.execute(earlier, &[]).unwrap(), 1, "a fault is remembered");
    }
    // An action began meanwhile: nobody will know whether the problem would have lasted.
    let void = "SELECT count(*) FROM ruvector.healing_predictions WHERE scored_at IS NOT NULL AND lasted IS NULL AND brier IS NULL";
    assert!(number(&mut client, void) >= 1);
    let level = "SELECT mode, reason, why_not FROM ruvector_healing_strategies('docs') WHERE strategy = 'tune_search_effort'";
    let mode = |client: &mut Client| -> String { client.query_one(level, &[]).unwrap().get(0) };
    assert_eq!(mode(&mut client), "observe", "a human has set it");
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"mode": "approve"}', 'docs')"#).unwrap();
    assert_eq!(mode(&mut client), "approve");
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "auto", "max_auto_heal_impact": 0.4}', 'docs')"#,
        )
        .unwrap();
    assert_eq!(mode(&mut client), "approve", "two faults in a row");
    let moves = "SELECT concat_ws(' ', strategy, from_level, to_level, reason, moved_by) FROM ruvector.healing_autonomy_moves ORDER BY id";
    let told = |client: &mut Client| -> Vec<String> {
        client.query(moves, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(
        told(&mut client),
        ["tune_search_effort auto approve it failed several times in a row ruvector"]
    );
    // It asks now, although the collection's mode is auto.
    let waits = wait_for("a plan that asks", HEALING, || {
        let query = "SELECT id, approval FROM ruvector.actions WHERE status = 'awaiting_approval'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(waits.get::<_, &str>(1), "autonomy");
    // Switched off, so that it does not go on to fail while its level is set.
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"enabled": false}', 'docs')"#).unwrap();
    client.execute("SELECT ruvector_healing_abort($1)", &[&waits.get::<_, i64>(0)]).unwrap();

    let set = "SELECT ruvector_healing_autonomy('docs', 'tune_search_effort', 'auto')";
    assert_eq!(client.query_one(set, &[]).unwrap().get::<_, &str>(0), "approve", "the level that it had");
    assert_eq!(mode(&mut client), "auto");
    let said_by: String = client.query_one("SELECT session_user::text", &[]).unwrap().get(0);
    assert_eq!(told(&mut client)[1], format!("tune_search_effort approve auto set by a human {said_by}"));
    // Both moves are signed, with what makes them and what takes them back.
    let moves = signed(&mut client, "autonomy_moved");
    let set =
        |level: &str| format!("SELECT ruvector_healing_autonomy('docs', 'tune_search_effort', '{level}')");
    assert_eq!(moves.len(), 2, "{moves:?}");
    assert!(
        moves[0].starts_with(&format!("ruvector | {} | {} | ", set("approve"), set("auto"))),
        "{moves:?}"
    );
    assert!(moves[0].contains("it failed several times in a row"), "{moves:?}");
    assert!(
        moves[1].starts_with(&format!("{said_by} | {} | {} | ", set("auto"), set("approve"))),
        "{moves:?}"
    );

    let check = |client: &mut Client, arguments: &str, code: &str, hint: &str| {
        let (sqlstate, said) = refused(client, &format!("SELECT ruvector_healing_autonomy({arguments})"));
        assert_eq!(sqlstate, code, "{arguments}");
        assert!(said.contains(hint), "{arguments}: {said}");
    };
    check(&mut client, "'docs', 'reboot', 'auto'", "42704", "There are: compact_indexes");
    check(&mut client, "'docs', NULL, 'auto'", "42704", "There are: compact_indexes");
    check(&mut client, "'docs', 'tune_search_effort', 'always'", "22023", "observe, approve, auto");
    check(&mut client, "'docs', 'tune_search_effort', NULL", "22023", "observe, approve, auto");
    check(&mut client, "'nothing', 'tune_search_effort', 'auto'", "42704", "Registered: docs");
    assert_eq!(told(&mut client).len(), 2, "nothing was half done");
}

#[test]
fn what_clears_by_itself_is_watched_and_predictions_are_scored() {
    let (_cluster, mut client) = start();
    spoiled(&mut client, 11_000, r#"{"mode": "observe"}"#);
    wait_for("a prediction", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.healing_predictions WHERE scored_at IS NULL", &[]).unwrap()
    })
    .unwrap();
    let open = "SELECT count(*) FROM ruvector.no_action_watches WHERE jsonb_array_length(open) = 1";
    assert_eq!(number(&mut client, open), 1);
    // Somebody else cures it: for the healer it cleared by itself.
    client
        .batch_execute(
            "BEGIN; DROP INDEX docs_i; CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 50);
             COMMIT; SELECT ruvector_search_effort_set('docs_i', 50)",
        )
        .unwrap();
    let period = wait_for("a period without an action", PATIENCE, || {
        let query = "SELECT problem_class, index_kind, seconds > 0, cleared, randomised FROM ruvector.no_action_periods WHERE cleared";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!((period.get::<_, &str>(0), period.get::<_, &str>(1)), ("CentroidSkew", "ivfflat"));
    assert!(period.get::<_, bool>(2) && period.get::<_, bool>(3) && !period.get::<_, bool>(4));
    let shown = "SELECT predictions, brier, why_not FROM ruvector_healing_strategies('docs') WHERE strategy = 'tune_search_effort'";
    let row = client.query_one(shown, &[]).unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, f64>(1)),
        (1, 0.25),
        "one half was predicted, and it did not last"
    );
}

#[test]
fn every_strategy_is_listed_with_what_it_treats_and_why_it_would_not_act() {
    let (_cluster, mut client) = start();
    let all = "SELECT strategy, treats, impact, reversible, mode, weight, posterior::text, why_not, collection_name, reason
                 FROM ruvector_healing_strategies() ORDER BY strategy";
    let rows = client.query(all, &[]).unwrap();
    let names: Vec<String> = client.query_one("SELECT ruvector._strategies()", &[]).unwrap().get(0);
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), names);
    for row in &rows {
        assert!(!row.get::<_, Vec<String>>(1).is_empty());
        assert!((0.0..=1.0).contains(&row.get::<_, f64>(2)));
        assert_eq!((row.get::<_, f64>(5), row.get::<_, &str>(6)), (1.0, "[]"));
        assert_eq!(row.get::<_, Option<&str>>(7), Some("no collection is registered"));
        assert_eq!(row.get::<_, Option<&str>>(8), None);
    }
    let (code, hint) = refused(&mut client, "SELECT * FROM ruvector_healing_strategies('x')");
    assert_eq!((code.as_str(), hint.contains("None is registered yet")), ("42704", true));

    spoiled(&mut client, 11_000, r#"{"mode": "observe"}"#);
    let reason = |client: &mut Client, strategy: &str| -> Option<String> {
        let query = "SELECT reason FROM ruvector_healing_strategies() WHERE strategy = $1 AND collection_name = 'docs'";
        client.query_one(query, &[&strategy]).unwrap().get(0)
    };
    wait_for("the reasons", PATIENCE, || {
        (reason(&mut client, "tune_search_effort").as_deref() == Some("observe_mode")
            && reason(&mut client, "repair_invalid_index").as_deref() == Some("nothing_to_do"))
        .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"enabled": false}')"#).unwrap();
    assert_eq!(reason(&mut client, "compact_indexes").as_deref(), Some("disabled"));
    // Settings of learning are checked as all others are.
    for (setting, hint) in [
        (r#"{"selection": "best"}"#, "\"thompson\", \"greedy\""),
        (r#"{"control_delay_share": 0.9}"#, "from 0 to 0.5"),
        (r#"{"control_delay_seconds": 0}"#, "from 1 to 3600"),
        (r#"{"autonomy_ladder": 1}"#, "true or false"),
        (r#"{"replay_days": 0}"#, "from 1 to 365"),
    ] {
        let (code, said) = refused(&mut client, &format!("SELECT ruvector_healing_configure('{setting}')"));
        assert_eq!(code, "22023", "{setting}");
        assert!(said.contains(hint), "{setting}: {said}");
    }
}

#[test]
fn the_problem_of_one_tenants_partition_names_the_tenant() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, tenant text, e vector(3)) PARTITION BY LIST (tenant);
             CREATE TABLE docs_a PARTITION OF docs FOR VALUES IN ('O''Hara, Ltd');
             CREATE TABLE docs_b PARTITION OF docs FOR VALUES IN ('b', 'c');
             INSERT INTO docs SELECT i, CASE WHEN i % 2 = 0 THEN 'b' ELSE 'O''Hara, Ltd' END, ARRAY[i, i % 7, 1] FROM generate_series(1, 400) i;
             CREATE INDEX docs_a_i ON docs_a USING hnsw (e vector_l2_ops);
             CREATE INDEX docs_b_i ON docs_b USING hnsw (e vector_l2_ops);
             UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('docs_a_i'::regclass, 'docs_b_i'::regclass);
             ANALYZE docs;
             SELECT ruvector_healing_configure('{\"verify_window_seconds\": 1, \"min_healing_interval_seconds\": 0}');
             SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    let tenants = wait_for("both outcomes", HEALING, || {
        let query = "SELECT problem_details #>> '{indexes,0}', tenant_id FROM ruvector.healing_outcomes WHERE success ORDER BY 1";
        let rows = client.query(query, &[]).unwrap();
        (rows.len() == 2).then_some(rows)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(tenants[0].get::<_, Option<&str>>(1), Some("O'Hara, Ltd"));
    assert_eq!(tenants[1].get::<_, Option<&str>>(1), None, "two tenants share it");
    let filled = "SELECT count(*) FROM ruvector.healing_outcomes
                   WHERE witness_edges IS NOT NULL AND system_metrics IS NOT NULL AND duration_ms >= 0 AND final_lambda IS NOT NULL
                     AND completed_at >= started_at AND index_kind = 'hnsw'";
    assert_eq!(number(&mut client, filled), 2);
}

#[test]
fn a_replay_tells_what_other_settings_would_have_done() {
    let (_cluster, mut client) = start();
    spoiled(&mut client, 11_000, r#"{"mode": "observe"}"#);
    let recorded = |client: &mut Client| -> Vec<healing::replay::Recorded> {
        client
            .query("SELECT r FROM ruvector_recorded(now() - interval '1 hour', collection => 'docs') r", &[])
            .unwrap()
            .iter()
            .map(|row| serde_json::from_value(row.get(0)).unwrap())
            .collect()
    };
    let observe = |replay: &healing::replay::Replay| replay.recorded.refusals.contains_key("observe_mode");
    let same = wait_for("a recorded decision", PATIENCE, || {
        let same = healing::replay::replay(&recorded(&mut client), &serde_json::json!({})).unwrap();
        observe(&same).then_some(same)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!((same.reproduced, same.differences.len()), (same.snapshots, 0), "{same:?}");

    let auto = healing::replay::replay(&recorded(&mut client), &serde_json::json!({"mode": "auto"})).unwrap();
    let first = &auto.differences[0];
    assert_eq!(first.recorded, healing::replay::Outcome::Refuse("observe_mode".to_owned()));
    assert_eq!(first.other, healing::replay::Outcome::Act("tune_search_effort".to_owned()));
    assert!(first.certain && first.expected.is_some());
    let actions = "SELECT count(*) FROM ruvector.actions";
    assert_eq!(number(&mut client, actions), 0, "a replay does nothing");

    let (code, hint) = refused(&mut client, "SELECT ruvector_recorded(now(), collection => 'x')");
    assert_eq!((code.as_str(), hint.contains("Registered: docs")), ("42704", true));
    let none = "SELECT count(*) FROM ruvector_recorded(now() + interval '1 day')";
    assert_eq!(number(&mut client, none), 0);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ruvector_recorded(NULL)"), 0);

    // What a human took back is recorded as no gain of what was taken back, and a plan that was refused from then on.
    client
        .batch_execute(
            "WITH made AS (
                 INSERT INTO ruvector.actions (collection_id, collection_name, relation, request, status, strategy, lesson, problem_class, problem,
                        plan, decided_at, started_at, ended_at)
                 SELECT c.id, c.name, c.relation, x.request, x.status, x.strategy, x.lesson, 'CentroidSkew',
                        '{\"component\": {\"lambda\": 0.1, \"nodes\": []}}', '{}', now() - interval '9 seconds', x.started_at, now()
                   FROM ruvector.collections c,
                        (VALUES ('{}'::jsonb, 'rolled_back', 'rebuild_centroids', 'helped', now() - interval '8 seconds'),
                                ('{}', 'aborted', 'compact_indexes', 'no_gain', NULL)) x (request, status, strategy, lesson, started_at)
                 RETURNING *)
             INSERT INTO ruvector.actions (collection_id, collection_name, relation, request, status, strategy, lesson, problem_class, problem,
                    plan, decided_at, started_at, ended_at)
             SELECT collection_id, collection_name, relation, jsonb_build_object('kind', 'rollback', 'of', id), 'succeeded', 'rollback', 'nothing',
                    problem_class, problem, plan, decided_at, ended_at, ended_at
               FROM made WHERE status = 'rolled_back'",
        )
        .unwrap();
    let mut attempts: Vec<_> = recorded(&mut client)
        .into_iter()
        .filter_map(|row| match row {
            healing::replay::Recorded::Action { attempt, .. } => Some((
                attempt.strategy.clone(),
                attempt.lesson(),
                attempt.ended_at == Some(attempt.started_at),
            )),
            _ => None,
        })
        .collect();
    attempts.sort();
    let expected = [
        ("compact_indexes", Lesson::NoGain, true),
        ("rebuild_centroids", Lesson::Helped, false),
        ("rebuild_centroids", Lesson::NoGain, true),
    ];
    assert_eq!(attempts, expected.map(|(strategy, lesson, at_once)| (strategy.to_owned(), lesson, at_once)));
}
