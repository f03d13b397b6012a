//! One training step: the order of everything that changes a run, in one place.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;

use albef_data::dataset::Batch;
use albef_random::derive_seed;
use burn::tensor::Tensor;

use super::checkpoint::{TrainProgress, TrainState};
use super::report::MetricMeans;
pub use super::report::StepReport;
use super::schedule::{Schedule, distillation_weight};
use super::temperature::clamp_temperature;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::fault::{Fault, injected};
use crate::model::Weights;
use crate::objectives::masking::SpecialIds;
use crate::objectives::momentum::update_average;
use crate::objectives::rng::{Replay, StepRng};
use crate::objectives::{Losses, Objective, StepContext};
use crate::ops::{Ops, Precision};
use crate::params::{Params, to_vec};

/// What decides about a step besides state, objective and batches.
#[derive(Clone, Debug)]
pub struct StepSettings {
    /// Sizes of the model.
    pub model: ModelConfig,
    /// Special ids of the vocabulary.
    pub special: SpecialIds,
    /// The learning rate over the run.
    pub schedule: Schedule,
    /// Weight of the momentum model's pseudo-targets after warm-up.
    pub alpha: f64,
    /// Whether this weight ramps up over the first epoch.
    pub warm_up: bool,
    /// Weight of the past in the momentum average.
    pub momentum: f64,
    /// Whether the temperature is trained.
    pub train_temp: bool,
    /// What the factors of products are rounded to.
    pub precision: Precision,
    /// Seed of the random draws.
    pub seed: u64,
    /// Batches of an optimizer step, of which the last of an epoch may have fewer.
    pub grad_accum_steps: usize,
    /// Batches of an epoch.
    pub batches_per_epoch: usize,
    /// Given draws, one for each batch of the step, in the place of seeded ones.
    pub replay: Option<Vec<Replay>>,
}

impl StepSettings {
    /// The learning rate of the step that begins at `progress`.
    #[must_use]
    pub fn learning_rate(&self, progress: &TrainProgress) -> f64 {
        let iteration = (progress.batch / self.grad_accum_steps.max(1)) as u64;
        let iteration = iteration + u64::from(injected(Fault::ScheduleStepTooEarly));
        self.schedule.rate(progress.step, progress.epoch, iteration)
    }

    /// The distillation weight of the step that begins at `progress`.
    #[must_use]
    pub fn distillation_weight(&self, progress: &TrainProgress) -> f64 {
        let batch = progress.batch as u64 + u64::from(injected(Fault::AlphaOfNextStep));
        let length = self.batches_per_epoch as u64;
        distillation_weight(self.alpha, self.warm_up, progress.epoch, batch, length)
    }

    /// The draws of batch `i` of the step that begins at `progress`.
    fn rng(&self, progress: &TrainProgress, i: usize) -> Result<StepRng> {
        match &self.replay {
            Some(given) => given.get(i).cloned().map(StepRng::Replay).ok_or_else(|| {
                Error::Config(format!("draws are given for {} batches of a step only", given.len()))
            }),
            None => {
                let salt = progress.step * self.grad_accum_steps as u64 + i as u64;
                Ok(StepRng::Seeded(derive_seed(self.seed, salt)))
            }
        }
    }
}

/// Sees what happens inside a step; `()` does not look.
pub trait StepProbe {
    /// Whether [`StepProbe::forward`] wants the trace.
    fn wants_trace(&self) -> bool {
        false
    }

    /// Losses of a batch, and the objective's intermediates where they are wanted.
    fn forward(&mut self, _losses: &Losses, _trace: Option<Box<dyn Any>>) {}

    /// The gradients that the optimizer gets, in the order of `params`; `None` where a weight takes no
    /// part.
    fn gradients(&mut self, _params: &Params, _gradients: &[Option<Tensor<1>>]) {}
}

impl StepProbe for () {}

