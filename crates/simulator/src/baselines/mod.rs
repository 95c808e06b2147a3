//! What people do without a healer, in the same worlds: one file each, and one list. They see the truth at once and
//! without noise, which no real one does: what is said against them is said against the best of their kind. Their sessions
//! die as the healer's workers do, and are begun again at once.

use healing::integrity::assess;
use healing::lifecycle::Status;
use healing::snapshot::{Method, Oid, Snapshot};

use crate::hazards::{self, Kind};
use crate::scenario::{DAY_S, Mode, Scenario};
use crate::simulation::turn;
use crate::stage::{Armed, Stage};
use crate::world::index::{Index, Maker};
use crate::world::observe;
use crate::world::{EPOCH_MS, Table, World};

mod alert_and_human;
mod do_nothing;
mod index_watch;
mod nightly_reindex;
mod spec_literal;

/// Moments of a repair at which its session may die: the six transactions of `REINDEX CONCURRENTLY`.
const OPERATIONS: u32 = 6;

/// Every baseline.
pub const ALL: &[fn() -> Box<dyn Policy>] = &[
    || Box::new(do_nothing::DoNothing),
    || Box::new(nightly_reindex::NightlyReindex::default()),
    || Box::new(alert_and_human::AlertAndHuman::default()),
    || Box::new(index_watch::IndexWatch::default()),
    || Box::new(spec_literal::SpecLiteral::default()),
];

/// A way to look after indexes.
pub trait Policy {
    /// Its name in the report.
    fn name(&self) -> &'static str;

    /// What it does now.
    fn tick(&mut self, world: &mut World, jobs: &mut Jobs);
}

/// What a week came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Seconds below the boundary of stress in truth, replicas left out, summed over collections.
    pub degraded_s: f64,
    /// Seconds of building.
    pub build_s: f64,
    /// Bytes built.
    pub built_bytes: f64,
    /// Buffers read to measure recall.
    pub panel_blocks: f64,
    /// Repairs of what was well in truth.
    pub false_heals: u64,
    /// Seconds in which a repair kept users from a table, or left a useless copy behind.
    pub damage_s: f64,
    /// Seconds simulated, summed over collections.
    pub simulated_s: f64,
}

impl Tally {
    /// Adds another week.
    pub fn add(&mut self, other: &Tally) {
        self.degraded_s += other.degraded_s;
        self.build_s += other.build_s;
        self.built_bytes += other.built_bytes;
        self.panel_blocks += other.panel_blocks;
        self.false_heals += other.false_heals;
        self.damage_s += other.damage_s;
        self.simulated_s += other.simulated_s;
    }
}

/// The world of a seed in which all are compared: plain collections in default settings, faults, weather and crashes of
/// the server; no human but those of the baselines.
pub fn world_of(seed: u64, healthy: bool) -> Scenario {
    let mode = if healthy { Mode::Healthy } else { Mode::Safety };
    let mut scenario = Scenario::generate_as(seed, 7 * DAY_S, mode);
    for collection in &mut scenario.collections {
        collection.settings = serde_json::json!({});
        collection.attached = false;
    }
    // Only what all of them can mend: no baseline moves rows.
    let by_index = |hazard: &dyn hazards::Hazard| {
        let of_rows = ["drain_hot_partition", "evict_cold_data", "rebalance_partitions", "scale_replicas"];
        hazard.kind() != Kind::Operator && !hazard.remedies().iter().any(|remedy| of_rows.contains(remedy))
    };
    scenario.events.retain(|event| hazards::find(&event.hazard).is_some_and(by_index));
    scenario
}

/// A repair under way.
#[derive(Debug, Clone, PartialEq)]
struct Job {
    collection: usize,
    table: Oid,
    index: Oid,
    what: Repair,
    /// 0: it has not begun.
    ends_at: i64,
    /// When its session dies, and whether the server does with it.
    dies: Option<(i64, bool)>,
}

/// What can be done to an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// `REINDEX INDEX CONCURRENTLY`.
    Reindex,
    /// `REINDEX INDEX`: nobody may write meanwhile.
    ReindexLocking,
    /// Rebuilt with as many lists as today's rows ask for, and the effort set to meet the objective.
    RebuildAndTune,
    /// Dropped.
    Drop,
}

/// The repairs that a policy has under way, one at a time.
#[derive(Debug, Default)]
pub struct Jobs {
    queue: Vec<Job>,
    /// What was counted so far.
    pub tally: Tally,
}

