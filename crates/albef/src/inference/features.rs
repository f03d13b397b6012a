//! Features of image sets: what an index keeps.

use albef_data::dataset::Skipped;

use crate::Control;
use crate::error::{Error, Result};
use crate::images::ImageSet;
use crate::pipeline::{BATCH, Pipeline};

/// Unit-length features of the usable images of a set.
#[derive(Clone, Debug, Default)]
pub struct ImageFeatures {
    /// The image of each feature, an index of the set.
    pub images: Vec<usize>,
    /// Features, one row of `width` values after another.
    pub values: Vec<f32>,
    /// Values of a feature.
    pub width: usize,
    /// Images that cannot be used, with the reason.
    pub skipped: Vec<Skipped>,
}

impl ImageFeatures {
    /// Number of features.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Images and their features.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.images.iter().copied().zip(self.values.chunks(self.width.max(1)))
    }
}

impl Pipeline {
    /// Features of all usable images of a set.
    ///
    /// # Errors
    /// [`Error::NoUsableImages`] if there is no usable one, [`Error::Cancelled`].
    pub fn embed_set(&self, images: &ImageSet, control: &Control) -> Result<ImageFeatures> {
        let all: Vec<usize> = (0..images.len()).collect();
        let mut out = ImageFeatures { width: self.embed_dim(), ..ImageFeatures::default() };
        for part in all.chunks(BATCH) {
            control.check()?;
            let (pixels, failed) =
                images.load(part, self.image_res(), self.reader(), self.device());
            let rows = self.embed_pixels(pixels)?;
            for (i, row) in part.iter().zip(rows.chunks(out.width)) {
                if !failed.iter().any(|(f, _)| f == i) {
                    out.images.push(*i);
                    out.values.extend_from_slice(row);
                }
            }
            let named = |(i, s): (usize, Skipped)| Skipped { name: images.name(i), ..s };
            out.skipped.extend(failed.into_iter().map(named));
            control.advance("images", part.last().map_or(0, |i| i + 1), all.len());
        }
        match out.skipped.first() {
            Some(first) if out.is_empty() => Err(Error::NoUsableImages {
                images: images.len(),
                place: match images.source() {
                    "" => String::new(),
                    source => format!(" in {source}"),
                },
                hint: format!("; the first is {}: {}", first.name, first.error),
            }),
            _ => Ok(out),
        }
    }
}
