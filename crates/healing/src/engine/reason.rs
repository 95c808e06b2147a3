//! Why nothing is done: one closed list.

use serde::{Deserialize, Serialize};

/// Why nothing is done: the closed list that SQL, metrics and documents share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Healing is switched off.
    Disabled,
    /// A human has paused healing until a moment.
    Paused,
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
    /// With the actions under way its impact would be above `max_total_impact`.
    ImpactBudget,
    /// No maintenance window is open, or it ends too soon.
    OutsideWindow,
    /// The server has other things to do, or somebody is behind already.
    NotQuiet,
    /// The collection's maintenance is paused.
    MaintenancePaused,
    /// This may be a copy of the server that was set up, and the plan reaches beyond it.
    IdentityChanged,
    /// As much as may be moved at once is expected to help less than an action must.
    DoseTooSmall,
    /// Too little free disk.
    DiskHeadroom,
    /// The last two actions left the component weaker than it was.
    HealingIneffective,
    /// The remedy failed lately, or was no gain for this part, found nothing to do or was put off, and waits.
    ArmBackoff,
    /// The remedy failed several times in a row; a human closes its breaker.
    BreakerOpen,
    /// The remedy failed so often here that it only plans; its evidence or a human raises it again.
    AutonomyLowered,
    /// Healing is delayed at random, to see whether the problem clears by itself.
    ControlDelay,
    /// The observation is too old to act on.
    StaleSnapshot,
    /// There is nothing to do.
    NothingToDo,
    /// λ is not known.
    LambdaUnknown,
    /// No orchestrator can start a replica.
    NoOrchestrator,
    /// A manual request names no remedy, or parameters that it does not take.
    InvalidRequest,
}

impl Reason {
    /// Every reason, in the order in which they are looked at.
    pub const ALL: [Reason; 32] = [
        Reason::InvalidRequest,
        Reason::Disabled,
        Reason::Paused,
        Reason::InRecovery,
        Reason::StaleSnapshot,
        Reason::ActionInFlight,
        Reason::ServerBusy,
        Reason::LambdaUnknown,
        Reason::StateNormal,
        Reason::Dwelling,
        Reason::Cooldown,
        Reason::AttemptsExhausted,
        Reason::ControlDelay,
        Reason::NothingToDo,
        Reason::UnknownProblem,
        Reason::NoStrategy,
        Reason::HealingIneffective,
        Reason::BreakerOpen,
        Reason::ArmBackoff,
        Reason::NotApplicable,
        Reason::NoOrchestrator,
        Reason::DoseTooSmall,
        Reason::DiskHeadroom,
        Reason::OverImpactLimit,
        Reason::OverStressImpact,
        Reason::AutonomyLowered,
        Reason::IdentityChanged,
        Reason::ImpactBudget,
        Reason::NotQuiet,
        Reason::MaintenancePaused,
        Reason::OutsideWindow,
        Reason::ObserveMode,
    ];

    /// The name in SQL, metrics and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Disabled => "disabled",
            Reason::Paused => "paused",
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
            Reason::ImpactBudget => "impact_budget",
            Reason::OutsideWindow => "outside_window",
            Reason::NotQuiet => "not_quiet",
            Reason::MaintenancePaused => "maintenance_paused",
            Reason::IdentityChanged => "identity_changed",
            Reason::DoseTooSmall => "dose_too_small",
            Reason::DiskHeadroom => "disk_headroom",
            Reason::HealingIneffective => "healing_ineffective",
            Reason::ArmBackoff => "arm_backoff",
            Reason::BreakerOpen => "breaker_open",
            Reason::AutonomyLowered => "autonomy_lowered",
            Reason::ControlDelay => "control_delay",
            Reason::StaleSnapshot => "stale_snapshot",
            Reason::NothingToDo => "nothing_to_do",
            Reason::LambdaUnknown => "lambda_unknown",
            Reason::NoOrchestrator => "no_orchestrator",
            Reason::InvalidRequest => "invalid_request",
        }
    }

    /// What it means and what a human can do, in one sentence.
    pub fn explain(self) -> &'static str {
        match self {
            Reason::Disabled => "Healing is switched off; set enabled to true.",
            Reason::Paused => {
                "A human has paused healing; it goes on by itself, or with ruvector_healing_resume()."
            }
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
            Reason::ImpactBudget => {
                "Together with the actions under way the plan's impact is above max_total_impact."
            }
            Reason::OutsideWindow => {
                "No maintenance window is open, or it ends before the plan would; see maintenance_windows."
            }
            Reason::NotQuiet => {
                "The server is not quiet enough; the detail names the limit (a setting quiet_…)."
            }
            Reason::MaintenancePaused => {
                "The collection's maintenance is paused (ruvector_leases() says until when), and what builds is maintenance too."
            }
            Reason::IdentityChanged => {
                "This may be a copy of the server that was set up, so nothing beyond it is touched; if it is the one, SELECT ruvector_identity_confirm()."
            }
            Reason::DoseTooSmall => {
                "As many rows as may be moved at once are too few to help as much as an action must, so that they would be moved back; the detail says which limit to raise."
            }
            Reason::DiskHeadroom => "The plan needs more than max_disk_share of the free disk.",
            Reason::HealingIneffective => {
                "The last two actions left this part weaker than before; a human must look."
            }
            Reason::ArmBackoff => {
                "The remedy failed, was no gain, found nothing to do or was put off lately and waits before it is tried again."
            }
            Reason::BreakerOpen => {
                "The remedy failed several times in a row; look into it and close its breaker."
            }
            Reason::AutonomyLowered => {
                "The remedy failed here too often and only plans until its predictions come true; ruvector_healing_autonomy() raises it."
            }
            Reason::ControlDelay => {
                "Healing waits control_delay_seconds, drawn at random, to learn what clears by itself."
            }
            Reason::StaleSnapshot => {
                "The observation is older than max_snapshot_age_seconds; a new one is awaited."
            }
            Reason::NothingToDo => "There is nothing to repair.",
            Reason::LambdaUnknown => "λ could not be computed; the detail says which reading is missing.",
            Reason::NoOrchestrator => {
                "Nothing on this server can start a replica; set ruvector.scale_command in postgresql.conf."
            }
            Reason::InvalidRequest => "The request names a strategy or parameter that does not exist.",
        }
    }

    /// The reference of all reasons, as Markdown: what `docs/reference/reasons.md` holds.
    pub fn reference() -> String {
        let mut text = String::from(
            "# Why nothing is done\n\nThe closed list that `ruvector_healing_status()`, `ruvector_healing_why_not()`, \
             `ruvector.healing_decisions` and the metrics share, in the order in which they are looked at. This page is \
             written from `crates/healing/src/engine/reason.rs`.\n\n| reason | what it means |\n|---|---|\n",
        );
        for reason in Reason::ALL {
            text.push_str(&format!("| `{}` | {} |\n", reason.as_str(), reason.explain()));
        }
        text
    }

    /// The reason of that name.
    pub fn parse(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_agree_with_the_list() {
        crate::fixtures::document("reasons.md", &Reason::reference());
    }

    #[test]
    fn every_reason_has_one_name_and_one_sentence() {
        let mut names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert!(reason.explain().ends_with('.'));
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
