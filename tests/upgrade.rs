//! The former version updated is the same as this version installed, and it keeps what it held.

use std::path::PathBuf;
use std::process::Command;

use cluster::{Cluster, wait_for};
use postgres::Client;
use tests::{PATIENCE, start, version};

/// The extension's objects as text, one line each, in an order that does not depend on when they were made.
const OBJECTS: &str = "
WITH members AS (
    SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'ruvector'),
 tables AS (SELECT c.* FROM pg_class c JOIN members m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid)
SELECT line FROM (
    SELECT concat_ws(' ', 'relation', t.oid::regclass, t.relkind, t.relpersistence, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(t.relacl) a)) AS line FROM tables t
    UNION ALL
    SELECT concat_ws(' ', 'column', t.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                     pg_get_expr(d.adbin, d.adrelid))
      FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum WHERE t.relkind = 'r'
    UNION ALL
    SELECT concat_ws(' ', 'constraint', t.oid::regclass, k.conname, pg_get_constraintdef(k.oid))
      FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid
    UNION ALL
    SELECT concat_ws(' ', 'index', pg_get_indexdef(x.indexrelid)) FROM tables t JOIN pg_index x ON x.indrelid = t.oid
    UNION ALL
    SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(g.oid), g.tgenabled) FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
    UNION ALL
    SELECT concat_ws(' ', 'function', pg_get_functiondef(p.oid), (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(p.proacl) a))
      FROM pg_proc p JOIN members m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
    UNION ALL
    SELECT concat_ws(' ', 'dumped', c.oid::regclass, e.extcondition[n.n])
      FROM pg_extension e, generate_subscripts(e.extconfig, 1) n (n), pg_class c WHERE e.extname = 'ruvector' AND c.oid = e.extconfig[n.n]
    UNION ALL
    SELECT concat_ws(' ', 'version', e.extversion) FROM pg_extension e WHERE e.extname = 'ruvector') x
 ORDER BY line COLLATE \"C\"";

fn objects(client: &mut Client) -> Vec<String> {
    client.query(OBJECTS, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Puts the install script of the former version where the server finds it; whole, whoever reads it meanwhile.
fn offer_former_version(cluster: &Cluster) {
    let pg_config = cluster::Installation::find(version()).unwrap().program("pg_config");
    let answer = Command::new(pg_config).arg("--sharedir").output().unwrap();
    let shared = PathBuf::from(String::from_utf8(answer.stdout).unwrap().trim());
    let script = "ruvector--0.1.0.sql";
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(script);
    let (whole, new) = (shared.join("extension").join(script), format!("{script}.{}", cluster.port()));
    std::fs::copy(from, whole.with_file_name(&new)).unwrap();
    std::fs::rename(whole.with_file_name(&new), whole).unwrap();
}

#[test]
fn old_and_upgrade_equal_fresh() {
    let (cluster, mut client) = start();
    let fresh = objects(&mut client);
    offer_former_version(&cluster);
    client.batch_execute("CREATE DATABASE old").unwrap();
    let mut old = cluster.connect("old").unwrap();
    old.batch_execute("CREATE EXTENSION vector; CREATE EXTENSION ruvector VERSION '0.1.0'").unwrap();
    old.batch_execute(
        r#"CREATE TABLE docs (id int, e vector(3)); INSERT INTO docs SELECT i, ARRAY[i, 1, 2]::vector FROM generate_series(1, 500) i;
           CREATE INDEX docs_i ON docs USING hnsw (e vector_l2_ops); ANALYZE docs;
           INSERT INTO ruvector.settings (settings) VALUES ('{"sample_interval_seconds": 1}');
           INSERT INTO ruvector.collections (name, relation, column_number, column_name) VALUES ('docs', 'docs', 2, 'e')"#,
    )
    .unwrap();
    // Until it is updated nothing is done with tables of another version, and it says so.
    let not_ready: String = old.query_one("SELECT ruvector._not_ready()", &[]).unwrap().get(0);
    assert!(not_ready.contains("ALTER EXTENSION"), "{not_ready}");
    old.batch_execute("ALTER EXTENSION ruvector UPDATE").unwrap();
    let upgraded = objects(&mut old);
    let missing: Vec<&String> = fresh.iter().filter(|line| !upgraded.contains(line)).collect();
    let surplus: Vec<&String> = upgraded.iter().filter(|line| !fresh.contains(line)).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nsurplus: {surplus:#?}");
    assert!(fresh.len() > 100, "{}", fresh.len());
    wait_for("a sample of what was registered before", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL";
        old.query_opt(query, &[]).unwrap()
    })
    .unwrap();
}

#[test]
fn the_former_version_can_be_dropped_under_this_library() {
    let (cluster, mut client) = start();
    offer_former_version(&cluster);
    client.batch_execute("CREATE DATABASE old").unwrap();
    let mut old = cluster.connect("old").unwrap();
    let install = "CREATE EXTENSION ruvector VERSION '0.1.0'";
    old.batch_execute(&format!("CREATE EXTENSION vector; {install}")).unwrap();
    old.batch_execute("DROP EXTENSION ruvector").unwrap();
    old.batch_execute(install).unwrap();
    old.batch_execute("DROP EXTENSION vector CASCADE").unwrap();
    let left: i64 = old
        .query_one("SELECT count(*) FROM pg_extension WHERE extname IN ('ruvector', 'vector')", &[])
        .unwrap()
        .get(0);
    assert_eq!(left, 0);
}

#[test]
fn what_is_held_back_ends_though_the_extension_is_of_another_version_meanwhile() {
    let (cluster, mut client) = start();
    cluster::faults::partitioned(&mut client, "docs", 1, 100).unwrap();
    client
        .batch_execute(
            r#"SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}')"#,
        )
        .unwrap();
    wait_for("its usual rate", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector.integrity WHERE snapshot #> '{ingestion,baseline,known}' IS NOT NULL";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap();
    client.query_one("SELECT ruvector_throttle_set('docs', 100, lease => '8 seconds')", &[]).unwrap();
    // As between installing a new library and ALTER EXTENSION UPDATE: the healer does nothing.
    let version: String = client
        .query_one("SELECT extversion FROM pg_extension WHERE extname = 'ruvector'", &[])
        .unwrap()
        .get(0);
    client.batch_execute("UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'ruvector'").unwrap();
    wait_for("the throttle's own end", PATIENCE, || {
        client.query_one("SELECT ruvector._throttles() = '[]'", &[]).unwrap().get::<_, bool>(0).then_some(())
    })
    .unwrap();
    let mut writer = cluster.connect("app").unwrap();
    writer
        .batch_execute("SET statement_timeout = '5s'; INSERT INTO docs_0 VALUES (7000, 0, '[1,2,3]')")
        .unwrap();
    let open = "SELECT count(*) FROM ruvector.leases WHERE ended_at IS NULL";
    assert_eq!(client.query_one(open, &[]).unwrap().get::<_, i64>(0), 1, "nobody has noted it");
    client
        .execute("UPDATE pg_extension SET extversion = $1 WHERE extname = 'ruvector'", &[&version])
        .unwrap();
    wait_for("its end in the table", PATIENCE, || {
        client.query_opt("SELECT 1 FROM ruvector.leases WHERE ended_because = 'expired'", &[]).unwrap()
    })
    .unwrap();
}
