//! From an observation to an action, or to a reason why there is none. The core decides; this asks it and writes down
//! what it says.

use healing::classify::Problem;
use healing::config::Config;
use healing::engine::{self, Attempt, Decision, DecisionInput, InFlight, Planned, Reason, Request};
use healing::integrity::{IntegrityState, StateRecord, assess};
use healing::lifecycle::Status;
use healing::plan::Plan;
use healing::remedies::{Limits, Params};
use healing::rollback::{CannotGiveBack, give_back};
use healing::snapshot::Snapshot;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{arms, learning};
use crate::audit::{self, Happened};
use crate::collect::{self, Collection};
use crate::error::Error;
use crate::kept;
use crate::{journal, shared};

/// Earlier actions that a decision looks at.
/// After a rollback the strategy that was taken back waits on that part, as where it was no gain; that the part is as weak as
/// before is what the human wanted, and no healing in vain.
const HISTORY: &str = "
SELECT jsonb_build_object('started_at', (extract(epoch FROM coalesce(a.started_at, a.decided_at)) * 1000)::bigint,
       'ended_at', (extract(epoch FROM a.ended_at) * 1000)::bigint, 'status', a.status, 'strategy', a.strategy,
       'problem_class', a.problem_class, 'lambda_before', coalesce(a.verification -> 'of_problem' -> 'before', a.verification -> 'lambda_before'),
       'lambda_after', coalesce(a.verification -> 'of_problem' -> 'after', a.verification -> 'lambda_after'), 'lesson', a.lesson,
       'lambda_planned', a.problem -> 'component' -> 'lambda', 'lambda_placed', a.plan -> 'params' -> 'lambda_placed',
       'rows_moved', (SELECT sum((s.details ->> 'moved')::bigint) FROM ruvector.action_steps s
                       WHERE s.action_id = a.id AND s.state = 'done' AND s.step ->> 'kind' = 'move_rows'), 'nodes', a.problem -> 'component' -> 'nodes')
       || CASE WHEN a.request ->> 'kind' = 'rollback' AND a.status = 'succeeded' THEN
              jsonb_build_object('lesson', 'no_gain', 'lambda_before', NULL, 'lambda_after', NULL, 'strategy', (SELECT o.strategy FROM ruvector.actions o
                                                                    WHERE o.id = (a.request ->> 'of')::bigint))
          ELSE '{}' END
  FROM ruvector.actions a
 WHERE a.collection_id = $1 AND a.plan IS NOT NULL AND coalesce(a.started_at, a.decided_at) > now() - interval '30 days'";

/// What stands open for a collection.
#[derive(Deserialize)]
struct Open {
    id: i64,
    status: Status,
    request: Request,
}

/// A decision and what it was made from.
pub(super) struct Moment {
    pub(super) collection: i32,
    pub(super) snapshot: Snapshot,
    pub(super) record: StateRecord,
    pub(super) decision: Decision,
    /// The decision as the collection's row shows it.
    pub(super) shown: Value,
    /// Whether it is another than at the sample before.
    pub(super) changed: bool,
}

#[derive(Deserialize)]
struct Observed {
    snapshot: Snapshot,
    record: StateRecord,
}

/// What the engine would do on a collection now: by itself, and if a human triggered it. None before the first observation.
/// In the caller's session or the healer's; must run in a transaction.
pub(crate) fn preview(
    collection: &Collection,
    config: &Config,
) -> Result<Option<(Decision, Decision)>, Error> {
    let Some(observed) = observed(collection.id)? else { return Ok(None) };
    let automatic = ask(collection, config, &observed, &Request::Automatic)?;
    let trigger = ask(collection, config, &observed, &Request::Trigger)?;
    Ok(Some((automatic, trigger)))
}

fn observed(collection: i32) -> Result<Option<Observed>, Error> {
    Ok(collect::documents(
        "SELECT jsonb_build_object('snapshot', i.snapshot, 'record', i.record) FROM ruvector.integrity i
          WHERE i.collection_id = $1 AND i.snapshot IS NOT NULL AND i.record IS NOT NULL",
        &[collection.into()],
    )?
    .pop())
}

