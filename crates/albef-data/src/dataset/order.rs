//! The order of an epoch: a pure function of seed and epoch.

use std::num::NonZeroUsize;
use std::ops::Range;

use crate::random::Stream;

/// How the samples of a source are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// How often each of them, relative to those of weight 1.
    pub weight: f64,
    /// How many neighbors at once, one after another: samples that are each other's hard negatives.
    pub together: NonZeroUsize,
}

impl Default for Draw {
    fn default() -> Self {
        Self { weight: 1.0, together: NonZeroUsize::MIN }
    }
}

/// How much of an epoch is of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SourceShare {
    /// Samples of the source.
    pub samples: usize,
    /// How they are drawn.
    pub draw: Draw,
}

impl SourceShare {
    fn neighbors(self) -> usize {
        self.draw.together.get()
    }
}

/// Indices of the samples of an epoch, as many as there are samples.
///
/// With equal weights every sample comes once. Otherwise each draw is given to a source with
/// probability `weight * samples / together`, and each source is gone through in shuffled rounds.
#[must_use]
pub fn epoch_order(sources: &[SourceShare], seed: u64, epoch: u64) -> Vec<u32> {
    let places = places(sources);
    let mut stream = Stream::new(seed, "order", &[epoch]);
    let equal = sources.windows(2).all(|w| w[0].draw.weight == w[1].draw.weight);
    let draws = if equal {
        let mut draws: Vec<u32> =
            places.iter().zip(sources).flat_map(|(p, s)| draws(p, *s)).collect();
        stream.shuffle(&mut draws);
        draws
    } else {
        weighted(sources, &places, &mut stream)
    };
    if sources.iter().all(|s| s.neighbors() == 1) {
        return draws;
    }
    let of_draw = |first: u32| {
        let source = places.partition_point(|place| place.end <= first);
        group(first, &places[source], sources[source])
    };
    let mut order: Vec<u32> = draws.into_iter().flat_map(of_draw).collect();
    order.truncate(places.last().map_or(0, |last| last.end as usize));
    order
}

/// The indices of each source.
fn places(sources: &[SourceShare]) -> Vec<Range<u32>> {
    let mut end = 0;
    let place = |source: &SourceShare| {
        end += source.samples as u32;
        end - source.samples as u32..end
    };
    sources.iter().map(place).collect()
}

/// The first index of everything that is drawn from a source.
fn draws(place: &Range<u32>, source: SourceShare) -> impl Iterator<Item = u32> {
    place.clone().step_by(source.neighbors())
}

/// What is drawn at once, from its first index on.
fn group(first: u32, place: &Range<u32>, source: SourceShare) -> Range<u32> {
    let size = u32::try_from(source.neighbors()).unwrap_or(u32::MAX);
    first..place.end.min(first.saturating_add(size))
}

/// First indices, drawn until there are as many samples as all sources have.
fn weighted(sources: &[SourceShare], places: &[Range<u32>], stream: &mut Stream) -> Vec<u32> {
    let total: usize = sources.iter().map(|s| s.samples).sum();
    let mut rounds: Vec<Vec<u32>> = vec![Vec::new(); sources.len()];
    let shares: Vec<f64> =
        sources.iter().map(|s| s.samples as f64 * s.draw.weight / s.neighbors() as f64).collect();
    let sum: f64 = shares.iter().sum();
    let last = shares.iter().rposition(|s| *s > 0.0).unwrap_or(0);
    let (mut found, mut samples) = (Vec::with_capacity(total), 0);
    while samples < total {
        let mut left = stream.uniform() * sum;
        let falls_into = |share: &f64| {
            left -= share;
            left < 0.0
        };
        let source = shares.iter().position(falls_into).unwrap_or(last);
        if rounds[source].is_empty() {
            rounds[source] = draws(&places[source], sources[source]).collect();
            stream.shuffle(&mut rounds[source]);
        }
        let first = rounds[source].pop().unwrap_or(places[source].start);
        found.push(first);
        samples += group(first, &places[source], sources[source]).len().max(1);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(samples: usize, weight: f64, together: usize) -> SourceShare {
        let together = NonZeroUsize::new(together).unwrap();
        SourceShare { samples, draw: Draw { weight, together } }
    }

    #[test]
    fn without_weights_every_sample_comes_once() {
        let sources = [share(5, 1.0, 1), share(7, 1.0, 1)];
        let mut order = epoch_order(&sources, 1, 2);
        assert_ne!(order, epoch_order(&sources, 1, 3));
        order.sort_unstable();
        assert_eq!(order, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn weights_shift_the_mixture() {
        let order = epoch_order(&[share(1000, 3.0, 1), share(1000, 1.0, 1)], 1, 0);
        let heavy = order.iter().filter(|i| **i < 1000).count();
        assert!((1400..1600).contains(&heavy), "{heavy}");
    }

    #[test]
    fn neighbors_are_drawn_together_and_no_more_often() {
        let pairs = share(1000, 3.0, 2);
        for single in [1.0, 3.0] {
            let order = epoch_order(&[pairs, share(1000, single, 1)], 1, 0);
            assert_eq!(order.len(), 2000);
            let of_pairs: Vec<u32> = order.iter().copied().filter(|i| *i < 1000).collect();
            let expected = 2000.0 * 3.0 / (3.0 + single);
            assert!((of_pairs.len() as f64 - expected).abs() < 100.0, "{}", of_pairs.len());
            for (place, first) in
                order.iter().enumerate().filter(|(_, i)| **i < 1000 && **i % 2 == 0)
            {
                let next = order.get(place + 1);
                assert!(next.is_none_or(|next| *next == first + 1), "{first} and {next:?}");
            }
        }
        assert_ne!(epoch_order(&[pairs], 1, 0), epoch_order(&[pairs], 1, 1));
        let odd = [share(7, 2.0, 3), share(10, 1.0, 1)];
        assert_eq!(epoch_order(&odd, 1, 0).len(), 17, "the last group of a source is shorter");
    }
}
