//! The decision: act, with which plan and whose consent, or why not. Pure; the extension carries it out.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::classify::{Problem, ProblemClass, diagnose};
use crate::config::{Config, Mode};
use crate::graph::NodeKey;
use crate::integrity::{Assessment, IntegrityState, StateRecord};
use crate::lifecycle::Status;
use crate::plan::Plan;
use crate::remedies::{self, Limits, NotApplicable, Params, Remedy};
use crate::snapshot::{Snapshot, UnixMs};

/// Actions further back than this say nothing about whether healing works now, milliseconds.
const INEFFECTIVE_WINDOW_MS: i64 = 24 * 3_600_000;

/// Why nothing is done: the closed list that SQL, metrics and documents share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Healing is switched off.
    Disabled,
    /// The mode is observe: planned only.
    ObserveMode,
    /// The server is a standby or in recovery.
    InRecovery,
    /// λ is normal.
    StateNormal,
    /// λ is low, not yet for long enough.
    Dwelling,
    /// Too soon after the last attempt.
    Cooldown,
    /// As many attempts as the window allows were made.
    AttemptsExhausted,
    /// An action on this table is in flight.
    ActionInFlight,
    /// The server has as many actions in flight as are allowed.
    ServerBusy,
    /// The cause is unknown: a human must look.
    UnknownProblem,
    /// No remedy treats this problem.
    NoStrategy,
    /// Remedies treat it, none can be applied here.
    NotApplicable,
    /// The plan's impact is above `max_auto_heal_impact`.
    OverImpactLimit,
    /// The plan's impact is above `max_stress_impact` and the state is not critical.
    OverStressImpact,
    /// Too little free disk.
    DiskHeadroom,
    /// The last two actions left the component weaker than it was.
    HealingIneffective,
    /// The remedy failed lately and waits.
    ArmBackoff,
    /// The remedy failed several times in a row; a human closes its breaker.
    BreakerOpen,
    /// The observation is too old to act on.
    StaleSnapshot,
    /// There is nothing to do.
    NothingToDo,
    /// λ is not known.
    LambdaUnknown,
    /// A manual request names no remedy, or parameters that it does not take.
    InvalidRequest,
}

impl Reason {
    /// Every reason, in the order in which they are looked at.
    pub const ALL: [Reason; 22] = [
        Reason::InvalidRequest,
        Reason::Disabled,
        Reason::InRecovery,
        Reason::StaleSnapshot,
        Reason::ActionInFlight,
        Reason::ServerBusy,
        Reason::LambdaUnknown,
        Reason::StateNormal,
        Reason::Dwelling,
        Reason::Cooldown,
        Reason::AttemptsExhausted,
        Reason::NothingToDo,
        Reason::UnknownProblem,
        Reason::NoStrategy,
        Reason::HealingIneffective,
        Reason::BreakerOpen,
        Reason::ArmBackoff,
        Reason::NotApplicable,
        Reason::DiskHeadroom,
        Reason::OverImpactLimit,
        Reason::OverStressImpact,
        Reason::ObserveMode,
    ];

