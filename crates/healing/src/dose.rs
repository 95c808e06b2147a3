//! Whether as many rows as may be moved at once are expected to help as much as verification asks for.
//!
//! The limits of one action are what they are. Where they allow too little (10,000 of a hundred million rows, say), an action
//! would move users' rows twice for nothing: there and, not verified, back. The simulated placement tells that beforehand. It
//! takes load to lie evenly on rows; where rows of the part were moved lately, what that gained is held against the promise.

use crate::classify::Problem;
use crate::config::Config;
use crate::integrity::component_lambda;
use crate::limits::{Limits, NotApplicable};
use crate::load;
use crate::moves::{LAMBDA_FLOOR, PROGRESS};
use crate::placement::{Site, place};
use crate::plan::Move;
use crate::snapshot::{Oid, Reading, Snapshot};
use crate::verification::asked;

/// λ is the same within this.
const SAME_LAMBDA: f64 = 1e-9;
/// Bisections of the number of rows that would do, after it was doubled: known to within a sixteenth of itself.
const BISECTIONS: u32 = 4;

/// A dose of moved rows, and what it is for.
pub(crate) struct Dose<'a> {
    /// What is to be treated.
    pub(crate) problem: &'a Problem,
    /// The observation.
    pub(crate) snapshot: &'a Snapshot,
    /// What the plan must keep to.
    pub(crate) limits: &'a Limits,
    /// The partitions as the placement sees them.
    pub(crate) sites: &'a [Site],
    /// Rows that may be moved.
    pub(crate) allowed: u64,
    /// A partition whose load against the others' must come below this, beside what λ must come to.
    pub(crate) ratio_below: Option<(Oid, f64)>,
}

/// What a number of rows is expected to bring.
struct Expected {
    /// λ by the placement alone.
    placed: f64,
    /// λ with what was measured of earlier moves.
    lambda: f64,
    /// Whether that is enough.
    enough: bool,
}

