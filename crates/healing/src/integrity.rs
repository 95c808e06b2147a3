//! λ, its witness edges, the ranked weak components, and the states normal, stress and critical.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::graph::{Cause, Condition, ContractedGraph, EdgeKind, Held, NodeKey};
use crate::snapshot::{Snapshot, UnixMs};

/// Components that one assessment names at most; a collection with more is repaired in turns.
pub const COMPONENTS_MAX: usize = 8;

/// One edge of a cut, with what explains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WitnessEdge {
    /// The spec's type name.
    pub kind: EdgeKind,
    /// The end on the strong side (where the core is).
    pub from: NodeKey,
    /// Its name for a human.
    pub from_name: String,
    /// The end on the weak side.
    pub to: NodeKey,
    /// Its name for a human.
    pub to_name: String,
    /// Capacity when healthy.
    pub weight: f64,
    /// `weight × health`.
    pub capacity: f64,
    /// What weakens it.
    pub condition: Condition,
}

/// A weak part or group of parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// How firmly it hangs on: the value of its cut; 1 healthy, 0 cut off.
    pub lambda: f64,
    /// The nodes on the weak side at which the witness ends; what else hangs on them is not weak itself.
    pub nodes: Vec<NodeKey>,
    /// The edges that cross the cut; their capacities sum to `lambda`.
    pub witness: Vec<WitnessEdge>,
}

impl Component {
    /// The causes on its witness edges, worst health first, each once.
    pub fn causes(&self) -> Vec<Cause> {
        let mut weak: Vec<(f64, Cause)> =
            self.witness.iter().filter_map(|e| Some((e.condition.health, e.condition.cause?))).collect();
        weak.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut causes: Vec<Cause> = Vec::new();
        for (_, cause) in weak {
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        causes
    }
}

/// What one snapshot says about a collection's integrity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// When the snapshot was taken.
    pub taken_at: UnixMs,
    /// λ as the readings prove it: an unread metric takes nothing away. None when it is not known.
    pub lambda: Option<f64>,
    /// Why λ is not known.
    pub lambda_unknown: Option<String>,
    /// λ if every unread metric were at its worst.
    pub lambda_low: Option<f64>,
    /// λ if every estimate were at the better end of its interval.
    pub lambda_high: Option<f64>,
    /// The edges whose capacities sum to λ.
    pub witness: Vec<WitnessEdge>,
    /// Weak components, weakest first; empty when λ is normal.
    pub components: Vec<Component>,
    /// Metrics that were not read, each with the reason.
    pub unread: Vec<String>,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Edges of the graph.
    pub edges: usize,
}

/// Why a snapshot could not be assessed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IntegrityError {
    /// The solver refused the graph: a capacity is not a finite number.
    #[error("the graph of the collection could not be cut: {0}")]
    Graph(#[from] lambda_cut::GraphError),
}

/// Why λ is not known of a collection of which no partition was seen, and why nothing is done there.
pub const NO_PARTITIONS: &str = "the collection has no partitions";

/// Assesses a snapshot. The same arguments give the same result.
///
/// # Errors
/// [`IntegrityError`] when a reading is no number.
pub fn assess(snapshot: &Snapshot, config: &Config) -> Result<Assessment, IntegrityError> {
    let graph = ContractedGraph::build(snapshot, config, Held::Nothing);
    let mut unread: Vec<String> = graph
        .nodes
        .iter()
        .flat_map(|node| node.condition.unread.iter().map(|metric| format!("{}: {metric}", node.name)))
        .collect();
    unread.dedup();
    let mut assessment = Assessment {
        taken_at: snapshot.taken_at,
        lambda: None,
        lambda_unknown: None,
        lambda_low: None,
        lambda_high: None,
        witness: vec![],
        components: vec![],
        unread,
        nodes: graph.nodes.len(),
        edges: graph.edges.len(),
    };
    // An empty list says nothing of what it leaves out: replicas and jobs that are there make no collection.
    let listed = weakest(&graph)?.filter(|_| !snapshot.partitions.is_empty());
    let Some(weakest) = listed else {
        assessment.lambda_unknown = Some(NO_PARTITIONS.to_owned());
        return Ok(assessment);
    };
    if !graph.is_measured() {
        let reason = if snapshot.indexes.is_empty() {
            "the collection has no vector index, and nothing else of it could be measured"
        } else {
            "no metric could be read"
        };
        assessment.lambda_unknown = Some(reason.to_owned());
        return Ok(assessment);
    }
    assessment.lambda = Some(weakest.lambda);
    assessment.lambda_low = value(&graph, |c| c.low)?;
    assessment.lambda_high = value(&graph, |c| c.high)?;
    assessment.witness.clone_from(&weakest.witness);
    assessment.components = components(snapshot, config, weakest)?;
    Ok(assessment)
}

