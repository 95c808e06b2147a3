//! How well the lists of an ivfflat index fit the rows of today, judged on a row sample.
//!
//! The sample is assigned to the index's centres; how even the lists are is held against sampling noise, for the record:
//! skew does not tell good lists from bad ones (decision 0005). What does is how far the rows lie from their centres and
//! how many of them a search must look at, against fresh lists on the same sample: see [`structure`].
//!
//! Measured on the data set (`ivf/experiment.rs`; 11,700 rows × 384, cosine, sample of 4,000), least to greatest:
//!
//! | lists | trained on | distance | work | bad |
//! |---|---|---|---|---|
//! | 100 | 10,000 rows | .976–.988 | .886–1.001 | 0 of 100 |
//! | 100 | 5,850 rows | .987–1.001 | .929–1.019 | 0 of 30 |
//! | 100 | 200 rows | 1.127–1.156 | 1.426–1.794 | 100 of 100 |
//! | 100 | the tenth nearest to one row (drift) | 1.086–1.198 | 1.438–1.987 | 100 of 100 |
//! | 427 | 11,700 rows | .968–.979 | .899–.978 | 0 of 20 |
//! | 427 | 5,850 rows | 1.001–1.013 | .989–1.070 | 0 of 20 |
//! | 427 | 854 rows | 1.099–1.122 | 1.415–1.574 | 20 of 20 |
//! | 427 | 2,135 rows | 1.052–1.070 | 1.195–1.280 | 20 of 20 |
//! | 427 | the tenth nearest to one row | 1.147–1.226 | 1.629–2.251 | 20 of 20 |
//!
//! Skew against fresh lists or noise reaches 1.6 on the good ones and falls to .8 on the bad ones of 100 lists. With a
//! sample of 500 rows and 10 or 50 lists good ones stay below .995 and 1.04, bad ones above 1.11 and 1.10. Below four
//! training rows a list good ones begin to pass the limits (1,450 lists: 1.064), so there the ratios are unknown.
//!
//! Cost: at most about [`OPERATIONS_MAX`] multiplications; where the lists are too many for the sample, or too long, the
//! ratios are unknown, with the reason.

use serde::{Deserialize, Serialize};

pub use lists::{BUILD_MEMORY_BYTES, choose_lists, kmeans_bytes};

use crate::kmeans::{Rows, Sequence, assign, dot, train};
use crate::snapshot::{CentroidGroup, IvfHealth, Reading};
use structure::AgainstFresh;

#[cfg(test)]
mod experiment;
mod lists;
mod structure;
#[cfg(test)]
mod tests;

/// Multiplications that one analysis may take: measured 0.07 to 0.1 s a billion on one core with optimisation.
pub const OPERATIONS_MAX: f64 = 2.5e10;
/// Fewest rows that are assigned, however many the lists: below that the skew says nothing.
const ROWS_MIN: usize = 100;
/// Iterations that group the lists.
const GROUP_ITERATIONS: usize = 10;
/// Groups of lists at most: DESIGN's bound on centroid nodes a partition.
pub const GROUPS_MAX: usize = 16;
/// Nearest groups named for each.
const NEAREST: usize = 6;
/// Probability with which the noise bound holds for a perfectly even index.
const NOISE_QUANTILE: f64 = 0.99;
/// pgvector's greatest `lists` (`IVFFLAT_MAX_LISTS`).
const LISTS_MAX: f64 = 32_768.0;

/// The distance that the index's operator class searches by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Euclidean distance (`vector_l2_ops`).
    L2,
    /// Cosine distance (`vector_cosine_ops`): all vectors are brought to length 1; rows of zeros are not indexed.
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
    /// The sample is empty, or (cosine) holds only vectors of zeros, which are not indexed.
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
/// `centres` (in the order of the list pages) and `sample` are row-major with `dims` values a row; the sample is random
/// rows of the table, some thousands. The same arguments give the same result.
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
    for values in [centres, sample] {
        if dims == 0 || !values.len().is_multiple_of(dims) {
            return Err(IvfError::Shape { values: values.len(), dims });
        }
        if values.iter().any(|x| !x.is_finite()) {
            return Err(IvfError::NonFinite);
        }
    }
    if centres.is_empty() {
        return Err(IvfError::NoLists);
    }
    let spherical = metric != Metric::L2;
    let mut centres = Rows { dims, values: centres.to_vec() };
    let mut sample = Rows { dims, values: sample.to_vec() };
    if metric == Metric::Cosine {
        sample.values = sample
            .values
            .chunks_exact(dims)
            .filter(|row| row.iter().any(|x| *x != 0.0))
            .flatten()
            .copied()
            .collect();
        sample.normalise();
    }
    if sample.values.is_empty() {
        return Err(IvfError::NoSample);
    }
    if spherical {
        centres.normalise();
    }
    let lists = centres.len();
    let mut sequence = Sequence::new(seed);
    let mut order = sequence.shuffled(sample.len());
    let (rows, splits) = affordable(sample.len(), lists, dims);
    order.truncate(rows);
    let sample = sample.pick(&order);

    let assigned = assign(&sample, &centres, spherical);
    let counts = count(&assigned, lists);
    let mean = sample.len() as f64 / lists as f64;
    let fresh = match splits {
        Ok(splits) => {
            structure::against_fresh(&centres, &sample, &assigned, spherical, splits, sequence.next())
        }
        Err(reason) => Err(reason),
    };
    let figure = |figure: fn(&AgainstFresh) -> f64| match &fresh {
        Ok(fresh) => Reading::Known(figure(fresh)),
        Err(reason) => Reading::unknown(reason.clone()),
    };
    Ok(IvfHealth {
        // pgvector allows 32,768 lists; samples are some thousand rows.
        lists: lists as u32,
        sampled_rows: sample.len() as u32,
        skew_factor: skew(&counts),
        skew_noise: even_max(sample.len(), lists, NOISE_QUANTILE) / mean,
        skew_fresh: figure(|fresh| fresh.skew_fresh),
        distance_ratio: figure(|fresh| fresh.distance_ratio),
        work_ratio: figure(|fresh| fresh.work_ratio),
        groups: groups(&centres, &counts, mean, spherical, sequence.next()),
    })
}

