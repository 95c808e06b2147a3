//! What is older than the settings say is forgotten, and nothing else is.

use cluster::faults::partitioned;
use cluster::wait_for;
use tests::{PATIENCE, said, start};

/// Table, its column of time, and how an old row of it is made.
const KEPT: [(&str, &str, &str); 8] = [
    ("integrity_history", "sampled_at", "collection_id, state, problems) VALUES ($time, 1, 'normal', '{}'"),
    (
        "integrity_events",
        "happened_at",
        "collection_id, from_state, to_state, lambda_cut) VALUES ($time, 1, 'normal', 'stress', 0.5",
    ),
    ("healing_decisions", "decided_at", "collection_id) VALUES ($time, 1"),
    (
        "healing_predictions",
        "predicted_at",
        "collection_id, strategy, problem_class, index_kind, horizon_s, lasts, succeeds, scored_at)
         VALUES ($time, 1, 's', 'c', 'hnsw', 1, 0.5, 0.5, now()",
    ),
    (
        "healing_autonomy_moves",
        "moved_at",
        "collection_id, strategy, from_level, to_level, reason) VALUES ($time, 1, 's', 'auto', 'approve', 'r'",
    ),
    (
        "no_action_periods",
        "ended_at",
        "collection_id, problem_class, index_kind, seconds, cleared, randomised) VALUES ($time, 1, 'c', 'hnsw', 1, true, false",
    ),
    (
        "recorded_snapshots",
        "taken_at",
        "collection_id, settings, record, snapshot, decision) VALUES ($time, 1, '{}', '{}', '{}', '{}'",
    ),
    (
        "server_batches",
        "noted_at",
        "collection_id, action_id, leaf, keys, state) VALUES ($time, 1, 1, 1, '{}', 'done'",
    ),
];

#[test]
fn what_is_too_old_is_forgotten_and_nothing_else() {
    let (_cluster, mut client) = start();
    partitioned(&mut client, "docs", 1, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"history_days": 3, "events_days": 5, "replay_days": 3}');
               SELECT ruvector_collection_register('docs_0', 'docs_0', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    for (table, column, values) in KEPT {
        for days in [2, 6] {
            let time = format!("now() - interval '{days} days'");
            client
                .batch_execute(&format!(
                    "INSERT INTO ruvector.{table} ({column}, {})",
                    values.replace("$time", &time)
                ))
                .unwrap_or_else(|error| panic!("{table}: {error}"));
        }
    }
    // A decision that the other server has not carried out yet stays, however old.
    client
        .batch_execute(
            "INSERT INTO ruvector.server_batches (noted_at, collection_id, action_id, leaf, keys, state)
             VALUES (now() - interval '9 days', 7777, 1, 1, '{}', 'decided')",
        )
        .unwrap();
    // It looks once an hour, and when it begins.
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'ruvector healer%'",
        )
        .unwrap();
    let rows = |client: &mut postgres::Client, table: &str, column: &str, between: &str| -> i64 {
        let query =
            format!("SELECT count(*) FROM ruvector.{table} WHERE {column} < now() - interval {between}");
        client.query_one(query.as_str(), &[]).unwrap().get(0)
    };
    wait_for("the old rows to go", PATIENCE, || {
        KEPT.iter()
            .all(|(table, column, _)| {
                let finished =
                    if *table == "server_batches" { "'5 days' AND state = 'done'" } else { "'5 days'" };
                rows(&mut client, table, column, finished) == 0
            })
            .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    for (table, column, _) in KEPT {
        assert!(rows(&mut client, table, column, "'1 day'") >= 1, "{table} has lost what is young enough");
    }
    assert_eq!(
        rows(&mut client, "server_batches", "noted_at", "'8 days'"),
        1,
        "what is decided is not forgotten"
    );
}

#[test]
fn moved_rows_are_forgotten_once_no_rollback_can_ask_for_them() {
    let (_cluster, mut client) = start();
    partitioned(&mut client, "docs", 1, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"events_days": 5}');
               SELECT ruvector_collection_register('docs_0', 'docs_0', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    // The action: status, whether it has a way back, whether it left something, days since its end; whether the batch is undone
    // and the collection gone; whether it stays.
    let mut expected = vec![];
    for (status, reversible, unfinished, days, undone, gone, stays) in [
        ("succeeded", true, false, 6, false, false, true),
        ("succeeded", true, false, 6, true, false, false),
        ("succeeded", false, false, 6, false, false, false),
        ("succeeded", true, false, 6, false, true, false),
        ("succeeded", true, false, 2, false, true, true),
        ("failed", true, false, 6, false, false, false),
        ("rollback_failed", true, true, 6, false, false, true),
    ] {
        let collection = if gone { "7777" } else { "(SELECT id FROM ruvector.collections)" };
        let undone = if undone { "now() - interval '6 days'" } else { "NULL" };
        let insert = format!(
            r#"WITH action AS (
                   INSERT INTO ruvector.actions (collection_id, collection_name, relation, request, status, plan, unfinished, ended_at)
                   VALUES ({collection}, 'docs_0', 'docs_0'::regclass, '{{"kind": "trigger"}}', '{status}', '{{"reversible": {reversible}}}',
                           {unfinished}, now() - interval '{days} days') RETURNING id)
               INSERT INTO ruvector.moved_rows (action_id, step_no, move_no, from_id, to_id, keys, undone_at)
               SELECT id, 0, 0, 1, 2, '{{1}}', {undone} FROM action RETURNING action_id"#
        );
        let action: i64 = client.query_one(&insert, &[]).unwrap().get(0);
        if stays {
            expected.push(action);
        }
    }
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'ruvector healer%'",
        )
        .unwrap();
    let left = |client: &mut postgres::Client| -> Vec<i64> {
        let rows = client.query("SELECT action_id FROM ruvector.moved_rows ORDER BY 1", &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    wait_for("the others to go", PATIENCE, || (left(&mut client) == expected).then_some(())).unwrap_or_else(
        |error| panic!("{error}: {:?}, not {expected:?}\n{}", left(&mut client), said(&mut client)),
    );
}
