//! `serve`: metrics for Prometheus, a dashboard, and a webhook. It only reads; nothing of HTTP is in the server.

mod dashboard;
mod source;
mod webhook;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::source::Source;
use crate::Call;
use crate::failure::Failure;

/// Serve /metrics for Prometheus, /healthz and a dashboard, and send events to a webhook.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address and port to listen on. What it shows is for members of ruvector_monitor: mind who can reach it.
    #[arg(long, default_value = "127.0.0.1:9188", env = "RUVECTORCTL_LISTEN")]
    listen: SocketAddr,
    /// URL that events are posted to.
    #[arg(long, env = "RUVECTORCTL_WEBHOOK_URL", requires = "webhook_secret_file")]
    webhook_url: Option<axum::http::Uri>,
    /// File with the secret that events are signed with.
    #[arg(long, env = "RUVECTORCTL_WEBHOOK_SECRET_FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// File that remembers which events were delivered; without it those during a restart of this program are lost.
    #[arg(long, env = "RUVECTORCTL_WEBHOOK_STATE_FILE")]
    webhook_state_file: Option<PathBuf>,
    /// Longest wait between two tries of one delivery.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    webhook_backoff_max: u64,
}

/// Time that a request may still take when the program is to end.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn run(call: &Call, arguments: Arguments) -> Result<(), Failure> {
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| Failure::local(format!("cannot listen on {}", arguments.listen), error))?;
    let address = listener.local_addr().map_err(|error| Failure::local("the port is not known", error))?;
    let source = Arc::new(Source::new(call.place.clone()));
    if let Some(url) = arguments.webhook_url {
        let settings = webhook::Settings {
            url,
            secret: webhook::secret(arguments.webhook_secret_file.as_deref())?,
            state_file: arguments.webhook_state_file,
            backoff_max: Duration::from_secs(arguments.webhook_backoff_max),
        };
        let sender = webhook::Sender::new(settings, source.deliveries.clone())?;
        tokio::spawn(sender.run(call.place.clone()));
    }
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .merge(dashboard::routes())
        .with_state(source);
    eprintln!("ruvectorctl: dashboard and /metrics on http://{address}/");
    let served = axum::serve(listener, routes).with_graceful_shutdown(asked_to_end());
    tokio::select! {
        result = std::future::IntoFuture::into_future(served) => {
            result.map_err(|error| Failure::local("serving failed", error))
        }
        () = async { asked_to_end().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

async fn asked_to_end() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

async fn metrics(State(source): State<Arc<Source>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], source.metrics().await)
        .into_response()
}

/// 200 while the database answers, else 503 with the reason.
async fn health(State(source): State<Arc<Source>>) -> Response {
    match source.alive().await {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")).into_response(),
    }
}
