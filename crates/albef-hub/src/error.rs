//! What can go wrong on the way to a file.

use std::io;
use std::path::{Path, PathBuf};

use albef_weights::{FileError, WeightsError};

/// The result of this crate's functions.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// What can go wrong on the way to a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// What was named is neither a published file, nor an address, nor a model of a hub.
    #[error(
        "`{0}` is no published checkpoint, no address and no model of a hub (`hub:OWNER/NAME`); `albef pull \
         --list` prints the published ones"
    )]
    Unknown(String),
    /// A part of a name or address cannot be used.
    #[error("`{name}`: {detail}")]
    Name {
        /// What was named.
        name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A setting of the environment cannot be used.
    #[error("{variable}: {detail}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Nothing may be fetched, and the file is not in the cache.
    #[error(
        "`{0}` is not in the cache, and nothing is fetched offline; run the command without --offline and \
         without HF_HUB_OFFLINE"
    )]
    Offline(String),
    /// The server does not have it.
    #[error("{url}: not found (status 404); {hint}")]
    NotFound {
        /// The address.
        url: String,
        /// What to do.
        hint: String,
    },
    /// The server wants to know who asks.
    #[error(
        "{url}: access is refused (status {status}); if the model has terms, accept them on its page, and put \
         an access token into HF_TOKEN"
    )]
    Refused {
        /// The address.
        url: String,
        /// Its answer.
        status: u16,
    },
    /// The server cannot be reached, or answers with an error again and again.
    #[error("{url}: {detail}; what was fetched is kept, run the same command again to resume")]
    Unreachable {
        /// The address.
        url: String,
        /// The last error.
        detail: String,
    },
    /// The server answers in a way that leads nowhere.
    #[error("{url}: {detail}")]
    Protocol {
        /// The address.
        url: String,
        /// What is wrong.
        detail: String,
    },
    /// Something else came than a checkpoint.
    #[error("{url}: {detail}. It was not kept")]
    NotThatFile {
        /// The address.
        url: String,
        /// What came.
        detail: String,
    },
    /// As many bytes came as the server announced, and they are not as many as the file has.
    #[error(
        "{url}: {found} bytes came, and the file has {expected}. They were not kept; try again later"
    )]
    Size {
        /// The address.
        url: String,
        /// Bytes that came.
        found: u64,
        /// Bytes of the file.
        expected: u64,
    },
    /// The bytes are not those that were published.
    #[error(
        "{url}: the checksum is {found}, and that of the file is {expected}: it was changed on the way or at \
         its source. It was not kept"
    )]
    Checksum {
        /// The address.
        url: String,
        /// The checksum of what came.
        found: String,
        /// The checksum of the file.
        expected: String,
    },
    /// Another file is in the place of the cache.
    #[error(
        "{path}: this is another file of the same name ({detail}); move it away to fetch {url}"
    )]
    Occupied {
        /// The place.
        path: PathBuf,
        /// What is known of it.
        detail: String,
        /// The address.
        url: String,
    },
    /// A model has no weights, or several.
    #[error("{model}: {detail}")]
    Files {
        /// The model.
        model: String,
        /// What is wrong.
        detail: String,
    },
    /// The caller ended the work.
    #[error("cancelled")]
    Cancelled,
    /// A file cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said. Not a `source()`: it stands in the message already.
        cause: io::Error,
    },
    /// A file cannot be written whole.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl HubError {
    /// Wraps an input or output error with its file.
    #[cfg_attr(not(feature = "client"), expect(dead_code, reason = "finding reads no file"))]
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |cause| Self::Io { path, cause }
    }
}

impl From<FileError> for HubError {
    fn from(error: FileError) -> Self {
        Self::Weights(error.into())
    }
}
