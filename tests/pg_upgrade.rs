//! pg_upgrade is not hindered, with the library preloaded in both clusters, and what was registered goes on in the new one.

use cluster::{Cluster, StopMode, wait_for};
use tests::{PATIENCE, said, start, version};

#[test]
fn a_cluster_is_upgraded_with_the_library_preloaded_and_its_collections_go_on() {
    let (old, mut client) = start();
    client
        .batch_execute(
            r#"CREATE TABLE docs (id int PRIMARY KEY, e vector(3));
               INSERT INTO docs SELECT i, ARRAY[i, 1, 2]::vector FROM generate_series(1, 500) i;
               CREATE INDEX docs_i ON docs USING hnsw (e vector_l2_ops); ANALYZE docs;
               SELECT ruvector_collection_register('docs', 'docs', settings => '{"mode": "observe"}');
               SELECT ruvector_search_effort_set('docs_i', 77);
               SELECT ruvector_collection_create('shared', 3, 2, index_method => 'none');
               INSERT INTO shared (embedding, metadata) SELECT '[1,2,3]', '{}' FROM generate_series(1, 50)"#,
        )
        .unwrap();
    let signed =
        "SELECT count(*) FROM ruvector.audit_log HAVING NOT EXISTS (SELECT FROM ruvector.audit_pending)";
    let rows: i64 = wait_for("samples, and all of it signed", PATIENCE, || {
        let query =
            "SELECT 1 FROM ruvector_integrity_status() WHERE lambda_cut IS NOT NULL HAVING count(*) = 2";
        client.query_opt(query, &[]).unwrap()?;
        client.query_opt(signed, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)))
    .get(0);
    drop(client);
    let new = Cluster::builder(version()).preload(true).start().unwrap();
    old.stop(StopMode::Fast).unwrap();
    new.stop(StopMode::Fast).unwrap();

    let programs = new.installation().program("");
    let output = new
        .server_command("pg_upgrade")
        .current_dir(new.socket_directory())
        .args([
            "--username",
            "postgres",
            "--old-port",
            &old.port().to_string(),
            "--new-port",
            &new.port().to_string(),
        ])
        .arg("--old-bindir")
        .arg(&programs)
        .arg("--new-bindir")
        .arg(&programs)
        .arg("--old-datadir")
        .arg(old.data_directory())
        .arg("--new-datadir")
        .arg(new.data_directory())
        .arg("--socketdir")
        .arg(new.socket_directory())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    new.restart().unwrap();
    let mut client = new.connect("app").unwrap();
    // Runtime state begins anew with the first sample; what was set is there, and the log goes on.
    wait_for("a sample in the new cluster", PATIENCE, || {
        let query = "SELECT 1 FROM ruvector.integrity i WHERE i.sampled_at > pg_postmaster_start_time() HAVING count(*) = 2";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", said(&mut client)));
    let row =
        client.query_one("SELECT index_id::regclass::text, effort FROM ruvector.search_effort", &[]).unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("docs_i", 77));
    let placed = "INSERT INTO shared (embedding, metadata) VALUES ('[1,2,3]', '{}') RETURNING partition_id";
    assert!((1..=2).contains(&client.query_one(placed, &[]).unwrap().get::<_, i32>(0)));
    let row = client.query_one("SELECT whole, sound_rows, fault FROM ruvector_audit_verify()", &[]).unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, i64>(1) >= rows, "{:?}", row.get::<_, Option<String>>(2));
    // It is another server: nothing beyond it until somebody says so.
    let changed = "SELECT DISTINCT snapshot #>> '{around,identity_changed}' FROM ruvector.integrity";
    let changed: String = client.query_one(changed, &[]).unwrap().get(0);
    assert!(changed.contains("system_identifier"), "{changed}");
}
