//! Samples wherever they lie.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::tasks::TaskFields;
use super::unread::{Looks, looks, refusal, unread_formats};
use super::{annotation, entries, folder, shard};
use crate::error::{DataError, ImageError, ImageErrorKind as Kind, Result};
use crate::image::{
    DecodeOptions, ImageReader, RgbImage, crop, decode_noted, fail, image_size, plain_file,
    read_picture,
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

/// What a source holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Its samples.
    pub samples: Vec<Sample>,
    /// Members of its archives and entries of its lists that form no sample.
    pub left_out: Vec<Skipped>,
    /// Captions of its samples that cannot be used, or were not read as they are written.
    pub faults: Vec<Skipped>,
    /// What a user should know about the source.
    pub notes: Vec<String>,
}

impl Contents {
    /// Adds what another source holds.
    pub fn extend(&mut self, other: Self) {
        self.samples.extend(other.samples);
        self.left_out.extend(other.left_out);
        self.faults.extend(other.faults);
        self.notes.extend(other.notes);
    }

    /// Samples of one image become one with the captions of all, in the place of the first, as an image
    /// with a list of captions has them. Its key is that of the first.
    #[must_use]
    pub fn joined(mut self) -> Self {
        let mut place = HashMap::new();
        let (mut kept, mut joined) = (Vec::<Sample>::with_capacity(self.samples.len()), 0);
        for sample in self.samples {
            let of = (sample.location.clone(), sample.task.second.clone(), sample.task.crops);
            let at = *place.entry(of).or_insert(kept.len());
            match kept.get_mut(at) {
                Some(first) => {
                    first.captions.extend(sample.captions);
                    joined += 1;
                }
                None => kept.push(sample),
            }
        }
        if joined > 0 {
            let (entries, images) = (kept.len() + joined, kept.len());
            self.notes.push(format!(
                "{entries} entries are of {images} images; the captions of each are joined"
            ));
        }
        Self { samples: kept, ..self }
    }
}

impl From<Vec<Sample>> for Contents {
    fn from(samples: Vec<Sample>) -> Self {
        Self { samples, ..Self::default() }
    }
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

    fn at(&self, view: usize) -> &Location {
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
        let (mut pictures, mut failures) = (Vec::new(), Vec::new());
        for view in 0..views {
            match decode(view) {
                Ok(picture) => pictures.push(picture),
                Err(error) => failures.push(Skipped { name: self.view_name(view), error }),
            }
        }
        Skipped::together(failures).map_or(Ok(pictures), Err)
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
    /// A list, a folder, a tar file, a pattern of tar files (`a-{000..012}.tar`, `*.tar`), or an image.
    pub path: String,
    /// Joined before the relative image paths of a list; if not given, the folder of the list. In a JSON
    /// list, as the official ones give it, paths of files that are there as they stand come first.
    pub image_root: Option<PathBuf>,
    /// Share in a mixture; 1 for all means every sample once an epoch.
    pub weight: f64,
}

impl SourceSpec {
    /// [`SourceSpec::new`] of a path.
    #[must_use]
    pub fn of(path: &Path, image_root: Option<&Path>) -> Self {
        Self::new(&names::text_of_path(path), image_root)
    }

