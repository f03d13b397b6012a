//! Shards from any source.
//!
//! A folder of `00000.tar`, `00001.tar`, … with an index beside each, in which every image (its bytes unchanged, or
//! reduced to a size) has a `.txt` and a `.json` of one key. Entries of one image, as the official lists have one for
//! each caption, share it: the `.json` says how many captions are of each, so that they are read as as many pairs. `00000.json` is the account of `00000.tar`: it appears after the shard,
//! so that a packing that was stopped at any moment goes on behind the last shard that has one. At the end come
//! `manifest.jsonl`, which training can verify, and `left_out.jsonl`, which names all that is in no shard.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use albef_weights::write_atomic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::contents::Contents;
use super::in_order::in_order;
use super::manifest::{FileRecord, hex, write_records};
use super::numbers::Hash128;
use super::sample::{Location, Sample, Skipped};
use super::set::Dataset;
use super::shard;
use super::store::SampleSet;
use crate::control::Control;
use crate::error::{DataError, Result};
use crate::image::ImageReader;
use crate::names;

mod prepare;

use prepare::{Ready, prepare};

/// The file that says of what a folder is a packing.
const PACKING: &str = "packing.json";
/// The version of the folder.
const VERSION: u32 = 1;

/// How a data set is packed.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Folder of the shards.
    pub output: PathBuf,
    /// Bytes after which a shard ends; one image may be more.
    pub shard_bytes: u64,
    /// Pairs after which a shard ends; one image may have more.
    pub pairs_per_shard: usize,
    /// Decode every image, so that only whole ones are packed; else their headers are read.
    pub decode: bool,
    /// Images whose shorter side has more pixels are stored with so many along it, as JPEG, unless
    /// some are transparent; else all bytes are unchanged.
    pub image_size: Option<usize>,
    /// How images are read.
    pub reader: ImageReader,
    /// Threads.
    pub workers: usize,
}

/// What a packing holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PackReport {
    /// Shards.
    pub shards: usize,
    /// Of these, shards that an earlier call made.
    pub kept_shards: usize,
    /// Images in them.
    pub images: usize,
    /// Entries of these images, each with its captions: the samples that a run draws from.
    pub pairs: usize,
    /// Their captions.
    pub captions: usize,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Images without a caption, which are in no shard.
    pub without_captions: usize,
    /// Everything else that is in no shard or not as it was written: broken images, entries and members that form
    /// no sample, faulty captions.
    pub left_out: usize,
    /// How many of these are images that cannot be used.
    pub unusable: usize,
}

