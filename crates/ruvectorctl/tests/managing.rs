//! Collections, throttles and leases from the command line.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use cluster::wait_for;
use common::{PATIENCE, run, start};

#[test]
fn tables_are_registered_made_adopted_and_routed() {
    let (cluster, mut client) = start();
    let run = |arguments: &[&str]| run(&cluster, arguments);
    client
        .batch_execute(
            "CREATE SCHEMA shop; ALTER DATABASE app SET search_path = shop, public;
             CREATE TABLE shop.plain (id int PRIMARY KEY, v vector(3));
             INSERT INTO shop.plain SELECT i, ARRAY[sin(i), cos(i), 1] FROM generate_series(1, 2000) i;
             ANALYZE shop.plain",
        )
        .unwrap();
    // A table is found as psql would find it.
    let settings = r#"{"mode": "observe"}"#;
    run(&["collection", "register", "plain", "plain", "--settings", settings]).code(0);
    assert_eq!(run(&["collection", "register", "plain", "plain"]).code(4).err.matches("42710").count(), 1);
    let unknown = run(&["collection", "register", "x", "not_there"]).code(2);
    assert!(
        unknown.err.contains("there is no table not_there") && unknown.err.contains("hint: "),
        "{}",
        unknown.err
    );
    let status = run(&["status", "--json"]).code(0).json();
    assert_eq!(status["collections"][0]["mode"], "observe", "{status}");
    run(&["collection", "unregister", "plain", "--json"]).code(0);
    run(&["collection", "unregister", "plain"]).code(4);

    assert!(run(&["collection", "routing"]).code(0).out.contains("No collection is managed"));
    let made =
        run(&["collection", "create", "docs", "3", "--partitions", "2", "--cold-when", "id < 0", "--json"]);
    assert_eq!(made.code(0).json()["schema"], "shop");
    run(&["collection", "create", "docs", "3"]).code(4);
    let before = run(&["collection", "weight", "docs", "1", "0.5", "--json"]).code(0).json();
    assert_eq!(before["former"], 1.0);
    run(&["collection", "weight", "docs", "1", "-1"]).code(4);
    let routing = run(&["collection", "routing", "--json"]).code(0).json();
    let of_one = routing.as_array().unwrap().iter().find(|row| row["partition_id"] == 1).unwrap();
    assert_eq!(of_one["weight"], 0.5, "{routing}");
    let shown = run(&["collection", "routing"]).code(0).out;
    assert!(shown.contains("docs") && shown.contains("cold") && shown.contains("33 %"), "{shown}");
    run(&["collection", "cold-when", "docs", "id < 10"]).code(0);
    run(&["collection", "cold-when", "docs", "not a condition"]).code(4);
    run(&["collection", "cold-when", "docs"]).code(0);

    let adopted = run(&["collection", "adopt", "plain", "--partitions", "2", "--batch", "100"]).code(0);
    assert!(adopted.out.contains("plain_before_adoption"), "{}", adopted.out);
    let rows =
        client.query_one("SELECT count(*), count(DISTINCT partition_id) FROM shop.plain", &[]).unwrap();
    assert_eq!((rows.get::<_, i64>(0), rows.get::<_, i64>(1)), (2000, 2));
    assert!(run(&["collection", "adoptions"]).code(0).out.contains("No adoption"));
    run(&["collection", "adopt-abort", "plain_before_adoption"]).code(1);
    // One that was interrupted is shown, and given up.
    client.batch_execute("SELECT ruvector._begin_adoption('shop.plain_before_adoption', 'late', 2, NULL, NULL, 'hnsw', 'cosine', '{}')").unwrap();
    let waiting = run(&["collection", "adoptions", "--json"]).code(0).json();
    assert_eq!(waiting[0]["collection"], "late", "{waiting}");
    run(&["collection", "adopt-abort", "plain_before_adoption"]).code(0);
    assert_eq!(run(&["collection", "adoptions", "--json"]).code(0).json(), serde_json::json!([]));
}

#[test]
fn writers_are_throttled_and_let_go() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, v vector(3));
             INSERT INTO docs SELECT i, ARRAY[sin(i), cos(i), 1] FROM generate_series(1, 500) i; ANALYZE docs",
        )
        .unwrap();
    let run = |arguments: &[&str]| run(&cluster, arguments);
    run(&["collection", "register", "docs", "docs", "--settings", r#"{"mode": "observe"}"#]).code(0);
    assert!(run(&["throttle", "list"]).code(0).out.contains("Nobody"));
    assert!(run(&["lease", "list"]).code(0).out.contains("Nothing"));
    // The usual rate is known after some samples with writes.
    let set = wait_for("a throttle", PATIENCE, || {
        client.batch_execute("INSERT INTO docs SELECT i, '[1,2,3]' FROM generate_series(1, 20) i").unwrap();
        let set = run(&["throttle", "set", "docs", "50", "--for", "10 minutes", "--json"]);
        (set.code == 0).then_some(set).or_else(|| {
            std::thread::sleep(std::time::Duration::from_millis(500));
            None
        })
    })
    .unwrap()
    .json();
    let lease = set["lease_id"].as_i64().unwrap().to_string();
    assert!(set["ends_at"].is_string(), "{set}");
    let leases = run(&["lease", "list", "--json"]).code(0).json();
    assert_eq!(leases[0]["kind"], "throttle", "{leases}");
    let shown = run(&["lease", "list"]).code(0).out;
    assert!(shown.contains("throttle") && shown.contains("docs"), "{shown}");
    wait_for("it to be in force", PATIENCE, || {
        let throttles = run(&["throttle", "list", "--json"]).code(0).json();
        (throttles[0]["throttle_pct"] == 50).then_some(())
    })
    .unwrap();
    assert!(run(&["throttle", "list"]).code(0).out.contains("50 %"));
    run(&["throttle", "set", "docs", "101"]).code(4);
    run(&["throttle", "set", "nobody", "10"]).code(4);
    run(&["lease", "release", &lease]).code(0);
    run(&["lease", "release", &lease]).code(1);
    run(&["lease", "release", "999"]).code(4);
    assert_eq!(run(&["lease", "list", "--json"]).code(0).json(), serde_json::json!([]));
}
