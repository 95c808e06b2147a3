//! Where rows of a managed collection should lie: a simulated placement, before the first of them is moved.
//!
//! Load is taken to lie evenly on a partition's rows: a row that moves takes its share along. That is why λ is measured
//! again after each move instead of trusted.

use crate::classify::{Problem, ProblemClass};
use crate::config::Config;
use crate::graph::NodeKey;
use crate::limits::{Limits, NotApplicable};
use crate::load;
use crate::moves::reading_s;
use crate::params::{Parameter, ParameterKind, Params};
use crate::plan::{Move, PlaceRef, Plan, Step};
use crate::recovery::JournalEntry;
use crate::remedies::asked_for;
use crate::snapshot::{Managed, Oid, Partition, Place, Reading, Snapshot};

/// Moves of one plan at most: after each, λ is measured over a window of seconds.
const MOVES_MAX: usize = 10;
/// Rows of one move at least: fewer do not show in the load of a partition.
const MOVE_ROWS_MIN: u64 = 50;
/// Excess of a partition's load over the mean, as a share of the mean, that is left alone.
const EVEN_ENOUGH: f64 = 0.1;

/// A partition as the simulated placement sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// The partition.
    pub place: PlaceRef,
    /// Live rows.
    pub rows: f64,
    /// Load, in whatever unit all of them have.
    pub load: f64,
    /// Rows may come here.
    pub takes: bool,
    /// Rows may leave here.
    pub gives: bool,
}

/// The moves that bring the load of the partitions that give down to the mean of all, as far as so many rows do: from the
/// most loaded to the least loaded, none of which rises above the mean. Empty when nothing is gained.
pub fn place(sites: &[Site], rows_max: u64) -> Vec<Move> {
    let usable =
        |site: &&Site| site.load.is_finite() && site.load >= 0.0 && site.rows.is_finite() && site.rows >= 0.0;
    let sites: Vec<&Site> = sites.iter().filter(usable).collect();
    if sites.len() < 2 {
        return vec![];
    }
    let mean = sites.iter().map(|site| site.load).sum::<f64>() / sites.len() as f64;
    let mut loads: Vec<f64> = sites.iter().map(|site| site.load).collect();
    let mut left = rows_max as f64;
    let mut flows: Vec<(usize, usize, f64)> = Vec::new();
    let mut sources: Vec<usize> =
        (0..sites.len()).filter(|&at| sites[at].gives && sites[at].rows >= 1.0).collect();
    sources.sort_by(|&a, &b| sites[b].load.total_cmp(&sites[a].load).then(a.cmp(&b)));
    for from in sources {
        let load_of_a_row = sites[from].load / sites[from].rows;
        while loads[from] - mean > EVEN_ENOUGH * mean && left >= 1.0 && load_of_a_row > 0.0 {
            let takers = (0..sites.len()).filter(|&at| sites[at].takes && at != from);
            let Some(to) = takers.min_by(|&a, &b| loads[a].total_cmp(&loads[b]).then(a.cmp(&b))) else {
                break;
            };
            let load = (loads[from] - mean).min(mean - loads[to]);
            // Several takers that are equally idle share what there is.
            let fair = (loads[from] - mean) / sites.len() as f64;
            let load = load.min(fair.max(load_of_a_row * MOVE_ROWS_MIN as f64));
            let rows = (load / load_of_a_row).min(left).floor();
            if rows < 1.0 {
                break;
            }
            loads[from] -= rows * load_of_a_row;
            loads[to] += rows * load_of_a_row;
            left -= rows;
            match flows.iter_mut().find(|flow| (flow.0, flow.1) == (from, to)) {
                Some(flow) => flow.2 += rows,
                None => flows.push((from, to, rows)),
            }
        }
    }
    split(
        &flows
            .iter()
            .map(|&(from, to, rows)| (&sites[from].place, &sites[to].place, rows as u64))
            .collect::<Vec<_>>(),
    )
}

