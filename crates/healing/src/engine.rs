//! The decision: act, with which plan and whose consent, or why not. Pure; the extension carries it out.

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use begin::{Begin, BeginInput, begin};
pub use pacing::{Arm, Attempt, cooldown_until};
pub use reason::Reason;

use pacing::{attempts_exhausted_until, gain_per_row, gain_share, ineffective, on_component, waits_here};

use crate::classify::{Problem, ProblemClass, classify, diagnose};
use crate::config::{Config, Mode};
use crate::integrity::{self, Assessment, IntegrityState, StateRecord, component_lambda};
use crate::learning::{self, Choice, Learned};
use crate::lifecycle::Status;
use crate::plan::Plan;
use crate::remedies::{self, Limits, NotApplicable, Params, Remedy};
use crate::rollback;
use crate::snapshot::{Snapshot, UnixMs};

mod begin;
pub(crate) mod gates;
mod pacing;
mod reason;
mod selection;
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
    /// obeys the off switch and a pause, recovery, single flight, the server's limits, disk, breaker and required approvals.
    /// Quiet and maintenance windows are for the healer: a human who names a strategy has looked.
    Execute {
        /// Its name.
        strategy: String,
        /// Its parameters (an object, or null for none).
        params: Value,
    },
    /// A human takes back an earlier action; [`crate::rollback`] plans that. Obeys what `Execute` obeys.
    Rollback {
        /// Number of that action.
        of: i64,
    },
}

impl Request {
    /// Whether a human has named what is to be done: then it is not for the healer to say whether it is needed now.
    pub fn by_hand(&self) -> bool {
        matches!(self, Request::Execute { .. } | Request::Rollback { .. })
    }
}

/// Actions that are approved, executing or verifying now.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct InFlight {
    /// On this collection's table tree.
    pub this_table: u32,
    /// On the whole server, this table's included.
    pub server: u32,
    /// Sum of the impacts of those on the server.
    #[serde(default)]
    pub impact: f64,
    /// Those of them that build an index.
    #[serde(default)]
    pub builds: u32,
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
    /// What was learned from outcomes.
    pub learned: &'a Learned,
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
    /// The remedy failed here lately: the autonomy ladder has lowered it to approve.
    Autonomy,
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
            ApprovalReason::Autonomy => "autonomy",
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
        /// How it was chosen among the remedies of its step; None: a human named it.
        choice: Option<Box<Choice>>,
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

impl From<gates::Closed> for Refusal {
    fn from(closed: gates::Closed) -> Self {
        Self { reason: closed.reason, detail: closed.detail, until: closed.until }
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
    let mut only_planned = None;
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
        let by_hand = input.request.by_hand();
        if !by_hand && selection::is_lowered_to_observe(input, &candidate.0.plan.strategy) {
            let refusal = Refusal::new(
                Reason::AutonomyLowered,
                format!("{}: {}", candidate.0.plan.strategy, Reason::AutonomyLowered.explain()),
            );
            rejected.push(candidate.rejected(refusal));
            only_planned.get_or_insert(Box::new(candidate.0));
            continue;
        }
        let Candidate(planned, choice) = candidate;
        let planned = Box::new(planned);
        if input.config.mode == Mode::Observe && !by_hand && !params.dry_run() {
            let refusal = Refusal::new(Reason::ObserveMode, Reason::ObserveMode.explain());
            return refuse(refusal, Some(planned), rejected);
        }
        let approval = approval(input, &planned);
        return Decision::Act { planned, approval, dry_run: params.dry_run(), rejected, choice };
    }
    // The first alternative looked at is the best one: its reason is what stands in the way.
    let refusal = match rejected.first() {
        Some(first) => Refusal { reason: first.reason, detail: first.detail.clone(), until: first.until },
        None => Refusal::new(Reason::NothingToDo, Reason::NothingToDo.explain()),
    };
    refuse(refusal, only_planned, rejected)
}

/// Whether a remedy could act on the collection by itself now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eligibility {
    /// The remedy.
    pub strategy: String,
    /// How far it goes by itself: what a human has set, or lower.
    pub mode: Mode,
    /// Why it would not act; None: it would, if it is chosen.
    pub reason: Option<Reason>,
    /// The same with the figures.
    pub detail: Option<String>,
}

