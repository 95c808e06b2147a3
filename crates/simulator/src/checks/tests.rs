use healing::lifecycle::Lesson;
use healing::plan::PlaceRef;
use healing::snapshot::Method;
use healing::throttle::{Percentages, Rates};

use super::reached::{found, planned, stage_with};
use super::*;
use crate::store::Moment;
use crate::world::Collection;
use crate::world::WeightLease;
use crate::world::strain::{Replica, Throttle};

/// An action that runs, with its worker's view of how things were.
fn running(fits: impl Fn(&Plan) -> bool) -> (Stage, i64) {
    let (mut stage, id) = stage_with(|stage, action| {
        action.status == Status::Executing
            && action.request == Request::Automatic
            && action.before.is_some()
            && stage.store.all_in_flight() == 1
            && stage.store.unfinished.is_empty()
            && stage.world.is_up()
            && stage.world.weather == crate::world::Weather::default()
            && stage.jumped_at < 0
            && fits(&action.planned().plan)
    });
    // Of what it has done so far nothing counts.
    let before = undone::before(&stage, &stage.store.actions[&id]);
    stage.store.action(id).before = Some(before);
    (stage, id)
}

fn place(stage: &Stage, id: i64) -> usize {
    stage.store.actions[&id].collection
}

/// The action ends with this status, and one outcome.
fn ends(stage: &mut Stage, id: i64, status: Status) {
    let at = stage.moment();
    let action = stage.store.action(id);
    (action.status, action.ended, action.outcomes) = (status, Some(at), 1);
    stage.store.open.retain(|open| *open != id);
}

/// What is found when the action is undone after such a change.
fn undone_after(stage: &Stage, id: i64, change: impl FnOnce(&mut Stage)) -> Vec<&'static str> {
    let change = |stage: &mut Stage| {
        change(stage);
        ends(stage, id, Status::RolledBack);
    };
    found(stage, change, |stage| ended(stage, id))
}

fn with_step(stage: &mut Stage, id: i64, step: Step) {
    planned(stage, id).plan.steps.push(step);
}

#[test]
fn an_undone_action_has_left_rows_and_indexes_as_they_were() {
    let (stage, id) = running(builds);
    let number = place(&stage, id);
    assert!(undone_after(&stage, id, |_| ()).is_empty());
    // Rows that users bring are theirs; rows that were moved are not.
    let moved = |rows: f64| {
        undone_after(&stage, id, |stage| {
            let table = &mut stage.world.collections[number].tables[0];
            (table.rows, table.owned) = (table.rows + 5.0 + rows, table.owned + 5.0);
        })
    };
    assert!(moved(0.5).is_empty());
    assert_eq!(moved(0.6), ["rows_elsewhere"]);
    let of: Oid =
        stage.store.actions[&id].planned().plan.steps.iter().find_map(Step::target).expect("an index").oid;
    let changed = |struck: bool, change: fn(&mut Index)| {
        undone_after(&stage, id, |stage| {
            stage.world.collections[number].fault_at = if struck { stage.world.now } else { 0 };
            stage.world.collections[number].drifted_at = 0;
            change(stage.world.collections[number].index(of).expect("the index"));
        })
    };
    assert!(changed(false, |_| ()).is_empty());
    assert_eq!(changed(false, |index| index.effort = Some(77)), ["undone"]);
    assert_eq!(changed(false, |index| index.lists = Some(77)), ["undone"]);
    assert_eq!(changed(false, |index| index.valid = !index.valid), ["undone"]);
    // What strikes it meanwhile changes it.
    assert!(changed(true, |index| index.effort = Some(77)).is_empty());
    // Of one that was built anew in place, or could not be searched before, the new file has an effort of its own.
    let anew = |in_place: bool, was_valid: bool, relfilenode: Oid| {
        let mut stage = stage.clone();
        stage.world.collections[number].index(of).expect("the index").valid = was_valid;
        let before = undone::before(&stage, &stage.store.actions[&id]);
        stage.store.action(id).before = Some(before);
        undone_after(&stage, id, |stage| {
            (stage.world.collections[number].fault_at, stage.world.collections[number].drifted_at) = (0, 0);
            let steps = &mut planned(stage, id).plan.steps;
            let target = steps.iter().find_map(Step::target).expect("an index").clone();
            steps.retain(|step| !matches!(step, Step::ReindexConcurrently { .. }));
            if in_place {
                let options = healing::plan::BuildOptions::default();
                steps.push(Step::ReindexConcurrently { of: target, options, limit_s: None });
            } else {
                steps.push(Step::DropInvalid { of: target });
            }
            let index = stage.world.collections[number].index(of).expect("the index");
            (index.effort, index.relfilenode) = (Some(77), index.relfilenode + relfilenode);
        })
    };
    assert_eq!(anew(false, true, 1), ["undone"]);
    assert!(anew(true, true, 1).is_empty() && anew(false, false, 1).is_empty());
    assert_eq!(anew(true, true, 0), ["undone"]);
    assert_eq!(anew(false, false, 0), ["undone"]);
    // What could not be undone is said otherwise.
    let left = |stage: &mut Stage| {
        stage.world.collections[number].fault_at = 0;
        stage.world.collections[number].index(of).expect("the index").effort = Some(77);
        stage.store.unfinished.push(crate::store::Unfinished {
            action: id,
            collection: number,
            tries: 1,
            last: None,
        });
    };
    assert!(undone_after(&stage, id, left).is_empty());
}

