//! A tiny catalog on which plans run, crash at any moment, and are recovered, with crashes in the recovery too.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::plan::{BuildOptions, Criterion};
use crate::snapshot::{Method, Oid};

/// What of PostgreSQL the steps touch: indexes by name, and the search effort of the index of each name.
#[derive(Debug, Clone, PartialEq, Default)]
struct Catalog {
    /// Name to (OID, valid).
    indexes: BTreeMap<String, (u32, bool)>,
    effort: BTreeMap<String, u32>,
    next_oid: u32,
}

/// Stops everything after so many actions on the catalog or the journal: the crash.
struct Fuel(usize);

struct Crash;

impl Fuel {
    fn burn(&mut self) -> Result<(), Crash> {
        self.0 = self.0.checked_sub(1).ok_or(Crash)?;
        Ok(())
    }
}

fn trial(of: &IndexRef) -> String {
    format!("_ruvector_trial_{}", of.oid)
}

fn reindex_leftover(of: &IndexRef) -> String {
    format!("{}_ccnew", of.name)
}

impl Catalog {
    fn with(indexes: &[(&str, u32, bool)]) -> Self {
        Self {
            indexes: indexes.iter().map(|(name, oid, valid)| ((*name).to_owned(), (*oid, *valid))).collect(),
            effort: indexes.iter().map(|(name, ..)| ((*name).to_owned(), 1)).collect(),
            next_oid: 1000,
        }
    }

    fn new_oid(&mut self) -> u32 {
        self.next_oid += 1;
        self.next_oid
    }

    fn exchange(&mut self, a: &str, b: &str) {
        if let (Some(x), Some(y)) = (self.indexes.get(a).copied(), self.indexes.get(b).copied()) {
            self.indexes.insert(a.to_owned(), y);
            self.indexes.insert(b.to_owned(), x);
        }
    }

    fn drop_oid(&mut self, oid: u32) {
        self.indexes.retain(|_, (present, _)| *present != oid);
    }

    /// One step; a concurrent build leaves an invalid index when it is interrupted.
    fn run(&mut self, step: &Step, fuel: &mut Fuel) -> Result<(), Crash> {
        match step {
            Step::BuildIndex { of, .. } => {
                fuel.burn()?;
                let oid = self.new_oid();
                self.indexes.insert(trial(of), (oid, false));
                fuel.burn()?;
                self.indexes.insert(trial(of), (oid, true));
            }
            Step::CompareIndexes { .. } => fuel.burn()?,
            Step::SwapIndex { of } => {
                fuel.burn()?;
                self.exchange(&of.name, &trial(of));
                self.effort.insert(of.name.clone(), 9);
            }
            Step::DropLoser { of } | Step::DropInvalid { of } => {
                fuel.burn()?;
                self.drop_oid(of.oid);
            }
            Step::ReindexConcurrently { of, .. } => {
                fuel.burn()?;
                let oid = self.new_oid();
                self.indexes.insert(reindex_leftover(of), (oid, false));
                fuel.burn()?;
                self.indexes.remove(&reindex_leftover(of));
                self.indexes.insert(of.name.clone(), (of.oid, true));
            }
            Step::TuneSearchEffort { of, .. } => {
                fuel.burn()?;
                self.effort.insert(of.name.clone(), 9);
            }
            // Of no index: see the test of what they revert to.
            Step::SetRoutingWeight { .. } | Step::MoveRows { .. } | Step::ScaleReplicas { .. } => {
                fuel.burn()?
            }
            Step::SetThrottle { .. }
            | Step::PauseJob { .. }
            | Step::PauseAutovacuum { .. }
            | Step::DrainMaintenance { .. } => panic!("every step here concerns an index"),
        }
        Ok(())
    }

