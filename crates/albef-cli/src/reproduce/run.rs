//! Running the steps of a plan.

use std::time::Instant;

use albef::Device;
use albef::config::Source;
use albef::task::{PRETRAIN, TaskConfig, TaskRef};
use albef::train::{self as training, RunOptions};
use albef_weights::write_atomic;
use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::measure;
use crate::ExitStatus;
use crate::device::DeviceArg;
use crate::train::{Progress, finish, interruptible};
use albef_recipes::plan::Plan;
use albef_recipes::recipe::{Run, Step, config};
use albef_recipes::record::{Record, State, StepRecord};

/// Whether each step would accept its settings, before the first one takes its time.
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

/// Runs what the record does not have yet; `No` if it was stopped.
pub fn run(plan: &Plan, record: &mut Record, place: &DeviceArg) -> Result<ExitStatus> {
    let device = place.open()?;
    let control = interruptible();
    let steps = plan.steps();
    for (i, step) in steps.iter().enumerate() {
        if record.step(&step.name).is_some_and(|s| s.state == State::Done) {
            eprintln!("step {} of {}: {} is done", i + 1, steps.len(), step.name);
            continue;
        }
        eprintln!("step {} of {}: {}", i + 1, steps.len(), step.name);
        let settings = plan.settings(step)?;
        let mut command = command(plan, step, &settings);
        command.extend(["--device".to_owned(), place.device.clone()]);
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
        let ended = one(plan, step, &settings, &mut entry, (place, &device))
            .with_context(|| format!("in step `{}`", step.name))?;
        entry.seconds = started.elapsed().as_secs_f64();
        entry.state = if ended == ExitStatus::Yes { State::Done } else { State::Stopped };
        record.put(entry);
        record.compare(&plan.recipe);
        let stopped = control.is_cancelled() && i + 1 < steps.len();
        if ended == ExitStatus::No || stopped {
            record.state = State::Stopped;
            record.write(&plan.output)?;
            eprintln!("stopped; continue with --resume");
            return Ok(ExitStatus::No);
        }
        record.write(&plan.output)?;
    }
    record.state = State::Done;
    record.compare(&plan.recipe);
    record.write(&plan.output)?;
    Ok(ExitStatus::Yes)
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

fn one(
    plan: &Plan,
    step: &Step,
    settings: &Map<String, Value>,
    entry: &mut StepRecord,
    (place, device): (&DeviceArg, &Device),
) -> Result<ExitStatus> {
    if let Run::Evaluate(task) = &step.run {
        entry.report = Some(measure::run(task, &step.name, settings, &plan.output, device)?);
        return Ok(ExitStatus::Yes);
    }
    let text = config(&step.config)?;
    let file = plan.output.join(format!("{}.yaml", step.name));
    write_atomic(&file, |f| std::io::Write::write_all(f, text.as_bytes()))?;
    let folder = plan.output.join(&step.name);
    let resume = folder.join("checkpoints").is_dir();
    let options = RunOptions::new(&folder).resume(resume).control(interruptible());
    let mut progress = Progress::new(&folder, &place.device);
    let config = configured(step, settings)?;
    let found = training::run(config, &options, device, &mut |event| progress.show(event));
    progress.finish();
    let ended = finish(found?)?;
    if ended == ExitStatus::Yes {
        entry.model = Some(plan.model_of(step));
    }
    Ok(ended)
}
