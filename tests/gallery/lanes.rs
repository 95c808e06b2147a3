//! Lanes: a server each, on which rounds follow one another. In a round some collections are watched until they are
//! known to be well, hit, and watched until that is found out.

use std::time::{Duration, SystemTime};

use cluster::Cluster;
use cluster::faults::load::Scans;
use cluster::faults::{Fault, Level, Made, PARTITIONS, Site, Stage, memory, mixed};

use crate::record::Run;
use crate::session::{Session, Status, server};
use crate::{DWELL, Gallery, curves};

/// Samples after which a fault counts as not found.
const GIVE_UP: usize = 14;
/// Samples that are awaited after a growing fault has reached its level.
const AT_LEVEL: usize = 1;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Seconds between samples where load is at stake: sessions report their counters once a second, so that a second's
/// load would be chance.
pub(crate) const LOAD_INTERVAL_S: u32 = 4;

/// Faults of which several can be told apart on one server at one time: each has a collection of its own.
const OF_TABLES: [Fault; 7] = [
    Fault::HotPartition,
    Fault::SkewedLists,
    Fault::UntrainedLists,
    Fault::DriftedRows,
    Fault::FragmentedHnsw,
    Fault::FragmentedIvfflat,
    Fault::InvalidIndex,
];

/// Two at once, of different classes; the seed chooses.
const PAIRS: [[Fault; 2]; 4] = [
    [Fault::HotPartition, Fault::FragmentedHnsw],
    [Fault::UntrainedLists, Fault::FragmentedHnsw],
    [Fault::HotPartition, Fault::InvalidIndex],
    [Fault::DriftedRows, Fault::InvalidIndex],
];

/// A collection to be hit, by one fault or by two.
struct Subject<'a> {
    collection: String,
    stages: Vec<Stage<'a>>,
}

impl Subject<'_> {
    fn name(&self) -> &'static str {
        if self.stages.len() > 1 { "two_faults" } else { self.stages[0].fault().name() }
    }

    fn is_about_load(&self) -> bool {
        self.stages.iter().any(|stage| stage.fault() == Fault::HotPartition)
    }

    fn interval_s(&self) -> u32 {
        if self.is_about_load() { LOAD_INTERVAL_S } else { 1 }
    }
}

/// When a fault that grows with time begins to count: where its curve is at the boundary of stress.
fn counts_from(fault: Fault) -> f64 {
    match fault {
        Fault::PausedReplica | Fault::DelayedReplica => 5.0,
        Fault::LostReplica => 3.0,
        Fault::QueuedMaintenance | Fault::BlockedBuild => 0.5,
        Fault::HeldSnapshot | Fault::LockQueue => 1.0,
        _ => 0.0,
    }
}

/// When it has reached its level.
fn grows_until(fault: Fault, level: Level) -> f64 {
    if fault == Fault::LockQueue { counts_from(fault) } else { fault.figure(level) }
}

/// Damage to tables and indexes, all at one time.
pub(crate) fn tables(gallery: &Gallery) {
    let mut sets: Vec<Vec<Fault>> =
        OF_TABLES.iter().filter(|fault| gallery.wants(fault.name())).map(|fault| vec![*fault]).collect();
    if gallery.wants("two_faults") {
        sets.push(vec![]);
    }
    if sets.is_empty() {
        return;
    }
    let (cluster, mut session) = server(gallery);
    session.at_a_cost(gallery, "tables", |session| {
        let mut samples = 0;
        for &seed in &gallery.seeds {
            for level in Level::ALL {
                let mut subjects = vec![];
                for (number, faults) in sets.iter().enumerate() {
                    let drawn = seed * 2 + level as u64;
                    let pair = &PAIRS[drawn as usize % PAIRS.len()][..];
                    let faults = if faults.is_empty() { pair } else { faults };
                    let collection = format!("c{drawn}_{number}");
                    mixed(&mut session.client, &collection, drawn).expect("a table");
                    let stage =
                        |fault: &Fault| fault.at(Site::new(&cluster), &collection, drawn).expect("a stage");
                    subjects.push(Subject { stages: faults.iter().map(stage).collect(), collection });
                }
                let registered = SystemTime::now();
                for subject in &subjects {
                    session.register(&subject.collection, subject.interval_s());
                }
                samples += round(gallery, &cluster, session, &subjects, level, seed, Some(registered));
                for subject in &subjects {
                    session.forget(&subject.collection);
                }
            }
        }
        samples
    });
}

/// Faults of the whole server, one after the other, on one collection a seed.
pub(crate) fn one_by_one(gallery: &Gallery, lane: &str, faults: &[Fault]) {
    let faults: Vec<Fault> = faults.iter().copied().filter(|fault| gallery.wants(fault.name())).collect();
    if faults.is_empty() {
        return;
    }
    let (cluster, mut session) = server(gallery);
    let mut standbys = vec![];
    if faults.iter().any(|fault| fault.class() == "ReplicationLag") {
        for name in ["east", "west"] {
            let standby = Cluster::builder(gallery.version).standby_of(&cluster, name, true).start();
            standbys.push((format!("{name} (slot {name})"), standby.expect("a standby")));
        }
    }
    let limit =
        format!("SELECT ruvector_healing_configure('{{\"memory_limit_mib\": {}}}')", memory::LIMIT_MIB);
    session.client.batch_execute(&limit).expect("configured");
    let site = Site { server: &cluster, standbys: &standbys };
    session.at_a_cost(gallery, lane, |session| {
        let mut samples = 0;
        for &seed in &gallery.seeds {
            let collection = format!("c{seed}");
            mixed(&mut session.client, &collection, seed).expect("a table");
            session.register(&collection, 1);
            for &fault in &faults {
                session.configure(&collection, &format!("{{\"health_curves\": {}}}", curves(fault)));
                for level in Level::ALL {
                    let stage = fault.at(site, &collection, seed * 2 + level as u64).expect("a stage");
                    let subject = Subject { stages: vec![stage], collection: collection.clone() };
                    samples += round(gallery, &cluster, session, &[subject], level, seed, None);
                }
            }
            session.forget(&collection);
        }
        samples
    });
}

