//! `albef classify`.

use std::path::PathBuf;

use albef::inference::{ClassifyOptions, ForImages};
use albef::{ImageSet, Pipeline};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::ExitStatus;
use crate::arguments::words;
use crate::models::{ModelOptions, image_file, open_image, several_images};
use crate::output::say;
use crate::progress::bar;
use crate::warnings::{tell_notes, tell_truncated, tell_unknown, tell_unusable};
use albef::task::distinct;

#[derive(clap::Args)]
pub struct Arguments {
    /// The image, a folder of images, or a result of the last search (`@1`).
    image: PathBuf,
    /// The classes.
    #[arg(required = true, value_parser = words)]
    labels: Vec<String>,
    /// Another image, folder or result to classify; may be given several times.
    #[arg(long, value_name = "IMAGE")]
    also: Vec<PathBuf>,
    /// Sentence with `{}` in the place of the class, several times for several: their features are averaged, and the
    /// matching head reads the first [default: those of the model, else `{}` and `a picture of a {}`].
    #[arg(long)]
    template: Vec<String>,
    #[command(flatten)]
    model: ModelOptions,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let labels = distinct("class", a.labels.clone());
    let (device, reader) = a.model.prepare()?;
    let paths: Vec<PathBuf> = std::iter::once(&a.image).chain(&a.also).cloned().collect();
    let several = several_images(&paths)?;
    // A bad image is told before the time that a model takes to load is spent.
    let image = match several {
        None => Some(open_image(&image_file(&a.image)?, &reader)?),
        Some(_) => None,
    };
    let model = a.model.open(&reader, &device)?;
    let options = match &a.template[..] {
        [] => model.classify_options(),
        given => ClassifyOptions::default().templates(given),
    };
    tell_unknown(&model, labels.iter().map(String::as_str));
    let image = match (image, several) {
        (Some(image), _) => image,
        (None, files) => {
            return classify_several(a, &model, &labels, &options, files.unwrap_or_default());
        }
    };
    let found = model.classify(&image, &labels, &options)?;
    let prompts = labels.len() * options.templates.len();
    tell_truncated(found.truncated_texts, prompts, model.caption_limits());
    if a.json {
        say!("{}", serde_json::to_value(&found)?)?;
    } else {
        say!("share   cosine  match   class")?;
        for c in &found.classes {
            let (share, cosine, matches) = (c.probability, c.cosine, c.match_probability);
            say!("{share:>5.3}  {cosine:>7.3}  {matches:>5.3}   {}", c.label)?;
        }
    }
    Ok(ExitStatus::Yes)
}

/// Each image in a line with its best class, in the order given.
fn classify_several(
    a: &Arguments,
    model: &Pipeline,
    labels: &[String],
    options: &ClassifyOptions,
    files: Vec<PathBuf>,
) -> Result<ExitStatus> {
    let images = ImageSet::of_files(files);
    let ForImages { found, skipped } = model.classify_set(&images, labels, options, &bar())?;
    tell_unusable("skipped", &skipped);
    tell_notes(model.reader());
    if found.is_empty() {
        bail!("none of the {} images can be used", images.len());
    }
    if let Some((_, first)) = found.first() {
        let prompts = labels.len() * options.templates.len();
        tell_truncated(first.truncated_texts, prompts, model.caption_limits());
    }
    if a.json {
        let results = found.iter().map(|(i, classes)| {
            let mut value = serde_json::to_value(classes)?;
            value["image"] = json!(images.name(*i));
            Ok(value)
        });
        let results = results.collect::<Result<Vec<Value>>>()?;
        say!("{}", json!({"results": results, "skipped": skipped.len()}))?;
        return Ok(ExitStatus::Yes);
    }
    say!("share   match   class  image")?;
    for (i, found) in &found {
        if let Some(c) = found.classes.first() {
            let name = images.name(*i);
            say!("{:>5.3}   {:>5.3}   {}  {name}", c.probability, c.match_probability, c.label)?;
        }
    }
    Ok(ExitStatus::Yes)
}
