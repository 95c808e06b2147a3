//! The virtual server: clock, disk, load, tables and their indexes, and what other sessions do to them.

pub mod far;
pub mod index;
pub mod maintenance;
pub mod observe;
pub mod strain;

use healing::config::Config;
use healing::plan::IndexRef;
use healing::snapshot::{Method, Oid, UnixMs};
use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::scenario::{CollectionSpec, Scenario};
use far::Far;
use index::{Index, Maker};
use maintenance::Maintenance;
use strain::{Ingest, Strain};

/// A simulation begins here: a moment like any other, at midnight.
pub const EPOCH_MS: UnixMs = 1_700_006_400_000;
/// Prefix of our trial indexes (the extension's `TRIAL_PREFIX`).
pub const TRIAL_PREFIX: &str = "_ruvector_trial_";
/// autovacuum's threshold and scale factor as shipped.
const AUTOVACUUM: (f64, f64) = (50.0, 0.2);
/// Bytes that one second of building writes on an idle server.
const BUILD_BYTES_PER_S: f64 = 8e6;
/// Bytes of a table's row beside its vector.
const ROW_BYTES: f64 = 60.0;

/// A leaf table.
#[derive(Debug, Clone)]
pub struct Table {
    /// OID.
    pub oid: Oid,
    /// Name without schema.
    pub name: String,
    /// Live rows in truth.
    pub rows: f64,
    /// Dead rows that vacuum has not removed.
    pub dead: f64,
    /// `pg_stat_get_dead_tuples`, 0 after a crash.
    pub stat_dead: f64,
    /// `pg_class.reltuples`.
    pub reltuples: f64,
    /// Inserts, updates and deletes counted by the statistics, 0 after a crash.
    pub changes: i64,
    /// Its vector indexes, ours and half-built ones among them.
    pub indexes: Vec<Index>,
    /// Buffers a second that hot rows of it draw, beside what a table at rest is asked for.
    pub heat: f64,
    /// Rows that users brought here less those that they deleted; `rows` less this was moved here.
    pub owned: f64,
    /// It is the cold partition of a managed collection.
    pub cold: bool,
    /// It is on the other server.
    pub far: bool,
    /// Percent of its server's connections that sessions which ask for its rows take.
    pub crowd: f64,
    /// Rows of it that meet the condition for cold ones.
    pub cold_rows: f64,
    /// Its weight for new rows.
    pub weight: f64,
    /// The lease that it holds under.
    pub weight_lease: Option<WeightLease>,
}

/// A weight for new rows that holds for a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WeightLease {
    /// When it began, wall clock.
    pub begins: UnixMs,
    /// When it ends, wall clock.
    pub until: UnixMs,
    /// For how long it was made, seconds.
    pub seconds: i64,
    /// The weight that then holds by itself.
    pub after: f64,
}

impl Table {
    /// It is on this server, and not for cold rows.
    pub fn is_here(&self) -> bool {
        !self.cold && !self.far
    }

    /// Dead rows that autovacuum has not to remove yet.
    pub fn dead_due(&self) -> f64 {
        self.stat_dead.min(AUTOVACUUM.0 + AUTOVACUUM.1 * self.reltuples)
    }

    /// Rows come and go; the indexes grow with the first and keep their size with the second.
    pub fn change(&mut self, inserted: f64, deleted: f64) {
        let deleted = deleted.min(self.rows);
        self.rows += inserted - deleted;
        self.owned += inserted - deleted;
        self.cold_rows = self.cold_rows.min(self.rows);
        self.dead += deleted;
        self.stat_dead += deleted;
        // Rows are whole, and far fewer than 2^53.
        self.changes += (inserted + deleted).round() as i64;
        for index in self.indexes.iter_mut().filter(|index| index.valid) {
            let clean = index.clean_bytes(self.rows);
            index.bytes = index.bytes.max(clean);
        }
    }

    /// What autovacuum and autoanalyze do now and then.
    pub fn maintain(&mut self) {
        if self.dead > AUTOVACUUM.0 + AUTOVACUUM.1 * self.reltuples {
            self.dead = 0.0;
            self.stat_dead = 0.0;
        }
        self.reltuples = self.rows;
    }
}

