//! A sample: an image, wherever it lies, with its captions.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, PathBuf};

use super::entry::Place;
use crate::error::{ImageError, ImageErrorKind as Kind, Result};
use crate::image::{
    DecodeOptions, ImageReader, RgbImage, crop, decode_noted, fail, image_size, plain_file,
    read_image,
};
use crate::names;

/// Where the bytes of an image lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// A file.
    File(PathBuf),
    /// A member of an archive.
    Member {
        /// The archive.
        archive: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// An image with its captions.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Where the image lies.
    pub location: Location,
    /// The name in messages.
    pub name: String,
    /// The captions; any of them describes the image.
    pub captions: Vec<String>,
    /// Key of the image: `image_id` where given, else the place where it lies.
    pub key: String,
    /// What the sample asks for beyond its captions.
    pub task: TaskFields,
}

/// What a sample asks a model for, besides its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Target {
    /// Nothing: image and caption belong together.
    #[default]
    None,
    /// Answers with their weights.
    Answers(Vec<(String, f32)>),
    /// A class.
    Label(usize),
    /// Any number of classes.
    Labels(Vec<usize>),
}

/// What a sample has beyond one image with captions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskFields {
    /// The second image.
    pub second: Option<Location>,
    /// `[left, top, right, bottom]` of both images, where they are parts of images.
    pub crops: Option<[[usize; 4]; 2]>,
    /// What is asked for.
    pub target: Target,
    /// Number of the question or expression in its data set.
    pub id: Option<i64>,
    /// Where the sample is in its list, for messages.
    pub place: Option<Place>,
}

/// An image that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name; where both images of a sample were, both names.
    pub name: String,
    /// Why.
    pub error: ImageError,
}

impl Skipped {
    pub(super) fn new(name: String, kind: Kind, detail: impl Into<String>) -> Self {
        Self { name, error: ImageError { kind, detail: detail.into() } }
    }

    /// One entry for the images of one sample; an image that failed twice is named once.
    pub(super) fn together(failures: Vec<Self>) -> Option<Self> {
        let mut failures = failures.into_iter();
        let mut all = failures.next()?;
        let first = all.name.clone();
        for Self { name, error } in failures.filter(|f| f.name != first) {
            all.error.detail.push_str(&format!("; {name}: {error}"));
            all.name.push_str(&format!(" and {name}"));
        }
        Some(all)
    }
}

