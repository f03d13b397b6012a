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
    fn ema_part(keep: f32, rest: f32, average: &mut [f32], value: &[f32]) {
        for (a, v) in average.iter_mut().zip(value) {
            *a = *a * keep + v * rest;
        }
    }
}

const PART: usize = 1 << 15;

/// One step of AdamW, the `t`-th (from 1): decay, moments, update, as `torch.optim.AdamW` does.
///
/// # Panics
/// If the slices differ in length.
pub fn adamw(o: &AdamW, t: u64, p: &mut [f32], g: &[f32], m: &mut [f32], s: &mut [f32]) {
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
    p.par_chunks_mut(PART)
        .zip(g.par_chunks(PART))
        .zip(m.par_chunks_mut(PART).zip(s.par_chunks_mut(PART)))
        .for_each(|((p, g), (m, s))| adamw_part(f, p, g, m, s));
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
