//! `pause_maintenance`: maintenance is in each other's, or in a replica's, way.
//!
//! Symptom: maintenance that waits, autovacuum's workers all busy, a replica behind. Evidence: jobs of low priority under
//! way or scheduled. Priorities: *low* are autovacuum (but for wraparound) and jobs of pg_cron that vacuum, analyze, reindex
//! or cluster; *normal* are VACUUM and ANALYZE that somebody runs; *high* is all else: builds and rebuilds of indexes,
//! CLUSTER, vacuum against wraparound, what we do ourselves.
//! Action: jobs of low priority are paused for the time of a lease and what they have under way is cancelled; what is of
//! normal priority is waited for, at most `drain_timeout_seconds`, and cancelled only where a human asked for it. By itself
//! it pauses only jobs of pg_cron that are at work: one that sleeps is in nobody's way. One whose run must go on is not paused at
//! that moment: pg_cron ends the run of a job that is made inactive.
//! Autovacuum is kept away, last, by a lock that gives way to whoever wants it: what else was done counts without it.
//! Never: it pauses anything for a replica that is not connected, touches what is of high priority, pauses or cancels what the
//! table's owner may not, or sets a table's options. Undone by making the jobs active again that were, and letting go of the lock.

use serde_json::json;

use super::{Limits, NotApplicable, Outcome, Parameter, Params, Remedy, asked_for};
use crate::classify::{Problem, ProblemClass};
use crate::command;
use crate::config::Config;
use crate::graph::NodeKey;
use crate::lag;
use crate::lease::LEASE_MAX_S;
use crate::params::ParameterKind;
use crate::plan::{Plan, Skipped, Step};
use crate::snapshot::{Job, Reading, Scheduled, Snapshot};

/// Pausing itself takes a few transactions and a lock, seconds.
const PAUSE_S: f64 = 30.0;

const CANCEL: &str = "cancel_running";
const LEASE_S: &str = "lease_seconds";

/// See the module.
pub(super) struct PauseMaintenance;

/// How much a piece of maintenance matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    /// It will come again by itself: may be paused and cancelled.
    Low,
    /// Somebody runs it: waited for.
    Normal,
    /// Never touched.
    High,
}

/// Kind of the job of an autovacuum worker.
const AUTOVACUUM: &str = "autovacuum";
/// Kind of what is at work on a table and whose statement does not say what it is.
const UNSAID: &str = "maintenance";

/// The priority of a kind of job, see the module.
fn priority(kind: &str) -> Priority {
    match kind {
        AUTOVACUUM | "pg_cron" => Priority::Low,
        "vacuum" | "analyze" => Priority::Normal,
        _ => Priority::High,
    }
}

/// Why a job of pg_cron is not to be made inactive at this moment: what it runs must go on to its end, or is not the table's
/// owner's to end. pg_cron terminates the process in which a job runs that is made inactive. None: it may be. `jobs`: what is
/// under way on the collection.
pub fn must_go_on(scheduled: &Scheduled, jobs: &[Job]) -> Option<String> {
    let pid = scheduled.pid?;
    match jobs.iter().find(|job| is_run(job, pid)) {
        Some(run) if !run.may_cancel => {
            Some(format!("it runs {}, which the table's owner may not cancel", run.id))
        }
        Some(run) if priority(&run.kind) == Priority::High && run.kind != UNSAID => {
            Some(format!("it runs {}, which goes on to its end", run.id))
        }
        // At another table just now, or its statement does not say what it is: the command does.
        _ => {
            let verb = command::verb(&scheduled.command);
            let may_end = matches!(verb.as_str(), "vacuum" | "analyze");
            (!may_end).then(|| format!("it runs {}, which goes on to its end", verb.to_ascii_uppercase()))
        }
    }
}

/// Whether that is what a process runs.
fn is_run(job: &Job, pid: i32) -> bool {
    job.id.ends_with(&format!(" {pid}"))
}

