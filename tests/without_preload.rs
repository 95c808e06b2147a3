//! A server that does not preload the library: the extension installs, and says what is missing.

use cluster::Cluster;
use tests::{refused, version};

#[test]
fn the_extension_installs_and_says_what_is_missing() {
    let cluster = Cluster::builder(version()).start().unwrap();
    let mut client = cluster.connect("postgres").unwrap();
    client
        .batch_execute(
            "CREATE EXTENSION ruvector CASCADE; CREATE TABLE t (e vector(3)); CREATE INDEX i ON t USING hnsw (e vector_l2_ops);
             SELECT ruvector_collection_register('t', 't')",
        )
        .unwrap();
    let (code, hint) = refused(&mut client, "SELECT ruvector_search_effort_set('i', 100)");
    assert_eq!(code, "55000");
    assert!(hint.contains("shared_preload_libraries"), "{hint}");
}

#[test]
fn without_pgvector_it_is_refused() {
    let cluster = Cluster::builder(version()).start().unwrap();
    let mut client = cluster.connect("postgres").unwrap();
    let (_, hint) = refused(&mut client, "CREATE EXTENSION ruvector");
    assert!(hint.contains("CASCADE"), "{hint}");
}
