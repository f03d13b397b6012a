//! The training loop.

mod resume;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use albef_data::dataset::{
    Batch, Dataset, LoaderOptions, SampleSet, SkipReport, Skipped, TrainLoader, batches_per_epoch,
};
use albef_data::error::DataError;
use albef_data::image::{ImageReader, Normalization, RandAugment, ReferenceQuirks, TrainTransform};
use albef_data::text::{Tokenizer, Vocabulary};
use albef_weights::{KeepAs, KeyReport};
use burn::tensor::Device;

use super::checkpoint::{self, Run, TrainState};
use super::identity::data_hash;
use super::kept::{self, ResumeMeta};
use super::report::Pace;
use super::report::{Event, RunOutcome, StepReport};
use super::schedule::Schedule;
use super::start::Start;
use super::step::{StepSettings, WITHOUT_GRADIENT, check_finite_losses, train_step};
use crate::Control;
use crate::checkpoint::{LoadedModel, save_answering};
use crate::config::{AugmentForm, MixGen, ModelConfig, TrainConfig};
use crate::defaults::ModelDefaults;
use crate::error::{Error, Result};
use crate::objectives::Objective;
use crate::objectives::masking::SpecialIds;
use crate::ops::Precision;
use crate::params::Params;
use crate::task::TaskConfig;

/// The folder of checkpoints in that of a run.
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// A training run of any task.
///
/// ```no_run
/// use albef::Control;
/// use albef::config::Source;
/// use albef::task::TaskRef;
/// use albef::convert::KeepAs;
/// use albef::train::Trainer;
///
/// # fn main() -> albef::Result<()> {
/// let text = std::fs::read_to_string("configs/nano.yaml").unwrap_or_default();
/// let settings = ["train_file=[list.json]".into()];
/// let source = Source { text: &text, settings: &settings, file: None };
/// let config = TaskRef::named("pretrain")?.configure(source)?;
/// let output = std::path::Path::new("run");
/// let mut trainer = Trainer::new(config, output, &albef::device::open("cpu")?)?;
/// trainer.run(&Control::new(), &mut |event| {
///     println!("{event:?}");
///     Ok(())
/// })?;
/// trainer.export(&output.join("model"), "# A small ALBEF", KeepAs::Same)?;
/// # Ok(())
/// # }
/// ```
pub struct Trainer {
    config: Box<dyn TaskConfig>,
    objective: Box<dyn Objective>,
    model: ModelConfig,
    data: Arc<Dataset>,
    tokenizer: Arc<Tokenizer>,
    vocabulary: String,
    device: Device,
    output: PathBuf,
    report: SkipReport,
    reader: ImageReader,
    pause: u64,
    start_notes: Vec<String>,
    /// What to say of the word pieces when the run goes on.
    vocabulary_note: Option<String>,
    data_hash: String,
    /// Answers among which the trained model chooses where none are given.
    answers: Vec<String>,
    /// Step of the newest checkpoint.
    saved: Option<u64>,
    /// Steps of this session with batches whose losses depend on no weight.
    without_gradient: u64,
    /// A batch of the last step, for [`check_finite_losses`].
    last: Option<Batch>,
    /// Everything that training changes.
    pub state: TrainState,
}

impl Trainer {
    /// Prepares a run: data, word pieces, starting weights. Nothing is written yet.
    ///
    /// # Errors
    /// If data, word pieces or starting weights cannot be read, or do not fit the task.
    pub fn new(config: Box<dyn TaskConfig>, output: &Path, device: &Device) -> Result<Self> {
        let data = config.open_data()?;
        Self::with_data(config, data, output, device)
    }

    /// Prepares to [`Trainer::resume`] a run: from its folder alone, if there is a checkpoint, since the
    /// models that it started from may be gone; else as [`Trainer::new`].
    ///
    /// # Errors
    /// As [`Trainer::new`], or if the checkpoint is damaged.
    pub fn resuming(config: Box<dyn TaskConfig>, output: &Path, device: &Device) -> Result<Self> {
        let data = config.open_data()?;
        let kept = kept::newest(&output.join(CHECKPOINTS))?;
        Self::prepare(config, data, output, device, kept)
    }

