//! The slow measurements (recall panel, structure of the lists): when each is due, and where it is kept between
//! samples and over restarts.

use std::time::Duration;

use healing::config::Config;
use healing::snapshot::{Method, Reading, RecallPoint};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;

use super::panel::{self, Panel, Searched};
use super::{Collection, IndexRow, effort, ivfflat, now_ms};
use crate::error::Error;
use crate::kept;
use crate::transaction::transaction;

/// Share of a table's rows that must have changed for the panel to be measured again before its time.
const CHANGED_SHARE: f64 = 0.1;

/// Most of the time that goes into measuring one index: what takes a minute is not done again within half an hour.
const TIME_SHARE_MAX: f64 = 1.0 / 30.0;

/// When a measurement was made.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Last {
    age_s: f64,
    /// Seconds that it took.
    took_s: f64,
    /// Rows inserted + updated + deleted in the table by then.
    changes: i64,
}

/// The slow measurements.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
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

    fn last(self, row: &IndexRow) -> Option<Last> {
        match self {
            Kind::Panel => row.panel_last,
            Kind::Structure => row.structure_last,
        }
    }

    pub(crate) fn age_s(self, row: &IndexRow) -> f64 {
        self.last(row).map_or(f64::INFINITY, |last| last.age_s)
    }

    pub(crate) fn is_due(self, row: &IndexRow, config: &Config) -> bool {
        let interval_s = match self {
            Kind::Panel => config.panel_interval_seconds,
            Kind::Structure if row.method == Method::Ivfflat => config.structure_interval_seconds,
            Kind::Structure => return false,
        } as f64;
        let Some(Last { age_s, took_s, changes }) = self.last(row) else { return true };
        // A statistics reset makes the difference negative: nobody knows what has changed.
        let difference = (row.changes - changes) as f64;
        let changed = difference < 0.0 || difference > row.rows.max(1.0) * CHANGED_SHARE;
        let due = match self {
            Kind::Panel => age_s >= interval_s || changed,
            // The lists do not move while the rows stay: look again only for changes, or when the last look failed.
            Kind::Structure => {
                age_s >= interval_s && (changed || matches!(row.structure, Some(Reading::Unknown(_))))
            }
        };
        due && took_s <= TIME_SHARE_MAX * age_s
    }
}

/// Another draw each time: a measurement must not fit an index to one set of rows.
pub(crate) fn seed() -> Result<i64, Error> {
    Ok(kept::one("SELECT extract(epoch FROM clock_timestamp())::bigint", &[])?.unwrap_or(0))
}

/// Takes a measurement of an index and keeps it. Must run outside any transaction: it opens its own, short ones.
pub(crate) fn take(
    kind: Kind,
    collection: &Collection,
    row: &IndexRow,
    config: &Config,
) -> Result<(), Error> {
    match kind {
        Kind::Structure => inspect(collection, row, config),
        Kind::Panel => measure(collection, row, config),
    }
}

/// Takes a measurement, or keeps why it cannot be had: one index that raises an ERROR must not hide the others, nor be
/// asked at every sample. What was busy is asked again at the next one.
pub(crate) fn take_or_say_why(
    kind: Kind,
    collection: &Collection,
    row: &IndexRow,
    config: &Config,
) -> Result<(), Error> {
    let began = now_ms();
    match take(kind, collection, row, config) {
        Err(error) => say_why(kind, collection, row, began, &error),
        Ok(()) => Ok(()),
    }
}

fn say_why(
    kind: Kind,
    collection: &Collection,
    row: &IndexRow,
    began: i64,
    error: &Error,
) -> Result<(), Error> {
    if error.is_lock_timeout() {
        return Ok(());
    }
    let reading = serde_json::to_value(Reading::<()>::unknown(error.to_string()))?;
    transaction(|| keep(collection, row, kind, seed()?, since_s(began), reading))
}

fn inspect(collection: &Collection, row: &IndexRow, config: &Config) -> Result<(), Error> {
    let began = now_ms();
    let (read, seed) = transaction(|| {
        let seed = seed()?;
        Ok((ivfflat::read(row, config.sample_rows as usize, seed)?, seed))
    })?;
    // Outside any transaction: it takes a while, and a snapshot would hold back vacuum and concurrent builds.
    let structure = match read {
        Ok(raw) => ivfflat::judge(&raw, seed),
        Err(reason) => Reading::Unknown(reason),
    };
    let structure = serde_json::to_value(&structure)?;
    transaction(|| keep(collection, row, Kind::Structure, seed, since_s(began), structure))
}

fn measure(collection: &Collection, row: &IndexRow, config: &Config) -> Result<(), Error> {
    let began = now_ms();
    let (seed, effort) = transaction(|| Ok((seed()?, effort(row))))?;
    let reading = match panel::draw(row, config.panel_queries as u32, config.recall_k as u32, seed)? {
        Reading::Known(panel) => point(&panel, panel::search(&panel, row, effort)?),
        Reading::Unknown(reason) => Reading::Unknown(reason),
    };
    let reading = serde_json::to_value(&reading)?;
    transaction(|| keep(collection, row, Kind::Panel, seed, since_s(began), reading))
}

fn point(panel: &Panel, reading: Reading<Searched>) -> Reading<RecallPoint> {
    match reading {
        Reading::Known(searched) => Reading::Known(searched.point(panel)),
        Reading::Unknown(reason) => Reading::Unknown(reason),
    }
}

/// A recall panel of a large table, measured in the course of many rounds: between two steps the healer looks after all else.
pub(crate) struct LongMeasurement {
    collection: i32,
    row: IndexRow,
    seed: i64,
    drawing: panel::Drawing,
    /// Seconds that it has taken so far, rests apart.
    took_s: f64,
    /// Steps in a row that did not get their locks.
    locked_out: u32,
}

