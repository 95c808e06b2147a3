use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::classify::Structure;
use crate::fixtures::{NOW, drift, fragment, ivf, known, recall, replica, snapshot};
use crate::graph::NodeKey;
use crate::integrity::{StateRecord, assess};
use crate::lifecycle::Lesson;
use crate::plan::{Move, PlaceRef, Step};
use crate::snapshot::{Activity, Horizon, Managed, Oid, Place, Reading, Replacement};
use crate::throttle::{InForce, Ingestion, Percentages, Rates, Targets};

/// A decision's circumstances; by default a bloated hnsw index in critical state and nothing in the way.
#[derive(Clone)]
struct Case {
    config: Config,
    state: StateRecord,
    snapshot: Snapshot,
    history: Vec<Attempt>,
    arms: Vec<Arm>,
    learned: Learned,
    in_flight: InFlight,
    now: UnixMs,
    request: Request,
}

impl Case {
    fn new() -> Self {
        let mut sick = snapshot(1, 0, 1);
        fragment(&mut sick.indexes[0], 70.0);
        Self {
            config: Config::default(),
            state: StateRecord { state: IntegrityState::Critical, ..StateRecord::new(NOW - 60_000) },
            snapshot: sick,
            history: vec![],
            arms: vec![],
            learned: Learned::default(),
            in_flight: InFlight::default(),
            now: NOW + 1000,
            request: Request::Automatic,
        }
    }

    fn with(change: impl FnOnce(&mut Case)) -> Self {
        let mut case = Self::new();
        change(&mut case);
        case
    }

    fn decide(&self) -> Decision {
        let assessment = assess(&self.snapshot, &self.config).unwrap();
        decide(&DecisionInput {
            config: &self.config,
            state: &self.state,
            assessment: &assessment,
            snapshot: &self.snapshot,
            history: &self.history,
            arms: &self.arms,
            learned: &self.learned,
            in_flight: self.in_flight,
            now: self.now,
            request: &self.request,
        })
    }

    fn reason(&self) -> Option<Reason> {
        match self.decide() {
            Decision::Refuse { reason, .. } => Some(reason),
            Decision::Act { .. } => None,
        }
    }

    fn strategy(&self) -> String {
        match self.decide() {
            Decision::Act { planned, .. } => planned.plan.strategy,
            Decision::Refuse { detail, .. } => panic!("{detail}"),
        }
    }

    fn by_hand(mut self, strategy: &str, params: Value) -> Self {
        self.request = Request::Execute { strategy: strategy.to_owned(), params };
        self
    }

    fn triggered(mut self) -> Self {
        self.request = Request::Trigger;
        self
    }
}

fn flying(this_table: u32, server: u32) -> InFlight {
    InFlight { this_table, server, ..InFlight::default() }
}

/// An attempt that ended so many seconds ago.
fn attempt(ago_s: i64, status: Status) -> Attempt {
    Attempt {
        started_at: NOW + 1000 - ago_s * 1000 - 10_000,
        ended_at: Some(NOW + 1000 - ago_s * 1000),
        status,
        strategy: "compact_indexes".to_owned(),
        problem_class: "IndexFragmentation".to_owned(),
        lesson: None,
        lambda_planned: None,
        lambda_before: Some(0.3),
        lambda_after: Some(0.4),
        lambda_placed: None,
        rows_moved: None,
        nodes: vec![NodeKey::Index { partition: 1000, index: "public.docs_1000_hnsw_0".to_owned() }],
    }
}

#[test]
fn with_nothing_in_the_way_the_healer_acts() {
    let Decision::Act { planned, approval, dry_run, rejected, choice } = Case::new().decide() else {
        panic!()
    };
    assert_eq!(planned.plan.strategy, "compact_indexes");
    assert_eq!((approval, dry_run, rejected.len()), (None, false, 0));
    let choice = choice.unwrap();
    assert_eq!((choice.arms.len(), choice.arms[0].propensity), (1, 1.0));
    assert!(matches!(planned.plan.steps[0], Step::BuildIndex { .. }));
}

#[test]
fn each_gate_has_its_reason() {
    let check = |reason: Reason, change: fn(&mut Case)| assert_eq!(Case::with(change).reason(), Some(reason));
    check(Reason::Disabled, |c| c.config.enabled = false);
    check(Reason::InRecovery, |c| c.snapshot.in_recovery = true);
    check(Reason::StaleSnapshot, |c| c.now = NOW + 120_001);
    check(Reason::ActionInFlight, |c| c.in_flight = flying(1, 1));
    check(Reason::ServerBusy, |c| c.in_flight = flying(0, 1));
    check(Reason::LambdaUnknown, |c| c.snapshot.indexes.clear());
    check(Reason::LambdaUnknown, |c| c.snapshot.partitions.clear());
    check(Reason::StateNormal, |c| c.state.state = IntegrityState::Normal);
    check(Reason::Dwelling, |c| {
        c.state = StateRecord { candidate: Some(IntegrityState::Stress), streak: 1, ..StateRecord::new(NOW) };
    });
    check(Reason::Cooldown, |c| c.history = vec![attempt(299, Status::Succeeded)]);
    check(Reason::AttemptsExhausted, |c| {
        c.history = [400, 900, 1800].map(|ago| attempt(ago, Status::Failed)).to_vec();
    });
    check(Reason::HealingIneffective, |c| {
        c.history = vec![attempt(900, Status::Failed), attempt(400, Status::RolledBack)];
        c.history[1].lambda_after = Some(0.29);
    });
    check(Reason::BreakerOpen, |c| c.arms = vec![Arm { breaker_open: true, ..Arm::new("compact_indexes") }]);
    check(Reason::ArmBackoff, |c| {
        c.arms = vec![Arm { backoff_until: Some(NOW + 2000), ..Arm::new("compact_indexes") }];
    });
    check(Reason::OverImpactLimit, |c| c.config.max_auto_heal_impact = 0.4);
    check(Reason::OverStressImpact, |c| {
        c.config.max_stress_impact = 0.4;
        c.state.state = IntegrityState::Stress;
    });
    check(Reason::DiskHeadroom, |c| c.snapshot.disk_free_bytes = Reading::Known(1000));
    check(Reason::NotApplicable, |c| c.snapshot.disk_free_bytes = Reading::unknown("x"));
    check(Reason::ObserveMode, |c| c.config.mode = Mode::Observe);
    check(Reason::NothingToDo, |c| fragment(&mut c.snapshot.indexes[0], 0.0));
}

/// What the server does for others, all of it well within the limits.
fn calm(c: &mut Case) -> &mut Activity {
    c.snapshot.around.activity = Some(Reading::Known(Activity {
        active_sessions: 2,
        cores: 4,
        wal_bytes_per_s: Some(1e6),
        free_workers: 4,
    }));
    known(&mut c.snapshot.around.activity)
}