/// One optimizer step on one batch, or on several whose gradients are averaged:
///
/// 1. the temperature is clamped,
/// 2. the momentum model moves towards the trained weights,
/// 3. for each batch, losses and gradients,
/// 4. the features of all of them enter the queues,
/// 5. the optimizer changes the weights,
/// 6. `state.place` counts the step and its batches.
///
/// # Errors
/// If a batch does not fit, or a loss or, after the update, a weight is not finite.
pub fn train_step(
    state: &mut TrainState,
    objective: &dyn Objective,
    batches: &[Batch],
    settings: &StepSettings,
    probe: &mut dyn StepProbe,
) -> Result<StepReport> {
    let progress = state.place.clone();
    let lr = settings.learning_rate(&progress);
    let alpha = settings.distillation_weight(&progress);

    // The official code bounds it in pre-training only, which leaves retrieval to chance (quirk Q6).
    if !injected(Fault::ClampLeftOut) {
        clamp_temperature(&mut state.online);
    }
    let averaged = objective.uses_momentum();
    if averaged && !injected(Fault::MomentumAfterForward) {
        update_average(settings.momentum, &mut state.momentum, &mut state.online);
    }

    let mut sum = StepSum::new(batches.len());
    for (i, batch) in batches.iter().enumerate() {
        let rng = settings.rng(&progress, i)?;
        let pass = Pass { settings, alpha, step: progress.step, rng: &rng };
        let (weights, forward) = pass.forward(state, objective, batch, probe.wants_trace())?;
        check_finite(&forward.losses, &progress, batch)?;
        probe.forward(&forward.losses, forward.trace);
        sum.features.extend(forward.features);
        sum.add_losses(&forward.losses);
        let found = gradients(&state.online, weights, forward.losses, settings.train_temp)?;
        let mut metrics = forward.metrics;
        if found.is_none() {
            metrics.push((WITHOUT_GRADIENT, 1.0));
        }
        sum.metrics.add(&metrics);
        sum.add_gradients(found.unwrap_or_else(|| vec![None; state.online.entries().len()]));
    }
    if averaged && injected(Fault::MomentumAfterForward) {
        update_average(settings.momentum, &mut state.momentum, &mut state.online);
    }
    probe.gradients(&state.online, &sum.gradients);

    for features in sum.features {
        state.queues.push(features.image, features.text, &features.ids);
    }
    let TrainState { online, optimizer, .. } = &mut *state;
    if let Some(at) = optimizer.step(lr, online, sum.gradients) {
        let what = format!("`{}` became too large to compute with", online.entries()[at].name);
        return Err(not_finite(progress.step + 1, progress.epoch, what, batches.first()));
    }

    state.place.step += 1;
    state.place.batch += batches.len();
    for (name, value) in sum.losses.iter().chain([(&"train_lr", &lr)]) {
        let (total, n) = state.place.sums.entry((*name).to_owned()).or_default();
        *total += value;
        *n += 1;
    }
    let temp = state.online.get("temp").map(|t| f64::from(to_vec(t.value.clone())[0]));
    Ok(StepReport {
        step: state.place.step,
        epoch: progress.epoch,
        train_lr: lr,
        losses: sum.losses,
        metrics: sum.metrics.means(),
        alpha,
        temp,
    })
}

/// An error if the losses of a batch are not finite with the weights that the last step made. Weights may
/// be finite and yet so large that nothing can be computed with them; a checkpoint of them would be a
/// dead end. This costs a forward pass.
///
/// # Errors
/// If so, or if the batch does not fit. `epoch`: that of the last step.
pub fn check_finite_losses(
    state: &TrainState,
    objective: &dyn Objective,
    batch: &Batch,
    settings: &StepSettings,
    epoch: u64,
) -> Result<()> {
    let step = state.place.step;
    let rng = StepRng::Seeded(derive_seed(settings.seed, step));
    let pass = Pass { settings, alpha: settings.alpha, step, rng: &rng };
    let (_, forward) = pass.forward(state, objective, batch, false)?;
    let Some(what) = first_not_finite(&forward.losses) else { return Ok(()) };
    let what = format!("{what} with the weights that this step made");
    Err(not_finite(step, epoch, what, Some(batch)))
}

/// What a forward pass of a batch needs besides state and batch.
struct Pass<'a> {
    settings: &'a StepSettings,
    alpha: f64,
    step: u64,
    rng: &'a StepRng,
}

