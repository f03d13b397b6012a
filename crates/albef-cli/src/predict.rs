//! `albef ask`, `entail` and `reason`, and `albef predict` for a model of any task.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use albef::checkpoint::{Checkpoint, LoadedModel, Parts};
use albef::eval::answers::RankRule;
use albef::task::{Prediction, Query, TaskRef, answer_list};
use albef::{Error, ModelDefaults, note_inferred, question_model};
use albef_data::names::{readable, text_of_path};
use anyhow::{Context, Result};

use crate::ExitStatus;
use crate::arguments::{at_least_one, named, words};
use crate::models::{InferenceOptions, check_image, image_file, open_task_model, tell_default};
use crate::output::say;
use crate::warnings::tell_notes;

#[derive(clap::Args)]
struct ModelArguments {
    /// Model folder, weights file or run, as `albef finetune` makes it.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    usage: Usage,
}

#[derive(clap::Args)]
struct Usage {
    #[command(flatten)]
    inference: InferenceOptions,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct AnswerArguments {
    /// Answers to show.
    #[arg(long = "top-k", alias = "top", default_value_t = 5, value_name = "N", value_parser = at_least_one)]
    top_k: usize,
    /// Candidates that are scored in full.
    #[arg(long, alias = "k", default_value_t = 128, value_parser = at_least_one)]
    rerank_k: usize,
    /// How candidates are scored: `reference` as the official code (the first token counts twice),
    /// `chain` (each token once), `normalised` (their mean) or `lavis` (as LAVIS, with a smoothed loss).
    #[arg(long, alias = "rank", default_value = "reference", value_parser = named::<RankRule>)]
    answer_scoring: RankRule,
}

#[derive(clap::Args)]
pub struct AskArguments {
    /// The image, or a result of the last search (`@1`).
    image: PathBuf,
    /// The question.
    #[arg(value_parser = words)]
    question: String,
    /// Candidate answers: a JSON list, or answers separated by commas [default: those of the model].
    #[arg(long, default_value = "", hide_default_value = true)]
    answers: String,
    #[command(flatten)]
    scoring: AnswerArguments,
    /// Model folder, weights file or run, as `albef finetune vqa` makes it [default: `models/ask`, for trying out].
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    usage: Usage,
}

#[derive(clap::Args)]
pub struct EntailArguments {
    /// The image, or a result of the last search (`@1`).
    image: PathBuf,
    /// The sentence.
    #[arg(value_parser = words)]
    sentence: String,
    #[command(flatten)]
    model: ModelArguments,
}

#[derive(clap::Args)]
pub struct ReasonArguments {
    /// The left image.
    left: PathBuf,
    /// The right image.
    right: PathBuf,
    /// The statement about both.
    #[arg(value_parser = words)]
    statement: String,
    #[command(flatten)]
    model: ModelArguments,
}

#[derive(clap::Args)]
pub struct PredictArguments {
    /// The image, or several, and then the text (question, statement or sentence) if the model reads
    /// one. A model for statements about two images takes images in pairs.
    #[arg(required = true, value_name = "IMAGE [TEXT]")]
    inputs: Vec<OsString>,
    /// Candidate answers of a question: a JSON list, or answers separated by commas [default: those of the model].
    #[arg(long, default_value = "", hide_default_value = true)]
    answers: String,
    #[command(flatten)]
    scoring: AnswerArguments,
    #[command(flatten)]
    model: ModelArguments,
}

impl Usage {
    /// The model of a task at a path, for a query whose images can be read.
    fn open(&self, task: TaskRef, path: &Path, query: &Query) -> Result<LoadedModel> {
        let (device, reader) = self.inference.prepare(path)?;
        query.images.iter().try_for_each(|image| check_image(image, &reader))?;
        let model = open_task_model(task, path, self.inference.image_res, &device)?;
        Ok(LoadedModel { reader, precision: self.inference.precision.on(&device), ..model })
    }

    fn answer(&self, task: TaskRef, path: &Path, query: &Query) -> Result<ExitStatus> {
        let model = self.open(task, path, query)?;
        let found = task.predict(&model, query)?;
        tell_notes(&model.reader);
        self.print(&found)
    }