    /// The name in SQL, metrics and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Disabled => "disabled",
            Reason::ObserveMode => "observe_mode",
            Reason::InRecovery => "in_recovery",
            Reason::StateNormal => "state_normal",
            Reason::Dwelling => "dwelling",
            Reason::Cooldown => "cooldown",
            Reason::AttemptsExhausted => "attempts_exhausted",
            Reason::ActionInFlight => "action_in_flight",
            Reason::ServerBusy => "server_busy",
            Reason::UnknownProblem => "unknown_problem",
            Reason::NoStrategy => "no_strategy",
            Reason::NotApplicable => "not_applicable",
            Reason::OverImpactLimit => "over_impact_limit",
            Reason::OverStressImpact => "over_stress_impact",
            Reason::DiskHeadroom => "disk_headroom",
            Reason::HealingIneffective => "healing_ineffective",
            Reason::ArmBackoff => "arm_backoff",
            Reason::BreakerOpen => "breaker_open",
            Reason::StaleSnapshot => "stale_snapshot",
            Reason::NothingToDo => "nothing_to_do",
            Reason::LambdaUnknown => "lambda_unknown",
            Reason::InvalidRequest => "invalid_request",
        }
    }

    /// What it means and what a human can do, in one sentence.
    pub fn explain(self) -> &'static str {
        match self {
            Reason::Disabled => "Healing is switched off; set enabled to true.",
            Reason::ObserveMode => {
                "The mode is observe: problems are planned for, not repaired; set mode to auto or approve."
            }
            Reason::InRecovery => "The server is a standby or in recovery; only a primary is healed.",
            Reason::StateNormal => "The collection is healthy enough; nothing needs repair.",
            Reason::Dwelling => {
                "λ is low, but for fewer samples than dwell_samples; a short dip is not acted upon."
            }
            Reason::Cooldown => "The last attempt ended less than min_healing_interval_seconds ago.",
            Reason::AttemptsExhausted => {
                "max_attempts_per_window attempts were made within attempt_window_seconds."
            }
            Reason::ActionInFlight => "An action on this table is under way; one at a time.",
            Reason::ServerBusy => "max_concurrent_actions actions are under way on this server.",
            Reason::UnknownProblem => "The witness fits no known cause; a human must look at it.",
            Reason::NoStrategy => "No remedy treats this class of problem.",
            Reason::NotApplicable => {
                "Remedies treat this problem, but none can be applied here; the detail says why."
            }
            Reason::OverImpactLimit => {
                "The plan's impact is above max_auto_heal_impact; run it by hand or raise the limit."
            }
            Reason::OverStressImpact => {
                "The plan's impact is above max_stress_impact and the state is not critical."
            }
            Reason::DiskHeadroom => "The plan needs more than max_disk_share of the free disk.",
            Reason::HealingIneffective => {
                "The last two actions left this part weaker than before; a human must look."
            }
            Reason::ArmBackoff => "The remedy failed lately and waits before it is tried again.",
            Reason::BreakerOpen => {
                "The remedy failed several times in a row; look into it and close its breaker."
            }
            Reason::StaleSnapshot => {
                "The observation is older than max_snapshot_age_seconds; a new one is awaited."
            }
            Reason::NothingToDo => "There is nothing to repair.",
            Reason::LambdaUnknown => "λ could not be computed; the detail says which reading is missing.",
            Reason::InvalidRequest => "The request names a strategy or parameter that does not exist.",
        }
    }

    /// The reason of that name.
    pub fn parse(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

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

/// One earlier action on this collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub started_at: UnixMs,
    /// When it ended; None while it runs.
    pub ended_at: Option<UnixMs>,
    /// How it stands or ended.
    pub status: Status,
    /// Its strategy.
    pub strategy: String,
    /// Class name of its problem.
    pub problem_class: String,
    /// λ of its component before.
    pub lambda_before: Option<f64>,
    /// λ of its component after.
    pub lambda_after: Option<f64>,
    /// Nodes of its component.
    pub nodes: Vec<NodeKey>,
}

