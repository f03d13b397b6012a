//! `albef pretrain` and `albef finetune`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use albef::Control;
use albef::config::Source;
use albef::task::{PRETRAIN, TASKS, TaskRef};
use albef::train::{RunEvent, RunOptions, RunOutcome, RunReport, Summary, run};
use albef_data::input::text_of_file;
use anyhow::{Context, Result};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};

use crate::ExitStatus;
use crate::device::DeviceArg;
use crate::output::say;

#[derive(clap::Args)]
pub struct PretrainArguments {
    #[command(flatten)]
    run: RunArguments,
}

#[derive(clap::Args)]
pub struct FinetuneArguments {
    /// The task.
    #[arg(value_parser = tasks())]
    task: TaskRef,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(clap::Args)]
struct RunArguments {
    /// Configuration (YAML) with the official keys. That of fine-tuning needs `checkpoint`, the model to start from, in
    /// it or by `--set`.
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
    device: DeviceArg,
}

/// The tasks to fine-tune for.
fn tasks() -> impl TypedValueParser<Value = TaskRef> {
    let tuned = TASKS.iter().filter(|task| task.name() != PRETRAIN);
    let values = tuned.map(|task| {
        PossibleValue::new(task.name()).help(task.about()).aliases(task.aliases().iter().copied())
    });
    PossibleValuesParser::new(values).try_map(|name| TaskRef::named(&name))
}

pub fn pretrain(a: &PretrainArguments) -> Result<ExitStatus> {
    train(TaskRef::pretrain(), &a.run)
}

pub fn finetune(a: &FinetuneArguments) -> Result<ExitStatus> {
    train(a.task, &a.run)
}

fn train(task: TaskRef, a: &RunArguments) -> Result<ExitStatus> {
    let bytes = std::fs::read(&a.config)
        .with_context(|| format!("cannot read the configuration {}", a.config.display()))?;
    let text = text_of_file(&a.config, &bytes)?;
    let config = task.configure(Source { text: &text, settings: &a.set, file: Some(&a.config) })?;
    let options = RunOptions::new(&a.output).resume(a.resume).control(interruptible());
    let mut progress = Progress::new(&a.output, &a.device.device);
    let found = run(config, &options, &a.device.open()?, &mut |event| progress.show(event));
    progress.finish();
    finish(found?)
}

/// Prints what was found on the test list.
fn finish(found: RunReport) -> Result<ExitStatus> {
    if found.outcome != RunOutcome::Done {
        eprintln!("saved; continue with --resume");
        return Ok(ExitStatus::No);
    }
    tell_test(&found);
    if let Some(test) = found.test {
        say!("{}", test.report)?;
    }
    Ok(ExitStatus::Yes)
}

/// The figures of the test list in words.
pub fn tell_test(found: &RunReport) {
    found.test.iter().flat_map(|test| &test.lines).for_each(|line| eprintln!("test: {line}"));
}

/// Cancelled by the first interrupt; the second ends the program. All runs of a process share it,
/// since a handler can be set once.
pub fn interruptible() -> Control {
    static CONTROL: OnceLock<Control> = OnceLock::new();
    let set = || {
        let control = Control::new();
        let flag = control.cancellation();
        // Without a handler an interrupt ends the program, as usual.
        let _ = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\nstopping at the next safe point; interrupt again to stop at once");
        });
        control
    };
    CONTROL.get_or_init(set).clone()
}

/// A run on standard error: what it is about to do, then a bar with losses and the time left. Where
/// there is no terminal, a line for the first and the tenth step, then every fifty.
pub struct Progress<'a> {
    bar: ProgressBar,
    output: PathBuf,
    device: &'a str,
}

impl<'a> Progress<'a> {
    pub fn new(output: &Path, device: &'a str) -> Self {
        Self { bar: ProgressBar::hidden(), output: output.to_owned(), device }
    }

    pub fn show(&mut self, event: &RunEvent<'_>) {
        match event {
            RunEvent::Started(summary) => self.start(summary),
            RunEvent::Step { report, pairs_per_second, .. } => {
                self.bar.set_position(report.step);
                let losses = report.losses.iter().map(|(name, value)| {
                    format!("{} {value:.3}", name.trim_start_matches("train_"))
                });
                let losses = losses.collect::<Vec<_>>().join(" ");
                self.bar.set_message(format!("{losses}, {pairs_per_second:.1} pairs/s"));
                let tells = report.step.is_multiple_of(50) || [1, 10].contains(&report.step);
                if self.bar.is_hidden() && tells {
                    let (step, lr) = (report.step, report.train_lr);
                    eprintln!("step {step} {losses} lr {lr:.2e} {pairs_per_second:.1} pairs/s");
                }
            }
            RunEvent::Validated { report, lines } => self.bar.suspend(|| {
                eprintln!("validation after epoch {}, step {}", report["epoch"], report["step"]);
                lines.iter().for_each(|line| eprintln!("  {line}"));
            }),
            RunEvent::Exported(folder) => {
                self.finish();
                eprintln!("model: {}", folder.display());
            }
        }
    }

    fn start(&mut self, s: &Summary) {
        let threads = rayon::current_num_threads();
        eprintln!(
            "{}: {} images, {:.1} M parameters, {threads} threads, device {}",
            s.task,
            s.samples,
            s.parameters as f64 / 1e6,
            self.device
        );
        let from = if s.step > 0 { format!("from step {} on, ", s.step) } else { String::new() };
        eprintln!("{from}{} steps of {} pairs; output {}", s.steps, s.batch, self.output.display());
        self.bar = ProgressBar::new(s.steps);
        let style = "{bar:16} {pos}/{len} steps, {eta} left  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.bar.set_style(style);
        }
        self.bar.set_position(s.step);
        self.bar.reset_eta();
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
