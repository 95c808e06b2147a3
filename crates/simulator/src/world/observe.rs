//! The collectors: noisy readings taken in turns, the snapshot made of them, and the truth that no collector sees.
//!
//! When a measurement is due and what a snapshot holds follows the extension's `collect` line by line.

use healing::config::Config;
use healing::integrity::{Assessment, assess};
use healing::snapshot::{
    CentroidGroup, Index as Seen, IvfHealth, Managed, Method, Partition, Place, Reading, RecallPoint,
    Replacement, Snapshot, UnixMs,
};
use healing::{health, plan::IndexRef};

use super::index::{Index, Taken};
use super::{Collection, TRIAL_PREFIX, Table, World, far};
use crate::random::Random;

/// Share of a table's rows that must have changed for a measurement to be repeated before its time.
const CHANGED_SHARE: f64 = 0.1;
/// Neighbours of one query that are as good as independent draws.
const INDEPENDENT: f64 = 3.0;
/// Relative standard error of blocks a query on a panel of 64.
const BLOCKS_ERROR: f64 = 0.02;
/// Longest list ÷ mean of a fresh build of real rows, which lie in clumps.
const SKEW_FRESH: f64 = 2.0;
/// 99 % bound of that figure by sampling noise alone.
const SKEW_NOISE: f64 = 1.6;
/// Centroid groups of an index.
const GROUPS: u32 = 6;
/// How a reason for an unknown λ begins where the core erred; others are what they say.
pub const ERRED: &str = "not assessed: ";
/// In one of so many cases the shortcut of [`judge`] is held against the core itself.
const AUDIT: u64 = 256;

/// The slow measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Recall and work of a panel of queries.
    Panel,
    /// The lists of an ivfflat index.
    Structure,
}

impl Kind {
    fn last(self, index: &Index) -> Option<Last> {
        fn of<T>(taken: &Taken<T>) -> Last {
            let known = taken.reading.known().is_some();
            Last { at: taken.measured_at, changes: taken.changes, epoch: taken.epoch, known }
        }
        match self {
            Kind::Panel => index.panel.as_ref().map(of),
            Kind::Structure => index.structure.as_ref().map(of),
        }
    }

    /// When it was last taken; the distant past when never.
    pub fn taken_at(self, index: &Index) -> UnixMs {
        self.last(index).map_or(UnixMs::MIN, |last| last.at)
    }

    /// Whether it is due at this moment of the wall clock, the statistics having been reset so often. `as_built`: as the
    /// extension has it, where a structure that could not be read, or one that was read before the statistics were
    /// reset, waits until the counter is a tenth of the rows above what it was.
    pub fn is_due(
        self,
        table: &Table,
        index: &Index,
        config: &Config,
        now: (UnixMs, u32),
        as_built: bool,
    ) -> bool {
        let interval_s = match self {
            Kind::Panel => config.panel_interval_seconds,
            Kind::Structure if index.method == Method::Ivfflat => config.structure_interval_seconds,
            Kind::Structure => return false,
        };
        let (wall, epoch) = now;
        let Some(last) = self.last(index) else { return true };
        let due = wall - last.at >= interval_s * 1000;
        // Row counts are far below 2^53.
        let changed = (table.changes - last.changes) as f64 > table.rows.max(1.0) * CHANGED_SHARE;
        match self {
            Kind::Panel => due || changed,
            Kind::Structure => due && (changed || !as_built && (!last.known || last.epoch != epoch)),
        }
    }
}

/// What is kept of the last measurement of a kind.
struct Last {
    at: UnixMs,
    changes: i64,
    epoch: u32,
    known: bool,
}

/// Takes a panel of so many queries at an effort.
pub fn panel(index: &Index, effort: u32, queries: u32, load: f64, noise: &mut Random) -> RecallPoint {
    let (recall, blocks) = (index.recall(effort), index.blocks(effort));
    let queries_f = f64::from(queries.max(1));
    let deviation =
        ((recall * (1.0 - recall)).max(0.0004) / (queries_f * INDEPENDENT)).sqrt() * (1.0 + 0.3 * load);
    let blocks_deviation = BLOCKS_ERROR * (64.0 / queries_f).sqrt() * blocks * (1.0 + 0.3 * load);
    RecallPoint {
        effort,
        recall: (recall + deviation * noise.normal()).clamp(0.0, 1.0),
        recall_ci: 1.96 * deviation,
        blocks: (blocks + blocks_deviation * noise.normal()).max(1.0),
        blocks_ci: 1.96 * blocks_deviation,
        queries,
    }
}

