//! The yardstick: a fresh k-means with as many lists, trained on three quarters of the row sample. Index and fresh lists
//! are both tried on the last quarter, and on as many of the rows that the fresh ones were trained on.
//!
//! Why on both: on rows held out, fresh lists of few rows each are worse than the rows allow, on rows they were trained
//! on better, and by about as much; the index, trained on other rows, is neither. Held out alone, lists trained on the
//! whole table read a distance of .96 at 30 training rows a list and .90 at 7, and bad ones pass for good there (1.02
//! and 1.13 times fresh for 427 lists trained on 854 rows, 4,000 sampled); on both, see the table in [`super`].
//!
//! `distance_ratio` is the mean distance to the nearest centre, the farthest tenth of the rows left out, index ÷ fresh.
//! `work_ratio` is the geometric mean over recall .80, .85, .90 and .95 of the rows that a search must look at, index ÷
//! fresh, with every row tried as a query. One split would be one draw, and a reading is kept and reused between
//! inspections, so that the samples of the state's dwell time all see the same one: three splits are therefore drawn
//! here, and the median of each figure counts.

use crate::kmeans::{Rows, Sequence, assign, dot, train};

use super::{count, skew};

/// Splits of the sample; the median of each figure counts.
pub(super) const SPLITS: usize = 3;
/// One row in so many is held out, and as many of the others are tried.
const TRIAL_PART: usize = 4;
/// Fewest held-out rows: the top 10 of fewer are no neighbourhood.
const TRIAL_ROWS_MIN: usize = 100;
/// Rows a list that the training part of the sample must have: with fewer a fresh k-means is no yardstick.
const TRAINING_ROWS_PER_LIST: usize = 4;
/// Lloyd iterations of the fresh lists; later ones change little.
const ITERATIONS: usize = 6;
/// Neighbours that count, as in recall@10.
const TRIAL_K: usize = 10;
/// Recalls at which the work is compared. One alone is a noisier figure: the mean of several separates.
const TRIAL_RECALLS: [f64; 4] = [0.80, 0.85, 0.90, 0.95];
/// Share of the rows, those farthest from their centre, that the mean distance leaves out: outliers are far from any.
const TRIMMED: f64 = 0.1;

/// An index against fresh lists.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AgainstFresh {
    /// Longest ÷ mean list of the fresh ones.
    pub(super) skew_fresh: f64,
    /// Trimmed mean distance to the nearest centre, index ÷ fresh.
    pub(super) distance_ratio: f64,
    /// Rows looked at for the same recall, index ÷ fresh.
    pub(super) work_ratio: f64,
}

/// Multiplications that all of `analyse` takes on so many rows: the whole sample's assignment; then for each split
/// seeding and iterations on three quarters of it; then twice, on a quarter, assignment, true neighbours and ranks of
/// the lists.
pub(super) fn operations(rows: usize, lists: usize, dims: usize, splits: usize) -> f64 {
    let (rows, lists) = (rows as f64, lists as f64);
    let trial = rows / TRIAL_PART as f64;
    let training = rows - trial;
    let split = (ITERATIONS + 1) as f64 * training * lists + 2.0 * trial * (lists + trial + 2.0 * lists);
    dims as f64 * (rows * lists + splits as f64 * split)
}

/// Whether a sample of so many rows has enough for a yardstick.
///
/// # Errors
/// Why it has not.
pub(super) fn enough(rows: usize, lists: usize) -> Result<(), String> {
    let training = rows - rows / TRIAL_PART;
    if rows / TRIAL_PART < TRIAL_ROWS_MIN {
        return Err(format!("{rows} sampled rows are too few to compare with fresh lists"));
    }
    if training < TRAINING_ROWS_PER_LIST * lists {
        return Err(format!(
            "{lists} lists are too many to train afresh on {training} rows; {} would do",
            TRAINING_ROWS_PER_LIST * lists
        ));
    }
    Ok(())
}

/// Holds the index against fresh lists, over so many random splits of the sample.
///
/// # Errors
/// Why there is no figure.
pub(super) fn against_fresh(
    centres: &Rows,
    sample: &Rows,
    assigned: &[u32],
    spherical: bool,
    splits: usize,
    seed: u64,
) -> Result<AgainstFresh, String> {
    enough(sample.len(), centres.len())?;
    let mut sequence = Sequence::new(seed);
    let mut readings = Vec::with_capacity(splits);
    for _ in 0..splits {
        readings.push(one_split(centres, sample, assigned, spherical, &mut sequence)?);
    }
    let median = |figure: fn(&AgainstFresh) -> f64| {
        let mut figures: Vec<f64> = readings.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().ok_or_else(|| "no split was drawn".to_owned())
    };
    Ok(AgainstFresh {
        skew_fresh: median(|r| r.skew_fresh)?,
        distance_ratio: median(|r| r.distance_ratio)?,
        work_ratio: median(|r| r.work_ratio)?,
    })
}

