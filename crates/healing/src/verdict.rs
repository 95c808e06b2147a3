//! Old against new index: recall against work, measured on the same panel over a range of search effort.
//!
//! Work is buffers per query. A difference counts only beyond the sum of both confidence intervals: where each
//! measured value is within its interval of the true one, two equal indexes can never be told apart, so nothing is
//! replaced by its like. The price is power: the comparison wants more queries than routine monitoring (with 64,
//! recall is known to about ±0.04; with 500 to ±0.013).

use serde::{Deserialize, Serialize};

use crate::plan::Criterion;
use crate::snapshot::{Method, RecallPoint};

/// Least saving of work, or of bytes, that is worth a swap.
pub(crate) const SAVING_MIN: f64 = 0.05;
/// The search for the least effort ends when it is known to within this share.
const EFFORT_TOLERANCE: f64 = 0.05;
/// pgvector's greatest `hnsw.ef_search`, and the least one worth a probe at k = 10.
const EF_SEARCH: (u32, u32) = (10, 1000);

/// Bytes of the two indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Bytes of the old index.
    pub old_bytes: u64,
    /// Bytes of the new index.
    pub new_bytes: u64,
}

/// What is compared, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison<'a> {
    /// The old index at several efforts; None where it cannot be searched (it is invalid).
    pub old: Option<&'a [RecallPoint]>,
    /// The new index at several efforts, `present_effort` among them.
    pub new: &'a [RecallPoint],
    /// Search effort that sessions get now.
    pub present_effort: u32,
    /// Whether the effort is set with the swap; if not, sessions stay at the present one and must not lose there.
    pub effort_managed: bool,
    /// Recall@k to be met.
    pub objective: f64,
    /// What must hold.
    pub criterion: Criterion,
    /// Bytes of both.
    pub sizes: Sizes,
}

/// What a comparison found, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the new index is to replace the old one.
    pub keep: bool,
    /// Why, in one sentence for a human.
    pub reason: String,
    /// Least measured effort at which the new index meets the objective; None when none of those measured does.
    pub effort: Option<u32>,
    /// Recall@k at which the work was compared: the objective, or the highest that both reach.
    pub compared_recall: Option<f64>,
    /// The old index at that recall (interpolated).
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

/// Judges a new index against the old one.
pub fn compare(comparison: &Comparison<'_>) -> Verdict {
    let Comparison { old, new, present_effort, objective, sizes, .. } = *comparison;
    let new_curve = Curve::new(new);
    let old_curve = Curve::new(old.unwrap_or(&[]));
    let at_present = |points: &[RecallPoint]| points.iter().find(|p| p.effort == present_effort).copied();
    let compared_recall = old_curve
        .max_recall()
        .zip(new_curve.max_recall())
        .map(|(old_max, new_max)| objective.min(old_max).min(new_max));
    let mut verdict = Verdict {
        keep: false,
        reason: String::new(),
        effort: new.iter().filter(|p| p.recall >= objective).map(|p| p.effort).min(),
        compared_recall,
        old_at_objective: compared_recall.and_then(|recall| old_curve.at_recall(recall)),
        new_at_objective: compared_recall
            .or_else(|| new_curve.max_recall().map(|max| objective.min(max)))
            .and_then(|recall| new_curve.at_recall(recall)),
        old_at_present: old.and_then(at_present),
        new_at_present: at_present(new),
        sizes,
    };
    let outcome = match comparison.criterion {
        Criterion::Valid => valid(&new_curve),
        Criterion::RecallAgainstWork => better(comparison, &old_curve, &new_curve, &verdict),
        Criterion::Smaller => smaller(comparison, &old_curve, &new_curve, &verdict),
    };
    verdict.keep = outcome.is_ok();
    verdict.reason = outcome.unwrap_or_else(|why_not| why_not);
    verdict
}

/// Why the new one is kept, or why not.
type Outcome = Result<String, String>;

fn valid(new: &Curve) -> Outcome {
    match new.max_recall() {
        Some(recall) if recall > 0.0 => {
            Ok(format!("it is valid and finds {recall:.3} of the true neighbours"))
        }
        Some(_) => Err("the new index finds none of the true neighbours".to_owned()),
        None => Err("the new index did not answer the panel".to_owned()),
    }
}