    /// One recovery command, as the module's contract says.
    fn recover(&mut self, command: &RecoveryCommand, fuel: &mut Fuel) -> Result<(), Crash> {
        fuel.burn()?;
        match command {
            RecoveryCommand::DropTrial { of, .. } => {
                if let Some((oid, _)) = self.indexes.get(&trial(of)).copied() {
                    assert_ne!(
                        oid, of.oid,
                        "the trial's name is on the old index: the swap was not undone first"
                    );
                    self.drop_oid(oid);
                }
            }
            RecoveryCommand::SwapBack { of, details, .. } => {
                if self.indexes.get(&trial(of)).is_some_and(|(oid, _)| *oid == of.oid) {
                    self.exchange(&of.name, &trial(of));
                    let former = details["former_effort"].as_u64().unwrap();
                    self.effort.insert(of.name.clone(), former as u32);
                }
            }
            RecoveryCommand::RestoreEffort { of, details, .. } => {
                let former = details["former_effort"].as_u64().unwrap();
                self.effort.insert(of.name.clone(), former as u32);
            }
            RecoveryCommand::RebuildDropped { of, .. } => {
                if !self.indexes.contains_key(&of.name) {
                    let oid = self.new_oid();
                    self.indexes.insert(of.name.clone(), (oid, true));
                }
            }
            RecoveryCommand::DropReindexLeftover { of, .. } => {
                self.indexes.remove(&reindex_leftover(of));
            }
            RecoveryCommand::DropLoser { of, .. } => {
                assert!(self.indexes.get(&of.name).is_some_and(|(oid, valid)| *valid && *oid != of.oid));
                self.drop_oid(of.oid);
            }
            RecoveryCommand::Revert { .. } => panic!("every step here concerns an index"),
        }
        Ok(())
    }
}

fn reference(name: &str, oid: u32) -> IndexRef {
    IndexRef { oid, relfilenode: oid, name: name.to_owned(), table: 1, method: Method::Ivfflat }
}

fn part(name: &str, oid: u32) -> Part {
    Part::Index(reference(name, oid))
}

fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        strategy: "test".to_owned(),
        impact: 0.1,
        reversible: true,
        reason: "Test.".to_owned(),
        estimated_s: 1.0,
        timeout_s: 2.0,
        disk_bytes: 0,
        steps,
        skipped: vec![],
        params: Value::Null,
    }
}

fn blue_green(of: &IndexRef) -> Vec<Step> {
    vec![
        Step::BuildIndex { of: of.clone(), options: BuildOptions::default(), limit_s: None },
        Step::CompareIndexes { of: of.clone(), criterion: Criterion::Smaller },
        Step::SwapIndex { of: of.clone() },
    ]
}

/// The plans of all remedies in little, with the catalog on which they start.
fn plans() -> Vec<(Plan, Catalog)> {
    let (a, b) = (reference("a", 1), reference("b", 2));
    let mut two = blue_green(&a);
    two.extend(blue_green(&b));
    two.extend([Step::DropLoser { of: a.clone() }, Step::DropLoser { of: b.clone() }]);
    let mut one = blue_green(&a);
    one.push(Step::DropLoser { of: a.clone() });
    let both = Catalog::with(&[("a", 1, true), ("b", 2, true)]);
    vec![
        (plan(one), both.clone()),
        (plan(two), both.clone()),
        (plan(vec![Step::TuneSearchEffort { of: a.clone(), objective: 0.95 }]), both.clone()),
        (
            plan(vec![Step::ReindexConcurrently {
                of: a.clone(),
                options: BuildOptions::default(),
                limit_s: None,
            }]),
            both,
        ),
        (plan(vec![Step::DropInvalid { of: b }]), Catalog::with(&[("a", 1, true), ("b", 2, false)])),
    ]
}

struct World {
    catalog: Catalog,
    journal: Vec<JournalEntry>,
    keep_recorded: bool,
}

impl World {
    fn new(catalog: &Catalog) -> Self {
        World { catalog: catalog.clone(), journal: vec![], keep_recorded: false }
    }