impl Dose<'_> {
    /// λ of the component that the placement comes to with these moves; None where λ is not known.
    ///
    /// # Errors
    /// [`NotApplicable::DoseTooSmall`] when they are expected to be taken back, unless a human named the strategy.
    pub(crate) fn check(&self, moves: &[Move]) -> Result<Option<f64>, NotApplicable> {
        let Some(then) = self.lambda(self.snapshot) else { return Ok(None) };
        let Some(expected) = self.expected(then, moves) else { return Ok(None) };
        if expected.enough || self.limits.by_hand {
            return Ok(Some(expected.placed));
        }
        // Where no placement at all changes λ it is not the load that weakens the part, but what its server has left: what
        // rows that leave would give back of that is not known beforehand, only afterwards.
        let all = place(self.sites, self.rows());
        if self.lambda(&self.after(&all)).is_some_and(|lambda| (lambda - then).abs() < SAME_LAMBDA) {
            return self.measured(then, moves).map(|()| None);
        }
        let config = &self.limits.config;
        let measured = self.limits.gain_share.map_or_else(String::new, |share| {
            format!(" (the last move brought {:.0} % of what its placement promised)", 100.0 * share)
        });
        let asks = match self.ratio_below {
            Some((_, ratio)) => {
                format!("{:.3}, and a load below {ratio:.2} times the others', are", asked(then, config))
            }
            None => format!("{:.3} is", asked(then, config)),
        };
        Err(NotApplicable::DoseTooSmall {
            detail: format!(
                "{} rows may be moved at once (max_moves {}, max_move_share {}), by which λ of the part is expected to go \
                 from {then:.3} to {:.3}{measured}; {asks} asked for, so they would be moved back. {}",
                self.allowed,
                config.max_moves,
                config.max_move_share,
                expected.lambda,
                self.hint(then)
            ),
        })
    }

    /// Whether what rows of the part brought when they were last moved is enough for as many as may be moved now.
    fn measured(&self, then: f64, moves: &[Move]) -> Result<(), NotApplicable> {
        let Some(gain) = self.limits.gain_per_row else { return Ok(()) };
        let config = &self.limits.config;
        let asked = asked(then, config);
        let rows: u64 = moves.iter().map(|one| one.rows).sum();
        // Numbers of rows are far below 2^53.
        let expected = then + gain * rows as f64;
        if expected >= asked {
            return Ok(());
        }
        let hint = match ((asked - then) / gain).ceil() {
            needed if needed <= self.allowed as f64 => {
                format!("About {needed:.0} rows would do, more than the partitions that take them have room for.")
            }
            needed if needed <= self.rows() as f64 => raise(needed as u64, self.snapshot, config),
            _ => "No number of rows would do, by that: more servers, more connections, or a look at what fills this one \
                  are for a human."
                .to_owned(),
        };
        Err(NotApplicable::DoseTooSmall {
            detail: format!(
                "{rows} rows would be moved (max_moves {}, max_move_share {}), by which λ of the part would go from \
                 {then:.3} to {expected:.3}, as it did when rows of it were last moved; {asked:.3} is asked for, so they would \
                 be moved back. {hint}",
                config.max_moves, config.max_move_share,
            ),
        })
    }

    /// Moves at the beginning by which the placement raises λ by nothing to speak of, where it does by all of them: see
    /// [`crate::plan::Step::MoveRows`].
    pub(crate) fn flat(&self, moves: &[Move]) -> u32 {
        let Some(then) = self.lambda(self.snapshot) else { return 0 };
        let rises = |moves: &[Move]| {
            self.expected(then, moves)
                .is_some_and(|expected| expected.lambda > PROGRESS * then.max(LAMBDA_FLOOR))
        };
        let first = (1..=moves.len()).find(|count| rises(&moves[..*count]));
        // At most ten moves.
        first.map_or(0, |first| (first - 1) as u32)
    }

    /// All rows that could be moved.
    fn rows(&self) -> u64 {
        let rows: f64 = self.sites.iter().filter(|site| site.gives).map(|site| site.rows).sum();
        // Numbers of rows are far below 2^53.
        rows.max(0.0) as u64
    }

    /// Which limit to raise, and to what.
    fn hint(&self, then: f64) -> String {
        let all = self.rows();
        let does =
            |rows: u64| self.expected(then, &place(self.sites, rows)).is_some_and(|expected| expected.enough);
        let mut high = self.allowed.max(1);
        while !does(high) {
            if high >= all {
                let gives = self.sites.iter().filter(|site| site.gives).count();
                return if gives < self.problem.component.nodes.len() {
                    "No number of its rows would do: other partitions are hot beside it.".to_owned()
                } else {
                    "No number of rows would do: the load does not lie on rows that could be moved. More partitions, read \
                     replicas, or a look at what is asked of it are for a human."
                        .to_owned()
                };
            }
            high = high.saturating_mul(2).min(all);
        }
        let mut low = self.allowed.max(high / 2);
        for _ in 0..BISECTIONS {
            let middle = low + (high - low) / 2;
            if does(middle) { high = middle } else { low = middle }
        }
        raise(high, self.snapshot, &self.limits.config)
    }

    fn lambda(&self, snapshot: &Snapshot) -> Option<f64> {
        component_lambda(snapshot, &self.problem.component.nodes, &self.limits.config).ok().flatten()
    }

    fn expected(&self, then: f64, moves: &[Move]) -> Option<Expected> {
        let config = &self.limits.config;
        let after = self.after(moves);
        let placed = self.lambda(&after)?;
        let share = self.limits.gain_share.unwrap_or(1.0);
        let lambda = then + share * (placed - then);
        let cool = self.ratio_below.is_none_or(|(oid, below)| {
            let ratio = |snapshot| load::ratios(snapshot, config).get(&oid).cloned().and_then(Result::ok);
            match (ratio(self.snapshot), ratio(&after)) {
                (Some(then), Some(placed)) => then + share * (placed - then) < below,
                // What is not known is no reason to refuse.
                _ => true,
            }
        });
        Some(Expected { placed, lambda, enough: cool && lambda >= asked(then, config) })
    }

    /// The observation as it would be with these moves made.
    fn after(&self, moves: &[Move]) -> Snapshot {
        let mut after = self.snapshot.clone();
        let mut add = |oid: Oid, load: f64| {
            let partition = after.partitions.iter_mut().find(|partition| partition.oid == oid);
            if let Some(Some(Reading::Known(reading))) = partition.map(|partition| &mut partition.load) {
                reading.blocks = (reading.blocks + load).max(0.0);
            }
        };
        for one in moves {
            let Some(from) = self.sites.iter().find(|site| site.place == one.from) else { continue };
            let load = one.rows as f64 * from.load / from.rows.max(1.0);
            add(one.from.oid, -load);
            add(one.to.oid, load);
        }
        after
    }
}

/// Which limits to raise so that so many rows may be moved at once.
pub(crate) fn raise(rows: u64, snapshot: &Snapshot, config: &Config) -> String {
    let known = snapshot.partitions.iter().filter_map(|partition| partition.live_rows.known());
    let share = rows as f64 / known.sum::<f64>().max(1.0);
    let mut raise = Vec::new();
    if rows as f64 > config.max_moves as f64 {
        raise.push(format!("max_moves to {rows}"));
    }
    if share > config.max_move_share {
        raise.push(format!("max_move_share to {:.4}", ((share * 10_000.0).ceil() / 10_000.0).min(1.0)));
    }
    format!("About {rows} rows would do: raise {}.", raise.join(" and "))
}