/// What is known of one remedy on one collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// The remedy's name.
    pub strategy: String,
    /// Failures in a row.
    pub failures: u32,
    /// Not before.
    pub backoff_until: Option<UnixMs>,
    /// Closed by a human only.
    pub breaker_open: bool,
    /// Learned weight, 1 when nothing was learned; breaks ties between remedies of equal impact.
    pub weight: f64,
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
    if !params.dry_run {
        for gate in [gate_server, gate_time] {
            if let Err(refusal) = gate(input) {
                return refuse(refusal, None, vec![]);
            }
        }
    }
    let mut rejected = Vec::new();
    for candidate in candidates(input, &params) {
        match candidate
            .and_then(|c| c.check(input, params.dry_run).map_or(Ok(c.clone()), |r| Err(c.rejected(r))))
        {
            Ok(candidate) => {
                let planned = Box::new(candidate.planned);
                let observing =
                    input.config.mode == Mode::Observe && !matches!(input.request, Request::Execute { .. });
                if observing && !params.dry_run {
                    let refusal = Refusal::new(Reason::ObserveMode, Reason::ObserveMode.explain());
                    return refuse(refusal, Some(planned), rejected);
                }
                let approval = approval(input, &planned);
                return Decision::Act { planned, approval, dry_run: params.dry_run, rejected };
            }
            Err(reject) => rejected.push(reject),
        }
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

/// When the cooldown after the last attempt ends; None when there was none. It may lie in the past.
pub fn cooldown_until(history: &[Attempt], config: &Config) -> Option<UnixMs> {
    history
        .iter()
        .filter(|attempt| attempt.status.counts_as_attempt())
        .map(|attempt| attempt.ended_at.unwrap_or(attempt.started_at))
        .max()
        .map(|end| end.saturating_add(config.min_healing_interval_seconds.saturating_mul(1000)))
}

/// When the window has room again, if it is full now (refused at `>=`).
fn attempts_exhausted_until(history: &[Attempt], config: &Config, now: UnixMs) -> Option<UnixMs> {
    let window_ms = config.attempt_window_seconds.saturating_mul(1000);
    let mut starts: Vec<UnixMs> = history
        .iter()
        .filter(|attempt| attempt.status.counts_as_attempt() && attempt.started_at > now - window_ms)
        .map(|attempt| attempt.started_at)
        .collect();
    starts.sort_unstable();
    let max = usize::try_from(config.max_attempts_per_window).unwrap_or(usize::MAX);
    // Room comes when the attempt that is `max` from the end leaves the window.
    starts.len().checked_sub(max).and_then(|at| starts.get(at)).map(|start| start + window_ms)
}

#[derive(Clone)]
struct Candidate {
    planned: Planned,
    reversible: bool,
}

impl Candidate {
    fn rejected(&self, refusal: Refusal) -> Rejected {
        Rejected {
            problem_class: self.planned.problem.class.as_str().to_owned(),
            strategy: Some(self.planned.plan.strategy.clone()),
            reason: refusal.reason,
            detail: refusal.detail,
            until: refusal.until,
        }
    }

    /// The gates of one plan.
    fn check(&self, input: &DecisionInput<'_>, dry_run: bool) -> Option<Refusal> {
        let _ = self.reversible;
        let plan = &self.planned.plan;
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
    let limits = Limits::new(input.config, input.snapshot, params.clone());
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
            let (a, b) = (&a.planned.plan, &b.planned.plan);
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
        Ok(plan) => {
            let reversible = plan.reversible;
            Ok(Candidate { planned: Planned { problem: problem.clone(), plan }, reversible })
        }
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

fn same_component(nodes: &[NodeKey], others: &[NodeKey]) -> bool {
    nodes.iter().any(|node| others.iter().any(|other| node.same_unit(other)))
}

/// Earlier actions on the problem's component, oldest first.
fn on_component<'a>(problem: &Problem, history: &'a [Attempt]) -> Vec<&'a Attempt> {
    let mut attempts: Vec<&Attempt> =
        history.iter().filter(|attempt| same_component(&attempt.nodes, &problem.component.nodes)).collect();
    attempts.sort_by_key(|attempt| (attempt.ended_at.unwrap_or(attempt.started_at), attempt.started_at));
    attempts
}

/// Whether this strategy succeeded on the component within the attempt window and the problem is still there.
fn tried(plan: &Plan, problem: &Problem, input: &DecisionInput<'_>) -> bool {
    let since = input.now - input.config.attempt_window_seconds.saturating_mul(1000);
    on_component(problem, input.history).iter().any(|attempt| {
        attempt.strategy == plan.strategy && attempt.status == Status::Succeeded && attempt.started_at > since
    })
}

/// Whether the last two finished actions on the component left it weaker than it was before the first of them.
fn ineffective(problem: &Problem, history: &[Attempt], now: UnixMs) -> Option<(String, UnixMs)> {
    let finished: Vec<(&Attempt, f64, f64)> = on_component(problem, history)
        .into_iter()
        .filter(|attempt| attempt.status.counts_as_attempt() && attempt.status.is_terminal())
        .filter(|attempt| attempt.started_at > now - INEFFECTIVE_WINDOW_MS)
        .filter_map(|attempt| Some((attempt, attempt.lambda_before?, attempt.lambda_after?)))
        .collect();
    let [.., (first, before, _), (_, _, after)] = finished.as_slice() else { return None };
    (after < before).then(|| {
        (
            format!("λ of this part was {before:.3} before the last two actions and {after:.3} after them"),
            first.started_at + INEFFECTIVE_WINDOW_MS,
        )
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

impl Arm {
    /// A remedy of which nothing is known yet.
    pub fn new(strategy: impl Into<String>) -> Self {
        Self { strategy: strategy.into(), failures: 0, backoff_until: None, breaker_open: false, weight: 1.0 }
    }

    /// The arm after an action of the remedy ended at `now` with `status`: a success clears it, a failure doubles
    /// the wait (with up to a tenth of jitter taken from `seed`) and after `breaker_failures` in a row opens the
    /// breaker; a failed rollback opens it at once. Anything else leaves it.
    #[must_use]
    pub fn after(&self, status: Status, now: UnixMs, config: &Config, seed: u64) -> Arm {
        let mut arm = self.clone();
        if status == Status::Succeeded {
            arm.failures = 0;
            arm.backoff_until = None;
        } else if status.counts_as_failure() {
            arm.failures = arm.failures.saturating_add(1);
            arm.backoff_until = Some(now.saturating_add(backoff_ms(arm.failures, config, seed)));
            if i64::from(arm.failures) >= config.breaker_failures || status == Status::RollbackFailed {
                arm.breaker_open = true;
            }
        }
        arm
    }
}

/// base × 2^(failures − 1), at most the cap, and up to a tenth more so that several do not come back at once.
fn backoff_ms(failures: u32, config: &Config, seed: u64) -> i64 {
    let base = config.backoff_base_seconds as f64;
    let doubled = base * 2f64.powi(failures.saturating_sub(1).min(62) as i32);
    let wait_s = doubled.min(config.backoff_cap_seconds as f64);
    let jitter = (crate::kmeans::mix(seed ^ u64::from(failures)) >> 11) as f64 / (1u64 << 53) as f64;
    // At most 1.1 x 30 days: far below what an i64 of milliseconds holds.
    (wait_s * 1000.0 * (1.0 + 0.1 * jitter)) as i64
}