/// How many rows of the sample to use, and over how many splits to hold the lists against fresh ones (or why not):
/// as many rows as all splits can take within [`OPERATIONS_MAX`], or, where those would be too few for a yardstick, as
/// one split can.
fn affordable(rows: usize, lists: usize, dims: usize) -> (usize, Result<usize, String>) {
    let most = |splits: usize| {
        // The cost grows with the rows.
        let affordable = |n: usize| structure::operations(n, lists, dims, splits) <= OPERATIONS_MAX;
        let (mut least, mut most) = (0, rows);
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            if affordable(middle) { least = middle } else { most = middle - 1 }
        }
        least
    };
    if let Err(too_few) = structure::enough(rows, lists) {
        return (most(0).max(ROWS_MIN.min(rows)), Err(too_few));
    }
    for splits in [structure::SPLITS, 1] {
        let rows = most(splits);
        if structure::enough(rows, lists).is_ok() {
            return (rows, Ok(splits));
        }
    }
    let reason = format!("training {lists} lists of {dims} dimensions afresh would cost too much");
    (most(0).max(ROWS_MIN.min(rows)), Err(reason))
}

fn count(assigned: &[u32], lists: usize) -> Vec<u32> {
    let mut counts = vec![0; lists];
    for &list in assigned {
        counts[list as usize] += 1;
    }
    counts
}

/// Longest ÷ mean list. `counts` is not empty.
fn skew(counts: &[u32]) -> f64 {
    let total: f64 = counts.iter().map(|&n| f64::from(n)).sum();
    let longest = counts.iter().max().copied().unwrap_or(0);
    if total > 0.0 { f64::from(longest) * counts.len() as f64 / total } else { 1.0 }
}

/// The length that the longest of `lists` equally likely lists does not exceed with this probability, for `rows`
/// rows: the lengths are taken as independent Poisson numbers, which is slightly too wide.
fn even_max(rows: usize, lists: usize, quantile: f64) -> f64 {
    if lists <= 1 {
        return rows as f64;
    }
    let mean = rows as f64 / lists as f64;
    // P(all ≤ m) = P(one ≤ m)^lists ≥ quantile, so P(one > m) ≤ 1 − quantile^(1 / lists).
    let allowed = -(quantile.ln() / lists as f64).exp_m1();
    // 20 standard deviations above the mean lies nothing that counts.
    let far = (mean + 20.0 * mean.sqrt() + 60.0).ceil() as usize;
    let mut log_factorial = 0.0;
    let mut probabilities = Vec::with_capacity(far + 1);
    for k in 0..=far {
        if k > 1 {
            log_factorial += (k as f64).ln();
        }
        probabilities.push((k as f64 * mean.ln() - mean - log_factorial).exp());
    }
    let mut tail = 0.0;
    for (k, probability) in probabilities.iter().enumerate().rev() {
        tail += probability;
        if tail > allowed {
            return k as f64;
        }
    }
    mean
}

/// Groups the lists by nearness of their centres.
fn groups(centres: &Rows, counts: &[u32], mean: f64, spherical: bool, seed: u64) -> Vec<CentroidGroup> {
    let wanted = GROUPS_MAX.min(centres.len());
    let pass = (centres.len() * wanted * centres.dims) as f64;
    let iterations = ((0.03 * OPERATIONS_MAX / pass) as usize).clamp(1, GROUP_ITERATIONS);
    let middles = train(centres, wanted, iterations, spherical, seed);
    let mut members: Vec<Vec<u32>> = vec![vec![]; wanted];
    for (list, group) in (0u32..).zip(assign(centres, &middles, spherical)) {
        members[group as usize].push(list);
    }
    // Equal centres leave groups empty.
    let kept: Vec<usize> = (0..wanted).filter(|&group| !members[group].is_empty()).collect();
    let biases = middles.biases(spherical);
    kept.iter()
        .map(|&group| {
            let mut near: Vec<(f32, u32)> = (0u32..)
                .zip(&kept)
                .filter(|(_, other)| **other != group)
                .map(|(number, &other)| (biases[other] - dot(middles.row(group), middles.row(other)), number))
                .collect();
            near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            near.truncate(NEAREST);
            let longest = members[group].iter().map(|&list| counts[list as usize]).max().unwrap_or(0);
            CentroidGroup {
                skew_factor: f64::from(longest) / mean,
                lists: std::mem::take(&mut members[group]),
                nearest: near.into_iter().map(|(_, number)| number).collect(),
            }
        })
        .collect()
}
