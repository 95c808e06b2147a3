//! How evenly the partitions of a server are loaded, and how evenly they usually are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::snapshot::{Load, Oid, Partition, Reading, Snapshot, UnixMs};

/// Ratios are not told apart above this.
const RATIO_MAX: f64 = 1000.0;
/// A load that cannot be measured for maintenance counts on for this long.
const CARRIED_MAX_MS: UnixMs = 60_000;

/// Load of each partition ÷ mean load of the other partitions of its server, or why it is not known. The mean counts as
/// `load_floor_blocks` at least, so that a trickle is never hot. A partition that is alone on its server, or whose load
/// nobody looks at, has no entry; nor has one for cold rows, which is meant to idle.
pub fn ratios(snapshot: &Snapshot, config: &Config) -> BTreeMap<Oid, Result<f64, String>> {
    // Sum and number of the known loads of each server.
    let mut servers: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    let mut members: BTreeMap<&str, u32> = BTreeMap::new();
    let counted = || snapshot.partitions.iter().filter(|partition| !snapshot.is_cold(partition.oid));
    for partition in counted() {
        *members.entry(&partition.server).or_default() += 1;
        if let Some(blocks) = known(partition) {
            let server = servers.entry(&partition.server).or_default();
            *server = (server.0 + blocks, server.1 + 1.0);
        }
    }
    let ratio = |partition: &Partition, reading: &Reading<_>| {
        let own = match reading {
            Reading::Unknown(reason) => return Err(reason.clone()),
            Reading::Known(_) => known(partition).ok_or("it is no number")?,
        };
        let (sum, count) = servers.get(partition.server.as_str()).copied().unwrap_or_default();
        if count < 2.0 {
            return Err("the load of the other partitions is not known".to_owned());
        }
        let others = ((sum - own) / (count - 1.0)).max(config.load_floor_blocks);
        Ok((own / others).min(RATIO_MAX))
    };
    counted()
        .filter(|partition| members.get(partition.server.as_str()).is_some_and(|count| *count > 1))
        .filter_map(|partition| Some((partition.oid, ratio(partition, partition.load.as_ref()?))))
        .collect()
}

fn known(partition: &Partition) -> Option<f64> {
    let blocks = partition.load.as_ref()?.known()?.blocks;
    (blocks.is_finite() && blocks >= 0.0).then_some(blocks)
}

/// Mean load of these partitions ÷ mean load of all others, or None where it is not known.
pub(crate) fn group_ratio(snapshot: &Snapshot, group: &[Oid], config: &Config) -> Option<f64> {
    let mean = |inside: bool| {
        let loads: Vec<f64> = snapshot
            .partitions
            .iter()
            .filter(|p| group.contains(&p.oid) == inside)
            .filter_map(known)
            .collect();
        (!loads.is_empty()).then(|| loads.iter().sum::<f64>() / loads.len() as f64)
    };
    Some((mean(true)? / mean(false)?.max(config.load_floor_blocks)).min(RATIO_MAX))
}

/// By how much the load of these partitions has grown: blocks a second now and then, of each. 1 where none had any then.
///
/// A partition whose load cannot be measured for a while is taken to keep its share of all: with the load that it had, it
/// would look hot when the others' falls at night, and cold when it rises.
pub fn growth(partitions: impl IntoIterator<Item = (f64, f64)>) -> f64 {
    let (now, then) = partitions
        .into_iter()
        .fold((0.0, 0.0), |sums: (f64, f64), loads| (sums.0 + loads.0, sums.1 + loads.1));
    if then > 0.0 { now / then } else { 1.0 }
}

/// What a partition's load, last measured at `measured`, is while maintenance keeps it from being measured; None: it counts on.
pub fn carried_too_long(measured: UnixMs, now: UnixMs) -> Option<Reading<Load>> {
    // A clock that was set back carries nothing further either.
    let too_long = !(0..=CARRIED_MAX_MS).contains(&(now - measured));
    too_long.then(|| {
        Reading::unknown(
            "maintenance has been at work on it for more than a minute, and what that reads cannot be told from what users \
             read",
        )
    })
}

/// The usual load ratios of a collection's partitions, learned slowly: one whose tenants differ in size is not in
/// stress for ever.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// Seconds of observation.
    pub seen_s: f64,
    /// Natural logarithm of the ratio of each partition, averaged with a time constant of a day.
    pub log_ratios: BTreeMap<Oid, f64>,
}

