//! Image states that are kept beside an index, so that re-ranking needs neither images nor their encoder.
//!
//! `states/` in the folder of the index has a file for each content. They are a cache: one that is missing or
//! contradicts its checksum is made again, so that nothing waits for the disk.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use albef_files::write_atomic;
use half::f16;
use serde::{Deserialize, Serialize};

use crate::error::{IndexError, Result};
use crate::record::ContentHash;

const FOLDER: &str = "states";
const FACTS: &str = "states.json";
/// Version of the files.
const FORMAT: u32 = 1;
/// Bytes of a checksum.
const CHECKSUM: usize = 4;
/// Before the names of files that are not whole yet.
const UNFINISHED: char = '.';

/// How exactly states are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatePrecision {
    /// 16-bit floats.
    F16,
    /// 8-bit integers with a scale for each token.
    Int8,
}

/// What all states of a folder have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    format: u32,
    fingerprint: String,
    precision: StatePrecision,
    tokens: usize,
    width: usize,
}

/// The kept image states of an index.
#[derive(Debug)]
pub struct KeptStates {
    folder: PathBuf,
    facts: Facts,
    written: AtomicU64,
}

impl KeptStates {
    /// The states beside the index in `index`, if any are kept there of the encoder with this fingerprint.
    ///
    /// # Errors
    /// If what says how they are kept cannot be read.
    pub fn open(index: &Path, fingerprint: &str) -> Result<Option<Self>> {
        let facts = facts(index)?.filter(|f| f.format == FORMAT && f.fingerprint == fingerprint);
        Ok(facts.map(|facts| Self::new(index, facts)))
    }

    /// How states are kept beside the index in `index`, whatever their model.
    ///
    /// # Errors
    /// As [`KeptStates::open`].
    pub fn precision_at(index: &Path) -> Result<Option<StatePrecision>> {
        Ok(facts(index)?.map(|facts| facts.precision))
    }

