//! `doctor` and `discover` on servers in every stage of being set up.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use cluster::Cluster;
use common::{Said, run, spoil, start, version};
use serde_json::Value;

/// The outcome of each check by its name.
fn outcomes(said: &Said) -> Vec<(String, String)> {
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let document = said.json();
    document["checks"].as_array().unwrap().iter().map(|c| (text(c, "check"), text(c, "outcome"))).collect()
}

fn outcome(said: &Said, check: &str) -> Option<String> {
    outcomes(said).into_iter().find(|(name, _)| name == check).map(|(_, outcome)| outcome)
}

#[test]
fn a_bare_server_is_told_what_it_lacks_and_a_right_one_is_well() {
    let bare = Cluster::builder(version()).database("app").start().unwrap();
    let said = run(&bare, &["doctor", "--json"]).code(1);
    assert_eq!(outcome(&said, "preload").as_deref(), Some("fault"));
    assert_eq!(outcome(&said, "extension").as_deref(), Some("fault"));
    assert_eq!(outcome(&said, "extension files").as_deref(), Some("ok"));
    assert_eq!(outcome(&said, "PostgreSQL").as_deref(), Some("ok"));
    let text = run(&bare, &["doctor"]).code(1);
    assert!(text.out.contains("CREATE EXTENSION ruvector CASCADE"), "{}", text.out);
    assert!(text.out.contains("shared_preload_libraries"), "{}", text.out);
    let tables = run(&bare, &["discover"]).code(0);
    assert!(tables.out.contains("no extension vector"), "{}", tables.out);
    assert_eq!(run(&bare, &["status"]).code(5).out, "");

    let (right, _client) = start();
    let said = run(&right, &["doctor", "--json"]).code(0);
    let faults: Vec<_> = outcomes(&said).into_iter().filter(|(_, outcome)| outcome == "fault").collect();
    assert!(faults.is_empty(), "{faults:?}");
    for check in ["preload", "extension", "pgvector", "workers", "healer", "role"] {
        assert_eq!(outcome(&said, check).as_deref(), Some("ok"), "{check}: {}", said.out);
    }
}

#[test]
fn a_role_without_rights_and_a_schema_in_the_way_are_named() {
    let (cluster, mut client) = start();
    client.batch_execute("CREATE ROLE guest LOGIN").unwrap();
    let as_guest = run(&cluster, &["-U", "guest", "doctor", "--json"]).code(1);
    assert_eq!(outcome(&as_guest, "role").as_deref(), Some("fault"));
    assert_eq!(outcome(&as_guest, "preload").as_deref(), Some("?"));
    client.batch_execute("GRANT ruvector_monitor TO guest").unwrap();
    let as_reader = run(&cluster, &["-U", "guest", "doctor", "--json"]).code(0);
    assert_eq!(outcome(&as_reader, "role").as_deref(), Some("note"));
    run(&cluster, &["-U", "guest", "status"]).code(0);

    client.batch_execute("DROP EXTENSION ruvector; CREATE SCHEMA ruvector").unwrap();
    let said = run(&cluster, &["doctor"]).code(1);
    assert!(said.out.contains("has a schema ruvector"), "{}", said.out);
}

#[test]
fn too_few_worker_processes_and_switched_off_statistics_are_faults() {
    let builder = Cluster::builder(version()).database("app");
    let cluster = builder.setting("max_worker_processes", 2).setting("track_counts", "off").start().unwrap();
    let said = run(&cluster, &["doctor", "--json"]).code(1);
    assert_eq!(outcome(&said, "workers").as_deref(), Some("fault"));
    assert_eq!(outcome(&said, "track_counts").as_deref(), Some("fault"));
}

