//! Samples wherever they lie.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::tasks::TaskFields;
use super::unread::{Looks, looks, refusal, unread_formats};
use super::{annotation, folder, shard};
use crate::error::{DataError, ImageError, ImageErrorKind as Kind, Result};
use crate::image::{
    DecodeOptions, ImageReader, RgbImage, crop, decode_noted, fail, plain_file, read_picture,
};

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

/// A picture with its captions.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Where the picture lies.
    pub location: Location,
    /// The name in messages.
    pub name: String,
    /// The captions; any of them describes the picture.
    pub captions: Vec<String>,
    /// Key of the image: `image_id` where given, else the place where it lies.
    pub key: String,
    /// What the sample asks for beyond its captions.
    pub task: TaskFields,
}

/// A picture that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name; where both pictures of a sample were, both names.
    pub name: String,
    /// Why.
    pub error: ImageError,
}

impl Skipped {
    /// One entry for the pictures of one sample; a picture that failed twice is named once.
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

/// What a source holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Its samples.
    pub samples: Vec<Sample>,
    /// Members of its archives that should belong to a sample and could not be used.
    pub left_out: Vec<Skipped>,
}

impl Contents {
    pub(super) fn extend(&mut self, other: Self) {
        self.samples.extend(other.samples);
        self.left_out.extend(other.left_out);
    }
}

impl From<Vec<Sample>> for Contents {
    fn from(samples: Vec<Sample>) -> Self {
        Self { samples, left_out: Vec::new() }
    }
}

/// The key of an image without `image_id`. Sources may use equal names for different pictures, so
/// the name alone does not do.
pub(super) fn place_key(location: &Location, name: &str) -> String {
    match location {
        Location::File(path) => path.display().to_string(),
        Location::Member { archive, .. } => format!("{}:{name}", archive.display()),
    }
}

impl Sample {
    /// Looks whether the picture is there, without reading it.
    ///
    /// # Errors
    /// If it is not.
    pub fn present(&self) -> Result<(), ImageError> {
        self.present_view(0)
    }

    /// The same for the first or second picture.
    pub(super) fn present_view(&self, view: usize) -> Result<(), ImageError> {
        match self.at(view) {
            Location::File(path) => plain_file(path),
            Location::Member { archive, .. } => plain_file(archive),
        }
    }

    fn at(&self, view: usize) -> &Location {
        match (view, &self.task.second) {
            (1, Some(second)) => second,
            _ => &self.location,
        }
    }

    /// Reads the encoded picture.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>, ImageError> {
        self.location.bytes()
    }

    /// Reads and decodes the picture.
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

    /// The name of the first or second picture in messages.
    #[must_use]
    pub fn view_name(&self, view: usize) -> String {
        match (view, &self.task.second) {
            (1, Some(second)) => self.second_name(second),
            _ => self.name.clone(),
        }
    }

    /// Named as the first picture is: relative to the same folder, where both lie in it.
    fn second_name(&self, second: &Location) -> String {
        let path = match second {
            Location::File(path) => path,
            Location::Member { archive, offset, .. } => {
                return format!("{}, byte {offset}", archive.display());
            }
        };
        let name = Path::new(&self.name);
        let root = match &self.location {
            Location::File(first) if first.ends_with(name) => {
                first.ancestors().nth(name.components().count())
            }
            _ => None,
        };
        root.and_then(|r| path.strip_prefix(r).ok()).unwrap_or(path).display().to_string()
    }

    /// The picture of every one of `views`, or one entry that names those which cannot be used.
    pub(super) fn all_views<T>(
        &self,
        views: usize,
        decode: impl Fn(usize) -> Result<T, ImageError>,
    ) -> Result<Vec<T>, Skipped> {
        let (mut pictures, mut failures) = (Vec::new(), Vec::new());
        for view in 0..views {
            match decode(view) {
                Ok(picture) => pictures.push(picture),
                Err(error) => failures.push(Skipped { name: self.view_name(view), error }),
            }
        }
        Skipped::together(failures).map_or(Ok(pictures), Err)
    }

    /// Reads and decodes the first or second picture, or the part of it that is meant.
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
        let location = self.at(view);
        let (image, notes) = decode_noted(&location.bytes()?, &reader.options)?;
        reader.note(location, notes);
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
    fn bytes(&self) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::File(path) => read_picture(path),
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

/// One source of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSpec {
    /// A list, a folder, a tar file, a pattern of tar files (`a-{000..012}.tar`, `*.tar`), or a picture.
    pub path: String,
    /// Joined before the relative image paths of a list; if not given, the folder of the list. In a JSON
    /// list, as the official ones give it, paths of files that are there as they stand come first.
    pub image_root: Option<PathBuf>,
    /// Share in a mixture; 1 for all means every sample once an epoch.
    pub weight: f64,
}

impl SourceSpec {
    /// A source with weight 1.
    #[must_use]
    pub fn new(path: &str, image_root: Option<&Path>) -> Self {
        Self { path: path.to_owned(), image_root: image_root.map(Path::to_owned), weight: 1.0 }
    }
}