#[test]
fn an_undone_action_has_left_weights_throttle_and_replicas_as_they_were() {
    let (stage, id) = running(|plan| plan.steps.iter().any(|step| matches!(step, Step::MoveRows { .. })));
    let number = place(&stage, id);
    let oid = stage.world.collections[number].tables[0].oid;
    let set = |weighed: bool, weight: f64, lease: Option<f64>| {
        let mut stage = stage.clone();
        // The lease of an earlier action, which may end meanwhile.
        let wall = stage.world.wall();
        let under = |after: f64| WeightLease { begins: wall, until: wall + 1_000_000, seconds: 1000, after };
        stage.world.collections[number].tables[0].weight_lease = lease.map(under);
        let before = undone::before(&stage, &stage.store.actions[&id]);
        stage.store.action(id).before = Some(before);
        undone_after(&stage, id, |stage| {
            stage.world.collections[number].tables[0].weight = weight;
            stage.world.collections[number].tables[0].weight_lease = None;
            planned(stage, id).plan.steps.retain(|step| !matches!(step, Step::SetRoutingWeight { .. }));
            if weighed {
                let of = PlaceRef { oid, number: 1, name: String::new() };
                with_step(stage, id, Step::SetRoutingWeight { of, weight: 0.0, lease: None });
            }
        })
    };
    let usual = stage.world.collections[number].tables[0].weight;
    assert!(set(true, usual, None).is_empty());
    assert_eq!(set(true, usual + 1.0, None), ["undone"]);
    assert!(set(false, usual + 1.0, None).is_empty(), "another's");
    assert!(set(true, 0.25, Some(0.25)).is_empty(), "the earlier lease has ended");
    assert_eq!(set(true, 0.5, Some(0.25)), ["undone"]);

    let throttle = |stage: &Stage, pct: u32, left_ms: i64| Throttle {
        percentages: Percentages { throttle_pct: pct, bulk_throttle_pct: pct },
        baseline: Rates { insert: 100.0, bulk_insert: 0.0 },
        begins: stage.world.wall(),
        until: stage.world.wall() + left_ms,
        set: stage.world.now,
        lease_s: 900,
    };
    let throttled = |was: Option<(u32, i64)>, is: Option<(u32, i64)>| {
        let mut stage = stage.clone();
        stage.world.collections[number].ingest.throttle =
            was.map(|(pct, left_ms)| throttle(&stage, pct, left_ms));
        let before = undone::before(&stage, &stage.store.actions[&id]);
        stage.store.action(id).before = Some(before);
        undone_after(&stage, id, |stage| {
            let now = is.map(|(pct, left_ms)| throttle(stage, pct, left_ms));
            stage.world.collections[number].ingest.throttle = now;
            let percentages = Percentages { throttle_pct: 50, bulk_throttle_pct: 60 };
            let baseline = Rates { insert: 100.0, bulk_insert: 0.0 };
            with_step(stage, id, Step::SetThrottle { percentages, baseline, lease_s: 900 });
        })
    };
    assert!(throttled(None, None).is_empty());
    assert_eq!(throttled(None, Some((50, 1000))), ["undone"]);
    assert!(throttled(Some((30, 1000)), Some((30, 1000))).is_empty());
    assert_eq!(throttled(Some((30, 1000)), Some((50, 1000))), ["undone"]);
    assert_eq!(throttled(Some((30, 1000)), None), ["undone"], "the earlier one was not over");
    assert!(throttled(Some((30, 0)), None).is_empty(), "it was");

    let scaled = |readers: u32, several: bool| {
        undone_after(&stage, id, |stage| {
            stage.max_concurrent = if several { 2 } else { 1 };
            let before = stage.world.strain.wanted();
            stage.world.scale(before + readers);
            with_step(
                stage,
                id,
                Step::ScaleReplicas { target: String::new(), max_replicas: 9, ready_timeout_s: 300 },
            );
        })
    };
    assert!(scaled(0, false).is_empty());
    assert_eq!(scaled(1, false), ["undone"]);
    assert!(scaled(1, true).is_empty(), "another may have");
}

