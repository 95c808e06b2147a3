//! The stage: the virtual server, the extension's tables, the healer and its workers, and who watches them.

use healing::lifecycle::{Lesson, Status};
use healing::snapshot::Oid;

use crate::coverage::Coverage;
use crate::defects::Defect;
use crate::healer::Healer;
use crate::scenario::Scenario;
use crate::store::{Moment, Store};
use crate::worker::Worker;
use crate::world::World;

/// A crash that waits for its moment inside an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Armed {
    /// Operations of workers until then.
    pub after: u32,
    /// The whole server crashes, not the worker alone.
    pub server: bool,
}

/// Everything that takes part in a run.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The server.
    pub world: World,
    /// What is durable.
    pub store: Store,
    /// The healer of the database, when it runs.
    pub healer: Healer,
    /// The workers that live.
    pub workers: Vec<Worker>,
    /// Locks of workers that died and were not given back (a planted defect).
    pub leaked: Vec<i64>,
    /// `max_concurrent_actions`.
    pub max_concurrent: i64,
    /// Crashes that wait for their moment.
    pub armed: Vec<Armed>,
    /// Operations of workers after which a human drops the index that the worker is at.
    pub armed_drops: Vec<u32>,
    /// Operations of workers after which a human aborts the action that the worker is at.
    pub armed_aborts: Vec<u32>,
    /// What was met.
    pub coverage: Coverage,
    /// What was broken, with the check that found it.
    pub violations: Vec<(&'static str, String)>,
    /// When the wall clock is as late again as it was before it was last set, true time.
    pub jumped_at: i64,
    /// When it was last set, true time.
    pub clock_set_at: i64,
    /// Fault names that struck each collection.
    pub struck: Vec<Vec<&'static str>>,
    /// Automatic actions on indexes with which nothing was wrong in truth.
    pub false_heals: u64,
    /// Builds of automatic actions in a row that ran out of memory, by collection and remedy.
    pub out_of_memory: std::collections::BTreeMap<(usize, String), u32>,
    /// When a human last closed the breaker of a remedy on a collection, true time.
    pub closed: std::collections::BTreeMap<(usize, String), i64>,
    /// Whether a line of each event is wanted.
    pub trace: Option<Vec<String>>,
    defects: Vec<Defect>,
    last_worker: i32,
    /// Who runs as the worker that is kept in reserve.
    in_reserve: Option<i32>,
}

impl Stage {
    /// The stage of a scenario, before its first tick.
    pub fn new(scenario: &Scenario) -> Self {
        let mut world = World::new(scenario);
        for collection in &mut world.collections {
            collection.config.max_concurrent_actions = i64::from(scenario.max_concurrent_actions);
            if scenario.defects.contains(&Defect::BlindToRecall) {
                let curves = serde_json::json!({ "health_curves": { "recall_shortfall": [[0.0, 1.0], [0.95, 1.0], [1.0, 0.5]] } });
                collection.config = collection.config.apply(&curves).unwrap_or_default();
            }
        }
        let count = world.collections.len();
        Self {
            world,
            store: Store::new(count),
            healer: Healer::new(count),
            workers: vec![],
            leaked: vec![],
            max_concurrent: i64::from(scenario.max_concurrent_actions),
            armed: vec![],
            armed_drops: vec![],
            armed_aborts: vec![],
            coverage: Coverage::default(),
            violations: vec![],
            jumped_at: i64::MIN / 2,
            clock_set_at: i64::MIN / 2,
            struck: vec![vec![]; count],
            false_heals: 0,
            out_of_memory: std::collections::BTreeMap::new(),
            closed: std::collections::BTreeMap::new(),
            trace: None,
            defects: scenario.defects.clone(),
            last_worker: 0,
            in_reserve: None,
        }
    }

    /// Whether the core is driven in this wrong way.
    pub fn has(&self, defect: Defect) -> bool {
        self.defects.contains(&defect)
    }

    /// The present moment by both clocks.
    pub fn moment(&self) -> Moment {
        Moment { wall: self.world.wall(), real: self.world.now }
    }

    /// A promise was broken.
    pub fn violated(&mut self, check: &'static str, detail: String) {
        // The first few say all.
        if self.violations.len() < 20 {
            self.say(|| format!("VIOLATED {check}: {detail}"));
            self.violations.push((check, detail));
        }
    }

