//! Wrong ways to drive the core, each of which the checks must catch: planted ones, and those that the extension was
//! found to have. A scenario names the ones it runs with; the runs of `simulate` have none.

use serde::{Deserialize, Serialize};

/// A wrong way to drive the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// The core is told of no earlier action: cooldown and the attempts of the window are void.
    NoCooldown,
    /// Effects without an intent committed before.
    NoJournal,
    /// A dead worker keeps its lock, so that nobody takes its action over: what holds an action is never given back.
    LeakedLease,
    /// A step of tuning that does nothing, and a verification that takes its word.
    CreditedNoop,
    /// The core is told that nothing is in flight, and the unique index on open actions is gone.
    NoSingleFlight,
    /// The age of an observation is not looked at.
    StaleSnapshot,
    /// The list of leftovers that were there before a reindex is lost, and the empty list is read as "all are ours".
    EmptyIsEverything,
    /// An empty list of partitions is taken for what was there before.
    EmptyListingTrusted,
    /// The core is told that every remedy is as good as new: its failures in a row are forgotten.
    FailuresForgotten,
    /// Inverses run first to last.
    RollbackInOrder,
    /// Undoing a move of rows leaves out its first batch.
    BatchForgotten,
    /// A comparison that is lost swaps all the same, and verification asks the remedy alone.
    NoComparison,
    /// A throttle is set without an end.
    ThrottleStays,
    /// A job of pg_cron that was paused stays so when its lease is over.
    JobStaysPaused,
    /// What is decided here and prepared on the other server is rolled back there after a crash.
    DecidedRolledBack,
    /// Nobody looks after what is prepared on the other server.
    PreparedForgotten,
    /// The last row of the audit log is not written in one transaction with what it is about: a crash takes it.
    AuditLost,
    /// What was learned is held in memory alone.
    LearningInMemory,
    /// Mode and approvals are not looked at.
    ConsentIgnored,
    /// `max_auto_heal_impact` and `max_stress_impact` are not looked at.
    ImpactIgnored,
    /// Attempts in the window are not counted.
    AttemptsUncounted,
    /// Nobody looks whether healing is paused.
    PauseIgnored,
    /// Nobody looks whether the collection's maintenance is paused.
    MaintenancePauseIgnored,
    /// Nobody looks at the clock for a maintenance window.
    WindowIgnored,
    /// Open breakers are not looked at.
    BreakerIgnored,
    /// A remedy that failed is tried again as soon as the cooldown is over.
    BackoffIgnored,
    /// That the server is a standby is not looked at.
    StandbyIgnored,
    /// Limits of rows and of disk are taken for ten times as much, and what else runs on the server for nothing.
    LimitsIgnored,
    /// Switching healing off leaves what is under way alone.
    SwitchIgnored,
    /// What moved rows had brought before is not known to the next decision.
    GainsForgotten,
    /// The collector reads sizes twice as large as they are.
    SizesDoubled,
    /// Search efforts live in memory alone: each crash of the server takes them.
    EffortsInMemory,
    /// Undoing settings (weights, throttles, replicas, efforts) notes that it is done and does nothing.
    SettingsNotPutBack,
    /// A worker goes from executing to its end without verifying.
    VerifyingSkipped,
    /// An outcome is not written in one transaction with the end of its action: one that was taken over has two.
    OutcomeTwice,
    /// What an ended action left to be undone is never tried again.
    RestForgotten,
    /// A swap leaves the new index with the server's own search effort, and nobody measures what searches find then.
    EffortNotCarried,
    /// The curve that says what missing recall is worth is flat: λ does not see it.
    BlindToRecall,
    /// Once built so: approval starts a plan whatever the off switch, the server's limit and the collection say by then.
    ApprovalSkipsGates,
    /// Once built so: the verdict to keep is recorded even when a human's wish to stop was accepted before.
    KeepIgnoresAbort,
    /// Once built so: a structure that could not be read, or was read before a statistics reset, is not read again until a
    /// tenth of the rows changed.
    StructureNotReadAgain,
    /// Once built so: a worker that died says nothing of its remedy, so that a build which always runs out of memory takes the
    /// server down again after each cooldown.
    DeathUncounted,
    /// Once built so: an action whose worker errs each time gets another one for ever.
    RestartsUncounted,
    /// Once built so: a loser that cannot be dropped within a few tries stays for ever, since its action counts as ended.
    LoserForgotten,
}

impl Defect {
    /// Every defect.
    pub const ALL: [Defect; 44] = [
        Defect::NoCooldown,
        Defect::NoJournal,
        Defect::LeakedLease,
        Defect::CreditedNoop,
        Defect::NoSingleFlight,
        Defect::StaleSnapshot,
        Defect::EmptyIsEverything,
        Defect::EmptyListingTrusted,
        Defect::FailuresForgotten,
        Defect::RollbackInOrder,
        Defect::BatchForgotten,
        Defect::NoComparison,
        Defect::ThrottleStays,
        Defect::JobStaysPaused,
        Defect::DecidedRolledBack,
        Defect::PreparedForgotten,
        Defect::AuditLost,
        Defect::LearningInMemory,
        Defect::ConsentIgnored,
        Defect::ImpactIgnored,
        Defect::AttemptsUncounted,
        Defect::PauseIgnored,
        Defect::MaintenancePauseIgnored,
        Defect::WindowIgnored,
        Defect::BreakerIgnored,
        Defect::BackoffIgnored,
        Defect::StandbyIgnored,
        Defect::LimitsIgnored,
        Defect::SwitchIgnored,
        Defect::GainsForgotten,
        Defect::SizesDoubled,
        Defect::EffortsInMemory,
        Defect::SettingsNotPutBack,
        Defect::VerifyingSkipped,
        Defect::OutcomeTwice,
        Defect::RestForgotten,
        Defect::EffortNotCarried,
        Defect::BlindToRecall,
        Defect::ApprovalSkipsGates,
        Defect::KeepIgnoresAbort,
        Defect::StructureNotReadAgain,
        Defect::DeathUncounted,
        Defect::RestartsUncounted,
        Defect::LoserForgotten,
    ];
}
