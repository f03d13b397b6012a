//! Reading a checkpoint of any layout.

use std::collections::HashMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::rc::Rc;

use crate::error::{Result, WeightsError};
use crate::pickle::{self, Loaded, Parts, Storage, Value, View};
use crate::safetensors_file;
use crate::tensor::{Bytes, HostTensor, StateDict};

/// Named tensors of a file.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The tensors, in the order of the file (sorted for safetensors).
    pub tensors: StateDict,
    /// The key under which the file holds them (`model`), if it wraps them.
    pub root: Option<String>,
    /// Text beside the tensors (safetensors only).
    pub metadata: HashMap<String, String>,
}

/// Bytes of tensors that a file may ask for, by its own length. Tensors that share a storage are
/// written out each, and a stride of 0 repeats elements, so a small hostile file could otherwise ask
/// for all memory. Tied weights double a checkpoint at most.
const PER_BYTE: usize = 4;
/// Bytes of tensors that any file may ask for.
const FLOOR: usize = 64 << 20;
/// Names that a message lists.
const SHOWN: usize = 8;

/// The first bytes of an old PyTorch file: a pickled magic number.
const LEGACY: [u8; 2] = [0x80, 0x02];

/// Reads a checkpoint: safetensors, PyTorch zip or the older PyTorch layout, told apart by
/// content. A leading `module.` is taken off all names.
///
/// # Errors
/// If the file cannot be read, is damaged, or holds no tensors.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let bytes = mapped(path)?;
    let mut checkpoint = if bytes.starts_with(b"PK") {
        from_zip(path, &bytes)?
    } else if bytes.starts_with(&LEGACY) || bytes.starts_with(&[0x80, 0x04]) {
        from_legacy(path, &bytes)?
    } else {
        let (tensors, metadata) = safetensors_file::parse(path, &bytes)?;
        Checkpoint { tensors, root: None, metadata }
    };
    if checkpoint.tensors.names().any(|n| n.starts_with("module.")) {
        checkpoint.tensors = checkpoint
            .tensors
            .into_iter()
            .map(|(n, t)| (n.strip_prefix("module.").map(str::to_owned).unwrap_or(n), t))
            .collect();
    }
    if checkpoint.tensors.is_empty() {
        return Err(WeightsError::damaged(path, "there is no tensor in this file"));
    }
    Ok(checkpoint)
}

/// The file, mapped into memory: what is not looked at is never read.
fn mapped(path: &Path) -> Result<Bytes> {
    let file = fs::File::open(path).map_err(WeightsError::io(path))?;
    let length = file.metadata().map_err(WeightsError::io(path))?;
    if length.is_dir() || length.len() == 0 {
        // A folder is refused with the system's own words; an empty file cannot be mapped.
        return Ok(fs::read(path).map_err(WeightsError::io(path))?.into());
    }
    // SAFETY: the mapping is private and only read. A file that another process shortens meanwhile
    // ends this one with a bus error, as it does for every program that maps checkpoints.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(WeightsError::io(path))?;
    Ok(Bytes::new(map))
}

/// Bytes that may still be taken.
struct Budget {
    left: usize,
    file: usize,
}

impl Budget {
    fn of(file: &[u8]) -> Self {
        let file = file.len();
        Self { left: file.saturating_mul(PER_BYTE).max(FLOOR), file }
    }

    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            format!(
                "the tensors of this file ask for far more memory than its {} bytes hold; hint: save \
                 it again with every tensor made contiguous",
                self.file
            )
        })?;
        Ok(())
    }
}

