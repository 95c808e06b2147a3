use healing::config::Mode as HealingMode;
use healing::integrity::IntegrityState::{Critical, Stress};
use healing::lifecycle::Status;
use healing::remedies;
use healing::snapshot::Reading;
use healing::window::Window;

use super::super::reached::{found, planned, stage_with};
use super::*;

/// An action that the healer decided on by itself and that was just permitted: nothing else is under way.
fn automatic(fits: impl Fn(&Plan) -> bool) -> (Stage, i64) {
    stage_with(|stage, action| {
        action.status == Status::Approved
            && action.request == Request::Automatic
            && !action.approved
            && action.decided.is_some_and(|at| at.real == stage.world.now)
            && stage.store.all_in_flight() == 1
            && stage.world.clock_offset == 0
            && stage.jumped_at < 0
            && fits(&action.planned().plan)
    })
}

fn rows(plan: &Plan) -> u64 {
    let of = |step: &Step| match step {
        Step::MoveRows { moves, .. } => moves.iter().map(|one| one.rows).sum(),
        _ => 0,
    };
    plan.steps.iter().map(of).sum()
}

fn config(stage: &mut Stage, id: i64) -> &mut Config {
    let number = stage.store.actions[&id].collection;
    &mut stage.world.collections[number].config
}

/// What is found where the action may run with its settings changed.
fn with(stage: &Stage, id: i64, change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
    found(stage, |stage| change(config(stage, id)), |stage| permitted(stage, id))
}

/// Another action like this one, on the same collection, which is over or not.
fn another(stage: &mut Stage, id: i64, change: impl FnOnce(&mut Action)) -> i64 {
    let mut other = stage.store.actions[&id].clone();
    other.id = 1_000_000 + stage.store.actions.len() as i64;
    change(&mut other);
    let (number, place) = (other.id, other.collection);
    if other.ended.is_none() {
        stage.store.open.push(number);
    }
    // Before the one that is looked at, as it would be.
    let at = stage.store.by_collection[place].len() - 1;
    stage.store.by_collection[place].insert(at, number);
    stage.store.actions.insert(number, other);
    number
}

fn ended(stage: &Stage, seconds_ago: i64, lesson: Lesson) -> impl FnOnce(&mut Action) + use<> {
    let now = stage.moment();
    move |action| {
        let at = Moment { wall: now.wall - seconds_ago * 1000, real: now.real - seconds_ago * 1000 };
        (action.status, action.lesson) = (Status::RolledBack, Some(lesson));
        (action.started, action.ended) = (Some(at), Some(at));
    }
}

#[test]
fn rows_are_held_against_each_of_both_limits() {
    let (stage, id) = automatic(|plan| rows(plan) > 100);
    let moved = rows(&stage.store.actions[&id].planned().plan);
    let place = stage.store.actions[&id].collection;
    let all: f64 = stage.world.collections[place].tables.iter().map(|table| table.rows).sum();
    let moves =
        |max: u64| with(&stage, id, |config| (config.max_moves, config.max_move_share) = (max as i64, 1.0));
    let share = |rows: f64| {
        with(&stage, id, |config| (config.max_moves, config.max_move_share) = (i64::MAX, rows / all))
    };
    assert!(moves(moved).is_empty() && moves(moved - 1).is_empty());
    assert_eq!(moves(moved - 2), ["limits"]);
    assert!(share(moved as f64 + 0.5).is_empty());
    assert_eq!(share(moved as f64 - 2.0), ["limits"]);
    // What a human approved may have become more than may be moved by then, by a tenth.
    let approved = |max: u64| {
        let change = |stage: &mut Stage| {
            stage.store.action(id).approved = true;
            (config(stage, id).max_moves, config(stage, id).max_move_share) = (max as i64, 1.0);
        };
        found(&stage, change, |stage| permitted(stage, id))
    };
    assert!(approved((moved as f64 / 1.1).ceil() as u64).is_empty());
    assert_eq!(approved((moved as f64 / 1.1) as u64 - 2), ["limits"]);
}

