//! A calibration for people.

use albef_data::dataset::Skipped;
use serde::Serializer;

use super::{Calibration, GroundCalibration, GroundChoice, Quartiles, WeightRecall};

/// A list as the number of its entries.
pub(super) fn counted<S: Serializer>(skipped: &[Skipped], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(skipped.len() as u64)
}

impl Calibration {
    /// The figures line by line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let t = &self.threshold;
        let quartiles = |q: &Quartiles| format!("{:.3}, {:.3}, {:.3}", q.lower, q.median, q.upper);
        let recall = |r: &WeightRecall| {
            format!("R@1 {:.1} [{:.1}, {:.1}]", r.recall, r.interval.0, r.interval.1)
        };
        let w = &self.weight;
        let mut lines = vec![
            format!(
                "{} images, {} texts; re-ranked: the best {}",
                self.images, self.texts, self.rerank_k
            ),
            format!(
                "match threshold {:.3} [{:.3}, {:.3}]: area under the ROC curve {:.3} [{:.3}, {:.3}]",
                t.cut.threshold,
                t.threshold_interval.0,
                t.threshold_interval.1,
                t.area,
                t.area_interval.0,
                t.area_interval.1
            ),
            format!(
                "  balanced accuracy {:.1} %, on images that the threshold was not chosen on {:.1} [{:.1}, {:.1}]",
                t.balanced_accuracy,
                t.held_out_accuracy,
                t.held_out_interval.0,
                t.held_out_interval.1
            ),
            format!(
                "  missed: {:.1} % of what is there; let through: {:.1} % of what is not",
                100.0 * t.cut.missed,
                100.0 * t.cut.false_alarms
            ),
            format!(
                "  best match probability, quartiles: {} where it is there, {} where it is not",
                quartiles(&t.present),
                quartiles(&t.absent)
            ),
            format!(
                "match weight {}: {}, on images that it was not chosen on {:.1} [{:.1}, {:.1}]",
                w.best.weight,
                recall(&w.best),
                w.held_out_recall,
                w.held_out_interval.0,
                w.held_out_interval.1
            ),
            format!("  weight 1: {}; cosine alone: {}", recall(&w.at_one), recall(&w.cosine)),
        ];
        if !t.is_useful() {
            lines.insert(
                2,
                "  it is no better than chance, and does not become a default".to_owned(),
            );
        }
        lines
    }
}

impl GroundCalibration {
    /// The figures line by line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let shown = |c: &GroundChoice| {
            format!(
                "{} layer {}: {:.1} [{:.1}, {:.1}]",
                c.mode.name(),
                c.layer,
                c.accuracy,
                c.interval.0,
                c.interval.1
            )
        };
        let mut lines = vec![format!(
            "ground {} % on {} expressions, on those that it was not chosen on {:.1}; a random box {:.1}",
            shown(&self.best),
            self.expressions,
            self.held_out_accuracy,
            self.random_box
        )];
        lines.extend(self.tried.iter().map(|c| format!("  {}", shown(c))));
        lines
    }
}
