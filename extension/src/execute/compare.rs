//! Measuring indexes over a range of search effort, on the same queries.

use healing::config::Config;
use healing::plan::{Criterion, IndexRef};
use healing::snapshot::{Method, Oid, Reading, RecallPoint};
use healing::verdict::{self, Comparison, Sizes, Verdict, effort_schedule, next_effort};

use super::lookup::{self, Found};
use crate::collect::{self, Collection, IndexRow, Panel, Searched};
use crate::error::Error;
use crate::kept;
use crate::transaction::transaction;

/// Draws of the panel for a comparison: it must tell apart what routine measuring need not.
const DRAWS: i64 = 4;
/// Indexes are tried at no more efforts than this: the schedule doubles and then halves the gap.
const EFFORTS_MAX: usize = 40;

/// Old against trial index. Opens its own, short transactions: a build elsewhere waits for none of them long.
pub(super) fn old_and_trial(
    collection: &Collection,
    config: &Config,
    of: &IndexRef,
    criterion: Criterion,
) -> Result<Verdict, Error> {
    let (old, trial_found) = transaction(|| {
        let row = row(collection, of)?;
        let trial =
            lookup::trial(of)?.ok_or_else(|| Error::refused("the new index is not there any more"))?;
        Ok((row, trial))
    })?;
    if !trial_found.valid {
        return Err(Error::refused("the new index is not valid"));
    }
    let trial = transaction(|| as_trial(&old, &trial_found))?;
    let sizes = Sizes { old_bytes: old.bytes, new_bytes: trial_found.bytes };
    let mut panel = match panel(&trial, config)? {
        Reading::Known(panel) => panel,
        Reading::Unknown(reason) if criterion == Criterion::Valid => {
            return Ok(unmeasured(
                true,
                format!("it is valid; its recall was not measured: {reason}"),
                sizes,
            ));
        }
        Reading::Unknown(reason) => {
            return Ok(unmeasured(false, format!("the two could not be compared: {reason}"), sizes));
        }
    };
    let present = transaction(|| Ok(collect::effort(&old)))?.max(1) as u32;
    let of_old = if old.valid { curve(&panel, &old, config.recall_objective, present, 0)? } else { vec![] };
    let of_new = curve(&panel, &trial, config.recall_objective, present, 0)?;
    if is_outdated(&panel, &old)? {
        panel.look_again(&trial)?;
    }
    let (old_points, new_points) = (points(&panel, &of_old), points(&panel, &of_new));
    Ok(verdict::compare(&Comparison {
        old: old.valid.then_some(old_points.as_slice()),
        new: &new_points,
        present_effort: present,
        effort_managed: config.manage_search_effort,
        objective: config.recall_objective,
        criterion,
        sizes,
    }))
}

/// The least effort above the present one at which an index meets the objective, with what was measured there; or why
/// there is none.
pub(super) fn least_effort(
    collection: &Collection,
    config: &Config,
    of: &IndexRef,
    objective: f64,
) -> Result<Result<RecallPoint, String>, Error> {
    let index = transaction(|| row(collection, of))?;
    let panel = match panel(&index, config)? {
        Reading::Known(panel) => panel,
        Reading::Unknown(reason) => return Err(Error::refused(reason)),
    };
    let present = transaction(|| Ok(collect::effort(&index)))?.max(1) as u32;
    let found = verdict::greater_effort(
        &points(&panel, &curve(&panel, &index, objective, present, present)?),
        objective,
        present,
    );
    Ok(found.map_err(|why| format!("{}: {why}", of.method.effort_setting())))
}

fn row(collection: &Collection, of: &IndexRef) -> Result<IndexRow, Error> {
    collect::indexes(collection)?
        .into_iter()
        .find(|row| row.oid == of.oid)
        .ok_or_else(|| Error::refused(format!("{} is not there any more", of.name)))
}

/// Rows inserted, updated and deleted in a table by now, as the statistics say.
fn changes(table: Oid) -> Result<i64, Error> {
    let query = "SELECT pg_stat_get_tuples_inserted($1) + pg_stat_get_tuples_updated($1) + pg_stat_get_tuples_deleted($1)";
    Ok(kept::one(query, &[pgrx::pg_sys::Oid::from(table).into()])?.unwrap_or(0))
}

