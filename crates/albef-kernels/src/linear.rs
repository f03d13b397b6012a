//! Linear layers in the weight layout of the checkpoints, `[outputs, inputs]`.

use rayon::prelude::*;

use crate::bf16::Precision;
use crate::elementwise::gelu;
use crate::gemm::multiply;
use crate::operands::{Finish, Strided};

/// What follows the affine map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// The exact GELU.
    Gelu,
}

/// A weight `[outputs, inputs]` and the precision of its products.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    data: &'a [f32],
    outputs: usize,
    inputs: usize,
    precision: Precision,
}

impl<'a> Weight<'a> {
    /// The weight `w` `[outputs, inputs]`.
    ///
    /// # Panics
    /// If `w` has another length.
    #[must_use]
    pub fn new(w: &'a [f32], outputs: usize, inputs: usize, precision: Precision) -> Self {
        assert_eq!(w.len(), outputs * inputs, "weight [{outputs}, {inputs}]");
        Self { data: w, outputs, inputs, precision }
    }
}

fn rows(x: &[f32], inputs: usize) -> Strided<'_> {
    Strided { data: x, row: inputs, column: 1 }
}

/// `y[m][outputs] = act(x[m][inputs] Wᵀ + bias) + residual`.
///
/// # Panics
/// If a slice is too short.
pub fn linear(
    w: Weight<'_>,
    x: &[f32],
    m: usize,
    bias: Option<&[f32]>,
    activation: Activation,
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    let finish = Finish { bias, gelu: activation == Activation::Gelu, residual };
    let right = Strided { data: w.data, row: 1, column: w.inputs };
    multiply(rows(x, w.inputs), right, [m, w.outputs, w.inputs], w.precision, finish, y);
}

/// The same with GELU, keeping what goes into it in `z`.
///
/// # Panics
/// If a slice is too short.
pub fn linear_gelu_keep(
    w: Weight<'_>,
    x: &[f32],
    m: usize,
    bias: Option<&[f32]>,
    z: &mut [f32],
    y: &mut [f32],
) {
    linear(w, x, m, bias, Activation::None, None, z);
    gelu(&z[..m * w.outputs], &mut y[..m * w.outputs]);
}

/// `dx[m][k] = dz[m][n] W[n][k]`.
///
/// # Panics
/// If a slice is too short.
pub fn linear_backward_input(
    dz: &[f32],
    w: &[f32],
    [m, n, k]: [usize; 3],
    precision: Precision,
    dx: &mut [f32],
) {
    let right = Strided { data: w, row: k, column: 1 };
    multiply(rows(dz, n), right, [m, k, n], precision, Finish::NOTHING, dx);
}

/// `dw[n][k] = dzᵀ[n][m] x[m][k]`.
///
/// # Panics
/// If a slice is too short.
pub fn linear_backward_weight(
    dz: &[f32],
    x: &[f32],
    [m, n, k]: [usize; 3],
    precision: Precision,
    dw: &mut [f32],
) {
    let left = Strided { data: dz, row: 1, column: n };
    let right = Strided { data: x, row: k, column: 1 };
    multiply(left, right, [n, k, m], precision, Finish::NOTHING, dw);
}

/// `db[n]`, the sum of `dz[m][n]` over rows.
///
/// # Panics
/// If a slice is too short.
pub fn linear_backward_bias(dz: &[f32], m: usize, n: usize, db: &mut [f32]) {
    assert!(dz.len() >= m * n && db.len() >= n, "bias gradient of {m} x {n}");
    let width = 256;
    db[..n].par_chunks_mut(width).enumerate().for_each(|(i, db)| {
        db.fill(0.0);
        for row in 0..m {
            let start = row * n + i * width;
            db.iter_mut().zip(&dz[start..]).for_each(|(b, d)| *b += d);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::uniform;

    fn random(seed: u64, n: usize) -> Vec<f32> {
        (0..n).map(|i| uniform(seed, i as u64) * 2.0 - 1.0).collect()
    }

    fn close(got: &[f32], want: impl Fn(usize) -> f64, what: &str) {
        for (i, g) in got.iter().enumerate() {
            let w = want(i);
            assert!(
                (f64::from(*g) - w).abs() < 2e-5 * (1.0 + w.abs()),
                "{what}[{i}]: {g}, not {w}"
            );
        }
    }

    #[test]
    fn products_equal_double_precision_for_awkward_sizes() {
        for [m, n, k] in
            [[1, 1, 1], [3, 33, 5], [14, 32, 512], [29, 70, 1025], [200, 65, 48], [9, 300, 600]]
        {
            let (x, w, b) = (random(1, m * k), random(2, n * k), random(3, n));
            let r = random(4, m * n);
            let dot = |i: usize, j: usize| -> f64 {
                (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p])).sum()
            };
            let weight = Weight::new(&w, n, k, Precision::F32);
            let mut y = vec![f32::NAN; m * n];
            linear(weight, &x, m, Some(&b), Activation::None, Some(&r), &mut y);
            close(&y, |i| dot(i / n, i % n) + f64::from(b[i % n]) + f64::from(r[i]), "y");
            let mut z = vec![f32::NAN; m * n];
            let mut kept = z.clone();
            linear(weight, &x, m, Some(&b), Activation::Gelu, None, &mut y);
            linear_gelu_keep(weight, &x, m, Some(&b), &mut z, &mut kept);
            close(&kept, |i| f64::from(y[i]), "kept");

            let dz = random(5, m * n);
            let mut dx = vec![f32::NAN; m * k];
            linear_backward_input(&dz, &w, [m, n, k], Precision::F32, &mut dx);
            let sum = |i: usize, p: usize| -> f64 {
                (0..n).map(|j| f64::from(dz[i * n + j]) * f64::from(w[j * k + p])).sum()
            };
            close(&dx, |i| sum(i / k, i % k), "dx");
            let mut dw = vec![f32::NAN; n * k];
            linear_backward_weight(&dz, &x, [m, n, k], Precision::F32, &mut dw);
            let sum = |j: usize, p: usize| -> f64 {
                (0..m).map(|i| f64::from(dz[i * n + j]) * f64::from(x[i * k + p])).sum()
            };
            close(&dw, |i| sum(i / k, i % k), "dw");
            let mut db = vec![f32::NAN; n];
            linear_backward_bias(&dz, m, n, &mut db);
            close(&db, |j| (0..m).map(|i| f64::from(dz[i * n + j])).sum(), "db");
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let [m, n, k] = [150, 96, 300];
        let (x, w) = (random(1, m * k), random(2, n * k));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = vec![0.0; m * n];
            pool.install(|| {
                let weight = Weight::new(&w, n, k, Precision::F32);
                linear(weight, &x, m, None, Activation::Gelu, None, &mut y);
            });
            y
        };
        assert_eq!(run(1), run(3));
    }
}
