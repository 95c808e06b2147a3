use proptest::prelude::*;

use super::*;
use crate::fixtures::{drift, fragment, ivf, known, load, recall, snapshot, whole};
use crate::graph::build::chain;
use crate::snapshot::{Index, Reading};

fn lambda(graph: &ContractedGraph) -> f64 {
    let edges = graph.capacities(|c| c.health);
    lambda_cut::Graph::from_edges(graph.nodes.len(), &edges).unwrap().minimum_cut().unwrap().value
}

fn build(snapshot: &Snapshot) -> ContractedGraph {
    ContractedGraph::build(snapshot, &Config::default(), Held::Nothing)
}

fn node<'a>(graph: &'a ContractedGraph, key: &NodeKey) -> &'a Node {
    graph.nodes.iter().find(|node| node.key == *key).unwrap()
}

#[test]
fn healthy_is_one_in_every_topology() {
    for partitions in 1..=64 {
        for hnsw in 0..=2 {
            // Every number of groups with few partitions, a selection with many (the cost grows with both).
            let groups: Vec<u32> =
                if partitions <= 4 { (0..=16).collect() } else { vec![0, partitions % 16 + 1] };
            for groups in groups {
                let graph = build(&snapshot(partitions, groups, hnsw));
                let value = lambda(&graph);
                assert!((value - 1.0).abs() < 1e-9, "{partitions} {groups} {hnsw}: {value}");
            }
        }
    }
}

#[test]
fn above_the_node_cap_healthy_parts_are_folded_and_sick_ones_stay() {
    let mut sick = snapshot(100, 16, 1);
    let graph = build(&sick);
    assert_eq!(graph.nodes.len(), 101);
    assert!((lambda(&graph) - 1.0).abs() < 1e-9);
    fragment(&mut sick.indexes[7], 45.0);
    let graph = build(&sick);
    assert_eq!(graph.nodes.len(), 102);
    assert!((lambda(&graph) - 0.55).abs() < 1e-6);
}

#[test]
fn weights_by_hand() {
    // Four partitions: 1/4 to the core; complete graph, three siblings, (1 − 1/4) / 3 each. Eight groups: 1/8 to
    // the partition, six siblings, (1 − 1/8) / 6 each.
    let graph = build(&snapshot(4, 8, 1));
    let of = |kind| graph.edges.iter().filter(move |edge| edge.kind == kind);
    assert_eq!(of(EdgeKind::PartitionLink).count(), 6);
    assert!(of(EdgeKind::PartitionLink).all(|edge| (edge.weight - 0.25).abs() < 1e-12));
    assert_eq!(of(EdgeKind::CentroidLink).count(), 4 * 8 * 6 / 2);
    assert!(of(EdgeKind::CentroidLink).all(|edge| (edge.weight - 0.875 / 6.0).abs() < 1e-12));
    assert_eq!(of(EdgeKind::RoutingLink).count(), 4 + 4 * 8);
    assert_eq!(of(EdgeKind::IndexLink).count(), 4 * 2);
}

#[test]
fn each_metric_weakens_its_own_node() {
    let key = NodeKey::Index { partition: 1000, index: "public.docs_1000_hnsw_0".to_owned() };
    let check = |change: &dyn Fn(&mut Index), health: f64, cause: Cause| {
        let mut sick = snapshot(1, 0, 1);
        change(&mut sick.indexes[0]);
        let graph = build(&sick);
        let condition = &node(&graph, &key).condition;
        assert!((condition.health - health).abs() < 1e-6, "{condition:?}");
        assert_eq!(condition.cause, Some(cause));
    };
    check(&|i| fragment(i, 60.0), 0.4, Cause::Bloat);
    check(&|i| i.dead_share = Reading::Known(0.45), 0.55, Cause::Dead);
    check(&|i| i.valid = false, 0.0, Cause::Invalid);
    check(&|i| (i.valid, i.equal_valid) = (false, Some(1)), 0.5, Cause::Invalid);
    // 0.75 + 0.01 is 0.8 of 0.95: shortfall 0.2, a third of the way from 0.7 to 0.4.
    check(&|i| i.recall = Reading::Known(recall(40, 0.75)), 0.6, Cause::Recall);
}

