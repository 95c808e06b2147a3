//! Moving rows: how many, in batches of which size, and when to stop.

/// Rows that one action may move: the lesser of a number, a share of all, and what was asked for.
pub fn rows_max(most: i64, share: f64, rows: f64, asked: Option<i64>) -> u64 {
    let by_share = (share * rows).max(0.0) as u64;
    let most = u64::try_from(most).unwrap_or(0);
    most.min(by_share).min(asked.map_or(u64::MAX, |asked| u64::try_from(asked).unwrap_or(0)))
}

/// Bytes of a table that a slow server reads in a second.
const READ_BYTES_PER_S: f64 = 50e6;

/// Pessimistic seconds in which a table of so many bytes is read once.
pub(crate) fn reading_s(bytes: u64) -> f64 {
    bytes as f64 / READ_BYTES_PER_S
}

/// Seconds after which reading a table of so many bytes once is given up: a minute, or three times what a slow server needs.
pub fn reading_limit_s(bytes: u64) -> f64 {
    (3.0 * reading_s(bytes)).max(60.0)
}

/// What follows from λ after a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on with the next move.
    GoOn,
    /// Keep what was moved and move no more.
    Stop,
    /// Undo this move and move no more.
    UndoThisAndStop,
}

/// Watches λ of the component over the moves of a plan, as the spec's loop does. A move is flat that leaves λ within a tenth
/// of what it was before the first and brings it no higher than it ever was since: small steps that add up are progress, or a
/// plan of many would be stopped half-way to what it is verified by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watch {
    lambda: f64,
    best: f64,
    flat: u32,
    expected_flat: u32,
}

/// Better than this times λ before: go on.
const BETTER: f64 = 1.1;
/// Worse than this times λ before: undo.
const WORSE: f64 = 0.9;
/// Above the best λ so far times this: progress.
pub(crate) const PROGRESS: f64 = 1.005;
/// Moves in a row that may change nothing.
const FLAT_MAX: u32 = 5;
/// λ below this counts as this: it may be 0.
pub(crate) const LAMBDA_FLOOR: f64 = 0.01;

impl Watch {
    /// λ of the component before the first move, and how many moves from now are expected to leave it as it is: these do not
    /// count as flat. Where an action is gone on with, all of them count anew.
    pub fn new(lambda: f64, expected_flat: u32) -> Self {
        let lambda = lambda.max(LAMBDA_FLOOR);
        Self { lambda, best: lambda, flat: 0, expected_flat }
    }

    /// λ after a move; None where it could not be measured, which counts as flat.
    pub fn after(&mut self, lambda: Option<f64>) -> Next {
        match lambda {
            Some(now) if now < WORSE * self.lambda => Next::UndoThisAndStop,
            Some(now) if now > (PROGRESS * self.best).min(BETTER * self.lambda) => {
                self.best = self.best.max(now);
                self.flat = 0;
                Next::GoOn
            }
            _ if self.expected_flat > 0 => {
                self.expected_flat -= 1;
                Next::GoOn
            }
            _ => {
                self.flat += 1;
                if self.flat >= FLAT_MAX { Next::Stop } else { Next::GoOn }
            }
        }
    }
}

/// Rows of the first batch: few, since nothing is known of what a row costs.
const FIRST_BATCH: u64 = 8;
/// Rows of a batch at most: their keys are kept in one row of the journal.
const BATCH_MAX: u64 = 1000;

/// Sizes batches so that each holds the lock for less than a limit. What a batch costs however few its rows are (commits, a
/// standby that is waited for, another server) is told from what a row costs: fewer rows do not make that any shorter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    limit_ms: f64,
    rows: f64,
    /// What a batch takes by itself, as far as that is known.
    batch_ms: f64,
    seen: Seen,
}

/// Share of the limit that is aimed at.
const AIM: f64 = 0.7;
/// Share of the limit that rows may take where the batch alone takes as long as that.
const ROWS_SHARE: f64 = 0.25;
/// What a batch says of the next ones, against the batch after it.
const DECAY: f64 = 0.8;
/// Share of the rows that would fit, in a batch after others of one size.
const PROBE: f64 = 0.75;

