//! Reading a checkpoint of any layout.

use std::collections::HashMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use crate::error::{Result, WeightsError};
use crate::pickle::{self, Storage, Value, View};
use crate::safetensors_file;
use crate::tensor::{HostTensor, StateDict};

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

/// The first bytes of an old PyTorch file: a pickled magic number.
const LEGACY: [u8; 2] = [0x80, 0x02];

/// Reads a checkpoint: safetensors, PyTorch zip or the older PyTorch layout, told apart by
/// content. A leading `module.` is taken off all names.
///
/// # Errors
/// If the file cannot be read, is damaged, or holds no tensors.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let bytes = fs::read(path).map_err(WeightsError::io(path))?;
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
    Ok(checkpoint)
}

fn from_zip(path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
    let fail = |detail: String| WeightsError::damaged(path, detail);
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes))
        .map_err(|e| fail(format!("not a whole zip archive: {e}")))?;
    let pickle_name = archive
        .file_names()
        .flatten()
        .find(|n| n.ends_with("/data.pkl") || n == "data.pkl")
        .map(|n| n.into_owned())
        .ok_or_else(|| fail("a zip archive without `data.pkl`: no PyTorch checkpoint".into()))?;
    let folder = pickle_name.trim_end_matches("data.pkl").to_owned();
    let mut entry = |name: &str| -> Result<Vec<u8>> {
        let mut file = archive.by_name(name).map_err(|e| fail(format!("entry `{name}`: {e}")))?;
        let mut data = Vec::new();
        // An entry never holds more than the file: stored, not compressed.
        let limit = bytes.len() as u64 + 1;
        (&mut file)
            .take(limit)
            .read_to_end(&mut data)
            .map_err(|e| fail(format!("entry `{name}`: {e}")))?;
        Ok(data)
    };
    let description = entry(&pickle_name)?;
    let (value, _) = pickle::load(&description).map_err(fail)?;
    collect(path, &value, |storage| entry(&format!("{folder}data/{}", storage.key)))
}

fn from_legacy(path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
    let fail = |detail: String| WeightsError::damaged(path, detail);
    let mut at = 0;
    let mut next = || -> Result<Value> {
        let (value, used) =
            pickle::load(&bytes[at..]).map_err(|e| fail(format!("part at byte {at}: {e}")))?;
        at += used;
        Ok(value)
    };
    // Magic number, protocol, system, then the object and the order of its storages.
    for _ in 0..3 {
        next()?;
    }
    let (value, keys) = (next()?, next()?);
    let Value::List(keys) = keys else { return Err(fail("no list of storages".into())) };
    let mut sizes = HashMap::new();
    storages(&value, &mut sizes, 0);
    let mut data = HashMap::new();
    for key in keys.borrow().iter() {
        let key = key.text().ok_or_else(|| fail("a storage without a name".into()))?;
        let cut = || fail(format!("the file ends inside storage `{key}`, at byte {at}"));
        let head = bytes.get(at..at + 8).ok_or_else(cut)?;
        let elements = u64::from_le_bytes(head.try_into().unwrap_or_default());
        let size = sizes.get(key).copied().unwrap_or(0);
        let length = usize::try_from(elements).ok().and_then(|n| n.checked_mul(size));
        let end = length.and_then(|n| (at + 8).checked_add(n)).ok_or_else(cut)?;
        let part = bytes.get(at + 8..end).ok_or_else(cut)?;
        data.insert(key.to_owned(), part.to_vec());
        at = end;
    }
    collect(path, &value, |storage| {
        data.get(&storage.key)
            .cloned()
            .ok_or_else(|| fail(format!("storage `{}` is not in the file", storage.key)))
    })
}

/// Element sizes of all storages below a value.
fn storages(value: &Value, sizes: &mut HashMap<String, usize>, depth: usize) {
    if depth > 64 {
        return;
    }
    match value {
        Value::Tensor(view) => {
            sizes.insert(view.storage.key.clone(), view.storage.dtype.size());
        }
        Value::Storage(s) => {
            sizes.insert(s.key.clone(), s.dtype.size());
        }
        Value::Tuple(items) => items.iter().for_each(|v| storages(v, sizes, depth + 1)),
        Value::List(items) => items.borrow().iter().for_each(|v| storages(v, sizes, depth + 1)),
        Value::Dict(items) => {
            items.borrow().iter().for_each(|(_, v)| storages(v, sizes, depth + 1));
        }
        _ => {}
    }
}

/// The tensors of the root: the dictionary under `model` if there is one, else the value itself.
fn collect(
    path: &Path,
    value: &Value,
    mut bytes_of: impl FnMut(&Storage) -> Result<Vec<u8>>,
) -> Result<Checkpoint> {
    let Value::Dict(top) = value else {
        return Err(WeightsError::damaged(path, "the checkpoint is no dictionary of tensors"));
    };
    let wrapped = top.borrow().iter().find_map(|(k, v)| match (k.text(), v) {
        (Some("model"), Value::Dict(inner)) => Some(inner.clone()),
        _ => None,
    });
    let root = wrapped.as_ref().map(|_| "model".to_owned());
    let entries = wrapped.unwrap_or_else(|| top.clone());
    let mut tensors = StateDict::default();
    let mut cache: HashMap<String, Vec<u8>> = HashMap::new();
    for (key, value) in entries.borrow().iter() {
        let (Some(name), Value::Tensor(view)) = (key.text(), value) else { continue };
        let storage = &view.storage;
        if !cache.contains_key(&storage.key) {
            cache.insert(storage.key.clone(), bytes_of(storage)?);
        }
        let tensor = gather(view, &cache[&storage.key])
            .map_err(|e| WeightsError::damaged(path, format!("`{name}`: {e}")))?;
        tensors.insert(name.to_owned(), tensor);
    }
    if tensors.is_empty() {
        return Err(WeightsError::damaged(path, "there is no tensor in this checkpoint"));
    }
    Ok(Checkpoint { tensors, root, metadata: HashMap::new() })
}

/// Copies a strided view into row-major order.
fn gather(view: &View, storage: &[u8]) -> Result<HostTensor, String> {
    let size = view.storage.dtype.size();
    let outside = "the view reaches outside its storage";
    let count =
        view.shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).ok_or("a shape too large")?;
    let mut last = view.offset;
    for (d, s) in view.shape.iter().zip(&view.stride) {
        let reach = d.saturating_sub(1).checked_mul(*s).ok_or(outside)?;
        last = last.checked_add(reach).ok_or(outside)?;
    }
    let held = storage.len() / size;
    // Equal elements may be repeated by strides of 0, but not beyond what a file could hold.
    if count > 0 && (last >= held || count > held.saturating_mul(64).max(1 << 20)) {
        return Err(outside.into());
    }
    let mut bytes = Vec::with_capacity(count * size);
    let mut index = vec![0; view.shape.len()];
    for _ in 0..count {
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
    Ok(HostTensor { dtype: view.storage.dtype, shape: view.shape.clone(), bytes })
}