/// The weak components, weakest first: after each, its own nodes' metrics are held healthy and the graph is cut
/// again.
fn components(
    snapshot: &Snapshot,
    config: &Config,
    weakest_component: Component,
) -> Result<Vec<Component>, IntegrityError> {
    let mut found = Vec::new();
    let mut held = BTreeSet::new();
    let mut next = Some(weakest_component);
    while let Some(mut component) = next {
        // What was found before is told apart: it may be part of a group that is weak without it.
        component.nodes.retain(|key| !held.contains(key));
        if component.nodes.is_empty()
            || component.lambda >= config.normal_lambda()
            || found.len() == COMPONENTS_MAX
        {
            break;
        }
        held.extend(component.nodes.iter().cloned());
        found.push(component);
        next = weakest(&ContractedGraph::build(snapshot, config, Held::These(&held)))?;
    }
    Ok(found)
}

/// λ of the component around these nodes, all other nodes' metrics held healthy: how firmly they hang on by
/// themselves. None when none of them exists any more, or the graph has one node only.
///
/// # Errors
/// [`IntegrityError`] when a reading is no number.
pub fn component_lambda(
    snapshot: &Snapshot,
    nodes: &[NodeKey],
    config: &Config,
) -> Result<Option<f64>, IntegrityError> {
    let nodes: BTreeSet<NodeKey> = nodes.iter().cloned().collect();
    let graph = ContractedGraph::build(snapshot, config, Held::AllBut(&nodes));
    if !graph.nodes.iter().any(|node| nodes.iter().any(|key| node.key.same_unit(key))) {
        return Ok(None);
    }
    Ok(weakest(&graph)?.map(|component| component.lambda))
}

/// λ of the collection with these nodes' own metrics held healthy: what it comes to once they are well. None when the graph has
/// one node only.
///
/// # Errors
/// [`IntegrityError`] when a reading is no number.
pub fn lambda_once_well(
    snapshot: &Snapshot,
    nodes: &[NodeKey],
    config: &Config,
) -> Result<Option<f64>, IntegrityError> {
    let nodes: BTreeSet<NodeKey> = nodes.iter().cloned().collect();
    let graph = ContractedGraph::build(snapshot, config, Held::These(&nodes));
    Ok(weakest(&graph)?.map(|component| component.lambda))
}

/// By how much the routing links of healthy parts count for more when the weakest part is looked for; λ is the sum of
/// the true capacities.
const TIE_BREAK: f64 = 1e-9;

fn value(graph: &ContractedGraph, health: fn(&Condition) -> f64) -> Result<Option<f64>, IntegrityError> {
    let edges = graph.capacities(health);
    Ok(lambda_cut::Graph::from_edges(graph.nodes.len(), &edges)?.minimum_cut().map(|cut| cut.value))
}

