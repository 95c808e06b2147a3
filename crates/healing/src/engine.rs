//! The decision: act, with which plan and whose consent, or why not. Pure; the extension carries it out.

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use begin::{Begin, BeginInput, begin};
pub use pacing::{Arm, Attempt, cooldown_until};
pub use reason::Reason;

use pacing::{attempts_exhausted_until, ineffective, on_component, waits_here};

use crate::classify::{Problem, ProblemClass, diagnose};
use crate::config::{Config, Mode};
use crate::integrity::{Assessment, IntegrityState, StateRecord};
use crate::lifecycle::Status;
use crate::plan::Plan;
use crate::remedies::{self, Limits, NotApplicable, Params, Remedy};
use crate::snapshot::{Snapshot, UnixMs};

mod begin;
mod pacing;
mod reason;
#[cfg(test)]
mod tests;

/// Who asks for a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Request {
    /// The healer's own loop.
    Automatic,
    /// A human asks to heal now: as automatic, but without waiting for state, dwell and cooldown.
    Trigger,
    /// A human names the strategy. Ignores state, dwell, cooldown, attempts, backoff, ineffectiveness and the mode;
    /// obeys the off switch, recovery, single flight, the server's limit, disk, breaker and required approvals.
    Execute {
        /// Its name.
        strategy: String,
        /// Its parameters (an object, or null for none).
        params: Value,
    },
}

/// Actions that are approved, executing or verifying now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InFlight {
    /// On this collection's table tree.
    pub this_table: u32,
    /// On the whole server, this table's included.
    pub server: u32,
}

/// Everything that a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct DecisionInput<'a> {
    /// Settings in force for the collection.
    pub config: &'a Config,
    /// Its state.
    pub state: &'a StateRecord,
    /// The assessment of `snapshot`.
    pub assessment: &'a Assessment,
    /// The observation.
    pub snapshot: &'a Snapshot,
    /// Earlier actions on the collection, any order.
    pub history: &'a [Attempt],
    /// What is known of the remedies on it.
    pub arms: &'a [Arm],
    /// What runs now.
    pub in_flight: InFlight,
    /// The present time.
    pub now: UnixMs,
    /// Who asks.
    pub request: &'a Request,
}

/// Why a plan waits for a human.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalReason {
    /// The mode is approve.
    Mode,
    /// `require_approval` names the problem class.
    ProblemClass,
    /// `require_approval_strategies` names the strategy.
    Strategy,
    /// The plan cannot be undone and `require_approval_irreversible` is set.
    Irreversible,
    /// A human asked for a plan above `max_auto_heal_impact`.
    Impact,
}

impl ApprovalReason {
    /// The name in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ApprovalReason::Mode => "mode",
            ApprovalReason::ProblemClass => "problem_class",
            ApprovalReason::Strategy => "strategy",
            ApprovalReason::Irreversible => "irreversible",
            ApprovalReason::Impact => "impact",
        }
    }
}

/// A problem with the plan for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The problem.
    pub problem: Problem,
    /// The plan.
    pub plan: Plan,
}

/// An alternative that was not taken, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// Class name of the problem.
    pub problem_class: String,
    /// The strategy; None when no strategy was looked at.
    pub strategy: Option<String>,
    /// Why not.
    pub reason: Reason,
    /// The same with the figures.
    pub detail: String,
    /// When it ends by itself, if it does.
    pub until: Option<UnixMs>,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// Run the plan, at once or once a human has approved.
    Act {
        /// What is to be repaired, and how.
        planned: Box<Planned>,
        /// Why a human must approve first; None: run at once.
        approval: Option<ApprovalReason>,
        /// Only show the plan.
        dry_run: bool,
        /// What was not taken.
        rejected: Vec<Rejected>,
    },
    /// Do nothing.
    Refuse {
        /// Why.
        reason: Reason,
        /// The same with the figures.
        detail: String,
        /// When it ends by itself, if it does.
        until: Option<UnixMs>,
        /// The plan that would have run, where one was made.
        planned: Option<Box<Planned>>,
        /// What was looked at.
        rejected: Vec<Rejected>,
    },
}

struct Refusal {
    reason: Reason,
    detail: String,
    until: Option<UnixMs>,
}

impl Refusal {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), until: None }
    }

    fn until(self, until: UnixMs) -> Self {
        Self { until: Some(until), ..self }
    }
}

