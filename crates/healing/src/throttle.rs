//! Backpressure on writers: how fast a collection is written, what a throttle takes off that, and the arithmetic of its
//! token bucket.
//!
//! A bucket is one number, the time at which the next row may be written (the virtual clock of the generic cell rate
//! algorithm). A row moves it on by the time that a row has at the target rate; a statement that comes before it waits,
//! and one that waits no longer leaves the rest behind as debt for the statements after it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::integrity::IntegrityState;
use crate::snapshot::{Reading, UnixMs};

/// Rows of one statement above which it counts as bulk; COPY always does.
pub const BULK_ROWS: u64 = 100;
/// Share taken off in stress, percent (the specification's).
pub const STRESS_PCT: u32 = 50;
/// Share taken off in a critical state, percent (the specification's).
pub const CRITICAL_PCT: u32 = 90;
/// Taken off bulk writes besides, percent (the specification's).
pub const BULK_EXTRA_PCT: u32 = 10;
/// Most that the healer takes off by itself: 100 is a stop, which is a human's to order.
pub const PCT_MAX: u32 = 95;
/// Time over which the usual rate is averaged, milliseconds.
pub const BASELINE_MS: i64 = 300_000;
/// Least observation from which a rate is taken, milliseconds: sessions report their counters once a second.
pub const BASELINE_MIN_MS: i64 = 10_000;
/// How far a bucket may lag behind the clock, nanoseconds: a sleep that took longer than asked for, or a moment in which
/// nobody got a processor, is made up for. At most 3.3 % more rows than the target in 30 s.
pub const BURST_NS: i64 = 1_000_000_000;
/// Most debt that is kept, nanoseconds: what is beyond cannot be paid by waiting, and must not outlive its cause.
pub const DEBT_MAX_NS: i64 = 60_000_000_000;
/// Least target, rows a second: below, a throttle would be a stop.
pub const TARGET_MIN: f64 = 1.0;

const _: () = assert!(STRESS_PCT < CRITICAL_PCT && CRITICAL_PCT <= PCT_MAX && PCT_MAX < 100);
const _: () = assert!(BASELINE_MIN_MS < BASELINE_MS && BURST_NS < DEBT_MAX_NS);

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By statements of at most [`BULK_ROWS`] rows.
    Insert,
    /// By COPY or statements of more.
    BulkInsert,
}

impl Kind {
    /// Every kind, in the order of their buckets.
    pub const ALL: [Kind; 2] = [Kind::Insert, Kind::BulkInsert];

    /// What a statement is that has written so many rows otherwise than by COPY.
    pub fn of(rows: u64) -> Kind {
        if rows > BULK_ROWS { Kind::BulkInsert } else { Kind::Insert }
    }

    /// The name in settings, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Insert => "insert",
            Kind::BulkInsert => "bulk_insert",
        }
    }
}

/// Rows written a second: inserted, and updated by `ON CONFLICT` or MERGE. A plain UPDATE is no ingestion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// By statements of at most [`BULK_ROWS`] rows.
    pub insert: f64,
    /// By COPY and by statements of more.
    pub bulk_insert: f64,
}

impl Rates {
    /// Both together.
    pub fn total(&self) -> f64 {
        self.insert + self.bulk_insert
    }

    /// The rate of a kind.
    pub fn of(&self, kind: Kind) -> f64 {
        match kind {
            Kind::Insert => self.insert,
            Kind::BulkInsert => self.bulk_insert,
        }
    }
}

/// The usual rate of a collection: its mean over the last five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The mean rates.
    #[serde(flatten)]
    pub rates: Rates,
    /// Seconds over which they were taken, at most 300.
    pub over_s: f64,
}

/// Share of the usual rate that is taken off, percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentages {
    /// Of [`Kind::Insert`]; 0 leaves it alone, 100 stops it.
    pub throttle_pct: u32,
    /// Of [`Kind::BulkInsert`].
    pub bulk_throttle_pct: u32,
}

impl Percentages {
    /// Nothing is taken off.
    pub const NONE: Percentages = Percentages { throttle_pct: 0, bulk_throttle_pct: 0 };