/// Some rows of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Portion {
    /// How many.
    pub rows: f64,
    /// Buffers a second that they draw beside what a table at rest is asked for.
    pub heat: f64,
    /// Percent of a server's connections that sessions which ask for them take.
    pub crowd: f64,
    /// How many of them are cold.
    pub cold: f64,
}

/// A definition that the user wants to be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Table.
    pub table: Oid,
    /// Bare name.
    pub name: String,
    /// Method.
    pub method: Method,
    /// It was valid when the user last looked: it must not be invalid because of us.
    pub valid: bool,
}

/// A registered collection.
#[derive(Debug, Clone)]
pub struct Collection {
    /// Its number, from 0.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// Settings in force.
    pub config: Config,
    /// The mode before a human changed it.
    pub former_mode: healing::config::Mode,
    /// Leaf tables.
    pub tables: Vec<Table>,
    /// The indexes that must be there whenever nothing acts on the collection: the ledger of content.
    pub ledger: Vec<Wanted>,
    /// Names of surplus indexes that users left.
    pub surplus: Vec<String>,
    /// Counts every change that an observation could see.
    pub version: u64,
    /// Counts the changes of what is, readings left out.
    pub facts: u64,
    /// Faults that struck it so far.
    pub faults: u32,
    /// When the last one struck or grew, true time.
    pub fault_at: UnixMs,
    /// When lists of it that drift last did so.
    pub drifted_at: UnixMs,
    /// The list of its partitions comes back empty.
    pub unlisted: bool,
    /// The truth as last judged, with the facts it was judged at.
    pub truth: (u64, f64),
    /// The bulk load into it.
    pub ingest: Ingest,
    /// Its rows are ours to move.
    pub managed: bool,
}

impl Collection {
    /// Something changed.
    pub fn touch(&mut self) {
        self.version += 1;
        self.facts += 1;
    }

    /// A fault struck.
    pub fn struck(&mut self, now: UnixMs) {
        self.faults += 1;
        self.fault_at = now;
        self.touch();
    }

    /// All indexes with their tables.
    pub fn indexes(&self) -> impl Iterator<Item = (&Table, &Index)> {
        self.tables.iter().flat_map(|table| table.indexes.iter().map(move |index| (table, index)))
    }

    /// The table of this OID.
    pub fn table(&mut self, oid: Oid) -> Option<&mut Table> {
        self.tables.iter_mut().find(|table| table.oid == oid)
    }

    /// The index of this OID.
    pub fn index(&mut self, oid: Oid) -> Option<&mut Index> {
        self.tables.iter_mut().flat_map(|table| &mut table.indexes).find(|index| index.oid == oid)
    }

    /// The `n`-th index (counted around) that fits, as places in tables and indexes.
    pub fn nth(&self, n: usize, fits: impl Fn(&Index) -> bool) -> Option<(usize, usize)> {
        let found: Vec<(usize, usize)> = self
            .tables
            .iter()
            .enumerate()
            .flat_map(|(t, table)| table.indexes.iter().enumerate().map(move |(i, index)| (t, i, index)))
            .filter(|(_, _, index)| fits(index))
            .map(|(t, i, _)| (t, i))
            .collect();
        (!found.is_empty()).then(|| found[n % found.len()])
    }
}

/// What makes observing and acting hard; hazards set it and take it back.
#[derive(Debug, Clone, PartialEq)]
pub struct Weather {
    /// Foreign load: 0 none, 1 doubles the time of everything.
    pub load: f64,
    /// Share of samples that fail.
    pub lost: f64,
    /// Share of samples that are stored twice.
    pub doubled: f64,
    /// Share of samples after which the healer stalls before it decides.
    pub late: f64,
    /// Share of measurements that give no reading.
    pub unread: f64,
    /// Share of steps that fail.
    pub failing: f64,
    /// Share of attempts at a lock that time out.
    pub locked: f64,
    /// A foreign transaction that concurrent builds and drops wait for.
    pub long_transactions: u32,
    /// No free background worker.
    pub no_workers: bool,
    /// Observations say that the server is in recovery.
    pub in_recovery: bool,
    /// Bytes of foreign files.
    pub foreign_bytes: u64,
    /// Whoever starts replicas answers with errors.
    pub orchestrator_fails: bool,
    /// Share of workers that err before they can read their journal.
    pub worker_errors: f64,
    /// Memory that is there for a build; one that needs more is killed, and the server with it.
    pub memory_bytes: u64,
}

