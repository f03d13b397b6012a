//! Logits against one label a row.

use burn::tensor::{Int, Tensor, TensorData, activation};

use crate::params::to_vec;

/// Mean over rows of the cross-entropy of logits `[rows, classes]` with the labels, `[1]`.
#[must_use]
pub fn label_cross_entropy(logits: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    gather_labels(activation::log_softmax(logits, 1), labels).mean().neg()
}

/// `log_p[row, label]`, `[rows]`.
#[must_use]
pub fn gather_labels(log_p: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    let device = log_p.device();
    let labels: Vec<i32> = labels.iter().map(|l| *l as i32).collect();
    let n = labels.len();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [n, 1]), &device);
    log_p.gather(1, labels).reshape([n])
}

/// The share of rows of `logits` whose largest entry, the first of equal ones, is the label's; `None`
/// without rows.
#[must_use]
pub fn label_accuracy(logits: Tensor<2>, labels: &[usize]) -> Option<f64> {
    let classes = logits.dims()[1].max(1);
    let rows = to_vec(logits);
    let first_best = |row: &[f32]| (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let right = rows.chunks(classes).zip(labels).filter(|(row, l)| first_best(row) == Some(**l));
    (!labels.is_empty()).then(|| right.count() as f64 / labels.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{cpu, from_vec};

    #[test]
    fn of_equal_entries_the_first_is_chosen() {
        let logits = from_vec(vec![1.0, 1.0, 0.0, 2.0, 3.0, -3.0], [3, 2], &cpu());
        assert_eq!(label_accuracy(logits.clone(), &[0, 1, 0]), Some(1.0));
        assert_eq!(label_accuracy(logits, &[1, 1, 1]), Some(1.0 / 3.0));
        assert_eq!(label_accuracy(from_vec(Vec::new(), [0, 2], &cpu()), &[]), None);
    }
}
