//! A whole training run in its folder: the loop with its logs, the best weights by validation, the model
//! at the end, and the test.
//!
//! A run's folder has `config.json` (all keys), `log.jsonl` (steps), `log.txt` (epochs), `tensorboard/`,
//! `curves.svg`, `checkpoints/`, and at the end `model/`; with a validation list also
//! `validation.jsonl`, `best/` and `outcomes.json`. The formats are in docs/src/reference/log.md.

mod best;
mod card;
mod chance;
mod logs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use albef_data::dataset::{Skipped, verify_manifest};
use albef_data::error::DataError;
use albef_data::names::path_of;
use albef_weights::{KeepAs, write_atomic};
use burn::tensor::Device;
use serde_json::{Value, json};

use self::best::Best;
pub(crate) use self::best::FOLDER as BEST;
use self::chance::Matching;
use self::logs::Logs;
use super::lock::FolderLock;
use super::report::{Event, RunOutcome, StepReport};
use super::trainer::Trainer;
use crate::Control;
use crate::checkpoint::{Checkpoint, LoadedModel, Parts};
use crate::error::{Error, Result};
use crate::task::{EvalKey, Evaluation, Evaluator, TaskConfig, left_out};

/// The folder of a run and how it is controlled.
#[derive(Clone, Debug)]
pub struct RunOptions {
    output: PathBuf,
    resume: bool,
    control: Control,
}

impl RunOptions {
    /// A new run in a folder that holds none.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        Self { output: output.into(), resume: false, control: Control::new() }
    }

    /// Whether to continue from the newest checkpoint of the folder.
    #[must_use]
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Cancelled, the run saves and ends after the step at hand; the same call with
    /// [`RunOptions::resume`] continues it.
    #[must_use]
    pub fn control(mut self, control: Control) -> Self {
        self.control = control;
        self
    }
}

/// What a run is about to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The name of the task.
    pub task: &'static str,
    /// Samples of the training data.
    pub samples: usize,
    /// Weights that are trained.
    pub parameters: usize,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Steps that are done already.
    pub step: u64,
    /// Pairs of an optimizer step.
    pub batch: usize,
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum RunEvent<'a> {
    /// Data and weights are ready.
    Started(&'a Summary),
    /// A step is done.
    Step {
        /// Its losses.
        report: &'a StepReport,
        /// Steps of the whole run.
        total: u64,
        /// Pairs handled per second, lately.
        pairs_per_second: f64,
    },
    /// The validation list was measured.
    Validated {
        /// The figures with epoch, step and `score`.
        report: &'a Value,
        /// The figures for people, line by line.
        lines: &'a [String],
    },
    /// The model was written to this folder.
    Exported(&'a Path),
}

/// How a run ended.
#[derive(Debug)]
pub struct RunReport {
    /// Whether all steps are done.
    pub outcome: RunOutcome,
    /// What was found on the test list, with `weights` (`best` or `last`) and their epoch.
    pub test: Option<Evaluation>,
}

/// Trains by a configuration, in a folder of its own.
///
/// ```no_run
/// use albef::config::Source;
/// use albef::task::TaskRef;
/// use albef::train::{RunEvent, RunOptions, run};
///
/// # fn main() -> albef::Result<()> {
/// let settings = ["checkpoint=models/mini".into(), "train_file=[train.json]".into()];
/// let source = Source { settings: &settings, ..Source::default() };
/// let config = TaskRef::named("retrieval")?.configure(source)?;
/// run(config, &RunOptions::new("run"), &albef::device::open("cpu")?, &mut |event| {
///     if let RunEvent::Step { report, .. } = event {
///         println!("step {}: {:?}", report.step, report.losses);
///     }
/// })?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the folder holds another run or is in use, data or weights cannot be read or do not fit, a loss or
/// weight is not finite, or a file cannot be written. Earlier checkpoints are then untouched.
pub fn run(
    config: Box<dyn TaskConfig>,
    options: &RunOptions,
    device: &Device,
    observe: &mut dyn FnMut(&RunEvent<'_>),
) -> Result<RunReport> {
    let output = options.output.as_path();
    let _held = FolderLock::take(output)?;
    if output.join(super::trainer::CHECKPOINTS).is_dir() && !options.resume {
        return Err(Error::Argument(format!(
            "{} already holds a run; continue it with --resume or choose another folder",
            output.display()
        )));
    }
    config.notes().iter().for_each(|note| tracing::info!("{note}"));
    verify_data(&config.train().data.data_manifest, &options.control)?;
    let validation = config.evaluator(EvalKey::Val)?;
    let test = config.evaluator(EvalKey::Test)?;
    let mut trainer = match options.resume {
        true => Trainer::resuming(config, output, device)?,
        false => Trainer::new(config, output, device)?,
    };
    trainer.start_notes().iter().for_each(|note| tracing::info!("{note}"));
    let warnings = trainer.config().warnings(trainer.total_steps());
    warnings.iter().for_each(|line| tracing::warn!("{line}"));
    if options.resume {
        restore(&mut trainer, output)?;
    }
    observe(&RunEvent::Started(&summary(&trainer)));
    let chosen = validation.is_some();
    let matching = Matching::default();
    let mut session = Session { trainer, output, validation, best: None, matching, observe };
    let outcome = session.train(&options.control)?;
    let Session { trainer, .. } = session;
    let test = match test.filter(|_| outcome == RunOutcome::Done) {
        Some(lists) => Some(tested(&*lists, &trainer, output, chosen)?),
        None => None,
    };
    Ok(RunReport { outcome, test })
}

fn summary(trainer: &Trainer) -> Summary {
    let optim = &trainer.config().train().optim;
    Summary {
        task: trainer.config().task().name(),
        samples: trainer.samples(),
        parameters: trainer.state.online.count(),
        steps: trainer.total_steps(),
        step: trainer.state.place.step,
        batch: optim.batch_size * optim.grad_accum_steps,
    }
}

/// Puts the newest checkpoint into the trainer, and says from where the run goes on.
fn restore(trainer: &mut Trainer, output: &Path) -> Result<()> {
    match trainer.resume()? {
        Some(notes) => {
            notes.iter().for_each(|note| tracing::info!("{note}"));
            tracing::info!("continuing after step {}", trainer.state.place.step);
        }
        None => tracing::info!(
            "there is no checkpoint in {}: starting from the beginning",
            output.display()
        ),
    }
    Ok(())
}

/// A run between its start and its end.
struct Session<'a> {
    trainer: Trainer,
    output: &'a Path,
    validation: Option<Box<dyn Evaluator>>,
    best: Option<Best>,
    matching: Matching,
    observe: &'a mut dyn FnMut(&RunEvent<'_>),
}

