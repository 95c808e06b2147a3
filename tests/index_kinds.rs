//! Every kind of index that pgvector has, by access method, type and distance: each is measured, found bloated, built anew
//! beside the old one, compared, exchanged and verified; and the reason where one is not judged.

use std::time::Duration;

use cluster::dataset::{Column, Embeddings};
use cluster::wait_for;
use postgres::Client;
use tests::{said, start};

const HEALING: Duration = Duration::from_secs(180);

/// Rows of the data set, and those that are left once the others are deleted.
const ROWS: usize = 1_600;
const LEFT: usize = 300;

/// Type of the column, what it is made from, and the index: method, key, operator class, options, predicate.
struct Kind {
    column: &'static str,
    value: &'static str,
    index: &'static str,
}

const VECTOR: (&str, &str) = ("vector(64)", "subvector(embedding, 1, 64)");
const HALFVEC: (&str, &str) = ("halfvec(64)", "subvector(embedding, 1, 64)::halfvec(64)");
const BIT: (&str, &str) = ("bit(384)", "binary_quantize(embedding)::bit(384)");
/// About a tenth of the dimensions; pgvector has no dense zeros in it.
const SPARSEVEC: (&str, &str) = (
    "sparsevec(384)",
    "(SELECT array_agg(CASE WHEN abs(x) > 0.08 THEN x ELSE 0 END ORDER BY n) FROM unnest(embedding::real[]) WITH ORDINALITY u(x, n))::vector(384)::sparsevec",
);

fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut add = |(column, value): (&'static str, &'static str), indexes: &[&'static str]| {
        kinds.extend(indexes.iter().map(|index| Kind { column, value, index }));
    };
    add(
        VECTOR,
        &[
            "ivfflat (e vector_l2_ops) WITH (lists = 5)",
            "ivfflat (e vector_ip_ops) WITH (lists = 5)",
            "ivfflat (e vector_cosine_ops) WITH (lists = 5)",
            "hnsw (e vector_l2_ops)",
            "hnsw (e vector_ip_ops)",
            "hnsw (e vector_cosine_ops)",
            "hnsw (e vector_l1_ops)",
            // Over an expression, and of some of the rows.
            "ivfflat ((e::halfvec(64)) halfvec_cosine_ops) WITH (lists = 2)",
            "ivfflat ((binary_quantize(e)::bit(64)) bit_hamming_ops) WITH (lists = 1)",
            "hnsw ((subvector(e, 1, 32)::vector(32)) vector_l2_ops)",
            "hnsw ((binary_quantize(e)::bit(64)) bit_jaccard_ops) WITH (m = 8)",
            "ivfflat (e vector_cosine_ops) WITH (lists = 2) WHERE id % 2 = 0",
            "hnsw ((e::halfvec(64)) halfvec_ip_ops) WITH (ef_construction = 80) WHERE id % 2 = 1",
        ],
    );
    add(
        HALFVEC,
        &[
            "ivfflat (e halfvec_l2_ops) WITH (lists = 5)",
            "ivfflat (e halfvec_ip_ops) WITH (lists = 5)",
            "ivfflat (e halfvec_cosine_ops) WITH (lists = 5)",
            "hnsw (e halfvec_l2_ops)",
            "hnsw (e halfvec_ip_ops)",
            "hnsw (e halfvec_cosine_ops)",
            "hnsw (e halfvec_l1_ops)",
        ],
    );
    add(
        SPARSEVEC,
        &[
            "hnsw (e sparsevec_l2_ops)",
            "hnsw (e sparsevec_ip_ops)",
            "hnsw (e sparsevec_cosine_ops)",
            "hnsw (e sparsevec_l1_ops)",
        ],
    );
    add(
        BIT,
        &[
            "ivfflat (e bit_hamming_ops) WITH (lists = 2)",
            "hnsw (e bit_hamming_ops)",
            "hnsw (e bit_jaccard_ops)",
        ],
    );
    kinds
}

fn source(client: &mut Client, rows: usize) {
    let data = Embeddings::load().unwrap();
    client.batch_execute("CREATE TABLE source (id int PRIMARY KEY, embedding vector(384))").unwrap();
    data.load_into(client, "source", &Column::ID_AND_EMBEDDING, 0..rows).unwrap();
}

#[test]
fn the_kinds_are_all_that_pgvector_has() {
    let (_cluster, mut client) = start();
    let query = "SELECT a.amname || ' ' || c.opcname FROM pg_opclass c JOIN pg_am a ON a.oid = c.opcmethod
                  WHERE a.amname IN ('ivfflat', 'hnsw') ORDER BY 1";
    let classes: Vec<String> = client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(classes.len() >= 20, "{classes:?}");
    for class in classes {
        let (method, name) = class.split_once(' ').unwrap();
        let plain =
            |kind: &Kind| kind.index.starts_with(method) && kind.index.contains(&format!("(e {name})"));
        assert!(kinds().iter().any(plain), "{class} is not healed by a test");
    }
}

