//! Carrying out and undoing the steps of a plan. Every step: look whether the world is as planned, commit the intent,
//! act, commit that it is done. Every inverse does only what the catalogs say is still needed.

use healing::config::Config;
use healing::hnsw::M_DEFAULT;
use healing::moves::Watch;
use healing::plan::{BuildOptions, IndexRef, Step};
use healing::recovery::{RecoveryCommand, StepState, SwapBack, patience_s, swap_back};
use healing::snapshot::{Method, Oid};
use healing::verdict::{Lists, effort_to_set};
use pgrx::prelude::*;
use pgrx::spi::quote_literal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::background::process;
use crate::collect::{self, Collection};
use crate::error::Error;
use crate::owner::{set_local, within};
use crate::transaction::{look_again, transaction};
use crate::{efforts, journal, routing};

mod compare;
mod index;
mod lookup;
mod rows;
mod scale;
mod suppress;
mod toplevel;
mod weight;

pub(crate) use rows::{Whose, gid_prefixes, settle};

/// What a step needs to know beside itself.
pub(crate) struct Context<'a> {
    pub(crate) action_id: i64,
    pub(crate) collection: &'a Collection,
    pub(crate) config: &'a Config,
}

impl Context<'_> {
    fn note(&self, step_no: u32, step: &Step, state: StepState, details: Value) -> Result<(), Error> {
        journal::note(self.action_id, step_no, step, state, details)
    }

    /// Commits the intent of a step, which `look` may refuse, with what its inverse needs.
    fn intend<T>(
        &self,
        step_no: u32,
        step: &Step,
        look: impl FnOnce() -> Result<(T, Value), Error>,
    ) -> Result<T, Error> {
        transaction(|| {
            let (found, details) = look()?;
            journal::progress(self.action_id, &healing::explain::step(step))?;
            self.note(step_no, step, StepState::Intent, details)?;
            Ok(found)
        })
    }

    fn done(&self, step_no: u32, step: &Step, details: Value) -> Result<(), Error> {
        transaction(|| self.note(step_no, step, StepState::Done, details))
    }
}

/// What a step would run, for a dry run; None where that is not known. Must run in a transaction.
pub(crate) fn sql_of(step: &Step, collection: Option<&Collection>) -> Option<String> {
    let routing = || collect::managed::routing(collection?).ok().flatten();
    let concurrently = |of: &IndexRef| {
        let definition = index::definition(of.oid).ok()?;
        Some(definition.replacen("CREATE INDEX ", "CREATE INDEX CONCURRENTLY ", 1))
    };
    match step {
        Step::BuildIndex { of, options, .. } => {
            let options = options.to_string();
            let with = if options.is_empty() { options } else { format!(", with {options}") };
            Some(format!("{} /* named {}{with} */", concurrently(of)?, lookup::trial_name(of)))
        }
        Step::SwapIndex { of } => Some(format!(
            "ALTER INDEX {} RENAME TO {} /* and the other way round */",
            of.name,
            lookup::trial_name(of)
        )),
        Step::DropLoser { of } => Some(format!("DROP INDEX CONCURRENTLY {}", lookup::trial_name(of))),
        Step::DropInvalid { of } => Some(format!("DROP INDEX CONCURRENTLY {}", of.name)),
        Step::ReindexConcurrently { of, options, .. } => Some(reindex_sql(of, *options)),
        // Not a comparison: its searches are the panel's.
        Step::CompareIndexes { .. } => None,
        Step::TuneSearchEffort { of, objective } => Some(format!(
            "SELECT ruvector_search_effort_set({}, $1) /* the least that finds {objective} of the true neighbours */",
            quote_literal(&of.name)
        )),
        Step::MoveRows { moves, .. } => {
            routing().and_then(|routing| Some(rows::sql(&routing, routing.key()?, moves)))
        }
        Step::SetRoutingWeight { of, weight, lease } => {
            routing().map(|routing| weight::sql(&routing.route, of, *weight, *lease, None))
        }
        Step::ScaleReplicas { target, max_replicas, .. } => Some(scale::sql(target, *max_replicas)),
        Step::SetThrottle { .. }
        | Step::PauseJob { .. }
        | Step::PauseAutovacuum { .. }
        | Step::DrainMaintenance { .. } => suppress::sql(step, collection?),
    }
}

/// The SQL of a rebuild in place, options first.
fn reindex_sql(of: &IndexRef, options: BuildOptions) -> String {
    let reindex = format!("REINDEX INDEX CONCURRENTLY {}", of.name);
    match index::set_options_sql(&of.name, options) {
        Some(set) => format!("{set}; {reindex}"),
        None => reindex,
    }
}

