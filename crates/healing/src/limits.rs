//! What a plan must keep to: disk, time, the state, the parameters of a manual request; and why there may be no plan.

use serde::{Deserialize, Serialize};

use crate::build_memory::{BUILD_MARGIN, build_memory};
use crate::config::Config;
use crate::integrity::IntegrityState;
use crate::ivf::BUILD_MEMORY_BYTES;
use crate::params::Params;
use crate::snapshot::{Memory, Reading, Snapshot};

/// Why a remedy makes no plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum NotApplicable {
    /// Nothing would change: the outcome is a no-op.
    #[error("there is nothing to do: {detail}")]
    NothingToDo {
        /// Why.
        detail: String,
    },
    /// It does not treat this problem.
    #[error("it does not treat {class}: {detail}")]
    NotTreated {
        /// Class name of the problem.
        class: String,
        /// Why.
        detail: String,
    },
    /// No index to act on.
    #[error("there is no target: {detail}")]
    NoTarget {
        /// Why.
        detail: String,
    },
    /// As much as the limits allow at once is expected to help less than verification asks for: it would be taken back.
    #[error("as much as may be done at once is too little: {detail}")]
    DoseTooSmall {
        /// The figures, and which limit to raise.
        detail: String,
    },
    /// Too little free disk.
    #[error("it needs {needed_bytes} bytes of disk, {allowed_bytes} of {free_bytes} free bytes may be used")]
    DiskHeadroom {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes that the plan may use.
        allowed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The index is being built, or dropped by somebody.
    #[error("{index} is being built or dropped")]
    IndexBuilding {
        /// Its name.
        index: String,
    },
    /// It would take longer than is allowed.
    #[error("it would take about {estimated_s:.0} s, {allowed_s:.0} s are allowed")]
    TooLong {
        /// Estimate, seconds.
        estimated_s: f64,
        /// Limit, seconds.
        allowed_s: f64,
    },
    /// A reading that the plan needs is missing.
    #[error("a measurement is missing: {detail}")]
    MeasurementMissing {
        /// Which, and why.
        detail: String,
    },
    /// Rows are not ours to move.
    #[error("its rows are not ours to move: {detail}")]
    RowsNotOurs {
        /// Why.
        detail: String,
    },
    /// Nothing is there that could start a replica.
    #[error("there is no orchestrator: {detail}")]
    NoOrchestrator {
        /// What is missing.
        detail: String,
    },
    /// Writers of the collection wait, and what waits holds a snapshot that a build would have to wait for.
    #[error("its writers are throttled; nothing is built before that is over")]
    Throttled,
    /// Too little memory is free for an index as good as it should be.
    #[error("there is too little memory: {detail}")]
    TooLittleMemory {
        /// The figures.
        detail: String,
    },
    /// Maintenance of the collection is paused, and what builds is maintenance too.
    #[error("its maintenance is paused; nothing is built before that is over, unless a human asks for it")]
    MaintenancePaused,
    /// `manage_search_effort` is off.
    #[error("the search effort is not ours to set (manage_search_effort is off)")]
    EffortNotManaged,
}

/// Share of the free disk that a build may take at its peak, with its WAL and its temporary files.
pub(crate) const PEAK_SHARE: f64 = 0.9;

/// Bytes that builds take at their peak: their products, as much WAL and, where they sort, as many temporary files.
pub(crate) fn peak_bytes(product_bytes: u64, sorts: bool) -> u64 {
    product_bytes.saturating_mul(if sorts { 3 } else { 2 })
}

/// Memory that a build is planned for, bytes: at most what lists are planned with by default, and within what is free now.
/// What it gets is decided when it begins, by what is free then.
fn planned_memory(memory: &Memory) -> u64 {
    let free = memory.limit_bytes as f64 * (1.0 - memory.used_pct / 100.0).clamp(0.0, 1.0);
    // At most 2^30.
    (build_memory(BUILD_MARGIN * BUILD_MEMORY_BYTES as f64, 0.0, Some(free)) / BUILD_MARGIN) as u64
}