/// Of every remedy whether it could act now, and if not why; sorted by name. `input.request` is taken as automatic.
pub fn eligibility(input: &DecisionInput<'_>) -> Vec<Eligibility> {
    let input = &DecisionInput { request: &Request::Automatic, ..*input };
    let gate = gate_server(input).and_then(|()| gate_time(input)).err();
    let all = if gate.is_none() { candidates(input, &Params::default()) } else { vec![] };
    let of = |strategy: &str| -> Option<(Reason, String)> {
        if let Some(refusal) = &gate {
            return Some((refusal.reason, refusal.detail.clone()));
        }
        let mut refused = None;
        for alternative in &all {
            let refusal = match alternative {
                Ok(candidate) if candidate.0.plan.strategy == strategy => {
                    if let Some(refusal) = candidate.check(input, false) {
                        (refusal.reason, refusal.detail)
                    } else if selection::is_lowered_to_observe(input, strategy) {
                        (Reason::AutonomyLowered, Reason::AutonomyLowered.explain().to_owned())
                    } else if input.config.mode == Mode::Observe {
                        (Reason::ObserveMode, Reason::ObserveMode.explain().to_owned())
                    } else {
                        return None;
                    }
                }
                Err(rejected) if rejected.strategy.as_deref() == Some(strategy) => {
                    (rejected.reason, rejected.detail.clone())
                }
                _ => continue,
            };
            refused.get_or_insert(refusal);
        }
        // Alternatives without a name speak for a whole problem: unknown, or healed in vain.
        let unnamed = || all.iter().find_map(|a| a.as_ref().err().filter(|r| r.strategy.is_none()));
        refused.or_else(|| unnamed().map(|r| (r.reason, r.detail.clone()))).or_else(|| {
            Some((Reason::NothingToDo, "it treats none of the problems that are there now".to_owned()))
        })
    };
    remedies::ALL
        .iter()
        .map(|remedy| {
            let (reason, detail) = of(remedy.name()).unzip();
            let mode = selection::mode(input, remedy.name());
            Eligibility { strategy: remedy.name().to_owned(), mode, reason, detail }
        })
        .collect()
}

/// The decision on a rollback that [`crate::rollback`] has planned, by the gates of a manual request. It waits for a human
/// where what it takes back would.
pub fn decide_rollback(input: &DecisionInput<'_>, planned: Planned) -> Decision {
    let closed = gate_server(input).err().or_else(|| {
        gates::room(&planned.plan, input.config, input.snapshot, &input.in_flight).map(Refusal::from)
    });
    match closed {
        Some(Refusal { reason, detail, until }) => {
            Decision::Refuse { reason, detail, until, planned: None, rejected: vec![] }
        }
        None => Decision::Act {
            approval: approval(input, &planned),
            planned: Box::new(planned),
            choice: None,
            dry_run: false,
            rejected: vec![],
        },
    }
}

/// Whether a plan that waits for a human waits for nothing any more: what it is for is well again, or gone. What a human named
/// by hand was wanted whether the part is weak or not.
pub fn has_cleared(planned: &Planned, request: &Request, snapshot: &Snapshot, config: &Config) -> bool {
    let lambda = || component_lambda(snapshot, &planned.problem.component.nodes, config).ok().flatten();
    !request.by_hand() && lambda().is_none_or(|lambda| lambda >= config.normal_lambda())
}

fn params(request: &Request) -> Result<Params, Refusal> {
    if let Request::Rollback { .. } = request {
        let detail = "healing::rollback plans it, not a remedy";
        return Err(Refusal::new(Reason::InvalidRequest, detail));
    }
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
    if let Some(until) = config.paused_until.filter(|until| *until > now) {
        let seconds = (until - now + 999) / 1000;
        return Err(
            Refusal::new(Reason::Paused, format!("healing is paused for {seconds} s more")).until(until)
        );
    }
    if snapshot.in_recovery {
        return Err(Refusal::new(Reason::InRecovery, Reason::InRecovery.explain()));
    }
    if snapshot.partitions.is_empty() {
        return Err(Refusal::new(Reason::LambdaUnknown, integrity::NO_PARTITIONS));
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
    let DecisionInput { config, state, assessment, snapshot, history, now, .. } = *input;
    if input.request.by_hand() {
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
    if *input.request == Request::Automatic
        && let Some(until) = learning::control_until(snapshot.collection_id, state, config, now)
    {
        let seconds = (until - now + 999) / 1000;
        let detail = format!("healing is delayed at random for {seconds} s more");
        return Err(Refusal::new(Reason::ControlDelay, detail).until(until));
    }
    Ok(())
}

/// A plan that could be carried out, before the gates of single plans, and how it was chosen.
struct Candidate(Planned, Option<Box<Choice>>);

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
        if let Some(closed) = gates::room(plan, input.config, input.snapshot, &input.in_flight) {
            return Some(closed.into());
        }
        if input.request.by_hand() {
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
        gates::quiet(&self.0, input.config, input.snapshot, input.now).map(Refusal::from)
    }
}

/// Every alternative in the order of preference: the weakest component first, the least impact first.
fn candidates(input: &DecisionInput<'_>, params: &Params) -> Vec<Result<Candidate, Rejected>> {
    let limits = Limits {
        by_hand: input.request.by_hand(),
        ..Limits::new(input.config, input.state.state, input.snapshot, params.clone())
    };
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
        let found = of_problem(&problem, input, &limits);
        let is_refused = found.iter().all(Result::is_err);
        let too_small = |one: &Result<Candidate, Rejected>| {
            one.as_ref().is_err_and(|rejected| rejected.reason == Reason::DoseTooSmall)
        };
        let parts = if is_refused && found.iter().any(too_small) { parts(&problem, input) } else { vec![] };
        all.extend(found);
        // A dose that is too small for all hot partitions together may be enough for one of them.
        all.extend(parts.iter().flat_map(|part| of_problem(part, input, &limits)).filter(Result::is_ok));
    }
    all
}

