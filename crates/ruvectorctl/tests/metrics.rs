//! The metrics themselves, as SQL renders them, and what is built on them: alerts and dashboard.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cluster::wait_for;
use common::{PATIENCE, run, spoil, start};
use postgres::Client;
use serde_json::Value;

/// The specification's names, metrics among them.
const SPECIFIED: &str = include_str!("../../../tests/fixtures/specified_names.txt");

/// The specification's metrics, each with its labels.
fn specified() -> impl Iterator<Item = (&'static str, BTreeSet<&'static str>)> {
    SPECIFIED.lines().filter_map(|line| {
        let mut words = line.strip_prefix("metric ")?.split(' ');
        Some((words.next()?, words.collect()))
    })
}

/// Metrics of `serve` itself, not of SQL.
const OF_SERVE: [&str; 6] = [
    "ruvector_up",
    "ruvector_last_success_timestamp_seconds",
    "ruvector_webhook_delivered_total",
    "ruvector_webhook_failed_tries_total",
    "ruvector_webhook_given_up_total",
    "ruvector_webhook_pending",
];

/// A sample: its labels and value.
type Sample = (BTreeMap<String, String>, f64);

fn rendered(client: &mut Client) -> String {
    client.query_one("SELECT ruvector_healing_metrics()", &[]).unwrap().get(0)
}

/// The samples by name. Panics on a line that is not of the text format.
fn samples(text: &str) -> BTreeMap<String, Vec<Sample>> {
    let mut found: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut rest = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
        let mut pairs = BTreeMap::new();
        while let Some((name, after)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next() {
                    Some((_, '\\')) => match characters.next() {
                        Some((_, 'n')) => value.push('\n'),
                        Some((_, c @ ('\\' | '"'))) => value.push(c),
                        other => panic!("{other:?} in {line}"),
                    },
                    Some((at, '"')) => break at + 1,
                    Some((_, c)) => value.push(c),
                    None => panic!("{line}"),
                }
            };
            pairs.insert(name.to_owned(), value);
            rest = after[end..].trim_start_matches(',');
        }
        assert_eq!(rest, "", "{line}");
        let value = value.replace("Inf", "inf").parse().unwrap_or_else(|_| panic!("{line}"));
        found.entry(name.to_owned()).or_default().push((pairs, value));
    }
    found
}

fn value(client: &mut Client, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let of = samples(&rendered(client)).remove(name)?;
    of.into_iter()
        .find(|(have, _)| labels.iter().all(|(k, v)| have.get(*k).is_some_and(|h| h == v)))
        .map(|(_, v)| v)
}

/// Names of metrics of ours in an expression. What is followed by a bracket is a function that a text advises.
fn names_in(expression: &str, into: &mut BTreeSet<String>) {
    for (at, _) in expression.match_indices("ruvector_") {
        let after = &expression[at..];
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        if !after[end..].starts_with('(') {
            into.insert(after[..end].to_owned());
        }
    }
}

