use super::*;
use crate::fixtures::{drift, fragment, ivf, known, load, recall, snapshot, whole};
use crate::graph::Condition;
use crate::integrity::assess;
use crate::snapshot::{Job, Reading, Replica};

fn problems(snapshot: &Snapshot) -> Vec<Problem> {
    let config = Config::default();
    diagnose(&assess(snapshot, &config).unwrap(), snapshot, &config)
}

fn only(snapshot: &Snapshot) -> Problem {
    let mut problems = problems(snapshot);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[test]
fn the_names_are_those_of_the_spec() {
    let classes = [
        ProblemClass::HotspotCongestion { partition_ids: vec![], partitions: vec![], load_ratio: 0.0 },
        centroid_skew_of(&crate::fixtures::ivfflat(1, 1, 1), Cause::Skew, &[], &Config::default()),
        ProblemClass::ReplicationLag { replica_ids: vec![], replicas: vec![], lag_seconds: None },
        ProblemClass::MaintenanceContention { job_types: vec![], queue_depth: 0 },
        index_fragmentation_of(&[], Cause::Bloat, &Config::default()),
        ProblemClass::MemoryPressure { current_usage_pct: 0.0, largest_consumers: vec![] },
        ProblemClass::Unknown { witness_summary: String::new() },
    ];
    assert_eq!(classes.iter().map(ProblemClass::as_str).collect::<Vec<_>>(), CLASS_NAMES);
}

#[test]
fn a_skewed_list_is_centroid_skew_for_every_number_of_groups() {
    for groups in 1..=16 {
        let mut sick = snapshot(2, groups, 1);
        ivf(&mut sick.indexes[0]).groups[0].skew_factor = 8.0;
        ivf(&mut sick.indexes[0]).skew_factor = 8.0;
        assert_eq!(problems(&sick), [], "uneven lists that are as good as new are no problem");
        drift(&mut sick.indexes[0], 1.2);
        let problem = only(&sick);
        let ProblemClass::CentroidSkew { index_id, skew_factor, cause, structure, centroid_ids, .. } =
            &problem.class
        else {
            panic!("{groups} groups: {:?}", problem.class);
        };
        assert_eq!((*index_id, *skew_factor), (10_000, Some(8.0)));
        assert_eq!((*cause, *structure), (Cause::Skew, Structure::Bad));
        if groups > 2 {
            assert_eq!(*centroid_ids, (0..10).collect::<Vec<_>>(), "{groups} groups");
        }
    }
}

#[test]
fn low_recall_of_ivfflat_says_whether_the_lists_are_at_fault() {
    let mut sick = snapshot(1, 16, 0);
    sick.indexes[0].recall = Reading::Known(recall(1, 0.5));
    let structure_of = |snapshot: &Snapshot| match only(snapshot).class {
        ProblemClass::CentroidSkew { structure, cause: Cause::Recall, .. } => structure,
        other => panic!("{other:?}"),
    };
    assert_eq!(structure_of(&sick), Structure::Good);
    let mut drifted = sick.clone();
    drift(&mut drifted.indexes[0], 1.01);
    assert_eq!(structure_of(&drifted), Structure::Bad);
    // Either alone is no proof.
    let mut one = drifted.clone();
    ivf(&mut one.indexes[0]).work_ratio = Reading::Known(1.1);
    assert_eq!(structure_of(&one), Structure::Good);
    let mut other = drifted.clone();
    ivf(&mut other.indexes[0]).distance_ratio = Reading::Known(1.05);
    assert_eq!(structure_of(&other), Structure::Good);
    let mut skewed = sick.clone();
    ivf(&mut skewed.indexes[0]).skew_factor = 30.0;
    assert_eq!(structure_of(&skewed), Structure::Good, "skew alone");
    for unread in [0, 1] {
        let mut blind = drifted.clone();
        let structure = ivf(&mut blind.indexes[0]);
        *[&mut structure.work_ratio, &mut structure.distance_ratio][unread] =
            Reading::unknown("too many lists");
        assert_eq!(structure_of(&blind), Structure::Unknown);
    }
    assert_eq!(only(&sick).details()["structure_good"], true);
    assert_eq!(only(&drifted).details()["structure_good"], false);
}

#[test]
fn an_index_link_is_classed_by_its_cause() {
    let check = |change: &dyn Fn(&mut Index), cause: Cause, pct: f64| {
        let mut sick = snapshot(3, 0, 1);
        change(&mut sick.indexes[1]);
        let problem = only(&sick);
        let ProblemClass::IndexFragmentation { index_ids, cause: found, fragmentation_pct, .. } =
            &problem.class
        else {
            panic!("{:?}", problem.class);
        };
        assert_eq!((index_ids.as_slice(), *found), (&[20_010][..], cause));
        assert!((fragmentation_pct - pct).abs() < 1e-4, "{fragmentation_pct}");
    };
    check(&|i| fragment(i, 40.0), Cause::Bloat, 40.0);
    check(&|i| i.dead_share = Reading::Known(0.5), Cause::Dead, 0.0);
    check(&|i| i.valid = false, Cause::Invalid, 100.0);
    check(&|i| i.recall = Reading::Known(recall(40, 0.5)), Cause::Recall, 0.0);
}

#[test]
fn bloated_indexes_are_one_problem_and_an_invalid_one_is_another() {
    let mut sick = snapshot(3, 0, 1);
    fragment(&mut sick.indexes[0], 50.0);
    fragment(&mut sick.indexes[1], 80.0);
    sick.indexes[2].valid = false;
    let problems = problems(&sick);
    assert_eq!(problems.len(), 2);
    assert!(matches!(problems[0].class, ProblemClass::IndexFragmentation { cause: Cause::Invalid, .. }));
    let ProblemClass::IndexFragmentation { index_ids, fragmentation_pct, .. } = &problems[1].class else {
        panic!("{:?}", problems[1].class);
    };
    assert_eq!(*index_ids, [20_010, 20_000], "most fragmented first");
    assert!((fragmentation_pct - 80.0).abs() < 1e-4);
    assert_eq!(problems[1].component.nodes.len(), 2);
    // 80 %: a third of the way from 0.4 at 60 % is 0.2.
    assert!((problems[1].component.lambda - 0.2).abs() < 1e-6);
}

#[test]
fn a_pattern_that_the_readings_do_not_bear_out_is_unknown_with_both() {
    // Partition links are weak, but no load was read that would say why.
    let mut sick = snapshot(8, 0, 1);
    fragment(&mut sick.indexes[0], 80.0);
    let config = Config::default();
    let mut component = assess(&sick, &config).unwrap().components.remove(0);
    component.nodes.push(NodeKey::Partition { oid: 1000 });
    let template = component.witness[0].clone();
    for _ in 0..4 {
        component.witness.push(WitnessEdge {
            kind: EdgeKind::PartitionLink,
            condition: Condition::healthy(),
            ..template.clone()
        });
    }
    let problem = classify(&component, &sick, &config);
    let ProblemClass::Unknown { witness_summary } = &problem.class else { panic!("{:?}", problem.class) };
    assert!(witness_summary.contains("HotspotCongestion") && witness_summary.contains("\"bloat\""));
}

#[test]
fn nothing_in_the_witness_is_unknown() {
    let component = Component { lambda: 0.1, nodes: vec![], witness: vec![] };
    let problem = classify(&component, &snapshot(1, 0, 0), &Config::default());
    assert_eq!(problem.class.as_str(), "Unknown");
}

#[test]
fn details_have_the_specs_fields_beside_the_readable_ones() {
    let mut sick = snapshot(1, 0, 1);
    fragment(&mut sick.indexes[0], 50.0);
    let details = only(&sick).details();
    assert_eq!(details["index_ids"], json!([20_000]));
    assert_eq!(details["indexes"], json!(["public.docs_1000_hnsw_0"]));
    assert_eq!(details["cause"], "bloat");
    assert!((details["fragmentation_pct"].as_f64().unwrap() - 50.0).abs() < 1e-4);
    assert!(details["evidence"][0].as_str().unwrap().contains("fragmentation_pct = 50.000 (bloat)"));
}

/// Makes one partition take so many times the load of the others.
fn heat(snapshot: &mut Snapshot, at: usize, ratio: f64) {
    snapshot.partitions[at].load = Some(load(2000.0 * ratio));
}

fn wait(snapshot: &mut Snapshot, at: usize, seconds: f64) -> &mut Job {
    let job = &mut known(&mut snapshot.jobs)[at];
    job.waits_s = Some(seconds);
    job.waits_for = Some("a lock of \"app\"".to_owned());
    job
}

#[test]
fn a_hot_partition_is_a_hotspot_for_every_number_of_partitions() {
    for partitions in 2..=40 {
        for (ratio, below) in [(2.0, 0.7), (6.0, 0.7)] {
            let mut sick = whole(partitions, 4, 1, 1, 3);
            heat(&mut sick, 1, ratio);
            let problem = only(&sick);
            let ProblemClass::HotspotCongestion { partition_ids, load_ratio, partitions: names } =
                &problem.class
            else {
                panic!("{partitions}: {:?}", problem.class)
            };
            assert_eq!((partition_ids.as_slice(), names.len()), (&[1001][..], 1));
            assert!((load_ratio - ratio).abs() < 1e-9);
            assert!(problem.component.lambda < below, "{partitions}: {}", problem.component.lambda);
            // The partition hangs on by what the curve says, or by its routing link alone where that is more.
            let expected = crate::health::LOAD_RATIO.at(ratio).max(1.0 / f64::from(partitions));
            assert!((problem.component.lambda - expected).abs() < 1e-9, "{partitions} {ratio}");
            assert_eq!(problem.component.nodes, [NodeKey::Partition { oid: 1001 }]);
        }
    }
}

#[test]
fn the_usual_load_is_no_fault() {
    let mut usual = whole(8, 0, 1, 0, 0);
    heat(&mut usual, 3, 2.0);
    usual.partitions[3].usual_ratio = Some(1.8);
    assert_eq!(problems(&usual), []);
    heat(&mut usual, 3, 4.0);
    assert_eq!(only(&usual).class.as_str(), "HotspotCongestion");
}

#[test]
fn two_hot_partitions_are_one_problem_hottest_first() {
    let mut sick = whole(8, 0, 1, 0, 0);
    heat(&mut sick, 2, 6.0);
    heat(&mut sick, 5, 9.0);
    let problem = only(&sick);
    let ProblemClass::HotspotCongestion { partition_ids, load_ratio, .. } = &problem.class else {
        panic!("{:?}", problem.class)
    };
    assert_eq!(partition_ids.as_slice(), [1005, 1002]);
    // 9 against the mean of 6 and six times 1.
    assert!((load_ratio - 9.0 / (12.0 / 7.0)).abs() < 1e-9);
}

#[test]
fn a_server_near_its_limits_is_a_hotspot_only_beside_another_with_less_to_do() {
    let with = |blocks: f64| {
        let mut sick = whole(8, 0, 1, 0, 0);
        for partition in &mut sick.partitions[..4] {
            partition.server = "east".to_owned();
            partition.load = Some(load(blocks));
        }
        let mut east = sick.servers[0].clone();
        east.name = "east".to_owned();
        east.connections_pct = Reading::Known(95.0);
        sick.servers.push(east);
        sick
    };
    let problem = only(&with(8000.0));
    let ProblemClass::HotspotCongestion { partition_ids, load_ratio, .. } = &problem.class else {
        panic!("{:?}", problem.class)
    };
    assert_eq!((partition_ids.as_slice(), *load_ratio), (&[1000, 1001, 1002, 1003][..], 4.0));
    let problem = only(&with(2000.0));
    let ProblemClass::Unknown { witness_summary } = &problem.class else { panic!("{:?}", problem.class) };
    assert!(witness_summary.contains("HotspotCongestion") && witness_summary.contains("\"connections\""));
}

#[test]
fn a_replica_behind_or_gone_is_replication_lag() {
    type Fault = dyn Fn(&mut Replica);
    let cases: [(&Fault, f64, f64); 3] = [
        (&|r| r.lag_seconds = Reading::Known(10.0), 10.0, 0.7),
        (&|r| r.lag_seconds = Reading::Known(60.0), 60.0, 0.4),
        (&|r| r.gone_s = Some(60.0), 60.0, 0.7),
    ];
    for (change, lag, below) in cases {
        let mut sick = whole(3, 0, 1, 3, 1);
        change(&mut known(&mut sick.replicas)[1]);
        let problem = only(&sick);
        let ProblemClass::ReplicationLag { replica_ids, replicas, lag_seconds } = &problem.class else {
            panic!("{:?}", problem.class)
        };
        assert_eq!(
            (replica_ids.as_slice(), replicas[0].as_str(), *lag_seconds),
            (&[2][..], "standby2", Some(lag))
        );
        assert!(problem.component.lambda < below);
        assert_eq!(problem.component.witness.len(), 1);
    }
    // Bytes alone count too, where no time could be read.
    let mut sick = whole(1, 0, 1, 1, 0);
    let replica = &mut known(&mut sick.replicas)[0];
    replica.lag_seconds = Reading::unknown("no privilege");
    replica.lag_bytes = Reading::Known(2.0 * 1024.0 * 1024.0 * 1024.0);
    let problem = only(&sick);
    assert!(matches!(problem.class, ProblemClass::ReplicationLag { lag_seconds: None, .. }));
    // Two are one problem with the greater lag.
    let mut sick = whole(1, 0, 1, 2, 0);
    known(&mut sick.replicas)[0].lag_seconds = Reading::Known(30.0);
    known(&mut sick.replicas)[1].lag_seconds = Reading::Known(40.0);
    let problem = only(&sick);
    let ProblemClass::ReplicationLag { replica_ids, lag_seconds, .. } = &problem.class else { panic!() };
    assert_eq!((replica_ids.as_slice(), *lag_seconds), (&[2, 1][..], Some(40.0)));
}

#[test]
fn waiting_maintenance_is_contention() {
    let mut sick = whole(4, 0, 1, 0, 3);
    wait(&mut sick, 0, 120.0).kind = "create_index".to_owned();
    wait(&mut sick, 2, 5.0);
    let problem = only(&sick);
    let ProblemClass::MaintenanceContention { job_types, queue_depth } = &problem.class else {
        panic!("{:?}", problem.class)
    };
    assert_eq!((job_types.join(","), *queue_depth), ("create_index,autovacuum".to_owned(), 2));
    assert_eq!(problem.component.nodes, [NodeKey::Job { id: "autovacuum 0".to_owned() }]);
    assert_eq!(problem.component.witness.len(), 3, "the spec's pattern: more than two dependency edges");
    // 120 s: one part in nine of the way from 0.7 at 60 s to 0.4 at 600 s.
    assert!((problem.component.lambda - (0.7 - 0.3 / 9.0)).abs() < 1e-9);

    let mut held = whole(4, 0, 1, 0, 0);
    known(&mut held.horizon).held_s = 7200.0;
    let problem = only(&held);
    let ProblemClass::MaintenanceContention { job_types, queue_depth } = &problem.class else {
        panic!("{:?}", problem.class)
    };
    assert_eq!((job_types.join(","), *queue_depth), ("cleanup of dead rows".to_owned(), 0));

    let mut busy = whole(4, 0, 1, 0, 0);
    let slots = known(&mut busy.slots);
    (slots.busy, slots.waiting) = (3, 6);
    let problem = only(&busy);
    let ProblemClass::MaintenanceContention { job_types, queue_depth } = &problem.class else {
        panic!("{:?}", problem.class)
    };
    assert_eq!((job_types.join(","), *queue_depth), ("autovacuum".to_owned(), 6));
    known(&mut busy.slots).busy = 2;
    assert_eq!(problems(&busy), [], "a worker is free: the queue is being worked off");
}

#[test]
fn memory_that_runs_out_is_memory_pressure() {
    for (pct, below) in [(87.0, 0.7), (97.0, 0.4)] {
        let mut sick = whole(4, 4, 1, 1, 1);
        known(&mut sick.memory).used_pct = pct;
        let problem = only(&sick);
        let ProblemClass::MemoryPressure { current_usage_pct, largest_consumers } = &problem.class else {
            panic!("{:?}", problem.class)
        };
        assert_eq!((*current_usage_pct, largest_consumers[0].0.as_str()), (pct, "shared buffers"));
        assert!(problem.component.lambda < below);
    }
    let mut fine = whole(4, 4, 1, 1, 1);
    known(&mut fine.memory).used_pct = 85.0;
    // The spec's threshold itself: above it is pressure.
    assert!((assess(&fine, &Config::default()).unwrap().lambda.unwrap() - 0.7).abs() < 1e-9);
}

#[test]
fn sessions_that_wait_for_a_lock_are_unknown_since_no_remedy_is_theirs() {
    let mut sick = whole(1, 0, 1, 0, 0);
    sick.partitions[0].waiting = Some(Reading::Known(12.0));
    let problem = only(&sick);
    let ProblemClass::Unknown { witness_summary } = &problem.class else { panic!("{:?}", problem.class) };
    assert!(witness_summary.contains("1 routing_link") && witness_summary.contains("\"waits\""));
}

#[test]
fn faults_at_once_are_all_named_weakest_first() {
    let mut sick = whole(8, 4, 1, 2, 2);
    heat(&mut sick, 3, 6.0);
    known(&mut sick.memory).used_pct = 97.0;
    known(&mut sick.replicas)[0].lag_seconds = Reading::Known(12.0);
    wait(&mut sick, 1, 300.0);
    // On the hot partition: it must be named beside it.
    let hot_index = sick.indexes.iter_mut().find(|i| i.partition == 1003 && i.name.contains("hnsw")).unwrap();
    fragment(hot_index, 45.0);
    let found = problems(&sick);
    assert_eq!(
        found.iter().map(|problem| problem.class.as_str()).collect::<Vec<_>>(),
        [
            "MemoryPressure",
            "HotspotCongestion",
            "IndexFragmentation",
            "MaintenanceContention",
            "ReplicationLag"
        ]
    );
    for pair in found.windows(2) {
        assert!(pair[0].component.lambda <= pair[1].component.lambda);
    }
}

#[test]
fn evidence_counts_groups_that_read_the_same_and_names_each_reading_once() {
    let mut sick = snapshot(2, 16, 0);
    drift(&mut sick.indexes[0], 1.2);
    let problem = only(&sick);
    let mut witness = problem.component.witness.clone();
    witness.truncate(1);
    let NodeKey::Centroid { partition, index, .. } = witness[0].to.clone() else { panic!("{witness:?}") };
    for group in [1, 2, 2, 1] {
        let to = NodeKey::Centroid { partition, index: index.clone(), group };
        witness.push(WitnessEdge { to, ..witness[0].clone() });
    }
    let said = evidence(&witness);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("3 centroid groups of public.docs_1000_ivf: drift_excess"), "{said:?}");
    assert!(evidence(&witness[..1])[0].starts_with("centroid group "), "one is named");
    let mut hot = whole(8, 0, 1, 0, 0);
    hot.partitions[5].load = Some(load(2000.0 * 6.0));
    let problem = only(&hot);
    let readings = problem.evidence.iter().filter(|line| line.contains("load_ratio")).count();
    assert_eq!(readings, 1, "seven edges, one reading: {:?}", problem.evidence);
}

