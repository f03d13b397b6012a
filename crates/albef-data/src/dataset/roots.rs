//! Where the images of a list are.

use std::path::{Path, PathBuf};

use crate::names;

/// The folders of the images of a list. With an empty root a path is taken as it is, else relative to
/// the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRoots {
    /// Of most lists.
    pub image_root: PathBuf,
    /// Of questions with `"dataset": "vqa"`.
    pub vqa_root: PathBuf,
    /// Of questions with `"dataset": "vg"`.
    pub vg_root: PathBuf,
}

/// Where an image of a list is without a root: as it stands if it is there, else beside the list.
pub(super) fn found(image: &str, list: &Path) -> PathBuf {
    let stands = names::path_of(image);
    match stands.is_relative() && !stands.exists() {
        true => list.with_file_name(stands),
        false => stands,
    }
}
