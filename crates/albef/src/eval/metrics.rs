//! Recall at 1, 5 and 10 in both directions, under the official names (paper section 5).

use serde::Serialize;

/// The rank of a query whose match is not among the candidates.
pub const MISSED: usize = usize::MAX;

/// Recalls in percent: `txt_*` image to text, `img_*` text to image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the official names")]
pub struct RecallReport {
    pub txt_r1: f64,
    pub txt_r5: f64,
    pub txt_r10: f64,
    pub txt_r_mean: f64,
    pub img_r1: f64,
    pub img_r5: f64,
    pub img_r10: f64,
    pub img_r_mean: f64,
    pub r_mean: f64,
}

impl RecallReport {
    /// From the ranks (0 is best) of the matches: per image its best caption, per text its image.
    #[must_use]
    pub fn from_ranks(i2t: &[usize], t2i: &[usize]) -> Self {
        let at = |ranks: &[usize], k: usize| {
            let hits = ranks.iter().filter(|r| **r < k).count();
            100.0 * hits as f64 / ranks.len().max(1) as f64
        };
        let [txt_r1, txt_r5, txt_r10] = [1, 5, 10].map(|k| at(i2t, k));
        let [img_r1, img_r5, img_r10] = [1, 5, 10].map(|k| at(t2i, k));
        let txt_r_mean = (txt_r1 + txt_r5 + txt_r10) / 3.0;
        let img_r_mean = (img_r1 + img_r5 + img_r10) / 3.0;
        let r_mean = (txt_r_mean + img_r_mean) / 2.0;
        Self { txt_r1, txt_r5, txt_r10, txt_r_mean, img_r1, img_r5, img_r10, img_r_mean, r_mean }
    }

    /// Names and values.
    #[must_use]
    pub fn named(&self) -> [(&'static str, f64); 9] {
        [
            ("txt_r1", self.txt_r1),
            ("txt_r5", self.txt_r5),
            ("txt_r10", self.txt_r10),
            ("txt_r_mean", self.txt_r_mean),
            ("img_r1", self.img_r1),
            ("img_r5", self.img_r5),
            ("img_r10", self.img_r10),
            ("img_r_mean", self.img_r_mean),
            ("r_mean", self.r_mean),
        ]
    }
}

/// The best rank of a relevant candidate: how many candidates score higher, or equal with a lower
/// index. A score that is no number ranks last.
#[must_use]
pub fn best_rank(scores: &[(usize, f32)], relevant: impl Fn(usize) -> bool) -> usize {
    let clean = |s: f32| if s.is_nan() { f32::NEG_INFINITY } else { s };
    let best = scores
        .iter()
        .filter(|(j, _)| relevant(*j))
        .map(|(j, s)| (clean(*s), *j))
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let Some((best, at)) = best else { return MISSED };
    scores.iter().filter(|(j, s)| clean(*s) > best || (clean(*s) == best && *j < at)).count()
}

/// Recalls from full score matrices, `i2t` `[images, texts]` and `t2i` `[texts, images]`.
#[must_use]
pub fn recalls(
    images: usize,
    texts: usize,
    i2t: &[f32],
    t2i: &[f32],
    relevant: impl Fn(usize, usize) -> bool,
) -> RecallReport {
    let row = |scores: &[f32]| scores.iter().copied().enumerate().collect::<Vec<_>>();
    let by_image: Vec<usize> = (0..images)
        .map(|i| best_rank(&row(&i2t[i * texts..(i + 1) * texts]), |t| relevant(i, t)))
        .collect();
    let by_text: Vec<usize> = (0..texts)
        .map(|t| best_rank(&row(&t2i[t * images..(t + 1) * images]), |i| relevant(i, t)))
        .collect();
    RecallReport::from_ranks(&by_image, &by_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_index_and_missing_matches_are_missed() {
        let scores = [(0, 1.0), (1, 1.0), (2, f32::NAN)];
        assert_eq!(best_rank(&scores, |j| j == 1), 1);
        assert_eq!(best_rank(&scores, |j| j == 2), 2);
        assert_eq!(best_rank(&scores, |j| j == 9), MISSED);
    }

    #[test]
    fn an_identity_matrix_is_perfect() {
        let scores = [1.0, 0.0, 0.0, 1.0];
        let report = recalls(2, 2, &scores, &scores, |i, t| i == t);
        assert_eq!(report.r_mean, 100.0);
    }
}
