//! Sources of samples, told apart by what is at their path.

use std::path::{Path, PathBuf};

use super::contents::{Contents, Gathered};
use super::order::Draw;
use super::sample::Sample;
use super::store::Collect;
use super::unread::{Looks, looks, refusal};
use super::{annotation, entries, folder, parquet, shard};
use crate::error::{DataError, Result};
use crate::image::plain_file;
use crate::names;

/// One source of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSpec {
    /// A list, a folder, a tar or Parquet file, a pattern of such files (`a-{000..012}.tar`, `*.parquet`), or an image.
    pub path: String,
    /// Joined before the relative image paths of a list; if not given, the folder of the list. In a JSON
    /// list, as the official ones give it, paths of files that are there as they stand come first.
    pub image_root: Option<PathBuf>,
    /// How its samples are drawn in a mixture.
    pub draw: Draw,
    /// Whether images of a folder that its list of captions does not name belong to it, without captions: they do where
    /// images are searched or checked, and not where pairs are learned from or measured.
    pub with_unnamed: bool,
}

impl SourceSpec {
    /// [`SourceSpec::new`] of a path.
    #[must_use]
    pub fn of(path: &Path, image_root: Option<&Path>) -> Self {
        Self::new(&names::text_of_path(path), image_root)
    }

    /// The same with the images of a folder that its list does not name.
    #[must_use]
    pub fn with_unnamed(mut self) -> Self {
        self.with_unnamed = true;
        self
    }

    /// A source whose samples are drawn once an epoch. `path`: its text by [`crate::names`].
    #[must_use]
    pub fn new(path: &str, image_root: Option<&Path>) -> Self {
        Self {
            path: path.to_owned(),
            image_root: image_root.map(Path::to_owned),
            draw: Draw::default(),
            with_unnamed: false,
        }
    }
}

/// Reads the samples of a source, told apart by what is at the path.
///
/// # Errors
/// If nothing is there, or a list or archive is damaged as a whole.
pub fn open_source(spec: &SourceSpec) -> Result<Vec<Sample>> {
    Ok(read_source(spec)?.samples)
}

/// The same with what was left out.
///
/// # Errors
/// As [`open_source`].
pub fn read_source(spec: &SourceSpec) -> Result<Contents> {
    let mut contents = Contents::default();
    read_into(spec, &mut contents)?;
    Ok(contents)
}

/// Adds what a source holds to what `out` collects.
///
/// # Errors
/// As [`open_source`].
pub fn read_into<S: Collect>(spec: &SourceSpec, out: &mut Gathered<S>) -> Result<()> {
    let path = &*names::path_of(&spec.path);
    let root = spec.image_root.as_deref();
    if path.is_dir() {
        return folder::read(path, spec.with_unnamed, out);
    }
    let lower = spec.path.to_lowercase();
    if parquet::is_parquet(&lower) {
        return tables(spec, out);
    }
    if shard::is_archive(&lower) {
        return shard::read_all(&shard::expand(&spec.path)?, out);
    }
    let unusable = |error| DataError::Image { name: spec.path.clone(), error };
    match looks(path) {
        Looks::Image => {
            plain_file(path).map_err(unusable)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            folder::contents_of(vec![path.to_owned()], folder, out);
            return Ok(());
        }
        Looks::Unread(format) => {
            plain_file(path).map_err(unusable)?;
            return Err(unusable(refusal(format)));
        }
        Looks::Other => {}
    }
    // A split of a list that holds several, as in `dataset_coco.json#test`.
    let (list, split) = match spec.path.rsplit_once('#') {
        Some((list, split)) if !path.exists() => (names::path_of(list), Some(split)),
        _ => (path.to_owned(), None),
    };
    // Paths of a JSON list are taken as they stand, as in the official code.
    let lines = lower.ends_with(".jsonl") || entries::has_rows(&list);
    let root = match (root, lines) {
        (Some(root), _) => annotation::Root::Folder(root),
        (None, true) => annotation::Root::Folder(list.parent().unwrap_or(Path::new("."))),
        (None, false) => annotation::Root::Given,
    };
    annotation::read(&list, split, root, out)
}

/// Parquet files: those that hold images as shards, others as lists.
fn tables<S: Collect>(spec: &SourceSpec, out: &mut Gathered<S>) -> Result<()> {
    let mut shards = Vec::new();
    for path in shard::expand(&spec.path)? {
        if parquet::holds_images(&path)? {
            shards.push(path);
        } else {
            let beside = path.parent().unwrap_or(Path::new("."));
            let root = spec.image_root.as_deref().unwrap_or(beside);
            annotation::read(&path, None, annotation::Root::Folder(root), out)?;
        }
    }
    if shards.is_empty() { Ok(()) } else { shard::read_all(&shards, out) }
}
