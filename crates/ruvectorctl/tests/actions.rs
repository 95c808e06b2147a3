//! What is shown of a weak collection, and what a human decides about it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::io::{Read, Write};

use cluster::wait_for;
use common::{PATIENCE, against, run, said, spoil, start};

#[test]
fn a_weak_collection_is_shown_and_explained() {
    let (cluster, mut client) = start();
    let empty = run(&cluster, &["status"]).code(0);
    assert!(empty.out.contains("No collection is registered"), "{}", empty.out);
    spoil(&mut client, r#"{"mode": "observe"}"#);

    let status = run(&cluster, &["status", "--json"]).code(0).json();
    assert_eq!(status["server"]["enabled"], true);
    let docs = &status["collections"][0];
    assert_eq!(docs["collection"], "docs");
    assert!(docs["lambda_cut"].as_f64().is_some_and(|lambda| lambda < 0.7), "{docs}");
    let text = run(&cluster, &["status"]).code(0).out;
    assert!(text.contains("docs") && text.contains("observe"), "{text}");

    let explained = run(&cluster, &["explain", "docs", "--json"]).code(0).json();
    assert!(explained["explanation"].as_str().is_some_and(|text| text.contains("docs")), "{explained}");
    assert!(!explained["witness"].as_array().unwrap().is_empty());
    assert!(explained["recall"][0]["recall"].as_f64().is_some_and(|recall| recall < 0.9), "{explained}");
    let text = run(&cluster, &["explain", "docs"]).code(0).out;
    assert!(text.contains("minimum cut") && text.contains("docs_i"), "{text}");
    let absent = run(&cluster, &["explain", "absent"]).code(4);
    assert!(absent.err.contains("42704") && absent.err.contains("hint: Registered: docs"), "{}", absent.err);
    let error: serde_json::Value =
        serde_json::from_str(&run(&cluster, &["explain", "absent", "--json"]).code(4).err).unwrap();
    assert_eq!(error["error"]["sqlstate"], "42704");

    assert!(run(&cluster, &["history"]).code(0).out.contains("Nothing was healed"));
    let plan = run(&cluster, &["execute", "docs", "rebuild_centroids", "--dry-run"]).code(0).out;
    assert!(plan.contains("lists = "), "{plan}");
    let actions: i64 = client.query_one("SELECT count(*) FROM ruvector.actions", &[]).unwrap().get(0);
    assert_eq!(actions, 0, "a dry run leaves nothing");
    let wrong = run(&cluster, &["execute", "docs", "pray"]).code(4);
    assert!(wrong.err.contains("There are:"), "{}", wrong.err);
    run(&cluster, &["execute", "docs", "rebuild_centroids", "--params", "[1]"]).code(2);

    let done = run(&cluster, &["execute", "docs", "rebuild_centroids", "--wait"]).code(0);
    assert!(done.out.contains("rebuild_centroids"), "{}", done.out);
    let history = run(&cluster, &["history", "docs", "--json"]).code(0).json();
    assert_eq!(
        (&history[0]["strategy"], &history[0]["verified"]),
        (&"rebuild_centroids".into(), &true.into())
    );
    assert!(run(&cluster, &["history"]).code(0).out.contains("succeeded"));
    let story = history[0]["story"].as_str().unwrap();
    assert!(run(&cluster, &["history", "--story"]).code(0).out.contains(story));
    assert!(run(&cluster, &["history", "other"]).code(0).out.contains("Nothing was healed"));
    // A healthy collection has nothing to heal, which is well.
    let triggered = run(&cluster, &["trigger", "docs", "--wait", "--json"]).code(0);
    assert_eq!(triggered.json()["status"], "noop");
}

#[test]
fn a_plan_is_approved_and_another_aborted() {
    let (cluster, mut client) = start();
    // What holds up every build.
    let mut writer = cluster.connect("app").unwrap();
    spoil(&mut client, r#"{"mode": "approve"}"#);
    let action: i64 = wait_for("a plan", PATIENCE, || {
        client.query_opt("SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval'", &[]).unwrap()
    })
    .unwrap()
    .get(0);
    let number = action.to_string();
    let status = run(&cluster, &["status"]).code(0).out;
    assert!(status.contains(&format!("ruvectorctl approve {number}")), "{status}");

    writer.batch_execute("BEGIN; DELETE FROM docs WHERE id = 0").unwrap();
    let approved = run(&cluster, &["approve", &number, "--json"]).code(0).json();
    assert_eq!(approved["action_id"], action);
    assert!(run(&cluster, &["approve", &number]).code(1).err.contains("nothing waits for approval"));
    wait_for("the build to wait", PATIENCE, || {
        let query = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    run(&cluster, &["abort", &number]).code(0);
    writer.batch_execute("ROLLBACK").unwrap();
    wait_for("its end", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'aborted'", &[&action])
            .unwrap()
    })
    .unwrap();
    assert!(run(&cluster, &["abort", &number]).code(1).err.contains("is aborted"));
    run(&cluster, &["abort", "999"]).code(4);
}

/// A terminal of its own, as a person has it: `script` lends one and `q` ends the view.
#[test]
fn the_live_view_is_drawn_in_a_terminal_and_outlives_the_extension() {
    let (cluster, mut client) = start();
    spoil(&mut client, r#"{"mode": "observe"}"#);
    assert_eq!(run(&cluster, &["watch"]).code, 6, "there is no terminal");
    let watch = against(&cluster, &["watch", "docs"]);
    let words: Vec<String> = [watch.get_program()]
        .into_iter()
        .chain(watch.get_args())
        .map(|w| format!("'{}'", w.to_str().unwrap()))
        .collect();
    let mut script = std::process::Command::new("script");
    script
        .args([
            "-qefc",
            &format!("stty rows 30 cols 120; exec timeout --foreground 120 {}", words.join(" ")),
            "/dev/null",
        ])
        .env("TERM", "xterm-256color")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut child = script.spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut picture = Vec::new();
    let mut read_until = |words: &str| {
        let mut some = [0; 4096];
        while !String::from_utf8_lossy(&picture).contains(words) {
            let count = screen.read(&mut some).unwrap();
            assert!(count > 0, "it ended before it showed {words}: {}", String::from_utf8_lossy(&picture));
            picture.extend_from_slice(&some[..count]);
        }
    };
    read_until("witness");
    read_until("docs");
    // What goes while it is watched is said.
    client.batch_execute("DROP EXTENSION ruvector").unwrap();
    read_until("database app has no extension ruvector");
    keys.write_all(b"q").unwrap();
    // Its last words are read, so that it can say them.
    std::io::copy(&mut screen, &mut std::io::sink()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_manual_and_completions_name_every_subcommand() {
    let folder = std::env::temp_dir().join(format!("ruvectorctl-man-{}", std::process::id()));
    let mut man = common::program();
    man.arg("man").arg("--dir").arg(&folder);
    said(man).code(0);
    let mut completions = common::program();
    completions.args(["completions", "bash"]);
    let completions = said(completions).code(0).out;
    for subcommand in [
        "discover",
        "doctor",
        "status",
        "watch",
        "explain",
        "history",
        "execute",
        "approve",
        "abort",
        "serve",
        "collection",
    ] {
        assert!(folder.join(format!("ruvectorctl-{subcommand}.1")).is_file(), "{subcommand}");
        assert!(completions.contains(subcommand), "{subcommand}");
    }
    let nested = std::fs::read_to_string(folder.join("ruvectorctl-collection-register.1")).unwrap();
    assert!(nested.contains("username") && nested.contains("settings"), "{nested}");
    let mut page = common::program();
    page.arg("man");
    let page = said(page).code(0).out;
    assert!(page.contains("Exit codes") && page.contains("no connection to the server"), "{page}");
    std::fs::remove_dir_all(&folder).unwrap();
}