/// Calm weather.
impl Default for Weather {
    fn default() -> Self {
        Self {
            load: 0.0,
            lost: 0.0,
            doubled: 0.0,
            late: 0.0,
            unread: 0.0,
            failing: 0.0,
            locked: 0.0,
            long_transactions: 0,
            no_workers: false,
            in_recovery: false,
            foreign_bytes: 0,
            orchestrator_fails: false,
            worker_errors: 0.0,
            memory_bytes: u64::MAX,
        }
    }
}

/// The virtual server.
#[derive(Debug, Clone)]
pub struct World {
    /// True time.
    pub now: UnixMs,
    /// What the server's clock is wrong by.
    pub clock_offset: i64,
    /// The collections.
    pub collections: Vec<Collection>,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Disturbances in force.
    pub weather: Weather,
    /// `ivfflat.probes` and `hnsw.ef_search` of the server.
    pub server_effort: (u32, u32),
    /// Not before this does the server accept work (it crashed).
    pub down_until: UnixMs,
    /// When the server last crashed, true time.
    pub crashed_at: UnixMs,
    /// When it was last restarted in order, true time.
    pub restarted_at: UnixMs,
    /// How often the statistics were reset.
    pub epoch: u32,
    /// Randomness of what happens.
    pub random: Random,
    /// Randomness of what is read.
    pub noise: Random,
    /// What weighs on it beside its indexes.
    pub strain: Strain,
    /// Maintenance of its tables.
    pub maintenance: Maintenance,
    /// The other server.
    pub far: Far,
    /// Something is there that could start read replicas.
    pub orchestrator: bool,
    /// Reads go to new read replicas.
    pub balanced: bool,
    /// Its memory can be read.
    pub memory_read: bool,
    /// Work spent, whoever spent it.
    pub work: Work,
    next_oid: Oid,
    maintained: i64,
}

/// Work spent on repair and on looking.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Bytes of indexes built.
    pub built_bytes: f64,
    /// Seconds of building.
    pub build_s: f64,
    /// Buffers read to measure recall.
    pub panel_blocks: f64,
}

impl World {
    /// The world of a scenario, all of it healthy.
    pub fn new(scenario: &Scenario) -> Self {
        let mut world = Self {
            now: EPOCH_MS,
            clock_offset: 0,
            collections: vec![],
            disk_bytes: u64::MAX,
            weather: Weather::default(),
            server_effort: (1, 40),
            down_until: 0,
            crashed_at: i64::MIN,
            restarted_at: i64::MIN,
            epoch: 0,
            random: Random::new(scenario.seed, "world"),
            noise: Random::new(scenario.seed, "noise"),
            strain: Strain::new(scenario.replicas),
            maintenance: Maintenance::default(),
            far: Far::new(scenario.far_prepares),
            orchestrator: scenario.orchestrator,
            balanced: scenario.balanced,
            memory_read: scenario.memory_read,
            work: Work::default(),
            next_oid: 16_384,
            maintained: 0,
        };
        for (id, spec) in scenario.collections.iter().enumerate() {
            let collection = world.collection(id, spec);
            if let Some(wanted) = spec.nightly_vacuum {
                world.maintenance.add_job(&collection, wanted);
            }
            world.collections.push(collection);
        }
        let used = world.used_bytes();
        world.disk_bytes = (used as f64 * scenario.disk_factor) as u64;
        world
    }

