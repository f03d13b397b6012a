//! `albef evaluate`: a subcommand for each task that can be measured, with the options that the task
//! declares.

use std::path::{Path, PathBuf};

use albef::checkpoint::LoadedModel;
use albef::device::Precision;
use albef::eval::outcomes;
use albef::task::{Evaluation, EvaluationOptions, PRETRAIN, TASKS, TaskRef};
use albef_data::names;
use anyhow::{Context, Result};
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use serde_json::{Map, Value, json};

use crate::ExitStatus;
use crate::arguments::{as_place, place};
use crate::evaluate_vqa_results as vqa_results;
use crate::models::{ModelOptions, open_task_model, tell_default};
use crate::output::say;
use crate::progress::bar;
use crate::warnings::tell_notes;

const VQA_RESULTS: &str = "vqa-results";

/// What is measured.
pub enum Command {
    /// A model on the lists of a task.
    Model(Box<Measurement>),
    /// A file of answers, without a model.
    VqaResults(vqa_results::Arguments),
}

/// A model and the options of its evaluation.
pub struct Measurement {
    task: TaskRef,
    options: Map<String, Value>,
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    #[command(flatten)]
    model: ModelOptions,
    /// Write the results item by item here, for `albef compare`.
    #[arg(long, alias = "save", value_name = "FILE", value_parser = place())]
    save_outcomes: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

fn subcommand(task: TaskRef, options: &EvaluationOptions) -> clap::Command {
    let has_default_model = task.evaluates().contains(&PRETRAIN);
    // The documentation of flattened options would take the place of an earlier `about`.
    let mut command = Common::augment_args(clap::Command::new(task.name()))
        .about(task.about())
        .mut_arg("model", |arg| match has_default_model {
            true => arg.help("Model folder, weights file or run [default: `models/mini`]"),
            false => arg.help("Model folder, weights file or run").required(true),
        });
    for key in &options.section.keys {
        let name = key.name.clone();
        let default = match &key.default {
            Value::Null | Value::Bool(_) | Value::Array(_) => String::new(),
            Value::String(text) if text.is_empty() => String::new(),
            Value::String(text) => format!(" [default: {text}]"),
            other => format!(" [default: {other}]"),
        };
        let mut arg = Arg::new(name.clone())
            .value_name(name.to_uppercase())
            .long(name.replace('_', "-"))
            .help(format!("{}{default}", sentence(&key.doc)))
            .required(options.required.contains(&name.as_str()));
        arg = match key.default {
            Value::Bool(_) => arg.action(ArgAction::SetTrue),
            Value::Array(_) => arg.num_args(1..).value_name("FILE"),
            _ => arg,
        };
        arg = match name.as_str() {
            "rerank_k" => arg.alias("k"),
            "answer_scoring" => arg.alias("rank"),
            "results" | "clip_benchmark" => {
                arg.value_parser(|text: &str| as_place(text.into()).map(|_| text.to_owned()))
            }
            _ => arg,
        };
        command = command.arg(arg);
    }
    command
}

/// The documentation of a key with a capital letter.
fn sentence(doc: &str) -> String {
    let mut letters = doc.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// The options that were given.
fn given(options: &EvaluationOptions, matches: &ArgMatches) -> Map<String, Value> {
    let mut out = Map::new();
    for key in &options.section.keys {
        let name = key.name.as_str();
        let value = match key.default {
            Value::Bool(_) => matches.get_flag(name).then_some(json!(true)),
            Value::Array(_) => matches
                .get_many::<String>(name)
                .map(|values| Value::Array(values.map(|v| json!(v)).collect())),
            _ => matches.get_one::<String>(name).map(|v| json!(v)),
        };
        out.extend(value.map(|value| (name.to_owned(), value)));
    }
    out
}

impl clap::Subcommand for Command {
    fn augment_subcommands(mut command: clap::Command) -> clap::Command {
        for task in TASKS {
            if let Some(options) = task.evaluation_options() {
                command = command.subcommand(subcommand(task, &options));
            }
        }
        let results = clap::Command::new(VQA_RESULTS).about(vqa_results::ABOUT);
        command.subcommand(vqa_results::Arguments::augment_args(results)).subcommand_required(true)
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name == VQA_RESULTS || TaskRef::named(name).is_ok()
    }
}

impl FromArgMatches for Command {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let wrong = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(wrong)?;
        if name == VQA_RESULTS {
            return vqa_results::Arguments::from_arg_matches(matches).map(Self::VqaResults);
        }
        let task = TaskRef::named(name).map_err(|_| wrong())?;
        let options = task.evaluation_options().map(|o| given(&o, matches)).unwrap_or_default();
        let common = Common::from_arg_matches(matches)?;
        Ok(Self::Model(Box::new(Measurement { task, options, common })))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub fn run(command: &Command) -> Result<ExitStatus> {
    match command {
        Command::Model(measurement) => measure(measurement),
        Command::VqaResults(a) => vqa_results::run(a),
    }
}

fn measure(m: &Measurement) -> Result<ExitStatus> {
    let (task, common) = (m.task, &m.common);
    let ModelOptions { model, inference } = &common.model;
    let device = inference.device.open()?;
    let options = Value::Object(m.options.clone());
    let image_res = inference.image_res.or(task.evaluation_res(&options));
    let evaluator = task.evaluation(options)?;
    let (named, path) = (model.is_some(), albef::model_or_default(model.as_deref())?);
    let model = open_task_model(task, &path, image_res, &device)?;
    tell_default(named, &model.defaults);
    let (reader, precision) = (inference.images.lists(), inference.precision.on(&device));
    let model = LoadedModel { reader, precision, ..model };
    let mut found = evaluator.evaluate(&model, &bar())?;
    if precision == Precision::Bf16 {
        found.report["precision"] = json!("bf16");
    }
    found.tell();
    tell_notes(&model.reader);
    // The figures first: they are not lost where a file cannot be written.
    let printed = match common.json {
        true => say!("{}", found.report),
        false => found.lines.iter().try_for_each(|line| say!("{line}")),
    };
    let written = match m.options.get("results").and_then(Value::as_str) {
        Some(file) => write_answers(Path::new(file), &found),
        None => Ok(()),
    };
    let option = |name: &str| m.options.get(name).and_then(Value::as_str);
    let compared = match (option("clip_benchmark"), option("annotations")) {
        (Some(file), Some(list)) => write_clip_benchmark(Path::new(file), list, &path, &found),
        _ => Ok(()),
    };
    let saved = match (&common.save_outcomes, &found.outcomes) {
        (Some(file), Some(outcomes)) => save(file, outcomes),
        (Some(_), None) => {
            tracing::warn!("there are no answers to compare with: no outcomes are saved");
            Ok(())
        }
        (None, _) => Ok(()),
    };
    printed.and(written).and(compared).and(saved)?;
    Ok(ExitStatus::Yes)
}

fn save(file: &Path, found: &albef_report::Outcomes) -> Result<()> {
    outcomes::save(file, found)
        .with_context(|| format!("cannot write the outcomes to {}", file.display()))?;
    eprintln!("outcomes item by item: {}", file.display());
    Ok(())
}

fn write_clip_benchmark(file: &Path, list: &str, model: &Path, found: &Evaluation) -> Result<()> {
    let name = |path: &Path| names::text_of_os(path.file_stem().unwrap_or_default());
    found
        .write_clip_benchmark(file, &name(Path::new(list)), &name(model))
        .with_context(|| format!("cannot write the recalls to {}", file.display()))?;
    eprintln!("recalls as of CLIP_benchmark: {}", file.display());
    Ok(())
}

fn write_answers(path: &Path, found: &Evaluation) -> Result<()> {
    found
        .write_answers(path)
        .with_context(|| format!("cannot write the answers to {}", path.display()))?;
    eprintln!("wrote {} answers to {}", found.answers.len(), path.display());
    Ok(())
}
