//! The physics of one vector index: what it finds and reads at a search effort, and how large it is.
//!
//! Sizes are those of `healing::clean_size`; the curves of recall and work have the shape of what was measured on real
//! indexes (12,000 rows of 384 dimensions: 0.42 of them to be looked at with 12 lists, 0.23 with 100).

use std::cell::Cell;

use healing::clean_size::{PAGE_BYTES, hnsw_bytes, ivfflat_bytes};
use healing::snapshot::{IvfHealth, Method, Oid, Reading, RecallPoint, UnixMs};
use serde::{Deserialize, Serialize};

/// Rows up to which the model of hnsw sizes packs one by one.
const PACKED_ROWS: f64 = 4096.0;
/// `m` of every hnsw index here.
const M: u32 = 16;
/// hnsw finds all but this much at pgvector's default effort when it is as good as new.
const HNSW_MISS: f64 = 0.03;
/// That default effort.
const HNSW_EFFORT: f64 = 40.0;
/// Blocks that an hnsw search reads for one unit of effort.
const HNSW_BLOCKS: f64 = 2.5;
/// Share of the rows to be looked at for recall 0.95 with one list, and the power of the lists with which it falls.
const SHARE: (f64, f64) = (0.9, 0.3);
/// exp(−this) is missed when a search looks at as many rows as recall 0.95 wants.
const KNEE: f64 = 3.0;

/// Who made an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Maker {
    /// The application's owner.
    User,
    /// An action of the healer, by its number.
    Action(i64),
}

/// How far the index is from a fresh build, invisible to the healer but by its readings.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Shape {
    /// How badly the lists fit the rows: 0 trained on today's rows, 1 useless.
    pub misfit: f64,
    /// How much `misfit` grows an hour.
    pub misfit_per_hour: f64,
    /// Longest list ÷ that of a fresh build, less 1.
    pub skew: f64,
    /// How much of an hnsw graph's navigation is lost: 0 to 1.
    pub damage: f64,
}

/// A slow measurement with what says when it is due again.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken<T> {
    /// What was read.
    pub reading: Reading<T>,
    /// By the wall clock.
    pub measured_at: UnixMs,
    /// In truth.
    pub real: UnixMs,
    /// The table's counter of changes then.
    pub changes: i64,
    /// How often the statistics had been reset then.
    pub epoch: u32,
}

/// An index of the virtual catalog.
#[derive(Debug, Clone)]
pub struct Index {
    /// OID.
    pub oid: Oid,
    /// Its file.
    pub relfilenode: Oid,
    /// Name without schema.
    pub name: String,
    /// Access method.
    pub method: Method,
    /// `lists` (ivfflat).
    pub lists: Option<u32>,
    /// Bytes of one vector.
    pub value_bytes: u64,
    /// `indisvalid and indisready`.
    pub valid: bool,
    /// A session builds it now.
    pub building: bool,
    /// Attached to a partitioned index: it can be rebuilt in place only.
    pub attached: bool,
    /// Who made it.
    pub maker: Maker,
    /// Bytes now.
    pub bytes: u64,
    /// Its hidden health.
    pub shape: Shape,
    /// The row of `ruvector.search_effort`.
    pub effort: Option<u32>,
    /// The last panel.
    pub panel: Option<Taken<RecallPoint>>,
    /// The last inspection of the lists.
    pub structure: Option<Taken<IvfHealth>>,
    /// Rows and bytes of the last costly answer of [`Index::clean_bytes`].
    clean: Cell<(f64, u64)>,
    /// Pages of [`PACKED_ROWS`] rows in an hnsw index.
    hnsw_pages: f64,
}

impl Index {
    /// An index that was just begun: empty and not valid.
    pub fn begun(
        oid: Oid,
        name: String,
        method: Method,
        lists: Option<u32>,
        value_bytes: u64,
        maker: Maker,
    ) -> Self {
        let hnsw_pages = match method {
            // Below 2^53.
            Method::Hnsw => (hnsw_bytes(PACKED_ROWS, value_bytes, M) / PAGE_BYTES - 1) as f64,
            Method::Ivfflat => 0.0,
        };
        Self {
            oid,
            relfilenode: oid,
            name,
            method,
            lists,
            value_bytes,
            valid: false,
            building: true,
            attached: false,
            maker,
            bytes: 0,
            shape: Shape::default(),
            effort: None,
            panel: None,
            structure: None,
            clean: Cell::new((-1.0, 0)),
            hnsw_pages,
        }
    }

    /// Its build is complete, from this many rows.
    pub fn finish(&mut self, rows: f64, misfit: f64) {
        self.valid = true;
        self.building = false;
        self.bytes = self.clean_bytes(rows);
        self.shape = Shape { misfit, ..Shape::default() };
    }

    /// Schema-qualified name.
    pub fn qualified(&self) -> String {
        format!("public.{}", self.name)
    }

    /// Bytes of one index tuple (ivfflat).
    pub fn tuple_bytes(&self) -> f64 {
        (8 + self.value_bytes.next_multiple_of(8)) as f64
    }

