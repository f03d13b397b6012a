//! Images of a folder, of tar shards, of an annotation list, or a single file.

use std::path::Path;
use std::sync::Arc;

use albef_data::dataset::{
    Contents, Dataset, Location, Sample, Skipped, SourceSpec, load_images, read_source,
    unread_formats,
};
use albef_data::image::{ImageReader, Normalization};
use burn::tensor::{Device, Tensor};

use crate::error::{Error, Result};
use crate::params::from_vec;

/// A set of images, decoded batch by batch when a model needs them.
#[derive(Clone)]
pub struct ImageSet {
    data: Arc<Dataset>,
    source: String,
    skipped_members: Vec<Skipped>,
}

impl ImageSet {
    /// Opens a folder, tar shards (`a-{000..012}.tar`), an annotation list or an image file.
    /// `image_root` is joined before the relative paths of a list.
    ///
    /// # Errors
    /// If the source cannot be read or has no images.
    pub fn open(source: &str, image_root: Option<&Path>) -> Result<Self> {
        let contents = read_source(&SourceSpec::new(source, image_root))?;
        if contents.samples.is_empty() {
            let hint = unread_formats(&contents.left_out);
            let hint =
                hint.map_or(String::new(), |line| format!(": {line}; convert them to JPEG or PNG"));
            return Err(Error::NoImages { source_path: source.to_owned(), hint });
        }
        Ok(Self { source: source.to_owned(), ..Self::from_contents(contents) })
    }

    /// The samples that a source holds.
    #[must_use]
    pub fn from_contents(contents: Contents) -> Self {
        let Contents { samples, left_out } = contents;
        Self { skipped_members: left_out, ..Self::from_samples(samples) }
    }

    /// Samples at hand.
    #[must_use]
    pub fn from_samples(samples: Vec<Sample>) -> Self {
        let data = Arc::new(Dataset::from_samples(samples));
        Self { data, source: String::new(), skipped_members: Vec::new() }
    }

    /// The source as it was given; empty for samples at hand.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number of images, unusable ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The images with their captions, in the order of the source.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        self.data.samples()
    }

    /// The concept of each image: `image_id` where given, else one of its own.
    #[must_use]
    pub fn image_ids(&self) -> &[u32] {
        self.data.image_ids()
    }

    /// Members of archives that form no sample, with the reason.
    #[must_use]
    pub fn skipped_members(&self) -> &[Skipped] {
        &self.skipped_members
    }

    /// The data set behind the images.
    #[must_use]
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.data
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
            load_images(&self.data, which, image_res, normalization, reader, workers);
        (from_vec(pixels, [which.len(), 3, image_res, image_res], device), failed)
    }

    /// The name of an image in one line, with that of its archive: shards number their members alike.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        let Sample { location, name, .. } = &self.samples()[index];
        match location {
            Location::Member { archive, .. } => {
                let archive = archive.file_name().unwrap_or_default().to_string_lossy();
                single_line(&format!("{archive}:{name}"))
            }
            Location::File(_) => single_line(name),
        }
    }
}

/// A name without line ends and other control characters, which would break a table.
#[must_use]
pub fn single_line(name: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    name.chars().map(shown).collect()
}
