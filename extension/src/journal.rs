//! Actions and their journal in tables. A step's intent is committed before its effect, so that after any crash the
//! next worker knows what may have happened.

use healing::classify::Problem;
use healing::graph::NodeKey;
use healing::learning::Context;
use healing::lifecycle::{Lesson, Status};
use healing::plan::{Plan, Step};
use healing::recovery::{self, Gone, JournalEntry, StepState, StopReason};
use healing::snapshot::{Oid, Snapshot};
use healing::verdict::Verdict;
use healing::verification::Verification;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::audit::{self, Happened};
use crate::collect;
use crate::error::Error;

/// An action that was decided, as stored.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Action {
    pub(crate) id: i64,
    pub(crate) collection_id: i32,
    pub(crate) status: Status,
    pub(crate) problem: Problem,
    pub(crate) plan: Plan,
    pub(crate) before: Snapshot,
    /// The verdict to keep is recorded.
    pub(crate) keep: bool,
    pub(crate) verification: Option<Verification>,
    /// Why the healer stopped its worker.
    pub(crate) stop_reason: Option<StopReason>,
    /// The server crashed while it had a worker.
    pub(crate) crashed: bool,
    /// It has ended, and left something.
    pub(crate) unfinished: bool,
    /// The earlier action that this one takes back.
    pub(crate) takes_back: Option<i64>,
    /// The postmaster was started since the action began.
    restarted: bool,
}

impl Action {
    /// Why it has no worker any more although it is not over.
    pub(crate) fn gone(&self) -> Gone {
        Gone::of(self.stop_reason, self.crashed, self.restarted)
    }
}

/// Notes that a worker has an action now, and whether the server crashed while one before it had it.
pub(crate) fn worker_begins(id: i64) -> Result<(), Error> {
    Spi::run_with_args(
        "UPDATE ruvector.actions a SET crashed = true
          WHERE a.id = $1 AND a.status <> 'approved' AND NOT EXISTS (SELECT FROM ruvector.in_flight f WHERE f.action_id = a.id)",
        &[id.into()],
    )?;
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.in_flight SELECT a.id FROM ruvector.actions a WHERE a.id = $1 ON CONFLICT DO NOTHING",
        &[id.into()],
    )?)
}

/// The action of this number, if it was decided to act.
pub(crate) fn load(id: i64) -> Result<Option<Action>, Error> {
    Ok(collect::documents(
        "SELECT jsonb_build_object('id', a.id, 'collection_id', a.collection_id, 'status', a.status,
                'problem', a.problem, 'plan', a.plan, 'before', a.before, 'keep', a.keep,
                'verification', a.verification, 'stop_reason', a.stop_reason, 'crashed', a.crashed,
                'unfinished', a.unfinished,
                'takes_back', CASE a.request ->> 'kind' WHEN 'rollback' THEN (a.request ->> 'of')::bigint END,
                'restarted', coalesce(pg_postmaster_start_time() > a.started_at, false))
           FROM ruvector.actions a WHERE a.id = $1 AND a.plan IS NOT NULL",
        &[id.into()],
    )?
    .pop())
}

/// Moves an action to another status; the move must be one of the table's and start where the action stands.
pub(crate) fn advance(id: i64, from: Status, to: Status) -> Result<(), Error> {
    from.advance(to).map_err(|error| Error::refused(error.to_string()))?;
    let moved = Spi::get_one_with_args::<bool>(
        "WITH moved AS (
             UPDATE ruvector.actions
                SET status = $3,
                    started_at = CASE WHEN $3 = 'executing' THEN clock_timestamp() ELSE started_at END
              WHERE id = $1 AND status = $2 RETURNING 1)
         SELECT EXISTS (SELECT FROM moved)",
        &[id.into(), from.as_str().into(), to.as_str().into()],
    )?;
    match moved {
        Some(true) => Ok(()),
        _ => Err(Error::refused(format!("action {id} is no longer {}", from.as_str()))),
    }
}

