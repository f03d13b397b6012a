//! What can go wrong, with what the caller needs to mend it.

use std::path::PathBuf;

/// The result of the library's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight that the model needs is absent.
    #[error("the weights have no `{key}`")]
    MissingWeight {
        /// Its official name.
        key: String,
    },
    /// A weight has another size than the model.
    #[error("weight `{key}` has shape {found:?} where the configuration wants {expected:?}")]
    WeightShape {
        /// Its official name.
        key: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// Images of another size than the position table.
    #[error(
        "images are {found:?} [channels, height, width]; this model takes [3, {expected}, {expected}]"
    )]
    ImageShape {
        /// Side in pixels that the model takes.
        expected: usize,
        /// Channels, height and width.
        found: [usize; 3],
    },
    /// A text with no token, or with more than the position table has.
    #[error("text {index} has {found} tokens; between 1 and {limit} are possible")]
    TextLength {
        /// Which text of the batch.
        index: usize,
        /// Its tokens.
        found: usize,
        /// Length of the position table.
        limit: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} lies outside the vocabulary of {vocabulary} pieces")]
    TokenId {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A fusion layer was run without an image.
    #[error("the fusion layers need image states")]
    NoImage,
    /// The images of a batch of texts do not fit.
    #[error("{texts} texts came with {given} image numbers for {images} images")]
    ImageOfText {
        /// Texts.
        texts: usize,
        /// Image numbers given.
        given: usize,
        /// Images at hand.
        images: usize,
    },
    /// The checkpoint has no vocabulary head, which masked language modelling needs.
    #[error(
        "these weights have no vocabulary head (`text_encoder.cls.*`): start from a pre-training checkpoint"
    )]
    NoMlmHead,
    /// The checkpoint has no contrastive side, which features need.
    #[error(
        "these weights have no projections (`vision_proj`, `text_proj`), so that there are no features to \
         compare; use a pre-training or retrieval checkpoint, or `albef ground --mode itm`"
    )]
    NoProjections,
    /// A checkpoint of another task than the wanted one.
    #[error(
        "{source_file} is a checkpoint for {found}, and one for {wanted} is needed; hint: {hint}"
    )]
    WrongTask {
        /// The file.
        source_file: String,
        /// The task that it is for, in words.
        found: &'static str,
        /// The task that it should be for, in words.
        wanted: String,
        /// The way out.
        hint: String,
    },
    /// A list of another task than the wanted one.
    #[error(
        "{problem}; the list is one of {found}, and one of {wanted} is needed; hint: `albef evaluate \
         {found}` and `albef finetune {found}` read it"
    )]
    WrongList {
        /// What is wrong, with file and entry.
        problem: String,
        /// The task of the list.
        found: &'static str,
        /// The task whose list is needed.
        wanted: &'static str,
    },
    /// A configuration that cannot work.
    #[error("configuration: {0}")]
    Config(String),
    /// A loss that is not a number, or a weight that became none.
    #[error(
        "step {step} (epoch {epoch}): {what}; nothing of this step is saved, earlier checkpoints are untouched. hint: lower the learning rate (`--resume` goes on with another `optimizer.lr`) or look at the images of this batch ({batch})"
    )]
    NotFinite {
        /// Optimiser step, from 1 as in the log.
        step: u64,
        /// Epoch, from 0.
        epoch: u64,
        /// Which loss or weight, and what became of it.
        what: String,
        /// The first samples of the batch.
        batch: String,
        /// Their indices in the data set.
        samples: Vec<usize>,
    },
    /// A weight in a file, or one to be written, that is no finite number.
    #[error("{place}: the weight `{key}` is not finite; {hint}")]
    WeightNotFinite {
        /// The file.
        place: String,
        /// Its official name.
        key: String,
        /// The way out.
        hint: &'static str,
    },
    /// What a model gives is not finite.
    #[error(
        "the model gives {what} that are not finite numbers; hint: its weights are damaged or too large, \
         take an earlier checkpoint or another file"
    )]
    OutputNotFinite {
        /// What it gives.
        what: &'static str,
    },
    /// A file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said. Not a `source()`: it stands in the message already.
        cause: std::io::Error,
    },
    /// Another run has a folder.
    #[error(
        "{folder}: another run writes to this folder; hint: wait for its end or choose another folder"
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// What a key of the configuration names cannot be used.
    #[error("`{key}`: {error}")]
    Key {
        /// The key.
        key: &'static str,
        /// Why.
        error: Box<Error>,
    },
    /// A JSON file that does not say what it should.
    #[error("{path}: {detail}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Data could not be read.
    #[error(transparent)]
    Data(#[from] albef_data::error::DataError),
    /// Weights could not be read or written.
    #[error(transparent)]
    Weights(#[from] albef_weights::WeightsError),
    /// An index of images could not be read or written.
    #[cfg(feature = "index")]
    #[error(transparent)]
    Index(#[from] albef_index::IndexError),
    /// A text without words, where a text is the query.
    #[error("the text is empty, which says nothing about an image; write some words")]
    EmptyText,
    /// Features that do not come from this model.
    #[error("feature {index} has {found} values; those of this model have {expected}")]
    FeatureWidth {
        /// Which feature of the list.
        index: usize,
        /// Its values.
        found: usize,
        /// Values of a feature of this model.
        expected: usize,
    },
    /// A source without images.
    #[error("there is no image in {source_path}{hint}")]
    NoImages {
        /// The folder, archive or list.
        source_path: String,
        /// What is there instead, ready to follow the path.
        hint: String,
    },
    /// Images of which none can be decoded.
    #[error("none of the {images} images{place} can be used{hint}")]
    NoUsableImages {
        /// Images.
        images: usize,
        /// ` in ` and the source, or nothing.
        place: String,
        /// The first failure or the way out, or nothing.
        hint: String,
    },
    /// An option that cannot work.
    #[error("{0}")]
    Argument(String),
    /// A model that is named, and neither a file nor folder nor fetched.
    #[error("{0}")]
    NoModel(String),
    /// The computation was cancelled ([`crate::Control`]).
    #[error("cancelled")]
    Cancelled,
    /// The device cannot be had.
    #[error("device `{name}`: {detail}")]
    Device {
        /// As asked for.
        name: String,
        /// What is in the way, and the way out.
        detail: String,
    },
}

impl From<albef_data::control::Cancelled> for Error {
    fn from(_: albef_data::control::Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<albef_files::FileError> for Error {
    fn from(error: albef_files::FileError) -> Self {
        Self::Io { path: error.path, cause: error.cause }
    }
}

impl Error {
    /// Names the key of the configuration that leads to the error.
    pub fn of_key<E: Into<Self>>(key: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Key { key, error: Box::new(error.into()) }
    }

    /// Wraps an input or output error with its file.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { path, cause }
    }
}
