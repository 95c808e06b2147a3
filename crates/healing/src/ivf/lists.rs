//! How many lists an ivfflat index should be built with, and the memory that pgvector's k-means asks for them.

use super::LISTS_MAX;
use crate::clean_size::PAGE_BYTES;

/// Lists per √rows. Measured (decision 0005: 11,400 × 384, blocks a query at recall .90/.95): 1.6 → 296/551, 2.5 →
/// 264/488, 4 → 246/425, 5.6 → 258/418. Between 3 and 5 the cost is flat to 5 %, and 3 is within 10 % of the best at
/// 3,000 and 100,000 rows; fewer lists build faster, so not the 4 of the least cost.
const LISTS_PER_ROOT: f64 = 3.5;
/// Up to so many rows the lists grow with √rows; measured only to a tenth of it. Above, they stay as they are until
/// pgvector's advice for large tables, √rows, is more: a build assigns every row to one of all lists, which from here
/// on takes hours where it took minutes.
const GROWING_ROWS_MAX: f64 = 1e6;
/// Fewest rows of a list on average; 16 is the least that was measured.
const ROWS_PER_LIST_MIN: f64 = 10.0;
/// Most memory that a build may be given for its k-means where no limit is named, bytes.
pub const BUILD_MEMORY_BYTES: u64 = 1 << 30;
/// Rows that pgvector samples for each list …
const SAMPLES_PER_LIST: f64 = 50.0;
/// … and at least.
const SAMPLES_MIN: f64 = 10_000.0;
/// Bytes before the value in an index tuple (`IndexTupleData`).
const TUPLE_HEADER: f64 = 8.0;
/// Bytes before the elements of a `vector` or `halfvec`.
const VALUE_HEADER: f64 = 8.0;
/// `sizeof(VectorArrayData)` (`ivfflat.h`), three of which are counted.
const VECTOR_ARRAY: f64 = 32.0;

/// Bytes that pgvector holds against `maintenance_work_mem` when it builds so many lists, and refuses to build if they
/// are more (SQLSTATE 54000): `ComputeCenters` of `ivfbuild.c` and `ElkanKmeans` of `ivfkmeans.c`, versions 0.8.0 to
/// 0.8.6.
///
/// `rows` that the index covers; `value_bytes`: one value as stored, aligned to 8 (a `vector(d)`: 8 + 4 d, a
/// `halfvec(d)`: 8 + 2 d). One accumulator a list has 4 bytes a dimension; the dimensions are taken for those of a
/// `halfvec`, which is too many for a `vector` by 2 % of the whole; the accumulators of a `bit` index are not covered.
pub fn kmeans_bytes(lists: u32, rows: f64, value_bytes: f64) -> f64 {
    let lists = f64::from(lists);
    // It may be less (291 a page of the table), never below the rows there are.
    let asked = (SAMPLES_PER_LIST * lists).max(SAMPLES_MIN);
    let samples = asked.min(rows.max(0.0));
    let dims = (value_bytes - VALUE_HEADER).max(0.0) / 2.0;
    let vectors = 3.0 * VECTOR_ARRAY + value_bytes * (2.0 * lists + asked);
    let accumulators = 4.0 * lists * dims;
    // Closest centre and upper bound of each sample, its lower bound to each centre.
    let samples_bytes = 4.0 * samples * (2.0 + lists);
    // Count, half distance and movement of each centre, distances between centres.
    let centres_bytes = 4.0 * lists * (3.0 + lists);
    vectors + accumulators + samples_bytes + centres_bytes
}

