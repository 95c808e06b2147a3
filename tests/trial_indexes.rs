//! An index named `_ruvector_trial_<oid>` takes no part in planning.

use tests::{load_docs, start};

#[test]
fn a_trial_index_is_invisible_until_it_is_renamed() {
    let (_cluster, mut client) = start();
    load_docs(&mut client, 1_000);
    client
        .batch_execute(
            "CREATE INDEX _ruvector_trial_1 ON docs USING hnsw (embedding vector_cosine_ops);
             ANALYZE docs; SET enable_seqscan = off",
        )
        .unwrap();
    let mut plan = || -> String {
        let explain = "EXPLAIN SELECT id FROM docs ORDER BY embedding <=> (SELECT embedding FROM docs WHERE id = 1) LIMIT 5";
        let lines = client.query(explain, &[]).unwrap();
        lines.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
    };
    assert!(!plan().contains("_ruvector_trial_1"), "{}", plan());
    client.batch_execute("ALTER INDEX _ruvector_trial_1 RENAME TO docs_embedding").unwrap();
    let mut plan = || -> String {
        let explain = "EXPLAIN SELECT id FROM docs ORDER BY embedding <=> (SELECT embedding FROM docs WHERE id = 1) LIMIT 5";
        let lines = client.query(explain, &[]).unwrap();
        lines.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
    };
    assert!(plan().contains("docs_embedding"), "{}", plan());
}
