//! The fault gallery: every fault of `cluster::faults` made for real, at both levels, over several seeds, with load in
//! the background; two at once; and look-alikes that are no faults. Was each found, how soon, and under its name?
//!
//! `make gallery` runs it; `GALLERY_SEEDS` (1), `GALLERY_FIRST_SEED` (0), `GALLERY_ONLY` (names, by commas) and
//! `RUVECTOR_TEST_PG` choose; `GALLERY_CONTINUE` adds to the report of an earlier part. It ends with a non-zero code where the numbers that it asks for are not reached.
//!
//! Time is compressed: samples are taken every second instead of every ten, and where the real thing takes hours the
//! health curves say so in seconds, see [`curves`].

mod lanes;
mod look_alikes;
mod record;
mod report;
mod session;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use cluster::Version;
use cluster::faults::Fault;

use record::Records;

/// What all collections of the gallery are registered with.
pub(crate) const SETTINGS: &str = r#"{"mode": "observe", "structure_interval_seconds": 1, "panel_interval_seconds": 600,
    "panel_queries": 32}"#;

/// Curves for what would take hours: a second of waiting stands for two minutes, one of a held snapshot for an hour, one
/// of absence for ten seconds.
pub(crate) fn curves(fault: Fault) -> &'static str {
    match fault {
        Fault::QueuedMaintenance | Fault::BlockedBuild => {
            r#"{"job_wait": [[0.125, 1], [0.5, 0.7], [5, 0.4], [60, 0]]}"#
        }
        Fault::HeldSnapshot => r#"{"held_horizon": [[0.167, 1], [1, 0.7], [6, 0.4], [48, 0]]}"#,
        Fault::LostReplica => r#"{"replica_gone": [[1, 1], [3, 0.7], [12, 0.4], [60, 0]]}"#,
        _ => "{}",
    }
}

/// Faults of whole servers, by the server that they happen on one after the other.
const LANES: [(&str, &[Fault]); 4] = [
    ("maintenance", &[Fault::QueuedMaintenance, Fault::BlockedBuild, Fault::HeldSnapshot]),
    ("limits", &[Fault::FullMemory, Fault::LockQueue]),
    ("paused replicas", &[Fault::PausedReplica]),
    ("late and lost replicas", &[Fault::DelayedReplica, Fault::LostReplica]),
];

/// Samples in a row that a change of state needs (`dwell_samples`).
pub(crate) const DWELL: usize = 3;
/// Samples beyond the dwell within which a severe fault must be found.
pub(crate) const BEYOND_DWELL: usize = 2;

/// What to run, and where what was seen goes.
pub(crate) struct Gallery {
    pub(crate) version: Version,
    pub(crate) seeds: Vec<u64>,
    only: Vec<String>,
    began: Instant,
    pub(crate) records: Mutex<Records>,
}

impl Gallery {
    fn from_environment() -> Self {
        let number = |name: &str, default: u64| {
            std::env::var(name).map_or(default, |text| {
                text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}"))
            })
        };
        let first = number("GALLERY_FIRST_SEED", 0);
        let only = std::env::var("GALLERY_ONLY").unwrap_or_default();
        let only: Vec<String> =
            only.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        for name in &only {
            let known = Fault::ALL.iter().any(|fault| fault.name() == name)
                || ["two_faults", "look_alikes"].contains(&name.as_str());
            assert!(known, "GALLERY_ONLY: there is no {name}");
        }
        let version = tests::version();
        let earlier = match std::env::var_os("GALLERY_CONTINUE") {
            Some(_) => report::read(&folder(), version).expect("the report of an earlier part"),
            None => Records::default(),
        };
        Self {
            version,
            seeds: (first..first + number("GALLERY_SEEDS", 1)).collect(),
            only,
            began: Instant::now(),
            records: Mutex::new(earlier),
        }
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    pub(crate) fn say(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs();
        println!("{:>3}:{:02}  {text}", seconds / 60, seconds % 60);
    }
}

/// Where the report goes.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../build")
}

fn main() -> ExitCode {
    let gallery = Gallery::from_environment();
    gallery.say(&format!(
        "PostgreSQL {}, seeds {}–{}",
        gallery.version,
        gallery.seeds.first().copied().unwrap_or(0),
        gallery.seeds.last().copied().unwrap_or(0)
    ));
    std::thread::scope(|scope| {
        scope.spawn(|| lanes::tables(&gallery));
        for (lane, faults) in LANES {
            scope.spawn(|| lanes::one_by_one(&gallery, lane, faults));
        }
        scope.spawn(|| look_alikes::lane(&gallery));
    });
    let records = gallery.records.into_inner().expect("no lane panicked");
    let folder = folder();
    report::write(&folder, gallery.version, &records).expect("the report can be written");
    let text = report::text(gallery.version, &records);
    print!("{text}");
    let missed = report::missed(&records);
    for reason in &missed {
        println!("not reached: {reason}");
    }
    println!("report: {}", folder.join("gallery.html").canonicalize().expect("it was written").display());
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
