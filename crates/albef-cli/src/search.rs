//! `albef search` and `albef match`.

use std::path::PathBuf;

use albef::eval::retrieval::{Score, score_pairs, similarities, top_k};
use albef::params::to_vec;
use albef::pipeline::{Match, Pipeline, match_probability};
use albef_data::dataset::{Location, Sample};
use albef_data::image::DecodeOptions;
use albef_data::text::Encoded;
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::Answer;
use crate::arguments::words;
use crate::corpus::{Pictures, open_model};
use crate::device::Where;
use crate::evaluate_retrieval::ScoreName;
use crate::notes::tell_cut;
use crate::output::say;

#[derive(clap::Args)]
pub struct SearchArguments {
    /// What to look for.
    #[arg(value_parser = words)]
    text: String,
    /// Folder, tar shards, annotation list or a picture.
    path: String,
    /// Joined before the image paths of a list.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Model folder or weights file; `models/mini`, here or above the program, if not given.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Pictures to show.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Candidates that are re-ranked by the matching head; 0 for the cosine alone.
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
    /// TrainProgress in the gallery.
    picture: usize,
    cosine: f32,
    /// Of a match; `None` without re-ranking.
    probability: Option<f64>,
    score: f32,
}

#[derive(clap::Args)]
pub struct MatchArguments {
    /// The picture.
    image: PathBuf,
    /// The text.
    #[arg(value_parser = words)]
    text: String,
    /// Model folder or weights file; `models/mini`, here or above the program, if not given.
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
    let size = model.config.vision.image_res;
    let pictures = Pictures::open(&a.path, a.image_root.as_deref(), size, &device)?;
    let (feats, skipped) = pictures.embed(&a.path, model)?;
    let Encoded { ids: tokens, cut } = ready.caption(&a.text);
    tell_cut(cut.into(), 1, Pipeline::TRUNCATION);
    let query = ready.embed_text(&a.text)?;
    let rows: Vec<f32> = feats.iter().flat_map(|(_, f)| f.iter().copied()).collect();
    let cosines = similarities(&query, &rows);
    let (score, temp) = (Score::from(a.score), to_vec(model.temp.clone())[0]);
    let of_cosine = |c: &usize| Hit {
        picture: feats[*c].0,
        cosine: cosines[*c],
        probability: None,
        score: cosines[*c],
    };
    let candidates = top_k(&cosines, if a.k == 0 { a.top } else { a.k.max(a.top) });
    let mut hits: Vec<Hit> = candidates.iter().map(of_cosine).collect();
    // With --k 0 the matching head is not asked.
    for part in hits.chunks_mut(16).filter(|_| a.k > 0) {
        let which: Vec<usize> = part.iter().map(|h| h.picture).collect();
        let (images, _) = pictures.load(&which);
        let states = model.encoders.visual_encoder.forward(images)?;
        let pairs: Vec<(usize, usize)> = (0..part.len()).map(|i| (i, 0)).collect();
        let logits = score_pairs(model, std::slice::from_ref(&tokens), &pairs, 1, &states)?;
        for (hit, l) in part.iter_mut().zip(logits) {
            hit.probability = Some(match_probability(l));
            hit.score = score.of(l, temp, || hit.cosine);
        }
    }
    hits.sort_by(|x, y| y.score.total_cmp(&x.score).then(y.cosine.total_cmp(&x.cosine)));
    hits.truncate(a.top);
    if a.json {
        let results: Vec<_> = hits.iter().map(|h| h.json(&pictures)).collect();
        let order = if a.k == 0 { "cosine" } else { a.score.name() };
        say!(
            "{}",
            json!({"query": a.text, "order": order, "results": results, "gallery": feats.len(),
                   "skipped": skipped, "left_out": pictures.left_out.len(),
                   "cut_texts": usize::from(cut)})
        )?;
    } else {
        say!("  score  match   cosine  picture")?;
        for h in &hits {
            let Hit { score, probability, cosine, picture } = h;
            let probability = probability.map_or("-".to_owned(), |p| format!("{p:.3}"));
            say!("{score:>7.2}  {probability:>5}  {cosine:>7.3}  {}", pictures.place(*picture))?;
        }
    }
    Ok(Answer::Yes)
}

impl Hit {
    fn json(&self, pictures: &Pictures) -> Value {
        let Sample { location, name, .. } = &pictures.data.samples()[self.picture];
        let mut out = json!({"image": name, "cosine": self.cosine, "probability": self.probability,
                             "score": self.score});
        match location {
            Location::File(path) => out["path"] = json!(path.display().to_string()),
            Location::Member { archive, .. } => {
                out["archive"] = json!(archive.display().to_string());
                out["member"] = json!(name);
            }
        }
        out
    }
}

pub fn match_pair(a: &MatchArguments) -> Result<Answer> {
    let device = a.device.open()?;
    let model = open_model(a.model.as_deref(), &device)?;
    tell_cut(model.caption(&a.text).cut.into(), 1, Pipeline::TRUNCATION);
    let picture = albef_data::image::open(&a.image, &DecodeOptions::default())?;
    let found = model.match_text(&[picture], &a.text)?;
    let Some(Match { cosine, itm_logit, probability: p }) = found.first().copied() else {
        bail!("the model gave no score");
    };
    if a.json {
        say!("{}", json!({"cosine": cosine, "itm_logit": itm_logit, "probability": p}))?;
    } else {
        say!(
            "cosine {cosine:.3}, match probability {p:.3} (itm_logit {itm_logit:.3}; the probability weighs it \
              against that of no match)"
        )?;
    }
    Ok(Answer::Yes)
}