/// Large flows are several moves, so that λ has its say in between.
fn split(flows: &[(&PlaceRef, &PlaceRef, u64)]) -> Vec<Move> {
    let whole: u64 = flows.iter().map(|flow| flow.2).sum();
    let parts = MOVES_MAX.saturating_sub(flows.len()).max(1) as u64;
    let step = whole.div_ceil(parts).max(MOVE_ROWS_MIN);
    let mut moves = Vec::new();
    for &(from, to, rows) in flows {
        let mut left = rows;
        while left > 0 {
            let now = left.min(step);
            moves.push(Move { from: from.clone(), to: to.clone(), rows: now, cold: false });
            left -= now;
        }
    }
    moves
}

/// The parameters of what moves rows.
pub(crate) const MOVING: &[Parameter] = &[
    Parameter {
        name: "max_moves",
        kind: ParameterKind::Int { min: 1, max: 100_000_000 },
        doc: "Rows to move at most, within the setting of the same name.",
    },
    Parameter {
        name: PARTITIONS,
        kind: ParameterKind::Names("partition names"),
        doc: "Partitions to take rows from, with their schema; otherwise those of the problem.",
    },
    Parameter {
        name: SERVERS,
        kind: ParameterKind::Names("server names"),
        doc: "Other servers whose partitions take the rows; otherwise partitions of this one do, if it has any that are not hot.",
    },
];
const PARTITIONS: &str = "partitions";
const SERVERS: &str = "servers";

/// The routing, where rows are ours to move.
pub(crate) fn managed<'a>(snapshot: &'a Snapshot, config: &Config) -> Result<&'a Managed, NotApplicable> {
    let not_ours = |detail: String| Err(NotApplicable::RowsNotOurs { detail });
    let Some(managed) = &snapshot.managed else {
        return not_ours(format!(
            "{} is no managed collection, so that moving a row would change what its owner wrote; \
             ruvector_collection_adopt() makes one of it",
            snapshot.collection
        ));
    };
    match (&managed.fixed, &managed.noticed) {
        (Some(fixed), _) => not_ours(fixed.clone()),
        (None, Some(noticed)) if !config.move_despite_triggers => {
            not_ours(format!("{noticed}; set move_despite_triggers if that does no harm"))
        }
        _ => Ok(managed),
    }
}

/// A partition with its place.
pub(crate) fn place_ref(partition: &Partition, place: &Place) -> PlaceRef {
    PlaceRef { oid: place.oid, number: place.number, name: partition.name.clone() }
}

/// Rows that one action may move now.
pub(crate) fn rows_allowed(snapshot: &Snapshot, limits: &Limits) -> u64 {
    let rows = snapshot.partitions.iter().filter_map(|partition| partition.live_rows.known()).sum();
    let Config { max_moves, max_move_share, .. } = limits.config;
    crate::moves::rows_max(max_moves, max_move_share, rows, limits.params.int("max_moves"))
}

/// Share by which a plan may exceed what may be moved by now: counts of rows are estimates, and rows come and go while a
/// human thinks it over.
const GROWN: f64 = 0.1;

/// Whether a plan that was made some time ago moves more rows than may be moved of what is there now.
pub(crate) fn moves_too_many(plan: &Plan, snapshot: &Snapshot, config: &Config) -> bool {
    let planned: u64 = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::MoveRows { moves, .. } => moves.iter().map(|one| one.rows).sum(),
            _ => 0,
        })
        .sum();
    let rows: Option<f64> = snapshot.partitions.iter().map(|partition| partition.live_rows.known()).sum();
    // What is not known for a moment has not become fewer.
    let Some(rows) = rows else { return false };
    let allowed = crate::moves::rows_max(config.max_moves, config.max_move_share, rows, None);
    planned as f64 > (1.0 + GROWN) * allowed as f64
}

