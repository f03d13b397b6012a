//! One optimiser step, and what keeps a model from being saved that cannot compute.

use std::collections::BTreeMap;

use albef_data::dataset::Batch as DataBatch;
use burn::tensor::Tensor;

use super::Trainer;
use crate::error::{Error, Result};
use crate::model::Weights;
use crate::objectives::distill::Metric;
use crate::objectives::pretrain::derive_seed;
use crate::ops::Ops;
use crate::params::to_vec;
use crate::train::checkpoint::{TrainProgress, TrainState};
use crate::train::objective::{Context, Features, Losses};
use crate::train::optimizer::update_average;
use crate::train::report::{PartMeans, StepReport};
use crate::train::schedule::distillation_weight;
use crate::train::step::clamp_temperature;

/// What both passes over a batch give.
struct Pass {
    /// In the order of [`Objective::losses`].
    losses: Vec<Option<f64>>,
    /// In the order of the parameters.
    gradients: Vec<Option<Tensor<1>>>,
    features: Option<Features>,
    parts: Vec<Metric>,
}

impl Trainer {
    /// One optimiser step on one or several batches.
    ///
    /// # Errors
    /// If a loss or, after the update, a weight is not finite.
    pub(super) fn step(&mut self, parts: &[DataBatch], batches: usize) -> Result<StepReport> {
        let place = self.state.place.clone();
        let lr = self.learning_rate();
        let alpha = distillation_weight(
            self.config.alpha,
            self.warm_up,
            place.epoch,
            place.batch as u64,
            batches as u64,
        );
        // The official code bounds it in pre-training only, which leaves retrieval to chance (quirk Q6).
        clamp_temperature(&mut self.state.online);
        let TrainState { online, momentum, .. } = &mut self.state;
        update_average(self.config.momentum, momentum, online);
        let share = 1.0 / parts.len() as f64;
        let mut losses: Vec<Option<f64>> = vec![None; self.objective.losses().len()];
        let mut total: Vec<Option<Tensor<1>>> = Vec::new();
        let mut features = Vec::new();
        let mut made_of = PartMeans::default();
        for (i, part) in parts.iter().enumerate() {
            let salt = place.step * self.config.accumulate as u64 + i as u64;
            let seed = derive_seed(self.config.seed, salt);
            let pass = self.gradients(part, alpha, seed, &place)?;
            let gradients = pass.gradients;
            features.extend(pass.features);
            made_of.add(&pass.parts);
            for (sum, loss) in losses.iter_mut().zip(pass.losses) {
                *sum = loss.map(|loss| sum.unwrap_or(0.0) + loss * share);
            }
            if parts.len() == 1 {
                total = gradients;
            } else if total.is_empty() {
                total = gradients.into_iter().map(|g| g.map(|g| g * share)).collect();
            } else {
                for (sum, g) in total.iter_mut().zip(gradients) {
                    *sum = match (sum.take(), g) {
                        (Some(a), Some(b)) => Some(a + b * share),
                        (a, b) => a.or_else(|| b.map(|b| b * share)),
                    };
                }
            }
        }
        // Once per optimiser step: all of its features enter the queues.
        for (image, text, ids) in features {
            self.state.queues.push(image, text, &ids);
        }
        let TrainState { online, optimizer, .. } = &mut self.state;
        if let Some(at) = optimizer.step(lr, online, total) {
            let what = format!("`{}` became too large to compute with", online.entries()[at].name);
            return Err(self.not_finite(place.step + 1, place.epoch, what, &parts[0]));
        }
        let temp = online.get("temp").map(|t| f64::from(to_vec(t.value.clone())[0]));
        self.state.place.step += 1;
        let names = self.objective.losses().iter().copied();
        let losses: BTreeMap<&'static str, f64> =
            names.zip(losses).filter_map(|(name, loss)| Some((name, loss?))).collect();
        for (name, value) in losses.iter().chain([(&"train_lr", &lr)]) {
            let (sum, n) = self.state.place.sums.entry((*name).to_owned()).or_default();
            *sum += value;
            *n += 1;
        }
        Ok(StepReport {
            step: self.state.place.step,
            epoch: place.epoch,
            train_lr: lr,
            losses,
            parts: made_of.means(),
            alpha,
            temp,
        })
    }

    fn gradients(
        &self,
        part: &DataBatch,
        alpha: f64,
        seed: u64,
        place: &TrainProgress,
    ) -> Result<Pass> {
        let (weights, Losses { terms, parts, features }) =
            self.forward(part, alpha, seed, place)?;
        let losses = found(&terms);
        if let Some(what) = self.first_not_finite(&losses) {
            return Err(self.not_finite(place.step + 1, place.epoch, what, part));
        }
        let total = terms.into_iter().flatten().reduce(|a, b| a + b);
        let Some(total) = total else { return Err(Error::Config("no loss".into())) };
        let mut all = total.backward();
        let learn_temp = self.config.learn_temp;
        let entries = self.state.online.entries().iter();
        let gradients = entries
            .map(|p| {
                let leaf = weights.leaf(&p.name).filter(|_| learn_temp || p.name != "temp")?;
                leaf.value.grad_remove(&mut all)
            })
            .collect();
        Ok(Pass { losses, gradients, features, parts })
    }

    fn forward(
        &self,
        part: &DataBatch,
        alpha: f64,
        seed: u64,
        place: &TrainProgress,
    ) -> Result<(Weights, Losses)> {
        let ops = Ops::for_device(self.state.online.device());
        let weights = self.state.online.trainable(ops.with_precision(self.config.precision));
        let context = Context {
            config: &self.config,
            model: &self.model,
            tokenizer: &self.tokenizer,
            momentum: &self.state.momentum,
            queues: &self.state.queues,
            distill: self.distill,
            alpha,
            seed,
            step: place.step,
        };
        let losses = context.losses(self.objective, &weights, part)?;
        Ok((weights, losses))
    }

    /// An error if the losses of the last batch are not finite any more. Weights may be finite and yet so
    /// large that nothing can be computed with them; a checkpoint of them would be a dead end. This costs
    /// a forward pass for each checkpoint.
    pub(super) fn check_finite_loss(&self) -> Result<()> {
        let Some(part) = &self.last else { return Ok(()) };
        let place = &self.state.place;
        let seed = derive_seed(self.config.seed, place.step);
        let (_, losses) = self.forward(part, self.config.alpha, seed, place)?;
        let Some(what) = self.first_not_finite(&found(&losses.terms)) else { return Ok(()) };
        let what = format!("{what} with the weights that this step made");
        let epoch = self.last_epoch().unwrap_or(place.epoch);
        Err(self.not_finite(place.step, epoch, what, part))
    }

    fn first_not_finite(&self, losses: &[Option<f64>]) -> Option<String> {
        let mut named = self.objective.losses().iter().zip(losses);
        named.find_map(|(name, loss)| {
            let value = loss.filter(|v| !v.is_finite())?;
            Some(format!("`{name}` is {value}"))
        })
    }

    fn not_finite(&self, step: u64, epoch: u64, what: String, part: &DataBatch) -> Error {
        let samples = part.samples.iter().take(4);
        let names: Vec<&str> = samples.map(|i| self.data.samples()[*i].name.as_str()).collect();
        Error::NotFinite { step, epoch, what, batch: names.join(", ") }
    }
}

/// The losses as numbers.
fn found(terms: &[Option<Tensor<1>>]) -> Vec<Option<f64>> {
    let number = |term: &Tensor<1>| f64::from(to_vec(term.clone().inner())[0]);
    terms.iter().map(|term| term.as_ref().map(number)).collect()
}
