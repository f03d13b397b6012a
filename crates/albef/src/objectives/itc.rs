//! Image-text contrastive learning with momentum targets (ITC, called `ita` in configurations and
//! logs as in the official code; paper equations 1, 2 and 6).
//!
//! Letters: `B` batch, `E` joint width, `Q` queue length. Candidates are `[this batch | queue]`.

use burn::tensor::{Tensor, activation};

use super::distill::{DistillTerms, entropy};
use super::queue::Queues;
use crate::fault::{Fault, injected};
use crate::params::from_vec;

/// Similarities of one direction, divided by the temperature (paper equation 1): `[B, B + Q]` from
/// `feat` `[B, E]`, the other side's momentum features `[B, E]` and its queue `[Q, E]`.
#[must_use]
pub fn similarities(
    feat: Tensor<2>,
    momentum_feat: Tensor<2>,
    queue: Option<Tensor<2>>,
    temp: Tensor<1>,
) -> Tensor<2> {
    let batch = feat.clone().matmul(momentum_feat.transpose());
    let all = match queue {
        None => batch,
        Some(queue) => Tensor::cat(vec![batch, feat.matmul(queue.transpose())], 1),
    };
    all / temp.unsqueeze()
}

/// `alpha * teacher + (1 - alpha) * positives`, rows of a distribution `[B, B + Q]` (paper equation 6
/// as one cross-entropy); without a teacher the positives. Without gradient.
#[must_use]
pub fn soft_targets(teacher: Option<Tensor<2>>, positives: Tensor<2>, alpha: f64) -> Tensor<2> {
    match teacher {
        None => positives,
        Some(teacher) => teacher * alpha + positives * (1.0 - alpha),
    }
}

/// The loss of one direction, `[1]` (paper equation 2): the mean over rows of
/// `- sum_j targets[b, j] log_p[b, j]`, both `[B, B + Q]`. The targets get no gradient.
#[must_use]
pub fn cross_entropy(log_p: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    (log_p * targets).sum_dim(1).mean().neg()
}

/// What the loss of one direction is made of, `[1]` each: `log_p` the online log-probabilities,
/// `teacher` the soft-max of the similarities `sims_m`, all `[B, B + Q]` and without gradient.
#[must_use]
pub fn terms(
    log_p: Tensor<2>,
    teacher: Tensor<2>,
    sims_m: Tensor<2>,
    positives: Tensor<2>,
) -> DistillTerms<1> {
    let soft = cross_entropy(log_p.clone(), teacher.clone());
    let kl = soft.clone() - entropy(teacher, sims_m).mean();
    DistillTerms { hard: cross_entropy(log_p, positives), soft, kl: Some(kl) }
}

/// The rows of positives `[B, B + Q]`: one-hot without ids (paper equation 2); with the ids of batch
/// and queue every candidate of the same image shares the mass, as in retrieval.
#[must_use]
pub fn positives(batch: usize, ids: Option<(&[i64], &[i64])>, queue: usize) -> Vec<f32> {
    let width = batch + queue;
    let mut rows = vec![0.0; batch * width];
    for (b, row) in rows.chunks_mut(width.max(1)).enumerate() {
        match ids {
            None => row[b] = 1.0,
            Some((ids, queue_ids)) => {
                let candidates = ids.iter().chain(queue_ids);
                let hits: Vec<usize> = candidates
                    .enumerate()
                    .filter(|(_, id)| **id == ids[b])
                    .map(|(j, _)| j)
                    .collect();
                for j in &hits {
                    row[*j] = 1.0 / hits.len() as f32;
                }
            }
        }
    }
    rows
}

/// The contrast of a batch. Pairs of tensors are image to text, then text to image.
#[derive(Clone, Debug)]
pub struct Contrast {
    /// The losses of the directions, `[1]` each; the loss is their mean (paper equation 2).
    pub directions: [Tensor<1>; 2],
    /// Similarities `[B, B + Q]`.
    pub sims: [Tensor<2>; 2],
    /// The momentum model's, without gradient.
    pub sims_m: [Tensor<2>; 2],
    /// Soft targets, without gradient.
    pub targets: [Tensor<2>; 2],
    /// What the loss is made of, where the momentum model teaches.
    pub terms: Option<DistillTerms<1>>,
}

impl Contrast {
    /// Features `[B, E]` are image, text, momentum image, momentum text. Gradients flow into the first
    /// two and into `temp` `[1]` by the online similarities; momentum features, queues and targets get
    /// none. `ids` of the pairs make those of one image positives of each other. `within`: image and
    /// text of the batch are contrasted with each other instead, with gradients into both, as in CLIP.
    #[must_use]
    pub fn new(
        feats: &[Tensor<2>; 4],
        temp: &Tensor<1>,
        queues: &Queues,
        ids: Option<&[i64]>,
        alpha: f64,
        within: bool,
    ) -> Self {
        let [image, text, image_m, text_m] = feats;
        let keys = match within {
            true => [image.clone(), text.clone()],
            false => [image_m, text_m].map(|m| Tensor::from_inner(m.clone())),
        };
        let sim = |a: &Tensor<2>, b: &Tensor<2>, queue: Option<Tensor<2>>| {
            similarities(a.clone(), b.clone(), queue.map(Tensor::from_inner), temp.clone())
        };
        let sim_m = |a: &Tensor<2>, b: &Tensor<2>, queue: Option<Tensor<2>>| {
            similarities(a.clone(), b.clone(), queue, temp.clone().inner())
        };
        let sims = [sim(image, &keys[1], queues.text()), sim(text, &keys[0], queues.image())];
        let mut sims_m =
            [sim_m(image_m, text_m, queues.text()), sim_m(text_m, image_m, queues.image())];
        if injected(Fault::OnlineTargets) {
            sims_m = sims.clone().map(Tensor::inner);
        }

        let size = image_m.dims()[0];
        let rows = positives(size, ids.map(|ids| (ids, queues.ids())), queues.len());
        let positives: Tensor<2> = from_vec(rows, [size, size + queues.len()], &image_m.device());
        let predicted = sims_m.clone().map(|s| (alpha != 0.0).then(|| activation::softmax(s, 1)));
        let targets = predicted.clone().map(|q| soft_targets(q, positives.clone(), alpha));
        let log_p = sims.clone().map(|s| activation::log_softmax(s, 1));
        let loss =
            |i: usize| cross_entropy(log_p[i].clone(), Tensor::from_inner(targets[i].clone()));
        let directions = [loss(0), loss(1)];
        let terms_of = |i: usize| {
            let q = predicted[i].clone()?;
            Some(terms(log_p[i].clone().inner(), q, sims_m[i].clone(), positives.clone()))
        };
        let terms = terms_of(0).zip(terms_of(1)).map(|(a, b)| a.mean_with(b));
        Self { directions, sims, sims_m, targets, terms }
    }

    /// The loss `[1]`: the mean of the two directions (paper equation 2, with alpha equation 6).
    #[must_use]
    pub fn loss(&self) -> Tensor<1> {
        let [i2t, t2i] = self.directions.clone();
        (i2t + t2i) / 2.0
    }
}
