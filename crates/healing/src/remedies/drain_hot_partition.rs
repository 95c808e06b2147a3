//! `drain_hot_partition`: a partition of a managed collection that is hot because new rows keep coming to it.
//!
//! Symptom and evidence as of `rebalance_partitions`, which comes first. Action: for the time of a lease no new rows are
//! routed to it, while rows move out slowly; at the lease's end it gets new rows again, by a weight that is as much less as
//! it was loaded more. Never: it closes the partition to anybody who names it. Undone by the former weight, and by moving
//! the same rows back. The lease ends by itself, with the healer or without it.

use serde_json::json;

use super::{Limits, NotApplicable, Outcome, Parameter, Params, Remedy};
use crate::classify::{Problem, ProblemClass};
use crate::config::Config;
use crate::dose::Dose;
use crate::health::LOAD_RATIO;
use crate::load;
use crate::placement::{
    MOVING, Site, bytes_of, choosing_s, managed, manual_hotspot, moved, moving_s, place, rows_allowed, sites,
};
use crate::plan::{PlaceRef, Plan, Step, WeightLease};
use crate::snapshot::{Oid, Snapshot};

/// The partition is hot: three times as long a pause as the batch before it held the lock.
const PAUSE_RATIO: f64 = 3.0;
/// Least part of its former weight that a partition gets after the lease.
const WEIGHT_SHARE_MIN: f64 = 0.1;

/// See the module.
pub(super) struct DrainHotPartition;

/// The partition that gives and has the most load.
fn hottest(sites: &[Site]) -> Option<&Site> {
    sites.iter().filter(|site| site.gives).max_by(|a, b| a.load.total_cmp(&b.load))
}

/// Its weight after the lease: by as much less as it is loaded more than the others.
fn weight_after(site: &Site, sites: &[Site], weight: f64) -> f64 {
    let others: Vec<f64> =
        sites.iter().filter(|other| other.place != site.place).map(|other| other.load).collect();
    let mean = others.iter().sum::<f64>() / others.len().max(1) as f64;
    weight * (mean / site.load.max(1.0)).clamp(WEIGHT_SHARE_MIN, 1.0)
}

