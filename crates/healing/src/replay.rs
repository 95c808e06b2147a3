//! A replay: recorded snapshots run through the engine with other settings. What would have been decided differently, and
//! how sure that is.
//!
//! What is certain: the states and decisions that the other settings give on the snapshots as they were recorded, up to
//! the first action that would have been another one. From there on the recording shows a world in which something else
//! was done: until both are normal again, what follows is marked as conjecture. What an action would have done is not
//! known at all; the learned effect with its interval is shown instead.
//!
//! How well the replay reproduces what really happened is measured: the recorded settings are replayed too, and compared
//! with the recorded decisions ([`Replay::reproduced`]). What is not recorded (breakers that a human closed, plans that
//! waited for approval, the seeds of sampled choices) shows there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Config, ConfigError};
use crate::engine::{self, Arm, Attempt, Decision, DecisionInput, InFlight, Reason, Request};
use crate::graph::NodeKey;
use crate::integrity::{IntegrityState, StateRecord, assess};
use crate::learning::{Context, Effect, Learned, OutcomeRecord, posteriors};
use crate::lifecycle::{Lesson, Status};
use crate::snapshot::{Method, Snapshot, UnixMs};

/// λ under two settings is the same within this.
const SAME_LAMBDA: f64 = 1e-9;
/// Points further apart than so many sampling intervals are a gap: what lay between was not recorded.
const GAP_INTERVALS: i64 = 3;
/// Differences that a report lists; more are counted only.
const DIFFERENCES_MAX: usize = 1000;

/// The settings of a moment, as two patches.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// The server's.
    pub server: Value,
    /// The collection's.
    pub collection: Value,
}

/// One row of a recording, as `ruvector_recorded()` gives them, in the order of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Recorded {
    /// A whole snapshot.
    Snapshot {
        /// Settings in force.
        settings: Settings,
        /// State after it.
        record: StateRecord,
        /// What was observed.
        snapshot: Box<Snapshot>,
        /// What was decided: reason, strategy.
        decision: Value,
    },
    /// λ of a sample of which no more was kept.
    Lambda {
        /// The collection.
        collection_id: i32,
        /// When.
        at: UnixMs,
        /// λ under the recorded settings.
        lambda: Option<f64>,
    },
    /// An action that was decided.
    Action {
        /// The collection.
        collection_id: i32,
        /// Its number.
        action_id: i64,
        /// The action as decisions see it.
        #[serde(flatten)]
        attempt: Box<Attempt>,
    },
}

/// What was decided at a moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing, for this reason.
    Refuse(String),
    /// A plan that waits for a human.
    Ask(String),
    /// A plan was begun.
    Act(String),
}

impl Outcome {
    fn in_words(&self) -> String {
        match self {
            Outcome::Refuse(reason) => format!("nothing ({reason})"),
            Outcome::Ask(strategy) => format!("ask for {strategy}"),
            Outcome::Act(strategy) => format!("act: {strategy}"),
        }
    }

    fn acts(&self) -> Option<&str> {
        match self {
            Outcome::Act(strategy) => Some(strategy),
            _ => None,
        }
    }
}

/// A moment from which on the two settings decide differently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// When.
    pub at: UnixMs,
    /// The collection.
    pub collection: String,
    /// λ under the recorded settings.
    pub lambda: Option<f64>,
    /// State under the recorded settings.
    pub state: IntegrityState,
    /// State under the others.
    pub other_state: IntegrityState,
    /// What the recorded settings decide.
    pub recorded: Outcome,
    /// What the others decide.
    pub other: Outcome,
    /// False after another action would have been taken: the recording shows a world without it.
    pub certain: bool,
    /// Probability with which the sampling chooses the other's remedy; None when nothing was chosen among.
    pub propensity: Option<f64>,
    /// What the other's action would have done, as far as was learned by then: own effect and its 90 % interval.
    pub expected: Option<Effect>,
}

