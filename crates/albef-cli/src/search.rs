//! `albef search` and `albef match`.

use std::path::PathBuf;

use albef::eval::retrieval::Score;
use albef::index::{
    Encoder, Filter, IndexEncoder, IndexHit, IndexQuery, Place, UpdateOptions, is_photo_folder,
    open_current,
};
use albef::inference::{ForImages, Hit, Match, Preview, SearchOptions, Verdict};
use albef::{Image, ImageSet, Pipeline};
use albef_data::error::{ImageError, ImageErrorKind};
use albef_data::names::{path_of, shown, text_of_path};
use albef_report::ResultImage;
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::ExitStatus;
use crate::arguments::{at_least_one, count, named, share, source, weight, words};
use crate::index::tell_update;
use crate::models::{ModelOptions, image_file, open_all_images, open_image, several_images};
use crate::output::{raw, say};
use crate::progress::bar;
use crate::search_filters::IndexOptions;
use crate::search_page::{Head, PageOptions, remember};
use crate::warnings::{
    members, tell_match_quality, tell_notes, tell_truncated, tell_unknown, tell_unusable,
};

/// Above the results.
const HEADER: &str = "  score  match   cosine  image";

#[derive(clap::Args)]
pub struct SearchArguments {
    /// What to look for; with --like the first folder instead.
    #[arg(value_parser = words)]
    text: Option<String>,
    /// Folders, which are indexed; or tar shards, an annotation list or an image. Without any, the only index of this
    /// user, or that of the working directory.
    #[arg(value_name = "PATH", value_parser = source())]
    paths: Vec<String>,
    /// Joined before the image paths of a list.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Images to show.
    #[arg(long, alias = "top", default_value_t = 10, value_parser = at_least_one)]
    top_k: usize,
    /// Candidates that are re-ranked by the matching head; 0 for the cosine alone.
    #[arg(long, alias = "k", default_value_t = 64, value_parser = count)]
    rerank_k: usize,
    /// What results are ordered by: `posterior` (matching and cosine together), `itm`, `itm+itc` or
    /// `itm-prob`.
    #[arg(long, default_value = "posterior", value_parser = named::<Score>)]
    score: Score,
    /// Weight of the matching head in `posterior`, beside the cosine [default: that of the model, else 1].
    #[arg(long, value_name = "WEIGHT", value_parser = weight)]
    match_weight: Option<f32>,
    /// Match probability under which nothing matches; if it is given and nothing does, the exit code is 1
    /// [default: that of the model, if it has one].
    #[arg(long, value_name = "PROBABILITY", value_parser = share)]
    threshold: Option<f32>,
    #[command(flatten)]
    index: IndexOptions,
    #[command(flatten)]
    page: PageOptions,
    #[command(flatten)]
    model: ModelOptions,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct MatchArguments {
    /// Images, folders of images, or results of the last search (`@1`).
    #[arg(required = true, num_args = 1.., value_name = "IMAGE")]
    images: Vec<PathBuf>,
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
    check_words(text, &paths)?;
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

/// Refuses words in the place of folders: a text that is not in quotes, or behind its folder.
fn check_words(text: Option<&str>, paths: &[String]) -> Result<()> {
    let there = |text: &str| path_of(text).exists();
    // Patterns, splits and results by number name several files, or none.
    let plain = |path: &&String| !path.contains(['*', '{', '#', '@']);
    let Some(word) = paths.iter().filter(plain).find(|path| !there(path)) else { return Ok(()) };
    let Some(text) = text else { bail!("there is no folder {word}") };
    if let [_] = paths
        && there(text)
    {
        bail!("there is no {word}; the text comes first: albef search \"{word}\" {text}");
    }
    if let Some(folder) = paths.iter().find(|path| there(path)) {
        let (place, _) =
            paths.iter().enumerate().find(|(_, p)| *p == folder).unwrap_or((0, folder));
        if place == 0 {
            bail!("there is no folder {word}");
        }
        let words = paths[..place].join(" ");
        bail!(
            "there is no folder {word}; put a text of several words in quotes: albef search \"{text} {words}\" {folder}"
        );
    }
    Ok(())
}

/// Encodes all images now, and keeps nothing.
fn search_once(a: &SearchArguments, text: &str, path: &str) -> Result<ExitStatus> {
    let (device, reader) = a.model.prepare()?;
    let images = open_all_images(path, a.image_root.as_deref())?;
    let model = a.model.open(&reader, &device)?;
    tell_match_quality(&model);
    tell_unknown(&model, [text]);
    let (found, skipped) = model.search(&images, text, &a.options(), &bar())?;
    remember(text, found.results.iter().map(|hit| images.file(hit.index)));
    tell_unusable("skipped", &skipped);
    tell_notes(&reader);
    tell_truncated(found.truncated.into(), 1, model.caption_limits());
    let read = |i: usize| images.samples()[found.results[i].index].read_view(0, &reader);
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
        say!("{HEADER}")?;
        let preview = a.page.preview();
        for (i, hit) in found.results.iter().enumerate() {
            let name = images.name(hit.index);
            print_hit(hit.score, hit.probability, hit.cosine, &name)?;
            print_preview(preview, || read(i))?;
        }
    }
    let head = Head {
        text: Some(text),
        query: text.to_owned(),
        order: found.order,
        gallery: found.gallery as u64,
        verdict: &found.verdict,
    };
    let result = |hit: &Hit| ResultImage {
        name: images.name(hit.index),
        path: images.name(hit.index),
        probability: hit.probability,
        cosine: hit.cosine,
        ..ResultImage::default()
    };
    a.page.write(&model, &head, found.results.iter().map(result).collect(), &read)?;
    Ok(a.verdict(&found.verdict))
}

/// Brings the index of the folders up to date and searches it.
fn search_index(a: &SearchArguments, text: Option<&str>, paths: &[String]) -> Result<ExitStatus> {
    let (device, reader) = a.model.prepare()?;
    let like: Vec<_> =
        a.index.like.iter().map(|path| open_image(path, &reader)).collect::<Result<_>>()?;
    let model = a.model.open(&reader, &device)?;
    tell_match_quality(&model);
    let encoder = IndexEncoder::new(&model);
    let fingerprint = encoder.identity().fingerprint;
    let folders: Vec<PathBuf> = paths.iter().map(|path| path_of(path)).collect();
    let place = Place::find(&folders, a.index.place.location()?.as_ref(), Some(&fingerprint))?;
    let opened = open_current(&place, &encoder, &UpdateOptions::default(), &bar())?;
    opened.check_not_empty(&paths.join(", "))?;
    if let Some(update) = &opened.update {
        tell_update(update);
        tell_notes(&reader);
    }
    if let Some(reason) = &opened.stale {
        tracing::info!("searching the index as it is: {reason}");
    }
    let terms = a.index.plus.iter().chain(&a.index.minus).map(|(text, _)| text.as_str());
    tell_unknown(&model, text.into_iter().chain(terms));
    let query = IndexQuery {
        text: text.map(str::to_owned),
        like,
        terms: a.index.terms(),
        filter: a.index.filter(place.folders),
        options: a.options(),
        page: a.index.page.unwrap_or(1),
    };
    let found = encoder.search(&*opened.store, &query, &bar())?;
    let like = a.index.like.iter().map(|path| format!("like {}", path.display()));
    let label = text.map(str::to_owned).into_iter().chain(like).collect::<Vec<_>>().join(", ");
    remember(&label, found.results.iter().map(|hit| Some(hit.file.as_path())));
    tell_unusable("skipped", &found.skipped);
    tell_truncated(found.truncated.into(), 1, model.caption_limits());
    let read = |i: usize| {
        reader
            .open(&found.results[i].file)
            .map_err(|error| ImageError { kind: ImageErrorKind::Io, detail: error.to_string() })
    };
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
        value["index"] = json!(place.index.to_string());
        say!("{value}")?;
    } else {
        if !found.results.is_empty() {
            say!("{HEADER}")?;
        }
        let preview = a.page.preview();
        for (i, hit) in found.results.iter().enumerate() {
            print_hit(hit.score, hit.probability, hit.cosine, &shown(&hit.name))?;
            print_preview(preview, || read(i))?;
            for copy in &hit.copy_names {
                say!("{:>23}  {}", "copy", shown(copy))?;
            }
        }
        if found.results.is_empty() {
            // That a search is about some folders is no filter to the user.
            let folders_only = Filter { folders: Vec::new(), ..query.filter.clone() }.is_empty();
            eprintln!(
                "{}",
                match (found.page, folders_only) {
                    (2.., _) => "no more results",
                    (_, false) => "no image passes the filters",
                    (_, true) => "there is no image to be found",
                }
            );
        }
        if found.more && a.index.page.is_some() {
            eprintln!("more with --page {}", found.page + 1);
        }
    }
    let head = Head {
        text,
        query: label,
        order: found.order,
        gallery: found.gallery,
        verdict: &found.verdict,
    };
    let result = |hit: &IndexHit| ResultImage {
        name: shown(&hit.name),
        path: shown(&text_of_path(&hit.file)),
        probability: hit.probability,
        cosine: hit.cosine,
        copies: hit.copies.len(),
        ..ResultImage::default()
    };
    a.page.write(&model, &head, found.results.iter().map(result).collect(), &read)?;
    Ok(a.verdict(&found.verdict))
}

