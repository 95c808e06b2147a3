//! Settings: one table of keys, from which validation, the effective configuration and the documents come.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::classify::CLASS_NAMES;
use crate::health::{self, CURVES, Curve, CurveSettings};
use crate::learning::Selection;
use crate::snapshot::UnixMs;
use crate::window::{self, Window};

pub use bound::{BOUND, Bound};

mod bound;

/// How far the healer goes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Diagnose and plan, never act.
    Observe,
    /// Plan, and wait for a human before acting.
    Approve,
    /// Act within the limits.
    Auto,
}

/// Where a key may be set. A key of scope [`Scope::Collection`] may be set for the server too, as the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// For the whole server only.
    Server,
    /// For the server and for one collection.
    Collection,
}

/// The values that a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number within the bounds; null too when nullable.
    Int {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
        /// Whether null is allowed (it says: no value set).
        nullable: bool,
    },
    /// A number within the bounds.
    Number {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
        /// Whether null is allowed (it says: no value set).
        nullable: bool,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of these words, each at most once.
    Words(&'static [&'static str]),
    /// A word of at most so many characters, without white space.
    Text(usize),
    /// Points of [`crate::health::Curve`]s by their names: `{"memory": [[80, 1], [90, 0.7], [100, 0]]}`.
    Curves,
    /// [`Window`]s of the week.
    Windows,
}

/// One row of the table of settings.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in JSON.
    pub name: &'static str,
    /// Its values.
    pub kind: Kind,
    /// Unit of its values, empty when there is none.
    pub unit: &'static str,
    /// Where it may be set.
    pub scope: Scope,
    /// What it does, for the reference.
    pub doc: &'static str,
    /// Its default.
    pub default: fn() -> Value,
}

/// Every strategy name that may be named in a setting: the spec's eight, then ours.
pub const STRATEGY_NAMES: &[&str] = &[
    "rebalance_partitions",
    "rebuild_centroids",
    "pause_maintenance",
    "throttle_ingestion",
    "evict_cold_data",
    "compact_indexes",
    "scale_replicas",
    "drain_hot_partition",
    "repair_invalid_index",
    "tune_search_effort",
];

/// The spec's other name for `max_attempts_per_window` with a window of one hour.
const ALIAS_PER_HOUR: &str = "max_attempts_per_hour";
/// Seconds of the window which that alias means.
const HOUR_S: i64 = 3600;

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $ty:ty = $default:expr, $kind:expr, $unit:literal, $scope:ident;)+) => {
        /// The settings in force for one collection.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $ty,)+
            /// A lease on `enabled`: until then it is as if it were off. No key: `ruvector_healing_pause` sets it.
            #[serde(skip)]
            pub paused_until: Option<UnixMs>,
            /// The server's windows, in which a collection's own must lie. No key: [`Config::layered`] sets it.
            #[serde(skip)]
            pub server_windows: Vec<Window>,
        }

        impl Default for Config {
            fn default() -> Self { Self { $($name: $default,)+ paused_until: None, server_windows: vec![] } }
        }

        /// The table of settings.
        pub const KEYS: &[Key] = &[$(Key {
            name: stringify!($name),
            kind: $kind,
            unit: $unit,
            scope: Scope::$scope,
            doc: concat!($($doc),+),
            default: || json!(Config::default().$name),
        },)+];
    };
}

const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { min, max, nullable: false }
}

const fn optional(min: f64, max: f64) -> Kind {
    Kind::Number { min, max, nullable: true }
}

const fn number(min: f64, max: f64) -> Kind {
    Kind::Number { min, max, nullable: false }
}

