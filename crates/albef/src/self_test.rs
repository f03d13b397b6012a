//! Whether a device computes what plain operations compute on the CPU.

use std::sync::Arc;

use burn::tensor::Device;

use crate::golden;
use crate::ops::{AttentionSpec, Ops, Segment};
use crate::params::{cpu, from_vec, to_vec};

/// Largest difference that is allowed on the CPU.
const ALLOWED: f64 = 1e-4;

/// Result of a self-test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelfTest {
    /// The largest difference from plain operations on the CPU.
    pub difference: f64,
    /// What is allowed on the device.
    pub allowed: f64,
    /// Factor of the device on tolerances.
    pub tolerance_factor: f64,
}

impl SelfTest {
    /// Tests the operations of a device on a small example: a linear layer and attention over two segments.
    #[must_use]
    pub fn run(device: &Device) -> Self {
        let tolerance_factor = golden::slack(device);
        Self {
            difference: difference(device),
            allowed: ALLOWED * tolerance_factor,
            tolerance_factor,
        }
    }

    /// Whether the difference is below what is allowed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.difference < self.allowed
    }
}

fn difference(device: &Device) -> f64 {
    let (rows, width) = (21, 48);
    let wave = |n: usize, s: f32| (0..n).map(|i| ((i as f32 + 1.0) * s).sin()).collect::<Vec<_>>();
    let segment = |start, len| Segment { q_start: start, q_len: len, k_start: start, k_len: len };
    let spec = Arc::new(AttentionSpec {
        segments: vec![segment(0, 9), segment(9, 12)],
        heads: 4,
        head_dim: 12,
        causal: false,
        dropout: None,
    });
    let run = |ops: Ops, device: &Device| {
        let x = from_vec(wave(rows * width, 0.37), [rows, width], device);
        let w = from_vec(wave(3 * width * width, 0.11), [3 * width, width], device);
        let b = from_vec(wave(3 * width, 0.7), [3 * width], device);
        to_vec(ops.attention_packed(ops.linear(x, w, b, true), &spec))
    };
    run(Ops::for_device(device), device)
        .iter()
        .zip(run(Ops::Plain, &cpu()))
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |worst, v| if v.is_nan() || v > worst { v } else { worst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_passes() {
        let test = SelfTest::run(&cpu());
        assert!(test.passed(), "{test:?}");
    }
}
