//! One's own picture: `albef ask`, `entail`, `reason`, `classify`, `ground`.

use std::path::{Path, PathBuf};

use albef::eval::answers::RankRule;
use albef::eval::grounding::{best_box, box_score, region_box, resize_map, within};
use albef::eval::retrieval::{score_pairs, similarities};
use albef::explain::{AttentionMaps, contrastive_maps, matching_maps};
use albef::model::{EntailmentModel, TokenBatch};
use albef::params::values;
use albef::pipeline::{Pipeline, match_probability};
use albef_data::image::DecodeOptions;
use albef_data::scenes::png;
use albef_data::text::Encoded;
use albef_weights::{Task, write_atomic};
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde_json::{Value, json};

use crate::Answer;
use crate::corpus::{Pictures, open_model};
use crate::device::Where;
use crate::notes::tell_cut;
use crate::overlay::{draw_box, overlay};
use crate::tasks::{Answered, Seen, TaskModel, answer_list, sample};

#[derive(clap::Args)]
pub struct AskArguments {
    /// The picture.
    image: PathBuf,
    /// The question.
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
    /// As the official code: the first token counts twice.
    Reference,
    /// Each token counts once.
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
    #[arg(required = true)]
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

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The matching score at a fusion layer.
    Itm,
    /// The contrastive score at a block of the image encoder.
    Itc,
}

#[derive(clap::Args)]
pub struct GroundArguments {
    /// The picture.
    image: PathBuf,
    /// What to look for.
    phrase: String,
    /// Model folder or weights file.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Which score is explained.
    #[arg(long, default_value = "itm")]
    mode: Mode,
    /// Text layer (itm; the third fusion layer, if there is one) or image block (itc; the last).
    #[arg(long)]
    layer: Option<usize>,
    /// A map for each word as well, in `--output` or `--json` (itm only).
    #[arg(long)]
    words: bool,
    /// Where to write the picture with the map over it; words get their number and name appended.
    #[arg(long, value_parser = crate::outcomes::place)]
    output: Option<PathBuf>,
    /// Proposals to choose from: a JSON list of `[left, top, width, height]` in pixels.
    #[arg(long)]
    boxes: Option<PathBuf>,
    /// Share of the peak at which a region ends, where no proposals are given.
    #[arg(long, default_value_t = 0.5, conflicts_with = "boxes")]
    threshold: f32,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output, with the raw maps.
    #[arg(long)]
    json: bool,
}

