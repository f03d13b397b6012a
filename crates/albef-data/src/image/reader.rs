//! Options of reading images, with a count of what a user may want to know of those that were read.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Background, DecodeOptions, ImageNotes, RgbImage, decode_noted, open_noted};
use crate::error::{DataError, ImageError};

/// Reads images by the same options, and counts those with an orientation, with transparency, with
/// several frames and with a filled rest, each image once. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct ImageReader {
    /// How images are read.
    pub options: DecodeOptions,
    noted: Arc<Mutex<[HashSet<u64>; 4]>>,
}

/// Images that were read with something to be noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoteCounts {
    /// Images whose metadata say that they must be turned.
    pub oriented: usize,
    /// Images with transparent pixels.
    pub transparent: usize,
    /// Images with more frames than the first.
    pub animated: usize,
    /// Images whose files end early, and whose rest was filled.
    pub truncated: usize,
}

impl ImageReader {
    /// A reader with nothing counted.
    #[must_use]
    pub fn new(options: DecodeOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Reads and decodes a file.
    ///
    /// # Errors
    /// Names the file and the class of the error.
    pub fn open(&self, path: &Path) -> Result<RgbImage, DataError> {
        let (image, notes) = open_noted(path, &self.options)?;
        self.note(path, notes);
        Ok(image)
    }

    /// Decodes the bytes of a file, told apart from others by `key`.
    ///
    /// # Errors
    /// Names the class of the error.
    pub fn decode(&self, key: impl Hash, bytes: &[u8]) -> Result<RgbImage, ImageError> {
        let (image, notes) = decode_noted(bytes, &self.options)?;
        self.note(key, notes);
        Ok(image)
    }

    /// Counts an image that was read, told apart from others by `key`.
    pub(crate) fn note(&self, key: impl Hash, notes: ImageNotes) {
        if notes.is_empty() {
            return;
        }
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut sets = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let given = [notes.oriented, notes.transparent, notes.animated, notes.truncated];
        for (set, _) in sets.iter_mut().zip(given).filter(|(_, given)| *given) {
            set.insert(hasher.finish());
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> NoteCounts {
        let sets = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let [oriented, transparent, animated, truncated] = [0, 1, 2, 3].map(|i| sets[i].len());
        NoteCounts { oriented, transparent, animated, truncated }
    }

    /// What was counted, a line for each kind that there is.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let NoteCounts { oriented, transparent, animated, truncated } = self.counts();
        let images = |n: usize, one: &str, many: &str| match n {
            1 => format!("1 image {one}"),
            n => format!("{n} images {many}"),
        };
        let mut lines = Vec::new();
        if oriented > 0 && !self.options.exif_orientation {
            let count = images(oriented, "carries", "carry");
            lines.push(format!(
                "{count} an Exif orientation that is not applied (`exif_orientation` is off)"
            ));
        }
        if transparent > 0 {
            let count = images(transparent, "is transparent", "are transparent");
            lines.push(match self.options.background {
                Background::Official => format!(
                    "{count}; transparency is ignored, so that hidden colors show, often black (`background: \
                     white` puts them on white)"
                ),
                color @ Background::Color(_) => format!("{count}; the background is {color}"),
            });
        }
        if animated > 0 {
            let count = images(animated, "is animated", "are animated");
            lines.push(format!("{count}; only the first frame is used"));
        }
        if truncated > 0 {
            let count = images(truncated, "is truncated", "are truncated");
            lines.push(format!("{count}; what is missing is filled (`truncated_images: fill`)"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_is_counted_once_and_clones_count_together() {
        let reader = ImageReader::default();
        let all = ImageNotes { oriented: true, transparent: true, animated: true, truncated: true };
        reader.note("a", all);
        reader.clone().note("a", all);
        assert!(
            reader.lines().iter().all(|line| line.starts_with("1 image ")),
            "{:?}",
            reader.lines()
        );
        reader.note("b", ImageNotes { transparent: true, ..ImageNotes::default() });
        let counts = NoteCounts { oriented: 1, transparent: 2, animated: 1, truncated: 1 };
        assert_eq!(reader.counts(), counts);
        let white = DecodeOptions { background: Background::WHITE, ..DecodeOptions::own_images() };
        let own = ImageReader { options: white, ..reader };
        assert_eq!(
            own.lines(),
            [
                "2 images are transparent; the background is white",
                "1 image is animated; only the first frame is used",
                "1 image is truncated; what is missing is filled (`truncated_images: fill`)"
            ]
        );
    }
}
