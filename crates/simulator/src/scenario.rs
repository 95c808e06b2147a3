//! A scenario: a world and what happens to it, as data. It is made from a seed, printed on failure, shrunk, kept as a
//! file, and runs the same each time.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::defects::Defect;
use crate::hazards::{self, Kind};
use crate::random::Random;

/// Seconds of a day.
pub const DAY_S: u64 = 86_400;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything goes wrong until the end: nothing bad may ever happen.
    Safety,
    /// Disturbances end half-way: then everything curable must be cured in bounded time.
    Liveness,
    /// Disturbances but no fault: nothing may be healed.
    Healthy,
}

/// A collection of the world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionSpec {
    /// Leaf tables.
    pub partitions: u32,
    /// Rows of each.
    pub rows: f64,
    /// Bytes of a vector.
    pub value_bytes: u64,
    /// Each table has an ivfflat index.
    pub ivfflat: bool,
    /// Each table has an hnsw index.
    pub hnsw: bool,
    /// Its rows are ours to move between its tables.
    #[serde(default)]
    pub managed: bool,
    /// Whether its owner wants the job of pg_cron to run that vacuums it each night; None: it has none.
    #[serde(default)]
    pub nightly_vacuum: Option<bool>,
    /// Further leaf tables on another server, where its rows are ours to move.
    #[serde(default)]
    pub far: u32,
    /// Its indexes are attached to a partitioned one.
    pub attached: bool,
    /// Its settings.
    pub settings: Value,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds from the beginning.
    pub at_s: u64,
    /// Name of the hazard.
    pub hazard: String,
    /// Which collection (counted around).
    pub collection: usize,
    /// Which of its fitting parts (counted around).
    pub part: usize,
    /// How bad, 0 to 1.
    pub magnitude: f64,
    /// Seconds until it ends by itself; 0: it does not.
    pub lasts_s: u64,
}

/// A world and what happens to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// The seed of all randomness.
    pub seed: u64,
    /// What the run is for.
    pub mode: Mode,
    /// Its length.
    pub length_s: u64,
    /// Length of a tick.
    pub tick_s: u64,
    /// `max_concurrent_actions` of the server.
    pub max_concurrent_actions: u32,
    /// Size of the disk, as a multiple of what is used at the beginning.
    pub disk_factor: f64,
    /// Streaming replicas.
    #[serde(default)]
    pub replicas: u32,
    /// Something is there that could start read replicas.
    #[serde(default = "yes")]
    pub orchestrator: bool,
    /// Reads go to new read replicas.
    #[serde(default = "yes")]
    pub balanced: bool,
    /// The memory of the server can be read.
    #[serde(default = "yes")]
    pub memory_read: bool,
    /// The other server lets transactions be prepared.
    #[serde(default = "yes")]
    pub far_prepares: bool,
    /// The collections.
    pub collections: Vec<CollectionSpec>,
    /// What happens, in order.
    pub events: Vec<Event>,
    /// Wrong ways to drive the core.
    #[serde(default)]
    pub defects: Vec<Defect>,
}

fn yes() -> bool {
    true
}

impl Scenario {
    /// The scenario of a seed: so long, in the mode that the seed has.
    pub fn generate(seed: u64, length_s: u64) -> Self {
        Self::generate_as(seed, length_s, mode_of(seed))
    }

    /// The scenario of a seed in a mode.
    pub fn generate_as(seed: u64, length_s: u64, mode: Mode) -> Self {
        Self::generate_harsh(seed, length_s, Some(mode), 1.0)
    }

    /// The scenario of a seed, in a mode or its own, in which so many times as much happens.
    pub fn generate_harsh(seed: u64, length_s: u64, mode: Option<Mode>, harshness: f64) -> Self {
        let mode = mode.unwrap_or(mode_of(seed));
        let mut random = Random::new(seed, "scenario");
        let count = 1 + random.below(4);
        let mut collections: Vec<CollectionSpec> =
            (0..count).map(|_| collection(&mut random, mode)).collect();
        // What few servers have, apart from the other draws.
        let mut rare = Random::new(seed, "rare");
        for collection in &mut collections {
            if let (true, Some(settings)) = (rare.chance(0.15), collection.settings.as_object_mut()) {
                settings.insert("control_delay_share".to_owned(), json!(0.5));
                settings.insert("control_delay_seconds".to_owned(), json!(600));
            }
            // So few rows at once help nobody: what is not curable is not asked to be cured.
            if let (true, Some(settings)) =
                (rare.chance(0.15) && mode != Mode::Liveness, collection.settings.as_object_mut())
            {
                settings.insert("max_moves".to_owned(), json!(100));
            }
        }
        let mut nights = Random::new(seed, "nights");
        for collection in &mut collections {
            collection.nightly_vacuum = nights.chance(0.4).then(|| nights.chance(0.9));
        }
        let mut servers = Random::new(seed, "servers");
        for collection in &mut collections {
            let reaches = servers.chance(0.35) && collection.managed;
            collection.far = if reaches { collection.partitions.min(4) } else { 0 };
        }
        let mut scenario = Self {
            far_prepares: !servers.chance(0.1),
            seed,
            mode,
            length_s,
            tick_s: 10,
            max_concurrent_actions: 1 + random.below(2) as u32,
            disk_factor: random.between(2.5, 6.0),
            replicas: random.below(3) as u32,
            orchestrator: !rare.chance(0.15),
            memory_read: !rare.chance(0.1),
            balanced: !rare.chance(0.2),
            collections,
            events: vec![],
            defects: vec![],
        };
        scenario.events = events(&mut random, &scenario, harshness);
        scenario
    }