/// The number of lists to build with: 3.5 √rows, but no list of fewer rows than fill a page (a probe reads whole
/// pages), and no more than k-means gets memory for. At least 1, even where that does not fit.
///
/// `tuple_bytes` is the expected size of one index tuple; `memory_bytes` is the `maintenance_work_mem` of the build, or
/// None for [`BUILD_MEMORY_BYTES`].
pub fn choose_lists(rows: f64, tuple_bytes: f64, memory_bytes: Option<u64>) -> u32 {
    if !(rows.is_finite() && rows >= 1.0) {
        return 1;
    }
    let page = PAGE_BYTES as f64;
    // A tuple without known size bounds nothing.
    let tuple = if tuple_bytes.is_finite() { tuple_bytes.clamp(TUPLE_HEADER, page) } else { page };
    let growing = LISTS_PER_ROOT * rows.min(GROWING_ROWS_MAX).sqrt();
    let wanted = growing
        .max(if rows > GROWING_ROWS_MAX { rows.sqrt() } else { 0.0 })
        .min(rows / ROWS_PER_LIST_MIN.max(page / tuple))
        .round()
        .clamp(1.0, LISTS_MAX);
    let memory = memory_bytes.unwrap_or(BUILD_MEMORY_BYTES) as f64;
    let fits = |lists: u32| kmeans_bytes(lists, rows, tuple - TUPLE_HEADER) <= memory;
    // Between 1 and 32,768; the memory grows with the lists.
    let (mut least, mut most) = (1, wanted as u32);
    while least < most {
        let middle = least + (most - least).div_ceil(2);
        if fits(middle) { least = middle } else { most = middle - 1 }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index tuple of a 384-dimensional vector.
    const TUPLE: f64 = 1552.0;

    #[test]
    fn three_and_a_half_times_the_root_where_it_was_measured() {
        assert_eq!(choose_lists(11_700.0, TUPLE, None), 379);
        assert_eq!(choose_lists(3_000.0, TUPLE, None), 192);
        assert_eq!(choose_lists(100_000.0, TUPLE, None), 1107);
    }

    #[test]
    fn few_rows_and_small_tuples_get_fewer_lists() {
        assert_eq!(choose_lists(500.0, TUPLE, None), 50, "ten rows a list");
        assert_eq!(choose_lists(9.0, TUPLE, None), 1);
        // 3 dimensions: 32 bytes, 256 of them a page; 46 pages hold them all.
        assert_eq!(choose_lists(11_700.0, 32.0, None), 46);
    }

    #[test]
    fn above_a_million_rows_the_lists_grow_only_by_pgvectors_advice() {
        let plenty = Some(1 << 45);
        assert_eq!(choose_lists(1e6, TUPLE, plenty), 3500);
        assert_eq!(choose_lists(9e6, TUPLE, plenty), 3500);
        assert_eq!(choose_lists(25e6, TUPLE, plenty), 5000);
        assert_eq!(choose_lists(1e12, TUPLE, plenty), 32_768);
    }

    #[test]
    fn odd_figures_give_a_number_that_pgvector_takes() {
        for rows in [0.0, -1.0, 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(choose_lists(rows, TUPLE, None), 1, "{rows}");
        }
        for tuple in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e9] {
            assert!((1..=350).contains(&choose_lists(1e4, tuple, None)), "{tuple}");
        }
        assert_eq!(choose_lists(1e6, TUPLE, Some(0)), 1);
    }

    #[test]
    fn the_memory_of_kmeans_by_hand() {
        // 10 lists of 1,000 rows, vector(4): 24 bytes. Asked 10,000 samples, 1,000 come.
        let vectors = 3.0 * 32.0 + 24.0 * 10.0 * 2.0 + 24.0 * 10_000.0;
        let accumulators = 4.0 * 10.0 * 8.0;
        let samples = 4.0 * 1000.0 + 4.0 * 1000.0 * 10.0 + 4.0 * 1000.0;
        let centres = 4.0 * 10.0 + 4.0 * 10.0 + 4.0 * 10.0 * 10.0 + 4.0 * 10.0;
        assert_eq!(kmeans_bytes(10, 1000.0, 24.0), vectors + accumulators + samples + centres);
        // 400 lists: 20,000 samples are asked for.
        assert!(kmeans_bytes(400, 1e6, 24.0) > 4.0 * 20_000.0 * 400.0);
    }

    #[test]
    fn the_lists_are_as_many_as_the_memory_takes_and_not_one_more() {
        for mib in [16u64, 20, 32, 64, 256, 1024] {
            let memory = mib << 20;
            let lists = choose_lists(1e6, TUPLE, Some(memory));
            assert!(kmeans_bytes(lists, 1e6, TUPLE - 8.0) <= memory as f64, "{mib} MiB: {lists}");
            assert!(kmeans_bytes(lists + 1, 1e6, TUPLE - 8.0) > memory as f64, "{mib} MiB: {lists}");
        }
        assert_eq!(choose_lists(1e6, TUPLE, None), choose_lists(1e6, TUPLE, Some(1 << 30)));
    }
}
