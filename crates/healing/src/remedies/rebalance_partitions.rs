//! `rebalance_partitions`: a partition of a managed collection that takes far more load than the others.
//!
//! Symptom: searches and writes of one partition wait while others idle. Evidence: its load against the others' mean.
//! Action: moves rows from it to the least loaded partitions, as many as a simulated placement says, within the limits;
//! after each move λ of the component is measured, one that made it worse is taken back. Nothing is moved where as much as
//! may be moved at once is expected to be too little. To a partition on another server only
//! where this one has no other that could take rows, or where that server is asked for. Never: it touches rows of a
//! collection whose partition key is its owner's, moves anything to the cold partition, or holds writers up for longer than
//! `move_lock_ms` at a stretch. Undone by moving the same rows back, the last batch first.

use serde_json::json;

use super::{Limits, NotApplicable, Outcome, Parameter, Params, Remedy};
use crate::classify::{Problem, ProblemClass};
use crate::config::Config;
use crate::dose::Dose;
use crate::placement::{
    MOVING, bytes_of, choosing_s, manual_hotspot, moved, moving_s, place, rows_allowed, sites,
};
use crate::plan::{Plan, Step};
use crate::snapshot::Snapshot;

/// As long a pause as the batch before it held the lock.
const PAUSE_RATIO: f64 = 1.0;

/// See the module.
pub(super) struct RebalancePartitions;

impl Remedy for RebalancePartitions {
    fn name(&self) -> &'static str {
        "rebalance_partitions"
    }

    fn treats(&self, problem: &Problem) -> bool {
        matches!(problem.class, ProblemClass::HotspotCongestion { .. })
    }

    fn impact(&self) -> f64 {
        0.3
    }

    fn reversible(&self) -> bool {
        true
    }

    fn parameters(&self) -> &'static [Parameter] {
        MOVING
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        let sites = sites(problem, snapshot, limits)?;
        let allowed = rows_allowed(snapshot, limits);
        let moves = place(&sites, allowed);
        if moves.is_empty() {
            return Err(NotApplicable::NothingToDo {
                detail: "no move of rows would even out the load".to_owned(),
            });
        }
        let dose = Dose { problem, snapshot, limits, sites: &sites, allowed, ratio_below: None };
        let lambda_placed = dose.check(&moves)?;
        let disk_bytes = bytes_of(snapshot, &moves);
        limits.check_disk(disk_bytes)?;
        let estimated_s = choosing_s(snapshot, &moves) + moving_s(&moves, PAUSE_RATIO);
        limits.check_duration(estimated_s)?;
        let rows: u64 = moves.iter().map(|one| one.rows).sum();
        let hot: Vec<&str> =
            sites.iter().filter(|site| site.gives).map(|site| site.place.name.as_str()).collect();
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible: true,
            reason: format!(
                "{} takes far more load than the other partitions; {rows} of its rows go to the least loaded of them.",
                hot.join(", ")
            ),
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes,
            steps: vec![Step::MoveRows {
                flat: dose.flat(&moves),
                moves,
                lambda: Some(problem.component.lambda),
                pause_ratio: PAUSE_RATIO,
            }],
            skipped: vec![],
            params: json!({ "rows": rows, "rows_allowed": allowed, "lambda_placed": lambda_placed }),
        })
    }

    fn manual_problem(
        &self,
        snapshot: &Snapshot,
        config: &Config,
        params: &Params,
    ) -> Result<Problem, NotApplicable> {
        manual_hotspot(snapshot, config, params)
    }

    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        if moved(outcome.entries) == 0 { Err("no row was moved for good".to_owned()) } else { Ok(()) }
    }
}
