//! The configuration of pre-training: the official keys, and ours (spec `training` section 3).

mod checks;
mod parse;

use albef_data::dataset::MixGen;
use serde::{Deserialize, Serialize};

pub(crate) use self::parse::merge;
pub(super) use self::parse::{Parsed, parse_config};
use super::model::ModelConfig;
use crate::error::{Error, Result};
use crate::objectives::distill::DistillAxis;
use crate::ops::Precision;
use crate::train::optimizer::DecayRule;
use crate::train::schedule::{CosineSchedule, OFFICIAL_ITERATIONS_PER_STEP};

/// The names of precisions in configurations.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Precision", rename_all = "lowercase")]
enum PrecisionName {
    F32,
    Bf16,
}

/// One or several training files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Files {
    /// One path.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Files {
    /// The paths; an empty text names none.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let all = match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        };
        all.iter().filter(|path| !path.is_empty()).cloned().collect()
    }
}

/// The optimiser's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerConfig {
    /// Always `adamW`.
    pub opt: String,
    /// Rate after warm-up.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub opt_eps: f64,
    /// Decay rates of the moments.
    pub opt_betas: (f64, f64),
    /// Which parameters decay: `reference` or `clean` (quirk Q7).
    pub decay_rule: DecayRule,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            opt: "adamW".into(),
            lr: 1e-4,
            weight_decay: 0.02,
            opt_eps: 1e-8,
            opt_betas: (0.9, 0.999),
            decay_rule: DecayRule::default(),
        }
    }
}

/// The schedule's part, under its official spelling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleConfig {
    /// `cosine` is the official schedule, `per_step` warms up and decays by optimiser step.
    pub sched: String,
    /// Not read, as in the official code: the rate is `optimizer.lr`.
    pub lr: f64,
    /// Epochs of training.
    pub epochs: u64,
    /// Rate at the end.
    pub min_lr: f64,
    /// Not read.
    pub decay_rate: f64,
    /// Rate at the start.
    pub warmup_lr: f64,
    /// Hundreds of iterations of warm-up (quirk Q8).
    pub warmup_epochs: u64,
    /// Not read.
    pub cooldown_epochs: u64,
    /// Optimiser steps of warm-up of `per_step`.
    pub warmup_steps: u64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            sched: "cosine".into(),
            lr: 1e-4,
            epochs: 30,
            min_lr: 1e-5,
            decay_rate: 1.0,
            warmup_lr: 1e-5,
            warmup_epochs: 20,
            cooldown_epochs: 0,
            warmup_steps: 100,
        }
    }
}

/// Which losses take part, for ablations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossConfig {
    /// Image-text contrast.
    pub ita: bool,
    /// Image-text matching.
    pub itm: bool,
    /// Masked language modelling.
    pub mlm: bool,
    /// Momentum distillation of masked language modelling; that of contrast is `alpha`.
    pub mlm_mod: bool,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { ita: true, itm: true, mlm: true, mlm_mod: true }
    }
}

/// Which form of an operation of RandomAugment is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// What the operation's name says.
    #[default]
    Correct,
    /// The official code's, whose bytes overflow.
    Reference,
}

/// Operations of RandomAugment that the official code gets wrong: AutoContrast turns channels
/// without a black pixel white, Sharpness wraps beyond white and black.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AugmentConfig {
    /// AutoContrast.
    pub autocontrast: Form,
    /// Sharpness.
    pub sharpness: Form,
}

