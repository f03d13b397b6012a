//! `albef embed`: the unit-length features of images and texts, for other programs.

use std::path::PathBuf;

use albef::inference::write_npy;
use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::ExitStatus;
use crate::arguments::{place, words};
use crate::device::DeviceArg;
use crate::models::{open_images, open_model};
use crate::output::say;
use crate::progress::bar;
use crate::warnings::{tell_truncated, tell_unusable};

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder, tar shards or annotation list of images.
    images: Option<String>,
    /// A text; may be given several times.
    #[arg(long, value_parser = words)]
    text: Vec<String>,
    /// A file with a text in each line.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Joined before the image paths of a list.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Model folder, weights file or run [default: `models/mini`].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Write a NumPy array `[rows, width]` of f32 here, and the names of its rows beside it as
    /// `FILE.names.txt`, instead of JSON lines on standard output.
    #[arg(long, value_name = "FILE", value_parser = place)]
    output: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
}

/// Names of the rows, each with `image` or `text`, and their features.
#[derive(Default)]
struct Rows {
    names: Vec<(&'static str, String)>,
    values: Vec<f32>,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let texts = texts(a)?;
    let open = |source: &String| open_images(source, a.image_root.as_deref());
    let device = a.device.open()?;
    let images = a.images.as_ref().map(open).transpose()?;
    let model = open_model(a.model.as_deref(), &device)?;
    let mut rows = Rows::default();
    let mut skipped = 0;
    if let Some(images) = images {
        let features = model.embed_set(&images, &bar())?;
        tell_unusable("skipped", &features.skipped);
        skipped = features.skipped.len();
        let name = |i: &usize| ("image", images.samples()[*i].name.clone());
        rows.names.extend(features.images.iter().map(name));
        rows.values = features.values;
    }
    let truncated = texts.iter().filter(|text| model.caption(text).truncated).count();
    tell_truncated(truncated, texts.len(), model.caption_limits());
    for text in texts {
        rows.values.extend(model.embed_text(&text)?);
        rows.names.push(("text", text));
    }
    let width = model.embed_dim();
    match &a.output {
        Some(path) => {
            let names: Vec<&str> = rows.names.iter().map(|(_, name)| name.as_str()).collect();
            write_npy(path, &names, &rows.values, width)?;
            eprintln!("{} rows in {}, {skipped} images skipped", names.len(), path.display());
        }
        None => {
            for ((kind, name), feature) in rows.names.iter().zip(rows.values.chunks(width)) {
                say!("{}", json!({*kind: name, "feature": feature}))?;
            }
        }
    }
    Ok(ExitStatus::Yes)
}

/// The texts of `--text` and `--texts`; an error if nothing is to be embedded.
fn texts(a: &Arguments) -> Result<Vec<String>> {
    let mut texts = a.text.clone();
    if let Some(file) = &a.texts {
        let lines = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        texts.extend(lines.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned));
    }
    if let Some(file) = a.texts.as_ref().filter(|_| a.images.is_none() && texts.is_empty()) {
        bail!("nothing to embed: {} has no line with words", file.display());
    }
    if a.images.is_none() && texts.is_empty() {
        bail!("nothing to embed: name images, or texts with --text or --texts");
    }
    Ok(texts)
}
