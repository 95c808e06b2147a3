//! The program against an API server over real HTTP and TLS, which answers as a Kubernetes API server does: resource
//! versions, 403, 404, 409, 429, slowness, connections that are cut.

#![allow(clippy::unwrap_used, reason = "a test may unwrap in its helpers too")]

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod fake;
use fake::{Server, TOKEN, Trouble};

const TARGET: &str = "deployment/ruvector-read";

#[test]
fn it_says_how_many_there_are() {
    let server = Server::start(2);
    assert_eq!(server.ask(&["get", TARGET]), (true, json!({"replicas": 2, "ready": 2})));
    assert_eq!(server.ask(&["get", &format!("data/{TARGET}")]).1["replicas"], 2);
}

#[test]
fn it_sets_what_is_expected_and_nothing_else() {
    let server = Server::start(2);
    assert_eq!(server.ask(&["set", TARGET, "3", "2"]), (true, json!({"replicas": 3})));
    assert_eq!(server.replicas(), 3);
    assert_eq!(server.error(&["set", TARGET, "3", "2"]), "conflict", "whoever asks now has not asked for it");
    assert_eq!(server.puts(), 1);
    assert_eq!(server.error(&["set", TARGET, "5", "2"]), "conflict");
    assert_eq!(server.replicas(), 3);
}

#[test]
fn somebody_else_who_scales_at_the_same_time_wins() {
    let server = Server::start(2);
    server.trouble("PUT", Trouble::SetBySomebody(7));
    assert_eq!(server.error(&["set", TARGET, "3", "2"]), "conflict");
    assert_eq!(server.replicas(), 7);
    // So does who asks for the very same number: it stays when ours is taken back.
    let server = Server::start(2);
    server.trouble("PUT", Trouble::SetBySomebody(3));
    assert_eq!(server.error(&["set", TARGET, "3", "2"]), "conflict");
    assert_eq!((server.replicas(), server.puts()), (3, 1));
    // What is written beside the number is no conflict.
    let server = Server::start(2);
    server.trouble("PUT", Trouble::TouchedBySomebody);
    assert!(server.ask(&["set", TARGET, "3", "2"]).0);
    assert_eq!((server.replicas(), server.puts()), (3, 2));
}

#[test]
fn what_is_forbidden_or_gone_is_said_at_once() {
    let server = Server::start(2);
    server.trouble("PUT", Trouble::Status(403, "Forbidden"));
    assert_eq!(server.error(&["set", TARGET, "3", "2"]), "forbidden");
    assert_eq!((server.replicas(), server.puts()), (2, 1));
    assert_eq!(server.error(&["get", "deployment/another"]), "not_found");
    server.with(|state| state.exists = false);
    assert_eq!(server.error(&["get", TARGET]), "not_found");
    assert_eq!(server.error(&["wait", TARGET, "3", "60"]), "not_found");
}

#[test]
fn a_busy_server_is_asked_again() {
    let server = Server::start(2);
    for method in ["GET", "GET", "PUT", "PUT"] {
        server.trouble(method, Trouble::Status(429, "TooManyRequests"));
    }
    assert!(server.ask(&["set", TARGET, "3", "2"]).0);
    assert_eq!(server.replicas(), 3);
}

#[test]
fn an_answer_that_is_lost_is_not_asked_for_twice() {
    let server = Server::start(2);
    server.trouble("PUT", Trouble::CutAfter);
    assert!(server.ask(&["set", TARGET, "3", "2"]).0);
    assert_eq!((server.replicas(), server.puts()), (3, 1));
    let server = Server::start(2);
    server
        .trouble("GET", Trouble::Cut)
        .trouble("PUT", Trouble::Cut)
        .trouble("GET", Trouble::Status(503, "ServiceUnavailable"));
    assert!(server.ask(&["set", TARGET, "3", "2"]).0);
    assert_eq!(server.replicas(), 3);
}

#[test]
fn a_slow_server_is_not_waited_for_beyond_its_time() {
    let server = Server::start(2);
    server.trouble("GET", Trouble::Slow(Duration::from_secs(15)));
    let began = Instant::now();
    assert!(server.ask(&["get", TARGET]).0, "the next request is answered");
    assert!(began.elapsed() >= Duration::from_secs(9), "the first one was given its time");
}

#[test]
fn a_change_that_comes_about_late_is_no_second_one() {
    let server = Server::start(2);
    server.trouble("PUT", Trouble::Late(Duration::from_secs(12)));
    assert!(server.ask(&["set", TARGET, "3", "2"]).0);
    assert_eq!((server.replicas(), server.puts()), (3, 2), "asked for again when nobody answered");
    // The first one comes upon another version by now, and changes nothing.
    server.with(|state| state.replicas = 5);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(server.replicas(), 5);
}

#[test]
fn a_server_that_stays_busy_is_given_up() {
    let server = Server::start(2);
    for _ in 0..100 {
        server.trouble("GET", Trouble::Status(429, "TooManyRequests"));
    }
    let began = Instant::now();
    assert_eq!(server.error(&["get", TARGET]), "throttled");
    assert!(began.elapsed() >= Duration::from_secs(20), "it was patient");
}

