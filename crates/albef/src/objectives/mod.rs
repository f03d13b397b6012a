//! The objectives, under the names of the paper: contrast ([`itc`]), matching ([`itm`]) and masked
//! language modeling ([`mlm`]) with what they need (momentum model, distillation, queues, hard
//! negatives, masking; paper sections 3.2 and 3.3), and what a step minimizes for each task:
//! image–text pairs ([`pairs`]), question answering ([`vqa`]), classification ([`classify`]) and text
//! assignment ([`text_assignment`]).
//!
//! An [`Objective`] turns a batch and weights into named losses. It changes nothing: the order of
//! clamp, momentum update, forward, backward, queues and optimizer is that of
//! [`train_step`](crate::train::step::train_step).

pub mod classify;
pub mod distill;
pub mod itc;
pub mod itm;
pub mod labels;
pub mod masking;
pub mod mlm;
pub mod momentum;
pub mod negatives;
pub mod pairs;
pub mod queue;
pub mod rng;
#[cfg(test)]
mod tests;
pub mod text_assignment;
pub mod vqa;

use std::any::Any;

use albef_data::dataset::Batch;
use burn::tensor::Tensor;

pub use self::classify::{ClassificationObjective, ImagesPerText};
use self::masking::SpecialIds;
pub use self::pairs::PairsObjective;
use self::queue::Queues;
use self::rng::StepRng;
pub use self::text_assignment::TextAssignmentObjective;
pub use self::vqa::VqaObjective;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Weights;
use crate::ops::{Ops, Precision};
use crate::params::{Params, from_vec, to_vec};

/// What a task minimizes.
pub trait Objective: Send + Sync {
    /// Names of the losses, in the order in which they are added up. One that takes no part in a step
    /// is absent from [`Forward::losses`].
    fn losses(&self) -> &'static [&'static str];

    /// Whether the momentum model takes part and follows the trained weights.
    fn uses_momentum(&self) -> bool;

    /// The losses of a batch. `weights` record gradients; the momentum model and the queues are read
    /// from `cx` and get none.
    ///
    /// # Errors
    /// If the batch does not fit the model or the objective.
    fn forward(&self, cx: &StepContext<'_>, weights: &Weights, batch: &Batch) -> Result<Forward>;
}

/// What a forward pass may read besides weights and batch.
#[derive(Clone, Copy, Debug)]
pub struct StepContext<'a> {
    /// Sizes of the model.
    pub model: &'a ModelConfig,
    /// Special ids of the vocabulary.
    pub special: SpecialIds,
    /// Weights of the momentum model, already updated in this step.
    pub momentum: &'a Params,
    /// Features of earlier batches, those of this one not among them.
    pub queues: &'a Queues,
    /// Distillation weight of this step (paper section 3.3).
    pub alpha: f64,
    /// Optimizer steps taken before this one.
    pub step: u64,
    /// Random draws.
    pub rng: &'a StepRng,
    /// What the factors of products are rounded to.
    pub precision: Precision,
    /// Whether [`Forward::trace`] is wanted.
    pub trace: bool,
}

impl StepContext<'_> {
    /// The images of a batch, `[views * B, 3, S, S]`, without gradient.
    ///
    /// # Errors
    /// If the pixels are no whole number of images of the model's size.
    pub fn images(&self, batch: &Batch) -> Result<Tensor<4>> {
        let side = self.model.vision.image_res;
        let (pixels, plane) = (batch.images.len(), 3 * side * side);
        if plane == 0 || pixels % plane != 0 {
            return Err(Error::Config(format!(
                "a batch has {pixels} pixel values, no whole number of images [3, {side}, {side}]"
            )));
        }
        let shape = [pixels / plane, 3, side, side];
        Ok(from_vec(batch.images.clone(), shape, self.momentum.device()))
    }

    /// The weights of the momentum model, without gradient.
    #[must_use]
    pub fn momentum_weights(&self) -> Weights {
        let ops = Ops::for_device(self.momentum.device());
        self.momentum.frozen(ops.with_precision(self.precision))
    }
}

/// Losses by name, in the order in which they are added up.
#[derive(Clone, Debug, Default)]
pub struct Losses(Vec<(&'static str, Tensor<1>)>);

impl Losses {
    /// One loss.
    #[must_use]
    pub fn of(name: &'static str, loss: Tensor<1>) -> Self {
        Self(vec![(name, loss)])
    }

    /// Adds a loss `[1]`.
    pub fn push(&mut self, name: &'static str, loss: Tensor<1>) {
        self.0.push((name, loss));
    }

    /// The losses.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Tensor<1>)> {
        self.0.iter().map(|(name, loss)| (*name, loss))
    }

    /// The loss of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor<1>> {
        self.iter().find(|(own, _)| *own == name).map(|(_, loss)| loss)
    }

    /// What is minimized: the plain sum `[1]` (paper equation 5); `None` without losses.
    #[must_use]
    pub fn total(&self) -> Option<Tensor<1>> {
        self.0.iter().map(|(_, loss)| loss.clone()).reduce(|a, b| a + b)
    }

    /// The losses as numbers.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        let number = |loss: &Tensor<1>| f64::from(to_vec(loss.clone().inner())[0]);
        self.iter().map(|(name, loss)| (name, number(loss))).collect()
    }
}

/// A named number of a step besides its losses.
pub type Metric = (&'static str, f64);

/// Features of a batch for the queues.
#[derive(Clone, Debug)]
pub struct QueueFeatures {
    /// Momentum image features `[B, E]`, unit length.
    pub image: Tensor<2>,
    /// Momentum text features `[B, E]`, unit length.
    pub text: Tensor<2>,
    /// Image id of each pair.
    pub ids: Vec<i64>,
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Forward {
    /// The losses that take part.
    pub losses: Losses,
    /// What they are made of.
    pub metrics: Vec<Metric>,
    /// What enters the queues after the step.
    pub features: Option<QueueFeatures>,
    /// Every intermediate that a comparison with another implementation reads; only if
    /// [`StepContext::trace`]. Its type is that of the objective, for instance
    /// [`PairsTrace`](pairs::PairsTrace).
    pub trace: Option<Box<dyn Any>>,
}
