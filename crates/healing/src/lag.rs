//! Whether replicas fall further behind, and whether they could catch up: what remedies that write less are planned and verified by.

use crate::limits::NotApplicable;
use crate::snapshot::{Reading, Replica, Snapshot};

/// Growth that is noise, as a share of what a replica is behind, and at most so many bytes: it replays in bursts. A share of a
/// replica that is far behind would hide that it falls further behind all the time.
const GROWTH_SHARE: f64 = 0.1;
const GROWTH_SHARE_MAX: f64 = 64.0 * 1_048_576.0;
/// The same of one that was hardly behind: a WAL segment.
const GROWTH_BYTES: f64 = 16.0 * 1_048_576.0;

/// Less WAL brings nothing to a replica that receives none.
///
/// # Errors
/// [`NotApplicable::NothingToDo`] where none of these replicas is connected.
pub(crate) fn connected(snapshot: &Snapshot, ids: &[i64]) -> Result<(), NotApplicable> {
    let replicas = snapshot.replicas.as_ref().and_then(Reading::known).map_or(&[][..], Vec::as_slice);
    let named = || replicas.iter().filter(|replica| ids.contains(&replica.id));
    if named().any(|replica| replica.gone_s.is_none()) || named().next().is_none() {
        return Ok(());
    }
    let names: Vec<&str> = named().map(|replica| replica.name.as_str()).collect();
    Err(NotApplicable::NothingToDo {
        detail: format!("{} is not connected: it is behind whatever is written here", names.join(", ")),
    })
}

/// Whether it is known before and after how far these replicas are behind.
pub(crate) fn is_read(ids: &[i64], before: &Snapshot, after: &Snapshot) -> bool {
    behind(before, ids).is_some() && behind(after, ids).is_some()
}

/// An error where the one of these replicas that is furthest behind fell further behind, or where that is not known (any more). What
/// was not known before and is now cannot be said to have grown.
pub(crate) fn stands(ids: &[i64], before: &Snapshot, after: &Snapshot) -> Result<(), String> {
    match (behind(before, ids), behind(after, ids)) {
        (Some(then), Some(now))
            if now > then + (then * GROWTH_SHARE).min(GROWTH_SHARE_MAX) + GROWTH_BYTES =>
        {
            Err(format!("bytes that a replica is behind went on growing, from {then:.0} to {now:.0}"))
        }
        (Some(_), None) => Err("how far the replica is behind could not be read again".to_owned()),
        (None, None) => Err("how far the replica is behind was read neither before nor after".to_owned()),
        (_, Some(_)) => Ok(()),
    }
}

fn behind(snapshot: &Snapshot, ids: &[i64]) -> Option<f64> {
    let replicas = snapshot.replicas.as_ref()?.known()?;
    let of = |replica: &&Replica| ids.contains(&replica.id);
    replicas.iter().filter(of).filter_map(|replica| replica.lag_bytes.known().copied()).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{replica, whole};

    fn behind_by(bytes: Option<f64>) -> Snapshot {
        let mut snapshot = whole(1, 1, 0, 1, 0);
        let mut one = replica(1);
        one.lag_bytes = bytes.map_or_else(|| Reading::unknown("no"), Reading::Known);
        snapshot.replicas = Some(Reading::Known(vec![one]));
        snapshot
    }

    #[test]
    fn a_tenth_of_little_is_noise_and_of_much_is_not() {
        let grows =
            |then: f64, now: f64| stands(&[1], &behind_by(Some(then)), &behind_by(Some(now))).is_err();
        assert!(!grows(0.0, 16e6) && grows(0.0, 17e6));
        assert!(!grows(1e8, 1.26e8) && grows(1e8, 1.28e8));
        assert!(!grows(1e9, 1.08e9) && grows(1e9, 1.09e9));
        // Twenty seconds of 60 MB/s, eight hundredths of it.
        assert!(grows(1.5e10, 1.62e10));
        assert!(!grows(1.5e10, 1.4e10));
    }

    #[test]
    fn what_is_not_known_any_more_proves_nothing() {
        let (known, unknown) = (behind_by(Some(1e9)), behind_by(None));
        assert!(stands(&[1], &known, &unknown).is_err());
        assert_eq!(stands(&[1], &unknown, &known), Ok(()));
        assert!(is_read(&[1], &known, &known) && !is_read(&[1], &unknown, &known));
    }

    #[test]
    fn what_was_never_known_proves_nothing_either() {
        let (known, unknown) = (behind_by(Some(1e9)), behind_by(None));
        assert!(stands(&[1], &unknown, &unknown).is_err());
        assert!(
            stands(&[2], &known, &behind_by(Some(2e9))).is_err(),
            "another replica says nothing of this one"
        );
    }

    #[test]
    fn one_that_is_connected_is_enough_to_write_less_for() {
        let mut snapshot = whole(1, 1, 0, 2, 0);
        let mut two = [replica(1), replica(2)];
        two[0].gone_s = Some(900.0);
        snapshot.replicas = Some(Reading::Known(two.to_vec()));
        assert_eq!(connected(&snapshot, &[1, 2]), Ok(()));
        assert_eq!(connected(&snapshot, &[2]), Ok(()));
        let gone = connected(&snapshot, &[1]).unwrap_err();
        assert!(gone.to_string().contains("standby1 is not connected"), "{gone}");
        // What was not looked at is not said to be gone.
        snapshot.replicas = Some(Reading::unknown("no"));
        assert_eq!(connected(&snapshot, &[1]), Ok(()));
    }
}
