//! `albef calibrate`.

use std::path::PathBuf;

use albef::calibration::{CalibrateOptions, calibrate, calibrate_grounding};
use albef::checkpoint::Checkpoint;
use albef::eval::grounding::Cases;
use albef::{ModelDefaults, model_or_default};
use albef_data::names::text_of_path;
use anyhow::{Result, bail};
use serde_json::json;

use crate::ExitStatus;
use crate::arguments::at_least_one;
use crate::models::{ModelOptions, open_images};
use crate::output::say;
use crate::progress::bar;
use crate::warnings::{tell_notes, tell_truncated, tell_unusable};

#[derive(clap::Args)]
pub struct Arguments {
    /// Images with captions that the model was not trained on: a JSON list, a folder or shards.
    #[arg(long, value_name = "LIST", required_unless_present = "grounding")]
    annotations: Option<PathBuf>,
    /// Expressions with boxes, as `albef evaluate grounding` reads them; several lists count as one.
    #[arg(long, value_name = "LIST", num_args = 1..)]
    grounding: Vec<PathBuf>,
    /// Joined before the image paths of the lists.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Candidates that are re-ranked, as in the searches that are to follow.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    rerank_k: usize,
    /// Resamples of bootstrap intervals.
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    resamples: usize,
    /// Write the values to the `defaults.json` of the model folder; its other fields remain.
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    model: ModelOptions,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let path = model_or_default(a.model.model.as_deref())?;
    let mut defaults = ModelDefaults::of_model(&path)?;
    if a.write && a.model.inference.image_res.is_some() {
        bail!(
            "--write cannot be used with --image-res: a model's defaults are for its own resolution"
        );
    }
    // What cannot be written is known before the time is spent.
    let folder = a.write.then(|| Checkpoint::folder_of_defaults(&path)).transpose()?;
    let (device, reader) = a.model.prepare()?;
    let root = a.image_root.as_deref();
    let list = a.annotations.as_ref();
    let images = list.map(|list| open_images(&text_of_path(list), root)).transpose()?;
    let cases = match &a.grounding[..] {
        [] => None,
        lists => Some(Cases::of_lists(lists, root.unwrap_or(".".as_ref()))?),
    };
    let model = a.model.open(&reader, &device)?;
    let options = CalibrateOptions { rerank_k: a.rerank_k, resamples: a.resamples };
    let mut lines = Vec::new();
    let (mut matching, mut ground) = (None, None);
    if let Some(images) = &images {
        let found = calibrate(&model, images, &options, &bar())?;
        tell_unusable("skipped", &found.skipped);
        tell_truncated(found.truncated_texts, found.texts, model.caption_limits());
        if found.unusable_texts > 0 {
            tracing::warn!(
                "{} texts take no part: they have no words, or no image that they are wrong about",
                found.unusable_texts
            );
        }
        lines.extend(found.lines());
        found.apply(&mut defaults);
        matching = Some(found);
    }
    if let Some(cases) = &cases {
        let found = calibrate_grounding(&model, cases, a.resamples, &bar())?;
        if found.skipped > 0 {
            tracing::warn!(
                "{} expressions are of unusable images and count as wrong",
                found.skipped
            );
        }
        lines.extend(found.lines());
        found.apply(&mut defaults);
        ground = Some(found);
    }
    tell_notes(&reader);
    match a.json {
        true => {
            say!("{}", json!({"matching": matching, "grounding": ground, "defaults": defaults}))?
        }
        false => lines.iter().try_for_each(|line| say!("{line}"))?,
    }
    match folder {
        Some(folder) => eprintln!("wrote {}", defaults.write(&folder)?.display()),
        None => tracing::info!("--write makes these the defaults of the model"),
    }
    Ok(ExitStatus::Yes)
}
