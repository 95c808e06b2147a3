//! Where what is served comes from: one session, opened again after an outage, and the last good metrics.

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;

use crate::connection::{Place, Session};
use crate::failure::Failure;

/// Longest time for one answer of the database; Prometheus itself gives up after ten seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// What became of events for the webhook.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    pub(super) delivered: AtomicU64,
    pub(super) failed_tries: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) pending: AtomicU64,
}

/// The database as `serve` sees it.
pub(super) struct Source {
    place: Place,
    session: Mutex<Option<Arc<Session>>>,
    good: Mutex<Option<(String, SystemTime)>>,
    pub(super) deliveries: Arc<Deliveries>,
}

impl Source {
    pub(super) fn new(place: Place) -> Self {
        Self { place, session: Mutex::default(), good: Mutex::default(), deliveries: Arc::default() }
    }

    async fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut held = self.session.lock().await;
        match held.as_ref().filter(|session| !session.client.is_closed()) {
            Some(session) => Ok(session.clone()),
            None => {
                let session = Arc::new(self.place.open().await?);
                let limit = format!("SET statement_timeout = {}", ANSWER_TIMEOUT.as_millis());
                session.client.batch_execute(&limit).await?;
                *held = Some(session.clone());
                Ok(session)
            }
        }
    }

    /// Asks the database, for no longer than a caller waits.
    pub(super) async fn ask<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        question: impl FnOnce(Arc<Session>) -> F,
    ) -> Result<T, Failure> {
        let asked = async { question(self.session().await?).await };
        match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                // A server that hangs is not asked over the same session again.
                if let Ok(mut held) = self.session.try_lock() {
                    *held = None;
                }
                Err(Failure::Connection {
                    message: format!("no answer within {} seconds", ANSWER_TIMEOUT.as_secs()),
                    hint: "Look at the server's load and locks.".into(),
                })
            }
        }
    }

    pub(super) async fn alive(&self) -> Result<(), Failure> {
        self.ask(|session| async move { Ok(session.client.batch_execute("SELECT 1").await?) }).await
    }

    /// The metrics as SQL renders them, the last good ones during an outage, and our own.
    pub(super) async fn metrics(&self) -> String {
        let fresh = self
            .ask(|session| async move {
                let row = session.client.query_one("SELECT ruvector_healing_metrics()", &[]).await?;
                Ok(row.get::<_, String>(0))
            })
            .await;
        let mut good = self.good.lock().await;
        let up = match fresh {
            Ok(text) => {
                *good = Some((text, SystemTime::now()));
                true
            }
            Err(failure) => {
                eprintln!("ruvectorctl: metrics: {failure}");
                false
            }
        };
        let mut text = good.as_ref().map(|(text, _)| text.clone()).unwrap_or_default();
        let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
            // Writing to a String does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        gauge(
            "ruvector_up",
            "gauge",
            "Whether the database answered this scrape; 0: the values above are the last good ones.",
            f64::from(up),
        );
        if let Some((_, at)) = good.as_ref() {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let help = "When the database last answered a scrape.";
            gauge("ruvector_last_success_timestamp_seconds", "gauge", help, (at * 1000.0).round() / 1000.0);
        }
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed) as f64;
        let sent = &self.deliveries;
        gauge(
            "ruvector_webhook_delivered_total",
            "counter",
            "Events that the webhook took.",
            count(&sent.delivered),
        );
        gauge(
            "ruvector_webhook_failed_tries_total",
            "counter",
            "Tries to deliver an event that failed.",
            count(&sent.failed_tries),
        );
        gauge(
            "ruvector_webhook_given_up_total",
            "counter",
            "Events given up after a day of tries.",
            count(&sent.given_up),
        );
        gauge("ruvector_webhook_pending", "gauge", "Events that wait to be delivered.", count(&sent.pending));
        text
    }
}