impl Remedy for PauseMaintenance {
    fn name(&self) -> &'static str {
        "pause_maintenance"
    }

    fn treats(&self, problem: &Problem) -> bool {
        matches!(
            problem.class,
            ProblemClass::MaintenanceContention { .. } | ProblemClass::ReplicationLag { .. }
        )
    }

    fn impact(&self) -> f64 {
        0.1
    }

    fn reversible(&self) -> bool {
        true
    }

    /// It takes work away.
    fn adds_load(&self) -> bool {
        false
    }

    fn parameters(&self) -> &'static [Parameter] {
        const PARAMETERS: &[Parameter] = &[
            Parameter {
                name: CANCEL,
                kind: ParameterKind::Bool,
                doc: "Whether VACUUM and ANALYZE that somebody runs on the collection are cancelled, not waited for, as far as \
                      the table's owner may cancel them.",
            },
            Parameter {
                name: LEASE_S,
                kind: ParameterKind::Int { min: 10, max: LEASE_MAX_S },
                doc: "Seconds after which maintenance goes on by itself; otherwise pause_lease_seconds.",
            },
        ];
        PARAMETERS
    }

    fn preventive(&self) -> bool {
        true
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        if !self.treats(problem) {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: "it pauses maintenance".to_owned(),
            });
        }
        let jobs = jobs(snapshot)?;
        if let ProblemClass::ReplicationLag { replica_ids, .. } = &problem.class {
            lag::connected(snapshot, replica_ids)?;
        }
        let scheduled = scheduled(snapshot);
        let left: Vec<Skipped> = scheduled
            .iter()
            .filter(|job| job.active)
            .filter_map(|job| Some(Skipped { target: named(job), reason: must_go_on(job, jobs)? }))
            .collect();
        // What sleeps is in nobody's way; a human may have other reasons.
        let is_paused = |job: &&Scheduled| {
            job.active && (job.pid.is_some() || limits.by_hand) && must_go_on(job, jobs).is_none()
        };
        let lease_s = limits.params.int(LEASE_S).unwrap_or(limits.config.pause_lease_seconds);
        let cancel_running = limits.params.flag(CANCEL).unwrap_or(false);

        let mut steps: Vec<Step> = scheduled
            .iter()
            .filter(is_paused)
            .map(|job| Step::PauseJob { jobid: job.jobid, command: job.command.clone(), lease_s })
            .collect();
        let keeps_away = autovacuum_is_at_work(jobs);
        let by_schedule = |job: &Job| scheduled.iter().any(|s| s.pid.is_some_and(|pid| is_run(job, pid)));
        let wanted = |job: &&Job| match priority(&job.kind) {
            // It is cancelled by PostgreSQL itself when the lock that keeps it away is asked for.
            Priority::Low => false,
            Priority::Normal => cancel_running || by_schedule(job),
            Priority::High => false,
        };
        let (ours, others): (Vec<&Job>, Vec<&Job>) =
            jobs.iter().filter(wanted).partition(|job| job.may_cancel);
        let cancel: Vec<String> = ours.iter().map(|job| job.id.clone()).collect();
        if steps.is_empty() && !keeps_away && cancel.is_empty() {
            return Err(NotApplicable::NothingToDo { detail: nothing(jobs, &left, &others, snapshot) });
        }
        // Autovacuum is gone once the lock that keeps it away is there.
        let wait_for: Vec<String> = jobs
            .iter()
            .filter(|job| job.waits_s.is_none() && priority(&job.kind) == Priority::Normal)
            .map(|job| job.id.clone())
            .collect();
        let paused: Vec<String> = scheduled
            .iter()
            .filter(is_paused)
            .map(named)
            .chain(keeps_away.then(|| AUTOVACUUM.to_owned()))
            .collect();
        let wait_s = limits.config.drain_timeout_seconds;
        if !wait_for.is_empty() || !cancel.is_empty() {
            steps.push(Step::DrainMaintenance { wait_for, cancel: cancel.clone(), wait_s });
        }
        // After the drain: it gives way at once where anybody has or wants one of the tables.
        if keeps_away {
            steps.push(Step::PauseAutovacuum { lease_s });
        }
        let estimated_s = PAUSE_S + wait_s as f64;
        limits.check_duration(estimated_s)?;
        let held = match paused.len() {
            0 => "Nothing is paused".to_owned(),
            _ => format!(
                "{} {} paused for {lease_s} s",
                paused.join(", "),
                if paused.len() == 1 { "is" } else { "are" }
            ),
        };
        let cancelled =
            if cancel.is_empty() { String::new() } else { format!(", {} cancelled", cancel.join(", ")) };
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible: true,
            reason: format!("{held}{cancelled}, so that what waits gets on."),
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes: 0,
            steps,
            skipped: jobs
                .iter()
                .filter(|job| priority(&job.kind) == Priority::High)
                .map(|job| Skipped { target: job.id.clone(), reason: "it is of high priority".to_owned() })
                .chain(others.iter().map(|job| Skipped {
                    target: job.id.clone(),
                    reason: "the table's owner may not cancel it: it is waited for".to_owned(),
                }))
                .chain(left)
                .collect(),
            params: json!({
                "paused_jobs": paused,
                "cancelled_jobs": cancel,
                "drain_timeout_seconds": wait_s,
                LEASE_S: lease_s,
            }),
        })
    }

    fn manual_problem(
        &self,
        snapshot: &Snapshot,
        config: &Config,
        _params: &Params,
    ) -> Result<Problem, NotApplicable> {
        let jobs = jobs(snapshot)?;
        let mut job_types: Vec<String> = jobs.iter().map(|job| job.kind.clone()).collect();
        job_types.sort();
        job_types.dedup();
        let nodes =
            match jobs.iter().max_by(|a, b| a.waits_s.unwrap_or(0.0).total_cmp(&b.waits_s.unwrap_or(0.0))) {
                Some(job) => vec![NodeKey::Job { id: job.id.clone() }],
                None => vec![NodeKey::Slots],
            };
        Ok(Problem {
            class: ProblemClass::MaintenanceContention { job_types, queue_depth: queue(jobs).0 },
            component: asked_for(snapshot, nodes, config)?,
            evidence: vec!["asked for by hand".to_owned()],
        })
    }

    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        let Outcome { problem, before, after, .. } = *outcome;
        if let ProblemClass::ReplicationLag { replica_ids, .. } = &problem.class {
            return lag::stands(replica_ids, before, after);
        }
        let (Some(then), Some(now)) = (waiting(before), waiting(after)) else {
            return Err("maintenance could not be read again".to_owned());
        };
        // Nothing waited: then nothing may wait now.
        if now.0 > then.0 {
            return Err(format!("{} jobs wait where {} did", now.0, then.0));
        }
        if then.0 > 0 && now.0 == then.0 && now.1 >= then.1 {
            return Err(format!("{} jobs go on waiting, the longest for {:.0} s", now.0, now.1));
        }
        Ok(())
    }

    fn evident(&self, outcome: &Outcome<'_>) -> bool {
        let Outcome { problem, before, after, .. } = *outcome;
        match &problem.class {
            ProblemClass::ReplicationLag { replica_ids, .. } => lag::is_read(replica_ids, before, after),
            // Where nothing waited before, nothing shows that fewer do.
            _ => waiting(before).is_some_and(|(depth, _)| depth > 0),
        }
    }
}

