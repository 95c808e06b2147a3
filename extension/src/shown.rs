//! What SQL shows of an observation: the core's findings as JSON.

use healing::classify::{Problem, diagnose};
use healing::config::Config;
use healing::explain;
use healing::graph::{Condition, ContractedGraph, Edge, Held};
use healing::integrity::{Assessment, WitnessEdge};
use healing::snapshot::Snapshot;
use serde_json::{Value, json};

/// The problems of an assessment, weakest first.
pub(crate) fn problems(assessment: &Assessment, snapshot: &Snapshot, config: &Config) -> Vec<Value> {
    diagnose(assessment, snapshot, config).iter().map(problem).collect()
}

fn problem(problem: &Problem) -> Value {
    json!({
        "class": problem.class.as_str(),
        "lambda": problem.component.lambda,
        "details": problem.details(),
        "explanation": explain::problem(problem),
    })
}

/// The edges of the minimum cut.
pub(crate) fn witness(assessment: &Assessment) -> Vec<Value> {
    assessment.witness.iter().map(witness_edge).collect()
}

fn witness_edge(edge: &WitnessEdge) -> Value {
    let mut shown = condition(&edge.condition);
    shown.insert("edge_type".into(), json!(edge.kind.as_str()));
    shown.insert("from".into(), json!(edge.from_name));
    shown.insert("to".into(), json!(edge.to_name));
    shown.insert("capacity".into(), json!(edge.capacity));
    shown.insert("weight".into(), json!(edge.weight));
    shown.into()
}

/// The whole contracted graph, nodes first; of each edge whether it is in the minimum cut.
pub(crate) fn graph(assessment: &Assessment, snapshot: &Snapshot, config: &Config) -> Vec<Value> {
    let graph = ContractedGraph::build(snapshot, config, Held::Nothing);
    let nodes = graph.nodes.iter().map(|node| {
        let mut shown = condition(&node.condition);
        shown.insert("element".into(), json!("node"));
        shown.insert("type".into(), json!(node.key.kind()));
        shown.insert("name".into(), json!(node.name));
        shown.into()
    });
    let edges = graph.edges.iter().map(|edge| {
        let (from, to) = (&graph.nodes[edge.a as usize], &graph.nodes[edge.b as usize]);
        let is_cut = |cut: &WitnessEdge| {
            cut.kind == edge.kind
                && ((&cut.from, &cut.to) == (&from.key, &to.key)
                    || (&cut.from, &cut.to) == (&to.key, &from.key))
        };
        let mut shown = condition(&edge.condition);
        shown.insert("element".into(), json!("edge"));
        shown.insert("type".into(), json!(edge.kind.as_str()));
        shown.insert("name".into(), json!(from.name));
        shown.insert("to".into(), json!(to.name));
        shown.insert("weight".into(), json!(edge.weight));
        shown.insert("capacity".into(), json!(Edge::capacity(edge)));
        shown.insert("in_witness".into(), json!(assessment.witness.iter().any(is_cut)));
        shown.into()
    });
    nodes.chain(edges).collect()
}

fn condition(condition: &Condition) -> serde_json::Map<String, Value> {
    let Condition { health, low, high, cause, metric, value, unread } = condition;
    [
        ("health", json!(health)),
        ("low", json!(low)),
        ("high", json!(high)),
        ("cause", json!(cause.map(|cause| cause.as_str()))),
        ("metric", json!(metric)),
        ("value", json!(value)),
        ("unread", json!(unread)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