#[test]
fn a_success_that_brought_nothing_or_harm_is_found() {
    let (stage, id) = running(|plan| plan.strategy == "rebuild_centroids");
    let number = place(&stage, id);
    let of: Oid =
        stage.store.actions[&id].planned().plan.steps.iter().find_map(Step::target).expect("an index").oid;
    let succeeds = |change: &dyn Fn(&mut Stage)| {
        let change = |stage: &mut Stage| {
            stage.world.collections[number].fault_at = 0;
            stage.world.collections[number].drifted_at = 0;
            // As things are now.
            let (problem, plan) = {
                let planned = stage.store.actions[&id].planned();
                (planned.problem.clone(), planned.plan.clone())
            };
            let before = conditions(stage, number, &problem, &plan);
            planned(stage, id).true_before = before;
            change(stage);
            ends(stage, id, Status::Succeeded);
        };
        found(&stage, change, |stage| ended(stage, id))
    };
    let index = |stage: &mut Stage, change: &dyn Fn(&mut Index)| {
        change(stage.world.collections[number].index(of).expect("the index"));
    };
    assert_eq!(succeeds(&|_| ()), ["credited"]);
    assert!(succeeds(&|stage| index(stage, &|index| index.shape.misfit -= 0.1)).is_empty());
    assert!(succeeds(&|stage| index(stage, &|index| index.bytes = index.bytes * 9 / 10)).is_empty());
    assert_eq!(succeeds(&|stage| index(stage, &|index| index.bytes = index.bytes * 99 / 100)), ["credited"]);
    assert!(succeeds(&|stage| stage.world.collections[number].remove(of)).is_empty(), "it was surplus");
    let worse = |stage: &mut Stage| {
        index(stage, &|index| {
            index.bytes /= 2;
            index.valid = false;
        });
    };
    assert_eq!(succeeds(&worse), ["worse"]);
    // A human may ask for what brings nothing, not for harm.
    let by_hand = |stage: &mut Stage| stage.store.action(id).request = Request::Trigger;
    assert!(succeeds(&by_hand).is_empty());
    // What struck meanwhile may have undone it.
    assert!(succeeds(&|stage| stage.world.collections[number].fault_at = stage.world.now).is_empty());
    let asked = |stage: &mut Stage| {
        let at = stage.moment();
        stage.store.action(id).stop_asked = Some(at);
        index(stage, &|index| index.shape.misfit -= 0.1);
    };
    assert_eq!(succeeds(&asked), ["stop_ignored"]);
    for outcomes in [0, 2] {
        let change = |stage: &mut Stage| {
            ends(stage, id, Status::RolledBack);
            stage.store.action(id).outcomes = outcomes;
        };
        assert_eq!(found(&stage, change, |stage| ended(stage, id)), ["one_outcome"], "{outcomes}");
    }
}

#[test]
fn what_is_tried_in_vain_again_and_again_is_found() {
    let (stage, id) = running(builds);
    let number = place(&stage, id);
    let hours = |hours: f64| (hours * 3_600_000.0) as i64;
    // This one and so many before it, the last decided so many hours ago.
    let again = |count: i64, hours_ago: f64, change: &dyn Fn(&mut Stage, i64)| {
        let all = |stage: &mut Stage| {
            stage.world.collections[number].fault_at = 0;
            stage.world.collections[number].drifted_at = 0;
            stage.store.by_collection[number].retain(|other| *other == id);
            ends(stage, id, Status::RolledBack);
            stage.store.action(id).lesson = Some(Lesson::NoGain);
            let decided = stage.world.now - hours(hours_ago);
            for extra in 0..count {
                let mut other = stage.store.actions[&id].clone();
                other.id = 1_000_000 + extra;
                other.decided = Some(Moment { wall: decided, real: decided });
                stage.store.by_collection[number].push(other.id);
                stage.store.actions.insert(other.id, other);
                change(stage, 1_000_000 + extra);
            }
        };
        found(&stage, all, |stage| ended(stage, id))
    };
    let most = FUTILE_MAX as i64;
    assert!(again(most - 1, 1.0, &|_, _| ()).is_empty());
    assert_eq!(again(most, 1.0, &|_, _| ()), ["futile"]);
    assert!(again(most, 24.0, &|_, _| ()).is_empty(), "more than a day ago");
    assert_eq!(again(most, 23.9, &|_, _| ()), ["futile"]);
    assert!(
        again(most, 1.0, &|stage, other| stage.store.action(other).lesson = Some(Lesson::Fault)).is_empty()
    );
    assert!(
        again(most, 1.0, &|stage, other| stage.store.action(other).request = Request::Trigger).is_empty()
    );
    let elsewhere =
        |stage: &mut Stage, other: i64| planned(stage, other).plan.strategy = "another".to_owned();
    assert!(again(most, 1.0, &elsewhere).is_empty());
    let fault = |stage: &mut Stage, _: i64| {
        stage.world.collections[number].fault_at = stage.world.now - hours(0.5);
    };
    assert!(again(most, 1.0, &fault).is_empty(), "a fault came in between");
    let cheap = |stage: &mut Stage, other: i64| planned(stage, other).plan.steps.clear();
    assert!(again(most, 1.0, &cheap).is_empty(), "what costs nothing is no harm");
}