impl Session<'_> {
    fn train(&mut self, control: &Control) -> Result<RunOutcome> {
        let output = self.output;
        std::fs::create_dir_all(output).map_err(Error::io(output))?;
        let resolved = serde_json::to_string_pretty(&self.trainer.config().record())
            .map_err(|e| Error::Config(e.to_string()))?;
        write_atomic(&output.join("config.json"), |f| f.write_all(resolved.as_bytes()))?;
        self.trainer.data_notes().iter().for_each(|note| tracing::info!("{note}"));
        report_left_out(self.trainer.without_captions(), self.trainer.left_out());
        if self.validation.is_some() {
            self.best = Some(Best::open(output, &self.trainer)?);
        }
        let mut logs = Logs::open(output, &self.trainer)?;
        let started = Instant::now();
        let ended = self.run_to_end(control, &mut logs);
        let finished = logs.finish();
        // The error about too many of them has the list.
        let listed = matches!(ended, Err(Error::Data(DataError::TooManySkipped { .. })));
        if !listed {
            report_skipped(&self.trainer.skipped());
        }
        self.trainer.reader().lines().iter().for_each(|line| tracing::info!("{line}"));
        let ended = ended?;
        finished?;
        let steps = self.trainer.steps_without_gradient();
        if steps > 0 {
            tracing::warn!("{steps} steps had batches whose losses depend on no weight");
        }
        if ended == RunOutcome::Done {
            if let Some(line) = self.matching.at_chance() {
                tracing::warn!("{line}");
            }
            let folder = output.join("model");
            let card = card::card(&self.trainer, Some(started.elapsed().as_secs_f64()));
            self.trainer.export(&folder, &card, KeepAs::Same)?;
            (self.observe)(&RunEvent::Exported(&folder));
        }
        Ok(ended)
    }

    /// An end of an epoch that was not measured before the program ended is measured first.
    fn run_to_end(&mut self, control: &Control, logs: &mut Logs) -> Result<RunOutcome> {
        let accumulate = self.trainer.config().train().optim.grad_accum_steps;
        let epoch = self.trainer.epoch_batches().div_ceil(accumulate).max(1) as u64;
        self.validate_at_an_end()?;
        loop {
            if self.validation.is_some() {
                self.trainer.pause_at((self.trainer.state.place.step / epoch + 1) * epoch);
            }
            let Self { trainer, observe, output, matching, .. } = self;
            let ended = trainer.run(control, &mut |event| {
                if let Event::Step { report, total, pairs_per_second } = event {
                    let (total, pairs_per_second) = (*total, *pairs_per_second);
                    matching.take(report);
                    observe(&RunEvent::Step { report, total, pairs_per_second });
                }
                logs.take(event).map_err(Error::io(*output))
            })?;
            if ended != RunOutcome::Interrupted {
                self.validate_at_an_end()?;
            }
            if ended != RunOutcome::Paused {
                return Ok(ended);
            }
        }
    }

    fn validate_at_an_end(&mut self) -> Result<()> {
        let (Some(lists), Some(best)) = (&self.validation, &mut self.best) else { return Ok(()) };
        if !self.trainer.at_an_end() || best.has_measured(&self.trainer) {
            return Ok(());
        }
        let mut found = lists.evaluate(&self.trainer.loaded(), &Control::default())?;
        found.tell();
        found.report["score"] = json!(found.score);
        found.report["epoch"] = json!(self.trainer.last_epoch());
        found.report["step"] = json!(self.trainer.state.place.step);
        (self.observe)(&RunEvent::Validated { report: &found.report, lines: &found.lines });
        best.take(&self.trainer, &found.report, found.outcomes.as_ref())
    }
}

