//! `throttle_ingestion`: writers bring more than the server can take.
//!
//! Symptom: a hot partition, memory that runs out, a replica that falls behind. Evidence: the collection is being written
//! (for a hotspot: that partition is). Action: takes a share off the collection's own usual rate, by the state: half in
//! stress, nine tenths in a critical one, ten percent more off bulk, at most 95. Writers wait, readers do not.
//! Never: a stop; a throttle without an end (it is a lease); anything where nothing is written or the usual rate is not
//! known, or for a replica that is not connected. Undone by putting back both previous values, which are read first. It
//! cures nothing, it holds in check: verified when writers keep to the target and the symptom has stopped growing.

use serde_json::json;

use super::{Limits, NotApplicable, Outcome, Parameter, Params, Remedy, asked_for};
use crate::classify::{Problem, ProblemClass};
use crate::config::Config;
use crate::graph::NodeKey;
use crate::lag;
use crate::lease::LEASE_MAX_S;
use crate::load;
use crate::params::ParameterKind;
use crate::plan::{Plan, Step};
use crate::snapshot::{Oid, Reading, Snapshot};
use crate::throttle::{Ingestion, Percentages, Rates, Targets};

/// Setting it takes two transactions, seconds.
const SET_S: f64 = 10.0;
/// Growth of a symptom that is noise: of a load ratio, as a share.
const GROWTH_SHARE: f64 = 0.1;
/// The same of memory, percent of the limit.
const GROWTH_MEMORY_PCT: f64 = 2.0;

const PCT: &str = "throttle_pct";
const BULK_PCT: &str = "bulk_throttle_pct";
const LEASE_S: &str = "lease_seconds";

/// See the module.
pub(super) struct ThrottleIngestion;