#[test]
fn an_action_ends_in_its_time_and_soon_where_healing_is_switched_off() {
    let (stage, id) = running(builds);
    let number = place(&stage, id);
    let scenario = Scenario::generate_as(0, 3600, Mode::Safety);
    let tick_s = scenario.tick_s;
    let looks = |count: u64, change: &dyn Fn(&mut Stage)| {
        found(
            &stage,
            |stage| change(stage),
            |stage| {
                let mut watch = Watch::default();
                (0..count).for_each(|_| in_flight(stage, &mut watch, &scenario));
            },
        )
    };
    let window_s = stage.world.collections[number].config.verify_window_seconds as f64;
    let allowed_s = 4.0 * stage.store.actions[&id].planned().plan.timeout_s + 3.0 * window_s + SLACK_S;
    let most = (allowed_s / tick_s as f64) as u64;
    assert!(looks(most, &|_| ()).is_empty());
    assert_eq!(looks(most + 1, &|_| ()), ["ends"], "and is said once");
    assert!(looks(most + 1, &|stage| stage.world.weather.long_transactions = 1).is_empty());
    assert!(looks(most + 1, &|stage| stage.world.weather.no_workers = true).is_empty());
    assert!(looks(most + 1, &|stage| stage.world.down_until = stage.world.now + 1).is_empty());
    let off = |stage: &mut Stage| stage.world.collections[number].config.enabled = false;
    assert!(looks(OFF_S / tick_s, &off).is_empty());
    assert_eq!(looks(OFF_S / tick_s + 1, &off), ["disabled"]);
    let asked = |stage: &mut Stage| {
        off(stage);
        let at = stage.moment();
        stage.store.action(id).stop_asked = Some(at);
    };
    assert!(looks(OFF_S / tick_s + 1, &asked).is_empty());
    let kept = |stage: &mut Stage| {
        off(stage);
        stage.store.action(id).keep = true;
    };
    assert!(looks(OFF_S / tick_s + 1, &kept).is_empty());
    let two = |several: i64| {
        move |stage: &mut Stage| {
            let mut other = stage.store.actions[&id].clone();
            other.id = 1_000_000;
            stage.store.open.push(other.id);
            stage.store.actions.insert(other.id, other);
            stage.max_concurrent = several;
        }
    };
    assert_eq!(looks(1, &two(2)), ["single_flight", "single_flight"]);
    assert_eq!(looks(1, &two(1)), ["single_flight", "single_flight", "server_limit"]);
}

#[test]
fn nothing_is_done_and_nobody_asked_where_all_is_well() {
    let (stage, id) = running(builds);
    let looks = |mode: Mode, change: &dyn Fn(&mut Stage)| {
        let scenario = Scenario { mode, ..Scenario::generate_as(0, 3600, Mode::Safety) };
        found(&stage, |stage| change(stage), |stage| in_flight(stage, &mut Watch::default(), &scenario))
    };
    assert!(looks(Mode::Safety, &|_| ()).is_empty());
    assert_eq!(looks(Mode::Healthy, &|_| ()), ["false_heal"]);
    let waits = |stage: &mut Stage| stage.store.action(id).status = Status::AwaitingApproval;
    assert_eq!(looks(Mode::Healthy, &waits), ["false_heal"], "nor is a human asked");
    let by_hand = |stage: &mut Stage| stage.store.action(id).request = Request::Trigger;
    assert!(looks(Mode::Healthy, &by_hand).is_empty());
    let unharmed = |stage: &mut Stage| {
        stage.struck.iter_mut().for_each(Vec::clear);
        stage.store.action(id).needless = true;
    };
    assert_eq!(looks(Mode::Safety, &unharmed), ["false_heal"]);
    let needed = |stage: &mut Stage| stage.struck.iter_mut().for_each(Vec::clear);
    assert!(looks(Mode::Safety, &needed).is_empty());
}

#[test]
fn a_throttle_for_replicas_of_which_none_is_connected_is_needless() {
    let (mut stage, id) = running(builds);
    let number = place(&stage, id);
    let (mut plan, mut problem) = {
        let planned = stage.store.actions[&id].planned();
        (planned.plan.clone(), planned.problem.clone())
    };
    let percentages = Percentages { throttle_pct: 50, bulk_throttle_pct: 60 };
    let baseline = Rates { insert: 0.0, bulk_insert: 1000.0 };
    plan.steps = vec![Step::SetThrottle { percentages, baseline, lease_s: 900 }];
    problem.class =
        ProblemClass::ReplicationLag { replica_ids: vec![1, 2], replicas: vec![], lag_seconds: None };
    stage.world.collections[number].ingest.rows = 1000.0;
    stage.world.strain.replicas = vec![Replica::new(1), Replica::new(2)];
    let needless = |stage: &Stage, problem: &Problem| is_needless(stage, number, problem, &plan);
    assert!(!needless(&stage, &problem));
    stage.world.strain.replicas[0].gone_since = Some(EPOCH_MS);
    assert!(!needless(&stage, &problem), "the other can catch up");
    stage.world.strain.replicas[1].gone_since = Some(EPOCH_MS);
    assert!(needless(&stage, &problem));
    problem.class = ProblemClass::MemoryPressure { current_usage_pct: 95.0, largest_consumers: vec![] };
    assert!(!needless(&stage, &problem));
    stage.world.collections[number].ingest.rows = 0.0;
    assert!(needless(&stage, &problem));
}

#[test]
fn rows_are_neither_lost_nor_there_twice() {
    let (stage, _) = running(builds);
    let scenario = Scenario::generate_as(0, 3600, Mode::Safety);
    let rows = |more: f64, owned: f64| {
        let change = |stage: &mut Stage| {
            let collection = &mut stage.world.collections[0];
            collection.tables[0].rows += more;
            collection.tables[0].owned += owned;
            collection.touch();
        };
        let look = |stage: &mut Stage| {
            let mut watch = Watch::default();
            tick(stage, &mut watch, &scenario);
        };
        found(&stage, change, look)
    };
    assert!(rows(0.0, 0.0).is_empty() && rows(7.0, 7.0).is_empty());
    assert_eq!(rows(1.0, 0.0), ["content"]);
    assert_eq!(rows(-1.0, 0.0), ["content"]);
}

