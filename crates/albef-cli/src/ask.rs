//! One's own picture: `albef ask`, `entail`, `reason`, `classify`.

use std::path::{Path, PathBuf};

use albef::eval::answers::RankRule;
use albef::eval::retrieval::{score_pairs, similarities};
use albef::model::VisualEntailmentModel;
use albef::params::to_vec;
use albef::pipeline::{Pipeline, match_probability};
use albef::task::TaskRef;
use anyhow::{Result, bail};
use burn::tensor::Device;
use serde_json::{Value, json};

use crate::Answer;
use crate::arguments::words;
use crate::corpus::{Pictures, open_model};
use crate::device::Where;
use crate::notes::tell_cut;
use crate::output::say;
use crate::tasks::{Answered, Seen, TaskModel, answer_list, distinct, sample};

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

#[derive(clap::Args)]
pub struct ClassifyArguments {
    /// The picture.
    image: PathBuf,
    /// The classes.
    #[arg(required = true, value_parser = words)]
    labels: Vec<String>,
    /// Sentence around a class, which stands at `{}`; several are averaged.
    #[arg(long, default_values = ["{}", "a picture of a {}"])]
    template: Vec<String>,
    /// Model folder or weights file.
    #[arg(long)]
    model: Option<PathBuf>,
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

/// The one picture, loaded for a model, and as it is.
pub fn open_picture(
    image: &Path,
    size: usize,
    device: &Device,
) -> Result<(Pictures, burn::tensor::Tensor<4>)> {
    let pictures = Pictures::of(vec![sample(image, None, "")], size, device);
    let (pixels, failed) = pictures.load(&[0]);
    if let Some((_, s)) = failed.first() {
        bail!("{}: {}", s.name, s.error);
    }
    Ok((pictures, pixels))
}

pub fn classify(a: &ClassifyArguments) -> Result<Answer> {
    let labels = distinct("class", a.labels.clone());
    if let Some(bad) = a.template.iter().find(|t| !t.contains("{}")) {
        bail!("the template `{bad}` has no `{{}}` where the class stands");
    }
    let device = a.device.open()?;
    let ready = open_model(a.model.as_deref(), &device)?;
    let model = &ready.model;
    let (_, pixels) = open_picture(&a.image, model.config.vision.image_res, &device)?;
    let states = model.encoders.visual_encoder.forward(pixels)?;
    let image = to_vec(model.encoders.image_feat(&states));
    let temp = to_vec(model.temp.clone())[0];
    let (mut cosines, mut matches, mut cut_prompts) = (Vec::new(), Vec::new(), 0);
    for label in &labels {
        let prompts: Vec<String> = a.template.iter().map(|t| t.replace("{}", label)).collect();
        let mut mean = vec![0.0_f32; image.len()];
        for prompt in &prompts {
            let feat = ready.embed_text(prompt)?;
            mean.iter_mut().zip(feat).for_each(|(m, f)| *m += f);
        }
        let norm = mean.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        mean.iter_mut().for_each(|v| *v /= norm);
        cosines.push(similarities(&mean, &image)[0]);
        let texts = prompts.iter().map(|p| ready.caption(p));
        let (tokens, cut): (Vec<Vec<u32>>, Vec<bool>) = texts.map(|t| (t.ids, t.cut)).unzip();
        cut_prompts += cut.into_iter().filter(|c| *c).count();
        let pairs: Vec<(usize, usize)> = (0..tokens.len()).map(|t| (0, t)).collect();
        let logits = score_pairs(model, &tokens, &pairs, 1, &states)?;
        matches
            .push(logits.iter().map(|l| match_probability(*l)).sum::<f64>() / logits.len() as f64);
    }
    tell_cut(cut_prompts, labels.len() * a.template.len(), Pipeline::TRUNCATION);
    let top = cosines.iter().copied().fold(f32::MIN, f32::max);
    let exp: Vec<f64> = cosines.iter().map(|c| f64::from((c - top) / temp).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|x, y| cosines[*y].total_cmp(&cosines[*x]));
    if a.json {
        let list: Vec<Value> = order
            .iter()
            .map(|i| {
                json!({"label": labels[*i], "probability": exp[*i] / sum,
                       "cosine": cosines[*i], "match_probability": matches[*i]})
            })
            .collect();
        say!("{}", json!({"classes": list}))?;
    } else {
        say!("share   cosine  match   class")?;
        for i in order {
            let share = exp[i] / sum;
            say!("{share:>5.3}  {:>7.3}  {:>5.3}   {}", cosines[i], matches[i], labels[i])?;
        }
    }
    Ok(Answer::Yes)
}
