//! What is done in each partition a second, from the statistics views' counters between two looks.
//!
//! A look after a sample and one before the next: what our own measurements touch in between is in neither. What
//! maintenance touches cannot be told from what users do, so that a window in which it was at work says nothing: for a minute
//! the partition counts with the share of the collection's load that it had in the last window without, then it is unknown.

use std::cell::RefCell;
use std::collections::HashMap;

use healing::load::{carried_too_long, growth};
use healing::snapshot::{Load, Oid, Reading};
use serde::Deserialize;

use super::{Collection, documents, now_ms, tables};
use crate::error::Error;

/// Sessions report their counters at most once a second: rates over less time than this would be chance.
const WINDOW_MIN_MS: i64 = 900;

/// Counters of a partition since its statistics began.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct Counters {
    oid: Oid,
    /// Runs of VACUUM and ANALYZE.
    maintained: i64,
    /// Sum of the file numbers of its indexes: another one after a build.
    files: i64,
    /// Whether a vacuum, an analyze or a build is at work on it now.
    busy: bool,
    inserted: i64,
    updated: i64,
    deleted: i64,
    scans: i64,
    fetched: i64,
    hit: i64,
}

impl Counters {
    /// Rows inserted, updated and deleted.
    pub(super) fn changes(&self) -> i64 {
        self.inserted + self.updated + self.deleted
    }
}

/// What this process knows of one partition.
struct Known {
    at: i64,
    counters: Counters,
    /// Load over the last window that was long enough, and when the last ended that was measured.
    load: Option<(Reading<Load>, i64)>,
    /// Its load in the last window in which any of the collection's was measured: what [`growth`] is told by.
    then: Option<Load>,
}

thread_local! {
    static KNOWN: RefCell<HashMap<Oid, Known>> = RefCell::default();
}

/// One jsonb document a leaf table, `$1`.
const COUNTERS: &str = "
WITH working AS MATERIALIZED (
    SELECT v.relid FROM pg_stat_progress_vacuum v UNION SELECT a.relid FROM pg_stat_progress_analyze a
    UNION SELECT b.relid FROM pg_stat_progress_create_index b UNION SELECT c.relid FROM pg_stat_progress_cluster c)
SELECT jsonb_build_object('oid', t.oid::bigint,
       'maintained', pg_stat_get_vacuum_count(t.oid) + pg_stat_get_autovacuum_count(t.oid)
                   + pg_stat_get_analyze_count(t.oid) + pg_stat_get_autoanalyze_count(t.oid)
                   + pg_stat_get_vacuum_count(t.reltoastrelid) + pg_stat_get_autovacuum_count(t.reltoastrelid),
       'files', coalesce(x.files, 0), 'busy', EXISTS (SELECT FROM working w WHERE w.relid IN (t.oid, t.reltoastrelid)),
       'inserted', pg_stat_get_tuples_inserted(t.oid),
       'updated', pg_stat_get_tuples_updated(t.oid), 'deleted', pg_stat_get_tuples_deleted(t.oid),
       'scans', pg_stat_get_numscans(t.oid) + coalesce(x.scans, 0),
       'fetched', pg_stat_get_blocks_fetched(t.oid) + pg_stat_get_blocks_fetched(t.reltoastrelid) + coalesce(x.fetched, 0),
       'hit', pg_stat_get_blocks_hit(t.oid) + pg_stat_get_blocks_hit(t.reltoastrelid) + coalesce(x.hit, 0))
  FROM pg_class t
  LEFT JOIN LATERAL (SELECT sum(pg_stat_get_numscans(i.indexrelid)) FILTER (WHERE i.indrelid = t.oid)::bigint AS scans,
                            sum(pg_relation_filenode(i.indexrelid)::bigint)::bigint AS files,
                            sum(pg_stat_get_blocks_fetched(i.indexrelid))::bigint AS fetched,
                            sum(pg_stat_get_blocks_hit(i.indexrelid))::bigint AS hit
                       FROM pg_index i WHERE i.indrelid IN (t.oid, nullif(t.reltoastrelid, 0))) x ON true
 WHERE t.relkind = 'r'
   AND t.oid = ANY ($1)";

