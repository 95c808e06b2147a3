//! What would have happened without an action: periods in which a problem stood and nothing was done about it.
//!
//! Such periods come by themselves (cooldowns, mode observe, a plan that waits for a human) and, where it is allowed, from
//! short delays drawn at random, which are the only ones that no choice of ours has selected. Each ends by clearing, or is
//! cut short (censored) when an action begins. The share of problems that clear within the time that an action took is the
//! Kaplan–Meier estimate over the periods of the same context: matched by problem class, index kind and duration.

use serde::{Deserialize, Serialize};

use super::Context;
use crate::config::Config;
use crate::integrity::{IntegrityState, StateRecord};
use crate::kmeans::mix;
use crate::snapshot::UnixMs;

/// Longest period that counts, seconds: what has stood for a day is not watched any further.
const PERIOD_S_MAX: f64 = 86_400.0;

/// A period without an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Period {
    /// The problem.
    #[serde(flatten)]
    pub context: Context,
    /// How long it was watched, seconds.
    pub seconds: f64,
    /// Whether it cleared then; false: something was done about it, or watching ended.
    pub cleared: bool,
    /// Whether it was a delay drawn at random.
    #[serde(default)]
    pub randomised: bool,
}

/// A period that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The problem.
    #[serde(flatten)]
    pub context: Context,
    /// When it began.
    pub since: UnixMs,
    /// Whether it is a delay drawn at random.
    #[serde(default)]
    pub randomised: bool,
}

/// Goes on watching after one more observation at `now`. `present`: the problems that healing would be due for; `busy`: an
/// action is under way on the collection; `randomised`: it is being delayed at random. Returns what is still watched and
/// the periods that have ended.
pub fn watch(
    open: &[Watch],
    present: &[Context],
    busy: bool,
    randomised: bool,
    now: UnixMs,
) -> (Vec<Watch>, Vec<Period>) {
    let (mut still, mut ended) = (Vec::new(), Vec::new());
    for one in open {
        let seconds = (now - one.since) as f64 / 1000.0;
        if seconds < 0.0 {
            // The clock was set back: nobody knows how long it was.
            continue;
        }
        let stands = present.contains(&one.context);
        if stands && !busy {
            still.push(one.clone());
            continue;
        }
        ended.push(Period {
            context: one.context.clone(),
            seconds: seconds.min(PERIOD_S_MAX),
            // What cleared at the very sample that sees an action under way may owe it to that.
            cleared: !stands && !busy && seconds <= PERIOD_S_MAX,
            randomised: one.randomised,
        });
    }
    if !busy {
        for context in present {
            if !still.iter().any(|one| one.context == *context) {
                still.push(Watch { context: context.clone(), since: now, randomised });
            }
        }
    }
    (still, ended)
}

/// The share of problems that clear by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Natural {
    /// Probability, 0–1.
    pub rate: f64,
    /// Periods that it rests on: those that cleared in time, or are known to have lasted longer.
    pub periods: u32,
}

/// The probability that a problem of this context clears by itself within `horizon_s` (Kaplan–Meier). One period that
/// never clears is added, so that a single lucky one does not explain everything away. None where no period tells: none cleared in time, and
/// all were cut short before.
pub fn cleared_within(periods: &[Period], context: &Context, horizon_s: f64) -> Option<Natural> {
    let mut own: Vec<(f64, bool)> =
        periods.iter().filter(|p| p.context == *context).map(|p| (p.seconds, p.cleared)).collect();
    let tells = own.iter().filter(|(seconds, cleared)| *seconds >= horizon_s || *cleared).count();
    if tells == 0 {
        return None;
    }
    own.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut stands = 1.0;
    let mut at = 0;
    while at < own.len() && own[at].0 <= horizon_s {
        // Clearings of one time are taken together; what was cut short at that time was still at risk.
        let time = own[at].0;
        let same = own[at..].iter().take_while(|p| p.0 == time).count();
        let cleared = own[at..at + same].iter().filter(|p| p.1).count();
        let at_risk = own.len() - at + 1;
        stands *= 1.0 - cleared as f64 / at_risk as f64;
        at += same;
    }
    Some(Natural { rate: 1.0 - stands, periods: u32::try_from(tells).unwrap_or(u32::MAX) })
}

