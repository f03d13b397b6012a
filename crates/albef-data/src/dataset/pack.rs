//! Shards from any source.
//!
//! A folder of `00000.tar`, `00001.tar`, … with an index beside each, in which every pair is an image (its bytes
//! unchanged, or reduced to a size), a `.txt` and a `.json` of one key. `00000.json` is the account of `00000.tar`: it appears after the shard,
//! so that a packing that was stopped at any moment goes on behind the last shard that has one. At the end come
//! `manifest.jsonl`, which training can verify, and `left_out.jsonl`, which names all that is in no shard.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use albef_weights::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::contents::Contents;
use super::in_order::in_order;
use super::manifest::{FileRecord, hex, write_records};
use super::sample::{Location, Sample, Skipped, place_key};
use super::set::Dataset;
use super::shard;
use super::store::SampleSet;
use crate::control::Control;
use crate::error::{DataError, ImageError, ImageErrorKind as Kind, Result};
use crate::image::{
    Content, Format, HEAD, ImageReader, RgbImage, content, image_size, jpeg, resize_bicubic,
};
use crate::names;

/// The file that says of what a folder is a packing.
const PACKING: &str = "packing.json";
/// The quality of images that are stored smaller.
const QUALITY: u8 = 95;
/// The version of the folder.
const VERSION: u32 = 1;

/// How a data set is packed.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Folder of the shards.
    pub output: PathBuf,
    /// Bytes after which a shard ends; one pair may be more.
    pub shard_bytes: u64,
    /// Pairs after which a shard ends.
    pub pairs_per_shard: usize,
    /// Decode every image, so that only whole ones are packed; else their headers are read.
    pub decode: bool,
    /// Images whose shorter side has more pixels are stored with so many along it, as JPEG; else all bytes are unchanged.
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
    /// Images with captions in them.
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
            "{} pairs with {} captions in {} shards, {:.1} MB",
            self.pairs,
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
}

/// The account of a shard.
#[derive(Serialize, Deserialize)]
struct Account {
    shard: String,
    /// The first sample that was looked at, and that after the last.
    first: usize,
    next: usize,
    pairs: usize,
    captions: usize,
    bytes: u64,
    sha256: String,
    unusable: Vec<Unusable>,
}

/// An image that is in no shard.
#[derive(Serialize, Deserialize)]
struct Unusable {
    name: String,
    error: String,
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
        Self { name, error: error.to_owned() }
    }
}

impl From<&Skipped> for Unusable {
    fn from(skipped: &Skipped) -> Self {
        Self { name: skipped.name.clone(), error: skipped.error.to_string() }
    }
}