/// Decides. The same input gives the same decision.
pub fn decide(input: &DecisionInput<'_>) -> Decision {
    let refuse = |refusal: Refusal, planned, rejected| Decision::Refuse {
        reason: refusal.reason,
        detail: refusal.detail,
        until: refusal.until,
        planned,
        rejected,
    };
    let params = match params(input.request) {
        Ok(params) => params,
        Err(refusal) => return refuse(refusal, None, vec![]),
    };
    if !params.dry_run() {
        for gate in [gate_server, gate_time] {
            if let Err(refusal) = gate(input) {
                return refuse(refusal, None, vec![]);
            }
        }
    }
    let mut rejected = Vec::new();
    for candidate in candidates(input, &params) {
        let candidate = match candidate {
            Ok(candidate) => candidate,
            Err(reject) => {
                rejected.push(reject);
                continue;
            }
        };
        if let Some(refusal) = candidate.check(input, params.dry_run()) {
            rejected.push(candidate.rejected(refusal));
            continue;
        }
        let planned = Box::new(candidate.0);
        let by_hand = matches!(input.request, Request::Execute { .. });
        if input.config.mode == Mode::Observe && !by_hand && !params.dry_run() {
            let refusal = Refusal::new(Reason::ObserveMode, Reason::ObserveMode.explain());
            return refuse(refusal, Some(planned), rejected);
        }
        let approval = approval(input, &planned);
        return Decision::Act { planned, approval, dry_run: params.dry_run(), rejected };
    }
    // The first alternative looked at is the best one: its reason is what stands in the way.
    let refusal = match rejected.first() {
        Some(first) => Refusal { reason: first.reason, detail: first.detail.clone(), until: first.until },
        None => Refusal::new(Reason::NothingToDo, Reason::NothingToDo.explain()),
    };
    refuse(refusal, None, rejected)
}

fn params(request: &Request) -> Result<Params, Refusal> {
    let Request::Execute { strategy, params } = request else { return Ok(Params::default()) };
    if remedies::find(strategy).is_none() {
        let names: Vec<&str> = remedies::ALL.iter().map(|remedy| remedy.name()).collect();
        return Err(Refusal::new(
            Reason::InvalidRequest,
            format!("there is no strategy \"{strategy}\"; there are: {}", names.join(", ")),
        ));
    }
    Params::parse(strategy, params)
        .map_err(|error| Refusal::new(Reason::InvalidRequest, format!("{error}. {}", error.hint())))
}

/// What holds for every request that would act.
fn gate_server(input: &DecisionInput<'_>) -> Result<(), Refusal> {
    let DecisionInput { config, snapshot, in_flight, now, .. } = *input;
    if !config.enabled {
        return Err(Refusal::new(Reason::Disabled, Reason::Disabled.explain()));
    }
    if snapshot.in_recovery {
        return Err(Refusal::new(Reason::InRecovery, Reason::InRecovery.explain()));
    }
    let age_ms = now.saturating_sub(snapshot.taken_at);
    if age_ms > config.max_snapshot_age_seconds * 1000 {
        return Err(Refusal::new(
            Reason::StaleSnapshot,
            format!(
                "the observation is {} s old, at most {} s are allowed",
                age_ms / 1000,
                config.max_snapshot_age_seconds
            ),
        ));
    }
    if in_flight.this_table > 0 {
        return Err(Refusal::new(Reason::ActionInFlight, Reason::ActionInFlight.explain()));
    }
    if i64::from(in_flight.server) >= config.max_concurrent_actions {
        return Err(Refusal::new(
            Reason::ServerBusy,
            format!(
                "{} of {} actions are under way on this server",
                in_flight.server, config.max_concurrent_actions
            ),
        ));
    }
    Ok(())
}