    /// Begins to keep states of `tokens` rows of `width` values, and forgets those of another model or precision.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create(
        index: &Path,
        fingerprint: &str,
        precision: StatePrecision,
        [tokens, width]: [usize; 2],
    ) -> Result<Self> {
        let fingerprint = fingerprint.to_owned();
        let wanted = Facts { format: FORMAT, fingerprint, precision, tokens, width };
        // Files that nothing describes may be of any model, too.
        if facts(index)?.is_none_or(|found| found != wanted) {
            Self::remove(index)?;
        }
        let folder = index.join(FOLDER);
        fs::create_dir_all(&folder).map_err(IndexError::io(&folder))?;
        let path = folder.join(FACTS);
        write_atomic(&path, |file| Ok(serde_json::to_writer(file, &wanted)?))
            .map_err(|e| IndexError::io(&path)(std::io::Error::other(e)))?;
        Ok(Self::new(index, wanted))
    }

    fn new(index: &Path, facts: Facts) -> Self {
        Self { folder: index.join(FOLDER), facts, written: AtomicU64::new(0) }
    }

    /// Forgets all states beside the index in `index`.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove(index: &Path) -> Result<()> {
        let folder = index.join(FOLDER);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(IndexError::io(&folder)(e)),
            _ => Ok(()),
        }
    }

    /// How exactly they are kept.
    #[must_use]
    pub fn precision(&self) -> StatePrecision {
        self.facts.precision
    }

    /// Bytes of an image.
    #[must_use]
    pub fn bytes_of_image(&self) -> u64 {
        (self.payload() + CHECKSUM) as u64
    }

    fn payload(&self) -> usize {
        let Facts { tokens, width, precision, .. } = self.facts;
        tokens
            * match precision {
                StatePrecision::F16 => 2 * width,
                StatePrecision::Int8 => width + size_of::<f32>(),
            }
    }

    fn path(&self, content: &ContentHash) -> PathBuf {
        let name: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(&name[..2]).join(name)
    }

    /// Whether there is a file of this content; it may be damaged.
    #[must_use]
    pub fn has(&self, content: &ContentHash) -> bool {
        self.path(content).exists()
    }

    /// The states of an image, `[tokens, width]`; `None` where they are not kept or are damaged.
    #[must_use]
    pub fn load(&self, content: &ContentHash) -> Option<Vec<f32>> {
        let bytes = fs::read(self.path(content)).ok()?;
        let (payload, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if payload.len() != self.payload()
            || crc32fast::hash(payload) != u32::from_le_bytes(*checksum)
        {
            return None;
        }
        Some(match self.facts.precision {
            StatePrecision::F16 => {
                payload.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
            }
            StatePrecision::Int8 => payload
                .chunks_exact(self.facts.width + size_of::<f32>())
                .flat_map(|row| {
                    let (scale, values) = row.split_first_chunk().unwrap_or((&[0; 4], &[]));
                    let scale = f32::from_le_bytes(*scale);
                    values.iter().map(move |v| f32::from(v.cast_signed()) * scale)
                })
                .collect(),
        })
    }

    /// Keeps the states of an image, `[tokens, width]`.
    ///
    /// # Errors
    /// If they cannot be written, or are of another size.
    pub fn save(&self, content: &ContentHash, states: &[f32]) -> Result<()> {
        let Facts { tokens, width, precision, .. } = self.facts;
        if states.len() != tokens * width {
            return Err(IndexError::Width { found: states.len(), expected: tokens * width });
        }
        let mut bytes = Vec::with_capacity(self.payload() + CHECKSUM);
        match precision {
            StatePrecision::F16 => {
                bytes.extend(states.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
            }
            StatePrecision::Int8 => {
                for row in states.chunks_exact(width.max(1)) {
                    let top = row.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
                    let scale = top / 127.0;
                    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                    bytes.extend(scale.to_le_bytes());
                    // Within bounds by the choice of the scale; not a number becomes 0.
                    bytes.extend(row.iter().map(|v| ((v * inverse).round() as i8).cast_unsigned()));
                }
            }
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let path = self.path(content);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(IndexError::io(parent))?;
        // Several threads and processes may write the same file at once.
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = parent.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
        let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &path));
        written.map_err(|e| {
            let _ = fs::remove_file(&unfinished);
            IndexError::io(&path)(e)
        })
    }

    /// Images and bytes that are kept.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn usage(&self) -> Result<(u64, u64)> {
        let mut images = 0;
        self.each(|_, name| {
            images += u64::from(!name.starts_with(UNFINISHED));
            Ok(())
        })?;
        Ok((images, images * self.bytes_of_image()))
    }

    /// Forgets the states of all but these contents; returns of how many images.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn retain(&self, contents: &HashSet<ContentHash>) -> Result<u64> {
        let keep: HashSet<PathBuf> = contents.iter().map(|content| self.path(content)).collect();
        let mut removed = 0;
        self.each(|path, _| {
            if !keep.contains(path) {
                fs::remove_file(path).map_err(IndexError::io(path))?;
                removed += 1;
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// Hands every file of an image to `see`, with its name.
    fn each(&self, mut see: impl FnMut(&Path, &str) -> Result<()>) -> Result<()> {
        for group in fs::read_dir(&self.folder).map_err(IndexError::io(&self.folder))? {
            let group = group.map_err(IndexError::io(&self.folder))?.path();
            if !group.is_dir() {
                continue;
            }
            for file in fs::read_dir(&group).map_err(IndexError::io(&group))? {
                let path = file.map_err(IndexError::io(&group))?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                see(&path, &name)?;
            }
        }
        Ok(())
    }
}

fn facts(index: &Path) -> Result<Option<Facts>> {
    let path = index.join(FOLDER).join(FACTS);
    match fs::read(&path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(IndexError::io(&path)(e)),
        // What cannot be understood is not used, and replaced.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]
mod tests {
    use super::*;

    const SIZE: [usize; 2] = [3, 8];

    fn states(seed: u32) -> Vec<f32> {
        (0..24).map(|i| ((i * 7 + seed) as f32 * 0.37).sin() * (1.0 + (i / 8) as f32)).collect()
    }

    #[test]
    fn what_is_kept_comes_back_as_exactly_as_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        for (precision, bytes, off) in
            [(StatePrecision::F16, 52, 2e-3), (StatePrecision::Int8, 40, 1.3e-2)]
        {
            let kept = KeptStates::create(dir.path(), "a", precision, SIZE).unwrap();
            assert_eq!(kept.bytes_of_image(), bytes);
            assert!(kept.load(&[1; 32]).is_none());
            kept.save(&[1; 32], &states(1)).unwrap();
            kept.save(&[2; 32], &[0.0; 24]).unwrap();
            let kept = KeptStates::open(dir.path(), "a").unwrap().unwrap();
            for (a, b) in kept.load(&[1; 32]).unwrap().iter().zip(states(1)) {
                assert!((a - b).abs() <= off, "{a} {b}");
            }
            assert_eq!(kept.load(&[2; 32]).unwrap(), [0.0; 24]);
            assert_eq!(kept.usage().unwrap(), (2, 2 * bytes));
            assert!(kept.save(&[3; 32], &[1.0]).is_err());
        }
    }

    #[test]
    fn damage_and_other_models_are_as_if_nothing_were_kept() {
        let dir = tempfile::tempdir().unwrap();
        let kept = KeptStates::create(dir.path(), "a", StatePrecision::F16, SIZE).unwrap();
        kept.save(&[1; 32], &states(1)).unwrap();
        let path = kept.path(&[1; 32]);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            assert!(kept.load(&[1; 32]).is_none(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(kept.load(&[1; 32]).is_none(), "length {at}");
        }
        fs::write(&path, &whole).unwrap();
        assert!(KeptStates::open(dir.path(), "b").unwrap().is_none());
        assert_eq!(KeptStates::precision_at(dir.path()).unwrap(), Some(StatePrecision::F16));
        let other = KeptStates::create(dir.path(), "b", StatePrecision::F16, SIZE).unwrap();
        assert!(!other.has(&[1; 32]));
        fs::write(dir.path().join("states/states.json"), "{").unwrap();
        assert!(KeptStates::open(dir.path(), "b").unwrap().is_none());
    }

    #[test]
    fn what_is_forgotten_leaves_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let kept = KeptStates::create(dir.path(), "a", StatePrecision::Int8, SIZE).unwrap();
        for content in 0..5 {
            kept.save(&[content; 32], &states(content.into())).unwrap();
        }
        // As a process that was killed leaves it.
        fs::write(kept.path(&[1; 32]).with_file_name(".17-3"), "half").unwrap();
        assert_eq!(kept.usage().unwrap().0, 5);
        assert_eq!(kept.retain(&HashSet::from([[1; 32], [4; 32], [9; 32]])).unwrap(), 4);
        assert!(kept.has(&[1; 32]) && kept.has(&[4; 32]) && !kept.has(&[2; 32]));
        KeptStates::remove(dir.path()).unwrap();
        KeptStates::remove(dir.path()).unwrap();
        assert!(KeptStates::open(dir.path(), "a").unwrap().is_none());
    }
}
