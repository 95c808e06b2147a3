//! Whether the yardstick tells good lists from bad ones on the data set: the figures in the module's documentation.
//!
//! `cargo test -p healing --release structure_of_the_data_set -- --ignored --nocapture`, with the data set in `data/`
//! or in `RUVECTOR_DATA_DIR`. `RUVECTOR_SEEDS` (100) indexes of each kind, `RUVECTOR_LISTS` (100), `RUVECTOR_SAMPLE` (4000)
//! rows; `RUVECTOR_KIND` names one kind. Figures: least, median, greatest.

use std::path::PathBuf;

use super::*;
use crate::health::{DISTANCE_RATIO_MAX, WORK_RATIO_MAX};

const DIMS: usize = 384;
const ROWS: usize = 11_700;

/// The embeddings, from float16.
fn embeddings() -> Rows {
    let folder = std::env::var_os("RUVECTOR_DATA_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data")), PathBuf::from);
    let bytes = std::fs::read(folder.join("debian-packages-minilm-12000x384-f16.npy")).unwrap();
    // NumPy format 1.0: magic and version (8 bytes), length of the header, header, values.
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let half = |pair: &[u8]| {
        let bits = u16::from_le_bytes([pair[0], pair[1]]);
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
        let size = if exponent == 0 {
            fraction * 2f32.powi(-24)
        } else {
            (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15)
        };
        if bits >> 15 == 1 { -size } else { size }
    };
    let mut rows = Rows { dims: DIMS, values: bytes[start..].chunks_exact(2).map(half).collect() };
    assert_eq!(rows.len(), 12_000);
    rows.normalise();
    rows
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Least, median and greatest.
fn range(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    format!("{:.3} {:.3} {:.3}", figures[0], figures[figures.len() / 2], figures[figures.len() - 1])
}

#[test]
#[ignore = "takes minutes and wants the data set"]
fn structure_of_the_data_set() {
    let data = embeddings();
    let lists = number("RUVECTOR_LISTS", 100) as usize;
    let sampled = number("RUVECTOR_SAMPLE", 4000) as usize;
    for kind in [
        "all rows",
        "half of the rows",
        "2 rows a list",
        "5 rows a list",
        "the nearest third",
        "the nearest tenth",
    ] {
        if std::env::var("RUVECTOR_KIND").is_ok_and(|only| only != kind) {
            continue;
        }
        let mut readings = vec![];
        let mut seconds = 0.0;
        for seed in 0..number("RUVECTOR_SEEDS", 100) {
            let mut sequence = Sequence::new(crate::kmeans::mix(seed));
            let mut order = sequence.shuffled(data.len());
            order.truncate(ROWS);
            let first = data.row(order[0]);
            let near = |part: usize| {
                let mut near = order.clone();
                near.sort_by(|a, b| dot(first, data.row(*b)).total_cmp(&dot(first, data.row(*a))));
                near.truncate(ROWS / part);
                near
            };
            let training = match kind {
                "all rows" => order[..10_000.max(50 * lists).min(ROWS)].to_vec(),
                "half of the rows" => order[..ROWS / 2].to_vec(),
                "2 rows a list" => order[..2 * lists].to_vec(),
                "5 rows a list" => order[..5 * lists].to_vec(),
                "the nearest third" => near(3),
                _ => near(10),
            };
            let centres = train(&data.pick(&training), lists, 15, true, sequence.next());
            let sample = data
                .pick(&sequence.shuffled(ROWS)[..sampled].iter().map(|&at| order[at]).collect::<Vec<_>>());
            let started = std::time::Instant::now();
            let health = analyse(&centres.values, DIMS, &sample.values, Metric::Cosine, seed).unwrap();
            seconds += started.elapsed().as_secs_f64();
            let (Some(distance), Some(work)) = (health.distance_ratio.known(), health.work_ratio.known())
            else {
                panic!("{health:?}");
            };
            readings.push((
                *distance,
                *work,
                health.skew_factor / health.skew_noise.max(*health.skew_fresh.known().unwrap()),
            ));
        }
        let bad = readings.iter().filter(|r| r.0 > DISTANCE_RATIO_MAX && r.1 > WORK_RATIO_MAX).count();
        println!(
            "{lists} lists on {kind}: distance {} work {} skew excess {}; bad {bad}/{}; {:.2} s each",
            range(readings.iter().map(|r| r.0).collect()),
            range(readings.iter().map(|r| r.1).collect()),
            range(readings.iter().map(|r| r.2).collect()),
            readings.len(),
            seconds / readings.len() as f64,
        );
    }
}