    /// What a state asks for; None where it asks for nothing.
    pub fn of(state: IntegrityState) -> Option<Percentages> {
        match state {
            IntegrityState::Normal => None,
            IntegrityState::Stress => Some(Percentages::with_bulk(STRESS_PCT)),
            IntegrityState::Critical => Some(Percentages::with_bulk(CRITICAL_PCT)),
        }
    }

    /// So much off inserts, and the usual ten more off bulk.
    pub fn with_bulk(throttle_pct: u32) -> Percentages {
        let throttle_pct = throttle_pct.min(PCT_MAX);
        Percentages { throttle_pct, bulk_throttle_pct: (throttle_pct + BULK_EXTRA_PCT).min(PCT_MAX) }
    }

    /// The share of a kind.
    pub fn of_kind(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Insert => self.throttle_pct,
            Kind::BulkInsert => self.bulk_throttle_pct,
        }
    }

    /// Rows a second that are let through: None where a kind is not throttled, 0 where it is stopped. A kind that was not
    /// seen has no rate of its own to take a share of; it gets that share of all rows, so that it is neither stopped nor
    /// unlimited.
    pub fn target(&self, kind: Kind, usual: &Rates) -> Option<f64> {
        let pct = self.of_kind(kind);
        if pct == 0 {
            return None;
        }
        if pct >= 100 {
            return Some(0.0);
        }
        let own = usual.of(kind);
        let rate = if own > 0.0 { own } else { usual.total() };
        Some((rate * f64::from(100 - pct) / 100.0).max(TARGET_MIN))
    }
}

/// Nanoseconds that one row has at a target rate; 0 where there is none, and as good as for ever where it is 0.
pub fn row_ns(target: Option<f64>) -> i64 {
    match target {
        None => 0,
        Some(rate) if rate > 0.0 => ((1e9 / rate).round() as i64).clamp(1, DEBT_MAX_NS),
        Some(_) => DEBT_MAX_NS,
    }
}

/// What a bucket says to a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// When it may go on; not after now where nothing is owed.
    pub at_ns: i64,
    /// The bucket's new time.
    pub next_ns: i64,
    /// Debt that is given up because it is beyond [`DEBT_MAX_NS`], nanoseconds.
    pub forgiven_ns: i64,
}

impl Admission {
    /// What was charged, nanoseconds: without what is given up.
    pub fn charged_ns(&self) -> i64 {
        self.next_ns - self.at_ns
    }
}

/// Admits so many rows at `now_ns` to a bucket whose next row may be written at `next_ns`.
pub fn admit(next_ns: i64, now_ns: i64, row_ns: i64, rows: i64) -> Admission {
    charge(next_ns, now_ns, row_ns.saturating_mul(rows))
}

/// Charges a bucket so many nanoseconds; negative ones give back what was charged before.
pub fn charge(next_ns: i64, now_ns: i64, ns: i64) -> Admission {
    let at_ns = next_ns.max(now_ns.saturating_sub(BURST_NS));
    let wanted = at_ns.saturating_add(ns);
    let next_ns = wanted.min(now_ns.saturating_add(DEBT_MAX_NS));
    Admission { at_ns, next_ns, forgiven_ns: wanted - next_ns }
}

/// What a statement has reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// Rows that it was expected to write.
    pub rows: i64,
    /// What it was charged for them, nanoseconds: [`Admission::charged_ns`].
    pub charged_ns: i64,
}

/// What a statement still owes that has written so many rows, nanoseconds; negative where it gets something back, which is
/// never more than it was charged: of debt that was given up nothing was paid.
pub fn owed_ns(row_ns: i64, written: i64, reserved: Option<Reserved>) -> i64 {
    let Reserved { rows, charged_ns } = reserved.unwrap_or(Reserved { rows: 0, charged_ns: 0 });
    if written >= rows {
        return row_ns.saturating_mul(written - rows);
    }
    -charged_ns.saturating_sub(row_ns.saturating_mul(written)).max(0)
}

