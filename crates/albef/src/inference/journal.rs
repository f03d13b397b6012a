//! A journal of features, so that a long extraction that was ended goes on where it was.
//!
//! `FILE.partial` beside the output: a line with what the features are of (a hash), then a record for each part of the
//! images, with its length and a checksum. A record that is cut or damaged ends the journal, and the work goes on from
//! there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use albef_data::dataset::Location;
use albef_files::failpoint;
use sha2::{Digest, Sha256};

use super::feature::{ExtractOptions, FeatureRows};
use crate::error::{Error, Result};
use crate::fingerprint::{fingerprint, hex};
use crate::images::ImageSet;
use crate::pipeline::Pipeline;

/// Bytes of a record, far more than a part has; a longer one is none.
const LONGEST: u64 = 1 << 32;
/// How often what was written is made durable.
const SYNC: Duration = Duration::from_secs(5);
/// In the place of a caption's number where the feature is of the image alone.
const NO_CAPTION: u32 = u32::MAX;

/// The features of an image, or of it with one of its captions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Extracted {
    /// The number of the image in its set.
    pub image: usize,
    /// The number of the caption.
    pub caption: Option<usize>,
    pub rows: FeatureRows,
}

/// The journal of an extraction, beside the file that the features go to.
#[derive(Debug)]
pub struct FeatureJournal {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the next record is, or will be.
    end: u64,
    /// Whether there may be records that were not read.
    replaying: bool,
    synced: Instant,
}

impl FeatureJournal {
    /// Opens the journal of `output`, or begins one: a journal of another model, of other images or options is
    /// thrown away. Reads all weights once.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn open(
        output: &Path,
        model: &Pipeline,
        images: &ImageSet,
        pairs: bool,
        options: ExtractOptions,
    ) -> Result<Self> {
        let mut name = output.as_os_str().to_owned();
        name.push(".partial");
        Self::open_at(PathBuf::from(name), &what(model, images, pairs, options))
    }

    fn open_at(path: PathBuf, what: &str) -> Result<Self> {
        let fail = |cause| Error::io(&path)(cause);
        let head = format!("albef feature journal 1 {what}\n");
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).open(&path)
        };
        let mut file = open().map_err(fail)?;
        let mut found = vec![0; head.len()];
        let known = file.read_exact(&mut found).is_ok() && found == head.as_bytes();
        if !known {
            file.set_len(0).map_err(fail)?;
            file.seek(SeekFrom::Start(0)).map_err(fail)?;
            file.write_all(head.as_bytes()).map_err(fail)?;
        }
        let (end, file, synced) = (head.len() as u64, BufReader::new(file), Instant::now());
        Ok(Self { path, file, end, replaying: known, synced })
    }

    /// The features of the next part, if an earlier call came so far.
    pub(super) fn next(&mut self) -> Option<Vec<Extracted>> {
        let found = self.replaying.then(|| self.record()).flatten();
        match &found {
            Some((_, length)) => self.end += length,
            None => self.replaying = false,
        }
        found.map(|(features, _)| features)
    }

    /// Throws away the record of these features, which [`FeatureJournal::next`] gave last, and all after it.
    pub(super) fn reject(&mut self, features: &[Extracted]) {
        self.end -= encoded(features).len() as u64;
        self.replaying = false;
    }

    /// A record, and its length.
    fn record(&mut self) -> Option<(Vec<Extracted>, u64)> {
        let mut head = [0; 16];
        self.file.read_exact(&mut head).ok()?;
        let length = u64::from_le_bytes(head[..8].try_into().ok()?);
        if length > LONGEST {
            return None;
        }
        // What the file does not have is not allocated.
        let mut body = Vec::new();
        (&mut self.file).take(length).read_to_end(&mut body).ok()?;
        let whole = body.len() as u64 == length && checksum(&body) == head[8..];
        whole.then(|| decoded(&body)).flatten().map(|features| (features, 16 + length))
    }

    /// Adds the features of the next part.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn append(&mut self, features: &[Extracted]) -> Result<()> {
        let written = self.write(&encoded(features));
        written.map_err(Error::io(&self.path))
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let file = self.file.get_mut();
        // Behind the last whole record, whatever was read ahead.
        file.set_len(self.end)?;
        file.seek(SeekFrom::Start(self.end))?;
        failpoint::pass("journal.appending")?;
        file.write_all(record)?;
        failpoint::pass("journal.appended")?;
        self.end += record.len() as u64;
        if self.synced.elapsed() >= SYNC {
            file.sync_data()?;
            self.synced = Instant::now();
        }
        Ok(())
    }

    /// Removes the journal, once the features are where they belong.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::io(&self.path))
    }
}