#[test]
fn an_index_is_found_by_its_table_and_its_name_and_a_problem_is_narrowed_to_parts() {
    let mut sick = snapshot(2, 0, 2);
    for index in [0, 1, 2] {
        fragment(&mut sick.indexes[index], 60.0);
    }
    let key = |at: usize| NodeKey::Index {
        partition: sick.indexes[at].partition,
        index: sick.indexes[at].name.clone(),
    };
    for at in 0..sick.indexes.len() {
        assert_eq!(find_index(&sick, &key(at)).map(|index| index.oid), Some(sick.indexes[at].oid));
    }
    let elsewhere = NodeKey::Index { partition: 1001, index: sick.indexes[0].name.clone() };
    assert!(find_index(&sick, &elsewhere).is_none());

    let mut problem = problems(&sick).remove(0);
    problem.component.nodes = vec![key(0), key(1), key(2)];
    let part = |at: usize| {
        let Index { oid, relfilenode, name, partition, method, .. } = sick.indexes[at].clone();
        Part::Index(crate::plan::IndexRef { oid, relfilenode, name, table: partition, method })
    };
    assert_eq!(problem.only(&[part(1)]).component.nodes, [key(1)]);
    assert_eq!(problem.only(&[part(3)]).component.nodes.len(), 3, "none of them is meant: all of it");
}

