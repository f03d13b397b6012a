//! Many samples at little cost: records, of which all but the last lie in a temporary file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;

use super::record::{Cursor, Texts, put_sample, sample};
use super::sample::Sample;
use crate::error::{DataError, Result};

/// Bytes of records that are held in memory; more lie in a temporary file.
const HELD: usize = 64 << 20;
/// Bytes that are read at once where all samples are gone through.
const WINDOW: u64 = 1 << 20;

/// Samples by their number, wherever they are kept.
pub trait SampleSet: Sync {
    /// Number of samples.
    fn count(&self) -> usize;

    /// A sample.
    ///
    /// # Errors
    /// If it cannot be read back from where it is kept.
    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>>;
}

impl SampleSet for [Sample] {
    fn count(&self) -> usize {
        self.len()
    }

    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>> {
        self.get(index).map(Cow::Borrowed).ok_or_else(|| beyond(index, self.len()))
    }
}

impl SampleSet for Vec<Sample> {
    fn count(&self) -> usize {
        self.len()
    }

    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>> {
        (**self).sample(index)
    }
}

fn beyond(index: usize, count: usize) -> DataError {
    DataError::Internal(format!("sample {index} of {count} was asked for"))
}

/// What takes the samples of a source, in order.
pub trait Collect {
    /// Takes the next sample.
    fn push(&mut self, sample: Sample);

    /// How many it was given.
    fn given(&self) -> usize;
}

impl Collect for Vec<Sample> {
    fn push(&mut self, sample: Sample) {
        Vec::push(self, sample);
    }

    fn given(&self) -> usize {
        self.len()
    }
}

/// Samples in order, at about the length of their texts each. Beyond 64 MiB they lie in a temporary file
/// without a name, in the folder that `TMPDIR` gives; in memory stay 8 bytes of each. What is kept
/// does not change with the files that it was read from.
#[derive(Debug, Default)]
pub struct Samples {
    texts: Texts,
    /// Where the record of each ends.
    ends: Vec<u64>,
    file: Option<File>,
    /// Bytes in the file.
    filed: u64,
    /// The records after those.
    held: Vec<u8>,
    /// Why the rest is held in memory.
    without_file: Option<std::io::Error>,
    /// Images of a sample, and the first sample with another number of them.
    views: usize,
    other_views: Option<usize>,
}

impl Samples {
    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// What a user should know: that the samples take more memory than they should.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let cause = self.without_file.as_ref()?;
        Some(format!(
            "no temporary file could be written in {} ({cause}): {} MB of samples are held in memory; hint: \
             `TMPDIR` names another folder",
            std::env::temp_dir().display(),
            self.held.len() / 1_000_000
        ))
    }

    /// Images of each sample, 1 or 2; where they differ, the number of the first one that differs.
    pub(super) fn views(&self) -> Result<usize, usize> {
        self.other_views.map_or(Ok(self.views.max(1)), Err)
    }

    /// The samples in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Sample>> + '_ {
        let (mut window, mut from) = (Vec::new(), 0);
        (0..self.len()).map(move |i| {
            let (start, end) = self.range(i);
            if start >= self.filed {
                return self.record(start, end, &self.held[(start - self.filed) as usize..]);
            }
            if end > from + window.len() as u64 || start < from {
                let until = (start + WINDOW).max(end).min(self.filed);
                window.resize((until - start) as usize, 0);
                from = start;
                self.read(start, &mut window)?;
            }
            self.record(start, end, &window[(start - from) as usize..])
        })
    }

    /// Where the record of a sample begins and ends.
    fn range(&self, index: usize) -> (u64, u64) {
        (index.checked_sub(1).map_or(0, |before| self.ends[before]), self.ends[index])
    }

    /// The sample whose record `bytes` begin with.
    fn record(&self, start: u64, end: u64, bytes: &[u8]) -> Result<Sample> {
        let found = bytes.get(..(end - start) as usize);
        let sample = found.and_then(|record| sample(&mut Cursor(record), &self.texts));
        sample.ok_or_else(|| temporary(std::io::Error::other("it was changed")))
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let read = match &self.file {
            Some(file) => read_at(file, at, into),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        read.map_err(temporary)
    }

    /// Moves what is held to the file.
    fn spill(&mut self) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        file.write_all(&self.held)?;
        self.filed += self.held.len() as u64;
        self.held.clear();
        Ok(())
    }
}

/// An error about the temporary file, which has no name of its own.
fn temporary(cause: std::io::Error) -> DataError {
    let detail = format!("the temporary file of samples cannot be read: {cause}");
    DataError::Io { path: std::env::temp_dir(), cause: std::io::Error::new(cause.kind(), detail) }
}

#[cfg(unix)]
fn read_at(file: &File, at: u64, into: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut at: u64, mut into: &mut [u8]) -> std::io::Result<()> {
    while !into.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, into, at)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        at += read as u64;
        into = &mut into[read..];
    }
    Ok(())
}

impl SampleSet for Samples {
    fn count(&self) -> usize {
        self.len()
    }

    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>> {
        if index >= self.len() {
            return Err(beyond(index, self.len()));
        }
        let (start, end) = self.range(index);
        if start >= self.filed {
            let held = &self.held[(start - self.filed) as usize..];
            return self.record(start, end, held).map(Cow::Owned);
        }
        let mut record = vec![0; (end - start) as usize];
        self.read(start, &mut record)?;
        self.record(start, end, &record).map(Cow::Owned)
    }
}

