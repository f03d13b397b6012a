//! Safetensors in and out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo};

use crate::error::{Result, WeightsError};
use crate::stored::{KeepAs, OnBytes, Stored, beyond};
use crate::tensor::{Bytes, DType, HostTensor, StateDict};
use albef_files::write_atomic;

/// The one file of a model.
const WEIGHTS: &str = "model.safetensors";
/// The index of a model in parts.
const INDEX: &str = "model.safetensors.index.json";

fn from_file(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        Dtype::U16 => DType::Unread("uint16"),
        Dtype::U32 => DType::Unread("uint32"),
        Dtype::U64 => DType::Unread("uint64"),
        Dtype::C64 => DType::Unread("complex64"),
        Dtype::F8_E4M3 => DType::Unread("float8_e4m3fn"),
        Dtype::F8_E5M2 => DType::Unread("float8_e5m2"),
        Dtype::F8_E4M3FNUZ => DType::Unread("float8_e4m3fnuz"),
        Dtype::F8_E5M2FNUZ => DType::Unread("float8_e5m2fnuz"),
        Dtype::F8_E8M0 => DType::Unread("float8_e8m0fnu"),
        Dtype::F4 => DType::Unread("float4"),
        Dtype::F6_E2M3 | Dtype::F6_E3M2 => DType::Unread("float6"),
        _ => DType::Unread("a type that is not known"),
    }
}

fn to_file(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
        DType::Unread(_) => return None,
    })
}

/// The longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// Whether a file is laid out as safetensors: a length that a header can have, then the header, a JSON
/// object. The length begins with its lowest byte, which may be that of a pickle (0x80) as of any other
/// format; nothing else has this length before a brace.
pub(crate) fn begins(bytes: &[u8]) -> bool {
    let head = bytes.split_first_chunk::<8>().filter(|(_, rest)| rest.starts_with(b"{"));
    head.is_some_and(|(length, _)| u64::from_le_bytes(*length) <= MAX_HEADER)
}

/// Tensors and metadata of safetensors bytes, which the tensors share.
pub(crate) fn parse(path: &Path, bytes: &Bytes) -> Result<(StateDict, HashMap<String, String>)> {
    let damaged = |e: SafeTensorError| WeightsError::damaged(path, not_whole(bytes, &e));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut names = file.names();
    names.sort_unstable();
    let mut state = StateDict::default();
    for name in names {
        let view = file.tensor(name).map_err(damaged)?;
        let dtype = from_file(view.dtype());
        if let DType::Unread(kind) = dtype {
            state.insert(name.to_owned(), HostTensor::unread(kind, view.shape().to_vec()));
            continue;
        }
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        let part = bytes.slice(start..start + view.data().len());
        let part = part.ok_or_else(|| {
            WeightsError::damaged(path, format!("`{name}` reaches beyond the file"))
        })?;
        let tensor = HostTensor { dtype, shape: view.shape().to_vec(), bytes: part };
        state.insert(name.to_owned(), tensor);
    }
    Ok((state, metadata))
}

/// Adds tensors that the metadata names as the same as one of the file (name left out, name kept), as
/// `safetensors.torch.save_model` writes them.
///
/// # Errors
/// If such a name leads to a tensor that is not there.
pub(crate) fn with_aliases(
    path: &Path,
    state: &mut StateDict,
    metadata: &HashMap<String, String>,
) -> Result<()> {
    let root = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let roots: HashSet<String> = state.names().map(root).collect();
    // Other metadata are titles and versions; what could be the name of a tensor is taken for one.
    let named = |name: &str| name.contains('.') && roots.contains(&root(name));
    let mut left_out: Vec<_> = metadata.iter().filter(|(n, _)| state.get(n).is_none()).collect();
    left_out.sort_unstable();
    for (alias, kept) in left_out {
        if let Some(tensor) = state.get(kept).cloned() {
            state.insert(alias.clone(), tensor);
        } else if named(alias) {
            return Err(WeightsError::damaged(
                path,
                format!(
                    "its metadata names `{alias}` as the same tensor as `{kept}`, which is not in the file"
                ),
            ));
        }
    }
    Ok(())
}

/// Why bytes are no safetensors file: half of one, a damaged one, or something else.
fn not_whole(bytes: &[u8], error: &SafeTensorError) -> String {
    let head = bytes.split_first_chunk::<8>().filter(|(_, rest)| rest.starts_with(b"{"));
    let Some((length, rest)) = head else {
        return "this is not a checkpoint: neither safetensors nor a file of `torch.save`".into();
    };
    let header = u64::from_le_bytes(*length);
    let half =
        rest.len() as u64 <= header || matches!(error, SafeTensorError::MetadataIncompleteBuffer);
    let hint = if half {
        ": its end is missing, or more follows than it names; download it again"
    } else {
        ""
    };
    format!("not a whole safetensors file of {} bytes ({error}){hint}", bytes.len())
}

/// A file about to be written: its header, and tensors in the order of their bytes.
struct Layout<'a> {
    header: Vec<u8>,
    tensors: Vec<Stored<'a>>,
}

