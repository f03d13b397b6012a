//! Features of image sets: what an index keeps.

use std::io::Write;
use std::path::Path;

use albef_data::dataset::Skipped;
use albef_data::names::shown;
use albef_weights::write_atomic;

use crate::control::Control;
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

/// Writes rows of `width` values as a NumPy array (format 1.0, little-endian f32) and their names, one per
/// line with control characters and backslashes escaped, to `path` with `.names.txt` appended. Neither
/// appears before both are written in full.
///
/// # Errors
/// If a file cannot be written.
pub fn write_npy(path: &Path, names: &[&str], values: &[f32], width: usize) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".names.txt");
    let rows = names.len();
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // Magic number, version and length of the header come first; all is padded to a multiple of 64.
    let prefix = 10;
    let padded = (prefix + header.len() + 1).next_multiple_of(64) - prefix - 1;
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    header.push('\n');
    write_atomic(path, |f| {
        f.write_all(b"\x93NUMPY\x01\x00")?;
        f.write_all(&(header.len() as u16).to_le_bytes())?;
        f.write_all(header.as_bytes())?;
        values.iter().try_for_each(|v| f.write_all(&v.to_le_bytes()))?;
        f.flush()?;
        f.get_ref().sync_all()?;
        write_atomic(Path::new(&beside), |f| {
            names.iter().try_for_each(|name| writeln!(f, "{}", shown(name)))
        })
        .map_err(std::io::Error::other)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_has_the_layout_of_numpy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        write_npy(&path, &["a\nb", "c"], &[1.0, 0.5, -1.0, 2.0, 0.5, -1.0], 3).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + length) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert!(header.contains("(2, 3)") && header.ends_with('\n'));
        let values: Vec<f32> = bytes[10 + length..]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        assert_eq!(values, [1.0, 0.5, -1.0, 2.0, 0.5, -1.0]);
        let names = std::fs::read_to_string(dir.path().join("x.npy.names.txt")).unwrap();
        assert_eq!(names, "a\\nb\nc\n");
    }

    #[test]
    fn an_array_and_its_names_are_replaced_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        write_npy(&path, &["a"], &[1.0], 1).unwrap();
        let before = std::fs::read(&path).unwrap();
        let names = dir.path().join("x.npy.names.txt");
        std::fs::remove_file(&names).unwrap();
        std::fs::create_dir(&names).unwrap();
        write_npy(&path, &["b", "c"], &[1.0, 2.0], 1).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