pub fn ask(a: &AskArguments) -> Result<Answer> {
    let model = TaskModel::open(&a.model, Task::Vqa, &a.device.open()?)?;
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
        println!("{}", json!({"question": a.question, "answers": list}));
    } else {
        for Answered { candidate, p } in top {
            println!("{p:>6.3}  {}", answers[candidate]);
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
    let model = TaskModel::open(&a.model, Task::Ve, &a.device.open()?)?;
    let Seen { rows, skipped, .. } =
        model.classes(&[sample(&a.image, None, &a.sentence)], Task::Ve)?;
    let Some(row) = rows.first().filter(|r| !r.is_empty()) else { return unusable(&skipped) };
    let best = (0..row.len()).rev().max_by(|x, y| row[*x].total_cmp(&row[*y])).unwrap_or(0);
    let classes = EntailmentModel::CLASSES;
    if a.json {
        let p: serde_json::Map<String, Value> =
            classes.iter().zip(row).map(|(c, p)| ((*c).to_owned(), json!(p))).collect();
        println!("{}", json!({"label": classes[best], "probabilities": p}));
    } else {
        for (class, p) in classes.iter().zip(row) {
            println!("{p:>6.3}  {class}");
        }
    }
    Ok(Answer::Yes)
}

pub fn reason(a: &ReasonArguments) -> Result<Answer> {
    let model = TaskModel::open(&a.model, Task::Nlvr, &a.device.open()?)?;
    let samples = [sample(&a.left, Some(&a.right), &a.statement)];
    let Seen { rows, skipped, .. } = model.classes(&samples, Task::Nlvr)?;
    let Some(row) = rows.first().filter(|r| !r.is_empty()) else { return unusable(&skipped) };
    let (truth, p) = (row[1] > row[0], row[1]);
    if a.json {
        println!("{}", json!({"label": truth, "probability": p}));
    } else {
        println!("{}, with probability {p:.3} of being true", if truth { "true" } else { "false" });
    }
    Ok(Answer::Yes)
}

/// The one picture, loaded for a model, and as it is.
fn open_picture(
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
    if let Some(i) = a.labels.iter().position(|l| l.trim().is_empty()) {
        bail!("class {i} is empty");
    }
    if let Some(bad) = a.template.iter().find(|t| !t.contains("{}")) {
        bail!("the template `{bad}` has no `{{}}` where the class stands");
    }
    let device = a.device.open()?;
    let ready = open_model(a.model.as_deref(), &device)?;
    let model = &ready.model;
    let (_, pixels) = open_picture(&a.image, model.config.vision.image_res, &device)?;
    let states = model.encoders.visual_encoder.forward(pixels)?;
    let image = values(model.encoders.image_feat(&states));
    let temp = values(model.temp.clone())[0];
    let (mut cosines, mut matches, mut cut_prompts) = (Vec::new(), Vec::new(), 0);
    for label in &a.labels {
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
    tell_cut(cut_prompts, a.labels.len() * a.template.len(), Pipeline::LIMITS);
    let top = cosines.iter().copied().fold(f32::MIN, f32::max);
    let exp: Vec<f64> = cosines.iter().map(|c| f64::from((c - top) / temp).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let mut order: Vec<usize> = (0..a.labels.len()).collect();
    order.sort_by(|x, y| cosines[*y].total_cmp(&cosines[*x]));
    if a.json {
        let list: Vec<Value> = order
            .iter()
            .map(|i| {
                json!({"label": a.labels[*i], "probability": exp[*i] / sum,
                       "cosine": cosines[*i], "match_probability": matches[*i]})
            })
            .collect();
        println!("{}", json!({"classes": list}));
    } else {
        println!("share   cosine  match   class");
        for i in order {
            let share = exp[i] / sum;
            println!("{share:>5.3}  {:>7.3}  {:>5.3}   {}", cosines[i], matches[i], a.labels[i]);
        }
    }
    Ok(Answer::Yes)
}

/// `name.png` with a word before its ending.
fn for_word(path: &Path, number: usize, word: &str) -> PathBuf {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("map");
    let word: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    path.with_file_name(format!("{stem}-{number}-{word}.png"))
}

pub fn ground(a: &GroundArguments) -> Result<Answer> {
    if a.words && a.mode == Mode::Itc {
        eprintln!("note: the contrastive score has one map for the whole phrase, none for words");
    }
    if a.words && a.output.is_none() && !a.json {
        eprintln!("note: --words shows its maps in --output FILE or --json");
    }
    let device = a.device.open()?;
    let ready = open_model(a.model.as_deref(), &device)?;
    let config = &ready.model.config;
    let (pictures, pixels) = open_picture(&a.image, config.vision.image_res, &device)?;
    let Encoded { ids: tokens, cut } = ready.phrase(&a.phrase);
    tell_cut(cut.into(), 1, ready.phrase_limits());
    let texts = TokenBatch::packed(std::slice::from_ref(&tokens));
    let maps: AttentionMaps = match a.mode {
        Mode::Itm => {
            let third = (config.text.fusion_layer + 2).min(config.text.layers - 1);
            let layer = a.layer.unwrap_or(third);
            matching_maps(config, &ready.params, pixels, &texts, layer)?
        }
        Mode::Itc => {
            let block = a.layer.unwrap_or(config.vision.depth.saturating_sub(1));
            contrastive_maps(config, &ready.params, pixels, &texts, block)?
        }
    };
    let count = maps.tokens[0];
    let whole = maps.sentence(0, count);
    let image = pictures.data.samples()[0]
        .decode(&DecodeOptions::default())
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    let size = (image.height, image.width);
    let wide = resize_map(&whole, (maps.grid, maps.grid), size);
    let (boxes, chosen, scores) = match &a.boxes {
        None => {
            let found = region_box(&wide, size, a.threshold);
            (found.into_iter().collect::<Vec<_>>(), found, Vec::new())
        }
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let boxes: Vec<[f64; 4]> = serde_json::from_str(&text).with_context(|| {
                format!("{} must hold a list of [left, top, width, height]", path.display())
            })?;
            for (i, b) in boxes.iter().enumerate() {
                if !within(*b, size) {
                    bail!("box {i} {b:?} lies outside of {} x {}", image.width, image.height);
                }
            }
            let scores: Vec<f64> = boxes.iter().map(|b| box_score(&wide, size, *b, 0.5)).collect();
            let chosen = best_box(&scores).map(|i| boxes[i]);
            (boxes, chosen, scores)
        }
    };
    let words: Vec<String> = tokens.iter().map(|t| ready.piece(*t).to_owned()).collect();
    if let Some(path) = &a.output {
        let write = |path: &Path, map: &[f32], b: Option<[f64; 4]>| -> Result<()> {
            let mut picture = overlay(&image, map, maps.grid);
            if let Some(b) = b {
                draw_box(&mut picture, b, [255, 255, 255]);
            }
            let bytes = png(&picture)?;
            write_atomic(path, |f| std::io::Write::write_all(f, &bytes))?;
            eprintln!("wrote {}", path.display());
            Ok(())
        };
        write(path, &whole, chosen)?;
        if a.words && a.mode == Mode::Itm {
            for (i, word) in words.iter().enumerate().skip(1) {
                write(&for_word(path, i, word), &maps.token(0, i), None)?;
            }
        }
    }
    if a.json {
        let per_word: Vec<Value> = if a.words && a.mode == Mode::Itm {
            let word = |i: usize| json!({"word": words[i], "map": maps.token(0, i)});
            (1..count).map(word).collect()
        } else {
            Vec::new()
        };
        println!(
            "{}",
            json!({"phrase": a.phrase, "grid": maps.grid, "map": whole, "words": per_word,
                   "box": chosen, "boxes": boxes, "box_scores": scores, "scores": maps.scores})
        );
    } else {
        match chosen {
            Some([x, y, w, h]) => println!("box: left {x:.0}, top {y:.0}, {w:.0} x {h:.0} pixels"),
            None => println!("no region speaks for it"),
        }
    }
    Ok(if chosen.is_some() { Answer::Yes } else { Answer::No })
}
