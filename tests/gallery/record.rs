//! What was seen.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// One sample of a collection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds since the fault counted, before it negative.
    pub(crate) at: f64,
    pub(crate) lambda: Option<f64>,
    pub(crate) state: String,
    /// Classes, weakest first.
    pub(crate) problems: Vec<String>,
}

/// One fault (or two) at one level.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The fault's name; of two `two_faults`.
    pub(crate) fault: String,
    /// The faults in words, each with its figure and target.
    pub(crate) what: String,
    pub(crate) level: String,
    pub(crate) seed: u64,
    /// Classes that must be named.
    pub(crate) expected: Vec<String>,
    /// What was named when the state changed, weakest first; empty when it did not change.
    pub(crate) named: Vec<String>,
    /// Whether the details named what was hit.
    pub(crate) target_named: bool,
    /// Samples from when the fault counted to the change of state, that one included; None when there was none. 0: it
    /// came before the fault counted.
    pub(crate) delay: Option<usize>,
    /// Whether the state was normal all the time before.
    pub(crate) quiet_before: bool,
    pub(crate) explanation: String,
    /// Of an index that was hit: how it was last measured.
    pub(crate) reading: Option<serde_json::Value>,
    pub(crate) samples: Vec<Sample>,
}

impl Run {
    /// Found, and under its name: of one fault the weakest problem, of two both.
    pub(crate) fn is_right(&self) -> bool {
        let named = match self.expected.as_slice() {
            [one] => self.named.first() == Some(one),
            many => many.iter().all(|class| self.named.contains(class)),
        };
        self.delay.is_some() && named && self.target_named
    }
}

/// A look-alike over one seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Quiet {
    pub(crate) what: String,
    pub(crate) seed: u64,
    /// Samples from when it began.
    pub(crate) samples: Vec<Sample>,
    /// What was named where the state changed.
    pub(crate) alarms: Vec<String>,
}

/// CPU that a healer took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) lane: String,
    pub(crate) samples: u64,
    pub(crate) cpu_s: f64,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Records {
    pub(crate) runs: Vec<Run>,
    pub(crate) quiet: Vec<Quiet>,
    pub(crate) costs: Vec<Cost>,
}

pub(crate) fn seconds_between(from: SystemTime, to: SystemTime) -> f64 {
    let of = |result: Result<Duration, _>| result.map(|d: Duration| d.as_secs_f64());
    of(to.duration_since(from)).unwrap_or_else(|_| -from.duration_since(to).unwrap_or_default().as_secs_f64())
}
