//! Exponential, GELU and their derivatives, written so that compilers vectorise them.

use rayon::prelude::*;

use crate::isa::for_each_isa;

/// `e^x`, to about one unit in the last place between -87 and 88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let power = (shifted.to_bits() as i32).wrapping_sub(0x4b40_0000);
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_58e-2, 1.666_666_5e-1, 5.0e-1] {
        p = p.mul_add(r, c);
    }
    let p = p.mul_add(r * r, r + 1.0);
    p * f32::from_bits(((power + 127) << 23) as u32)
}

/// The normal cumulative distribution, `(1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    let z = (x * std::f32::consts::FRAC_1_SQRT_2).clamp(-4.0, 4.0);
    let z2 = z * z;
    let mut p = -2.726_142_3e-10_f32;
    for c in [
        2.770_681_3e-8,
        -2.101_024e-6,
        -5.692_506_6e-5,
        -7.349_906_4e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        p = p.mul_add(z2, c);
    }
    let mut q = -1.456_607_2e-5_f32;
    for c in [-2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        q = q.mul_add(z2, c);
    }
    (p * z / q).mul_add(0.5, 0.5)
}

#[inline(always)]
pub(crate) fn gelu_of(x: f32) -> f32 {
    x * normal_cdf(x)
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let density = exp(-0.5 * x * x) * 0.398_942_3;
    x.mul_add(density, normal_cdf(x))
}

for_each_isa! {
    pub(crate) fn gelu_part(z: &[f32], y: &mut [f32]) {
        for (z, y) in z.iter().zip(y) {
            *y = gelu_of(*z);
        }
    }
}

for_each_isa! {
    fn gelu_backward_part(z: &[f32], dy: &[f32], dz: &mut [f32]) {
        for ((z, dy), dz) in z.iter().zip(dy).zip(dz) {
            *dz = dy * gelu_slope(*z);
        }
    }
}

const PART: usize = 1 << 14;

/// The exact GELU, `x Φ(x)`.
///
/// # Panics
/// If the slices differ in length.
pub fn gelu(z: &[f32], y: &mut [f32]) {
    assert_eq!(z.len(), y.len(), "gelu: input and output");
    y.par_chunks_mut(PART).zip(z.par_chunks(PART)).for_each(|(y, z)| gelu_part(z, y));
}

/// `dz = dy * gelu'(z)`.
///
/// # Panics
/// If the slices differ in length.
pub fn gelu_backward(z: &[f32], dy: &[f32], dz: &mut [f32]) {
    assert_eq!(z.len(), dz.len(), "gelu_backward: input and output");
    assert_eq!(dy.len(), dz.len(), "gelu_backward: gradients");
    dz.par_chunks_mut(PART)
        .zip(z.par_chunks(PART).zip(dy.par_chunks(PART)))
        .for_each(|(dz, (z, dy))| gelu_backward_part(z, dy, dz));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `erf` by its series and continued fraction, in double precision.
    fn erf(x: f64) -> f64 {
        let (mut sum, mut term, mut n) = (x, x, 0.0);
        while term.abs() > 1e-17 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn exp_is_accurate() {
        for i in -8_000..8_000 {
            let x = i as f32 * 0.01;
            let want = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!(((got - want) / want).abs() < 3e-7, "exp({x}) = {got}, not {want}");
        }
    }

    #[test]
    fn gelu_and_its_slope_are_accurate() {
        let phi = |x: f64| 0.5 * (1.0 + erf(x / 2.0_f64.sqrt()));
        for i in -400..400 {
            let x = f64::from(i) * 0.01;
            let want = x * phi(x);
            let slope = phi(x) + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let (mut y, mut d) = ([0.0], [0.0]);
            gelu(&[x as f32], &mut y);
            gelu_backward(&[x as f32], &[1.0], &mut d);
            assert!((f64::from(y[0]) - want).abs() < 1e-6, "gelu({x}) = {}, not {want}", y[0]);
            assert!((f64::from(d[0]) - slope).abs() < 1e-6, "gelu'({x}) = {}", d[0]);
        }
    }
}
