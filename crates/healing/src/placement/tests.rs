//! The simulated placement, and the plans that rest on it.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::classify::diagnose;
use crate::fixtures::{load, whole};
use crate::integrity::{IntegrityState, assess};
use crate::plan::Plan;
use crate::recovery::StepState;
use crate::remedies::{ALL, Outcome, find};
use crate::verdict::{Sizes, Verdict};

fn site(number: i32, rows: f64, load: f64) -> Site {
    let place = PlaceRef { oid: 1000 + number as u32, number, name: format!("public.docs_{number}") };
    Site { place, rows, load, takes: true, gives: false }
}

fn sum(moves: &[Move]) -> u64 {
    moves.iter().map(|one| one.rows).sum()
}

#[test]
fn a_hot_partition_gives_to_the_idle_ones_by_hand() {
    // 1,000 rows with a load of 900 beside three of 100: the mean is 300, so 600 of load, two thirds of the rows, go.
    let mut sites: Vec<Site> = (1..=3).map(|n| site(n, 1000.0, 100.0)).collect();
    sites.push(Site { gives: true, ..site(4, 1000.0, 900.0) });
    let moves = place(&sites, 10_000);
    let moved = sum(&moves);
    // What is within a tenth of the mean stays.
    assert!((600..=667).contains(&moved), "{moved}");
    assert!(moves.iter().all(|one| one.from.number == 4 && one.to.number != 4 && one.rows <= 223));
    for to in 1..=3 {
        let share: u64 = moves.iter().filter(|one| one.to.number == to).map(|one| one.rows).sum();
        assert!((180..=223).contains(&share), "{to} gets {share}");
    }
    assert_eq!(sum(&place(&sites, 100)), 100, "no more than is allowed");
}

#[test]
fn nothing_is_moved_where_nothing_is_gained() {
    let even: Vec<Site> = (1..=4).map(|n| Site { gives: true, ..site(n, 1000.0, 100.0) }).collect();
    assert_eq!(place(&even, 10_000), vec![]);
    assert_eq!(place(&[Site { gives: true, ..site(1, 10.0, 900.0) }], 10_000), vec![]);
    let idle = [Site { gives: true, ..site(1, 0.0, 900.0) }, site(2, 0.0, 0.0)];
    assert_eq!(place(&idle, 10_000), vec![], "no rows to give");
    let none_takes =
        [Site { gives: true, ..site(1, 10.0, 900.0) }, Site { takes: false, ..site(2, 0.0, 0.0) }];
    assert_eq!(place(&none_takes, 10_000), vec![]);
}

proptest! {
    #[test]
    fn the_imbalance_is_never_inverted(
        all in prop::collection::vec((1.0..50_000.0f64, 0.0..100_000.0f64, any::<bool>(), any::<bool>()), 0..20),
        rows_max in 0u64..20_000,
    ) {
        let sites: Vec<Site> = all
            .iter()
            .enumerate()
            .map(|(at, &(rows, load, takes, gives))| Site { takes, gives, ..site(at as i32, rows, load) })
            .collect();
        let moves = place(&sites, rows_max);
        prop_assert!(sum(&moves) <= rows_max);
        prop_assert!(moves.len() <= MOVES_MAX + sites.len() * sites.len());
        let mean = sites.iter().map(|site| site.load).sum::<f64>() / sites.len().max(1) as f64;
        let mut loads: Vec<f64> = sites.iter().map(|site| site.load).collect();
        for one in &moves {
            let (from, to) = (one.from.number as usize, one.to.number as usize);
            prop_assert!(from != to && sites[from].gives && sites[to].takes && one.rows > 0);
            let load = one.rows as f64 * sites[from].load / sites[from].rows;
            loads[from] -= load;
            loads[to] += load;
        }
        for (at, load) in loads.iter().enumerate() {
            let before = sites[at].load;
            prop_assert!(*load <= before.max(mean) + 1e-6, "{at}: {before} -> {load}, mean {mean}");
            prop_assert!(*load >= before.min(mean) - 1e-6, "{at}: {before} -> {load}, mean {mean}");
        }
        for site in sites.iter().filter(|site| site.gives) {
            let gone: u64 = moves.iter().filter(|one| one.from == site.place).map(|one| one.rows).sum();
            prop_assert!(gone as f64 <= site.rows);
        }
    }
}

