//! The beta distribution: drawing and quantiles.

use rand_distr::Distribution;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;
use statrs::distribution::ContinuousCDF;

use crate::kmeans::mix;

/// Least parameter: below it a draw is 0 or 1 for all that a double holds.
const PARAMETER_MIN: f64 = 1e-3;
/// Greatest parameter: beyond it the distribution is a point for all our purposes.
const PARAMETER_MAX: f64 = 1e9;

fn parameter(value: f64) -> f64 {
    if value.is_nan() { 1.0 } else { value.clamp(PARAMETER_MIN, PARAMETER_MAX) }
}

/// The generator of a seed. A seed's numbers never change.
pub(super) fn generator(seed: u64) -> Pcg64 {
    let mut bytes = [0u8; 32];
    for (at, chunk) in (1u64..).zip(bytes.chunks_mut(8)) {
        chunk.copy_from_slice(&mix(seed ^ mix(at)).to_le_bytes());
    }
    Pcg64::from_seed(bytes)
}

/// One draw from Beta(`alpha`, `beta`).
pub(super) fn draw(alpha: f64, beta: f64, random: &mut Pcg64) -> f64 {
    // Both parameters are positive and finite, so there is always a distribution.
    rand_distr::Beta::new(parameter(alpha), parameter(beta))
        .map_or(0.5, |distribution| distribution.sample(random))
}

/// The value below which Beta(`alpha`, `beta`) lies with this probability.
pub(super) fn quantile(alpha: f64, beta: f64, probability: f64) -> f64 {
    // As above.
    statrs::distribution::Beta::new(parameter(alpha), parameter(beta))
        .map_or(0.5, |distribution| distribution.inverse_cdf(probability.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_by_hand() {
        // Beta(n, 1) has the distribution function x^n.
        assert!((quantile(4.0, 1.0, 0.1) - 0.1f64.powf(0.25)).abs() < 1e-6);
        assert!((quantile(1.0, 1.0, 0.3) - 0.3).abs() < 1e-6);
        assert!((quantile(1.0, 3.0, 0.5) - (1.0 - 0.5f64.powf(1.0 / 3.0))).abs() < 1e-6);
        assert!((quantile(7.0, 7.0, 0.5) - 0.5).abs() < 1e-6);
        assert!(quantile(f64::NAN, -4.0, 0.5).is_finite());
    }

    #[test]
    fn a_seed_has_its_numbers_for_ever() {
        let mut random = generator(7);
        let drawn: Vec<f64> = (0..3).map(|_| draw(2.0, 3.0, &mut random)).collect();
        let again = {
            let mut random = generator(7);
            (0..3).map(|_| draw(2.0, 3.0, &mut random)).collect::<Vec<f64>>()
        };
        assert_eq!(drawn, again);
        assert_eq!(
            drawn,
            [0.7426279893492065, 0.314971223800882, 0.030090614902510367],
            "as they were when choices were first recorded"
        );
        assert_ne!(draw(2.0, 3.0, &mut generator(8)), drawn[0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn draws_have_the_mean_and_variance_of_the_distribution(a in 0.3f64..30.0, b in 0.3f64..30.0, seed: u64) {
            let mut random = generator(seed);
            let n = 4000;
            let drawn: Vec<f64> = (0..n).map(|_| draw(a, b, &mut random)).collect();
            prop_assert!(drawn.iter().all(|x| (0.0..=1.0).contains(x)));
            let mean = drawn.iter().sum::<f64>() / f64::from(n);
            let variance = a * b / ((a + b).powi(2) * (a + b + 1.0));
            // Five standard errors.
            prop_assert!((mean - a / (a + b)).abs() < 5.0 * (variance / f64::from(n)).sqrt());
        }

        #[test]
        fn a_quantile_lies_where_that_share_of_draws_is_below(a in 0.5f64..20.0, b in 0.5f64..20.0, p in 0.05f64..0.95, seed: u64) {
            let q = quantile(a, b, p);
            let mut random = generator(seed);
            let n = 4000;
            let below = (0..n).filter(|_| draw(a, b, &mut random) < q).count() as f64 / f64::from(n);
            prop_assert!((below - p).abs() < 5.0 * (p * (1.0 - p) / f64::from(n)).sqrt(), "{below} of {p}");
        }
    }
}