#[test]
fn a_server_that_is_not_quiet_is_left_alone_unless_a_human_names_the_strategy() {
    type Change = fn(&mut Case);
    let cases: [(&str, Change); 6] = [
        ("quiet_replica_lag_seconds", |c| {
            let mut late = replica(1);
            late.lag_seconds = Reading::Known(60.1);
            c.snapshot.replicas = Some(Reading::Known(vec![replica(2), late]));
        }),
        ("quiet_oldest_snapshot_seconds", |c| {
            c.snapshot.horizon =
                Some(Reading::Known(Horizon { held_s: 901.0, holder: Some("session 7".into()) }));
        }),
        ("quiet_active_sessions_per_core", |c| calm(c).active_sessions = 17),
        ("quiet_wal_mib_per_second", |c| calm(c).wal_bytes_per_s = Some(257.0 * 1_048_576.0)),
        ("could not be read", |c| c.snapshot.around.activity = Some(Reading::unknown("x"))),
        ("quiet_free_workers", |c| calm(c).free_workers = 0),
    ];
    for (name, change) in cases {
        let Decision::Refuse { reason, detail, .. } = Case::with(change).decide() else { panic!("{name}") };
        assert_eq!(reason, Reason::NotQuiet, "{name}");
        assert!(detail.contains(name), "{detail}");
        assert_eq!(Case::with(change).triggered().reason(), Some(Reason::NotQuiet), "{name}");
        let by_hand = Case::with(change).by_hand("compact_indexes", Value::Null).reason();
        // Without a free worker not even a human gets one.
        assert_eq!(by_hand, (name == "quiet_free_workers").then_some(Reason::NotQuiet), "{name}");
    }
    let quiet = Case::with(|c| {
        calm(c).active_sessions = 16;
        let mut gone = replica(1);
        (gone.gone_s, gone.lag_seconds) = (Some(100.0), Reading::unknown("gone"));
        c.snapshot.replicas = Some(Reading::Known(vec![gone]));
        c.snapshot.horizon = Some(Reading::Known(Horizon { held_s: 900.0, holder: None }));
    });
    assert_eq!(quiet.reason(), None, "at the limits, and beside a replica that is gone");
    let unlimited = Case::with(|c| {
        calm(c).active_sessions = 170;
        c.config.quiet_active_sessions_per_core = None;
    });
    assert_eq!(unlimited.reason(), None);
}

#[test]
fn what_takes_load_away_waits_for_neither_a_quiet_server_nor_a_window() {
    let Decision::Act { mut planned, .. } = Case::new().decide() else { panic!() };
    // The very fault that a throttle is for: a replica that is a minute behind, and more to do than there are processors.
    let mut case = Case::with(|c| {
        calm(c).active_sessions = 17;
        let mut late = replica(1);
        late.lag_seconds = Reading::Known(61.0);
        c.snapshot.replicas = Some(Reading::Known(vec![late]));
    });
    let closed = json!({"maintenance_windows": [{"from": "23:00", "to": "05:00"}]});
    case.config = case.config.apply(&closed).unwrap();
    let free: Vec<&str> = crate::remedies::ALL
        .iter()
        .map(|remedy| remedy.name())
        .filter(|name| {
            planned.plan.strategy = (*name).to_owned();
            gates::quiet(&planned, &case.config, &case.snapshot, case.now).is_none()
        })
        .collect();
    assert_eq!(free, ["pause_maintenance", "scale_replicas", "throttle_ingestion"]);
}

#[test]
fn automatic_plans_wait_for_a_window_that_is_long_enough() {
    // NOW is 22:13:20 on a Tuesday, UTC; a second later it is decided.
    let with = |from: &str, to: &str, offset_s: Option<i32>| {
        Case::with(|c| {
            c.config = c.config.apply(&json!({"maintenance_windows": [{"from": from, "to": to}]})).unwrap();
            c.snapshot.around.utc_offset_s = offset_s;
        })
    };
    assert_eq!(with("22:00", "23:59", None).reason(), None);
    let Decision::Refuse { reason, until, detail, .. } = with("23:00", "05:00", None).decide() else {
        panic!()
    };
    assert_eq!((reason, until), (Reason::OutsideWindow, Some(NOW + 46 * 60_000 + 40_000)));
    assert!(detail.contains("47 min"), "{detail}");
    assert_eq!(with("23:00", "05:00", Some(3600)).reason(), None, "there it is an hour later");
    // The build is estimated at a minute, its verification takes half of one.
    let Decision::Refuse { reason, detail, .. } = with("22:00", "22:14", None).decide() else { panic!() };
    assert_eq!(reason, Reason::OutsideWindow);
    assert!(detail.contains("ends in 39 s"), "{detail}");
    assert_eq!(with("22:00", "22:16", None).reason(), None);
    assert_eq!(with("23:00", "05:00", None).by_hand("compact_indexes", Value::Null).reason(), None);
    let mut light = with("23:00", "05:00", None);
    light.config.window_impact = 0.6;
    assert_eq!(light.reason(), None, "its impact is .5");
}

#[test]
fn a_pause_is_a_lease_on_enabled() {
    let paused = |until: UnixMs| Case::with(|c| c.config.paused_until = Some(until));
    let Decision::Refuse { reason, until, .. } = paused(NOW + 5000).decide() else { panic!() };
    assert_eq!((reason, until), (Reason::Paused, Some(NOW + 5000)));
    assert_eq!(paused(NOW + 5000).by_hand("compact_indexes", Value::Null).reason(), Some(Reason::Paused));
    assert_eq!(paused(NOW + 5000).triggered().reason(), Some(Reason::Paused));
    assert_eq!(paused(NOW + 1000).reason(), None, "it has ended by itself");
    assert!(Config::default().effective().get("paused_until").is_none(), "no key");
}

#[test]
fn all_actions_of_a_server_together_keep_to_a_budget_and_one_builds() {
    let beside = |impact: f64, builds: u32| {
        Case::with(|c| {
            c.config.max_concurrent_actions = 4;
            c.in_flight = InFlight { this_table: 0, server: 1, impact, builds };
        })
    };
    assert_eq!(beside(0.5, 0).reason(), None);
    assert_eq!(beside(0.6, 0).reason(), Some(Reason::ImpactBudget));
    assert_eq!(beside(0.6, 0).by_hand("compact_indexes", Value::Null).reason(), Some(Reason::ImpactBudget));
    assert_eq!(beside(0.2, 1).reason(), Some(Reason::ServerBusy));
    let mut alone = Case::new();
    alone.config.max_total_impact = 0.1;
    assert_eq!(alone.reason(), None, "one alone always may: its own limit is another");
}

#[test]
fn just_inside_the_limits_the_healer_acts() {
    let check = |change: fn(&mut Case)| assert_eq!(Case::with(change).reason(), None);
    check(|c| c.now = NOW + 120_000);
    check(|c| c.history = vec![attempt(300, Status::Succeeded)]);
    check(|c| c.history = [400, 900].map(|ago| attempt(ago, Status::Failed)).to_vec());
    // The third is older than an hour.
    check(|c| c.history = [400, 900, 3600].map(|ago| attempt(ago, Status::Failed)).to_vec());
    check(|c| c.history = vec![attempt(1, Status::Noop), attempt(1, Status::Expired)]);
    check(|c| c.arms = vec![Arm { backoff_until: Some(NOW + 1000), ..Arm::new("compact_indexes") }]);
    check(|c| c.config.max_stress_impact = 0.4);
    check(|c| c.history = vec![attempt(900, Status::Failed), attempt(400, Status::RolledBack)]);
    check(|c| {
        c.config.max_concurrent_actions = 2;
        c.in_flight.server = 1;
    });
}