/// Everything that decides about a pre-training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PretrainConfig {
    /// Sizes by name: `base`, `mini` or `nano`.
    pub preset: String,
    /// Annotation lists, folders, tar shards or patterns of them.
    pub train_file: Files,
    /// Lists by which the best epoch is chosen; for pre-training one retrieval list. Empty for none.
    pub val_file: Files,
    /// Candidates that are scored in full when measuring.
    pub k_test: usize,
    /// Weight of each training file in the mixture; empty for equal ones.
    pub train_weights: Vec<f64>,
    /// Joined before relative image paths; empty for none.
    pub image_root: String,
    /// Accepted and not read: sizes come from the preset.
    pub bert_config: String,
    /// Side of the images.
    pub image_res: Option<usize>,
    /// Accepted if it equals the preset's.
    pub vision_width: Option<usize>,
    /// Width of the joint space.
    pub embed_dim: Option<usize>,
    /// Pairs of a forward pass.
    pub batch_size: usize,
    /// Forward passes of an optimiser step.
    pub accumulate: usize,
    /// First temperature.
    pub temp: f64,
    /// Whether the temperature is trained. At rates far above the official ones it falls fast.
    pub learn_temp: bool,
    /// Share of tokens that are masked.
    pub mlm_probability: f64,
    /// Length of the queues.
    pub queue_size: usize,
    /// Weight of the past in the momentum average.
    pub momentum: f64,
    /// Weight of the momentum model's pseudo-targets.
    pub alpha: f64,
    /// Over what the soft part of masked words and answers normalises: `vocabulary`, or `sequence` as
    /// the official code did before March 2022 (quirk Q1).
    pub mlm_distill_axis: DistillAxis,
    /// Whether pairs of one image id are positives of each other (quirk Q42).
    pub image_index: bool,
    /// Which losses take part.
    pub losses: LossConfig,
    /// New pairs by mixing two.
    pub mixgen: MixGen,
    /// Optimiser steps at the start in which only contrast takes part: matching and masked words cost
    /// most of a step and say little before image and text are aligned. The paper has none.
    pub align_steps: u64,
    /// Whether negatives for matching are drawn by similarity.
    pub hard_negatives: bool,
    /// Optimiser step from which they are; before it they are drawn evenly. Fresh fusion layers learn what
    /// matching is from even ones in a few hundred steps, from hard ones alone much later.
    pub hard_negatives_from: u64,
    /// Temperature of these draws; 0 for the learned one. On a small set the learned one soon falls so
    /// low that every negative is the nearest neighbour, often another name of the same thing.
    pub negative_temp: f64,
    /// Factor on the learning rate of text and fusion layers, for a text side that starts from
    /// trained weights beside a fresh image side.
    pub text_lr_scale: f64,
    /// Dropout of text and fusion layers.
    pub dropout: f64,
    /// Dropout of the momentum model's (quirk Q9).
    pub momentum_dropout: f64,
    /// Smallest and largest area of the random crop.
    pub crop_scale: (f64, f64),
    /// Whether half of the pictures are mirrored.
    pub flip: bool,
    /// Whether they are mirrored although a caption says left or right, as in the official code.
    pub flip_sided: bool,
    /// RandomAugment's operations per picture and strength; `[0, 0]` for none.
    pub rand_augment: (usize, f64),
    /// Which of RandomAugment's operations are the official code's where that is wrong.
    pub augment: AugmentConfig,
    /// Words of a caption that are kept.
    pub max_words: usize,
    /// Tokens of a caption that are kept.
    pub max_tokens: usize,
    /// Word list: a file, `bert` (the full list) or `corpus` (those of its pieces that the training
    /// captions need).
    pub vocab: String,
    /// A BERT to start the text side from (safetensors or `.pth`); empty for random weights.
    pub init_text: String,
    /// A DeiT to start the image side from; empty for random weights.
    pub init_vision: String,
    /// An ALBEF to start from: a model folder, a weights file, or a run, of which the newest checkpoint is
    /// taken; empty for none.
    pub init_albef: String,
    /// Optimiser.
    pub optimizer: OptimizerConfig,
    /// Schedule, under its official spelling.
    #[serde(alias = "scheduler")]
    pub schedular: ScheduleConfig,
    /// Optimiser steps after which the run ends; 0 for no limit but the epochs.
    pub max_steps: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// What the factors of products are rounded to while training (`f32` or `bf16`). Where the
    /// processor has no unit for bf16, f32 is used. Evaluation is always in f32.
    #[serde(with = "PrecisionName")]
    pub precision: Precision,
    /// Loader threads.
    pub workers: usize,
    /// Optimiser steps between checkpoints; 0 for one at the end of each epoch.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept.
    pub keep_last: usize,
    /// Pictures that may be skipped; -1 for 1 % of the samples, at least 10.
    pub max_skipped: i64,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            preset: "base".into(),
            train_file: Files::Many(Vec::new()),
            val_file: Files::Many(Vec::new()),
            k_test: 128,
            train_weights: Vec::new(),
            image_root: String::new(),
            bert_config: String::new(),
            image_res: None,
            vision_width: None,
            embed_dim: None,
            batch_size: 64,
            accumulate: 1,
            temp: 0.07,
            learn_temp: true,
            mlm_probability: 0.15,
            queue_size: 65_536,
            momentum: 0.995,
            alpha: 0.4,
            mlm_distill_axis: DistillAxis::default(),
            image_index: false,
            losses: LossConfig::default(),
            mixgen: MixGen::default(),
            align_steps: 0,
            hard_negatives: true,
            hard_negatives_from: 0,
            negative_temp: 0.0,
            text_lr_scale: 1.0,
            dropout: 0.1,
            momentum_dropout: 0.1,
            crop_scale: (0.2, 1.0),
            flip: true,
            flip_sided: true,
            rand_augment: (2, 7.0),
            augment: AugmentConfig::default(),
            max_words: 30,
            max_tokens: 25,
            vocab: "bert".into(),
            init_text: String::new(),
            init_vision: String::new(),
            init_albef: String::new(),
            optimizer: OptimizerConfig::default(),
            schedular: ScheduleConfig::default(),
            max_steps: 0,
            seed: 42,
            precision: Precision::F32,
            workers: 2,
            checkpoint_every: 0,
            keep_last: 2,
            max_skipped: -1,
        }
    }
}

