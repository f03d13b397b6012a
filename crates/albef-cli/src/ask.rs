//! One's own picture: `albef ask`, `entail`, `reason`.

use std::path::PathBuf;

use albef::eval::answers::RankRule;
use albef::model::VisualEntailmentModel;
use albef::task::TaskRef;
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::Answer;
use crate::arguments::words;
use crate::device::Where;
use crate::output::say;
use crate::tasks::{Answered, Seen, TaskModel, answer_list, sample};

#[derive(clap::Args)]
pub struct AskArguments {
    /// The picture.
    image: PathBuf,
    /// The question.
    #[arg(value_parser = words)]
    question: String,
    /// Model folder fine-tuned with `albef finetune vqa`.
    #[arg(long)]
    model: PathBuf,
    /// Candidate answers: a JSON list, or answers separated by commas.
    #[arg(long)]
    answers: String,
    /// Answers to show.
    #[arg(long, default_value_t = 5)]
    top: usize,
    /// Candidates that are scored in full.
    #[arg(long, default_value_t = 128)]
    k: usize,
    /// How candidates are scored.
    #[arg(long, default_value = "reference")]
    rank: Rank,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Scoring of candidate answers.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Rank {
    /// As the official code: the first token counts twice; also `official`.
    #[value(alias = "official")]
    Reference,
    /// Each token counts once; also `corrected`.
    #[value(alias = "corrected")]
    Chain,
    /// Each token counts once, and the sum is divided by their number.
    Normalised,
}

impl From<Rank> for RankRule {
    fn from(rank: Rank) -> Self {
        match rank {
            Rank::Reference => Self::Reference,
            Rank::Chain => Self::Chain,
            Rank::Normalised => Self::Normalised,
        }
    }
}

#[derive(clap::Args)]
pub struct EntailArguments {
    /// The picture.
    image: PathBuf,
    /// The sentence.
    #[arg(value_parser = words)]
    sentence: String,
    /// Model folder fine-tuned with `albef finetune ve`.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ReasonArguments {
    /// The left picture.
    left: PathBuf,
    /// The right picture.
    right: PathBuf,
    /// The statement about both.
    #[arg(value_parser = words)]
    statement: String,
    /// Model folder fine-tuned with `albef finetune nlvr`.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn ask(a: &AskArguments) -> Result<Answer> {
    let model = TaskModel::open(&a.model, TaskRef::named("vqa")?, &a.device.open()?)?;
    let answers = answer_list(&a.answers)?;
    let candidates = model.candidates(&answers)?;
    let samples = [sample(&a.image, None, &a.question)];
    let found = model.answers(&samples, &candidates, a.k, a.rank.into(), a.top)?;
    let first = found.rows.into_iter().next().flatten();
    let Some(top) = first else { return unusable(&found.skipped) };
    if a.json {
        let list: Vec<Value> = top
            .iter()
            .map(|a| json!({"answer": answers[a.candidate], "probability": a.p}))
            .collect();
        say!("{}", json!({"question": a.question, "answers": list}))?;
    } else {
        for Answered { candidate, p } in top {
            say!("{p:>6.3}  {}", answers[candidate])?;
        }
    }
    Ok(Answer::Yes)
}

fn unusable(skipped: &[albef_data::dataset::Skipped]) -> Result<Answer> {
    match skipped.first() {
        Some(s) => bail!("{}: {}", s.name, s.error),
        None => bail!("the picture cannot be used"),
    }
}

pub fn entail(a: &EntailArguments) -> Result<Answer> {
    let model = TaskModel::open(&a.model, TaskRef::named("ve")?, &a.device.open()?)?;
    let Seen { rows, skipped, .. } =
        model.classes(&[sample(&a.image, None, &a.sentence)], TaskRef::named("ve")?)?;
    let Some(row) = rows.first().filter(|r| !r.is_empty()) else { return unusable(&skipped) };
    let best = (0..row.len()).rev().max_by(|x, y| row[*x].total_cmp(&row[*y])).unwrap_or(0);
    let classes = VisualEntailmentModel::CLASSES;
    if a.json {
        let p: serde_json::Map<String, Value> =
            classes.iter().zip(row).map(|(c, p)| ((*c).to_owned(), json!(p))).collect();
        say!("{}", json!({"label": classes[best], "probabilities": p}))?;
    } else {
        for (class, p) in classes.iter().zip(row) {
            say!("{p:>6.3}  {class}")?;
        }
    }
    Ok(Answer::Yes)
}

pub fn reason(a: &ReasonArguments) -> Result<Answer> {
    let model = TaskModel::open(&a.model, TaskRef::named("nlvr")?, &a.device.open()?)?;
    let samples = [sample(&a.left, Some(&a.right), &a.statement)];
    let Seen { rows, skipped, .. } = model.classes(&samples, TaskRef::named("nlvr")?)?;
    let Some(row) = rows.first().filter(|r| !r.is_empty()) else { return unusable(&skipped) };
    let (truth, p) = (row[1] > row[0], row[1]);
    if a.json {
        say!("{}", json!({"label": truth, "probability": p}))?;
    } else {
        say!("{}, with probability {p:.3} of being true", if truth { "true" } else { "false" })?;
    }
    Ok(Answer::Yes)
}
