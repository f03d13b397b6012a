//! Intervals and tests of means.

use albef_random::SplitMix64;

/// A number below `n`; the bias of `n` / 2^64 does not show.
pub(crate) fn below(draws: &mut SplitMix64, n: usize) -> usize {
    (draws.next_u64() % n as u64) as usize
}

/// The middle 95 % of `values`.
fn percentiles(mut values: Vec<f64>) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    values.sort_by(f64::total_cmp);
    let last = (values.len() - 1) as f64;
    let at = |share: f64| values[(last * share).round() as usize];
    (at(0.025), at(0.975))
}

/// A percentile bootstrap interval of the mean of `values` at 95 %, seeded.
#[must_use]
pub fn bootstrap_interval(values: &[f64], resamples: usize, seed: u64) -> (f64, f64) {
    joint_interval(&[values], resamples, seed)
}

/// The same of the mean of the means of several groups, drawn independently of each other.
#[must_use]
pub fn joint_interval(groups: &[&[f64]], resamples: usize, seed: u64) -> (f64, f64) {
    if groups.is_empty() || groups.iter().any(|g| g.is_empty()) || resamples == 0 {
        return (f64::NAN, f64::NAN);
    }
    let mut draws = SplitMix64::new(seed);
    let mut mean = |values: &[f64]| {
        let n = values.len();
        (0..n).map(|_| values[below(&mut draws, n)]).sum::<f64>() / n as f64
    };
    let resampled = (0..resamples)
        .map(|_| groups.iter().map(|group| mean(group)).sum::<f64>() / groups.len() as f64);
    percentiles(resampled.collect())
}

/// A sum over some items and how many they are.
pub type Sum = (f64, f64);

/// A percentile bootstrap interval at 95 % of a mean of means. `parts[p][c]` is what cluster `c`
/// adds to mean `p`; whole clusters are drawn, so items of one cluster may depend on each other.
#[must_use]
pub fn cluster_interval(parts: &[Vec<Sum>], resamples: usize, seed: u64) -> (f64, f64) {
    let clusters = parts.first().map_or(0, Vec::len);
    if clusters == 0 {
        return (f64::NAN, f64::NAN);
    }
    let mut draws = SplitMix64::new(seed);
    let mut sums = vec![(0.0, 0.0); parts.len()];
    let resampled = (0..resamples).map(|_| {
        sums.fill((0.0, 0.0));
        for _ in 0..clusters {
            let c = below(&mut draws, clusters);
            for (sum, part) in sums.iter_mut().zip(parts) {
                sum.0 += part[c].0;
                sum.1 += part[c].1;
            }
        }
        // A mean of which no item was drawn takes no part in this resample.
        let drawn = sums.iter().filter(|s| s.1 > 0.0);
        let means = drawn.clone().map(|s| s.0 / s.1).sum::<f64>();
        means / drawn.count().max(1) as f64
    });
    percentiles(resampled.collect())
}

/// A percentile bootstrap interval at 95 % of any statistic of some clusters of items, which is given the numbers of
/// the clusters drawn. Draws for which it is not finite take no part.
///
/// ```
/// let values = [1.0, 2.0, 3.0, 4.0];
/// let largest = |drawn: &[usize]| drawn.iter().map(|i| values[*i]).fold(f64::MIN, f64::max);
/// let (low, high) = albef_report::statistic_interval(values.len(), 1000, 1, largest);
/// assert!(low >= 1.0 && high == 4.0);
/// ```
#[must_use]
pub fn statistic_interval(
    clusters: usize,
    resamples: usize,
    seed: u64,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> (f64, f64) {
    if clusters == 0 {
        return (f64::NAN, f64::NAN);
    }
    let mut draws = SplitMix64::new(seed);
    let mut drawn = vec![0; clusters];
    let mut values = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        drawn.iter_mut().for_each(|c| *c = below(&mut draws, clusters));
        values.push(statistic(&drawn));
    }
    values.retain(|v| v.is_finite());
    percentiles(values)
}