    /// Bytes of a clean build of this many rows, by the healer's own model.
    pub fn clean_bytes(&self, rows: f64) -> u64 {
        match (self.method, self.hnsw_pages) {
            (Method::Ivfflat, _) => {
                ivfflat_bytes(rows, self.tuple_bytes(), self.lists.unwrap_or(100), self.value_bytes)
            }
            // The model packs so many rows one by one, which takes its time, and above grows in proportion.
            (Method::Hnsw, pages) if rows.round() >= PACKED_ROWS => {
                (1 + (pages * rows.round() / PACKED_ROWS).ceil() as u64) * PAGE_BYTES
            }
            (Method::Hnsw, _) => {
                let (cached, bytes) = self.clean.get();
                if cached == rows {
                    return bytes;
                }
                let bytes = hnsw_bytes(rows, self.value_bytes, M);
                self.clean.set((rows, bytes));
                bytes
            }
        }
    }

    /// Rows that a search must look at, against a fresh build with as many lists.
    pub fn work_ratio(&self) -> f64 {
        1.0 + 3.0 * self.shape.misfit
    }

    /// Distance of rows to their centre, against a fresh build.
    pub fn distance_ratio(&self) -> f64 {
        1.0 + 0.6 * self.shape.misfit
    }

    /// Recall@k at an effort, without noise.
    pub fn recall(&self, effort: u32) -> f64 {
        if !self.valid {
            return 0.0;
        }
        match self.method {
            Method::Ivfflat => {
                let lists = f64::from(self.lists.unwrap_or(100).max(1));
                let share = (f64::from(effort) / lists).min(1.0);
                let wanted = (SHARE.0 * lists.powf(-SHARE.1) * self.work_ratio()).min(1.0);
                (1.0 - (-KNEE * share / wanted).exp()) / (1.0 - (-KNEE / wanted).exp())
            }
            Method::Hnsw => {
                let miss = HNSW_MISS * (HNSW_EFFORT / f64::from(effort.max(1))).powf(0.9);
                (1.0 - miss * (1.0 + 8.0 * self.shape.damage)).max(0.0)
            }
        }
    }

    /// Buffers that a search reads at an effort, without noise.
    pub fn blocks(&self, effort: u32) -> f64 {
        match self.method {
            Method::Ivfflat => {
                let lists = f64::from(self.lists.unwrap_or(100).max(1));
                let share = (f64::from(effort) / lists).min(1.0);
                let pages = self.bytes as f64 / PAGE_BYTES as f64;
                // Long lists are probed more often than their number says.
                lists / 5.0 + share * pages * (1.0 + 0.3 * self.shape.skew)
            }
            Method::Hnsw => HNSW_BLOCKS * f64::from(effort),
        }
    }

    /// The effort that sessions get.
    pub fn effort(&self, server: (u32, u32)) -> u32 {
        self.effort.unwrap_or(match self.method {
            Method::Ivfflat => server.0,
            Method::Hnsw => server.1,
        })
    }

    /// Least effort that meets an objective, if one does.
    pub fn least_effort(&self, objective: f64) -> Option<u32> {
        let max = match self.method {
            Method::Ivfflat => self.lists.unwrap_or(100),
            Method::Hnsw => 1000,
        };
        // Recall rises with effort: bisect.
        let (mut low, mut high) = (0, max);
        if self.recall(high) < objective {
            return None;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.recall(middle) >= objective { high = middle } else { low = middle }
        }
        Some(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(method: Method, lists: Option<u32>, rows: f64) -> Index {
        let mut index = Index::begun(1, "i".into(), method, lists, 1544, Maker::User);
        index.finish(rows, 0.0);
        index
    }

    #[test]
    fn a_fresh_index_meets_the_objective_at_a_moderate_effort() {
        let ivf = built(Method::Ivfflat, Some(100), 12_000.0);
        let probes = ivf.least_effort(0.95).unwrap();
        assert!((15..30).contains(&probes), "{probes}");
        assert!((ivf.recall(100) - 1.0).abs() < 1e-9, "all lists find all");
        assert!(built(Method::Hnsw, None, 12_000.0).least_effort(0.95).unwrap() <= 40);
    }

    #[test]
    fn misfit_costs_recall_and_work_and_a_build_cures_it() {
        let mut ivf = built(Method::Ivfflat, Some(100), 12_000.0);
        let fresh = (ivf.recall(22), ivf.least_effort(0.95).unwrap());
        ivf.shape.misfit = 0.8;
        assert!(ivf.recall(22) < fresh.0 - 0.2 && ivf.least_effort(0.95).unwrap() > 2 * fresh.1);
        ivf.finish(12_000.0, 0.0);
        assert_eq!((ivf.recall(22), ivf.least_effort(0.95).unwrap()), fresh);
    }

    #[test]
    fn sizes_are_those_of_the_core() {
        for rows in [0.0, 17.0, 4095.0, 4096.0, 12_345.6, 60_000.0] {
            let hnsw = built(Method::Hnsw, None, 1.0);
            assert_eq!(hnsw.clean_bytes(rows), hnsw_bytes(rows, 1544, M), "{rows}");
        }
    }

    #[test]
    fn deletes_leave_the_size_and_a_build_shrinks_it() {
        let mut hnsw = built(Method::Hnsw, None, 20_000.0);
        let before = hnsw.bytes;
        assert!(hnsw.clean_bytes(8000.0) < before / 2);
        hnsw.finish(8000.0, 0.0);
        assert!(hnsw.bytes < before / 2);
    }
}