    fn collection(&mut self, id: usize, spec: &CollectionSpec) -> Collection {
        let config = Config::default().apply(&spec.settings).unwrap_or_default();
        let mut tables = Vec::new();
        let mut ledger = Vec::new();
        for p in 0..spec.partitions {
            let oid = self.oid();
            let name = if spec.partitions == 1 { format!("docs{id}") } else { format!("docs{id}_p{p}") };
            let mut indexes = Vec::new();
            let kinds = [(Method::Ivfflat, spec.ivfflat), (Method::Hnsw, spec.hnsw)];
            for (method, _) in kinds.into_iter().filter(|(_, wanted)| *wanted) {
                let lists = (method == Method::Ivfflat)
                    .then(|| healing::ivf::choose_lists(spec.rows, 8.0 + spec.value_bytes as f64, None));
                let oid = self.oid();
                let index_name = format!("{name}_{}", method.name());
                let mut index =
                    Index::begun(oid, index_name.clone(), method, lists, spec.value_bytes, Maker::User);
                index.finish(spec.rows, 0.01);
                index.attached = spec.attached;
                // As an earlier tuning left it, with a little to spare.
                let objective = 0.5 * (1.0 + config.recall_objective);
                index.effort = index.least_effort(objective.min(0.99));
                indexes.push(index);
                ledger.push(Wanted { table: 0, name: index_name, method, valid: true });
            }
            for wanted in ledger.iter_mut().filter(|wanted| wanted.table == 0) {
                wanted.table = oid;
            }
            tables.push(Table {
                oid,
                name,
                rows: spec.rows,
                dead: 0.0,
                stat_dead: 0.0,
                reltuples: spec.rows,
                changes: spec.rows as i64,
                indexes,
                heat: 0.0,
                owned: spec.rows,
                cold: false,
                far: false,
                crowd: 0.0,
                cold_rows: 0.0,
                weight: 1.0,
                weight_lease: None,
            });
        }
        let managed = spec.managed && spec.partitions > 1;
        for p in (0..spec.far).filter(|_| managed) {
            let oid = self.oid();
            let name = format!("docs{id}_far{p}");
            tables.push(Table { indexes: vec![], far: true, oid, name, ..tables[0].clone() });
        }
        if managed {
            let oid = self.oid();
            let name = format!("docs{id}_cold");
            tables.push(Table {
                rows: 0.0,
                owned: 0.0,
                reltuples: 0.0,
                changes: 0,
                indexes: vec![],
                cold: true,
                weight: 0.0,
                oid,
                name,
                ..tables[0].clone()
            });
        }
        Collection {
            id,
            name: format!("docs{id}"),
            former_mode: config.mode,
            config,
            tables,
            ledger,
            surplus: vec![],
            version: 1,
            facts: 1,
            faults: 0,
            fault_at: 0,
            drifted_at: 0,
            unlisted: false,
            truth: (0, 1.0),
            ingest: Ingest::default(),
            managed,
        }
    }

    /// A new OID.
    pub fn oid(&mut self) -> Oid {
        self.next_oid += 1;
        self.next_oid
    }

    /// What the server's clock says.
    pub fn wall(&self) -> UnixMs {
        self.now + self.clock_offset
    }

    fn used_bytes(&self) -> u64 {
        let of = |table: &Table| -> u64 {
            let value = table.indexes.first().map_or(1544, |index| index.value_bytes) as f64;
            let heap = (table.rows + table.dead) * (value + ROW_BYTES);
            heap as u64 + table.indexes.iter().map(|index| index.bytes).sum::<u64>()
        };
        let tables = self.collections.iter().flat_map(|collection| &collection.tables);
        tables.filter(|table| !table.far).map(of).sum()
    }

    /// Free bytes of the disk.
    pub fn disk_free(&self) -> u64 {
        self.disk_bytes.saturating_sub(self.used_bytes()).saturating_sub(self.weather.foreign_bytes)
    }

    /// Whether the server accepts work.
    pub fn is_up(&self) -> bool {
        self.now >= self.down_until
    }

    /// True time moves on; tables live.
    pub fn advance(&mut self, ms: i64) {
        self.now += ms;
        self.strain(ms);
        self.maintenance_goes_on();
        self.far_goes_on();
        let hours = (self.now - EPOCH_MS) / 3_600_000;
        while self.maintained < hours {
            self.maintained += 1;
            self.hour();
        }
    }

    /// An hour of the tables' lives.
    fn hour(&mut self) {
        let six = self.maintained % 6 == 0;
        for collection in &mut self.collections {
            let mut changed = false;
            for table in &mut collection.tables {
                if six {
                    // A slow turnover: rows come as others go.
                    let turnover = table.rows * self.random.between(0.0005, 0.002);
                    table.change(turnover, turnover);
                    if !self.maintenance.away.contains_key(&collection.id) {
                        table.maintain();
                    }
                    changed = true;
                }
                for index in table.indexes.iter_mut().filter(|index| index.shape.misfit_per_hour > 0.0) {
                    index.shape.misfit = (index.shape.misfit + index.shape.misfit_per_hour).min(0.9);
                    // The rows that make lists unfit are new rows.
                    table.changes += (table.rows * 0.05) as i64;
                    collection.drifted_at = self.now;
                    changed = true;
                }
            }
            if changed {
                collection.touch();
            }
        }
    }