impl Collect for Samples {
    fn push(&mut self, sample: Sample) {
        match (self.views, sample.views()) {
            (0, views) => self.views = views,
            (first, views) if first != views => {
                self.other_views.get_or_insert(self.ends.len());
            }
            _ => {}
        }
        put_sample(&mut self.held, &sample, &mut self.texts);
        self.ends.push(self.filed + self.held.len() as u64);
        if self.held.len() >= HELD && self.without_file.is_none() {
            self.without_file = self.spill().err();
        }
    }

    fn given(&self) -> usize {
        self.len()
    }
}

impl FromIterator<Sample> for Samples {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        let mut all = Self::default();
        samples.into_iter().for_each(|sample| all.push(sample));
        all
    }
}

/// The samples of one image as one, with the captions of all, in the place of the first; the others are given
/// with the number of their first.
pub(super) struct Joined {
    samples: Samples,
    /// Each sample that has an earlier one, after it.
    later: Vec<Later>,
    /// Numbers of the captions of first samples, where they are not 0.
    firsts: HashMap<u32, u32>,
}

/// A sample that has an earlier one. In the order of the captions of one image.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Later {
    first: u32,
    /// The number of its captions among those of the image.
    number: u32,
    own: u32,
}

impl Joined {
    pub fn new() -> Self {
        Self { samples: Samples::default(), later: Vec::new(), firsts: HashMap::new() }
    }

    /// Takes a sample, the number of the first one of its image, and the number of its captions among those of the
    /// image, by which they are put in order; gives its own number.
    pub fn push(&mut self, sample: Sample, first: Option<u32>, number: u32) -> Result<u32> {
        let own = u32::try_from(self.samples.len()).map_err(|_| too_many())?;
        self.samples.push(sample);
        match first {
            Some(first) => self.later.push(Later { first, number, own }),
            None if number > 0 => _ = self.firsts.insert(own, number),
            None => {}
        }
        Ok(own)
    }

    pub fn into_collector(mut self, out: &mut impl Collect) -> Result<()> {
        self.later.sort_unstable();
        let mut is_later = vec![false; self.samples.len()];
        self.later.iter().for_each(|later| is_later[later.own as usize] = true);
        let mut later = self.later.iter().peekable();
        for (i, sample) in (0..).zip(self.samples.iter()) {
            if is_later[i as usize] {
                continue;
            }
            let mut sample = sample?;
            let number = self.firsts.get(&i).copied().unwrap_or(0);
            let mut before = 0;
            while let Some(next) = later.next_if(|later| later.first == i) {
                let captions = self.samples.sample(next.own as usize)?.into_owned().captions;
                if next.number < number {
                    let end = before + captions.len();
                    sample.captions.splice(before..before, captions);
                    before = end;
                } else {
                    sample.captions.extend(captions);
                }
            }
            out.push(sample);
        }
        Ok(())
    }
}

pub(super) fn too_many() -> DataError {
    DataError::Argument(format!("a data set can have at most {} samples", u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::dataset::{Location, TaskFields};

    fn sample(i: usize, text: usize) -> Sample {
        let name = format!("{i}.png");
        let path = PathBuf::from("images").join(&name);
        Sample {
            key: format!("images/{name}"),
            location: Location::File(path),
            name,
            captions: vec!["x".repeat(text), i.to_string()],
            task: TaskFields::default(),
        }
    }

    #[test]
    fn samples_beyond_what_is_held_come_back_in_any_order() {
        let (n, text) = (700, 150_000);
        let mut all = Samples::default();
        (0..n).for_each(|i| all.push(sample(i, text)));
        assert!(all.filed as usize >= HELD && !all.held.is_empty());
        let same = |found: &Sample, i: usize| {
            assert_eq!(format!("{found:?}"), format!("{:?}", sample(i, text)));
        };
        for (i, found) in all.iter().enumerate() {
            same(&found.unwrap(), i);
        }
        for i in (0..n).rev().step_by(7) {
            same(&all.sample(i).unwrap(), i);
        }
        assert!(all.sample(n).is_err());
        assert_eq!(all.views(), Ok(1));
    }

    #[test]
    fn samples_of_one_image_are_joined_in_the_place_of_the_first() {
        let mut joined = Joined::new();
        for (i, first, number) in [
            (0, None, 0),
            (1, None, 2),
            (2, Some(0), 0),
            (3, None, 0),
            (4, Some(1), 3),
            (5, Some(0), 0),
            (6, Some(1), 1),
            (7, Some(1), 0),
        ] {
            joined.push(sample(i, 1), first, number).unwrap();
        }
        let mut out = Vec::new();
        joined.into_collector(&mut out).unwrap();
        let found: Vec<_> = out.iter().map(|s| (s.name.as_str(), s.captions.join(","))).collect();
        let text = |t: &str| t.to_owned();
        assert_eq!(
            found,
            [
                ("0.png", text("x,0,x,2,x,5")),
                ("1.png", text("x,7,x,6,x,1,x,4")),
                ("3.png", text("x,3"))
            ]
        );
    }
}