fn structure(index: &Index, noise: Option<&mut Random>) -> IvfHealth {
    let lists = index.lists.unwrap_or(100);
    let (work, distance, skew) = noise.map_or((1.0, 1.0, 1.0), |noise| {
        (1.0 + 0.015 * noise.normal(), 1.0 + 0.005 * noise.normal(), 1.0 + 0.02 * noise.normal())
    });
    let longest = SKEW_FRESH * (1.0 + index.shape.skew) * skew;
    let groups = GROUPS.min(lists);
    IvfHealth {
        lists,
        sampled_rows: 4000,
        skew_factor: longest,
        skew_noise: SKEW_NOISE,
        // Its own noise is in the factor's: what counts is their quotient.
        skew_fresh: Reading::Known(SKEW_FRESH),
        distance_ratio: Reading::Known(index.distance_ratio() * distance),
        work_ratio: Reading::Known(index.work_ratio() * work),
        groups: (0..groups)
            .map(|group| CentroidGroup {
                lists: (group..lists).step_by(groups as usize).collect(),
                skew_factor: if group == 0 { longest } else { SKEW_FRESH * 0.9 },
                nearest: (1..groups.min(7)).map(|step| (group + step) % groups).collect(),
            })
            .collect(),
    }
}

/// Takes a measurement and keeps it. None: it gave no reading at all and nothing is kept (the statement failed).
pub fn take(world: &mut World, collection: usize, at: (usize, usize), kind: Kind) -> Option<()> {
    let (wall, real, epoch) = (world.wall(), world.now, world.epoch);
    let server_effort = world.server_effort;
    let World { collections, weather, noise, work, .. } = world;
    let collection = &mut collections[collection];
    let queries = collection.config.panel_queries as u32;
    let table = &mut collection.tables[at.0];
    let changes = table.changes;
    let index = &mut table.indexes[at.1];
    let failed = noise.chance(weather.unread);
    if failed && noise.chance(0.7) {
        return None;
    }
    match kind {
        Kind::Panel => {
            let point = panel(index, index.effort(server_effort), queries, weather.load, noise);
            work.panel_blocks += point.blocks * f64::from(queries);
            let reading = if failed { Reading::unknown("cancelled") } else { Reading::Known(point) };
            index.panel = Some(Taken { reading, measured_at: wall, real, changes, epoch });
        }
        Kind::Structure => {
            let reading = if failed {
                Reading::unknown("too few rows")
            } else {
                Reading::Known(structure(index, Some(noise)))
            };
            index.structure = Some(Taken { reading, measured_at: wall, real, changes, epoch });
        }
    }
    collection.version += 1;
    Some(())
}

/// What the collectors see of a collection now.
pub fn snapshot(world: &World, collection: usize) -> Snapshot {
    picture(world, collection, false)
}

/// The same without noise and at once: what is true.
pub fn truth(world: &World, collection: usize) -> Snapshot {
    picture(world, collection, true)
}