    fn journal(&mut self, step_no: u32, step: &Step, state: StepState, fuel: &mut Fuel) -> Result<(), Crash> {
        fuel.burn()?;
        let details = match (state, step) {
            (StepState::Intent, _) => json!({"former_effort": 1}),
            (StepState::Done, Step::CompareIndexes { .. }) => json!({"verdict": {"keep": true}}),
            _ => json!({}),
        };
        self.journal.push(JournalEntry { step_no, step: step.clone(), state, details });
        Ok(())
    }

    /// Intent, effect, done, for each step; the verdict before the first drop or at the end. A swap and the effort
    /// commit together with their journal row.
    fn execute(&mut self, plan: &Plan, fuel: &mut Fuel) -> Result<(), Crash> {
        for (step_no, step) in (0u32..).zip(&plan.steps) {
            if matches!(step, Step::DropLoser { .. }) && !self.keep_recorded {
                fuel.burn()?;
                self.keep_recorded = true;
            }
            self.journal(step_no, step, StepState::Intent, fuel)?;
            self.catalog.run(step, fuel)?;
            self.journal(step_no, step, StepState::Done, fuel)?;
        }
        fuel.burn()?;
        self.keep_recorded = true;
        Ok(())
    }

    fn recover(&mut self, plan: &Plan, fuel: &mut Fuel) -> Result<(), Crash> {
        for command in resolve(plan, &self.journal, self.keep_recorded) {
            self.catalog.recover(&command, fuel)?;
            let step = plan.steps[command.step_no() as usize].clone();
            self.journal(command.step_no(), &step, command.leaves(), fuel)?;
        }
        Ok(())
    }
}

/// What must be found in the end: everything old, or everything new.
fn is_clean(world: &World, plan: &Plan, before: &Catalog) -> Result<(), String> {
    let mut after = World::new(before);
    assert!(after.execute(plan, &mut Fuel(usize::MAX)).is_ok());
    let (old, new) = (before, &after.catalog);
    let same = |a: &Catalog, b: &Catalog| {
        let names = |c: &Catalog| {
            c.indexes.iter().map(|(name, (_, valid))| (name.clone(), *valid)).collect::<Vec<_>>()
        };
        names(a) == names(b) && a.effort == b.effort
    };
    let oids_kept = |names: &Catalog| world.catalog.indexes == names.indexes;
    if world.keep_recorded {
        if same(&world.catalog, new) {
            Ok(())
        } else {
            Err(format!("not the new world: {:?}", world.catalog))
        }
    } else if same(&world.catalog, old) && oids_kept(old) {
        Ok(())
    } else if plan
        .steps
        .iter()
        .all(|s| matches!(s, Step::DropInvalid { .. } | Step::ReindexConcurrently { .. }))
        && same(&world.catalog, new)
    {
        // Dropping what is surplus, or a finished rebuild in place, is not taken back after a crash.
        Ok(())
    } else {
        Err(format!("not the old world: {:?}", world.catalog))
    }
}

/// Runs the plan with so much fuel, then recovers with so much each time, at last without a crash.
fn crash_and_recover(plan: &Plan, catalog: &Catalog, fuels: &[usize]) -> Result<(), String> {
    let mut world = World::new(catalog);
    let (first, later) = fuels.split_first().unwrap_or((&usize::MAX, &[]));
    let _ = world.execute(plan, &mut Fuel(*first)).is_ok();
    for fuel in later {
        let _ = world.recover(plan, &mut Fuel(*fuel)).is_ok();
    }
    let _ = world.recover(plan, &mut Fuel(usize::MAX)).is_ok();
    is_clean(&world, plan, catalog)?;
    let left = resolve(plan, &world.journal, world.keep_recorded);
    if left.is_empty() { Ok(()) } else { Err(format!("still to do: {left:?}")) }
}