settings! {
    /// Off switch of every path, queued and manual ones included: what is under way is aborted and undone, what is held back
    /// under a lease is let go. Off for the server is off for every collection.
    enabled: bool = true, Kind::Bool, "", Collection;
    /// How far the healer goes by itself: only look, ask first, or act within the limits.
    mode: Mode = Mode::Auto, Kind::Choice(&["observe", "approve", "auto"]), "", Collection;
    /// Cooldown: least time from the end of one attempt on a collection to the next automatic one.
    min_healing_interval_seconds: i64 = 300, int(0, 604_800), "s", Collection;
    /// Attempts of a collection allowed within the window; refused when that many were made.
    max_attempts_per_window: i64 = 3, int(1, 1000), "", Collection;
    /// Length of the window in which attempts are counted.
    attempt_window_seconds: i64 = 3600, int(60, 2_592_000), "s", Collection;
    /// Greatest impact of a plan that may run without a human.
    max_auto_heal_impact: f64 = 0.5, number(0.0, 1.0), "", Collection;
    /// The same while the state is stress and not critical; lower it to make stress gentler.
    max_stress_impact: f64 = 0.5, number(0.0, 1.0), "", Collection;
    /// Actions in flight on the server at one time.
    max_concurrent_actions: i64 = 1, int(1, 64), "", Server;
    /// Sum of the impacts of all actions in flight on the server.
    max_total_impact: f64 = 1.0, number(0.0, 64.0), "", Server;
    /// Times in which automatic plans that add load may run, in the server's time zone (`TimeZone`), as
    /// `[{"from": "22:00", "to": "05:00", "days": ["fri", "sat"]}]`; days are those on which it begins, all when left out.
    /// A plan begins only if its estimate and its verification fit before the end. Empty: at any time.
    maintenance_windows: Vec<Window> = vec![], Kind::Windows, "", Collection;
    /// Impact from which plans wait for a maintenance window.
    window_impact: f64 = 0.0, number(0.0, 1.0), "", Collection;
    /// Replay lag of a connected replica above which no automatic plan that adds load begins; null: no such limit.
    quiet_replica_lag_seconds: Option<f64> = Some(60.0), optional(0.0, 86_400.0), "s", Collection;
    /// Age of the oldest snapshot above which none begins: a concurrent build waits for it.
    quiet_oldest_snapshot_seconds: Option<f64> = Some(900.0), optional(0.0, 604_800.0), "s", Collection;
    /// Active sessions of clients for each processor above which none begins.
    quiet_active_sessions_per_core: Option<f64> = Some(4.0), optional(0.0, 1000.0), "", Collection;
    /// WAL written a second above which none begins.
    quiet_wal_mib_per_second: Option<f64> = Some(256.0), optional(0.0, 1e6), "MiB/s", Collection;
    /// Of max_worker_processes, those that must be free for any plan to begin, a human's too; our worker in reserve is one while it waits.
    quiet_free_workers: i64 = 1, int(0, 1000), "", Server;
    /// Whether the one who approves an action must be another than the one who asked for it.
    approver_differs: bool = false, Kind::Bool, "", Collection;
    /// Problem classes whose plans wait for a human.
    require_approval: Vec<String> = vec![], Kind::Words(CLASS_NAMES), "", Collection;
    /// Strategies whose plans wait for a human.
    require_approval_strategies: Vec<String> = vec!["scale_replicas".to_owned()],
        Kind::Words(STRATEGY_NAMES), "", Collection;
    /// Whether plans that cannot be undone wait for a human. On, since registering consents to reversible ones only.
    require_approval_irreversible: bool = true, Kind::Bool, "", Collection;
    /// Whether outcomes change which remedy is tried first; off: they are recorded, the weights stay.
    learning_enabled: bool = true, Kind::Bool, "", Collection;
    /// How a remedy is chosen among those of one step of the ladder: by Thompson sampling, or the highest weight wins.
    selection: Selection = Selection::Thompson, Kind::Choice(&["thompson", "greedy"]), "", Collection;
    /// Whether failures lower how far a remedy goes by itself (auto, approve, observe) until evidence raises it again.
    autonomy_ladder: bool = true, Kind::Bool, "", Collection;
    /// Share of episodes of stress in which healing waits a little, drawn at random, to learn what clears by itself.
    control_delay_share: f64 = 0.0, number(0.0, 0.5), "", Collection;
    /// How long it waits then.
    control_delay_seconds: i64 = 60, int(1, 3600), "s", Collection;
    /// Most replicas that scaling may ask for; null: scaling has no limit set and does not act.
    max_replicas: Option<i64> = None, Kind::Int { min: 1, max: 1000, nullable: true }, "", Server;
    /// What the orchestrator is asked to scale: `kind/name`, with the namespace before it where it is another than ours.
    scale_target: String = "deployment/ruvector-read".to_owned(), Kind::Text(300), "", Server;
    /// Longest wait for the replicas that scaling asked for to be ready.
    scale_ready_timeout_seconds: i64 = 300, int(1, 3600), "s", Server;
    /// Most rows that one action moves between the partitions of a managed collection.
    max_moves: i64 = 10_000, int(1, 100_000_000), "rows", Collection;
    /// The same as a share of the collection's rows; the lesser of both holds.
    max_move_share: f64 = 0.05, number(0.0001, 1.0), "", Collection;
    /// Time for which moving rows keeps writers waiting at a stretch; then as long a pause follows.
    move_lock_ms: i64 = 25, int(1, 1000), "ms", Collection;
    /// WAL that one action may write by moving rows.
    move_wal_mib: i64 = 1024, int(1, 1_048_576), "MiB", Collection;
    /// Whether rows may be moved although row triggers see a delete and an insert then, publications of only one of the two
    /// pass on half of it, and foreign keys that do not cascade an update refuse it.
    move_despite_triggers: bool = false, Kind::Bool, "", Collection;
    /// Time after which a partition that is being drained gets new rows again.
    drain_lease_seconds: i64 = 900, int(10, 86_400), "s", Collection;
    /// Time between two samples of a collection.
    sample_interval_seconds: i64 = 10, int(1, 3600), "s", Collection;
    /// Samples in a row that a change of state needs.
    dwell_samples: i64 = 3, int(1, 100), "samples", Collection;
    /// Time between two inspections of an index's pages.
    structure_interval_seconds: i64 = 60, int(1, 86_400), "s", Collection;
    /// Time between two runs of the recall panel.
    panel_interval_seconds: i64 = 300, int(5, 604_800), "s", Collection;
    /// Queries in the recall panel.
    panel_queries: i64 = 64, int(8, 10_000), "queries", Collection;
    /// Rows of the sample on which an ivfflat index's lists are judged; six a list where that is more. The limits of what
    /// is bad were measured with 4,000; more costs more and tells smaller faults.
    sample_rows: i64 = 4000, int(200, 100_000), "rows", Collection;
    /// Time over which an index remedy's effect is measured before it counts.
    verify_window_seconds: i64 = 30, int(1, 86_400), "s", Collection;
    /// Recall@k that searches should reach.
    recall_objective: f64 = 0.95, number(0.05, 1.0), "", Collection;
    /// k of recall@k.
    recall_k: i64 = 10, int(1, 1000), "rows", Collection;
    /// Whether the search effort of an index (`ivfflat.probes`, `hnsw.ef_search`) may be set with its repair.
    manage_search_effort: bool = true, Kind::Bool, "", Collection;
    /// λ below which a collection is in stress.
    stress_lambda: f64 = 0.7, number(0.01, 0.99), "", Collection;
    /// λ below which it is critical.
    critical_lambda: f64 = 0.4, number(0.0, 0.98), "", Collection;
    /// How far above a boundary λ must rise before the better state counts.
    hysteresis: f64 = 0.1, number(0.0, 0.5), "", Collection;
    /// Load of a partition, in buffers touched a second, below which it is never hot: the others' mean counts as this
    /// at least.
    load_floor_blocks: f64 = 500.0, number(1.0, 1e9), "blocks/s", Collection;
    /// Time after which a replica that has vanished, and whose slot is gone too, is forgotten.
    replica_forget_seconds: i64 = 3600, int(10, 31_536_000), "s", Server;
    /// Memory that the server may use; null: the limit of its control group, or the machine's memory.
    memory_limit_mib: Option<i64> = None, Kind::Int { min: 64, max: 1_073_741_824, nullable: true }, "MiB", Server;
    /// Time for which every sample's λ and problems are kept.
    history_days: i64 = 14, int(1, 3650), "days", Server;
    /// Time for which recorded snapshots are kept, from which a replay decides anew.
    replay_days: i64 = 7, int(1, 365), "days", Server;
    /// Time for which changes of state and decisions are kept.
    events_days: i64 = 365, int(1, 36_500), "days", Server;
    /// Other points for health curves, by the curve's name: a list of [value, health] for each.
    health_curves: CurveSettings = CurveSettings::new(), Kind::Curves, "", Collection;
    /// λ at which a plan of several parts may stop early; null: the normal boundary.
    target_lambda: Option<f64> = None, Kind::Number { min: 0.0, max: 1.0, nullable: true }, "", Collection;
    /// Share of the free disk that one plan may use.
    max_disk_share: f64 = 0.5, number(0.01, 0.9), "", Collection;
    /// Longest wait for one lock, at most four fifths of deadlock_timeout; a step that did not get it rests and tries again.
    lock_timeout_ms: i64 = 2000, int(10, 600_000), "ms", Collection;
    /// Longest build of one index; null: twice the estimate.
    max_build_seconds: Option<i64> = None, Kind::Int { min: 1, max: 604_800, nullable: true }, "s", Collection;
    /// Oldest snapshot from which a plan may be made; older ones are stale.
    max_snapshot_age_seconds: i64 = 120, int(1, 3600), "s", Collection;
    /// Time for which a plan waits for a human before it expires.
    approval_timeout_seconds: i64 = 86_400, int(60, 2_592_000), "s", Collection;
    /// Wait after the first failure of a remedy on a collection; it doubles with each further one in a row.
    backoff_base_seconds: i64 = 600, int(1, 86_400), "s", Collection;
    /// Longest such wait.
    backoff_cap_seconds: i64 = 86_400, int(1, 2_592_000), "s", Collection;
    /// Time after which a throttle ends by itself.
    throttle_lease_seconds: i64 = 900, int(10, 86_400), "s", Collection;
    /// Whether a writer that would have to wait for longer than it may is rejected (SQLSTATE 53400) instead of let through.
    throttle_reject: bool = false, Kind::Bool, "", Collection;
    /// Time after which paused maintenance goes on by itself.
    pause_lease_seconds: i64 = 900, int(10, 86_400), "s", Collection;
    /// Longest wait for maintenance under way to end before a pause counts.
    drain_timeout_seconds: i64 = 30, int(1, 3600), "s", Collection;
    /// Share of such a wait that is added by chance, so that several do not come back at once.
    backoff_jitter: f64 = 0.1, number(0.0, 1.0), "", Collection;
    /// Failures of a remedy in a row that open its breaker, which a human closes.
    breaker_failures: i64 = 3, int(1, 100), "", Collection;
}

