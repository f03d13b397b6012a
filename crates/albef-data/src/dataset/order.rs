//! The order of an epoch: a pure function of seed and epoch.

use crate::random::Stream;

/// Indices of the samples of an epoch, as many as there are samples.
///
/// With equal weights every sample comes once. Otherwise each place is given to a source with
/// probability `weight * samples`, and each source is gone through in shuffled rounds.
#[must_use]
pub fn epoch_order(sources: &[(usize, f64)], seed: u64, epoch: u64) -> Vec<u32> {
    let total: usize = sources.iter().map(|(n, _)| n).sum();
    let mut stream = Stream::new(seed, "order", &[epoch]);
    let equal = sources.windows(2).all(|w| w[0].1 == w[1].1);
    if equal {
        let mut order: Vec<u32> = (0..total as u32).collect();
        stream.shuffle(&mut order);
        return order;
    }
    let mut rounds: Vec<Vec<u32>> = vec![Vec::new(); sources.len()];
    let first: Vec<usize> = sources
        .iter()
        .scan(0, |at, (n, _)| {
            *at += n;
            Some(*at - n)
        })
        .collect();
    let shares: Vec<f64> = sources.iter().map(|(n, w)| *n as f64 * w).collect();
    let sum: f64 = shares.iter().sum();
    (0..total)
        .map(|_| {
            let mut left = stream.uniform() * sum;
            let last = shares.iter().rposition(|s| *s > 0.0).unwrap_or(0);
            let source = shares
                .iter()
                .position(|s| {
                    left -= s;
                    left < 0.0
                })
                .unwrap_or(last);
            if rounds[source].is_empty() {
                let start = first[source] as u32;
                rounds[source] = (start..start + sources[source].0 as u32).collect();
                stream.shuffle(&mut rounds[source]);
            }
            rounds[source].pop().unwrap_or(0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_weights_every_sample_comes_once() {
        let mut order = epoch_order(&[(5, 1.0), (7, 1.0)], 1, 2);
        assert_ne!(order, epoch_order(&[(5, 1.0), (7, 1.0)], 1, 3));
        order.sort_unstable();
        assert_eq!(order, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn weights_shift_the_mixture() {
        let order = epoch_order(&[(1000, 3.0), (1000, 1.0)], 1, 0);
        let heavy = order.iter().filter(|i| **i < 1000).count();
        assert!((1400..1600).contains(&heavy), "{heavy}");
    }
}