/// How a step went when it did not fail.
pub(crate) enum Went {
    Done,
    /// It was no gain, and why.
    Lost(String),
    /// There was nothing to do, and why.
    Noop(String),
}

/// Carries out one step.
pub(crate) fn perform(context: &Context<'_>, step_no: u32, step: &Step) -> Result<Went, Error> {
    match step {
        Step::BuildIndex { of, options, limit_s } => build(context, step_no, step, of, *options, *limit_s)?,
        Step::CompareIndexes { of, criterion } => {
            context.intend(step_no, step, || Ok(((), json!({}))))?;
            let stored = transaction(|| efforts::stored(of.oid))?;
            let verdict = patiently(context.config.lock_timeout_ms, || {
                #[cfg(feature = "panics")]
                transaction(|| -> Result<(), Error> { panic!("made to panic") })?;
                compare::old_and_trial(context.collection, context.config, of, *criterion)
            })?;
            context.done(step_no, step, json!({ (journal::VERDICT): verdict, (STORED): stored }))?;
            if !verdict.keep {
                return Ok(Went::Lost(format!("the comparison was lost: {}", verdict.reason)));
            }
        }
        Step::SwapIndex { of } => swap(context, step_no, step, of)?,
        Step::DropLoser { of } => {
            let built = transaction(|| built(context, of))?;
            context.intend(step_no, step, || {
                let loser = index::loser(of, built)?;
                let Some(loser) = loser else { return Ok(((), json!({}))) };
                let mut details = index::described(&loser);
                details[journal::SQL] = json!(format!("DROP INDEX CONCURRENTLY {}", loser.name));
                details[journal::INVERSE] = json!(index::definition(loser.oid)?);
                Ok(((), details))
            })?;
            let details = patiently(context.config.lock_timeout_ms, || drop_loser(context, of, built))?;
            context.done(step_no, step, details)?;
        }
        Step::DropInvalid { of } => {
            let found = context.intend(step_no, step, || {
                // Somebody else may have dropped it: that is what was wanted.
                if lookup::itself(of)?.is_none() {
                    return Ok((None, json!({})));
                }
                let found = lookup::as_planned(of)?;
                if found.valid {
                    return Err(Error::refused(format!("{} is valid again", of.name)));
                }
                if found.attached {
                    return Err(Error::refused(format!("{} is part of a partitioned index by now", of.name)));
                }
                spare(&found)?;
                let definition = index::definition(of.oid)?;
                let sql = format!("DROP INDEX CONCURRENTLY {}", found.name);
                let details =
                    json!({ "definition": &definition, (journal::SQL): sql, (journal::INVERSE): definition });
                Ok((Some(found), details))
            })?;
            if let Some(found) = found {
                let lock_timeout_ms = context.config.lock_timeout_ms;
                let look = || spare(&found);
                patiently(lock_timeout_ms, || index::drop_concurrently(&found, lock_timeout_ms, look))?;
            }
            context.done(step_no, step, json!({}))?;
        }
        Step::ReindexConcurrently { of, options, limit_s } => {
            reindex(context, step_no, step, of, *options, *limit_s)?;
        }
        Step::TuneSearchEffort { of, objective } => {
            let before = transaction(|| lookup::as_planned(of).and_then(|_| efforts::stored(of.oid)))?;
            let unchanged = || match efforts::stored(of.oid)? == before {
                true => Ok(()),
                false => Err(Error::refused(format!(
                    "somebody has set the search effort of {} meanwhile",
                    of.name
                ))),
            };
            let find = || compare::least_effort(context.collection, context.config, of, *objective);
            let point = match patiently(context.config.lock_timeout_ms, find)? {
                Ok(point) => point,
                Err(none) => return Ok(Went::Lost(none)),
            };
            let former = context.intend(step_no, step, || {
                lookup::as_planned(of)?;
                unchanged()?;
                Ok((before, json!({ "former": before })))
            })?;
            transaction(|| {
                unchanged()?;
                let setting = of.method.effort_setting();
                // Nor less than what roles and databases have, which gives way to it.
                let effort = point.effort.max(efforts::greatest_default(setting)?) as i32;
                efforts::store(context.collection.id, of.oid, setting, Some(effort))?;
                measure_again(of.oid)?;
                let call = |effort: Option<i32>| {
                    let effort = effort.map_or_else(|| "NULL".to_owned(), |effort| effort.to_string());
                    let name = of.name.replace('\'', "''");
                    format!("SELECT ruvector_search_effort_set('{name}', {effort})")
                };
                let details = json!({
                    "point": point,
                    (SET): effort,
                    (journal::SQL): call(Some(effort)),
                    (journal::INVERSE): call(former),
                });
                context.note(step_no, step, StepState::Done, details)
            })?;
            transaction(efforts::load)?;
        }
        Step::SetThrottle { percentages, baseline, lease_s } => {
            return suppress::set_throttle(context, step_no, step, *percentages, *baseline, *lease_s);
        }
        Step::PauseJob { jobid, command, lease_s } => {
            return suppress::pause_job(context, step_no, step, *jobid, command, *lease_s);
        }
        Step::PauseAutovacuum { lease_s } => {
            return suppress::pause_autovacuum(context, step_no, step, *lease_s);
        }
        Step::DrainMaintenance { wait_for, cancel, wait_s } => {
            return suppress::drain(context, step_no, step, wait_for, cancel, *wait_s);
        }
        Step::SetRoutingWeight { of, weight, lease } => {
            weight::set(context, step_no, step, of, *weight, *lease)?;
        }
        Step::MoveRows { moves, lambda, flat, pause_ratio } => {
            let watch = lambda.map(|lambda| Watch::new(lambda, *flat));
            return rows::carry_out(context, step_no, step, moves, watch, *pause_ratio);
        }
        Step::ScaleReplicas { target, max_replicas, ready_timeout_s } => {
            return scale::up(context, step_no, step, target, *max_replicas, *ready_timeout_s);
        }
    }
    Ok(Went::Done)
}

