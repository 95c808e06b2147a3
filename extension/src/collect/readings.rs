//! The slow measurements (recall panel, structure of the lists): when each is due, and where it is kept between
//! samples and over restarts.

use healing::config::Config;
use healing::snapshot::{Method, Reading};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde::Deserialize;

use super::{Collection, IndexRow, effort, ivfflat, now_ms, panel};
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
        Err(error) if !error.is_lock_timeout() => {
            let reading = serde_json::to_value(Reading::<()>::unknown(error.to_string()))?;
            transaction(|| keep(collection, row, kind, seed()?, began, reading))
        }
        _ => Ok(()),
    }
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
    transaction(|| keep(collection, row, Kind::Structure, seed, began, structure))
}

fn measure(collection: &Collection, row: &IndexRow, config: &Config) -> Result<(), Error> {
    let began = now_ms();
    let (seed, effort) = transaction(|| Ok((seed()?, effort(row))))?;
    let reading = match panel::draw(row, config.panel_queries as u32, config.recall_k as u32, seed)? {
        Reading::Known(panel) => panel::search(&panel, row, effort)?,
        Reading::Unknown(reason) => Reading::Unknown(reason),
    };
    let reading = serde_json::to_value(&reading)?;
    transaction(|| keep(collection, row, Kind::Panel, seed, began, reading))
}

/// Stores a measurement, which began at this time, until the next of its kind.
fn keep(
    collection: &Collection,
    row: &IndexRow,
    kind: Kind,
    seed: i64,
    began: i64,
    reading: serde_json::Value,
) -> Result<(), Error> {
    let took_s = (now_ms() - began).max(0) as f64 / 1000.0;
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