#[test]
fn a_refusal_says_until_when() {
    let until = |case: Case| match case.decide() {
        Decision::Refuse { until, .. } => until,
        Decision::Act { .. } => panic!(),
    };
    let cooling = Case::with(|c| c.history = vec![attempt(100, Status::Succeeded)]);
    assert_eq!(until(cooling.clone()), Some(NOW + 1000 + 200_000));
    assert_eq!(cooldown_until(&cooling.history, &cooling.config), Some(NOW + 1000 + 200_000));
    assert_eq!(cooldown_until(&[], &cooling.config), None);
    let full =
        Case::with(|c| c.history = [400, 900, 1800, 2000].map(|ago| attempt(ago, Status::Failed)).to_vec());
    // Four attempts, three allowed: room comes when the third last, begun 1810 s ago, leaves the window.
    assert_eq!(until(full), Some(NOW + 1000 - 1_810_000 + 3_600_000));
}

#[test]
fn observing_shows_what_would_be_done() {
    let Decision::Refuse { planned: Some(planned), .. } =
        Case::with(|c| c.config.mode = Mode::Observe).decide()
    else {
        panic!()
    };
    assert_eq!(planned.plan.strategy, "compact_indexes");
}

#[test]
fn a_human_is_asked_where_the_settings_say_so() {
    let approval = |case: Case| match case.decide() {
        Decision::Act { approval, .. } => approval,
        Decision::Refuse { detail, .. } => panic!("{detail}"),
    };
    let attached =
        |c: &mut Case| c.snapshot.indexes[0].replacement = Replacement::ReindexOnly("attached".to_owned());
    assert_eq!(approval(Case::with(|c| c.config.mode = Mode::Approve)), Some(ApprovalReason::Mode));
    assert_eq!(
        approval(Case::with(|c| c.config.require_approval = vec!["IndexFragmentation".to_owned()])),
        Some(ApprovalReason::ProblemClass)
    );
    assert_eq!(
        approval(Case::with(|c| c.config.require_approval_strategies = vec!["compact_indexes".to_owned()])),
        Some(ApprovalReason::Strategy)
    );
    assert_eq!(approval(Case::with(attached)), Some(ApprovalReason::Irreversible));
    let consented = Case::with(|c| {
        attached(c);
        c.config.require_approval_irreversible = false;
    });
    assert_eq!(approval(consented), None);
    let heavy = Case::with(|c| c.config.max_auto_heal_impact = 0.4).by_hand("compact_indexes", Value::Null);
    assert_eq!(approval(heavy), Some(ApprovalReason::Impact));
    let by_hand = Case::with(|c| c.config.mode = Mode::Approve).by_hand("compact_indexes", Value::Null);
    assert_eq!(approval(by_hand), None, "who asks by hand has consented to this strategy");
}

#[test]
fn a_trigger_waits_for_nothing_but_keeps_the_limits() {
    let ready = |change: fn(&mut Case)| Case::with(change).triggered().reason();
    assert_eq!(ready(|c| c.state.state = IntegrityState::Normal), None);
    assert_eq!(ready(|c| c.history = vec![attempt(1, Status::Succeeded)]), None);
    assert_eq!(ready(|c| c.config.enabled = false), Some(Reason::Disabled));
    assert_eq!(ready(|c| c.config.mode = Mode::Observe), Some(Reason::ObserveMode));
    assert_eq!(
        ready(|c| c.history = [1, 2, 3].map(|ago| attempt(ago, Status::Failed)).to_vec()),
        Some(Reason::AttemptsExhausted)
    );
    assert_eq!(ready(|c| c.in_flight.this_table = 1), Some(Reason::ActionInFlight));
    assert_eq!(ready(|c| fragment(&mut c.snapshot.indexes[0], 0.0)), Some(Reason::NothingToDo));
}

#[test]
fn by_hand_time_does_not_matter_but_safety_does() {
    let ready = |change: fn(&mut Case)| Case::with(change).by_hand("compact_indexes", json!({})).reason();
    assert_eq!(
        ready(|c| {
            c.state.state = IntegrityState::Normal;
            c.history = [1, 2, 3, 4].map(|ago| attempt(ago, Status::Failed)).to_vec();
            c.arms = vec![Arm { backoff_until: Some(NOW + 99_000), ..Arm::new("compact_indexes") }];
            c.config.mode = Mode::Observe;
        }),
        None
    );
    assert_eq!(ready(|c| c.config.enabled = false), Some(Reason::Disabled));
    assert_eq!(ready(|c| c.snapshot.in_recovery = true), Some(Reason::InRecovery));
    assert_eq!(ready(|c| c.snapshot.partitions.clear()), Some(Reason::LambdaUnknown));
    assert_eq!(ready(|c| c.in_flight.server = 1), Some(Reason::ServerBusy));
    assert_eq!(ready(|c| c.snapshot.disk_free_bytes = Reading::Known(1)), Some(Reason::DiskHeadroom));
    assert_eq!(
        ready(|c| c.arms = vec![Arm { breaker_open: true, ..Arm::new("compact_indexes") }]),
        Some(Reason::BreakerOpen)
    );
    // A healthy index may be rebuilt by hand.
    assert_eq!(ready(|c| fragment(&mut c.snapshot.indexes[0], 0.0)), None);
    assert_eq!(ready(|c| c.snapshot.indexes.clear()), Some(Reason::NotApplicable));
}

#[test]
fn a_dry_run_is_never_in_the_way_of_anything() {
    let case = Case::with(|c| {
        c.config.enabled = false;
        c.in_flight = flying(1, 1);
        c.arms = vec![Arm { breaker_open: true, ..Arm::new("compact_indexes") }];
    });
    let Decision::Act { dry_run, .. } = case.by_hand("compact_indexes", json!({"dry_run": true})).decide()
    else {
        panic!()
    };
    assert!(dry_run);
}

#[test]
fn a_request_for_what_does_not_exist_says_what_does() {
    let detail = |strategy: &str, params: Value| match Case::new().by_hand(strategy, params).decide() {
        Decision::Refuse { reason: Reason::InvalidRequest, detail, .. } => detail,
        other => panic!("{other:?}"),
    };
    assert!(detail("reboot", Value::Null).contains("compact_indexes, "));
    assert!(detail("compact_indexes", json!({"batch_size": 1})).contains("in one go"));
}

/// Low recall of an ivfflat index of whose lists nothing is known: effort first, a rebuild after it.
fn ladder() -> Case {
    Case::with(|c| {
        c.snapshot = snapshot(1, 16, 0);
        c.snapshot.indexes[0].recall = Reading::Known(recall(1, 0.4));
        ivf(&mut c.snapshot.indexes[0]).work_ratio = Reading::unknown("too many lists");
    })
}

#[test]
fn the_least_impact_comes_first_and_the_next_step_only_after_it_was_not_enough() {
    let mut case = ladder();
    assert_eq!(case.strategy(), "tune_search_effort");
    // It failed: it backs off, and the stronger one is next.
    case.arms = vec![Arm { backoff_until: Some(NOW + 9000), ..Arm::new("tune_search_effort") }];
    assert_eq!(case.strategy(), "rebuild_centroids");
    // It succeeded and the problem is still there.
    let mut case = ladder();
    case.history = vec![Attempt {
        strategy: "tune_search_effort".to_owned(),
        nodes: vec![NodeKey::Centroid {
            partition: 1000,
            index: "public.docs_1000_ivf".to_owned(),
            group: 9,
        }],
        ..attempt(400, Status::Succeeded)
    }];
    assert_eq!(case.strategy(), "rebuild_centroids");
    // On another index that says nothing.
    case.history[0].nodes = vec![NodeKey::Index { partition: 9, index: "x".to_owned() }];
    assert_eq!(case.strategy(), "tune_search_effort");
    // Not applicable.
    let mut case = ladder();
    case.config.manage_search_effort = false;
    let Decision::Act { planned, rejected, .. } = case.decide() else { panic!() };
    assert_eq!(planned.plan.strategy, "rebuild_centroids");
    assert_eq!(rejected.len(), 0, "what cannot be applied comes after what can");
}