/// What one setting comes to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Actions begun, by strategy.
    pub actions: BTreeMap<String, u64>,
    /// Plans that asked, by strategy.
    pub asked: BTreeMap<String, u64>,
    /// Snapshots at which nothing was done, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Seconds in each state.
    pub seconds: BTreeMap<String, f64>,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Time of the first row used.
    pub from: Option<UnixMs>,
    /// Time of the last.
    pub until: Option<UnixMs>,
    /// Snapshots replayed.
    pub snapshots: u64,
    /// Samples of which only λ was recorded and could be used.
    pub samples: u64,
    /// Gaps in the recording.
    pub gaps: u64,
    /// Snapshots at which the recorded settings, replayed, decide as was recorded.
    pub reproduced: u64,
    /// The recorded settings.
    pub recorded: Tally,
    /// The others.
    pub other: Tally,
    /// Where they differ, in the order of time.
    pub differences: Vec<Difference>,
    /// Differences beyond those listed.
    pub more_differences: u64,
    /// What limits how far this can be believed, one sentence each.
    pub caveats: Vec<String>,
}

/// Replays a recording with `patch` on top of the recorded settings.
///
/// # Errors
/// The patch, or settings that were recorded, are not valid.
pub fn replay(rows: &[Recorded], patch: &Value) -> Result<Replay, ConfigError> {
    Config::default().apply(patch)?;
    let mut replay = Replay {
        from: None,
        until: None,
        snapshots: 0,
        samples: 0,
        gaps: 0,
        reproduced: 0,
        recorded: Tally::default(),
        other: Tally::default(),
        differences: vec![],
        more_differences: 0,
        caveats: vec![],
    };
    let ids: BTreeSet<i32> = rows.iter().map(Recorded::collection_id).collect();
    let mut seen = Seen::default();
    for id in ids {
        let own: Vec<&Recorded> = rows.iter().filter(|row| row.collection_id() == id).collect();
        one_collection(&own, patch, &mut replay, &mut seen)?;
    }
    replay.differences.sort_by(|a, b| (a.at, &a.collection).cmp(&(b.at, &b.collection)));
    replay.more_differences = replay.differences.len().saturating_sub(DIFFERENCES_MAX) as u64;
    replay.differences.truncate(DIFFERENCES_MAX);
    replay.caveats = seen.caveats(&replay);
    Ok(replay)
}

impl Recorded {
    fn collection_id(&self) -> i32 {
        match self {
            Recorded::Snapshot { snapshot, .. } => snapshot.collection_id,
            Recorded::Lambda { collection_id, .. } | Recorded::Action { collection_id, .. } => *collection_id,
        }
    }
}

/// What was met on the way that the reader must know of.
#[derive(Default)]
struct Seen {
    lambda_differs: bool,
    conjecture: bool,
    sampled: bool,
}

impl Seen {
    fn caveats(&self, replay: &Replay) -> Vec<String> {
        let mut all = Vec::new();
        if replay.snapshots == 0 {
            all.push("Nothing was recorded in this time.".to_owned());
            return all;
        }
        let share = 100.0 * replay.reproduced as f64 / replay.snapshots as f64;
        if replay.reproduced < replay.snapshots {
            all.push(format!(
                "Replaying the recorded settings gives the recorded decision at {share:.0} % of the snapshots: differences of the other {:.0} % may come from what is not recorded (approvals, breakers closed by a human, seeds).",
                100.0 - share
            ));
        }
        if self.conjecture {
            all.push(
                "Where another action would have been taken, all until both settings are normal again is conjecture: the recording shows a world without it.".to_owned(),
            );
        }
        if replay.differences.iter().any(|difference| difference.expected.is_some()) {
            all.push(
                "What an action would have done is not known; the expected effect is what was learned from outcomes by then.".to_owned(),
            );
        }
        if self.lambda_differs {
            all.push(
                "The settings change λ itself: between snapshots it is not known, so that states may turn later than they would have.".to_owned(),
            );
        }
        if self.sampled {
            all.push("Remedies are chosen by sampling: another seed may choose another one, with the propensity shown.".to_owned());
        }
        if replay.gaps > 0 {
            all.push(format!("The recording has {} gaps.", replay.gaps));
        }
        all
    }
}

