//! How often and how soon: cooldown, attempts of the window, ineffective healing, backoff and breaker.

use serde::{Deserialize, Serialize};

use crate::classify::Problem;
use crate::config::Config;
use crate::graph::NodeKey;
use crate::lifecycle::Status;
use crate::snapshot::UnixMs;

/// Actions further back than this say nothing about whether healing works now, milliseconds.
const INEFFECTIVE_WINDOW_MS: i64 = 24 * 3_600_000;

/// One earlier action on this collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub started_at: UnixMs,
    /// When it ended; None while it runs.
    pub ended_at: Option<UnixMs>,
    /// How it stands or ended.
    pub status: Status,
    /// Its strategy.
    pub strategy: String,
    /// Class name of its problem.
    pub problem_class: String,
    /// λ of its component before.
    pub lambda_before: Option<f64>,
    /// λ of its component after.
    pub lambda_after: Option<f64>,
    /// Nodes of its component.
    pub nodes: Vec<NodeKey>,
}

/// What is known of one remedy on one collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// The remedy's name.
    pub strategy: String,
    /// Failures in a row.
    pub failures: u32,
    /// Not before.
    pub backoff_until: Option<UnixMs>,
    /// Closed by a human only.
    pub breaker_open: bool,
    /// Learned weight, 1 when nothing was learned; breaks ties between remedies of equal impact.
    pub weight: f64,
}

/// When the cooldown after the last attempt ends; None when there was none. It may lie in the past.
pub fn cooldown_until(history: &[Attempt], config: &Config) -> Option<UnixMs> {
    history
        .iter()
        .filter(|attempt| attempt.status.counts_as_attempt())
        .map(|attempt| attempt.ended_at.unwrap_or(attempt.started_at))
        .max()
        .map(|end| end.saturating_add(config.min_healing_interval_seconds.saturating_mul(1000)))
}

/// When the window has room again, if it is full now (refused at `>=`).
pub(super) fn attempts_exhausted_until(history: &[Attempt], config: &Config, now: UnixMs) -> Option<UnixMs> {
    let window_ms = config.attempt_window_seconds.saturating_mul(1000);
    let mut starts: Vec<UnixMs> = history
        .iter()
        .filter(|attempt| attempt.status.counts_as_attempt() && attempt.started_at > now - window_ms)
        .map(|attempt| attempt.started_at)
        .collect();
    starts.sort_unstable();
    let max = usize::try_from(config.max_attempts_per_window).unwrap_or(usize::MAX);
    // Room comes when the attempt that is `max` from the end leaves the window.
    starts.len().checked_sub(max).and_then(|at| starts.get(at)).map(|start| start + window_ms)
}

fn same_component(nodes: &[NodeKey], others: &[NodeKey]) -> bool {
    nodes.iter().any(|node| others.iter().any(|other| node.same_unit(other)))
}

/// Earlier actions on the problem's component, oldest first.
pub(super) fn on_component<'a>(problem: &Problem, history: &'a [Attempt]) -> Vec<&'a Attempt> {
    let mut attempts: Vec<&Attempt> =
        history.iter().filter(|attempt| same_component(&attempt.nodes, &problem.component.nodes)).collect();
    attempts.sort_by_key(|attempt| (attempt.ended_at.unwrap_or(attempt.started_at), attempt.started_at));
    attempts
}

/// Whether the last two finished actions on the component left it weaker than it was before the first of them.
pub(super) fn ineffective(problem: &Problem, history: &[Attempt], now: UnixMs) -> Option<(String, UnixMs)> {
    let finished: Vec<(&Attempt, f64, f64)> = on_component(problem, history)
        .into_iter()
        .filter(|attempt| attempt.status.counts_as_attempt() && attempt.status.is_terminal())
        .filter(|attempt| attempt.started_at > now - INEFFECTIVE_WINDOW_MS)
        .filter_map(|attempt| Some((attempt, attempt.lambda_before?, attempt.lambda_after?)))
        .collect();
    let [.., (first, before, _), (_, _, after)] = finished.as_slice() else { return None };
    (after < before).then(|| {
        (
            format!("λ of this part was {before:.3} before the last two actions and {after:.3} after them"),
            first.started_at + INEFFECTIVE_WINDOW_MS,
        )
    })
}

impl Arm {
    /// A remedy of which nothing is known yet.
    pub fn new(strategy: impl Into<String>) -> Self {
        Self { strategy: strategy.into(), failures: 0, backoff_until: None, breaker_open: false, weight: 1.0 }
    }

    /// The arm after an action of the remedy ended at `now` with `status`: a success clears it, a failure doubles
    /// the wait (with up to a tenth of jitter taken from `seed`) and after `breaker_failures` in a row opens the
    /// breaker; a failed rollback opens it at once. Anything else leaves it.
    #[must_use]
    pub fn after(&self, status: Status, now: UnixMs, config: &Config, seed: u64) -> Arm {
        let mut arm = self.clone();
        if status == Status::Succeeded {
            arm.failures = 0;
            arm.backoff_until = None;
        } else if status.counts_as_failure() {
            arm.failures = arm.failures.saturating_add(1);
            arm.backoff_until = Some(now.saturating_add(backoff_ms(arm.failures, config, seed)));
            if i64::from(arm.failures) >= config.breaker_failures || status == Status::RollbackFailed {
                arm.breaker_open = true;
            }
        }
        arm
    }
}

/// base × 2^(failures − 1), at most the cap, and up to a tenth more so that several do not come back at once.
fn backoff_ms(failures: u32, config: &Config, seed: u64) -> i64 {
    let base = config.backoff_base_seconds as f64;
    let doubled = base * 2f64.powi(failures.saturating_sub(1).min(62) as i32);
    let wait_s = doubled.min(config.backoff_cap_seconds as f64);
    let jitter = (crate::kmeans::mix(seed ^ u64::from(failures)) >> 11) as f64 / (1u64 << 53) as f64;
    // At most 1.1 x 30 days: far below what an i64 of milliseconds holds.
    (wait_s * 1000.0 * (1.0 + 0.1 * jitter)) as i64
}
