//! The map that finds phrases best.

use albef_report::bootstrap_interval;
use serde::Serialize;

use super::SEED;
use crate::Control;
use crate::defaults::{GroundDefaults, ModelDefaults};
use crate::error::Result;
use crate::eval::grounding::{Cases, measure};
use crate::inference::GroundingMode;
use crate::pipeline::Pipeline;

/// Accuracy of the boxes that a map chooses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroundChoice {
    /// The score that it explains.
    pub mode: GroundingMode,
    /// Its layer.
    pub layer: usize,
    /// Accuracy in percent.
    pub accuracy: f64,
    /// Its interval.
    pub interval: (f64, f64),
}

/// Every map of a model, measured on the same expressions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroundCalibration {
    /// Expressions.
    pub expressions: usize,
    /// The map with the highest accuracy.
    pub best: GroundChoice,
    /// The map of the paper, which is used without calibration.
    pub by_default: GroundChoice,
    /// Accuracy where the map is chosen on one half of the expressions and measured on the other.
    pub held_out_accuracy: f64,
    /// Accuracy of a box chosen at random.
    pub random_box: f64,
    /// Every map.
    pub tried: Vec<GroundChoice>,
    /// Expressions about images that cannot be used; they count as wrong.
    pub skipped: usize,
}

impl GroundCalibration {
    /// Puts the best map in the place of the one that a model has.
    pub fn apply(&self, defaults: &mut ModelDefaults) {
        let GroundChoice { mode, layer, .. } = self.best;
        defaults.ground = Some(GroundDefaults { mode, layer: Some(layer) });
    }
}

/// Measures the maps of all layers on expressions with boxes to choose from: those of the matching score, and those
/// of the contrastive one where the model has it.
///
/// # Errors
/// If no image can be used, or [`crate::Error::Cancelled`].
pub fn calibrate_grounding(
    model: &Pipeline,
    cases: &Cases,
    resamples: usize,
    control: &Control,
) -> Result<GroundCalibration> {
    let (mut tried, mut scores) = (Vec::new(), Vec::new());
    let (mut random_box, mut skipped) = (0.0, 0);
    for mode in GroundingMode::ALL {
        if mode == GroundingMode::Itc && model.needs_contrast().is_err() {
            continue;
        }
        for layer in mode.layers(model.config()) {
            let found = measure(model, cases, mode, Some(layer), control)?;
            tried.push(GroundChoice {
                mode,
                layer,
                accuracy: found.accuracy(),
                interval: bootstrap_interval(&found.scores, resamples, SEED),
            });
            random_box = mean(found.random_box.iter());
            skipped = found.skipped.len();
            scores.push(found.scores);
        }
    }
    let own = GroundingMode::default();
    let layer = own.default_layer(model.config());
    let by_default = tried.iter().position(|c| (c.mode, c.layer) == (own, layer)).unwrap_or(0);
    let expressions = cases.samples.len();
    let half = |odd: usize| (0..expressions).filter(|i| i % 2 == odd).collect::<Vec<_>>();
    let all: Vec<usize> = (0..expressions).collect();
    let by_other = [best(&scores, &half(1), by_default), best(&scores, &half(0), by_default)];
    let held_out: Vec<f64> = all.iter().map(|i| scores[by_other[i % 2]][*i]).collect();
    Ok(GroundCalibration {
        expressions,
        best: tried[best(&scores, &all, by_default)].clone(),
        by_default: tried[by_default].clone(),
        held_out_accuracy: mean(held_out.iter()),
        random_box,
        tried,
        skipped,
    })
}

fn mean<'a>(values: impl ExactSizeIterator<Item = &'a f64>) -> f64 {
    let n = values.len().max(1);
    values.sum::<f64>() / n as f64
}

/// The map that is right most often on some expressions; of several, the default one, then the first.
fn best(scores: &[Vec<f64>], on: &[usize], by_default: usize) -> usize {
    let sums: Vec<f64> = scores.iter().map(|s| on.iter().map(|i| s[*i]).sum()).collect();
    let most = sums.iter().copied().fold(f64::MIN, f64::max);
    let is_best = |at: &usize| sums[*at] >= most - 1e-9;
    Some(by_default).filter(is_best).or((0..sums.len()).find(is_best)).unwrap_or(by_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_that_is_right_most_often_wins_and_the_default_where_it_is_as_good() {
        let scores = [vec![0.0, 100.0, 0.0], vec![0.0, 100.0, 100.0], vec![100.0, 0.0, 100.0]];
        assert_eq!(best(&scores, &[0, 1, 2], 0), 1);
        assert_eq!(best(&scores, &[0, 1, 2], 2), 2);
        assert_eq!(best(&scores, &[0], 0), 2);
        assert_eq!(best(&scores, &[], 1), 1);
    }
}
