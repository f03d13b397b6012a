//! What can be wrong with data, with file and place.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// Why an image cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageErrorKind {
    /// No such file.
    NotFound,
    /// A file of no bytes.
    Empty,
    /// The file ends before the image does.
    Truncated,
    /// The bytes contradict the format.
    Corrupt,
    /// Not an image of a known format.
    UnknownFormat,
    /// An image of this format, which is not read, or not in this form.
    Unsupported(&'static str),
    /// More pixels than allowed.
    TooLarge,
    /// Another image stands in its place.
    Repeated,
    /// Its caption cannot be used, or only in part.
    Caption,
    /// An entry of a list that gives no image.
    Entry,
    /// The system failed to read it.
    Io,
}

impl ImageErrorKind {
    /// The name used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Empty => "empty",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::UnknownFormat => "unknown-format",
            Self::Unsupported(_) => "unsupported",
            Self::TooLarge => "too-large",
            Self::Repeated => "repeated",
            Self::Caption => "caption",
            Self::Entry => "entry",
            Self::Io => "io",
        }
    }
}

/// Why bytes do not give an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageError {
    /// The class of the error.
    pub kind: ImageErrorKind,
    /// What the decoder said.
    pub detail: String,
}

impl ImageError {
    /// An error of this class, with what the decoder said.
    pub(crate) fn new(kind: ImageErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ImageErrorKind::Caption | ImageErrorKind::Entry | ImageErrorKind::Repeated => {
                f.write_str(&self.detail)
            }
            ImageErrorKind::NotFound => f.write_str("image not found"),
            ImageErrorKind::Io => write!(f, "the image cannot be read: {}", self.detail),
            kind => write!(f, "{} image: {}", kind.name(), self.detail),
        }
    }
}

/// What can be wrong with data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// An image cannot be used.
    #[error("{name}: {error}")]
    Image {
        /// File or member of an archive.
        name: String,
        /// Why.
        error: ImageError,
    },
    /// A file cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said. Not a `source()`: it stands in the message already.
        cause: std::io::Error,
    },
    /// An annotation file does not say what it should.
    #[error("{path}{place}: {detail}")]
    Annotation {
        /// The file.
        path: PathBuf,
        /// Entry, line or byte, ready to follow the path.
        place: String,
        /// What is wrong and what is expected.
        detail: String,
    },
    /// A vocabulary that cannot be used.
    #[error("vocabulary {path}: {detail}")]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Too many images could not be used.
    #[error(
        "{count} images could not be used, more than the limit of {limit}:\n{list}\nhint: mend or remove them, or raise `max_skipped`"
    )]
    TooManySkipped {
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
        /// Names and reasons.
        list: String,
    },
    /// Several files of a source cannot be used.
    #[error("{count} of {of} files are missing, damaged or cut:\n{list}")]
    Files {
        /// How many.
        count: usize,
        /// Files of the source.
        of: usize,
        /// Names and reasons, one a line.
        list: String,
    },
    /// Fewer samples than a batch.
    #[error(
        "the data has {samples} usable samples but a batch takes {batch}; set `{key}` to at most {samples} or add data"
    )]
    SmallerThanBatch {
        /// Samples.
        samples: usize,
        /// Batch size.
        batch: usize,
        /// The key of the configuration that gives it.
        key: &'static str,
    },
    /// A choice that cannot be met.
    #[error("{0}")]
    Argument(String),
    /// A file is not the one that a manifest lists.
    #[error("{path}: it differs from what {manifest} says: {detail}")]
    Differs {
        /// The file.
        path: PathBuf,
        /// The manifest.
        manifest: PathBuf,
        /// In what.
        detail: String,
    },
    /// Work was stopped from outside; what is done stays.
    #[error("interrupted")]
    Interrupted,
    /// Our own mistake.
    #[error("internal: {0}; please report this")]
    Internal(String),
}

impl DataError {
    /// Wraps an input or output error with its file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path, cause }
    }

    /// An annotation error at a place.
    pub(crate) fn annotation(path: &Path, place: String, detail: impl Into<String>) -> Self {
        Self::Annotation { path: path.to_owned(), place, detail: detail.into() }
    }
}

impl From<crate::control::Cancelled> for DataError {
    fn from(_: crate::control::Cancelled) -> Self {
        Self::Interrupted
    }
}
/// A type error without the names of Rust's types.
#[must_use]
pub fn in_words(error: &str) -> String {
    let mut text = error.to_owned();
    for (rust, words) in [
        ("expected usize", "expected a whole number from 0 on"),
        ("expected u64", "expected a whole number from 0 on"),
        ("expected i64", "expected a whole number"),
        ("expected u32", "expected a whole number from 0 on"),
        ("expected i32", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected f32", "expected a number"),
        ("expected a boolean", "expected `true` or `false`"),
        ("expected a string", "expected a text"),
        ("expected a tuple of size 2", "expected a list of two numbers"),
        ("invalid type: string", "found the text"),
        ("invalid type: integer", "found the number"),
        ("invalid type: floating point", "found the number"),
        ("invalid type: boolean", "found"),
        ("invalid type: sequence", "found a list"),
        ("invalid type: map", "found keys with values"),
        ("invalid type: null", "found nothing"),
        ("invalid value: integer", "found the number"),
    ] {
        text = text.replace(rust, words);
    }
    // Structures have names in the program only.
    match text.split_once("expected struct ") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            format!("{before}expected keys with values{rest}")
        }
        None => text,
    }
}
