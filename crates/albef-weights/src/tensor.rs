//! Named tensors of a file, on the host.

use std::collections::HashMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use crate::error::{Result, WeightsError};

/// Element type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Brain float.
    BF16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Byte.
    U8,
    /// Truth value, one byte.
    Bool,
    /// A type whose values are not read, by its name: the tensor is known by name and shape alone.
    Unread(&'static str),
}

impl DType {
    /// Whether its values can be read as floats.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of one element; 0 for a type that is not read.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Unread(_) => 0,
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

impl fmt::Display for DType {
    /// PyTorch's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::Bool => "bool",
            Self::Unread(name) => name,
        })
    }
}

/// Bytes that are shared, not copied: a range of a memory-mapped file, or of a buffer.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Owner>,
    range: Range<usize>,
}

/// What holds bytes.
trait Owner: Send + Sync {
    fn bytes(&self) -> &[u8];

    /// Gives back memory that can be had again.
    fn release(&self, _range: Range<usize>) {}
}

impl<T: AsRef<[u8]> + Send + Sync> Owner for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }
}

/// A mapped file. Not `AsRef`, which would make it a plain owner.
struct Mapped(Mmap);

impl Owner for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(unix)]
    fn release(&self, range: Range<usize>) {
        // SAFETY: the mapping is of a file and never written, so that its pages are read again from the
        // file when they are next looked at.
        let released = unsafe {
            self.0.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                range.start,
                range.len(),
            )
        };
        // A hint: without it the pages stay until memory is scarce.
        drop(released);
    }
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..owner.as_ref().len();
        Self { owner: Arc::new(owner), range }
    }

    /// All bytes of a mapped file.
    pub(crate) fn mapped(map: Mmap) -> Self {
        let range = 0..map.len();
        Self { owner: Arc::new(Mapped(map)), range }
    }

    /// Gives back the memory of bytes of a mapped file that are not looked at again soon; they can still be
    /// read, anew from the file.
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }

    /// A part of these bytes; `None` if `range` reaches beyond them.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let (start, end) = (range.start, range.end);
        (start <= end && end <= self.len()).then(|| Self {
            owner: self.owner.clone(),
            range: self.range.start + start..self.range.start + end,
        })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        // Tied tensors are one range of a file.
        (self.as_ptr() == other.as_ptr() && self.len() == other.len()) || **self == **other
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Bytes of a large tensor that are read at a time; a multiple of all sizes of elements and of pages.
const PART: usize = 4 << 20;

/// A tensor: little-endian bytes in row-major order. Cheap to clone.
#[derive(Clone, PartialEq, Debug)]
pub struct HostTensor {
    /// Element type.
    pub dtype: DType,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub bytes: Bytes,
}