#[test]
fn too_many_repairs_are_flapping() {
    let (stage, id) = running(builds);
    let number = place(&stage, id);
    let scenario = Scenario { events: vec![], ..Scenario::generate_as(0, 3600, Mode::Safety) };
    let repairs = |count: u32, faults: u32, struck: &[&'static str], request: Request| {
        let change = |stage: &mut Stage| {
            stage.store.by_collection[number].clear();
            (stage.world.collections[number].faults, stage.struck[number]) = (faults, struck.to_vec());
            for extra in 0..count {
                let mut other = stage.store.actions[&id].clone();
                other.id = 1_000_000 + i64::from(extra);
                (other.status, other.request) = (Status::Succeeded, request.clone());
                stage.store.by_collection[number].push(other.id);
                stage.store.actions.insert(other.id, other);
            }
        };
        let mut names = found(&stage, change, |stage| at_end(stage, &scenario));
        // Actions that nobody logged or learned from are not what is looked at here.
        names.retain(|name| !["audit", "learned"].contains(name));
        names
    };
    let most = ACTIONS_PER_FAULT * 2 + 1;
    assert!(repairs(most, 2, &[], Request::Automatic).is_empty());
    assert_eq!(repairs(most + 1, 2, &[], Request::Automatic), ["flapping"]);
    assert!(repairs(most + 1, 2, &[], Request::Trigger).is_empty());
    assert!(repairs(most + DOSES, 2, &["lists_drift", "partition_hot"], Request::Automatic).is_empty());
    assert_eq!(repairs(most + DOSES + 1, 2, &["partition_hot"], Request::Automatic), ["flapping"]);
}

#[test]
fn better_and_worse_are_by_more_than_chance() {
    let before = Condition {
        name: "docs_i".to_owned(),
        valid: true,
        bytes: 1000,
        effort: 10,
        recall: 0.90,
        blocks: 100.0,
        wear: 0.3,
    };
    let with = |change: fn(&mut Condition)| {
        let mut now = before.clone();
        change(&mut now);
        (now.is_better(&before), now.is_worse(&before, 0.95))
    };
    assert_eq!(with(|_| ()), (false, false));
    assert_eq!(with(|now| now.bytes = 970), (false, false));
    assert_eq!(with(|now| now.bytes = 969), (true, false));
    assert_eq!(with(|now| now.recall = 0.906), (true, false));
    assert_eq!(with(|now| now.recall = 0.904), (false, false));
    assert_eq!(with(|now| (now.recall, now.effort) = (0.904, 11)), (true, false));
    assert_eq!(with(|now| now.effort = 11), (false, false));
    assert_eq!(with(|now| now.wear = 0.29), (true, false));
    assert_eq!(with(|now| now.wear = 0.296), (false, false));
    assert_eq!(with(|now| now.valid = false), (false, true));
    assert_eq!(with(|now| now.recall = 0.85), (false, false));
    assert_eq!(with(|now| now.recall = 0.83), (false, true));
    assert_eq!(with(|now| now.blocks = 129.0), (false, false));
    assert_eq!(with(|now| now.blocks = 131.0), (false, true));
    assert_eq!(with(|now| (now.blocks, now.recall) = (131.0, 0.901)), (false, false), "it finds more for it");
    // What is beyond the objective may be lost.
    let much = Condition { recall: 1.0, ..before.clone() };
    let less = Condition { recall: 0.90, ..before.clone() };
    assert!(!less.is_worse(&much, 0.95) && less.is_worse(&much, 0.97));
    // What could not be searched becomes better, never worse.
    let broken = Condition { valid: false, ..before.clone() };
    assert!(before.is_better(&broken) && !before.is_worse(&broken, 0.95) && !broken.is_worse(&broken, 0.95));
}

/// What a worker is at.
fn turn_at(stage: &Stage, id: i64, fits: impl Fn(&Step) -> bool) -> Turn {
    let steps = &stage.store.actions[&id].planned().plan.steps;
    let at = steps.iter().position(fits).expect("such a step");
    Turn {
        action: id,
        collection: place(stage, id),
        step_no: at as u32,
        step: steps[at].clone(),
        command: None,
        tries: 0,
    }
}