/// The other settings' own world.
struct Other {
    record: StateRecord,
    /// Actions that the recording does not have.
    invented: Vec<Attempt>,
    /// Another action would have been taken, and the two have not been normal together since.
    diverged: bool,
    /// λ is the same under both settings, as far as the last snapshot tells.
    same_lambda: bool,
}

fn one_collection(
    rows: &[&Recorded],
    patch: &Value,
    replay: &mut Replay,
    seen: &mut Seen,
) -> Result<(), ConfigError> {
    let attempts: Vec<&Attempt> = rows
        .iter()
        .filter_map(
            |row| if let Recorded::Action { attempt, .. } = row { Some(attempt.as_ref()) } else { None },
        )
        .collect();
    let snapshot_times: BTreeSet<UnixMs> = rows
        .iter()
        .filter_map(|row| {
            if let Recorded::Snapshot { snapshot, .. } = row { Some(snapshot.taken_at) } else { None }
        })
        .collect();
    let mut other: Option<Other> = None;
    let mut configs: Option<(Config, Config)> = None;
    let mut last: Option<(UnixMs, IntegrityState, IntegrityState)> = None;
    let mut pair: Option<(Outcome, Outcome)> = None;
    for row in rows {
        match row {
            Recorded::Lambda { at, lambda, .. } => {
                let (Some(other), Some((_, config))) = (&mut other, &configs) else { continue };
                if snapshot_times.contains(at) || !other.same_lambda {
                    continue;
                }
                other.record = other.record.advance(*lambda, *at, config).0;
                replay.samples += 1;
            }
            Recorded::Action { .. } => {}
            Recorded::Snapshot { settings, record, snapshot, decision } => {
                let now = snapshot.taken_at;
                let recorded_config = Config::layered(&settings.server, &settings.collection)?;
                let config = recorded_config.apply(patch)?;
                let (Ok(recorded_assessment), Ok(assessment)) =
                    (assess(snapshot, &recorded_config), assess(snapshot, &config))
                else {
                    // What could not be cut then cannot be now.
                    continue;
                };
                let same_lambda = match (recorded_assessment.lambda, assessment.lambda) {
                    (Some(a), Some(b)) => (a - b).abs() < SAME_LAMBDA,
                    (a, b) => a == b,
                };
                seen.lambda_differs |= !same_lambda;
                // The first snapshot is where both begin; from the next on the other has its own state.
                let world = other.get_or_insert(Other {
                    record: first_state(
                        record,
                        (recorded_assessment.lambda, &recorded_config),
                        (assessment.lambda, &config),
                    ),
                    invented: vec![],
                    diverged: false,
                    same_lambda,
                });
                if last.is_some() {
                    world.record = world.record.advance(assessment.lambda, now, &config).0;
                }
                world.same_lambda = same_lambda;
                if let Some((before, state, other_state)) = last {
                    let seconds = (now - before) as f64 / 1000.0;
                    *replay.recorded.seconds.entry(state.as_str().to_owned()).or_default() += seconds;
                    *replay.other.seconds.entry(other_state.as_str().to_owned()).or_default() += seconds;
                }
                last = Some((now, record.state, world.record.state));
                replay.snapshots += 1;
                replay.from = Some(replay.from.map_or(now, |from| from.min(now)));
                replay.until = Some(replay.until.map_or(now, |until| until.max(now)));

                let history: Vec<Attempt> = attempts.iter().filter_map(|a| as_of(a, now)).collect();
                let of_recorded = decided(snapshot, &recorded_config, record, &history, now);
                let mut history = history;
                history.extend(world.invented.iter().filter_map(|a| as_of(a, now)));
                let of_other = decided(snapshot, &config, &world.record, &history, now);
                replay.reproduced += u64::from(is_recorded(&of_recorded.outcome, decision));
                tally(&mut replay.recorded, &of_recorded.outcome);
                tally(&mut replay.other, &of_other.outcome);
                seen.sampled |= of_other.propensity.is_some_and(|p| p < 1.0);

                if record.state == IntegrityState::Normal && world.record.state == IntegrityState::Normal {
                    world.diverged = false;
                    world.invented.clear();
                }
                let now_pair = (of_recorded.outcome.clone(), of_other.outcome.clone());
                if now_pair.0 != now_pair.1 && pair.as_ref() != Some(&now_pair) {
                    seen.conjecture |= world.diverged;
                    replay.differences.push(Difference {
                        at: now,
                        collection: snapshot.collection.clone(),
                        lambda: recorded_assessment.lambda,
                        state: record.state,
                        other_state: world.record.state,
                        recorded: of_recorded.outcome.clone(),
                        other: of_other.outcome.clone(),
                        certain: !world.diverged,
                        propensity: of_other.propensity,
                        expected: of_other.expected,
                    });
                }
                pair = Some(now_pair);
                let (did, would) = (of_recorded.outcome.acts(), of_other.outcome.acts());
                if did != would {
                    world.diverged = true;
                    seen.conjecture = true;
                    // It would have taken its time and begun a cooldown; what it would have taught nobody knows.
                    world.invented.extend(of_other.attempt);
                }
                configs = Some((recorded_config, config));
            }
        }
    }
    for pair in rows.windows(2) {
        let (Some(a), Some(b)) = (pair[0].sampled_at(), pair[1].sampled_at()) else { continue };
        let interval_ms = configs.as_ref().map_or(10_000, |c| c.0.sample_interval_seconds * 1000);
        replay.gaps += u64::from(b - a > GAP_INTERVALS * interval_ms.max(1000));
    }
    Ok(())
}

