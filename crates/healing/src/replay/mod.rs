//! A replay: recorded snapshots run through the engine with other settings. What would have been decided differently, and
//! how sure that is.
//!
//! What is certain: the states and decisions that the other settings give on the snapshots as they were recorded, up to
//! the first action that would have been another one. From there on the recording shows a world in which something else
//! was done: until both are normal again, what follows is marked as conjecture. What an action would have done is not
//! known at all; the learned effect with its interval is shown instead.
//!
//! How well the replay reproduces what really happened is measured: the recorded settings are replayed too, and compared
//! with the recorded decisions ([`Replay::reproduced`]). What is not recorded (breakers that a human closed, what other
//! collections did at that moment) shows there.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Config, ConfigError};
use crate::engine::Attempt;
use crate::integrity::{IntegrityState, StateRecord, assess};
use crate::learning::{OutcomeRecord, Period, Rung};
use crate::snapshot::{Snapshot, UnixMs};

use moment::{Lessons, as_of, decided};
use report::Seen;
pub use report::{Difference, Outcome, Replay, Tally};

mod moment;
mod report;

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
    /// An action that was begun.
    Action {
        /// The collection.
        collection_id: i32,
        /// Its number.
        action_id: i64,
        /// The action as decisions see it.
        #[serde(flatten)]
        attempt: Box<Attempt>,
    },
    /// What an action of any collection has taught.
    Outcome {
        /// As learning reads it.
        #[serde(flatten)]
        outcome: Box<OutcomeRecord>,
    },
    /// A period in which nothing was done about a problem of any collection.
    Period {
        /// When it ended.
        at: UnixMs,
        /// As learning reads it.
        #[serde(flatten)]
        period: Period,
    },
    /// A move on the autonomy ladder.
    Move {
        /// The collection.
        collection_id: i32,
        /// Where the remedy stood from then on.
        #[serde(flatten)]
        rung: Rung,
    },
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
    let ids: BTreeSet<i32> = rows.iter().filter_map(Recorded::collection_id).collect();
    let mut seen = Seen::default();
    let mut lessons = Lessons::of(rows);
    for id in ids {
        let own: Vec<&Recorded> = rows.iter().filter(|row| row.collection_id() == Some(id)).collect();
        one_collection(id, &own, &mut lessons, patch, &mut replay, &mut seen)?;
    }
    replay.differences.sort_by(|a, b| (a.at, &a.collection).cmp(&(b.at, &b.collection)));
    replay.more_differences = replay.differences.len().saturating_sub(DIFFERENCES_MAX) as u64;
    replay.differences.truncate(DIFFERENCES_MAX);
    replay.caveats = seen.caveats(&replay);
    Ok(replay)
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
    id: i32,
    rows: &[&Recorded],
    lessons: &mut Lessons<'_>,
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

                // The two worlds are one again, and what was done in the other alone is over.
                if record.state == IntegrityState::Normal && world.record.state == IntegrityState::Normal {
                    world.diverged = false;
                    world.invented.clear();
                }
                let history: Vec<Attempt> = attempts.iter().filter_map(|a| as_of(a, now)).collect();
                let known = lessons.by(id, now);
                let of_recorded = decided(snapshot, &recorded_config, record, &history, &known, now);
                let mut history = history;
                history.extend(world.invented.iter().filter_map(|a| as_of(a, now)));
                let of_other = decided(snapshot, &config, &world.record, &history, &known, now);
                replay.reproduced += u64::from(is_recorded(&of_recorded.outcome, decision));
                replay.recorded.count(&of_recorded.outcome);
                replay.other.count(&of_other.outcome);

                let now_pair = (of_recorded.outcome.clone(), of_other.outcome.clone());
                if now_pair.0 != now_pair.1 && pair.as_ref() != Some(&now_pair) {
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
            _ => {}
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
    /// The collection that was observed, or acted upon; what was learned is the whole server's.
    fn collection_id(&self) -> Option<i32> {
        match self {
            Recorded::Snapshot { snapshot, .. } => Some(snapshot.collection_id),
            Recorded::Lambda { collection_id, .. } | Recorded::Action { collection_id, .. } => {
                Some(*collection_id)
            }
            Recorded::Outcome { .. } | Recorded::Period { .. } | Recorded::Move { .. } => None,
        }
    }

    fn sampled_at(&self) -> Option<UnixMs> {
        match self {
            Recorded::Snapshot { snapshot, .. } => Some(snapshot.taken_at),
            Recorded::Lambda { at, .. } => Some(*at),
            _ => None,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::moment::Known;
    use super::*;
    use crate::engine::Attempt;
    use crate::fixtures::{NOW, fragment, snapshot};
    use crate::graph::NodeKey;
    use crate::lifecycle::{Lesson, Status};

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
                let outcome = decided(&seen, &config, &record, &[], &Known::default(), seen.taken_at).outcome;
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
        assert_eq!((same.from, same.until, same.gaps), (Some(NOW), Some(NOW + 70_000), 0));
        // The third sample below the boundary, the fifth of all, turns the state.
        let seconds = [("critical".to_owned(), 30.0), ("normal".to_owned(), 40.0)];
        assert_eq!(same.recorded.seconds, seconds.into());
        let refusals = [("dwelling", 2), ("observe_mode", 4), ("state_normal", 2)];
        assert_eq!(same.recorded.refusals, refusals.map(|(reason, n)| (reason.to_owned(), n)).into());
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
            lambda_placed: None,
            rows_moved: None,
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
    fn points_further_apart_than_three_intervals_are_a_gap() {
        let mut rows = recording(&json!({"mode": "observe"}), &[0.0; 4]);
        let mut later = |row: usize, ms: i64| {
            let Recorded::Snapshot { snapshot, .. } = &mut rows[row] else { panic!() };
            snapshot.taken_at += ms;
        };
        later(2, 20_000);
        later(3, 40_001);
        let replayed = replay(&rows, &json!({})).unwrap();
        assert_eq!(replayed.gaps, 1, "30 s are none, 30.001 s are one");
        // A sample between closes it, but not one of another collection; what comes after a sample may be a gap too.
        let sample = |collection_id, ms| Recorded::Lambda { collection_id, at: NOW + ms, lambda: Some(1.0) };
        let with = |at: usize, row| [&rows[..at], &[row], &rows[at..]].concat();
        assert_eq!(replay(&with(3, sample(1, 50_000)), &json!({})).unwrap().gaps, 0);
        assert_eq!(replay(&with(3, sample(2, 50_000)), &json!({})).unwrap().gaps, 1);
        assert_eq!(replay(&with(4, sample(1, 110_000)), &json!({})).unwrap().gaps, 2);
        let slow = recording(&json!({"mode": "observe", "sample_interval_seconds": 4}), &[0.0; 4]);
        assert_eq!(replay(&slow, &json!({})).unwrap().gaps, 0, "10 s are within three times 4 s");
        let fast = recording(&json!({"mode": "observe", "sample_interval_seconds": 3}), &[0.0; 4]);
        assert_eq!(replay(&fast, &json!({})).unwrap().gaps, 3, "and not within three times 3 s");
    }

    #[test]
    fn what_nobody_knew_is_the_same_unknown_under_both_settings() {
        let mut rows = recording(&json!({"mode": "observe"}), &[0.0; 3]);
        for row in &mut rows {
            let Recorded::Snapshot { snapshot, .. } = row else { panic!() };
            (snapshot.partitions, snapshot.indexes) = (vec![], vec![]);
        }
        let Recorded::Snapshot { snapshot, .. } = &rows[0] else { panic!() };
        assert_eq!(assess(snapshot, &Config::default()).unwrap().lambda, None);
        let other = replay(&rows, &json!({"mode": "auto"})).unwrap();
        assert!(other.caveats.iter().all(|caveat| !caveat.contains("λ itself")), "{:?}", other.caveats);
    }

    #[test]
    fn the_worlds_are_one_again_when_both_are_normal() {
        let values: Vec<f64> = [[0.0; 2], [70.0; 2], [70.0; 2], [70.0; 2]].concat();
        let values = [values, vec![0.0; 12], vec![70.0; 5]].concat();
        let rows = recording(&json!({"mode": "observe"}), &values);
        let other = replay(&rows, &json!({"mode": "auto", "min_healing_interval_seconds": 0})).unwrap();
        let told: Vec<(i64, bool)> =
            other.differences.iter().map(|d| ((d.at - NOW) / 10_000, d.certain)).collect();
        // It acts at the third weak sample of either story; what follows is conjecture until the story is over.
        assert_eq!(told, [(4, true), (5, false), (8, false), (22, true), (23, false)]);
        assert!(other.caveats.iter().any(|caveat| caveat.contains("conjecture")), "{:?}", other.caveats);
        // Under way in the other world: the next sample does not act again.
        assert!(other.other.refusals.contains_key("action_in_flight"), "{:?}", other.other);
    }

    #[test]
    fn as_long_as_one_world_is_not_normal_it_is_conjecture() {
        let values = [[0.0; 2], [70.0; 2], [70.0; 2], [20.0; 2], [20.0; 2], [20.0; 2]].concat();
        let rows = recording(&json!({"mode": "observe"}), &values);
        let boundaries = json!({"mode": "auto", "stress_lambda": 0.9, "hysteresis": 0.05});
        let other = replay(&rows, &boundaries).unwrap();
        let last = other.differences.last().unwrap();
        assert_eq!(
            (last.state, last.other_state),
            (IntegrityState::Normal, IntegrityState::Stress),
            "{other:?}"
        );
        assert!(!last.certain, "{last:?}");
    }

    #[test]
    fn differences_of_collections_are_in_the_order_of_time() {
        let mut rows = recording(&json!({"mode": "observe"}), &OBSERVED);
        let mut second = recording(&json!({"mode": "observe"}), &OBSERVED);
        for row in &mut second {
            let Recorded::Snapshot { snapshot, .. } = row else { panic!() };
            snapshot.collection_id = 2;
            snapshot.collection = "a".to_owned();
        }
        rows.extend(second);
        let other = replay(&rows, &json!({"mode": "approve"})).unwrap();
        let told: Vec<(i64, &str)> =
            other.differences.iter().map(|d| (d.at - NOW, d.collection.as_str())).collect();
        assert_eq!(told, [(40_000, "a"), (40_000, "docs")]);
        assert_eq!(other.other.asked, [("compact_indexes".to_owned(), 8)].into());
        assert_eq!((other.snapshots, other.until), (16, Some(NOW + 70_000)));
    }

    #[test]
    fn a_decision_is_the_recorded_one_by_reason_and_strategy() {
        let refused = Outcome::Refuse("cooldown".to_owned());
        let asks = Outcome::Ask("a".to_owned());
        let acts = Outcome::Act("a".to_owned());
        assert!(is_recorded(&refused, &json!({"reason": "cooldown", "strategy": "b"})));
        assert!(!is_recorded(&refused, &json!({"reason": "disabled"})));
        assert!(is_recorded(&asks, &json!({"reason": "awaiting_approval", "strategy": "a"})));
        assert!(!is_recorded(&asks, &json!({"reason": "awaiting_approval", "strategy": "b"})));
        assert!(!is_recorded(&asks, &json!({"reason": "cooldown", "strategy": "a"})));
        assert!(is_recorded(&acts, &json!({"strategy": "a"})));
        assert!(!is_recorded(&acts, &json!({"strategy": "b"})));
        assert!(!is_recorded(&acts, &json!({"reason": "cooldown", "strategy": "a"})));
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