#[test]
fn an_effect_has_an_intent_and_no_other_action_beside_it() {
    let (stage, id) = running(builds);
    let number = place(&stage, id);
    let build = turn_at(&stage, id, |step| {
        matches!(step, Step::BuildIndex { .. } | Step::ReindexConcurrently { .. })
    });
    let says = |turn: &Turn, change: &dyn Fn(&mut Stage)| {
        found(&stage, |stage| change(stage), |stage| effect(stage, turn, "a build"))
    };
    let noted = |stage: &mut Stage| {
        let (step_no, step) = (build.step_no, build.step.clone());
        stage.store.action(id).entries.clear();
        stage.store.action(id).note_step(
            step_no,
            &step,
            healing::recovery::StepState::Intent,
            serde_json::Value::Null,
        );
    };
    assert!(says(&build, &noted).is_empty());
    assert_eq!(says(&build, &|stage| stage.store.action(id).entries.clear()), ["intent_first"]);
    let of_another = |stage: &mut Stage| {
        noted(stage);
        stage.store.action(id).entries[0].step_no += 1;
    };
    assert_eq!(says(&build, &of_another), ["intent_first"]);
    let other = |status: Status, collection: usize| {
        move |stage: &mut Stage| {
            let mut other = stage.store.actions[&id].clone();
            (other.id, other.status, other.collection) = (1_000_000, status, collection);
            stage.store.open.push(other.id);
            stage.store.actions.insert(other.id, other);
        }
    };
    let both = |change: &dyn Fn(&mut Stage)| {
        says(&build, &|stage| {
            noted(stage);
            change(stage);
        })
    };
    assert_eq!(both(&other(Status::Executing, number)), ["single_flight"]);
    assert!(both(&other(Status::AwaitingApproval, number)).is_empty());
    assert!(both(&other(Status::Executing, number + 1)).is_empty());
}

#[test]
fn the_verdict_to_keep_is_the_intent_to_drop_what_lost() {
    let (stage, id) = running(|plan| plan.steps.iter().any(|step| matches!(step, Step::DropLoser { .. })));
    let drop = turn_at(&stage, id, |step| matches!(step, Step::DropLoser { .. }));
    let says = |keep: bool| {
        let change = |stage: &mut Stage| {
            let action = stage.store.action(id);
            action.entries.clear();
            action.keep = keep;
        };
        found(&stage, change, |stage| effect(stage, &drop, "a drop"))
    };
    assert!(says(true).is_empty());
    assert_eq!(says(false), ["intent_first"]);
}

#[test]
fn only_its_own_indexes_are_its_to_drop() {
    let (stage, id) = running(|plan| plan.steps.iter().any(|step| matches!(step, Step::DropLoser { .. })));
    let number = place(&stage, id);
    let turn = turn_at(&stage, id, |step| matches!(step, Step::DropLoser { .. }));
    let of = turn.step.target().expect("an index").clone();
    // A trial index beside the one that the plan is about.
    let trial = |change: &dyn Fn(&mut Index)| {
        let oid = 99_999;
        let add = |stage: &mut Stage| {
            let collection = &mut stage.world.collections[number];
            let table = collection.tables.iter_mut().find(|table| table.oid == of.table).expect("its table");
            let mut index = table.indexes[0].clone();
            (index.oid, index.valid, index.building) = (oid, true, false);
            (index.name, index.maker) = (format!("{TRIAL_PREFIX}7"), Maker::Action(id));
            change(&mut index);
            table.indexes.push(index);
        };
        found(&stage, add, |stage| drops(stage, &turn, oid))
    };
    assert!(trial(&|_| ()).is_empty());
    assert_eq!(trial(&|index| index.maker = Maker::Action(id + 1)), ["drops_foreign"]);
    assert_eq!(trial(&|index| index.name = "mine".to_owned()), ["drops_foreign"]);
    assert!(trial(&|index| (index.name, index.valid) = ("mine".to_owned(), false)).is_empty());
    // The former index, once another valid one bears its name.
    let former = |renamed: bool, winner: Option<bool>| {
        let swap = |stage: &mut Stage| {
            let collection = &mut stage.world.collections[number];
            let name = {
                let index = collection.index(of.oid).expect("the index");
                index.maker = Maker::User;
                let name = index.name.clone();
                if renamed {
                    index.name = trial_name(&of);
                }
                name
            };
            let table = collection.tables.iter_mut().find(|table| table.oid == of.table).expect("its table");
            table.indexes.retain(|index| index.oid == of.oid || index.name != name);
            if let Some(valid) = winner {
                let mut index = table.indexes.iter().find(|index| index.oid == of.oid).expect("it").clone();
                (index.oid, index.name, index.valid) = (99_998, name, valid);
                table.indexes.push(index);
            }
        };
        found(&stage, swap, |stage| drops(stage, &turn, of.oid))
    };
    assert!(former(true, Some(true)).is_empty());
    assert_eq!(former(true, Some(false)), ["drops_foreign"]);
    assert_eq!(former(true, None), ["drops_foreign"]);
    assert_eq!(former(false, None), ["drops_foreign"]);
    // A surplus one, by the step that is for it, as long as nobody can search it.
    let surplus = |valid: bool, itself: bool| {
        let turn = Turn { step: Step::DropInvalid { of: of.clone() }, ..turn.clone() };
        let oid = if itself { of.oid } else { 99_997 };
        let change = |stage: &mut Stage| {
            let collection = &mut stage.world.collections[number];
            let mut index = collection.index(of.oid).expect("the index").clone();
            (index.valid, index.maker, index.oid) = (valid, Maker::User, oid);
            collection.remove(of.oid);
            let table = collection.tables.iter_mut().find(|table| table.oid == of.table).expect("its table");
            table.indexes.push(index);
        };
        found(&stage, change, |stage| drops(stage, &turn, oid))
    };
    assert!(surplus(false, true).is_empty());
    assert_eq!(surplus(true, true), ["drops_foreign"]);
    assert_eq!(surplus(false, false), ["drops_foreign"]);
}

