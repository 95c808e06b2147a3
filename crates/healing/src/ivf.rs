//! How well the lists of an ivfflat index fit the rows of today, judged on a row sample.
//!
//! The sample is assigned to the index's centres; how even the lists are is held against sampling noise. For drift,
//! a fresh k-means with as many lists is trained on three quarters of the sample, and both are tried on the last
//! quarter: which share of those rows must a search look at to find 95 % of the true neighbours? The quotient is
//! `work_ratio`.
//!
//! Measured on the data set (12,000 × 384, cosine, 50 to 200 lists, sample of 8,000): lists trained on all rows 0.81 to
//! 0.95 (they have seen more rows than the yardstick), on 600 rows 1.15 to 1.28, on 200 rows 1.22 to 1.39; longest
//! list against that of the fresh ones 0.8 to 1.0, and 1.5 to 2.2 of the badly trained ones.
//!
//! Cost: at most about [`OPERATIONS_MAX`] multiplications for each of: assignment, training, trial. Where the lists are
//! too many for the sample, the ratio is unknown, with the reason.

use serde::{Deserialize, Serialize};

use crate::kmeans::{Rows, Sequence, assign, dot, train};
use crate::snapshot::{CentroidGroup, IvfHealth, Reading};

/// Multiplications that one stage may take: measured 0.1 s a billion on one core with optimisation.
pub const OPERATIONS_MAX: f64 = 4e9;
/// Rows a list that the training part of the sample must have: with fewer a fresh k-means is no yardstick.
const TRAINING_ROWS_PER_LIST: usize = 4;
/// One row in so many is kept for the trial.
const TRIAL_PART: usize = 4;
/// Lloyd iterations at least (else unknown) and at most (later ones change little).
const ITERATIONS: (usize, usize) = (3, 10);
/// Queries of the trial.
const TRIAL_QUERIES: usize = 200;
/// Neighbours that count, as in recall@10.
const TRIAL_K: usize = 10;
/// Recall at which the work is compared.
const TRIAL_RECALL: f64 = 0.95;
/// Fewest rows of the trial part: the top 10 of fewer are no neighbourhood.
const TRIAL_ROWS_MIN: usize = 100;
/// Groups of lists at most: DESIGN's bound on centroid nodes a partition.
pub const GROUPS_MAX: usize = 16;
/// Nearest groups named for each.
const NEAREST: usize = 6;
/// Probability with which the noise bound holds for a perfectly even index.
const NOISE_QUANTILE: f64 = 0.99;

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
    // Fewer rows where assigning all would cost too much; the noise bound is that of the rows used.
    let affordable = (OPERATIONS_MAX / (lists * dims) as f64) as usize;
    order.truncate(affordable.max(TRIAL_ROWS_MIN));
    let sample = sample.pick(&order);

    let assigned = assign(&sample, &centres, spherical);
    let counts = count(&assigned, lists);
    let mean = sample.len() as f64 / lists as f64;
    let (skew_fresh, work_ratio) = match drift(&centres, &sample, &assigned, metric, sequence.next()) {
        Ok((skew, ratio)) => (Reading::Known(skew), Reading::Known(ratio)),
        Err(reason) => (Reading::unknown(reason.clone()), Reading::unknown(reason)),
    };
    Ok(IvfHealth {
        // pgvector allows 32,768 lists; samples are some thousand rows.
        lists: lists as u32,
        sampled_rows: sample.len() as u32,
        skew_factor: skew(&counts),
        skew_noise: even_max(sample.len(), lists, NOISE_QUANTILE) / mean,
        skew_fresh,
        work_ratio,
        groups: groups(&centres, &counts, mean, spherical, sequence.next()),
    })
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

