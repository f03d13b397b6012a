//! Images and models as the commands take them.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use albef::checkpoint::LoadedModel;
use albef::index::{LastSearch, path_of, result_number, walk};
use albef::task::TaskRef;
use albef::{Device, Image, ImageReader, ImageSet, ModelDefaults, Pipeline, default_model};
use albef_data::dataset::{similar_file, unread_formats};
use anyhow::{Context, Result, anyhow, bail};

use crate::warnings::{tell_left_out, tell_notes, tell_unusable};

/// The variable that names the default model.
const MODEL: &str = "ALBEF_MODEL";

/// Opens the model named, or the default one, for images of `image_res` pixels along a side, if not those of
/// the model. It reads images by `reader`.
pub fn open_model(
    path: Option<&Path>,
    image_res: Option<usize>,
    reader: &ImageReader,
    device: &Device,
) -> Result<Pipeline> {
    let model = open_model_at(&model_path(path)?, image_res, device)?.with_reader(reader.clone());
    if let (None, Some(about)) = (path, &model.defaults().about) {
        tracing::info!("the default model: {about}");
    }
    Ok(model)
}

/// What the model named, or the default one, does where nothing else is asked for; nothing where there is no model,
/// which opening it reports.
pub fn model_defaults(named: Option<&Path>) -> Result<ModelDefaults> {
    match model_path(named) {
        Ok(path) => Ok(ModelDefaults::of_model(&path)?),
        Err(_) => Ok(ModelDefaults::default()),
    }
}

/// The path of the model named, or of the default one.
pub fn model_path(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None if std::env::var_os(MODEL).is_some_and(|p| !p.is_empty() && !Path::new(&p).exists()) => {
            let named = std::env::var_os(MODEL).unwrap_or_default();
            bail!("{MODEL} names {}, which does not exist", Path::new(&named).display())
        }
        None => default_model().context(
            "no model found: there is no `models/mini` in the working directory, in the folder of the \
             executable or above it, or in `~/.local/share/albef` (`$XDG_DATA_HOME/albef`); hint: copy the \
             folder `models` of the repository there, or name a model with --model or ALBEF_MODEL",
        ),
    }
}

/// Opens a model for images of `image_res` pixels along a side, if not those of the model.
pub fn open_model_at(path: &Path, image_res: Option<usize>, device: &Device) -> Result<Pipeline> {
    Pipeline::open_at(path, image_res, device)
        .with_context(|| format!("cannot open the model {}", path.display()))
}

/// Opens a model that a task is measured with.
pub fn open_task_model(
    task: TaskRef,
    path: &Path,
    image_res: Option<usize>,
    device: &Device,
) -> Result<LoadedModel> {
    task.open_model(path, image_res, device)
        .with_context(|| format!("cannot open the model {}", path.display()))
}

/// Opens images of a folder, an archive or a list, and counts what forms no sample.
pub fn open_images(source: &str, image_root: Option<&Path>) -> Result<ImageSet> {
    let images = ImageSet::open(source, image_root)?;
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
        let found = walk(path, &AtomicBool::new(false)).map_err(albef::Error::from)?;
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