    /// A source with weight 1. `path`: its text by [`crate::names`].
    #[must_use]
    pub fn new(path: &str, image_root: Option<&Path>) -> Self {
        Self { path: path.to_owned(), image_root: image_root.map(Path::to_owned), weight: 1.0 }
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
    let path = &*names::path_of(&spec.path);
    let root = spec.image_root.as_deref();
    if path.is_dir() {
        return folder::read(path);
    }
    let lower = spec.path.to_lowercase();
    if lower.ends_with(".tar") {
        return shard::read_all(&shard::expand(&spec.path)?);
    }
    let unusable = |error| DataError::Image { name: spec.path.clone(), error };
    match looks(path) {
        Looks::Image => {
            plain_file(path).map_err(unusable)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            return Ok(folder::contents_of(vec![path.to_owned()], folder));
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
    let lines = lower.ends_with(".jsonl") || entries::is_table(&list);
    let root = match (root, lines) {
        (Some(root), _) => annotation::Root::Folder(root),
        (None, true) => annotation::Root::Folder(list.parent().unwrap_or(Path::new("."))),
        (None, false) => annotation::Root::Given,
    };
    annotation::read(&list, split, root)
}

/// An index of samples from several sources.
#[derive(Clone, Debug)]
pub struct Dataset {
    samples: Vec<Sample>,
    image_ids: Vec<u32>,
    sources: Vec<(usize, f64)>,
    wordless: usize,
    left_out: Vec<Skipped>,
    notes: Vec<String>,
}

impl Dataset {
    /// Opens sources for training and numbers their images: equal keys of one source get one number, in
    /// order of first appearance; those of several only where they are of one image. Blank captions, and
    /// images with no others, are left out.
    ///
    /// # Errors
    /// If a source cannot be read, or no image with a caption is in any.
    pub fn open(specs: &[SourceSpec]) -> Result<Self> {
        let mut samples = Vec::new();
        let mut sources = Vec::new();
        let mut wordless = 0;
        let (mut left_out, mut notes) = (Vec::new(), Vec::new());
        for spec in specs {
            if !(spec.weight.is_finite() && spec.weight > 0.0) {
                let detail = format!("weight {} must be above 0", spec.weight);
                return Err(DataError::annotation(Path::new(&spec.path), String::new(), detail));
            }
            let Contents { samples: mut part, left_out: lost, faults, notes: said } =
                read_source(spec)?;
            left_out.extend(lost);
            left_out.extend(faults);
            notes.extend(said);
            let images = part.len();
            part.iter_mut().for_each(|s| s.captions.retain(|c| !c.trim().is_empty()));
            part.retain(|s| !s.captions.is_empty());
            wordless += images - part.len();
            sources.push((part.len(), spec.weight));
            samples.extend(part);
        }
        if samples.is_empty() {
            return Err(nothing(specs, wordless, &left_out));
        }
        let mut all = Self { wordless, left_out, ..Self::numbered(samples, sources) };
        let paths: Vec<&str> = specs.iter().map(|s| s.path.as_str()).collect();
        notes.extend(all.tell_apart(&paths));
        all.notes = notes;
        Ok(all)
    }

    /// Gives images of their own numbers to keys that another source has for other images; a line for each
    /// pair of sources.
    fn tell_apart(&mut self, paths: &[&str]) -> Vec<String> {
        let mut notes = BTreeMap::new();
        let mut next = self.image_ids.iter().max().map_or(0, |n| n + 1);
        let ranges = self.sources.iter().scan(0, |at, (n, _)| {
            *at += n;
            Some(*at - n..*at)
        });
        let ranges: Vec<_> = ranges.collect();
        // Few numbers are of several sources; places are compared for those only.
        let mut first_source = vec![usize::MAX; next as usize];
        let mut shared = HashSet::new();
        for (source, range) in ranges.iter().enumerate() {
            for number in &self.image_ids[range.clone()] {
                let first = &mut first_source[*number as usize];
                if *first == usize::MAX {
                    *first = source;
                } else if *first != source {
                    shared.insert(*number);
                }
            }
        }
        // Of each shared number the groups of images that have one of their own.
        let mut groups: HashMap<u32, Vec<(usize, u32, HashSet<Location>)>> = HashMap::new();
        for (source, range) in ranges.into_iter().enumerate() {
            let mut places: BTreeMap<u32, (usize, HashSet<Location>)> = BTreeMap::new();
            for i in range.clone().filter(|i| shared.contains(&self.image_ids[*i])) {
                let (_, seen) = places.entry(self.image_ids[i]).or_insert((i, HashSet::new()));
                seen.insert(self.samples[i].location.clone());
            }
            let mut renumbered = HashMap::new();
            for (number, (first, places)) in places {
                let known = groups.entry(number).or_default();
                if let Some((_, own, seen)) =
                    known.iter_mut().find(|(_, _, seen)| !seen.is_disjoint(&places))
                {
                    renumbered.insert(number, *own);
                    seen.extend(places);
                    continue;
                }
                let own = match known.first() {
                    None => number,
                    Some((other, _, _)) => {
                        let key = self.samples[first].key.clone();
                        notes.entry((*other, source)).or_insert((key, 0)).1 += 1;
                        next += 1;
                        next - 1
                    }
                };
                renumbered.insert(number, own);
                known.push((source, own, places));
            }
            for number in &mut self.image_ids[range] {
                *number = renumbered.get(number).copied().unwrap_or(*number);
            }
        }
        let line = |((a, b), (key, n)): ((usize, usize), (String, usize))| {
            format!(
                "{} and {} both have `image_id` {key} for different images: {n} ids are told apart",
                paths[a], paths[b]
            )
        };
        notes.into_iter().map(line).collect()
    }

    /// A data set of what was read already.
    #[must_use]
    pub fn from_contents(contents: Contents) -> Self {
        let Contents { samples, mut left_out, faults, notes } = contents;
        left_out.extend(faults);
        Self { left_out, notes, ..Self::from_samples(samples) }
    }

    /// A data set of samples at hand.
    #[must_use]
    pub fn from_samples(samples: Vec<Sample>) -> Self {
        let sources = vec![(samples.len(), 1.0)];
        Self::numbered(samples, sources)
    }

    fn numbered(samples: Vec<Sample>, sources: Vec<(usize, f64)>) -> Self {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let image_ids = samples
            .iter()
            .map(|s| {
                let next = numbers.len() as u32;
                *numbers.entry(&s.key).or_insert(next)
            })
            .collect();
        let (left_out, notes) = (Vec::new(), Vec::new());
        Self { samples, image_ids, sources, wordless: 0, left_out, notes }
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

    /// What [`Dataset::open`] could not use: members of archives and entries of lists that form no sample,
    /// and faulty captions.
    #[must_use]
    pub fn left_out(&self) -> &[Skipped] {
        &self.left_out
    }

    /// What a user should know about the sources.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
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

/// The error about sources without an image that has a caption.
fn nothing(specs: &[SourceSpec], wordless: usize, left_out: &[Skipped]) -> DataError {
    let path = specs.first().map_or("(no source)", |s| s.path.as_str());
    let detail = match (wordless, left_out.first()) {
        (0, None) => "no image was found: a data set needs images with captions".to_owned(),
        (0, Some(_)) if unread_formats(left_out).is_some() => format!(
            "no image was found: {}; convert them to JPEG or PNG",
            unread_formats(left_out).unwrap_or_default()
        ),
        (0, Some(first)) => format!(
            "no image was found: {} members were left out, first {}: {}",
            left_out.len(),
            first.name,
            first.error
        ),
        (n, Some(first)) => {
            format!(
                "none of its {n} images has a caption; the first: {}: {}",
                first.name, first.error
            )
        }
        (n, None) => format!(
            "none of its {n} images has a caption; hint: put `captions.jsonl`, `captions.csv` or a \
             `.txt` beside each picture"
        ),
    };
    DataError::annotation(Path::new(path), String::new(), detail)
}
