//! Image-text contrastive loss with momentum targets (paper equations 1 and 6, spec `losses` 2).
//!
//! Letters: `B` batch, `E` joint width, `Q` queue length.

use burn::tensor::Tensor;

use super::distill::{DistillTerms, entropy};

/// Similarities of one direction over `[this batch | queue]`, divided by the temperature:
/// `[B, B + Q]` from `feat` `[B, E]`, the other side's momentum features `[B, E]` and its queue
/// `[Q, E]`.
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

/// `alpha * teacher + (1 - alpha) * positives`, rows of a distribution; without a teacher the positives.
#[must_use]
pub fn soft_targets(teacher: Option<Tensor<2>>, positives: Tensor<2>, alpha: f64) -> Tensor<2> {
    match teacher {
        None => positives,
        Some(teacher) => teacher * alpha + positives * (1.0 - alpha),
    }
}

/// Mean over rows of the cross-entropy of log-probabilities with `targets`, `[1]`.
#[must_use]
pub fn cross_entropy(log_p: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    (log_p * targets).sum_dim(1).mean().neg()
}

/// What the loss of one direction is made of, `[1]` each: `log_p` the online log-probabilities, `teacher`
/// the soft-max of the similarities `sims_m`, all `[B, B + Q]` and untracked.
#[must_use]
pub fn split(
    log_p: Tensor<2>,
    teacher: Tensor<2>,
    sims_m: Tensor<2>,
    positives: Tensor<2>,
) -> DistillTerms<1> {
    let soft = cross_entropy(log_p.clone(), teacher.clone());
    let kl = soft.clone() - entropy(teacher, sims_m).mean();
    DistillTerms { hard: cross_entropy(log_p, positives), soft, kl: Some(kl) }
}

/// The rows of positives `[B, B + Q]`: one-hot without ids; with ids every candidate of the same
/// image shares the mass (spec `losses` 7).
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
