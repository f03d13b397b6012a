//! The sections that several tasks share. The keys of a single task are in its file.

use std::num::NonZeroUsize;

use albef_data::dataset::{Draw, MAX_WORKERS};
use albef_data::image::{Background, DecodeOptions, ResizeOrder, TruncatedImages};
use serde::{Deserialize, Serialize};

use super::section::{Section, SectionDoc, doc, rule, section};
use crate::error::{Error, Result};
use crate::ops::Precision;
use crate::task::Sections;
use crate::train::optimizer::DecayRule;
use crate::train::schedule::{CosineSchedule, OFFICIAL_ITERATIONS_PER_STEP};

/// Entries of the longest queue, 64 times the official one.
const LONGEST_QUEUE: usize = 1 << 22;
/// RandomAugment's operations on one image, 50 times the official number.
const MOST_OPERATIONS: usize = 100;
/// Pairs of a batch, and batches of a step, beyond which a number is a slip.
const MOST_PAIRS: usize = 1 << 24;

/// The names of precisions in configurations.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Precision", rename_all = "lowercase")]
enum PrecisionName {
    F32,
    Bf16,
}

/// One or several files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a path or a list of paths, or of `{path: PATH, weight: NUMBER, together: NUMBER}`"
)]
pub enum Files {
    /// One path.
    One(String),
    /// Several.
    Many(Vec<FileEntry>),
}

/// A file of several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a path or a list of paths, or of `{path: PATH, weight: NUMBER, together: NUMBER}`"
)]
pub enum FileEntry {
    /// A path.
    Path(String),
    /// A path with how its samples are drawn in the mixture.
    Drawn(DrawnFile),
}

/// A file with how its samples are drawn in the mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawnFile {
    /// The path.
    pub path: String,
    /// How often each of its samples is drawn, relative to those of weight 1.
    #[serde(default = "once")]
    pub weight: f64,
    /// How many neighbors are drawn together, as each other's hard negatives.
    #[serde(default = "one_by_one", skip_serializing_if = "is_one_by_one")]
    pub together: NonZeroUsize,
}

fn once() -> f64 {
    Draw::default().weight
}

fn one_by_one() -> NonZeroUsize {
    Draw::default().together
}

fn is_one_by_one(together: &NonZeroUsize) -> bool {
    *together == one_by_one()
}

impl FileEntry {
    fn path(&self) -> &str {
        match self {
            Self::Path(path) | Self::Drawn(DrawnFile { path, .. }) => path,
        }
    }
}

impl Default for Files {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Files {
    /// The paths; an empty text names none.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let all: Vec<&str> = match self {
            Self::One(path) => vec![path],
            Self::Many(files) => files.iter().map(FileEntry::path).collect(),
        };
        all.into_iter().filter(|path| !path.is_empty()).map(str::to_owned).collect()
    }

    /// How samples of each of [`Files::paths`] are drawn; `None` if it is not said.
    #[must_use]
    pub fn draws(&self) -> Option<Vec<Draw>> {
        let Self::Many(files) = self else { return None };
        let draw = |file: &FileEntry| match file {
            FileEntry::Path(_) => Draw::default(),
            FileEntry::Drawn(DrawnFile { weight, together, .. }) => {
                Draw { weight: *weight, together: *together }
            }
        };
        let said = files.iter().any(|file| matches!(file, FileEntry::Drawn(_)));
        let named = files.iter().filter(|file| !file.path().is_empty());
        said.then(|| named.map(draw).collect())
    }
}

mod files_rule {
    use super::Files;

    /// Weights must be above 0.
    pub(super) fn positive(files: &Files) -> Option<String> {
        let weights = files.draws().unwrap_or_default();
        let wrong =
            weights.into_iter().map(|draw| draw.weight).find(|w| !(w.is_finite() && *w > 0.0))?;
        Some(format!("has the weight {wrong}; weights must be above 0"))
    }

    /// There is no mixture to measure on.
    pub(super) fn unweighted(files: &Files) -> Option<String> {
        let line = "has `weight` or `together`, which only `train_file` can have: every sample is measured once";
        files.draws().map(|_| line.into())
    }
}

/// Which form of an operation of RandomAugment is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AugmentForm {
    /// What the operation's name promises.
    #[default]
    Correct,
    /// The official code's, whose bytes overflow.
    Reference,
}