    fn print(&self, found: &Prediction) -> Result<ExitStatus> {
        if found.truncated {
            tracing::warn!("the end of the text is not read: it is longer than the model reads");
        }
        if !found.unknown_words.is_empty() {
            let words = found.unknown_words.iter().map(|word| format!("`{}`", readable(word)));
            tracing::warn!(
                "the model does not know {}: the answer does not depend on what this means",
                words.collect::<Vec<_>>().join(", ")
            );
        }
        match self.json {
            true => say!("{}", found.value)?,
            false => found.lines.iter().try_for_each(|line| say!("{line}"))?,
        }
        Ok(ExitStatus::Yes)
    }
}

impl AnswerArguments {
    fn of(&self, query: Query, answers: &str) -> Result<Query> {
        let answers = match answers {
            "" => Vec::new(),
            list => answer_list(list)?,
        };
        let Self { top_k, rerank_k, answer_scoring } = *self;
        Ok(Query { answers, top_k, rerank_k, answer_scoring, ..query })
    }
}

pub fn ask(a: &AskArguments) -> Result<ExitStatus> {
    let task = TaskRef::named("vqa")?;
    let query = Query::new(vec![image_file(&a.image)?], &a.question);
    let query = a.scoring.of(query, &a.answers)?;
    let path = question_model(a.model.as_deref())?;
    tell_default(a.model.is_some(), &ModelDefaults::of_model(&path)?);
    a.usage.answer(task, &path, &query)
}

pub fn entail(a: &EntailArguments) -> Result<ExitStatus> {
    let task = TaskRef::named("ve")?;
    let query = Query::new(vec![image_file(&a.image)?], &a.sentence);
    a.model.usage.answer(task, &a.model.model, &query)
}

pub fn reason(a: &ReasonArguments) -> Result<ExitStatus> {
    let task = TaskRef::named("nlvr")?;
    let query = Query::new(vec![image_file(&a.left)?, image_file(&a.right)?], &a.statement);
    a.model.usage.answer(task, &a.model.model, &query)
}

/// Images and text: a last argument that names no file is the text.
fn images_and_text(inputs: &[OsString]) -> (Vec<PathBuf>, &str) {
    let text = inputs.last().and_then(|last| last.to_str());
    let (images, text) = match (inputs.split_last(), text) {
        (Some((last, images)), Some(text)) if !images.is_empty() && !Path::new(last).is_file() => {
            (images, text)
        }
        _ => (inputs, ""),
    };
    (images.iter().map(PathBuf::from).collect(), text)
}

/// By the task that the checkpoint is for.
pub fn predict(a: &PredictArguments) -> Result<ExitStatus> {
    let (images, text) = images_and_text(&a.inputs);
    let (device, reader) = a.model.usage.inference.prepare(&a.model.model)?;
    images.iter().try_for_each(|image| check_image(image, &reader))?;
    note_inferred(&a.model.model);
    let checkpoint = Checkpoint::open(&a.model.model)?;
    let task = checkpoint.task;
    let each = task.images();
    if images.len() % each != 0 {
        let given = images.len();
        return Err(Error::Argument(format!(
            "{} takes {each} images at a time, and {given} were given",
            task.title()
        ))
        .into());
    }
    let query = a.scoring.of(Query::new(Vec::new(), text), &a.answers)?;
    let checkpoint = checkpoint.at(a.model.usage.inference.image_res)?;
    let model = checkpoint.load(&[task], &device, Parts::Inference)?;
    let precision = a.model.usage.inference.precision.on(&device);
    let model = LoadedModel { reader, precision, ..model };
    for group in images.chunks(each) {
        let query = Query { images: group.to_vec(), ..query.clone() };
        let names: Vec<String> = group.iter().map(|p| readable(&text_of_path(p))).collect();
        let mut found = task.predict(&model, &query).with_context(|| names.join(" and "))?;
        if images.len() > each && a.model.usage.json {
            found.value["images"] = serde_json::json!(names);
        } else if images.len() > each {
            found.lines.insert(0, names.join(" and "));
        }
        a.model.usage.print(&found)?;
    }
    tell_notes(&model.reader);
    Ok(ExitStatus::Yes)
}