fn from_zip(path: &Path, bytes: &Bytes) -> Result<Checkpoint> {
    let fail = |detail: String| WeightsError::damaged(path, detail);
    let mut archive = zip::ZipArchive::new(Cursor::new(&**bytes))
        .map_err(|e| fail(format!("not a whole zip archive: {e}")))?;
    let pickle_name = archive
        .file_names()
        .flatten()
        .find(|n| n.ends_with("/data.pkl") || n == "data.pkl")
        .map(|n| n.into_owned())
        .ok_or_else(|| fail("a zip archive without `data.pkl`: no PyTorch checkpoint".into()))?;
    let folder = pickle_name.trim_end_matches("data.pkl").to_owned();
    // Entries may lie over each other and may be compressed, so their sum needs a limit of its own.
    let mut budget = Budget::of(bytes);
    let mut entry = |name: &str| -> Result<Bytes> {
        let mut file = archive.by_name(name).map_err(|e| fail(format!("entry `{name}`: {e}")))?;
        // PyTorch stores entries as they are: such a one is a part of the mapped file.
        if file.compression() == zip::CompressionMethod::Stored
            && let Some(start) = file.data_start().and_then(|s| usize::try_from(s).ok())
        {
            let end = usize::try_from(file.size()).ok().and_then(|n| start.checked_add(n));
            let part = end.and_then(|end| bytes.slice(start..end));
            return part.ok_or_else(|| fail(format!("entry `{name}` reaches beyond the file")));
        }
        let mut data = Vec::new();
        (&mut file)
            .take(budget.left as u64 + 1)
            .read_to_end(&mut data)
            .map_err(|e| fail(format!("entry `{name}`: {e}")))?;
        budget.take(data.len()).map_err(fail)?;
        Ok(data.into())
    };
    let description = entry(&pickle_name)?;
    let value = pickle::load(&description).map_err(fail)?.value;
    collect(path, &value, Budget::of(bytes), |storage| {
        entry(&format!("{folder}data/{}", storage.key))
    })
}

fn from_legacy(path: &Path, bytes: &Bytes) -> Result<Checkpoint> {
    let fail = |detail: String| WeightsError::damaged(path, detail);
    let mut at = 0;
    let mut next = || -> Result<Loaded> {
        let loaded =
            pickle::load(&bytes[at..]).map_err(|e| fail(format!("part at byte {at}: {e}")))?;
        at += loaded.used;
        Ok(loaded)
    };
    // Magic number, protocol, system, then the object and the order of its storages.
    for _ in 0..3 {
        next()?;
    }
    let (object, keys) = (next()?, next()?.value);
    let Value::List(keys) = keys else { return Err(fail("no list of storages".into())) };
    let sizes: HashMap<&str, usize> =
        object.storages.iter().map(|s| (&*s.key, s.dtype.size())).collect();
    let mut data = HashMap::new();
    for key in keys.borrow().iter() {
        let key = key.text().ok_or_else(|| fail("a storage without a name".into()))?;
        let size = sizes.get(key);
        let size = *size.ok_or_else(|| fail(format!("no tensor lies in storage `{key}`")))?;
        let part = legacy_storage(bytes, at, size)
            .ok_or_else(|| fail(format!("the file ends inside storage `{key}`, at byte {at}")))?;
        at += 8 + part.len();
        data.insert(key.to_owned(), part);
    }
    collect(path, &object.value, Budget::of(bytes), |storage| {
        let part: Option<&Bytes> = data.get(&*storage.key);
        part.cloned().ok_or_else(|| fail(format!("storage `{}` is not in the file", storage.key)))
    })
}

/// The storage at byte `at`: the number of its elements, then these, of `size` bytes each.
fn legacy_storage(bytes: &Bytes, at: usize, size: usize) -> Option<Bytes> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<8>()?;
    let elements = usize::try_from(u64::from_le_bytes(*head)).ok()?;
    let length = elements.checked_mul(size).filter(|n| *n <= rest.len())?;
    bytes.slice(at + head.len()..at + head.len() + length)
}