/// The components that a problem was put together from, each as a problem of its own; none where it is one.
fn parts(problem: &Problem, input: &DecisionInput<'_>) -> Vec<Problem> {
    let own = input
        .assessment
        .components
        .iter()
        .filter(|component| component.nodes.iter().all(|node| problem.component.nodes.contains(node)));
    let parts: Vec<Problem> = own.map(|part| classify(part, input.snapshot, input.config)).collect();
    if parts.len() > 1 { parts } else { vec![] }
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
    let of_part;
    let limits = if input.config.learning_enabled {
        of_part = Limits {
            gain_share: gain_share(problem, input.history, input.now),
            gain_per_row: gain_per_row(problem, input.history, input.now),
            ..limits.clone()
        };
        &of_part
    } else {
        limits
    };
    let mut found: Vec<Result<Candidate, Rejected>> = remedies::ALL
        .iter()
        .filter(|remedy| remedy.treats(problem))
        .map(|remedy| candidate(*remedy, problem, input, limits))
        .collect();
    if found.is_empty() {
        let detail = format!("no remedy treats {}", problem.class.as_str());
        return none(Reason::NoStrategy, detail, None);
    }
    selection::order(&mut found, problem, input);
    found
}

fn candidate(
    remedy: &dyn Remedy,
    problem: &Problem,
    input: &DecisionInput<'_>,
    limits: &Limits,
) -> Result<Candidate, Rejected> {
    match remedy.plan(problem, input.snapshot, limits) {
        Ok(plan) => Ok(Candidate(Planned { problem: problem.clone(), plan }, None)),
        Err(why) => Err(reject(Some(problem), remedy, &why)),
    }
}

fn reject(problem: Option<&Problem>, remedy: &dyn Remedy, why: &NotApplicable) -> Rejected {
    Rejected {
        problem_class: problem.map_or("none", |problem| problem.class.as_str()).to_owned(),
        strategy: Some(remedy.name().to_owned()),
        reason: match why {
            NotApplicable::NothingToDo { .. } => Reason::NothingToDo,
            NotApplicable::DoseTooSmall { .. } => Reason::DoseTooSmall,
            NotApplicable::DiskHeadroom { .. } => Reason::DiskHeadroom,
            NotApplicable::NoOrchestrator { .. } => Reason::NoOrchestrator,
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
    let by_hand = input.request.by_hand();
    let class = planned.problem.class.as_str();
    let strategies = [Some(planned.plan.strategy.as_str()), rollback::taken_back(&planned.plan)];
    let asks = |strategy: &str| config.require_approval_strategies.iter().any(|name| name == strategy);
    if config.require_approval.iter().any(|name| name == class) {
        Some(ApprovalReason::ProblemClass)
    } else if strategies.into_iter().flatten().any(asks) {
        Some(ApprovalReason::Strategy)
    } else if !planned.plan.reversible && config.require_approval_irreversible {
        Some(ApprovalReason::Irreversible)
    } else if by_hand && planned.plan.impact > config.max_auto_heal_impact {
        Some(ApprovalReason::Impact)
    } else if !by_hand && config.mode == Mode::Approve {
        Some(ApprovalReason::Mode)
    } else if !by_hand && selection::mode(input, &planned.plan.strategy) == Mode::Approve {
        Some(ApprovalReason::Autonomy)
    } else {
        None
    }
}