/// Eight partitions of a managed collection with so many rows and so much load each, and a cold one.
fn hot(loads: &[f64]) -> Snapshot {
    let mut snapshot = whole(loads.len() as u32 + 1, 0, 1, 0, 0);
    let places = (0..=loads.len()).map(|at| Place {
        oid: 1000 + at as u32,
        number: at as i32 + 1,
        weight: 1.0,
        cold: at == loads.len(),
        elsewhere: false,
        refuses: None,
        cold_rows: None,
    });
    snapshot.managed =
        Some(Managed { fixed: None, noticed: None, by_tenant: false, places: places.collect() });
    for (partition, blocks) in snapshot.partitions.iter_mut().zip(loads) {
        partition.load = Some(load(*blocks));
    }
    snapshot.partitions[loads.len()].load = Some(load(loads.iter().sum::<f64>() / loads.len() as f64));
    snapshot
}

fn limits_of(snapshot: &Snapshot) -> Limits {
    let config = Config { max_replicas: Some(5), ..Config::default() };
    Limits::new(&config, IntegrityState::Stress, snapshot, Params::default())
}

fn problem(snapshot: &Snapshot) -> Problem {
    let config = Config::default();
    diagnose(&assess(snapshot, &config).unwrap(), snapshot, &config).remove(0)
}

fn plan(name: &str, snapshot: &Snapshot) -> Result<Plan, NotApplicable> {
    find(name).unwrap().plan(&problem(snapshot), snapshot, &limits_of(snapshot))
}

const HOT: [f64; 8] = [2000.0, 2000.0, 12_000.0, 2000.0, 2000.0, 2000.0, 2000.0, 2000.0];

#[test]
fn a_hot_partition_gives_rows_within_the_limits_and_none_to_the_cold_one() {
    let sick = hot(&HOT);
    assert_eq!(problem(&sick).class.as_str(), "HotspotCongestion");
    let plan = plan("rebalance_partitions", &sick).unwrap();
    let Step::MoveRows { moves, lambda, .. } = &plan.steps[0] else { panic!("{plan:?}") };
    assert_eq!(*lambda, Some(problem(&sick).component.lambda));
    // Nine partitions of 12,000 rows: a twentieth of them is 5,400.
    assert_eq!(sum(moves), 5400);
    assert!(moves.iter().all(|one| one.from.oid == 1002 && one.to.oid != 1002 && one.to.oid != 1008));
    assert!(plan.reversible && plan.disk_bytes > 0 && plan.timeout_s <= 2.0 * plan.estimated_s);
    // Its rows are chosen from a sample of it as large as they are.
    let mut large = sick.clone();
    large.partitions[2].bytes = Reading::Known(50_000_000_000);
    large.partitions[3].bytes = Reading::Known(50_000_000_000);
    let choosing = |moves: &[Move]| choosing_s(&large, moves);
    assert!((choosing(moves) - 1.2 * 5400.0 / 12_000.0 * 1000.0).abs() < 1e-6, "{}", choosing(moves));
    let few = [Move { cold: true, ..moves[0].clone() }, Move { rows: u64::MAX, ..moves[0].clone() }];
    assert_eq!(
        (choosing(&few[..1]), choosing(&few[1..])),
        (1000.0, 1000.0),
        "it is read once for cold rows, or for all"
    );
    let seconds = |snapshot: &Snapshot| self::plan("rebalance_partitions", snapshot).unwrap().estimated_s;
    assert!(seconds(&large) > seconds(&sick) + 500.0);
    if let Some(managed) = &mut large.managed {
        managed.by_tenant = true;
    }
    assert_eq!(
        choosing_s(&large, &moves[..1]),
        3000.0,
        "which tenants, their rows, and those that came meanwhile"
    );
    let treating: Vec<&str> =
        ALL.iter().filter(|remedy| remedy.treats(&problem(&sick))).map(|remedy| remedy.name()).collect();
    assert_eq!(
        treating,
        ["drain_hot_partition", "rebalance_partitions", "scale_replicas", "throttle_ingestion"]
    );
}

