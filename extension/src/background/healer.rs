//! The healer of one database: samples every collection and keeps the managed search efforts in shared memory.

use std::time::Duration;

use healing::config::Config;
use healing::snapshot::{Method, Reading};
use pgrx::JsonB;
use pgrx::prelude::*;

use super::process;
use crate::collect::{self, Collection};
use crate::error::Error;
use crate::shared;
use crate::transaction::transaction;

/// Rest after a round that failed as a whole, so that a broken database does not fill its log.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// Share of a table's rows that must have changed for the panel to be measured again before its time.
const CHANGED_SHARE: f64 = 0.1;

pub(super) fn run(database: pg_sys::Oid) {
    process::start(Some(database), c"ruvector healer");
    if !take_slot(database.to_u32()) {
        return;
    }
    loop {
        let pause = match transaction(installed) {
            Ok(true) => round().unwrap_or_else(|error| {
                pgrx::warning!("ruvector: sampling failed: {error}");
                FAILURE_PAUSE
            }),
            Ok(false) => {
                give_up_wish(database.to_u32());
                return;
            }
            Err(error) => {
                pgrx::warning!("ruvector: {error}");
                FAILURE_PAUSE
            }
        };
        process::sleep(pause);
        if must_step_aside(database.to_u32()) {
            return;
        }
    }
}

/// Claims this database's slot, or says that another healer has it.
fn take_slot(database: u32) -> bool {
    // SAFETY: own process id, own exit callback.
    let pid = unsafe { pg_sys::MyProcPid };
    let taken = {
        let mut healers = shared::HEALERS.exclusive();
        match healers.slot(database) {
            Some(slot) if slot.pid == 0 => {
                slot.pid = pid;
                true
            }
            _ => false,
        }
    };
    if taken {
        unsafe { pg_sys::before_shmem_exit(Some(leave_slot), pg_sys::Datum::null()) }
    }
    taken
}

#[pg_guard]
unsafe extern "C-unwind" fn leave_slot(_code: i32, _argument: pg_sys::Datum) {
    let pid = pg_sys::MyProcPid;
    let mut healers = shared::HEALERS.exclusive();
    for slot in healers.slots.iter_mut().filter(|slot| slot.pid == pid) {
        slot.pid = 0;
    }
}

fn give_up_wish(database: u32) {
    if let Some(slot) = shared::HEALERS.exclusive().slot(database) {
        slot.wanted = false;
    }
    shared::set_efforts(database, &[]);
}

fn must_step_aside(database: u32) -> bool {
    // SAFETY: no preconditions.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    shared::HEALERS.exclusive().slot(database).is_some_and(|slot| slot.aside_until > now)
}

fn installed() -> Result<bool, Error> {
    Ok(Spi::get_one("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'ruvector')")? == Some(true))
}

/// Samples every collection that is due. Returns how long to rest.
fn round() -> Result<Duration, Error> {
    transaction(load_efforts)?;
    let collections = transaction(collect::collections)?;
    let mut pause = Duration::from_secs_f64(Config::default().sample_interval_seconds as f64);
    for collection in &collections {
        let config = Config::layered(&collection.server_settings, &collection.settings)
            .map_err(|error| Error::refused(error.to_string()))?;
        pause = pause.min(Duration::from_secs_f64(config.sample_interval_seconds as f64));
        if let Err(error) = sample(collection, &config) {
            let note = error.to_string();
            transaction(|| {
                Ok(Spi::run_with_args(
                    "UPDATE ruvector.integrity SET note = $2, sampled_at = clock_timestamp() WHERE collection_id = $1",
                    &[collection.id.into(), note.into()],
                )?)
            })?;
        }
    }
    Ok(pause)
}

fn load_efforts() -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Row {
        index: u32,
        effort: i32,
    }
    let rows: Vec<Row> = collect::documents(
        "SELECT jsonb_build_object('index', e.index_id::bigint, 'effort', e.effort)
           FROM ruvector.search_effort e JOIN pg_class i ON i.oid = e.index_id",
        &[],
    )?;
    let efforts: Vec<(u32, i32)> = rows.iter().map(|row| (row.index, row.effort)).collect();
    // SAFETY: no preconditions.
    let left_out = shared::set_efforts(unsafe { pg_sys::MyDatabaseId }.to_u32(), &efforts);
    if left_out > 0 {
        pgrx::warning!("ruvector: {left_out} managed search efforts do not fit into shared memory");
    }
    Ok(())
}