    /// Everything in memory is gone: statistics, sessions, builds.
    pub fn crash(&mut self, down_ms: i64) {
        self.down_until = self.now + down_ms;
        self.crashed_at = self.now;
        self.epoch += 1;
        self.maintenance.crash();
        for collection in &mut self.collections {
            collection.touch();
            for table in &mut collection.tables {
                (table.stat_dead, table.changes) = (0.0, 0);
                for index in &mut table.indexes {
                    index.building = false;
                }
            }
        }
    }

    /// Restarted in order: sessions end, statistics stay.
    pub fn restart(&mut self, down_ms: i64) {
        self.down_until = self.now + down_ms;
        self.restarted_at = self.now;
        self.maintenance.crash();
        for collection in &mut self.collections {
            collection.touch();
            for index in collection.tables.iter_mut().flat_map(|table| &mut table.indexes) {
                index.building = false;
            }
        }
    }

    /// Milliseconds to build an index of so many bytes now.
    pub fn build_ms(&mut self, bytes: u64) -> i64 {
        let seconds = (bytes as f64 / BUILD_BYTES_PER_S).max(3.0) * self.slowness();
        self.work.built_bytes += bytes as f64;
        self.work.build_s += seconds;
        (seconds * 1000.0) as i64
    }

    /// Factor on the time of everything.
    pub fn slowness(&mut self) -> f64 {
        (1.0 + self.weather.load) * self.random.between(0.9, 1.3)
    }

    /// Milliseconds of waiting for other transactions to end.
    pub fn transactions_ms(&mut self) -> i64 {
        (self.random.wait(2000.0) * (1.0 + self.weather.load)) as i64
    }
}

/// Looking up what a step concerns, as the extension's `execute::lookup` does.
impl Collection {
    /// The index itself, under whatever name.
    pub fn itself(&self, of: &IndexRef) -> Option<&Index> {
        self.on_table(of).find(|index| index.oid == of.oid)
    }

    /// The index that bears its name now.
    pub fn bearing_its_name(&self, of: &IndexRef) -> Option<&Index> {
        self.on_table(of).find(|index| index.qualified() == of.name)
    }

    /// The trial index built beside it; never the index itself.
    pub fn trial(&self, of: &IndexRef) -> Option<&Index> {
        let name = trial_name(of);
        self.on_table(of).find(|index| index.name == name && index.oid != of.oid)
    }

    /// The index, if it is still what it was when the plan was made.
    ///
    /// # Errors
    /// What changed.
    pub fn as_planned(&self, of: &IndexRef) -> Result<&Index, String> {
        let index =
            self.itself(of).ok_or_else(|| format!("{} was dropped since the plan was made", of.name))?;
        if index.qualified() != of.name {
            return Err(format!("{} was renamed since the plan was made", of.name));
        }
        if index.relfilenode != of.relfilenode {
            return Err(format!("{} was rebuilt since the plan was made", of.name));
        }
        Ok(index)
    }

    /// The loser of a comparison after the swap, if it is still there and a valid index bears the name.
    ///
    /// # Errors
    /// When it was not replaced.
    pub fn loser(&self, of: &IndexRef) -> Result<Option<Oid>, String> {
        let Some(old) = self.itself(of) else { return Ok(None) };
        let winner = self.bearing_its_name(of);
        if old.name == trial_name(of) && winner.is_some_and(|winner| winner.valid && winner.oid != of.oid) {
            Ok(Some(old.oid))
        } else {
            Err(format!("{} was not replaced by a valid index: it is not dropped", of.name))
        }
    }