/// The exact two-sided McNemar test: the probability that `a_only + b_only` throws of a fair coin
/// are split at least as unevenly. `a_only` and `b_only` count the items that one of two models
/// gets right and the other does not.
#[must_use]
pub fn mcnemar(a_only: usize, b_only: usize) -> f64 {
    let n = a_only + b_only;
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=a_only.min(b_only) {
        tail += log_term.exp();
        log_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// Differences up to which all signs are tried.
const EXACT: usize = 14;

/// The two-sided sign-flip permutation test of a sum of paired differences: the share of sign
/// assignments whose sum is at least as far from 0. Exact where at most 14 differences are not 0;
/// else from `resamples` seeded draws, the given assignment counted as one of them.
#[must_use]
pub fn sign_flip(differences: &[f64], resamples: usize, seed: u64) -> f64 {
    let d: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    if d.is_empty() {
        return 1.0;
    }
    // Sums in another order differ by rounding, which must not decide about equality.
    let least = d.iter().sum::<f64>().abs() - 1e-9 * d.iter().map(|d| d.abs()).sum::<f64>();
    let far = |signs: &dyn Fn(usize) -> bool| {
        let sum: f64 = d.iter().enumerate().map(|(i, d)| if signs(i) { -d } else { *d }).sum();
        sum.abs() >= least
    };
    if d.len() <= EXACT {
        let all = 1_usize << d.len();
        let hits = (0..all).filter(|signs| far(&|i| signs >> i & 1 == 1)).count();
        return hits as f64 / all as f64;
    }
    let mut draws = SplitMix64::new(seed);
    let mut bits = vec![0_u64; d.len().div_ceil(64)];
    let mut hits = 1_usize;
    for _ in 0..resamples {
        bits.iter_mut().for_each(|b| *b = draws.next_u64());
        hits += usize::from(far(&|i| bits[i / 64] >> (i % 64) & 1 == 1));
    }
    hits as f64 / (1 + resamples) as f64
}

/// The standard deviation of a sample, `n - 1` in the denominator; `None` for fewer than two.
#[must_use]
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    Some((values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn the_interval_holds_the_mean_and_is_about_two_errors_wide() {
        let hits: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect();
        let (low, high) = bootstrap_interval(&hits, 1000, 1);
        assert!(low < 0.25 && 0.25 < high);
        assert!((0.06..0.11).contains(&(high - low)), "{low} {high}");
        assert_eq!(bootstrap_interval(&hits, 1000, 1), (low, high));
    }

    #[test]
    fn the_interval_of_a_statistic_is_that_of_the_mean_for_the_mean() {
        let hits: Vec<f64> = (0..50).map(|i| f64::from(i % 3)).collect();
        let mean = |drawn: &[usize]| drawn.iter().map(|i| hits[*i]).sum::<f64>() / 50.0;
        assert_eq!(statistic_interval(50, 300, 7, mean), bootstrap_interval(&hits, 300, 7));
        assert!(statistic_interval(0, 300, 7, mean).0.is_nan());
        assert!(statistic_interval(3, 300, 7, |_| f64::NAN).0.is_nan());
    }

    #[test]
    fn mcnemar_is_the_binomial_tail() {
        // 2 (1 + 10 + 45) / 2^10, 2 / 2^5, and an even split.
        close(mcnemar(2, 8), 112.0 / 1024.0);
        close(mcnemar(8, 2), 112.0 / 1024.0);
        close(mcnemar(0, 5), 0.0625);
        close(mcnemar(3, 3), 1.0);
        close(mcnemar(0, 0), 1.0);
        // Far beyond the range of the factorials: a normal deviate of 6.2.
        assert!((1e-10..1e-9).contains(&mcnemar(4800, 5432)), "{}", mcnemar(4800, 5432));
    }

    #[test]
    fn sign_flips_are_counted_exactly_where_few_differ() {
        // Sums over signs of 1, 2, 3: |sum| is 6 twice, 4 twice, 2 twice and 0 twice.
        close(sign_flip(&[1.0, 2.0, 0.0, 3.0], 0, 1), 2.0 / 8.0);
        close(sign_flip(&[-1.0, 2.0, 3.0], 0, 1), 4.0 / 8.0);
        close(sign_flip(&[0.1, 0.2, -0.3], 0, 1), 1.0);
        close(sign_flip(&[], 0, 1), 1.0);
    }

    #[test]
    fn drawn_sign_flips_agree_with_the_exact_test_of_equal_differences() {
        // For differences of equal size the test is McNemar's.
        let d: Vec<f64> = (0..30).map(|i| if i < 21 { 5.0 } else { -5.0 }).collect();
        let p = sign_flip(&d, 20_000, 3);
        assert!((p - mcnemar(21, 9)).abs() < 0.004, "{p} {}", mcnemar(21, 9));
        assert_eq!(sign_flip(&d, 20_000, 3), p);
        close(sign_flip(&[1.0; 40], 99, 5), 0.01);
    }

    #[test]
    fn clusters_are_drawn_whole() {
        // Two items of one cluster that always agree are worth one item.
        let single: Vec<Sum> = (0..100).map(|i| (f64::from(i % 2), 1.0)).collect();
        let double: Vec<Sum> = single.iter().map(|(s, n)| (2.0 * s, 2.0 * n)).collect();
        let one = cluster_interval(std::slice::from_ref(&single), 500, 1);
        assert_eq!(cluster_interval(&[double], 500, 1), one);
        // The mean of two equal means is that mean.
        assert_eq!(cluster_interval(&[single.clone(), single.clone()], 500, 1), one);
        let values: Vec<f64> = single.iter().map(|s| s.0).collect();
        assert_eq!(bootstrap_interval(&values, 500, 1), one);
    }

    #[test]
    fn the_deviation_of_a_sample_has_one_degree_less() {
        close(standard_deviation(&[1.0, 2.0, 3.0, 4.0]).unwrap(), (5.0_f64 / 3.0).sqrt());
        assert!(standard_deviation(&[1.0]).is_none());
    }
}