/// Disk that so many rows need where they go while they are not yet cleaned up where they were.
pub(crate) fn bytes_of(snapshot: &Snapshot, moves: &[Move]) -> u64 {
    let of = |one: &Move| {
        let partition = snapshot.partitions.iter().find(|partition| partition.oid == one.from.oid)?;
        let indexes = snapshot.indexes.iter().filter(|index| index.partition == one.from.oid);
        let bytes = *partition.bytes.known()? + indexes.filter_map(|index| index.bytes.known()).sum::<u64>();
        let rows = partition.live_rows.known()?.max(1.0);
        Some(one.rows as f64 * bytes as f64 / rows)
    };
    moves.iter().filter_map(of).sum::<f64>() as u64
}

/// Rows that a slow server moves in a second: five milliseconds each for the indexes where they go, and a pause as long.
const ROWS_PER_S: f64 = 100.0;
/// Measuring λ after a move, seconds.
const LOOK_S: f64 = 5.0;
/// Waiting for the first lock, seconds.
const BEGIN_S: f64 = 10.0;

/// Pessimistic seconds for these moves.
pub(crate) fn moving_s(moves: &[Move], pause_ratio: f64) -> f64 {
    let rows: u64 = moves.iter().map(|one| one.rows).sum();
    BEGIN_S + rows as f64 / ROWS_PER_S * (1.0 + pause_ratio) / 2.0 + LOOK_S * moves.len() as f64
}

/// Readings of a partition for one move of whole tenants: which there are, their rows, and what has come meanwhile.
const TENANT_READINGS: f64 = 3.0;

/// Pessimistic seconds in which the rows to be moved are chosen: each move reads the partition that gives them, or a sample of its
/// blocks where any rows will do.
pub(crate) fn choosing_s(snapshot: &Snapshot, moves: &[Move]) -> f64 {
    let by_tenant = snapshot.managed.as_ref().is_some_and(|managed| managed.by_tenant);
    let of = |one: &Move| {
        let partition = snapshot.partitions.iter().find(|partition| partition.oid == one.from.oid)?;
        let rows = partition.live_rows.known().copied().unwrap_or(0.0);
        let readings = match (one.cold, by_tenant) {
            (true, _) => 1.0,
            (false, true) => TENANT_READINGS,
            (false, false) => (1.2 * one.rows as f64 / rows.max(1.0)).min(1.0),
        };
        Some(readings * reading_s(*partition.bytes.known()?))
    };
    moves.iter().filter_map(of).sum()
}