fn one_split(
    centres: &Rows,
    sample: &Rows,
    assigned: &[u32],
    spherical: bool,
    sequence: &mut Sequence,
) -> Result<AgainstFresh, String> {
    let order = sequence.shuffled(sample.len());
    let (held_out, training) = order.split_at(sample.len() / TRIAL_PART);
    let mut placed = sample.clone();
    if spherical {
        placed.normalise();
    }
    let fresh = train(&placed.pick(training), centres.len(), ITERATIONS, spherical, sequence.next());

    let (mut index_distance, mut fresh_distance) = (0.0, 0.0);
    let mut work_logs = vec![];
    let mut skew_fresh = 1.0;
    // The held-out rows last: the skew is theirs.
    for part in [&training[..held_out.len()], held_out] {
        let rows = sample.pick(part);
        let by_index: Vec<u32> = part.iter().map(|&at| assigned[at]).collect();
        let by_fresh = assign(&rows, &fresh, spherical);
        skew_fresh = skew(&count(&by_fresh, centres.len()));
        let placed = placed.pick(part);
        index_distance += mean_distance(&placed, centres, &by_index);
        fresh_distance += mean_distance(&placed, &fresh, &by_fresh);
        let biases = rows.biases(spherical);
        let truth: Vec<Vec<usize>> = (0..rows.len()).map(|at| neighbours(&rows, &biases, at)).collect();
        let index_work = searched_shares(&rows, &truth, centres, &by_index, spherical);
        let fresh_work = searched_shares(&rows, &truth, &fresh, &by_fresh, spherical);
        // Every share is above 0: finding a neighbour takes looking at a row at least.
        work_logs.extend(index_work.iter().zip(&fresh_work).map(|(index, fresh)| (index / fresh).ln()));
    }
    if fresh_distance <= 0.0 {
        return Err("nearly all rows are equal to a fresh centre: distances cannot be compared".to_owned());
    }
    Ok(AgainstFresh {
        skew_fresh,
        distance_ratio: index_distance / fresh_distance,
        work_ratio: (work_logs.iter().sum::<f64>() / work_logs.len() as f64).exp(),
    })
}

/// Mean Euclidean distance of the rows to their centres, the farthest tenth left out. (Between vectors of length 1 it
/// orders as the angle does.)
pub(super) fn mean_distance(rows: &Rows, centres: &Rows, assigned: &[u32]) -> f64 {
    let mut distances: Vec<f64> = assigned
        .iter()
        .enumerate()
        .map(|(at, &list)| {
            let pairs = rows.row(at).iter().zip(centres.row(list as usize));
            pairs.map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
        })
        .collect();
    distances.sort_by(f64::total_cmp);
    let kept = ((1.0 - TRIMMED) * distances.len() as f64).ceil() as usize;
    distances.truncate(kept.max(1));
    distances.iter().sum::<f64>() / distances.len().max(1) as f64
}

/// The nearest rows to one of them, itself left out.
fn neighbours(rows: &Rows, biases: &[f32], query: usize) -> Vec<usize> {
    let mut scored: Vec<(f32, usize)> = (0..rows.len())
        .filter(|&at| at != query)
        .map(|at| (biases[at] - dot(rows.row(query), rows.row(at)), at))
        .collect();
    let order = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if scored.len() > TRIAL_K {
        scored.select_nth_unstable_by(TRIAL_K, order);
        scored.truncate(TRIAL_K);
    }
    scored.into_iter().map(|(_, at)| at).collect()
}

/// For each of the recalls: the mean share of the rows that searches look at when each probes just as many lists as
/// give that recall on average; between two numbers of lists it is interpolated. `truth` holds the neighbours of every
/// row.
pub(super) fn searched_shares(
    rows: &Rows,
    truth: &[Vec<usize>],
    centres: &Rows,
    assigned: &[u32],
    spherical: bool,
) -> [f64; TRIAL_RECALLS.len()] {
    let lists = centres.len();
    let counts = count(assigned, lists);
    let biases = centres.biases(spherical);
    // Found neighbours and rows looked at in the p-th probed list, over all queries.
    let mut found = vec![0f64; lists];
    let mut looked_at = vec![0f64; lists];
    let mut wanted = 0.0;
    let mut place = vec![0usize; lists];
    for (query, nearest) in truth.iter().enumerate() {
        let mut ranked: Vec<(f32, usize)> = biases
            .iter()
            .enumerate()
            .map(|(list, bias)| (bias - dot(rows.row(query), centres.row(list)), list))
            .collect();
        ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (probe, &(_, list)) in ranked.iter().enumerate() {
            place[list] = probe;
            looked_at[probe] += f64::from(counts[list]);
        }
        for &at in nearest {
            found[place[assigned[at] as usize]] += 1.0;
        }
        wanted += nearest.len() as f64;
    }
    let all = (truth.len() * rows.len()) as f64;
    TRIAL_RECALLS.map(|recall| {
        let enough = recall * wanted;
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
    })
}
