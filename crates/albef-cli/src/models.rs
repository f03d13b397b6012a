//! Images and models as the commands take them.

use std::path::{Path, PathBuf};

use albef::checkpoint::LoadedModel;
use albef::task::TaskRef;
use albef::{Device, Image, ImageReader, ImageSet, Pipeline, model_or_default};
use albef_data::dataset::similar_file;
use anyhow::{Context, Result, anyhow};

use crate::device::DeviceArg;
use crate::image_options::ImageOptions;
use crate::warnings::{tell_left_out, tell_notes};

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
    /// The device, and a reader for images of one's own.
    pub fn prepare(&self) -> Result<(Device, ImageReader)> {
        Ok((self.device.open()?, self.images.own()))
    }
}

impl ModelOptions {
    /// The device, and a reader for images of one's own: what can fail before a model is loaded.
    pub fn prepare(&self) -> Result<(Device, ImageReader)> {
        self.inference.prepare()
    }

    /// Opens the model for features; it reads images by `reader`.
    pub fn open(&self, reader: &ImageReader, device: &Device) -> Result<Pipeline> {
        let path = model_or_default(self.model.as_deref())?;
        let model = Pipeline::open_at(&path, self.inference.image_res, device)
            .with_context(|| cannot_open(&path))?;
        Ok(model.with_reader(reader.clone()))
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

/// Opens images of a folder, an archive or a list, and counts what forms no sample.
pub fn open_images(source: &str, image_root: Option<&Path>) -> Result<ImageSet> {
    let images = ImageSet::open(source, image_root)?;
    tell_left_out(source, images.skipped_members());
    images.notes().iter().for_each(|note| tracing::info!("{note}"));
    Ok(images)
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
