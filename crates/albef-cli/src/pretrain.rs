//! `albef pretrain`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use albef::config::{FinetuneConfig, ModelConfig, PretrainConfig};
use albef::train::lock::FolderLock;
use albef::train::objective::Objective;
use albef::train::trainer::{Event, RunOutcome, StepReport, Trainer};
use albef_data::error::DataError;
use albef_report::{EventWriter, JsonLines, Series, curves_svg};
use albef_weights::{KeepAs, write_atomic};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Answer;
use crate::device::Where;
use crate::finetune::{CHOOSING, Lists, train_validated};
use crate::notes::{tell_left_out_of_training, tell_skipped_in_training};

#[derive(clap::Args)]
pub struct Arguments {
    /// Configuration (YAML) with the official keys.
    config: PathBuf,
    /// Folder of the run.
    #[arg(long)]
    output: PathBuf,
    /// Continue from the newest checkpoint of the folder.
    #[arg(long)]
    resume: bool,
    /// Change a value of the configuration; nested keys with a dot.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: Where,
}

pub fn run(a: &Arguments) -> Result<Answer> {
    let text = std::fs::read_to_string(&a.config)
        .with_context(|| format!("cannot read the configuration {}", a.config.display()))?;
    let config = PretrainConfig::parse(&text, &a.set)
        .with_context(|| format!("in {}", a.config.display()))?;
    let device = a.device.open()?;
    let _held = FolderLock::take(&a.output)?;
    let has_run = a.output.join("checkpoints").is_dir();
    if has_run && !a.resume {
        bail!(
            "{} already holds a run; continue it with --resume or choose another folder",
            a.output.display()
        );
    }
    let measuring = FinetuneConfig { base: config.clone(), ..FinetuneConfig::default() };
    let files = config.val_file.paths();
    let validation = Lists::open(&measuring, Objective::Pretrain, CHOOSING, &files)?;
    let trainer = match a.resume {
        true => Trainer::resuming(config, &a.output, &device)?,
        false => Trainer::new(config, &a.output, &device)?,
    };
    match train_validated(trainer, &a.output, a.resume, &measuring, validation)? {
        (_, RunOutcome::Done) => Ok(Answer::Yes),
        (_, RunOutcome::Interrupted | RunOutcome::Paused) => {
            eprintln!("saved; continue with --resume");
            Ok(Answer::No)
        }
    }
}

/// Sets the flag on the first interrupt; the second ends the program. All runs of a process share it,
/// since a handler can be set once.
pub fn stop_flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let set = || {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        // Without a handler an interrupt ends the program, as usual.
        let _ = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\nstopping after this step; once more to stop at once");
        });
        stop
    };
    FLAG.get_or_init(set).clone()
}

/// What is done with the weights at the end of each epoch.
pub type AfterEpoch<'a> = Option<&'a mut dyn FnMut(&Trainer) -> Result<()>>;

/// Trains with progress bar and logs, then exports the model to `output/model`. `after_epoch` is
/// called with the weights at the end of each epoch.
pub fn train(
    mut trainer: Trainer,
    output: &Path,
    resume: bool,
    after_epoch: AfterEpoch<'_>,
) -> Result<(Trainer, RunOutcome)> {
    if resume {
        restore(&mut trainer, output)?;
    }
    run_training(trainer, output, after_epoch)
}

/// Puts the newest checkpoint into the trainer, and says from where the run goes on.
pub fn restore(trainer: &mut Trainer, output: &Path) -> Result<()> {
    match trainer.resume()? {
        Some(notes) => {
            notes.iter().for_each(|note| eprintln!("note: {note}"));
            eprintln!("continuing after step {}", trainer.state.place.step);
        }
        None => {
            eprintln!(
                "there is no checkpoint in {}: starting from the beginning",
                output.display()
            );
        }
    }
    Ok(())
}