#[test]
fn disk_is_held_against_the_plan_and_against_the_world() {
    let (stage, id) = automatic(builds);
    let action = &stage.store.actions[&id];
    let target = action.planned().plan.steps.iter().find_map(Step::target).map(|of| of.oid);
    let collection = &stage.world.collections[action.collection];
    let (table, index) =
        collection.indexes().find(|(_, index)| Some(index.oid) == target).expect("an index of the plan");
    let (share, fresh) = (collection.config.max_disk_share, index.clean_bytes(table.rows) as f64);
    // Bytes by the plan, and free bytes of which the share that an action may take is so much.
    let says = |bytes: u64, room: f64| {
        let change = |stage: &mut Stage| {
            let planned = planned(stage, id);
            planned.plan.disk_bytes = bytes;
            planned.before.disk_free_bytes = Reading::Known((room / share) as u64);
        };
        found(&stage, change, |stage| permitted(stage, id))
    };
    let bytes = 3 * fresh as u64;
    assert!(says(bytes, bytes as f64 * 1.001).is_empty());
    assert_eq!(says(bytes, bytes as f64 * 0.999), ["limits"]);
    // A plan that says that it takes nothing still builds an index.
    assert!(says(0, BUILT_AT_LEAST * fresh * 1.001).is_empty());
    assert_eq!(says(0, BUILT_AT_LEAST * fresh * 0.999), ["limits"]);
    let unknown = |stage: &mut Stage| planned(stage, id).before.disk_free_bytes = Reading::unknown("unread");
    assert!(found(&stage, unknown, |stage| permitted(stage, id)).is_empty());
}

#[test]
fn what_is_under_way_beside_it_counts() {
    let (stage, id) = automatic(builds);
    let strategy = stage.store.actions[&id].planned().plan.strategy.clone();
    let own = impact_of(&stage.store.actions[&id].planned().plan);
    // Beside one that builds or not, in a status, with so much impact allowed for both.
    let beside = |building: bool, status: Status, impact: f64| {
        let change = |stage: &mut Stage| {
            stage.max_concurrent = 2;
            config(stage, id).max_total_impact = impact;
            let other = another(stage, id, |action| action.status = status);
            let other = planned(stage, other);
            if !building {
                other.plan.steps.clear();
                other.plan.strategy = "rebalance_partitions".to_owned();
            }
        };
        // The check alone: two on one collection are others' to find.
        found(&stage, change, |stage| {
            let config = config(stage, id).clone();
            limits(stage, id, &config);
        })
    };
    assert!(beside(false, Status::Executing, own + 0.3).is_empty(), "{strategy}");
    assert_eq!(beside(false, Status::Executing, own + 0.29), ["limits"]);
    assert!(beside(false, Status::AwaitingApproval, own).is_empty());
    assert_eq!(beside(true, Status::Executing, 10.0), ["limits"], "two that build");
    assert!(beside(true, Status::AwaitingApproval, 10.0).is_empty());
    // Alone it may have more than all may have together.
    assert!(with(&stage, id, |config| config.max_total_impact = own - 0.1).is_empty());
    let crowded = |stage: &mut Stage| stage.max_concurrent = 0;
    assert_eq!(found(&stage, crowded, |stage| permitted(stage, id)), ["server_limit"]);
}

#[test]
fn impacts_are_those_of_the_remedies() {
    let (stage, id) = automatic(builds);
    let mut plan = stage.store.actions[&id].planned().plan.clone();
    for remedy in remedies::ALL {
        plan.strategy = remedy.name().to_owned();
        assert_eq!(impact_of(&plan), remedy.impact(), "{}", remedy.name());
    }
    // A surplus index is only dropped.
    plan.strategy = "repair_invalid_index".to_owned();
    plan.steps.clear();
    assert_eq!(impact_of(&plan), 0.2);
}