fn build(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    of: &IndexRef,
    options: BuildOptions,
    limit_s: Option<f64>,
) -> Result<(), Error> {
    // The index itself is under its own name: what an interrupted action of another installation left under this one is
    // ours to remove.
    transaction(|| lookup::as_planned(of))?;
    if let Some(leftover) = transaction(|| lookup::trial(of))? {
        index::drop_concurrently(&leftover, context.config.lock_timeout_ms, || {
            lookup::as_planned(of).map(drop)
        })?;
    }
    let definition = context.intend(step_no, step, || {
        lookup::as_planned(of)?;
        let definition = index::definition(of.oid)?;
        let details = json!({ "definition": &definition });
        Ok((definition, details))
    })?;
    prepare_to_build(context, of, options)?;
    // The definition names the table: nobody may rename it now.
    let still = || {
        lookup::as_planned(of)?;
        match index::definition(of.oid)? == definition {
            true => Ok(true),
            false => Err(Error::refused(format!("{} was changed since the plan was made", of.name))),
        }
    };
    let name = lookup::trial_name(of);
    // Building itself waits as long as it has time: what is tried again here is getting the lock.
    patiently(context.config.lock_timeout_ms, || {
        index::while_locked(&[of.table], context.config.lock_timeout_ms, still, || {
            within(limit_s, || index::create(&definition, Some(&name), options))
        })
    })?;
    transaction(|| {
        let trial = lookup::trial(of)?.ok_or_else(|| Error::refused("the new index is not there"))?;
        if !trial.valid {
            return Err(Error::refused("the new index is not valid"));
        }
        if let Some(old) = lookup::itself(of)? {
            index::copy_properties(&old, &trial)?;
        }
        // As it was carried out: what is built is derived from the parsed definition, not from text.
        let sql = index::definition(trial.oid)?.replacen("CREATE INDEX ", "CREATE INDEX CONCURRENTLY ", 1);
        let details = json!({
            "built": index::described(&trial),
            (journal::SQL): sql,
            (journal::INVERSE): format!("DROP INDEX CONCURRENTLY {}", trial.name),
        });
        context.note(step_no, step, StepState::Done, details)
    })
}

/// Settings of this process that building the index needs.
fn prepare_to_build(context: &Context<'_>, of: &IndexRef, options: BuildOptions) -> Result<(), Error> {
    index::avoid_parallel_hnsw_build(of)?;
    let known = transaction(|| collect::indexes(context.collection))?;
    match known.iter().find(|row| row.oid == of.oid) {
        Some(row) => index::provide_memory(&index::Work {
            method: of.method,
            lists: options.lists.or(row.lists).unwrap_or(collect::LISTS_DEFAULT),
            m: options.m.or(row.m).unwrap_or(M_DEFAULT),
            rows: row.rows,
            value_bytes: collect::value_bytes(row).unwrap_or(0) as f64,
        }),
        None => Ok(()),
    }
}