/// Names and tensors of one file.
type Entries<'a> = Vec<(&'a str, Stored<'a>)>;

fn layout<'a>(
    path: &Path,
    entries: &Entries<'a>,
    metadata: &HashMap<String, String>,
) -> Result<Layout<'a>> {
    let mut typed = Vec::with_capacity(entries.len());
    for (name, stored) in entries {
        let dtype = to_file(stored.dtype).ok_or_else(|| {
            let detail = format!("`{name}` is of type {}, which is not written", stored.dtype);
            WeightsError::damaged(path, detail)
        })?;
        typed.push((*name, dtype, *stored));
    }
    // By alignment, the largest first, so that every tensor is aligned.
    typed.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut end = 0;
    let infos = typed.iter().map(|(name, dtype, stored)| {
        let start = end;
        end += stored.size();
        let shape = stored.tensor.shape.clone();
        ((*name).to_owned(), TensorInfo { dtype: *dtype, shape, data_offsets: (start, end) })
    });
    let infos = infos.collect();
    let metadata = (!metadata.is_empty()).then(|| metadata.clone());
    let damaged = |e: String| WeightsError::damaged(path, e);
    let metadata = Metadata::new(metadata, infos).map_err(|e| damaged(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| damaged(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(Layout { header, tensors: typed.into_iter().map(|(_, _, stored)| stored).collect() })
}

fn write_file(
    path: &Path,
    entries: &Entries<'_>,
    metadata: &HashMap<String, String>,
    on_bytes: &mut OnBytes<'_>,
) -> Result<()> {
    let Layout { header, tensors } = layout(path, entries, metadata)?;
    Ok(write_atomic(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        tensors.iter().try_for_each(|stored| stored.write(file, on_bytes))
    })?)
}

/// Writes tensors to `path`, whole or not at all; floats as `keep_as` says. Memory does not grow with the
/// file.
///
/// # Errors
/// If the file cannot be written, or a value is beyond the type that it is to be kept as.
pub fn write_safetensors(
    path: &Path,
    state: &StateDict,
    metadata: &HashMap<String, String>,
    keep_as: KeepAs,
) -> Result<()> {
    if let Some(detail) = beyond(state, keep_as) {
        return Err(WeightsError::damaged(path, detail));
    }
    let entries = state.iter().map(|(name, tensor)| (name, Stored::new(tensor, keep_as))).collect();
    write_file(path, &entries, metadata, &mut |_| Ok(()))
}

/// Writes tensors to a folder under the names that Hugging Face libraries read: `model.safetensors`, or,
/// where that would have more than `shard_size` bytes of values, parts
/// `model-00001-of-0000N.safetensors` and their index, `model.safetensors.index.json`, which is written
/// last. A tensor larger than a part is a part of its own. Each file is whole or absent; gives their
/// names.
///
/// # Errors
/// As [`write_safetensors`], or if `on_bytes` ends the writing.
pub fn write_shards(
    folder: &Path,
    state: &StateDict,
    metadata: &HashMap<String, String>,
    keep_as: KeepAs,
    shard_size: u64,
    on_bytes: &mut OnBytes<'_>,
) -> Result<Vec<String>> {
    if let Some(detail) = beyond(state, keep_as) {
        return Err(WeightsError::damaged(folder, detail));
    }
    let mut parts: Vec<Entries<'_>> = vec![Vec::new()];
    let (mut total, mut own) = (0, 0);
    for (name, tensor) in state.iter() {
        let stored = Stored::new(tensor, keep_as);
        let size = stored.size() as u64;
        if own > 0 && own + size > shard_size {
            parts.push(Vec::new());
            own = 0;
        }
        own += size;
        total += size;
        if let Some(part) = parts.last_mut() {
            part.push((name, stored));
        }
    }
    let count = parts.len();
    let mut names = Vec::new();
    let mut weight_map = BTreeMap::new();
    for (i, part) in parts.iter().enumerate() {
        let name = match count {
            1 => WEIGHTS.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        write_file(&folder.join(&name), part, metadata, on_bytes)?;
        weight_map.extend(part.iter().map(|(key, _)| (*key, name.clone())));
        names.push(name);
    }
    if count > 1 {
        let index = serde_json::json!({
            "metadata": { "total_size": total }, "weight_map": weight_map
        });
        let path = folder.join(INDEX);
        let text = serde_json::to_vec_pretty(&index)
            .map_err(|e| WeightsError::damaged(&path, e.to_string()))?;
        write_atomic(&path, |file| file.write_all(&text))?;
        names.push(INDEX.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_begins_as_a_pickle_is_a_length() {
        assert!(begins(b"\x80\x02\0\0\0\0\0\0{\"w\":"));
        assert!(!begins(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."));
        assert!(!begins(b"\x80\x02}q\x00(X\x05{"));
        assert!(!begins(b"PK\x03\x04\0\0\x08\x08{"));
        assert!(!begins(b"\x80\x02"));
    }
}
