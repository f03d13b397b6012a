//! Tensors in the number format of a file that is written.

use std::io::{self, Write};

use half::{bf16, f16};

use crate::tensor::{DType, HostTensor, StateDict};

/// How floats are stored. Integers stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepAs {
    /// As they are.
    Same,
    /// As 32-bit floats.
    F32,
    /// As 16-bit floats.
    F16,
    /// As brain floats.
    BF16,
}

impl KeepAs {
    fn dtype(self, own: DType) -> DType {
        match self {
            Self::F32 if own.is_float() => DType::F32,
            Self::F16 if own.is_float() => DType::F16,
            Self::BF16 if own.is_float() => DType::BF16,
            _ => own,
        }
    }
}

/// What is told of each part of a file that is written, in bytes; an error ends the writing.
pub type OnBytes<'a> = dyn FnMut(u64) -> io::Result<()> + 'a;

/// A tensor and the type that it is written as.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) tensor: &'a HostTensor,
    pub(crate) dtype: DType,
}

impl<'a> Stored<'a> {
    pub(crate) fn new(tensor: &'a HostTensor, keep_as: KeepAs) -> Self {
        Self { tensor, dtype: keep_as.dtype(tensor.dtype) }
    }

    /// Bytes in the file.
    pub(crate) fn size(&self) -> usize {
        self.tensor.len() * self.dtype.size()
    }

    /// Writes the values, part by part: a large tensor of a mapped file is never in memory as a whole.
    pub(crate) fn write(&self, out: &mut impl Write, on_bytes: &mut OnBytes<'_>) -> io::Result<()> {
        for part in self.tensor.in_parts() {
            if part.dtype == self.dtype {
                out.write_all(&part.bytes)?;
            } else {
                let values = part.to_f32().map_err(io::Error::other)?;
                let bytes: Vec<u8> = match self.dtype {
                    DType::F16 => {
                        values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()
                    }
                    DType::BF16 => {
                        values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()
                    }
                    _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                };
                out.write_all(&bytes)?;
            }
            part.bytes.release();
            on_bytes((part.len() * self.dtype.size()) as u64)?;
        }
        Ok(())
    }
}

/// The first value that the type in which it is to be stored cannot hold.
pub(crate) fn beyond(state: &StateDict, keep_as: KeepAs) -> Option<String> {
    let narrow = |v: f32| match keep_as {
        KeepAs::F16 => f16::from_f32(v).to_f32(),
        KeepAs::BF16 => bf16::from_f32(v).to_f32(),
        KeepAs::F32 | KeepAs::Same => v,
    };
    let (name, most) = match keep_as {
        KeepAs::F16 => ("f16", f16::MAX.to_f32()),
        KeepAs::BF16 => ("bf16", bf16::MAX.to_f32()),
        KeepAs::F32 | KeepAs::Same => return None,
    };
    let changed = |t: &HostTensor| keep_as.dtype(t.dtype) != t.dtype;
    state.iter().filter(|(_, tensor)| changed(tensor)).find_map(|(key, tensor)| {
        let mut before = 0;
        tensor.in_parts().find_map(|part| {
            let values = part.to_f32().unwrap_or_default();
            let lost = values.iter().position(|v| v.is_finite() && !narrow(*v).is_finite());
            part.bytes.release();
            let found = lost.map(|at| {
                format!(
                    "`{key}`, value {}: {} is beyond {name}, which ends at {most}; write {}f32",
                    before + at,
                    values[at],
                    if keep_as == KeepAs::F16 { "bf16 or " } else { "" }
                )
            });
            before += values.len();
            found
        })
    })
}