/// What it is judged against is what was there when it began, not when it was planned: a human may have approved it a day later,
/// when everything had changed by itself.
pub(crate) fn begin_from_what_is_seen_now(id: i64) -> Result<(), Error> {
    Ok(Spi::run_with_args(
        "UPDATE ruvector.actions a SET before = i.snapshot, initial_lambda = i.lambda_cut FROM ruvector.integrity i
          WHERE a.id = $1 AND i.collection_id = a.collection_id AND a.before IS NOT NULL AND i.lambda_cut IS NOT NULL
            AND (i.snapshot ->> 'taken_at')::bigint > (a.before ->> 'taken_at')::bigint",
        &[id.into()],
    )?)
}

/// Gives the action this long, from now.
pub(crate) fn set_deadline(id: i64, seconds: f64) -> Result<(), Error> {
    Ok(Spi::run_with_args(
        "UPDATE ruvector.actions SET deadline = clock_timestamp() + make_interval(secs => $2) WHERE id = $1",
        &[id.into(), seconds.into()],
    )?)
}

/// What the action does now, for those who watch.
pub(crate) fn progress(id: i64, text: &str) -> Result<(), Error> {
    Ok(Spi::run_with_args(
        "UPDATE ruvector.actions SET progress = $2 WHERE id = $1",
        &[id.into(), text.into()],
    )?)
}

/// Whether a worker may go on with what another left complete: one may.
pub(crate) fn resume(id: i64) -> Result<bool, Error> {
    let first = Spi::get_one_with_args::<bool>(
        "WITH first AS (UPDATE ruvector.actions SET resumed = true WHERE id = $1 AND NOT resumed RETURNING 1)
         SELECT EXISTS (SELECT FROM first)",
        &[id.into()],
    )?;
    Ok(first == Some(true))
}

/// Whether an action on the collection has ended and left something.
pub(crate) fn unfinished(collection: i32) -> Result<u32, Error> {
    let left: Vec<u32> = collect::documents(
        "SELECT to_jsonb(count(*)) FROM ruvector.actions WHERE collection_id = $1 AND unfinished",
        &[collection.into()],
    )?;
    Ok(left.into_iter().sum())
}

/// Records the verdict to keep what was done: from here on recovery finishes, before it undoes. Refused when somebody
/// has asked for a stop: one of the two is first, and that one counts.
pub(crate) fn keep(id: i64, verification: &Verification) -> Result<(), Error> {
    let kept = Spi::get_one_with_args::<bool>(
        "WITH kept AS (
             UPDATE ruvector.actions SET verification = $2, keep = true
              WHERE id = $1 AND stop_reason IS NULL RETURNING 1)
         SELECT EXISTS (SELECT FROM kept)",
        &[id.into(), JsonB(serde_json::to_value(verification)?).into()],
    )?;
    match kept {
        Some(true) => audit::note(&Happened {
            event: "verified",
            action_id: Some(id),
            details: json!({ "reason": verification.reason, "lambda_before": verification.lambda_before,
                             "lambda_after": verification.lambda_after }),
            ..Happened::default()
        }),
        _ => Err(Error::refused("it was asked to stop before the verdict was recorded")),
    }
}

/// The audit log's word of an end.
fn ended(id: i64, status: Status, why: &str) -> Result<(), Error> {
    audit::note(&Happened {
        event: "ended",
        action_id: Some(id),
        details: json!({ "status": status.as_str(), "why": why }),
        ..Happened::default()
    })
}

/// Ends an action that was approved and never began.
pub(crate) fn give_up(id: i64, status: Status, why: &str) -> Result<(), Error> {
    ended(id, status, why)?;
    Spi::run_with_args("DELETE FROM ruvector.in_flight WHERE action_id = $1", &[id.into()])?;
    Ok(Spi::run_with_args(
        "UPDATE ruvector.actions SET status = $3, ended_at = clock_timestamp(), detail = $2
          WHERE id = $1 AND status = 'approved'",
        &[id.into(), why.into(), status.as_str().into()],
    )?)
}