impl fmt::Display for PackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} pairs of {} images with {} captions in {} shards, {:.1} MB",
            self.pairs,
            self.images,
            self.captions,
            self.shards,
            self.bytes as f64 / 1e6
        )?;
        if self.kept_shards > 0 {
            writeln!(f, "{} of the shards were there already", self.kept_shards)?;
        }
        for (count, what) in [
            (self.unusable, "images cannot be used"),
            (self.without_captions, "images have no caption"),
            (
                self.left_out - self.unusable,
                "entries, members or captions are left out or not as they are written",
            ),
        ] {
            if count > 0 {
                writeln!(f, "{count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Of what a folder is a packing.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Packing {
    version: u32,
    samples: usize,
    /// SHA-256 of the samples' names, texts and image numbers.
    data: String,
    shard_bytes: u64,
    pairs_per_shard: usize,
    decode: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_size: Option<usize>,
    /// Images, if they have fewer than `samples`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<usize>,
}

/// The account of a shard.
#[derive(Serialize, Deserialize)]
struct Account {
    shard: String,
    /// The first image that was looked at, and that after the last.
    first: usize,
    next: usize,
    pairs: usize,
    /// Images, if there are fewer than `pairs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<usize>,
    captions: usize,
    bytes: u64,
    sha256: String,
    unusable: Vec<Unusable>,
}

impl Account {
    /// Whether all images that it leaves out still cannot be used.
    fn is_current(&self, feed: &Feed<'_>, control: &Control) -> Result<bool> {
        for image in self.unusable.iter().filter_map(|unusable| unusable.image) {
            control.check()?;
            if (self.first..self.next).contains(&image)
                && prepare(feed.data, feed.images.of_image(image), feed.options)?.is_ok()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first image of the shard that is no longer where it was packed from.
    fn lost(&self, feed: &Feed<'_>) -> Result<Option<String>> {
        let left_out: HashSet<usize> = self.unusable.iter().filter_map(|u| u.image).collect();
        for image in (self.first..self.next).filter(|image| !left_out.contains(image)) {
            let sample = feed.data.sample(feed.images.of_image(image)[0] as usize)?;
            if sample.present().is_err() {
                return Ok(Some(names::shown(&sample.name)));
            }
        }
        Ok(None)
    }
}

/// Packing again from a shard on writes all behind it anew: an error, if that would lose an image that is packed.
fn check_nothing_is_lost(account: &Account, number: usize, feed: &Feed<'_>) -> Result<()> {
    let mut number = number;
    let mut next = Some(account.lost(feed)?).map(|lost| (lost, account.next));
    while let Some((lost, position)) = next {
        if let Some(name) = lost {
            return Err(DataError::Argument(format!(
                "{}: images that were missing are there now, but {name}, which is packed, is not, and \
                 packing again would lose it; choose another folder",
                feed.options.output.display()
            )));
        }
        number += 1;
        let shard = feed.options.output.join(format!("{number:05}.tar"));
        next = match account_of(&shard, position)? {
            Some(account) => Some((account.lost(feed)?, account.next)),
            None => None,
        };
    }
    Ok(())
}

/// An image that is in no shard.
#[derive(Serialize, Deserialize)]
struct Unusable {
    name: String,
    error: String,
    /// Its place among the images that were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<usize>,
}

impl Unusable {
    /// An image without a caption, by the place where it lies.
    fn wordless(sample: &Sample) -> Self {
        let name = match &sample.location {
            Location::File(path) => names::text_of_path(path),
            Location::Member { archive, .. } => {
                format!("{}: {}", names::text_of_path(archive), sample.name)
            }
        };
        let error = match sample.captions.len() {
            0 => "the image has no caption",
            _ => "the image has only blank captions",
        };
        Self { name, error: error.to_owned(), image: None }
    }
}

impl From<&Skipped> for Unusable {
    fn from(skipped: &Skipped) -> Self {
        Self { name: skipped.name.clone(), error: skipped.error.to_string(), image: None }
    }
}

/// The samples of a data set by image, in the order in which images appear first.
struct Images {
    samples: Vec<u32>,
    /// Where the samples of each image end.
    ends: Vec<usize>,
}

impl Images {
    fn of(data: &Dataset) -> Result<Self> {
        let mut all: Vec<(Hash128, u32)> = Vec::with_capacity(data.len());
        for (i, (sample, number)) in (0..).zip(data.samples().iter().zip(data.image_ids())) {
            // A sample of another number is not of the image by the rules of its list.
            all.push((Hash128::of(&(sample?.location, number)), i));
        }
        all.sort_unstable();
        let mut images: Vec<&[(Hash128, u32)]> = all.chunk_by(|a, b| a.0 == b.0).collect();
        images.sort_unstable_by_key(|samples| samples[0].1);
        let (mut samples, mut ends) = (Vec::with_capacity(all.len()), Vec::new());
        for image in images {
            samples.extend(image.iter().map(|(_, i)| *i));
            ends.push(samples.len());
        }
        Ok(Self { samples, ends })
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    /// The samples of an image.
    fn of_image(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.samples[start..self.ends[index]]
    }
}

/// Packs a data set. The same call continues what was stopped, and looks again for images that could not be used. Reading
/// the folder gives the same pairs in the same order, but for those of one image, which follow its first one. Images that
/// share a number share one again.
///
/// # Errors
/// If the folder holds something else, a file cannot be written, samples are of a task, an image that is packed would be
/// lost, or `control` is cancelled: shards that are complete stay.
pub fn pack(data: &Dataset, options: &PackOptions, control: &Control) -> Result<PackReport> {
    let folder = &*options.output;
    std::fs::create_dir_all(folder).map_err(DataError::io(folder))?;
    let images = &Images::of(data)?;
    claim(data, images, options)?;
    let mut feed = Feed { data, images, options, next: 0, ready: VecDeque::new() };
    let mut report = PackReport {
        without_captions: data.without_captions(),
        left_out: data.left_out().len(),
        ..PackReport::default()
    };
    let mut records = Vec::new();
    let mut unusable = Vec::new();
    while feed.position() < images.len() {
        control.check()?;
        let name = format!("{:05}.tar", records.len());
        let kept = account_of(&folder.join(&name), feed.position())?;
        let current = match &kept {
            Some(account) => account.is_current(&feed, control)?,
            None => false,
        };
        if let (Some(account), false) = (&kept, current) {
            check_nothing_is_lost(account, records.len(), &feed)?;
        }
        let account = match kept.filter(|_| current) {
            Some(account) => {
                report.kept_shards += 1;
                feed = Feed { next: account.next, ready: VecDeque::new(), ..feed };
                account
            }
            None => write_shard(&mut feed, &folder.join(&name), control)?,
        };
        control.advance("packing", account.next, images.len());
        report.pairs += account.pairs;
        report.images += account.images.unwrap_or(account.pairs);
        report.captions += account.captions;
        report.bytes += account.bytes;
        unusable.extend(account.unusable);
        if account.pairs > 0 {
            let Account { shard, bytes, sha256, pairs, .. } = account;
            records.push(FileRecord { path: shard, bytes, sha256, pairs: Some(pairs) });
        }
    }
    report.shards = records.len();
    report.unusable = unusable.len();
    report.left_out += unusable.len();
    unusable.extend(data.left_out().iter().map(Unusable::from));
    for sample in data.wordless().iter() {
        unusable.push(Unusable::wordless(&sample?));
    }
    write_lines(&folder.join("left_out.jsonl"), &unusable)?;
    write_records(&folder.join("manifest.jsonl"), &records)?;
    Ok(report)
}

fn write_lines(path: &Path, lines: &[impl Serialize]) -> Result<()> {
    write_file(path, |out| {
        for line in lines {
            writeln!(out, "{}", serde_json::to_string(line).map_err(io::Error::other)?)?;
        }
        Ok(())
    })
}

fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    write_atomic(path, write).map_err(|e| DataError::Argument(e.to_string()))
}

/// Takes a folder for this packing.
fn claim(data: &Dataset, images: &Images, options: &PackOptions) -> Result<()> {
    let path = options.output.join(PACKING);
    let own = Packing {
        version: VERSION,
        samples: data.len(),
        data: hash_of(data)?,
        shard_bytes: options.shard_bytes,
        pairs_per_shard: options.pairs_per_shard,
        decode: options.decode,
        image_size: options.image_size,
        images: (images.len() < data.len()).then_some(images.len()),
    };
    let other = |detail: &str| {
        DataError::Argument(format!(
            "{}: {detail}; choose another folder",
            options.output.display()
        ))
    };
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice::<Packing>(&bytes) {
            Ok(found) if found == own => Ok(()),
            Ok(found) if (found.samples, &found.data) == (own.samples, &own.data) => {
                Err(other("it holds a packing of these data with other settings"))
            }
            _ => Err(other("it holds a packing of other data")),
        },
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let entries = std::fs::read_dir(&options.output).map_err(DataError::io(&path))?;
            let archive = |name: std::ffi::OsString| shard::is_archive(&names::text_of_os(&name));
            if entries.flatten().any(|e| archive(e.file_name())) {
                return Err(other("it holds archives that are of no packing"));
            }
            write_file(&path, |out| serde_json::to_writer(out, &own).map_err(io::Error::other))
        }
        Err(cause) => Err(DataError::io(&path)(cause)),
    }
}

fn hash_of(data: &Dataset) -> Result<String> {
    let mut hash = Sha256::new();
    let mut take = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    for (sample, number) in data.samples().iter().zip(data.image_ids()) {
        let sample = sample?;
        take(&sample.name);
        take(&number.to_string());
        sample.captions.iter().for_each(|caption| take(caption));
    }
    Ok(hex(&hash.finalize()))
}

fn account_path(shard: &Path) -> PathBuf {
    shard.with_extension("json")
}

/// The account of a shard that is there and begins with this image.
fn account_of(shard: &Path, first: usize) -> Result<Option<Account>> {
    let path = account_path(shard);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(DataError::io(&path)(cause)),
    };
    let account = serde_json::from_slice::<Account>(&bytes).ok();
    let size = shard.metadata().ok().map(|m| m.len());
    Ok(account.filter(|a| {
        let there = if a.pairs > 0 { size == Some(a.bytes) } else { true };
        a.first == first && a.next > first && there
    }))
}

/// The images of a data set in order, read ahead by several threads.
struct Feed<'a> {
    data: &'a Dataset,
    images: &'a Images,
    options: &'a PackOptions,
    /// The next image to read.
    next: usize,
    ready: VecDeque<Result<Ready, Skipped>>,
}

