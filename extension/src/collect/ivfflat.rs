//! The structure of an ivfflat index: its centres from its own list pages, and a bounded row sample to hold them
//! against. Page layout: pgvector 0.8 (`ivfflat.h`), checked by magic number, version and page id.

use healing::ivf::{Metric, analyse};
use healing::snapshot::{IvfHealth, Reading};
use pgrx::prelude::*;

use super::catalog::IndexRow;
use crate::error::Error;
use crate::owner::{as_role, owner_of};

/// Rows of the sample for each list at least, however few `sample_rows` says: a fresh k-means trains on three quarters of
/// them and wants four a list.
const SAMPLE_ROWS_PER_LIST: usize = 6;
/// Numbers of the sample at most: 64 MiB.
const SAMPLE_VALUES: usize = 16 << 20;
/// Blocks read for the sample at most.
const SAMPLE_BLOCKS: f64 = 8_000.0;
const META_MAGIC: u32 = 0x014F_F1A7;
const META_VERSION: u32 = 1;
const PAGE_ID: u16 = 0xFF84;
/// Page header, `SizeOfPageHeaderData` rounded up.
const PAGE_CONTENTS: usize = 24;
/// Start and insert page before the centre in a list tuple.
const LIST_CENTRE: usize = 8;
const NO_BLOCK: u32 = u32::MAX;

/// What is read under a snapshot; judging it needs none.
pub(crate) struct Raw {
    centres: Vec<f32>,
    dims: usize,
    sample: Vec<f32>,
    metric: Metric,
}

/// Reads centres and a sample of at least so many rows. Must run in a transaction.
pub(crate) fn read(index: &IndexRow, rows: usize, seed: i64) -> Result<Result<Raw, String>, Error> {
    let halves = match index.key_type.rsplit('.').next().unwrap_or_default() {
        name if name.starts_with("halfvec") => true,
        name if name.starts_with("vector") => false,
        _ => return Ok(Err(format!("the lists of an index on {} are not judged", index.key_type))),
    };
    let metric = match index.operator.rsplit('.').next().unwrap_or_default() {
        "<->)" => Metric::L2,
        "<=>)" => Metric::Cosine,
        "<#>)" => Metric::InnerProduct,
        other => return Ok(Err(format!("distance operator {other} is not known"))),
    };
    let (centres, dims) = match centres(index.oid.into(), halves)? {
        Ok(read) => read,
        Err(reason) => return Ok(Err(reason)),
    };
    let Some(owner) = owner_of(index.table.into()) else {
        return Err(Error::refused("the table is gone"));
    };
    let sample = as_role(owner, || sample(index, dims, rows, centres.len() / dims.max(1), seed))?;
    Ok(Ok(Raw { centres, dims, sample, metric }))
}

/// Judges what was read; takes one or two seconds, so it should hold no snapshot.
pub(crate) fn judge(raw: &Raw, seed: i64) -> Reading<IvfHealth> {
    match analyse(&raw.centres, raw.dims, &raw.sample, raw.metric, seed as u64) {
        Ok(health) => Reading::Known(health),
        Err(error) => Reading::unknown(error.to_string()),
    }
}

/// Values of the sampled rows, row-major.
fn sample(index: &IndexRow, dims: usize, rows: usize, lists: usize, seed: i64) -> Result<Vec<f32>, Error> {
    let IndexRow { table_name: table, key, .. } = index;
    let condition = match &index.predicate {
        Some(predicate) => format!("({predicate}) AND ({key}) IS NOT NULL"),
        None => format!("({key}) IS NOT NULL"),
    };
    let blocks: i64 = Spi::get_one_with_args(
        "SELECT pg_relation_size($1) / current_setting('block_size')::bigint",
        &[pg_sys::Oid::from(index.table).into()],
    )?
    .unwrap_or(0);
    let rows = rows.max(SAMPLE_ROWS_PER_LIST * lists).min(SAMPLE_VALUES / dims.max(1));
    let percent = (100.0 * SAMPLE_BLOCKS / blocks.max(1) as f64).min(100.0);
    let query = format!(
        "SELECT ({key})::real[]
           FROM ONLY {table} TABLESAMPLE SYSTEM ({percent}) REPEATABLE ({seed})
          WHERE {condition} ORDER BY md5(ctid::text || {seed}) LIMIT {rows}"
    );
    Spi::connect(|client| {
        let mut values = Vec::new();
        for row in client.select(query.as_str(), None, &[])? {
            let Some(vector) = row.get::<Vec<f32>>(1)? else { continue };
            if vector.len() != dims {
                return Err(Error::refused(format!(
                    "a row has {} dimensions, the index {dims}",
                    vector.len()
                )));
            }
            values.extend(vector);
        }
        Ok(values)
    })
}