/// A path without `.` and doubled separators, so that one file has one spelling.
pub(super) fn tidy(path: PathBuf) -> PathBuf {
    let bytes = path.as_os_str().as_encoded_bytes();
    let odd = bytes.starts_with(b"./") || bytes.windows(2).any(|two| two == b"//" || two == b"/.");
    if !odd {
        return path;
    }
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// The key of an image without `image_id`. Sources may use equal names for different images, so
/// the name alone does not do.
pub(super) fn place_key(location: &Location, name: &str) -> String {
    match location {
        Location::File(path) => names::text_of_path(path),
        Location::Member { archive, .. } => format!("{}:{name}", names::text_of_path(archive)),
    }
}

impl Sample {
    /// Its entry for a message, such as `entry 7`: where it is in its list, whose other entries need not be samples.
    /// `index`: its place where it is of no list.
    #[must_use]
    pub fn entry_name(&self, index: usize) -> String {
        let place = self.task.place.unwrap_or(Place::Entry(index)).to_string();
        place.trim_start_matches(", ").to_owned()
    }

    /// Looks whether the image is there, without reading it.
    ///
    /// # Errors
    /// If it is not.
    pub fn present(&self) -> Result<(), ImageError> {
        self.present_view(0)
    }

    /// The same for the first or second image.
    pub(super) fn present_view(&self, view: usize) -> Result<(), ImageError> {
        match self.at(view) {
            Location::File(path) => plain_file(path),
            Location::Member { archive, .. } => plain_file(archive),
        }
    }

    /// Where the first or second image lies.
    pub(super) fn at(&self, view: usize) -> &Location {
        match (view, &self.task.second) {
            (1, Some(second)) => second,
            _ => &self.location,
        }
    }

    /// Reads the encoded image.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>, ImageError> {
        self.location.bytes()
    }

    /// Height and width of the first image in pixels, from its header alone.
    ///
    /// # Errors
    /// Which class of error it is.
    pub fn size(&self) -> Result<(usize, usize), ImageError> {
        image_size(&self.bytes()?)
    }

    /// Reads and decodes the image.
    ///
    /// # Errors
    /// Says which class of error it is.
    pub fn decode(&self, options: &DecodeOptions) -> Result<RgbImage, ImageError> {
        self.decode_view(0, options)
    }

    /// Images of the sample: one, or two for statements about two.
    #[must_use]
    pub fn views(&self) -> usize {
        1 + usize::from(self.task.second.is_some())
    }

    /// The name of the first or second image in messages.
    #[must_use]
    pub fn view_name(&self, view: usize) -> String {
        match (view, &self.task.second) {
            (1, Some(second)) => self.second_name(second),
            _ => self.name.clone(),
        }
    }

    /// Named as the first image is: relative to the same folder, where both lie in it.
    fn second_name(&self, second: &Location) -> String {
        let path = match second {
            Location::File(path) => path,
            Location::Member { archive, offset, .. } => {
                return format!("{}, byte {offset}", names::text_of_path(archive));
            }
        };
        let name = &names::path_of(&self.name);
        let root = match &self.location {
            Location::File(first) if first.ends_with(name) => {
                first.ancestors().nth(name.components().count())
            }
            _ => None,
        };
        names::text_of_path(root.and_then(|r| path.strip_prefix(r).ok()).unwrap_or(path))
    }

    /// The image of every one of `views`, or one entry that names those which cannot be used.
    pub(super) fn all_views<T>(
        &self,
        views: usize,
        decode: impl Fn(usize) -> Result<T, ImageError>,
    ) -> Result<Vec<T>, Skipped> {
        let (mut images, mut failures) = (Vec::new(), Vec::new());
        for view in 0..views {
            match decode(view) {
                Ok(image) => images.push(image),
                Err(error) => failures.push(Skipped { name: self.view_name(view), error }),
            }
        }
        Skipped::together(failures).map_or(Ok(images), Err)
    }

    /// Reads and decodes the first or second image, or the part of it that is meant.
    ///
    /// # Errors
    /// Says which class of error it is.
    pub fn decode_view(
        &self,
        view: usize,
        options: &DecodeOptions,
    ) -> Result<RgbImage, ImageError> {
        self.read_view(view, &ImageReader::new(*options))
    }

    /// [`Sample::decode_view`] by a reader that counts what is to be noted of the image.
    ///
    /// # Errors
    /// Says which class of error it is.
    pub fn read_view(&self, view: usize, reader: &ImageReader) -> Result<RgbImage, ImageError> {
        self.decode_bytes(view, &self.view_bytes(view)?, reader)
    }

    /// Reads the encoded first or second image.
    pub(super) fn view_bytes(&self, view: usize) -> Result<Vec<u8>, ImageError> {
        self.at(view).bytes()
    }

    /// [`Sample::read_view`] of bytes at hand.
    pub(super) fn decode_bytes(
        &self,
        view: usize,
        bytes: &[u8],
        reader: &ImageReader,
    ) -> Result<RgbImage, ImageError> {
        let (image, notes) = decode_noted(bytes, &reader.options)?;
        reader.note(self.at(view), notes);
        let Some([left, top, right, bottom]) = self.task.crops.map(|c| c[view.min(1)]) else {
            return Ok(image);
        };
        if left >= right || top >= bottom || right > image.width || bottom > image.height {
            let detail = format!(
                "the crop [{left}, {top}, {right}, {bottom}] does not lie in {} x {} pixels",
                image.width, image.height
            );
            return Err(ImageError { kind: Kind::Corrupt, detail });
        }
        Ok(crop(&image, top, left, bottom - top, right - left))
    }
}

impl Location {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::File(path) => read_image(path),
            Self::Member { archive, offset, len } => {
                let mut file = File::open(archive).map_err(fail)?;
                file.seek(SeekFrom::Start(*offset)).map_err(fail)?;
                let mut bytes = Vec::new();
                let read = file.take(*len).read_to_end(&mut bytes).map_err(fail)?;
                if (read as u64) < *len {
                    return Err(fail(std::io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(bytes)
            }
        }
    }
}
