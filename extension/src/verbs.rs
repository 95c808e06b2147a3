//! The C functions behind what a human says of plans and actions.

use std::cell::RefCell;

use healing::engine::{Decision, Planned, Reason};
use healing::explain;
use healing::lifecycle::Status;
use healing::plan::Step;
use healing::verdict::Verdict;
use healing::verification::Verification;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::background::{self, decide};
use crate::error::Error;
use crate::functions::invalid;
use crate::{collect, shared};

/// What a reason means; NULL for one that this version does not know.
#[pg_extern(sql = false)]
fn reason(name: &str) -> Option<&'static str> {
    Reason::parse(name).map(Reason::explain)
}

/// What the engine would do now, without and with a human who asks.
#[pg_extern(sql = false)]
fn decisions(collection: i32) -> JsonB {
    let asked = || -> Result<Value, Error> {
        let collection = collect::collection(collection)?
            .ok_or_else(|| Error::refused("the collection is not registered any more"))?;
        let config = collection.config()?;
        let (automatic, trigger) = decide::preview(&collection, &config)?
            .ok_or_else(|| Error::refused("the collection was not observed yet"))?;
        Ok(json!({ "automatic": shown(automatic), "trigger": shown(trigger) }))
    };
    JsonB(asked().unwrap_or_else(|error| {
        let hint = if shared::preloaded() {
            "Try again after the next sample."
        } else {
            "Add ruvector to shared_preload_libraries and restart the server."
        };
        invalid(error.to_string(), hint.into())
    }))
}

fn shown(decision: Decision) -> Value {
    let plan = |planned: &Planned| {
        json!({
            "strategy": planned.plan.strategy,
            "problem_class": planned.problem.class.as_str(),
            "explanation": explain::plan(&planned.plan),
            "plan": planned.plan,
        })
    };
    match decision {
        Decision::Act { planned, approval, rejected, .. } => json!({
            "decision": "act",
            "planned": plan(&planned),
            "approval": approval.map(|approval| format!("waits_for_approval: {}", approval.as_str())),
            "rejected": rejected,
        }),
        Decision::Refuse { reason, detail, until, planned, rejected } => json!({
            "decision": "refuse",
            "reason": reason.as_str(),
            "detail": detail,
            "until": until,
            "planned": planned.as_ref().map(|planned| plan(planned)),
            "rejected": rejected,
        }),
    }
}

/// A row of `ruvector.actions`, with its journal.
#[derive(Deserialize)]
struct Document {
    id: i64,
    collection_name: String,
    status: String,
    request: Value,
    requested_by: String,
    requested_at: String,
    decided_at: Option<String>,
    reason: Option<String>,
    detail: Option<String>,
    approval: Option<String>,
    approved_by: Option<String>,
    approved_at: Option<String>,
    problem: Option<Value>,
    plan: Option<Value>,
    rejected: Option<Vec<Value>>,
    starts: i64,
    crashed: bool,
    unfinished: bool,
    progress: Option<String>,
    verification: Option<Value>,
    stop_reason: Option<String>,
    stop_asked_by: Option<String>,
    ended_at: Option<String>,
    lesson: Option<String>,
    error: Option<String>,
    steps: Option<Vec<Noted>>,
}

#[derive(Deserialize)]
struct Noted {
    step: Value,
    state: String,
    noted_at: String,
    sql: Option<String>,
}

/// A stored document in words, or as it is where another version wrote it.
fn in_words<T: for<'de> Deserialize<'de>>(document: &Value, words: impl FnOnce(&T) -> String) -> String {
    match serde_json::from_value(document.clone()) {
        Ok(known) => words(&known),
        Err(_) => document.to_string(),
    }
}

#[pg_extern(sql = false)]
fn explain_action(document: JsonB) -> String {
    match serde_json::from_value::<Document>(document.0) {
        Ok(action) => lines(&action).join("\n"),
        Err(error) => {
            invalid(format!("the action cannot be read: {error}"), "Another version wrote it.".into())
        }
    }
}

