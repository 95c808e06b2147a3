//! What looks like a fault and is none: nothing may be found.

use std::time::{Duration, SystemTime};

use cluster::faults::load::{EVEN_RATE, Scans};
use cluster::faults::{Fault, PARTITIONS, mixed};
use cluster::{Cluster, wait_for};

use crate::lanes::LOAD_INTERVAL_S;
use crate::record::{Quiet, Sample};
use crate::session::{PATIENCE, Session, server};
use crate::{Gallery, curves};

/// Samples over which each is watched from its beginning.
const WATCHED: usize = 12;

/// A burst is shorter than three samples.
const BURST: Duration = Duration::from_secs(LOAD_INTERVAL_S as u64);

/// The table `{0}` with an index of both methods.
const PLAIN: &str =
    "CREATE TABLE {0} (id bigint GENERATED ALWAYS AS IDENTITY, part int, embedding vector(128));
    INSERT INTO {0} (part, embedding) SELECT 0, embedding FROM fault_rows ORDER BY md5(id || '{1}') LIMIT {2};
    CREATE INDEX ON {0} USING hnsw (embedding vector_cosine_ops);
    CREATE INDEX ON {0} USING ivfflat (embedding vector_cosine_ops) WITH (lists = 16);";

/// Load that goes on as long as it is watched, where there is one.
type Happened = Result<Option<Scans>, Box<dyn std::error::Error>>;

/// One of them: what it is, how many rows its plain table has (None: `mixed`), and what happens in it.
struct LookAlike {
    name: &'static str,
    rows: Option<u32>,
    /// Whether all indexes of `mixed` are made alike: rows that are written touch many more pages of an hnsw index.
    alike: bool,
    event: fn(&Cluster, &mut Session, &str) -> Happened,
}

fn nothing(_: &Cluster, _: &mut Session, _: &str) -> Happened {
    Ok(None)
}

const LOOK_ALIKES: [LookAlike; 8] = [
    LookAlike {
        name: "bulk load",
        rows: None,
        alike: true,
        event: |_, session, name| {
            // Twice as many rows as there were, of the same kind, into all partitions.
            session.client.batch_execute(&format!(
                "INSERT INTO {name} (part, embedding) SELECT id % {PARTITIONS}, embedding FROM fault_rows ORDER BY md5(id::text) LIMIT 8000"
            ))?;
            Ok(None)
        },
    },
    LookAlike {
        name: "nightly analyze",
        rows: None,
        alike: false,
        event: |_, session, name| {
            for _ in 0..3 {
                session.client.batch_execute(&format!("VACUUM (ANALYZE, FREEZE) {name}"))?;
            }
            Ok(None)
        },
    },
    LookAlike {
        name: "short burst",
        rows: None,
        alike: false,
        event: |cluster, _, name| {
            let _hot = Scans::start(cluster, &[format!("{name}_3")], EVEN_RATE * 5.0)?;
            std::thread::sleep(BURST);
            Ok(None)
        },
    },
    LookAlike {
        name: "updates",
        rows: None,
        alike: true,
        event: |_, session, name| {
            // A tenth of the rows, as often as autovacuum lets pass.
            session
                .client
                .batch_execute(&format!("UPDATE {name} SET embedding = embedding WHERE id % 10 = 0"))?;
            Ok(None)
        },
    },
    LookAlike {
        name: "one partition only",
        rows: Some(1500),
        alike: false,
        event: |cluster, _, name| Ok(Some(Scans::start(cluster, &[name.to_owned()], EVEN_RATE * 5.0)?)),
    },
    LookAlike { name: "tiny collection", rows: Some(5), alike: false, event: nothing },
    LookAlike { name: "empty collection", rows: Some(0), alike: false, event: nothing },
    LookAlike { name: "idle collection", rows: None, alike: false, event: nothing },
];

pub(crate) fn lane(gallery: &Gallery) {
    if !gallery.wants("look_alikes") {
        return;
    }
    let (cluster, mut session) = server(gallery);
    let mut elsewhere = cluster.connect("postgres").expect("a connection");
    session.at_a_cost(gallery, "look-alikes", |session| {
        let mut samples = 0;
        for &seed in &gallery.seeds {
            samples += round(gallery, &cluster, session, &mut elsewhere, seed);
        }
        samples
    });
}