/// Share of the time that its steps take.
const STEPS_SHARE: f64 = 0.25;
/// Least rest between two steps: in between is a window in which the load of the table is counted.
const REST_MIN: Duration = Duration::from_millis(1200);
/// Rest after a step that did not get its locks, and how often in a row it is tried again.
const LOCKED_OUT_REST: Duration = Duration::from_secs(5);
const LOCKED_OUT_MAX: u32 = 60;
/// Bytes a second of a large table that are read for it, on the mean over the time between two.
const READ_RATE: f64 = 2e6;

impl LongMeasurement {
    /// Whether the panel of this index is one for many rounds.
    pub(crate) fn is_for(row: &IndexRow) -> bool {
        panel::is_long(row)
    }

    /// Whether the table was not read but lately.
    pub(crate) fn may_begin(row: &IndexRow) -> Result<bool, Error> {
        // What failed is tried again at the usual interval.
        if matches!(row.panel, Some(Reading::Unknown(_))) {
            return Ok(true);
        }
        let query = "SELECT coalesce(pg_table_size($1), 0)::float8";
        let bytes = transaction(|| kept::one::<f64>(query, &[pg_sys::Oid::from(row.table).into()]))?;
        Ok(Kind::Panel.age_s(row) >= bytes.unwrap_or(0.0) / READ_RATE)
    }

    /// Draws the queries; or keeps why there are none, and is none itself.
    pub(crate) fn begin(
        collection: &Collection,
        row: &IndexRow,
        config: &Config,
    ) -> Result<Option<Self>, Error> {
        let began = now_ms();
        let seed = transaction(seed)?;
        let drawing = panel::Drawing::begin(row, config.panel_queries as u32, config.recall_k as u32, seed);
        match drawing {
            Ok(Reading::Known(drawing)) => Ok(Some(Self {
                collection: collection.id,
                row: row.clone(),
                seed,
                drawing,
                took_s: since_s(began),
                locked_out: 0,
            })),
            Ok(Reading::Unknown(reason)) => {
                let reading = serde_json::to_value(Reading::<()>::unknown(reason))?;
                transaction(|| keep(collection, row, Kind::Panel, seed, since_s(began), reading))?;
                Ok(None)
            }
            Err(error) => say_why(Kind::Panel, collection, row, began, &error).map(|()| None),
        }
    }

    pub(crate) fn is_of(&self, collection: i32) -> bool {
        self.collection == collection
    }

    /// Takes the next step; after the last one keeps the reading, and is over. How long to rest before another one.
    pub(crate) fn go_on(mut self, collection: &Collection) -> Result<Option<(Self, Duration)>, Error> {
        let began = now_ms();
        // It was built anew meanwhile, or is gone.
        if !transaction(|| self.is_there())? {
            return Ok(None);
        }
        match self.drawing.step(&self.row) {
            Ok(false) => {
                let step_s = since_s(began);
                self.took_s += step_s;
                self.locked_out = 0;
                Ok(Some((self, REST_MIN.max(Duration::from_secs_f64(step_s * (1.0 / STEPS_SHARE - 1.0))))))
            }
            // The same step again later.
            Err(error) if error.is_lock_timeout() && self.locked_out < LOCKED_OUT_MAX => {
                self.locked_out += 1;
                Ok(Some((self, LOCKED_OUT_REST)))
            }
            Ok(true) => {
                let Self { row, seed, drawing, took_s, .. } = self;
                let effort = transaction(|| Ok(effort(&row)))?;
                let panel = drawing.panel();
                match panel::search(&panel, &row, effort) {
                    Ok(reading) => {
                        let reading = serde_json::to_value(point(&panel, reading))?;
                        let took_s = took_s + since_s(began);
                        transaction(|| keep(collection, &row, Kind::Panel, seed, took_s, reading))?;
                    }
                    Err(error) => say_why(Kind::Panel, collection, &row, began, &error)?,
                }
                Ok(None)
            }
            Err(error) => say_why(Kind::Panel, collection, &self.row, began, &error).map(|()| None),
        }
    }

    fn is_there(&self) -> Result<bool, Error> {
        let query = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = $1 AND relfilenode = $2)";
        let (oid, file) = (pg_sys::Oid::from(self.row.oid), pg_sys::Oid::from(self.row.relfilenode));
        Ok(kept::one(query, &[oid.into(), file.into()])?.unwrap_or(false))
    }
}

/// Seconds since this time.
fn since_s(began: i64) -> f64 {
    (now_ms() - began).max(0) as f64 / 1000.0
}

/// Stores a measurement, which took so many seconds, until the next of its kind.
fn keep(
    collection: &Collection,
    row: &IndexRow,
    kind: Kind,
    seed: i64,
    took_s: f64,
    reading: serde_json::Value,
) -> Result<(), Error> {
    kept::change(
        "INSERT INTO ruvector.readings AS r (index_id, kind, collection_id, relfilenode, measured_at, took_s, changes, seed, reading)
         VALUES ($1, $2, $3, $4, clock_timestamp(), $8, $5, $6, $7)
         ON CONFLICT (index_id, kind) DO UPDATE
            SET (collection_id, relfilenode, measured_at, took_s, changes, seed, reading)
              = (EXCLUDED.collection_id, EXCLUDED.relfilenode, EXCLUDED.measured_at, EXCLUDED.took_s, EXCLUDED.changes,
                 EXCLUDED.seed, EXCLUDED.reading)",
        &[
            pg_sys::Oid::from(row.oid).into(),
            kind.name().into(),
            collection.id.into(),
            pg_sys::Oid::from(row.relfilenode).into(),
            row.changes.into(),
            seed.into(),
            JsonB(reading).into(),
            took_s.into(),
        ],
    )
}
