//! What a run tells while it goes on.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use serde::Serialize;

use crate::objectives::Metric;

/// What one optimiser step reports, under the official names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Optimiser step, from 1.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Learning rate of the step.
    pub train_lr: f64,
    /// The losses that take part, by name.
    #[serde(flatten)]
    pub losses: BTreeMap<&'static str, f64>,
    /// What they are made of, by name (docs/log.md).
    #[serde(flatten)]
    pub metrics: BTreeMap<&'static str, f64>,
    /// Distillation weight.
    pub alpha: f64,
    /// Temperature after the step, for models that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temp: Option<f64>,
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// Its losses.
        report: StepReport,
        /// Steps of the whole run.
        total: u64,
        /// Pairs handled per second, lately.
        pairs_per_second: f64,
    },
    /// An epoch is done, with the means of its losses and learning rate by name.
    Epoch {
        /// Which, from 0.
        epoch: u64,
        /// Means.
        means: BTreeMap<String, f64>,
    },
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// All steps are done.
    Done,
    /// It was asked to stop, and saved.
    Interrupted,
    /// The step given to [`Trainer::pause_at`](super::trainer::Trainer::pause_at) is done;
    /// [`Trainer::run`](super::trainer::Trainer::run) goes on from there.
    Paused,
}

/// Means by name over the batches of a step. A batch without a part counts as 0, as its loss does, so
/// that the means of parts make up the mean loss.
#[derive(Default)]
pub(super) struct MetricMeans {
    sums: BTreeMap<&'static str, (f64, usize)>,
    batches: usize,
}

impl MetricMeans {
    pub fn add(&mut self, metrics: &[Metric]) {
        self.batches += 1;
        for (name, value) in metrics {
            let (sum, n) = self.sums.entry(name).or_default();
            *sum += value;
            *n += 1;
        }
    }

    pub fn means(self) -> BTreeMap<&'static str, f64> {
        // A share of nothing is no share: accuracy is a mean over the batches that have one.
        let divisor = |name: &str, n| if name == "itm_accuracy" { n } else { self.batches };
        let mean = |(name, (sum, n))| (name, sum / divisor(name, n) as f64);
        self.sums.into_iter().map(mean).collect()
    }
}

/// Pairs per second over the last steps.
#[derive(Default)]
pub(super) struct Pace {
    recent: VecDeque<(usize, f64)>,
}

impl Pace {
    pub fn add(&mut self, pairs: usize, seconds: f64) -> f64 {
        self.recent.push_back((pairs, seconds));
        if self.recent.len() > 30 {
            self.recent.pop_front();
        }
        let (n, t) = self.recent.iter().fold((0, 0.0), |(n, t), (a, b)| (n + a, t + b));
        n as f64 / t.max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_parts_make_up_the_mean_loss_over_all_batches() {
        let alpha = 0.25;
        let loss = |hard: f64, soft: f64| (1.0 - alpha) * hard + alpha * soft;
        let mut means = MetricMeans::default();
        means.add(&[("mlm_hard", 6.0), ("mlm_soft", 2.0), ("itm_accuracy", 0.5)]);
        // No word is masked, so the loss is 0.
        means.add(&[("itm_rows_without_negative", 3.0)]);
        let means = means.means();
        let train_loss_mlm = (loss(6.0, 2.0) + 0.0) / 2.0;
        assert_eq!(loss(means["mlm_hard"], means["mlm_soft"]), train_loss_mlm);
        assert_eq!((means["itm_accuracy"], means["itm_rows_without_negative"]), (0.5, 1.5));
    }
}