/// [`train`] from where the trainer stands. If that is the end of an epoch that was not measured
/// before the program ended, it is measured first: `after_epoch` is called at every such place and
/// knows what it has measured.
pub fn run_training(
    mut trainer: Trainer,
    output: &Path,
    mut after_epoch: AfterEpoch<'_>,
) -> Result<(Trainer, RunOutcome)> {
    std::fs::create_dir_all(output)
        .with_context(|| format!("cannot create {}", output.display()))?;
    let resolved = serde_json::to_string_pretty(&trainer.record()?)?;
    write_atomic(&output.join("config.json"), |f| {
        std::io::Write::write_all(f, resolved.as_bytes())
    })?;
    tell_left_out_of_training(trainer.without_captions(), trainer.left_out());
    let mut logs = Logs::open(output, &trainer)?;
    let stop = stop_flag();
    let started = Instant::now();
    let epoch = trainer.epoch_batches().div_ceil(trainer.config().accumulate).max(1) as u64;
    let mut to_the_end = || -> Result<RunOutcome> {
        measure_at_an_end(&trainer, &mut after_epoch)?;
        loop {
            if after_epoch.is_some() {
                trainer.pause_at((trainer.state.place.step / epoch + 1) * epoch);
            }
            let take = &mut |event: &Event<'_>| logs.take(event).map_err(albef::Error::io(output));
            let ended = trainer.run(&stop, take)?;
            if ended != RunOutcome::Interrupted {
                measure_at_an_end(&trainer, &mut after_epoch)?;
            }
            if ended != RunOutcome::Paused {
                return Ok(ended);
            }
        }
    };
    let ended = to_the_end();
    let finished = logs.finish();
    // The error about too many of them has the list.
    if !ended.as_ref().is_err_and(lists_skipped) {
        tell_skipped_in_training(&trainer.skipped());
    }
    let ended = ended?;
    finished?;
    if ended == RunOutcome::Done {
        let card = card(&trainer, Some(started.elapsed().as_secs_f64()));
        trainer.export(&output.join("model"), &card, KeepAs::Same)?;
        eprintln!("model: {}", output.join("model").display());
    }
    Ok((trainer, ended))
}

fn lists_skipped(error: &anyhow::Error) -> bool {
    let data = error
        .downcast_ref()
        .map(|e| matches!(e, albef::Error::Data(DataError::TooManySkipped { .. })));
    data.unwrap_or(false)
}

fn measure_at_an_end(trainer: &Trainer, after_epoch: &mut AfterEpoch<'_>) -> Result<()> {
    match after_epoch.as_mut().filter(|_| trainer.at_an_end()) {
        Some(after) => after(trainer),
        None => Ok(()),
    }
}

/// The model card; `seconds` of the last session, once it is over.
pub fn card(trainer: &Trainer, seconds: Option<f64>) -> String {
    let c = trainer.config();
    let time = seconds.map_or(String::new(), |s| format!(", {s:.0} s in the last session"));
    format!(
        "---\nlicense: bsd-3-clause\ntags: [albef, image-text-retrieval]\n---\n\n# {}\n\n{}\n\n\
         Trained ({:?}) for {} steps of {} pairs, seed {}{time}. {} The configuration lies beside the \
         run as `config.json`.\n\nFiles: `config.json` (sizes), `model.safetensors` (official weight \
         names), `vocab.txt` (word pieces).\n",
        title(trainer),
        sizes(trainer.model_config()),
        trainer.objective(),
        trainer.state.place.step,
        c.batch_size * c.accumulate,
        c.seed,
        origin(trainer),
    )
}

fn title(trainer: &Trainer) -> String {
    match trainer.tuning() {
        None => format!("ALBEF `{}`", trainer.config().preset),
        Some(_) => {
            format!("ALBEF for {}", albef::task_weights::task_name(trainer.objective().task()))
        }
    }
}

fn sizes(model: &ModelConfig) -> String {
    let (v, t) = (&model.vision, &model.text);
    format!(
        "Image encoder: {} blocks, {} wide, {} px in patches of {}. Text and fusion: {} layers, {} \
         wide, fusion from layer {} on, {} word pieces. Joint space: {} wide.",
        v.depth,
        v.width,
        v.image_res,
        v.patch,
        t.layers,
        t.hidden,
        t.fusion_layer,
        t.vocab_size,
        model.embed_dim
    )
}

/// From what the weights started.
fn origin(trainer: &Trainer) -> String {
    let c = trainer.config();
    let from: Vec<String> = match trainer.tuning() {
        Some(tuning) => vec![format!("`{}`", tuning.checkpoint)],
        None => [&c.init_albef, &c.init_vision, &c.init_text]
            .into_iter()
            .filter(|path| !path.is_empty())
            .map(|path| format!("`{path}`"))
            .collect(),
    };
    match &from[..] {
        [] => "Started from random weights.".into(),
        from => format!("Started from {}.", from.join(" and ")),
    }
}