/// Name under which a step notes the effort that it has set.
const SET: &str = "set";
/// Name under which a comparison notes the effort that was stored for the old index then.
const STORED: &str = "stored_effort";

/// The effort that sessions are to get with the new index: what its comparison found to meet the objective, if that lets users have
/// as many rows as before; else what was set for the old one. Must run in a transaction.
fn effort_for(context: &Context<'_>, of: &IndexRef) -> Result<Option<i32>, Error> {
    let former = efforts::stored(of.oid)?;
    if let Some(given_back) = journal::effort_given_back(context.action_id, of.oid)? {
        return Ok(given_back);
    }
    if !context.config.manage_search_effort {
        return Ok(former);
    }
    let entries = journal::entries(context.action_id)?;
    let compared = entries.iter().rev().find(|entry| {
        matches!(&entry.step, Step::CompareIndexes { of: compared, .. } if compared.oid == of.oid)
            && entry.state == StepState::Done
    });
    let Some(compared) = compared else { return Ok(former) };
    // Who has set one since then knows why.
    if compared.details.get(STORED).is_some_and(|stored| *stored != json!(former)) {
        return Ok(former);
    }
    let verdict = journal::verdicts(std::slice::from_ref(compared)).pop();
    let Some(found) = verdict.and_then(|verdict| verdict.effort) else { return Ok(former) };
    let known = collect::indexes(context.collection)?;
    let Some(row) = known.iter().find(|row| row.oid == of.oid) else { return Ok(Some(found as i32)) };
    let present = collect::effort(row).max(1) as u32;
    Ok(match row.method {
        Method::Hnsw => {
            let others = efforts::greatest_default(row.method.effort_setting())?;
            if found > present { Some(effort_to_set(found, others, None) as i32) } else { former }
        }
        Method::Ivfflat => {
            let before = row.lists.unwrap_or(collect::LISTS_DEFAULT);
            let planned = entries.iter().find_map(|entry| match &entry.step {
                Step::BuildIndex { of: built, options, .. }
                | Step::ReindexConcurrently { of: built, options, .. }
                    if built.oid == of.oid =>
                {
                    options.lists
                }
                _ => None,
            });
            let lists = Lists { rows: row.rows, before, after: planned.unwrap_or(before) };
            Some(effort_to_set(found, present, Some(lists)) as i32)
        }
    })
}

fn swap(context: &Context<'_>, step_no: u32, step: &Step, of: &IndexRef) -> Result<(), Error> {
    // The effort is set first, for an index that no session sees yet: there is no moment with the new index and the
    // wrong effort. The old index keeps its own.
    let former = context.intend(step_no, step, || {
        lookup::as_planned(of)?;
        let trial =
            lookup::trial(of)?.ok_or_else(|| Error::refused("the new index is not there any more"))?;
        let effort = effort_for(context, of)?;
        if effort.is_some() {
            efforts::store(context.collection.id, trial.oid, of.method.effort_setting(), effort)?;
        }
        let former = efforts::stored(of.oid)?;
        Ok((former, json!({ "trial": index::described(&trial), "effort": effort, "former_effort": former })))
    })?;
    transaction(efforts::load)?;
    in_transaction_patiently(context.config.lock_timeout_ms, || {
        let trial =
            lookup::trial(of)?.ok_or_else(|| Error::refused("the new index is not there any more"))?;
        index::lock(&[of.oid, trial.oid]);
        let old = as_planned_and_alone(of)?;
        let trial = (lookup::trial(of)?.filter(|now| now.oid == trial.oid))
            .ok_or_else(|| Error::refused("the new index is not there any more"))?;
        if !trial.valid {
            return Err(Error::refused("the new index is not valid any more"));
        }
        let set_since = efforts::stored(of.oid)?;
        if set_since != former {
            efforts::store(context.collection.id, trial.oid, of.method.effort_setting(), set_since)?;
        }
        let sql = index::exchange_names(&trial, &old, of.table)?;
        // Once more exchanges them back: each of the two then bears the other's name.
        let details = json!({ (journal::SQL): &sql, (journal::INVERSE): &sql });
        context.note(step_no, step, StepState::Done, details)
    })
}

/// The index, if it is as planned and can be replaced by itself.
fn as_planned_and_alone(of: &IndexRef) -> Result<lookup::Found, Error> {
    let found = lookup::as_planned(of)?;
    if found.attached {
        return Err(Error::refused(format!("{} is part of a partitioned index by now", of.name)));
    }
    Ok(found)
}