#[test]
fn a_crash_at_any_moment_ends_in_the_old_or_the_new_world() {
    for (plan, catalog) in plans() {
        for first in 0..40 {
            for second in 0..12 {
                crash_and_recover(&plan, &catalog, &[first, second])
                    .unwrap_or_else(|why| panic!("{first} {second}: {why}"));
            }
        }
    }
}

#[test]
fn the_swap_is_undone_before_the_trial_is_dropped() {
    let (plan, catalog) = plans().remove(0);
    let mut world = World::new(&catalog);
    // Intent, two of the build, done; intent, compare, done; intent, swap.
    let _ = world.execute(&plan, &mut Fuel(9)).is_ok();
    let commands: Vec<&str> = resolve(&plan, &world.journal, false)
        .iter()
        .map(|command| match command {
            RecoveryCommand::SwapBack { .. } => "swap back",
            RecoveryCommand::DropTrial { .. } => "drop trial",
            _ => "other",
        })
        .collect();
    assert_eq!(commands, ["swap back", "drop trial"]);
    assert!(resolve(&plan, &[], false).is_empty(), "nothing was intended");
}

#[test]
fn an_action_is_undone_whole_or_not_at_all() {
    let done = |step: Step| JournalEntry {
        step_no: 0,
        step,
        state: StepState::Done,
        details: json!({"definition": "x"}),
    };
    let of = reference("a", 1);
    assert_eq!(
        undo(&[done(Step::DropLoser { of: of.clone() })]),
        Err(CannotUndo::LoserDropped { index: "a".to_owned() })
    );
    assert_eq!(
        undo(&[done(Step::ReindexConcurrently {
            of: of.clone(),
            options: BuildOptions::default(),
            limit_s: None
        })]),
        Err(CannotUndo::RebuiltInPlace { index: "a".to_owned() })
    );
    let dropped = done(Step::DropInvalid { of: of.clone() });
    assert_eq!(
        undo(std::slice::from_ref(&dropped)),
        Ok(vec![RecoveryCommand::RebuildDropped { step_no: 0, of, details: json!({"definition": "x"}) }])
    );
    assert!(resolve(&plan(vec![dropped.step.clone()]), &[dropped], false).is_empty());
}

fn entry(step_no: u32, step: Step, state: StepState, details: Value) -> JournalEntry {
    JournalEntry { step_no, step, state, details }
}

#[test]
fn a_rebuild_in_place_that_is_no_gain_stays_and_is_no_failed_undo() {
    let (a, b) = (reference("a", 1), reference("b", 2));
    let rebuilt = entry(
        0,
        Step::ReindexConcurrently { of: a.clone(), options: BuildOptions::default(), limit_s: None },
        StepState::Done,
        json!({}),
    );
    assert_eq!(take_back(std::slice::from_ref(&rebuilt)), Ok(vec![]));
    // What else was done is taken back, and a dropped loser still cannot be.
    let built = entry(
        1,
        Step::BuildIndex { of: b.clone(), options: BuildOptions::default(), limit_s: None },
        StepState::Done,
        json!({}),
    );
    assert_eq!(
        take_back(&[rebuilt.clone(), built]),
        Ok(vec![RecoveryCommand::DropTrial { step_no: 1, of: b.clone() }])
    );
    let dropped = entry(1, Step::DropLoser { of: b.clone() }, StepState::Intent, json!({}));
    assert_eq!(take_back(&[rebuilt, dropped]), Err(CannotUndo::LoserDropped { index: "b".to_owned() }));
    // A human's wish to undo a success is another matter: it says what cannot be.
    let tuned =
        entry(0, Step::TuneSearchEffort { of: a.clone(), objective: 0.9 }, StepState::Done, json!({}));
    assert_eq!(take_back(std::slice::from_ref(&tuned)), undo(&[tuned]));
}

