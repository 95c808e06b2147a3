//! `evict_cold_data`: memory runs out while rows that hardly anybody asks for lie among those that everybody does.
//!
//! Symptom: memory near its limit. Evidence: the memory of the control group or machine, and rows that meet the collection's
//! condition for cold ones. Action: moves them to the collection's cold partition (still found through the parent), and
//! builds the indexes that became too large for what is left anew, beside the old ones. Never: it deletes a row, guesses
//! what is cold, or sends new rows to the cold partition. Undone by moving the same rows back; the former indexes are kept
//! until the action is verified.

use serde_json::json;

use super::{
    Limits, NotApplicable, Outcome, Parameter, Params, Remedy, asked_for, build_bytes, build_s,
    check_comparable, comparisons_won, replaced, replacing, sorts,
};
use crate::classify::{Problem, ProblemClass};
use crate::clean_size;
use crate::config::Config;
use crate::dose;
use crate::graph::NodeKey;
use crate::hnsw::M_DEFAULT;
use crate::placement::{MOVING, bytes_of, choosing_s, managed, moved, moving_s, place_ref, rows_allowed};
use crate::plan::{BuildOptions, Criterion, Move, Plan, Skipped, Step};
use crate::snapshot::{Index, Managed, Method, Oid, Partition, Place, Reading, Replacement, Snapshot};
use crate::verdict::SAVING_MIN;

/// As long a pause as the batch before it held the lock.
const PAUSE_RATIO: f64 = 1.0;
/// Share of an index's rows that must have gone for a new build to be worth it.
const REBUILD_SHARE: f64 = 0.1;
/// pgvector's `lists` where an index names none.
const LISTS_DEFAULT: u32 = 100;
/// Share of the buffers found in memory that may be lost to chance.
const HIT_RATIO_NOISE: f64 = 0.02;

/// See the module.
pub(super) struct EvictColdData;

/// The partitions with cold rows: first those of which so many as are allowed make an index smaller, then those of which more
/// would, last those that have no such index; of each kind the one with most cold rows first.
fn sources<'a>(
    managed: &'a Managed,
    snapshot: &'a Snapshot,
    allowed: u64,
) -> Result<Vec<(&'a Partition, &'a Place, f64)>, NotApplicable> {
    let mut sources = Vec::new();
    for place in managed.places.iter().filter(|place| !place.cold && !place.elsewhere) {
        let Some(partition) = snapshot.partitions.iter().find(|partition| partition.oid == place.oid) else {
            continue;
        };
        match &place.cold_rows {
            None => {
                return Err(NotApplicable::NoTarget {
                    detail: "no condition says which rows are cold; ruvector_collection_cold_when() sets one"
                        .to_owned(),
                });
            }
            Some(Reading::Unknown(why)) => {
                return Err(NotApplicable::MeasurementMissing {
                    detail: format!("cold rows of {}: {why}", partition.name),
                });
            }
            Some(Reading::Known(rows)) if *rows >= 1.0 => sources.push((partition, place, *rows)),
            Some(Reading::Known(_)) => {}
        }
    }
    let kind = |of: &Partition, cold: f64| match needed(of, cold, snapshot) {
        Some(rows) if rows <= allowed as f64 + 1.0 => 0,
        Some(_) => 1,
        None => 2,
    };
    sources.sort_by(|a, b| {
        kind(a.0, a.2).cmp(&kind(b.0, b.2)).then(b.2.total_cmp(&a.2)).then(a.1.oid.cmp(&b.1.oid))
    });
    Ok(sources)
}

/// Rows that must leave a partition before an index of it becomes smaller; None where all of its cold ones are too few, or it
/// has none that could be built anew.
fn needed(partition: &Partition, cold: f64, snapshot: &Snapshot) -> Option<f64> {
    let own = snapshot.indexes.iter().filter(|index| index.partition == partition.oid);
    let of = |index: &Index| {
        let rows = *index.rows.known()?;
        // In steps: pages are not shared between the lists of an ivfflat index, so that small ones do not shrink.
        let doses = (10..=100).map(|percent| f64::from(percent) / 100.0 * rows);
        doses.take_while(|gone| *gone <= cold + 1.0).find(|gone| worth_building(index, *gone).is_ok())
    };
    own.filter_map(of).reduce(f64::min)
}