impl Usual {
    /// Time constant of the average.
    const TIME_CONSTANT_S: f64 = 86_400.0;
    /// Nothing counts as usual before this much was seen.
    const KNOWN_AFTER_S: f64 = 6.0 * 3600.0;
    /// What is learned excuses at most this: a partition that takes 3.5 times the others' load is hot, however long.
    const RATIO_MAX: f64 = 2.0;
    /// Longest time that one sample stands for; the healer may have been away.
    const SAMPLE_MAX_S: f64 = 600.0;

    /// The baseline after a sample that came so many seconds after the one before. Partitions that are gone are
    /// forgotten, and so is nothing else.
    #[must_use]
    pub fn advance(&self, snapshot: &Snapshot, config: &Config, after_s: f64) -> Usual {
        let after_s = after_s.clamp(0.0, Self::SAMPLE_MAX_S);
        let ratios = ratios(snapshot, config);
        let mut next = Usual::default();
        let mut learned = false;
        for partition in &snapshot.partitions {
            let before = self.log_ratios.get(&partition.oid).copied();
            let log = match ratios.get(&partition.oid) {
                Some(Ok(ratio)) => {
                    learned = true;
                    let now = ratio.max(1.0).ln();
                    // Running mean at first, so that the first hour does not count as a whole day.
                    let weight = after_s / (self.seen_s.min(Self::TIME_CONSTANT_S) + after_s).max(1.0);
                    Some(before.map_or(now, |before| before + weight * (now - before)))
                }
                _ => before,
            };
            next.log_ratios.extend(log.map(|log| (partition.oid, log)));
        }
        next.seen_s = self.seen_s + if learned { after_s } else { 0.0 };
        next
    }