    /// A line for those who read along.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        let seconds = (self.world.now - crate::world::EPOCH_MS) as f64 / 1000.0;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{seconds:>10.1} s  {}", line()));
        }
    }

    /// Whether a living worker, or one whose lock leaked, holds an action.
    pub fn holder(&self, action: i64) -> Option<i32> {
        let living = self.workers.iter().find(|worker| worker.action == action && worker.holds_lock);
        living.map(|worker| worker.pid).or_else(|| self.leaked.contains(&action).then_some(-1))
    }

    /// Starts a worker for an action; it begins in a moment.
    pub fn start_worker(&mut self, action: i64) {
        self.last_worker += 1;
        if self.world.weather.no_workers {
            self.in_reserve = Some(self.last_worker);
        }
        let begins = self.world.now + 200;
        self.workers.push(Worker::new(self.last_worker, action, begins, self.world.wall()));
    }

    /// Whether a worker may be started: where others have taken all background workers, the one that is kept in reserve.
    pub fn has_worker_slot(&self) -> bool {
        let is_taken = |pid| self.workers.iter().any(|worker| worker.pid == pid);
        !self.world.weather.no_workers || !self.in_reserve.is_some_and(is_taken)
    }

    /// Ends a worker wherever it is. What it was building stays behind, not valid.
    pub fn kill_worker(&mut self, pid: i32) {
        let Some(at) = self.workers.iter().position(|worker| worker.pid == pid) else { return };
        let worker = self.workers.remove(at);
        let (action, held, at_op) = (worker.action, worker.holds_lock, worker.at());
        self.say(|| format!("worker {pid} of action {action} dies before {at_op}"));
        if held {
            self.coverage.crashed(at_op);
        }
        if held && self.has(Defect::LeakedLease) {
            self.leaked.push(action);
        }
        if let Some(number) = self.store.actions.get(&action).map(|action| action.collection) {
            let collection = &mut self.world.collections[number];
            for table in &mut collection.tables {
                for index in &mut table.indexes {
                    if index.maker == crate::world::index::Maker::Action(action) {
                        index.building = false;
                    }
                }
            }
            collection.touch();
        }
    }

    /// The server is restarted in order.
    pub fn restart_server(&mut self, down_ms: i64) {
        let pids: Vec<i32> = self.workers.iter().map(|worker| worker.pid).collect();
        for pid in pids {
            self.kill_worker(pid);
        }
        self.leaked.clear();
        self.say(|| format!("the server is restarted in order, {} s", down_ms / 1000));
        self.world.restart(down_ms);
        self.healer.die(self.world.down_until);
    }

    /// A build of an action needs more memory than there is: its worker is killed, which takes the server down.
    pub fn out_of_memory(&mut self, id: i64) {
        let action = &self.store.actions[&id];
        let number = action.collection;
        if !action.by_hand() && !action.approved {
            let strategy = action.planned().plan.strategy.clone();
            let allowed = self.world.collections[number].config.breaker_failures;
            let row = self.out_of_memory.entry((number, strategy)).or_default();
            *row += 1;
            let row = *row;
            if i64::from(row) > allowed {
                self.violated(
                    "crash_loop",
                    format!("action {id} is build {row} in a row that took the server down"),
                );
            }
        }
        self.say(|| format!("the build of action {id} runs out of memory"));
        self.crash_server(20_000);
    }

    /// An action with a plan ended: what that says of its remedy.
    pub fn learn(&mut self, id: i64, lesson: Lesson, status: Status, at: Moment) {
        let Self { store, world, .. } = self;
        let Store { learning, actions, .. } = store;
        let Some(action) = actions.get(&id) else { return };
        let config = &world.collections[action.collection].config;
        if learning.ended(action, lesson, status, at.wall, config) {
            let (number, strategy) = (action.collection, action.planned().plan.strategy.clone());
            let mode = learning.mode(number, &strategy, config.mode);
            self.coverage.moved += 1;
            self.say(|| format!("collection {number}: {strategy} now goes as far as {mode:?}"));
        }
    }

    /// A human drops an index: it is not wanted any more.
    pub fn drop_by_hand(&mut self, collection: usize, oid: Oid) {
        let now = self.world.now;
        let target = &mut self.world.collections[collection];
        let found = target.indexes().find(|(_, index)| index.oid == oid);
        let Some((table, name)) = found.map(|(table, index)| (table.oid, index.name.clone())) else { return };
        target.ledger.retain(|wanted| !(wanted.table == table && wanted.name == name));
        target.remove(oid);
        target.struck(now);
        self.say(|| format!("collection {collection}: a human drops {name}"));
    }

    /// The server crashes: all that is in memory is gone, and it is down for a while.
    pub fn crash_server(&mut self, down_ms: i64) {
        let pids: Vec<i32> = self.workers.iter().map(|worker| worker.pid).collect();
        for pid in pids {
            self.kill_worker(pid);
        }
        self.leaked.clear();
        self.say(|| format!("the server crashes for {} s", down_ms / 1000));
        if self.has(Defect::AuditLost) {
            self.store.audit.lose_last();
        }
        if self.has(Defect::LearningInMemory) {
            self.store.learning.lose();
        }
        if self.has(Defect::EffortsInMemory) {
            for collection in &mut self.world.collections {
                let indexes = collection.tables.iter_mut().flat_map(|table| &mut table.indexes);
                indexes.for_each(|index| index.effort = None);
            }
        }
        crate::checks::audit(self);
        self.world.crash(down_ms);
        self.healer.die(self.world.down_until);
    }
}
