//! Images and models as the commands take them.

use std::path::{Path, PathBuf};

use albef::checkpoint::LoadedModel;
use albef::model_path::note_inferred;
use albef::task::TaskRef;
use albef::{Device, Image, ImageSet, Pipeline, default_model};
use albef_data::dataset::similar_file;
use anyhow::{Context, Result, anyhow};

use crate::warnings::tell_left_out;

/// Opens the model named, or the default one.
pub fn open_model(path: Option<&Path>, device: &Device) -> Result<Pipeline> {
    open_model_at(&model_path(path)?, None, device)
}

/// The path of the model named, or of the default one.
pub fn model_path(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => default_model().context(
            "no model is named, and there is no `models/mini` next to the working directory or the \
             executable, nor in the user's data folder; name one with --model or ALBEF_MODEL (`albef demo` \
             and `albef pretrain` train one)",
        ),
    }
}

/// Opens a model for images of `image_res` pixels along a side, if not those of the model.
pub fn open_model_at(path: &Path, image_res: Option<usize>, device: &Device) -> Result<Pipeline> {
    Pipeline::open_at(path, image_res, device)
        .with_context(|| format!("cannot open the model {}", path.display()))
}

/// Opens a model that a task is measured with, and says what of it is not as in its file.
pub fn open_task_model(
    task: TaskRef,
    path: &Path,
    image_res: Option<usize>,
    device: &Device,
) -> Result<LoadedModel> {
    note_inferred(path);
    let model = task
        .open_model(path, image_res, device)
        .with_context(|| format!("cannot open the model {}", path.display()))?;
    if let Some((from, to)) = model.report.resized {
        tracing::info!("position tables interpolated from {from} x {from} to {to} x {to} patches");
    }
    Ok(model)
}

/// Opens images of a folder, an archive or a list, and counts what forms no sample.
pub fn open_images(source: &str, image_root: Option<&Path>) -> Result<ImageSet> {
    let images = ImageSet::open(source, image_root)?;
    tell_left_out(source, images.skipped_members());
    images.notes().iter().for_each(|note| tracing::info!("{note}"));
    Ok(images)
}

/// The one image.
pub fn open_image(path: &Path) -> Result<Image> {
    albef::open_image(path, &albef::DecodeOptions::default()).map_err(|error| {
        // A similar name is worth a word only where there is no file.
        let near = (!path.exists()).then(|| similar_file(path)).flatten();
        match near {
            Some(near) => anyhow!("{error}; {near}"),
            None => error.into(),
        }
    })
}
