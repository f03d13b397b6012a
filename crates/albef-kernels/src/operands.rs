//! What products of matrices read and write, and how they are cut into tasks.

/// Where element `(i, p)` of a matrix lies: `i * row + p * column`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// What happens to a finished tile.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) gelu: bool,
    /// Added last, laid out as the result.
    pub(crate) residual: Option<&'a [f32]>,
}

impl Finish<'_> {
    pub(crate) const NOTHING: Self = Self { bias: None, gelu: false, residual: None };
}

#[derive(Clone, Copy)]
pub(crate) struct Out(pub(crate) *mut f32);
// SAFETY: tasks write disjoint rows of the result.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    pub(crate) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Into how many tasks tiles are cut: none above `largest`, and a number that a few threads share
/// evenly. The cut depends on the sizes alone, and each entry is summed by one task.
pub(crate) fn even_cut(tiles: usize, largest: usize) -> usize {
    tiles.div_ceil(largest).next_multiple_of(16).min(tiles).max(1)
}
