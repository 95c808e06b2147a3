//! Predictions of a remedy that only plans: that the problem will last as long as the plan would take, so that the plan
//! was needed. Each is held against what happens; what somebody acts upon meanwhile is held against nothing.

use serde::{Deserialize, Serialize};

use super::{Context, Period, Posterior, cleared_within};
use crate::snapshot::UnixMs;

/// Probability that a problem lasts, where no period without an action was watched yet.
const LASTS_UNKNOWN: f64 = 0.5;

/// A prediction that is open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The problem.
    #[serde(flatten)]
    pub context: Context,
    /// The remedy that planned.
    pub strategy: String,
    /// When.
    pub at: UnixMs,
    /// Seconds that carrying the plan out and measuring it would take.
    pub horizon_s: f64,
    /// Predicted probability that the problem lasts that long.
    pub lasts: f64,
    /// Predicted probability that the remedy would have been verified.
    pub succeeds: f64,
}

/// How a prediction turned out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Whether the problem lasted; None: an action began meanwhile, nobody will know.
    pub lasted: Option<bool>,
    /// (predicted − what happened)², 0 best, 1 worst (Brier, 1950).
    pub brier: Option<f64>,
}

impl Prediction {
    /// What a remedy predicts as it plans.
    pub fn new(belief: &Posterior, horizon_s: f64, periods: &[Period], at: UnixMs) -> Self {
        let natural = cleared_within(periods, &belief.context, horizon_s);
        Self {
            context: belief.context.clone(),
            strategy: belief.strategy.clone(),
            at,
            horizon_s,
            lasts: natural.map_or(LASTS_UNKNOWN, |natural| 1.0 - natural.rate),
            succeeds: belief.mean(),
        }
    }

    /// Holds it against an observation at `now`: `stands`, the problem is still there; `busy`, an action is under way on
    /// the collection. None: it is still open.
    pub fn score(&self, stands: bool, busy: bool, now: UnixMs) -> Option<Scored> {
        if busy || now < self.at {
            return Some(Scored { lasted: None, brier: None });
        }
        let over = (now - self.at) as f64 / 1000.0 >= self.horizon_s;
        let lasted = match (stands, over) {
            (true, false) => return None,
            (true, true) => true,
            // Seen gone only after the time was over: the sample before, within the time, still saw it.
            (false, _) => over,
        };
        Some(Scored { lasted: Some(lasted), brier: Some((self.lasts - f64::from(u8::from(lasted))).powi(2)) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Learned;
    use super::super::fixtures::context;
    use super::*;

    fn prediction(periods: &[Period]) -> Prediction {
        Prediction::new(&Learned::default().posterior(&context(), "a"), 30.0, periods, 1000)
    }

    #[test]
    fn it_predicts_by_what_was_watched() {
        assert_eq!((prediction(&[]).lasts, prediction(&[]).succeeds), (0.5, 0.5));
        let cleared = Period { context: context(), seconds: 10.0, cleared: true, randomised: false };
        assert!((prediction(&[cleared.clone(), cleared]).lasts - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn it_is_held_against_what_happens() {
        let open = Prediction { lasts: 0.8, ..prediction(&[]) };
        assert_eq!(open.score(true, false, 30_999), None, "the time is not over");
        assert_eq!(open.score(true, false, 1000), None, "at once");
        let at = |stands, now| open.score(stands, false, now).unwrap();
        assert_eq!(at(true, 31_000).lasted, Some(true));
        assert!((at(true, 31_000).brier.unwrap() - 0.04).abs() < 1e-12);
        assert_eq!(at(false, 5000).lasted, Some(false));
        assert!((at(false, 5000).brier.unwrap() - 0.64).abs() < 1e-12);
        assert_eq!(at(false, 40_000).lasted, Some(true));
        let nobody_knows = Some(Scored { lasted: None, brier: None });
        assert_eq!(open.score(true, true, 2000), nobody_knows);
        assert_eq!(open.score(true, false, 500), nobody_knows, "the clock was set back");
    }
}