/// The log of epochs with the lines of those below `epoch`.
fn epochs_before(path: &Path, epoch: u64) -> Result<JsonLines> {
    match epoch.checked_sub(1) {
        Some(last) => Ok(JsonLines::open(path, "epoch", last)?),
        // Not even the line of epoch 0 may stay.
        None => {
            if path.exists() {
                std::fs::remove_file(path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
            Ok(JsonLines::open(path, "epoch", 0)?)
        }
    }
}

struct Logs {
    bar: ProgressBar,
    steps: JsonLines,
    epochs: JsonLines,
    events: EventWriter,
    curves: Vec<Series>,
    output: PathBuf,
}

impl Logs {
    fn open(output: &Path, trainer: &Trainer) -> Result<Self> {
        let place = &trainer.state.place;
        let bar = ProgressBar::new(trainer.total_steps());
        let style = ProgressStyle::with_template(
            "{bar:24} {pos}/{len} steps, {elapsed} elapsed, {eta} left  {msg}",
        )?;
        bar.set_style(style);
        bar.set_position(place.step);
        bar.reset_eta();
        let path = output.join("log.jsonl");
        let steps = JsonLines::open(&path, "step", place.step)?;
        let epochs = epochs_before(&output.join("log.txt"), place.epoch)?;
        let mut curves: Vec<Series> = trainer
            .objective()
            .losses()
            .iter()
            .map(|n| Series { name: (*n).into(), points: vec![] })
            .collect();
        for line in std::fs::read_to_string(&path)?.lines() {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            for curve in &mut curves {
                let point = (value["step"].as_f64(), value[&curve.name].as_f64());
                if let (Some(x), Some(y)) = point {
                    curve.points.push((x, y));
                }
            }
        }
        let events = EventWriter::create(&output.join("tensorboard"))?;
        Ok(Self { bar, steps, epochs, events, curves, output: output.to_owned() })
    }

    fn take(&mut self, event: &Event<'_>) -> std::io::Result<()> {
        match event {
            Event::Step { report, pairs_per_second, .. } => {
                self.steps.write(report)?;
                self.points(report)?;
                self.bar.set_position(report.step);
                let losses = report.losses.iter().map(|(name, value)| {
                    format!("{} {value:.3}", name.trim_start_matches("train_"))
                });
                let losses = losses.collect::<Vec<_>>().join(" ");
                self.bar.set_message(format!("{losses}, {pairs_per_second:.1} pairs/s"));
                if self.bar.is_hidden() && report.step.is_multiple_of(50) {
                    let (step, lr) = (report.step, report.train_lr);
                    eprintln!("step {step} {losses} lr {lr:.2e} {pairs_per_second:.1} pairs/s");
                }
            }
            Event::Epoch { epoch, means } => {
                let mut line = serde_json::to_value(means)?;
                line["epoch"] = serde_json::json!(epoch);
                self.epochs.write(&line)?;
            }
            Event::Saved(_) => {
                self.events.flush()?;
                self.picture()?;
            }
        }
        Ok(())
    }

    fn points(&mut self, report: &StepReport) -> std::io::Result<()> {
        let step = report.step;
        for curve in &mut self.curves {
            if let Some(loss) = report.losses.get(curve.name.as_str()) {
                curve.points.push((step as f64, *loss));
                self.events.scalar(step, &curve.name, *loss)?;
            }
        }
        for (name, value) in &report.metrics {
            self.events.scalar(step, name, *value)?;
        }
        self.events.scalar(step, "train_lr", report.train_lr)?;
        self.events.scalar(step, "alpha", report.alpha)?;
        report.temp.map_or(Ok(()), |temp| self.events.scalar(step, "temp", temp))
    }

    fn picture(&self) -> std::io::Result<()> {
        let svg = curves_svg(&self.curves);
        write_atomic(&self.output.join("curves.svg"), |f| {
            std::io::Write::write_all(f, svg.as_bytes())
        })
        .map_err(std::io::Error::other)
    }

    fn finish(&mut self) -> Result<()> {
        self.bar.finish_and_clear();
        self.events.flush()?;
        self.picture()?;
        Ok(())
    }
}