/// The minimum cut, seen from the core: the weak side is the one without it.
fn weakest(graph: &ContractedGraph) -> Result<Option<Component>, IntegrityError> {
    let mut capacities = graph.capacities(|condition| condition.health);
    // Of two partitions each is cut off by the same edges: the core holds on to the one that is well.
    for (edge, (_, to, capacity)) in graph.edges.iter().zip(&mut capacities) {
        if edge.kind == EdgeKind::RoutingLink && graph.nodes[*to as usize].condition.health >= 1.0 {
            *capacity *= 1.0 + TIE_BREAK;
        }
    }
    let cut_graph = lambda_cut::Graph::from_edges(graph.nodes.len(), &capacities)?;
    let Some(cut) = cut_graph.minimum_cut() else { return Ok(None) };
    let core_side = cut.side.first().copied().unwrap_or(false);
    let mut weak: Vec<bool> = cut.side.iter().map(|&side| side != core_side).collect();
    keep_one_part(&mut weak, &capacities);
    let mut witness = Vec::new();
    for edge in &graph.edges {
        let (a_weak, b_weak) = (weak[edge.a as usize], weak[edge.b as usize]);
        if a_weak == b_weak {
            continue;
        }
        let (from, to) = if b_weak { (edge.a, edge.b) } else { (edge.b, edge.a) };
        let (from, to) = (&graph.nodes[from as usize], &graph.nodes[to as usize]);
        witness.push(WitnessEdge {
            kind: edge.kind,
            from: from.key.clone(),
            from_name: from.name.clone(),
            to: to.key.clone(),
            to_name: to.name.clone(),
            weight: edge.weight,
            capacity: edge.capacity(),
            condition: edge.condition.clone(),
        });
    }
    let lambda = witness.iter().map(|edge| edge.capacity).sum();
    // Each capacity is rounded to the solver's resolution once; a positive one to at least one unit.
    debug_assert!(
        {
            let tolerance = cut_graph.resolution() * (capacities.len() + 1) as f64 + TIE_BREAK + 1e-12;
            let difference: f64 = lambda - cut.value;
            difference.abs() <= tolerance
        },
        "the witness sums to {lambda}, the cut is {}",
        cut.value
    );
    // An index that only hangs on a weak partition is not weak itself.
    let ends: BTreeSet<&NodeKey> = witness.iter().map(|edge| &edge.to).collect();
    let nodes = graph.nodes.iter().map(|node| &node.key).filter(|key| ends.contains(key)).cloned().collect();
    Ok(Some(Component { lambda, nodes, witness }))
}

/// Parts that are cut off entirely (capacity 0) may lie on the weak side together though nothing joins them; keep
/// the one with the first node, so that each is a component of its own.
fn keep_one_part(weak: &mut [bool], edges: &[(u32, u32, f64)]) {
    let Some(first) = weak.iter().position(|on| *on) else { return };
    let mut reached = vec![false; weak.len()];
    reached[first] = true;
    let mut grown = true;
    while grown {
        grown = false;
        for &(a, b, capacity) in edges {
            let (a, b) = (a as usize, b as usize);
            if capacity > 0.0 && weak[a] && weak[b] && reached[a] != reached[b] {
                reached[a] = true;
                reached[b] = true;
                grown = true;
            }
        }
    }
    weak.copy_from_slice(&reached);
}

/// The state of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegrityState {
    /// Nothing to do.
    Normal,
    /// Weakened: gentle repairs.
    Stress,
    /// About to fall apart.
    Critical,
}

impl IntegrityState {
    /// The name stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            IntegrityState::Normal => "normal",
            IntegrityState::Stress => "stress",
            IntegrityState::Critical => "critical",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Normal, Self::Stress, Self::Critical].into_iter().find(|state| state.as_str() == name)
    }

    /// Where λ points from here: down at a boundary, up only above it by the hysteresis.
    fn target(self, lambda: f64, config: &Config) -> Self {
        let Config { stress_lambda, critical_lambda, hysteresis, .. } = *config;
        let stress = if self == Self::Normal { stress_lambda } else { stress_lambda + hysteresis };
        let critical = if self == Self::Critical { critical_lambda + hysteresis } else { critical_lambda };
        if lambda < critical {
            Self::Critical
        } else if lambda < stress {
            Self::Stress
        } else {
            Self::Normal
        }
    }
}

/// A collection's state with its history as far as the next change needs it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The state.
    pub state: IntegrityState,
    /// Since when.
    pub since: UnixMs,
    /// The state that recent samples point to, when it is another.
    pub candidate: Option<IntegrityState>,
    /// Samples in a row that point that way.
    pub streak: u32,
    /// λ of the last sample that had one.
    pub lambda: Option<f64>,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// State before.
    pub from: IntegrityState,
    /// State after.
    pub to: IntegrityState,
    /// When.
    pub at: UnixMs,
    /// λ of the sample that completed it.
    pub lambda: f64,
}

impl StateRecord {
    /// A collection that is seen for the first time.
    pub fn new(now: UnixMs) -> Self {
        Self { state: IntegrityState::Normal, since: now, candidate: None, streak: 0, lambda: None }
    }

