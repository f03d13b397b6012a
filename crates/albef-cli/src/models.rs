//! Images and models as the commands take them.

use std::path::{Path, PathBuf};

use albef::checkpoint::LoadedModel;
use albef::index::{LastSearch, path_of, result_number, walk};
use albef::task::TaskRef;
use albef::{
    Control, Device, Image, ImageReader, ImageSet, ModelDefaults, Pipeline, model_or_default,
};
use albef_data::dataset::{similar_file, unread_formats};
use anyhow::{Context, Result, anyhow, bail};

use crate::device::{DeviceArg, PrecisionArg};
use crate::image_options::ImageOptions;
use crate::warnings::{tell_left_out, tell_notes, tell_unusable};

/// How a model is used: the same options for all commands that take images to one.
#[derive(clap::Args)]
pub struct InferenceOptions {
    /// Pixels along the side of an image, a multiple of the patch size, if not those of the model; the
    /// position table is interpolated.
    #[arg(long, value_name = "PIXELS")]
    pub image_res: Option<usize>,
    #[command(flatten)]
    pub images: ImageOptions,
    #[command(flatten)]
    pub precision: PrecisionArg,
    #[command(flatten)]
    pub device: DeviceArg,
}

/// A model, or the default one, and how it is used.
#[derive(clap::Args)]
pub struct ModelOptions {
    /// Model folder, weights file or run [default: `models/mini`].
    #[arg(long)]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub inference: InferenceOptions,
}

impl InferenceOptions {
    /// The device, and a reader for images of one's own, on the background that the model at `path` has by
    /// default: what can fail before a model is loaded.
    pub fn prepare(&self, path: &Path) -> Result<(Device, ImageReader)> {
        Ok((self.device.open()?, self.images.own(&ModelDefaults::of_model(path)?)))
    }
}

impl ModelOptions {
    /// [`InferenceOptions::prepare`] for the model named, or the default one. Where there is none, opening it says so.
    pub fn prepare(&self) -> Result<(Device, ImageReader)> {
        match model_or_default(self.model.as_deref()) {
            Ok(path) => self.inference.prepare(&path),
            Err(_) => {
                let own = ModelDefaults::default();
                Ok((self.inference.device.open()?, self.inference.images.own(&own)))
            }
        }
    }

    /// Opens the model for features; it reads images by `reader`.
    pub fn open(&self, reader: &ImageReader, device: &Device) -> Result<Pipeline> {
        let path = model_or_default(self.model.as_deref())?;
        let model = Pipeline::open_at(&path, self.inference.image_res, device)
            .with_context(|| cannot_open(&path))?;
        tell_default(self.model.is_some(), model.defaults());
        Ok(model.with_precision(self.inference.precision.on(device)).with_reader(reader.clone()))
    }
}

/// Says what the default model is for, where none was named.
pub fn tell_default(named: bool, defaults: &ModelDefaults) {
    if let (false, Some(about)) = (named, &defaults.about) {
        tracing::info!("the default model: {about}");
    }
}

fn cannot_open(path: &Path) -> String {
    format!("cannot open the model {}", path.display())
}

/// Opens a model that a task is measured with.
pub fn open_task_model(
    task: TaskRef,
    path: &Path,
    image_res: Option<usize>,
    device: &Device,
) -> Result<LoadedModel> {
    task.open_model(path, image_res, device).with_context(|| cannot_open(path))
}

/// Opens images of a folder, an archive or a list with their captions, and counts what forms no sample.
pub fn open_images(source: &str, image_root: Option<&Path>) -> Result<ImageSet> {
    told(source, ImageSet::open(source, image_root)?)
}

/// The same with all images of a folder, whether a list there names them or not.
pub fn open_all_images(source: &str, image_root: Option<&Path>) -> Result<ImageSet> {
    told(source, ImageSet::open_all(source, image_root)?)
}

fn told(source: &str, images: ImageSet) -> Result<ImageSet> {
    tell_left_out(source, images.skipped_members());
    images.notes().iter().for_each(|note| tracing::info!("{note}"));
    Ok(images)
}

/// The file of an image: itself, or a result of the last search (`@3`).
pub fn image_file(path: &Path) -> Result<PathBuf> {
    match result_number(path) {
        Some(number) => Ok(LastSearch::read().and_then(|last| last.file(number))?),
        None => Ok(path.to_owned()),
    }
}

/// The files of several images, of which some may be folders that are walked; `None` for a single image.
pub fn several_images(paths: &[PathBuf]) -> Result<Option<Vec<PathBuf>>> {
    if let [one] = paths
        && !one.is_dir()
    {
        return Ok(None);
    }
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(image_file(path)?);
            continue;
        }
        let found = walk(path, &Control::default()).map_err(albef::Error::from)?;
        if let Some(line) = unread_formats(&found.unread) {
            tracing::warn!("{}: {line}", path.display());
        }
        tell_unusable("cannot be read", &found.unreadable);
        files.extend(found.images.iter().map(|image| path.join(path_of(&image.path))));
    }
    if files.is_empty() {
        let shown = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        bail!("there are no images in {}", shown.join(", "));
    }
    Ok(Some(files))
}

/// The one image.
pub fn open_image(path: &Path, reader: &ImageReader) -> Result<Image> {
    let image = reader.open(path).map_err(|error| with_similar(path, error.into()))?;
    tell_notes(reader);
    Ok(image)
}

/// Refuses an image that cannot be read, before the time that a model takes to load is spent.
pub fn check_image(path: &Path, reader: &ImageReader) -> Result<()> {
    albef::open_image(path, &reader.options).map_err(|error| with_similar(path, error.into()))?;
    Ok(())
}

/// The error with a file of a similar name, if there is none at `path`.
fn with_similar(path: &Path, error: anyhow::Error) -> anyhow::Error {
    match (!path.exists()).then(|| similar_file(path)).flatten() {
        Some(near) => anyhow!("{error}; {near}"),
        None => error,
    }
}
