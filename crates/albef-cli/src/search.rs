//! `albef search` and `albef match`.

use std::path::PathBuf;

use albef::eval::retrieval::Score;
use albef::index::{
    Encoder, IndexEncoder, IndexQuery, Place, Store, UpdateOptions, is_photo_folder, open_current,
};
use albef::inference::{Match, SearchOptions};
use albef_data::names::{path_of, shown};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::ExitStatus;
use crate::arguments::{named, source, words};
use crate::index::tell_update;
use crate::models::{ModelOptions, open_image, open_images};
use crate::output::{raw, say};
use crate::progress::bar;
use crate::search_filters::IndexOptions;
use crate::warnings::{members, tell_notes, tell_truncated, tell_unusable};

#[derive(clap::Args)]
pub struct SearchArguments {
    /// What to look for; with --like the first folder instead.
    #[arg(value_parser = words)]
    text: Option<String>,
    /// Folders, which are indexed; or tar shards, an annotation list or an image. Without any, the only index of this
    /// user.
    #[arg(value_name = "PATH", value_parser = source())]
    paths: Vec<String>,
    /// Joined before the image paths of a list.
    #[arg(long)]
    image_root: Option<PathBuf>,
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
    #[command(flatten)]
    index: IndexOptions,
    #[command(flatten)]
    model: ModelOptions,
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
    #[command(flatten)]
    model: ModelOptions,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn search(a: &SearchArguments) -> Result<ExitStatus> {
    let (mut text, mut paths) = (a.text.as_deref(), a.paths.clone());
    if !a.index.like.is_empty() {
        paths.splice(0..0, text.take().map(str::to_owned));
    } else if text.is_none() && a.index.plus.is_empty() {
        bail!("nothing to look for: write what the images should show, or name one with --like");
    }
    let folders = paths.iter().all(|path| is_photo_folder(&path_of(path)));
    if folders && a.image_root.is_none() && !a.index.no_index {
        return search_index(a, text, &paths);
    }
    let options = a.index.given();
    if let Some(first) = options.first() {
        bail!(
            "{first} works on folders of images, which are indexed, not on lists, archives and single images"
        );
    }
    match (text, &paths[..]) {
        (Some(text), [path]) => search_once(a, text, path),
        (_, []) => bail!("name the folder to be searched"),
        _ => bail!(
            "of lists, archives and images one is searched at a time; several folders are indexed"
        ),
    }
}

/// Encodes all images now, and keeps nothing.
fn search_once(a: &SearchArguments, text: &str, path: &str) -> Result<ExitStatus> {
    let (device, reader) = a.model.prepare()?;
    let images = open_images(path, a.image_root.as_deref())?;
    let model = a.model.open(&reader, &device)?;
    let options = SearchOptions::default().top_k(a.top_k).rerank_k(a.rerank_k).score(a.score);
    let (found, skipped) = model.search(&images, text, &options, &bar())?;
    tell_unusable("skipped", &skipped);
    tell_notes(&reader);
    tell_truncated(found.truncated.into(), 1, model.caption_limits());
    if a.json {
        let mut value = serde_json::to_value(&found)?;
        let all = images.skipped_members();
        let members = members(all);
        let unread = all.len() - members.len();
        add_counts(&mut value, skipped.len() as u64, unread as u64, found.truncated);
        value["skipped_members"] = json!(members.len());
        value["left_out"] = json!(members.len());
        say!("{value}")?;
    } else {
        say!("  score  match   cosine  image")?;
        for hit in &found.results {
            let name = images.name(hit.index);
            print_hit(hit.score, hit.probability, hit.cosine, &name)?;
        }
    }
    Ok(ExitStatus::Yes)
}

/// Brings the index of the folders up to date and searches it.
fn search_index(a: &SearchArguments, text: Option<&str>, paths: &[String]) -> Result<ExitStatus> {
    let (device, reader) = a.model.prepare()?;
    let like: Vec<_> =
        a.index.like.iter().map(|path| open_image(path, &reader)).collect::<Result<_>>()?;
    let model = a.model.open(&reader, &device)?;
    let encoder = IndexEncoder::new(&model);
    let fingerprint = encoder.identity().fingerprint;
    let folders: Vec<PathBuf> = paths.iter().map(|path| path_of(path)).collect();
    let place = Place::find(&folders, a.index.index.as_deref(), Some(&fingerprint))?;
    let opened = open_current(&place, &encoder, &UpdateOptions::default(), &bar())?;
    opened.check_not_empty(&paths.join(", "))?;
    if let Some(update) = &opened.update {
        tell_update(update);
        tell_notes(&reader);
    }
    if let Some(reason) = &opened.stale {
        tracing::info!("searching the index as it is: {reason}");
    }
    let query = IndexQuery {
        text: text.map(str::to_owned),
        like,
        terms: a.index.terms(),
        filter: a.index.filter(place.folders),
        options: SearchOptions::default().top_k(a.top_k).rerank_k(a.rerank_k).score(a.score),
        page: a.index.page.unwrap_or(1),
    };
    let found = encoder.search(&opened.store, &query, &bar())?;
    tell_unusable("skipped", &found.skipped);
    tell_truncated(found.truncated.into(), 1, model.caption_limits());
    if a.index.paths_only {
        let end: &[u8] = if a.index.null { b"\0" } else { b"\n" };
        for hit in &found.results {
            raw(&[hit.file.as_os_str().as_encoded_bytes(), end].concat())?;
        }
    } else if a.json {
        let mut value = serde_json::to_value(&found)?;
        let skipped = opened.store.info()?.broken + found.skipped.len() as u64;
        let unread = opened.update.map_or(0, |update| update.unread);
        add_counts(&mut value, skipped, unread, found.truncated);
        // A folder has no members; lists and archives have.
        (value["skipped_members"], value["left_out"]) = (json!(0), json!(0));
        value["index"] = json!(place.index.display().to_string());
        say!("{value}")?;
    } else {
        say!("  score  match   cosine  image")?;
        for hit in &found.results {
            print_hit(hit.score, hit.probability, hit.cosine, &shown(&hit.name))?;
            for copy in &hit.copy_names {
                say!("{:>23}  {}", "copy", shown(copy))?;
            }
        }
        if found.more && a.index.page.is_some() {
            eprintln!("more with --page {}", found.page + 1);
        }
    }
    Ok(ExitStatus::Yes)
}

/// Counts of what was not used as given, and their names of the last release.
fn add_counts(value: &mut Value, skipped: u64, unread: u64, truncated: bool) {
    let truncated = usize::from(truncated);
    value["unread_files"] = json!(unread);
    value["skipped"] = json!(skipped);
    value["truncated_texts"] = json!(truncated);
    value["cut_texts"] = json!(truncated);
}

fn print_hit(score: f32, probability: Option<f64>, cosine: f32, name: &str) -> Result<()> {
    let probability = probability.map_or("-".to_owned(), |p| format!("{p:.3}"));
    say!("{score:>7.2}  {probability:>5}  {cosine:>7.3}  {name}")
}

pub fn match_pair(a: &MatchArguments) -> Result<ExitStatus> {
    let (device, reader) = a.model.prepare()?;
    let image = open_image(&a.image, &reader)?;
    let model = a.model.open(&reader, &device)?;
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