#[test]
fn a_stateful_set_is_scaled_as_a_deployment_is() {
    let server = Server::start(2);
    let target = "statefulset/ruvector-read";
    assert_eq!(server.error(&["get", target]), "not_found");
    server.with(|state| state.workload = "statefulsets");
    assert_eq!(server.ask(&["get", target]), (true, json!({"replicas": 2, "ready": 2})));
    assert!(server.ask(&["set", target, "3", "2"]).0);
    assert_eq!(server.ask(&["wait", target, "3", "60"]), (true, json!({"ready": 3})));
    assert_eq!(server.replicas(), 3);
}

#[test]
fn who_may_not_even_look_or_loses_it_in_the_wait_is_told_so() {
    let server = Server::start(2);
    server.trouble("GET", Trouble::Status(403, "Forbidden"));
    assert_eq!(server.error(&["set", TARGET, "3", "2"]), "forbidden");
    assert_eq!(server.puts(), 0);
    server.with(|state| (state.replicas, state.looks_until_ready) = (3, None));
    let state = server.state.clone();
    let removes = std::thread::spawn(move || {
        // Once it is waited for.
        while state.lock().unwrap().seen.len() < 3 {
            std::thread::sleep(Duration::from_millis(20));
        }
        state.lock().unwrap().exists = false;
    });
    assert_eq!(server.error(&["wait", TARGET, "3", "60"]), "not_found");
    removes.join().unwrap();
}

#[test]
fn it_waits_until_they_are_ready_and_says_when_they_are_not() {
    let server = Server::start(2);
    server.with(|state| {
        state.replicas = 4;
        state.generation = 2;
        state.looks_until_ready = Some(2);
    });
    assert_eq!(server.ask(&["wait", TARGET, "4", "60"]), (true, json!({"ready": 4})));
    server.with(|state| {
        state.replicas = 6;
        state.looks_until_ready = None;
    });
    assert_eq!(server.ask(&["wait", TARGET, "6", "3"]), (true, json!({"ready": 4})), "never ready");
    server.with(|state| state.replicas = 1);
    assert_eq!(server.error(&["wait", TARGET, "6", "60"]), "conflict", "somebody has scaled down");
}

#[test]
fn a_restart_in_the_wait_is_waited_out() {
    let server = Server::start(2);
    server.with(|state| {
        state.replicas = 3;
        state.looks_until_ready = Some(1);
    });
    for _ in 0..3 {
        server.trouble("GET", Trouble::Cut);
    }
    assert_eq!(server.ask(&["wait", TARGET, "3", "60"]), (true, json!({"ready": 3})));
}

#[test]
fn without_kubernetes_it_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_ruvector-scaler"))
        .args(["get", TARGET])
        .env_clear()
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.success(), answer["error"].as_str()), (false, Some("no_orchestrator")));
    let server = Server::start(2);
    assert_eq!(server.error(&["get", "pod/x"]), "invalid_target");
    assert_eq!(server.error(&["frobnicate"]), "invalid_request");
}

#[test]
fn a_server_of_another_authority_is_not_trusted() {
    let (server, other) = (Server::start(2), Server::start(2));
    let text = std::fs::read_to_string(&server.kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let foreign: Value = serde_json::from_str(&std::fs::read_to_string(&other.kubeconfig).unwrap()).unwrap();
    config["clusters"][0]["cluster"]["certificate-authority-data"] =
        foreign["clusters"][0]["cluster"]["certificate-authority-data"].clone();
    std::fs::write(&server.kubeconfig, config.to_string()).unwrap();
    assert_eq!(server.error(&["set", TARGET, "3", "2"]), "unreachable");
    assert_eq!((server.replicas(), server.puts()), (2, 0));
}

/// In a namespace of mounts of its own, where the token, the certificate and the namespace lie where a pod has them.
#[test]
fn in_a_pod_the_service_account_is_enough() {
    let mounts = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "/bin/sh", "-ec", script]);
        command
    };
    if !mounts("mount -t tmpfs none /run").output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: this machine lets nobody make a namespace of mounts");
        return;
    }
    let server = Server::start(2);
    let script = "mount -t tmpfs none /run; account=/var/run/secrets/kubernetes.io/serviceaccount; mkdir -p $account
                  printf %s \"$TOKEN\" >$account/token; printf data >$account/namespace; printf %s \"$CERTIFICATE\" >$account/ca.crt
                  exec \"$PROGRAM\" set deployment/ruvector-read 3 2";
    let certificate = std::fs::read_to_string(server.directory.join("ca.crt")).unwrap();
    let output = mounts(script)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TOKEN", TOKEN)
        .env("CERTIFICATE", certificate)
        .env("PROGRAM", env!("CARGO_BIN_EXE_ruvector-scaler"))
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", server.port.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"replicas": 3}));
    assert_eq!(server.replicas(), 3);
}
