//! Weights in a folder: one file, several with an index, or a folder of the Hub's cache.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{Checkpoint, distributed, read_file};
use crate::error::{Result, WeightsError};
use crate::tensor::{Bytes, StateDict};
use crate::words::{counted, is};

/// Names under which libraries keep weights, the preferred ones first.
const NAMES: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "weights.pth",
];
/// Endings of weights files of other names, the preferred ones first.
const ENDINGS: [&str; 5] = ["safetensors", "pth", "pt", "bin", "ckpt"];
const INDEX: &str = ".index.json";
/// Names that a message lists.
const SHOWN: usize = 5;

/// The weights file, or the index of several, that a folder has: one of the usual names, else the only
/// file with the ending of one. Of a folder of the Hub's cache (`models--…`) the snapshot of its main
/// branch is taken.
///
/// # Errors
/// If the folder cannot be read, has none, or several of which none is to be preferred.
pub fn weights_file(folder: &Path) -> Result<PathBuf> {
    if let Some(snapshot) = snapshot(folder)? {
        return weights_file(&snapshot);
    }
    // A link to a file that is gone is found too, so that the message names it.
    let there = |path: &PathBuf| path.symlink_metadata().is_ok();
    if let Some(found) = NAMES.iter().map(|name| folder.join(name)).find(there) {
        return Ok(found);
    }
    let mut found: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    let (mut parts, mut of_deepspeed) = (Vec::<PathBuf>::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(WeightsError::io(folder))? {
        let path = entry.map_err(WeightsError::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(INDEX) && path.is_file() {
            found.entry(0).or_default().push(path);
        } else if let Some(at) = ending(&path).filter(|_| path.is_file()) {
            match shard(&path) {
                Some(_) => parts.push(PathBuf::from(name)),
                None if distributed::is_of_deepspeed(&name) => of_deepspeed.push(path),
                None => found.entry(at + 1).or_default().push(path),
            }
        }
    }
    parts.sort();
    if let (true, Some(part)) = (found.is_empty(), parts.first()) {
        let detail = format!(
            "there {} {} of a model in this folder (`{}`) and no index; put `{}` of the same model there",
            is(parts.len()),
            counted(parts.len(), "part"),
            part.display(),
            index_of(part)
        );
        return Err(WeightsError::damaged(folder, detail));
    }
    if found.is_empty() {
        if let Some(file) = distributed::whole(&of_deepspeed) {
            return Ok(file.clone());
        }
        if let Some(newest) = distributed::newest(folder).filter(|_| of_deepspeed.is_empty()) {
            return weights_file(&newest);
        }
        if let Some(detail) = distributed::divided(folder) {
            return Err(WeightsError::damaged(folder, detail));
        }
    }
    let Some((_, mut files)) = found.pop_first() else {
        let detail = "there is no weights file in this folder; expected is `model.safetensors`, \
                      `model.safetensors.index.json` with its parts, or one `.pth` file";
        return Err(WeightsError::damaged(folder, detail));
    };
    files.sort();
    match &files[..] {
        [one] => Ok(one.clone()),
        several => {
            let names = several.iter().take(SHOWN).filter_map(|p| p.file_name());
            let names: Vec<String> = names.map(|n| format!("`{}`", n.to_string_lossy())).collect();
            Err(WeightsError::damaged(
                folder,
                format!(
                    "there are {} weights files in this folder ({}{}); name one of them",
                    several.len(),
                    names.join(", "),
                    if several.len() > SHOWN { ", …" } else { "" }
                ),
            ))
        }
    }
}

fn ending(path: &Path) -> Option<usize> {
    let own = path.extension()?.to_str()?;
    ENDINGS.iter().position(|e| own.eq_ignore_ascii_case(e))
}

/// The snapshot of a folder of the Hub's cache: that of `refs/main`, else the only one.
fn snapshot(folder: &Path) -> Result<Option<PathBuf>> {
    let snapshots = folder.join("snapshots");
    if !snapshots.is_dir() {
        return Ok(None);
    }
    let named = fs::read_to_string(folder.join("refs/main")).ok();
    let main = named.map(|hash| snapshots.join(hash.trim())).filter(|path| path.is_dir());
    if main.is_some() {
        return Ok(main);
    }
    let entries = fs::read_dir(&snapshots).map_err(WeightsError::io(&snapshots))?;
    let mut all: Vec<PathBuf> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|path| path.is_dir()).collect();
    match (all.pop(), all.len()) {
        (Some(only), 0) => Ok(Some(only)),
        (_, rest) => Err(WeightsError::damaged(
            &snapshots,
            format!(
                "there are {} snapshots and no `refs/main` that tells one; name the folder of one",
                if rest == 0 { 0 } else { rest + 1 }
            ),
        )),
    }
}

/// Which part of how many a file is by its name, `model-00001-of-00002.safetensors`.
fn shard(path: &Path) -> Option<(u32, u32)> {
    let (before, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (_, number) = before.rsplit_once(['-', '_'])?;
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(number) || !digits(count) {
        return None;
    }
    Some((number.parse().ok()?, count.parse().ok()?)).filter(|(_, count)| *count > 1)
}

/// The name of the index of a part, `pytorch_model.bin.index.json` of `pytorch_model-00001-of-00002.bin`.
fn index_of(part: &Path) -> String {
    let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, ending) = (text(part.file_stem()), text(part.extension()));
    let before = stem.rsplit_once("-of-").and_then(|(before, _)| before.rsplit_once(['-', '_']));
    format!("{}.{ending}{INDEX}", before.map_or(&*stem, |(model, _)| model))
}

/// A part alone is no model.
pub(super) fn refuse_part(path: &Path) -> Result<()> {
    if let Some(detail) = distributed::share(path) {
        return Err(WeightsError::damaged(path, detail));
    }
    let Some((number, count)) = shard(path).filter(|_| ending(path).is_some()) else {
        return Ok(());
    };
    Err(WeightsError::damaged(
        path,
        format!(
            "this file is a part of a model, {number} of {count}; name the folder, or the index \
             beside it (`{}`)",
            index_of(path)
        ),
    ))
}

/// Whether a file is named as an index of several.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().ends_with(INDEX))
}