#[test]
fn moves_before_lambda_can_rise_are_told_from_those_that_change_nothing() {
    // Of two partitions each hangs on the core by a half, which no load takes away: λ rises once enough has left.
    let flat = |load: f64, raised: f64| {
        let mut sick = hot(&[2000.0, load]);
        sick.partitions.truncate(2);
        let mut limits = limits_of(&sick);
        limits.config.max_move_share = raised;
        let problem = problem(&sick);
        let plan = find("rebalance_partitions").unwrap().plan(&problem, &sick, &limits).unwrap();
        let Step::MoveRows { moves, flat, .. } = &plan.steps[0] else { panic!("{plan:?}") };
        (*flat, moves.len() as u32)
    };
    let (none, moves) = flat(5000.0, 0.3);
    assert!(none == 0 && moves > 1, "{none} of {moves}");
    let (some, moves) = flat(18_000.0, 0.9);
    assert!(some > 0 && some < moves, "{some} of {moves}");
}

#[test]
fn rows_that_are_not_ours_stay_where_they_are() {
    let refused = |change: &dyn Fn(&mut Snapshot)| {
        let mut sick = hot(&HOT);
        change(&mut sick);
        ["rebalance_partitions", "drain_hot_partition"].map(|name| plan(name, &sick).unwrap_err().to_string())
    };
    for text in refused(&|s| s.managed = None) {
        assert!(
            text.contains("change what its owner wrote") && text.contains("ruvector_collection_adopt"),
            "{text}"
        );
    }
    for text in refused(&|s| s.managed.as_mut().unwrap().fixed = Some("row security is forced".into())) {
        assert!(text.contains("row security is forced"), "{text}");
    }
    for text in refused(&|s| s.managed.as_mut().unwrap().noticed = Some("a row trigger".into())) {
        assert!(text.contains("a row trigger; set move_despite_triggers"), "{text}");
    }
    for text in refused(&|s| s.partitions[0].load = Some(Reading::unknown("its statistics were reset"))) {
        assert!(text.contains("its statistics were reset"), "{text}");
    }
    let mut willing = hot(&HOT);
    willing.managed.as_mut().unwrap().noticed = Some("a row trigger".into());
    let mut limits = limits_of(&willing);
    limits.config.move_despite_triggers = true;
    find("rebalance_partitions").unwrap().plan(&problem(&willing), &willing, &limits).unwrap();
}

#[test]
fn a_drain_stops_new_rows_under_a_lease_and_gives_less_weight_after_it() {
    let plan = plan("drain_hot_partition", &hot(&HOT)).unwrap();
    let Step::SetRoutingWeight { of, weight, lease: Some(lease) } = &plan.steps[0] else {
        panic!("{plan:?}")
    };
    assert_eq!((of.oid, *weight, lease.seconds), (1002, 0.0, 900));
    assert!((lease.after - 1.0 / 6.0).abs() < 1e-9, "six times the load, a sixth of the weight");
    assert!(matches!(plan.steps[1], Step::MoveRows { pause_ratio: 3.0, .. }));
    let mut closed = hot(&HOT);
    closed.managed.as_mut().unwrap().places[2].weight = 0.0;
    let mut limits = limits_of(&closed);
    // Of nine times 12,000 rows a twentieth leaves the partition with 2.4 times the load of the others.
    let drain = find("drain_hot_partition").unwrap();
    let why = drain.plan(&problem(&closed), &closed, &limits).unwrap_err().to_string();
    assert!(
        why.contains("below 1.75 times the others'") && why.contains("raise max_move_share to 0.06"),
        "{why}"
    );
    limits.config.max_move_share = 0.1;
    let moves_only = drain.plan(&problem(&closed), &closed, &limits).unwrap();
    assert!(matches!(moves_only.steps[..], [Step::MoveRows { .. }]));
}

