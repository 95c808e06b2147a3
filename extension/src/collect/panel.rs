//! The recall panel: what users of an index get, and what it costs them.
//!
//! Rows drawn from the table serve as queries, each left out of its own result and truth (it would find itself and
//! flatter recall by 1/k). Truth is an exact scan. Distances are compared, not row identities, so that equal vectors
//! count alike. All of it runs as the table's owner, in a security-restricted context.

use std::ops::Range;
use std::time::{Duration, Instant};

use healing::snapshot::{Reading, RecallPoint};
use pgrx::prelude::*;

use super::catalog::IndexRow;
use crate::error::Error;
use crate::hooks::with_only_index;
use crate::owner::{as_role, owner_of, set_local};
use crate::transaction::transaction;

/// Distance computations of one draw, rows × queries: a few seconds at 1000 dimensions. Of large tables fewer queries
/// are drawn, and the interval is as wide as that makes it.
const DISTANCES_MAX: f64 = 2e7;
/// Rows above which even the fewest queries need more than that: a draw takes long then.
const ROWS_AT_ONCE: f64 = DISTANCES_MAX / QUERIES_MIN as f64;
/// Rows above which nothing is drawn: it would take most of an hour of a processor at 1000 dimensions.
const ROWS_MAX: f64 = 2e8;
/// Distance computations of one transaction of it: less than a second.
const DISTANCES_A_SCAN: f64 = 1e6;
/// Queries of one scan: each is a text of its vector in the statement.
const QUERIES_A_SCAN: usize = 64;
/// Fewest queries that say something.
const QUERIES_MIN: u32 = 8;
/// Rows below which nearest neighbours say nothing about an index, as a multiple of k.
const ROWS_MIN_PER_K: f64 = 10.0;
/// Normal quantile of a 95 % interval.
const Z_95: f64 = 1.96;

/// Queries with their true neighbours.
pub(crate) struct Panel {
    pub(crate) k: u32,
    queries: Vec<Query>,
}

struct Query {
    /// Identity of the row it is, which its own result leaves out.
    row: String,
    vector: String,
    /// True neighbours: k, or fewer where there are not as many rows.
    neighbours: usize,
    /// Distance of the farthest of them, with room for rounding that differs between two plans.
    farthest: f64,
}

impl Panel {
    /// Adds the queries of another draw.
    pub(crate) fn join(&mut self, other: Panel) {
        self.queries.extend(other.queries);
    }

    /// Finds the true neighbours once more, after searches that took a while: the rows that `index` covers may have been written to
    /// meanwhile. What a search found counts as true if it was so before or is so now. Of a neighbour that was deleted the next
    /// one takes the place: an index that is searched later than another must not look worse by that.
    pub(crate) fn look_again(&mut self, index: &IndexRow) -> Result<(), Error> {
        for some in self.queries.chunks_mut(QUERIES_A_SCAN) {
            let probes = some.iter().map(|query| (query.row.clone(), query.vector.clone())).collect();
            let mut again = Drawing::of(index, probes, self.k, transaction(|| blocks(index))?);
            while !again.step(index)? {}
            for (query, now) in some.iter_mut().zip(again.panel_of_all()) {
                if now.neighbours > 0 {
                    query.farthest = query.farthest.max(now.farthest);
                }
            }
        }
        Ok(())
    }
}

/// Room for two plans that round a distance differently, by some units in the last place.
fn rounding(distance: f64) -> f64 {
    distance.abs() * 1e-6 + 1e-9
}

/// Draws queries from the rows that `index` covers and finds their true neighbours by an exact scan.
///
/// Opens its own, short transactions, a range of blocks each: vacuum and concurrent builds wait for none of them long. A
/// row that moves meanwhile may be missed or met twice. The same seed on the same table draws the same queries.
pub(crate) fn draw(index: &IndexRow, queries: u32, k: u32, seed: i64) -> Result<Reading<Panel>, Error> {
    let mut drawing = match Drawing::begin(index, queries, k, seed)? {
        Reading::Known(drawing) => drawing,
        Reading::Unknown(reason) => return Ok(Reading::Unknown(reason)),
    };
    while !drawing.step(index)? {}
    Ok(Reading::Known(drawing.panel()))
}

/// Whether a draw from this index is one for several rounds of the healer.
pub(crate) fn is_long(index: &IndexRow) -> bool {
    index.rows > ROWS_AT_ONCE
}

/// A draw under way: a transaction a step, in between of which others have their turn.
pub(crate) struct Drawing {
    k: u32,
    condition: String,
    /// Row identities and vectors of the queries.
    probes: Vec<(String, String)>,
    /// Of each query the distances of its nearest rows so far.
    nearest: Vec<Vec<f64>>,
    /// The table's blocks when it began, how many a step reads, and where the next one begins.
    blocks: i64,
    step: i64,
    next: i64,
}