/// The tensors of the root: the dictionary under `model` if there is one, else the value itself.
fn collect(
    path: &Path,
    value: &Value,
    mut budget: Budget,
    mut bytes_of: impl FnMut(&Storage) -> Result<Bytes>,
) -> Result<Checkpoint> {
    let Value::Dict(top) = value else {
        return Err(WeightsError::damaged(
            path,
            "the checkpoint is no dictionary; expected are tensors by name, or such a dictionary \
             under `model`",
        ));
    };
    let wrapped = top.borrow().pairs().find_map(|(k, v)| match (k.text(), v) {
        (Some("model"), Value::Dict(inner)) => Some(inner.clone()),
        _ => None,
    });
    let root = wrapped.as_ref().map(|_| "model".to_owned());
    let entries = wrapped.unwrap_or_else(|| top.clone());
    let mut tensors = StateDict::default();
    let mut cache: HashMap<Rc<str>, Bytes> = HashMap::new();
    for (key, value) in entries.borrow().pairs() {
        let (Some(name), Value::Tensor(view)) = (key.text(), value) else { continue };
        let storage = &view.storage;
        if !cache.contains_key(&storage.key) {
            cache.insert(storage.key.clone(), bytes_of(storage)?);
        }
        let tensor = gather(view, &cache[&storage.key], &mut budget)
            .map_err(|e| WeightsError::damaged(path, format!("`{name}`: {e}")))?;
        tensors.insert(name.to_owned(), tensor);
    }
    if tensors.is_empty() {
        return Err(WeightsError::damaged(
            path,
            without_tensors(&entries.borrow(), root.is_some()),
        ));
    }
    Ok(Checkpoint { tensors, root, metadata: HashMap::new() })
}

/// What is found where tensors should be.
fn without_tensors(entries: &Parts, wrapped: bool) -> String {
    let shown = |key: &Value| match key.text() {
        Some(text) => format!("`{}`", text.chars().take(64).collect::<String>()),
        None => "one that is no text".to_owned(),
    };
    let keys: Vec<String> = entries.pairs().take(SHOWN).map(|(key, _)| shown(key)).collect();
    let all = entries.pairs().count();
    let found = match all {
        0 => "no key".to_owned(),
        _ => format!("{}{}", keys.join(", "), if all > SHOWN { ", …" } else { "" }),
    };
    format!(
        "there is no tensor in this checkpoint: {} holds {found} ({all} in all); expected are \
         tensors by name, or such a dictionary under `model`",
        if wrapped { "its `model`" } else { "its top level" }
    )
}

/// A view in row-major order: a part of its storage, or a copy where its elements are not neighbors.
fn gather(view: &View, storage: &Bytes, budget: &mut Budget) -> Result<HostTensor, String> {
    let size = view.storage.dtype.size();
    let outside = "the view reaches outside its storage";
    let length = view
        .shape
        .iter()
        .try_fold(size, |n, d| n.checked_mul(*d))
        .ok_or("a shape beyond all memory")?;
    let mut last = view.offset;
    for (d, s) in view.shape.iter().zip(&view.stride) {
        let reach = d.saturating_sub(1).checked_mul(*s).ok_or(outside)?;
        last = last.checked_add(reach).ok_or(outside)?;
    }
    if length > 0 && last >= storage.len() / size {
        return Err(outside.into());
    }
    let bytes = if length == 0 {
        Vec::new().into()
    } else if is_row_major(view) {
        let start = view.offset * size;
        start.checked_add(length).and_then(|end| storage.slice(start..end)).ok_or(outside)?
    } else {
        budget.take(length)?;
        strided(view, storage, length).into()
    };
    Ok(HostTensor { dtype: view.storage.dtype, shape: view.shape.clone(), bytes })
}

/// Whether the elements of a view lie one after the other.
fn is_row_major(view: &View) -> bool {
    let mut step = 1;
    view.shape.iter().zip(&view.stride).rev().all(|(d, s)| {
        let fits = *d == 1 || *s == step;
        step *= d;
        fits
    })
}

/// The `length` bytes of a view that is known to lie inside its storage.
fn strided(view: &View, storage: &[u8], length: usize) -> Vec<u8> {
    let size = view.storage.dtype.size();
    let mut bytes = Vec::with_capacity(length);
    let mut index = vec![0; view.shape.len()];
    for _ in 0..length / size {
        let at = view.offset + index.iter().zip(&view.stride).map(|(i, s)| i * s).sum::<usize>();
        bytes.extend_from_slice(&storage[at * size..(at + 1) * size]);
        for d in (0..index.len()).rev() {
            index[d] += 1;
            if index[d] < view.shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
    bytes
}
