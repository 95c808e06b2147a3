//! `scale_replicas`: one server is hot because of reads, which read replicas could answer.
//!
//! Symptom: a partition, or all of a server's, takes far more load than others. Evidence: its load, more than half of it
//! reads. Action: asks the orchestrator for half as many replicas more, `max_replicas` at most, and waits until they are
//! ready. Never: it acts without `max_replicas`, or where no orchestrator is configured; nor does it send reads anywhere:
//! that is the business of whatever balances them. Undone by the former number.

use serde_json::json;

use super::{Limits, NotApplicable, Outcome, Parameter, Params, Remedy};
use crate::classify::{Problem, ProblemClass};
use crate::config::Config;
use crate::placement::manual_hotspot;
use crate::plan::{Plan, Step};
use crate::snapshot::{Oid, Snapshot};

/// Share of scans among scans and rows written from which replicas can help.
const READ_SHARE_MIN: f64 = 0.5;
/// Share of the scans before that may be left: what is above may have fallen by chance.
const SCANS_LEFT_MAX: f64 = 0.9;

/// See the module.
pub(super) struct ScaleReplicas;

/// Scans ÷ (scans + rows written) a second in these partitions; None where nothing is known or nothing happens.
fn read_share(snapshot: &Snapshot, partitions: &[Oid]) -> Option<f64> {
    let (mut scans, mut written) = (0.0, 0.0);
    for partition in snapshot.partitions.iter().filter(|partition| partitions.contains(&partition.oid)) {
        let load = partition.load.as_ref()?.known()?;
        scans += load.scans;
        written += load.inserted + load.updated + load.deleted;
    }
    (scans + written > 0.0).then(|| scans / (scans + written))
}

/// Scans a second in all partitions of this server.
fn scans(snapshot: &Snapshot) -> Option<f64> {
    // Replicas are this server's.
    let own = snapshot.partitions.iter().filter(|partition| partition.server.is_empty());
    let each = own.map(|partition| Some(partition.load.as_ref()?.known()?.scans));
    each.sum()
}

impl Remedy for ScaleReplicas {
    fn name(&self) -> &'static str {
        "scale_replicas"
    }

    fn treats(&self, problem: &Problem) -> bool {
        matches!(problem.class, ProblemClass::HotspotCongestion { .. })
    }

    fn impact(&self) -> f64 {
        0.2
    }

    fn reversible(&self) -> bool {
        true
    }

    /// It is wanted when there is more to do than this server bears.
    fn adds_load(&self) -> bool {
        false
    }

    fn preventive(&self) -> bool {
        true
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[]
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        let ProblemClass::HotspotCongestion { partition_ids, partitions, .. } = &problem.class else {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: "it concerns no hot partition".to_owned(),
            });
        };
        let Config { max_replicas, scale_target, scale_ready_timeout_seconds, .. } = &limits.config;
        let Some(orchestrator) = snapshot.orchestrator.as_ref().filter(|name| !name.is_empty()) else {
            return Err(NotApplicable::NoOrchestrator {
                detail: "ruvector.scale_command is not set in postgresql.conf".to_owned(),
            });
        };
        let Some(max_replicas) = *max_replicas else {
            return Err(NotApplicable::NoTarget {
                detail: "max_replicas is null: nobody has said how far".to_owned(),
            });
        };
        let share = read_share(snapshot, partition_ids).ok_or_else(|| NotApplicable::MeasurementMissing {
            detail: "how much of the load is reads".to_owned(),
        })?;
        if share <= READ_SHARE_MIN {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: format!("{:.0} % of what is done there are reads", 100.0 * share),
            });
        }
        let estimated_s = *scale_ready_timeout_seconds as f64 + 30.0;
        limits.check_duration(estimated_s)?;
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible: true,
            reason: format!(
                "{} takes far more load than others, {:.0} % of it reads, which more replicas of {scale_target} can answer.",
                partitions.join(", "),
                100.0 * share
            ),
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes: 0,
            steps: vec![Step::ScaleReplicas {
                target: scale_target.clone(),
                max_replicas,
                ready_timeout_s: *scale_ready_timeout_seconds,
            }],
            skipped: vec![],
            params: json!({ "read_share": share, "max_replicas": max_replicas, "orchestrator": orchestrator }),
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
        let ready = outcome.entries.iter().any(|entry| entry.details["ready"] == json!(true));
        if !ready {
            return Err("the replicas are not ready".to_owned());
        }
        match (scans(outcome.before), scans(outcome.after)) {
            (Some(before), Some(after)) if after <= SCANS_LEFT_MAX * before => Ok(()),
            (Some(before), Some(after)) => {
                Err(format!("this server still answers {after:.1} scans a second, {before:.1} before"))
            }
            _ => Err("the reads of this server were not measured again".to_owned()),
        }
    }
}
