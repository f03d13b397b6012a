//! Classification with momentum distillation: entailment and statements (spec `losses` 9).

use burn::tensor::{Int, Tensor, TensorData, activation};

/// Mean over rows of `-log_p[row, label]`.
#[must_use]
pub fn hard_cross_entropy(log_p: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    picked(log_p, labels).mean().neg()
}

/// `log_p[row, label]`, `[rows]`.
#[must_use]
pub fn picked(log_p: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    let device = log_p.device();
    let labels: Vec<i32> = labels.iter().map(|l| *l as i32).collect();
    let n = labels.len();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [n, 1]), &device);
    log_p.gather(1, labels).reshape([n])
}

/// Per row: `(1 - alpha)` cross-entropy with the label plus `alpha` cross-entropy with the
/// teacher's distribution. Without a teacher `alpha` plays no part.
#[must_use]
pub fn distilled_rows(
    logits: Tensor<2>,
    teacher: Option<Tensor<2>>,
    labels: &[usize],
    alpha: f64,
) -> Tensor<1> {
    let rows = labels.len();
    let log_p = activation::log_softmax(logits, 1);
    let hard = picked(log_p.clone(), labels).neg();
    match teacher.filter(|_| alpha > 0.0) {
        None => hard,
        Some(teacher) => {
            let soft = Tensor::from_inner(activation::softmax(teacher, 1));
            let soft = (log_p * soft).sum_dim(1).reshape([rows]).neg();
            hard * (1.0 - alpha) + soft * alpha
        }
    }
}

/// The mean of [`distilled_rows`]; `teacher` is untracked.
#[must_use]
pub fn distilled_cross_entropy(
    logits: Tensor<2>,
    teacher: Option<Tensor<2>>,
    labels: &[usize],
    alpha: f64,
) -> Tensor<1> {
    distilled_rows(logits, teacher, labels, alpha).mean()
}