/// Does `work`, waiting at most so long for each lock, again when it did not get them.
pub(crate) fn patiently<T>(lock_timeout_ms: i64, work: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    patiently_at_most(u32::MAX, lock_timeout_ms, work)
}

/// The same, again at most so often.
fn patiently_at_most<T>(
    times: u32,
    lock_timeout_ms: i64,
    mut work: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let former = process::set_lock_timeout(lock_timeout_ms);
    let mut tries = 0;
    let result = loop {
        let result = work();
        match (&result, patience_s(tries)) {
            (Err(error), Some(seconds)) if error.is_lock_timeout() && tries < times => {
                tries += 1;
                process::pause(std::time::Duration::from_secs(seconds));
            }
            _ => break result,
        }
    };
    process::set_lock_timeout(former);
    result
}

/// A transaction that waits at most so long for each lock.
fn in_transaction<T>(lock_timeout_ms: i64, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let former = process::set_lock_timeout(lock_timeout_ms);
    let result = transaction(work);
    process::set_lock_timeout(former);
    result
}

fn in_transaction_patiently<T>(
    lock_timeout_ms: i64,
    mut work: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    patiently(lock_timeout_ms, || transaction(&mut work))
}

fn reindex(
    context: &Context<'_>,
    step_no: u32,
    step: &Step,
    of: &IndexRef,
    options: BuildOptions,
    limit_s: Option<f64>,
) -> Result<(), Error> {
    let lock_timeout_ms = context.config.lock_timeout_ms;
    let (found, shadow, own) = context.intend(step_no, step, || {
        let found = lookup::as_planned(of)?;
        let before: Vec<Oid> = lookup::reindex_leftovers(of)?.iter().map(|found| found.oid).collect();
        let effort = effort_for(context, of)?;
        let former_effort = efforts::stored(of.oid)?;
        // From the exchange of the names until all older transactions have ended, which may be long, the new index is searched: it
        // takes over what is stored for the old one (`efforts::follow`).
        let present = known_effort(context, of)?;
        let meanwhile = match effort {
            Some(effort) if Some(effort) != former_effort => Some(effort.max(present.unwrap_or(effort))),
            _ => former_effort,
        };
        if meanwhile != former_effort {
            efforts::store(context.collection.id, of.oid, of.method.effort_setting(), meanwhile)?;
        }
        let efforts = Efforts { former: former_effort, meanwhile, new: effort };
        let details = json!({
            "leftovers_before": before,
            "definition": index::definition(of.oid)?,
            (FORMER_OPTIONS): index::options_set(of.oid, options)?,
            (EFFORTS): efforts,
        });
        Ok(((found, lookup::trial(of)?, efforts), details))
    })?;
    transaction(efforts::load)?;
    // It was compared and has said what it had to: the disk that it takes is needed for the rebuild itself.
    if let Some(shadow) = shadow {
        patiently(lock_timeout_ms, || {
            index::drop_concurrently(&shadow, lock_timeout_ms, || lookup::as_planned(of).map(drop))
        })?;
    }
    prepare_to_build(context, of, options)?;
    let still = || lookup::as_planned(of).map(|_| true);
    patiently(lock_timeout_ms, || {
        index::while_locked(&[of.table, found.oid], lock_timeout_ms, still, || {
            transaction(|| index::set_options(&of.name, options))?;
            let statement = format!("REINDEX INDEX CONCURRENTLY {}", of.name);
            within(limit_s, || toplevel::run(&statement, 0, toplevel::unchanged))
        })
    })?;
    transaction(|| {
        // It bears the name under another OID now.
        if let Some(new) = lookup::bearing_its_name(of)? {
            own.hand_over(context, of, new.oid)?;
        }
        let sql = reindex_sql(of, options);
        context.note(step_no, step, StepState::Done, json!({ "effort": own.new, (journal::SQL): sql }))
    })?;
    transaction(efforts::load)
}

/// The effort that sessions get for an index now; None if it is no index of the collection. Must run in a transaction.
fn known_effort(context: &Context<'_>, of: &IndexRef) -> Result<Option<i32>, Error> {
    let known = collect::indexes(context.collection)?;
    Ok(known.iter().find(|row| row.oid == of.oid).map(collect::effort))
}

/// Name under which a reindex notes the options that it changes: `{"lists": null}` when none were set.
const FORMER_OPTIONS: &str = "former_options";
/// Name under which it notes the efforts.
const EFFORTS: &str = "efforts";