#[test]
fn a_build_under_way_is_healthy() {
    let mut building = snapshot(1, 8, 0);
    building.indexes[0].valid = false;
    building.indexes[0].building = true;
    let graph = build(&building);
    assert_eq!(graph.nodes.len(), 3, "core, partition, index");
    assert!((lambda(&graph) - 1.0).abs() < 1e-9);
}

#[test]
fn an_invalid_ivfflat_index_has_no_centroids() {
    let mut invalid = snapshot(1, 8, 0);
    invalid.indexes[0].valid = false;
    assert_eq!(build(&invalid).nodes.len(), 3);
}

#[test]
fn recall_drift_and_skew_of_ivfflat_are_on_its_centroids() {
    let centroid =
        |group| NodeKey::Centroid { partition: 1000, index: "public.docs_1000_ivf".to_owned(), group };
    let mut sick = snapshot(1, 16, 0);
    ivf(&mut sick.indexes[0]).groups[3].skew_factor = 8.0;
    assert!((lambda(&build(&sick)) - 1.0).abs() < 1e-9, "good lists may be uneven");
    drift(&mut sick.indexes[0], 2.5);
    let graph = build(&sick);
    let drifted = &node(&graph, &centroid(0)).condition;
    assert_eq!(drifted.cause, Some(Cause::Drift));
    assert!((drifted.health - 0.55).abs() < 1e-9);
    // 8 against the fresh 2: excess 4.
    let skewed = &node(&graph, &centroid(3)).condition;
    assert_eq!((skewed.health, skewed.cause, skewed.value), (0.4, Some(Cause::Skew), Some(4.0)));
    let index = NodeKey::Index { partition: 1000, index: "public.docs_1000_ivf".to_owned() };
    assert_eq!(node(&graph, &index).condition.health, 1.0);
    assert!((lambda(&graph) - 0.4).abs() < 1e-9);
}

#[test]
fn what_was_not_read_is_neither_healthy_nor_zero() {
    let mut blind = snapshot(1, 0, 1);
    blind.indexes[0].bytes = Reading::unknown("no privilege");
    blind.indexes[0].recall = Reading::Known(recall(40, 0.75));
    let graph = build(&blind);
    let condition = &graph.nodes[2].condition;
    assert!((condition.health - 0.6).abs() < 1e-6, "the recall that was read counts");
    assert_eq!(condition.low, 0.0);
    assert!((condition.high - 0.6).abs() < 1e-6);
    assert_eq!(condition.unread, ["fragmentation_pct: no privilege"]);
}

#[test]
fn uneven_lists_without_a_yardstick_are_unread() {
    let mut blind = snapshot(1, 16, 0);
    let structure = ivf(&mut blind.indexes[0]);
    structure.work_ratio = Reading::unknown("too many lists");
    structure.skew_fresh = Reading::unknown("too many lists");
    structure.groups[0].skew_factor = 100.0;
    let graph = build(&blind);
    assert!((lambda(&graph) - 1.0).abs() < 1e-9);
    assert!(graph.nodes.iter().any(|node| node.condition.unread == ["drift_excess: too many lists"]));
}

#[test]
fn the_chain_visits_every_group_once_by_nearness() {
    let mut sick = snapshot(1, 5, 0);
    let structure = ivf(&mut sick.indexes[0]);
    for (group, nearest) in [vec![3, 1], vec![0, 2], vec![1], vec![0, 4], vec![3]].into_iter().enumerate() {
        structure.groups[group].nearest = nearest;
    }
    assert_eq!(chain(&structure.groups), [0, 3, 4, 1, 2]);
    // A number that no group has does no harm.
    structure.groups[0].nearest = vec![99];
    assert_eq!(chain(&structure.groups).len(), 5);
}

#[test]
fn an_empty_snapshot_is_the_core_alone() {
    assert_eq!(build(&snapshot(0, 0, 0)).nodes.len(), 1);
}

