//! The recall panel: what users of an index get, and what it costs them.
//!
//! Rows drawn from the table serve as queries, each left out of its own result and truth (it would find itself and
//! flatter recall by 1/k). Truth is an exact scan. Distances are compared, not row identities, so that equal vectors
//! count alike. All of it runs as the table's owner, in a security-restricted context.

use healing::snapshot::{Reading, RecallPoint};
use pgrx::prelude::*;

use super::catalog::IndexRow;
use crate::error::Error;
use crate::hooks::with_only_index;
use crate::owner::{as_role, owner_of, set_local};

/// Distance computations of one measurement, rows × queries: a few seconds at 1000 dimensions.
const DISTANCES_MAX: f64 = 2e7;
/// Rows below which nearest neighbours say nothing about an index, as a multiple of k.
const ROWS_MIN_PER_K: f64 = 10.0;
/// Normal quantile of a 95 % interval.
const Z_95: f64 = 1.96;

/// Measures recall@k and buffers per query through `index` at search effort `effort`.
///
/// Must run in a transaction. The same seed on the same table draws the same queries.
pub(crate) fn measure(
    index: &IndexRow,
    effort: i32,
    queries: u32,
    k: u32,
    seed: i64,
) -> Result<Reading<RecallPoint>, Error> {
    let blocks: i64 = Spi::get_one_with_args(
        "SELECT pg_relation_size($1) / current_setting('block_size')::bigint",
        &[pg_sys::Oid::from(index.table).into()],
    )?
    .unwrap_or(0);
    if index.rows * f64::from(queries) > DISTANCES_MAX {
        return Ok(Reading::unknown(format!(
            "{:.0} rows × {queries} queries are more than the {DISTANCES_MAX:.0} distances of one measurement",
            index.rows
        )));
    }
    let Some(owner) = owner_of(index.table.into()) else {
        return Err(Error::refused("the table is gone"));
    };
    let setting = std::ffi::CString::new(index.method.effort_setting()).unwrap_or_default();
    let value = std::ffi::CString::new(effort.to_string()).unwrap_or_default();
    as_role(owner, || {
        set_local(&setting, &value);
        set_local(c"max_parallel_workers_per_gather", c"0");
        with_only_index(index.oid.into(), || panel(index, effort, queries, k, seed, blocks))
    })
}