/// A component whose witness has these edges, all to this weak node.
fn cut(edges: &[(EdgeKind, usize)], nodes: &[NodeKey]) -> Component {
    let edge = |kind| WitnessEdge {
        kind,
        from: NodeKey::Core,
        from_name: "core".to_owned(),
        to: nodes[0].clone(),
        to_name: nodes[0].label(),
        weight: 0.1,
        capacity: 0.05,
        condition: Condition::healthy(),
    };
    let witness =
        edges.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count)).map(edge).collect();
    Component { lambda: 0.5, nodes: nodes.to_vec(), witness }
}

#[test]
fn a_pattern_holds_from_the_number_of_edges_that_the_specification_names() {
    let eight = snapshot(8, 0, 1);
    let partition = |oid| [NodeKey::Partition { oid }];
    let hot = |links, all: &Snapshot| {
        hotspot::fits(&cut(&[(EdgeKind::PartitionLink, links)], &partition(1000)), all)
    };
    assert_eq!((hot(3, &eight), hot(4, &eight)), (false, true));
    // Of four partitions each has three links at most, of five four.
    let (four, five) = (snapshot(4, 0, 1), snapshot(5, 0, 1));
    assert_eq!((hot(1, &four), hot(0, &four), hot(3, &five)), (true, false, false));
    let job = [NodeKey::Job { id: "vacuum".to_owned() }];
    let waits = |edges| contention::fits(&cut(&[(EdgeKind::Dependency, edges)], &job), &eight);
    assert_eq!((waits(2), waits(3)), (false, true));
    assert!(contention::fits(&cut(&[(EdgeKind::Dependency, 1)], &[NodeKey::Slots]), &eight));
    let index = [NodeKey::Index { partition: 1000, index: "i".to_owned() }];
    assert!(fragmentation::fits(&cut(&[(EdgeKind::IndexLink, 1)], &index), &eight));
    assert!(!fragmentation::fits(&cut(&[(EdgeKind::RoutingLink, 9)], &index), &eight));
}