impl Feed<'_> {
    /// The next image to pack.
    fn position(&self) -> usize {
        self.next - self.ready.len()
    }

    fn peek(&mut self, control: &Control) -> Result<Option<&Result<Ready, Skipped>>> {
        if self.ready.is_empty() {
            let ahead = (16 * self.options.workers.max(1)).min(self.images.len() - self.next);
            let (start, ready) = (self.next, &mut self.ready);
            let quiet = Control::new();
            let work = |i: usize| prepare(self.data, self.images.of_image(start + i), self.options);
            in_order("", ahead, self.options.workers, &quiet, work, |_, found| {
                ready.push_back(found?);
                Ok(())
            })?;
            self.next += ahead;
            control.check()?;
            control.advance("packing", start, self.images.len());
        }
        Ok(self.ready.front())
    }
}

/// Counts and hashes what is written.
struct Counted<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a shard, its index, and its account last.
fn write_shard(feed: &mut Feed<'_>, path: &Path, control: &Control) -> Result<Account> {
    let mut account = Account {
        shard: names::text_of_os(path.file_name().unwrap_or_default()),
        first: feed.position(),
        next: 0,
        pairs: 0,
        images: None,
        captions: 0,
        bytes: 0,
        sha256: String::new(),
        unusable: Vec::new(),
    };
    // Images before the first usable one need no file, and may be all that is left.
    skip_unusable(feed, &mut account, control)?;
    if feed.position() < feed.images.len() {
        let mut stopped = None;
        let written = write_atomic(path, |out| {
            fill(feed, &mut account, out, control).map_err(|error| {
                let text = error.to_string();
                stopped = Some(error);
                io::Error::other(text)
            })
        });
        match (stopped, written) {
            (Some(error), _) => return Err(error),
            (None, written) => written.map_err(|e| DataError::Argument(e.to_string()))?,
        }
        // Reading it writes the index, and shows that it can be read.
        let mut found = Contents::default();
        shard::read_all(&[path.to_owned()], &mut found)?;
        if found.samples.len() != account.pairs || !found.left_out.is_empty() {
            let detail = format!("{} reads otherwise than it was written", path.display());
            return Err(DataError::Internal(detail));
        }
    }
    account.next = feed.position();
    write_file(&account_path(path), |out| {
        serde_json::to_writer(out, &account).map_err(io::Error::other)
    })?;
    Ok(account)
}