#[test]
fn bad_lists_are_rebuilt_and_good_ones_searched_more() {
    let mut case = ladder();
    drift(&mut case.snapshot.indexes[0], 1.1);
    assert_eq!(case.strategy(), "rebuild_centroids");
    drift(&mut case.snapshot.indexes[0], 0.0);
    assert_eq!(case.strategy(), "tune_search_effort");
    let Decision::Act { planned, .. } = case.decide() else { panic!() };
    assert!(matches!(planned.problem.class, ProblemClass::CentroidSkew { structure: Structure::Good, .. }));
}

#[test]
fn what_stands_in_the_way_of_the_weakest_part_does_not_stop_the_next() {
    let case = Case::with(|c| {
        c.snapshot.indexes.push(crate::fixtures::ivfflat(1000, 8, 77));
        c.snapshot.indexes[1].valid = false;
        c.arms = vec![Arm { breaker_open: true, ..Arm::new("repair_invalid_index") }];
    });
    let Decision::Act { planned, rejected, .. } = case.decide() else { panic!() };
    assert_eq!(planned.plan.strategy, "compact_indexes");
    assert_eq!(rejected.len(), 1);
    assert_eq!(
        (rejected[0].reason, rejected[0].strategy.as_deref()),
        (Reason::BreakerOpen, Some("repair_invalid_index"))
    );
}

#[test]
fn faults_back_off_twice_as_long_each_and_the_third_opens_the_breaker() {
    let config = Config::default();
    let mut arm = Arm::new("x");
    let mut waits = Vec::new();
    for nth in 0..3 {
        assert_eq!((arm.failures, arm.breaker_open), (nth, false));
        arm = arm.after(Lesson::Fault, NOW, &config, 42);
        waits.push((arm.backoff_until.unwrap() - NOW) as f64 / 1000.0);
    }
    for (wait, base) in waits.iter().zip([600.0, 1200.0, 2400.0]) {
        assert!((base..=1.1 * base).contains(wait), "{waits:?}");
    }
    assert!(arm.breaker_open);
    // The breaker is for machinery that fails.
    for lesson in [Lesson::Nothing, Lesson::NoGain, Lesson::Postponed] {
        assert_eq!(arm, arm.after(lesson, NOW, &config, 1));
        assert_eq!(Arm::new("x"), Arm::new("x").after(lesson, NOW, &config, 1));
    }
    let better = arm.after(Lesson::Helped, NOW, &config, 1);
    assert_eq!((better.failures, better.backoff_until), (0, None));
    assert!(better.breaker_open, "a human closes it");
    let closed = arm.closed(NOW + 5);
    assert_eq!((closed.failures, closed.backoff_until, closed.breaker_open), (0, None, false));
    assert_eq!((closed.closed_at, closed.strategy.as_str(), closed.weight), (Some(NOW + 5), "x", 1.0));
    assert!(Arm::new("x").after(Lesson::UndoFailed, NOW, &config, 1).breaker_open);
    let mut tired = Arm { failures: 200, ..Arm::new("x") };
    tired = tired.after(Lesson::Fault, NOW, &config, 7);
    assert!(tired.backoff_until.unwrap() - NOW <= 86_400_000 * 11 / 10, "capped");
}

/// An attempt of this lesson at this λ that ended so many seconds ago.
fn learned(ago_s: i64, lesson: Lesson, lambda: f64) -> Attempt {
    Attempt { lesson: Some(lesson), lambda_planned: Some(lambda), ..attempt(ago_s, Status::RolledBack) }
}

#[test]
fn what_was_no_gain_waits_on_its_part_until_that_is_clearly_worse() {
    let waits = |lambda: f64, change: fn(&mut Case)| {
        let mut case = Case::with(|c| c.history = vec![learned(400, Lesson::NoGain, lambda)]);
        change(&mut case);
        match case.decide() {
            Decision::Refuse { reason: Reason::ArmBackoff, until, .. } => Some(until.unwrap()),
            Decision::Refuse { detail, .. } => panic!("{detail}"),
            Decision::Act { .. } => None,
        }
    };
    let now = assess(&Case::new().snapshot, &Config::default()).unwrap().components[0].lambda;
    let until = waits(now, |_| {}).unwrap();
    // An hour, the window of attempts, and up to a tenth.
    assert!((NOW + 1000 + 3_200_000..=NOW + 1000 + 3_560_000).contains(&until), "{}", until - NOW);
    assert!(waits(1.24 * now, |_| {}).is_some(), "worse, not clearly");
    assert!(waits(1.26 * now, |_| {}).is_none(), "a fifth of it is lost");
    // Another part, another strategy, too long ago, or a human has looked since.
    assert!(
        waits(now, |c| c.history[0].nodes = vec![NodeKey::Index { partition: 9, index: "x".to_owned() }])
            .is_none()
    );
    assert!(waits(now, |c| c.history[0].strategy = "rebuild_centroids".to_owned()).is_none());
    assert!(waits(now, |c| c.arms = vec![Arm::new("compact_indexes").closed(NOW)]).is_none());
    assert!(waits(now, |c| c.arms = vec![Arm::new("compact_indexes").closed(NOW - 500_000)]).is_some());
    assert!(waits(now, |c| c.history.push(learned(350, Lesson::Helped, 0.3))).is_none());
    // A row of them waits longer each time, whatever failed or was stopped in between; the least λ of the row counts.
    let long = |c: &mut Case| {
        c.history.push(learned(9000, Lesson::NoGain, 0.001));
        c.history.push(learned(8000, Lesson::Nothing, 0.2));
        c.history.push(learned(7000, Lesson::Fault, 0.2));
    };
    let doubled = waits(1.26 * now, long).unwrap();
    assert!((NOW + 1000 + 6_800_000..=NOW + 1000 + 7_520_000).contains(&doubled));
    // A row ends with a success.
    let ended = Case::with(|c| {
        c.history = vec![
            learned(9000, Lesson::NoGain, 0.001),
            learned(8000, Lesson::Helped, 0.2),
            learned(400, Lesson::NoGain, 1.26 * now),
        ];
    });
    assert_eq!(ended.reason(), None);
    let another_story = Case::with(|c| {
        c.history =
            vec![learned(7 * 86_400 + 1, Lesson::NoGain, 0.001), learned(400, Lesson::NoGain, 1.26 * now)];
    });
    assert_eq!(another_story.reason(), None);
    // Without λ the time alone counts.
    assert!(
        waits(1.26 * now, |c| {
            c.history[0].lambda_planned = None;
            c.history[0].lambda_before = None;
        })
        .is_some()
    );
    // A human who names the strategy does not wait.
    let by_hand = Case::with(|c| c.history = vec![learned(400, Lesson::NoGain, now)])
        .by_hand("compact_indexes", Value::Null);
    assert_eq!(by_hand.reason(), None);
}

/// Makes the tables those of a managed collection, all of the same weight.
fn manage(case: &mut Case) {
    let places = case.snapshot.partitions.iter().map(|partition| Place {
        oid: partition.oid,
        number: partition.oid as i32,
        weight: 1.0,
        cold: false,
        elsewhere: false,
        cold_rows: None,
        refuses: None,
    });
    case.snapshot.managed =
        Some(Managed { fixed: None, noticed: None, by_tenant: false, places: places.collect() });
}

