//! `albef search` and `albef match`.

use std::path::PathBuf;

use albef::eval::retrieval::{Score, score_pairs, similarities, top_k};
use albef::params::values;
use albef::pipeline::{Match, Pipeline, match_probability};
use albef_data::image::DecodeOptions;
use albef_data::text::Encoded;
use anyhow::{Result, bail};
use serde_json::json;

use crate::Answer;
use crate::corpus::{Pictures, open_model};
use crate::device::Where;
use crate::evaluate_retrieval::ScoreName;
use crate::notes::tell_cut;
use crate::output::say;

#[derive(clap::Args)]
pub struct SearchArguments {
    /// What to look for.
    text: String,
    /// Folder, tar shards or annotation list.
    path: String,
    /// Model folder or weights file.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Pictures to show.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Candidates that are re-ranked by the matching head.
    #[arg(long, default_value_t = 64)]
    k: usize,
    /// What the order goes by.
    #[arg(long, value_enum, default_value = "posterior")]
    score: ScoreName,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

struct Hit {
    image: String,
    cosine: f32,
    probability: f64,
    score: f32,
}

#[derive(clap::Args)]
pub struct MatchArguments {
    /// The picture.
    image: PathBuf,
    /// The text.
    text: String,
    /// Model folder or weights file.
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn search(a: &SearchArguments) -> Result<Answer> {
    let device = a.device.open()?;
    let ready = open_model(a.model.as_deref(), &device)?;
    let model = &ready.model;
    let pictures = Pictures::open(&a.path, None, model.config.vision.image_res, &device)?;
    let (feats, skipped) = pictures.embed(model)?;
    for (_, s) in &skipped {
        eprintln!("skipped {}: {}", s.name, s.error);
    }
    if feats.is_empty() {
        bail!("none of the {} pictures in {} can be used", skipped.len(), a.path);
    }
    let Encoded { ids: tokens, cut } = ready.caption(&a.text);
    tell_cut(cut.into(), 1, Pipeline::LIMITS);
    let query = ready.embed_text(&a.text)?;
    let rows: Vec<f32> = feats.iter().flat_map(|(_, f)| f.iter().copied()).collect();
    let cosines = similarities(&query, &rows);
    let (order, temp) = (Score::from(a.score), values(model.temp.clone())[0]);
    let candidates = top_k(&cosines, a.k.max(a.top));
    let mut hits = Vec::new();
    for part in candidates.chunks(16) {
        let which: Vec<usize> = part.iter().map(|c| feats[*c].0).collect();
        let (images, _) = pictures.load(&which);
        let states = model.encoders.visual_encoder.forward(images)?;
        let pairs: Vec<(usize, usize)> = (0..part.len()).map(|i| (i, 0)).collect();
        let logits = score_pairs(model, std::slice::from_ref(&tokens), &pairs, 1, &states)?;
        for ((c, i), l) in part.iter().zip(which).zip(logits) {
            hits.push(Hit {
                image: pictures.data.samples()[i].name.clone(),
                cosine: cosines[*c],
                probability: match_probability(l),
                score: order.of(l, temp, || cosines[*c]),
            });
        }
    }
    hits.sort_by(|x, y| y.score.total_cmp(&x.score).then(y.cosine.total_cmp(&x.cosine)));
    hits.truncate(a.top);
    if a.json {
        let results: Vec<_> = hits
            .iter()
            .map(|h| {
                json!({"image": h.image, "cosine": h.cosine, "probability": h.probability,
                       "score": h.score})
            })
            .collect();
        say!(
            "{}",
            json!({"query": a.text, "order": a.score.name(), "results": results, "gallery": feats.len(),
                   "skipped": skipped.len(), "left_out": pictures.left_out.len(),
                   "cut_texts": usize::from(cut)})
        )?;
    } else {
        say!("  score  match   cosine  picture")?;
        for h in &hits {
            let Hit { score, probability, cosine, image } = h;
            say!("{score:>7.2}  {probability:>5.3}  {cosine:>7.3}  {image}")?;
        }
    }
    Ok(Answer::Yes)
}

pub fn match_pair(a: &MatchArguments) -> Result<Answer> {
    let device = a.device.open()?;
    let model = open_model(a.model.as_deref(), &device)?;
    tell_cut(model.caption(&a.text).cut.into(), 1, Pipeline::LIMITS);
    let picture = albef_data::image::open(&a.image, &DecodeOptions::default())?;
    let found = model.match_text(&[picture], &a.text)?;
    let Some(Match { cosine, itm_logit, probability: p }) = found.first().copied() else {
        bail!("the model gave no score");
    };
    if a.json {
        say!("{}", json!({"cosine": cosine, "itm_logit": itm_logit, "probability": p}))?;
    } else {
        say!("cosine {cosine:.3}, match probability {p:.3} (logit {itm_logit:.3})")?;
    }
    Ok(Answer::Yes)
}