impl Jobs {
    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Asks for a repair; it begins when those before it are done.
    pub fn ask(&mut self, collection: usize, table: Oid, index: Oid, what: Repair) {
        if !self.queue.iter().any(|job| job.index == index) {
            self.queue.push(Job { collection, table, index, what, ends_at: 0, dies: None });
        }
    }

    fn tick(&mut self, stage: &mut Stage) {
        let Some(job) = self.queue.first_mut() else { return };
        let now = stage.world.now;
        let dies = job.dies.filter(|(at, _)| *at <= now);
        if dies.is_some() || !stage.world.is_up() {
            // It begins again, at once or when the server is back.
            if job.ends_at > 0 && matches!(job.what, Repair::Reindex | Repair::RebuildAndTune) {
                leave_half_built(&mut stage.world, job);
            }
            (job.ends_at, job.dies) = (0, None);
            if dies.is_some_and(|(_, server)| server) {
                stage.crash_server(20_000);
            }
            return;
        }
        let Stage { world, armed, .. } = stage;
        if job.ends_at == 0 {
            let Some((fine, bytes)) =
                find(world, job).map(|(table, index)| (is_fine(table, index), index.clean_bytes(table.rows)))
            else {
                self.queue.remove(0);
                return;
            };
            if fine && job.what != Repair::Drop {
                self.tally.false_heals += 1;
            }
            let ms = if job.what == Repair::Drop {
                1000
            } else if world.disk_free() < bytes {
                self.queue.remove(0);
                return;
            } else if world.weather.memory_bytes < bytes {
                // They see that the memory is short, at no cost; the healer learns it from a build that is killed.
                self.queue.remove(0);
                return;
            } else {
                world.build_ms(bytes)
            };
            if job.what == Repair::ReindexLocking {
                self.tally.damage_s += ms as f64 / 1000.0;
            }
            job.ends_at = now + ms.max(1);
            job.dies = death(armed, now, ms);
        }
        if job.ends_at > now || world.weather.long_transactions > 0 && job.what != Repair::ReindexLocking {
            return;
        }
        let job = self.queue.remove(0);
        // Statements of theirs fail as those of the healer's workers do.
        let failing = world.weather.failing;
        if failing > 0.0 && world.random.chance(failing) {
            return;
        }
        let objective = world.collections[job.collection].config.recall_objective;
        let collection = &mut world.collections[job.collection];
        if job.what == Repair::Drop {
            collection.remove(job.index);
            return;
        }
        if let Some(table) = collection.table(job.table) {
            let rows = table.rows;
            if let Some(index) = table.indexes.iter_mut().find(|index| index.oid == job.index) {
                if job.what == Repair::RebuildAndTune && index.method == Method::Ivfflat {
                    index.lists = Some(healing::ivf::choose_lists(rows, index.tuple_bytes(), None));
                }
                index.finish(rows, 0.01);
                if job.what == Repair::RebuildAndTune {
                    index.effort = index.least_effort(0.5 * (1.0 + objective));
                }
            }
        }
        collection.touch();
    }
}

/// The deaths that strike the healer's workers strike the sessions of the others too: a repair is [`OPERATIONS`] moments at
/// which one may come.
fn death(armed: &mut Vec<Armed>, begins: i64, ms: i64) -> Option<(i64, bool)> {
    let first = armed.iter().enumerate().min_by_key(|(_, armed)| armed.after).map(|(at, _)| at)?;
    if armed[first].after > OPERATIONS {
        for armed in armed {
            armed.after -= OPERATIONS;
        }
        return None;
    }
    let Armed { after, server } = armed.remove(first);
    Some((begins + ms * i64::from(after) / i64::from(OPERATIONS), server))
}

/// What `REINDEX CONCURRENTLY` leaves when its session dies.
fn leave_half_built(world: &mut World, job: &Job) {
    let oid = world.oid();
    let collection = &mut world.collections[job.collection];
    let Some(table) = collection.table(job.table) else { return };
    let Some(old) = table.indexes.iter().find(|index| index.oid == job.index) else { return };
    let name = format!("{}_ccnew", old.name);
    if table.indexes.iter().any(|index| index.name == name) {
        return;
    }
    let mut half = Index::begun(oid, name.clone(), old.method, old.lists, old.value_bytes, Maker::User);
    half.building = false;
    half.bytes = half.clean_bytes(table.rows) / 2;
    table.indexes.push(half);
    collection.surplus.push(name);
    collection.touch();
}

