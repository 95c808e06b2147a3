//! From one snapshot to the stored row: the core judges, this asks it and writes down what it says.

use healing::config::Config;
use healing::engine::{self, Decision, DecisionInput, InFlight, Request};
use healing::explain;
use healing::integrity::{StateRecord, assess};
use healing::learning::Learned;
use healing::load::Usual;
use healing::snapshot::Snapshot;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::learning;
use crate::collect;
use crate::error::Error;
use crate::kept;
use crate::shown;

/// What the sample before left behind.
#[derive(Default, Deserialize)]
struct Before {
    record: Option<StateRecord>,
    usual: Option<Usual>,
    age_s: Option<f64>,
}

/// Assesses `snapshot`, advances the state machine and stores both, with an event when the state changed.
pub(super) fn store(snapshot: &Snapshot, config: &Config) -> Result<(), Error> {
    let assessment = assess(snapshot, config).map_err(|error| Error::refused(error.to_string()))?;
    let id = snapshot.collection_id;
    let now = snapshot.taken_at;
    let before: Option<Before> = collect::documents(
        "SELECT jsonb_build_object('record', i.record, 'usual', i.usual,
                'age_s', extract(epoch FROM clock_timestamp() - i.sampled_at))
           FROM ruvector.integrity i WHERE i.collection_id = $1",
        &[id.into()],
    )?
    .pop();
    let Before { record, usual, age_s } = before.unwrap_or_default();
    let record = record.unwrap_or_else(|| StateRecord::new(now));
    let usual = usual.unwrap_or_default().advance(snapshot, config, age_s.unwrap_or(0.0));
    let (record, transition) = record.advance(assessment.lambda, now, config);
    let explanation = explain::assessment(&assessment);
    let problems = shown::problems(&assessment, snapshot, config);
    let classes: Vec<String> =
        problems.iter().filter_map(|problem| problem["class"].as_str().map(str::to_owned)).collect();
    let learned = learning::learned(id)?;
    // Until λ was known once there is no state to speak of.
    let state = if record.lambda.is_some() { record.state.as_str() } else { "unknown" };
    kept::change(
        "UPDATE ruvector.integrity
            SET samples = samples + 1, sampled_at = clock_timestamp(), snapshot = $2::jsonb, record = $3, state = $4,
                lambda_cut = $5, lambda_low = $6, lambda_high = $7, witness = $8, problems = $9, explanation = $10,
                remedy = $11, usual = $12::jsonb, note = NULL
          WHERE collection_id = $1",
        &[
            id.into(),
            // As text: a tree of its values takes ten times the memory, of thousands of partitions tens of MiB.
            serde_json::to_string(snapshot)?.into(),
            JsonB(serde_json::to_value(record)?).into(),
            state.into(),
            assessment.lambda.into(),
            assessment.lambda_low.into(),
            assessment.lambda_high.into(),
            JsonB(shown::witness(&assessment).into()).into(),
            JsonB(problems.into()).into(),
            explanation.as_str().into(),
            remedy(snapshot, config, &record, &assessment, &learned).map(JsonB).into(),
            serde_json::to_string(&usual)?.into(),
        ],
    )?;
    kept::change(
        "INSERT INTO ruvector.integrity_history (collection_id, sampled_at, state, lambda_cut, lambda_low, lambda_high, problems)
         VALUES ($1, to_timestamp($2 / 1000.0), $3, $4, $5, $6, $7)
         ON CONFLICT (collection_id, sampled_at) DO NOTHING",
        &[
            id.into(),
            (now as f64).into(),
            state.into(),
            assessment.lambda.into(),
            assessment.lambda_low.into(),
            assessment.lambda_high.into(),
            classes.clone().into(),
        ],
    )?;
    if let Some(change) = transition {
        let news = json!({
            "collection": snapshot.collection,
            "from": change.from.as_str(),
            "to": change.to.as_str(),
            "lambda_cut": change.lambda,
            "problems": classes,
        });
        Spi::run_with_args("SELECT pg_notify('ruvector_integrity', $1)", &[news.to_string().into()])?;
        Spi::run_with_args(
            "INSERT INTO ruvector.integrity_events (collection_id, from_state, to_state, lambda_cut, explanation)
             VALUES ($1, $2, $3, $4, $5)",
            &[id.into(), change.from.as_str().into(), change.to.as_str().into(), change.lambda.into(), explanation.into()],
        )?;
    }
    Ok(())
}