/// Share of what was written from `from_ns` until `now_ns` that fell under a throttle in force since `since_ns`, all in nanoseconds of
/// one clock: it was written evenly, for all that is known.
pub fn share_since(since_ns: i64, from_ns: i64, now_ns: i64) -> f64 {
    let (under, all) = (now_ns.saturating_sub(since_ns), now_ns.saturating_sub(from_ns));
    (under as f64 / all.max(1) as f64).clamp(0.0, 1.0)
}

/// Counters of a collection at one moment; all only grow until they are reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// When they were read.
    pub at: UnixMs,
    /// Rows inserted, from the relations' counters.
    pub inserted: i64,
    /// Rows updated by `ON CONFLICT` and MERGE.
    pub upserted: i64,
    /// Of both, rows of bulk statements.
    pub bulk: i64,
}

/// The counters of the last five minutes.
#[derive(Debug, Clone, Default)]
pub struct Window {
    seen: VecDeque<Written>,
}

/// Looks that are kept: one a second for five minutes, and the one before them.
const LOOKS_MAX: usize = 301;

impl Window {
    /// Adds a look. Counters that went back were reset, a clock that was set back says nothing: then it begins anew.
    pub fn add(&mut self, now: Written) {
        let continues = |last: &Written| {
            now.at > last.at
                && now.inserted >= last.inserted
                && now.upserted >= last.upserted
                && now.bulk >= last.bulk
        };
        if !self.seen.back().is_none_or(continues) {
            self.seen.clear();
        }
        self.seen.push_back(now);
        // The oldest that is kept is five minutes old or the last before that.
        while self.seen.len() > LOOKS_MAX
            || self.seen.get(1).is_some_and(|next| now.at - next.at >= BASELINE_MS)
        {
            self.seen.pop_front();
        }
    }

    /// The mean rates over what is kept.
    pub fn mean(&self) -> Reading<Baseline> {
        let (Some(first), Some(last)) = (self.seen.front(), self.seen.back()) else {
            return Reading::unknown("nothing was counted yet");
        };
        let over_ms = last.at - first.at;
        if over_ms < BASELINE_MIN_MS {
            return Reading::unknown(format!("counted for {} s only", over_ms / 1000));
        }
        let seconds = over_ms as f64 / 1000.0;
        let a_second = |of: fn(&Written) -> i64| (of(last) - of(first)) as f64 / seconds;
        let bulk_insert = a_second(|written| written.bulk);
        // Sessions report inserted rows a moment after the bulk that they belong to was counted.
        let insert = (a_second(|written| written.inserted + written.upserted) - bulk_insert).max(0.0);
        Reading::Known(Baseline { rates: Rates { insert, bulk_insert }, over_s: seconds })
    }
}

/// What is usual, whether or not a throttle was in force meanwhile: what is written under one says nothing of it, or each
/// would take its share of what the one before had left.
#[derive(Debug, Clone, Default)]
pub struct Usual {
    window: Window,
    /// What the last throttle took its share of, until enough is seen again.
    kept: Option<Rates>,
}

/// Seconds without a throttle after which what is seen counts for more than what was usual before it.
const SEEN_AGAIN_S: f64 = 60.0;

impl Usual {
    /// Adds a look. `throttled` is the usual rate that the throttle in force takes its share of.
    pub fn look(&mut self, now: Written, throttled: Option<Rates>) {
        match throttled {
            Some(rates) => *self = Usual { window: Window::default(), kept: Some(rates) },
            None => {
                self.window.add(now);
                if self.window.mean().known().is_some_and(|seen| seen.over_s >= SEEN_AGAIN_S) {
                    self.kept = None;
                }
            }
        }
    }

    /// The usual rate.
    pub fn mean(&self) -> Reading<Baseline> {
        match self.kept {
            Some(rates) => Reading::Known(Baseline { rates, over_s: BASELINE_MS as f64 / 1000.0 }),
            None => self.window.mean(),
        }
    }
}

/// A throttle that is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InForce {
    /// What it takes off.
    #[serde(flatten)]
    pub percentages: Percentages,
    /// The usual rate that it takes that off.
    pub baseline: Rates,
    /// Rows a second that it lets through; None for a kind that it leaves alone.
    pub targets: Targets,
    /// Rows a second that were written under it.
    pub achieved: Rates,
    /// Seconds over which that was counted.
    pub over_s: f64,
    /// Seconds of debt of the worse bucket: what those who write now are behind.
    pub debt_s: f64,
    /// When it ends by itself.
    pub until: UnixMs,
}