/// The efforts that are stored for an index: before its reindex, while that goes on, and for the new one.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Efforts {
    former: Option<i32>,
    meanwhile: Option<i32>,
    new: Option<i32>,
}

impl Efforts {
    /// Gives the new index its effort, unless somebody has set another meanwhile, for it or for the old one. Must run in a
    /// transaction.
    fn hand_over(self, context: &Context<'_>, of: &IndexRef, new: Oid) -> Result<(), Error> {
        let stored = efforts::stored(new)?.or(efforts::stored(of.oid)?);
        let effort = if stored == self.meanwhile { self.new } else { stored };
        efforts::store(context.collection.id, of.oid, of.method.effort_setting(), None)?;
        efforts::store(context.collection.id, new, of.method.effort_setting(), effort)
    }
}

/// Drops what an interrupted reindex left, and gives the index its options and its effort again; unless it was exchanged already:
/// then the new index stays, with the effort that was meant for it. What to note of that.
fn clean_up_reindex(context: &Context<'_>, of: &IndexRef, details: &Value) -> Result<Value, Error> {
    let before: Vec<Oid> = details
        .get("leftovers_before")
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default();
    for leftover in transaction(|| lookup::reindex_leftovers(of))? {
        if !before.contains(&leftover.oid) {
            index::drop_concurrently(&leftover, context.config.lock_timeout_ms, || Ok(()))?;
        }
    }
    let Some(former) = details.get(FORMER_OPTIONS) else { return Ok(json!({})) };
    let own: Option<Efforts> =
        details.get(EFFORTS).and_then(|efforts| serde_json::from_value(efforts.clone()).ok());
    in_transaction(context.config.lock_timeout_ms, || {
        index::lock(&[of.oid]);
        if let Some(index) = lookup::itself(of)?.filter(|index| index.name == of.name) {
            index::reset_options(&index.name, former)?;
            if let Some(own) = own
                && efforts::stored(of.oid)? == own.meanwhile
            {
                efforts::store(context.collection.id, of.oid, of.method.effort_setting(), own.former)?;
            }
            return Ok(json!({}));
        }
        let Some(new) = lookup::bearing_its_name(of)?.filter(|new| new.oid != of.oid) else {
            return Ok(json!({}));
        };
        if let Some(own) = own {
            own.hand_over(context, of, new.oid)?;
        }
        Ok(json!({ "kept": "the new index had taken its place already" }))
    })
}