/// Before our own measurements: ends the window that [`begin`] began. Must run in a transaction.
pub(crate) fn end(collection: &Collection) -> Result<(), Error> {
    let (now, counters) = (now_ms(), read(collection)?);
    KNOWN.with_borrow_mut(|known| {
        let (mut measured, mut carried) = (Vec::new(), Vec::new());
        for counters in counters {
            let Some(before) = known.get(&counters.oid) else { continue };
            let window_ms = now - before.at;
            if window_ms < WINDOW_MIN_MS {
                continue;
            }
            if is_maintained(&before.counters, &counters) {
                carried.push(counters.oid);
            } else {
                measured.push((counters.oid, rates(&before.counters, &counters, window_ms as f64 / 1000.0)));
            }
        }
        let pairs = measured
            .iter()
            .filter_map(|(oid, load)| Some((load.known()?.blocks, known.get(oid)?.then?.blocks)));
        let growth = growth(pairs);
        // Nothing is told by a window in which nobody did anything: what was before it counts on.
        let told = growth > 0.0;
        for (oid, load) in measured {
            let Some(table) = known.get_mut(&oid) else { continue };
            if told && let Reading::Known(load) = load {
                table.then = Some(load);
            }
            table.load = Some((load, now));
        }
        for oid in carried {
            let Some(table) = known.get_mut(&oid) else { continue };
            let Some((load, at)) = &mut table.load else { continue };
            if let Some(unknown) = carried_too_long(*at, now) {
                *load = unknown;
            } else if let Some(then) = &mut table.then {
                *load = Reading::Known(then.times(growth));
                if told {
                    *then = then.times(growth);
                }
            }
        }
    });
    Ok(())
}

/// After our own measurements: begins the next window. Must run in a transaction of its own, after which ours before it
/// have been reported.
pub(crate) fn begin(collection: &Collection) -> Result<(), Error> {
    let (now, counters) = (now_ms(), read(collection)?);
    KNOWN.with_borrow_mut(|known| {
        for counters in counters {
            let (load, then) =
                known.remove(&counters.oid).map_or((None, None), |before| (before.load, before.then));
            known.insert(counters.oid, Known { at: now, counters, load, then });
        }
        // Tables that nobody asks about any more are gone.
        known.retain(|_, known| (0..86_400_000).contains(&(now - known.at)));
    });
    Ok(())
}

/// The load of a partition; None before the first window has ended.
pub(crate) fn of(partition: Oid) -> Option<Reading<Load>> {
    KNOWN.with_borrow(|known| known.get(&partition)?.load.as_ref().map(|(load, _)| load.clone()))
}

/// Whether maintenance was at work between two looks.
pub(super) fn is_maintained(before: &Counters, now: &Counters) -> bool {
    before.busy || now.busy || before.maintained != now.maintained || before.files != now.files
}

fn read(collection: &Collection) -> Result<Vec<Counters>, Error> {
    documents(COUNTERS, &[tables::of(collection)?.leaves().into()])
}

pub(super) fn rates(before: &Counters, now: &Counters, seconds: f64) -> Reading<Load> {
    let since = |of: fn(&Counters) -> i64| {
        let difference = of(now) - of(before);
        (difference >= 0).then_some(difference as f64 / seconds)
    };
    let read = || {
        let (blocks, hits) = (since(|c| c.fetched)?, since(|c| c.hit)?);
        Some(Load {
            blocks,
            inserted: since(|c| c.inserted)?,
            updated: since(|c| c.updated)?,
            deleted: since(|c| c.deleted)?,
            scans: since(|c| c.scans)?,
            hit_ratio: (blocks > 0.0).then(|| (hits / blocks).min(1.0)),
        })
    };
    read().map_or_else(|| Reading::unknown("its statistics were reset"), Reading::Known)
}