/// The tensors of all files that an index names, each in the file that it names.
pub(super) fn read_index(path: &Path, bytes: &Bytes) -> Result<Checkpoint> {
    let fail = |detail: String| WeightsError::damaged(path, detail);
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let index: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| fail(format!("not an index of weights: {e}")))?;
    let Some(map) = index["weight_map"].as_object().filter(|map| !map.is_empty()) else {
        return Err(fail("not an index of weights: it has no `weight_map`".into()));
    };
    let mut file_of = BTreeMap::new();
    for (key, file) in map {
        let Some(file) = file.as_str() else {
            return Err(fail(format!(
                "`weight_map`: `{key}` is {file}; it must be the name of a file"
            )));
        };
        let plain = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || file.is_empty() {
            return Err(fail(format!(
                "`weight_map`: `{key}` names the file `{file}`, which is not below this folder"
            )));
        }
        if is_index(Path::new(file)) {
            return Err(fail(format!(
                "`weight_map`: `{key}` names `{file}`, an index, for a part"
            )));
        }
        file_of.insert(key.as_str(), file);
    }
    let files: BTreeSet<&str> = file_of.values().copied().collect();
    let folder = path.parent().unwrap_or(Path::new("."));
    let missing: Vec<&str> = files.iter().copied().filter(|f| !folder.join(f).exists()).collect();
    if let Some(first) = missing.first() {
        return Err(fail(format!(
            "{} of the {} that it names {} missing, the first is `{first}`; put what is missing beside it",
            missing.len(),
            counted(files.len(), "file"),
            is(missing.len())
        )));
    }
    let mut out = Checkpoint::default();
    let mut tensors = StateDict::default();
    let mut unlisted = Vec::new();
    for file in files {
        let part = read_file(&folder.join(file))?;
        for (name, tensor) in part.tensors {
            match file_of.get(name.as_str()) {
                Some(listed) if *listed == file => tensors.insert(name, tensor),
                _ => unlisted.push(name),
            }
        }
        out.metadata.extend(part.metadata);
    }
    if let Some(name) = file_of.keys().find(|name| tensors.get(name).is_none()) {
        return Err(fail(format!("`{name}` is not in `{}`, which it names", file_of[name])));
    }
    if let Some(first) = unlisted.first() {
        out.notes.push(format!(
            "not read: {} of the parts that the index does not name there (`{first}`)",
            counted(unlisted.len(), "tensor")
        ));
    }
    Ok(Checkpoint { tensors, ..out })
}