/// Undoes or finishes what an action left, and notes it. Who calls it tries again when a lock was not to be had.
pub(crate) fn recover(context: &Context<'_>, steps: &[Step], command: &RecoveryCommand) -> Result<(), Error> {
    let step_no = command.step_no();
    let note = |details: Value| match steps.get(step_no as usize) {
        Some(step) => context.note(step_no, step, command.leaves(), details),
        None => Err(Error::refused(format!("the plan has no step {step_no}"))),
    };
    match command {
        RecoveryCommand::DropTrial { of, .. } => {
            let details = drop_trial(context, of)?;
            transaction(|| note(details))?;
            transaction(efforts::load)
        }
        RecoveryCommand::SwapBack { of, .. } => in_transaction(context.config.lock_timeout_ms, || {
            let built = built(context, of)?;
            let hidden = lookup::hidden(of, built)?.map(|hidden| hidden.oid);
            let all: Vec<Oid> = [built, hidden, Some(of.oid)].into_iter().flatten().collect();
            index::lock(&all);
            let old = lookup::hidden(of, built)?.filter(|old| all.contains(&old.oid));
            let new = built.map(lookup::by_oid).transpose()?.flatten().filter(|new| new.table == of.table);
            let taken = lookup::bearing_its_name(of)?.is_some();
            let how = swap_back(old.is_some(), built.map(|_| new.is_some()), taken);
            let sql = match (how, &old, &new) {
                (SwapBack::Exchange, Some(old), Some(new)) => {
                    Some(index::exchange_names(old, new, of.table)?)
                }
                (SwapBack::OwnName, Some(old), _) => Some(named_otherwise(old, &bare_name(of)?, of)?),
                (SwapBack::FormerName, Some(old), _) => Some(named_otherwise(old, &free_name(of)?, of)?),
                _ => None,
            };
            note(json!({ "how": how, (journal::SQL): sql }))
        }),
        RecoveryCommand::RestoreEffort { of, details, .. } => {
            transaction(|| {
                let number =
                    |name: &str| details.get(name).and_then(Value::as_i64).map(|effort| effort as i32);
                // What it has not set, or somebody has set since, is not its own to take back.
                let point = details.pointer("/point/effort").and_then(Value::as_i64);
                let set = number(SET).or(point.map(|effort| effort as i32));
                if set.is_some() && efforts::stored(of.oid)? == set {
                    let setting = of.method.effort_setting();
                    efforts::store(context.collection.id, of.oid, setting, number("former"))?;
                    measure_again(of.oid)?;
                }
                note(json!({}))
            })?;
            transaction(efforts::load)
        }
        RecoveryCommand::RebuildDropped { of, details, .. } => {
            let gone = transaction(|| Ok(lookup::bearing_its_name(of)?.is_none()))?;
            // Without a definition it was gone before the step.
            let definition = details.get("definition").and_then(Value::as_str).filter(|_| gone);
            if let Some(definition) = definition {
                index::create(definition, None, BuildOptions::default())?;
            }
            let sql = definition.map(|text| text.replacen("CREATE INDEX ", "CREATE INDEX CONCURRENTLY ", 1));
            transaction(|| note(json!({ (journal::SQL): sql })))
        }
        RecoveryCommand::DropReindexLeftover { of, details, .. } => {
            let details = clean_up_reindex(context, of, details)?;
            transaction(|| note(details))?;
            transaction(efforts::load)
        }
        RecoveryCommand::DropLoser { of, .. } => {
            let built = transaction(|| built(context, of))?;
            let details = drop_loser(context, of, built)?;
            transaction(|| note(details))
        }
        RecoveryCommand::Revert { step, details, .. } => match step.as_ref() {
            Step::SetRoutingWeight { of, .. } => {
                transaction(|| note(weight::restore(context, of, details)?))?;
                transaction(routing::load)
            }
            Step::MoveRows { pause_ratio, .. } => {
                let details = rows::revert(context, step_no, *pause_ratio)?;
                transaction(|| note(details))
            }
            Step::ScaleReplicas { target, .. } => {
                let details = scale::revert(context, target, details)?;
                transaction(|| note(details))
            }
            other => suppress::revert(context, other, note),
        },
    }
}

/// An invalid index is dropped as long as it can be spared: the valid one like it may have gone since the plan was made.
fn spare(index: &lookup::Found) -> Result<(), Error> {
    if lookup::is_spare(index)? {
        return Ok(());
    }
    Err(Error::refused(format!("no valid index like {} is there any more: it is kept", index.name)))
}

/// Drops the index that a swap has replaced. One that somebody made part of a partitioned index meanwhile stays, where all
/// see it.
fn drop_loser(context: &Context<'_>, of: &IndexRef, built: Option<Oid>) -> Result<Value, Error> {
    let Some(loser) = transaction(|| index::loser(of, built))? else { return Ok(json!({})) };
    if loser.attached {
        in_transaction(context.config.lock_timeout_ms, || {
            index::lock(&[loser.oid]);
            match lookup::hidden(of, built)?.filter(|hidden| hidden.oid == loser.oid) {
                Some(hidden) => show_again(&hidden, of),
                None => Ok(()),
            }
        })?;
        return Ok(json!({ "kept": "it is part of a partitioned index by now" }));
    }
    index::drop_concurrently(&loser, context.config.lock_timeout_ms, || {
        let still = index::loser(of, built)?.is_some_and(|now| now.oid == loser.oid && !now.attached);
        still.then_some(()).ok_or_else(|| Error::refused(format!("{} is another index by now", loser.name)))
    })?;
    Ok(json!({ (journal::SQL): index::drop_statement(&loser) }))
}

/// Drops the index that was built beside another. Once the two were to exchange their names, what bears the trial's name
/// may be the user's own: then only the one that the journal notes is dropped, and any other is shown again.
fn drop_trial(context: &Context<'_>, of: &IndexRef) -> Result<Value, Error> {
    let (built, trial) = transaction(|| Ok((built(context, of)?, lookup::trial(of)?)))?;
    let Some(trial) = trial else { return Ok(json!({})) };
    if built.is_none_or(|built| built == trial.oid) {
        index::drop_concurrently(&trial, context.config.lock_timeout_ms, || Ok(()))?;
        return Ok(json!({ (journal::SQL): index::drop_statement(&trial) }));
    }
    in_transaction(context.config.lock_timeout_ms, || {
        index::lock(&[trial.oid]);
        match lookup::hidden(of, built)?.filter(|hidden| hidden.oid == trial.oid) {
            Some(hidden) => show_again(&hidden, of),
            None => Ok(()),
        }
    })?;
    Ok(json!({ "kept": "it is not the index that was built" }))
}

