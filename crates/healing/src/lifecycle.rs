//! The states of an action and the moves between them: one table.

use serde::{Deserialize, Serialize};

/// Where an action stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Planned, not yet looked at.
    Proposed,
    /// Waits for a human.
    AwaitingApproval,
    /// May run, waits for its worker.
    Approved,
    /// Its steps run (or are being undone).
    Executing,
    /// Its steps are done; the effect is being measured.
    Verifying,
    /// Verified; what it made stays.
    Succeeded,
    /// Undone; the collection is as it was.
    RolledBack,
    /// The undo itself failed: a human must look. The breaker opens.
    RollbackFailed,
    /// Failed before it changed anything, or what it changed needed no undo. Its worker died: undone.
    Failed,
    /// Stopped by a human, by a session that it stood in the way of, or by the server going down in order; undone.
    Aborted,
    /// Its time to be approved ran out, or its problem went away while it waited.
    Expired,
    /// There was nothing to do.
    Noop,
    /// A human asked for it and the engine said no; the reason is kept with it.
    Refused,
}

use Status::{
    Aborted, Approved, AwaitingApproval, Executing, Expired, Failed, Noop, Proposed, Refused, RollbackFailed,
    RolledBack, Succeeded, Verifying,
};

/// The moves: every status with those that may follow it.
const NEXT: &[(Status, &[Status])] = &[
    (Proposed, &[AwaitingApproval, Approved, Expired, Aborted, Noop, Refused]),
    (AwaitingApproval, &[Approved, Expired, Aborted]),
    (Approved, &[Executing, Expired, Aborted, Failed]),
    (Executing, &[Verifying, RolledBack, RollbackFailed, Failed, Aborted, Noop]),
    (Verifying, &[Succeeded, RolledBack, RollbackFailed, Failed, Aborted]),
    // A later `rollback` of a verified action is a move of its own.
    (Succeeded, &[RolledBack, RollbackFailed]),
    (RolledBack, &[]),
    (RollbackFailed, &[]),
    (Failed, &[]),
    (Aborted, &[]),
    (Expired, &[]),
    (Noop, &[]),
    (Refused, &[]),
];

/// A move that the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an action cannot go from {} to {}", from.as_str(), to.as_str())]
pub struct IllegalMove {
    /// Present status.
    pub from: Status,
    /// Status asked for.
    pub to: Status,
}

impl Status {
    /// Every status, in the order of an action's life.
    pub const ALL: [Status; 13] = [
        Proposed,
        AwaitingApproval,
        Approved,
        Executing,
        Verifying,
        Succeeded,
        RolledBack,
        RollbackFailed,
        Failed,
        Aborted,
        Expired,
        Noop,
        Refused,
    ];

    /// The name stored in tables and shown to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Proposed => "proposed",
            AwaitingApproval => "awaiting_approval",
            Approved => "approved",
            Executing => "executing",
            Verifying => "verifying",
            Succeeded => "succeeded",
            RolledBack => "rolled_back",
            RollbackFailed => "rollback_failed",
            Failed => "failed",
            Aborted => "aborted",
            Expired => "expired",
            Noop => "noop",
            Refused => "refused",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// What may follow.
    pub fn next(self) -> &'static [Status] {
        NEXT.iter().find(|(from, _)| *from == self).map_or(&[], |(_, to)| to)
    }

    /// Checks a move against the table and returns the new status.
    ///
    /// # Errors
    /// [`IllegalMove`] when the table does not have it.
    pub fn advance(self, to: Status) -> Result<Status, IllegalMove> {
        if self.next().contains(&to) { Ok(to) } else { Err(IllegalMove { from: self, to }) }
    }

    /// Whether the action is over (a succeeded one may still be rolled back by a human).
    pub fn is_terminal(self) -> bool {
        !matches!(self, Proposed | AwaitingApproval | Approved | Executing | Verifying)
    }

    /// Whether a worker may be changing the collection now: what single flight counts.
    pub fn is_in_flight(self) -> bool {
        matches!(self, Approved | Executing | Verifying)
    }

    /// Whether it counts against the attempts of the window and starts a cooldown: everything that ran, failed
    /// and aborted ones too; never a no-op, nor what expired before it ran.
    pub fn counts_as_attempt(self) -> bool {
        matches!(self, Executing | Verifying | Succeeded | RolledBack | RollbackFailed | Failed | Aborted)
    }
}

/// What the end of an action says of its remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lesson {
    /// It helped.
    Helped,
    /// It was carried out, or tried, and nothing was better for it: a lost comparison, no gain when measured again, no
    /// search effort that finds enough. Its machinery works, so its breaker stays closed; this part does not want it
    /// now, so it waits here, until that wait is over or the part has become clearly worse.
    NoGain,
    /// Circumstances were in the way: its locks were not given in time, a panel was cancelled, the world was no longer
    /// as planned. It waits for a quieter moment; no evidence against it.
    Postponed,
    /// A step failed, its time ran out or its worker died: it backs off, and after several opens its breaker.
    Fault,
    /// It could not be undone: a human must look, its breaker opens.
    UndoFailed,
    /// Nothing: it never ran, or a human or the server's operator stopped it.
    Nothing,
}

