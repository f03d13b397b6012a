//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

use albef_files::folder::final_place;

/// The result of this crate's functions.
pub type Result<T, E = WeightsError> = std::result::Result<T, E>;

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said. Not a `source()`: it stands in the message already.
        cause: std::io::Error,
    },
    /// The bytes are not a checkpoint, or a damaged one.
    #[error("{path}: {detail}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the byte offset where known.
        detail: String,
    },
    /// A tensor is of a type that cannot be used here.
    #[error("a tensor of type {found} where {expected} is needed")]
    Type {
        /// Type in the file.
        found: String,
        /// Type needed.
        expected: &'static str,
    },
    /// A tensor's bytes do not fit its shape.
    #[error("a tensor of shape {shape:?} came with {bytes} bytes")]
    Size {
        /// Its shape.
        shape: Vec<usize>,
        /// Its bytes.
        bytes: usize,
    },
    /// Keys that a model needs are absent, or keys are there that it does not know.
    #[error("{0}")]
    Keys(String),
}

impl From<albef_files::FileError> for WeightsError {
    fn from(error: albef_files::FileError) -> Self {
        Self::Io { path: error.path, cause: error.cause }
    }
}

impl WeightsError {
    /// Wraps an input or output error with its file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path: final_place(&path), cause }
    }

    /// A damaged file.
    pub(crate) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: final_place(path), detail: detail.into() }
    }
}