/// Why a patch was refused. The configuration is as it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The patch is no JSON object.
    #[error("a configuration is a JSON object, not {found}")]
    NotAnObject {
        /// The type found.
        found: &'static str,
    },
    /// No such key.
    #[error("unknown configuration key \"{key}\"")]
    UnknownKey {
        /// The key.
        key: String,
        /// The valid key nearest to it.
        nearest: &'static str,
    },
    /// A value of another type.
    #[error("configuration key \"{key}\" takes {valid}, not {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What it takes.
        valid: String,
        /// The value given.
        found: String,
    },
    /// A value that is out of range, or a word that is not in the list.
    #[error("{found} is not valid for configuration key \"{key}\"")]
    OutOfRange {
        /// The key.
        key: String,
        /// What it takes.
        valid: String,
        /// The value given.
        found: String,
    },
    /// A key that is set for the server only.
    #[error("configuration key \"{key}\" is set for the server, not for a collection")]
    ServerOnly {
        /// The key.
        key: String,
    },
    /// Two keys that contradict each other.
    #[error("configuration keys \"{key}\" and \"{other}\" contradict each other: {rule}")]
    Conflict {
        /// The first key.
        key: String,
        /// The second key.
        other: String,
        /// The rule that is broken.
        rule: String,
    },
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotAnObject { .. } => "Pass an object, for instance {\"enabled\": true}.".to_owned(),
            Self::UnknownKey { nearest, .. } => {
                let names: Vec<&str> = KEYS.iter().map(|key| key.name).chain([ALIAS_PER_HOUR]).collect();
                format!("Did you mean \"{nearest}\"? Valid keys: {}.", names.join(", "))
            }
            Self::WrongType { valid, .. } | Self::OutOfRange { valid, .. } => format!("Valid: {valid}."),
            Self::ServerOnly { key } => {
                format!("Set \"{key}\" without naming a collection.")
            }
            Self::Conflict { .. } => "Set both keys in one call.".to_owned(),
        }
    }
}

