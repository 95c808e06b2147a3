//! The specification's alerts, fired for real: server → `serve` → Prometheus → Alertmanager, and silence while all is well.
//! Needs `toolchain/prometheus`; `make test-all` runs it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cluster::wait_for;
use common::{PATIENCE, against, run, start};
use postgres::Client;
use serde_json::Value;

/// Debian's programs below build/.
fn program(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let build = std::env::var_os("RUVECTOR_BUILD_DIR").map_or_else(|| root.join("build"), PathBuf::from);
    let path = build.join("prometheus/root/usr/bin").join(name);
    assert!(path.is_file(), "{} is missing: run toolchain/prometheus", path.display());
    path
}

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../monitoring")
}

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A JSON answer of one of the three; null until it answers.
fn get(port: u16, path: &str) -> Value {
    let ask = || -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    };
    ask().unwrap_or_default()
}

/// Names of the alerts at Alertmanager, with their collections.
fn alerts(alertmanager: u16) -> Vec<(String, String)> {
    let text = |alert: &Value, label: &str| alert["labels"][label].as_str().unwrap_or_default().to_owned();
    let found = get(alertmanager, "/api/v2/alerts");
    found.as_array().into_iter().flatten().map(|a| (text(a, "alertname"), text(a, "collection"))).collect()
}

fn await_alert(alertmanager: u16, name: &str, collection: &str) {
    let wanted = (name.to_owned(), collection.to_owned());
    wait_for(name, PATIENCE, || alerts(alertmanager).contains(&wanted).then_some(()))
        .unwrap_or_else(|_| panic!("{name} did not arrive: {:?}", alerts(alertmanager)));
}

