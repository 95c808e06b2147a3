//! The C functions behind the install script: what SQL cannot do by itself.

use healing::config::{Config, ConfigError};
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::{background, shared};

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

fn raise(error: &ConfigError) -> ! {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        error.to_string(),
        pgrx::function_name!(),
    )
    .set_hint(error.hint())
    .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}
