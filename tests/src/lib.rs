//! What the tests on real clusters share.
//!
//! `RUVECTOR_TEST_PG` chooses the PostgreSQL (18 or 15; 18 when unset).

pub mod keyed;
pub mod ledger;
pub mod rewriters;
pub mod shards;

use std::ops::Range;
use std::time::Duration;

use cluster::dataset::{Column, Embeddings};
use cluster::measure::Found;
use cluster::{Builder, Cluster, Version};
use postgres::Client;

/// How long a test waits for something that the healer does at its next sample or two.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The PostgreSQL under test.
///
/// # Panics
/// When `RUVECTOR_TEST_PG` names no supported version.
pub fn version() -> Version {
    let major = std::env::var("RUVECTOR_TEST_PG").unwrap_or_else(|_| "18".into());
    major.parse().ok().and_then(Version::from_major).expect("RUVECTOR_TEST_PG must be 18 or 15")
}

/// A cluster with the extension preloaded and created in the database `app`, sampling every second.
///
/// # Panics
/// When it does not start.
pub fn start() -> (Cluster, Client) {
    start_with(|builder| builder)
}

/// The same with settings of its own.
///
/// # Panics
/// When it does not start.
pub fn start_with(change: impl FnOnce(Builder) -> Builder) -> (Cluster, Client) {
    let builder = Cluster::builder(version()).preload(true).database("app");
    let cluster = change(builder).start().expect("a cluster");
    let mut client = cluster.connect("app").expect("a connection");
    client.batch_execute("CREATE EXTENSION ruvector CASCADE").expect("the extension");
    let every_second = r#"SELECT ruvector_healing_configure('{"sample_interval_seconds": 1}')"#;
    client.query_one(every_second, &[]).expect("a setting");
    (cluster, client)
}

/// A function whose index takes a process long that has begun with `app.nap`.
pub const SLOW: &str = "CREATE FUNCTION slow(e vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF current_setting('app.nap', true) <> '' THEN
            PERFORM pg_sleep(current_setting('app.nap')::float8);
        END IF;
        RETURN e;
    END $$";

/// A table `docs (id, embedding)` with the first `rows` rows of the data set.
///
/// # Panics
/// When it cannot be filled.
pub fn load_docs(client: &mut Client, rows: usize) -> Embeddings {
    let data = Embeddings::load().expect("the data set");
    client.batch_execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(384))").expect("a table");
    data.load_into(client, "docs", &Column::ID_AND_EMBEDDING, 0..rows).expect("rows");
    data
}

/// Inserts so many rows into a managed table of three dimensions, which routes them.
///
/// # Panics
/// When they cannot be inserted.
pub fn insert(client: &mut Client, table: &str, rows: u32) {
    let statement =
        format!("INSERT INTO {table} (embedding) SELECT '[1,2,3]' FROM generate_series(1, {rows})");
    client.batch_execute(&statement).expect("rows");
}

/// What ordinary sessions get of `docs`, asked with rows of the data set that are not in it.
///
/// # Panics
/// When a search fails.
pub fn recall_of_sessions(cluster: &Cluster, data: &Embeddings, queries: Range<usize>) -> Found {
    let (mut session, mut exact) = (cluster.connect("app"), cluster.connect("app"));
    let (session, exact) = (session.as_mut().expect("a connection"), exact.as_mut().expect("a connection"));
    cluster::measure::recall_of_sessions(session, exact, "docs", data, queries).expect("searches")
}

/// What collections and actions say of themselves, for a failure's message.
pub fn said(client: &mut Client) -> String {
    let query = "SELECT concat_ws(E'\n',
        (SELECT string_agg(concat_ws(' ', collection, state, lambda_cut, why_not), E'\n') FROM ruvector_healing_status()),
        (SELECT string_agg(to_jsonb(i)::text, E'\n') FROM (SELECT explanation, problems, remedy FROM ruvector_integrity_status()) i),
        (SELECT string_agg(to_jsonb(a)::text, E'\n') FROM (SELECT id, status, strategy, reason, detail, progress, error,
                (SELECT jsonb_agg(jsonb_build_array(s.step ->> 'kind', s.state) ORDER BY s.id)
                   FROM ruvector.action_steps s WHERE s.action_id = a.id) AS steps FROM ruvector.actions a) a))";
    client.query_one(query, &[]).map_or_else(|error| error.to_string(), |row| row.get(0))
}

/// The SQLSTATE and hint of a statement that must fail.
///
/// # Panics
/// When it does not fail, or not with an ERROR of the server.
pub fn refused(client: &mut Client, statement: &str) -> (String, String) {
    let error = client.batch_execute(statement).expect_err(statement);
    let report = error.as_db_error().expect("an ERROR of the server");
    (report.code().code().to_owned(), report.hint().unwrap_or_default().to_owned())
}