/// A hot partition of a managed collection of two, read more than written, and replicas that may be scaled.
fn hot_partition() -> Case {
    let mut case = Case::new();
    case.snapshot = crate::fixtures::whole(2, 0, 1, 0, 0);
    for (partition, blocks) in case.snapshot.partitions.iter_mut().zip([8000.0, 2000.0]) {
        partition.load = Some(crate::fixtures::load(blocks));
    }
    manage(&mut case);
    case.snapshot.orchestrator = Some("/usr/bin/ruvector-scaler".into());
    case.config.max_replicas = Some(3);
    case.config.require_approval_strategies = vec![];
    // Of equals the least impact.
    case.config.selection = crate::learning::Selection::Greedy;
    case
}

fn nothing_is_written(case: &mut Case) {
    for partition in &mut case.snapshot.partitions {
        let load = known(&mut partition.load);
        (load.inserted, load.updated) = (0.0, 0.0);
    }
}

/// An attempt on that partition.
fn on_hot(ago_s: i64, strategy: &str, status: Status, lesson: Lesson) -> Attempt {
    Attempt {
        strategy: strategy.to_owned(),
        problem_class: "HotspotCongestion".to_owned(),
        lesson: Some(lesson),
        nodes: vec![NodeKey::Partition { oid: 1000 }],
        ..attempt(ago_s, status)
    }
}

#[test]
fn a_no_op_leaves_the_others_their_turn() {
    let mut case = hot_partition();
    assert_eq!(case.strategy(), "scale_replicas");
    // There are as many replicas as are allowed, which only the orchestrator knows. No cooldown: the next one acts at once.
    case.history = vec![on_hot(10, "scale_replicas", Status::Noop, Lesson::Nothing)];
    assert_ne!(case.strategy(), "scale_replicas");
    let Decision::Act { rejected, .. } = case.decide() else { panic!() };
    let waits = rejected.iter().find(|r| r.strategy.as_deref() == Some("scale_replicas")).unwrap();
    assert_eq!(waits.reason, Reason::ArmBackoff);
    assert!(waits.detail.contains("found nothing to do here") && waits.until.is_some(), "{}", waits.detail);
    case.history = vec![on_hot(3601, "scale_replicas", Status::Noop, Lesson::Nothing)];
    assert_eq!(case.strategy(), "scale_replicas", "an hour is the window of attempts");
    case.history = vec![on_hot(10, "scale_replicas", Status::Noop, Lesson::Nothing)];
    assert_eq!(case.clone().by_hand("scale_replicas", Value::Null).strategy(), "scale_replicas");
    case.arms = vec![Arm::new("scale_replicas").closed(NOW)];
    assert_eq!(case.strategy(), "scale_replicas", "a human has looked");
}

#[test]
fn a_dose_that_is_too_small_is_refused_with_the_limit_to_raise() {
    let mut case = hot_partition();
    case.config.max_replicas = None;
    assert_eq!(case.strategy(), "rebalance_partitions");
    case.config.max_moves = 100;
    // Rows come to the partition, and of a drain nobody can tell beforehand.
    assert_eq!(case.strategy(), "drain_hot_partition");
    nothing_is_written(&mut case);
    let Decision::Refuse { reason, detail, .. } = case.decide() else { panic!() };
    assert_eq!(reason, Reason::DoseTooSmall);
    assert!(detail.contains("100 rows") && detail.contains("raise max_moves to"), "{detail}");
    assert_eq!(case.clone().triggered().reason(), Some(Reason::DoseTooSmall));
    assert_eq!(case.clone().by_hand("rebalance_partitions", Value::Null).strategy(), "rebalance_partitions");
}