fn better(comparison: &Comparison<'_>, old: &Curve, new: &Curve, verdict: &Verdict) -> Outcome {
    let Some(recall) = verdict.compared_recall else {
        return Err("there is no measurement of both indexes to compare".to_owned());
    };
    not_worse(comparison, old, new, recall, verdict)?;
    if let Some((old_work, new_work)) = clear_saving(old, new, recall) {
        return Ok(format!(
            "at recall {recall:.3} it reads {new_work:.0} blocks a query instead of {old_work:.0}"
        ));
    }
    if let (Some(before), Some(after)) = (verdict.old_at_present, verdict.new_at_present) {
        // Better in one, and not worse in the other beyond both intervals.
        let recall_gain = clearly_more(after, before);
        let work_gain = clearly_less_work(after, before, SAVING_MIN);
        if recall_gain && !clearly_less_work(before, after, 0.0) || work_gain && !clearly_more(before, after)
        {
            return Ok(format!(
                "at the present effort {} recall goes from {:.3} to {:.3} and blocks a query from {:.0} to {:.0}",
                before.effort, before.recall, after.recall, before.blocks, after.blocks
            ));
        }
        // An effort means something else when the number of lists has changed: compare at the present *work* too.
        // Even if the true figures lie at the wrong ends of both intervals, the new index must not have read more.
        let most = before.blocks - before.blocks_ci;
        if comparison.effort_managed
            && let Some(near) = new.at_blocks(most)
            && let Some(same_work) = new.at_blocks(most - near.blocks_ci)
            && same_work.blocks_ci <= near.blocks_ci
            && clearly_more(same_work, before)
        {
            return Ok(format!(
                "for the {:.0} blocks that a query reads now it finds {:.3} instead of {:.3}",
                before.blocks, same_work.recall, before.recall
            ));
        }
    }
    Err(format!("the new one is not clearly better, neither at recall {recall:.3} nor at the present effort"))
}

fn smaller(comparison: &Comparison<'_>, old: &Curve, new: &Curve, verdict: &Verdict) -> Outcome {
    let Sizes { old_bytes, new_bytes } = comparison.sizes;
    // Sizes far below 2^53.
    if new_bytes as f64 > (1.0 - SAVING_MIN) * old_bytes as f64 {
        return Err(format!("the new one is not clearly smaller: {new_bytes} bytes instead of {old_bytes}"));
    }
    let Some(recall) = verdict.compared_recall else {
        return Err("there is no measurement of both indexes to compare".to_owned());
    };
    not_worse(comparison, old, new, recall, verdict)?;
    Ok(format!("it takes {new_bytes} bytes instead of {old_bytes} and is not worse in recall against work"))
}

/// What forbids the new one, however much better it is elsewhere. Where the effort is set with the swap, searches will
/// run at the objective: there it must not clearly need more work, nor miss what the old one clearly reaches. Where
/// the effort stays as it is, the objective is only what could be; but then no recall may be lost at that effort.
fn not_worse(
    c: &Comparison<'_>,
    old: &Curve,
    new: &Curve,
    recall: f64,
    verdict: &Verdict,
) -> Result<(), String> {
    let at_objective = c.effort_managed || c.criterion == Criterion::Smaller;
    if at_objective && let Some((new_work, old_work)) = clear_saving(new, old, recall) {
        return Err(format!(
            "at recall {recall:.3} the new one reads {new_work:.0} blocks a query instead of {old_work:.0}"
        ));
    }
    let reaches = |curve: &Curve, sign: f64| {
        curve.0.iter().map(|p| p.recall + sign * p.recall_ci).fold(0.0, f64::max) >= c.objective
    };
    if at_objective && reaches(old, -1.0) && !reaches(new, 1.0) {
        return Err(format!("the new one does not reach recall {:.3}, which this one does", c.objective));
    }
    if !c.effort_managed
        && let (Some(before), Some(after)) = (verdict.old_at_present, verdict.new_at_present)
        && clearly_more(before, after)
    {
        return Err(format!(
            "at the present effort {}, which is not ours to change, recall would fall from {:.3} to {:.3}",
            before.effort, before.recall, after.recall
        ));
    }
    Ok(())
}

/// Recall of `a` is above that of `b` beyond both intervals.
fn clearly_more(a: RecallPoint, b: RecallPoint) -> bool {
    a.recall - a.recall_ci > b.recall + b.recall_ci
}

