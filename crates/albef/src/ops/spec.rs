//! What attends to what.

use albef_kernels::{Dropout, Segment};

/// An attention over packed rows: segments of queries, each with its range of keys.
///
/// Query ranges are disjoint. Key ranges are equal or disjoint, so several texts may look at one
/// image whose keys and values exist once.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// One entry per sequence.
    pub segments: Vec<Segment>,
    /// Number of heads.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Whether key `j` of a segment is hidden from query `i < j`.
    pub causal: bool,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}

impl AttentionSpec {
    pub(crate) fn kernel(&self) -> albef_kernels::AttentionSpec<'_> {
        albef_kernels::AttentionSpec {
            segments: &self.segments,
            heads: self.heads,
            head_dim: self.head_dim,
            causal: self.causal,
            dropout: self.dropout,
        }
    }
}