/// PostgreSQL 18 can be pointed at other control files; that is how another extension of the same name is had here.
#[test]
fn another_extension_of_the_same_name_is_told_from_ours() {
    if version() != cluster::Version::V18 {
        return;
    }
    let folder = std::env::temp_dir().join(format!("ruvectorctl-mock-{}", std::process::id()));
    let files = folder.join("extension");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(
        files.join("ruvector.control"),
        "comment = 'a mock'\ndefault_version = '2.0'\nschema = public\n",
    )
    .unwrap();
    std::fs::write(
        files.join("ruvector--2.0.sql"),
        "CREATE FUNCTION ruvector_version() RETURNS text LANGUAGE sql AS $$ SELECT '2.0' $$;",
    )
    .unwrap();
    let path = format!("{}:$system", folder.display());
    let cluster =
        Cluster::builder(version()).database("app").setting("extension_control_path", path).start().unwrap();
    let said = run(&cluster, &["doctor"]).code(1);
    assert!(said.out.contains("another extension named ruvector: \"a mock\""), "{}", said.out);
    cluster.connect("app").unwrap().batch_execute("CREATE EXTENSION ruvector").unwrap();
    let said = run(&cluster, &["doctor"]).code(1);
    assert!(said.out.contains("another extension of the same name, version 2.0"), "{}", said.out);
    let said = run(&cluster, &["status"]).code(5);
    assert!(said.err.contains("another one of the same name"), "{}", said.err);
    drop(cluster);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn tables_are_discovered_without_the_extension_and_with_it() {
    let cluster = Cluster::builder(version()).database("app").start().unwrap();
    let mut client = cluster.connect("app").unwrap();
    client
        .batch_execute(
            "CREATE EXTENSION vector; CREATE SCHEMA \"Odd Name\";
             CREATE TABLE plain (id int, text text);
             CREATE TABLE bits (id int, flags bit(8));
             CREATE TABLE docs (id int, embedding vector(3), title halfvec(4));
             CREATE INDEX docs_e ON docs USING hnsw (embedding vector_l2_ops);
             CREATE TABLE \"Odd Name\".\"Parts\" (id int, v vector(3)) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF \"Odd Name\".\"Parts\" FOR VALUES FROM (0) TO (10);
             CREATE TABLE p2 PARTITION OF \"Odd Name\".\"Parts\" FOR VALUES FROM (10) TO (20);
             INSERT INTO \"Odd Name\".\"Parts\" SELECT i, ARRAY[i, 1, 1] FROM generate_series(0, 19) i;
             CREATE INDEX parts_i ON \"Odd Name\".\"Parts\" USING ivfflat (v vector_l2_ops) WITH (lists = 2);
             ANALYZE; UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docs_e'::regclass;
             CREATE MATERIALIZED VIEW copy AS SELECT * FROM docs;
             CREATE ROLE guest LOGIN",
        )
        .unwrap();
    let found = run(&cluster, &["discover", "--json"]).code(0).json();
    let tables = found["tables"].as_array().unwrap();
    let named = |name: &str| {
        tables.iter().find(|table| table["table"] == name).unwrap_or_else(|| panic!("no {name}: {found}"))
    };
    assert_eq!(tables.len(), 3, "{found}");
    let docs = named("public.docs");
    assert_eq!(
        docs["register"],
        "SELECT ruvector_collection_register('docs', 'public.docs', \"column\" => 'embedding')"
    );
    assert_eq!(docs["indexes"][0]["valid"], false);
    assert!(docs["findings"][0].as_str().unwrap().contains("docs_e is invalid"));
    let parts = named("\"Odd Name\".\"Parts\"");
    assert_eq!((parts["partitions"].as_i64(), parts["rows"].as_f64()), (Some(2), Some(20.0)));
    assert_eq!(parts["indexes"].as_array().unwrap().len(), 2);
    assert_eq!(named("public.copy")["obstacle"], "only tables can be watched");
    let as_guest = run(&cluster, &["-U", "guest", "discover"]).code(0);
    assert!(as_guest.out.contains("its owner postgres"), "{}", as_guest.out);

    // What it says to do works.
    client.batch_execute("CREATE EXTENSION ruvector").unwrap();
    client.batch_execute(parts["register"].as_str().unwrap()).unwrap();
    let said = run(&cluster, &["discover"]).code(0);
    assert!(said.out.contains("registered as Parts"), "{}", said.out);
}

#[test]
fn what_is_registered_is_shown_with_its_health() {
    let (cluster, mut client) = start();
    spoil(&mut client, r#"{"mode": "observe"}"#);
    let found = run(&cluster, &["discover", "--json"]).code(0).json();
    assert_eq!(found["tables"][0]["collection"], "docs");
    assert!(found["tables"][0]["health"][0]["recall"].as_f64().is_some_and(|recall| recall < 0.9), "{found}");
}
