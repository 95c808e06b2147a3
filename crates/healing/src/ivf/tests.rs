//! The structure of made-up clusters; and, on demand, of the data set.

use super::*;
use crate::health::{DISTANCE_RATIO_MAX, WORK_RATIO_MAX};

/// Distance and work against fresh lists.
fn ratios(health: &IvfHealth) -> (f64, f64) {
    (*health.distance_ratio.known().unwrap(), *health.work_ratio.known().unwrap())
}

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
        let (distance, work) = ratios(&health);
        assert!((0.95..1.03).contains(&distance), "{metric:?} {distance}");
        assert!((0.85..1.08).contains(&work), "{metric:?} {work}");
        assert_eq!(health, analyse(&centres.values, 16, &data, metric, 1).unwrap(), "deterministic");
    }
}

#[test]
fn lists_trained_elsewhere_need_more_work() {
    let before = clumps(40, 2000, 16, 6.0, 3);
    let today = clumps(40, 4000, 16, 6.0, 4);
    let centres = train(&rows(16, &before), 40, 10, false, 5);
    let health = analyse(&centres.values, 16, &today, Metric::L2, 1).unwrap();
    let (distance, work) = ratios(&health);
    assert!(distance > 1.5 && work > 1.5, "{distance} {work}");
}

/// Healthy, grown, untrained: with few and with many lists for the sample, whatever the seed.
#[test]
fn bad_lists_are_told_from_good_ones_at_any_number_of_lists() {
    let data = clumps(300, 3000, 12, 6.0, 7);
    let bad = |training: &[f32], lists, seed| {
        let centres = train(&rows(12, training), lists, 10, false, seed);
        let (distance, work) = ratios(&analyse(&centres.values, 12, &data, Metric::L2, seed).unwrap());
        distance > DISTANCE_RATIO_MAX && work > WORK_RATIO_MAX
    };
    for (lists, seeds) in [(30, 5), (150, 2), (500, 1)] {
        for seed in 0..seeds {
            // The rows come clump by clump in turn: every part of them has all clumps.
            assert!(!bad(&data, lists, seed), "{lists} lists on all rows, seed {seed}");
            assert!(
                bad(&data[..12 * 2 * lists.min(60)], lists, seed),
                "{lists} lists on few rows, seed {seed}"
            );
        }
    }
}

#[test]
fn distances_are_measured_by_hand() {
    // Two lists at 0 and 100; distances 0, 1, …, 9 from theirs: the farthest of ten is left out.
    let values: Vec<f32> =
        (0..10u8).map(|i| if i % 2 == 0 { f32::from(i) } else { 100.0 + f32::from(i) }).collect();
    let assigned: Vec<u32> = (0..10).map(|i| i % 2).collect();
    let mean = structure::mean_distance(&rows(1, &values), &rows(1, &[0.0, 100.0]), &assigned);
    assert!((mean - 4.0).abs() < 1e-9, "{mean}");
}

#[test]
fn the_share_that_is_searched_by_hand() {
    // Four lists of 1, 2, 3 and 4 rows at 0, 10, 20, 30; one query, the row at 0, whose neighbours lie one in each.
    let values = [0.0, 10.0, 10.1, 20.0, 20.1, 20.2, 30.0, 30.1, 30.2, 30.3];
    let assigned = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3];
    let truth = vec![vec![0, 1, 3, 6]];
    let centres = rows(1, &[0.0, 10.0, 20.0, 30.0]);
    let shares = structure::searched_shares(&rows(1, &values), &truth, &centres, &assigned, false);
    // Three lists find 3 of 4 and take 6 rows of 10; the fourth is looked at in part: .8 of 4 are 3.2, and 0.2 of its 4
    // rows are 0.8; then 0.4, 0.6 and 0.8 of them.
    for (share, expected) in shares.into_iter().zip([0.68, 0.76, 0.84, 0.92]) {
        assert!((share - expected).abs() < 1e-9, "{shares:?}");
    }
}

#[test]
fn the_median_of_several_splits_varies_less_than_one_split() {
    let data = clumps(100, 1200, 6, 6.0, 2);
    let sample = rows(6, &data);
    let centres = train(&rows(6, &data[..6 * 60]), 30, 5, false, 3);
    let assigned = assign(&sample, &centres, false);
    let spread = |splits: usize| {
        let works: Vec<f64> = (0..12)
            .map(|seed| {
                structure::against_fresh(&centres, &sample, &assigned, false, splits, seed)
                    .unwrap()
                    .work_ratio
            })
            .collect();
        works.iter().copied().fold(0.0, f64::max) - works.iter().copied().fold(9.0, f64::min)
    };
    assert!(spread(5) < spread(1), "{} {}", spread(5), spread(1));
}

#[test]
fn the_cost_is_bounded_by_rows_first_and_splits_then() {
    let cost = |(rows, splits): (usize, Result<usize, String>), lists, dims| {
        let splits = splits.unwrap();
        assert!(structure::operations(rows, lists, dims, splits) <= OPERATIONS_MAX);
        (rows, splits)
    };
    assert_eq!(cost(affordable(4000, 427, 384), 427, 384), (4000, 3), "a table of the usual size in full");
    let (rows, splits) = cost(affordable(8000, 600, 384), 600, 384);
    assert!((4000..8000).contains(&rows) && splits == 3, "{rows}");
    let (rows, splits) = cost(affordable(8000, 400, 1536), 400, 1536);
    assert!((2134..8000).contains(&rows), "{rows}");
    assert_eq!(splits, 1, "one split, since three of so many rows are too dear");
    let (rows, why) = affordable(100_000, 8000, 2000);
    assert!(why.unwrap_err().contains("too much"));
    assert!((100..100_000).contains(&rows), "{rows}");
    // Nothing is saved where nothing need be.
    assert_eq!(affordable(50, 10, 4).0, 50);
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
    assert!(matches!(&health.work_ratio, Reading::Unknown(why) if why.contains("too many")), "{health:?}");
}
