//! The data set arrives in a table exactly as it is in the file.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, not in what they share")]

use cluster::dataset::{Column, DatasetError, Embeddings};
use cluster::{Cluster, Installation};

#[test]
fn rows_arrive_exactly() {
    let embeddings = Embeddings::load().unwrap();
    let installations = Installation::all();
    assert!(!installations.is_empty(), "no PostgreSQL is set up; run toolchain/postgres18");
    for installation in installations {
        let cluster = Cluster::builder(installation.version()).start().unwrap();
        let mut client = cluster.connect("postgres").unwrap();
        client
            .batch_execute(
                "CREATE EXTENSION vector;
                 CREATE SCHEMA app;
                 CREATE TABLE app.doc (\"Id\" bigint PRIMARY KEY, embedding vector(384), section text, note text);
                 CREATE TABLE short (id int, embedding vector(384));",
            )
            .unwrap();
        let columns = [
            Column::Id("Id"),
            Column::Embedding("embedding"),
            Column::Section("section"),
            Column::Description("note"),
        ];
        let loaded = embeddings.load_into(&mut client, "app.doc", &columns, 0..12_000).unwrap();
        assert_eq!(loaded, 12_000);
        for row in [0, 7, 11_999] {
            let key = i64::try_from(row).unwrap();
            let found = client
                .query_one("SELECT embedding::real[], section, note FROM app.doc WHERE \"Id\" = $1", &[&key])
                .unwrap();
            assert_eq!(found.get::<_, Vec<f32>>(0), embeddings.row(row));
            assert_eq!(found.get::<_, String>(1), embeddings.package(row).section);
            assert_eq!(found.get::<_, String>(2), embeddings.package(row).description);
        }

        // A part, inside a transaction.
        let mut transaction = client.transaction().unwrap();
        let loaded =
            embeddings.load_into(&mut transaction, "short", &Column::ID_AND_EMBEDDING, 200..210).unwrap();
        assert_eq!(loaded, 10);
        transaction.commit().unwrap();
        let first: i32 = client.query_one("SELECT min(id) FROM short", &[]).unwrap().get(0);
        assert_eq!(first, 200);

        let error = embeddings.load_into(&mut client, "absent", &Column::ID_AND_EMBEDDING, 0..1).unwrap_err();
        assert!(matches!(error, DatasetError::Load { .. }), "{error}");
        let error =
            embeddings.load_into(&mut client, "short", &Column::ID_AND_EMBEDDING, 0..12_001).unwrap_err();
        assert!(matches!(error, DatasetError::OutOfRange { .. }), "{error}");
    }
}