fn skip_unusable(feed: &mut Feed<'_>, account: &mut Account, control: &Control) -> Result<()> {
    while let Some(Err(skipped)) = feed.peek(control)? {
        let unusable = Unusable::from(skipped);
        account.unusable.push(Unusable { image: Some(feed.position()), ..unusable });
        feed.ready.pop_front();
        if feed.position() >= feed.images.len() {
            break;
        }
    }
    Ok(())
}

fn fill(
    feed: &mut Feed<'_>,
    account: &mut Account,
    out: &mut BufWriter<File>,
    control: &Control,
) -> Result<()> {
    let options = feed.options;
    let failed = |e: io::Error| DataError::io(&options.output)(e);
    let counted = Counted { out, hash: Sha256::new(), bytes: 0 };
    let mut archive = tar::Builder::new(counted);
    let mut images = 0;
    while feed.position() < feed.images.len() {
        let number = feed.position();
        let (bytes, pairs) = match feed.peek(control)? {
            Some(Ok(ready)) => (ready.bytes(), ready.pairs),
            Some(Err(skipped)) => {
                let unusable = Unusable { image: Some(number), ..Unusable::from(skipped) };
                account.unusable.push(unusable);
                feed.ready.pop_front();
                continue;
            }
            None => break,
        };
        let full = archive.get_ref().bytes.saturating_add(bytes) > options.shard_bytes;
        let pairs = account.pairs + pairs;
        if account.pairs > 0 && (full || pairs > options.pairs_per_shard) {
            break;
        }
        let Some(Ok(ready)) = feed.ready.pop_front() else { break };
        images += 1;
        account.pairs = pairs;
        account.captions += ready.captions;
        let members = [(ready.ending, &ready.image), ("txt", &ready.text), ("json", &ready.object)];
        for (ending, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            let name = format!("{number:09}.{ending}");
            archive.append_data(&mut header, name, &bytes[..]).map_err(failed)?;
        }
    }
    let counted = archive.into_inner().map_err(failed)?;
    account.images = (images < account.pairs).then_some(images);
    account.bytes = counted.bytes;
    account.sha256 = hex(&counted.hash.finalize());
    Ok(())
}
