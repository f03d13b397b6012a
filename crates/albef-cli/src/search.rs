//! `albef search` and `albef match`.

use std::path::PathBuf;

use albef::eval::retrieval::Score;
use albef::inference::{Match, SearchOptions};
use anyhow::{Result, bail};
use serde_json::json;

use crate::ExitStatus;
use crate::arguments::{named, source, words};
use crate::device::DeviceArg;
use crate::image_options::ImageOptions;
use crate::models::{open_image, open_images, open_model};
use crate::output::say;
use crate::progress::bar;
use crate::warnings::{members, tell_notes, tell_truncated, tell_unusable};

#[derive(clap::Args)]
pub struct SearchArguments {
    /// What to look for.
    #[arg(value_parser = words)]
    text: String,
    /// Folder, tar shards, annotation list or an image.
    #[arg(value_parser = source())]
    path: String,
    /// Joined before the image paths of a list.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Model folder, weights file or run [default: `models/mini`].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Images to show.
    #[arg(long, alias = "top", default_value_t = 10)]
    top_k: usize,
    /// Candidates that are re-ranked by the matching head; 0 for the cosine alone.
    #[arg(long, alias = "k", default_value_t = 64)]
    rerank_k: usize,
    /// What results are ordered by: `posterior` (matching and cosine together), `itm`, `itm+itc` or
    /// `itm-prob`.
    #[arg(long, default_value = "posterior", value_parser = named::<Score>)]
    score: Score,
    /// Pixels along the side of an image, a multiple of the patch size, if not those of the model; the
    /// position table is interpolated.
    #[arg(long, value_name = "PIXELS")]
    image_res: Option<usize>,
    #[command(flatten)]
    images: ImageOptions,
    #[command(flatten)]
    device: DeviceArg,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct MatchArguments {
    /// The image.
    image: PathBuf,
    /// The text.
    #[arg(value_parser = words)]
    text: String,
    /// Model folder, weights file or run [default: `models/mini`].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Pixels along the side of an image, a multiple of the patch size, if not those of the model; the
    /// position table is interpolated.
    #[arg(long, value_name = "PIXELS")]
    image_res: Option<usize>,
    #[command(flatten)]
    images: ImageOptions,
    #[command(flatten)]
    device: DeviceArg,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn search(a: &SearchArguments) -> Result<ExitStatus> {
    let device = a.device.open()?;
    let images = open_images(&a.path, a.image_root.as_deref())?;
    let reader = a.images.own();
    let model = open_model(a.model.as_deref(), a.image_res, &reader, &device)?;
    let options = SearchOptions::default().top_k(a.top_k).rerank_k(a.rerank_k).score(a.score);
    let (found, skipped) = model.search(&images, &a.text, &options, &bar())?;
    tell_unusable("skipped", &skipped);
    tell_notes(&reader);
    tell_truncated(found.truncated.into(), 1, model.caption_limits());
    if a.json {
        let mut value = serde_json::to_value(&found)?;
        let all = images.skipped_members();
        let (members, truncated) = (members(all).len(), usize::from(found.truncated));
        value["unread_files"] = json!(all.len() - members);
        value["skipped"] = json!(skipped.len());
        value["skipped_members"] = json!(members);
        value["truncated_texts"] = json!(truncated);
        // Names of the last release.
        value["left_out"] = json!(members);
        value["cut_texts"] = json!(truncated);
        say!("{value}")?;
    } else {
        say!("  score  match   cosine  image")?;
        for hit in &found.results {
            let probability = hit.probability.map_or("-".to_owned(), |p| format!("{p:.3}"));
            let name = images.name(hit.index);
            say!("{:>7.2}  {probability:>5}  {:>7.3}  {name}", hit.score, hit.cosine)?;
        }
    }
    Ok(ExitStatus::Yes)
}

pub fn match_pair(a: &MatchArguments) -> Result<ExitStatus> {
    let (device, reader) = (a.device.open()?, a.images.own());
    let image = open_image(&a.image, &reader)?;
    let model = open_model(a.model.as_deref(), a.image_res, &reader, &device)?;
    tell_truncated(model.caption(&a.text).truncated.into(), 1, model.caption_limits());
    let found = model.match_text(&[image], &a.text)?;
    let Some(found) = found.first() else { bail!("the model gave no score") };
    if a.json {
        say!("{}", serde_json::to_value(found)?)?;
    } else {
        let Match { cosine, itm_logit, probability } = found;
        say!("cosine {cosine:.3}, match probability {probability:.3} (itm_logit {itm_logit:.3})")?;
    }
    Ok(ExitStatus::Yes)
}