fn lines(action: &Document) -> Vec<String> {
    let kind = action.request["kind"].as_str().unwrap_or("automatic");
    let what = match kind {
        "execute" => format!(" {}", action.request["strategy"].as_str().unwrap_or_default()),
        "rollback" => format!(" of action {}", action.request["of"]),
        _ => String::new(),
    };
    let mut lines = vec![
        format!("Action {} on collection {}: {}.", action.id, action.collection_name, action.status),
        format!("Asked for by {} at {} ({kind}{what}).", action.requested_by, action.requested_at),
    ];
    let mut say = |word: &str, text: Option<String>| lines.extend(text.map(|text| format!("{word}: {text}")));
    say("Found", action.problem.as_ref().map(|problem| in_words(problem, explain::problem)));
    say("Planned", action.plan.as_ref().map(|plan| in_words(plan, explain::plan)));
    for rejected in action.rejected.iter().flatten() {
        let (strategy, reason) =
            (rejected["strategy"].as_str(), rejected["reason"].as_str().unwrap_or_default());
        let name = strategy.unwrap_or(rejected["problem_class"].as_str().unwrap_or_default());
        say(
            "Not taken",
            Some(format!("{name} ({reason}): {}", rejected["detail"].as_str().unwrap_or_default())),
        );
    }
    if let Some(why) = &action.approval {
        let by = match (&action.approved_by, &action.approved_at) {
            (Some(by), Some(at)) => format!("given by {by} at {at}"),
            _ => "not given".to_owned(),
        };
        say("Approval", Some(format!("needed because of {why}; {by}")));
    }
    say("Decided", action.decided_at.clone());
    for noted in action.steps.iter().flatten() {
        let step = in_words::<Step>(&noted.step, explain::step);
        let sql = noted.sql.as_ref().map_or_else(String::new, |sql| format!(": {sql}"));
        say(&format!("Step ({}, {})", noted.state, noted.noted_at), Some(format!("{step}{sql}")));
    }
    for verdict in compared(action) {
        say("Compared", Some(verdict));
    }
    say(
        "Verified",
        action.verification.as_ref().map(|found| {
            in_words::<Verification>(found, |found| {
                format!("{}: {}", if found.verified { "yes" } else { "no" }, found.reason)
            })
        }),
    );
    if let Some(why) = &action.stop_reason {
        let by = action.stop_asked_by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
        say("Stopped", Some(format!("{why}{by}")));
    }
    if action.starts > 1 || action.crashed {
        let crash = if action.crashed { ", and the server crashed meanwhile" } else { "" };
        say("Workers", Some(format!("{}{crash}", action.starts)));
    }
    say("Now", action.progress.clone());
    let reason = action.reason.as_deref().and_then(Reason::parse).map(Reason::explain);
    say("Reason", reason.map(str::to_owned));
    say("Detail", action.detail.clone());
    say("Error", action.error.clone());
    say("Lesson", action.lesson.clone());
    if action.unfinished {
        say("Unfinished", Some("it has left something that is still to be undone or dropped".to_owned()));
    }
    let over = Status::parse(&action.status).is_some_and(Status::is_terminal);
    say("Ended", action.ended_at.clone().filter(|_| over));
    lines
}

/// The verdicts that are part of the verification's journal, in words.
fn compared(action: &Document) -> Vec<String> {
    let Some(list) = action.verification.as_ref().and_then(|found| found["verdicts"].as_array().cloned())
    else {
        return vec![];
    };
    list.iter().map(|verdict| in_words::<Verdict>(verdict, explain::verdict)).collect()
}

thread_local! {
    /// Workers to be told at commit.
    static STOPS: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
    static CALLBACK_SET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Asks a worker to end when the present transaction commits.
#[pg_extern(sql = false)]
fn stop_at_commit(pid: i32) {
    if !shared::preloaded() {
        return;
    }
    STOPS.with_borrow_mut(|stops| stops.push(pid));
    if !CALLBACK_SET.replace(true) {
        // SAFETY: registered once a process, the function lives as long as the library.
        unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            // One that has ended since is not among the workers any more.
            STOPS.take().into_iter().filter(|pid| shared::is_worker(*pid)).for_each(background::terminate);
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => drop(STOPS.take()),
        _ => {}
    }
}
