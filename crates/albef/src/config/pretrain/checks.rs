//! Which values of a configuration can work.

use albef_data::dataset::{MAX_WORKERS, MixMode};

use super::PretrainConfig;
use crate::error::{Error, Result};

/// Entries of the longest queue, 64 times the official one.
const LONGEST_QUEUE: usize = 1 << 22;
/// RandomAugment's operations on one picture, 50 times the official number.
const MOST_OPERATIONS: usize = 100;

impl PretrainConfig {
    /// Checks all that can be known without the model.
    pub(in crate::config) fn check_values(&self) -> Result<()> {
        self.check_shares()?;
        self.check_losses()?;
        self.check_optimizer()?;
        self.check_schedule()?;
        self.check_run()?;
        self.mixgen.check().map_err(Error::Config)
    }

    /// Checks the lengths of texts against the position table.
    pub(crate) fn check_lengths(&self, positions: usize) -> Result<()> {
        let mixed = (self.mixgen.mode != MixMode::Off)
            .then_some(("mixgen.max_tokens", self.mixgen.max_tokens));
        for (name, found) in [("max_tokens", self.max_tokens)].into_iter().chain(mixed) {
            require((1..=positions).contains(&found), || {
                format!("`{name}` is {found}; the model has positions for 1 to {positions} tokens")
            })?;
        }
        Ok(())
    }

    fn check_shares(&self) -> Result<()> {
        for (name, found) in [
            ("alpha", self.alpha),
            ("momentum", self.momentum),
            ("mlm_probability", self.mlm_probability),
        ] {
            require((0.0..=1.0).contains(&found), || {
                format!("`{name}` is {found}; it must lie between 0 and 1")
            })?;
        }
        let (beta1, beta2) = self.optimizer.opt_betas;
        for (name, found) in [
            ("dropout", self.dropout),
            ("momentum_dropout", self.momentum_dropout),
            ("optimizer.opt_betas", beta1),
            ("optimizer.opt_betas", beta2),
        ] {
            require((0.0..1.0).contains(&found), || {
                format!("`{name}` is {found}; it must lie between 0 and 1, 1 not included")
            })?;
        }
        let (low, high) = self.crop_scale;
        require(low > 0.0 && low <= high && high <= 1.0, || {
            format!("`crop_scale` [{low}, {high}] must rise within 0 to 1")
        })
    }

    fn check_losses(&self) -> Result<()> {
        require(self.losses.ita || self.losses.itm || self.losses.mlm, || {
            "`losses`: at least one of ita, itm and mlm must take part".into()
        })?;
        require(self.align_steps == 0 || self.losses.ita, || {
            "`align_steps` needs the loss `ita`".into()
        })?;
        at_least_0("negative_temp", self.negative_temp)?;
        above_0("temp", self.temp)
    }

    fn check_optimizer(&self) -> Result<()> {
        let o = &self.optimizer;
        require(o.opt.eq_ignore_ascii_case("adamw"), || {
            format!("optimizer `{}` is not known; use `adamW`", o.opt)
        })?;
        above_0("optimizer.lr", o.lr)?;
        above_0("optimizer.opt_eps", o.opt_eps)?;
        at_least_0("optimizer.weight_decay", o.weight_decay)?;
        at_least_0("text_lr_scale", self.text_lr_scale)
    }

    fn check_schedule(&self) -> Result<()> {
        let s = &self.schedular;
        require(matches!(s.sched.as_str(), "cosine" | "per_step"), || {
            format!("schedule `{}` is not known; use `cosine` or `per_step`", s.sched)
        })?;
        at_least_0("schedular.min_lr", s.min_lr)?;
        at_least_0("schedular.warmup_lr", s.warmup_lr)?;
        require(s.epochs > 0, || "`schedular.epochs` is 0; it must be at least 1".into())
    }

    fn check_run(&self) -> Result<()> {
        for (name, found) in [
            ("batch_size", self.batch_size),
            ("accumulate", self.accumulate),
            ("keep_last", self.keep_last),
        ] {
            require(found > 0, || format!("`{name}` is 0; it must be at least 1"))?;
        }
        let (operations, strength) = self.rand_augment;
        at_least_0("rand_augment", strength)?;
        for (name, found, limit) in [
            ("queue_size", self.queue_size, LONGEST_QUEUE),
            ("workers", self.workers, MAX_WORKERS),
            ("rand_augment", operations, MOST_OPERATIONS),
        ] {
            require(found <= limit, || format!("`{name}` is {found}; it can be at most {limit}"))?;
        }
        require(self.max_skipped >= -1, || {
            format!(
                "`max_skipped` is {}; it must be 0 or more, or -1 for 1 % of the samples",
                self.max_skipped
            )
        })?;
        let (weights, files) = (self.train_weights.len(), self.train_file.paths().len());
        require(weights == 0 || weights == files, || {
            format!("{weights} `train_weights` for {files} training files")
        })
    }
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Config(message())) }
}

fn above_0(name: &str, found: f64) -> Result<()> {
    require(found.is_finite() && found > 0.0, || {
        format!("`{name}` is {found}; it must be a number above 0")
    })
}

fn at_least_0(name: &str, found: f64) -> Result<()> {
    require(found.is_finite() && found >= 0.0, || {
        format!("`{name}` is {found}; it must be 0 or more")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        for (name, setting) in [
            ("optimizer.lr", "optimizer.lr=0"),
            ("optimizer.lr", "optimizer.lr=.inf"),
            ("optimizer.opt_betas", "optimizer.opt_betas=[0.9, 1]"),
            ("optimizer.opt_betas", "optimizer.opt_betas=[-0.1, 0.9]"),
            ("optimizer.opt_eps", "optimizer.opt_eps=0"),
            ("temp", "temp=0"),
            ("schedular.epochs", "schedular.epochs=0"),
            ("max_tokens", "max_tokens=513"),
            ("max_skipped", "max_skipped=-2"),
            ("keep_last", "keep_last=0"),
        ] {
            let error = PretrainConfig::parse("", &[setting.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{setting}: {error}");
        }
        PretrainConfig::parse("", &["max_skipped=-1".to_owned()]).unwrap();
    }

    #[test]
    fn sizes_beyond_all_measure_are_refused_by_name() {
        for (setting, limit) in [("queue_size=1000000000000", "4194304"), ("workers=100000", "256")]
        {
            let error = PretrainConfig::parse("", &[setting.to_owned()]).unwrap_err().to_string();
            let key = setting.split('=').next().unwrap();
            assert!(error.contains(&format!("`{key}`")) && error.contains(limit), "{error}");
        }
    }

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        for text in ["image_res: 250", "alpha: 2", "batch_size: 0", "preset: huge", "[1, 2]"] {
            assert!(PretrainConfig::parse(text, &[]).is_err(), "{text}");
        }
    }
}
