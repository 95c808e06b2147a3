//! `serve`: metrics, health, dashboard and webhook, over HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::{Cluster, StopMode, wait_for};
use common::{PATIENCE, against, run, spoil, start, version};
use postgres::Client;
use serde_json::Value;

/// The program serving; ended with the value.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        let mut command = against(cluster, &["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap_or_else(|| panic!("{line}"));
        let address = address.trim().trim_end_matches('/').to_owned();
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, address }
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a series, named with its labels; None where it is absent.
fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn metrics_are_served_and_the_last_good_ones_in_an_outage() {
    let (cluster, mut client) = start();
    spoil(&mut client, r#"{"mode": "observe"}"#);
    let served = Served::start(&cluster, &[]);
    assert_eq!(served.get("/healthz"), (200, "ok\n".into()));
    let (status, metrics) = served.get("/metrics");
    assert_eq!(status, 200);
    assert_eq!(value(&metrics, "ruvector_up"), Some(1.0));
    assert!(
        value(&metrics, "ruvector_integrity_state{collection=\"docs\"}").is_some_and(|state| state > 0.0),
        "{metrics}"
    );
    // The same as SQL renders.
    let sql: String = client.query_one("SELECT ruvector_healing_metrics()", &[]).unwrap().get(0);
    for line in sql.lines().filter(|line| line.starts_with('#')) {
        assert!(metrics.contains(line), "{line}");
    }

    drop(client);
    cluster.stop(StopMode::Fast).unwrap();
    let (status, outage) = served.get("/metrics");
    assert_eq!((status, value(&outage, "ruvector_up")), (200, Some(0.0)));
    assert_eq!(
        value(&outage, "ruvector_integrity_state{collection=\"docs\"}"),
        value(&metrics, "ruvector_integrity_state{collection=\"docs\"}")
    );
    assert_eq!(served.get("/healthz").0, 503);
    assert_eq!(served.get("/api/status").0, 503);
    cluster.restart().unwrap();
    wait_for("the database to be seen again", PATIENCE, || {
        (value(&served.get("/metrics").1, "ruvector_up") == Some(1.0)).then_some(())
    })
    .unwrap();
    assert_eq!(served.get("/healthz").0, 200);
}

#[test]
fn a_database_without_the_extension_is_down_and_says_why() {
    let cluster = Cluster::builder(version()).database("app").start().unwrap();
    let served = Served::start(&cluster, &[]);
    let (status, text) = served.get("/healthz");
    assert_eq!(status, 503);
    assert!(text.contains("has no extension ruvector"), "{text}");
    let metrics = served.get("/metrics").1;
    assert_eq!(value(&metrics, "ruvector_up"), Some(0.0));
    assert!(!metrics.contains("ruvector_last_success"), "{metrics}");
}

#[test]
fn the_dashboard_has_what_it_draws() {
    let (cluster, mut client) = start();
    spoil(&mut client, r#"{"mode": "observe"}"#);
    client.batch_execute("CREATE ROLE reader LOGIN; GRANT ruvector_monitor TO reader").unwrap();
    // A member of ruvector_monitor is enough.
    let served = Served::start(&cluster, &["-U", "reader"]);
    for (path, part) in [("/", "<svg id=\"lambda\""), ("/app.js", "api/status"), ("/style.css", "--critical")]
    {
        let (status, body) = served.get(path);
        assert_eq!(status, 200);
        assert!(body.contains(part), "{path}: {body}");
    }
    let status = served.json("/api/status");
    assert_eq!(status["collections"][0]["collection"], "docs");
    assert!(!status["lambda"]["docs"].as_array().unwrap().is_empty(), "{status}");
    let detail = served.json("/api/collection?name=docs&hours=1");
    assert!(!detail["lambda"].as_array().unwrap().is_empty());
    assert!(detail["graph"].as_array().unwrap().iter().any(|row| row["type"] == "core"));
    assert!(!detail["witness"].as_array().unwrap().is_empty());
    assert_eq!(detail["settings"]["stress_lambda"], 0.7);
    assert_eq!(served.get("/api/collection?name=absent").0, 404);
    run(&cluster, &["-U", "reader", "metrics"]).code(0);
    let refused = run(&cluster, &["-U", "reader", "trigger", "docs"]).code(4);
    assert!(refused.err.contains("42501"), "{}", refused.err);
}

/// What a webhook was sent: headers and body of each request. It fails as many as `failing` says first.
#[derive(Clone, Default)]
struct Receiver {
    requests: Arc<Mutex<Vec<(String, String)>>>,
    failing: Arc<Mutex<u32>>,
}

impl Receiver {
    fn start(failing: u32) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = Self { failing: Arc::new(Mutex::new(failing)), ..Self::default() };
        let own = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = own.take(stream);
            }
        });
        (receiver, url)
    }

    /// One request a connection.
    fn take(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            head.push_str(&line.to_lowercase());
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body)?;
        let mut failing = self.failing.lock().unwrap();
        let answer = if *failing > 0 {
            *failing -= 1;
            "500 Not Now"
        } else {
            self.requests.lock().unwrap().push((head, String::from_utf8_lossy(&body).into_owned()));
            "204 Taken"
        };
        write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    }

    /// Types of the events taken.
    fn types(&self) -> Vec<String> {
        let parsed = |body: &String| serde_json::from_str::<Value>(body).unwrap();
        self.requests
            .lock()
            .unwrap()
            .iter()
            .map(|(_, body)| parsed(body)["type"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn awaiting(client: &mut Client) -> i64 {
    let query = "SELECT id FROM ruvector.actions WHERE status = 'awaiting_approval'";
    wait_for("a plan", PATIENCE, || client.query_opt(query, &[]).unwrap()).unwrap().get(0)
}

#[test]
fn events_reach_a_webhook_signed_once_and_also_after_failures_and_restarts() {
    let (cluster, mut client) = start();
    let folder = std::env::temp_dir().join(format!("ruvectorctl-hook-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (secret, state) = (folder.join("secret"), folder.join("state"));
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    let (receiver, url) = Receiver::start(2);
    let arguments = [
        "--webhook-url",
        &url,
        "--webhook-secret-file",
        secret.to_str().unwrap(),
        "--webhook-state-file",
        state.to_str().unwrap(),
        "--webhook-backoff-max",
        "1",
    ];
    let served = Served::start(&cluster, &arguments);
    wait_for("the first look", PATIENCE, || state.exists().then_some(())).unwrap();
    spoil(&mut client, r#"{"mode": "approve"}"#);
    let action = awaiting(&mut client);
    let has = |kind: &str| receiver.types().iter().any(|found| found == kind);
    wait_for("news of a plan that waits", PATIENCE, || has("action.awaiting_approval").then_some(()))
        .unwrap();
    assert!(receiver.types().iter().any(|kind| kind.starts_with("integrity.")), "{:?}", receiver.types());
    let metrics = served.get("/metrics").1;
    assert!(
        value(&metrics, "ruvector_webhook_failed_tries_total").is_some_and(|tries| tries >= 2.0),
        "{metrics}"
    );
    let (head, body) = receiver.requests.lock().unwrap().last().unwrap().clone();
    for header in ["webhook-id: ", "webhook-timestamp: ", "webhook-signature: v1,"] {
        assert!(head.contains(header), "{head}");
    }
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["data"]["collection"], "docs");

    // What happens while it is down is told when it is back, and nothing twice.
    drop(served);
    client.query_one("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
    let _again = Served::start(&cluster, &arguments);
    wait_for("news of the end", PATIENCE, || has("action.aborted").then_some(())).unwrap();
    let waited = receiver.types().iter().filter(|kind| *kind == "action.awaiting_approval").count();
    assert_eq!(waited, 1 + usize::from(awaiting_again(&mut client, action)), "{:?}", receiver.types());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Whether another plan has come to wait meanwhile.
fn awaiting_again(client: &mut Client, action: i64) -> bool {
    client
        .query_opt("SELECT 1 FROM ruvector.actions WHERE id > $1 AND decided_at IS NOT NULL", &[&action])
        .unwrap()
        .is_some()
}

#[test]
fn a_webhook_without_a_good_secret_is_refused() {
    let (cluster, _client) = start();
    let url = "http://127.0.0.1:9/";
    run(&cluster, &["serve", "--listen", "127.0.0.1:0", "--webhook-url", url]).code(2);
    let secret = std::env::temp_dir().join(format!("ruvectorctl-short-{}", std::process::id()));
    std::fs::write(&secret, "short").unwrap();
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--webhook-url",
        url,
        "--webhook-secret-file",
        secret.to_str().unwrap(),
    ];
    run(&cluster, &arguments).code(2);
    std::fs::remove_file(&secret).unwrap();
}