#[test]
fn whoever_must_be_asked_is_asked() {
    let (stage, id) = automatic(|plan| plan.reversible);
    let plan = stage.store.actions[&id].planned().plan.clone();
    let impact = impact_of(&plan);
    assert!(with(&stage, id, |_| ()).is_empty());
    assert_eq!(with(&stage, id, |config| config.enabled = false), ["disabled"]);
    assert_eq!(with(&stage, id, |config| config.mode = HealingMode::Observe), ["consent"]);
    assert_eq!(with(&stage, id, |config| config.mode = HealingMode::Approve), ["consent"]);
    let asked = |config: &mut Config| config.require_approval_strategies = vec![plan.strategy.clone()];
    assert_eq!(with(&stage, id, asked), ["consent"]);
    let one_way = |wanted: bool| {
        let change = |stage: &mut Stage| {
            config(stage, id).require_approval_irreversible = wanted;
            planned(stage, id).plan.reversible = false;
        };
        found(&stage, change, |stage| permitted(stage, id))
    };
    assert_eq!(one_way(true), ["consent"]);
    assert!(one_way(false).is_empty());
    // The boundary of each state.
    let in_state = |state, gently: f64, most: f64| {
        let change = |stage: &mut Stage| {
            let place = stage.store.actions[&id].collection;
            stage.store.records[place].as_mut().expect("a state").state = state;
            (config(stage, id).max_stress_impact, config(stage, id).max_auto_heal_impact) = (gently, most);
        };
        found(&stage, change, |stage| permitted(stage, id))
    };
    assert!(in_state(Stress, impact, impact).is_empty());
    assert_eq!(in_state(Stress, impact - 0.01, 1.0), ["impact"]);
    assert!(in_state(Critical, impact - 0.01, impact).is_empty());
    assert_eq!(in_state(Critical, 1.0, impact - 0.01), ["impact"]);
    // A human may do all of this.
    let by_hand = |stage: &mut Stage| {
        stage.store.action(id).request = Request::Trigger;
        config(stage, id).mode = HealingMode::Observe;
        config(stage, id).max_auto_heal_impact = 0.0;
    };
    assert!(found(&stage, by_hand, |stage| permitted(stage, id)).is_empty());
}

#[test]
fn what_it_rests_on_is_fresh_and_of_a_server_that_can_be_written() {
    let (stage, id) = automatic(|_| true);
    let most_s = stage.world.collections[stage.store.actions[&id].collection].config.max_snapshot_age_seconds;
    let says = |change: &dyn Fn(&mut Stage)| found(&stage, change, |stage| permitted(stage, id));
    let aged = |seconds: i64| {
        move |stage: &mut Stage| {
            let decided = stage.store.actions[&id].decided.expect("a decision").real;
            planned(stage, id).observed = decided - seconds * 1000;
        }
    };
    assert!(says(&aged(most_s)).is_empty());
    assert_eq!(says(&aged(most_s + 1)), ["acts_on_stale"]);
    // Since then the clock was set back: by that clock it is younger.
    assert!(
        says(&|stage| {
            aged(most_s + 1)(stage);
            stage.jumped_at = stage.world.now;
        })
        .is_empty()
    );
    assert_eq!(says(&|stage| planned(stage, id).before.in_recovery = true), ["standby"]);
    assert_eq!(says(&|stage| planned(stage, id).unlisted = true), ["empty"]);
    assert_eq!(says(&|stage| planned(stage, id).before.partitions.clear()), ["empty"]);
}