/// Work of `a` is below that of `b` beyond both intervals, by at least this share.
fn clearly_less_work(a: RecallPoint, b: RecallPoint, saving: f64) -> bool {
    a.blocks + a.blocks_ci < (1.0 - saving) * (b.blocks - b.blocks_ci)
}

/// The work of both at this recall (first `much`, then `little`), if `little` clearly needs less: even when all of
/// its values are at the worse end of their intervals and all of the other's at the better end.
fn clear_saving(much: &Curve, little: &Curve, recall: f64) -> Option<(f64, f64)> {
    let least = much.shifted(1.0).lower_bound(recall);
    let most = little.shifted(-1.0).upper_bound(recall)?;
    (most < (1.0 - SAVING_MIN) * least)
        .then(|| Some((much.at_recall(recall)?.blocks, little.at_recall(recall)?.blocks)))
        .flatten()
}

/// Points by ascending effort; those with a value that is no finite number are left out.
struct Curve(Vec<RecallPoint>);

impl Curve {
    fn new(points: &[RecallPoint]) -> Self {
        let mut points: Vec<RecallPoint> = points
            .iter()
            .copied()
            .filter(|p| [p.recall, p.recall_ci, p.blocks, p.blocks_ci].iter().all(|x| x.is_finite()))
            .collect();
        points.sort_by_key(|p| p.effort);
        Self(points)
    }

    fn max_recall(&self) -> Option<f64> {
        self.0.iter().map(|p| p.recall).max_by(f64::total_cmp)
    }

    /// Every value at the better (sign 1) or the worse (−1) end of its interval.
    fn shifted(&self, sign: f64) -> Curve {
        let shift = |p: &RecallPoint| RecallPoint {
            recall: p.recall + sign * p.recall_ci,
            blocks: (p.blocks - sign * p.blocks_ci).max(0.0),
            ..*p
        };
        Curve(self.0.iter().map(shift).collect())
    }

    /// Work below which this recall is not reached: that of the greatest effort before the first that reaches it.
    /// Efforts between two probed ones are not known, so nothing above the lower one is claimed; with efforts
    /// bisected to 5 % little is lost. 0 when the least effort reaches it; all of the work when none does.
    fn lower_bound(&self, recall: f64) -> f64 {
        match self.0.iter().position(|p| p.recall >= recall) {
            Some(0) => self.0.first().map_or(0.0, |p| if p.effort <= 1 { p.blocks } else { 0.0 }),
            Some(at) => {
                let (below, above) = (self.0[at - 1], self.0[at]);
                if above.effort <= below.effort + 1 { above.blocks } else { below.blocks }
            }
            None => self.0.last().map_or(0.0, |p| p.blocks),
        }
    }

    /// Work that surely reaches this recall: that of the first probed effort which does.
    fn upper_bound(&self, recall: f64) -> Option<f64> {
        self.0.iter().find(|p| p.recall >= recall).map(|p| p.blocks)
    }

    /// The curve at a recall: between the last effort that misses it and the first that reaches it, work
    /// interpolated on a logarithmic scale (each doubling of work gains about the same).
    fn at_recall(&self, recall: f64) -> Option<RecallPoint> {
        let at = self.0.iter().position(|p| p.recall >= recall)?;
        let above = self.0[at];
        let Some(below) = at.checked_sub(1).map(|i| self.0[i]) else { return Some(above) };
        let share = (recall - below.recall) / (above.recall - below.recall);
        Some(mix(below, above, share.clamp(0.0, 1.0)))
    }

    /// The curve at a work; None below its least. Above its greatest the greatest effort.
    fn at_blocks(&self, blocks: f64) -> Option<RecallPoint> {
        let at = self.0.iter().rposition(|p| p.blocks <= blocks)?;
        let below = self.0[at];
        match self.0.get(at + 1) {
            Some(above) if below.blocks > 0.0 && above.blocks > below.blocks => {
                Some(mix(below, *above, (blocks / below.blocks).ln() / (above.blocks / below.blocks).ln()))
            }
            _ => Some(below),
        }
    }
}

fn mix(a: RecallPoint, b: RecallPoint, share: f64) -> RecallPoint {
    let line = |x: f64, y: f64| x + share * (y - x);
    let geometric = |x: f64, y: f64| {
        if x > 0.0 && y > 0.0 { (line(x.ln(), y.ln())).exp() } else { line(x, y) }
    };
    RecallPoint {
        // Between two efforts of 32 bits.
        effort: geometric(f64::from(a.effort), f64::from(b.effort)).round() as u32,
        recall: line(a.recall, b.recall),
        recall_ci: a.recall_ci.max(b.recall_ci),
        blocks: geometric(a.blocks, b.blocks),
        blocks_ci: a.blocks_ci.max(b.blocks_ci),
        queries: a.queries.min(b.queries),
    }
}