/// A fault under way.
struct Watch<'a, 'b> {
    subject: &'b Subject<'a>,
    made: Vec<Made<'a>>,
    began: SystemTime,
    /// When (the last of) it counts.
    counts: SystemTime,
    level_at: SystemTime,
    found: Option<Status>,
    done: bool,
}

/// Returns the samples taken. `since`: from when on all samples must have been normal; None: from now.
fn round<'a>(
    gallery: &Gallery,
    cluster: &Cluster,
    session: &mut Session,
    subjects: &[Subject<'a>],
    level: Level,
    seed: u64,
    since: Option<SystemTime>,
) -> usize {
    let scans: Vec<Scans> = subjects
        .iter()
        .filter(|subject| subject.is_about_load())
        .map(|subject| Scans::even(cluster, &subject.collection, PARTITIONS).expect("pgbench"))
        .collect();
    let rest: Vec<(String, bool)> = subjects
        .iter()
        // At four seconds a sample reading every index would take too long; these need none of it.
        .map(|subject| (subject.collection.clone(), !subject.is_about_load()))
        .collect();
    session.settle(&rest);
    let started = since.unwrap_or_else(SystemTime::now);
    let mut watches = vec![];
    for subject in subjects {
        let began = SystemTime::now();
        let made: Vec<Made<'a>> = subject
            .stages
            .iter()
            .map(|stage| stage.make(&mut session.client, level).expect("a fault"))
            .collect();
        let when = |of: &dyn Fn(Fault) -> f64| {
            let each = subject.stages.iter().zip(&made);
            each.map(|(stage, made)| made.reaches(of(stage.fault()))).max().expect("a stage")
        };
        let (counts, level_at) = (when(&counts_from), when(&|fault| grows_until(fault, level)));
        watches.push(Watch { subject, made, began, counts, level_at, found: None, done: false });
    }
    while watches.iter().any(|watch| !watch.done) {
        std::thread::sleep(LOOK);
        let status = session.status();
        for watch in watches.iter_mut().filter(|watch| !watch.done) {
            let Some(now) = status.iter().find(|one| one.collection == watch.subject.collection) else {
                continue;
            };
            let collection = &watch.subject.collection;
            let after = |session: &mut Session, time| session.samples(collection, time, time).len();
            // Of two faults the first may be found before the second is there: nothing can be said of both until then.
            let is_there = watch.subject.stages.len() == 1 || after(session, watch.counts + LOOK) >= 1;
            if watch.found.is_none() && now.state != "normal" && is_there {
                watch.found = session.of(collection);
            }
            watch.done = match &watch.found {
                Some(_) => SystemTime::now() > watch.level_at && after(session, watch.level_at) >= AT_LEVEL,
                None => after(session, watch.counts) >= GIVE_UP,
            };
        }
    }
    let mut taken = 0;
    for watch in &mut watches {
        for made in watch.made.drain(..) {
            made.undo(&mut session.client).expect("undone");
        }
    }
    for watch in watches {
        let run = judge(session, &watch, started, level, seed);
        taken += run.samples.len();
        gallery.say(&line(&run));
        gallery.records.lock().expect("no lane panicked").runs.push(run);
    }
    drop(scans);
    taken
}

fn judge(session: &mut Session, watch: &Watch<'_, '_>, started: SystemTime, level: Level, seed: u64) -> Run {
    let Subject { collection, stages } = watch.subject;
    let began = crate::record::seconds_between(watch.counts, watch.began);
    let samples = session.samples(collection, started, watch.counts);
    let changed = samples.iter().position(|sample| sample.at > began && sample.state != "normal");
    let quiet_before =
        samples.iter().filter(|sample| sample.at <= began).all(|sample| sample.state == "normal");
    let what = stages.iter().map(|stage| {
        format!(
            "{} {} {} {}",
            stage.fault().name(),
            stage.fault().figure(level),
            stage.fault().unit(),
            stage.target()
        )
    });
    let details = watch.found.as_ref().map(|status| status.problems.to_string()).unwrap_or_default();
    Run {
        fault: watch.subject.name().to_owned(),
        what: what.collect::<Vec<_>>().join(" and "),
        level: level.name().to_owned(),
        seed,
        expected: stages.iter().map(|stage| stage.fault().class().to_owned()).collect(),
        named: watch.found.as_ref().map(Status::classes).unwrap_or_default(),
        target_named: stages.iter().all(|stage| details.contains(stage.target())),
        delay: changed.map(|at| samples[..=at].iter().filter(|sample| sample.at > 0.0).count()),
        quiet_before,
        explanation: watch.found.as_ref().map(|status| status.explanation.clone()).unwrap_or_default(),
        reading: stages.iter().find_map(|stage| session.reading(collection, stage.target())),
        samples,
    }
}

fn line(run: &Run) -> String {
    let Run { fault, level, seed, named, delay, samples, .. } = run;
    let lambda = samples.iter().filter_map(|sample| sample.lambda).fold(f64::INFINITY, f64::min);
    let found = match delay {
        None => "NOT FOUND".to_owned(),
        Some(delay) => format!("{delay} samples (dwell {DWELL}), named {}", named.join(", ")),
    };
    let verdict = if run.is_right() && run.quiet_before { "" } else { "  <-- WRONG" };
    format!("{fault:<19} {level:<6} seed {seed:>2}: least λ {lambda:.2}, {found}{verdict}")
}
