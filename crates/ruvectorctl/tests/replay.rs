//! What a real healer recorded, replayed under other settings: what would have been done, and how sure that is.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use cluster::{Cluster, wait_for};
use common::{PATIENCE, run, spoil, start};
use postgres::Client;
use serde_json::Value;

/// The replay of the last hour under these settings.
fn replayed(cluster: &Cluster, config: &str) -> Value {
    run(cluster, &["replay", "--since", "1 hour", "--config", config, "--json"]).code(0).json()
}

fn count(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

fn recorded(client: &mut Client, condition: &str) {
    let query = format!("SELECT 1 FROM ruvector.recorded_snapshots WHERE {condition} LIMIT 1");
    wait_for("a recorded snapshot", PATIENCE, || client.query_opt(query.as_str(), &[]).unwrap())
        .unwrap_or_else(|error| panic!("{condition}: {error}"));
}

#[test]
fn what_was_recorded_is_decided_anew_under_other_settings_with_its_uncertainty() {
    let (cluster, mut client) = start();
    spoil(&mut client, r#"{"mode": "observe"}"#);
    recorded(&mut client, "decision ->> 'reason' = 'observe_mode'");

    // The settings that were in force decide what was decided.
    let same = replayed(&cluster, "{}");
    let snapshots = count(&same, "/snapshots");
    assert!(snapshots > 0 && count(&same, "/reproduced") == snapshots, "{same:#}");
    assert_eq!(same["differences"], Value::Array(vec![]));
    assert_eq!(same["recorded"], same["other"]);

    // Another mode would have acted: certain once, and what it would have come to with its interval.
    let auto = replayed(&cluster, r#"{"mode": "auto"}"#);
    let first = &auto["differences"][0];
    assert_eq!(first["recorded"]["refuse"], "observe_mode", "{auto:#}");
    let strategy = first["other"]["act"].as_str().unwrap_or_else(|| panic!("{auto:#}")).to_owned();
    assert_eq!(first["certain"], true);
    let effect = |end: &str| first["expected"][end].as_f64().unwrap();
    assert!(
        effect("low") <= effect("mean") && effect("mean") <= effect("high") && effect("low") < effect("high")
    );
    let words =
        run(&cluster, &["replay", "--since", "1 hour", "--config", r#"{"mode": "auto"}"#]).code(0).out;
    assert!(
        words.contains(&format!("instead of nothing (observe_mode) it would act: {strategy}")),
        "{words}"
    );
    assert!(
        words.contains("expected effect ")
            && words.contains("Note: What an action would have done is not known"),
        "{words}"
    );
    let actions = "SELECT count(*) FROM ruvector.actions";
    assert_eq!(client.query_one(actions, &[]).unwrap().get::<_, i64>(0), 0, "a replay does nothing");

    // It would have asked; it would not have seen a weak state yet; it would have been switched off.
    let approve = replayed(&cluster, r#"{"mode": "approve"}"#);
    assert_eq!(approve["differences"][0]["other"]["ask"], strategy.as_str(), "{approve:#}");
    let slower = replayed(&cluster, r#"{"dwell_samples": 100, "mode": "auto"}"#);
    let first = &slower["differences"][0];
    assert_eq!(
        (first["other_state"].as_str(), first["other"]["refuse"].as_str()),
        (Some("normal"), Some("dwelling"))
    );
    assert!(slower["other"]["actions"].as_object().unwrap().is_empty(), "{slower:#}");
    let off = replayed(&cluster, r#"{"enabled": false}"#);
    assert_eq!(off["differences"][0]["other"]["refuse"], "disabled", "{off:#}");

    // The healer acts, and what it did is replayed too: as it was, and as it would not have been.
    client.batch_execute(r#"SELECT ruvector_healing_configure('{"mode": "auto"}', 'docs')"#).unwrap();
    wait_for("the collection to be normal", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() i WHERE i.state = 'normal'
                        AND EXISTS (SELECT FROM ruvector.healing_outcomes o WHERE o.success)";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    recorded(&mut client, "decision ->> 'reason' IS NULL AND decision ->> 'strategy' IS NOT NULL");
    let same = replayed(&cluster, "{}");
    assert!(count(&same, &format!("/recorded/actions/{strategy}")) >= 1, "{same:#}");
    assert_eq!(count(&same, "/reproduced"), count(&same, "/snapshots"), "{same:#}");
    let off = replayed(&cluster, r#"{"enabled": false}"#);
    let instead =
        off["differences"].as_array().unwrap().iter().find(|d| d["recorded"]["act"] == strategy.as_str());
    let instead = instead.unwrap_or_else(|| panic!("{off:#}"));
    assert_eq!(
        (instead["other"]["refuse"].as_str(), instead["certain"].as_bool()),
        (Some("disabled"), Some(true))
    );
    assert!(off["other"]["actions"].as_object().unwrap().is_empty());
    let words =
        run(&cluster, &["replay", "--since", "1 hour", "--config", r#"{"enabled": false}"#]).code(0).out;
    assert!(words.contains("is conjecture: the recording shows a world without it"), "{words}");

    // What cannot be replayed is said.
    let wrong = run(&cluster, &["replay", "--since", "1 hour", "--config", r#"{"mode": "always"}"#]).code(2);
    assert!(wrong.err.contains("observe"), "{}", wrong.err);
    let nothing =
        run(&cluster, &["replay", "--since", "2030-01-01", "--until", "2030-01-02", "--config", "{}"])
            .code(0);
    assert!(nothing.out.contains("Nothing was recorded in this time."), "{}", nothing.out);
    run(&cluster, &["replay", "--since", "long ago", "--config", "{}"]).code(4);
}