/// Efforts to probe first, ascending: doubling from 1 to all lists (ivfflat), from 10 to 1000 (hnsw). `lists` is
/// None for hnsw. The caller may stop at the first that meets the objective.
pub fn effort_schedule(method: Method, lists: Option<u32>) -> Vec<u32> {
    let (mut effort, max) = match method {
        Method::Ivfflat => (1, lists.unwrap_or(1).max(1)),
        Method::Hnsw => EF_SEARCH,
    };
    let mut efforts = Vec::new();
    while effort < max {
        efforts.push(effort);
        effort = effort.saturating_mul(2);
    }
    efforts.push(max);
    efforts
}

/// The effort to probe next on the way to the least one that meets the objective, by bisection; None when that is
/// known to within 5 % (or to the unit), or when no effort measured meets it.
pub fn next_effort(points: &[RecallPoint], objective: f64) -> Option<u32> {
    let meets = points.iter().filter(|p| p.recall >= objective).map(|p| p.effort).min()?;
    let misses = points.iter().filter(|p| p.effort < meets).map(|p| p.effort).max()?;
    let gap = meets - misses;
    (gap > 1 && f64::from(gap) > EFFORT_TOLERANCE * f64::from(meets)).then_some(misses + gap / 2)
}

/// The effort to set where searches at the present one find too little: the least measured above it that meets the
/// objective, as it was measured.
///
/// # Errors
/// That the present effort meets the objective after all (this panel is larger than the one that said otherwise), so
/// that another could only lose recall; or that no greater one measured meets it.
pub fn greater_effort(points: &[RecallPoint], objective: f64, present: u32) -> Result<RecallPoint, String> {
    if let Some(point) = points.iter().find(|p| p.effort == present)
        && point.recall >= objective
    {
        let RecallPoint { recall, queries, .. } = point;
        return Err(format!(
            "{present} finds {recall:.3} with {queries} queries: it meets {objective:.3} already"
        ));
    }
    let greater = points.iter().filter(|p| p.effort > present);
    let meets = greater.clone().filter(|p| p.recall >= objective).min_by_key(|p| p.effort);
    meets.copied().ok_or_else(|| {
        let best = greater.map(|p| p.recall).fold(0.0, f64::max);
        format!("nothing above {present} finds {objective:.3}; the best finds {best:.3}")
    })
}

/// What two panels say together of searches at the later one's effort: each counts by its queries, as if drawn independently.
/// Panels without queries say nothing: the later one alone counts then.
pub fn pooled(earlier: &RecallPoint, later: &RecallPoint) -> RecallPoint {
    let queries = earlier.queries.saturating_add(later.queries);
    if earlier.queries == 0 || later.queries == 0 {
        return *later;
    }
    let share = f64::from(earlier.queries) / f64::from(queries);
    let mean = |a: f64, b: f64| share * a + (1.0 - share) * b;
    let half_width = |a: f64, b: f64| (share * a).hypot((1.0 - share) * b);
    RecallPoint {
        effort: later.effort,
        recall: mean(earlier.recall, later.recall),
        recall_ci: half_width(earlier.recall_ci, later.recall_ci),
        blocks: mean(earlier.blocks, later.blocks),
        blocks_ci: half_width(earlier.blocks_ci, later.blocks_ci),
        queries,
    }
}

/// Rows that a search of an ivfflat index looks at, if it did before, whatever its recall asks for.
const ROWS_A_SEARCH: f64 = 200.0;

/// The lists of an ivfflat index before and after it was built anew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lists {
    /// Rows of the index.
    pub rows: f64,
    /// Lists before.
    pub before: u32,
    /// Lists after.
    pub after: u32,
}

