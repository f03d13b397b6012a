//! The training loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use albef_data::dataset::{
    Batch as DataBatch, Dataset, LoaderOptions, SkipReport, SourceSpec, TrainLoader,
    batches_per_epoch,
};
use albef_data::image::{DecodeOptions, Normalization, RandAugment, TrainTransform};
use albef_data::text::{Tokenizer, Vocabulary};
use albef_weights::KeepAs;
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::checkpoint::{self, Place, TrainState};
use super::objective::{Context, Features, Losses, Objective};
use super::optimizer::{Optimizer, update_average};
use super::schedule::distillation_weight;
use super::start::{starting_state, task_data};
use super::step::clamp_temperature;
use crate::config::{FinetuneConfig, ModelConfig, PretrainConfig};
use crate::error::{Error, Result};
use crate::init::fresh_queues;
use crate::model::Albef;
use crate::objectives::mixgen::MixMode;
use crate::objectives::pretrain::mix;
use crate::ops::Ops;
use crate::params::{Params, values};
use crate::task_weights::TaskWeights;
use crate::weights::{ModelFiles, save_model_folder};

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
pub enum Ended {
    /// All steps are done.
    Done,
    /// It was asked to stop, and saved.
    Interrupted,
    /// The step given to [`Trainer::pause_at`] is done; [`Trainer::run`] goes on from there.
    Paused,
}

/// A training run of any task.
pub struct Trainer {
    config: PretrainConfig,
    model: ModelConfig,
    data: Arc<Dataset>,
    tokenizer: Arc<Tokenizer>,
    vocabulary: String,
    device: Device,
    output: PathBuf,
    report: SkipReport,
    objective: Objective,
    distill: bool,
    warm_up: bool,
    pause: u64,
    /// Everything that training changes.
    pub state: TrainState,
}

/// The word pieces of BERT, uncased.
pub const BERT_VOCABULARY: &str = include_str!("../../assets/vocab.txt");

/// The pieces of the full list that a text corpus needs: special ones, single characters, and all
/// that its captions are made of.
///
/// # Errors
/// Never for the built-in list.
pub fn corpus_vocabulary<'a>(captions: impl Iterator<Item = &'a str>) -> Result<String> {
    let full = Tokenizer::new(Vocabulary::from_text(BERT_VOCABULARY)?);
    let mut used = vec![false; full.vocabulary().len()];
    for caption in captions {
        let clean = albef_data::text::pre_caption(caption, usize::MAX);
        full.encode(&clean).into_iter().for_each(|id| used[id as usize] = true);
    }
    let single = |piece: &str| {
        let bare = piece.strip_prefix("##").unwrap_or(piece);
        bare.len() == 1 && bare.is_ascii()
    };
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let mut text = special.join("\n");
    for (i, piece) in BERT_VOCABULARY.lines().enumerate() {
        if !special.contains(&piece) && (used[i] || single(piece)) {
            text.push('\n');
            text.push_str(piece);
        }
    }
    text.push('\n');
    Ok(text)
}

fn vocabulary_text(config: &PretrainConfig, data: &Dataset) -> Result<String> {
    match config.vocab.as_str() {
        "bert" | "" => Ok(BERT_VOCABULARY.to_owned()),
        "corpus" => {
            corpus_vocabulary(data.samples().iter().flat_map(|s| &s.captions).map(String::as_str))
        }
        path => std::fs::read_to_string(path).map_err(Error::io(path)),
    }
}

