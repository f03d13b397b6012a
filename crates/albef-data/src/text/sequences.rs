//! Packed batches of texts: rows of all sequences one after another, no padding between.

use std::ops::Range;

/// Where a sequence lies in the packed rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// First row.
    pub start: usize,
    /// Rows of the sequence.
    pub rows: usize,
    /// Leading rows that others may attend to; fewer than `rows` only if padding is carried along.
    pub visible: usize,
}

impl Sequence {
    /// The rows.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.rows
    }
}

/// A batch of token sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Word piece of each row.
    pub ids: Vec<u32>,
    /// The sequences, in order.
    pub sequences: Vec<Sequence>,
}

impl TokenBatch {
    /// Packs sequences of different lengths without padding.
    #[must_use]
    pub fn packed<T: AsRef<[u32]>>(texts: &[T]) -> Self {
        let mut batch = Self::default();
        for text in texts {
            let text = text.as_ref();
            let start = batch.ids.len();
            batch.sequences.push(Sequence { start, rows: text.len(), visible: text.len() });
            batch.ids.extend_from_slice(text);
        }
        batch
    }

    /// Keeps the padding as rows that nobody attends to, as the official code does; `lengths[b]`
    /// rows of each sequence of `width` are visible.
    #[must_use]
    pub fn padded(ids: &[u32], width: usize, lengths: &[usize]) -> Self {
        let sequences = lengths
            .iter()
            .enumerate()
            .map(|(b, visible)| Sequence { start: b * width, rows: width, visible: *visible })
            .collect();
        Self { ids: ids.to_vec(), sequences }
    }

    /// The same with every sequence filled up with `pad` to the rows of the longest.
    #[must_use]
    pub fn filled(&self, pad: u32) -> Self {
        let width = self.sequences.iter().map(|s| s.rows).max().unwrap_or(0);
        let lengths: Vec<usize> = self.sequences.iter().map(|s| s.visible).collect();
        let mut ids = Vec::with_capacity(width * self.len());
        for s in &self.sequences {
            ids.extend_from_slice(&self.ids[s.range()]);
            ids.resize(ids.len() + width - s.rows, pad);
        }
        Self::padded(&ids, width, &lengths)
    }

    /// Number of sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there is no sequence.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The first row of each sequence, where `[CLS]` stands.
    #[must_use]
    pub fn class_rows(&self) -> Vec<usize> {
        self.sequences.iter().map(|s| s.start).collect()
    }

    /// The position of each row in its sequence.
    #[must_use]
    pub fn positions(&self) -> Vec<usize> {
        self.sequences.iter().flat_map(|s| 0..s.rows).collect()
    }
}
