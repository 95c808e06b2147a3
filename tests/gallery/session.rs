//! A server of the gallery, and a session that asks its monitor.

use std::time::{Duration, SystemTime};

use cluster::faults::mixed;
use cluster::{Cluster, wait_for};
use postgres::Client;
use serde_json::Value;

use crate::record::{Cost, Sample, seconds_between};
use crate::{Gallery, SETTINGS};

/// For something that takes some seconds on a quiet machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Samples of a collection before it is hit.
const QUIET: i64 = 4;

/// A cluster with the extension in `app` and the data set at hand.
pub(crate) fn server(gallery: &Gallery) -> (Cluster, Session) {
    let cluster = Cluster::builder(gallery.version)
        .preload(true)
        .database("app")
        .setting("shared_buffers", "64MB")
        // Half of the lists of `mixed`: more than enough for good ones.
        .setting("ivfflat.probes", 8)
        .setting("autovacuum_naptime", "5s")
        .start()
        .expect("a cluster");
    let mut session = Session::open(&cluster);
    session.client.batch_execute("CREATE EXTENSION ruvector CASCADE").expect("the extension");
    // The data set is loaded before anybody watches.
    mixed(&mut session.client, "warm", 0).expect("the data set");
    session.client.batch_execute("DROP TABLE warm").expect("a table to drop");
    (cluster, session)
}

/// What the monitor says of a collection.
pub(crate) struct Status {
    pub(crate) collection: String,
    pub(crate) state: String,
    pub(crate) samples: i64,
    pub(crate) lambda: Option<f64>,
    pub(crate) problems: Value,
    pub(crate) explanation: String,
    pub(crate) note: Option<String>,
}

impl Status {
    /// Classes, weakest first.
    pub(crate) fn classes(&self) -> Vec<String> {
        let problems = self.problems.as_array().map(Vec::as_slice).unwrap_or_default();
        problems.iter().filter_map(|problem| problem["class"].as_str().map(str::to_owned)).collect()
    }
}

pub(crate) struct Session {
    pub(crate) client: Client,
}

impl Session {
    pub(crate) fn open(cluster: &Cluster) -> Self {
        Self { client: cluster.connect("app").expect("a connection") }
    }

    /// Registers a table to be looked at only.
    pub(crate) fn register(&mut self, collection: &str, interval_s: u32) {
        let mut settings: Value = serde_json::from_str(SETTINGS).expect("JSON");
        settings["sample_interval_seconds"] = interval_s.into();
        // A burst is spread over a window: one of a tenth of the default's length holds ten times as much of it.
        settings["load_floor_blocks"] = (5000 / interval_s).into();
        let query = "SELECT ruvector_collection_register($1, $1::text::regclass, settings => $2)";
        self.client.execute(query, &[&collection, &settings]).expect("registered");
    }

    pub(crate) fn configure(&mut self, collection: &str, settings: &str) {
        let query = "SELECT ruvector_healing_configure($1::text::jsonb, $2)";
        self.client.execute(query, &[&settings, &collection]).expect("configured");
    }

    /// Unregisters and drops it.
    pub(crate) fn forget(&mut self, collection: &str) {
        let query = "SELECT ruvector_collection_unregister($1)";
        self.client.execute(query, &[&collection]).expect("unregistered");
        let drop = format!("DROP TABLE IF EXISTS {collection}, {collection}_writes CASCADE");
        self.client.batch_execute(&drop).expect("a table to drop");
    }

    pub(crate) fn status(&mut self) -> Vec<Status> {
        let query = "SELECT collection, state, samples, lambda_cut, problems, explanation, note FROM ruvector_integrity_status()";
        let rows = self.client.query(query, &[]).expect("the status");
        let status = rows.iter().map(|row| Status {
            collection: row.get(0),
            state: row.get(1),
            samples: row.get(2),
            lambda: row.get(3),
            problems: row.get::<_, Option<Value>>(4).unwrap_or(Value::Null),
            explanation: row.get::<_, Option<String>>(5).unwrap_or_default(),
            note: row.get(6),
        });
        status.collect()
    }

