//! The program against an API server over real HTTP and TLS, which answers as a Kubernetes API server does: resource
//! versions, 403, 404, 409, 429, slowness, connections that are cut.

#![allow(clippy::unwrap_used, reason = "a test may unwrap in its helpers too")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-of-the-service-account";

/// What the API server does with a request instead of answering it.
#[derive(Clone, Debug)]
enum Trouble {
    /// Answers with this status and reason.
    Status(u16, &'static str),
    /// Cuts the connection before anything is done.
    Cut,
    /// Does what was asked, and cuts the connection before it answers.
    CutAfter,
    /// Answers late.
    Slow(Duration),
    /// Does late what was asked, when nobody waits for the answer any more.
    Late(Duration),
    /// Somebody else sets this many replicas just before.
    SetBySomebody(i64),
    /// Somebody else writes another field just before.
    TouchedBySomebody,
}

struct State {
    replicas: i64,
    ready: i64,
    /// Replicas become ready after so many looks, or never.
    looks_until_ready: Option<u32>,
    version: u64,
    generation: i64,
    observed: i64,
    exists: bool,
    /// Kind of the workload, as in its path.
    workload: &'static str,
    /// Trouble for the next requests of a method, first come first served.
    trouble: VecDeque<(&'static str, Trouble)>,
    /// Methods and paths seen.
    seen: Vec<String>,
}

struct Server {
    state: Arc<Mutex<State>>,
    kubeconfig: std::path::PathBuf,
    directory: std::path::PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let sextet = (word >> (18 - 6 * at)) as usize & 63;
            text.push(if at <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

impl Server {
    fn start(replicas: i64) -> Server {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, pem) = (made.cert.der().clone(), made.cert.pem());
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            replicas,
            ready: replicas,
            looks_until_ready: Some(0),
            version: 100,
            generation: 1,
            observed: 1,
            exists: true,
            workload: "deployments",
            trouble: VecDeque::new(),
            seen: Vec::new(),
        }));
        let serving = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, state) = (config.clone(), serving.clone());
                std::thread::spawn(move || serve(stream, config, &state));
            }
        });
        let directory = std::env::temp_dir().join(format!("scaler-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let kubeconfig = directory.join("config");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://localhost:{port}"), "certificate-authority-data": base64(pem.as_bytes())}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "data"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        Server { state, kubeconfig, directory }
    }

    fn with(&self, change: impl FnOnce(&mut State)) -> &Self {
        change(&mut self.state.lock().unwrap());
        self
    }

    fn trouble(&self, method: &'static str, trouble: Trouble) -> &Self {
        self.with(|state| state.trouble.push_back((method, trouble)))
    }

    fn replicas(&self) -> i64 {
        self.state.lock().unwrap().replicas
    }

    fn puts(&self) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|seen| seen.starts_with("PUT")).count()
    }

    /// Runs the program as the extension does.
    fn ask(&self, arguments: &[&str]) -> (bool, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_ruvector-scaler"))
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (
            output.status.success(),
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("no answer: {text:?}")),
        )
    }

    fn error(&self, arguments: &[&str]) -> String {
        let (success, answer) = self.ask(arguments);
        assert!(!success && !answer["message"].as_str().unwrap().is_empty(), "{answer}");
        answer["error"].as_str().unwrap().to_owned()
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, state: &Mutex<State>) {
    let Ok(connection) = ServerConnection::new(config) else { return };
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let (mut length, mut authorised) = (0usize, false);
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            let header = header.trim();
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "authorization" => authorised = value.trim() == format!("Bearer {TOKEN}"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let Some((status, answer)) = answer(state, &method, &path, authorised, &body) else { return };
        let text = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        let stream = reader.get_mut();
        if stream.write_all(format!("{head}{text}").as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                      "message": format!("the request failed: {reason}"), "reason": reason, "code": code});
    (code, body)
}

/// None: the connection is cut.
fn answer(
    state: &Mutex<State>,
    method: &str,
    path: &str,
    authorised: bool,
    body: &[u8],
) -> Option<(u16, Value)> {
    let shared = state;
    let mut state = shared.lock().unwrap();
    state.seen.push(format!("{method} {path}"));
    let mut cut_after = false;
    if let Some(at) = state.trouble.iter().position(|(of, _)| *of == method) {
        match state.trouble.remove(at)?.1 {
            Trouble::Status(code, reason) => return Some(failure(code, reason)),
            Trouble::Cut => return None,
            Trouble::CutAfter => cut_after = true,
            Trouble::Slow(time) => {
                drop(state);
                std::thread::sleep(time);
                return answer(&Mutex::new(State { ..fresh() }), method, path, authorised, body);
            }
            Trouble::Late(time) => {
                drop(state);
                std::thread::sleep(time);
                state = shared.lock().unwrap();
            }
            Trouble::SetBySomebody(replicas) => {
                state.replicas = replicas;
                state.version += 1;
            }
            Trouble::TouchedBySomebody => state.version += 1,
        }
    }
    if !authorised {
        return Some(failure(401, "Unauthorized"));
    }
    let object = format!("/apis/apps/v1/namespaces/data/{}/ruvector-read", state.workload);
    let kind = if state.workload == "deployments" { "Deployment" } else { "StatefulSet" };
    let path = path.split('?').next().unwrap_or_default();
    if !state.exists || !path.starts_with(&object) {
        return Some(failure(404, "NotFound"));
    }
    let metadata = |state: &State| {
        json!({"name": "ruvector-read", "namespace": "data",
        "resourceVersion": state.version.to_string(), "generation": state.generation})
    };
    let scale = |state: &State| {
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata(state),
        "spec": {"replicas": state.replicas}, "status": {"replicas": state.ready, "selector": "app=ruvector-read"}})
    };
    let answer = match (method, &path[object.len()..]) {
        ("GET", "/scale") => (200, scale(&state)),
        ("PUT", "/scale") => {
            let wanted: Value = serde_json::from_slice(body).ok()?;
            if wanted["metadata"]["resourceVersion"] != json!(state.version.to_string()) {
                failure(409, "Conflict")
            } else {
                state.replicas = wanted["spec"]["replicas"].as_i64()?;
                state.version += 1;
                state.generation += 1;
                (200, scale(&state))
            }
        }
        ("GET", "") => {
            // The controller comes by between two looks.
            state.observed = state.generation;
            match state.looks_until_ready {
                Some(0) => state.ready = state.replicas,
                Some(looks) => state.looks_until_ready = Some(looks - 1),
                None => {}
            }
            let object = json!({"kind": kind, "apiVersion": "apps/v1", "metadata": metadata(&state),
                "spec": {"replicas": state.replicas, "selector": {}, "template": {}, "serviceName": "ruvector-read"},
                "status": {"replicas": state.replicas, "readyReplicas": state.ready, "updatedReplicas": state.replicas,
                           "observedGeneration": state.observed}});
            (200, object)
        }
        _ => failure(405, "MethodNotAllowed"),
    };
    (!cut_after).then_some(answer)
}

/// What a request that was answered too late found.
fn fresh() -> State {
    State {
        replicas: 2,
        ready: 2,
        looks_until_ready: Some(0),
        version: 100,
        generation: 1,
        observed: 1,
        exists: true,
        workload: "deployments",
        trouble: VecDeque::new(),
        seen: Vec::new(),
    }
}

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
    assert!(server.ask(&["set", TARGET, "3", "2"]).0, "it is so already");
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