section! {
    /// What is trained and measured on.
    pub struct DataConfig: "Data" {
        /// training data: annotation lists, folders, tar shards (`train-{000..012}.tar`), one or several; each may have
        /// a weight, as in `[a.json, {path: b.json, weight: 2}]`, by which its samples are drawn more often, and with
        /// `together: N` groups of N neighbors are drawn at once, as each other's hard negatives
        train_file: Files = Files::default(), if files_rule::positive;
        /// lists measured after each epoch; the best weights are kept in `best`. For pre-training one
        /// retrieval list
        val_file: Files = Files::default(), if files_rule::unweighted;
        /// a manifest (`albef data check LIST --manifest FILE`, `manifest.jsonl` of `albef data pack`); its files
        /// must be as it says, or the run does not begin
        data_manifest: String = String::new();
        /// joined before image paths that are not absolute
        image_root: String = String::new();
        /// words of a text that are kept
        max_words: usize = 30;
        /// tokens of a text that are kept
        max_tokens: usize = 25, if rule::at_least_1;
        /// threads that decode and augment
        num_workers: usize = 2, if rule::at_most(MAX_WORKERS);
        /// images that may be unusable before the run stops; -1: 1 % of the samples, at least 10
        max_skipped: i64 = -1, if |v: &i64| (*v < -1).then(|| format!(
            "is {v}; it must be 0 or more, or -1 for 1 % of the samples"
        ));
        /// seed of everything that is drawn
        seed: u64 = 42;
    }
}

section! {
    /// Operations of RandomAugment that the official code gets wrong: AutoContrast turns channels
    /// without a black pixel white, Sharpness wraps beyond white and black.
    pub struct AugmentConfig: "Augmentation" {
        /// or `reference`, the official code's (quirk Q2)
        autocontrast: AugmentForm = AugmentForm::default();
        /// or `reference` (quirk Q3)
        sharpness: AugmentForm = AugmentForm::default();
    }
}

section! {
    /// The images of training.
    pub struct ImageConfig: "Images" {
        /// side in pixels; that of the preset or checkpoint if not given
        image_res: Option<usize> = None;
        /// `horizontal_first`, as Pillow up to 12, with which the published figures were measured, or
        /// `pillow_13`: which pass of resizing comes first
        resize_order: ResizeOrder = ResizeOrder::default();
        /// images are turned upright as their Exif orientation says
        exif_orientation: bool = false;
        /// what is behind transparent pixels: `official` ignores transparency; or `white`, `black`, `"#rrggbb"`
        background: Background = Background::default();
        /// pixels above which an image is refused, by its header
        max_image_pixels: u64 = DecodeOptions::MAX_PIXELS, if rule::at_least_1;
        /// JPEG and PNG files that end early: `refuse` counts them as broken; `fill` takes what is there, as the official
        /// code does
        truncated_images: TruncatedImages = TruncatedImages::default();
        /// smallest and largest area of the random crop
        crop_scale: (f64, f64) = (0.2, 1.0), if |v: &(f64, f64)| {
            let fine = v.0 > 0.0 && v.0 <= v.1 && v.1 <= 1.0;
            (!fine).then(|| format!("[{}, {}] must rise within 0 to 1", v.0, v.1))
        };
        /// half of the images are mirrored
        flip: bool = true;
        /// mirror also those whose text says left or right (quirk Q22)
        flip_with_side_words: bool = true;
        /// RandomAugment: operations per image (100 at most) and magnitude; `[0, 0]` for none
        rand_augment: (usize, f64) = (2, 7.0), if |v: &(usize, f64)| {
            let most = rule::at_most(MOST_OPERATIONS)(&v.0);
            most.or_else(|| rule::at_least_0(&v.1))
        };
        /// forms of its operations
        [nested]
        augment: AugmentConfig = AugmentConfig::default();
    }
}

impl ImageConfig {
    /// How images are read.
    #[must_use]
    pub fn decode_options(&self) -> DecodeOptions {
        DecodeOptions {
            exif_orientation: self.exif_orientation,
            background: self.background,
            max_pixels: self.max_image_pixels,
            truncated: self.truncated_images,
            resize_order: self.resize_order,
            ..DecodeOptions::default()
        }
    }
}

section! {
    /// The optimizer.
    pub struct OptimizerConfig: "Optimizer" {
        /// the only optimizer
        opt: String = "adamW".into(), if rule::one_of(&["adamW"]);
        /// learning rate after warm-up
        lr: f64 = 1e-4, if rule::above_0;
        /// weight decay
        weight_decay: f64 = 0.02, if rule::at_least_0;
        /// added to the root of the second moment
        opt_eps: f64 = 1e-8, if rule::above_0;
        /// decay rates of the moments
        opt_betas: (f64, f64) = (0.9, 0.999), if |v: &(f64, f64)| {
            rule::below_1(&v.0).or_else(|| rule::below_1(&v.1))
        };
        /// which parameters decay; or `clean` (quirk Q7)
        decay_rule: DecayRule = DecayRule::default();
    }
}