fn find<'a>(world: &'a World, job: &Job) -> Option<(&'a Table, &'a Index)> {
    world.collections[job.collection].indexes().find(|(_, index)| index.oid == job.index)
}

/// Whether nothing is wrong with an index in truth that building it again would better.
pub fn is_fine(table: &Table, index: &Index) -> bool {
    let clean = index.clean_bytes(table.rows) as f64;
    index.valid && index.shape.misfit < 0.08 && index.shape.damage < 0.1 && clean > 0.8 * index.bytes as f64
}

/// Whether an invalid index is surplus: an equal valid one is there.
pub fn is_surplus(table: &Table, index: &Index) -> bool {
    let equal = |other: &&Index| other.oid != index.oid && other.valid && other.method == index.method;
    !index.valid && (index.name.contains("_ccnew") || table.indexes.iter().any(|other| equal(&other)))
}

/// A week of a policy.
pub fn week(scenario: &Scenario, policy: &mut dyn Policy) -> Tally {
    let mut stage = Stage::new(scenario);
    let mut schedule = hazards::Schedule::new(scenario);
    let mut jobs = Jobs::default();
    let mut clock = Degraded::new(&stage);
    for tick in 0..scenario.length_s / scenario.tick_s {
        stage.world.advance(scenario.tick_s as i64 * 1000);
        schedule.strike(&mut stage, tick * scenario.tick_s);
        jobs.tick(&mut stage);
        policy.tick(&mut stage.world, &mut jobs);
        clock.tick(&mut stage.world, scenario.tick_s, &mut jobs.tally);
    }
    finished(jobs.tally, &stage.world, scenario)
}

/// A week of the healer, with a human who closes breakers and approves what waits, and comes as late as the one of the alert does.
pub fn healer_week(scenario: &Scenario) -> Tally {
    let mut on_call = OnCall::default();
    let mut stage = Stage::new(scenario);
    let mut schedule = hazards::Schedule::new(scenario);
    let mut tally = Tally::default();
    let mut clock = Degraded::new(&stage);
    for tick in 0..scenario.length_s / scenario.tick_s {
        stage.world.advance(scenario.tick_s as i64 * 1000);
        schedule.strike(&mut stage, tick * scenario.tick_s);
        turn(&mut stage);
        on_call.tick(&mut stage);
        clock.tick(&mut stage.world, scenario.tick_s, &mut tally);
    }
    tally.false_heals = stage.false_heals;
    finished(tally, &stage.world, scenario)
}

/// When somebody who is called at this moment is there: within 30 minutes by day (8 to 20 o'clock), 4 hours by night.
fn somebody_comes(now: i64) -> i64 {
    let hour = (now - EPOCH_MS) / 3_600_000 % 24;
    now + if (8..20).contains(&hour) { 1_800_000 } else { 14_400_000 }
}

/// A human who is called when a breaker opens or a plan waits for approval, closes it and approves.
#[derive(Default)]
struct OnCall(Option<i64>);

impl OnCall {
    fn tick(&mut self, stage: &mut Stage) {
        let now = stage.world.now;
        let open = stage.store.arms.iter().flatten().any(|arm| arm.breaker_open);
        let waits = |id: &i64| stage.store.actions[id].status == Status::AwaitingApproval;
        let called = open || stage.store.open.iter().any(waits);
        match (called, self.0) {
            (false, _) => self.0 = None,
            (true, None) => self.0 = Some(somebody_comes(now)),
            (true, Some(comes)) if comes <= now => {
                for number in 0..stage.world.collections.len() {
                    stage.close_breakers(number);
                }
                hazards::approve(stage);
                self.0 = None;
            }
            _ => {}
        }
    }
}

fn finished(mut tally: Tally, world: &World, scenario: &Scenario) -> Tally {
    tally.build_s = world.work.build_s;
    tally.built_bytes = world.work.built_bytes;
    tally.panel_blocks = world.work.panel_blocks;
    tally.simulated_s = (scenario.length_s * scenario.collections.len() as u64) as f64;
    tally
}