impl Remedy for ThrottleIngestion {
    fn name(&self) -> &'static str {
        "throttle_ingestion"
    }

    fn treats(&self, problem: &Problem) -> bool {
        matches!(
            problem.class,
            ProblemClass::HotspotCongestion { .. }
                | ProblemClass::MemoryPressure { .. }
                | ProblemClass::ReplicationLag { .. }
        )
    }

    fn impact(&self) -> f64 {
        0.4
    }

    fn reversible(&self) -> bool {
        true
    }

    /// It is for when the server is anything but quiet.
    fn adds_load(&self) -> bool {
        false
    }

    fn parameters(&self) -> &'static [Parameter] {
        const PARAMETERS: &[Parameter] = &[
            Parameter {
                name: PCT,
                kind: ParameterKind::Int { min: 0, max: 100 },
                doc: "Share taken off the usual rate, percent; otherwise by the state. 100 is a stop with throttle_reject; without it who writes waits as long as one may, each time.",
            },
            Parameter {
                name: BULK_PCT,
                kind: ParameterKind::Int { min: 0, max: 100 },
                doc: "The same of bulk writes; otherwise ten more, at most 95.",
            },
            Parameter {
                name: LEASE_S,
                kind: ParameterKind::Int { min: 10, max: LEASE_MAX_S },
                doc: "Seconds after which it ends by itself; otherwise throttle_lease_seconds.",
            },
        ];
        PARAMETERS
    }

    fn preventive(&self) -> bool {
        true
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        if !self.treats(problem) {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: "it holds back writers".to_owned(),
            });
        }
        let Some(percentages) = percentages(limits) else {
            return Err(NotApplicable::NothingToDo { detail: "the state is normal".to_owned() });
        };
        if let ProblemClass::ReplicationLag { replica_ids, .. } = &problem.class {
            lag::connected(snapshot, replica_ids)?;
        }
        let usual = usual(snapshot)?;
        if usual.total() <= 0.0 {
            return Err(NotApplicable::NothingToDo {
                detail: format!("nothing is written to {}", snapshot.collection),
            });
        }
        check_written(problem, snapshot)?;
        let lease_s = limits.params.int(LEASE_S).unwrap_or(limits.config.throttle_lease_seconds);
        let present = snapshot.ingestion.as_ref().and_then(|ingestion| ingestion.throttle.as_ref());
        if let Some(present) = present {
            let as_strong = present.percentages.throttle_pct >= percentages.throttle_pct
                && present.percentages.bulk_throttle_pct >= percentages.bulk_throttle_pct;
            // It is renewed in its second half. One that takes off more was ordered, and is left to its end: renewed it would
            // be weaker, or last for longer than whoever ordered it wanted.
            if as_strong
                && limits.params.int(PCT).is_none()
                && (present.percentages != percentages || present.until - snapshot.taken_at > lease_s * 500)
            {
                return Err(NotApplicable::NothingToDo {
                    detail: format!("{} % are taken off already", present.percentages.throttle_pct),
                });
            }
        }
        let targets = Targets::new(&percentages, &usual);
        let in_words = |target: Option<f64>| {
            target.map_or("as they come".to_owned(), |rate| format!("{rate:.0} rows/s"))
        };
        limits.check_duration(SET_S)?;
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible: true,
            reason: format!(
                "{} is written at {:.0} rows/s in small statements and {:.0} in bulk; at {} and {} what is short of room \
                 is to stop growing.",
                snapshot.collection,
                usual.insert,
                usual.bulk_insert,
                in_words(targets.insert),
                in_words(targets.bulk_insert),
            ),
            estimated_s: SET_S,
            timeout_s: limits.timeout_s(SET_S),
            disk_bytes: 0,
            steps: vec![Step::SetThrottle { percentages, baseline: usual, lease_s }],
            skipped: vec![],
            params: json!({
                PCT: percentages.throttle_pct,
                BULK_PCT: percentages.bulk_throttle_pct,
                "baseline_rate": usual,
                "target_rate": targets,
                LEASE_S: lease_s,
            }),
        })
    }

    fn manual_problem(
        &self,
        snapshot: &Snapshot,
        config: &Config,
        _params: &Params,
    ) -> Result<Problem, NotApplicable> {
        let (class, nodes) = match &snapshot.memory {
            Some(Reading::Known(memory)) => (
                ProblemClass::MemoryPressure {
                    current_usage_pct: memory.used_pct,
                    largest_consumers: memory.consumers.clone(),
                },
                vec![NodeKey::Memory],
            ),
            _ => {
                let hottest = snapshot.partitions.first().ok_or_else(|| NotApplicable::NoTarget {
                    detail: "the collection has no table".to_owned(),
                })?;
                (
                    ProblemClass::HotspotCongestion {
                        partition_ids: vec![hottest.oid],
                        partitions: vec![hottest.name.clone()],
                        load_ratio: 1.0,
                    },
                    vec![NodeKey::Partition { oid: hottest.oid }],
                )
            }
        };
        let component = asked_for(snapshot, nodes, config)?;
        Ok(Problem { class, component, evidence: vec!["asked for by hand".to_owned()] })
    }

    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        let Outcome { problem, before, after, config, .. } = *outcome;
        let in_force = after.ingestion.as_ref().and_then(|ingestion| ingestion.throttle.as_ref());
        in_force.ok_or("the throttle is not in force any more")?.held()?;
        symptom_stands(problem, before, after, config)
    }

    fn evident(&self, outcome: &Outcome<'_>) -> bool {
        let Outcome { problem, before, after, config, .. } = *outcome;
        match &problem.class {
            ProblemClass::HotspotCongestion { partition_ids, .. } => {
                [before, after].iter().all(|seen| hottest(seen, partition_ids, config).is_some())
            }
            ProblemClass::MemoryPressure { .. } => {
                [before, after].iter().all(|seen| memory_used(seen).is_some())
            }
            ProblemClass::ReplicationLag { replica_ids, .. } => lag::is_read(replica_ids, before, after),
            _ => true,
        }
    }
}