/// The hash of all that decides about the features: model, options, and the images with their captions.
fn what(model: &Pipeline, images: &ImageSet, pairs: bool, options: ExtractOptions) -> String {
    let mut hasher = Sha256::new();
    let mut take = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    take(&fingerprint(model));
    take(&format!("{pairs} {options:?}"));
    for (i, sample) in images.samples().iter().enumerate() {
        take(&images.full_name(i));
        let (Location::File(file) | Location::Member { archive: file, .. }) = &sample.location;
        let changed = file.metadata().and_then(|m| Ok((m.len(), m.modified()?)));
        take(&format!("{:?} {:?}", sample.location, changed.ok()));
        if pairs {
            sample.captions.iter().for_each(|caption| take(caption));
        }
    }
    hex(&hasher.finalize())
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(body).into();
    std::array::from_fn(|i| hash[i])
}

/// Length, checksum, and for each feature the numbers of image and caption, width, rows and values.
fn encoded(features: &[Extracted]) -> Vec<u8> {
    let mut body = Vec::new();
    for Extracted { image, caption, rows } in features {
        let caption = caption.map_or(NO_CAPTION, |c| c as u32);
        for number in [*image as u32, caption, rows.width as u32, rows.len() as u32] {
            body.extend(number.to_le_bytes());
        }
        body.extend(rows.values.iter().flat_map(|value| value.to_le_bytes()));
    }
    let mut out = (body.len() as u64).to_le_bytes().to_vec();
    out.extend(checksum(&body));
    out.extend(body);
    out
}

fn decoded(mut body: &[u8]) -> Option<Vec<Extracted>> {
    let mut features = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<16>() {
        let (numbers, _) = head.as_chunks::<4>();
        let [image, caption, width, rows] =
            std::array::from_fn(|i| u32::from_le_bytes(numbers[i]) as usize);
        let (values, rest) = rest.split_at_checked(width.checked_mul(rows)?.checked_mul(4)?)?;
        let values = values.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        let caption = (caption != NO_CAPTION as usize).then_some(caption);
        features.push(Extracted { image, caption, rows: FeatureRows { width, values } });
        body = rest;
    }
    body.is_empty().then_some(features)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: usize) -> Vec<Extracted> {
        let of = |image, caption, values: &[f32]| {
            let rows = FeatureRows { width: 2, values: values.to_vec() };
            Extracted { image, caption, rows }
        };
        vec![of(first, None, &[1.0, -2.0]), of(first + 2, Some(1), &[0.5; 6])]
    }

    #[test]
    fn whatever_is_cut_or_changed_what_is_before_it_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.partial");
        let open = || FeatureJournal::open_at(path.clone(), "this").unwrap();
        let mut journal = open();
        assert_eq!(journal.next(), None);
        let parts = [part(0), Vec::new(), part(9)];
        parts.iter().for_each(|part| journal.append(part).unwrap());
        let whole = fs::read(&path).unwrap();
        let all = |journal: &mut FeatureJournal| {
            std::iter::from_fn(|| journal.next()).collect::<Vec<_>>()
        };
        assert_eq!(all(&mut open()), parts);
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).unwrap();
            let found = all(&mut open());
            assert_eq!(found, parts[..found.len()], "cut at {at}");
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let mut journal = open();
            let found = all(&mut journal);
            assert!(found.len() < parts.len() && found == parts[..found.len()], "changed at {at}");
            // It goes on from there.
            parts[found.len()..].iter().for_each(|part| journal.append(part).unwrap());
            assert_eq!(all(&mut open()), parts);
        }
        // One of something else is thrown away.
        assert_eq!(all(&mut FeatureJournal::open_at(path.clone(), "that").unwrap()).len(), 0);
        assert_eq!(all(&mut open()).len(), 0);
    }

    #[test]
    fn a_part_that_does_not_hold_any_more_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.partial");
        let open = || FeatureJournal::open_at(path.clone(), "this").unwrap();
        let mut journal = open();
        [part(0), part(5), part(9)].iter().for_each(|part| journal.append(part).unwrap());
        let mut journal = open();
        journal.next().unwrap();
        let second = journal.next().unwrap();
        journal.reject(&second);
        assert_eq!(journal.next(), None);
        journal.append(&part(6)).unwrap();
        let mut again = open();
        assert_eq!(
            [again.next(), again.next(), again.next()],
            [Some(part(0)), Some(part(6)), None]
        );
        again.remove().unwrap();
        assert!(!path.exists());
    }
}