/// Notes that a worker was started for an action.
pub(crate) fn started(id: i64) -> Result<(), Error> {
    Ok(Spi::run_with_args(
        "UPDATE ruvector.actions SET starts = starts + 1, last_start = clock_timestamp() WHERE id = $1",
        &[id.into()],
    )?)
}

/// Appends to the journal.
pub(crate) fn note(
    id: i64,
    step_no: u32,
    step: &Step,
    state: StepState,
    details: Value,
) -> Result<(), Error> {
    let state_name = serde_json::to_value(state)?;
    // The executor notes the exact SQL and its inverse under these names.
    let text = |name: &str| details.get(name).and_then(Value::as_str);
    audit::note(&Happened {
        event: "step",
        action_id: Some(id),
        statement: text(SQL),
        inverse: text(INVERSE),
        details: json!({ "step_no": step_no, "step": step, "state": state_name, "in_words": healing::explain::step(step) }),
        ..Happened::default()
    })?;
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.action_steps (action_id, step_no, step, state, details) VALUES ($1, $2, $3, $4, $5)",
        &[
            id.into(),
            (step_no as i32).into(),
            JsonB(serde_json::to_value(step)?).into(),
            state_name.as_str().unwrap_or_default().into(),
            JsonB(details).into(),
        ],
    )?)
}

/// The whole journal of an action, oldest first.
pub(crate) fn entries(id: i64) -> Result<Vec<JournalEntry>, Error> {
    collect::documents(
        "SELECT jsonb_build_object('step_no', s.step_no, 'step', s.step, 'state', s.state, 'details', s.details)
           FROM ruvector.action_steps s WHERE s.action_id = $1 ORDER BY s.id",
        &[id.into()],
    )
}

/// Whether an action has moved rows, of which some may have been moved back.
pub(crate) fn has_moved_rows(id: i64) -> Result<bool, Error> {
    let query = "SELECT EXISTS (SELECT FROM ruvector.moved_rows WHERE action_id = $1)";
    Ok(Spi::get_one_with_args(query, &[id.into()])? == Some(true))
}

/// Name under which a step notes figures for the outcome.
pub(crate) const FIGURES: &str = "figures";

/// What the steps noted for the outcome, the later ones in place of the earlier.
fn figures(entries: &[JournalEntry]) -> Value {
    let noted = entries.iter().filter_map(|entry| entry.details.get(FIGURES)?.as_object());
    Value::Object(noted.flatten().map(|(name, value)| (name.clone(), value.clone())).collect())
}
/// The search effort that an action which takes another back is to give the index in this one's place: None when it takes
/// none back.
pub(crate) fn effort_given_back(id: i64, of: u32) -> Result<Option<Option<i32>>, Error> {
    let noted = Spi::get_one_with_args::<JsonB>(
        "SELECT (SELECT a.plan #> ARRAY['params', 'efforts', $2] FROM ruvector.actions a WHERE a.id = $1 AND a.strategy = $3)",
        &[id.into(), of.to_string().into(), healing::rollback::STRATEGY.into()],
    )?;
    Ok(noted.map(|JsonB(effort)| effort.as_i64().map(|effort| effort as i32)))
}

/// Names under which a step's exact SQL and the SQL that takes it back are noted.
pub(crate) const SQL: &str = "sql";
pub(crate) const INVERSE: &str = "inverse";

/// Name under which a comparison's verdict is noted.
pub(crate) const VERDICT: &str = "verdict";

/// The verdicts of the comparisons that were made, in order.
pub(crate) fn verdicts(entries: &[JournalEntry]) -> Vec<Verdict> {
    let notes = entries.iter().filter_map(|entry| entry.details.get(VERDICT));
    notes.filter_map(|note| serde_json::from_value(note.clone()).ok()).collect()
}