impl Recorded {
    fn sampled_at(&self) -> Option<UnixMs> {
        match self {
            Recorded::Snapshot { snapshot, .. } => Some(snapshot.taken_at),
            Recorded::Lambda { at, .. } => Some(*at),
            Recorded::Action { .. } => None,
        }
    }
}

/// Where the other settings begin: in the recorded state, unless this λ would settle in another state under them.
fn first_state(
    record: &StateRecord,
    recorded: (Option<f64>, &Config),
    other: (Option<f64>, &Config),
) -> StateRecord {
    // As many samples as a dwell takes: the recording does not reach further back.
    let settled = |(lambda, config): (Option<f64>, &Config)| {
        (0..config.dwell_samples).fold(*record, |state, _| state.advance(lambda, record.since, config).0)
    };
    if settled(recorded).state == settled(other).state { *record } else { settled(other) }
}

/// An attempt as it was known at `now`; None: it had not begun.
fn as_of(attempt: &Attempt, now: UnixMs) -> Option<Attempt> {
    if attempt.started_at > now {
        return None;
    }
    let mut known = attempt.clone();
    if known.ended_at.is_none_or(|ended| ended > now) {
        known.ended_at = None;
        known.lesson = None;
        known.lambda_after = None;
        known.status = Status::Executing;
    }
    Some(known)
}

struct Decided {
    outcome: Outcome,
    propensity: Option<f64>,
    expected: Option<Effect>,
    /// The action that would begin.
    attempt: Option<Attempt>,
}