/// Whether an episode (a collection, out of the normal state since then) is one of those that are delayed at random to see
/// whether they clear by themselves. The same episode gets the same answer at every sample.
pub fn is_control(collection_id: i32, since: UnixMs, share: f64) -> bool {
    let drawn = mix(mix(since as u64) ^ u64::from(collection_id as u32)) >> 11;
    (drawn as f64 / (1u64 << 53) as f64) < share
}

/// Until when healing is delayed at random, if it is: in stress only, never when critical, and with learning on.
pub fn control_until(
    collection_id: i32,
    state: &StateRecord,
    config: &Config,
    now: UnixMs,
) -> Option<UnixMs> {
    let until = state.since.saturating_add(config.control_delay_seconds.saturating_mul(1000));
    (config.learning_enabled
        && state.state == IntegrityState::Stress
        && now < until
        && is_control(collection_id, state.since, config.control_delay_share))
    .then_some(until)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::context;
    use super::*;
    use proptest::prelude::*;

    fn period(seconds: f64, cleared: bool) -> Period {
        Period { context: context(), seconds, cleared, randomised: false }
    }

    fn rate(periods: &[Period], horizon_s: f64) -> f64 {
        cleared_within(periods, &context(), horizon_s).map_or(0.0, |natural| natural.rate)
    }

    #[test]
    fn kaplan_meier_by_hand() {
        assert_eq!(cleared_within(&[], &context(), 10.0), None);
        // At risk, with the one that is added: 5 at 10 s, 4 at 20 s (one cleared at 10), then one is cut short at 25 s, so
        // 2 at 30 s.
        let periods = [period(20.0, true), period(10.0, true), period(30.0, true), period(25.0, false)];
        assert_eq!(rate(&periods, 9.0), 0.0);
        assert!((rate(&periods, 10.0) - 0.2).abs() < 1e-12);
        assert!((rate(&periods, 20.0) - (1.0 - 0.8 * 0.75)).abs() < 1e-12);
        assert!((rate(&periods, 29.0) - 0.4).abs() < 1e-12);
        assert!((rate(&periods, 1e9) - (1.0 - 0.6 * 0.5)).abs() < 1e-12);
        // Two at one time; one cut short at that time was at risk.
        let tied = [period(5.0, true), period(5.0, true), period(5.0, false)];
        assert!((rate(&tied, 5.0) - 0.5).abs() < 1e-12);
        assert_eq!(rate(&[period(1.0, true)], 2.0), 0.5);
        // What was cut short before tells nothing.
        assert_eq!(cleared_within(&[period(5.0, false)], &context(), 6.0), None);
        let lasted = cleared_within(&[period(6.0, false), period(1.0, false)], &context(), 6.0);
        assert_eq!(lasted, Some(Natural { rate: 0.0, periods: 1 }));
        // Another context says nothing.
        let other = Context { index_kind: "hnsw".to_owned(), ..context() };
        assert_eq!(cleared_within(&tied, &other, 5.0), None);
    }

    #[test]
    fn a_period_ends_by_clearing_or_is_cut_short() {
        let here = [context()];
        let (open, ended) = watch(&[], &here, false, false, 1000);
        assert_eq!((open.len(), ended.len()), (1, 0));
        let (open, ended) = watch(&open, &here, false, true, 3000);
        assert_eq!((open[0].since, open[0].randomised, ended.len()), (1000, false, 0), "as it began");
        let (none, ended) = watch(&open, &[], false, false, 6000);
        assert!(none.is_empty());
        assert_eq!(ended, [period(5.0, true)]);
        let (none, ended) = watch(&open, &here, true, false, 6000);
        assert!(none.is_empty());
        assert_eq!(ended, [period(5.0, false)]);
        // Cleared while something was being done.
        assert_eq!(watch(&open, &[], true, false, 6000).1, [period(5.0, false)]);
        // A clock set back, and what stood for more than a day.
        assert_eq!(watch(&open, &[], false, false, 500), (vec![], vec![]));
        assert_eq!(watch(&open, &[], false, false, 2 * 86_400_000).1, [period(86_400.0, false)]);
        assert_eq!(
            watch(&open, &[], false, false, 1000 + 86_400_000).1,
            [period(86_400.0, true)],
            "a day still counts"
        );
        assert_eq!(watch(&open, &[], false, false, 1000).1, [period(0.0, true)]);
        // Another problem that stands is watched beside it, from when it was seen.
        let other = Context { index_kind: "hnsw".to_owned(), ..context() };
        let (both, ended) = watch(&open, &[context(), other.clone()], false, false, 9000);
        assert_eq!(
            both.iter().map(|one| (one.since, one.context == other)).collect::<Vec<_>>(),
            [(1000, false), (9000, true)]
        );
        assert!(ended.is_empty());
        let (left, ended) = watch(&both, &[other], false, false, 11_000);
        assert_eq!((left.len(), left[0].since, ended), (1, 9000, vec![period(10.0, true)]));
        let delayed = watch(&[], &here, false, true, 1000).0;
        assert!(watch(&delayed, &[], false, false, 2000).1[0].randomised);
    }

    #[test]
    fn a_share_of_episodes_is_delayed_and_each_keeps_its_answer() {
        let drawn =
            (0..10_000).filter(|episode| is_control(7, 1_700_000_000_000 + episode * 60_000, 0.2)).count();
        assert!((1800..2200).contains(&drawn), "{drawn}");
        assert!((0..1000).all(|since| !is_control(1, since, 0.0) && is_control(1, since, 1.0)));
        // After a restart and in the next version too.
        let delayed: Vec<i64> = (0..20).filter(|since| is_control(7, *since, 0.5)).collect();
        assert_eq!(delayed, [0, 1, 2, 4, 6, 7, 11, 17, 19]);
    }

    #[test]
    fn a_delay_is_for_stress_with_learning_on_and_ends() {
        let config = Config { control_delay_share: 0.5, ..Config::default() };
        let since = (0..1000).find(|since| is_control(1, *since, 0.5)).unwrap();
        let state = StateRecord { state: IntegrityState::Stress, ..StateRecord::new(since) };
        let until = since + 60_000;
        assert_eq!(control_until(1, &state, &config, since + 1), Some(until));
        assert_eq!(control_until(1, &state, &config, until), None);
        let critical = StateRecord { state: IntegrityState::Critical, ..state };
        assert_eq!(control_until(1, &critical, &config, since + 1), None);
        let off = Config { learning_enabled: false, ..config.clone() };
        assert_eq!(control_until(1, &state, &off, since + 1), None);
        assert_eq!(control_until(1, &state, &Config::default(), since + 1), None, "off unless asked for");
    }

    proptest! {
        #[test]
        fn the_rate_lies_in_its_bounds_and_grows_with_time(
            rows in prop::collection::vec((0.0f64..100.0, any::<bool>()), 1..30),
            a in 0.0f64..120.0,
            b in 0.0f64..120.0,
        ) {
            let mut periods: Vec<Period> = rows.iter().map(|(s, cleared)| period(*s, *cleared)).collect();
            let (early, late) = (rate(&periods, a.min(b)), rate(&periods, a.max(b)));
            prop_assert!((0.0..1.0).contains(&early) && (0.0..1.0).contains(&late));
            prop_assert!(early <= late);
            periods.reverse();
            prop_assert!((rate(&periods, a.max(b)) - late).abs() < 1e-12);
            // Nothing cut short: it is the plain share, with the one added.
            for period in &mut periods {
                period.cleared = true;
            }
            let plain = periods.iter().filter(|p| p.seconds <= a).count() as f64 / (periods.len() + 1) as f64;
            prop_assert!((rate(&periods, a) - plain).abs() < 1e-9);
        }
    }
}