/// The trial index is defined like the old one, but for its options.
fn as_trial(old: &IndexRow, trial: &Found) -> Result<IndexRow, Error> {
    let options: Vec<Option<u32>> = collect::documents(
        "SELECT coalesce(to_jsonb((SELECT split_part(o, '=', 2)::integer FROM unnest(i.reloptions) o WHERE o LIKE 'lists=%')),
                'null') FROM pg_class i WHERE i.oid = $1",
        &[pgrx::pg_sys::Oid::from(trial.oid).into()],
    )?;
    Ok(IndexRow {
        oid: trial.oid,
        relfilenode: trial.relfilenode,
        relation_name: trial.relation_name.clone(),
        name: trial.name.clone(),
        bytes: trial.bytes,
        lists: options.into_iter().next().flatten(),
        valid: true,
        ..old.clone()
    })
}

fn panel(index: &IndexRow, config: &Config) -> Result<Reading<Panel>, Error> {
    let mut joined: Option<Panel> = None;
    let seed = transaction(collect::seed)?;
    for draw in 0..DRAWS {
        match collect::draw_panel(index, config.panel_queries as u32, config.recall_k as u32, seed + draw)? {
            Reading::Unknown(reason) => return Ok(Reading::Unknown(reason)),
            Reading::Known(panel) => match &mut joined {
                Some(all) => all.join(panel),
                None => joined = Some(panel),
            },
        }
    }
    Ok(joined.map_or_else(|| Reading::unknown("no queries were drawn"), Reading::Known))
}

/// Recall against work: at the present effort, at those of the schedule beyond `above` up to the first that surely
/// meets the objective, then between those around it. The verdict looks at both ends of the intervals, so the efforts at which these meet the objective are
/// sought like that of the mean: without them an index that is far better could not be told from its like.
fn curve(
    panel: &Panel,
    index: &IndexRow,
    objective: f64,
    present: u32,
    above: u32,
) -> Result<Vec<Searched>, Error> {
    let mut measured: Vec<Searched> = Vec::new();
    let lists = (index.method == Method::Ivfflat).then(|| index.lists.unwrap_or(collect::LISTS_DEFAULT));
    let measure = |effort: u32, measured: &mut Vec<Searched>| -> Result<(), Error> {
        if points(panel, measured).iter().any(|point| point.effort == effort) {
            return Ok(());
        }
        match collect::search_panel(panel, index, effort as i32)? {
            Reading::Known(searched) => measured.push(searched),
            Reading::Unknown(reason) => return Err(Error::refused(format!("{}: {reason}", index.name))),
        }
        Ok(())
    };
    measure(present, &mut measured)?;
    for effort in effort_schedule(index.method, lists).into_iter().filter(|effort| *effort > above) {
        measure(effort, &mut measured)?;
        if points(panel, &measured).iter().any(|point| point.recall - point.recall_ci >= objective) {
            break;
        }
    }
    for end in [0.0, -1.0, 1.0] {
        let shift = |p: RecallPoint| RecallPoint { recall: p.recall + end * p.recall_ci, ..p };
        let shifted = |measured: &[Searched]| -> Vec<RecallPoint> {
            points(panel, measured).into_iter().map(shift).collect()
        };
        while measured.len() < EFFORTS_MAX
            && let Some(effort) = next_effort(&shifted(&measured), objective)
        {
            measure(effort, &mut measured)?;
        }
    }
    Ok(measured)
}

fn points(panel: &Panel, measured: &[Searched]) -> Vec<RecallPoint> {
    measured.iter().map(|searched| searched.point(panel)).collect()
}

/// Share of its true neighbours that a query may have lost while the indexes were searched.
const LOST_MAX: f64 = 0.02;

/// Whether so much was written since the comparison began that true neighbours are others by now.
fn is_outdated(panel: &Panel, old: &IndexRow) -> Result<bool, Error> {
    let changes = transaction(|| changes(old.table))? - old.changes;
    Ok(changes.max(0) as f64 * f64::from(panel.k) > LOST_MAX * old.rows)
}

fn unmeasured(keep: bool, reason: String, sizes: Sizes) -> Verdict {
    Verdict {
        keep,
        reason,
        effort: None,
        compared_recall: None,
        old_at_objective: None,
        new_at_objective: None,
        old_at_present: None,
        new_at_present: None,
        sizes,
    }
}