#[test]
fn at_rest_users_have_their_indexes_and_nothing_of_ours() {
    let (stage, id) = running(builds);
    let number = place(&stage, id);
    let says = |change: &dyn Fn(&mut Collection)| {
        let change = |stage: &mut Stage| {
            let collection = &mut stage.world.collections[number];
            // As before the action.
            let ledger = collection.ledger.clone();
            for table in &mut collection.tables {
                table.indexes.retain(|index| ledger.iter().any(|wanted| wanted.name == index.name));
                table.indexes.iter_mut().for_each(|index| (index.valid, index.maker) = (true, Maker::User));
            }
            collection.ledger.iter_mut().for_each(|wanted| wanted.valid = true);
            stage.store.losers.clear();
            change(&mut stage.world.collections[number]);
        };
        found(&stage, change, |stage| at_rest(stage, number))
    };
    let first = |collection: &mut Collection, change: &dyn Fn(&mut Index)| {
        let wanted = collection.ledger[0].clone();
        let table = collection.tables.iter_mut().find(|table| table.oid == wanted.table).expect("a table");
        change(table.indexes.iter_mut().find(|index| index.name == wanted.name).expect("an index"));
    };
    let copy = |collection: &mut Collection, name: &str, maker: Maker, valid: bool| {
        let wanted = collection.ledger[0].clone();
        let table = collection.tables.iter_mut().find(|table| table.oid == wanted.table).expect("a table");
        let mut index = table.indexes.iter().find(|index| index.name == wanted.name).expect("it").clone();
        (index.oid, index.name, index.maker, index.valid) = (99_999, name.to_owned(), maker, valid);
        table.indexes.push(index);
    };
    assert!(says(&|_| ()).is_empty());
    assert_eq!(says(&|of| first(of, &|index| index.valid = false)), ["content"]);
    assert_eq!(
        says(&|of| first(of, &|index| {
            index.method = match index.method {
                Method::Hnsw => Method::Ivfflat,
                Method::Ivfflat => Method::Hnsw,
            };
        })),
        ["content"]
    );
    assert_eq!(says(&|of| first(of, &|index| index.name = "gone".to_owned())), ["content"]);
    // Of two that were not valid, either may be the one that is built again: an equal one that nobody else wants.
    let instead = |was_valid: bool, is_valid: bool, equal: bool| {
        says(&|of| {
            of.ledger[0].valid = was_valid;
            first(of, &|index| {
                (index.name, index.valid) = ("instead".to_owned(), is_valid);
                if !equal {
                    index.method = if index.method == Method::Hnsw { Method::Ivfflat } else { Method::Hnsw };
                }
            });
        })
    };
    assert!(instead(false, true, true).is_empty());
    assert_eq!(instead(true, true, true), ["content"]);
    assert_eq!(instead(false, false, true), ["content"]);
    assert_eq!(instead(false, true, false), ["content"]);
    // One that was not valid may become so, and stays so for the user who looked.
    assert!(
        says(&|of| {
            of.ledger[0].valid = false;
            first(of, &|index| index.valid = false);
        })
        .is_empty()
    );
    assert_eq!(says(&|of| copy(of, &format!("{TRIAL_PREFIX}1"), Maker::User, true)), ["leftover"]);
    assert_eq!(says(&|of| copy(of, "second", Maker::Action(id), true)), ["leftover"]);
    assert_eq!(says(&|of| copy(of, "second", Maker::Action(id), false)), ["leftover"]);
    assert!(says(&|of| copy(of, "second", Maker::User, true)).is_empty(), "whoever made it");
    assert!(
        says(&|of| {
            copy(of, "second", Maker::Action(id), false);
            of.surplus.push("second".to_owned());
        })
        .is_empty()
    );
    // What a reindex left of an index that its user has dropped since; of one that is there it is ours to drop.
    assert!(says(&|of| copy(of, "dropped_ccnew", Maker::Action(id), false)).is_empty());
    assert_eq!(says(&|of| copy(of, "dropped_ccnew", Maker::Action(id), true)), ["leftover"]);
    let beside = |of: &mut Collection| {
        let name = format!("{}_ccnew", of.ledger[0].name);
        copy(of, &name, Maker::Action(id), false);
    };
    assert_eq!(says(&beside), ["leftover"]);
}

