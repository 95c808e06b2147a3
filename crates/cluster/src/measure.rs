//! What ordinary sessions find, and what it costs them: the measure that is not the healer's own.

use std::ops::Range;

use postgres::Client;

use crate::dataset::Embeddings;

/// What ordinary sessions get of a table.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Mean recall@10 by cosine distance.
    pub recall: f64,
    /// Mean shared buffers of one search, hits and reads, as EXPLAIN counts them.
    pub blocks: f64,
}

/// Searches `table (id, embedding)` by cosine distance with these rows of the data set and compares what comes back
/// with an exact scan. `session` is used as it is, with no setting changed; `exact` gets settings for exact scans.
///
/// # Errors
/// What the server says.
pub fn recall_of_sessions(
    session: &mut Client,
    exact: &mut Client,
    table: &str,
    data: &Embeddings,
    queries: Range<usize>,
) -> Result<Found, postgres::Error> {
    exact.batch_execute("SET enable_indexscan = off; SET max_parallel_workers_per_gather = 0")?;
    let (mut hits, mut wanted, mut blocks) = (0.0, 0.0, 0.0);
    let count = queries.len() as f64;
    for query in queries {
        let search =
            format!("SELECT id FROM {table} ORDER BY embedding <=> '{}' LIMIT 10", data.literal(query));
        let ids = |client: &mut Client| -> Result<Vec<i32>, postgres::Error> {
            Ok(client.query(search.as_str(), &[])?.iter().map(|row| row.get(0)).collect())
        };
        let truth = ids(exact)?;
        let found = ids(session)?;
        hits += truth.iter().filter(|id| found.contains(id)).count() as f64;
        wanted += truth.len() as f64;
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING off, COSTS off) {search}");
        blocks += session
            .query(explain.as_str(), &[])?
            .iter()
            // The first line with buffers is the plan's own; after it come its parts and the planning.
            .find_map(|line| buffers(line.get(0)))
            .unwrap_or(f64::NAN);
    }
    Ok(Found { recall: hits / wanted, blocks: blocks / count })
}

/// Sum of `hit=` and `read=` of a line `Buffers: shared hit=12 read=3`.
fn buffers(line: &str) -> Option<f64> {
    let counts = line.trim_start().strip_prefix("Buffers: shared ")?;
    let counted = |word: &str| word.strip_prefix("hit=").or(word.strip_prefix("read="))?.parse::<f64>().ok();
    Some(counts.split(' ').filter_map(counted).sum())
}

#[cfg(test)]
mod tests {
    #[test]
    fn buffers_of_a_plan_line() {
        assert_eq!(super::buffers("  Buffers: shared hit=12 read=3 dirtied=1"), Some(15.0));
        assert_eq!(super::buffers("Buffers: shared hit=7"), Some(7.0));
        assert_eq!(super::buffers("Planning Time: 1 ms"), None);
    }
}