    /// What is usual for a partition, 1 to 2; None until enough was seen.
    pub fn ratio(&self, partition: Oid) -> Option<f64> {
        let log = self.log_ratios.get(&partition).filter(|_| self.seen_s >= Self::KNOWN_AFTER_S)?;
        Some(log.exp().clamp(1.0, Self::RATIO_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{load, snapshot};
    use crate::snapshot::{Managed, Place};

    fn of(blocks: &[f64]) -> Snapshot {
        let mut loaded = snapshot(blocks.len() as u32, 0, 1);
        for (partition, blocks) in loaded.partitions.iter_mut().zip(blocks) {
            partition.load = Some(load(*blocks));
        }
        loaded
    }

    fn ratio(snapshot: &Snapshot, oid: Oid) -> Option<f64> {
        ratios(snapshot, &Config::default()).get(&oid)?.clone().ok()
    }

    #[test]
    fn ratios_by_hand() {
        // 9000 against the mean of 3000, 1000 and 2000; 1000 against that of 9000, 3000 and 2000.
        let loaded = of(&[9000.0, 3000.0, 1000.0, 2000.0]);
        assert_eq!(ratio(&loaded, 1000), Some(4.5));
        assert!((ratio(&loaded, 1002).unwrap() - 3.0 / 14.0).abs() < 1e-12);
        assert_eq!(group_ratio(&loaded, &[1000, 1001], &Config::default()), Some(4.0));
        // 9000 against the mean of the other three; that of three against 2000.
        assert_eq!(group_ratio(&loaded, &[1000], &Config::default()), Some(4.5));
        assert_eq!(group_ratio(&loaded, &[1000, 1001, 1002], &Config::default()), Some(13.0 / 6.0));
    }

    #[test]
    fn a_load_that_cannot_be_measured_counts_on_for_a_minute() {
        let unknown = |now| carried_too_long(1_000_000, now).is_some_and(|load| load.known().is_none());
        assert!(!unknown(1_000_000) && !unknown(1_060_000));
        assert!(unknown(1_060_001), "of a maintenance that goes on for days nothing is known");
        assert!(unknown(999_999), "nor where the clock was set back");
    }

    #[test]
    fn a_trickle_is_never_hot() {
        // The others do nothing at all: their mean counts as 500.
        assert_eq!(ratio(&of(&[500.0, 0.0, 0.0]), 1000), Some(1.0));
        assert_eq!(ratio(&of(&[1e9, 0.0]), 1000), Some(RATIO_MAX));
    }

    #[test]
    fn servers_are_held_apart_and_one_alone_has_no_ratio() {
        let mut loaded = of(&[4000.0, 1000.0, 9000.0]);
        loaded.partitions[2].server = "other".to_owned();
        assert_eq!((ratio(&loaded, 1000), ratio(&loaded, 1002)), (Some(4.0), None));
        assert!(!ratios(&loaded, &Config::default()).contains_key(&1002));
    }

    #[test]
    fn a_partition_for_cold_rows_makes_no_other_hot() {
        let mut loaded = of(&[1000.0, 1000.0, 0.0]);
        assert_eq!(ratio(&loaded, 1000), Some(2.0));
        let place = Place {
            oid: 1002,
            number: 0,
            weight: 0.0,
            cold: true,
            elsewhere: false,
            refuses: None,
            cold_rows: None,
        };
        loaded.managed = Some(Managed { fixed: None, noticed: None, by_tenant: false, places: vec![place] });
        assert_eq!((ratio(&loaded, 1000), ratio(&loaded, 1002)), (Some(1.0), None));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut blind = of(&[4000.0, 1000.0]);
        blind.partitions[1].load = Some(Reading::unknown("no statistics"));
        let all = ratios(&blind, &Config::default());
        assert_eq!(all[&1000], Err("the load of the other partitions is not known".to_owned()));
        assert_eq!(all[&1001], Err("no statistics".to_owned()));
        for no_number in [f64::NAN, f64::INFINITY, -1.0] {
            blind.partitions[1].load = Some(load(no_number));
            assert_eq!(ratios(&blind, &Config::default())[&1001], Err("it is no number".to_owned()));
        }
        blind.partitions[1].load = None;
        assert!(!ratios(&blind, &Config::default()).contains_key(&1001));
    }

    #[test]
    fn what_is_not_measured_grows_with_the_others() {
        assert_eq!(growth([(10.0, 40.0), (20.0, 20.0)]), 0.5);
        assert_eq!(growth([(0.0, 5.0)]), 0.0);
        assert_eq!((growth([(7.0, 0.0)]), growth([])), (1.0, 1.0));
        let times = load(300.0).known().unwrap().times(0.5);
        assert_eq!((times.blocks, times.hit_ratio), (150.0, load(300.0).known().unwrap().hit_ratio));
    }

    #[test]
    fn what_is_usual_is_learned_in_hours_and_excuses_no_more_than_twice_the_load() {
        let config = Config::default();
        let mut usual = Usual::default();
        let loaded = of(&[1500.0, 1000.0, 1000.0, 1000.0]);
        for _ in 0..6 * 360 - 1 {
            usual = usual.advance(&loaded, &config, 10.0);
        }
        assert_eq!(usual.ratio(1000), None, "not yet six hours");
        usual = usual.advance(&loaded, &config, 10.0);
        assert!((usual.ratio(1000).unwrap() - 1.5).abs() < 1e-9);
        assert_eq!(usual.ratio(1001), Some(1.0), "less than the others is no excuse for anything");
        // One hour of ten times the load does little to it.
        let hot = of(&[10_000.0, 1000.0, 1000.0, 1000.0]);
        let mut after = usual.clone();
        for _ in 0..360 {
            after = after.advance(&hot, &config, 10.0);
        }
        // One part in seven of ln 10 and six of ln 1.5.
        let expected = ((10.0f64.ln() + 6.0 * 1.5f64.ln()) / 7.0).exp();
        assert!((after.ratio(1000).unwrap() - expected.min(2.0)).abs() < 1e-6);
        for _ in 0..20 * 144 {
            after = after.advance(&hot, &config, 600.0);
        }
        assert_eq!(after.ratio(1000), Some(2.0));
    }

    #[test]
    fn time_without_readings_teaches_nothing_and_what_is_gone_is_forgotten() {
        let config = Config::default();
        let usual = Usual::default().advance(&of(&[4000.0, 1000.0]), &config, 10.0);
        let blind = usual.advance(&snapshot(2, 0, 1), &config, 10.0);
        assert_eq!(blind, usual);
        let fewer = usual.advance(&snapshot(1, 0, 1), &config, 10.0);
        assert_eq!(fewer.log_ratios.keys().collect::<Vec<_>>(), [&1000]);
        let away = usual.advance(&of(&[4000.0, 1000.0]), &config, 1e9);
        assert_eq!(away.seen_s, 610.0, "one sample stands for ten minutes at most");
    }
}
