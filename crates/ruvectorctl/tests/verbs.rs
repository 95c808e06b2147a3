//! The other verbs of a human: reject, rollback, pause, plan, release, feedback; the strategies and the audit log.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use cluster::wait_for;
use common::{PATIENCE, run, said, spoil, start};
use serde_json::Value;

#[test]
fn a_plan_is_shown_and_rejected_and_nothing_is_done_in_a_pause() {
    let (cluster, mut client) = start();
    spoil(&mut client, r#"{"mode": "approve"}"#);
    let action: i64 = wait_for("a plan", PATIENCE, || {
        client.query_opt("SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval'", &[]).unwrap()
    })
    .unwrap()
    .get(0);
    let number = action.to_string();
    let explained = run(&cluster, &["explain", &number]).code(0).out;
    assert!(explained.contains("rebuild_centroids"), "{explained}");
    let rejected = run(&cluster, &["reject", &number, "--reason", "not today", "--json"]).code(0).json();
    assert_eq!(rejected["status"], "aborted");
    assert!(rejected["detail"].as_str().is_some_and(|detail| detail.contains("not today")), "{rejected}");
    assert!(run(&cluster, &["reject", &number]).code(1).err.contains("nothing waits"));

    let paused = run(&cluster, &["pause", "--for", "1 hour", "docs", "--reason", "release"]).code(0).out;
    assert!(paused.contains("docs pauses until"), "{paused}");
    let refused = run(&cluster, &["rollback", "docs"]).code(4);
    assert!(refused.err.contains("SQLSTATE 55000"), "{}", refused.err);
    run(&cluster, &["pause", "--for", "-1 hour"]).code(4);
    run(&cluster, &["resume", "docs"]).code(0);
    run(&cluster, &["resume", "docs"]).code(1);
    let plan = run(&cluster, &["plan", "docs", "--json"]).code(0).json();
    assert!(plan[0]["runs"].is_string(), "{plan}");
    assert!(!run(&cluster, &["plan", "docs"]).code(0).out.is_empty());
}

#[test]
fn what_was_healed_is_judged_taken_back_and_the_table_released() {
    let (cluster, mut client) = start();
    spoil(&mut client, r#"{"mode": "observe"}"#);
    let refused = run(&cluster, &["rollback", "docs"]).code(4);
    assert!(refused.err.contains("no action"), "{}", refused.err);
    run(&cluster, &["execute", "docs", "tune_search_effort", "--wait"]).code(0);
    let id: i64 = client.query_one("SELECT action_id FROM ruvector.healing_outcomes", &[]).unwrap().get(0);
    run(&cluster, &["feedback", &id.to_string(), "0.5", "--comment", "helped a little"]).code(0);
    let score: f32 =
        client.query_one("SELECT feedback_score FROM ruvector.healing_outcomes", &[]).unwrap().get(0);
    assert!((score - 0.5).abs() < 1e-6);
    run(&cluster, &["feedback", &id.to_string(), "2"]).code(4);
    run(&cluster, &["feedback", "999", "1"]).code(1);
    let strategies = run(&cluster, &["strategies", "--json"]).code(0).json();
    let names: Vec<&str> = strategies["strategies"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["strategy"].as_str())
        .collect();
    assert!(names.contains(&"rebuild_centroids"), "{names:?}");
    assert!(run(&cluster, &["strategies", "docs"]).code(0).out.contains("Last 30 days"));
    run(&cluster, &["rollback", "docs", "--wait"]).code(0);
    let efforts = "SELECT count(*) FROM ruvector.search_effort";
    assert_eq!(client.query_one(efforts, &[]).unwrap().get::<_, i64>(0), 0, "the effort was taken back");

    let nothing = run(&cluster, &["release", "--print"]).code(0).out;
    assert!(nothing.contains("Nothing of ruvector is left"), "{nothing}");
    client
        .batch_execute("CREATE INDEX _ruvector_trial_1 ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 10)")
        .unwrap();
    let left = run(&cluster, &["release", "--print"]).code(0).out;
    assert!(left.contains("DROP INDEX CONCURRENTLY public._ruvector_trial_1"), "{left}");
    let released = run(&cluster, &["release", "docs", "--json"]).code(0).json();
    assert!(released["left_for_you"].as_array().is_some_and(|left| left.len() == 1), "{released}");
    assert!(run(&cluster, &["status"]).code(0).out.contains("No collection is registered"));
}

#[test]
fn the_audit_log_is_verified_on_the_server_and_in_a_dump() {
    let (cluster, mut client) = start();
    client.batch_execute("SELECT ruvector_healing_configure('{\"max_attempts_per_window\": 5}')").unwrap();
    wait_for("signed rows", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector.audit_log HAVING count(*) >= 2 AND NOT EXISTS (SELECT FROM ruvector.audit_pending)", &[])
            .unwrap()
    })
    .unwrap();
    let whole = run(&cluster, &["audit", "verify", "--json"]).code(0).json();
    assert_eq!(whole["whole"], true);
    let folder = std::env::temp_dir().join(format!("ruvectorctl-audit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (head, dump) = (folder.join("head"), folder.join("dump"));
    std::fs::write(&head, run(&cluster, &["audit", "head"]).code(0).out).unwrap();
    let written = |folder: &std::path::Path| {
        let mut pg_dump = cluster.client_command("pg_dump", "app");
        pg_dump.args(["--data-only", "-t", "ruvector.audit_log", "-f"]).arg(folder);
        said(pg_dump).code(0);
    };
    let offline = |dump: &std::path::Path, head: &std::path::Path| {
        let mut program = common::program();
        program.args(["audit", "verify", "--json", "--dump"]).arg(dump).arg("--head").arg(head);
        said(program)
    };
    written(&dump);
    let of_dump = offline(&dump, &head).code(0).json();
    for field in ["sound_rows", "head_seq", "head_hash", "whole"] {
        assert_eq!(of_dump[field], whole[field], "{field}");
    }

    // A superuser edits: the log says where.
    client
        .batch_execute(
            "ALTER TABLE ruvector.audit_log DISABLE TRIGGER ALL; UPDATE ruvector.audit_log SET actor = 'nobody' WHERE seq = 2;
             ALTER TABLE ruvector.audit_log ENABLE TRIGGER ALL",
        )
        .unwrap();
    let broken = run(&cluster, &["audit", "verify", "--json"]).code(1);
    assert_eq!(broken.json()["first_bad"], 2);
    written(&dump);
    assert_eq!(offline(&dump, &head).code(1).json()["first_bad"], 2);
    // Rows cut off at the end are seen by the head alone.
    let text = std::fs::read_to_string(&dump).unwrap();
    let begin = text.find("COPY ruvector.audit_log").unwrap();
    let short: String =
        text[begin..].lines().take(2).chain(["\\."]).map(|line| format!("{line}\n")).collect();
    std::fs::write(&dump, short).unwrap();
    let cut = offline(&dump, &head).code(1);
    assert!(cut.json()["fault"].is_string(), "{}", cut.out);
    std::fs::write(&dump, "nothing\n").unwrap();
    let empty: Value = serde_json::from_str(&offline(&dump, &head).code(6).err).unwrap();
    assert!(empty["error"]["message"].as_str().unwrap().contains("no audit log"), "{empty}");
    std::fs::remove_dir_all(&folder).unwrap();
}