impl SearchArguments {
    fn options(&self) -> SearchOptions {
        SearchOptions::default()
            .top_k(self.top_k)
            .rerank_k(self.rerank_k)
            .score(self.score)
            .match_weight(self.match_weight)
            .threshold(self.threshold.map(f64::from))
    }

    /// Says so where nothing matches. It is the answer where a threshold is given.
    fn verdict(&self, found: &Verdict) -> ExitStatus {
        let Some(remark) = found.remark() else { return ExitStatus::Yes };
        eprintln!("{remark}");
        if self.threshold.is_some() { ExitStatus::No } else { ExitStatus::Yes }
    }
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

/// The image of a result, if previews are wanted. One that cannot be read any more has its line alone.
fn print_preview(
    how: Option<Preview>,
    read: impl FnOnce() -> Result<Image, ImageError>,
) -> Result<()> {
    let Some(how) = how else { return Ok(()) };
    match read() {
        Ok(image) => raw(how.draw(&image)?.as_bytes()),
        Err(error) => {
            tracing::warn!("no preview: {error}");
            Ok(())
        }
    }
}

pub fn match_pair(a: &MatchArguments) -> Result<ExitStatus> {
    let (device, reader) = a.model.prepare()?;
    if let Some(files) = several_images(&a.images)? {
        let model = a.model.open(&reader, &device)?;
        return match_several(a, &model, files);
    }
    let image = open_image(&image_file(&a.images[0])?, &reader)?;
    let model = a.model.open(&reader, &device)?;
    tell_match_quality(&model);
    tell_truncated(model.query_caption(&a.text).truncated.into(), 1, model.caption_limits());
    tell_unknown(&model, [a.text.as_str()]);
    let found = model.match_text(&[image], &a.text)?;
    let Some(found) = found.first() else { bail!("the model gave no score") };
    let threshold = model.defaults().match_threshold;
    let matches = threshold.map(|threshold| found.probability >= threshold);
    if a.json {
        let mut value = serde_json::to_value(found)?;
        (value["threshold"], value["matches"]) = (json!(threshold), json!(matches));
        say!("{value}")?;
    } else {
        let Match { cosine, itm_logit, probability } = found;
        say!("cosine {cosine:.3}, match probability {probability:.3} (itm_logit {itm_logit:.3})")?;
        if let (Some(false), Some(threshold)) = (matches, threshold) {
            eprintln!("probably no match: the model's threshold is {threshold:.3}");
        }
    }
    Ok(ExitStatus::Yes)
}

/// Each image in a line, in the order given.
fn match_several(a: &MatchArguments, model: &Pipeline, files: Vec<PathBuf>) -> Result<ExitStatus> {
    let images = ImageSet::of_files(files);
    tell_truncated(model.query_caption(&a.text).truncated.into(), 1, model.caption_limits());
    tell_unknown(model, [a.text.as_str()]);
    let ForImages { found, skipped } = model.match_set(&images, &a.text, &bar())?;
    tell_unusable("skipped", &skipped);
    tell_notes(model.reader());
    if found.is_empty() {
        bail!("none of the {} images can be used", images.len());
    }
    let threshold = model.defaults().match_threshold;
    let matches = |m: &Match| threshold.map(|threshold| m.probability >= threshold);
    if a.json {
        let results = found.iter().map(|(i, m)| {
            let mut value = serde_json::to_value(m)?;
            value["matches"] = json!(matches(m));
            value["image"] = json!(images.name(*i));
            Ok(value)
        });
        let results = results.collect::<Result<Vec<Value>>>()?;
        let skipped = skipped.len();
        say!("{}", json!({"results": results, "threshold": threshold, "skipped": skipped}))?;
    } else {
        say!("match   cosine  image")?;
        for (i, m) in &found {
            let mark = if matches(m) == Some(false) { "  (below the threshold)" } else { "" };
            say!("{:.3}  {:>7.3}  {}{mark}", m.probability, m.cosine, images.name(*i))?;
        }
    }
    Ok(ExitStatus::Yes)
}