/// The plan for two indexes, and its journal up to and with the entry of this step.
fn two_parts(won: bool, until: u32, last: StepState) -> (Plan, Vec<JournalEntry>) {
    let (plan, _) = plans().swap_remove(1);
    let mut entries = Vec::new();
    for (step_no, step) in (0u32..).zip(&plan.steps).take(until as usize + 1) {
        let state = if step_no == until { last } else { StepState::Done };
        entries.push(entry(step_no, step.clone(), StepState::Intent, json!({"former_effort": 1})));
        if state != StepState::Intent {
            let keep = won || step_no != 1;
            entries.push(entry(step_no, step.clone(), state, json!({"verdict": {"keep": keep}})));
        }
    }
    (plan, entries)
}

#[test]
fn a_complete_part_does_not_go_down_with_a_later_one() {
    let names = |plan: &Plan, entries: &[JournalEntry]| -> Vec<String> {
        complete(plan, entries).iter().filter_map(Part::index).map(|of| of.name.clone()).collect()
    };
    // Steps: 0 build a, 1 compare a, 2 swap a, 3 build b, 4 compare b, 5 swap b, 6 and 7 drops.
    let (plan, entries) = two_parts(true, 3, StepState::Intent);
    assert_eq!(names(&plan, &entries), ["a"]);
    let left = retreat(&plan, &entries);
    assert_eq!(left.commands, [RecoveryCommand::DropTrial { step_no: 3, of: reference("b", 2) }]);
    assert_eq!(left.complete, [part("a", 1)]);
    let kept = plan.only(&left.complete);
    assert_eq!(kept.steps.len(), 4, "build, compare, swap, drop");
    assert!(kept.steps.iter().all(|step| step.part() == part("a", 1)));
    // Not before the swap is done, and not without a comparison that was won.
    assert!(names(&plan, &two_parts(true, 2, StepState::Intent).1).is_empty());
    assert!(names(&plan, &two_parts(false, 3, StepState::Intent).1).is_empty());
    assert_eq!(names(&plan, &two_parts(true, 5, StepState::Done).1), ["a", "b"]);
    // One that was undone again is not complete.
    let (plan, mut entries) = two_parts(true, 3, StepState::Intent);
    entries.push(entry(2, plan.steps[2].clone(), StepState::Undone, json!({})));
    assert!(names(&plan, &entries).is_empty());
    // With nothing complete all of it is taken back.
    let (plan, entries) = two_parts(true, 1, StepState::Intent);
    assert_eq!(retreat(&plan, &entries).commands, resolve(&plan, &entries, false));
    // A part alone.
    let (_, entries) = two_parts(true, 4, StepState::Done);
    assert_eq!(
        undo_part(&entries, &part("b", 2)),
        [RecoveryCommand::DropTrial { step_no: 3, of: reference("b", 2) }]
    );
}

#[test]
fn what_was_paused_and_drained_does_not_go_down_with_autovacuum() {
    let plan = plan(vec![
        Step::PauseJob { jobid: 7, command: "VACUUM docs".to_owned(), lease_s: 900 },
        Step::DrainMaintenance { wait_for: vec![], cancel: vec!["vacuum 2".to_owned()], wait_s: 30 },
        Step::PauseAutovacuum { lease_s: 900 },
    ]);
    let noted = |step_no: u32, state| entry(step_no, plan.steps[step_no as usize].clone(), state, json!({}));
    let mut entries = vec![noted(0, StepState::Done), noted(1, StepState::Done), noted(2, StepState::Intent)];
    let left = retreat(&plan, &entries);
    assert_eq!(left.complete, [Part::Whole]);
    assert!(
        matches!(&left.commands[..], [RecoveryCommand::Revert { step_no: 2, .. }]),
        "{:?}",
        left.commands
    );
    assert_eq!(plan.only(&left.complete).steps, plan.steps[..2]);
    // All of it is taken back where it did not help.
    entries.push(noted(2, StepState::Done));
    assert_eq!(complete(&plan, &entries), [Part::Whole, Part::Autovacuum]);
    let back: Vec<u32> = take_back(&entries).unwrap().iter().map(RecoveryCommand::step_no).collect();
    assert_eq!(back, [2, 0]);
}