/// The effort to set with a new index: `found`, the least at which it meets the objective, or more. A search returns no more rows
/// than `hnsw.ef_search`, and none but those of as many lists as `ivfflat.probes` says. Recall@k says nothing of users who ask for
/// more than k rows, or for rows with a condition on them: they must not get fewer than before. So an hnsw index keeps the present
/// effort where that is greater, and one search of an ivfflat index (`lists`) looks at as many rows as before, or 200.
pub fn effort_to_set(found: u32, present: u32, lists: Option<Lists>) -> u32 {
    let Some(Lists { rows, before, after }) = lists else { return found.max(present) };
    if rows < 1.0 {
        return found;
    }
    let looked_at = rows * f64::from(present) / f64::from(before.max(1));
    let needed = (looked_at.min(ROWS_A_SEARCH) * f64::from(after) / rows).ceil();
    // At most all lists.
    found.max((needed as u32).min(after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn users_who_ask_for_more_rows_get_no_fewer_than_before() {
        // pgvector's default is 40: what recall@10 would be content with is no matter.
        assert_eq!(effort_to_set(12, 40, None), 40);
        assert_eq!(effort_to_set(80, 40, None), 80);
        let lists = |rows, before, after| Some(Lists { rows, before, after });
        // One list of 300 rows before, 69 a list now.
        assert_eq!(effort_to_set(1, 1, lists(60_000.0, 200, 872)), 3);
        assert_eq!(effort_to_set(9, 1, lists(60_000.0, 200, 872)), 9);
        // One of twenty before: no more than they.
        assert_eq!(effort_to_set(1, 1, lists(2_000.0, 100, 200)), 2);
        // A great list is enough.
        assert_eq!(effort_to_set(1, 10, lists(1e6, 400, 2_225)), 1);
        assert_eq!(effort_to_set(3, 100, lists(50.0, 100, 4)), 4, "all lists");
        assert_eq!(effort_to_set(3, 1, lists(0.0, 0, 10)), 3, "nothing is known of an empty one");
    }

    #[test]
    fn two_panels_say_more_than_one() {
        let panel = |recall, recall_ci, queries| RecallPoint {
            effort: 9,
            recall,
            recall_ci,
            blocks: 100.0 * recall,
            blocks_ci: recall_ci,
            queries,
        };
        let (large, small) = (panel(0.96, 0.02, 300), RecallPoint { effort: 10, ..panel(0.92, 0.04, 100) });
        let both = pooled(&large, &small);
        assert_eq!((both.effort, both.queries), (10, 400));
        assert!((both.recall - 0.95).abs() < 1e-12 && (both.blocks - 95.0).abs() < 1e-12, "{both:?}");
        // sqrt(0.015^2 + 0.01^2)
        assert!(
            (both.recall_ci - 0.018_027_756).abs() < 1e-9 && both.blocks_ci == both.recall_ci,
            "{both:?}"
        );
        // Nothing is learned from nothing.
        let none = panel(f64::NAN, f64::INFINITY, 0);
        assert_eq!(pooled(&none, &small), small);
        assert_eq!(pooled(&large, &panel(0.5, 0.1, 0)), panel(0.5, 0.1, 0));
    }

    fn point(effort: u32, recall: f64, blocks: f64) -> RecallPoint {
        RecallPoint { effort, recall, recall_ci: 0.01, blocks, blocks_ci: blocks * 0.02, queries: 500 }
    }

    /// The data set's drifted index (`data/README.md`): lists = 100 trained on 200 rows of 12,000.
    fn drifted() -> Vec<RecallPoint> {
        vec![point(1, 0.390, 77.0), point(10, 0.822, 400.0), point(20, 0.90, 720.0), point(40, 0.96, 1300.0)]
    }

    /// The same after REINDEX.
    fn fresh() -> Vec<RecallPoint> {
        vec![point(1, 0.541, 54.0), point(10, 0.875, 343.0), point(20, 0.941, 576.0), point(22, 0.97, 620.0)]
    }

    const SIZES: Sizes = Sizes { old_bytes: 100, new_bytes: 100 };

    fn comparison<'a>(
        old: &'a [RecallPoint],
        new: &'a [RecallPoint],
        criterion: Criterion,
    ) -> Comparison<'a> {
        Comparison {
            old: Some(old),
            new,
            present_effort: 1,
            effort_managed: true,
            objective: 0.95,
            criterion,
            sizes: SIZES,
        }
    }

    #[test]
    fn a_rebuild_of_the_drifted_index_is_kept_and_the_way_back_is_not() {
        let (old, new) = (drifted(), fresh());
        let verdict = compare(&comparison(&old, &new, Criterion::RecallAgainstWork));
        assert!(verdict.keep, "{}", verdict.reason);
        assert_eq!(verdict.effort, Some(22));
        assert_eq!(verdict.compared_recall, Some(0.95));
        // Between (0.90, 720) and (0.96, 1300): 720 x (1300 / 720)^(5/6) = 1178.
        let old_work = verdict.old_at_objective.map(|p| p.blocks.round());
        assert_eq!(old_work, Some(1178.0));
        let back = compare(&comparison(&new, &old, Criterion::RecallAgainstWork));
        assert!(!back.keep, "{}", back.reason);
    }

    #[test]
    fn an_effort_is_only_ever_raised() {
        let points = drifted();
        assert_eq!(greater_effort(&points, 0.95, 10).unwrap().effort, 40);
        assert!(greater_effort(&points, 0.80, 10).unwrap_err().contains("already"));
        assert!(greater_effort(&points, 0.97, 10).unwrap_err().contains("the best finds 0.960"));
        // A lesser one that seems to meet it is chance.
        let lucky = [point(17, 0.951, 300.0), point(20, 0.93, 360.0), point(21, 0.955, 380.0)];
        assert_eq!(greater_effort(&lucky, 0.95, 20).unwrap().effort, 21);
        assert!(greater_effort(&lucky[..2], 0.95, 20).is_err());
    }

    #[test]
    fn with_few_queries_the_present_effort_decides() {
        let wide = |points: Vec<RecallPoint>| -> Vec<RecallPoint> {
            points.into_iter().map(|p| RecallPoint { recall_ci: 0.04, ..p }).collect()
        };
        let (old, new) = (wide(drifted()), wide(fresh()));
        let verdict = compare(&comparison(&old, &new, Criterion::RecallAgainstWork));
        assert!(verdict.keep && verdict.reason.contains("present effort 1"), "{}", verdict.reason);
    }

    #[test]
    fn lower_recall_at_the_present_effort_counts_only_where_the_effort_stays() {
        // 0.848 -> 0.725 at the same probes while the work falls 3.5 times (DESIGN, measured).
        let old = [point(10, 0.848, 1400.0), point(20, 0.93, 2600.0), point(30, 0.97, 3600.0)];
        let new = [point(10, 0.725, 400.0), point(30, 0.93, 1000.0), point(36, 0.965, 1200.0)];
        let mut case = comparison(&old, &new, Criterion::RecallAgainstWork);
        case.present_effort = 10;
        assert!(compare(&case).keep);
        case.effort_managed = false;
        let verdict = compare(&case);
        assert!(!verdict.keep && verdict.reason.contains("not ours to change"), "{}", verdict.reason);
    }

    /// One point an index: nothing is known but the present effort.
    fn at_present(old: (f64, f64), new: (f64, f64)) -> bool {
        let (old, new) = ([point(10, old.0, old.1)], [point(10, new.0, new.1)]);
        let mut case = comparison(&old, &new, Criterion::RecallAgainstWork);
        case.present_effort = 10;
        case.effort_managed = false;
        compare(&case).keep
    }

    #[test]
    fn at_the_present_effort_better_in_one_and_not_worse_in_the_other() {
        // Intervals: recall ± 0.01, blocks ± 2 %.
        assert!(at_present((0.80, 1000.0), (0.83, 1000.0)));
        assert!(!at_present((0.80, 1000.0), (0.815, 1000.0)), "within the intervals");
        assert!(at_present((0.80, 1000.0), (0.83, 1030.0)), "more work within the intervals");
        assert!(!at_present((0.80, 1000.0), (0.83, 1050.0)), "more work, 4 % and beyond the intervals");
        assert!(at_present((0.80, 1000.0), (0.80, 900.0)));
        assert!(!at_present((0.80, 1000.0), (0.80, 940.0)), "less work, but not worth it");
        assert!(at_present((0.80, 1000.0), (0.785, 900.0)), "less recall within the intervals");
        assert!(!at_present((0.80, 1000.0), (0.77, 900.0)), "less recall beyond them");
    }

    #[test]
    fn the_objective_forbids_only_where_searches_will_run_at_it() {
        let old = [point(10, 0.60, 500.0), point(20, 0.90, 700.0), point(21, 0.97, 720.0)];
        let new = [point(10, 0.70, 500.0), point(39, 0.92, 1580.0), point(40, 0.97, 1600.0)];
        let mut case = comparison(&old, &new, Criterion::RecallAgainstWork);
        case.present_effort = 10;
        let verdict = compare(&case);
        assert!(!verdict.keep && verdict.reason.contains("at recall 0.950"), "{}", verdict.reason);
        case.effort_managed = false;
        let verdict = compare(&case);
        assert!(verdict.keep && verdict.reason.contains("present effort 10"), "{}", verdict.reason);
        // A smaller index must not cost searches anything, at whatever effort.
        case.criterion = Criterion::Smaller;
        case.sizes = Sizes { old_bytes: 100, new_bytes: 50 };
        assert!(!compare(&case).keep);
    }

    #[test]
    fn an_objective_that_only_the_old_one_reaches_forbids_only_where_it_is_aimed_at() {
        let old = [point(10, 0.60, 500.0), point(20, 0.99, 700.0)];
        let new = [point(10, 0.70, 500.0), point(20, 0.85, 650.0)];
        let mut case = comparison(&old, &new, Criterion::RecallAgainstWork);
        case.present_effort = 10;
        let verdict = compare(&case);
        assert!(
            !verdict.keep && verdict.reason.contains("does not reach recall 0.950"),
            "{}",
            verdict.reason
        );
        case.effort_managed = false;
        assert!(compare(&case).keep);
    }

    #[test]
    fn with_another_number_of_lists_the_present_work_counts() {
        // One probe of 400 lists reads and finds less than one of 100: at the same effort neither is better, and at the
        // objective they are alike. For the blocks that are read now it finds more.
        let keep = |at_present_work: f64, blocks_ci: f64| {
            let exact = |effort, recall, blocks, blocks_ci| RecallPoint {
                recall_ci: 0.03,
                blocks_ci,
                ..point(effort, recall, blocks)
            };
            let old = [exact(1, 0.40, 80.0, 1.5), exact(40, 0.95, 2000.0, 1.5)];
            let new = [
                exact(1, 0.30, 20.0, blocks_ci),
                exact(4, at_present_work, 70.0, blocks_ci),
                exact(160, 0.95, 2000.0, blocks_ci),
            ];
            let mut case = comparison(&old, &new, Criterion::RecallAgainstWork);
            let kept = compare(&case);
            assert_eq!(kept.keep, kept.reason.contains("for the 80 blocks"), "{}", kept.reason);
            case.effort_managed = false;
            assert!(!compare(&case).keep, "the effort stays, and finds less");
            kept.keep
        };
        assert!(keep(0.55, 1.5));
        assert!(!keep(0.44, 1.5), "within the intervals of recall");
        assert!(!keep(0.55, 40.0), "within the intervals of work");
    }

    #[test]
    fn neither_reaches_the_objective() {
        let old = [point(10, 0.5, 100.0), point(1000, 0.80, 2000.0)];
        let new = [point(10, 0.7, 90.0), point(500, 0.85, 700.0), point(1000, 0.90, 1200.0)];
        let verdict = compare(&comparison(&old, &new, Criterion::RecallAgainstWork));
        assert_eq!(verdict.compared_recall, Some(0.80));
        assert_eq!(verdict.effort, None);
    }

    #[test]
    fn smaller_must_be_smaller_and_not_worse() {
        let (old, new) = (fresh(), fresh());
        let mut case = comparison(&old, &new, Criterion::Smaller);
        assert!(!compare(&case).keep, "the same size");
        case.sizes = Sizes { old_bytes: 100, new_bytes: 50 };
        assert!(compare(&case).keep);
        let worse = drifted();
        case.new = &worse;
        let verdict = compare(&case);
        assert!(!verdict.keep, "{}", verdict.reason);
    }

    #[test]
    fn a_valid_index_replaces_one_that_cannot_be_searched() {
        let new = fresh();
        let mut case = comparison(&[], &new, Criterion::Valid);
        case.old = None;
        let verdict = compare(&case);
        assert!(verdict.keep);
        assert!(verdict.new_at_objective.is_some());
        case.new = &[];
        assert!(!compare(&case).keep);
        let nothing_found = [point(1, 0.0, 10.0)];
        case.new = &nothing_found;
        assert!(!compare(&case).keep);
    }

    #[test]
    fn without_an_old_measurement_nothing_is_kept() {
        let new = fresh();
        let mut case = comparison(&[], &new, Criterion::RecallAgainstWork);
        case.old = None;
        assert!(!compare(&case).keep);
        let bad = [RecallPoint { recall: f64::NAN, ..point(1, 0.0, 1.0) }];
        case.old = Some(&bad);
        assert!(!compare(&case).keep);
    }

    #[test]
    fn the_schedule_doubles_and_bisection_ends_at_the_least_effort() {
        assert_eq!(effort_schedule(Method::Ivfflat, Some(100)), [1, 2, 4, 8, 16, 32, 64, 100]);
        assert_eq!(effort_schedule(Method::Ivfflat, Some(1)), [1]);
        assert_eq!(effort_schedule(Method::Hnsw, None), [10, 20, 40, 80, 160, 320, 640, 1000]);
        // The objective is met from effort 23 on.
        let measure = |effort: u32| point(effort, if effort >= 23 { 0.96 } else { 0.9 }, f64::from(effort));
        let mut points: Vec<RecallPoint> = [1, 2, 4, 8, 16, 32].into_iter().map(measure).collect();
        let mut probes = 0;
        while let Some(effort) = next_effort(&points, 0.95) {
            points.push(measure(effort));
            probes += 1;
        }
        let least = points.iter().filter(|p| p.recall >= 0.95).map(|p| p.effort).min();
        assert_eq!((least, probes), (Some(23), 4));
        assert_eq!(next_effort(&points[..3], 0.95), None);
    }

    /// A true curve: recall 1 − miss × share, where share falls as work grows.
    fn curve(miss: f64, power: f64, efforts: &[u32]) -> Vec<(u32, f64, f64)> {
        efforts
            .iter()
            .map(|&e| (e, 1.0 - miss * f64::from(e).powf(-power), 20.0 + 30.0 * f64::from(e)))
            .collect()
    }

    fn efforts() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::btree_set(1u32..200, 3..14).prop_map(|set| set.into_iter().collect())
    }

    proptest! {
        /// The same index measured twice, at efforts of any choice, each value anywhere in its interval: never kept.
        #[test]
        fn an_a_a_comparison_is_never_kept(
            miss in 0.05f64..0.9,
            power in 0.2f64..2.0,
            (old_efforts, new_efforts) in (efforts(), efforts()),
            recall_ci in 0.0f64..0.06,
            blocks_share in 0.0f64..0.1,
            noise in proptest::collection::vec(-1.0f64..=1.0, 64),
            objective in 0.5f64..1.0,
            present in 0usize..20,
            managed: bool,
        ) {
            let mut noise = noise.into_iter().cycle();
            let mut next = || noise.next().unwrap_or(0.0);
            let mut measure = |efforts: &[u32]| -> Vec<RecallPoint> {
                curve(miss, power, efforts).into_iter().map(|(effort, recall, blocks)| RecallPoint {
                    effort,
                    recall: (recall + next() * recall_ci).clamp(0.0, 1.0),
                    recall_ci,
                    blocks: blocks * (1.0 + next() * blocks_share),
                    // The interval must hold the true value.
                    blocks_ci: blocks * blocks_share,
                    queries: 64,
                }).collect()
            };
            let (old, new) = (measure(&old_efforts), measure(&new_efforts));
            let present_effort = old_efforts[present % old_efforts.len()];
            for criterion in [Criterion::RecallAgainstWork, Criterion::Smaller] {
                let verdict = compare(&Comparison {
                    old: Some(&old), new: &new, present_effort, effort_managed: managed, objective, criterion, sizes: SIZES,
                });
                prop_assert!(!verdict.keep, "{}", verdict.reason);
            }
        }

        /// Half the work at every effort, known well: always kept.
        #[test]
        fn half_the_work_is_always_kept(miss in 0.1f64..0.9, power in 0.3f64..2.0, objective in 0.5f64..0.99) {
            let efforts: Vec<u32> = (0..40).map(|i| 1 + i * 5).collect();
            let measure = |factor: f64| -> Vec<RecallPoint> {
                curve(miss, power, &efforts).into_iter().map(|(effort, recall, blocks)| RecallPoint {
                    effort, recall, recall_ci: 0.0, blocks: blocks * factor, blocks_ci: 0.0, queries: 64,
                }).collect()
            };
            let (old, new) = (measure(1.0), measure(0.5));
            let verdict = compare(&Comparison {
                old: Some(&old), new: &new, present_effort: 1, effort_managed: true, objective,
                criterion: Criterion::RecallAgainstWork, sizes: SIZES,
            });
            prop_assert!(verdict.keep, "{}", verdict.reason);
        }
    }
}