/// What holds for automatic healing, and in part for a trigger.
fn gate_time(input: &DecisionInput<'_>) -> Result<(), Refusal> {
    let DecisionInput { config, state, assessment, history, now, .. } = *input;
    if matches!(input.request, Request::Execute { .. }) {
        return Ok(());
    }
    if assessment.lambda.is_none() {
        let why = assessment.lambda_unknown.as_deref().unwrap_or(Reason::LambdaUnknown.explain());
        return Err(Refusal::new(Reason::LambdaUnknown, why));
    }
    if *input.request == Request::Automatic {
        if state.state == IntegrityState::Normal {
            return Err(if state.candidate.is_some() {
                Refusal::new(
                    Reason::Dwelling,
                    format!(
                        "{} of {} samples in a row below the boundary",
                        state.streak, config.dwell_samples
                    ),
                )
            } else {
                Refusal::new(Reason::StateNormal, Reason::StateNormal.explain())
            });
        }
        if let Some(until) = cooldown_until(history, config).filter(|until| *until > now) {
            let seconds = (until - now + 999) / 1000;
            return Err(
                Refusal::new(Reason::Cooldown, format!("the cooldown lasts {seconds} s more")).until(until)
            );
        }
    }
    if let Some(until) = attempts_exhausted_until(history, config, now) {
        return Err(Refusal::new(
            Reason::AttemptsExhausted,
            format!("{} attempts within {} s", config.max_attempts_per_window, config.attempt_window_seconds),
        )
        .until(until));
    }
    Ok(())
}

/// A plan that could be carried out, before the gates of single plans.
struct Candidate(Planned);

impl Candidate {
    fn rejected(&self, refusal: Refusal) -> Rejected {
        Rejected {
            problem_class: self.0.problem.class.as_str().to_owned(),
            strategy: Some(self.0.plan.strategy.clone()),
            reason: refusal.reason,
            detail: refusal.detail,
            until: refusal.until,
        }
    }

    /// The gates of one plan.
    fn check(&self, input: &DecisionInput<'_>, dry_run: bool) -> Option<Refusal> {
        let plan = &self.0.plan;
        if dry_run {
            return None;
        }
        let arm = input.arms.iter().find(|arm| arm.strategy == plan.strategy);
        if arm.is_some_and(|arm| arm.breaker_open) {
            return Some(Refusal::new(
                Reason::BreakerOpen,
                format!("{}: {}", plan.strategy, Reason::BreakerOpen.explain()),
            ));
        }
        if matches!(input.request, Request::Execute { .. }) {
            return None;
        }
        if let Some(until) = arm.and_then(|arm| arm.backoff_until).filter(|until| *until > input.now) {
            let seconds = (until - input.now + 999) / 1000;
            let detail = format!("{} failed lately and waits {seconds} s more", plan.strategy);
            return Some(Refusal::new(Reason::ArmBackoff, detail).until(until));
        }
        let (problem, history) = (&self.0.problem, input.history);
        if let Some((detail, until)) =
            waits_here(problem, &plan.strategy, history, arm, input.config, input.now)
        {
            return Some(Refusal::new(Reason::ArmBackoff, detail).until(until));
        }
        if plan.impact > input.config.max_auto_heal_impact {
            return Some(Refusal::new(
                Reason::OverImpactLimit,
                format!(
                    "impact {} is above max_auto_heal_impact {}",
                    plan.impact, input.config.max_auto_heal_impact
                ),
            ));
        }
        if input.state.state != IntegrityState::Critical && plan.impact > input.config.max_stress_impact {
            return Some(Refusal::new(
                Reason::OverStressImpact,
                format!(
                    "impact {} is above max_stress_impact {}",
                    plan.impact, input.config.max_stress_impact
                ),
            ));
        }
        None
    }
}

/// Every alternative in the order of preference: the weakest component first, the least impact first.
fn candidates(input: &DecisionInput<'_>, params: &Params) -> Vec<Result<Candidate, Rejected>> {
    let limits = Limits::new(input.config, input.state.state, input.snapshot, params.clone());
    if let Request::Execute { strategy, .. } = input.request {
        let Some(remedy) = remedies::find(strategy) else { return vec![] };
        let problem = diagnose(input.assessment, input.snapshot, input.config)
            .into_iter()
            .find(|problem| remedy.treats(problem) && params.concerns(problem))
            .map_or_else(|| remedy.manual_problem(input.snapshot, input.config, params), Ok);
        return vec![match problem {
            Ok(problem) => candidate(remedy, &problem, input, &limits),
            Err(why) => Err(reject(None, remedy, &why)),
        }];
    }
    let mut all = Vec::new();
    for problem in diagnose(input.assessment, input.snapshot, input.config) {
        all.extend(of_problem(&problem, input, &limits));
    }
    all
}