impl Drawing {
    /// Draws the queries; or says why there is nothing to be measured.
    pub(crate) fn begin(index: &IndexRow, queries: u32, k: u32, seed: i64) -> Result<Reading<Self>, Error> {
        if index.rows > ROWS_MAX {
            return Ok(Reading::unknown(format!(
                "true neighbours are not sought among more than {ROWS_MAX:.0} rows: it has {:.0}",
                index.rows
            )));
        }
        let queries = queries.min((DISTANCES_MAX / index.rows.max(1.0)) as u32).max(QUERIES_MIN);
        let condition = condition(index);
        let (probes, blocks) = transaction(|| {
            let blocks = blocks(index)?;
            Ok((as_owner(index, || probes(index, &condition, queries, seed, blocks))?, blocks))
        })?;
        if probes.len() < QUERIES_MIN as usize || index.rows < f64::from(k) * ROWS_MIN_PER_K {
            return Ok(Reading::unknown(format!(
                "too few rows for recall@{k}: {} queries drawn",
                probes.len()
            )));
        }
        Ok(Reading::Known(Self::of(index, probes, k, blocks)))
    }

    /// Of these queries: identities and vectors of rows.
    fn of(index: &IndexRow, probes: Vec<(String, String)>, k: u32, blocks: i64) -> Self {
        let distances_a_block = index.rows / blocks.max(1) as f64 * probes.len() as f64;
        let step = ((DISTANCES_A_SCAN / distances_a_block.max(1.0)) as i64).max(1);
        let nearest = vec![Vec::with_capacity(k as usize + 1); probes.len()];
        Self { k, condition: condition(index), probes, nearest, blocks, step, next: 0 }
    }

    /// Scans the next blocks, in a transaction of its own. Whether they were the last.
    pub(crate) fn step(&mut self, index: &IndexRow) -> Result<bool, Error> {
        if self.next < self.blocks {
            let range = self.next..self.next + self.step;
            let Self { k, condition, probes, nearest, .. } = self;
            transaction(|| as_owner(index, || scan(index, condition, probes, *k, &range, nearest)))?;
            self.next = range.end;
        }
        Ok(self.next >= self.blocks)
    }

    pub(crate) fn panel(self) -> Panel {
        let k = self.k;
        let queries = self.panel_of_all().into_iter().filter(|query| query.neighbours > 0).collect();
        Panel { k, queries }
    }

    /// Each query, also one without any neighbour.
    fn panel_of_all(self) -> Vec<Query> {
        let query = |((row, vector), distances): ((String, String), Vec<f64>)| {
            let farthest = distances.last().map_or(0.0, |farthest| farthest + rounding(*farthest));
            Query { row, vector, neighbours: distances.len(), farthest }
        };
        self.probes.into_iter().zip(self.nearest).map(query).collect()
    }
}

/// Time after which no further query begins in a transaction. At a great effort on a large index one takes a while, and what is the
/// owner's may only keep us for so long ([`as_role`]).
const SEARCHES_MAX: Duration = Duration::from_secs(1);

/// What each query of a panel found at a search effort, and what it cost.
#[derive(Default)]
pub(crate) struct Searched {
    effort: u32,
    /// Distances of what was found, the query's own row left out, ascending.
    found: Vec<Vec<f64>>,
    costs: Vec<f64>,
}

impl Searched {
    /// Recall@k and buffers per query.
    pub(crate) fn point(&self, panel: &Panel) -> RecallPoint {
        let recall = |(found, query): (&Vec<f64>, &Query)| {
            let hits =
                found.iter().take(panel.k as usize).filter(|&&distance| distance <= query.farthest).count();
            hits.min(query.neighbours) as f64 / query.neighbours as f64
        };
        let recalls: Vec<f64> = self.found.iter().zip(&panel.queries).map(recall).collect();
        let (recall, recall_ci) = mean_and_half_width(&recalls);
        let (blocks, blocks_ci) = mean_and_half_width(&self.costs);
        let queries = recalls.len() as u32;
        RecallPoint { effort: self.effort, recall, recall_ci, blocks, blocks_ci, queries }
    }
}

/// Searches for each query of the panel through `index` at this search effort.
///
/// Opens its own, short transactions: vacuum and concurrent builds wait for none of them long.
pub(crate) fn search(panel: &Panel, index: &IndexRow, effort: i32) -> Result<Reading<Searched>, Error> {
    let setting = std::ffi::CString::new(index.method.effort_setting()).unwrap_or_default();
    let value = std::ffi::CString::new(effort.to_string()).unwrap_or_default();
    let mut searched = Searched { effort: effort as u32, ..Searched::default() };
    while searched.found.len() < panel.queries.len() {
        let refused = transaction(|| {
            as_owner(index, || {
                set_local(&setting, &value);
                set_local(c"enable_seqscan", c"off");
                set_local(c"enable_sort", c"off");
                with_only_index(index.oid.into(), || search_some(panel, index, &mut searched))
            })
        })?;
        if let Some(why) = refused {
            return Ok(Reading::unknown(why));
        }
    }
    Ok(Reading::Known(searched))
}