#[test]
fn the_problem_of_a_part_is_its_nodes() {
    use crate::classify::{Problem, ProblemClass};
    use crate::graph::NodeKey;
    let index = |partition, name: &str| NodeKey::Index { partition, index: name.to_owned() };
    let lists = NodeKey::Centroid { partition: 1, index: "a".to_owned(), group: 3 };
    let problem = Problem {
        class: ProblemClass::Unknown { witness_summary: String::new() },
        component: crate::integrity::Component {
            lambda: 0.4,
            nodes: vec![NodeKey::Core, index(1, "a"), index(2, "a"), index(1, "b"), lists.clone()],
            witness: vec![],
        },
        evidence: vec![],
    };
    assert_eq!(problem.only(&[part("a", 1)]).component.nodes, [index(1, "a"), lists]);
    assert_eq!(problem.only(&[part("z", 9)]), problem);
}

#[test]
fn verdicts_are_those_of_the_steps_asked_for() {
    let (plan, mut entries) = two_parts(true, 5, StepState::Done);
    let sizes = crate::verdict::Sizes { old_bytes: 2, new_bytes: 1 };
    let verdict = |keep: bool| Verdict {
        keep,
        reason: "Test.".to_owned(),
        effort: None,
        compared_recall: None,
        old_at_objective: None,
        new_at_objective: None,
        old_at_present: None,
        new_at_present: None,
        sizes,
    };
    for (step_no, keep) in [(1u32, true), (4, false)] {
        let step = plan.steps[step_no as usize].clone();
        entries.push(entry(step_no, step, StepState::Done, json!({ "verdict": verdict(keep) })));
    }
    assert_eq!(verdicts(&plan, &entries), [verdict(true), verdict(false)]);
    assert_eq!(verdicts(&plan.only(&[part("a", 1)]), &entries), [verdict(true)]);
}

#[test]
fn names_go_back_to_whom_they_belong() {
    use SwapBack::{Exchange, FormerName, Nothing, OwnName};
    assert_eq!(swap_back(true, Some(true), true), Exchange);
    assert_eq!(swap_back(true, Some(true), false), Exchange, "the new one was renamed by a human");
    assert_eq!(swap_back(true, Some(false), false), FormerName, "a human has dropped the new one");
    assert_eq!(swap_back(true, Some(false), true), FormerName, "and made another of that name");
    assert_eq!(swap_back(true, None, false), OwnName);
    assert_eq!(swap_back(true, None, true), FormerName);
    for (new, taken) in [(Some(true), true), (Some(false), false), (None, false), (None, true)] {
        assert_eq!(swap_back(false, new, taken), Nothing);
    }
}

#[test]
fn a_dead_worker_counts_against_the_remedy_and_a_stopped_one_does_not() {
    for gone in [Gone::Abort, Gone::Timeout, Gone::Yield, Gone::Restart, Gone::Death] {
        let (status, lesson, why) = gone.ending(false);
        assert!(Status::Executing.next().contains(&status) && Status::Verifying.next().contains(&status));
        assert_eq!(lesson == Lesson::Fault, matches!(gone, Gone::Death | Gone::Timeout), "{gone:?}");
        assert_eq!(status == Status::Aborted, matches!(gone, Gone::Abort | Gone::Yield | Gone::Restart));
        assert!(!why.is_empty());
        assert_eq!(gone.keeps_complete_parts(), matches!(gone, Gone::Death | Gone::Restart));
        let (with_crash, learned, _) = gone.ending(true);
        assert_eq!((with_crash, learned), (status, Lesson::Fault), "a crash counts, whoever wanted a stop");
    }
    assert_eq!(Gone::Yield.ending(false).1, Lesson::Postponed);
}