/// Weighted sums over the batches so far: of batches, rows, milliseconds, rows², rows × milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Seen {
    weight: f64,
    rows: f64,
    ms: f64,
    rows_rows: f64,
    rows_ms: f64,
}

impl Seen {
    fn add(&mut self, rows: f64, ms: f64) {
        let add = |sum: &mut f64, more: f64| *sum = *sum * DECAY + more;
        add(&mut self.weight, 1.0);
        add(&mut self.rows, rows);
        add(&mut self.ms, ms);
        add(&mut self.rows_rows, rows * rows);
        add(&mut self.rows_ms, rows * ms);
    }

    /// Milliseconds of a batch by itself and of each row, by least squares; None of batches that are all of one size.
    fn cost(&self) -> Option<(f64, f64)> {
        let (rows, ms) = (self.rows / self.weight, self.ms / self.weight);
        let spread = self.rows_rows / self.weight - rows * rows;
        // Hardly apart: what differs between them is chance.
        if spread <= 0.002 * rows * rows {
            return None;
        }
        let row_ms = (self.rows_ms / self.weight - rows * ms) / spread;
        let batch_ms = ms - row_ms * rows;
        Some(if batch_ms < 0.0 { (0.0, ms / rows) } else { (batch_ms, row_ms.max(0.0)) })
    }
}

impl Pace {
    /// For locks of at most so many milliseconds.
    pub fn new(limit_ms: i64) -> Self {
        Self {
            limit_ms: (limit_ms as f64).max(1.0),
            rows: FIRST_BATCH as f64,
            batch_ms: 0.0,
            seen: Seen::default(),
        }
    }

    /// Rows of the next batch.
    pub fn rows(&self) -> u64 {
        (self.rows as u64).clamp(1, BATCH_MAX)
    }

