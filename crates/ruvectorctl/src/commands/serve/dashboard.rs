//! The dashboard: one page, its style and its script, and the documents that it reads.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::source::Source;
use crate::commands::{action, status};
use crate::failure::Failure;

const PAGE: &str = include_str!("dashboard/index.html");
const STYLE: &str = include_str!("dashboard/style.css");
const SCRIPT: &str = include_str!("dashboard/app.js");

/// Nothing but what this server itself sends is loaded or run.
const POLICY: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// Most points of λ that are sent: more than a screen has columns for.
const POINTS_MAX: i64 = 1200;

pub(super) fn routes() -> Router<Arc<Source>> {
    Router::new()
        .route("/", get(|| file("text/html; charset=utf-8", PAGE)))
        .route("/style.css", get(|| file("text/css; charset=utf-8", STYLE)))
        .route("/app.js", get(|| file("text/javascript; charset=utf-8", SCRIPT)))
        .route("/api/status", get(server_status))
        .route("/api/collection", get(collection))
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    (POLICY, [(header::CONTENT_TYPE, kind)], text).into_response()
}

fn answer(result: Result<Value, Failure>) -> Response {
    match result {
        Ok(document) => (POLICY, Json(document)).into_response(),
        Err(failure) => {
            let status = match failure.sqlstate() {
                // undefined_object: there is no such collection.
                Some("42704") => StatusCode::NOT_FOUND,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, POLICY, Json(failure.json())).into_response()
        }
    }
}

/// Every collection, each with its λ of the last day, the lowest of each minute.
async fn server_status(State(source): State<Arc<Source>>) -> Response {
    let asked = source.ask(|session| async move {
        let mut document = status::document(&session).await?;
        document["lambda"] = session
            .row(
                "SELECT jsonb_object_agg(k.name, k.points) AS all FROM (
                     SELECT c.name, jsonb_agg(jsonb_build_array(h.at, h.lambda) ORDER BY h.at) AS points
                       FROM ruvector.collections c
                      CROSS JOIN LATERAL (
                            SELECT floor(extract(epoch FROM h.sampled_at) / 60) * 60 AS at, min(h.lambda_cut) AS lambda
                              FROM ruvector.integrity_history h
                             WHERE h.collection_id = c.id AND h.sampled_at > now() - interval '24 hours'
                               AND h.lambda_cut IS NOT NULL
                             GROUP BY 1) h
                      GROUP BY c.name) k",
                &[],
            )
            .await?["all"]
            .take();
        Ok(document)
    });
    answer(asked.await)
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    /// Hours of λ.
    hours: Option<f64>,
}

/// All of one collection.
async fn collection(State(source): State<Arc<Source>>, Query(wanted): Query<Wanted>) -> Response {
    let asked = source.ask(|session| async move {
        let name = &wanted.name;
        let hours = wanted.hours.filter(|hours| hours.is_finite()).unwrap_or(1.0).clamp(0.05, 24.0 * 365.0);
        // The lowest λ of each slice of time: a short dip must not be lost in a long picture.
        let lambda = session
            .row(
                "SELECT jsonb_agg(jsonb_build_array(k.at, k.lambda, k.state) ORDER BY k.at) AS points FROM (
                     SELECT max(extract(epoch FROM h.sampled_at))::float8 AS at, min(h.lambda_cut) AS lambda,
                            (array_agg(h.state ORDER BY h.lambda_cut))[1] AS state
                       FROM ruvector_integrity_history($1, now() - make_interval(secs => $2::float8 * 3600)) h
                      WHERE h.lambda_cut IS NOT NULL
                      GROUP BY floor(extract(epoch FROM h.sampled_at) / greatest($2::float8 * 3600 / $3::float8, 0.001))) k",
                &[name, &hours, &(POINTS_MAX as f64)],
            )
            .await?;
        let explanation = session.row("SELECT ruvector_integrity_explain($1) AS text", &[name]).await?;
        Ok(json!({
            "name": name,
            "hours": hours,
            "lambda": lambda["points"],
            "explanation": explanation["text"],
            "witness": session.rows("SELECT * FROM ruvector_integrity_witness($1)", &[name]).await?,
            "graph": session.rows("SELECT * FROM ruvector_integrity_graph($1)", &[name]).await?,
            "recall": session.rows("SELECT * FROM ruvector_recall($1)", &[name]).await?,
            "history": session.rows(
                "SELECT h.action_id, h.strategy, h.problem_class, h.status, h.started_at, h.completed_at, h.story,
                        h.initial_lambda, h.final_lambda,
                        extract(epoch FROM h.started_at)::float8 AS started, extract(epoch FROM h.completed_at)::float8 AS ended
                   FROM ruvector_healing_history(now() - interval '30 days', 500) h WHERE h.collection = $1 LIMIT 20",
                &[name],
            ).await?,
            "settings": session.row(status::SETTINGS, &[name]).await?["s"].take(),
            "action": session.row(action::UNDER_WAY, &[name]).await?,
        }))
    });
    answer(asked.await)
}