/// What is taken off: what was asked for, else by the state.
fn percentages(limits: &Limits) -> Option<Percentages> {
    let asked = |name| limits.params.int(name).map(|pct| pct as u32);
    match (asked(PCT), asked(BULK_PCT)) {
        (Some(throttle_pct), bulk) => {
            let usual = Percentages::with_bulk(throttle_pct);
            Some(Percentages {
                throttle_pct,
                bulk_throttle_pct: bulk.unwrap_or(usual.bulk_throttle_pct.max(throttle_pct)),
            })
        }
        (None, Some(bulk_throttle_pct)) => Some(Percentages { bulk_throttle_pct, ..Percentages::NONE }),
        (None, None) => Percentages::of(limits.state),
    }
}

/// The usual rate: under a throttle the one that it was measured against, since what is written now is not usual.
fn usual(snapshot: &Snapshot) -> Result<Rates, NotApplicable> {
    let missing = |detail: &str| NotApplicable::MeasurementMissing { detail: detail.to_owned() };
    match &snapshot.ingestion {
        None => Err(missing("nobody counts how fast the collection is written")),
        Some(Ingestion { throttle: Some(throttle), .. }) => Ok(throttle.baseline),
        Some(Ingestion { baseline: Reading::Known(baseline), .. }) => Ok(baseline.rates),
        Some(Ingestion { baseline: Reading::Unknown(reason), .. }) => {
            Err(missing(&format!("the usual rate of writing: {reason}")))
        }
    }
}

/// A partition that is hot because it is read does not cool when writers wait.
fn check_written(problem: &Problem, snapshot: &Snapshot) -> Result<(), NotApplicable> {
    let ProblemClass::HotspotCongestion { partition_ids, partitions, .. } = &problem.class else {
        return Ok(());
    };
    let hot = snapshot.partitions.iter().filter(|partition| partition_ids.contains(&partition.oid));
    let known = hot.filter_map(|partition| partition.load.as_ref()?.known());
    let written: f64 = known.map(|load| load.inserted + load.updated).sum();
    if written > 0.0 || problem.evidence.iter().any(|line| line == "asked for by hand") {
        return Ok(());
    }
    Err(NotApplicable::NotTreated {
        class: problem.class.as_str().to_owned(),
        detail: format!("{} is not being written: its load is reading", partitions.join(", ")),
    })
}

/// Whether what was short of room has stopped getting worse.
fn symptom_stands(
    problem: &Problem,
    before: &Snapshot,
    after: &Snapshot,
    config: &Config,
) -> Result<(), String> {
    match &problem.class {
        ProblemClass::HotspotCongestion { partition_ids, .. } => {
            let ratio = |snapshot| hottest(snapshot, partition_ids, config);
            stands("the load against the other partitions'", ratio(before), ratio(after), GROWTH_SHARE, 0.0)
        }
        ProblemClass::MemoryPressure { .. } => {
            let (then, now) = (memory_used(before), memory_used(after));
            stands("memory in use, percent,", then, now, 0.0, GROWTH_MEMORY_PCT)
        }
        ProblemClass::ReplicationLag { replica_ids, .. } => lag::stands(replica_ids, before, after),
        _ => Ok(()),
    }
}

/// Load of the hottest of these partitions against the others'.
fn hottest(snapshot: &Snapshot, partitions: &[Oid], config: &Config) -> Option<f64> {
    let ratios = load::ratios(snapshot, config);
    partitions.iter().filter_map(|oid| ratios.get(oid)?.clone().ok()).reduce(f64::max)
}

/// Percent of the memory in use.
fn memory_used(snapshot: &Snapshot) -> Option<f64> {
    Some(snapshot.memory.as_ref()?.known()?.used_pct)
}

/// A figure that was not known before cannot be said to have grown; one that is not known any more proves nothing.
fn stands(what: &str, before: Option<f64>, after: Option<f64>, share: f64, more: f64) -> Result<(), String> {
    match (before, after) {
        (Some(then), Some(now)) if now > then * (1.0 + share) + more => {
            Err(format!("{what} went on growing, from {then:.1} to {now:.1}"))
        }
        (Some(_), None) => Err(format!("{what} could not be read again")),
        _ => Ok(()),
    }
}

