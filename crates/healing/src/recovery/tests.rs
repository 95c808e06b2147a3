//! A tiny catalog on which plans run, crash at any moment, and are recovered, with crashes in the recovery too.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::plan::Criterion;
use crate::snapshot::Method;

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
        }
        Ok(())
    }
}

fn reference(name: &str, oid: u32) -> IndexRef {
    IndexRef { oid, relfilenode: oid, name: name.to_owned(), table: 1, method: Method::Ivfflat }
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
    }
}

fn blue_green(of: &IndexRef) -> Vec<Step> {
    vec![
        Step::BuildIndex { of: of.clone(), lists: None },
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
        (plan(vec![Step::ReindexConcurrently { of: a.clone(), lists: None }]), both),
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
        let details = if state == StepState::Intent { json!({"former_effort": 1}) } else { json!({}) };
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
        undo(&[done(Step::ReindexConcurrently { of: of.clone(), lists: None })]),
        Err(CannotUndo::RebuiltInPlace { index: "a".to_owned() })
    );
    let dropped = done(Step::DropInvalid { of: of.clone() });
    assert_eq!(
        undo(std::slice::from_ref(&dropped)),
        Ok(vec![RecoveryCommand::RebuildDropped { step_no: 0, of, details: json!({"definition": "x"}) }])
    );
    assert!(resolve(&plan(vec![dropped.step.clone()]), &[dropped], false).is_empty());
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