#[test]
fn a_crash_is_no_restart_and_a_wish_to_stop_is_kept() {
    for (crashed, restarted) in [(false, false), (false, true), (true, false), (true, true)] {
        let gone = Gone::of(None, crashed, restarted);
        assert_eq!(gone, if restarted && !crashed { Gone::Restart } else { Gone::Death });
        assert_eq!(Gone::of(Some(StopReason::Abort), crashed, restarted), Gone::Abort);
        assert_eq!(Gone::of(Some(StopReason::Timeout), crashed, restarted), Gone::Timeout);
        assert_eq!(Gone::of(Some(StopReason::Yield), crashed, restarted), Gone::Yield);
    }
}

#[test]
fn an_action_gets_so_many_workers_and_no_more() {
    assert_eq!(start(0, None, 5), Start::Now);
    assert_eq!(start(0, Some(4), 5), Start::Now);
    assert_eq!(start(1, None, 5), Start::Now);
    assert_eq!(start(1, Some(1000), 1500), Start::NotBefore { at: 3000 });
    assert_eq!(start(1, Some(1000), 3000), Start::Now);
    assert_eq!(start(5, Some(1000), 32_999), Start::NotBefore { at: 33_000 });
    assert_eq!(start(5, Some(1000), 33_000), Start::Now);
    assert_eq!(start(6, Some(1000), 1_000_000), Start::GiveUp);
    assert_eq!(start(5, Some(1000), 999), Start::Now, "the clock went back");
    let waits: Vec<i64> = (0..10).map(|tries| (retry_at(tries, 7) - 7) / 1000).collect();
    assert_eq!(waits, [600, 1200, 2400, 4800, 9600, 19_200, 38_400, 76_800, 86_400, 86_400]);
    assert_eq!(retry_at(u32::MAX, 0), 86_400_000);
    let waits: Vec<u64> = (0..).map_while(patience_s).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn only_losers_of_parts_that_were_kept_are_dropped() {
    let (plan, entries) = two_parts(true, 3, StepState::Done);
    let dropped = |entries: &[JournalEntry]| -> Vec<Oid> {
        let of = |command: &RecoveryCommand| match command {
            RecoveryCommand::DropLoser { of, .. } => Some(of.oid),
            _ => None,
        };
        resolve(&plan, entries, true).iter().filter_map(of).collect()
    };
    let complete: Vec<Oid> =
        complete(&plan, &entries).iter().filter_map(Part::index).map(|of| of.oid).collect();
    assert_eq!(complete.len(), 1);
    assert_eq!(dropped(&entries), complete);
    assert!(dropped(&[]).is_empty());
}

#[test]
fn what_no_worker_could_end_ends_with_what_is_left_of_it() {
    let (plan, entries) = two_parts(true, 3, StepState::Intent);
    assert_eq!(given_up(&plan, &[], false), (Status::Failed, Lesson::Fault));
    assert_eq!(given_up(&plan, &entries, false), (Status::RollbackFailed, Lesson::UndoFailed));
    assert_eq!(given_up(&plan, &entries, true), (Status::Succeeded, Lesson::Helped));
}

#[test]
fn notes_of_the_intent_are_not_lost_when_the_step_is_done() {
    let step = Step::TuneSearchEffort { of: reference("a", 1), objective: 0.9 };
    let entry = |state, details| JournalEntry { step_no: 0, step: step.clone(), state, details };
    let journal = [
        entry(StepState::Intent, json!({"former_effort": 4, "x": 1})),
        entry(StepState::Done, json!({"x": 2})),
    ];
    let commands = undo(&journal).unwrap();
    let [RecoveryCommand::RestoreEffort { details, .. }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!(*details, json!({"former_effort": 4, "x": 2}));
}

proptest! {
    /// Crashes within recovery, again and again.
    #[test]
    fn recovery_survives_its_own_crashes(which in 0usize..5, fuels in proptest::collection::vec(0usize..30, 1..7)) {
        let (plan, catalog) = plans().swap_remove(which);
        prop_assert_eq!(crash_and_recover(&plan, &catalog, &fuels), Ok(()));
    }
}