impl Remedy for EvictColdData {
    fn name(&self) -> &'static str {
        "evict_cold_data"
    }

    fn treats(&self, problem: &Problem) -> bool {
        matches!(problem.class, ProblemClass::MemoryPressure { .. })
    }

    fn impact(&self) -> f64 {
        0.4
    }

    fn reversible(&self) -> bool {
        true
    }

    fn preventive(&self) -> bool {
        true
    }

    fn parameters(&self) -> &'static [Parameter] {
        MOVING
    }

    fn plan(&self, problem: &Problem, snapshot: &Snapshot, limits: &Limits) -> Result<Plan, NotApplicable> {
        let ProblemClass::MemoryPressure { largest_consumers, .. } = &problem.class else {
            return Err(NotApplicable::NotTreated {
                class: problem.class.as_str().to_owned(),
                detail: "it concerns memory".to_owned(),
            });
        };
        let managed = managed(snapshot, &limits.config)?;
        let cold = managed.places.iter().find(|place| place.cold && !place.elsewhere).and_then(|place| {
            Some(place_ref(snapshot.partitions.iter().find(|partition| partition.oid == place.oid)?, place))
        });
        let Some(cold) = cold else {
            return Err(NotApplicable::NoTarget {
                detail: "the collection has no cold partition".to_owned(),
            });
        };
        let allowed = rows_allowed(snapshot, limits);
        let (mut moves, mut left) = (Vec::new(), allowed);
        let (mut rebuilt, mut skipped): (Vec<&Index>, Vec<Skipped>) = (Vec::new(), Vec::new());
        // One partition after the other: indexes become smaller only where many rows leave.
        let sources = sources(managed, snapshot, allowed)?;
        for &(partition, place, rows) in &sources {
            let rows = (rows as u64).min(left);
            if rows == 0 {
                break;
            }
            left -= rows;
            moves.push(Move { from: place_ref(partition, place), to: cold.clone(), rows, cold: true });
            for index in snapshot.indexes.iter().filter(|index| index.partition == partition.oid) {
                match worth_building(index, rows as f64) {
                    Ok(()) => rebuilt.push(index),
                    Err(why) => skipped.push(Skipped { target: index.name.clone(), reason: why }),
                }
            }
        }
        let rows: u64 = moves.iter().map(|one| one.rows).sum();
        if rows == 0 {
            return Err(NotApplicable::NothingToDo { detail: "no row is cold".to_owned() });
        }
        if rebuilt.is_empty() {
            if let Some(enough) = enough(&sources, snapshot) {
                let Config { max_moves, max_move_share, .. } = limits.config;
                return Err(NotApplicable::DoseTooSmall {
                    detail: format!(
                        "{allowed} rows may be moved at once (max_moves {max_moves}, max_move_share {max_move_share}), after \
                         which no index would be smaller when built anew. {}",
                        dose::raise(enough, snapshot, &limits.config)
                    ),
                });
            }
            let why: Vec<String> =
                skipped.iter().map(|one| format!("{}: {}", one.target, one.reason)).collect();
            return Err(NotApplicable::NothingToDo {
                detail: format!("no index would become smaller ({})", why.join("; ")),
            });
        }
        let builds = rebuilt.iter().map(|index| build_bytes(index)).sum::<Result<u64, _>>()?;
        let disk_bytes = bytes_of(snapshot, &moves).saturating_add(builds);
        limits.check_builds(disk_bytes, rebuilt.iter().any(|index| sorts(index.method)))?;
        let estimated_s = choosing_s(snapshot, &moves)
            + moving_s(&moves, PAUSE_RATIO)
            + rebuilt.iter().map(|index| build_s(index, BuildOptions::default())).sum::<f64>();
        limits.check_duration(estimated_s)?;
        let mut steps = vec![Step::MoveRows { moves, lambda: None, flat: 0, pause_ratio: PAUSE_RATIO }];
        let mut drops = Vec::new();
        for index in &rebuilt {
            let fresh = replacing(index, BuildOptions::default(), Criterion::Smaller, limits);
            steps.extend(fresh.steps);
            drops.extend(fresh.afterwards);
        }
        steps.extend(drops);
        Ok(Plan {
            strategy: self.name().to_owned(),
            impact: self.impact(),
            reversible: true,
            reason: format!(
                "Memory runs out, and {rows} rows that are cold lie among the others; in {} they are out of the way.",
                cold.name
            ),
            estimated_s,
            timeout_s: limits.timeout_s(estimated_s),
            disk_bytes,
            steps,
            skipped,
            params: json!({ "rows": rows, "rows_allowed": allowed, "largest_consumers": largest_consumers }),
        })
    }

    fn manual_problem(
        &self,
        snapshot: &Snapshot,
        config: &Config,
        _params: &Params,
    ) -> Result<Problem, NotApplicable> {
        let memory = match &snapshot.memory {
            Some(Reading::Known(memory)) => memory,
            Some(Reading::Unknown(why)) => {
                return Err(NotApplicable::MeasurementMissing { detail: format!("memory: {why}") });
            }
            None => {
                return Err(NotApplicable::MeasurementMissing {
                    detail: "memory: nobody looks at it here".to_owned(),
                });
            }
        };
        let nodes = vec![NodeKey::Memory];
        Ok(Problem {
            class: ProblemClass::MemoryPressure {
                current_usage_pct: memory.used_pct,
                largest_consumers: memory.consumers.clone(),
            },
            component: asked_for(snapshot, nodes, config)?,
            evidence: vec!["asked for by hand".to_owned()],
        })
    }

    fn achieved(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        if moved(outcome.entries) == 0 {
            return Err("no row was moved for good".to_owned());
        }
        let leaves: Vec<Oid> = sources_of(outcome.plan);
        replaced(outcome)?;
        comparisons_won(outcome)?;
        let bytes = |snapshot: &Snapshot| -> u64 {
            let hot = snapshot.indexes.iter().filter(|index| leaves.contains(&index.partition));
            hot.filter_map(|index| index.bytes.known()).sum()
        };
        let (before, after) = (bytes(outcome.before), bytes(outcome.after));
        if after >= before {
            return Err(format!("the indexes of the rows that are left take {after} bytes, {before} before"));
        }
        match (hit_ratio(outcome.before), hit_ratio(outcome.after)) {
            (Some(before), Some(after)) if after < before - HIT_RATIO_NOISE => Err(format!(
                "{:.1} % of the buffers were found in memory, {:.1} % before",
                100.0 * after,
                100.0 * before
            )),
            _ => Ok(()),
        }
    }
}

