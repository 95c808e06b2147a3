//! Taking back an action that succeeded, also days later: what of it can still be given back, as a plan, or why nothing.
//!
//! While an action runs the old index is there, and recovery undoes everything. Once it has been verified the old index is
//! dropped, and what was changed since is not the action's any more. What is left to give back is looked at part by part:
//!
//! - A search effort that was set, while nobody has set another since: the former one is restored.
//! - An index that was built with other `lists`, while it is still the one that the action built: the former definition is
//!   built beside it, swapped in and the newer one dropped, with the former search effort.
//! - Steps that concern no index (rows moved, leases): their inverses, which know what is still in force.
//! - An index that was built anew as it was defined, in place or beside, has nothing to give back: the former one had the
//!   same definition and was worse only by its wear. An invalid index is not built to be invalid again.
//!
//! All parts or none: half of an action taken back is neither what it was nor what it is. Indexes that were built anew for the
//! sake of rows that moved are no part of that: the rows go back, and the indexes stay as they were defined.

use serde_json::{Value, json};

use crate::engine::gates::reaches_beyond;
use crate::placement::moving_s;
use crate::plan::{BuildOptions, IndexRef, Part, Plan, Skipped, Step};
use crate::recovery::{self, JournalEntry, StepState};
use crate::remedies::{Limits, build_s};
use crate::snapshot::{Index, Snapshot};

/// Strategy of the actions that take another back. No remedy: it treats nothing.
pub const STRATEGY: &str = "rollback";
/// Name under which a rollback's plan says which strategy it takes back.
const TAKES_BACK: &str = "takes_back";
/// The same of whether that reached beyond the server.
const BEYOND: &str = "beyond_the_server";
/// pgvector's `lists` where an index names none.
const LISTS_DEFAULT: u32 = 100;
/// The same of `m` and `ef_construction`.
const M_DEFAULT: u32 = 16;
const EF_DEFAULT: u32 = 64;
/// Disruption of building the former definition, as of any build.
const REBUILD_IMPACT: f64 = 0.5;
/// Disruption of putting a setting back.
const RESTORE_IMPACT: f64 = 0.1;
/// Seconds that undoing without a build takes at most, but for rows that are moved back.
const UNDO_S: f64 = 60.0;

