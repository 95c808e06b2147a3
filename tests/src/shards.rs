//! Two servers: one with the extension and a managed collection, the other with a table that becomes a partition of it.

use cluster::{Cluster, wait_for};
use postgres::Client;

use crate::{PATIENCE, start_with, version};

/// Both servers, with a session on each.
pub struct Two {
    /// The one that heals.
    pub here: Cluster,
    /// A session of its superuser.
    pub client: Client,
    /// The other one.
    pub there: Cluster,
    /// A session of that one's superuser.
    pub other: Client,
}

impl Two {
    /// `docs` of two partitions here, and `public.docs_east` on the server `east`, which is no partition yet. `settings` are
    /// lines of the other server's configuration.
    ///
    /// # Panics
    /// When one of them does not start.
    pub fn start(settings: &[(&str, &str)]) -> Two {
        Self::start_of(settings, 3, "none")
    }

    /// The same with so many dimensions and this kind of index, on both servers.
    ///
    /// # Panics
    /// When one of them does not start.
    pub fn start_of(settings: &[(&str, &str)], dimensions: u32, index_method: &str) -> Two {
        let builder = Cluster::builder(version()).database("app");
        let builder = settings.iter().fold(builder, |builder, (name, value)| builder.setting(*name, value));
        let there = builder.start().expect("the other cluster");
        let mut other = there.connect("app").expect("a connection");
        other
            .batch_execute(&format!(
                "CREATE EXTENSION vector;
                 CREATE TABLE docs_east (id bigint PRIMARY KEY, embedding vector({dimensions}) NOT NULL, created_at timestamptz NOT NULL,
                                         metadata jsonb, partition_id integer NOT NULL)"
            ))
            .expect("a table");
        if index_method != "none" {
            let index =
                format!("CREATE INDEX ON docs_east USING {index_method} (embedding vector_cosine_ops)");
            other.batch_execute(&index).expect("an index");
        }
        let (here, mut client) = start_with(|builder| builder);
        client
            .batch_execute(&format!(
                "CREATE EXTENSION postgres_fdw;
                 CREATE SERVER east FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{}', port '{}', dbname 'app');
                 CREATE USER MAPPING FOR postgres SERVER east OPTIONS (user 'postgres', password 'sesame');
                 SELECT ruvector_collection_create('docs', {dimensions}, 2, index_method => '{index_method}')",
                there.socket_directory().display(),
                there.port()
            ))
            .expect("a collection");
        Two { here, client, there, other }
    }

    /// Makes the table there partition 3, with as much weight as the others.
    ///
    /// # Panics
    /// When it is refused.
    pub fn attach(&mut self) {
        let number: i32 = self
            .client
            .query_one("SELECT ruvector_collection_attach('docs', 'east', 'docs_east', weight => 1)", &[])
            .expect("a partition")
            .get(0);
        assert_eq!(number, 3);
        // The healer puts its share into shared memory.
        wait_for("rows that are routed there", PATIENCE, || {
            let query =
                "SELECT 1 FROM generate_series(0, 99) i WHERE ruvector_route('docs', 2 + 0 * i) = 3 LIMIT 1";
            self.client.query_opt(query, &[]).expect("routing")
        })
        .expect("rows that are routed there");
    }
}