/// The skew of a fresh k-means, and the work of the index against its work; or why they are not known.
fn drift(
    centres: &Rows,
    sample: &Rows,
    assigned: &[u32],
    metric: Metric,
    seed: u64,
) -> Result<(f64, f64), String> {
    let lists = centres.len();
    let trial_rows = sample.len() / TRIAL_PART;
    let training_rows = sample.len() - trial_rows;
    if trial_rows < TRIAL_ROWS_MIN {
        return Err(format!("{} sampled rows are too few to compare with fresh lists", sample.len()));
    }
    if training_rows < TRAINING_ROWS_PER_LIST * lists {
        return Err(format!(
            "{lists} lists are too many to train afresh on {training_rows} rows; {} would do",
            TRAINING_ROWS_PER_LIST * lists
        ));
    }
    let affordable = (OPERATIONS_MAX / (training_rows * lists * centres.dims) as f64) as usize;
    // One pass is the seeding.
    let iterations = affordable.saturating_sub(1).min(ITERATIONS.1);
    if iterations < ITERATIONS.0 {
        return Err(format!(
            "training {lists} lists of {} dimensions afresh would cost too much",
            centres.dims
        ));
    }
    let spherical = metric != Metric::L2;
    let training: Vec<usize> = (0..training_rows).collect();
    let mut training = sample.pick(&training);
    if spherical {
        training.normalise();
    }
    let fresh = train(&training, lists, iterations, spherical, seed);
    let trial: Vec<usize> = (training_rows..sample.len()).collect();
    let trial = sample.pick(&trial);
    let fresh_assigned = assign(&trial, &fresh, spherical);
    let skew_fresh = skew(&count(&fresh_assigned, lists));

    let biases = trial.biases(spherical);
    // The rows are in random order: the first are as good as any.
    let queries: Vec<(usize, Vec<usize>)> =
        (0..TRIAL_QUERIES.min(trial.len())).map(|at| (at, neighbours(&trial, &biases, at))).collect();
    let index_share = searched_share(&trial, &queries, centres, &assigned[training_rows..], spherical);
    let fresh_share = searched_share(&trial, &queries, &fresh, &fresh_assigned, spherical);
    // Both are above 0: finding a neighbour takes looking at a row at least.
    Ok((skew_fresh, index_share / fresh_share))
}

/// The nearest rows of the trial to one of them, itself left out.
fn neighbours(trial: &Rows, biases: &[f32], query: usize) -> Vec<usize> {
    let mut scored: Vec<(f32, usize)> = (0..trial.len())
        .filter(|&at| at != query)
        .map(|at| (biases[at] - dot(trial.row(query), trial.row(at)), at))
        .collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    scored.truncate(TRIAL_K);
    scored.into_iter().map(|(_, at)| at).collect()
}

/// The mean share of the rows that searches look at when each probes just as many lists as give 95 % recall on
/// average; between two numbers of lists it is interpolated.
fn searched_share(
    trial: &Rows,
    queries: &[(usize, Vec<usize>)],
    centres: &Rows,
    assigned: &[u32],
    spherical: bool,
) -> f64 {
    let lists = centres.len();
    let counts = count(assigned, lists);
    let biases = centres.biases(spherical);
    // Found neighbours and rows looked at in the p-th probed list, over all queries.
    let mut found = vec![0f64; lists];
    let mut looked_at = vec![0f64; lists];
    let mut wanted = 0.0;
    for (query, nearest) in queries {
        let mut ranked: Vec<(f32, usize)> = biases
            .iter()
            .enumerate()
            .map(|(list, bias)| (bias - dot(trial.row(*query), centres.row(list)), list))
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut place = vec![0usize; lists];
        for (probe, &(_, list)) in ranked.iter().enumerate() {
            place[list] = probe;
            looked_at[probe] += f64::from(counts[list]);
        }
        for &at in nearest {
            found[place[assigned[at] as usize]] += 1.0;
        }
        wanted += nearest.len() as f64;
    }
    let enough = TRIAL_RECALL * wanted;
    let all = (queries.len() * trial.len()) as f64;
    let (mut sum_found, mut sum_rows) = (0.0, 0.0);
    for (found, rows) in found.iter().zip(&looked_at) {
        if sum_found + found >= enough {
            let share = if *found > 0.0 { (enough - sum_found) / found } else { 1.0 };
            return (sum_rows + share * rows) / all;
        }
        sum_found += found;
        sum_rows += rows;
    }
    1.0
}

/// Groups the lists by nearness of their centres.
fn groups(centres: &Rows, counts: &[u32], mean: f64, spherical: bool, seed: u64) -> Vec<CentroidGroup> {
    let wanted = GROUPS_MAX.min(centres.len());
    let pass = (centres.len() * wanted * centres.dims) as f64;
    let iterations = ((0.2 * OPERATIONS_MAX / pass) as usize).clamp(1, ITERATIONS.1);
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

/// The cost model of [`choose_lists`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ListsModel {
    /// Share of the rows to be looked at for recall@10 0.95 with one list is this …
    pub share: f64,
    /// … and falls with the number of lists to the power of minus this.
    pub power: f64,
    /// Fewest lists: rows ÷ this (pgvector's advice).
    pub rows_per_list_max: f64,
    /// Most lists: this × √rows.
    pub root_max: f64,
}

/// Fitted to the data set (12,000 × 384, cosine): 0.42 of the rows at 12 lists, 0.23 at 100.
pub const LISTS_MODEL: ListsModel =
    ListsModel { share: 0.9, power: 0.3, rows_per_list_max: 1000.0, root_max: 4.0 };

/// pgvector's greatest `lists`.
const LISTS_MAX: f64 = 32_768.0;

