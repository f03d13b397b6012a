//! AdamW with the official parameter groups (paper section 3.5).

use albef_kernels as kernels;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, injected};
use crate::ops;
use crate::params::{Params, from_vec, take_vec, to_vec};

/// Which parameters decay (quirk Q7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayRule {
    /// All but tensors of one axis and names ending in `.bias`: temperature, class token, position
    /// table and embeddings decay.
    #[default]
    Reference,
    /// The factors of products only: those decay neither.
    Clean,
}

impl DecayRule {
    /// Whether a parameter of this name and shape decays.
    #[must_use]
    pub fn decays(self, name: &str, shape: &[usize]) -> bool {
        let factor = || {
            let table = ["cls_token", "pos_embed"].iter().any(|t| name.ends_with(t));
            shape.len() > 1 && !table && !name.contains("embeddings.")
        };
        let exempt =
            (shape.len() == 1 || name.ends_with(".bias")) && !injected(Fault::WeightDecayOnBiases);
        !exempt && (self == Self::Reference || factor())
    }
}

/// Moments of one parameter.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Steps taken, from 1 at the first.
    pub steps: u64,
    /// Running mean of the gradient.
    pub exp_avg: Tensor<1>,
    /// Running mean of its square.
    pub exp_avg_sq: Tensor<1>,
}

/// AdamW over the tensors of a [`Params`].
#[derive(Clone, Debug)]
pub struct Optimizer {
    /// Weight decay of the tensors that decay.
    pub weight_decay: f64,
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    decay: Vec<bool>,
    scale: Vec<f64>,
    moments: Vec<Option<Moments>>,
}

impl Optimizer {
    /// A fresh optimiser for these parameters, decaying by the reference rule.
    #[must_use]
    pub fn new(params: &Params, weight_decay: f64, betas: (f64, f64), eps: f64) -> Self {
        let rule = DecayRule::Reference;
        let decay = params.entries().iter().map(|p| rule.decays(&p.name, &p.shape)).collect();
        let moments = vec![None; params.entries().len()];
        let scale = vec![1.0; params.entries().len()];
        Self { weight_decay, betas, eps, decay, scale, moments }
    }

    /// The same with another rule of decay.
    #[must_use]
    pub fn decaying(mut self, params: &Params, rule: DecayRule) -> Self {
        let decay = params.entries().iter().map(|p| rule.decays(&p.name, &p.shape));
        self.decay = decay.collect();
        self
    }

    /// Which parameters decay, by position.
    #[must_use]
    pub fn decay(&self) -> &[bool] {
        &self.decay
    }

    /// The same with a factor on the learning rate of tensors whose names begin with `prefix`.
    #[must_use]
    pub fn scaled(mut self, params: &Params, prefix: &str, factor: f64) -> Self {
        for (scale, p) in self.scale.iter_mut().zip(params.entries()) {
            if p.name.starts_with(prefix) {
                *scale = factor;
            }
        }
        self
    }

    /// Moments by position of the parameter; `None` before its first gradient.
    #[must_use]
    pub fn moments(&self) -> &[Option<Moments>] {
        &self.moments
    }

    /// Puts back the moments of a checkpoint.
    pub fn set_moments(&mut self, at: usize, moments: Moments) {
        self.moments[at] = Some(moments);
    }

    /// One step. A parameter without a gradient is left alone, decay included, until it has had
    /// one; from then on a missing gradient counts as zero, as in the official loop, which zeroes
    /// gradients instead of dropping them.
    ///
    /// Gives the place of the first parameter that is useless from now on, itself or by its moments.
    pub fn step(
        &mut self,
        lr: f64,
        params: &mut Params,
        mut gradients: Vec<Option<Tensor<1>>>,
    ) -> Option<usize> {
        let cpu = ops::is_cpu(params.device());
        let mut useless = None;
        let (mut places, mut sums) = (Vec::new(), Vec::new());
        for (i, (_, value)) in params.values_mut().enumerate() {
            let gradient = gradients[i].take();
            let (gradient, moments) = match (gradient, self.moments[i].take()) {
                (None, None) => continue,
                (Some(g), Some(m)) => (g, m),
                (None, Some(m)) => (value.zeros_like(), m),
                (Some(g), None) => {
                    let zeros = || value.zeros_like();
                    (g, Moments { steps: 0, exp_avg: zeros(), exp_avg_sq: zeros() })
                }
            };
            let weight_decay = if self.decay[i] { self.weight_decay } else { 0.0 };
            let settings = kernels::AdamW {
                lr: lr * self.scale[i],
                beta1: self.betas.0,
                beta2: self.betas.1,
                eps: self.eps,
                weight_decay,
            };
            let moments = if cpu {
                let (moments, fine) = update_on_cpu(&settings, value, gradient, moments);
                useless = useless.or((!fine).then_some(i));
                moments
            } else {
                let moments = update_anywhere(&settings, value, gradient, moments);
                places.push(i);
                sums.push(value.clone().square().sum() + moments.exp_avg_sq.clone().sum());
                moments
            };
            self.moments[i] = Some(moments);
        }
        // Read back from the device once a step, not once a parameter.
        if !sums.is_empty() {
            let sums = to_vec(Tensor::cat(sums, 0));
            useless = places.into_iter().zip(sums).find(|(_, s)| !s.is_finite()).map(|(i, _)| i);
        }
        useless
    }
}

/// Products of weights beyond this are infinite.
const TOO_LARGE: f32 = 1.8e19;

fn update_on_cpu(
    o: &kernels::AdamW,
    value: &mut Tensor<1>,
    mut gradient: Tensor<1>,
    mut moments: Moments,
) -> (Moments, bool) {
    let device = value.device();
    let mut p = take_vec(value);
    let g = take_vec(&mut gradient);
    let mut m = take_vec(&mut moments.exp_avg);
    let mut s = take_vec(&mut moments.exp_avg_sq);
    let steps = moments.steps + 1;
    let corrected = steps + u64::from(injected(Fault::BiasCorrectionOffByOne));
    let [weight, square] = kernels::adamw(o, corrected, &mut p, &g, &mut m, &mut s);
    let fine = weight < TOO_LARGE && square.is_finite();
    let n = p.len();
    *value = from_vec(p, [n], &device);
    let (exp_avg, exp_avg_sq) = (from_vec(m, [n], &device), from_vec(s, [n], &device));
    (Moments { steps, exp_avg, exp_avg_sq }, fine)
}

fn update_anywhere(
    o: &kernels::AdamW,
    value: &mut Tensor<1>,
    gradient: Tensor<1>,
    moments: Moments,
) -> Moments {
    let steps = moments.steps + 1;
    let m = moments.exp_avg * o.beta1 + gradient.clone() * (1.0 - o.beta1);
    let s = moments.exp_avg_sq * o.beta2 + gradient.square() * (1.0 - o.beta2);
    let power = i32::try_from(steps).unwrap_or(i32::MAX);
    let root = (1.0 - o.beta2.powi(power)).sqrt();
    let rate = o.lr / (1.0 - o.beta1.powi(power));
    let update = m.clone() / (s.clone().sqrt() / root + o.eps) * rate;
    *value = value.clone() * (1.0 - o.lr * o.weight_decay) - update;
    Moments { steps, exp_avg: m, exp_avg_sq: s }
}