/// The same load on twenty times as many rows: 10,000 of them are one in 24 of the hot partition.
fn large() -> Snapshot {
    let mut large = hot(&HOT);
    for partition in &mut large.partitions {
        partition.live_rows = Reading::Known(240_000.0);
    }
    large
}

#[test]
fn nothing_is_moved_where_as_much_as_may_be_is_too_little() {
    let large = large();
    let why = plan("rebalance_partitions", &large).unwrap_err();
    let NotApplicable::DoseTooSmall { detail } = &why else { panic!("{why:?}") };
    // From 6 to 5.55 times the load of the others, which is λ 0.322; 5.4 times would be enough.
    assert!(detail.contains("10000 rows") && detail.contains("from 0.300 to"), "{detail}");
    assert!(detail.contains("raise max_moves to "), "{detail}");
    let rows: f64 = detail.rsplit("max_moves to ").next().unwrap().trim_end_matches('.').parse().unwrap();
    // What the hint says is enough, and a sixteenth less is not.
    let allows = |rows: f64| {
        let mut limits = limits_of(&large);
        limits.config.max_moves = rows as i64;
        find("rebalance_partitions").unwrap().plan(&problem(&large), &large, &limits)
    };
    let enough = allows(rows).unwrap();
    let placed = enough.params["lambda_placed"].as_f64().unwrap();
    assert!(placed >= 0.33, "{placed}");
    assert!(allows(rows * 0.9).is_err());
    // A human who names the strategy may try.
    let by_hand = Limits { by_hand: true, ..limits_of(&large) };
    find("rebalance_partitions").unwrap().plan(&problem(&large), &large, &by_hand).unwrap();
    // Of a drain nobody knows how much load the rows bring that come no more.
    plan("drain_hot_partition", &large).unwrap();
    let mut read_only = large.clone();
    for partition in &mut read_only.partitions {
        let Some(Reading::Known(load)) = &mut partition.load else { panic!() };
        load.inserted = 0.0;
    }
    let drained = plan("drain_hot_partition", &read_only).unwrap_err();
    assert!(matches!(drained, NotApplicable::DoseTooSmall { .. }), "{drained:?}");
}

#[test]
fn what_earlier_moves_gained_is_held_against_the_promise() {
    let sick = hot(&HOT);
    let with = |gain_share| {
        let limits = Limits { gain_share, ..limits_of(&sick) };
        find("rebalance_partitions").unwrap().plan(&problem(&sick), &sick, &limits)
    };
    // λ goes from 0.3 to 0.62 by the placement; 0.33 is asked for.
    let placed = with(None).unwrap().params["lambda_placed"].as_f64().unwrap();
    assert_eq!(with(Some(0.5)).unwrap().params["lambda_placed"].as_f64(), Some(placed), "the promise stays");
    let why = with(Some(0.05)).unwrap_err().to_string();
    assert!(why.contains("brought 5 % of what its placement promised") && why.contains("would do"), "{why}");
    // Where rows bring nothing, no number of them does.
    let never = with(Some(0.0)).unwrap_err().to_string();
    assert!(never.contains("No number of rows would do"), "{never}");
}