#[cfg(test)]
fn figures(plan: &Plan) -> (&serde_json::Value, &serde_json::Value) {
    (&plan.params[PCT], &plan.params[BULK_PCT])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, load, replica, whole};
    use crate::integrity::{Component, IntegrityState};
    use crate::snapshot::Replica;
    use crate::throttle::{Baseline, InForce};
    use crate::verification::verify;
    use serde_json::Value;

    fn written(insert: f64, bulk_insert: f64) -> Snapshot {
        let mut snapshot = whole(4, 0, 1, 1, 0);
        let rates = Rates { insert, bulk_insert };
        snapshot.ingestion =
            Some(Ingestion { baseline: Reading::Known(Baseline { rates, over_s: 300.0 }), throttle: None });
        snapshot
    }

    fn memory(snapshot: &Snapshot) -> Problem {
        ThrottleIngestion.manual_problem(snapshot, &Config::default(), &Params::default()).unwrap()
    }

    fn limits(state: IntegrityState, snapshot: &Snapshot, params: Value) -> Limits {
        let params = Params::parse("throttle_ingestion", &params).unwrap();
        Limits::new(&Config::default(), state, snapshot, params)
    }

    fn plan(state: IntegrityState, snapshot: &Snapshot, params: Value) -> Result<Plan, NotApplicable> {
        ThrottleIngestion.plan(&memory(snapshot), snapshot, &limits(state, snapshot, params))
    }

    fn in_force(percentages: Percentages, achieved: Rates, until: i64) -> InForce {
        let baseline = Rates { insert: 400.0, bulk_insert: 2000.0 };
        let targets = Targets::new(&percentages, &baseline);
        InForce { percentages, baseline, targets, achieved, over_s: 30.0, debt_s: 0.0, until }
    }

    #[test]
    fn by_the_state_and_nothing_in_a_normal_one() {
        let snapshot = written(400.0, 2000.0);
        let stress = plan(IntegrityState::Stress, &snapshot, Value::Null).unwrap();
        assert_eq!(figures(&stress), (&json!(50), &json!(60)));
        assert_eq!(stress.params["baseline_rate"], json!({ "insert": 400.0, "bulk_insert": 2000.0 }));
        let critical = plan(IntegrityState::Critical, &snapshot, Value::Null).unwrap();
        assert_eq!(figures(&critical), (&json!(90), &json!(95)));
        let normal = plan(IntegrityState::Normal, &snapshot, Value::Null).unwrap_err();
        assert!(matches!(normal, NotApplicable::NothingToDo { .. }), "{normal}");
        let asked = plan(IntegrityState::Normal, &snapshot, json!({ "throttle_pct": 100 })).unwrap();
        assert_eq!(figures(&asked), (&json!(100), &json!(100)), "a stop is a human's to order");
    }

    #[test]
    fn without_a_usual_rate_or_without_writers_there_is_no_plan() {
        let mut snapshot = written(0.0, 0.0);
        let nobody = plan(IntegrityState::Stress, &snapshot, Value::Null).unwrap_err();
        assert!(matches!(nobody, NotApplicable::NothingToDo { .. }), "{nobody}");
        snapshot.ingestion = None;
        let unknown = plan(IntegrityState::Stress, &snapshot, Value::Null).unwrap_err();
        assert!(matches!(unknown, NotApplicable::MeasurementMissing { .. }), "{unknown}");
    }

    #[test]
    fn a_partition_that_is_only_read_is_not_throttled() {
        let mut snapshot = written(400.0, 0.0);
        snapshot.partitions[0].load = Some(load(9000.0));
        let problem = Problem {
            class: ProblemClass::HotspotCongestion {
                partition_ids: vec![1000],
                partitions: vec!["public.docs_0".into()],
                load_ratio: 4.5,
            },
            component: Component {
                lambda: 0.3,
                nodes: vec![NodeKey::Partition { oid: 1000 }],
                witness: vec![],
            },
            evidence: vec![],
        };
        let limits = limits(IntegrityState::Stress, &snapshot, Value::Null);
        if let Some(Reading::Known(load)) = &mut snapshot.partitions[0].load {
            (load.inserted, load.updated) = (0.0, 0.0);
        }
        let read = ThrottleIngestion.plan(&problem, &snapshot, &limits).unwrap_err();
        assert!(matches!(read, NotApplicable::NotTreated { .. }), "{read}");
        if let Some(Reading::Known(load)) = &mut snapshot.partitions[0].load {
            load.inserted = 100.0;
        }
        ThrottleIngestion.plan(&problem, &snapshot, &limits).unwrap();
    }

    #[test]
    fn one_in_force_is_kept_renewed_in_its_second_half_and_strengthened_from_the_same_baseline() {
        let mut snapshot = written(200.0, 800.0);
        let stress = Percentages::of(IntegrityState::Stress).unwrap();
        let present = |left_s: i64| {
            Some(in_force(stress, Rates { insert: 200.0, bulk_insert: 800.0 }, NOW + left_s * 1000))
        };
        snapshot.ingestion.as_mut().unwrap().throttle = present(800);
        let again = plan(IntegrityState::Stress, &snapshot, Value::Null).unwrap_err();
        assert!(matches!(again, NotApplicable::NothingToDo { .. }), "{again}");
        let critical = plan(IntegrityState::Critical, &snapshot, Value::Null).unwrap();
        assert_eq!(critical.params["baseline_rate"]["insert"], 400.0, "not the throttled 200");
        snapshot.ingestion.as_mut().unwrap().throttle = present(400);
        plan(IntegrityState::Stress, &snapshot, Value::Null).unwrap();
        // A human's stop, about to end.
        let stop = Percentages { throttle_pct: 100, bulk_throttle_pct: 100 };
        snapshot.ingestion.as_mut().unwrap().throttle =
            Some(in_force(stop, Rates { insert: 0.0, bulk_insert: 0.0 }, NOW + 5000));
        let weaker = plan(IntegrityState::Critical, &snapshot, Value::Null).unwrap_err();
        assert!(matches!(weaker, NotApplicable::NothingToDo { .. }), "{weaker}");
    }

    fn achieved(problem: &Problem, before: &Snapshot, after: &Snapshot) -> Result<(), String> {
        let plan = plan(IntegrityState::Stress, before, Value::Null).unwrap();
        ThrottleIngestion.achieved(&Outcome {
            problem,
            plan: &plan,
            before,
            after,
            verdicts: &[],
            entries: &[],
            config: &Config::default(),
        })
    }

    #[test]
    fn verified_when_writers_keep_to_it_and_the_symptom_stands() {
        let before = written(400.0, 2000.0);
        let stress = Percentages::of(IntegrityState::Stress).unwrap();
        let mut after = before.clone();
        assert!(achieved(&memory(&before), &before, &after).unwrap_err().contains("not in force"));
        let throttle = |insert| Some(in_force(stress, Rates { insert, bulk_insert: 0.0 }, NOW + 1000));
        after.ingestion.as_mut().unwrap().throttle = throttle(205.0);
        assert_eq!(achieved(&memory(&before), &before, &after), Ok(()));
        after.ingestion.as_mut().unwrap().throttle = throttle(300.0);
        assert!(
            achieved(&memory(&before), &before, &after).unwrap_err().contains("cannot be held by waiting")
        );
        after.ingestion.as_mut().unwrap().throttle = throttle(205.0);
        if let Some(Reading::Known(memory)) = &mut after.memory {
            memory.used_pct += 5.0;
        }
        assert!(achieved(&memory(&before), &before, &after).unwrap_err().contains("went on growing"));
        after.memory = None;
        assert!(achieved(&memory(&before), &before, &after).unwrap_err().contains("could not be read"));
    }

    #[test]
    fn a_replica_that_falls_further_behind_is_not_held_in_check() {
        let behind = |bytes: f64| {
            let mut one = written(400.0, 2000.0);
            one.replicas =
                Some(Reading::Known(vec![Replica { lag_bytes: Reading::Known(bytes), ..replica(1) }]));
            let stress = Percentages::of(IntegrityState::Stress).unwrap();
            one.ingestion.as_mut().unwrap().throttle =
                Some(in_force(stress, Rates { insert: 1.0, bulk_insert: 1.0 }, NOW + 1000));
            one
        };
        let mut before = behind(1e9);
        before.ingestion.as_mut().unwrap().throttle = None;
        let problem = lagging(&[1]);
        assert_eq!(achieved(&problem, &before, &behind(1.05e9)), Ok(()));
        assert!(achieved(&problem, &before, &behind(1.5e9)).is_err());
    }

    fn lagging(ids: &[i64]) -> Problem {
        Problem {
            class: ProblemClass::ReplicationLag {
                replica_ids: ids.to_vec(),
                replicas: ids.iter().map(|id| format!("standby{id}")).collect(),
                lag_seconds: None,
            },
            component: Component {
                lambda: 0.3,
                nodes: ids.iter().map(|id| NodeKey::Replica { id: *id }).collect(),
                witness: vec![],
            },
            evidence: vec![],
        }
    }

    #[test]
    fn nobody_is_held_back_for_replicas_of_which_none_is_connected() {
        let mut snapshot = written(400.0, 2000.0);
        let far = |id: i64, gone_s: Option<f64>| Replica {
            lag_bytes: gone_s.map_or(Reading::Known(1e9), |_| Reading::unknown("it is not connected")),
            gone_s,
            ..replica(id)
        };
        let limits = limits(IntegrityState::Critical, &snapshot, Value::Null);
        snapshot.replicas = Some(Reading::Known(vec![far(1, Some(3600.0)), far(2, Some(60.0))]));
        let plan =
            |ids: &[i64], snapshot: &Snapshot| ThrottleIngestion.plan(&lagging(ids), snapshot, &limits);
        let gone = plan(&[1, 2], &snapshot).unwrap_err();
        assert!(matches!(gone, NotApplicable::NothingToDo { .. }), "{gone}");
        assert!(gone.to_string().contains("standby1, standby2 is not connected"), "{gone}");
        snapshot.replicas = Some(Reading::Known(vec![far(1, Some(3600.0)), far(2, None)]));
        plan(&[1, 2], &snapshot).unwrap();
    }

    #[test]
    fn at_nought_and_nought_only_what_was_read_before_and_after_verifies_it() {
        let config = Config::default();
        let stress = Percentages::of(IntegrityState::Stress).unwrap();
        let used = |pct: Option<f64>| {
            let mut snapshot = written(400.0, 2000.0);
            match (pct, &mut snapshot.memory) {
                (Some(pct), Some(Reading::Known(memory))) => memory.used_pct = pct,
                (_, memory) => *memory = Some(Reading::unknown("no control group")),
            }
            snapshot
        };
        let problem = Problem {
            class: ProblemClass::MemoryPressure { current_usage_pct: 100.0, largest_consumers: vec![] },
            component: Component { lambda: 0.0, nodes: vec![NodeKey::Memory], witness: vec![] },
            evidence: vec![],
        };
        let evident = |before: &Snapshot, after: &Snapshot| {
            let plan = plan(IntegrityState::Stress, &used(Some(100.0)), Value::Null).unwrap();
            let outcome = Outcome {
                problem: &problem,
                plan: &plan,
                before,
                after,
                verdicts: &[],
                entries: &[],
                config: &config,
            };
            (ThrottleIngestion.evident(&outcome), verify(&ThrottleIngestion, &outcome).unwrap())
        };
        let mut after = used(Some(100.0));
        after.ingestion.as_mut().unwrap().throttle =
            Some(in_force(stress, Rates { insert: 1.0, bulk_insert: 1.0 }, NOW + 1000));
        let (shown, verdict) = evident(&used(Some(100.0)), &after);
        assert!(shown && verdict.verified && verdict.lambda_after.unwrap() < 1e-9, "{verdict:?}");
        assert!(!evident(&used(None), &after).0, "what was not read before shows nothing");
    }
}
