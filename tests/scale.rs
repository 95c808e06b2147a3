//! Read replicas are asked for through a program that the server starts without a shell. (What the program does in Kubernetes
//! is tested in `crates/scaler`.)

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::faults::Readers;
use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::{said, version};

const PATIENCE: Duration = Duration::from_secs(180);

/// A hook as a plain host would have it: its state is the number in a file.
const HOOK: &str = r#"#!/bin/bash
cd "$(dirname "$0")" || exit 1
printf '%s|' "$@" >>calls; echo >>calls
count=$(cat replicas)
case $1 in
get) echo "{\"replicas\": $count, \"ready\": $count}" ;;
set) if [ "$count" != "$4" ]; then echo '{"error": "conflict", "message": "another number"}'; exit 1; fi
     if [ -e broken ]; then echo '{"error": "forbidden", "message": "not allowed"}'; exit 1; fi
     echo "$3" >replicas; echo "{\"replicas\": $3}" ;;
wait) if [ -e never ]; then echo '{"ready": 1}'; else echo "{\"ready\": $3}"; fi ;;
esac
"#;

struct Host {
    cluster: Cluster,
    directory: PathBuf,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Host {
    fn start(name: &str) -> (Host, Client, Readers) {
        let directory = std::env::temp_dir().join(format!("ruvector-scale-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let hook = directory.join("hook");
        fs::write(&hook, HOOK).unwrap();
        fs::write(directory.join("replicas"), "2\n").unwrap();
        fs::write(directory.join("calls"), "").unwrap();
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(&directory, 0o777);
        open(&hook, 0o755);
        open(&directory.join("replicas"), 0o666);
        open(&directory.join("calls"), 0o666);
        let cluster = Cluster::builder(version())
            .preload(true)
            .setting("ruvector.scale_command", hook.display())
            .database("app")
            .start()
            .unwrap();
        let mut client = cluster.connect("app").unwrap();
        client
            .batch_execute(
                r#"CREATE EXTENSION ruvector CASCADE;
                   SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "verify_window_seconds": 8, "mode": "observe",
                                                       "max_replicas": 3, "scale_target": "statefulset/pg-read"}')"#,
            )
            .unwrap();
        cluster::faults::partitioned(&mut client, "docs", 8, 2000).unwrap();
        client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
        let readers = Readers::hot(&cluster, "docs", 8, 5, 6).unwrap();
        wait_for("a hot partition", PATIENCE, || {
            let query =
                "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%HotspotCongestion%'";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
        (Host { cluster, directory }, client, readers)
    }

    fn replicas(&self) -> String {
        fs::read_to_string(self.directory.join("replicas")).unwrap().trim().to_owned()
    }

    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.directory.join("calls")).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Asks for the strategy and approves it, which its default wants.
fn scale(client: &mut Client) -> i64 {
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'scale_replicas')", &[])
        .unwrap()
        .get(0);
    wait_for("the question to a human", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'awaiting_approval'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)));
    client.execute("SELECT ruvector_healing_approve($1)", &[&action]).unwrap();
    action
}

fn ended(client: &mut Client, action: i64) -> String {
    wait_for("the end of the action", PATIENCE, || {
        let query = "SELECT status FROM ruvector.actions WHERE id = $1 AND ended_at IS NOT NULL";
        client.query_opt(query, &[&action]).unwrap().map(|row| row.get(0))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(client)))
}

#[test]
fn replicas_are_asked_for_and_kept_when_reads_leave_this_server() {
    let (host, mut client, readers) = Host::start("kept");
    let action = scale(&mut client);
    wait_for("the new number", PATIENCE, || (host.replicas() == "3").then_some(())).unwrap();
    // The new replica answers now.
    drop(readers);
    assert_eq!(ended(&mut client, action), "succeeded", "{}", said(&mut client));
    assert_eq!(
        host.calls(),
        ["get|statefulset/pg-read|", "set|statefulset/pg-read|3|2|", "wait|statefulset/pg-read|3|300|"]
    );
    let row = client
        .query_one("SELECT strategy_params ->> 'previous_replicas', strategy_params ->> 'new_replicas' FROM ruvector.healing_outcomes", &[])
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), (Some("2"), Some("3")));
    // At the limit there is nothing to do.
    let _readers = Readers::hot(&host.cluster, "docs", 8, 5, 6).unwrap();
    wait_for("a hot partition", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE problems::text LIKE '%HotspotCongestion%'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let again = scale(&mut client);
    assert_eq!(ended(&mut client, again), "noop", "{}", said(&mut client));
    assert_eq!(host.replicas(), "3");
}

#[test]
fn what_did_not_help_is_taken_back() {
    let (host, mut client, _readers) = Host::start("back");
    let action = scale(&mut client);
    // More is read here than before: that a busy machine reads less is not to look like help.
    let _more = Readers::hot(&host.cluster, "docs", 8, 5, 6).unwrap();
    assert_eq!(ended(&mut client, action), "rolled_back", "{}", said(&mut client));
    assert_eq!(host.replicas(), "2");
    assert!(host.calls().contains(&"set|statefulset/pg-read|2|3|".to_owned()), "{:?}", host.calls());
}