/// One sample of one collection: a due inspection and a due recall panel first (at most one each, the indexes take
/// turns), then the catalogs.
fn sample(collection: &Collection, config: &Config) -> Result<(), Error> {
    if !collection.exists {
        return Err(Error::refused(
            "the table was dropped; SELECT ruvector_collection_unregister to forget it",
        ));
    }
    let rows = transaction(|| collect::indexes(collection))?;
    let due = |kind: Kind| {
        let due = rows.iter().filter(|row| row.valid && kind.is_due(row, config));
        due.max_by(|a, b| kind.age_s(a).total_cmp(&kind.age_s(b)))
    };
    if let Some(row) = due(Kind::Structure) {
        inspect(collection, row)?;
    }
    if let Some(row) = due(Kind::Panel) {
        transaction(|| measure(collection, row, config))?;
    }
    transaction(|| {
        let rows = collect::indexes(collection)?;
        let now: f64 =
            Spi::get_one("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000")?.unwrap_or(f64::NAN);
        let snapshot = collect::snapshot(collection, &rows, now as i64)?;
        super::judge::store(&snapshot, config)
    })
}

/// The slow measurements.
#[derive(Clone, Copy)]
enum Kind {
    Panel,
    Structure,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Panel => "panel",
            Kind::Structure => "structure",
        }
    }

    fn last(self, row: &collect::IndexRow) -> Option<(f64, i64)> {
        match self {
            Kind::Panel => row.panel_age_s.zip(row.panel_changes),
            Kind::Structure => row.structure_age_s.zip(row.structure_changes),
        }
    }

    fn age_s(self, row: &collect::IndexRow) -> f64 {
        self.last(row).map_or(f64::INFINITY, |(age_s, _)| age_s)
    }

    fn is_due(self, row: &collect::IndexRow, config: &Config) -> bool {
        let interval_s = match self {
            Kind::Panel => config.panel_interval_seconds,
            Kind::Structure if row.method == Method::Ivfflat => config.structure_interval_seconds,
            Kind::Structure => return false,
        } as f64;
        let Some((age_s, changes)) = self.last(row) else { return true };
        // A statistics reset makes the difference negative: then the time alone decides.
        let changed = (row.changes - changes) as f64 > row.rows.max(1.0) * CHANGED_SHARE;
        match self {
            Kind::Panel => age_s >= interval_s || changed,
            // The lists do not move while the rows stay: look again only for changes.
            Kind::Structure => age_s >= interval_s && changed,
        }
    }
}

/// Another draw each time: a measurement must not fit an index to one set of rows.
fn seed() -> Result<i64, Error> {
    Ok(Spi::get_one("SELECT extract(epoch FROM clock_timestamp())::bigint")?.unwrap_or(0))
}

fn inspect(collection: &Collection, row: &collect::IndexRow) -> Result<(), Error> {
    let (read, seed) = transaction(|| {
        let seed = seed()?;
        Ok((collect::read_structure(row, seed)?, seed))
    })?;
    // Outside any transaction: it takes a while, and a snapshot would hold back vacuum and concurrent builds.
    let structure = match read {
        Ok(raw) => collect::judge_structure(&raw, seed),
        Err(reason) => Reading::Unknown(reason),
    };
    transaction(|| keep(collection, row, Kind::Structure, seed, serde_json::to_value(&structure)?))
}

fn measure(collection: &Collection, row: &collect::IndexRow, config: &Config) -> Result<(), Error> {
    let seed = seed()?;
    let effort = collect::effort(row);
    let reading =
        collect::measure_recall(row, effort, config.panel_queries as u32, config.recall_k as u32, seed)?;
    keep(collection, row, Kind::Panel, seed, serde_json::to_value(&reading)?)
}

/// Stores a measurement until the next of its kind.
fn keep(
    collection: &Collection,
    row: &collect::IndexRow,
    kind: Kind,
    seed: i64,
    reading: serde_json::Value,
) -> Result<(), Error> {
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.readings AS r (index_id, kind, collection_id, relfilenode, measured_at, changes, seed, reading)
         VALUES ($1, $2, $3, $4, clock_timestamp(), $5, $6, $7)
         ON CONFLICT (index_id, kind) DO UPDATE
            SET (collection_id, relfilenode, measured_at, changes, seed, reading)
              = (EXCLUDED.collection_id, EXCLUDED.relfilenode, EXCLUDED.measured_at, EXCLUDED.changes, EXCLUDED.seed,
                 EXCLUDED.reading)",
        &[
            pg_sys::Oid::from(row.oid).into(),
            kind.name().into(),
            collection.id.into(),
            pg_sys::Oid::from(row.relfilenode).into(),
            row.changes.into(),
            seed.into(),
            JsonB(reading).into(),
        ],
    )?)
}
