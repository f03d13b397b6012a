//! Hard negatives for image-text matching (paper section 3.2).

/// Draws one negative per row of `logits` `[rows, candidates]` with the probabilities of the
/// soft-max over the candidates that `allowed` admits.
///
/// The draw inverts the cumulative weights at `uniform(row)`. The largest admitted logit is taken
/// out before exponentiation, so weights cannot all vanish, however much a positive dominates. A
/// row without candidates gives `None`.
pub fn sample_negatives(
    logits: &[f32],
    candidates: usize,
    allowed: impl Fn(usize, usize) -> bool,
    mut uniform: impl FnMut(usize) -> f64,
) -> Vec<Option<usize>> {
    logits
        .chunks(candidates.max(1))
        .enumerate()
        .map(|(row, logits)| {
            let open: Vec<usize> = (0..logits.len()).filter(|j| allowed(row, *j)).collect();
            let top = open.iter().map(|j| f64::from(logits[*j])).fold(f64::MIN, f64::max);
            let weights: Vec<f64> =
                open.iter().map(|j| (f64::from(logits[*j]) - top).exp()).collect();
            let mut left = uniform(row) * weights.iter().sum::<f64>();
            for (j, w) in open.iter().zip(&weights) {
                left -= w;
                if left < 0.0 {
                    return Some(*j);
                }
            }
            open.last().copied()
        })
        .collect()
}