fn of_problem(
    problem: &Problem,
    input: &DecisionInput<'_>,
    limits: &Limits,
) -> Vec<Result<Candidate, Rejected>> {
    let none = |reason: Reason, detail: String, until| {
        vec![Err(Rejected {
            problem_class: problem.class.as_str().to_owned(),
            strategy: None,
            reason,
            detail,
            until,
        })]
    };
    if let ProblemClass::Unknown { witness_summary } = &problem.class {
        return none(Reason::UnknownProblem, witness_summary.clone(), None);
    }
    if let Some((detail, until)) = ineffective(problem, input.history, input.now) {
        return none(Reason::HealingIneffective, detail, Some(until));
    }
    let mut found: Vec<Result<Candidate, Rejected>> = remedies::ALL
        .iter()
        .filter(|remedy| remedy.treats(problem))
        .map(|remedy| candidate(*remedy, problem, input, limits))
        .collect();
    if found.is_empty() {
        let detail = format!("no remedy treats {}", problem.class.as_str());
        return none(Reason::NoStrategy, detail, None);
    }
    let weight = |strategy: &str| {
        let arm = input.arms.iter().find(|arm| arm.strategy == strategy);
        arm.map(|arm| arm.weight).filter(|weight| weight.is_finite()).unwrap_or(1.0)
    };
    found.sort_by(|a, b| match (a, b) {
        (Ok(a), Ok(b)) => {
            let (a, b) = (&a.0.plan, &b.0.plan);
            // What was tried last and left the problem standing comes after the next step of the ladder.
            (tried(a, problem, input).cmp(&tried(b, problem, input)))
                .then(a.impact.total_cmp(&b.impact))
                .then(weight(&b.strategy).total_cmp(&weight(&a.strategy)))
                .then(a.strategy.cmp(&b.strategy))
        }
        (Ok(_), Err(_)) => std::cmp::Ordering::Less,
        (Err(_), Ok(_)) => std::cmp::Ordering::Greater,
        (Err(a), Err(b)) => a.strategy.cmp(&b.strategy),
    });
    found
}

fn candidate(
    remedy: &dyn Remedy,
    problem: &Problem,
    input: &DecisionInput<'_>,
    limits: &Limits,
) -> Result<Candidate, Rejected> {
    match remedy.plan(problem, input.snapshot, limits) {
        Ok(plan) => Ok(Candidate(Planned { problem: problem.clone(), plan })),
        Err(why) => Err(reject(Some(problem), remedy, &why)),
    }
}

fn reject(problem: Option<&Problem>, remedy: &dyn Remedy, why: &NotApplicable) -> Rejected {
    Rejected {
        problem_class: problem.map_or("none", |problem| problem.class.as_str()).to_owned(),
        strategy: Some(remedy.name().to_owned()),
        reason: match why {
            NotApplicable::NothingToDo { .. } => Reason::NothingToDo,
            NotApplicable::DiskHeadroom { .. } => Reason::DiskHeadroom,
            _ => Reason::NotApplicable,
        },
        detail: format!("{}: {why}", remedy.name()),
        until: None,
    }
}

/// Whether this strategy succeeded on the component within the attempt window and the problem is still there.
fn tried(plan: &Plan, problem: &Problem, input: &DecisionInput<'_>) -> bool {
    let since = input.now - input.config.attempt_window_seconds.saturating_mul(1000);
    on_component(problem, input.history).iter().any(|attempt| {
        attempt.strategy == plan.strategy && attempt.status == Status::Succeeded && attempt.started_at > since
    })
}

fn approval(input: &DecisionInput<'_>, planned: &Planned) -> Option<ApprovalReason> {
    let config = input.config;
    let by_hand = matches!(input.request, Request::Execute { .. });
    let class = planned.problem.class.as_str();
    if config.require_approval.iter().any(|name| name == class) {
        Some(ApprovalReason::ProblemClass)
    } else if config.require_approval_strategies.contains(&planned.plan.strategy) {
        Some(ApprovalReason::Strategy)
    } else if !planned.plan.reversible && config.require_approval_irreversible {
        Some(ApprovalReason::Irreversible)
    } else if by_hand && planned.plan.impact > config.max_auto_heal_impact {
        Some(ApprovalReason::Impact)
    } else if !by_hand && config.mode == Mode::Approve {
        Some(ApprovalReason::Mode)
    } else {
        None
    }
}