#[test]
fn where_the_server_is_what_is_short_of_room_what_rows_brought_last_time_counts() {
    // Connections of this server are short, and another one has partitions that idle.
    let mut sick = hot(&[9000.0, 9000.0, 1000.0, 1000.0]);
    let server = |name: &str, pct: f64| crate::snapshot::Server {
        name: name.to_owned(),
        connections_pct: Reading::Known(pct),
        unreachable_s: None,
        error: None,
    };
    sick.servers = vec![server("", 92.0), server("far", 20.0)];
    let there: Vec<Oid> = sick.partitions[2..].iter().map(|partition| partition.oid).collect();
    for partition in &mut sick.partitions[2..] {
        partition.server = "far".to_owned();
    }
    for place in &mut sick.managed.as_mut().unwrap().places {
        place.elsewhere = there.contains(&place.oid);
    }
    let problem = problem(&sick);
    let with = |gain_per_row| {
        let limits = Limits { gain_per_row, ..limits_of(&sick) };
        find("rebalance_partitions").unwrap().plan(&problem, &sick, &limits)
    };
    let first = with(None).unwrap();
    assert_eq!(first.params["lambda_placed"], serde_json::Value::Null, "nobody can promise anything");
    let rows = first.params["rows"].as_u64().unwrap() as f64;
    let needed = 0.1 * problem.component.lambda;
    with(Some(1.01 * needed / rows)).unwrap();
    let why = with(Some(0.5 * needed / rows)).unwrap_err().to_string();
    assert!(
        why.contains("as it did when rows of it were last moved") && why.contains("raise max_move"),
        "{why}"
    );
    let never = with(Some(0.0)).unwrap_err().to_string();
    assert!(never.contains("No number of rows would do"), "{never}");
}

#[test]
fn a_drain_is_over_when_its_partition_is_no_longer_hot() {
    let remedy = find("drain_hot_partition").unwrap();
    let (before, mut after) = (hot(&HOT), hot(&HOT));
    let (plan, problem, config) =
        (plan("drain_hot_partition", &before).unwrap(), problem(&before), Config::default());
    let entries = [JournalEntry {
        step_no: 1,
        step: plan.steps[1].clone(),
        state: StepState::Done,
        details: json!({ "moved": 3 }),
    }];
    let mut check = |blocks: f64, entries: &[JournalEntry]| {
        after.partitions[2].load = Some(load(blocks));
        let (plan, problem, before, after, config) = (&plan, &problem, &before, &after, &config);
        remedy.achieved(&Outcome { problem, plan, before, after, verdicts: &[], entries, config })
    };
    assert!(check(12_000.0, &entries).unwrap_err().contains("6.00 times"));
    check(3000.0, &entries).unwrap();
    assert!(check(3000.0, &[]).unwrap_err().contains("no row was moved"));
}

#[test]
fn replicas_are_asked_for_when_reads_are_the_load_and_somebody_said_how_many() {
    let refused = |change: &dyn Fn(&mut Snapshot, &mut Limits)| {
        let mut sick = hot(&HOT);
        sick.orchestrator = Some("/usr/bin/ruvector-scaler".into());
        let mut limits = limits_of(&sick);
        change(&mut sick, &mut limits);
        find("scale_replicas").unwrap().plan(&problem(&sick), &sick, &limits)
    };
    let plan = refused(&|_, _| {}).unwrap();
    assert_eq!(
        plan.steps,
        [Step::ScaleReplicas {
            target: "deployment/ruvector-read".into(),
            max_replicas: 5,
            ready_timeout_s: 300
        }]
    );
    let nobody = refused(&|sick, _| sick.orchestrator = None).unwrap_err();
    assert!(matches!(nobody, NotApplicable::NoOrchestrator { .. }));
    assert!(
        refused(&|_, limits| limits.config.max_replicas = None).unwrap_err().to_string().contains("null")
    );
    let writes = refused(&|sick, _| {
        let Some(Reading::Known(load)) = &mut sick.partitions[2].load else { panic!() };
        load.inserted = 10.0 * load.scans + 10.0;
    });
    assert!(matches!(writes, Err(NotApplicable::NotTreated { .. })), "{writes:?}");
}

/// Memory is short, and a third of the rows of two partitions are cold.
fn full() -> Snapshot {
    let mut full = hot(&[2000.0; 4]);
    let Some(Reading::Known(memory)) = &mut full.memory else { panic!() };
    memory.used_pct = 96.0;
    let places = &mut full.managed.as_mut().unwrap().places;
    for place in &mut *places {
        place.cold_rows = Some(Reading::Known(0.0));
    }
    places[1].cold_rows = Some(Reading::Known(4000.0));
    places[3].cold_rows = Some(Reading::Known(3000.0));
    full
}

