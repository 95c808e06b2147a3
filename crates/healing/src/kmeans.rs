//! Seeded k-means for judging an ivfflat index against a fresh one, and for grouping its lists.
//!
//! Rows are `f32`, row-major. Nearness is `bias(centre) − row · centre`, smaller is nearer: with a bias of half the
//! squared length it orders as Euclidean distance does, with no bias as the inner product (and so the cosine, for
//! vectors of length 1).

/// SplitMix64's output function: a well-mixed number from any other.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seeded sequence of numbers (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Sequence(u64);

impl Sequence {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        number
    }

    /// Evenly in 0..n, n above 0. (The bias of the remainder is below n / 2⁶⁴.)
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Evenly in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The numbers 0..n in a random order.
    pub(crate) fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// Row-major vectors of one length.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    pub(crate) dims: usize,
    pub(crate) values: Vec<f32>,
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        self.values.len() / self.dims
    }

    pub(crate) fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.dims..(at + 1) * self.dims]
    }

    pub(crate) fn pick(&self, rows: &[usize]) -> Rows {
        let mut values = Vec::with_capacity(rows.len() * self.dims);
        for &at in rows {
            values.extend_from_slice(self.row(at));
        }
        Rows { dims: self.dims, values }
    }

    /// Brings every row to length 1; rows of zeros stay.
    pub(crate) fn normalise(&mut self) {
        for row in self.values.chunks_exact_mut(self.dims) {
            let length = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
            if length > 0.0 {
                for x in row {
                    *x = (f64::from(*x) / length) as f32;
                }
            }
        }
    }

    /// Half the squared length of each row, the bias of Euclidean nearness; or zeros.
    pub(crate) fn biases(&self, spherical: bool) -> Vec<f32> {
        if spherical {
            return vec![0.0; self.len()];
        }
        (0..self.len()).map(|at| 0.5 * dot(self.row(at), self.row(at))).collect()
    }
}

/// The inner product, in eight independent sums so that it can be vectorised.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The nearest centre of each row; of equals the first.
pub(crate) fn assign(rows: &Rows, centres: &Rows, spherical: bool) -> Vec<u32> {
    let biases = centres.biases(spherical);
    (0..rows.len())
        .map(|at| {
            let row = rows.row(at);
            let mut best = (f32::INFINITY, 0u32);
            for (number, bias) in (0u32..).zip(&biases) {
                let score = bias - dot(row, centres.row(number as usize));
                if score < best.0 {
                    best = (score, number);
                }
            }
            best.1
        })
        .collect()
}

/// Trains `k` centres: k-means++ seeding, then `iterations` of Lloyd's. Spherical: the rows have length 1 and so
/// have the centres. An empty list starts again at a random row. `rows` must not be empty.
pub(crate) fn train(rows: &Rows, k: usize, iterations: usize, spherical: bool, seed: u64) -> Rows {
    let mut sequence = Sequence::new(seed);
    let mut centres = seed_centres(rows, k.max(1), &mut sequence);
    for _ in 0..iterations {
        let lists = assign(rows, &centres, spherical);
        let mut sums = vec![0f64; centres.values.len()];
        let mut counts = vec![0u32; centres.len()];
        for (at, &list) in lists.iter().enumerate() {
            counts[list as usize] += 1;
            let start = list as usize * rows.dims;
            for (sum, x) in sums[start..start + rows.dims].iter_mut().zip(rows.row(at)) {
                *sum += f64::from(*x);
            }
        }
        for (list, &count) in counts.iter().enumerate() {
            let range = list * rows.dims..(list + 1) * rows.dims;
            if count == 0 {
                let at = sequence.below(rows.len());
                centres.values[range].copy_from_slice(rows.row(at));
            } else {
                for (centre, sum) in centres.values[range.clone()].iter_mut().zip(&sums[range]) {
                    *centre = (sum / f64::from(count)) as f32;
                }
            }
        }
        if spherical {
            centres.normalise();
        }
    }
    centres
}

/// k-means++: each further centre is a row, drawn in proportion to its squared distance from the nearest one yet.
fn seed_centres(rows: &Rows, k: usize, sequence: &mut Sequence) -> Rows {
    let lengths = rows.biases(false);
    let mut chosen = vec![sequence.below(rows.len())];
    let mut distances = vec![f64::INFINITY; rows.len()];
    while chosen.len() < k {
        let last = chosen.last().copied().unwrap_or(0);
        let mut total = 0.0;
        for (at, nearest) in distances.iter_mut().enumerate() {
            let half = lengths[at] + lengths[last] - dot(rows.row(at), rows.row(last));
            *nearest = nearest.min(f64::from(half.max(0.0)));
            total += *nearest;
        }
        let mut point = sequence.unit() * total;
        // All rows equal to a centre: any row will do.
        let drawn = if total > 0.0 {
            distances.iter().position(|distance| {
                point -= distance;
                point < 0.0
            })
        } else {
            None
        };
        chosen.push(drawn.unwrap_or_else(|| sequence.below(rows.len())));
    }
    rows.pick(&chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(dims: usize, values: &[f32]) -> Rows {
        Rows { dims, values: values.to_vec() }
    }

    #[test]
    fn dot_with_a_remainder_by_hand() {
        let a: Vec<f32> = (1..=11u8).map(f32::from).collect();
        // 1² + … + 11² = 506.
        assert_eq!(dot(&a, &a), 506.0);
        assert_eq!(dot(&[], &[]), 0.0);
    }

    #[test]
    fn euclidean_and_spherical_nearness_differ() {
        let centres = rows(2, &[1.0, 0.0, 10.0, 1.0]);
        let row = rows(2, &[1.0, 0.5]);
        assert_eq!(assign(&row, &centres, false), [0]);
        assert_eq!(assign(&row, &centres, true), [1]);
    }

    #[test]
    fn three_clumps_are_found() {
        let mut values = Vec::new();
        for (x, y) in [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0)] {
            for i in 0..10u8 {
                values.extend([x + f32::from(i % 3), y + f32::from(i % 2)]);
            }
        }
        let rows = rows(2, &values);
        for seed in 0..20 {
            let centres = train(&rows, 3, 5, false, seed);
            let lists = assign(&rows, &centres, false);
            for clump in lists.chunks(10) {
                assert!(clump.iter().all(|list| *list == clump[0]), "seed {seed}");
            }
            let mut distinct = [lists[0], lists[10], lists[20]];
            distinct.sort_unstable();
            assert_eq!(distinct, [0, 1, 2], "seed {seed}");
        }
    }

    #[test]
    fn duplicates_and_zeros_give_finite_centres() {
        for spherical in [false, true] {
            let centres = train(&rows(3, &[0.0; 30]), 4, 3, spherical, 7);
            assert_eq!(centres.len(), 4);
            assert!(centres.values.iter().all(|x| *x == 0.0));
        }
    }

    #[test]
    fn shuffling_keeps_every_number_and_depends_on_the_seed() {
        let mut order = Sequence::new(1).shuffled(100);
        assert_ne!(order, Sequence::new(2).shuffled(100));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