/// Why an action cannot be taken back.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CannotGiveBack {
    /// Nothing of it is to be given back.
    #[error("{target}: {reason}")]
    Nothing {
        /// The index, or the step.
        target: String,
        /// Why.
        reason: String,
    },
    /// What it made is not there any more, or was changed since.
    #[error("{target} was changed since: {change}")]
    Changed {
        /// The index.
        target: String,
        /// How.
        change: String,
    },
    /// The former definition would need more disk than is allowed.
    #[error("{target}: {reason}")]
    NoRoom {
        /// The index.
        target: String,
        /// Why.
        reason: String,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct GivingBack {
    /// Steps that build the former definitions anew; none when undoing the journal of the action is all.
    pub plan: Plan,
    /// Whether the inverses of the action's own journal are to be carried out.
    pub undo: bool,
}

/// Whether this plan takes back what reached beyond the server.
pub(crate) fn takes_back_from_beyond(plan: &Plan) -> bool {
    plan.strategy == STRATEGY && plan.params.get(BEYOND).is_some_and(|beyond| *beyond == true)
}

/// The strategy that this plan takes back; None where it is no rollback.
pub(crate) fn taken_back(plan: &Plan) -> Option<&str> {
    plan.params.get(TAKES_BACK)?.as_str().filter(|_| plan.strategy == STRATEGY)
}

/// How the action of this plan and journal is taken back now.
///
/// # Errors
/// Why it cannot be.
pub fn give_back(
    plan: &Plan,
    entries: &[JournalEntry],
    snapshot: &Snapshot,
    limits: &Limits,
) -> Result<GivingBack, CannotGiveBack> {
    let mut parts: Vec<Part> = vec![];
    for entry in entries.iter().filter(|entry| entry.state == StepState::Done) {
        if !parts.contains(&entry.step.part()) {
            parts.push(entry.step.part());
        }
    }
    let mut steps = vec![];
    let (mut disk_bytes, mut any_sorts) = (0, false);
    let mut estimated_s = 0.0;
    let mut efforts = serde_json::Map::new();
    let mut words = vec![];
    let mut skipped = vec![];
    let mut undo = false;
    for part in &parts {
        let Some(of) = part.index() else {
            undo = true;
            // Autovacuum is a part of its own.
            let all = "what was put in force is put back".to_owned();
            if !words.contains(&all) {
                words.push(all);
            }
            continue;
        };
        if recovery::stays(entries, part) {
            let reason = "it was built for the sake of what is put back, and stays".to_owned();
            skipped.push(Skipped { target: of.name.clone(), reason });
            continue;
        }
        match of_index(of, entries, snapshot)? {
            OfIndex::Effort => {
                undo = true;
                words.push(format!("the former search effort of {} is restored", of.name));
            }
            OfIndex::Rebuild { now, options, effort } => {
                let bytes = now.clean_bytes.known().or(now.bytes.known()).copied().unwrap_or(0);
                disk_bytes += bytes;
                any_sorts |= crate::remedies::sorts(now.method);
                estimated_s += build_s(now, options);
                let of = crate::remedies::index_ref(now);
                efforts.insert(of.oid.to_string(), json!(effort));
                let set: Vec<String> =
                    options.set().map(|(name, value)| format!("{name} = {value}")).collect();
                words.push(format!("{} is built with {} again", of.name, set.join(", ")));
                steps.extend([
                    Step::BuildIndex {
                        of: of.clone(),
                        options,
                        limit_s: limits.build_limit_s(build_s(now, options)),
                    },
                    Step::SwapIndex { of: of.clone() },
                    Step::DropLoser { of },
                ]);
            }
        }
    }
    if parts.is_empty() {
        return Err(CannotGiveBack::Nothing {
            target: plan.strategy.clone(),
            reason: "it has changed nothing".to_owned(),
        });
    }
    if undo && !steps.is_empty() {
        // One action's journal is undone as a whole.
        return Err(CannotGiveBack::Nothing {
            target: plan.strategy.clone(),
            reason: "a part of it could be given back only by undoing another".to_owned(),
        });
    }
    if !steps.is_empty() {
        limits.check_builds(disk_bytes, any_sorts).map_err(|error| CannotGiveBack::NoRoom {
            target: plan.strategy.clone(),
            reason: error.to_string(),
        })?;
    }
    let builds = steps.len() / 3;
    let moving = |step: &Step| match step {
        Step::MoveRows { moves, pause_ratio, .. } => moving_s(moves, *pause_ratio),
        _ => 0.0,
    };
    // Rows go back as slowly as they came.
    let undoing_s = UNDO_S + plan.steps.iter().map(moving).sum::<f64>();
    let estimated_s = if builds > 0 { estimated_s } else { undoing_s };
    Ok(GivingBack {
        undo,
        plan: Plan {
            strategy: STRATEGY.to_owned(),
            impact: if builds > 0 { REBUILD_IMPACT } else { RESTORE_IMPACT },
            reversible: true,
            reason: format!("A human takes {} back: {}.", plan.strategy, words.join("; ")),
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes,
            steps,
            skipped,
            params: json!({ "efforts": efforts, (TAKES_BACK): plan.strategy, (BEYOND): reaches_beyond(&plan.steps, snapshot) }),
        },
    })
}

enum OfIndex<'a> {
    /// Its search effort alone was set.
    Effort,
    /// It was built with other options than before: these.
    Rebuild { now: &'a Index, options: BuildOptions, effort: Option<u64> },
}

fn of_index<'a>(
    of: &IndexRef,
    entries: &[JournalEntry],
    snapshot: &'a Snapshot,
) -> Result<OfIndex<'a>, CannotGiveBack> {
    let nothing =
        |reason: &str| CannotGiveBack::Nothing { target: of.name.clone(), reason: reason.to_owned() };
    let changed =
        |change: &str| CannotGiveBack::Changed { target: of.name.clone(), change: change.to_owned() };
    let own = || entries.iter().filter(|entry| entry.step.target() == Some(of));
    let note =
        |name: &str| own().rev().find_map(|entry| entry.details.get(name)).cloned().unwrap_or(Value::Null);
    let did =
        |kind: fn(&Step) -> bool| own().any(|entry| entry.state == StepState::Done && kind(&entry.step));
    if did(|step| matches!(step, Step::DropInvalid { .. })) {
        return Err(nothing("it was invalid and beside a valid one like it: no search has used it"));
    }
    let now = snapshot.indexes.iter().find(|index| index.name == of.name && index.partition == of.table);
    let now = now.ok_or_else(|| changed("it is not there any more"))?;
    if did(|step| matches!(step, Step::ReindexConcurrently { .. })) {
        return Err(nothing(
            "it was rebuilt in place: the former one is gone, and was the same but for its wear",
        ));
    }
    if did(|step| matches!(step, Step::TuneSearchEffort { .. })) {
        let set = note("point")["effort"].as_u64();
        if now.oid != of.oid || now.relfilenode != of.relfilenode {
            return Err(changed("it was rebuilt, and its search effort with it"));
        }
        if set != Some(u64::from(now.effort)) {
            return Err(changed(&format!("its search effort is {} by now", now.effort)));
        }
        return Ok(OfIndex::Effort);
    }
    let build = own().find_map(|entry| match &entry.step {
        Step::BuildIndex { options, .. } => Some(*options),
        _ => None,
    });
    let Some(build) = build else { return Err(nothing("nothing of it was changed")) };
    let built = &note("trial")["oid"];
    if built.as_u64() != Some(u64::from(now.oid)) {
        return Err(changed("another index bears its name"));
    }
    let made = note("built");
    if made["relfilenode"].as_u64() != Some(u64::from(now.relfilenode)) {
        return Err(changed("it was rebuilt"));
    }
    let definition = note("definition");
    let definition = definition.as_str().unwrap_or_default();
    let former = BuildOptions {
        lists: build.lists.map(|_| option_of(definition, "lists", LISTS_DEFAULT)),
        m: build.m.map(|_| option_of(definition, "m", M_DEFAULT)),
        ef_construction: build.ef_construction.map(|_| option_of(definition, "ef_construction", EF_DEFAULT)),
    };
    if former == build {
        let same = "it was built anew as it was defined: the former one was the same but for its wear";
        return Err(nothing(same));
    }
    Ok(OfIndex::Rebuild { now, options: former, effort: note("former_effort").as_u64() })
}

