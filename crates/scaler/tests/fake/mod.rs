//! An API server that answers as a Kubernetes API server does, over real HTTP and TLS.

#![allow(dead_code, reason = "each file of tests uses its part")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "a-token-of-the-service-account";

/// What the API server does with a request instead of answering it.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
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

pub(crate) struct State {
    pub(crate) replicas: i64,
    pub(crate) ready: i64,
    /// Replicas become ready after so many looks, or never.
    pub(crate) looks_until_ready: Option<u32>,
    pub(crate) version: u64,
    pub(crate) generation: i64,
    pub(crate) observed: i64,
    pub(crate) exists: bool,
    /// Kind of the workload, as in its path.
    pub(crate) workload: &'static str,
    /// Trouble for the next requests of a method, first come first served.
    pub(crate) trouble: VecDeque<(&'static str, Trouble)>,
    /// Methods and paths seen.
    pub(crate) seen: Vec<String>,
}

pub(crate) struct Server {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) kubeconfig: std::path::PathBuf,
    pub(crate) port: u16,
    /// Where its address and certificate are.
    pub(crate) directory: std::path::PathBuf,
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
    pub(crate) fn start(replicas: i64) -> Server {
        let made =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
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
        std::fs::write(directory.join("ca.crt"), pem).unwrap();
        Server { state, kubeconfig, directory, port }
    }

    pub(crate) fn with(&self, change: impl FnOnce(&mut State)) -> &Self {
        change(&mut self.state.lock().unwrap());
        self
    }

    pub(crate) fn trouble(&self, method: &'static str, trouble: Trouble) -> &Self {
        self.with(|state| state.trouble.push_back((method, trouble)))
    }

    pub(crate) fn replicas(&self) -> i64 {
        self.state.lock().unwrap().replicas
    }

    pub(crate) fn puts(&self) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|seen| seen.starts_with("PUT")).count()
    }

    /// Runs the program as the extension does.
    pub(crate) fn ask(&self, arguments: &[&str]) -> (bool, Value) {
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

    pub(crate) fn error(&self, arguments: &[&str]) -> String {
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