fn decided(
    snapshot: &Snapshot,
    config: &Config,
    state: &StateRecord,
    history: &[Attempt],
    now: UnixMs,
) -> Decided {
    let Ok(assessment) = assess(snapshot, config) else {
        let outcome = Outcome::Refuse(Reason::LambdaUnknown.as_str().to_owned());
        return Decided { outcome, propensity: None, expected: None, attempt: None };
    };
    let running = history.iter().filter(|attempt| attempt.ended_at.is_none()).count() as u32;
    let learned = learned(history, snapshot);
    let decision = engine::decide(&DecisionInput {
        config,
        state,
        assessment: &assessment,
        snapshot,
        history,
        arms: &arms(history, config),
        learned: &learned,
        in_flight: InFlight { this_table: running, server: running, ..InFlight::default() },
        now,
        request: &Request::Automatic,
    });
    match decision {
        Decision::Refuse { reason, .. } => Decided {
            outcome: Outcome::Refuse(reason.as_str().to_owned()),
            propensity: None,
            expected: None,
            attempt: None,
        },
        Decision::Act { planned, approval, choice, .. } => {
            let strategy = planned.plan.strategy.clone();
            let belief = learned.posterior(&Context::of(&planned.problem, snapshot), &strategy);
            let propensity = choice
                .and_then(|c| c.arms.iter().find(|arm| arm.strategy == strategy).map(|arm| arm.propensity));
            if approval.is_some() {
                let outcome = Outcome::Ask(strategy);
                return Decided { outcome, propensity, expected: Some(belief.effect), attempt: None };
            }
            let took_ms = ((planned.plan.estimated_s + config.verify_window_seconds as f64) * 1000.0) as i64;
            Decided {
                outcome: Outcome::Act(strategy.clone()),
                propensity,
                expected: Some(belief.effect),
                attempt: Some(Attempt {
                    started_at: now,
                    ended_at: Some(now.saturating_add(took_ms)),
                    status: Status::Aborted,
                    strategy,
                    problem_class: planned.problem.class.as_str().to_owned(),
                    lesson: Some(Lesson::Nothing),
                    lambda_planned: Some(planned.problem.component.lambda),
                    lambda_before: None,
                    lambda_after: None,
                    nodes: planned.problem.component.nodes,
                }),
            }
        }
    }
}

/// The arms as the ends of these actions leave them.
fn arms(history: &[Attempt], config: &Config) -> Vec<Arm> {
    let mut ended: Vec<(UnixMs, &Attempt)> =
        history.iter().filter_map(|attempt| Some((attempt.ended_at?, attempt))).collect();
    ended.sort_by_key(|(at, _)| *at);
    let mut arms: Vec<Arm> = Vec::new();
    for (at, attempt) in ended {
        let known = arms.iter().position(|arm| arm.strategy == attempt.strategy).unwrap_or_else(|| {
            arms.push(Arm::new(attempt.strategy.clone()));
            arms.len() - 1
        });
        arms[known] = arms[known].after(attempt.lesson(), at, config, at as u64);
    }
    arms
}

/// What these actions teach.
fn learned(history: &[Attempt], snapshot: &Snapshot) -> Learned {
    let kind = |attempt: &Attempt| {
        let named = attempt.nodes.iter().find_map(NodeKey::index);
        let index = named.and_then(|(partition, name)| {
            snapshot.indexes.iter().find(|index| index.partition == partition && index.name == name)
        });
        match index.map(|index| index.method) {
            Some(Method::Ivfflat) => "ivfflat",
            Some(Method::Hnsw) => "hnsw",
            None => "none",
        }
    };
    let rows: Vec<OutcomeRecord> = history
        .iter()
        .zip(0i64..)
        .filter_map(|(attempt, id)| {
            let lesson = attempt.lesson();
            Some(OutcomeRecord {
                id,
                collection_id: snapshot.collection_id,
                strategy: attempt.strategy.clone(),
                context: Context {
                    problem_class: attempt.problem_class.clone(),
                    index_kind: kind(attempt).to_owned(),
                },
                started_at: attempt.started_at,
                completed_at: attempt.ended_at?,
                status: attempt.status,
                lesson,
                success: attempt.status == Status::Succeeded,
                verified: Some(attempt.status == Status::Succeeded),
                improvement_pct: None,
                recovery_s: None,
                feedback: None,
            })
        })
        .collect();
    Learned { seed: rows.len() as u64, posteriors: posteriors(&rows, &[]), rungs: vec![] }
}