/// All centres, row-major, and their dimensions.
fn centres(index: pg_sys::Oid, halves: bool) -> Result<Result<(Vec<f32>, usize), String>, Error> {
    // SAFETY: an index of this database, opened under a lock that the transaction's end releases.
    let relation = unsafe { pg_sys::index_open(index, pg_sys::AccessShareLock as i32) };
    let read = || -> Result<(Vec<f32>, usize), String> {
        // SAFETY: as above.
        let blocks =
            unsafe { pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM) };
        if blocks < 2 {
            return Err("the index has no list pages".into());
        }
        let meta = page(relation, 0);
        let word = |page: &[u8], at: usize| {
            page.get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_ne_bytes)
                .ok_or("a page is cut short")
        };
        let half_word = |page: &[u8], at: usize| {
            page.get(at..at + 2)
                .and_then(|b| b.try_into().ok())
                .map(u16::from_ne_bytes)
                .ok_or("a page is cut short")
        };
        let (magic, version) = (word(&meta, PAGE_CONTENTS)?, word(&meta, PAGE_CONTENTS + 4)?);
        if (magic, version) != (META_MAGIC, META_VERSION) {
            return Err(format!("unknown ivfflat page layout (magic {magic:#x}, version {version})"));
        }
        let dims = usize::from(half_word(&meta, PAGE_CONTENTS + 8)?);
        let lists = usize::from(half_word(&meta, PAGE_CONTENTS + 10)?);
        let mut values = Vec::with_capacity(dims * lists);
        let mut block = 1;
        // A damaged chain must not go round for ever.
        for _ in 0..blocks {
            let page = page(relation, block);
            let lower = usize::from(half_word(&page, 12)?);
            let special = usize::from(half_word(&page, 16)?);
            if half_word(&page, special + 6)? != PAGE_ID {
                return Err(format!("block {block} is no ivfflat page"));
            }
            for item in (PAGE_CONTENTS..lower).step_by(4) {
                let offset = (word(&page, item)? & 0x7FFF) as usize;
                // Varlena header 4, dimensions 2, unused 2, then the values.
                let start = offset + LIST_CENTRE + 8;
                let width = if halves { 2 } else { 4 };
                let bytes = page.get(start..start + width * dims).ok_or("a list tuple is cut short")?;
                values.extend(bytes.chunks_exact(width).map(|value| match value {
                    [a, b] => half::f16::from_ne_bytes([*a, *b]).to_f32(),
                    [a, b, c, d] => f32::from_ne_bytes([*a, *b, *c, *d]),
                    _ => f32::NAN,
                }));
            }
            block = word(&page, special)?;
            if block == NO_BLOCK {
                break;
            }
            if block >= blocks {
                return Err(format!("the list pages point to block {block} of {blocks}"));
            }
        }
        if values.len() != dims * lists {
            return Err(format!("{} of {lists} lists found", values.len() / dims.max(1)));
        }
        Ok((values, dims))
    };
    let result = read();
    // SAFETY: opened above.
    unsafe { pg_sys::index_close(relation, pg_sys::AccessShareLock as i32) };
    Ok(result)
}

/// A copy of one page.
fn page(relation: pg_sys::Relation, block: u32) -> Vec<u8> {
    // SAFETY: the block exists; it is pinned and share-locked while it is copied.
    unsafe {
        pgrx::check_for_interrupts!();
        let buffer = pg_sys::ReadBuffer(relation, block);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let start = pg_sys::BufferGetPage(buffer).cast::<u8>();
        let copy = std::slice::from_raw_parts(start, pg_sys::BLCKSZ as usize).to_vec();
        pg_sys::UnlockReleaseBuffer(buffer);
        copy
    }
}