/// One line a step: what was done, and how long it took.
pub(crate) fn steps_in_words(id: i64) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Row {
        step: Step,
        state: StepState,
        seconds: Option<f64>,
    }
    let rows: Vec<Row> = collect::documents(
        "SELECT jsonb_build_object('step', last.step, 'state', last.state,
                'seconds', extract(epoch FROM last.noted_at - first.noted_at))
           FROM (SELECT DISTINCT ON (step_no) * FROM ruvector.action_steps WHERE action_id = $1 ORDER BY step_no, id DESC) last
           JOIN (SELECT DISTINCT ON (step_no) * FROM ruvector.action_steps WHERE action_id = $1 ORDER BY step_no, id) first
                USING (step_no)
          ORDER BY step_no",
        &[id.into()],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let state = match row.state {
                StepState::Done => "",
                StepState::Undone => " (undone)",
                StepState::Failed => " (failed)",
                StepState::Intent => " (interrupted)",
            };
            let seconds = row.seconds.map_or_else(String::new, |seconds| format!(", {seconds:.1} s"));
            format!("{}{state}{seconds}", healing::explain::step(&row.step))
        })
        .collect())
}

/// How an action ended.
pub(crate) struct Ending<'a> {
    pub(crate) status: Status,
    pub(crate) lesson: Lesson,
    pub(crate) verification: Option<&'a Verification>,
    pub(crate) error: Option<&'a str>,
    /// λ of the whole collection at the end.
    pub(crate) final_lambda: Option<f64>,
    pub(crate) story: &'a str,
    pub(crate) system_metrics: Value,
}

/// Ends an action and writes its outcome, in the caller's transaction.
pub(crate) fn end(action: &Action, ending: &Ending<'_>) -> Result<(), Error> {
    let Action { id, problem, .. } = action;
    let Ending { status, lesson, verification, error, final_lambda, story, .. } = *ending;
    Spi::run_with_args("DELETE FROM ruvector.in_flight WHERE action_id = $1", &[(*id).into()])?;
    let noted = entries(*id)?;
    let left = !recovery::resolve(&action.plan, &noted, status == Status::Succeeded).is_empty();
    Spi::run_with_args(
        "UPDATE ruvector.actions SET ended_at = clock_timestamp(), error = $2, verification = coalesce($3, verification),
                progress = NULL, lesson = $4, unfinished = $5, retry_at = to_timestamp($6 / 1000.0) WHERE id = $1",
        &[
            (*id).into(),
            error.into(),
            verification.map(serde_json::to_value).transpose()?.map(JsonB).into(),
            lesson.as_str().into(),
            left.into(),
            left.then(|| recovery::retry_at(0, collect::now_ms())).into(),
        ],
    )?;
    advance(*id, action.status, status)?;
    ended(*id, status, error.unwrap_or_default())?;
    if let (Some(of), Status::Succeeded) = (action.takes_back, status) {
        advance(of, Status::Succeeded, Status::RolledBack)?;
        ended(of, Status::RolledBack, &format!("taken back by action {id}"))?;
    }
    let success = status == Status::Succeeded;
    // What it was to do, with which parameters, beside what was asked for and what the steps noted.
    let mut figures = figures(&noted);
    figures["steps"] = serde_json::to_value(&action.plan.steps)?;
    Spi::run_with_args(
        "INSERT INTO ruvector.healing_outcomes (collection_id, problem_class, problem_details, strategy_name, strategy_params,
                started_at, completed_at, duration_ms, success, verified, actions_taken, improvement_pct, error_message,
                initial_lambda, final_lambda, witness_edges, system_metrics, action_id, status, story, index_kind, tenant_id)
         SELECT a.collection_id, a.problem_class, $2, a.strategy,
                nullif(coalesce(nullif(a.request -> 'params', 'null'), '{}') || coalesce(nullif(a.plan -> 'params', 'null'), '{}') || $15, '{}'),
                coalesce(a.started_at, a.decided_at), a.ended_at,
                least(extract(epoch FROM a.ended_at - coalesce(a.started_at, a.decided_at)) * 1000, 2147483647), $3, $4,
                (SELECT count(DISTINCT s.step_no) FROM ruvector.action_steps s WHERE s.action_id = a.id AND s.state = 'done'),
                $5, $6, coalesce(a.initial_lambda, $7), $8, $9, $10, a.id, $11, $12, $13, $14
           FROM ruvector.actions a WHERE a.id = $1",
        &[
            (*id).into(),
            JsonB(problem.details()).into(),
            success.into(),
            verification.map(|verification| verification.verified).into(),
            verification.and_then(|verification| verification.improvement_pct).into(),
            error.into(),
            problem.component.lambda.into(),
            final_lambda.into(),
            JsonB(serde_json::to_value(&problem.component.witness)?).into(),
            JsonB(ending.system_metrics.clone()).into(),
            status.as_str().into(),
            story.into(),
            Context::of(problem, &action.before).index_kind.into(),
            tenant(problem)?.into(),
            JsonB(figures).into(),
        ],
    )?;
    Ok(())
}

