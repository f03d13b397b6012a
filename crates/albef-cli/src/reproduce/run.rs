//! Running the steps of a plan.

use std::time::Instant;

use albef::config::{FinetuneConfig, PretrainConfig};
use albef_weights::write_atomic;
use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};

use super::measure;
use super::plan::Plan;
use super::recipe::{Run, Step, config};
use super::record::{Record, State, StepRecord};
use crate::device::Where;
use crate::pretrain::stop_flag;
use crate::{Answer, finetune, pretrain};

#[derive(Parser)]
struct Pretrain {
    #[command(flatten)]
    arguments: pretrain::Arguments,
}

#[derive(Parser)]
struct Finetune {
    #[command(flatten)]
    arguments: finetune::Arguments,
}

/// Whether each step would accept its settings, before the first one takes its time.
pub fn validate(plan: &Plan) -> Result<()> {
    for step in plan.steps() {
        let settings = plan.settings(step)?;
        let own =
            || settings.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        let checked = match &step.run {
            Run::Evaluate(task) => measure::accepts(task, &settings),
            Run::Pretrain => {
                PretrainConfig::parse(config(&step.config)?, &own()).map(drop).map_err(Into::into)
            }
            Run::Finetune(task) => {
                let task = finetune::Task::from_str(task, false).map_err(anyhow::Error::msg)?;
                FinetuneConfig::parse(config(&step.config)?, &own(), task.objective())
                    .map(drop)
                    .map_err(Into::into)
            }
        };
        checked.with_context(|| format!("in step `{}`", step.name))?;
    }
    Ok(())
}

/// Runs what the record does not have yet; `No` if it was stopped.
pub fn run(plan: &Plan, record: &mut Record, place: &Where) -> Result<Answer> {
    let device = place.open()?;
    let stop = stop_flag();
    let steps = plan.steps();
    for (i, step) in steps.iter().enumerate() {
        if record.step(&step.name).is_some_and(|s| s.state == State::Done) {
            eprintln!("step {} of {}: {} is done", i + 1, steps.len(), step.name);
            continue;
        }
        eprintln!("step {} of {}: {}", i + 1, steps.len(), step.name);
        let settings = plan.settings(step)?;
        let mut command = command(plan, step, &settings)?;
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
        let ended = one(plan, step, &settings, &mut entry, &device)
            .with_context(|| format!("in step `{}`", step.name))?;
        entry.seconds = started.elapsed().as_secs_f64();
        entry.state = if ended == Answer::Yes { State::Done } else { State::Stopped };
        record.put(entry);
        record.compare(&plan.recipe);
        let stopped = stop.load(std::sync::atomic::Ordering::SeqCst) && i + 1 < steps.len();
        if ended == Answer::No || stopped {
            record.state = State::Stopped;
            record.write(&plan.output)?;
            eprintln!("stopped; continue with --resume");
            return Ok(Answer::No);
        }
        record.write(&plan.output)?;
    }
    record.state = State::Done;
    record.compare(&plan.recipe);
    record.write(&plan.output)?;
    Ok(Answer::Yes)
}

/// The ordinary command of a step.
fn command(plan: &Plan, step: &Step, settings: &Map<String, Value>) -> Result<Vec<String>> {
    let mut words = vec!["albef".to_owned()];
    match &step.run {
        Run::Evaluate(task) => {
            return Ok(measure::command(task, &step.name, settings, &plan.output));
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
    Ok(words)
}

fn one(
    plan: &Plan,
    step: &Step,
    settings: &Map<String, Value>,
    entry: &mut StepRecord,
    device: &Device,
) -> Result<Answer> {
    if let Run::Evaluate(task) = &step.run {
        entry.report = Some(measure::run(task, &step.name, settings, &plan.output, device)?);
        return Ok(Answer::Yes);
    }
    let text = config(&step.config)?;
    let file = plan.output.join(format!("{}.yaml", step.name));
    write_atomic(&file, |f| std::io::Write::write_all(f, text.as_bytes()))?;
    let mut words = entry.command.clone();
    if plan.output.join(&step.name).join("checkpoints").is_dir() {
        words.push("--resume".into());
    }
    // The parser counts the first word as the program's name.
    let ended = if step.run == Run::Pretrain {
        pretrain::run(&Pretrain::try_parse_from(&words[1..])?.arguments)?
    } else {
        finetune::run(&Finetune::try_parse_from(&words[1..])?.arguments)?
    };
    if ended == Answer::Yes {
        entry.model = Some(plan.model_of(step));
    }
    Ok(ended)
}