fn round(
    gallery: &Gallery,
    cluster: &Cluster,
    session: &mut Session,
    elsewhere: &mut postgres::Client,
    seed: u64,
) -> usize {
    let collections: Vec<(String, &LookAlike)> =
        LOOK_ALIKES.iter().enumerate().map(|(number, like)| (format!("l{seed}_{number}"), like)).collect();
    for (name, like) in &collections {
        match like.rows {
            None => {
                mixed(&mut session.client, name, seed).expect("a table");
                for part in (1..PARTITIONS).step_by(2).filter(|_| like.alike) {
                    let script = format!(
                        "DROP INDEX {name}_{part}_index;
                         CREATE INDEX {name}_{part}_index ON {name}_{part} USING hnsw (embedding vector_cosine_ops) WITH (m = 8, ef_construction = 32)"
                    );
                    session.client.batch_execute(&script).expect("an index");
                }
            }
            Some(rows) => {
                let script = PLAIN
                    .replace("{0}", name)
                    .replace("{1}", &seed.to_string())
                    .replace("{2}", &rows.to_string());
                session.client.batch_execute(&script).expect("a table");
            }
        }
    }
    let registered = SystemTime::now();
    for (name, like) in &collections {
        session.register(name, if like.name == "short burst" { LOAD_INTERVAL_S } else { 1 });
    }
    let even = Scans::even(cluster, &collections[2].0, PARTITIONS).expect("pgbench");
    // The small ones can be measured in part only.
    let rest: Vec<(String, bool)> = collections
        .iter()
        .filter(|(_, like)| like.rows.is_none())
        .map(|(name, like)| (name.clone(), like.name != "short burst"))
        .collect();
    session.settle(&rest);
    let mut taken = record(gallery, session, &collections, "before", registered, seed, None);

    let began = SystemTime::now();
    let mut lasting = vec![];
    for (name, like) in &collections {
        lasting.extend((like.event)(cluster, session, name).expect("a look-alike"));
    }
    watch(session, &collections, began);
    taken += record(gallery, session, &collections, "", began, seed, None);
    drop((lasting, even));

    // A snapshot that is held in another database keeps no dead row of this one.
    for (name, _) in &collections {
        session.configure(name, &format!("{{\"health_curves\": {}}}", curves(Fault::HeldSnapshot)));
    }
    elsewhere
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
        .expect("a snapshot");
    let began = SystemTime::now();
    watch(session, &collections, began);
    taken +=
        record(gallery, session, &collections, "", began, seed, Some("snapshot held in another database"));
    elsewhere.batch_execute("COMMIT").expect("committed");
    for (name, _) in &collections {
        session.configure(name, r#"{"health_curves": {}}"#);
    }

    let began = SystemTime::now();
    session.client.batch_execute("SELECT pg_stat_reset()").expect("reset");
    watch(session, &collections, began);
    taken += record(gallery, session, &collections, "", began, seed, Some("statistics reset"));

    let began = SystemTime::now();
    cluster.restart().expect("a restart");
    *session = Session::open(cluster);
    *elsewhere = cluster.connect("postgres").expect("a connection");
    watch(session, &collections, began);
    taken += record(gallery, session, &collections, "", began, seed, Some("restart"));

    for (name, _) in &collections {
        session.forget(name);
    }
    taken
}

/// Waits until each has been sampled often enough.
fn watch(session: &mut Session, collections: &[(String, &LookAlike)], began: SystemTime) {
    let slow = |like: &LookAlike| if like.name == "short burst" { WATCHED / 2 } else { WATCHED };
    wait_for("samples of look-alikes", PATIENCE, || {
        collections
            .iter()
            .all(|(name, like)| session.samples(name, began, began).len() >= slow(like))
            .then_some(())
    })
    .expect("they are sampled");
}

/// Writes down what was seen since: one entry a collection, or, of what concerns all of them, one for all. Returns the
/// number of samples.
fn record(
    gallery: &Gallery,
    session: &mut Session,
    collections: &[(String, &LookAlike)],
    when: &str,
    began: SystemTime,
    seed: u64,
    of_all: Option<&str>,
) -> usize {
    let mut all = vec![];
    let mut taken = 0;
    for (name, like) in collections {
        let samples = session.samples(name, began, began);
        taken += samples.len();
        let what = format!("{} {when}", of_all.unwrap_or(like.name)).trim().to_owned();
        all.push(Quiet { what, seed, alarms: alarms(like.name, &samples), samples });
    }
    if of_all.is_some() {
        let least = |quiet: &Quiet| {
            quiet.samples.iter().filter_map(|sample| sample.lambda).fold(f64::INFINITY, f64::min)
        };
        let alarms = all.iter().flat_map(|quiet| quiet.alarms.clone()).collect();
        all.sort_by(|a, b| least(a).total_cmp(&least(b)));
        all.truncate(1);
        all.iter_mut().for_each(|quiet| quiet.alarms = Vec::clone(&alarms));
    }
    for quiet in &all {
        if !quiet.alarms.is_empty() || when.is_empty() {
            let least = quiet.samples.iter().filter_map(|sample| sample.lambda).fold(f64::INFINITY, f64::min);
            let verdict = if quiet.alarms.is_empty() {
                "quiet".to_owned()
            } else {
                format!("ALARM {}  <-- WRONG", quiet.alarms.join(", "))
            };
            gallery.say(&format!("{:<33} seed {seed:>2}: least λ {least:.2}, {verdict}", quiet.what));
        }
    }
    gallery.records.lock().expect("no lane panicked").quiet.extend(all);
    taken
}

fn alarms(of: &str, samples: &[Sample]) -> Vec<String> {
    let mut alarms: Vec<String> = samples
        .iter()
        .filter(|sample| matches!(sample.state.as_str(), "stress" | "critical"))
        .map(|sample| format!("{of}: {} {}", sample.state, sample.problems.join("+")))
        .collect();
    alarms.dedup();
    alarms
}