/// What the engine would do if asked now: the plan in words and as data, or why there is none.
fn remedy(
    snapshot: &Snapshot,
    config: &Config,
    record: &StateRecord,
    assessment: &healing::integrity::Assessment,
    learned: &Learned,
) -> Option<Value> {
    if assessment.components.is_empty() {
        return None;
    }
    let decision = engine::decide(&DecisionInput {
        config,
        state: record,
        assessment,
        snapshot,
        history: &[],
        arms: &[],
        learned,
        in_flight: InFlight::default(),
        now: snapshot.taken_at,
        request: &Request::Trigger,
    });
    let (planned, refusal) = match &decision {
        Decision::Act { planned, .. } => (Some(planned), None),
        Decision::Refuse { planned, reason, detail, .. } => (planned.as_ref(), Some((reason, detail))),
    };
    let mut shown = serde_json::Map::new();
    if let Some(planned) = planned {
        shown.insert("strategy".into(), json!(planned.plan.strategy));
        shown.insert("explanation".into(), json!(explain::plan(&planned.plan)));
        shown.insert("plan".into(), json!(planned.plan));
    }
    if let Some((reason, detail)) = refusal {
        shown.insert("reason".into(), json!(reason.as_str()));
        shown.insert("detail".into(), json!(detail));
    }
    Some(shown.into())
}

/// Forgets samples, changes of state, decisions, finished batches and moved rows that are older than the settings say.
pub(super) fn forget(config: &Config) -> Result<(), Error> {
    for (table, column, days) in [
        ("integrity_history", "sampled_at", config.history_days),
        ("integrity_events", "happened_at", config.events_days),
        ("healing_decisions", "decided_at", config.events_days),
        ("healing_predictions", "predicted_at", config.events_days),
        ("healing_autonomy_moves", "moved_at", config.events_days),
        ("no_action_periods", "ended_at", config.events_days),
        ("recorded_snapshots", "taken_at", config.replay_days),
    ] {
        Spi::run_with_args(
            &format!("DELETE FROM ruvector.{table} WHERE {column} < now() - make_interval(days => $1)"),
            &[(days as i32).into()],
        )?;
    }
    Spi::run_with_args(
        "DELETE FROM ruvector.server_batches
          WHERE state IN ('done', 'rolled_back') AND noted_at < now() - make_interval(days => $1)",
        &[(config.events_days as i32).into()],
    )?;
    // What `ruvector_healing_rollback` may still ask for stays, however old: of a table that is there, every action that succeeded and
    // has a way back, since one that is taken back gives the turn to the one before it.
    Spi::run_with_args(
        "DELETE FROM ruvector.moved_rows m USING ruvector.actions a
          WHERE a.id = m.action_id AND a.ended_at < now() - make_interval(days => $1) AND NOT a.unfinished
            AND (m.undone_at IS NOT NULL OR a.status <> 'succeeded' OR NOT coalesce((a.plan ->> 'reversible')::boolean, false)
                 OR NOT EXISTS (SELECT FROM ruvector.collections c JOIN pg_class t ON t.oid = c.relation WHERE c.id = a.collection_id))",
        &[(config.events_days as i32).into()],
    )?;
    kept::change(
        "DELETE FROM ruvector.index_builds b WHERE NOT EXISTS (SELECT FROM pg_class i WHERE i.oid = b.index_id)",
        &[],
    )
}