#[test]
fn cold_rows_stay_where_so_few_may_leave_that_no_index_becomes_smaller() {
    let full = full();
    let allows = |rows: i64| {
        let mut limits = limits_of(&full);
        limits.config.max_moves = rows;
        find("evict_cold_data").unwrap().plan(&problem(&full), &full, &limits)
    };
    // A tenth of 12,000 rows, less the one that rounding may take.
    let NotApplicable::DoseTooSmall { detail } = &allows(1198).unwrap_err() else { panic!() };
    assert!(
        detail.contains("1198 rows may be moved") && detail.ends_with("raise max_moves to 1200."),
        "{detail}"
    );
    allows(1200).unwrap();
    // Of rows that are too few, all of them, no limit is to blame.
    let mut few = full.clone();
    for place in few.managed.as_mut().unwrap().places.iter_mut().filter(|place| !place.cold) {
        place.cold_rows = Some(Reading::Known(500.0));
    }
    let why = plan("evict_cold_data", &few).unwrap_err();
    assert!(matches!(why, NotApplicable::NothingToDo { .. }), "{why:?}");
}

#[test]
fn cold_rows_leave_first_where_an_index_becomes_smaller_by_it() {
    // Partition 1001 has most, and no index.
    let mut full = full();
    full.indexes.retain(|index| index.partition != 1001);
    let from = |full: &Snapshot, most: i64| {
        let mut limits = limits_of(full);
        (limits.config.max_moves, limits.config.max_move_share) = (most, 1.0);
        let plan = find("evict_cold_data").unwrap().plan(&problem(full), full, &limits)?;
        let Step::MoveRows { moves, .. } = &plan.steps[0] else { panic!("{plan:?}") };
        Ok::<_, NotApplicable>(moves.iter().map(|one| (one.from.oid, one.rows)).collect::<Vec<_>>())
    };
    assert_eq!(from(&full, 1200).unwrap(), [(1003, 1200)]);
    assert_eq!(from(&full, 5000).unwrap(), [(1003, 3000), (1001, 2000)]);
    // Where none could become smaller by so few, the limit that would do is that of the next that could.
    let NotApplicable::DoseTooSmall { detail } = from(&full, 1000).unwrap_err() else { panic!() };
    assert!(detail.contains("raise max_moves to 1200"), "{detail}");
    // A smaller partition is enough for fewer.
    for index in full.indexes.iter_mut().filter(|index| index.partition == 1003) {
        index.rows = Reading::Known(6000.0);
    }
    assert_eq!(from(&full, 1000).unwrap(), [(1003, 1000)]);
}

#[test]
fn cold_rows_leave_one_partition_after_the_other_and_its_index_is_built_anew() {
    let full = full();
    let plan = plan("evict_cold_data", &full).unwrap();
    let Step::MoveRows { moves, lambda: None, .. } = &plan.steps[0] else { panic!("{plan:?}") };
    // Five partitions of 12,000 rows: 3,000 are a twentieth.
    assert_eq!(moves.len(), 1);
    assert_eq!((moves[0].from.oid, moves[0].to.oid, moves[0].rows, moves[0].cold), (1001, 1004, 3000, true));
    let kinds: Vec<&str> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::BuildIndex { .. } => "build",
            Step::CompareIndexes { .. } => "compare",
            Step::SwapIndex { .. } => "swap",
            Step::DropLoser { .. } => "drop",
            _ => "move",
        })
        .collect();
    assert_eq!(kinds, ["move", "build", "compare", "swap", "drop"]);
    assert!(plan.params["largest_consumers"][0][0] == "shared buffers");
    let refused = |change: &dyn Fn(&mut Snapshot)| {
        let mut other = full.clone();
        change(&mut other);
        super::tests::plan("evict_cold_data", &other).unwrap_err().to_string()
    };
    let places = |s: &mut Snapshot| s.managed.as_mut().unwrap().places.clone();
    let set = |s: &mut Snapshot, places: Vec<Place>| s.managed.as_mut().unwrap().places = places;
    assert!(
        refused(&|s| {
            let mut p = places(s);
            p.truncate(4);
            set(s, p)
        })
        .contains("no cold partition")
    );
    assert!(
        refused(&|s| {
            let mut p = places(s);
            p[0].cold_rows = None;
            set(s, p)
        })
        .contains("cold_when")
    );
    assert!(
        refused(&|s| {
            let mut p = places(s);
            p.iter_mut().for_each(|place| place.cold_rows = Some(Reading::Known(0.0)));
            set(s, p);
        })
        .contains("no row is cold")
    );
    assert!(
        refused(&|s| {
            let mut p = places(s);
            p[3].cold_rows = Some(Reading::Known(0.0));
            p[1].cold_rows = Some(Reading::Known(600.0));
            set(s, p);
        })
        .contains("no index would become smaller")
    );
    assert!(refused(&|s| s.managed = None).contains("no managed collection"));
}

