//! One product of matrices for all uses: `C = A B`, `A` with any strides, `B` packed in panels of
//! 32 columns.
//!
//! The AVX-512 kernel keeps 14 rows by 32 columns of the result in registers. Other processors use
//! the `gemm` crate on the unpacked matrices.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::bf16::{self, Precision, bf16_unit};
use crate::isa::{Isa, detected};

/// Columns of a panel.
pub(crate) const NR: usize = 32;
/// Rows of a register tile.
const MR: usize = 14;
/// Length of the inner dimension handled at a time.
const KC: usize = 512;

/// Where element `(i, p)` of a matrix lies: `i * row + p * column`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// The right-hand matrix `[k, n]`.
pub(crate) enum Right<'a> {
    /// In panels `[n / 32][k][32]`, columns beyond `n` zero.
    Panels(Vec<f32>),
    /// Rounded to bf16.
    Pairs(bf16::Panels),
    /// As it lies.
    Plain(Strided<'a>),
}

impl<'a> Right<'a> {
    /// Prepares `b`, whose element `(p, j)` lies at `p * row + j * column`.
    pub(crate) fn new(b: Strided<'a>, k: usize, n: usize, precision: Precision) -> Self {
        if precision == Precision::Bf16 && bf16_unit().is_some() && k > 0 && n > 0 {
            assert!(reach(k, n, &b), "product: the right matrix is too short");
            return Self::Pairs(bf16::Panels::new(b, k, n));
        }
        if detected() != Isa::Avx512 {
            return Self::Plain(b);
        }
        let panels = n.div_ceil(NR);
        let mut data = vec![0.0; panels * k * NR];
        let pack = |(j, panel): (usize, &mut [f32])| {
            let (first, columns) = (j * NR, NR.min(n - j * NR));
            if b.column == 1 {
                for (p, out) in panel.chunks_mut(NR).enumerate() {
                    let start = p * b.row + first;
                    out[..columns].copy_from_slice(&b.data[start..start + columns]);
                }
            } else {
                #[cfg(target_arch = "x86_64")]
                if b.row == 1 && columns == NR {
                    let lines = &b.data[first * b.column..];
                    // SAFETY: AVX-512 was found.
                    return unsafe { avx512::panel_turned(lines, b.column, k, panel) };
                }
                pack_transposed(b, first, columns, k, panel);
            }
        };
        if k * n < 1 << 15 {
            data.chunks_mut((k * NR).max(1)).enumerate().for_each(pack);
        } else {
            data.par_chunks_mut((k * NR).max(1)).enumerate().for_each(pack);
        }
        Self::Panels(data)
    }
}