/// Rows a second that a throttle lets through.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// Of [`Kind::Insert`].
    pub insert: Option<f64>,
    /// Of [`Kind::BulkInsert`].
    pub bulk_insert: Option<f64>,
}

impl Targets {
    /// What these shares leave of the usual rate.
    pub fn new(percentages: &Percentages, usual: &Rates) -> Targets {
        Targets {
            insert: percentages.target(Kind::Insert, usual),
            bulk_insert: percentages.target(Kind::BulkInsert, usual),
        }
    }

    /// The target of a kind.
    pub fn of(&self, kind: Kind) -> Option<f64> {
        match kind {
            Kind::Insert => self.insert,
            Kind::BulkInsert => self.bulk_insert,
        }
    }
}

/// How far above its target a rate may be.
pub const TOLERANCE: f64 = 0.05;

impl InForce {
    /// Whether writers keep to it: why not, in words. A rate below the target is demand that is gone.
    ///
    /// # Errors
    /// Which rate is above its target.
    pub fn held(&self) -> Result<(), String> {
        for kind in Kind::ALL {
            let Some(target) = self.targets.of(kind) else { continue };
            let rate = self.achieved.of(kind);
            // One row more or less is no rate.
            if rate > target * (1.0 + TOLERANCE) + 1.0 / self.over_s.max(1.0) {
                return Err(format!(
                    "{} goes on at {rate:.1} rows/s where {target:.1} were wanted: that many sessions cannot be held by \
                     waiting; set throttle_reject, or throttle fewer sessions",
                    kind.as_str()
                ));
            }
        }
        Ok(())
    }
}