section! {
    /// The learning-rate schedule, under its official spelling.
    pub struct ScheduleConfig: "Schedule" {
        /// the official schedule by epochs; `per_step` warms up and decays by optimizer step
        sched: String = "cosine".into(), if rule::one_of(&["cosine", "per_step"]);
        /// epochs
        epochs: u64 = 30, if rule::at_least_1;
        /// learning rate at the end
        min_lr: f64 = 1e-5, if rule::at_least_0;
        /// learning rate at the start
        warmup_lr: f64 = 1e-5, if rule::at_least_0;
        /// hundreds of iterations of warm-up (quirk Q8)
        warmup_epochs: u64 = 20;
        /// optimizer steps of warm-up of `per_step`
        warmup_steps: u64 = 100;
        /// not read, as in the official code: the rate is `optimizer.lr`
        lr: f64 = 1e-4;
        /// not read
        decay_rate: f64 = 1.0;
        /// not read
        cooldown_epochs: u64 = 0;
    }
}

section! {
    /// The optimization.
    pub struct OptimConfig: "Optimizer and schedule" {
        /// pairs of a forward pass
        batch_size: usize = 64, if |v: &usize| {
            rule::at_least_1(v).or_else(|| rule::at_most(MOST_PAIRS)(v))
        };
        /// forward passes of an optimizer step; momentum model and queues are updated once per step
        grad_accum_steps: usize = 1, if |v: &usize| {
            rule::at_least_1(v).or_else(|| rule::at_most(MOST_PAIRS)(v))
        };
        /// the optimizer
        [nested]
        optimizer: OptimizerConfig = OptimizerConfig::default();
        /// factor on the learning rate of text and fusion layers
        text_lr_scale: f64 = 1.0, if rule::at_least_0;
        /// the schedule; `scheduler` is understood as well
        [nested]
        schedular: ScheduleConfig = ScheduleConfig::default();
        /// optimizer steps after which the run ends; 0: only the epochs end it
        max_steps: u64 = 0;
        /// dropout of text and fusion layers
        dropout: f64 = 0.1, if rule::below_1;
        /// or `bf16`: factors of products in training, where the processor has a unit for it (`albef doctor`)
        #[serde(with = "PrecisionName")]
        precision: Precision = Precision::F32;
    }
}

section! {
    /// Checkpoints of a run.
    pub struct CheckpointConfig: "Checkpoints" {
        /// optimizer steps between checkpoints; 0: one at the end of each epoch
        checkpoint_every: u64 = 0;
        /// checkpoints that are kept, the newest ones
        keep_last_n: usize = 2, if rule::at_least_1;
    }
}

/// What every training run has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// Data.
    #[serde(flatten)]
    pub data: DataConfig,
    /// Images.
    #[serde(flatten)]
    pub image: ImageConfig,
    /// Optimization.
    #[serde(flatten)]
    pub optim: OptimConfig,
    /// Checkpoints.
    #[serde(flatten)]
    pub checkpoints: CheckpointConfig,
}

impl Sections for TrainConfig {
    fn sections() -> Vec<SectionDoc> {
        vec![
            doc::<DataConfig>(),
            doc::<ImageConfig>(),
            doc::<OptimConfig>(),
            doc::<CheckpointConfig>(),
        ]
    }

    fn check(&self) -> Result<()> {
        self.data.check_values("")?;
        self.image.check_values("")?;
        self.optim.check_values("")?;
        self.checkpoints.check_values("")
    }
}

impl TrainConfig {
    /// Checks the length of texts against the position table.
    ///
    /// # Errors
    /// If texts may be longer than it.
    pub fn check_lengths(&self, positions: usize) -> Result<()> {
        check_length("max_tokens", self.data.max_tokens, positions)
    }

    /// The learning-rate schedule.
    #[must_use]
    pub fn schedule(&self) -> CosineSchedule {
        let (s, o) = (&self.optim.schedular, &self.optim.optimizer);
        CosineSchedule {
            lr: o.lr,
            min_lr: s.min_lr,
            warmup_lr: s.warmup_lr,
            warmup_epochs: s.warmup_epochs,
            epochs: s.epochs,
            iterations_per_step: OFFICIAL_ITERATIONS_PER_STEP,
        }
    }
}

