//! How often and how soon: cooldown, attempts of the window, ineffective healing, backoff and breaker.
//!
//! The breaker is for machinery that fails: steps, undoing, workers that die. An outcome of "not better" is knowledge
//! about one part: there the remedy waits, twice as long each time, and no longer once that part has become clearly
//! worse than it was when judged. A lock or a panel that was not to be had only puts the remedy off. One that found
//! nothing to do (a no-op) leaves the others their turn.

use serde::{Deserialize, Serialize};

use crate::classify::Problem;
use crate::config::Config;
use crate::graph::NodeKey;
use crate::lifecycle::{Lesson, Status};
use crate::snapshot::UnixMs;

/// Actions further back than this say nothing about whether healing works now, milliseconds.
const INEFFECTIVE_WINDOW_MS: i64 = 24 * 3_600_000;
/// λ of a part below this share of what it was when a remedy was judged to be no gain: judge again. Noise of a reading
/// does not take a fifth of λ, and from 0.7 to nothing there are at most twenty such steps.
const CLEARLY_WORSE: f64 = 0.8;
/// What was no gain, or was put off, longer ago than this is another story: a week, seven of the longest waits.
const SAME_STORY_MS: i64 = 7 * 24 * 3_600_000;
/// What moving rows gained longer ago than this is not held against moving them again: a day, the longest wait as shipped.
const GAIN_MS: i64 = 24 * 3_600_000;
/// Less than this was promised: what was measured then is noise.
const PROMISE_MIN: f64 = 0.01;
/// A measured gain counts at most as this many times the promised one: more was luck in the choice of rows.
const GAIN_SHARE_MAX: f64 = 1.5;
/// λ below this counts as this: it may be 0.
const LAMBDA_FLOOR: f64 = 0.01;

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
    /// What its end says of the strategy; None: what its status says.
    #[serde(default)]
    pub lesson: Option<Lesson>,
    /// λ of its component when it was planned.
    #[serde(default)]
    pub lambda_planned: Option<f64>,
    /// λ of its component before, as verified.
    pub lambda_before: Option<f64>,
    /// λ of its component after.
    pub lambda_after: Option<f64>,
    /// λ of its component that its simulated placement of rows came to; None where none was made.
    #[serde(default)]
    pub lambda_placed: Option<f64>,
    /// Rows that it had moved when it was verified; None where it moved none.
    #[serde(default)]
    pub rows_moved: Option<u64>,
    /// Nodes of its component.
    pub nodes: Vec<NodeKey>,
}

impl Attempt {
    /// What its end says of its strategy.
    pub fn lesson(&self) -> Lesson {
        self.lesson.unwrap_or(Lesson::of(self.status))
    }
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
    /// When a human last closed the breaker: what ended before says nothing any more.
    #[serde(default)]
    pub closed_at: Option<UnixMs>,
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

/// What was measured on the problem's component within the time that it is believed, newest first.
fn measured_lately<'a>(problem: &Problem, history: &'a [Attempt], now: UnixMs) -> Vec<&'a Attempt> {
    let mut found = on_component(problem, history);
    found.retain(|attempt| {
        matches!(attempt.lesson(), Lesson::Helped | Lesson::NoGain)
            && attempt.ended_at.is_some_and(|ended| ended > now - GAIN_MS)
    });
    found.reverse();
    found
}

/// Share of the gain in λ promised by the simulated placement that was measured when rows of the part were last moved;
/// None where that was not, or too long ago: the load may lie otherwise by now.
pub(super) fn gain_share(problem: &Problem, history: &[Attempt], now: UnixMs) -> Option<f64> {
    measured_lately(problem, history, now).into_iter().find_map(|attempt| {
        let before = attempt.lambda_before?;
        let (promised, gained) = (attempt.lambda_placed? - before, attempt.lambda_after? - before);
        (promised > PROMISE_MIN).then(|| (gained / promised).clamp(0.0, GAIN_SHARE_MAX))
    })
}

/// λ that each row brought when rows of the part were last moved, whatever was promised; None where that was not, or too long
/// ago.
pub(super) fn gain_per_row(problem: &Problem, history: &[Attempt], now: UnixMs) -> Option<f64> {
    measured_lately(problem, history, now).into_iter().find_map(|attempt| {
        // Where every row was taken back at once none of them brought anything.
        let rows = match attempt.rows_moved? {
            0 => return Some(0.0),
            rows => rows,
        };
        // Numbers of rows are far below 2^53.
        Some((attempt.lambda_after? - attempt.lambda_before?).max(0.0) / rows as f64)
    })
}