/// Carries out the next queries, at least one; why none of them says anything, if so.
fn search_some(
    panel: &Panel,
    index: &IndexRow,
    searched: &mut Searched,
) -> Result<Option<&'static str>, Error> {
    let began = Instant::now();
    let IndexRow { table_name: table, .. } = index;
    let (distance, condition) = (distance(index), condition(index));
    let search = format!(
        "SELECT ctid <> $2::tid, ({distance})::float8 FROM ONLY {table} WHERE {condition} ORDER BY {distance} LIMIT {}",
        panel.k + 1
    );
    for (number, query) in panel.queries.iter().skip(searched.found.len()).enumerate() {
        if number > 0 && began.elapsed() >= SEARCHES_MAX {
            break;
        }
        pgrx::check_for_interrupts!();
        let arguments = [query.vector.as_str().into(), query.row.as_str().into()];
        if number == 0 && !plan_uses(&search, &arguments, &index.relation_name)? {
            return Ok(Some("the planner cannot use this index for ORDER BY distance"));
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
        searched.costs.push((buffers() - before) as f64);
        searched.found.push(found);
    }
    Ok(None)
}

fn as_owner<T>(index: &IndexRow, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let Some(owner) = owner_of(index.table.into()) else {
        return Err(Error::refused("the table is gone"));
    };
    as_role(owner, || {
        set_local(c"max_parallel_workers_per_gather", c"0");
        work()
    })
}

fn condition(index: &IndexRow) -> String {
    let key = &index.key;
    match &index.predicate {
        Some(predicate) => format!("({predicate}) AND ({key}) IS NOT NULL"),
        None => format!("({key}) IS NOT NULL"),
    }
}

fn distance(index: &IndexRow) -> String {
    let IndexRow { key, key_type, operator, .. } = index;
    format!("({key}) {operator} $1::{key_type}")
}

/// Rows fetched at a time.
const FETCH: i64 = 500;

/// Keeps the distances of the k nearest rows to each query, ascending, from one scan of some blocks: each row is read
/// (and, if it is a long one, put together from its TOAST chunks) once for all queries.
fn scan(
    index: &IndexRow,
    condition: &str,
    probes: &[(String, String)],
    k: u32,
    blocks: &Range<i64>,
    nearest: &mut [Vec<f64>],
) -> Result<(), Error> {
    // What is left is a scan of the range of row identities.
    set_local(c"enable_seqscan", c"off");
    set_local(c"enable_indexscan", c"off");
    set_local(c"enable_bitmapscan", c"off");
    let IndexRow { table_name: table, key, key_type, operator, .. } = index;
    // The vectors are PostgreSQL's own text of values of this type: digits and brackets, nothing to quote.
    let distances: Vec<String> = probes
        .iter()
        .map(|(_, vector)| format!("(({key}) {operator} '{vector}'::{key_type})::float8"))
        .collect();
    let query = format!(
        "SELECT ctid::text, ARRAY[{}] FROM ONLY {table}
          WHERE ctid >= '({},0)'::tid AND ctid < '({},0)'::tid AND {condition}",
        distances.join(", "),
        blocks.start,
        blocks.end
    );
    Spi::connect(|client| -> Result<(), Error> {
        let mut cursor = client.open_cursor(query.as_str(), &[]);
        loop {
            pgrx::check_for_interrupts!();
            let rows = cursor.fetch(FETCH)?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                let identity = row.get::<String>(1)?.unwrap_or_default();
                let Some(distances) = row.get::<Vec<f64>>(2)? else { continue };
                for ((kept, distance), (own, _)) in nearest.iter_mut().zip(distances).zip(probes) {
                    // A row of zeros has no cosine distance: it is no neighbour, and an index has no entry of it.
                    if identity != *own && !distance.is_nan() {
                        keep_nearest(kept, distance, k as usize);
                    }
                }
            }
        }
    })
}

/// Keeps the `k` smallest values, ascending.
fn keep_nearest(kept: &mut Vec<f64>, distance: f64, k: usize) {
    if kept.len() == k && kept.last().is_none_or(|last| distance.total_cmp(last).is_ge()) {
        return;
    }
    let at = kept.partition_point(|other| other.total_cmp(&distance).is_le());
    kept.insert(at, distance);
    kept.truncate(k);
}

/// Blocks of the index's table.
fn blocks(index: &IndexRow) -> Result<i64, Error> {
    let query = "SELECT pg_relation_size($1) / current_setting('block_size')::bigint";
    Ok(Spi::get_one_with_args(query, &[pg_sys::Oid::from(index.table).into()])?.unwrap_or(0))
}

/// Row identities and vectors (as text) of the queries.
fn probes(
    index: &IndexRow,
    condition: &str,
    queries: u32,
    seed: i64,
    blocks: i64,
) -> Result<Vec<(String, String)>, Error> {
    let IndexRow { table_name: table, key, .. } = index;
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
