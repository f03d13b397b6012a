//! The index beside a shard: what going through it found, so that it is opened at once the next time.
//!
//! `NAME.tar.index`: a line that names the format, size, time of change and some bytes of the shard, a checksum, and the samples
//! with what was left out. An index of another version, of another file, or damaged is made anew. Shards below 64 KiB get none.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use albef_weights::write_atomic;

use super::super::contents::Contents;
use super::super::record::{Cursor, of_archive, put_number, put_sample, put_text, sample};
use super::super::sample::Skipped;
use super::Hidden;
use crate::error::ImageErrorKind as Kind;
use crate::names;

/// Names format and version; a change of the records, or of what forms a sample, needs another number.
const MAGIC: &[u8] = b"albef shard index 5\n";
/// Bytes of an index; more are none.
const LONGEST: u64 = 1 << 31;

/// Bytes of the smallest shard that gets an index; a smaller one is gone through as fast.
const WORTH_IT: u64 = 1 << 16;

/// Bytes at the beginning, the middle and the end of a file that are part of its stamp.
const SAMPLED: u64 = 1 << 12;

/// By which a file is known again. Two shards of one size and time, as tools that make builds reproducible write them,
/// are told apart by some of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: u64,
    /// Nanoseconds.
    changed: u64,
    /// Checksum of the sampled bytes.
    sampled: u32,
}

impl Stamp {
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let found = file.metadata()?;
        let since = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let size = found.len();
        let mut sampled = Vec::new();
        for at in [0, size / 2, size.saturating_sub(SAMPLED)] {
            file.seek(SeekFrom::Start(at))?;
            (&mut file).take(SAMPLED).read_to_end(&mut sampled)?;
        }
        let sampled = crc32fast::hash(&sampled);
        Ok(Self { size, changed: since.as_nanos() as u64, sampled })
    }

    fn bytes(self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..8].copy_from_slice(&self.changed.to_le_bytes());
        out[8..16].copy_from_slice(&self.size.to_le_bytes());
        out[16..].copy_from_slice(&self.sampled.to_le_bytes());
        out
    }
}

/// Where the index of a shard is.
pub(super) fn beside(shard: &Path) -> PathBuf {
    let mut name = OsString::from(shard);
    name.push(".index");
    name.into()
}

/// What the index of a shard says, if it is of the file with this stamp.
pub(super) fn load(shard: &Path, stamp: Stamp) -> Option<(Contents, Hidden)> {
    let mut bytes = Vec::new();
    let path = beside(shard);
    // Opening a pipe would wait for its writer.
    if !path.metadata().is_ok_and(|m| m.is_file()) {
        return None;
    }
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(&stamp.bytes())?;
    let (checksum, body) = rest.split_first_chunk()?;
    if u32::from_le_bytes(*checksum) != crc32fast::hash(body) {
        return None;
    }
    contents(body, shard, stamp)
}

fn contents(body: &[u8], shard: &Path, stamp: Stamp) -> Option<(Contents, Hidden)> {
    let texts = of_archive(shard);
    let archive = names::text_of_path(shard);
    let mut from = Cursor(body);
    let mut out = Contents::default();
    for _ in 0..from.number()? {
        let sample = sample(&mut from, &texts)?;
        // A member beyond the end of the file would be met in training only.
        let super::Location::Member { offset, len, .. } = sample.location else { return None };
        offset.checked_add(len).filter(|end| *end <= stamp.size)?;
        out.samples.push(sample);
    }
    for list in [&mut out.left_out, &mut out.faults] {
        for _ in 0..from.number()? {
            list.push(skipped(&mut from, &archive)?);
        }
    }
    let hidden = Hidden { count: from.number()?, first: from.text()?.to_owned() };
    from.0.is_empty().then_some((out, hidden))
}

/// Writes the index of a shard which had this stamp before it was read.
///
/// # Errors
/// Why none can be written.
pub(super) fn store(
    shard: &Path,
    stamp: Stamp,
    contents: &Contents,
    hidden: &Hidden,
) -> Result<(), String> {
    if stamp.size < WORTH_IT {
        return Ok(());
    }
    if !Stamp::of(shard).is_ok_and(|now| now == stamp) {
        return Err("it changed while it was read".into());
    }
    let archive = names::text_of_path(shard);
    let mut texts = of_archive(shard);
    let mut body = Vec::new();
    put_number(&mut body, contents.samples.len() as u64);
    contents.samples.iter().for_each(|sample| put_sample(&mut body, sample, &mut texts));
    for list in [&contents.left_out, &contents.faults] {
        put_number(&mut body, list.len() as u64);
        list.iter().for_each(|skipped| put_skipped(&mut body, skipped, &archive));
    }
    put_number(&mut body, hidden.count);
    put_text(&mut body, &hidden.first);
    let checksum = crc32fast::hash(&body).to_le_bytes();
    let written = write_atomic(&beside(shard), |file| {
        [MAGIC, &stamp.bytes(), &checksum, &body].into_iter().try_for_each(|b| file.write_all(b))
    });
    written.map_err(|e| e.to_string())
}

/// The kinds of what is left out of shards, by number.
const KINDS: [Kind; 5] =
    [Kind::Entry, Kind::Repeated, Kind::NotFound, Kind::UnknownFormat, Kind::Caption];

/// The name of the archive, which may be another folder's the next time, is not stored.
fn put_skipped(out: &mut Vec<u8>, skipped: &Skipped, archive: &str) {
    let Skipped { name, error } = skipped;
    put_text(out, name.strip_prefix(archive).unwrap_or(name));
    put_number(out, KINDS.iter().position(|k| *k == error.kind).unwrap_or(0) as u64);
    put_text(out, &error.detail);
}

fn skipped(from: &mut Cursor<'_>, archive: &str) -> Option<Skipped> {
    let name = format!("{archive}{}", from.text()?);
    let kind = *KINDS.get(from.size()?)?;
    Some(Skipped::new(name, kind, from.text()?))
}