/// Gives a hidden index a free name beside its own (`_former`), so that all see it. Must run in a transaction.
fn show_again(index: &lookup::Found, of: &IndexRef) -> Result<(), Error> {
    named_otherwise(index, &free_name(of)?, of).map(drop)
}

/// Renames a hidden index of a table, whose cached plans are made again; the statement. Must run in a transaction.
fn named_otherwise(index: &lookup::Found, name: &str, of: &IndexRef) -> Result<String, Error> {
    let statement = index::rename(&index.name, name)?;
    index::plan_anew(of.table);
    Ok(statement)
}

/// Removes what actions left behind that no journal knows any more, because the extension was dropped meanwhile or the
/// former index could not be dropped in time: trial indexes of a collection on which no action is under way or unfinished,
/// if they are invalid or a valid index like them is there. Waits for nothing: what is in use is left for another time.
pub(crate) fn sweep(collection: &Collection) -> Result<(), Error> {
    for orphan in transaction(|| lookup::orphans(collection))? {
        let swept = transaction(|| {
            // The table first, as everybody else does.
            // SAFETY: a lock on an OID that is gone by now does no harm.
            let lock = |relation: Oid| unsafe {
                pg_sys::ConditionalLockRelationOid(relation.into(), pg_sys::AccessExclusiveLock as i32)
            };
            if !lock(orphan.table) || !lock(orphan.oid) {
                return Ok(false);
            }
            look_again();
            let still = lookup::orphans(collection)?.contains(&orphan);
            if still {
                // Nobody is to wait for a standby while the table is locked.
                set_local(c"synchronous_commit", c"local");
                Spi::run(&format!("DROP INDEX {}", orphan.name))?;
                index::forget(orphan.oid)?;
            }
            Ok(still)
        })?;
        if swept {
            pgrx::log!("ruvector: collection {}: dropped {}, a left-over", collection.name, orphan.name);
        }
    }
    Ok(())
}

/// The index that this action exchanges with this one, as the swap's intent noted it; None before there was one.
fn built(context: &Context<'_>, of: &IndexRef) -> Result<Option<Oid>, Error> {
    let entries = journal::entries(context.action_id)?;
    let noted = entries.iter().find(|entry| {
        matches!(&entry.step, Step::SwapIndex { of: swapped } if swapped.oid == of.oid)
            && entry.state == StepState::Intent
    });
    let oid = noted.and_then(|entry| entry.details.get("trial")?.get("oid")?.as_u64());
    Ok(oid.and_then(|oid| Oid::try_from(oid).ok()))
}

/// A name beside the index's own that no relation of its schema bears. Longer than 63 bytes PostgreSQL would cut it, perhaps to
/// one that is taken: its own part is cut, at a character (as `makeObjectName` does, indexcmds.c).
fn free_name(of: &IndexRef) -> Result<String, Error> {
    Spi::get_one_with_args::<String>(
        "SELECT f.name
           FROM parse_ident($1) p, generate_series(0, 1000) n,
                LATERAL (SELECT '_former' || CASE n WHEN 0 THEN '' ELSE n::text END AS ending) e,
                LATERAL (SELECT left(p[2], k) || e.ending AS name FROM generate_series(1, 63) k
                          WHERE octet_length(left(p[2], k)) + octet_length(e.ending) <= 63 ORDER BY k DESC LIMIT 1) f
          WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
                             WHERE s.nspname = p[1] AND c.relname = f.name)
          ORDER BY n LIMIT 1",
        &[of.name.as_str().into()],
    )?
    .ok_or_else(|| Error::refused(format!("no name is free beside {}", of.name)))
}

/// The index's name without its schema.
fn bare_name(of: &IndexRef) -> Result<String, Error> {
    Spi::get_one_with_args::<String>("SELECT (parse_ident($1))[2]", &[of.name.as_str().into()])?
        .ok_or_else(|| Error::refused(format!("{} is no qualified name", of.name)))
}

/// The panel of an index is measured anew at the next sample.
fn measure_again(index: Oid) -> Result<(), Error> {
    let index = pg_sys::Oid::from(index);
    Ok(Spi::run_with_args(
        "DELETE FROM ruvector.readings WHERE index_id = $1 AND kind = 'panel'",
        &[index.into()],
    )?)
}
