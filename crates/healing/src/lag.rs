//! Whether replicas fall further behind: what remedies that write less are verified by.

use crate::snapshot::{Replica, Snapshot};

/// Growth that is noise, as a share of what a replica is behind, and at most so many bytes: it replays in bursts. A share of a
/// replica that is far behind would hide that it falls further behind all the time.
const GROWTH_SHARE: f64 = 0.1;
const GROWTH_SHARE_MAX: f64 = 64.0 * 1_048_576.0;
/// The same of one that was hardly behind: a WAL segment.
const GROWTH_BYTES: f64 = 16.0 * 1_048_576.0;

/// An error where the one of these replicas that is furthest behind fell further behind, or where that is not known any more. What
/// was not known before cannot be said to have grown.
pub(crate) fn stands(ids: &[i64], before: &Snapshot, after: &Snapshot) -> Result<(), String> {
    match (behind(before, ids), behind(after, ids)) {
        (Some(then), Some(now))
            if now > then + (then * GROWTH_SHARE).min(GROWTH_SHARE_MAX) + GROWTH_BYTES =>
        {
            Err(format!("bytes that a replica is behind went on growing, from {then:.0} to {now:.0}"))
        }
        (Some(_), None) => Err("how far the replica is behind could not be read again".to_owned()),
        _ => Ok(()),
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
    use crate::snapshot::Reading;

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
        assert_eq!(stands(&[2], &known, &behind_by(Some(2e9))), Ok(()), "another replica");
    }
}