impl Lesson {
    /// Every lesson.
    pub const ALL: [Lesson; 6] = [
        Lesson::Helped,
        Lesson::NoGain,
        Lesson::Postponed,
        Lesson::Fault,
        Lesson::UndoFailed,
        Lesson::Nothing,
    ];

    /// The name stored in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Lesson::Helped => "helped",
            Lesson::NoGain => "no_gain",
            Lesson::Postponed => "postponed",
            Lesson::Fault => "fault",
            Lesson::UndoFailed => "undo_failed",
            Lesson::Nothing => "nothing",
        }
    }

    /// The lesson of that name.
    pub fn parse(name: &str) -> Option<Lesson> {
        Lesson::ALL.into_iter().find(|lesson| lesson.as_str() == name)
    }

    /// What it says that an action was carried out and was not verified. `complete`: all readings were there, as one that did
    /// not come says nothing of the remedy. `left_out`: what a part that was left out says; where a fault or a lock was in
    /// the way of that, it is what the action went wrong by.
    pub fn unverified(complete: bool, left_out: Option<Lesson>) -> Lesson {
        match left_out {
            Some(lesson @ (Lesson::Fault | Lesson::Postponed)) => lesson,
            _ if complete => Lesson::NoGain,
            _ => Lesson::Postponed,
        }
    }

    /// What a status alone says, where nothing more was noted.
    pub fn of(status: Status) -> Lesson {
        match status {
            Succeeded => Lesson::Helped,
            RolledBack | Failed => Lesson::Fault,
            RollbackFailed => Lesson::UndoFailed,
            Proposed | AwaitingApproval | Approved | Executing | Verifying | Aborted | Expired | Noop
            | Refused => Lesson::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_every_status_once_and_ends_are_ends() {
        assert_eq!(NEXT.iter().map(|(from, _)| *from).collect::<Vec<_>>(), Status::ALL);
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
            if status.is_terminal() && status != Succeeded {
                assert!(status.next().is_empty(), "{status:?}");
            }
            let in_flight = matches!(status, Approved | Executing | Verifying);
            assert_eq!(status.is_in_flight(), in_flight, "{status:?}");
        }
        assert_eq!(Status::parse("done"), None);
    }

    #[test]
    fn every_open_status_can_reach_an_end_and_be_aborted() {
        for status in Status::ALL.into_iter().filter(|s| !s.is_terminal()) {
            assert!(status.next().contains(&Aborted), "{status:?}");
        }
    }

    #[test]
    fn the_straight_way_and_two_forbidden_ones() {
        let way = [Proposed, Approved, Executing, Verifying, Succeeded];
        for pair in way.windows(2) {
            assert_eq!(pair[0].advance(pair[1]), Ok(pair[1]));
        }
        let error = Proposed.advance(Executing).unwrap_err();
        assert_eq!(error.to_string(), "an action cannot go from proposed to executing");
        assert!(AwaitingApproval.advance(Executing).is_err(), "never past a human");
    }

    #[test]
    fn noops_and_expiries_are_no_attempts() {
        for status in [Proposed, AwaitingApproval, Approved, Expired, Noop, Refused] {
            assert!(!status.counts_as_attempt(), "{status:?}");
        }
        for status in [Succeeded, RolledBack, RollbackFailed, Failed, Aborted] {
            assert!(status.counts_as_attempt(), "{status:?}");
        }
    }

    #[test]
    fn what_was_in_the_way_of_a_part_is_no_judgement_of_the_remedy() {
        assert_eq!(Lesson::unverified(true, None), Lesson::NoGain);
        assert_eq!(Lesson::unverified(false, None), Lesson::Postponed);
        for (left_out, says) in [
            // Its build ran out of memory; its lock was not given.
            (Lesson::Fault, Lesson::Fault),
            (Lesson::Postponed, Lesson::Postponed),
            // Its comparison was lost; what was done seemed enough; there was nothing to do.
            (Lesson::NoGain, Lesson::NoGain),
            (Lesson::Helped, Lesson::NoGain),
            (Lesson::Nothing, Lesson::NoGain),
        ] {
            assert_eq!(Lesson::unverified(true, Some(left_out)), says, "{left_out:?}");
        }
    }

    #[test]
    fn a_lesson_has_one_name_and_what_a_human_stopped_says_nothing() {
        for lesson in Lesson::ALL {
            assert_eq!(Lesson::parse(lesson.as_str()), Some(lesson));
            assert_eq!(serde_json::to_value(lesson).unwrap(), lesson.as_str());
        }
        assert_eq!(Lesson::parse("x"), None);
        let says = |lesson| Status::ALL.into_iter().filter(move |s| Lesson::of(*s) == lesson);
        assert_eq!(says(Lesson::Helped).collect::<Vec<_>>(), [Succeeded]);
        assert_eq!(says(Lesson::Fault).collect::<Vec<_>>(), [RolledBack, Failed]);
        assert_eq!(says(Lesson::UndoFailed).collect::<Vec<_>>(), [RollbackFailed]);
        assert_eq!(Lesson::of(Aborted), Lesson::Nothing);
    }
}