    /// The record after one more sample. A change needs `dwell_samples` samples in a row that point the same way;
    /// it goes to the mildest state that all of them allow. A sample without λ keeps the state and counts for nothing.
    #[must_use]
    pub fn advance(
        &self,
        lambda: Option<f64>,
        now: UnixMs,
        config: &Config,
    ) -> (StateRecord, Option<Transition>) {
        let Some(lambda) = lambda.filter(|lambda| !lambda.is_nan()) else { return (*self, None) };
        let mut next = StateRecord { lambda: Some(lambda), ..*self };
        let target = self.state.target(lambda, config);
        if target == self.state {
            next.candidate = None;
            next.streak = 0;
            return (next, None);
        }
        let candidate = match self.candidate {
            // Both the same way from the present state: the nearer of the two is what all samples allow.
            Some(before) if (before > self.state) == (target > self.state) => {
                next.streak = self.streak.saturating_add(1);
                if target > self.state { before.min(target) } else { before.max(target) }
            }
            _ => {
                next.streak = 1;
                target
            }
        };
        next.candidate = Some(candidate);
        if i64::from(next.streak) < config.dwell_samples {
            return (next, None);
        }
        let transition = Transition { from: self.state, to: candidate, at: now, lambda };
        next = StateRecord { state: candidate, since: now, candidate: None, streak: 0, lambda: Some(lambda) };
        (next, Some(transition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, drift, fragment, ivf, known, load, recall, replica, snapshot, whole};
    use crate::snapshot::Reading;
    use proptest::prelude::*;

    fn config() -> Config {
        Config::default()
    }

    fn index_key(partition: u32, name: &str) -> NodeKey {
        NodeKey::Index { partition, index: name.to_owned() }
    }

    #[test]
    fn of_parts_that_nothing_joins_the_first_is_kept() {
        let kept = |weak: &[bool], edges: &[(u32, u32, f64)]| {
            let mut weak = weak.to_vec();
            keep_one_part(&mut weak, edges);
            weak
        };
        let three = [false, true, true, true];
        assert_eq!(kept(&three, &[(0, 1, 0.5), (0, 2, 0.5)]), [false, true, false, false]);
        // An edge that carries nothing joins nothing; the second joins from its later end.
        assert_eq!(kept(&three, &[(1, 2, 0.0), (3, 1, 0.1)]), [false, true, false, true]);
        assert_eq!(kept(&three, &[(3, 2, 0.1), (2, 1, 0.1)]), three);
        assert_eq!(kept(&[false, false], &[(0, 1, 1.0)]), [false, false]);
    }

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in [IntegrityState::Normal, IntegrityState::Stress, IntegrityState::Critical] {
            assert_eq!(IntegrityState::parse(state.as_str()), Some(state));
        }
        assert_eq!(IntegrityState::parse("Normal"), None);
        let names = [IntegrityState::Normal, IntegrityState::Stress, IntegrityState::Critical]
            .map(IntegrityState::as_str);
        assert_eq!(names, ["normal", "stress", "critical"]);
    }

    #[test]
    fn a_record_keeps_the_last_lambda_and_counts_anew_when_samples_turn() {
        let config = config();
        let stress = StateRecord { state: IntegrityState::Stress, ..StateRecord::new(NOW) };
        let (down, _) = stress.advance(Some(0.1), NOW, &config);
        assert_eq!(
            (down.candidate, down.streak, down.lambda),
            (Some(IntegrityState::Critical), 1, Some(0.1))
        );
        let (up, _) = down.advance(Some(1.0), NOW, &config);
        assert_eq!((up.candidate, up.streak, up.lambda), (Some(IntegrityState::Normal), 1, Some(1.0)));
        let (same, none) = up.advance(Some(0.6), NOW, &config);
        assert_eq!((same.candidate, same.streak, same.lambda, none), (None, 0, Some(0.6), None));
    }

    #[test]
    fn a_healthy_collection_has_no_weak_component() {
        let assessment = assess(&snapshot(4, 8, 1), &config()).unwrap();
        assert!((assessment.lambda.unwrap() - 1.0).abs() < 1e-9);
        assert!(assessment.components.is_empty() && assessment.unread.is_empty());
    }

    #[test]
    fn lambda_is_unknown_where_there_is_nothing_to_go_by() {
        let none = assess(&snapshot(0, 0, 0), &config()).unwrap();
        assert_eq!(
            (none.lambda, none.lambda_unknown.as_deref()),
            (None, Some("the collection has no partitions"))
        );
        // Whatever else is there: a replica far behind is none of a collection that was not seen.
        let mut unseen = snapshot(0, 0, 0);
        let mut far_behind = replica(1);
        (far_behind.lag_bytes, far_behind.lag_seconds) = (Reading::Known(4e10), Reading::Known(3600.0));
        unseen.replicas = Some(Reading::Known(vec![far_behind]));
        let unseen = assess(&unseen, &config()).unwrap();
        assert_eq!((unseen.lambda, unseen.lambda_unknown.as_deref()), (None, Some(NO_PARTITIONS)));
        assert!(unseen.components.is_empty());
        let bare = assess(&snapshot(3, 0, 0), &config()).unwrap();
        assert_eq!(bare.lambda, None);
        let mut blind = snapshot(1, 0, 1);
        blind.indexes[0].bytes = Reading::unknown("x");
        blind.indexes[0].dead_share = Reading::unknown("x");
        blind.indexes[0].recall = Reading::unknown("x");
        let blind = assess(&blind, &config()).unwrap();
        assert_eq!(blind.lambda_unknown.as_deref(), Some("no metric could be read"));
    }

    #[test]
    fn one_skewed_group_is_cut_by_seven_nodes() {
        let mut sick = snapshot(1, 16, 0);
        drift(&mut sick.indexes[0], 1.5);
        ivf(&mut sick.indexes[0]).groups[5].skew_factor = 8.0;
        let assessment = assess(&sick, &config()).unwrap();
        assert!((assessment.lambda.unwrap() - 0.4).abs() < 1e-9);
        let kinds: Vec<EdgeKind> = assessment.witness.iter().map(|edge| edge.kind).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == EdgeKind::CentroidLink).count(), 6);
        assert_eq!(kinds.iter().filter(|kind| **kind == EdgeKind::RoutingLink).count(), 1);
        assert_eq!(assessment.components[0].causes(), [Cause::Skew]);
        // The other lists are bad too, but one index is one component.
        assert_eq!(assessment.components.len(), 1);
    }

    #[test]
    fn one_fault_of_a_whole_index_is_one_component() {
        let mut sick = snapshot(2, 16, 1);
        sick.indexes[0].recall = Reading::Known(recall(1, 0.38));
        let assessment = assess(&sick, &config()).unwrap();
        // 0.39 / 0.95: shortfall 0.5895, between 0.4 (0.4) and 1 (0).
        let expected = 0.4 * (1.0 - (1.0 - 0.39 / 0.95 - 0.4) / 0.6);
        assert!((assessment.lambda.unwrap() - expected).abs() < 1e-9);
        assert_eq!(assessment.components.len(), 1, "{:?}", assessment.components);
        assert_eq!(assessment.components[0].causes(), [Cause::Recall]);
    }

    #[test]
    fn components_are_ranked_and_each_has_its_own_lambda() {
        let mut sick = snapshot(3, 8, 1);
        fragment(&mut sick.indexes[1], 75.0);
        sick.indexes[2].valid = false;
        drift(&mut sick.indexes[4], 2.0);
        let assessment = assess(&sick, &config()).unwrap();
        let lambdas: Vec<f64> =
            assessment.components.iter().map(|c| (c.lambda * 1000.0).round() / 1000.0).collect();
        // Invalid 0; 75 %: half way from 0.4 to 0; excess 2: a third of the way from 0.7 to 0.4.
        assert_eq!(lambdas, [0.0, 0.25, 0.6]);
        assert_eq!(assessment.components[0].nodes, [index_key(1001, "public.docs_1001_ivf")]);
        for component in &assessment.components {
            let own = component_lambda(&sick, &component.nodes, &config()).unwrap().unwrap();
            assert!((own - component.lambda).abs() < 1e-9);
        }
    }

    #[test]
    fn two_parts_that_are_cut_off_are_two_components() {
        let mut sick = snapshot(2, 0, 1);
        sick.indexes[0].valid = false;
        sick.indexes[1].valid = false;
        let assessment = assess(&sick, &config()).unwrap();
        assert_eq!(assessment.components.len(), 2);
        assert!(assessment.components.iter().all(|c| c.lambda == 0.0 && c.nodes.len() == 1));
    }

    #[test]
    fn at_most_eight_components_are_named() {
        let mut sick = snapshot(12, 0, 1);
        for index in &mut sick.indexes {
            fragment(index, 60.0);
        }
        assert_eq!(assess(&sick, &config()).unwrap().components.len(), COMPONENTS_MAX);
    }

    #[test]
    fn curing_one_of_two_faults_shows_in_its_own_component() {
        let mut sick = snapshot(2, 0, 1);
        fragment(&mut sick.indexes[0], 70.0);
        fragment(&mut sick.indexes[1], 68.0);
        let before = assess(&sick, &config()).unwrap();
        let nodes = before.components[0].nodes.clone();
        let mut cured = sick.clone();
        fragment(&mut cured.indexes[0], 0.0);
        // A swap: another OID under the same name.
        cured.indexes[0].oid += 1;
        let after = assess(&cured, &config()).unwrap();
        assert!(after.lambda.unwrap() / before.lambda.unwrap() < 1.1, "the global minimum hardly moves");
        let own = component_lambda(&cured, &nodes, &config()).unwrap().unwrap();
        assert!((own - 1.0).abs() < 1e-6, "{own}");
        assert_eq!(component_lambda(&cured, &[index_key(1, "gone")], &config()).unwrap(), None);
    }

    #[test]
    fn a_rebuild_with_other_groups_is_still_the_same_component() {
        let mut sick = snapshot(1, 16, 0);
        drift(&mut sick.indexes[0], 2.0);
        ivf(&mut sick.indexes[0]).groups[15].skew_factor = 20.0;
        let nodes = assess(&sick, &config()).unwrap().components[0].nodes.clone();
        let rebuilt = snapshot(1, 3, 0);
        let own = component_lambda(&rebuilt, &nodes, &config()).unwrap().unwrap();
        assert!((own - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_interval_holds_what_is_not_known() {
        let mut blind = snapshot(1, 0, 2);
        blind.indexes[0].recall = Reading::unknown("panel not yet run");
        let assessment = assess(&blind, &config()).unwrap();
        assert_eq!(assessment.lambda, Some(1.0));
        assert_eq!((assessment.lambda_low, assessment.lambda_high), (Some(0.0), Some(1.0)));
        assert_eq!(assessment.unread.len(), 1);
    }

    /// The states after each λ, with its transitions counted.
    fn run(lambdas: &[Option<f64>]) -> (Vec<IntegrityState>, usize) {
        let mut record = StateRecord::new(NOW);
        let mut transitions = 0;
        let states = (1i64..)
            .zip(lambdas)
            .map(|(i, lambda)| {
                let (next, transition) = record.advance(*lambda, NOW + i * 10_000, &config());
                transitions += usize::from(transition.is_some());
                assert_eq!(transition.is_some(), next.state != record.state);
                record = next;
                record.state
            })
            .collect();
        (states, transitions)
    }

    #[test]
    fn states_change_after_three_samples_and_return_above_the_hysteresis() {
        use IntegrityState::{Critical, Normal, Stress};
        let some = |values: &[f64]| -> Vec<Option<f64>> { values.iter().copied().map(Some).collect() };
        // A dip of two samples is none.
        assert_eq!(run(&some(&[0.6, 0.6, 0.9, 0.6, 0.6])), (vec![Normal; 5], 0));
        assert_eq!(run(&some(&[0.69; 3])).0, [Normal, Normal, Stress]);
        assert_eq!(run(&some(&[0.7; 9])).1, 0, "the boundary itself is normal");
        assert_eq!(run(&some(&[0.1; 3])).0, [Normal, Normal, Critical]);
        // Stress stays below 0.8, critical below 0.5.
        assert_eq!(run(&some(&[0.6, 0.6, 0.6, 0.79, 0.79, 0.79])).0[5], Stress);
        assert_eq!(run(&some(&[0.6, 0.6, 0.6, 0.8, 0.8, 0.8])).0[5], Normal);
        assert_eq!(run(&some(&[0.1, 0.1, 0.1, 0.49, 0.49, 0.49])).0[5], Critical);
        assert_eq!(run(&some(&[0.1, 0.1, 0.1, 0.5, 0.5, 0.5])).0[5], Stress);
        // To and fro between stress and critical is stress at least.
        assert_eq!(run(&some(&[0.6, 0.3, 0.6])).0[2], Stress);
    }

    #[test]
    fn a_sample_without_lambda_counts_for_nothing() {
        let (states, _) = run(&[Some(0.6), None, Some(0.6), None, Some(f64::NAN), Some(0.6)]);
        assert_eq!(states[4], IntegrityState::Normal);
        assert_eq!(states[5], IntegrityState::Stress);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// λ is the sum of the witness, lies in its interval, never exceeds 1, and does not depend on the run.
        #[test]
        fn lambda_is_the_sum_of_its_witness(
            partitions in 1u32..6,
            groups in 0u32..10,
            hnsw in 0u32..3,
            replicas in 0u32..3,
            jobs in 0u32..4,
            servers in 1usize..3,
            faults in proptest::collection::vec((0usize..20, 0u8..15, 0.0f64..1.0), 0..8),
        ) {
            let mut sick = whole(partitions, groups, hnsw, replicas, jobs);
            for partition in sick.partitions.iter_mut().step_by(servers).filter(|_| servers > 1) {
                partition.server = "other".to_owned();
            }
            for (at, kind, severity) in faults {
                let partition = at % sick.partitions.len();
                match kind {
                    7 => sick.partitions[partition].load = Some(load(40_000.0 * severity)),
                    8 => sick.partitions[partition].load = Some(Reading::unknown("x")),
                    9 => sick.partitions[partition].waiting = Some(Reading::Known(60.0 * severity)),
                    10 => known(&mut sick.memory).used_pct = 100.0 * severity,
                    11 => known(&mut sick.horizon).held_s = 1e5 * severity,
                    12 => sick.servers[0].connections_pct = Reading::Known(100.0 * severity),
                    13 => for replica in known(&mut sick.replicas).iter_mut().take(1) {
                        replica.lag_seconds = Reading::Known(100.0 * severity);
                    },
                    14 => for job in known(&mut sick.jobs).iter_mut().take(1 + at % 3) {
                        job.waits_s = Some(1000.0 * severity);
                    },
                    _ => {}
                }
                let count = sick.indexes.len();
                if count == 0 || kind > 6 { continue; }
                let index = &mut sick.indexes[at % count];
                match kind {
                    0 => index.valid = false,
                    1 => fragment(index, 99.0 * severity),
                    2 => index.dead_share = Reading::Known(severity),
                    3 => index.recall = Reading::Known(recall(1, severity)),
                    4 => index.recall = Reading::unknown("x"),
                    5 => index.bytes = Reading::unknown("x"),
                    _ => if let Reading::Known(structure) = &mut index.ivf {
                        structure.groups[0].skew_factor = 2.0 + 40.0 * severity;
                        drift(index, 5.0 * severity);
                    },
                }
            }
            let first = assess(&sick, &config()).unwrap();
            prop_assert_eq!(&first, &assess(&sick, &config()).unwrap());
            if let Some(lambda) = first.lambda {
                let sum: f64 = first.witness.iter().map(|edge| edge.capacity).sum();
                prop_assert!((sum - lambda).abs() < 1e-9);
                prop_assert!((0.0..=1.0 + 1e-9).contains(&lambda));
                prop_assert!(first.lambda_low.unwrap() <= lambda + 1e-9);
                prop_assert!(lambda <= first.lambda_high.unwrap() + 1e-9);
                for pair in first.components.windows(2) {
                    prop_assert!(pair[0].lambda <= pair[1].lambda + 1e-9);
                }
                for component in &first.components {
                    let sum: f64 = component.witness.iter().map(|edge| edge.capacity).sum();
                    prop_assert!((sum - component.lambda).abs() < 1e-9);
                    // The others held healthy, it hangs on no more firmly than in company.
                    let own = component_lambda(&sick, &component.nodes, &config()).unwrap().unwrap();
                    prop_assert!(own <= 1.0 + 1e-9 && own + 1e-9 >= component.lambda, "{} {:?}", own, component);
                    prop_assert!(!crate::classify::classify(component, &sick, &config()).evidence.is_empty());
                }
            }
        }
    }
}