fn monitoring(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../monitoring").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_metric_of_the_specification_is_there_once_something_was_healed_and_no_ratio_before() {
    let (cluster, mut client) = start();
    assert_eq!(
        samples(&rendered(&mut client)).keys().collect::<Vec<_>>(),
        [
            "ruvector_audit_missing",
            "ruvector_audit_pending",
            "ruvector_audit_rows_total",
            "ruvector_build_info",
            "ruvector_healer_ready"
        ]
    );
    spoil(&mut client, r#"{"mode": "observe"}"#);
    let before = samples(&rendered(&mut client));
    for ratio in ["success_rate", "avg_improvement", "time_to_recovery_seconds", "duration_seconds"] {
        assert!(!before.contains_key(&format!("ruvector_healing_{ratio}")), "{ratio} before any outcome");
    }
    // Counters begin with 0, or increase() would not see their first step.
    let rebuild = [("collection", "docs"), ("strategy", "rebuild_centroids")];
    assert_eq!(value(&mut client, "ruvector_healing_attempts_total", &rebuild), Some(0.0));
    assert!(value(&mut client, "ruvector_integrity_state", &rebuild[..1]).is_some_and(|state| state >= 1.0));
    assert_eq!(value(&mut client, "ruvector_healing_cooldown", &rebuild[..1]), Some(0.0));
    assert!(!before.contains_key("ruvector_healing_cooldown_until_timestamp_seconds"));

    run(&cluster, &["execute", "docs", "rebuild_centroids", "--wait"]).code(0);
    wait_for("the normal state", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE state = 'normal'", &[]).unwrap()
    })
    .unwrap();
    let after = samples(&rendered(&mut client));
    assert_eq!(specified().count(), 10);
    for (name, expected) in specified() {
        let of = after.get(name).unwrap_or_else(|| panic!("{name} is missing: {after:?}"));
        assert!(
            of.iter().all(|(have, _)| have.keys().map(String::as_str).collect::<BTreeSet<_>>() == expected),
            "{name}: {of:?}"
        );
    }
    assert_eq!(value(&mut client, "ruvector_healing_attempts_total", &rebuild), Some(1.0));
    assert_eq!(value(&mut client, "ruvector_healing_success_total", &rebuild), Some(1.0));
    assert_eq!(value(&mut client, "ruvector_healing_success_rate", &rebuild[..1]), Some(1.0));
    assert_eq!(value(&mut client, "ruvector_integrity_state", &rebuild[..1]), Some(0.0));
    assert_eq!(value(&mut client, "ruvector_healing_cooldown", &rebuild[..1]), Some(1.0));
    let took: f64 = client
        .query_one("SELECT duration_ms / 1000.0::float8 FROM ruvector.healing_outcomes", &[])
        .unwrap()
        .get(0);
    let quantile = [rebuild[0], rebuild[1], ("quantile", "0.99")];
    assert_eq!(value(&mut client, "ruvector_healing_duration_seconds", &quantile), Some(took));
    let all = [rebuild[0], rebuild[1], ("le", "+Inf")];
    assert_eq!(value(&mut client, "ruvector_healing_action_duration_seconds_bucket", &all), Some(1.0));
    let improvement: f64 = client
        .query_one("SELECT improvement_pct::float8 / 100 FROM ruvector.healing_outcomes", &[])
        .unwrap()
        .get(0);
    let told = value(&mut client, "ruvector_healing_avg_improvement", &rebuild[..1]).unwrap();
    assert!((told - improvement).abs() < 1e-6 && told > 0.1, "{told} is a ratio, {improvement}");

    // Alerts and dashboard use nothing that is not there.
    let mut used = BTreeSet::new();
    names_in(&monitoring("alerts.yml"), &mut used);
    let dashboard: Value = serde_json::from_str(&monitoring("grafana-dashboard.json")).unwrap();
    names_in(&dashboard.to_string(), &mut used);
    assert!(used.len() > 15, "{used:?}");
    let absent: Vec<_> = used
        .iter()
        .filter(|name| {
            !after.contains_key(*name) && !before.contains_key(*name) && !OF_SERVE.contains(&name.as_str())
        })
        .collect();
    assert!(absent.is_empty(), "not exported: {absent:?}");

    // Counters are counted from tables: a restart does not set them back, nor does registering anew.
    drop(client);
    cluster.restart().unwrap();
    let mut client = cluster.connect("app").unwrap();
    assert_eq!(value(&mut client, "ruvector_healing_attempts_total", &rebuild), Some(1.0));
    client.batch_execute("SELECT ruvector_collection_unregister('docs')").unwrap();
    assert_eq!(value(&mut client, "ruvector_healing_attempts_total", &rebuild), None);
    client.batch_execute("SELECT ruvector_collection_register('docs', 'docs')").unwrap();
    assert_eq!(value(&mut client, "ruvector_healing_attempts_total", &rebuild), Some(1.0));
}

#[test]
fn names_are_escaped_and_a_switch_shows() {
    let (_cluster, mut client) = start();
    let name = "a \"b\" \\ c\nd";
    client
        .batch_execute("CREATE TABLE t (id int, v vector(2)); INSERT INTO t SELECT i, ARRAY[i, 1] FROM generate_series(1, 100) i; ANALYZE t")
        .unwrap();
    client.query_one("SELECT ruvector_collection_register($1, 't')", &[&name]).unwrap();
    assert_eq!(value(&mut client, "ruvector_healing_enabled", &[("collection", name)]), Some(1.0));
    client.query_one("SELECT ruvector_healing_configure('{\"enabled\": false}', $1)", &[&name]).unwrap();
    assert_eq!(value(&mut client, "ruvector_healing_enabled", &[("collection", name)]), Some(0.0));
    // The documents that clients make of it hold, too.
    wait_for("a sample", PATIENCE, || {
        value(&mut client, "ruvector_integrity_sampled_timestamp_seconds", &[("collection", name)])
    })
    .unwrap();
}