    pub(crate) fn of(&mut self, collection: &str) -> Option<Status> {
        self.status().into_iter().find(|status| status.collection == collection)
    }

    /// Waits until these have had some samples, are normal, and all of their load, and with `true` every index, was
    /// measured.
    pub(crate) fn settle(&mut self, collections: &[(String, bool)]) {
        let mut status = vec![];
        let settled = wait_for("collections at rest", PATIENCE, || {
            status = self.status();
            let rests = |(name, whole): &(String, bool)| {
                let now = status.iter().find(|one| one.collection == *name);
                now.is_some_and(|now| {
                    now.samples >= QUIET
                        && now.state == "normal"
                        && now.lambda >= Some(0.8)
                        && self.is_read(name, *whole)
                })
            };
            collections.iter().all(rests).then_some(())
        });
        if let Err(error) = settled {
            for Status { collection, state, samples, lambda, explanation, note, .. } in status {
                println!(
                    "{collection}: {state} after {samples} samples, λ {lambda:?}, {explanation} {note:?}"
                );
            }
            panic!("{error}");
        }
    }

    fn is_read(&mut self, collection: &str, whole: bool) -> bool {
        let query = "SELECT bool_and(p #> '{load,known}' IS NOT NULL)
                        AND (NOT $2 OR coalesce((SELECT bool_and(x #> '{recall,known}' IS NOT NULL
                                 AND (x ->> 'method' <> 'ivfflat' OR x #> '{ivf,known}' IS NOT NULL))
                               FROM jsonb_array_elements(i.snapshot -> 'indexes') x), true))
                       FROM ruvector.collections c JOIN ruvector.integrity i ON i.collection_id = c.id,
                            jsonb_array_elements(i.snapshot -> 'partitions') p
                      WHERE c.name = $1 GROUP BY i.snapshot";
        let row = self.client.query_opt(query, &[&collection, &whole]).expect("the snapshot");
        row.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
    }

    /// The samples of a collection since a moment, timed against another.
    pub(crate) fn samples(&mut self, collection: &str, since: SystemTime, zero: SystemTime) -> Vec<Sample> {
        let query = "SELECT sampled_at, lambda_cut, state, problems FROM ruvector_integrity_history($1, $2)";
        let rows = self.client.query(query, &[&collection, &since]).expect("the history");
        let samples = rows.iter().map(|row| Sample {
            at: seconds_between(zero, row.get(0)),
            lambda: row.get(1),
            state: row.get(2),
            problems: row.get(3),
        });
        samples.collect()
    }

    /// An index as last measured, without its groups of lists.
    pub(crate) fn reading(&mut self, collection: &str, index: &str) -> Option<Value> {
        let query = "SELECT x #- '{ivf,known,groups}' FROM ruvector.collections c JOIN ruvector.integrity i ON i.collection_id = c.id,
                            jsonb_array_elements(i.snapshot -> 'indexes') x WHERE c.name = $1 AND x ->> 'name' = $2";
        self.client.query_opt(query, &[&collection, &index]).expect("the snapshot").map(|row| row.get(0))
    }

    fn healer_cpu_s(&mut self) -> Option<f64> {
        let query =
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'ruvector healer' AND datname = 'app'";
        cpu_s(self.client.query_opt(query, &[]).ok()??.get(0))
    }

    /// Does something and writes down what the healer took for it. It returns the samples that were taken.
    pub(crate) fn at_a_cost(&mut self, gallery: &Gallery, lane: &str, work: impl FnOnce(&mut Self) -> usize) {
        let before = self.healer_cpu_s();
        let samples = work(self) as u64;
        if let (Some(before), Some(after)) = (before, self.healer_cpu_s()) {
            let cost = Cost { lane: lane.to_owned(), samples, cpu_s: after - before };
            gallery.records.lock().expect("no lane panicked").costs.push(cost);
        }
    }
}

/// CPU that a process has taken, seconds.
fn cpu_s(pid: i32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of a hundredth of a second.
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / 100.0)
}
