//! The optimiser step and the momentum average, each one pass over memory.

use rayon::prelude::*;

use crate::isa::for_each_isa;

/// Settings of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The factors of one step in the precision of the data.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

for_each_isa! {
    fn adamw_part(f: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], s: &mut [f32]) {
        for (((p, g), m), s) in p.iter_mut().zip(g).zip(m).zip(s) {
            *m = *m * f.beta1 + g * f.rest1;
            *s = *s * f.beta2 + g * g * f.rest2;
            *p = *p * f.keep - f.rate * (*m / (s.sqrt() / f.root + f.eps));
        }
    }
}

for_each_isa! {
    fn largest_part(values: &[f32]) -> u32 {
        // Without the sign, bit patterns rise with the numbers, and those of NaN lie above all.
        values.iter().fold(0, |top, v| (v.to_bits() & 0x7fff_ffff).max(top))
    }
}

for_each_isa! {
    fn ema_part(keep: f32, rest: f32, average: &mut [f32], value: &[f32]) {
        for (a, v) in average.iter_mut().zip(value) {
            *a = *a * keep + v * rest;
        }
    }
}

const PART: usize = 1 << 15;

/// The largest absolute value; infinite or NaN if one is.
#[must_use]
pub fn largest(values: &[f32]) -> f32 {
    f32::from_bits(values.par_chunks(PART).map(largest_part).max().unwrap_or(0))
}

/// One step of AdamW, the `t`-th (from 1): decay, moments, update, as `torch.optim.AdamW` does. Gives
/// what [`largest`] says of `p` and `s` afterwards, looked up while they are at hand.
///
/// # Panics
/// If the slices differ in length.
pub fn adamw(
    o: &AdamW,
    t: u64,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    s: &mut [f32],
) -> [f32; 2] {
    let n = p.len();
    assert!(g.len() == n && m.len() == n && s.len() == n, "adamw: gradient or moments");
    let power = i32::try_from(t).unwrap_or(i32::MAX);
    let f = Factors {
        keep: (1.0 - o.lr * o.weight_decay) as f32,
        beta1: o.beta1 as f32,
        beta2: o.beta2 as f32,
        rest1: (1.0 - o.beta1) as f32,
        rest2: (1.0 - o.beta2) as f32,
        rate: (o.lr / (1.0 - o.beta1.powi(power))) as f32,
        root: (1.0 - o.beta2.powi(power)).sqrt() as f32,
        eps: o.eps as f32,
    };
    let bits = p
        .par_chunks_mut(PART)
        .zip(g.par_chunks(PART))
        .zip(m.par_chunks_mut(PART).zip(s.par_chunks_mut(PART)))
        .map(|((p, g), (m, s))| {
            adamw_part(f, p, g, m, s);
            [largest_part(p), largest_part(s)]
        })
        .reduce(|| [0; 2], |a, b| [a[0].max(b[0]), a[1].max(b[1])]);
    bits.map(f32::from_bits)
}

/// `average = average * momentum + value * (1 - momentum)`.
///
/// # Panics
/// If the slices differ in length.
pub fn ema(momentum: f64, average: &mut [f32], value: &[f32]) {
    assert_eq!(average.len(), value.len(), "ema: average and value");
    let (keep, rest) = (momentum as f32, (1.0 - momentum) as f32);
    average
        .par_chunks_mut(PART)
        .zip(value.par_chunks(PART))
        .for_each(|(a, v)| ema_part(keep, rest, a, v));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_shows_whatever_is_not_finite() {
        assert_eq!(largest(&[]), 0.0);
        let mut many = vec![-1.0; 3 * PART + 5];
        many[2 * PART] = -3.0;
        assert_eq!(largest(&many), 3.0);
        many[PART] = f32::NEG_INFINITY;
        assert_eq!(largest(&many), f32::INFINITY);
        many[7] = -f32::NAN;
        assert!(largest(&many).is_nan());
    }

    #[test]
    fn an_update_tells_the_largest_weight_and_second_moment() {
        let o = AdamW { lr: 0.5, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
        let n = PART + 9;
        let (mut p, mut m, mut s) = (vec![0.25; n], vec![0.0; n], vec![0.0; n]);
        let mut g = vec![0.0; n];
        g[PART + 3] = -4.0;
        let told = adamw(&o, 1, &mut p, &g, &mut m, &mut s);
        assert_eq!(told, [largest(&p), largest(&s)]);
        assert!((told[0] - 0.75).abs() < 1e-5 && (told[1] - 0.16).abs() < 1e-6, "{told:?}");
        g[2] = f32::NAN;
        assert!(adamw(&o, 2, &mut p, &g, &mut m, &mut s).iter().all(|v| v.is_nan()));
    }
}