#[test]
fn a_whole_server_is_hot_only_beside_another() {
    let mut two = snapshot(6, 0, 1);
    for partition in &mut two.partitions[4..] {
        partition.server = "other".to_owned();
    }
    let nodes: Vec<NodeKey> = two.partitions[4..].iter().map(|p| NodeKey::Partition { oid: p.oid }).collect();
    let routed =
        |nodes: &[NodeKey], all: &Snapshot| hotspot::fits(&cut(&[(EdgeKind::RoutingLink, 2)], nodes), all);
    assert!(routed(&nodes, &two), "all of the other server's");
    assert!(!routed(&nodes[..1], &two), "one of its two");
    let own: Vec<NodeKey> =
        snapshot(6, 0, 1).partitions.iter().map(|p| NodeKey::Partition { oid: p.oid }).collect();
    assert!(!routed(&own, &snapshot(6, 0, 1)), "there is no other server");
}

#[test]
fn a_skew_takes_more_than_five_groups_or_all_that_a_small_index_has() {
    let sick = |groups| snapshot(1, groups, 0);
    let named = |count: u32, all: &Snapshot| {
        let index = all.indexes.first().map_or_else(|| "none".to_owned(), |index| index.name.clone());
        let group = |group| NodeKey::Centroid { partition: 1000, index: index.clone(), group };
        let nodes: Vec<NodeKey> = (0..count).map(group).collect();
        let mut found = cut(&[(EdgeKind::CentroidLink, count as usize)], &[group(0)]);
        for (edge, node) in found.witness.iter_mut().zip(&nodes) {
            edge.to = node.clone();
        }
        skew::fits(&found, all)
    };
    assert_eq!((named(5, &sick(16)), named(6, &sick(16))), (false, true));
    assert_eq!((named(1, &sick(5)), named(1, &sick(6))), (true, false));
    assert!(!named(1, &snapshot(1, 0, 0)), "an index that is gone has no groups that it could have all of");
    let none = cut(&[(EdgeKind::IndexLink, 1)], &[NodeKey::Index { partition: 1000, index: "i".to_owned() }]);
    assert!(!skew::fits(&none, &sick(2)));
    let weak_without_edge = Component {
        nodes: vec![NodeKey::Centroid { partition: 1000, index: sick(2).indexes[0].name.clone(), group: 0 }],
        ..none
    };
    assert!(!skew::fits(&weak_without_edge, &sick(2)), "no group is in the witness");
}