/// The tenant whose problem it is: the one value of a list partition, when the problem is that partition's alone. In a
/// managed collection that value is our own routing key, which is nobody's.
fn tenant(problem: &Problem) -> Result<Option<String>, Error> {
    let of = |node: &NodeKey| match node {
        NodeKey::Partition { oid } => Some(*oid),
        other => other.index().map(|(partition, _)| partition),
    };
    let mut partitions: Vec<Oid> = problem.component.nodes.iter().filter_map(of).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let [partition] = partitions[..] else { return Ok(None) };
    Ok(Spi::get_one_with_args(
        r"SELECT max(coalesce(replace(v.value[1], '''''', ''''), nullif(v.value[2], 'NULL')))
            FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
            JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent AND p.partstrat = 'l' AND p.partnatts = 1
            LEFT JOIN pg_catalog.pg_attribute k ON k.attrelid = p.partrelid AND k.attnum = p.partattrs[0]
           CROSS JOIN LATERAL (SELECT pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid),
                    '^FOR VALUES IN \((?:''((?:[^'']|'''')*)''|([^'',]+))\)$') AS value) v
           WHERE c.oid = $1 AND k.attname IS DISTINCT FROM 'partition_id'",
        &[pg_sys::Oid::from(partition).into()],
    )?)
}

/// Notes that what an ended action has left is tried again now, and when it will be next.
pub(crate) fn retried(id: i64, retries: u32) -> Result<(), Error> {
    let next = recovery::retry_at(retries + 1, collect::now_ms());
    Ok(Spi::run_with_args(
        "UPDATE ruvector.actions SET retries = retries + 1, retry_at = to_timestamp($2 / 1000.0) WHERE id = $1",
        &[id.into(), next.into()],
    )?)
}

/// Notes that nothing is left of an ended action any more.
pub(crate) fn finished_late(id: i64) -> Result<(), Error> {
    Ok(Spi::run_with_args(
        "UPDATE ruvector.actions SET unfinished = false, progress = NULL, retry_at = NULL,
                detail = concat_ws('; ', detail, format('what it had left was put right at %s', clock_timestamp()))
          WHERE id = $1",
        &[id.into()],
    )?)
}

/// Figures of the server that an outcome keeps.
pub(crate) fn system_metrics(before: &Snapshot, after: Option<&Snapshot>) -> Value {
    let of = |snapshot: &Snapshot| {
        json!({
            "disk_free_bytes": snapshot.disk_free_bytes.known(),
            "live_rows": snapshot.partitions.iter().map(|p| p.live_rows.known().copied()).sum::<Option<f64>>(),
            "index_bytes": snapshot.indexes.iter().map(|i| i.bytes.known().copied()).sum::<Option<u64>>(),
        })
    };
    json!({ "before": of(before), "after": after.map(of) })
}
