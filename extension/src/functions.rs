//! The C functions behind the install script: what SQL cannot do by itself.

use healing::config::{Config, ConfigError};
use healing::engine::{self, Decision, DecisionInput, InFlight, Reason, Request};
use healing::integrity::{StateRecord, assess};
use healing::remedies::{self, Params};
use healing::snapshot::Snapshot;
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::{background, collect, settings, shared};

#[pg_extern(sql = false)]
fn wake() {
    background::wake_healer_at_commit();
}

/// NULL when this server can heal; else what is missing.
#[pg_extern(sql = false)]
fn not_ready() -> Option<&'static str> {
    (!shared::preloaded()).then_some("the library ruvector is not preloaded")
}

#[pg_extern(sql = false)]
fn effective_settings(server: JsonB, collection: JsonB) -> JsonB {
    match Config::layered(&server.0, &collection.0) {
        Ok(config) => JsonB(config.effective()),
        Err(error) => raise(&error),
    }
}

/// `layer` with `patch` applied; both are checked.
#[pg_extern(sql = false)]
fn patched_settings(layer: JsonB, patch: JsonB) -> JsonB {
    let base = Config::layered(&layer.0, &serde_json::json!({})).unwrap_or_else(|error| raise(&error));
    if let Err(error) = base.apply(&patch.0) {
        raise(&error);
    }
    let mut merged = layer.0;
    if let (Some(into), Some(from)) = (merged.as_object_mut(), patch.0.as_object()) {
        into.extend(from.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    JsonB(merged)
}

#[pg_extern(sql = false)]
fn enabled() -> bool {
    settings::enabled()
}

#[pg_extern(sql = false)]
fn strategies() -> Vec<&'static str> {
    remedies::ALL.iter().map(|remedy| remedy.name()).collect()
}

#[pg_extern(sql = false)]
fn check_params(strategy: &str, params: JsonB) {
    if let Err(error) = Params::parse(strategy, &params.0) {
        invalid(error.to_string(), error.hint());
    }
}

/// What `strategy` would do, judged by the healer's last observation.
#[pg_extern(sql = false)]
fn plan(server: JsonB, collection: JsonB, snapshot: JsonB, strategy: &str, params: JsonB) -> JsonB {
    let config = Config::layered(&server.0, &collection.0).unwrap_or_else(|error| raise(&error));
    let snapshot: Snapshot = serde_json::from_value(snapshot.0)
        .unwrap_or_else(|error| invalid(error.to_string(), "Wait for the next sample.".into()));
    let assessment = assess(&snapshot, &config)
        .unwrap_or_else(|error| invalid(error.to_string(), "Wait for the next sample.".into()));
    let decision = engine::decide(&DecisionInput {
        config: &config,
        state: &StateRecord::new(snapshot.taken_at),
        assessment: &assessment,
        snapshot: &snapshot,
        history: &[],
        arms: &[],
        in_flight: InFlight::default(),
        now: collect::now_ms(),
        request: &Request::Execute { strategy: strategy.to_owned(), params: params.0 },
    });
    match decision {
        Decision::Act { planned, .. } => JsonB(serde_json::json!({
            "explanation": healing::explain::plan(&planned.plan),
            "problem": planned.problem.class.as_str(),
            "plan": planned.plan,
        })),
        Decision::Refuse { reason, detail, .. } => {
            let detail = detail.strip_prefix(&format!("{strategy}: ")).unwrap_or(&detail);
            let hint = match reason {
                Reason::NotApplicable => {
                    "ruvector_index_health() shows each index with what was measured of it."
                }
                _ => reason.explain(),
            };
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{strategy} would do nothing: {detail}"),
                pgrx::function_name!(),
            )
            .set_hint(hint)
            .report(PgLogLevel::ERROR);
            unreachable!("an ERROR does not return")
        }
    }
}

fn raise(error: &ConfigError) -> ! {
    invalid(error.to_string(), error.hint())
}

fn invalid(message: String, hint: String) -> ! {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message, pgrx::function_name!())
        .set_hint(hint)
        .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}
