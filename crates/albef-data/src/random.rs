//! Random draws as pure functions: a stream is named by a seed, a purpose and indices, so nothing
//! need be saved to continue a run.

use albef_random::{SPREAD, STEP, SplitMix64, scramble};

/// A stream of draws: the generator from a hashed start.
#[derive(Clone, Debug)]
pub struct Stream {
    draws: SplitMix64,
}

impl Stream {
    /// The stream of a purpose: `Stream::new(seed, "augment", &[epoch, index])`.
    #[must_use]
    pub fn new(seed: u64, purpose: &str, indices: &[u64]) -> Self {
        let mut state = scramble(seed ^ STEP);
        for byte in purpose.bytes() {
            state = scramble(state ^ u64::from(byte)).wrapping_add(STEP);
        }
        for index in indices {
            state = scramble(state ^ index.wrapping_mul(SPREAD));
        }
        Self { draws: SplitMix64::new(state) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.draws.next_u64()
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform below `n`, without bias; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 {
            return 0;
        }
        let n = n as u64;
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let v = self.next_u64();
            if v < limit {
                return (v % n) as usize;
            }
        }
    }

    /// Puts a slice into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_never_change() {
        let mut s = Stream::new(42, "augment", &[1, 2]);
        assert_eq!([s.next_u64(), s.next_u64()], PINNED);
    }

    const PINNED: [u64; 2] = [12_417_178_677_443_088_612, 5_497_048_654_203_418_673];

    #[test]
    fn purposes_and_indices_give_different_streams() {
        let first = |p, i: &[u64]| Stream::new(1, p, i).next_u64();
        assert_ne!(first("a", &[0]), first("b", &[0]));
        assert_ne!(first("a", &[0]), first("a", &[1]));
        assert_ne!(first("a", &[0, 1]), first("a", &[1, 0]));
    }

    #[test]
    fn a_shuffle_keeps_all_items() {
        let mut items: Vec<u32> = (0..100).collect();
        Stream::new(3, "order", &[]).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