fn picture(world: &World, number: usize, exact: bool) -> Snapshot {
    let collection = &world.collections[number];
    let out_of_reach = |table: &Table| table.far && !exact && world.far.gone_since.is_some();
    Snapshot {
        collection_id: number as i32,
        collection: collection.name.clone(),
        taken_at: world.wall(),
        in_recovery: world.weather.in_recovery,
        partitions: collection
            .tables
            .iter()
            .map(|table| Partition {
                oid: table.oid,
                name: format!("public.{}", table.name),
                live_rows: if out_of_reach(table) {
                    Reading::unknown("its server does not answer")
                } else {
                    Reading::Known(table.rows)
                },
                bytes: Reading::Known((table.rows * 1600.0) as u64),
                server: if table.far { far::NAME.to_owned() } else { String::new() },
                load: Some(if out_of_reach(table) {
                    Reading::unknown("its server does not answer")
                } else {
                    Reading::Known(table.load_seen(world.serving()))
                }),
                usual_ratio: None,
                waiting: None,
            })
            .collect(),
        indexes: collection
            .indexes()
            .filter(|(_, index)| !index.name.starts_with(TRIAL_PREFIX))
            .map(|(table, index)| seen(world, table, index, exact))
            .collect(),
        disk_free_bytes: Reading::Known(world.disk_free()),
        servers: world.servers_seen(number, exact),
        replicas: Some(Reading::Known(world.replicas_seen(exact))),
        jobs: Some(Reading::Known(world.jobs_seen(number))),
        horizon: None,
        slots: None,
        memory: world.memory_read.then(|| Reading::Known(world.memory_seen())),
        wal: None,
        managed: collection.managed.then(|| managed(collection, world)),
        orchestrator: world.orchestrator.then(|| "virtual".to_owned()),
        scheduled: Some(Reading::Known(world.scheduled_seen(number))),
        maintenance_paused: world.maintenance.is_paused(number),
        ingestion: Some(collection.ingest.seen()),
        around: healing::snapshot::Around::default(),
    }
}

/// The routing of a managed collection.
fn managed(collection: &Collection, world: &World) -> Managed {
    let refuses = (!world.far.prepares).then(|| "max_prepared_transactions is 0 there".to_owned());
    let place = |(number, table): (i32, &Table)| Place {
        oid: table.oid,
        number,
        weight: table.weight,
        cold: table.cold,
        elsewhere: table.far,
        refuses: refuses.clone().filter(|_| table.far),
        cold_rows: table.is_here().then_some(Reading::Known(table.cold_rows)),
    };
    Managed {
        fixed: None,
        noticed: None,
        by_tenant: false,
        places: (0..).zip(&collection.tables).map(place).collect(),
    }
}

fn seen(world: &World, table: &Table, index: &Index, exact: bool) -> Seen {
    // Counted in a block sample.
    let rows = table.rows;
    let dead = if exact { table.dead.min(50.0 + 0.2 * table.rows) } else { table.dead_due() };
    let effort = index.effort(world.server_effort);
    let equal = table.indexes.iter().filter(|other| {
        other.oid != index.oid
            && other.valid
            && other.method == index.method
            && !other.name.starts_with(TRIAL_PREFIX)
    });
    let is_ivf = index.method == Method::Ivfflat;
    let (ivf, recall) = if exact {
        let (recall, blocks) = (index.recall(effort), index.blocks(effort));
        let point = RecallPoint { effort, recall, recall_ci: 0.0, blocks, blocks_ci: 0.0, queries: 10_000 };
        let ivf = if is_ivf {
            Reading::Known(structure(index, None))
        } else {
            Reading::unknown("hnsw has no lists")
        };
        (ivf, Reading::Known(point))
    } else {
        let ivf = match (&index.structure, is_ivf) {
            (Some(taken), true) => taken.reading.clone(),
            (None, true) => Reading::unknown("not inspected yet"),
            (_, false) => Reading::unknown("hnsw has no lists"),
        };
        let recall =
            index.panel.as_ref().map_or_else(|| Reading::unknown("not measured yet"), |t| t.reading.clone());
        (ivf, recall)
    };
    Seen {
        oid: index.oid,
        relfilenode: index.relfilenode,
        name: index.qualified(),
        partition: table.oid,
        method: index.method,
        valid: index.valid,
        building: index.building,
        equal_valid: equal.map(|other| other.oid).min(),
        reindex_leftover: is_reindex_leftover(&index.name),
        replacement: if index.attached {
            Replacement::ReindexOnly("it is attached to a partitioned index".to_owned())
        } else {
            Replacement::BlueGreen
        },
        bytes: Reading::Known(index.bytes),
        clean_bytes: Reading::Known(index.clean_bytes(rows + dead)),
        dead_share: Reading::unknown("this version does not measure it"),
        built: None,
        rows: Reading::Known(rows),
        ivf,
        recall,
        effort,
        lists: index.lists,
        density: None,
        tuple_bytes: Reading::Known(index.tuple_bytes()),
    }
}

