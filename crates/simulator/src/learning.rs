//! What is learned from outcomes, as the extension's `background::learning` keeps it: rows of outcomes, of periods in which
//! nobody acted and of the autonomy ladder, all of them durable, and the posteriors that follow from them.

use healing::classify::Problem;
use healing::config::{Config, Mode};
use healing::integrity::StateRecord;
use healing::learning::{
    self, Context, Evidence, Learned, OutcomeRecord, Period, Posterior, Rung, Watch, posteriors,
};
use healing::lifecycle::{Lesson, Status};
use healing::snapshot::UnixMs;

use crate::store::Action;

/// The tables.
#[derive(Debug, Clone, Default)]
pub struct Learning {
    /// Outcomes of actions that had a plan.
    pub outcomes: Vec<OutcomeRecord>,
    /// Periods in which nobody acted.
    pub periods: Vec<Period>,
    /// What is watched of each collection.
    watches: Vec<Vec<Watch>>,
    /// The autonomy ladder of each.
    rungs: Vec<Vec<Rung>>,
    /// What is believed.
    pub posteriors: Vec<Posterior>,
}

impl Learning {
    /// Empty tables for so many collections.
    pub fn new(collections: usize) -> Self {
        Self { watches: vec![vec![]; collections], rungs: vec![vec![]; collections], ..Self::default() }
    }

    /// What a decision about a collection reads.
    pub fn learned(&self, collection: usize) -> Learned {
        Learned {
            seed: ((collection as u64) << 40) ^ self.outcomes.len() as u64,
            posteriors: self.posteriors.clone(),
            rungs: self.rungs[collection].clone(),
        }
    }

    /// An action ended, in the transaction of its status. Whether a remedy moved on the ladder.
    pub fn ended(
        &mut self,
        action: &Action,
        lesson: Lesson,
        status: Status,
        now: UnixMs,
        config: &Config,
    ) -> bool {
        let planned = action.planned();
        let verification = action.verification.as_ref();
        let strategy = planned.plan.strategy.clone();
        self.outcomes.push(OutcomeRecord {
            id: action.id,
            collection_id: action.collection as i32,
            context: context(&planned.problem, action),
            started_at: action.started.map_or(now, |at| at.wall),
            completed_at: now,
            status,
            lesson,
            success: status == Status::Succeeded,
            verified: verification.map(|verification| verification.verified),
            improvement_pct: None,
            recovery_s: None,
            feedback: None,
            feedback_at: None,
            strategy: strategy.clone(),
        });
        self.posteriors = posteriors(&self.outcomes, &self.periods);
        if !config.autonomy_ladder {
            return false;
        }
        let rungs = &mut self.rungs[action.collection];
        let at = rungs.iter().position(|rung| rung.strategy == strategy).unwrap_or_else(|| {
            rungs.push(Rung::top(strategy, now));
            rungs.len() - 1
        });
        let (after, moved) = rungs[at].after(Evidence::Ended(lesson), now);
        rungs[at] = after;
        moved.is_some()
    }

    /// Goes on watching what clears by itself.
    pub fn observe(
        &mut self,
        collection: usize,
        record: &StateRecord,
        present: &[Context],
        busy: bool,
        config: &Config,
        now: UnixMs,
    ) {
        if present.is_empty() && self.watches[collection].is_empty() {
            return;
        }
        let delayed = learning::control_until(collection as i32, record, config, now).is_some();
        let (open, ended) = learning::watch(&self.watches[collection], present, busy, delayed, now);
        self.watches[collection] = open;
        self.periods.extend(ended);
    }

    /// How far a remedy goes by itself on a collection whose humans let it go so far.
    pub fn mode(&self, collection: usize, strategy: &str, human: Mode) -> Mode {
        learning::effective(human, self.rungs[collection].iter().find(|rung| rung.strategy == strategy))
    }

    /// A human lets a remedy only plan on a collection.
    pub fn lower(&mut self, collection: usize, strategy: &str, now: UnixMs) {
        let rungs = &mut self.rungs[collection];
        rungs.retain(|rung| rung.strategy != strategy);
        rungs.push(Rung::top(strategy, now).set(Mode::Observe, now));
    }

    /// A human has looked: every remedy of the collection is at the top again.
    pub fn forgive(&mut self, collection: usize) -> bool {
        let any = self.rungs[collection].iter().any(|rung| rung.level != Mode::Auto);
        self.rungs[collection].clear();
        any
    }

    /// Everything that only memory held (a planted defect: all of it).
    pub fn lose(&mut self) {
        *self = Self::new(self.rungs.len());
    }
}

fn context(problem: &Problem, action: &Action) -> Context {
    Context::of(problem, &action.planned().before)
}