    /// [`Trainer::new`] on data at hand.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_data(
        config: Box<dyn TaskConfig>,
        data: Dataset,
        output: &Path,
        device: &Device,
    ) -> Result<Self> {
        Self::prepare(config, data, output, device, None)
    }

    fn prepare(
        mut config: Box<dyn TaskConfig>,
        data: Dataset,
        output: &Path,
        device: &Device,
        kept: Option<ResumeMeta>,
    ) -> Result<Self> {
        batches_per_epoch(data.len(), config.train().optim.batch_size).map_err(|e| match e {
            DataError::SmallerThanBatch { samples, batch, .. } => {
                let official = config.start().is_some_and(|s| s.batch_size_train.is_some());
                let key = if official { "batch_size_train" } else { "batch_size" };
                DataError::SmallerThanBatch { samples, batch, key }
            }
            other => other,
        })?;
        let (start, vocabulary_note) = match kept {
            Some(kept) => {
                let mut start = Start::kept(config.train(), kept, device)?;
                let (own, note) = config.resumed_vocabulary(&data, &start.vocabulary)?;
                start.vocabulary = own;
                (start, note)
            }
            None => (config.initialize(&data, device)?, None),
        };
        let Start { model, vocabulary, state, notes: start_notes } = start;
        if config.start().is_some() {
            let longest = &mut config.train_mut().data.max_tokens;
            *longest = (*longest).min(model.text.max_positions);
        }
        config.train().check_lengths(model.text.max_positions)?;
        Ok(Self {
            objective: config.objective(&data),
            answers: config.answers(&data)?,
            data_hash: data_hash(&data, &vocabulary)?,
            tokenizer: Arc::new(
                Tokenizer::new(Vocabulary::from_text(&vocabulary)?)
                    .processed(model.text.processing),
            ),
            data: Arc::new(data),
            reader: ImageReader::new(config.train().image.decode_options()),
            config,
            model,
            vocabulary,
            device: device.clone(),
            output: output.to_owned(),
            report: SkipReport::default(),
            pause: u64::MAX,
            start_notes,
            vocabulary_note,
            saved: None,
            without_gradient: 0,
            last: None,
            state,
        })
    }

    /// Lets [`Trainer::run`] return after this step, for instance to measure.
    pub fn pause_at(&mut self, step: u64) {
        self.pause = step;
    }

    /// Whether an epoch or the whole run ended with the last step.
    #[must_use]
    pub fn at_an_end(&self) -> bool {
        let place = &self.state.place;
        let epoch = place.batch == 0 || place.batch >= self.epoch_batches();
        place.step > 0 && (epoch || place.step >= self.total_steps())
    }

    /// The epoch of the last step, from 0; `None` before the first step.
    #[must_use]
    pub fn last_epoch(&self) -> Option<u64> {
        let place = &self.state.place;
        (place.step > 0).then(|| place.epoch.saturating_sub(u64::from(place.batch == 0)))
    }

    fn checkpoints(&self) -> PathBuf {
        self.output.join(CHECKPOINTS)
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

    /// What a user should know about the checkpoint that a run starts from: what was left aside, what
    /// starts fresh, what was resized; one line for each kind of fact.
    #[must_use]
    pub fn start_notes(&self) -> &[String] {
        &self.start_notes
    }

    /// The word pieces of the run, one per line.
    #[must_use]
    pub fn vocabulary(&self) -> &str {
        &self.vocabulary
    }

    /// Names of the losses, in the order in which they are added up.
    #[must_use]
    pub fn losses(&self) -> &'static [&'static str] {
        self.objective.losses()
    }

    /// The task with its configuration.
    #[must_use]
    pub fn config(&self) -> &dyn TaskConfig {
        &*self.config
    }

    /// Samples of the training data.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.data.len()
    }

    /// Images that were skipped so far.
    #[must_use]
    pub fn skipped(&self) -> Vec<Skipped> {
        self.report.unusable()
    }

    /// Images of the data that are left out because they have no caption.
    #[must_use]
    pub fn without_captions(&self) -> usize {
        self.data.without_captions()
    }

    /// Members of archives that are left out because they form no sample.
    #[must_use]
    pub fn left_out(&self) -> &[Skipped] {
        self.data.left_out()
    }

    /// How training and evaluation read images, with what was noted of those that were read.
    #[must_use]
    pub fn reader(&self) -> &ImageReader {
        &self.reader
    }

    /// What a user should know about the sources of the data.
    #[must_use]
    pub fn data_notes(&self) -> &[String] {
        self.data.notes()
    }

    /// Steps of this session with batches whose losses depend on no weight.
    #[must_use]
    pub fn steps_without_gradient(&self) -> u64 {
        self.without_gradient
    }

    /// Batches of an epoch.
    #[must_use]
    pub fn epoch_batches(&self) -> usize {
        self.data.len() / self.config.train().optim.batch_size
    }

    /// Optimizer steps of the whole run.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        self.steps_of(self.config.train())
    }

    fn steps_of(&self, config: &TrainConfig) -> u64 {
        let optim = &config.optim;
        let per_epoch = self.epoch_batches().div_ceil(optim.grad_accum_steps) as u64;
        let all = per_epoch * optim.schedular.epochs;
        match optim.max_steps {
            0 => all,
            limit => limit.min(all),
        }
    }

    /// Ends the run after this many steps in all.
    pub fn set_max_steps(&mut self, steps: u64) {
        self.config.train_mut().optim.max_steps = steps;
    }

    fn loader(&self) -> Result<TrainLoader> {
        let c = self.config.train();
        let pairs = self.config.pairs();
        let (n, m) = c.image.rand_augment;
        let augment = &c.image.augment;
        let options = LoaderOptions {
            batch_size: c.optim.batch_size,
            seed: c.data.seed,
            text: self.config.text_rule(),
            epoch: self.state.place.epoch,
            start_batch: self.state.place.batch,
            workers: c.data.num_workers,
            max_words: c.data.max_words,
            max_tokens: c.data.max_tokens,
            mixgen: pairs.map_or_else(MixGen::default, |p| p.mixgen.clone()),
            image_index: pairs.is_some_and(|p| p.image_index),
            transform: TrainTransform {
                size: self.model.vision.image_res,
                crop_scale: c.image.crop_scale,
                flip: c.image.flip,
                rand_augment: (n > 0).then_some(RandAugment { n, m }),
                quirks: ReferenceQuirks {
                    autocontrast: augment.autocontrast == AugmentForm::Reference,
                    sharpness: augment.sharpness == AugmentForm::Reference,
                },
                resize_order: c.image.resize_order,
            },
            flip_sided: c.image.flip_with_side_words,
            normalization: Normalization::default(),
            reader: self.reader.clone(),
            max_skipped: usize::try_from(c.data.max_skipped).ok(),
        };
        let (data, tokenizer) = (self.data.clone(), self.tokenizer.clone());
        Ok(TrainLoader::new(data, tokenizer, options, self.report.clone())?)
    }

    fn step_settings(&self) -> StepSettings {
        self.settings_of(self.config.train())
    }

    fn settings_of(&self, c: &TrainConfig) -> StepSettings {
        let v = self.tokenizer.vocabulary();
        let cosine = c.schedule();
        let schedule = match c.optim.schedular.sched.as_str() {
            "per_step" => {
                let warmup_steps = c.optim.schedular.warmup_steps;
                let total_steps = self.steps_of(c);
                Schedule::PerStep { cosine, warmup_steps, total_steps }
            }
            _ => Schedule::Official(cosine),
        };
        let momentum = self.config.momentum().cloned().unwrap_or_default();
        StepSettings {
            model: self.model.clone(),
            special: SpecialIds { pad: v.pad, cls: v.cls, mask: v.mask },
            schedule,
            alpha: momentum.alpha,
            warm_up: self.config.warm_up(),
            momentum: momentum.momentum,
            train_temp: self.config.pairs().is_none_or(|p| p.train_temp),
            precision: c.optim.precision,
            seed: c.data.seed,
            grad_accum_steps: c.optim.grad_accum_steps,
            batches_per_epoch: self.epoch_batches(),
            replay: None,
        }
    }

    /// Trains to the end, or until `control` is cancelled, telling `observe` what happens. Checkpoints are
    /// written on the way and at the end.
    ///
    /// # Errors
    /// If data cannot be read, a loss or weight is not finite, or a checkpoint cannot be written;
    /// older checkpoints are then untouched.
    pub fn run(
        &mut self,
        control: &Control,
        observe: &mut dyn FnMut(&Event<'_>) -> Result<()>,
    ) -> Result<RunOutcome> {
        let total = self.total_steps();
        let end = total.min(self.pause);
        let mut pace = Pace::default();
        // Checkpoints of older versions may stand between the last step of an epoch and its end.
        self.close_epoch(observe)?;
        while self.state.place.step < end {
            let mut loader = self.loader()?;
            let epoch = self.state.place.epoch;
            while self.state.place.step < end && self.state.place.epoch == epoch {
                let started = Instant::now();
                let (report, pairs) = self.next_step(&mut loader)?;
                let pairs_per_second = pace.add(pairs, started.elapsed().as_secs_f64());
                observe(&Event::Step { report, total, pairs_per_second })?;
                let closed = self.close_epoch(observe)?;
                let stopping = control.is_cancelled();
                if stopping || self.is_save_due(closed) {
                    self.save(observe)?;
                }
                if stopping {
                    return Ok(RunOutcome::Interrupted);
                }
            }
        }
        if end < total {
            return Ok(RunOutcome::Paused);
        }
        if self.saved != Some(self.state.place.step) {
            self.save(observe)?;
        }
        Ok(RunOutcome::Done)
    }

    fn next_step(&mut self, loader: &mut TrainLoader) -> Result<(StepReport, usize)> {
        let left = loader.batches() - self.state.place.batch;
        let mut batches = Vec::new();
        for _ in 0..self.config.train().optim.grad_accum_steps.min(left) {
            batches.extend(loader.next_batch()?);
        }
        let (settings, objective) = (self.step_settings(), self.objective.as_ref());
        let report = train_step(&mut self.state, objective, &batches, &settings, &mut ());
        let report = report.map_err(|e| self.with_names(e))?;
        if report.metrics.contains_key(WITHOUT_GRADIENT) {
            if self.without_gradient == 0 {
                tracing::warn!(
                    "step {}: no loss depends on the weights, which it leaves as they are; with masked \
                     language modeling alone this is a batch without a masked token",
                    report.step
                );
            }
            self.without_gradient += 1;
        }
        let pairs = batches.len() * self.config.train().optim.batch_size;
        self.last = batches.into_iter().next();
        Ok((report, pairs))
    }

    /// Puts the names of samples in the place of their numbers.
    fn with_names(&self, error: Error) -> Error {
        let Error::NotFinite { step, epoch, what, samples, .. } = error else { return error };
        let name = |i: &usize| match self.data.sample(*i) {
            Ok(sample) => sample.name.clone(),
            Err(_) => format!("sample {i}"),
        };
        let names: Vec<String> = samples.iter().map(name).collect();
        Error::NotFinite { step, epoch, what, batch: names.join(", "), samples }
    }

    /// Goes on to the next epoch if all batches of this one are done, so that no checkpoint stands
    /// between an epoch's last step and its end.
    fn close_epoch(&mut self, observe: &mut dyn FnMut(&Event<'_>) -> Result<()>) -> Result<bool> {
        if self.state.place.batch < self.epoch_batches() {
            return Ok(false);
        }
        let sums = std::mem::take(&mut self.state.place.sums);
        let mean = |(name, (sum, n)): (String, (f64, u64))| (name, sum / n.max(1) as f64);
        let means = sums.into_iter().map(mean).collect();
        observe(&Event::Epoch { epoch: self.state.place.epoch, means })?;
        self.state.place.epoch += 1;
        self.state.place.batch = 0;
        Ok(true)
    }

    fn is_save_due(&self, epoch_closed: bool) -> bool {
        match self.config.train().checkpoints.checkpoint_every {
            0 => epoch_closed,
            every => self.state.place.step.is_multiple_of(every),
        }
    }

    fn save(&mut self, observe: &mut dyn FnMut(&Event<'_>) -> Result<()>) -> Result<()> {
        if let Some(batch) = &self.last {
            let epoch = self.last_epoch().unwrap_or(self.state.place.epoch);
            let (objective, settings) = (self.objective.as_ref(), self.step_settings());
            check_finite_losses(&self.state, objective, batch, &settings, epoch)
                .map_err(|e| self.with_names(e))?;
        }
        let run =
            Run { identity: &self.identity(), model: &self.model, vocabulary: &self.vocabulary };
        let (folder, keep) = (self.checkpoints(), self.config.train().checkpoints.keep_last_n);
        let path = checkpoint::save_of_run(&folder, &self.state, Some(run), keep)?;
        self.saved = Some(self.state.place.step);
        observe(&Event::Saved(&path))
    }

    /// Writes the trained weights as a model folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn export(&self, folder: &Path, card: &str, keep_as: KeepAs) -> Result<()> {
        let (model, weights) = (&self.model, &self.state.online);
        save_answering(folder, model, weights, &self.vocabulary, card, keep_as, &self.answers)
    }

    /// The trained weights as a model for evaluation.
    #[must_use]
    pub fn loaded(&self) -> LoadedModel {
        LoadedModel {
            has_contrast: true,
            task: self.config.task(),
            config: self.model.clone(),
            vocabulary: self.vocabulary.clone(),
            online: self.state.online.clone(),
            momentum: Params::new(&self.device),
            queues: None,
            report: KeyReport::default(),
            config_inferred: false,
            folder: self.output.clone(),
            defaults: ModelDefaults { answers: self.answers.clone(), ..ModelDefaults::default() },
            reader: self.reader.clone(),
            precision: Precision::F32,
        }
    }
}
