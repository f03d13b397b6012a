//! What can go wrong with an index, and the way out.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = IndexError> = std::result::Result<T, E>;

/// What can go wrong with an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// There is no index in a folder.
    #[error("{path}: there is no index here; hint: `albef index FOLDER --index {path}` makes one")]
    Missing {
        /// The folder of the index.
        path: PathBuf,
    },
    /// The vectors of an index are of another model, or of other preprocessing.
    #[error(
        "{place}: the index holds vectors of another model or other image options ({found}), not of this \
         one ({wanted}); hint: use the model and options that it was made with, or add `--reencode` to \
         `albef index` to encode all images again"
    )]
    OtherModel {
        /// The index.
        place: String,
        /// Model and fingerprint of the index.
        found: String,
        /// Model and fingerprint at hand.
        wanted: String,
    },
    /// The index was written by a newer version of the program.
    #[error(
        "{place}: the index has format {found}, and this program reads up to {known}; hint: use a newer \
         program, or another folder with --index"
    )]
    NewerFormat {
        /// The index.
        place: String,
        /// Its version.
        found: u32,
        /// The newest version that is read.
        known: u32,
    },
    /// Another process writes to the index.
    #[error(
        "{path}: another process{holder} is writing to this index; searching works meanwhile. hint: wait for \
         its end, or choose another folder with --index"
    )]
    Locked {
        /// The folder of the index.
        path: PathBuf,
        /// ` (process N)` where it is known.
        holder: String,
    },
    /// Writing through a store that was opened for reading.
    #[error("{place}: the index is open for reading only")]
    ReadOnly {
        /// The index.
        place: String,
    },
    /// The catalogue or the vectors contradict their checksums or each other.
    #[error(
        "{place}: the index is damaged: {detail}; hint: `albef index repair` rebuilds it from what is there"
    )]
    Damaged {
        /// The index.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// The device that holds the index has no room.
    #[error(
        "{path}: no room left to write the index ({cause}); what was acknowledged is kept. hint: free some \
         space and run the same command again"
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A file of the index, or a folder of images, cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said. Not a `source()`: it stands in the message already.
        cause: std::io::Error,
    },
    /// The database refused.
    #[error("{place}: {cause}")]
    Database {
        /// The database.
        place: String,
        /// What it said.
        cause: String,
    },
    /// A vector whose width is not that of the index.
    #[error("a vector has {found} values; those of this index have {expected}")]
    Width {
        /// Its values.
        found: usize,
        /// Values of a vector of the index.
        expected: usize,
    },
    /// A vector that cannot be kept: its values are not finite.
    #[error("a vector has values that are not finite; hint: the weights of the model are damaged")]
    NotFinite,
    /// An image that the index does not hold.
    #[error("the index holds no image number {id}")]
    UnknownImage {
        /// Its number.
        id: i64,
    },
    /// A pattern of paths that cannot be read.
    #[error("the pattern `{pattern}` cannot be read: {detail}")]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong.
        detail: String,
    },
    /// The encoder failed.
    #[error("encoding failed: {0}")]
    Encoder(String),
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl IndexError {
    /// Wraps an error of the system with its file; a full disk is told apart.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| match cause.kind() {
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge => Self::NoSpace { path, cause: cause.to_string() },
            _ => Self::Io { path, cause },
        }
    }

    /// Something that contradicts itself.
    pub(crate) fn damaged(place: impl ToString, detail: impl Into<String>) -> Self {
        Self::Damaged { place: place.to_string(), detail: detail.into() }
    }
}

impl From<albef_data::control::Cancelled> for IndexError {
    fn from(_: albef_data::control::Cancelled) -> Self {
        Self::Cancelled
    }
}