/// The partitions of the problem that are hot, as the simulated placement sees all of the collection's.
pub(crate) fn sites(
    problem: &Problem,
    snapshot: &Snapshot,
    limits: &Limits,
) -> Result<Vec<Site>, NotApplicable> {
    let ProblemClass::HotspotCongestion { partition_ids, .. } = &problem.class else {
        return Err(NotApplicable::NotTreated {
            class: problem.class.as_str().to_owned(),
            detail: "it concerns no hot partition".to_owned(),
        });
    };
    let managed = managed(snapshot, &limits.config)?;
    let named = limits.params.names(PARTITIONS);
    let gives = |partition: &Partition| {
        partition_ids.contains(&partition.oid)
            && named.as_ref().is_none_or(|names| names.contains(&partition.name.as_str()))
    };
    let servers = limits.params.names(SERVERS);
    // Another server takes rows where one is asked for, or where this one as a whole is what is hot.
    let has_room = managed
        .places
        .iter()
        .any(|place| !place.cold && !place.elsewhere && !partition_ids.contains(&place.oid));
    let mut sites = Vec::new();
    let mut refused = Vec::new();
    for place in managed.places.iter().filter(|place| !place.cold) {
        let Some(partition) = snapshot.partitions.iter().find(|partition| partition.oid == place.oid) else {
            continue;
        };
        if place.elsewhere {
            let wanted = match &servers {
                Some(names) => names.contains(&partition.server.as_str()),
                None => !has_room,
            };
            if !wanted {
                continue;
            }
            match (&place.refuses, &partition.live_rows, &partition.load) {
                (None, Reading::Known(rows), Some(Reading::Known(load))) => sites.push(Site {
                    place: place_ref(partition, place),
                    rows: *rows,
                    load: load.blocks,
                    takes: true,
                    gives: false,
                }),
                (Some(why), ..)
                | (None, Reading::Unknown(why), _)
                | (None, _, Some(Reading::Unknown(why))) => {
                    refused.push(format!("{} on server {}: {why}", partition.name, partition.server));
                }
                (None, _, None) => refused.push(format!(
                    "{} on server {}: its load is not known yet",
                    partition.name, partition.server
                )),
            }
            continue;
        }
        let missing = |what: &str, why: &str| NotApplicable::MeasurementMissing {
            detail: format!("{what} of {}: {why}", partition.name),
        };
        let rows = match &partition.live_rows {
            Reading::Known(rows) => *rows,
            Reading::Unknown(why) => return Err(missing("rows", why)),
        };
        let load = match &partition.load {
            Some(Reading::Known(load)) => load.blocks,
            Some(Reading::Unknown(why)) => return Err(missing("load", why)),
            None => return Err(missing("load", "nobody has looked yet")),
        };
        let gives = gives(partition);
        sites.push(Site {
            place: place_ref(partition, place),
            rows,
            load,
            takes: !gives && servers.is_none(),
            gives,
        });
    }
    if !sites.iter().any(|site| site.gives) {
        return Err(NotApplicable::NoTarget { detail: "no partition that may give rows is hot".to_owned() });
    }
    if !sites.iter().any(|site| site.takes) {
        let why = if refused.is_empty() { String::new() } else { format!(" ({})", refused.join("; ")) };
        return Err(NotApplicable::NoTarget {
            detail: format!("there is no other partition to take rows{why}"),
        });
    }
    Ok(sites)
}

/// The hottest partition (of those named) as a problem, for a request by hand.
pub(crate) fn manual_hotspot(
    snapshot: &Snapshot,
    config: &Config,
    params: &Params,
) -> Result<Problem, NotApplicable> {
    let ratios = load::ratios(snapshot, config);
    let ratio = |oid: Oid| ratios.get(&oid).and_then(|ratio| ratio.clone().ok());
    let named = params.names(PARTITIONS);
    let hottest = snapshot
        .partitions
        .iter()
        .filter(|partition| named.as_ref().is_none_or(|names| names.contains(&partition.name.as_str())))
        .filter(|partition| partition.server.is_empty())
        // One that is alone here is held against those of other servers.
        .filter_map(|partition| {
            let others = || load::group_ratio(snapshot, &[partition.oid], config);
            Some((partition, ratio(partition.oid).or_else(others)?))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.oid.cmp(&a.0.oid)));
    let Some((partition, load_ratio)) = hottest else {
        return Err(NotApplicable::NoTarget { detail: "no partition whose load is known".to_owned() });
    };
    let nodes = vec![NodeKey::Partition { oid: partition.oid }];
    Ok(Problem {
        class: ProblemClass::HotspotCongestion {
            partition_ids: vec![partition.oid],
            partitions: vec![partition.name.clone()],
            load_ratio,
        },
        component: asked_for(snapshot, nodes, config)?,
        evidence: vec!["asked for by hand".to_owned()],
    })
}

/// Rows that the moves of a finished step took along, by the journal.
pub(crate) fn moved(entries: &[JournalEntry]) -> u64 {
    let noted = entries.iter().filter(|entry| matches!(entry.step, Step::MoveRows { .. }));
    noted.filter_map(|entry| entry.details.get("moved")?.as_u64()).next_back().unwrap_or(0)
}

#[cfg(test)]
mod tests;