/// What a plan must keep to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Settings in force.
    pub config: Config,
    /// State of the collection.
    pub state: IntegrityState,
    /// Free bytes of disk; None: not known, then nothing is planned that needs disk.
    pub disk_free_bytes: Option<u64>,
    /// Memory that a build is planned for, bytes: what the machine is expected to have for it; None: not known, then
    /// [`crate::ivf::BUILD_MEMORY_BYTES`].
    pub build_memory_bytes: Option<u64>,
    /// Whether the collection's writers are throttled.
    #[serde(default)]
    pub throttled: bool,
    /// Whether the collection's maintenance is paused.
    #[serde(default)]
    pub maintenance_paused: bool,
    /// Share of the gain in λ that the simulated placement promised when rows of this part were last moved, and that was
    /// measured then; None: not known, then the placement is believed.
    #[serde(default)]
    pub gain_share: Option<f64>,
    /// λ of this part that each row brought when rows of it were last moved; None: not known.
    #[serde(default)]
    pub gain_per_row: Option<f64>,
    /// A human names the strategy: what is expected to be too little is theirs to try.
    #[serde(default)]
    pub by_hand: bool,
    /// Parameters of a manual request.
    pub params: Params,
}

impl Limits {
    /// The limits of a collection.
    pub fn new(config: &Config, state: IntegrityState, snapshot: &Snapshot, params: Params) -> Self {
        Self {
            config: config.clone(),
            state,
            disk_free_bytes: snapshot.disk_free_bytes.known().copied(),
            build_memory_bytes: snapshot.memory.as_ref().and_then(Reading::known).map(planned_memory),
            maintenance_paused: snapshot.maintenance_paused,
            throttled: snapshot.ingestion.as_ref().is_some_and(|ingestion| ingestion.throttle.is_some()),
            gain_share: None,
            gain_per_row: None,
            by_hand: false,
            params,
        }
    }

    /// Checks that builds whose products take this much disk may be begun: beside them there must be room for the WAL that
    /// they write and for what they sort in temporary files. A full disk under the WAL stops the server.
    pub(crate) fn check_builds(&self, product_bytes: u64, sorts: bool) -> Result<(), NotApplicable> {
        if self.maintenance_paused && !self.by_hand {
            return Err(NotApplicable::MaintenancePaused);
        }
        self.check_disk(product_bytes)?;
        let free_bytes = self.disk_free_bytes.unwrap_or(0);
        let allowed_bytes = (free_bytes as f64 * PEAK_SHARE) as u64;
        let needed_bytes = peak_bytes(product_bytes, sorts);
        if needed_bytes > allowed_bytes {
            return Err(NotApplicable::DiskHeadroom { needed_bytes, allowed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Checks that what needs this much disk may be begun.
    pub(crate) fn check_disk(&self, needed_bytes: u64) -> Result<(), NotApplicable> {
        if self.throttled {
            return Err(NotApplicable::Throttled);
        }
        let free_bytes = self.disk_free_bytes.ok_or_else(|| NotApplicable::MeasurementMissing {
            detail: "the free disk space is not known".to_owned(),
        })?;
        // A share of at most 0.9: the product fits.
        let allowed_bytes = (free_bytes as f64 * self.config.max_disk_share) as u64;
        if needed_bytes > allowed_bytes {
            return Err(NotApplicable::DiskHeadroom { needed_bytes, allowed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Seconds that all steps together may be estimated at: a manual `max_duration_s`, or none.
    pub(crate) fn check_duration(&self, estimated_s: f64) -> Result<(), NotApplicable> {
        match self.params.max_duration_s() {
            Some(allowed_s) if estimated_s > allowed_s => {
                Err(NotApplicable::TooLong { estimated_s, allowed_s })
            }
            _ => Ok(()),
        }
    }

    /// The hard limit for an estimate: twice it, or what the request says, if less.
    pub(crate) fn timeout_s(&self, estimated_s: f64) -> f64 {
        self.params.max_duration_s().map_or(2.0 * estimated_s, |seconds| seconds.min(2.0 * estimated_s))
    }

    /// The hard limit of one build: twice its estimate, or `max_build_seconds` if that is less. (The spec's 60 s for every
    /// index would cancel each build beyond a million rows.)
    pub(crate) fn build_limit_s(&self, estimated_s: f64) -> Option<f64> {
        let set = self.config.max_build_seconds.map(|seconds| seconds as f64);
        Some(set.map_or(2.0 * estimated_s, |seconds| seconds.min(2.0 * estimated_s)))
    }
}