    /// When disturbances and faults have ended (liveness).
    pub fn calm_s(&self) -> u64 {
        self.length_s / 2
    }
}

fn mode_of(seed: u64) -> Mode {
    match seed % 10 {
        0 | 1 => Mode::Healthy,
        2..=5 => Mode::Liveness,
        _ => Mode::Safety,
    }
}

fn collection(random: &mut Random, mode: Mode) -> CollectionSpec {
    let ivfflat = random.chance(0.75);
    let mut settings = json!({});
    let mut set = |key: &str, value: Value| {
        if let Some(all) = settings.as_object_mut() {
            all.insert(key.to_owned(), value);
        }
    };
    if mode != Mode::Liveness {
        match random.below(10) {
            0 => set("mode", json!("observe")),
            1 | 2 => set("mode", json!("approve")),
            3 => set("require_approval_strategies", json!(["rebuild_centroids", "scale_replicas"])),
            4 => set("max_auto_heal_impact", json!(0.3)),
            5 => set("max_stress_impact", json!(0.3)),
            6 => set("manage_search_effort", json!(false)),
            _ => {}
        }
    }
    if random.chance(0.3) {
        set("approval_timeout_seconds", json!(3600));
    }
    // Nobody approves anything after the calm.
    if random.chance(0.3) || mode == Mode::Liveness {
        set("require_approval_irreversible", json!(false));
    }
    if random.chance(0.4) {
        set("max_replicas", json!(4));
        set("require_approval_strategies", json!([]));
    }
    if random.chance(0.3) {
        set("backoff_base_seconds", json!(60));
        set("breaker_failures", json!(2 + random.below(4)));
    }
    if random.chance(0.15) {
        // At night, as they are.
        let from = 20 + random.below(4);
        set(
            "maintenance_windows",
            json!([{ "from": format!("{from}:00"), "to": format!("0{}:30", 5 + random.below(3)) }]),
        );
        set("window_impact", json!([0.0, 0.3][random.below(2)]));
    }
    CollectionSpec {
        partitions: [1, 1, 1, 2, 4, 6][random.below(6)],
        rows: 3000.0 * 10f64.powf(random.between(0.0, 1.3)),
        value_bytes: 8 + 4 * [128, 384, 768][random.below(3)],
        ivfflat,
        hnsw: !ivfflat || random.chance(0.4),
        attached: random.chance(0.15),
        managed: random.chance(0.5),
        nightly_vacuum: None,
        far: 0,
        settings,
    }
}

fn events(random: &mut Random, scenario: &Scenario, harshness: f64) -> Vec<Event> {
    let Scenario { mode, length_s, .. } = *scenario;
    let days = length_s as f64 / DAY_S as f64;
    let end_s = if mode == Mode::Liveness { scenario.calm_s() } else { length_s };
    let mut events = Vec::new();
    let mut add = |random: &mut Random, kind: Kind, a_day: f64| {
        let fitting: Vec<_> = hazards::ALL.iter().filter(|hazard| hazard.kind() == kind).collect();
        // At least one on the average of a short run.
        let expected = (a_day * days).max(1.5);
        let mut at = random.wait(end_s as f64 / expected);
        while at < end_s as f64 {
            if let Some(hazard) = random.pick(&fitting) {
                let magnitude = random.unit();
                let mut lasts_s = hazard.lasts_s(random);
                if mode == Mode::Liveness && lasts_s > 0 {
                    lasts_s = lasts_s.min(end_s - at as u64).max(1);
                }
                events.push(Event {
                    at_s: at as u64,
                    hazard: hazard.name().to_owned(),
                    collection: random.below(8),
                    part: random.below(16),
                    magnitude,
                    lasts_s,
                });
            }
            at += random.wait(end_s as f64 / expected);
        }
    };
    let busy = harshness * random.between(0.3, 2.0);
    if mode != Mode::Healthy {
        add(random, Kind::Fault, 1.5 * busy);
        add(random, Kind::Operator, 1.5 * busy);
    }
    add(random, Kind::Crash, 2.0 * busy);
    add(random, Kind::Weather, 4.0 * busy);
    events.sort_by(|a, b| a.at_s.cmp(&b.at_s).then_with(|| a.hazard.cmp(&b.hazard)));
    events
}
