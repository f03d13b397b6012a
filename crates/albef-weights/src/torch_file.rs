//! Files as `torch.save` writes them: a zip archive of one pickle and the storages that it names.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::error::{Result, WeightsError};
use crate::stored::{KeepAs, OnBytes, Stored, beyond};
use crate::tensor::{DType, StateDict};
use albef_files::write_atomic;

/// The folder in the archive. PyTorch takes the name of the file, and reads any.
const ROOT: &str = "archive";
/// PyTorch begins storages at multiples of this, so that they can be mapped into memory.
const ALIGNMENT: u16 = 64;
/// Bytes from which on an entry needs the large form of its header.
const LARGE: usize = 0xffff_ffff;

/// Writes tensors to `path` as `torch.save({"model": OrderedDict(…)})` does, whole or not at all; floats as
/// `keep_as` says. Tensors that share their bytes share a storage, as tied weights do in PyTorch. Memory
/// does not grow with the file, and equal tensors give equal files.
///
/// `torch.load` reads it with `weights_only=True` and with `mmap=True`.
///
/// # Errors
/// If the file cannot be written, a value is beyond the type that it is to be kept as, a tensor is of a
/// type that is not read, or `on_bytes` ends the writing.
pub fn write_torch(
    path: &Path,
    state: &StateDict,
    keep_as: KeepAs,
    on_bytes: &mut OnBytes<'_>,
) -> Result<()> {
    if let Some(detail) = beyond(state, keep_as) {
        return Err(WeightsError::damaged(path, detail));
    }
    let mut storages: Vec<Stored<'_>> = Vec::new();
    let mut places = HashMap::new();
    let mut pickle = Pickle::begin();
    for (name, tensor) in state.iter() {
        let stored = Stored::new(tensor, keep_as);
        let class = storage_class(stored.dtype).ok_or_else(|| {
            let detail = format!("`{name}` is of type {}, which is not written", stored.dtype);
            WeightsError::damaged(path, detail)
        })?;
        let mut add = || {
            storages.push(stored);
            storages.len() - 1
        };
        let storage = match tensor.bytes.is_empty() {
            true => add(),
            false => {
                let bytes = (tensor.bytes.as_ptr(), tensor.bytes.len(), class);
                *places.entry(bytes).or_insert_with(add)
            }
        };
        pickle.text(name);
        pickle.tensor(class, storage, &tensor.shape);
    }
    let pickle = pickle.end();
    Ok(write_atomic(path, |file| {
        let mut archive = ZipWriter::new(file);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT);
        let small = [("data.pkl", &pickle[..]), ("byteorder", b"little"), ("version", b"3\n")];
        for (name, bytes) in small {
            archive.start_file(format!("{ROOT}/{name}"), options).map_err(io::Error::other)?;
            archive.write_all(bytes)?;
        }
        for (i, storage) in storages.iter().enumerate() {
            let options = options.large_file(storage.size() >= LARGE);
            archive.start_file(format!("{ROOT}/data/{i}"), options).map_err(io::Error::other)?;
            storage.write(&mut archive, on_bytes)?;
        }
        archive.finish().map(drop).map_err(io::Error::other)
    })?)
}

/// The class of PyTorch that holds elements of a type; `None` if such are not written.
fn storage_class(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "DoubleStorage",
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        DType::I32 => "IntStorage",
        DType::I16 => "ShortStorage",
        DType::I8 => "CharStorage",
        DType::U8 => "ByteStorage",
        DType::Bool => "BoolStorage",
        DType::Unread(_) => return None,
    })
}

/// A pickle of protocol 2 of `{"model": OrderedDict(…)}`, in the calls that PyTorch's own reader allows.
struct Pickle(Vec<u8>);

impl Pickle {
    const MARK: u8 = b'(';
    const TUPLE: u8 = b't';
    const REDUCE: u8 = b'R';
    const SET_ITEMS: u8 = b'u';

    fn begin() -> Self {
        let mut out = Self(vec![0x80, 2, b'}', Self::MARK]);
        out.text("model");
        out.ordered_dict();
        out.0.push(Self::MARK);
        out
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([Self::SET_ITEMS, Self::SET_ITEMS, b'.']);
        self.0
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        // Names are far shorter than 4 GB.
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend([b')', Self::REDUCE]);
    }

    fn integer(&mut self, value: usize) {
        if let Ok(byte) = u8::try_from(value) {
            self.0.extend([b'K', byte]);
        } else if let Ok(value) = i32::try_from(value) {
            self.0.push(b'J');
            self.0.extend(value.to_le_bytes());
        } else {
            // Nine bytes, so that the highest bit is no sign.
            self.0.extend([0x8a, 9]);
            self.0.extend((value as u64).to_le_bytes());
            self.0.push(0);
        }
    }

    fn integers(&mut self, values: &[usize]) {
        self.0.push(Self::MARK);
        values.iter().for_each(|v| self.integer(*v));
        self.0.push(Self::TUPLE);
    }

    /// A row-major view of a whole storage.
    fn tensor(&mut self, class: &str, storage: usize, shape: &[usize]) {
        let elements: usize = shape.iter().product();
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.extend([Self::MARK, Self::MARK]);
        self.text("storage");
        self.global("torch", class);
        self.text(&storage.to_string());
        self.text("cpu");
        self.integer(elements);
        self.0.extend([Self::TUPLE, b'Q']);
        self.integer(0);
        self.integers(shape);
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i].max(1);
        }
        self.integers(&strides);
        // No gradient is wanted, and no hook is attached.
        self.0.push(0x89);
        self.ordered_dict();
        self.0.extend([Self::TUPLE, Self::REDUCE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_all_lengths_keep_their_sign() {
        let bytes = |v: usize| {
            let mut pickle = Pickle(Vec::new());
            pickle.integer(v);
            pickle.0
        };
        assert_eq!(bytes(255), [b'K', 255]);
        assert_eq!(bytes(256), [b'J', 0, 1, 0, 0]);
        assert_eq!(bytes(1 << 31), [0x8a, 9, 0, 0, 0, 0x80, 0, 0, 0, 0, 0]);
    }
}