/// λ of a collection in truth without its replicas: one that replays too slowly nobody here can mend. (That it holds builds back
/// counts all the same.)
fn mendable(world: &World, number: usize) -> f64 {
    let truth = Snapshot { replicas: None, ..observe::truth(world, number) };
    assess(&truth, &world.collections[number].config)
        .ok()
        .and_then(|assessment| assessment.lambda)
        .unwrap_or(1.0)
}

/// Counts how long collections are degraded, and how long useless valid copies lie about.
struct Degraded(Vec<(u64, bool, bool)>);

impl Degraded {
    fn new(stage: &Stage) -> Self {
        Self(vec![(0, false, false); stage.world.collections.len()])
    }

    fn tick(&mut self, world: &mut World, tick_s: u64, tally: &mut Tally) {
        for (number, (facts, degraded, copies)) in self.0.iter_mut().enumerate() {
            if *facts != world.collections[number].facts {
                *degraded = mendable(world, number) < world.collections[number].config.stress_lambda;
                *facts = world.collections[number].facts;
                *copies = world.collections[number].surplus.iter().any(|name| {
                    let twice = |(table, index): (&Table, &Index)| {
                        let twin = |other: &Index| {
                            other.valid && other.method == index.method && other.oid != index.oid
                        };
                        index.name == *name && index.valid && table.indexes.iter().any(twin)
                    };
                    world.collections[number].indexes().any(twice)
                });
            }
            tally.degraded_s += if *degraded { tick_s as f64 } else { 0.0 };
            tally.damage_s += if *copies { tick_s as f64 } else { 0.0 };
        }
    }
}

/// Every index of a world: places and what a policy looks at.
pub fn each(world: &World) -> Vec<(usize, Oid, Oid)> {
    world
        .collections
        .iter()
        .flat_map(|c| c.indexes().map(move |(table, index)| (c.id, table.oid, index.oid)))
        .collect()
}

/// The table and the index of these OIDs.
pub fn look(world: &World, collection: usize, index: Oid) -> Option<(&Table, &Index)> {
    world.collections[collection].indexes().find(|(_, found)| found.oid == index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_healer_is_better_than_doing_nothing_and_harms_nobody() {
        let (mut healer, mut nothing) = (Tally::default(), Tally::default());
        for seed in 0..8 {
            let scenario = world_of(seed, false);
            healer.add(&healer_week(&scenario));
            nothing.add(&week(&scenario, &mut do_nothing::DoNothing));
        }
        assert!(healer.degraded_s < nothing.degraded_s / 3.0, "{healer:?} {nothing:?}");
        assert!(nothing.build_s == 0.0 && healer.build_s > 0.0);
    }

    #[test]
    fn a_nightly_reindex_works_where_nothing_is_wrong() {
        let mut scenario = world_of(4, true);
        // One that is killed leaves a half-built index, which a cron job never drops.
        scenario.events.retain(|event| hazards::find(&event.hazard).is_some_and(|h| h.kind() != Kind::Crash));
        let nightly = week(&scenario, &mut nightly_reindex::NightlyReindex::default());
        assert!(nightly.false_heals >= 7 && nightly.degraded_s == 0.0, "{nightly:?}");
        assert_eq!(healer_week(&scenario).false_heals, 0);
    }

    #[test]
    fn a_death_strikes_the_session_of_a_baseline_and_leaves_its_half_built_index() {
        let mut stage = Stage::new(&world_of(4, true));
        let (collection, table, index) = each(&stage.world)[0];
        stage.armed = vec![Armed { after: 3, server: false }, Armed { after: 20, server: true }];
        let mut jobs = Jobs::default();
        jobs.ask(collection, table, index, Repair::Reindex);
        let half_built = |stage: &Stage| {
            stage.world.collections[collection].indexes().filter(|(_, i)| i.name.ends_with("_ccnew")).count()
        };
        for tick in 0.. {
            assert!(tick < 1000, "the repair never ends");
            jobs.tick(&mut stage);
            if jobs.is_idle() {
                break;
            }
            stage.world.advance(1000);
        }
        assert_eq!(half_built(&stage), 1);
        assert_eq!(
            stage.armed,
            [Armed { after: 20 - OPERATIONS, server: true }],
            "the second try had it nearer"
        );
        let bytes =
            look(&stage.world, collection, index).map_or(0, |(table, index)| index.clean_bytes(table.rows));
        assert!(stage.world.work.built_bytes >= 2.0 * bytes as f64, "built twice");
    }
}