/// Reads the samples of a source, told apart by what lies at the path.
///
/// # Errors
/// If nothing is there, or an annotation or archive is damaged.
pub fn open_source(spec: &SourceSpec) -> Result<Vec<Sample>> {
    Ok(read_source(spec)?.samples)
}

/// The same with what was left out.
///
/// # Errors
/// As [`open_source`].
pub fn read_source(spec: &SourceSpec) -> Result<Contents> {
    let path = Path::new(&spec.path);
    let root = spec.image_root.as_deref();
    if path.is_dir() {
        return folder::read(path);
    }
    let lower = spec.path.to_lowercase();
    if lower.ends_with(".tar") {
        let mut all = Contents::default();
        for archive in shard::expand(&spec.path)? {
            all.extend(shard::read(&archive)?);
        }
        return Ok(all);
    }
    let folder_of = || root.or(path.parent()).unwrap_or(Path::new("."));
    if lower.ends_with(".jsonl") {
        return folder::captions_jsonl(path, folder_of()).map(Contents::from);
    }
    if lower.ends_with(".csv") {
        return folder::captions_csv(path, folder_of()).map(Contents::from);
    }
    let unusable = |error| DataError::Image { name: spec.path.clone(), error };
    match looks(path) {
        Looks::Image => {
            plain_file(path).map_err(unusable)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            Ok(vec![folder::picture(path.to_owned(), folder)?].into())
        }
        Looks::Unread(format) => {
            plain_file(path).map_err(unusable)?;
            Err(unusable(refusal(format)))
        }
        Looks::Other => annotation::read(path, root).map(Contents::from),
    }
}

/// An index of samples from several sources.
#[derive(Clone, Debug)]
pub struct Dataset {
    samples: Vec<Sample>,
    image_ids: Vec<u32>,
    sources: Vec<(usize, f64)>,
    wordless: usize,
    left_out: Vec<Skipped>,
}

impl Dataset {
    /// Opens sources for training and numbers their images: equal keys get one number, in order of
    /// first appearance. Blank captions, and images with no others, are left out.
    ///
    /// # Errors
    /// If a source cannot be read, or no image with a caption is in any.
    pub fn open(specs: &[SourceSpec]) -> Result<Self> {
        let mut samples = Vec::new();
        let mut sources = Vec::new();
        let mut wordless = 0;
        let mut left_out = Vec::new();
        for spec in specs {
            if !(spec.weight.is_finite() && spec.weight > 0.0) {
                let detail = format!("weight {} must be above 0", spec.weight);
                return Err(DataError::annotation(Path::new(&spec.path), String::new(), detail));
            }
            let Contents { samples: mut part, left_out: lost } = read_source(spec)?;
            left_out.extend(lost);
            let images = part.len();
            part.iter_mut().for_each(|s| s.captions.retain(|c| !c.trim().is_empty()));
            part.retain(|s| !s.captions.is_empty());
            wordless += images - part.len();
            sources.push((part.len(), spec.weight));
            samples.extend(part);
        }
        if samples.is_empty() {
            let path = specs.first().map_or("(no source)", |s| s.path.as_str());
            let detail = match (wordless, left_out.first()) {
                (0, None) => {
                    "no image was found: a data set needs pictures with captions".to_owned()
                }
                (0, Some(_)) if unread_formats(&left_out).is_some() => format!(
                    "no image was found: {}; convert them to JPEG or PNG",
                    unread_formats(&left_out).unwrap_or_default()
                ),
                (0, Some(first)) => format!(
                    "no image was found: {} members were left out, first {}: {}",
                    left_out.len(),
                    first.name,
                    first.error
                ),
                (n, _) => format!(
                    "none of its {n} images has a caption; hint: put `captions.jsonl`, \
                              `captions.csv` or a `.txt` beside each picture"
                ),
            };
            return Err(DataError::annotation(Path::new(path), String::new(), detail));
        }
        Ok(Self { wordless, left_out, ..Self::numbered(samples, sources) })
    }

    /// A data set of samples at hand.
    #[must_use]
    pub fn from_samples(samples: Vec<Sample>) -> Self {
        let sources = vec![(samples.len(), 1.0)];
        Self::numbered(samples, sources)
    }

    fn numbered(samples: Vec<Sample>, sources: Vec<(usize, f64)>) -> Self {
        let mut numbers = HashMap::new();
        let image_ids = samples
            .iter()
            .map(|s| {
                let next = numbers.len() as u32;
                *numbers.entry(s.key.clone()).or_insert(next)
            })
            .collect();
        Self { samples, image_ids, sources, wordless: 0, left_out: Vec::new() }
    }

    /// The samples.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The image number of each sample.
    #[must_use]
    pub fn image_ids(&self) -> &[u32] {
        &self.image_ids
    }

    /// Number of samples and weight of each source.
    #[must_use]
    pub fn sources(&self) -> &[(usize, f64)] {
        &self.sources
    }

    /// Images that [`Dataset::open`] left out because they have no caption.
    #[must_use]
    pub fn without_captions(&self) -> usize {
        self.wordless
    }

    /// Members of archives that [`Dataset::open`] left out because they form no sample.
    #[must_use]
    pub fn left_out(&self) -> &[Skipped] {
        &self.left_out
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}
