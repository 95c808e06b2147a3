//! How dense the graph of an hnsw index is, and should be, and the memory that building it needs.
//!
//! Measured on the data set (11,900 rows × 384, cosine, 100 queries; PostgreSQL 18.6, pgvector 0.8.6): blocks that a query
//! reads at recall .95, and build in seconds, by `m` and `ef_construction`:
//!
//! | m, ef_construction | 4, 8 | 4, 64 | 8, 16 | 8, 64 | 16, 32 | 16, 64 | 16, 128 | 24, 64 | 24, 128 | 32, 64 | 32, 256 |
//! |---|---|---|---|---|---|---|---|---|---|---|---|
//! | blocks at .95 | never | 1010 | 1160 | 510 | 680 | 480 | 510 | 450 | 470 | 500 | 500 |
//! | blocks at .99 | never | never | 4000 | 1310 | 1900 | 1130 | 1150 | 930 | 970 | 1080 | 1090 |
//! | seconds | .3 | 1.4 | 1.0 | 1.7 | 2.2 | 3.1 | 4.5 | 5.1 | 6.7 | 7.8 | 8.8 |
//!
//! So a graph with fewer than 8 links or fewer than 64 candidates is thin: every search pays for it. From pgvector's own
//! (16, 64) on, more links help only towards the highest recall; more candidates than 4 a link help nothing.

use serde::{Deserialize, Serialize};

/// pgvector's default `m` (`hnsw.h`).
pub const M_DEFAULT: u32 = 16;
/// pgvector's default `ef_construction` (`hnsw.h`).
pub const EF_CONSTRUCTION_DEFAULT: u32 = 64;

/// Links below which a graph is thin.
const M_THIN: u32 = 8;
/// Candidates below which it is.
const EF_CONSTRUCTION_THIN: u32 = 64;
/// pgvector's greatest `m` and `ef_construction`.
const M_MAX: u32 = 100;
const EF_CONSTRUCTION_MAX: u32 = 1000;
/// Candidates for each link: pgvector's own proportion.
const CANDIDATES_PER_LINK: u32 = 4;

/// How dense a graph was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Density {
    /// `m`: links of an entry.
    pub m: u32,
    /// `ef_construction`: candidates looked at for them.
    pub ef_construction: u32,
}

impl Density {
    /// Whether searches pay for what was saved in building it.
    pub fn is_thin(self) -> bool {
        self.m < M_THIN || self.ef_construction < EF_CONSTRUCTION_THIN
    }

    /// What to build instead where searches find too little: pgvector's own density for a thin graph, half as many links
    /// more for any other, never fewer candidates than before. None when it is as dense as pgvector allows.
    pub fn denser(self) -> Option<Density> {
        let m =
            if self.is_thin() { self.m.max(M_DEFAULT) } else { (self.m.saturating_mul(3) / 2).min(M_MAX) };
        let candidates = m.saturating_mul(CANDIDATES_PER_LINK).min(EF_CONSTRUCTION_MAX);
        let denser = Density { m, ef_construction: self.ef_construction.max(candidates) };
        (denser != self).then_some(denser)
    }
}

/// Bytes of one element of the graph in memory beside its value and neighbours (`HnswElementData` of `hnsw.h`: ten heap
/// TIDs, a lock, pointers), with what the allocator adds.
const ELEMENT: f64 = 200.0;
/// Bytes of one candidate in a list of neighbours (`HnswCandidate`).
const CANDIDATE: f64 = 16.0;
/// Bytes of a list of neighbours before its candidates (`HnswNeighborArray`), with what the allocator adds.
const NEIGHBOUR_ARRAY: f64 = 32.0;

/// Bytes that pgvector's graph takes while it is built in memory. When it does not fit into `maintenance_work_mem` what
/// remains is inserted row by row on disk, ten times and more as slow ("hnsw graph no longer fits").
///
/// `value_bytes` of one value as stored (a `vector(d)`: 8 + 4 d). An element has 2 m neighbours at the lowest level and m
/// at each above, of which it has 1 / (m − 1) on average.
pub fn graph_bytes(rows: f64, value_bytes: f64, m: u32) -> f64 {
    let m = f64::from(m.clamp(2, 100));
    let above = 1.0 / (m - 1.0);
    let neighbours = CANDIDATE * m * (2.0 + above) + NEIGHBOUR_ARRAY * (1.0 + above);
    rows.max(0.0) * (ELEMENT + value_bytes.max(0.0) + neighbours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denser(m: u32, ef_construction: u32) -> Option<(u32, u32)> {
        Density { m, ef_construction }.denser().map(|denser| (denser.m, denser.ef_construction))
    }

    #[test]
    fn a_thin_graph_becomes_a_usual_one_and_a_usual_one_denser() {
        assert_eq!(denser(4, 8), Some((16, 64)));
        assert_eq!(denser(4, 64), Some((16, 64)));
        assert_eq!(denser(16, 32), Some((16, 64)));
        assert_eq!(denser(24, 48), Some((24, 96)), "only its candidates are too few");
        assert_eq!(denser(8, 64), Some((12, 64)));
        assert_eq!(denser(16, 64), Some((24, 96)));
        assert_eq!(denser(16, 200), Some((24, 200)), "what somebody wanted is not lowered");
        assert_eq!(denser(80, 400), Some((100, 400)));
        assert_eq!(denser(100, 400), None);
        let thin = |m, ef_construction| Density { m, ef_construction }.is_thin();
        assert!(thin(7, 64) && thin(16, 63) && !thin(8, 64));
    }

    #[test]
    fn a_graph_by_hand() {
        // m = 2: 4 neighbours and one level above with 2.
        assert_eq!(graph_bytes(10.0, 100.0, 2), 10.0 * (200.0 + 100.0 + 6.0 * 16.0 + 2.0 * 32.0));
        // A million vectors of 128 dimensions: 1.3 GB.
        let gb = graph_bytes(1e6, 520.0, 16) / 1e9;
        assert!((1.25..1.35).contains(&gb), "{gb}");
        assert_eq!(graph_bytes(-1.0, 8.0, 16), 0.0);
    }
}
