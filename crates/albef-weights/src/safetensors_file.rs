//! Safetensors in and out.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, View};

use crate::error::{Result, WeightsError};
use crate::tensor::{Bytes, DType, HostTensor, StateDict};
use albef_files::write_atomic;

/// How floats are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepAs {
    /// As they are.
    Same,
    /// As 16-bit floats.
    F16,
    /// As brain floats.
    BF16,
}

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

struct Stored<'a>(&'a HostTensor, DType, Dtype);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        self.2
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        if self.0.dtype == self.1 {
            return Cow::Borrowed(&self.0.bytes);
        }
        let values = self.0.to_f32().unwrap_or_default();
        let half = |v: &f32| match self.1 {
            DType::F16 => f16::from_f32(*v).to_le_bytes(),
            _ => bf16::from_f32(*v).to_le_bytes(),
        };
        Cow::Owned(values.iter().flat_map(half).collect())
    }
    fn data_len(&self) -> usize {
        self.0.len() * self.1.size()
    }
}

/// The first value that 16 bits of type `f16` cannot hold.
fn beyond_f16(state: &StateDict) -> Option<String> {
    let mut floats = state.iter().filter(|(_, tensor)| tensor.dtype == DType::F32);
    floats.find_map(|(name, tensor)| {
        let values = tensor.to_f32().unwrap_or_default();
        let lost = |v: &f32| v.is_finite() && !f16::from_f32(*v).is_finite();
        let at = values.iter().position(lost)?;
        Some(format!(
            "`{name}`, value {at}: {} is beyond f16, which ends at {}; write bf16 or f32",
            values[at],
            f16::MAX
        ))
    })
}

/// Writes tensors to `path`, whole or not at all; 32-bit floats as `keep_as` says.
///
/// # Errors
/// If the file cannot be written, or a value is beyond the type that it is to be kept as.
pub fn write_safetensors(
    path: &Path,
    state: &StateDict,
    metadata: &HashMap<String, String>,
    keep_as: KeepAs,
) -> Result<()> {
    if let Some(detail) = (keep_as == KeepAs::F16).then(|| beyond_f16(state)).flatten() {
        return Err(WeightsError::damaged(path, detail));
    }
    let stored = state.iter().map(|(name, tensor)| {
        let dtype = match (keep_as, tensor.dtype) {
            (KeepAs::F16, DType::F32) => DType::F16,
            (KeepAs::BF16, DType::F32) => DType::BF16,
            (_, same) => same,
        };
        let in_file = to_file(dtype).ok_or_else(|| {
            WeightsError::damaged(
                path,
                format!("`{name}` is of type {dtype}, which is not written"),
            )
        })?;
        Ok((name.to_owned(), Stored(tensor, dtype, in_file)))
    });
    let stored = stored.collect::<Result<Vec<_>>>()?;
    let metadata = (!metadata.is_empty()).then(|| metadata.clone());
    let bytes = safetensors::serialize(stored, metadata)
        .map_err(|e| WeightsError::damaged(path, e.to_string()))?;
    Ok(write_atomic(path, |file| file.write_all(&bytes))?)
}