#[test]
fn what_is_never_ready_is_taken_back_and_what_is_forbidden_changes_nothing() {
    let (host, mut client, _readers) = Host::start("never");
    fs::write(host.directory.join("never"), "").unwrap();
    let action = scale(&mut client);
    let status = ended(&mut client, action);
    assert!(status == "failed" || status == "rolled_back", "{status}: {}", said(&mut client));
    assert_eq!(host.replicas(), "2");
    fs::write(host.directory.join("broken"), "").unwrap();
    client.batch_execute("SELECT ruvector_healing_reset('docs')").unwrap();
    let action = scale(&mut client);
    assert_eq!(ended(&mut client, action), "failed");
    let error: String =
        client.query_one("SELECT error FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    assert!(error.contains("forbidden"), "{error}");
    assert_eq!(host.replicas(), "2");
}

#[test]
fn without_a_command_or_a_limit_nothing_is_scaled() {
    let (host, mut client, _readers) = Host::start("none");
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"max_replicas": null}')"#).unwrap();
    let refused = |client: &mut Client| -> (String, String) {
        let action: i64 = client
            .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'scale_replicas')", &[])
            .unwrap()
            .get(0);
        assert_eq!(ended(client, action), "refused");
        let row = client
            .query_one("SELECT reason, detail FROM ruvector.actions WHERE id = $1", &[&action])
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert!(refused(&mut client).1.contains("max_replicas"));
    client.batch_execute("ALTER SYSTEM SET ruvector.scale_command = ''").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_for("the reload to be seen", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector.integrity WHERE snapshot ->> 'orchestrator' IS NULL", &[])
            .unwrap()
    })
    .unwrap();
    assert_eq!(refused(&mut client).0, "no_orchestrator");
    assert_eq!(host.calls(), Vec::<String>::new());
}

#[test]
fn a_copy_of_the_server_asks_for_nothing_until_somebody_says_that_it_is_the_one() {
    let (host, mut client, _readers) = Host::start("copied");
    // As it is where the data directory was copied: it carries the identity of the server that it is a copy of.
    client
        .batch_execute(r#"UPDATE ruvector.collections SET identity = identity || '{"machine": "another"}'"#)
        .unwrap();
    wait_for("the change to be seen", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE snapshot #>> '{around,identity_changed}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let action: i64 = client
        .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'scale_replicas')", &[])
        .unwrap()
        .get(0);
    assert_eq!(ended(&mut client, action), "refused", "{}", said(&mut client));
    let reason: String =
        client.query_one("SELECT reason FROM ruvector.actions WHERE id = $1", &[&action]).unwrap().get(0);
    assert_eq!(reason, "identity_changed");
    assert_eq!((host.calls(), host.replicas()), (Vec::<String>::new(), "2".to_owned()));
    client.batch_execute("SELECT ruvector_identity_confirm()").unwrap();
    wait_for("the confirmation to be seen", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity WHERE snapshot #>> '{around,identity_changed}' IS NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    let action = scale(&mut client);
    // Whether it helped is another test's.
    let status = ended(&mut client, action);
    assert!(status == "rolled_back" || status == "succeeded", "{status}: {}", said(&mut client));
    assert!(host.calls().contains(&"set|statefulset/pg-read|3|2|".to_owned()), "{:?}", host.calls());
}

#[test]
fn what_the_program_leaves_running_is_not_waited_for() {
    let (host, mut client, _readers) = Host::start("behind");
    let hook = host.directory.join("hook");
    // It keeps the answer's pipe open.
    let leaves = HOOK.replace("set) if", "set) sleep 600 & if");
    assert_ne!(leaves, HOOK);
    fs::write(&hook, leaves).unwrap();
    let action = scale(&mut client);
    wait_for("the number after it was set", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.action_steps WHERE action_id = $1 AND step ->> 'kind' = 'scale_replicas' AND state = 'done'";
        client.query_opt(query, &[&action]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    assert_eq!(host.replicas(), "3");
    ended(&mut client, action);
}

#[test]
fn the_very_number_that_somebody_else_has_asked_for_meanwhile_is_theirs() {
    let (host, mut client, _readers) = Host::start("theirs");
    // Between the question and the request a human scales to three.
    let theirs = HOOK.replace("set) if", "set) echo 3 >replicas; count=3; if");
    assert_ne!(theirs, HOOK);
    fs::write(host.directory.join("hook"), theirs).unwrap();
    let action = scale(&mut client);
    let status = ended(&mut client, action);
    assert!(["failed", "rolled_back"].contains(&status.as_str()), "{status}\n{}", said(&mut client));
    assert_eq!(host.replicas(), "3", "{}", said(&mut client));
    assert_eq!(host.calls().iter().filter(|call| call.starts_with("set|")).count(), 1, "{:?}", host.calls());
}