/// The partitions that rows leave, of a plan or of those of its parts that concern an index.
fn sources_of(plan: &Plan) -> Vec<Oid> {
    let mut found: Vec<Oid> = plan.steps.iter().filter_map(|step| Some(step.target()?.table)).collect();
    for step in &plan.steps {
        if let Step::MoveRows { moves, .. } = step {
            found.extend(moves.iter().map(|one| one.from.oid));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Cold rows that would have to leave before the first index becomes smaller; None where all of them are too few.
fn enough(sources: &[(&Partition, &Place, f64)], snapshot: &Snapshot) -> Option<u64> {
    let mut before = 0.0;
    for (partition, _, cold) in sources {
        if let Some(rows) = needed(partition, *cold, snapshot) {
            // Numbers of rows are far below 2^53.
            return Some((before + rows).ceil() as u64);
        }
        before += cold;
    }
    None
}

/// Whether a new build of the index would be clearly smaller once so many rows are gone.
fn worth_building(index: &Index, gone: f64) -> Result<(), String> {
    let rows = match &index.rows {
        Reading::Known(rows) => *rows,
        // Not known is not none: of no rows any share would be all.
        Reading::Unknown(why) => return Err(format!("its rows are not known: {why}")),
    };
    if index.building || !index.valid {
        return Err("it cannot be searched now".to_owned());
    }
    if index.replacement != Replacement::BlueGreen {
        return Err("it is attached to a partitioned index".to_owned());
    }
    // Shares are rounded down to whole rows where moves are planned: the row that is lost by that does not decide.
    if gone + 1.0 < REBUILD_SHARE * rows {
        return Err(format!("{gone:.0} of its {rows:.0} rows would leave"));
    }
    if let Some((after, now)) = bytes_after(index, gone)
        && after > (1.0 - SAVING_MIN) * now
    {
        return Err(format!("built anew it would hardly be smaller: {after:.0} of {now:.0} bytes"));
    }
    check_comparable(index).map_err(|why| why.to_string())
}

/// Bytes of a new build once so many rows are gone, and of the index now; None where a reading is missing.
fn bytes_after(index: &Index, gone: f64) -> Option<(f64, f64)> {
    let (rows, tuple) = (*index.rows.known()?, *index.tuple_bytes.known()?);
    // An index tuple has 8 bytes before its value, which centres have too.
    let value = (tuple - 8.0).max(0.0) as u64;
    let model = |rows: f64| match index.method {
        Method::Ivfflat => {
            Some(clean_size::ivfflat_bytes(rows, tuple, index.lists.unwrap_or(LISTS_DEFAULT), value) as f64)
        }
        Method::Hnsw => {
            Some(clean_size::hnsw_bytes(rows, value, index.density.map_or(M_DEFAULT, |own| own.m)) as f64)
        }
    };
    let (clean, now) = (*index.clean_bytes.known()? as f64, *index.bytes.known()? as f64);
    // A clean build is reckoned with dead rows that autovacuum has still to come for, which a new one may leave out.
    Some((clean.min(now) * model((rows - gone).max(0.0))? / model(rows)?.max(1.0), now))
}

/// Share of the buffers of this server's partitions that were found in shared buffers.
fn hit_ratio(snapshot: &Snapshot) -> Option<f64> {
    let (mut hits, mut all) = (0.0, 0.0);
    let own = snapshot.partitions.iter().filter(|partition| partition.server.is_empty());
    for load in own.filter_map(|partition| partition.load.as_ref()?.known()) {
        if let Some(ratio) = load.hit_ratio {
            hits += ratio * load.blocks;
            all += load.blocks;
        }
    }
    (all > 0.0).then(|| hits / all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::snapshot;

    #[test]
    fn an_index_whose_rows_are_not_known_is_not_built_anew() {
        let mut index = snapshot(1, 8, 0).indexes.remove(0);
        assert_eq!(worth_building(&index, 12_000.0), Ok(()));
        index.rows = Reading::unknown("it was locked");
        assert!(worth_building(&index, 12_000.0).unwrap_err().contains("it was locked"));
    }

    #[test]
    fn a_row_that_was_lost_by_rounding_does_not_decide() {
        // Of two equal partitions a twentieth of all rows is a tenth of one.
        let mut index = snapshot(1, 8, 0).indexes.remove(0);
        (index.rows, index.tuple_bytes) = (Reading::Known(22_718.0), Reading::unknown("of no size"));
        assert_eq!(worth_building(&index, 2_271.0), Ok(()));
        assert!(worth_building(&index, 2_270.0).is_err());
    }

    #[test]
    fn a_dose_between_two_twentieths_counts() {
        let mut small = snapshot(1, 8, 0);
        let rows = 300.0;
        let index = &mut small.indexes[0];
        (index.method, index.lists, index.rows) = (Method::Ivfflat, Some(100), Reading::Known(rows));
        index.tuple_bytes = Reading::Known(1552.0);
        index.clean_bytes = Reading::Known(clean_size::ivfflat_bytes(rows, 1552.0, 100, 1544));
        index.bytes = index.clean_bytes.clone();
        // Three rows a list: a tenth less is hardly smaller, eleven hundredths less is.
        assert!(worth_building(index, 0.1 * rows).is_err());
        let enough = needed(&small.partitions[0], 0.12 * rows, &small).unwrap();
        assert!((0.1 * rows..0.12 * rows).contains(&enough), "{enough}");
    }

    /// A list has a page for two rows and for one.
    #[test]
    fn lists_that_share_no_pages_do_not_become_smaller_by_a_tenth_of_their_rows() {
        let mut index = snapshot(1, 8, 0).indexes.remove(0);
        (index.method, index.lists) = (Method::Ivfflat, Some(100));
        let with = |index: &mut Index, rows: f64| {
            index.tuple_bytes = Reading::Known(1552.0);
            index.rows = Reading::Known(rows);
            index.clean_bytes = Reading::Known(clean_size::ivfflat_bytes(rows, 1552.0, 100, 1544));
            index.bytes = index.clean_bytes.clone();
        };
        with(&mut index, 200.0);
        assert!(worth_building(&index, 20.0).unwrap_err().contains("hardly be smaller"));
        // As many lists as pgvector makes where none are named.
        index.lists = None;
        assert!(worth_building(&index, 20.0).unwrap_err().contains("hardly be smaller"));
        with(&mut index, 40_000.0);
        assert_eq!(worth_building(&index, 4_000.0), Ok(()));
        // What autovacuum has still to come for does not count against it.
        index.clean_bytes = Reading::Known(index.bytes.known().unwrap() * 5 / 4);
        assert_eq!(worth_building(&index, 4_000.0), Ok(()));
    }
}
