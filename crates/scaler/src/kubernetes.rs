//! The scale subresource and the readiness of a workload.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v1::Scale;
use kube::api::PostParams;
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::Request;
use crate::failure::{Failure, Kind};
use crate::target::{Target, Workload};

/// Longest that one HTTP request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which a request is made again that may well succeed a moment later.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rest before the first repetition; it doubles up to a limit.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// Rest between two looks at what is ready.
const LOOK: Duration = Duration::from_secs(1);

/// Answers a request.
pub(crate) async fn answer(request: &Request) -> Result<Value, Failure> {
    let mut config = Config::infer()
        .await
        .map_err(|error| Failure::new(Kind::NoOrchestrator, format!("no Kubernetes here: {error}")))?;
    config.connect_timeout = Some(REQUEST_TIMEOUT);
    config.read_timeout = Some(REQUEST_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    // The client's own repetitions know nothing of our patience: a server that stays busy kept it for minutes.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config)
        .map_err(|error| Failure::new(Kind::NoOrchestrator, format!("no client: {error}")))?;
    let of = |target: &Target| Scaled::new(client.clone(), target, &namespace);
    match request {
        Request::Get(target) => {
            let scaled = of(target);
            let (replicas, ready) = patiently(PATIENCE, || async {
                Ok((replicas(&scaled.scale().await?), scaled.ready().await?.1))
            })
            .await?;
            Ok(json!({ "replicas": replicas, "ready": ready }))
        }
        Request::Set { target, replicas, expected } => {
            of(target).set(*replicas, *expected).await?;
            Ok(json!({ "replicas": replicas }))
        }
        Request::Wait { target, replicas, timeout } => {
            Ok(json!({ "ready": of(target).wait(*replicas, *timeout).await? }))
        }
    }
}

/// A workload on its API server.
enum Scaled {
    Deployment(Api<Deployment>, String),
    StatefulSet(Api<StatefulSet>, String),
}

fn replicas(scale: &Scale) -> i32 {
    scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

impl Scaled {
    fn new(client: Client, target: &Target, default_namespace: &str) -> Scaled {
        let namespace = target.namespace.as_deref().unwrap_or(default_namespace);
        let name = target.name.clone();
        match target.workload {
            Workload::Deployment => Scaled::Deployment(Api::namespaced(client, namespace), name),
            Workload::StatefulSet => Scaled::StatefulSet(Api::namespaced(client, namespace), name),
        }
    }

    async fn scale(&self) -> Result<Scale, Failure> {
        Ok(match self {
            Scaled::Deployment(api, name) => api.get_scale(name).await?,
            Scaled::StatefulSet(api, name) => api.get_scale(name).await?,
        })
    }

    /// Replaces the scale, which the API server refuses if it is not the one that was read (`resourceVersion`).
    async fn replace(&self, scale: &Scale) -> Result<(), Failure> {
        let how = PostParams { field_manager: Some("ruvector-scaler".into()), ..PostParams::default() };
        match self {
            Scaled::Deployment(api, name) => api.replace_scale(name, &how, scale).await?,
            Scaled::StatefulSet(api, name) => api.replace_scale(name, &how, scale).await?,
        };
        Ok(())
    }

    /// Whether what it says of itself is of the present specification, and how many of its replicas are ready.
    async fn ready(&self) -> Result<(bool, i32), Failure> {
        Ok(match self {
            Scaled::Deployment(api, name) => {
                let found = api.get(name).await?;
                let status = found.status.unwrap_or_default();
                let current = status.observed_generation >= found.metadata.generation;
                // Those of a former revision are no replicas of this one.
                let ready = status.ready_replicas.unwrap_or(0).min(status.updated_replicas.unwrap_or(0));
                (current, ready)
            }
            Scaled::StatefulSet(api, name) => {
                let found = api.get(name).await?;
                let status = found.status.unwrap_or_default();
                (status.observed_generation >= found.metadata.generation, status.ready_replicas.unwrap_or(0))
            }
        })
    }

    /// Sets the number of replicas if it is the expected one. Of a request whose answer was lost it looks what became of it:
    /// it is never made twice. A number that is so already before it has asked was somebody else's wish.
    async fn set(&self, wanted: i32, expected: i32) -> Result<(), Failure> {
        let began = Instant::now();
        let mut pause = PAUSE.0;
        let mut asked = false;
        loop {
            let mut scale = patiently(PATIENCE, || self.scale()).await?;
            let now = replicas(&scale);
            if now == wanted && asked {
                return Ok(());
            }
            if now != expected {
                let message = format!("there are {now} replicas, {expected} were expected");
                return Err(Failure::new(Kind::Conflict, message));
            }
            scale.spec.get_or_insert_default().replicas = Some(wanted);
            match self.replace(&scale).await {
                Ok(()) => return Ok(()),
                // Somebody has written to it, perhaps not the number of replicas.
                Err(failure) if failure.kind == Kind::Conflict || failure.kind.passes() => {
                    if began.elapsed() >= PATIENCE {
                        return Err(failure);
                    }
                    // Only of a request without an answer it is not known whether it was carried out.
                    asked |= failure.kind == Kind::Unreachable;
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE.1);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Waits until so many replicas are ready; how many were when the time was over.
    async fn wait(&self, wanted: i32, timeout: Duration) -> Result<i32, Failure> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (current, ready) = patiently(PATIENCE.min(left.max(LOOK)), || self.ready()).await?;
            if current && ready >= wanted {
                return Ok(ready);
            }
            // Somebody has asked for fewer: it would be waited for in vain.
            if replicas(&patiently(PATIENCE, || self.scale()).await?) < wanted {
                let message = format!("somebody has asked for fewer than {wanted} replicas meanwhile");
                return Err(Failure::new(Kind::Conflict, message));
            }
            if Instant::now() >= end {
                return Ok(ready);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Makes a request that changes nothing again while it fails in passing.
async fn patiently<T, F>(patience: Duration, mut request: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let began = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        match request().await {
            Err(failure) if failure.kind.passes() && began.elapsed() + pause < patience => {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(PAUSE.1);
            }
            result => return result,
        }
    }
}