#[test]
fn indexes_of_foreign_tables_are_left_out() {
    let mut foreign = snapshot(1, 0, 1);
    foreign.indexes[0].partition = 4711;
    assert_eq!(build(&foreign).nodes.len(), 2);
}

#[test]
fn healthy_is_one_with_everything_else_that_is_observed() {
    for partitions in [1, 2, 3, 5, 8, 9, 16, 33] {
        for replicas in 0..3 {
            for jobs in [0, 1, 4, 12] {
                let mut healthy = whole(partitions, partitions % 5, 1, replicas, jobs);
                let value = lambda(&build(&healthy));
                assert!((value - 1.0).abs() < 1e-9, "{partitions} {replicas} {jobs}: {value}");
                // Two servers, the second with a third of the partitions.
                for partition in healthy.partitions.iter_mut().step_by(3) {
                    partition.server = "other".to_owned();
                }
                let value = lambda(&build(&healthy));
                assert!((value - 1.0).abs() < 1e-9, "two servers, {partitions} {replicas} {jobs}: {value}");
            }
        }
    }
}

/// So many partitions with nothing beside them but what is asked for, and so many servers, dealt out by `random`.
fn topology(size: [u32; 6], everything: bool, random: u64) -> Snapshot {
    let [partitions, groups, hnsw, replicas, jobs, servers] = size;
    let mut healthy = match everything {
        true => whole(partitions, groups, hnsw, replicas, jobs),
        false => snapshot(partitions, groups, hnsw),
    };
    let mut random = random;
    for partition in &mut healthy.partitions {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        partition.server = match (random >> 33) % u64::from(servers) {
            0 => String::new(),
            server => format!("server{server}"),
        };
    }
    healthy
}

