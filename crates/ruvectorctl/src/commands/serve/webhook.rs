//! Events for a webhook, signed as the Standard Webhooks specification says: headers `webhook-id`, `webhook-timestamp` and
//! `webhook-signature`, the last being `v1,` and base64 of HMAC-SHA256 over "id.timestamp.body".
//!
//! Events are read from the tables, woken by NOTIFY and by the clock, so that none is missed while a connection is down. Each
//! has an id that never changes: a receiver that sees one twice can tell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::{Method, Request, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sha2::Sha256;

use super::source::Deliveries;
use crate::connection::{Place, Session};
use crate::failure::Failure;

/// Time between two looks when nothing is notified.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long an event is tried, and how far back events are read, in hours.
const KEPT_HOURS: i32 = 24;
/// Wait after the first failed try; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest time for one try.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);
/// Least length of a secret: that of the hash's output is what RFC 2104 advises, this is where guessing ends.
const SECRET_BYTES_MIN: usize = 16;

/// Changes of state, plans that wait for a human, and ended actions, each with its own id.
const EVENTS: &str = "
    SELECT 'integrity-' || e.id AS id, 'integrity.' || e.to_state AS type, e.happened_at AS at,
           jsonb_build_object('collection', c.name, 'from_state', e.from_state, 'to_state', e.to_state,
                              'lambda_cut', e.lambda_cut, 'explanation', e.explanation) AS data
      FROM ruvector.integrity_events e JOIN ruvector.collections c ON c.id = e.collection_id
     WHERE e.happened_at > clock_timestamp() - make_interval(hours => $1)
    UNION ALL
    SELECT 'action-' || a.id || '-awaiting_approval', 'action.awaiting_approval', a.decided_at,
           jsonb_build_object('action_id', a.id, 'collection', a.collection_name, 'strategy', a.strategy,
                              'problem_class', a.problem_class, 'approval', a.approval, 'reason', a.plan ->> 'reason')
      FROM ruvector.actions a
     WHERE a.status = 'awaiting_approval' AND a.decided_at > clock_timestamp() - make_interval(hours => $1)
    UNION ALL
    SELECT 'action-' || a.id || '-' || a.status, 'action.' || a.status, a.ended_at,
           jsonb_build_object('action_id', a.id, 'collection', a.collection_name, 'strategy', a.strategy,
                              'problem_class', a.problem_class, 'error', a.error, 'detail', a.detail, 'verified', o.verified,
                              'initial_lambda', o.initial_lambda, 'final_lambda', o.final_lambda, 'story', o.story)
      FROM ruvector.actions a LEFT JOIN ruvector.healing_outcomes o ON o.action_id = a.id
     WHERE a.ended_at > clock_timestamp() - make_interval(hours => $1)
     ORDER BY at, id";

/// What the webhook needs.
pub(super) struct Settings {
    pub(super) url: Uri,
    pub(super) secret: Vec<u8>,
    pub(super) state_file: Option<PathBuf>,
    pub(super) backoff_max: Duration,
}

/// Reads the secret: `whsec_` and base64 as the specification has it, else the text itself.
pub(super) fn secret(file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let path = file.unwrap_or(Path::new(""));
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::local(format!("the secret in {} cannot be read", path.display()), error))?;
    let text = text.trim();
    let secret = match text.strip_prefix("whsec_") {
        Some(encoded) => {
            STANDARD.decode(encoded).map_err(|error| Failure::local("the secret is not base64", error))?
        }
        None => text.as_bytes().to_vec(),
    };
    if secret.len() < SECRET_BYTES_MIN {
        return Err(Failure::usage(
            format!("the secret in {} is shorter than {SECRET_BYTES_MIN} bytes", path.display()),
            "Make one: openssl rand -base64 32".into(),
        ));
    }
    Ok(secret)
}

/// What is known of one event.
enum Mark {
    /// It was taken, or was there before us, or was given up.
    Done,
    Waits {
        tries: u32,
        next: Instant,
    },
}

/// Sends events until the program ends.
pub(super) struct Sender {
    settings: Settings,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    counts: Arc<Deliveries>,
    marks: BTreeMap<String, Mark>,
    /// Whether what is already there counts as delivered: at the first look, without a state file.
    first: bool,
}

