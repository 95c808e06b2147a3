//! Asking an orchestrator for read replicas, through a program of its own.
//!
//! HTTP, TLS and threads stay out of a server process: `ruvector.scale_command` names a program (`ruvector-scaler` for
//! Kubernetes, any other that takes the same arguments elsewhere), which is started without a shell, with fixed arguments, an
//! environment of a few names, and answers with one JSON object on its standard output:
//!
//! ```text
//! get TARGET                         {"replicas": 2, "ready": 2}
//! set TARGET REPLICAS EXPECTED       {"replicas": 3}
//! wait TARGET REPLICAS SECONDS       {"ready": 3}
//! any of them                        {"error": "conflict", "message": "…"} and an exit status other than 0
//! ```

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use healing::plan::Step;
use healing::recovery::StepState;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Went};
use crate::background::process;
use crate::error::Error;
use crate::transaction::transaction;
use crate::{identity, journal, settings};

/// Longest that asking or setting may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Time beyond its own limit that a wait for readiness gets.
const WAIT_GRACE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read; more is no answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Rest between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(50);
/// What the program sees of the server's environment: where it runs and how to reach the orchestrator.
const ENVIRONMENT: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "KUBECONFIG",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

#[derive(Deserialize, Debug, Default)]
struct Answer {
    replicas: Option<i64>,
    ready: Option<i64>,
    error: Option<String>,
    message: Option<String>,
}

/// A program under way, ended with its group when it is given up. The kernel ends it when this process does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // It leads a group of its own: what it started ends with it.
            if let Some(group) = rustix::process::Pid::from_raw(self.0.id() as i32) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = self.0.wait();
        }
    }
}

/// What a refusal of the orchestrator begins with, and that of a request that came after somebody else's.
const SAID: &str = "the orchestrator said ";
const CONFLICT: &str = "the orchestrator said conflict";

/// Starts the program and waits for its answer.
fn call(arguments: &[&str], timeout: Duration) -> Result<Answer, Error> {
    let command = settings::scale_command()
        .ok_or_else(|| Error::refused("ruvector.scale_command is not set any more"))?;
    if !command.starts_with('/') {
        return Err(Error::refused("ruvector.scale_command is no absolute path"));
    }
    let kept = ENVIRONMENT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let mut program = Command::new(&command);
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        program.pre_exec(|| {
            Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
        });
    }
    let mut running = Running(
        program
            .args(arguments)
            .env_clear()
            .envs(kept)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| Error::refused(format!("{command} could not be started: {error}")))?,
    );
    let end = Instant::now() + timeout;
    let status = loop {
        match running.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() >= end => {
                return Err(Error::refused(format!("{command} gave no answer in {} s", timeout.as_secs())));
            }
            Ok(None) => process::pause(LOOK),
            Err(error) => return Err(Error::refused(format!("{command} was lost: {error}"))),
        }
    };
    let mut text = String::new();
    if let Some(stdout) = running.0.stdout.take() {
        // An answer is far smaller than a pipe: it was written before the program ended. What that has left running may keep the
        // pipe open for ever, and is not waited for.
        let unread = |error: std::io::Error| {
            Error::refused(format!("the answer of {command} cannot be read: {error}"))
        };
        rustix::io::ioctl_fionbio(&stdout, true).map_err(|error| unread(error.into()))?;
        let mut answer = Vec::new();
        match stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut answer) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(unread(error)),
            _ => text = String::from_utf8_lossy(&answer).into_owned(),
        }
    }
    let answer: Option<Answer> = serde_json::from_str(text.trim()).ok();
    match answer {
        Some(Answer { error: Some(error), message, .. }) => {
            let message = message.map_or_else(String::new, |message| format!(": {message}"));
            Err(Error::refused(format!("{SAID}{error}{message}")))
        }
        Some(answer) if status.success() => Ok(answer),
        _ => Err(Error::refused(format!(
            "{command} {} ended with {status} and no answer",
            arguments.join(" ")
        ))),
    }
}

fn replicas(target: &str) -> Result<i64, Error> {
    call(&["get", target], CALL_TIMEOUT)?
        .replicas
        .filter(|count| *count >= 0)
        .ok_or_else(|| Error::refused("the orchestrator did not say how many replicas there are"))
}

/// What scaling would start, before the present number is known.
pub(super) fn sql(target: &str, max_replicas: i64) -> String {
    format!(
        "ruvector.scale_command set {target} $1 $2 /* half as many again as the present $2, {max_replicas} at most */"
    )
}

/// What is started to have so many replicas where there are so many now, for the journal: no SQL, and no shell either. Where the
/// program lies only superusers see.
fn words(target: &str, wanted: i64, present: i64) -> String {
    format!("ruvector.scale_command set {target} {wanted} {present}")
}

/// Half as many again, rounded up, as far as allowed.
pub(super) fn up(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    target: &str,
    max_replicas: i64,
    ready_timeout_s: i64,
) -> Result<Went, Error> {
    transaction(|| identity::check(context.collection.id))?;
    let previous = replicas(target)?;
    let Some(new) = healing::scaling::new_count(previous, max_replicas) else {
        return Ok(Went::Noop(format!("{target} has {previous} replicas, max_replicas is {max_replicas}")));
    };
    let figures = json!({ "previous_replicas": previous, "new_replicas": new });
    context.intend(step_no, step, || {
        let details = json!({
            "previous_replicas": previous,
            "new_replicas": new,
            (journal::FIGURES): figures,
            (journal::SQL): words(target, new, previous),
            (journal::INVERSE): words(target, previous, new),
        });
        Ok(((), details))
    })?;
    if let Err(error) = call(&["set", target, &new.to_string(), &previous.to_string()], CALL_TIMEOUT) {
        // The number that somebody else has asked for, be it the same, is theirs: nothing of ours is to be taken back.
        if matches!(&error, Error::Refused(why) if why.starts_with(CONFLICT)) {
            transaction(|| {
                context.note(step_no, step, StepState::Undone, json!({ "kept": error.to_string() }))
            })?;
        }
        return Err(error);
    }
    let wait = Duration::from_secs(ready_timeout_s as u64) + WAIT_GRACE;
    let ready = call(&["wait", target, &new.to_string(), &ready_timeout_s.to_string()], wait)?.ready;
    if ready.is_none_or(|ready| ready < new) {
        return Err(Error::refused(format!(
            "{} of {new} replicas of {target} became ready",
            ready.unwrap_or(0)
        )));
    }
    context.done(step_no, step, json!({ "ready": true }))?;
    Ok(Went::Done)
}

/// The former number again, if the present one is the one that was asked for: what somebody else has asked for since is
/// theirs.
pub(super) fn revert(context: &Context<'_>, target: &str, details: &Value) -> Result<Value, Error> {
    let noted = |name: &str| details.get(name).and_then(Value::as_i64);
    let (Some(previous), Some(new)) = (noted("previous_replicas"), noted("new_replicas")) else {
        return Ok(json!({}));
    };
    transaction(|| identity::check(context.collection.id))?;
    let now = replicas(target)?;
    if now == new {
        call(&["set", target, &previous.to_string(), &new.to_string()], CALL_TIMEOUT)?;
        return Ok(json!({ (journal::SQL): words(target, previous, new) }));
    }
    Ok(match now == previous {
        true => json!({}),
        false => json!({ "kept": format!("somebody has asked for {now} replicas meanwhile") }),
    })
}