/// Packs a data set. The same call continues what was stopped; reading the folder gives the same pairs in
/// the same order, with images that share a number sharing one again.
///
/// # Errors
/// If the folder holds something else, a file cannot be written, samples are of a task, or `control` is cancelled: shards
/// that are complete stay.
pub fn pack(data: &Dataset, options: &PackOptions, control: &Control) -> Result<PackReport> {
    let folder = &*options.output;
    std::fs::create_dir_all(folder).map_err(DataError::io(folder))?;
    claim(data, options)?;
    let mut feed = Feed { data, options, next: 0, ready: VecDeque::new() };
    let mut report = PackReport {
        without_captions: data.without_captions(),
        left_out: data.left_out().len(),
        ..PackReport::default()
    };
    let mut records = Vec::new();
    let mut unusable = Vec::new();
    while feed.position() < data.len() {
        let name = format!("{:05}.tar", records.len());
        let account = match account_of(&folder.join(&name), feed.position())? {
            Some(account) => {
                report.kept_shards += 1;
                feed = Feed { next: account.next, ready: VecDeque::new(), ..feed };
                account
            }
            None => write_shard(&mut feed, &folder.join(&name), control)?,
        };
        control.advance("packing", account.next, data.len());
        report.pairs += account.pairs;
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
fn claim(data: &Dataset, options: &PackOptions) -> Result<()> {
    let path = options.output.join(PACKING);
    let own = Packing {
        version: VERSION,
        samples: data.len(),
        data: hash_of(data)?,
        shard_bytes: options.shard_bytes,
        pairs_per_shard: options.pairs_per_shard,
        decode: options.decode,
        image_size: options.image_size,
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

/// The account of a shard that is there and begins with this sample.
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

/// A pair that can be packed.
struct Ready {
    sample: Sample,
    ending: &'static str,
    image: Vec<u8>,
    text: Vec<u8>,
    object: Vec<u8>,
}

impl Ready {
    /// Bytes in an archive.
    fn bytes(&self) -> u64 {
        let block = |n: usize| 512 + n.next_multiple_of(512) as u64;
        block(self.image.len()) + block(self.text.len()) + block(self.object.len())
    }
}

/// The samples of a data set in order, read ahead by several threads.
struct Feed<'a> {
    data: &'a Dataset,
    options: &'a PackOptions,
    /// The next sample to read.
    next: usize,
    ready: VecDeque<Result<Ready, Skipped>>,
}

impl Feed<'_> {
    /// The next sample to pack.
    fn position(&self) -> usize {
        self.next - self.ready.len()
    }

    fn peek(&mut self, control: &Control) -> Result<Option<&Result<Ready, Skipped>>> {
        if self.ready.is_empty() {
            let ahead = (16 * self.options.workers.max(1)).min(self.data.len() - self.next);
            let (start, ready) = (self.next, &mut self.ready);
            let quiet = Control::new();
            let work = |i: usize| prepare(self.data, start + i, self.options);
            in_order("", ahead, self.options.workers, &quiet, work, |_, found| {
                ready.push_back(found?);
                Ok(())
            })?;
            self.next += ahead;
            control.check()?;
            control.advance("packing", start, self.data.len());
        }
        Ok(self.ready.front())
    }
}

/// An image whose shorter side has `size` pixels; `None` where it has no more than that.
fn reduced(image: &RgbImage, size: usize, reader: &ImageReader) -> Option<RgbImage> {
    let shorter = image.width.min(image.height);
    let side = |pixels: usize| {
        let scaled = pixels as u128 * size as u128 * 2 + shorter as u128;
        (scaled / (2 * shorter as u128)) as usize
    };
    (shorter > size).then(|| {
        let (width, height) = (side(image.width), side(image.height));
        resize_bicubic(image, width, height, reader.options.resize_order)
    })
}

/// Reads and checks a sample.
fn prepare(data: &Dataset, index: usize, o: &PackOptions) -> Result<Result<Ready, Skipped>> {
    let sample = data.sample(index)?.into_owned();
    if sample.task != Default::default() {
        let detail = "lists of tasks cannot be packed, only images with captions";
        return Err(DataError::Argument(detail.into()));
    }
    let read = || {
        let bytes = sample.bytes()?;
        if o.decode || o.image_size.is_some() {
            let image = sample.decode_bytes(0, &bytes, &o.reader)?;
            if let Some(smaller) = o.image_size.and_then(|size| reduced(&image, size, &o.reader)) {
                return Ok(("jpg", jpeg(&smaller, QUALITY)?));
            }
        } else {
            image_size(&bytes)?;
        }
        let ending = match content(&bytes[..bytes.len().min(HEAD)]) {
            Content::Image(Format::Jpeg) => "jpg",
            Content::Image(Format::Png) => "png",
            Content::Image(Format::WebP) => "webp",
            Content::Image(Format::Gif) => "gif",
            Content::Image(Format::Bmp) => "bmp",
            Content::Image(Format::Tiff) => "tif",
            #[cfg(feature = "heic")]
            Content::Image(Format::Heic) => "heic",
            #[cfg(feature = "avif")]
            Content::Image(Format::Avif) => "avif",
            Content::Unread(_) | Content::Other => {
                let detail = "its format is not known".to_owned();
                return Err(ImageError { kind: Kind::UnknownFormat, detail });
            }
        };
        Ok((ending, bytes))
    };
    let (ending, image) = match read() {
        Ok(found) => found,
        Err(error) => return Ok(Err(Skipped { name: sample.name, error })),
    };
    let captions = &sample.captions;
    let caption = if captions.len() == 1 { json!(captions[0]) } else { json!(captions) };
    let mut object = json!({
        "caption": caption,
        "image_id": data.image_ids()[index],
        "name": sample.name,
    });
    if sample.key != place_key(&sample.location, &sample.name) {
        object["source_image_id"] = json!(sample.key);
    }
    let text: Vec<String> =
        captions.iter().map(|c| c.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    Ok(Ok(Ready {
        ending,
        image,
        text: text.join("\n").into_bytes(),
        object: object.to_string().into_bytes(),
        sample,
    }))
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
        captions: 0,
        bytes: 0,
        sha256: String::new(),
        unusable: Vec::new(),
    };
    // Images before the first usable one need no file, and may be all that is left.
    skip_unusable(feed, &mut account, control)?;
    if feed.position() < feed.data.len() {
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
        account.unusable.push(Unusable::from(skipped));
        feed.ready.pop_front();
        if feed.position() >= feed.data.len() {
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
    while feed.position() < feed.data.len() {
        let number = feed.position();
        let bytes = match feed.peek(control)? {
            Some(Ok(ready)) => ready.bytes(),
            Some(Err(skipped)) => {
                account.unusable.push(Unusable::from(skipped));
                feed.ready.pop_front();
                continue;
            }
            None => break,
        };
        let full = archive.get_ref().bytes.saturating_add(bytes) > options.shard_bytes;
        if account.pairs > 0 && (full || account.pairs >= options.pairs_per_shard) {
            break;
        }
        let Some(Ok(ready)) = feed.ready.pop_front() else { break };
        account.pairs += 1;
        account.captions += ready.sample.captions.len();
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
    account.bytes = counted.bytes;
    account.sha256 = hex(&counted.hash.finalize());
    Ok(())
}