impl Sender {
    pub(super) fn new(settings: Settings, counts: Arc<Deliveries>) -> Result<Self, Failure> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| Failure::local("the system's root certificates cannot be read", error))?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let mut sender = Self { settings, client, counts, marks: BTreeMap::new(), first: true };
        sender.restore()?;
        Ok(sender)
    }

    /// Reads which events were delivered before.
    fn restore(&mut self) -> Result<(), Failure> {
        let Some(path) = &self.settings.state_file else { return Ok(()) };
        let failed = |error: &dyn std::fmt::Display| {
            Failure::local(format!("the webhook's state in {} cannot be read", path.display()), error)
        };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let ids: Vec<String> = serde_json::from_str(&text).map_err(|error| failed(&error))?;
                self.marks = ids.into_iter().map(|id| (id, Mark::Done)).collect();
                self.first = false;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Writes it anew, whole or not at all.
    fn save(&self) {
        let Some(path) = &self.settings.state_file else { return };
        let done: Vec<&String> =
            self.marks.iter().filter(|(_, mark)| matches!(mark, Mark::Done)).map(|(id, _)| id).collect();
        let new = path.with_extension("new");
        let written = serde_json::to_vec(&done)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, path));
        if let Err(error) = written {
            eprintln!("ruvectorctl: webhook: its state cannot be written to {}: {error}", path.display());
        }
    }

    pub(super) async fn run(mut self, place: Place) {
        loop {
            let ended = match place.open().await {
                Ok(session) => self.follow(session).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = ended {
                eprintln!("ruvectorctl: webhook: {failure}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn follow(&mut self, mut session: Session) -> Result<(), Failure> {
        session.client.batch_execute("LISTEN ruvector_healing; LISTEN ruvector_integrity").await?;
        loop {
            let events = session.rows(EVENTS, &[&KEPT_HOURS]).await?;
            self.look(&events).await;
            let next = self.marks.values().filter_map(|mark| match mark {
                Mark::Waits { next, .. } => Some(next.saturating_duration_since(Instant::now())),
                Mark::Done => None,
            });
            let wait = next.min().unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
            tokio::select! {
                news = session.notifications.recv() => if news.is_none() { return Ok(()) },
                () = tokio::time::sleep(wait) => {}
            }
            // One look answers all that was notified meanwhile.
            while session.notifications.try_recv().is_ok() {}
        }
    }

    async fn look(&mut self, events: &[Value]) {
        // What has left the window is over: those not taken by then are given up.
        let present: Vec<&str> = events.iter().filter_map(|event| event["id"].as_str()).collect();
        let counts = &self.counts;
        self.marks.retain(|id, mark| {
            let kept = present.contains(&id.as_str());
            if !kept && matches!(mark, Mark::Waits { .. }) {
                eprintln!("ruvectorctl: webhook: event {id} was given up");
                counts.given_up.fetch_add(1, Ordering::Relaxed);
            }
            kept
        });
        let mut changed = self.first;
        for event in events {
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            let tries = match self.marks.get(&id) {
                None if self.first => {
                    self.marks.insert(id, Mark::Done);
                    continue;
                }
                None => 0,
                Some(Mark::Waits { tries, next }) if *next <= Instant::now() => *tries,
                Some(_) => continue,
            };
            match self.deliver(&id, event).await {
                Ok(()) => {
                    self.counts.delivered.fetch_add(1, Ordering::Relaxed);
                    self.marks.insert(id, Mark::Done);
                    changed = true;
                }
                Err(why) => {
                    self.counts.failed_tries.fetch_add(1, Ordering::Relaxed);
                    let wait = backoff(tries, self.settings.backoff_max);
                    eprintln!(
                        "ruvectorctl: webhook: event {id} was not taken: {why}; again in {} s",
                        wait.as_secs()
                    );
                    self.marks.insert(id, Mark::Waits { tries: tries + 1, next: Instant::now() + wait });
                }
            }
        }
        self.first = false;
        let waiting = self.marks.values().filter(|mark| matches!(mark, Mark::Waits { .. })).count();
        self.counts.pending.store(waiting as u64, Ordering::Relaxed);
        if changed {
            self.save();
        }
    }

    async fn deliver(&self, id: &str, event: &Value) -> Result<(), String> {
        let body =
            json!({ "type": event["type"], "timestamp": event["at"], "data": event["data"] }).to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.settings.url.clone())
            .header("content-type", "application/json")
            .header("user-agent", concat!("ruvectorctl/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signature(&self.settings.secret, id, now, &body))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        match tokio::time::timeout(TRY_TIMEOUT, self.client.request(request)).await {
            Err(_) => Err(format!("no answer within {} seconds", TRY_TIMEOUT.as_secs())),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("the answer was {}", answer.status())),
        }
    }
}

fn signature(secret: &[u8], id: &str, timestamp: u64, body: &str) -> String {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn backoff(tries: u32, longest: Duration) -> Duration {
    BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(tries)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's reference libraries.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let longest = Duration::from_secs(300);
        assert_eq!(backoff(0, longest), BACKOFF_FIRST);
        assert_eq!(backoff(3, longest), BACKOFF_FIRST * 8);
        assert_eq!(backoff(100, longest), longest);
    }
}
