//! Leases: the end that every suppressive effect carries, and which of them end now.
//!
//! A throttle, a paused job, an autovacuum that is kept away: each holds something back that somebody wanted. So each is a
//! lease with an end of its own, and what was before is written down with it. Who carries it out asks here, at every start
//! and every sample, which leases are over and why; a lease that is not over is put into force again (after a crash nothing
//! of it is left).

use serde::{Deserialize, Serialize};

use crate::lifecycle::Status;
use crate::snapshot::UnixMs;

/// Longest lease, seconds: who wants more renews it.
pub const LEASE_MAX_S: i64 = 86_400;

/// What is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseKind {
    /// Writers of a collection.
    Throttle,
    /// A job of pg_cron.
    CronJob,
    /// Autovacuum on a collection's tables.
    Autovacuum,
    /// New rows, and reads, of a partition that is being drained.
    Drain,
}

impl LeaseKind {
    /// Every kind.
    pub const ALL: [LeaseKind; 4] =
        [LeaseKind::Throttle, LeaseKind::CronJob, LeaseKind::Autovacuum, LeaseKind::Drain];

    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            LeaseKind::Throttle => "throttle",
            LeaseKind::CronJob => "cron_job",
            LeaseKind::Autovacuum => "autovacuum",
            LeaseKind::Drain => "drain",
        }
    }
}

/// A lease that nobody has ended yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Its number; a later one on the same thing counts before an earlier one.
    pub id: i64,
    /// What it holds back.
    pub kind: LeaseKind,
    /// Which of these: a collection, a job.
    pub subject: String,
    /// When it began.
    pub begins: UnixMs,
    /// When it ends.
    pub ends: UnixMs,
    /// Whether its collection is registered and its table there.
    pub collection_is_there: bool,
    /// Whether healing is switched on for its collection.
    pub enabled: bool,
    /// How the action that made it stands; None where a human made it.
    pub action: Option<Status>,
}

/// Why a lease is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Its time is over.
    Expired,
    /// The clock was set back by more than it could last.
    ClockSetBack,
    /// Its action ended otherwise than well, or is gone.
    ActionEnded,
    /// Its collection is not there any more.
    CollectionGone,
    /// A human, or the undoing of its action, ended it.
    Released,
    /// Something waited for what it held, or must not be held back any longer.
    GaveWay,
    /// Healing was switched off: nothing of it stays in force.
    SwitchedOff,
}

impl Over {
    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Over::Expired => "expired",
            Over::ClockSetBack => "clock_set_back",
            Over::ActionEnded => "action_ended",
            Over::CollectionGone => "collection_gone",
            Over::Released => "released",
            Over::GaveWay => "gave_way",
            Over::SwitchedOff => "switched_off",
        }
    }
}

/// By how much a clock may be corrected just after a lease began, milliseconds.
const CLOCK_SLACK_MS: i64 = 1000;

/// Why this lease is over at `now`; None while it is in force.
pub fn over(lease: &Lease, now: UnixMs) -> Option<Over> {
    if !lease.collection_is_there {
        return Some(Over::CollectionGone);
    }
    if now >= lease.ends {
        return Some(Over::Expired);
    }
    if !lease.enabled {
        return Some(Over::SwitchedOff);
    }
    // Otherwise a clock that goes back a year would make a year of a quarter of an hour. Set back to just after its beginning
    // just before its end, it makes two lengths of one.
    if now < lease.begins.saturating_sub(CLOCK_SLACK_MS) {
        return Some(Over::ClockSetBack);
    }
    match lease.action {
        // Its worker lives, or the next one undoes or finishes it.
        None | Some(Status::Approved | Status::Executing | Status::Verifying) => None,
        Some(Status::Succeeded) => None,
        // What could not be undone as a step is undone here.
        Some(_) => Some(Over::ActionEnded),
    }
}

/// The leases that end at `now`, in the order in which they are undone: the last made first.
pub fn due(leases: &[Lease], now: UnixMs) -> Vec<(i64, Over)> {
    let mut ending: Vec<(i64, Over)> =
        leases.iter().filter_map(|lease| Some((lease.id, over(lease, now)?))).collect();
    ending.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    ending
}

