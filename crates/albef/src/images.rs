//! Images of a folder, of tar shards, of an annotation list, or a single file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albef_data::dataset::{
    Contents, Location, Sample, Skipped, SourceSpec, TaskFields, image_numbers, load_images,
    read_source, unread_formats,
};
use albef_data::image::{ImageReader, Normalization};
use albef_data::names;
use burn::tensor::{Device, Tensor};

use crate::error::{Error, Result};
use crate::params::from_vec;

/// A set of images, decoded batch by batch when a model needs them.
#[derive(Clone)]
pub struct ImageSet {
    samples: Arc<Vec<Sample>>,
    image_ids: Vec<u32>,
    source: String,
    skipped_members: Vec<Skipped>,
    caption_faults: Vec<Skipped>,
    notes: Vec<String>,
    /// Whether archives are named by their whole paths, since two have one file name.
    whole_paths: bool,
}

impl ImageSet {
    /// Opens a folder, tar shards (`a-{000..012}.tar`), an annotation list or an image file.
    /// `image_root` is joined before the relative paths of a list. Entries of one image are one image with
    /// the captions of all.
    ///
    /// # Errors
    /// If the source cannot be read or has no images.
    pub fn open(source: &str, image_root: Option<&Path>) -> Result<Self> {
        Self::open_spec(&SourceSpec::new(source, image_root))
    }

    /// The same with the images of a folder that its list of captions does not name.
    ///
    /// # Errors
    /// As [`ImageSet::open`].
    pub fn open_all(source: &str, image_root: Option<&Path>) -> Result<Self> {
        Self::open_spec(&SourceSpec::new(source, image_root).with_unnamed())
    }

    fn open_spec(spec: &SourceSpec) -> Result<Self> {
        let (contents, source) = (read_source(spec)?, &spec.path);
        if contents.samples.is_empty() {
            let hint = unread_formats(&contents.left_out);
            let hint =
                hint.map_or(String::new(), |line| format!(": {line}; convert them to JPEG or PNG"));
            return Err(Error::NoImages { source_path: source.clone(), hint });
        }
        Ok(Self { source: source.clone(), ..Self::from_contents(contents) })
    }

    /// The samples that a source holds, those of one image as one.
    #[must_use]
    pub(crate) fn from_contents(contents: Contents) -> Self {
        let Contents { samples, left_out, faults, notes } = contents.joined();
        let all = Self::from_samples(samples);
        Self { skipped_members: left_out, caption_faults: faults, notes, ..all }
    }

    /// Image files, each by its path.
    #[must_use]
    pub fn of_files(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let sample = |path: PathBuf| Sample {
            name: names::text_of_path(&path),
            location: Location::File(path),
            captions: Vec::new(),
            key: String::new(),
            task: TaskFields::default(),
        };
        Self::from_samples(paths.into_iter().map(sample).collect())
    }

    /// Samples at hand.
    #[must_use]
    pub fn from_samples(samples: Vec<Sample>) -> Self {
        let archives: BTreeSet<&Path> = samples.iter().filter_map(archive).collect();
        let names: BTreeSet<_> = archives.iter().filter_map(|path| path.file_name()).collect();
        let whole_paths = names.len() < archives.len();
        let image_ids = image_numbers(samples.iter().map(|s| s.key.as_str()));
        Self {
            samples: Arc::new(samples),
            image_ids,
            source: String::new(),
            skipped_members: Vec::new(),
            caption_faults: Vec::new(),
            notes: Vec::new(),
            whole_paths,
        }
    }

    /// The source as it was given; empty for samples at hand.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number of images, unusable ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The images with their captions, in the order of the source.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The concept of each image: `image_id` where given, else one of its own.
    #[must_use]
    pub fn image_ids(&self) -> &[u32] {
        &self.image_ids
    }

    /// Members of archives and entries of lists that form no sample, with the reason.
    #[must_use]
    pub fn skipped_members(&self) -> &[Skipped] {
        &self.skipped_members
    }

    /// Captions that cannot be used, or were not read as they are written.
    #[must_use]
    pub fn caption_faults(&self) -> &[Skipped] {
        &self.caption_faults
    }

    /// What a user should know about the source.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Normalized pixels `[n, 3, image_res, image_res]`, and the images that cannot be used, which are
    /// gray.
    #[must_use]
    pub fn load(
        &self,
        which: &[usize],
        image_res: usize,
        reader: &ImageReader,
        device: &Device,
    ) -> (Tensor<4>, Vec<(usize, Skipped)>) {
        let workers = rayon::current_num_threads();
        let normalization = Normalization::default();
        let (pixels, failed) =
            load_images(&**self.samples, which, image_res, normalization, reader, workers);
        (from_vec(pixels, [which.len(), 3, image_res, image_res], device), failed)
    }

    /// The file of an image; `None` for a member of an archive.
    #[must_use]
    pub fn file(&self, index: usize) -> Option<&Path> {
        match &self.samples()[index].location {
            Location::File(path) => Some(path),
            Location::Member { .. } => None,
        }
    }

    /// The archive that an image is a member of.
    #[must_use]
    pub fn archive(&self, index: usize) -> Option<&Path> {
        archive(&self.samples()[index])
    }

    /// The name of an image, with that of its archive: shards number their members alike. Different images
    /// have different names.
    #[must_use]
    pub fn full_name(&self, index: usize) -> String {
        let sample = &self.samples()[index];
        match archive(sample) {
            None => sample.name.clone(),
            Some(path) if self.whole_paths => {
                format!("{}:{}", names::text_of_path(path), sample.name)
            }
            Some(path) => {
                let archive = names::text_of_os(path.file_name().unwrap_or_default());
                format!("{archive}:{}", sample.name)
            }
        }
    }

    /// The same in one line, with control characters and backslashes escaped.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        names::shown(&self.full_name(index))
    }
}

fn archive(sample: &Sample) -> Option<&Path> {
    match &sample.location {
        Location::Member { archive, .. } => Some(archive),
        Location::File(_) => None,
    }
}
