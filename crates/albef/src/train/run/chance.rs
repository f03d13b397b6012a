//! Whether matching has learned anything.

use std::collections::VecDeque;

use crate::train::report::StepReport;

/// Steps that are looked at.
const LAST: usize = 50;
/// Steps of matching before a run is judged.
const LEAST: u64 = 100;
/// Entropy of one true pair among three, in nats: the loss of answering by that share alone.
const CHANCE: f64 = 0.636_514;
/// A mean loss above this is that of chance.
const LEARNED: f64 = 0.97 * CHANCE;

/// Loss and accuracy of matching over the last steps.
#[derive(Default)]
pub(super) struct Matching {
    last: VecDeque<(f64, f64)>,
    steps: u64,
}

impl Matching {
    /// Takes a step in which matching took part.
    pub fn take(&mut self, report: &StepReport) {
        let loss = report.losses.get("train_loss_itm");
        let Some((loss, right)) = loss.zip(report.metrics.get("itm_accuracy")) else { return };
        self.steps += 1;
        self.last.push_back((*loss, *right));
        if self.last.len() > LAST {
            self.last.pop_front();
        }
    }

    /// What to say at the end of a run whose matching has stayed at chance.
    pub fn at_chance(&self) -> Option<String> {
        let n = self.last.len() as f64;
        let (loss, right) = self.last.iter().fold((0.0, 0.0), |(a, b), (l, r)| (a + l, b + r));
        let (loss, right) = (loss / n, right / n);
        (self.steps >= LEAST && loss > LEARNED).then(|| {
            format!(
                "matching has stayed at chance: over the last {LAST} steps its loss is {loss:.4} and \
                 {right:.3} of the pairs are right, where \"no match\" alone gives {CHANCE:.4} and 0.667. \
                 Usual causes: captions that do not describe their images, or are the same for many \
                 (`albef data check`); too few steps; a rate that is too high or too low"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_whose_matching_stays_at_chance_says_so() {
        let said = |loss: f64, steps: u64| {
            let mut matching = Matching::default();
            for step in 0..steps {
                matching.take(&StepReport {
                    step,
                    epoch: 0,
                    train_lr: 0.0,
                    losses: [("train_loss_itm", loss)].into(),
                    metrics: [("itm_accuracy", 2.0 / 3.0)].into(),
                    alpha: 0.0,
                    temp: None,
                });
            }
            matching.at_chance()
        };
        assert!(said(0.6357, 150).unwrap().contains("0.6357 and 0.667 of the pairs"));
        assert_eq!((said(0.544, 300), said(0.6357, 99), said(0.6, 0)), (None, None, None));
    }
}