/// Why a remedy waits on a part, if it does, and until when: since it was no gain there, was put off, or found nothing to do.
/// λ of the part now: `problem`'s.
pub(super) fn waits_here(
    problem: &Problem,
    strategy: &str,
    history: &[Attempt],
    arm: Option<&Arm>,
    config: &Config,
    now: UnixMs,
) -> Option<(String, UnixMs)> {
    let forgotten = arm.and_then(|arm| arm.closed_at).unwrap_or(UnixMs::MIN).max(now - SAME_STORY_MS);
    let mut same: Vec<&Attempt> = on_component(problem, history);
    same.retain(|a| a.strategy == strategy && a.ended_at.is_some_and(|ended| ended > forgotten));
    // Without a cooldown it would be asked for again at every sample, and no other remedy would get its turn.
    if let Some(noop) = same.last().filter(|a| a.status == Status::Noop) {
        let until = noop.ended_at?.saturating_add(config.attempt_window_seconds.saturating_mul(1000));
        if until > now {
            let seconds = (until - now + 999) / 1000;
            return Some((
                format!("{strategy} found nothing to do here and is asked again in {seconds} s"),
                until,
            ));
        }
    }
    // What says nothing, or is the breaker's business, neither ends the row nor is part of it.
    same.retain(|a| matches!(a.lesson(), Lesson::Helped | Lesson::NoGain | Lesson::Postponed));
    let last = same.last()?;
    let (lesson, ended) = (last.lesson(), last.ended_at?);
    if lesson == Lesson::Helped {
        return None;
    }
    let since_helped = same.iter().rev().take_while(|a| a.lesson() != Lesson::Helped);
    let row: Vec<&&Attempt> = since_helped.filter(|a| a.lesson() == lesson).collect();
    let times = u32::try_from(row.len()).unwrap_or(u32::MAX);
    // What was measured to be no better is hardly better before the window of attempts is over.
    let base_s = match lesson {
        Lesson::NoGain => config.backoff_base_seconds.max(config.attempt_window_seconds),
        _ => config.backoff_base_seconds,
    };
    let until = ended.saturating_add(backoff_ms(base_s, times, config, ended as u64));
    if until <= now {
        return None;
    }
    let seconds = (until - now + 999) / 1000;
    if lesson == Lesson::Postponed {
        return Some((format!("{strategy} was put off and waits {seconds} s more"), until));
    }
    // The least of the row: a reading that goes up and down is no reason to judge again and again.
    let judged = row.iter().filter_map(|a| a.lambda_planned.or(a.lambda_before)).reduce(f64::min);
    match judged {
        Some(judged) if problem.component.lambda < CLEARLY_WORSE * judged.max(LAMBDA_FLOOR) => None,
        Some(judged) => {
            let bound = CLEARLY_WORSE * judged.max(LAMBDA_FLOOR);
            Some((
                format!(
                    "{strategy} was no gain here at λ {judged:.3}: it waits {seconds} s more, or until λ is below {bound:.3}"
                ),
                until,
            ))
        }
        None => Some((format!("{strategy} was no gain here and waits {seconds} s more"), until)),
    }
}

impl Arm {
    /// A remedy of which nothing is known yet.
    pub fn new(strategy: impl Into<String>) -> Self {
        Self {
            strategy: strategy.into(),
            failures: 0,
            backoff_until: None,
            breaker_open: false,
            closed_at: None,
            weight: 1.0,
        }
    }

    /// The arm after an action of the remedy ended at `now` with this lesson: what helped clears it, a fault doubles
    /// the wait (with jitter taken from `seed`) and after `breaker_failures` in a row opens the
    /// breaker; what could not be undone opens it at once. Anything else leaves it.
    #[must_use]
    pub fn after(&self, lesson: Lesson, now: UnixMs, config: &Config, seed: u64) -> Arm {
        let mut arm = self.clone();
        match lesson {
            Lesson::Helped => {
                arm.failures = 0;
                arm.backoff_until = None;
            }
            Lesson::Fault | Lesson::UndoFailed => {
                arm.failures = arm.failures.saturating_add(1);
                arm.backoff_until = Some(now.saturating_add(backoff_ms(
                    config.backoff_base_seconds,
                    arm.failures,
                    config,
                    seed,
                )));
                if i64::from(arm.failures) >= config.breaker_failures || lesson == Lesson::UndoFailed {
                    arm.breaker_open = true;
                }
            }
            Lesson::NoGain | Lesson::Postponed | Lesson::Nothing => {}
        }
        arm
    }

    /// The arm once a human has looked, at `now`: closed, and without a wait; what ended before counts no more.
    #[must_use]
    pub fn closed(&self, now: UnixMs) -> Arm {
        Arm { failures: 0, backoff_until: None, breaker_open: false, closed_at: Some(now), ..self.clone() }
    }
}

/// base × 2^(failures − 1), at most the cap, and up to `backoff_jitter` more so that several do not come back at once.
fn backoff_ms(base_s: i64, failures: u32, config: &Config, seed: u64) -> i64 {
    let doubled = base_s as f64 * 2f64.powi(failures.saturating_sub(1).min(62) as i32);
    let wait_s = doubled.min(config.backoff_cap_seconds as f64);
    let jitter = (crate::kmeans::mix(seed ^ u64::from(failures)) >> 11) as f64 / (1u64 << 53) as f64;
    // At most 2 x 30 days: far below what an i64 of milliseconds holds.
    (wait_s * 1000.0 * (1.0 + config.backoff_jitter * jitter)) as i64
}