/// Looks at the test list once, with the weights that were `chosen` by validation, else with the last
/// ones. Questions without known answers are answered in a file for the evaluation server.
fn tested(
    lists: &dyn Evaluator,
    trainer: &Trainer,
    output: &Path,
    chosen: bool,
) -> Result<Evaluation> {
    let (model, epoch) = match chosen {
        true => (best_model(trainer, output)?, best::score(output)?["epoch"].clone()),
        false => (trainer.loaded(), json!(trainer.last_epoch())),
    };
    let mut found = lists.evaluate(&model, &Control::default())?;
    found.tell();
    let weights = if chosen { "best" } else { "last" };
    if lists.is_for_server() {
        let name = format!("{}_result_epoch{epoch}.json", trainer.config().task().name());
        let folder = output.join("result");
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = folder.join(name);
        found.write_answers(&path)?;
        found.report["results"] = json!(path);
        found.lines.push(format!("{} answers: {}", found.answers.len(), path.display()));
    }
    if let Some(score) = found.score {
        found.report["score"] = json!(score);
    }
    found.report["weights"] = json!(weights);
    found.lines.push(format!("weights: {weights}, epoch {epoch}"));
    found.report["epoch"] = epoch;
    Ok(found)
}

fn best_model(trainer: &Trainer, output: &Path) -> Result<LoadedModel> {
    let accepted = [trainer.config().task()];
    let device = trainer.state.online.device();
    let model = Checkpoint::open(&output.join(BEST))?.load(&accepted, device, Parts::Inference)?;
    Ok(LoadedModel { reader: trainer.reader().clone(), ..model })
}

/// Counts the samples that a training run leaves out, and names the first.
fn report_left_out(without_captions: usize, skipped: &[Skipped]) {
    if without_captions > 0 {
        tracing::info!("{without_captions} images without a caption are left out");
    }
    left_out(skipped).iter().for_each(|line| tracing::warn!("{line}"));
}

/// Compares the files of the data with their manifest, if there is one.
fn verify_data(manifest: &str, control: &Control) -> Result<()> {
    if manifest.is_empty() {
        return Ok(());
    }
    let workers = rayon::current_num_threads();
    let found = verify_manifest(&path_of(manifest), workers, control);
    let files = found.map_err(Error::of_key("data_manifest"))?;
    tracing::info!("{files} files are as {manifest} says");
    Ok(())
}

/// Counts the images that a run could not use, and names them all: they are to be mended.
fn report_skipped(skipped: &[Skipped]) {
    if !skipped.is_empty() {
        tracing::warn!("{} images could not be used, others were taken for them", skipped.len());
        skipped.iter().for_each(|s| tracing::warn!("skipped {}: {}", s.name, s.error));
    }
}
