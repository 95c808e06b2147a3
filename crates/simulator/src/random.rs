//! Seeded randomness. A seed's numbers never change: a failure is replayed by its seed.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random(Pcg64);

impl Random {
    /// The stream of this name of a seed. Streams of different names are independent, so that drawing more from one
    /// (a longer action, say) does not change another.
    pub fn new(seed: u64, stream: &str) -> Self {
        // FNV-1a: stable over versions, unlike the standard library's hasher.
        let name = stream.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut bytes = [0u8; 32];
        for (chunk, value) in bytes.chunks_mut(8).zip([seed, name, seed.rotate_left(32), !name]) {
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        Self(Pcg64::from_seed(bytes))
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform whole number in [0, n); 0 when n is 0.
    pub fn below(&mut self, n: usize) -> usize {
        // Below n, which is a usize.
        (self.unit() * n as f64) as usize
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Exponential with this mean.
    pub fn wait(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Standard normal (the sum of twelve uniforms less six: bounded, and of no libm's rounding).
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_its_numbers_for_ever() {
        let mut random = Random::new(7, "world");
        let drawn: Vec<u64> = (0..3).map(|_| (random.unit() * 1e6) as u64).collect();
        assert_eq!(drawn, [750_811, 13_809, 374_568]);
    }

    #[test]
    fn streams_differ_and_lie_in_their_ranges() {
        let (mut a, mut b) = (Random::new(7, "a"), Random::new(7, "b"));
        assert_ne!(a.unit(), b.unit());
        let mean = (0..10_000).map(|_| a.normal()).sum::<f64>() / 10_000.0;
        assert!(mean.abs() < 0.05, "{mean}");
        assert!((0..10_000).all(|_| a.below(3) < 3));
    }
}