#[test]
fn attempts_are_counted_and_followed_by_a_rest() {
    let (stage, id) = automatic(|_| true);
    let place = stage.store.actions[&id].collection;
    let settings = stage.world.collections[place].config.clone();
    let (rest_s, window_s) = (settings.min_healing_interval_seconds, settings.attempt_window_seconds);
    let quiet = |stage: &mut Stage| {
        stage.store.by_collection[place].retain(|other| *other == id);
        config(stage, id).max_attempts_per_window = i64::MAX;
        config(stage, id).backoff_base_seconds = 0;
        config(stage, id).breaker_failures = i64::MAX;
    };
    // So many that ended so long ago; at most so many are allowed.
    let after = |count: usize, seconds: i64, most: i64, change: fn(&mut Action)| {
        let all = |stage: &mut Stage| {
            quiet(stage);
            config(stage, id).max_attempts_per_window = most;
            for _ in 0..count {
                let as_ended = ended(stage, seconds, Lesson::NoGain);
                another(stage, id, |action| {
                    as_ended(action);
                    change(action);
                });
            }
        };
        found(&stage, all, |stage| permitted(stage, id))
    };
    assert!(after(1, rest_s, i64::MAX, |_| ()).is_empty());
    assert_eq!(after(1, rest_s - 1, i64::MAX, |_| ()), ["cooldown"]);
    assert!(after(1, rest_s - 1, i64::MAX, |action| action.status = Status::Noop).is_empty());
    assert!(after(1, rest_s - 1, i64::MAX, |action| action.planned = None).is_empty());
    // Only what both clocks call too early is.
    let either = |action: &mut Action| action.ended.as_mut().expect("an end").wall -= 100_000_000;
    assert!(after(1, rest_s - 1, i64::MAX, either).is_empty());
    let either = |action: &mut Action| action.ended.as_mut().expect("an end").real -= 100_000_000;
    assert!(after(1, rest_s - 1, i64::MAX, either).is_empty());
    let within = window_s - 1;
    assert!(within > rest_s && settings.max_attempts_per_window > 1);
    assert!(after(2, within, 3, |_| ()).is_empty());
    assert_eq!(after(3, within, 3, |_| ()), ["attempts"]);
    assert!(after(3, window_s, 3, |_| ()).is_empty());
    let either = |action: &mut Action| action.started.as_mut().expect("a start").wall -= 100_000_000;
    assert!(after(3, within, 3, either).is_empty());
}

#[test]
fn failures_open_the_breaker_and_double_the_wait() {
    let (stage, id) = automatic(|_| true);
    let place = stage.store.actions[&id].collection;
    let strategy = stage.store.actions[&id].planned().plan.strategy.clone();
    // Failures by how many seconds ago they were, oldest first, of which each may be of another lesson.
    let after = |lessons: &[(i64, Lesson)], closed: Option<i64>| {
        let change = |stage: &mut Stage| {
            stage.store.by_collection[place].retain(|other| *other == id);
            let config = config(stage, id);
            (config.min_healing_interval_seconds, config.max_attempts_per_window) = (0, i64::MAX);
            (config.backoff_base_seconds, config.backoff_cap_seconds, config.breaker_failures) =
                (100, 350, 4);
            for (seconds, lesson) in lessons {
                let as_ended = ended(stage, *seconds, *lesson);
                another(stage, id, as_ended);
            }
            if let Some(seconds) = closed {
                let at = stage.world.now - seconds * 1000;
                stage.closed.insert((place, strategy.clone()), at);
            }
        };
        found(&stage, change, |stage| permitted(stage, id))
    };
    use Lesson::{Fault, Helped, NoGain, UndoFailed};
    assert!(after(&[(100, Fault)], None).is_empty());
    assert_eq!(after(&[(99, Fault)], None), ["backoff"]);
    assert!(after(&[(99, NoGain)], None).is_empty());
    assert!(after(&[(900, Fault), (200, Fault)], None).is_empty());
    assert_eq!(after(&[(900, Fault), (199, Fault)], None), ["backoff"]);
    assert!(after(&[(900, Fault), (150, NoGain), (199, Helped), (100, Fault)], None).is_empty());
    // The third waits no longer than the cap.
    assert!(after(&[(900, Fault), (800, Fault), (350, Fault)], None).is_empty());
    assert_eq!(after(&[(900, Fault), (800, Fault), (349, Fault)], None), ["backoff"]);
    let four = [(990, Fault), (980, Fault), (970, Fault), (960, Fault)];
    assert_eq!(after(&four, None), ["breaker"]);
    assert!(after(&four, Some(960)).is_empty(), "a human has closed it");
    assert_eq!(after(&four, Some(961)), Vec::<&str>::new(), "three were before that");
    assert_eq!(after(&[(960, UndoFailed)], None), ["breaker"], "at once");
    // Another remedy's are its own, and what was approved waits for no time, but for the breaker.
    let of_another = |approved: bool, others: bool, count: usize| {
        let change = |stage: &mut Stage| {
            stage.store.by_collection[place].retain(|other| *other == id);
            config(stage, id).breaker_failures = 2;
            config(stage, id).min_healing_interval_seconds = 0;
            stage.store.action(id).approved = approved;
            for _ in 0..count {
                let as_ended = ended(stage, 1, Fault);
                let other = another(stage, id, as_ended);
                if others {
                    planned(stage, other).plan.strategy = "another".to_owned();
                }
            }
        };
        found(&stage, change, |stage| permitted(stage, id))
    };
    assert!(of_another(false, true, 2).is_empty());
    assert!(of_another(true, false, 1).is_empty());
    assert_eq!(of_another(true, false, 2), ["breaker"]);
}

