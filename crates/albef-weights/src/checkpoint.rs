//! Reading a checkpoint of any layout.

mod distributed;
mod folder;
mod legacy;
mod sets;
mod view;
mod zip_file;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

pub use self::folder::weights_file;
use crate::error::{Result, WeightsError};
use crate::file_kind::{FileKind, HEAD};
use crate::model_kind::{ModelKind, why_no_albef};
use crate::prefix::{without_prefix, without_strangers};
use crate::safetensors_file;
use crate::starts::untied_note;
use crate::tensor::{Bytes, StateDict};
use crate::tied::with_originals;
use crate::torchmultimodal::with_official_names;
use crate::wrappers::unwrapped;

/// Named tensors of a file.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// The tensors, in the order of the file (sorted for safetensors).
    pub tensors: StateDict,
    /// The keys under which the file holds them (`model`, `state.model`), if it wraps them.
    pub root: Option<String>,
    /// Text beside the tensors (safetensors only).
    pub metadata: HashMap<String, String>,
    /// What of the file is not as in a plain one, line by line: names without their wrappers, another
    /// set of weights beside the one that is read.
    pub notes: Vec<String>,
}

/// Reads a checkpoint: safetensors, PyTorch zip or the older PyTorch layout, told apart by content; the
/// index of several such files; or a folder that has one of these ([`weights_file`]). Names of modules
/// that wrap a model (`module.`, `_orig_mod.`) are taken off all keys.
///
/// # Errors
/// If the file cannot be read, is damaged, is a part of a model or something else than a checkpoint, or
/// holds no tensors.
pub fn read(path: &Path) -> Result<Checkpoint> {
    if path.is_dir() {
        return read(&weights_file(path)?);
    }
    folder::refuse_part(path)?;
    let checkpoint = read_file(path)?;
    let source = format!("`{}`", path.display());
    let (tensors, note) = unwrapped(checkpoint.tensors, &source)?;
    let mut notes = checkpoint.notes;
    notes.extend(note);
    if tensors.is_empty() {
        return Err(WeightsError::damaged(path, "there is no tensor in this file"));
    }
    if ModelKind::of(&tensors) == Some(ModelKind::Bert) {
        notes.extend(untied_note(&tensors));
    }
    Ok(Checkpoint { tensors, notes, ..checkpoint })
}

/// Reads the checkpoint of an ALBEF, by whatever program it was written: under the official names, without
/// what is before all names (`model.`), with the names of torchmultimodal's ALBEF replaced, and without what
/// is of no part of such a model.
///
/// # Errors
/// As [`read`], or if it is of another model.
pub fn read_model(path: &Path) -> Result<Checkpoint> {
    let found = read(path)?;
    let (tensors, notes) = without_prefix(found.tensors);
    let mut tensors = with_official_names(tensors);
    with_originals(&mut tensors);
    if let Some(detail) = why_no_albef(&tensors) {
        return Err(WeightsError::damaged(path, detail));
    }
    let (tensors, beside) = without_strangers(tensors);
    let notes = found.notes.into_iter().chain(notes).chain(beside).collect();
    Ok(Checkpoint { tensors, notes, ..found })
}

/// The tensors of one file, or of those that an index names, under the names of the file.
fn read_file(path: &Path) -> Result<Checkpoint> {
    let bytes = mapped(path)?;
    // First: the length of its header may begin as the files of other formats do.
    if safetensors_file::begins(&bytes) {
        return read_safetensors(path, &bytes);
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return zip_file::read(path, &bytes);
    }
    if legacy::begins(&bytes) {
        return legacy::read(path, &bytes);
    }
    if folder::is_index(path) {
        return folder::read_index(path, &bytes);
    }
    let json = bytes.get(8) == Some(&b'{');
    let kind = FileKind::of(&bytes[..bytes.len().min(HEAD)], bytes.len() as u64);
    if let Some(kind) = kind.filter(|_| !json) {
        return Err(WeightsError::damaged(path, kind.instead_of("a checkpoint")));
    }
    read_safetensors(path, &bytes)
}

fn read_safetensors(path: &Path, bytes: &Bytes) -> Result<Checkpoint> {
    let (mut tensors, metadata) = safetensors_file::parse(path, bytes)?;
    safetensors_file::with_aliases(path, &mut tensors, &metadata)?;
    Ok(Checkpoint { tensors, metadata, ..Checkpoint::default() })
}

/// The file, mapped into memory: what is not looked at is never read.
pub(crate) fn mapped(path: &Path) -> Result<Bytes> {
    // Before it is opened: opening a pipe waits for its writer.
    let found = fs::metadata(path).map_err(WeightsError::io(path))?;
    if !found.is_file() {
        let detail = "this is no regular file but a device, pipe or socket; name a file";
        return Err(WeightsError::damaged(path, detail));
    }
    let file = fs::File::open(path).map_err(WeightsError::io(path))?;
    if file.metadata().map_err(WeightsError::io(path))?.len() == 0 {
        // An empty file cannot be mapped.
        return Ok(Vec::new().into());
    }
    // SAFETY: the mapping is private and only read. A file that another process shortens meanwhile
    // ends this one with a bus error, as it does for every program that maps checkpoints.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(WeightsError::io(path))?;
    Ok(Bytes::mapped(map))
}
