//! Learning rate and distillation weight over a run (paper section 3.5).

use serde::{Deserialize, Serialize};

/// Iterations that make a step of the official schedule while it warms up (quirk Q8).
pub const OFFICIAL_ITERATIONS_PER_STEP: u64 = 100;

/// The official cosine schedule with its warm-up prefix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CosineSchedule {
    /// Rate after warm-up (`optimizer.lr`).
    pub lr: f64,
    /// Rate at the end.
    pub min_lr: f64,
    /// Rate before the first step.
    pub warmup_lr: f64,
    /// Steps of the schedule spent warming up.
    pub warmup_epochs: u64,
    /// Length of the cosine.
    pub epochs: u64,
    /// Iterations of the first epoch that make a step of the schedule.
    pub iterations_per_step: u64,
}

impl CosineSchedule {
    /// The rate at schedule step `t`: linear from `warmup_lr`, then half a cosine, then `min_lr`.
    #[must_use]
    pub fn at(&self, t: u64) -> f64 {
        if t < self.warmup_epochs {
            let slope = (self.lr - self.warmup_lr) / self.warmup_epochs as f64;
            return self.warmup_lr + t as f64 * slope;
        }
        let u = t - self.warmup_epochs;
        if u >= self.epochs {
            return self.min_lr;
        }
        let angle = std::f64::consts::PI * u as f64 / self.epochs as f64;
        self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + angle.cos())
    }

    /// The rate before any schedule step.
    #[must_use]
    pub fn initial(&self) -> f64 {
        if self.warmup_epochs > 0 { self.warmup_lr } else { self.lr }
    }

    /// The rate that the official loop uses in iteration `iteration` of `epoch` (both from 0).
    ///
    /// In the first epoch the schedule is stepped after every hundredth iteration (that is
    /// `iterations_per_step`), up to `warmup_epochs` times; later epochs have one rate each (quirk Q8).
    #[must_use]
    pub fn official(&self, epoch: u64, iteration: u64) -> f64 {
        if epoch > 0 {
            return self.at(epoch + self.warmup_epochs);
        }
        match iteration.checked_sub(1) {
            None => self.initial(),
            Some(before) => {
                self.at((before / self.iterations_per_step.max(1)).min(self.warmup_epochs))
            }
        }
    }

    /// A smooth alternative: linear warm-up over `warmup_steps` optimiser steps, then half a
    /// cosine down to `min_lr` at `total` steps.
    #[must_use]
    pub fn per_step(&self, step: u64, warmup_steps: u64, total: u64) -> f64 {
        if step < warmup_steps {
            let share = (step + 1) as f64 / warmup_steps as f64;
            return self.warmup_lr + share * (self.lr - self.warmup_lr);
        }
        let length = total.saturating_sub(warmup_steps).max(1);
        let share = ((step - warmup_steps) as f64 / length as f64).min(1.0);
        let cosine = (std::f64::consts::PI * share).cos();
        self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + cosine)
    }
}

/// The learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// As the official loops step it.
    Official(CosineSchedule),
    /// By optimizer step.
    PerStep {
        /// Rates.
        cosine: CosineSchedule,
        /// Optimizer steps of warm-up.
        warmup_steps: u64,
        /// Optimizer steps of the run.
        total_steps: u64,
    },
}

impl Schedule {
    /// The rate of the step after `step` optimizer steps, which is iteration `iteration` of `epoch`.
    #[must_use]
    pub fn rate(&self, step: u64, epoch: u64, iteration: u64) -> f64 {
        match self {
            Self::Official(cosine) => cosine.official(epoch, iteration),
            Self::PerStep { cosine, warmup_steps, total_steps } => {
                cosine.per_step(step, *warmup_steps, *total_steps)
            }
        }
    }
}

/// The distillation weight: `alpha`, ramped up linearly over the first epoch if `ramp`.
#[must_use]
pub fn distillation_weight(alpha: f64, ramp: bool, epoch: u64, iteration: u64, length: u64) -> f64 {
    if epoch > 0 || !ramp {
        return alpha;
    }
    alpha * (iteration as f64 / length.max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRETRAIN: CosineSchedule = CosineSchedule {
        lr: 1e-4,
        min_lr: 1e-5,
        warmup_lr: 1e-5,
        warmup_epochs: 20,
        epochs: 30,
        iterations_per_step: 100,
    };

    #[test]
    fn official_pretraining_rates_are_those_of_the_paper_code() {
        assert_eq!(PRETRAIN.official(0, 0), 1e-5);
        assert!((PRETRAIN.official(0, 101) - 1.45e-5).abs() < 1e-18);
        assert!((PRETRAIN.official(0, 2001) - 1e-4).abs() < 1e-18);
        assert!((PRETRAIN.official(10, 5) - 7.75e-5).abs() < 1e-12);
        assert!((PRETRAIN.official(29, 0) - 1.0247e-5).abs() < 1e-9);
    }

    #[test]
    fn per_step_schedule_starts_low_peaks_and_ends_at_the_floor() {
        assert!(PRETRAIN.per_step(0, 10, 100) < PRETRAIN.per_step(9, 10, 100));
        assert!((PRETRAIN.per_step(9, 10, 100) - 1e-4).abs() < 1e-18);
        assert!((PRETRAIN.per_step(100, 10, 100) - 1e-5).abs() < 1e-18);
    }

    #[test]
    fn distillation_ramps_in_the_first_epoch_only() {
        assert_eq!(distillation_weight(0.4, true, 0, 0, 10), 0.0);
        assert_eq!(distillation_weight(0.4, true, 0, 5, 10), 0.2);
        assert_eq!(distillation_weight(0.4, true, 1, 0, 10), 0.4);
        assert_eq!(distillation_weight(0.4, false, 0, 0, 10), 0.4);
    }
}