#[test]
fn cold_rows_are_away_when_the_indexes_are_smaller_and_memory_still_finds_as_much() {
    let before = full();
    let remedy = find("evict_cold_data").unwrap();
    let (plan, problem, config) =
        (plan("evict_cold_data", &before).unwrap(), problem(&before), Config::default());
    let done = |moved: u64| {
        [JournalEntry {
            step_no: 0,
            step: plan.steps[0].clone(),
            state: StepState::Done,
            details: json!({ "moved": moved }),
        }]
    };
    let verdicts = [Verdict {
        keep: true,
        reason: "smaller".into(),
        effort: None,
        compared_recall: None,
        old_at_objective: None,
        new_at_objective: None,
        old_at_present: None,
        new_at_present: None,
        sizes: Sizes { old_bytes: 2, new_bytes: 1 },
    }];
    let check = |moved: u64, change: &dyn Fn(&mut Snapshot)| {
        let mut after = before.clone();
        let index = after.indexes.iter_mut().find(|index| index.partition == 1001).unwrap();
        (index.oid, index.relfilenode) = (77, 77);
        index.bytes = Reading::Known(index.bytes.known().unwrap() - 1_000_000);
        change(&mut after);
        let (entries, plan, problem, before, after, config) =
            (&done(moved), &plan, &problem, &before, &after, &config);
        remedy.achieved(&Outcome { problem, plan, before, after, verdicts: &verdicts, entries, config })
    };
    check(3000, &|_| {}).unwrap();
    assert!(check(0, &|_| {}).unwrap_err().contains("no row was moved"));
    assert!(check(3000, &|after| after.indexes = before.indexes.clone()).unwrap_err().contains("old index"));
    let larger = check(3000, &|after| {
        for index in &mut after.indexes {
            index.bytes = Reading::Known(1 << 40);
        }
    });
    assert!(larger.unwrap_err().contains("bytes"));
    let colder = check(3000, &|after| {
        for partition in &mut after.partitions {
            if let Some(Reading::Known(load)) = &mut partition.load {
                load.hit_ratio = Some(0.2);
            }
        }
    });
    assert!(colder.unwrap_err().contains("found in memory"));
}

