//! Draws as pure functions of a seed and a counter, so that a pass can be repeated exactly.

use albef_random::draw;
use rayon::prelude::*;

use crate::isa::for_each_isa;

/// A dropout: its probability and the seed of its mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of a zero, below 1.
    pub p: f32,
    /// Seed of the mask.
    pub seed: u64,
}

/// Uniform in `[0, 1)`, a function of seed and index.
#[must_use]
#[inline(always)]
pub fn uniform(seed: u64, index: u64) -> f32 {
    (draw(seed, index) >> 40) as f32 * (1.0 / 16_777_216.0)
}

const PART: usize = 1 << 14;

for_each_isa! {
    fn part(x: &[f32], y: &mut [f32], d: Dropout, first: u64) {
        let scale = 1.0 / (1.0 - d.p);
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            let kept = uniform(d.seed, first + i as u64) >= d.p;
            *y = if kept { x * scale } else { 0.0 };
        }
    }
}

/// Zeroes entry `i` where `uniform(seed, i) < p` and scales the others by `1 / (1 - p)`. The
/// gradient is the same function of the gradient.
///
/// # Panics
/// If the slices differ in length.
pub fn dropout(x: &[f32], d: Dropout, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "dropout: input and output");
    y.par_chunks_mut(PART).zip(x.par_chunks(PART)).enumerate().for_each(|(i, (y, x))| {
        part(x, y, d, (i * PART) as u64);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_never_changes_and_fills_its_range() {
        assert_eq!(uniform(0, 0), 0.0);
        assert_eq!(uniform(7, 3) * 16_777_216.0, 15_112_256.0);
        let mean: f32 = (0..10_000).map(|i| uniform(7, i)).sum::<f32>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn dropout_keeps_the_mean_and_does_not_depend_on_the_cut() {
        let x = vec![1.0; 3 * PART + 5];
        let mut y = vec![0.0; x.len()];
        let d = Dropout { p: 0.1, seed: 3 };
        dropout(&x, d, &mut y);
        let mean: f32 = y.iter().sum::<f32>() / y.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        let at = 2 * PART + 9;
        assert_eq!(y[at] == 0.0, uniform(3, at as u64) < 0.1);
    }
}