/// Every size to 200, where the number of nodes meets its cap (500 partitions with an index each, 1000 without), and some
/// up to 5000; with nothing beside the tables, and with everything.
#[test]
fn healthy_is_one_from_one_partition_to_five_thousand() {
    let sizes = (1..=200).chain((200..=5000).step_by(389)).chain(490..=510).chain(990..=1010).chain([5000]);
    for partitions in sizes {
        for (hnsw, everything) in [(0, true), (1, false), (1, true)] {
            let graph = build(&topology([partitions, 0, hnsw, 2, 3, 1], everything, 0));
            assert!(graph.nodes.len() <= NODES_MAX);
            let value = lambda(&graph);
            assert!((value - 1.0).abs() < 1e-6, "{partitions} {hnsw} {everything}: {value}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn healthy_is_one_in_any_topology(
        partitions in prop_oneof![1u32..12, 12u32..200, 200u32..5001],
        groups in prop_oneof![Just(0u32), 1u32..17],
        hnsw in 0u32..3,
        replicas in 0u32..8,
        jobs in 0u32..40,
        servers in 1u32..6,
        everything in any::<bool>(),
        random in any::<u64>(),
    ) {
        let graph = build(&topology([partitions, groups, hnsw, replicas, jobs, servers], everything, random));
        prop_assert!(graph.nodes.len() <= NODES_MAX);
        let value = lambda(&graph);
        prop_assert!((value - 1.0).abs() < 1e-6, "{}", value);
    }
}

#[test]
fn nobody_looked_is_no_node_and_could_not_look_is_an_interval() {
    let graph = build(&snapshot(2, 0, 1));
    assert!(graph.nodes.iter().all(|node| matches!(node.key.kind(), "core" | "partition" | "index")));
    let reading = || "no privilege".to_owned();
    let mut blind = whole(2, 0, 1, 1, 1);
    blind.replicas = Some(Reading::Unknown(reading()));
    blind.jobs = Some(Reading::Unknown(reading()));
    blind.horizon = Some(Reading::Unknown(reading()));
    blind.slots = Some(Reading::Unknown(reading()));
    blind.memory = Some(Reading::Unknown(reading()));
    blind.partitions[0].load = Some(Reading::Unknown(reading()));
    let graph = build(&blind);
    assert!((lambda(&graph) - 1.0).abs() < 1e-9);
    let unread: Vec<&str> =
        graph.nodes.iter().flat_map(|node| &node.condition.unread).map(String::as_str).collect();
    assert_eq!(
        unread,
        [
            "load_ratio: no privilege",
            "load_ratio: the load of the other partitions is not known",
            "lag_seconds: no privilege",
            "waiting_per_worker: no privilege",
            "held_seconds: no privilege",
            "waits_seconds: no privilege",
            "memory_pct: no privilege",
        ]
    );
    assert_eq!(
        graph.capacities(|c| c.low).iter().filter(|edge| edge.2 == 0.0).count(),
        1 + 1 + 1 + 3 + 3 + 1
    );
}

/// The reason for a minimum cut: no partition of the server is weak by itself, together they are.
#[test]
fn a_group_is_found_that_no_single_part_reveals() {
    let mut sick = whole(8, 0, 1, 0, 0);
    for partition in &mut sick.partitions[4..] {
        partition.server = "east".to_owned();
    }
    let mut east = sick.servers[0].clone();
    // 0.7 at 90 %, 0.4 at 97 %: 0.65.
    (east.name, east.connections_pct) = ("east".to_owned(), Reading::Known(90.0 + 7.0 / 6.0));
    sick.servers.push(east);
    let graph = build(&sick);
    assert!((lambda(&graph) - 0.65).abs() < 1e-9);
    // Each alone: a quarter at 0.65 and three quarters of healthy links.
    let capacities = graph.capacities(|c| c.health);
    let alone = |at: u32| -> f64 {
        capacities.iter().filter(|e| (e.0 == at) != (e.1 == at)).map(|e| e.2).sum::<f64>() - 1.0
    };
    let first = graph.nodes.iter().position(|n| n.key == NodeKey::Partition { oid: 1004 }).unwrap() as u32;
    // The index that hangs on each, weight 1, goes with it.
    assert!((alone(first) - (0.25 * 0.65 + 0.75)).abs() < 1e-9);
}

#[test]
fn a_server_that_does_not_answer_is_cut_off_with_its_partitions_and_named() {
    let mut sick = whole(8, 0, 1, 0, 0);
    for partition in &mut sick.partitions[5..] {
        partition.server = "east".to_owned();
        partition.load = Some(Reading::unknown("its server does not answer"));
    }
    let mut east = crate::fixtures::server("east");
    east.connections_pct = Reading::unknown("it does not answer");
    for (seconds, expected) in [(5.0, 1.0), (15.0, 0.7), (30.0, 0.4), (3600.0, 0.0)] {
        east.unreachable_s = Some(seconds);
        sick.servers = vec![crate::fixtures::server(""), east.clone()];
        let graph = build(&sick);
        assert!((lambda(&graph) - expected).abs() < 1e-9, "{seconds}: {}", lambda(&graph));
        let lost = node(&graph, &NodeKey::Partition { oid: 1006 });
        assert_eq!(lost.name, "public.docs_6 on server east");
        assert_eq!(lost.condition.cause, (expected < 1.0).then_some(Cause::Unreachable));
        assert_eq!(lost.condition.low, 0.0, "what could not be read may be at its worst");
    }
    let config = Config::default();
    let assessed = crate::integrity::assess(&sick, &config).unwrap();
    let weak = &assessed.components[0];
    assert_eq!(weak.nodes.iter().filter(|key| matches!(key, NodeKey::Partition { .. })).count(), 3);
    let problem = crate::classify::classify(weak, &sick, &config);
    // Nothing of ours mends another server.
    assert_eq!(problem.class.as_str(), "Unknown");
    let text = crate::explain::problem(&problem);
    assert!(text.contains("on server east: unreachable_seconds = 3600.000 (unreachable)"), "{text}");
    // While it answers it is as well as any.
    east.unreachable_s = None;
    sick.servers = vec![east];
    assert!((lambda(&build(&sick)) - 1.0).abs() < 1e-9);
}

#[test]
fn a_job_does_not_hold_a_sick_partition_up() {
    let mut sick = whole(8, 0, 1, 0, 8);
    sick.partitions[2].load = Some(load(2000.0 * 6.0));
    let with_jobs = lambda(&build(&sick));
    known(&mut sick.jobs).clear();
    assert!((lambda(&build(&sick)) - with_jobs).abs() < 1e-9);
    assert!(with_jobs < 0.4);
}

#[test]
fn five_thousand_partitions_are_contracted_and_the_sick_ones_found() {
    let mut sick = whole(5000, 0, 1, 1, 2);
    let graph = build(&sick);
    assert!(graph.nodes.len() <= NODES_MAX, "{}", graph.nodes.len());
    assert!((lambda(&graph) - 1.0).abs() < 1e-9);
    let members: u32 = graph
        .nodes
        .iter()
        .map(|node| match node.key {
            NodeKey::Partitions { count, .. } => count,
            NodeKey::Partition { .. } => 1,
            _ => 0,
        })
        .sum();
    assert_eq!(members, 5000, "none is lost");
    sick.partitions[4321].load = Some(load(2000.0 * 4.0));
    fragment(&mut sick.indexes[77], 45.0);
    let graph = build(&sick);
    assert!(graph.nodes.len() <= NODES_MAX);
    assert!((lambda(&graph) - 0.4).abs() < 0.01);
    assert!((node(&graph, &NodeKey::Partition { oid: 1000 + 4321 }).condition.health - 0.4).abs() < 0.01);
    // One that is asked about keeps its node when it is well again.
    let asked = [NodeKey::Partition { oid: 1009 }].into();
    let graph = ContractedGraph::build(&sick, &Config::default(), Held::AllBut(&asked));
    assert!(graph.nodes.iter().any(|node| node.key == NodeKey::Partition { oid: 1009 }));
    assert!((lambda(&graph) - 1.0).abs() < 1e-9);
    // All of them loaded in all ways: the worst stay, the cap holds.
    for (at, partition) in sick.partitions.iter_mut().enumerate() {
        partition.load = Some(load(1000.0 + 20.0 * (at % 997) as f64));
    }
    let graph = build(&sick);
    assert!(graph.nodes.len() <= NODES_MAX);
    let first = sick.partitions.iter().find(|p| p.load == Some(load(1000.0 + 20.0 * 996.0))).unwrap();
    assert!(graph.nodes.iter().any(|node| node.key == NodeKey::Partition { oid: first.oid }));
}

#[test]
fn snapshots_of_an_older_version_parse_and_read_the_same() {
    let mut old = serde_json::to_value(snapshot(2, 4, 1)).unwrap();
    for field in ["servers", "replicas", "jobs", "horizon", "slots", "memory"] {
        old.as_object_mut().unwrap().remove(field).unwrap();
    }
    for partition in old["partitions"].as_array_mut().unwrap() {
        for field in ["server", "load", "usual_ratio", "waiting"] {
            partition.as_object_mut().unwrap().remove(field).unwrap();
        }
    }
    assert_eq!(serde_json::from_value::<Snapshot>(old).unwrap(), snapshot(2, 4, 1));
}

#[test]
fn a_site_may_set_its_own_curves() {
    let mut sick = whole(1, 0, 1, 0, 0);
    known(&mut sick.memory).used_pct = 92.0;
    let config = Config::default()
        .apply(&serde_json::json!({"health_curves": {"memory": [[90, 1], [95, 0.5], [100, 0]]}}))
        .unwrap();
    let graph = ContractedGraph::build(&sick, &config, Held::Nothing);
    assert!((lambda(&graph) - 0.8).abs() < 1e-9);
}

#[test]
fn one_repair_concerns_the_groups_of_one_index_of_one_table() {
    let group =
        |partition, index: &str, group| NodeKey::Centroid { partition, index: index.to_owned(), group };
    assert!(group(1, "a", 0).same_unit(&group(1, "a", 9)));
    assert!(!group(1, "a", 0).same_unit(&group(2, "a", 0)) && !group(1, "a", 0).same_unit(&group(1, "b", 0)));
    assert!(NodeKey::Memory.same_unit(&NodeKey::Memory) && !NodeKey::Memory.same_unit(&NodeKey::Slots));
}