fn jobs(snapshot: &Snapshot) -> Result<&[Job], NotApplicable> {
    match &snapshot.jobs {
        Some(Reading::Known(jobs)) => Ok(jobs),
        Some(Reading::Unknown(reason)) => {
            Err(NotApplicable::MeasurementMissing { detail: format!("maintenance: {reason}") })
        }
        None => Err(NotApplicable::MeasurementMissing { detail: "nobody looks at maintenance".to_owned() }),
    }
}

fn scheduled(snapshot: &Snapshot) -> &[Scheduled] {
    snapshot.scheduled.as_ref().and_then(Reading::known).map_or(&[], Vec::as_slice)
}

/// A job of pg_cron as plans name it.
fn named(job: &Scheduled) -> String {
    format!("pg_cron job {} ({})", job.jobid, job.name)
}

/// Autovacuum is at work on the collection. Where it is not, and the collection's tables wait for workers that are busy
/// elsewhere, keeping it away would take from them what they wait for.
fn autovacuum_is_at_work(jobs: &[Job]) -> bool {
    jobs.iter().any(|job| job.kind == AUTOVACUUM && job.waits_s.is_none())
}

/// Jobs that wait, and how long the longest has, seconds.
fn queue(jobs: &[Job]) -> (u32, f64) {
    let waits = || jobs.iter().filter_map(|job| job.waits_s);
    (waits().count() as u32, waits().fold(0.0, f64::max))
}