#[test]
fn by_hand_the_hottest_is_meant_or_the_one_named() {
    let snapshot = hot(&HOT);
    let config = Config::default();
    let meant = |params: serde_json::Value| {
        let params = Params::parse("rebalance_partitions", &params).unwrap();
        let problem = find("rebalance_partitions").unwrap().manual_problem(&snapshot, &config, &params);
        problem.map(|problem| match problem.class {
            ProblemClass::HotspotCongestion { partition_ids, .. } => partition_ids,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(meant(json!({})).unwrap(), [1002]);
    assert_eq!(meant(json!({"partitions": ["public.docs_0"]})).unwrap(), [1000]);
    assert!(meant(json!({"partitions": ["nobody"]})).is_err());
}

/// The same with one more partition, on the server east.
fn with_east(loads: &[f64], east: f64) -> Snapshot {
    let mut sick = hot(loads);
    let oid = 1000 + loads.len() as u32 + 1;
    let far = crate::snapshot::Partition {
        oid,
        name: "public.docs_east".to_owned(),
        server: "east".to_owned(),
        load: Some(load(east)),
        ..sick.partitions[0].clone()
    };
    sick.partitions.push(far);
    sick.servers.push(crate::fixtures::server("east"));
    sick.managed.as_mut().unwrap().places.push(Place {
        oid,
        number: 99,
        weight: 1.0,
        cold: false,
        elsewhere: true,
        refuses: None,
        cold_rows: None,
    });
    sick
}

fn plan_with(params: &str, snapshot: &Snapshot) -> Result<Plan, NotApplicable> {
    let config = Config::default();
    let params = Params::parse("rebalance_partitions", &serde_json::from_str(params).unwrap()).unwrap();
    let remedy = find("rebalance_partitions").unwrap();
    let problem = remedy.manual_problem(snapshot, &config, &params)?;
    remedy.plan(&problem, snapshot, &Limits::new(&config, IntegrityState::Stress, snapshot, params))
}

fn takers(plan: &Plan) -> Vec<u32> {
    let Step::MoveRows { moves, .. } = &plan.steps[0] else { panic!("{plan:?}") };
    let mut oids: Vec<u32> = moves.iter().map(|one| one.to.oid).collect();
    oids.sort_unstable();
    oids.dedup();
    oids
}

#[test]
fn another_server_takes_rows_where_it_is_asked_for_and_where_this_one_has_no_room() {
    let sick = with_east(&HOT, 100.0);
    let east = 1009;
    assert!(!takers(&plan("rebalance_partitions", &sick).unwrap()).contains(&east), "there is room here");
    assert_eq!(takers(&plan_with(r#"{"servers": ["east"]}"#, &sick).unwrap()), [east]);
    let none = plan_with(r#"{"servers": ["west"]}"#, &sick).unwrap_err().to_string();
    assert!(none.contains("no other partition to take rows"), "{none}");
    // One partition here: it is held against the other server's.
    let alone = with_east(&[12_000.0], 100.0);
    assert_eq!(takers(&plan_with("{}", &alone).unwrap()), [1002]);
    // All partitions of this server are hot together: its connections run out.
    let mut whole = with_east(&[4000.0; 4], 100.0);
    whole.servers[0].connections_pct = Reading::Known(97.0);
    let problem = problem(&whole);
    assert_eq!(problem.class.as_str(), "HotspotCongestion", "{problem:?}");
    let planned = find("rebalance_partitions").unwrap().plan(&problem, &whole, &limits_of(&whole)).unwrap();
    assert_eq!(takers(&planned), [1005]);
}

#[test]
fn why_another_server_takes_no_rows_is_said() {
    for (change, expected) in [
        (
            (|s: &mut Snapshot| {
                let places = &mut s.managed.as_mut().unwrap().places;
                places.last_mut().unwrap().refuses = Some("max_prepared_transactions is 0 there".to_owned());
            }) as fn(&mut Snapshot),
            "public.docs_east on server east: max_prepared_transactions is 0 there",
        ),
        (
            |s| s.partitions.last_mut().unwrap().load = Some(Reading::unknown("its server does not answer")),
            "its server does not answer",
        ),
        (|s| s.partitions.last_mut().unwrap().load = None, "its load is not known yet"),
        (|s| s.partitions.last_mut().unwrap().live_rows = Reading::unknown("no privilege"), "no privilege"),
    ] {
        let mut sick = with_east(&HOT, 100.0);
        change(&mut sick);
        let why = plan_with(r#"{"servers": ["east"]}"#, &sick).unwrap_err().to_string();
        assert!(why.contains(expected), "{why}");
    }
}