fn is_reindex_leftover(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name.ends_with("_ccnew") || name.ends_with("_ccold")
}

/// The core's assessment of a snapshot. Where every reading alone leaves full health, λ is 1 and nothing is weak: the
/// core then need not be asked, which is what makes a week take milliseconds. That this is so is checked against the
/// core again and again (`count` chooses when).
pub fn judge(snapshot: &Snapshot, config: &Config, count: u64) -> Assessment {
    if !snapshot.partitions.is_empty() && spotless(snapshot, config) {
        let assessment = well(snapshot);
        if !count.is_multiple_of(AUDIT) {
            return assessment;
        }
        let asked = ask(snapshot, config);
        assert!(
            asked.lambda.is_some_and(|lambda| (lambda - 1.0).abs() < 1e-9) && asked.components.is_empty(),
            "the core disagrees: {asked:?}"
        );
        return assessment;
    }
    ask(snapshot, config)
}

/// An assessment by which nothing is weak.
fn well(snapshot: &Snapshot) -> Assessment {
    Assessment {
        taken_at: snapshot.taken_at,
        lambda: Some(1.0),
        lambda_unknown: None,
        lambda_low: None,
        lambda_high: None,
        witness: vec![],
        components: vec![],
        unread: vec![],
        nodes: 0,
        edges: 0,
    }
}

fn ask(snapshot: &Snapshot, config: &Config) -> Assessment {
    match assess(snapshot, config) {
        Ok(assessment) => assessment,
        // A promise that is broken: see the check `assessed`.
        Err(error) => Assessment { lambda_unknown: Some(format!("{ERRED}{error}")), ..well(snapshot) },
    }
}

fn full(curve: &health::Curve, value: f64) -> bool {
    curve.at(value) >= 1.0
}

/// Whether a panel leaves full health.
fn recall_full(recall: &Reading<RecallPoint>, config: &Config) -> bool {
    recall.known().is_some_and(|point| {
        full(&health::RECALL_SHORTFALL, 1.0 - (point.recall + point.recall_ci) / config.recall_objective)
    })
}

/// Whether lists leave full health: those of which this is so are not bad, and then their length is no fault.
fn lists_full(ivf: &Reading<IvfHealth>) -> bool {
    ivf.known().is_some_and(|ivf| {
        let known = |reading: &Reading<f64>| reading.known().copied().unwrap_or(f64::INFINITY);
        full(&health::DRIFT_EXCESS, health::drift_excess(known(&ivf.distance_ratio), known(&ivf.work_ratio)))
    })
}

/// Puts the readings of now into a snapshot of the same facts. Whether each that moved leaves full health before and after:
/// then the assessment is the same.
pub fn refresh(world: &World, number: usize, snapshot: &mut Snapshot) -> bool {
    let collection = &world.collections[number];
    let mut same = true;
    let indexes = collection.indexes().filter(|(_, index)| !index.name.starts_with(TRIAL_PREFIX));
    for ((_, index), seen) in indexes.zip(&mut snapshot.indexes) {
        if let Some(taken) = index.panel.as_ref().filter(|taken| taken.reading != seen.recall) {
            same &= recall_full(&seen.recall, &collection.config)
                && recall_full(&taken.reading, &collection.config);
            seen.recall.clone_from(&taken.reading);
        }
        let structure = index.structure.as_ref().filter(|_| index.method == Method::Ivfflat);
        if let Some(taken) = structure.filter(|taken| taken.reading != seen.ivf) {
            same &= lists_full(&seen.ivf) && lists_full(&taken.reading);
            seen.ivf.clone_from(&taken.reading);
        }
    }
    same
}

