//! Measuring an index over a range of search effort, as the extension's `execute::compare`.

use healing::snapshot::{Method, RecallPoint};
use healing::verdict::{effort_schedule, next_effort};

use crate::world::World;
use crate::world::index::Index;
use crate::world::observe::panel;

/// Draws of the panel for a comparison.
const DRAWS: u32 = 4;
/// Indexes are tried at no more efforts than this.
const EFFORTS_MAX: usize = 40;

/// Recall against work, at efforts chosen as the extension chooses them: the present one and those beyond `above`.
///
/// # Errors
/// When a panel gave no reading.
pub fn curve(
    world: &mut World,
    index: &Index,
    queries: u32,
    objective: f64,
    present: u32,
    above: u32,
) -> Result<Vec<RecallPoint>, String> {
    let mut points: Vec<RecallPoint> = Vec::new();
    let lists = (index.method == Method::Ivfflat).then(|| index.lists.unwrap_or(100));
    let mut measure = |effort: u32, points: &mut Vec<RecallPoint>| -> Result<(), String> {
        if points.iter().any(|point| point.effort == effort) {
            return Ok(());
        }
        if world.noise.chance(world.weather.unread / 10.0) {
            return Err(format!("{}: cancelled", index.name));
        }
        let load = world.weather.load;
        let point = panel(index, effort, DRAWS * queries, load, &mut world.noise);
        world.work.panel_blocks += point.blocks * f64::from(DRAWS * queries);
        points.push(point);
        Ok(())
    };
    measure(present, &mut points)?;
    for effort in effort_schedule(index.method, lists).into_iter().filter(|effort| *effort > above) {
        measure(effort, &mut points)?;
        if points.iter().any(|point| point.recall - point.recall_ci >= objective) {
            break;
        }
    }
    for end in [0.0, -1.0, 1.0] {
        let shifted = |points: &[RecallPoint]| -> Vec<RecallPoint> {
            points.iter().map(|p| RecallPoint { recall: p.recall + end * p.recall_ci, ..*p }).collect()
        };
        while points.len() < EFFORTS_MAX
            && let Some(effort) = next_effort(&shifted(&points), objective)
        {
            measure(effort, &mut points)?;
        }
    }
    Ok(points)
}