fn panel(
    index: &IndexRow,
    effort: i32,
    queries: u32,
    k: u32,
    seed: i64,
    blocks: i64,
) -> Result<Reading<RecallPoint>, Error> {
    let IndexRow { table_name: table, key, key_type, operator, .. } = index;
    let condition = match &index.predicate {
        Some(predicate) => format!("({predicate}) AND ({key}) IS NOT NULL"),
        None => format!("({key}) IS NOT NULL"),
    };
    let probes = draw(table, key, &condition, queries, seed, blocks)?;
    if probes.len() < queries.min(8) as usize || index.rows < f64::from(k) * ROWS_MIN_PER_K {
        return Ok(Reading::unknown(format!("too few rows for recall@{k}: {} queries drawn", probes.len())));
    }
    let distance = format!("({key}) {operator} $1::{key_type}");
    let truth = format!(
        "SELECT ({distance})::float8 FROM ONLY {table} WHERE {condition} AND ctid <> $2::tid ORDER BY 1 LIMIT {k}"
    );
    let search = format!(
        "SELECT ctid <> $2::tid, ({distance})::float8 FROM ONLY {table} WHERE {condition} ORDER BY {distance} LIMIT {}",
        k + 1
    );

    let mut recalls = Vec::with_capacity(probes.len());
    let mut costs = Vec::with_capacity(probes.len());
    for (number, (row, vector)) in probes.iter().enumerate() {
        pgrx::check_for_interrupts!();
        let arguments = [vector.as_str().into(), row.as_str().into()];
        set_local(c"enable_indexscan", c"off");
        set_local(c"enable_seqscan", c"on");
        set_local(c"enable_sort", c"on");
        let exact = Spi::connect(|client| -> Result<Vec<f64>, Error> {
            let mut found = Vec::new();
            for row in client.select(truth.as_str(), None, &arguments)? {
                found.extend(row.get::<f64>(1)?);
            }
            Ok(found)
        })?;
        let Some(farthest) = exact.last() else { continue };
        // Rounding may differ between the two plans by some units in the last place.
        let limit = farthest + farthest.abs() * 1e-6 + 1e-9;

        set_local(c"enable_indexscan", c"on");
        set_local(c"enable_seqscan", c"off");
        set_local(c"enable_sort", c"off");
        if number == 0 && !plan_uses(&search, &arguments, &index.relation_name)? {
            return Ok(Reading::unknown("the planner cannot use this index for ORDER BY distance"));
        }
        let before = buffers();
        let found = Spi::connect(|client| -> Result<Vec<f64>, Error> {
            let mut found = Vec::new();
            for row in client.select(search.as_str(), None, &arguments)? {
                if row.get::<bool>(1)? == Some(true) {
                    found.extend(row.get::<f64>(2)?);
                }
            }
            Ok(found)
        })?;
        costs.push((buffers() - before) as f64);
        let hits = found.iter().take(k as usize).filter(|&&distance| distance <= limit).count();
        recalls.push(hits as f64 / exact.len() as f64);
    }
    let (recall, recall_ci) = mean_and_half_width(&recalls);
    let (blocks, blocks_ci) = mean_and_half_width(&costs);
    Ok(Reading::Known(RecallPoint {
        effort: effort as u32,
        recall,
        recall_ci,
        blocks,
        blocks_ci,
        queries: recalls.len() as u32,
    }))
}

/// Row identities and vectors (as text) of the queries.
fn draw(
    table: &str,
    key: &str,
    condition: &str,
    queries: u32,
    seed: i64,
    blocks: i64,
) -> Result<Vec<(String, String)>, Error> {
    // About 40 blocks a query are enough to draw from; of a small table, all.
    let percent = (100.0 * f64::from(queries) * 40.0 / blocks.max(1) as f64).min(100.0);
    let query = format!(
        "SELECT ctid::text, ({key})::text FROM ONLY {table} TABLESAMPLE SYSTEM ({percent}) REPEATABLE ({seed})
          WHERE {condition} ORDER BY md5(ctid::text || {seed}) LIMIT {queries}"
    );
    Spi::connect(|client| {
        let mut found = Vec::new();
        for row in client.select(query.as_str(), None, &[])? {
            if let (Some(identity), Some(vector)) = (row.get::<String>(1)?, row.get::<String>(2)?) {
                found.push((identity, vector));
            }
        }
        Ok(found)
    })
}

fn plan_uses(query: &str, arguments: &[pgrx::datum::DatumWithOid<'_>], index: &str) -> Result<bool, Error> {
    let plan = Spi::explain_with_args(query, arguments)?;
    Ok(mentions(&plan.0, index))
}

fn mentions(plan: &serde_json::Value, index: &str) -> bool {
    match plan {
        serde_json::Value::Object(fields) => {
            fields.get("Index Name").and_then(|name| name.as_str()) == Some(index)
                || fields.values().any(|value| mentions(value, index))
        }
        serde_json::Value::Array(items) => items.iter().any(|item| mentions(item, index)),
        _ => false,
    }
}

/// Buffers touched by this process so far.
fn buffers() -> i64 {
    // SAFETY: a plain C global of this process.
    unsafe { pg_sys::pgBufferUsage.shared_blks_hit + pg_sys::pgBufferUsage.shared_blks_read }
}

/// Mean and half width of its 95 % confidence interval (normal approximation over queries).
fn mean_and_half_width(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.len() < 2 {
        return (values.first().copied().unwrap_or(f64::NAN), f64::INFINITY);
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, Z_95 * (variance / n).sqrt())
}
