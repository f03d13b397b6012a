//! The configuration of pre-training: the official keys, and ours (spec `training` section 3).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::model::ModelConfig;
use crate::error::{Error, Result};
use crate::objectives::mixgen::MixGen;
use crate::ops::Precision;
use crate::train::schedule::CosineSchedule;

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
    /// The paths.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        match self {
            Self::One(path) => vec![path.clone()],
            Self::Many(paths) => paths.clone(),
        }
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
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        let opt = "adamW".into();
        Self { opt, lr: 1e-4, weight_decay: 0.02, opt_eps: 1e-8, opt_betas: (0.9, 0.999) }
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
    /// An ALBEF checkpoint or model folder to start from; empty for none.
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
            image_index: false,
            losses: LossConfig::default(),
            mixgen: MixGen::default(),
            align_steps: 0,
            hard_negatives: true,
            negative_temp: 0.0,
            text_lr_scale: 1.0,
            dropout: 0.1,
            momentum_dropout: 0.1,
            crop_scale: (0.2, 1.0),
            flip: true,
            flip_sided: true,
            rand_augment: (2, 7.0),
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
    /// Names an unknown key with the nearest known one, or a value that does not fit.
    pub fn parse(text: &str, settings: &[String]) -> Result<Self> {
        let parsed: Self = parse_config(text, settings, &Self::default())?;
        parsed.check()?;
        Ok(parsed)
    }

    pub(super) fn check(&self) -> Result<()> {
        let fail = |m: String| Err(Error::Config(m));
        let share = |name: &str, v: f64| match (0.0..=1.0).contains(&v) {
            true => Ok(()),
            false => Err(Error::Config(format!("`{name}` is {v}; it must lie between 0 and 1"))),
        };
        share("alpha", self.alpha)?;
        share("momentum", self.momentum)?;
        share("mlm_probability", self.mlm_probability)?;
        if !(0.0..1.0).contains(&self.dropout) || !(0.0..1.0).contains(&self.momentum_dropout) {
            return fail("dropout must lie between 0 and 1, 1 not included".into());
        }
        if !(self.losses.ita || self.losses.itm || self.losses.mlm) {
            return fail("`losses`: at least one of ita, itm and mlm must take part".into());
        }
        self.mixgen.check()?;
        if !(self.negative_temp.is_finite() && self.negative_temp >= 0.0) {
            let found = self.negative_temp;
            return fail(format!("`negative_temp` is {found}; it must be 0 or more"));
        }
        if self.align_steps > 0 && !self.losses.ita {
            return fail("`align_steps` needs the loss `ita`".into());
        }
        if !(self.text_lr_scale.is_finite() && self.text_lr_scale >= 0.0) {
            return fail(format!(
                "`text_lr_scale` is {}; it must be 0 or more",
                self.text_lr_scale
            ));
        }
        if self.batch_size == 0 || self.accumulate == 0 {
            return fail("`batch_size` and `accumulate` must be at least 1".into());
        }
        if !self.optimizer.opt.eq_ignore_ascii_case("adamw") {
            return fail(format!("optimizer `{}` is not known; use `adamW`", self.optimizer.opt));
        }
        if !matches!(self.schedular.sched.as_str(), "cosine" | "per_step") {
            return fail(format!(
                "schedule `{}` is not known; use `cosine` or `per_step`",
                self.schedular.sched
            ));
        }
        let (low, high) = self.crop_scale;
        if !(low > 0.0 && low <= high && high <= 1.0) {
            return fail(format!("`crop_scale` [{low}, {high}] must rise within 0 to 1"));
        }
        let files = self.train_file.paths().len();
        if !self.train_weights.is_empty() && self.train_weights.len() != files {
            return fail(format!(
                "{} `train_weights` for {files} training files",
                self.train_weights.len()
            ));
        }
        self.model()?;
        Ok(())
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
        }
    }
}

/// Reads YAML over defaults and applies `key=value` settings; keys that the defaults lack are
/// refused.
pub(super) fn parse_config<T>(text: &str, settings: &[String], defaults: &T) -> Result<T>
where
    T: Serialize + serde::de::DeserializeOwned,
{
    let config = |e: &dyn std::fmt::Display| Error::Config(e.to_string());
    let mut value: Value = match serde_norway::from_str(text).map_err(|e| config(&e))? {
        Value::Null => Value::Object(Map::new()),
        value => value,
    };
    for setting in settings {
        let (key, new) = setting.split_once('=').ok_or_else(|| {
            Error::Config(format!("`--set {setting}` must have the form key=value"))
        })?;
        let new: Value = serde_norway::from_str(new).map_err(|e| config(&e))?;
        set(&mut value, key.trim(), new)?;
    }
    if let Some(map) = value.as_object_mut()
        && let Some(moved) = map.remove("scheduler")
    {
        map.insert("schedular".into(), moved);
    }
    let mut known = serde_json::to_value(defaults).map_err(|e| config(&e))?;
    check_keys(&value, &known, "")?;
    merge(&mut known, value);
    serde_json::from_value(known).map_err(|e| config(&e))
}

fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn set(value: &mut Value, key: &str, new: Value) -> Result<()> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let Some(map) = value.as_object_mut() else {
        return Err(Error::Config(format!("`{key}`: what stands above it has no keys")));
    };
    match rest {
        None => drop(map.insert(first.to_owned(), new)),
        Some(rest) => {
            let inner = map.entry(first).or_insert_with(|| Value::Object(Map::new()));
            set(inner, rest, new)?;
        }
    }
    Ok(())
}

fn check_keys(value: &Value, known: &Value, above: &str) -> Result<()> {
    let (Some(map), Some(known)) = (value.as_object(), known.as_object()) else {
        if above.is_empty() {
            return Err(Error::Config("the file must hold keys with values".into()));
        }
        return Ok(());
    };
    for (key, value) in map {
        let Some(known) = known.get(key) else {
            let nearest = known
                .keys()
                .max_by(|a, b| {
                    strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key))
                })
                .map_or(String::new(), |k| format!("; did you mean `{above}{k}`?"));
            return Err(Error::Config(format!("unknown key `{above}{key}`{nearest}")));
        };
        if known.is_object() {
            check_keys(value, known, &format!("{above}{key}."))?;
        }
    }
    Ok(())
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
    fn sizes_that_cannot_work_are_refused() {
        for text in ["image_res: 250", "alpha: 2", "batch_size: 0", "preset: huge", "[1, 2]"] {
            assert!(PretrainConfig::parse(text, &[]).is_err(), "{text}");
        }
    }
}
