//! Old and trial index on the same panel.

use healing::plan::Step;
use healing::recovery::StepState;
use healing::verdict::{Comparison, Sizes, compare};
use serde_json::json;

use super::{SHORT_MS, measure, note, target};
use crate::defects::Defect;
use crate::stage::Stage;
use crate::worker::{Op, Then, Turn, op};

pub(super) fn operations(turn: &Turn) -> Vec<Op> {
    vec![op("compare_indexes.intent", intent, turn), op("compare_indexes.measure", compared, turn)]
}

fn intent(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    note(stage, turn, StepState::Intent, json!({}));
    Ok(Then::Next(SHORT_MS))
}

fn compared(stage: &mut Stage, turn: &Turn) -> Result<Then, String> {
    let Step::CompareIndexes { of, criterion } = &turn.step else { return Err("no comparison".to_owned()) };
    let config = stage.world.collections[turn.collection].config.clone();
    let collection = &stage.world.collections[turn.collection];
    let old = collection
        .itself(target(turn)?)
        .cloned()
        .ok_or_else(|| format!("{} is not there any more", of.name))?;
    let trial = collection.trial(of).cloned().ok_or("the new index is not there any more")?;
    if !trial.valid {
        return Err("the new index is not valid".to_owned());
    }
    let present = old.effort(stage.world.server_effort).max(1);
    let queries = config.panel_queries as u32;
    let (objective, world) = (config.recall_objective, &mut stage.world);
    // An index that cannot be searched has no curve.
    let old_points = match old.valid {
        true => measure::curve(world, &old, queries, objective, present, 0),
        false => Ok(vec![]),
    };
    let points =
        old_points.and_then(|old| Ok((old, measure::curve(world, &trial, queries, objective, present, 0)?)));
    // A panel that was cancelled is no reason to throw a build away: it is measured again.
    let (old_points, new_points) = match points {
        Ok(points) => points,
        Err(cancelled) => return Ok(Then::patiently(turn.tries, &cancelled)),
    };
    let mut verdict = compare(&Comparison {
        old: old.valid.then_some(old_points.as_slice()),
        new: &new_points,
        present_effort: present,
        effort_managed: config.manage_search_effort,
        objective: config.recall_objective,
        criterion: *criterion,
        sizes: Sizes { old_bytes: old.bytes, new_bytes: trial.bytes },
    });
    verdict.keep |= stage.has(Defect::NoComparison);
    note(stage, turn, StepState::Done, json!({ "verdict": &verdict }));
    if !verdict.keep {
        return Ok(Then::Lost(verdict.reason));
    }
    let points = (old_points.len() + new_points.len()) as f64;
    let ms = points * 800.0 * stage.world.slowness();
    Ok(Then::Next(ms as i64))
}