/// Whether a decision is the recorded one: the same reason, or an action of the same strategy.
fn is_recorded(outcome: &Outcome, decision: &Value) -> bool {
    let text = |key: &str| decision.get(key).and_then(Value::as_str);
    match outcome {
        Outcome::Refuse(reason) => text("reason") == Some(reason.as_str()),
        Outcome::Ask(strategy) => {
            text("reason") == Some("awaiting_approval") && text("strategy") == Some(strategy.as_str())
        }
        Outcome::Act(strategy) => text("reason").is_none() && text("strategy") == Some(strategy.as_str()),
    }
}

fn tally(tally: &mut Tally, outcome: &Outcome) {
    let (into, name) = match outcome {
        Outcome::Refuse(reason) => (&mut tally.refusals, reason),
        Outcome::Ask(strategy) => (&mut tally.asked, strategy),
        Outcome::Act(strategy) => (&mut tally.actions, strategy),
    };
    *into.entry(name.clone()).or_default() += 1;
}

impl Replay {
    /// The report in plain words; `time` writes a moment.
    pub fn in_words(&self, time: &dyn Fn(UnixMs) -> String) -> String {
        let mut text = String::new();
        let mut line = |words: String| {
            text.push_str(&words);
            text.push('\n');
        };
        if let (Some(from), Some(until)) = (self.from, self.until) {
            line(format!(
                "Replayed {} snapshots and {} samples from {} to {}.",
                self.snapshots,
                self.samples,
                time(from),
                time(until)
            ));
        }
        for (name, tally) in [("recorded settings", &self.recorded), ("other settings", &self.other)] {
            let list = |counts: &BTreeMap<String, u64>| {
                let all: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
                if all.is_empty() { "none".to_owned() } else { all.join(", ") }
            };
            let seconds: Vec<String> =
                tally.seconds.iter().map(|(state, seconds)| format!("{state} {seconds:.0} s")).collect();
            line(format!(
                "With the {name}: actions {}; asked {}; nothing done {}; {}.",
                list(&tally.actions),
                list(&tally.asked),
                list(&tally.refusals),
                seconds.join(", ")
            ));
        }
        if self.differences.is_empty() && self.snapshots > 0 {
            line("Nothing would have been decided differently.".to_owned());
        }
        for difference in &self.differences {
            let lambda =
                difference.lambda.map_or_else(|| "not known".to_owned(), |lambda| format!("{lambda:.2}"));
            let state = if difference.state == difference.other_state {
                difference.state.as_str().to_owned()
            } else {
                format!(
                    "{}, with the other settings {}",
                    difference.state.as_str(),
                    difference.other_state.as_str()
                )
            };
            let expected = difference.expected.map_or_else(String::new, |effect| {
                format!("; expected effect {:.2} ({:.2} to {:.2})", effect.mean, effect.low, effect.high)
            });
            let propensity = difference
                .propensity
                .filter(|propensity| *propensity < 1.0)
                .map_or_else(String::new, |propensity| format!("; chosen with probability {propensity:.2}"));
            line(format!(
                "{} {}: λ {lambda}, {state}: instead of {} it would {}{}{}{}.",
                time(difference.at),
                difference.collection,
                difference.recorded.in_words(),
                difference.other.in_words(),
                propensity,
                expected,
                if difference.certain { "" } else { " [conjecture]" }
            ));
        }
        if self.more_differences > 0 {
            line(format!("{} more differences are not listed.", self.more_differences));
        }
        for caveat in &self.caveats {
            line(format!("Note: {caveat}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixtures::{NOW, fragment, snapshot};

    /// A recording, one row each 10 s: fragmentation of the index in percent at each sample.
    fn recording(settings: &Value, fragmentation: &[f64]) -> Vec<Recorded> {
        let config = Config::layered(&json!({}), settings).unwrap();
        let mut record = StateRecord::new(NOW);
        (0i64..)
            .zip(fragmentation)
            .map(|(at, pct)| {
                let mut seen = snapshot(1, 0, 1);
                seen.taken_at = NOW + at * 10_000;
                fragment(&mut seen.indexes[0], *pct);
                let lambda = assess(&seen, &config).unwrap().lambda;
                record = record.advance(lambda, seen.taken_at, &config).0;
                let outcome = decided(&seen, &config, &record, &[], seen.taken_at).outcome;
                let decision = match outcome {
                    Outcome::Refuse(reason) => json!({ "reason": reason }),
                    Outcome::Ask(strategy) => json!({ "reason": "awaiting_approval", "strategy": strategy }),
                    Outcome::Act(strategy) => json!({ "strategy": strategy }),
                };
                Recorded::Snapshot {
                    settings: Settings { server: json!({}), collection: settings.clone() },
                    record,
                    snapshot: Box::new(seen),
                    decision,
                }
            })
            .collect()
    }

    const OBSERVED: [f64; 8] = [0.0, 0.0, 70.0, 70.0, 70.0, 70.0, 70.0, 70.0];

    #[test]
    fn the_same_settings_decide_the_same() {
        let rows = recording(&json!({"mode": "observe"}), &OBSERVED);
        let same = replay(&rows, &json!({})).unwrap();
        assert_eq!((same.snapshots, same.reproduced, same.differences.len()), (8, 8, 0));
        assert_eq!(same.recorded, same.other);
        assert_eq!(same.caveats, Vec::<String>::new());
        assert!(same.in_words(&|at| at.to_string()).contains("Nothing would have been decided differently."));
    }

    #[test]
    fn what_another_mode_would_have_done_is_certain_once_and_conjecture_after() {
        let rows = recording(&json!({"mode": "observe"}), &OBSERVED);
        let other = replay(&rows, &json!({"mode": "auto"})).unwrap();
        assert_eq!(other.other.actions, [("compact_indexes".to_owned(), 1)].into());
        assert_eq!(other.recorded.actions, [].into());
        let first = &other.differences[0];
        // The third sample below the boundary.
        assert_eq!(first.at, NOW + 40_000);
        assert_eq!(first.recorded, Outcome::Refuse("observe_mode".to_owned()));
        assert_eq!(first.other, Outcome::Act("compact_indexes".to_owned()));
        assert!(first.certain);
        assert!((first.expected.unwrap().mean - 0.25).abs() < 1e-9, "nothing was learned yet");
        assert!(other.differences[1..].iter().all(|difference| !difference.certain));
        let words = other.in_words(&|at| at.to_string());
        assert!(words.contains("instead of nothing (observe_mode) it would act: compact_indexes"), "{words}");
        assert!(words.contains("[conjecture]") && words.contains("Note: Where another action"), "{words}");
    }

    #[test]
    fn other_boundaries_turn_the_state_at_another_time() {
        let rows = recording(&json!({"mode": "observe"}), &[20.0; 8]);
        let lower =
            replay(&rows, &json!({"stress_lambda": 0.9, "hysteresis": 0.05, "mode": "auto"})).unwrap();
        assert_eq!(lower.recorded.refusals, [("state_normal".to_owned(), 8)].into());
        assert!(lower.other.seconds.contains_key("stress"));
    }

    #[test]
    fn between_snapshots_the_samples_count_as_long_as_the_settings_leave_lambda_alone() {
        let mut rows = recording(&json!({"mode": "observe"}), &[0.0, 70.0, 70.0]);
        let Recorded::Snapshot { snapshot, .. } = &rows[1] else { panic!() };
        let lambda = assess(snapshot, &Config::default()).unwrap().lambda;
        let sample = |at| Recorded::Lambda { collection_id: 1, at: NOW + at, lambda };
        // Two samples between the second snapshot and the last: with it the dwell is over.
        drop(rows.splice(2..2, [sample(10_000), sample(12_000), sample(15_000)]));
        let with = replay(&rows, &json!({"mode": "auto"})).unwrap();
        assert_eq!(
            (with.samples, with.other.actions.len()),
            (2, 1),
            "that of the snapshot itself counts once"
        );
        let changed =
            json!({"mode": "auto", "health_curves": {"fragmentation": [[0, 1], [30, 0.7], [90, 0.05]]}});
        let without = replay(&rows, &changed).unwrap();
        assert_eq!((without.samples, without.other.actions.len()), (0, 0));
        assert!(without.caveats.iter().any(|caveat| caveat.contains("λ itself")), "{:?}", without.caveats);
    }

    #[test]
    fn recorded_actions_hold_back_and_teach_as_they_did() {
        let mut rows = recording(&json!({"mode": "auto"}), &OBSERVED);
        let attempt = Attempt {
            started_at: NOW + 40_000,
            ended_at: Some(NOW + 45_000),
            status: Status::RolledBack,
            strategy: "compact_indexes".to_owned(),
            problem_class: "IndexFragmentation".to_owned(),
            lesson: Some(Lesson::NoGain),
            lambda_planned: Some(0.01),
            lambda_before: Some(0.01),
            lambda_after: Some(0.01),
            nodes: vec![NodeKey::Index { partition: 1000, index: "public.docs_1000_hnsw_0".to_owned() }],
        };
        let action = Recorded::Action { collection_id: 1, action_id: 1, attempt: Box::new(attempt) };
        let text = serde_json::to_string(&action).unwrap();
        assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap(), action);
        rows.insert(5, action);
        let shorter = replay(&rows, &json!({"min_healing_interval_seconds": 0})).unwrap();
        assert!(shorter.recorded.refusals.contains_key("cooldown"), "{:?}", shorter.recorded);
        assert!(!shorter.other.refusals.contains_key("cooldown"));
        assert!(shorter.other.refusals.contains_key("arm_backoff"), "{:?}", shorter.other);
        // Never backwards: an action is not known before it began.
        assert_eq!(as_of(&Attempt { started_at: 9, ..first_attempt(&rows) }, 8), None);
        assert_eq!(as_of(&first_attempt(&rows), NOW + 42_000).unwrap().status, Status::Executing);
    }

    fn first_attempt(rows: &[Recorded]) -> Attempt {
        rows.iter()
            .find_map(|row| {
                if let Recorded::Action { attempt, .. } = row { Some((**attempt).clone()) } else { None }
            })
            .unwrap()
    }

    #[test]
    fn a_bad_patch_is_refused_and_an_empty_recording_says_so() {
        assert!(replay(&[], &json!({"enabeld": true})).is_err());
        assert!(replay(&[], &json!([])).is_err());
        let nothing = replay(&[], &json!({})).unwrap();
        assert_eq!(nothing.caveats, ["Nothing was recorded in this time."]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn without_a_patch_nothing_differs(values in prop::collection::vec(0.0f64..90.0, 1..12), mode in 0usize..3) {
            let mode = ["observe", "approve", "auto"][mode];
            let rows = recording(&json!({ "mode": mode }), &values);
            let same = replay(&rows, &json!({})).unwrap();
            prop_assert_eq!(same.differences.len(), 0);
            prop_assert_eq!(same.snapshots as usize, values.len());
            let shuffled = replay(&rows, &json!({"dwell_samples": 1})).unwrap();
            prop_assert_eq!(shuffled, replay(&rows, &json!({"dwell_samples": 1})).unwrap());
        }
    }
}