/// An option in an index's definition as `pg_get_indexdef` writes it, or pgvector's default.
fn option_of(definition: &str, name: &str, default: u32) -> u32 {
    let options = definition.rsplit_once(" WITH (").map_or("", |(_, options)| options);
    let own = options.split(',').map(|option| option.trim().trim_end_matches(')'));
    let after = own.filter_map(|option| option.split_once('=')).find(|(option, _)| *option == name);
    let digits: String = after
        .map(|(_, value)| value.trim_start_matches('\'').chars().take_while(char::is_ascii_digit).collect())
        .unwrap_or_default();
    digits.parse().unwrap_or(default)
}

/// Whether the former definitions are in place: the verdict of an action that takes another back. λ is not asked: a human
/// wants it so.
///
/// # Errors
/// What is missing.
pub fn given_back(plan: &Plan, after: &Snapshot) -> Result<(), String> {
    for step in &plan.steps {
        let Step::BuildIndex { of, options, .. } = step else { continue };
        let index = crate::verification::same_index(after, of)
            .ok_or_else(|| format!("{} is not there any more", of.name))?;
        if !index.valid || index.oid == of.oid {
            return Err(format!("{} is still the one that was to be taken back", of.name));
        }
        if options.lists.is_some() && index.lists != options.lists {
            return Err(format!("{} has lists = {:?}", of.name, index.lists));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::fixtures::snapshot;
    use crate::integrity::IntegrityState;
    use crate::remedies::{Params, index_ref};

    /// A collection, and the index of it as it was before an action.
    fn before() -> (Snapshot, IndexRef) {
        let seen = snapshot(1, 4, 0);
        let of = index_ref(&seen.indexes[0]);
        (seen, of)
    }

    fn done(step: Step, details: Value) -> JournalEntry {
        JournalEntry { step_no: 0, step, state: StepState::Done, details }
    }

    fn asked(entries: &[JournalEntry], seen: &Snapshot) -> Result<GivingBack, CannotGiveBack> {
        let plan = Plan {
            strategy: "rebuild_centroids".to_owned(),
            impact: 0.5,
            reversible: true,
            reason: String::new(),
            estimated_s: 1.0,
            timeout_s: 2.0,
            disk_bytes: 0,
            steps: vec![],
            skipped: vec![],
            params: Value::Null,
        };
        let limits = Limits::new(&Config::default(), IntegrityState::Normal, seen, Params::default());
        give_back(&plan, entries, seen, &limits)
    }

    const DEFINITION: &str = "CREATE INDEX i ON t USING ivfflat (e vector_l2_ops) WITH (lists='7')";

    /// The journal of a rebuild with 40 lists, and what is there after it: another index under the name.
    fn rebuilt(lists: Option<u32>) -> (Vec<JournalEntry>, Snapshot) {
        let (mut seen, of) = before();
        let now = &mut seen.indexes[0];
        (now.oid, now.relfilenode, now.lists) = (77, 78, Some(40));
        let build = Step::BuildIndex { of: of.clone(), options: BuildOptions::lists(lists), limit_s: None };
        let entries = vec![
            JournalEntry {
                state: StepState::Intent,
                ..done(build.clone(), json!({ "definition": DEFINITION }))
            },
            done(build, json!({ "built": { "oid": 77, "relfilenode": 78 } })),
            JournalEntry {
                state: StepState::Intent,
                ..done(
                    Step::SwapIndex { of: of.clone() },
                    json!({ "trial": { "oid": 77 }, "effort": 12, "former_effort": 3 }),
                )
            },
            done(Step::SwapIndex { of: of.clone() }, json!({})),
            done(Step::DropLoser { of }, json!({})),
        ];
        (entries, seen)
    }

    #[test]
    fn other_lists_are_given_back_by_building_the_former_definition() {
        let (entries, mut seen) = rebuilt(Some(40));
        let GivingBack { plan, undo } = asked(&entries, &seen).unwrap();
        assert!(!undo);
        assert_eq!((plan.strategy.as_str(), plan.steps.len(), plan.impact), ("rollback", 3, 0.5));
        let Step::BuildIndex { of, options, .. } = &plan.steps[0] else { panic!() };
        assert_eq!(
            (of.oid, options.lists),
            (77, Some(7)),
            "the index that is there now, with the lists of before"
        );
        assert_eq!(plan.params["efforts"]["77"], 3);
        assert!(plan.timeout_s >= plan.estimated_s && plan.estimated_s >= 60.0);
        // Verified when it is another index, valid and with those lists.
        assert!(given_back(&plan, &seen).unwrap_err().contains("still"));
        seen.indexes[0].oid = 90;
        assert!(given_back(&plan, &seen).unwrap_err().contains("40"));
        seen.indexes[0].lists = Some(7);
        given_back(&plan, &seen).unwrap();
        seen.indexes[0].valid = false;
        assert!(given_back(&plan, &seen).is_err());
    }

    #[test]
    fn what_was_changed_since_is_not_taken_back() {
        let change = |change: fn(&mut Index)| {
            let (entries, mut seen) = rebuilt(Some(40));
            change(&mut seen.indexes[0]);
            asked(&entries, &seen).unwrap_err()
        };
        assert!(change(|now| now.oid = 99).to_string().contains("another index"));
        assert!(change(|now| now.relfilenode = 99).to_string().contains("rebuilt"));
        assert!(change(|now| now.name = "x".to_owned()).to_string().contains("not there"));
        let (entries, mut seen) = rebuilt(Some(40));
        seen.disk_free_bytes = crate::snapshot::Reading::Known(1);
        assert!(matches!(asked(&entries, &seen), Err(CannotGiveBack::NoRoom { .. })));
    }

    #[test]
    fn the_same_definition_has_nothing_to_give_back() {
        for lists in [None, Some(7)] {
            let (entries, seen) = rebuilt(lists);
            assert!(asked(&entries, &seen).unwrap_err().to_string().contains("wear"), "{lists:?}");
        }
        let (seen, of) = before();
        for (step, why) in [
            (Step::DropInvalid { of: of.clone() }, "invalid"),
            (
                Step::ReindexConcurrently { of: of.clone(), options: BuildOptions::default(), limit_s: None },
                "in place",
            ),
        ] {
            let error = asked(&[done(step, json!({}))], &seen).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(asked(&[], &seen).unwrap_err().to_string().contains("changed nothing"));
    }

    #[test]
    fn what_was_paused_is_given_back_and_said_once() {
        let (_, seen) = rebuilt(None);
        let job = Step::PauseJob { jobid: 7, command: "VACUUM docs".to_owned(), lease_s: 900 };
        let autovacuum = done(Step::PauseAutovacuum { lease_s: 900 }, json!({}));
        let entries = [done(job, json!({})), JournalEntry { step_no: 1, ..autovacuum }];
        let GivingBack { plan, undo } = asked(&entries, &seen).unwrap();
        assert!(undo && plan.steps.is_empty());
        assert_eq!(plan.reason.matches("put back").count(), 1, "{}", plan.reason);
        assert_eq!(crate::recovery::give_back(&entries).unwrap().len(), 2);
    }

    #[test]
    fn rows_go_back_and_the_indexes_that_were_built_for_their_sake_stay() {
        let (mut entries, seen) = rebuilt(None);
        let place = |number: i32| crate::plan::PlaceRef {
            oid: 900 + number as u32,
            number,
            name: format!("public.docs_{number}"),
        };
        let moves = vec![crate::plan::Move { from: place(1), to: place(0), rows: 10, cold: true }];
        let moving = Step::MoveRows { moves, lambda: None, flat: 0, pause_ratio: 1.0 };
        for entry in &mut entries {
            entry.step_no += 1;
        }
        entries.insert(0, done(moving, json!({ "moved": 10 })));
        let GivingBack { plan, undo } = asked(&entries, &seen).unwrap();
        assert!(undo && plan.steps.is_empty());
        assert_eq!(plan.skipped.len(), 1);
        assert!(plan.skipped[0].reason.contains("stays"), "{:?}", plan.skipped);
        // Whatever has become of the index since.
        let mut later = seen.clone();
        later.indexes[0].relfilenode = 99;
        assert!(asked(&entries, &later).unwrap().undo);
        // One that could not be dropped is not exchanged again either.
        let undropped: Vec<JournalEntry> =
            entries.iter().filter(|entry| !matches!(entry.step, Step::DropLoser { .. })).cloned().collect();
        assert!(asked(&undropped, &seen).unwrap().undo);
        assert_eq!(crate::recovery::give_back(&undropped).unwrap().len(), 1);
        let back = crate::recovery::give_back(&entries).unwrap();
        assert!(
            matches!(&back[..], [crate::recovery::RecoveryCommand::Revert { step_no: 0, .. }]),
            "{back:?}"
        );
        // Without rows there is nothing but what the journal says.
        let (of_index, _) = rebuilt(None);
        assert!(crate::recovery::give_back(&of_index).is_err());
    }

    #[test]
    fn a_search_effort_is_restored_unless_somebody_set_another() {
        let (mut seen, of) = before();
        seen.indexes[0].effort = 31;
        let step = Step::TuneSearchEffort { of, objective: 0.95 };
        let entries = [done(step, json!({ "former": null, "point": { "effort": 31 } }))];
        let back = asked(&entries, &seen).unwrap();
        assert!(back.undo && back.plan.steps.is_empty() && back.plan.impact < 0.2);
        let told = crate::explain::plan(&back.plan);
        assert!(told.contains(" is restored. Estimated "), "{told}");
        seen.indexes[0].effort = 30;
        assert!(asked(&entries, &seen).unwrap_err().to_string().contains("30 by now"));
        (seen.indexes[0].effort, seen.indexes[0].relfilenode) = (31, 1);
        assert!(asked(&entries, &seen).unwrap_err().to_string().contains("rebuilt"));
    }

    #[test]
    fn lists_are_read_from_a_definition() {
        assert_eq!(option_of(DEFINITION, "lists", 100), 7);
        assert_eq!(option_of("CREATE INDEX i ON t USING ivfflat (e vector_l2_ops)", "lists", 100), 100);
        let with_tablespace = "CREATE INDEX \" WITH (lists=3\" ON t USING ivfflat (e vector_l2_ops) WITH (lists=12) TABLESPACE x";
        assert_eq!(option_of(with_tablespace, "lists", 100), 12);
    }
}
