//! The queues of momentum features that serve as further negatives (paper section 3.2).

use burn::tensor::{Device, Tensor};

use crate::params::{from_vec, to_vec};

/// The id of a queue entry that belongs to no known image.
pub const NO_ID: i64 = -100;

/// Two ring buffers of features, the ids of their images, and the place of the next entry.
///
/// Entries are rows `[Q, E]`; checkpoints store them as columns.
#[derive(Clone, Debug)]
pub struct Queues {
    image: Tensor<2>,
    text: Tensor<2>,
    ids: Vec<i64>,
    ptr: usize,
}

impl Queues {
    /// Queues from rows `[Q, E]` of unit length.
    #[must_use]
    pub fn new(
        image: Vec<f32>,
        text: Vec<f32>,
        ids: Vec<i64>,
        ptr: usize,
        width: usize,
        device: &Device,
    ) -> Self {
        let shape = [ids.len(), width];
        let ptr = if ids.is_empty() { 0 } else { ptr % ids.len() };
        Self {
            image: from_vec(image, shape, device),
            text: from_vec(text, shape, device),
            ids,
            ptr,
        }
    }

    /// No entries, on the device of `others`.
    #[must_use]
    pub fn none(width: usize, others: &Self) -> Self {
        Self::new(Vec::new(), Vec::new(), Vec::new(), 0, width, &others.image.device())
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the queues hold nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Image features `[Q, E]`.
    #[must_use]
    pub fn image(&self) -> Option<Tensor<2>> {
        (!self.is_empty()).then(|| self.image.clone())
    }

    /// Text features `[Q, E]`.
    #[must_use]
    pub fn text(&self) -> Option<Tensor<2>> {
        (!self.is_empty()).then(|| self.text.clone())
    }

    /// Image id of each entry, [`NO_ID`] where unknown.
    #[must_use]
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// The place of the next entry.
    #[must_use]
    pub fn ptr(&self) -> usize {
        self.ptr
    }

    /// Rows of both queues as plain values, for a checkpoint.
    #[must_use]
    pub fn rows(&self) -> (Vec<f32>, Vec<f32>) {
        (to_vec(self.image.clone()), to_vec(self.text.clone()))
    }

    /// Writes `[B, E]` features at the pointer and moves it on; what passes the end continues at
    /// the start, so a queue need not be a multiple of the batch. A batch longer than the queue
    /// leaves its last entries.
    pub fn push(&mut self, image: Tensor<2>, text: Tensor<2>, ids: &[i64]) {
        let size = self.len();
        if size == 0 {
            return;
        }
        let [given, width] = image.dims();
        let skip = given.saturating_sub(size);
        let batch = given - skip;
        let (image, text) = (image.narrow(0, skip, batch), text.narrow(0, skip, batch));
        let mut ids: Vec<i64> = ids.iter().skip(skip).copied().collect();
        self.ptr = (self.ptr + skip) % size;
        ids.resize(batch, NO_ID);
        let head = batch.min(size - self.ptr);
        for (start, from, count) in [(self.ptr, 0, head), (0, head, batch - head)] {
            if count == 0 {
                continue;
            }
            let place = [start..start + count, 0..width];
            let write = |queue: &mut Tensor<2>, part: Tensor<2>| {
                queue.inplace(|q| q.slice_assign(place.clone(), part));
            };
            write(&mut self.image, image.clone().narrow(0, from, count));
            write(&mut self.text, text.clone().narrow(0, from, count));
            self.ids[start..start + count].copy_from_slice(&ids[from..from + count]);
        }
        self.ptr = (self.ptr + batch) % size;
    }
}