#[test]
fn what_is_clearly_wrong_is_seen_by_what_users_feel() {
    let (mut stage, id) = running(builds);
    let number = place(&stage, id);
    let world = &mut stage.world;
    for table in &mut world.collections[number].tables {
        (table.heat, table.cold_rows, table.crowd) = (0.0, 0.0, 0.0);
        let rows = table.rows;
        for index in &mut table.indexes {
            (index.valid, index.building, index.shape) = (true, false, Default::default());
            index.bytes = index.clean_bytes(rows);
            index.effort = Some(1000);
        }
    }
    world.disk_bytes *= 100;
    let wanted = world.collections[number].ledger[0].clone();
    let ails = |change: &dyn Fn(&mut Index)| {
        let mut world = stage.world.clone();
        let table = world.collections[number].table(wanted.table).expect("a table");
        change(table.indexes.iter_mut().find(|index| index.name == wanted.name).expect("an index"));
        well::ailments(&world, number).len()
    };
    assert_eq!(ails(&|_| ()), 0);
    assert_eq!(ails(&|index| index.valid = false), 1);
    assert_eq!(ails(&|index| index.bytes *= 2), 0);
    assert_eq!(ails(&|index| index.bytes = index.bytes * 2 + 8192), 1);
    assert_eq!(ails(&|index| index.effort = Some(1)), 1, "searches find too little");
    assert_eq!(ails(&|index| (index.valid, index.building) = (false, true)), 0, "somebody mends it");
    assert_eq!(ails(&|index| (index.valid, index.name) = (false, "not_wanted".to_owned())), 0);
    // Of a disk without room nothing is asked. So many percent of a fresh index may be taken.
    let full = |percent: u64, harm: &dyn Fn(&mut Index)| {
        let mut world = stage.world.clone();
        let table = world.collections[number].table(wanted.table).expect("a table");
        let rows = table.rows;
        let index = table.indexes.iter_mut().find(|index| index.name == wanted.name).expect("an index");
        harm(index);
        let room = index.clean_bytes(rows) * percent / 100;
        let share = world.collections[number].config.max_disk_share;
        world.disk_bytes -= world.disk_free() - (room as f64 / share) as u64;
        let (none, enough) = (well::has_no_room(&world, number), well::has_room(&world, number));
        (well::ailments(&world, number).len(), none, enough)
    };
    let broken = |index: &mut Index| index.valid = false;
    assert_eq!(full(98, &broken), (0, true, false));
    assert_eq!(full(102, &broken), (1, false, false));
    assert_eq!(full(502, &broken), (1, false, true));
    assert_eq!(full(498, &broken), (1, false, false));
    // Where nothing is worn, nothing has to fit.
    assert_eq!(full(98, &|_| ()), (0, false, false));
    assert_eq!(full(98, &|index| index.bytes += 1), (0, true, false));
    for (wear, worn) in [(0.09, false), (0.11, true)] {
        assert_eq!(full(98, &|index| index.shape.misfit = wear), (0, worn, false));
        assert_eq!(full(98, &|index| index.shape.skew = wear), (0, worn, false));
        assert_eq!(full(98, &|index| index.shape.damage = wear), (0, worn, false));
    }
}

#[test]
fn what_stays_weak_long_after_the_calm_is_found() {
    let scenario = Scenario { events: vec![], ..Scenario::generate_as(3, 14 * 86_400, Mode::Liveness) };
    let calm_s = scenario.calm_s().div_ceil(1800) * 1800;
    // An index that is not valid until so many hours after the calm; who looks every half hour.
    let weak = |hours: u64, harmed_until: u64, mode: Mode, room: bool, change: &dyn Fn(&mut Stage)| {
        let scenario = Scenario { mode, ..scenario.clone() };
        let mut stage = Stage::new(&scenario);
        if room {
            stage.world.disk_bytes *= 10;
        }
        change(&mut stage);
        let mut watch = Watch::default();
        // What was before the calm does not count.
        for half_hour in -80..=2 * hours as i64 {
            stage.world.now = EPOCH_MS + (calm_s as i64 + half_hour * 1800) * 1000;
            for table in &mut stage.world.collections[0].tables {
                table.indexes.iter_mut().for_each(|index| index.valid = half_hour >= 2 * harmed_until as i64);
            }
            stage.world.collections[0].touch();
            watch.looked.resize(stage.world.collections.len(), (0, None));
            in_time(&mut stage, &mut watch, 0, &scenario);
        }
        stage.violations.iter().map(|(check, _)| *check).collect::<Vec<_>>()
    };
    let most = CALM_S / 3600;
    assert_eq!(weak(most, 1000, Mode::Liveness, true, &|_| ()), Vec::<&str>::new());
    assert_eq!(weak(most + 1, 1000, Mode::Liveness, true, &|_| ()), ["unwell", "liveness"]);
    assert!(weak(most + 1, most, Mode::Liveness, true, &|_| ()).is_empty(), "cured in time");
    assert!(weak(most + 1, 1000, Mode::Safety, true, &|_| ()).is_empty());
    // As long as something acts on it, it is not given up.
    let acts = |stage: &mut Stage| {
        let id = stage.store.propose(0, Request::Automatic);
        stage.store.action(id).status = Status::Executing;
    };
    assert!(weak(most + 1, 1000, Mode::Liveness, true, &acts).is_empty());
    // Nothing can be built on a disk that is full.
    let full = |stage: &mut Stage| stage.world.disk_bytes -= stage.world.disk_free();
    assert!(weak(most + 1, 1000, Mode::Liveness, false, &full).is_empty());
    // At the end the same.
    let at_last = |change: &dyn Fn(&mut Stage)| {
        let mut stage = Stage::new(&scenario);
        stage.world.disk_bytes *= 10;
        for table in &mut stage.world.collections[0].tables {
            table.indexes.iter_mut().for_each(|index| index.valid = false);
        }
        stage.world.collections[0].touch();
        found(&stage, |stage| change(stage), |stage| cured(stage, 0))
    };
    assert_eq!(at_last(&|_| ()), ["unwell", "liveness"]);
    assert!(at_last(&acts).is_empty() && at_last(&full).is_empty());
}