impl PretrainConfig {
    /// Reads a configuration text (YAML) and applies `key=value` settings, nested keys with dots.
    ///
    /// # Errors
    /// Names an unknown key with the nearest known one, or the key whose value does not fit.
    pub fn parse(text: &str, settings: &[String]) -> Result<Self> {
        let Parsed { config, .. } = parse_config(text, settings, &Self::default())?;
        config.check_values()?;
        config.check_lengths(config.model()?.text.max_positions)?;
        Ok(config)
    }

    /// The model's sizes; the vocabulary's size is filled in once it is known.
    ///
    /// # Errors
    /// If sizes contradict each other.
    pub fn model(&self) -> Result<ModelConfig> {
        let mut model = ModelConfig::named(&self.preset)?;
        if let Some(res) = self.image_res {
            model.vision.image_res = res;
        }
        if let Some(embed_dim) = self.embed_dim {
            model.embed_dim = embed_dim;
        }
        if let Some(width) = self.vision_width.filter(|w| *w != model.vision.width) {
            let own = model.vision.width;
            let preset = &self.preset;
            return Err(Error::Config(format!(
                "`vision_width` {width} contradicts the preset `{preset}`, which has {own}"
            )));
        }
        model.text.dropout = self.dropout as f32;
        model.check()?;
        Ok(model)
    }

