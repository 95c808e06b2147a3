//! The library goes from the preload while it holds something back: nothing stays held back, tables stay writable, and the
//! leases end in their tables when it is there again.

use cluster::wait_for;
use postgres::Client;
use tests::{PATIENCE, said, start};

fn one<T: for<'a> postgres::types::FromSql<'a>>(client: &mut Client, query: &str) -> T {
    client.query_one(query, &[]).unwrap().get(0)
}

#[test]
fn a_library_that_is_not_loaded_any_more_holds_nothing_back() {
    let (cluster, mut client) = start();
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "observe"}');
               SELECT ruvector_collection_create('docs', 3, 4);
               INSERT INTO docs (embedding) SELECT ARRAY[i, 1, 2]::vector FROM generate_series(1, 400) i;"#,
        )
        .unwrap();
    wait_for("its usual rate", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE snapshot #> '{ingestion,baseline,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    // A stop for a quarter of a minute, and no new rows in the first partition for as long.
    client
        .batch_execute(
            "SELECT ruvector_throttle_set('docs', 100, lease => '15 seconds');
             UPDATE ruvector.routing SET weight = 0, weight_after = 1, lease_until = now() + interval '15 seconds' WHERE partition_id = 1",
        )
        .unwrap();
    wait_for("the throttle in force", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector_throttles()", &[]).unwrap()
    })
    .unwrap();

    client.batch_execute("ALTER SYSTEM SET shared_preload_libraries = 'vector'").unwrap();
    cluster.restart().unwrap();
    let mut client = cluster.connect("app").unwrap();
    client
        .batch_execute("SET statement_timeout = '5s'; INSERT INTO docs (embedding) SELECT '[1,2,3]' FROM generate_series(1, 200)")
        .unwrap();
    assert_eq!(one::<i64>(&mut client, "SELECT count(*) FROM docs"), 600, "nothing holds writers back");
    let healers: i64 =
        one(&mut client, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ruvector%'");
    assert_eq!(healers, 0);
    let (code, hint) =
        tests::refused(&mut client, "SELECT ruvector_healing_execute('docs', 'compact_indexes')");
    assert!(code == "55000" && hint.contains("shared_preload_libraries"), "{code} {hint}");

    client.batch_execute("ALTER SYSTEM SET shared_preload_libraries = 'ruvector'").unwrap();
    cluster.restart().unwrap();
    let mut client = cluster.connect("app").unwrap();
    wait_for("the leases to end in their tables too", PATIENCE, || {
        let query = "SELECT 1 WHERE NOT EXISTS (SELECT FROM ruvector_leases()) AND NOT EXISTS (SELECT FROM ruvector_throttles())
                        AND (SELECT weight = 1 AND lease_until IS NULL FROM ruvector.routing WHERE partition_id = 1)";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    client.batch_execute("INSERT INTO docs (embedding) VALUES ('[1,2,3]')").unwrap();
}