/// Packs columns that lie as rows, in blocks that stay in the cache.
fn pack_transposed(b: Strided<'_>, first: usize, columns: usize, k: usize, panel: &mut [f32]) {
    for start in (0..k).step_by(16) {
        let end = (start + 16).min(k);
        for c in 0..columns {
            let source = (first + c) * b.column;
            for p in start..end {
                panel[p * NR + c] = b.data[source + p * b.row];
            }
        }
    }
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

fn reach(rows: usize, columns: usize, s: &Strided<'_>) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * s.row + (columns - 1) * s.column < s.data.len()
}

/// `c[m][n] = finish(a[m][k] b[k][n])`.
pub(crate) fn multiply(
    a: Strided<'_>,
    b: &Right<'_>,
    [m, n, k]: [usize; 3],
    finish: Finish<'_>,
    c: &mut [f32],
) {
    assert!(c.len() >= m * n, "product: result of {} for {m} x {n}", c.len());
    if m == 0 || n == 0 {
        return;
    }
    assert!(reach(m, k, &a), "product: the left matrix is too short");
    for (length, what) in [
        (finish.bias.map_or(n, <[f32]>::len), "bias"),
        (finish.residual.map_or(m * n, <[f32]>::len) / m, "residual"),
    ] {
        assert!(length >= n, "product: {what} too short");
    }
    match b {
        Right::Pairs(panels) => bf16::multiply(a, panels, [m, n, k], finish, c),
        Right::Plain(b) => {
            assert!(reach(k, n, b), "product: the right matrix is too short");
            plain(a, *b, [m, n, k], c);
            finish_rows(finish, n, &mut c[..m * n]);
        }
        #[cfg(target_arch = "x86_64")]
        Right::Panels(panels) => {
            assert!(panels.len() >= n.div_ceil(NR) * k * NR, "product: panels too short");
            let tiles = m.div_ceil(MR);
            let tasks = if m * n * k < 1 << 20 { 1 } else { even_cut(tiles, 16) };
            let out = Out(c.as_mut_ptr());
            let task = |t: usize| {
                let range = (t * tiles / tasks, (t + 1) * tiles / tasks);
                // SAFETY: AVX-512 was found, lengths were checked above, and tasks write
                // disjoint rows.
                unsafe { avx512::rows(a, panels, [m, n, k], finish, out, range) }
            };
            if tasks == 1 { task(0) } else { (0..tasks).into_par_iter().for_each(task) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Right::Panels(_) => unreachable!("panels are packed for AVX-512 only"),
    }
}

/// The product by the `gemm` crate, in fixed blocks of rows.
fn plain(a: Strided<'_>, b: Strided<'_>, [m, n, k]: [usize; 3], c: &mut [f32]) {
    let block = 64;
    c[..m * n].par_chunks_mut(block * n).enumerate().for_each(|(i, c)| {
        let rows = c.len() / n;
        let start = i * block * a.row;
        // SAFETY: the reach of both matrices was checked, and `c` holds `rows * n` values.
        unsafe {
            gemm::gemm(
                rows,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.data.as_ptr().add(start),
                a.column as isize,
                a.row as isize,
                b.data.as_ptr(),
                b.column as isize,
                b.row as isize,
                0.0_f32,
                1.0_f32,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

fn finish_rows(finish: Finish<'_>, n: usize, c: &mut [f32]) {
    c.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        if let Some(bias) = finish.bias {
            row.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
        }
        if finish.gelu {
            row.iter_mut().for_each(|c| *c = crate::elementwise::gelu_of(*c));
        }
        if let Some(residual) = finish.residual {
            row.iter_mut().zip(&residual[i * n..]).for_each(|(c, r)| *c += r);
        }
    });
}

thread_local! {
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Finish, KC, MR, NR, Out, PACKED, Strided};
    use crate::transpose::transposed;

    /// Row tiles `tiles.0 .. tiles.1` of the product.
    ///
    /// # Safety
    /// AVX-512 must be at hand, and all lengths as `multiply` checks them.
    pub(super) unsafe fn rows(
        a: Strided<'_>,
        panels: &[f32],
        [m, n, k]: [usize; 3],
        finish: Finish<'_>,
        out: Out,
        tiles: (usize, usize),
    ) {
        PACKED.with_borrow_mut(|buffer| {
            let count = tiles.1 - tiles.0;
            buffer.resize((count * k * MR).max(buffer.len()), 0.0);
            for t in 0..count {
                pack(a, (tiles.0 + t) * MR, m, k, &mut buffer[t * k * MR..(t + 1) * k * MR]);
            }
            let blocks = k.div_ceil(KC).max(1);
            let kc = k.div_ceil(blocks);
            let column_panels = n.div_ceil(NR);
            // Panels of the right matrix that stay in the second-level cache.
            let group = (256 * 1024 / (kc.max(1) * NR * 4)).max(1);
            for j0 in (0..column_panels).step_by(group) {
                for block in 0..blocks {
                    let (k0, k1) = (block * kc, ((block + 1) * kc).min(k));
                    for t in 0..count {
                        let i0 = (tiles.0 + t) * MR;
                        for j in j0..(j0 + group).min(column_panels) {
                            let part = Part {
                                k: k1 - k0,
                                a: buffer[(t * k + k0) * MR..].as_ptr(),
                                b: panels[(j * k + k0) * NR..].as_ptr(),
                                rows: MR.min(m - i0),
                                columns: NR.min(n - j * NR),
                                at: i0 * n + j * NR,
                                n,
                                first: block == 0,
                                last: block + 1 == blocks,
                                column: j * NR,
                            };
                            // SAFETY: all pointers reach `k` rows of their panel, and the tile
                            // lies inside the result.
                            unsafe { tile(&part, finish, out) };
                        }
                    }
                }
            }
        });
    }

    fn pack(a: Strided<'_>, i0: usize, m: usize, k: usize, out: &mut [f32]) {
        let rows = MR.min(m - i0);
        if a.row == 1 {
            // Rows lie side by side: copy across.
            for (p, out) in out.chunks_mut(MR).enumerate().take(k) {
                let start = i0 + p * a.column;
                out[..rows].copy_from_slice(&a.data[start..start + rows]);
                out[rows..].fill(0.0);
            }
            return;
        }
        if rows < MR {
            out.fill(0.0);
        }
        let mut done = 0;
        if a.column == 1 && rows == MR {
            // SAFETY: this is called where AVX-512 is at hand.
            done = unsafe { pack_turned(&a.data[i0 * a.row..], a.row, k, out) };
        }
        for i in 0..rows {
            let start = (i0 + i) * a.row;
            for p in done..k {
                out[p * MR + i] = a.data[start + p * a.column];
            }
        }
    }

    /// Packs 14 whole rows, 16 columns at a time; gives the number of columns packed.
    ///
    /// # Safety
    /// AVX-512 must be at hand.
    #[target_feature(enable = "avx512f")]
    unsafe fn pack_turned(a: &[f32], distance: usize, k: usize, out: &mut [f32]) -> usize {
        // Whole lines of 16 are stored, each over the excess of the one before: one line is left.
        let whole = k.saturating_sub(1) / 16 * 16;
        assert!(out.len() >= k * MR && a.len() >= (MR - 1) * distance + k, "rows to pack");
        for p0 in (0..whole).step_by(16) {
            // SAFETY: 14 rows of `k` columns and as many packed ones exist, and at least one column
            // follows these 16.
            unsafe {
                let lines = std::array::from_fn(|i| {
                    let row = i.min(MR - 1) * distance + p0;
                    _mm512_loadu_si512(a.as_ptr().add(row).cast())
                });
                for (p, line) in transposed(lines).into_iter().enumerate() {
                    _mm512_storeu_si512(out.as_mut_ptr().add((p0 + p) * MR).cast(), line);
                }
            }
        }
        whole
    }

    /// Packs 32 columns of the right matrix that lie as rows.
    ///
    /// # Safety
    /// AVX-512 must be at hand.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn panel_turned(b: &[f32], distance: usize, k: usize, out: &mut [f32]) {
        assert!(out.len() >= k * NR && b.len() >= (NR - 1) * distance + k, "columns to pack");
        let whole = k / 16 * 16;
        for p0 in (0..whole).step_by(16) {
            for half in [0, 16] {
                // SAFETY: 32 lines of `k` values and as many packed ones exist.
                unsafe {
                    let lines = std::array::from_fn(|i| {
                        _mm512_loadu_si512(b.as_ptr().add((half + i) * distance + p0).cast())
                    });
                    for (p, line) in transposed(lines).into_iter().enumerate() {
                        let to = out.as_mut_ptr().add((p0 + p) * NR + half);
                        _mm512_storeu_si512(to.cast(), line);
                    }
                }
            }
        }
        for p in whole..k {
            for c in 0..NR {
                out[p * NR + c] = b[c * distance + p];
            }
        }
    }

    struct Part {
        k: usize,
        a: *const f32,
        b: *const f32,
        rows: usize,
        columns: usize,
        at: usize,
        n: usize,
        first: bool,
        last: bool,
        column: usize,
    }

    /// The product of one packed row panel and one packed column panel.
    ///
    /// # Safety
    /// `a` must reach `k * 14` values and `b` `k * 32`.
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    unsafe fn product(k: usize, mut a: *const f32, mut b: *const f32) -> [[__m512; 2]; MR] {
        let mut sum = [[_mm512_setzero_ps(); 2]; MR];
        // SAFETY: the caller vouches for both panels.
        unsafe {
            for _ in 0..k {
                let b0 = _mm512_loadu_ps(b);
                let b1 = _mm512_loadu_ps(b.add(16));
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(NR * 8).cast());
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(NR * 8 + 16).cast());
                for (i, sum) in sum.iter_mut().enumerate() {
                    let v = _mm512_set1_ps(*a.add(i));
                    sum[0] = _mm512_fmadd_ps(v, b0, sum[0]);
                    sum[1] = _mm512_fmadd_ps(v, b1, sum[1]);
                }
                a = a.add(MR);
                b = b.add(NR);
            }
        }
        sum
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn tile(part: &Part, finish: Finish<'_>, out: Out) {
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let sum = product(part.k, part.a, part.b);
            for half in 0..2 {
                let columns = part.columns.saturating_sub(half * 16).min(16);
                if columns == 0 {
                    continue;
                }
                let mask = if columns == 16 { 0xffff } else { (1_u16 << columns) - 1 };
                let offset = part.column + half * 16;
                let bias = match finish.bias.filter(|_| part.last) {
                    Some(bias) => _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(offset)),
                    None => _mm512_setzero_ps(),
                };
                for (i, sum) in sum.iter().enumerate().take(part.rows) {
                    let place = part.at + i * part.n + half * 16;
                    let c = out.at(place);
                    let mut v = sum[half];
                    if !part.first {
                        v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, c));
                    }
                    if part.last {
                        v = _mm512_add_ps(v, bias);
                        if finish.gelu {
                            v = gelu(v);
                        }
                        if let Some(r) = finish.residual {
                            let r = _mm512_maskz_loadu_ps(mask, r.as_ptr().add(place));
                            v = _mm512_add_ps(v, r);
                        }
                    }
                    _mm512_mask_storeu_ps(c, mask, v);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn gelu(v: __m512) -> __m512 {
        let mut values = [0.0_f32; 16];
        // SAFETY: the array holds 16 values.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), v) };
        for value in &mut values {
            *value = crate::elementwise::gelu_of(*value);
        }
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }
}