impl Pass<'_> {
    fn forward(
        &self,
        state: &TrainState,
        objective: &dyn Objective,
        batch: &Batch,
        trace: bool,
    ) -> Result<(Weights, crate::objectives::Forward)> {
        let precision = self.settings.precision;
        let ops = Ops::for_device(state.online.device()).with_precision(precision);
        let weights = state.online.trainable(ops);
        let cx = StepContext {
            model: &self.settings.model,
            special: self.settings.special,
            momentum: &state.momentum,
            queues: &state.queues,
            alpha: self.alpha,
            step: self.step,
            rng: self.rng,
            precision,
            trace,
        };
        let forward = objective.forward(&cx, &weights, batch)?;
        Ok((weights, forward))
    }
}

/// The share of a step's batches whose losses depend on no weight, such as masked language modeling
/// without a masked token.
pub(super) const WITHOUT_GRADIENT: &str = "batches_without_gradient";

/// The gradients of the sum of the losses, in the order of `online`; `None` where a weight takes no part,
/// and for all if none does.
fn gradients(
    online: &Params,
    weights: Weights,
    losses: Losses,
    train_temp: bool,
) -> Result<Option<Vec<Option<Tensor<1>>>>> {
    let total = losses.total().ok_or_else(|| Error::Config("no loss".into()))?;
    drop(losses);
    if !total.is_tracked() {
        return Ok(None);
    }
    let mut all = total.backward();
    let train_temp = train_temp && !injected(Fault::TemperatureGradientDropped);
    let gradient = |name: &str| {
        let leaf = weights.leaf(name).filter(|_| train_temp || name != "temp")?;
        leaf.value.grad_remove(&mut all)
    };
    Ok(Some(online.entries().iter().map(|p| p.name.as_str()).map(gradient).collect()))
}

/// What the batches of a step add up to: losses and gradients are means over batches.
struct StepSum {
    share: f64,
    losses: BTreeMap<&'static str, f64>,
    gradients: Vec<Option<Tensor<1>>>,
    features: Vec<crate::objectives::QueueFeatures>,
    metrics: MetricMeans,
}

impl StepSum {
    fn new(batches: usize) -> Self {
        let averaged = !injected(Fault::AccumulationNotAveraged);
        Self {
            share: if averaged { 1.0 / batches as f64 } else { 1.0 },
            losses: BTreeMap::new(),
            gradients: Vec::new(),
            features: Vec::new(),
            metrics: MetricMeans::default(),
        }
    }

    fn add_losses(&mut self, losses: &Losses) {
        for (name, value) in losses.values() {
            *self.losses.entry(name).or_default() += value * self.share;
        }
    }

    fn add_gradients(&mut self, gradients: Vec<Option<Tensor<1>>>) {
        let share = self.share;
        if share == 1.0 && self.gradients.is_empty() {
            self.gradients = gradients;
        } else if self.gradients.is_empty() {
            self.gradients = gradients.into_iter().map(|g| g.map(|g| g * share)).collect();
        } else {
            for (sum, g) in self.gradients.iter_mut().zip(gradients) {
                *sum = match (sum.take(), g) {
                    (Some(a), Some(b)) => Some(a + b * share),
                    (a, b) => a.or_else(|| b.map(|b| b * share)),
                };
            }
        }
    }
}

fn first_not_finite(losses: &Losses) -> Option<String> {
    let mut all = losses.values().into_iter();
    all.find_map(|(name, value)| (!value.is_finite()).then(|| format!("`{name}` is {value}")))
}

fn check_finite(losses: &Losses, progress: &TrainProgress, batch: &Batch) -> Result<()> {
    let Some(what) = first_not_finite(losses) else { return Ok(()) };
    Err(not_finite(progress.step + 1, progress.epoch, what, Some(batch)))
}

/// Names the samples by their numbers; whoever knows the data can put names in their place.
fn not_finite(step: u64, epoch: u64, what: String, batch: Option<&Batch>) -> Error {
    let samples: Vec<usize> =
        batch.into_iter().flat_map(|batch| batch.samples.iter().copied().take(4)).collect();
    let names: Vec<String> = samples.iter().map(|i| format!("sample {i}")).collect();
    Error::NotFinite { step, epoch, what, batch: names.join(", "), samples }
}
