//! Align: both sides of a batch encoded, and the contrast between them (paper section 3.2).

use burn::tensor::{Tensor, activation};

use super::draws::RngState;
use super::{Batch, Settings};
use crate::error::Result;
use crate::model::{Encoders, ImageStates, OutputRows};
use crate::objectives::distill::DistillTerms;
use crate::objectives::itc;
use crate::objectives::queue::Queues;
use crate::ops::index;
use crate::params::from_vec;

/// A batch as the online model (tracked) and the momentum model (untracked) encode it.
pub(super) struct Encoded {
    /// States of the images.
    pub image: ImageStates,
    /// States of the caption tokens.
    pub text: Tensor<2>,
    /// Momentum states of the images.
    pub image_m: ImageStates,
    /// Features `[B, E]`: image, text, momentum image, momentum text.
    pub feats: [Tensor<2>; 4],
}

pub(super) fn encode(
    online: &Encoders,
    momentum: &Encoders,
    batch: &Batch,
    draws: &mut RngState,
) -> Result<Encoded> {
    let tokens = &batch.text;
    let image = online.visual_encoder.forward(Tensor::from_inner(batch.images.clone()))?;
    let text = online.text_encoder.text(tokens, OutputRows::All, &mut draws.text, None)?;
    let class_states = text.clone().select(0, index(&tokens.class_rows(), &text.device()));

    let image_m = momentum.visual_encoder.forward(batch.images.clone())?;
    let class = vec![vec![0]; tokens.len()];
    let read = OutputRows::Rows(&class);
    let text_m = momentum.text_encoder.text(tokens, read, &mut draws.momentum, None)?;
    let feats = [
        online.image_feat(&image),
        online.text_feat(class_states),
        momentum.image_feat(&image_m),
        momentum.text_feat(text_m),
    ];
    Ok(Encoded { image, text, image_m, feats })
}

/// Contrast between images and texts; pairs of tensors are image to text, then text to image.
pub(super) struct Contrast {
    /// `[1]` each.
    pub losses: [Tensor<1>; 2],
    /// Similarities `[B, B + Q]`.
    pub sims: [Tensor<2>; 2],
    /// The momentum model's.
    pub sims_m: [Tensor<2>; 2],
    /// Soft targets.
    pub targets: [Tensor<2>; 2],
    /// What the mean of the losses is made of, where the teacher takes part.
    pub split: Option<DistillTerms<1>>,
}

pub(super) fn contrast(
    feats: &[Tensor<2>; 4],
    temp: &Tensor<1>,
    queues: &Queues,
    image_ids: &[i64],
    settings: &Settings,
) -> Contrast {
    let [image, text, image_m, text_m] = feats;
    let sim = |a: &Tensor<2>, b: &Tensor<2>, queue: Option<Tensor<2>>| {
        let constant = Tensor::from_inner(b.clone());
        itc::similarities(a.clone(), constant, queue.map(Tensor::from_inner), temp.clone())
    };
    let sim_m = |a: &Tensor<2>, b: &Tensor<2>, queue: Option<Tensor<2>>| {
        itc::similarities(a.clone(), b.clone(), queue, temp.clone().inner())
    };
    let sims = [sim(image, text_m, queues.text()), sim(text, image_m, queues.image())];
    let sims_m = [sim_m(image_m, text_m, queues.text()), sim_m(text_m, image_m, queues.image())];

    let size = image_ids.len();
    let ids = settings.image_index.then_some((image_ids, queues.ids()));
    let rows = itc::positives(size, ids, queues.len());
    let positives: Tensor<2> = from_vec(rows, [size, size + queues.len()], &image_m.device());
    let taught = settings.alpha != 0.0;
    let predicted = sims_m.clone().map(|s| taught.then(|| activation::softmax(s, 1)));
    let soft = |q: Option<Tensor<2>>| itc::soft_targets(q, positives.clone(), settings.alpha);
    let targets = predicted.clone().map(soft);
    let log_p = sims.clone().map(|s| activation::log_softmax(s, 1));
    let cross =
        |i: usize| itc::cross_entropy(log_p[i].clone(), Tensor::from_inner(targets[i].clone()));
    let losses = [cross(0), cross(1)];
    let split_of = |i: usize| {
        let q = predicted[i].clone().filter(|_| settings.ita)?;
        Some(itc::split(log_p[i].clone().inner(), q, sims_m[i].clone(), positives.clone()))
    };
    let split = split_of(0).zip(split_of(1)).map(|(a, b)| a.mean_with(b));
    Contrast { losses, sims, sims_m, targets, split }
}