#[test]
fn a_worker_begins_when_it_may() {
    let (stage, id) = automatic(|plan| plan.strategy == "rebuild_centroids");
    let says = |change: &dyn Fn(&mut Stage)| found(&stage, change, |stage| starts(stage, id));
    let wall = stage.world.wall();
    assert!(says(&|_| ()).is_empty());
    assert_eq!(says(&|stage| config(stage, id).enabled = false), ["disabled"]);
    assert_eq!(says(&|stage| config(stage, id).paused_until = Some(wall + 1)), ["paused"]);
    assert!(says(&|stage| config(stage, id).paused_until = Some(wall)).is_empty());
    let failed = |by_hand: bool| {
        move |stage: &mut Stage| {
            let as_ended = ended(stage, 1, Lesson::UndoFailed);
            another(stage, id, as_ended);
            if by_hand {
                stage.store.action(id).request = Request::Trigger;
            }
        }
    };
    assert_eq!(says(&failed(false)), ["breaker"]);
    assert!(says(&failed(true)).is_empty());
    // Windows that are open from so many minutes after the present one to so many.
    let minute = wall.div_euclid(60_000).rem_euclid(1440);
    let clock = |minutes: i64| {
        let minutes = (minute + minutes).rem_euclid(1440);
        format!("{:02}:{:02}", minutes / 60, minutes % 60)
    };
    let within = |from: i64, to: i64, impact: f64, strategy: &str, request: &Request| {
        says(&|stage| {
            let window = Window { from: clock(from), to: clock(to), days: vec![] };
            config(stage, id).maintenance_windows = vec![window];
            config(stage, id).window_impact = 0.5;
            planned(stage, id).plan.impact = impact;
            planned(stage, id).plan.strategy = strategy.to_owned();
            stage.store.action(id).request = request.clone();
        })
    };
    let automatic = &Request::Automatic;
    assert!(within(0, 1, 0.5, "rebuild_centroids", automatic).is_empty());
    assert_eq!(within(1, 2, 0.5, "rebuild_centroids", automatic), ["window"]);
    assert_eq!(within(-5, 0, 0.5, "rebuild_centroids", automatic), ["window"], "its end is not in it");
    assert!(within(1, 2, 0.4, "rebuild_centroids", automatic).is_empty(), "a light one waits for none");
    assert!(within(1, 2, 0.5, "rebuild_centroids", &Request::Trigger).is_empty());
    for helps in ["throttle_ingestion", "pause_maintenance", "scale_replicas"] {
        assert!(within(1, 2, 0.5, helps, automatic).is_empty(), "{helps} takes load away");
    }
}

#[test]
fn windows_are_minutes_of_a_day_and_may_go_over_midnight() {
    let at = |from: &str, to: &str, hours: i64, minutes: i64| {
        let window = Window { from: from.to_owned(), to: to.to_owned(), days: vec![] };
        let config = Config { maintenance_windows: vec![window], ..Config::default() };
        in_window(&config, (hours * 60 + minutes) * 60_000 + 59_999)
    };
    assert!(at("02:30", "04:10", 2, 30) && at("02:30", "04:10", 4, 9));
    assert!(!at("02:30", "04:10", 2, 29) && !at("02:30", "04:10", 4, 10));
    assert!(at("22:00", "01:00", 22, 0) && at("22:00", "01:00", 0, 59) && at("22:00", "01:00", 24 + 23, 0));
    assert!(!at("22:00", "01:00", 21, 59) && !at("22:00", "01:00", 1, 0));
    assert!(!in_window(&Config::default(), 0));
}
