//! What the tests of the command line share: a cluster, and the program run against it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cluster::dataset::{Column, Embeddings};
use cluster::{Builder, Cluster, Version, wait_for};
use postgres::Client;
use serde_json::Value;

/// How long a test waits for something that the healer does at its next sample or two, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The PostgreSQL under test, as in `tests/`.
pub(crate) fn version() -> Version {
    let major = std::env::var("RUVECTOR_TEST_PG").unwrap_or_else(|_| "18".into());
    major.parse().ok().and_then(Version::from_major).expect("RUVECTOR_TEST_PG must be 18 or 15")
}

/// A cluster with the extension in the database `app`, sampling every second.
pub(crate) fn start() -> (Cluster, Client) {
    start_with(Cluster::builder(version()))
}

pub(crate) fn start_with(builder: Builder) -> (Cluster, Client) {
    let cluster = builder.preload(true).database("app").start().unwrap();
    let mut client = cluster.connect("app").unwrap();
    client
        .batch_execute(
            r#"CREATE EXTENSION ruvector CASCADE;
               SELECT ruvector_healing_configure('{"sample_interval_seconds": 1, "verify_window_seconds": 1}')"#,
        )
        .unwrap();
    (cluster, client)
}

/// A collection `docs` with an index built on 200 rows and 10,800 loaded after, in a weak state.
pub(crate) fn spoil(client: &mut Client, settings: &str) {
    let data = Embeddings::load().unwrap();
    client.batch_execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(384))").unwrap();
    data.load_into(client, "docs", &Column::ID_AND_EMBEDDING, 0..200).unwrap();
    client
        .batch_execute(
            "CREATE INDEX docs_i ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)",
        )
        .unwrap();
    data.load_into(client, "docs", &Column::ID_AND_EMBEDDING, 200..11_000).unwrap();
    client
        .batch_execute(&format!(
            "ANALYZE docs; SELECT ruvector_collection_register('docs', 'docs', settings => '{settings}')"
        ))
        .unwrap();
    wait_for("a weak state", PATIENCE, || {
        client
            .query_opt("SELECT 1 FROM ruvector_integrity_status() WHERE state IN ('stress', 'critical')", &[])
            .unwrap()
    })
    .unwrap();
}

/// The program, with no connection setting of the caller's environment.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ruvectorctl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// The program against the database `app` of a cluster.
pub(crate) fn against(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("-d").arg(cluster.uri("app")).args(arguments);
    command
}

/// What a run said, and its exit code.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }

    /// Fails unless the exit code is this one.
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }
}

pub(crate) fn said(mut command: Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Said {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// Runs it against a cluster.
pub(crate) fn run(cluster: &Cluster, arguments: &[&str]) -> Said {
    said(against(cluster, arguments))
}
