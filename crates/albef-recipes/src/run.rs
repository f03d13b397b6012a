//! Running the steps of a plan.

use std::path::Path;
use std::time::Instant;

use albef::Control;
use albef::config::Source;
use albef::task::{PRETRAIN, TaskConfig, TaskRef};
use albef::train::{self as training, RunEvent, RunOptions, RunOutcome, RunReport};
use albef_weights::write_atomic;
use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::measure;
use crate::plan::Plan;
use crate::recipe::{Run, Step, config};
use crate::record::{Record, State, StepRecord};

/// Where the steps compute: the device, and its name in commands.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// The device.
    pub device: &'a albef::Device,
    /// Its name.
    pub name: &'a str,
}

/// What happens in a run, for those who show it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step begins, or is passed over since it is done already.
    Step {
        /// Its place, from 1.
        number: usize,
        /// Steps of the row.
        of: usize,
        /// Its name.
        name: &'a str,
        /// Whether an earlier run has done it.
        done: bool,
    },
    /// Training begins in a folder.
    Training(&'a Path),
    /// Of that training.
    Run(&'a RunEvent<'a>),
    /// Training has ended, well or not; a report if well.
    Trained(Option<&'a RunReport>),
    /// The run was stopped before its end.
    Stopped,
}

/// Whether each step would accept its settings, before the first one takes its time.
///
/// # Errors
/// The first that would not, with its name.
pub fn validate(plan: &Plan) -> Result<()> {
    for step in plan.steps() {
        let settings = plan.settings(step)?;
        let checked = match &step.run {
            Run::Evaluate(task) => measure::accepts(task, &settings),
            Run::Pretrain | Run::Finetune(_) => configured(step, &settings).map(drop),
        };
        checked.with_context(|| format!("in step `{}`", step.name))?;
    }
    Ok(())
}

/// The configuration of a training step.
fn configured(step: &Step, settings: &Map<String, Value>) -> Result<Box<dyn TaskConfig>> {
    let task = match &step.run {
        Run::Finetune(task) => TaskRef::named(task)?,
        _ => TaskRef::named(PRETRAIN)?,
    };
    let settings: Vec<String> =
        settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let source = Source { text: config(&step.config)?, settings: &settings, file: None };
    Ok(task.configure(source)?)
}

/// Runs what the record does not have yet, and says whether it came to its end; if not, it was cancelled by
/// `control` and can be continued.
///
/// # Errors
/// Of a step, with its name, or if the record cannot be written.
pub fn run(
    plan: &Plan,
    record: &mut Record,
    device: Device<'_>,
    control: &Control,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<bool> {
    let steps = plan.steps();
    for (i, step) in steps.iter().enumerate() {
        let done = record.step(&step.name).is_some_and(|s| s.state == State::Done);
        observer(Event::Step { number: i + 1, of: steps.len(), name: &step.name, done });
        if done {
            continue;
        }
        let settings = plan.settings(step)?;
        let mut command = command(plan, step, &settings);
        command.extend(["--device".to_owned(), device.name.to_owned()]);
        let mut entry = StepRecord {
            name: step.name.clone(),
            command,
            state: State::Running,
            seconds: 0.0,
            model: None,
            report: None,
        };
        record.put(entry.clone());
        record.write(&plan.output)?;
        let started = Instant::now();
        let ended = one(plan, step, &settings, &mut entry, device, control, observer)
            .with_context(|| format!("in step `{}`", step.name))?;
        entry.seconds = started.elapsed().as_secs_f64();
        entry.state = if ended { State::Done } else { State::Stopped };
        record.put(entry);
        record.compare(&plan.recipe);
        let stopped = control.is_cancelled() && i + 1 < steps.len();
        if !ended || stopped {
            record.state = State::Stopped;
            record.write(&plan.output)?;
            observer(Event::Stopped);
            return Ok(false);
        }
        record.write(&plan.output)?;
    }
    record.state = State::Done;
    record.compare(&plan.recipe);
    record.write(&plan.output)?;
    Ok(true)
}

/// The ordinary command of a step.
fn command(plan: &Plan, step: &Step, settings: &Map<String, Value>) -> Vec<String> {
    let mut words = vec!["albef".to_owned()];
    match &step.run {
        Run::Evaluate(task) => {
            return measure::command(task, &step.name, settings, &plan.output);
        }
        Run::Pretrain => words.push("pretrain".into()),
        Run::Finetune(task) => words.extend(["finetune".to_owned(), task.clone()]),
    }
    let file = plan.output.join(format!("{}.yaml", step.name));
    let folder = plan.output.join(&step.name);
    words.extend([file.display().to_string(), "--output".into(), folder.display().to_string()]);
    for (key, value) in settings {
        words.extend(["--set".to_owned(), format!("{key}={value}")]);
    }
    words
}

/// Runs a step; `false` if training was stopped.
fn one(
    plan: &Plan,
    step: &Step,
    settings: &Map<String, Value>,
    entry: &mut StepRecord,
    device: Device<'_>,
    control: &Control,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<bool> {
    if let Run::Evaluate(task) = &step.run {
        entry.report = Some(measure::run(task, &step.name, settings, &plan.output, device.device)?);
        return Ok(true);
    }
    let text = config(&step.config)?;
    let file = plan.output.join(format!("{}.yaml", step.name));
    write_atomic(&file, |f| std::io::Write::write_all(f, text.as_bytes()))?;
    let folder = plan.output.join(&step.name);
    let resume = folder.join("checkpoints").is_dir();
    let options = RunOptions::new(&folder).resume(resume).control(control.clone());
    let config = configured(step, settings)?;
    observer(Event::Training(&folder));
    let found =
        training::run(config, &options, device.device, &mut |event| observer(Event::Run(event)));
    observer(Event::Trained(found.as_ref().ok()));
    let ended = found?.outcome == RunOutcome::Done;
    if ended {
        entry.model = Some(plan.model_of(step));
    }
    Ok(ended)
}