    /// What `REINDEX CONCURRENTLY` of this index left behind when it was interrupted.
    pub fn reindex_leftovers(&self, of: &IndexRef) -> Vec<Oid> {
        let Some(index) = self.itself(of) else { return vec![] };
        let stem = format!("{}_cc", index.name);
        let left = |other: &&Index| other.oid != of.oid && !other.valid && other.name.starts_with(&stem);
        self.on_table(of).filter(left).map(|other| other.oid).collect()
    }

    fn on_table(&self, of: &IndexRef) -> impl Iterator<Item = &Index> {
        let table = of.table;
        self.tables.iter().filter(move |t| t.oid == table).flat_map(|t| &t.indexes)
    }

    /// Exchanges the names of two indexes of one table.
    pub fn exchange_names(&mut self, a: Oid, b: Oid) {
        let names = (self.index(a).map(|i| i.name.clone()), self.index(b).map(|i| i.name.clone()));
        if let (Some(name_a), Some(name_b)) = names {
            for (oid, name) in [(a, name_b), (b, name_a)] {
                if let Some(index) = self.index(oid) {
                    index.name = name;
                }
            }
        }
        self.touch();
    }

    /// Gives an index another name.
    pub fn rename(&mut self, oid: Oid, name: String) {
        if let Some(index) = self.index(oid) {
            index.name = name;
        }
        self.touch();
    }

    /// Gives an index back to its user under a name that is free, beginning so.
    pub fn hand_back(&mut self, oid: Oid, stem: &str) {
        let free = |name: &String| self.indexes().all(|(_, index)| index.name != *name);
        let names = std::iter::once(stem.to_owned()).chain((1..).map(|n| format!("{stem}{n}")));
        let name = names.take(1000).find(free).unwrap_or_default();
        let table = self.indexes().find(|(_, index)| index.oid == oid).map(|(table, _)| table.oid);
        if let (Some(table), Some(index)) = (table, self.index(oid)) {
            index.maker = Maker::User;
            let (method, valid) = (index.method, index.valid);
            self.ledger.push(Wanted { table, name: name.clone(), method, valid });
        }
        self.rename(oid, name);
    }

    /// So many rows of a table (only cold ones), with their share of what is asked of it.
    pub fn portion(&self, from: Oid, rows: f64, cold: bool) -> Portion {
        let Some(source) = self.tables.iter().find(|table| table.oid == from && table.rows >= 1.0) else {
            return Portion::default();
        };
        let share = (rows / source.rows).min(1.0);
        if cold {
            return Portion { rows, cold: rows, ..Portion::default() };
        }
        Portion {
            rows,
            heat: source.heat * share,
            crowd: source.crowd * share,
            cold: source.cold_rows * share,
        }
    }

    /// Moves just these rows.
    pub fn move_rows(&mut self, from: Oid, to: Oid, portion: Portion) {
        self.add(from, portion, -1.0);
        self.add(to, portion, 1.0);
    }

    /// These rows come to a table (1) or leave it (−1), with what is asked of them.
    pub fn add(&mut self, table: Oid, portion: Portion, sign: f64) {
        if let Some(table) = self.table(table) {
            table.rows += sign * portion.rows;
            table.heat = (table.heat + sign * portion.heat).max(0.0);
            table.crowd = (table.crowd + sign * portion.crowd).max(0.0);
            table.cold_rows = (table.cold_rows + sign * portion.cold).max(0.0);
            table.changes += portion.rows as i64;
            if sign < 0.0 {
                (table.dead, table.stat_dead) = (table.dead + portion.rows, table.stat_dead + portion.rows);
            }
            let live = table.rows;
            for index in table.indexes.iter_mut().filter(|index| index.valid) {
                index.bytes = index.bytes.max(index.clean_bytes(live));
            }
        }
        self.touch();
    }

    /// Rows that were moved into each table, less those that were moved out.
    pub fn moved(&self) -> Vec<(Oid, f64)> {
        self.tables.iter().map(|table| (table.oid, table.rows - table.owned)).collect()
    }

    /// Removes an index.
    pub fn remove(&mut self, oid: Oid) {
        for table in &mut self.tables {
            table.indexes.retain(|index| index.oid != oid);
        }
        self.touch();
    }
}

/// The name of the trial index beside this one; after the swap the loser bears it.
pub fn trial_name(of: &IndexRef) -> String {
    format!("{TRIAL_PREFIX}{}", of.oid)
}