/// The assessment of a snapshot of which only readings moved that leave full health: the one before. Held against the core
/// as [`judge`] is.
pub fn judge_again(before: &Assessment, snapshot: &Snapshot, config: &Config, count: u64) {
    if count.is_multiple_of(AUDIT) {
        let asked = ask(snapshot, config);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let same = match (asked.lambda, before.lambda) {
            (Some(a), Some(b)) => close(a, b),
            (a, b) => a == b,
        };
        // What a reading may be at the worse end of its interval has moved, which nothing is decided by.
        let alike = asked.components.len() == before.components.len()
            && asked
                .components
                .iter()
                .zip(&before.components)
                .all(|(a, b)| a.nodes == b.nodes && close(a.lambda, b.lambda));
        assert!(same && alike, "the core disagrees: {asked:?}, not {before:?}");
    }
}

fn spotless(snapshot: &Snapshot, config: &Config) -> bool {
    !snapshot.indexes.is_empty()
        && unstrained(snapshot)
        && snapshot.indexes.iter().all(|index| {
            let size = match (&index.bytes, &index.clean_bytes) {
                (Reading::Known(bytes), Reading::Known(clean)) => {
                    full(&health::FRAGMENTATION, 100.0 * (1.0 - *clean as f64 / (*bytes).max(1) as f64))
                }
                _ => false,
            };
            let lists = index.method == Method::Hnsw || lists_full(&index.ivf);
            index.valid && !index.building && size && recall_full(&index.recall, config) && lists
        })
}

/// Whether nothing weighs on the server: no row is hot, no replica behind, no maintenance held up, memory as at rest.
fn unstrained(snapshot: &Snapshot) -> bool {
    // Nobody asks for the rows of a cold partition: that is as it should be.
    let loads = || {
        let all = snapshot.partitions.iter().filter_map(|partition| partition.load.as_ref()?.known());
        all.filter(|load| load.blocks > 0.0)
    };
    let (least, most) = loads()
        .fold((f64::MAX, 0.0f64), |(least, most), load| (least.min(load.blocks), most.max(load.blocks)));
    let replicas = snapshot.replicas.as_ref().and_then(Reading::known);
    let jobs = snapshot.jobs.as_ref().and_then(Reading::known);
    let memory = snapshot.memory.as_ref().map(Reading::known);
    let has_room = |server: &healing::snapshot::Server| {
        let connections = server.connections_pct.known();
        server.unreachable_s.is_none() && connections.is_some_and(|pct| health::CONNECTIONS.at(*pct) >= 1.0)
    };
    (snapshot.partitions.len() < 2 || health::LOAD_RATIO.at(most / least) >= 1.0)
        && snapshot.servers.iter().all(has_room)
        && replicas.is_some_and(|all| {
            all.iter().all(|replica| replica.gone_s.is_none() && replica.lag_bytes == Reading::Known(0.0))
        })
        && jobs.is_some_and(|all| all.iter().all(|job| job.waits_s.is_none()))
        // One that nobody looks at is no part of the graph.
        && memory.is_none_or(|memory| memory.is_some_and(|memory| health::MEMORY.at(memory.used_pct) >= 1.0))
}

/// λ of a collection in truth; judged again only when something changed.
pub fn true_lambda(world: &mut World, number: usize) -> f64 {
    let collection = &world.collections[number];
    if collection.truth.0 != collection.facts {
        let lambda = judge(&truth(world, number), &collection.config, collection.facts).lambda.unwrap_or(1.0);
        let collection = &mut world.collections[number];
        collection.truth = (collection.facts, lambda);
    }
    world.collections[number].truth.1
}

/// What is weak in a collection in truth, in words.
pub fn weak_in_truth(world: &World, number: usize) -> String {
    let collection = &world.collections[number];
    let assessment = judge(&truth(world, number), &collection.config, collection.facts);
    let readings = assessment.witness.iter().filter_map(|edge| {
        let condition = &edge.condition;
        Some(format!("{} = {:.3}", condition.metric.as_ref()?, condition.value?))
    });
    let readings: std::collections::BTreeSet<String> = readings.collect();
    let readings: Vec<String> = readings.into_iter().collect();
    format!("{} ({})", healing::explain::assessment(&assessment), readings.join(", "))
}

/// Identity of an index for a plan of our own (baselines).
pub fn reference(table: &Table, index: &Index) -> IndexRef {
    IndexRef {
        oid: index.oid,
        relfilenode: index.relfilenode,
        name: index.qualified(),
        table: table.oid,
        method: index.method,
    }
}