/// The leases in force at `now`, one for each thing that is held back: the last made counts, and when it ends the one
/// before it does again.
pub fn in_force(leases: &[Lease], now: UnixMs) -> Vec<&Lease> {
    let mut found: Vec<&Lease> = Vec::new();
    for lease in leases.iter().filter(|lease| over(lease, now).is_none()) {
        match found.iter_mut().find(|other| (other.kind, &other.subject) == (lease.kind, &lease.subject)) {
            Some(other) if other.id < lease.id => *other = lease,
            Some(_) => {}
            None => found.push(lease),
        }
    }
    found.sort_by_key(|lease| lease.id);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(id: i64, begins: UnixMs, ends: UnixMs) -> Lease {
        Lease {
            id,
            kind: LeaseKind::Throttle,
            subject: "docs".to_owned(),
            begins,
            ends,
            collection_is_there: true,
            enabled: true,
            action: None,
        }
    }

    #[test]
    fn a_lease_ends_when_its_time_is_over_and_not_before() {
        let one = lease(1, 1000, 2000);
        assert_eq!((over(&one, 1999), over(&one, 2000)), (None, Some(Over::Expired)));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_lease_longer_than_twice() {
        let one = lease(1, 100_000, 200_000);
        assert_eq!(over(&one, 99_000), None);
        assert_eq!(over(&one, 98_999), Some(Over::ClockSetBack));
        // Whenever and however far it is set back: how long it holds in true time.
        for elapsed in (0..100_000).step_by(1000) {
            for back in (0..300_000).step_by(1000) {
                let now = 100_000 + elapsed - back;
                let held = elapsed + if over(&one, now).is_some() { 0 } else { 200_000 - now };
                assert!(held <= 2 * 100_000 + CLOCK_SLACK_MS, "{elapsed} {back}: {held}");
            }
        }
    }

    #[test]
    fn what_an_action_did_goes_with_it_unless_it_succeeded() {
        for status in Status::ALL {
            let one = Lease { action: Some(status), ..lease(1, 0, 1000) };
            let stays = status.is_in_flight() || status == Status::Succeeded;
            assert_eq!(over(&one, 1).is_none(), stays, "{status:?}");
        }
    }

    #[test]
    fn nothing_is_held_back_once_healing_is_switched_off() {
        let one = Lease { enabled: false, ..lease(1, 0, 1000) };
        assert_eq!(over(&one, 1), Some(Over::SwitchedOff));
        assert!(in_force(&[one], 1).is_empty());
    }

    #[test]
    fn nothing_is_held_back_of_a_collection_that_is_gone() {
        let one = Lease { collection_is_there: false, ..lease(1, 0, 1000) };
        assert_eq!(over(&one, 1), Some(Over::CollectionGone));
    }

    #[test]
    fn the_last_made_counts_and_the_one_before_it_comes_back() {
        let leases =
            [lease(1, 0, 1000), lease(2, 10, 500), Lease { subject: "notes".into(), ..lease(3, 10, 500) }];
        let ids = |now| in_force(&leases, now).iter().map(|lease| lease.id).collect::<Vec<_>>();
        assert_eq!(ids(100), [2, 3]);
        assert_eq!(ids(600), [1]);
        assert_eq!(ids(1000), [0; 0]);
        assert_eq!(due(&leases, 600), [(3, Over::Expired), (2, Over::Expired)]);
    }

    proptest! {
        /// At every moment a lease is either due or counted, and nothing is held back beyond its end.
        #[test]
        fn every_lease_is_due_or_covered(
            spans in prop::collection::vec((0i64..1000, 1i64..1000, 0usize..14), 0..20),
            now in 0i64..3000,
        ) {
            let leases: Vec<Lease> = (1..).zip(&spans).map(|(id, (begins, length, action))| Lease {
                action: Status::ALL.get(*action).copied(),
                ..lease(id, *begins, begins + length)
            }).collect();
            let due = due(&leases, now);
            let in_force = in_force(&leases, now);
            prop_assert!(in_force.len() <= 1);
            for one in &leases {
                let ending = due.iter().any(|(id, _)| *id == one.id);
                prop_assert_eq!(ending, over(one, now).is_some());
                prop_assert!(ending || now < one.ends);
                prop_assert!(ending || in_force[0].id >= one.id);
            }
        }
    }
}
