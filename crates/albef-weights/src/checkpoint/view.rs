//! From a strided view of a storage to a tensor.

use crate::pickle::View;
use crate::tensor::{Bytes, HostTensor};

/// Bytes of tensors that a file may ask for, by its own length. Views that are not row-major are
/// written out each, so a small hostile file could otherwise ask for all memory. Tied weights double a
/// checkpoint at most.
const PER_BYTE: usize = 4;
/// Bytes of tensors that any file may ask for.
const FLOOR: usize = 64 << 20;
/// Bytes that views may stand for beyond their storages, by repeating elements (strides of 0).
const REPEATED: usize = 1 << 20;

/// Bytes that may still be taken.
pub(super) struct Budget {
    left: usize,
    repeated: usize,
    file: usize,
}

impl Budget {
    pub(super) fn of(file: &[u8]) -> Self {
        let file = file.len();
        Self { left: file.saturating_mul(PER_BYTE).max(FLOOR), repeated: REPEATED, file }
    }

    /// Takes bytes that are written out.
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

    fn repeat(&mut self, bytes: usize, storage: usize) -> Result<(), String> {
        self.repeated = self.repeated.checked_sub(bytes).ok_or_else(|| {
            format!(
                "it stands for {bytes} bytes by repeating the {storage} bytes of its storage (strides \
                 of 0), and all such tensors of a file may take {REPEATED}; hint: save a contiguous \
                 copy, or leave it out"
            )
        })?;
        Ok(())
    }
}

/// A view in row-major order: a part of its storage, or a copy where its elements are not neighbors.
pub(super) fn gather(
    view: &View,
    storage: &Bytes,
    budget: &mut Budget,
) -> Result<HostTensor, String> {
    let size = view.dtype.size();
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
        if length > storage.len() {
            budget.repeat(length, storage.len())?;
        }
        budget.take(length)?;
        strided(view, storage, length).into()
    };
    Ok(HostTensor { dtype: view.dtype, shape: view.shape.clone(), bytes })
}

/// Whether the elements of a view are neighbors.
fn is_row_major(view: &View) -> bool {
    let mut step = 1;
    view.shape.iter().zip(&view.stride).rev().all(|(d, s)| {
        let fits = *d == 1 || *s == step;
        step *= d;
        fits
    })
}

/// The `length` bytes of a view that is known to be inside its storage.
fn strided(view: &View, storage: &[u8], length: usize) -> Vec<u8> {
    let size = view.dtype.size();
    // Axes of one place do nothing, and there may be many of them.
    let axes: Vec<(usize, usize)> = view
        .shape
        .iter()
        .zip(&view.stride)
        .filter(|(d, _)| **d > 1)
        .map(|(d, s)| (*d, *s))
        .collect();
    let mut bytes = Vec::with_capacity(length);
    let (mut index, mut at) = (vec![0; axes.len()], view.offset);
    for _ in 0..length / size {
        bytes.extend_from_slice(&storage[at * size..(at + 1) * size]);
        for (i, (d, s)) in index.iter_mut().zip(&axes).rev() {
            *i += 1;
            at += s;
            if *i < *d {
                break;
            }
            at -= *i * s;
            *i = 0;
        }
    }
    bytes
}
