//! Files of `torch.save`: a zip archive of one pickle and the storages that it names.

use std::collections::HashSet;
use std::io::{Cursor, Read};
use std::path::Path;

use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::Checkpoint;
use super::sets::collect;
use super::view::Budget;
use crate::error::{Result, WeightsError};
use crate::pickle;
use crate::tensor::Bytes;

pub(super) const BIG_ENDIAN: &str = "its values are in big-endian order, which is not read; load it \
                                     in PyTorch and save it again on a little-endian machine";

/// How many bytes of compressed entries a byte of the file may stand for.
const INFLATED: u64 = 4;

pub(super) fn read(path: &Path, bytes: &Bytes) -> Result<Checkpoint> {
    let fail = |detail: String| WeightsError::damaged(path, detail);
    // Archives begin with the file: a guess of the offset can mistake the zip64 record of the end.
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut archive = ZipArchive::with_config(config, Cursor::new(&**bytes)).map_err(|e| {
        fail(format!(
            "not a whole zip archive ({e}) in {} bytes: half of a file, or a damaged one; download it \
             again",
            bytes.len()
        ))
    })?;
    let names: Vec<String> = (0..archive.len())
        .filter_map(|i| archive.name_for_index(i))
        .map(|name| name.map_or_else(|_| String::new(), |name| name.into_owned()))
        .collect();
    refuse_repeated(&names, declared_entries(bytes, archive.comment().len())).map_err(fail)?;
    // As PyTorch, which reads the folder of the first entry.
    let root = names.first().and_then(|n| n.split_once('/')).map_or("", |(root, _)| root);
    let folder = if root.is_empty() { String::new() } else { format!("{root}/") };
    let has = |name: &str| names.iter().any(|n| *n == format!("{folder}{name}"));
    if !has("data.pkl") {
        return Err(fail(without_pickle(&names)));
    }
    if has("constants.pkl") || names.iter().any(|n| n.starts_with(&format!("{folder}code/"))) {
        return Err(fail(
            "this is a TorchScript program, not the weights of a model; load it with `torch.jit.load` \
             and save its `state_dict()`"
                .into(),
        ));
    }
    // Numbers hardly become smaller: more than this is no checkpoint that somebody zipped again.
    let mut left = (bytes.len() as u64).saturating_mul(INFLATED).max(1 << 20);
    let mut entry = |name: &str| -> Result<Bytes> {
        let mut file = archive.by_name(name).map_err(|e| fail(format!("entry `{name}`: {e}")))?;
        // PyTorch stores entries as they are: such a one is a part of the mapped file.
        if file.compression() == CompressionMethod::Stored
            && let Some(start) = file.data_start().and_then(|s| usize::try_from(s).ok())
        {
            let end = usize::try_from(file.size()).ok().and_then(|n| start.checked_add(n));
            let part = end.and_then(|end| bytes.slice(start..end));
            return part.ok_or_else(|| {
                fail(format!("entry `{name}` reaches beyond the file: half of a file"))
            });
        }
        let mut data = Vec::new();
        (&mut file)
            .take(left + 1)
            .read_to_end(&mut data)
            .map_err(|e| fail(format!("entry `{name}`: {e}")))?;
        left = left.checked_sub(data.len() as u64).ok_or_else(|| {
            fail(format!(
                "its compressed entries are more than {INFLATED} times as large as the file"
            ))
        })?;
        Ok(data.into())
    };
    if has("byteorder") && entry(&format!("{folder}byteorder"))?.trim_ascii() == b"big" {
        return Err(fail(BIG_ENDIAN.into()));
    }
    let value = pickle::load(&entry(&format!("{folder}data.pkl"))?).map_err(fail)?.value;
    collect(path, &value, Budget::of(bytes), |storage| {
        if storage.key.is_empty() {
            return Err(fail("a storage has no name".into()));
        }
        entry(&format!("{folder}data/{}", storage.key))
    })
}

/// Two entries of one name are a way to show a file to a checker and another one to a program; PyTorch
/// does not tell names by case.
fn refuse_repeated(names: &[String], declared: Option<u64>) -> Result<(), String> {
    let mut seen = HashSet::new();
    let twice = names.iter().find(|name| !seen.insert(name.to_lowercase()));
    if let Some(name) = twice {
        return Err(format!("entry `{name}` is in the archive more than once"));
    }
    match declared {
        Some(n) if n != names.len() as u64 => Err(format!(
            "the archive declares {n} entries and has {} names: some are there more than once",
            names.len()
        )),
        _ => Ok(()),
    }
}

/// The number of entries by the record at the end of the archive.
fn declared_entries(bytes: &[u8], comment: usize) -> Option<u64> {
    let number = |at: usize, size: usize| -> Option<u64> {
        let part = bytes.get(at..at.checked_add(size)?)?;
        Some(part.iter().rev().fold(0, |v, b| (v << 8) | u64::from(*b)))
    };
    let end = bytes.len().checked_sub(22 + comment)?;
    if bytes.get(end..end + 4)? != b"PK\x05\x06" {
        return None;
    }
    let short = number(end + 10, 2)?;
    if short != 0xffff {
        return Some(short);
    }
    let locator = end.checked_sub(20)?;
    if bytes.get(locator..locator + 4)? != b"PK\x06\x07" {
        return Some(short);
    }
    number(usize::try_from(number(locator + 8, 8)?).ok()?.checked_add(32)?, 8)
}

/// What a zip archive is that has no pickle.
fn without_pickle(names: &[String]) -> String {
    let ends = |end: &str| names.iter().any(|n| n.ends_with(end));
    let kind = if ends(".npy") {
        "an archive of NumPy arrays"
    } else if ends("model.weights.h5") {
        "a Keras model"
    } else if ends("models/model.json") {
        "a program of `torch.export`"
    } else if ends("data.pkl") {
        "a zip archive whose `data.pkl` is not in its first folder"
    } else {
        "a zip archive without `data.pkl`"
    };
    format!("this is {kind}: no checkpoint of `torch.save`")
}
