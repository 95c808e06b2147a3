//! What the specification names is there under that name. The names are read from `fixtures/specified_names.txt`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use postgres::Client;
use serde_json::Value;
use tests::start;

/// The names of each kind, with what belongs to them.
fn specified() -> BTreeMap<String, Vec<(String, String)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/specified_names.txt");
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap().lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let [kind, name, rest] = std::array::from_fn(|_| words.next().unwrap_or_default().to_owned());
        assert!(!name.is_empty(), "{line}");
        found.entry(kind).or_default().push((name, rest));
    }
    found
}

/// The one text that a query gives for these parameters, if any.
fn text(client: &mut Client, query: &str, name: &str) -> Option<String> {
    client.query_opt(query, &[&name]).unwrap().and_then(|row| row.get(0))
}

/// What is wrong with a name: nothing when it is there as specified.
fn missing(client: &mut Client, effective: &Value, kind: &str, name: &str, rest: &str) -> Option<String> {
    let found = match kind {
        // Arguments by their names; the order is the user's.
        "function" => {
            let arguments = "SELECT concat_ws(' ', '', array_to_string(proargnames, ' '), '') FROM pg_proc WHERE proname = $1 LIMIT 1";
            let have = text(client, arguments, name);
            let all = have.is_some_and(|have| {
                rest.split_whitespace().all(|argument| have.contains(&format!(" {argument} ")))
            });
            all.then(|| rest.to_owned())
        }
        "status" => text(
            client,
            "SELECT '' FROM pg_proc WHERE proname = 'ruvector_healing_status' AND $1 = ANY (proargnames)",
            name,
        ),
        "outcome" => text(
            client,
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'ruvector.healing_outcomes'::regclass AND attname = $1",
            name,
        ),
        "index" => text(
            client,
            "SELECT '' FROM pg_class WHERE relname = $1 AND relkind = 'i' AND relnamespace = 'ruvector'::regnamespace",
            name,
        ),
        "setting" => effective.get(name).map(Value::to_string),
        "strategy" => {
            text(client, "SELECT DISTINCT '' FROM ruvector_healing_strategies() WHERE strategy = $1", name)
        }
        "metric" => text(
            client,
            "SELECT array_to_string(labels, ' ') FROM ruvector._metric_families() WHERE name = $1",
            name,
        ),
        "alert" => {
            let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring/alerts.yml");
            let rules = fs::read_to_string(rules).unwrap();
            let rule = rules.split("- alert: ").find(|rule| rule.lines().next() == Some(name));
            rule.and_then(|rule| rule.split_once("severity: "))
                .and_then(|(_, rest)| rest.lines().next().map(|word| word.trim().to_owned()))
        }
        other => panic!("nobody knows how to look for a {other}"),
    };
    match found {
        Some(found) if found == rest => None,
        other => Some(format!("{kind} {name}: {rest:?} is specified, there is {other:?}")),
    }
}

#[test]
fn what_the_specification_names_is_there() {
    let (_cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, embedding vector(3)); SELECT ruvector_collection_register('docs', 'docs')",
        )
        .unwrap();
    let effective: String =
        client.query_one("SELECT ruvector_healing_configure('{}', 'docs')::text", &[]).unwrap().get(0);
    let effective: Value = serde_json::from_str(&effective).unwrap();
    let names = specified();
    let kinds: Vec<&str> = names.keys().map(String::as_str).collect();
    assert_eq!(
        kinds,
        ["alert", "function", "index", "metric", "outcome", "setting", "status", "strategy"],
        "the list is read whole"
    );
    let wrong: Vec<String> = names
        .iter()
        .flat_map(|(kind, names)| names.iter().map(move |(name, rest)| (kind, name, rest)))
        .filter_map(|(kind, name, rest)| missing(&mut client, &effective, kind, name, rest))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