impl Remedy for DrainHotPartition {
    fn name(&self) -> &'static str {
        "drain_hot_partition"
    }

    fn treats(&self, problem: &Problem) -> bool {
        matches!(problem.class, ProblemClass::HotspotCongestion { .. })
    }

    fn impact(&self) -> f64 {
        0.35
    }

    fn reversible(&self) -> bool {
        true
    }

    fn parameters(&self) -> &'static [Parameter] {
        MOVING
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        let mut sites = sites(problem, snapshot, limits)?;
        let Some(hot) = hottest(&sites).map(|site| site.place.clone()) else {
            return Err(NotApplicable::NoTarget { detail: "no partition is hot".to_owned() });
        };
        for site in &mut sites {
            site.gives = site.place == hot;
        }
        let allowed = rows_allowed(snapshot, limits);
        let moves = place(&sites, allowed);
        let weight = managed(snapshot, &limits.config)?
            .places
            .iter()
            .find(|place| place.oid == hot.oid)
            .map_or(0.0, |place| place.weight);
        let dose = Dose {
            problem,
            snapshot,
            limits,
            sites: &sites,
            allowed,
            ratio_below: Some((hot.oid, threshold(snapshot, hot.oid))),
        };
        // How much load new rows bring, which come no more then, nobody knows beforehand.
        let lambda_placed = if weight > 0.0 && grows(snapshot, hot.oid) { None } else { dose.check(&moves)? };
        let disk_bytes = bytes_of(snapshot, &moves);
        limits.check_disk(disk_bytes)?;
        let estimated_s = choosing_s(snapshot, &moves) + moving_s(&moves, PAUSE_RATIO);
        limits.check_duration(estimated_s)?;
        let after = hottest(&sites).map_or(weight, |site| weight_after(site, &sites, weight));
        let rows: u64 = moves.iter().map(|one| one.rows).sum();
        let mut steps = Vec::new();
        if weight > 0.0 {
            let lease = WeightLease { seconds: limits.config.drain_lease_seconds, after };
            steps.push(Step::SetRoutingWeight { of: hot.clone(), weight: 0.0, lease: Some(lease) });
        }
        if !moves.is_empty() {
            let lambda = Some(problem.component.lambda);
            let flat = dose.flat(&moves);
            steps.push(Step::MoveRows { moves, lambda, flat, pause_ratio: PAUSE_RATIO });
        }
        if steps.is_empty() {
            return Err(NotApplicable::NothingToDo {
                detail: format!("{} gets no new rows, and no move of rows would even out the load", hot.name),
            });
        }
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible: true,
            reason: format!(
                "{} takes far more load than the other partitions; for {} s it gets no new rows, and {rows} of its rows \
                 leave it meanwhile.",
                hot.name, limits.config.drain_lease_seconds
            ),
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes,
            steps,
            skipped: vec![],
            params: json!({
                "rows": rows, "rows_allowed": allowed, "lambda_placed": lambda_placed,
                "weight_before": weight, "weight_after": after,
            }),
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
        let ratios = load::ratios(outcome.after, outcome.config);
        for of in drained(outcome.plan) {
            match ratios.get(&of.oid) {
                Some(Ok(ratio)) if *ratio < threshold(outcome.before, of.oid) => {}
                Some(Ok(ratio)) => {
                    return Err(format!("{} still has {ratio:.2} times the load of the others", of.name));
                }
                Some(Err(why)) => return Err(format!("load of {}: {why}", of.name)),
                None => return Err(format!("the load of {} was not measured again", of.name)),
            }
        }
        let moves = outcome.plan.steps.iter().any(|step| matches!(step, Step::MoveRows { .. }));
        if moves && moved(outcome.entries) == 0 {
            Err("no row was moved for good".to_owned())
        } else {
            Ok(())
        }
    }
}

/// Whether rows are inserted into a partition, or that is not known.
fn grows(snapshot: &Snapshot, oid: Oid) -> bool {
    let load = snapshot.partitions.iter().find(|p| p.oid == oid).and_then(|p| p.load.as_ref()?.known());
    load.is_none_or(|load| load.inserted > 0.0)
}

/// Load ratio at which a partition counts as hot: what is usual for it is no fault.
fn threshold(snapshot: &Snapshot, oid: Oid) -> f64 {
    let usual = snapshot.partitions.iter().find(|p| p.oid == oid).and_then(|p| p.usual_ratio).unwrap_or(1.0);
    LOAD_RATIO.threshold * usual.max(1.0)
}

/// The partitions that the plan drains.
fn drained(plan: &Plan) -> Vec<&PlaceRef> {
    let mut found: Vec<&PlaceRef> = Vec::new();
    for step in &plan.steps {
        match step {
            Step::SetRoutingWeight { of, .. } => found.push(of),
            Step::MoveRows { moves, .. } => found.extend(moves.iter().map(|one| &one.from)),
            _ => {}
        }
    }
    found.sort_by_key(|of| of.oid);
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_after_the_lease_by_hand() {
        let site = |number: i32, load: f64| Site {
            place: PlaceRef { oid: number as u32, number, name: String::new() },
            rows: 100.0,
            load,
            takes: true,
            gives: false,
        };
        let sites = [site(1, 4000.0), site(2, 1000.0), site(3, 1000.0)];
        assert_eq!(weight_after(&sites[0], &sites, 2.0), 0.5, "four times the load, a quarter of the weight");
        let idle = [site(1, 4000.0), site(2, 0.0)];
        assert_eq!(weight_after(&idle[0], &idle, 1.0), 0.1, "a tenth at least");
        assert_eq!(weight_after(&sites[1], &sites, 1.0), 1.0, "never more");
    }
}