impl Key {
    /// Where it may be set, in words.
    pub fn set_for(&self) -> &'static str {
        match self.scope {
            Scope::Server => "server",
            Scope::Collection if BOUND.iter().any(|bound| bound.name == self.name) => {
                "server (binds), collection"
            }
            Scope::Collection => "server, collection",
        }
    }

    /// The valid values in words, with the unit.
    pub fn valid(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        match self.kind {
            Kind::Bool => "true or false".to_owned(),
            Kind::Int { min, max, nullable } => {
                format!("a whole number from {min} to {max}{unit}{}", if nullable { ", or null" } else { "" })
            }
            Kind::Number { min, max, nullable } => {
                format!("a number from {min} to {max}{unit}{}", if nullable { ", or null" } else { "" })
            }
            Kind::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
            Kind::Words(words) => format!("a list of \"{}\"", words.join("\", \"")),
            Kind::Text(longest) => format!("a word of 1 to {longest} characters without white space"),
            Kind::Curves => format!(
                "an object with lists of [value, health] under one or more of \"{}\"",
                CURVES.iter().map(|curve| curve.name).collect::<Vec<_>>().join("\", \"")
            ),
            Kind::Windows => {
                "a list of {\"from\": \"HH:MM\", \"to\": \"HH:MM\", \"days\": [\"mon\", …]}, days may be left out"
                    .to_owned()
            }
        }
    }

    fn check(&self, value: &Value) -> Result<(), ConfigError> {
        let wrong_type = || ConfigError::WrongType {
            key: self.name.to_owned(),
            valid: self.valid(),
            found: value.to_string(),
        };
        let out_of_range =
            |found: String| ConfigError::OutOfRange { key: self.name.to_owned(), valid: self.valid(), found };
        match self.kind {
            Kind::Bool => value.as_bool().map(|_| ()).ok_or_else(wrong_type),
            Kind::Int { nullable: true, .. } | Kind::Number { nullable: true, .. } if value.is_null() => {
                Ok(())
            }
            Kind::Int { min, max, .. } => match value.as_i64() {
                Some(number) if (min..=max).contains(&number) => Ok(()),
                Some(number) => Err(out_of_range(number.to_string())),
                // A whole number beyond 64 bits is a number out of range, not a wrong type.
                None if value.is_u64() => Err(out_of_range(value.to_string())),
                None => Err(wrong_type()),
            },
            Kind::Number { min, max, .. } => match value.as_f64() {
                Some(number) if (min..=max).contains(&number) => Ok(()),
                Some(_) => Err(out_of_range(value.to_string())),
                None => Err(wrong_type()),
            },
            Kind::Choice(words) => match value.as_str() {
                Some(word) if words.contains(&word) => Ok(()),
                Some(_) => Err(out_of_range(value.to_string())),
                None => Err(wrong_type()),
            },
            Kind::Text(longest) => match value.as_str() {
                Some(word)
                    if (1..=longest).contains(&word.chars().count())
                        && !word.chars().any(|c| c.is_whitespace() || c.is_control()) =>
                {
                    Ok(())
                }
                Some(_) => Err(out_of_range(value.to_string())),
                None => Err(wrong_type()),
            },
            Kind::Words(words) => {
                let list = value.as_array().ok_or_else(wrong_type)?;
                let mut seen = Vec::new();
                for item in list {
                    let word = item.as_str().ok_or_else(wrong_type)?;
                    if !words.contains(&word) || seen.contains(&word) {
                        return Err(out_of_range(item.to_string()));
                    }
                    seen.push(word);
                }
                Ok(())
            }
            Kind::Curves => {
                let curves: CurveSettings =
                    serde_json::from_value(value.clone()).map_err(|_| wrong_type())?;
                match curves.keys().find(|name| Curve::find(name).is_none()) {
                    Some(unknown) => Err(out_of_range(unknown.clone())),
                    None => Ok(()),
                }
            }
            Kind::Windows => {
                let windows: Vec<Window> = serde_json::from_value(value.clone()).map_err(|_| wrong_type())?;
                match windows.iter().find_map(window::fault) {
                    Some(fault) => Err(out_of_range(fault)),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Config {
    /// This configuration with the patch applied, or the error and no change.
    ///
    /// `max_attempts_per_hour` n stands for `max_attempts_per_window` n with a window of 3600 s.
    ///
    /// # Errors
    /// The first fault of the patch, in the order of its keys; then contradictions between keys.
    pub fn apply(&self, patch: &Value) -> Result<Config, ConfigError> {
        self.apply_scoped(patch, Scope::Server)
    }

    /// The configuration of a collection: defaults, then the server's patch, then the collection's. What is switched off for
    /// the whole server no collection switches on, and where the server has set one of [`BOUND`], the stricter value holds.
    ///
    /// # Errors
    /// The first fault of either patch; a key of the server in the collection's patch is one.
    pub fn layered(server: &Value, collection: &Value) -> Result<Config, ConfigError> {
        let layer = Config::default().apply(server)?;
        let mut config = layer.apply_scoped(collection, Scope::Collection)?;
        let is_set = |name: &str| server.get(name).is_some();
        bound::BOUND
            .iter()
            .filter(|bound| is_set(bound.name))
            .for_each(|bound| (bound.tighten)(&mut config, &layer));
        Ok(config)
    }

    fn apply_scoped(&self, patch: &Value, at: Scope) -> Result<Config, ConfigError> {
        let patch = patch.as_object().ok_or(ConfigError::NotAnObject { found: type_name(patch) })?;
        let mut merged = self.fields();
        for (name, value) in patch {
            let (name, alias) = match name.as_str() {
                ALIAS_PER_HOUR => ("max_attempts_per_window", true),
                other => (other, false),
            };
            let Some(key) = KEYS.iter().find(|key| key.name == name) else {
                return Err(ConfigError::UnknownKey { key: name.to_owned(), nearest: nearest_key(name) });
            };
            if at == Scope::Collection && key.scope == Scope::Server {
                return Err(ConfigError::ServerOnly { key: name.to_owned() });
            }
            key.check(value)?;
            merged.insert(name.to_owned(), value.clone());
            if alias {
                merged.insert("attempt_window_seconds".to_owned(), json!(HOUR_S));
            }
        }
        if patch.contains_key(ALIAS_PER_HOUR) {
            for (other, agrees) in [
                (
                    "max_attempts_per_window",
                    patch.get("max_attempts_per_window").is_none_or(|v| Some(v) == patch.get(ALIAS_PER_HOUR)),
                ),
                (
                    "attempt_window_seconds",
                    patch.get("attempt_window_seconds").is_none_or(|v| v.as_i64() == Some(HOUR_S)),
                ),
            ] {
                if !agrees {
                    return Err(ConfigError::Conflict {
                        key: ALIAS_PER_HOUR.to_owned(),
                        other: other.to_owned(),
                        rule: "the first stands for max_attempts_per_window with a window of 3600 s"
                            .to_owned(),
                    });
                }
            }
        }
        let config: Config =
            serde_json::from_value(Value::Object(merged)).map_err(|error| ConfigError::WrongType {
                key: "configuration".to_owned(),
                valid: "the types of the table of settings".to_owned(),
                found: error.to_string(),
            })?;
        config.check_together()?;
        Ok(config)
    }

    /// Rules between keys.
    fn check_together(&self) -> Result<(), ConfigError> {
        let rules = [
            (
                self.critical_lambda + self.hysteresis <= self.stress_lambda + 1e-9,
                "critical_lambda",
                "stress_lambda",
                "critical_lambda + hysteresis must not exceed stress_lambda",
            ),
            (
                self.stress_lambda + self.hysteresis <= 1.0 + 1e-9,
                "stress_lambda",
                "hysteresis",
                "stress_lambda + hysteresis must not exceed 1, the λ of a healthy collection",
            ),
            (
                self.backoff_base_seconds <= self.backoff_cap_seconds,
                "backoff_base_seconds",
                "backoff_cap_seconds",
                "the base must not exceed the cap",
            ),
        ];
        match rules.into_iter().find(|rule| !rule.0) {
            None => self.check_curves(),
            Some((_, key, other, rule)) => Err(ConfigError::Conflict {
                key: key.to_owned(),
                other: other.to_owned(),
                rule: rule.to_owned(),
            }),
        }
    }

    fn check_curves(&self) -> Result<(), ConfigError> {
        for (name, points) in &self.health_curves {
            if let Some(rule) = health::fault(points, self.stress_lambda) {
                return Err(ConfigError::OutOfRange {
                    key: "health_curves".to_owned(),
                    valid: rule,
                    found: format!("{name}: {}", json!(points)),
                });
            }
        }
        Ok(())
    }

    fn fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            // A struct of plain fields always becomes an object.
            _ => Map::new(),
        }
    }

    /// Every key with its value in force; also `max_attempts_per_hour` while the window is an hour.
    pub fn effective(&self) -> Value {
        let mut fields = self.fields();
        if self.attempt_window_seconds == HOUR_S {
            fields.insert(ALIAS_PER_HOUR.to_owned(), json!(self.max_attempts_per_window));
        }
        Value::Object(fields)
    }

    /// λ from which a collection counts as normal again: the boundary of stress plus the hysteresis.
    pub fn normal_lambda(&self) -> f64 {
        self.stress_lambda + self.hysteresis
    }

    /// λ at which a plan of several parts may stop early.
    pub fn target_lambda(&self) -> f64 {
        self.target_lambda.unwrap_or_else(|| self.normal_lambda())
    }
}

/// The reference of all settings, as Markdown: what `docs/reference/settings.md` holds.
pub fn reference() -> String {
    let mut text = String::from(
        "# Settings\n\nSet with `SELECT ruvector_healing_configure('{\"key\": value}')` for the server, with a collection's name \
         as second argument for one. Without a patch the function returns what is in force. Each change is a row of \
         `ruvector.settings_history` and of the audit log. `max_attempts_per_hour` n stands for `max_attempts_per_window` n \
         with `attempt_window_seconds` 3600. Where a key that binds is set for the server, a collection's owner can only be \
         stricter: of limits the lesser holds, of what waits for a human both lists do, of windows the times that lie in both. \
         This page is written from the table in `crates/healing/src/config.rs`.\n\n\
         | key | takes | default | where | what it does |\n|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let at = key.set_for();
        let (valid, default) = (key.valid().replace('|', "\\|"), (key.default)());
        text.push_str(&format!("| `{}` | {valid} | `{default}` | {at} |{} |\n", key.name, key.doc));
    }
    text
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The key of least edit distance; of equals the first in the table.
fn nearest_key(name: &str) -> &'static str {
    KEYS.iter()
        .map(|key| key.name)
        .chain([ALIAS_PER_HOUR])
        .min_by_key(|key| edit_distance(name, key))
        .unwrap_or(ALIAS_PER_HOUR)
}

/// Levenshtein distance in characters. Keys are user input: only the first 64 characters are looked at.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_table_and_valid() {
        let effective = Config::default().effective();
        for key in KEYS {
            let value = &effective[key.name];
            assert_eq!(*value, (key.default)(), "{}", key.name);
            key.check(value).unwrap();
            assert!(!key.doc.trim().is_empty() && key.doc.trim().ends_with('.'), "{}", key.name);
        }
        // The alias is the one key more.
        assert_eq!(effective.as_object().unwrap().len(), KEYS.len() + 1);
        Config::default().check_together().unwrap();
        // What the spec and the issue say.
        assert_eq!(effective["min_healing_interval_seconds"], 300);
        assert_eq!(effective["max_attempts_per_hour"], 3);
        assert_eq!(effective["max_auto_heal_impact"], 0.5);
        assert_eq!(effective["require_approval_strategies"], json!(["scale_replicas"]));
        assert_eq!(effective["max_replicas"], Value::Null);
        assert_eq!(Config::default().apply(&json!({})).unwrap(), Config::default());
    }

    #[test]
    fn the_documents_agree_with_the_table() {
        crate::fixtures::document("settings.md", &reference());
    }

    #[test]
    fn windows_are_checked() {
        let patch = |windows: Value| Config::default().apply(&json!({ "maintenance_windows": windows }));
        let config = patch(json!([{"from": "22:00", "to": "05:00", "days": ["sat"]}])).unwrap();
        assert_eq!(config.maintenance_windows[0].days, ["sat"]);
        for wrong in
            [json!("22:00"), json!([{"from": "22:00"}]), json!([{"from": "22:00", "to": "23:00", "day": 1}])]
        {
            assert!(matches!(patch(wrong), Err(ConfigError::WrongType { .. })));
        }
        let error = patch(json!([{"from": "22:00", "to": "25:00"}])).unwrap_err();
        assert!(matches!(error, ConfigError::OutOfRange { .. }), "{error}");
        assert!(error.hint().contains("HH:MM"), "{}", error.hint());
    }

    #[test]
    fn the_effective_configuration_can_be_applied_again() {
        let config = Config::default().apply(&json!({"mode": "observe", "max_replicas": 3})).unwrap();
        assert_eq!(Config::default().apply(&config.effective()).unwrap(), config);
    }

    #[test]
    fn the_specs_example_is_taken() {
        let config = Config { attempt_window_seconds: 60, ..Config::default() }
            .apply(&json!({
                "enabled": true,
                "min_healing_interval_seconds": 300,
                "max_attempts_per_hour": 5,
                "max_auto_heal_impact": 0.4,
                "require_approval_strategies": ["scale_replicas"],
                "learning_enabled": true
            }))
            .unwrap();
        assert_eq!((config.max_attempts_per_window, config.attempt_window_seconds), (5, 3600));
        let day = config.apply(&json!({"attempt_window_seconds": 86400})).unwrap();
        assert_eq!(day.effective().get("max_attempts_per_hour"), None, "not per hour any more");
    }

    #[test]
    fn errors_name_the_key_the_value_and_what_is_valid() {
        let check = |patch: Value, message: &str, hint: &str| {
            let error = Config::default().apply(&patch).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(error.hint().contains(hint), "{}", error.hint());
        };
        check(
            json!({"enabeld": false}),
            "unknown configuration key \"enabeld\"",
            "Did you mean \"enabled\"? Valid keys: enabled, mode, ",
        );
        check(
            json!({"enabled": 1}),
            "configuration key \"enabled\" takes true or false, not 1",
            "true or false",
        );
        check(
            json!({"dwell_samples": 0}),
            "0 is not valid for configuration key \"dwell_samples\"",
            "a whole number from 1 to 100 samples",
        );
        check(
            json!({"dwell_samples": 2.5}),
            "configuration key \"dwell_samples\" takes a whole number from 1 to 100 samples, not 2.5",
            "whole number",
        );
        check(
            json!({"max_attempts_per_hour": 18446744073709551615u64}),
            "18446744073709551615 is not valid for configuration key \"max_attempts_per_window\"",
            "1 to 1000",
        );
        check(json!({"mode": "yolo"}), "\"yolo\" is not valid for configuration key \"mode\"", "\"observe\"");
        check(
            json!({"require_approval": ["CentroidSkew", "Boredom"]}),
            "\"Boredom\" is not valid for configuration key \"require_approval\"",
            "HotspotCongestion",
        );
        check(
            json!({"require_approval": ["CentroidSkew", "CentroidSkew"]}),
            "\"CentroidSkew\" is not valid for configuration key \"require_approval\"",
            "list",
        );
        check(
            json!({"max_disk_share": null}),
            "configuration key \"max_disk_share\" takes a number from 0.01 to 0.9, not null",
            "number",
        );
        check(json!([]), "a configuration is a JSON object, not a list", "object");
        check(
            json!({"critical_lambda": 0.65}),
            "configuration keys \"critical_lambda\" and \"stress_lambda\" contradict each other: critical_lambda + hysteresis must not exceed stress_lambda",
            "one call",
        );
        check(
            json!({"max_attempts_per_hour": 3, "attempt_window_seconds": 60}),
            "configuration keys \"max_attempts_per_hour\" and \"attempt_window_seconds\" contradict each other: the first stands for max_attempts_per_window with a window of 3600 s",
            "one call",
        );
    }

    #[test]
    fn a_text_is_one_word() {
        let set = |target: Value| Config::default().apply(&json!({ "scale_target": target }));
        assert_eq!(set(json!("data/statefulset/pg-read")).unwrap().scale_target, "data/statefulset/pg-read");
        for wrong in [json!(""), json!("a b"), json!("a\n"), json!("x".repeat(301))] {
            assert!(matches!(set(wrong), Err(ConfigError::OutOfRange { .. })));
        }
        assert!(matches!(set(json!(3)), Err(ConfigError::WrongType { .. })));
    }

    #[test]
    fn a_patch_is_applied_whole_or_not_at_all() {
        let config = Config::default();
        assert!(config.apply(&json!({"enabled": false, "dwell_samples": -1})).is_err());
        assert_eq!(config, Config::default());
    }

    #[test]
    fn a_collection_overrides_the_server_but_not_what_is_the_servers() {
        let config = Config::layered(
            &json!({"recall_objective": 0.9, "max_concurrent_actions": 2}),
            &json!({"recall_objective": 0.8}),
        )
        .unwrap();
        assert_eq!((config.recall_objective, config.max_concurrent_actions), (0.8, 2));
        let off = json!({"enabled": false, "approver_differs": true});
        let owner = Config::layered(&off, &json!({"enabled": true, "approver_differs": false})).unwrap();
        assert_eq!((owner.enabled, owner.approver_differs), (false, true), "the server has the last word");
        let own = Config::layered(&json!({}), &off).unwrap();
        assert_eq!((own.enabled, own.approver_differs), (false, true));
        let error = Config::layered(&json!({}), &json!({"max_concurrent_actions": 2})).unwrap_err();
        assert_eq!(error, ConfigError::ServerOnly { key: "max_concurrent_actions".to_owned() });
    }

    #[test]
    fn nullable_keys_take_null() {
        let config = Config::default().apply(&json!({"max_replicas": 5, "target_lambda": 0.9})).unwrap();
        assert_eq!((config.max_replicas, config.target_lambda()), (Some(5), 0.9));
        let config = config.apply(&json!({"max_replicas": null, "target_lambda": null})).unwrap();
        assert_eq!((config.max_replicas, config.target_lambda()), (None, config.normal_lambda()));
    }

    #[test]
    fn distances_by_hand() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(nearest_key("max_attempts_per_hours"), "max_attempts_per_hour");
    }
}