/// The number of lists to build with: the one for which a search at the objective touches fewest pages, the pages
/// of all centres and those of the lists probed (the last page of each being half full).
///
/// `tuple_bytes` is the expected size of one index tuple, `centre_bytes` of one list tuple.
pub fn choose_lists(rows: f64, tuple_bytes: f64, centre_bytes: f64) -> u32 {
    if !(rows.is_finite() && rows >= 1.0) {
        return 1;
    }
    let ListsModel { share, power, rows_per_list_max, root_max } = LISTS_MODEL;
    let page = crate::clean_size::PAGE_BYTES as f64;
    let per_page = |bytes: f64| (page / bytes.clamp(8.0, page)).floor().max(1.0);
    let (row_pages, centres_per_page) = (rows / per_page(tuple_bytes), per_page(centre_bytes));
    let pages = |lists: f64| {
        lists / centres_per_page + (share * lists.powf(-power)).min(1.0) * (row_pages + 0.5 * lists)
    };
    let most = (root_max * rows.sqrt()).min(rows).clamp(1.0, LISTS_MAX);
    let least = (rows / rows_per_list_max).clamp(1.0, most);
    // Steps of 5 %: the cost is flat around its minimum.
    let mut best = (f64::INFINITY, least);
    let mut lists = least;
    while lists <= most {
        let cost = pages(lists);
        if cost < best.0 {
            best = (cost, lists);
        }
        lists *= 1.05;
    }
    best.1.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clumps around random centres, `spread` wide.
    fn clumps(clumps: usize, rows: usize, dims: usize, spread: f32, seed: u64) -> Vec<f32> {
        let mut s = Sequence::new(seed);
        let mut draw = |scale: f32| (s.unit() as f32 - 0.5) * scale;
        let middles: Vec<f32> = (0..clumps * dims).map(|_| draw(10.0)).collect();
        (0..rows)
            .flat_map(|row| {
                let start = row % clumps * dims;
                middles[start..start + dims].iter().map(|x| x + draw(spread)).collect::<Vec<_>>()
            })
            .collect()
    }

    fn rows(dims: usize, values: &[f32]) -> Rows {
        Rows { dims, values: values.to_vec() }
    }

    #[test]
    fn the_longest_of_even_lists_is_as_designed_says() {
        // Typical figures of DESIGN §8, then the bound above them.
        let typical = |rows: usize, lists: usize| even_max(rows, lists, 0.5) * lists as f64 / rows as f64;
        assert!((typical(2000, 100) - 1.65).abs() < 0.06, "{}", typical(2000, 100));
        // One row more or less is 0.4 here.
        assert!((typical(10_000, 4000) - 3.6).abs() < 0.41, "{}", typical(10_000, 4000));
        let bound = even_max(2000, 100, 0.99) / 20.0;
        assert!((1.85..2.1).contains(&bound), "{bound}");
        assert_eq!(even_max(500, 1, 0.99), 500.0);
        assert!(even_max(1_000_000, 2, 0.99) > 500_000.0);
    }

    #[test]
    fn the_noise_bound_holds_as_often_as_it_says() {
        let (rows, lists, rounds) = (2000, 100, 2000);
        let bound = even_max(rows, lists, NOISE_QUANTILE);
        let mut sequence = Sequence::new(11);
        let mut above = 0;
        for _ in 0..rounds {
            let mut counts = vec![0u32; lists];
            for _ in 0..rows {
                counts[sequence.below(lists)] += 1;
            }
            above += u32::from(f64::from(counts.into_iter().max().unwrap_or(0)) > bound);
        }
        // 1 % of 2000 is 20, standard deviation 4.5.
        assert!(above <= 38, "{above}");
    }

    #[test]
    fn lists_trained_on_the_rows_are_as_good_as_fresh_ones() {
        for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
            let data = clumps(400, 4000, 16, 10.0, 3);
            let mut training = rows(16, &data);
            if metric != Metric::L2 {
                training.normalise();
            }
            let centres = train(&training, 40, 10, metric != Metric::L2, 5);
            let health = analyse(&centres.values, 16, &data, metric, 1).unwrap();
            assert_eq!((health.lists, health.sampled_rows), (40, 4000));
            let ratio = *health.work_ratio.known().unwrap();
            assert!((0.8..1.15).contains(&ratio), "{metric:?} {ratio}");
            assert_eq!(health, analyse(&centres.values, 16, &data, metric, 1).unwrap(), "deterministic");
        }
    }

    #[test]
    fn lists_trained_elsewhere_need_more_work() {
        let before = clumps(40, 2000, 16, 6.0, 3);
        let today = clumps(40, 4000, 16, 6.0, 4);
        let centres = train(&rows(16, &before), 40, 10, false, 5);
        let health = analyse(&centres.values, 16, &today, Metric::L2, 1).unwrap();
        let ratio = *health.work_ratio.known().unwrap();
        assert!(ratio > 1.5, "{ratio}");
    }

    #[test]
    fn one_list_that_takes_half_the_rows_shows() {
        // Two columns far apart; nine of ten centres share the sparse one.
        let mut data = Vec::new();
        for i in 0..1000u16 {
            let x = if i % 2 == 0 { 0.0 } else { 100.0 + f32::from(i % 90) };
            data.extend([x, f32::from(i % 7) * 0.01]);
        }
        let mut centres = vec![0.0, 0.0];
        for i in 0..9u8 {
            centres.extend([105.0 + 10.0 * f32::from(i), 0.0]);
        }
        let health = analyse(&centres, 2, &data, Metric::L2, 1).unwrap();
        // 500 of 1000 rows in one of ten lists.
        assert!((health.skew_factor - 5.0).abs() < 1e-9, "{}", health.skew_factor);
        assert!(health.skew_noise < 1.5);
        let worst = health.groups.iter().find(|group| group.lists.contains(&0)).unwrap();
        assert!((worst.skew_factor - 5.0).abs() < 1e-9);
    }

    #[test]
    fn every_list_is_in_one_group_and_groups_name_their_nearest() {
        let data = clumps(30, 400, 8, 1.0, 9);
        let health = analyse(&data[..8 * 100], 8, &data, Metric::L2, 2).unwrap();
        let mut lists: Vec<u32> = health.groups.iter().flat_map(|group| group.lists.clone()).collect();
        lists.sort_unstable();
        assert_eq!(lists, (0..100).collect::<Vec<_>>());
        assert!(health.groups.len() <= GROUPS_MAX);
        for (number, group) in (0u32..).zip(&health.groups) {
            assert_eq!(group.nearest.len(), NEAREST.min(health.groups.len() - 1));
            assert!(!group.nearest.contains(&number));
        }
    }

    #[test]
    fn odd_input_gives_finite_figures_or_an_error() {
        let check = |health: IvfHealth| {
            let mut figures = vec![health.skew_factor, health.skew_noise];
            figures.extend(health.work_ratio.known());
            figures.extend(health.skew_fresh.known());
            figures.extend(health.groups.iter().map(|group| group.skew_factor));
            assert!(figures.iter().all(|x| x.is_finite()), "{health:?}");
        };
        for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
            let data = clumps(5, 400, 4, 1.0, 1);
            check(analyse(&[0.0; 4], 4, &data, metric, 1).unwrap());
            check(analyse(&[0.0; 40], 4, &data, metric, 1).unwrap());
            check(analyse(&data[..40], 4, &vec![1.0; 1600], metric, 1).unwrap());
            check(analyse(&data[..4], 4, &data[..4], metric, 1).unwrap());
            check(analyse(&data[..400], 4, &data[..40], metric, 1).unwrap());
            assert_eq!(analyse(&[], 4, &data, metric, 1), Err(IvfError::NoLists));
            assert_eq!(analyse(&data, 4, &[], metric, 1), Err(IvfError::NoSample));
            assert_eq!(analyse(&data, 0, &data, metric, 1), Err(IvfError::Shape { values: 1600, dims: 0 }));
            assert_eq!(analyse(&data, 3, &data, metric, 1), Err(IvfError::Shape { values: 1600, dims: 3 }));
            assert_eq!(analyse(&[f32::NAN; 4], 4, &data, metric, 1), Err(IvfError::NonFinite));
        }
        check(analyse(&[1.0; 8], 4, &[0.0; 1600], Metric::L2, 1).unwrap());
        assert_eq!(analyse(&[1.0; 8], 4, &[0.0; 1600], Metric::Cosine, 1), Err(IvfError::NoSample));
    }

    #[test]
    fn too_many_lists_for_the_sample_say_so() {
        let data = clumps(5, 800, 4, 1.0, 1);
        let health = analyse(&data, 4, &data, Metric::L2, 1).unwrap();
        assert_eq!(health.lists, 800);
        assert!(
            matches!(&health.work_ratio, Reading::Unknown(why) if why.contains("too many")),
            "{health:?}"
        );
    }

    #[test]
    fn the_number_of_lists_stays_in_bounds_and_follows_the_model() {
        // A 384-dimensional vector: 1544 bytes, five a page.
        let lists = choose_lists(12_000.0, 1552.0, 1552.0);
        assert!((200..=438).contains(&lists), "{lists}");
        assert_eq!(choose_lists(0.0, 100.0, 100.0), 1);
        assert_eq!(choose_lists(f64::NAN, 100.0, 100.0), 1);
        assert_eq!(choose_lists(1.0, 100.0, 100.0), 1);
        assert!(choose_lists(1e6, 1552.0, 1552.0) >= 1000);
        assert!(choose_lists(1e6, 1552.0, 1552.0) <= 4000);
        assert!(choose_lists(1e9, 1552.0, 1552.0) <= 32_768);
        assert!(choose_lists(1e4, f64::NAN, 0.0) >= 10);
    }
}