#[test]
fn every_kind_is_compacted() {
    let (_cluster, mut client) = start();
    source(&mut client, ROWS);
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "observe", "verify_window_seconds": 1,
               "min_healing_interval_seconds": 0, "sample_rows": 1000}')"#,
        )
        .unwrap();
    for Kind { column, value, index } in kinds() {
        client
            .batch_execute(&format!(
                "CREATE TABLE docs (id int, e {column});
                 INSERT INTO docs SELECT id, {value} FROM source;
                 CREATE INDEX docs_i ON docs USING {index};
                 DELETE FROM docs WHERE id >= {LEFT}; ANALYZE docs;
                 SELECT ruvector_collection_register('docs', 'docs')"
            ))
            .unwrap_or_else(|error| panic!("{index}: {error:?}"));
        let figures =
            "SELECT pg_relation_size('docs_i'), pg_get_indexdef('docs_i'::regclass), 'docs_i'::regclass::oid";
        let before = client.query_one(figures, &[]).unwrap();
        wait_for("the bloat", HEALING, || {
            let query = "SELECT 1 FROM ruvector.integrity, jsonb_array_elements(snapshot -> 'indexes') i
                          WHERE i #> '{recall,known}' IS NOT NULL
                            AND (i #>> '{clean_bytes,known}')::float8 < 0.7 * (i #>> '{bytes,known}')::float8";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{index}: {error}\n{}", said(&mut client)));
        let action: i64 = client
            .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'compact_indexes')", &[])
            .unwrap_or_else(|error| panic!("{index}: {error:?}\n{}", said(&mut client)))
            .get(0);
        let status: String = client
            .query_one(&format!("CALL ruvector_healing_wait({action}, '3 minutes')"), &[])
            .unwrap()
            .get(0);
        let after = client.query_one(figures, &[]).unwrap();
        assert_eq!(status, "succeeded", "{index}\n{}", said(&mut client));
        assert!(after.get::<_, i64>(0) < before.get::<_, i64>(0) * 7 / 10, "{index}: it is smaller");
        assert_eq!(after.get::<_, &str>(1), before.get::<_, &str>(1), "{index}: and defined as before");
        assert_ne!(after.get::<_, u32>(2), before.get::<_, u32>(2), "{index}: but another one");
        client.batch_execute("SELECT ruvector_collection_unregister('docs'); DROP TABLE docs").unwrap();
    }
}

#[test]
fn lists_of_every_distance_are_rebuilt_where_they_can_be_judged_and_the_reason_is_said_where_not() {
    let (_cluster, mut client) = start();
    source(&mut client, 5_000);
    client
        .batch_execute(
            r#"SELECT ruvector_healing_configure('{"mode": "observe", "verify_window_seconds": 1,
               "min_healing_interval_seconds": 0}')"#,
        )
        .unwrap();
    let of = |(column, value): (&'static str, &'static str), class: &'static str| (column, value, class);
    for (column, value, class) in [
        of(VECTOR, "vector_l2_ops"),
        of(VECTOR, "vector_ip_ops"),
        of(VECTOR, "vector_cosine_ops"),
        of(HALFVEC, "halfvec_l2_ops"),
        of(HALFVEC, "halfvec_ip_ops"),
        of(HALFVEC, "halfvec_cosine_ops"),
    ] {
        client
            .batch_execute(&format!(
                "CREATE TABLE docs (id int, e {column});
                 INSERT INTO docs SELECT id, {value} FROM source WHERE id < 100;
                 CREATE INDEX docs_i ON docs USING ivfflat (e {class}) WITH (lists = 60);
                 INSERT INTO docs SELECT id, {value} FROM source WHERE id >= 100; ANALYZE docs;
                 SELECT ruvector_collection_register('docs', 'docs')"
            ))
            .unwrap_or_else(|error| panic!("{class}: {error:?}"));
        wait_for("the bad lists", HEALING, || {
            let query = "SELECT 1 FROM ruvector.integrity
                          WHERE remedy #>> '{plan,strategy}' = 'rebuild_centroids'
                             OR decision ->> 'strategy' = 'rebuild_centroids'";
            client.query_opt(query, &[]).unwrap()
        })
        .unwrap_or_else(|error| panic!("{class}: {error}\n{}", said(&mut client)));
        let action: i64 = client
            .query_one("SELECT action_id FROM ruvector_healing_execute('docs', 'rebuild_centroids')", &[])
            .unwrap()
            .get(0);
        let status: String = client
            .query_one(&format!("CALL ruvector_healing_wait({action}, '3 minutes')"), &[])
            .unwrap()
            .get(0);
        assert_eq!(status, "succeeded", "{class}\n{}", said(&mut client));
        client.batch_execute("SELECT ruvector_collection_unregister('docs'); DROP TABLE docs").unwrap();
    }
    // Centres of bits are bits: a k-means of ours is no yardstick for them.
    client
        .batch_execute(&format!(
            "CREATE TABLE docs (id int, e {}); INSERT INTO docs SELECT id, {} FROM source;
             CREATE INDEX docs_i ON docs USING ivfflat (e bit_hamming_ops) WITH (lists = 20); ANALYZE docs;
             SELECT ruvector_collection_register('docs', 'docs')",
            BIT.0, BIT.1
        ))
        .unwrap();
    let why: String = wait_for("the reason", HEALING, || {
        let query = "SELECT reading ->> 'unknown' FROM ruvector.readings WHERE kind = 'structure'";
        client.query_opt(query, &[]).unwrap()
    })
    .unwrap()
    .get(0);
    assert_eq!(why, "the lists of an index on bit(384) are not judged");
}