#[test]
fn autovacuum_s_queue_counts_only_while_its_workers_are_all_busy() {
    let mut waiting = whole(2, 0, 1, 0, 0);
    let queue = |waiting: &Snapshot, busy: u32| {
        let mut waiting = waiting.clone();
        let slots = known(&mut waiting.slots);
        (slots.busy, slots.total, slots.waiting) = (busy, 3, 7);
        let mut component = cut(&[(EdgeKind::Dependency, 1)], &[NodeKey::Slots]);
        component.witness[0].condition.cause = Some(Cause::Slots);
        match contention::class(&component, &component.witness[0], &waiting, &Config::default()) {
            Some(ProblemClass::MaintenanceContention { queue_depth, .. }) => queue_depth,
            other => panic!("{other:?}"),
        }
    };
    waiting.jobs = Some(Reading::Known(vec![]));
    assert_eq!((queue(&waiting, 2), queue(&waiting, 3)), (0, 7));
}

#[test]
fn evidence_of_two_parts_that_read_the_same_names_both() {
    let mut sick = snapshot(2, 16, 0);
    drift(&mut sick.indexes[0], 1.2);
    let edge = only(&sick).component.witness[0].clone();
    let NodeKey::Centroid { partition, .. } = edge.to.clone() else { panic!("{edge:?}") };
    let other = WitnessEdge {
        to: NodeKey::Centroid { partition: partition + 1, index: "another".to_owned(), group: 0 },
        to_name: "centroid group 0 of another".to_owned(),
        ..edge.clone()
    };
    let said = evidence(&[edge, other]);
    assert_eq!(said.len(), 2, "the same reading of another index is another line: {said:?}");
}