/// How often Prometheus has evaluated our rules, all of them well.
fn evaluations(prometheus: u16) -> f64 {
    let found = get(
        prometheus,
        "/api/v1/query?query=sum(prometheus_rule_evaluations_total)-10*sum(prometheus_rule_evaluation_failures_total)",
    );
    found["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

fn in_flight(client: &mut Client) -> bool {
    let query = "SELECT 1 FROM ruvector.actions WHERE status IN ('approved', 'executing', 'verifying')";
    client.query_opt(query, &[]).unwrap().is_some()
}

#[test]
#[ignore = "needs toolchain/prometheus"]
fn rules_and_metrics_satisfy_promtool() {
    let promtool = |arguments: &[&str], input: &str| {
        let mut child = Command::new(program("promtool"))
            .args(arguments)
            .current_dir(monitoring())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
        said
    };
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts_test.yml"], "");
    let (cluster, mut client) = start();
    common::spoil(&mut client, r#"{"mode": "observe"}"#);
    run(&cluster, &["execute", "docs", "rebuild_centroids", "--wait"]).code(0);
    let metrics = run(&cluster, &["metrics"]).code(0).out;
    assert!(metrics.contains("ruvector_healing_duration_seconds{"), "{metrics}");
    promtool(&["check", "metrics"], &metrics);
}

#[test]
#[ignore = "needs toolchain/prometheus"]
fn the_alerts_of_the_specification_fire_and_are_silent_while_all_is_well() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE sound (id int, v vector(2));
             INSERT INTO sound SELECT i, ARRAY[sin(i), cos(i)] FROM generate_series(1, 2000) i;
             CREATE INDEX ON sound USING hnsw (v vector_l2_ops);
             CREATE TABLE broken AS TABLE sound; CREATE INDEX broken_i ON broken USING hnsw (v vector_l2_ops);
             ANALYZE; SELECT ruvector_collection_register('sound', 'sound')",
        )
        .unwrap();
    let mut served = against(&cluster, &["serve", "--listen", "127.0.0.1:0"]);
    let mut served = Running(served.stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let mut said = BufReader::new(served.0.stderr.take().unwrap());
    said.read_line(&mut line).unwrap();
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    let target = line.split("http://").nth(1).unwrap().trim().trim_end_matches('/').to_owned();

    // The rules as shipped, but for their time: an hour is two seconds, half an hour's window twenty.
    let folder = std::env::temp_dir().join(format!("ruvectorctl-alerts-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let rules = fs::read_to_string(monitoring().join("alerts.yml")).unwrap();
    let quick: Vec<String> = rules
        .lines()
        .map(|line| match line.trim_start().strip_prefix("for: ") {
            Some(_) => "        for: 2s".to_owned(),
            None => line.replace("[30m]", "[20s]"),
        })
        .collect();
    assert_eq!(quick.iter().filter(|line| line.contains("for: 2s")).count(), 10);
    fs::write(folder.join("alerts.yml"), quick.join("\n")).unwrap();
    let (prometheus, alertmanager) = (free_port(), free_port());
    fs::write(
        folder.join("prometheus.yml"),
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [alerts.yml]\n\
             scrape_configs: [{{job_name: ruvector, static_configs: [{{targets: ['{target}']}}]}}, \
             {{job_name: self, static_configs: [{{targets: ['127.0.0.1:{prometheus}']}}]}}]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{alertmanager}']}}]}}]}}\n"
        ),
    )
    .unwrap();
    fs::write(folder.join("alertmanager.yml"), "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
        .unwrap();
    let quiet = |name: &str| {
        let mut command = Command::new(program(name));
        // Alertmanager finds its template from here, see toolchain/prometheus.
        command.current_dir(program(name).ancestors().nth(2).unwrap().join("share"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let path = |option: &str, name: &str| format!("{option}{}", folder.join(name).display());
    let _alertmanager = Running(
        quiet("prometheus-alertmanager")
            .args([
                path("--config.file=", "alertmanager.yml"),
                path("--storage.path=", "am"),
                "--cluster.listen-address=".into(),
            ])
            .arg(format!("--web.listen-address=127.0.0.1:{alertmanager}"))
            .spawn()
            .unwrap(),
    );
    let _prometheus = Running(
        quiet("prometheus")
            .args([path("--config.file=", "prometheus.yml"), path("--storage.tsdb.path=", "data")])
            .arg(format!("--web.listen-address=127.0.0.1:{prometheus}"))
            .spawn()
            .unwrap(),
    );

    // Long enough for every rule to fire, had it a reason. The sampler counts as silent before the first sample only.
    wait_for("the collection to be normal", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE state = 'normal'", &[]).unwrap()
    })
    .unwrap();
    wait_for("Prometheus to scrape", PATIENCE, || {
        let up = get(prometheus, "/api/v1/query?query=ruvector_up");
        (up["data"]["result"][0]["value"][1] == "1").then_some(())
    })
    .unwrap();
    let began = evaluations(prometheus);
    wait_for("ten evaluations", PATIENCE, || (evaluations(prometheus) >= began + 100.0).then_some(()))
        .unwrap();
    assert_eq!(get(alertmanager, "/api/v2/status")["cluster"]["status"], "disabled", "Alertmanager answers");
    assert_eq!(alerts(alertmanager), [], "all is well");

    // Critical, and nobody does anything.
    client
        .batch_execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken_i'::regclass;
             SELECT ruvector_collection_register('broken', 'broken', settings => '{\"mode\": \"observe\"}')",
        )
        .unwrap();
    await_alert(alertmanager, "RuVectorProlongedDegradation", "broken");

    // Three attempts that come to nothing: a session is in the way of each, and each is stopped.
    for _ in 0..3 {
        let mut writer = cluster.connect("app").unwrap();
        writer
            .batch_execute("BEGIN; DELETE FROM broken WHERE id = 0; INSERT INTO broken VALUES (0, '[0,0]')")
            .unwrap();
        let action: i64 = client
            .query_one(
                "SELECT action_id FROM ruvector_healing_execute('broken', 'repair_invalid_index')",
                &[],
            )
            .unwrap()
            .get(0);
        wait_for("the action to run", PATIENCE, || {
            let query = "SELECT 1 FROM ruvector.actions WHERE id = $1 AND status = 'executing'";
            client.query_opt(query, &[&action]).unwrap()
        })
        .unwrap();
        client.query_one("SELECT ruvector_healing_abort($1)", &[&action]).unwrap();
        writer.batch_execute("ROLLBACK").unwrap();
        wait_for("its end", PATIENCE, || (!in_flight(&mut client)).then_some(())).unwrap();
    }
    await_alert(alertmanager, "RuVectorHealingIneffective", "broken");

    client.batch_execute("SELECT ruvector_healing_configure('{\"enabled\": false}', 'broken')").unwrap();
    await_alert(alertmanager, "RuVectorHealingDisabled", "broken");
    let of_sound: Vec<_> =
        alerts(alertmanager).into_iter().filter(|(_, collection)| collection == "sound").collect();
    assert_eq!(of_sound, [], "the other collection is still well");
    fs::remove_dir_all(&folder).unwrap();
}