impl HostTensor {
    /// A float tensor.
    #[must_use]
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DType::F32, shape: shape.to_vec(), bytes: bytes.into() }
    }

    /// A tensor whose values are not read.
    pub(crate) fn unread(kind: &'static str, shape: Vec<usize>) -> Self {
        Self { dtype: DType::Unread(kind), shape, bytes: Vec::new().into() }
    }

    /// An integer tensor.
    #[must_use]
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DType::I64, shape: shape.to_vec(), bytes: bytes.into() }
    }

    /// Number of elements. A tensor that is not read may have the shape of more than there can be.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |all: usize, n| all.saturating_mul(*n))
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether two tensors have the same shape and the same floats, whatever their types.
    pub(crate) fn same_values(&self, other: &Self) -> bool {
        if self.dtype == other.dtype {
            return self == other;
        }
        let values = |t: &Self| t.to_f32().ok();
        self.shape == other.shape && values(self).is_some() && values(self) == values(other)
    }

    fn parts<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> + '_ {
        self.bytes.as_chunks::<N>().0.iter().copied()
    }

    /// The elements as floats.
    ///
    /// # Errors
    /// If they are integers.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        Ok(match self.dtype {
            DType::F32 => self.parts().map(f32::from_le_bytes).collect(),
            DType::F64 => self.parts().map(|b| f64::from_le_bytes(b) as f32).collect(),
            DType::F16 => self.parts().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            DType::BF16 => self.parts().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => return Err(wrong(other, "a float type")),
        })
    }

    /// The elements in order, as flat tensors of a bounded size that share the bytes.
    pub(crate) fn in_parts(&self) -> impl Iterator<Item = Self> + '_ {
        let size = self.dtype.size().max(1);
        (0..self.bytes.len()).step_by(PART).filter_map(move |start| {
            let bytes = self.bytes.slice(start..self.bytes.len().min(start + PART))?;
            Some(Self { dtype: self.dtype, shape: vec![bytes.len() / size], bytes })
        })
    }

    /// Whether all elements are finite numbers, read part by part; true for integers.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        !self.dtype.is_float()
            || self.in_parts().all(|part| {
                let finite = part.to_f32().is_ok_and(|v| v.iter().all(|v| v.is_finite()));
                part.bytes.release();
                finite
            })
    }

    /// The elements as floats, for the last time: memory of a mapped file is given back on the way, so that
    /// a large tensor is never in memory twice. It can still be read, anew from the file.
    ///
    /// # Errors
    /// If they are integers.
    pub fn take_f32(&self) -> Result<Vec<f32>> {
        let size = self.dtype.size();
        if !self.dtype.is_float() || self.bytes.len() <= PART {
            let values = self.to_f32()?;
            self.bytes.release();
            return Ok(values);
        }
        let mut values = Vec::with_capacity(self.bytes.len() / size);
        for part in self.in_parts() {
            values.extend(part.to_f32()?);
            part.bytes.release();
        }
        Ok(values)
    }

    /// The elements as integers.
    ///
    /// # Errors
    /// If they are floats.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        Ok(match self.dtype {
            DType::I64 => self.parts().map(i64::from_le_bytes).collect(),
            DType::I32 => self.parts().map(|b| i64::from(i32::from_le_bytes(b))).collect(),
            DType::I16 => self.parts().map(|b| i64::from(i16::from_le_bytes(b))).collect(),
            DType::I8 => self.parts().map(|b| i64::from(i8::from_le_bytes(b))).collect(),
            DType::U8 | DType::Bool => self.bytes.iter().map(|b| i64::from(*b)).collect(),
            other => return Err(wrong(other, "an integer type")),
        })
    }
}

fn wrong(found: DType, expected: &'static str) -> WeightsError {
    WeightsError::Type { found: found.to_string(), expected }
}

/// Named tensors in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    entries: Vec<(String, HostTensor)>,
    place: HashMap<String, usize>,
}

impl StateDict {
    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: String, tensor: HostTensor) {
        if let Some(at) = self.place.get(&name) {
            self.entries[*at].1 = tensor;
        } else {
            self.place.insert(name.clone(), self.entries.len());
            self.entries.push((name, tensor));
        }
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.place.get(name).map(|i| &self.entries[*i].1)
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.entries.iter().map(|(n, t)| (n.as_str(), t))
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(n, _)| n.as_str())
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl FromIterator<(String, HostTensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, HostTensor)>>(items: I) -> Self {
        let mut state = Self::default();
        for (name, tensor) in items {
            state.insert(name, tensor);
        }
        state
    }
}

impl IntoIterator for StateDict {
    type Item = (String, HostTensor);
    type IntoIter = std::vec::IntoIter<Self::Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_tensor_is_read_in_parts_and_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let values: Vec<f32> = (0..(PART / 2 + 3)).map(|i| i as f32).collect();
        let plain = HostTensor::from_f32(&[values.len()], &values);
        std::fs::write(&path, &*plain.bytes).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        // SAFETY: nothing writes to the file.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        let mapped = HostTensor { bytes: Bytes::mapped(map), ..plain.clone() };
        for _ in 0..2 {
            assert_eq!(mapped.take_f32().unwrap(), values);
        }
        assert_eq!(mapped, plain);
        assert!(HostTensor::from_i64(&[1], &[1]).take_f32().is_err());
    }
}