#[test]
fn a_dose_that_is_too_small_for_two_hot_partitions_goes_to_one_of_them() {
    let mut case = hot_partition();
    case.snapshot = crate::fixtures::whole(8, 0, 1, 0, 0);
    for (at, partition) in case.snapshot.partitions.iter_mut().enumerate() {
        let blocks = [9000.0, 8800.0].get(at).copied().unwrap_or(2000.0);
        partition.load = Some(crate::fixtures::load(blocks));
    }
    manage(&mut case);
    case.config.max_replicas = None;
    nothing_is_written(&mut case);
    let hot_of = |case: &Case| match case.decide() {
        Decision::Act { planned, .. } => match planned.problem.class {
            ProblemClass::HotspotCongestion { partition_ids, .. } => partition_ids,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    case.config.max_move_share = 0.2;
    assert_eq!(hot_of(&case), [1000, 1001], "there is enough for both");
    case.config.max_move_share = 0.02;
    assert_eq!(hot_of(&case), [1000], "the hottest first");
    case.config.max_move_share = 0.0005;
    let Decision::Refuse { reason, detail, .. } = case.decide() else { panic!() };
    assert_eq!(reason, Reason::DoseTooSmall);
    assert!(detail.ends_with("other partitions are hot beside it."), "{detail}");
}

#[test]
fn what_rows_gained_when_they_were_last_moved_is_believed_for_a_day() {
    let mut case = hot_partition();
    case.config.max_replicas = None;
    nothing_is_written(&mut case);
    let moved = |ago_s: i64, lambda_after: f64| Attempt {
        lambda_before: Some(0.3),
        lambda_placed: Some(0.5),
        lambda_after: Some(lambda_after),
        ..on_hot(ago_s, "rebalance_partitions", Status::RolledBack, Lesson::NoGain)
    };
    // No longer waiting for being no gain.
    let since = 12 * 3600;
    case.history = vec![moved(since, 0.304)];
    assert_eq!(case.reason(), Some(Reason::DoseTooSmall));
    case.config.learning_enabled = false;
    assert_eq!(case.strategy(), "rebalance_partitions");
    case.config.learning_enabled = true;
    case.history = vec![moved(since, 0.304), moved(since - 3600, 0.46)];
    assert_eq!(case.strategy(), "rebalance_partitions", "the last one counts");
    case.history = vec![moved(86_401, 0.304)];
    assert_eq!(case.strategy(), "rebalance_partitions", "another day");
    case.history = vec![Attempt { lambda_placed: None, ..moved(since, 0.304) }];
    assert_eq!(case.strategy(), "rebalance_partitions", "nothing was promised");
    case.history = vec![Attempt { rows_moved: Some(1), ..moved(since, 0.46) }];
    assert_eq!(case.strategy(), "rebalance_partitions", "where the placement speaks, it is heard");
    let assessment = assess(&case.snapshot, &case.config).unwrap();
    let hot = crate::classify::diagnose(&assessment, &case.snapshot, &case.config).remove(0);
    let gain = |attempt| super::pacing::gain_per_row(&hot, &[attempt], NOW);
    assert_eq!(gain(Attempt { rows_moved: Some(0), lambda_after: None, ..moved(since, 0.3) }), Some(0.0));
    assert_eq!(gain(Attempt { rows_moved: None, ..moved(since, 0.46) }), None, "it moves none");
    let each = gain(Attempt { rows_moved: Some(100), ..moved(since, 0.4) }).unwrap();
    assert!((each - 0.001).abs() < 1e-12, "{each}");
}

#[test]
fn what_was_put_off_waits_for_a_quieter_moment_however_weak_the_part_is() {
    let put_off = |agos: &[i64]| {
        Case::with(|c| c.history = agos.iter().map(|ago| learned(*ago, Lesson::Postponed, 0.9)).collect())
    };
    assert_eq!(put_off(&[590]).reason(), Some(Reason::ArmBackoff));
    assert_eq!(put_off(&[661]).reason(), None);
    assert_eq!(put_off(&[661, 5000]).reason(), Some(Reason::ArmBackoff));
    assert_eq!(put_off(&[1321, 5000]).reason(), None);
}

#[test]
fn the_next_remedy_of_the_ladder_comes_when_the_first_was_no_gain() {
    let mut case = ladder();
    case.history = vec![Attempt {
        strategy: "tune_search_effort".to_owned(),
        nodes: vec![NodeKey::Centroid {
            partition: 1000,
            index: "public.docs_1000_ivf".to_owned(),
            group: 9,
        }],
        ..learned(400, Lesson::NoGain, 0.3)
    }];
    assert_eq!(case.strategy(), "rebuild_centroids");
}

#[test]
fn what_was_decided_earlier_begins_only_while_its_gates_are_open() {
    let Decision::Act { planned, .. } = Case::new().decide() else { panic!() };
    let begins = |change: fn(&mut Case)| {
        let case = Case::with(change);
        begin(&BeginInput {
            config: &case.config,
            snapshot: &case.snapshot,
            planned: &planned,
            request: &case.request,
            arms: &case.arms,
            in_flight: case.in_flight,
            since: NOW - 478_999,
            now: case.now,
        })
    };
    let never = |status, reason| Begin::Never { status, reason };
    let wait = |reason| Begin::Wait { reason };
    assert_eq!(begins(|_| {}), Begin::Now);
    assert_eq!(begins(|c| c.now = NOW + 120_000), Begin::Now);
    assert_eq!(begins(|c| c.config.enabled = false), never(Status::Aborted, Reason::Disabled));
    let open = |c: &mut Case| c.arms = vec![Arm { breaker_open: true, ..Arm::new("compact_indexes") }];
    assert_eq!(begins(open), never(Status::Aborted, Reason::BreakerOpen));
    let other = |c: &mut Case| c.arms = vec![Arm { breaker_open: true, ..Arm::new("rebuild_centroids") }];
    assert_eq!(begins(other), Begin::Now);
    assert_eq!(begins(|c| c.arms = vec![Arm::new("compact_indexes")]), Begin::Now);
    assert_eq!(begins(|c| c.snapshot.in_recovery = true), wait(Reason::InRecovery));
    assert_eq!(begins(|c| c.snapshot.partitions.clear()), wait(Reason::LambdaUnknown));
    let flies = |c: &mut Case| c.in_flight = flying(1, 0);
    assert_eq!(begins(flies), wait(Reason::ActionInFlight));
    assert_eq!(begins(|c| c.in_flight = flying(0, 1)), wait(Reason::ServerBusy));
    assert_eq!(begins(|c| c.now = NOW + 120_001), wait(Reason::StaleSnapshot));
    assert_eq!(begins(|c| c.config.paused_until = Some(NOW + 2000)), wait(Reason::Paused));
    assert_eq!(begins(|c| calm(c).active_sessions = 17), wait(Reason::NotQuiet));
    let building = |c: &mut Case| {
        c.config.max_concurrent_actions = 2;
        c.in_flight = InFlight { builds: 1, ..flying(0, 1) };
    };
    assert_eq!(begins(building), wait(Reason::ServerBusy));
    let throttled = |c: &mut Case| {
        let (percentages, baseline) = (Percentages::NONE, Rates { insert: 100.0, bulk_insert: 0.0 });
        let targets = Targets::new(&percentages, &baseline);
        let (over_s, debt_s, until) = (1.0, 0.0, NOW + 60_000);
        let throttle =
            Some(InForce { percentages, baseline, targets, achieved: baseline, over_s, debt_s, until });
        c.snapshot.ingestion = Some(Ingestion { baseline: Reading::unknown("x"), throttle });
    };
    assert_eq!(begins(throttled), wait(Reason::NotQuiet), "a build would wait for whoever waits");
    assert_eq!(
        begins(|c| c.snapshot.maintenance_paused = true),
        wait(Reason::MaintenancePaused),
        "a build is maintenance"
    );
    let by_hand = |c: &mut Case| {
        c.snapshot.maintenance_paused = true;
        c.request = Request::Execute { strategy: "compact_indexes".to_owned(), params: Value::Null };
    };
    assert_eq!(begins(by_hand), Begin::Now, "a human wants it all the same");
    // Ten minutes after it might have begun it is too late, whatever it waited for.
    let late = |c: &mut Case| {
        (c.now, c.snapshot.taken_at) = (NOW + 121_002, NOW + 121_000);
        c.snapshot.in_recovery = true;
    };
    assert_eq!(begins(late), never(Status::Expired, Reason::InRecovery));
    let late = |c: &mut Case| (c.now, c.snapshot.taken_at) = (NOW + 121_002, NOW + 121_000);
    assert_eq!(begins(late), never(Status::Expired, Reason::StaleSnapshot));
    let in_time = |c: &mut Case| (c.now, c.snapshot.taken_at) = (NOW + 121_001, NOW + 121_000);
    assert_eq!(begins(in_time), Begin::Now);
    let cured = |c: &mut Case| fragment(&mut c.snapshot.indexes[0], 0.0);
    assert_eq!(begins(cured), never(Status::Expired, Reason::StateNormal));
    assert_eq!(begins(|c| c.snapshot.indexes.clear()), never(Status::Expired, Reason::StateNormal));
    let by_hand = |c: &mut Case| {
        fragment(&mut c.snapshot.indexes[0], 0.0);
        c.request = Request::Execute { strategy: "compact_indexes".to_owned(), params: Value::Null };
    };
    assert_eq!(begins(by_hand), Begin::Now);
    // An hnsw index and its WAL fit into nine tenths of what is free, or they do not.
    let free = |free: u64| {
        let mut case = Case::new();
        case.config.max_disk_share = 0.9;
        case.snapshot.disk_free_bytes = Reading::Known(free);
        let (request, in_flight) = (&case.request, case.in_flight);
        begin(&BeginInput {
            config: &case.config,
            snapshot: &case.snapshot,
            planned: &planned,
            request,
            arms: &case.arms,
            in_flight,
            since: case.now,
            now: case.now,
        })
    };
    let needed = planned.plan.disk_bytes as f64 * 2.0 / 0.9;
    assert_eq!(free((needed * 1.01) as u64), Begin::Now);
    assert_eq!(free((needed * 0.99) as u64), never(Status::Aborted, Reason::DiskHeadroom));
    let full = |c: &mut Case| c.snapshot.disk_free_bytes = Reading::Known(1000);
    assert_eq!(begins(full), never(Status::Aborted, Reason::DiskHeadroom));
}

#[test]
fn a_plan_that_moves_more_rows_than_may_be_moved_by_now_expires() {
    let Decision::Act { mut planned, .. } = Case::new().decide() else { panic!() };
    let mut begins = |moved: u64, rows: f64| {
        let of = PlaceRef { oid: 1, number: 1, name: "1".to_owned() };
        let moves = vec![Move { from: of.clone(), to: of, rows: moved, cold: false }];
        planned.plan.steps = vec![Step::MoveRows { moves, lambda: None, flat: 0, pause_ratio: 1.0 }];
        let case = Case::with(|c| {
            c.config.max_move_share = 0.05;
            for (at, partition) in c.snapshot.partitions.iter_mut().enumerate() {
                partition.live_rows = Reading::Known(if at == 0 { rows } else { 0.0 });
            }
        });
        begin(&BeginInput {
            config: &case.config,
            snapshot: &case.snapshot,
            planned: &planned,
            request: &case.request,
            arms: &case.arms,
            in_flight: case.in_flight,
            since: case.now,
            now: case.now,
        })
    };
    assert_eq!(begins(1000, 20_000.0), Begin::Now);
    // A tenth more: what was counted was an estimate.
    assert_eq!(begins(1100, 20_000.0), Begin::Now);
    let expired = Begin::Never { status: Status::Expired, reason: Reason::StaleSnapshot };
    assert_eq!(begins(1101, 20_000.0), expired);
    assert_eq!(begins(1000, 12_000.0), expired, "two fifths were deleted meanwhile");
}

proptest! {
    /// Invariant 5: whatever the circumstances, an automatic action keeps every limit.
    #[test]
    fn an_automatic_action_keeps_every_limit(
        enabled: bool, in_recovery: bool, this_table in 0u32..2, server in 0u32..3, age_s in 0i64..300,
        state in 0usize..3, ago in proptest::collection::vec((0i64..5000, 0usize..12), 0..6),
        breaker: bool, pct in 0.0f64..95.0, max_impact in 0.0f64..1.0, partitions in 0u32..3,
    ) {
        let mut case = Case::new();
        case.snapshot = snapshot(partitions, 0, 1);
        if let Some(index) = case.snapshot.indexes.first_mut() {
            fragment(index, pct);
        }
        case.config.enabled = enabled;
        case.config.max_auto_heal_impact = max_impact;
        case.snapshot.in_recovery = in_recovery;
        case.in_flight = flying(this_table, server.max(this_table));
        case.now = NOW + age_s * 1000;
        case.state.state = [IntegrityState::Normal, IntegrityState::Stress, IntegrityState::Critical][state];
        case.history = ago.iter().map(|(ago, status)| attempt(*ago, Status::ALL[*status])).collect();
        case.arms = vec![Arm { breaker_open: breaker, ..Arm::new("compact_indexes") }];
        prop_assert_eq!(case.decide(), case.decide());
        if let Decision::Act { planned, .. } = case.decide() {
            let counted: Vec<&Attempt> = case.history.iter().filter(|a| a.status.counts_as_attempt()).collect();
            prop_assert!(enabled && !in_recovery && this_table == 0 && server == 0 && !breaker && partitions > 0);
            prop_assert!(age_s <= 120 && state > 0);
            prop_assert!(planned.plan.impact <= max_impact);
            prop_assert!(counted.iter().all(|a| case.now - a.ended_at.unwrap() >= 300_000));
            prop_assert!(counted.iter().filter(|a| case.now - a.started_at < 3_600_000).count() < 3);
            prop_assert!(planned.problem.component.lambda < 0.8);
        }
    }
}

/// What is known after these ends of a strategy on low recall of an ivfflat index, each a day apart.
fn taught(strategy: &str, lessons: &[Lesson]) -> Learned {
    let row = |(at, lesson): (i64, &Lesson)| crate::learning::OutcomeRecord {
        id: at,
        collection_id: 9,
        strategy: strategy.to_owned(),
        context: crate::learning::Context {
            problem_class: "CentroidSkew".to_owned(),
            index_kind: "ivfflat".to_owned(),
        },
        started_at: NOW - 86_400_000 * (at + 2),
        completed_at: NOW - 86_400_000 * (at + 1),
        status: if *lesson == Lesson::Helped { Status::Succeeded } else { Status::RolledBack },
        lesson: *lesson,
        success: *lesson == Lesson::Helped,
        verified: Some(*lesson == Lesson::Helped),
        improvement_pct: None,
        recovery_s: None,
        feedback: None,
        feedback_at: None,
    };
    let rows: Vec<_> = (0..).zip(lessons).map(row).collect();
    Learned { posteriors: crate::learning::posteriors(&rows, &[]), ..Learned::default() }
}

#[test]
fn what_never_helped_in_such_cases_comes_after_the_next_step() {
    let mut case = ladder();
    case.learned = taught("tune_search_effort", &[Lesson::NoGain; 3]);
    assert_eq!(case.strategy(), "tune_search_effort", "not sure enough");
    case.learned = taught("tune_search_effort", &[Lesson::NoGain; 4]);
    assert_eq!(case.strategy(), "rebuild_centroids");
    // It is still there for when the next step is not.
    case.arms = vec![Arm { breaker_open: true, ..Arm::new("rebuild_centroids") }];
    assert_eq!(case.strategy(), "tune_search_effort");
    case.arms.clear();
    case.config.learning_enabled = false;
    assert_eq!(case.strategy(), "tune_search_effort", "what was learned is not used");
    case.config.learning_enabled = true;
    case.learned =
        taught("tune_search_effort", &[Lesson::NoGain, Lesson::NoGain, Lesson::NoGain, Lesson::Helped]);
    assert_eq!(case.strategy(), "tune_search_effort");
}

#[test]
fn a_remedy_that_was_lowered_asks_or_only_plans_and_others_go_first() {
    let rung = |level| crate::learning::Rung::top("tune_search_effort", 0).set(level, 0);
    let mut case = ladder();
    case.learned.rungs = vec![rung(Mode::Approve)];
    let Decision::Act { planned, approval, .. } = case.decide() else { panic!() };
    assert_eq!((planned.plan.strategy.as_str(), approval), ("rebuild_centroids", None));
    case.arms = vec![Arm { breaker_open: true, ..Arm::new("rebuild_centroids") }];
    let Decision::Act { planned, approval, .. } = case.decide() else { panic!() };
    assert_eq!(
        (planned.plan.strategy.as_str(), approval),
        ("tune_search_effort", Some(ApprovalReason::Autonomy))
    );
    case.learned.rungs = vec![rung(Mode::Observe)];
    let Decision::Refuse { planned, rejected, .. } = case.decide() else { panic!() };
    assert_eq!(
        planned.unwrap().plan.strategy,
        "tune_search_effort",
        "planned, to be held against what happens"
    );
    assert!(rejected.iter().any(|r| r.reason == Reason::AutonomyLowered));
    // A human who names it is not held back, nor is it where the ladder is switched off.
    let by_hand = case.clone().by_hand("tune_search_effort", Value::Null);
    assert!(matches!(by_hand.decide(), Decision::Act { approval: None, choice: None, .. }));
    case.config.autonomy_ladder = false;
    assert_eq!(case.strategy(), "tune_search_effort");
    // Lower than a human has set it goes, higher never.
    case.config.autonomy_ladder = true;
    case.config.mode = Mode::Approve;
    case.learned.rungs = vec![rung(Mode::Auto)];
    let Decision::Act { approval, .. } = case.decide() else { panic!() };
    assert_eq!(approval, Some(ApprovalReason::Mode));
}

#[test]
fn an_episode_of_stress_may_be_delayed_at_random_once() {
    let mut case = Case::with(|c| c.config.control_delay_share = 0.5);
    case.state.state = IntegrityState::Stress;
    let delayed = |case: &Case| case.reason() == Some(Reason::ControlDelay);
    let since = (0..).map(|at| NOW - at).find(|since| {
        case.state.since = *since;
        delayed(&case)
    });
    case.state.since = since.unwrap();
    let Decision::Refuse { until, .. } = case.decide() else { panic!() };
    assert_eq!(until, Some(case.state.since + 60_000));
    assert!(!delayed(&case.clone().triggered()), "a human does not wait");
    case.state.state = IntegrityState::Critical;
    assert!(!delayed(&case));
}

#[test]
fn of_every_remedy_it_is_known_whether_it_could_act_and_why_not() {
    let of = |case: &Case, strategy: &str| {
        let assessment = assess(&case.snapshot, &case.config).unwrap();
        let all = eligibility(&DecisionInput {
            config: &case.config,
            state: &case.state,
            assessment: &assessment,
            snapshot: &case.snapshot,
            history: &case.history,
            arms: &case.arms,
            learned: &case.learned,
            in_flight: case.in_flight,
            now: case.now,
            request: &case.request,
        });
        assert_eq!(all.len(), remedies::ALL.len());
        all.into_iter().find(|e| e.strategy == strategy).unwrap()
    };
    let mut case = ladder();
    assert_eq!(of(&case, "tune_search_effort").reason, None);
    assert_eq!(of(&case, "rebuild_centroids").reason, None, "not first, but it could");
    assert_eq!(of(&case, "compact_indexes").reason, Some(Reason::NothingToDo));
    case.arms = vec![Arm { breaker_open: true, ..Arm::new("tune_search_effort") }];
    assert_eq!(of(&case, "tune_search_effort").reason, Some(Reason::BreakerOpen));
    case.config.mode = Mode::Observe;
    assert_eq!(of(&case, "rebuild_centroids").reason, Some(Reason::ObserveMode));
    case.config.mode = Mode::Auto;
    case.learned.rungs = vec![crate::learning::Rung::top("rebuild_centroids", 0).set(Mode::Observe, 0)];
    let lowered = of(&case, "rebuild_centroids");
    assert_eq!((lowered.reason, lowered.mode), (Some(Reason::AutonomyLowered), Mode::Observe));
    case.config.enabled = false;
    assert_eq!(of(&case, "compact_indexes").reason, Some(Reason::Disabled));
    case = ladder();
    case.config.manage_search_effort = false;
    assert_eq!(of(&case, "tune_search_effort").reason, Some(Reason::NotApplicable));
}

/// A rollback of a plan of this strategy, with these steps.
fn back(strategy: &str, steps: Vec<Step>, beyond: bool) -> Planned {
    let case = Case::new();
    let Decision::Act { mut planned, .. } = case.decide() else { panic!() };
    planned.plan.strategy = crate::rollback::STRATEGY.to_owned();
    planned.plan.steps = steps;
    planned.plan.params = json!({ "takes_back": strategy, "beyond_the_server": beyond });
    *planned
}

fn decide_back(case: &Case, planned: Planned) -> Decision {
    let assessment = assess(&case.snapshot, &case.config).unwrap();
    decide_rollback(
        &DecisionInput {
            config: &case.config,
            state: &case.state,
            assessment: &assessment,
            snapshot: &case.snapshot,
            history: &[],
            arms: &[],
            learned: &case.learned,
            in_flight: case.in_flight,
            now: case.now,
            request: &Request::Rollback { of: 1 },
        },
        planned,
    )
}

#[test]
fn a_rollback_waits_for_a_human_where_what_it_takes_back_would() {
    let approval = |case: &Case, planned: Planned| match decide_back(case, planned) {
        Decision::Act { approval, .. } => approval,
        other => panic!("{other:?}"),
    };
    let plain = Case::new();
    assert_eq!(approval(&plain, back("compact_indexes", vec![], false)), None);
    assert_eq!(approval(&plain, back("scale_replicas", vec![], true)), Some(ApprovalReason::Strategy));
    let class = Case::with(|c| c.config.require_approval = vec!["IndexFragmentation".to_owned()]);
    assert_eq!(approval(&class, back("compact_indexes", vec![], false)), Some(ApprovalReason::ProblemClass));
    let off = Case::with(|c| c.config.enabled = false);
    assert!(matches!(
        decide_back(&off, back("compact_indexes", vec![], false)),
        Decision::Refuse { reason: Reason::Disabled, .. }
    ));
}

#[test]
fn a_copy_of_the_server_does_and_takes_back_nothing_beyond_it() {
    let copy = Case::with(|c| c.snapshot.around.identity_changed = Some("another machine".to_owned()));
    let refused = |planned: Planned| {
        matches!(decide_back(&copy, planned), Decision::Refuse { reason: Reason::IdentityChanged, .. })
    };
    assert!(refused(back("scale_replicas", vec![], true)));
    let scale =
        Step::ScaleReplicas { target: "deployment/read".to_owned(), max_replicas: 3, ready_timeout_s: 1 };
    assert!(refused(back("compact_indexes", vec![scale], false)));
    assert!(!refused(back("compact_indexes", vec![], false)), "what stays on the server is its own business");
    // Rows that go to another server, or come from one.
    let place = |oid: Oid, elsewhere: bool| Place {
        oid,
        number: oid as i32,
        weight: 1.0,
        cold: false,
        elsewhere,
        refuses: None,
        cold_rows: None,
    };
    let mut snapshot = copy.snapshot.clone();
    let places = vec![place(1, false), place(2, true), place(3, false)];
    snapshot.managed = Some(Managed { fixed: None, noticed: None, by_tenant: false, places });
    let moving = |from: Oid, to: Oid| {
        let of = |oid: Oid| PlaceRef { oid, number: oid as i32, name: oid.to_string() };
        let moves = vec![Move { from: of(from), to: of(to), rows: 1, cold: false }];
        gates::reaches_beyond(&[Step::MoveRows { moves, lambda: None, flat: 0, pause_ratio: 1.0 }], &snapshot)
    };
    assert_eq!((moving(1, 2), moving(2, 3), moving(1, 3)), (true, true, false));
}

#[test]
fn the_windows_of_the_server_and_of_the_collection_must_both_be_open() {
    let window = |from: &str, to: &str| {
        let set = json!({ "maintenance_windows": [{ "from": from, "to": to }] });
        Config::default().apply(&set).unwrap().maintenance_windows
    };
    let all_day = || window("00:00", "23:59");
    let never = |now: UnixMs| {
        let minute = now.div_euclid(60_000).rem_euclid(24 * 60);
        let at =
            |minutes: i64| format!("{:02}:{:02}", minutes.rem_euclid(24 * 60) / 60, minutes.rem_euclid(60));
        window(&at(minute + 120), &at(minute + 180))
    };
    let reason = |server: fn(&Case) -> bool, own_open: bool| {
        Case::with(|c| {
            let open = server(c);
            c.config.server_windows = if open { all_day() } else { never(c.now) };
            c.config.maintenance_windows = if own_open { all_day() } else { never(c.now) };
        })
        .reason()
    };
    assert_eq!(reason(|_| true, true), None);
    assert_eq!(reason(|_| false, true), Some(Reason::OutsideWindow));
    assert_eq!(reason(|_| true, false), Some(Reason::OutsideWindow));
}

#[test]
fn a_plan_that_waits_has_cleared_once_its_part_is_normal_or_gone() {
    let case = Case::new();
    let Decision::Act { planned, .. } = case.decide() else { panic!() };
    let cleared =
        |snapshot: &Snapshot, request: &Request| has_cleared(&planned, request, snapshot, &case.config);
    assert!(!cleared(&case.snapshot, &Request::Automatic));
    assert!(cleared(&snapshot(1, 0, 1), &Request::Automatic), "healthy");
    let by_hand = Request::Execute { strategy: "compact_indexes".to_owned(), params: Value::Null };
    assert!(!cleared(&snapshot(1, 0, 1), &by_hand), "a human wanted it");
}