/// An error if texts of a key may be longer than the position table.
pub(crate) fn check_length(key: &str, found: usize, positions: usize) -> Result<()> {
    if (1..=positions).contains(&found) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "`{key}` is {found}; the model has positions for 1 to {positions} tokens"
    )))
}

section! {
    /// The momentum model and its pseudo-targets (paper section 3.3).
    pub struct MomentumConfig: "Momentum distillation" {
        /// weight of the past in the momentum model
        momentum: f64 = 0.995, if rule::within(0.0..=1.0);
        /// weight of the momentum model's pseudo-targets; 0 for none
        alpha: f64 = 0.4, if rule::within(0.0..=1.0);
        /// dropout of the momentum model's text and fusion layers (quirk Q9)
        momentum_dropout: f64 = 0.1, if rule::below_1;
    }
}

section! {
    /// Which losses of image-text pairs are active, for ablations.
    pub struct LossConfig: "Losses" {
        /// image-text contrastive loss
        ita: bool = true;
        /// image-text matching loss
        itm: bool = true;
        /// masked language modeling loss
        mlm: bool = true;
        /// momentum distillation of masked language modeling; that of the contrastive loss is `alpha`
        mlm_mod: bool = true;
    }
}

section! {
    /// Contrast and matching of image-text pairs (paper section 3.2).
    pub struct PairsConfig: "Contrast and matching" {
        /// length of the queues
        queue_size: usize = 65_536, if rule::at_most(LONGEST_QUEUE);
        /// the contrast is with the momentum model's features; else within the batch, with gradients
        /// on both sides, as in CLIP (needs `queue_size: 0` and `alpha: 0`)
        momentum_contrast: bool = true;
        /// share of the patches of each image that a training step leaves out (FLIP)
        patch_dropout: f64 = 0.0, if rule::below_1;
        /// the temperature is trained
        train_temp: bool = true;
        /// pairs of one image id are positives of each other (quirk Q42)
        image_index: bool = false;
        /// negatives of matching are drawn by similarity, else evenly
        hard_negatives: bool = true;
        /// optimizer step at which such negatives start; even ones before it
        hard_negatives_start: u64 = 0;
        /// temperature of these draws; 0 for the learned one
        negative_temp: f64 = 0.0, if rule::at_least_0;
        /// active losses
        [nested]
        losses: LossConfig = LossConfig::default();
        /// MixGen
        [nested]
        mixgen: MixGen = MixGen::default();
    }
}

section! {
    /// What fine-tuning starts from and is measured on at the end.
    pub struct StartConfig: "Fine-tuning" {
        /// model folder, checkpoint or run to start from
        checkpoint: String = String::new();
        /// lists measured once, at the end
        test_file: Files = Files::default(), if files_rule::unweighted;
        /// the official name of `batch_size`
        batch_size_train: Option<usize> = None;
        /// images of an evaluation step
        batch_size_test: usize = 32, if rule::at_least_1;
    }
}

section! {
    /// Whether a task's momentum model teaches.
    pub struct DistillConfig: "Distillation in fine-tuning" {
        /// the momentum model's predictions are learned from
        distill: bool = true;
        /// `alpha` rises over the first epoch
        warm_up: bool = true;
    }
}

pub use albef_data::dataset::MixGen;

impl Section for MixGen {
    const TITLE: &'static str = "MixGen";

    fn keys() -> Vec<super::section::Key> {
        let defaults = serde_json::to_value(Self::default()).unwrap_or_default();
        let key = |(name, doc): (&str, &str)| super::section::Key {
            name: name.to_owned(),
            doc: doc.to_owned(),
            default: defaults[name].clone(),
        };
        [
            (
                "mode",
                "MixGen: `fixed` mixes the first rows of a batch, `batch` all by a permutation",
            ),
            ("ratio", "share of the batch that `fixed` mixes"),
            ("lambda", "weight of the first image; `beta(A)` draws one for each mixed row"),
            ("max_tokens", "tokens that are kept of texts while mixing"),
            ("mask_partners", "a mixed row and its partner are never negatives in matching"),
            ("in_place", "mixes as its authors' code does (quirk M2)"),
        ]
        .map(key)
        .into()
    }

    fn check_values(&self, _above: &str) -> Result<()> {
        self.check().map_err(|e| Error::Config(e.to_string()))
    }
}