/// Jobs and tables that wait, and how long the longest of the jobs has, seconds; None where that was not read.
fn waiting(snapshot: &Snapshot) -> Option<(u32, f64)> {
    let (depth, longest_s) = queue(snapshot.jobs.as_ref().and_then(Reading::known)?);
    Some((depth + unserved(snapshot), longest_s))
}

/// Tables that are due while no worker is free.
fn unserved(snapshot: &Snapshot) -> u32 {
    match &snapshot.slots {
        Some(Reading::Known(slots)) if slots.busy >= slots.total => slots.waiting,
        _ => 0,
    }
}

/// Why there is nothing to pause, with what is under way. `left`: jobs of pg_cron whose runs must go on; `others`: what would be
/// cancelled if the table's owner might.
fn nothing(jobs: &[Job], left: &[Skipped], others: &[&Job], snapshot: &Snapshot) -> String {
    if !left.is_empty() {
        let each: Vec<String> = left.iter().map(|one| format!("{}: {}", one.target, one.reason)).collect();
        return format!("{}; nothing else can be paused", each.join("; "));
    }
    if !others.is_empty() {
        let ids: Vec<&str> = others.iter().map(|job| job.id.as_str()).collect();
        return format!(
            "the table's owner may not cancel {}, and nothing else can be paused",
            ids.join(", ")
        );
    }
    let high: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
    let waiting = unserved(snapshot);
    match high.is_empty() {
        true if waiting > 0 => format!(
            "{waiting} tables wait for autovacuum, whose workers are all busy elsewhere: autovacuum_max_workers says how many \
             there are"
        ),
        true => "no maintenance of low priority is under way or scheduled".to_owned(),
        false => {
            format!("{} is not of low priority, and nothing else is under way or scheduled", high.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::whole;
    use crate::integrity::IntegrityState;
    use crate::snapshot::{Replica, Slots};
    use serde_json::Value;

    fn job(kind: &str, pid: u32, waits_s: Option<f64>) -> Job {
        Job {
            id: format!("{kind} {pid}"),
            kind: kind.to_owned(),
            partition: Some(1000),
            waits_s,
            waits_for: None,
            may_cancel: true,
        }
    }

    fn cron(jobid: i64, active: bool, pid: Option<i32>) -> Scheduled {
        Scheduled {
            jobid,
            name: format!("job {jobid}"),
            schedule: "* * * * *".to_owned(),
            command: "VACUUM docs_0".to_owned(),
            active,
            pid,
        }
    }

    fn busy(jobs: Vec<Job>, scheduled: Vec<Scheduled>) -> Snapshot {
        let mut snapshot = whole(2, 0, 1, 0, 0);
        snapshot.jobs = Some(Reading::Known(jobs));
        snapshot.scheduled = Some(Reading::Known(scheduled));
        snapshot
    }

    fn plan(snapshot: &Snapshot, params: Value) -> Result<Plan, NotApplicable> {
        let problem =
            PauseMaintenance.manual_problem(snapshot, &Config::default(), &Params::default()).unwrap();
        let params = Params::parse("pause_maintenance", &params).unwrap();
        let mut limits = Limits::new(&Config::default(), IntegrityState::Stress, snapshot, params);
        limits.by_hand = true;
        PauseMaintenance.plan(&problem, snapshot, &limits)
    }

    #[test]
    fn low_priority_is_paused_normal_waited_for_and_high_left_alone() {
        let snapshot = busy(
            vec![
                job("create_index", 1, Some(40.0)),
                job("vacuum", 2, None),
                job("vacuum", 3, None),
                job("autovacuum", 4, None),
                job("wraparound_vacuum", 5, None),
            ],
            vec![cron(7, true, Some(2)), cron(8, false, None)],
        );
        let paused = plan(&snapshot, Value::Null).unwrap();
        assert_eq!(
            paused.steps,
            [
                Step::PauseJob { jobid: 7, command: "VACUUM docs_0".into(), lease_s: 900 },
                Step::DrainMaintenance {
                    wait_for: vec!["vacuum 2".into(), "vacuum 3".into()],
                    cancel: vec!["vacuum 2".into()],
                    wait_s: 30
                },
                Step::PauseAutovacuum { lease_s: 900 },
            ],
            "what gives way at once comes last"
        );
        assert_eq!(paused.params["paused_jobs"], json!(["pg_cron job 7 (job 7)", "autovacuum"]));
        let left: Vec<&str> = paused.skipped.iter().map(|skipped| skipped.target.as_str()).collect();
        assert_eq!(left, ["create_index 1", "wraparound_vacuum 5"]);
    }

    #[test]
    fn by_itself_it_pauses_no_job_that_sleeps_and_nothing_for_a_replica_that_is_gone() {
        let problem = |snapshot: &Snapshot| Problem {
            class: ProblemClass::ReplicationLag {
                replica_ids: vec![1],
                replicas: vec!["replica".to_owned()],
                lag_seconds: Some(60.0),
            },
            component: asked_for(snapshot, vec![NodeKey::Replica { id: 1 }], &Config::default()).unwrap(),
            evidence: vec![],
        };
        let plan = |snapshot: &Snapshot, by_hand: bool| {
            let params = Params::default();
            let mut limits = Limits::new(&Config::default(), IntegrityState::Stress, snapshot, params);
            limits.by_hand = by_hand;
            PauseMaintenance.plan(&problem(snapshot), snapshot, &limits)
        };
        let replica = |gone_s| Replica {
            id: 1,
            name: "replica".to_owned(),
            lag_bytes: Reading::Known(1e9),
            lag_seconds: Reading::Known(60.0),
            gone_s,
        };
        let mut sleeps = busy(vec![], vec![cron(7, true, None)]);
        sleeps.replicas = Some(Reading::Known(vec![replica(None)]));
        assert!(matches!(plan(&sleeps, false), Err(NotApplicable::NothingToDo { .. })));
        assert_eq!(plan(&sleeps, true).unwrap().params["paused_jobs"], json!(["pg_cron job 7 (job 7)"]));
        let mut works = busy(vec![job("vacuum", 2, None)], vec![cron(7, true, Some(2))]);
        works.replicas = Some(Reading::Known(vec![replica(None)]));
        assert!(plan(&works, false).is_ok());
        works.replicas = Some(Reading::Known(vec![replica(Some(30.0))]));
        let gone = plan(&works, false).unwrap_err().to_string();
        assert!(gone.contains("not connected"), "{gone}");
    }

    #[test]
    fn autovacuum_that_is_waited_for_is_not_kept_away() {
        let mut waits = busy(vec![], vec![]);
        waits.slots = Some(Reading::Known(Slots { busy: 3, total: 3, waiting: 2 }));
        let problem = Problem {
            class: ProblemClass::MaintenanceContention {
                job_types: vec![AUTOVACUUM.to_owned()],
                queue_depth: 2,
            },
            component: asked_for(&waits, vec![NodeKey::Slots], &Config::default()).unwrap(),
            evidence: vec![],
        };
        let plan = |snapshot: &Snapshot| {
            let limits = Limits::new(&Config::default(), IntegrityState::Stress, snapshot, Params::default());
            PauseMaintenance.plan(&problem, snapshot, &limits)
        };
        let why = plan(&waits).unwrap_err().to_string();
        assert!(why.contains("2 tables wait for autovacuum"), "{why}");
        let mut works = busy(vec![job("autovacuum", 4, None)], vec![]);
        works.slots = waits.slots.clone();
        let kept_away = plan(&works).unwrap();
        assert_eq!(kept_away.params["paused_jobs"], json!(["autovacuum"]));
        assert_eq!(kept_away.steps, [Step::PauseAutovacuum { lease_s: 900 }], "the lock cancels it");
    }

    #[test]
    fn what_is_of_high_priority_only_is_no_plan() {
        let snapshot = busy(vec![job("create_index", 1, Some(40.0)), job("reindex", 2, None)], vec![]);
        let nothing = plan(&snapshot, Value::Null).unwrap_err();
        assert!(matches!(nothing, NotApplicable::NothingToDo { .. }), "{nothing}");
        let vacuum = busy(vec![job("vacuum", 1, None)], vec![]);
        assert!(plan(&vacuum, Value::Null).is_err(), "somebody runs it");
        let asked = plan(&vacuum, json!({ "cancel_running": true })).unwrap();
        assert!(
            matches!(&asked.steps[..], [Step::DrainMaintenance { cancel, .. }] if cancel == &["vacuum 1"])
        );
    }

    #[test]
    fn what_the_tables_owner_may_not_cancel_is_waited_for() {
        let others = |pid| Job { may_cancel: false, ..job("vacuum", pid, None) };
        let asked = json!({ "cancel_running": true });
        let snapshot = busy(vec![others(2), job("vacuum", 3, None)], vec![]);
        let paused = plan(&snapshot, asked.clone()).unwrap();
        assert_eq!(
            paused.steps,
            [Step::DrainMaintenance {
                wait_for: vec!["vacuum 2".into(), "vacuum 3".into()],
                cancel: vec!["vacuum 3".into()],
                wait_s: 30
            }]
        );
        assert_eq!(paused.params["cancelled_jobs"], json!(["vacuum 3"]));
        let skipped: Vec<&str> = paused.skipped.iter().map(|skipped| skipped.target.as_str()).collect();
        assert_eq!(skipped, ["vacuum 2"]);
        // The run of a job too, which pg_cron would end with the job made inactive.
        let run = busy(vec![others(2)], vec![cron(7, true, Some(2)), cron(8, true, None)]);
        let run = plan(&run, Value::Null).unwrap();
        assert_eq!(
            run.steps,
            [
                Step::PauseJob { jobid: 8, command: "VACUUM docs_0".into(), lease_s: 900 },
                Step::DrainMaintenance { wait_for: vec!["vacuum 2".into()], cancel: vec![], wait_s: 30 }
            ]
        );
        assert!(run.skipped.iter().any(|one| one.target == "pg_cron job 7 (job 7)"), "{:?}", run.skipped);
        let alone = plan(&busy(vec![others(2)], vec![]), asked).unwrap_err().to_string();
        assert!(alone.contains("may not cancel vacuum 2"), "{alone}");
    }

    #[test]
    fn a_job_whose_run_must_go_on_is_not_paused() {
        let runs = |kind: &str, command: &str| {
            let mut at_work = cron(7, true, Some(2));
            at_work.command = command.to_owned();
            let jobs = if kind.is_empty() { vec![] } else { vec![job(kind, 2, None)] };
            (at_work, jobs)
        };
        for (kind, command, why) in [
            ("reindex", "REINDEX TABLE docs_0", "it runs reindex 2, which goes on to its end"),
            ("cluster", "CLUSTER docs_0", "it runs cluster 2, which goes on to its end"),
            // Its command was changed since it began.
            ("reindex", "VACUUM docs_0", "it runs reindex 2, which goes on to its end"),
            // At another table of the schema just now.
            ("", "REINDEX SCHEMA public", "it runs REINDEX, which goes on to its end"),
            ("maintenance", "/* nightly */ CLUSTER", "it runs CLUSTER, which goes on to its end"),
        ] {
            let (at_work, jobs) = runs(kind, command);
            assert_eq!(must_go_on(&at_work, &jobs).as_deref(), Some(why), "{command}");
            // What else there is to do is done.
            let paused = plan(&busy(jobs.clone(), vec![at_work.clone(), cron(8, true, None)]), Value::Null);
            let paused = paused.unwrap();
            assert_eq!(paused.params["paused_jobs"], json!(["pg_cron job 8 (job 8)"]), "{command}");
            let skipped = paused.skipped.last().unwrap();
            assert_eq!((skipped.target.as_str(), skipped.reason.as_str()), ("pg_cron job 7 (job 7)", why));
            let alone = plan(&busy(jobs, vec![at_work]), Value::Null).unwrap_err().to_string();
            assert!(alone.contains("pg_cron job 7 (job 7)") && alone.contains(why), "{alone}");
        }
        for (kind, command) in [
            ("vacuum", "VACUUM docs_0"),
            ("analyze", "ANALYZE docs_0"),
            ("", "VACUUM"),
            ("maintenance", "/* nightly */ VACUUM docs_0"),
        ] {
            let (at_work, jobs) = runs(kind, command);
            assert_eq!(must_go_on(&at_work, &jobs), None, "{command}");
            let paused = plan(&busy(jobs, vec![at_work]), Value::Null).unwrap();
            assert_eq!(paused.params["paused_jobs"], json!(["pg_cron job 7 (job 7)"]), "{command}");
        }
        // One that sleeps is paused whatever it would run.
        let mut sleeps = cron(7, true, None);
        sleeps.command = "REINDEX TABLE docs_0".to_owned();
        assert_eq!(must_go_on(&sleeps, &[job("reindex", 3, None)]), None, "another's");
        assert_eq!(plan(&busy(vec![], vec![sleeps]), Value::Null).unwrap().steps.len(), 1);
    }

    #[test]
    fn at_nought_and_nought_only_a_queue_that_was_there_shows_anything() {
        let evident = |before: &Snapshot| {
            let problem =
                PauseMaintenance.manual_problem(before, &Config::default(), &Params::default()).unwrap();
            PauseMaintenance.evident(&Outcome {
                problem: &problem,
                plan: &plan(&busy(vec![], vec![cron(7, true, None)]), Value::Null).unwrap(),
                before,
                after: &busy(vec![], vec![]),
                verdicts: &[],
                entries: &[],
                config: &Config::default(),
            })
        };
        assert!(evident(&busy(vec![job("create_index", 1, Some(9000.0))], vec![])));
        assert!(!evident(&busy(vec![job("create_index", 1, None)], vec![])));
    }

    #[test]
    fn verified_when_queue_and_wait_fall() {
        let then = busy(vec![job("create_index", 1, Some(40.0))], vec![cron(7, true, None)]);
        let achieved = |now: &Snapshot| {
            let problem =
                PauseMaintenance.manual_problem(&then, &Config::default(), &Params::default()).unwrap();
            PauseMaintenance.achieved(&Outcome {
                problem: &problem,
                plan: &plan(&then, Value::Null).unwrap(),
                before: &then,
                after: now,
                verdicts: &[],
                entries: &[],
                config: &Config::default(),
            })
        };
        assert!(achieved(&busy(vec![job("create_index", 1, Some(70.0))], vec![])).is_err());
        assert!(
            achieved(&busy(vec![job("create_index", 1, Some(5.0)), job("vacuum", 2, Some(1.0))], vec![]))
                .is_err()
        );
        assert_eq!(achieved(&busy(vec![job("create_index", 1, None)], vec![])), Ok(()));
        assert_eq!(achieved(&busy(vec![job("create_index", 9, Some(2.0))], vec![])), Ok(()));
        assert_eq!(achieved(&busy(vec![], vec![])), Ok(()));
        let mut unread = busy(vec![], vec![]);
        unread.jobs = Some(Reading::unknown("no"));
        assert!(achieved(&unread).is_err());
    }
}