/// What is known of writing to a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ingestion {
    /// Its usual rate.
    pub baseline: Reading<Baseline>,
    /// The throttle in force, if there is one.
    pub throttle: Option<InForce>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_are_those_of_the_specification_and_never_a_stop() {
        assert_eq!(Percentages::of(IntegrityState::Normal), None);
        let stress = Percentages::of(IntegrityState::Stress).unwrap();
        assert_eq!((stress.throttle_pct, stress.bulk_throttle_pct), (50, 60));
        let critical = Percentages::of(IntegrityState::Critical).unwrap();
        // 90 + 10 would be a stop.
        assert_eq!((critical.throttle_pct, critical.bulk_throttle_pct), (90, 95));
    }

    #[test]
    fn targets_by_hand() {
        let usual = Rates { insert: 400.0, bulk_insert: 2000.0 };
        let stress = Percentages::of(IntegrityState::Stress).unwrap();
        assert_eq!(stress.target(Kind::Insert, &usual), Some(200.0));
        assert_eq!(stress.target(Kind::BulkInsert, &usual), Some(800.0));
        assert_eq!(Percentages::NONE.target(Kind::Insert, &usual), None);
        let stop = Percentages { throttle_pct: 100, bulk_throttle_pct: 0 };
        assert_eq!(stop.target(Kind::Insert, &usual), Some(0.0));
        let no_bulk = Rates { insert: 400.0, bulk_insert: 0.0 };
        assert_eq!(stress.target(Kind::BulkInsert, &no_bulk), Some(160.0), "40 % of all rows");
        let trickle = Rates { insert: 0.1, bulk_insert: 0.0 };
        assert_eq!(stress.target(Kind::Insert, &trickle), Some(TARGET_MIN));
    }

    #[test]
    fn what_one_row_has() {
        assert_eq!((row_ns(None), row_ns(Some(1000.0)), row_ns(Some(0.0))), (0, 1_000_000, DEBT_MAX_NS));
    }

    #[test]
    fn a_statement_waits_for_what_was_written_before_it() {
        let (now, row) = (1_000_000_000_000, 1_000_000);
        let first = admit(0, now, row, 1);
        assert_eq!(first, Admission { at_ns: now - BURST_NS, next_ns: now - BURST_NS + row, forgiven_ns: 0 });
        let bulk = admit(now, now, row, 500);
        let after = admit(bulk.next_ns, now, row, 1);
        assert_eq!(after.at_ns - now, 500_000_000);
        let given_back = charge(after.next_ns, now, -after.charged_ns());
        assert_eq!(given_back.next_ns, after.at_ns);
        let hopeless = admit(now, now, row, 1_000_000);
        assert_eq!((hopeless.next_ns - now, hopeless.forgiven_ns), (DEBT_MAX_NS, 940_000_000_000));
    }

    proptest! {
        /// However many statements of whatever size come whenever, and wait: no more is let through than the burst and the
        /// time that passed allow, apart from the last statement's own rows.
        #[test]
        fn no_more_than_the_target_gets_through(
            rate in 1.0f64..10_000.0,
            statements in prop::collection::vec((1i64..200, 0i64..500_000_000), 1..200),
        ) {
            let row = row_ns(Some(rate));
            let start = 1_000_000_000_000i64;
            let (mut now, mut next, mut written) = (start, start - BURST_NS, 0i64);
            for (rows, pause) in statements {
                now += pause;
                let admission = admit(next, now, row, rows);
                // It waits as long as it takes.
                now = now.max(admission.at_ns);
                let allowed = (now - start + BURST_NS) / row + 1;
                prop_assert!(written <= allowed, "{written} rows, {allowed} allowed");
                prop_assert_eq!(admission.forgiven_ns, 0i64.max(admission.forgiven_ns));
                next = admission.next_ns;
                if admission.forgiven_ns == 0 { written += rows } else { break }
            }
        }

        /// Reserving and giving back leaves the bucket as it was, however much of the debt was given up; and whoever has
        /// written owes what it would have owed without reserving, or less where debt was given up.
        #[test]
        fn what_is_given_back_is_what_was_charged(
            next in -1_000_000_000i64..120_000_000_000,
            rows in 0i64..1_000_000,
            written in 0i64..1_000_000,
        ) {
            let (now, row) = (0, 1_000_000);
            let next = next.min(DEBT_MAX_NS);
            let admission = admit(next, now, row, rows);
            let reserved = Reserved { rows, charged_ns: admission.charged_ns() };
            let settled = |written| {
                charge(admission.next_ns, now, owed_ns(row, written, Some(reserved))).next_ns
            };
            prop_assert_eq!(settled(0), next.max(-BURST_NS));
            let directly = admit(next, now, row, written).next_ns;
            prop_assert_eq!(settled(written), directly, "reserved {}, charged {}", rows, reserved.charged_ns);
        }
    }

    #[test]
    fn of_debt_that_was_given_up_nothing_comes_back() {
        // A hundred rows a second; the last COPY had 20,000: 200 s, of which 60 are charged.
        let (now, row) = (1_000_000_000_000, 10_000_000);
        let admission = admit(now, now, row, 20_000);
        assert_eq!(admission.charged_ns(), DEBT_MAX_NS);
        let reserved = Some(Reserved { rows: 20_000, charged_ns: admission.charged_ns() });
        assert_eq!(owed_ns(row, 0, reserved), -DEBT_MAX_NS, "rejected: what it was charged");
        assert_eq!(owed_ns(row, 1_000, reserved), 10_000_000_000 - DEBT_MAX_NS);
        assert_eq!(owed_ns(row, 10_000, reserved), 0, "that is more than was charged");
        assert_eq!(owed_ns(row, 20_000, reserved), 0);
        assert_eq!(owed_ns(row, 20_001, reserved), row);
        assert_eq!(owed_ns(row, 3, None), 3 * row);
    }

    #[test]
    fn a_throttle_has_its_share_of_what_began_before_it() {
        // From the third second to the thirteenth.
        let share = |since_s: i64| share_since(since_s * 1_000_000_000, 3_000_000_000, 13_000_000_000);
        assert_eq!((share(3), share(8), share(12), share(13)), (1.0, 0.5, 0.1, 0.0));
        assert_eq!((share(1), share(14)), (1.0, 0.0), "one that was there before, one that comes after");
        assert_eq!(share_since(7, 7, 7), 0.0, "in no time at all");
    }

    #[test]
    fn what_is_written_under_a_throttle_is_not_usual() {
        let (usual, throttled) =
            (Rates { insert: 100.0, bulk_insert: 0.0 }, Some(Rates { insert: 100.0, bulk_insert: 0.0 }));
        let mut seen = Usual::default();
        let rates = |reading: Reading<Baseline>| reading.known().map(|known| known.rates);
        for at_s in 0..=30 {
            seen.look(look(10 * at_s, 1000 * at_s, 0, 0), None);
        }
        assert_eq!(rates(seen.mean()), Some(usual));
        // A quarter of an hour at half of it, and what was held back comes at once afterwards.
        for at_s in 31..=120 {
            seen.look(look(10 * at_s, 31_000 + 500 * (at_s - 31), 0, 0), throttled);
            assert_eq!(rates(seen.mean()), Some(usual));
        }
        for at_s in 121..=126 {
            seen.look(look(10 * at_s, 80_000 + 3000 * (at_s - 121), 0, 0), None);
            assert_eq!(rates(seen.mean()), Some(usual), "less than a minute says little: {at_s}");
        }
        seen.look(look(1270, 98_000, 0, 0), None);
        assert_eq!(
            rates(seen.mean()),
            Some(Rates { insert: 300.0, bulk_insert: 0.0 }),
            "now it is seen again"
        );
        // Counters that begin anew later say nothing of before.
        seen.look(look(1280, 0, 0, 0), None);
        assert_eq!(seen.mean(), Reading::unknown("counted for 0 s only"));
        // A healer that starts under a throttle takes its word.
        let mut seen = Usual::default();
        seen.look(look(0, 0, 0, 0), throttled);
        assert_eq!(rates(seen.mean()), Some(usual));
    }

    fn look(at_s: i64, inserted: i64, upserted: i64, bulk: i64) -> Written {
        Written { at: at_s * 1000, inserted, upserted, bulk }
    }

    #[test]
    fn the_mean_is_of_five_minutes_and_by_kind() {
        let mut window = Window::default();
        assert_eq!(window.mean(), Reading::unknown("nothing was counted yet"));
        window.add(look(0, 0, 0, 0));
        window.add(look(5, 500, 0, 0));
        assert_eq!(window.mean(), Reading::unknown("counted for 5 s only"));
        for t in 1..=120 {
            // 100 inserted and 20 upserted a second, of which 40 in bulk.
            window.add(look(5 + 10 * t, 500 + 1000 * t, 200 * t, 400 * t));
        }
        let Reading::Known(mean) = window.mean() else { panic!() };
        assert_eq!(mean.over_s, 300.0);
        assert_eq!((mean.rates.insert, mean.rates.bulk_insert), (80.0, 40.0));
    }

    #[test]
    fn counters_that_went_back_begin_anew() {
        let mut window = Window::default();
        window.add(look(0, 1000, 0, 0));
        window.add(look(20, 2000, 0, 0));
        assert!(window.mean().known().is_some());
        window.add(look(30, 5, 0, 0));
        assert_eq!(window.mean(), Reading::unknown("counted for 0 s only"));
        window.add(look(25, 10, 0, 0));
        assert_eq!(window.mean(), Reading::unknown("counted for 0 s only"));
    }

    #[test]
    fn a_rate_above_the_target_is_said_and_one_below_is_not() {
        let baseline = Rates { insert: 200.0, bulk_insert: 0.0 };
        let percentages = Percentages { throttle_pct: 50, bulk_throttle_pct: 0 };
        let targets = Targets::new(&percentages, &baseline);
        let mut throttle = InForce {
            percentages,
            baseline,
            targets,
            achieved: Rates { insert: 104.0, bulk_insert: 1e6 },
            over_s: 30.0,
            debt_s: 0.0,
            until: 0,
        };
        assert_eq!(throttle.held(), Ok(()), "bulk is left alone");
        throttle.achieved.insert = 10.0;
        assert_eq!(throttle.held(), Ok(()), "there is less to write");
        throttle.achieved.insert = 106.0;
        assert!(throttle.held().unwrap_err().starts_with("insert goes on at 106.0 rows/s where 100.0"));
    }
}
