//! The healer of one database: samples every collection and keeps the managed search efforts in shared memory.

use std::time::Duration;

use healing::config::Config;
use healing::snapshot::Reading;
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

/// One sample of one collection: a due recall panel first (at most one, they take their turns), then the catalogs.
fn sample(collection: &Collection, config: &Config) -> Result<(), Error> {
    if !collection.exists {
        return Err(Error::refused(
            "the table was dropped; SELECT ruvector_collection_unregister to forget it",
        ));
    }
    let rows = transaction(|| collect::indexes(collection))?;
    let due = rows.iter().filter(|row| row.valid && is_due(row, config)).max_by(|a, b| {
        let age = |row: &collect::IndexRow| row.panel_age_s.unwrap_or(f64::INFINITY);
        age(a).total_cmp(&age(b))
    });
    if let Some(row) = due {
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

fn is_due(row: &collect::IndexRow, config: &Config) -> bool {
    let (Some(age_s), Some(changes)) = (row.panel_age_s, row.panel_changes) else { return true };
    // A statistics reset makes the difference negative: then the time alone decides.
    let changed = (row.changes - changes) as f64;
    age_s >= config.panel_interval_seconds as f64 || changed > row.rows.max(1.0) * CHANGED_SHARE
}

fn measure(collection: &Collection, row: &collect::IndexRow, config: &Config) -> Result<(), Error> {
    // Another draw each time: the panel must not fit an index to one set of queries.
    let seed: i64 = Spi::get_one("SELECT extract(epoch FROM clock_timestamp())::bigint")?.unwrap_or(0);
    let effort = collect::effort(row);
    let reading =
        collect::measure_recall(row, effort, config.panel_queries as u32, config.recall_k as u32, seed)?;
    if let Reading::Unknown(reason) = &reading {
        pgrx::debug1!("ruvector: recall of {} not measured: {reason}", row.name);
    }
    Ok(Spi::run_with_args(
        "INSERT INTO ruvector.readings AS r (index_id, kind, collection_id, relfilenode, measured_at, changes, seed, reading)
         VALUES ($1, 'panel', $2, $3, clock_timestamp(), $4, $5, $6)
         ON CONFLICT (index_id, kind) DO UPDATE
            SET (collection_id, relfilenode, measured_at, changes, seed, reading)
              = (EXCLUDED.collection_id, EXCLUDED.relfilenode, EXCLUDED.measured_at, EXCLUDED.changes, EXCLUDED.seed,
                 EXCLUDED.reading)",
        &[
            pg_sys::Oid::from(row.oid).into(),
            collection.id.into(),
            pg_sys::Oid::from(row.relfilenode).into(),
            row.changes.into(),
            seed.into(),
            JsonB(serde_json::to_value(&reading)?).into(),
        ],
    )?)
}