    /// The learning-rate schedule.
    #[must_use]
    pub fn schedule(&self) -> CosineSchedule {
        let s = &self.schedular;
        CosineSchedule {
            lr: self.optimizer.lr,
            min_lr: s.min_lr,
            warmup_lr: s.warmup_lr,
            warmup_epochs: s.warmup_epochs,
            epochs: s.epochs,
            iterations_per_step: OFFICIAL_ITERATIONS_PER_STEP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_keys_are_understood_and_settings_override_them() {
        let text = "train_file: [a.json]\nbatch_size: 8\noptimizer: {opt: adamW, lr: 1e-4}\n\
                    schedular: {sched: cosine, epochs: 3}";
        let settings = ["optimizer.lr=3e-4".to_owned(), "train_file=[b.json, c.json]".to_owned()];
        let config = PretrainConfig::parse(text, &settings).unwrap();
        assert_eq!(config.optimizer.lr, 3e-4);
        assert_eq!(config.train_file.paths(), ["b.json", "c.json"]);
        assert_eq!(config.schedular.epochs, 3);
        assert_eq!(config.queue_size, 65_536);
    }

    #[test]
    fn a_misspelt_key_names_the_nearest() {
        let error = PretrainConfig::parse("batch_sise: 8", &[]).unwrap_err().to_string();
        assert!(error.contains("batch_sise") && error.contains("`batch_size`"), "{error}");
        let error = PretrainConfig::parse("optimizer: {weight_decy: 0}", &[]).unwrap_err();
        assert!(error.to_string().contains("optimizer.weight_decay"), "{error}");
    }

    #[test]
    fn a_key_like_none_that_is_known_gets_no_guess() {
        let error = PretrainConfig::parse("zebra: 8", &[]).unwrap_err().to_string();
        assert!(error.contains("`zebra`") && !error.contains("did you mean"), "{error}");
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_by_name() {
        for text in [
            "seed: 1\nbatch_size: 2\nbatch_size: 4",
            "optimizer:\n  lr: 1e-3\n  lr: 1e-4",
            "optimizer: {lr: 1e-3, lr: 1e-4}",
        ] {
            let error = PretrainConfig::parse(text, &[]).unwrap_err().to_string();
            let key = if text.contains("batch") { "batch_size" } else { "lr" };
            assert!(error.contains(&format!("duplicate entry with key \"{key}\"")), "{error}");
        }
        assert_eq!(PretrainConfig::parse("\u{feff}seed: 7\n", &[]).unwrap().seed, 7);
    }

    #[test]
    fn a_number_that_is_none_is_named_by_its_key() {
        for (text, setting, key) in [
            ("alpha: .nan", "seed=1", "alpha"),
            ("optimizer: {lr: .NaN}", "seed=1", "optimizer.lr"),
            ("crop_scale: [0.5, -.inf]", "seed=1", "crop_scale"),
            ("", "optimizer.lr=.nan", "optimizer.lr"),
            ("", "optimizer={lr: .nan}", "optimizer.lr"),
        ] {
            let error = PretrainConfig::parse(text, &[setting.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}` is no finite number")), "{error}");
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_with_its_key() {
        let failed = |text: &str, settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
            PretrainConfig::parse(text, &settings).unwrap_err().to_string()
        };
        let error = failed("batch_size: '8'", &[]);
        assert!(error.contains("`batch_size`") && error.contains("string"), "{error}");
        let error = failed("optimizer: {weight_decay: 0.1, lr: fast}", &[]);
        assert!(error.contains("`optimizer.lr`"), "{error}");
        let error = failed("temp: 0.1", &["flip=true", "schedular.epochs=-1"]);
        assert!(error.contains("--set schedular.epochs=-1"), "{error}");
        let error = failed("", &["optimizer={lr: [1]}"]);
        assert!(error.contains("`optimizer.lr`") && error.contains("--set optimizer"), "{error}");
        assert!(failed("", &["rand_augment=[1"]).contains("--set rand_augment=[1"));
        let error = failed("", &["rand_augment=[1000000000, 7]"]);
        assert!(error.contains("`rand_augment` is 1000000000; it can be at most 100"), "{error}");
    }

    #[test]
    fn the_other_spelling_of_the_schedule_can_be_set_too() {
        let settings = ["schedular.epochs=3".to_owned(), "scheduler.min_lr=0".to_owned()];
        let config = PretrainConfig::parse("scheduler: {epochs: 9}", &settings).unwrap();
        assert_eq!((config.schedular.epochs, config.schedular.min_lr), (3, 0.0));
    }
}
