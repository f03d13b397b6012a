//! `albef classify`.

use std::path::PathBuf;

use albef::inference::ClassifyOptions;
use anyhow::Result;

use crate::ExitStatus;
use crate::arguments::words;
use crate::models::{ModelOptions, open_image};
use crate::output::say;
use crate::warnings::tell_truncated;
use albef::task::distinct;

#[derive(clap::Args)]
pub struct Arguments {
    /// The image.
    image: PathBuf,
    /// The classes.
    #[arg(required = true, value_parser = words)]
    labels: Vec<String>,
    /// Sentence with `{}` in the place of the class; the features of several are averaged.
    #[arg(long, default_values = ["{}", "a picture of a {}"])]
    template: Vec<String>,
    #[command(flatten)]
    model: ModelOptions,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let labels = distinct("class", a.labels.clone());
    let options = ClassifyOptions::default().templates(a.template.clone());
    let (device, reader) = a.model.prepare()?;
    let image = open_image(&a.image, &reader)?;
    let model = a.model.open(&reader, &device)?;
    let found = model.classify(&image, &labels, &options)?;
    let prompts = labels.len() * a.template.len();
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