/// Whether a human asks for something on a collection.
pub(super) fn is_asked(collection: i32) -> Result<bool, Error> {
    // One that waits for another action has had its answer; it is asked for again at every sample.
    let query = "SELECT EXISTS (SELECT FROM ruvector.actions a
                                 WHERE a.collection_id = $1 AND a.status = 'proposed' AND a.detail IS NULL)";
    Ok(kept::one(query, &[collection.into()])?.unwrap_or(false))
}

/// Decides about everything that is asked for on a collection, and then by itself. Must run in a transaction. Returns what
/// it decided by itself; None before the first sample.
pub(super) fn decide(collection: &Collection, config: &Config) -> Result<Option<Moment>, Error> {
    let Some(observed) = observed(collection.id)? else { return Ok(None) };
    count_in_flight()?;
    let open: Vec<Open> = collect::documents(
        "SELECT jsonb_build_object('id', a.id, 'status', a.status, 'request', a.request) FROM ruvector.actions a
          WHERE a.collection_id = $1
            AND a.status IN ('proposed', 'awaiting_approval', 'approved', 'executing', 'verifying') ORDER BY a.id",
        &[collection.id.into()],
    )?;
    for asked in open.iter().filter(|action| action.status == Status::Proposed) {
        answer(collection, config, &observed, asked)?;
    }
    let automatic = ask(collection, config, &observed, &Request::Automatic)?;
    // A plan that waits for a human says all there is to say.
    let mut waits = false;
    for asked in open.iter().filter(|action| action.status == Status::AwaitingApproval) {
        if has_cleared(asked, config, &observed)? {
            end_waiting(asked.id, "what it was for is well again")?;
        } else {
            waits = true;
        }
    }
    if let (Decision::Act { .. }, false) = (&automatic, waits) {
        let id = Spi::get_one_with_args::<i64>(
            "INSERT INTO ruvector.actions (collection_id, collection_name, relation, request, requested_by)
             VALUES ($1, $2, $3, $4, 'ruvector') RETURNING id",
            &[
                collection.id.into(),
                collection.name.as_str().into(),
                pg_sys::Oid::from(collection.relation).into(),
                JsonB(serde_json::to_value(Request::Automatic)?).into(),
            ],
        )?
        .ok_or_else(|| Error::refused("the action was not stored"))?;
        accept(id, collection, &observed, &automatic)?;
    }
    let waits = waits || matches!(&automatic, Decision::Act { approval: Some(_), .. });
    let (shown, changed) = remember(collection.id, &automatic, waits)?;
    Ok(Some(Moment {
        collection: collection.id,
        snapshot: observed.snapshot,
        record: observed.record,
        decision: automatic,
        shown,
        changed,
    }))
}