impl Trainer {
    /// Prepares a run: data, vocabulary, starting weights. Nothing is written yet.
    ///
    /// # Errors
    /// If data, vocabulary or starting weights cannot be read or do not fit.
    pub fn new(config: PretrainConfig, output: &Path, device: &Device) -> Result<Self> {
        let specs: Vec<SourceSpec> = config
            .train_file
            .paths()
            .iter()
            .enumerate()
            .map(|(i, path)| SourceSpec {
                path: path.clone(),
                image_root: (!config.image_root.is_empty())
                    .then(|| config.image_root.clone().into()),
                weight: config.train_weights.get(i).copied().unwrap_or(1.0),
            })
            .collect();
        if specs.is_empty() {
            return Err(Error::Config(
                "`train_file` is empty: name a JSON list, a folder or tar shards, for instance \
                 with `--set train_file=[FILE]`"
                    .into(),
            ));
        }
        Self::with_data(config, Dataset::open(&specs)?, output, device)
    }

    /// The same on data at hand.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_data(
        config: PretrainConfig,
        data: Dataset,
        output: &Path,
        device: &Device,
    ) -> Result<Self> {
        batches_per_epoch(data.len(), config.batch_size)?;
        let vocabulary = vocabulary_text(&config, &data)?;
        let tokenizer = Tokenizer::new(Vocabulary::from_text(&vocabulary)?);
        let mut model = config.model()?;
        model.text.vocab_size = tokenizer.vocabulary().len();
        model.text.pad_id = tokenizer.vocabulary().pad;
        let state = starting_state(&config, &model, device)?;
        Ok(Self {
            config,
            model,
            data: Arc::new(data),
            tokenizer: Arc::new(tokenizer),
            vocabulary,
            device: device.clone(),
            output: output.to_owned(),
            report: SkipReport::default(),
            objective: Objective::Pretrain,
            distill: true,
            warm_up: true,
            pause: u64::MAX,
            state,
        })
    }

    /// Prepares fine-tuning for a task from the checkpoint that the configuration names.
    ///
    /// # Errors
    /// If data or checkpoint cannot be read, or the checkpoint cannot become the task's model.
    pub fn finetune(
        config: &FinetuneConfig,
        objective: Objective,
        output: &Path,
        device: &Device,
    ) -> Result<Self> {
        let data = task_data(config, objective)?;
        let base = config.base.clone();
        batches_per_epoch(data.len(), base.batch_size)?;
        let files = ModelFiles::open(Path::new(&config.checkpoint))?;
        let mut model = files.config;
        model.vision.image_res = base.image_res.unwrap_or(model.vision.image_res);
        model.text.dropout = base.dropout as f32;
        model.check()?;
        let weights = TaskWeights::from_checkpoint(
            files.tensors,
            objective.task(),
            &model,
            device,
            &files.source,
            base.seed,
        )?;
        let o = &base.optimizer;
        let optimizer = Optimizer::new(&weights.online, o.weight_decay, o.opt_betas, o.opt_eps)
            .scaled(&weights.online, "text_encoder", base.text_lr_scale);
        let contrastive = matches!(objective, Objective::Retrieval | Objective::Grounding);
        let size = if contrastive { base.queue_size } else { 0 };
        let fresh = || fresh_queues(size, model.embed_dim, base.seed, device);
        let queues = weights.queues.unwrap_or_else(fresh);
        let momentum = if objective.has_teacher(config.distill) {
            weights.momentum
        } else {
            Params::new(device)
        };
        let state = TrainState {
            online: weights.online,
            momentum,
            queues,
            optimizer,
            place: Place::default(),
        };
        Ok(Self {
            model,
            data: Arc::new(data),
            tokenizer: Arc::new(Tokenizer::new(Vocabulary::from_text(&files.vocabulary)?)),
            vocabulary: files.vocabulary,
            device: device.clone(),
            output: output.to_owned(),
            report: SkipReport::default(),
            objective,
            distill: config.distill,
            warm_up: config.warm_up,
            pause: u64::MAX,
            config: base,
            state,
        })
    }

    /// What is trained for.
    #[must_use]
    pub fn objective(&self) -> Objective {
        self.objective
    }

    /// Lets [`Trainer::run`] return after this step, for instance to measure.
    pub fn pause_at(&mut self, step: u64) {
        self.pause = step;
    }

    /// Continues from the newest whole checkpoint of the output folder; `false` if there is none.
    ///
    /// # Errors
    /// If that checkpoint is damaged or of another model.
    pub fn resume(&mut self) -> Result<bool> {
        let Some(newest) = checkpoint::list(&self.checkpoints())?.pop() else { return Ok(false) };
        checkpoint::load(&newest, &mut self.state, &self.device)?;
        Ok(true)
    }

    fn checkpoints(&self) -> PathBuf {
        self.output.join("checkpoints")
    }

    /// The model's sizes.
    #[must_use]
    pub fn model_config(&self) -> &ModelConfig {
        &self.model
    }

    /// The tokenizer of the run.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The word pieces of the run, one per line.
    #[must_use]
    pub fn vocabulary(&self) -> &str {
        &self.vocabulary
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &PretrainConfig {
        &self.config
    }

    /// Pictures that were skipped so far.
    #[must_use]
    pub fn skipped(&self) -> Vec<albef_data::dataset::Skipped> {
        self.report.list()
    }

    /// Batches of an epoch.
    #[must_use]
    pub fn epoch_batches(&self) -> usize {
        self.data.len() / self.config.batch_size
    }

    /// Optimiser steps of the whole run.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        let per_epoch = self.epoch_batches().div_ceil(self.config.accumulate) as u64;
        let all = per_epoch * self.config.schedular.epochs;
        match self.config.max_steps {
            0 => all,
            limit => limit.min(all),
        }
    }

    /// Ends the run after this many steps in all.
    pub fn set_max_steps(&mut self, steps: u64) {
        self.config.max_steps = steps;
    }

    fn loader(&self) -> Result<TrainLoader> {
        let c = &self.config;
        let (n, m) = c.rand_augment;
        let options = LoaderOptions {
            batch_size: c.batch_size,
            seed: c.seed,
            text: self.objective.text_rule(),
            epoch: self.state.place.epoch,
            start_batch: self.state.place.batch,
            workers: c.workers,
            max_words: c.max_words,
            max_tokens: match c.mixgen.mode {
                MixMode::Off => c.max_tokens,
                _ => c.mixgen.max_tokens,
            },
            transform: TrainTransform {
                size: self.model.vision.image_res,
                crop_scale: c.crop_scale,
                flip: c.flip,
                rand_augment: (n > 0).then_some(RandAugment { n, m }),
                quirks: albef_data::image::ReferenceQuirks::default(),
            },
            flip_sided: c.flip_sided,
            normalization: Normalization::default(),
            decode: DecodeOptions::default(),
            max_skipped: usize::try_from(c.max_skipped).ok(),
        };
        let (data, tokenizer) = (self.data.clone(), self.tokenizer.clone());
        Ok(TrainLoader::new(data, tokenizer, options, self.report.clone())?)
    }

    fn learning_rate(&self) -> f64 {
        let place = &self.state.place;
        let schedule = self.config.schedule();
        if self.config.schedular.sched == "per_step" {
            let warmup = self.config.schedular.warmup_steps;
            return schedule.per_step(place.step, warmup, self.total_steps());
        }
        let iteration = (place.batch / self.config.accumulate) as u64;
        schedule.official(place.epoch, iteration)
    }

    /// Trains to the end, or until `stop` is set, telling `observe` what happens. Checkpoints are
    /// written on the way and at the end.
    ///
    /// # Errors
    /// If data cannot be read, a loss is not finite, or a checkpoint cannot be written; older
    /// checkpoints are then untouched.
    pub fn run(
        &mut self,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&Event<'_>) -> Result<()>,
    ) -> Result<Ended> {
        let total = self.total_steps();
        let end = total.min(self.pause);
        let mut saved_at = None;
        let mut pace = Pace::default();
        while self.state.place.step < end {
            let mut loader = self.loader()?;
            let batches = loader.batches();
            while self.state.place.step < end && self.state.place.batch < batches {
                let started = Instant::now();
                let mut parts = Vec::new();
                let left = batches - self.state.place.batch;
                for _ in 0..self.config.accumulate.min(left) {
                    parts.extend(loader.next_batch()?);
                }
                let pairs = parts.len() * self.config.batch_size;
                let report = self.step(&parts, batches)?;
                self.state.place.batch += parts.len();
                let pairs_per_second = pace.add(pairs, started.elapsed().as_secs_f64());
                observe(&Event::Step { report, total, pairs_per_second })?;
                let every = self.config.checkpoint_every;
                let due = every > 0 && self.state.place.step.is_multiple_of(every);
                let stopping = stop.load(Ordering::Relaxed);
                if due || stopping {
                    self.save(observe)?;
                    saved_at = Some(self.state.place.step);
                }
                if stopping {
                    return Ok(Ended::Interrupted);
                }
            }
            if self.state.place.batch >= batches {
                let sums = std::mem::take(&mut self.state.place.sums);
                let mean = |(name, (sum, n)): (String, (f64, u64))| (name, sum / n.max(1) as f64);
                let means = sums.into_iter().map(mean).collect();
                observe(&Event::Epoch { epoch: self.state.place.epoch, means })?;
                self.state.place.epoch += 1;
                self.state.place.batch = 0;
                if self.config.checkpoint_every == 0 {
                    self.save(observe)?;
                    saved_at = Some(self.state.place.step);
                }
            }
        }
        if end < total {
            return Ok(Ended::Paused);
        }
        if saved_at != Some(self.state.place.step) {
            self.save(observe)?;
        }
        Ok(Ended::Done)
    }

    fn save(&self, observe: &mut dyn FnMut(&Event<'_>) -> Result<()>) -> Result<()> {
        let path = checkpoint::save(&self.checkpoints(), &self.state, self.config.keep_last)?;
        observe(&Event::Saved(&path))
    }

    /// One optimiser step on one or several batches.
    fn step(&mut self, parts: &[DataBatch], batches: usize) -> Result<StepReport> {
        let place = self.state.place.clone();
        let lr = self.learning_rate();
        let alpha = distillation_weight(
            self.config.alpha,
            self.warm_up,
            place.epoch,
            place.batch as u64,
            batches as u64,
        );
        // Only pre-training keeps the temperature within bounds.
        if self.objective == Objective::Pretrain {
            clamp_temperature(&mut self.state.online);
        }
        let TrainState { online, momentum, .. } = &mut self.state;
        update_average(self.config.momentum, momentum, online);
        let share = 1.0 / parts.len() as f64;
        let mut losses: Vec<Option<f64>> = vec![None; self.objective.losses().len()];
        let mut total: Vec<Option<Tensor<1>>> = Vec::new();
        let mut features = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let salt = place.step * self.config.accumulate as u64 + i as u64;
            let seed = mix(self.config.seed, salt);
            let (step_losses, gradients, feats) = self.gradients(part, alpha, seed, &place)?;
            features.extend(feats);
            for (sum, loss) in losses.iter_mut().zip(step_losses) {
                *sum = loss.map(|loss| sum.unwrap_or(0.0) + loss * share);
            }
            if parts.len() == 1 {
                total = gradients;
            } else if total.is_empty() {
                total = gradients.into_iter().map(|g| g.map(|g| g * share)).collect();
            } else {
                for (sum, g) in total.iter_mut().zip(gradients) {
                    *sum = match (sum.take(), g) {
                        (Some(a), Some(b)) => Some(a + b * share),
                        (a, b) => a.or_else(|| b.map(|b| b * share)),
                    };
                }
            }
        }
        // Once per optimiser step: all of its features enter the queues.
        for (image, text, ids) in features {
            self.state.queues.push(image, text, &ids);
        }
        let TrainState { online, optimizer, .. } = &mut self.state;
        optimizer.step(lr, online, total);
        let temp = online.get("temp").map(|t| f64::from(values(t.value.clone())[0]));
        self.state.place.step += 1;
        let names = self.objective.losses().iter().copied();
        let losses: BTreeMap<&'static str, f64> =
            names.zip(losses).filter_map(|(name, loss)| Some((name, loss?))).collect();
        for (name, value) in losses.iter().chain([(&"train_lr", &lr)]) {
            let (sum, n) = self.state.place.sums.entry((*name).to_owned()).or_default();
            *sum += value;
            *n += 1;
        }
        Ok(StepReport {
            step: self.state.place.step,
            epoch: place.epoch,
            train_lr: lr,
            losses,
            alpha,
            temp,
        })
    }

    #[expect(clippy::type_complexity, reason = "losses, gradients, features for the queues")]
    fn gradients(
        &self,
        part: &DataBatch,
        alpha: f64,
        seed: u64,
        place: &Place,
    ) -> Result<(Vec<Option<f64>>, Vec<Option<Tensor<1>>>, Option<Features>)> {
        let ops = Ops::for_device(self.state.online.device());
        let weights = self.state.online.tracked(ops.with_precision(self.config.precision));
        let context = Context {
            config: &self.config,
            model: &self.model,
            tokenizer: &self.tokenizer,
            momentum: &self.state.momentum,
            queues: &self.state.queues,
            distill: self.distill,
            alpha,
            seed,
            step: place.step,
        };
        let Losses { parts, features } = context.losses(self.objective, &weights, part)?;
        let mut found = Vec::with_capacity(parts.len());
        for (loss, value) in self.objective.losses().iter().zip(&parts) {
            let Some(value) = value else {
                found.push(None);
                continue;
            };
            let value = f64::from(values(value.clone().inner())[0]);
            if !value.is_finite() {
                let samples = part.samples.iter().take(4);
                let names: Vec<&str> =
                    samples.map(|i| self.data.samples()[*i].name.as_str()).collect();
                let batch = names.join(", ");
                let (step, epoch) = (place.step, place.epoch);
                return Err(Error::NotFinite { step, epoch, loss, value, batch });
            }
            found.push(Some(value));
        }
        let total = parts.into_iter().flatten().reduce(|a, b| a + b);
        let Some(total) = total else { return Err(Error::Config("no loss".into())) };
        let mut all = total.backward();
        let learn_temp = self.config.learn_temp;
        let entries = self.state.online.entries().iter();
        let gradients = entries
            .map(|p| {
                let leaf = weights.leaf(&p.name).filter(|_| learn_temp || p.name != "temp")?;
                leaf.value.grad_remove(&mut all)
            })
            .collect();
        Ok((found, gradients, features))
    }

    /// Writes the trained weights as a model folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn export(&self, folder: &Path, card: &str, keep_as: KeepAs) -> Result<()> {
        save_model_folder(folder, &self.model, &self.state.online, &self.vocabulary, card, keep_as)
    }

    /// The trained weights as a model for evaluation.
    ///
    /// # Errors
    /// Never for a consistent state.
    pub fn model(&self) -> Result<Albef> {
        let ops = Ops::for_device(self.state.online.device());
        Albef::new(&self.model, &self.state.online.untracked(ops))
    }
}

/// Pairs per second over the last steps.
#[derive(Default)]
struct Pace {
    recent: std::collections::VecDeque<(usize, f64)>,
}

impl Pace {
    fn add(&mut self, pairs: usize, seconds: f64) -> f64 {
        self.recent.push_back((pairs, seconds));
        if self.recent.len() > 30 {
            self.recent.pop_front();
        }
        let (n, t) = self.recent.iter().fold((0, 0.0), |(n, t), (a, b)| (n + a, t + b));
        n as f64 / t.max(1e-9)
    }
}