    /// Learns from a batch: so many rows held the lock for so long. Aims below the limit, grows by half at a time, and
    /// shrinks at once.
    pub fn learn(&mut self, rows: u64, held_ms: f64) {
        if rows == 0 || !held_ms.is_finite() {
            return;
        }
        self.seen.add(rows as f64, held_ms.max(0.01));
        let told = self.seen.cost();
        let (batch_ms, row_ms) = told.unwrap_or_else(|| {
            let batch_ms = self.batch_ms.min(held_ms);
            (batch_ms, (held_ms - batch_ms) / rows as f64)
        });
        self.batch_ms = batch_ms;
        let left_ms = (AIM * self.limit_ms - batch_ms).max(ROWS_SHARE * self.limit_ms);
        let mut most = 1.5 * self.rows;
        // Longer than planned for, whatever the sums say of why: it does not grow over that.
        if held_ms > batch_ms + left_ms {
            most = most.min(rows as f64);
        }
        let fits = (left_ms / row_ms).min(most);
        // Now and then one of another size, by which the two can be told apart.
        let probes = told.is_none() && (fits / rows as f64 - 1.0).abs() < 1.0 - PROBE;
        self.rows = if probes { PROBE * fits } else { fits }.clamp(1.0, BATCH_MAX as f64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reading_is_given_up_after_a_minute_or_as_a_table_is_large() {
        assert_eq!(reading_limit_s(0), 60.0);
        assert_eq!(reading_limit_s(1_000_000_000), 60.0);
        assert_eq!(reading_limit_s(60_000_000_000), 3600.0);
    }

    /// The pace after so many batches, each of which takes `batch_ms`, and `row_ms` a row.
    fn after(batches: usize, limit_ms: i64, batch_ms: f64, row_ms: f64) -> Pace {
        let mut pace = Pace::new(limit_ms);
        for _ in 0..batches {
            let rows = pace.rows();
            assert!((1..=BATCH_MAX).contains(&rows));
            pace.learn(rows, batch_ms + rows as f64 * row_ms);
        }
        pace
    }

    proptest! {
        #[test]
        fn a_batch_comes_to_fit_the_lock(row_ms in 0.001..60.0f64, batch_ms in 0.0..100.0f64, limit_ms in 1i64..200) {
            let rows = after(60, limit_ms, batch_ms, row_ms).rows();
            let (limit_ms, rows_ms) = (limit_ms as f64, rows as f64 * row_ms);
            let fits = batch_ms + rows_ms <= limit_ms || rows_ms <= 1.1 * ROWS_SHARE * limit_ms || rows == 1;
            prop_assert!(fits, "{rows} rows take {rows_ms} ms, and their batch {batch_ms}");
        }

        #[test]
        fn a_batch_that_is_slow_by_itself_is_no_reason_for_few_rows(row_ms in 0.001..1.0f64, batch_ms in 0.0..100.0f64, limit_ms in 10i64..200) {
            let rows = after(60, limit_ms, batch_ms, row_ms).rows() as f64;
            let least = 0.7 * ROWS_SHARE * limit_ms as f64 / row_ms;
            prop_assert!(rows >= least.min(0.7 * BATCH_MAX as f64).floor(), "{rows} rows, where {least} would do");
        }
    }

    #[test]
    fn one_slow_batch_is_made_up_for() {
        let mut pace = after(30, 25, 1.0, 0.1);
        let usual = pace.rows();
        pace.learn(usual, 250.0);
        assert!(pace.rows() <= usual / 2, "{} of {usual}", pace.rows());
        for _ in 0..30 {
            pace.learn(pace.rows(), 1.0 + pace.rows() as f64 * 0.1);
        }
        assert!(pace.rows() * 10 >= usual * 9, "{} of {usual}", pace.rows());
    }

    #[test]
    fn lambda_has_its_say_after_each_move() {
        let mut watch = Watch::new(0.5, 0);
        assert_eq!(watch.after(Some(0.56)), Next::GoOn);
        assert_eq!(watch.after(Some(0.44)), Next::UndoThisAndStop);
        let mut flat = Watch::new(0.5, 0);
        for _ in 0..4 {
            assert_eq!(flat.after(Some(0.5)), Next::GoOn);
        }
        assert_eq!(flat.after(None), Next::Stop, "the fifth in a row");
        let mut again = Watch::new(0.0, 0);
        assert_eq!(again.after(Some(0.2)), Next::GoOn);
        for lambda in [0.01, 0.01, 0.01, 0.01] {
            assert_eq!(again.after(Some(lambda)), Next::GoOn);
        }
        assert_eq!(again.after(Some(0.2)), Next::GoOn, "better again: counted anew");
        assert_eq!(again.after(Some(0.01)), Next::GoOn);
    }

    #[test]
    fn small_steps_that_add_up_are_not_flat() {
        // A twentieth of the rows in nine moves, each of which gains less than two hundredths: all of it gains 15 %.
        let mut watch = Watch::new(0.615, 0);
        for step in 1..=9 {
            assert_eq!(watch.after(Some(0.615 + 0.0105 * f64::from(step))), Next::GoOn, "move {step}");
        }
        // Up and down is no progress.
        let mut noise = Watch::new(0.5, 0);
        let found = [0.52, 0.51, 0.52, 0.515, 0.52, 0.5].map(|lambda| noise.after(Some(lambda)));
        assert_eq!(found, [[Next::GoOn; 5].as_slice(), &[Next::Stop]].concat()[..]);
    }

    #[test]
    fn what_is_expected_to_be_flat_does_not_count_and_worse_does() {
        let mut watch = Watch::new(0.33, 5);
        for move_ in 1..=9 {
            assert_eq!(watch.after(Some(0.33)), Next::GoOn, "move {move_}");
        }
        assert_eq!(watch.after(Some(0.33)), Next::Stop, "five more than expected");
        assert_eq!(Watch::new(0.33, 5).after(Some(0.29)), Next::UndoThisAndStop);
    }

    #[test]
    fn the_lesser_limit_holds() {
        assert_eq!(rows_max(10_000, 0.05, 100_000.0, None), 5000);
        assert_eq!(rows_max(10_000, 0.05, 1e7, None), 10_000);
        assert_eq!(rows_max(10_000, 0.05, 1e7, Some(100)), 100);
        assert_eq!(rows_max(10_000, 0.05, 0.0, Some(100)), 0);
    }
}