/// Whether a plan that waits for a human waits for nothing any more. Only where the whole collection is normal, which takes
/// some samples: a reading that is missing in one of them is no cure. A plan that another version wrote waits on.
fn has_cleared(waiting: &Open, config: &Config, observed: &Observed) -> Result<bool, Error> {
    if observed.record.state != IntegrityState::Normal {
        return Ok(false);
    }
    let planned: Result<Vec<Planned>, Error> = collect::documents(
        "SELECT jsonb_build_object('problem', a.problem, 'plan', a.plan) FROM ruvector.actions a WHERE a.id = $1",
        &[waiting.id.into()],
    );
    match planned.map(|mut found| found.pop()) {
        Ok(planned) => Ok(planned.is_some_and(|planned| {
            engine::has_cleared(&planned, &waiting.request, &observed.snapshot, config)
        })),
        Err(Error::Stored(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Ends what waits for a human or for another action.
pub(super) fn end_waiting(id: i64, why: &str) -> Result<(), Error> {
    let ended: Vec<i64> = kept::changed(
        "UPDATE ruvector.actions a
            SET status = 'expired', ended_at = clock_timestamp(), detail = CASE a.status WHEN 'proposed' THEN detail ELSE $2 END
          WHERE a.id = $1 AND a.status IN ('proposed', 'awaiting_approval') RETURNING to_jsonb(a.id)",
        &[id.into(), why.into()],
    )?;
    ended.into_iter().try_for_each(|id| {
        audit::note(&Happened {
            event: Status::Expired.as_str(),
            action_id: Some(id),
            details: json!({ "detail": why }),
            ..Happened::default()
        })
    })
}

/// Of every remedy whether it could act on a collection now, judged by the healer's last observation; None: there is none.
pub(crate) fn eligibility(
    collection: &Collection,
    config: &Config,
) -> Result<Option<Vec<engine::Eligibility>>, Error> {
    observed(collection.id)?
        .map(|observed| with_input(collection, config, &observed, &Request::Automatic, engine::eligibility))
        .transpose()
}

fn ask(
    collection: &Collection,
    config: &Config,
    observed: &Observed,
    request: &Request,
) -> Result<Decision, Error> {
    with_input(collection, config, observed, request, |input| match request {
        Request::Rollback { of } => take_back(*of, input),
        _ => Ok(engine::decide(input)),
    })?
}

/// Asks the core with everything that a decision about a collection rests on.
fn with_input<T>(
    collection: &Collection,
    config: &Config,
    observed: &Observed,
    request: &Request,
    ask: impl FnOnce(&DecisionInput<'_>) -> T,
) -> Result<T, Error> {
    let assessment = assess(&observed.snapshot, config).map_err(|error| Error::refused(error.to_string()))?;
    let history: Vec<Attempt> = collect::documents(HISTORY, &[collection.id.into()])?;
    let arms = arms::of(collection.id)?;
    let learned = learning::learned(collection.id)?;
    let in_flight = in_flight(collection, &history)?;
    Ok(ask(&DecisionInput {
        config,
        state: &observed.record,
        assessment: &assessment,
        snapshot: &observed.snapshot,
        history: &history,
        arms: &arms,
        learned: &learned,
        in_flight,
        now: collect::now_ms(),
        request,
    }))
}

/// What runs now. Nothing else acts on the table until what is left of an action is put right.
fn in_flight(collection: &Collection, history: &[Attempt]) -> Result<InFlight, Error> {
    if cfg!(feature = "without_single_flight") {
        return Ok(InFlight::default());
    }
    let own = history.iter().filter(|attempt| attempt.status.is_in_flight()).count() as u32;
    let this_table = own + journal::unfinished(collection.id)?;
    if !shared::preloaded() {
        return Ok(InFlight { this_table, server: own, ..InFlight::default() });
    }
    let (impact, builds) = shared::running();
    Ok(InFlight { this_table, server: shared::actions_in_flight().max(own), impact, builds })
}

/// An action that succeeded, of which a human wants back what can be given back.
#[derive(Deserialize)]
struct Former {
    status: Status,
    problem: Problem,
    plan: Plan,
}

/// The decision on a rollback: its plan, or why there is none.
fn take_back(of: i64, input: &DecisionInput<'_>) -> Result<Decision, Error> {
    let limits = Limits {
        by_hand: true,
        ..Limits::new(input.config, input.state.state, input.snapshot, Params::default())
    };
    match way_back(of, input.snapshot, &limits)? {
        Ok(planned) => Ok(engine::decide_rollback(input, planned)),
        Err(NoWay { reason, detail, .. }) => {
            Ok(Decision::Refuse { reason, detail, until: None, planned: None, rejected: vec![] })
        }
    }
}

/// Why an action cannot be taken back.
struct NoWay {
    reason: Reason,
    detail: String,
    /// Not only as things are now.
    for_good: bool,
}

/// How an action is taken back as things are, or why it cannot be.
fn way_back(of: i64, snapshot: &Snapshot, limits: &Limits) -> Result<Result<Planned, NoWay>, Error> {
    let former: Option<Former> = collect::documents(
        "SELECT jsonb_build_object('status', a.status, 'problem', a.problem, 'plan', a.plan) FROM ruvector.actions a
          WHERE a.id = $1 AND a.plan IS NOT NULL",
        &[of.into()],
    )?
    .pop();
    let Some(Former { problem, plan, .. }) = former.filter(|former| former.status == Status::Succeeded)
    else {
        let detail = format!("action {of} is none that succeeded");
        return Ok(Err(NoWay { reason: Reason::InvalidRequest, detail, for_good: true }));
    };
    Ok(match give_back(&plan, &journal::entries(of)?, snapshot, limits) {
        Ok(back) => Ok(Planned { problem, plan: back.plan }),
        Err(why) => Err(NoWay {
            reason: Reason::NotApplicable,
            detail: format!("action {of} cannot be taken back: {why}"),
            for_good: !matches!(why, CannotGiveBack::NoRoom { .. }),
        }),
    })
}

/// Why a rollback that has waited, for a human or for another action, cannot be carried out as it was planned any more.
pub(super) fn way_back_is_gone(
    of: i64,
    planned: &Plan,
    snapshot: &Snapshot,
    config: &Config,
) -> Result<Option<String>, Error> {
    let limits =
        Limits { by_hand: true, ..Limits::new(config, IntegrityState::Normal, snapshot, Params::default()) };
    // How long a build may take goes with the rows, and whether there is room for it is asked of every plan that begins.
    let same = |now: &Plan| {
        now.steps.len() == planned.steps.len()
            && now
                .steps
                .iter()
                .zip(&planned.steps)
                .all(|(now, then)| now.without_limit() == then.without_limit())
    };
    Ok(match way_back(of, snapshot, &limits)? {
        Ok(now) if same(&now.plan) => None,
        Ok(_) => Some(format!("what action {of} changed has been changed since this was planned")),
        Err(why) => Some(why.detail).filter(|_| why.for_good),
    })
}

/// What runs in this database now, for decisions about the whole server: an action may have ended since the last look.
pub(super) fn count_in_flight() -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Running {
        actions: u32,
        impact: f32,
        builds: u32,
    }
    let running: Option<Running> = collect::documents(
        "SELECT jsonb_build_object('actions', count(*),
                'impact', coalesce(sum((a.plan ->> 'impact')::float8) FILTER (WHERE a.starts > 0), 0),
                'builds', count(*) FILTER (WHERE a.starts > 0 AND EXISTS (SELECT FROM jsonb_array_elements(a.plan -> 'steps') s
                               WHERE s ->> 'kind' IN ('build_index', 'reindex_concurrently'))))
           FROM ruvector.actions a WHERE a.status IN ('approved', 'executing', 'verifying')",
        &[],
    )?
    .pop();
    if let Some(Running { actions, impact, builds }) = running {
        // SAFETY: no preconditions.
        let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
        shared::set_actions_in_flight(database, actions, impact, builds);
    }
    Ok(())
}

/// Answers a request of a human.
fn answer(collection: &Collection, config: &Config, observed: &Observed, asked: &Open) -> Result<(), Error> {
    // Held until the decision is written: a human may abort it meanwhile.
    let still: Vec<i64> = kept::changed(
        "SELECT to_jsonb(a.id) FROM ruvector.actions a WHERE a.id = $1 AND a.status = 'proposed' FOR UPDATE SKIP LOCKED",
        &[asked.id.into()],
    )?;
    if still.is_empty() {
        return Ok(());
    }
    let decision = ask(collection, config, observed, &asked.request)?;
    match &decision {
        Decision::Act { .. } => accept(asked.id, collection, observed, &decision),
        Decision::Refuse {
            reason: Reason::ActionInFlight | Reason::ServerBusy | Reason::ImpactBudget,
            detail,
            ..
        } => {
            let detail = format!("waits: {detail}");
            Ok(Spi::run_with_args(
                "UPDATE ruvector.actions SET detail = $2 WHERE id = $1",
                &[asked.id.into(), detail.as_str().into()],
            )?)
        }
        Decision::Refuse { reason, detail, rejected, .. } => {
            let nothing = matches!(reason, Reason::NothingToDo | Reason::StateNormal);
            let status = if nothing { Status::Noop } else { Status::Refused };
            audit::note(&Happened {
                event: status.as_str(),
                action_id: Some(asked.id),
                details: json!({ "reason": reason.as_str(), "detail": detail }),
                ..Happened::default()
            })?;
            Ok(Spi::run_with_args(
                "UPDATE ruvector.actions SET status = $2, decided_at = clock_timestamp(), ended_at = clock_timestamp(),
                        reason = $3, detail = $4, rejected = $5 WHERE id = $1 AND status = 'proposed'",
                &[
                    asked.id.into(),
                    status.as_str().into(),
                    reason.as_str().into(),
                    detail.as_str().into(),
                    JsonB(serde_json::to_value(rejected)?).into(),
                ],
            )?)
        }
    }
}

/// Writes the plan to the action, which may run now or once a human has approved.
fn accept(id: i64, collection: &Collection, observed: &Observed, decision: &Decision) -> Result<(), Error> {
    let Decision::Act { planned, approval, rejected, choice, .. } = decision else { return Ok(()) };
    let status = if approval.is_some() { Status::AwaitingApproval } else { Status::Approved };
    let lambda = observed.record.lambda;
    Spi::run_with_args(
        "UPDATE ruvector.actions SET status = $2, decided_at = clock_timestamp(), detail = NULL, approval = $3, strategy = $4,
                problem_class = $5, problem = $6, plan = $7, rejected = $8, before = $9, initial_lambda = $10
          WHERE id = $1 AND status = 'proposed'",
        &[
            id.into(),
            status.as_str().into(),
            approval.map(|reason| reason.as_str()).into(),
            planned.plan.strategy.as_str().into(),
            planned.problem.class.as_str().into(),
            JsonB(serde_json::to_value(&planned.problem)?).into(),
            JsonB(serde_json::to_value(&planned.plan)?).into(),
            JsonB(serde_json::to_value(rejected)?).into(),
            JsonB(serde_json::to_value(&observed.snapshot)?).into(),
            lambda.into(),
        ],
    )?;
    if let Some(choice) = choice {
        learning::chosen(id, collection.id, choice)?;
    }
    audit::note(&Happened {
        event: "decided",
        action_id: Some(id),
        details: json!({
            "status": status.as_str(),
            "strategy": planned.plan.strategy,
            "problem_class": planned.problem.class.as_str(),
            "lambda": lambda,
            "plan": planned.plan,
        }),
        ..Happened::default()
    })?;
    if status == Status::Approved {
        shared::action_begins(unsafe { pg_sys::MyDatabaseId }.to_u32());
    }
    pgrx::log!(
        "ruvector: collection {}: action {id} {}: {}",
        collection.name,
        status.as_str(),
        planned.plan.reason
    );
    Ok(())
}

/// Keeps the present decision, and a row of history when it is another than before. Returns it, and whether it is.
fn remember(collection: i32, decision: &Decision, waits: bool) -> Result<(Value, bool), Error> {
    let now = match decision {
        Decision::Act { planned, .. } if waits => json!({
            "reason": "awaiting_approval",
            "detail": format!("a plan of {} waits for approval", planned.plan.strategy),
            "strategy": planned.plan.strategy,
        }),
        Decision::Act { planned, rejected, .. } => {
            json!({ "strategy": planned.plan.strategy, "rejected": rejected })
        }
        Decision::Refuse { reason, detail, until, planned, rejected } => json!({
            "reason": reason.as_str(),
            "detail": detail,
            "until": until,
            "strategy": planned.as_ref().map(|planned| &planned.plan.strategy),
            "rejected": rejected,
        }),
    };
    let before = kept::one::<JsonB>(
        "SELECT decision FROM ruvector.integrity WHERE collection_id = $1",
        &[collection.into()],
    )?;
    let key = |document: &Value| (document.get("reason").cloned(), document.get("strategy").cloned());
    let changed = before.as_ref().map(|JsonB(before)| key(before)) != Some(key(&now));
    if changed {
        Spi::run_with_args(
            "INSERT INTO ruvector.healing_decisions (collection_id, reason, detail, until, strategy, rejected)
             VALUES ($1, $2 ->> 'reason', $2 ->> 'detail', to_timestamp(($2 ->> 'until')::float8 / 1000), $2 ->> 'strategy',
                     $2 -> 'rejected')",
            &[collection.into(), JsonB(now.clone()).into()],
        )?;
    }
    kept::change(
        "UPDATE ruvector.integrity SET decision = $2 WHERE collection_id = $1",
        &[collection.into(), JsonB(now.clone()).into()],
    )?;
    Ok((now, changed))
}
